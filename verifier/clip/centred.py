"""Least values of many linear functions over a box within few half-spaces, where both are given about the box's middle.

A `Forms` holds functions by a (x - c) + mid, a lower bound of what it stands for, c the middle of a box and r its half
widths, |x - c| <= r. Over the box it is at least mid - |a| r. A half-space is a form that is <= 0 wherever a point
counts. For any b >= 0 and such points (Zhou et al., arXiv 2512.11087, complete clipping; cf. `verifier.clip.complete`)

    a (x - c) + mid  >=  (a + b g) (x - c) + mid + b h  >=  D(b) = mid + b h - |a + b g| r.

D is concave and piecewise linear. Its best b is closed in on by tangents: those at 0 and at infinity meet first, then
those on both sides of the maximum; every D met on the way is a bound, the best is kept. With hundreds of dimensions
this is cheaper than sorting the bends, and the part that grows with the dimension is a sum of numbers that are all of
one sign: in float32 it is off by a small share of the interval's width only, however far from 0 the interval is.

Of many functions and half-spaces most say nothing to each other. Where the tangents at 0 and at infinity meet, they
bound what a half-space can gain for a function; both are products of matrices for all pairs at once, and only the pairs
that promise the most are worked out.

Why it is sound. `mid` (float64) is rounded down and a is taken as exact, by whoever makes forms. b is any number >= 0.
What is computed in the precision of a: the sums a + b g, off by eps (|a| + 2 b |g|) an entry, and |.| r, a sum of n
terms >= 0; together at most gamma_{n+12} (reach + 2 b reach_g), where `reach` >= |a| r. That, doubled, is subtracted,
as well as what products lose to underflow, and float64's own rounding of mid + b h. What is not finite becomes -inf.

Symbols: D domains, R functions, C half-spaces, n dimensions that move.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from verifier.ops.base import gamma

TANGENTS = 3  # points at which D is evaluated, besides 0 and infinity
Pair = tuple[Tensor, Tensor]


class Forms(NamedTuple):
    """a (..., n); mid, reach (...) float64."""

    a: Tensor
    mid: Tensor
    reach: Tensor

    def at(self, index) -> Forms:
        return Forms(self.a[index], self.mid[index], self.reach[index])


class Middle:
    """A box l, u (m,) about its middle `c` (m,): half widths `r` (n,) of the dimensions that move, `moving` (n,)."""

    def __init__(self, l: Tensor, u: Tensor):
        self.c = l + (u - l) / 2
        # Any middle will do, since half widths reach to both ends; they are rounded up, twice.
        wide = torch.maximum(u.double() - self.c.double(), self.c.double() - l.double())
        wide = torch.where(u > l, torch.nextafter(wide, torch.full_like(wide, torch.inf)), 0.0)
        r = wide.to(l.dtype)
        r = torch.where(r.double() < wide, torch.nextafter(r, torch.full_like(r, torch.inf)), r)
        self.moving = torch.nonzero(r > 0).squeeze(1)
        self.r = r[self.moving]

    def forms(self, plane: Tensor, offset: Tensor) -> Forms:
        """Forms of functions plane (N, m) x + offset (N,), in the precision of the box, a little below them."""
        plane, offset, c = plane.double(), offset.double(), self.c.double()
        at = plane @ c + offset
        mass = plane.abs() @ c.abs() + offset.abs()
        wide = plane[:, self.moving]
        a = wide.to(self.r.dtype)
        lost = (wide - a.double()).abs() @ self.r.double()
        lost = lost * (1 + 1e-9) + mass * (2 * gamma(plane.shape[1] + 4, torch.float64)) + 1e-290
        return Forms(a, at - lost, (a.double().abs() @ self.r.double()) * (1 + 1e-9) + 1e-290)


def least(rows: Forms, weight: Tensor, halves: Forms, r: Tensor, count: int) -> Tensor:
    """Lower bounds (D, R) float64 of rows (D, R, n) over the box with half widths r (n,), within half-spaces (D, C, n).
    Beyond the greatest values, if half-spaces say that nothing can be there. Worked out are the `count` pairs of a row
    and a half-space for which weight (D, R) times what can be gained at most is largest; the other rows keep what they
    are over the box.
    """
    a, info = rows.a, torch.finfo(rows.a.dtype)
    (d, n_rows, n), c = a.shape, halves.a.shape[1]
    best = torch.nan_to_num(rows.mid - rows.reach, nan=-torch.inf, posinf=torch.inf, neginf=-torch.inf)
    height, wide = halves.mid.to(a.dtype), halves.reach.to(a.dtype)
    # Slopes and values at 0 and of the tangent at infinity, (D, R, C), less mid.
    slope = height.unsqueeze(1) - torch.bmm(a.sign(), (halves.a * r).mT)
    far_value = -torch.bmm(a, (halves.a.sign() * r).mT)
    far_slope = (height - wide).unsqueeze(1).expand_as(slope)
    value = -rows.reach.to(a.dtype).unsqueeze(2).expand_as(slope)
    meet = ((far_value - value) / (slope - far_slope).clamp(min=info.tiny)).clamp(min=0)
    most = torch.where(slope > 0, torch.where(far_slope < 0, slope * meet, torch.inf), 0.0) * weight.unsqueeze(2)
    pick = torch.topk(torch.nan_to_num(most).flatten(1), min(count, n_rows * c), dim=1).indices
    row, half = pick // c, pick % c
    at = lambda t: t.flatten(1).gather(1, pick)  # noqa: E731
    each = torch.arange(d, device=a.device).unsqueeze(1)
    chosen, g = rows.at((each, row)), halves.at((each, half))
    b, norm = _multiplier(chosen.a, g, r, (at(value), at(slope)), (at(far_value), at(far_slope)), at(meet))
    b = b.double()
    mass, push = chosen.reach + 2 * b * g.reach, b * g.mid
    terms = n + 12
    lost = mass * (2 * gamma(terms, a.dtype)) + 8 * terms * info.tiny * (1 + float(r.sum()))
    lost = lost + (chosen.mid.abs() + push.abs() + mass) * 1e-14
    found = chosen.mid + push - norm.double() - lost
    return best.scatter_reduce(1, row, torch.nan_to_num(found, nan=-torch.inf, neginf=-torch.inf), "amax")


def _multiplier(a: Tensor, g: Forms, r: Tensor, zero: Pair, far: Pair, b: Tensor) -> Pair:
    """About the best multipliers b (D, Q) >= 0 of pairs of rows a (D, Q, n) and half-spaces g, and |a + b g| r there as
    computed. `zero`, `far`: values, less mid, and slopes of the tangents at 0 and at infinity, which meet at b.
    """
    height, weight = g.mid.to(a.dtype), g.a * r
    # Nothing of the box satisfies a half-space whose D rises for ever.
    b = torch.where(far[1] >= 0, 2 * (zero[0] - far[0]).abs() / far[1].clamp(min=1e-20) + 1, b)
    low, high = zero, far  # tangents as value at 0 and slope
    top, at, norm = zero[0], torch.zeros_like(b), torch.full_like(b, torch.inf)
    for k in range(TANGENTS):
        if k:
            b = (high[0] - low[0]) / (low[1] - high[1])
        b = b.nan_to_num(nan=0.0, posinf=0.0, neginf=0.0).clamp(0.0, 1e20)
        total = torch.addcmul(a, b.unsqueeze(-1), g.a)
        slope = height - torch.linalg.vecdot(total.sign(), weight)
        size = torch.mv(total.abs_().flatten(0, 1), r).reshape(b.shape)
        value = b * height - size
        better, rises = value > top, slope > 0
        top, at, norm = (torch.where(better, new, old) for new, old in ((value, top), (b, at), (size, norm)))
        tangent = (value - slope * b, slope)
        low = tuple(torch.where(rises, new, old) for new, old in zip(tangent, low))
        high = tuple(torch.where(rises, old, new) for new, old in zip(tangent, high))
    return at, norm
