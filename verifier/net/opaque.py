"""Nodes that this project has no operator for, and that ONNX Runtime runs: they become nodes of kind 'Opaque'.

Such a network can be attacked and replayed, not bounded. A node 'Opaque' has the attributes `piece`
(`verifier.net.lookup`), the part of the model that ONNX Runtime computes in its place, from tensors of fixed shape to
one tensor of fixed shape, `op`, the operator that is to blame, and `why`, what is wrong with it. The piece is the node
itself where it reads and yields tensors of numbers whose shapes do not depend on the input. Otherwise what cannot be
seen from outside is *concealed* (sequences, tensors of open shape, element types that no operator is modelled for) and
belongs to the pieces of all that reads it, up to the next tensor that can be seen, or an output of the network.
"""

from __future__ import annotations

from collections.abc import Mapping

import onnx

from verifier.net.draft import Raw
from verifier.net.lookup import piece_of
from verifier.net.runtime import is_number
from verifier.net.trace import Trace

LARGEST = 2**28  # entries of all constants inside a piece: what a file of one gigabyte holds
Blame = tuple[str, str, str]  # operator, node, what is wrong


def conceal(t: Trace, model: onnx.ModelProto, strange: Mapping[str, str], keep: tuple[str, ...] = ()) -> bool:
    """Replaces in `t.raws` the operators that yield tensors in `strange`, or bear a name in it; whether there were any.
    `strange` says what is wrong with each. Everything else stays."""
    roots = {*t.outputs, *keep}
    blame: dict[str, Blame] = {}  # concealed tensor -> because of which operator it is
    raws: list[Raw] = []
    found = False
    for raw in t.raws:
        why = next((blame[i] for i in raw.inputs if i in blame), None)
        name = next((n for n in (raw.origin, *raw.outputs) if n and n in strange), None)
        if why is None and name is not None:
            why = raw.op, raw.origin, strange[name]
        made = None if why is None else pieces_for(t, model, raw, why, blame, roots)
        raws += [raw] if made is None else made
        found = found or made is not None
    t.raws = raws
    return found


def pieces_for(
    t: Trace, model: onnx.ModelProto, raw: Raw, why: Blame, blame: dict[str, Blame], roots: set[str]
) -> list[Raw] | None:
    """What stands in for `raw`: nothing for results that are concealed, which `blame` is told of, a piece for each of
    the others. None where there can be no piece."""
    made = []
    for name in raw.outputs:
        if not name or name in t.values:
            continue
        seen = is_number(t.dtypes[name]) and name not in t.open_shapes
        if not seen and name not in roots:
            blame[name] = why
            continue
        piece = piece_of(t, model, name, lambda here: here not in blame, LARGEST) if is_number(t.dtypes[name]) else None
        if piece is None:
            return None
        made.append(Raw("Opaque", piece[0], (name,), {"piece": piece[1], "op": why[0], "why": why[2]}, why[1]))
    return made
