"""Where the neuron search splits and what it may split, as the settings say."""

from __future__ import annotations

import tracemalloc
from dataclasses import replace

import numpy as np
import pytest
import torch
from handmade import Sketch, random_dense, random_products
from queries import query, refuse, search, settings

from verifier.bounds.crown import crown_trace
from verifier.bounds.program import Program
from verifier.branching import NEURONS
from verifier.branching.points import Points, middle, rule
from verifier.branching.store import Store
from verifier.ops.piecewise import PiecewiseLinear
from verifier.result import Verdict
from verifier.search import neurons
from verifier.search.bounder import Bounder
from verifier.search.neurons import NeuronSearch

NEURONS.load()


def planted(network, points: Points | None = None, curves: bool = True) -> Bounder:
    program = Program(network, torch.float64, "cpu")
    x = torch.zeros((1, program.n_in), dtype=torch.float64)
    trace = crown_trace(program, x - 1.0, x + 1.5, 1 << 26)
    rows, const = torch.ones((1, 1, program.shapes[program.output][0]), dtype=torch.float64), torch.zeros((1, 1))
    return Bounder(
        trace,
        (rows, rows, const.double(), torch.zeros_like(const, dtype=torch.bool)),
        program,
        NEURONS["gap"],
        points=points,
        curves=curves,
    )


def mixed():
    """Relu, Tanh, Clip, Sin and Exp with a Linear before each and after the last."""
    rng, s = np.random.default_rng(2), Sketch(3)
    x = "t"
    for kind in ("Relu", "Tanh", "Clip", "Sin", "Exp"):
        x = s.function(s.linear(x, rng.normal(size=(s.shapes[x][0], 5)), rng.normal(size=5)), kind)
    s.linear(x, rng.normal(size=(5, 2)))
    return s.network()


@pytest.mark.parametrize("how", ("tables", "middle", "auto"))
def test_every_column_is_split_by_its_own_operator_s_rule(how):
    points = Points(how=how)
    b = planted(mixed(), points)
    r = b.relaxation
    columns = torch.arange(r.width)[None]
    found = b._points(columns, r.lower[None], r.upper[None])[0]
    seen = set()
    for k, site in r.sites.items():
        op, l, u, p = r.program.steps[k].op, r.lower[site.cut], r.upper[site.cut], found[site.cut]
        seen.add(site.curved is not None)
        if site.curved is None:
            assert bool((p == 0).all())
        else:
            assert torch.equal(p, points.points((op,), l, u)) and bool(((p > l) & (p < u)).all())
            straight = isinstance(op, PiecewiseLinear)
            tables = how == "tables" or (how == "auto" and r.program.steps[k].node.kind == "Exp")
            assert straight or torch.equal(p, middle(l, u)) != tables
    assert seen == {True, False} and len(b.rules) == 4


def test_without_curves_only_kinks_are_split():
    everything, kinks = planted(mixed()).splittable, planted(mixed(), curves=False).splittable
    r = planted(mixed()).relaxation
    for k, site in r.sites.items():
        mine = isinstance(r.program.steps[k].op, PiecewiseLinear)
        assert torch.equal(kinks[site.cut], everything[site.cut] & mine)
    assert bool(kinks.any()) and bool((everything & ~kinks).any())


@pytest.mark.parametrize("curves", (True, False))
def test_what_may_not_be_split_is_not(monkeypatch, curves):
    """All of the network are curves: without them nothing is split, and what is open stays so."""
    split, seen = neurons.split, []
    monkeypatch.setattr(neurons, "split", lambda *a: (seen.append(1), split(*a))[1])
    c = settings(rounds=3, attack="none", batch=64)
    c = replace(c, branching=replace(c.branching, neurons="gap", curves=curves, cache=False))
    outcome = search(random_dense(np.random.default_rng(1), (3, 6, 6, 1), "Tanh"), hard(), c, refuse, kind=NeuronSearch)
    assert outcome.verdict == Verdict.UNKNOWN and bool(seen) == curves


def hard(lack: float = -0.3):
    """Asks for an output that the network of the tests around here does not have, but its root bounds allow."""
    return query(3, 1, [(-np.ones(3), np.ones(3))], [(0, [({3: 1.0}, lack)])])


@pytest.mark.parametrize("how", ("middle", "tables", "auto"))
def test_the_settings_reach_the_points(monkeypatch, tmp_path, how):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    made = []
    monkeypatch.setattr(neurons, "Points", lambda *a: (made.append(Points(*a)), made[-1])[1])
    for cache in (True, False):
        c = settings(rounds=2, attack="none", batch=64)
        c = replace(c, branching=replace(c.branching, points=how, cache=cache))
        search(random_dense(np.random.default_rng(1), (3, 6, 6, 1), "Tanh"), hard(), c, refuse, kind=NeuronSearch)
        used = [t for t in made[-1].tables.values() if t is not None]
        assert made[-1].how == how and bool(used) == (how == "tables")  # a Tanh bends both ways
        assert made[-1].store == (Store.of_user() if cache else Store())
        assert 0 < made[-1].patience() <= 1.0  # a small part of the twenty seconds
    assert not list(tmp_path.rglob("*"))  # the table comes with the package


def test_a_limit_of_one_round_is_the_root_alone_with_its_bounds_tightened(monkeypatch):
    monkeypatch.setattr(neurons, "split", None)
    tightened, calls = neurons.tightened, []
    monkeypatch.setattr(neurons, "tightened", lambda *a: (calls.append(1), tightened(*a))[1])
    c = settings(rounds=1, attack="none")
    network = random_dense(np.random.default_rng(1), (3, 6, 6, 1), "Tanh")
    open_still = search(network, hard(), c, refuse, kind=NeuronSearch)
    assert open_still.verdict == Verdict.UNKNOWN and "max_rounds" in open_still.reason
    assert open_still.stats["domains"] == 1 and open_still.stats["rounds"] == 0 and calls == [1]
    assert search(network, hard(50.0), c, refuse, kind=NeuronSearch).verdict == Verdict.UNSAT


def test_tables_are_looked_for_only_where_a_curve_is_split(monkeypatch):
    monkeypatch.setattr(Store, "levels", None)
    c = settings(rounds=4, attack="none", batch=64)
    network = random_dense(np.random.default_rng(1), (3, 6, 6, 1), "Relu")
    assert search(network, hard(), c, refuse, kind=NeuronSearch).stats["rounds"] >= 1


@pytest.mark.parametrize("seed", range(10))
def test_all_who_read_a_value_have_a_say_in_where_it_is_split(seed):
    b = planted(random_products(np.random.default_rng(seed)))
    r = b.relaxation
    for c in range(r.width):
        steps = {s.step for s in r.readers if bool((r.kin.first[s.cut] == c).any())}
        if all(k in r.sites and r.sites[k].convex for k in steps):
            assert int(b.rule_of[c]) == -1
        else:
            assert b.rules[b.rule_of[c]] == rule(tuple(r.program.steps[k].op for k in sorted(steps)))


def test_split_points_of_many_columns_take_no_objects_of_their_own():
    s, n = Sketch(2), 50_000
    z = s.linear("t", np.ones((2, n)))
    s.linear(s.add("Mul", (s.function(z, "Relu"), s.function(z, "Tanh"))), np.ones((n, 1)))
    b = planted(s.network())
    assert b.relaxation.width == 4 * n
    tracemalloc.start()
    b._rules()
    most = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert most < n
