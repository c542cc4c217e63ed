"""Linear programs at the end of the tree: what is not finite is left out of them, and never an exception."""

from __future__ import annotations

import numpy as np
import pytest
from queries import query, search, settings

from verifier.net.graph import Network, Node, Tensor
from verifier.result import Verdict
from verifier.search.leaves import solve
from verifier.search.neurons import NeuronSearch

F = np.dtype(np.float32)


def test_rows_that_are_not_finite_are_left_out():
    """min t with x + 1/2 <= t on [0, 1], next to rows of every kind of wild number: t = 1/2, its row's multiplier 1."""
    for wild in (np.inf, -np.inf, np.nan):
        a = np.array([[wild], [1.0], [1.0]])
        t, x, y = solve(a, np.array([0.0, 0.5, wild]), np.zeros(1), np.ones(1))
        assert t == pytest.approx(0.5) and x == pytest.approx([0.0]) and y.tolist() == pytest.approx([0.0, 1.0, 0.0])
        assert solve(np.array([[wild]]), np.zeros(1), np.zeros(1), np.ones(1)) is None
        assert solve(np.array([[1.0]]), np.array([wild]), np.zeros(1), np.ones(1)) is None
        assert solve(np.array([[1.0]]), np.zeros(1), np.array([wild]), np.ones(1)) is None


@pytest.mark.parametrize("kind", ("Log", "Sqrt", "Reciprocal", "Tan", "Asin", "Acosh", "Atanh"))
def test_functions_without_a_value_end_no_search_early(kind):
    """f(x) and relu(x) on a box that leaves f's domain: an answer or none, but no exception, whatever rows ask of f;
    a row that asks nothing of it is found to hold.
    """
    nodes = (
        Node("f", kind, ("x",), (2,), F),
        Node("r", "Relu", ("x",), (2,), F),
        Node("y", "Concat", ("f", "r"), (4,), F, {"axis": 0}),
    )
    network = Network((Tensor("x", (2,), F),), nodes, {}, (Tensor("y", (4,), F),), 17)
    box = [([-2.0, -2.0], [2.0, 2.0])]
    run = lambda rows, attack: search(
        network, query(2, 4, box, [(0, rows)]), settings(rounds=6, attack=attack), seconds=5.0, kind=NeuronSearch
    )
    for rows in ([({2: -1.0}, 1e6)], [({2: 1.0, 3: -2.0}, 0.25)], [({2: 1.0, 4: -1.0}, 0.25)]):
        assert run(rows, "none").verdict in (Verdict.SAT, Verdict.UNKNOWN, Verdict.TIMEOUT)
    assert run([({4: -1.0}, 0.5)], "pgd").verdict == Verdict.SAT
