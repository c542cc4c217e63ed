"""A counterexample reads back as it was written, and what is none is refused with its place."""

import gzip

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from verifier.evidence import witness
from verifier.result import FileError, PropertyError, Witness

FLOATS = st.floats(allow_nan=False, allow_infinity=False)


@given(st.lists(FLOATS, min_size=1, max_size=6), st.lists(FLOATS, min_size=1, max_size=4))
def test_round_trip_is_exact(x, y):
    point = witness.parse(witness.render(Witness(np.array(x), np.array(y))))
    assert point.x.tobytes() == np.array(x).tobytes()
    assert point.y.tobytes() == np.array(y).tobytes()


def test_the_competition_form():
    text = witness.render(Witness(np.array([0.1, -2.0]), np.array([1e-7])))
    assert text == "((X_0 0.1)\n(X_1 -2.0)\n(Y_0 1e-07))"


@pytest.mark.parametrize("head", ["", "sat\n", "  sat \n\n"])
def test_a_verdict_may_stand_before_it_and_outputs_may_be_missing(tmp_path, head):
    path = tmp_path / "w.gz"
    path.write_bytes(gzip.compress((head + "( (X_1 +2) (X_0 .5)\n)\n").encode()))
    point = witness.read(path)
    assert point.x.tolist() == [0.5, 2.0] and point.y is None


@pytest.mark.parametrize(
    ("text", "part"),
    [
        ("", ":1:1: expected '('"),
        ("unsat\n", "expected '('"),
        ("sat\n", "found the end"),
        ("((X_0 1)", "found the end"),
        ("((X_0 1)\n(X_0 2))", ":2:2: X_0 is given twice"),
        ("((X_1 1))", "X_0 is missing"),
        ("((Y_0 1))", "X_0 is missing"),
        ("((X_0 one))", "expected a pair"),
        ("((X_0 1)) more", "expected the end"),
    ],
)
def test_what_is_none_is_refused(text, part):
    with pytest.raises(PropertyError) as error:
        witness.parse(text, "w")
    assert part in str(error.value) and "\n" not in str(error.value)


def test_files_that_cannot_be_read(tmp_path):
    with pytest.raises(FileError):
        witness.read(tmp_path / "none")
    (tmp_path / "half.gz").write_bytes(gzip.compress(b"((X_0 1))")[:-9])
    (tmp_path / "bytes").write_bytes(b"\xff\xfe\x80")
    for name in ("half.gz", "bytes"):
        with pytest.raises(FileError):
            witness.read(tmp_path / name)
