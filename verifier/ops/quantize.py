"""Quantisation: QuantizeLinear and DequantizeLinear.

q = saturate(round(x / scale) + zero), halves to even; back: (q - zero) scale. Scale and zero are constant, either
single numbers or one per entry along `axis`.

To q is a stair (`verifier.ops.steps`) whose step into k is at (k - zero - 1/2) scale, cut off at the ends of the type.
Bounds need the step that real arithmetic takes, not the one of a rounded quotient: the remainder of x by scale is exact
in floating point (IEEE 754), and so are twice it and its comparison with scale. Where a step is rounds to within
eps |x|, which costs eps |s
x| and lies in the slack. Back from q is affine.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from verifier.ops import OPS
from verifier.ops.base import Affine, Site, Unsuitable
from verifier.ops.steps import Stairs, straight_through

RANGES = {"uint8": (0, 255), "int8": (-128, 127), "uint16": (0, 65535), "int16": (-32768, 32767)}
FAR = float(1 << 20)  # steps from 0 to beyond every type's ends


def grid(site: Site) -> tuple[Tensor, Tensor, str]:
    """Scale and zero point, brought to broadcast against x (N, *shape), and the integer type."""
    scale, zero = site.constant(1), site.constants[2] if site.has(2) else None
    if scale is None or (site.has(2) and zero is None) or site.attrs.get("block_size", 0):
        raise Unsuitable(f"{site.name}: {site.kind} needs a constant scale and zero point, without blocks")
    if not bool(((scale > 0) & torch.isfinite(scale)).all()):
        raise Unsuitable(f"{site.name}: {site.kind} with a scale that is not above 0")
    kind = "uint8" if zero is None else zero.dtype.name
    zero = np.zeros(scale.shape) if zero is None else zero
    zero = torch.from_numpy(np.asarray(zero).astype(np.int64)).to(site.device, site.dtype)
    return _along(site, scale.to(site.dtype)), _along(site, zero), kind


def _along(site: Site, value: Tensor) -> Tensor:
    if value.ndim == 0 or value.numel() == 1:
        return value.reshape(())
    rank = len(site.shape)
    return value.reshape(-1, *(1,) * (rank - 1 - site.attrs.get("axis", 1) % rank))


@OPS.add("QuantizeLinear")
class Quantize(Stairs):
    native = True

    def __init__(self, site: Site):
        super().__init__(site)
        self.unit, self.zero, self.type = grid(site)
        if self.type not in RANGES:
            raise Unsuitable(f"{site.name}: QuantizeLinear to {self.type}")
        self.lag = self.zero + 0.5
        self.ends = RANGES[self.type]
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
        self.scale, self.zero, _ = grid(site)

    def forward(self, x: Tensor) -> Tensor:
        return (x.to(self.site.dtype) - self.zero) * self.scale

    def absolute(self, r: Tensor) -> Tensor:
        return r * self.scale

    def adjoint(self, a: Tensor) -> tuple[Tensor, ...]:
        return (a * self.scale,)

    def offset(self) -> Tensor | None:
        return (-self.zero * self.scale).expand(self.out_shape) if bool(self.zero.any()) else None
