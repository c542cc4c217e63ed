"""The last step of a maximum or minimum that was taken apart: max(a, b) = b + relu(a - b), min(a, b) = a - relu(a - b).

`MaxJoin` (b, r, a): y = b + r, and `MinJoin` (a, r, b): y = a - r, where the rewrite that makes them (see
`verifier.net.rewrites_extremes`) sees to it that r = relu(a - b). Both are affine, with coefficient 0 on the third
input, which is there for `within`: as y is max(a, b), it lies between the maxima of the lower and of the upper ends.
The sum alone would add the widths of b and of r. Operands broadcast. The ends are only compared, so nothing rounds.

Symbols: boxes (l, u) each (N, *in_shape_i).
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from verifier.ops import OPS
from verifier.ops.arithmetic import lift, unbroadcast
from verifier.ops.base import Affine, Site, Unsuitable, size


class Join(Affine):
    """y = x + sign r over inputs (x, r, other); `extreme` of x and other is what y is known to be."""

    sign: int
    extreme: Callable[[Tensor, Tensor], Tensor]

    def __init__(self, site: Site):
        super().__init__(site)
        if len(self.in_shapes) != 3:
            raise Unsuitable(f"{site.name}: {site.kind} takes three inputs that depend on x")
        self.rank = len(site.shape)
        self.terms = (2, max(1, *(size(site.shape) // max(size(s), 1) for s in self.in_shapes[:2])))

    def within(self, *boxes: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        (l, u), _, (l_other, u_other) = boxes
        ends = ((lift(x, self.rank), lift(y, self.rank)) for x, y in ((l, l_other), (u, u_other)))
        low, high = (self.extreme(x, y).expand(x.shape[0], *self.out_shape) for x, y in ends)
        return low, high

    def forward(self, x: Tensor, r: Tensor, other: Tensor) -> Tensor:
        y = lift(x, self.rank) + self.sign * lift(r, self.rank)
        return y.expand(y.shape[0], *self.out_shape)

    def absolute(self, x: Tensor, r: Tensor, other: Tensor) -> Tensor:
        y = lift(x, self.rank) + lift(r, self.rank)
        return y.expand(y.shape[0], *self.out_shape)

    def adjoint(self, a: Tensor) -> tuple[Tensor, ...]:
        x, r, other = self.in_shapes
        return unbroadcast(a, x), unbroadcast(self.sign * a, r), a.new_zeros((a.shape[0], *other))

    def offset(self) -> Tensor | None:
        return None


@OPS.add("MaxJoin")
class MaxJoin(Join):
    """max(a, b) = b + r over (b, r, a), r = relu(a - b)."""

    sign = 1
    extreme = staticmethod(torch.maximum)


@OPS.add("MinJoin")
class MinJoin(Join):
    """min(a, b) = a - r over (a, r, b), r = relu(a - b)."""

    sign = -1
    extreme = staticmethod(torch.minimum)
