"""Exponentials and logarithms: Exp, Log, Softplus, Elu, Celu, Selu, and powers of a constant base.

Exp and Softplus are convex, Log is concave. The Elu family is scale (x above 0, alpha (exp(x / width) - 1) below): one
curved piece, one straight one, and a kink at 0 where the slopes there differ. All critical points are logarithms of the
slope: an error of a few units of rounding in x, where f'' is a slope itself.

Log is unbounded at 0: intervals are cut to the positive normal numbers, and one that reaches below them is unbounded.

Symbols: x, s: (N, *shape), elementwise.
"""

from __future__ import annotations

from math import inf, log

import torch
from torch import Tensor

from verifier.ops import OPS
from verifier.ops.base import Site, Unsuitable
from verifier.ops.pointwise import Curved, Place


@OPS.add("Exp")
class Exp(Curved):
    bend = 1

    limits = (0.0, inf)

    def f(self, x: Tensor) -> Tensor:
        return torch.exp(x)

    def slope(self, x: Tensor) -> Tensor:
        return torch.exp(x)

    def stationary(self, l: Tensor, u: Tensor, s: Tensor) -> tuple[list[Place], list[Place]]:
        return [Place(torch.log(s))], []


@OPS.add("Log")
class Log(Curved):
    """Defined above 0. Near 1 the value is small and its error is relative all the same."""

    bend = -1
    domain = (0.0, inf)

    def f(self, x: Tensor) -> Tensor:
        return torch.log(x)

    def within(self, l: Tensor, u: Tensor) -> tuple[Tensor, Tensor]:
        tiny = torch.finfo(l.dtype).tiny
        return l.clamp(min=tiny), u.clamp(min=tiny)

    def poles(self, l: Tensor, u: Tensor) -> tuple[Tensor | None, Tensor | None]:
        return l <= torch.finfo(l.dtype).tiny, None

    def slope(self, x: Tensor) -> Tensor:
        return 1 / x

    def stationary(self, l: Tensor, u: Tensor, s: Tensor) -> tuple[list[Place], list[Place]]:
        return [], [Place(1 / s)]


@OPS.add("Softplus")
class Softplus(Curved):
    """log(1 + exp(x)), f' = sigmoid(x)."""

    bend = 1

    limits = (0.0, inf)

    def f(self, x: Tensor) -> Tensor:
        return torch.logaddexp(x, torch.zeros_like(x))

    def slope(self, x: Tensor) -> Tensor:
        return torch.sigmoid(x)

    def stationary(self, l: Tensor, u: Tensor, s: Tensor) -> tuple[list[Place], list[Place]]:
        return [Place(torch.log(s) - torch.log1p(-s))], []


class Elus(Curved):
    """scale (x where x > 0, alpha (exp(x / width) - 1) elsewhere); width > 0 or, with alpha, negative."""

    scale, alpha, width = 1.0, 1.0, 1.0
    rounds = 3
    turns = (0.0,)

    def __init__(self, site: Site):
        super().__init__(site)
        given = [float(torch.tensor(float(p), dtype=site.dtype)) for p in self._parameters(site.attrs)]
        if not all(abs(p) < 1e30 for p in given) or abs(given[2]) < 1e-30:
            raise Unsuitable(f"{site.name}: {site.kind} with {given}")
        self.scale, self.alpha, self.width = given
        left, right = self.scale * self.alpha / self.width, self.scale
        curve = self.scale * self.alpha  # has the sign of f'' below 0
        self.bend = 1 if curve >= 0 and left <= right else -1 if curve <= 0 and left >= right else 0
        self.rising = True if left >= 0 and right >= 0 else False if left <= 0 and right <= 0 else None

    def _parameters(self, attrs) -> tuple[float, float, float]:
        raise NotImplementedError

    def f(self, x: Tensor) -> Tensor:
        below = self.alpha * torch.expm1(torch.clamp(x, max=0) / self.width)
        return self.scale * torch.where(x > 0, x, below)

    def _range(self, l: Tensor, u: Tensor) -> tuple[Tensor, Tensor]:
        fl, fu = self.at(l), self.at(u)
        low, high = torch.minimum(fl, fu), torch.maximum(fl, fu)
        if self.rising is not None:
            return low, high
        kink = torch.where((l < 0) & (u > 0), 0.0, fl)
        return torch.minimum(low, kink), torch.maximum(high, kink)

    def slope(self, x: Tensor) -> Tensor:
        below = (self.alpha / self.width) * torch.exp(torch.clamp(x, max=0) / self.width)
        return self.scale * torch.where(x > 0, 1.0, below)

    def stationary(self, l: Tensor, u: Tensor, s: Tensor) -> tuple[list[Place], list[Place]]:
        kink = Place(torch.zeros_like(s))
        factor = self.scale * self.alpha / self.width
        if factor == 0:
            return [kink], [kink]
        x = self.width * torch.log(s / factor)
        curve = Place(torch.where(x < 0, x, torch.nan))
        return ([curve, kink], [kink]) if self.scale * self.alpha > 0 else ([kink], [curve, kink])


@OPS.add("Elu")
class Elu(Elus):
    def _parameters(self, attrs) -> tuple[float, float, float]:
        return 1.0, attrs.get("alpha", 1.0), 1.0


@OPS.add("Celu")
class Celu(Elus):
    """alpha (exp(x / alpha) - 1) below 0: smooth at 0."""

    def _parameters(self, attrs) -> tuple[float, float, float]:
        alpha = attrs.get("alpha", 1.0)
        return 1.0, alpha, alpha


@OPS.add("Selu")
class Selu(Elus):
    def _parameters(self, attrs) -> tuple[float, float, float]:
        return attrs.get("gamma", 1.0507009873554805), attrs.get("alpha", 1.6732632423543772), 1.0


class Base(Curved):
    """base^x for one constant base > 0: convex, rising where base > 1. Belongs to Pow."""

    bend = 1
    ulps = 24.0  # measured below 2; the contract suite holds it to half of this

    limits = (0.0, inf)

    def __init__(self, site: Site, base: float):
        super().__init__(site)
        self.base, self.log = base, log(base)
        self.rising = base >= 1

    def f(self, x: Tensor) -> Tensor:
        return torch.pow(self.base, x)

    def loose(self, l: Tensor, u: Tensor) -> Tensor:
        return (u > l) & (self.log != 0)

    def slope(self, x: Tensor) -> Tensor:
        return self.log * torch.pow(self.base, x)

    def stationary(self, l: Tensor, u: Tensor, s: Tensor) -> tuple[list[Place], list[Place]]:
        return ([Place(torch.log(s / self.log) / self.log)] if self.log else []), []
