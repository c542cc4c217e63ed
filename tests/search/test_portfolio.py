"""Of two searches the one that gets on is run; the answer is one member's own."""

from __future__ import annotations

import time

import numpy as np
import pytest
import torch
from handmade import random_dense
from hypothesis import given
from hypothesis import settings as examples
from hypothesis import strategies as st
from queries import query, refuse, search, settings
from test_whole_searches import planted

from verifier.bounds.program import Program
from verifier.events import Deadline, silent
from verifier.result import Verdict
from verifier.search import portfolio
from verifier.search.bab import Outcome, Search
from verifier.search.neurons import NeuronSearch
from verifier.search.portfolio import Portfolio


class Played:
    """A search that closes `speed` of its tree a second and ends with `verdict`."""

    def __init__(self, speed: float, verdict: Verdict = Verdict.UNSAT):
        self.speed, self.verdict = speed, verdict
        self.spent, self.done, self.witness = 0.0, False, None

    def rounds(self):
        while self.open_share() > 0:
            time.sleep(0.002)
            self.spent += 0.002
            yield
        self.done = True
        self.witness = "a witness" if self.verdict == Verdict.SAT else None

    def open_share(self) -> float:
        return max(0.0, 1 - self.speed * self.spent)

    def outcome(self) -> Outcome:
        verdict = self.verdict if self.done else Verdict.TIMEOUT
        return Outcome(verdict, f"{verdict} at {self.speed:g}", self.witness, {"own": self.spent}, {"rounds": 1})


def play(first: Played, second: Played, seconds: float = 2.0, told=silent) -> Outcome:
    return Portfolio({"one": first, "two": second}, Deadline.after(seconds), told).run()


def test_one_that_gets_on_is_left_alone():
    one, two = Played(5.0), Played(50.0)
    out = play(one, two)
    assert out.verdict == Verdict.UNSAT and out.reason == "unsat at 5" and two.spent == 0


def test_one_that_stalls_makes_room():
    one, two, told = Played(0.0), Played(3.0, Verdict.SAT), []
    out = play(one, two, told=told.append)
    assert out.verdict == Verdict.SAT and out.witness == "a witness"
    assert [e.text for e in told] == ["now two"] and told[0].figures == {"closed by one": 0.0}
    assert out.seconds["own"] == pytest.approx(one.spent + two.spent) and out.stats["rounds"] == 2


def test_one_that_stalls_makes_room_without_a_deadline(monkeypatch):
    monkeypatch.setattr(portfolio, "PROBE_SECONDS", 0.05)
    out = Portfolio({"one": Played(0.0), "two": Played(9.0)}, Deadline(), silent).run()
    assert out.verdict == Verdict.UNSAT


class Stuck(Played):
    """One that closes nearly all of its tree at once, and the rest never."""

    def open_share(self) -> float:
        return max(1e-3, 1 - 1e3 * self.spent)


@pytest.mark.parametrize("first", (True, False))
def test_no_promise_is_trusted_for_long(first, monkeypatch):
    monkeypatch.setattr(portfolio, "PROBE_SECONDS", 0.02)
    stuck, slow = Stuck(0.0), Played(4.0)
    out = play(stuck, slow, 30.0) if first else play(slow, stuck, 30.0)
    assert out.reason == "unsat at 4" and stuck.spent < 5 * (slow.spent + 0.1)


def test_the_quicker_goes_on():
    one, two = Played(0.3), Played(0.9)
    out = play(one, two)
    assert out.reason == "unsat at 0.9" and one.spent < 0.5


def test_both_get_their_turns_while_neither_gets_on():
    one, two = Played(0.0), Played(0.0)
    out = play(one, two, 1.0)
    assert out.verdict == Verdict.TIMEOUT and "; before, " in out.reason
    assert min(one.spent, two.spent) > 0.15


def test_one_that_gives_up_leaves_the_rest_to_the_other():
    assert play(Played(20.0, Verdict.UNKNOWN), Played(2.0)).verdict == Verdict.UNSAT
    assert play(Played(20.0, Verdict.UNKNOWN), Played(20.0, Verdict.UNKNOWN)).verdict == Verdict.UNKNOWN


class Both:
    """The real members, with slices of a few rounds."""

    def __init__(self, parts, config, deadline, listener):
        members = {"input": Search, "neurons": NeuronSearch}
        members = {n: kind(parts, config, deadline, listener) for n, kind in members.items()}
        self.members = tuple(members.values())
        self.portfolio = Portfolio(members, deadline, listener)

    def run(self) -> Outcome:
        return self.portfolio.run()


@examples(max_examples=15, deadline=None, derandomize=True)
@given(seed=st.integers(0, 2**31))
def test_a_planted_counterexample_is_never_denied(seed):
    network, q, x, y = planted(seed)
    kept, portfolio.PROBE = portfolio.PROBE, 1e-3
    try:
        outcome = search(network, q, settings(rounds=8, attack="none"), refuse, torch.float64, 1.0, kind=Both)
    finally:
        portfolio.PROBE = kept
    assert outcome.verdict in (Verdict.UNKNOWN, Verdict.TIMEOUT) and outcome.witness is None


def test_shares_shrink_to_nothing_where_all_is_refuted():
    rng = np.random.default_rng(3)
    network = random_dense(rng, (3, 16, 16, 1))
    x = torch.from_numpy(rng.uniform(-1, 2, (20000, 3)))
    const = 0.02 - float(Program(network, torch.float64, "cpu").forward(x).min())
    q = query(3, 1, [([-1.0] * 3, [1.0] * 3), ([1.0] * 3, [2.0] * 3)], [(r, [({3: 1.0}, const)]) for r in (0, 1)])
    for kind in (Search, NeuronSearch):
        shares = []

        class Watched(kind):
            def rounds(self, shares=shares, kind=kind):
                for _ in kind.rounds(self):
                    shares.append(self.open_share())
                    yield
                shares.append(self.open_share())

        outcome = search(network, q, settings(attack="none", batch=4), refuse, torch.float64, 20.0, kind=Watched)
        assert outcome.verdict == Verdict.UNSAT and shares[-1] == 0
        assert all(0 <= s <= 1 for s in shares) and len(shares) > 3
        if kind is Search:  # neurons are split anew once their boxes are tightened
            assert all(b <= a + 1e-12 for a, b in zip(shares, shares[1:]))
