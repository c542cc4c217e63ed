"""What a region's domains share, and what tells them apart: the terms in which dual bounds are computed.

A `Relaxation` lays the unstable entries of all nonlinear steps side by side as columns, with the root lines; other
entries keep one line for all domains. A domain adds `Splits` sign (z_j - p) >= 0 of columns, which narrow the intervals
of these columns, and `Multipliers`. Rows begin as a `Start`.

Columns are of two kinds. One kink at 0, convex (`ThroughZero`): the lower slope is free without an offset, and a split
at 0 makes the lines exact. Everything else is a curve: both slopes are free and the offsets follow them
(`verifier.bounds.curves`); a curve may be split at any point, again and again.

Where domains are to be split, a third kind is there: factors of products of two variables (`verifier.bounds.factors`).
They have no lines; where the box of one is narrower than the root's, the product's planes are drawn anew. A split of a
column holds for all columns of the same entry, and for factors that are made of it.

Symbols: N domains, K columns, C curved columns, k columns of one step, n entries of a step, P splits, S rows, p
outputs.
"""

from __future__ import annotations

from copy import copy
from dataclasses import dataclass, field, fields
from functools import cached_property

import torch
from torch import Tensor

from verifier.bounds.curves import Curves, curves_of, frozen
from verifier.bounds.factors import Factor, Kin, Terms, factors_of
from verifier.bounds.program import Program
from verifier.bounds.trace import Trace
from verifier.ops.base import Joint, Planes
from verifier.ops.piecewise import ThroughZero
from verifier.ops.pointwise import Pointwise

WORTH = 0.95  # the lines of a curve are drawn anew on intervals of less than this share of the root's
LARGE = 1e15  # stands for infinity where bounds are only optimised
NARROW = 1e-3  # a curve on an interval of less than this share of the root's is split no more


@dataclass(frozen=True)
class Site:
    """The unstable entries of one nonlinear step, and the lines of its other entries (where both lines are one)."""

    step: int
    value: int  # what the step reads
    index: Tensor | None  # (k,) flat entries, or None for all of them
    cut: slice  # their columns
    keep: Tensor  # (n,) slopes of all entries at the root
    shift: Tensor | None  # (n,) offsets of the stable ones, or None where all are zero; zero at unstable entries
    convex: bool  # lower slopes between `least` and `most` are sound without offset: the function is convex, through 0
    least: float
    most: float
    curved: slice | None  # the columns among the curved ones; None where `convex`
    slot: int = 0  # of what the step reads


