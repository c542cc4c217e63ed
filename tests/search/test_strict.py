"""Rows that are met with equality at best: strict ones are refuted, closed ones are found to hold, both exactly."""

from __future__ import annotations

import onnx
import pytest
from onnx import parser

from verifier import api
from verifier.config import Config
from verifier.events import Deadline
from verifier.settings import from_dict

BOX = [("-1", "1"), ("-1", "1")]
ONE = "agraph (float[1,2] x) => (float[1,{n}] y) {inits} {{ {body} }}"


def ask(tmp_path, body: str, text: str, n: int = 2, inits: str = "", attack: str = "none", box=BOX) -> str:
    model = (
        f'<ir_version: 8, opset_import: ["" : 17]> {ONE.format(n=n, inits=f"<{inits}>" if inits else "", body=body)}'
    )
    path = tmp_path / "p.vnnlib"
    lines = [f"(declare-const X_{i} Real)\n(assert (>= X_{i} {l}))\n(assert (<= X_{i} {u}))" for i, (l, u) in
             enumerate(box)]  # fmt: skip
    lines += [f"(declare-const Y_{i} Real)" for i in range(n)] + [text]
    path.write_text("\n".join(lines) + "\n")
    config = from_dict({"attack.method": attack}) if attack == "none" else Config()
    parsed = parser.parse_model(model)
    onnx.checker.check_model(parsed)
    return str(api.verify(parsed, path, config, deadline=Deadline.after(20.0)).verdict)


RANGES = {
    "y = Relu(x)": ("(assert (< Y_0 0))", "(assert (<= Y_0 0))"),
    "y = Abs(x)": ("(assert (< Y_0 0))", "(assert (<= Y_0 0))"),
    "y = Sigmoid(x)": ("(assert (or (and (< Y_0 0)) (and (> Y_1 1))))", "(assert (>= Y_0 0.5))"),
    "y = Tanh(x)": ("(assert (or (and (< Y_0 -1)) (and (> Y_1 1))))", "(assert (<= Y_0 0))"),
    "y = Softmax(x)": ("(assert (or (and (< Y_0 0)) (and (> Y_0 1))))", "(assert (>= Y_0 0.5))"),
    "y = Floor(x)": ("(assert (or (and (< Y_0 -1)) (and (> (* 0.3 Y_1) 0.3))))", "(assert (>= (* 0.3 Y_1) 0.3))"),
    "y = Mul(x, x)": ("(assert (< Y_0 0))", "(assert (<= Y_0 0))"),
    "y = Sin(x)": ("(assert (> Y_0 1))", "(assert (>= Y_0 0.25))"),
    "y = HardSigmoid(x)": ("(assert (< (* 7.1 Y_1) 0))", "(assert (<= Y_0 0.5))"),
}


@pytest.mark.parametrize("body", RANGES)
def test_ranges_of_functions_are_exact(tmp_path, body):
    strict, closed = RANGES[body]
    wide = [("-9", "9"), ("-9", "9")] if "Hard" in body or "Sin" in body else BOX
    assert ask(tmp_path, body, strict, box=wide) == "unsat"
    assert ask(tmp_path, body, closed, box=wide, attack="pgd") == "sat"


@pytest.mark.parametrize("text,answer", [("(assert (< Y_0 X_0))", "unsat"), ("(assert (<= Y_0 X_0))", "sat")])
@pytest.mark.parametrize(
    "body",
    ["y = Identity(x)", "z = Transpose(x) y = Transpose(z)", "z = Gather<axis=1>(x, i) y = Gather<axis=1>(z, i)"],
)
def test_copies_of_inputs_cancel(tmp_path, body, text, answer):
    inits = "int64[2] i = {1, 0}" if "Gather" in body else ""
    for attack in ("none", "pgd"):
        assert ask(tmp_path, body, text, inits=inits, attack=attack) == answer


def test_copies_of_values_cancel(tmp_path):
    body = "z = Sigmoid(x) y = Concat<axis=1>(z, z)"
    assert ask(tmp_path, body, "(assert (> (+ Y_0 (* 2 Y_1)) (+ Y_2 (* 2 Y_3))))", n=4) == "unsat"
    assert ask(tmp_path, body, "(assert (>= (+ Y_0 (* 2 Y_1)) (+ Y_2 (* 2 Y_3))))", n=4) == "sat"
    assert ask(tmp_path, body, "(assert (>= (+ Y_0 (* 2 Y_1)) (+ Y_2 (* 2 Y_3) 0.001)))", n=4) == "unsat"
    assert ask(tmp_path, body, "(assert (> (+ Y_0 Y_0) (+ Y_2 2)))", n=4) == "unsat"


def test_strict_ends_of_inputs(tmp_path):
    assert ask(tmp_path, "y = Relu(x)", "(assert (< X_0 -1)) (assert (>= Y_0 0))") == "unsat"
    assert ask(tmp_path, "y = Relu(x)", "(assert (<= X_0 -1)) (assert (>= Y_0 0))") == "sat"
    assert ask(tmp_path, "y = Relu(x)", "(assert (> X_0 1)) (assert (>= Y_0 0))") == "unsat"
    assert ask(tmp_path, "y = Relu(x)", "(assert (> Y_0 1))") == "unsat"
    assert ask(tmp_path, "y = Relu(x)", "(assert (>= Y_0 1))") == "sat"


def test_constant_outputs_touch_their_thresholds(tmp_path):
    body, inits = "y = Concat<axis=1>(c, x)", "float[1,1] c = {3.0}"
    assert ask(tmp_path, body, "(assert (> Y_0 3.0))", n=3, inits=inits) == "unsat"
    assert ask(tmp_path, body, "(assert (>= Y_0 3.0))", n=3, inits=inits) == "sat"


def test_strict_rows_are_searched_past_where_they_touch(tmp_path):
    """A row that is 0 on most of the box, and < 0 on the rest: points where it is 0 end no attack."""
    body, inits = "z = Add(x, c) r = Relu(z) y = Neg(r)", "float[1,2] c = {-0.9, -0.9}"
    assert ask(tmp_path, body, "(assert (< Y_0 0))", inits=inits, attack="pgd") == "sat"
    assert ask(tmp_path, body, "(assert (< Y_0 0))", inits=inits) == "sat"
