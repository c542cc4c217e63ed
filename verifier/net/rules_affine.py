"""Normal forms of matrix products, convolutions, pooling and normalisations. The table is in `verifier.net.simplify`.

Constants made here are computed in float64 from the file's values; x (N, C, spatial…) throughout.
"""

from __future__ import annotations

import math

import numpy as np

from verifier.net.draft import RULES, Draft, Dynamic, Raw, normal_axis, reduced
from verifier.net.rules_windows import emit_conv, emit_conv_transpose
from verifier.net.sure import Sure


def emit_linear(g: Draft, x: str, w: np.ndarray, b: str, name: str) -> str:
    """y = x w + b, w (in, out); a right operand that was a vector or had leading ones is put right by a Reshape."""
    shape = (*g.shapes[x][:-1], w.shape[1])
    weight = g.constant(w, name)
    if shape == g.shapes[name]:
        return g.emit("Linear", (x, weight, b), name)
    return g.emit("Reshape", (g.emit("Linear", (x, weight, b), shape=shape),), name)


@RULES.add("MatMul")
def matmul(n: Raw, g: Draft) -> None:
    """x W with a constant W that is a matrix, a vector, or a stack of one matrix is Linear."""
    x, w = n.inputs
    if not g.is_constant(w) or math.prod(g.shapes[w][:-2]) != 1 or g.rank(x) == 0:
        g.emit("MatMul", (x, w), n.outputs[0])
        return
    value = g.value(w)
    matrix = value[:, None] if value.ndim == 1 else value.reshape(value.shape[-2:])
    emit_linear(g, x, matrix, "", n.outputs[0])


@RULES.add("Gemm")
def gemm(n: Raw, g: Draft) -> None:
    """alpha A' B' + beta C. With a constant B: alpha goes into W and beta into b; otherwise MatMul, Mul, Add."""
    a, b, c, y = n.inputs[0], n.inputs[1], n.input(2), n.outputs[0]
    alpha, beta = n.attrs.get("alpha", 1.0), n.attrs.get("beta", 1.0)
    if beta == 0.0:
        c = ""
    a = emit_transposed(g, a) if n.attrs.get("transA", 0) else a
    shape = g.shapes[y]
    if g.is_constant(b):
        w = g.value(b).T if n.attrs.get("transB", 0) else g.value(b)
        w = w if alpha == 1.0 else np.float64(alpha) * w.astype(np.float64)
        bias = bias_vector(g, c, beta, shape) if c else ""
        if bias is not None:
            emit_linear(g, a, w, bias, y)
            return
        out = g.emit("Linear", (a, g.constant(w, b), ""), shape=shape)
    else:
        b = emit_transposed(g, b) if n.attrs.get("transB", 0) else b
        if alpha == 1.0 and not c:
            g.emit("MatMul", (a, b), y)
            return
        out = g.emit("MatMul", (a, b), shape=shape)
        if alpha != 1.0:
            factor = g.constant(np.float64(alpha), b)
            out = g.emit("Mul", (out, factor), "" if c else y, shape)
    if c:
        if beta != 1.0:
            c = g.emit("Mul", (c, g.constant(np.float64(beta), c)), shape=g.shapes[c])
        g.emit("Add", (out, c), y)


def bias_vector(g: Draft, c: str, beta: float, shape: tuple[int, ...]) -> str | None:
    """beta C as a constant (out,), or None if C is not constant or differs between rows."""
    if not g.is_constant(c):
        return None
    value = g.value(c)
    if value.ndim == 2 and value.shape[0] != 1:
        return None
    vector = np.broadcast_to(value.reshape(-1), shape[1:])
    return g.constant(vector if beta == 1.0 else np.float64(beta) * vector.astype(np.float64), c)


def emit_transposed(g: Draft, x: str) -> str:
    """x' of a matrix; constants are turned over at once."""
    if g.is_constant(x):
        return g.constant(g.value(x).T, x)
    return g.emit("Transpose", (x,), shape=g.shapes[x][::-1], perm=(1, 0))


def window(n: Raw, g: Draft, kernel: tuple[int, ...]) -> dict:
    """strides, dilations and pads of a window sliding over x; auto_pad SAME centres it, odd remainders going to the
    named end."""
    space = len(kernel)
    strides = n.attrs.get("strides") or (1,) * space
    dilations = n.attrs.get("dilations") or (1,) * space
    auto = n.attrs.get("auto_pad", "NOTSET")
    pads = tuple(n.attrs.get("pads") or (0,) * (2 * space)) if auto == "NOTSET" else (0,) * (2 * space)
    if auto in ("SAME_UPPER", "SAME_LOWER"):
        sizes = g.shapes[n.inputs[0]][2:]
        totals = [
            max((math.ceil(d / s) - 1) * s + (k - 1) * e + 1 - d, 0)
            for d, k, s, e in zip(sizes, kernel, strides, dilations)
        ]
        pads = two_ends(totals, auto == "SAME_UPPER")
    return {"strides": tuple(strides), "dilations": tuple(dilations), "pads": pads}


