"""Functions of one number that can be evaluated but not bounded yet.

A function moves from here to a bounded class (see `verifier.ops.pointwise`) by losing its name and its line in the
table. Each is differentiable where the function is, so that attacks can climb through it. Formulas that would overflow
or cancel in the plain form are written in the stable one: softplus(x) = log(exp(x) + exp(0)).
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from verifier.ops import OPS
from verifier.ops.base import Opaque, Site


def softplus(x: Tensor) -> Tensor:
    return torch.logaddexp(x, torch.zeros_like(x))


PLAIN = {
    "Sin": torch.sin,
    "Cos": torch.cos,
    "Tan": torch.tan,
    "Asin": torch.asin,
    "Acos": torch.acos,
    "Atan": torch.atan,
    "Sinh": torch.sinh,
    "Cosh": torch.cosh,
    "Asinh": torch.asinh,
    "Acosh": torch.acosh,
    "Atanh": torch.atanh,
    "Exp": torch.exp,
    "Log": torch.log,
    "Sqrt": torch.sqrt,
    "Reciprocal": torch.reciprocal,
    "Erf": torch.erf,
    "Sign": torch.sign,
    "Floor": torch.floor,
    "Ceil": torch.ceil,
    "Round": torch.round,  # halves to even, as in ONNX
    "Softplus": softplus,
    "Softsign": F.softsign,
    "HardSwish": lambda x: x * torch.clamp(x / 6 + 0.5, 0, 1),
    "Mish": lambda x: x * torch.tanh(softplus(x)),
}


@OPS.add("Sin", "Cos", "Tan", "Asin", "Acos", "Atan", "Sinh", "Cosh", "Asinh", "Acosh", "Atanh")
@OPS.add("Exp", "Log", "Sqrt", "Reciprocal", "Erf", "Sign", "Floor", "Ceil", "Round")
@OPS.add("Softplus", "Softsign", "HardSwish", "Mish")
class Plain(Opaque):
    """A function without parameters."""

    def __init__(self, site: Site):
        super().__init__(site)
        self.f = PLAIN[site.kind]

    def forward(self, x: Tensor) -> Tensor:
        return self.f(x)


SHAPED = {
    "Elu": lambda x, alpha: F.elu(x, alpha),
    "Celu": lambda x, alpha: F.celu(x, alpha),
    "Selu": lambda x, alpha, gamma: gamma * (torch.relu(x) + alpha * torch.expm1(-torch.relu(-x))),
    "ThresholdedRelu": lambda x, alpha: torch.where(x > alpha, x, 0.0),
    "HardSigmoid": lambda x, alpha, beta: torch.clamp(alpha * x + beta, 0, 1),
    "Swish": lambda x, alpha: x * torch.sigmoid(alpha * x),
    "Shrink": lambda x, bias, lambd: torch.where(x < -lambd, x + bias, torch.where(x > lambd, x - bias, 0.0)),
    "Gelu": lambda x, approximate: F.gelu(x, approximate=approximate),
}


@OPS.add("Elu", "Celu", "Selu", "ThresholdedRelu", "HardSigmoid", "Swish", "Shrink", "Gelu")
class Shaped(Opaque):
    """A function with the node's attributes as parameters."""

    def __init__(self, site: Site):
        super().__init__(site)
        self.f, self.parameters = SHAPED[site.kind], dict(site.attrs)

    def forward(self, x: Tensor) -> Tensor:
        return self.f(x, **self.parameters)
