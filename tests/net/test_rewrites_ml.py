"""Models of the domain ai.onnx.ml: the values of ONNX Runtime, at the thresholds of trees too, and bounds that hold."""

from itertools import product

import numpy as np
import onnx
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from interpret import interpret
from onnx import TensorProto, helper, numpy_helper
from oracles import run_ort

from verifier.bounds import METHODS
from verifier.bounds.program import Program
from verifier.net.load import check_supported, load_network
from verifier.problem import flatten

F = np.float32


def ml(op, outputs="y", width=3, dtype=TensorProto.FLOAT, version=3, take=None, **attrs):
    """A model of one node; `take` names the output that counts."""
    nodes = [helper.make_node(op, ["x"], outputs.split(), domain="ai.onnx.ml", **attrs)]
    kept = [take] if take else outputs.split()
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", dtype, [1, width])],
        [onnx.ValueInfoProto(name=o) for o in kept],
    )
    ids = [helper.make_opsetid("", 17), helper.make_opsetid("ai.onnx.ml", version)]
    return helper.make_model(graph, opset_imports=ids, ir_version=8)


def agree(m, points, tolerance=1e-5):
    net = load_network(m)
    check_supported(net)
    program = program_of(net)
    for x, y in zip(points, run_ort(m, points)):
        for found in (interpret(net, x), program.forward(torch.from_numpy(x)[None].double())[0].numpy()):
            np.testing.assert_allclose(found, y, rtol=0, atol=tolerance * max(1.0, np.abs(y).max()))
    return net


def program_of(net):
    n = net.n_inputs
    return Program(flatten(net, np.arange(n), np.zeros(n), np.zeros(0, np.int64)), torch.float64, "cpu")


def box(net, low, high):
    """Interval bounds (p,) of the outputs over a box (n,)."""
    program = program_of(net)
    rows = torch.cat([torch.eye(net.n_outputs), -torch.eye(net.n_outputs)])[None].double()
    ends = (torch.from_numpy(np.asarray(v, np.float64))[None] for v in (low, high))
    found = METHODS.load()["interval"].run(program, *ends, rows, 1 << 30).lb[0].numpy()
    return found[: net.n_outputs], -found[net.n_outputs :]


def some(n=20, width=3, seed=0, low=-2, high=2):
    return [x for x in np.random.default_rng(seed).uniform(low, high, (n, width)).astype(F).astype(np.float64)]


WHOLE = [np.array(v, np.float64) for v in product((-2, 0, 1), (0, 3), (-1, 2))]


@pytest.mark.parametrize("dtype", [TensorProto.FLOAT, TensorProto.DOUBLE, TensorProto.INT64, TensorProto.INT32])
def test_scaler_and_normalizer(dtype):
    points = WHOLE[1:] if dtype in (TensorProto.INT64, TensorProto.INT32) else some()
    agree(ml("Scaler", offset=[0.5], scale=[2.0], dtype=dtype), points)
    agree(ml("Scaler", offset=[0.5, -1, 2], scale=[2.0, 0.3, -1], dtype=dtype), points)
    for norm in ("L1", "L2", "MAX"):
        away = [p for p in points if abs(p.max()) > 0.1]
        net = agree(ml("Normalizer", norm=norm, dtype=dtype), away)
        if norm != "MAX":
            low, high = box(net, np.full(3, -1), np.full(3, 1))
            assert (low >= -1 - 1e-6).all() and (high <= 1 + 1e-6).all()


@pytest.mark.parametrize("transform", ["NONE", "SOFTMAX", "LOGISTIC"])
def test_linear_models(transform):
    c = np.linspace(-1, 2, 6).astype(F).tolist()
    agree(ml("LinearRegressor", targets=2, coefficients=c, intercepts=[0.1, -0.2], post_transform=transform), some())
    for k, labels in ((1, [5, 7]), (2, [5, 7]), (2, [0, 1])):
        attrs = {"coefficients": c[: 3 * k], "intercepts": [0.1, -0.2][:k], "classlabels_ints": labels}
        for take in ("l", "z"):
            m = ml("LinearClassifier", "l z", take=take, post_transform=transform, **attrs)
            agree(m, some())
    attrs = {"coefficients": c[:3], "intercepts": [0.1], "classlabels_ints": [5, 7], "multi_class": 1}
    agree(ml("LinearClassifier", "l z", take="z", post_transform=transform, **attrs), some())
    m = ml("LinearClassifier", "l z", take="z", classlabels_strings=["a", "b"], coefficients=c, intercepts=[0.1, 0])
    agree(m, some())


