"""Inputs of other types than float32, several of them in one model: bounds hold for what the runtime receives, and
answers are those that trying points in ONNX Runtime gives.
"""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import parser

from verifier import api
from verifier.elements import inward, nearest, outward
from verifier.events import Deadline
from verifier.settings import from_dict


def ask(tmp_path, inputs: str, body: str, box, text: str, n: int = 1, inits="", attack="none") -> str:
    model = f'<ir_version: 8, opset_import: ["" : 17]> agraph ({inputs}) => (float[{n}] y) {inits} {{ {body} }}'
    lines = [f"(declare-const X_{i} Real)\n(assert (>= X_{i} {l}))\n(assert (<= X_{i} {u}))" for i, (l, u) in
             enumerate(box)]  # fmt: skip
    path = tmp_path / "p.vnnlib"
    path.write_text("\n".join([*lines, *(f"(declare-const Y_{i} Real)" for i in range(n)), text]) + "\n")
    config = from_dict({"attack.method": attack})
    return str(api.verify(parser.parse_model(model), path, config, deadline=Deadline.after(20.0)).verdict)


HALF = float(np.float16(0.1))  # 0.0999755859375
CASES = {
    # y = 1000 (x - half's 0.1) + w: a fixed 0.1 arrives as the half-precision number
    "fixed half": ("float16[1] x, float[1] w", "a = Cast<to=1>(x) b = Sub(a, h) c = Mul(b, k) y = Add(c, w)",
                   [("0.1", "0.1"), ("0", "1")], {"(assert (<= Y_0 0.0))": "sat", "(assert (>= Y_0 1.01))": "unsat"}),
    # the same moving in a box that holds no half-precision number: all of it arrives as one
    "moving half": ("float16[1] x, float[1] w", "a = Cast<to=1>(x) b = Sub(a, h) c = Mul(b, k) y = Add(c, w)",
                    [("0.1", "0.10001"), ("0", "1")],
                    {"(assert (<= Y_0 0.0))": "sat", "(assert (>= Y_0 1.2))": "unsat"}),
    "half, float and double": (
        "float16[1] x, float[1] w, double[1] v",
        "a = Cast<to=1>(x) b = Sub(a, h) d = Cast<to=1>(v) c = Mul(b, k) e = Add(c, w) y = Add(e, d)",
        [("0.1", "0.1"), ("0", "1"), ("-1", "1")],
        {"(assert (<= Y_0 -1.0))": "sat", "(assert (>= Y_0 2.01))": "unsat", "(assert (<= Y_0 -1.01))": "unsat"},
    ),
    # only -1 and 0 are inputs
    "int8 between": ("int8[1] x, float[1] w", "a = Cast<to=1>(x) b = Abs(a) y = Add(b, w)",
                     [("-1.5", "0.7"), ("0", "0.25")],
                     {"(assert (>= Y_0 1.25))": "sat", "(assert (>= Y_0 1.26))": "unsat",
                      "(assert (>= Y_0 0.3)) (assert (<= Y_0 0.9))": "unsat"}),
    "int8 fixed by its box": ("int8[1] x, float[1] w", "a = Cast<to=1>(x) y = Add(a, w)", [("0.2", "1.7"), ("0", "0")],
                              {"(assert (>= Y_0 1.0))": "sat", "(assert (<= Y_0 0.9))": "unsat"}),
    "int8 without a whole number": ("int8[1] x, float[1] w", "a = Cast<to=1>(x) y = Add(a, w)",
                                    [("0.2", "0.7"), ("0", "1")], {"(assert (>= Y_0 0))": "unsat"}),
    "uint8 beyond its type": ("uint8[1] x, float[1] w", "a = Cast<to=1>(x) y = Add(a, w)", [("250", "300"), ("0", "0")],
                              {"(assert (>= Y_0 255))": "sat", "(assert (<= Y_0 249))": "unsat"}),
    "bool": ("bool[1] x, float[1] w", "a = Cast<to=1>(x) y = Add(a, w)", [("0", "1"), ("0", "0.25")],
             {"(assert (>= Y_0 1.25))": "sat", "(assert (>= Y_0 0.3)) (assert (<= Y_0 0.9))": "unsat"}),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_what_the_runtime_receives_decides(tmp_path, name):
    inputs, body, box, answers = CASES[name]
    inits = f"<float[1] h = {{{HALF!r}}}, float[1] k = {{1000.0}}>"
    for text, answer in answers.items():
        for attack in ("none", "pgd"):
            assert ask(tmp_path, inputs, body, box, text, inits=inits, attack=attack) == answer, (text, attack)


@settings(max_examples=200, deadline=None, derandomize=True)
@given(st.floats(-1e5, 1e5), st.sampled_from(["float16", "float32", "float64"]))
def test_outward_is_next_to_it(x, name):
    element, at = np.dtype(name), np.array([x])
    low, high, near = outward(at, element, -1)[0], outward(at, element, 1)[0], nearest(at, element)[0]
    assert low <= x <= high and low <= near <= high and near in (low, high)
    with np.errstate(over="ignore"):
        assert low == high or np.nextafter(element.type(low), element.type(np.inf)) == element.type(high)


def test_whole_numbers_of_a_type():
    kinds, kind = (np.dtype(np.int8), np.dtype(bool), np.dtype(np.uint64), np.dtype(np.float32)), np.arange(4)
    lower, upper = (
        np.array([[-200.0, -3.0, -1.0, 0.25], [0.5, 0.5, 2.5, 0.5]]),
        np.array([[3.5, 7, 1e20, 0.5], [0.75] * 4]),
    )
    l, u = inward(lower, upper, kinds, kind)
    assert l.tolist() == [[-128.0, 0.0, 0.0, 0.25], [1.0, 1.0, 3.0, 0.5]]
    assert u[0].tolist() == [3.0, 1.0, float(2**64 - 2048), 0.5] and (u[1, :3] < l[1, :3]).all()
