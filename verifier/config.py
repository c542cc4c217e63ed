"""Settings: one tree of frozen dataclasses, its defaults good for everything. Imports no torch.

Every setting is a field with a default and metadata: `help`, `basic` (the ten or so that a user may want to change),
and `low`/`high` or `choices`. `verifier.settings` turns a YAML file and `--set key=value` words into a `Config`; here
is only what there is to set.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any


def setting(
    default: Any,
    help: str,
    *,
    basic: bool = False,
    low: float | None = None,
    high: float | None = None,
    choices: tuple[str, ...] = (),
) -> Any:
    """A dataclass field that carries what a user must know about it."""
    return field(default=default, metadata={"help": help, "basic": basic, "low": low, "high": high, "choices": choices})


@dataclass(frozen=True)
class BoundsConfig:
    """How outputs are bounded."""

    method: str = setting(
        "auto",
        "bounding method; auto starts with crown and takes forward where that is slow and forward pays",
        basic=True,
        choices=("auto", "crown", "forward", "interval"),
    )
    chunk_mib: float = setting(0.0, "working set of one bounding call in MiB; 0 fits it to the device", low=0.0)


@dataclass(frozen=True)
class BranchingConfig:
    """How a domain is split."""

    method: str = setting("sensitivity", "branching heuristic", basic=True, choices=("sensitivity", "widest"))
    neurons: str = setting(
        "kfsb", "heuristic that picks the neuron to split", choices=("babsr", "bbps", "gap", "kfsb", "local")
    )
    points: str = setting(
        "auto",
        "where curved functions are split: at points that leave the least gap (tables), at the middle, or by tables "
        "only where a function bends one way or has a pole",
        choices=("auto", "tables", "middle"),
    )
    curves: bool = setting(True, "whether functions that are not piecewise linear are split as well")
    cache: bool = setting(True, "keep tables that had to be made in the user's cache folder (--no-cache: do not)")


@dataclass(frozen=True)
class SearchConfig:
    """The branch-and-bound loop."""

    split: str = setting(
        "auto",
        "what is split: input dimensions, neurons at their kinks, or what the problem's size suggests",
        basic=True,
        choices=("auto", "input", "neurons"),
    )
    batch: int = setting(4096, "domains bounded in one round", basic=True, low=1)
    memory_gib: float = setting(
        0.0, "memory the search may take in GiB; 0 takes half of what the device has free", basic=True, low=0.0
    )
    clauses: bool = setting(True, "learn from refuted cases which splits refute others (splitting neurons)")
    refine: bool = setting(True, "branch on the bounds of values between when the search stalls (splitting neurons)")
    max_rounds: int = setting(
        0, "stop as unknown after so many rounds, 1 for bounds at the root alone; 0 means no limit", low=0
    )


@dataclass(frozen=True)
class ClipConfig:
    """Half-spaces that cut domains and sharpen bounds."""

    method: str = setting(
        "all",
        "clips boxes after bounding (relaxed), children too (reordered), and bounds as well, by the newest planes "
        "(complete) or by all of the path (all); the last two tighten neurons' intervals where neurons are split",
        choices=("none", "relaxed", "reordered", "complete", "all"),
    )
    planes: int = setting(8, "half-spaces kept per domain", low=1)


@dataclass(frozen=True)
class AttackConfig:
    """The search for counterexamples by gradients and sampling."""

    method: str = setting(
        "pgd", "attack; none leaves it to the search's own candidates", basic=True, choices=("pgd", "none")
    )
    restarts: int = setting(256, "starting points attacked at once", low=1)
    steps: int = setting(40, "gradient steps of one attack", low=1)
    share: float = setting(0.15, "share of the time that attacks may take beside the search", low=0.0, high=1.0)


@dataclass(frozen=True)
class Config:
    """Everything that can be set. Passed on by value; nothing else configures the verifier."""

    timeout: float = setting(300.0, "seconds from process start until the answer is out", basic=True, low=0.0)
    device: str = setting(
        "auto", "where to compute; auto takes a GPU if there is one", basic=True, choices=("auto", "cpu", "cuda")
    )
    precision: str = setting(
        "auto",
        "working precision; auto starts in float32 and turns to float64 where margins need it",
        basic=True,
        choices=("auto", "float32", "float64"),
    )
    seed: int = setting(0, "seed of every random choice", basic=True, low=0)
    threads: int = setting(0, "CPU threads; 0 uses what the system offers", basic=True, low=0)
    bounds: BoundsConfig = field(default_factory=BoundsConfig)
    branching: BranchingConfig = field(default_factory=BranchingConfig)
    search: SearchConfig = field(default_factory=SearchConfig)
    clip: ClipConfig = field(default_factory=ClipConfig)
    attack: AttackConfig = field(default_factory=AttackConfig)
