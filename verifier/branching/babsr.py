"""Which neuron to split, from one backward pass: how much of the bound its relaxation costs.

`babsr` (Bunel et al., "Branch and Bound for Piecewise Linear Neural Network Verification", arXiv 1909.06588): with A
the coefficient at the neuron's output, s = u / (u - l) the slope and -l s the offset of its upper line, b the constant
of the affine step before it, the bound loses about |max(A b (s - 1), A b s) + min(A, 0) (-l s)|. For a curve, |A| times
the distance between its lines in the middle of its interval.

`gap`: A (y - f(z)) with y the relaxed and f(z) the true output at the relaxed point of the minimiser: what the neuron
adds to the difference between the bound and the network's value there. Where all gaps are 0 the minimiser is a
counterexample.

Both are added up over all that a split narrows: every function that reads the value, and the products it goes into,
whose planes lose what `verifier.ops.bilinear` says.

Symbols: N domains, K columns.
"""

from __future__ import annotations

import torch
from torch import Tensor

from verifier.branching import NEURONS
from verifier.branching.view import View, best


def babsr_score(v: View) -> Tensor:
    """(N, K)."""
    product = v.coef * v.bias
    kink = (torch.maximum(product * (v.kink_a - 1), product * v.kink_a) + v.coef.clamp(max=0) * v.kink_b).abs()
    return v.together(torch.where(v.curve, v.coef.abs() * v.thick, kink))


def gap_score(v: View) -> Tensor:
    """(N, K)."""
    return v.together(v.coef.clamp(max=0) * (v.true - v.above) + v.coef.clamp(min=0) * (v.true - v.below))


@NEURONS.add("babsr")
def babsr(v: View, count: int) -> Tensor:
    """(N, count) columns, best first."""
    return best(babsr_score(v), v.free, count)


@NEURONS.add("gap")
def gap(v: View, count: int) -> Tensor:
    """(N, count) columns, best first."""
    return best(gap_score(v), v.free, count)
