"""The one judge of whether a point satisfies a property, from the property's own text.

Independent of the readers and of the normal form: the text is cut into words (`written`), the assertions are walked as
they are written, so that a mistake in reading, in the disjunctive form or in the search cannot confirm itself. Replay,
`verify check` and the gate before every verdict ask this judge, and nothing else.

Two *readings* of a comparison:

* decimals: every number of the text and of the point is the float64 nearest to it, and sums, products and comparisons
  of these are exact (floating point sorts out the clear cases with a bound on its own rounding, rationals the rest);
* element types: inputs are what the model receives, outputs what it returns, constants take the type of what they stand
  beside, and everything is computed in these types from left to right, as numpy does it. Competitions judge so.

`Reading` says which of them a witness needs, and whether a proof outweighs a witness. Under either a value that is not
finite satisfies nothing that mentions it.

Symbols: N points; n inputs, p outputs; x (N, n), y (N, p).
"""

from __future__ import annotations

import operator
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import reduce
from typing import Any

import numpy as np

from verifier.spec.written import COMPARISONS, CONSTANT, PLAIN, Atoms, Formula, Term, comparisons, parsed, shown

EPS = float(np.finfo(np.float64).eps)
TINY = float(np.finfo(np.float64).tiny)
CHUNK = 1 << 24  # comparisons at points that are looked at in one piece
OPERATIONS = {b"+": operator.add, b"-": operator.sub, b"*": operator.mul, b"/": operator.truediv}

Types = Sequence[tuple[int, np.dtype]]  # how many entries of which type, inputs first, in order


@dataclass(frozen=True)
class Reading:
    """What a witness needs, and whether a proof over the reals outweighs it."""

    decimals: bool
    element: bool
    proof_wins: bool

    @classmethod
    def of(cls, word: str) -> Reading:
        """By the setting `spec.reading`, for a property in VNN-LIB 1.0, whose variables have no types."""
        return cls(decimals=word != "float", element=word == "float", proof_wins=word == "real")


class Judge:
    """Judges points of one property; the text is cut into words when the first point comes."""

    def __init__(self, text: bytes, n_inputs: int, n_outputs: int):
        """`text` is a VNN-LIB 1.0 property that the readers have accepted."""
        self.text, self.n_inputs, self.n_outputs = text, n_inputs, n_outputs
        self._read: tuple[Atoms, list[tuple[int, Formula | Atoms]]] | None = None

    @property
    def comparisons(self) -> int:
        """How many comparisons judging one point takes at most: its cost."""
        return comparisons(self.text)

    def holds(self, x: np.ndarray, y: np.ndarray, reading: Reading, types: Types) -> np.ndarray:
        """(N,) bool: which of the points x (N, n), y (N, p) float64 satisfy the property as the reading asks.

        `types` are those of the model's inputs and outputs; x are the points as printed.
        """
        if x.shape != (len(x), self.n_inputs) or y.shape != (len(x), self.n_outputs):
            raise ValueError(f"expected points of {self.n_inputs} inputs and {self.n_outputs} outputs")
        v = np.concatenate([x, y], 1)
        good = np.ones(len(v), bool)
        if reading.decimals:
            good &= self._all(_Decimals(v, self.n_inputs), good)
        if reading.element:
            good &= self._all(_Elements(v, self.n_inputs, types), good)
        return good

    def wrong(self, x: np.ndarray, y: np.ndarray) -> str:
        """What x (n,), y (p,) violate most in the first assertion that does not hold of the decimals; '' if none."""
        values = _Decimals(np.concatenate([x, y])[None], self.n_inputs)
        bounds, formulas = self._parsed()
        one = np.ones(1, bool)
        if not values.satisfy(bounds)[0]:
            i = next(i for i in range(len(bounds.left)) if not values.compare(*bounds.formula(i), one)[0])
            formula = bounds.formula(i)
            return f"{shown(formula)} does not hold: {values.excess(formula):g} too much"
        for line, formula in formulas:
            if isinstance(formula, Atoms):
                if values.satisfy(formula)[0]:
                    continue
                formula = formula.whole()
            if not self._formula(values, formula, one)[0]:
                return f"line {line}: {shown(formula)} does not hold: {values.excess(formula):g} too much"
        return ""

    def _all(self, values: _Decimals, among: np.ndarray) -> np.ndarray:
        """(N,) bool: those of the points `among` that satisfy every assertion."""
        bounds, formulas = self._parsed()
        good = among & values.satisfy(bounds)
        for _, formula in formulas:
            if not good.any():
                break
            plain = isinstance(formula, Atoms)
            good = good & values.satisfy(formula) if plain else self._formula(values, formula, good)
        return good

    def _formula(self, values: _Decimals, formula: Formula, among: np.ndarray) -> np.ndarray:
        """(N,) bool: those of `among` that satisfy a formula."""
        word, *parts = formula
        if word == b"and":
            for part in parts:
                if not among.any():
                    break
                among = self._formula(values, part, among)
            return among
        if word == b"or":
            found = np.zeros_like(among)
            for part in parts:
                rest = among & ~found
                if not rest.any():
                    break
                found |= self._formula(values, part, rest)
            return found
        for left, right in zip(parts, parts[1:]):
            among = among & values.compare(word, left, right, among)
        return among

    def _parsed(self) -> tuple[Atoms, list[tuple[int, Formula | Atoms]]]:
        if self._read is None:
            self._read = parsed(self.text)
        return self._read


