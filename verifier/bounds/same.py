"""Entries of the output that are one number: rows over them are added up, so that what cancels is gone for good.

A property that compares an output with an input that it copies, or two copies of one value, has rows such as y_i - y_j
whose terms cancel at every input. Bounds computed with rounding leave a little of them, and the row is neither refuted
nor met; added up exactly, the row is its constant.

Entries are followed through steps that only pick, repeat or reorder (`Move` without constants): each entry of every
other step's result gets a number of its own, and a Move hands the numbers on as it would hand on values. Two entries
of the output with the same number are copies of one entry of one value.

Symbols: U rows, p entries of the output.
"""

from __future__ import annotations

from dataclasses import replace
from fractions import Fraction

import numpy as np
import torch

from verifier.bounds.program import Program
from verifier.ops.base import Move, size
from verifier.problem import Problem
from verifier.rowtables import Coefficients, scaled
from verifier.spec.contradict import MOST_WORK, contradict
from verifier.spec.query import segments

MOST = 1 << 24  # entries of all values, beyond which nobody asks


def same_entries(program: Program) -> np.ndarray:
    """For every entry of the output the first one (p,) int64 that is the same number at every input."""
    count = size(program.shapes[program.output])
    if sum(map(size, program.shapes)) > MOST:
        return np.arange(count)
    numbers, at = [], 0
    for k, shape in enumerate(program.shapes):
        step = program.steps[k]
        if step is not None and isinstance(step.op, Move) and step.op.offset() is None:
            numbers.append(step.op.forward(*(numbers[i] for i in step.inputs)))
            continue
        fresh = torch.arange(at, at + size(shape), dtype=torch.float64, device=program.device)
        numbers.append(fresh.reshape(1, *shape))
        at += size(shape)
    _, first, place = np.unique(
        numbers[program.output].reshape(-1).cpu().numpy(), return_index=True, return_inverse=True
    )
    return first[place.reshape(-1)].astype(np.int64)


def merged(problem: Problem, program: Program) -> Problem:
    """The problem with the coefficients of entries that are one number added up, exactly; itself where there are none
    or a sum is no float64.
    """
    first, coef = same_entries(program), problem.coef
    twice = first[coef.column] != coef.column
    if not twice.any():
        return problem
    affected = np.unique(segments(coef.start)[twice])
    rows, const = (
        [(coef.column[a:b], coef.value[a:b]) for a, b in zip(coef.start, coef.start[1:])],
        problem.const.copy(),
    )
    for u in affected.tolist():
        terms: dict[int, Fraction] = {}
        for j, c in zip(*(t.tolist() for t in rows[u])):
            terms[int(first[j])] = terms.get(int(first[j]), Fraction(0)) + Fraction(c)
        left = {j: c for j, c in sorted(terms.items()) if c}
        column, value = np.array(list(left), np.int64), np.array([float(c) for c in left.values()])
        if any(Fraction(v) != c for v, c in zip(value.tolist(), left.values())):
            return problem
        rows[u] = column, scaled(value, 0.0)[0]
        for r, s in zip(*np.nonzero(problem.row == u)):
            const[r, s] = scaled(value, problem.const[r, s])[1]
    start = np.cumsum([0, *(len(c) for c, _ in rows)]).astype(np.int64)
    column, value = (np.concatenate(t) for t in zip(*rows))
    return _consistent(replace(problem, coef=Coefficients(start, column, value, coef.width), const=const))


def _consistent(problem: Problem) -> Problem:
    """The problem without disjuncts whose rows contradict each other now that entries that are one number are one."""
    coef, work = problem.coef, 0
    open = np.arange(int(problem.slots.max(initial=0)))[None] < problem.slots[:, None]
    for r, k in zip(*(t.tolist() for t in np.nonzero(open))):
        mine = np.flatnonzero((problem.row[r] >= 0) & (problem.slot[r] == k))
        work += len(mine)
        if work > MOST_WORK:
            break
        rows = []
        for s in mine.tolist():
            at = slice(int(coef.start[problem.row[r, s]]), int(coef.start[problem.row[r, s] + 1]))
            terms = zip(coef.column[at].tolist(), map(Fraction, coef.value[at].tolist()))
            rows.append((dict(terms), Fraction(float(problem.const[r, s])), bool(problem.strict[r, s])))
        open[r, k] = not (np.isfinite(problem.const[r, mine]).all() and contradict(rows))
    return problem if (open.sum(1) == problem.slots).all() else problem.only(open)
