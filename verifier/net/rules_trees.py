"""Normal forms of tree ensembles (domain ai.onnx.ml). The table is in `verifier.net.simplify`.

A node compares one feature with a number in one of six ways. Two kinds of cuts say them all: x < c, and x <= c; x >= c
and x > c are these with their children exchanged, x = c is x < c ? no : (x <= c ? yes : no), for which the subtree of
the answer no is written twice.

Inputs that are no floats go through a Cast to float32, in which ONNX Runtime compares them.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from verifier.net.draft import RULES, Draft, Dynamic, Raw

MOST_NODES = 1 << 20
DEEPEST = 400
MODES = ("BRANCH_LEQ", "BRANCH_LT", "BRANCH_GTE", "BRANCH_GT", "BRANCH_EQ", "BRANCH_NEQ", "BRANCH_MEMBER")


class Ask(NamedTuple):
    """A node of a file: x[feature] `mode` value; the answers' children are names of other nodes or leaves."""

    mode: str
    feature: int
    value: float
    yes: object
    no: object


class Forest:
    """Trees written out as the arrays of a Trees node; leaves (L, K) by name."""

    def __init__(self, asks: dict[object, Ask], leaves: dict[object, np.ndarray]):
        self.asks, self.leaves = asks, leaves
        self.nodes: list[list] = []  # feature, cut, closed, yes, no
        self.weights: list[np.ndarray] = []

    def write(self, name: object, depth: int = 0) -> int:
        """The subtree below a name: its number as the node's attributes have it."""
        if len(self.nodes) + len(self.weights) > MOST_NODES or depth > DEEPEST:
            raise Dynamic("a tree that is too large")
        if name in self.leaves:
            self.weights.append(self.leaves[name])
            return -len(self.weights)
        ask = self.asks[name]
        yes, no = ask.yes, ask.no
        mode = ask.mode.removeprefix("BRANCH_")
        if mode in ("GT", "GTE", "NEQ"):
            mode, yes, no = {"GT": "LEQ", "GTE": "LT", "NEQ": "EQ"}[mode], no, yes
        if mode not in ("LEQ", "LT", "EQ") or not np.isfinite(ask.value):
            raise Dynamic(f"nodes of mode {ask.mode}")
        if mode == "EQ":
            return self.ask(ask, False, depth, no, lambda: self.ask(ask, True, depth + 1, yes, no))
        return self.ask(ask, mode == "LEQ", depth, yes, no)

    def ask(self, ask: Ask, closed: bool, depth: int, yes: object, no: object) -> int:
        """One cut; a child is a name, or a function that writes it."""
        number = len(self.nodes)
        self.nodes.append([ask.feature, ask.value, closed, 0, 0])
        for slot, child in ((3, yes), (4, no)):
            self.nodes[number][slot] = child() if isinstance(child, Callable) else self.write(child, depth + 1)
        return number

    def emit(self, g: Draft, x: str, roots: list, aggregate: str) -> str:
        """Trees (and for the average a Div): (N, K) for x (N, F) or (F,)."""
        starts = [self.write(r) for r in roots]
        feature, cut, closed, yes, no = (np.array(v) for v in zip(*self.nodes)) if self.nodes else [np.zeros(0)] * 5
        weights = np.array(self.weights, np.float64)
        shape = g.shapes[x]
        if g.dtypes[x].kind != "f":
            x = g.emit_dtype("Cast", (x,), shape, np.float32, to="float32")
        if len(shape) == 1:
            x = g.emit("Reshape", (x,), shape=(1, *shape))
        y = g.emit_dtype(
            "Trees",
            (x,),
            (*g.shapes[x][:-1], weights.shape[1]),
            np.dtype(np.float32) if g.dtypes[x] == np.float32 else np.dtype(np.float64),
            feature=feature.astype(np.int64),
            cut=cut.astype(np.float64),
            closed=closed.astype(bool),
            yes=yes.astype(np.int64),
            no=no.astype(np.int64),
            roots=np.array(starts, np.int64),
            weights=weights,
            aggregate="SUM" if aggregate == "AVERAGE" else aggregate,
        )
        if aggregate == "AVERAGE":
            y = g.emit("Div", (y, g.constant(np.asarray(len(roots), g.dtypes[y]), y)), shape=g.shapes[y])
        return y


def listed(n: Raw, name: str) -> tuple:
    """An attribute given as a list, or as a tensor under a name of its own."""
    tensor = n.attrs.get(f"{name}_as_tensor")
    values = n.attrs.get(name, ()) if tensor is None or not np.size(tensor) else tensor
    return tuple(np.ravel(values).tolist())


