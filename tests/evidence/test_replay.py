"""Only genuine counterexamples pass: in the box, on the model's own file, at zero tolerance."""

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from verifier.evidence.replay import Replayer
from verifier.net.graph import Network, Tensor
from verifier.result import ModelError
from verifier.spec.parse import parse_bytes

TYPES = {"float32": TensorProto.FLOAT, "float64": TensorProto.DOUBLE}


def linear(weights, dtype="float32", batch=1):
    """Y = X W, as file bytes and as the facts that the replay needs."""
    w = np.asarray(weights, dtype)
    n, p = w.shape
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["x", "w"], ["y"])],
        "g",
        [helper.make_tensor_value_info("x", TYPES[dtype], [batch, n])],
        [helper.make_tensor_value_info("y", TYPES[dtype], [batch, p])],
        [numpy_helper.from_array(w, "w")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    shape = Tensor("x", (1, n), np.dtype(dtype)), Tensor("y", (1, p), np.dtype(dtype))
    return model.SerializeToString(), Network((shape[0],), (), {}, (shape[1],), 13, "m")


def query(box, rows, p=1):
    text = "".join(f"(declare-const X_{i} Real)\n" for i in range(len(box)))
    text += "".join(f"(declare-const Y_{i} Real)\n" for i in range(p))
    text += "".join(f"(assert (>= X_{i} {l}))(assert (<= X_{i} {u}))\n" for i, (l, u) in enumerate(box))
    return parse_bytes((text + rows).encode())


def replayer(model, q):
    return Replayer(*model, q)


def test_a_counterexample_passes_and_is_what_the_model_says():
    r = replayer(linear([[1.0], [2.0]]), query([(-1, 1), (-1, 1)], "(assert (>= Y_0 2.5))"))
    found = r(np.array([0.9, 0.9]))
    assert found is not None
    assert found.y[0] == np.float32(0.9) + np.float32(2) * np.float32(0.9)
    assert (found.x == found.x.astype(np.float32)).all()


@pytest.mark.parametrize("limit, sat", [("3.0", True), ("3.000001", False), ("3.0000000001", False)])
def test_a_near_miss_is_refused(limit, sat):
    r = replayer(linear([[1.0], [2.0]]), query([(-1, 1), (-1, 1)], f"(assert (>= Y_0 {limit}))"))
    assert (r(np.array([1.0, 1.0])) is not None) is sat


def test_points_outside_are_brought_into_the_box():
    q = query([(0.1, 0.7)], "(assert (>= Y_0 0.0))")
    for x in (-5.0, 0.1, 0.7, 0.3, 1e300):
        found = replayer(linear([[1.0]]), q)(np.array([x]))
        assert 0.1 <= found.x[0] <= 0.7
    assert replayer(linear([[1.0]]), q)(np.array([np.nan])) is None


def test_a_box_without_any_float32_keeps_its_own_number():
    r = replayer(linear([[1.0]]), query([(0.1, 0.1)], "(assert (>= Y_0 0.1))"))
    found = r(np.array([0.1]))
    assert found.x[0] == 0.1 and found.y[0] == np.float64(np.float32(0.1)) > 0.1


def test_a_corner_that_only_rounding_reaches_is_tried_too():
    # The largest float32 in [0, 0.1] is below 0.1, but 0.1 is in the box, and a float32 model receives more for it.
    r = replayer(linear([[1.0]]), query([(0, 0.1)], "(assert (>= Y_0 0.1))"))
    found = r(np.array([0.1]))
    assert found.x[0] == 0.1


def test_float64_models_keep_every_digit():
    r = replayer(linear([[1.0]], "float64"), query([(0, 1)], "(assert (>= Y_0 0.1))(assert (<= Y_0 0.1))"))
    assert r(np.array([0.1])).y[0] == 0.1
    assert r(np.array([0.1000000001])) is None


def test_the_nearest_of_several_boxes_counts():
    rows = "(assert (or (and (<= X_0 1) (>= X_0 0) (>= Y_0 0)) (and (>= X_0 5) (<= X_0 6) (>= Y_0 100))))"
    q = parse_bytes(("(declare-const X_0 Real)(declare-const Y_0 Real)" + rows).encode())
    assert replayer(linear([[1.0]]), q)(np.array([1.2])).x[0] == 1.0
    assert replayer(linear([[1.0]]), q)(np.array([5.2])) is None


def test_an_empty_box_has_no_counterexample():
    assert replayer(linear([[1.0]]), query([(1, 0)], "(assert (>= Y_0 0))"))(np.array([0.5])) is None


def test_outputs_that_are_not_numbers_are_none():
    q = query([(-1, 1)], "(assert (>= Y_0 0))")
    assert (
        replayer(
            linear(
                [
                    [3e38],
                ]
            ),
            query([(5, 9)], "(assert (>= Y_0 0))"),
        )(np.array([9.0]))
        is None
    )
    assert replayer(linear([[1.0]]), q)(np.array([0.5])) is not None


def test_a_symbolic_batch_is_one():
    assert replayer(linear([[1.0]], batch="N"), query([(0, 1)], "(assert (>= Y_0 0))"))(np.array([0.5])) is not None


def test_a_model_that_onnx_runtime_refuses_is_an_error_in_one_line():
    data, network = linear([[1.0]])
    model = onnx.load_from_string(data)
    model.graph.node[0].op_type = "NoSuchThing"
    r = Replayer(model.SerializeToString(), network, query([(0, 1)], "(assert (>= Y_0 0))"))
    with pytest.raises(ModelError) as error:
        r(np.array([0.5]))
    assert "\n" not in str(error.value)
