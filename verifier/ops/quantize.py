"""Quantisation: QuantizeLinear, DequantizeLinear. Evaluated, not bounded yet.

q = saturate(round(x / scale) + zero), halves to even; back: (q - zero) scale. Scale and zero are constant, either
single numbers or one per entry along `axis`.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from verifier.ops import OPS
from verifier.ops.base import Opaque, Site, Unsuitable

RANGES = {"uint8": (0, 255), "int8": (-128, 127), "uint16": (0, 65535), "int16": (-32768, 32767)}
HELD = {"uint8": torch.uint8, "int8": torch.int8, "int16": torch.int16}  # others are held in int32, which has room


class Grid(Opaque):
    """Scale and zero point, brought to broadcast against x (N, *shape)."""

    def __init__(self, site: Site):
        super().__init__(site)
        scale, zero = site.constant(1), site.constants[2] if site.has(2) else None
        if scale is None or (site.has(2) and zero is None) or site.attrs.get("block_size", 0):
            raise Unsuitable(f"{site.name}: {site.kind} needs a constant scale and zero point, without blocks")
        self.type = "uint8" if zero is None else zero.dtype.name
        zero = np.zeros(scale.shape) if zero is None else zero
        self.scale = self._along(scale)
        self.zero = self._along(torch.from_numpy(np.asarray(zero).astype(np.int64)).to(site.device, site.dtype))

    def _along(self, value: Tensor) -> Tensor:
        if value.ndim == 0 or value.numel() == 1:
            return value.reshape(())
        rank = len(self.out_shape)
        return value.reshape(-1, *(1,) * (rank - 1 - self.site.attrs.get("axis", 1) % rank))


@OPS.add("QuantizeLinear")
class Quantize(Grid):
    def __init__(self, site: Site):
        super().__init__(site)
        if self.type not in RANGES:
            raise Unsuitable(f"{site.name}: QuantizeLinear to {self.type}")

    def forward(self, x: Tensor) -> Tensor:
        y = torch.clamp(torch.round(x / self.scale) + self.zero, *RANGES[self.type])
        return y.to(HELD.get(self.type, torch.int32))


@OPS.add("DequantizeLinear")
class Dequantize(Grid):
    def forward(self, x: Tensor) -> Tensor:
        return (x.to(self.site.dtype) - self.zero) * self.scale
