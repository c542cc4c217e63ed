"""Independent readings for the tests of `verifier.spec`: random formulas, their texts, and evaluators that share no
code with the readers.

A formula is a nested tuple: ("and" | "or", formula, …) or (comparison, term, term); a term is ("X" | "Y", index), a
number's text (str), or ("+" | "-" | "*", term, …). Values are rationals, so every evaluation here is exact.
"""

from __future__ import annotations

import operator
import re
from fractions import Fraction
from functools import reduce

import numpy as np
from hypothesis import strategies as st

COMPARE = {
    "<=": operator.le,
    ">=": operator.ge,
    "<": operator.lt,
    ">": operator.gt,
    "=": operator.eq,
    "==": operator.eq,
}


def assert_same(a, b) -> None:
    """Two queries are equal to the last bit and type, but for the path they come from."""
    for name, value in vars(a).items():
        other = getattr(b, name)
        if isinstance(value, np.ndarray):
            assert value.dtype == other.dtype and value.shape == other.shape, name
            np.testing.assert_array_equal(value, other, err_msg=name)
        elif name not in ("source", "text"):
            assert value == other, name


def value(term, x, y) -> Fraction:
    """Exact value of a term at the point x, y."""
    if isinstance(term, str):
        return Fraction(float(term))
    head, *rest = term
    if head in ("X", "Y"):
        return Fraction(float((x if head == "X" else y)[rest[0]]))
    values = [value(t, x, y) for t in rest]
    if head == "-":
        return -values[0] if len(values) == 1 else reduce(operator.sub, values)
    return reduce(operator.add if head == "+" else operator.mul, values)


def truth(formula, x, y) -> bool:
    """Whether the point x, y satisfies a formula."""
    head, *rest = formula
    if head in ("and", "or"):
        return (all if head == "and" else any)(truth(f, x, y) for f in rest)
    values = [value(t, x, y) for t in rest]
    return all(COMPARE[head](a, b) for a, b in zip(values, values[1:]))


def text(thing, version: int = 1) -> str:
    """A formula or term in VNN-LIB 1.0 or 2.0."""
    if isinstance(thing, str):
        return thing
    head, *rest = thing
    if head in ("X", "Y"):
        return f"{head}_{rest[0]}" if version == 1 else f"{head}[{rest[0]}]"
    if version == 2 and head == "=":
        head = "=="
    return f"({head} {' '.join(text(t, version) for t in rest)})"


def declarations(inputs: int, outputs: int) -> str:
    return "".join(f"(declare-const {v}_{i} Real)\n" for v, n in (("X", inputs), ("Y", outputs)) for i in range(n))


def property_text(asserts, inputs: int, outputs: int) -> str:
    return declarations(inputs, outputs) + "".join(f"(assert {text(f)})\n" for f in asserts)


def from_text(source: str):
    """(inputs, outputs, asserted formulas) of a valid property, by a plain reading of s-expressions."""
    stack, inputs, outputs = [[]], 0, 0
    for word in re.findall(r"[()]|[^\s()]+", re.sub(r";.*", "", source)):
        if word == "(":
            stack.append([])
        elif word == ")":
            done = tuple(stack.pop())
            stack[-1].append(done)
        else:
            stack[-1].append((word[0], int(word[2:])) if word[:2] in ("X_", "Y_") else word)
    asserts = []
    for head, *rest in stack[0]:
        if head == "declare-const":
            inputs, outputs = inputs + (rest[0][0] == "X"), outputs + (rest[0][0] == "Y")
        elif head == "assert":
            asserts.append(rest[0])
    return inputs, outputs, asserts


INPUTS, OUTPUTS = 3, 2
# Quarters and thirds: sums of the former are exact in float64, bounds divided by the latter are not.
plain_numbers = st.sampled_from(["0.0", "1.0", "-1.0", "0.5", "-0.25", "2.0", "3.0", "0.75", "-3.0"])
number_forms = st.sampled_from(["0", "1", "-1", "+1", ".5", "5.", "1e-3", "-1.5E+07", "-0.0", "-.25", "3E0", "+2.e-1"])
variables = st.one_of(
    st.tuples(st.just("X"), st.integers(0, INPUTS - 1)), st.tuples(st.just("Y"), st.integers(0, OUTPUTS - 1))
)


def terms(numbers=plain_numbers):
    """Linear terms."""
    constant = st.recursive(
        numbers, lambda t: st.tuples(st.sampled_from("+-*"), t, t) | st.tuples(st.just("-"), t), max_leaves=3
    )
    return st.recursive(
        variables | numbers,
        lambda t: st.one_of(
            st.tuples(st.sampled_from("+-"), t, t),
            st.tuples(st.sampled_from("+-"), t, t, t),
            st.tuples(st.just("-"), t),
            st.tuples(st.just("*"), constant, t),
            st.tuples(st.just("*"), t, constant),
        ),
        max_leaves=4,
    )


def formulas(comparisons=("<=", ">=", "<", ">", "="), numbers=plain_numbers):
    """And/or trees over linear comparisons; half of the comparisons are simple ones."""
    atom = st.tuples(st.sampled_from(comparisons), variables, numbers | variables) | st.tuples(
        st.sampled_from(comparisons), terms(numbers), terms(numbers)
    )
    return st.recursive(
        atom,
        lambda f: st.lists(f, min_size=1, max_size=4).flatmap(
            lambda fs: st.sampled_from(["and", "or"]).map(lambda head: (head, *fs))
        ),
        max_leaves=10,
    )


coordinates = st.sampled_from([0.0, 1.0, -1.0, 0.5, -0.25, 2.0, 1 / 3, 0.1, 1e-3, -1.5e7, float(np.nextafter(0.5, 1))])
points = st.tuples(
    st.lists(coordinates, min_size=INPUTS, max_size=INPUTS), st.lists(coordinates, min_size=OUTPUTS, max_size=OUTPUTS)
)
