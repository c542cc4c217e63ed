"""Settings: one tree of frozen dataclasses, its defaults good for everything. Imports no torch.

Every setting is a field with a default and metadata: `help`, `basic` (the ten or so that a user may want to change),
and `low`/`high` or `choices`, which hold for a `Config` made in Python as they do for files and words.
`verifier.settings` turns a YAML file and `--set key=value` words into a `Config`; here is what there is to set.
"""

from __future__ import annotations

from dataclasses import dataclass, field, fields, is_dataclass
from functools import lru_cache
from numbers import Real
from typing import Any, get_type_hints

from verifier.result import UsageError


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
class Setting:
    """One setting as a person sees it: its dotted name, what it may be (numbers: finite) and what it is by default."""

    name: str
    kind: type
    default: Any
    help: str
    basic: bool
    low: float | None
    high: float | None
    choices: tuple[str, ...]

    def allowed(self) -> str:
        """In words, what the setting may be."""
        if self.choices:
            return "one of " + ", ".join(self.choices)
        word = {int: "a whole number", float: "a number", bool: "true or false", str: "a word"}[self.kind]
        if self.low is not None and self.high is not None:
            return f"{word} from {self.low:g} to {self.high:g}"
        return word + (f" of at least {self.low:g}" if self.low is not None else "")

    def check(self, value: Any, where: str) -> Any:
        """`value` in the setting's own type, or a UsageError that says what is allowed."""
        read = _number(value, self.kind) if isinstance(value, Real) and not isinstance(value, bool) else value
        if self.kind is str and type(value) is int and not self.choices:
            read = str(value)  # names of tensors may be numbers
        fits = type(read) is self.kind
        if fits and self.choices:
            fits = read in self.choices
        if fits and self.low is not None:
            fits = read >= self.low
        if fits and self.high is not None:
            fits = read <= self.high
        if not fits:
            raise UsageError(f"{where}: {self.name} must be {self.allowed()}, not {value!r}")
        return read


def _number(value: Any, kind: type) -> Any:
    """A finite number as `kind` where that loses nothing (1e3 is a whole number too); None for any other."""
    try:
        whole = int(value)
        return float(value) if kind is float else whole if whole == value else None
    except (OverflowError, ValueError):  # infinite, not a number, or beyond the floats
        return None


class Group:
    """What every class of settings is: no instance holds a value that a file could not have set.

    The group `XConfig` is the field `x` of `Config`.
    """

    def __post_init__(self) -> None:
        """Raises UsageError naming the setting; numbers become those of the field's own type."""
        for f in fields(self):  # type: ignore[arg-type]
            value, where = getattr(self, f.name), type(self).__name__
            kind = _kinds(type(self))[f.name]
            if is_dataclass(kind):
                if not isinstance(value, kind):
                    raise UsageError(f"{where}: {f.name} must be of class {kind.__name__}, not {value!r}")
            else:
                object.__setattr__(self, f.name, setting_of(type(self), f.name).check(value, where))


_kinds = lru_cache(maxsize=None)(get_type_hints)


@lru_cache(maxsize=None)
def setting_of(group: type, name: str) -> Setting:
    """The setting that the field `name` of a group, or of `Config`, is."""
    f = next(f for f in fields(group) if f.name == name)
    prefix = "" if group is Config else group.__name__.removesuffix("Config").lower() + "."
    m = f.metadata
    return Setting(
        prefix + name, _kinds(group)[name], f.default, m["help"], m["basic"], m["low"], m["high"], m["choices"]
    )


@dataclass(frozen=True)
class ModelConfig(Group):
    """What is to be known of a model beyond its file."""

    outputs: str = setting(
        "", "tensors that are taken for the model's outputs, in this order, as in logits or a,b (--output)"
    )

    input_shapes: str = setting(
        "", "shapes of inputs whose dimensions the file leaves open, as in x=1,16,4;y=2 (--input-shape)"
    )


@dataclass(frozen=True)
class BoundsConfig(Group):
    """How outputs are bounded."""

    method: str = setting(
        "auto",
        "bounding method; auto starts with crown and takes forward where that is slow and forward pays",
        basic=True,
        choices=("auto", "crown", "forward", "interval"),
    )
    chunk_mib: float = setting(0.0, "working set of one bounding call in MiB; 0 fits it to the device", low=0.0)


@dataclass(frozen=True)
class BranchingConfig(Group):
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
class SearchConfig(Group):
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
class ClipConfig(Group):
    """Half-spaces that cut domains and sharpen bounds."""

    method: str = setting(
        "all",
        "clips boxes after bounding (relaxed), children too (reordered), and bounds as well, by the newest planes "
        "(complete) or by all of the path (all); the last two tighten neurons' intervals where neurons are split",
        choices=("none", "relaxed", "reordered", "complete", "all"),
    )
    planes: int = setting(8, "half-spaces kept per domain", low=1)


@dataclass(frozen=True)
class AttackConfig(Group):
    """The search for counterexamples by gradients and sampling."""

    method: str = setting(
        "pgd", "attack; none leaves it to the search's own candidates", basic=True, choices=("pgd", "none")
    )
    restarts: int = setting(256, "starting points attacked at once", low=1)
    steps: int = setting(40, "gradient steps of one attack", low=1)
    share: float = setting(0.15, "share of the time that attacks may take beside the search", low=0.0, high=1.0)


@dataclass(frozen=True)
class SpecConfig(Group):
    """What the property asks."""

    reading: str = setting(
        "auto",
        "what counts as a counterexample: outputs of ONNX Runtime compared exactly with the numbers as written (auto); "
        "the same, unless the property is proved over the real numbers (real); comparisons in the model's own element "
        "type, as competitions judge (float)",
        choices=("auto", "real", "float"),
    )


@dataclass(frozen=True)
class Config(Group):
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
    seed: int = setting(0, "seed of every random choice", basic=True, low=0, high=1e18)
    threads: int = setting(0, "CPU threads; 0 uses what the system offers", basic=True, low=0, high=1024)
    model: ModelConfig = field(default_factory=ModelConfig)
    bounds: BoundsConfig = field(default_factory=BoundsConfig)
    branching: BranchingConfig = field(default_factory=BranchingConfig)
    search: SearchConfig = field(default_factory=SearchConfig)
    clip: ClipConfig = field(default_factory=ClipConfig)
    attack: AttackConfig = field(default_factory=AttackConfig)
    spec: SpecConfig = field(default_factory=SpecConfig)
