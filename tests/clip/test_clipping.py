"""Clipping loses no point that satisfies its half-spaces, and minima hold there; checked in rational arithmetic on
degenerate numbers, and against a linear programming solver on usual ones.
"""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import linprog

from verifier.clip.complete import ascend, best_multiplier, minima, value
from verifier.clip.constraints import Halfspaces, halfspaces
from verifier.clip.relaxed import clip

INF = float("inf")
DTYPES = st.sampled_from([torch.float32, torch.float64])
POINTS = 12


@st.composite
def cases(draw):
    """A box with sides of no width, tiny, usual and huge ones; half-spaces with coefficients that are 0, tiny, huge or
    no numbers, some parallel, some contradicting each other, some that pass exactly through a point of the box.
    """
    dtype = draw(DTYPES)
    n, c = draw(st.integers(1, 5)), draw(st.integers(1, 4))
    rng = np.random.default_rng(draw(st.integers(0, 2**31)))
    most = 30 if dtype == torch.float32 else 250
    wild = draw(st.booleans())
    scale = (lambda shape: 10.0 ** rng.uniform(-most, most, shape)) if wild else (lambda shape: np.ones(shape))
    number = lambda *shape: torch.from_numpy(rng.normal(size=shape) * scale(shape)).to(dtype)
    l = number(1, n)
    u = l + number(1, n).abs() * torch.from_numpy(rng.choice([0.0, 1e-6, 1.0], (1, n))).to(dtype)
    u = torch.where(torch.isfinite(u), u, l)
    g = number(1, c, n) * torch.from_numpy(rng.choice([0.0, 1.0, 1.0, 1.0], (1, c, n))).to(dtype)
    kind = rng.integers(0, 5, c)
    x = l + (u - l) * torch.from_numpy(rng.random((1, n))).to(dtype)
    h = -(g @ x.unsqueeze(-1)).squeeze(-1)  # through a point of the box
    for k in range(c):
        if kind[k] == 1 and k:  # parallel, or the opposite side
            g[:, k] = g[:, 0] * float(rng.choice([-1.0, 2.0]))
        if kind[k] == 2:
            h[:, k] = number(1)
        if kind[k] == 3:
            g[:, k, int(rng.integers(n))] = float(rng.choice([INF, np.nan, np.finfo(np.float32).max]))
        if kind[k] == 4:
            h[:, k] = float(rng.choice([INF, np.nan, -INF, 0.0]))
    return l, u, g, h, number(1, 2, n), rng


def exact(t: torch.Tensor) -> list[Fraction]:
    return [Fraction(float(v)) for v in t.flatten()]


def dot(a: list[Fraction], x: list[Fraction]) -> Fraction:
    return sum((p * q for p, q in zip(a, x)), Fraction(0))


def members(l, u, planes: Halfspaces, rng) -> list[list[Fraction]]:
    """Points of the box that satisfy all half-spaces exactly: corners, random ones, and such moved onto a plane along
    one dimension, where clipping must not cut.
    """
    low, high = exact(l), exact(u)
    gs, hs = [exact(r) for r in planes.g[0]], exact(planes.h)
    found = []
    for _ in range(POINTS):
        share = [Fraction(int(rng.integers(0, 5)), 4) for _ in low]
        x = [a + (b - a) * s for a, b, s in zip(low, high, share)]
        k, j = int(rng.integers(len(gs))), int(rng.integers(len(low)))
        if gs[k][j]:
            moved = list(x)
            moved[j] -= (dot(gs[k], x) + hs[k]) / gs[k][j]
            if low[j] <= moved[j] <= high[j]:
                found.append(moved)
        found.append(x)
    return [x for x in found if all(dot(g, x) + h <= 0 for g, h in zip(gs, hs))]


@settings(max_examples=300, deadline=None, derandomize=True)
@given(cases())
def test_no_point_is_lost(case):
    l, u, g, h, _, rng = case
    planes = halfspaces(g, h)
    assert bool(torch.isfinite(planes.g).all() and torch.isfinite(planes.h).all())
    new_l, new_u, empty = clip(l, u, planes)
    assert bool((new_l >= l).all() and (new_u <= u).all() and (new_l <= new_u).all())
    for x in members(l, u, planes, rng):
        assert not bool(empty)
        assert all(a <= v <= b for a, v, b in zip(exact(new_l), x, exact(new_u)))


