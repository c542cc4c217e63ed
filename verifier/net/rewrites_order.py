"""The place of the largest (or smallest) entry of a softmax is that of its argument.

softmax(z)_i = exp(z_i) / S and log softmax(z)_i = z_i - log S with one S > 0 for a whole group, so within a group they
order entries as z does, equal ones included. Moves in between take the same entries of z as they take of the softmax's
values. Without it the difference of two entries is one linear row, which a relaxation of the softmax would blur.

In real arithmetic; in floating point an entry is rounded to the group's largest one only where their arguments agree to
a few units in the last place. Where float32 makes equal what is far apart, which place the file names hangs on that, so
there the function stays: among entries of a softmax without the largest, or for the least one, all may have underflowed
to 0; and a sigmoid saturates. A counterexample is run through the file's own operators before it counts.
"""

from __future__ import annotations

import numpy as np

from verifier.net.graph import Node
from verifier.net.local import Around, Local, Nodes, become

MOVES = ("Transpose", "Reshape", "Slice", "Gather")
NORMALISED = ("Softmax", "LogSoftmax")


def of_argument(n: Node, c: Around) -> Nodes | None:
    """ArgMax(moves(f(z))) as ArgMax(moves(z))."""
    path: list[Node] = []
    name = n.inputs[0]
    while (move := c.producer(name, *MOVES)) is not None and move.dtype.kind == "f":
        path.append(move)
        name = move.inputs[0]
    f = c.producer(name, *NORMALISED)
    if f is None or not c.room or not c.floats(f.inputs[0]) or c.shape(f.inputs[0]) != f.shape:
        return None
    place = np.arange(int(np.prod(f.shape))).reshape(f.shape)
    group = np.broadcast_to(place.min(f.attrs["axes"], keepdims=True), f.shape)
    for move in reversed(path):
        place, group = moved(move, place), moved(move, group)
    if (group != group.take([0], n.attrs["axis"])).any():
        return None
    if f.kind == "Softmax":  # only its largest entry never underflows
        whole = int(np.prod([f.shape[axis] for axis in f.attrs["axes"]]))
        distinct = bool(np.diff(np.sort(place, n.attrs["axis"]), axis=n.attrs["axis"]).all())
        if n.kind != "ArgMax" or not distinct or place.shape[n.attrs["axis"]] != whole:
            return None
    made: list[Node] = []
    x = f.inputs[0]
    for move in reversed(path):
        made.append(c.make(move, move.kind, (x,), move.shape, move.attrs))
        x = made[-1].name
    return [*made, become(n, n.kind, (x,), n.attrs)]


def moved(move: Node, x: np.ndarray) -> np.ndarray:
    """What a move makes of an array."""
    if move.kind == "Transpose":
        return x.transpose(move.attrs["perm"])
    if move.kind == "Gather":
        return x.take(move.attrs["indices"], move.attrs["axis"])
    if move.kind == "Slice":
        for axis, start, end, step in zip(*(move.attrs[k] for k in ("axes", "starts", "ends", "steps"))):
            x = x.take(range(start, end, step), axis)
        return x
    return x.reshape(move.shape)


RULES: dict[str, tuple[Local, ...]] = {"ArgMax": (of_argument,), "ArgMin": (of_argument,)}
