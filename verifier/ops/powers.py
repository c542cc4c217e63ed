"""Powers with a constant exponent, x^p: Sqrt, Reciprocal, Pow; and Pow with a constant base.

f'(x) = p x^(p-1) = s at x = (s / p)^(1 / (p - 1)) and, for whole p, at minus that with s of the right sign. For x > 0 f
is convex where p (p - 1) > 0; for x < 0, which only whole p admit, an even power is convex and an odd one concave. The
critical point is off by a few eps x / |p - 1| (and |log x| eps / |p - 1|), which costs that squared times p (p - 1)
|f|: below the slack unless p is next to 1, which is refused.

Domain: p that are not whole need x >= 0, negative ones x other than 0. The pole is kept out by cutting intervals to the
normal numbers; one that reaches it is unbounded, and on one that reaches across there are no lines.

An exponent or a base may differ from entry to entry: then each value's own function is applied to its entries.

Symbols: l, u, s: (N, *shape), elementwise.
"""

from __future__ import annotations

from math import inf

import numpy as np
import torch
from torch import Tensor

from verifier.ops import OPS
from verifier.ops.arithmetic import Entrywise
from verifier.ops.base import Lines, Operator, Site, Unsuitable
from verifier.ops.exponentials import Base
from verifier.ops.pointwise import Curved, Place, Pointwise


class Power(Curved):
    """x^p for one number p."""

    ulps = 8.0
    subnormal = False  # whether f is evaluated to `ulps` below the normal numbers as well

    def __init__(self, site: Site, p: float):
        super().__init__(site)
        if not abs(p) <= 1e4 or (0 < abs(p - 1) < 1e-3):
            raise Unsuitable(f"{site.name}: an exponent of {p}")
        self.p, self.whole = p, p == int(p)
        self.odd = self.whole and int(p) % 2 == 1
        self.straight = p in (0.0, 1.0)
        self.bend = self._bend()
        self.rising = None if self.whole and not self.odd else p > 0
        if self.whole and not self.odd and p > 0:
            self.valley = (0.0, 0.0)
        self.turns = (0.0,) if self.odd and p > 1 else ()
        self.rounds = 3 if self.turns else 0
        if not self.odd:
            self.limits = (0.0, inf)
        if not self.whole:
            self.domain = (0.0, inf)

    def _bend(self) -> int:
        p = self.p
        if self.straight or (self.whole and p > 0 and not self.odd) or (not self.whole and not 0 < p < 1):
            return 1
        return -1 if not self.whole else 0

    def f(self, x: Tensor) -> Tensor:
        return torch.pow(x, self.p)

    def slope(self, x: Tensor) -> Tensor:
        return self.p * torch.pow(x, self.p - 1)

    def loose(self, l: Tensor, u: Tensor) -> Tensor:
        return torch.zeros_like(l, dtype=torch.bool) if self.straight else u > l

    def within(self, l: Tensor, u: Tensor) -> tuple[Tensor, Tensor]:
        tiny = torch.finfo(l.dtype).tiny
        if self.p >= 0:
            if self.whole or self.subnormal:
                return (l, u) if self.whole else (l.clamp(min=0), u.clamp(min=0))
            return torch.where(l < tiny, 0.0, l), u.clamp(min=tiny)  # rising: only 0 and normal numbers are evaluated
        if not self.whole:
            return l.clamp(min=tiny), u.clamp(min=tiny)
        right, left = l >= 0, (u <= 0) & (l < 0)
        l, u = torch.where(right, l.clamp(min=tiny), l), torch.where(right, u.clamp(min=tiny), u)
        return torch.where(left, l.clamp(max=-tiny), l), torch.where(left, u.clamp(max=-tiny), u)

    def poles(self, l: Tensor, u: Tensor) -> tuple[Tensor | None, Tensor | None]:
        if self.p >= 0:
            return None, None
        tiny = torch.finfo(l.dtype).tiny
        right, left = (l <= tiny) & (u > 0), (l < 0) & (u >= -tiny)
        return (left, right) if self.odd else (None, left | right)

    def _range(self, l: Tensor, u: Tensor) -> tuple[Tensor, Tensor]:
        if self.valley is not None or self.rising is not None:
            return super()._range(l, u)
        fl, fu = self.at(l), self.at(u)
        return torch.minimum(fl, fu), torch.maximum(fl, fu)

    def stationary(self, l: Tensor, u: Tensor, s: Tensor) -> tuple[list[Place], list[Place]]:
        if self.straight:
            return [], []
        q = s / self.p
        r = torch.pow(q.abs(), 1 / (self.p - 1))
        right = Place(torch.where(q > 0, r, torch.nan))
        if 0 < self.p < 1 and not self.subnormal:
            tiny = torch.finfo(s.dtype).tiny  # a peak below it counts as the most that it can be
            height = torch.where(r < tiny, 1.01 * tiny**self.p, self.f(r))
            return [], [Place(torch.where((q > 0) & (r > l) & (r < u), r, torch.nan), height)]
        if not self.whole:
            return ([right], []) if self.bend > 0 else ([], [right])
        if self.odd:
            return [right], [Place(-right.x)]
        return [Place(torch.where(q > 0, r, -r))], []


