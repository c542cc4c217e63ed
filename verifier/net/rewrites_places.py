"""Comparisons of two variables as signs of their difference.

    a > b   is   a - b > 0            ArgMax over two entries   is   [x1 - x0 > 0], as a number

Bounds of the difference see what both sides have in common, where boxes of either side do not. Floating-point numbers
differ exactly where their rounded difference is not 0 (IEEE 754 has gradual underflow), so evaluations agree too.
Integers are left alone: their differences may wrap around.

These steps are the last ones: other rewrites look for the operators themselves.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from verifier.net.draft import Draft
from verifier.net.graph import Node

ORDERS = ("Greater", "GreaterOrEqual", "Less", "LessOrEqual")
WAYS = {  # which sign of second - first makes the second entry the one: by kind, and by whether the last of equals wins
    ("ArgMax", False): "Greater",
    ("ArgMax", True): "GreaterOrEqual",
    ("ArgMin", False): "Less",
    ("ArgMin", True): "LessOrEqual",
}


def take_differences(g: Draft, roots: frozenset[str]) -> bool:
    """Rewrites every comparison and every ArgMax and ArgMin over two entries; whether there was one."""
    old, g.nodes = g.nodes, []
    for n in old:
        g.origin = n.origin
        if n.kind in ORDERS and all(g.dtypes[i].kind == "f" and not g.is_constant(i) for i in n.inputs):
            d = g.emit("Sub", n.inputs, shape=n.shape)
            g.nodes.append(replace(n, inputs=(d, zero(g, d))))
        elif n.kind in ("ArgMax", "ArgMin") and of_two(g, n):
            emit_sign(g, n)
        else:
            g.nodes.append(n)
    return len(g.nodes) > len(old)


def zero(g: Draft, like: str) -> str:
    return g.constant(np.zeros((), g.dtypes[like]), like)


def of_two(g: Draft, n: Node) -> bool:
    (x,) = n.inputs
    return g.dtypes[x].kind == "f" and g.shapes[x][n.attrs["axis"]] == 2


def emit_sign(g: Draft, n: Node) -> None:
    (x,), axis = n.inputs, n.attrs["axis"]
    shape = tuple(1 if k == axis else d for k, d in enumerate(g.shapes[x]))
    first, second = (
        g.emit("Slice", (x,), shape=shape, axes=(axis,), starts=(k,), ends=(k + 1,), steps=(1,)) for k in (0, 1)
    )
    d = g.emit("Sub", (second, first), shape=shape)
    way = WAYS[n.kind, bool(n.attrs.get("select_last_index", 0))]
    truth = g.emit_dtype(way, (d, zero(g, d)), shape, np.dtype(bool))
    number = g.emit_dtype("Cast", (truth,), shape, n.dtype, to=n.dtype.name)
    g.nodes.append(replace(n, kind="Reshape", inputs=(number,), attrs={}))
