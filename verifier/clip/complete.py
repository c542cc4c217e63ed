"""Complete clipping: the least value of a linear function over a box and half-spaces, by its dual.

For every b >= 0 and every x of the box with g x + h <= 0

    a x >= a x + b (g x + h) >= D(b) = min over the box of (a + b g) x, + b h.

D is concave and piecewise linear with slope D'(b) = g x(b) + h at the minimiser x(b); it bends where a coefficient
changes sign, at q_j = -a_j / g_j. Its maximum over b >= 0 is the exact minimum (a box and one half-space: linear
programming duality). In order, the slope falls by |g_j| (u_j - l_j) at each bend; the first after which it is negative
ends the maximum (of a flat top the far end is taken: from there other half-spaces can gain more). Sorting costs less
than closing in on the bend by tangents, with 5 dimensions as with 64 (`benchmarks/clip_lp.py`).

Several half-spaces: one multiplier at a time is set to its best (coordinate ascent). It need not reach the maximum,
but every step raises the bound.

Why it is sound. Multipliers are only proposals. `value` evaluates D at them, whatever they are (clamped to >= 0,
finite), and subtracts what that evaluation may have lost to rounding: with X_j = max(|l_j|, |u_j|), the K half-spaces'
sums are off by at most gamma_{n+K+8} ((|a| + sum b |g|) X + sum b |h|), and underflow. (Zhou et al., arXiv 2512.11087,
section on complete clipping.)

Symbols: D domains, S rows, C half-spaces, n dimensions; a (D, S, n), b (D, S, C).
"""

from __future__ import annotations

import torch
from torch import Tensor

from verifier.clip.constraints import Halfspaces
from verifier.ops.base import gamma

SWEEPS = 2  # of coordinate ascent


def minima(a: Tensor, l: Tensor, u: Tensor, planes: Halfspaces, sweeps: int = SWEEPS) -> Tensor:
    """Lower bounds (D, S) of rows a over boxes l, u (D, n) within half-spaces; exact but for rounding where there is
    one. Large where nothing satisfies them, -inf where nothing could be computed.
    """
    return value(a, l, u, planes, ascend(a, l, u, planes, sweeps))


def ascend(a: Tensor, l: Tensor, u: Tensor, planes: Halfspaces, sweeps: int = SWEEPS) -> Tensor:
    """Multipliers b (D, S, C) by coordinate ascent."""
    count = planes.g.shape[1]
    if count == 1:
        return best_multiplier(a, l, u, planes.g[:, 0], planes.h[:, 0]).unsqueeze(-1)
    b = a.new_zeros((*a.shape[:2], count))
    for _ in range(sweeps):
        for k in range(count):
            g, h = planes.g[:, k], planes.h[:, k]
            rest = torch.addcmul(a, b[..., k, None], g.unsqueeze(1), value=-1)
            new = best_multiplier(rest, l, u, g, h)
            a = torch.addcmul(rest, new.unsqueeze(-1), g.unsqueeze(1))
            b[..., k] = new
    return b


def value(a: Tensor, l: Tensor, u: Tensor, planes: Halfspaces, b: Tensor) -> Tensor:
    """D at multipliers b, less its rounding: a lower bound (D, S) for any b; -inf where it is not finite."""
    g, h = planes
    b = torch.where(torch.isfinite(b), b, 0.0).clamp(min=0)
    n, info = a.shape[-1], torch.finfo(a.dtype)
    size = torch.maximum(l.abs(), u.abs())
    r = a + b @ g
    low = (r.clamp(min=0) @ l.unsqueeze(-1) + r.clamp(max=0) @ u.unsqueeze(-1)).squeeze(-1)
    push = (b @ h.unsqueeze(-1)).squeeze(-1)
    weight = g.abs() @ size.unsqueeze(-1) + h.abs().unsqueeze(-1) + 2 * n * info.tiny  # (D, C, 1)
    mass = (a.abs() @ size.unsqueeze(-1) + b @ weight).squeeze(-1)
    terms = n + g.shape[1] + 8
    small = 4 * info.tiny * (terms * terms * (1 + size.sum(1, keepdim=True)))
    found = low + push - mass * (2 * gamma(terms, a.dtype)) - small
    return torch.where(torch.isfinite(found), found, -float("inf"))


def best_multiplier(a: Tensor, l: Tensor, u: Tensor, g: Tensor, h: Tensor) -> Tensor:
    """The best multiplier (D, S) of one half-space g (D, n), h (D,); one that shows it where nothing satisfies it."""
    g3 = g.unsqueeze(1)
    fall = g.abs() * (u - l)  # what the slope loses at each bend
    q = torch.where(g3 != 0, -a / g3, -1.0).nan_to_num(nan=-1.0)
    q, order = q.sort(-1)
    fall = fall.unsqueeze(1).expand_as(q).gather(-1, order)
    most = (g.clamp(min=0) * u + g.clamp(max=0) * l).sum(-1) + h  # the slope before the first bend
    after = most[:, None, None] - fall.cumsum(-1)
    falls = after < 0
    falls[..., -1] = True
    first = falls.to(torch.uint8).argmax(-1, keepdim=True)
    b = q.gather(-1, first).squeeze(-1).clamp(min=0)
    hopeless = after[..., -1] > 0
    level = torch.where(most.unsqueeze(1) < 0, 0.0, b)
    return torch.where(hopeless, 2 * q[..., -1].clamp(min=0) + 1, level)
