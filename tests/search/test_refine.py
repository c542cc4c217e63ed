"""Boxes of intermediate values by branch and bound: they hold what the network takes, come close to it, and searches
that use them deny no counterexample.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from handmade import random_branches, random_convolution, random_dense
from queries import query, refuse, search, settings

from verifier.bounds.crown import crown_trace
from verifier.bounds.program import Program
from verifier.bounds.tighten import tightened
from verifier.branching import NEURONS
from verifier.result import Verdict
from verifier.search import neurons, refine
from verifier.search.neurons import NeuronSearch
from verifier.search.refine import EntryBounder, Trees, refined

NEURONS.load()
D = torch.float64
LEAVES = 120
M = 6  # inputs of networks that are searched
KINDS = ("Relu", "LeakyRelu", "Abs", "Tanh", "Sin")


def network_of(seed: int, rng):
    kind = KINDS[seed % len(KINDS)]
    if seed % 4 == 1:
        return random_branches(rng, [kind])
    if seed % 4 == 3:
        return random_convolution(rng, [kind, kind])
    return random_dense(rng, (3, 8, 8, 6, 3), kind)


def region(seed: int, dtype):
    """A network over a box, as the trace of its root; the program in float64; and values at many points."""
    rng = np.random.default_rng(seed)
    network = network_of(seed, rng)
    program, fine = Program(network, dtype, "cpu"), Program(network, D, "cpu")
    c = torch.from_numpy(rng.normal(size=(1, program.n_in))).to(dtype)
    r = torch.from_numpy(rng.random((1, program.n_in)) * rng.choice([0.0, 1.0, 1.0], (1, program.n_in))).to(dtype)
    trace = crown_trace(program, c - r, c + r, 1 << 26)
    l, u = (t.double() for t in trace.boxes[0])
    x = l + (u - l) * torch.from_numpy(rng.random((4000, program.n_in)))
    x[:2000] = torch.where(torch.from_numpy(rng.random((2000, program.n_in)) < 0.5), l, u)
    every = [x]
    for step in fine.steps[1:]:
        every.append(step.op.forward(*(every[i] for i in step.inputs)))
    return trace, fine, every


def outside(seed: int, dtype, seconds: float = 2.0) -> tuple[int, float]:
    """How many values at points lie outside of their refined boxes, and by how much boxes shrank, in all."""
    old, fine, every = region(seed, dtype)
    new, _ = refined(old, 1 << 26, seconds, fine)
    found, shrunk = 0, 0.0
    for k, values in enumerate(every):
        (l, u), (a, b) = new.boxes[k], old.boxes[k]
        assert bool((l <= u).all())
        slack = 1e-12 * (1 + values.abs())
        found += int(((values < l.double() - slack) | (values > u.double() + slack)).sum())
        shrunk += float((1 - (u - l) / (b - a).clamp(min=1e-30)).clamp(min=0).sum())
    return found, shrunk


@pytest.fixture
def few_rounds(monkeypatch):
    """What a row gets does not depend on how fast the machine is, and is soon over."""
    worst = Trees._worst
    monkeypatch.setattr(Trees, "_worst", lambda self, pool: worst(self, pool) if self.cases < LEAVES else None)


@pytest.mark.parametrize("dtype", [torch.float32, D])
def test_refined_boxes_hold_what_the_network_takes(dtype, few_rounds):
    shrunk = 0.0
    for seed in range(6):
        out, by = outside(seed, dtype, 60.0)
        assert not out, seed
        shrunk += by
    assert shrunk > 5


@pytest.mark.parametrize("how", ("a half lost", "dropped too soon", "leaves forgotten", "one side twice", "no least"))
def test_refining_that_goes_wrong_is_noticed(how, few_rounds, monkeypatch):
    if how == "a half lost":
        halves = refine.split
        monkeypatch.setattr(refine, "split", lambda p, n: (c := halves(p, n)).take(slice(0, max(1, len(c) // 2))))
    elif how == "dropped too soon":
        start = EntryBounder._start
        monkeypatch.setattr(EntryBounder, "_start", lambda self, slot: replace(s := start(self, slot), bias=s.bias + 1))
        monkeypatch.setattr(EntryBounder, "_proved", lambda self, slot, *a: torch.ones(len(slot), dtype=D))
    elif how == "leaves forgotten":
        bounds = Trees._bounds

        def some(self):
            for pool in self.pools:
                if len(pool) > 1:
                    pool.pop(1)
            return bounds(self)

        monkeypatch.setattr(Trees, "_bounds", some)
    elif how == "one side twice":
        least = EntryBounder.least
        above = lambda self, slot, s, m: least(self, slot, replace(s, sign=s.sign.abs()), m)
        monkeypatch.setattr(EntryBounder, "least", above)
    else:
        bound = Trees._bounds
        best = lambda self: (f := bound(self))[0:1] + (f[1] + 0.2 * (f[1].abs() + 0.1),)
        monkeypatch.setattr(Trees, "_bounds", best)
    assert any(outside(seed, D, 60.0)[0] for seed in range(5))


def test_trees_that_end_find_the_range_of_every_neuron():
    """Two inputs, piecewise linear: with every neuron split, bounds are exact but for what slopes leave."""
    rng = np.random.default_rng(5)
    program = Program(random_dense(rng, (2, 6, 6, 6, 2)), D, "cpu")
    c = torch.from_numpy(rng.normal(size=(1, 2)))
    old = crown_trace(program, c - 1, c + 1, 1 << 26)
    new, cases = refined(old, 1 << 26, 20.0, program)
    t = torch.linspace(-1, 1, 400, dtype=D)
    grid = torch.cartesian_prod(t, t) + c
    every = [grid]
    for step in program.steps[1:]:
        every.append(step.op.forward(*(every[i] for i in step.inputs)))
    loose, coarse, seen = 0.0, 0.0, 0
    for step in program.steps:
        if step is None or step.node.kind != "Relu":
            continue
        v = step.inputs[0]
        (l, u), (a, b) = (tuple(t[0] for t in trace.boxes[v]) for trace in (new, old))
        low, high = every[v].min(0).values, every[v].max(0).values
        crossing = (low < 0) & (high > 0)
        assert bool((((l < 0) & (u > 0)) == crossing)[(low.abs() > 1e-2) & (high.abs() > 1e-2)].all())
        loose += float((low - l + u - high)[crossing].sum())
        coarse += float((low - a + b - high)[crossing].sum())
        seen += int(crossing.sum())
    assert seen > 8 and cases > 100 and loose < 0.1 * coarse


def test_branching_finds_more_than_optimising(few_rounds):
    rng = np.random.default_rng(3)
    program = Program(random_dense(rng, (5, 14, 14, 14, 3)), D, "cpu")
    c = torch.from_numpy(rng.normal(size=(1, 5)))
    old = crown_trace(program, c - 0.4, c + 0.4, 1 << 26)
    fair = tightened(old, 1 << 26, 60.0)
    new, _ = refined(old, 1 << 26, 10.0, program)
    widths = [float((u - l).sum()) for l, u in (old.boxes[-2], fair.boxes[-2], new.boxes[-2])]
    assert widths[0] - widths[2] > 1.5 * (widths[0] - widths[1]) > 0


def test_without_time_nothing_is_lost():
    old, fine, _ = region(0, torch.float32)
    new, cases = refined(old, 1 << 26, -1.0, fine)
    assert cases == 0
    for (l, u), (a, b) in zip(new.boxes, old.boxes):
        assert bool((l >= a).all()) and bool((u <= b).all())


# --- in a search


def at_once(monkeypatch):
    """Boxes are optimised in the first round, and branched on after each that follows."""
    monkeypatch.setattr(neurons, "FIRST_LOOK", 0.0)
    monkeypatch.setattr(NeuronSearch, "_ending", lambda self, *a: False)
    monkeypatch.setattr(neurons, "PATIENCE", 0.0)
    monkeypatch.setattr(neurons, "GAINED", 2.0)


def hard(seed: int, kind: str = "Relu", room: float = 0.3):
    """One row that is out of a network's reach, by a share of its least value; with none of it, some point has it."""
    rng = np.random.default_rng(seed)
    network = random_dense(rng, (M, 10, 10, 10, 2), kind)
    fine = Program(network, D, "cpu")
    least = float(fine.forward(torch.from_numpy(rng.uniform(-1, 1, (20000, M)))).min(0).values[0])
    return network, query(M, 2, [(-np.ones(M), np.ones(M))], [(0, [({M: 1.0}, room * abs(least) - least)])])


