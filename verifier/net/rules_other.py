"""Normal forms of reductions, softmax, clipping, and of operators with many operands. The table is in
`verifier.net.simplify`."""

from __future__ import annotations

import math
import string
from dataclasses import replace

import numpy as np

from verifier.net.draft import RULES, Draft, Dynamic, Raw, normal_axes, normal_axis, reduced

KEEP_INTEGERS = ("ReduceMax", "ReduceMin")
# Reductions that make whole numbers of such, as they are written here.
WHOLE = ("ReduceSum", "ReduceL1", "ReduceSumSquare", "ReduceProd", "ReduceLogSumExp")
LARGEST = float(np.finfo(np.float32).max)


def emit_chain(n: Raw, g: Draft, kind: str, name: str) -> str:
    """a ∘ b ∘ c … from the left, two operands at a time."""
    y, shape = n.inputs[0], g.shapes[n.inputs[0]]
    if len(n.inputs) == 1:
        return g.emit("Identity", (y,), name, shape)
    for i, other in enumerate(n.inputs[1:], 2):
        shape = np.broadcast_shapes(shape, g.shapes[other])
        y = g.emit(kind, (y, other), name if i == len(n.inputs) else "", shape)
    return y


@RULES.add("Sum", "Max", "Min")
def many(n: Raw, g: Draft) -> None:
    emit_chain(n, g, "Add" if n.op == "Sum" else n.op, n.outputs[0])


@RULES.add("Mean")
def mean(n: Raw, g: Draft) -> None:
    total = emit_chain(n, g, "Add", "")
    count = g.constant(np.asarray(len(n.inputs), g.dtypes[n.inputs[0]]), n.inputs[0])
    g.emit("Div", (total, count), n.outputs[0])


@RULES.add("Mul")
def mul(n: Raw, g: Draft) -> None:
    """x x is a function of one number; bounds of products of two would not see that both are the same."""
    a, b = n.inputs
    if a == b and g.dtypes[a].kind == "f":
        g.emit("Pow", (a, g.constant(np.asarray(2.0, g.dtypes[a]), a)), n.outputs[0])
    else:
        g.emit("Mul", (a, b), n.outputs[0])


@RULES.add("Clip")
def clip(n: Raw, g: Draft) -> None:
    """Bounds by attribute before opset 11, of a float32 tensor, with the ends of float32 standing for none; by input
    since, which mean what they say."""
    x, y = n.inputs[0], n.outputs[0]
    lo, hi = n.input(1), n.input(2)
    if any(b and not g.is_constant(b) for b in (lo, hi)):
        clip_by_tensors(g, x, lo, hi, y)
        return
    low = float(np.ravel(g.value(lo))[0]) if lo else n.attrs.get("min", -math.inf)
    high = float(np.ravel(g.value(hi))[0]) if hi else n.attrs.get("max", math.inf)
    if g.opset < 11 and g.dtypes[x] == np.float32:
        low, high = (-math.inf if low <= -LARGEST else low), (math.inf if high >= LARGEST else high)
    if low == -math.inf and high == math.inf:
        g.emit("Identity", (x,), y)
    else:
        g.emit("Clip", (x,), y, min=float(low), max=float(high))


def clip_by_tensors(g: Draft, x: str, lo: str, hi: str, y: str) -> None:
    """min(max(x, lo), hi), as ONNX defines it also where lo > hi."""
    if lo:
        x = g.emit("Max", (x, lo), "" if hi else y, g.shapes[y])
    if hi:
        g.emit("Min", (x, hi), y)


@RULES.add("Softmax", "LogSoftmax", "Hardmax")
def softmax(n: Raw, g: Draft) -> None:
    """Before opset 13 the input is seen as a matrix, all axes from `axis` (default 1) on being its rows."""
    rank = g.rank(n.inputs[0])
    if g.opset < 13:
        axis = normal_axis(n.attrs.get("axis", 1), rank + 1)
        axes = tuple(range(axis, rank))
    else:
        axes = (normal_axis(n.attrs.get("axis", -1), rank),)
    g.emit(n.op, n.inputs[:1], n.outputs[0], axes=axes)


