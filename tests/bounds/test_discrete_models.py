"""Models that compute with integers, truth values and places: every method's rows lie below what ONNX Runtime finds."""

from __future__ import annotations

import numpy as np
import onnx
import onnxruntime as ort
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper

from verifier.bounds import METHODS
from verifier.bounds.program import Program
from verifier.net.load import load_network

F = np.float32


def node(op, inputs, output, **attrs):
    return helper.make_node(op, ["" if i == "-" else i for i in inputs.split()], [output], **attrs)


def model(nodes, n, **weights):
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, (n,))],
        [onnx.ValueInfoProto(name="y")],
        [numpy_helper.from_array(v, k) for k, v in weights.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 16)], ir_version=8)


I64 = TensorProto.INT64
INTEGERS = [
    node("Cast", "x", "i", to=I64),
    node("Add", "i three", "a"),
    node("Mul", "a two", "b"),
    node("Div", "b three", "c"),
    node("Sub", "five c", "d"),
    node("Concat", "d five", "e", axis=0),
    node("ScatterElements", "e place a", "s", axis=0),
    node("Cast", "s", "f", to=TensorProto.FLOAT),
    node("Cast", "i", "g", to=TensorProto.FLOAT),
    node("Concat", "f g", "y", axis=0),
]
PATCH = [  # ones with a hole of three columns (fewer at the end) at a computed place, times an affine map of the input
    node("Slice", "x zero one", "p"),
    node("Cast", "p", "s", to=I64),
    node("Add", "s three", "t"),
    node("Slice", "columns s t", "at"),
    node("Unsqueeze", "at one", "index"),
    node("Shape", "at", "n"),
    node("ConstantOfShape", "n", "hole"),
    node("ScatterND", "ones index hole", "mask"),
    node("MatMul", "x W", "h"),
    node("Mul", "h mask", "y"),
]
PLACES = [
    node("MatMul", "x W", "h"),
    node("ArgMax", "h", "k", axis=0, keepdims=1),
    node("Gather", "h k", "top"),
    node("ArgMin", "h", "m", axis=0, keepdims=1),
    node("Equal", "k m", "same"),
    node("Not", "same", "other"),
    node("Where", "other h half", "w"),
    node("Greater", "w half", "b"),
    node("Cast", "b", "r", to=TensorProto.FLOAT),
    node("Concat", "top w r", "y", axis=0),
]
W = np.random.default_rng(5).normal(size=(2, 6)).astype(F)
MODELS = {
    "integers": model(INTEGERS, 2, three=np.array([3]), two=np.array([2]), five=np.array([5]), place=np.array([2, 0])),
    "patch": model(
        PATCH,
        2,
        zero=np.array([0]),
        one=np.array([1]),
        three=np.array([3]),
        columns=np.arange(6),
        ones=np.ones(6, F),
        W=W,
    ),
    "places": model(PLACES, 2, W=W, half=np.array([0.5], F)),
}
BOXES = (([0.0, -3.0], [9.0, 3.0]), ([2.0, 0.2], [2.4, 0.3]), ([5.5, -1.0], [5.5, -1.0]), ([-3.5, 0.0], [-0.5, 0.0]))


@pytest.mark.parametrize("dtype", (torch.float32, torch.float64), ids=str)
@pytest.mark.parametrize("name", MODELS)
def test_rows_lie_below_what_the_model_computes(name, dtype):
    network = load_network(MODELS[name])
    program = Program(network, dtype, "cpu")
    assert not program.without_bounds()
    session = ort.InferenceSession(MODELS[name].SerializeToString(), providers=["CPUExecutionProvider"])
    l, u = (torch.tensor([b[k] for b in BOXES], dtype=dtype) for k in (0, 1))
    p = network.outputs[0].shape[0]
    g = torch.Generator().manual_seed(0)
    rows = torch.cat([torch.eye(p), -torch.eye(p), torch.randn((3, p), generator=g)]).to(dtype)
    rows = rows.expand(len(BOXES), -1, -1).contiguous()
    t = torch.rand((len(BOXES), 40, 2), generator=g, dtype=dtype)
    t[:, :20] = t[:, :20].round()
    xs = l[:, None] + (u - l)[:, None] * t
    y = np.stack([[session.run(None, {"x": x.numpy().astype(F)})[0] for x in part] for part in xs])
    value = (torch.from_numpy(y).double() @ rows.double().mT).amin(1)
    tightest = -torch.inf * torch.ones_like(value)
    for method in METHODS.load():
        lb = METHODS[method].run(program, l, u, rows, 1 << 26).lb.double()
        assert (lb <= value + 1e-5).all(), method
        tightest = torch.maximum(tightest, lb)
    assert torch.isfinite(tightest).all()
    assert torch.allclose(tightest[2], value[2], atol=1e-4), "a point"


@pytest.mark.parametrize("name", ("integers", "patch"))
def test_settled_structure_is_exact(name):
    """Where the integers are settled, what is left is affine, and CROWN finds its range."""
    network = load_network(MODELS[name])
    program = Program(network, torch.float64, "cpu")
    l, u = torch.tensor([[2.0, 0.2]], dtype=torch.float64), torch.tensor([[2.4, 0.3]], dtype=torch.float64)
    p = network.outputs[0].shape[0]
    rows = torch.cat([torch.eye(p), -torch.eye(p)]).double()[None]
    lb = METHODS.load()["crown"].run(program, l, u, rows, 1 << 26).lb[0]
    corners = torch.cartesian_prod(*torch.stack([l[0], u[0]], 1))
    y = program.forward(corners).double()
    assert torch.allclose(lb, torch.cat([y.amin(0), -y.amax(0)]), atol=1e-6)
