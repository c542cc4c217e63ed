"""Every `sat` is replayed: a candidate runs in ONNX Runtime on the model's original bytes, at zero tolerance.

A solver computes with its own reading of the model, in its own order of summation. A counterexample counts only if it
is one for the model that the user has: its file, run by ONNX Runtime on one CPU thread, on the numbers that are
printed.

What is printed and what is run. The printed x (float64) lies in the property's box; the model receives x rounded to
its own element type. `Replayer` prefers points where both are the same number: a coordinate goes to the nearest value
of the model's type *inside* the box. Some boxes hold no such value ([0.1, 0.1] in float32), and some counterexamples
sit on a corner that only rounding reaches; so the clipped candidate itself is tried as well, with the model receiving
its rounding, which is what any checker does with the printed decimal. Of integers and truth values there is nothing to
round: only numbers of the type are inputs of the model (`verifier.elements`), here as where boxes are made. Outputs are
ONNX Runtime's, and `verifier.spec.evaluate` judges both by the property's text. A near miss is no counterexample.

Symbols: N points, n inputs, p outputs.
"""

from __future__ import annotations

from collections.abc import Callable
from copy import copy
from dataclasses import dataclass
from typing import Any

import numpy as np

from verifier.elements import element_types, inward
from verifier.net.graph import Network
from verifier.net.runtime import run_session
from verifier.result import MismatchError, ModelError, Witness
from verifier.spec.evaluate import Judge, Reading
from verifier.spec.query import Query

CHUNK = 1 << 22  # entries of region tables looked at in one piece


@dataclass(frozen=True)
class Judgement:
    """What a replay found: the model's outputs y (p,), and what is wrong with (x, y), '' where it satisfies the
    property.
    """

    y: np.ndarray
    wrong: str