def by_lists(n: Raw, kind: str, results: int) -> tuple[Forest, list]:
    """The trees of TreeEnsembleRegressor ('target') or TreeEnsembleClassifier ('class'), and the names of their
    roots."""
    names = list(zip(listed(n, "nodes_treeids"), listed(n, "nodes_nodeids")))
    leaves: dict[object, np.ndarray] = {}
    asks: dict[object, Ask] = {}
    nodes = (listed(n, f"nodes_{k}") for k in ("modes", "featureids", "values", "truenodeids", "falsenodeids"))
    for name, mode, feature, value, yes, no in zip(names, *nodes, strict=True):
        if mode == "LEAF":
            leaves[name] = np.zeros(results)
        else:
            asks[name] = Ask(mode, feature, value, (name[0], yes), (name[0], no))
    given = (listed(n, f"{kind}_{k}") for k in ("treeids", "nodeids", "ids", "weights"))
    for tree, node, result, weight in zip(*given, strict=True):
        if (tree, node) not in leaves or not 0 <= result < results:
            raise Dynamic("weights that belong to no leaf")
        leaves[tree, node][result] += weight
    children = {c for a in asks.values() for c in (a.yes, a.no)}
    roots = [name for name in names if name not in children]
    if len(roots) != len({name[0] for name in names}):
        raise Dynamic("trees with several roots")
    return Forest(asks, leaves), roots


def emit_finished(g: Draft, y: str, base: tuple, transform: str, name: str) -> None:
    """Base values and the function after them, under a name of the file."""
    if base and any(base):
        y = g.emit("Add", (y, g.constant(np.array(base, np.float64), y)), shape=g.shapes[y])
    if transform in ("SOFTMAX", "LOGISTIC"):
        attrs = {"axes": (len(g.shapes[y]) - 1,)} if transform == "SOFTMAX" else {}
        y = g.emit("Softmax" if attrs else "Sigmoid", (y,), shape=g.shapes[y], **attrs)
    elif transform != "NONE":
        raise Dynamic(f"post_transform {transform}")
    emit_as(g, y, name)


def emit_as(g: Draft, y: str, name: str) -> None:
    """A result under a name of the file, with the shape and element type that it has there."""
    if g.dtypes[y] == g.dtypes[name]:
        g.emit("Reshape", (y,), name)
        return
    y = g.emit("Reshape", (y,), shape=g.shapes[name])
    g.emit("Cast", (y,), name, to=g.dtypes[name].name)


@RULES.add("ai.onnx.ml.TreeEnsembleRegressor")
def tree_regressor(n: Raw, g: Draft) -> None:
    forest, roots = by_lists(n, "target", n.attrs.get("n_targets", 1))
    aggregate = n.attrs.get("aggregate_function", "SUM")
    if aggregate in ("MIN", "MAX") and len(listed(n, "target_ids")) != len(forest.leaves) * n.attrs.get("n_targets", 1):
        raise Dynamic("leaves without a weight")
    y = forest.emit(g, n.inputs[0], roots, aggregate)
    emit_finished(g, y, listed(n, "base_values"), n.attrs.get("post_transform", "NONE"), n.outputs[0])


@RULES.add("ai.onnx.ml.TreeEnsemble")
def tree_ensemble(n: Raw, g: Draft) -> None:
    """Since version 5 of the domain: children are numbers of nodes or of leaves, weights tensors."""
    a, results = n.attrs, n.attrs.get("n_targets", 1)
    modes = [MODES[m] for m in listed(n, "nodes_modes")]
    child = lambda leaf, at: ("leaf" if leaf else "node", at)
    yes = map(child, listed(n, "nodes_trueleafs"), listed(n, "nodes_truenodeids"))
    no = map(child, listed(n, "nodes_falseleafs"), listed(n, "nodes_falsenodeids"))
    nodes = zip(modes, listed(n, "nodes_featureids"), listed(n, "nodes_splits"), yes, no, strict=True)
    asks = {("node", i): Ask(*parts) for i, parts in enumerate(nodes)}
    leaves = {}
    for j, (target, weight) in enumerate(zip(listed(n, "leaf_targetids"), listed(n, "leaf_weights"), strict=True)):
        leaves["leaf", j] = weight * np.eye(results)[target]
    aggregate = ("AVERAGE", "SUM", "MIN", "MAX")[a.get("aggregate_function", 1)]
    if aggregate in ("MIN", "MAX") and results > 1:
        raise Dynamic("leaves without a weight")
    y = Forest(asks, leaves).emit(g, n.inputs[0], [("node", r) for r in listed(n, "tree_roots")], aggregate)
    transform = ("NONE", "SOFTMAX", "LOGISTIC", "SOFTMAX_ZERO", "PROBIT")[a.get("post_transform", 0)]
    emit_finished(g, y, (), transform, n.outputs[0])


