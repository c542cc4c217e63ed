"""Neuron heuristics on numbers made up for them, and trials against bounds computed the plain way."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from handmade import random_dense, random_products

from verifier.bounds.crown import crown_trace
from verifier.bounds.program import Program
from verifier.bounds.relaxation import Multipliers, Splits, Start
from verifier.bounds.walk import Pass
from verifier.branching import NEURONS
from verifier.branching.view import View, best
from verifier.search.bounder import Bounder
from verifier.search.cases import Cases

NEURONS.load()
D = torch.float64


def view(n: int, k: int, seed: int = 0, trial=None) -> View:
    g = torch.Generator().manual_seed(seed)
    t = lambda: torch.randn((n, k), generator=g, dtype=torch.float64)
    free = torch.rand((n, k), generator=g) > 0.3
    curve = torch.arange(k) % 2 == 0
    trial = trial or (lambda columns: torch.zeros((*columns.shape, 2), dtype=torch.float64))
    below, true = t(), t().abs()
    lines, estimates = (t(), below, below + 2, below + true, t(), t()), (trial, trial, trial)
    return View(*lines, t()[0], t().abs(), curve, free, -torch.ones(n), *estimates)


@pytest.mark.parametrize("name", sorted(NEURONS))
def test_what_cannot_be_split_is_never_named_and_nothing_twice(name):
    for seed in range(5):
        v = view(6, 9, seed)
        v.free[0] = False
        v.free[1] = torch.arange(9) == 4
        columns = NEURONS[name](v, 12)
        assert columns.shape == (6, 12)
        for i in range(6):
            named = [c for c in columns[i].tolist() if c >= 0]
            assert len(named) == len(set(named)) == min(12, int(v.free[i].sum()))
            assert all(v.free[i, c] for c in named)
            assert columns[i, : len(named)].ge(0).all()


def test_the_gap_names_the_neuron_whose_line_is_furthest_from_it():
    v = view(1, 4)
    v.free[:] = True
    v.coef = torch.tensor([[-1.0, -1.0, 2.0, 0.0]])
    v.true = torch.tensor([[0.0, 0.0, 1.0, 0.0]])
    v.below, v.above = torch.zeros((1, 4)), torch.tensor([[0.5, 0.25, 1.0, 0.5]])
    # Gaps: 0.5 above at 0; 0.25 at -0.5; 2 (1 - 0) below at 1; none without a coefficient.
    assert NEURONS["gap"](v, 4)[0].tolist() == [2, 0, 1, 3]


@pytest.mark.parametrize("name", ["kfsb", "bbps", "local"])
def test_filtering_takes_the_split_that_both_children_gain_from(name):
    gains = {0: (0.9, 0.0), 1: (0.4, 0.4), 2: (0.1, 0.1)}

    def trial(columns):
        out = torch.full((*columns.shape, 2), -1.0, dtype=torch.float64)
        for i, c in enumerate(columns[0].tolist()):
            if c in gains:
                out[0, i] += torch.tensor(gains[c], dtype=torch.float64)
        return out

    v = view(1, 5, trial=trial)
    v.free[:] = True
    assert NEURONS[name](v, 3)[0].tolist()[:2] == [1, 2]


def test_a_local_estimate_sees_no_further_than_the_constant_before_a_kink():
    """For ReLU what BaBSR takes the children to gain: with the line s z + b that the coefficient a asks for, and k the
    constant before it, a ((1 - s) k - b) where z >= 0 and a (-s k - b) where z <= 0.
    """
    rng = np.random.default_rng(3)
    program = Program(random_dense(rng, (3, 12, 9, 2)), torch.float64, "cpu")
    c = torch.from_numpy(rng.normal(size=(1, 3)))
    trace = crown_trace(program, c - 0.6, c + 0.6, 1 << 26)
    rows, const = torch.from_numpy(rng.normal(size=(1, 1, 2))), torch.zeros((1, 1), dtype=torch.float64)
    b = Bounder(trace, (rows, rows, const, torch.zeros_like(const, dtype=torch.bool)), program, NEURONS["local"])
    r = b.relaxation
    none, empty = torch.zeros((1, 0), dtype=torch.int64), torch.zeros((1, 0), dtype=torch.float64)
    alpha, upper = torch.from_numpy(rng.random((1, r.width))), r.upper_slopes[None].clone()
    one, slot = torch.ones((1, 1), dtype=torch.float64), torch.zeros(1, dtype=torch.int64)
    kept = Cases(slot, none, empty, empty, alpha, upper, empty, one, -one[:, 0], none, empty)
    lines, m = r.lines(kept.splits), kept.multipliers(torch.float64)
    walk = Pass(r, Start(program.output, rows=rows[:1], const=const[:1]), lines, kept.splits)
    parent, l, u = walk.backward(m), r.lower, r.upper
    can = torch.nonzero((l < 0) & (u > 0)).squeeze(1)
    found = b.shortcut(kept, lines, m, can[None], planes=False)
    a, k, chord = walk.coef[0, can], b.bias[can], (u / (u - l))[can]
    s, offset = torch.where(a > 0, alpha[0, can], chord), torch.where(a > 0, 0.0, -chord * l[can])
    for side, slope in ((0, 1.0), (1, 0.0)):
        assert torch.allclose(found[0, :, side] - parent, a * ((slope - s) * k - offset), rtol=1e-9, atol=1e-9)
    assert len(can) > 4 and bool((a > 0).any()) and bool((a < 0).any()) and bool((k != 0).all())


def test_best_ignores_what_is_not_a_number():
    score = torch.tensor([[float("nan"), 1.0, -2.0]])
    assert best(score, torch.tensor([[True, True, True]]), 3)[0, 0] == 1


@pytest.mark.parametrize("seed", range(12))
def test_trials_of_shared_values_and_factors_are_the_children_s_bounds(seed):
    """The same among products: the child's own lines and planes, with the default slopes where they were drawn anew."""
    rng = np.random.default_rng(seed)
    program = Program(random_products(rng), torch.float64, "cpu")
    c = torch.from_numpy(rng.normal(size=(1, program.n_in)))
    trace = crown_trace(program, c - 0.4, c + 0.4, 1 << 26)
    rows, const = torch.from_numpy(rng.normal(size=(2, 1, 2))), torch.from_numpy(rng.normal(size=(2, 1)))
    b = Bounder(trace, (rows, rows, const, torch.zeros_like(const, dtype=torch.bool)), program, NEURONS["bbps"])
    r, n = b.relaxation, 4
    can = torch.nonzero(r.splittable).squeeze(1).numpy()
    assert r.factors and len(can)
    column, tried = (torch.from_numpy(rng.choice(can, (n, k))) for k in (1, 3))
    sign = torch.from_numpy(rng.choice([-1.0, 1.0], (n, 1)))
    point = b._points(column, r.lower.expand(n, -1), r.upper.expand(n, -1))
    alpha, upper = r.alpha.expand(n, -1).clone(), r.upper_slopes.expand(n, -1).clone()
    beta, ones = torch.from_numpy(rng.random((n, 1))), torch.ones((n, 1), dtype=torch.float64)
    slot = torch.from_numpy(rng.integers(2, size=n))
    kept = Cases(slot, column, sign, point, alpha, upper, beta, ones, -ones[:, 0], column, point)
    lines, m = r.lines(kept.splits), kept.multipliers(torch.float64)
    r.project(m, lines)
    found, near = b.trial(kept, lines, m, tried), b.shortcut(kept, lines, m, tried)
    start = Start(program.output, rows=rows[slot], const=const[slot])
    parent = Pass(r, start, lines, kept.splits).backward(m)
    l, u = r.boxes(kept.splits)
    points, gained = b._points(tried, l, u), 0
    for place in range(3):
        for side, s in ((0, 1.0), (1, -1.0)):
            more = torch.cat([column, tried[:, place : place + 1]], 1)
            at = torch.cat([point, points[:, place : place + 1]], 1)
            splits = Splits(more, torch.cat([sign, s * torch.ones_like(sign)], 1), at)
            child = Multipliers(m.alpha.clone(), m.upper.clone(), torch.cat([beta, 0 * beta], 1), ones)
            ours, (low, high) = r.lines(splits), r.boxes(splits)
            anew = (low > l) | (high < u)
            for row, new in torch.nonzero(anew & ~r.is_factor).tolist():
                if r.is_curve[new]:
                    child.alpha[row, new] = ours.curves.low.best[row, r.curve_of[new]]
                    child.upper[row, r.curve_of[new]] = ours.curves.high.best[row, r.curve_of[new]]
                else:
                    child.alpha[row, new] = ours.up_a[row, new]
            whole = Pass(r, start, ours, splits).backward(child)
            # Lines of columns that the parent's own split narrowed are the same; so are planes.
            assert torch.allclose(found[:, place, side], whole, rtol=1e-9, atol=1e-9)
            assert bool((near[:, place, side] >= parent - 1e-12).all())
            gained += int((near[:, place, side] > parent + 1e-9).sum())
    assert gained