@pytest.mark.parametrize("dtype", [torch.float32, D])
def test_planted_counterexamples_are_never_denied(dtype, few_rounds, monkeypatch):
    at_once(monkeypatch)
    cases = 0
    for seed, kind in enumerate(KINDS[:1] + KINDS[3:]):
        config = settings(rounds=3, attack="none", batch=16)
        outcome = search(*hard(seed, kind, -1e-6), config, refuse, dtype, 60.0, kind=NeuronSearch)
        assert outcome.verdict == Verdict.UNKNOWN
        cases += outcome.stats["cases of intermediate values"]
    assert cases > 300


@pytest.mark.slow
def test_a_search_on_refined_boxes_proves_what_holds(few_rounds, monkeypatch):
    at_once(monkeypatch)
    outcome = search(*hard(1), settings(attack="none", batch=16), None, D, 120.0, kind=NeuronSearch)
    assert outcome.verdict == Verdict.UNSAT and outcome.stats["cases of intermediate values"] > 0


@pytest.mark.parametrize("seconds", (120.0, float("inf")))
def test_boxes_are_not_branched_on_where_that_is_switched_off(seconds, monkeypatch):
    at_once(monkeypatch)
    config = settings(attack="none", batch=16)
    config = replace(config, search=replace(config.search, refine=False))
    outcome = search(*hard(1), config, None, D, seconds, kind=NeuronSearch)
    assert outcome.verdict == Verdict.UNSAT and outcome.stats["cases of intermediate values"] == 0


