"""One pass of intervals: what it closes is closed rightly, and the rest is the same question."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

sys.path.insert(0, str(Path(__file__).parents[1] / "bounds"))

from handmade import dense, random_dense  # noqa: E402
from queries import judge, query, refuse, settings  # noqa: E402

from verifier.bounds.interval import rows_from_box  # noqa: E402
from verifier.bounds.program import Program  # noqa: E402
from verifier.bounds.targets import RowTable, Targets  # noqa: E402
from verifier.events import Deadline, silent  # noqa: E402
from verifier.problem import compile_problem  # noqa: E402
from verifier.result import Verdict  # noqa: E402
from verifier.rowtables import Coefficients  # noqa: E402
from verifier.search import first_pass as module  # noqa: E402
from verifier.search import strategy  # noqa: E402
from verifier.search.first_pass import first_pass  # noqa: E402


def regions(seed: int, count: int = 12):
    """Small boxes, in each three disjuncts of which some hold somewhere in it."""
    rng = np.random.default_rng(seed)
    network = random_dense(rng, (2, 6, 4))
    lower = rng.uniform(-1, 1, (count, 2))
    upper = lower + rng.uniform(0.01, 0.4, (count, 2))
    boxes = [(l.tolist(), u.tolist()) for l, u in zip(lower, upper)]
    disjuncts = []
    for r in range(count):
        y = Program(network, torch.float64, "cpu").forward(torch.from_numpy((lower[r] + upper[r])[None] / 2))[0].numpy()
        for k in range(3):
            row = {2 + k: 1.0, 2 + (k + 1) % 4: -0.5}
            shift = float(rng.choice([0.0, 0.02, 1.0, 5.0]))
            disjuncts.append(
                (r, [(row, shift - float(y[k] - 0.5 * y[(k + 1) % 4])), ({2 + k: -1.0}, float(y[k]) - 50.0)])
            )
    return network, query(2, 4, boxes, disjuncts)


@pytest.mark.parametrize("block", (1, 1 << 23))
@pytest.mark.parametrize("seed", range(4))
def test_what_holds_somewhere_stays(seed, block, monkeypatch):
    """What a point satisfies is left, and something is closed."""
    monkeypatch.setattr(module, "BLOCK", block)
    network, q = regions(seed)
    problem = compile_problem(network, q)
    left = first_pass(problem, Program(problem.network, torch.float32, "cpu"))
    assert 0 < len(left.lower) and left.slots.sum() < problem.slots.sum()
    targets = [(p, Program(p.network, torch.float64, "cpu"), Targets(p, torch.float64, "cpu")) for p in (problem, left)]
    for r in range(len(problem.lower)):
        share = torch.rand((50, 2), dtype=torch.float64, generator=torch.Generator().manual_seed(r))
        x = torch.from_numpy(problem.lower[r]) + torch.from_numpy(problem.upper[r] - problem.lower[r]) * share
        there = np.flatnonzero((left.lower == problem.lower[r]).all(1))
        held = []
        for (_, program, target), region in zip(targets, (r, int(there[0]) if len(there) else None)):
            none = torch.zeros(50, dtype=torch.int64)
            holds = region is not None and target.values(program.forward(x), region + 0 * none) <= 0
            held.append(np.zeros(50) if region is None else holds.sum(1).numpy())
        assert held[0].tolist() == held[1].tolist()


def test_searches_start_from_what_is_left():
    for seed in range(3):
        network, q = regions(seed)
        problem, config = compile_problem(network, q), settings(attack="none")
        plan = strategy.plan(problem, config)
        assert any("intervals refute" in line for line in plan.lines())
        out = strategy.solve(plan, config, Deadline.after(20.0), silent, judge(problem, network))
        assert out.verdict == Verdict.SAT
        far = replace(q, const=q.const + 1e4)
        plan = strategy.plan(compile_problem(network, far), config)
        assert not len(plan.problem.lower)
        assert strategy.solve(plan, config, Deadline.after(5.0), silent, refuse).verdict == Verdict.UNSAT


def test_rows_by_their_terms_are_the_same_rows(monkeypatch):
    """Dense or not, rows have the same products, and from boxes bounds that hold and are nearly the same."""
    rng = np.random.default_rng(0)
    coef = rng.normal(size=(9, 7)) * (rng.random((9, 7)) < 0.3)
    coef[0], coef[1] = 0.0, np.eye(7)[2]
    y, row = torch.from_numpy(rng.normal(size=(5, 7))), torch.from_numpy(rng.integers(0, 9, (5, 3)))
    u = y + torch.from_numpy(rng.random((5, 7)))
    tables = []
    for most in (1 << 24, 0):
        monkeypatch.setattr("verifier.bounds.targets.MOST_DENSE", most)
        tables.append(RowTable(Coefficients.of(coef), torch.float64, "cpu"))
        assert (tables[-1].dense is None) == (most == 0)
    for t in tables:
        assert torch.equal(t[row], torch.from_numpy(coef)[row])
        assert torch.allclose(t.times(y), y @ torch.from_numpy(coef).T)
        low = t.from_box(y, u)
        want = rows_from_box(torch.from_numpy(coef).expand(5, -1, -1), y, u)
        assert torch.allclose(low, want) and torch.equal(low[:, 1], y[:, 2]) and not low[:, 0].any()


def test_very_many_outputs():
    """A row for each of 20,000 outputs: their matrix would have 400 million numbers."""
    n = 20000
    weight = np.linspace(0.5, 1.0, n)[None]
    network = dense([weight], [np.zeros(n)])
    above = lambda c: [(0, [({1 + j: -1.0}, c)]) for j in range(n)]
    for c, verdict in ((1.5, Verdict.UNSAT), (0.9999, Verdict.SAT)):
        problem, config = compile_problem(network, query(1, n, [([0.0], [1.0])], above(c))), settings(attack="none")
        plan = strategy.plan(problem, config)
        assert plan.problem.coef.width < 20 or not len(plan.problem.lower)
        assert strategy.solve(plan, config, Deadline.after(20.0), silent, judge(problem, network)).verdict == verdict
