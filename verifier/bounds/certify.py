"""Evaluates multipliers with the error terms of `verifier.bounds.backward`: what turns a hint into a proof.

A domain is a region's box cut by splits sign (z_e - p) >= 0; its row is the weighted sum of a disjunct's rows. Given
any slopes, multipliers and weights, one backward pass yields a bound that holds in real arithmetic for every input of
the region that satisfies the splits, because

* the lines of an unstable neuron with one kink at 0 are drawn on its root box cut by the domain's splits: a lower slope
  is clamped to the range where it is sound without offset (the function is convex, through 0), the upper line is the
  operator's own `relax`;
* curved columns whose function is the same at every entry take the slopes asked for with the exact offset of their
  root box cut by the splits (`Pointwise.offsets`, sound for any slope), in this precision;
* planes of products whose factors are split are the operator's own `planes`, on the factors' root boxes cut by the
  splits;
* a split of one column cuts the boxes of all columns that hold the same number, and those of factors that a function
  makes of it (`verifier.bounds.factors`), with the functions of this precision;
* lines of all other entries and steps are the root's, valid on all of the region;
* b sign (z_e - p) >= 0 holds in the domain for b >= 0 (negative b are set to 0), so subtracting it can only lower the
  row;
* weights are >= 0 (negative ones are set to 0), and if all rows of the disjunct were <= 0 so were the sum.

Rounding is charged as in `verifier.bounds.backward`: magnitudes, sizes and constants of the root bound those of every
domain. The pass may run in a finer precision than the root did: the root's boxes and lines are exact numbers, and its
magnitudes, rounded by less than a percent, enter the charge only.

Symbols: N domains, K columns, P splits, S rows of the disjunct, p outputs.
"""

from __future__ import annotations

import torch
from torch import Tensor

from verifier.bounds.backward import Rows, backward, charge_for, concretise
from verifier.bounds.factors import Factor
from verifier.bounds.program import Program
from verifier.bounds.relaxation import Multipliers, Relaxation, Site, Splits
from verifier.bounds.trace import Cuts, Trace, count_underflow, weigh
from verifier.ops.base import Affine, Joint, Lines, size