@RULES.add("ai.onnx.ml.TreeEnsembleClassifier")
def tree_classifier(n: Raw, g: Draft) -> None:
    """Labels and scores. With two classes ONNX Runtime has rules of its own, which depend on the classes that have
    weights, and on whether all of these are >= 0."""
    labels = labels_of(n, "classlabels_int64s")
    ids, weights = listed(n, "class_ids"), listed(n, "class_weights")
    base, used = listed(n, "base_values"), sorted(set(ids))
    transform = n.attrs.get("post_transform", "NONE")
    forest, roots = by_lists(n, "class", max(len(labels), 2))
    if len(labels) < 2 or not used:
        raise Dynamic("a single class")
    y = forest.emit(g, n.inputs[0], roots, "SUM")
    if len(labels) > 2:
        if len(base) not in (0, len(labels)):
            raise Dynamic("base values for some classes")
        y = emit_added(g, y, base)
        emit_label(n, g, labels, lambda: g.emit_dtype("ArgMax", (y,), g.shapes[y][:1], np.int64, **FIRST_OF_CLASSES))
        emit_finished(g, y, (), transform, n.outputs[1])
        return
    positive, single = min(weights) >= 0, used == [0]
    if len(base) > 1 or (used == [1] and base):
        raise Dynamic("base values of two classes")
    y = emit_added(g, y, (*base, 0.0) if base else ())
    score = emit_column(g, y, 0 if single else 1)
    if len(used) == 2:  # the labels are then 0 and 1, whatever they are called
        labels, positive = (0, 1), False
    emit_label(n, g, labels, lambda: emit_above(g, score, 0.5 if positive else 0.0))
    if single:
        y = emit_both_sides(g, score, positive and transform != "LOGISTIC")
        transform = "NONE" if transform == "SOFTMAX" else transform
    emit_finished(g, y, (), transform, n.outputs[1])


FIRST_OF_CLASSES = {"axis": 1, "keepdims": 0, "select_last_index": 0}


def labels_of(n: Raw, ints: str) -> tuple:
    """The names of the classes: integers, or the numbers of strings."""
    strings = n.attrs.get("classlabels_strings") or ()
    return tuple(range(len(strings))) if strings else tuple(n.attrs.get(ints) or ())


def emit_added(g: Draft, y: str, base: tuple) -> str:
    if not any(base):
        return y
    return g.emit("Add", (y, g.constant(np.array(base, np.float64), y)), shape=g.shapes[y])


def emit_column(g: Draft, y: str, k: int) -> str:
    """Column k of y (N, K): (N, 1)."""
    return g.emit("Slice", (y,), shape=(g.shapes[y][0], 1), axes=(1,), starts=(k,), ends=(k + 1,), steps=(1,))


def emit_both_sides(g: Draft, score: str, share: bool) -> str:
    """(1 - s, s), or (-s, s), of s (N, 1)."""
    shape = g.shapes[score]
    other = g.emit("Neg", (score,), shape=shape)
    if share:
        other = g.emit("Add", (other, g.constant(np.asarray(1.0, g.dtypes[score]), score)), shape=shape)
    return g.emit("Concat", (other, score), shape=(shape[0], 2), axis=1)


def emit_above(g: Draft, score: str, threshold: float) -> str:
    """Whether s (N, 1) is above a number, as an index (N,)."""
    above = g.emit_dtype(
        "Greater", (score, g.constant(np.asarray(threshold, g.dtypes[score]), score)), g.shapes[score], np.bool_
    )
    flat = g.emit("Reshape", (above,), shape=g.shapes[score][:1])
    return g.emit_dtype("Cast", (flat,), g.shapes[flat], np.int64, to="int64")


def emit_label(n: Raw, g: Draft, labels: tuple, index: Callable[[], str]) -> None:
    """The label at an index (N,), under the name of output 0; strings stay as they are, without an operator."""
    name = n.outputs[0] if n.outputs else ""
    if not name:
        return
    if g.dtypes[name].kind not in "iu":
        g.emit(n.op, n.inputs, name, **n.attrs)
    elif labels == tuple(range(len(labels))):
        emit_as(g, index(), name)
    else:
        g.emit("GatherDynamic", (g.constant(np.array(labels, g.dtypes[name]), name), index()), name, axis=0)
