"""Whole searches on small problems with known answers, for every heuristic and method.

Counterexamples are planted: a point of a random region, often a corner, is given to a random disjunct that holds
there. `unsat` must never be said then, whatever the search finds, runs out of, or is told. Where the least value of
every row is known and lies above zero, `unsat` must come.
"""

from __future__ import annotations

import time
from itertools import product

import numpy as np
import pytest
import torch
from handmade import FUNCTIONS, Sketch, dense, random_branches, random_dense
from hypothesis import given
from hypothesis import settings as examples
from hypothesis import strategies as st
from queries import query, refuse, search, settings

from verifier.bounds import METHODS
from verifier.bounds.program import Program
from verifier.branching import HEURISTICS
from verifier.result import Verdict
from verifier.search import bab

HEURISTICS.load()
CASES = list(product(sorted(METHODS), sorted(HEURISTICS)))


def outputs(network, x: np.ndarray) -> np.ndarray:
    return Program(network, torch.float64, "cpu").forward(torch.from_numpy(np.atleast_2d(x))).numpy()


def planted(seed: int):
    """A network, and a query with a counterexample at a float32 point: rows hold there with little or no room."""
    rng = np.random.default_rng(seed)
    kind = str(rng.choice(FUNCTIONS))
    network = random_branches(rng, [kind]) if seed % 2 else random_dense(rng, (int(rng.integers(1, 4)), 5, 5, 3), kind)
    m, p = network.n_inputs, network.n_outputs
    lower = rng.normal(size=(3, m)).astype(np.float32)
    upper = lower + (rng.random((3, m)) * rng.choice([0.0, 1e-6, 0.3, 2.0], (3, m))).astype(np.float32)
    there = int(rng.integers(3))
    t = rng.random(m).round() if rng.random() < 0.7 else rng.random(m)
    x = (lower[there] + (upper[there] - lower[there]) * t.astype(np.float32)).clip(lower[there], upper[there])
    y = outputs(network, x.astype(float))[0]
    disjuncts = []
    for region in range(3):
        far = np.abs(y).max() + 50.0
        for _ in range(int(rng.integers(1, 3))):  # hopeless disjuncts around it
            sign = rng.choice([-1.0, 1.0])
            disjuncts.append((region, [({m: sign}, far + 1e3), ({m + p - 1: 1.0}, 0.0)]))
    rows = []
    for _ in range(int(rng.integers(1, 4))):
        c = rng.normal(size=p)
        rows.append(({m + j: float(c[j]) for j in range(p)}, float(-(c @ y) - 4e-15 * (1 + np.abs(c) @ np.abs(y)))))
    disjuncts.insert(int(rng.integers(len(disjuncts) + 1)), (there, rows))
    return network, query(m, p, list(zip(lower, upper)), disjuncts), x.astype(float), y


@pytest.mark.parametrize("method, heuristic", CASES)
@examples(max_examples=20, deadline=None, derandomize=True)
@given(seed=st.integers(0, 2**31))
def test_a_planted_counterexample_is_never_denied(method, heuristic, seed):
    network, q, x, y = planted(seed)
    assert q.holds(x, y) >= 0
    dtype = torch.float64 if seed % 3 == 0 else torch.float32
    trusted = seed % 5 > 0
    for confirm, attack in ((None, "none"), (refuse, "none"), (None, "pgd")):
        config = settings(method, heuristic, rounds=8, attack=attack)
        outcome = search(network, q, config, confirm, dtype, seconds=1.0, trusted=trusted)
        assert outcome.verdict != Verdict.UNSAT
        if confirm is None and outcome.verdict == Verdict.SAT:
            assert q.holds(outcome.witness.x, outcome.witness.y) >= 0
        else:
            assert outcome.verdict in (Verdict.UNKNOWN, Verdict.TIMEOUT) and outcome.witness is None


