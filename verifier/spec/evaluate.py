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
WORD = re.compile(rb'\n|;[^\r\n]*|[()]|"[^"]*"|\|[^|]*\||[^\s();]+')
VARIABLE = re.compile(rb"([XY])_(\d+)")
NUMBER = rb"[-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?"
# An assertion that bounds one variable by a number, on one line: most of what there is in most files.
BOUND = re.compile(rb"\([ \t]*assert[ \t]*\([ \t]*(<=|>=)[ \t]+([XY])_(\d+)[ \t]+(" + NUMBER + rb")[ \t]*\)[ \t]*\)")
# A plain comparison on one line; and an assertion of a disjunction of conjunctions of such, each told by `MARK`.
ATOM = re.compile(
    rb"\([ \t]*(<=|>=|<|>|==|=)[ \t]+([XY])_(\d+)[ \t]+(?:([XY])_(\d+)|(" + NUMBER + rb"))[ \t]*\)"
)
MARK = b"\x01"
DISJUNCTION = re.compile(rb"\(\s*assert\s*\(\s*or((?:\s*\(\s*and[\s\x01]*\x01\s*\))+)\s*\)\s*\)")
MANY = 1000  # comparisons from which disjunctions are read by these
COMPARISONS = {b"<=": operator.le, b"<": operator.lt, b">=": operator.ge, b">": operator.gt}
COMPARISONS |= {b"=": operator.eq, b"==": operator.eq}
PLAIN = [*COMPARISONS]
CONSTANT = -(2**62)  # in place of a variable's reference
CHUNK = 1 << 24  # comparisons at points that are looked at in one piece
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
class Atoms:
    """A disjunction of conjunctions of plain comparisons, for many points at once: conjunction k has the comparisons
    start[k]:start[k + 1]. `left` (A,) references, `right` (A,) likewise or `CONSTANT`, which `number` (A,) then is;
    `word` (A,) places in `PLAIN`.
    """

    left: np.ndarray
    right: np.ndarray
    number: np.ndarray
    word: np.ndarray
    start: np.ndarray

    def formula(self, i: int) -> Formula:
        """Comparison i as it is written."""
        right = float(self.number[i]) if self.right[i] == CONSTANT else int(self.right[i])
        return [PLAIN[self.word[i]], int(self.left[i]), right]

    def whole(self) -> Formula:
        """The disjunction as it is written."""
        ends = zip(self.start.tolist(), self.start[1:].tolist())
        return [b"or", *([b"and", *(self.formula(i) for i in range(a, b))] for a, b in ends)]

    def part(self, first: int, sizes: list[int]) -> Atoms:
        """From comparison `first` on, conjunctions of so many."""
        cut = slice(first, first + sum(sizes))
        return Atoms(self.left[cut], self.right[cut], self.number[cut], self.word[cut], np.cumsum([0, *sizes]))


class Judge:
    """Judges points of one property; the text is cut into words when the first point comes."""

    def __init__(self, text: bytes, n_inputs: int, n_outputs: int):
        """`text` is a VNN-LIB 1.0 property that the readers have accepted."""
        self.text, self.n_inputs, self.n_outputs = text, n_inputs, n_outputs
        self._read: tuple[Atoms, list[tuple[int, Formula | Atoms]]] | None = None

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
        """The bounds of single variables, and the other assertions with their lines, in quick form if there is one."""
        if self._read is None:
            quoted = b"|" in self.text or b'"' in self.text
            pieces = [self.text] if quoted else BOUND.split(COMMENT.sub(b"", self.text))
            letters, index = pieces[2::5], np.array(pieces[3::5], dtype=np.int64)
            bounds = Atoms(
                np.where(np.array(letters, dtype="S1") == b"X", index, ~index).astype(np.int64),
                np.full(len(index), CONSTANT),
                np.array([float(n) for n in pieces[4::5]], dtype=np.float64),
                np.array([PLAIN.index(word) for word in pieces[1::5]], dtype=np.int64),
                np.array([0, len(index)]),
            )
            rest = b" ".join(pieces[0::5])
            found: list[tuple[int, Formula | Atoms]] = []
            if not quoted and self.comparisons - len(index) > MANY:
                found, rest = disjunctions(rest)
            found += [(line, quick(formula) or formula) for line, formula in _assertions(rest)]
            if not len(index) + len(found):
                raise ValueError("a property without assertions, which every point would satisfy")
            self._read = bounds, found
        return self._read