class Certifier:
    """Evaluates domains of one region in the precision of `program` (the relaxation's own, or a finer one)."""

    def __init__(self, relaxation: Relaxation, program: Program):
        self.r, self.program = relaxation, program
        root, dtype = relaxation.trace, program.dtype
        self.base = Trace(program, [(l.to(dtype), u.to(dtype)) for l, u in root.boxes])
        self.base.wild = root.wild
        self.base.magnitudes = {k: t.to(dtype) for k, t in root.magnitudes.items()}
        for k in range(len(root.boxes)):
            self.base.sizes[k] = root.size_of(k).to(dtype)
        for k in range(1, len(root.boxes)):
            step = program.steps[k]
            count_underflow(self.base, k)
            if isinstance(step.op, Affine):
                weigh(self.base, k)
            elif isinstance(step.op, Joint):
                self.base.lines[k] = step.op.relax(*(self.base.boxes[i] for i in step.inputs))
            else:
                self.base.lines[k] = Lines(*(None if t is None else t.to(dtype) for t in root.lines[k]))

    def bounds(
        self, rows: Tensor, const: Tensor, splits: Splits, m: Multipliers, boxes: tuple[Tensor, Tensor] | None = None
    ) -> Tensor:
        """Lower bounds (N,) float64 of the weighted rows (N, S, p) + const (N, S) float64; -inf if nothing is known.

        They hold where the splits do and the columns' values lie in `boxes` (N, K), on all of the region without.
        """
        plane, offset = self.planes(rows, const, splits, m, boxes)
        return self.least(plane, offset)

    def planes(
        self, rows: Tensor, const: Tensor, splits: Splits, m: Multipliers, boxes: tuple[Tensor, Tensor] | None = None
    ) -> tuple[Tensor, Tensor]:
        """Planes (N, m) and offsets (N,) float64 that lie below the weighted rows where the splits hold, and the boxes.
        The offsets have room for what a sum over the planes rounds in this precision.
        """
        lower, upper = self.r.boxes(splits, boxes, self.program)
        dtype, weights = self.program.dtype, m.weights.clamp(min=0)
        trace = self._trace(lower, upper, splits, m)
        w = torch.nan_to_num(weights.to(dtype), nan=0.0, posinf=0.0)
        terms = rows.to(dtype) * w.unsqueeze(-1)
        zero = terms.new_zeros(len(terms))
        start = Rows({self.program.output: terms.sum(1)}, zero, zero.clone())
        weight = trace.size_of(self.program.output) * self.program.product_error(rows.shape[1] + 1)
        charge_for(trace, start, terms.abs().sum(1), weight)
        parts = const.double() * w.double()
        slack = (rows.shape[1] + 2) * torch.finfo(torch.float64).eps * parts.abs().sum(1)
        plane, offset = self._down(trace, self.program.output, start)
        return plane, offset.double() + parts.sum(1) - slack

    def seeded(self, start: Rows, top: int, splits: Splits, m: Multipliers) -> tuple[Tensor, Tensor]:
        """Planes (N, m) and offsets (N,) below rows that stand on values up to `top`, where the splits hold."""
        trace = self._trace(*self.r.boxes(splits, None, self.program), splits, m)
        return self._down(trace, top, start)

    def _down(self, trace: Trace, top: int, start: Rows) -> tuple[Tensor, Tensor]:
        """Planes (N, m) and offsets (N,) of rows over values up to `top`."""
        plane, bias, charge = backward(trace, top, start, 1)
        return plane.squeeze(1), (bias - charge).squeeze(1)

    def least(self, plane: Tensor, offset: Tensor) -> Tensor:
        """The least values (N,) over the region of planes found here; -inf if nothing is known."""
        low = concretise(plane.unsqueeze(1), *self.base.boxes[0]).squeeze(1) + offset
        return torch.where(torch.isfinite(low), low, -float("inf"))

    def _trace(self, lower: Tensor, upper: Tensor, splits: Splits, m: Multipliers) -> Trace:
        """The root's trace with the domains' lines and cuts in place."""
        base, n, dtype = self.base, len(lower), self.program.dtype
        l, u = base.boxes[0]
        trace = Trace(self.program, [(l.expand(n, -1), u.expand(n, -1))], wild=base.wild)
        trace.weights, trace.offsets, trace.sizes = base.weights, base.offsets, base.sizes
        trace.product_weights, trace.rounding = base.product_weights, base.rounding
        trace.underflow = base.underflow
        trace.lines = {k: t for k, t in base.lines.items() if k not in self.r.sites}
        amount = torch.nan_to_num(m.beta.clamp(min=0), nan=0.0, posinf=0.0).to(dtype) * splits.sign.to(dtype)
        for k, site in self.r.sites.items():
            if not site.convex and not self.program.steps[k].op.uniform:
                # Never split; drawing lines anew on some entries would mix up constants of others.
                trace.lines[k] = Lines(*(None if t is None else t.expand(n, *t.shape[1:]) for t in base.lines[k]))
                continue
            c = site.cut
            cl, cu = lower[:, c].to(dtype), upper[:, c].to(dtype)
            if site.curved is not None:
                trace.lines[k] = self._widen(k, n, self._curves(k, cl, cu, m))
                continue
            lo_a, lo_b, up_a, up_b = self.program.steps[k].op.relax(cl, cu)
            crossing = (cl < 0) & (cu > 0)
            alpha = torch.nan_to_num(m.alpha[:, c].to(dtype), nan=site.least).clamp(site.least, site.most)
            lo_a = torch.where(crossing, alpha, lo_a)
            lo_b = None if lo_b is None else torch.where(crossing, 0.0, lo_b)
            trace.lines[k] = self._widen(k, n, Lines(lo_a, lo_b, up_a, up_b))
        for k in self.r.factors_at:
            boxes = self.r.operands(k, lower, upper, base.boxes)
            if boxes is not None:
                trace.lines[k] = self.program.steps[k].op.planes(boxes, self.r.mixes[k])
        for site in self.r.readers if splits.column.shape[1] else ():
            self._cut(trace, site, splits, amount)
        return trace

    def _curves(self, k: int, l: Tensor, u: Tensor, m: Multipliers) -> Lines:
        """Lines of a step's curved columns on [l, u] (N, k): the slopes asked for with their exact offsets; the root's
        where an offset or an end is not finite.
        """
        site, op, dtype = self.r.sites[k], self.program.steps[k].op, self.program.dtype
        root = [
            l.new_zeros((1, 1)) if t is None else t.reshape(1, -1)[:, slice(None) if site.index is None else site.index]
            for t in self.base.lines[k]
        ]
        parts, finite = [], torch.isfinite(l) & torch.isfinite(u)  # what `offset` asks for
        l, u = torch.where(finite, l, 0.0), torch.where(finite, u, 0.0)
        for side, slope in ((0, m.alpha[:, site.cut]), (1, m.upper[:, site.curved])):
            s = torch.nan_to_num(slope.to(dtype), nan=0.0, posinf=0.0, neginf=0.0)
            offset = op.offset(l, u, s, side == 0)
            known = finite & torch.isfinite(offset)
            parts += [torch.where(known, s, root[2 * side]), torch.where(known, offset, root[2 * side + 1])]
        return Lines(*parts)

    def _widen(self, k: int, n: int, lines: Lines) -> Lines:
        """Lines (N, k) of a step's columns put among the root's lines of its other entries: (N, n) each."""
        index = self.r.sites[k].index
        if index is None:
            return lines
        whole = []
        for root, mine in zip(self.base.lines[k], lines):
            if root is None and mine is None:
                whole.append(None)
                continue
            width = self.base.lines[k].lo_a.numel()
            full = mine.new_zeros((n, width)) if root is None else root.reshape(1, -1).expand(n, -1).clone()
            full[:, index] = 0.0 if mine is None else mine
            whole.append(full)
        return Lines(*whole)

    def _cut(self, trace: Trace, site: Site | Factor, splits: Splits, amount: Tensor) -> None:
        """Puts the multipliers `amount` (N, P) of splits of a reader's columns in place."""
        column, c = splits.column, site.cut
        row, j = torch.nonzero((column >= c.start) & (column < c.stop) & (amount != 0), as_tuple=True)
        if not len(row):
            return
        entry = column[row, j] - c.start
        entry = entry if site.index is None else site.index[entry]
        width = size(self.program.shapes[site.value])
        terms = amount[row, j] * splits.point[row, j].to(amount.dtype)
        zero = amount.new_zeros(len(column))
        bias = zero.index_add(0, row, terms)
        # `sum_error` charges a sum of 128 terms; a longer one is charged as often as its length asks for.
        count, place = splits.column.shape[1], row * width + entry
        mass = zero.index_add(0, row, terms.abs()) * (1 + count * 4 * torch.finfo(amount.dtype).eps) * (1 + count / 64)
        repeats = int(torch.unique(place, return_counts=True)[1].max())
        trace.cuts[site.step, site.slot] = Cuts(place, amount[row, j], bias, mass, repeats)
