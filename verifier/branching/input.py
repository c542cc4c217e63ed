"""Which input dimension to split.

`widest`: the dimension with the largest width relative to its region's (every region's dimensions count alike at the start).

`sensitivity`: the dimension along which the bounds can gain most. A row's plane a x + c loses |a_j| (u_j - l_j) / 2 against its value at the box's
centre through dimension j alone; halving the box there wins half of that back at once, before the relaxations tighten. A disjunct is refuted
by any one of its rows, so the row closest to refutation speaks for it; open disjuncts are summed, each weighted by how close it is, because a
dimension that helps many, or finishes one, is worth more. A little of the relative width is added, so that a dimension that the planes ignore
(their slopes being those of a relaxation) is not left out for ever.

Symbols: D domains, S rows, K disjuncts, m dimensions; l, u (D, m); plane (D, S, m); lb (D, S) float64; picked rows (D, S).
"""

from __future__ import annotations

import torch
from torch import Tensor

from verifier.bounds.targets import Picked
from verifier.branching import HEURISTICS


@HEURISTICS.add("widest")
def widest(l: Tensor, u: Tensor, scale: Tensor, plane: Tensor, lb: Tensor, picked: Picked, n_slots: int) -> Tensor:
    """Score (D, m): width over the region's width `scale` (D, m)."""
    return (u - l) / scale


@HEURISTICS.add("sensitivity")
def sensitivity(l: Tensor, u: Tensor, scale: Tensor, plane: Tensor, lb: Tensor, picked: Picked, n_slots: int) -> Tensor:
    """Score (D, m) from the planes of the row that is closest to refuting each disjunct."""
    width = u - l
    lb = torch.where(picked.real & torch.isfinite(lb), lb, -float("inf"))
    best = torch.full((len(lb), n_slots), -float("inf"), dtype=lb.dtype, device=lb.device)
    best = best.scatter_reduce(1, picked.slot, lb, "amax", include_self=True)
    speaks = (picked.real & torch.isfinite(lb) & (lb >= best.gather(1, picked.slot))).to(plane.dtype)  # (D, S)
    loss = torch.nan_to_num(plane.abs(), nan=0.0, posinf=0.0) * width.unsqueeze(1)  # (D, S, m)
    # Relative to what the row still lacks, so that rows of different scale can be added.
    share = loss / (loss.sum(-1, keepdim=True) - lb.clamp(min=-1e30).unsqueeze(-1).to(plane.dtype)).clamp(min=1e-30)
    score = (share * speaks.unsqueeze(-1)).sum(1)
    return score + 1e-3 * width / scale