class Replayer:
    """`replayer(x)` is the counterexample near x, or None. The ONNX Runtime session is made on first use, and kept."""

    def __init__(
        self,
        model_bytes: bytes | Callable[[], bytes],
        network: Network,
        query: Query,
        reading: Reading | None = None,
        disproved: Callable[[np.ndarray], bool] | None = None,
    ):
        """`model_bytes` is the file's content, or a function that reads it when the first candidate comes.

        `reading`: what a witness needs. `disproved`, asked where proofs outweigh witnesses: whether the property is
        proved not to hold of the network at a point (n,) over the reals.
        """
        self.model_bytes, self.network, self.query = model_bytes, network, query
        self.reading = reading or Reading.of("auto")
        self.disproved = disproved
        self.judged_by = Judge(query.text, query.n_inputs, query.n_outputs)
        self.kinds = element_types(network.inputs)
        self._session: Any = None
        self._kinds: list[tuple[int, np.dtype]] = []  # of the outputs, once seen
        self.calls = 0
        alive = ~query.empty
        self.lower, self.upper = query.lower[alive], query.upper[alive]

    def __call__(self, x: np.ndarray) -> Witness | None:
        """x (n,) float64, nearly in the box, to the genuine counterexample at or next to it, if there is one."""
        for point in self.nearby(x):
            y = self.run(point)
            if self.accepts(point[None], y[None])[0]:
                return Witness(point, y)
        return None

    def nearby(self, x: np.ndarray) -> list[np.ndarray]:
        """The points (n,) of the nearest box to be tried for x; see the file's head."""
        x = np.asarray(x, np.float64).reshape(-1)
        if not len(self.lower) or not np.isfinite(x).all():
            return []
        l, u = self._region(x)
        clipped = np.clip(x, l, u)
        inside = self._representable(clipped, l, u)
        return [inside] if np.array_equal(inside, clipped) else [inside, clipped]

    def accepts(self, x: np.ndarray, y: np.ndarray) -> np.ndarray:
        """(N,) bool: which points x (N, n) with the runtime's outputs y (N, p) are witnesses under the reading."""
        good = self.satisfies(x, y)
        if self.reading.proof_wins and self.disproved is not None:
            for i in np.flatnonzero(good).tolist():
                good[i] = not self.disproved(x[i])
        return good

    def satisfies(self, x: np.ndarray, y: np.ndarray) -> np.ndarray:
        """(N,) bool: as `accepts`, whatever may be proved."""
        return self.judged_by.holds(x, y, self.reading, self.types()) & ~self._strange(x).any(1)

    def _strange(self, x: np.ndarray) -> np.ndarray:
        """(N, n) bool: where points (N, n) have something else than a whole number of an integer input's type."""
        least, most = inward(np.full((1, x.shape[1]), -np.inf), np.full((1, x.shape[1]), np.inf), *self.kinds)
        return np.isfinite(least) & ((x < least) | (x > most) | (x != np.round(x)))

    def types(self) -> list[tuple[int, np.dtype]]:
        """How many entries of which type the model's inputs and outputs have."""
        return [(t.size, t.dtype) for t in self.network.inputs] + self._kinds

    def judge(self, x: np.ndarray) -> Judgement:
        """Replays x exactly as it is."""
        y = self.run(x)
        if self.accepts(x[None], y[None])[0]:
            return Judgement(y, "")
        for i in np.flatnonzero(self._strange(x[None])[0])[:1].tolist():
            return Judgement(y, f"X_{i} = {x[i]:g} is no {self.kinds[0][self.kinds[1][i]]}, which the model takes")
        return Judgement(y, self.judged_by.wrong(x, y) or "it does not hold under this reading (setting spec.reading)")

    def feeds(self, x: np.ndarray) -> list[np.ndarray]:
        """What the model receives for x (n,): an array for every input, of its shape and element type."""
        found, start = [], 0
        for tensor in self.network.inputs:
            with np.errstate(all="ignore"):
                found.append(x[start : start + tensor.size].reshape(tensor.shape).astype(tensor.dtype))
            start += tensor.size
        return found

    def received(self, x: np.ndarray) -> np.ndarray:
        """The numbers (n,) that the model receives for x (n,)."""
        return np.concatenate([part.astype(np.float64).reshape(-1) for part in self.feeds(x)])

    def under(self, reading: Reading, disproved: Callable[[np.ndarray], bool] | None = None) -> Replayer:
        """The same replays, judged under another reading."""
        other = copy(self)
        other.reading, other.disproved = reading, disproved
        return other

    def run(self, x: np.ndarray) -> np.ndarray:
        """The model's outputs (p,) float64 on x (n,), each input rounded to its element type."""
        if self._session is None:
            data = self.model_bytes() if callable(self.model_bytes) else self.model_bytes
            self._session = _session(data, self.network)
        self.calls += 1
        feeds = dict(zip((slot.name for slot in self._session.get_inputs()), self.feeds(x)))
        try:
            outputs = run_session(self._session, feeds)
        except Exception as e:  # ONNX Runtime's errors share no base class of their own
            raise ModelError(f"{self.network.source}: ONNX Runtime cannot run the model: {_first_line(e)}") from None
        y = np.concatenate([np.asarray(o, np.float64).reshape(-1) for o in outputs])
        if len(y) != self.query.n_outputs:
            raise MismatchError(
                f"{self.network.source}: ONNX Runtime gives {len(y)} outputs, the property has {self.query.n_outputs}"
            )
        self._kinds = [(np.size(o), np.asarray(o).dtype) for o in outputs]
        return y

    def _region(self, x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The box (n,), (n,) that x violates least, in its worst coordinate."""
        best, at = np.inf, 0
        step = max(1, CHUNK // max(1, len(x)))
        for start in range(0, len(self.lower), step):
            l, u = self.lower[start : start + step], self.upper[start : start + step]
            outside = np.maximum(l - x, x - u).max(axis=1, initial=-np.inf)
            k = int(outside.argmin())
            if outside[k] < best:
                best, at = outside[k], start + k
        return self.lower[at], self.upper[at]

    def _representable(self, x: np.ndarray, l: np.ndarray, u: np.ndarray) -> np.ndarray:
        """x in [l, u], each coordinate moved to the nearest value of its element type in the box, if there is one."""
        moved, start = x.copy(), 0
        for tensor in self.network.inputs:
            part = slice(start, start + tensor.size)
            start += tensor.size
            lo, hi = _inward(l[part], u[part], tensor.dtype)
            near = np.clip(_rounded(x[part], tensor.dtype), lo, hi)
            moved[part] = np.where(lo <= hi, near, x[part])
        return moved


def _rounded(x: np.ndarray, dtype: np.dtype) -> np.ndarray:
    if dtype.kind != "f":
        return np.round(x)
    with np.errstate(over="ignore"):
        return x.astype(dtype).astype(np.float64)


def _inward(l: np.ndarray, u: np.ndarray, dtype: np.dtype) -> tuple[np.ndarray, np.ndarray]:
    """The least value of `dtype` that is >= l and the greatest that is <= u, as float64."""
    if dtype.kind != "f":
        return np.ceil(l), np.floor(u)
    with np.errstate(over="ignore"):
        lo, hi = l.astype(dtype), u.astype(dtype)
        lo = np.where(lo.astype(np.float64) < l, np.nextafter(lo, dtype.type(np.inf)), lo)
        hi = np.where(hi.astype(np.float64) > u, np.nextafter(hi, dtype.type(-np.inf)), hi)
    return lo.astype(np.float64), hi.astype(np.float64)


def _session(model_bytes: bytes, network: Network) -> Any:
    import onnxruntime

    onnxruntime.set_default_logger_severity(4)  # its warnings about a model's style are not ours to print
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 4
    try:
        session = onnxruntime.InferenceSession(model_bytes, options, providers=["CPUExecutionProvider"])
    except Exception as e:  # as above
        raise ModelError(f"{network.source}: ONNX Runtime cannot load the model: {_first_line(e)}") from None
    if len(session.get_inputs()) != len(network.inputs):
        raise ModelError(
            f"{network.source}: ONNX Runtime sees {len(session.get_inputs())} inputs, the reader {len(network.inputs)}"
        )
    return session


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
