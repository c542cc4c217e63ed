"""Functions of two operands that can be evaluated but not bounded yet: powers.

Both operands depend on x or one is constant; they act entry by entry and broadcast as in numpy.
"""

from __future__ import annotations

import torch
from torch import Tensor

from verifier.ops import OPS
from verifier.ops.arithmetic import Entrywise
from verifier.ops.base import Site


def power(a: Tensor, b: Tensor) -> Tensor:
    """a ** b in the type of a; powers of integers go through float64."""
    return torch.pow(a, b.to(a.dtype)) if a.is_floating_point() else torch.pow(a.double(), b.double()).to(a.dtype)


BINARY = {
    "Pow": power,
    "PRelu": lambda x, slope: torch.where(x >= 0, x, slope * x),
}


@OPS.add("Pow", "PRelu")
class Binary(Entrywise):
    def __init__(self, site: Site):
        super().__init__(site)
        self.combine = BINARY[site.kind]
