"""Reductions, clipping, many operands: the normal form has the announced kinds and attributes, and the same values."""

import numpy as np
import onnxruntime
import pytest
from tiny import check, kinds, model, node

I64 = np.int64
rng = np.random.default_rng(3)


def rand(*shape, dtype=np.float32):
    return rng.standard_normal(shape).astype(dtype)


def ints(*v):
    return np.array(v, I64)


def test_many_operands():
    inputs = {"x": (1, 3), "z": (2, 3), "w": (3,)}
    for op, kind in (("Sum", "Add"), ("Max", "Max"), ("Min", "Min")):
        assert kinds(check(model(node(op, "x z w"), inputs), rewrite=False)) == [kind, kind]
        assert kinds(check(model([node(op, "x", "h"), node("Relu", "h")], {"x": (1, 3)}))) == ["Relu"]
    assert kinds(check(model(node("Mean", "x z w"), inputs))) == ["Add", "Add", "Div"]


def test_square_is_a_power():
    net = check(model(node("Mul", "x x"), {"x": (1, 3)}))
    assert kinds(net) == ["Pow"] and net.constants[net.nodes[0].inputs[1]] == 2


def test_clip():
    assert check(model(node("Clip", "x", min=-1.0), {"x": (1, 3)}, opset=7)).nodes[0].attrs == {
        "min": -1.0,
        "max": np.inf,
    }
    wide = dict(min=-3.4028234663852886e38, max=3.4028234663852886e38)  # what float32 models say for none
    assert kinds(check(model([node("Clip", "x", "h", **wide), node("Relu", "h")], {"x": (1, 3)}, opset=7))) == ["Relu"]
    net = check(model(node("Clip", "x - hi"), {"x": (1, 3)}, dtype=np.float64, hi=np.float64(1e39)))
    assert net.nodes[0].attrs == {"min": -np.inf, "max": 1e39}
    net = check(model(node("Clip", "x - hi"), {"x": (1, 3)}, hi=np.float32(0.5)))
    assert net.nodes[0].attrs == {"min": -np.inf, "max": 0.5}
    assert kinds(check(model([node("Clip", "x", "h"), node("Relu", "h")], {"x": (1, 3)}))) == ["Relu"]
    n = [node("ReduceSum", "x", "s", keepdims=0), node("Clip", "x lo s")]
    assert kinds(check(model(n, {"x": (1, 3)}, lo=np.float32(-1)), rewrite=False)) == ["ReduceSum", "Max", "Min"]


@pytest.mark.parametrize("op", ["Softmax", "LogSoftmax"])
@pytest.mark.parametrize(
    "opset, axis, axes", [(11, 1, (1, 2)), (11, 2, (2,)), (11, None, (1, 2)), (13, 1, (1,)), (13, None, (2,))]
)
def test_softmax(op, opset, axis, axes):
    attrs = {} if axis is None else {"axis": axis}
    assert check(model(node(op, "x", **attrs), {"x": (2, 3, 4)}, opset=opset)).nodes[0].attrs == {"axes": axes}


@pytest.mark.parametrize("op", ["ReduceSum", "ReduceMean", "ReduceMax", "ReduceMin", "ReduceProd", "ReduceLogSumExp"])
@pytest.mark.parametrize("opset", [11, 13, 18])
@pytest.mark.parametrize("keepdims", [0, 1])
def test_reductions(op, opset, keepdims):
    by_input = opset >= (13 if op == "ReduceSum" else 18)
    n = node(op, "x a" if by_input else "x", keepdims=keepdims, **({} if by_input else {"axes": [-1, 0]}))
    m = model(n, {"x": (2, 3, 4)}, opset=opset, **({"a": ints(-1, 0)} if by_input else {}))
    net = check(m, rewrite=False)
    assert kinds(net) == [op] and net.nodes[0].attrs["axes"] == (0, 2)
    assert check(model(node(op, "x"), {"x": (2, 3)}, opset=opset), rewrite=False).nodes[0].attrs["axes"] == (0, 1)


def test_functions_of_reductions():
    for op in ("ReduceL1", "ReduceL2", "ReduceSumSquare"):
        check(model(node(op, "x", axes=[1], keepdims=0), {"x": (2, 3)}))
    check(model(node("ReduceLogSum", "x", axes=[1]), {"x": (2, 3)}), low=0.5)


def test_noop_reduction():
    if tuple(int(p) for p in onnxruntime.__version__.split(".")[:2]) < (1, 20):
        pytest.skip("earlier versions of ONNX Runtime fail on it")
    n = [node("ReduceSum", "x", "h", noop_with_empty_axes=1), node("Relu", "h")]
    assert kinds(check(model(n, {"x": (2, 3)}))) == ["Relu"]


def test_einsum():
    m = model(node("Einsum", "x z", equation="ij, jk -> ik"), {"x": (2, 3), "z": (3, 4)})
    assert check(m, rewrite=False).nodes[0].attrs == {"equation": "ij,jk->ik"}
