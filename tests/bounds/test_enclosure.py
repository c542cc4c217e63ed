"""Bounds and planes of every registered method enclose what the network computes: no tolerance, boxes down to points.

Bounds are taken in both precisions; executions are in float64 with the same float32 weights, from the corners where the
planes are lowest, other corners and points between. The same checks are shown to catch bounds that were tampered with.
"""

from __future__ import annotations

import numpy as np
import pytest
import torch
from handmade import (
    FUNCTIONS,
    Sketch,
    boxes,
    points,
    random_branches,
    random_convolution,
    random_dense,
)
from hypothesis import given, settings
from hypothesis import strategies as st

from verifier.bounds import METHODS
from verifier.bounds import crown as crown_module
from verifier.bounds.program import Program
from verifier.ops.base import Nonlinear
from verifier.ops.piecewise import Relu

WIDTHS = (0.0, 1e-7, 1e-2, 0.5, 4.0)
DTYPES = (torch.float32, torch.float64)


def build(seed: int):
    rng = np.random.default_rng(seed)
    kinds = [str(k) for k in rng.choice(FUNCTIONS, 2)]
    shape = seed % 3
    if shape == 0:
        return random_dense(rng, (int(rng.integers(1, 5)), 6, 6, 6, 3), kinds[0])
    return random_convolution(rng, kinds) if shape == 1 else random_branches(rng, kinds)


def rows_of(rng: np.random.Generator, p: int, count: int, dtype: torch.dtype) -> torch.Tensor:
    """Rows (1, 4, p): an output, its negative, and two mixtures."""
    one = torch.eye(p, dtype=dtype)[int(rng.integers(p))]
    mixed = torch.from_numpy(rng.normal(size=(2, p))).to(dtype)
    return torch.cat([one[None], -one[None], mixed])[None].expand(count, -1, -1).contiguous()


def too_high(network, dtype: torch.dtype, run, seed: int) -> list[str]:
    """Where bounds or planes lie above an execution."""
    rng = np.random.default_rng(seed)
    program, reference = Program(network, dtype, "cpu"), Program(network, torch.float64, "cpu")
    l, u = boxes(rng, program.n_in, dtype, WIDTHS)
    rows = rows_of(rng, network.outputs[0].size, len(l), dtype)
    bounds = run(program, l, u, rows, 1 << 26)
    plane = bounds.plane.double()
    x = points(rng, l, u, plane)
    y = reference.forward(x.flatten(0, 1)).reshape(*x.shape[:2], -1)
    value = y @ rows.double().mT
    found = []
    for what, low in (("lb", bounds.lb.double()[:, None]), ("plane", x @ plane.mT + bounds.bias.double()[:, None])):
        bad = ~(low <= value)
        if bool(bad.any()):
            found.append(f"{what} by {float((low - value)[bad].max()):.3g}: {[n.kind for n in network.nodes]}")
    return found


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("method", sorted(METHODS))
@settings(max_examples=45, deadline=None, derandomize=True)
@given(seed=st.integers(0, 2**31))
def test_random_networks(method, dtype, seed):
    assert not too_high(build(seed), dtype, METHODS[method].run, seed)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("method", sorted(METHODS))
@pytest.mark.parametrize("kind", FUNCTIONS)
@pytest.mark.parametrize("join", ("Add", "Concat"))
def test_a_step_that_reads_a_value_twice(join, kind, method, dtype):
    """Both readings count when the step's result is bounded for a nonlinear reader."""
    for seed in range(4):
        rng = np.random.default_rng(seed)
        s = Sketch(2)
        h = s.function(s.linear("t", rng.normal(size=(2, 3)), rng.normal(size=3)), "Tanh")
        v = s.add("Add", (h, h)) if join == "Add" else s.concat(h, h)
        s.concat(s.function(v, kind), h)
        assert not too_high(s.network(), dtype, METHODS[method].run, seed)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("method", sorted(METHODS))
