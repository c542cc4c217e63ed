"""Gated identities: Gelu (by erf or by tanh), Swish, Mish, HardSwish.

Gelu, Swish and Mish fall from 0 to a minimum left of 0, rise to the identity, and are concave, convex, concave: f'
falls from 0 to its least value at the first inflection, rises to its greatest at the second, falls to 1. On each of the
three pieces f'(x) = s has at most one solution: a dip of f - s x on the middle one, peaks on the others. There is no
formula for it, so it is read from a table of f' at equally spaced nodes (spacing h) with linear interpolation. Within
its cell f' is off from its chord by at most max|f'''| h^2 / 8, hence |f'(x) - s| is no more at the x that is read, and
the true solution lies within h: f - s x there is off by at most

    loss = max|f'''| h^3 / 8          (max|f'''| < 0.8 for all three),

which is added. Rounding of the table shifts the solution where f' is steep by little and costs second order; where f'
is nearly flat, in the tails, it costs a few eps |s x| (`drift`). Beyond the table (|x| > 13 for Gelu, 40 for Swish and
Mish), where f' is 0 or 1 to the last place, its end stands for every point further out: left of it f < 0 and right of
it f < x, so f - s x is below what the limit of f gives at the end.

HardSwish is 0, a parabola, the identity, with kinks at -3 and 3 that f - s x can only have peaks at.

Symbols: x, s: (N, *shape), elementwise.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from math import pi, sqrt
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from verifier.ops import OPS
from verifier.ops.base import Opaque, Operator, Site
from verifier.ops.pointwise import Curved, Place

NODES = {torch.float32: 1 << 12, torch.float64: 1 << 18}


class Piece(NamedTuple):
    """A piece [start, start + n step] and f' (n + 1,) at its nodes, rising (or times -1 if `falling`)."""

    start: float
    step: float
    values: Tensor
    falling: bool

    def solve(self, s: Tensor) -> Tensor:
        """Where f' = s, NaN if nowhere on the piece."""
        s = -s if self.falling else s
        v, last = self.values, len(self.values) - 1
        i = torch.searchsorted(v, s.contiguous()).clamp(1, last)
        before, after = v[i - 1], v[i]
        rise = after - before
        t = torch.where(rise > 0, (s - before) / torch.where(rise > 0, rise, 1.0), 0.0)
        x = (i - 1 + t.clamp(0, 1)) * self.step + self.start
        return torch.where((s >= v[0]) & (s <= v[-1]), x, torch.nan)


@lru_cache(maxsize=None)
def pieces(
    slope: Callable[[Tensor], Tensor], turns: tuple[float, float], far: float, dtype: torch.dtype, device: torch.device
) -> tuple[Piece, Piece, Piece]:
    """The three pieces of a gate whose derivative is `slope`."""
    ends, n, found = (-far, *turns, far), NODES[dtype], []
    for k in range(3):
        x = torch.linspace(ends[k], ends[k + 1], n + 1, dtype=torch.float64)
        v = slope(x) if k == 1 else -slope(x)
        v = torch.cummax(v, 0).values  # monotone but for rounding
        if k != 1:  # beyond the table: from the limit of f' to its value there
            v[0 if k == 0 else -1] = 0.0 if k == 0 else -1.0
            v = torch.cummax(v, 0).values if k == 2 else v
        found.append(Piece(ends[k], (ends[k + 1] - ends[k]) / n, v.to(device, dtype), k != 1))
    return tuple(found)


class Gate(Curved):
    """g(k x) / k for a gate g and k = `factor` > 0. Subclasses give g and g' (in extended sense: any precision)."""

    rising = None
    rounds = 3
    ulps = 8.0
    swing = 8.0
    drift = 8.0
    factor = 1.0
    reach = 40.0  # beyond, f' is 0 or 1 to the last place
    least: tuple[float, float]  # the minimum of g
    inflections: tuple[float, float]  # of g

    def __init__(self, site: Site):
        super().__init__(site)
        self._prepare(site)

    def _prepare(self, site: Site) -> None:
        k = self.factor
        self.valley = (self.least[0] / k, self.least[1] / k)
        self.turns = tuple(t / k for t in self.inflections)
        self.pieces = pieces(self.gate_slope, self.inflections, self.reach, site.dtype, site.device)
        self.far = self.reach / k

    @staticmethod
    def gate_slope(z: Tensor) -> Tensor:
        """g', to the last few places of whatever precision z has."""
        raise NotImplementedError

    def at(self, x: Tensor) -> Tensor:
        return torch.where(torch.isneginf(x), 0.0, torch.where(torch.isposinf(x), x, self.f(x)))

    def slope(self, x: Tensor) -> Tensor:
        return self.gate_slope(x * self.factor)

    def _point(self, l: Tensor, u: Tensor, s: Tensor, piece: Piece, low: bool) -> Place:
        h, k = piece.step, self.factor
        x = piece.solve(s) / k
        loss = 0.1 * h**3 / k
        y = self.f(x) - loss if low else self.f(x) + loss
        near = h / k * (1 + 1e-3) + self.reach / k * 4 * torch.finfo(s.dtype).eps
        return Place(torch.where((x > l - near) & (x < u + near), x, torch.nan), y)

    def stationary(self, l: Tensor, u: Tensor, s: Tensor) -> tuple[list[Place], list[Place]]:
        left, middle, right = self.pieces
        return (
            [self._point(l, u, s, middle, True)],
            [self._point(l, u, s, left, False), self._point(l, u, s, right, False)],
        )


