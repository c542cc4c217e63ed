"""Products of quantised numbers: forward as ONNX Runtime, bounds around it, also where the quantisation jumps."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper

from verifier.bounds import METHODS
from verifier.bounds.program import Program
from verifier.net.load import load_network
from verifier.problem import flatten

F = np.float32
ALL = np.uint8, np.int8


def model(nodes, shape, outputs="y", opset=21, elem=TensorProto.FLOAT, **weights) -> onnx.ModelProto:
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", elem, shape)],
        [onnx.ValueInfoProto(name=o) for o in outputs.split()],
        [numpy_helper.from_array(np.asarray(v), k) for k, v in weights.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=10)


def node(op, inputs, output="y", **attrs):
    return helper.make_node(op, ["" if i == "-" else i for i in inputs.split()], output.split(), **attrs)


def numbers(seed: int, dtype, *shape):
    info = np.iinfo(dtype)
    return np.random.default_rng(seed).integers(info.min, info.max + 1, shape).astype(dtype)


def integer_product(kind) -> onnx.ModelProto:
    """Of a quantised input and a constant."""
    a, b = (ALL[int(k)] for k in kind[-2:])
    zero = np.array(7, a)
    first = node("QuantizeLinear", "x s z", "q")
    if kind.startswith("matmul"):
        w, bz = numbers(1, b, 6, 4), np.array(3, b)
        return model([first, node("MatMulInteger", "q w z bz")], (2, 6), s=F(0.05), z=zero, w=w, bz=bz)
    w, bz = numbers(2, b, 3, 2, 2), np.array(1, b)
    return model([first, node("ConvInteger", "q w z bz", pads=[1, 0])], (1, 2, 6), s=F(0.05), z=zero, w=w, bz=bz)


def quantised_product(kind) -> onnx.ModelProto:
    """The same, quantised again: by scales that are powers of 2 half of the products are halfway between two steps."""
    a, b = (ALL[int(k)] for k in kind[-2:])
    scale = F(0.5) if "ties" in kind else F(0.0371)
    put = {"s": scale, "z": np.array(7, a), "ys": scale * F(2 * 32), "yz": np.array(11, a), "ws": scale}
    first = node("QuantizeLinear", "x s z", "q")
    if kind.startswith("matmul"):
        w, bz = numbers(1, b, 6, 4), np.array(3, b)
        return model([first, node("QLinearMatMul", "q s z w ws bz ys yz")], (2, 6), w=w, bz=bz, **put)
    w, put["ws"] = numbers(2, b, 3, 2, 2), np.array([1, 2, 0.7], F) * scale
    bias = np.array([5, -70, 300], np.int32)
    last = node("QLinearConv", "q s z w ws bz ys yz bias", strides=[2])
    return model([first, last], (1, 2, 6), w=w, bz=np.array(0 if b == np.int8 else 128, b), bias=bias, **put)


def by_range() -> onnx.ModelProto:
    nodes = [node("DynamicQuantizeLinear", "x", "q s z"), node("MatMulInteger", "q w z", "i")]
    nodes += [node("Cast", "i", "f", to=1), node("Mul", "f s"), node("Cast", "q", "qf", to=1)]
    return model(nodes, (2, 6), "y s z qf", w=numbers(3, np.uint8, 6, 3))


def formats() -> dict[str, onnx.ModelProto]:
    """Types by attribute, blocks of scales, scales that move."""
    blocks = {"s": np.array([[0.1, 0.2], [0.05, 0.3]], F), "z": np.array([[1, 2], [3, 0]], np.int8)}
    both = [node("QuantizeLinear", "x s z", "q", block_size=3, axis=1)]
    both.append(node("DequantizeLinear", "q s z", block_size=3, axis=1))
    to = lambda t: [node("QuantizeLinear", "x s", "q", output_dtype=t), node("Cast", "q", to=1)]
    found = {f"to-{t}": model(to(t), (2, 6), s=F(0.02)) for t in (2, 3, 4, 5)}
    found["blocks"] = model(both, (2, 6), **blocks)
    nodes = [node("ReduceMax", "x", "m", keepdims=0), node("Abs", "m", "p"), node("Add", "p one", "s")]
    nodes += [node("QuantizeLinear", "x s z", "q"), node("DequantizeLinear", "q s z")]
    found["scale"] = model(nodes, (2, 6), one=F(0.1), z=np.array(9, np.uint8))
    return found


MODELS = {
    **{f"{op}{k}": integer_product(f"{op}{k}") for op in ("matmul", "conv") for k in ("00", "01", "11")},
    **{f"quantised-{op}{k}": quantised_product(f"{op}{k}") for op in ("matmul", "conv") for k in ("00", "01", "11")},
    **{f"{op}-ties{k}": quantised_product(f"{op}-ties{k}") for op in ("matmul", "conv") for k in ("01", "11")},
    "range": by_range(),
    **formats(),
}


@pytest.mark.parametrize("name", MODELS)
def test_bounds_hold_what_the_runtime_computes(name):
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.log_severity_level = 4
    session = ort.InferenceSession(MODELS[name].SerializeToString(), options, providers=["CPUExecutionProvider"])
    network = load_network(MODELS[name])
    n = network.n_inputs
    program = Program(flatten(network, np.arange(n), np.zeros(n), np.zeros(0, np.int64)), torch.float64, "cpu")
    assert not program.without_bounds()
    METHODS.load()
    rng = np.random.default_rng(0)
    shape = session.get_inputs()[0].shape
    for width in (0.0, 0.02, 0.3, 4.0):
        l = rng.uniform(-3, 3, n).astype(F)
        xs = (l + width * rng.random((20, n))).astype(F)
        ends = np.minimum(l, xs.min(0)), np.maximum(l, xs.max(0))
        box = [torch.from_numpy(e.astype(np.float64))[None] for e in ends]
        runs = [session.run(None, {"x": x.reshape(shape)}) for x in xs]
        want = np.stack([np.concatenate([np.asarray(o, np.float64).reshape(-1) for o in r]) for r in runs])
        have = program.forward(torch.from_numpy(xs.astype(np.float64))).numpy()
        same = np.isclose(have, want, 1e-5, 1e-5).mean()
        assert same > (0.9 if "ties" in name else 0.98), "but for roundings next to a step"
        eye = torch.eye(want.shape[1], dtype=torch.float64)
        low = np.concatenate([want.min(0), -want.max(0)])
        for method in ("interval", "crown"):
            lb = METHODS[method].run(program, *box, torch.cat([eye, -eye])[None], 1 << 28).lb[0].numpy()
            assert np.isfinite(lb).all() and (lb <= low + 1e-5 * (1 + abs(low))).all(), (method, width)
