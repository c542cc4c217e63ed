"""Half-spaces g x + h <= 0 that hold wherever a domain may still have a counterexample.

They come from rows that bound the network: where plane x + bias <= row(x) over a box, and a counterexample needs row(x)
<= 0, it lies in plane x + bias <= 0. Such a plane holds in every part of its box, so children keep their parents'.
The numbers stored are taken as exact: what rounding may have cost is in h already, which is too low rather than too
high (a lower h keeps more points).

A half-space that says nothing is 0 x - 1 <= 0; those that are not finite are replaced by it, so no mask is carried.

Symbols: D domains, C half-spaces, n dimensions.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor


class Halfspaces(NamedTuple):
    """g (D, C, n) and h (D, C), finite: g x + h <= 0."""

    g: Tensor
    h: Tensor

    def at(self, index: Tensor | slice) -> Halfspaces:
        """Those of the domains at an index or mask."""
        return Halfspaces(self.g[index], self.h[index])

    def only(self, kept: Tensor) -> Halfspaces:
        """The same with those outside of `kept` (D, C) bool replaced by ones that say nothing."""
        return Halfspaces(torch.where(kept.unsqueeze(-1), self.g, 0.0), torch.where(kept, self.h, -1.0))

    def double(self) -> Halfspaces:
        return Halfspaces(self.g.double(), self.h.double())


def halfspaces(g: Tensor, h: Tensor) -> Halfspaces:
    """From planes g (D, C, n) and offsets h (D, C) as they come; what is not finite says nothing."""
    return Halfspaces(g, h).only(torch.isfinite(g).all(-1) & torch.isfinite(h))


def depth(planes: Halfspaces, l: Tensor, u: Tensor) -> Tensor:
    """How deep half-spaces cut boxes l, u (D, n), (D, C): 1 removes the box, 0 cuts through its centre, below -1
    removes nothing. Only for ranking.
    """
    c, r = l + (u - l) / 2, (u - l) / 2
    middle = torch.einsum("dcn,dn->dc", planes.g, c) + planes.h
    reach = torch.einsum("dcn,dn->dc", planes.g.abs(), r)
    return torch.nan_to_num(middle / reach.clamp(min=torch.finfo(l.dtype).tiny), nan=-1e30)
