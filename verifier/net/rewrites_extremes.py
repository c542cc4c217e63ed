"""Maxima and minima as differences and ReLUs: max(a, b) = b + relu(a - b), min(a, b) = a - relu(a - b).

The last step of a maximum of two variables is a `MaxJoin` (b, r, a): y = b + r, that of a minimum a `MinJoin` (a, r,
b): y = a - r (see `verifier.ops.joins`: they tell intervals what the sum alone does not show). With a constant c it is
an Add: max(x, c) = c + relu(x - c), min(x, c) = c - relu(c - x).

A maximum over a window or an axis is one of pairs, in a balanced tree, one axis after another: maxima may be taken in
any order, and an entry counted twice changes nothing. That is how windows at a padded border are filled: pads never
win, so a tap that falls on one reads another entry of the same window instead. A product along an
axis is a tree of products of two, likewise.
"""

from __future__ import annotations

import math

import numpy as np

from verifier.net.draft import reduced
from verifier.net.graph import Node
from verifier.net.local import Around, Local, Nodes, become, renamed

MAX_WINDOW = 9  # entries whose maximum is taken apart


def with_constant(n: Node, c: Around) -> Nodes | None:
    """Max and Min with a finite constant; infinite ones that never win leave x alone."""
    fixed = [i for i in n.inputs if c.value(i) is not None]
    if len(fixed) != 1 or n.dtype.kind != "f" or not c.room:
        return None
    k, (x,) = c.value(fixed[0]), (i for i in n.inputs if i != fixed[0])
    largest = n.kind == "Max"
    if bool((k == (-np.inf if largest else np.inf)).all()) and c.shape(x) == n.shape:
        return [become(n, "Identity", (x,))]
    if not np.isfinite(k).all():
        return None
    same, minus = c.constant(k, n.name), c.constant(-k, n.name)
    if largest and not np.any(k) and c.shape(x) == n.shape:
        return [become(n, "Relu", (x,))]
    if largest:
        d = c.make(n, "Add", (x, minus), n.shape)
        r = c.make(n, "Relu", (d.name,), n.shape)
        return [d, r, become(n, "Add", (r.name, same))]
    d = c.make(n, "Sub", (same, x), n.shape)
    r = c.make(n, "Relu", (d.name,), n.shape)
    return [d, r, become(n, "Sub", (same, r.name))]


def of_two(n: Node, c: Around) -> Nodes | None:
    """Max and Min of two variables."""
    if n.dtype.kind != "f" or any(c.value(i) is not None for i in n.inputs) or not c.room:
        return None
    if n.inputs[0] == n.inputs[1]:
        return [become(n, "Identity", n.inputs[:1])]
    return renamed(pair(n, c, *n.inputs, n.shape, n.kind == "Max"), n)


def pair(like: Node, c: Around, a: str, b: str, shape: tuple[int, ...], largest: bool) -> list[Node]:
    d = c.make(like, "Sub", (a, b), shape)
    r = c.make(like, "Relu", (d.name,), shape)
    ends = (b, r.name, a) if largest else (a, r.name, b)
    return [d, r, c.make(like, "MaxJoin" if largest else "MinJoin", ends, shape)]


def tree(like: Node, c: Around, names: list[str], shape: tuple[int, ...], largest: bool) -> tuple[list[Node], str]:
    """The extreme of several tensors of one shape, neighbours first."""
    made: list[Node] = []
    while len(names) > 1:
        above = []
        for a, b in zip(names[::2], names[1::2]):
            made += pair(like, c, a, b, shape, largest)
            above.append(made[-1].name)
        names = above + names[len(names) - len(names) % 2 :]
    return made, names[0]


def along_axis(
    like: Node, c: Around, x: str, axis: int, taps: list[np.ndarray], largest: bool
) -> tuple[list[Node], str]:
    """Entry o along the axis is the extreme of x's entries taps[0][o], taps[1][o], …"""
    shape = c.shape(x)
    out = (*shape[:axis], len(taps[0]), *shape[axis + 1 :])
    made, names = [], []
    for tap in taps:
        if len(tap) == shape[axis] and bool((np.diff(tap) == 1).all()):
            names.append(x)  # the whole axis in order
            continue
        step = int(tap[1] - tap[0]) if len(tap) > 1 else 1
        if step > 0 and bool((np.diff(tap) == step).all()):
            cut = {"axes": (axis,), "starts": (int(tap[0]),), "ends": (int(tap[-1]) + 1,), "steps": (step,)}
            made.append(c.make(like, "Slice", (x,), out, cut))
        else:
            made.append(c.make(like, "Gather", (x,), out, {"axis": axis, "indices": tap}))
        names.append(made[-1].name)
    more, name = tree(like, c, names, out, largest)
    return [*made, *more], name


