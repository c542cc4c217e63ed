"""The tutorial's committed files are small, complete, and readable as what they claim to be."""

import csv
from pathlib import Path

import pytest

from verifier.net.load import load_network
from verifier.spec.parse import parse_property

DIGITS = Path(__file__).resolve().parents[1] / "benchmarks" / "digits"


def rows():
    with open(DIGITS / "instances.csv", newline="", encoding="utf-8") as f:
        return list(csv.DictReader(f))


def test_every_file_is_listed_and_all_are_small():
    files = [p for folder in ("onnx", "vnnlib") for p in (DIGITS / folder).iterdir()]
    listed = {DIGITS / r[kind] for r in rows() for kind in ("onnx", "vnnlib")}
    assert set(files) == listed
    assert sum(p.stat().st_size for p in files) < 300_000
    assert {r["expected"] for r in rows()} == {"sat", "unsat"}


@pytest.mark.parametrize("row", rows(), ids=lambda r: Path(r["vnnlib"]).stem)
def test_model_and_property_belong_together(row):
    network, query = load_network(DIGITS / row["onnx"]), parse_property(DIGITS / row["vnnlib"])
    assert (network.n_inputs, network.n_outputs) == (query.n_inputs, query.n_outputs) == (64, 10)
    assert query.n_disjuncts == 9 and not query.unbounded() and not query.empty.any()
