"""The gate that every verdict passes: before `unsat` or `unknown` is said, ONNX Runtime is asked on the original file.

The search bounds a network of real numbers; what the user has is a runtime that rounds, saturates and wraps. Where both
disagree the user must hear it from us and not from the runtime. So the runtime is run at points of the property's box,
and `verifier.spec.evaluate` judges what it returns: always at the centre, at the search's nearest miss and at two
corners; then, in order of promise, at the minimisers of the tightest leaves, at more corners, and at random points.

How many points is decided by counts alone: by what a run costs (multiply-adds of the model, comparisons of the
property) and by the work that the search has done; never by a clock, so that an answer does not depend on the machine's
load. Where the least bound of a refuted leaf is below the runtime's *noise* (by how much its outputs differ from the
same network in float64, measured at these points, times `SAFETY`), more points are tried.

What happens then. A witness turns `unsat` and `unknown` into `sat`, but where the setting says that proofs win
(`Reading.proof_wins`); in either case the reason says that both exist. Where the box holds so few inputs that the
runtime was run on every one of them, `unknown` becomes `unsat`: nothing is left that could satisfy the property.

Symbols: N points, n inputs, m dimensions that move, p outputs, R regions.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

import numpy as np

from verifier.events import Deadline
from verifier.evidence.near import NearMisses
from verifier.evidence.replay import Replayer
from verifier.problem import Problem
from verifier.result import ModelError, Verdict, Witness

CALL = 400_000  # multiply-adds in the time of what one run costs beyond the model's own
NODE = 15_000  # the same for every operator
JUDGING = 1_000  # the same for every comparison of the property
BUDGET = 200_000_000  # multiply-adds that are spent in any case
SHARE = 0.02  # of the search's work, beyond that
BOUNDING = 6.0  # a subproblem's bounds against running the network forward at one point
MOST = 384  # points, where nothing speaks for more
DOUBTFUL_BUDGET, DOUBTFUL_MOST = 1_000_000_000, 4096  # the same where margins are below the noise
SAFETY = 8.0  # noise counts as so many times what was measured
CLEAR = 2.0**-7  # margins above this share of a row's size are above any runtime's noise: it is not measured
NOISY = 64  # points at which noise is measured
EVERY = 256  # a box of at most so many inputs, as the model sees them, is run through
CENTRES = 16  # boxes whose centre is looked at before anything else
BLOCK = 16  # points that are judged at once


@dataclass
class Finding:
    """What was found: a witness, or not; `runs` of the runtime, of which so many `ran` through; whether these were
    `all` inputs there are; `noise` of rows and the least `margin`, where they were compared; `seen`: some points with
    their outputs.
    """

    witness: Witness | None = None
    runs: int = 0
    ran: int = 0
    all: bool = False
    noise: float = 0.0
    margin: float = float("inf")
    stopped: bool = False
    seen: list[tuple[np.ndarray, np.ndarray]] = field(default_factory=list)

    @property
    def doubtful(self) -> bool:
        """Whether what was proved is within the runtime's noise."""
        return self.margin < SAFETY * self.noise


