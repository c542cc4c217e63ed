"""Relaxed clipping: what half-spaces leave of a box, one dimension at a time and all at once, in closed form.

Where g x + h <= 0 and x is in the box [l, u], with t_i = min(g_i l_i, g_i u_i) the least that dimension i adds,

    g_j x_j <= -(h + sum_{i != j} t_i),

which ends x_j above where g_j > 0 and below where g_j < 0. All half-spaces start from the same box, the tightest end is
kept; the smaller box can be clipped again. (Zhou et al., arXiv 2512.11087, section on relaxed clipping.)

Why no point is lost to rounding. With m = h + sum t_i computed, m - t_j is off by at most gamma_{n+4} (|h| + sum |t_i|)
(Higham, section 3.1) plus what products lose to underflow; that is subtracted. The quotient is off by one rounding, and
is moved outward by more. Ends that are not finite are not used. So every new end is valid in real arithmetic, and ends
that cross, or m above its error, prove that no point of the box satisfies all half-spaces.

Where most dimensions of the boxes stand still (or nearly: by `THIN` epsilons, as rounding leaves them), what they add,
t_i, goes into h once, less its error, and only the others are looked at. That is sound for any dimensions.

Symbols: D domains, C half-spaces, n dimensions.
"""

from __future__ import annotations

import torch
from torch import Tensor

from verifier.clip.constraints import Halfspaces
from verifier.ops.base import gamma

PASSES = 4
THIN = 4.0  # machine epsilons
GAIN = 0.05  # another pass is made if a box lost this share of a side


def clip(l: Tensor, u: Tensor, planes: Halfspaces, passes: int = PASSES) -> tuple[Tensor, Tensor, Tensor]:
    """Boxes l, u (D, n) within half-spaces: new l, u, and where nothing is left (D,) bool (such boxes stay as they
    were last).
    """
    wide = u - l > THIN * torch.finfo(l.dtype).eps * torch.maximum(l.abs(), u.abs())
    count = int(wide.sum(1).max()) if wide.numel() else 0
    if 2 * count < l.shape[1]:
        return _clip_few(l, u, planes, wide, max(1, count), passes)
    return _clip(l, u, planes, passes)


def _clip_few(
    l: Tensor, u: Tensor, planes: Halfspaces, wide: Tensor, count: int, passes: int
) -> tuple[Tensor, Tensor, Tensor]:
    """`clip` in the dimensions `wide` (D, n) bool, of which there are at most `count` in a box."""
    g, h = planes
    info, n = torch.finfo(l.dtype), l.shape[1]
    index = torch.topk(wide.to(torch.uint8 if wide.device.type == "cpu" else l.dtype), count, dim=1).indices
    rest = torch.addcmul(g.clamp(min=0) * l.unsqueeze(1), g.clamp(max=0), u.unsqueeze(1))
    rest = rest.masked_fill_(wide.unsqueeze(1), 0.0)
    lost = (rest.abs().sum(-1) + h.abs()) * (2 * gamma(n + 6, l.dtype)) + 8 * n * info.tiny
    each = index.unsqueeze(1).expand(-1, g.shape[1], -1)
    few = g.gather(2, each) * wide.gather(1, index).unsqueeze(1)  # a box may have fewer
    planes = Halfspaces(few, h + rest.sum(-1) - lost)
    low, high, empty = _clip(l.gather(1, index), u.gather(1, index), planes, passes)
    return l.scatter(1, index, low), u.scatter(1, index, high), empty


def _clip(l: Tensor, u: Tensor, planes: Halfspaces, passes: int) -> tuple[Tensor, Tensor, Tensor]:
    empty = torch.zeros(len(l), dtype=torch.bool, device=l.device)
    for _ in range(passes):
        new_l, new_u, nothing = once(l, u, planes)
        empty |= nothing
        lost = (u - l) - (new_u - new_l) > GAIN * (u - l)
        l, u = new_l, new_u
        if not bool((lost.any(1) & ~empty).any()):
            break
    return l, u, empty


def once(l: Tensor, u: Tensor, planes: Halfspaces) -> tuple[Tensor, Tensor, Tensor]:
    """One pass of `clip`."""
    g, h = planes
    n, info, inf = l.shape[1], torch.finfo(l.dtype), float("inf")
    up, down = g.clamp(min=0), g.clamp(max=0)
    least = torch.addcmul(up * l.unsqueeze(1), down, u.unsqueeze(1))  # one of the products is 0: nothing more rounds
    total = least.sum(-1) + h
    mass = least.abs().sum(-1) + h.abs()
    lost = mass * (2 * gamma(n + 6, l.dtype)) + 8 * n * info.tiny
    rest = (total - lost).unsqueeze(-1) - least
    end = -rest / g
    room = end.abs() * (4 * info.eps) + 4 * info.tiny
    high = torch.where((g > 0) & torch.isfinite(end), end + room, inf).amin(1)
    low = torch.where((g < 0) & torch.isfinite(end), end - room, -inf).amax(1)
    new_l, new_u = torch.maximum(l, low), torch.minimum(u, high)
    nothing = (new_l > new_u).any(1) | (torch.isfinite(total) & (total > lost)).any(1)
    keep = nothing.unsqueeze(1)
    return torch.where(keep, l, new_l), torch.where(keep, u, new_u), nothing
