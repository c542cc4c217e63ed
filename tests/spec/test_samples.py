"""The hand-written samples: every valid one has the reading that stands beside it, every invalid one the error."""

import json
from pathlib import Path

import numpy as np
import pytest
from spec_formulas import assert_same

from verifier.result import PropertyError
from verifier.spec import fast, general
from verifier.spec.normal import assemble
from verifier.spec.parse import parse_property

FOLDER = Path(__file__).resolve().parents[2] / "vnnlib"
VALID = sorted((FOLDER / "valid").glob("*.vnnlib"))
INVALID = sorted((FOLDER / "invalid").glob("*.vnnlib"))


def expected(path: Path) -> dict:
    return json.loads(path.with_suffix(".expected.json").read_text(encoding="utf-8"))


def rows_of(query, k: int) -> list[dict]:
    """Rows of disjunct k, written as the samples write them."""
    rows = []
    for m in range(query.row_start[k], query.row_start[k + 1]):
        span = slice(query.term_start[m], query.term_start[m + 1])
        names = [f"X_{v}" if v < query.n_inputs else f"Y_{v - query.n_inputs}" for v in query.term_var[span]]
        row = {"terms": dict(zip(names, query.term_coef[span])), "const": query.const[m], "line": query.line[m]}
        rows.append(row | ({"strict": True} if query.strict[m] else {}))
    return rows


def test_samples_are_found_and_paired():
    assert len(VALID) >= 10 and len(INVALID) >= 20
    for kind in ("valid", "invalid"):
        names = {p.name.removesuffix(".expected.json") for p in (FOLDER / kind).glob("*.expected.json")}
        assert names == {p.stem for p in (FOLDER / kind).glob("*.vnnlib")}


@pytest.mark.parametrize("path", VALID, ids=lambda p: p.stem)
def test_valid(path):
    want, query = expected(path), parse_property(path)
    assert (query.n_inputs, query.n_outputs) == (want["inputs"], want["outputs"])
    for name, have in (("lower", query.lower), ("upper", query.upper)):
        boxes = [[float(v) for v in region[name]] for region in want["regions"]]
        np.testing.assert_array_equal(have, np.array(boxes).reshape(-1, query.n_inputs))
    assert query.disjunct_region.tolist() == [d["region"] for d in want["disjuncts"]]
    assert [rows_of(query, k) for k in range(query.n_disjuncts)] == [d["rows"] for d in want["disjuncts"]]


@pytest.mark.parametrize("path", VALID, ids=lambda p: p.stem)
def test_both_readers_agree(path):
    data = path.read_bytes()
    quick = fast.read(data)
    assert ("general" if quick is None else "fast") == expected(path)["reader"]
    if quick is not None:
        assert_same(assemble(quick, "f"), assemble(general.read(data.decode(), "f"), "f"))


@pytest.mark.parametrize("path", INVALID, ids=lambda p: p.stem)
def test_invalid(path):
    want = expected(path)
    with pytest.raises(PropertyError) as caught:
        parse_property(path)
    assert caught.value.where == f"{path}:{want['where']}"
    assert str(caught.value) == f"{path}:{want['where']}: {want['message']}"


def test_folder_is_no_package():
    assert not list(FOLDER.rglob("__init__.py"))
