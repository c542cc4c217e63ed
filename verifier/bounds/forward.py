"""Forward planes: linear bounds in the input carried along with every value; the cheapest tight bounds when few
dimensions move.

One pass gives boxes for all values at once, at the cost of 2 (k + 1) evaluations of the network per domain, where a
backward pass per entry (`verifier.bounds.crown`) costs as many as there are loose entries. Lines are chosen before it
is known which side a consumer needs, so the boxes are looser. The rows over the output are then bounded backward, on
lines drawn in these boxes. (The forward mode of Xu et al., arXiv 2002.12920, in centre and radius form.)

Every value z carries L(t) - e <= z <= U(t) + e, affine in t in [-1, 1]^k, one t_j for each dimension that moves, where
x = c + r t covers the box; e >= 0 collects rounding errors. Which dimensions move may differ between domains; what does
not move is in c exactly, and what hardly moves, because its ends were rounded, is in e.

Affine y = M z + b: with C = (L + U) / 2 and R = (U - L) / 2, |z - C(t)| <= R(t) + e, so y lies in M C(t) + b ± (|M|
R(t) + |M| e). Column j of the planes is off by at most gamma |M| (|C_j| + |R_j|) + gamma |b|, and |t_j| <= 1: all
columns together go to e. Nonlinear y = f(z) with lines on z's box: L' = lo_a+ L + lo_a- U + lo_b, U' likewise, e' =
max(|lo_a|, |up_a|) e plus the rounding of that. A joint y is treated alike with the matrices of its planes.

Symbols: D domains, m input dimensions, k of them move at most; planes (D, k + 1, *shape), column 0 the constant; e (D,
*shape).
"""

from __future__ import annotations

import torch
from torch import Tensor

from verifier.bounds import METHODS
from verifier.bounds.base import NOTHING, Given, Part, RowBounds, thin, widest
from verifier.bounds.final import final_rows
from verifier.bounds.interval import depends
from verifier.bounds.program import Program, Step
from verifier.bounds.trace import Trace, trace_values
from verifier.ops.base import Affine, Joint, Move, gamma

Planes = tuple[Tensor, Tensor, Tensor]  # L, U, e


class Walker:
    """Carries planes up to the values that are asked for; a value's planes are kept until its last reader has taken
    them.
    """

    def __init__(self, program: Program, l: Tensor, u: Tensor):
        eps = torch.finfo(l.dtype).eps
        c = l + (u - l) / 2
        r = torch.maximum(u - c, c - l) * (1 + 2 * eps)
        narrow = thin(l, u)
        rest, r = torch.where(narrow, r, 0.0), torch.where(narrow, 0.0, r)
        width = int((r > 0).sum(1).max()) if r.numel() else 0
        at = torch.topk((r > 0).to(torch.uint8 if l.device.type == "cpu" else l.dtype), width, dim=1).indices
        columns = torch.zeros((len(l), width, l.shape[1]), dtype=l.dtype, device=l.device)
        columns.scatter_(2, at.unsqueeze(2), r.gather(1, at).unsqueeze(2))
        start = torch.cat([c.unsqueeze(1), columns], 1)
        self.program, self.width = program, width
        self.planes: dict[int, Planes] = {0: (start, start, rest)}
        self.at = 0

    def tighten(self, trace: Trace, value: int, loose: Tensor, limit: int) -> None:
        """Intersects the box of `value` with its planes' range."""
        while self.at < value:
            self.at += 1
            step = self.program.steps[self.at]
            if not trace.moves(self.at):
                continue
            inputs = [self.planes[i] if trace.moves(i) else self._flat(trace, i) for i in step.inputs]
            self.planes[self.at] = self._through(trace, step, inputs)
            for i in step.inputs:
                if max(self.program.consumers[i]) <= self.at:
                    self.planes.pop(i, None)
        low, high, e = self.planes[value]
        spread = _spread(low)
        below, above = low[:, 0] - spread - e, high[:, 0] + (spread if low is high else _spread(high)) + e
        l, u = trace.boxes[value]
        below = torch.where(torch.isfinite(below), torch.maximum(below, l), l)
        above = torch.where(torch.isfinite(above), torch.minimum(above, u), u)
        crossed = below > above  # both boxes hold every value of a non-empty set: only rounding can make them cross
        trace.boxes[value] = (torch.where(crossed, l, below), torch.where(crossed, u, above))

    def _through(self, trace: Trace, step: Step, inputs: list[Planes]) -> Planes:
        """The planes of what a step makes of its inputs' planes. Entries of which these say nothing make results of
        which they say nothing, and leave all others alone.
        """
        if not isinstance(step.op, (Affine, Joint)):
            return _relaxed(trace, self.at, inputs[0])
        if isinstance(step.op, Joint) and not trace.lines[self.at].fan:
            return self._flat(trace, self.at)
        lost = None
        if trace.wild:
            wild = [~torch.isfinite(torch.stack([p.abs().sum(1) for p in planes[:2]] + [planes[2]])).all(0)
                    for planes in inputs]  # fmt: skip
            if any(bool(w.any()) for w in wild):
                inputs = [_without(planes, w) for planes, w in zip(inputs, wild)]
                if isinstance(step.op, Affine):
                    lost = depends(step.op, wild)
                else:
                    marks = (w.to(inputs[0][0].dtype).unsqueeze(1) for w in wild)
                    lost = ~(trace.lines[self.at].reach(*marks)[:, 0] == 0)
        low, high, e = _affine(step, inputs) if isinstance(step.op, Affine) else _enclosed(trace, self.at, inputs)
        return low, high, e if lost is None else torch.where(lost, torch.inf, e)

    def _flat(self, trace: Trace, value: int) -> Planes:
        """The box as planes without slope: of what stands still, and what is carried through a joint step whose planes
        cannot be pushed.
        """
        l, u = trace.boxes[value]
        rest = l.new_zeros((l.shape[0], self.width, *l.shape[1:]))
        return tuple(torch.cat([t.unsqueeze(1), rest], 1) for t in (l, u)) + (torch.zeros_like(l),)