@OPS.add("Sqrt")
class Sqrt(Power):
    subnormal = True  # IEEE 754 rounds square roots correctly

    def __init__(self, site: Site):
        super().__init__(site, 0.5)

    def f(self, x: Tensor) -> Tensor:
        return torch.sqrt(x)


@OPS.add("Reciprocal")
class Reciprocal(Power):
    def __init__(self, site: Site):
        super().__init__(site, -1.0)

    def f(self, x: Tensor) -> Tensor:
        return torch.reciprocal(x)


class Patchwork(Pointwise):
    """One function for each value of a constant that broadcasts to x: masks (*shape) say which entries are whose."""

    rising = None

    def __init__(self, site: Site, parts: list[tuple[Tensor, Pointwise]]):
        super().__init__(site)
        self.parts = parts

    def _merge(self, call) -> tuple[Tensor | None, ...]:
        merged: tuple[Tensor | None, ...] | None = None
        for mask, op in self.parts:
            found = call(op)
            merged = found if merged is None else tuple(torch.where(mask, n, o) for n, o in zip(found, merged))
        return merged

    def f(self, x: Tensor) -> Tensor:
        return self._merge(lambda op: (op.f(x),))[0]

    def interval(self, *boxes: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        return self._merge(lambda op: op.interval(*boxes))

    def loose(self, l: Tensor, u: Tensor) -> Tensor:
        return self._merge(lambda op: (op.loose(l, u),))[0]

    def offset(self, l: Tensor, u: Tensor, s: Tensor, low: bool) -> Tensor:
        return self._merge(lambda op: (op.offset(l, u, s, low),))[0]

    def relax(self, l: Tensor, u: Tensor) -> Lines:
        return Lines(*self._merge(lambda op: op.relax(l, u)))

    def typical_slope(self, l: Tensor, u: Tensor) -> Tensor:
        return self._merge(lambda op: (op.typical_slope(l, u),))[0]


class VariablePower(Entrywise):
    """a^b where no bounds are known: both depend on x, or one is repeated. Powers of integers go through float64."""

    lacks = "base and exponent both depend on the input, or the constant one is of a kind without bounds"

    def combine(self, a: Tensor, b: Tensor) -> Tensor:
        if a.is_floating_point():
            return torch.pow(a, b.to(a.dtype))
        return torch.pow(a.double(), b.double()).to(a.dtype)


@OPS.add("Pow")
def power(site: Site) -> Operator:
    if len(site.variable) == 1 and site.out_dtype.kind == "f":
        (slot,) = site.variable
        if site.shapes[slot] == site.shape:
            try:
                return _bounded(site, 1 - slot)
            except Unsuitable:
                pass
    return VariablePower(site)


def _bounded(site: Site, slot: int) -> Pointwise:
    """x^c (slot 1) or c^x (slot 0) for the constant c in the slot."""
    values = site.constant(slot).to(site.dtype)
    if slot == 0 and not bool(((values > 0) & torch.isfinite(values)).all()):
        raise Unsuitable(f"{site.name}: a base that is not above 0")
    make = Power if slot == 1 else Base
    distinct = np.unique(values.cpu().numpy())
    if len(distinct) > 16:
        raise Unsuitable(f"{site.name}: {len(distinct)} different constants")
    parts = [(values == float(c), make(site, float(c))) for c in distinct]
    return parts[0][1] if len(parts) == 1 else Patchwork(site, parts)