@settings(max_examples=300, deadline=None, derandomize=True)
@given(cases())
def test_minima_hold_within_half_spaces_for_any_multiplier(case):
    l, u, g, h, a, rng = case
    planes = halfspaces(g, h)
    found = [minima(a, l, u, planes), minima(a, l, u, planes, sweeps=1)]
    shape = (1, 2, g.shape[1])
    hints = 10.0 ** rng.uniform(-20, 20, shape) * rng.choice([-1.0, 0.0, 1.0, INF, np.nan], shape)
    found.append(value(a, l, u, planes, torch.from_numpy(hints).to(a.dtype)))
    for low in found:
        assert not bool(torch.isnan(low).any())
        assert bool((low < INF).all())
    inside = members(l, u, planes, rng)
    for row in range(2):
        for x in inside:
            true = dot(exact(a[0, row]), x)
            assert all(float(low[0, row]) == -INF or Fraction(float(low[0, row])) <= true for low in found)


@settings(max_examples=60, deadline=None, derandomize=True)
@given(st.integers(1, 9), st.integers(0, 2**31))
def test_one_half_space_is_minimised_exactly(n, seed):
    rng = np.random.default_rng(seed)
    l = torch.from_numpy(rng.normal(size=(3, n)))
    u = l + torch.from_numpy(rng.random((3, n)))
    a, g = torch.from_numpy(rng.normal(size=(3, 2, n))), torch.from_numpy(rng.normal(size=(3, 1, n)))
    inside = l + (u - l) * torch.from_numpy(rng.random((3, n)))
    h = -(g @ inside.unsqueeze(-1)).squeeze(-1)
    planes = Halfspaces(g, h)
    low = minima(a, l, u, planes)
    for d in range(3):
        ends = np.stack([l[d].numpy(), u[d].numpy()], 1)
        for s in range(2):
            lp = linprog(a[d, s].numpy(), A_ub=g[d].numpy(), b_ub=-h[d].numpy(), bounds=ends, method="highs")
            assert lp.status == 0 and float(low[d, s]) == pytest.approx(lp.fun, abs=1e-7)
            assert float(low[d, s]) <= lp.fun + 1e-9


def test_ascent_uses_several_half_spaces_and_shows_contradictions():
    """x1 + x2 >= 1 and x1 <= 1/4 leave x2 >= 3/4; with x2 <= 1/2 nothing is left."""
    l, u = torch.zeros(1, 2, dtype=torch.float64), torch.ones(1, 2, dtype=torch.float64)
    two = Halfspaces(torch.tensor([[[-1.0, -1.0], [1.0, 0.0]]]).double(), torch.tensor([[1.0, -0.25]]).double())
    a = torch.tensor([[[0.0, 1.0]]]).double()
    b = ascend(a, l, u, two)
    assert bool((b > 0).all())
    assert float(minima(a, l, u, two)) == pytest.approx(0.75)
    low, high, empty = clip(l, u, two)
    assert not bool(empty) and float(low[0, 1]) == pytest.approx(0.75) and float(high[0, 0]) == pytest.approx(0.25)
    third = Halfspaces(torch.cat([two.g, torch.tensor([[[0.0, 1.0]]]).double()], 1), torch.tensor([[1.0, -0.25, -0.5]]))
    assert bool(clip(l, u, Halfspaces(third.g, third.h.double()))[2])


def test_a_half_space_that_nothing_satisfies_has_no_small_minimum():
    l, u = torch.zeros(1, 2), torch.ones(1, 2)
    g, h = torch.tensor([[1.0, -1.0]]), torch.tensor([1.5])
    b = best_multiplier(torch.ones(1, 1, 2), l, u, g, h)
    assert float(value(torch.ones(1, 1, 2), l, u, Halfspaces(g[:, None], h[:, None]), b[..., None])) > 0
    assert bool(clip(l, u, Halfspaces(g[:, None], h[:, None]))[2])
