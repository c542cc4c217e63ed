"""Cases that go on with other boxes of their region: they hold the same points, and what was known of these."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from handmade import random_branches, random_dense, random_products
from test_clauses import columns_at, random_splits, true_at

from verifier.bounds.crown import crown_trace
from verifier.bounds.program import Program
from verifier.bounds.relaxation import Relaxation
from verifier.bounds.tighten import tightened
from verifier.branching import NEURONS
from verifier.search import cases as module
from verifier.search.cases import Cases, moved, roots, split
from verifier.search.refine import refined

NEURONS.load()
COUNT = 60


def two_of(seed: int, kind: str):
    """A network, some points of a region, and two relaxations on it, the second on narrower boxes."""
    rng = np.random.default_rng(seed)
    if kind == "Mul":
        network = random_products(rng)
    else:
        network = random_branches(rng, [kind]) if seed % 3 == 2 else random_dense(rng, (3, 10, 10, 10, 2), kind)
    program = Program(network, torch.float32, "cpu")
    centre = torch.from_numpy(rng.normal(size=(1, program.n_in))).float()
    trace = crown_trace(program, centre - 0.5, centre + 0.5, 1 << 26)
    points = centre.numpy()[0].astype(float) + rng.uniform(-0.5, 0.5, (60, program.n_in))
    return network, points, Relaxation(trace, True), Relaxation(tightened(trace, 1 << 26, 5.0), True)


def values_at(r: Relaxation, network, x: np.ndarray) -> torch.Tensor:
    """Values of the columns (K,) at an input, those of factors too."""
    fine, z = Program(network, torch.float64, "cpu"), columns_at(r, network, x)
    values = {0: torch.from_numpy(np.asarray(x, float))[None]}
    for k in range(1, len(fine.steps)):
        values[k] = fine.steps[k].op.forward(*(values[i] for i in fine.steps[k].inputs))
    for f in r.factors:
        z[f.cut] = f.pick(values[f.value].reshape(1, -1)).squeeze(0)
    return z


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


def wrong(seed: int, kind: str) -> tuple[int, int, int, int]:
    """Points that are in a case but not in what became of it, and the other way round; values that are out of the boxes
    that were known to hold them; and cases that are gone.
    """
    network, points, old, new = two_of(seed, kind)
    lost = more = out = 0
    for x in points[:20]:
        z_old, z_new = values_at(old, network, x), values_at(new, network, x)
        before = some_cases(seed, kind, old, z_old)
        after = moved(before, old, new)
        there, here = torch.zeros(COUNT, dtype=torch.bool), true_at(before.splits, z_old)
        there[after.slot] = true_at(after.splits, z_new)
        lost, more = lost + int((here & ~there).sum()), more + int((there & ~here).sum())
        out += int(((after.low.double() > z_new) | (after.high.double() < z_new)).sum())
    assert bool((after.prefer < 0).all())
    return lost, more, out, COUNT - len(after)


@pytest.mark.parametrize("kind", ("Relu", "Tanh", "Abs", "Sin", "Mul"))
def test_cases_hold_the_same_points_on_new_boxes(kind):
    gone = 0
    for seed in range(5):
        lost, more, out, left = wrong(seed, kind)
        assert not lost and not out, seed
        assert not more or kind == "Mul", seed  # a factor that is not worth it any more has no column
        gone += left
    assert gone < 5 * COUNT


@pytest.mark.parametrize("how", ("another column", "ends swapped", "no box"))
def test_cases_that_go_astray_are_noticed(how, monkeypatch):
    where = Relaxation.moved

    def astray(old, new):
        there, first, low, high = where(old, new)
        if how == "another column":
            return there, torch.where(first >= 0, (first + 1) % new.width, first), low, high
        return (there, first, high, low) if how == "ends swapped" else (there, first, low - 9, high - 9)

    monkeypatch.setattr(Relaxation, "moved", astray)
    assert any(wrong(seed, "Tanh")[0] for seed in range(3))


def test_what_stays_of_a_case_is_its_own():
    """Slopes and multipliers go where their columns and splits went."""
    network, points, old, new = two_of(1, "Relu")
    before = some_cases(1, "Relu", old, columns_at(old, network, points[0]))
    after, (there, first, _, _) = moved(before, old, new), old.moved(new)
    assert 0 < int((there < 0).sum()) < old.width  # some neurons are stable now
    for i, k in enumerate(after.slot.tolist()):
        for c in torch.nonzero(there >= 0).squeeze(1).tolist():
            assert float(after.alpha[i, there[c]]) == c
        told = list(zip(first[before.column[k]].tolist(), before.sign[k].tolist(), before.beta[k].tolist()))
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


def test_of_two_cases_that_differ_in_a_neuron_that_is_stable_now_one_is_left():
    """Branching stops where a neuron is stable, whose box must not end at its kink then: there both sides would be."""
    gone = 0
    for seed in range(4):
        rng = np.random.default_rng(seed)
        network = random_dense(rng, (5, 14, 14, 14, 3), "Relu")
        program, fine = (Program(network, d, "cpu") for d in (torch.float32, torch.float64))
        c = torch.from_numpy(rng.normal(size=(1, 5))).float()
        trace = crown_trace(program, c - 0.4, c + 0.4, 1 << 26)
        old, new = Relaxation(trace, True), Relaxation(refined(trace, 1 << 26, 0.5, fine)[0], True)
        columns = torch.nonzero((old.moved(new)[1] < 0) & old.splittable).squeeze(1)
        one = roots(old, torch.zeros(1, dtype=torch.int64), old.alpha.new_ones((1, 1)), 6)
        one.prefer[0, : len(columns)] = columns[:6]
        whole = moved(split(one, min(6, len(columns))), old, new)
        assert len(whole) == 1 and not bool((whole.column >= 0).any())
        gone += len(columns)
    assert gone > 3


def test_an_entry_keeps_its_splits_while_anything_reads_it_that_has_a_column():
    old, new = (Relaxation.__new__(Relaxation) for _ in range(2))
    kin = lambda *first: type("Kin", (), {"first": torch.tensor(first)})()
    site = lambda step, cut, index: type("Site", (), dict(step=step, slot=0, value=step, cut=cut, index=index))()
    box = (torch.tensor([[-1.0, 1.0]]), torch.tensor([[1.0, 2.0]]))
    for r, width in ((old, 4), (new, 2)):
        r.width, r.lower, r.trace = width, torch.zeros(width), type("Trace", (), {"boxes": {1: box, 2: box}})()
    old.kin, new.kin = kin(0, 1, 0, 1), kin(0, 1)  # two steps read the same two entries; in `new` only the second does
    old.readers, new.readers = [site(1, slice(0, 2), None), site(2, slice(2, 4), None)], [site(2, slice(0, 2), None)]
    there, speaks, low, _ = old.moved(new)
    assert there.tolist() == [-1, -1, 0, 1] and speaks.tolist() == [0, 1, 0, 1] and low.tolist() == [-1, 1, -1, 1]
    new.width, new.lower, new.kin, new.readers = 0, torch.zeros(0), kin(), []
    assert [t.tolist() for t in old.moved(new)[:2]] == [[-1] * 4] * 2
