"""Quantisation: QuantizeLinear and DequantizeLinear.

q = saturate(round(x / scale) + zero), halves to even; back: (q - zero) scale. Scale and zero are constant, either
single numbers or one per entry along `axis`.

To q is a stair (`verifier.ops.steps`) whose step into k is at (k - zero - 1/2) scale, cut off at the ends of the type.
Bounds need the step that real arithmetic takes, not the one of a rounded quotient: the remainder of x by scale is exact
in floating point (IEEE 754), and so are twice it and its comparison with scale. Where a step is rounds to within
eps |x|, which costs eps |s
x| and lies in the slack. Back from q is affine.

DynamicQuantizeLinear takes scale and zero point from the range of x, [a, b] with 0 in it: scale = (b - a) / 255, or 1
where that is 0, zero = round(-a / scale). Its results have intervals: -a / scale = 255 / (1 - b / a) falls with a and
with b, and x / scale lies between quotients of ends, moved outward by more than float32 loses (`LOST`).
"""

from __future__ import annotations

import torch
from torch import Tensor

from verifier.ops import OPS
from verifier.ops.base import Affine, Site, Unsuitable
from verifier.ops.integers import ends, is_integer
from verifier.ops.steps import Stairs, straight_through
from verifier.ops.stepwise import Box, Stepwise

WIDE = (0, 1, 11)  # values of `precision`: that of the scale, float32, float64
LOST = 1e-3  # what float32 may be off by in steps, of which there are 255
FAR = float(1 << 20)  # steps from 0 to beyond every type's ends


def grid(site: Site) -> tuple[Tensor, Tensor]:
    """Scale and zero point, brought to broadcast against x (N, *shape)."""
    scale, zero = site.constant(1), site.constant(2)
    if scale is None or (site.has(2) and zero is None):
        raise Unsuitable(f"{site.name}: {site.kind} needs a constant scale and zero point")
    if not bool(((scale > 0) & torch.isfinite(scale)).all()):
        raise Unsuitable(f"{site.name}: {site.kind} with a scale that is not above 0")
    if site.has(2) and site.in_dtypes and not is_integer(site.in_dtypes[2]):
        raise Unsuitable(f"{site.name}: {site.kind} with a zero point of type {site.in_dtypes[2]}")
    zero = torch.zeros_like(scale) if zero is None else zero
    return along(site, scale.to(site.dtype)), along(site, zero.to(site.dtype))


def along(site: Site, value: Tensor) -> Tensor:
    """A number, one per entry of an axis, or one per block of `block_size` entries of it."""
    if value.ndim == 0 or value.numel() == 1:
        return value.reshape(())
    rank, block = len(site.shape), site.attrs.get("block_size", 0)
    axis = site.attrs.get("axis", 1) % max(rank, 1)
    if value.ndim > 1 or (block and rank == 1):
        wide = value.repeat_interleave(block or 1, axis).narrow(axis, 0, site.shape[axis])
        return wide.expand(site.shape)
    return value.reshape(-1, *(1,) * (rank - 1 - axis))


@OPS.add("QuantizeLinear")
class Quantize(Stairs):
    native = True

    def __init__(self, site: Site):
        super().__init__(site)
        if not is_integer(site.out_dtype):
            raise Unsuitable(f"{site.name}: QuantizeLinear to {site.out_dtype}")
        if site.attrs.get("precision", 0) not in WIDE:
            raise Unsuitable(f"{site.name}: QuantizeLinear with a precision below float32")
        self.unit, self.zero = grid(site)
        self.lag = self.zero + 0.5
        self.ends = ends(site.out_dtype)
        self.limits = tuple(float(e) for e in self.ends)

    def f(self, x: Tensor) -> Tensor:
        x = torch.minimum(torch.maximum(x, -FAR * self.unit), FAR * self.unit)  # past both ends
        rest = torch.fmod(x, self.unit)
        whole = torch.round((x - rest) / self.unit)
        odd = torch.fmod(whole, 2) != 0
        up = (2 * rest.abs() > self.unit) | ((2 * rest.abs() == self.unit) & odd)
        return torch.clamp(whole + torch.sign(x) * up + self.zero, *self.ends)

    def forward(self, x: Tensor) -> Tensor:
        """As runtimes do it, by the rounded quotient."""
        return torch.clamp(torch.round(x / self.unit) + self.zero, *self.ends).long()

    def guide(self, x: Tensor) -> Tensor:
        return straight_through(x / self.unit, self.forward(x).to(x.dtype))