class Gate:
    """Asks the runtime about one problem."""

    def __init__(self, problem: Problem, replayer: Replayer, seed: int):
        self.problem, self.replayer, self.seed = problem, replayer, seed
        network = replayer.network
        self.network_cost = multiply_adds(problem) + NODE * len(network.nodes)
        self.cost = CALL + self.network_cost + JUDGING * replayer.judged_by.comparisons

    def passed(
        self, verdict: Verdict, reason: str, near: NearMisses, subproblems: float, deadline: Deadline
    ) -> tuple[Verdict, str, Witness | None, dict[str, float]]:
        """What may be said instead of `verdict` and `reason`, the witness if there is one, and figures.

        `subproblems`: how many the search has bounded. Only `unsat` and `unknown` are asked about.
        """
        if verdict not in (Verdict.UNSAT, Verdict.UNKNOWN) or not len(self.replayer.lower):
            return verdict, reason, None, {}
        found = self.ask(verdict, near, subproblems, deadline)
        figures = {"gate runs": float(found.runs)}
        if np.isfinite(found.margin):
            figures |= {"least margin": found.margin, "runtime noise": found.noise}
        if found.witness is not None:
            return *self._answered(verdict, reason, found), figures
        if found.stopped:
            return Verdict.TIMEOUT, f"the deadline passed while ONNX Runtime was asked about: {reason}", None, figures
        if found.all and verdict == Verdict.UNKNOWN and not self.replayer.reading.proof_wins:
            text = f"none of the {found.runs} inputs that the model can receive satisfies the property in ONNX Runtime"
            return Verdict.UNSAT, f"{text}; by bounds alone: {reason}", None, figures
        if found.doubtful and verdict == Verdict.UNSAT:
            reason += (
                f"; the least margin, {found.margin:.3g}, is within what ONNX Runtime's rounding may do "
                f"({SAFETY * found.noise:.3g}), which violates the property at none of {found.runs} points"
            )
        return verdict, reason, None, figures

    def _answered(self, verdict: Verdict, reason: str, found: Finding) -> tuple[Verdict, str, Witness | None]:
        """What is said where the runtime has a witness."""
        if verdict == Verdict.UNKNOWN:
            return Verdict.SAT, "counterexample found and replayed in ONNX Runtime", found.witness
        if self.replayer.reading.proof_wins:
            return verdict, f"{reason}; yet ONNX Runtime's own rounding satisfies the property at some input", None
        text = "counterexample replayed in ONNX Runtime, whose rounding makes it one: over the reals there is none"
        return Verdict.SAT, f"{text} ({reason})", found.witness

    def ask(self, verdict: Verdict, near: NearMisses, subproblems: float, deadline: Deadline) -> Finding:
        """Runs the runtime at points in order of promise until there is a witness or the budget is spent."""
        proved = verdict == Verdict.UNSAT
        every = None if proved else self.exhausted(deadline)
        if every is not None:
            return every
        found = Finding()
        work = SHARE * BOUNDING * subproblems * self.network_cost
        first = self.always(near)
        for point in first:
            if self._run([point], found, proved):
                return found
        points = self.more(near)
        count = int(min(MOST, (BUDGET + work) / self.cost)) - len(first)
        self._run(itertools.islice(points, max(0, count)), found, proved, deadline)
        if proved and found.witness is None and not found.stopped and found.seen:
            self._weigh(found, near)
            if found.doubtful:
                count = int(min(DOUBTFUL_MOST, (DOUBTFUL_BUDGET + work) / self.cost)) - found.runs
                self._run(itertools.islice(points, max(0, count)), found, proved, deadline)
        return found

    def centre(self) -> Witness | None:
        """The centre of a box that is a witness, if one of the first few is: what needs no search."""
        count = int(min(CENTRES, BUDGET / self.cost))  # none where a run is dear: the search comes first then
        for l, u in zip(self.replayer.lower[:count], self.replayer.upper[:count]):
            try:
                witness = self.replayer(middle(l, u))
            except ModelError:  # an input that the model cannot take
                continue
            if witness is not None:
                return witness
        return None

    def exhausted(self, deadline: Deadline) -> Finding | None:
        """What comes of running every input that the model can receive; None where those are too many."""
        every = self.every()
        if every is None:
            return None
        found = Finding()
        self._run(every, found, False, deadline)
        found.all = found.ran == len(every)
        return found

    def _run(
        self, points: Iterable[np.ndarray], found: Finding, proved: bool, deadline: Deadline | None = None
    ) -> bool:
        """Adds points to what was found, until one is a witness (`proved`: whatever is proved) or the deadline."""
        waiting: list[tuple[np.ndarray, np.ndarray]] = []
        for x in points:
            if deadline is not None and deadline.passed():
                found.stopped = True
                break
            found.runs += 1
            try:
                waiting.append((x, self.replayer.run(x)))
            except ModelError:  # an input that the model cannot take is no counterexample
                continue
            found.ran += 1
            if len(waiting) == BLOCK and self._judge(waiting, found, proved):
                return True
        return self._judge(waiting, found, proved)

    def _judge(self, waiting: list[tuple[np.ndarray, np.ndarray]], found: Finding, proved: bool) -> bool:
        """Judges the points that wait; whether one of them is a witness."""
        if not waiting:
            return False
        x, y = (np.stack([pair[k] for pair in waiting]) for k in (0, 1))
        found.seen += waiting[: NOISY - len(found.seen)]
        waiting.clear()
        good = np.flatnonzero((self.replayer.satisfies if proved else self.replayer.accepts)(x, y))
        if len(good):
            found.witness = Witness(x[good[0]], y[good[0]])
        return found.witness is not None

    # --- where to look

    def always(self, near: NearMisses) -> list[np.ndarray]:
        """Points (n,) as they may be printed: the centre of a box, the search's nearest misses, and two corners."""
        missed = [self.problem.lift(p[None])[0] for p in (*near.tried.points[:1], *near.leaves.points[:1])]
        at = self._region_of(missed[0]) if missed else 0
        l, u = self.replayer.lower[at], self.replayer.upper[at]
        return [point for x in (middle(l, u), *missed, l, u) for point in self.replayer.nearby(x)]

    def more(self, near: NearMisses) -> Iterator[np.ndarray]:
        """Further points (n,) in order of promise, without end."""
        rng = np.random.default_rng(self.seed)
        lower, upper = self.replayer.lower, self.replayer.upper
        for p in (*near.leaves.points[1:], *near.tried.points[1:]):
            yield from self.replayer.nearby(self.problem.lift(p[None])[0])
        for turn in itertools.count():
            k = turn % len(lower)
            if 0 < turn < len(lower):
                yield from self.replayer.nearby(middle(lower[k], upper[k]))
            yield from self.replayer.nearby(np.where(rng.random(lower.shape[1]) < 0.5, lower[k], upper[k]))
            share = rng.random(lower.shape[1])
            yield from self.replayer.nearby(lower[k] * (1 - share) + upper[k] * share)[:1]

    def _region_of(self, x: np.ndarray) -> int:
        outside = np.maximum(self.replayer.lower - x, x - self.replayer.upper).max(1, initial=-np.inf)
        return int(outside.argmin())

    def every(self) -> list[np.ndarray] | None:
        """All inputs that the model can receive from the property's boxes, as points (n,) that may be printed; None
        where there are more than `EVERY`.
        """
        found: dict[bytes, np.ndarray] = {}
        for l, u in zip(self.replayer.lower, self.replayer.upper):
            choices = self._choices(l, u)
            if choices is None or len(found) > EVERY:
                return None
            moving = [k for k, c in enumerate(choices) if len(c) > 1]
            x = np.array([c[0] for c in choices])
            for combined in itertools.product(*(choices[k] for k in moving)):
                x[moving] = combined
                found.setdefault(self.replayer.received(x).tobytes(), x.copy())
        return list(found.values()) if 0 < len(found) <= EVERY else None

    def _choices(self, l: np.ndarray, u: np.ndarray) -> list[np.ndarray] | None:
        """For every coordinate the printed values (V,) that give the different ones the model can receive; None where
        there are too many together.
        """
        choices: list[np.ndarray] = []
        total, start = 1, 0
        for tensor in self.replayer.network.inputs:
            for lo, hi in zip(l[start : start + tensor.size], u[start : start + tensor.size]):
                values = between(lo, hi, tensor.dtype)
                if values is None or total * len(values) > EVERY:
                    return None
                total *= len(values)
                choices.append(values)
            start += tensor.size
        return choices

    # --- noise

    def _weigh(self, found: Finding, near: NearMisses) -> None:
        """Compares the least margin with the runtime's noise, where it is not clear beforehand."""
        margin = near.leaves.least
        query = self.problem.query
        if not np.isfinite(margin) or not query.n_rows:
            return
        x, y = (np.stack([pair[k] for pair in found.seen]) for k in (0, 1))
        sizes = np.abs(np.nan_to_num(np.concatenate([x, y], 1), posinf=0.0, neginf=0.0)).max(0)
        coef, starts = np.abs(query.term_coef), query.term_start[:-1]
        largest, single = np.maximum.reduceat(coef, starts), np.diff(query.term_start) == 1
        unit = np.where(single, largest, np.exp2(np.frexp(largest)[1] * (np.abs(np.log2(largest)) > 20)))
        scale = (np.add.reduceat(coef * sizes[query.term_var], starts) + np.abs(query.const)) / unit  # as rows are
        if margin > CLEAR * scale.max():
            return
        exact = self._in_float64(x)
        if exact is None:
            return
        with np.errstate(all="ignore"):
            off = np.abs(y - exact)
        off = np.where(np.isfinite(off), off, 0.0).max(0)
        noise = coef * np.concatenate([np.zeros(query.n_inputs), off])[query.term_var]
        found.margin, found.noise = margin, float((np.add.reduceat(noise, starts) / unit).max())

    def _in_float64(self, x: np.ndarray) -> np.ndarray | None:
        """The network's outputs (N, p) in float64 at points (N, n) as the model receives them; None where operators
        cannot be run so.
        """
        import torch

        from verifier.bounds.program import Program
        from verifier.problem import flatten
        from verifier.result import UnsupportedError

        network, n = self.replayer.network, self.replayer.network.n_inputs
        flat = flatten(network, np.arange(n), np.zeros(n), np.zeros(0, np.int64))
        received = np.stack([self.replayer.received(point) for point in x])
        try:
            with torch.no_grad():
                y = Program(flat, torch.float64, "cpu").forward(torch.from_numpy(received))
        except (UnsupportedError, RuntimeError, MemoryError):
            return None
        return y.double().numpy()


