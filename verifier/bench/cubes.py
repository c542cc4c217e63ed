"""One hard instance on many machines: its input set is cut into cubes, each decided as a problem of its own.

A cube is a range of the problem's regions or, of a single region, a box in it. Cutting a box halves it in some
dimensions; the halves share the middle, so pieces cover what they were cut from, and a cube is refuted when all its
pieces are. The property is unsatisfiable when every cube of a cover is; a counterexample found in any cube is one of
the whole property (it is replayed against that), and ends the run. A cube that is left undecided leaves the whole
undecided.

Balance. At first there are a few cubes for each worker. When workers have nothing left to do, the cube that has been
at work longest is cut, and its pieces go to them *while it goes on*: whichever is done first, the cube or all its
pieces, settles it, and the others are cancelled. So no work that may still be needed is thrown away, and no cube is
cut without end by workers in a hurry. A cube that ran out of memory, or whose worker was lost for good, is settled
by its pieces too.

Where to cut: the branching heuristic's order of dimensions on the cube, from one backward pass; the widest where the
network has no bounds.
"""

from __future__ import annotations

import hashlib
import itertools
import math
import os
import time
from collections import deque
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from verifier import api, guard, settings
from verifier.bench.cluster import Cluster
from verifier.bench.jobs import Job, Notes, Outcome
from verifier.config import Config
from verifier.events import Deadline, Event, Listener
from verifier.evidence.near import NearMisses
from verifier.problem import Problem
from verifier.result import FileError, Result, Verdict

PATIENCE = 2.0  # seconds that a cube may run before it is cut for idle workers
PER_WORKER = 2  # cubes for each worker at the start
LEVELS = 4  # halvings of a cube at a time, at most
POLL = 0.1  # seconds
SENT = 4  # of a cube's nearest misses go back to where the verdict is made
LEAVE = 6.0  # seconds that ending a cluster of our own may take


@dataclass(eq=False)
class Cube:
    """Regions first:last of the problem; for one region `box` holds the ends [l, u] of dimensions that were cut."""

    first: int
    last: int
    box: dict[int, tuple[float, float]] = field(default_factory=dict)
    parent: Cube | None = None
    pieces: list[Cube] = field(default_factory=list)
    begun: float = 0.0
    settled: bool = False
    undecided: str | None = None  # why, where it was settled without being refuted

    def values(self) -> dict[str, Any]:
        return {"first": self.first, "last": self.last, "box": [[d, l, u] for d, (l, u) in self.box.items()]}

    def depth(self) -> int:
        return 0 if self.parent is None else 1 + self.parent.depth()


def restricted(problem: Problem, first: int, last: int, box: list[list[float]]) -> Problem:
    """The problem on regions first:last, and in dimension d only between l and u for each [d, l, u] of `box`."""
    if not 0 <= first < last <= len(problem.lower):
        raise ValueError(f"regions {first}:{last} of a problem of {len(problem.lower)}")
    lower, upper = problem.lower[first:last].copy(), problem.upper[first:last].copy()
    for d, l, u in box:
        lower[:, int(d)], upper[:, int(d)] = l, u
    tables = {name: getattr(problem, name)[first:last] for name in ("row", "const", "strict", "slot", "slots")}
    return replace(problem, lower=lower, upper=upper, **tables)


def fingerprint(problem: Problem) -> str:
    """What tells two problems apart: cubes of one must not be decided on another."""
    mark = hashlib.sha256(repr(problem.network.nodes).encode())
    arrays = {name: getattr(problem, name) for name in ("lower", "upper", "base", "moving", "names")}
    arrays |= {f"coef.{name}": getattr(problem.coef, name) for name in ("start", "column", "value")}
    arrays |= {name: getattr(problem, name) for name in ("row", "const", "strict", "slot", "slots")}
    for name, value in [*arrays.items(), *sorted(problem.network.constants.items())]:
        mark.update(f"{name} {value.dtype} {value.shape}".encode())
        mark.update(np.ascontiguousarray(value).tobytes())
    return mark.hexdigest()


def solve(job: Job, send: guard.Send, deadline: Deadline) -> dict[str, Any]:
    """Decides a cube; the last words of the process that does."""
    seconds: dict[str, float] = {}
    config = settings.from_dict(job.config)
    loaded = api.load(job.model, job.property, seconds, config.model)
    more = dict(job.more)
    if more.pop("mark") != fingerprint(loaded.problem):
        raise FileError(f"{job.model}, {job.property}: not the same here as where the cubes were cut")
    loaded = replace(loaded, problem=restricted(loaded.problem, **more))
    judge, near = api.judge_of(loaded, config), NearMisses()
    result = api.search(loaded, config, Notes(send), deadline, seconds, judge, near)
    points = [point.tolist() for point in near.leaves.points[:SENT]]
    return {**api.last_words(result), "near": [points, near.leaves.gaps[:SENT]]}


