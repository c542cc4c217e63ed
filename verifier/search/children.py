"""What a split would do to a case: the bounds of both children without optimising them, and what heuristics see.

Trials pass a child's row down from the topmost step whose lines or planes the split changes; shortcuts take planes of
the whole region instead (`verifier.branching.bbps`). Both only rank splits, and prove nothing.

Symbols: N cases, K columns, J factors of products, C candidates, M children, as in `verifier.search.cases`.
"""

from __future__ import annotations

import torch
from torch import Tensor

from verifier.bounds.columnplanes import ColumnPlanes
from verifier.bounds.relaxation import ColumnLines, Multipliers, Relaxation, Start
from verifier.bounds.walk import Pass
from verifier.branching.points import Points, Rule, rule
from verifier.branching.view import View
from verifier.ops.bilinear import term_lines
from verifier.search.cases import Cases

SHORTCUT_ENTRIES = 1 << 22  # numbers of planes that are added up at a time


class Children:
    """The rows, the planes and the split points of one region."""

    def __init__(self, relaxation: Relaxation, rows: Tensor, const: Tensor, planes: ColumnPlanes, points: Points):
        """`rows` (K, S, p), `const` (K, S): those of the disjuncts."""
        self.relaxation, self.rows, self.const, self.planes, self.points = relaxation, rows, const, planes, points
        self.bias = self._constants()
        self.rules, self.rule_of = self._rules()
        self.straight = torch.tensor([*(bool(c.kinks) for c in self.rules), False], device=self.bias.device)
        self.top = self._tops()

    def _constants(self) -> Tensor:
        """Per column the constant of the affine step before it."""
        r = self.relaxation
        bias = torch.zeros_like(r.lower)
        for site in r.readers:
            offset = r.offsets.get(site.value)
            if offset is not None:
                bias[site.cut] = offset if site.index is None else offset[site.index]
        return bias

    def _rules(self) -> tuple[list[Rule], Tensor]:
        """The ways to choose split points, and which of them each column takes: (K,), -1 for single kinks, at 0.

        All operators that read the value have a say in where.
        """
        r = self.relaxation
        sets: dict[frozenset[int], int] = {frozenset(): 0}
        which = torch.zeros_like(r.kin.first)  # the steps that read an entry, told to the column that speaks for it
        for site in r.readers:
            mine, held = torch.unique(r.kin.first[site.cut]), list(sets)
            old, place = torch.unique(which[mine], return_inverse=True)
            wider = [sets.setdefault(held[i] | {site.step}, len(sets)) for i in old.tolist()]
            which[mine] = old.new_tensor(wider)[place]
        rules: dict[Rule, int] = {}
        used, place = torch.unique(which, return_inverse=True)
        chosen, held = [], list(sets)
        for steps in (held[i] for i in used.tolist()):
            ops = tuple(r.program.steps[k].op for k in sorted(steps))
            single = all(k in r.sites and r.sites[k].convex for k in steps)
            chosen.append(-1 if single else rules.setdefault(rule(ops), len(rules)))
        return list(rules), used.new_tensor(chosen)[place]

    def _tops(self) -> Tensor:
        """(K,): for each column the last step that its split narrows."""
        r = self.relaxation
        step = torch.zeros(r.width, dtype=torch.int64, device=r.lower.device)
        for s in r.readers:
            step[s.cut] = s.step
        here, there = r.kin.sums()
        return torch.zeros_like(step).scatter_reduce(0, there, step[here], "amax")

    def _start(self, slot: Tensor) -> Start:
        r = self.relaxation
        return Start(r.program.output, rows=self.rows[slot], const=self.const[slot].to(r.lower.dtype))

    def _ends(self, kept: Cases) -> tuple[Tensor, Tensor]:
        """Where the columns' values lie in cases, (N, K) each."""
        r = self.relaxation
        return r.boxes(kept.splits, kept.boxes(r.lower, r.upper))

    def _view(
        self, kept: Cases, lines: ColumnLines, m: Multipliers, coef: Tensor, z: Tensor, free: Tensor
    ) -> tuple[View, Tensor | None]:
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
        price = walked = None
        if r.factors:
            walked = self._walked(kept, lines, m)
            price, here = self._losses(walked[0], z, l, u)
            width, f = (u - l)[:, r.is_factor], r.is_factor
            coef = coef.clone()
            coef[:, f], true[:, f], below[:, f], above[:, f] = 1.0, here, 0.0, 0.0
            # A split halves what a product loses and quarters what a smooth function does, whose lines `thick` is for:
            # twice the average distance to either of them.
            thick[:, f] = 2 * price * width * (1 / 2) / (3 / 4)
        trial = lambda columns: self.trial(kept, lines, m, columns)
        shortcut = lambda columns: self.shortcut(kept, lines, m, columns, walked)
        local = lambda columns: self.shortcut(kept, lines, m, columns, walked, planes=False)
        view = View(
            coef,
            below,
            above,
            true,
            lines.up_a,
            lines.up_b,
            self.bias,
            thick,
            r.is_curve | r.is_factor,
            free,
            kept.score,
            trial,
            shortcut,
            local,
            r.kin.sums() if r.factors or len(r.kin.twins) else None,
        )
        return view, price

    def _walked(self, kept: Cases, lines: ColumnLines, m: Multipliers) -> tuple[Pass, Tensor]:
        """A backward pass over cases, and its bounds (N,)."""
        walk = Pass(self.relaxation, self._start(kept.slot), lines, kept.splits)
        return walk, walk.backward(m)

    def _losses(self, walk: Pass, z: Tensor, l: Tensor, u: Tensor) -> tuple[Tensor, Tensor]:
        """What bounds lose by products, for each factor (N, J): per unit of its width, and at relaxed values z (N, K).

        Factors that are no columns count at the middle of their root's boxes.
        """
        r = self.relaxation
        n, first = len(z), r.width - int(r.is_factor.sum())
        price, here = (z.new_zeros((n, r.width - first)) for _ in range(2))
        for k, mine in r.factors_at.items():
            if k not in walk.joint:
                continue
            step = r.program.steps[k]
            boxes = r.operands(k, l, u, r.trace.boxes) or [
                tuple(t.expand(n, *t.shape[1:]) for t in r.trace.boxes[i]) for i in step.inputs
            ]
            at = [low + (high - low) / 2 for low, high in boxes]
            for f in mine:
                flat = at[f.slot].reshape(n, -1).clone()
                flat[:, slice(None) if f.index is None else f.index] = z[:, f.cut]
                at[f.slot] = flat.reshape(at[f.slot].shape)
            per, lost = step.op.losses(walk.joint[k], tuple(boxes), tuple(at), r.mixes[k])
            for f in mine:
                cut = slice(f.cut.start - first, f.cut.stop - first)
                price[:, cut], here[:, cut] = (f.pick(t[f.slot].reshape(n, -1)) for t in (per, lost))
        return torch.nan_to_num(price), torch.nan_to_num(here)

    def _points(self, columns: Tensor, l: Tensor, u: Tensor) -> Tensor:
        """Where to split columns (N, Q) of domains whose columns' boxes are l, u (N, K)."""
        at = columns.clamp(min=0)
        low, high = l.gather(1, at), u.gather(1, at)
        points, which = torch.zeros_like(low), self.rule_of[at]
        which = torch.where(self.relaxation.kinked[at] & (low < 0) & (high > 0) & ~self.straight[which], -1, which)
        for i, chosen in enumerate(self.rules):
            mine = torch.nonzero((which == i).view(-1)).squeeze(1)
            if len(mine):
                points.view(-1)[mine] = self.points.at(chosen, low.view(-1)[mine], high.view(-1)[mine])
        return points

    def trial(self, kept: Cases, lines: ColumnLines, m: Multipliers, columns: Tensor) -> Tensor:
        """Bounds (N, C, 2) of both children, z >= p first, of splits at columns (N, C), multipliers as they are; -inf
        for columns of -1. Above the topmost step that the split narrows nothing changes: children start where the
        parents' pass stood there.
        """
        r = self.relaxation
        states: dict[int, Start] = {}
        Pass(r, self._start(kept.slot), lines, kept.splits).backward(m, states)
        l, u = self._ends(kept)
        points = self._points(columns, l, u)
        bounds = lines.up_a.new_full((*columns.shape, 2), -float("inf"))
        top = torch.where(columns >= 0, self.top[columns.clamp(min=0)], -1)
        for k, state in states.items():
            owner, place = torch.nonzero(top == k, as_tuple=True)
            if not len(owner):
                continue
            column, point = columns[owner, place], points[owner, place]
            splits = kept.splits.take(owner)
            for side in (0, 1):
                # The parent's slopes serve everything else, and are already in their ranges.
                mine = m.take(owner)
                low, high, row, less = self._narrowed(l, u, owner, column, point, side)
                child = lines.repeat(owner)
                self._redraw(child, mine, row, less, (low[row, less], high[row, less]))
                child.planes = r.planes(low, high)
                walk = Pass(r, state.take(owner), child, splits)
                bounds[owner, place, side] = walk.backward(mine)
        return bounds

    def _narrowed(
        self, l: Tensor, u: Tensor, owner: Tensor, column: Tensor, point: Tensor, side: int
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """The columns' boxes (M, K) of children of domains `owner` (M,) with boxes l, u (N, K), split at `column` and
        `point` (M,), z >= p for side 0; and places (J,), (J,) of those with lines that are narrower than the parents'.
        """
        r, each = self.relaxation, torch.arange(len(owner), device=owner.device)
        low, high = l[owner], u[owner]
        before = low.clone(), high.clone()
        (low if side == 0 else high)[each, column] = point
        r.kin.spread(r.program, r.lower, r.upper, low, high)
        less = ((low > before[0]) | (high < before[1])) & ~r.is_factor
        return low, high, *torch.nonzero(less, as_tuple=True)

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

    def shortcut(
        self,
        kept: Cases,
        lines: ColumnLines,
        m: Multipliers,
        columns: Tensor,
        walked: tuple[Pass, Tensor] | None = None,
        planes: bool = True,
    ) -> Tensor:
        """The same as `trial` from planes of the whole region: see `verifier.branching.bbps`. `walked`: as `_walked`
        gives it, if that is at hand. Without `planes`, what `verifier.branching.local` describes.
        """
        r, (walk, lb) = self.relaxation, walked or self._walked(kept, lines, m)
        owner, place = torch.nonzero(columns >= 0, as_tuple=True)
        column = columns[owner, place]
        bounds = lb.new_full((*columns.shape, 2), -float("inf"))
        if not len(owner):
            return bounds
        l, u = self._ends(kept)
        point = self._points(columns, l, u)[owner, place]
        for side in (0, 1):
            low, high, row, less = self._narrowed(l, u, owner, column, point, side)
            a = walk.coef[owner[row], less]
            old = self._line(lines, m, owner[row], less, a)
            new = self._fresh(old, less, low[row, less], high[row, less], a)
            changes = [(row, less, a * (new[0] - old[0]))]
            more = lb.new_zeros(len(owner)).index_add_(0, row, a * (new[1] - old[1]))
            if r.factors:
                self._term_changes(walk, (l, u), (low, high), owner, column, changes, more)
            which, entry, d = (torch.cat(t) for t in zip(*changes))
            entry = r.kin.first[entry]
            if planes:
                estimate = torch.nan_to_num(self._at_input(walk, owner, more, which, entry, d), nan=-torch.inf)
                estimate = torch.maximum(estimate, lb[owner])
            else:
                estimate = torch.nan_to_num(lb[owner] + more.index_add_(0, which, d * self.bias[entry]), nan=-torch.inf)
            bounds[owner, place, side] = estimate
        return bounds

    def _at_input(self, walk: Pass, owner: Tensor, more: Tensor, which: Tensor, entry: Tensor, d: Tensor) -> Tensor:
        """The bounds (M,) of children of domains `owner` (M,), whose rows gain `more` (M,) and d (T,) times the values
        of the columns `entry` (T,) in child `which` (T,), by the region's planes of these values.
        """
        around = self.planes.middle
        plane, height = walk.plane[:, around.moving][owner], torch.mv(walk.plane, around.c)[owner]
        height = height + walk.bias[owner] + more
        step = max(1, SHORTCUT_ENTRIES // max(1, 2 * plane.shape[1]))
        for at in range(0, len(which), step):
            part = slice(at, at + step)
            both = self.planes.of(entry[part])
            above, below = both.at((slice(None), 0)), both.at((slice(None), 1))  # of the value, and of it negated
            up, down = d[part].clamp(min=0), -d[part].clamp(max=0)
            plane.index_add_(0, which[part], up[:, None] * above.a + down[:, None] * below.a)
            height.index_add_(0, which[part], up * above.mid.to(d.dtype) + down * below.mid.to(d.dtype))
        return height - torch.mv(plane.abs_(), around.r)

    def _term_changes(
        self,
        walk: Pass,
        old: tuple[Tensor, Tensor],
        new: tuple[Tensor, Tensor],
        owner: Tensor,
        column: Tensor,
        changes: list[tuple[Tensor, Tensor, Tensor]],
        more: Tensor,
    ) -> None:
        """What becomes of the planes of products in children (M,) split at `column`, whose columns' boxes are `new`
        (M, K), those of all domains `old` (N, K): adds to `changes` the children, columns and amounts, and to `more`
        (M,) the offsets.
        """
        r, terms = self.relaxation, self.relaxation.terms
        which, term = terms.narrowed_by(column)
        for k, mix in r.mixes.items():
            mine = terms.step[term] == k
            if k not in walk.joint or not bool(mine.any()):
                continue
            row, t = which[mine], term[mine]
            rows = walk.joint[k].reshape(len(walk.coef), -1)[owner[row], terms.out[t]]
            a, b = terms.a[t], terms.b[t]
            before = term_lines(mix, rows, *(tuple(e[owner[row], c] for e in old) for c in (a, b)))
            after = term_lines(mix, rows, *(tuple(e[row, c] for e in new) for c in (a, b)))
            p, q, e = (torch.nan_to_num(y - x) for x, y in zip(before, after))
            changes += [(row, a, rows * p), (row, b, rows * q)]
            more.index_add_(0, row, rows * e)

    def _fresh(
        self, old: tuple[Tensor, Tensor], column: Tensor, l: Tensor, u: Tensor, a: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Slope and offset (M,) of the default line on [l, u] (M,) that a coefficient `a` (M,) at the output of
        `column` (M,) asks for; `old` where none is drawn.
        """
        r, crossing, lower = self.relaxation, (l < 0) & (u > 0), a > 0
        up_a, up_b = r.chord_of(column, l, u)
        slope = torch.where(crossing, up_a, torch.where(l >= 0, r.right[column], r.left[column]))
        offset = torch.where(crossing & ~lower, up_b, 0.0)
        for k, site in r.sites.items():
            if site.curved is None:
                continue
            mine, op = (column >= site.cut.start) & (column < site.cut.stop), r.program.steps[k].op
            if not bool(mine.any()):
                continue
            if not op.uniform:
                slope[mine], offset[mine] = old[0][mine], old[1][mine]
                continue
            lines = [t if t is not None else torch.zeros_like(l[mine]) for t in op.relax(l[mine][None], u[mine][None])]
            lo_a, lo_b, up_a, up_b = (t.reshape(-1) for t in lines)
            slope[mine], offset[mine] = torch.where(lower[mine], lo_a, up_a), torch.where(lower[mine], lo_b, up_b)
        return slope, offset

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
