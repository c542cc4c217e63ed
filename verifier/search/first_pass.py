"""One cheap pass before anything dear: every row over every region by intervals alone.

Many properties hold by margins that plain intervals show, and whatever bounds come later cost hundreds of times more.
So all regions' boxes go through the network once, by interval arithmetic, and the disjuncts that have a row which the
output's box proves positive are closed. What is left may be a small part of the property: the search gets a problem
without the closed disjuncts, and without the outputs that only these read.

Sound: interval bounds hold in real arithmetic (`verifier.bounds.interval`), sums over the output's box are charged in
float64 (`RowTable.from_box`), and `proves_positive` says what is a fact. Regions are rounded outward as everywhere.

Symbols: R regions, B of a block, K disjuncts, U distinct rows, m moving dimensions.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from verifier.bounds.interval import step_interval
from verifier.bounds.program import Program
from verifier.bounds.proved import proves_positive
from verifier.bounds.targets import RowTable
from verifier.ops.base import size
from verifier.problem import Problem
from verifier.search.bab import regions_of

BLOCK = 1 << 23  # numbers of a block of regions: of its largest value, of its rows' terms
MOST = 1 << 31  # numbers in all: entries of all values times regions; regions beyond are left to the search


@torch.no_grad()
def first_pass(problem: Problem, program: Program) -> Problem:
    """The problem with what intervals leave open; itself where that is everything. `program` must have bounds that hold
    in its precision.
    """
    if not problem.row.size:
        return problem
    lower, upper = regions_of(problem, program)
    rows = RowTable(problem.coef, torch.float64, program.device)
    row, const, strict, slot = (
        torch.from_numpy(t).to(program.device) for t in (problem.row, problem.const, problem.strict, problem.slot)
    )
    open = np.arange(int(problem.slots.max()))[None] < problem.slots[:, None]
    each = sum(size(s) for s in program.shapes) + 4 * len(rows.value) + 4 * len(rows)
    block = max(1, BLOCK // each)
    some = min(len(lower), max(1, MOST // each))
    for at in range(0, some, block):
        cut = slice(at, min(at + block, some))
        l, u = (t.double() for t in output_box(program, lower[cut], upper[cut]))
        lb = rows.from_box(l, u).gather(1, row[cut].clamp(min=0)) + const[cut]
        proved = (row[cut] >= 0) & proves_positive(lb, strict[cut])
        closed = torch.zeros((len(l), open.shape[1]), dtype=torch.uint8, device=program.device)
        closed.scatter_reduce_(1, slot[cut], proved.to(torch.uint8), "amax")
        open[cut] &= ~closed.bool().cpu().numpy()
    alive = open.sum(1)
    return problem if (alive == problem.slots).all() else problem.only(open)


def output_box(program: Program, l: Tensor, u: Tensor) -> tuple[Tensor, Tensor]:
    """The output's box (B, p) over boxes l, u (B, m) of the input."""
    boxes: list[tuple[Tensor, Tensor] | None] = [(l, u)] + [None] * (len(program.steps) - 1)
    for k in range(1, len(program.steps)):
        step = program.steps[k]
        boxes[k] = step_interval(step, [boxes[i] for i in step.inputs])[:2]
        for i in step.inputs:
            if program.last_use[i] == k:
                boxes[i] = None  # nobody reads it any more
    return boxes[program.output]