def middle(l: np.ndarray, u: np.ndarray) -> np.ndarray:
    """Half way between l and u, without overflow."""
    return l + (u / 2 - l / 2)


def between(l: float, u: float, dtype: np.dtype) -> np.ndarray | None:
    """Numbers in [l, u] that give each value that a model of this type can receive from it; None for too many."""
    with np.errstate(all="ignore"):
        first, last = np.array([l, u]).astype(dtype)
    if not np.isfinite(np.array([first, last], dtype=np.float64)).all():
        return None
    if dtype.kind != "f":
        if float(last) - float(first) > EVERY:
            return None
        values = np.arange(int(first), int(last) + 1).astype(np.float64)
    else:
        found = [first]
        while found[-1] < last:
            if len(found) > EVERY:
                return None
            found.append(np.nextafter(found[-1], last))
        values = np.array(found, dtype=np.float64)
    return np.clip(values, l, u)


def multiply_adds(problem: Problem) -> float:
    """About what one run of the network costs: every entry of a large constant is used once for every place that it
    slides over.
    """
    network = problem.network
    total = 0.0
    for node in network.nodes:
        places = float(np.prod(node.shape, dtype=np.float64))
        weights = [network.constants[i] for i in node.inputs if i in network.constants]
        largest = max((float(w.size) for w in weights), default=0.0)
        if node.kind in ("Conv", "ConvTranspose"):
            total += largest * float(np.prod(node.shape[2:], dtype=np.float64))
        elif node.kind in ("Linear", "MatMul"):
            total += largest * places / max(1, node.shape[-1] if node.shape else 1)
        else:
            total += places
    return total
