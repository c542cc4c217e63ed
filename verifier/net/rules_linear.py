"""Normal forms of operators that are linear in x once their other inputs are constant: sampling at fixed places,
Fourier transforms, windows put back together. The table is in `verifier.net.simplify`.

Sampling. y at a place p is the sum over taps of a weight times an entry of x; for each axis there are 1, 2 or 4 taps at
whole numbers around p, and the weight is the product of the axes' weights. Where p is whole to within 1e-9 its floor is
taken in rational arithmetic, so that the taps are those of the exact p; weights are polynomials in p - floor(p) of
slope at most 4, computed to within a few units of 2^-53 times the axis' length. Only the nearest entry is chosen as
ONNX Runtime chooses it, in the element type of the grid: there a rounding decides.

Fourier. X_k = sum_j z_j exp(-2 pi i j k / n), of complex numbers as pairs. Sines and cosines are computed from j k mod
n: the angle, at most 2 pi, rounds three times, so they are off by less than 2^-48.
"""

from __future__ import annotations

import math
from fractions import Fraction
from functools import reduce
from itertools import product

import numpy as np

from verifier.net.draft import RULES, Draft, Dynamic, Raw, normal_axis
from verifier.net.sure import Sure, U

CUBIC = -0.75  # ONNX's constant of cubic interpolation of grids
MOST_WEIGHTS = 1 << 24


# --- sampling ---


@RULES.add("GridSample")
def grid_sample(n: Raw, g: Draft) -> None:
    """x (N, C, spatial…) at the places that a constant grid (N, out…, axes) names, in [-1, 1], last axis first."""
    x, y, grid = n.inputs[0], n.outputs[0], np.asarray(g.value(n.inputs[1]))
    mode = {"bilinear": "linear", "bicubic": "cubic"}.get(n.attrs["mode"], n.attrs["mode"])
    sizes = g.shapes[x][2:]
    places = [grid[..., len(sizes) - 1 - k] for k in range(len(sizes))]
    attrs = n.attrs["padding_mode"], bool(n.attrs["align_corners"])
    axes = [taps_of(p, size, mode, *attrs) for p, size in zip(places, sizes)]
    flat = np.arange(math.prod(g.shapes[x])).reshape(*g.shapes[x][:2], -1)
    taps = [([i for i, _ in choice], reduce(Sure.times, (w for _, w in choice))) for choice in product(*axes)]
    taps = [tap for tap in taps if np.any(tap[1].v)] or taps[:1]  # a grid may miss the image altogether
    total = ""
    for index, weight in taps:
        inside = np.ravel_multi_index(index, sizes).reshape(len(grid), -1)
        at = np.stack([image[:, points] for image, points in zip(flat, inside)]).reshape(g.shapes[y])
        pick = g.emit("Pick", (x,), shape=g.shapes[y], positions=at)
        term = g.emit("Mul", (pick, g.constant(weight.map(lambda w: w[:, None]), x)), shape=g.shapes[y])
        total = g.emit("Add", (total, term), shape=g.shapes[y]) if total else term
    g.emit("Identity", (total,), y)


def taps_of(grid: np.ndarray, size: int, mode: str, padding: str, aligned: bool) -> list[tuple[np.ndarray, Sure]]:
    """Along one axis: the entries' indices and weights, each like the grid."""
    if mode == "nearest":
        one = grid.dtype.type
        at = (grid + one(1)) / one(2) * one(size - 1) if aligned else ((grid + one(1)) * one(size) - one(1)) / one(2)
        index = [(np.rint(at).astype(np.int64), Sure.of(np.ones(grid.shape)))]
    else:
        whole, part = exact_places(grid, size, aligned)
        rounded = np.full(grid.shape, 512 * U * (size + 1))
        weights = (1 - part, part) if mode == "linear" else cubic(part)
        first = 0 if mode == "linear" else -1
        index = [(whole + first + k, Sure(w, rounded * (w != 0))) for k, w in enumerate(weights)]
    return [padded(i, w, size, padding, aligned) for i, w in index]


