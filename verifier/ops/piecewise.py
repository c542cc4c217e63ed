"""Functions of one number made of straight pieces: their lines are exact wherever no breakpoint lies inside.

With breakpoints p_1 < … < p_k the function minus a line takes its extremes at the ends of [l, u] and at breakpoints, so
the offset of any slope is exact (`verifier.ops.pointwise`). Both envelopes are polygons whose edges have the slope of a
piece or join two of the points l, p_i, u.

Symbols: l, u, slopes, offsets: (N, *shape), elementwise.
"""

from __future__ import annotations

import torch
from torch import Tensor

from verifier.ops import OPS
from verifier.ops.arithmetic import Entrywise
from verifier.ops.base import Lines, Operator, Site, Unsuitable
from verifier.ops.pointwise import Pointwise, chord


class PiecewiseLinear(Pointwise):
    """f with breakpoints `points` p_1 < … < p_k and slopes s_0, …, s_k on the pieces between them. Exact where no
    breakpoint is inside.
    """

    points: tuple[float, ...]
    slopes: tuple[float, ...]

    def loose(self, l: Tensor, u: Tensor) -> Tensor:
        if not self.points:
            return torch.zeros_like(l, dtype=torch.bool)
        return torch.stack([(l < p) & (u > p) for p in self.points]).any(0)

    def critical(self, s: Tensor) -> list[Tensor]:
        return [torch.full_like(s, p) for p in self.points]

    def candidates(self, l: Tensor, u: Tensor, fl: Tensor, fu: Tensor) -> tuple[list[Tensor], list[Tensor]]:
        slopes = [torch.full_like(l, s) for s in sorted({0.0, *self.slopes})] + [chord(l, u, fl, fu)]
        for p in self.points if len(self.points) > 1 else ():
            fp = self.f(torch.full_like(l, p))
            slopes += [chord(l, torch.full_like(l, p), fl, fp), chord(torch.full_like(l, p), u, fp, fu)]
        return slopes, slopes

    def offset(self, l: Tensor, u: Tensor, s: Tensor, low: bool) -> Tensor:
        # On a single piece through the origin's line with the piece's own slope there is nothing to round: f(x) = s x
        # exactly.
        exact = (self._piece(l, u) == s) & self._through_origin(l, u)
        return torch.where(exact, 0.0, super().offset(l, u, s, low))

    def end_slopes(self, l: Tensor, u: Tensor) -> list[Tensor]:
        return [self._slope_at(l), self._slope_at(u)]

    def typical_slope(self, l: Tensor, u: Tensor) -> Tensor:
        """The mean size of the slopes at both ends, or the chord's where both ends are flat.

        It does not change while a breakpoint stays inside, so neither do the branching's preferences.
        """
        ends = (self._slope_at(l).abs() + self._slope_at(u).abs()) / 2
        return torch.where(ends > 0, ends, super().typical_slope(l, u).abs())

    def _slope_at(self, x: Tensor) -> Tensor:
        slope = torch.full_like(x, float(self.slopes[0]))
        for p, s in zip(self.points, self.slopes[1:]):
            slope = torch.where(x >= p, float(s), slope)
        return slope

    def _piece(self, l: Tensor, u: Tensor) -> Tensor:
        """The slope of the piece that holds [l, u], NaN where a breakpoint lies inside."""
        slope = torch.full_like(l, float(self.slopes[0]))
        for p, s in zip(self.points, self.slopes[1:]):
            slope = torch.where(
                l >= p, torch.full_like(l, float(s)), torch.where(u > p, torch.full_like(l, float("nan")), slope)
            )
        return slope

    def _through_origin(self, l: Tensor, u: Tensor) -> Tensor:
        """Where the piece that holds [l, u], continued as a line, passes through the origin exactly."""
        raise NotImplementedError


class ThroughZero(PiecewiseLinear):
    """Slope a below 0 and c above it, the same at every entry: f(0) = 0, one breakpoint, `slopes` = (a, c)."""

    points = (0.0,)

    def _through_origin(self, l: Tensor, u: Tensor) -> Tensor:
        return torch.ones_like(l, dtype=torch.bool)


