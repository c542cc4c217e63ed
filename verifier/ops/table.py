"""Tables: continuous piecewise linear functions with many pieces, such as a sum of ReLUs of one number.

`points` p_1 < … < p_k, `slopes` s_0, …, s_k on the pieces between them, `value` = f(p_1). On piece i, f(x) = c_i + s_i
x; the intercepts c_i are computed from these numbers in rational arithmetic and rounded once.

Why the offsets are sound: f(x) - s x takes its extremes on [l, u] at l, u, or a breakpoint inside. Rounding, with eps
of the working precision: c_i, s_i, their product with x and the sum round once each, so f is off by at most 3 eps
(|c_i| + |s_i x|). A breakpoint is held as the nearest number: between it and the true one the wrong neighbour's line
is taken, which is off by at most eps |p| times the change of slope there (`reach`, added to the slack of both pieces),
and f(x) - s x at the one differs from that at the other by (|s_i| + |s|) eps |p| more, which is covered by counting
|s x| and |s_i x| twice as often as they round.

Symbols: l, u, s, offsets: (N, *shape), elementwise.
"""

from __future__ import annotations

from fractions import Fraction

import torch
from torch import Tensor

from verifier.ops import OPS
from verifier.ops.base import Site
from verifier.ops.pointwise import PiecewiseLinear, chord


@OPS.add("Table")
class Table(PiecewiseLinear):
    """See the file's head."""

    def __init__(self, site: Site):
        super().__init__(site)
        points, slopes = site.attrs["points"], site.attrs["slopes"]
        p, s = [Fraction(v) for v in points], [Fraction(v) for v in slopes]
        intercepts = [Fraction(site.attrs["value"]) - s[0] * p[0]]
        for k in range(len(p)):
            intercepts.append(intercepts[-1] + (s[k] - s[k + 1]) * p[k])
        jump = [float(abs((s[k + 1] - s[k]) * p[k])) for k in range(len(p))]
        reach = [max(a, b) for a, b in zip([0.0, *jump], [*jump, 0.0])]
        held = lambda values: torch.tensor([float(v) for v in values], dtype=torch.float64).to(site.device, site.dtype)
        self.slope, self.intercept, self.reach, self.at = held(slopes), held(intercepts), held(reach), held(points)
        self.points, self.slopes = tuple(self.at.tolist()), tuple(self.slope.tolist())

    def piece(self, x: Tensor) -> Tensor:
        return torch.bucketize(x.detach().contiguous(), self.at, right=True)

    def f(self, x: Tensor) -> Tensor:
        k = self.piece(x)
        slope, intercept = self.slope[k], self.intercept[k]
        return torch.where(slope == 0, intercept + 0 * x.clamp(-1, 1), intercept + slope * x)

    def slack(self, x: Tensor, s: Tensor) -> Tensor:
        """How far f(x) - s x may be off as evaluated."""
        k, info = self.piece(x), torch.finfo(x.dtype)
        slope = self.slope[k]
        product = torch.where(slope == 0, 0.0, (slope * x).abs())
        other = torch.where(s == 0, 0.0, (s * x).abs())
        return info.eps * (6 * (self.intercept[k].abs() + product + other) + 2 * self.reach[k]) + 4 * info.tiny

    def offsets(self, l: Tensor, u: Tensor, s: Tensor) -> tuple[Tensor, Tensor]:
        low = high = None
        for p in (None, *self.points):
            for x in (l, u) if p is None else (torch.full_like(l, p).clamp(l, u),):
                g = self.f(x) - torch.where(s == 0, 0.0, s * x)
                slack = self.slack(x, s)
                below, above = g - slack, g + slack
                low = below if low is None else torch.minimum(low, below)
                high = above if high is None else torch.maximum(high, above)
        return low, high

    def interval(self, *boxes: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        l, u = boxes[0]
        low, high = self.offsets(l, u, torch.zeros_like(l))
        return torch.where(torch.isnan(low), -torch.inf, low), torch.where(torch.isnan(high), torch.inf, high)

    def candidates(self, l: Tensor, u: Tensor) -> tuple[list[Tensor], list[Tensor]]:
        """The chord and the slopes at both ends and in the middle: all pieces would be too many to try."""
        slopes = [chord(l, u, self.f(l), self.f(u)), *(self.slope[self.piece(x)] for x in (l, u, l + (u - l) / 2))]
        return slopes, slopes
