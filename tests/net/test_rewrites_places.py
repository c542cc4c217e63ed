"""Comparisons of variables become signs of differences, with every tie as ONNX Runtime settles it."""

import itertools

import numpy as np
import pytest
from interpret import interpret
from oracles import run_ort
from tiny import check, kinds, model, node

TINY = np.float32(1e-45)  # the least positive number: differences of this size must not vanish
POINTS = [np.array(p, np.float32) for p in itertools.product((-1.0, 0.0, TINY, 1.0, 1.0 + 2**-23), repeat=2)]


def agrees(m):
    net = check(m)
    for x in POINTS:
        np.testing.assert_array_equal(interpret(net, x), run_ort(m, [x])[0].ravel())
    return net


@pytest.mark.parametrize("kind", ("Greater", "GreaterOrEqual", "Less", "LessOrEqual"))
def test_orders_of_two_variables(kind):
    m = model([node(kind, "x z", "b"), node("Cast", "b", to=1)], {"x": (1,), "z": (1,)})
    net = agrees(m)
    assert kinds(net) == ["Sub", kind, "Cast"] and not net.constants[net.nodes[1].inputs[1]].any()


def test_orders_that_stay():
    m = model([node("Greater", "x c", "b"), node("Cast", "b", to=1)], {"x": (1, 2)}, c=np.array([1, 2], np.float32))
    assert kinds(check(m)) == ["Greater", "Cast"]
    n = [node("Cast", "x", "i", to=7), node("Cast", "z", "j", to=7), node("Less", "i j", "b"), node("Cast", "b", to=1)]
    assert "Sub" not in kinds(check(model(n, {"x": (1,), "z": (1,)}))), "integers may wrap around"


@pytest.mark.parametrize("last", (0, 1))
@pytest.mark.parametrize("kind", ("ArgMax", "ArgMin"))
@pytest.mark.parametrize("keepdims", (0, 1))
def test_the_place_of_the_larger_of_two(kind, last, keepdims):
    n = [node(kind, "x", "k", axis=-1, keepdims=keepdims, select_last_index=last), node("Cast", "k", to=1)]
    net = agrees(model(n, {"x": (1, 2)}))
    assert kind not in kinds(net) and "Sub" in kinds(net)
    n[0] = node(kind, "x", "k", axis=-1, keepdims=keepdims, select_last_index=last)
    assert kind in kinds(check(model(n, {"x": (1, 3)})))