def disjunctions(text: bytes) -> tuple[list[tuple[int, Formula | Atoms]], bytes]:
    """The assertions that are disjunctions of conjunctions of plain comparisons, with their lines, and the text without
    them. For long ones: nothing is done for a comparison by itself but to find it.
    """
    pieces = ATOM.split(text)
    marked = MARK.join(pieces[0::7])
    if len(pieces) == 1 or MARK in text:
        return [], text
    right = np.array([i or b"0" for i in pieces[5::7]]).astype(np.int64)
    variable = np.array([letter is not None for letter in pieces[4::7]])
    left, x, other = (np.array(t) for t in (pieces[3::7], pieces[2::7], [t or b"" for t in pieces[4::7]]))
    left = left.astype(np.int64)
    places = {word: k for k, word in enumerate(PLAIN)}
    atoms = Atoms(
        np.where(x == b"X", left, ~left),
        np.where(variable, np.where(other == b"X", right, ~right), CONSTANT),
        np.array([float(n or 0) for n in pieces[6::7]]),
        np.array([places[word] for word in pieces[1::7]]),
        np.array([0]),
    )
    found: list[tuple[int, Formula | Atoms]] = []
    left_over, at, first, line = [], 0, 0, 1
    for match in DISJUNCTION.finditer(marked):
        before = marked[at : match.start()]
        left_over.append(_unmarked(before, atoms, first))
        first += before.count(MARK)
        line += before.count(b"\n")
        sizes = [part.count(MARK) for part in match[1].split(b"(")[1:]]
        found.append((line, atoms.part(first, sizes)))
        first += sum(sizes)
        line += match[0].count(b"\n")
        left_over.append(b"\n" * match[0].count(b"\n"))
        at = match.end()
    left_over.append(_unmarked(marked[at:], atoms, first))
    return found, b"".join(left_over)


def _unmarked(text: bytes, atoms: Atoms, first: int) -> bytes:
    """The text with its comparisons, from number `first` on, in place of the marks."""
    parts = text.split(MARK)
    words = [_text(atoms.formula(first + i), exact=True).encode() for i in range(len(parts) - 1)]
    return b"".join(part + word for part, word in zip(parts, [*words, b""]))


def quick(formula: Formula) -> Atoms | None:
    """A formula as a disjunction of conjunctions of plain comparisons, if that is how it is written."""
    conjunctions = [p[1:] if p[0] == b"and" else [p] for p in (formula[1:] if formula[0] == b"or" else [formula])]
    atoms = [atom for conjunction in conjunctions for atom in conjunction]
    plain = all(len(a) == 3 and a[0] in COMPARISONS and isinstance(a[1], int) for a in atoms)
    if not plain or any(isinstance(a[2], list) for a in atoms):
        return None
    constant = [isinstance(a[2], float) for a in atoms]
    return Atoms(
        np.array([a[1] for a in atoms], dtype=np.int64),
        np.array([CONSTANT if c else a[2] for a, c in zip(atoms, constant)], dtype=np.int64),
        np.array([a[2] if c else 0.0 for a, c in zip(atoms, constant)], dtype=np.float64),
        np.array([PLAIN.index(a[0]) for a in atoms], dtype=np.int64),
        np.cumsum([0, *map(len, conjunctions)]),
    )


def _assertions(text: bytes) -> list[tuple[int, Formula]]:
    """(line, formula) of every assertion; other commands are passed over."""
    found: list[tuple[int, Formula]] = []
    stack: list[list] = [[]]
    line = begun = 1
    for match in WORD.finditer(text):
        word = match.group()
        line += word.count(b"\n")
        if word == b"\n" or word[:1] == b";":
            continue
        if word == b"(":
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


def shown(formula: Formula, room: int = 60) -> str:
    """A formula as text, cut to `room` characters."""
    text = _text(formula)
    return text if len(text) <= room else text[: room - 4] + " …)"


def _text(part: Any, exact: bool = False) -> str:
    if isinstance(part, list):
        return "(" + " ".join(_text(p, exact) for p in part[:8]) + ")"
    if isinstance(part, int):
        return f"X_{part}" if part >= 0 else f"Y_{~part}"
    return (repr(part) if exact else f"{part:g}") if isinstance(part, float) else part.decode()