class _Decimals:
    """Points v (N, n + p) in float64, compared exactly."""

    def __init__(self, v: np.ndarray, n_inputs: int):
        self.v, self.n_inputs = v, n_inputs
        self.finite = np.isfinite(v)

    def at(self, reference: Any) -> Any:
        """Column(s) of v for one reference or an array of them: X_i is i, Y_j is ~j."""
        return np.where(np.asarray(reference) >= 0, reference, self.n_inputs + ~np.asarray(reference))

    def satisfy(self, atoms: Atoms) -> np.ndarray:
        """(N,) bool: the points that satisfy one of the conjunctions; plain numbers compare exactly as they are."""
        if not len(atoms.left):
            return np.ones(len(self.v), bool)
        left, right = self.at(atoms.left), self.at(np.where(atoms.right == CONSTANT, atoms.left, atoms.right))
        constant, number = atoms.right == CONSTANT, self.beside(atoms.number, left)
        good = np.zeros(len(self.v), bool)
        step = max(1, CHUNK // len(left))
        for at in range(0, len(self.v), step):
            v, finite = self.v[at : at + step], self.finite[at : at + step]
            a, b, holds = v[:, left], np.where(constant, number, v[:, right]), finite[:, left] & finite[:, right]
            for k, word in enumerate(PLAIN):
                mine = np.flatnonzero(atoms.word == k)
                holds[:, mine] &= COMPARISONS[word](a[:, mine], b[:, mine])
            good[at : at + step] = np.logical_and.reduceat(holds, atoms.start[:-1], axis=1).any(1)
        return good

    def beside(self, number: np.ndarray, column: np.ndarray) -> np.ndarray:
        """Numbers (A,) as they are compared with columns (A,)."""
        return number

    def compare(self, word: bytes, left: Term, right: Term, among: np.ndarray) -> np.ndarray:
        """(N,) bool: where the comparison holds; nothing is promised outside `among`."""
        among = among & self._known(left) & self._known(right)
        with np.errstate(all="ignore"):
            (a, size_a, count_a), (b, size_b, count_b) = self._sized(left), self._sized(right)
            result = among & COMPARISONS[word](a, b)  # exact for two plain numbers
            if count_a + count_b:
                error = 4.0 * (count_a + count_b + 1) * (EPS * (size_a + size_b) + TINY)
                unclear = among & ~((np.abs(a - b) > error) & np.isfinite(error))
                for i in np.flatnonzero(unclear).tolist():
                    result[i] = COMPARISONS[word](self._exact(left, i), self._exact(right, i))
        return result

    def _known(self, term: Term) -> np.ndarray:
        """(N,) bool: where all variables in a term are finite."""
        if isinstance(term, list):
            return np.logical_and.reduce([self._known(t) for t in term[1:]])
        return self.finite[:, self.at(term)] if isinstance(term, int) else np.ones(len(self.v), bool)

    def _sized(self, term: Term) -> tuple[np.ndarray, np.ndarray, int]:
        """Value (N,), the sum of magnitudes (N,) that it was computed from, and how many operations that took."""
        if not isinstance(term, list):
            value = self.v[:, self.at(term)] if isinstance(term, int) else np.full(len(self.v), term)
            return value, np.abs(value), 0
        word, parts = term[0], [self._sized(t) for t in term[1:]]
        value = folded(word, [v for v, _, _ in parts])
        sizes = [s for _, s, _ in parts]
        size = folded(b"*", sizes) if word == b"*" else np.sum(sizes, axis=0)
        if word == b"/":
            size = np.full_like(size, np.inf)  # rationals decide
        return value, size, sum(c for _, _, c in parts) + len(parts) - 1

    def _exact(self, term: Term, i: int) -> Fraction:
        """A term at point i in rational arithmetic."""
        if isinstance(term, list):
            return folded(term[0], [self._exact(t, i) for t in term[1:]])
        return Fraction(float(self.v[i, self.at(term)]) if isinstance(term, int) else term)

    def excess(self, formula: Formula) -> float:
        """How far point 0 is from satisfying a formula: over `and` the most, over `or` the least."""
        word, *parts = formula
        if word in (b"and", b"or"):
            return (max if word == b"and" else min)(self.excess(p) for p in parts)
        with np.errstate(all="ignore"):
            terms = [float(self._sized(part)[0][0]) for part in parts]
            steps = [left - right for left, right in zip(terms, terms[1:])]
        off = [-d if word.startswith(b">") else d if word.startswith(b"<") else abs(d) for d in steps]
        return float("inf") if np.isnan(off).any() else max(off)


class _Elements(_Decimals):
    """The same points as the model sees them, compared as numpy compares numbers of these types. Points come as
    float64, so that plain numbers are compared there, once constants are rounded.
    """

    def __init__(self, v: np.ndarray, n_inputs: int, types: Types):
        self.columns: list[np.ndarray] = []
        self.runs = list(types)
        blocks = []
        for count, kind in types:
            with np.errstate(all="ignore"):
                block = v[:, len(self.columns) : len(self.columns) + count].astype(kind)
            blocks.append(block.astype(np.float64))
            self.columns.extend(block.T)
        super().__init__(np.concatenate(blocks, 1), n_inputs)

    def beside(self, number: np.ndarray, column: np.ndarray) -> np.ndarray:
        rounded, start = number.copy(), 0
        for count, kind in self.runs:
            if kind.kind == "f":
                mine = (column >= start) & (column < start + count)
                with np.errstate(all="ignore"):
                    rounded[mine] = number[mine].astype(kind).astype(np.float64)
            start += count
        return rounded

    def compare(self, word: bytes, left: Term, right: Term, among: np.ndarray) -> np.ndarray:
        with np.errstate(all="ignore"):
            return among & self._known(left) & self._known(right) & COMPARISONS[word](self._of(left), self._of(right))

    def _of(self, term: Term) -> Any:
        """A term's value (N,) in the type that it has, or a number that takes the type of what it stands beside."""
        if isinstance(term, list):
            return folded(term[0], [self._of(t) for t in term[1:]])
        return self.columns[int(self.at(term))] if isinstance(term, int) else term


def folded(word: bytes, values: list) -> Any:
    """The values under an operation, from left to right; a minus alone negates."""
    return -values[0] if word == b"-" and len(values) == 1 else reduce(OPERATIONS[word], values)
