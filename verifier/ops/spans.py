"""Extremes over ranges of places, for reading and for writing, without a table of all pairs.

Reading: the least (or largest) entry of x[first..last] for many ranges. Level k of a ladder holds the extreme of
x[i : i + 2^k] at i; a range of length 2^k to 2^(k + 1) - 1 is covered by two entries of level k that may overlap,
which extremes do not mind (the sparse table of Bender and Farach-Colton, 2000). n log n numbers for n places.

Writing is the same ladder walked down: a value that may land anywhere in first..last is noted at two entries of its
level, and each level hands its extremes to the next lower one, where its ranges consist of two halves.

Nothing is rounded: extremes are entries.
"""

from __future__ import annotations

import torch
from torch import Tensor

from verifier.ops.stepwise import whole_range


def reach(l: Tensor, u: Tensor, length: int) -> tuple[Tensor, Tensor, Tensor]:
    """Places along an axis that an index in [l, u] may name: first, last, and where these are only the parts at both
    ends, last..length - 1 and 0..first (negative indices count from the end; so far both signs are possible).

    Indices outside the axis, which no model may use, stand for its nearest end, as in the forward pass.
    """
    low, high = whole_range(l, u, -length, length - 1)
    negative, split = high < 0, (low < 0) & (high >= 0)
    first = torch.where(negative, low + length, low)
    last = torch.where(negative, high + length, high)
    return torch.where(split, high, first), torch.where(split, low + length, last), split


def _level(first: Tensor, last: Tensor) -> tuple[Tensor, Tensor]:
    """Level k (the greatest with 2^k <= length of the range), and the start of the second entry that covers it."""
    k = torch.frexp((last - first + 1).double())[1].long() - 1
    return k, last + 1 - torch.bitwise_left_shift(torch.ones_like(k), k)


def extreme(x: Tensor, first: Tensor, last: Tensor, largest: bool) -> Tensor:
    """x (D, A, n, B), ranges first <= last (D, A or 1, L, B or 1), to the extremes (D, A, L, B)."""
    better = torch.maximum if largest else torch.minimum
    n = x.shape[2]
    k, second = _level(first, last)
    rungs = [x]
    for j in range(int(k.max()) if k.numel() else 0):
        below, half = rungs[-1], 2**j
        upper = below.clone()
        upper[:, :, : n - half] = better(below[:, :, : n - half], below[:, :, half:])
        rungs.append(upper)
    ladder = torch.cat(rungs, 2)
    return better(*(torch.take_along_dim(ladder, k * n + start, 2) for start in (first, second)))


def landed(value: Tensor, first: Tensor, last: Tensor, n: int, largest: bool) -> Tensor:
    """Extremes (D, n, B) of what may land at each place: value (D, L, B) lands somewhere in first..last (D, L).

    Infinite (the other way) where nothing may.
    """
    better, how = (torch.maximum, "amax") if largest else (torch.minimum, "amin")
    domains, _, width = value.shape
    k, second = _level(first, last)
    top = int(k.max()) + 1 if k.numel() else 1
    nothing = -torch.inf if largest else torch.inf
    ladder = torch.full((domains, top * n, width), nothing, dtype=value.dtype, device=value.device)
    for start in (first, second):
        ladder.scatter_reduce_(1, (k * n + start).unsqueeze(2).expand(-1, -1, width), value, how)
    rungs = list(ladder.split(n, 1))
    for j in range(top - 1, 0, -1):
        half = 2 ** (j - 1)
        below = better(rungs[j], rungs[j - 1])
        below[:, half:] = better(below[:, half:], rungs[j][:, : n - half])
        rungs[j - 1] = below
    return rungs[0]


def landings(first: Tensor, last: Tensor, n: int) -> Tensor:
    """How many ranges first..last (D, L) hold each place: (D, n)."""
    steps = torch.zeros((first.shape[0], n + 1), dtype=torch.int64, device=first.device)
    one = torch.ones_like(first)
    return steps.scatter_add_(1, first, one).scatter_add_(1, last + 1, -one).cumsum(1)[:, :n]
