"""Reading a file: where bytes come from, what becomes of inputs and outputs, that every failure is one line of ours."""

import gzip
import os
import random
import subprocess
import sys
import time

import numpy as np
import onnx
import pytest
from interpret import interpret
from onnx import TensorProto, helper, numpy_helper
from oracles import run_ort
from tiny import check, kinds, model, node

from verifier.net.load import check_supported, load_network, read_model_bytes
from verifier.result import FileError, ModelError, UnsupportedError, VerifierError

W = np.arange(12, dtype=np.float32).reshape(3, 4)


def small():
    return model([node("MatMul", "x w", "h"), node("Relu", "h")], {"x": ("N", 3)}, w=W)


def refused(source, error, *words):
    """The one line with which a source is refused."""
    with pytest.raises(error) as info:
        load_network(source)
    text = str(info.value)
    assert "\n" not in text and len(text) < 600
    for word in words:
        assert word in text
    return text


# --- where the bytes come from


def test_plain_gzip_and_missing_suffix(tmp_path):
    data = small().SerializeToString()
    plain, packed = tmp_path / "a.onnx", tmp_path / "b.onnx.gz"
    plain.write_bytes(data)
    packed.write_bytes(gzip.compress(data))
    for source in (plain, str(plain), packed, tmp_path / "b.onnx", data, gzip.compress(data), small()):
        assert kinds(load_network(source)) == ["Linear", "Relu"]
        assert read_model_bytes(source) == data


