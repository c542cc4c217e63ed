"""What a bound proves: the one place where a number becomes a fact.

A row C y + c is bounded from below by `lower_bound`, from which everything that rounding may have cost was subtracted.
A disjunct asks for row <= 0, or row < 0 where the property compares strictly (`strict`). So a row that is > 0 over a
whole box refutes its disjunct there, and a strict one does already where it is >= 0. A bound that is not finite says
nothing: -inf stands for "unknown", inf and NaN for arithmetic that left the range of its numbers.
"""

from __future__ import annotations

import torch
from torch import Tensor


def strict_sum(strict: Tensor, weights: Tensor) -> Tensor:
    """Whether sums of rows (N,) bool are < 0 wherever all their rows hold: some row with a weight > 0 is strict;
    `strict` bool and `weights` (N, S). A weight that is not finite counts for none.
    """
    return (strict & (weights > 0) & torch.isfinite(weights)).any(1)


def proves_positive(lower_bound: Tensor, strict: Tensor | bool = False) -> Tensor:
    """Where a bound refutes its row: bool like `lower_bound`; `strict` broadcasts."""
    touches = torch.as_tensor(strict, device=lower_bound.device) & (lower_bound >= 0)
    return torch.isfinite(lower_bound) & ((lower_bound > 0) | touches)
