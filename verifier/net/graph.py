"""What a network is: pure data, topologically ordered, every shape static, every constant folded.

A `Network` is what the reader makes of an ONNX file and what the bounds are computed on. A node yields one tensor and
is named by it. Symbols: a shape is the ONNX tensor's whole static shape, its own batch dimension included.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

Shape = tuple[int, ...]


@dataclass(frozen=True)
class Tensor:
    """A named place in the graph with its static shape and element type."""

    name: str
    shape: Shape
    dtype: np.dtype

    @property
    def size(self) -> int:
        return int(np.prod(self.shape, dtype=np.int64))


@dataclass(frozen=True)
class Node:
    """One operator. `inputs` are tensor names in the operator's own order: a network input, an earlier node, a
    constant, or '' (absent).

    `attrs` are ONNX attributes as Python values (numbers, strings, tuples, numpy arrays). `origin` is the node's name
    in the file, or its first output's.
    """

    name: str
    kind: str
    inputs: tuple[str, ...]
    shape: Shape
    dtype: np.dtype
    attrs: Mapping[str, Any] = field(default_factory=dict)
    origin: str = ""

    @property
    def operator(self) -> str:
        """The kind, or the file's operator where ONNX Runtime computes it (`verifier.net.opaque`)."""
        return self.attrs["op"] if self.kind == "Opaque" else self.kind


@dataclass(frozen=True)
class Network:
    """`nodes` in topological order; `constants` holds only those that a node reads; `outputs` are tensor names in the
    file's order. `errors`: what some computed constants may be off by, entry by entry (`verifier.net.sure`)."""

    inputs: tuple[Tensor, ...]
    nodes: tuple[Node, ...]
    constants: Mapping[str, np.ndarray]
    outputs: tuple[Tensor, ...]
    opset: int
    source: str = ""
    errors: Mapping[str, np.ndarray] = field(default_factory=dict)

    @property
    def n_inputs(self) -> int:
        return sum(t.size for t in self.inputs)

    @property
    def n_outputs(self) -> int:
        return sum(t.size for t in self.outputs)

    @property
    def dtype(self) -> np.dtype:
        """float64 if any input is float64, else float32: the precision to work in. What the model receives is for
        each input's own type to say.
        """
        return np.dtype(np.float64 if any(t.dtype == np.float64 for t in self.inputs) else np.float32)

    def kinds(self) -> Counter:
        """How often each operator occurs."""
        return Counter(n.kind for n in self.nodes)