def exact_places(grid: np.ndarray, size: int, aligned: bool) -> tuple[np.ndarray, np.ndarray]:
    """Floors (int64) of the places on an axis, and what is left (float64)."""
    wide = grid.astype(np.float64)
    at = (wide + 1) / 2 * (size - 1) if aligned else ((wide + 1) * size - 1) / 2
    if not np.isfinite(at).all() or np.abs(at).max(initial=0) > 2**40:
        raise Dynamic("a grid beyond numbers")
    whole = np.floor(at)
    for k in zip(*np.nonzero(np.abs(at - np.rint(at)) < 1e-9)):
        g = Fraction(float(wide[k]))
        exact = (g + 1) / 2 * (size - 1) if aligned else ((g + 1) * size - 1) / 2
        whole[k] = math.floor(exact)
        at[k] = whole[k] + float(exact - math.floor(exact))
    return whole.astype(np.int64), at - whole


def cubic(t: np.ndarray) -> tuple[np.ndarray, ...]:
    """Weights of the entries at -1, 0, 1, 2 for a place at t in [0, 1)."""
    near = lambda s: ((CUBIC + 2) * s - (CUBIC + 3)) * s * s + 1
    far = lambda s: ((CUBIC * s - 5 * CUBIC) * s + 8 * CUBIC) * s - 4 * CUBIC
    return far(t + 1), near(t), near(1 - t), far(2 - t)


def padded(index: np.ndarray, weight: Sure, size: int, padding: str, aligned: bool) -> tuple[np.ndarray, Sure]:
    """Indices moved into the axis; what lies outside counts as 0, as the nearest entry, or as its mirror image."""
    inside = (index >= 0) & (index < size)
    if padding == "zeros":
        weight = Sure(np.where(inside, weight.v, 0.0), np.where(inside, weight.e, 0.0))
    elif padding == "reflection":
        low, high = (0.0, size - 1.0) if aligned else (-0.5, size - 0.5)
        off = np.where(index < low, low - index, np.where(index > high, index - high, 0.0))
        turns, rest = np.divmod(off, max(high - low, 1e-300)) if high > low else (0 * off, 0 * off)
        flip = (turns % 2 == 0) == (index < low)
        index = np.where(off > 0, np.where(flip, low + rest, high - rest), index).astype(np.int64)
    return np.clip(index, 0, size - 1), weight


# --- Fourier ---


def roots_of_one(k: np.ndarray, n: int) -> tuple[Sure, Sure]:
    """cos and sin of 2 pi k / n for whole k, exact at multiples of a quarter turn."""
    k = np.mod(k, n)
    angle = 2 * np.pi * (k / n)
    found = []
    for v in (np.cos(angle), np.sin(angle)):
        v = np.where(4 * k % n == 0, np.rint(v), v)
        found.append(Sure(v, np.where(4 * k % n == 0, 0.0, 2.0**-48)))
    return found[0], found[1]


def transform(rows: int, n: int, bins: int, parts: int, inverse: bool, real: bool = False) -> Sure:
    """W (rows parts, bins 2): entry (j, p) of a signal, p its real or imaginary part, to bin k; for `real` results W
    (rows parts, bins): the real part alone."""
    j, k = np.arange(rows)[:, None], np.arange(bins)[None]
    cos, sin = roots_of_one(j * k, n)
    sin = sin if inverse else sin.negated()
    by_part = [(cos, sin), (sin.negated(), cos)][:parts]
    keep = 1 if real else 2
    v, e = (
        np.stack([np.stack([np.broadcast_to(c[i], cos.v.shape) for c in pair[:keep]], -1) for pair in by_part], 1)
        for i in (0, 1)
    )
    w = Sure(v.reshape(rows * parts, bins * keep), e.reshape(rows * parts, bins * keep))
    return w.over(Sure.of(np.float64(n))) if inverse else w


