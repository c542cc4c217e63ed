"""Planes around functions of several operands that act entry by entry: products, maxima, choices.

For out = f(x_1, …, x_n) with operands that broadcast as in numpy, one coefficient per operand and output entry:

    sum_i lo_i x_i + lo_b <= f(x) <= sum_i up_i x_i + up_b.

Pulling a row through multiplies it entry by entry and adds up, per operand, what broadcasting had repeated. Symbols: D
domains; coefficients and offsets (D, *out_shape); boxes (D, *in_shape_i).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from verifier.ops.arithmetic import lift, unbroadcast
from verifier.ops.base import Planes, Shape, size


class EntryPlanes(Planes):
    """Planes of an entrywise `Joint`. `boxes` are those that the planes were made for: they give the weights."""

    def __init__(
        self,
        lower: Sequence[Tensor],
        lo_b: Tensor,
        upper: Sequence[Tensor],
        up_b: Tensor,
        boxes: Sequence[tuple[Tensor, Tensor]],
    ):
        self.lower, self.upper = tuple(lower), tuple(upper)
        self.rank = lo_b.ndim - 1
        self.in_shapes: tuple[Shape, ...] = tuple(l.shape[1:] for l, _ in boxes)
        sizes = [lift(torch.maximum(l.abs(), u.abs()), self.rank) for l, u in boxes]
        self.alike = all(c is d for c, d in zip(self.lower, self.upper))
        sums = []
        for coefs in (self.lower,) if self.alike else (self.lower, self.upper):
            sums.append(sum(torch.where(c == 0, 0.0, c.abs() * s) for c, s in zip(coefs, sizes)))
        up = 1 + 4 * (len(boxes) + 1) * torch.finfo(lo_b.dtype).eps
        super().__init__(lo_b, up_b, (sums[0] + lo_b.abs()) * up, (sums[-1] + up_b.abs()) * up)

    def pull(self, pos: Tensor, neg: Tensor) -> tuple[Tensor, ...]:
        parts, both = [], pos + neg if self.alike else None  # one of them is 0 everywhere
        for low, high, shape in zip(self.lower, self.upper, self.in_shapes):
            if self.alike:
                part = both * low.unsqueeze(1)
            else:
                part = pos * low.unsqueeze(1) + neg * high.unsqueeze(1)
            parts.append(unbroadcast(part.flatten(0, 1), shape).reshape(*pos.shape[:2], *shape))
        return tuple(parts)

    def values(self, *xs: Tensor) -> tuple[Tensor, Tensor]:
        found = []
        for coefs, offset in ((self.lower, self.lo_b), (self.upper, self.up_b)):
            y = offset.unsqueeze(1)
            for c, x in zip(coefs, xs):
                y = y + c.unsqueeze(1) * self._wide(x)
            found.append(y)
        return found[0], found[1]

    @property
    def fan(self) -> int:
        return 2 * len(self.in_shapes)

    def push(self, low: Sequence[Tensor], high: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        found = []
        for coefs, first, second in ((self.lower, low, high), (self.upper, high, low)):
            y = 0.0
            for c, x, other in zip(coefs, first, second):
                c = c.unsqueeze(1)
                y = y + c.clamp(min=0) * self._wide(x) + c.clamp(max=0) * self._wide(other)
            found.append(y)
        return found[0], found[1]

    def reach(self, *rs: Tensor) -> Tensor:
        return sum(
            torch.maximum(a.abs(), b.abs()).unsqueeze(1) * self._wide(r) for a, b, r in zip(self.lower, self.upper, rs)
        )

    def _wide(self, x: Tensor) -> Tensor:
        """(D, P, *in) with as many axes as the result has."""
        wide = lift(x.flatten(0, 1), self.rank)
        return wide.reshape(*x.shape[:2], *wide.shape[1:])


def outward(low: Tensor, high: Tensor, ulps: float = 1.0) -> tuple[Tensor, Tensor]:
    """Ends moved outward by `ulps` machine epsilons of their size; NaN becomes an infinite end.

    What overflowed is finite in truth: a lower end never exceeds the largest number, an upper one is never below minus
    that.
    """
    info = torch.finfo(low.dtype)
    low = (low - ulps * info.eps * low.abs() - info.tiny).clamp(max=info.max)
    high = (high + ulps * info.eps * high.abs() + info.tiny).clamp(min=-info.max)
    inf = float("inf")
    return torch.where(torch.isnan(low), -inf, low), torch.where(torch.isnan(high), inf, high)


def wide_boxes(boxes: Sequence[tuple[Tensor, Tensor]], out: Shape) -> list[tuple[Tensor, Tensor]]:
    """Boxes (D, *in_shape_i) broadcast to (D, *out)."""
    return [tuple(lift(t, len(out)).expand(t.shape[0], *out) for t in box) for box in boxes]


def most_repeats(out: Shape, shapes: Sequence[Shape]) -> int:
    """How often broadcasting repeats an entry of an operand at most; an entrywise joint sums twice as many terms."""
    return max([1, *(size(out) // max(size(shape), 1) for shape in shapes)])
