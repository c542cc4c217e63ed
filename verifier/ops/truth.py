"""Truth values: comparisons, logic, tests for NaN and infinity, and the choice between two values. True is 1.

A comparison is settled where the operands' boxes do not overlap. Elsewhere a > b and a >= b are steps in d = a - b
with d in [l, u], l < 0 < u or an end at 0, between the lines (algorithm of a step function)

    s d <= step(d) for 0 <= s <= 1/u,        step(d) <= 1 + t d for 0 <= t <= 1/-l,

whatever the value at d = 0 is: s d is <= 0 for d <= 0 and <= 1 for d <= u; 1 + t d is >= 1 for d >= 0 and >= 0 for d >=
l. Each side takes the steepest such line if that beats a flat one at the middle. u and -l are rounded up and the
slopes down, so the products stay below 1 in real arithmetic.

Where hands on the chosen operand where the condition is settled, and is flat on the hull of both elsewhere.
"""

from __future__ import annotations

import torch
from torch import Tensor

from verifier.ops import OPS
from verifier.ops.arithmetic import lift
from verifier.ops.base import Affine, Planes, Site
from verifier.ops.planes import EntryPlanes
from verifier.ops.stepwise import (
    FLAT,
    Box,
    Choice,
    EntrySteps,
    Selecting,
    Stepwise,
    broadcast,
    finite,
    held_box,
    settled_by,
)

NARROW = 1e-4  # differences below this part of the operands' size get no slope: it would be lost in rounding


@OPS.add("Equal", "Less", "Greater", "LessOrEqual", "GreaterOrEqual")
class Compare(EntrySteps):
    """Two operands; the kind says how."""

    WAYS = {
        "Greater": torch.gt,
        "GreaterOrEqual": torch.ge,
        "Less": torch.lt,
        "LessOrEqual": torch.le,
        "Equal": torch.eq,
    }

    def combine(self, a: Tensor, b: Tensor) -> Tensor:
        return self.WAYS[self.site.kind](a, b)

    def steps(self, a: Box, b: Box) -> Box:
        if self.site.kind == "Equal":
            same = (a[0] == a[1]) & (b[0] == b[1]) & (a[0] == b[0])
            return settled_by(same, (a[0] > b[1]) | (a[1] < b[0]), a[0])
        if self.site.kind.startswith("Less"):
            a, b = b, a
        strict = not self.site.kind.endswith("OrEqual")
        yes, no = (a[0] > b[1], a[1] <= b[0]) if strict else (a[0] >= b[1], a[1] < b[0])
        return settled_by(yes, no, a[0])

    def jump(self) -> Tensor | None:
        held = [h for h in self.held if h is not None]
        if self.site.kind == "Equal" or len(held) != 1 or self.in_shapes != (self.out_shape,):
            return None
        low, high = (t[0] for t in broadcast(held[0], self.out_shape))
        return low.expand(self.out_shape) if bool((low == high).all()) else None

    def relax(self, *boxes: Box) -> Planes:
        if self.site.kind == "Equal":
            return super().relax(*boxes)
        operands = self.operands(boxes)
        low, high = self.steps(*operands)
        more, less = (1, 0) if self.site.kind.startswith("Less") else (0, 1)
        (al, au), (bl, bu) = operands[more], operands[less]
        eps, tiny = torch.finfo(low.dtype).eps, torch.finfo(low.dtype).tiny
        scale = torch.stack([al.abs(), au.abs(), bl.abs(), bu.abs()]).amax(0)
        up = (au - bl) + 2 * eps * (au - bl).abs() + tiny
        down = (bu - al) + 2 * eps * (bu - al).abs() + tiny
        open_ = (low < high) & finite(al, au) & finite(bl, bu) & torch.isfinite(up) & torch.isfinite(down)
        lower, upper = (
            torch.where(open_ & (here > there) & (here > NARROW * scale) & (here > 1e-20), (1 - 4 * eps) / here, 0.0)
            for here, there in ((up, down), (down, up))
        )
        signs = {more: 1.0, less: -1.0}
        variable = [i for i, h in enumerate(self.held) if h is None]
        lo_b, up_b = torch.where(lower > 0, 0.0, low), torch.where(upper > 0, 1.0, high)
        for i in (0, 1):
            if i not in variable:
                lo_b, up_b = self._constant(lower, upper, lo_b, up_b, signs[i], operands[i])
        coefs = [[signs[i] * s for i in variable] for s in (lower, upper)]
        return EntryPlanes(coefs[0], lo_b, coefs[1], up_b, boxes)

    @staticmethod
    def _constant(lower: Tensor, upper: Tensor, lo_b: Tensor, up_b: Tensor, sign: float, held: Box) -> Box:
        """Offsets with the constant operand's part, outward."""
        eps, tiny = torch.finfo(lower.dtype).eps, torch.finfo(lower.dtype).tiny
        ends = held if sign > 0 else held[::-1]
        below, above = sign * lower * ends[0], sign * upper * ends[1]
        low = below - 4 * eps * below.abs() - tiny
        high = 1 + above + 4 * eps * (1 + above.abs())
        return torch.where(lower > 0, low, lo_b), torch.where(upper > 0, high, up_b)


