"""Functions of one number, applied to every entry: their ranges, and lines around them for any slope.

A line is given by its slope s alone; its offset is then computed exactly (slope with exact offset, as in SLiR, arXiv
2606.20292):

    lower offset b(s) = min over x in [l, u] of f(x) - s x,        upper offset B(s) = max of the same.

Why every slope is sound: g(x) = f(x) - s x takes its extremes on [l, u] at l, at u, at a kink, or where f'(x) = s
(`stationary`), so the least and greatest value over those finitely many points enclose g, and s x + b(s) <= f(x) <= s x
+ B(s). A point inside [l, u] that is not stationary does no harm: g there lies between the extremes anyway. A
stationary point that is off by d costs at most max|f''| d^2 / 2; from closed formulas d is a few units of rounding of x
(or f'' is nearly zero there), so this is second order in the rounding and lies below the slack. Where d may be larger
the operator adds what it costs.

Rounding: with eps the machine epsilon of the working type, f is evaluated to within eps (`ulps` |f| + `swing` min(|x|,
`far`) + `fuzz`) (+ the smallest normal number) and s x and the difference round once each, so every value of g is moved
outward by eps ((ulps + 2)|f| + swing min(|x|, far) + fuzz + 2 |s x|) + tiny before the extreme is taken.

The best lower line by area is the one that is highest at the middle m of [l, u]: the area between f and a line differs
from the line's value there only by a constant and the factor u - l. That line supports the convex envelope of f at m:
it is the tangent at m, or the bridge between two points x1 <= m <= x2 of the envelope. The point where g is least for
some slope is on the envelope; so from points on either side of m the slope of their chord gives a new point between
them, until the chord is the bridge (`rounds` times; each step roughly squares the error where the bridge is tangent).
Upper lines mirror this.

Nothing is said about a box that leaves the function's domain (`domain`): a point outside gives no number, and what
later steps would make of that (a maximum, a clip, a choice may turn it into one) is not for us to guess.

Symbols: l, u, s, offsets: (N, *shape), elementwise.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from verifier.ops.base import Lines, Nonlinear, Site, Unsuitable


class Place(NamedTuple):
    """A point where g may be extreme. With `y` the value of f there (or its limit from one side) is given, x need not
    be inside [l, u], and f - s x is an honest value of g up to the slack; NaN in x: no such point.
    """

    x: Tensor
    y: Tensor | None = None


class Pointwise(Nonlinear):
    """A function of one number. Subclasses give `f`, `critical` or `stationary`, `candidates`, and `loose`."""

    ulps = 0.0  # error of `f` as evaluated, in machine epsilons relative to |f|
    swing = 0.0  # and in machine epsilons relative to |x|, or to `far` where x lies further out
    far = float("inf")
    fuzz = 0.0  # and in machine epsilons absolutely
    rounds = 0  # how often the default lines are improved by a bridge
    rising: bool | None = True  # whether f rises or falls throughout; None: neither
    valley: tuple[float, float] | None = None  # (x, f(x)): f falls left of x and rises right of it
    drift = 2.0  # error of s x as evaluated and of the difference from it, in machine epsilons relative to |s x|
    limits = (-float("inf"), float("inf"))  # no value of f lies outside
    domain = (-float("inf"), float("inf"))  # f has a value, or a pole, from the one to the other, ends included

    def __init__(self, site: Site):
        super().__init__(site)
        if len(self.in_shapes) != 1:
            raise Unsuitable(f"{site.kind} takes one input that depends on x, here {len(self.in_shapes)}")
        if self.in_shapes[0] != site.shape:
            raise Unsuitable(f"{site.name}: {site.kind} that repeats its input")

    # --- what an operator states ---

    def f(self, x: Tensor) -> Tensor:
        """The function itself, entry by entry."""
        raise NotImplementedError

    def at(self, x: Tensor) -> Tensor:
        """f, and its limits where x is infinite."""
        return self.f(x)

    def critical(self, s: Tensor) -> list[Tensor]:
        """All points where f'(x) = s, and all kinks, each like s; NaN where there is none. They need not lie in [l,
        u].
        """
        raise NotImplementedError

    def stationary(self, l: Tensor, u: Tensor, s: Tensor) -> tuple[list[Place], list[Place]]:
        """Where f - s x may be least, and where it may be greatest, apart from l and u."""
        places = [Place(x) for x in self.critical(s)]
        return places, places

    def candidates(self, l: Tensor, u: Tensor, fl: Tensor, fu: Tensor) -> tuple[list[Tensor], list[Tensor]]:
        """Slopes worth trying on [l, u] for the lower and for the upper line; fl = f(l), fu = f(u)."""
        raise NotImplementedError

    def bends(self, l: Tensor, u: Tensor) -> Tensor:
        """Where a bridge may be better than every candidate: bool like l."""
        return u > l

    def end_slopes(self, l: Tensor, u: Tensor) -> list[Tensor]:
        """Slopes of f at l and at u, where they say something: hints for free lines, which are sound for any slope."""
        return []

    @property
    def uniform(self) -> bool:
        """Whether f is the same function at every entry, so that lines may be drawn for any choice of entries."""
        return all(c is None or c.size <= 1 for c in self.site.constants)

    def within(self, l: Tensor, u: Tensor) -> tuple[Tensor, Tensor]:
        """The part of [l, u] where f can be evaluated; where there is none, any interval where it can."""
        return l, u

    def outside(self, l: Tensor, u: Tensor) -> Tensor | None:
        """Where [l, u] leaves the domain: bool like l; None: nowhere."""
        low, high = self.domain
        return None if low == -high == -float("inf") else (l < low) | (u > high)

    def poles(self, l: Tensor, u: Tensor) -> tuple[Tensor | None, Tensor | None]:
        """Where f is unbounded below and above on [l, u] (a part of the domain): bool like l; None: nowhere."""
        return None, None

    # --- what follows ---

    def forward(self, *xs: Tensor) -> Tensor:
        return self.f(xs[0])

    def interval(self, *boxes: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        l, u = self.within(*boxes[0])
        low, high = self._outward(*self._range(l, u))
        if self.fuzz:
            low, high = low - self.fuzz * torch.finfo(l.dtype).eps, high + self.fuzz * torch.finfo(l.dtype).eps
        if self.swing:
            error = self.swing * torch.finfo(l.dtype).eps * torch.maximum(l.abs(), u.abs()).clamp(max=self.far)
            low, high = low - error, high + error
        low, high = low.clamp(*self.limits), high.clamp(*self.limits)
        below, above = self.poles(l, u)
        low = low if below is None else torch.where(below, -torch.inf, low)
        high = high if above is None else torch.where(above, torch.inf, high)
        return self._unknown(*boxes[0], low, high)

    def _unknown(self, l: Tensor, u: Tensor, low: Tensor, high: Tensor) -> tuple[Tensor, Tensor]:
        """Least and greatest values, infinite where the box leaves the domain."""
        out = self.outside(l, u)
        return (low, high) if out is None else (torch.where(out, -torch.inf, low), torch.where(out, torch.inf, high))

    def _range(self, l: Tensor, u: Tensor) -> tuple[Tensor, Tensor]:
        """Least and greatest value on [l, u], as far as f is evaluated exactly."""
        fl, fu = self.at(l), self.at(u)
        if self.valley is not None:
            x, y = self.valley
            return torch.where((l < x) & (u > x), y, torch.minimum(fl, fu)), torch.maximum(fl, fu)
        return (fl, fu) if self.rising else (fu, fl)

    def _outward(self, low: Tensor, high: Tensor) -> tuple[Tensor, Tensor]:
        """Moves values of f outward by the error of their evaluation; overflown ones to what they surely exceed."""
        if not self.ulps:
            return low, high
        info = torch.finfo(low.dtype)
        low, high = low.clamp(max=info.max / 4), high.clamp(min=-info.max / 4)
        return (
            torch.sub(low, low.abs(), alpha=self.ulps * info.eps) - info.tiny,
            torch.add(high, high.abs(), alpha=self.ulps * info.eps) + info.tiny,
        )

    def offsets(self, l: Tensor, u: Tensor, s: Tensor) -> tuple[Tensor, Tensor]:
        """The lower and upper offset for slope s on [l, u], rounded outward; s, l, u finite and l <= u."""
        return self.offset(l, u, s, True), self.offset(l, u, s, False)

    def offset(self, l: Tensor, u: Tensor, s: Tensor, low: bool) -> Tensor:
        """The lower offset alone, or the upper one."""
        box, side = (l, u), 0 if low else 1
        l, u = self.within(l, u)
        places, pole = self.stationary(l, u, s)[side], self.poles(l, u)[side]
        found, out = self._extreme(l, u, s, self.f(l), self.f(u), places, pole, low)[0], self.outside(*box)
        return found if out is None else torch.where(out, -torch.inf if low else torch.inf, found)

    def _extreme(
        self,
        l: Tensor,
        u: Tensor,
        s: Tensor,
        fl: Tensor,
        fu: Tensor,
        places: list[Place],
        pole: Tensor | None,
        low: bool,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Least (`low`) or greatest value of f - s x on [l, u], rounded outward, and the point (x, f(x)) of it."""
        x, y, best = l, fl, self._value(l, fl, s, low)
        for place in (Place(u, fu), *places):
            px, py = place
            if py is None:
                # Comparisons with NaN are false, so a missing point becomes l, which is among the points anyway.
                px = torch.where((px > l) & (px < u), px, l)
                py = self.f(px)
                value = self._value(px, py, s, low)
            else:
                value = self._value(px, py, s, low)
                value = torch.where(torch.isnan(px), best, value)
            better = value < best if low else value > best
            x, y, best = torch.where(better, px, x), torch.where(better, py, y), torch.where(better, value, best)
        worst = -torch.inf if low else torch.inf
        lost = torch.isnan(best) if pole is None else torch.isnan(best) | pole
        return torch.where(lost, worst, best), x, y

    def _value(self, x: Tensor, y: Tensor, s: Tensor, low: bool) -> Tensor:
        """y - s x, moved outward; y that overflowed counts as what it surely exceeds."""
        info = torch.finfo(s.dtype)
        y = y.clamp(max=info.max / 4) if low else y.clamp(min=-info.max / 4)
        sx = s * x
        slack = torch.add(y.abs() * ((self.ulps + 2) * info.eps), sx.abs(), alpha=self.drift * info.eps)
        slack = slack + (info.tiny + self.fuzz * info.eps)
        if self.swing:
            slack = slack.add(x.abs().clamp(max=self.far), alpha=self.swing * info.eps)
        return y - sx - slack if low else y - sx + slack

    def relax(self, l: Tensor, u: Tensor) -> Lines:
        finite, out = torch.isfinite(l) & torch.isfinite(u), self.outside(l, u)
        finite = finite if out is None else finite & ~out
        a, b = torch.where(finite, l, 0.0), torch.where(finite, u, 0.0)
        a, b = self.within(a, b)
        fa, fb = self.f(a), self.f(b)
        rounds = self.rounds if self.rounds and bool(self.bends(a, b).any()) else 0
        sides = []
        for low, slopes, pole in zip((True, False), self.candidates(a, b, fa, fb), self.poles(a, b)):
            sides += self._best_line(a, b, fa, fb, slopes, pole, rounds, low)
        lo_a, lo_b, up_a, up_b = sides
        flat_lo, flat_up = ~(finite & torch.isfinite(lo_b)), ~(finite & torch.isfinite(up_b))
        if bool((flat_lo | flat_up).any()):
            low, high = self.interval((l, u))
            lo_a, lo_b = torch.where(flat_lo, 0.0, lo_a), torch.where(flat_lo, low, lo_b)
            up_a, up_b = torch.where(flat_up, 0.0, up_a), torch.where(flat_up, high, up_b)
        return Lines(lo_a, lo_b, up_a, up_b)

    def _best_line(
        self,
        l: Tensor,
        u: Tensor,
        fl: Tensor,
        fu: Tensor,
        slopes: list[Tensor],
        pole: Tensor | None,
        rounds: int,
        low: bool,
    ) -> tuple[Tensor, Tensor]:
        """Slope and offset of the line that is highest (`low`) or lowest at the middle, of the candidates and
        `rounds` bridges.
        """
        middle = l + (u - l) / 2
        left, right = (l, fl), (u, fu)
        best: tuple[Tensor, Tensor, Tensor] | None = None
        for k in range(len(slopes) + rounds):
            s = slopes[k] if k < len(slopes) else chord(left[0], right[0], left[1], right[1])
            s = torch.nan_to_num(s, nan=0.0, posinf=0.0, neginf=0.0)
            places = self.stationary(l, u, s)[0 if low else 1]
            offset, x, y = self._extreme(l, u, s, fl, fu, places, pole, low)
            height = torch.addcmul(offset, s, middle)
            if best is None:
                best = (height, s, offset)
            else:
                better = height > best[0] if low else height < best[0]
                best = tuple(torch.where(better, new, old) for new, old in zip((height, s, offset), best))
            if rounds:
                closer = (x <= middle) & (x > left[0])
                left = torch.where(closer, x, left[0]), torch.where(closer, y, left[1])
                closer = (x >= middle) & (x < right[0])
                right = torch.where(closer, x, right[0]), torch.where(closer, y, right[1])
        return best[1:]

    def typical_slope(self, l: Tensor, u: Tensor) -> Tensor:
        finite = torch.isfinite(l) & torch.isfinite(u)
        l, u = self.within(torch.where(finite, l, 0.0), torch.where(finite, u, 0.0))
        return torch.nan_to_num(chord(l, u, self.f(l), self.f(u))).clamp(-1e30, 1e30)


