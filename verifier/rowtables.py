"""The rows of a problem: distinct rows of coefficients, sparse, and by region which of them ask for what.

A property may have a row for each of thousands of outputs: rows times outputs would be more numbers than memory holds,
while their coefficients are a few each. So rows are kept as their terms, and whoever computes with them makes blocks of
them dense.

Symbols: R regions, S most rows in a region, U distinct rows, T terms, p entries of the flat output.
"""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction

import numpy as np

from verifier.spec.query import Query, ragged


@dataclass(frozen=True)
class Coefficients:
    """Row u is the sum over its terms, start[u] to start[u + 1], of value * y[column]; columns of a row differ."""

    start: np.ndarray  # (U + 1,) int64
    column: np.ndarray  # (T,) int64
    value: np.ndarray  # (T,) float64
    width: int  # p

    def __len__(self) -> int:
        return len(self.start) - 1

    @property
    def shape(self) -> tuple[int, int]:
        return len(self), self.width

    def __getitem__(self, rows: int | np.ndarray | slice) -> np.ndarray:
        """Rows made dense: (p,) of one, (n, p) of several."""
        index = np.arange(len(self))[rows]
        some = self.take(np.atleast_1d(index))
        dense = np.zeros((len(some), self.width))
        dense[np.repeat(np.arange(len(some)), np.diff(some.start)), some.column] = some.value
        return dense[0] if np.ndim(index) == 0 else dense

    def take(self, rows: np.ndarray) -> Coefficients:
        """The rows (n,) of an index."""
        length = np.diff(self.start)[rows]
        terms = ragged(self.start[:-1][rows], length)
        start = np.concatenate([[0], np.cumsum(length)]).astype(np.int64)
        return Coefficients(start, self.column[terms], self.value[terms], self.width)

    @staticmethod
    def of(dense: np.ndarray) -> Coefficients:
        """From rows (U, p)."""
        owner, column = np.nonzero(dense)
        start = np.concatenate([[0], np.cumsum(np.bincount(owner, minlength=len(dense)))]).astype(np.int64)
        return Coefficients(start, column, dense[owner, column], dense.shape[1])


def distinct_rows(query: Query, names: np.ndarray, fixed: np.ndarray) -> tuple[Coefficients, np.ndarray, np.ndarray]:
    """Distinct rows over the flat outputs, which are the query's variables `names` (p,), and for each of the M rows its
    place among them and its constant.

    A fixed input that a row names goes into the row's constant with the property's own value, rounded down (which can
    only make a row harder to refute). A row over one variable is scaled to the coefficient 1 or -1: what is known of
    that variable is then known of the row, without any rounding. Every other row is scaled by the power of two that
    brings its largest coefficient near 1, so that no precision loses it.
    """
    place = np.full(query.n_inputs + query.n_outputs, -1)
    place[names] = np.arange(len(names))
    var, coefs, const = place[query.term_var].astype(np.int64), query.term_coef, query.const.copy()
    seen: dict[bytes, int] = {}
    row_of = np.empty(len(const), np.int64)
    firsts: list[tuple[np.ndarray, np.ndarray]] = []
    starts = query.term_start.tolist()
    for m, (a, b) in enumerate(zip(starts[:-1], starts[1:])):
        v, c = var[a:b], coefs[a:b]
        if (v < 0).any():
            const[m] = _fold(const[m], c[v < 0], fixed[query.term_var[a:b][v < 0]])
            v, c = v[v >= 0], c[v >= 0]
        c, const[m] = scaled(c, const[m])
        row_of[m] = seen.setdefault(v.tobytes() + c.tobytes(), len(seen))
        if row_of[m] == len(firsts):
            firsts.append((v, c))
    start = np.cumsum([0, *(len(v) for v, _ in firsts)]).astype(np.int64)
    column = np.concatenate([np.zeros(0, np.int64), *(v for v, _ in firsts)])
    value = np.concatenate([np.zeros(0), *(c for _, c in firsts)])
    return Coefficients(start, column, value, len(names)), row_of, const


def _fold(const: float, coef: np.ndarray, value: np.ndarray) -> float:
    """const + coef . value, rounded down to float64."""
    exact = Fraction(float(const)) + sum(Fraction(float(c)) * Fraction(float(x)) for c, x in zip(coef, value))
    return _rounded_down(exact)


def _rounded_down(exact: Fraction) -> float:
    """The largest float64 that is not above; -inf where all are."""
    try:
        near = float(exact)
    except OverflowError:
        return float(np.finfo(np.float64).max) if exact > 0 else -np.inf
    return near if Fraction(near) <= exact else float(np.nextafter(near, -np.inf))


def scaled(coef: np.ndarray, const: float) -> tuple[np.ndarray, float]:
    """Both divided by the only coefficient's size, or times the power of two that brings the largest coefficient into
    [1/2, 1); the constant is rounded down if that is not exact.
    """
    if len(coef) == 1 and abs(coef[0]) != 1.0:
        return np.sign(coef), _rounded_down(Fraction(float(const)) / abs(Fraction(float(coef[0]))))
    largest = np.abs(coef).max(initial=0.0)
    if largest == 0 or 2**-20 < largest < 2**20:
        return coef, const
    _, exponent = np.frexp(largest)
    with np.errstate(over="ignore"):
        scaled = np.ldexp(const, -exponent)
    exact = np.isfinite(scaled) and np.ldexp(scaled, exponent) == const
    return np.ldexp(coef, -exponent), float(scaled if exact else np.nextafter(scaled, -np.inf))


def tables(query: Query, regions: np.ndarray, row_of: np.ndarray, const_of: np.ndarray) -> tuple[np.ndarray, ...]:
    """Rows by region, padded to the longest: row, const, strict, slot (R, S), and the number of disjuncts (R,)."""
    place = np.full(len(query.lower), -1)
    place[regions] = np.arange(len(regions))
    region = place[query.disjunct_region]
    kept = np.flatnonzero(region >= 0)
    slots = np.bincount(region[kept], minlength=len(regions)).astype(np.int64)
    first = np.concatenate([[0], np.cumsum(slots)[:-1]]) if len(slots) else np.zeros(0, np.int64)
    order = kept[np.argsort(region[kept], kind="stable")]
    slot_of_disjunct = np.arange(len(order)) - first[region[order]] if len(order) else np.zeros(0, np.int64)
    count = np.diff(query.row_start)[order]
    owner = np.repeat(np.arange(len(order)), count)  # which entry of `order` each row belongs to
    rows = (
        np.concatenate([np.arange(query.row_start[k], query.row_start[k + 1]) for k in order]) if len(order) else owner
    )
    r = region[order][owner] if len(order) else owner
    per_region = np.bincount(r, minlength=len(regions)) if len(regions) else np.zeros(0, np.int64)
    column = (
        np.arange(len(rows)) - np.repeat(np.concatenate([[0], np.cumsum(per_region)[:-1]]), per_region)
        if len(rows)
        else rows
    )
    shape = (len(regions), int(per_region.max()) if len(per_region) else 0)
    row, const, strict, slot = (np.full(shape, v, t) for v, t in ((-1, np.int64), (0, float), (0, bool), (0, np.int64)))
    rows = rows.astype(np.int64)
    row[r, column], const[r, column], slot[r, column] = row_of[rows], const_of[rows], slot_of_disjunct[owner]
    strict[r, column] = query.strict[rows]
    return row, const, strict, slot, slots
