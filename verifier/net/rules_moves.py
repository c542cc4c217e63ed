"""Normal forms of operators that only move entries (and of casts, which round them). The table is in
`verifier.net.simplify`.

Where entries are picked or placed by constant indices, the rule works on positions: it runs the indexing once on the
array of flat positions 0 … size-1, so that any indexing scheme becomes one list of positions.
"""

from __future__ import annotations

import math

import numpy as np

from verifier.net.draft import RULES, Draft, Dynamic, Raw, normal_axis


@RULES.add("Identity")
def identity(n: Raw, g: Draft) -> None:
    g.emit("Identity", (n.inputs[0],), n.outputs[0])


@RULES.add("Dropout")
def dropout(n: Raw, g: Draft) -> None:
    """At inference dropout passes its input on; the mask, if asked for, is constant."""
    if n.input(2) and bool(np.any(g.value(n.inputs[2]))):
        raise Dynamic("training mode")
    g.emit("Identity", (n.inputs[0],), n.outputs[0])


@RULES.add("Cast", "CastLike")
def cast(n: Raw, g: Draft) -> None:
    x, y = n.inputs[0], n.outputs[0]
    if g.dtypes[x] == g.dtypes[y]:
        g.emit("Identity", (x,), y)
    else:
        g.emit("Cast", (x,), y, to=g.dtypes[y].name)


@RULES.add("Flatten")
def flatten(n: Raw, g: Draft) -> None:
    g.emit("Reshape", (n.inputs[0],), n.outputs[0])


@RULES.add("Reshape", "Squeeze", "Unsqueeze")
def reshape(n: Raw, g: Draft) -> None:
    if n.input(1):
        g.value(n.inputs[1])  # the target or the axes; Dynamic unless constant
    g.emit("Reshape", (n.inputs[0],), n.outputs[0])


@RULES.add("Transpose")
def transpose(n: Raw, g: Draft) -> None:
    rank = g.rank(n.inputs[0])
    perm = n.attrs.get("perm") or tuple(reversed(range(rank)))
    g.emit("Transpose", (n.inputs[0],), n.outputs[0], perm=tuple(normal_axis(p, rank) for p in perm))


@RULES.add("Slice")
def slice_(n: Raw, g: Draft) -> None:
    """Before opset 10 starts, ends, axes are attributes. Python's own `slice.indices` clamps as ONNX says, for either
    sign of the step."""
    x = n.inputs[0]
    if g.opset < 10:
        starts, ends = n.attrs["starts"], n.attrs["ends"]
        axes, steps = n.attrs.get("axes"), None
    else:
        starts, ends = g.ints(n.inputs[1]), g.ints(n.inputs[2])
        axes = g.ints(n.inputs[3]) if n.input(3) else None
        steps = g.ints(n.inputs[4]) if n.input(4) else None
    axes = tuple(range(len(starts))) if axes is None else axes
    steps = (1,) * len(starts) if steps is None else steps
    shape = g.shapes[x]
    cuts = []
    for axis, *bounds in zip(axes, starts, ends, steps):
        a = normal_axis(axis, len(shape))
        taken = range(*slice(*bounds).indices(shape[a]))
        if taken != range(shape[a]):
            cuts.append((a, taken.start, taken.stop, taken.step))
    emit_slice(g, x, n.outputs[0], sorted(cuts))


def emit_slice(g: Draft, x: str, name: str, cuts: list[tuple[int, int, int, int]], shape=None) -> str:
    """A Slice from (axis, start, end, step) per axis; nothing to cut is an Identity."""
    if not cuts:
        return g.emit("Identity", (x,), name, shape)
    axes, starts, ends, steps = zip(*cuts)
    return g.emit("Slice", (x,), name, shape, axes=axes, starts=starts, ends=ends, steps=steps)


@RULES.add("Split")
def split(n: Raw, g: Draft) -> None:
    """Pieces by attribute (before 13), by input, or equal with a smaller last one (num_outputs, 18)."""
    x = n.inputs[0]
    axis = normal_axis(n.attrs.get("axis", 0), g.rank(x))
    total = g.shapes[x][axis]
    sizes = n.attrs.get("split") or (g.ints(n.inputs[1]) if n.input(1) else None)
    if sizes is None:
        piece = math.ceil(total / len(n.outputs))
        sizes = [max(0, min(piece, total - i * piece)) for i in range(len(n.outputs))]
    at = 0
    for name, length in zip(n.outputs, sizes):
        if name:
            emit_slice(g, x, name, [] if length == total else [(axis, at, at + length, 1)])
        at += length


@RULES.add("Concat")
def concat(n: Raw, g: Draft) -> None:
    """Empty pieces are left out; one piece alone passes through."""
    axis = normal_axis(n.attrs["axis"], g.rank(n.outputs[0]))
    parts = tuple(i for i in n.inputs if g.shapes[i][axis] > 0) or n.inputs[:1]
    if len(parts) == 1:
        g.emit("Identity", parts, n.outputs[0])
    else:
        g.emit("Concat", parts, n.outputs[0], axis=axis)