class Relaxation:
    """What all domains of a region share: the program and the root's boxes and lines (`trace` of one domain)."""

    def __init__(self, trace: Trace, split: bool = False):
        """`split`: whether domains will be split, so that factors of products have columns and columns have kin."""
        self.trace, self.program = trace, trace.program
        # What optimisation walks over; it has no use for infinite numbers, and proves nothing.
        self.offsets = {k: self.hint(t) for k, t in trace.offsets.items()}
        self.joint = {k: self._hinted(t) for k, t in trace.lines.items() if isinstance(t, Planes)}
        self.sites: dict[int, Site] = {}
        lower, upper, at, bent = [], [], 0, 0
        for k in sorted(trace.lines):
            step = self.program.steps[k]
            if isinstance(step.op, Joint):
                continue
            site = self._site(k, at, bent)
            self.sites[k] = site
            at = site.cut.stop
            bent = bent if site.curved is None else site.curved.stop
            l, u = (t.reshape(-1) for t in trace.boxes[site.value])
            lower.append(l if site.index is None else l[site.index])
            upper.append(u if site.index is None else u[site.index])
        empty = trace.boxes[0][0].new_zeros(0)
        straight_and_bent = at
        self.factors: list[Factor] = factors_of(trace, at) if split else []
        for f in self.factors:
            at = f.cut.stop
            for ends, t in ((lower, trace.boxes[f.value][0]), (upper, trace.boxes[f.value][1])):
                ends.append(f.pick(t.reshape(1, -1)).squeeze(0))
        self.factors_at = {k: [f for f in self.factors if f.step == k] for k in {f.step for f in self.factors}}
        self.readers: list[Site | Factor] = [*self.sites.values(), *self.factors]
        self.split_steps = {s.step for s in self.readers}
        self.width = at
        self.lower, self.upper = torch.cat([empty, *lower]), torch.cat([empty, *upper])
        self.kin = Kin(self.program, self.readers, at, empty.device) if split else None
        if self.kin is not None:  # the same entry may have been bounded more tightly where another step reads it
            self.kin.share(self.lower[None], self.upper[None])
        self.alpha, self.up_a, self.up_b, self.lo_b, self.least, self.most, self.left, self.right = (
            (torch.cat([empty, *parts]) for parts in zip(*map(self._root_lines, self.sites.values())))
            if self.sites
            else (empty,) * 8
        )
        if at > straight_and_bent:  # factors have no lines
            none = empty.new_zeros(at - straight_and_bent)
            for name in ("alpha", "up_a", "up_b", "lo_b", "least", "most", "left", "right"):
                setattr(self, name, torch.cat([getattr(self, name), none]))
        self.is_factor = torch.arange(at, device=empty.device) >= straight_and_bent
        self.is_curve = torch.zeros(at, dtype=torch.bool, device=empty.device)
        self.curve_of = torch.full((at,), -1, dtype=torch.int64, device=empty.device)  # column to curved column
        for site in self.sites.values():
            if site.curved is not None:
                self.is_curve[site.cut] = True
                self.curve_of[site.cut] = torch.arange(site.curved.start, site.curved.stop, device=empty.device)
        self.shifted = bool((self.lo_b[~self.is_curve] != 0).any())
        self.curves = self._root_curves(bent)
        self.kinked = (self.lower < 0) & (self.upper > 0) & (self.left < self.right)
        self.bendable = self.is_factor & (self.lower < self.upper)  # may be split again and again
        if self.curves is not None:
            self.bendable[self.is_curve] = self.curves.free[0]
        if split:
            self._gather_kin()
        self.splittable = self.kinked | self.bendable

    def hint(self, t: Tensor) -> Tensor:
        """Numbers to optimise with: infinite ones, if there may be some, replaced by ones so large that no row that
        reads one seems refuted, while 0 times one is 0.
        """
        return torch.nan_to_num(t, nan=0.0, posinf=LARGE, neginf=-LARGE) if self.trace.wild else t

    def _hinted(self, planes: Planes) -> Planes:
        if not self.trace.wild:
            return planes
        out = copy(planes)
        out.lo_b, out.up_b = self.hint(planes.lo_b), self.hint(planes.up_b)
        return out

    def _gather_kin(self) -> None:
        """What planes of products are drawn from, and which columns speak for those that are like them."""
        self.mixes = {
            k: self.program.steps[k].op.mix(*(self.trace.boxes[i] for i in self.program.steps[k].inputs))
            for k in self.factors_at
        }
        first = self.kin.first
        speaks = first == torch.arange(self.width, device=first.device)
        for name in ("kinked", "bendable"):
            mine = getattr(self, name)
            any_of = torch.zeros_like(mine, dtype=torch.uint8).scatter_reduce(0, first, mine.to(torch.uint8), "amax")
            setattr(self, name, (any_of > 0) & speaks)
        # What a curve makes is narrowed as well by splitting what it reads, whose lines gain then.
        for source, target in self.kin.made.values():
            mine = first[target]
            self.bendable[mine] &= ~self.bendable[first[source]]

    def moved(self, new: Relaxation) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """For every column (K,): the column of the same entry in `new`, a relaxation of the same program and region;
        the one that speaks there for the entry, by whichever column it has; -1 where there is none. And the box of the
        entry there, two of (K,).
        """
        there = torch.full((self.width,), new.width, dtype=torch.int64, device=self.lower.device)
        low, high = torch.full_like(self.lower, -torch.inf), torch.full_like(self.lower, torch.inf)
        places = {(s.step, s.slot): s for s in new.readers}
        for site in self.readers:
            c, l, u = site.cut, *(t.reshape(-1) for t in new.trace.boxes[site.value])
            low[c], high[c] = (t if site.index is None else t[site.index] for t in (l, u))
            if (site.step, site.slot) in places:
                place = places[site.step, site.slot]
                at = torch.full((len(l),), new.width, dtype=torch.int64, device=there.device)
                index = torch.arange(len(l), device=at.device) if place.index is None else place.index
                at[index] = torch.arange(place.cut.start, place.cut.stop, device=at.device)
                there[c] = at if site.index is None else at[site.index]
        any_of = there
        if self.kin is not None:  # another column of the entry may still be there
            first = self.kin.first
            any_of = torch.full_like(there, new.width).scatter_reduce(0, first, there, "amin")[first]
        last = there.new_tensor([-1])
        speaks = torch.arange(new.width, device=there.device) if new.kin is None else new.kin.first
        return torch.where(there < new.width, there, -1), torch.cat([speaks, last])[any_of], low, high

    @cached_property
    def terms(self) -> Terms:
        """The terms of products, for those who compare splits by them: many in networks with attention."""
        return Terms.of(self.program, self.factors, self.kin)

    def boxes(
        self, splits: Splits, boxes: tuple[Tensor, Tensor] | None = None, program: Program | None = None
    ) -> tuple[Tensor, Tensor]:
        """Boxes (N, K) of all columns where the splits hold: the root's or `boxes` (N, K), cut by the splits and by
        what these mean for other columns. In the precision of `program`, which speaks for the functions.
        """
        program = program or self.program
        l, u = (t.to(program.dtype) for t in splits.boxes(*(boxes or (self.lower, self.upper))))
        if self.kin is not None:
            self.kin.spread(program, self.lower, self.upper, l, u)
        return l, u

    def operands(self, step: int, l: Tensor, u: Tensor, root: list) -> tuple[tuple[Tensor, Tensor], ...] | None:
        """The boxes (N, *in_shape) of what a product's step reads, factors in their columns' boxes l, u (N, K), others
        in the `root` ones; None where all of these are the root's.
        """
        mine = self.factors_at[step]
        c = torch.cat([torch.arange(f.cut.start, f.cut.stop, device=l.device) for f in mine])
        if not bool(((l[:, c] > self.lower[c]) | (u[:, c] < self.upper[c])).any()):
            return None
        found = [root[i] for i in self.program.steps[step].inputs]
        for f in mine:
            ends = []
            for whole, part in zip(found[f.slot], (l, u)):
                if f.index is None:
                    new = part[:, f.cut]
                else:
                    new = whole.reshape(1, -1).expand(len(part), -1).clone()
                    new[:, f.index] = part[:, f.cut].to(new.dtype)
                ends.append(new.reshape(len(part), *whole.shape[1:]).to(whole.dtype))
            found[f.slot] = tuple(ends)
        return tuple(tuple(t.expand(len(l), *t.shape[1:]) for t in box) for box in found)

    def planes(self, l: Tensor, u: Tensor) -> dict[int, Planes]:
        """The planes of products whose factors' boxes l, u (N, K) are narrower than the root's, by step."""
        found = {}
        for k in self.mixes if self.kin is not None else ():
            boxes = self.operands(k, l, u, self.trace.boxes)
            if boxes is not None:
                found[k] = self.program.steps[k].op.planes(boxes, self.mixes[k])
        return found

    def _root_curves(self, count: int) -> Curves | None:
        """The free lines of all curved columns on the root's boxes, (1, C) each; None where there are none."""
        if not count:
            return None
        parts = []
        for k, site in self.sites.items():
            if site.curved is None:
                continue
            c, op = site.cut, self.program.steps[k].op
            lines = [t[c][None] for t in (self.alpha, self.lo_b, self.up_a, self.up_b)]
            l, u = self.lower[c][None], self.upper[c][None]
            parts.append(curves_of(op, l, u, lines) if isinstance(op, Pointwise) and op.uniform else frozen(lines))
        return Curves.cat(parts)

    @property
    def upper_slopes(self) -> Tensor:
        """(C,) default upper slopes of the curved columns."""
        return self.up_a[self.is_curve]

    def _root_lines(self, site: Site) -> tuple[Tensor, ...]:
        """Per column: default lower slope, upper slope and offset, lower offset, range of the lower slope, and the
        slopes left and right of the kink (equal where there is none to split at).
        """
        step, lines = self.program.steps[site.step], self.trace.lines[site.step]
        lo_a, lo_b, up_a, up_b = (None if t is None else self.hint(t) for t in lines)
        lo_a, up_a = self._flat(lo_a, site), self._flat(up_a, site)
        lo_b, up_b = (torch.zeros_like(lo_a) if t is None else self._flat(t, site) for t in (lo_b, up_b))
        if not site.convex:
            zero, far = torch.zeros_like(lo_a), torch.full_like(lo_a, torch.inf)
            return lo_a, up_a, up_b, lo_b, -far, far, zero, zero  # `Curves` holds the slopes' ranges
        left, right = (torch.full_like(lo_a, float(v)) for v in step.op.slopes)
        crossing = (self._flat(self.trace.boxes[site.value][0], site) < 0) & (
            self._flat(self.trace.boxes[site.value][1], site) > 0
        )
        lo_b = torch.where(crossing, 0.0, lo_b)
        least, most = torch.where(crossing, left, lo_a), torch.where(crossing, right, lo_a)
        return lo_a, up_a, up_b, lo_b, least, most, left, right

    def _flat(self, t: Tensor, site: Site) -> Tensor:
        t = t.reshape(-1)
        return t if site.index is None else t[site.index]

    def _site(self, k: int, at: int, bent: int) -> Site:
        trace, step = self.trace, self.program.steps[k]
        lines = trace.lines[k]
        value = step.inputs[0]
        loose = step.op.loose(*trace.boxes[value]).reshape(-1)
        if value in trace.asked:
            loose &= trace.asked[value]
        index = torch.nonzero(loose).squeeze(1)
        count = len(index)
        keep = lines.lo_a.reshape(-1)
        shift = None
        if lines.lo_b is not None:
            shift = torch.where(loose, 0.0, self.hint(lines.lo_b).reshape(-1))
            shift = shift if bool((shift != 0).any()) else None
        convex = isinstance(step.op, ThroughZero) and step.op.slopes[0] <= step.op.slopes[1]
        least, most = (step.op.slopes[0], step.op.slopes[1]) if convex else (0.0, 0.0)
        whole = 2 * count > len(loose)  # picking most columns costs more than taking all
        if whole:
            index, count, shift = None, len(loose), None
        curved = None if convex or not count else slice(bent, bent + count)
        return Site(k, value, index, slice(at, at + count), keep, shift, convex, float(least), float(most), curved)

    def project(self, m: Multipliers, lines: ColumnLines) -> None:
        """Moves slopes into their ranges, in place."""
        torch.clamp(m.alpha, lines.least, lines.most, out=m.alpha)
        if lines.curves is not None:
            lines.curves.project(m.alpha, m.upper, self.is_curve)

    def lines(self, splits: Splits, boxes: tuple[Tensor, Tensor] | None = None) -> ColumnLines:
        """Lines of all columns in domains with the given splits: the root's, drawn anew where a column was split, or
        where `boxes` (N, K) of the columns are smaller than the root's.
        """
        n = len(splits.column)
        flat = (t.expand(n, -1).clone() for t in (self.up_a, self.up_b, self.least, self.most))
        lines = ColumnLines(*flat, None if self.curves is None else self.curves.expand(n))
        if boxes is None and not bool((splits.column >= 0).any()):
            return lines
        l, u = self.boxes(splits, boxes)
        if boxes is not None:
            self._narrow(lines, l, u)
        least, most = boxes or (self.lower, self.upper)
        narrower = (l > least) | (u < most)  # by splits, of these columns or of others
        row, j = torch.nonzero(splits.column >= 0, as_tuple=True)
        narrower[row, splits.column[row, j]] = True
        row, column = torch.nonzero(narrower, as_tuple=True)
        self.redraw(lines, row, column, l[row, column], u[row, column])
        lines.planes = self.planes(l, u)
        return lines

    def _narrow(self, lines: ColumnLines, l: Tensor, u: Tensor) -> None:
        """Draws the lines of columns whose boxes l, u (N, K) are smaller than the root's, in place."""
        smaller = (l > self.lower) | (u < self.upper)
        if self.curves is not None:
            much = (u - l) < WORTH * (self.upper - self.lower)
            row, column = torch.nonzero(smaller & much & self.is_curve, as_tuple=True)
            self.redraw(lines, row, column, l[row, column], u[row, column])
            smaller = smaller & ~self.is_curve
        crossing = (l < 0) & (u > 0)
        slope = torch.where(l >= 0, self.right, self.left)
        up_a, up_b = (torch.where(crossing, t, other) for t, other in zip(self.chord_of(..., l, u), (slope, 0.0)))
        smaller &= torch.isfinite(up_a) & torch.isfinite(up_b)
        lines.up_a, lines.up_b = torch.where(smaller, up_a, lines.up_a), torch.where(smaller, up_b, lines.up_b)
        smaller &= ~crossing
        lines.least, lines.most = (torch.where(smaller, slope, t) for t in (lines.least, lines.most))

    def chord_of(self, column, l: Tensor, u: Tensor) -> tuple[Tensor, Tensor]:
        """The upper lines of kinks at `column` on [l, u], like l: where l < 0 < u."""
        left, right, width = self.left[column], self.right[column], (u - l).clamp(min=torch.finfo(l.dtype).tiny)
        return (right * u - left * l) / width, (right - left) * u * (-l / width)

    def redraw(self, lines: ColumnLines, row: Tensor, column: Tensor, l: Tensor, u: Tensor) -> None:
        """Draws the lines of columns (M,) of domains `row` (M,), kinks and curves, on intervals [l, u] (M,), in
        place.
        """
        if not len(row):
            return
        bent = self.is_curve[column] if self.curves is not None else torch.zeros_like(column, dtype=torch.bool)
        kink = ~bent
        c, low, high = column[kink], l[kink], u[kink]
        at = row[kink] * self.width + c
        crossing = (low < 0) & (high > 0)
        slope = torch.where(low >= 0, self.right[c], self.left[c])
        up_a, up_b = self.chord_of(c, low, high)
        good = torch.isfinite(up_a) & torch.isfinite(up_b)
        lines.up_a.view(-1)[at] = torch.where(crossing, torch.where(good, up_a, lines.up_a.view(-1)[at]), slope)
        lines.up_b.view(-1)[at] = torch.where(crossing, torch.where(good, up_b, lines.up_b.view(-1)[at]), 0.0)
        if lines.least is not None:
            lines.least.view(-1)[at] = torch.where(crossing, lines.least.view(-1)[at], slope)
            lines.most.view(-1)[at] = torch.where(crossing, lines.most.view(-1)[at], slope)
        if not bool(bent.any()):
            return
        for k, site in self.sites.items():
            if site.curved is None:
                continue
            mine = (column >= site.cut.start) & (column < site.cut.stop)
            op = self.program.steps[k].op
            if bool(mine.any()) and op.uniform:
                a, b = l[mine][None], u[mine][None]
                default = [self.hint(t) if t is not None else torch.zeros_like(a) for t in op.relax(a, b)]
                fresh = curves_of(op, a, b, default)
                lines.curves.put(row[mine], self.curve_of[column[mine]], fresh)


