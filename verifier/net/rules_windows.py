"""Convolutions whose weight or bias depends on the network's input: products of matrices of two variables.

x (N, C, in…), W (M, C / G, k…) with G groups, P windows of K = prod(k) taps. The entries that the windows see make a
matrix (N, G, P, C / G K), each picked from x with zeros around it, and y (N, G, P, M / G) is that times W' (G, C / G K,
M / G). Of a transposed convolution, W (C, M / G, k…), the products x' W (N, G, P, M / G K), P entries of x, are added
where their taps fall, and the pads cut off.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from verifier.net.draft import Draft, Dynamic
from verifier.net.graph import Shape

MOST = 1 << 24  # entries of the matrix of windows


def taps(windows: Shape, kernel: Shape, attrs: dict[str, Any], whole: Shape) -> np.ndarray:
    """(P, K): the flat entry of a `whole` image that each tap of each window falls on."""
    axes = [
        np.arange(p)[:, None] * s + np.arange(k)[None] * d
        for p, k, s, d in zip(windows, kernel, attrs["strides"], attrs["dilations"])
    ]
    rank, grids = len(windows), []
    for i, a in enumerate(axes):
        shape = [1] * (2 * rank)
        shape[i], shape[rank + i] = a.shape
        grids.append(a.reshape(shape))
    flat = np.ravel_multi_index(np.broadcast_arrays(*grids), whole)
    return flat.reshape(math.prod(windows), math.prod(kernel))


def check_size(g: Draft, x: str, count: int) -> None:
    if g.dtypes[x].kind != "f" or count > MOST:
        raise Dynamic("windows of integers, or too many")


def emit_conv(g: Draft, x: str, w: str, bias: str, y: str, group: int, attrs: dict[str, Any]) -> None:
    """y of a convolution; any of its inputs may depend on the network's."""
    (batch, channels), (filters, per), kernel = g.shapes[x][:2], g.shapes[w][:2], g.shapes[w][2:]
    windows, space = g.shapes[y][2:], len(kernel)
    reach = [(p - 1) * s + (k - 1) * d + 1 for p, s, k, d in zip(windows, attrs["strides"], kernel, attrs["dilations"])]
    begins = attrs["pads"][:space]
    ends = tuple(max(r - b - d, 0) for r, b, d in zip(reach, begins, g.shapes[x][2:]))
    whole = tuple(b + d + e for b, d, e in zip(begins, g.shapes[x][2:], ends))
    at = taps(windows, kernel, attrs, whole)
    check_size(g, y, at.size * batch * channels)
    start = np.arange(batch * channels).reshape(batch, group, 1, per, 1) * math.prod(whole)
    positions = (start + at[:, None]).reshape(batch, group, len(at), per * at.shape[1])
    if g.is_constant(x):
        value = np.pad(g.value(x), [(0, 0), (0, 0), *zip(begins, ends)])
        seen = g.constant(value.reshape(-1)[positions], x)
    else:
        if any(begins) or any(ends):
            pads = (0, 0, *begins, 0, 0, *ends)
            x = g.emit("Pad", (x,), shape=(batch, channels, *whole), pads=pads, mode="constant", value=0.0)
        seen = g.emit("Pick", (x,), shape=positions.shape, positions=positions)
    columns = emit_turned(g, emit_seen_as(g, w, (group, filters // group, per * at.shape[1])), (0, 2, 1))
    shape = (batch, group, len(at), filters // group)
    product = emit_turned(g, g.emit("MatMul", (seen, columns), shape=shape), (0, 1, 3, 2))
    emit_with_bias(g, product, bias, y)


def emit_conv_transpose(g: Draft, x: str, w: str, bias: str, y: str, group: int, attrs: dict[str, Any]) -> None:
    """y of a transposed convolution, likewise."""
    (batch, channels), per, kernel = g.shapes[x][:2], g.shapes[w][1], g.shapes[w][2:]
    windows, image, space = g.shapes[x][2:], g.shapes[y][2:], len(kernel)
    begins = attrs["pads"][:space]
    reach = [(p - 1) * s + (k - 1) * d + 1 for p, s, k, d in zip(windows, attrs["strides"], kernel, attrs["dilations"])]
    whole = tuple(max(r, b + d) for r, b, d in zip(reach, begins, image))
    at = taps(windows, kernel, attrs, whole)
    check_size(g, y, at.size * batch * per * group)
    rows = emit_turned(g, emit_seen_as(g, x, (batch, group, channels // group, len(at))), (0, 1, 3, 2))
    columns = emit_seen_as(g, w, (group, channels // group, per * at.shape[1]))
    product = g.emit("MatMul", (rows, columns), shape=(batch, group, len(at), per * at.shape[1]))
    start = np.arange(batch * group * per).reshape(batch, group, 1, per, 1) * math.prod(whole)
    positions = (start + at[:, None]).reshape(g.shapes[product])
    full = (batch, group * per, *whole)
    zeros = g.constant(np.zeros(full, g.dtypes[y]), product)
    total = g.emit_dtype("Place", (zeros, product), full, g.dtypes[y], positions=positions, reduction="add")
    cut = {"axes": tuple(range(2, 2 + space)), "starts": begins, "steps": (1,) * space}
    ends = tuple(b + d for b, d in zip(begins, image))
    emit_with_bias(g, g.emit("Slice", (total,), shape=g.shapes[y], ends=ends, **cut), bias, y)


def emit_seen_as(g: Draft, x: str, shape: tuple[int, ...]) -> str:
    """A tensor with another shape; constants are given it at once."""
    if g.is_constant(x):
        return g.constant(g.value(x).reshape(shape), x)
    return g.emit("Reshape", (x,), shape=shape)


def emit_turned(g: Draft, x: str, perm: tuple[int, ...]) -> str:
    if g.is_constant(x):
        return g.constant(np.ascontiguousarray(g.value(x).transpose(perm)), x)
    return g.emit("Transpose", (x,), shape=tuple(g.shapes[x][p] for p in perm), perm=perm)


def emit_with_bias(g: Draft, x: str, bias: str, y: str) -> None:
    """x as y, and the bias (M,) along its axis 1."""
    if not bias:
        g.emit("Reshape", (x,), y)
        return
    x = g.emit("Reshape", (x,), shape=g.shapes[y])
    tail = (1,) * (len(g.shapes[y]) - 2)
    g.emit("Add", (x, emit_seen_as(g, bias, (g.shapes[bias][0], *tail))), y)