@pytest.mark.slow
def test_a_search_goes_on_with_its_cases(monkeypatch):
    """On boxes that are no narrower they are what they were; and the next branching begins with the boxes of this."""
    at_once(monkeypatch)
    kept, traces = [], []
    monkeypatch.setattr(neurons, "refined", lambda old, *a: (traces.append((old, replace(old))) or traces[-1][1], 0))
    refining = NeuronSearch._refine

    def watch(self, bounder, root, seconds):
        before = len(self.cases), self._share(self.cases.held)
        new, gained = refining(self, bounder, root, seconds)
        kept.append((before, (len(self.cases), self._share(self.cases.held))))
        assert new is not bounder and bool((self.cases.held.prefer < 0).all())
        return new, gained

    monkeypatch.setattr(NeuronSearch, "_refine", watch)
    outcome = search(*hard(0), settings(attack="none", batch=16), None, D, 120.0, kind=NeuronSearch)
    assert outcome.verdict == Verdict.UNSAT and len(kept) > 1
    assert all(before == after for before, after in kept) and kept[-1][0][1] < 0.9
    assert all(old is new for (_, new), (old, _) in zip(traces, traces[1:]))


@pytest.mark.parametrize(
    ("course", "seconds", "ending"),
    [
        ([(0.0, 1.0), (1.0, 0.1)], 0.2, True),  # 0.9 closed in a second, 0.1 to go
        ([(0.0, 1.0), (1.0, 0.1)], 0.1, False),
        ([(0.0, 1.0), (1.0, 0.9)], 1.0, False),
        ([(0.0, 1.0), (1.0, 1.0)], 1e9, False),
        ([(0.0, 1.0), (1.0, 0.4), (2.0, 0.39), (3.0, 0.39), (4.0, 0.39)], 1e9, False),  # quick at first, then stuck
        ([(0.0, 1.0), (1.0, 1.0), (2.0, 0.9), (3.0, 0.5), (4.0, 0.1)], 0.3, True),  # slow at first
        ([(0.0, 0.3), (2.0, 0.2), (4.0, 0.1)], 2.5, True),  # an old tree that goes on
        ([(3.0, 0.3)], 1e9, False),  # nothing is known
    ],
)
def test_a_search_that_ends_soon_is_let_alone(course, seconds, ending):
    s = NeuronSearch.__new__(NeuronSearch)
    s.course = course
    assert s._ending(seconds) is ending


@pytest.mark.slow
def test_what_is_set_aside_at_a_new_root_does_not_count(monkeypatch):
    """The search goes on with its cases, which hold all that is open: refuting them is a proof."""
    at_once(monkeypatch)
    refining, planting = NeuronSearch._refine, NeuronSearch._plant
    state = {"refining": False, "aside": 0}

    def plant(self, trace, root):
        bounder = planting(self, trace, root)
        if state["refining"]:
            self.unsplittable += 1
            state["aside"] += 1
        return bounder

    def refine(self, *args):
        state["refining"] = True
        found = refining(self, *args)
        state["refining"] = False
        return found

    monkeypatch.setattr(neurons, "refined", lambda old, *a: (old, 0))
    monkeypatch.setattr(NeuronSearch, "_plant", plant)
    monkeypatch.setattr(NeuronSearch, "_refine", refine)
    outcome = search(*hard(0), settings(attack="none", batch=16), None, D, 120.0, kind=NeuronSearch)
    assert state["aside"] > 0 and outcome.verdict == Verdict.UNSAT
