"""Takes rows apart that a network treats alike and one by one, so that each becomes a value of its own.

A table (…, R, …) whose R rows go through the same layers and are added up at last is one value of the graph, although
no row knows of the others. Where only some of the rows move it is better to have each for itself: what does not move
need not be computed again (`verifier.bounds.still`). For the sum over an axis of V = f(g(…)) with functions that act
along that axis row by row,

    sum V = sum concat(V_1, …, V_R),    V_r = f(g(…)_r):

rows are pulled up through the functions until something else is met, of which a slice is taken. A product with a matrix
of a concatenation is likewise the sum of the parts' products with the matrix's parts.

It is the same function in real arithmetic: matrices are cut, never computed. Constants that are not known exactly
(`Network.errors`) are left where they are.

Symbols: R rows along an axis of a shape; the axis counts from the front.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np

from verifier.net.graph import Network, Node, Shape

MOST_ROWS = 32  # a table of more is left as it is
DEEPEST = 200  # functions through which rows are pulled up, at most
ALONE = {"Relu", "LeakyRelu", "Sigmoid", "Tanh", "Exp", "Abs", "Neg", "Clip", "Elu", "Softplus", "Reciprocal"}
PAIRED = {"Add", "Sub", "Mul", "Div"}
MIXING = {"Linear"}


class Rows:
    """The graph under change: nodes by name, in order, and what has been made of rows so far."""

    def __init__(self, network: Network):
        self.network = network
        self.by_name = {n.name: n for n in network.nodes}
        self.constants = dict(network.constants)
        self.nodes: list[Node] = []
        self.made: dict[tuple[str, int, int], str] = {}
        self.paying: dict[tuple[str, int], bool] = {}

    def emit(self, node: Node) -> str:
        self.nodes.append(node)
        return node.name

    def shape(self, name: str) -> Shape:
        if name in self.by_name:
            return self.by_name[name].shape
        if name in self.constants:
            return tuple(np.shape(self.constants[name]))
        return next(t.shape for t in self.network.inputs if t.name == name)

    def pays(self, name: str, axis: int, depth: int = 0) -> bool:
        """Whether rows of a value along an axis are computed one by one, by a matrix at least."""
        if (name, axis) not in self.paying:
            self.paying[name, axis] = self._pays(name, axis, depth)
        return self.paying[name, axis]

    def _pays(self, name: str, axis: int, depth: int) -> bool:
        n = self.by_name.get(name)
        if n is None or axis < 0 or depth > DEEPEST or not self.splits(n, axis):
            return False
        places = [(i, axis - len(n.shape) + len(self.shape(i))) for i in self.operands(n)]
        return n.kind in MIXING or any(self.pays(i, at, depth + 1) for i, at in places)

    def splits(self, n: Node, axis: int) -> bool:
        """Whether row r of the result depends on row r of the operands alone."""
        if any(i in self.network.errors for i in n.inputs):
            return False
        return n.kind in ALONE or n.kind in PAIRED or (n.kind in MIXING and axis < len(n.shape) - 1)

    @staticmethod
    def operands(n: Node) -> tuple[str, ...]:
        """The inputs whose rows belong to the result's rows."""
        return n.inputs[:1] if n.kind in MIXING or n.kind in ALONE else n.inputs

    def row(self, name: str, axis: int, r: int, depth: int = 0) -> str:
        """The tensor that is row r of another; itself where that has one row (or none) that all share."""
        shape = self.shape(name)
        if axis < 0 or shape[axis] == 1:
            return name
        key = (name, axis, r)
        if key not in self.made:
            self.made[key] = self._row(name, axis, r, (*shape[:axis], 1, *shape[axis + 1 :]), depth)
        return self.made[key]

    def _row(self, name: str, axis: int, r: int, shape: Shape, depth: int) -> str:
        new, n = f"{name}//row:{axis}:{r}", self.by_name.get(name)
        if name in self.constants:
            self.constants[new] = np.take(self.constants[name], [r], axis)
            return new
        if n is None or depth > DEEPEST or not self.splits(n, axis):
            cut = {"axes": (axis,), "starts": (r,), "ends": (r + 1,), "steps": (1,)}
            like = n or Node(name, "", (), (), self.network.dtype)
            return self.emit(Node(new, "Slice", (name,), shape, like.dtype, cut, like.origin))
        mine = self.operands(n)
        parts = tuple(self.row(i, axis - len(n.shape) + len(self.shape(i)), r, depth + 1) for i in mine)
        return self.emit(replace(n, name=new, inputs=(*parts, *n.inputs[len(mine) :]), shape=shape))

    # --- the two rewrites

    def total(self, n: Node) -> Node:
        """A sum over one axis of rows that are worth having apart, of them put side by side."""
        if n.kind not in ("ReduceSum", "ReduceMean") or len(n.attrs["axes"]) != 1:
            return n
        (axis,), (x, *rest) = n.attrs["axes"], n.inputs
        shape = self.shape(x)
        if not 1 < shape[axis] <= MOST_ROWS or not self.pays(x, axis):
            return n
        parts = tuple(self.row(x, axis, r) for r in range(shape[axis]))
        whole = Node(f"{x}//rows:{axis}:{n.name}", "Concat", parts, shape, n.dtype, {"axis": axis}, n.origin)
        return replace(n, inputs=(self.emit(whole), *rest))

    def spread(self, n: Node) -> Node:
        """A product with a matrix of tensors side by side, as a sum of products of the tensors."""
        joined = self.by_name.get(n.inputs[0])
        if n.kind != "Linear" or joined is None or joined.kind != "Concat":
            return n
        if joined.attrs["axis"] != len(joined.shape) - 1 or any(i in self.network.errors for i in n.inputs):
            return n
        weight, bias = self.constants.get(n.inputs[1]), n.inputs[2:]
        if weight is None or weight.ndim != 2 or any(i in self.constants for i in joined.inputs):
            return n
        total, at = "", 0
        for k, i in enumerate(joined.inputs):
            width, part = self.shape(i)[-1], f"{n.name}//part:{k}"
            self.constants[f"{part}:W"] = weight[at : at + width]
            at += width
            inputs = (i, f"{part}:W", *(bias if not k else ("",) * len(bias)))
            name = self.emit(replace(n, name=part, inputs=inputs))
            if k == len(joined.inputs) - 1:
                return replace(n, kind="Add", inputs=(total, name), attrs={})
            total = name if not k else self.emit(replace(n, name=f"{part}:sum", kind="Add", inputs=(total, name)))
        return n


def apart(network: Network) -> Network:
    """The network with rows apart wherever a sum over rows that matrices act on one by one is taken. The network itself
    where there is none.
    """
    rows = Rows(network)
    for n in network.nodes:
        new = rows.total(n)
        rows.emit(rows.spread(new) if new is n else new)
    if len(rows.nodes) == len(network.nodes):
        return network
    return replace(network, nodes=tuple(_in_order(rows.nodes, network)), constants=_read(rows))


def _in_order(nodes: list[Node], network: Network) -> list[Node]:
    """The nodes that outputs depend on, in order."""
    wanted, kept = {t.name for t in network.outputs}, []
    for n in reversed(nodes):
        if n.name in wanted:
            kept.append(n)
            wanted.update(n.inputs)
    return kept[::-1]


def _read(rows: Rows) -> Mapping[str, np.ndarray]:
    """The constants that somebody reads."""
    wanted = {i for n in rows.nodes for i in n.inputs} | {t.name for t in rows.network.outputs}
    return {k: v for k, v in rows.constants.items() if k in wanted}
