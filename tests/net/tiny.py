"""Tiny models, and the check that a network in normal form computes what the model computes."""

from __future__ import annotations

import numpy as np
import onnx
from interpret import interpret
from onnx import TensorProto, helper, numpy_helper
from oracles import run_ort

from verifier.net.load import load_network

NUMPY = {np.dtype(np.float32): TensorProto.FLOAT, np.dtype(np.float64): TensorProto.DOUBLE}


def node(op, inputs, outputs="y", **attrs):
    """One node; inputs and outputs as names separated by blanks ('-' is absent)."""
    names = lambda s: ["" if n == "-" else n for n in s.split()]
    return helper.make_node(op, names(inputs), names(outputs), name=f"{op}_{outputs.split()[0]}", **attrs)


def model(nodes, inputs, opset=13, outputs="y", dtype=np.float32, **weights):
    """A model from nodes; `inputs` maps names to shapes, `weights` are the initializers."""
    elem = NUMPY[np.dtype(dtype)]
    graph = helper.make_graph(
        nodes if isinstance(nodes, list) else [nodes],
        "g",
        [helper.make_tensor_value_info(n, elem, s) for n, s in inputs.items()],
        [onnx.ValueInfoProto(name=o) for o in outputs.split()],
        [numpy_helper.from_array(np.asarray(v), n) for n, v in weights.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)


def check(m, tolerance=1e-5, low=-2.0, high=2.0, **options):
    """Loads the model, compares with ONNX Runtime on random points, and returns the network."""
    net = load_network(m, **options)
    assert not [n for n in net.nodes if n.kind in ("Identity", "Gemm", "Flatten", "Squeeze", "Unsqueeze", "Dropout")]
    known = {t.name for t in net.inputs} | set(net.constants) | {""}
    for n in net.nodes:
        assert set(n.inputs) <= known, f"{n.name} reads what is not there yet"
        known.add(n.name)
    assert {t.name for t in net.outputs} <= {n.name for n in net.nodes}
    assert set(net.constants) <= {i for n in net.nodes for i in n.inputs}
    rng = np.random.default_rng(7)
    xs = [rng.uniform(low, high, net.n_inputs) for _ in range(3)]
    for x, y in zip(xs, run_ort(m, xs)):
        z = interpret(net, x)
        np.testing.assert_allclose(z, y, rtol=0, atol=tolerance * max(1.0, np.abs(y).max()))
    return net


def kinds(net):
    return [n.kind for n in net.nodes]
