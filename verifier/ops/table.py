"""Tables: continuous piecewise linear functions with many pieces, such as a sum of ReLUs of one number.

`points` p_1 < … < p_k, `slopes` s_0, …, s_k on the pieces between them, `value` = f(p_1), rational numbers. On piece i,
f(x) = c_i + s_i x; the intercepts c_i are computed from these numbers in rational arithmetic and rounded once.

Why the offsets are sound: f(x) - s x takes its extremes on [l, u] at l, u, or a breakpoint inside. Rounding, with eps
of the working precision: c_i, s_i, their product with x and the sum round once each, so f is off by at most 3 eps
(|c_i| + |s_i x|). A breakpoint is held as the nearest number: between it and the true one the wrong neighbour's line
is taken, which is off by at most eps |p| times the change of slope there; where several breakpoints are as good as one
number, by the sum of that (`reach`, added to the slack of the pieces on both sides),
and f(x) - s x at the one differs from that at the other by (|s_i| + |s|) eps |p| more, which is covered by counting
|s x| and |s_i x| twice as often as they round.

Symbols: l, u, s, offsets: (N, *shape), elementwise.
"""

from __future__ import annotations

from fractions import Fraction

import torch
from torch import Tensor

from verifier.ops import OPS
from verifier.ops.base import Lines, Site
from verifier.ops.piecewise import PiecewiseLinear
from verifier.ops.pointwise import chord

ROUNDS = 8  # chords tried on the way to the best line
BLOCK = 1 << 17  # entries times breakpoints looked at together: what a core's cache holds


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
        each = [float(abs((s[k + 1] - s[k]) * p[k])) for k in range(len(p))]
        near = 4 * torch.finfo(site.dtype).eps
        jump = [sum(j for q, j in zip(p, each) if abs(float(q - r)) <= near * abs(float(r))) for r in p]
        reach = [max(a, b) for a, b in zip([0.0, *jump], [*jump, 0.0])]
        held = lambda values: torch.tensor([float(v) for v in values], dtype=torch.float64).to(site.device, site.dtype)
        self.slope, self.intercept, self.reach, self.ends = held(slopes), held(intercepts), held(reach), held(points)
        self.points, self.slopes = tuple(self.ends.tolist()), tuple(self.slope.tolist())
        self.corners, self.sure = self.f(self.ends), self.slack(self.ends, torch.zeros_like(self.ends))

    def piece(self, x: Tensor) -> Tensor:
        return torch.bucketize(x.detach().contiguous(), self.ends, right=True)

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

    def offset(self, l: Tensor, u: Tensor, s: Tensor, low: bool) -> Tensor:
        out, pick, gather = (-1, torch.minimum, torch.amin) if low else (1, torch.maximum, torch.amax)
        best = None
        for x in (l, u):
            value = self.f(x) - torch.where(s == 0, 0.0, s * x) + out * self.slack(x, s)
            best = value if best is None else pick(best, value)
        size = (len(self.ends), *([1] * l.dim()))
        some = max(1, BLOCK // max(1, s.numel()))
        for p, y, sure in zip(*(t.reshape(size).split(some) for t in (self.ends, self.corners, self.sure))):
            product = s * p
            value = (y - product) + out * (sure + 6 * torch.finfo(l.dtype).eps * product.abs())
            best = pick(best, gather(torch.where((p > l) & (p < u), value, -out * torch.inf), 0))
        return best

    def interval(self, *boxes: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        l, u = boxes[0]
        low, high = self.offsets(l, u, torch.zeros_like(l))
        return torch.where(torch.isnan(low), -torch.inf, low), torch.where(torch.isnan(high), torch.inf, high)

    def relax(self, l: Tensor, u: Tensor) -> Lines:
        finite = torch.isfinite(l) & torch.isfinite(u)
        a, b = torch.where(finite, l, 0.0), torch.where(finite, u, 0.0)
        x = torch.stack([a, b, *(torch.full_like(a, p).clamp(a, b) for p in self.points)])
        y = self.f(x)
        sides: list[Tensor] = []
        for sign in (1, -1):
            best: tuple[Tensor, ...] | None = None
            for s in self._supports(a, b, x, y, sign):
                offset = self.offset(a, b, s, sign > 0)
                height = sign * (s * (a + (b - a) / 2) + offset)
                if best is None:
                    best = (height, s, offset)
                else:
                    better = height > best[0]
                    best = tuple(torch.where(better, new, old) for new, old in zip((height, s, offset), best))
            sides += best[1:]
        low, high = self.interval((l, u))
        lo_a, lo_b, up_a, up_b = sides
        return Lines(
            torch.where(finite, lo_a, 0.0),
            torch.where(finite, lo_b, low),
            torch.where(finite, up_a, 0.0),
            torch.where(finite, up_b, high),
        )

    def _supports(self, l: Tensor, u: Tensor, x: Tensor, y: Tensor, sign: int) -> list[Tensor]:
        """Slopes that close in on the line that supports the envelope of the corners x, y (P, *) at the middle: the
        corner where f - s x is least gives the next chord, as in `Pointwise`; and the slopes at both ends.
        """
        middle = l + (u - l) / 2
        left, right = (l, y[0]), (u, y[1])
        slopes = [self.slope[self.piece(l)], self.slope[self.piece(u)]]
        for _ in range(ROUNDS):
            s = chord(left[0], right[0], left[1], right[1])
            slopes.append(s)
            k = (sign * (y - s * x)).argmin(0, keepdim=True)
            px, py = x.gather(0, k)[0], y.gather(0, k)[0]
            closer = (px <= middle) & (px > left[0])
            left = torch.where(closer, px, left[0]), torch.where(closer, py, left[1])
            closer = (px >= middle) & (px < right[0])
            right = torch.where(closer, px, right[0]), torch.where(closer, py, right[1])
        return slopes
