"""Entries without bounds: rows that read none of them are bounded as if they were not there, all others are lost."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
import torch

sys.path.insert(0, str(Path(__file__).parents[1] / "search"))

from queries import query, refuse, search, settings  # noqa: E402

from verifier.bounds.chunks import bound_rows  # noqa: E402
from verifier.bounds.program import Program  # noqa: E402
from verifier.net.graph import Network, Node, Tensor  # noqa: E402
from verifier.result import Verdict  # noqa: E402
from verifier.search.neurons import NeuronSearch  # noqa: E402

F = np.dtype(np.float32)
N, H = 4, 6
WILD = {
    "log": [Node("g", "Log", ("r",), (2,), F)],  # -inf where r is 0
    "reciprocal": [Node("g", "Reciprocal", ("e",), (2,), F)],
    "root": [Node("g", "Sqrt", ("e",), (2,), F)],  # no value below 0
    "masked": [Node("g", "Add", ("e", "mask"), (2,), F)],
    "hidden": [Node("g0", "Add", ("e", "mask"), (2,), F), Node("g", "Tan", ("g0",), (2,), F)],
}


def network(kind: str | None, seed: int) -> Network:
    """Two hidden layers; with a `kind` some neurons between them have no bounds, and the last two outputs read them."""
    rng = np.random.default_rng(seed)
    w = lambda *shape: rng.normal(size=shape).astype(F)
    constants = {"a": w(N, H), "ab": w(H), "e0": w(N, 2), "b": w(H, H), "bb": w(H), "c": w(H, 3), "cb": w(3)}
    other, top = w(2, H), w(2, 2)
    nodes = [Node("h0", "Linear", ("x", "a", "ab"), (H,), F), Node("h", "Relu", ("h0",), (H,), F)]
    nodes += [Node("k0", "Linear", ("h", "b", "bb"), (H,), F), Node("k", "Relu", ("k0",), (H,), F)]
    nodes += [Node("y", "Linear", ("k", "c", "cb"), (3,), F)]
    if kind is None:
        return Network((Tensor("x", (N,), F),), tuple(nodes), constants, (Tensor("y", (3,), F),), 17)
    # The same with the wild pair beside h and beside k, from where only the last two outputs read it.
    constants["mask"] = np.array([-np.inf, -np.inf], F)
    constants["B"] = np.block([[constants["b"], np.zeros((H, 2), F)], [np.zeros((2, H), F), np.eye(2, dtype=F)]])
    constants["Bb"] = np.concatenate([constants["bb"], np.zeros(2, F)])
    constants["C"] = np.block([[constants["c"], other.T[:, :2]], [np.zeros((2, 3), F), top]])
    constants["Cb"] = np.concatenate([constants["cb"], np.zeros(2, F)])
    nodes = nodes[:2] + [Node("e", "Linear", ("x", "e0", ""), (2,), F), Node("r", "Relu", ("e",), (2,), F), *WILD[kind]]
    nodes += [Node("hg", "Concat", ("h", "g"), (H + 2,), F, {"axis": 0})]
    nodes += [
        Node("k0", "Linear", ("hg", "B", "Bb"), (H + 2,), F),
        Node("k", "Relu", ("k0",), (H + 2,), F),
    ]
    nodes += [Node("y", "Linear", ("k", "C", "Cb"), (5,), F)]
    return Network((Tensor("x", (N,), F),), tuple(nodes), constants, (Tensor("y", (5,), F),), 17)


@pytest.mark.parametrize("dtype", (torch.float32, torch.float64))
@pytest.mark.parametrize("method", ("interval", "crown", "forward"))
@pytest.mark.parametrize("kind", WILD)
def test_rows_are_poisoned_only_by_what_they_read(kind, method, dtype):
    rng = np.random.default_rng(1)
    l = torch.from_numpy(rng.uniform(-1, 0.5, (3, N))).to(dtype)
    u = l + torch.from_numpy(rng.uniform(0.1, 1.0, (3, N))).to(dtype)
    plain, wild = (Program(network(k, 7), dtype, "cpu") for k in (None, kind))
    rows = torch.from_numpy(rng.normal(size=(4, 3))).to(dtype)
    coef = torch.cat([torch.cat([rows, torch.zeros(4, 2, dtype=dtype)], 1), torch.eye(5, dtype=dtype)[3:]])
    row = torch.arange(6).expand(3, -1)
    want = bound_rows(plain, l, u, rows, row[:, :4], method)
    for domains in (slice(0, 3), slice(1, 2)):
        have = bound_rows(wild, l[domains], u[domains], coef, row[domains], method)
        assert torch.allclose(have.lb[:, :4], want.lb[domains], rtol=1e-3, atol=1e-3)
        assert torch.allclose(have.plane[:, :4], want.plane[domains], rtol=1e-2, atol=1e-2)
        assert not bool(torch.isnan(have.lb).any() | torch.isnan(have.plane).any())
        x = l[domains].unsqueeze(1) + (u - l)[domains].unsqueeze(1) * torch.rand(len(have.lb), 200, N, dtype=dtype)
        y = plain.forward(x.flatten(0, 1)).reshape(len(x), 200, 3)
        low = have.lb[:, :4].unsqueeze(1)
        assert bool((y @ rows.T >= low - 1e-4).all())
    assert kind in ("reciprocal", "root", "log") or bool((have.lb[:, 4:] == -torch.inf).all())


@pytest.mark.parametrize("kind", WILD)
def test_searches_go_on_beside_them(kind):
    """What plain networks decide is decided, by splitting inputs and neurons alike, and without an exception."""
    box = [([-1.0] * N, [1.0] * N)]
    grid = torch.rand(4000, N, generator=torch.Generator().manual_seed(0)) * 2 - 1
    least = float(Program(network(None, 3), torch.float32, "cpu").forward(grid)[:, 0].min())
    q = query(N, 5, box, [(0, [({N: 1.0}, -(least - 0.3 * (1 + abs(least))))])])
    lost = query(N, 5, box, [(0, [({N + 3: 1.0, N: 1e-3}, 1e9)])])
    for how in ({}, {"kind": NeuronSearch}):
        assert search(network(kind, 3), q, settings(attack="none"), refuse, **how).verdict == Verdict.UNSAT
        out = search(network(kind, 3), lost, settings(attack="none", rounds=3), refuse, seconds=3.0, **how)
        assert out.verdict in (Verdict.UNKNOWN, Verdict.TIMEOUT)


@pytest.mark.parametrize("kind", ("Softmax", "LogSoftmax", "ReduceLogSumExp", "ReduceMax"))
def test_masked_entries_take_no_part(kind):
    """Scores with a constant -inf among them are bounded as the scores without it are; of a softmax it is 0."""
    rng, keep = np.random.default_rng(0), [0, 1, 3]
    weight = rng.normal(size=(3, 5)).astype(F)
    over = kind.startswith("Reduce")

    def made(masked: bool) -> Program:
        k = 5 if masked else 3
        mask = np.where(np.isin(np.arange(5), keep), 0.0, -np.inf).astype(F)
        nodes = [Node("s0", "Linear", ("x", "w", ""), (k,), F), Node("s", "Reshape", ("s0",), (1, k), F)]
        nodes += [Node("m", "Add", ("s", "mask"), (1, k), F)] if masked else []
        shape = (1, 1) if over else (1, k)
        nodes += [
            Node("y", kind, (nodes[-1].name,), shape, F, {"axes": (1,), "keepdims": 1} if over else {"axes": (1,)})
        ]
        nodes += [Node("z", "Reshape", ("y",), (shape[1],), F)]
        constants = {"w": weight if masked else weight[:, keep], "mask": mask}
        return Program(
            Network((Tensor("x", (3,), F),), tuple(nodes), constants, (Tensor("z", (shape[1],), F),), 17),
            torch.float32,
            "cpu",
        )

    l, u = torch.full((2, 3), -0.5), torch.full((2, 3), 0.75)
    l[1] = 0.25
    rows = torch.tensor([[1.0], [-1.0]]) if over else torch.cat([torch.eye(3), -torch.eye(3), torch.ones(1, 3)])
    wide = rows if over else torch.zeros(len(rows), 5)
    if not over:
        wide[:, keep] = rows
    for method in ("interval", "crown", "forward"):
        want, have = (
            bound_rows(made(m), l, u, c, torch.arange(len(c)).expand(2, -1), method)
            for m, c in ((False, rows), (True, wide))
        )
        assert torch.allclose(have.lb, want.lb, atol=1e-5) and torch.allclose(have.plane, want.plane, atol=1e-5)
        if kind == "Softmax":
            unit = torch.tensor([[0.0, 0.0, -1.0, 0.0, 0.0]])
            assert bool(
                (bound_rows(made(True), l, u, unit, torch.zeros(2, 1, dtype=torch.int64), method).lb > -1e-6).all()
            )