def window_taps(size: int, out: int, kernel: int, stride: int, dilation: int, begin: int) -> list[np.ndarray] | None:
    """For every tap of a window the entry that each of `out` windows reads; one on a pad reads the window's first real
    entry instead. None if a window holds pads alone."""
    place = np.arange(out)[:, None] * stride - begin + np.arange(kernel) * dilation
    real = (place >= 0) & (place < size)
    if not real.any(1).all():
        return None
    first = place[np.arange(out), real.argmax(1)]
    place = np.where(real, place, first[:, None]).astype(np.int64)
    return list(place.T)


def max_pool(n: Node, c: Around) -> Nodes | None:
    """A MaxPool with small windows, axis by axis."""
    a, shape = n.attrs, c.shape(n.inputs[0])
    kernel, rank = a["kernel_shape"], len(a["kernel_shape"])
    if math.prod(kernel) > MAX_WINDOW or n.dtype.kind != "f" or not c.room:
        return None
    taps = [
        window_taps(shape[2 + i], n.shape[2 + i], kernel[i], a["strides"][i], a["dilations"][i], a["pads"][i])
        for i in range(rank)
    ]
    if any(t is None for t in taps):
        return None
    made, x = [], n.inputs[0]
    for i in sorted(range(rank), key=lambda i: n.shape[2 + i] / shape[2 + i]):  # the axis that shrinks most comes first
        new, x = along_axis(n, c, x, 2 + i, taps[i], True)
        made += new
    return renamed(made, n) if made else [become(n, "Identity", n.inputs)]


def reduction(n: Node, c: Around) -> Nodes | None:
    """ReduceMax and ReduceMin over few entries."""
    shape, axes = c.shape(n.inputs[0]), n.attrs["axes"]
    if math.prod(shape[a] for a in axes) > MAX_WINDOW or n.dtype.kind != "f" or not c.room:
        return None
    made, x = [], n.inputs[0]
    for axis in axes:
        if shape[axis] > 1:
            new, x = along_axis(n, c, x, axis, [np.array([k]) for k in range(shape[axis])], n.kind == "ReduceMax")
            made += new
    return reshaped(n, c, made, x)


def reshaped(n: Node, c: Around, made: list[Node], x: str) -> Nodes | None:
    """x, the last of the nodes made, as the reduction n."""
    if c.shape(x) == n.shape and made:
        return renamed(made, n)
    axes = n.attrs["axes"]
    if math.prod(reduced(c.shape(n.inputs[0]), axes)) != math.prod(n.shape):
        return None
    return [*made, become(n, "Reshape", (x,))]


def product(n: Node, c: Around) -> Nodes | None:
    """ReduceProd of any length: the first half of an axis times the second, again and again; what is left of an odd
    length waits."""
    if n.dtype.kind != "f" or not c.room or 0 in c.shape(n.inputs[0]):
        return None
    made, x = [], n.inputs[0]
    for axis in n.attrs["axes"]:
        left: list[str] = []
        while (length := c.shape(x)[axis]) > 1:
            half = length // 2
            first, second = (cut_out(n, c, x, axis, k * half, (k + 1) * half) for k in (0, 1))
            made += [first, second]
            if length % 2:
                made.append(cut_out(n, c, x, axis, length - 1, length))
                left.append(made[-1].name)
            made.append(c.make(n, "Mul", (first.name, second.name), first.shape))
            x = made[-1].name
        for other in left:
            made.append(c.make(n, "Mul", (x, other), c.shape(x)))
            x = made[-1].name
    return reshaped(n, c, made, x)


def cut_out(n: Node, c: Around, x: str, axis: int, start: int, end: int) -> Node:
    shape = c.shape(x)
    attrs = {"axes": (axis,), "starts": (start,), "ends": (end,), "steps": (1,)}
    return c.make(n, "Slice", (x,), (*shape[:axis], end - start, *shape[axis + 1 :]), attrs)


RULES: dict[str, tuple[Local, ...]] = {
    "Max": (with_constant, of_two),
    "Min": (with_constant, of_two),
    "MaxPool": (max_pool,),
    "ReduceMax": (reduction,),
    "ReduceMin": (reduction,),
    "ReduceProd": (product,),
}
