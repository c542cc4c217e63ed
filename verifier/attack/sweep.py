"""Where few dimensions move: grids over the boxes, finer and finer, ends and corners first.

Gradients say nothing where an input is a place, an index or a count that the network rounds; with one to three such
dimensions all of them can be tried. Level k is the grid of 2^k + 1 points a dimension without those of the level
before; level 0 the corners. Within a level points come in random order, so that a sweep cut short has looked
everywhere.

Symbols: N points, R boxes, m dimensions; l, u (R, m).
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

FEW = 3  # dimensions
FINEST = 20  # levels: beyond, a grid has too many points ever to be done
WHOLE = 1 << 18  # points of a grid that are listed at once


def sweep(l: Tensor, u: Tensor, block: int, generator: torch.Generator) -> Iterator[tuple[Tensor, Tensor]]:
    """Points (N, m) inside their boxes and the boxes' numbers (N,), at most `block` at a time. Boxes of which more than
    `FEW` dimensions move are left out.
    """
    moving = [torch.nonzero(b > a).squeeze(1) for a, b in zip(l, u)]
    boxes = [i for i, j in enumerate(moving) if len(j) <= FEW]
    for level in range(FINEST):
        for i in boxes:
            d = len(moving[i])
            if level and not d:
                continue
            for at in _places(level, d, block, generator):
                x = l[i].expand(len(at), -1).clone()
                part = at.to(l.device, l.dtype) / 2**level
                low, high = l[i, moving[i]], u[i, moving[i]]
                x[:, moving[i]] = torch.minimum(torch.maximum(low + (high - low) * part, low), high)
                yield x, torch.full((len(x),), i, dtype=torch.int64, device=l.device)


def _places(level: int, d: int, block: int, generator: torch.Generator) -> Iterator[Tensor]:
    """Whole coordinates (N, d) from 0 to 2^level of a level's new points, shuffled; by slabs of the first dimension
    where there are very many.
    """
    side = torch.arange(2**level + 1)
    slabs = [side] if len(side) ** d <= WHOLE else side[torch.randperm(len(side), generator=generator)].split(1)
    for slab in slabs if d else ():
        points = torch.cartesian_prod(slab, *[side] * (d - 1)).reshape(-1, d)
        if level:  # those of even coordinates alone were in the level before
            points = points[(points % 2 == 1).any(1)]
        if len(points):
            yield from points[torch.randperm(len(points), generator=generator)].split(block)
    if not d:
        yield side[:1].expand(1, 0)
