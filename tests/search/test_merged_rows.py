"""Rows over outputs that copy inputs: what contradicts itself once copies are one number is not searched."""

from __future__ import annotations

import pytest
from onnx import parser

from verifier import api
from verifier.config import AttackConfig, Config

COPY = parser.parse_model('<ir_version: 8, opset_import: ["" : 17]> g (float[2] x) => (float[2] y) { y = Identity(x) }')
HEAD = "".join(f"(declare-const {v} Real)\n" for v in ("X_0", "X_1", "Y_0", "Y_1"))
BOX = "".join(f"(assert (>= X_{i} -1))(assert (<= X_{i} 1))\n" for i in (0, 1))


@pytest.mark.parametrize("attack", ["pgd", "none"])
@pytest.mark.parametrize(
    "rows, verdict",
    [
        ("(assert (<= X_0 X_1))(assert (> Y_0 Y_1))", "unsat"),
        ("(assert (<= X_0 X_1))(assert (>= Y_0 Y_1))", "sat"),
        ("(assert (or (and (<= X_0 X_1) (> Y_0 Y_1)) (and (>= (+ X_0 Y_1) 1) (< (+ Y_0 X_1) 1))))", "unsat"),
        ("(assert (or (and (<= X_0 X_1) (> Y_0 Y_1)) (and (>= (+ X_0 Y_1) 1) (<= (+ Y_0 X_1) 1.5))))", "sat"),
    ],
)
def test_copies_are_one_number(rows, verdict, attack, tmp_path):
    path = tmp_path / "p.vnnlib"
    path.write_text(HEAD + BOX + rows)
    config = Config(timeout=20.0, threads=1, device="cpu", attack=AttackConfig(method=attack))
    assert api.verify(COPY, path, config).verdict == verdict
