"""Disjuncts whose rows contradict each other, whatever the network computes: decided exactly, before any search.

A disjunct is a conjunction of rows sum(coef v) + const <= 0 (or < 0) over v = [x; y], with x in a box. By Farkas' lemma
such a system has no solution iff some combination with multipliers >= 0 is 0 + c <= 0 with c > 0, or 0 + c < 0 with
c >= 0. Fourier-Motzkin elimination finds it: of every pair of rows that bound a variable from above and from below it
keeps the combination in which the variable cancels, until no variable is left. All in rational numbers, so nothing is
rounded, and a contradiction is one.

Most rows can have no part in any: one with an output that no other row of the disjunct bounds from the other side
cannot cancel. They are left out first (for all disjuncts at once, until none is left to leave out), which ends most
properties here. Elimination may square the number of rows, so large systems are given up: nothing is said of them.

Symbols: K disjuncts, M rows, T terms, as in `verifier.spec.query`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from fractions import Fraction

import numpy as np

from verifier.spec.query import Query, segments

MOST_ROWS = 200  # of a system under elimination
MOST_WORK = 20_000  # rows that are looked at one by one, of all disjuncts together

System = dict[tuple[tuple[int, Fraction], ...], tuple[Fraction, bool]]  # by coefficients: constant, strict


def contradicting(query: Query) -> np.ndarray:
    """(K,) bool: disjuncts that no x and y satisfy, by their rows and their region's box alone."""
    found = np.zeros(query.n_disjuncts, dtype=bool)
    if not query.n_rows:
        return found
    owner = segments(query.row_start)
    alive = _may_cancel(query, owner)
    work = 0
    for k in np.unique(owner[alive]).tolist():
        rows = [m for m in range(int(query.row_start[k]), int(query.row_start[k + 1])) if alive[m]]
        work += len(rows)
        if work > MOST_WORK:
            break
        found[k] = len(rows) <= MOST_ROWS and _infeasible(_system(query, k, rows))
    return found


def contradict(rows: Iterable[tuple[Mapping[int, Fraction], Fraction, bool]]) -> bool:
    """Whether no values satisfy all rows (coefficients, constant, strict), as far as elimination gets."""
    system: System = {}
    for coefs, const, strict in rows:
        _add(system, coefs, const, strict)
    return len(system) <= MOST_ROWS and _infeasible(system)


def _may_cancel(query: Query, owner: np.ndarray) -> np.ndarray:
    """(M,) bool: rows of which every output is bounded from both sides by such rows of their disjunct `owner` (M,)."""
    row = segments(query.term_start)
    output = query.term_var >= query.n_inputs
    row, var, up = row[output], query.term_var[output], query.term_coef[output] > 0
    names, place = np.unique(owner[row] * (query.n_inputs + query.n_outputs) + var, return_inverse=True)
    alive = np.ones(query.n_rows, dtype=bool)
    while len(row):
        both = np.bincount(place[up], minlength=len(names)) * np.bincount(place[~up], minlength=len(names)) > 0
        alone = ~both[place]
        if not alone.any():
            break
        alive[row[alone]] = False
        left = alive[row]
        row, up, place = row[left], up[left], place[left]
    return alive


def _system(query: Query, k: int, rows: Iterable[int]) -> System:
    """Rows of disjunct k, and what its box says of the inputs that they name."""
    found: System = {}
    inputs: set[int] = set()
    for m in rows:
        terms = slice(int(query.term_start[m]), int(query.term_start[m + 1]))
        coefs: dict[int, Fraction] = {}
        for v, c in zip(query.term_var[terms].tolist(), query.term_coef[terms].tolist()):
            coefs[v] = coefs.get(v, Fraction(0)) + Fraction(c)
        _add(found, coefs, Fraction(float(query.const[m])), bool(query.strict[m]))
        inputs.update(v for v in coefs if v < query.n_inputs)
    region = int(query.disjunct_region[k])
    for i in inputs:
        for sign, end in ((1, query.upper[region, i]), (-1, query.lower[region, i])):
            if np.isfinite(end):
                _add(found, {i: Fraction(sign)}, -sign * Fraction(float(end)), False)
    return found


def _add(system: System, coefs: Mapping[int, Fraction], const: Fraction, strict: bool) -> None:
    """Adds a row, scaled so that its first coefficient is 1 or -1; of rows with the same coefficients the tightest."""
    terms = sorted((v, c) for v, c in coefs.items() if c)
    scale = abs(terms[0][1]) if terms else Fraction(1)
    key = tuple((v, c / scale) for v, c in terms)
    new = (const / scale, strict)
    system[key] = max(system.get(key, new), new)  # a larger constant is tighter, a strict row too


def _infeasible(system: System) -> bool:
    """Whether no point satisfies all rows, as far as elimination gets."""
    while True:
        const, strict = system.pop((), (Fraction(-1), False))
        if const > 0 or (const == 0 and strict):
            return True
        sides: dict[int, list[int]] = {}
        for key in system:
            for v, c in key:
                sides.setdefault(v, [0, 0])[c > 0] += 1
        if not sides:
            return False
        var = min(sides, key=lambda v: sides[v][0] * sides[v][1])
        if len(system) + sides[var][0] * sides[var][1] > MOST_ROWS:
            return False
        system = _without(system, var)


def _without(system: System, var: int) -> System:
    """The rows that eliminating a variable leaves."""
    above, below, rest = [], [], {}
    for key, value in system.items():
        c = dict(key).get(var)
        if c is None:
            rest[key] = value
        else:
            (above if c > 0 else below).append((dict(key), *value))
    for a, a_const, a_strict in above:
        for b, b_const, b_strict in below:
            s, t = -b[var], a[var]
            coefs = {v: s * a.get(v, Fraction(0)) + t * b.get(v, Fraction(0)) for v in {*a, *b} - {var}}
            _add(rest, coefs, s * a_const + t * b_const, a_strict or b_strict)
    return rest
