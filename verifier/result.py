"""The shared words: verdicts, the result of a run, and every error a user can meet.

Error tree (exit status in brackets; anything outside the tree is our own bug, exit 3):

    VerifierError
    ├── InputError [2]            the user's files or words
    │   ├── UsageError            wrong command line or setting
    │   ├── FileError             missing, unreadable, truncated
    │   ├── PropertyError         VNN-LIB: syntax or meaning, with file:line:column
    │   ├── ModelError            ONNX: corrupt, not runnable
    │   │   └── UnsupportedError  operators we do not know, all of them at once
    │   └── MismatchError         property and model do not fit
    └── Undecided                 no verdict could be reached: ends as `unknown` with its text as the reason
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import Enum
from typing import Any


class VerifierError(Exception):
    """Root of the tree. The message is one line that names file, place and way out."""


class InputError(VerifierError):
    """The user's files or words are at fault: one line on standard error, exit status 2."""


class UsageError(InputError):
    """A wrong command line or setting."""


class FileError(InputError):
    """A file that is missing, unreadable or truncated."""


class PropertyError(InputError):
    """A property that cannot be read. `where` is `file:line:column` as far as known."""

    def __init__(self, message: str, where: str = ""):
        super().__init__(f"{where}: {message}" if where else message)
        self.where = where


class ModelError(InputError):
    """A model that cannot be read or run."""


class UnsupportedError(ModelError):
    """Operators without an implementation; `nodes` holds (node name, operator, opset, output shape) of each, `why` what
    is missing of each, where that is known.
    """

    def __init__(self, path: str, nodes: list[tuple[str, str, int, Any]], why: Sequence[str] = ()):
        self.nodes, self.why = nodes, tuple(why) or ("",) * len(nodes)
        places = [f"{op} (opset {v}) at node {name!r}, output shape {shape}" for name, op, v, shape in nodes]
        listed = "; ".join(f"{place}: {why}" if why else place for place, why in zip(places, self.why))
        super().__init__(f"{path}: {len(nodes)} unsupported operator(s): {listed}")


class MismatchError(InputError):
    """A property whose variables do not fit the model."""


class Undecided(VerifierError):
    """No verdict can be reached by the methods at hand; the message is the reason given with `unknown`."""


class Verdict(str, Enum):
    """What can be said of the property's negation: satisfiable, unsatisfiable, or not decided."""

    SAT = "sat"
    UNSAT = "unsat"
    UNKNOWN = "unknown"
    TIMEOUT = "timeout"

    def __str__(self) -> str:
        return self.value


@dataclass(frozen=True)
class Witness:
    """A counterexample as it is printed: `x` (n_inputs,) and `y` (n_outputs,) float64; y is ONNX Runtime's answer on x.

    Every entry of `x` lies in the property's box, and the model's own element type of it is the value that was
    replayed.
    """

    x: Any
    y: Any


@dataclass(frozen=True)
class Result:
    """The answer to one query. `reason` says in one line how it came about, or why it did not."""

    verdict: Verdict
    reason: str
    witness: Witness | None = None
    seconds: dict[str, float] = field(default_factory=dict)  # stage -> seconds
    stats: dict[str, Any] = field(default_factory=dict)  # nodes visited, bounds at the root, …
    plan: tuple[str, ...] = ()
