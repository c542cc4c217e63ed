"""The normal form of a property: disjuncts of linear rows over boxes, as flat arrays.

A property states the *negation* of what is to be verified: it is satisfiable when some input x and its output y = f(x)
fulfil it. In normal form that is: for some disjunct k, x lies in the box of k's region and every row of k holds.
Symbols:

    n_inputs, n_outputs     sizes of x and y; v = [x; y] is their concatenation
    R regions               boxes `lower`, `upper` (R, n_inputs); identical boxes are one region
    K disjuncts             `disjunct_region` (K,), nondecreasing; rows of k are row_start[k]:row_start[k + 1]
    M rows                  sum(term_coef * v[term_var]) + const <= 0 (< where strict[m]) over the terms
                            term_start[m]:term_start[m + 1]

Numbers are float64 as read. K == 0 says that no point satisfies the property. Membership (`holds`) is decided exactly:
floating point only sorts out the clear cases, with a bound on its own rounding error, and rational arithmetic decides
the rest.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from fractions import Fraction
from typing import Any

import numpy as np

EPS = float(np.finfo(np.float64).eps)
TINY = float(np.finfo(np.float64).tiny)


def ragged(start: np.ndarray, length: np.ndarray) -> np.ndarray:
    """Indices of the segments start[i]:start[i] + length[i] in turn; both (N,) int64, result (sum of length,)."""
    shift = start - (np.cumsum(length) - length)
    return np.arange(int(length.sum()), dtype=np.int64) + np.repeat(shift, length)


def segments(start: np.ndarray) -> np.ndarray:
    """Number of the segment that each element of a CSR array belongs to; start (N + 1,) -> (start[-1],) int64."""
    return np.repeat(np.arange(len(start) - 1, dtype=np.int64), np.diff(start))


@dataclass(frozen=True, eq=False)
class Query:
    """A property in normal form (arrays: see the top of this file). `source` is the path it was read from."""

    source: str
    n_inputs: int
    n_outputs: int
    lower: np.ndarray  # (R, n_inputs) float64, -inf where there is no bound
    upper: np.ndarray  # (R, n_inputs) float64, inf where there is no bound
    disjunct_region: np.ndarray  # (K,) int64
    row_start: np.ndarray  # (K + 1,) int64
    term_start: np.ndarray  # (M + 1,) int64
    term_var: np.ndarray  # (T,) int64, ascending within a row
    term_coef: np.ndarray  # (T,) float64, never zero
    const: np.ndarray  # (M,) float64
    strict: np.ndarray  # (M,) bool
    line: np.ndarray  # (M,) int64, the source line of the comparison
    text: bytes = b""  # the property as it was read, for the judge (`verifier.spec.evaluate`)

    def __post_init__(self) -> None:
        for value in vars(self).values():
            if isinstance(value, np.ndarray):
                value.flags.writeable = False

    @property
    def n_regions(self) -> int:
        return len(self.lower)

    @property
    def n_disjuncts(self) -> int:
        return len(self.disjunct_region)

    @property
    def n_rows(self) -> int:
        return len(self.const)

    @property
    def empty(self) -> np.ndarray:
        """(R,) bool: the regions whose box holds no point."""
        return (self.lower > self.upper).any(axis=1)

    def only(self, disjuncts: np.ndarray) -> Query:
        """The query with those disjuncts (K,) bool alone; regions keep their numbers."""
        count = np.diff(self.row_start)[disjuncts]
        rows = ragged(self.row_start[:-1][disjuncts], count)
        length = np.diff(self.term_start)[rows]
        terms = ragged(self.term_start[:-1][rows], length)
        return replace(
            self,
            disjunct_region=self.disjunct_region[disjuncts],
            row_start=np.concatenate([[0], np.cumsum(count)]).astype(np.int64),
            term_start=np.concatenate([[0], np.cumsum(length)]).astype(np.int64),
            term_var=self.term_var[terms],
            term_coef=self.term_coef[terms],
            const=self.const[rows],
            strict=self.strict[rows],
            line=self.line[rows],
        )

    def unbounded(self) -> list[str]:
        """Names of the inputs that lack a lower or an upper bound in some region that is not empty."""
        finite = np.isfinite(self.lower) & np.isfinite(self.upper)
        return [f"X_{i}" for i in np.flatnonzero((~finite & ~self.empty[:, None]).any(axis=0))]

    def _point(self, x: Any, y: Any) -> tuple[np.ndarray, np.ndarray]:
        """x and y as flat float64 vectors (x, [x; y]); ValueError where their sizes do not fit."""
        x = np.asarray(x, dtype=np.float64).ravel()
        y = np.asarray(y, dtype=np.float64).ravel()
        if len(x) != self.n_inputs or len(y) != self.n_outputs:
            needed = f"{self.n_inputs} inputs and {self.n_outputs} outputs"
            raise ValueError(f"expected a point of {needed}, found {len(x)} and {len(y)}")
        return x, np.concatenate([x, y])

    def _slack(self, v: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Left sides of all rows at v (M,) in floating point; a bound on their rounding error (M,), 0 for exact signs.

        Error analysis: a row of t terms takes t products and t sums, so the relative error against the sum of
        magnitudes is below 2 (t + 1) eps; TINY covers products that underflow. The sum of just two floats has the right
        sign under IEEE 754 rounding. Where something overflows the error is inf, and only exact arithmetic can tell.
        A row that touches a value which is not finite counts as violated (inf).
        """
        if not self.n_rows:
            return np.zeros(0), np.zeros(0)
        finite = np.isfinite(v[self.term_var])
        with np.errstate(all="ignore"):
            product = self.term_coef * np.where(finite, v[self.term_var], 0.0)
            starts = self.term_start[:-1]
            slack = np.add.reduceat(product, starts) + self.const
            terms = np.diff(self.term_start)
            size = np.add.reduceat(np.abs(product), starts) + np.abs(self.const)
            error = 2.0 * (terms + 1) * (EPS * size + TINY)
        unit = np.logical_and.reduceat(np.abs(self.term_coef) == 1.0, starts)
        error[unit & (terms + (self.const != 0.0) <= 2)] = 0.0
        overflow = ~(np.isfinite(slack) & np.isfinite(error))
        slack[overflow], error[overflow] = 0.0, np.inf
        absent = ~np.logical_and.reduceat(finite, starts)
        slack[absent], error[absent] = np.inf, 0.0
        return slack, error

    def _exact(self, m: int, v: np.ndarray) -> bool:
        """Row m at v in rational arithmetic."""
        terms = slice(int(self.term_start[m]), int(self.term_start[m + 1]))
        total = Fraction(float(self.const[m]))
        for var, coef in zip(self.term_var[terms].tolist(), self.term_coef[terms].tolist()):
            total += Fraction(coef) * Fraction(float(v[var]))
        return total < 0 if self.strict[m] else total <= 0

    def holds(self, x: Any, y: Any) -> int:
        """Index of the first disjunct that the point x (n_inputs,), y (n_outputs,) satisfies with no tolerance, or -1.

        Raises ValueError where the sizes do not fit. A value that is not finite satisfies nothing that mentions it.
        """
        x, v = self._point(x, y)
        inside = ((self.lower <= x) & (x <= self.upper)).all(axis=1) & bool(np.isfinite(x).all())
        possible = inside[self.disjunct_region]
        if not possible.any():
            return -1
        slack, error = self._slack(v)
        owner = segments(self.row_start)
        with np.errstate(invalid="ignore"):
            false = (slack > error) | (self.strict & (error == 0.0) & (slack >= 0.0))
        possible[owner[false]] = False
        unclear = ~false & (error > 0.0) & (slack >= -error)
        doubtful = np.zeros(self.n_disjuncts, dtype=bool)
        doubtful[owner[unclear]] = True
        for k in np.flatnonzero(possible).tolist():
            if not doubtful[k]:
                return k
            rows = range(int(self.row_start[k]), int(self.row_start[k + 1]))
            if all(self._exact(m, v) for m in rows if unclear[m]):
                return k
        return -1

    def violation(self, x: Any, y: Any) -> float:
        """How far the point is from satisfying the property: least over disjuncts of the largest excess in it.

        Above zero: not satisfied; zero or below: satisfied up to rounding (`holds` decides). inf without disjuncts.
        """
        x, v = self._point(x, y)
        if not self.n_disjuncts:
            return float("inf")
        slack, _ = self._slack(v)
        slack = np.where(self.strict & (slack == 0.0), TINY, slack)
        with np.errstate(invalid="ignore"):  # x may hold NaN
            outside = np.maximum(self.lower - x, x - self.upper).max(axis=1)
            worst = outside[self.disjunct_region]
            np.maximum.at(worst, segments(self.row_start), slack)
        return float(np.nan_to_num(worst, nan=np.inf, posinf=np.inf, neginf=-np.inf).min())

    def describe(self) -> dict[str, int]:
        """The facts that a plan is made of, as whole numbers by name."""
        rows = np.diff(self.row_start)
        is_input = self.term_var < self.n_inputs
        starts = self.term_start[:-1]
        some_x = np.logical_or.reduceat(is_input, starts) if self.n_rows else np.zeros(0, dtype=bool)
        some_y = np.logical_or.reduceat(~is_input, starts) if self.n_rows else np.zeros(0, dtype=bool)
        alive = ~self.empty
        return {
            "inputs": self.n_inputs,
            "outputs": self.n_outputs,
            "regions": self.n_regions,
            "empty_regions": int((~alive).sum()),
            "disjuncts": self.n_disjuncts,
            "rows": self.n_rows,
            "rows_min": int(rows.min()) if len(rows) else 0,
            "rows_max": int(rows.max()) if len(rows) else 0,
            "moving_inputs": int((self.lower < self.upper)[alive].any(axis=0).sum()),
            "unbounded_inputs": len(self.unbounded()),
            "output_rows": int((some_y & ~some_x).sum()),
            "mixed_rows": int((some_x & some_y).sum()),
            "input_rows": int((some_x & ~some_y).sum()),
            "strict_rows": int(self.strict.sum()),
        }
