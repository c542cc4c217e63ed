"""S-shaped functions: rising, convex left of 0 and concave right of it, f' even.

f'(x) = s has one solution x on either side of 0; the formula for it is written so that nothing cancels but where f' is
flat (at 0), and there an error in x costs only to third order. The lower line touches the convex half, the upper one
the concave half.

Symbols: x, s: (N, *shape), elementwise.
"""

from __future__ import annotations

from math import pi, sqrt

import torch
import torch.nn.functional as F
from torch import Tensor

from verifier.ops import OPS
from verifier.ops.pointwise import SShaped


def logistic_inverse(q: Tensor) -> Tensor:
    """The x >= 0 with sigmoid'(x) = q for 0 < q <= 1/4, NaN elsewhere: x = log((1 - p) / p), p = 2 q / (1 + sqrt(1 - 4
    q)), no cancellation.
    """
    p = 2 * q / (1 + torch.sqrt(1 - 4 * q))
    return torch.log1p(-p) - torch.log(p)


@OPS.add("Sigmoid")
class Sigmoid(SShaped):
    """1 / (1 + exp(-x))."""

    limits = (0.0, 1.0)

    def f(self, x: Tensor) -> Tensor:
        return torch.sigmoid(x)

    def slope(self, x: Tensor) -> Tensor:
        y = torch.sigmoid(-x.abs())  # from the small side: 1 - y is then exact to the last place
        return y * (1 - y)

    def inverse(self, s: Tensor) -> Tensor:
        return logistic_inverse(s)


@OPS.add("Tanh")
class Tanh(SShaped):
    """tanh(x) = 2 sigmoid(2 x) - 1, so tanh'(x) = 4 sigmoid'(2 x)."""

    limits = (-1.0, 1.0)

    def f(self, x: Tensor) -> Tensor:
        return torch.tanh(x)

    def slope(self, x: Tensor) -> Tensor:
        y = torch.sigmoid(-2 * x.abs())
        return 4 * y * (1 - y)

    def inverse(self, s: Tensor) -> Tensor:
        return logistic_inverse(s / 4) / 2


@OPS.add("Atan")
class Atan(SShaped):
    """atan(x), f' = 1 / (1 + x^2)."""

    def f(self, x: Tensor) -> Tensor:
        return torch.atan(x)

    def slope(self, x: Tensor) -> Tensor:
        return 1 / (1 + x * x)

    def inverse(self, s: Tensor) -> Tensor:
        return torch.sqrt((1 - s) / s)


@OPS.add("Asinh")
class Asinh(SShaped):
    """asinh(x), f' = 1 / sqrt(1 + x^2)."""

    def f(self, x: Tensor) -> Tensor:
        return torch.asinh(x)

    def slope(self, x: Tensor) -> Tensor:
        return 1 / torch.sqrt(1 + x * x)

    def inverse(self, s: Tensor) -> Tensor:
        x = torch.sqrt((1 - s) * (1 + s)) / s
        return torch.where(s > 0, x, torch.nan)


@OPS.add("Erf")
class Erf(SShaped):
    """erf(x), f' = 2 / sqrt(pi) exp(-x^2)."""

    limits = (-1.0, 1.0)

    def f(self, x: Tensor) -> Tensor:
        return torch.erf(x)

    def slope(self, x: Tensor) -> Tensor:
        return (2 / sqrt(pi)) * torch.exp(-x * x)

    def inverse(self, s: Tensor) -> Tensor:
        return torch.sqrt(-torch.log(s * (sqrt(pi) / 2)))


@OPS.add("Softsign")
class Softsign(SShaped):
    """x / (1 + |x|), f' = 1 / (1 + |x|)^2."""

    limits = (-1.0, 1.0)

    def f(self, x: Tensor) -> Tensor:
        return F.softsign(x)

    def at(self, x: Tensor) -> Tensor:
        return torch.where(torch.isinf(x), torch.sign(x), F.softsign(x))

    def slope(self, x: Tensor) -> Tensor:
        return 1 / torch.square(1 + x.abs())

    def inverse(self, s: Tensor) -> Tensor:
        root = torch.sqrt(s)
        return torch.where(s > 0, (1 - root) / root, torch.nan)  # below 0 where s > 1: no such point is counted twice
