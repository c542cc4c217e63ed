"""Functions of one number, applied to every entry: their ranges, and lines around them for any slope.

A line is given by its slope s alone; its offset is then computed exactly (slope with exact offset, as in SLiR, arXiv
2606.20292):

    lower offset b(s) = min over x in [l, u] of f(x) - s x,        upper offset B(s) = max of the same.

Why every slope is sound: g(x) = f(x) - s x takes its extremes on [l, u] at l, at u, at a kink, or where f'(x) = s
(`critical`), so the least and greatest value over those finitely many points enclose g, and s x + b(s) <= f(x) <= s x
+ B(s). A point inside [l, u] that is not critical does no harm: g there lies between the extremes anyway. A critical
point that is off by d costs at most max|f''| d^2 / 2, which is second order in the rounding of the formulas used here
and lies below the slack.

Rounding: with eps the machine epsilon of the working type, f is evaluated to within `ulps` eps |f| (+ the smallest
normal number) and s x and the difference round once each, so every value of g is moved outward by eps ((ulps + 2)|f| +
2 |s x|) + tiny before the extreme is taken.

Of several candidate slopes the default keeps the line that is highest (lower line) or lowest (upper line) at the
middle of [l, u]: the area between f and a line differs from the line's value there only by a constant and the factor u
- l, so this is the least area.

Symbols: l, u, s, offsets: (N, *shape), elementwise.
"""

from __future__ import annotations

import torch
from torch import Tensor

from verifier.ops import OPS
from verifier.ops.base import Lines, Nonlinear, Site, Unsuitable