def test_missing_and_truncated_files(tmp_path):
    refused(tmp_path / "no.onnx", FileError, "no.onnx", "No such file")
    refused(tmp_path, FileError, "directory")
    packed = gzip.compress(small().SerializeToString())
    for cut in (3, 12, len(packed) // 2, len(packed) - 3):
        (tmp_path / "t.onnx.gz").write_bytes(packed[:cut])
        refused(tmp_path / "t.onnx.gz", FileError, "t.onnx.gz", "truncated or damaged")


@pytest.mark.parametrize(
    "data", [b"", b"hello", b"\x08\x07", b"\xff" * 40, b"version https://git-lfs.github.com/spec/v1\n"]
)
def test_what_is_no_onnx_file(data):
    refused(data, ModelError, "not an ONNX file")


def test_external_data(tmp_path):
    m = model(node("Gemm", "x w"), {"x": (1, 64)}, w=np.ones((64, 64), np.float32))
    path = tmp_path / "m.onnx"
    onnx.save(m, path, save_as_external_data=True, location="weights.bin", size_threshold=0)
    assert kinds(load_network(path)) == ["Linear"]
    refused(path.read_bytes(), ModelError, "other files")
    os.remove(tmp_path / "weights.bin")
    refused(path, FileError, "external data")


# --- models that cannot be used


def test_empty_graphs():
    m = small()
    del m.graph.node[:]
    refused(m, ModelError, "empty")
    m = small()
    del m.graph.output[:]
    refused(m, ModelError, "no outputs")
    refused(model(node("Constant", "", value=numpy_helper.from_array(W)), {}), ModelError, "no inputs")


def test_broken_graphs():
    refused(model(node("Relu", "x", "h"), {"x": (1, 3)}), ModelError, "'y'")
    refused(model([node("Add", "x b", "a"), node("Relu", "a", "b")], {"x": (1, 3)}, outputs="b"), ModelError, "cycle")
    refused(model(node("MatMul", "x w"), {"x": (1, 5)}, w=W), ModelError, "ONNX Runtime refuses the model", "MatMul")
    refused(model(node("Sigmoid", "x"), {"x": (1, 3)}, opset=5), ModelError, "opset 5 is too old for ONNX Runtime")
    refused(model(node("Relu", "x"), {"x": (1, 3)}, opset=999), ModelError, "opset")
    refused(model(node("Min", "x -"), {"x": (1, 3)}), ModelError, "lacks its input 1")
    m = small()
    m.graph.initializer[0].raw_data = b"abc"
    refused(m, ModelError, "'w'")


def test_tensors_too_large_are_refused_before_they_are_made():
    start = time.monotonic()
    refused(model(node("Relu", "x"), {"x": (2**20, 2**20)}), ModelError, "too large")
    refused(model(node("Expand", "x s"), {"x": (1,)}, s=np.array([2**40])), ModelError, "too large")
    m = small()
    m.graph.initializer[0].dims[0] = 2**50
    refused(m, ModelError, "too large")
    assert time.monotonic() - start < 1


def test_shapes_that_depend_on_the_input():
    n = [node("Cast", "x", "i", to=7), node("ConstantOfShape", "i")]
    refused(model(n, {"x": (1,)}), ModelError)
    refused(model(node("NonZero", "x"), {"x": (1, 3)}), ModelError)


def test_shapes_inside_may_change_but_are_no_constants():
    """The length of a slice that is as long as the input says is not folded."""
    n = [
        node("Cast", "x", "e", to=7),
        node("Slice", "w z e", "cut"),
        node("Shape", "cut", "s"),
        node("Cast", "s", "length", to=1),
        node("Size", "cut", "k"),
        node("Cast", "k", "size", to=1),
        node("Add", "length size"),
    ]
    net = load_network(model(n, {"x": (1,), "w": (3,)}, z=np.array([0])))
    assert {"SliceDynamic", "ShapeDynamic", "SizeDynamic"} <= set(kinds(net))
    n = [
        node("ArgMax", "x", "i", axis=1, keepdims=0),
        node("Gather", "w i", "g"),
        node("Shape", "g", "s"),
        node("Cast", "s", to=1),
    ]
    assert set(
        kinds(load_network(model([*n, node("Add", "x b", "u")], {"x": (1, 3)}, outputs="y u", w=W, b=W[0, :3])))
    ) >= {"Add"}
    assert "Gather" not in {k[:6] for k in kinds(load_network(model(n, {"x": (1, 3)}, w=W)))}, "its shape is fixed"


def test_pieces_behind_few_integers_are_looked_up():
    """What is cut has no fixed length, but what is made of it has: it is a function of the integer."""
    length = [node("Slice", "w z e", "cut"), node("Shape", "cut", "s"), node("Cast", "s", to=1)]
    net = load_network(model([node("Cast", "x", "e", to=7), *length], {"x": (1,)}, w=W[0], z=np.array([0])))
    assert kinds(net) == ["Cast", "Lookup"]
    piece = net.nodes[1].attrs["piece"]
    for e in (-5, -4, -1, 0, 1, 2, 4, 9):
        assert piece.results[piece.at((e,))] == [len(W[0, :e])]
    assert len(piece.results) == 5, "equal results are kept once"
    largest = [node("Cast", "x", "i", to=7), node("ReduceMax", "i", "e", keepdims=1), *length]
    net = load_network(model(largest, {"x": (5,)}, w=W[0], z=np.array([0])))
    assert kinds(net) == ["Cast", "ReduceMax", "Lookup"], "five integers are too many, their largest is one"
    net = load_network(model([node("Cast", "x", "e", to=7), *length], {"x": (1,), "w": (4,)}, z=np.array([0])))
    assert "Lookup" not in kinds(net), "what is cut depends on the input itself"


def test_a_lookup_says_where_the_model_cannot_be_run():
    n = [
        node("Cast", "x", "e", to=7),
        node("Slice", "w e end", "cut"),
        node("Gather", "cut one", "second"),
        node("ScatterND", "w place second"),
    ]
    fixed = {"w": W[0], "end": np.array([9]), "one": np.array([1]), "place": np.array([[0]])}
    piece = load_network(model(n, {"x": (1,)}, **fixed)).nodes[-1].attrs["piece"]
    assert piece.at((3,)) == -1 and piece.results[piece.at((2,))].tolist() == [3, 1, 2, 3]


def test_structure_that_depends_on_the_input_but_not_the_shapes():
    n = [node("ArgMax", "x", "i", axis=1, keepdims=0), node("Gather", "w i")]
    assert kinds(check(model(n, {"x": (1, 3)}, w=W))) == ["ArgMax", "GatherDynamic"]


def test_unsupported_operators_are_listed_all_at_once():
    with pytest.raises(UnsupportedError) as info:
        load_network(model([node("Foo", "x", "h"), node("Bar", "h")], {"x": (1, 3)}))
    assert [u[:3] for u in info.value.nodes] == [("Foo_h", "Foo", 13), ("Bar_y", "Bar", 13)]
    random = [node("RandomNormalLike", "x", "h"), node("RandomUniformLike", "h")]
    with pytest.raises(UnsupportedError) as info:
        check_supported(load_network(model(random, {"x": (3, 3)}, outputs="h y")))
    assert [u[:2] for u in info.value.nodes] == [(n.name, n.op_type) for n in random]
    check_supported(load_network(small()))


# --- inputs and outputs


def test_unknown_dimensions_are_one():
    m = small()
    assert load_network(m).inputs[0].shape == (1, 3)
    for value in (0, -1):
        m.graph.input[0].type.tensor_type.shape.dim[0].dim_value = value
        assert load_network(m).inputs[0].shape == (1, 3)
    m.graph.input[0].type.tensor_type.shape.dim[0].Clear()
    assert load_network(m).inputs[0].shape == (1, 3)


def test_initializers_among_the_inputs_are_constants():
    m = small()
    m.graph.input.insert(0, helper.make_tensor_value_info("w", TensorProto.FLOAT, (3, 4)))
    m.ir_version = 3
    assert [t.name for t in load_network(m).inputs] == ["x"]


def test_several_inputs_and_outputs_in_order():
    n = [node("Add", "b a", "s"), node("Sub", "a b", "d")]
    net = check(model(n, {"b": (1, 2), "a": (3, 2)}, outputs="d s"))
    assert [t.name for t in net.inputs] == ["b", "a"] and [t.name for t in net.outputs] == ["d", "s"]
    assert net.n_inputs == 8 and net.n_outputs == 12


def test_outputs_are_nodes_even_if_they_are_inputs_or_constants():
    net = check(
        model(
            [node("Relu", "x", "h"), node("Constant", "", "c", value=numpy_helper.from_array(W))],
            {"x": (2, 2)},
            outputs="c x h",
        )
    )
    assert net.outputs[0].shape == (3, 4)


def test_double_and_integer_models():
    net = check(model(node("MatMul", "x w"), {"x": (1, 3)}, dtype=np.float64, w=W.astype(np.float64)), tolerance=1e-12)
    assert net.dtype == np.float64
    m = model([node("Cast", "x", "h", to=1), node("Relu", "h")], {"x": (1, 3)})
    m.graph.input[0].type.tensor_type.elem_type = TensorProto.INT64
    x = np.array([3.0, -2.0, 0.0])
    assert interpret(load_network(m), x).tolist() == run_ort(m, [x])[0].tolist()
    m.graph.input[0].type.tensor_type.elem_type = TensorProto.STRING
    refused(m, ModelError, "not numbers")


def test_shape_arithmetic_vanishes():
    n = [
        node("Shape", "x", "s"),
        node("Gather", "s zero", "b", axis=0),
        node("Unsqueeze", "b", "u", axes=[0]),
        node("Concat", "u minus", "t", axis=0),
        node("Reshape", "x t", "h"),
        node("Relu", "h"),
    ]
    net = check(model(n, {"x": (2, 3, 4)}, opset=11, zero=np.array(0), minus=np.array([-1])))
    assert kinds(net) == ["Reshape", "Relu"] and not net.constants


def test_what_nobody_reads_is_dropped():
    n = [node("Foo", "x", "unused"), node("Relu", "x"), node("Exp", "x", "dead")]
    assert kinds(load_network(model(n, {"x": (1, 3)}, w=W))) == ["Relu"]


def test_nodes_out_of_order_are_sorted():
    assert kinds(check(model([node("Relu", "h"), node("Neg", "x", "h")], {"x": (1, 3)}))) == ["Neg", "Relu"]


def test_kept_tensors_survive():
    n = [node("MatMul", "x w", "h"), node("Add", "h b", "g"), node("Identity", "g", "i"), node("Relu", "i")]
    net = load_network(model(n, {"x": (1, 3)}, w=W, b=np.ones(4, np.float32)), keep=("h", "i"))
    assert {"h", "i", "y"} <= {n.name for n in net.nodes}


def test_functions_of_the_model_are_inlined():
    f = helper.make_function("own", "Twice", ["a"], ["b"], [node("Add", "a a", "b")], [helper.make_opsetid("", 13)])
    m = model([helper.make_node("Twice", ["x"], ["h"], domain="own"), node("Relu", "h")], {"x": (1, 3)})
    m.functions.append(f)
    m.opset_import.append(helper.make_opsetid("own", 1))
    assert kinds(load_network(m)) == ["Add", "Relu"]


def test_unused_domains_do_no_harm():
    m = small()
    m.opset_import.append(helper.make_opsetid("ai.onnx.ml", 2))
    m.opset_import.append(helper.make_opsetid("nobody.knows", 3))
    assert kinds(load_network(m)) == ["Linear", "Relu"]


@pytest.mark.parametrize("opset", range(7, 24))
def test_opsets(opset):
    if opset > onnx.defs.onnx_opset_version():
        pytest.skip("later than the installed onnx")
    assert kinds(check(model([node("MatMul", "x w", "h"), node("Relu", "h")], {"x": (1, 3)}, opset=opset, w=W))) == [
        "Linear",
        "Relu",
    ]


# --- damage, and what loading costs


def test_no_damage_escapes(capfd):
    """Truncated files and flipped bytes end in a network or in an error of ours, and print nothing."""
    rng = random.Random(1)
    n = [
        node("Conv", "x w", "c", pads=[1, 1, 1, 1]),
        node("Relu", "c", "r"),
        node("Resize", "r roi s", "z", mode="linear"),
        node("Reshape", "z t", "f"),
        node("Gemm", "f v b", transB=1),
    ]
    data = model(
        n,
        {"x": (1, 1, 4, 4)},
        w=np.ones((2, 1, 3, 3), np.float32),
        roi=np.zeros(0, np.float32),
        s=np.array([1, 1, 2, 2], np.float32),
        t=np.array([1, -1]),
        v=np.ones((3, 128), np.float32),
        b=np.ones(3, np.float32),
    ).SerializeToString()
    for i in range(400):
        damaged = bytearray(data)
        if i % 4 == 0:
            del damaged[rng.randrange(len(data)) :]
        else:
            for _ in range(rng.choice([1, 2, 5])):
                damaged[rng.randrange(len(damaged))] = rng.randrange(256)
        try:
            load_network(bytes(damaged))
        except VerifierError as e:
            assert "\n" not in str(e)
    out = capfd.readouterr()
    assert out.out == out.err == ""


def test_reading_imports_no_torch_and_is_quick(tmp_path):
    path = tmp_path / "m.onnx"
    onnx.save(small(), path)
    code = (
        "import sys, time, onnx, onnxruntime\n"
        "from verifier.net.load import load_network, check_supported\n"
        f"load = lambda: check_supported(load_network({str(path)!r}))\n"
        "load(); start = time.perf_counter(); load(); print(time.perf_counter() - start)\n"
        "bad = {'torch', 'torchvision', 'scipy', 'onnx.reference', 'pandas'} & set(sys.modules)\n"
        "assert not bad, bad\n"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    assert float(run.stdout) < 0.05
