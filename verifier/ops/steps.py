"""Functions with jumps: Sign, ThresholdedRelu, Shrink, and the stairs Floor, Ceil, Round.

Between jumps these are straight, so f - s x is extreme at l, at u, or at a jump, where the limits from both sides count
(as far as that side is inside [l, u]) along with the value at the jump itself: f - s x may come arbitrarily near such a
limit without taking it.

Stairs: at (k - c) unit the value goes from k - 1 to k, for every whole k (c = 0 for Floor, 1 for Ceil, 1/2 for Round;
which of the two the jump itself takes does not matter, both are limits). The jumps inside [l, u] are those into f(l) +
1, …, f(u). Lower lines meet the lower ends (k - c) unit, k - 1, upper lines the upper ends; both lie on a line, so f -
s x over them is extreme at the first or the last. Those and the ends l, u are all the corners that an envelope can
have. For numbers so large that k + 1 is not a number the rounding of k is below eps |f|, which the slack covers. Where
the runtime's own rounding decides on which side of a step x falls (`jitter`, relative to |x|), a step may be anywhere
that far around its place, which costs |s x| jitter.

Symbols: l, u, s: (N, *shape), elementwise.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from verifier.ops import OPS
from verifier.ops.base import Site
from verifier.ops.pointwise import Place, Pointwise, chord


def straight_through(smooth: Tensor, value: Tensor) -> Tensor:
    """`value` with the gradient of `smooth` (Bengio et al., arXiv 1308.3432), up to rounding."""
    return smooth + (value - smooth).detach()


class Stairs(Pointwise):
    """Steps of height 1 and length `unit`, the one into k at (k - lag) unit."""

    integers = "keep"

    rounds = 4
    jitter = 0.0
    unit: float | Tensor = 1.0
    lag: float = 0.0

    def guide(self, x: Tensor) -> Tensor:
        """Straight through: the gradient of the line that the stairs climb along."""
        return straight_through(x / self.unit, self.forward(x))

    def __init__(self, site: Site):
        super().__init__(site)
        self.jitter = float(site.attrs.get("jitter", 0.0))
        self.drift = Stairs.drift + self.jitter / torch.finfo(site.dtype).eps

    def below(self, x: Tensor) -> Tensor:
        """The least that f(x) may be in real arithmetic."""
        return self.f(x - self.jitter * x.abs()) if self.jitter else self.f(x)

    def above(self, x: Tensor) -> Tensor:
        return self.f(x + self.jitter * x.abs()) if self.jitter else self.f(x)

    def _range(self, l: Tensor, u: Tensor) -> tuple[Tensor, Tensor]:
        return self.below(l), self.above(u)

    def loose(self, l: Tensor, u: Tensor) -> Tensor:
        return self.below(l) < self.above(u)

    def bends(self, l: Tensor, u: Tensor) -> Tensor:
        return self.loose(l, u)

    def candidates(self, l: Tensor, u: Tensor, fl: Tensor, fu: Tensor) -> tuple[list[Tensor], list[Tensor]]:
        slopes = [torch.zeros_like(l), chord(l, u, fl, fu)]
        return slopes, slopes

    def stationary(self, l: Tensor, u: Tensor, s: Tensor) -> tuple[list[Place], list[Place]]:
        start, end = self.below(l), self.above(u)
        there, dips, peaks = start < end, [], []
        for into in (start + 1, end):
            x = torch.where(there, self._place(into).clamp(l, u), torch.nan)
            dips.append(Place(x, into - 1))
            peaks.append(Place(x, into))
        return dips, peaks

    def _place(self, k: Tensor) -> Tensor:
        """Where the step into k is."""
        return (k - self.lag) * self.unit

    def offset(self, l: Tensor, u: Tensor, s: Tensor, low: bool) -> Tensor:
        flat = s == 0  # nothing is rounded
        return torch.where(flat, self.below(l) if low else self.above(u), super().offset(l, u, s, low))


@OPS.add("Floor")
class Floor(Stairs):
    def f(self, x: Tensor) -> Tensor:
        return torch.floor(x)


@OPS.add("Ceil")
class Ceil(Stairs):
    lag = 1.0

    def f(self, x: Tensor) -> Tensor:
        return torch.ceil(x)


@OPS.add("Round")
class Round(Stairs):
    """Halves to even, as in ONNX."""

    lag = 0.5

    def f(self, x: Tensor) -> Tensor:
        return torch.round(x)


class Jump(NamedTuple):
    """A place where f jumps: its limit from the left, its value, its limit from the right."""

    x: float
    left: float
    at: float
    right: float


class Jumps(Pointwise):
    """Straight pieces with a few jumps in between; `slopes` are those of the pieces."""

    ulps = 2.0
    rising = None
    jumps: tuple[Jump, ...]
    slopes: tuple[float, ...] = (0.0,)

    def _inside(self, l: Tensor, u: Tensor) -> list[tuple[Tensor, float, float]]:
        """For each jump the values it may add: where (bool), at which x, the value."""
        found = []
        for x, left, at, right in self.jumps:
            first = [((l < x) & (u >= x), x, left)] if left != at else []
            last = [((l <= x) & (u > x), x, right)] if right != at else []
            found += [*first, ((l <= x) & (u >= x), x, at), *last]
        return found

    def _range(self, l: Tensor, u: Tensor) -> tuple[Tensor, Tensor]:
        fl, fu = self.at(l), self.at(u)
        low, high = torch.minimum(fl, fu), torch.maximum(fl, fu)
        for there, _, value in self._inside(l, u):
            low = torch.where(there, low.clamp(max=value), low)
            high = torch.where(there, high.clamp(min=value), high)
        return low, high

    def loose(self, l: Tensor, u: Tensor) -> Tensor:
        return torch.stack([(l <= j.x) & (u >= j.x) & (l < u) for j in self.jumps]).any(0)

    def bends(self, l: Tensor, u: Tensor) -> Tensor:
        return self.loose(l, u)

    def candidates(self, l: Tensor, u: Tensor, fl: Tensor, fu: Tensor) -> tuple[list[Tensor], list[Tensor]]:
        """The pieces' own slopes, and the chords of all corners: the best line is one of these."""
        corners = [(l, fl), (u, fu)]
        for there, x, value in self._inside(l, u):
            corners.append((torch.where(there, torch.full_like(l, x), l), torch.where(there, value, fl)))
        slopes = [torch.full_like(l, s) for s in sorted({0.0, *self.slopes})]
        for n, (x, y) in enumerate(corners):
            # A chord from right to left counts as 0: of the two directions one says something.
            slopes += [chord(x, v, y, w) + chord(v, x, w, y) for v, w in corners[:n]]
        return slopes, slopes

    def stationary(self, l: Tensor, u: Tensor, s: Tensor) -> tuple[list[Place], list[Place]]:
        places = [
            Place(torch.where(there, torch.full_like(s, x), torch.nan), torch.full_like(s, value))
            for there, x, value in self._inside(l, u)
        ]
        return places, places


