"""The general reader: any and/or formula over linear comparisons, parsed by an LALR grammar (`vnnlib.lark`).

The grammar's actions run while it parses, bottom up, so no tree of the text is kept and depth costs no recursion. A
term becomes a linear expression at once: coefficients by variable reference (i for X_i, ~j for Y_j) and a constant, in
rational arithmetic on the float64 values of the numbers read; a comparison becomes `sum + const <= 0`, rounded once. A
formula is

    int                                  an atom (number of a comparison in source order)
    Node(AND | OR, children, …)          nested ones of the same kind flattened; AND () is true and OR () is false

and knows how many disjuncts and entries it will have, so that what is too large is refused before it is built.
"""

from __future__ import annotations

import itertools
import math
import threading
from array import array
from collections.abc import Callable
from fractions import Fraction
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

import numpy as np
from lark import Lark, Token, UnexpectedInput

from verifier.result import PropertyError
from verifier.spec.normal import MAX_DISJUNCTS, MAX_ENTRIES, Atoms, Choice, Parts, too_large

AND, OR = "and", "or"
MAX_BITS = 1 << 14  # of an exact number between reading and rounding; far beyond what float64 values can need in a sum

WORDS = {  # terminal -> how a message names it, in the order of naming
    "_OPEN": "'('",
    "_CLOSE": "')'",
    "_DECLARE": "declare-const",
    "ASSERT": "assert",
    "AND": "and",
    "OR": "or",
    "COMPARE": "a comparison (<=, >=, <, >, =)",
    "PLUS": "+",
    "MINUS": "-",
    "TIMES": "*",
    "DIVIDE": "/",
    "VARIABLE": "a variable X_i or Y_i",
    "NUMBER": "a number",
    "_REAL": "Real",
    "$END": "the end of the file",
}


class Node(NamedTuple):
    """A conjunction or disjunction with the number of its disjuncts and of the atoms in all of them."""

    kind: str
    children: list[int | Node]
    disjuncts: int
    entries: int


class Linear(NamedTuple):
    """coefs[reference] * variable … + const."""

    coefs: dict[int, Fraction]
    const: Fraction


Formula = int | Node
TRUE, FALSE = Node(AND, [], 1, 0), Node(OR, [], 0, 0)


def _disjuncts(f: Formula) -> int:
    return 1 if isinstance(f, int) else f.disjuncts


def _entries(f: Formula) -> int:
    return 1 if isinstance(f, int) else f.entries


