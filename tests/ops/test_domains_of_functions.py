"""Functions that are not defined everywhere: of a box that leaves the domain nothing is said; sums keep their sign."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from verifier.bounds import METHODS
from verifier.bounds.program import Program
from verifier.net.graph import Network, Node, Tensor
from verifier.ops import OPS
from verifier.ops.base import Site

F = np.dtype(np.float32)
EDGES = {"Log": (0.0, np.inf), "Sqrt": (0.0, np.inf), "Acosh": (1.0, np.inf), "Asin": (-1, 1), "Acos": (-1, 1)}
EDGES |= {"Atanh": (-1.0, 1.0), "Pow": (0.0, np.inf)}


def operator(kind: str, dtype: torch.dtype):
    power = kind == "Pow"
    constants, shapes = ((None, np.array(0.3, F)), ((2,), ())) if power else ((None,), ((2,),))
    return OPS.load()[kind](Site(kind, kind, {}, constants, shapes, (2,), 17, dtype, torch.device("cpu")))


@pytest.mark.parametrize("dtype", (torch.float32, torch.float64), ids=str)
@pytest.mark.parametrize("kind", EDGES)
def test_nothing_is_said_where_there_may_be_no_number(kind, dtype):
    op, (low, high) = operator(kind, dtype), EDGES[kind]
    inside = (low + 0.25, low + 0.5)
    boxes = [(low - 1e-3, inside[1]), (low - 3, low - 2)]
    boxes += [(inside[0], high + 1e-3), (high + 1, high + 2)] if np.isfinite(high) else []
    for a, b in boxes:
        l, u = torch.tensor([[a, inside[0]]], dtype=dtype), torch.tensor([[b, inside[1]]], dtype=dtype)
        ends, lines, offsets = op.interval((l, u)), op.relax(l, u), op.offsets(l, u, torch.ones_like(l))
        for first, second in (ends, (lines.lo_b, lines.up_b), offsets):
            assert first[0, 0] == -torch.inf and second[0, 0] == torch.inf
            assert bool(torch.isfinite(first[0, 1])) and bool(torch.isfinite(second[0, 1]))
        assert lines.lo_a[0, 0] == lines.up_a[0, 0] == 0


@pytest.mark.parametrize("mean", ("ReduceMean", "ReduceSum"))
@pytest.mark.parametrize("offset", (None, 1e-5))
def test_sums_of_squares_stay_in_the_domain_of_a_root(mean, offset):
    """A normalisation's root is bounded however large the squares are, and over a point as well."""
    nodes = [
        Node("s", "Pow", ("t", "two"), (3,), F),
        Node("m", mean, ("s",), (1,), F, {"axes": (0,), "keepdims": 1}),
        Node("e", "Add", ("m", "c"), (1,), F),
        Node("y", "Sqrt", ("e" if offset else "m",), (1,), F),
    ]
    constants = {"two": np.array(2, F), "c": np.array([offset or 0.0], F)}
    used = [n for n in nodes if offset or n.name != "e"]
    net = Network((Tensor("t", (3,), F),), tuple(used), constants, (Tensor("y", (1,), F),), 17)
    program = Program(net, torch.float32, "cpu")
    for width in (0.0, 1e-3, 1e3):
        l, u = torch.full((1, 3), -width), torch.full((1, 3), width)
        rows = torch.tensor([[[1.0], [-1.0]]])
        for method in METHODS.load():
            lb = METHODS[method].run(program, l, u, rows, 1 << 26).lb
            assert bool(torch.isfinite(lb).all()), (method, width)
