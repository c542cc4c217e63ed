"""Pieces of a model that see its input through a few whole numbers only, and whose inner shapes depend on these.

A model that computes a position, cuts there and pastes there (a mask at a computed place, say) has tensors whose shapes
change with the position; no network of static shapes can say what they are. Seen from outside such a piece is a plain
function of few integers, with a result of fixed shape: the piece becomes one node of kind 'Lookup', which looks up what
ONNX Runtime computes for given integers. Nothing is assumed about what happens inside.

A *gate* is an integer or truth value tensor of at most GATE entries, of fixed shape, that is computed from the input.
A tensor that depends on the input through gates alone, of at most GATE entries together, is *behind* them. It becomes
such a node if its own shape is fixed, a tensor of open shape is among its ancestors behind the gates, and it is read
from elsewhere. Shapes are open as `verifier.net.trace` says.
"""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import onnx
from onnx import helper, numpy_helper

from verifier.net.draft import Raw
from verifier.net.nested import graphs_in, operators_in, reads
from verifier.net.runtime import element_type, session_of
from verifier.net.trace import RANDOM, Trace

GATE = 4  # integers that a piece may depend on
LARGEST = 2**24  # entries of all constants inside a piece


class Piece:
    """A function to one array, computed by ONNX Runtime.

    `run(arrays)` is its result, None where the model cannot be run. Of a function of integers results are kept, equal
    ones once: `at(key)` gives a number for the result, `results[number]` the array; -1 where the model cannot be run.
    """

    def __init__(self, model: onnx.ModelProto):
        self.model = model
        self.inputs = [
            (i.name, tuple(d.dim_value for d in i.type.tensor_type.shape.dim), i.type.tensor_type.elem_type)
            for i in model.graph.input
        ]
        self.results: list[np.ndarray] = []
        self._session: Any = None
        self._known: dict[tuple[int, ...], int] = {}
        self._number: dict[bytes, int] = {}
        self._lock = threading.Lock()

    def at(self, key: tuple[int, ...]) -> int:
        """The number of the result for all entries of all inputs in order."""
        found = self._known.get(key)
        if found is None:
            found = self._known[key] = self._number_of(key)
        return found

    def __repr__(self) -> str:
        return f"Piece({hashlib.sha256(self.model.SerializeToString(deterministic=True)).hexdigest()})"

    def run(self, arrays: Sequence[np.ndarray]) -> np.ndarray | None:
        """The result on one array for each of `inputs`, of its shape and element type."""
        import onnxruntime as ort

        with self._lock:
            if self._session is None:
                self._session = session_of(ort, self.model.SerializeToString())
        try:
            (result,) = self._session.run(None, {name: x for (name, _, _), x in zip(self.inputs, arrays)})
        except Exception:
            return None
        return result

    def _number_of(self, key: tuple[int, ...]) -> int:
        arrays, start = [], 0
        for _, shape, kind in self.inputs:
            count = int(np.prod(shape, dtype=np.int64))
            value = np.array(key[start : start + count], dtype=np.int64).reshape(shape)
            arrays.append(value.astype(helper.tensor_dtype_to_np_dtype(kind)))
            start += count
            if (arrays[-1].astype(np.int64) != value).any():  # no number of this type
                return -1
        result = self.run(arrays)
        if result is None:
            return -1
        with self._lock:
            mark = str(result.shape).encode() + result.tobytes()
            if mark not in self._number:
                self.results.append(result)
                self._number[mark] = len(self.results) - 1
            return self._number[mark]


def look_up(t: Trace, model: onnx.ModelProto, keep: tuple[str, ...] = ()) -> None:
    """Replaces the pieces of a traced model by lookups: `t.raws` changes, everything else stays."""
    if not t.open_shapes:
        return
    behind, wild = gates_of(t)
    wanted = {*t.outputs, *keep}
    for raw in t.raws:
        if any(behind.get(o) is None for o in raw.outputs if o and o not in t.values):
            wanted.update(i for i in raw.inputs if i)
    raws = []
    for raw in t.raws:
        found = [o for o in raw.outputs if o in wanted and o in wild and behind.get(o) and o not in t.open_shapes]
        kept = tuple("" if o in found else o for o in raw.outputs)
        if any(kept):
            raws.append(replace(raw, outputs=kept))
        for name in found:
            piece = piece_of(t, model, name, behind[name].__contains__)
            raws.append(raw if piece is None else Raw("Lookup", piece[0], (name,), {"piece": piece[1]}, raw.origin))
    t.raws = raws


def gates_of(t: Trace) -> tuple[dict[str, frozenset[str] | None], set[str]]:
    """For every tensor that is not constant the gates it is behind (None: it sees the input itself), and which of
    them have an ancestor of open shape behind these gates."""
    behind: dict[str, frozenset[str] | None] = {}
    wild: set[str] = set()

    def entries(names: frozenset[str]) -> int:
        return sum(int(np.prod(t.shapes[n], dtype=np.int64)) for n in names)

    def may_be_gate(name: str) -> bool:
        return t.dtypes[name].kind in "iub" and name not in t.open_shapes and 0 < entries(frozenset((name,))) <= GATE

    for place in t.inputs:
        behind[place.name] = frozenset((place.name,)) if may_be_gate(place.name) else None
    for raw in t.raws:
        sources = [behind[i] for i in raw.inputs if i in behind]
        together = None if any(s is None for s in sources) else frozenset().union(*sources)
        if together is not None and entries(together) > GATE:
            together = None
        for name in raw.outputs:
            if not name or name in t.values:
                continue
            if together is None:
                behind[name] = frozenset((name,)) if may_be_gate(name) else None
                continue
            behind[name] = together
            if name in t.open_shapes or any(i in wild for i in raw.inputs):
                wild.add(name)
    return behind, wild


def piece_of(
    t: Trace, model: onnx.ModelProto, name: str, stops: Callable[[str], bool], most: int = LARGEST
) -> tuple[tuple[str, ...], Piece] | None:
    """The tensors before `name` where one `stops` and the piece from them to `name`; None if it holds more
    than `most` entries of constants, or what has no value of its own (a random number)."""
    producer = {o: n for n in model.graph.node for o in n.output if o}
    order = {n: k for k, n in enumerate(producer)}
    nodes: dict[str, onnx.NodeProto] = {}
    constants: dict[str, np.ndarray] = {}
    used: set[str] = set()
    stack = [name]
    while stack:
        here = stack.pop()
        if here in t.values:
            constants[here] = t.values[here]
        elif here != name and (stops(here) or here not in producer):
            used.add(here)
        elif here not in nodes:
            nodes[here] = producer[here]
            stack += [i for i in reads(producer[here]) if i]
    if any(n.op_type in RANDOM or any(RANDOM & operators_in(g) for g in graphs_in(n)) for n in nodes.values()):
        return None
    if sum(v.size for v in constants.values()) > most:
        return None
    inputs = tuple(sorted(used))
    distinct = {id(n): (order[here], n) for here, n in nodes.items()}
    graph = helper.make_graph(
        [n for _, n in sorted(distinct.values(), key=lambda pair: pair[0])],
        "piece",
        [helper.make_tensor_value_info(i, element_type(t.dtypes[i]), t.shapes[i]) for i in inputs],
        [onnx.ValueInfoProto(name=name)],
        [numpy_helper.from_array(np.array(v), n) for n, v in constants.items()],
    )
    domains = {n.domain for n in nodes.values()} | {"", "ai.onnx"}
    ids = [o for o in model.opset_import if o.domain in domains]
    made = helper.make_model(graph, opset_imports=ids, ir_version=max(model.ir_version, 4))
    return inputs, Piece(made)
