"""Bounds cases of one region: optimise their multipliers, certify what looks refuted, rank the splits of the rest.

A batch is cut into chunks whose coefficient tensors stay in the cache; each goes through all three stages on one
thread. Symbols as in `verifier.search.cases`.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor

from verifier.bounds.certify import Certifier
from verifier.bounds.chunks import workers
from verifier.bounds.columnplanes import ColumnPlanes
from verifier.bounds.dual import Optimised, Settings, optimise
from verifier.bounds.program import Program
from verifier.bounds.proved import proves_positive, strict_sum
from verifier.bounds.relaxation import NARROW, Multipliers, Relaxation, Splits
from verifier.bounds.targets import Targets
from verifier.bounds.trace import Trace
from verifier.branching.points import Points
from verifier.branching.view import View
from verifier.ops.base import size
from verifier.ops.piecewise import PiecewiseLinear
from verifier.search.cases import Cases
from verifier.search.children import Children
from verifier.search.clauses import Learned, explain
from verifier.search.tighter import PART, PATIENCE, SAMPLE, TRIED, Tighter

CHUNK_BYTES = 2 << 20  # of one coefficient tensor on a CPU
Heuristic = Callable[[View, int], Tensor]


@dataclass
class Bounded:
    """What became of a batch: the cases that stay open, their minimisers (D, m), and figures to be added up; minimisers
    (N, m) and bounds (N,) of the refuted ones.
    """

    kept: Cases
    x: Tensor
    refuted: tuple[Tensor, Tensor]
    figures: dict[str, float] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)
    learned: Learned | None = None

    @staticmethod
    def join(parts: list[Bounded]) -> Bounded:
        figures: dict[str, float] = {}
        seconds: dict[str, float] = {}
        for part in parts:
            for total, mine in ((figures, part.figures), (seconds, part.seconds)):
                for name, value in mine.items():
                    total[name] = total.get(name, 0) + value
        learned = [p.learned for p in parts if p.learned is not None]
        return Bounded(
            Cases.join([p.kept for p in parts]),
            torch.cat([p.x for p in parts]),
            (torch.cat([p.refuted[0] for p in parts]), torch.cat([p.refuted[1] for p in parts])),
            figures,
            seconds,
            Learned.join(learned) if learned else None,
        )


class Bounder(Children):
    """One region's root, and what is computed on it."""

    def __init__(
        self,
        trace: Trace,
        rows: tuple[Tensor, Tensor, Tensor, Tensor],
        fine: Program,
        heuristic: Heuristic,
        chunk_bytes: int = CHUNK_BYTES,
        points: Points | None = None,
        curves: bool = True,
        clip: str = "none",
    ):
        """`rows`: coefficients (K, S, p) in the working precision and in float64, zero where padded; constants (K, S)
        float64, -1 where padded; which are strict (K, S) bool. `fine`: the program in float64. `chunk_bytes`: of one
        coefficient tensor. `points`: where to split. `curves`: whether what is not made of straight pieces is split as
        well. `clip`: which half-spaces tighten the columns' boxes of cases (`verifier.search.tighter`).
        """
        relaxation, self.chunk_bytes = Relaxation(trace, split=True), chunk_bytes
        widest = max(size(s) for s in trace.program.shapes)
        self.chunk = max(4, chunk_bytes // (widest * trace.boxes[0][0].element_size()))
        self.certifier = Certifier(relaxation, fine)
        planes = ColumnPlanes(relaxation, self.certifier, self.chunk)
        super().__init__(relaxation, rows[0], rows[2], planes, points or Points(trace.program.device))
        self.fine_rows, self.strict, self.heuristic = rows[1], rows[3], heuristic
        self.splittable = relaxation.splittable if curves else self._straight()
        self.tighter = Tighter(self.planes, clip)
        self.rest = 0.0  # seconds that a case takes, without clipping
        self.learning = False  # whether refuted cases are explained

    def _straight(self) -> Tensor:
        """The columns (K,) that can be split where a function made of straight pieces reads them."""
        r, found = self.relaxation, torch.zeros_like(self.relaxation.splittable)
        for k, site in r.sites.items():
            if isinstance(r.program.steps[k].op, PiecewiseLinear):
                found[r.kin.first[site.cut]] = True
        return found & r.splittable

    def bound(self, cases: Cases, settings: Settings, preferred: int) -> Bounded:
        """Bounds cases and ranks `preferred` splits of those that stay open."""
        n, device = len(cases), cases.score.device
        begin = time.monotonic()
        if self.tighter.due(n) and cases.look.shape[1]:
            self._try_clipping(cases, settings)
        tried = time.monotonic()
        threads = torch.get_num_threads() if device.type == "cpu" else 1
        chunk = self.chunk
        if threads > 1 and n >= 2:
            chunk = min(chunk, -(-n // threads))
        cuts = [slice(at, at + chunk) for at in range(0, n, chunk)]
        if threads > 1:  # one chunk as well: threads inside small operations mostly wait for each other
            parts = workers(threads).map(lambda c: self._bound(cases.take(c), settings, preferred), cuts)
        else:
            parts = map(lambda c: self._bound(cases.take(c), settings, preferred), cuts)
        found = Bounded.join(list(parts))
        self.rest = sum(t for name, t in found.seconds.items() if name != "clipping") / max(1, n)
        found.seconds["clipping"] = found.seconds.get("clipping", 0.0) + tried - begin
        return found

    @torch.no_grad()
    def _try_clipping(self, cases: Cases, settings: Settings) -> None:
        """Bounds a few cases with several numbers of columns whose boxes are tightened. What counts is what happens to
        those that are not refuted without.
        """
        r, open = self.relaxation, torch.nonzero(cases.score > -1e29).squeeze(1)
        count = min(SAMPLE, len(cases) // PART)
        if not len(open) or not count:
            return
        some, gains, costs = cases.take(open[:: -(-len(open) // count)]), [], []
        hard, patience = None, PATIENCE * self.rest * self.tighter.cases
        for count in TRIED:
            begin = time.monotonic()
            self.tighter.clipped(some, count)  # planes that are made now will be there next time
            patience -= time.monotonic() - begin
            if patience < 0 and count:
                break
            begin = time.monotonic()
            clipped, empty = self.tighter.clipped(some, count)
            costs.append((time.monotonic() - begin) / len(some))
            start, m = self._start(some.slot), some.multipliers(r.lower.dtype)
            lb = optimise(r, start, some.splits, m, settings, boxes=clipped.boxes(r.lower, r.upper)).lb.double()
            gain = torch.nan_to_num(1 - lb / some.score.clamp(max=-1e-30)).clamp(0, 1)
            hard = lb < 0 if hard is None else hard
            if not bool(hard.any()):
                return
            gains.append(float(torch.where(empty, 1.0, gain)[hard].mean()))
        self.tighter.weigh(gains, costs, self.rest, float((some.column >= 0).sum(1).double().mean()))

    @torch.no_grad()
    def _bound(self, cases: Cases, settings: Settings, preferred: int) -> Bounded:
        r, begin = self.relaxation, time.monotonic()
        cases, empty = self.tighter.clipped(cases, self.tighter.count)
        clipped, boxes = time.monotonic(), cases.boxes(r.lower, r.upper)
        multipliers = cases.multipliers(r.lower.dtype)
        found = optimise(r, self._start(cases.slot), cases.splits, multipliers, settings, boxes=boxes)
        middle = time.monotonic()
        refuted, overturned = self._certified(cases, found)
        certified = time.monotonic()
        learned = self._explained(cases, found, refuted) if self.learning else None
        explained = time.monotonic()
        keep = torch.nonzero(~refuted & ~empty).squeeze(1)
        kept = cases.take(keep)
        lb, m = found.lb[keep].double(), found.multipliers
        kept.alpha, kept.upper = (t[keep].clamp(-6e4, 6e4).half() for t in (m.alpha, m.upper))
        kept.beta, kept.weights = m.beta[keep], m.weights[keep]
        kept.score = torch.maximum(torch.where(torch.isfinite(lb), lb, -1e30), kept.score).clamp(max=0.0)
        price = self._rank(kept, found.coef[keep], found.z[keep], preferred) if len(keep) else None
        ranked = time.monotonic()
        if len(keep) and self.tighter.on:
            self._cut(kept, found.take(keep), price)
        figures = {
            "overturned by float64": overturned,
            "optimiser steps": found.steps * len(cases),
            "emptied by clipping": int(empty.sum()),
        }
        seconds = {
            "clipping": clipped - begin + time.monotonic() - ranked,
            "optimising": middle - clipped,
            "certifying": certified - middle,
            "explaining": explained - certified,
            "branching": ranked - explained,
        }
        return Bounded(kept, found.x[keep], (found.x[refuted], found.lb[refuted]), figures, seconds, learned)

    def _cut(self, kept: Cases, found: Optimised, price: Tensor | None) -> None:
        """Gives cases the half-space in which their disjunct can still hold, and the columns whose boxes matter;
        `price` as `_rank` gives it.
        """
        r, m, slot = self.relaxation, found.multipliers, kept.slot
        boxes = kept.boxes(r.lower, r.upper)
        plane, offset = self.certifier.planes(self.fine_rows[slot], self.const[slot], kept.splits, m, boxes)
        lines = r.lines(kept.splits, boxes)
        # A kink loses at its upper line, where its coefficient is negative; its lower line has no offset.
        coef, z = found.coef, found.z
        gap = (lines.up_a * z + lines.up_b - torch.maximum(r.left * z, r.right * z)).clamp(min=0)
        coef = torch.where(r.is_curve, coef, coef.clamp(max=0))
        if r.curves is not None:
            l, u = self._ends(kept)
            gap = torch.where(r.is_curve, u - l, gap)
        if r.factors:
            l, u = self._ends(kept)
            gap = torch.where(r.is_factor, u - l, gap)
            coef = torch.where(r.is_factor, 0.0, coef)
            if price is not None:
                coef[:, r.is_factor] = price
        self.tighter.cut(kept, plane, offset, coef, gap)

    def _proved(self, slot: Tensor, splits: Splits, m: Multipliers, boxes: tuple[Tensor, Tensor] | None) -> Tensor:
        """Bounds (N,) of cases in float64, with their error."""
        return self.certifier.bounds(self.fine_rows[slot], self.const[slot], splits, m, boxes)

    def _strict(self, slot: Tensor, m: Multipliers) -> Tensor:
        """Whether the cases' weighted rows (N,) are < 0 wherever their disjuncts hold."""
        return strict_sum(self.strict[slot], m.weights)

    def _certified(self, cases: Cases, found: Optimised) -> tuple[Tensor, int]:
        """Which cases are refuted (N,) bool, by a bound in float64 with its error; and how many only seemed so."""
        strict = self._strict(cases.slot, found.multipliers)
        hopeful = torch.nonzero(proves_positive(found.lb, strict)).squeeze(1)
        refuted = torch.zeros(len(cases), dtype=torch.bool, device=found.lb.device)
        if not len(hopeful):
            return refuted, 0
        slot = cases.slot[hopeful]
        splits, m = cases.splits.take(hopeful), found.multipliers.take(hopeful)
        boxes = cases.take(hopeful).boxes(self.relaxation.lower, self.relaxation.upper)
        lb = self._proved(slot, splits, m, boxes)
        refuted[hopeful] = proves_positive(lb, strict[hopeful])
        return refuted, len(hopeful) - int(refuted.sum())

    def _explained(self, cases: Cases, found: Optimised, refuted: Tensor) -> Learned | None:
        at = torch.nonzero(refuted & (cases.column >= 0).any(1)).squeeze(1)
        if not len(at):
            return None
        slot = cases.slot[at]
        rows = self.fine_rows[slot], self.const[slot], self.strict[slot]
        splits, found = cases.splits.take(at), found.take(at)
        return explain(self.relaxation, self.certifier, rows, slot, splits, found, self._start(slot))

    def _rank(self, kept: Cases, coef: Tensor, z: Tensor, count: int) -> Tensor | None:
        """Fills in the columns to split and where (N, count), best first; -1 where there are fewer.

        Returns what the bounds lose per unit of the factors' widths (N, J), where there are any and something is free.
        """
        r, dtype = self.relaxation, coef.dtype
        boxes = kept.boxes(r.lower, r.upper)
        l, u = self._ends(kept)
        wide = u - l > NARROW * (r.upper - r.lower)
        free = self.splittable & ((r.bendable & wide) | (r.kinked & (l < 0) & (u > 0)))
        kept.prefer = torch.full((len(kept), count), -1, dtype=torch.int64, device=coef.device)
        kept.where = coef.new_zeros((len(kept), count))
        if not bool(free.any()):
            return None
        lines, m = r.lines(kept.splits, boxes), kept.multipliers(dtype)
        r.project(m, lines)
        view, price = self._view(kept, lines, m, coef, z, free)
        kept.prefer = self.heuristic(view, count)
        kept.where = self._points(kept.prefer, l, u)
        return price


def tables(targets: Targets, fine: Targets, region: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """A region's rows by disjunct: `Bounder`'s `rows`."""
    row, slot, const = targets.row[region], targets.slot[region], targets.const[region]
    mine = [torch.nonzero((slot == k) & (row >= 0)).squeeze(1) for k in range(targets.n_slots)]
    most = max([1, *(len(i) for i in mine)])
    index = torch.full((targets.n_slots, most), -1, dtype=torch.int64, device=row.device)
    consts = torch.full((targets.n_slots, most), -1.0, dtype=torch.float64, device=row.device)
    stricts = torch.zeros_like(consts, dtype=torch.bool)
    for k, i in enumerate(mine):
        index[k, : len(i)], consts[k, : len(i)], stricts[k, : len(i)] = row[i], const[i], targets.strict[region][i]
    real = (index >= 0).unsqueeze(-1)
    coef, fine_coef = (torch.where(real, t.coef[index.clamp(min=0)], 0.0) for t in (targets, fine))
    return coef, fine_coef, consts, stricts
