"""Searches over many regions of which little moves: what is said holds, with counterexamples planted and without."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from handmade import Sketch
from queries import judge, query, refuse, settings

from verifier.bounds.program import Program
from verifier.events import Deadline, silent
from verifier.problem import compile_problem
from verifier.result import Verdict
from verifier.search import bab, strategy

ROWS, FEATURES, REGIONS = 8, 3, 60


def table(rng: np.random.Generator):
    """A sum over the rows of a table, each weighed by its last entry, then two layers."""
    s = Sketch(ROWS * (FEATURES + 1))
    whole = s.add("Reshape", ("t",), (1, ROWS, FEATURES + 1))
    cut = lambda a, b: {"axes": (2,), "starts": (a,), "ends": (b,), "steps": (1,)}
    x = s.add("Slice", (whole,), (1, ROWS, FEATURES), **cut(0, FEATURES))
    mask = s.add("Slice", (whole,), (1, ROWS, 1), **cut(FEATURES, FEATURES + 1))
    x = s.add("Relu", (s.linear(x, rng.normal(size=(FEATURES, 24)), rng.normal(size=24)),))
    x = s.add("ReduceSum", (s.add("Mul", (x, mask), (1, ROWS, 24)),), (1, 24), axes=(1,), keepdims=0)
    x = s.add("Tanh", (s.linear(x, rng.normal(size=(24, 4)) / 4, rng.normal(size=4)),))
    s.add("Reshape", (s.linear(x, rng.normal(size=(4, 1))),), (1,))
    return s.network()


def problem(seed: int, planted: bool):
    """A region's disjunct says that the output is below what it can be; the planted one's that it is below what it is
    at a point, by nothing at all.
    """
    rng = np.random.default_rng(seed)
    network, m = table(rng), ROWS * (FEATURES + 1)
    reference = Program(network, torch.float64, "cpu")
    lower = rng.integers(-2, 3, (REGIONS, m)).astype(np.float32)
    upper = lower.copy()
    for r in range(REGIONS):
        upper[r, (r % 3) * (FEATURES + 1) + rng.integers(FEATURES)] += np.float32(rng.choice([0.25, 1.0]))
    part = rng.random((REGIONS, 200, 1))
    x = lower[:, None] + (upper - lower)[:, None] * part
    y = reference.forward(torch.from_numpy(x.reshape(-1, m))).numpy().reshape(REGIONS, 200)
    least = y.min(1) - 0.02 * (1 + np.ptp(y, 1))
    there = int(rng.integers(REGIONS)) if planted else -1
    if planted:
        corner = np.float64(upper[there])
        least[there] = reference.forward(torch.from_numpy(corner)[None]).item()
    disjuncts = [(r, [({m: 1.0}, -float(least[r]))]) for r in range(REGIONS)]
    return network, query(m, 1, list(zip(lower, upper)), disjuncts)


def solve(network, q, confirm, monkeypatch, method, seconds=20.0):
    """The outcome of splitting inputs, and whether what stands still was made use of."""
    p = compile_problem(network, q)
    config = settings(method, attack="none")
    config = replace(config, search=replace(config.search, split="input"))
    used, right = [], strategy.with_still

    def noted(*a):
        used.append(right(*a))
        return used[-1]

    monkeypatch.setattr(strategy, "with_still", noted)
    monkeypatch.setattr(strategy, "first_pass", lambda problem, program: problem)  # all regions are to be searched
    plan = strategy.plan(p, config)
    outcome = strategy.solve(plan, config, Deadline.after(seconds), silent, confirm or judge(p, network))
    return outcome, used[0].still is not None


@pytest.mark.parametrize("method", ["crown", "forward"])
@pytest.mark.parametrize("often", [False, True])
def test_proved_where_it_holds(method, often, monkeypatch):
    if often:  # rows go to float64 at once
        monkeypatch.setattr(bab.Search, "_rows_in_float64", lambda self, p: bab.usable(p))
    network, q = problem(3, False)
    outcome, used = solve(network, q, refuse, monkeypatch, method)
    assert used and outcome.verdict == Verdict.UNSAT


@pytest.mark.parametrize("method", ["crown", "forward"])
@pytest.mark.parametrize("often", [False, True])
@pytest.mark.parametrize("seed", range(3))
def test_a_planted_counterexample_is_never_denied(method, often, seed, monkeypatch):
    if often:
        monkeypatch.setattr(bab.Search, "_rows_in_float64", lambda self, p: bab.usable(p))
    network, q = problem(seed, True)
    for confirm, seconds in ((refuse, 1.5), (None, 3.0)):
        with monkeypatch.context() as m:
            outcome, used = solve(network, q, confirm, m, method, seconds)
        assert used and outcome.verdict != Verdict.UNSAT
        assert confirm is None or outcome.witness is None


def test_what_stands_still_holds_what_the_model_sees(monkeypatch):
    """An end that float32 does not hold reaches the model rounded, to either side; yet the entry stands still."""
    network, q = problem(0, False)
    shift = np.where(np.arange(q.lower.shape[1]) % 2, 0.1, 0.7)
    q = replace(q, lower=q.lower + shift, upper=q.upper + shift)
    seen, right = [], strategy.with_still
    monkeypatch.setattr(strategy, "with_still", lambda *a: seen.append(right(*a)) or seen[-1])
    p = compile_problem(network, q)
    config = settings("crown", attack="none", rounds=1)
    config = replace(config, search=replace(config.search, split="input"))
    monkeypatch.setattr(strategy, "first_pass", lambda problem, program: problem)
    strategy.solve(strategy.plan(p, config), config, Deadline.after(20.0), silent, refuse)
    still = seen[0].still
    assert still is not None and still.share < 0.5
    lower, upper = (torch.from_numpy(np.float32(t).astype(np.float64)) for t in (p.lower, p.upper))
    assert bool((lower < torch.from_numpy(p.lower)).any()) and bool((upper > torch.from_numpy(p.upper)).any())
    assert bool((still.lower <= torch.minimum(lower, torch.from_numpy(p.lower))).all())
    assert bool((still.upper >= torch.maximum(upper, torch.from_numpy(p.upper))).all())