def chord(l: Tensor, u: Tensor, fl: Tensor, fu: Tensor) -> Tensor:
    """Slope of the chord; 0 where the interval is too narrow for the difference quotient to mean anything."""
    width = u - l
    wide = width > 64 * torch.finfo(l.dtype).eps * (l.abs() + u.abs())
    return torch.where(wide, (fu - fl) / torch.where(wide, width, 1.0), 0.0)


class Curved(Pointwise):
    """A function with a derivative (`slope`), convex, concave, or of several such parts.

    Convex: the tangent at the middle is the best lower line, the chord the best upper one; concave: the reverse.
    Otherwise both and bridges are tried, where a turning point of f' (`turns`) is inside.
    """

    ulps = 8.0
    bend = 0  # 1: convex, -1: concave, 0: neither
    turns: tuple[float, ...] = ()  # where f' stops rising or falling, if these are all such points

    def slope(self, x: Tensor) -> Tensor:
        """f', finite where f is smooth."""
        raise NotImplementedError

    def loose(self, l: Tensor, u: Tensor) -> Tensor:
        return u > l

    def end_slopes(self, l: Tensor, u: Tensor) -> list[Tensor]:
        l, u = self.within(l, u)
        return [self.slope(l), self.slope(u)]

    def bends(self, l: Tensor, u: Tensor) -> Tensor:
        return torch.stack([(l < t) & (u > t) for t in self.turns]).any(0) if self.turns else u > l

    def candidates(self, l: Tensor, u: Tensor, fl: Tensor, fu: Tensor) -> tuple[list[Tensor], list[Tensor]]:
        tangent = torch.where(u > l, self.slope(l + (u - l) / 2), 0.0)
        wide = u - l > 64 * torch.finfo(l.dtype).eps * (l.abs() + u.abs())
        straight = torch.where(wide, chord(l, u, fl, fu), tangent)
        if self.bend:
            return ([tangent], [straight]) if self.bend > 0 else ([straight], [tangent])
        return [straight, tangent], [straight, tangent]

    def typical_slope(self, l: Tensor, u: Tensor) -> Tensor:
        """The chord's slope, or where f does not rise or fall throughout a mean of |f'|."""
        if self.valley is None and self.rising is not None:
            return super().typical_slope(l, u)
        finite = torch.isfinite(l) & torch.isfinite(u)
        l, u = self.within(torch.where(finite, l, 0.0), torch.where(finite, u, 0.0))
        mean = (self.slope(l).abs() + 2 * self.slope(l + (u - l) / 2).abs() + self.slope(u).abs()) / 4
        return torch.nan_to_num(mean).clamp(max=1e30)


class SShaped(Curved):
    """Rising, with f' even and either greatest at 0 (`inward`: convex left of 0, concave right of it) or least there.

    Subclasses give f, `slope`, and `inverse`: the x >= 0 with f'(x) = s, NaN where there is none.
    """

    inward = True
    rounds = 3
    turns = (0.0,)

    def inverse(self, s: Tensor) -> Tensor:
        raise NotImplementedError

    def stationary(self, l: Tensor, u: Tensor, s: Tensor) -> tuple[list[Place], list[Place]]:
        x = self.inverse(s)
        dips, peaks = [Place(-x)], [Place(x)]
        return (dips, peaks) if self.inward else (peaks, dips)
