"""Functions of one value that can be evaluated but not bounded yet: questions about it, with truth values."""

from __future__ import annotations

import torch
from torch import Tensor

from verifier.ops import OPS
from verifier.ops.base import Opaque


@OPS.add("IsNaN")
class IsNaN(Opaque):
    def forward(self, x: Tensor) -> Tensor:
        return torch.isnan(x)


@OPS.add("Not")
class Not(Opaque):
    def forward(self, x: Tensor) -> Tensor:
        return torch.logical_not(x)


@OPS.add("IsInf")
class IsInf(Opaque):
    def forward(self, x: Tensor) -> Tensor:
        low, high = (bool(self.site.attrs[k]) for k in ("detect_negative", "detect_positive"))
        return (torch.isneginf(x) & low) | (torch.isposinf(x) & high)
