"""The share of a part in a whole: i / u, known to lie in [0, 1].

A quotient whose denominator may be near 0 has no bounds; one that a rewrite has proved to be a share has
(`verifier.net.rewrites_shares`). So that the bounds rest on the operator alone, it is defined for all numbers:

    f(i, u) = 0 for i <= 0, else i / u where u >= i, else 1.

f rises in i and falls in u, so its range lies between f(il, uu) and f(iu, ul).

Planes. Where ul > 0, any slopes p, q are sound with the offset that is the least (or greatest) value of g = f - p i - q
u over the box. For fixed u, g is linear in i between il, 0, u and iu, so an extreme lies on one of these four lines. On
i = u and i = 0 and wherever f is 0 or 1, g is linear in u: its ends count, which are corners, or points where i = u. On
a line i = c > 0, u >= c, g = c / u - p c - q u is convex in u; beside the ends it may be least at u = sqrt(-c / q). A
root off by d costs g'' d^2 / 2, of second order in the rounding. All these points are tried; each value of g is moved
outward by a few epsilons of its terms. Of several slopes (McCormick planes of i times 1 / u, their mean, the tangent,
0) those that are best at the centre are kept. Elsewhere the planes are the range: next to i = u = 0, f takes every
value.

Symbols: i, u and their ends (D, *out_shape) after broadcasting; p, q likewise.
"""

from __future__ import annotations

import torch
from torch import Tensor

from verifier.ops import OPS
from verifier.ops.arithmetic import lift
from verifier.ops.base import Joint, Planes, Site, Unsuitable
from verifier.ops.planes import EntryPlanes, most_repeats, outward, wide_boxes

Box = tuple[Tensor, Tensor]


def share(i: Tensor, u: Tensor) -> Tensor:
    """f, entry by entry."""
    part = i.clamp(min=0)
    whole = torch.maximum(part, u)
    return torch.where(part > 0, part / torch.where(part > 0, whole, 1.0), 0.0)


def offset(i: Box, u: Box, p: Tensor, q: Tensor, sign: int) -> Tensor:
    """The best offset below (sign 1) or above (-1) f for slopes p, q; boxes finite, u > 0."""
    info = torch.finfo(p.dtype)
    # Each root by itself: the quotient is of the size of u^2, which may leave the numbers there are.
    root = lambda c: torch.nan_to_num(c.clamp(min=0).sqrt() / (-q).sqrt(), nan=0.0, posinf=info.max)
    into = lambda x, box: torch.minimum(torch.maximum(x, box[0]), box[1])
    points = [(c, w) for c in (*i, into(torch.zeros_like(p), i)) for w in (*u, into(root(c), u), into(c, u))]
    points += [(into(w, i), w) for w in u]
    worst = None
    for x, w in points:
        y, px, qw = share(x, w), p * x, q * w
        value = sign * (y - px - qw) - 4 * info.eps * (y + px.abs() + qw.abs()) - 8 * info.tiny
        worst = value if worst is None else torch.minimum(worst, value)
    return sign * worst


@OPS.add("Share")
class Share(Joint):
    """f(i, u) over inputs (i, u)."""

    def __init__(self, site: Site):
        super().__init__(site)
        if len(self.in_shapes) != 2:
            raise Unsuitable(f"{site.name}: {site.kind} takes two inputs that depend on x")
        self.rank = len(site.shape)
        self.terms = 2 * most_repeats(site.shape, self.in_shapes)

    def forward(self, *xs: Tensor) -> Tensor:
        return share(*torch.broadcast_tensors(*(lift(x, self.rank) for x in xs)))

    def interval(self, *boxes: Box) -> Box:
        (il, iu), (ul, uu) = wide_boxes(boxes, self.out_shape)
        low, high = outward(share(il, uu), share(iu, ul), 2.0)
        return low.clamp(0.0, 1.0), high.clamp(0.0, 1.0)

    def relax(self, *boxes: Box) -> Planes:
        i, u = wide_boxes(boxes, self.out_shape)
        known = torch.isfinite(i[0]) & torch.isfinite(i[1]) & torch.isfinite(u[1]) & (u[0] > 0)
        safe = lambda x: torch.where(known, x, 1.0)
        i, u = (safe(i[0]), safe(i[1])), (safe(u[0]), safe(u[1]))
        centre = [l + (h - l) / 2 for l, h in (i, u)]
        ends, found = self.interval(*boxes), []
        for sign, slopes, end in zip((1, -1), candidates(i, u), ends):
            zero = torch.zeros_like(end)
            best, p, q, b = sign * end, zero, zero, end
            for s, t in slopes:
                c = offset(i, u, s, t, sign)
                height = sign * (s * centre[0] + t * centre[1] + c)
                better = known & torch.isfinite(s) & torch.isfinite(t) & torch.isfinite(c) & (height > best)
                best, p, q, b = (torch.where(better, n, o) for n, o in zip((height, s, t, c), (best, p, q, b)))
            found += [(p, q), b]
        return EntryPlanes(*found, boxes)


def candidates(i: Box, u: Box) -> tuple[list[tuple[Tensor, Tensor]], list[tuple[Tensor, Tensor]]]:
    """Slopes (in i, in u) worth trying below and above; boxes finite, u > 0."""
    (a, b), (l, h) = (end.clamp(min=0) for end in i), u
    half = lambda x, y: x + (y - x) / 2
    m, w = half(a, b), half(l, h)
    tangent = (1 / w, -m / w / w)
    below = [(1 / h, -a / w / w), (1 / l, -b / w / w)]
    above = [(1 / h, -b / l / h), (1 / l, -a / l / h)]
    sides = [[*pair, tuple(half(*s) for s in zip(*pair)), tangent] for pair in (below, above)]
    rise = torch.where(i[1] > i[0], share(b, l) / (i[1] - i[0]), 0.0)
    sides[1].append((rise, torch.zeros_like(rise)))
    return sides[0], sides[1]
