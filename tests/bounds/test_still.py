"""Bounds that walk over what moves alone hold for every point of the regions, and are as good as those that walk over
everything; which values move is found out; rows in float64 over float32 lines are sound too.
"""

from __future__ import annotations

import numpy as np
import pytest
import torch
from handmade import Sketch

from verifier.bounds import METHODS
from verifier.bounds.chunks import bound_rows, limits
from verifier.bounds.fine import usable
from verifier.bounds.interval import outward
from verifier.bounds.program import Program
from verifier.bounds.still import Still, reach
from verifier.net.apart import apart
from verifier.net.graph import Network

ROWS, FEATURES, REGIONS = 4, 3, 24
LIMIT = limits(torch.device("cpu"))


def network(seed: int) -> Network:
    """A sum over rows of a table, each weighed by its last entry, then two layers."""
    rng, s = np.random.default_rng(seed), Sketch(ROWS * (FEATURES + 1))
    table = s.add("Reshape", ("t",), (1, ROWS, FEATURES + 1))
    cut = lambda a, b: {"axes": (2,), "starts": (a,), "ends": (b,), "steps": (1,)}
    features = s.add("Slice", (table,), (1, ROWS, FEATURES), **cut(0, FEATURES))
    mask = s.add("Slice", (table,), (1, ROWS, 1), **cut(FEATURES, FEATURES + 1))
    x = s.add("Relu", (s.linear(features, rng.normal(size=(FEATURES, 6)), rng.normal(size=6)),))
    x = s.add("Relu", (s.linear(x, rng.normal(size=(6, 6)) / 2),))
    x = s.add("Mul", (x, mask), (1, ROWS, 6))
    x = s.add("ReduceSum", (x,), (1, 6), axes=(1,), keepdims=0)
    x = s.add("Sigmoid", (s.linear(x, rng.normal(size=(6, 5)), rng.normal(size=5)),))
    s.add("Reshape", (s.linear(x, rng.normal(size=(5, 2))),), (2,))
    return s.network()


def regions(seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Boxes (R, m) float64 of which one or two features move; the rest are numbers that float32 does not hold."""
    rng = np.random.default_rng(seed)
    low = rng.integers(-2, 3, (REGIONS, ROWS * (FEATURES + 1))) * 0.37
    high = low.copy()
    for r in range(REGIONS):
        row = 1 if r % 3 else rng.integers(ROWS)
        high[r, row * (FEATURES + 1) + rng.integers(FEATURES)] += rng.choice([0.01, 0.5, 2.0])
    return torch.from_numpy(low), torch.from_numpy(high)


def prepared(seed: int, dtype: torch.dtype):
    net, (lower, upper) = apart(network(seed)), regions(seed)
    program, fine = Program(net, dtype, "cpu"), Program(net, torch.float64, "cpu")
    return program, fine, Still(program, fine, lower, upper), lower, upper


def test_what_moves():
    program, _, still, lower, upper = prepared(0, torch.float32)
    assert still.share < 0.8 and not all(map(all, still.moves))
    rng = np.random.default_rng(1)
    for group, moves in enumerate(still.moves):
        for r in torch.nonzero(still.group == group).squeeze(1):
            x = lower[r] + (upper[r] - lower[r]) * torch.from_numpy(rng.uniform(size=(50, lower.shape[1])))
            values = [x.double()]
            for step in still.fine.steps[1:]:
                values.append(step.op.forward(*(values[i] for i in step.inputs)))
            changed = [bool((v != v[:1]).any()) for v in values]
            assert all(m for m, c in zip(moves, changed) if c)


@pytest.mark.parametrize("method", ["crown", "forward", "interval"])
@pytest.mark.parametrize("kind", ["float32", "float64", "rows in float64"])
@pytest.mark.parametrize("seed", range(4))
def test_bounds_hold(method, kind, seed):
    METHODS.load()
    dtype = torch.float64 if kind == "float64" else torch.float32
    program, fine, still, lower, upper = prepared(seed, dtype)
    rows_in_float64 = kind == "rows in float64"
    l, u = (outward(t, dtype, sign) for t, sign in ((lower, -1), (upper, 1)))
    rng = np.random.default_rng(seed)
    coef = torch.tensor([[1.0, 0.0], [0.0, -1.0]], dtype=torch.float64 if rows_in_float64 else dtype)
    row = torch.tensor([[0, 1]]).expand(REGIONS, -1)
    region = torch.from_numpy(rng.permutation(REGIONS))
    l, u = l[region], u[region]
    fine_too = fine if rows_in_float64 else None
    found = still.bound(program, l, u, region, coef, row, method, LIMIT, None, fine_too)
    assert found.plane.dtype == found.bias.dtype == dtype
    part = torch.from_numpy(rng.uniform(size=(40, *l.shape)))
    x = lower[region] + (upper[region] - lower[region]) * torch.where(
        part < 0.2, 0.0, torch.where(part > 0.8, 1.0, part)
    )
    y = fine.forward(x.flatten(0, 1)).unflatten(0, (40, REGIONS)) @ coef.double().T
    plane = torch.einsum("dsm,ndm->nds", found.plane.double(), x) + found.bias.double()
    assert bool((found.lb.double() <= y + 1e-13).all()) and bool((plane <= y + 1e-13).all())
    if not rows_in_float64:  # as good as over everything
        whole = bound_rows(program, l, u, coef, row, method, LIMIT)
        assert bool((found.lb >= whole.lb - 1e-3).all())
    else:
        plain = still.bound(program, l, u, region, coef.float(), row, method, LIMIT)
        assert bool((found.lb >= plain.lb.double() - 1e-7).all())
        if method != "interval":
            assert float(found.charge.max()) < 1e-3 * float(plain.charge.max())


def test_boxes_are_shared_where_regions_agree():
    _, _, still, _, _ = prepared(2, torch.float32)
    value = max(still.frontiers[0], key=lambda i: len(still._different(i)[1]))
    at, first = still._different(value)
    dims = still.reach[:, value]
    assert bool((still.lower[first][at][:, dims] == still.lower[:, dims]).all())
    assert bool((still.upper[first][at][:, dims] == still.upper[:, dims]).all())


def test_small_groups_move_together():
    _, _, still, lower, upper = prepared(5, torch.float32)
    assert int(torch.bincount(still.group).min()) > 0
    for r in range(REGIONS):
        reached = still.reach[upper[r] > lower[r]].any(0)
        assert all(m for m, c in zip(still.moves[int(still.group[r])], reached.tolist()) if c)


def test_no_float64_rows_without_float32():
    program, fine, *_ = prepared(0, torch.float32)
    assert usable(program) and not usable(fine)


def test_a_single_number_without_axes_is_reached():
    s = Sketch(4)
    cut = lambda a: {"axes": (0,), "starts": (a,), "ends": (a + 1,), "steps": (1,)}
    parts = [s.reshape(s.function(s.add("Slice", ("t",), (1,), **cut(a)), "Relu")) for a in (0, 2)]
    s.reshape(s.add("Add", tuple(parts), ()), 1)
    found = reach(Program(s.network(), torch.float64, "cpu"))
    assert found[:, -1].tolist() == [True, False, True, False]
    assert found[:, -2].tolist() == [True, False, True, False]
