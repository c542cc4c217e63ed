"""The product of two variables, entry by entry, between McCormick planes.

For a in [al, au], b in [bl, bu] the products of the distances to the ends, such as (a - al)(b - bl) >= 0, give two
planes below and two above (McCormick, Mathematical Programming 10, 1976):

    ab >= al b + bl a - al bl,   ab >= au b + bu a - au bu,   ab <= au b + bl a - au bl,   ab <= al b + bu a - al bu.

Any mixture r (first) + (1 - r) (second), 0 <= r <= 1, is a plane again. Both planes of a side, and so all mixtures,
enclose the same volume, (width of a)^2 (width of b)^2 / 4. The default is r = 1/2: it halves the greatest gap, from
wa wb to wa wb / 2, and both sides then have the same slopes, so that no slope depends on a row's sign.

The slopes of a mixture are taken as computed, and the offset is the best one for them: ab - p a - q b is bilinear, so
its extremes over the box lie at the four corners. Whatever p and q are, the planes are sound. With ab - p a - q b = (a
- q)(b - p) - p q the corner values are off by few epsilons of |(a - q)(b - p)| and |p q|, and are moved outward by
that.

Symbols: boxes and results (D, *out_shape) after broadcasting; p the slope in a, q the slope in b.
"""

from __future__ import annotations

from functools import reduce

import numpy as np
import torch
from torch import Tensor

from verifier.ops import OPS
from verifier.ops.arithmetic import Entrywise, Scale, lift, unbroadcast
from verifier.ops.base import Operator, Planes, Site, size
from verifier.ops.bilinear import Bilinear
from verifier.ops.planes import EntryPlanes, most_repeats, outward, wide_boxes

Box = tuple[Tensor, Tensor]
NOTICEABLE = 1e-3  # of a product's range


def times(a: Tensor, b: Tensor) -> Tensor:
    """a b for ends of boxes, where 0 times an infinite end is 0: every number in between is finite."""
    y = a * b
    return torch.where(torch.isnan(y) & ~torch.isnan(a) & ~torch.isnan(b), 0.0, y)


def product_range(a: Box, b: Box) -> Box:
    """The range of a b over boxes: its ends lie at corners. Rounded outward."""
    corners = [p * q for p in a for q in b]
    low, high = (reduce(pick, corners) for pick in (torch.minimum, torch.maximum))  # NaN wins
    if bool(torch.isnan(low).any()):
        corners = torch.stack([times(p, q) for p in a for q in b])
        low, high = corners.amin(0), corners.amax(0)
    return outward(low, high)


def mccormick(a: Box, b: Box, mix: tuple[float | Tensor, float | Tensor] = (0.5, 0.5)) -> tuple[Tensor, ...]:
    """Planes around a b: (p, q, lo_b, p', q', up_b) with p a + q b + lo_b <= a b <= p' a + q' b + up_b.

    `mix`: r of the lower and of the upper plane, numbers or tensors that broadcast. Where an end is infinite, or
    something overflows, the slopes are 0 and the offsets are the range. Boxes and slopes may be of a shape that
    broadcasts; of the default both sides have the very same slopes.
    """
    (al, au), (bl, bu) = a, b
    slopes = [(bl + (1 - mix[0]) * (bu - bl), al + (1 - mix[0]) * (au - al))]
    if mix == (0.5, 0.5):
        slopes *= 2
        offsets = _offsets(a, b, *slopes[0])
    else:
        slopes.append((bl + (1 - mix[1]) * (bu - bl), au - (1 - mix[1]) * (au - al)))
        offsets = [_offsets(a, b, *s)[side] for side, s in enumerate(slopes)]
    known = [torch.isfinite(p) & torch.isfinite(q) & torch.isfinite(b) for (p, q), b in zip(slopes, offsets)]
    if all(bool(k.all()) for k in known):
        return *slopes[0], offsets[0], *slopes[1], offsets[1]
    found = []
    for k, (p, q), offset, end in zip(known, slopes, offsets, product_range(a, b)):
        found += [torch.where(k, p, 0.0), torch.where(k, q, 0.0), torch.where(k, offset, end)]
    return tuple(found)


