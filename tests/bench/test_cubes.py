"""The near end's account of cubes: `unsat` only where refuted cubes cover everything, whatever workers answer."""

from __future__ import annotations

import random
from collections import Counter
from types import SimpleNamespace

import numpy as np
import pytest

from verifier import settings
from verifier.bench import cubes
from verifier.bench.cubes import Conquest, Cube, restricted
from verifier.bench.jobs import Job, Outcome
from verifier.config import Config
from verifier.events import Deadline, silent
from verifier.problem import Problem
from verifier.result import FileError
from verifier.rowtables import Coefficients

HOW = ("lost", "memory", "deadline", "cancelled")


def cut(cube: Cube, problem, config, count: int) -> list[Cube]:
    """Parts of an interval; now and then it cannot be cut."""
    l, u = cube.box.get(0, (0.0, 1.0))
    if u - l < 1 / 64 or random.random() < 0.1:
        return []
    n = random.choice([2, 4])
    return [Cube(0, 1, {0: (l + (u - l) * k / n, l + (u - l) * (k + 1) / n)}, cube) for k in range(n)]


class Engine:
    """Workers that answer in any order, and fail in every way; cubes that hold `bad` are never refuted."""

    def __init__(self, bad: float | None):
        self.jobs: dict[int, Job] = {}
        self.count, self.bad, self.refuted = random.choice([1, 2, 3, 5]), bad, []

    def slots(self) -> int:
        return self.count

    def start(self, job: Job) -> None:
        assert job.id not in self.jobs
        self.jobs[job.id] = job

    def cancel(self, id: int) -> None:
        self.jobs.pop(id, None)

    def poll(self, seconds: float):
        found = []
        for id in random.sample(list(self.jobs), min(len(self.jobs), random.randint(0, 3))):
            l, u = (self.jobs.pop(id).more["box"] or [[0, 0, 1]])[0][1:]
            hard = self.bad is not None and l <= self.bad <= u
            said = {"verdict": "unknown", "reason": random.choice(["", "stuck"])}
            if random.random() < (0.5 if hard else 0.15):
                other = [{"verdict": "timeout", "reason": ""}, {"verdict": "unknown", "reason": "out of memory"}, said]
                outcome = random.choice(
                    [Outcome(id, h, 0) for h in HOW] + [Outcome(id, "answer", 0, "", o) for o in other]
                )
            elif hard:
                outcome = Outcome(id, "answer", 0, "", said)
            else:
                outcome = Outcome(id, "answer", 0, "", {"verdict": "unsat", "reason": "refuted"})
                self.refuted.append((l, u))
            found.append((id, "done", outcome))
        return found


@pytest.fixture
def played(monkeypatch):
    """A conquest of [0, 1] by an engine of its own."""
    monkeypatch.setattr(cubes, "cut", cut)
    monkeypatch.setattr(cubes, "PATIENCE", 0.0)
    monkeypatch.setattr(cubes, "fingerprint", lambda problem: "mark")
    problem = SimpleNamespace(lower=np.zeros((1, 1)))

    def conquest(engine):
        return Conquest(engine, problem, Job(0, "", "", {}, 10), Config(), Deadline.after(20))

    return conquest


def covered(parts: list[tuple[float, float]]) -> bool:
    end = 0.0
    for l, u in sorted(parts):
        end = max(end, u) if l <= end else end
    return end >= 1


def test_unsat_is_said_only_where_refuted_cubes_cover_everything(played):
    seen = Counter()
    for seed in range(400):
        random.seed(seed)
        engine = Engine(random.choice([None, random.random()]))
        verdict, reason, _ = played(engine).run(silent)
        assert verdict in ("unsat", "unknown") and reason
        assert verdict != "unsat" or (engine.bad is None and covered(engine.refuted))
        seen[verdict] += 1
    assert min(seen["unsat"], seen["unknown"]) > 20


def test_what_cannot_be_cut_is_tried_whole(played, monkeypatch):
    monkeypatch.setattr(cubes, "cut", lambda *words: [])
    random.seed(1)
    engine = Engine(None)
    monkeypatch.setattr(random, "random", lambda: 1.0)
    assert played(engine).run(silent)[0] == "unsat" and engine.refuted == [(0, 1)]


def some_problem(n: int = 3) -> Problem:
    names = ("lower", "upper", "row", "const", "strict", "slot", "slots")
    arrays = {k: np.arange(n, dtype=np.float64)[:, None] for k in names}
    network = SimpleNamespace(nodes=("a",), constants={"w": np.ones(2)})
    return Problem(network, None, np.zeros(1, int), np.zeros(1), coef=Coefficients.of(np.ones((1, 1))), **arrays)


@pytest.mark.parametrize("first, last", [(3, 5), (0, 4), (2, 2), (-1, 1)])
def test_regions_that_are_not_there_are_not_refuted(first, last):
    assert len(restricted(some_problem(), 1, 3, []).lower) == 2
    with pytest.raises(ValueError, match="regions"):
        restricted(some_problem(), first, last, [])


def test_a_cube_of_another_problem_is_not_decided(monkeypatch):
    here, there = some_problem(), some_problem()
    there.network.constants["w"] = np.array([1, 1.0000001])
    assert cubes.fingerprint(here) == cubes.fingerprint(some_problem()) != cubes.fingerprint(there)
    monkeypatch.setattr(cubes.api, "load", lambda *words: SimpleNamespace(problem=there))
    job = Job(0, "m", "p", settings.as_dict(Config()), 1, more={**Cube(0, 1).values(), "mark": cubes.fingerprint(here)})
    with pytest.raises(FileError, match="not the same here"):
        cubes.solve(job, None, Deadline.after(1))
