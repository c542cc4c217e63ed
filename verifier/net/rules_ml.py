"""Normal forms of linear models and of what is done to features before them (domain ai.onnx.ml). The table is in
`verifier.net.simplify`; for trees see `verifier.net.rules_trees`.

Inputs that are no floats go through a Cast to float32, as in ONNX Runtime. x (N, F) or (F,).
"""

from __future__ import annotations

import math

import numpy as np

from verifier.net.draft import RULES, Draft, Dynamic, Raw, reduced
from verifier.net.rules_trees import (
    FIRST_OF_CLASSES,
    emit_above,
    emit_as,
    emit_both_sides,
    emit_column,
    emit_finished,
    emit_label,
    labels_of,
)
from verifier.net.sure import Sure


def emit_floats(g: Draft, x: str) -> str:
    """x as float32."""
    if g.dtypes[x] == np.float32:
        return x
    return g.emit_dtype("Cast", (x,), g.shapes[x], np.float32, to="float32")


def emit_matrix(g: Draft, x: str) -> str:
    """x as floats (N, F)."""
    x = emit_floats(g, x)
    return x if g.rank(x) > 1 else g.emit("Reshape", (x,), shape=(1, *g.shapes[x]))


@RULES.add("ai.onnx.ml.Scaler")
def scaler(n: Raw, g: Draft) -> None:
    """(x - offset) scale, feature by feature or one number for all."""
    x = emit_floats(g, n.inputs[0])
    offset, scale = (np.array(n.attrs.get(k, ()), np.float32) for k in ("offset", "scale"))
    if not offset.size or not scale.size:
        raise Dynamic("no offset or no scale")
    y = g.emit("Sub", (x, g.constant(offset, x)), shape=g.shapes[x])
    emit_as(g, g.emit("Mul", (y, g.constant(scale, x)), shape=g.shapes[x]), n.outputs[0])


@RULES.add("ai.onnx.ml.Normalizer")
def normalizer(n: Raw, g: Draft) -> None:
    """x over the sum of |x|, over the root of the sum of x^2, or over the largest x."""
    x, norm = emit_floats(g, n.inputs[0]), n.attrs.get("norm", "MAX")
    axes = (g.rank(x) - 1,)
    small = reduced(g.shapes[x], axes)
    if norm == "MAX":
        size = g.emit("ReduceMax", (x,), shape=small, axes=axes, keepdims=1)
    elif norm == "L1":
        size = g.emit("Abs", (x,), shape=g.shapes[x])
        size = g.emit("ReduceSum", (size,), shape=small, axes=axes, keepdims=1)
    else:
        size = g.emit("Pow", (x, g.constant(np.float32(2.0), x)), shape=g.shapes[x])
        size = g.emit("ReduceSum", (size,), shape=small, axes=axes, keepdims=1)
        size = g.emit("Sqrt", (size,), shape=small)
    emit_as(g, g.emit("Div", (x, size), shape=g.shapes[x]), n.outputs[0])


def emit_scores(g: Draft, x: str, coefficients: tuple, intercepts: tuple, rows: int) -> str:
    """x C' + b, one score for each of `rows` rows of C."""
    x = emit_matrix(g, x)
    c = np.array(coefficients, np.float32).reshape(rows, -1)
    if c.shape[1] != g.shapes[x][-1]:
        raise Dynamic("coefficients that do not fit the features")
    b = g.constant(np.array(intercepts, np.float32), x) if intercepts else ""
    return g.emit("Linear", (x, g.constant(c.T, x), b), shape=(*g.shapes[x][:-1], rows))


@RULES.add("ai.onnx.ml.LinearRegressor")
def linear_regressor(n: Raw, g: Draft) -> None:
    a = n.attrs
    y = emit_scores(g, n.inputs[0], a.get("coefficients", ()), a.get("intercepts", ()), a.get("targets", 1))
    emit_finished(g, y, (), a.get("post_transform", "NONE"), n.outputs[0])


