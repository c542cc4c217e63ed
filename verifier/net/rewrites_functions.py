"""Functions of one number: quotients as products, powers by name, clippings merged.

Why each is exact stands with it. Powers and quotients are rewritten for floating-point numbers only: integers divide
towards zero.
"""

from __future__ import annotations

import math

import numpy as np

from verifier.net.graph import Node
from verifier.net.local import Around, Local, Nodes, become

NONNEGATIVE = {"Relu", "Sigmoid", "Exp", "Abs", "Softplus", "Sqrt", "HardSigmoid", "Softmax", "Cosh", "Acosh"}
INF = math.inf


def quotient(n: Node, c: Around) -> Nodes | None:
    """a / b = a (1 / b) where b depends on x; 1 / b alone where a is 1 everywhere."""
    a, b = n.inputs
    if n.dtype.kind != "f" or c.value(b) is not None:
        return None
    if c.uniform(a) == 1.0 and c.shape(b) == n.shape:
        return [become(n, "Reciprocal", (b,))]
    r = c.make(n, "Reciprocal", (b,), c.shape(b))
    return [r, become(n, "Mul", (a, r.name))]


def softmax(n: Node, c: Around) -> Nodes | None:
    """exp(z) / sum of exp(z) over axes = softmax(z) over them, and softmax(z - m) = softmax(z) for an m that is the
    same along those axes."""
    e, total = c.producer(n.inputs[0], "Exp"), c.alone(n.inputs[1], "ReduceSum")
    if e is None or total is None or total.inputs[0] != e.name or c.count[e.name] != 2 or e.name in c.roots:
        return None
    axes = total.attrs["axes"]
    if c.shape(total.name) != tuple(1 if i in axes else d for i, d in enumerate(n.shape)):
        return None  # without kept dimensions the sum meets other entries than its own
    z = e.inputs[0]
    less = c.alone(z, "Sub")
    if less is not None and c.shape(less.inputs[0]) == n.shape:
        m = c.shape(less.inputs[1])
        m = (1,) * (len(n.shape) - len(m)) + tuple(m)
        if all(m[i] == 1 for i in axes):
            z = less.inputs[0]
    return [become(n, "Softmax", (z,), {"axes": axes})]


def square(n: Node, c: Around) -> Nodes | None:
    """x x is a function of one number: bounds of products of two would not see that both are the same."""
    a, b = n.inputs
    if a != b or n.dtype.kind != "f" or c.value(a) is not None:
        return None
    return [become(n, "Pow", (a, c.constant(np.asarray(2.0, n.dtype), a)))]


def power(n: Node, c: Around) -> Nodes | None:
    """x^1 = x, x^(1/2) = sqrt(x), x^(-1) = 1 / x."""
    p = c.uniform(n.inputs[1])
    kind = {1.0: "Identity", 0.5: "Sqrt", -1.0: "Reciprocal"}.get(p)
    if kind is None or n.dtype.kind != "f" or not c.floats(n.inputs[0]) or c.shape(n.inputs[0]) != n.shape:
        return None
    return [become(n, kind, n.inputs[:1])]


def two_variables(n: Node, c: Around) -> Nodes | None:
    """x^y = exp(y log x) for x >= 0 that depends on the input, with log 0 = -inf; for 0^0, where y log x has no value,
    bounds of y log x hold 0 or say nothing. b^y = exp(y log b) for constants b > 0 where that is not one function of
    each entry of y already."""
    b, y = n.inputs
    if n.dtype.kind != "f" or not c.floats(b, y) or c.sure(y) is not None or not c.room:
        return None
    base = c.value(b)
    if c.sure(b) is None and never_negative(b, c):
        log = c.make(n, "Log", (b,), c.shape(b))
        made, name = [log], log.name
    elif base is not None and bool((base > 0).all()) and np.isfinite(base).all() and c.shape(y) != n.shape:
        made, name = [], c.constant(np.log(base.astype(np.float64)), b)
    else:
        return None
    product = c.make(n, "Mul", (y, name), n.shape)
    return [*made, product, become(n, "Exp", (product.name,))]


def hard_sigmoid(n: Node, c: Around) -> Nodes | None:
    """max(0, min(1, alpha x + beta)) = clip of an affine map, which then merges with its neighbours."""
    alpha, beta = (np.float64(n.attrs[k]) for k in ("alpha", "beta"))
    x = c.make(n, "Mul", (n.inputs[0], c.constant(alpha, n.name)), n.shape)
    y = c.make(n, "Add", (x.name, c.constant(beta, n.name)), n.shape)
    return [x, y, become(n, "Clip", (y.name,), {"min": 0.0, "max": 1.0})]


