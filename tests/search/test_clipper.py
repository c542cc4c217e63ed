"""Clipping in the input search: a planted counterexample stays in a waiting domain, its disjunct open, whatever is
clipped; it does shrink boxes and close domains; and it can be turned down.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from itertools import islice

import numpy as np
import pytest
import torch
from handmade import random_dense
from hypothesis import given
from hypothesis import settings as examples
from hypothesis import strategies as st
from queries import query, refuse, search, settings
from test_whole_searches import outputs, planted

from verifier.clip import relaxed
from verifier.config import ClipConfig
from verifier.result import Verdict
from verifier.search import bab, clipper, trials

METHODS = clipper.LEVEL
KEPT: list = []


class Watched(bab.Search):
    """A search that leaves its pool behind."""

    def run(self):
        outcome = super().run()
        KEPT[:] = [self]
        return outcome


def clipped(method: str, planes: int = 8, **how):
    return replace(settings(attack="none", **how), clip=ClipConfig(method, planes))


def waits(x: np.ndarray, slot_of: dict[int, set[int]]) -> bool:
    """Whether an open domain holds x (whole input) for one of the slots (by region) that hold there."""
    s = KEPT[0]
    if s.unsplittable or not len(s.pool):
        return bool(s.unsplittable)
    d, t = s.pool.held, torch.from_numpy(x[s.parts.problem.moving])
    inside = ((d.lower.double() <= t) & (t <= d.upper.double())).all(1)
    return any(
        bool(d.open[k, slot]) for k in torch.nonzero(inside).flatten().tolist() for slot in slot_of[int(d.region[k])]
    )


@pytest.mark.parametrize("method", METHODS[1:])
@examples(max_examples=12, deadline=None, derandomize=True)
@given(seed=st.integers(0, 2**31))
def test_a_planted_counterexample_stays_in_a_waiting_domain(method, seed):
    network, q, x, y = planted(seed)
    slots: dict[int, set[int]] = {}
    for k in range(q.n_disjuncts):
        region = int(q.disjunct_region[k])
        slots.setdefault(region, set()).add(k - int(np.searchsorted(q.disjunct_region, region)))
    holds = q.holds(x, y)
    there = int(q.disjunct_region[holds])
    slots = {r: set() for r in slots} | {there: {holds - int(np.searchsorted(q.disjunct_region, there))}}
    dtype = torch.float64 if seed % 3 == 0 else torch.float32
    config = clipped(method, planes=1 + seed % 4, rounds=9)
    outcome = search(network, q, config, refuse, dtype, seconds=1.0, trusted=seed % 5 > 0, kind=Watched)
    assert outcome.verdict != Verdict.UNSAT
    assert waits(x, slots)


def narrow(seed: int):
    """A disjunct of two rows; the first is just never <= 0, as far as samples tell."""
    rng = np.random.default_rng(seed)
    network = random_dense(rng, (4, 12, 12, 2), "Relu")
    l = rng.normal(size=4)
    u = l + 2.0
    y = outputs(network, l + (u - l) * rng.random((4000, 4)))
    low = np.min(y @ [1.0, -0.7])
    rows = [({4: 1.0, 5: -0.7}, float(-low + 0.1 * np.ptp(y[:, 0]))), ({0: 1.0, 1: 1.0}, float(-l[0] - l[1] - 0.6))]
    return network, query(4, 2, [(l, u)], [(0, rows)])


def test_every_method_agrees_and_deeper_ones_bound_fewer_domains(monkeypatch):
    monkeypatch.setattr(clipper.Clipper, "weigh", lambda *a: None)  # deep throughout
    monkeypatch.setattr(trials, "LEAST", 10**9)  # one rule for all, so that clipping alone makes the difference
    total = dict.fromkeys(METHODS, 0)
    deep = dict.fromkeys(METHODS, 0)
    for seed in range(6):
        network, q = narrow(seed)
        found = {m: search(network, q, clipped(m, rounds=60), refuse, seconds=20.0) for m in METHODS}
        assert all(o.verdict == Verdict.UNSAT for m, o in found.items() if m != "none")
        for m, o in found.items():  # without clipping, some are not through after all rounds
            total[m] += o.stats["domains"]
            deep[m] += o.stats["bounded within half-spaces"]
    assert total["relaxed"] < total["none"] and total["reordered"] < total["relaxed"]
    assert total["all"] <= total["reordered"]
    assert deep["reordered"] == 0 and deep["all"] > 0


def test_deep_clipping_is_turned_down_where_it_gains_less_than_it_costs():
    even = (1.0, 1.0)
    worse, better = torch.full((8,), -1.0).double(), torch.full((8,), -0.9).double()
    cases = [(better, even, True), (better, (1.0, 1.2), False), (worse + 0.01, (1.0, 0.9), False), (worse, even, False)]
    cases.append((torch.cat([worse[:4], torch.ones(4).double()]), (1.0, 1.9), True))  # half of them are closed
    for within, seconds, deep in cases:
        c = clipper.Clipper(ClipConfig("all"), trusted=True)
        c.weigh(worse, within, seconds)
        assert c.deep == deep
    c = clipper.Clipper(ClipConfig("all"), trusted=True)
    c.weigh(torch.ones(8).double(), torch.ones(8).double(), even)  # nothing was open
    assert not c.deep
    assert not c.due(8, 1.0)
    assert not c.due(100, 1.0) and c.due(100, 300.0)


def test_planes_that_are_only_proposals_clip_nothing():
    assert clipper.Clipper(ClipConfig("all"), trusted=False).level == 0


def test_clipping_too_much_is_noticed(monkeypatch):
    """Boxes clipped by a little more than their planes allow: the planted counterexamples are denied or lost."""
    right = relaxed.once

    def once(l, u, planes):
        return right(l, u, planes._replace(h=planes.h + 0.05))

    monkeypatch.setattr(relaxed, "once", once)

    def wrong(seed: int) -> bool:
        network, q, x, _ = planted(seed)
        outcome = search(network, q, clipped("reordered", rounds=12), refuse, torch.float64, seconds=1.0, kind=Watched)
        slots = {int(r): set(range(9)) & set(range(int(max(KEPT[0].parts.problem.slots)))) for r in q.disjunct_region}
        return outcome.verdict == Verdict.UNSAT or not waits(x, slots)

    assert len(list(islice(filter(wrong, range(40)), 3))) == 3


def crowded(seed: int):
    """A box that three disjuncts share, each of two rows that hold at a point of its own: the points, and the query."""
    rng = np.random.default_rng(seed)
    network = random_dense(rng, (2, 6, 6, 3), str(rng.choice(["Relu", "Tanh"])))
    l = rng.normal(size=2).astype(np.float32)
    u = l + np.float32(1.5)
    points = (l + (u - l) * rng.random((3, 2)).astype(np.float32)).clip(l, u).astype(float)
    y = outputs(network, points)
    disjuncts = []
    for k in range(3):
        rows = []
        for _ in range(2):
            c = rng.normal(size=3)
            rows.append(({2 + j: float(c[j]) for j in range(3)}, float(-(c @ y[k]) - 1e-9)))
        disjuncts.append((0, rows))
    return network, query(2, 3, [(l, u)], disjuncts), points


def foreign_planes(methods, monkeypatch, seeds: int) -> Iterator[tuple[int, int]]:
    """How many planes of another disjunct were at hand when one was clipped, and how many planted points were lost, so
    far, after every search.
    """
    met = lost = 0
    right = clipper._pairs

    def pairs(domains):
        nonlocal met
        d, k = torch.nonzero(domains.open, as_tuple=True)
        met += int(((domains.owner[d] >= 0) & (domains.owner[d] != k.unsqueeze(1))).sum())
        return right(domains)

    with monkeypatch.context() as m:
        m.setattr(clipper, "_pairs", pairs)
        for seed in range(seeds):
            network, q, points = crowded(seed)
            for method in methods:
                config = clipped(method, rounds=7)
                outcome = search(network, q, config, refuse, torch.float64, seconds=2.0, kind=Watched)
                lost += outcome.verdict == Verdict.UNSAT
                lost += sum(not waits(points[k], {0: {k}}) for k in range(3))
                yield met, lost


def test_no_disjunct_is_clipped_by_planes_of_another(monkeypatch):
    *_, (met, lost) = foreign_planes(METHODS[1:], monkeypatch, 6)
    assert met > 100 and not lost


def test_planes_of_another_disjunct_are_noticed(monkeypatch):
    monkeypatch.setattr(clipper.Halfspaces, "only", lambda self, kept: self)
    assert any(lost for _, lost in foreign_planes(["all"], monkeypatch, 6))


def test_bounding_within_planes_of_one_of_several_disjuncts_is_noticed(monkeypatch):
    def within(self, domains):
        return clipper.Halfspaces(domains.g, domains.h) if domains.g.shape[1] else None

    monkeypatch.setattr(clipper.Clipper, "within", within)
    monkeypatch.setattr(clipper.Clipper, "weigh", lambda *a: None)  # deep throughout
    assert any(lost for _, lost in foreign_planes(["complete", "all"], monkeypatch, 12))