@pytest.mark.parametrize("kinds", [("Clip", "Clip"), ("Relu", "Clip", "Abs"), ("Abs", "Clip", "LeakyRelu", "Tanh")])
def test_functions_upon_functions_at_their_ends(kinds, method, dtype):
    """Boxes that end at kinks, single points on them included; no affine step comes between."""
    marks = [-0.5, 0.0, 0.75, -7.0, 7.0]
    ends = sorted({float(np.nextafter(F, d)) for m in marks for F in [np.float32(m)] for d in (-9, F, 9)})
    pairs = [(a, b) for a in ends for b in ends if a <= b]
    s = Sketch(1)
    x = s.linear("t", [[1.0]])
    for kind in kinds:
        x = s.function(x, kind)
    network = s.network()
    program, reference = Program(network, dtype, "cpu"), Program(network, torch.float64, "cpu")
    l, u = (torch.tensor(t, dtype=dtype)[:, None] for t in zip(*pairs))
    rows = torch.tensor([[[1.0], [-1.0]]], dtype=dtype).expand(len(l), -1, -1)
    bounds = METHODS[method].run(program, l, u, rows, 1 << 26)
    t = torch.linspace(0, 1, 9, dtype=torch.float64)
    marks = torch.tensor(ends, dtype=torch.float64)
    x = torch.cat([l.double() + (u - l).double() * t, marks.expand(len(l), -1)], 1)
    x = torch.minimum(torch.maximum(x, l.double()), u.double())
    y = reference.forward(x.reshape(-1, 1)).reshape(len(l), -1, 1)
    value = y @ rows.double().mT
    assert bool((bounds.lb.double()[:, None] <= value).all())
    plane = x[..., None] @ bounds.plane.double().mT + bounds.bias.double()[:, None]
    assert bool((plane <= value).all())


def sabotaged(how: str, monkeypatch):
    """CROWN with one thing wrong."""
    run = METHODS["crown"].run
    if how == "raised":
        return lambda *a: (b := run(*a))._replace(lb=b.lb + 1e-3)
    if how == "plane raised":
        return lambda *a: (b := run(*a))._replace(bias=b.bias + 1e-3)
    if how == "rows exchanged":
        return lambda *a: (b := run(*a))._replace(lb=b.lb.roll(1, 1))
    if how == "upper line moved":
        relax = Relu.relax

        def moved(self, l, u):
            lines = relax(self, l, u)
            return lines._replace(up_b=torch.where((l < 0) & (u > 0), lines.up_b - 0.05, lines.up_b))

        monkeypatch.setattr(Relu, "relax", moved)
    elif how == "part lost":
        seed_rows = crown_module.seed

        def lost(trace, value, index):
            rows, start = seed_rows(trace, value, index)
            first = min(rows.live)
            rows.live[first] = torch.where(torch.arange(len(rows.bias))[:, None] % 2 == 0, rows.live[first], 0.0)
            return rows, start

        monkeypatch.setattr(crown_module, "seed", lost)
    return run


@pytest.mark.parametrize("how", ("raised", "plane raised", "rows exchanged", "upper line moved", "part lost"))
def test_tampering_is_caught(how, monkeypatch):
    networks = [random_dense(np.random.default_rng(seed), (2, 6, 6, 3)) for seed in range(8)]
    clean = METHODS["crown"].run
    assert not any(too_high(n, torch.float64, clean, seed) for seed, n in enumerate(networks))
    wrong = sabotaged(how, monkeypatch)
    assert any(too_high(n, torch.float64, wrong, seed) for seed, n in enumerate(networks))


def test_the_networks_reach_every_function_and_both_ways_of_reading_twice():
    kinds, twice = set(), set()
    for seed in range(60):
        program = Program(build(seed), torch.float32, "cpu")
        kinds |= {s.node.kind for s in program.steps[1:] if isinstance(s.op, Nonlinear)}
        twice |= {s.node.kind for s in program.steps[1:] if len(set(s.inputs)) < len(s.inputs)}
    assert kinds == set(FUNCTIONS) and twice >= {"Add", "Concat"}
