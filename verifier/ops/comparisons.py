"""Functions of two operands that can be evaluated but not bounded yet: comparisons, logic, extremes.

Both operands depend on x or one is constant; they act entry by entry and broadcast as in numpy. Comparisons give truth
values, which a Cast makes numbers.
"""

from __future__ import annotations

import torch
from torch import Tensor

from verifier.ops import OPS
from verifier.ops.arithmetic import Entrywise
from verifier.ops.base import Site

BINARY = {
    "Max": torch.maximum,
    "Min": torch.minimum,
    "Equal": torch.eq,
    "Less": torch.lt,
    "Greater": torch.gt,
    "LessOrEqual": torch.le,
    "GreaterOrEqual": torch.ge,
    "And": torch.logical_and,
    "Or": torch.logical_or,
    "Xor": torch.logical_xor,
}


@OPS.add("Max", "Min")
@OPS.add("Equal", "Less", "Greater", "LessOrEqual", "GreaterOrEqual", "And", "Or", "Xor")
class Binary(Entrywise):
    def __init__(self, site: Site):
        super().__init__(site)
        self.combine = BINARY[site.kind]


@OPS.add("Mod")
class Mod(Entrywise):
    """The remainder with the sign of the divisor, or (`fmod`) of the dividend."""

    def combine(self, a: Tensor, b: Tensor) -> Tensor:
        return torch.fmod(a, b) if self.site.attrs.get("fmod", 0) else torch.remainder(a, b)
