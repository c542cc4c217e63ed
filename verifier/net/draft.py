"""A network while it is being rewritten: what the file says (`Raw`), and the normalised nodes made so far (`Draft`).

A rule turns one operator of the file into nodes of the normal form (the table is in `verifier.net.simplify`). It asks
the draft for shapes and constants and emits nodes into it; the last one emitted under a name of the file is that
tensor. A rule that needs a constant where the file has none raises `Dynamic`: the operator is then kept as
'<Op>Dynamic' with the file's inputs.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from verifier.net.graph import Node, Shape
from verifier.net.runtime import is_number
from verifier.net.sure import FEW, Sure, U
from verifier.registry import Registry

Rule = Callable[["Raw", "Draft"], None]
RULES: Registry[Rule] = Registry("rewrite", "verifier.net", "RULES")


UNREAD = "?"  # ends the kind of a node that is kept although what it computes is not understood
WHY = "//why"  # the attribute that says why


class Dynamic(Exception):
    """An input that decides on structure (axes, indices, pads, …) is not constant, or asks for what the normal form
    cannot say."""


@dataclass(frozen=True)
class Raw:
    """One operator as the file has it: attributes decoded, defaults of its opset filled in; `op` carries the domain if
    it is not ONNX's. `unread` says why it is not understood, if so."""

    op: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    attrs: Mapping[str, Any]
    origin: str = ""
    unread: str = ""

    def input(self, i: int) -> str:
        """Name of input i, '' where absent."""
        return self.inputs[i] if i < len(self.inputs) else ""


class Draft:
    """Nodes emitted so far, with the shape and element type of every tensor and the value of every constant one."""

    def __init__(
        self, shapes: dict[str, Shape], dtypes: dict[str, np.dtype], values: dict[str, np.ndarray], opset: int
    ):
        self.shapes, self.dtypes, self.values, self.opset = shapes, dtypes, values, opset
        self.nodes: list[Node] = []
        self.errors: dict[str, np.ndarray] = {}  # what constants that were computed may be off by
        self.rough: set[str] = set()  # those that are off by more than operators take for granted
        self.origin = ""
        self._made = 0

    def rank(self, name: str) -> int:
        return len(self.shapes[name])

    def is_constant(self, name: str) -> bool:
        return name in self.values

    def value(self, name: str) -> np.ndarray:
        """A constant's value; `Dynamic` if it depends on the network's inputs."""
        if name not in self.values:
            raise Dynamic(name)
        return self.values[name]

    def ints(self, name: str) -> tuple[int, ...]:
        """A constant list of integers."""
        return tuple(int(v) for v in np.ravel(self.value(name)))

    def fresh(self, base: str) -> str:
        """A new name made from a name of the file."""
        while True:
            self._made += 1
            name = f"{base.partition('//')[0]}//{self._made}"
            if name not in self.shapes:
                return name

    def constant(self, value: np.ndarray | Sure, base: str) -> str:
        """A new constant, named after the tensor it is made from."""
        sure = value if isinstance(value, Sure) else None
        name, value = self.fresh(base), np.asarray(value if sure is None else sure.v)
        if sure is not None:
            self.errors[name] = np.broadcast_to(sure.e, value.shape)
            if not sure.harmless:
                self.rough.add(name)
        self.values[name], self.shapes[name], self.dtypes[name] = value, value.shape, value.dtype
        return name

    def sure(self, name: str) -> Sure | None:
        """A constant with what it may be off by, None for what is not constant."""
        value = self.values.get(name)
        if value is None:
            return None
        if name in self.errors:
            return Sure(value, self.errors[name])
        made = "//" in name and value.dtype == np.float64
        return Sure(value, FEW * U * np.abs(value)) if made else Sure.of(value)

    def emit(self, kind: str, inputs: tuple[str, ...], name: str = "", shape: Shape | None = None, **attrs: Any) -> str:
        """Appends a node and returns its tensor's name. Without `name` a new one is made after the first input, and
        `shape` is needed."""
        if not name:
            name = self.fresh(inputs[0])
            self.shapes[name], self.dtypes[name] = tuple(shape), self.dtypes[inputs[0]]
        node = Node(name, kind, tuple(inputs), self.shapes[name], self.dtypes[name], attrs, self.origin)
        self.nodes.append(node)
        return name

    def emit_dtype(self, kind: str, inputs: tuple[str, ...], shape: Shape, dtype: np.dtype, **attrs: Any) -> str:
        """As `emit` under a new name, with an element type other than the first input's."""
        name = self.fresh(inputs[0])
        self.shapes[name], self.dtypes[name] = tuple(shape), np.dtype(dtype)
        return self.emit(kind, inputs, name, **attrs)

    def apply(self, raw: Raw) -> None:
        """Emits what `raw` becomes: by its rule, or unchanged where there is none."""
        self.origin = raw.origin
        start = len(self.nodes)
        why = raw.unread or self.odd_type(raw)
        try:
            if why:
                self.keep(replace(raw, attrs={**raw.attrs, WHY: why}), raw.op + UNREAD)
            elif raw.op in RULES:
                RULES[raw.op](raw, self)
            else:
                self.keep(raw, raw.op)
        except Dynamic:
            del self.nodes[start:]
            self.keep(raw, raw.op + "Dynamic")

    def odd_type(self, raw: Raw) -> str:
        """Names a tensor of `raw` whose element type no operator is modelled for, '' if there is none."""
        kinds = ((name, self.dtypes[name]) for name in (*raw.inputs, *raw.outputs) if name in self.dtypes)
        odd = next(((name, kind) for name, kind in kinds if not is_number(kind) and kind != np.dtype(object)), None)
        return f"the elements of {odd[0]!r} are of type {odd[1]}" if odd else ""

    def keep(self, raw: Raw, kind: str) -> None:
        """Emits `raw` as it is, one node per output in use; those after the first carry their number in the kind."""
        for k, name in enumerate(raw.outputs):
            if name and name not in self.values:
                self.emit(kind if k == 0 else f"{kind}:{k}", raw.inputs, name, **raw.attrs)


def normal_axis(axis: int, rank: int) -> int:
    """An axis counted from the front."""
    if not -rank <= axis < max(rank, 1):
        raise ValueError(f"axis {axis} is outside rank {rank}")
    return axis + rank if axis < 0 else axis


def normal_axes(axes: tuple[int, ...], rank: int) -> tuple[int, ...]:
    """Axes counted from the front, ascending."""
    return tuple(sorted(normal_axis(a, rank) for a in axes))


def reduced(shape: Shape, axes: tuple[int, ...]) -> Shape:
    """A shape with ones along the axes."""
    return tuple(1 if i in axes else d for i, d in enumerate(shape))
