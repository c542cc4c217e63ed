"""Normal forms of pooling by norms and of normalisation across channels. The table is in `verifier.net.simplify`.

x (N, C, spatial…) throughout. A p-norm over a window is (sum of |x|^p)^(1/p), pads counting as 0; the sum over windows
of each channel by itself is a convolution with ones. Sums of numbers that are not negative go through a Relu, which
changes nothing: what rounding may have pushed below 0 would have no root.
"""

from __future__ import annotations

import math

import numpy as np

from verifier.net.draft import RULES, Draft, Raw
from verifier.net.rules_affine import window
from verifier.net.sure import Sure


def emit_power(g: Draft, x: str, p: float, name: str = "") -> str:
    """x^p entry by entry, for a p that makes sense of every x there is."""
    if p == 1:
        return x if not name else g.emit("Identity", (x,), name)
    return g.emit("Pow", (x, g.constant(np.asarray(p, np.float64), x)), name, g.shapes[x])


def emit_magnitude(g: Draft, x: str, p: int) -> str:
    """|x|^p; even powers need no absolute value."""
    if p % 2:
        x = g.emit("Abs", (x,), shape=g.shapes[x])
    return emit_power(g, x, p)


def emit_root(g: Draft, total: str, p: int, name: str) -> None:
    """The p-th root of a sum of numbers that are not negative."""
    total = g.emit("Relu", (total,), shape=g.shapes[total])
    if p == 2:
        g.emit("Sqrt", (total,), name)
    else:
        emit_power(g, total, 1 / p, name)


@RULES.add("LpPool")
def lp_pool(n: Raw, g: Draft) -> None:
    x, y, p = n.inputs[0], n.outputs[0], n.attrs.get("p", 2)
    kernel, shape, out = tuple(n.attrs["kernel_shape"]), g.shapes[x], g.shapes[y]
    rows = math.prod(shape[:2])
    x = g.emit("Reshape", (emit_magnitude(g, x, p),), shape=(rows, 1, *shape[2:]))
    ones = g.constant(np.ones((1, 1, *kernel), g.dtypes[x]), x)
    attrs = window(n, g, kernel)
    total = g.emit("Conv", (x, ones, ""), shape=(rows, 1, *out[2:]), group=1, **attrs)
    emit_root(g, g.emit("Reshape", (total,), shape=out), p, y)


@RULES.add("GlobalLpPool")
def global_lp_pool(n: Raw, g: Draft) -> None:
    x, y, p = n.inputs[0], n.outputs[0], n.attrs.get("p", 2)
    axes = tuple(range(2, g.rank(x)))
    total = g.emit("ReduceSum", (emit_magnitude(g, x, p),), shape=g.shapes[y], axes=axes, keepdims=1)
    emit_root(g, total, p, y)


@RULES.add("LRN")
def lrn(n: Raw, g: Draft) -> None:
    """x / (bias + alpha / size * sum of x^2 over `size` neighbouring channels)^beta; of an even size one more of them
    lies after than before."""
    x, y, size = n.inputs[0], n.outputs[0], n.attrs["size"]
    shape = g.shapes[x]
    channels, rest = shape[1], math.prod(shape[2:])
    at = np.arange(channels)
    offset = at[None, :] - at[:, None]
    near = (offset >= -((size - 1) // 2)) & (offset <= size - 1 - (size - 1) // 2)
    share = Sure.of(np.float64(n.attrs.get("alpha", 1e-4))).over(Sure.of(np.float64(size)))
    weights = Sure(np.where(near, share.v, 0.0), np.where(near, share.e, 0.0))
    square = g.emit("Reshape", (emit_power(g, x, 2),), shape=(shape[0], channels, rest))
    total = g.emit("MatMul", (g.constant(weights, x), square), shape=(shape[0], channels, rest))
    if n.attrs.get("alpha", 1e-4) >= 0:
        total = g.emit("Relu", (total,), shape=(shape[0], channels, rest))
    total = g.emit("Reshape", (total,), shape=shape)
    base = g.emit("Add", (total, g.constant(np.float64(n.attrs.get("bias", 1.0)), x)), shape=shape)
    g.emit("Mul", (x, emit_power(g, base, -n.attrs.get("beta", 0.75))), y)
