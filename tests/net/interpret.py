"""The normal form read literally: a numpy interpreter of a `Network`, written from the table in `simplify` alone.

Windows (Conv, pooling) and operators whose normal form is ONNX's own go to ONNX Runtime, one node at a time.
"""

from __future__ import annotations

import math

import numpy as np
import onnx
from onnx import helper, numpy_helper
from oracles import cut

from verifier.net.graph import Network, Node

BINARY = {
    "Add": np.add, "Sub": np.subtract, "Mul": np.multiply, "Max": np.maximum, "Min": np.minimum, "Pow": np.power,
    "MatMul": np.matmul, "Equal": np.equal, "Less": np.less, "Greater": np.greater,
}  # fmt: skip
UNARY = {
    "Relu": lambda x: np.maximum(x, 0), "Abs": np.abs, "Neg": np.negative, "Sqrt": np.sqrt, "Exp": np.exp,
    "Sigmoid": lambda x: 1 / (1 + np.exp(-x)), "Tanh": np.tanh, "Sin": np.sin, "Cos": np.cos, "Sign": np.sign,
    "Log": np.log, "Floor": np.floor, "Not": np.logical_not,
}  # fmt: skip
REDUCE = {"ReduceSum": np.sum, "ReduceMean": np.mean, "ReduceMax": np.max, "ReduceMin": np.min, "ReduceProd": np.prod}


def gelu_gate(n, x):
    if n.attrs["approximate"] == "tanh":
        return np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3))
    return np.vectorize(math.erf)(x / math.sqrt(2))


def interpret(net: Network, x: np.ndarray) -> np.ndarray:
    """All outputs on a flat x (n,), flat, float64."""
    values = {"": None, **net.constants}
    for t, part in zip(net.inputs, cut(x, [t.shape for t in net.inputs], [t.dtype for t in net.inputs])):
        values[t.name] = part
    for node in net.nodes:
        y = np.asarray(evaluate(node, net.opset, [values[i] for i in node.inputs]))
        assert y.shape == node.shape, (node, y.shape)
        values[node.name] = y.astype(node.dtype)
    for t in net.outputs:
        assert values[t.name].shape == t.shape and values[t.name].dtype == t.dtype
    return np.concatenate([values[t.name].astype(np.float64).reshape(-1) for t in net.outputs])


def evaluate(n: Node, opset: int, v: list) -> np.ndarray:
    if n.kind in BINARY:
        return BINARY[n.kind](*v)
    if n.kind in UNARY:
        return UNARY[n.kind](*v)
    if n.kind in REDUCE:
        return REDUCE[n.kind](v[0], axis=n.attrs["axes"], keepdims=bool(n.attrs["keepdims"]))
    if n.kind in RULES:
        return RULES[n.kind](n, *v)
    return by_runtime(n, opset, v)


def slice_(n: Node, x: np.ndarray) -> np.ndarray:
    for axis, start, end, step in zip(*(n.attrs[k] for k in ("axes", "starts", "ends", "steps"))):
        taken = list(range(start, end, step))
        assert all(0 <= i < x.shape[axis] for i in taken)
        x = x.take(taken, axis)
    return x


def place(n: Node, data: np.ndarray, updates: np.ndarray) -> np.ndarray:
    y = data.copy().reshape(-1)
    if n.attrs["reduction"] == "add":
        np.add.at(y, n.attrs["positions"], updates)
    else:
        y[n.attrs["positions"]] = updates
    return y.reshape(data.shape)


def pad(n: Node, x: np.ndarray) -> np.ndarray:
    pads, rank, mode = n.attrs["pads"], x.ndim, n.attrs["mode"]
    more = {"constant_values": n.attrs["value"]} if mode == "constant" else {}
    return np.pad(x, [(pads[i], pads[rank + i]) for i in range(rank)], mode=mode, **more)


def resize(n: Node, x: np.ndarray) -> np.ndarray:
    if n.attrs["mode"] == "nearest":
        for axis, indices in zip(n.attrs["axes"], n.attrs["indices"]):
            x = x.take(indices, axis)
        return x
    for axis, w in zip(n.attrs["axes"], n.attrs["weights"]):
        x = np.moveaxis(np.tensordot(w, x, (1, axis)), 0, axis)
    return x


def softmax(n: Node, x: np.ndarray) -> np.ndarray:
    axes = n.attrs["axes"]
    e = np.exp(x - x.max(axis=axes, keepdims=True))
    return e / e.sum(axis=axes, keepdims=True)


def one_hot(n: Node, i: np.ndarray) -> np.ndarray:
    i, depth = i.astype(np.int64), n.attrs["depth"]
    i = np.where((i < 0) & (i >= -depth), i + depth, i)
    hit = np.expand_dims(i, n.attrs["axis"]) == np.arange(depth).reshape([-1] + [1] * (i.ndim - n.attrs["axis"]))
    return np.where(hit, n.attrs["on"], n.attrs["off"])


def cumsum(n: Node, x: np.ndarray) -> np.ndarray:
    axis = n.attrs["axis"]
    x = np.flip(x, axis) if n.attrs["reverse"] else x
    y = np.cumsum(x, axis) - (x if n.attrs["exclusive"] else 0)
    return np.flip(y, axis) if n.attrs["reverse"] else y


def batch_normalization(n: Node, x: np.ndarray, scale: np.ndarray, shift: np.ndarray) -> np.ndarray:
    shape = (1, -1) + (1,) * (x.ndim - 2)
    return scale.reshape(shape) * x + shift.reshape(shape)