def test_a_shortcut_that_is_not_a_number_is_the_parent_s_bound(monkeypatch):
    rng = np.random.default_rng(0)
    program = Program(random_dense(rng, (3, 6, 5, 2)), torch.float64, "cpu")
    c = torch.from_numpy(rng.normal(size=(1, 3)))
    trace = crown_trace(program, c - 0.6, c + 0.6, 1 << 26)
    rows, const = torch.from_numpy(rng.normal(size=(1, 1, 2))), torch.zeros((1, 1), dtype=torch.float64)
    b = Bounder(trace, (rows, rows, const, torch.zeros_like(const, dtype=torch.bool)), program, NEURONS["bbps"])
    r = b.relaxation
    none, empty = torch.zeros((1, 0), dtype=torch.int64), torch.zeros((1, 0), dtype=torch.float64)
    one, slot = torch.ones((1, 1), dtype=torch.float64), torch.zeros(1, dtype=torch.int64)
    kept = Cases(slot, none, empty, empty, r.alpha[None], r.upper_slopes[None], empty, one, -one[:, 0], none, empty)
    lines, m = r.lines(kept.splits), kept.multipliers(torch.float64)
    parent = Pass(r, Start(program.output, rows=rows, const=const), lines, kept.splits).backward(m)
    monkeypatch.setattr(Bounder, "_at_input", lambda self, walk, owner, *a: torch.full_like(owner, torch.nan, dtype=D))
    assert bool((b.shortcut(kept, lines, m, torch.arange(r.width)[None]) == parent).all())


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("kind", ["Relu", "Tanh", "Sin", "Clip", "LeakyRelu", "Softplus"])
def test_trials_are_the_children_s_bounds(seed, kind):
    """A trial starts half-way down; a whole pass over the child's own lines and splits must agree. A shortcut is the
    same up to what the planes of the root lose: exactly where the neuron's value is an affine function of the input.
    """
    rng = np.random.default_rng(seed)
    program = Program(random_dense(rng, (3, 7, 6, 5, 2), kind), torch.float64, "cpu")
    c = torch.from_numpy(rng.normal(size=(1, 3)))
    trace = crown_trace(program, c - 0.6, c + 0.6, 1 << 26)
    rows, const = torch.from_numpy(rng.normal(size=(2, 1, 2))), torch.from_numpy(rng.normal(size=(2, 1)))
    b = Bounder(trace, (rows, rows, const, torch.zeros_like(const, dtype=torch.bool)), program, NEURONS["gap"])
    r, n = b.relaxation, 5
    can = torch.nonzero(r.splittable).squeeze(1).numpy()
    picks = np.stack([rng.choice(can, 3, replace=False) for _ in range(n)])
    column, trying = torch.from_numpy(picks[:, :1]), torch.from_numpy(picks[:, 1:])
    sign = torch.from_numpy(rng.choice([-1.0, 1.0], (n, 1)))
    point = b._points(column, r.lower.expand(n, -1), r.upper.expand(n, -1))
    alpha = torch.from_numpy(rng.random((n, r.width)))
    upper = r.upper_slopes.expand(n, -1).clone()
    beta, ones = torch.from_numpy(rng.random((n, 1))), torch.ones((n, 1), dtype=torch.float64)
    slot = torch.from_numpy(rng.integers(2, size=n))
    kept = Cases(slot, column, sign, point, alpha, upper, beta, ones, -ones[:, 0], column, point)
    lines, m = r.lines(kept.splits), kept.multipliers(torch.float64)
    r.project(m, lines)
    tried = torch.cat([trying, torch.full((n, 1), -1)], 1)
    found, near = b.trial(kept, lines, m, tried), b.shortcut(kept, lines, m, tried)
    assert bool((found[:, 2] == -float("inf")).all() and (near[:, 2] == -float("inf")).all())
    start = Start(program.output, rows=rows[slot], const=const[slot])
    parent = Pass(r, start, lines, kept.splits).backward(m)
    points = b._points(trying, *kept.splits.boxes(r.lower, r.upper))
    for place in range(2):
        for side, s in ((0, 1.0), (1, -1.0)):
            more = torch.cat([column, trying[:, place : place + 1]], 1)
            at = torch.cat([point, points[:, place : place + 1]], 1)
            splits = Splits(more, torch.cat([sign, s * torch.ones_like(sign)], 1), at)
            child = Multipliers(m.alpha.clone(), m.upper.clone(), torch.cat([beta, 0 * beta], 1), ones)
            ours = r.lines(splits)
            if ours.curves is not None:
                every, new = torch.arange(n), trying[:, place]
                bent = r.is_curve[new]
                where = r.curve_of[new[bent]]
                child.alpha[every[bent], new[bent]] = ours.curves.low.best[every[bent], where]
                child.upper[every[bent], where] = ours.curves.high.best[every[bent], where]
            r.project(child, ours)
            whole = Pass(r, start, ours, splits).backward(child)
            assert torch.allclose(found[:, place, side], whole, rtol=1e-9, atol=1e-9)
            assert bool((near[:, place, side] >= parent - 1e-12).all())
            first = trying[:, place] < r.sites[min(r.sites)].cut.stop
            exact = torch.maximum(whole, parent)[first]
            assert torch.allclose(near[first, place, side], exact, rtol=1e-9, atol=1e-9)