@RULES.add("ai.onnx.ml.LinearClassifier")
def linear_classifier(n: Raw, g: Draft) -> None:
    """Labels and scores; a single score s of two classes stands for (1 - s, s), or through the logistic function for
    that of (-s, s)."""
    a, labels, transform = n.attrs, labels_of(n, "classlabels_ints"), n.attrs.get("post_transform", "NONE")
    width = g.shapes[n.inputs[0]][-1]
    rows = len(a.get("coefficients", ())) // max(width, 1)
    y = emit_scores(g, n.inputs[0], a.get("coefficients", ()), a.get("intercepts", ()), rows)
    if rows > 1:
        if rows != len(labels):
            raise Dynamic("scores of other classes")
        emit_label(n, g, labels, lambda: g.emit_dtype("ArgMax", (y,), g.shapes[y][:1], np.int64, **FIRST_OF_CLASSES))
    elif len(labels) == 2:
        score = emit_column(g, y, 0)
        emit_label(n, g, labels, lambda: emit_above(g, score, 0.0))
        y = emit_both_sides(g, score, transform != "LOGISTIC")
        transform = "NONE" if transform == "SOFTMAX" else transform
    else:
        raise Dynamic("a single score")
    emit_finished(g, y, (), transform, n.outputs[1])


@RULES.add("ai.onnx.ml.SVMRegressor")
def svm_regressor(n: Raw, g: Draft) -> None:
    """sum over support vectors v of c_v K(x, v), plus rho; K is x v, (gamma x v + r)^degree, exp(-gamma |x - v|^2) or
    tanh(gamma x v + r). Without support vectors the coefficients are those of a linear model."""
    a, x = n.attrs, emit_matrix(g, n.inputs[0])
    width, count = g.shapes[x][-1], a.get("n_supports", 0)
    coefficients, rho = np.array(a.get("coefficients", ()), np.float32), np.array(a.get("rho", ()), np.float32)
    if len(rho) != 1 or a.get("one_class", 0):
        raise Dynamic("one class, or several targets")
    if not count:
        y = emit_scores(g, x, tuple(coefficients), tuple(rho), 1)
    else:
        vectors = np.array(a["support_vectors"], np.float32).reshape(count, -1)
        if vectors.shape[1] != width:
            raise Dynamic("support vectors that do not fit the features")
        y = emit_kernel(n, g, x, vectors)
        names = g.constant(coefficients.reshape(-1, 1), x), g.constant(rho, x)
        y = g.emit("Linear", (y, *names), shape=(*g.shapes[x][:-1], 1))
    emit_finished(g, y, (), a.get("post_transform", "NONE"), n.outputs[0])


def emit_kernel(n: Raw, g: Draft, x: str, vectors: np.ndarray) -> str:
    """K(x, v) for every v (V, F): (N, V)."""
    kind, (gamma, r, degree) = n.attrs.get("kernel_type", "LINEAR"), n.attrs.get("kernel_params") or (0.0, 0.0, 0.0)
    shape = (*g.shapes[x][:-1], len(vectors))
    gamma, r = np.float64(gamma), g.constant(np.full(len(vectors), r, np.float32), x)
    if kind == "RBF":
        column = g.emit("Reshape", (x,), shape=(*g.shapes[x][:-1], 1, g.shapes[x][-1]))
        far = (*shape, g.shapes[x][-1])
        d = g.emit("Sub", (column, g.constant(vectors, x)), shape=far)
        d = g.emit("Pow", (d, g.constant(np.float32(2.0), x)), shape=far)
        d = g.emit("ReduceSum", (d,), shape=shape, axes=(len(shape),), keepdims=0)
        d = g.emit("Mul", (d, g.constant(np.asarray(-gamma), x)), shape=shape)
        return g.emit("Exp", (d,), shape=shape)
    if kind == "LINEAR":
        return g.emit("Linear", (x, g.constant(vectors.T, x), ""), shape=shape)
    scaled = Sure.of(vectors.T.astype(np.float64)).times(Sure.of(gamma))
    y = g.emit("Linear", (x, g.constant(scaled, x), r), shape=shape)
    if kind == "SIGMOID":
        return g.emit("Tanh", (y,), shape=shape)
    if kind != "POLY" or degree != int(degree) or degree < 0:
        raise Dynamic(f"kernel {kind} of degree {degree}")
    return g.emit("Pow", (y, g.constant(np.asarray(degree, np.float64), x)), shape=shape)


