"""Split points lie inside, leave about the least gap that any point leaves, and have the function's symmetries."""

from functools import cache

import pytest
import torch

from verifier.branching.known import KNOWN
from verifier.branching.points import Points, kink, lopsided, middle
from verifier.branching.tables import Table, build, gap, grid_for, key

NAMES = ("sigmoid", "tanh+mul", "sin", "sqrt")


@cache
def table(name: str) -> Table:
    return Table.of(grid_for(KNOWN[name]), build(KNOWN[name]), "cpu")


def intervals(name: str, count: int = 300):
    g = torch.Generator().manual_seed(1)
    l = (torch.rand(count, generator=g, dtype=torch.float64) * 2 - 1) * 5
    l = l.abs() + 0.05 if name == "sqrt" else l
    return l, l + 0.2 + 6 * torch.rand(count, generator=g, dtype=torch.float64)


@pytest.mark.parametrize("name", NAMES)
def test_leaves_about_the_least_gap(name):
    l, u = intervals(name)
    area = gap(KNOWN[name])

    def left(t):
        p = l + t * (u - l)
        return area(l.expand_as(p), p) + area(p, u.expand_as(p))

    mesh = torch.linspace(0, 1, 202, dtype=torch.float64)[1:-1]
    ratio = left(table(name).fraction(l, u)) / left(mesh[:, None]).amin(0)
    assert float(ratio.mean()) < 1.005
    assert float(ratio.quantile(0.97)) < 1.02


def test_odd_functions_have_mirrored_points():
    l, u = intervals("sigmoid")
    for name in ("sigmoid", "tanh+mul"):
        t, mirrored = table(name).fraction(l, u), table(name).fraction(-u, -l)
        torch.testing.assert_close(t, 1 - mirrored, atol=0.02, rtol=0)


class Stub:
    """Stands where an operator would that no table knows."""


@pytest.mark.parametrize("dtype", (torch.float32, torch.float64))
def test_every_point_is_strictly_inside(dtype):
    points = Points(how="tables")
    operator = KNOWN["sigmoid"][0].operator()
    inf = float("inf")
    l = torch.tensor([-inf, -inf, 2.0, -1e30, 1e5, 1.0, -300.0, -1.0, -3e38], dtype=dtype)
    u = torch.tensor([inf, 3.0, inf, 1e30, 1e6, 1.0 + 1e-6, 1.0, 1.0, 3e38], dtype=dtype)
    for ops in ((operator,), (Stub(),), (Stub(), operator)):
        p = points.points(ops, l, u)
        assert p.dtype == dtype and bool(((p > l) & (p < u)).all())


def test_kinks_come_first():
    l, u = torch.tensor([-1.0, 1.0, -9.0]), torch.tensor([3.0, 2.0, 1.5])
    assert kink((0.0,), l, u).tolist() == [0.0, 1.5, 0.0]
    assert kink((0.0, 1.0), l, u).tolist() == [1.0, 1.5, 0.0]
    assert middle(l, u).tolist() == [1.0, 1.5, -3.75]


def test_the_key_forgets_the_order_but_not_the_constants():
    assert key(KNOWN["sin+cos"]) == key(KNOWN["sin+cos"][::-1])
    assert len({key(c) for c in KNOWN.values()}) == len(KNOWN)


def test_what_bends_one_way_or_has_a_pole_is_lopsided():
    found = {n for n, c in KNOWN.items() if lopsided(c)}
    assert {"exp", "log", "sqrt", "reciprocal", "softplus", "square", "cosh"} <= found
    assert not found & {"sigmoid", "tanh", "tanh+mul", "erf", "sin", "cos", "gelu", "swish", "cube"}
