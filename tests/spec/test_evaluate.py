"""The judge agrees with the normal form and with rational arithmetic, and its readings differ where they should."""

from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from verifier.spec import written
from verifier.spec.evaluate import Judge, Reading
from verifier.spec.parse import parse_bytes

AUTO, FLOAT = Reading.of("auto"), Reading.of("float")


def declared(n, p):
    return "".join(f"(declare-const X_{i} Real)\n" for i in range(n)) + "".join(
        f"(declare-const Y_{i} Real)\n" for i in range(p)
    )


def holds(text, x, y, reading=AUTO, kind=np.float64):
    x, y = np.asarray(x, np.float64), np.asarray(y, np.float64)
    judge = Judge(text.encode(), len(x), len(y))
    types = [(len(x), np.dtype(kind)), (len(y), np.dtype(kind))]
    return bool(judge.holds(x[None], y[None], reading, types)[0])


NUMBERS = st.sampled_from(["0", "1", "-1", "0.5", "0.1", "3", "1e-3", "100000000.1", "-7.25"])
VALUES = st.sampled_from([0.0, 1.0, -1.0, 0.5, 0.1, 0.30000000000000004, 3.0, 1e16, 1e-300, float("inf"), float("nan")])
VARIABLES = st.sampled_from(["X_0", "X_1", "Y_0", "Y_1"])


@st.composite
def terms(draw, depth=2):
    kind = draw(st.integers(0, 5 if depth else 1))
    if kind == 0:
        return draw(NUMBERS)
    if kind == 1 or not depth:
        return draw(VARIABLES)
    if kind == 2:
        return f"(* {draw(NUMBERS)} {draw(terms(depth - 1))})"
    if kind == 5:
        return f"(/ {draw(terms(depth - 1))} {draw(st.sampled_from(['2', '(- 4)', '0.5']))})"
    word = "+" if kind == 3 else "-"
    return f"({word} {' '.join(draw(terms(depth - 1)) for _ in range(draw(st.integers(1, 3))))})"


@st.composite
def formulas(draw, depth=2):
    if draw(st.booleans()) or not depth:
        sides = " ".join(draw(st.lists(terms(), min_size=2, max_size=3)))
        return f"({draw(st.sampled_from(['<=', '<', '>=', '>', '=']))} {sides})"
    parts = " ".join(draw(formulas(depth - 1)) for _ in range(draw(st.integers(1, 3))))
    return f"({draw(st.sampled_from(['and', 'or']))} {parts})"


@settings(max_examples=300, deadline=None)
@given(st.lists(formulas(), min_size=1, max_size=3), st.lists(VALUES, min_size=4, max_size=4))
def test_it_agrees_with_the_normal_form(asserted, values):
    text = declared(2, 2) + "".join(f"(assert {f}) ; said\n" for f in asserted)
    query = parse_bytes(text.encode())
    x, y = np.array(values[:2]), np.array(values[2:])
    mentioned = [v for name, v in zip(("X_0", "X_1", "Y_0", "Y_1"), values) if name in text]
    if not np.isfinite(mentioned).all() or not np.isfinite(x).all():
        return  # the normal form cancels what the judge takes as written
    assert holds(text, x, y) == (query.holds(x, y) >= 0)


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
def test_what_is_not_finite_satisfies_nothing_that_mentions_it(bad):
    text = declared(1, 2) + "(assert (>= X_0 -9))(assert (or (<= Y_0 5) (>= Y_0 5)))"
    assert not holds(text, [0], [bad, 0])
    assert holds(text, [0], [0, bad])
    assert not holds(text, [bad], [0, 0])


def test_sums_are_exact_and_not_rounded():
    text = declared(1, 3) + "(assert (>= (+ Y_0 Y_1 Y_2) 0))"
    assert not holds(text, [0], [1e20, -1e20, -1e-20])
    assert holds(text, [0], [1e20, -1e20, 1e-20])
    assert Fraction(1e20) + Fraction(-1e20) + Fraction(1e-20) > 0


def test_the_element_type_rounds_what_the_text_says():
    text = declared(1, 1) + "(assert (>= X_0 0.1))(assert (<= X_0 0.1))(assert (<= Y_0 0.1))"
    y = float(np.float32(0.1))  # a little above 0.1
    assert not holds(text, [0.1], [y])
    assert holds(text, [0.1], [y], FLOAT, np.float32)
    assert not holds(text, [0.1], [float(np.nextafter(np.float32(0.1), np.float32(1)))], FLOAT, np.float32)


def test_the_element_type_rounds_sums_from_left_to_right():
    text = declared(1, 2) + "(assert (<= (+ Y_0 Y_1) 16777216))"
    assert not holds(text, [0], [16777216.0, 1.0])
    assert holds(text, [0], [16777216.0, 1.0], FLOAT, np.float32)


@pytest.mark.parametrize("kind", [np.int8, np.bool_, np.float16])
def test_other_element_types_are_compared_as_numbers(kind):
    text = declared(1, 1) + "(assert (<= X_0 0.5))(assert (<= Y_0 0.75))(assert (<= Y_0 (+ X_0 100000)))"
    assert holds(text, [0], [0], FLOAT, kind)
    assert not holds(text, [1], [0], FLOAT, kind)


