"""Cases that go on with other boxes of their region: they hold the same points, and what was known of these."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from handmade import random_branches, random_dense
from test_clauses import columns_at, random_splits, true_at

from verifier.bounds.crown import crown_trace
from verifier.bounds.program import Program
from verifier.bounds.relaxation import Relaxation
from verifier.bounds.tighten import tightened
from verifier.search import cases as module
from verifier.search.cases import Cases, moved, roots, split

COUNT = 60


def two_of(seed: int, kind: str):
    """A network, some points of a region, and two relaxations on it, the second on narrower boxes."""
    rng = np.random.default_rng(seed)
    network = random_branches(rng, [kind]) if seed % 3 == 2 else random_dense(rng, (3, 10, 10, 10, 2), kind)
    program = Program(network, torch.float32, "cpu")
    centre = torch.from_numpy(rng.normal(size=(1, program.n_in))).float()
    trace = crown_trace(program, centre - 0.5, centre + 0.5, 1 << 26)
    points = centre.numpy()[0].astype(float) + rng.uniform(-0.5, 0.5, (60, program.n_in))
    return network, points, Relaxation(trace, True), Relaxation(tightened(trace, 1 << 26, 5.0), True)


def some_cases(seed: int, kind: str, r: Relaxation, z: torch.Tensor) -> Cases:
    """Cases with random splits of columns that may be split, known to be where the columns have values z (K,)."""
    rng = np.random.default_rng(seed)
    found = roots(r, torch.arange(COUNT), r.alpha.new_ones((COUNT, 1)), 3)
    splits = random_splits(rng, COUNT, 3, r.width)
    if kind in ("Relu", "Abs"):  # which are split at their kinks alone
        splits.point.zero_()
    splits.column = torch.where(r.splittable[splits.column.clamp(min=0)], splits.column, -1)
    order = torch.argsort((splits.column < 0).to(torch.uint8), dim=1, stable=True)
    found.column, found.sign, found.point = (t.gather(1, order) for t in (splits.column, splits.sign, splits.point))
    found.beta = torch.from_numpy(rng.random(splits.sign.shape)).float()
    found.alpha = torch.arange(r.width).expand(COUNT, -1).half()
    found.low, found.high = (z - 0.1).expand(COUNT, -1).half(), (z + 0.1).expand(COUNT, -1).half()
    return found


def wrong(seed: int, kind: str) -> tuple[int, int, int]:
    """Points that are in a case but not in what became of it, or the other way round; values that are out of the boxes
    that were known to hold them; and cases that are gone.
    """
    network, points, old, new = two_of(seed, kind)
    bad = out = 0
    for x in points[:20]:
        z_old, z_new = columns_at(old, network, x), columns_at(new, network, x)
        before = some_cases(seed, kind, old, z_old)
        after = moved(before, old, new)
        there = torch.zeros(COUNT, dtype=torch.bool)
        there[after.slot] = true_at(after.splits, z_new)
        bad += int((there != true_at(before.splits, z_old)).sum())
        straight = slice(0, int((~new.is_factor).sum()))
        low, high = after.low[:, straight].double(), after.high[:, straight].double()
        out += int(((low > z_new[straight]) | (high < z_new[straight])).sum())
    assert bool((after.prefer < 0).all())
    return bad, out, COUNT - len(after)


@pytest.mark.parametrize("kind", ("Relu", "Tanh", "Abs", "Sin"))
def test_cases_hold_the_same_points_on_new_boxes(kind):
    gone = 0
    for seed in range(5):
        bad, out, left = wrong(seed, kind)
        assert not bad and not out, seed
        gone += left
    assert gone < 5 * COUNT


@pytest.mark.parametrize("how", ("another column", "ends swapped", "no box"))
def test_cases_that_go_astray_are_noticed(how, monkeypatch):
    where = Relaxation.moved

    def astray(old, new):
        there, low, high = where(old, new)
        if how == "another column":
            return torch.where(there >= 0, (there + 1) % new.width, there), low, high
        return (there, high, low) if how == "ends swapped" else (there, low - 9, high - 9)

    monkeypatch.setattr(Relaxation, "moved", astray)
    assert any(sum(wrong(seed, "Tanh")[:2]) for seed in range(3))


def test_what_stays_of_a_case_is_its_own():
    """Slopes and multipliers go where their columns and splits went."""
    network, points, old, new = two_of(1, "Relu")
    before = some_cases(1, "Relu", old, columns_at(old, network, points[0]))
    after, (there, _, _) = moved(before, old, new), old.moved(new)
    assert 0 < int((there < 0).sum()) < old.width  # some neurons are stable now
    for i, k in enumerate(after.slot.tolist()):
        for c in torch.nonzero(there >= 0).squeeze(1).tolist():
            assert float(after.alpha[i, there[c]]) == c
        told = list(zip(there[before.column[k]].tolist(), before.sign[k].tolist(), before.beta[k].tolist()))
        for split_on in zip(after.column[i].tolist(), after.sign[i].tolist(), after.beta[i].tolist()):
            assert split_on[0] < 0 or split_on in told
        real = (after.column[i] >= 0).tolist()
        assert real == sorted(real, reverse=True)


def test_lists_of_different_lengths_are_joined():
    """Cases that were just moved look at no columns, others in the pool do; and neither has the other's depth."""
    _, _, old, _ = two_of(0, "Relu")
    one = roots(old, torch.arange(2), old.alpha.new_ones((2, 1)), 2)
    one.prefer[:] = torch.nonzero(old.splittable).squeeze(1)[:2]
    deep = split(one, 2)
    deep.look, deep.matter = torch.arange(3).int().expand(len(deep), -1), torch.ones(len(deep), 3).half()
    both = Cases.join([one, deep])
    assert len(both) == 10 and both.column.shape == (10, 2) and both.look.shape == both.matter.shape == (10, 3)
    assert bool((both.look[:2] == -1).all()) and bool((both.column[:2] == -1).all()) and not both.matter[:2].any()
    assert bool((module.split(both, 1).look[2:].amax(1) <= 2).all())
