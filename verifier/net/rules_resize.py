"""Resize and Upsample as index lists or interpolation weights per axis, whatever the coordinate convention.

Resizing works along one axis after another. So along each axis it is a list of source indices (mode nearest) or a
matrix of weights (linear, cubic), and ONNX Runtime itself tells them: a ramp 0, 1, 2, … resized in mode nearest is the
list of indices; the unit vectors resized are the columns of the matrix. The result is compared with the operator as a
whole on random input before it is believed.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from verifier.net.draft import RULES, Draft, Dynamic, Raw, normal_axis
from verifier.net.graph import Shape

Operator = Callable[[np.ndarray], np.ndarray]


@RULES.add("Resize", "Upsample")
def resize(n: Raw, g: Draft) -> None:
    x, y = n.inputs[0], n.outputs[0]
    shape, out = g.shapes[x], g.shapes[y]
    operands = [g.value(i) if i else None for i in n.inputs[1:]]
    convention = n.attrs.get("coordinate_transformation_mode", "")
    if convention == "tf_crop_and_resize" or n.attrs.get("keep_aspect_ratio_policy", "stretch") != "stretch":
        raise Dynamic("resizing that is no product over the axes")
    mode = n.attrs.get("mode", "nearest")
    axes = tuple(a for a in range(len(shape)) if rescaled(n, g, operands, a))
    along = [probe(n, g, operands, a, mode == "nearest") for a in axes]
    if not believable(run_whole(n, g, operands, shape), shape, axes, along, mode == "nearest", out):
        raise Dynamic("resizing that is no product over the axes")
    if not axes:
        g.emit("Identity", (x,), y)
    elif mode == "nearest":
        g.emit("Resize", (x,), y, mode="nearest", axes=axes, indices=tuple(along))
    else:
        g.emit("Resize", (x,), y, mode="linear", axes=axes, weights=tuple(along))


def listed_axes(n: Raw, rank: int) -> tuple[int, ...]:
    """The axes that scales and sizes speak of: all, or those listed (since 18)."""
    return tuple(normal_axis(a, rank) for a in n.attrs.get("axes") or range(rank))


def rescaled(n: Raw, g: Draft, operands: list, axis: int) -> bool:
    """Whether an axis changes its size or has a scale other than 1 (which may move entries even where the size
    stays)."""
    if g.shapes[n.inputs[0]][axis] != g.shapes[n.outputs[0]][axis]:
        return True
    scales = n.attrs.get("scales")
    if scales is None:
        k = 0 if n.op == "Upsample" or g.opset < 11 else 1
        scales = operands[k] if k < len(operands) else None
    listed = listed_axes(n, g.rank(n.inputs[0]))
    return scales is not None and np.size(scales) > 0 and axis in listed and float(scales[listed.index(axis)]) != 1.0


def run_whole(n: Raw, g: Draft, operands: list, shape: tuple[int, ...], only: int | None = None) -> Operator:
    """The operator by itself in ONNX Runtime on inputs of `shape`; with `only`, no other axis is resized."""
    import onnxruntime as ort

    from verifier.net.runtime import session_of

    listed = listed_axes(n, len(shape))
    chosen = [only is None or a == only for a in listed]
    pick = lambda v: np.where(chosen, v, 1).astype(np.asarray(v).dtype)
    attrs = {k: v for k, v in n.attrs.items() if k not in ("scales", "axes")}
    if "scales" in n.attrs:
        attrs["scales"] = [float(s) for s in pick(np.asarray(n.attrs["scales"]))]
    if n.attrs.get("axes"):
        attrs["axes"] = list(n.attrs["axes"])
    first = 0 if n.op == "Upsample" or g.opset < 11 else 1  # roi stands before scales and sizes since 11
    names, initializers = ["x"], []
    for k, value in enumerate(operands):
        names.append("" if value is None else f"c{k}")
        if names[-1]:
            value = pick(value) if k >= first and value.size else np.zeros(0, value.dtype)
            initializers.append(numpy_helper.from_array(value, names[-1]))  # an empty one says nothing, as in the file
    node = helper.make_node(n.op, names, ["y"], **attrs)
    graph = helper.make_graph(
        [node],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
        [onnx.ValueInfoProto(name="y")],
        initializers,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", g.opset)], ir_version=8)
    session = session_of(ort, model.SerializeToString())
    return lambda x: session.run(None, {"x": x.astype(np.float32)})[0]


def probe(n: Raw, g: Draft, operands: list, axis: int, nearest: bool) -> np.ndarray:
    """Along one axis: source indices (out,), or weights (out, in)."""
    shape = g.shapes[n.inputs[0]]
    size = shape[axis]
    line = tuple(size if a == axis else 1 for a in range(len(shape)))
    run = run_whole(n, g, operands, line, axis)
    if nearest:
        return np.rint(run(np.arange(size).reshape(line)).reshape(-1)).astype(np.int64)
    return np.stack([run(e.reshape(line)).reshape(-1) for e in np.eye(size)], axis=1).astype(np.float64)


def believable(run: Operator, shape: Shape, axes: tuple[int, ...], along: list, nearest: bool, out: Shape) -> bool:
    """Whether axis after axis gives what the operator gives as a whole on random input."""
    x = np.random.default_rng(0).random(shape).astype(np.float32)
    y = x.astype(np.float64)
    for axis, rule in zip(axes, along):
        y = y.take(rule, axis) if nearest else np.moveaxis(np.tensordot(rule, y, (1, axis)), 0, axis)
    return y.shape == out and bool(np.allclose(y, run(x), rtol=0, atol=0 if nearest else 1e-5))
