"""Filtered smart branching: the best few neurons by each of two cheap scores are tried, all children in one batch.

De Palma et al., "Improved Branch and Bound for Neural Network Verification via Lagrangian Decomposition" (arXiv
2104.06718). A trial bounds both children with the parent's multipliers, in one backward pass.

Symbols: N domains, C candidates.
"""

from __future__ import annotations

import torch
from torch import Tensor

from verifier.branching import NEURONS
from verifier.branching.babsr import babsr_score, gap_score
from verifier.branching.view import View, best, first_of, ranked

MOST, LEAST = 16, 5  # candidates from each score: many near the root, where a good split counts for all below
TRIALS = 512  # children tried at once while more than `LEAST` candidates are looked at


@NEURONS.add("kfsb")
def kfsb(v: View, count: int) -> Tensor:
    """(N, count) columns, the best tried one first."""
    scores = (babsr_score(v), gap_score(v))
    each = max(LEAST, min(MOST, TRIALS // (4 * max(1, len(v.free)))))
    candidates = first_of(torch.cat([best(s, v.free, each) for s in scores], 1), 2 * each)
    return ranked(v, candidates, v.trial(candidates), best(scores[1], v.free, count), count)
