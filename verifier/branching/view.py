"""What a neuron heuristic sees of a batch of domains.

Symbols: N domains, K columns (unstable neurons), C candidates.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass
class View:
    """`coef` (N, K): coefficients at the neurons' outputs; at the relaxed values of the minimiser before the neurons,
    `below` and `above` are the lines' values and `true` the functions', all (N, K). `kink_a`, `kink_b` (N, K): upper
    lines of neurons with one kink; `bias` (K,): constant of the affine step before each. `thick` (N, K): distance
    between the lines of curves at the middle of their intervals; `curve` (K,) bool. `free` (N, K) bool: what can be
    split. `score` (N,): the bounds. `pairs` (J,) each: columns, and columns whose splits narrow the former's intervals,
    at first themselves. For factors of products, which have no lines, `coef` is 1, `thick` what the bound loses by
    products that read them, halved, and `true` the same at the minimiser, `below` being 0.

    Columns (N, C), -1 for none, to bounds (N, C, 2) of both children: `trial` by backward passes with multipliers as
    they are, `shortcut` by planes kept from the root, `local` by what an estimate sees that stops at the constant of
    the affine step before.
    """

    coef: Tensor
    below: Tensor
    above: Tensor
    true: Tensor
    kink_a: Tensor
    kink_b: Tensor
    bias: Tensor
    thick: Tensor
    curve: Tensor
    free: Tensor
    score: Tensor
    trial: Callable[[Tensor], Tensor]
    shortcut: Callable[[Tensor], Tensor]
    local: Callable[[Tensor], Tensor]
    pairs: tuple[Tensor, Tensor] | None = None

    def together(self, score: Tensor) -> Tensor:
        """Scores of columns (N, K), added up for each over all that its split narrows: all who read the value."""
        if self.pairs is None:
            return score
        here, there = self.pairs
        return torch.zeros_like(score).index_add_(1, there, torch.nan_to_num(score)[:, here])


def best(score: Tensor, free: Tensor, count: int) -> Tensor:
    """The `count` best columns (N, count) that can be split, best first; -1 where there are fewer."""
    score = torch.where(free, torch.nan_to_num(score), -float("inf"))
    top = torch.topk(score, min(count, score.shape[1]), dim=1)
    columns = torch.where(torch.isfinite(top.values), top.indices, -1)
    missing = count - columns.shape[1]
    return torch.nn.functional.pad(columns, (0, missing), value=-1) if missing > 0 else columns


def merit(view: View, candidates: Tensor, bounds: Tensor) -> Tensor:
    """(N, C) how good splits are whose children have these bounds (N, C, 2): the product of both gains, as in strong
    branching for integer programs (Achterberg, "Constraint Integer Programming", 2007): a split is good if both sides
    gain. A child that is refuted has gained all there is. -1 for candidates of -1.
    """
    score = view.score.unsqueeze(1).to(bounds.dtype)
    gain = (bounds.clamp(max=0) - score.unsqueeze(-1)).clamp(min=0)
    scale = score.abs().clamp(min=1e-12)
    product = (gain[..., 0] + 1e-3 * scale) * (gain[..., 1] + 1e-3 * scale)
    return torch.where(candidates >= 0, torch.nan_to_num(product), -1.0)


def first_of(columns: Tensor, count: int) -> Tensor:
    """The first `count` different columns of each row (N, C), in order; -1 where there are fewer."""
    same = columns.unsqueeze(2) == columns.unsqueeze(1)  # (N, C, C)
    seen = torch.tril(same, -1).any(2) | (columns < 0)
    order = torch.argsort(seen.to(torch.uint8), dim=1, stable=True)[:, :count]
    return torch.where(seen.gather(1, order), -1, columns.gather(1, order))


def ranked(view: View, candidates: Tensor, bounds: Tensor, rest: Tensor, count: int) -> Tensor:
    """(N, count): candidates by merit, then `rest` as far as there is room."""
    order = torch.argsort(merit(view, candidates, bounds), dim=1, descending=True)
    return first_of(torch.cat([candidates.gather(1, order), rest], 1), count)