def order(problem: Problem, config: Config) -> list[int]:
    """Dimensions of the problem's first box, best to cut first; those too narrow to be halved are left out."""
    import torch

    from verifier.bounds.chunks import bound_rows, limits, out_of_memory
    from verifier.bounds.targets import Targets
    from verifier.branching import HEURISTICS
    from verifier.search.strategy import plan

    l, u = problem.lower[:1], problem.upper[:1]
    score = torch.from_numpy(u - l)[0]
    made = plan(problem, config)
    if not made.unbounded:
        try:
            targets = Targets(made.problem, made.dtype, made.device)
            lower, upper = (torch.from_numpy(e).to(made.device, made.dtype) for e in (l, u))
            region = torch.zeros(1, dtype=torch.int64, device=made.device)
            picked = targets.pick(region, targets.start(region))
            limit = limits(made.device, config.bounds.chunk_mib)
            bounds = bound_rows(made.program, lower, upper, targets.coef, picked.row, "crown", limit)
            lb = bounds.lb.double() + picked.const
            scale = (upper - lower).clamp(min=torch.finfo(made.dtype).tiny)
            heuristic = HEURISTICS.load()[config.branching.method]
            steep = heuristic(lower, upper, scale, bounds.slope, lb, picked, targets.n_slots)[0].double().cpu()
            score = torch.where(torch.isfinite(steep), steep, 0.0) + 1e-9 * score / score.max()
        except (MemoryError, RuntimeError) as e:
            if not out_of_memory(e):
                raise
    wide = torch.from_numpy((u - l)[0] > 1e-6 * abs(l + u)[0])
    return [int(d) for d in torch.argsort(score, descending=True, stable=True) if wide[d]]


