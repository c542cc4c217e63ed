"""The normal form: exact membership, distances, facts."""

import numpy as np
import pytest
from spec_formulas import declarations

from verifier.spec.parse import parse_bytes


def query(asserts: str, inputs: int = 1, outputs: int = 1):
    return parse_bytes((declarations(inputs, outputs) + asserts).encode())


BOX = "(assert (>= X_0 0)) (assert (<= X_0 1)) "


def test_holds_has_no_tolerance():
    q = query(BOX + "(assert (<= Y_0 0.1))")
    assert q.holds([0.0], [0.1]) == 0
    assert q.holds([1.0], [0.1]) == 0
    assert q.holds([1.0], [np.nextafter(0.1, 1)]) == -1
    assert q.holds([np.nextafter(1.0, 2)], [0.0]) == -1
    assert q.holds([-5e-324], [0.0]) == -1


def test_strict_rows():
    q = query("(assert (> X_0 0)) (assert (< X_0 1)) (assert (< Y_0 X_0))")
    assert q.lower.tolist() == [[0]] and q.upper.tolist() == [[1]]
    assert q.holds([0.0], [-1.0]) == -1
    assert q.holds([5e-324], [0.0]) == 0
    assert q.holds([0.5], [0.5]) == -1
    assert q.violation([0.5], [0.5]) > 0


@pytest.mark.parametrize("x, holds", [(1 / 3, True), (np.nextafter(1 / 3, 1), False)])
def test_bound_that_is_no_float(x, holds):
    q = query("(assert (>= X_0 0)) (assert (<= (* 3 X_0) 1)) (assert (<= Y_0 0))")
    assert q.upper[0, 0] == np.nextafter(1 / 3, 1)
    assert (q.holds([x], [0.0]) == 0) == holds


def test_holds_is_exact_where_floats_cancel():
    q = query(BOX + "(assert (<= (+ Y_0 Y_1 Y_2) 0))", outputs=3)
    assert q.holds([0], [1e20, -1e20, 1e-20]) == -1
    assert q.holds([0], [1e20, -1e20, -1e-20]) == 0
    assert q.holds([0], [1e20, 1e-20, -1e20]) == -1
    assert q.holds([0], [1e308, 1e308, -1.7e308]) == -1
    assert q.holds([0], [1e308, -1.7e308, 1e307]) == 0


def test_three_addends_are_not_exact_in_floats():
    y = [1.0, 2.0**-60]
    assert query(BOX + "(assert (< (- Y_0 Y_1) 1))", outputs=2).holds([0], y) == 0
    assert query(BOX + "(assert (<= (+ Y_0 Y_1) 1))", outputs=2).holds([0], y) == -1


def test_holds_survives_overflow_and_underflow():
    q = query(BOX + "(assert (<= (- (* 1e10 Y_0) (* 1e10 Y_1)) 0))", outputs=2)
    assert q.holds([0], [1e308, 1e308]) == 0
    assert q.holds([0], [np.nextafter(1e308, np.inf), 1e308]) == -1
    q = query(BOX + "(assert (<= (- (* 1e-300 Y_0) (* 1e-300 Y_1)) 0))", outputs=2)
    assert q.holds([0], [2e-300, 1e-300]) == -1
    assert q.holds([0], [1e-300, 2e-300]) == 0


def test_values_that_are_not_finite_satisfy_nothing():
    q = query(BOX + "(assert (or (<= Y_0 0) (<= Y_1 0)))", outputs=2)
    for bad in (np.nan, np.inf, -np.inf):
        assert q.holds([bad], [0, 0]) == -1
        assert q.holds([0], [bad, 1]) == -1
        assert q.holds([0], [bad, 0]) == 1
        assert q.violation([0], [bad, bad]) == np.inf
    assert q.violation([np.nan], [0, 0]) == np.inf


def test_first_disjunct_is_named():
    q = query("(assert (or (and (>= X_0 0) (<= X_0 1) (<= Y_0 0)) (and (>= X_0 1) (<= X_0 2) (<= Y_0 5))))")
    assert [q.holds([x], [y]) for x, y in [(0, 0), (1, 0), (1, 5), (2, 0), (0, 1)]] == [0, 0, 1, 1, -1]


