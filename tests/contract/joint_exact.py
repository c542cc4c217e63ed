"""Functions of several operands or of whole axes in extended precision: the reference that planes are held against.

`JOINT[kind](op)` gives f: longdouble arrays (M, *in_shape_i), one per variable input, to (M, *out_shape), with a
relative error of a few units of longdouble per operation. A kind that has none is held against its forward in float64.
`RANGES[kind]` says where its inputs are drawn from, slot by slot of the node, if not from everywhere.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

Array = np.ndarray
Reference = Callable[..., Array]


class Range(NamedTuple):
    """Numbers from low to high; only whole ones if `whole` (truth values are whole numbers from 0 to 1)."""

    low: float = -np.inf
    high: float = np.inf
    whole: bool = False


def lift(x: Array, rank: int) -> Array:
    return x.reshape(x.shape[0], *(1,) * (rank + 1 - x.ndim), *x.shape[1:])


def entrywise(f: Callable[[Array, Array], Array]) -> Callable[..., Reference]:
    """A function of two operands that broadcast; a constant one is what the working precision makes of it."""

    def bound(op) -> Reference:
        fixed = [op.site.constant(i) for i in range(len(op.site.shapes))]
        fixed = [None if c is None else c.double().numpy().astype(np.longdouble) for c in fixed]

        def run(*xs: Array) -> Array:
            left = iter(xs)
            return f(*(lift(next(left), len(op.out_shape)) if c is None else c for c in fixed))

        return run

    return bound


def matmul(op) -> Reference:
    def f(a: Array, b: Array) -> Array:
        ranks = a.ndim - 1, b.ndim - 1
        a = a[:, None] if ranks[0] == 1 else a
        b = b[..., None] if ranks[1] == 1 else b
        rank = max(a.ndim, b.ndim) - 1
        return np.matmul(lift(a, rank), lift(b, rank)).reshape(len(a), *op.out_shape)

    return f


def einsum(op) -> Reference:
    left, _, out = op.site.attrs["equation"].partition("->")
    names = [f"Z{t}" for t in left.split(",")]
    return lambda *xs: np.einsum(f"{','.join(names)}->Z{out}", *xs)


def along(f: Callable[[Array, tuple[int, ...]], Array]) -> Callable[..., Reference]:
    """A function of x and axes."""
    return lambda op: lambda x: f(x, tuple(k + 1 for k in op.site.attrs["axes"])).reshape(len(x), *op.out_shape)


def lse(x: Array, axes: tuple[int, ...]) -> Array:
    top = x.max(axes, keepdims=True)
    return top + np.log(np.exp(x - top).sum(axes, keepdims=True))


def softmax(x: Array, axes: tuple[int, ...]) -> Array:
    y = np.exp(x - x.max(axes, keepdims=True))
    return y / y.sum(axes, keepdims=True)


def max_pool(op) -> Reference:
    """Entry by entry, straight from the definition."""
    a, rank = op.site.attrs, len(op.out_shape) - 2

    def f(x: Array) -> Array:
        y = np.full((len(x), *op.out_shape), -np.inf, x.dtype)
        for window in np.ndindex(*op.out_shape[2:]):
            for tap in np.ndindex(*a["kernel_shape"]):
                at = [w * t + j * d - p for w, t, j, d, p in zip(window, a["strides"], tap, a["dilations"], a["pads"])]
                if all(0 <= k < n for k, n in zip(at, x.shape[-rank:])):
                    place = (..., *window)
                    y[place] = np.maximum(y[place], x[(..., *at)])
        return y

    return f


JOINT: dict[str, Callable[..., Reference]] = {
    "Mul": entrywise(lambda a, b: a * b),
    "Max": entrywise(np.maximum),
    "Min": entrywise(np.minimum),
    "Share": entrywise(lambda i, u: np.where(i > 0, i / np.where(i > 0, np.maximum(i, u), 1), 0)),
    "MatMul": matmul,
    "Einsum": einsum,
    "Softmax": along(softmax),
    "LogSoftmax": along(lambda x, axes: x - lse(x, axes)),
    "ReduceLogSumExp": along(lse),
    "ReduceMax": along(lambda x, axes: x.max(axes)),
    "ReduceMin": along(lambda x, axes: x.min(axes)),
    "MaxPool": max_pool,
}

TRUTH = Range(0, 1, True)
RANGES: dict[str, tuple[Range, ...]] = {
    **dict.fromkeys(("And", "Or", "Xor"), (TRUTH, TRUTH)),
    **dict.fromkeys(("BitwiseAnd", "BitwiseOr", "BitwiseXor"), (Range(-300, 300, True), Range(-300, 300, True))),
    "BitShift": (Range(0, 255, True), Range(0, 9, True)),
    "OneHot": (Range(-6, 6, True),),
    "Lookup": (Range(-3, 9, True),),
    **dict.fromkeys(("GatherDynamic", "GatherElementsDynamic", "GatherNDDynamic"), (Range(), Range(-6, 6, True))),
    **dict.fromkeys(
        ("ScatterElementsDynamic", "ScatterDynamic", "ScatterNDDynamic"), (Range(), Range(-6, 6, True), Range())
    ),
}