@pytest.mark.parametrize("how", ("bounds too high", "a region lost", "a half lost"))
def test_a_search_that_goes_wrong_is_noticed(how, monkeypatch):
    if how == "bounds too high":
        right = bab.bound_rows
        monkeypatch.setattr(bab, "bound_rows", lambda *a: (b := right(*a))._replace(lb=b.lb + 0.5))
    elif how == "a region lost":
        regions = bab.Search._regions
        monkeypatch.setattr(bab.Search, "_regions", lambda self: regions(self).take(slice(1, None)))
    else:
        halves = bab.split

        def half(*parents):
            children, whole = halves(*parents)
            return children.take(slice(0, max(1, len(children) // 2))), whole[:0]

        monkeypatch.setattr(bab, "split", half)

    def denied(seed: int) -> bool:
        network, q, _, _ = planted(seed)
        config = settings(rounds=200, attack="none")
        return search(network, q, config, refuse, torch.float64, seconds=0.3).verdict == Verdict.UNSAT

    assert any(map(denied, range(25)))


def test_the_planted_ones_are_mostly_found_by_an_attack():
    """The problems above are no strangers to the search: with room to hold, it finds most of their counterexamples."""
    found = 0
    for seed in range(20):
        network, q, _, _ = planted(seed)
        shifted = query(
            q.n_inputs,
            q.n_outputs,
            list(zip(q.lower, q.upper)),
            [
                (
                    int(q.disjunct_region[k]),
                    [
                        (dict(zip(q.term_var[a:b].tolist(), q.term_coef[a:b].tolist())), float(q.const[r]) - 0.02)
                        for r in range(q.row_start[k], q.row_start[k + 1])
                        for a, b in [(q.term_start[r], q.term_start[r + 1])]
                    ],
                )
                for k in range(q.n_disjuncts)
            ],
        )
        found += search(network, shifted, settings(), seconds=2.0).verdict == Verdict.SAT
    assert found >= 16


@pytest.mark.parametrize("method, heuristic", CASES)
def test_what_cannot_happen_is_refuted(method, heuristic):
    """Rows a little below the least value on a fine grid of two regions."""
    for seed in range(3):
        rng = np.random.default_rng(seed)
        network = random_dense(rng, (2, 6, 6, 2), FUNCTIONS[seed])
        regions = [([-1.0, -0.5], [0.5, 1.0]), ([0.7, -1.0], [1.2, 0.1])]
        disjuncts = []
        for r, (l, u) in enumerate(regions):
            grid = np.stack(np.meshgrid(*(np.linspace(a, b, 60) for a, b in zip(l, u))), -1).reshape(-1, 2)
            y = outputs(network, grid)
            for _ in range(3):
                c = rng.normal(size=2)
                room = 0.3 * float(np.ptp(y @ c)) + 0.05
                impossible = ({2: float(c[0]), 3: float(c[1])}, room - float((y @ c).min()))
                disjuncts.append((r, [({2: 1.0}, -100.0), impossible]))
        q = query(2, 2, regions, disjuncts)
        outcome = search(network, q, settings(method, heuristic, attack="none"))
        assert outcome.verdict == Verdict.UNSAT and outcome.witness is None
        assert outcome.stats["domains"] >= 2


@pytest.mark.parametrize("trusted", (True, False))
def test_every_disjunct_of_every_region_counts(trusted):
    """One possible disjunct among many impossible ones, at every place in turn."""
    network = dense([np.eye(2)], [np.zeros(2)])
    regions = [([0.0, 0.0], [1.0, 1.0]), ([2.0, 2.0], [3.0, 3.0]), ([4.0, 0.0], [4.0, 1.0])]
    impossible = [({2: 1.0}, 1.0), ({3: -1.0}, -9.0)]
    for r, k in product(range(3), range(3)):
        corner = np.array(regions[r][1])
        possible = [({2: -1.0}, float(corner[0])), ({3: -1.0}, float(corner[1]))]  # y >= the upper corner
        disjuncts = [(i, possible if (i, j) == (r, k) else impossible) for i in range(3) for j in range(3)]
        outcome = search(network, query(2, 2, regions, disjuncts), settings(rounds=60, attack="none"), trusted=trusted)
        assert outcome.verdict == Verdict.SAT and outcome.witness.x.tolist() == corner.tolist()
        one_less = [d for i, d in enumerate(disjuncts) if d[1] is not possible]
        outcome = search(network, query(2, 2, regions, one_less), settings(attack="none"), trusted=trusted)
        assert outcome.verdict == Verdict.UNSAT


def test_a_disjunct_without_rows_holds_everywhere():
    network = random_dense(np.random.default_rng(0), (2, 4, 2))
    regions = [([0.0, 0.0], [1.0, 1.0])] * 2
    q = query(2, 2, regions, [(0, [({2: 1.0}, 1e3)]), (1, [])])
    assert search(network, q, settings()).verdict == Verdict.SAT
    assert search(network, q, settings(rounds=5), refuse).verdict == Verdict.UNKNOWN


@pytest.mark.parametrize("method", sorted(METHODS))
def test_boxes_that_cannot_be_halved_end_unknown(method):
    """y = tanh(x) - tanh(x) is zero, so the property holds; nobody confirms it, and boxes shrink to single points."""
    s = Sketch(1)
    h = s.function(s.linear("t", [[1.0, 1.0]]), "Tanh")
    s.linear(h, [[1.0], [-1.0]])
    one = np.float32(1.0)
    q = query(1, 1, [([float(one)], [float(np.nextafter(one, np.float32(2)))])], [(0, [({1: 1.0}, 0.0)])])
    outcome = search(s.network(), q, settings(method), refuse)
    assert outcome.verdict == Verdict.UNKNOWN and "as small as" in outcome.reason
    point = query(1, 1, [([1.0], [1.0])], [(0, [({1: 1.0}, 0.0)])])
    outcome = search(s.network(), point, settings(method), refuse)
    assert outcome.verdict == Verdict.UNKNOWN and "as small as" in outcome.reason


def endless():
    """A counterexample on a curve, which nobody confirms: the search never ends by itself in reasonable time."""
    network = random_dense(np.random.default_rng(3), (4, 8, 8, 1), "Tanh")
    y = outputs(network, np.random.default_rng(0).uniform(-1, 1, (500, 4)))
    middle = float(np.median(y))
    return network, query(4, 1, [([-1.0] * 4, [1.0] * 4)], [(0, [({4: 1.0}, -middle), ({4: -1.0}, middle)])])


def test_the_deadline_ends_a_search():
    network, q = endless()
    outcome = search(network, q, settings(), refuse, seconds=0.3)
    assert outcome.verdict == Verdict.TIMEOUT and "open" in outcome.reason
    start = time.monotonic()
    late = search(network, q, settings(), refuse, seconds=-1.0)
    assert late.verdict == Verdict.TIMEOUT and late.stats["rounds"] == 0 and time.monotonic() - start < 20


@pytest.mark.parametrize("rounds", (1, 3))
def test_the_limit_of_rounds_ends_a_search(rounds):
    network, q = endless()
    outcome = search(network, q, settings(rounds=rounds, attack="none"), refuse)
    assert outcome.verdict == Verdict.UNKNOWN and outcome.stats["rounds"] == rounds and "max_rounds" in outcome.reason


def test_a_crowded_pool_and_small_batches_change_no_answer():
    network = random_dense(np.random.default_rng(7), (2, 8, 8, 1))
    regions = [([-1.0, -1.0], [1.0, 1.0])]
    grid = np.stack(np.meshgrid(*[np.linspace(-1, 1, 80)] * 2), -1).reshape(-1, 2)
    least = float(outputs(network, grid).min())
    for margin, verdict in ((-0.02, Verdict.UNSAT), (1e-3, Verdict.SAT)):
        q = query(2, 1, regions, [(0, [({2: 1.0}, -least - margin)])])
        for batch, memory in ((2, 1 << 30), (64, 1), (2, 1), (4096, 1 << 30)):
            attack = "pgd" if verdict == Verdict.SAT else "none"
            assert search(network, q, settings(batch=batch, attack=attack), memory=memory).verdict == verdict


def test_the_same_seed_gives_the_same_search():
    network, q = endless()
    runs = [search(network, q, settings(rounds=6, attack="none"), refuse) for _ in range(2)]
    assert runs[0].reason == runs[1].reason and runs[0].stats == runs[1].stats


def test_weights_that_are_not_numbers_refute_nothing():
    for bad in (np.nan, np.inf):
        network = dense([np.array([[bad, 1.0]]), np.ones((2, 1))], [np.zeros(2), np.zeros(1)])
        q = query(1, 1, [([1.0], [2.0])], [(0, [({1: -1.0}, 1e30)])])
        for method in METHODS:
            outcome = search(network, q, settings(method, rounds=3, attack="none"), refuse)
            assert outcome.verdict == Verdict.UNKNOWN


@pytest.mark.parametrize("dtype", (torch.float32, torch.float64), ids=str)
def test_boxes_hold_what_the_property_and_the_model_see(dtype, monkeypatch):
    """Ends that float32 lacks are rounded outward to it in either precision: the model receives float32 inputs."""
    regions = [([0.1, -0.1], [0.1, 0.7]), ([0.3, -1.0], [0.7, -0.3]), ([1e-50, 5.0], [0.2, 5.0])]
    seen = []
    first = bab.Search._regions
    monkeypatch.setattr(bab.Search, "_regions", lambda self: seen.append(first(self)) or seen[-1])
    network = dense([np.eye(2)], [np.zeros(2)])
    disjuncts = [(r, [({2: 1.0}, 9.0)]) for r in range(3)]
    assert search(network, query(2, 2, regions, disjuncts), settings(), refuse, dtype).verdict == Verdict.UNSAT
    for (l, u), low, high in zip(regions, seen[0].lower.double().numpy(), seen[0].upper.double().numpy()):
        assert (low <= l).all() and (low <= np.float32(l)).all() and (low == low.astype(np.float32)).all()
        assert (high >= u).all() and (high >= np.float32(u)).all() and (high == high.astype(np.float32)).all()
        assert (np.nextafter(low.astype(np.float32), np.float32(9)) > l).all()
