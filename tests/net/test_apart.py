"""Rows taken apart compute what the table did, where and only where a matrix acts on rows that are added up."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from interpret import interpret
from tiny import model, node

from verifier.net.apart import apart
from verifier.net.load import load_network

RNG = np.random.default_rng(3)


def weights(*shape):
    return RNG.normal(size=shape).astype(np.float32)


def sets(second="a", keepdims=0):
    """Mean over the rows of a table, weighed by a column of it, beside something else; a matrix over both."""
    nodes = [
        node("Slice", "x from to last", "f"),
        node("Slice", "x to end last", "m"),
        node("MatMul", "f W", "p"),
        node("Add", "p b", "a"),
        node("Relu", "a", "r"),
        node("Mul", "r m", "w"),
        node("ReduceSum", "w rows", "s", keepdims=keepdims),
        node("ReduceSum", f"{second} rows", "s2", keepdims=keepdims),
        node("Concat", "s s2", "c", axis=-1),
        node("MatMul", "c V", "y"),
    ]
    ints = {k: np.array([v], np.int64) for k, v in (("from", 0), ("to", 4), ("end", 5), ("last", 2), ("rows", 1))}
    return model(nodes, {"x": (1, 3, 5)}, W=weights(4, 6), b=weights(6), V=weights(12, 2), **ints)


@pytest.mark.parametrize("keepdims", [0, 1])
def test_same_function(keepdims):
    net = load_network(sets(keepdims=keepdims))
    new = apart(net)
    assert new is not net
    for x in RNG.normal(size=(20, 15)):
        np.testing.assert_allclose(interpret(new, x), interpret(net, x), rtol=0, atol=1e-5)


def test_every_row_has_a_matrix_of_its_own_and_the_joined_one_is_cut():
    net = load_network(sets())
    new = apart(net)
    shapes = Counter(new.constants[n.inputs[1]].shape for n in new.nodes if n.kind == "Linear")
    assert shapes[4, 6] == 3 and shapes[6, 2] == 2
    read = {i for n in new.nodes for i in n.inputs}
    assert set(new.constants) <= read and len({n.name for n in new.nodes}) == len(new.nodes)


def test_sums_of_what_no_matrix_made_stay():
    nodes = [node("Relu", "x", "r"), node("ReduceSum", "r rows", "y", keepdims=0)]
    net = load_network(model(nodes, {"x": (1, 3, 5)}, rows=np.array([1], np.int64)))
    assert apart(net) is net


def test_sums_along_the_axis_that_a_matrix_mixes_stay():
    nodes = [node("MatMul", "x W", "r"), node("ReduceSum", "r last", "y", keepdims=0)]
    net = load_network(model(nodes, {"x": (1, 3, 5)}, W=weights(5, 4), last=np.array([2], np.int64)))
    assert apart(net) is net


def doubled(times: int):
    """A matrix on the rows of a table, then sums of a value with itself, then the sum over the rows."""
    nodes = [node("MatMul", "x W", "h0")]
    nodes += [node("Add", f"h{k} h{k}", f"h{k + 1}") for k in range(times)]
    nodes.append(node("ReduceSum", f"h{times} rows", "y", keepdims=0))
    return load_network(model(nodes, {"x": (1, 3, 5)}, W=weights(5, 2), rows=np.array([1], np.int64)))


def test_values_read_twice_are_looked_at_once():
    net = doubled(40)  # paths through them are more than could be walked
    new = apart(net)
    assert new is not net
    for x in RNG.normal(size=(5, 15)):
        np.testing.assert_allclose(interpret(new, x), interpret(net, x), rtol=1e-5)


def test_rows_are_not_pulled_through_more_than_a_stack_holds():
    net = doubled(1200)
    assert len(apart(net).nodes) <= len(net.nodes) + 4
