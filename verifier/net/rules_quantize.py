"""Normal forms of operators on quantised numbers: integer products between shifts by zero points, and a quantisation.

MatMulInteger and ConvInteger are products of (a - a_zero) and (b - b_zero) in int32. QLinearMatMul and QLinearConv are
these times the scales of both operands, quantised by scale and zero point of the result. The runtime rounds that
product in float32, and it takes whole multiples of one number, so that it often lies where the quantisation jumps:
`jitter` says by how much, relative to its size, the place of a jump may be off.

Quantising by a scale or zero point that depends on the input is a Div, a Round, an Add, a Clip and a Cast; back from
there it is a Sub and a Mul.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from verifier.net.draft import RULES, Draft, Dynamic, Raw

INT32, F64 = np.dtype(np.int32), np.dtype(np.float64)
JITTER = 2.0**-20  # a few roundings of float32


def shifted(g: Draft, x: str, zero: str, axis: int) -> str:
    """x - zero in int32; a list of zero points runs along an axis of x."""
    if zero and not g.is_constant(zero) and g.shapes[zero] not in ((), (1,)):
        raise Dynamic("several zero points that depend on the input")
    if g.is_constant(x) and (not zero or g.is_constant(zero)):
        value = g.value(x).astype(np.int64) - (along(g, zero, x, axis) if zero else 0)
        return g.constant(value.astype(INT32), x)
    wide = g.constant(g.value(x).astype(INT32), x) if g.is_constant(x) else cast(g, x, INT32)
    if not zero:
        return wide
    if not g.is_constant(zero):
        other = g.emit("Reshape", (cast(g, zero, INT32),), shape=())
    elif np.any(g.value(zero)):
        other = g.constant(along(g, zero, x, axis).astype(INT32), zero)
    else:
        return wide
    return g.emit("Sub", (wide, other), shape=g.shapes[x])


def cast(g: Draft, x: str, dtype: np.dtype) -> str:
    return x if g.dtypes[x] == dtype else g.emit_dtype("Cast", (x,), g.shapes[x], dtype, to=dtype.name)


def along(g: Draft, name: str, x: str, axis: int) -> np.ndarray:
    """A constant number or list, a list along an axis of x."""
    value = np.asarray(g.value(name)).astype(F64 if g.dtypes[name].kind == "f" else np.int64)
    if value.size == 1:
        return value.reshape(())
    if value.ndim > 1:
        return value
    return value.reshape(-1, *(1,) * (g.rank(x) - 1 - axis % g.rank(x)))


def product(n: Raw, g: Draft, op: str, a: str, b: str, rest: tuple[str, ...], y: str) -> None:
    """The product of two int32 tensors by ONNX's rule for it; of constants (beside scales that move) it is one."""
    if g.is_constant(a) and g.is_constant(b):
        if op != "MatMul":
            raise Dynamic("scales alone that depend on the input")
        g.values[y] = np.matmul(g.value(a), g.value(b))
        return
    RULES[op](replace(n, op=op, inputs=(a, b, *rest), outputs=(y,)), g)


@RULES.add("MatMulInteger")
def matmul_integer(n: Raw, g: Draft) -> None:
    a, b = n.inputs[:2]
    product(n, g, "MatMul", shifted(g, a, n.input(2), -2), shifted(g, b, n.input(3), -1), (), n.outputs[0])


@RULES.add("ConvInteger")
def conv_integer(n: Raw, g: Draft) -> None:
    x, w = n.inputs[:2]
    product(n, g, "Conv", shifted(g, x, n.input(2), 1), shifted(g, w, n.input(3), 0), (), n.outputs[0])


@RULES.add("QLinearMatMul")
def qlinear_matmul(n: Raw, g: Draft) -> None:
    a, a_scale, a_zero, b, b_scale, b_zero = n.inputs[:6]
    total = placed(g, n.outputs[0], INT32)
    product(n, g, "MatMul", shifted(g, a, a_zero, -2), shifted(g, b, b_zero, -1), (), total)
    requantised(n, g, total, (a_scale, b_scale), (-2, -1))