def cut(cube: Cube, problem: Problem, config: Config, count: int) -> list[Cube]:
    """About `count` pieces that cover the cube; none where it cannot be cut."""
    if cube.last - cube.first > 1:
        n = min(max(2, count), cube.last - cube.first)
        ends = [cube.first + (cube.last - cube.first) * k // n for k in range(n + 1)]
        return [Cube(a, b, {}, cube) for a, b in zip(ends, ends[1:])]
    part = restricted(problem, **cube.values())
    dimensions = order(part, config)[: min(LEVELS, max(1, math.ceil(math.log2(max(2, count)))))]
    boxes = [dict(cube.box)]
    for d in dimensions:
        l, u = float(part.lower[0, d]), float(part.upper[0, d])
        middle = after = l + (u - l) / 2
        if part.whole[d]:
            middle, after = math.floor(middle), math.floor(middle) + 1
        boxes = [{**box, d: half} for box in boxes for half in ((l, middle), (after, u))]
    return [Cube(cube.first, cube.last, box, cube) for box in boxes] if dimensions else []


class Conquest:
    """The near end's account of cubes: which wait, which are at work, what is settled."""

    def __init__(self, engine: Cluster, problem: Problem, job: Job, config: Config, deadline: Deadline):
        self.engine, self.problem, self.job, self.config, self.deadline = engine, problem, job, config, deadline
        self.whole = Cube(0, len(problem.lower))
        self.waiting: deque[Cube] = deque()
        self.running: dict[int, Cube] = {}
        self.ids, self.mark = itertools.count(), fingerprint(problem)
        names = ("cubes", "cubes refuted", "cubes cut while at work", "cubes cancelled")
        self.stats: dict[str, float] = dict.fromkeys(names, 0)
        self.seconds: dict[str, float] = {}
        self.near = NearMisses()

    def run(self, listener: Listener) -> tuple[str, str, str]:
        """(verdict, reason, counterexample as text)"""
        if not self._cut(self.whole, PER_WORKER * self.engine.slots()):
            self.waiting.append(self.whole)  # nothing to be cut is still something to be tried
        while not self.whole.settled:
            if self.deadline.passed():
                left = len(self.waiting) + len(self.running)
                return "timeout", f"{left} cubes still open; {self._count()}", ""
            self._fill()
            if not self.running:
                return "unknown", f"nothing is left that could be cut; {self._count()}", ""
            for id, _, outcome in self.engine.poll(min(POLL, max(0.0, self.deadline.left()))):
                cube = self.running.pop(id, None)
                if cube is None:
                    continue
                witness = self._take(cube, outcome)
                if witness:
                    return "sat", f"counterexample replayed in ONNX Runtime; {self._count()}", witness
            facts = {"waiting": len(self.waiting) + len(self.running), "worst bound": math.nan}
            listener(Event("cubes", "at work", {**self.stats, **facts}))
        if self.whole.undecided is not None:
            return "unknown", f"{self.whole.undecided}; {self._count()}", ""
        return "unsat", f"every cube refuted; {self._count()}", ""

    def _count(self) -> str:
        return f"{self.stats['cubes']} cubes on {self.engine.slots()} workers"

    def _fill(self) -> None:
        """Gives workers what waits; cuts a cube at work where there are workers left without."""
        idle = self.engine.slots() - len(self.running)
        if idle > 0 and not self.waiting:
            now = time.monotonic()
            old = [c for c in self.running.values() if not c.pieces and now - c.begun > PATIENCE]
            if old:
                self.stats["cubes cut while at work"] += 1
                self._cut(min(old, key=lambda c: c.begun), idle)
        while self.waiting and self.engine.slots() > len(self.running):
            cube = self.waiting.popleft()
            id = next(self.ids)
            self.stats["cubes"] += 1
            cube.begun = time.monotonic()
            self.running[id] = cube
            config = {**self.job.config, "seed": self.config.seed + id}
            left = max(0.1, self.deadline.left())
            self.engine.start(
                replace(self.job, id=id, config=config, timeout=left, more={**cube.values(), "mark": self.mark})
            )

    def _cut(self, cube: Cube, count: int) -> bool:
        cube.pieces = cut(cube, self.problem, self.config, count)
        self.waiting.extend(cube.pieces)
        return bool(cube.pieces)

    def _take(self, cube: Cube, outcome: Outcome) -> str:
        """Notes what a cube came to; returns the counterexample, if that is what it is."""
        for name, value in outcome.said.get("seconds", {}).items():
            self.seconds[name] = self.seconds.get(name, 0.0) + value
        for name, value in outcome.said.get("stats", {}).items():
            if isinstance(value, (int, float)) and name not in ("worst bound", "waiting", "per second"):
                self.stats[name] = self.stats.get(name, 0) + value
        points, gaps = outcome.said.get("near", ([], []))
        if points:
            self.near.leaves.add(np.array(points), np.array(gaps))
        verdict = outcome.said.get("verdict", "") if outcome.how == "answer" else ""
        if outcome.how in ("error", "bug", "crash"):
            raise RuntimeError(f"a worker failed: {outcome.how}: {outcome.detail}")
        if verdict == "sat":
            return str(outcome.said["witness"])
        if verdict == "unsat":
            self.stats["cubes refuted"] += 1
            self._settle(cube)
        elif verdict == "unknown" and "memory" not in outcome.said["reason"]:
            self._settle(cube, outcome.said["reason"])  # smaller pieces would come to the same
        elif cube.pieces:
            self._by_pieces(cube)
        elif not self._cut(cube, self.engine.slots()):
            self._settle(cube, outcome.said.get("reason") or f"a cube ended by {outcome.how} {outcome.detail}".strip())
        return ""

    def _settle(self, cube: Cube, undecided: str | None = None) -> None:
        """The cube is done with, refuted or `undecided`: so is whatever belongs to it, and perhaps its parent."""
        cube.settled, cube.undecided = True, undecided
        self._drop(cube)
        if cube.parent is not None and not cube.parent.settled:
            self._by_pieces(cube.parent)

    def _by_pieces(self, cube: Cube) -> None:
        """Settles the cube if all its pieces are; one with undecided pieces only once it is not at work itself."""
        undecided = next((p.undecided for p in cube.pieces if p.undecided is not None), None)
        at_work = any(c is cube for c in self.running.values())
        if all(p.settled for p in cube.pieces) and not (undecided is not None and at_work):
            self._settle(cube, undecided)

    def _drop(self, cube: Cube) -> None:
        for id in [id for id, c in self.running.items() if c is cube]:
            del self.running[id]
            self.engine.cancel(id)
            self.stats["cubes cancelled"] += 1
        for piece in cube.pieces:
            if not piece.settled:
                piece.settled = True
                if piece in self.waiting:
                    self.waiting.remove(piece)
                self._drop(piece)


def conquer(
    address: str, model: str, prop: str, config: Config, listener: Listener, deadline: Deadline
) -> dict[str, Any]:
    """Decides the property on a cluster; the last words of the process that calls. Raises InputError.

    The connection to a cluster of others is left to the end of that process, so that nothing stands between the answer
    and its reader; the scheduler then drops what still runs.
    """
    seconds: dict[str, float] = {}
    loaded = api.load(model, prop, seconds, config.model)
    if not len(loaded.problem.lower):
        result = api.decide(loaded, config, listener, deadline, seconds)
        return {"verdict": str(result.verdict), "reason": result.reason, "seconds": seconds, "stats": {}, "plan": []}
    engine = Cluster(address, config, ahead=1)
    problem, plan, settled = api.planned(loaded, replace(config, device="cpu"), seconds)
    if problem is not loaded.problem:  # operators that only ONNX Runtime runs: nothing can be proved of any cube
        return api.last_words(api.decide(loaded, config, listener, deadline, seconds))
    lines = [*plan.lines(), f"cubes on {engine.slots()} workers at {address}"]
    listener(Event("plan", "made", {"lines": tuple(lines), "device": config.device}))
    values = settings.as_dict(config if config.threads else replace(config, threads=1))
    work = "verifier.bench.cubes:solve"
    job = Job(0, os.path.abspath(model), os.path.abspath(prop), values, deadline.left(), work=work)
    conquest = Conquest(engine, loaded.problem, job, settled, deadline)
    verdict, reason, witness = conquest.run(listener)
    found = Result(Verdict(verdict), reason, None, {**conquest.seconds, **seconds}, conquest.stats, tuple(lines))
    if not witness:
        judge = api.judge_of(loaded, config)
        found = api.answer(loaded, config, found, judge, conquest.near, deadline, listener)
    if engine.ours is not None and deadline.left() > LEAVE:
        engine.close()
    said = api.last_words(found)
    return {**said, "witness": witness} if witness else said
