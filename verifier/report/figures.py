"""What a report counts: plain numbers from records, and nothing about how they are shown.

The rules are those that competitions score by. *Solved*: sat or unsat, within the timeout, and not wrong. *Wrong*:
`unsat` where `sat` is published, or `sat` without a counterexample where `unsat` is published. A `sat` with a
counterexample against a published `unsat` is no error of the run, since every counterexample was replayed before it
was written; it is listed as refuting what is published. *PAR2*: the seconds of what is solved, and twice the timeout
for everything else. *Newly solved*: solved, and not decided by what is published.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from verifier.report.records import DECIDED, Record, Run, find

TOTAL = "total"


@dataclass(frozen=True)
class Judged:
    """A record, what is published of its instance (or None), and what follows from the two."""

    record: Record
    published: Record | None

    @property
    def contradicts(self) -> bool:
        return self.published is not None and {self.record.verdict, self.published.verdict} == set(DECIDED)

    @property
    def wrong(self) -> bool:
        return self.contradicts and not (self.record.verdict == "sat" and self.record.counterexample)

    @property
    def solved(self) -> bool:
        return self.record.decided and not self.wrong

    @property
    def new(self) -> bool:
        return self.solved and self.published is not None and self.published.verdict not in DECIDED

    @property
    def par2(self) -> float:
        return self.record.seconds if self.solved else 2 * self.record.timeout

    @property
    def why(self) -> str:
        """Why it is not solved, in words."""
        r = self.record
        if self.wrong:
            return f"wrong: {r.verdict}, but {self.published.verdict} is published"
        if r.verdict in DECIDED:
            return f"{r.verdict}, but late: {r.seconds:.1f} s of {r.timeout:g} s"
        return r.reason or "no reason given"


@dataclass
class Line:
    """A line of the table by benchmark."""

    suite: str
    n: int = 0
    solved: int = 0
    sat: int = 0
    unsat: int = 0
    wrong: int = 0
    new: int = 0
    known: int = 0  # how many have a published entry
    par2: float = 0.0
    other: Counter = field(default_factory=Counter)  # the verdicts of what is not solved

    def add(self, j: Judged) -> None:
        self.n += 1
        self.solved += j.solved
        self.sat += j.solved and j.record.verdict == "sat"
        self.unsat += j.solved and j.record.verdict == "unsat"
        self.wrong += j.wrong
        self.new += j.new
        self.known += j.published is not None
        self.par2 += j.par2
        if not j.solved:
            self.other["wrong" if j.wrong else "late" if j.record.verdict in DECIDED else j.record.verdict] += 1


def judge(run: Run, published: Run | None) -> list[Judged]:
    table = published.by_key() if published else {}
    return [Judged(r, find(table, r.key)) for r in run.records]


def by_suite(judged: Iterable[Judged]) -> list[Line]:
    """The lines of the table by benchmark, in order of name, the total last."""
    lines: dict[str, Line] = {}
    total = Line(TOTAL)
    for j in judged:
        lines.setdefault(j.record.group, Line(j.record.group)).add(j)
        total.add(j)
    return [*(lines[name] for name in sorted(lines)), total]


def solved_times(judged: Iterable[Judged]) -> list[float]:
    """Seconds of what is solved, ascending: the curve of a cactus plot."""
    return sorted(j.record.seconds for j in judged if j.solved)


def stage_times(judged: Iterable[Judged]) -> tuple[list[str], dict[str, dict[str, float]]]:
    """(stages, most costly first, idle ones left out; suite -> stage -> seconds).

    What no stage accounts for is under `other`.
    """
    table: dict[str, dict[str, float]] = {}
    total: Counter = Counter()
    for r in (j.record for j in judged):
        parts = dict(r.stages)
        parts["other"] = max(0.0, r.seconds - sum(parts.values()))
        for stage, seconds in parts.items():
            row = table.setdefault(r.group, {})
            row[stage] = row.get(stage, 0.0) + seconds
            total[stage] += seconds
    spent = sorted(((s, t) for s, t in total.items() if t > 0), key=lambda p: (-p[1], p[0]))
    return [s for s, _ in spent], table


def pairs(run: Sequence[Judged], other: Run) -> list[tuple[Judged, Record]]:
    """The instances that both have."""
    table = other.by_key()
    both = ((j, find(table, j.record.key)) for j in run)
    return [(j, r) for j, r in both if r is not None]


def slowest(judged: Iterable[Judged], n: int) -> list[Judged]:
    return sorted((j for j in judged if j.solved), key=lambda j: -j.record.seconds)[:n]


def with_bounds(judged: Iterable[Judged], chosen: Sequence[str], n: int) -> list[Record]:
    """The records with bounds over time: those chosen by name (`suite/index`), or the `n` that took longest of those
    where there is a course to see.
    """
    found = [j.record for j in judged if j.record.bounds]
    if chosen:
        return [r for r in found if r.name in chosen]
    return sorted((r for r in found if len(r.bounds) > 1), key=lambda r: -r.seconds)[:n]
