"""What a neuron heuristic sees of a batch of domains.

Symbols: N domains, K columns (unstable neurons).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass
class View:
    """`coef` (N, K): coefficients at the neurons' outputs; `z`: relaxed values before them at the minimiser; `alpha`:
    lower slopes, `up_a`, `up_b`: upper lines, all (N, K). `bias` (K,): constant of the affine step before each; `left`,
    `right` (K,): the slopes beside the kink. `free` (N, K) bool: what can be split. `score` (N,): the bounds. `trial`:
    columns (N, C), -1 for none, to bounds (N, C, 2) of both children with multipliers as they are.
    """

    coef: Tensor
    z: Tensor
    alpha: Tensor
    up_a: Tensor
    up_b: Tensor
    bias: Tensor
    left: Tensor
    right: Tensor
    free: Tensor
    score: Tensor
    trial: Callable[[Tensor], Tensor]


def best(score: Tensor, free: Tensor, count: int) -> Tensor:
    """The `count` best columns (N, count) that can be split, best first; -1 where there are fewer."""
    score = torch.where(free, torch.nan_to_num(score), -float("inf"))
    top = torch.topk(score, min(count, score.shape[1]), dim=1)
    columns = torch.where(torch.isfinite(top.values), top.indices, -1)
    missing = count - columns.shape[1]
    return torch.nn.functional.pad(columns, (0, missing), value=-1) if missing > 0 else columns
