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
from verifier.bounds.relaxation import NARROW, ColumnLines, Multipliers, Relaxation, Splits, Start
from verifier.bounds.targets import Targets
from verifier.bounds.trace import Trace
from verifier.bounds.walk import Pass
from verifier.branching.points import Points, Rule, rule
from verifier.branching.view import View
from verifier.ops.base import size
from verifier.ops.piecewise import PiecewiseLinear
from verifier.search.cases import Cases
from verifier.search.clauses import Learned, explain
from verifier.search.tighter import PART, PATIENCE, SAMPLE, TRIED, Tighter

CHUNK_BYTES = 2 << 20  # of one coefficient tensor on a CPU
Heuristic = Callable[[View, int], Tensor]


@dataclass
class Bounded:
    """What became of a batch: the cases that stay open, their minimisers (D, m), and figures to be added up."""

    kept: Cases
    x: Tensor
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
            figures,
            seconds,
            Learned.join(learned) if learned else None,
        )


class Bounder:
    """One region's root, and what is computed on it."""

    def __init__(
        self,
        trace: Trace,
        rows: tuple[Tensor, Tensor, Tensor],
        fine: Program,
        heuristic: Heuristic,
        chunk_bytes: int = CHUNK_BYTES,
        points: Points | None = None,
        curves: bool = True,
        clip: str = "none",
    ):
        """`rows`: coefficients (K, S, p) in the working precision and in float64, zero where padded; constants (K, S)
        float64, -1 where padded. `fine`: the program in float64. `chunk_bytes`: of one coefficient tensor. `points`:
        where to split. `curves`: whether what is not made of straight pieces is split as well. `clip`: which
        half-spaces tighten the columns' boxes of cases (`verifier.search.tighter`).
        """
        self.relaxation = Relaxation(trace)
        self.rows, self.fine_rows, self.const = rows
        self.certifier = Certifier(self.relaxation, fine)
        self.heuristic = heuristic
        self.bias = self._constants()
        self.points = points or Points(trace.program.device)
        self.rules, self.rule_of = self._rules()
        self.splittable = self.relaxation.splittable if curves else self._straight()
        program, self.chunk_bytes = trace.program, chunk_bytes
        widest = max(size(s) for s in program.shapes)
        self.chunk = max(4, chunk_bytes // (widest * trace.boxes[0][0].element_size()))
        self.planes = ColumnPlanes(self.relaxation, self.certifier, self.chunk)
        self.tighter = Tighter(self.planes, clip)
        self.rest = 0.0  # seconds that a case takes, without clipping
        self.learning = False  # whether refuted cases are explained

    def _constants(self) -> Tensor:
        """Per column the constant of the affine step before it."""
        r = self.relaxation
        bias = torch.zeros_like(r.lower)
        for site in r.sites.values():
            offset = r.trace.offsets.get(site.value)
            if offset is not None:
                bias[site.cut] = offset if site.index is None else offset[site.index]
        return bias

    def _rules(self) -> tuple[list[Rule], Tensor]:
        """The ways to choose split points, and which of them each column takes: (K,), -1 for a single kink, at 0.

        A split narrows the interval of one column, so of the operators that read the value only the column's own has a
        say in where.
        """
        r = self.relaxation
        rules: dict[Rule, int] = {}
        which = torch.full((r.width,), -1, dtype=torch.int64, device=r.lower.device)
        for k, site in r.sites.items():
            if site.curved is not None:
                which[site.cut] = rules.setdefault(rule((r.program.steps[k].op,)), len(rules))
        return list(rules), which

    def _straight(self) -> Tensor:
        """The columns (K,) that can be split and whose function is made of straight pieces."""
        r, found = self.relaxation, torch.zeros_like(self.relaxation.splittable)
        for k, site in r.sites.items():
            if isinstance(r.program.steps[k].op, PiecewiseLinear):
                found[site.cut] = r.splittable[site.cut]
        return found

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
        if len(keep):
            self._rank(kept, found.coef[keep], found.z[keep], preferred)
        ranked = time.monotonic()
        if len(keep) and self.tighter.on:
            self._cut(kept, found.take(keep))
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
        return Bounded(kept, found.x[keep], figures, seconds, learned)

    def _cut(self, kept: Cases, found: Optimised) -> None:
        """Gives cases the half-space in which their disjunct can still hold, and the columns whose boxes matter."""
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
        self.tighter.cut(kept, plane, offset, coef, gap)

    def _start(self, slot: Tensor) -> Start:
        r = self.relaxation
        return Start(r.program.output, rows=self.rows[slot], const=self.const[slot].to(r.lower.dtype))

    def _proved(self, slot: Tensor, splits: Splits, m: Multipliers, boxes: tuple[Tensor, Tensor] | None) -> Tensor:
        """Bounds (N,) of cases in float64, with their error."""
        return self.certifier.bounds(self.fine_rows[slot], self.const[slot], splits, m, boxes)

    def _certified(self, cases: Cases, found: Optimised) -> tuple[Tensor, int]:
        """Which cases are refuted (N,) bool, by a bound in float64 with its error; and how many only seemed so."""
        hopeful = torch.nonzero(found.lb > 0).squeeze(1)
        refuted = torch.zeros(len(cases), dtype=torch.bool, device=found.lb.device)
        if not len(hopeful):
            return refuted, 0
        slot = cases.slot[hopeful]
        splits, m = cases.splits.take(hopeful), found.multipliers.take(hopeful)
        boxes = cases.take(hopeful).boxes(self.relaxation.lower, self.relaxation.upper)
        lb = self._proved(slot, splits, m, boxes)
        refuted[hopeful] = torch.isfinite(lb) & (lb > 0)
        return refuted, len(hopeful) - int(refuted.sum())

    def _explained(self, cases: Cases, found: Optimised, refuted: Tensor) -> Learned | None:
        at = torch.nonzero(refuted & (cases.column >= 0).any(1)).squeeze(1)
        if not len(at):
            return None
        slot = cases.slot[at]
        rows = self.fine_rows[slot], self.const[slot]
        splits, found = cases.splits.take(at), found.take(at)
        return explain(self.relaxation, self.certifier, rows, slot, splits, found, self._start(slot))

    def _rank(self, kept: Cases, coef: Tensor, z: Tensor, count: int) -> None:
        """Fills in the columns to split and where (N, count), best first; -1 where there are fewer."""
        r, dtype = self.relaxation, coef.dtype
        boxes = kept.boxes(r.lower, r.upper)
        l, u = self._ends(kept)
        wide = u - l > NARROW * (r.upper - r.lower)
        free = self.splittable & torch.where(r.is_curve, wide, (l < 0) & (u > 0))
        kept.prefer = torch.full((len(kept), count), -1, dtype=torch.int64, device=coef.device)
        kept.where = coef.new_zeros((len(kept), count))
        if not bool(free.any()):
            return
        lines, m = r.lines(kept.splits, boxes), kept.multipliers(dtype)
        r.project(m, lines)
        kept.prefer = self.heuristic(self._view(kept, lines, m, coef, z, free), count)
        kept.where = self._points(kept.prefer, l, u)

    def _ends(self, kept: Cases) -> tuple[Tensor, Tensor]:
        """Where the columns' values lie in cases, (N, K) each."""
        r = self.relaxation
        return kept.splits.boxes(*(kept.boxes(r.lower, r.upper) or (r.lower, r.upper)))

    def _view(self, kept: Cases, lines: ColumnLines, m: Multipliers, coef: Tensor, z: Tensor, free: Tensor) -> View:
        r = self.relaxation
        l, u = self._ends(kept)
        true = torch.maximum(r.left * z, r.right * z)
        below, above, thick = m.alpha * z, lines.up_a * z + lines.up_b, torch.zeros_like(z)
        for k, site in r.sites.items():
            if site.curved is None:
                continue
            c, op = site.cut, r.program.steps[k].op
            low, high = m.alpha[:, c], m.upper[:, site.curved]
            low_b, _, high_b, _ = lines.curves.offsets(site.curved, low, high)
            below[:, c], above[:, c] = low * z[:, c] + low_b, high * z[:, c] + high_b
            middle = l[:, c] + (u[:, c] - l[:, c]) / 2
            thick[:, c] = (high - low) * middle + high_b - low_b
            true[:, c] = op.f(z[:, c]) if op.uniform else (below[:, c] + above[:, c]) / 2
        trial = lambda columns: self.trial(kept, lines, m, columns)
        shortcut = lambda columns: self.shortcut(kept, lines, m, columns)
        return View(
            coef,
            below,
            above,
            true,
            lines.up_a,
            lines.up_b,
            self.bias,
            thick,
            r.is_curve,
            free,
            kept.score,
            trial,
            shortcut,
        )

    def _points(self, columns: Tensor, l: Tensor, u: Tensor) -> Tensor:
        """Where to split columns (N, Q) of domains whose columns' boxes are l, u (N, K)."""
        at = columns.clamp(min=0)
        low, high = l.gather(1, at), u.gather(1, at)
        points, which = torch.zeros_like(low), self.rule_of[at]
        for i, chosen in enumerate(self.rules):
            mine = torch.nonzero((which == i).view(-1)).squeeze(1)
            if len(mine):
                points.view(-1)[mine] = self.points.at(chosen, low.view(-1)[mine], high.view(-1)[mine])
        return points

    def trial(self, kept: Cases, lines: ColumnLines, m: Multipliers, columns: Tensor) -> Tensor:
        """Bounds (N, C, 2) of both children, z >= p first, of splits at columns (N, C), multipliers as they are; -inf
        for columns of -1. Above the split step nothing changes: children start where the parents' pass stood there.
        """
        r = self.relaxation
        states: dict[int, Start] = {}
        Pass(r, self._start(kept.slot), lines, kept.splits).backward(m, states)
        l, u = self._ends(kept)
        points = self._points(columns, l, u)
        bounds = lines.up_a.new_full((*columns.shape, 2), -float("inf"))
        for k, state in states.items():
            cut = r.sites[k].cut
            owner, place = torch.nonzero((columns >= cut.start) & (columns < cut.stop), as_tuple=True)
            if not len(owner):
                continue
            column, point = columns[owner, place], points[owner, place]
            mine, splits = m.take(owner), kept.splits.take(owner)
            child, each = lines.repeat(owner), torch.arange(len(owner), device=owner.device)
            low, high = l[owner, column], u[owner, column]
            for side, ends in ((0, (point, high)), (1, (low, point))):
                # The parent's slopes serve everything else, and are already in their ranges.
                self._redraw(child, mine, each, column, ends)
                walk = Pass(r, state.take(owner), child, splits)
                bounds[owner, place, side] = walk.backward(mine)
        return bounds

    def _redraw(
        self, lines: ColumnLines, m: Multipliers, row: Tensor, column: Tensor, ends: tuple[Tensor, Tensor]
    ) -> None:
        """Draws the lines at (row, column) (M,) on intervals `ends`, and takes the best slopes by area there."""
        r = self.relaxation
        r.redraw(lines, row, column, *ends)
        bent = r.is_curve[column]
        m.alpha[row[~bent], column[~bent]] = lines.up_a[row[~bent], column[~bent]]  # decided: both lines are one
        if not bool(bent.any()):
            return
        row, column = row[bent], column[bent]
        c = r.curve_of[column]
        m.alpha[row, column] = lines.curves.low.best[row, c]
        m.upper[row, c] = lines.curves.high.best[row, c]

    def shortcut(self, kept: Cases, lines: ColumnLines, m: Multipliers, columns: Tensor) -> Tensor:
        """The same as `trial` from planes of the whole region: see `verifier.branching.bbps`."""
        r = self.relaxation
        walk = Pass(r, self._start(kept.slot), lines, kept.splits)
        lb = walk.backward(m)
        owner, place = torch.nonzero(columns >= 0, as_tuple=True)
        column = columns[owner, place]
        bounds = lb.new_full((*columns.shape, 2), -float("inf"))
        l, u = self._ends(kept)
        point = self._points(columns, l, u)[owner, place]
        a = walk.coef[owner, column]
        before = self._line(lines, m, owner, column, a)
        child, each, mine = lines.repeat(owner), torch.arange(len(owner), device=owner.device), m.take(owner)
        both, around = self.planes.of(column), self.planes.middle
        above, below = both.at((slice(None), 0)), both.at((slice(None), 1))  # of the value, and of it negated
        middle, moving = torch.mv(walk.plane, around.c)[owner], walk.plane[:, around.moving][owner]
        for side, ends in ((0, (point, u[owner, column])), (1, (l[owner, column], point))):
            self._redraw(child, mine, each, column, ends)
            slope, offset = self._line(child, mine, each, column, a)
            d, more = a * (slope - before[0]), a * (offset - before[1])
            up, down = d.clamp(min=0), -d.clamp(max=0)
            plane = torch.addcmul(moving, up[:, None], above.a).addcmul_(down[:, None], below.a)
            height = middle + up * above.mid.to(d.dtype) + down * below.mid.to(d.dtype)
            estimate = height - torch.mv(plane.abs_(), around.r) + walk.bias[owner] + more
            bounds[owner, place, side] = torch.maximum(torch.nan_to_num(estimate, nan=-torch.inf), lb[owner])
        return bounds

    def _line(
        self, lines: ColumnLines, m: Multipliers, row: Tensor, column: Tensor, a: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Slope and offset (M,) of the line that a coefficient `a` (M,) at the output of (row, column) asks for."""
        r, lower = self.relaxation, a > 0
        slope = torch.where(lower, m.alpha[row, column], lines.up_a[row, column])
        offset = torch.where(lower, r.lo_b[column], lines.up_b[row, column])
        if lines.curves is not None:
            bent, c = r.is_curve[column], r.curve_of[column].clamp(min=0)
            low, high = m.alpha[row, column], m.upper[row, c]
            low_b, high_b = lines.curves.offsets_at(row, c, low, high)
            slope = torch.where(bent, torch.where(lower, low, high), slope)
            offset = torch.where(bent, torch.where(lower, low_b, high_b), offset)
        return slope, offset


def tables(targets: Targets, fine: Targets, region: int) -> tuple[Tensor, Tensor, Tensor]:
    """A region's rows by disjunct: `Bounder`'s `rows`."""
    row, slot, const = targets.row[region], targets.slot[region], targets.const[region]
    mine = [torch.nonzero((slot == k) & (row >= 0)).squeeze(1) for k in range(targets.n_slots)]
    most = max([1, *(len(i) for i in mine)])
    index = torch.full((targets.n_slots, most), -1, dtype=torch.int64, device=row.device)
    consts = torch.full((targets.n_slots, most), -1.0, dtype=torch.float64, device=row.device)
    for k, i in enumerate(mine):
        index[k, : len(i)], consts[k, : len(i)] = row[i], const[i]
    real = (index >= 0).unsqueeze(-1)
    coef, fine_coef = (torch.where(real, t.coef[index.clamp(min=0)], 0.0) for t in (targets, fine))
    return coef, fine_coef, consts
