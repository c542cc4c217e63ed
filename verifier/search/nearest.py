"""Notes where refuted subproblems come nearest to satisfying the property: for the gate, which asks the runtime there.

Symbols: D domains, S rows, m dimensions.
"""

from __future__ import annotations

import torch
from torch import Tensor

from verifier.bounds.base import RowBounds
from verifier.bounds.targets import Picked, best_rows
from verifier.evidence.near import NearMisses
from verifier.search.domains import Domains
from verifier.search.methods import lowest

NOTED = 4  # of a batch


def note(near: NearMisses, domains: Domains, picked: Picked, bounds: RowBounds, lb: Tensor, refuted: Tensor) -> None:
    """Adds minimisers of those domains `refuted` (D,) that are bounded lowest, by their rows' bounds lb (D, S)."""
    gone = torch.nonzero(refuted).squeeze(1)
    if not len(gone):
        return
    score, speaker = best_rows(picked.at(gone), lb[gone], domains.open[gone])
    few = torch.topk(score, min(NOTED, len(score)), largest=False).indices
    points = lowest(bounds.plane[gone[few]], speaker[few], domains.take(gone[few]))
    near.leaves.add(points.double().cpu().numpy(), score[few].double().cpu().numpy())


def note_minimisers(near: NearMisses, x: Tensor, lb: Tensor) -> None:
    """The same for minimisers x (D, m) of refuted subproblems and their bounds lb (D,)."""
    few = torch.topk(lb, min(NOTED, len(lb)), largest=False).indices
    near.leaves.add(x[few].double().cpu().numpy(), lb[few].double().cpu().numpy())
