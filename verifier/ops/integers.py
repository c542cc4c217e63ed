"""Integer results: they wrap around as in the runtime, or have no bounds.

Bounds are in real arithmetic, the runtime's integers of b bits are numbers modulo 2^b. Sums, products and what is made
of them agree with real arithmetic modulo 2^b whatever wraps in between, because reduction modulo 2^b is a homomorphism
of rings. So the true result is `wrap(y)`, the number of the type that is congruent to the real y, and one step behind
the operator says everything (`Whole`): where the box of y lies within the type it is the identity, with itself as both
lines; where one multiple of 2^b brings the whole box there, that is added; elsewhere the result is any number of the
type, and flat.

Means with weights (interpolation) are computed in floats and then brought to a whole number, by one rule or another:
the result is less than 1 and a rounding away from the real one, which types of up to 16 bits keep below 1.01, and never
leaves the type ("near").

Operators whose integer results are no such function of the real ones (a root is a float that is cast) get no bounds:
`Truncated` runs them forward. An operator says by `Operator.integers` what it is; unless it says anything it is of the
last kind.

Forward, integers travel as int64 whatever their type (torch lacks kernels for most types), uint64 as the int64 of the
same bits; operators without kernels for int64 are run in float64, which is exact up to 2^53.

Symbols: boxes (D, *shape).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from verifier.ops import OPS
from verifier.ops.base import Opaque, Operator, Planes, Site
from verifier.ops.planes import EntryPlanes
from verifier.ops.steps import straight_through
from verifier.ops.stepwise import Box, Stepwise

Run = Callable[..., Tensor]


def ends(dtype: np.dtype) -> tuple[int, int]:
    """The least and the greatest number of an integer type."""
    signed, bits = dtype.name[0] == "i", int(dtype.name.lstrip("uint"))
    return (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1) if signed else (0, 2**bits - 1)


def is_integer(dtype: np.dtype | None) -> bool:
    """Whether numbers of this type wrap; truth values do not."""
    return dtype is not None and dtype.name.startswith(("int", "uint"))


def wrap(x: Tensor, dtype: np.dtype) -> Tensor:
    """The number of an integer type that is congruent to x (int64); of uint64 the int64 with the same bits."""
    least, most = ends(dtype)
    bits = (most - least).bit_length()
    if bits == 64:
        return x
    low = x & (2**bits - 1)
    return low if least == 0 else torch.where(low > most, low - 2**bits, low)


def truncated(x: Tensor) -> Tensor:
    """Floats towards zero as int64; integers and truth values as int64."""
    if not x.is_floating_point():
        return x.long()
    big = x >= 2.0**63  # of uint64 alone
    return torch.where(big, (x - 2.0**64).clamp(-(2.0**63), 0).long(), x.nan_to_num(0.0).clamp(-(2.0**63), None).long())


def brought(x: Tensor, site: Site) -> Tensor:
    """Floats or integers to the integer type of a site's result, towards zero: modulo 2^bits, or to the nearest end of
    the type (attribute `saturate`)."""
    least, most = ends(site.out_dtype)
    if site.attrs.get("saturate", 0) and x.is_floating_point():
        x = x.double()
        y = torch.where(x > least, truncated(x.clamp(least, most)), least)
        return torch.where(x < most, y, most if most < 2**63 else most - 2**64)
    return wrap(truncated(x), site.out_dtype)


def as_floats(x: Tensor, dtype: np.dtype | None, to: torch.dtype) -> Tensor:
    """Numbers of an ONNX type as they travel (see the file's head), as floats."""
    if dtype == np.uint64 and x.dtype == torch.int64:
        return torch.where(x < 0, x.double() + 2.0**64, x.double()).to(to)
    return x.to(to)


class Whole(Stepwise):
    """Whole numbers as an integer type holds them: a network input of that type (attribute `entry`), a cast of integers
    or (`whole`) of whole numbers, or the result of an operator whose numbers may leave the type or (`near`) only come
    near it. x is whole in the model; floats that are not are cut off towards zero, as whoever feeds the runtime does.
    """

    integers = "keep"
    native = True

    def __init__(self, site: Site):
        super().__init__(site)
        self.ends = ends(site.out_dtype)
        self.off = 1.01 if site.attrs.get("near", 0) else 0.0

    def forward(self, x: Tensor) -> Tensor:
        return brought(x, self.site)

    def guide(self, x: Tensor) -> Tensor:
        return straight_through(x, as_floats(self.forward(x), self.site.out_dtype, x.dtype))

    def _inside(self, l: Tensor, u: Tensor) -> Tensor:
        """Where no whole number in the box leaves the type; ends that floats cannot hold count as outside."""
        return (l > float(self.ends[0]) - 1) & (u < float(self.ends[1]) + 1)

    def _shift(self, l: Tensor, u: Tensor) -> Tensor:
        """The multiple of 2^bits that brings all whole numbers of a box into the type, 0 where there is none (or they
        are there): whole numbers that floats hold, so that nothing is rounded.
        """
        attrs, least, length = self.site.attrs, float(self.ends[0]), float(self.ends[1] - self.ends[0] + 1)
        if self.off or attrs.get("entry", 0) or attrs.get("saturate", 0):
            return torch.zeros_like(l)
        first, last = l.ceil(), u.floor()
        k, end = ((x - least) / length for x in (first, last))
        held = torch.maximum(l.abs(), u.abs()) < 0.25 / torch.finfo(l.dtype).eps
        one = held & (first <= last) & (k.floor() == end.floor()) & ~self._inside(l, u)
        return torch.where(one, -k.floor() * length, 0.0)

    def interval(self, *boxes: Box) -> Box:
        l, u = boxes[0]
        inside, least, most = self._inside(l, u), float(self.ends[0]), float(self.ends[1])
        shift = self._shift(l, u)
        low = torch.where(inside, l - self.off, torch.where(shift != 0, l.ceil() + shift, least)).clamp(min=least)
        high = torch.where(inside, u + self.off, torch.where(shift != 0, u.floor() + shift, most)).clamp(max=most)
        if self.site.attrs.get("entry", 0):
            return low, high
        first, last = low.ceil() + 0.0, high.floor() + 0.0  # + 0.0: no -0
        some = inside & (first <= last)
        return torch.where(some, first, low), torch.where(some, last, high)

    def relax(self, *boxes: Box) -> Planes:
        l, u = boxes[0]
        (low, high), shift = self.interval((l, u)), self._shift(l, u)
        straight = self._inside(l, u) | (shift != 0)
        slope = straight.to(l.dtype)
        below, above = torch.where(straight, shift - self.off, low), torch.where(straight, shift + self.off, high)
        return EntryPlanes([slope], below, [slope], above, boxes)

    def loose(self, *boxes: Box) -> tuple[Tensor, ...]:
        return (~self._inside(*boxes[0]),)


class Truncated(Opaque):
    """An operator with integer results that real arithmetic does not show: no bounds; forward, its results cut off."""

    lacks = "its results are integers, which the runtime truncates"
    native = True

    def __init__(self, op: Operator):
        super().__init__(op.site)
        self.run, self.op = exactly(op), op

    def forward(self, *xs: Tensor) -> Tensor:
        return wrap(self.run(*xs), self.site.out_dtype)

    def guide(self, *xs: Tensor) -> Tensor:
        y = self.op.guide(*xs)
        return straight_through(y, as_floats(wrap(truncated(y), self.site.out_dtype), self.site.out_dtype, y.dtype))


def guided(op: Operator) -> Run:
    """`op.guide`, in floats throughout."""
    if not concerned(op.site):
        return op.guide
    return lambda *xs: op.guide(*(x.to(op.site.dtype) for x in xs)).to(op.site.dtype)


def exactly(op: Operator) -> Run:
    """`op.forward` on values as they travel (see the file's head), to floats, int64 or truth values."""
    site = op.site
    if not concerned(site):
        return op.forward
    dtypes = [site.in_dtypes[i] for i in site.variable]
    fine = op if op.native else OPS[site.kind](replace(site, dtype=torch.float64))

    def run(*xs: Tensor) -> Tensor:
        if not op.native:
            xs = tuple(as_floats(x, d, torch.float64) for x, d in zip(xs, dtypes))
        y = fine.forward(*xs)
        if site.out_dtype.kind == "b":
            return y if y.dtype == torch.bool else y != 0
        if is_integer(site.out_dtype):
            return wrap(truncated(y), site.out_dtype) if y.is_floating_point() else y
        return as_floats(y, dtypes[0] if dtypes else None, site.dtype)

    return run


def concerned(site: Site) -> bool:
    """Whether integers or truth values go in or come out."""
    return any(d is not None and (d.kind == "b" or is_integer(d)) for d in (site.out_dtype, *site.in_dtypes))


def settled(op: Operator) -> Operator:
    """An operator that yields integers, as bounds may see it: itself, or `Truncated`."""
    if isinstance(op, Opaque) or not is_integer(op.site.out_dtype):
        return op
    least, most = ends(op.site.out_dtype)
    if op.integers == "keep" or (op.integers == "near" and most - least < 2**16):
        return op
    if op.integers == "wrap" and all(map(whole, op.site.constants)):
        return op
    return Truncated(op)


def whole(value: np.ndarray | None) -> bool:
    """Whether a constant holds whole numbers only."""
    if value is None or value.dtype.kind != "f":
        return True
    return bool((np.isfinite(value) & (value == np.trunc(value))).all())