def _without(planes: Planes, entries: Tensor) -> Planes:
    """Planes with those of marked entries (D, *shape) bool replaced by 0."""
    low, high, e = planes
    at = entries.unsqueeze(1)
    new = torch.where(at, 0.0, low)
    return new, new if low is high else torch.where(at, 0.0, high), torch.where(entries, 0.0, e)


def _spread(plane: Tensor) -> Tensor:
    """Sum of |coefficients| of the moving columns, rounded up together with the sum that it enters."""
    columns = plane.abs()
    error = 2 * gamma(plane.shape[1] + 4, plane.dtype) * columns.sum(1)
    return columns[:, 1:].sum(1) + error


def _linear(op: Affine, xs: list[Tensor], offset: Tensor | None) -> Tensor:
    """sum M_i x_i for x_i (D, m + 1, *in_i)."""
    y = op.forward(*(x.flatten(0, 1) for x in xs))
    y = y if offset is None else y - offset
    return y.reshape(*xs[0].shape[:2], *y.shape[1:])


def _constant(plane: Tensor, offset: Tensor | None) -> Tensor:
    """A plane with something added to its constant column."""
    return plane if offset is None else torch.cat([plane[:, :1] + offset, plane[:, 1:]], 1)


def _alike(inputs: list[Planes]) -> bool:
    """Whether lower and upper planes are the same, as they are up to the first nonlinear step."""
    return all(low is high for low, high, _ in inputs)


def _moved(op: Move, inputs: list[Planes]) -> Planes:
    """Through a step that only picks entries, or puts constants between them: nothing rounds."""
    offset = op.offset()
    low = _constant(_linear(op, [low for low, _, _ in inputs], offset), offset)
    high = low if _alike(inputs) else _constant(_linear(op, [high for _, high, _ in inputs], offset), offset)
    return low, high, op.absolute(*(e for _, _, e in inputs))


