"""Maxima and minima taken apart: the nodes announced, the same values, and intervals that lose nothing."""

from itertools import product

import numpy as np
import pytest
import torch
from tiny import check, kinds, model, node

from verifier.bounds.interval import step_interval
from verifier.bounds.program import Program
from verifier.net import local

rng = np.random.default_rng(12)


def rand(*shape):
    return rng.uniform(-1, 1, shape).astype(np.float32)


@pytest.mark.parametrize("order", ["x k", "k x"])
@pytest.mark.parametrize("shape", [(3,), (2, 1, 3), ()])
def test_with_a_constant(order, shape):
    assert kinds(check(model(node("Max", order), {"x": (2, 3)}, k=rand(*shape)))) == ["Add", "Relu", "Add"]
    assert kinds(check(model(node("Min", order), {"x": (2, 3)}, k=rand(*shape)))) == ["Sub", "Relu", "Sub"]


def test_with_zero_and_infinity():
    assert kinds(check(model(node("Max", "x k"), {"x": (2, 3)}, k=np.zeros(3, np.float32)))) == ["Relu"]
    for op, k in (("Max", -np.inf), ("Min", np.inf)):
        net = check(model([node(op, "x k", "h"), node("Sin", "h")], {"x": (2, 3)}, k=np.float32(k)))
        assert kinds(net) == ["Sin"]


@pytest.mark.parametrize("op, join", [("Max", "MaxJoin"), ("Min", "MinJoin")])
@pytest.mark.parametrize("z", [(2, 3), (3,), (4, 1, 3)])
def test_of_two(op, join, z):
    net = check(model(node(op, "x z"), {"x": (2, 3), "z": z}))
    assert kinds(net) == ["Sub", "Relu", join] and net.nodes[-1].name == "y"
    first, r, other = net.nodes[-1].inputs
    assert r == net.nodes[1].name and {first, other} == {"x", "z"}


def test_clip_by_tensors():
    net = check(model(node("Clip", "x lo hi"), {"x": (2, 3), "lo": (), "hi": ()}))
    assert kinds(net) == ["Sub", "Relu", "MaxJoin", "Sub", "Relu", "MinJoin"]


CASES = [
    {},
    {"strides": [2, 2]},
    {"strides": [2, 1], "pads": [1, 1, 0, 1]},
    {"strides": [2, 2], "ceil_mode": 1},
    {"auto_pad": "SAME_LOWER"},
    {"dilations": [2, 1], "strides": [1, 2], "pads": [2, 0, 1, 1]},
]


@pytest.mark.parametrize("attrs", CASES)
@pytest.mark.parametrize("kernel", [(3, 2), (2, 2), (1, 3), (3, 3)])
def test_max_pool(kernel, attrs):
    if attrs.get("pads") and any(p >= k for p, k in zip(attrs["pads"], kernel * 2)):
        attrs = {**attrs, "pads": [0] * 4}
    net = check(model(node("MaxPool", "x", kernel_shape=kernel, **attrs), {"x": (2, 2, 8, 7)}, opset=11))
    assert set(kinds(net)) <= {"Slice", "Gather", "Sub", "Relu", "MaxJoin"}
    assert kinds(net).count("Relu") == sum(k - 1 for k in kernel)


def test_max_pool_in_other_dimensions():
    assert kinds(check(model(node("MaxPool", "x", kernel_shape=[3]), {"x": (1, 2, 8)}))).count("Relu") == 2
    net = check(model(node("MaxPool", "x", kernel_shape=[2, 2, 2], strides=[2, 2, 2]), {"x": (1, 1, 4, 4, 5)}))
    assert kinds(net).count("Relu") == 3


def test_large_windows_stay():
    assert kinds(check(model(node("MaxPool", "x", kernel_shape=[4, 3]), {"x": (1, 1, 6, 6)}))) == ["MaxPool"]
    assert kinds(check(model(node("ReduceMax", "x"), {"x": (5, 2)}))) == ["ReduceMax"]


@pytest.mark.parametrize("op, join", [("ReduceMax", "MaxJoin"), ("ReduceMin", "MinJoin"), ("ReduceProd", "Mul")])
@pytest.mark.parametrize("keepdims, axes", list(product((0, 1), ([1], [-1, 1], [0, 2]))))
def test_reductions_over_few_entries(op, join, keepdims, axes):
    net = check(model(node(op, "x", axes=axes, keepdims=keepdims), {"x": (2, 3, 3)}, opset=13))
    lengths = [(2, 3, 3)[a] for a in axes]
    assert kinds(net).count(join) == sum(n - 1 for n in lengths)
    alone = check(model([node(op, "x", "h", axes=[0], keepdims=keepdims), node("Sin", "h")], {"x": (1, 3)}, opset=13))
    assert set(kinds(alone)) <= {"Reshape", "Sin"}


def test_there_is_an_end_to_growth(monkeypatch):
    monkeypatch.setattr(local, "MAX_NODES", 3)
    nodes = [node("Max", "x z", "h"), node("Min", "h z", "i"), node("Max", "i x")]
    net = check(model(nodes, {"x": (2,), "z": (2,)}))
    assert kinds(net).count("Max") + kinds(net).count("Min") >= 2


@pytest.mark.parametrize("op", ["Max", "Min"])
def test_intervals_of_a_join_are_those_of_the_extreme(op):
    """The box of max(a, b) is [max l, max u], to within rounding, and encloses what is computed."""
    cuts = [node("Slice", "x s m", "a"), node("Slice", "x m e", "b")]
    ends = {"s": np.array([0]), "m": np.array([3]), "e": np.array([6])}
    net = check(model([*cuts, node(op, "a b")], {"x": (6,)}, **ends))
    program = Program(net, torch.float32, "cpu")
    l = torch.from_numpy(rng.uniform(-2, 1, (50, 6)).astype(np.float32))
    u = l + torch.from_numpy(rng.uniform(0, 2, (50, 6)).astype(np.float32))
    boxes = [(l, u)]
    for step in program.steps[1:]:
        boxes.append(step_interval(step, [boxes[i] for i in step.inputs])[:2])
    extreme = torch.maximum if op == "Max" else torch.minimum
    low, high = boxes[-1]
    assert low.equal(extreme(l[:, :3], l[:, 3:])) and high.equal(extreme(u[:, :3], u[:, 3:]))
    points = l + (u - l) * torch.from_numpy(rng.random((20, 50, 6), np.float32))
    y = torch.stack([program.forward(p) for p in points])
    assert bool(((y >= low - 1e-6) & (y <= high + 1e-6)).all())
