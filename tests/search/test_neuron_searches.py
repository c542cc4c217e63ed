"""The search over neuron splits on small problems with known answers."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from handmade import dense, exact, random_dense, random_products
from hypothesis import given
from hypothesis import settings as examples
from hypothesis import strategies as st
from queries import query, refuse, search, settings
from test_true_minima import minimiser
from test_whole_searches import outputs, planted

from verifier.attack.pgd import Attack
from verifier.bounds.certify import Certifier
from verifier.bounds.relaxation import Relaxation
from verifier.branching import NEURONS
from verifier.result import Verdict
from verifier.search import bounder, neurons
from verifier.search.neurons import NeuronSearch

NEURONS.load()
HEURISTICS = sorted(NEURONS)
SOME_ALWAYS = [h if h in ("kfsb", "babsr") else pytest.param(h, marks=pytest.mark.slow) for h in HEURISTICS]


def config(heuristic="kfsb", rounds=0, attack="none", batch=64):
    c = settings(rounds=rounds, attack=attack, batch=batch)
    return replace(c, branching=replace(c.branching, neurons=heuristic))


@pytest.mark.parametrize("heuristic", SOME_ALWAYS)
@examples(max_examples=15, deadline=None, derandomize=True)
@given(seed=st.integers(0, 2**31))
def test_a_planted_counterexample_is_never_denied(heuristic, seed):
    network, q, x, y = planted(seed)
    dtype = torch.float64 if seed % 3 == 0 else torch.float32
    for confirm in (None, refuse):
        outcome = search(
            network, q, config(heuristic, rounds=8), confirm, dtype, 1.0, trusted=seed % 5 > 0, kind=NeuronSearch
        )
        assert outcome.verdict != Verdict.UNSAT
        if outcome.verdict == Verdict.SAT:
            assert q.holds(outcome.witness.x, outcome.witness.y) >= 0


def products(seed: int, room: float = 0.0):
    """A network of products, and a query whose rows hold at a random point with `room`."""
    rng = np.random.default_rng(seed)
    network = random_products(rng)
    m, centre = network.n_inputs, rng.normal(size=network.n_inputs).astype(np.float32)
    l, u = centre - np.float32(0.4), centre + np.float32(0.4)
    x = (l + (u - l) * rng.random(m).astype(np.float32)).clip(l, u).astype(float)
    y, rows = outputs(network, x)[0], []
    for _ in range(int(rng.integers(1, 3))):
        c = rng.normal(size=2)
        slack = room + 4e-15 * (1 + np.abs(c) @ np.abs(y))
        rows.append(({m: float(c[0]), m + 1: float(c[1])}, float(-(c @ y) - slack)))
    return network, query(m, 2, [(l, u)], [(0, [({m: 1.0}, 1e3)]), (0, rows)]), x, y


@pytest.mark.parametrize("heuristic", (pytest.param("bbps", marks=pytest.mark.slow), "kfsb"))
@examples(max_examples=12, deadline=None, derandomize=True)
@given(seed=st.integers(0, 2**31))
def test_a_counterexample_planted_among_products_is_never_denied(heuristic, seed):
    network, q, x, y = products(seed)
    assert q.holds(x, y) >= 0
    dtype = torch.float64 if seed % 3 == 0 else torch.float32
    c = config(heuristic, rounds=8)
    outcome = search(network, q, c, refuse, dtype, 1.0, trusted=seed % 5 > 0, kind=NeuronSearch)
    assert outcome.verdict != Verdict.UNSAT


def test_planes_of_products_on_too_narrow_boxes_are_noticed(monkeypatch):
    right, end = Relaxation.operands, lambda box: (box[0], box[0])
    monkeypatch.setattr(Relaxation, "operands", lambda *a: (f := right(*a)) and tuple(map(end, f)))
    for seed in range(30):
        network, q, _, _ = products(seed)
        outcome = search(network, q, config("bbps", rounds=50), refuse, torch.float64, seconds=3.0, kind=NeuronSearch)
        if outcome.verdict == Verdict.UNSAT:
            return
    raise AssertionError("nothing was denied")


@pytest.mark.parametrize("how", ("bounds too high", "a child lost", "leaves waved through"))
def test_a_search_that_goes_wrong_is_noticed(how, monkeypatch):
    if how == "bounds too high":
        right = Certifier.bounds
        monkeypatch.setattr(Certifier, "bounds", lambda *a, **k: right(*a, **k) + 0.5)
        monkeypatch.setattr(bounder, "optimise", lambda *a, f=bounder.optimise, **k: _raised(f(*a, **k)))
    elif how == "a child lost":
        whole = neurons.split
        monkeypatch.setattr(neurons, "split", lambda *a: (c := whole(*a)).take(slice(0, max(1, len(c) // 2))))
    else:
        monkeypatch.setattr(neurons, "certified", lambda *a: True)
        solve = neurons.solve_leaf
        monkeypatch.setattr(neurons, "solve_leaf", lambda *a: (s := solve(*a)) and replace(s, t=1.0))

    def denied(seed: int) -> bool:
        network, q, _, _ = planted(seed)
        outcome = search(network, q, config(rounds=200), refuse, torch.float64, seconds=0.5, kind=NeuronSearch)
        return outcome.verdict == Verdict.UNSAT

    assert any(map(denied, range(40)))


def _raised(found):
    found.lb += 0.5
    return found


@pytest.mark.parametrize("heuristic", SOME_ALWAYS)
@pytest.mark.parametrize("dtype", (torch.float32, torch.float64))
def test_what_holds_with_room_is_proved_and_what_does_not_is_found(heuristic, dtype):
    """The true minimum m of a row comes from enumeration: `row <= m - room` is unsat and `row <= m + room` is sat."""
    for seed in range(3):
        rng = np.random.default_rng(seed)
        sizes = ((3, 5, 4, 2), (2, 6, 3), (4, 7, 2))[seed % 3]
        pairs = list(zip(sizes[:-1], sizes[1:]))
        weights = [(rng.normal(size=p) / np.sqrt(p[0])).astype(np.float32).astype(float) for p in pairs]
        biases = [(0.3 * rng.normal(size=n)).astype(np.float32).astype(float) for n in sizes[1:]]
        network, m, p = dense(weights, biases), sizes[0], sizes[-1]
        l, u = -np.ones(m), np.ones(m)
        row = rng.normal(size=p).astype(np.float32).astype(float)
        x = minimiser(weights, biases, l, u, row)
        least = float(sum(c * v for c, v in zip(row, exact(network, x))))
        for room, verdict in ((1e-3, Verdict.UNSAT), (-1e-3, Verdict.SAT)):
            rows = [({m + j: float(row[j]) for j in range(p)}, -(least - room))]
            # A second row that holds everywhere: the weights must find the one that counts.
            rows.append(({m: 1.0}, -10.0))
            q = query(m, p, [(l, u)], [(0, rows)])
            outcome = search(network, q, config(heuristic), None, dtype, trusted=seed != 1, kind=NeuronSearch)
            assert outcome.verdict == verdict, (seed, room, outcome)


def test_every_region_is_looked_at():
    rng = np.random.default_rng(5)
    network = random_dense(rng, (2, 4, 4, 1))
    y = lambda x: float(exact(network, np.asarray(x))[0])
    centre = [(0.0, 0.0), (3.0, 3.0), (-4.0, 2.0)]
    regions = [(np.array(c) - 0.125, np.array(c) + 0.125) for c in centre]
    for there in range(3):
        disjuncts = [(r, [({2: 1.0}, -y(centre[r]) - 0.01 if r == there else 100.0)]) for r in range(3)]
        q = query(2, 1, regions, disjuncts)
        assert search(network, q, config(), refuse, kind=NeuronSearch).verdict == Verdict.UNKNOWN
        assert search(network, q, config(), None, kind=NeuronSearch).verdict == Verdict.SAT


@pytest.mark.parametrize(("lack", "attacks"), [(50.0, [8]), (-0.3, [8, 32])])
def test_a_glance_goes_before_the_root_and_an_attack_where_that_is_open(lack, attacks, monkeypatch):
    descend, points = Attack.descend, []

    def counted(self, l, u, region, open, restarts, *args):
        points.append(restarts * len(l))
        return descend(self, l, u, region, open, restarts, *args)

    monkeypatch.setattr(Attack, "descend", counted)
    network = random_dense(np.random.default_rng(1), (3, 6, 6, 1), "Tanh")
    c = config(attack="pgd")
    assert c.attack.restarts == 32
    q = query(3, 1, [(-np.ones(3), np.ones(3))], [(0, [({3: 1.0}, lack)])])
    search(network, q, replace(c, search=replace(c.search, max_rounds=2)), refuse, kind=NeuronSearch)
    assert points[:2] == attacks
