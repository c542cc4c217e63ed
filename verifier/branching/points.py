"""Where to split a value: at a kink, at the point of a table, or at the middle.

* All operators that read the value are made of straight pieces: at the kink inside (l, u) that is nearest to the
  middle. A kink k leaves a triangle of area |change of slope| (k - l)(u - k) / 2, which is largest for the one nearest
  to the middle where the slopes change by the same amount; splitting there removes it.
* Otherwise at the point that leaves the least gap (`verifier.branching.tables`) of those operators that tables know;
  the others have no say.
* For products alone (where it is the best), where no operator is known, and outside of a table: at the middle.

Sound: any point is. What is handed out lies strictly inside (l, u) wherever a floating-point number does.
"""

from __future__ import annotations

import torch
from torch import Tensor

from verifier.branching.tables import Table, build, consumer, grid_for, key
from verifier.ops.base import Operator
from verifier.ops.piecewise import PiecewiseLinear

MARGIN = 0.01  # least part of the width on either side of a table's point


def middle(l: Tensor, u: Tensor) -> Tensor:
    """The midpoint of l < u, like l; 0, or a number further in, where ends are infinite."""
    low, high = torch.isinf(l), torch.isinf(u)
    m = l / 2 + u / 2
    m = torch.where(low, u.clamp(max=1e30) - 1 - u.abs().clamp(max=1e30), m)
    m = torch.where(high, l.clamp(min=-1e30) + 1 + l.abs().clamp(max=1e30), m)
    return inside(torch.where(low & high, 0.0, m), l, u)


def inside(p: Tensor, l: Tensor, u: Tensor) -> Tensor:
    """p moved into (l, u): next to an end at the worst."""
    return torch.minimum(torch.maximum(p, torch.nextafter(l, u)), torch.nextafter(u, l))


def kink(points: tuple[float, ...], l: Tensor, u: Tensor) -> Tensor:
    """Of the kinks inside (l, u) the one nearest to the middle; the middle where there is none."""
    m = middle(l, u)
    best, off = m, torch.full_like(m, torch.inf)
    for point in points:
        away = (m - point).abs()
        better = (l < point) & (u > point) & (away < off)
        best, off = torch.where(better, point, best), torch.where(better, away, off)
    return best


class Points:
    """Split points, with the tables that were needed so far on one device. `midpoints`: the baseline, tables unused."""

    def __init__(self, device: torch.device | str = "cpu", midpoints: bool = False):
        self.device, self.midpoints = torch.device(device), midpoints
        self.tables: dict[str, Table] = {}

    def points(self, consumers: tuple[Operator, ...], l: Tensor, u: Tensor) -> Tensor:
        """p like l, l < p < u (l < u of any shape), for a value that these operators read."""
        ops = [op for op in consumers if not isinstance(op, PiecewiseLinear)]
        if consumers and not ops:
            kinks = {float(p) for op in consumers for p in getattr(op, "points", ())}
            return kink(tuple(sorted(kinks)), l, u)
        if self.midpoints:
            return middle(l, u)
        known = tuple(sorted({c for op in consumers if (c := consumer(op)) is not None}, key=repr))
        if all(c.product for c in known):
            return middle(l, u)
        name = key(known)
        if name not in self.tables:
            self.tables[name] = Table.of(grid_for(known), build(known), self.device)
        t = self.tables[name].fraction(l, u).clamp(MARGIN, 1 - MARGIN)
        p, m = l + t * (u - l), middle(l, u)
        return inside(torch.where(torch.isfinite(p), p, m), l, u)