class Pointwise(Nonlinear):
    """A function of one number. Subclasses give `f`, `critical`, `candidates`, `loose`, and `interval` where f is not
    monotone.
    """

    ulps = 0.0  # error of `f` as evaluated, in machine epsilons relative to |f|

    def __init__(self, site: Site):
        super().__init__(site)
        if len(self.in_shapes) != 1:
            raise Unsuitable(f"{site.kind} takes one input that depends on x, here {len(self.in_shapes)}")

    def f(self, x: Tensor) -> Tensor:
        """The function itself, entry by entry."""
        raise NotImplementedError

    def critical(self, s: Tensor) -> list[Tensor]:
        """All points where f'(x) = s, and all kinks, each like s; NaN where there is none. They need not lie in [l,
        u].
        """
        raise NotImplementedError

    def candidates(self, l: Tensor, u: Tensor) -> tuple[list[Tensor], list[Tensor]]:
        """Slopes worth trying on [l, u] for the lower and for the upper line."""
        raise NotImplementedError

    def forward(self, *xs: Tensor) -> Tensor:
        return self.f(xs[0])

    def interval(self, *boxes: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        l, u = boxes[0]
        return self._outward(self.f(l), self.f(u))

    def _outward(self, low: Tensor, high: Tensor) -> tuple[Tensor, Tensor]:
        """Moves values of f outward by the error of their evaluation."""
        if not self.ulps:
            return low, high
        info = torch.finfo(low.dtype)
        return (
            low - (self.ulps * info.eps) * low.abs() - info.tiny,
            high + (self.ulps * info.eps) * high.abs() + info.tiny,
        )

    def offsets(self, l: Tensor, u: Tensor, s: Tensor) -> tuple[Tensor, Tensor]:
        """The lower and upper offset for slope s on [l, u], rounded outward; s, l, u finite and l <= u."""
        info = torch.finfo(s.dtype)
        low = high = None
        for x in (l, u, *self.critical(s)):
            # Comparisons with NaN are false, so a missing critical point becomes l, which is among the points anyway.
            inside = x if x is l or x is u else torch.where((x > l) & (x < u), x, l)
            fx, sx = self.f(inside), s * inside
            slack = info.eps * ((self.ulps + 2) * fx.abs() + 2 * sx.abs()) + info.tiny
            below, above = fx - sx - slack, fx - sx + slack
            low = below if low is None else torch.minimum(low, below)
            high = above if high is None else torch.maximum(high, above)
        return low, high

    def relax(self, l: Tensor, u: Tensor) -> Lines:
        finite = torch.isfinite(l) & torch.isfinite(u)
        lf, uf = torch.where(finite, l, 0.0), torch.where(finite, u, 0.0)
        mid = lf + (uf - lf) / 2
        best: list[Tensor | None] = [None, None, None, None]
        lower, upper = self.candidates(lf, uf)
        flat = torch.zeros_like(l)
        for side, slopes in ((0, [*lower, flat]), (2, [*upper, flat])):
            for slope in slopes:
                s = torch.where(torch.isfinite(slope), slope, 0.0)
                b = self.offsets(lf, uf, s)[side // 2]
                if best[side] is None:
                    best[side], best[side + 1] = s, b
                    continue
                gain = (s * mid + b) - (best[side] * mid + best[side + 1])
                better = gain > 0 if side == 0 else gain < 0
                best[side], best[side + 1] = torch.where(better, s, best[side]), torch.where(better, b, best[side + 1])
        low, high = self.interval((l, u))
        lo_a, lo_b, up_a, up_b = best
        return Lines(
            torch.where(finite, lo_a, 0.0),
            torch.where(finite, lo_b, low),
            torch.where(finite, up_a, 0.0),
            torch.where(finite, up_b, high),
        )

    def typical_slope(self, l: Tensor, u: Tensor) -> Tensor:
        finite = torch.isfinite(l) & torch.isfinite(u)
        l, u = torch.where(finite, l, 0.0), torch.where(finite, u, 0.0)
        return chord(l, u, self.f(l), self.f(u))


def chord(l: Tensor, u: Tensor, fl: Tensor, fu: Tensor) -> Tensor:
    """Slope of the chord; 0 where the interval is too narrow for the difference quotient to mean anything."""
    width = u - l
    wide = width > 64 * torch.finfo(l.dtype).eps * (l.abs() + u.abs())
    return torch.where(wide, (fu - fl) / torch.where(wide, width, 1.0), 0.0)


# --- piecewise linear
# --------------------------------------------------------------------------------------------------------------------


class PiecewiseLinear(Pointwise):
    """f with breakpoints `points` p_1 < … < p_k and slopes s_0, …, s_k on the pieces between them. Exact where no
    breakpoint is inside.
    """

    points: tuple[float, ...]
    slopes: tuple[float, ...]

    def loose(self, l: Tensor, u: Tensor) -> Tensor:
        return torch.stack([(l < p) & (u > p) for p in self.points]).any(0)

    def critical(self, s: Tensor) -> list[Tensor]:
        return [torch.full_like(s, p) for p in self.points]

    def candidates(self, l: Tensor, u: Tensor) -> tuple[list[Tensor], list[Tensor]]:
        fl, fu = self.f(l), self.f(u)
        slopes = [torch.full_like(l, s) for s in sorted(set(self.slopes))] + [chord(l, u, fl, fu)]
        for p in self.points if len(self.points) > 1 else ():
            fp = self.f(torch.full_like(l, p))
            slopes += [chord(l, torch.full_like(l, p), fl, fp), chord(torch.full_like(l, p), u, fp, fu)]
        return slopes, slopes

    def offsets(self, l: Tensor, u: Tensor, s: Tensor) -> tuple[Tensor, Tensor]:
        low, high = super().offsets(l, u, s)
        # On a single piece through the origin's line with the piece's own slope there is nothing to round: f(x) = s x
        # exactly.
        exact = (self._piece(l, u) == s) & self._through_origin(l, u)
        return torch.where(exact, 0.0, low), torch.where(exact, 0.0, high)

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
    """Slope a below 0 and c above it: f(0) = 0, one breakpoint."""

    points = (0.0,)

    def _through_origin(self, l: Tensor, u: Tensor) -> Tensor:
        return torch.ones_like(l, dtype=torch.bool)


@OPS.add("Relu")
class Relu(ThroughZero):
    """max(x, 0)."""

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


@OPS.add("Abs")
class Abs(ThroughZero):
    """|x|."""

    slopes = (-1.0, 1.0)

    def f(self, x: Tensor) -> Tensor:
        return torch.abs(x)

    def interval(self, *boxes: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        l, u = boxes[0]
        return torch.relu(torch.maximum(l, -u)), torch.maximum(-l, u)


@OPS.add("Clip")
class Clip(PiecewiseLinear):
    """min(max(x, low), high), as ONNX defines it when low > high too: the constant high."""

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

    def loose(self, l: Tensor, u: Tensor) -> Tensor:
        return super().loose(l, u) if self.points else torch.zeros_like(l, dtype=torch.bool)

    def _through_origin(self, l: Tensor, u: Tensor) -> Tensor:
        # A box that is one end point belongs to the flat piece beyond it as well: then the slope is not 1 and this
        # does not hold.
        inside = (l >= self.low) & (u <= self.high) & (self._piece(l, u) == 1)
        zero = ((u <= self.low) & (self.low == 0)) | ((l >= self.high) & (self.high == 0))
        return inside | (zero & (self._piece(l, u) == 0))


# --- S-shaped --------------------------------------------------------------------------------------------------------
# --------------------


class SShaped(Pointwise):
    """Increasing, convex left of 0, concave right of it, with f' even and greatest at 0. Subclasses give f, `slope` =
    f' and `critical`.
    """

    ulps = 8.0
    bisections = 12  # halvings for the tangent through an end; any slope is sound, so this only needs to be good enough

    def slope(self, x: Tensor) -> Tensor:
        raise NotImplementedError

    def loose(self, l: Tensor, u: Tensor) -> Tensor:
        return u > l

    def candidates(self, l: Tensor, u: Tensor) -> tuple[list[Tensor], list[Tensor]]:
        fl, fu = self.f(l), self.f(u)
        straight, middle = chord(l, u, fl, fu), self.slope(l + (u - l) / 2)
        crossing = (l < 0) & (u > 0)
        if not bool(crossing.any()):
            return [straight, middle], [straight, middle]
        # Tangent to the convex half through (u, f(u)), and to the concave half through (l, f(l)).
        left = self.slope(self._tangent_point(u, fu, torch.minimum(l, u.new_zeros(()))))
        right = self.slope(self._tangent_point(l, fl, torch.maximum(u, u.new_zeros(()))))
        return [straight, middle, left], [straight, middle, right]

    def _tangent_point(self, x0: Tensor, y0: Tensor, far: Tensor) -> Tensor:
        """The point t between `far` and 0 where the tangent meets (x0, y0) on the other side of 0, by bisection on
        |t|.
        """
        near, far = torch.zeros_like(far), far
        for _ in range(self.bisections):
            t = (near + far) / 2
            # On the convex side the tangent at t passes above (u, f(u)) when t is too close to 0; mirrored on the
            # concave side.
            over = (self.f(t) + self.slope(t) * (x0 - t) - y0) * torch.sign(x0) > 0
            near, far = torch.where(over, t, near), torch.where(over, far, t)
        return (near + far) / 2


def _logistic_critical(q: Tensor) -> Tensor:
    """The x >= 0 with sigmoid'(x) = q for 0 < q <= 1/4, NaN elsewhere: x = log((1 - p) / p), p = 2 q / (1 + sqrt(1 - 4
    q)), no cancellation.
    """
    p = 2 * q / (1 + torch.sqrt(1 - 4 * q))
    return torch.log1p(-p) - torch.log(p)


@OPS.add("Sigmoid")
class Sigmoid(SShaped):
    """1 / (1 + exp(-x))."""

    def f(self, x: Tensor) -> Tensor:
        return torch.sigmoid(x)

    def slope(self, x: Tensor) -> Tensor:
        y = torch.sigmoid(-x.abs())  # from the small side: 1 - y is then exact to the last place
        return y * (1 - y)

    def critical(self, s: Tensor) -> list[Tensor]:
        x = _logistic_critical(s)
        return [x, -x]


@OPS.add("Tanh")
class Tanh(SShaped):
    """tanh(x) = 2 sigmoid(2 x) - 1, so tanh'(x) = 4 sigmoid'(2 x)."""

    def f(self, x: Tensor) -> Tensor:
        return torch.tanh(x)

    def slope(self, x: Tensor) -> Tensor:
        y = torch.sigmoid(-2 * x.abs())
        return 4 * y * (1 - y)

    def critical(self, s: Tensor) -> list[Tensor]:
        x = _logistic_critical(s / 4) / 2
        return [x, -x]
