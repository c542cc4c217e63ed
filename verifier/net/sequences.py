"""Sequences and optional values whose length and places are constant: kept account of, not computed.

`flat.lists[name]` has the names of a sequence's elements, or is None for an optional value that holds nothing; one that
holds something is known by the name of what it holds. A fold gives the names of the node's results, and raises `Stays`
where something depends on the input.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
from onnx import helper

if TYPE_CHECKING:
    from verifier.net.control import Flat

SEQUENCE_OPS = frozenset({"SequenceEmpty", "SequenceConstruct", "SequenceInsert", "SequenceErase", "SequenceAt"})
SEQUENCE_OPS |= {"SequenceLength", "ConcatFromSequence", "SplitToSequence", "Identity"}
SEQUENCE_OPS |= {"Optional", "OptionalGetElement", "OptionalHasElement"}


class Stays(Exception):
    """A node depends on the input, or becomes too large, and has to stay as it is."""


def attribute(node: onnx.NodeProto, name: str, default: Any) -> Any:
    return next((helper.get_attribute_value(a) for a in node.attribute if a.name == name), default)


def fold_sequence(flat: Flat, node: onnx.NodeProto, inputs: list[str], scope: Any) -> list[str]:
    """One operator on sequences or optional values."""
    op, base = node.op_type, next((o for o in node.output if o), "")
    if op.startswith("Optional"):
        return _optional(flat, node, inputs, base)
    if op == "SplitToSequence":
        return [_account(flat, base, _split(flat, node, inputs, base))]
    if op in ("SequenceEmpty", "SequenceConstruct"):
        return [_account(flat, base, inputs)]
    parts = flat.lists.get(inputs[0])
    if parts is None:
        raise Stays
    if op == "Identity":
        return inputs
    if op == "SequenceLength":
        return [flat.constant(np.array(len(parts), np.int64), base)]
    if op == "SequenceAt":
        return [parts[_place(flat, inputs[1], len(parts))]]
    if op == "ConcatFromSequence":
        axis = attribute(node, "axis", 0)
        if not parts:
            raise Stays
        joined = flat.stacked if attribute(node, "new_axis", 0) else flat.joined
        return [joined(parts, axis, base)]
    parts = list(parts)
    if op == "SequenceErase":
        del parts[_place(flat, inputs[1], len(parts)) if len(inputs) > 1 and inputs[1] else len(parts) - 1]
    else:
        at = inputs[2] if len(inputs) > 2 else ""
        parts.insert(_place(flat, at, len(parts), 1) if at else len(parts), inputs[1])
    return [_account(flat, base, parts)]


def _optional(flat: Flat, node: onnx.NodeProto, inputs: list[str], base: str) -> list[str]:
    if node.op_type == "Optional":
        return inputs[:1] if inputs and inputs[0] else [_account(flat, base, None)]
    empty = not inputs or not inputs[0] or flat.lists.get(inputs[0], ()) is None
    if not empty and flat.maker(inputs[0]) in ("If", "Loop", "Optional"):
        raise Stays  # an optional value of the graph
    if node.op_type == "OptionalHasElement":
        return [flat.constant(np.array(not empty), base)]
    if empty:
        raise Stays  # ONNX Runtime says that there is nothing
    return inputs[:1]


def _account(flat: Flat, base: str, parts: list[str] | None) -> str:
    name = flat.fresh(base, "#s")
    flat.lists[name] = None if parts is None else list(parts)
    return name


def _place(flat: Flat, name: str, length: int, beyond: int = 0) -> int:
    """A constant place in a sequence, counted from the front."""
    value = flat.value(name)
    if value is None or value.size != 1:
        raise Stays
    place = int(value.reshape(())[()])
    if not -length <= place < length + beyond:
        raise Stays  # ONNX Runtime says what is wrong
    return place + length if place < 0 else place


def _split(flat: Flat, node: onnx.NodeProto, inputs: list[str], base: str) -> list[str]:
    """The pieces of a tensor along an axis: of the lengths given, of one length, or single entries."""
    axis, shape = attribute(node, "axis", 0), flat.shape(inputs[0])
    if shape is None:
        raise Stays
    whole, given = shape[axis], inputs[1] if len(inputs) > 1 else ""
    if not given and not attribute(node, "keepdims", 1):
        places = [flat.constant(np.array(k, np.int64), base) for k in range(whole)]
        return [flat.emit("Gather", (inputs[0], k), base, axis=axis) for k in places]
    lengths = flat.value(given) if given else np.array(1, np.int64)
    if lengths is None or (lengths <= 0).any():
        raise Stays
    if lengths.ndim == 0:
        ends = [min(whole, k + int(lengths)) for k in range(0, whole, int(lengths))]
    else:
        ends = np.cumsum(lengths).tolist()
    starts = [0, *ends[:-1]]
    axes = flat.constant(np.array([axis], np.int64), base)
    cuts = [
        (flat.constant(np.array([a], np.int64), base), flat.constant(np.array([b], np.int64), base))
        for a, b in zip(starts, ends)
    ]
    return [flat.emit("Slice", (inputs[0], a, b, axes), base) for a, b in cuts]