def _affine(step: Step, inputs: list[Planes]) -> Planes:
    op = step.op
    if isinstance(op, Move) and op.terms[0] <= 1:
        return _moved(op, inputs)
    offset, alike = op.offset(), _alike(inputs)
    centre = [low if alike else (low + high) / 2 for low, high, _ in inputs]
    middle = _linear(op, centre, offset)
    if alike:
        size_of_columns = [c.abs().sum(1) for c in centre]
    else:
        radius = [(high - low) / 2 for low, high, _ in inputs]
        around = op.absolute(*(r.flatten(0, 1) for r in radius)).reshape(middle.shape)
        size_of_columns = [(c.abs() + r.abs()).sum(1) for c, r in zip(centre, radius)]
    g = 2 * gamma(op.terms[0] + centre[0].shape[1] + 6, middle.dtype)
    halving = 4 * torch.finfo(middle.dtype).eps  # centre and radius round once each before anything is multiplied
    e = op.absolute(*(e + (g + halving) * s for (_, _, e), s in zip(inputs, size_of_columns)))
    doubt = op.doubt(*(e + s for (_, _, e), s in zip(inputs, size_of_columns)))
    e = e if doubt is None else e + doubt
    e = e * (1 + 2 * gamma(op.terms[0] + 4, middle.dtype))
    if offset is not None:
        e = e + g * (centre[0].shape[1] + 2) * offset.abs()
        middle = _constant(middle, offset)
    e = e + 8 * torch.finfo(middle.dtype).tiny * op.terms[0] * centre[0].shape[1]  # products that underflowed
    # The last sum and difference round once more per column.
    if alike:
        return middle, middle, e + halving * middle.abs().sum(1)
    e = e + halving * (middle.abs() + around.abs()).sum(1)
    return middle - around, middle + around, e


def _relaxed(trace: Trace, k: int, planes: Planes) -> Planes:
    low, high, e = planes
    lines = trace.lines[k]
    sides = []
    slack = torch.maximum(lines.lo_a.abs(), lines.up_a.abs()) * e
    eps, tiny = torch.finfo(low.dtype).eps, torch.finfo(low.dtype).tiny
    for a, b, first, second in ((lines.lo_a, lines.lo_b, low, high), (lines.up_a, lines.up_b, high, low)):
        if low is high:
            y = a.unsqueeze(1) * low
        else:
            y = torch.addcmul(a.clamp(min=0).unsqueeze(1) * first, a.clamp(max=0).unsqueeze(1), second)
        magnitude = y.abs().sum(1)
        if b is not None:
            y[:, 0] += b
            magnitude = magnitude + b.abs()
        slack = slack + 4 * eps * (low.shape[1] + 2) * magnitude + 8 * tiny * low.shape[1]
        sides.append(y)
    return sides[0], sides[1], slack * (1 + 8 * eps)


def _enclosed(trace: Trace, k: int, inputs: list[Planes]) -> Planes:
    """Through the planes of a joint step: L' = L+ low + L- high + lo_b, U' likewise.

    e' = |matrix| e, and the rounding of sums of `fan` products, of all columns together.
    """
    planes, dtype = trace.lines[k], inputs[0][0].dtype
    low, high = planes.push([p[0] for p in inputs], [p[1] for p in inputs])
    columns = low.shape[1]
    info, g = torch.finfo(dtype), 2 * gamma(planes.fan + columns + 12, dtype)
    lost = [e + g * torch.maximum(a.abs(), b.abs()).sum(1) for a, b, e in inputs]
    e = planes.reach(*(t.unsqueeze(1) for t in lost))[:, 0] * (1 + g)
    e = e + 4 * info.eps * (planes.lo_b.abs() + planes.up_b.abs()) + 8 * info.tiny * (planes.fan + 1) * columns
    return _constant(low, planes.lo_b.unsqueeze(1)), _constant(high, planes.up_b.unsqueeze(1)), e


@METHODS.add("forward")
class Forward:
    """Intermediate boxes from forward planes, rows over the output by CROWN."""

    @staticmethod
    def entries(program: Program, rows: int, moving: int, still: Part | None = None) -> int:
        """Entries of the largest tensor per domain."""
        return max(rows, 2 * (moving + 1)) * widest(program, still)

    @staticmethod
    def run(
        program: Program,
        l: Tensor,
        u: Tensor,
        rows: Tensor,
        limit: int,
        given: Given = NOTHING,
    ) -> RowBounds:
        walker = Walker(program, l, u)
        trace = trace_values(program, l, u, limit, walker.tighten, still=given.still)
        return final_rows(trace, rows, limit, given.fine)
