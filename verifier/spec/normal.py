"""From atoms and choices to the normal form: the last step, shared by both readers.

A reader delivers `Parts`: the atoms (comparisons) of a file in source order, the atoms that every disjunct has in
common, and *choices*, each a disjunction of conjunctions of atoms. The property is the common atoms and one alternative
of every choice; its disjuncts are the product of the choices, the last one running fastest. Atoms that bound a single
input are intersected into boxes at once, so that only the sizes which the result really has are ever built; sizes are
known beforehand, and what is too large is refused before memory goes. Sound because a conjunction of bounds on one
variable is exactly their intersection, and nothing else is merged or dropped.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from verifier.result import PropertyError
from verifier.spec.query import Query, ragged

MAX_DISJUNCTS = 2_000_000  # of the whole property
MAX_ENTRIES = 50_000_000  # atoms counted once for every disjunct they stand in
MAX_BOX_NUMBERS = 40_000_000  # regions times inputs

Choice = tuple[np.ndarray, np.ndarray]  # start (K + 1,), atoms (T,): alternative k is atoms[start[k]:start[k + 1]]


@dataclass(frozen=True, eq=False)
class Atoms:
    """A comparisons in source order: each a bound (bound_var >= 0), a row (row >= 0), or both where a box cannot."""

    bound_var: np.ndarray  # (A,) int: the input it bounds, or -1
    bound_upper: np.ndarray  # (A,) bool: from above
    bound: np.ndarray  # (A,) float64
    row: np.ndarray  # (A,) int: number of its row, or -1; ascending with the atom's number
    term_start: np.ndarray  # (M + 1,) int64
    term_var: np.ndarray  # (T,) int64
    term_coef: np.ndarray  # (T,) float64
    const: np.ndarray  # (M,) float64
    strict: np.ndarray  # (M,) bool
    line: np.ndarray  # (M,) int64


@dataclass(frozen=True, eq=False)
class Parts:
    """What a reader found: sizes, atoms, the atoms of every disjunct (C,), and the choices."""

    n_inputs: int
    n_outputs: int
    atoms: Atoms
    common: np.ndarray
    choices: Sequence[Choice]


def too_large(what: str, limit: int, where: str) -> PropertyError:
    """The error for a property whose normal form is above a limit."""
    return PropertyError(
        f"expected a property whose disjunctive form has at most {limit:,} {what}, found more: "
        "split it into several properties, or state what all disjuncts share in asserts of its own",
        where,
    )


def assemble(parts: Parts, source: str) -> Query:
    """Normal form of what a reader found. Raises PropertyError where it would be too large."""
    start, ids = product(parts.choices, source)
    disjunct = np.repeat(np.arange(len(start) - 1, dtype=np.int64), np.diff(start))
    lower, upper, region = _regions(parts, disjunct, ids, len(start) - 1, source)
    order = np.argsort(region, kind="stable")
    rank = np.empty_like(order)
    rank[order] = np.arange(len(order))
    row_start, rows = _rows(parts, rank, disjunct, ids, source)
    atoms = parts.atoms
    length = np.diff(atoms.term_start)[rows]
    terms = ragged(atoms.term_start[:-1][rows], length)
    return Query(
        source=source,
        n_inputs=parts.n_inputs,
        n_outputs=parts.n_outputs,
        lower=lower,
        upper=upper,
        disjunct_region=region[order],
        row_start=row_start,
        term_start=np.concatenate([[0], np.cumsum(length)]).astype(np.int64),
        term_var=atoms.term_var[terms],
        term_coef=atoms.term_coef[terms],
        const=atoms.const[rows],
        strict=atoms.strict[rows],
        line=atoms.line[rows],
    )


def product(choices: Sequence[Choice], source: str = "") -> Choice:
    """All ways to take one alternative of each choice, the last running fastest. PropertyError above the limits."""
    count, entries = 1, 0
    for start, ids in choices:
        count, entries = count * (len(start) - 1), entries * (len(start) - 1) + count * len(ids)
        if count == 0:
            return np.zeros(1, dtype=np.int64), np.zeros(0, dtype=np.int64)
    if count > MAX_DISJUNCTS:
        raise too_large("disjuncts", MAX_DISJUNCTS, source)
    if entries > MAX_ENTRIES:
        raise too_large("comparisons in all disjuncts together", MAX_ENTRIES, source)
    if not choices:
        return np.zeros(2, dtype=np.int64), np.zeros(0, dtype=np.int64)
    start, ids = choices[0]
    for other, more in choices[1:]:
        first, second = len(start) - 1, len(other) - 1
        begin = np.stack([np.repeat(start[:-1], second), np.tile(other[:-1] + len(ids), first)], axis=1)
        length = np.stack([np.repeat(np.diff(start), second), np.tile(np.diff(other), first)], axis=1)
        ids = np.concatenate([ids, more])[ragged(begin.ravel(), length.ravel())]
        start = np.concatenate([[0], np.cumsum(length.sum(axis=1))])
    return start, ids


def _tighten(box: np.ndarray, atoms: Atoms, ids: np.ndarray, place: np.ndarray, n: int) -> None:
    """Intersects boxes `box` (k, 2 n: lower | upper) with the bounds of atoms `ids` (N,), atom i in box place[i]."""
    flat, var, up = box.reshape(-1), atoms.bound_var[ids], atoms.bound_upper[ids]
    index = place * (2 * n) + var
    np.maximum.at(flat, index[~up], atoms.bound[ids[~up]])
    np.minimum.at(flat, index[up] + n, atoms.bound[ids[up]])


def _regions(
    parts: Parts, disjunct: np.ndarray, ids: np.ndarray, count: int, source: str
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Boxes lower, upper (R, n) in order of first appearance, and the region of each disjunct (count,)."""
    n, atoms = parts.n_inputs, parts.atoms
    base = np.concatenate([np.full(n, -np.inf), np.full(n, np.inf)])[None]
    common = parts.common[atoms.bound_var[parts.common] >= 0]
    _tighten(base, atoms, common, np.zeros(len(common), dtype=np.int64), n)
    base += 0.0  # -0.0 and 0.0 are one number, but not the same bytes
    found = {base.tobytes(): 0}  # bytes of a box -> its number
    region = np.zeros(count, dtype=np.int64)
    bounded = atoms.bound_var[ids] >= 0
    ids, disjunct = ids[bounded], disjunct[bounded]
    own, first = np.unique(disjunct, return_index=True)  # the disjuncts with bounds of their own, and where those begin
    first = np.append(first, len(ids))
    step = max(1, 1_000_000 // n)
    for at in range(0, len(own), step):
        some = own[at : at + step]
        span = slice(int(first[at]), int(first[at + len(some)]))
        box = np.repeat(base, len(some), axis=0)
        _tighten(box, atoms, ids[span], np.searchsorted(some, disjunct[span]), n)
        box += 0.0
        keys = box.view(f"V{box.itemsize * 2 * n}").ravel().tolist()
        region[some] = [found.setdefault(bytes(key), len(found)) for key in keys]
        if len(found) * n > MAX_BOX_NUMBERS:
            raise too_large("bounds (regions times inputs)", MAX_BOX_NUMBERS, source)
    used, seen, region = np.unique(region, return_index=True, return_inverse=True)
    order = np.argsort(seen, kind="stable")
    rank = np.empty_like(order)
    rank[order] = np.arange(len(order))
    boxes = np.frombuffer(b"".join(found), dtype=np.float64).reshape(-1, 2 * n)
    del found
    return boxes[used[order], :n], boxes[used[order], n:], rank[region.reshape(-1)]


def _rows(
    parts: Parts, rank: np.ndarray, disjunct: np.ndarray, ids: np.ndarray, source: str
) -> tuple[np.ndarray, np.ndarray]:
    """(row_start, rows): row numbers of all disjuncts, these in the order of `rank` (K,), by source within each."""
    count = len(rank)
    row = parts.atoms.row[ids]
    own, place = row[row >= 0].astype(np.int64), disjunct[row >= 0]
    shared = parts.atoms.row[parts.common]
    shared = shared[shared >= 0].astype(np.int64)
    if count * len(shared) + len(own) > MAX_ENTRIES:
        raise too_large("rows in all disjuncts together", MAX_ENTRIES, source)
    rows = np.concatenate([np.tile(shared, count), own])
    place = rank[np.concatenate([np.repeat(np.arange(count, dtype=np.int64), len(shared)), place])]
    rows = rows[np.lexsort((rows, place))]
    sizes = np.bincount(place, minlength=count)
    return np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64), rows
