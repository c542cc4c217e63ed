"""Least values about a box's middle: below what rational arithmetic says at every point of box and half-spaces, and
near the optimum of the linear program.
"""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import linprog
from test_clipping import cases, dot, exact, members

from verifier.clip.centred import Forms, Middle, least
from verifier.clip.constraints import halfspaces


def within(rows: Forms, weight: torch.Tensor, halves: Forms, middle: Middle, count: int) -> torch.Tensor:
    """`least` of all rows (R, n) within all half-spaces (C, n) of one domain: (R,)."""
    row, half = torch.arange(len(rows.mid))[None], torch.arange(len(halves.mid))[None]
    return least(rows, row, weight[None], halves, half, halves.mid[None], middle.r, count)[0]


def at(form: Forms, middle: Middle, x: list[Fraction]) -> Fraction:
    """The value of one form at a point."""
    c = exact(middle.c)
    moved = [x[int(i)] - c[int(i)] for i in middle.moving]
    return dot(exact(form.a), moved) + Fraction(float(form.mid))


@settings(max_examples=400, deadline=None, derandomize=True)
@given(cases(), st.integers(1, 8))
def test_least_values_hold_within_half_spaces(case, count):
    l, u, g, h, a, rng = case
    planes, middle = halfspaces(g, h), Middle(l[0], u[0])
    offset = torch.from_numpy(rng.normal(size=2) * rng.choice([0.0, 1.0, 1e20], 2))
    rows, halves = middle.forms(a[0], offset), middle.forms(planes.g[0], planes.h[0])
    low = within(rows, torch.from_numpy(rng.random(2)).to(a.dtype), halves, middle, count)
    assert not bool(torch.isnan(low).any())
    for x in members(l, u, planes, rng):
        assert all(abs(v - c) <= r for v, c, r in zip(x, exact(middle.c), _widths(middle)))
        for k in range(2):
            true = dot(exact(a[0, k]), x) + Fraction(float(offset[k]))
            form = rows.at(k)
            if bool(torch.isfinite(form.mid)):
                assert at(form, middle, x) <= true
                assert Fraction(float(form.reach)) >= dot([abs(v) for v in exact(form.a)], exact(middle.r))
            if bool(torch.isfinite(low[k])):
                assert Fraction(float(low[k])) <= min(true, at(form, middle, x))


def _widths(middle: Middle) -> list[Fraction]:
    wide = torch.zeros_like(middle.c)
    wide[middle.moving] = middle.r
    return exact(wide)


def numbers(rng, *shape: int, dtype=torch.float64) -> torch.Tensor:
    return torch.from_numpy(rng.normal(size=shape)).to(dtype)


def random_case(seed: int, n: int, c: int, dtype=torch.float64):
    """Three rows and c half-spaces about a box, with a point in all of them."""
    rng = np.random.default_rng(seed)
    l = numbers(rng, n, dtype=dtype)
    u = l + torch.from_numpy(rng.random(n)).to(dtype)
    a, g = numbers(rng, 3, n), numbers(rng, c, n)
    inside = (l + (u - l) * torch.from_numpy(rng.random(n)).to(dtype)).double()
    return Middle(l, u), a, g, -(g @ inside) - torch.from_numpy(rng.random(c)) * 0.1, (l.double(), u.double())


@pytest.mark.parametrize("dtype", (torch.float32, torch.float64))
def test_most_of_what_one_half_space_gains_is_found(dtype):
    """Against the optimum of the linear program, over many programs: never above it, and with most of its gain."""
    missed = gained = 0.0
    for seed in range(80):
        middle, a, g, h, (l, u) = random_case(seed, 2 + seed % 39, 1, dtype)
        zero = torch.zeros(3, dtype=torch.float64)
        rows, halves = middle.forms(a, zero), middle.forms(g, h)
        low = within(rows, torch.ones(3, dtype=dtype), halves, middle, 3)
        for k in range(3):
            ends = np.stack([l.numpy(), u.numpy()], 1)
            lp = linprog(a[k].numpy(), A_ub=g.numpy(), b_ub=-h.numpy(), bounds=ends, method="highs")
            plain = float((rows.mid - rows.reach)[k])
            assert lp.status == 0 and plain - 1e-12 <= float(low[k]) <= lp.fun + 1e-7
            missed, gained = missed + lp.fun - float(low[k]), gained + lp.fun - plain
    assert missed <= 0.1 * gained


def test_the_pairs_that_promise_most_are_worked_out():
    """With room for one pair, the row that matters is; the others keep what they are over the box."""
    middle, a, g, h, _ = random_case(3, 6, 2)
    zero = torch.zeros(3, dtype=torch.float64)
    rows, halves = middle.forms(a, zero), middle.forms(g, h)
    plain = rows.mid - rows.reach
    every = within(rows, torch.ones(3).double(), halves, middle, 6)
    gains = [int(k) for k in torch.nonzero(every > plain + 1e-3).squeeze(1)]
    assert len(gains) >= 2
    for k in gains:
        weight = torch.full((3,), 1e-9, dtype=torch.float64)
        weight[k] = 1.0
        low = within(rows, weight, halves, middle, 1)
        others = [i for i in range(3) if i != k]
        assert float(low[k]) > float(plain[k]) + 1e-3 and torch.allclose(low[others], plain[others], rtol=0, atol=1e-12)


def test_a_half_space_that_nothing_satisfies_lifts_every_row_above_its_greatest_value():
    middle, a, g, _, _ = random_case(5, 4, 1)
    zero = torch.zeros(3, dtype=torch.float64)
    rows = middle.forms(a, zero)
    halves = middle.forms(g, (g.abs() @ (middle.c.abs() + 1)) + 1)
    low = within(rows, torch.ones(3).double(), halves, middle, 3)
    assert bool((low > rows.mid + rows.reach).all())


def test_domains_that_share_tables_are_bounded_as_each_alone():
    """Whatever entries they name, in whatever order; half-spaces shifted by domain."""
    middle, a, g, h, _ = random_case(7, 12, 4)
    rows, halves = middle.forms(a, torch.zeros(3, dtype=torch.float64)), middle.forms(g, h)
    row = torch.tensor([[0, 1, 2, 1], [2, 0, 1, 0], [1, 1, 0, 2]])
    half = torch.tensor([[0, 1], [3, 2], [1, 1]])
    mid = halves.mid[half] + torch.tensor([[0.0, 0.1], [-0.2, 0.0], [0.3, 0.0]]).double()
    weight = numbers(np.random.default_rng(1), 3, 4).abs()
    together = least(rows, row, weight, halves, half, mid, middle.r, 5)
    for d in range(3):
        mine, own = rows.at(row[d]), halves.at(half[d])._replace(mid=mid[d])
        assert torch.allclose(together[d], within(mine, weight[d], own, middle, 5), rtol=1e-9, atol=1e-12)
    assert not torch.allclose(together, (rows.mid - rows.reach)[row])
