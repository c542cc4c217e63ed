"""A property's assertions as they are written: cut into words, nothing normalised, nothing dropped.

For the judge (`verifier.spec.evaluate`), which must not depend on how the readers understand a property. The text is
one that they accepted, so nothing is reported here. Most assertions are plain comparisons of a variable with a number
or another variable, alone or in a disjunction of conjunctions: these become arrays (`Atoms`), and long files of them
are cut by regular expressions, since looking at every word costs seconds there. All others stay lists of words.
"""

from __future__ import annotations

import operator
import re
from dataclasses import dataclass
from typing import Any

import numpy as np

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

Term = Any  # a float, a variable (int: i for X_i, ~j for Y_j), or a list [word, term, …]
Formula = list  # [word, …], as it is written


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


def parsed(text: bytes) -> tuple[Atoms, list[tuple[int, Formula | Atoms]]]:
    """The bounds of single variables, and the other assertions with their lines, in quick form if there is one.

    ValueError where there is no assertion at all: every point would satisfy that.
    """
    quoted = b"|" in text or b'"' in text
    pieces = [text] if quoted else BOUND.split(COMMENT.sub(b"", text))
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
    if not quoted and comparisons(text) - len(index) > MANY:
        found, rest = disjunctions(rest)
    found += [(line, quick(formula) or formula) for line, formula in _assertions(rest)]
    if not len(index) + len(found):
        raise ValueError("a property without assertions, which every point would satisfy")
    return bounds, found


def comparisons(text: bytes) -> int:
    """How many comparisons there are, at most."""
    return sum(text.count(word) for word in (b"(<", b"(>", b"(="))


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