class Reader:
    """The grammar's actions and what they have gathered of one file. `begin` starts afresh."""

    def begin(self, source: str) -> None:
        self.source = source
        self.declared: dict[int, Token] = {}  # reference -> where
        self.asserted: list[Formula] = []
        self.bound_var, self.bound, self.bound_upper = array("q"), array("d"), array("b")
        self.row = array("q")
        self.term_start, self.term_ref, self.term_coef = array("q", [0]), array("q"), array("d")
        self.const, self.strict, self.line = array("d"), array("b"), array("q")

    def place(self, token: Token) -> str:
        return f"{self.source}:{token.line}:{token.column}"

    def fail(self, message: str, token: Token) -> PropertyError:
        return PropertyError(message, self.place(token))

    # commands

    def start(self, children: list) -> None:
        return None

    def ignored(self, children: list) -> None:
        return None

    def declare(self, children: list[Token]) -> None:
        (name,) = children
        reference = _reference(name)
        if reference in self.declared:
            raise self.fail(f"expected each variable declared once, found {name} again", name)
        self.declared[reference] = name

    def assertion(self, children: list) -> None:
        self.asserted.append(children[1])

    # formulas

    def conjunction(self, children: list) -> Formula:
        token, flat = children[0], _flatten(AND, children[1:])
        disjuncts, entries = 1, 0
        for f in flat:
            disjuncts, entries = disjuncts * _disjuncts(f), entries * _disjuncts(f) + disjuncts * _entries(f)
            if disjuncts == 0:
                return FALSE
        return self._node(AND, flat, disjuncts, entries, token)

    def disjunction(self, children: list) -> Formula:
        token, flat = children[0], _flatten(OR, children[1:])
        return self._node(OR, flat, sum(map(_disjuncts, flat)), sum(map(_entries, flat)), token)

    def _node(self, kind: str, children: list[Formula], disjuncts: int, entries: int, token: Token) -> Formula:
        if len(children) == 1:
            return children[0]
        if disjuncts > MAX_DISJUNCTS:
            raise too_large("disjuncts", MAX_DISJUNCTS, self.place(token))
        if entries > MAX_ENTRIES:
            raise too_large("comparisons in all disjuncts together", MAX_ENTRIES, self.place(token))
        return Node(kind, children, disjuncts, entries)

    def comparison(self, children: list) -> Formula:
        token, atoms = children[0], []
        terms = children[:0:-1] if token in (">=", ">") else children[1:]
        for left, right in zip(terms, terms[1:]):  # each with its neighbour
            difference = _total([left, right], -1)
            atoms.append(self._atom(difference, token in ("<", ">"), token))
            if token in ("=", "=="):
                atoms.append(self._atom(_scale(difference, Fraction(-1)), False, token))
        return self.conjunction([token, *atoms])

    def _atom(self, row: Linear, strict: bool, token: Token) -> Formula:
        """The atom `row <= 0` (or < 0), or TRUE or FALSE where no variable is left in it."""
        terms = sorted(((r, c) for r, c in row.coefs.items() if c), key=lambda t: (t[0] < 0, abs(t[0])))
        if not terms:
            return TRUE if row.const < 0 or (row.const == 0 and not strict) else FALSE
        const = self._round(row.const, token)
        coefs = [self._round(c, token) for _, c in terms]
        var, bound, exact = -1, 0.0, False
        if len(terms) == 1 and terms[0][0] >= 0:
            var = terms[0][0]
            bound, exact = self._bound(coefs[0], const, token)
        self.bound_var.append(var)
        self.bound.append(bound)
        self.bound_upper.append(coefs[0] > 0)
        if exact and not strict:
            self.row.append(-1)
        else:
            self.row.append(len(self.const))
            self.term_ref.extend(r for r, _ in terms)
            self.term_coef.extend(coefs)
            self.term_start.append(len(self.term_ref))
            self.const.append(const)
            self.strict.append(strict)
            self.line.append(token.line)
        return len(self.row) - 1

    def _bound(self, coef: float, const: float, token: Token) -> tuple[float, bool]:
        """The bound that coef * X + const <= 0 puts on X, rounded outward, and whether it is exact."""
        exact = -Fraction(const) / Fraction(coef)
        bound = self._round(exact, token)
        error = Fraction(bound) - exact
        if error and (error > 0) != (coef > 0):  # an upper bound may only be too high, a lower one too low
            bound = math.nextafter(bound, math.inf if coef > 0 else -math.inf)
        return bound, not error

    def _round(self, value: Fraction, token: Token) -> float:
        try:
            result = float(value)
        except OverflowError:
            result = math.inf
        if math.isinf(result) or (value and not result):
            raise self.fail("expected numbers within the range of float64, found one outside after arithmetic", token)
        return result + 0.0

    # terms

    def variable(self, children: list[Token]) -> Linear:
        (name,) = children
        reference = _reference(name)
        if reference not in self.declared:
            raise self.fail(f"expected a declared variable, found {name}, which no declare-const before it names", name)
        return Linear({reference: Fraction(1)}, Fraction(0))

    def number(self, children: list[Token]) -> Linear:
        (text,) = children
        value = float(text)
        if math.isinf(value):
            raise self.fail(f"expected a number within the range of float64, found {_quoted(text)}", text)
        return Linear({}, Fraction(value))

    def sum(self, children: list) -> Linear:
        return _total(children[1:], 1)

    def difference(self, children: list) -> Linear:
        if len(children) == 2:
            return _scale(children[1], Fraction(-1))
        return _total(children[1:], -1)

    def multiple(self, children: list) -> Linear:
        token, result = children[0], children[1]
        for factor in children[2:]:
            if any(factor.coefs.values()) and any(result.coefs.values()):
                raise self.fail("expected at most one factor with variables (properties are linear), found two", token)
            if any(factor.coefs.values()):
                result, factor = factor, result
            result = self._scaled(result, factor.const, token)
        return result

    def quotient(self, children: list) -> Linear:
        token, result = children[0], children[1]
        for divisor in children[2:]:
            if any(divisor.coefs.values()) or not divisor.const:
                found = "one with variables" if any(divisor.coefs.values()) else "0"
                raise self.fail(f"expected divisors that are numbers other than 0, found {found}", token)
            result = self._scaled(result, 1 / divisor.const, token)
        return result

    def _scaled(self, term: Linear, factor: Fraction, token: Token) -> Linear:
        result = _scale(term, factor)
        for value in (result.const, *result.coefs.values()):
            if max(value.numerator.bit_length(), value.denominator.bit_length()) > MAX_BITS:
                raise self.fail("expected numbers within the range of float64, found a product far outside", token)
        return result

    # the whole

    def parts(self, end: Token) -> Parts:
        """What has been gathered; `end` is the place to name when something is missing."""
        n_inputs, n_outputs = self._sizes(end)
        if not self.asserted:
            raise self.fail("expected at least one (assert …), found none", end)
        ids: list[int] = []
        choices: list[Choice] = []
        for f in _flatten(AND, self.asserted):
            if isinstance(f, int):
                ids.append(f)
            else:
                choices.append(_choice(f))
        refs = np.array(self.term_ref, dtype=np.int64)
        atoms = Atoms(
            bound_var=np.array(self.bound_var, dtype=np.int64),
            bound_upper=np.array(self.bound_upper, dtype=bool),
            bound=np.array(self.bound, dtype=np.float64),
            row=np.array(self.row, dtype=np.int64),
            term_start=np.array(self.term_start, dtype=np.int64),
            term_var=np.where(refs >= 0, refs, n_inputs + ~refs),
            term_coef=np.array(self.term_coef, dtype=np.float64),
            const=np.array(self.const, dtype=np.float64),
            strict=np.array(self.strict, dtype=bool),
            line=np.array(self.line, dtype=np.int64),
        )
        return Parts(n_inputs, n_outputs, atoms, np.array(sorted(ids), dtype=np.int64), choices)

    def _sizes(self, end: Token) -> tuple[int, int]:
        """Numbers of inputs and outputs; every index below the largest has to be declared."""
        sizes = []
        for letter, index_of in (("X", lambda r: r), ("Y", lambda r: ~r)):
            indices = {index_of(r): t for r, t in self.declared.items() if (r >= 0) == (letter == "X")}
            if not indices:
                raise self.fail(f"expected (declare-const {letter}_0 Real), found no {letter}_i declared", end)
            last = max(indices)
            if len(indices) <= last:
                gap = next(i for i in itertools.count() if i not in indices)
                message = f"expected {letter}_0 to {letter}_{last} declared, found no {letter}_{gap}"
                raise self.fail(message, indices[last])
            sizes.append(last + 1)
        return sizes[0], sizes[1]


