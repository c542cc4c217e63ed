"""The suite of nonlinear networks is small and complete; every model runs as in ONNX Runtime, and has bounds."""

import csv
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch

from verifier.bounds import METHODS
from verifier.bounds.chunks import limits
from verifier.bounds.program import Program
from verifier.net.load import load_network
from verifier.problem import compile_problem
from verifier.spec.parse import parse_property

SUITE = Path(__file__).resolve().parents[1] / "benchmarks" / "nonlinear"


def rows() -> list[list[str]]:
    with open(SUITE / "instances.csv", newline="", encoding="utf-8") as f:
        return list(csv.reader(f))


def first_of_each() -> dict[str, str]:
    return {model: prop for model, prop, _ in reversed(rows())}


def test_every_file_is_listed_and_all_are_small():
    files = {p for folder in ("onnx", "vnnlib") for p in (SUITE / folder).iterdir()}
    assert files == {SUITE / name for row in rows() for name in row[:2]}
    assert sum(p.stat().st_size for p in files) < 1_500_000
    assert len(first_of_each()) == 7 and len(rows()) == 70


@pytest.mark.parametrize("model", first_of_each(), ids=lambda m: Path(m).stem)
def test_runs_as_in_onnx_runtime_and_has_bounds_that_prove_nothing_yet(model):
    """The maker picked radii at which the bounds of one row at least are below 0."""
    problem = compile_problem(load_network(SUITE / model), parse_property(SUITE / first_of_each()[model]))
    program = Program(problem.network, torch.float32, "cpu")
    x = np.random.default_rng(0).random((1, 64)).astype(np.float32)
    session = onnxruntime.InferenceSession((SUITE / model).read_bytes(), providers=["CPUExecutionProvider"])
    assert len(problem.moving) == 64
    np.testing.assert_allclose(
        program.forward(torch.from_numpy(x)).numpy(), session.run(None, {"image": x})[0], rtol=1e-4, atol=1e-4
    )
    l, u = (torch.from_numpy(e).float() for e in (problem.lower, problem.upper))
    rows = torch.from_numpy(problem.coef[:]).float()[None]
    with torch.no_grad():
        lb = METHODS.load()["crown"].run(program, l, u, rows, limits(l.device).rows).lb
    assert bool(torch.isfinite(lb).all())
    assert float(lb.min()) < 0
