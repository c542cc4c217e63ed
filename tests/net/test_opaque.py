"""Nodes that have no operator here: ONNX Runtime computes them, in pieces whose ends can be seen."""

import numpy as np
import pytest
from onnx import TensorProto, helper
from tiny import check, kinds, model, node

from verifier import api
from verifier.config import Config
from verifier.net.load import check_supported, load_network
from verifier.result import ModelError, UnsupportedError

W = np.array([[1, -2], [3, 0.5], [-1, 1]], np.float32)


def foreign(nodes, inputs, **more):
    m = model(nodes, inputs, **more)
    m.opset_import.append(helper.make_opsetid("com.microsoft", 1))
    return m


def fast_gelu(name="node3", inputs=("h",), outputs=("g",)):
    return helper.make_node("FastGelu", inputs, outputs, name=name, domain="com.microsoft")


def blamed(net):
    return [(n.operator, n.origin) for n in net.nodes if n.kind == "Opaque"]


def box(n, outputs, row, spread=1.0):
    """A property over the box of that size around 0."""
    lines = [f"(declare-const X_{i} Real)(assert (>= X_{i} {-spread}))(assert (<= X_{i} {spread}))" for i in range(n)]
    return "\n".join([*lines, *(f"(declare-const Y_{i} Real)" for i in range(outputs)), f"(assert {row})"])


def test_an_operator_of_another_domain():
    m = foreign([node("MatMul", "x w", "h"), fast_gelu(), node("Relu", "g")], {"x": (1, 3)}, w=W)
    net = check(m)
    assert kinds(net)[0] == "Linear" and blamed(net)[0] == ("com.microsoft.FastGelu", "node3")
    check_supported(net)


def test_shapes_that_change_inside_stay_inside():
    n = [
        node("MatMul", "x w", "h"),
        node("NonZero", "h", "places"),
        node("Cast", "places", "p", to=1),
        node("ReduceSum", "p", "s", keepdims=0),
        node("Exp", "h", "e"),
        node("Add", "s e"),
    ]
    net = check(model(n, {"x": (1, 3)}, w=W))
    assert blamed(net) == [("NonZero", "NonZero_places")] and "Linear" in kinds(net)
    with pytest.raises(ModelError, match="depends on the input"):
        load_network(model([node("Relu", "x", "h"), node("NonZero", "h")], {"x": (1, 3)}))


def test_sequences_cut_where_the_input_says():
    n = [
        node("ReduceSum", "x", "s", keepdims=0),
        node("Cast", "s", "k", to=7),
        node("Clip", "k low high", "at"),
        node("SequenceConstruct", "x u", "seq"),
        node("SequenceAt", "seq at", "h"),
        node("Relu", "h"),
    ]
    net = check(model(n, {"x": (1, 3)}, u=W[:, :1].T.copy(), low=np.array(0), high=np.array(1)))
    assert {op for op, _ in blamed(net)} <= {"SequenceConstruct", "SequenceAt"} and blamed(net)


@pytest.mark.parametrize("scan", [False, True])
def test_branches_and_loops_that_the_input_decides_on(scan):
    value = lambda name, kind, shape=None: helper.make_tensor_value_info(name, kind, shape)
    then = helper.make_graph([node("Mul", "h two", "t")], "t", [], [value("t", TensorProto.FLOAT)])
    otherwise = helper.make_graph([node("Neg", "h", "e")], "e", [], [value("e", TensorProto.FLOAT)])
    n = [node("MatMul", "x w", "h"), node("ReduceSum", "x", "s", keepdims=0), node("Greater", "s zero", "c")]
    n.append(helper.make_node("If", ["c"], ["y"], name="choice", then_branch=then, else_branch=otherwise))
    if scan:
        body = helper.make_graph(
            [node("Add", "a two", "b"), node("Less", "i s2", "k")],
            "body",
            [value("i", TensorProto.INT64, ()), value("k0", TensorProto.BOOL, ()), value("a", TensorProto.FLOAT)],
            [value("k", TensorProto.BOOL), value("b", TensorProto.FLOAT)],
        )
        n[3:] = [
            node("Cast", "s", "s2", to=7),
            helper.make_node("Loop", ["", "c", "h"], ["y"], name="choice", body=body),
        ]
    net = check(model(n, {"x": (1, 3)}, w=W, two=np.float32(2), zero=np.float32(0)))
    assert blamed(net) == [("Loop" if scan else "If", "choice")]


def test_several_results_and_element_types_without_numbers_of_ours():
    n = [node("Relu", "x", "r"), node("Unique", "r", "u i v c"), node("Cast", "v", "f", to=1), node("Add", "x f")]
    net = check(model(n, {"x": (4,)}), low=0.0)
    assert blamed(net) == [("Unique", "Unique_u")]


def test_the_verdict_names_the_node(tmp_path):
    m = foreign([node("MatMul", "x w", "h"), fast_gelu(), node("Neg", "g")], {"x": (1, 3)}, w=W)
    for row, verdict in (("(>= Y_0 0.1)", "sat"), ("(>= Y_0 1.0)", "unknown")):
        (tmp_path / "p.vnnlib").write_text(box(3, 2, row))
        config = Config(timeout=20, device="cpu", threads=1)
        if verdict == "unknown":
            config = Config(timeout=20, device="cpu", threads=1, attack=type(config.attack)(method="none"))
        result = api.verify(m, tmp_path / "p.vnnlib", config)
        assert result.verdict == verdict
    assert "no bounds for com.microsoft.FastGelu at 'node3'" in result.reason


def test_operators_that_do_not_fit_where_they_stand(tmp_path):
    """That is found only when the network is bound."""
    n = [node("Reshape", "x s", "h"), node("Conv", "h w", "c"), node("Reshape", "c t")]
    ones = np.ones((1, 1, 1, 1, 1, 1), np.float32)
    m = model(n, {"x": (2, 3)}, s=np.array([1, 1, 1, 1, 2, 3]), w=2 * ones, t=np.array([2, 3]))
    (tmp_path / "p.vnnlib").write_text(box(6, 6, "(>= Y_0 1.9)"))
    assert api.verify(m, tmp_path / "p.vnnlib", Config(timeout=20, device="cpu", threads=1)).verdict == "sat"


def test_random_numbers_are_no_constants_inside_a_body_either():
    value = lambda name, kind, shape=None: helper.make_tensor_value_info(name, kind, shape)
    steps = [node("RandomNormalLike", "a", "r"), node("Add", "a r", "b"), node("Equal", "r r", "ks")]
    steps.append(node("ReduceMin", "ksf", "m", keepdims=0))
    steps.insert(3, node("Cast", "ks", "ksf", to=1))
    steps.append(node("Cast", "m", "k", to=9))
    places = [value("i", TensorProto.INT64, ()), value("c", TensorProto.BOOL, ()), value("a", TensorProto.FLOAT)]
    body = helper.make_graph(steps, "body", places, [value("k", TensorProto.BOOL), value("b", TensorProto.FLOAT)])
    loop = helper.make_node("Loop", ["two", "", "u"], ["z"], name="drawn", body=body)
    m = model([loop, node("Add", "x z")], {"x": (1, 3)}, two=np.array(2), u=np.zeros((1, 3), np.float32))
    with pytest.raises(UnsupportedError):
        check_supported(load_network(m))
