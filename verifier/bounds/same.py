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
from verifier.problem import Problem, scaled

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
    first = same_entries(program)
    twice = np.flatnonzero(first != np.arange(len(first)))
    twice = twice[(problem.coef[:, twice] != 0).any(0)] if len(problem.coef) else twice[:0]
    if not len(twice):
        return problem
    coef, const = problem.coef.copy(), problem.const.copy()
    for u in np.flatnonzero((coef[:, twice] != 0).any(1)).tolist():
        terms: dict[int, Fraction] = {}
        for j in np.flatnonzero(coef[u]).tolist():
            terms[int(first[j])] = terms.get(int(first[j]), Fraction(0)) + Fraction(float(coef[u, j]))
        row = np.zeros_like(coef[u])
        for j, c in terms.items():
            row[j] = float(c)
            if Fraction(float(row[j])) != c:
                return problem
        used = np.flatnonzero(row)
        coef[u] = row
        for r, s in zip(*np.nonzero(problem.row == u)):
            coef[u, used], const[r, s] = scaled(row[used], problem.const[r, s])
    return replace(problem, coef=coef, const=const)
