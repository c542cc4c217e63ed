"""Clipping of columns' boxes: no counterexample of a case leaves them, nothing that rests on them is told to others,
and searches visit fewer domains.

Symbols: K columns, N points.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from handmade import random_branches, random_dense
from queries import query, refuse, search, settings
from test_whole_searches import planted

from verifier.bounds import columnplanes
from verifier.bounds.crown import crown_trace
from verifier.bounds.dual import Settings
from verifier.bounds.program import Program
from verifier.bounds.tighten import tightened
from verifier.branching import NEURONS
from verifier.config import ClipConfig
from verifier.result import Verdict
from verifier.search import neurons, tighter
from verifier.search.bounder import Bounder
from verifier.search.cases import roots, split
from verifier.search.clauses import Clauses
from verifier.search.neurons import NeuronSearch

NEURONS.load()
D = torch.float64
KINDS = ("Relu", "LeakyRelu", "Abs", "Tanh", "Sin")


def always(self, count):
    """In place of `Tighter.due`: clips from the first round on, whatever that gains."""
    self.count = 64
    return False


STEPS = Settings(steps=8, alpha_rate=0.3, beta_rate=0.3)


def case_of(seed: int, method: str, dtype=D, optimised=False):
    """A region with one disjunct that some of its points satisfy, as a bounder with its first case; the program in
    float64 and many points (N, m).
    """
    rng = np.random.default_rng(seed)
    kind = KINDS[seed % len(KINDS)]
    network = random_branches(rng, [kind]) if seed % 3 == 0 else random_dense(rng, (4, 8, 8, 6, 3), kind)
    program, fine = Program(network, dtype, "cpu"), Program(network, D, "cpu")
    c = torch.from_numpy(rng.normal(size=(1, program.n_in))).to(dtype)
    r = torch.from_numpy(rng.random((1, program.n_in)) * rng.choice([0.0, 1.0, 1.0], (1, program.n_in))).to(dtype)
    trace = crown_trace(program, c - r, c + r, 1 << 26)
    if optimised:
        trace = tightened(trace, 1 << 26, 60.0)
    l, u = (t.double() for t in trace.boxes[0])
    x = l + (u - l) * torch.from_numpy(rng.random((20000, program.n_in)))
    x[:2000] = torch.where(torch.from_numpy(rng.random((2000, program.n_in)) < 0.5), l, u)
    y = fine.forward(x)
    rows = torch.from_numpy(rng.normal(size=(1, 2, y.shape[1])))
    value = torch.einsum("ksp,np->ksn", rows, y)
    const = -torch.quantile(value, 0.03, dim=2)  # few points satisfy each row
    b = Bounder(
        trace,
        (rows.to(dtype), rows, const, torch.zeros_like(const, dtype=torch.bool)),
        fine,
        NEURONS["gap"],
        clip=method,
    )
    kept = roots(b.relaxation, torch.zeros(1, dtype=torch.int64), b.relaxation.alpha.new_full((1, 2), 0.5), 3)
    kept.score = torch.full_like(kept.score, -1e3)
    return b, kept, fine, x, (value + const.unsqueeze(2) <= 0).all(1)[0]


def values(b: Bounder, fine: Program, x: torch.Tensor) -> torch.Tensor:
    """What the columns read at points: (N, K)."""
    every, r = [x], b.relaxation
    for step in fine.steps[1:]:
        every.append(step.op.forward(*(every[i] for i in step.inputs)))
    parts = []
    for site in r.sites.values():
        flat = every[site.value].reshape(len(x), -1)
        parts.append(flat if site.index is None else flat[:, site.index])
    return torch.cat(parts, 1)


def lost(seed: int, method: str, dtype, optimised: bool) -> tuple[int, int, float]:
    """Counterexamples outside of boxes of their cases, how many there were, and by how much boxes shrank."""
    b, cases, fine, x, bad = case_of(seed, method, dtype, optimised)
    x, out, shrunk = x[bad], 0, 0.0
    if not len(x):
        return out, 0, shrunk
    z, r = values(b, fine, x), b.relaxation
    for _ in range(4):
        cases, empty = b.tighter.clipped(cases, 192)
        boxes = cases.boxes(r.lower, r.upper)
        if boxes is not None:
            shrunk += float((1 - (boxes[1] - boxes[0]) / (r.upper - r.lower).clamp(min=1e-30)).clamp(min=0).sum())
            for i in range(len(cases)):
                s = cases.splits.take(slice(i, i + 1))
                room = s.sign * (z[:, s.column[0].clamp(min=0)] - s.point)
                mine = ((room >= 0) | (s.column < 0)).all(1)
                l, u = boxes[0][i].double(), boxes[1][i].double()
                inside = ((z[mine] >= l - 1e-9) & (z[mine] <= u + 1e-9)).all(1)
                out += int((~inside).sum()) + int(mine.sum()) * bool(empty[i])
        kept = b.bound(cases, STEPS, 3).kept
        kept = kept.take(kept.prefer[:, 0] >= 0)
        if not len(kept):
            break
        cases = split(kept, 1)
    return out, len(x), shrunk


@pytest.mark.parametrize("method", ("complete", "all"))
@pytest.mark.parametrize("optimised", (False, True))
def test_no_counterexample_leaves_the_boxes_of_its_case(method, optimised, monkeypatch):
    monkeypatch.setattr(tighter.Tighter, "due", always)
    seen, shrunk = 0, 0.0
    for seed in range(24):
        out, count, by = lost(seed, method, torch.float32 if seed % 2 else D, optimised)
        assert not out, (seed, out, count)
        seen, shrunk = seen + count, shrunk + by
    assert seen > 1000 and shrunk > 20


@pytest.mark.parametrize("how", ("half-space moved", "splits turned around", "planes swapped", "rounded inward"))
def test_clipping_that_goes_wrong_is_noticed(how, monkeypatch):
    monkeypatch.setattr(tighter.Tighter, "due", always)
    if how == "half-space moved":
        cut = tighter.Tighter.cut
        monkeypatch.setattr(tighter.Tighter, "cut", lambda self, c, p, o, *a: cut(self, c, p, o + 0.3 * o.abs(), *a))
    elif how == "splits turned around":
        halves = tighter.Tighter._halves
        turned = lambda self, c: halves(self, replace(c, sign=-c.sign))
        monkeypatch.setattr(tighter.Tighter, "_halves", turned)
    elif how == "planes swapped":
        of = columnplanes.ColumnPlanes.of
        swapped = lambda self, c: type(f := of(self, c))(*(t.flip(1) for t in f))
        monkeypatch.setattr(columnplanes.ColumnPlanes, "of", swapped)
    else:
        inward = lambda low, high: (low.half() + 0.01, high.half() - 0.01)
        monkeypatch.setattr(tighter, "rounded", inward)
    assert any(lost(seed, "all", D, False)[0] for seed in range(24))


def test_halves_round_outward_and_keep_their_sign():
    rng = np.random.default_rng(0)
    x = rng.normal(size=20000) * 10.0 ** rng.uniform(-12, 8, 20000)
    x = torch.from_numpy(np.concatenate([x, [0.0, 65504.0, -65504.0, 7e4, -7e4, 6e-8, -6e-8, np.inf, -np.inf]]))
    for ends in (x, x.float()):
        low, high = tighter.rounded(ends, ends)
        assert bool((low.double() <= ends.double()).all() and (high.double() >= ends.double()).all())
        finite = torch.isfinite(ends)
        assert bool((low[(ends >= 0) & finite] >= 0).all() and (high[(ends <= 0) & finite] <= 0).all())
        usual = (ends.abs() > 1e-3) & (ends.abs() < 6e4)
        assert bool(((high - low).double() <= 4e-3 * ends.double().abs())[usual].all())


def test_clauses_do_not_rest_on_the_boxes_of_a_case():
    """Boxes that are far too small refute cases that have counterexamples; what is learned from that is true still."""
    learned = 0
    for seed in range(30):
        b, cases, fine, x, bad = case_of(seed, "all")
        if not bool(bad.any()):
            continue
        z, r = values(b, fine, x[bad]), b.relaxation
        b.learning = True
        for _ in range(3):
            kept = b.bound(cases, STEPS, 3).kept
            kept = kept.take(kept.prefer[:, 0] >= 0)
            if not len(kept):
                break
            cases = split(kept, 1)
        if not len(kept):
            continue
        middle = (r.lower + r.upper) / 2
        cases.low = cases.high = middle.expand(len(cases), -1).half()
        known = Clauses({})
        found = b.bound(cases, STEPS, 3)
        assert len(found.kept) < len(cases)
        if found.learned is None:
            continue
        known.add(found.learned)
        learned += 1
        for i in range(len(known)):
            key, bar = known.key[i], known.bar[i]
            holds = torch.where(key & 1 == 1, z[:, key.clamp(min=0) >> 1], -z[:, key.clamp(min=0) >> 1]) >= bar + 1e-9
            assert not bool((holds | (key < 0)).all(1).any())
    assert learned > 3


@pytest.mark.parametrize("method", [*(pytest.param(m, marks=pytest.mark.slow) for m in ("none", "complete")), "all"])
def test_planted_counterexamples_are_never_denied(method, monkeypatch):
    monkeypatch.setattr(tighter.Tighter, "due", always)
    for seed in range(30):
        network, q, _, _ = planted(seed)
        config = replace(settings(rounds=12, attack="none", batch=16), clip=ClipConfig(method))
        dtype = D if seed % 3 == 0 else torch.float32
        outcome = search(network, q, config, refuse, dtype, 1.0, trusted=seed % 5 > 0, kind=NeuronSearch)
        assert outcome.verdict != Verdict.UNSAT


def test_fewer_domains_are_visited_and_verdicts_stay(monkeypatch):
    monkeypatch.setattr(neurons, "FIRST_LOOK", 0.0)
    monkeypatch.setattr(tighter.Tighter, "due", always)
    domains = {"none": 0, "complete": 0, "all": 0}
    for seed in range(5):
        rng = np.random.default_rng(seed)
        network = random_dense(rng, (12, 12, 12, 2), "Relu")
        fine = Program(network, D, "cpu")
        least = float(fine.forward(torch.from_numpy(rng.uniform(-1, 1, (50000, 12)))).min(0).values[0])
        room = 0.3 * abs(least)
        q = query(12, 2, [(-np.ones(12), np.ones(12))], [(0, [({12: 1.0}, room - least)])])
        verdicts = set()
        for method in domains:
            config = replace(settings(attack="none", batch=32), clip=ClipConfig(method))
            config = replace(config, search=replace(config.search, refine=False))  # which would hide what clipping does
            outcome = search(network, q, config, None, D, 20.0, kind=NeuronSearch)
            verdicts.add(outcome.verdict)
            domains[method] += outcome.stats["domains"]
        assert len(verdicts) == 1
    assert domains["complete"] < 0.8 * domains["none"] and domains["all"] < 0.8 * domains["none"]
