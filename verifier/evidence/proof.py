"""Whether a property is proved not to hold at one point over the reals: bounds on the box of that point alone.

For those who ask what the network is and not what a runtime makes of it (`Reading.proof_wins`): a witness that only
the runtime's rounding makes is none. Sound because bounds on the box [t, t], with every rounding charged, enclose the
network's real outputs at t; a point counts as disproved only if in every region that holds it each disjunct has a row
that is proved positive.

Symbols: n inputs, m dimensions that move, R regions.
"""

from __future__ import annotations

import numpy as np
import torch

from verifier.bounds import METHODS
from verifier.bounds.chunks import bound_rows, limits
from verifier.bounds.program import Program
from verifier.bounds.targets import Targets
from verifier.problem import Problem


class PointProof:
    """`proof(x)` says whether x (n,) float64 is disproved; what that needs is made on first use."""

    def __init__(self, problem: Problem):
        self.problem = problem
        self._made: tuple[Program, Targets] | None = None

    @torch.no_grad()
    def __call__(self, x: np.ndarray) -> bool:
        p = self.problem
        t = x[p.moving]
        inside = np.flatnonzero(((p.lower <= t) & (t <= p.upper)).all(1))
        if self._made is None:
            METHODS.load()
            self._made = Program(p.network, torch.float64, "cpu"), Targets(p, torch.float64, "cpu")
        program, targets = self._made
        if not len(inside) or program.without_bounds():
            return False
        region = torch.from_numpy(inside)
        box = torch.from_numpy(np.repeat(t[None], len(inside), axis=0))
        open = targets.start(region)
        picked = targets.pick(region, open)
        limit = limits(torch.device("cpu"), 0.0)
        bounds = bound_rows(program, box, box, targets.coef, picked.row, "crown", limit)
        return not bool((open & ~targets.refuted(picked, bounds.lb + picked.const)).any())