@RULES.add("Gather")
def gather(n: Raw, g: Draft) -> None:
    x, rank = n.inputs[0], g.rank(n.inputs[0])
    axis = normal_axis(n.attrs.get("axis", 0), rank)
    indices = g.value(n.inputs[1]).astype(np.int64)
    indices = np.where(indices < 0, indices + g.shapes[x][axis], indices)
    g.emit("Gather", (x,), n.outputs[0], axis=axis, indices=indices)


def positions_of(g: Draft, x: str) -> np.ndarray:
    """The flat positions of x's entries, in x's shape."""
    shape = g.shapes[x]
    return np.arange(math.prod(shape), dtype=np.int64).reshape(shape)


def along(indices: np.ndarray, axis: int) -> tuple[np.ndarray, ...]:
    """The index tuple of GatherElements and ScatterElements: own coordinates, except along the axis."""
    grid = list(np.indices(indices.shape))
    grid[axis] = indices
    return tuple(grid)


@RULES.add("GatherElements")
def gather_elements(n: Raw, g: Draft) -> None:
    x = n.inputs[0]
    axis = normal_axis(n.attrs.get("axis", 0), g.rank(x))
    picked = positions_of(g, x)[along(g.value(n.inputs[1]).astype(np.int64), axis)]
    g.emit("Pick", (x,), n.outputs[0], positions=picked)


@RULES.add("GatherND")
def gather_nd(n: Raw, g: Draft) -> None:
    """The leading `batch_dims` axes of data and indices run in step; they are merged into one here."""
    x, batch = n.inputs[0], n.attrs.get("batch_dims", 0)
    indices = g.value(n.inputs[1]).astype(np.int64)
    shape = g.shapes[x]
    size = math.prod(shape[:batch])
    data = positions_of(g, x).reshape(size, *shape[batch:])
    tuples = indices.reshape(size, -1, indices.shape[-1])
    rows = np.arange(size)[:, None]
    picked = data[(rows, *np.moveaxis(tuples, -1, 0))]
    g.emit("Pick", (x,), n.outputs[0], positions=picked.reshape(g.shapes[n.outputs[0]]))


def emit_place(n: Raw, g: Draft, positions: np.ndarray, updates: str) -> None:
    """Entries written twice have no defined result without a reduction, and other reductions than a sum are not
    affine."""
    reduction = n.attrs.get("reduction", "none")
    if reduction not in ("none", "add") or (reduction == "add" and g.dtypes[n.inputs[0]].kind == "b"):
        raise Dynamic(reduction)
    if reduction == "none" and np.unique(positions).size < positions.size:
        raise Dynamic("repeated positions")
    if positions.size == 0:
        g.emit("Identity", (n.inputs[0],), n.outputs[0])
        return
    g.emit("Place", (n.inputs[0], updates), n.outputs[0], positions=positions, reduction=reduction)


@RULES.add("ScatterND")
def scatter_nd(n: Raw, g: Draft) -> None:
    indices = g.value(n.inputs[1]).astype(np.int64)
    positions = positions_of(g, n.inputs[0])[tuple(np.moveaxis(indices, -1, 0))]
    emit_place(n, g, positions.reshape(g.shapes[n.inputs[2]]), n.inputs[2])


@RULES.add("ScatterElements", "Scatter")
def scatter_elements(n: Raw, g: Draft) -> None:
    axis = normal_axis(n.attrs.get("axis", 0), g.rank(n.inputs[0]))
    indices = g.value(n.inputs[1]).astype(np.int64)
    emit_place(n, g, positions_of(g, n.inputs[0])[along(indices, axis)], n.inputs[2])


@RULES.add("Expand")
def expand(n: Raw, g: Draft) -> None:
    g.value(n.inputs[1])
    same = g.shapes[n.inputs[0]] == g.shapes[n.outputs[0]]
    g.emit("Identity" if same else "Expand", (n.inputs[0],), n.outputs[0])


@RULES.add("Tile")
def tile(n: Raw, g: Draft) -> None:
    repeats = g.ints(n.inputs[1])
    if all(r == 1 for r in repeats):
        g.emit("Identity", (n.inputs[0],), n.outputs[0])
    else:
        g.emit("Tile", (n.inputs[0],), n.outputs[0], repeats=repeats)