def two_ends(totals: list[int], upper: bool) -> tuple[int, ...]:
    """Totals divided between begin and end; the odd one goes to the end if `upper`."""
    small, large = [t // 2 for t in totals], [t - t // 2 for t in totals]
    return tuple(small + large if upper else large + small)


@RULES.add("Conv")
def conv(n: Raw, g: Draft) -> None:
    attrs, group = window(n, g, g.shapes[n.inputs[1]][2:]), n.attrs.get("group", 1)
    if all(map(g.is_constant, filter(None, n.inputs[1:]))):
        g.emit("Conv", (*n.inputs[:2], n.input(2)), n.outputs[0], group=group, **attrs)
    else:
        emit_conv(g, *n.inputs[:2], n.input(2), n.outputs[0], group, attrs)


@RULES.add("ConvTranspose")
def conv_transpose(n: Raw, g: Draft) -> None:
    """The output's size is stride (in - 1) + output_padding + (k - 1) dilation + 1 - pads; auto_pad and output_shape
    fix the pads by it."""
    x, w, y = n.inputs[0], n.inputs[1], n.outputs[0]
    kernel = g.shapes[w][2:]
    attrs = window(n, g, kernel)
    extra = tuple(n.attrs.get("output_padding") or (0,) * len(kernel))
    auto = n.attrs.get("auto_pad", "NOTSET")
    if n.attrs.get("output_shape") or auto.startswith("SAME"):
        totals = []
        for i, (d, o) in enumerate(zip(g.shapes[x][2:], g.shapes[y][2:])):
            natural = attrs["strides"][i] * (d - 1) + extra[i] + (kernel[i] - 1) * attrs["dilations"][i] + 1
            totals.append(natural - o)
        if min(totals) < 0:
            raise Dynamic("an output larger than the windows reach")
        attrs["pads"] = two_ends(totals, auto == "SAME_UPPER")
    group = n.attrs.get("group", 1)
    if all(map(g.is_constant, filter(None, n.inputs[1:]))):
        g.emit("ConvTranspose", (x, w, n.input(2)), y, group=group, output_padding=extra, **attrs)
    else:
        emit_conv_transpose(g, x, w, n.input(2), y, group, attrs)


@RULES.add("MaxPool", "AveragePool")
def pool(n: Raw, g: Draft) -> None:
    """Positions of the maxima (output 1) are of no use to bounds: such a node is kept under another kind, which nobody
    knows."""
    if any(n.outputs[1:]):
        raise Dynamic("indices")
    kernel = tuple(n.attrs["kernel_shape"])
    attrs = {"kernel_shape": kernel, **window(n, g, kernel), "ceil_mode": n.attrs.get("ceil_mode", 0)}
    if n.op == "AveragePool":
        attrs["count_include_pad"] = n.attrs.get("count_include_pad", 0)
    g.emit(n.op, n.inputs[:1], n.outputs[0], **attrs)


@RULES.add("GlobalAveragePool", "GlobalMaxPool")
def global_pool(n: Raw, g: Draft) -> None:
    kind = "ReduceMean" if n.op == "GlobalAveragePool" else "ReduceMax"
    g.emit(kind, n.inputs[:1], n.outputs[0], axes=tuple(range(2, g.rank(n.inputs[0]))), keepdims=1)


@RULES.add("BatchNormalization")
def batch_normalization(n: Raw, g: Draft) -> None:
    """gamma (x - mean) / sqrt(var + epsilon) + beta as scale x + shift."""
    if n.attrs.get("training_mode", 0) or n.attrs.get("spatial", 1) == 0:
        raise Dynamic("statistics of the batch")
    if not all(map(g.is_constant, n.inputs[1:5])):
        batch_normalization_by_tensors(n, g)
        return
    gamma, beta, mean, var = (Sure.of(g.value(i).astype(np.float64)) for i in n.inputs[1:5])
    scale = gamma.over(var.plus(Sure.of(np.float64(n.attrs.get("epsilon", 1e-5)))).root())
    shift = beta.plus(mean.times(scale).negated())
    names = g.constant(scale, n.inputs[1]), g.constant(shift, n.inputs[2])
    g.emit("BatchNormalization", (n.inputs[0], *names), n.outputs[0])


def batch_normalization_by_tensors(n: Raw, g: Draft) -> None:
    """The same where some of the four depend on x: each as (C, 1, …)."""
    x, y = n.inputs[0], n.outputs[0]
    shape = g.shapes[x]
    small = (shape[1],) + (1,) * (len(shape) - 2)
    gamma, beta, mean, var = (emit_shaped(g, i, small) for i in n.inputs[1:5])
    epsilon = g.constant(np.float64(n.attrs.get("epsilon", 1e-5)), x)
    root = g.emit("Sqrt", (g.emit("Add", (var, epsilon), shape=small),), shape=small)
    x = g.emit("Div", (g.emit("Sub", (x, mean), shape=shape), root), shape=shape)
    g.emit("Add", (g.emit("Mul", (x, gamma), shape=shape), beta), y)


def emit_shaped(g: Draft, c: str, shape: tuple[int, ...]) -> str:
    """A tensor seen with another shape, in which one length may be -1; constants are given it at once."""
    if g.is_constant(c):
        return g.constant(g.value(c).reshape(shape), c)
    size = math.prod(g.shapes[c])
    return g.emit("Reshape", (c,), shape=tuple(size // -math.prod(shape) if d < 0 else d for d in shape))


def emit_standardised(g: Draft, x: str, axes: tuple[int, ...], epsilon: float, centre: bool = True) -> tuple[str, ...]:
    """(x - mean) / sqrt(mean of (x - mean)^2 + epsilon) over the axes, the mean and the root; without the mean, which
    is then '', if not `centre`."""
    shape, mean = g.shapes[x], ""
    small = reduced(shape, axes)
    if centre:
        mean = g.emit("ReduceMean", (x,), shape=small, axes=axes, keepdims=1)
        x = g.emit("Sub", (x, mean), shape=shape)
    square = g.emit("Pow", (x, g.constant(np.asarray(2.0, g.dtypes[x]), x)), shape=shape)
    var = g.emit("ReduceMean", (square,), shape=small, axes=axes, keepdims=1)
    var = g.emit("Add", (var, g.constant(np.float64(epsilon), x)), shape=small)
    root = g.emit("Sqrt", (var,), shape=small)
    return g.emit("Div", (x, root), shape=shape), mean, root


def emit_scaled(g: Draft, x: str, scale: str, shift: str, name: str, shape: tuple[int, ...] | None = None) -> None:
    """scale x + shift; either may be '', and both are first brought to `shape`."""
    factors = [emit_shaped(g, c, shape) if c and shape is not None else c for c in (scale, shift)]
    if factors[0]:
        x = g.emit("Mul", (x, factors[0]), "" if factors[1] else name, g.shapes[name])
    if factors[1]:
        g.emit("Add", (x, factors[1]), name)
    if not any(factors):
        g.emit("Identity", (x,), name)


@RULES.add("LayerNormalization", "RMSNormalization", "SimplifiedLayerNormalization")
def layer_normalization(n: Raw, g: Draft) -> None:
    """Outputs 1 and 2, where they are asked for, are the mean and one over the root."""
    if any(n.outputs[1:]) and n.op != "LayerNormalization":
        raise Dynamic("statistics")
    x, rank = n.inputs[0], g.rank(n.inputs[0])
    axes = tuple(range(normal_axis(n.attrs.get("axis", -1), rank), rank))
    centre = n.op == "LayerNormalization"
    x, mean, root = emit_standardised(g, x, axes, n.attrs.get("epsilon", 1e-5), centre)
    for kind, value, name in zip(("Identity", "Reciprocal"), (mean, root), n.outputs[1:]):
        if name:
            g.emit(kind, (value,), name)
    emit_scaled(g, x, n.input(1), n.input(2), n.outputs[0])


@RULES.add("InstanceNormalization")
def instance_normalization(n: Raw, g: Draft) -> None:
    x, rank = n.inputs[0], g.rank(n.inputs[0])
    x, *_ = emit_standardised(g, x, tuple(range(2, rank)), n.attrs.get("epsilon", 1e-5))
    emit_scaled(g, x, n.inputs[1], n.inputs[2], n.outputs[0], (-1,) + (1,) * (rank - 2))


@RULES.add("GroupNormalization")
def group_normalization(n: Raw, g: Draft) -> None:
    """Statistics over groups of channels; scale and bias per group before opset 21, per channel since."""
    x, y, groups = n.inputs[0], n.outputs[0], n.attrs["num_groups"]
    shape = g.shapes[x]
    scale, shift = n.inputs[1:3]
    if g.shapes[scale] == (groups,) != (shape[1],):
        scale, shift = (g.constant(np.repeat(g.value(v), shape[1] // groups), v) for v in (scale, shift))
    x = g.emit("Reshape", (x,), shape=(shape[0], groups, math.prod(shape[1:]) // groups))
    x, *_ = emit_standardised(g, x, (2,), n.attrs.get("epsilon", 1e-5))
    x = g.emit("Reshape", (x,), shape=shape)
    emit_scaled(g, x, scale, shift, y, (-1,) + (1,) * (len(shape) - 2))