@OPS.add("DequantizeLinear")
class Dequantize(Affine):
    entrywise = True
    native = True
    terms = (3, 1)  # x, zero and the product; an entry of the adjoint is one product

    def __init__(self, site: Site):
        super().__init__(site)
        if site.in_dtypes and not is_integer(site.in_dtypes[0]):
            raise Unsuitable(f"{site.name}: DequantizeLinear of {site.in_dtypes[0]}")
        self.scale, self.zero = grid(site)

    def forward(self, x: Tensor) -> Tensor:
        return (x.to(self.site.dtype) - self.zero) * self.scale

    def absolute(self, r: Tensor) -> Tensor:
        return r * self.scale

    def adjoint(self, a: Tensor) -> tuple[Tensor, ...]:
        return (a * self.scale,)

    def offset(self) -> Tensor | None:
        return (-self.zero * self.scale).expand(self.out_shape) if bool(self.zero.any()) else None


def held_range(l: Tensor, u: Tensor) -> tuple[Box, Box]:
    """The least and the greatest of the entries and 0, each as a box (D,)."""
    l, u = l.flatten(1), u.flatten(1)
    return (
        (l.amin(1).clamp(max=0.0), u.amin(1).clamp(max=0.0)),
        (l.amax(1).clamp(min=0.0), u.amax(1).clamp(min=0.0)),
    )


class Dynamic(Stepwise):
    """Subclasses pick one of the results."""

    integers = "keep"
    native = True

    def parts(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Scale and zero point (N, 1, …), in float32 as the runtime finds them."""
        (a, _), (b, _) = held_range(x, x)
        scale = torch.where(a == b, 1.0, (b - a) / 255)
        zero = torch.round((0 - a / scale).clamp(0, 255))
        return tuple(t.reshape(-1, *(1,) * (x.ndim - 1)) for t in (scale, zero))

    def scale_box(self, l: Tensor, u: Tensor) -> Box:
        (al, au), (bl, bu) = held_range(l, u)
        room = 4 * torch.finfo(l.dtype).eps
        low, high = (bl - au) / 255 * (1 - room), (bu - al) / 255 * (1 + room)
        return torch.where(bl - au > 0, low, 0.0), torch.where(bl - au > 0, high, high.clamp(min=1.0))

    def zero_box(self, l: Tensor, u: Tensor) -> Box:
        """-a 255 / (b - a), between its values where -a and b are least and greatest; 0 where both are 0."""
        (al, au), (bl, bu) = held_range(l, u)
        low = torch.where(au < 0, 255 * -au / (bu - au), 0.0)
        high = torch.where(al < 0, 255 * -al / (bl - al), 0.0)
        low, high = (torch.nan_to_num(t, nan=n, posinf=n) for t, n in ((low, 0.0), (high, 255.0)))
        return torch.round(low - LOST).clamp(0, 255), torch.round(high + LOST).clamp(0, 255)

    def spread(self, a: Tensor, shape: tuple[int, ...]) -> Tensor:
        total = a.reshape(a.shape[0], -1).abs().sum(1)
        return total.reshape(-1, *(1,) * len(shape)).expand(a.shape[0], *shape)


@OPS.add("DynamicQuantizeLinear")
class DynamicQuantized(Dynamic):
    def forward(self, x: Tensor) -> Tensor:
        x = x.float()
        scale, zero = self.parts(x)
        return (torch.round(x / scale) + zero).clamp(0, 255).long()

    def interval(self, *boxes: Box) -> Box:
        l, u = boxes[0]
        wide = lambda t: t.reshape(-1, *(1,) * (l.ndim - 1))
        (sl, su), (zl, zu) = (tuple(wide(t) for t in box) for box in (self.scale_box(l, u), self.zero_box(l, u)))
        low = torch.where(l < 0, l / sl, l / su).nan_to_num(nan=-255.0)
        high = torch.where(u > 0, u / sl, u / su).nan_to_num(nan=255.0)
        low, high = torch.round(low.clamp(-255, 255) - LOST), torch.round(high.clamp(-255, 255) + LOST)
        return (low + zl).clamp(0, 255), (high + zu).clamp(0, 255)


@OPS.add("DynamicQuantizeLinear:1")
class DynamicScale(Dynamic):
    def forward(self, x: Tensor) -> Tensor:
        return self.parts(x)[0].reshape(x.shape[0])

    def interval(self, *boxes: Box) -> Box:
        return self.scale_box(*boxes[0])


@OPS.add("DynamicQuantizeLinear:2")
class DynamicZero(Dynamic):
    def forward(self, x: Tensor) -> Tensor:
        return self.parts(x.float())[1].reshape(x.shape[0]).long()

    def interval(self, *boxes: Box) -> Box:
        return self.zero_box(*boxes[0])
