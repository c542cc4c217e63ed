"""Integers inside a network: forward they are ONNX Runtime's to the last bit, and bounds enclose what wraps."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import helper, numpy_helper

from verifier.bounds import METHODS
from verifier.bounds.program import Program
from verifier.net.load import load_network
from verifier.ops.integers import as_floats, ends, truncated, wrap
from verifier.problem import flatten

TYPES = ("int8", "uint8", "int16", "uint16", "int32", "uint32", "int64", "uint64")
OPS = {
    "Add": (("a", "b"), {}),
    "Sub": (("a", "b"), {}),
    "Mul": (("a", "b"), {}),
    "Neg": (("a",), {}),
    "Abs": (("a",), {}),
    "MatMul": (("a", "m"), {}),
    "ReduceSum": (("a",), {"keepdims": 1}),
    "ReduceMean": (("a",), {"keepdims": 1}),
    "CumSum": (("a", "axis"), {}),
    "Div": (("a", "m"), {}),
    "Max": (("a", "b"), {}),
    "BitwiseAnd": (("a", "b"), {}),
    "BitwiseOr": (("a", "m"), {}),
    "BitwiseXor": (("a", "b"), {}),
    "BitwiseNot": (("a",), {}),
    "BitShift:LEFT": (("a", "k"), {"direction": "LEFT"}),
    "BitShift:RIGHT": (("a", "k"), {"direction": "RIGHT"}),
    "BitShift:BY": (("m", "b"), {"direction": "RIGHT"}),
}


def model(op: str, dtype: str) -> onnx.ModelProto | None:
    """x float (2, 3) and (2, 3) cast to a type, one operator, and its result cast to float64; None where ONNX Runtime
    has no such operator.
    """
    import onnxruntime as ort

    elem = helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
    inputs, attrs = OPS[op]
    nodes = [helper.make_node("Cast", [f"{n}x"], [n], to=elem) for n in "ab"]
    op, shifts = op.partition(":")[0], np.array([1, 0, 3], dtype)
    nodes += [helper.make_node(op, list(inputs), ["c"], **attrs), helper.make_node("Cast", ["c"], ["y"], to=11)]
    m = np.array([[3, 100, 2], [7, 1, 90], [120, 4, 5]] if op == "MatMul" else [[3, 100, 2], [7, 1, 90]])
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info(f"{n}x", 11, (2, 3)) for n in "ab"],
        [onnx.ValueInfoProto(name="y")],
        [numpy_helper.from_array(v, k) for k, v in (("m", m.astype(dtype)), ("axis", np.array(1)), ("k", shifts))],
    )
    opset = 28 if op == "BitShift" else 18  # of signed numbers from 28 on
    found = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=11)
    try:
        ort.InferenceSession(found.SerializeToString(), providers=["CPUExecutionProvider"])
    except Exception:
        return None
    return found


def compiled(m: onnx.ModelProto, dtype: torch.dtype):
    network = load_network(m)
    n = network.n_inputs
    flat = flatten(network, np.arange(n), np.zeros(n), np.zeros(0, np.int64))
    return Program(flat, dtype, "cpu")


def boxes(dtype: np.dtype, n: int, rng: np.random.Generator):
    """Boxes of whole numbers at both ends of a type, at 0, and in its middle; ends beyond 2^62 are left out, since
    float64 does not hold them.
    """
    least, most = (float(e) for e in ends(dtype))
    least, most = max(least, -(2.0**62)), min(most, 2.0**62)
    for near in (least, 0.0, most, (least + most) // 2):
        for width in (2, 300):
            l = np.clip(near - rng.integers(0, width, n), least, most)
            yield l, np.minimum(l + width, most)


@pytest.mark.parametrize("op", OPS)
def test_integers_are_those_of_the_runtime_and_bounds_hold_them(op):
    import onnxruntime as ort

    rng, some = np.random.default_rng(1), 0
    for dtype in TYPES:
        m = model(op, dtype)
        if m is None:
            continue
        some += 1
        session = ort.InferenceSession(m.SerializeToString(), providers=["CPUExecutionProvider"])
        program = compiled(m, torch.float64)
        assert not program.without_bounds()
        for l, u in boxes(np.dtype(dtype), program.n_in, rng):
            x = np.trunc(l + (u - l) * rng.random((20, program.n_in)))
            a, b = (np.ascontiguousarray(t).reshape(-1, 2, 3) for t in np.split(x, 2, 1))
            want = np.stack([session.run(None, {"ax": p, "bx": q})[0].reshape(-1) for p, q in zip(a, b)])
            have = program.forward(torch.from_numpy(x)).numpy()
            np.testing.assert_array_equal(have, want, f"{op} {dtype} {l}")
            for sign in (1, -1):
                rows = sign * torch.eye(want.shape[1], dtype=torch.float64)[None]
                for method in METHODS.load():
                    lb = METHODS[method].run(program, *torch.from_numpy(np.stack([l, u]))[:, None], rows, 1 << 28).lb
                    assert (lb[0].numpy() <= (sign * want).min(0)).all(), f"{op} {dtype} {l} {method}"
    assert some


@settings(max_examples=200, deadline=None)
@given(st.sampled_from(TYPES), st.integers(-(2**63), 2**63 - 1))
def test_wrapping_is_numpys(dtype, value):
    with np.errstate(over="ignore"):
        want = np.array([value]).astype(dtype)
    have = wrap(torch.tensor([value]), np.dtype(dtype))
    np.testing.assert_array_equal(as_floats(have, np.dtype(dtype), torch.float64).numpy(), want.astype(np.float64))


def test_floats_are_cut_off():
    assert truncated(torch.tensor([1.9, -1.9, 0.0])).tolist() == [1, -1, 0]
    assert truncated(torch.tensor([2.0**63, 2.0**64 - 2048], dtype=torch.float64)).tolist() == [-(2**63), -2048]


def test_a_box_that_wraps_as_one_stays_exact():
    """uint8 90 .. 100 plus 200 is 34 .. 44; a box across the type's end is anything."""
    graph = helper.make_graph(
        [helper.make_node("Add", ["x", "d"], ["y"])],
        "g",
        [helper.make_tensor_value_info("x", 2, (2,))],
        [onnx.ValueInfoProto(name="y")],
        [numpy_helper.from_array(np.array([200], np.uint8), "d")],
    )
    program = compiled(
        helper.make_model(graph, opset_imports=[helper.make_opsetid("", 14)], ir_version=8), torch.float32
    )
    rows = torch.cat([torch.eye(2), -torch.eye(2)])[None]
    METHODS.load()
    for l, u, least, most in ((90, 100, 34, 44), (50, 60, 0, 255), (3, 4, 203, 204)):
        box = torch.full((1, 2), float(l)), torch.full((1, 2), float(u))
        for method in ("interval", "crown"):
            lb = METHODS[method].run(program, *box, rows, 1 << 28).lb[0]
            torch.testing.assert_close(
                lb, torch.tensor([least, least, -most, -most], dtype=lb.dtype), rtol=1e-4, atol=1e-3
            )
