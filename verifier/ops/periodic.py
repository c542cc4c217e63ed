"""Periodic functions: Sin, Cos, Tan.

Critical points of sin x - s x repeat with period p = 2 pi, and g falls by s p from one to the next: of all in [l, u]
the first and the last decide. With f'(x) = cos x = s the value there is known without evaluating f, sin x = ±sqrt(1 -
s^2); so only the error of x = a + 2 pi k in s x counts, which is a few eps |s x| however large x is (k = 0 leaves x = a
alone, other k leave nothing to cancel). A point is taken in even if it lies a few roundings outside [l, u]: g there is
an honest value of the function beyond an end. cos likewise, with x = a + pi / 2.

Tan is treated on the branch between two poles that holds [l, u]: critical points k pi ± atan(sqrt(s - 1)), values
±sqrt(s - 1), convex right of k pi. An interval that may reach a pole is unbounded.

Symbols: l, u, s: (N, *shape), elementwise.
"""

from __future__ import annotations

from math import pi

import torch
from torch import Tensor

from verifier.ops import OPS
from verifier.ops.pointwise import Curved, Place

SPREAD = 8  # units of rounding by which a critical point may be off or outside the interval


def shown(x: Tensor, y: Tensor, s: Tensor, low: bool, there: Tensor) -> Place:
    """The point (x, y) where `there` holds, its value moved outward by what an error in x costs."""
    slack = (s * x).abs() * (SPREAD * torch.finfo(s.dtype).eps)
    return Place(torch.where(there, x, torch.nan), y - slack if low else y + slack)


class Wave(Curved):
    """sin(x + shift); subclasses evaluate it."""

    rounds = 3
    rising = None
    limits = (-1.0, 1.0)

    def peak(self, s: Tensor) -> Tensor:
        """The x nearest to 0 where f' = s and f > 0; NaN where |s| > 1."""
        raise NotImplementedError

    def dip(self, s: Tensor) -> Tensor:
        raise NotImplementedError

    def stationary(self, l: Tensor, u: Tensor, s: Tensor) -> tuple[list[Place], list[Place]]:
        height = torch.sqrt((1 - s) * (1 + s))
        return self._ends(l, u, s, self.dip(s), -height, True), self._ends(l, u, s, self.peak(s), height, False)

    def _ends(self, l: Tensor, u: Tensor, s: Tensor, a: Tensor, y: Tensor, low: bool) -> list[Place]:
        """The first and the last of the points a + 2 pi k in [l, u]."""
        reach = SPREAD * torch.finfo(s.dtype).eps
        first = torch.ceil((l - a - reach * (l.abs() + 8)) / (2 * pi))
        last = torch.floor((u - a + reach * (u.abs() + 8)) / (2 * pi))
        there = first <= last
        return [shown(a + (2 * pi) * k, y, s, low, there) for k in (first, last)]

    def candidates(self, l: Tensor, u: Tensor, fl: Tensor, fu: Tensor) -> tuple[list[Tensor], list[Tensor]]:
        lower, upper = super().candidates(l, u, fl, fu)
        return [*lower, torch.zeros_like(l)], [*upper, torch.zeros_like(l)]

    def bends(self, l: Tensor, u: Tensor) -> Tensor:
        return u - l > 0.1  # a guess: on less, an inflection makes no difference that matters

    def interval(self, *boxes: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        l, u = boxes[0]
        finite = torch.isfinite(l) & torch.isfinite(u)
        a, b = torch.where(finite, l, 0.0), torch.where(finite, u, 0.0)
        low, high = (t.clamp(-1, 1) for t in self.offsets(a, b, torch.zeros_like(a)))
        return torch.where(finite, low, -1.0), torch.where(finite, high, 1.0)


@OPS.add("Sin")
class Sin(Wave):
    def f(self, x: Tensor) -> Tensor:
        return torch.sin(x)

    def slope(self, x: Tensor) -> Tensor:
        return torch.cos(x)

    def peak(self, s: Tensor) -> Tensor:
        return torch.acos(s)

    def dip(self, s: Tensor) -> Tensor:
        return -torch.acos(s)


@OPS.add("Cos")
class Cos(Wave):
    def f(self, x: Tensor) -> Tensor:
        return torch.cos(x)

    def slope(self, x: Tensor) -> Tensor:
        return -torch.sin(x)

    def peak(self, s: Tensor) -> Tensor:
        return -torch.asin(s)

    def dip(self, s: Tensor) -> Tensor:
        return pi + torch.asin(s)


@OPS.add("Tan")
class Tan(Curved):
    rounds = 3

    def f(self, x: Tensor) -> Tensor:
        return torch.tan(x)

    def slope(self, x: Tensor) -> Tensor:
        return 1 + torch.square(torch.tan(x))

    def poles(self, l: Tensor, u: Tensor) -> tuple[Tensor | None, Tensor | None]:
        reach, turns = SPREAD * torch.finfo(l.dtype).eps, [x / pi for x in (l, u)]
        branch = [torch.round(q) for q in turns]
        sure = [(q - k).abs() < 0.5 - reach * (q.abs() + 1) for q, k in zip(turns, branch)]
        wild = ~(sure[0] & sure[1] & (branch[0] == branch[1]))
        return wild, wild

    def at(self, x: Tensor) -> Tensor:
        return torch.nan_to_num(torch.tan(x))

    def stationary(self, l: Tensor, u: Tensor, s: Tensor) -> tuple[list[Place], list[Place]]:
        y = torch.sqrt(s - 1)
        centre, x = pi * torch.round((l + (u - l) / 2) / pi), torch.atan(y)
        reach = SPREAD * torch.finfo(l.dtype).eps
        low, high = l - reach * (l.abs() + 1), u + reach * (u.abs() + 1)
        right, left = centre + x, centre - x
        dip = shown(right, y, s, True, (right > low) & (right < high))
        return [dip], [shown(left, -y, s, False, (left > low) & (left < high))]

    def typical_slope(self, l: Tensor, u: Tensor) -> Tensor:
        wild, _ = self.poles(l, u)
        return super().typical_slope(torch.where(wild, 0.0, l), torch.where(wild, 0.0, u))