@OPS.add("Gelu")
def gelu(site: Site) -> Operator:
    return TanhGelu(site) if site.attrs.get("approximate", "none") == "tanh" else Gelu(site)


class Gelu(Gate):
    """x Phi(x), Phi the normal distribution function; f' = Phi(x) + x phi(x)."""

    least = (-0.75179152469356445746, -0.16997120747990366169)
    inflections = (-sqrt(2), sqrt(2))
    reach = 13.0

    def f(self, x: Tensor) -> Tensor:
        return F.gelu(x)

    @staticmethod
    def gate_slope(z: Tensor) -> Tensor:
        return torch.erfc(z * -sqrt(0.5)) / 2 + z * torch.exp(-z * z / 2) / sqrt(2 * pi)


class TanhGelu(Gate):
    """x sigmoid(2 c (x + a x^3)), c = sqrt(2 / pi), a = 0.044715, and what lies within `off` of it."""

    least = (-0.75246142207101625849, -0.17004075057125405064)
    inflections = (-1.4185040087908283555, 1.4185040087908283555)
    reach = 13.0

    def __init__(self, site: Site):
        super().__init__(site)
        self.fuzz = site.attrs.get("off", 0.0) / torch.finfo(site.dtype).eps

    def f(self, x: Tensor) -> Tensor:
        return F.gelu(x, approximate="tanh")

    @staticmethod
    def gate_slope(z: Tensor) -> Tensor:
        c, a = 2 * sqrt(2 / pi), 0.044715
        y = c * (z + a * z**3)
        p, q = torch.sigmoid(y), torch.sigmoid(-y)
        return p + z * p * q * c * (1 + 3 * a * z * z)


@OPS.add("Swish")
def swish(site: Site) -> Operator:
    alpha = float(torch.tensor(float(site.attrs.get("alpha", 1.0)), dtype=site.dtype))
    return Swish(site, alpha) if 1e-6 < alpha < 1e6 else AnySwish(site)


class AnySwish(Opaque):
    """x sigmoid(alpha x) for alpha that is not above 0: without bounds."""

    lacks = "an alpha that is not above 0"

    def forward(self, x: Tensor) -> Tensor:
        return x * torch.sigmoid(self.site.attrs["alpha"] * x)


class Swish(Gate):
    """x sigmoid(alpha x), alpha > 0."""

    least = (-1.2784645427610737951, -0.27846454276107379511)
    inflections = (-2.3993572805154676678, 2.3993572805154676678)

    def __init__(self, site: Site, alpha: float):
        self.factor = alpha
        super().__init__(site)

    def f(self, x: Tensor) -> Tensor:
        return x * torch.sigmoid(self.factor * x)

    @staticmethod
    def gate_slope(z: Tensor) -> Tensor:
        p, q = torch.sigmoid(z), torch.sigmoid(-z)
        return p * (1 + z * q)


@OPS.add("Mish")
class Mish(Gate):
    """x tanh(softplus(x)); with e = exp(-|x|) the tanh is (e^2 + 2 e) / (e^2 + 2 e + 2) for x < 0, (1 + 2 e) / (1 + 2 e
    + 2 e^2) else.
    """

    least = (-1.1924312145154952121, -0.30884341301725040663)
    inflections = (-2.25637639636079312, 1.4905711794854284593)

    def f(self, x: Tensor) -> Tensor:
        return x * self.squash(x)

    @staticmethod
    def squash(x: Tensor) -> Tensor:
        e = torch.exp(-x.abs())
        below = e * (e + 2)
        above = 1 + 2 * e
        return torch.where(x < 0, below / (below + 2), above / (above + 2 * e * e))

    @staticmethod
    def gate_slope(z: Tensor) -> Tensor:
        t = Mish.squash(z)
        e = torch.exp(-z.abs())
        below, above = e * (e + 2) + 2, 1 + 2 * e + 2 * e * e
        # 1 - t^2 = (1 - t)(1 + t), with 1 - t = 2 / (w^2 + 2 w + 2) for w = exp(z).
        rest = torch.where(z < 0, 2 / below, 2 * e * e / above)
        return t + z * torch.sigmoid(z) * rest * (1 + t)


@OPS.add("HardSwish")
class HardSwish(Curved):
    """x min(max(x / 6 + 1 / 2, 0), 1)."""

    rising = None
    rounds = 3
    turns = (-3.0, 3.0)
    valley = (-1.5, -0.375)
    ulps = 4.0
    swing = 4.0

    def f(self, x: Tensor) -> Tensor:
        return x * torch.clamp(x / 6 + 0.5, 0, 1)

    def at(self, x: Tensor) -> Tensor:
        return torch.where(x <= -3, 0.0, torch.where(torch.isposinf(x), x, self.f(x)))

    def loose(self, l: Tensor, u: Tensor) -> Tensor:
        return (u > l) & (u > -3) & (l < 3)

    def slope(self, x: Tensor) -> Tensor:
        return torch.where(x.abs() < 3, x / 3 + 0.5, (x > 0).to(x.dtype))

    def stationary(self, l: Tensor, u: Tensor, s: Tensor) -> tuple[list[Place], list[Place]]:
        x = 3 * s - 1.5
        dip = Place(torch.where(x.abs() < 3, x, torch.nan))
        return [dip], [Place(torch.full_like(s, -3.0)), Place(torch.full_like(s, 3.0))]
