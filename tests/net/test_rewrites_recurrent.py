"""LSTM, GRU and RNN unrolled: only plain operators are left, and they compute what ONNX Runtime does."""

import numpy as np
import pytest
from tiny import check, kinds, model, node

from verifier.net import rules_recurrent
from verifier.net.load import load_network

rng = np.random.default_rng(15)
T, B, I, H = 3, 2, 3, 2
GATES = {"RNN": 1, "GRU": 3, "LSTM": 4}


def rand(*shape):
    return rng.uniform(-1, 1, shape).astype(np.float32)


def build(op, slots="", outputs="y", opset=14, steps=T, batch=B, lengths=None, variable=(), **attrs):
    """A model of one recurrent node; `slots` names its optional inputs: b bias, s lengths, h, c states, p peepholes."""
    d = 2 if attrs.get("direction") == "bidirectional" else 1
    n, state = GATES[op] * H, (d, batch, H)
    shapes = {"b": (d, 2 * n), "h": state, "c": state, "p": (d, 3 * H)}
    weights = {"w": rand(d, n, I), "r": rand(d, n, H), **{k: rand(*shapes[k]) for k in shapes if k in slots}}
    if "s" in slots:
        weights["s"] = np.array(lengths, np.int32)
    inputs = {"x": (steps, batch, I)}
    for k in variable:
        inputs[k] = weights.pop(k).shape
    order = "bshcp" if op == "LSTM" else "bsh"
    names = " ".join(["x w r", *(k if k in slots else "-" for k in order)])
    return model(node(op, names, outputs, hidden_size=H, **attrs), inputs, opset=opset, outputs=" ".join(
        o for o in outputs.split() if o != "-"), **weights)  # fmt: skip


UNROLLED = {
    "Linear", "Add", "Sub", "Mul", "Div", "Neg", "Sigmoid", "Tanh", "Relu", "Clip", "Slice", "Reshape", "Transpose",
    "Concat", "Where", "Softsign", "Softplus", "LeakyRelu", "ThresholdedRelu", "Elu", "Swish",
}  # fmt: skip


def compare(m, **options):
    net = check(m, **options)
    assert set(kinds(net)) <= UNROLLED, set(kinds(net)) - UNROLLED
    return net


@pytest.mark.parametrize("op", GATES)
@pytest.mark.parametrize("direction", ["forward", "reverse", "bidirectional"])
@pytest.mark.parametrize("slots", ["", "b", "bh"])
def test_directions_and_states(op, direction, slots):
    slots += "c" if op == "LSTM" and "h" in slots else ""
    outputs = "y u v" if op == "LSTM" else "y u"
    compare(build(op, slots, outputs, direction=direction))


@pytest.mark.parametrize("op", GATES)
def test_one_output_alone_and_one_step(op):
    compare(build(op, "b", "- y"))
    compare(build(op, "b", "y", steps=1))
    compare(build(op, "b", "- y", steps=1, batch=1, direction="bidirectional"))
    if op == "LSTM":
        compare(build(op, "b", "- - y"))


@pytest.mark.parametrize("op", GATES)
def test_variable_states(op):
    states = "hc" if op == "LSTM" else "h"
    compare(build(op, "b" + states, "y u", variable=states, direction="bidirectional"))


@pytest.mark.parametrize("op", GATES)
@pytest.mark.parametrize("direction", ["forward", "reverse", "bidirectional"])
def test_lengths(op, direction):
    outputs = "y u v" if op == "LSTM" else "y u"
    for lengths in ([3, 2], [1, 3], [2, 2]):
        compare(build(op, "bs", outputs, lengths=lengths, direction=direction))
    compare(build(op, "bsh" + "c" * (op == "LSTM"), outputs, lengths=[1, 2], direction=direction))


@pytest.mark.parametrize("before", [0, 1])
@pytest.mark.parametrize("slots", ["", "bh"])
def test_gru_reset(before, slots):
    compare(build("GRU", slots, "y u", linear_before_reset=before))


@pytest.mark.parametrize("slots", ["bp", "bhcp"])
@pytest.mark.parametrize("coupled", [0, 1])
def test_lstm_peepholes_and_coupled_gates(slots, coupled):
    compare(build("LSTM", slots, "y u v", input_forget=coupled, direction="bidirectional"))


@pytest.mark.parametrize("op", GATES)
def test_clipped_arguments(op):
    for _ in range(12):  # what is clipped, and what is not, shows in some only
        m = build(op, "b", "y", clip=0.3)
        assert "Clip" in kinds(compare(m))


ACTIVATIONS = ["Relu", "Affine", "LeakyRelu", "ThresholdedRelu", "ScaledTanh", "HardSigmoid", "Elu", "Softsign"]


@pytest.mark.parametrize("name", [*ACTIVATIONS, "Softplus"])
def test_other_activations(name):
    parameters = {}
    if name.lower() in rules_recurrent.ALPHA:
        parameters["activation_alpha"] = [0.7]
    if name.lower() in rules_recurrent.BETA:
        parameters["activation_beta"] = [0.4]
    compare(build("RNN", "bh", "y", activations=[name], **parameters))
    compare(build("GRU", "b", "y", activations=["Sigmoid", name], **parameters))


def test_activations_of_both_directions():
    names = ["HardSigmoid", "Tanh", "ScaledTanh", "Sigmoid", "LeakyRelu", "Affine"]
    alphas, betas = [0.3, 0.8, 0.2, 0.9], [0.45, 1.1, 0.1]
    m = build("LSTM", "b", "y u v", direction="bidirectional", activations=names, activation_alpha=alphas,
              activation_beta=betas)  # fmt: skip
    compare(m)


def test_what_is_not_unrolled(monkeypatch):
    monkeypatch.setattr(rules_recurrent, "MAX_STEPS", 2)
    assert kinds(load_network(build("RNN", "b"))) == ["Opaque"]


def test_weights_that_vary():
    m = build("RNN", "b", variable="b")
    assert kinds(load_network(m)) == ["Opaque"]