@pytest.mark.parametrize("kind, params", [("LINEAR", [0.0, 0, 0]), ("RBF", [0.7, 0, 0]), ("POLY", [0.5, 1, 3])])
def test_support_vectors(kind, params):
    v = np.random.default_rng(1).normal(size=(4, 3)).astype(F)
    attrs = {"support_vectors": v.ravel().tolist(), "coefficients": [1.0, -0.5, 0.3, 2.0], "rho": [0.2]}
    m = ml("SVMRegressor", kernel_type=kind, kernel_params=params, n_supports=4, **attrs)
    net = agree(m, some())
    low, high = box(net, -np.ones(3), np.ones(3))
    y = np.array(run_ort(m, some(low=-1, high=1))).ravel()
    assert low <= y.min() and y.max() <= high


def test_features():
    agree(ml("Binarizer", threshold=0.5), [*some(), np.array([0.5, 0.50000006, 0.49999997])])
    agree(ml("Imputer", imputed_value_floats=[1.0, 2, 3], replaced_value_float=float("nan")), some())
    agree(ml("Imputer", imputed_value_floats=[1.0, 2, 3], replaced_value_float=0.0), [*some(), np.zeros(3)])
    for dtype in (TensorProto.FLOAT, TensorProto.INT64):
        agree(ml("OneHotEncoder", cats_int64s=[-2, 0, 3], dtype=dtype), WHOLE)
    node = helper.make_node("ArrayFeatureExtractor", ["x", "i"], ["y"], domain="ai.onnx.ml")
    m = ml("Binarizer", threshold=0.5)
    m.graph.node[0].CopyFrom(node)
    m.graph.initializer.append(numpy_helper.from_array(np.array([2, 0]), "i"))
    agree(m, some())


def trees(rng, count, depth, results, kind, modes=("BRANCH_LEQ",), cuts=(-1.0, 0.0, 0.5, 1.5), positive=False):
    """Attributes of a random ensemble whose trees share cuts."""
    a = {k: [] for k in ("treeids", "nodeids", "featureids", "modes", "values", "truenodeids", "falsenodeids")}
    w = {k: [] for k in ("treeids", "nodeids", "ids", "weights")}
    for t in range(count):
        nodes = 2**depth - 1
        for i in range(2 * nodes + 1):
            leaf = i >= nodes
            values = (t, i, int(rng.integers(3)), "LEAF" if leaf else str(rng.choice(modes)))
            values += (0.0 if leaf else float(rng.choice(cuts)), 0 if leaf else 2 * i + 1, 0 if leaf else 2 * i + 2)
            for k, v in zip(a, values):
                a[k].append(v)
            for r in results if leaf else ():
                value = float(F(rng.random() if positive else rng.normal()))
                for k, v in zip(w, (t, i, r, value)):
                    w[k].append(v)
    return {f"nodes_{k}": v for k, v in a.items()} | {f"{kind}_{k}": v for k, v in w.items()}


AT_CUTS = [np.array(v) for v in product((-1.0, 0.0, np.nextafter(F(0), F(1)), 0.5), (0.5, 1.5, 3), (-1, 0.75))]
MODES = ("BRANCH_LEQ", "BRANCH_LT", "BRANCH_GTE", "BRANCH_GT", "BRANCH_EQ", "BRANCH_NEQ")


@pytest.mark.parametrize("aggregate", ["SUM", "AVERAGE", "MIN", "MAX"])
@pytest.mark.parametrize("modes", [MODES[:1], MODES])
def test_tree_regressors(aggregate, modes):
    a = trees(np.random.default_rng(2), 5, 3, (0, 1), "target", modes)
    m = ml("TreeEnsembleRegressor", n_targets=2, aggregate_function=aggregate, base_values=[0.5, -1], **a)
    agree(m, some() + AT_CUTS)