@OPS.add("Sign")
class Sign(Jumps):
    integers = "keep"
    native = True
    jumps = (Jump(0.0, -1.0, 0.0, 1.0),)
    ulps = 0.0

    def guide(self, x: Tensor) -> Tensor:
        """The gradient of x / (m + |x|), m the mean size of x: it fades with the distance to the jump, to nothing
        nowhere.
        """
        mean = x.detach().abs().mean().clamp(min=torch.finfo(x.dtype).tiny)
        return straight_through(x / (mean + x.abs()), self.forward(x))

    def jump(self) -> Tensor:
        return torch.zeros(self.in_shapes[0], dtype=self.site.dtype, device=self.site.device)

    def f(self, x: Tensor) -> Tensor:
        return torch.sign(x)


def parameter(site: Site, name: str, default: float) -> float:
    """An attribute as the working precision holds it."""
    return float(torch.tensor(float(site.attrs.get(name, default)), dtype=site.dtype))


@OPS.add("ThresholdedRelu")
class ThresholdedRelu(Jumps):
    """x above alpha, else 0."""

    slopes = (0.0, 1.0)

    def __init__(self, site: Site):
        super().__init__(site)
        self.alpha = parameter(site, "alpha", 1.0)
        self.jumps = (Jump(self.alpha, 0.0, 0.0, self.alpha),)

    def f(self, x: Tensor) -> Tensor:
        return torch.where(x > self.alpha, x, 0.0)


@OPS.add("Shrink")
class Shrink(Jumps):
    """x + bias below -lambd, x - bias above lambd, else 0."""

    slopes = (0.0, 1.0)

    def __init__(self, site: Site):
        super().__init__(site)
        self.bias, self.lambd = parameter(site, "bias", 0.0), parameter(site, "lambd", 0.5)
        a, b = self.lambd, self.bias
        if a >= 0:
            self.jumps = (Jump(-a, b - a, 0.0, 0.0), Jump(a, 0.0, 0.0, a - b))
        else:  # the first condition holds below |lambd|, the second from there on
            self.jumps = (Jump(-a, b - a, -a - b, -a - b),)

    def f(self, x: Tensor) -> Tensor:
        outside = torch.where(x > self.lambd, x - self.bias, 0.0)
        return torch.where(x < -self.lambd, x + self.bias, outside)