@OPS.add("Relu")
class Relu(ThroughZero):
    """max(x, 0)."""

    integers = "keep"

    slopes = (0.0, 1.0)

    def f(self, x: Tensor) -> Tensor:
        return torch.relu(x)

    def relax(self, l: Tensor, u: Tensor) -> Lines:
        """The triangle, written out because it is the inner loop of most searches; equal to what the base class would
        choose.
        """
        info = torch.finfo(l.dtype)
        crossing = (l < 0) & (u > 0)
        on = (l >= 0).to(l.dtype)
        up_a = torch.where(crossing, u / (u - l), on)
        # The line must clear both ends and the kink: offset >= -s l, >= u - s u, >= 0. One rounding each, moved up by
        # two epsilons.
        up_b = torch.maximum(-up_a * l, u - up_a * u) * (1 + 2 * info.eps) + 2 * info.eps * u + info.tiny
        up_b = torch.where(crossing, up_b, 0.0)
        lo_a = torch.where(crossing, (u > -l).to(l.dtype), on)
        wild = ~(torch.isfinite(l) & torch.isfinite(u))
        if bool(wild.any()):  # infinite or NaN ends: a slope of 0 below, the interval above
            up_a, up_b = torch.where(wild, 0.0, up_a), torch.where(wild, torch.relu(u), up_b)
            lo_a = torch.where(wild, 0.0, lo_a)
        return Lines(lo_a, None, up_a, up_b)