@RULES.add("Pad")
def pad(n: Raw, g: Draft) -> None:
    """Pads by attribute (before 11) or input, for all axes or some (18). A negative pad cuts, which a Slice says."""
    x, y, rank = n.inputs[0], n.outputs[0], g.rank(n.inputs[0])
    mode = n.attrs.get("mode", "constant")
    if g.opset < 11:
        pads, value, axes = n.attrs["pads"], n.attrs.get("value", 0.0), range(rank)
    else:
        pads = g.ints(n.inputs[1])
        value = float(np.ravel(g.value(n.inputs[2]))[0]) if n.input(2) else 0.0
        axes = [normal_axis(a, rank) for a in g.ints(n.inputs[3])] if n.input(3) else range(rank)
    full = [0] * (2 * rank)
    for i, a in enumerate(axes):
        full[a], full[rank + a] = pads[i], pads[len(pads) // 2 + i]
    if min(full, default=0) < 0:
        if mode != "constant":
            raise Dynamic("a negative pad in a mode that reads the border")
        shape, cuts = list(g.shapes[x]), []
        for a in range(rank):
            cut = (max(0, -full[a]), shape[a] - max(0, -full[rank + a]))
            if cut != (0, shape[a]):
                cuts.append((a, *cut, 1))
            shape[a] = cut[1] - cut[0]
        full = [max(0, p) for p in full]
        if min(shape) < 0:
            raise Dynamic("a negative pad beyond the axis")
        x = emit_slice(g, x, "" if any(full) else y, cuts, shape)
    if any(full):
        g.emit("Pad", (x,), y, pads=tuple(full), mode=mode, value=float(value))
    elif x == n.inputs[0]:
        g.emit("Identity", (x,), y)


@RULES.add("DepthToSpace")
def depth_to_space(n: Raw, g: Draft) -> None:
    """Blocks of channels become blocks of pixels: DCR has the block axes before the channels, CRD after."""
    b, c, h, w = g.shapes[n.inputs[0]]
    k = n.attrs["blocksize"]
    if n.attrs.get("mode", "DCR") == "DCR":
        split_shape, perm = (b, k, k, c // k**2, h, w), (0, 3, 4, 1, 5, 2)
    else:
        split_shape, perm = (b, c // k**2, k, k, h, w), (0, 1, 4, 2, 5, 3)
    emit_regroup(n, g, split_shape, perm)


@RULES.add("SpaceToDepth")
def space_to_depth(n: Raw, g: Draft) -> None:
    """The inverse: blocks of pixels become blocks of channels, before (DCR) or after them (CRD)."""
    b, c, h, w = g.shapes[n.inputs[0]]
    k = n.attrs["blocksize"]
    perm = (0, 3, 5, 1, 2, 4) if n.attrs.get("mode", "DCR") == "DCR" else (0, 1, 3, 5, 2, 4)
    emit_regroup(n, g, (b, c, h // k, k, w // k, k), perm)


def emit_regroup(n: Raw, g: Draft, split_shape: tuple[int, ...], perm: tuple[int, ...]) -> None:
    x = g.emit("Reshape", (n.inputs[0],), shape=split_shape)
    x = g.emit("Transpose", (x,), shape=tuple(split_shape[p] for p in perm), perm=perm)
    g.emit("Reshape", (x,), n.outputs[0])


@RULES.add("Trilu")
def trilu(n: Raw, g: Draft) -> None:
    """Entries off the triangle times zero, which is more easily merged than the choice that others than floats get."""
    x, y = n.inputs[0], n.outputs[0]
    k = int(g.ints(n.inputs[1])[0]) if n.input(1) else 0
    ones = np.ones(g.shapes[x][-2:], bool)
    mask = np.triu(ones, k) if n.attrs.get("upper", 1) else np.tril(ones, k)
    if g.dtypes[x].kind == "f":
        g.emit("Mul", (x, g.constant(mask.astype(g.dtypes[x]), x)), y)
    else:
        g.emit("Where", (g.constant(mask, x), x, g.constant(np.zeros((), g.dtypes[x]), x)), y)


@RULES.add("OneHot")
def one_hot(n: Raw, g: Draft) -> None:
    off, on = (float(v) for v in np.ravel(g.value(n.inputs[2])))
    axis = normal_axis(n.attrs.get("axis", -1), g.rank(n.outputs[0]))
    g.emit("OneHot", (n.inputs[0],), n.outputs[0], axis=axis, depth=g.ints(n.inputs[1])[0], off=off, on=on)


@RULES.add("CumSum")
def cumsum(n: Raw, g: Draft) -> None:
    axis = normal_axis(g.ints(n.inputs[1])[0], g.rank(n.inputs[0]))
    exclusive, reverse = n.attrs.get("exclusive", 0), n.attrs.get("reverse", 0)
    g.emit("CumSum", (n.inputs[0],), n.outputs[0], axis=axis, exclusive=exclusive, reverse=reverse)


@RULES.add("TopK")
def top_k(n: Raw, g: Draft) -> None:
    """k by attribute before opset 10; largest and sorted since 11."""
    k = g.ints(n.inputs[1])[0] if n.input(1) else n.attrs["k"]
    axis = normal_axis(n.attrs.get("axis", -1), g.rank(n.inputs[0]))
    order = {"largest": n.attrs.get("largest", 1), "sorted": n.attrs.get("sorted", 1)}
    for i, name in enumerate(n.outputs):
        if name:
            g.emit("TopK" if i == 0 else "TopK:1", n.inputs[:1], name, axis=axis, k=k, **order)
