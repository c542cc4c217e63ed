"""The one judge of whether a point satisfies a property, from the property's own text.

Independent of the readers and of the normal form: the text is cut into words here, and the assertions are walked as
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
import re
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import reduce
from typing import Any

import numpy as np

EPS = float(np.finfo(np.float64).eps)
TINY = float(np.finfo(np.float64).tiny)
COMMENT = re.compile(rb";[^\r\n]*")
WORD = re.compile(rb'\n|[()]|"[^"]*"|\|[^|]*\||[^\s()]+')
VARIABLE = re.compile(rb"([XY])_(\d+)")
NUMBER = rb"[-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?"
# An assertion that bounds one variable by a number, on one line: most of what there is in most files.
BOUND = re.compile(rb"\([ \t]*assert[ \t]*\([ \t]*(<=|>=)[ \t]+([XY])_(\d+)[ \t]+(" + NUMBER + rb")[ \t]*\)[ \t]*\)")
COMPARISONS = {b"<=": operator.le, b"<": operator.lt, b">=": operator.ge, b">": operator.gt}
COMPARISONS |= {b"=": operator.eq, b"==": operator.eq}
OPERATIONS = {b"+": operator.add, b"-": operator.sub, b"*": operator.mul, b"/": operator.truediv}

Term = Any  # a float, a variable (int: i for X_i, ~j for Y_j), or a list [word, term, …]
Formula = list  # [word, …], as it is written
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


@dataclass(frozen=True, eq=False)
class Bounds:
    """The assertions that bound one variable: `variable` (B,) references, `number` (B,), `above` (B,): `<=`."""

    variable: np.ndarray
    number: np.ndarray
    above: np.ndarray


class Judge:
    """Judges points of one property; the text is cut into words when the first point comes."""

    def __init__(self, text: bytes, n_inputs: int, n_outputs: int):
        """`text` is a VNN-LIB 1.0 property that the readers have accepted."""
        self.text, self.n_inputs, self.n_outputs = text, n_inputs, n_outputs
        self._read: tuple[Bounds, list[tuple[int, Formula]]] | None = None

    @property
    def comparisons(self) -> int:
        """How many comparisons judging one point takes at most: its cost."""
        return sum(self.text.count(word) for word in (b"(<", b"(>", b"(="))

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
        for variable, number, above in zip(bounds.variable.tolist(), bounds.number.tolist(), bounds.above.tolist()):
            formula = [b"<=" if above else b">=", variable, number]
            if not values.compare(*formula, one)[0]:
                return f"{shown(formula)} does not hold: {values.excess(formula):g} too much"
        for line, formula in formulas:
            if not self._formula(values, formula, one)[0]:
                return f"line {line}: {shown(formula)} does not hold: {values.excess(formula):g} too much"
        return ""

    def _all(self, values: _Decimals, among: np.ndarray) -> np.ndarray:
        """(N,) bool: those of the points `among` that satisfy every assertion."""
        bounds, formulas = self._parsed()
        good = among & values.within(bounds)
        for _, formula in formulas:
            if not good.any():
                break
            good = self._formula(values, formula, good)
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

    def _parsed(self) -> tuple[Bounds, list[tuple[int, Formula]]]:
        """The bounds, and the other assertions with their lines."""
        if self._read is None:
            text = COMMENT.sub(b"", self.text)
            pieces = [text] if b"|" in text or b'"' in text else BOUND.split(text)
            letters, numbers = pieces[2::5], np.array(pieces[3::5], dtype=np.int64)
            bounds = Bounds(
                np.where(np.array(letters, dtype="S1") == b"X", numbers, ~numbers).astype(np.int64),
                np.array([float(n) for n in pieces[4::5]], dtype=np.float64),
                np.array([word == b"<=" for word in pieces[1::5]], dtype=bool),
            )
            formulas = list(_assertions(b" ".join(pieces[0::5])))
            if not len(bounds.variable) + len(formulas):
                raise ValueError("a property without assertions, which every point would satisfy")
            self._read = bounds, formulas
        return self._read


def _assertions(text: bytes) -> list[tuple[int, Formula]]:
    """(line, formula) of every assertion; other commands are passed over."""
    found: list[tuple[int, Formula]] = []
    stack: list[list] = [[]]
    line = begun = 1
    for match in WORD.finditer(text):
        word = match.group()
        if word == b"\n":
            line += 1
        elif word == b"(":
            begun = line if len(stack) == 1 else begun
            stack.append([])
        elif word == b")":
            done = stack.pop()
            if len(stack) > 1:
                stack[-1].append(done)
            elif done and done[0] == b"assert":
                found.append((begun, done[1]))
        else:
            stack[-1].append(_leaf(word))
    return found


def _leaf(word: bytes) -> Term:
    """A word as a variable's reference, a number, or itself."""
    variable = VARIABLE.fullmatch(word)
    if variable:
        return int(variable[2]) if variable[1] == b"X" else ~int(variable[2])
    if word[:1] in b"0123456789.+-" and word not in (b"+", b"-"):
        return float(word)
    return word


class _Decimals:
    """Points v (N, n + p) in float64, compared exactly."""

    def __init__(self, v: np.ndarray, n_inputs: int):
        self.v, self.n_inputs = v, n_inputs
        self.finite = np.isfinite(v)

    def at(self, reference: Any) -> Any:
        """Column(s) of v for one reference or an array of them: X_i is i, Y_j is ~j."""
        return np.where(np.asarray(reference) >= 0, reference, self.n_inputs + ~np.asarray(reference))

    def within(self, bounds: Bounds) -> np.ndarray:
        """(N,) bool: the points within all bounds."""
        at = self.at(bounds.variable)
        column = self.v[:, at]
        return (np.where(bounds.above, column <= bounds.number, column >= bounds.number) & self.finite[:, at]).all(1)

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
    """The same points as the model sees them, compared as numpy compares numbers of these types."""

    def __init__(self, v: np.ndarray, n_inputs: int, types: Types):
        super().__init__(v, n_inputs)
        self.blocks: list[np.ndarray] = []
        self.columns: list[np.ndarray] = []
        for count, kind in types:
            with np.errstate(all="ignore"):
                self.blocks.append(v[:, len(self.columns) : len(self.columns) + count].astype(kind))
            self.columns.extend(self.blocks[-1].T)
        self.finite = np.concatenate([np.isfinite(b.astype(np.float64)) for b in self.blocks], 1)

    def within(self, bounds: Bounds) -> np.ndarray:
        at, good, start = self.at(bounds.variable), np.ones(len(self.v), bool), 0
        for block in self.blocks:
            mine = np.flatnonzero((at >= start) & (at < start + block.shape[1]))
            kind = block.dtype if block.dtype.kind == "f" else np.float64
            with np.errstate(all="ignore"):
                column, number = block[:, at[mine] - start], bounds.number[mine].astype(kind)
                good &= np.where(bounds.above[mine], column <= number, column >= number).all(1)
            start += block.shape[1]
        return good & self.finite[:, at].all(1)

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


def shown(formula: Formula, room: int = 60) -> str:
    """A formula as text, cut to `room` characters."""
    text = _text(formula)
    return text if len(text) <= room else text[: room - 4] + " …)"


def _text(part: Any) -> str:
    if isinstance(part, list):
        return "(" + " ".join(_text(p) for p in part[:8]) + ")"
    if isinstance(part, int):
        return f"X_{part}" if part >= 0 else f"Y_{~part}"
    return f"{part:g}" if isinstance(part, float) else part.decode()
