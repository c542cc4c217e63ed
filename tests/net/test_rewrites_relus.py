"""Opposite ReLUs undone, and sums of ReLUs of one number as tables."""

from fractions import Fraction

import numpy as np
import pytest
import torch
from tiny import check, kinds, model, node

from verifier.bounds.program import Program
from verifier.net.load import load_network
from verifier.problem import flatten

rng = np.random.default_rng(14)


def rand(*shape):
    return rng.uniform(-1, 1, shape).astype(np.float32)


def three(v, a, w, b, lead=(1,), **options):
    """Linear, Relu, Linear."""
    nodes = [node("Gemm", "x v a", "h"), node("Relu", "h", "r"), node("Gemm", "r w b")]
    return check(model(nodes, {"x": (*lead, len(v))}, v=v, a=a, w=w, b=b), **options)


def opposite(n):
    """Columns z and -z, shuffled, and where each pair went."""
    v, a = rand(4, n), rand(n)
    order = rng.permutation(2 * n)
    return np.concatenate([v, -v], 1)[:, order], np.concatenate([a, -a])[order], order


def test_a_split_identity_vanishes():
    v, a, order = opposite(6)
    w = rand(6, 3)
    net = three(v, a, np.concatenate([w, -w])[order], rand(3), (2,))
    assert kinds(net) == ["Linear"]


def test_maxima_need_one_relu_each():
    """max(p, q) = (p + q) / 2 + |p - q| / 2 by four ReLUs."""
    pairs = np.array([[1, 1], [-1, -1], [1, -1], [-1, 1]], np.float32).T
    v = np.kron(np.eye(4, dtype=np.float32), pairs)
    w = np.kron(np.eye(4, dtype=np.float32), np.array([[0.5], [-0.5], [0.5], [0.5]], np.float32))
    net = three(v, np.zeros(16, np.float32), w, rand(4))
    relus = [n for n in net.nodes if n.kind == "Relu"]
    assert [n.shape for n in relus] == [(1, 4)] and kinds(net).count("Add") == 1


def test_one_sided_pairs():
    """v_i relu(z) + v_j relu(-z) with any v: one ReLU a pair and a linear path; those without a partner stay."""
    v, a, order = opposite(6)
    v, a = np.concatenate([v, rand(4, 2)], 1), np.concatenate([a, rand(2)])
    net = three(v, a, rand(14, 5), rand(5))
    assert [n.shape for n in net.nodes if n.kind == "Relu"] == [(1, 8)]


def test_pairs_of_which_one_is_ignored():
    v, a, order = opposite(4)
    w = np.concatenate([rand(4, 2), np.zeros((4, 2), np.float32)])[order]
    net = three(v, a, w, rand(2))
    assert [n.shape for n in net.nodes if n.kind == "Relu"] == [(1, 4)]


@pytest.mark.parametrize("change", ["weight", "bias", "few", "read", "root"])
def test_only_opposite_to_the_last_bit(change):
    v, a, order = opposite(4)
    if change == "weight":
        v[0] = np.nextafter(v[0], np.float32(np.inf))
    if change == "bias":
        a[:] = np.nextafter(a, np.float32(np.inf))
    if change == "few":
        v, a = np.concatenate([v, rand(4, 24)], 1), np.concatenate([a, rand(24)])
    nodes = [node("Gemm", "x v a", "h"), node("Relu", "h", "r"), node("MatMul", "r w", "s"), node("Sin", "s", "y")]
    outputs = {"read": "y h", "root": "y r"}.get(change, "y")
    net = check(model(nodes, {"x": (1, 4)}, outputs=outputs, v=v, a=a, w=rand(v.shape[1], 2)))
    assert kinds(net) == ["Linear", "Relu", "Linear", "Sin"] and net.nodes[0].shape == (1, v.shape[1])


def test_tables_by_thresholds():
    """As a lookup of a function at given points is written: one ReLU a point, read from one number each."""
    t = np.sort(rand(7))
    nodes = [node("Unsqueeze", "x a", "u"), node("Sub", "u t", "h"), node("Relu", "h", "r"), node("MatMul", "r w", "s")]
    nodes.append(node("Sin", "s"))
    net = check(model(nodes, {"x": (2, 5)}, t=t, w=rand(7), a=np.array([2])))
    assert [k for k in kinds(net) if k != "Reshape"] == ["Table", "Sin"]
    (n,) = (n for n in net.nodes if n.kind == "Table")
    assert n.attrs["points"] == tuple(t.astype(float)) and n.attrs["slopes"][0] == 0


@pytest.mark.parametrize("op, order", [("Sub", "t u"), ("Add", "u t"), ("Sub", "u t")])
def test_tables_of_either_sign(op, order):
    nodes = [node("Unsqueeze", "x a", "u"), node(op, order, "h"), node("Relu", "h", "r"), node("Gemm", "r w b")]
    net = check(model(nodes, {"x": (4,)}, t=rand(6), w=rand(6, 1), b=rand(1), a=np.array([1])))
    assert [k for k in kinds(net) if k != "Reshape"] == ["Table"]


def test_tables_by_a_linear_layer():
    """Weights of both signs and none: slopes on both sides, a constant part, breakpoints that coincide."""
    v, a = rand(1, 9), rand(9)
    v[0, 3] = 0.0
    v[0, 5], a[5] = v[0, 4], a[4]
    net = three(v, a, rand(9, 1), rand(1), (3,))
    assert kinds(net) == ["Table"]
    attrs = net.nodes[0].attrs
    assert len(attrs["points"]) == 7 and len(attrs["slopes"]) == 8


def test_what_is_no_table():
    assert kinds(three(rand(2, 5), rand(5), rand(5, 1), rand(1))) == ["Linear", "Relu", "Linear"]
    assert kinds(three(rand(1, 5), rand(5), rand(5, 2), rand(2))) == ["Linear", "Relu", "Linear"]
    assert kinds(three(rand(1, 80), rand(80), rand(80, 1), rand(1))) == ["Linear", "Relu", "Linear"]


def test_steep_tables_are_exact():
    """Two breakpoints that float32 cannot tell apart, between slopes of 1e12: nearly everything cancels."""
    first = np.float32(-3e11)
    b = np.array([first, np.nextafter(first, np.float32(-np.inf)), -0.6, -0.7])
    w, v = np.array([[1e12, 1e12, 1, 1]]), np.array([[1.0], [-1], [1], [-1]])
    w, b = w.astype(np.float32), b.astype(np.float32)
    nodes = [node("Gemm", "x w b", "h"), node("Relu", "h", "r"), node("MatMul", "r v")]
    net = load_network(model(nodes, {"x": (1, 1)}, w=w, b=b, v=v.astype(np.float32)))
    assert kinds(net) == ["Table"]
    for dtype in (torch.float32, torch.float64):
        program = Program(flatten(net, np.arange(1), np.zeros(1), np.zeros(0, np.int64)), dtype, "cpu")
        (step,) = (s for s in program.steps[1:] if s.node.kind == "Table")
        for x in (0.1, 0.30000001, 0.65, 0.9, -1.0):
            point = torch.tensor([[x]], dtype=dtype)
            low, high = step.op.interval((point, point))
            at = Fraction(float(point))
            true = sum(
                Fraction(float(o)) * max(Fraction(float(s)) * at + Fraction(float(t)), 0)
                for s, t, o in zip(w[0], b, v[:, 0])
            )
            assert Fraction(float(low)) <= true <= Fraction(float(high))
