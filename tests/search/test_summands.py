"""A sum of terms on inputs of their own: proved where it holds, never where a counterexample was planted, with fewer
boxes than splitting all inputs together takes.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from handmade import Sketch, random_dense
from queries import query, refuse, search, settings

from verifier.bounds.program import Program
from verifier.problem import compile_problem
from verifier.result import Verdict
from verifier.search.bab import Search
from verifier.search.summands import SumSearch, terms_of

M = 3  # inputs of each term


def difference(rng: np.random.Generator, shared: bool = False):
    """f(x_1) - g(x_2), or both on the same inputs."""
    s = Sketch(2 * M)
    ends = []
    for start in (0, 0 if shared else M):
        x = s.add("Slice", ("t",), (M,), axes=(0,), starts=(start,), ends=(start + M,), steps=(1,))
        x = s.reshape(x, 1, M)
        for n, k in ((M, 10), (10, 10)):
            x = s.function(s.linear(x, rng.normal(size=(n, k)) / np.sqrt(n), 0.3 * rng.normal(size=k)), "Relu")
        ends.append(s.linear(x, rng.normal(size=(10, 1))))
    s.reshape(s.add("Sub", tuple(ends)), 1)
    return s.network()


def least_value(network, lower, upper) -> tuple[float, np.ndarray]:
    """About the least value over a box, and where."""
    rng = np.random.default_rng(0)
    x = lower + (upper - lower) * rng.choice([0.0, 0.25, 0.5, 0.75, 1.0], (20000, len(lower)))
    y = Program(network, torch.float64, "cpu").forward(torch.from_numpy(x)).numpy()[:, 0]
    return float(y.min()), x[y.argmin()]


def problem(seed: int, room: float, planted: bool = False, regions: int = 2):
    """Rows y <= c: c below the least value by `room`, or just what it is at a point of one region."""
    rng = np.random.default_rng(seed)
    network = difference(rng)
    lower = rng.integers(-2, 2, (regions, 2 * M)).astype(float) / 2
    upper = lower + 0.5
    disjuncts = []
    for r in range(regions):
        least, _ = least_value(network, lower[r], upper[r])
        disjuncts.append((r, [({2 * M: 1.0}, -(least if planted and r == 0 else least - room))]))
    return network, query(2 * M, 1, list(zip(lower, upper)), disjuncts)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("seed", range(4))
def test_proved_with_fewer_domains(seed, dtype):
    network, q = problem(seed, 0.1)
    config, counts = settings(attack="none"), {}
    config = replace(config, clip=replace(config.clip, method="none"))
    for kind in (SumSearch, Search):
        outcome = search(network, q, config, refuse, dtype, kind=kind)
        assert outcome.verdict == Verdict.UNSAT
        counts[kind] = outcome.stats["domains"]
    assert counts[SumSearch] < counts[Search]


@pytest.mark.parametrize("seed", range(6))
def test_a_planted_counterexample_is_never_denied(seed):
    network, q = problem(seed, 0.1, planted=True)
    for confirm, attack in ((None, "none"), (refuse, "none"), (None, "pgd")):
        outcome = search(network, q, settings(attack=attack), confirm, seconds=1.0, kind=SumSearch)
        assert outcome.verdict != Verdict.UNSAT
        assert confirm is None or outcome.witness is None


@pytest.mark.parametrize("how", ["a half lost", "bounds too high"])
def test_a_search_that_goes_wrong_is_noticed(how, monkeypatch):
    right = SumSearch._bounded

    def wrong(self, j, leaves):
        if how == "a half lost" and len(leaves) > 2:
            leaves = leaves.take(slice(0, len(leaves) // 2))
        found = right(self, j, leaves)
        found.score = found.score + (0.5 if how == "bounds too high" else 0.0)
        return found

    monkeypatch.setattr(SumSearch, "_bounded", wrong)

    def denied(seed: int) -> bool:
        network, q = problem(seed, 0.1, planted=True)
        return search(network, q, settings(attack="none"), refuse, seconds=2.0, kind=SumSearch).verdict == "unsat"

    assert any(map(denied, range(6)))


def test_terms_add_up():
    network = difference(np.random.default_rng(1))
    terms = terms_of(network)
    x = torch.randn(50, 2 * M, dtype=torch.float64)
    run = lambda n: Program(n, torch.float64, "cpu").forward(x)
    total = sum(t.sign * run(t.network) for t in terms)
    assert len(terms) == 2 and torch.allclose(total, run(network), rtol=0, atol=1e-12)


def test_only_sums_of_terms_with_inputs_of_their_own():
    rng = np.random.default_rng(2)
    box, row = [(np.zeros(2 * M), np.ones(2 * M))], [({2 * M: 1.0}, 0.0)]
    for network, disjuncts, expected in (
        (difference(rng), [(0, row)], True),
        (difference(rng, shared=True), [(0, row)], False),
        (random_dense(rng, (2 * M, 5, 1)), [(0, row)], False),
        (difference(rng), [(0, row), (0, [({2 * M: -1.0}, 0.0)])], False),
        (difference(rng), [(0, [])], False),
    ):
        p = compile_problem(network, query(2 * M, 1, box, disjuncts))
        assert SumSearch.fits(p, Program(p.network, torch.float32, "cpu")) == expected


@pytest.mark.parametrize("count, terms", [(5, 5), (16, 16), (17, 1), (3000, 1)])
def test_sums_of_very_many_terms_are_one(count, terms):
    s = Sketch(1)
    total = s.function("t", "Relu")
    for k in range(count - 1):
        total = s.add(("Add", "Sub")[k % 2], (total, s.function("t", "Relu")))
    assert len(terms_of(s.network())) == terms