def emit_along(g: Draft, x: str, axis: int, w: Sure, parts: int, name: str) -> None:
    """x W along an axis and the last one, merged; the last one of the result has `parts` entries."""
    if w.v.size > MOST_WEIGHTS:
        raise Dynamic("a transform that is too large")
    shape, rank = g.shapes[x], g.rank(x)
    order = tuple(k for k in range(rank) if k not in (axis, rank - 1)) + (axis, rank - 1)
    x = g.emit("Transpose", (x,), shape=tuple(shape[k] for k in order), perm=order)
    lead = g.shapes[x][:-2]
    x = g.emit("Reshape", (x,), shape=(*lead, math.prod(g.shapes[x][-2:])))
    x = g.emit("Linear", (x, g.constant(w, x), ""), shape=(*lead, w.v.shape[1]))
    x = g.emit("Reshape", (x,), shape=(*lead, w.v.shape[1] // parts, parts))
    g.emit("Transpose", (x,), name, perm=tuple(np.argsort(order).tolist()))


@RULES.add("DFT")
def dft(n: Raw, g: Draft) -> None:
    """Along an axis, by attribute before opset 20 and by input since; of as many entries as `dft_length` says."""
    x, y, rank = n.inputs[0], n.outputs[0], g.rank(n.inputs[0])
    given = g.ints(n.inputs[2])[0] if n.input(2) else -2 if g.opset >= 20 else n.attrs.get("axis", 1)
    axis, parts = normal_axis(given, rank), g.shapes[x][-1]
    rows, inverse = g.shapes[x][axis], bool(n.attrs.get("inverse", 0))
    if axis == rank - 1:
        raise Dynamic("the axis of real and imaginary parts")
    bins, real = g.shapes[y][axis], g.shapes[y][-1] == 1
    length = g.ints(n.inputs[1])[0] if n.input(1) else (bins if real else rows)
    if not real:
        w = transform(rows, length, bins, parts, inverse)
        keep = (np.arange(rows * parts) // parts < length)[:, None]
        emit_along(g, x, axis, w.map(lambda t: np.where(keep, t, 0.0)), 2, y)
        return
    if not inverse:
        raise Dynamic("real results of a forward transform")
    # Half a spectrum stands for a whole one: bins 1, 2, … count twice, but for the middle one of an even length.
    w = transform(rows, length, bins, parts, True, real=True)
    j = np.arange(rows * parts) // parts
    times = np.where((j == 0) | (2 * j == length), 1.0, 2.0) * (2 * j <= length)
    emit_along(g, x, axis, w.times(Sure.of(times[:, None])), 1, y)


@RULES.add("STFT")
def stft(n: Raw, g: Draft) -> None:
    """Frames of the signal (B, L, 1 or 2), each times the window, transformed."""
    x, y, step = n.inputs[0], n.outputs[0], g.ints(n.inputs[1])[0]
    batch, frames, bins, _ = g.shapes[y]
    window = g.value(n.inputs[2]) if n.input(2) else None
    length = len(window) if window is not None else g.ints(n.inputs[3])[0]
    if g.rank(x) == 2:
        x = g.emit("Reshape", (x,), shape=(*g.shapes[x], 1))
    parts = g.shapes[x][2]
    w = transform(length, length, bins, parts, False)
    if window is not None:
        w = w.times(Sure.of(np.repeat(window.astype(np.float64), parts)[:, None]))
    at = np.arange(frames)[:, None] * step + np.arange(length)
    x = g.emit("Gather", (x,), shape=(batch, frames, length, parts), axis=1, indices=at.astype(np.int64))
    x = g.emit("Reshape", (x,), shape=(batch, frames, length * parts))
    x = g.emit("Linear", (x, g.constant(w, x), ""), shape=(batch, frames, bins * 2))
    g.emit("Reshape", (x,), y)


# --- entries put into place ---


@RULES.add("Col2Im")
def col2im(n: Raw, g: Draft) -> None:
    """x (N, C block, windows): every window's entries added where they come from, then the pads cut off."""
    x, y = n.inputs[0], n.outputs[0]
    image, block = g.ints(n.inputs[1]), g.ints(n.inputs[2])
    space = len(image)
    ones = (1,) * space
    strides, dilations = (tuple(n.attrs.get(k) or ones) for k in ("strides", "dilations"))
    pads = tuple(n.attrs.get("pads") or (0,) * (2 * space))
    whole = [d + b + e for d, b, e in zip(image, pads[:space], pads[space:])]
    at = []
    for d, k, s, t in zip(whole, block, strides, dilations):
        windows = (d - (t * (k - 1) + 1)) // s + 1
        at.append(np.arange(k)[:, None] * t + np.arange(windows)[None] * s)
    batch, channels = g.shapes[y][:2]
    taps = [a.reshape((1,) * i + (a.shape[0],) + (1,) * (space - 1) + (a.shape[1],) + (1,) * (space - 1 - i))
            for i, a in enumerate(at)]  # fmt: skip
    inside = np.ravel_multi_index(np.broadcast_arrays(*taps), whole).reshape(math.prod(block), -1)
    start = np.arange(batch * channels)[:, None, None] * math.prod(whole)
    positions = (start + inside).reshape(g.shapes[x]).astype(np.int64)
    shape = (batch, channels, *whole)
    zeros = g.constant(np.zeros(shape, g.dtypes[x]), x)
    full = g.emit_dtype("Place", (zeros, x), shape, g.dtypes[x], positions=positions, reduction="add")
    cut = {"axes": tuple(range(2, 2 + space)), "starts": pads[:space], "steps": ones}
    g.emit("Slice", (full,), y, ends=tuple(b + d for b, d in zip(pads, image)), **cut)


@RULES.add("MaxUnpool")
def max_unpool(n: Raw, g: Draft) -> None:
    """The entries at their places among zeros."""
    x, y, at = n.inputs[0], n.outputs[0], g.value(n.inputs[1])
    if len(np.unique(at)) < at.size:
        raise Dynamic("two entries at one place")
    zeros = g.constant(np.zeros(g.shapes[y], g.dtypes[x]), x)
    g.emit("Place", (zeros, x), y, positions=at.astype(np.int64), reduction="none")


@RULES.add("ReverseSequence")
def reverse_sequence(n: Raw, g: Draft) -> None:
    """The first entries along the time axis turned round, as many as each batch entry's length."""
    x, lengths = n.inputs[0], g.ints(n.inputs[1])
    batch, time = n.attrs.get("batch_axis", 1), n.attrs.get("time_axis", 0)
    flat = np.arange(math.prod(g.shapes[x])).reshape(g.shapes[x])
    view = np.moveaxis(flat, (batch, time), (0, 1))
    for k, length in enumerate(lengths):
        view[k, :length] = view[k, :length][::-1].copy()
    g.emit("Pick", (x,), n.outputs[0], positions=flat)


# --- products of entries ---


@RULES.add("CumProd")
def cum_prod(n: Raw, g: Draft) -> None:
    """y_k = y_(k - 1) x_k along an axis, or y_k = y_(k - 1) x_(k - 1) with y_0 = 1; from the end if reversed."""
    x, y, shape = n.inputs[0], n.outputs[0], g.shapes[n.inputs[0]]
    axis = normal_axis(g.ints(n.inputs[1])[0], len(shape))
    small = (*shape[:axis], 1, *shape[axis + 1 :])
    order = range(shape[axis])[::-1] if n.attrs.get("reverse", 0) else range(shape[axis])
    piece = lambda k: g.emit("Slice", (x,), shape=small, axes=(axis,), starts=(k,), ends=(k + 1,), steps=(1,))
    found: dict[int, str] = {}
    total = g.constant(np.ones(small, g.dtypes[x]), x) if n.attrs.get("exclusive", 0) else ""
    for at, k in enumerate(order):
        if n.attrs.get("exclusive", 0):
            found[k] = total
            factor = piece(k)
            total = factor if at == 0 else g.emit("Mul", (total, factor), shape=small)
        else:
            total = piece(k) if at == 0 else g.emit("Mul", (total, piece(k)), shape=small)
            found[k] = total
    parts = tuple(found[k] for k in range(shape[axis]))
    if len(parts) == 1 and not g.is_constant(parts[0]):
        g.emit("Identity", parts, y)
    elif all(map(g.is_constant, parts)):
        raise Dynamic("nothing but the empty product")
    else:
        g.emit("Concat", parts, y, axis=axis)


MOST_ROWS = 5  # of a determinant that is expanded


@RULES.add("Det")
def det(n: Raw, g: Draft) -> None:
    """Expanded along rows (Laplace); minors that several products share are made once."""
    x, y, shape = n.inputs[0], n.outputs[0], g.shapes[n.inputs[0]]
    rows, lead = shape[-1], shape[:-2]
    if not 1 <= rows <= MOST_ROWS:
        raise Dynamic(f"a matrix of {rows} rows")
    flat = g.emit("Reshape", (x,), shape=(*lead, rows * rows))
    take = lambda k: g.emit("Gather", (flat,), shape=lead, axis=len(lead), indices=np.array(k, np.int64))
    minors = {(c,): take((rows - 1) * rows + c) for c in range(rows)}
    for row in range(rows - 2, -1, -1):
        entries, new = {c: take(row * rows + c) for c in range(rows)}, {}
        for columns in (tuple(c for c in range(rows) if mask >> c & 1) for mask in range(1 << rows)):
            if len(columns) != rows - row:
                continue
            total = ""
            for k, c in enumerate(columns):
                rest = minors[columns[:k] + columns[k + 1 :]]
                term = g.emit("Mul", (entries[c], rest), shape=lead)
                total = g.emit("Sub" if k % 2 else "Add", (total, term), shape=lead) if total else term
            new[columns] = total
        minors = new
    g.emit("Identity", (minors[tuple(range(rows))],), y)
