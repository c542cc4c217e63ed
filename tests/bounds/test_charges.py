"""Every rounding is charged where it happens: also where only moves, constants or repeated reads lie in between."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from verifier.bounds import METHODS
from verifier.bounds.backward import block_sum
from verifier.bounds.crown import by_crown
from verifier.bounds.final import final_rows
from verifier.bounds.program import Program
from verifier.bounds.trace import trace_values
from verifier.net.graph import Network, Node, Tensor

F = np.dtype(np.float32)


def program(nodes: list[Node], constants: dict, n_in: int) -> Program:
    end = Tensor(nodes[-1].name, nodes[-1].shape, F)
    return Program(Network((Tensor("t", (n_in,), F),), tuple(nodes), constants, (end,), 13), torch.float32, "cpu")


def charge(p: Program, l: float, u: float) -> float:
    """The charge of the row y_0 over the box [l, u]^n."""
    METHODS.load()
    box = torch.full((1, p.n_in), l), torch.full((1, p.n_in), u)
    rows = torch.zeros((1, 1, p.steps[p.output].node.shape[0]))
    rows[0, 0, 0] = 1.0
    return float(final_rows(trace_values(p, *box, 1 << 30, by_crown), rows, 1 << 30).charge)


UNIT = float(torch.finfo(torch.float32).eps) / 2


def test_lines_below_a_move_are_charged():
    """A product with a line's slope rounds; the Reshape below it makes nothing that would cover that."""
    nodes = [
        Node("a", "LeakyRelu", ("t",), (2,), F, {"alpha": 0.3}),
        Node("b", "Reshape", ("a",), (1, 2), F),
        Node("c", "LeakyRelu", ("b",), (1, 2), F, {"alpha": 0.3}),
        Node("y", "Reshape", ("c",), (2,), F),
    ]
    p = program(nodes, {}, 2)
    trace = trace_values(p, torch.full((1, 2), -1e3), torch.full((1, 2), 2e3), 1 << 30, by_crown)
    (first, _), (second, _) = [(float(trace.lines[k].lo_a.flatten()[0]), k) for k in sorted(trace.lines)]
    between = float(trace.size_of(p.steps[max(trace.lines)].inputs[0])[0])
    # The row itself, the second line's product on what stands between, the first one's on the input, the input's sum.
    result = float(trace.size_of(p.output)[0])
    products = result + second * between + first * second * 2e3
    assert charge(p, -1e3, 2e3) >= 0.99 * (p.product_error(1) * products + p.sum_error * first * second * 2e3)


def test_constants_that_a_move_puts_in_are_charged():
    """Fixed coordinates are summed into the bias, and a nonlinear step directly above has no weight of its own."""
    base = np.full(1000, 1e4, np.float32)
    nodes = [
        Node("x", "Embed", ("t", "base"), (1000,), F, {"index": np.array([0])}),
        Node("h", "Relu", ("x",), (1000,), F),
        Node("y", "Linear", ("h", "W", ""), (1,), F),
    ]
    p = program(nodes, {"base": base, "W": np.ones((1000, 1), np.float32)}, 1)
    trace = trace_values(p, torch.zeros(1, 1), torch.ones(1, 1), 1 << 30, by_crown)
    embed = next(k for k in range(1, len(p.steps)) if p.steps[k].node.kind == "Embed")
    assert float(trace.weights[embed].sum()) >= 0.99 * p.sum_error * 999 * 1e4
    assert charge(p, 0.0, 1.0) >= 2 * 999 * 1e4 * UNIT  # twice: in the product and in the sum of constants


@pytest.mark.parametrize("kind", ("Add", "Concat"))
def test_a_value_that_one_step_reads_twice_is_charged_as_a_sum(kind):
    shape, attrs = ((2,), {}) if kind == "Add" else ((4,), {"axis": 0})
    nodes = [
        Node("h", "Relu", ("t",), (2,), F),
        Node("v", kind, ("h", "h"), shape, F, attrs),
        Node("y", "Reshape", ("v",), shape, F),
    ]
    p = program(nodes, {}, 2)
    assert p.reads[next(k for k in range(1, len(p.steps)) if p.steps[k].node.kind == "Relu")] == 2
    assert charge(p, 1.0, 1e6) >= 2 * UNIT * 1e6


@pytest.mark.parametrize("length", (63, 129, 5000, 300_000))
def test_sums_in_blocks_are_off_by_no_more_than_is_charged(length):
    """Also where a plain sum in this precision would be."""
    nodes = [Node("y", "Relu", ("t",), (length,), F)]
    p = program(nodes, {}, length)
    rng = np.random.default_rng(0)
    for scale in (0.0, 3.0):  # of one size, and of many
        a = torch.from_numpy(rng.uniform(0.5, 1.0, (4, length)) * np.exp(scale * rng.normal(size=(4, length)))).float()
        true, found = a.double().sum(1), block_sum(a).double()
        assert bool(((found - true).abs() <= p.sum_error * true).all())
    if length > 200_000:
        assert p.sum_error < 300 * UNIT  # a plain sum of so many numbers could lose a thousand times more
        tenths = np.full(length, 0.1, np.float32)
        true = tenths.sum(dtype=np.float64)
        assert abs(np.add.accumulate(tenths)[-1] - true) > p.sum_error * true  # one after the other
