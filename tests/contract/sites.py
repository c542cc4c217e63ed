"""Examples of places where operators stand, and the means to run them.

An example is a network in normal form that contains a node of the kind, and what it must compute: ONNX Runtime on the
model that the network was read from, or a formula in numpy for the kinds that no file contains.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import onnx
import torch
from onnx import TensorProto, helper, numpy_helper

from verifier.net.graph import Network, Node, Tensor
from verifier.net.load import load_network
from verifier.ops import OPS
from verifier.ops.base import Operator, Site
from verifier.ops.integers import exactly
from verifier.ops.integers import guided as guide

F = np.float32
Inputs = dict[str, tuple[int, ...] | np.ndarray | None]


def w(*shape: int, low: float = -1.0, high: float = 1.0, seed: int = 0) -> np.ndarray:
    """A reproducible float32 array."""
    return np.random.default_rng([seed, *shape]).uniform(low, high, shape).astype(F)


def i64(*values) -> np.ndarray:
    return np.array(values if len(values) != 1 else values[0], dtype=np.int64)


@dataclass
class Example:
    """`inputs` are drawn from [low, high]; `model` is None where `formula` says what to expect."""

    name: str
    model: onnx.ModelProto | None
    low: float
    high: float
    own: Network | None = None
    formula: Callable[..., np.ndarray] | None = None

    @cached_property
    def network(self) -> Network:
        return self.own if self.model is None else load_network(self.model, rewrite=False)

    def sample(self, n: int, seed: int = 0) -> list[np.ndarray]:
        """n points: one float64 array (n, *shape) per input, holding float32 numbers."""
        rng = np.random.default_rng(seed)
        shapes = [t.shape for t in self.network.inputs]
        return [rng.uniform(self.low, self.high, (n, *s)).astype(F).astype(np.float64) for s in shapes]

    @cached_property
    def session(self):
        """The model in ONNX Runtime, on one thread."""
        import onnxruntime as ort

        options = ort.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        options.log_severity_level = 4
        return ort.InferenceSession(self.model.SerializeToString(), options, providers=["CPUExecutionProvider"])

    def expected(self, xs: list[np.ndarray]) -> list[np.ndarray]:
        """Outputs (n, *shape) in float32, by an implementation that is not ours."""
        xs = [x.astype(F) for x in xs]
        if self.model is None:
            return [np.stack([self.formula(*(x[k] for x in xs)) for k in range(len(xs[0]))])]
        names = [i.name for i in self.session.get_inputs()]
        runs = [self.session.run(None, dict(zip(names, (np.asarray(x[k]) for x in xs)))) for k in range(len(xs[0]))]
        return [np.stack(parts) for parts in zip(*runs)]


def graph(name: str, nodes: list[onnx.NodeProto], inputs: Inputs, outputs="y", opset=17, low=-2.0, high=2.0) -> Example:
    """A model from nodes; a tuple in `inputs` is the shape of an input, an array an initializer."""
    proto = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info(n, TensorProto.FLOAT, v) for n, v in inputs.items() if isinstance(v, tuple)],
        [onnx.ValueInfoProto(name=o) for o in outputs.split()],
        [numpy_helper.from_array(v, n) for n, v in inputs.items() if isinstance(v, np.ndarray)],
    )
    ids = [helper.make_opsetid("", opset)]
    return Example(name, helper.make_model(proto, opset_imports=ids, ir_version=8 if opset < 22 else 10), low, high)


def one(op: str, inputs: Inputs, opset=17, low=-2.0, high=2.0, outputs="y", **attrs) -> Example:
    """A single node that reads `inputs` in order (None: absent)."""
    names = ["" if v is None else n for n, v in inputs.items()]
    return graph(op, [helper.make_node(op, names, outputs.split(), **attrs)], inputs, outputs, opset, low, high)


def chain(op: str, inputs: Inputs, casts: str, opset=17, low=-2.0, high=2.0, to=TensorProto.INT64, **attrs) -> Example:
    """A node whose inputs named in `casts` are computed integers."""
    nodes = [helper.make_node("Cast", [c], [c + "_int"], to=to) for c in casts.split()]
    names = [n + "_int" if n in casts.split() else n for n in inputs]
    return graph(op, [*nodes, helper.make_node(op, names, ["y"], **attrs)], inputs, "y", opset, low, high)


def comparison(op: str, **attrs) -> list[Example]:
    """A node with truth values, made numbers by a Cast: with two variables, with a constant on either side."""
    cast = helper.make_node("Cast", ["c"], ["y"], to=TensorProto.FLOAT)
    node = helper.make_node(op, ["a", "b"], ["c"], **attrs)
    pairs = [{"a": (2, 3), "b": (3,)}, {"a": (2, 3), "b": w(3)}, {"a": w(1, 3), "b": (2, 1)}]
    return [graph(op, [node, cast], p) for p in pairs]


def logic(op: str) -> list[Example]:
    nodes = [helper.make_node("Greater", [n, "zero"], [n + "_b"]) for n in ("a", "b")]
    nodes += [helper.make_node(op, ["a_b", "b_b"], ["c"]), helper.make_node("Cast", ["c"], ["y"], to=TensorProto.FLOAT)]
    return [graph(op, nodes, {"a": (2, 3), "b": (3,), "zero": np.zeros(1, F)})]


def bits(op: str, to: int, opset=18, low=-50.0, high=50.0, **attrs) -> list[Example]:
    """A node on integers, made of and made numbers by Casts: with two variables, with a constant on either side."""
    number = helper.tensor_dtype_to_np_dtype(to)
    found = []
    right, left = np.array([3, 1, 2], number), np.array([[7], [1]], number)
    for pair in ({"a": (2, 3), "b": (3,)}, {"a": (2, 3), "k": right}, {"k": left, "b": (2, 3)}):
        names = [n if n == "k" else n + "_int" for n in pair]
        nodes = [helper.make_node("Cast", [n], [n + "_int"], to=to) for n in pair if n != "k"]
        nodes.append(helper.make_node(op, names, ["c"], **attrs))
        nodes.append(helper.make_node("Cast", ["c"], ["y"], to=TensorProto.FLOAT))
        found.append(graph(op, nodes, pair, "y", opset, low, high))
    return found


def to_float(op: str, inputs: Inputs, opset=17, low=-2.0, high=2.0, **attrs) -> Example:
    """A single node whose result (truth values, integers) a Cast makes numbers."""
    node = helper.make_node(op, list(inputs), ["c"], **attrs)
    return graph(
        op, [node, helper.make_node("Cast", ["c"], ["y"], to=TensorProto.FLOAT)], inputs, "y", opset, low, high
    )


def internal(kind: str, inputs: Inputs, shape, formula, low=-2.0, high=2.0, **attrs) -> Example:
    """A kind that no file contains, and the formula it stands for."""
    variable = tuple(Tensor(n, v, np.dtype(F)) for n, v in inputs.items() if isinstance(v, tuple))
    constants = {n: v for n, v in inputs.items() if isinstance(v, np.ndarray)}
    node = Node("y", kind, tuple(inputs), shape, np.dtype(F), attrs)
    network = Network(variable, (node,), constants, (Tensor("y", shape, np.dtype(F)),), 17)
    return Example(kind, None, low, high, network, formula)


def site_of(network: Network, node: Node, known: dict[str, Tensor | Node], dtype: torch.dtype) -> Site:
    """The surroundings of a node; `known` has the variable tensors."""
    constants = tuple(None if n in known or not n else np.asarray(network.constants[n]) for n in node.inputs)
    places = [known.get(n) if c is None else c for n, c in zip(node.inputs, constants)]
    shapes, dtypes = (tuple(getattr(p, what, None) for p in places) for what in ("shape", "dtype"))
    return Site(
        node.kind,
        node.name,
        node.attrs,
        constants,
        shapes,
        node.shape,
        network.opset,
        dtype,
        torch.device("cpu"),
        node.dtype,
        in_dtypes=dtypes,
    )


def bind(network: Network, dtype: torch.dtype) -> list[tuple[Node, Operator, tuple[str, ...]]]:
    """(node, operator, names of its variable inputs) in order."""
    known: dict[str, Tensor | Node] = {t.name: t for t in network.inputs}
    steps = []
    for node in network.nodes:
        op = OPS[node.kind](site_of(network, node, known, dtype))
        steps.append((node, op, tuple(n for n in node.inputs if n in known)))
        known[node.name] = node
    return steps


def execute(network: Network, steps, xs: list[torch.Tensor], guided: bool = False) -> list[torch.Tensor]:
    """Outputs (N, *shape) by the operators' forwards, or their guides."""
    values = dict(zip([t.name for t in network.inputs], xs))
    for node, op, names in steps:
        values[node.name] = (guide(op) if guided else exactly(op))(*(values[n] for n in names))
    return [values[t.name] for t in network.outputs]
