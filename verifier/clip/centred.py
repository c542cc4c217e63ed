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
that promise the most are worked out. Domains ask for the same functions and half-spaces over and over: they name
entries of tables, and the products are those of the tables.

Why it is sound. `mid` (float64) is rounded down and a is taken as exact, by whoever makes forms. b is any number >= 0.
What is computed in the precision of a: the sums a + b g, off by eps (|a| + 2 b |g|) an entry, and |.| r, a sum of n
terms >= 0; together at most gamma_{n+12} (reach + 2 b reach_g), where `reach` >= |a| r. That, doubled, is subtracted,
as well as what products lose to underflow, and float64's own rounding of mid + b h. What is not finite becomes -inf.

Symbols: D domains, R functions and C half-spaces of each; U functions, V half-spaces in the tables; Q pairs, n
dimensions that move.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from verifier.ops.base import gamma

TANGENTS = 3  # points at which D is evaluated, besides 0 and infinity
PART = 1 << 19  # numbers of the functions of a block of pairs
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


def least(
    rows: Forms, row: Tensor, weight: Tensor, halves: Forms, half: Tensor, mid: Tensor, r: Tensor, count: int
) -> Tensor:
    """Lower bounds (D, R) float64 of functions `row` (D, R) of a table (U, n) over the box with half widths r (n,),
    within the half-spaces a (x - c) + mid (D, C) <= 0, a of the entries `half` (D, C) of a table (V, n).

    Beyond the greatest values, if half-spaces say that nothing can be there. Worked out are, for every domain, the
    `count` pairs of a function and a half-space for which weight (D, R) times what can be gained at most is largest, as
    far as there is anything to gain; the other functions keep what they are over the box.
    """
    dtype, tiny = rows.a.dtype, torch.finfo(rows.a.dtype).tiny
    n, c, reach = len(r), half.shape[1], rows.reach[row]
    best = rows.mid[row] - reach - (rows.mid[row].abs() + reach) * 1e-15
    best = torch.nan_to_num(best, nan=-torch.inf, posinf=torch.inf, neginf=-torch.inf)
    height, wide = mid.to(dtype), halves.reach[half].to(dtype)
    # Slopes and values at 0 and of the tangent at infinity, (D, R, C), less the function's mid.
    pair = row.unsqueeze(2), half.unsqueeze(1)
    slope = height.unsqueeze(1) - (rows.a.sign() @ (halves.a * r).mT)[pair]
    far_value = -(rows.a @ (halves.a.sign() * r).mT)[pair]
    far_slope = (height - wide).unsqueeze(1).expand_as(slope)
    value = -reach.to(dtype).unsqueeze(2).expand_as(slope)
    meet = ((far_value - value) / (slope - far_slope).clamp(min=tiny)).clamp(min=0)
    most = torch.where(slope > 0, torch.where(far_slope < 0, slope * meet, torch.inf), 0.0) * weight.unsqueeze(2)
    gain, pick = torch.topk(torch.nan_to_num(most).flatten(1), min(count, row.shape[1] * c), dim=1)
    d, at = torch.nonzero(gain > 0, as_tuple=True)
    pick = pick[d, at]
    mine = d, pick // c, pick % c
    near, far, meet = (value[mine], slope[mine]), (far_value[mine], far_slope[mine]), meet[mine]
    i, j, mid = row[mine[:2]], half[d, mine[2]], mid[d, mine[2]]
    b, norm = near[0].new_empty(len(d)), near[0].new_empty(len(d))
    for k in range(0, len(d), step := max(1, PART // max(1, n))):
        cut = slice(k, k + step)
        g = halves.a[j[cut]], mid[cut].to(dtype)
        ends = (tuple(t[cut] for t in tangent) for tangent in (near, far))
        b[cut], norm[cut] = _multiplier(rows.a[i[cut]], g, r, *ends, meet[cut])
    b = b.double()
    mass, push = rows.reach[i] + 2 * b * halves.reach[j], b * mid
    terms = n + 12
    lost = mass * (2 * gamma(terms, dtype)) + 8 * terms * tiny * (1 + float(r.sum()))
    lost = lost + (rows.mid[i].abs() + push.abs() + mass) * 1e-14
    found = torch.nan_to_num(rows.mid[i] + push - norm.double() - lost, nan=-torch.inf, neginf=-torch.inf)
    return best.flatten().scatter_reduce(0, d * row.shape[1] + mine[1], found, "amax").reshape(row.shape)


def _multiplier(a: Tensor, g: Pair, r: Tensor, zero: Pair, far: Pair, b: Tensor) -> Pair:
    """About the best multipliers b (Q,) >= 0 of functions a (Q, n) and half-spaces, g their slopes (Q, n) and mid (Q,);
    and |a + b g| r there as computed. `zero`, `far`: values, less mid, and slopes of the tangents at 0 and at infinity,
    which meet at b.
    """
    g, height = g
    weight = g * r
    # Nothing of the box satisfies a half-space whose D rises for ever.
    b = torch.where(far[1] >= 0, 2 * (zero[0] - far[0]).abs() / far[1].clamp(min=1e-20) + 1, b)
    low, high = zero, far  # tangents as value at 0 and slope
    top, at, norm = zero[0], torch.zeros_like(b), torch.full_like(b, torch.inf)
    for k in range(TANGENTS):
        if k:
            b = (high[0] - low[0]) / (low[1] - high[1])
        b = b.nan_to_num(nan=0.0, posinf=0.0, neginf=0.0).clamp(0.0, 1e20)
        total = torch.addcmul(a, b.unsqueeze(-1), g)
        slope = height - torch.linalg.vecdot(total.sign(), weight)
        size = torch.mv(total.abs_(), r)
        value = b * height - size
        better, rises = value > top, slope > 0
        top, at, norm = (torch.where(better, new, old) for new, old in ((value, top), (b, at), (size, norm)))
        tangent = (value - slope * b, slope)
        low = tuple(torch.where(rises, new, old) for new, old in zip(tangent, low))
        high = tuple(torch.where(rises, old, new) for new, old in zip(tangent, high))
    return at, norm
