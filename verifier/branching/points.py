"""Where to split a value: at a kink, at the point of a table, or at the middle.

* All operators that read the value are made of straight pieces: at the kink or jump inside (l, u) that is nearest to
  the middle. A kink k leaves a triangle of area |change of slope| (k - l)(u - k) / 2, which is largest for the one
  nearest to the middle where the slopes change by the same amount; splitting there removes it.
* Otherwise at the point that leaves the least gap (`verifier.branching.tables`) of those operators that tables know;
  the others have no say. By default only where the curvature of one of them is lopsided: convex or concave throughout,
  or with a pole or an end at 0, such as exp, where the middle is far from where the function bends. Elsewhere the
  middle does better: a table cuts a sliver off intervals around a turning point, and the sliver holds few inputs.
* For products alone (where it is the best), where no operator is known, outside of a table, and where a table is not
  at hand and would take too long to make: at the middle.

Sound: any point is. What is handed out lies strictly inside (l, u) wherever a floating-point number does.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from math import inf
from threading import Lock

import torch
from torch import Tensor

from verifier.branching.store import Store
from verifier.branching.tables import Consumer, Table, consumer, grid_for, steep
from verifier.ops.base import Operator
from verifier.ops.piecewise import PiecewiseLinear
from verifier.ops.steps import Jumps

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


@dataclass(frozen=True)
class Rule:
    """How points are chosen for a value: at one of `kinks`, else by the table of `known`, else at the middle."""

    kinks: tuple[float, ...] = ()
    known: tuple[Consumer, ...] = ()


def rule(consumers: tuple[Operator, ...]) -> Rule:
    """For a value that these operators read."""
    if consumers and all(isinstance(op, (PiecewiseLinear, Jumps)) for op in consumers):
        return Rule(kinks=tuple(sorted({float(p) for op in consumers for p in corners(op)})))
    known = {c for op in consumers if (c := consumer(op)) is not None}
    return Rule() if all(c.product for c in known) else Rule(known=tuple(sorted(known, key=repr)))


def corners(op: Operator) -> tuple[float, ...]:
    """Where the straight pieces of an operator meet."""
    return tuple(j.x for j in op.jumps) if isinstance(op, Jumps) else op.points


def lopsided(known: tuple[Consumer, ...]) -> bool:
    """Whether one of the functions bends one way only, or has a pole or an end at 0."""
    ops = [c.operator() for c in known if not c.product]
    return any(getattr(op, "bend", 0) or steep(op) for op in ops)


class Points:
    """Split points, with the tables that were needed so far on one device; threads may share it.

    `how`: by `tables`, at the `middle`, or `auto`, tables where functions are lopsided. `patience`: how many seconds a
    table may take to be made, asked each time.
    """

    def __init__(
        self,
        device: torch.device | str = "cpu",
        how: str = "auto",
        store: Store | None = None,
        patience: Callable[[], float] = lambda: inf,
    ):
        self.device, self.how, self.patience = torch.device(device), how, patience
        self.store = store or Store()
        self.tables: dict[tuple[Consumer, ...], Table | None] = {}
        self.lock = Lock()

    def points(self, consumers: tuple[Operator, ...], l: Tensor, u: Tensor) -> Tensor:
        """p like l, l < p < u (l < u of any shape), for a value that these operators read."""
        return self.at(rule(consumers), l, u)

    def at(self, chosen: Rule, l: Tensor, u: Tensor) -> Tensor:
        """p like l, l < p < u (l < u of any shape)."""
        if chosen.kinks:
            return kink(chosen.kinks, l, u)
        table = self.table(chosen.known) if chosen.known and self.how != "middle" else None
        if table is None:
            return middle(l, u)
        p = l + table.fraction(l, u).clamp(MARGIN, 1 - MARGIN) * (u - l)
        return inside(torch.where(torch.isfinite(p), p, middle(l, u)), l, u)

    def table(self, known: tuple[Consumer, ...]) -> Table | None:
        """The table of these operators; None where none is wanted, or it would take too long to make."""
        with self.lock:
            if known not in self.tables:
                wanted = self.how == "tables" or lopsided(known)
                levels = self.store.levels(known, self.device, self.patience()) if wanted else None
                self.tables[known] = None if levels is None else Table.of(grid_for(known), levels, self.device)
            return self.tables[known]