def test_trees_on_other_types():
    a = trees(np.random.default_rng(3), 4, 3, (0,), "target")
    agree(ml("TreeEnsembleRegressor", n_targets=1, dtype=TensorProto.DOUBLE, **a), WHOLE)
    a = trees(np.random.default_rng(3), 4, 3, (0,), "target", cuts=(0.1, 0.3, 1 / 3))
    for name in ("nodes_values", "target_weights"):  # cuts that float32 does not hold
        values = a.pop(name)
        a[f"{name}_as_tensor"] = helper.make_tensor(name, TensorProto.DOUBLE, [len(values)], values)
    near = product((0.1, float(F(0.1)), 0.3), (1 / 3, float(F(1 / 3))), (0.3, np.nextafter(0.3, 1)))
    agree(ml("TreeEnsembleRegressor", n_targets=1, dtype=TensorProto.DOUBLE, **a), [np.array(v) for v in near])
    a = trees(np.random.default_rng(3), 4, 3, (0,), "class")
    for dtype in (TensorProto.INT64, TensorProto.INT32):
        agree(ml("TreeEnsembleClassifier", "l z", take="z", classlabels_int64s=[0, 1], dtype=dtype, **a), WHOLE)


@pytest.mark.parametrize("positive", [False, True])
@pytest.mark.parametrize("transform", ["NONE", "LOGISTIC", "SOFTMAX"])
@pytest.mark.parametrize("used, labels", [((0,), [3, 4]), ((1,), [3, 4]), ((0, 1), [0, 1]), ((0, 1, 2), [7, 5, 9])])
def test_tree_classifiers(used, labels, transform, positive):
    a = trees(np.random.default_rng(4), 3, 2, used, "class", positive=positive)
    base = [] if used == (1,) else [0.25] * (1 if len(labels) == 2 else 3)
    for b in ([], base):
        more = {"base_values": b} if b else {}
        for take in ("l", "z"):
            m = ml("TreeEnsembleClassifier", "l z", take=take, classlabels_int64s=labels, **a, **more)
            m.graph.node[0].attribute.append(helper.make_attribute("post_transform", transform))
            agree(m, some() + AT_CUTS)


def test_base_values_of_two_classes_are_left_to_the_runtime():
    a = trees(np.random.default_rng(4), 3, 2, (0, 1), "class")
    m = ml("TreeEnsembleClassifier", "l z", take="z", classlabels_int64s=[0, 1], base_values=[0.1, 0.2], **a)
    assert {n.kind for n in load_network(m).nodes} == {"Opaque"}


def test_version_5_of_trees():
    tensor = lambda v, t: helper.make_tensor("t", t, [len(v)], v)
    attrs = {
        "tree_roots": [0, 2],
        "nodes_featureids": [0, 1, 2],
        "nodes_modes": tensor([0, 3, 1], TensorProto.UINT8),
        "nodes_splits": tensor([0.5, 1.5, -1.0], TensorProto.FLOAT),
        "nodes_truenodeids": [1, 1, 3],
        "nodes_trueleafs": [0, 1, 1],
        "nodes_falsenodeids": [0, 2, 4],
        "nodes_falseleafs": [1, 1, 1],
        "leaf_targetids": [0, 1, 0, 1, 0],
        "leaf_weights": tensor([1.0, -2, 3, 0.5, 4], TensorProto.FLOAT),
    }
    m = ml("TreeEnsemble", version=5, n_targets=2, aggregate_function=1, post_transform=0, **attrs)
    agree(m, some() + AT_CUTS)


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10**6))
def test_boxes_of_trees(seed):
    """Sound over random boxes, and exact where few cuts pass through, even if trees share them."""
    rng = np.random.default_rng(seed)
    a = trees(rng, 4, 2, (0,), "target", MODES[:4])
    m = ml("TreeEnsembleRegressor", n_targets=1, **a)
    net = load_network(m)
    ends = np.sort(rng.choice([-2, -1, -0.5, 0, 0.25, 0.5, 1, 1.5, 2], (2, 3)), 0)
    low, high = box(net, *ends)
    axes = [sorted({l, u, *(v for c in (-1.0, 0.0, 0.5, 1.5) for v in (c - 1e-3, c, c + 1e-3) if l <= v <= u)})
            for l, u in ends.T]  # fmt: skip
    y = np.array(run_ort(m, [np.array(p) for p in product(*axes)])).ravel()
    assert low <= y.min() + 1e-6 and high >= y.max() - 1e-6
    assert low >= y.min() - 1e-5 and high <= y.max() + 1e-5  # at most 5 bins a feature: all of them are looked at
