"""Merged weights in which nearly everything cancels: bounds enclose what the file's own numbers make, exactly."""

from __future__ import annotations

from dataclasses import replace
from fractions import Fraction

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper

from verifier.bounds import METHODS
from verifier.bounds.program import Program
from verifier.net.load import load_network
from verifier.net.sure import HARMLESS, Sure, U, grain
from verifier.ops.arithmetic import DERIVED
from verifier.problem import flatten

F = np.float32
METHODS.load()
DRAW = np.random.default_rng(5)


def model(nodes, inputs, **weights) -> onnx.ModelProto:
    graph = helper.make_graph(
        [helper.make_node(op, i.split(), [o], **attrs) for op, i, o, attrs in nodes],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, inputs)],
        [onnx.ValueInfoProto(name="y")],
        [numpy_helper.from_array(np.asarray(v, F), n) for n, v in weights.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def exact(*matrices) -> np.ndarray:
    """A chain of matrix products and vectors to add, in fractions."""
    total = None
    for op, m in matrices:
        m = np.vectorize(Fraction)(np.asarray(m, np.float64))
        total = m if total is None else total @ m if op == "@" else total + m if op == "+" else total * m
    return total


def pair(n=40, k=3, scale=1e6):
    """V (1, n), W (n, k) whose product is far smaller than its terms: the last row of W nearly undoes the others."""
    v = DRAW.normal(size=(1, n)).astype(F) * F(scale)
    w = DRAW.normal(size=(n, k)).astype(F)
    v[0, -1] = F(scale)
    w[-1] = (-(v[:, :-1].astype(np.float64) @ w[:-1].astype(np.float64)) / v[0, -1]).astype(F)[0]
    v[0, -2] = (v[0, -2].astype(np.float64)).astype(F)
    return v, w


def linears():
    v, w = pair()
    nodes = [("MatMul", "x v", "h", {}), ("MatMul", "h w", "y", {})]
    return model(nodes, (1, 1), v=v, w=w), lambda x: exact(("", [[x]]), ("@", v), ("@", w))


def three():
    """The third matrix makes the sum of what the first two leave cancel once more."""
    v, w = pair()
    left = exact(("", v), ("@", w)).astype(np.float64)
    t = np.array([[1.0], [1.0], [0.0]], F)
    t[2] = F(-(left[0, 0] + left[0, 1]) / left[0, 2])
    nodes = [("MatMul", "x v", "h", {}), ("MatMul", "h w", "k", {}), ("MatMul", "k t", "y", {})]
    return model(nodes, (1, 1), v=v, w=w, t=t), lambda x: exact(("", [[x]]), ("@", v), ("@", w), ("@", t))


def shifts():
    """x + a + b + c, where a and c are large and b is what remains."""
    a, b = (DRAW.normal(size=3) * size for size in (1e9, 1e-3))
    a, b = a.astype(F), b.astype(F)
    nodes = [("Add", "x a", "h", {}), ("Add", "h b", "i", {}), ("Sub", "i a", "y", {})]
    return model(nodes, (3,), a=a, b=b), lambda x: exact(("", [x] * 3), ("+", a), ("+", b), ("+", -a))


def convolution():
    """A batch normalisation whose shift all but cancels the convolution's bias."""
    w, b = DRAW.normal(size=(4, 2, 1, 1)).astype(F), np.full(4, 1e6, F) + DRAW.normal(size=4).astype(F)
    nodes = [("Conv", "x w b", "h", {}), ("Mul", "h s", "i", {}), ("Add", "i t", "y", {})]
    s = DRAW.normal(size=(1, 4, 1, 1)).astype(F)
    t = -(b.astype(np.float64).reshape(s.shape) * s).astype(F)

    def truth(x):
        y = exact(("", [[x, x]]), ("@", w[:, :, 0, 0].T), ("+", b), ("*", s.reshape(-1)), ("+", t.reshape(-1)))
        return y

    return model(nodes, (1, 2, 1, 1), w=w, b=b, s=s, t=t), truth


CASES = {"linears": linears, "three": three, "shifts": shifts, "convolution": convolution}


@pytest.mark.parametrize("method", ["interval", "crown", "forward"])
@pytest.mark.parametrize("case", CASES)
def test_exact_values_lie_in_the_bounds(case, method):
    for _ in range(10):
        proto, truth = CASES[case]()
        net = load_network(proto)
        assert len(net.nodes) == 1, "nothing was merged"
        n, m = net.n_inputs, net.n_outputs
        program = Program(flatten(net, np.arange(n), np.zeros(n), np.zeros(0, np.int64)), torch.float64, "cpu")
        rows = torch.cat([torch.eye(m), -torch.eye(m)])[None].double()
        for x in (1.0, 0.37, -3.0):
            point = torch.full((1, n), x, dtype=torch.float64)
            low = METHODS[method].run(program, point, point, rows, 1 << 20).lb[0]
            for have, below, above in zip(truth(x).reshape(-1), low[:m], -low[m:]):
                assert Fraction(float(below)) <= have <= Fraction(float(above))
                assert float(above) - float(below) <= 1e-3


@pytest.mark.parametrize("case", ["linears", "three", "shifts"])
def test_without_their_errors_some_values_lie_outside(case):
    """What these tests are about is large enough to be seen."""
    outside = 0
    for _ in range(10):
        proto, truth = CASES[case]()
        net = replace(load_network(proto), errors={})
        n, m = net.n_inputs, net.n_outputs
        program = Program(flatten(net, np.arange(n), np.zeros(n), np.zeros(0, np.int64)), torch.float64, "cpu")
        rows = torch.cat([torch.eye(m), -torch.eye(m)])[None].double()
        point = torch.ones((1, n), dtype=torch.float64)
        low = METHODS["crown"].run(program, point, point, rows, 1 << 20).lb[0]
        outside += sum(not float(b) <= t <= -float(a) for t, b, a in zip(truth(1.0).reshape(-1), low[:m], low[m:]))
    assert outside


def test_sure_arithmetic_encloses():
    for _ in range(50):
        a, b = (DRAW.normal(size=(3, 3)) * 10.0 ** DRAW.integers(-9, 9, (3, 3)) for _ in "ab")
        p, q = (np.vectorize(Fraction)(t) for t in (a, b))
        ea, eb = np.abs(a) * 1e-12, np.abs(b) * 1e-13
        fa, fb = (np.vectorize(Fraction)(t) * s for t, s in ((ea, -1), (eb, 1)))
        x, y = Sure(a, ea), Sure(b, eb)
        found = (
            (x.plus(y), (p + fa) + (q + fb)),
            (x.times(y), (p + fa) * (q + fb)),
            (x.over(y), (p + fa) / (q + fb)),
            (x.matmul(y, np.matmul), (p + fa) @ (q + fb)),
            (Sure.of(a).plus(Sure.of(b)), p + q),
            (Sure.of(a).matmul(Sure.of(b), np.matmul), p @ q),
        )
        for have, want in found:
            for v, e, t in zip(have.v.ravel(), np.broadcast_to(have.e, have.v.shape).ravel(), want.ravel()):
                assert abs(Fraction(float(v)) - t) <= Fraction(float(e))


def test_what_counts_as_harmless_is_charged():
    assert HARMLESS <= DERIVED and U == torch.finfo(torch.float64).eps / 2


def test_what_is_exact_is_known_to_be():
    signs = DRAW.choice([-1.0, 0.0, 0.5, 1.0], (6, 8))
    v = DRAW.normal(size=(5, 6)).astype(F)
    assert Sure.of(v).matmul(Sure.of(signs), np.matmul).known
    assert Sure.of(v).times(Sure.of(v)).known and Sure.of(v).plus(Sure.of(0 * v)).known
    assert not Sure.of(v).matmul(Sure.of(v.T), np.matmul).known
    assert not Sure.of(v).plus(Sure.of(1e9 * v.astype(np.float64))).known
    assert grain(np.array([0.0, -6.0, 4.0])) == 2.0 and grain(np.array([1.5, 3.0])) == 0.5 and grain(np.zeros(2)) == 1.0


def test_batched_products_count_what_each_entry_sums():
    for _ in range(20):
        a = DRAW.normal(size=(4, 1, 5)) * 10.0 ** DRAW.integers(-9, 9, (4, 1, 5))
        b = DRAW.normal(size=(4, 5, 1)) * 10.0 ** DRAW.integers(-9, 9, (4, 5, 1))
        b[:, 4] = -(a[:, :, :4] @ b[:, :4])[:, 0] / a[:, 0, 4:]
        for p, q in ((a, b), (a.astype(F), b.astype(F))):
            have = Sure.of(p).matmul(Sure.of(q), np.matmul)
            for k in range(4):
                true = sum(Fraction(float(s)) * Fraction(float(t)) for s, t in zip(p[k, 0], q[k, :, 0]))
                e = float(np.broadcast_to(have.e, have.v.shape)[k, 0, 0])
                assert abs(Fraction(float(have.v[k, 0, 0])) - true) <= Fraction(e)
    v, w = np.array([[[2.0**30, 1, -(2.0**30)]]], F), np.array([[[2.0**30], [1], [2.0**30]]], F)
    assert not Sure.of(v).matmul(Sure.of(w), np.matmul).known  # 1, of which float64 keeps nothing


def test_a_shift_that_cancels_in_a_convolution_is_not_lost():
    """(x + t) * w with a sum of t w that float64 cannot hold: 2^60 + 1 - 2^60."""
    t = np.array([2.0**30, 1, 2.0**30], F).reshape(1, 3, 1, 1)
    w = np.array([2.0**30, 1, -(2.0**30)], F).reshape(1, 3, 1, 1)
    net = load_network(model([("Add", "x t", "h", {}), ("Conv", "h w", "y", {})], (1, 3, 1, 1), t=t, w=w))
    program = Program(flatten(net, np.arange(3), np.zeros(3), np.zeros(0, np.int64)), torch.float64, "cpu")
    point, rows = torch.zeros((1, 3), dtype=torch.float64), torch.tensor([[[1.0], [-1.0]]], dtype=torch.float64)
    for method in ("interval", "crown", "forward"):
        low, high = METHODS[method].run(program, point, point, rows, 1 << 20).lb[0].tolist()
        assert low <= 1 <= -high


def test_a_shift_known_badly_between_moves_is_read():
    big = np.array([1e20], F)
    nodes = [("Reshape", "x s", "a", {}), ("Add", "a p", "b", {}), ("Add", "b q", "c", {}), ("Sub", "c p", "d", {})]
    nodes += [("Relu", "d", "e", {}), ("Reshape", "e s2", "f", {}), ("Relu", "f", "y", {})]
    proto = model(nodes, (1, 4), p=big, q=np.array([1], F))
    for name, shape in (("s", (2, 2)), ("s2", (1, 4))):
        proto.graph.initializer.append(numpy_helper.from_array(np.array(shape, np.int64), name))
    assert load_network(proto).n_outputs == 4


def test_a_factor_that_is_one_but_for_rounding_stays():
    """x 3 (1 / 3): the product of the two constants is 1 as computed, and not exactly 1."""
    proto = model([("Mul", "x a", "h", {}), ("Mul", "h b", "i", {}), ("Relu", "i", "y", {})], (2,), a=3, b=1)
    proto.graph.initializer[1].CopyFrom(numpy_helper.from_array(np.array(1 / 3), "b"))
    proto.graph.initializer[0].CopyFrom(numpy_helper.from_array(np.array(3.0), "a"))
    for value in (*proto.graph.input, *proto.graph.output):
        value.type.tensor_type.elem_type = TensorProto.DOUBLE
    assert len(load_network(proto).nodes) == 2


def test_quotients_are_exact_only_where_they_are():
    six, three_, none = (Sure.of(np.array(t)) for t in (6.0, 3.0, 0.0))
    assert six.over(three_).known and not three_.over(Sure.of(np.array(7.0))).known
    assert np.isinf(six.over(none).e) and not Sure(six.v, np.array(1e-9)).over(three_).known
