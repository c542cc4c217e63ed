"""What follows from the property before operators are looked at: dimensions, constants, the point of the first run."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from interpret import interpret
from onnx import TensorProto
from oracles import run_ort
from tiny import kinds, model, node

from verifier import api
from verifier.config import Config, ModelConfig
from verifier.net.inputs import InputBox, only_value, point_of
from verifier.net.load import load_network
from verifier.result import ModelError, UsageError

W = np.arange(12, dtype=np.float32).reshape(3, 4)


def box(*ends):
    """One (lower, upper) an input entry."""
    lower, upper = np.array(ends, np.float64).reshape(-1, 2).T
    return InputBox(lower, upper)


def unit(n):
    return box(*[(0.0, 1.0)] * n)


def prop(tmp_path, ends, rows, outputs=1):
    text = "".join(f"(declare-const X_{i} Real)\n" for i in range(len(ends)))
    text += "".join(f"(declare-const Y_{i} Real)\n" for i in range(outputs))
    text += "".join(f"(assert (>= X_{i} {l}))(assert (<= X_{i} {u}))\n" for i, (l, u) in enumerate(ends))
    path = tmp_path / "p.vnnlib"
    path.write_text(text + rows)
    return path


# --- dimensions


def shapes(inputs, n, given=""):
    m = model(node("Concat", " ".join(inputs), axis=0), inputs) if len(inputs) > 1 else model(node("Relu", "x"), inputs)
    found = load_network(m, box=None if n is None else unit(n), config=ModelConfig(input_shapes=given)).inputs
    return [t.shape for t in found]


def test_one_unknown_dimension_follows_from_the_property():
    assert shapes({"x": (1, "T", 3)}, 12) == [(1, 4, 3)]
    assert shapes({"x": (1, "T", 3)}, None) == [(1, 1, 3)]
    assert shapes({"x": ("batch", "T", 3)}, 12) == [(1, 4, 3)]
    assert shapes({"x": ("batch", 3)}, 12) == [(4, 3)], "where nothing else explains the count, the batch does"
    assert shapes({"x": ("T", "T")}, 25) == [(5, 5)]
    assert shapes({"x": ("T", 2), "z": ("S", 2)}, 4) == [(1, 2), (1, 2)]
    assert shapes({"x": ("T", 2), "z": ("T", 2)}, 12) == [(3, 2), (3, 2)]
    assert shapes({"x": (None, 2)}, 12) == [(6, 2)]
    assert shapes({"x": (0, 3)}, 6) == [(2, 3)] and shapes({"x": (0, 3)}, 0) == [(0, 3)]


def test_dimensions_that_do_not_follow_are_named():
    for n in (24, 20):
        with pytest.raises(ModelError, match=r"unknown dimensions of x \[A,B,3\].*--input-shape x="):
            shapes({"x": ("A", "B", 3)}, n)
    assert shapes({"x": ("A", "B", 3)}, 24, "x=4,2,3") == [(4, 2, 3)]
    assert shapes({"x": ("A", 3), "z": ("A", 3)}, 12, "z=2,3") == [(2, 3), (2, 3)]
    for words in ("x=4,2", "x=4,2,4", "y=1", "x", "x=a", "x=0,1,3"):
        with pytest.raises(UsageError):
            shapes({"x": ("A", "B", 3)}, 24, words)


def test_a_dynamic_length_is_verified(tmp_path):
    m = model(node("Conv", "x w"), {"x": (1, 1, "L")}, w=np.ones((1, 1, 3), np.float32))
    path = prop(tmp_path, [(0, 1)] * 5, "(assert (>= Y_0 3.5))", 3)
    assert str(api.verify(m, path).verdict) == "unsat"
    two = model(node("ReduceSum", "x", keepdims=0), {"x": ("A", "B")})
    path = prop(tmp_path, [(0, 1)] * 4, "(assert (>= Y_0 4))")
    with pytest.raises(ModelError, match="unknown dimensions"):
        api.verify(two, path)
    with pytest.raises(ModelError, match="--input-shape x=4,1$"):
        api.verify(two, path)
    assert str(api.verify(two, path, Config(model=ModelConfig(input_shapes="x=2,2"))).verdict) == "sat"


# --- the point of the run


def test_a_model_without_a_value_at_zero_is_run_in_the_box():
    n = [node("Cast", "x", "i", to=7), node("Div", "c i", "q"), node("Cast", "q", to=1)]
    m = model(n, {"x": (1,)}, c=np.array([6]))
    assert "Div" in kinds(load_network(m, box=box((2.0, 3.0))))
    assert "Div" in kinds(load_network(m)), "without a box at ones"


def test_shapes_may_change_outside_the_box():
    n = [node("Relu", "x", "h"), node("NonZero", "h", "i"), node("Cast", "i", to=1)]
    with pytest.raises(ModelError, match="depends on the input"):
        load_network(model(n, {"x": (2,)}), box=box((-1.0, 1.0), (-1.0, 1.0)))
    assert load_network(model(n, {"x": (2,)}), box=box((1.0, 2.0), (1.0, 2.0))).n_outputs == 2


TYPES = [np.float16, np.float32, np.float64, np.int8, np.uint8, np.int32, np.uint64, np.int64, np.bool_]
NUMBERS = st.floats(-300, 300) | st.sampled_from([-np.inf, np.inf, 1e300, -1e300, 2.0**63, 2.0**64, 0.0])


@settings(max_examples=200, deadline=None)
@given(a=NUMBERS, b=NUMBERS, dtype=st.sampled_from(TYPES), share=st.floats(0, 1))
def test_points_lie_in_the_box_where_the_type_has_any(a, b, dtype, share):
    l, u = min(a, b), max(a, b)
    dtype = np.dtype(dtype)
    x = point_of(InputBox(np.array([l]), np.array([u])), share, dtype)
    assert x.dtype == dtype and np.isfinite(x.astype(np.float64)).all()
    if dtype.kind in "iu" and np.isfinite([l, u]).all() and np.ceil(l) <= np.floor(u):
        info = np.iinfo(dtype)
        if np.ceil(l) >= info.min and np.floor(u) <= float(info.max) / 2:
            assert l <= int(x[0]) <= u


# --- fixed inputs


def test_fixed_inputs_are_constants():
    m = model(node("Gemm", "x w b"), {"x": (1, 3), "w": (3, 2), "b": (2,)})
    rng = np.random.default_rng(0)
    values = rng.normal(size=8)
    lower, upper = np.concatenate([-np.ones(3), values]), np.concatenate([np.ones(3), values])
    net = load_network(m, box=InputBox(lower, upper))
    assert kinds(net) == ["Linear"] and [t.size for t in net.inputs] == [3, 6, 2]
    x = np.concatenate([rng.uniform(-1, 1, 3), values])
    np.testing.assert_allclose(interpret(net, x), run_ort(m, [x])[0], rtol=1e-6)
    assert kinds(load_network(m)) != ["Linear"]
    upper[4] += 1
    assert kinds(load_network(m, box=InputBox(lower, upper))) != ["Linear"], "one entry moves, all of them stay inputs"


def test_only_values():
    f32, i32 = np.dtype(np.float32), np.dtype(np.int32)
    assert only_value(box((0.1, 0.1)), f32) == np.float32(0.1)
    assert only_value(box((0.1, 0.2)), f32) is None
    assert only_value(box((1e300, 1e300)), f32) is None, "no number of the type"
    assert only_value(box((2.9, 3.1)), i32) == 3
    for ends in ((2.9, 4.1), (2.1, 2.9), (3e9, 3e9)):
        assert only_value(box(ends), i32) is None
    assert only_value(box((2.0**63, 2.0**63)), np.dtype(np.int64)) is None
    assert only_value(box((2.0**63, 2.0**63)), np.dtype(np.uint64)) == 2**63
    assert only_value(box((0.5, 1.5)), np.dtype(np.bool_)) == np.bool_(True)


def test_where_nothing_moves_the_first_floating_point_input_stays():
    m = model(node("MatMul", "x w"), {"x": (1, 3), "w": (3, 2)})
    net = load_network(m, box=box(*[(0.5, 0.5)] * 9))
    assert kinds(net) == ["Linear"] and "x" in net.nodes[0].inputs


def test_structure_fixed_by_the_property_in_every_region(tmp_path):
    """Scales that are an input, and move between regions, are no constants."""
    m = model(node("Mul", "x s"), {"x": (1,), "s": (1,)})
    ends = [(0, 1), (0, 5)]
    rows = "(assert (or (and (<= X_1 2) (>= X_1 2) (>= Y_0 2.5)) (and (<= X_1 3) (>= X_1 3) (>= Y_0 2.5))))"
    result = api.verify(m, prop(tmp_path, ends, rows))
    assert str(result.verdict) == "sat" and result.witness.x[1] == 3
    rows = rows.replace("(<= X_1 3) (>= X_1 3)", "(<= X_1 2) (>= X_1 2)")
    assert str(api.verify(m, prop(tmp_path, ends, rows)).verdict) == "unsat"


def test_outputs_that_are_constants(tmp_path):
    """Of every type, beside others and alone."""
    n = [node("Shape", "x", "y"), node("Relu", "x", "z")]
    path = prop(tmp_path, [(0, 1)] * 3, "(assert (or (and (>= Y_1 2.5)) (and (<= Y_1 3.5) (>= Y_2 0.5))))", 5)
    assert str(api.verify(model(n, {"x": (1, 3)}, outputs="y z"), path).verdict) == "sat"
    path = prop(tmp_path, [(0, 1)] * 3, "(assert (>= Y_1 3.5))", 2)
    m = model(n[0], {"x": (1, 3)})
    for elem in (TensorProto.FLOAT, TensorProto.INT32, TensorProto.BOOL):
        m.graph.input[0].type.tensor_type.elem_type = elem
        assert str(api.verify(m, path).verdict) == "unsat"


def test_fixed_inputs_may_be_outputs_and_be_read_as_well(tmp_path):
    m = model(node("Add", "x w"), {"x": (2,), "w": (2,)}, outputs="y w")
    ends = [(0, 1), (0, 1), (0.1, 0.1), (0.2, 0.2)]
    for least, verdict in ((1.15, "sat"), (1.25, "unsat")):
        path = prop(tmp_path, ends, f"(assert (>= Y_2 0.1))(assert (>= Y_1 {least}))", 4)
        assert str(api.verify(m, path).verdict) == verdict
    weights = model(node("Add", "x w"), {"x": (2,)}, outputs="w y", w=np.float32([1, 2]))
    path = prop(tmp_path, ends[:2], "(assert (>= Y_1 2))(assert (>= Y_3 3.5))", 4)
    assert str(api.verify(weights, path).verdict) == "unsat"
