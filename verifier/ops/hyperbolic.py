"""Hyperbolic functions and inverse ones that bend outward: Sinh, Cosh, Acosh, Atanh; and Asin, Acos.

Sinh, Atanh and Asin are rising, concave left of 0 and convex right of it (f' even and least at 0); Acos falls and is
convex left of 0; Cosh is convex, Acosh concave. f' is infinite at the ends of the domains of Acosh and Asin: there the
critical point is off by a unit of rounding of x at most, and f'' = s^3 or less, so while s^2 eps < 1 this costs eps |s
x|, which the slack covers, and beyond that the end itself is as good.

Atanh is unbounded at -1 and 1: intervals are cut to the numbers in between, and one that reaches an end is unbounded.

Symbols: x, s: (N, *shape), elementwise.
"""

from __future__ import annotations

from math import inf

import torch
from torch import Tensor

from verifier.ops import OPS
from verifier.ops.base import Site
from verifier.ops.pointwise import Curved, Place, SShaped


@OPS.add("Sinh")
class Sinh(SShaped):
    inward = False
    ulps = 16.0

    def f(self, x: Tensor) -> Tensor:
        return torch.sinh(x)

    def slope(self, x: Tensor) -> Tensor:
        return torch.cosh(x)

    def inverse(self, s: Tensor) -> Tensor:
        return torch.acosh(s)


@OPS.add("Cosh")
class Cosh(Curved):
    bend = 1
    rising = None
    valley = (0.0, 1.0)

    limits = (1.0, inf)

    def f(self, x: Tensor) -> Tensor:
        return torch.cosh(x)

    def slope(self, x: Tensor) -> Tensor:
        return torch.sinh(x)

    def stationary(self, l: Tensor, u: Tensor, s: Tensor) -> tuple[list[Place], list[Place]]:
        return [Place(torch.asinh(s))], []


@OPS.add("Acosh")
class Acosh(Curved):
    """Defined from 1 on."""

    bend = -1

    limits = (0.0, inf)
    domain = (1.0, inf)

    def f(self, x: Tensor) -> Tensor:
        return torch.acosh(x)

    def within(self, l: Tensor, u: Tensor) -> tuple[Tensor, Tensor]:
        return l.clamp(min=1), u.clamp(min=1)

    def slope(self, x: Tensor) -> Tensor:
        return 1 / torch.sqrt((x - 1) * (x + 1))

    def stationary(self, l: Tensor, u: Tensor, s: Tensor) -> tuple[list[Place], list[Place]]:
        x = torch.hypot(torch.ones_like(s), 1 / s)  # the square of 1 / s may overflow
        return [], [Place(torch.where(s > 0, x, torch.nan))]


@OPS.add("Atanh")
class Atanh(SShaped):
    """Defined between -1 and 1."""

    inward = False
    domain = (-1.0, 1.0)

    def __init__(self, site: Site):
        super().__init__(site)
        self.end = 1 - torch.finfo(site.dtype).eps / 2  # the number next to 1

    def f(self, x: Tensor) -> Tensor:
        return torch.atanh(x)

    def within(self, l: Tensor, u: Tensor) -> tuple[Tensor, Tensor]:
        return l.clamp(-self.end, self.end), u.clamp(-self.end, self.end)

    def poles(self, l: Tensor, u: Tensor) -> tuple[Tensor | None, Tensor | None]:
        return l <= -self.end, u >= self.end

    def slope(self, x: Tensor) -> Tensor:
        return 1 / ((1 - x) * (1 + x))

    def inverse(self, s: Tensor) -> Tensor:
        return torch.where(s > 0, torch.sqrt(1 - 1 / s), torch.nan)


@OPS.add("Asin")
class Asin(SShaped):
    """Defined on [-1, 1]."""

    inward = False
    domain = (-1.0, 1.0)

    def f(self, x: Tensor) -> Tensor:
        return torch.asin(x)

    def within(self, l: Tensor, u: Tensor) -> tuple[Tensor, Tensor]:
        return l.clamp(-1, 1), u.clamp(-1, 1)

    def slope(self, x: Tensor) -> Tensor:
        return 1 / torch.sqrt((1 - x) * (1 + x))

    def inverse(self, s: Tensor) -> Tensor:
        r = 1 / s
        return torch.where(s > 0, torch.sqrt((1 - r) * (1 + r)), torch.nan)


@OPS.add("Acos")
class Acos(SShaped):
    """pi / 2 - asin(x): falling, convex left of 0."""

    rising = False
    domain = (-1.0, 1.0)

    def f(self, x: Tensor) -> Tensor:
        return torch.acos(x)

    def within(self, l: Tensor, u: Tensor) -> tuple[Tensor, Tensor]:
        return l.clamp(-1, 1), u.clamp(-1, 1)

    def slope(self, x: Tensor) -> Tensor:
        return -1 / torch.sqrt((1 - x) * (1 + x))

    def inverse(self, s: Tensor) -> Tensor:
        r = 1 / s
        return torch.where(s < 0, torch.sqrt((1 - r) * (1 + r)), torch.nan)
