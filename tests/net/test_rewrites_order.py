"""The place of the largest entry of a softmax is looked for in its argument."""

from __future__ import annotations

import numpy as np
import pytest
from interpret import interpret
from oracles import run_ort
from tiny import check, kinds, model, node


def same(m, *shape):
    net = check(m)
    for seed in range(20):
        x = np.random.default_rng(seed).normal(size=shape).astype(np.float32)
        np.testing.assert_array_equal(interpret(net, x), run_ort(m, [x])[0].ravel())
    return net


@pytest.mark.parametrize("entries", (2, 3))
@pytest.mark.parametrize("kind", ("ArgMax", "ArgMin"))
@pytest.mark.parametrize("function", ("Softmax", "LogSoftmax"))
def test_within_a_group(function, kind, entries):
    """With the axis moved to another place before the largest entry is looked for."""
    nodes = [
        node(function, "x", "p", axis=3),
        node("Transpose", "p", "t", perm=(0, 3, 2, 1)),
        node("Gather", "t i", "g", axis=0),
        node("Slice", "g starts ends axes", "s"),
        node(kind, "s", "k", axis=0, keepdims=0),
        node("Cast", "k", to=1),
    ]
    cut = {"starts": np.array([1]), "ends": np.array([3]), "axes": np.array([1]), "i": np.array(0)}
    net = same(model(nodes, {"x": (1, 2, 4, entries)}, **cut), 1, 2, 4, entries)
    assert (function not in kinds(net)) == (kind == "ArgMax" or function == "LogSoftmax")


def test_without_the_largest_entry_it_stays():
    nodes = [node("Softmax", "x", "p", axis=1), node("Slice", "p a b c", "s"), node("ArgMax", "s", "k", axis=1)]
    m = model([*nodes, node("Cast", "k", to=1)], {"x": (1, 3)}, a=np.array([1]), b=np.array([3]), c=np.array([1]))
    net, x = check(m), np.float32([[900.0, 0.0, 300.0]])
    assert "Softmax" in kinds(net)
    np.testing.assert_array_equal(interpret(net, x), run_ort(m, [x])[0].ravel())


def test_across_groups_it_stays():
    nodes = [node("Softmax", "x", "p", axis=1), node("ArgMax", "p", "k", axis=0), node("Cast", "k", to=1)]
    assert "Softmax" in kinds(same(model(nodes, {"x": (3, 4)}), 3, 4))


@pytest.mark.parametrize("kind, function", (("ArgMax", "Sigmoid"), ("ArgMin", "Softmax")))
def test_where_entries_saturate_it_stays(kind, function):
    """Far entries are equal in float32, and the first of them is named."""
    nodes = [node(function, "x", "p"), node(kind, "p", "k", axis=1), node("Cast", "k", to=1)]
    m = model(nodes, {"x": (1, 3)})
    x = np.float32([[200.0, 300.0, 100.0]]) if function == "Sigmoid" else np.float32([[0.0, 300.0, -100.0]])
    net = check(m)
    assert function in kinds(net)
    np.testing.assert_array_equal(interpret(net, x), run_ort(m, [x])[0].ravel())


def test_who_else_reads_the_softmax_keeps_it():
    nodes = [
        node("Softmax", "x", "p", axis=1),
        node("ArgMax", "p", "k", axis=1),
        node("Cast", "k", "f", to=1),
        node("Add", "p f"),
    ]
    net = same_up_to_rounding(model(nodes, {"x": (3, 4)}))
    assert "Softmax" in kinds(net)


def same_up_to_rounding(m):
    net = check(m)
    x = np.random.default_rng(0).normal(size=(3, 4)).astype(np.float32)
    np.testing.assert_allclose(interpret(net, x), run_ort(m, [x])[0].ravel(), rtol=1e-6)
    return net