@RULES.add("QLinearConv")
def qlinear_conv(n: Raw, g: Draft) -> None:
    x, x_scale, x_zero, w, w_scale, w_zero = n.inputs[:6]
    total = placed(g, n.outputs[0], INT32)
    bias = (n.inputs[8],) if n.input(8) else ()
    product(n, g, "Conv", shifted(g, x, x_zero, 1), shifted(g, w, w_zero, 0), bias, total)
    requantised(n, g, total, (x_scale, w_scale), (1, 1))


def placed(g: Draft, like: str, dtype: np.dtype) -> str:
    """A name for a tensor of a shape that is there, with another type."""
    name = g.fresh(like)
    g.shapes[name], g.dtypes[name] = g.shapes[like], dtype
    return name


def requantised(n: Raw, g: Draft, total: str, factor: tuple[str, str], axes: tuple[int, int]) -> None:
    """quantise(total a b) for scales a, b; a product of two float32 numbers is exact in float64."""
    y, (a, b), (scale, zero) = n.outputs[0], factor, n.inputs[6:8]
    if np.prod(g.shapes[scale]) != 1:
        raise Dynamic("several scales of the result")
    real = g.constant(g.value(total).astype(F64), total) if g.is_constant(total) else cast(g, total, F64)
    if g.is_constant(a) and g.is_constant(b):
        values = along(g, a, y, axes[0]) * along(g, b, y, axes[1])
        real = g.emit("Mul", (real, g.constant(values, scale)), shape=g.shapes[y])
    else:
        for name, axis in zip((a, b), axes):
            real = g.emit("Mul", (real, spread(g, name, y, axis)), shape=g.shapes[y])
    quantised(g, real, scale, zero, y, axis=1, jitter=JITTER)


def spread(g: Draft, name: str, x: str, axis: int) -> str:
    """A number or a list along an axis of x, as a float64 tensor that broadcasts to x."""
    if g.is_constant(name):
        return g.constant(along(g, name, x, axis).astype(F64), name)
    shape = g.shapes[name]
    if len(shape) > 1:
        raise Dynamic("scales or zero points of blocks that depend on the input")
    wide = cast(g, name, F64)
    tail = () if shape in ((), (1,)) else (*shape, *(1,) * (g.rank(x) - 1 - axis % g.rank(x)))
    return g.emit("Reshape", (wide,), shape=tail)


def quantised(g: Draft, x: str, scale: str, zero: str, y: str, **attrs: Any) -> None:
    """round(x / scale) + zero between the ends of the type of y."""
    if g.is_constant(scale) and (not zero or g.is_constant(zero)):
        g.emit("QuantizeLinear", (x, scale, zero) if zero else (x, scale), y, **attrs)
        return
    if g.dtypes[y].kind not in "iu":
        raise Dynamic("a scale that depends on the input")
    ends, shape, axis = np.iinfo(g.dtypes[y]), g.shapes[y], attrs["axis"]
    q = g.emit("Div", (cast(g, x, F64), spread(g, scale, x, axis)), shape=shape)
    q = g.emit("Round", (q,), shape=shape, jitter=attrs.get("jitter", 0.0))
    if zero:
        q = g.emit("Add", (q, spread(g, zero, x, axis)), shape=shape)
    q = g.emit("Clip", (q,), shape=shape, min=float(ends.min), max=float(ends.max))
    g.emit("Cast", (q,), y, to=g.dtypes[y].name, whole=1)


@RULES.add("QuantizeLinear")
def quantize(n: Raw, g: Draft) -> None:
    quantised(g, *n.inputs[:2], n.input(2), n.outputs[0], **{"axis": 1, **n.attrs})


@RULES.add("DequantizeLinear")
def dequantize(n: Raw, g: Draft) -> None:
    """(x - zero) scale."""
    x, scale, zero, y = *n.inputs[:2], n.input(2), n.outputs[0]
    if g.is_constant(scale) and (not zero or g.is_constant(zero)) and not g.is_constant(x):
        g.emit("DequantizeLinear", n.inputs, y, **n.attrs)
        return
    axis, shape = n.attrs.get("axis", 1), g.shapes[y]
    real = g.constant(g.value(x).astype(F64), x) if g.is_constant(x) else cast(g, x, F64)
    if zero:
        real = g.emit("Sub", (real, spread(g, zero, x, axis)), shape=shape)
    g.emit("Mul", (real, spread(g, scale, x, axis)), y)
