"""Branching by an estimate that looks no further than the affine step before a neuron, as BaBSR does.

The baseline that Shi et al. compare their shortcuts with ("Neural Network Verification with Branch-and-Bound for
General Nonlinearities", arXiv 2405.21063), which is BaBSR (arXiv 1909.06588) for any function. A split changes one
neuron's lines, from s z + b to s' z + b' on the side that its coefficient a asks for. Of z = W x + k nothing is known
here but k, so the bound is taken to change by

    a (s' - s) k  +  a (b' - b),

added up over all functions that read z and all products that it goes into, whose planes change alike. It bounds
nothing. `verifier.branching.bbps` puts the planes of z in place of k; candidates and merit are the same here, so that
the two differ by that alone.

Symbols: N domains, C candidates.
"""

from __future__ import annotations

from torch import Tensor

from verifier.branching import NEURONS
from verifier.branching.bbps import compared
from verifier.branching.view import View


@NEURONS.add("local")
def local(v: View, count: int) -> Tensor:
    """(N, count) columns, the one with the best estimate first."""
    return compared(v, v.local, count)