def _reference(name: str) -> int:
    index = int(name[2:])
    return index if name[0] == "X" else ~index


def _total(terms: list[Linear], sign: int) -> Linear:
    """The first term plus `sign` times each of the others."""
    coefs, const = dict(terms[0].coefs), terms[0].const
    for term in terms[1:]:
        for reference, coef in term.coefs.items():
            coefs[reference] = coefs.get(reference, Fraction(0)) + sign * coef
        const += sign * term.const
    return Linear(coefs, const)


def _scale(a: Linear, factor: Fraction) -> Linear:
    return Linear({r: c * factor for r, c in a.coefs.items()}, a.const * factor)


def _flatten(kind: str, children: list[Formula]) -> list[Formula]:
    """Children with those of the same kind replaced by their own; a node has one parent, so its list is reused."""
    flat: list[Formula] = []
    for f in children:
        if isinstance(f, int) or f.kind != kind:
            flat.append(f)
        elif flat or f is TRUE or f is FALSE:
            flat.extend(f.children)
        else:
            flat = f.children
    return flat


def _choice(root: Node) -> Choice:
    """Disjuncts of a formula, each built once: depth first over its alternatives, the last choice running fastest.

    What is still to be conjoined and what has been taken so far are linked lists, which alternatives share.
    """
    ids, sizes = array("q"), array("q", [0])
    branches: list[tuple[tuple | None, tuple | None]] = [((root, None), None)]
    while branches:
        agenda, taken = branches.pop()
        while agenda is not None:
            f, agenda = agenda
            if isinstance(f, int):
                taken = (f, taken)
            elif f.kind == AND:
                for child in reversed(f.children):
                    agenda = (child, agenda)
            else:
                branches.extend(((child, agenda), taken) for child in reversed(f.children))
                break
        else:
            before = len(ids)
            while taken is not None:
                atom, taken = taken
                ids.append(atom)
            sizes.append(len(ids) - before)
    return np.cumsum(np.array(sizes, dtype=np.int64)), np.array(ids, dtype=np.int64)


@lru_cache(maxsize=1)
def _parser() -> tuple[Lark, Reader, threading.Lock]:
    """The parser, the actions it calls, and the lock that lets one file at a time use them."""
    reader = Reader()
    grammar = Path(__file__).with_name("vnnlib.lark").read_text(encoding="utf-8")
    return Lark(grammar, parser="lalr", lexer="basic", transformer=reader), reader, threading.Lock()


def _quoted(text: str) -> str:
    return repr(str(text) if len(text) <= 40 else text[:37] + "...")


def _accepted(error: UnexpectedInput) -> set[str]:
    """Names of the terminals that could have followed; `expected` may name too many, for the table merges states."""
    try:
        return set(error.accepts or error.expected)
    except Exception:  # the search replays the parser's stack, which is a service of the package, not a promise
        return set(getattr(error, "expected", None) or ())


def _syntax_error(error: UnexpectedInput, end: Token, place: Callable[[Token], str]) -> PropertyError:
    """The package's error in our words; `end` stands for the end of the file."""
    token = getattr(error, "token", None) or end
    if token.type == "$END":
        token = end
    if token in ("vnnlib-version", "declare-network"):
        return PropertyError("expected a VNN-LIB 1.0 property, found version 2.0, which is not read yet", place(token))
    names = _accepted(error)
    if "WORD" in names:  # within an ignored command
        names = {"_CLOSE"}
    words = [word for name, word in WORDS.items() if name in names]
    expected = " or ".join(filter(None, [", ".join(words[:-1]), words[-1] if words else "a command"]))
    found = "the end of the file" if token is end else _quoted(token)
    return PropertyError(f"expected {expected}, found {found}", place(token))


def read(text: str, source: str) -> Parts:
    """The parts of a property given as text. Raises PropertyError with file:line:column."""
    parser, reader, lock = _parser()
    line, last = text.count("\n") + 1, len(text) - text.rfind("\n")
    end = Token("$END", "", line=line, column=last)
    with lock:
        reader.begin(source)
        try:
            parser.parse(text)
            return reader.parts(end)
        except UnexpectedInput as error:
            raise _syntax_error(error, end, reader.place) from None
        finally:
            reader.begin("")