def table(n: Node, x: np.ndarray) -> np.ndarray:
    """The slopes times the stretches of the pieces between the first point and x."""
    points = [float(p) for p in n.attrs["points"]]
    ends = [-np.inf, *points, np.inf]
    lengths = [np.clip(x, a, b) - np.clip(points[0], a, b) for a, b in zip(ends[:-1], ends[1:])]
    return float(n.attrs["value"]) + sum(float(s) * d for s, d in zip(n.attrs["slopes"], lengths))


def lookup(n: Node, *v: np.ndarray) -> np.ndarray:
    piece = n.attrs["piece"]
    return piece.results[piece.at(tuple(int(e) for a in v for e in a.ravel()))]


def outside(n: Node, *v: np.ndarray) -> np.ndarray:
    piece = n.attrs["piece"]
    kinds = [helper.tensor_dtype_to_np_dtype(kind) for _, _, kind in piece.inputs]
    return piece.run([x.astype(kind) for x, kind in zip(v, kinds)])


def trees(n: Node, x: np.ndarray) -> np.ndarray:
    """Every row down every tree, one by one."""
    a, found = n.attrs, []
    together = {"SUM": np.sum, "MIN": np.min, "MAX": np.max}[a["aggregate"]]
    for row in x.reshape(-1, x.shape[-1]):
        leaves = []
        for at in a["roots"]:
            while at >= 0:
                v, c = float(row[a["feature"][at]]), a["cut"][at]
                at = a["yes" if (v <= c if a["closed"][at] else v < c) else "no"][at]
            leaves.append(a["weights"][-1 - at])
        found.append(together(leaves, axis=0))
    return np.array(found).reshape(n.shape)


RULES = {
    "MaxJoin": lambda n, b, r, a: b + r,
    "MinJoin": lambda n, a, r, b: a - r,
    "Share": lambda n, i, u: np.where(i > 0, i / np.where(i > 0, np.maximum(i, u), 1), 0),
    "Table": table,
    "Neg": lambda n, x: -x,
    "Reciprocal": lambda n, x: 1 / x,
    "Erf": lambda n, x: np.vectorize(math.erf)(x),
    "Softplus": lambda n, x: np.logaddexp(x, 0),
    "Gelu": lambda n, x: x * (1 + gelu_gate(n, x)) / 2,
    "Swish": lambda n, x: x / (1 + np.exp(-n.attrs["alpha"] * x)),
    "Mish": lambda n, x: x * np.tanh(np.logaddexp(x, 0)),
    "HardSwish": lambda n, x: x * np.clip(x / 6 + 0.5, 0, 1),
    "ReduceLogSumExp": lambda n, x: np.log(np.sum(np.exp(x), axis=n.attrs["axes"], keepdims=bool(n.attrs["keepdims"]))),
    "Linear": lambda n, x, w, b: x @ w + (0 if b is None else b),
    "Div": lambda n, a, b: a / b if n.dtype.kind == "f" else a // b,
    "BatchNormalization": batch_normalization,
    "Reshape": lambda n, x: x.reshape(n.shape),
    "Transpose": lambda n, x: x.transpose(n.attrs["perm"]),
    "Slice": slice_,
    "Concat": lambda n, *v: np.concatenate(v, n.attrs["axis"]),
    "Gather": lambda n, x: np.take(x, n.attrs["indices"], n.attrs["axis"]),
    "Pick": lambda n, x: x.reshape(-1)[n.attrs["positions"]],
    "Place": place,
    "Expand": lambda n, x: np.broadcast_to(x, n.shape),
    "Tile": lambda n, x: np.tile(x, n.attrs["repeats"]),
    "Pad": pad,
    "Resize": resize,
    "Cast": lambda n, x: x.astype(n.attrs["to"]),
    "Clip": lambda n, x: np.clip(x, n.attrs["min"], n.attrs["max"]),
    "Where": lambda n, c, a, b: np.where(c, a, b),
    "Softmax": softmax,
    "LogSoftmax": lambda n, x: np.log(softmax(n, x)),
    "OneHot": one_hot,
    "CumSum": cumsum,
    "LeakyRelu": lambda n, x: np.where(x > 0, x, n.attrs["alpha"] * x),
    "Lookup": lookup,
    "Opaque": outside,
    "Trees": trees,
    "TopK": lambda n, x: -np.sort(-x, n.attrs["axis"]).take(range(n.attrs["k"]), n.attrs["axis"]),
    "TopK:1": lambda n, x: np.argsort(-x, n.attrs["axis"], "stable").take(range(n.attrs["k"]), n.attrs["axis"]),
}


def by_runtime(n: Node, opset: int, v: list) -> np.ndarray:
    """The node by itself in ONNX Runtime, at the model's opset."""
    import onnxruntime as ort

    kind = n.kind.removesuffix("Dynamic")
    if n.dtype == np.float32:  # ONNX Runtime takes one type only: constants that were derived in float64 are rounded
        v = [a.astype(np.float32) if a is not None and a.dtype == np.float64 else a for a in v]
    present = [(f"i{k}", a) for k, a in enumerate(v) if a is not None]
    names = [f"i{k}" if a is not None else "" for k, a in enumerate(v)]
    infos = [helper.make_tensor_value_info(k, helper.np_dtype_to_tensor_dtype(a.dtype), a.shape) for k, a in present]
    schema = onnx.defs.get_schema(kind, opset, "")
    attrs = {k: a for k, a in n.attrs.items() if k in schema.attributes}  # ceil_mode is unknown to old opsets
    attrs = {k: numpy_helper.from_array(a) if isinstance(a, np.ndarray) else a for k, a in attrs.items()}
    node = helper.make_node(kind, names, ["y"], **attrs)
    graph = helper.make_graph([node], "g", infos, [onnx.ValueInfoProto(name="y")])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)
    options = ort.SessionOptions()
    options.log_severity_level = 4
    session = ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return session.run(None, dict(present))[0]