def leaky(n: Node, c: Around) -> Nodes | None:
    """Slope 0 below zero is Relu, slope 1 is x."""
    kind = {0.0: "Relu", 1.0: "Identity"}.get(n.attrs["alpha"])
    return None if kind is None else [become(n, kind, n.inputs)]


def prelu(n: Node, c: Around) -> Nodes | None:
    """One slope for all entries: LeakyRelu."""
    slope = c.uniform(n.inputs[1])
    if slope is None or c.shape(n.inputs[0]) != n.shape:
        return None
    return [become(n, "LeakyRelu", n.inputs[:1], {"alpha": slope})]


def thresholded(n: Node, c: Around) -> Nodes | None:
    """x above alpha = 0, else 0: Relu."""
    return [become(n, "Relu", n.inputs)] if n.attrs["alpha"] == 0 else None


def ends(n: Node) -> tuple[float, float]:
    """Relu and Clip as the interval [low, high] that x is moved into: min(max(x, low), high)."""
    low, high = (0.0, INF) if n.kind == "Relu" else (n.attrs["min"], n.attrs["max"])
    return min(low, high), high


def clipping(n: Node, c: Around) -> Nodes | None:
    """Clip to [0, inf) is Relu. Clipping into [a, b] and then into [c, d] is clipping into [a', b'], the ends a and b
    moved into [c, d]: the composition does not decrease, is x where x lies in both, and else the nearest of its ends.
    Relu of what is never negative is that."""
    if n.dtype.kind != "f":
        return None
    low, high = ends(n)
    first = c.alone(n.inputs[0], "Relu", "Clip")
    if first is not None:
        a, b = (min(max(end, low), high) for end in ends(first))
        return [clip_node(n, first.inputs[0], a, b)]
    if n.kind == "Clip":
        return [become(n, "Relu", n.inputs)] if (low, high) == (0.0, INF) else None
    return [become(n, "Identity", n.inputs)] if never_negative(n.inputs[0], c) else None


def clip_node(n: Node, x: str, low: float, high: float) -> Node:
    if (low, high) == (0.0, INF):
        return become(n, "Relu", (x,))
    return become(n, "Clip", (x,), {"min": low, "max": high})


def never_negative(name: str, c: Around) -> bool:
    """Whether the operator that yields a tensor, seen through moves, has no negative values."""
    n = c.producer(name)
    while n is not None and n.kind in ("Reshape", "Transpose", "Slice", "MaxPool", "AveragePool", "Gather"):
        n = c.producer(n.inputs[0])
    return n is not None and (n.kind in NONNEGATIVE or (n.kind == "Clip" and ends(n)[0] >= 0))


def softplus(n: Node, c: Around) -> Nodes | None:
    """log(1 + exp(x)) = softplus(x)."""
    total = c.alone(n.inputs[0], "Add")
    pair = [] if total is None else [i for i in total.inputs if c.value(i) is None]
    e = c.alone(pair[0], "Exp") if len(pair) == 1 and total.shape == n.shape else None
    if e is None or e.shape != n.shape or {c.uniform(i) for i in total.inputs if i != e.name} != {1.0}:
        return None
    return [become(n, "Softplus", e.inputs)]


def sigmoid(n: Node, c: Around) -> Nodes | None:
    """1 / (1 + exp(-x)) = sigmoid(x)."""
    total = c.alone(n.inputs[0], "Add")
    pair = [] if total is None else [i for i in total.inputs if c.value(i) is None]
    e = c.alone(pair[0], "Exp") if len(pair) == 1 and total.shape == n.shape else None
    minus = None if e is None else c.alone(e.inputs[0], "Neg")
    if minus is None or e.shape != n.shape or {c.uniform(i) for i in total.inputs if i != e.name} != {1.0}:
        return None
    return [become(n, "Sigmoid", minus.inputs)]


RULES: dict[str, tuple[Local, ...]] = {
    "Div": (softmax, quotient),
    "Mul": (square,),
    "Pow": (power, two_variables),
    "HardSigmoid": (hard_sigmoid,),
    "LeakyRelu": (leaky,),
    "PRelu": (prelu,),
    "ThresholdedRelu": (thresholded,),
    "Relu": (clipping,),
    "Clip": (clipping,),
    "Log": (softplus,),
    "Reciprocal": (sigmoid,),
}
