"""Attributes that the reader does not know refuse their node; the table says of every operator which ones it knows."""

import numpy as np
import onnx
import pytest
from tiny import check, kinds, model, node

from verifier.net import attributes
from verifier.net.attributes import NEWEST, UNDERSTOOD
from verifier.net.load import RULES, load_network
from verifier.ops import OPS

EVERY = [s for s in onnx.defs.get_all_schemas_with_history() if s.since_version <= NEWEST]
AT_7 = {s.name: s.since_version for s in sorted(EVERY, key=lambda s: s.since_version) if s.since_version <= 7}
SCHEMAS = [s for s in EVERY if s.domain or s.since_version >= AT_7.get(s.name, 0)]
LEFT_OUT = {("QuantizeLinear", "precision"), ("Range", "stash_type")}  # known, and not understood
LEFT_OUT |= {(f"{kind}Normalization", "stash_type") for kind in ("Layer", "RMS", "Group")}


def name_of(schema):
    return f"{schema.domain}.{schema.name}" if schema.domain else schema.name


def test_every_operator_that_is_read_is_listed_with_attributes_of_its_own():
    read = {name_of(s) for s in SCHEMAS} & (RULES.declared | OPS.declared)
    assert read - set(UNDERSTOOD) == set()
    known: dict[str, set[str]] = {}
    for s in SCHEMAS:
        known.setdefault(name_of(s), set()).update(s.attributes)
    for op, listed in UNDERSTOOD.items():
        assert listed <= known.get(op, listed), f"{op} has no attribute {listed - known[op]}"


def test_attributes_that_are_left_out_are_those_and_no_others():
    """A new version of onnx with new attributes fails here; whoever understands them lists them."""
    found = {(name_of(s), a) for s in SCHEMAS if name_of(s) in UNDERSTOOD for a in s.attributes}
    left = {(op, a) for op, a in found if a not in UNDERSTOOD[op]}
    assert left == LEFT_OUT


def unread(m):
    """Why the model's only operator is left to the runtime; '' where it is read."""
    (n,) = load_network(m).nodes
    return f"{n.attrs['op']}: {n.attrs['why']}" if n.kind == "Opaque" else ""


def test_an_attribute_that_is_not_understood_refuses_by_name(monkeypatch):
    monkeypatch.setitem(attributes.UNDERSTOOD, "LeakyRelu", frozenset())
    said = unread(model(node("LeakyRelu", "x", alpha=0.25), {"x": (1, 3)}))
    assert said == "LeakyRelu: its attribute alpha=0.25 is not understood"
    assert not unread(model(node("LeakyRelu", "x", alpha=0.01), {"x": (1, 3)}))
    assert not unread(model(node("LeakyRelu", "x"), {"x": (1, 3)}))


def test_an_operator_that_changed_later_refuses_by_name(monkeypatch):
    monkeypatch.setattr(attributes, "NEWEST", 12)
    assert "as of opset 13 is not known" in unread(model(node("Tanh", "x"), {"x": (1, 3)}))
    assert not unread(model(node("Sin", "x"), {"x": (1, 3)}))


def test_constants_are_the_runtime_s_whatever_their_attributes(monkeypatch):
    monkeypatch.setitem(attributes.UNDERSTOOD, "LeakyRelu", frozenset())
    m = model([node("LeakyRelu", "w", "v", alpha=0.25), node("Add", "x v")], {"x": (1, 3)}, w=np.float32([[-1, 2, 3]]))
    assert kinds(check(m)) == ["Add"]


@pytest.mark.parametrize("mode", ["DCR", "CRD", None])
@pytest.mark.parametrize("op", ["SpaceToDepth", "DepthToSpace"])
def test_blocks_of_pixels_in_either_order(op, mode):
    if op == "SpaceToDepth" and mode and onnx.defs.onnx_opset_version() < 28:
        pytest.skip("this onnx has no modes")
    opset = 28 if op == "SpaceToDepth" and mode else 13
    given = {"mode": mode} if mode else {}
    shape = (1, 2, 4, 6) if op == "SpaceToDepth" else (1, 8, 2, 3)
    check(model(node(op, "x", blocksize=2, **given), {"x": shape}, opset=opset))