def _offsets(a: Box, b: Box, p: Tensor, q: Tensor) -> tuple[Tensor, Tensor]:
    """Least and greatest value of a b - p a - q b over the boxes, moved outward."""
    eps, tiny = torch.finfo(p.dtype).eps, torch.finfo(p.dtype).tiny
    corners, base = [(x - q) * (y - p) for x in a for y in b], p * q
    low, high = (reduce(pick, corners) for pick in (torch.minimum, torch.maximum))
    slack = eps * (2 * torch.maximum(low.abs(), high.abs()) + base.abs()) + 4 * tiny
    low, high = low - base - slack, high - base + slack
    return low - eps * low.abs(), high + eps * high.abs()


class Infinite(Entrywise):
    """y = a b where a constant factor is not finite."""

    lacks = "a constant factor that is not finite"

    def combine(self, a: Tensor, b: Tensor) -> Tensor:
        return a * b


class Product(Bilinear):
    """y = a b where both depend on x; they broadcast."""

    integers = "wrap"
    native = True

    def __init__(self, site: Site):
        super().__init__(site)
        self.rank = len(site.shape)
        self.terms = 2 * most_repeats(site.shape, self.in_shapes)

    def forward(self, *xs: Tensor) -> Tensor:
        return lift(xs[0], self.rank) * lift(xs[1], self.rank)

    def interval(self, *boxes: Box) -> Box:
        return product_range(*(tuple(lift(t, self.rank) for t in box) for box in boxes))

    def worth(self, *boxes: Box) -> tuple[Tensor, ...]:
        """Where the planes are further apart than a small share of the product's range: next to a factor that hardly
        moves, tighter bounds of the other are for nothing.
        """
        (al, au), (bl, bu) = wide_boxes(boxes, self.out_shape)
        wide_a, wide_b = au - al, bu - bl
        reach = torch.maximum(al.abs(), au.abs()) * wide_b + torch.maximum(bl.abs(), bu.abs()) * wide_a
        pays = ~((wide_a * wide_b <= NOTICEABLE * reach) & torch.isfinite(reach))
        found = []
        for loose, (l, _) in zip(self.loose(*boxes), boxes):
            like = lift(l, self.rank)
            mine = pays.to(torch.uint8).expand(len(l), *self.out_shape).sum_to_size(like.shape) > 0
            found.append(loose & mine.reshape(l.shape))
        return tuple(found)

    def back(self, rows: Tensor, other: Tensor, slot: int) -> Tensor:
        return unbroadcast(rows * lift(other, self.rank), self.in_shapes[slot])

    def term_index(self) -> tuple[Tensor, Tensor, Tensor]:
        of = lambda s: lift(torch.arange(size(s)).reshape(1, *s), self.rank).expand(1, *self.out_shape).reshape(-1)
        return of(self.in_shapes[0]), of(self.in_shapes[1]), torch.arange(size(self.out_shape))

    @property
    def term_count(self) -> int:
        return size(self.out_shape)

    def planes(self, boxes: tuple[Box, ...], mix: tuple[float | Tensor, float | Tensor] = (0.5, 0.5)) -> Planes:
        """The planes for mixtures r of the lower and of the upper side."""
        wide = (tuple(lift(t, self.rank) for t in box) for box in boxes)
        p, q, lo_b, p2, q2, up_b = mccormick(*wide, mix)
        return EntryPlanes((p, q), lo_b, (p2, q2), up_b, boxes)


@OPS.add("Mul")
def mul(site: Site) -> Operator:
    if len(site.variable) == 2:
        return Product(site)
    (slot,) = (i for i in (0, 1) if i not in site.variable)
    return Scale(site, slot) if np.isfinite(site.constants[slot]).all() else Infinite(site)
