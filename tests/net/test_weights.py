"""Weights that are not numbers, sparse weights, models of old opsets, files that are no models."""

import io
import pickle
import zipfile

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper
from tiny import check, kinds, model, node

from verifier import api
from verifier.foreign import is_onnx, is_property, recognised
from verifier.net.load import load_network
from verifier.result import ModelError, PropertyError

W = np.arange(12, dtype=np.float32).reshape(3, 4)


def spoiled(value, at=(1, 2)):
    w = W.copy()
    w[at] = value
    return w


# --- numbers that are not finite


@pytest.mark.parametrize(
    "nodes",
    [
        [node("MatMul", "x w")],
        [node("Gemm", "x v", "y", transB=1)],
        [node("Transpose", "v", "w", perm=[1, 0]), node("MatMul", "x w")],
        [node("MatMul", "x u", "h"), node("Mul", "h w")],
    ],
)
def test_a_weight_with_a_nan_is_named_at_load(nodes):
    own = {i for n in nodes for i in n.input} - {"x", "h"} - {o for n in nodes for o in n.output}
    weights = {"w": spoiled(np.nan), "v": spoiled(np.nan).T, "u": np.ones((3, 4), np.float32)}
    m = model(nodes, {"x": (3, 3)}, **{k: weights[k] for k in own})
    with pytest.raises(ModelError, match=rf"weight '{min(own - {'u'})}' has 1 NaN.*export the model again"):
        load_network(m)


def test_infinities_are_refused_as_factors_and_read_as_masks():
    for value in (np.inf, -np.inf):
        with pytest.raises(ModelError, match="'w' has 1 infinite"):
            load_network(model(node("MatMul", "x w"), {"x": (1, 3)}, w=spoiled(value)))
        mask = spoiled(value)[1]
        load_network(model([node("MatMul", "x w", "h"), node("Add", "h m")], {"x": (1, 3)}, w=W, m=mask))
        load_network(model(node("Gemm", "x w m"), {"x": (1, 3)}, w=W, m=mask))
        load_network(model(node("Max", "x m"), {"x": (1, 4)}, m=mask))
    with pytest.raises(ModelError, match="1 NaN"):
        load_network(model(node("Add", "x m"), {"x": (1, 4)}, m=spoiled(np.nan)[1]))


def test_weights_that_nothing_reads_may_be_anything():
    load_network(model(node("MatMul", "x w"), {"x": (1, 3)}, w=W, u=spoiled(np.nan)))


# --- sparse weights


@pytest.mark.parametrize("flat", [True, False])
def test_sparse_weights_are_read_as_dense_ones(flat):
    dense = np.where(W % 3 == 0, W, 0)
    places = np.flatnonzero(dense) if flat else np.argwhere(dense)
    values = numpy_helper.from_array(dense[dense != 0], "w")
    m = model(node("MatMul", "x w"), {"x": (1, 3)})
    m.graph.sparse_initializer.append(
        helper.make_sparse_tensor(values, numpy_helper.from_array(places.astype(np.int64)), dense.shape)
    )
    net = check(m)
    assert kinds(net) == ["Linear"] and len(m.graph.sparse_initializer) == 1, "the caller's model is left alone"
    (found,) = (c for c in net.constants.values() if c.shape == (3, 4))
    assert np.array_equal(found, dense)


def test_sparse_constants_are_read_as_dense_ones():
    values, places = numpy_helper.from_array(np.float32([1, 2])), numpy_helper.from_array(np.array([0, 5]))
    constant = node("Constant", "", "w", sparse_value=helper.make_sparse_tensor(values, places, (3, 2)))
    assert kinds(check(model([constant, node("MatMul", "x w")], {"x": (1, 3)}))) == ["Linear"]


# --- old opsets


def test_old_opsets_that_the_runtime_runs_are_read():
    check(model([node("Relu", "x", "h"), node("Neg", "h", "k"), node("Abs", "k")], {"x": (1, 3)}, opset=6))
    with pytest.raises(ModelError, match="opset 6 is too old for ONNX Runtime: export it again"):
        load_network(model(node("Gemm", "x w b", broadcast=1), {"x": (1, 3)}, opset=6, w=W, b=W[0]))


def test_a_file_of_another_domain_needs_no_opset_of_onnx():
    m = model(helper.make_node("Binarizer", ["x"], ["y"], domain="ai.onnx.ml", threshold=0.5), {"x": (1, 3)})
    del m.opset_import[:]
    m.opset_import.append(helper.make_opsetid("ai.onnx.ml", 1))
    assert len(load_network(m).nodes) >= 1
    m = model(node("Relu", "x"), {"x": (1, 3)})
    del m.opset_import[:]
    m.opset_import.append(helper.make_opsetid("ai.onnx.ml", 1))
    with pytest.raises(ModelError, match="names no opset"):
        load_network(m)


# --- what is no model


def packed(*names):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name in names:
            archive.writestr(name, "x")
    return buffer.getvalue()


FOREIGN = {
    "git lfs pull": b"version https://git-lfs.github.com/spec/v1\noid sha256:abc\nsize 5\n",
    "PyTorch checkpoint.*torch.onnx.export": packed("archive/data.pkl", "archive/data/0"),
    "Keras model.*export": packed("metadata.json", "config.json", "model.weights.h5"),
    "zip archive": packed("m.onnx"),
    "pickle": pickle.dumps({"a": 1}, protocol=2),
    "HDF5": b"\x89HDF\r\n\x1a\n\0\0",
    "web page": b"\n<!DOCTYPE html><html></html>",
    "TensorFlow Lite": b"\x1c\0\0\0TFL3\0",
    "xz": b"\xfd7zXZ\0\0",
}


@pytest.mark.parametrize("words", FOREIGN)
def test_files_of_other_kinds_are_recognised(words, tmp_path):
    with pytest.raises(ModelError, match=words):
        load_network(FOREIGN[words])
    path = tmp_path / "p"
    path.write_bytes(FOREIGN[words])
    with pytest.raises(PropertyError, match=words):
        api.verify(model(node("Relu", "x"), {"x": (1, 3)}), path)


def test_swapped_arguments_are_recognised(tmp_path):
    text = b"; a comment\n\n(declare-const X_0 Real)\n(declare-const Y_0 Real)\n(assert (>= Y_0 0.0))\n"
    (tmp_path / "p.vnnlib").write_bytes(text)
    onnx.save(model(node("Relu", "x"), {"x": (1, 1)}), tmp_path / "m.onnx")
    with pytest.raises(PropertyError, match="m.onnx:1:1: .*ONNX model: give the model first"):
        api.verify(tmp_path / "p.vnnlib", tmp_path / "m.onnx")
    with pytest.raises(ModelError, match="p.vnnlib: .*VNN-LIB property: give the model first"):
        load_network(tmp_path / "p.vnnlib")


def test_models_and_properties_are_taken_for_nothing_else():
    for ir, producer in ((3, ""), (8, "pytorch"), (11, "")):
        m = model(node("Relu", "x"), {"x": (1, 3)})
        m.ir_version, m.producer_name = ir, producer
        data = m.SerializeToString()
        assert not recognised(data) and not is_property(data) and is_onnx(data)
    for text in (b"(vnnlib-version <2.0>)", b"; X\n;\n (assert (<= X_0 1))", b"(declare-network N)"):
        assert not recognised(text) and is_property(text) and not is_onnx(text)
