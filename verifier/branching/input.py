"""Which input dimension to split.

`widest`: the dimension with the largest width relative to its region's (every region's dimensions count alike at the
start).

`sensitivity`: the dimension along which the bounds can gain most. A row with steepness a (its slope along every
dimension, each nonlinearity at its typical slope) moves by |a_j| (u_j - l_j) through dimension j, and halving the box
there wins a share of that. The slopes of the bounding planes themselves would not do: a relaxation that is flat where
the function is not hides a dimension, box after box, and the search splits the others in vain (measured on six-layer
networks: three to ten times the domains). A disjunct is refuted by any one of its rows, so the row closest to
refutation speaks for it; open disjuncts are summed, each relative to what it still lacks. A little of the relative
width is added, so that no dimension is left out for ever.

Symbols: D domains, S rows, K disjuncts, m dimensions; l, u (D, m); slope (D, S, m); lb (D, S) float64; picked rows (D,
S).
"""

from __future__ import annotations

import torch
from torch import Tensor

from verifier.bounds.targets import Picked
from verifier.branching import HEURISTICS


@HEURISTICS.add("widest")
def widest(l: Tensor, u: Tensor, scale: Tensor, slope: Tensor, lb: Tensor, picked: Picked, n_slots: int) -> Tensor:
    """Score (D, m): width over the region's width `scale` (D, m)."""
    return (u - l) / scale


@HEURISTICS.add("sensitivity")
def sensitivity(l: Tensor, u: Tensor, scale: Tensor, slope: Tensor, lb: Tensor, picked: Picked, n_slots: int) -> Tensor:
    """Score (D, m) from the steepness of the row that is closest to refuting each disjunct."""
    width = u - l
    lb = torch.where(picked.real & torch.isfinite(lb), lb, -float("inf"))
    best = torch.full((len(lb), n_slots), -float("inf"), dtype=lb.dtype, device=lb.device)
    best = best.scatter_reduce(1, picked.slot, lb, "amax", include_self=True)
    speaks = (picked.real & torch.isfinite(lb) & (lb >= best.gather(1, picked.slot))).to(slope.dtype)  # (D, S)
    loss = torch.nan_to_num(slope.abs(), nan=0.0, posinf=0.0) * width.unsqueeze(1)  # (D, S, m)
    # Relative to what the row still lacks, so that rows of different scale can be added.
    share = loss / (loss.sum(-1, keepdim=True) - lb.clamp(min=-1e30).unsqueeze(-1).to(slope.dtype)).clamp(min=1e-30)
    score = (share * speaks.unsqueeze(-1)).sum(1)
    return score + 0.01 * width / scale
