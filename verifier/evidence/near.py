"""What a search leaves behind for those who doubt it: the points that came nearest to satisfying the property.

Of every leaf that was refuted, the point where its bound is least, and that bound: where the least of them is below
what the runtime's own rounding can do, a proof over the reals says little about the runtime. Of attacks, the points
that missed by least.

Symbols: N points, m dimensions that move.
"""

from __future__ import annotations

import numpy as np

KEPT = 64  # points of either kind


class Nearest:
    """The points (N, m) with the smallest gaps (N,) > 0, smallest first; starts empty, is added to, never forgets."""

    def __init__(self) -> None:
        self.points: list[np.ndarray] = []
        self.gaps: list[float] = []

    def add(self, points: np.ndarray, gaps: np.ndarray) -> None:
        """Adds points (N, m) with gaps (N,); those that are not finite are left out."""
        fine = np.flatnonzero(np.isfinite(gaps) & np.isfinite(points).all(1))
        if len(self.gaps) == KEPT:
            fine = fine[gaps[fine] < self.gaps[-1]]
        if not len(fine):
            return
        fine = fine[np.argsort(gaps[fine], kind="stable")[:KEPT]]
        joined = [*zip(self.gaps, self.points), *zip(gaps[fine].tolist(), points[fine])]
        joined.sort(key=lambda pair: pair[0])
        self.gaps, self.points = ([pair[k] for pair in joined[:KEPT]] for k in (0, 1))

    @property
    def least(self) -> float:
        """The smallest gap; infinite where there is none."""
        return self.gaps[0] if self.gaps else float("inf")


class NearMisses:
    """`leaves`: minimisers of refuted subproblems with their bounds; `tried`: points of attacks with their largest
    row.
    """

    def __init__(self) -> None:
        self.leaves, self.tried = Nearest(), Nearest()