def truth(box: Box) -> tuple[Tensor, Tensor]:
    """Where a value is surely true (not zero), and where surely false."""
    l, u = box
    return (l > 0) | (u < 0), (l == 0) & (u == 0)


@OPS.add("And", "Or", "Xor")
class Logic(EntrySteps):
    WAYS = {"And": torch.logical_and, "Or": torch.logical_or, "Xor": torch.logical_xor}

    def combine(self, a: Tensor, b: Tensor) -> Tensor:
        return self.WAYS[self.site.kind](a, b)

    def steps(self, a: Box, b: Box) -> Box:
        (a1, a0), (b1, b0) = truth(a), truth(b)
        if self.site.kind == "And":
            return settled_by(a1 & b1, a0 | b0, a[0])
        if self.site.kind == "Or":
            return settled_by(a1 | b1, a0 & b0, a[0])
        return settled_by((a1 & b0) | (a0 & b1), (a1 & b1) | (a0 & b0), a[0])


@OPS.add("Not")
class Not(Affine):
    """1 - x for truth values x: bounds see numbers, the model truth values."""

    integers = "keep"
    native = True

    entrywise = True

    def forward(self, x: Tensor) -> Tensor:
        return x.logical_not() if x.dtype == torch.bool else 1 - x

    def absolute(self, r: Tensor) -> Tensor:
        return r

    def adjoint(self, a: Tensor) -> tuple[Tensor, ...]:
        return (-a,)

    def offset(self) -> Tensor | None:
        return torch.ones(self.out_shape, dtype=self.site.dtype, device=self.site.device)


@OPS.add("IsNaN", "IsInf")
class Odd(Stepwise):
    """Tests for what is no real number: false on finite boxes, open where an end is not known."""

    integers = "keep"
    native = True

    def forward(self, x: Tensor) -> Tensor:
        if self.site.kind == "IsNaN":
            return torch.isnan(x)
        a = self.site.attrs
        negative, positive = bool(a.get("detect_negative", 1)), bool(a.get("detect_positive", 1))
        return (torch.isneginf(x) & negative) | (torch.isposinf(x) & positive)

    def interval(self, *boxes: Box) -> Box:
        l, u = boxes[0]
        known = finite(l, u)
        return settled_by(torch.zeros_like(known), known, l)


class ChosenByValue(Selecting):
    """where(condition, a, b) with a condition that depends on x."""

    integers = "keep"
    native = True

    def __init__(self, site: Site):
        super().__init__(site)
        self.fixed = [site.constant(i) for i in range(3)]
        self.held = [held_box(site, i) for i in range(3)]
        self.rank = len(site.shape)
        self.numbers, self.places = {}, {}
        for i in (1, 2):
            if self.held[i] is None:
                shape = site.shapes[i]
                self.numbers[i] = site.variable.index(i)
                flat = torch.arange(max(self._size(shape), 1), device=site.device)[: self._size(shape)]
                self.places[i] = flat.reshape(shape).expand(site.shape).unsqueeze(0)
        self.terms = 2 * max([1, *(self._size(site.shape) // max(self._size(s), 1) for s in self.in_shapes)])

    @staticmethod
    def _size(shape: tuple[int, ...]) -> int:
        return int(torch.Size(shape).numel())

    def forward(self, *xs: Tensor) -> Tensor:
        left = iter(xs)
        condition, a, b = (lift(next(left), self.rank) if c is None else c for c in self.fixed)
        y = torch.where(condition.bool(), a, b)
        return y.expand(y.shape[0], *self.out_shape)

    def choose(self, *boxes: Box) -> Choice:
        left, domains = iter(boxes), boxes[0][0].shape[0]
        parts = [broadcast(next(left) if h is None else h, self.out_shape) for h in self.held]
        condition, a, b = ([t.expand(domains, *self.out_shape) for t in box] for box in parts)
        yes, no = truth(condition)
        low = torch.where(yes, a[0], torch.where(no, b[0], torch.minimum(a[0], b[0])))
        high = torch.where(yes, a[1], torch.where(no, b[1], torch.maximum(a[1], b[1])))
        source = torch.full_like(low, FLAT, dtype=torch.int8)
        place = torch.zeros_like(low, dtype=torch.int64)
        for i, taken in ((1, yes), (2, no)):
            if i in self.numbers:
                taken = taken & finite(low, high)
                source = torch.where(taken, self.numbers[i], source).to(torch.int8)
                place = torch.where(taken, self.places[i], place)
        return Choice(low, high, source, place)
