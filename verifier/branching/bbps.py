"""Branching with bound propagation shortcuts: candidates are compared by planes kept from the root, no network pass.

Shi et al., "Neural Network Verification with Branch-and-Bound for General Nonlinearities" (arXiv 2405.21063). A split
changes one neuron's lines, from s z + b to s' z + b' on the side that its coefficient a asks for. So the row that the
backward pass found at the input, P x + c, gains a (s' - s) z + a (b' - b); with d = a (s' - s) and the neuron's planes
L x + lc <= z <= U x + uc from the root,

    child's bound  =  min over the box of (P + d+ L + d- U) x  +  c + a (b' - b) + d+ lc + d- uc,

a bound that is valid for the child up to rounding (d+ and d- the positive and negative part). It differs from the
paper's in that the unchanged part of the row keeps what the pass below the neuron made of it, which makes it valid for
any graph and tighter. One candidate costs one concretisation. The lines that were there remain valid in the child, so
no estimate is below the parent's bound.

A split changes the lines of every function that reads the value, and the planes of products whose factors it narrows
(`verifier.bounds.factors`): where a term's plane p a + q b + e becomes p' a + q' b + e', the row gains A (p' - p) a +
A (q' - q) b + A (e' - e), A its coefficient there. All of these changes are added up, each with the planes of its own
column.

The best few by two cheap scores are compared in this way.

Symbols: N domains, C candidates, m input dimensions.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from verifier.branching import NEURONS
from verifier.branching.babsr import babsr_score, gap_score
from verifier.branching.view import View, best, first_of, ranked

EACH = 24  # candidates from each score


@NEURONS.add("bbps")
def bbps(v: View, count: int) -> Tensor:
    """(N, count) columns, the one with the best estimate first."""
    return compared(v, v.shortcut, count)


def compared(v: View, estimate: Callable[[Tensor], Tensor], count: int) -> Tensor:
    """(N, count) columns: the candidates by their children's estimated bounds (N, C, 2), then others by gap."""
    scores = (babsr_score(v), gap_score(v))
    candidates = first_of(torch.cat([best(s, v.free, EACH) for s in scores], 1), 2 * EACH)
    return ranked(v, candidates, estimate(candidates), best(scores[1], v.free, count), count)
