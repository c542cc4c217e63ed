"""Random formulas: normal form against direct evaluation, reader against reader, and the official parser as oracle."""

import math
from fractions import Fraction

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from spec_formulas import (
    COMPARE,
    INPUTS,
    OUTPUTS,
    assert_same,
    declarations,
    formulas,
    from_text,
    number_forms,
    points,
    property_text,
    text,
    truth,
    variables,
)

from verifier.spec import fast, general
from verifier.spec.normal import assemble
from verifier.spec.parse import parse_bytes


@settings(max_examples=300, deadline=None)
@given(st.lists(formulas(), min_size=1, max_size=4), st.lists(points, min_size=1, max_size=8))
def test_holds_equals_direct_evaluation(asserts, some):
    query = parse_bytes(property_text(asserts, INPUTS, OUTPUTS).encode())
    for x, y in some:
        satisfied = all(truth(f, x, y) for f in asserts)
        assert (query.holds(x, y) >= 0) == satisfied
        if satisfied:
            assert query.violation(x, y) <= 1e-6


@settings(max_examples=100, deadline=None)
@given(st.lists(formulas(), min_size=1, max_size=3))
def test_independent_reading_of_the_text(asserts):
    """The tests' own reader gives the formulas back: it is fit to judge real files."""
    assert from_text(property_text(asserts, INPUTS, OUTPUTS)) == (INPUTS, OUTPUTS, asserts)


atoms = st.tuples(st.sampled_from(["<=", ">="]), variables, number_forms | variables)
common_shapes = st.lists(
    atoms
    | st.lists(st.lists(atoms, min_size=1, max_size=5), min_size=1, max_size=4).map(
        lambda groups: ("or", *(("and", *group) for group in groups))
    ),
    min_size=1,
    max_size=5,
)
spaces = st.sampled_from([" ", "\n", "\t", "\r\n", " ; no ) ( \n", "  \f "])


@settings(max_examples=300, deadline=None)
@given(common_shapes, st.lists(spaces, min_size=1, max_size=6), st.sampled_from([40, 97, 1 << 22]))
def test_both_readers_agree_on_the_common_shapes(asserts, fill, chunk):
    assume(all(f[0] in ("or", "and") or f[1] != f[2] for f in asserts))
    source = property_text(asserts, INPUTS, OUTPUTS)
    words = source.replace("(", " ( ").replace(")", " ) ").split()
    source = "".join(word + fill[i % len(fill)] for i, word in enumerate(words))
    before, fast.CHUNK = fast.CHUNK, chunk
    try:
        quick = fast.read(source.encode())
    finally:
        fast.CHUNK = before
    slow = assemble(general.read(source, "f"), "f")
    if quick is None:  # only for one of the reasons it may decline
        same = any(a[1] == a[2] for f in asserts if f[0] == "or" for group in f[1:] for a in group[1:])
        assert same or chunk < 100
    else:
        assert_same(assemble(quick, "f"), slow)


@settings(max_examples=200, deadline=None)
@given(st.lists(formulas(), min_size=1, max_size=3))
def test_fast_reader_declines_or_agrees(asserts):
    source = property_text(asserts, INPUTS, OUTPUTS)
    quick = fast.read(source.encode())
    if quick is not None:
        assert_same(assemble(quick, "f"), assemble(general.read(source, "f"), "f"))


DECLINED = [
    "(assert (< X_0 1))",
    "(assert (and (<= X_0 1)))",
    "(assert (or (<= X_0 1)))",
    "(assert (or (or (<= X_0 1))))",
    "(assert (<= 1 X_0))",
    "(assert (<= X_0 X_0))",
    "(assert (<= X_0 (+ 1)))",
    "(assert (<= X_1 1))",
    "(assert (<= X_0 1e999))",
    "(assert (<= X_0 1_0))",
    "(assert (<= X_0 nan))",
    "(assert (<= X_0 infinity))",
    "(assert (<= X_0 0x1))",
    "(assert (<= X_0 1))(declare-const X_1 Real)",
    "(assert (<= X_00 1))",
    "(assert (<= X_0 1))(exit)",
    "(assert (<= X_0 1)))",
    "(assert (<= X_0 1)",
    "(assert (<= X_0 1 2))",
    "(assert <= X_0 1)",
    "(assert (or))",
    "(assert (or (and)))",
    "(assert ((<= X_0 1)))",
    "assert (<= X_0 1)",
    "(assert (=< X_0 1))",
    "(assert (<= X_0 --1))",
    "(assert (<= X_0 1e))",
    "(assert (<= X_0 .))",
    "(assert (<=X_0 1))",
    "(assert (<= X_0 1)) x",
    "(and (<= X_0 1))",
    "(assert (and (<= X_0 1)) (<= X_0 1))",
    "(assert (<= X_0 1) (<= X_0 1))",
    "(assert (<= X-0 1))",
    "(assert (<= X_ 1))",
    "(assert (<= X_9999999999 1))",
    "",
]


@pytest.mark.parametrize("rest", DECLINED)
def test_fast_reader_leaves_the_rest_alone(rest):
    assert fast.read((declarations(1, 1) + rest).encode()) is None


OFFICIAL = {"LessEqual": "<=", "GreaterEqual": ">=", "LessThan": "<", "GreaterThan": ">", "Equal": "="}


def judge(node, x, y, official):
    """Truth or value of a node of the official parser's tree at a point."""
    again = lambda n: judge(n, x, y, official)
    if isinstance(node, (official.And, official.Or)):
        return (all if isinstance(node, official.And) else any)(again(n) for n in node.args)
    for name, sign in OFFICIAL.items():
        if isinstance(node, getattr(official, name)):
            return COMPARE[sign](again(node.lhs), again(node.rhs))
    if isinstance(node, official.Var):
        return Fraction(float((x if node.name == "X" else y)[node.indices[0]]))
    if isinstance(node, official.Literal):
        return Fraction(float(node.lexeme))
    if isinstance(node, official.Negate):
        return -again(node.expr)
    if isinstance(node, official.Minus):
        return again(node.head) - sum(map(again, node.rest))
    values = list(map(again, node.args))
    if isinstance(node, official.Plus):
        return sum(values)
    assert isinstance(node, official.Multiply)
    return math.prod(values)


@settings(max_examples=150, deadline=None)
@given(st.lists(formulas(), min_size=1, max_size=3), st.lists(points, min_size=1, max_size=6))
def test_official_parser_reads_the_same(asserts, some):
    """The same formulas in VNN-LIB 2.0, read by the official parser, are true of the same points."""
    official = pytest.importorskip("vnnlib")
    if not hasattr(official, "parse_query_string"):  # the folder of samples, found where the parser is not installed
        pytest.skip("the official parser is not installed")
    head = "(vnnlib-version <2.0>)\n(declare-network N"
    tensors = f"(declare-input X float64 [{INPUTS}]) (declare-output Y float64 [{OUTPUTS}]))\n"
    theirs = official.parse_query_string(head + tensors + "".join(f"(assert {text(f, 2)})\n" for f in asserts))
    ours = parse_bytes(property_text(asserts, INPUTS, OUTPUTS).encode())
    for x, y in some:
        assert (ours.holds(x, y) >= 0) == all(judge(a.expr, x, y, official) for a in theirs.assertions)
