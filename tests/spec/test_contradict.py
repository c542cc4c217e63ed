"""Disjuncts that contradict themselves: by hand, and against points, of which none may satisfy one."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from verifier.spec.contradict import contradicting
from verifier.spec.parse import parse_property

HEAD = "".join(f"(declare-const X_{i} Real)\n(assert (>= X_{i} 0))\n(assert (<= X_{i} 1))\n" for i in range(2))
HEAD += "".join(f"(declare-const Y_{i} Real)\n" for i in range(3))


def query(tmp_path, text: str):
    path = tmp_path / "p.vnnlib"
    path.write_text(HEAD + text)
    return parse_property(path)


@pytest.mark.parametrize(
    "text",
    [
        "(assert (> Y_0 Y_1)) (assert (> Y_1 Y_0))",
        "(assert (>= Y_0 Y_1)) (assert (< Y_0 Y_1))",
        "(assert (> Y_0 Y_1)) (assert (> Y_1 Y_2)) (assert (>= Y_2 Y_0))",
        "(assert (>= Y_0 0.5)) (assert (< Y_0 0.5))",
        "(assert (<= (* 3.0 Y_0) 0.3)) (assert (> (* 30.0 Y_0) 3.0))",
        "(assert (>= X_0 0.5)) (assert (< X_0 0.5))",
        "(assert (<= X_0 X_1)) (assert (> X_0 X_1))",
        "(assert (> X_0 1.0))",
        "(assert (> (+ X_0 X_1) 2.0))",
        "(assert (<= Y_0 X_0)) (assert (>= Y_0 Y_1)) (assert (> Y_1 1))",
        "(assert (<= (+ Y_0 Y_1) 1)) (assert (>= Y_0 1)) (assert (>= Y_1 0.5))",
    ],
)
def test_contradictions(tmp_path, text):
    q = query(tmp_path, text)
    assert q.n_disjuncts == 0 or q.empty.all() or contradicting(q).tolist() == [True]


@pytest.mark.parametrize(
    "text",
    [
        "(assert (>= Y_0 Y_1)) (assert (>= Y_1 Y_0))",
        "(assert (>= Y_0 0.5)) (assert (<= Y_0 0.5))",
        "(assert (>= X_0 0.5)) (assert (<= X_0 0.5))",
        "(assert (>= X_0 1.0))",
        "(assert (>= (+ X_0 X_1) 2.0))",
        "(assert (> Y_0 Y_1)) (assert (> Y_1 Y_2)) (assert (> Y_0 Y_2))",
        "(assert (<= Y_0 X_0)) (assert (>= Y_0 Y_1)) (assert (>= Y_1 1))",
    ],
)
def test_what_has_a_solution_is_none(tmp_path, text):
    assert not contradicting(query(tmp_path, text)).any()


def test_only_the_disjuncts_that_are(tmp_path):
    q = query(tmp_path, "(assert (or (and (> Y_0 Y_1) (< Y_0 Y_1)) (and (> Y_0 Y_1)) (and (< Y_2 0) (>= Y_2 0))))")
    assert contradicting(q).tolist() == [True, False, True]
    left = q.only(~contradicting(q))
    assert left.n_disjuncts == 1 and left.n_rows == 1 and left.term_var.tolist() == q.term_var[2:4].tolist()
    assert left.holds([0.0, 0.0], [1.0, 0.0, 0.0]) == 0 and left.holds([0.0, 0.0], [0.0, 1.0, 0.0]) == -1


COEFS = st.sampled_from([-2, -1, 0, 1, 3])


@settings(max_examples=300, deadline=None, derandomize=True)
@given(st.lists(st.tuples(st.lists(COEFS, min_size=5, max_size=5), COEFS, st.booleans()), min_size=1, max_size=5))
def test_no_point_satisfies_a_contradiction(tmp_path_factory, rows):
    """All points of a grid of halves, which holds most vertices of such small systems."""
    names = ["X_0", "X_1", "Y_0", "Y_1", "Y_2"]
    texts = []
    for coefs, const, strict in rows:
        terms = " ".join(f"(* {float(c)} {n})" for c, n in zip(coefs, names))
        texts.append(f"(assert ({'<' if strict else '<='} (+ {terms} {float(const)}) 0.0))")
    q = query(tmp_path_factory.mktemp("q"), "\n".join(texts))
    if not q.n_disjuncts or not contradicting(q).any():
        return
    rng = np.random.default_rng(0)
    for x in np.array(np.meshgrid([0, 0.5, 1], [0, 0.5, 1])).reshape(2, -1).T:
        for y in rng.integers(-6, 7, (40, 3)) / 2:
            assert q.holds(x, y) == -1