@dataclass
class ColumnLines:
    """Upper lines (N, K) of kinks, and the ranges of their lower slopes (N, K), which are points where a kink is
    decided. `curves`: the lines of curved columns (N, C). `planes`: of the products, by step, that have other planes
    than the root's, one for each domain.
    """

    up_a: Tensor
    up_b: Tensor
    least: Tensor | None
    most: Tensor | None
    curves: Curves | None = None
    planes: dict[int, Planes] = field(default_factory=dict)

    def take(self, index: Tensor) -> ColumnLines:
        """The lines of some domains (N',)."""
        curves = None if self.curves is None else self.curves.take(index)
        planes = {k: p.take(index) for k, p in self.planes.items()}
        return ColumnLines(self.up_a[index], self.up_b[index], self.least[index], self.most[index], curves, planes)

    def repeat(self, owner: Tensor) -> ColumnLines:
        """Copies of the lines of domains `owner` (M,), which may repeat, without the ranges of slopes: multipliers that
        were projected before must be used; and without planes, which a caller draws.
        """
        curves = None if self.curves is None else self.curves.take(owner)
        return ColumnLines(self.up_a[owner], self.up_b[owner], None, None, curves)


@dataclass
class Splits:
    """Splits sign (z_column - point) >= 0 of N domains, (N, P) each; column -1 where a domain has fewer."""

    column: Tensor
    sign: Tensor
    point: Tensor

    @staticmethod
    def none(count: int, like: Tensor) -> Splits:
        empty = like.new_zeros((count, 0))
        return Splits(empty.long(), empty, empty.clone())

    def take(self, index: Tensor | slice) -> Splits:
        return Splits(self.column[index], self.sign[index], self.point[index])

    def boxes(self, lower: Tensor, upper: Tensor) -> tuple[Tensor, Tensor]:
        """Boxes (N, K) of all columns: the root's (K,) or the domains' own (N, K), cut by the splits."""
        n = len(self.column)
        l, u = lower.expand(n, lower.shape[-1]).clone(), upper.expand(n, upper.shape[-1]).clone()
        for ends, mine, how in ((l, self.sign > 0, "amax"), (u, self.sign <= 0, "amin")):
            row, j = torch.nonzero((self.column >= 0) & mine, as_tuple=True)
            at, point = row * ends.shape[1] + self.column[row, j], self.point[row, j].to(ends.dtype)
            ends.view(-1).scatter_reduce_(0, at, point, how)
        return l, u


@dataclass
class Start:
    """Where rows begin: coefficients by value (N, *shape) that no weights mix, or rows over the output.

    `live`, `bias`: fixed rows standing on values up to `top`. Or `rows` (N, S, p), `const` (N, S) over the output,
    mixed by weights (N, S) that are optimised too.
    """

    top: int
    live: dict[int, Tensor] | None = None
    bias: Tensor | None = None
    rows: Tensor | None = None
    const: Tensor | None = None

    def take(self, index: Tensor) -> Start:
        if self.rows is not None:
            return Start(self.top, rows=self.rows[index], const=self.const[index])
        return Start(self.top, {k: t[index] for k, t in self.live.items()}, self.bias[index])


@dataclass
class Multipliers:
    """Slopes alpha (N, K) of lower lines and upper (N, C) of the curved columns' upper lines; beta (N, P), weights (N,
    S).
    """

    alpha: Tensor
    upper: Tensor
    beta: Tensor
    weights: Tensor

    def take(self, index: Tensor | slice) -> Multipliers:
        return Multipliers(*(getattr(self, f.name)[index] for f in fields(self)))

    def clone(self) -> Multipliers:
        return Multipliers(*(getattr(self, f.name).clone() for f in fields(self)))
