"""Filtered smart branching: the best few neurons by each of two cheap scores are tried, all children in one batch.

De Palma et al., "Improved Branch and Bound for Neural Network Verification via Lagrangian Decomposition" (arXiv
2104.06718). A trial bounds both children with the parent's multipliers, in one backward pass. The children's gains are
multiplied, as strong branching does for integer programs (Achterberg, "Constraint Integer Programming", 2007): a split
is good if both sides gain. A child that is refuted has gained all there is.

Symbols: N domains, C candidates.
"""

from __future__ import annotations

import torch
from torch import Tensor

from verifier.branching import NEURONS
from verifier.branching.babsr import babsr_score, gap_score
from verifier.branching.view import View, best

MOST, LEAST = 16, 5  # candidates from each score: many near the root, where a good split counts for all below
TRIALS = 512  # children tried at once while more than `LEAST` candidates are looked at


@NEURONS.add("kfsb")
def kfsb(v: View, count: int) -> Tensor:
    """(N, count) columns, the best tried one first."""
    scores = (babsr_score(v), gap_score(v))
    each = max(LEAST, min(MOST, TRIALS // (4 * max(1, len(v.free)))))
    candidates = _first_of(torch.cat([best(s, v.free, each) for s in scores], 1), 2 * each)
    bounds = v.trial(candidates)
    score = v.score.unsqueeze(1).to(bounds.dtype)
    gain = (bounds.clamp(max=0) - score.unsqueeze(-1)).clamp(min=0)
    scale = score.abs().clamp(min=1e-12)
    merit = (gain[..., 0] + 1e-3 * scale) * (gain[..., 1] + 1e-3 * scale)
    merit = torch.where(candidates >= 0, torch.nan_to_num(merit), -1.0)
    order = torch.argsort(merit, dim=1, descending=True)
    tried = candidates.gather(1, order)
    rest = best(scores[1], v.free, count)
    return _first_of(torch.cat([tried, rest], 1), count)


def _first_of(columns: Tensor, count: int) -> Tensor:
    """The first `count` different columns of each row (N, C), in order; -1 where there are fewer."""
    same = columns.unsqueeze(2) == columns.unsqueeze(1)  # (N, C, C)
    seen = torch.tril(same, -1).any(2) | (columns < 0)
    order = torch.argsort(seen.to(torch.uint8), dim=1, stable=True)[:, :count]
    return torch.where(seen.gather(1, order), -1, columns.gather(1, order))
