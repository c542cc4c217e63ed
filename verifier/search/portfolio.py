"""Two ways to split, when facts do not tell which is quicker: short probes first, then the one that gets further.

The members are whole searches of one problem, paused and resumed between rounds. The first runs alone for a while, and
for a few times as long where what it has closed says that it will be through in time. Then the second has its turn.
From then on the one that is expected to be through sooner runs, for ever longer slices; while neither has closed
anything to speak of, they take turns. A member that ends with cases that it cannot split leaves the rest of the time to
the other.

What a member has closed is a share of its own tree (`Search.open_share`): a share c after t seconds is taken to mean
t (1 - c) / c more. That may be far off: easy parts of a tree close first, and what is left may go on for ever. So no
promise is trusted for long: every member that has work left gets a part of the time, whatever the other promises, and
an instance that one of them decides in t seconds takes at most about t / `LEAST`, or a few first slices.

Sound: every member alone decides the whole problem; the answer is that of the first to have one.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from verifier.events import Deadline, Event, Listener
from verifier.result import Verdict
from verifier.search.bab import Outcome, Search

PROBE = 0.06  # of the time left, at most PROBE_SECONDS: the first slice
PROBE_SECONDS = 10.0
TELLING = 0.02  # a share closed that says something
ALONE = 4  # first slices after which the second gets its turn, however well the first gets on
LEAST = 0.2  # of the time, for every member that has begun and is not through


@dataclass
class Member:
    """A search on its way: `spent` seconds; `over` when it has no more to do."""

    name: str
    search: Search
    steps: Iterator[None]
    spent: float = 0.0
    over: bool = False

    def run(self, until: Deadline) -> None:
        """Goes on until then, or a round longer."""
        begin = time.monotonic()
        while not self.over and not until.passed():
            self.over = next(self.steps, self) is self
        self.spent += time.monotonic() - begin

    @property
    def answered(self) -> bool:
        return self.search.witness is not None or (self.over and self.search.outcome().verdict == Verdict.UNSAT)

    def closed(self) -> float:
        return max(0.0, 1.0 - self.search.open_share())

    def needs(self) -> float:
        """Seconds until it is through, as far as one can say."""
        closed = self.closed()
        return self.spent * (1 - closed) / closed if closed >= TELLING else float("inf")


class Portfolio:
    """Runs members, the first named first, until one has an answer."""

    def __init__(self, members: Mapping[str, Search], deadline: Deadline, listener: Listener):
        self.members = [Member(name, search, search.rounds()) for name, search in members.items()]
        self.deadline, self.listener = deadline, listener

    def run(self) -> Outcome:
        """The outcome of the first member that has an answer; else of the one that ran last."""
        probe = min(PROBE_SECONDS, PROBE * self.deadline.left())
        member = self.members[0]
        while True:
            member.run(self.deadline.sooner(max(probe, member.spent)))
            alive = [m for m in self.members if not m.over]
            if member.answered or not alive or self.deadline.passed():
                return self._outcome(member)
            member = self._next(member, alive, probe)

    def _next(self, last: Member, alive: list[Member], probe: float) -> Member:
        """Who runs now."""
        fresh, tried = [m for m in alive if not m.spent], [m for m in alive if m.spent]
        promising = last.needs() < self.deadline.left() and last.spent < ALONE * probe  # both may be infinite
        if fresh and (last.over or not promising):
            chosen = fresh[0]
        else:
            chosen = min(tried, key=lambda m: m.spent)
            if chosen.spent >= LEAST * sum(m.spent for m in self.members):
                chosen = min(tried, key=lambda m: (m.needs(), m.spent))
        if chosen is not last:
            facts = {f"closed by {m.name}": round(m.closed(), 4) for m in self.members if m.spent}
            self.listener(Event("search", f"now {chosen.name}", facts))
        return chosen

    def _outcome(self, last: Member) -> Outcome:
        """With the seconds and counts of all."""
        out = last.search.outcome()
        for m in self.members:
            if m is not last and m.spent:
                other = m.search.outcome()
                for mine, theirs in ((out.seconds, other.seconds), (out.stats, other.stats)):
                    for name, value in theirs.items():
                        mine[name] = mine.get(name, 0) + value
                if out.verdict not in (Verdict.SAT, Verdict.UNSAT):
                    out.reason += f"; before, {m.name}: {other.reason}"
        return out
