"""Real models, where they are at hand: what the reader makes of them computes what ONNX Runtime computes on the file.

One property per model gives the box that the points are drawn from. Read three ways: by the table (`interpret`),
through the registered operators in both precisions, and by onnx2torch where that converts the file. Differences are
measured against the output's largest entry.
"""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pytest
import torch
from interpret import interpret
from oracles import cut, onnx2torch_forward, run_ort

from verifier.net.load import check_supported, load_network
from verifier.ops import OPS
from verifier.ops.base import Site
from verifier.spec.parse import parse_property

ROOT = Path(__file__).resolve().parents[3] / "shared" / "vnncomp"
PER_BENCHMARK = 3
SMALL = 2_000_000  # bytes of a file that onnx2torch is asked to read as well


def instances():
    """(id, model, property): the first property of the first models of every benchmark."""
    found = []
    for table in sorted(ROOT.glob("*/instances.csv")):
        models = {}
        with table.open(newline="") as f:
            for row in csv.DictReader(f):
                models.setdefault(row["onnx"], row["vnnlib"])
        for onnx_name, prop in list(models.items())[:PER_BENCHMARK]:
            name = f"{table.parent.name}-{Path(onnx_name).stem[:40]}"
            found.append(pytest.param(table.parent / onnx_name, table.parent / prop, id=name))
    return found or [pytest.param(None, None, marks=pytest.mark.skip(reason=f"no real models in {ROOT}"))]


def through_operators(net, x, dtype):
    """All outputs on x (n,) by the operators' own forward, node after node."""
    values = {}
    for t, part in zip(net.inputs, cut(x, [t.shape for t in net.inputs], [t.dtype for t in net.inputs])):
        value = torch.from_numpy(part)[None]
        values[t.name] = value.to(dtype) if value.is_floating_point() else value
    for n in net.nodes:
        constants = tuple(net.constants.get(i) for i in n.inputs)
        shapes = tuple(
            tuple(values[i].shape[1:]) if i in values else (None if c is None else c.shape)
            for i, c in zip(n.inputs, constants)
        )
        device = torch.device("cpu")
        site = Site(n.kind, n.name, n.attrs, constants, shapes, n.shape, net.opset, dtype, device, n.dtype)
        y = OPS[n.kind](site).forward(*(values[i] for i in n.inputs if i in values))
        assert tuple(y.shape) == (1, *n.shape), n.name
        values[n.name] = y
    return np.concatenate([values[t.name].double().numpy().reshape(-1) for t in net.outputs])


def points(net, prop):
    """Two points of the property's first box; of [0, 1] where it does not say."""
    lower, upper = np.zeros(net.n_inputs), np.ones(net.n_inputs)
    query = parse_property(prop)
    if query.n_inputs == net.n_inputs and np.isfinite(query.lower[0]).all() and np.isfinite(query.upper[0]).all():
        lower, upper = query.lower[0], query.upper[0]
    rng = np.random.default_rng(5)
    # Where structure depends on x, shapes are those near zero.
    scale = 1e-3 if any("Dynamic" in k for k in net.kinds()) else 1.0
    xs = [lower + scale * (upper - lower) * rng.random(net.n_inputs) for _ in range(2)]
    return [np.concatenate([v.reshape(-1).astype(np.float64) for v in inputs_of(net, x)]) for x in xs]


def inputs_of(net, x):
    return cut(x, [t.shape for t in net.inputs], [t.dtype for t in net.inputs])


def difference(z, y):
    return float(np.abs(z - y).max() / max(np.abs(y).max(), 1e-30))


@pytest.mark.parametrize("model, prop", instances())
def test_real_models(model, prop):
    net = load_network(model)
    xs = points(net, prop)
    ys = run_ort(model if model.exists() else Path(f"{model}.gz"), xs)
    for x, y in zip(xs, ys):
        assert difference(interpret(net, x), y) < 1e-4
    OPS.load()
    if not set(net.kinds()) - set(OPS):
        check_supported(net)
        for dtype in (torch.float32, torch.float64):
            assert difference(through_operators(net, xs[0], dtype), ys[0]) < 1e-4
    packed = model if model.exists() else Path(f"{model}.gz")
    z = onnx2torch_forward(packed, xs[0]) if packed.stat().st_size < SMALL else None
    if z is not None:
        assert difference(z, ys[0]) < 1e-4
