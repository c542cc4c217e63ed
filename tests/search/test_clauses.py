"""Learning from refuted cases: what is learned is true, applied exactly, and prunes."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from handmade import dense, random_branches, random_dense
from hypothesis import given
from hypothesis import settings as examples
from hypothesis import strategies as st
from queries import query, refuse, search, settings
from test_whole_searches import outputs

from verifier.bounds.certify import Certifier
from verifier.bounds.crown import crown_trace
from verifier.bounds.dual import Settings, optimise
from verifier.bounds.program import Program
from verifier.bounds.relaxation import Multipliers, Relaxation, Splits, Start
from verifier.bounds.tighten import tightened
from verifier.result import Verdict
from verifier.search import clauses as module
from verifier.search import neurons
from verifier.search.cases import Cases
from verifier.search.clauses import Clauses, Learned, explain
from verifier.search.neurons import NeuronSearch

POINTS = (-0.5, 0.0, 0.5)


def cases(slot: torch.Tensor, splits: Splits) -> Cases:
    n, empty = len(slot), splits.point.new_zeros((len(slot), 0))
    score = torch.zeros(n, dtype=torch.float64)
    prefer = torch.arange(n).unsqueeze(1)  # tells cases apart
    beta = torch.rand_like(splits.point)
    return Cases(slot, splits.column, splits.sign, splits.point, empty, empty, beta, empty, score, prefer, empty)


def random_splits(rng: np.random.Generator, n: int, width: int, columns: int, points=POINTS) -> Splits:
    column = torch.from_numpy(rng.integers(-1, columns, (n, width)))
    sign = torch.from_numpy(rng.choice([-1.0, 1.0], column.shape)).float()
    return Splits(column, sign, torch.from_numpy(rng.choice(points, column.shape)).float())


def told(splits: Splits, i: int) -> list[tuple[int, float, float]]:
    """The splits of case i as (column, sign, sign point)."""
    rows = zip(splits.column[i].tolist(), splits.sign[i].tolist(), splits.point[i].tolist())
    return [(c, s, s * p) for c, s, p in rows if c >= 0]


def true_at(splits: Splits, z: torch.Tensor) -> torch.Tensor:
    """(N,): whether all splits hold where the columns have values z (K,), to within rounding."""
    room = splits.sign * (z[splits.column.clamp(min=0)] - splits.point)
    return ((room >= -1e-9) | (splits.column < 0)).all(1)


def stored(kept: Clauses) -> Splits:
    """The clauses as splits."""
    sign = 2.0 * (kept.key & 1) - 1.0
    return Splits(torch.where(kept.key < 0, -1, kept.key >> 1), sign, torch.where(kept.key < 0, 0.0, sign * kept.bar))


@examples(max_examples=50, deadline=None, derandomize=True)
@given(seed=st.integers(0, 2**31))
def test_clauses_apply_exactly_where_their_literals_hold(seed):
    """Against the definition, literal by literal."""
    rng = np.random.default_rng(seed)
    columns, m, n = int(rng.integers(1, 6)), int(rng.integers(1, 12)), 12
    learned = Learned(torch.from_numpy(rng.integers(0, 2, m)), random_splits(rng, m, 3, columns))
    kept = Clauses({})
    for part in (slice(0, m // 2), slice(m // 2, m)):
        kept.add(Learned(learned.slot[part], learned.splits.take(part)))
    slot, splits = torch.from_numpy(rng.integers(0, 2, n)), random_splits(rng, n, 4, columns)
    refuted, unit = kept.judge(slot, splits)
    assert len(kept) <= m
    for i in range(n):
        mine = told(splits, i)
        holds = lambda c, s, bar, mine=mine: any(d == c and t == s and other >= bar for d, t, other in mine)
        clauses = [told(learned.splits, k) for k in range(m) if learned.slot[k] == slot[i]]
        open = [{(c, s) for c, s, bar in clause if not holds(c, s, bar)} for clause in clauses]
        assert bool(refuted[i]) == (set() in open)
        if not refuted[i]:  # the strictest literal of the one column and sign that does not hold
            pairs = [(*next(iter(o)), clause) for o, clause in zip(open, clauses) if len(o) == 1]
            may = {(c, s, max(bar for d, t, bar in clause if (d, t) == (c, s))) for c, s, clause in pairs}
            may = {(c, s, bar) for c, s, bar in may if not holds(c, -s, -bar)}
            assert (int(unit[i]) >= 0) == bool(may)
            if may:
                key, bar = int(kept.names[unit[i]]), float(kept.bars[unit[i]])
                assert (key >> 1, 1.0 if key & 1 else -1.0, bar) in may


@examples(max_examples=50, deadline=None, derandomize=True)
@given(seed=st.integers(0, 2**31))
def test_a_planted_point_stays_where_it_is(seed):
    """Values that no clause forbids: every case that has them stays open and keeps them, whatever is implied."""
    rng = np.random.default_rng(seed)
    columns, m, n = int(rng.integers(2, 7)), 40, 25
    z = torch.from_numpy(rng.choice([-1.0, -0.5, -0.25, 0.0, 0.25, 0.5, 1.0], columns)).float()
    splits = random_splits(rng, m, 3, columns)
    slot = torch.from_numpy(rng.integers(0, 3, m))
    fine = ~true_at(splits, z) | (slot != 1)
    kept = Clauses({}, most=int(rng.integers(1, 50)))
    kept.add(Learned(slot[fine], splits.take(fine)))
    mine = random_splits(rng, n, 5, columns)
    mine.sign = torch.where(z[mine.column.clamp(min=0)] >= mine.point, 1.0, -1.0)
    old, module.CELLS = module.CELLS, int(rng.choice([200, 1 << 22]))
    try:
        left = kept.reduce(cases(torch.ones(n, dtype=torch.int64), mine))
    finally:
        module.CELLS = old
    assert sorted(left.prefer[:, 0].tolist()) == list(range(n))
    assert bool(true_at(left.splits, z).all())
    before = (mine.column >= 0).sum(1)[left.prefer[:, 0]]
    added = (left.column >= 0).sum(1) - before
    assert bool((added >= 0).all()) and int(added.sum()) == kept.stats["implied splits"]


def columns_at(r: Relaxation, network, x: np.ndarray) -> torch.Tensor:
    """Values of the columns (K,) at an input."""
    fine = Program(network, torch.float64, "cpu")
    values = {0: torch.from_numpy(np.asarray(x, float))[None]}
    for k in range(1, len(fine.steps)):
        values[k] = fine.steps[k].op.forward(*(values[i] for i in fine.steps[k].inputs))
    z = torch.zeros(r.width, dtype=torch.float64)
    for site in r.sites.values():
        flat = values[site.value].flatten()
        z[site.cut] = flat if site.index is None else flat[site.index]
    return z


def planted(seed: int):
    """One region and one disjunct that holds at x, with next to no room."""
    rng = np.random.default_rng(seed)
    kind = str(rng.choice(("Relu", "Relu", "LeakyRelu", "Abs", "Tanh", "Clip")))
    network = random_branches(rng, [kind]) if seed % 4 == 3 else random_dense(rng, (3, 8, 8, 3), kind)
    m, p = network.n_inputs, network.n_outputs
    centre = rng.normal(size=m).astype(np.float32).astype(float)
    x = centre + rng.integers(-8, 9, m) / 8.0
    y = outputs(network, x)[0]
    rows = []
    for _ in range(2):
        c = rng.normal(size=p)
        rows.append(({m + j: float(c[j]) for j in range(p)}, float(-(c @ y) - 1e-9 * (1 + np.abs(c) @ np.abs(y)))))
    return network, query(m, p, [(centre - 1, centre + 1)], [(0, rows)]), x


class Watched(NeuronSearch):
    """Counts clauses that are wrong about a planted counterexample, and rounds that drop all cases which hold it."""

    point: np.ndarray
    learned = lies = lost = 0

    def _plant(self, trace, root):
        self.z = None
        bounder = super()._plant(trace, root)
        if bounder is not None:  # tightened boxes have other columns
            self.z = columns_at(bounder.relaxation, self.parts.problem.network, self.point)
        return bounder

    def _holding(self) -> int:
        held = self.cases.held
        return 0 if held is None else int(true_at(held.splits, self.z).sum())

    def _round_of(self, bounder, root):
        before, set_aside = self._holding(), self.unsplittable
        super()._round_of(bounder, root)
        Watched.lost += before > 0 and not self._holding() and self.unsplittable == set_aside
        if len(self.clauses):
            Watched.learned += len(self.clauses)
            Watched.lies += int(true_at(stored(self.clauses), self.z).sum())


def watch(seeds) -> bool:
    """Whether searches for planted counterexamples that are never confirmed go wrong."""
    Watched.learned = Watched.lies = Watched.lost = 0
    for seed in seeds:
        network, q, Watched.point = planted(seed)
        c = settings(rounds=20, attack="none", batch=32)
        dtype = torch.float64 if seed % 3 == 0 else torch.float32
        outcome = search(network, q, c, refuse, dtype, 2.0, trusted=seed % 5 > 0, kind=Watched)
        if outcome.verdict == Verdict.UNSAT or Watched.lies or Watched.lost:
            return True
    return False


def test_no_clause_denies_a_planted_counterexample(monkeypatch):
    monkeypatch.setattr(neurons, "FIRST_LOOK", 0.05)  # so that clauses move to tightened boxes as well
    assert not watch(range(12))
    assert Watched.learned > 20


@pytest.mark.parametrize("how", ("not proved again", pytest.param("negation not negated", marks=pytest.mark.slow)))
def test_learning_that_goes_wrong_is_noticed(how, monkeypatch):
    if how == "negation not negated":
        right = Clauses._implied
        turned = lambda old, new: torch.where(old.column == new.column, new.sign, -new.sign)
        wrong = lambda self, c, unit: (
            (n := right(self, c, unit)) and replace(n, sign=turned(c.padded(n.column.shape[1]), n))
        )
        monkeypatch.setattr(Clauses, "_implied", wrong)
    else:
        monkeypatch.setattr(module, "refutes", lambda certifier, rows, splits, m: torch.ones(len(m.beta)) > 0)
        monkeypatch.setattr(module, "SHARES", (50.0, 10.0))
        monkeypatch.setattr(module.Pass, "backward", lambda *a, f=module.Pass.backward: f(*a).abs() + 1.0)
    assert watch(range(30))


# --- explaining


def refuted():
    """A case with a split that refutes it and one of a neuron, column `idle`, that has a say in nothing.

    Returns the relaxation, its certifier, what `explain` takes, and both columns.
    """
    rng = np.random.default_rng(4)
    sizes = (4, 7, 6, 1)
    weights = [rng.normal(size=p) / np.sqrt(p[0]) for p in zip(sizes[:-1], sizes[1:])]
    weights[0][3], weights[0][:, 0], weights[1][0] = 0.0, 0.0, 0.0
    weights[0][3, 0] = 1.0
    biases = [0.2 * rng.normal(size=n) for n in sizes[1:]]
    biases[0][0] = 0.125
    program = Program(dense(weights, biases), torch.float64, "cpu")
    box = torch.ones((1, 4), dtype=torch.float64)
    r = Relaxation(crown_trace(program, -box, box, 1 << 26))
    first = min(r.sites.values(), key=lambda s: s.step)
    idle = first.cut.start + (0 if first.index is None else int(torch.nonzero(first.index == 0)))
    able = [c for c in torch.nonzero(r.splittable).squeeze(1).tolist() if c != idle]
    best = bound(r, [[(idle, 1.0), (c, s)] for c in able for s in (1.0, -1.0)], 0.0).lb
    without, k = float(bound(r, [[(idle, 1.0)]], 0.0).lb), int(best.argmax())
    const = -(without + float(best[k])) / 2
    telling = (able[k // 2], 1.0 - 2.0 * (k % 2))
    found = bound(r, [[(idle, 1.0), telling]], const)
    assert float(found.lb) > 0 > without + const
    start, splits = asked(r, [[(idle, 1.0), telling]], const)
    return r, Certifier(r, program), (start, splits, found), idle, telling


def asked(r: Relaxation, cases: list[list[tuple[int, float]]], const: float) -> tuple[Start, Splits]:
    n, one = len(cases), r.alpha.new_ones((len(cases), 1))
    column = torch.tensor([[c for c, _ in case] for case in cases])
    sign = torch.tensor([[s for _, s in case] for case in cases], dtype=r.alpha.dtype)
    start = Start(r.program.output, rows=one.view(n, 1, 1), const=const * one)
    return start, Splits(column, sign, torch.zeros_like(sign))


def bound(r: Relaxation, cases: list[list[tuple[int, float]]], const: float):
    start, splits = asked(r, cases, const)
    n, one = len(cases), r.alpha.new_ones((len(cases), 1))
    m = Multipliers(r.alpha.expand(n, -1).clone(), one[:, :0], torch.zeros_like(splits.sign), one)
    return optimise(r, start, splits, m, Settings(steps=40))


def explained(certifier: Certifier | None = None) -> Learned:
    r, own, (start, splits, found), _, _ = refuted()
    slot, rows = (
        torch.zeros(1, dtype=torch.int64),
        (start.rows, start.const, torch.zeros_like(start.const, dtype=torch.bool)),
    )
    return explain(r, certifier or own, rows, slot, splits, found, start)


def test_a_clause_leaves_out_what_has_no_say_and_prunes_by_it():
    r, _, _, idle, (column, sign) = refuted()
    learned = explained()
    assert told(learned.splits, 0) == [(column, sign, 0.0)] and learned.tried == 1
    kept = Clauses({})
    kept.add(learned)
    rows = [[(idle, -1.0), (column, sign)], [(idle, -1.0), (-1, 0.0)], [(column, -sign), (-1, 0.0)]]
    _, splits = asked(r, rows, 0.0)
    left = kept.reduce(cases(torch.zeros(3, dtype=torch.int64), splits))
    after = {int(name): {(c, s) for c, s, _ in told(left.splits, i)} for i, name in enumerate(left.prefer[:, 0])}
    assert after == {1: {(idle, -1.0), (column, -sign)}, 2: {(column, -sign)}}
    assert kept.stats["pruned by clauses"] == kept.stats["implied splits"] == 1
    other = kept.reduce(cases(torch.ones(3, dtype=torch.int64), splits))
    assert sorted(told(other.splits, i) for i in range(len(other))) == sorted(told(splits, i) for i in range(3))


class Never:
    """A certifier that proves nothing."""

    @staticmethod
    def bounds(rows, const, splits, m):
        return torch.full((len(rows),), -1e-30, dtype=torch.float64)


def test_what_is_not_proved_again_is_not_learned():
    assert len(explained().slot) == 1 and not len(explained(Never()).slot)


@pytest.mark.parametrize("kind", ("Relu", "Tanh"))
def test_clauses_say_the_same_on_new_boxes(kind):
    """At every point of the region, each clause that is taken along; of one left out, some literal holds nowhere."""
    seen = moved = 0
    for seed in range(4):
        rng = np.random.default_rng(seed)
        network = random_dense(rng, (3, 10, 10, 10, 2), kind)
        program = Program(network, torch.float32, "cpu")
        centre = torch.from_numpy(rng.normal(size=(1, 3))).float()
        trace = crown_trace(program, centre - 0.5, centre + 0.5, 1 << 26)
        old, new = Relaxation(trace), Relaxation(tightened(trace, 1 << 26, 5.0))
        splits = random_splits(rng, 60, 3, old.width)
        if kind == "Relu":
            splits.point.zero_()
        kept = Clauses({})
        kept.add(Learned(torch.arange(60), splits))
        before = {int(s): Splits(*(t[i : i + 1] for t in vars(stored(kept)).values())) for i, s in enumerate(kept.slot)}
        kept.moved(old, new)
        seen, moved = seen + len(before), moved + len(kept)
        after = {int(s): Splits(*(t[i : i + 1] for t in vars(stored(kept)).values())) for i, s in enumerate(kept.slot)}
        for x in centre.numpy()[0] + rng.uniform(-0.5, 0.5, (60, 3)):
            z_old, z_new = columns_at(old, network, x), columns_at(new, network, x)
            for slot, clause in before.items():
                mine = after.get(slot)
                assert bool(true_at(clause, z_old)) == (mine is not None and bool(true_at(mine, z_new)))
    assert 0.3 * seen < moved <= seen


def test_explaining_stops_where_it_saves_nothing_and_goes_on_where_it_does():
    kept = Clauses({})
    kept.stats["cases explained"] = int(module.GRACE / module.COST) + 1
    assert not kept.pay()
    kept.stats["pruned by clauses"] = 1
    assert kept.pay()