def test_many_points_are_judged_at_once():
    text = declared(1, 1) + "(assert (or (and (>= X_0 1) (<= Y_0 0)) (and (<= X_0 -1) (>= Y_0 0))))"
    x, y = np.array([[1.0], [1.0], [-1.0], [0.0]]), np.array([[0.0], [1.0], [1.0], [0.0]])
    judge = Judge(text.encode(), 1, 1)
    assert judge.holds(x, y, AUTO, [(2, np.dtype(np.float64))]).tolist() == [True, False, True, False]


def test_what_is_wrong_is_named_with_its_line():
    text = declared(1, 1) + "(assert (<= X_0 1))\n\n(assert (or (and (>= Y_0 3) (<= Y_0 4))))"
    judge = Judge(text.encode(), 1, 1)
    assert judge.wrong(np.array([2.0]), np.array([3.0])) == "(<= X_0 1) does not hold: 1 too much"
    assert judge.wrong(np.array([0.0]), np.array([2.5])).startswith("line 5: (or (and (>= Y_0 3) (<= Y_0 4))) does")
    assert judge.wrong(np.array([0.0]), np.array([3.5])) == ""


def test_every_pair_of_neighbours_counts():
    text = declared(1, 1) + "(assert (<= 0 X_0 1))(assert (>= 4 Y_0 X_0))"
    assert holds(text, [1], [1])
    assert not any(holds(text, [x], [y]) for x, y in ((2, 2), (-1, 0), (1, 0), (1, 5)))
    judge = Judge(text.encode(), 1, 1)
    assert judge.wrong(np.array([3.0]), np.array([0.0])) == "line 3: (<= 0 X_0 1) does not hold: 2 too much"


def test_comments_strings_and_other_commands_are_passed_over():
    text = '(set-info :source |(assert (<= Y_0 -9))|)\n(set-info :x "(assert (<= Y_0 -9))")\n; (assert (<= Y_0 -9))\n'
    assert holds(text + declared(1, 1) + "(assert (<= X_0 1))\n(check-sat)", [0], [0])


WORDS = st.sampled_from(["<=", "<", ">=", ">", "="])
ATOMS = st.tuples(WORDS, VARIABLES, st.one_of(NUMBERS, VARIABLES))
DISJUNCTS = st.lists(st.lists(ATOMS, min_size=1, max_size=3), min_size=1, max_size=4)


@settings(max_examples=100, deadline=None)
@given(DISJUNCTS, st.lists(VALUES, min_size=4, max_size=4))
def test_disjunctions_of_plain_comparisons_are_judged_as_others(disjuncts, values):
    """The quick way and the slow one, which a term that is no plain number asks for."""
    plain = [" ".join(f"({w} {a} {b})" for w, a, b in d) for d in disjuncts]
    slow = [" ".join(f"({w} {a} (+ {b} 0))" for w, a, b in d) for d in disjuncts]
    x, y = values[:2], values[2:]
    answers = {
        holds(declared(2, 2) + f"(assert (or {' '.join(f'(and {d})' for d in ds)}))", x, y, reading)
        for ds in (plain, slow)
        for reading in (AUTO, FLOAT)
    }
    assert len(answers) == 1


def test_semicolons_in_strings_begin_no_comment():
    text = declared(1, 1) + "(set-info :source |a;b|)\n(assert (<= X_0 1)) ; |\n(assert (<= Y_0 -1))"
    assert not holds(text, [0], [0]) and holds(text, [0], [-1])


MIXED = st.lists(st.one_of(DISJUNCTS, st.none()), min_size=1, max_size=3)
NOT_PLAIN = "(assert (or (<= X_0 (+ Y_0 1))\n (and (>= Y_1 2) (<= X_1 3))))\n"


@settings(max_examples=100, deadline=None)
@given(MIXED, st.lists(VALUES, min_size=4, max_size=4))
def test_long_disjunctions_are_read_alike(asserted, values):
    text = declared(2, 2)
    for disjuncts in asserted:
        parts = ["(and" + "".join(f" ({w} {a} {b})" for w, a, b in d) + ")\n" for d in disjuncts or ()]
        text += f"(assert (or {' '.join(parts)}))\n" if parts else NOT_PLAIN
    plain = holds(text, values[:2], values[2:])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(written, "MANY", -1)
        assert holds(text, values[:2], values[2:]) == plain


def test_lines_of_long_disjunctions_are_theirs():
    rows = "\n".join(f"(and (>= Y_0 {k})\n (<= Y_0 {k}))" for k in range(600))
    text = declared(1, 1) + f"(assert (<= X_0 1))\n(assert (or {rows}))\n(assert (<= (+ Y_0 X_0) 5))"
    judge = Judge(text.encode(), 1, 1)
    assert judge.wrong(np.array([0.0]), np.array([0.5])).startswith("line 4: (or (and (>= Y_0 0) (<= Y_0 0))")
    assert judge.wrong(np.array([0.0]), np.array([7.0])).startswith("line 1204: (<= (+ Y_0 X_0) 5)")
    assert judge.wrong(np.array([0.0]), np.array([4.0])) == ""
