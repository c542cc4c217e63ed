"""Quotients whose range is known whatever their operands' boxes are: entries of normalised vectors.

Let d be a vector of n numbers, S = sum of d_i^2, and b >= k sqrt(S) for a k > 0. Then |d_i / b| <= 1 / k, since
|d_i| <= sqrt(S). If the d_i sum to 0, which x - mean(x) does, more holds: by Cauchy and Schwarz d_i^2 = (sum of the
n - 1 others)^2 <= (n - 1)(S - d_i^2), so n d_i^2 <= (n - 1) S and |d_i / b| <= sqrt((n - 1) / n) / k. With b = sqrt(S /
n + epsilon), k is 1 / sqrt(n): |d_i / b| <= sqrt(n - 1), or sqrt(n) where d is not centred. With T = sum of |d_i| and
b >= k T, |d_i / b| <= 1 / k likewise.

The quotient is then clipped to that range, which changes nothing in real arithmetic: bounds do not see that numerator
and denominator depend on each other, and where b may be near 0 they know nothing else. The range is rounded up to a
number of float32, so that no working precision narrows it. Where b = 0 the model has no value: if nothing keeps b above
0, the rewrite is made only where NaN gets through to the outputs (see `verifier.net.rewrites_shares`).

What b is made of may only make it larger: constants that are not negative in total, Relu, Clip without an upper end.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

from verifier.net.graph import Node
from verifier.net.local import Around, Local, Nodes, become
from verifier.net.rewrites_shares import passes_undefined

ONE = 1 + 2.0**-40  # more than what the limit's few roundings in float64 lose


def normalised(n: Node, c: Around) -> Nodes | None:
    """d / b clipped to the range that it has by the argument at the head of the file."""
    d, b = n.inputs
    most = most_of(n, d, b, c)
    if most is None:
        return None
    r = c.make(n, "Reciprocal", (b,), c.shape(b))
    return clipped(n, d, r.name, most, c, [r])


def normalised_product(n: Node, c: Around) -> Nodes | None:
    """The same spelled d (1 / b) or d v^(-1/2), unless a Clip says it already."""
    for d, inverse in (n.inputs, n.inputs[::-1]):
        r = c.producer(inverse, "Reciprocal", "Pow")
        if r is None or (r.kind == "Pow" and c.uniform(r.inputs[1]) != -0.5):
            continue
        most = most_of(n, d, r.inputs[0], c, rooted=r.kind == "Pow")
        if most is None:
            continue
        return None if within(n.name, most, c) else clipped(n, d, inverse, most, c, [])
    return None


def within(name: str, most: float, c: Around) -> bool:
    """Whether all readers of a tensor clip it to the range already, behind moves perhaps."""
    readers = [m for m in c.by_name.values() if name in m.inputs]
    moved = ("Reshape", "Transpose", "Identity")
    return bool(readers) and all(
        m.attrs["max"] <= most if m.kind == "Clip" else m.kind in moved and within(m.name, most, c) for m in readers
    )


def clipped(n: Node, d: str, inverse: str, most: float, c: Around, made: list[Node]) -> Nodes:
    q = c.make(n, "Mul", (d, inverse), n.shape)
    return [*made, q, become(n, "Clip", (q.name,), {"min": -most, "max": most})]


def most_of(n: Node, d: str, b: str, c: Around, rooted: bool = False) -> float | None:
    """What no entry of |d / b| exceeds (`rooted`: of |d / sqrt(b)|), rounded up to a number of float32."""
    if n.dtype.kind != "f" or c.value(d) is not None or c.value(b) is not None or c.shape(d) != n.shape or not c.room:
        return None
    total = below(b, c)
    if total is None:
        return None
    limit = root_share(d, total, c) if rooted else largest_share(d, total.node, c)
    if limit is None or not (limit.positive or total.positive or passes_undefined(n.name, c)):
        return None
    return float(np.nextafter(np.float32(limit.most * ONE), np.float32(np.inf)))


class Limit(NamedTuple):
    """What no entry of |d / b| exceeds; whether b is seen to be above 0."""

    most: float
    positive: bool


def largest_share(d: str, total: Node, c: Around) -> Limit | None:
    """The limit for b >= total, if that is seen to be a norm of d."""
    if total.kind != "Sqrt":
        most = sums(total, d, "Abs", c)
        return None if most is None else Limit(most, False)
    inner = below(total.inputs[0], c)
    return None if inner is None else root_share(d, inner, c)


def root_share(d: str, inner: Below, c: Around) -> Limit | None:
    """The limit for b >= sqrt(inner), if `inner` is seen to be a sum or mean of squares of d."""
    centred = mean_of(d, c)
    if inner.node.kind == "Sub":  # the mean of squares less the square of the mean
        axes = None if centred is None else variance(inner.node, *centred, c)
        most = None if axes is None else float(max(count(c.shape(d), axes) - 1, 0))
    else:
        most = sums(inner.node, d, "Pow", c)
        if most is not None and centred is not None and set(inner.node.attrs["axes"]) >= set(centred[1]):
            size = count(c.shape(d), centred[1])  # of the vectors that sum to 0; those of the norm hold more
            most *= (size - 1) / size
    return None if most is None else Limit(math.sqrt(most), inner.positive)


def sums(total: Node, d: str, function: str, c: Around) -> float | None:
    """For `total` the sum or mean of f(d), |d| or d^2, along axes: largest f(d_i) by it, 1 or n. None where it is
    anything else."""
    if total.kind not in ("ReduceSum", "ReduceMean"):
        return None
    f = c.producer(total.inputs[0], function)
    if f is None or f.inputs[0] != d or (function == "Pow" and c.uniform(f.inputs[1]) != 2.0):
        return None
    axes = total.attrs["axes"]
    if not kept(total, c.shape(d), axes):
        return None
    return float(count(c.shape(d), axes)) if total.kind == "ReduceMean" else 1.0


class Below(NamedTuple):
    """A node whose result a tensor is never below, and whether the tensor is seen to be above 0 (if the node's result
    is not below 0)."""

    node: Node
    positive: bool


def below(name: str, c: Around) -> Below | None:
    """What is left of a tensor without constants that are not negative in total, and clippings from below."""
    least, positive = 0.0, False
    while (n := c.producer(name)) is not None:
        if n.kind in ("Relu", "Expand") or (n.kind == "Clip" and n.attrs["max"] == math.inf):
            positive = positive or (n.kind == "Clip" and least + n.attrs["min"] > 0)
            name = n.inputs[0]
            continue
        fixed = [i for i in n.inputs if c.value(i) is not None] if n.kind == "Add" else []
        if len(fixed) != 1:
            return Below(n, positive or least > 0) if least >= 0 else None
        value = c.value(fixed[0])
        if not np.isfinite(value).all():
            return None
        least += float(np.min(value, initial=math.inf))
        name = next(i for i in n.inputs if i != fixed[0])
    return None


def mean_of(d: str, c: Around) -> tuple[str, tuple[int, ...]] | None:
    """(x, axes) for d = x - mean of x over the axes, None for any other d."""
    difference = c.producer(d, "Sub")
    mean = None if difference is None else c.producer(difference.inputs[1], "ReduceMean")
    if mean is None or mean.inputs[0] != difference.inputs[0] or c.shape(mean.inputs[0]) != difference.shape:
        return None
    axes = mean.attrs["axes"]
    return (mean.inputs[0], axes) if kept(mean, difference.shape, axes) else None


def variance(inner: Node, x: str, axes: tuple[int, ...], c: Around) -> tuple[int, ...] | None:
    """The axes, if `inner` is the mean of x^2 less the square of the mean of x over them: the mean of (x - mean)^2."""
    squares, square = c.producer(inner.inputs[0], "ReduceMean"), c.producer(inner.inputs[1], "Pow")
    if squares is None or square is None or c.uniform(square.inputs[1]) != 2.0:
        return None
    mean = c.producer(square.inputs[0], "ReduceMean")
    if mean is None or mean.inputs[0] != x or mean.attrs["axes"] != axes or squares.attrs["axes"] != axes:
        return None
    if sums(squares, x, "Pow", c) is None or not kept(mean, c.shape(x), axes):
        return None
    return axes


def kept(reduction: Node, shape: tuple[int, ...], axes: tuple[int, ...]) -> bool:
    """Whether the reduced axes stay, with length 1: only then does every entry meet the sum over its own vector."""
    return reduction.shape == tuple(1 if i in axes else d for i, d in enumerate(shape))


def count(shape: tuple[int, ...], axes: tuple[int, ...]) -> int:
    return math.prod(shape[a] for a in axes)


RULES: dict[str, tuple[Local, ...]] = {"Div": (normalised,), "Mul": (normalised_product,)}