def test_disjuncts_keep_their_rows_when_regions_gather_them():
    boxes = [0, 1, 2, 0, 1]
    lines = " ".join(f"(and (>= X_0 {b}) (<= X_0 {b}) (<= Y_0 {k}) (>= Y_0 {k}))" for k, b in enumerate(boxes))
    q = query(f"(assert (or {lines}))")
    assert q.lower[:, 0].tolist() == [0, 1, 2]
    assert q.disjunct_region.tolist() == [0, 0, 1, 1, 2]
    assert q.const.tolist() == [0, 0, -3, 3, -1, 1, -4, 4, -2, 2]
    assert [q.holds([b], [k]) for k, b in enumerate(boxes)] == [0, 2, 4, 1, 3]


def test_sizes_of_the_point():
    q = query(BOX + "(assert (<= Y_0 0))")
    with pytest.raises(ValueError, match="expected a point of 1 inputs and 1 outputs, found 2 and 1"):
        q.holds([0, 0], [0])
    with pytest.raises(ValueError):
        q.violation([0], [])


def test_violation_measures_the_nearest_disjunct():
    q = query(BOX + "(assert (or (and (<= Y_0 0) (<= Y_1 0)) (>= Y_0 3)))", outputs=2)
    assert q.violation([0.5], [1, 2]) == 2
    assert q.violation([0.5], [2.5, 2]) == 0.5
    assert q.violation([4], [2.5, 2]) == 3
    assert q.violation([0.5], [-1, -2]) == -0.5


def test_no_disjunct_and_no_row():
    never = query("(assert (<= 2 1))")
    assert (never.n_regions, never.n_disjuncts, never.n_rows) == (0, 0, 0)
    assert never.holds([0], [0]) == -1 and never.violation([0], [0]) == np.inf and never.unbounded() == []
    assert never.describe()["disjuncts"] == 0
    always = query(BOX)
    assert (always.n_regions, always.n_disjuncts, always.n_rows) == (1, 1, 0)
    assert always.row_start.tolist() == [0, 0] and always.term_start.tolist() == [0]
    assert always.holds([1], [7]) == 0 and always.holds([2], [7]) == -1 and always.violation([2], [7]) == 1


def test_unbounded_and_empty():
    q = query("(assert (>= X_0 0)) (assert (or (and (<= X_0 1) (<= X_1 0)) (<= X_0 -1)))", inputs=3)
    assert q.empty.tolist() == [False, True]
    assert q.unbounded() == ["X_1", "X_2"]


def test_describe():
    q = query(
        "(assert (>= X_0 0)) (assert (<= X_0 1)) (assert (= X_1 2)) (assert (< (+ X_0 X_1) 9))"
        "(assert (or (<= Y_0 X_0) (and (<= Y_0 1) (>= Y_1 0)) (and (>= X_0 0.5) (<= Y_0 0)) (<= X_0 -1)))",
        inputs=2,
        outputs=2,
    )
    assert q.describe() == {
        "inputs": 2,
        "outputs": 2,
        "regions": 3,
        "empty_regions": 1,
        "disjuncts": 4,
        "rows": 8,
        "rows_min": 1,
        "rows_max": 3,
        "moving_inputs": 1,
        "unbounded_inputs": 0,
        "output_rows": 3,
        "mixed_rows": 1,
        "input_rows": 4,
        "strict_rows": 4,
    }
    assert all(type(v) is int for v in q.describe().values())


def test_arrays_are_read_only():
    q = query(BOX + "(assert (<= Y_0 0))")
    with pytest.raises(ValueError):
        q.lower[0, 0] = 1


def test_signed_zeros_are_one_box():
    q = query("(assert (<= X_0 1)) (assert (or (and (>= X_0 0.0) (<= Y_0 0)) (and (>= X_0 -0.0) (>= Y_0 1))))")
    assert q.n_regions == 1


def test_many_disjuncts():
    count = 120_000
    lines = "".join(f"(and (>= X_0 {k}) (<= X_0 {k + 1}) (<= Y_0 {k % 7}))\n" for k in range(count))
    q = query(f"(assert (or {lines}))")
    assert (q.n_regions, q.n_disjuncts, q.n_rows) == (count, count, count)
    assert q.holds([count - 0.5], [(count - 1) % 7]) == count - 1
    assert q.holds([count + 0.5], [0]) == -1
    assert q.holds([0.5], [1]) == -1
