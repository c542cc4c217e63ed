"""Element types are ONNX's: those that numpy lacks stay what they are, as weights, between operators, as outputs."""

import ml_dtypes
import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from tiny import check, kinds, node

from verifier import api
from verifier.net.load import check_supported, load_network
from verifier.net.runtime import is_number, run_session, session_of
from verifier.result import ModelError

ODD = {
    "float8_e4m3fn": TensorProto.FLOAT8E4M3FN,
    "float8_e5m2": TensorProto.FLOAT8E5M2,
    "float8_e4m3fnuz": TensorProto.FLOAT8E4M3FNUZ,
    "float8_e5m2fnuz": TensorProto.FLOAT8E5M2FNUZ,
    "bfloat16": TensorProto.BFLOAT16,
    "int4": TensorProto.INT4,
    "uint4": TensorProto.UINT4,
}


def model(nodes, weights=(), size=4, elem=TensorProto.FLOAT, outputs="y", opset=21):
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", elem, [size])],
        [onnx.ValueInfoProto(name=o) for o in outputs.split()],
        list(weights),
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=10)


def run(m, x):
    import onnxruntime as ort

    return run_session(session_of(ort, m.SerializeToString()), {"x": x})


@pytest.mark.parametrize("name", ODD)
def test_the_runtime_s_tensors_keep_their_type(name):
    """As values, as shapes, empty or not: what comes out is what a Cast to float32 and numpy make of it."""
    dtype = np.dtype(getattr(ml_dtypes, name))
    m = model([node("Cast", "x", "h", to=ODD[name]), node("Cast", "h", to=1)], outputs="h y")
    for x in (np.array([1, -2, 0.3, 3], np.float32), np.array([0, 1, 2, 7], np.float32)):
        h, y = run(m, x)
        assert h.dtype == dtype and not is_number(h.dtype)
        np.testing.assert_array_equal(h.astype(np.float32), y)


@pytest.mark.parametrize("name", ODD)
def test_a_cast_that_is_not_modelled_is_kept_and_named(name):
    net = load_network(model([node("Cast", "x", "h", to=ODD[name]), node("Cast", "h", to=1)]))
    assert kinds(net) == ["Opaque"]
    assert net.nodes[0].attrs["op"] == "Cast" and name in net.nodes[0].attrs["why"]


@pytest.mark.parametrize("name", ODD)
@pytest.mark.parametrize("size", [4, 2048])
def test_weights_of_odd_types_that_are_cast_are_constants(name, size):
    w = np.resize(np.array([0, 1, 2, 3, 1], getattr(ml_dtypes, name)), size)
    tensor = numpy_helper.from_array(w, "w")
    assert tensor.data_type == ODD[name]
    net = check(model([node("Cast", "w", "f", to=1), node("Mul", "x f")], [tensor], size))
    assert kinds(net) == ["Mul"]


def test_constants_of_odd_types_as_outputs_and_in_nodes():
    w = numpy_helper.from_array(np.array([0, 1, 2.5, -3], ml_dtypes.bfloat16))
    m = model([node("Constant", "", "c", value=w), node("Relu", "x")], outputs="c y")
    net = load_network(m)
    check_supported(net)
    c, _ = run(m, np.zeros(4, np.float32))
    assert any(np.array_equal(v.reshape(-1), c.astype(np.float64)) for v in net.constants.values())


@pytest.mark.parametrize("name", ["bfloat16", "float8_e4m3fn", "int4"])
def test_outputs_of_odd_types_are_judged_by_their_numbers(name, tmp_path):
    m = model([node("Cast", "x", to=ODD[name])], size=1)
    (tmp_path / "p.vnnlib").write_text(
        "(declare-const X_0 Real)(declare-const Y_0 Real)(assert (>= X_0 -2))(assert (<= X_0 -1.0))(assert (<= Y_0 -1))"
    )
    result = api.verify(m, tmp_path / "p.vnnlib")
    assert str(result.verdict) == "sat" and -2 <= result.witness.y[0] <= -1


def test_inputs_of_odd_types_are_refused_with_the_way_out():
    for elem, word in ((TensorProto.BFLOAT16, "bfloat16"), (TensorProto.STRING, "string")):
        with pytest.raises(ModelError, match=f"'x'.*{word}"):
            load_network(model([node("Identity", "x")], elem=elem))


# --- outputs that nobody reads


def test_outputs_that_nobody_reads_are_none():
    pool = [node("Reshape", "x s", "r"), node("MaxPool", "r", "h i", kernel_shape=[2]), node("Relu", "h")]
    shape = numpy_helper.from_array(np.array([1, 1, 4]), "s")
    assert "Opaque" not in kinds(load_network(model(pool, [shape])))
    ones = numpy_helper.from_array(np.ones(4, np.float32), "g")
    assert "Opaque" not in kinds(load_network(model([node("LayerNormalization", "x g", "y mean std")], [ones])))
    assert "Opaque" in kinds(load_network(model(pool, [shape], outputs="y i")))