def axes_of(n: Raw, g: Draft) -> tuple[int, ...]:
    """Reduced axes, by attribute or (ReduceSum since 13, the others since 18) by input; none means all, or nothing if
    so flagged."""
    rank = g.rank(n.inputs[0])
    given = g.ints(n.inputs[1]) if n.input(1) else n.attrs.get("axes") or ()
    if given:
        return normal_axes(given, rank)
    return () if n.attrs.get("noop_with_empty_axes", 0) else tuple(range(rank))


def emit_reduce(g: Draft, kind: str, x: str, axes: tuple[int, ...], keepdims: int, name: str, last: bool = True) -> str:
    """One reduction to the shape of `name`, under that name if it is the `last` step."""
    return g.emit(kind, (x,), name if last else "", g.shapes[name], axes=axes, keepdims=keepdims)


def reduce_integers(n: Raw, g: Draft) -> None:
    """ONNX Runtime reduces integers in float64, and brings the result to the type towards zero, or to the type's end
    where it lies beyond."""
    x, y = n.inputs[0], n.outputs[0]
    wide = g.emit_dtype("Cast", (x,), g.shapes[x], np.dtype(np.float64), to="float64")
    result = g.fresh(y)
    g.shapes[result], g.dtypes[result] = g.shapes[y], np.dtype(np.float64)
    RULES[n.op](replace(n, inputs=(wide, *n.inputs[1:]), outputs=(result,)), g)
    if n.op == "ReduceLogSumExp":  # the greatest entry plus log(sum of exp(x - it)) >= 0, which is cut off alone
        result = g.emit("Floor", (result,), shape=g.shapes[y], jitter=1e-6)
    exact = {"whole": 1} if n.op in WHOLE else {"near": 1}
    if n.op == "ReduceMean":
        exact = {"part": max(1, math.prod(g.shapes[x])) // max(1, math.prod(g.shapes[y]))}
    g.emit("Cast", (result,), y, to=g.dtypes[y].name, saturate=1, **exact)


@RULES.add("ReduceSum", "ReduceMean", "ReduceMax", "ReduceMin", "ReduceProd", "ReduceLogSumExp")
def reduce(n: Raw, g: Draft) -> None:
    x, y, axes = n.inputs[0], n.outputs[0], axes_of(n, g)
    if not axes and n.op == "ReduceLogSumExp":
        raise Dynamic("nothing to reduce")
    if not axes:
        g.emit("Identity", (x,), y)
    elif n.op not in KEEP_INTEGERS and g.dtypes[x].kind in "iu":
        reduce_integers(n, g)
    else:
        emit_reduce(g, n.op, x, axes, n.attrs.get("keepdims", 1), y)


@RULES.add("ReduceL1", "ReduceL2", "ReduceSumSquare", "ReduceLogSum")
def reduce_function(n: Raw, g: Draft) -> None:
    x, y, axes, keep = n.inputs[0], n.outputs[0], axes_of(n, g), n.attrs.get("keepdims", 1)
    if not axes:
        raise Dynamic("nothing to reduce")
    if g.dtypes[x].kind in "iu":
        reduce_integers(n, g)
        return
    if n.op == "ReduceL1":
        x = g.emit("Abs", (x,), shape=g.shapes[x])
    elif n.op != "ReduceLogSum":
        x = g.emit("Pow", (x, g.constant(np.asarray(2.0, g.dtypes[x]), x)), shape=g.shapes[x])
    after = {"ReduceL2": "Sqrt", "ReduceLogSum": "Log"}.get(n.op)
    x = emit_reduce(g, "ReduceSum", x, axes, keep, y, last=after is None)
    if after:
        g.emit(after, (x,), y)


@RULES.add("LpNormalization")
def lp_normalization(n: Raw, g: Draft) -> None:
    """x divided by its 1- or 2-norm along an axis."""
    x, y = n.inputs[0], n.outputs[0]
    axis = normal_axis(n.attrs.get("axis", -1), g.rank(x))
    shape, small = g.shapes[x], reduced(g.shapes[x], (axis,))
    if n.attrs.get("p", 2) == 1:
        size = g.emit("ReduceSum", (g.emit("Abs", (x,), shape=shape),), shape=small, axes=(axis,), keepdims=1)
    else:
        square = g.emit("Pow", (x, g.constant(np.asarray(2.0, g.dtypes[x]), x)), shape=shape)
        total = g.emit("ReduceSum", (square,), shape=small, axes=(axis,), keepdims=1)
        size = g.emit("Sqrt", (total,), shape=small)
    g.emit("Div", (x, size), y)


@RULES.add("ArgMax", "ArgMin")
def arg_extreme(n: Raw, g: Draft) -> None:
    axis = normal_axis(n.attrs.get("axis", 0), g.rank(n.inputs[0]))
    last = n.attrs.get("select_last_index", 0)
    g.emit(n.op, n.inputs[:1], n.outputs[0], axis=axis, keepdims=n.attrs.get("keepdims", 1), select_last_index=last)


@RULES.add("NonZero", "Unique", "Compress", "NonMaxSuppression", "Range", "ConstantOfShape", "Shape", "Size")
def shape_of_values(n: Raw, g: Draft) -> None:
    """Operators whose result's shape comes from values. Where they are not constant it must be watched."""
    raise Dynamic(n.op)


@RULES.add("Einsum")
def einsum(n: Raw, g: Draft) -> None:
    """An ellipsis becomes letters of its own; an operand that it would repeat, along an axis of length 1, loses that
    axis and its letter, which says the same."""
    equation = "".join(n.attrs["equation"].split())
    if "..." not in equation:
        g.emit("Einsum", n.inputs, n.outputs[0], equation=equation)
        return
    left, arrow, y = equation.partition("->")
    terms = left.split(",")
    if not arrow:
        y = "..." + "".join(sorted(c for c in set(left) - set(",.") if left.count(c) == 1))
    hidden = [g.rank(x) - len(t.replace("...", "")) if "..." in t else 0 for t, x in zip(terms, n.inputs)]
    letters = [c for c in string.ascii_letters if c not in equation][: max(hidden)]
    inputs, lengths = [], dict.fromkeys(letters, 1)
    for k, (t, x) in enumerate(zip(terms, n.inputs)):
        terms[k] = t.replace("...", "".join(letters[len(letters) - hidden[k] :]))
        for c, d in zip(terms[k], g.shapes[x]):
            lengths[c] = max(lengths.get(c, 1), d)
    for k, x in enumerate(n.inputs):
        kept = [i for i, c in enumerate(terms[k]) if c not in letters or g.shapes[x][i] == lengths[c]]
        if len(kept) < len(terms[k]):
            shape = tuple(g.shapes[x][i] for i in kept)
            terms[k] = "".join(terms[k][i] for i in kept)
            x = g.constant(g.value(x).reshape(shape), x) if g.is_constant(x) else g.emit("Reshape", (x,), shape=shape)
        inputs.append(x)
    g.emit("Einsum", tuple(inputs), n.outputs[0], equation=",".join(terms) + "->" + y.replace("...", "".join(letters)))


@RULES.add("BitwiseNot")
def bitwise_not(n: Raw, g: Draft) -> None:
    """-1 - x, or of unsigned numbers the greatest of them less x."""
    x, info = n.inputs[0], np.iinfo(g.dtypes[n.inputs[0]])
    ones = g.constant(np.asarray(info.max if info.min == 0 else -1, g.dtypes[x]), x)
    g.emit("Sub", (ones, x), n.outputs[0])