@OPS.add("LeakyRelu")
class LeakyRelu(ThroughZero):
    """x above 0, alpha x below."""

    ulps = 1.0  # the product alpha x rounds

    def __init__(self, site: Site):
        super().__init__(site)
        self.alpha = float(site.attrs.get("alpha", 0.01))
        # alpha as the working type holds it: the function that is run is the one that is bounded.
        self.alpha = float(torch.tensor(self.alpha, dtype=site.dtype))
        self.slopes = (self.alpha, 1.0)

    def f(self, x: Tensor) -> Tensor:
        return torch.where(x >= 0, x, self.alpha * x)

    def interval(self, *boxes: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        l, u = boxes[0]
        fl, fu = self.f(l), self.f(u)
        if self.alpha >= 0:
            return self._outward(fl, fu)
        least = torch.where((l < 0) & (u > 0), 0.0, torch.minimum(fl, fu))
        return self._outward(least, torch.maximum(fl, fu))


@OPS.add("PRelu")
def prelu(site: Site) -> Operator:
    return PRelu(site) if site.variable == (0,) and site.shapes[0] == site.shape else VariablePRelu(site)


class VariablePRelu(Entrywise):
    """x above 0, slope x below, where the slope depends on x too or where x is repeated. Without bounds."""

    lacks = "a slope that depends on the input, or that repeats it"

    def combine(self, x: Tensor, slope: Tensor) -> Tensor:
        return torch.where(x >= 0, x, slope * x)


class PRelu(PiecewiseLinear):
    """x above 0, slope x below; the slope is constant and broadcasts to x."""

    integers = "wrap"

    ulps = 1.0
    points = (0.0,)
    slopes = ()  # they differ from entry to entry: see `_slope_at` and `_piece`

    def __init__(self, site: Site):
        super().__init__(site)
        self.alpha = site.constant(1)
        if not bool(torch.isfinite(self.alpha).all()):
            raise Unsuitable(f"{site.name}: PRelu with a slope that is not finite")

    def f(self, x: Tensor) -> Tensor:
        return torch.where(x >= 0, x, self.alpha * x)

    def _range(self, l: Tensor, u: Tensor) -> tuple[Tensor, Tensor]:
        fl, fu = self.at(l), self.at(u)
        zero = torch.where((l < 0) & (u > 0), 0.0, fu)
        low, high = torch.minimum(fl, fu), torch.maximum(fl, fu)
        return torch.minimum(low, zero), torch.maximum(high, zero)

    def at(self, x: Tensor) -> Tensor:
        return torch.nan_to_num(self.f(x), nan=0.0, posinf=torch.inf, neginf=-torch.inf)

    def candidates(self, l: Tensor, u: Tensor, fl: Tensor, fu: Tensor) -> tuple[list[Tensor], list[Tensor]]:
        slopes = [self.alpha.expand_as(l), torch.ones_like(l), torch.zeros_like(l), chord(l, u, fl, fu)]
        return slopes, slopes

    def _slope_at(self, x: Tensor) -> Tensor:
        return torch.where(x >= 0, 1.0, self.alpha)

    def _piece(self, l: Tensor, u: Tensor) -> Tensor:
        return torch.where(l >= 0, 1.0, torch.where(u > 0, torch.nan, self.alpha))

    def _through_origin(self, l: Tensor, u: Tensor) -> Tensor:
        return torch.ones_like(l, dtype=torch.bool)


@OPS.add("Abs")
class Abs(ThroughZero):
    """|x|."""

    integers = "wrap"
    native = True

    slopes = (-1.0, 1.0)

    def f(self, x: Tensor) -> Tensor:
        return torch.abs(x)

    def interval(self, *boxes: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        l, u = boxes[0]
        return torch.relu(torch.maximum(l, -u)), torch.maximum(-l, u)


@OPS.add("Clip")
class Clip(PiecewiseLinear):
    """min(max(x, low), high), as ONNX defines it when low > high too: the constant high."""

    integers = "keep"

    def __init__(self, site: Site):
        super().__init__(site)
        self.low, self.high = (
            float(torch.tensor(float(site.attrs.get(k, d)), dtype=site.dtype))
            for k, d in (("min", -float("inf")), ("max", float("inf")))
        )
        self.low = min(self.low, self.high)
        ends = [(p, s) for p, s in ((self.low, 1.0), (self.high, 0.0)) if abs(p) != float("inf")]
        if self.low == self.high:
            ends = ends[:1]
        self.points = tuple(p for p, _ in ends)
        first = 0.0 if self.low != -float("inf") else 1.0
        self.slopes = (0.0, 0.0) if self.low == self.high else (first, *(s for _, s in ends))

    def f(self, x: Tensor) -> Tensor:
        return torch.clamp(x, self.low, self.high)

    def _through_origin(self, l: Tensor, u: Tensor) -> Tensor:
        # A box that is one end point belongs to the flat piece beyond it as well: then the slope is not 1 and this
        # does not hold.
        inside = (l >= self.low) & (u <= self.high) & (self._piece(l, u) == 1)
        zero = ((u <= self.low) & (self.low == 0)) | ((l >= self.high) & (self.high == 0))
        return inside | (zero & (self._piece(l, u) == 0))


@OPS.add("HardSigmoid")
class HardSigmoid(PiecewiseLinear):
    """min(max(alpha x + beta, 0), 1).

    The breakpoints -beta / alpha and (1 - beta) / alpha are rounded, and so is alpha x + beta: where the function is
    not flat both cost a few eps (1 + |beta|) at most, and a slope s costs eps |s x| more there, which the slack covers.
    """

    def __init__(self, site: Site):
        super().__init__(site)
        alpha, beta = site.attrs.get("alpha", 0.2), site.attrs.get("beta", 0.5)
        self.alpha, self.beta = (float(torch.tensor(float(p), dtype=site.dtype)) for p in (alpha, beta))
        self.fuzz = 8 * (1 + abs(self.beta))
        self.points, self.slopes = (), (0.0,)
        if self.alpha:
            self.points = tuple(sorted((-self.beta / self.alpha, (1 - self.beta) / self.alpha)))
            self.slopes = (0.0, self.alpha, 0.0)
        self.rising = self.alpha >= 0

    def f(self, x: Tensor) -> Tensor:
        return torch.clamp(self.alpha * x + self.beta, 0, 1)

    def at(self, x: Tensor) -> Tensor:
        return torch.nan_to_num(self.f(x), nan=min(max(self.beta, 0.0), 1.0))  # 0 times infinity

    def _through_origin(self, l: Tensor, u: Tensor) -> Tensor:
        return torch.zeros_like(l, dtype=torch.bool)