@RULES.add("ai.onnx.ml.Binarizer")
def binarizer(n: Raw, g: Draft) -> None:
    """1 above the threshold, else 0."""
    x, y = n.inputs[0], n.outputs[0]
    threshold = np.asarray(n.attrs.get("threshold", 0.0), g.dtypes[x] if g.dtypes[x].kind == "f" else np.float32)
    x = x if g.dtypes[x].kind == "f" else emit_floats(g, x)
    above = g.emit_dtype("Greater", (x, g.constant(threshold, x)), g.shapes[x], np.bool_)
    g.emit("Cast", (above,), y, to=g.dtypes[y].name)


@RULES.add("ai.onnx.ml.Imputer")
def imputer(n: Raw, g: Draft) -> None:
    """What equals one number (often NaN, which no input is) is replaced, feature by feature."""
    x, y, a = n.inputs[0], n.outputs[0], n.attrs
    whole = g.dtypes[x].kind == "i"
    old = a.get("replaced_value_int64", 0) if whole else a.get("replaced_value_float", 0.0)
    new = np.array(a.get("imputed_value_int64s" if whole else "imputed_value_floats", ()), g.dtypes[x])
    if math.isnan(old):
        g.emit("Identity", (x,), y)
        return
    same = g.emit_dtype("Equal", (x, g.constant(np.asarray(old, g.dtypes[x]), x)), g.shapes[x], np.bool_)
    g.emit("Where", (same, g.constant(new, x), x), y)


@RULES.add("ai.onnx.ml.FeatureVectorizer")
def feature_vectorizer(n: Raw, g: Draft) -> None:
    """The inputs' features one after another."""
    parts = tuple(emit_matrix(g, x) for x in n.inputs)
    shape = (g.shapes[parts[0]][0], sum(g.shapes[p][-1] for p in parts))
    if tuple(n.attrs.get("inputdimensions") or ()) != tuple(g.shapes[p][-1] for p in parts):
        raise Dynamic("inputs of other sizes")
    emit_as(g, g.emit("Concat", parts, shape=shape, axis=1), n.outputs[0])


@RULES.add("ai.onnx.ml.ArrayFeatureExtractor")
def array_feature_extractor(n: Raw, g: Draft) -> None:
    """Entries along the last axis."""
    x, index = n.inputs[0], np.array(g.ints(n.inputs[1]), np.int64)
    shape = (*g.shapes[x][:-1], len(index))
    emit_as(g, g.emit("Gather", (x,), shape=shape, axis=len(shape) - 1, indices=index), n.outputs[0])


@RULES.add("ai.onnx.ml.OneHotEncoder")
def one_hot_encoder(n: Raw, g: Draft) -> None:
    """For each entry of x, cut off towards zero, which of the categories it is; none of them gives zeros."""
    x, y, cats = n.inputs[0], n.outputs[0], n.attrs.get("cats_int64s") or ()
    if not cats or g.dtypes[x].kind not in "iuf":
        raise Dynamic("categories that are no numbers")
    if g.dtypes[x] != np.int64:
        x = g.emit_dtype("Cast", (x,), g.shapes[x], np.int64, to="int64")
    x = g.emit("Reshape", (x,), shape=(*g.shapes[x], 1))
    shape = (*g.shapes[x][:-1], len(cats))
    same = g.emit_dtype("Equal", (x, g.constant(np.array(cats, np.int64), x)), shape, np.bool_)
    flat = g.emit_dtype("Cast", (same,), shape, g.dtypes[y], to=g.dtypes[y].name)
    g.emit("Reshape", (flat,), y)
