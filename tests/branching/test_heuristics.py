"""Every registered heuristic: finite scores of the right shape whatever comes in; the dimension that matters wins."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from handmade import dense
from hypothesis import given, settings
from hypothesis import strategies as st
from queries import query

from verifier.bounds.chunks import bound_rows
from verifier.bounds.program import Program
from verifier.bounds.targets import Picked, Targets
from verifier.branching import HEURISTICS
from verifier.config import BranchingConfig
from verifier.problem import compile_problem

HEURISTICS.load()
NAMES = sorted(HEURISTICS)
INF = float("inf")


def test_the_configuration_offers_what_is_registered():
    choices = BranchingConfig.__dataclass_fields__["method"].metadata["choices"]
    assert sorted(choices) == NAMES


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("dtype", (torch.float32, torch.float64), ids=str)
@settings(max_examples=80, deadline=None, derandomize=True)
@given(seed=st.integers(0, 2**31))
def test_finite_whatever_comes_in(name, dtype, seed):
    rng = np.random.default_rng(seed)
    d, s, k, m = (int(n) for n in rng.integers(1, 5, 4))
    l = torch.from_numpy(rng.normal(size=(d, m))).to(dtype)
    width = torch.from_numpy(rng.choice([0.0, 1e-30, 1e-3, 1.0, 1e6], (d, m))).to(dtype)
    scale = width.amax(0).clamp(min=torch.finfo(dtype).tiny).unsqueeze(0)
    slope = torch.from_numpy(rng.choice([0.0, 1e-30, -1.0, 1e20, INF, -INF, np.nan], (d, s, m))).to(dtype)
    lb = torch.from_numpy(rng.choice([-INF, -1e300, -1.0, -0.0, 1e-300, INF, np.nan], (d, s)))
    slot, real = torch.from_numpy(rng.integers(0, k, (d, s))), torch.from_numpy(rng.random((d, s)) < 0.7)
    picked = Picked(torch.zeros_like(slot), torch.zeros_like(lb), slot, real, torch.zeros_like(real))
    score = HEURISTICS[name](l, l + width, scale, slope, lb, picked, k)
    assert score.shape == (d, m)
    assert bool(torch.isfinite(score).all()) and bool((score >= 0).all())


def scores(name: str, weights: list, l: list, u: list, rows: list, kind: str = "Relu") -> torch.Tensor:
    """Of one box and one disjunct with `rows` = (coefficients of the outputs, constant)."""
    network = dense(weights, [np.zeros(np.shape(w)[1]) for w in weights], kind)
    m, p = network.n_inputs, network.n_outputs
    disjunct = [({m + j: c for j, c in enumerate(coefs)}, const) for coefs, const in rows]
    problem = compile_problem(network, query(m, p, [(l, u)], [(0, disjunct)]))
    program = Program(problem.network, torch.float64, "cpu")
    targets = Targets(problem, torch.float64, "cpu")
    lower, upper, region = torch.from_numpy(problem.lower), torch.from_numpy(problem.upper), torch.tensor([0])
    picked = targets.pick(region, targets.start(region))
    bounds = bound_rows(program, lower, upper, targets.coef, picked.row, "crown")
    lb = bounds.lb + picked.const
    return HEURISTICS[name](lower, upper, upper - lower, bounds.slope, lb, picked, targets.n_slots)[0]


def test_widest_takes_the_least_halved():
    l, u = torch.zeros((1, 3)), torch.tensor([[1.0, 2.0, 4.0]])
    scale = torch.tensor([[1.0, 8.0, 8.0]])
    picked = Picked(
        *(torch.zeros((1, 1), dtype=t) for t in (torch.int64, torch.float64, torch.int64, torch.bool, torch.bool))
    )
    nothing = torch.zeros((1, 1, 3))
    score = HEURISTICS["widest"](l, u, scale, nothing, torch.zeros((1, 1), dtype=torch.float64), picked, 1)
    assert score.tolist() == [[1.0, 0.25, 0.5]]


@pytest.mark.parametrize("kind", ("Relu", "Tanh", "LeakyRelu"))
def test_the_dimension_that_the_output_hangs_on_wins(kind):
    for matters in range(3):
        first = 0.01 * np.ones((3, 4))
        first[matters] = [1.0, -2.0, 1.5, 1.0]
        score = scores("sensitivity", [first, np.ones((4, 1))], [-1.0] * 3, [1.0] * 3, [([1.0], -0.5)], kind)
        assert int(score.argmax()) == matters and float(score.max()) > 5 * float(score.sort().values[-2])


def test_a_narrow_dimension_gains_little():
    first = np.array([[5.0], [1.0]])
    score = scores("sensitivity", [first, np.ones((1, 1))], [-0.01, -1.0], [0.01, 1.0], [([1.0], -0.5)])
    assert int(score.argmax()) == 1


def test_the_row_closest_to_refutation_speaks():
    """Two rows of one disjunct, each hanging on a dimension of its own; one of them lacks much more."""
    for close in (0, 1):
        lack = [-0.2, -9.0] if close == 0 else [-9.0, -0.2]
        rows = [([1.0, 0.0], 1.0 + lack[0]), ([0.0, 1.0], 1.0 + lack[1])]
        score = scores("sensitivity", [np.eye(2)], [-1.0, -1.0], [1.0, 1.0], rows)
        assert int(score.argmax()) == close


def test_every_dimension_keeps_a_share():
    """A dimension that nothing hangs on is still split one day; one of no width never is."""
    score = scores("sensitivity", [np.array([[1.0], [0.0]])], [-1.0, -1.0], [1.0, 1.0], [([1.0], 0.0)])
    assert 0 < float(score[1]) < float(score[0])
    flat = torch.tensor([[1.0, 0.0]])
    picked = Picked(
        *(torch.zeros((1, 1), dtype=t) for t in (torch.int64, torch.float64, torch.int64, torch.bool, torch.bool))
    )
    for name in NAMES:
        zero = torch.zeros((1, 1), dtype=torch.float64)
        score = HEURISTICS[name](torch.zeros((1, 2)), flat, torch.ones((1, 2)), torch.ones((1, 1, 2)), zero, picked, 1)
        assert float(score[0, 1]) == 0.0 < float(score[0, 0])
