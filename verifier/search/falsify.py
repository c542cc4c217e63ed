"""Looks for counterexamples beside a search, within a share of its time, and replays what looks like one.

Before anything is bounded a small attack has a glance at the regions. Then, by turns, gradient attacks start all over
the regions, and in the open domains furthest from refutation; every failure makes the next one larger. Where few
dimensions move, all places are tried in turn (`verifier.attack.sweep`). Points that bounding rounds come by are probed
as well.

What makes `sat` right: nothing here. Candidates go to `confirm`, which replays them in ONNX Runtime; what it refuses is
no counterexample.

Symbols: D domains, m dimensions, N points.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, MutableMapping

import numpy as np
import torch
from torch import Tensor

from verifier.attack.pgd import Attack, Found
from verifier.attack.sweep import sweep
from verifier.config import AttackConfig
from verifier.events import Deadline
from verifier.evidence.near import NearMisses
from verifier.problem import Problem
from verifier.result import Witness
from verifier.search.domains import Domains, Pool

GROWTH = 1.5  # every failed attack takes so many times more points, and the root of that more steps
LARGEST = 32.0  # up to so many times the first
GLANCE = (0.25, 0.5)  # of the first attack's starts, and of its steps: most counterexamples need no more
GRADIENT_COST = 3.0  # a gradient step against running the network forward
SWEPT_BOXES, SWEPT_POINTS, SWEPT_BLOCK = 16, 5000, 64  # of a sweep: from so many boxes so many points at a time
SWEEP_SHARE = 0.25  # of the time left for those


class Falsifier:
    """`witness` is what was found; `seconds`, `stats` and `near` are the search's, and are added to. `confirm` takes
    a whole input (n,) float64 and returns a Witness if ONNX Runtime agrees.
    """

    def __init__(
        self,
        problem: Problem,
        attack: Attack,
        confirm: Callable[[np.ndarray], Witness | None],
        config: AttackConfig,
        deadline: Deadline,
        seconds: MutableMapping[str, float],
        stats: MutableMapping[str, float],
        near: NearMisses,
    ):
        self.problem, self.points, self.confirm = problem, attack, confirm
        self.config, self.deadline, self.seconds, self.stats, self.near = config, deadline, seconds, stats, near
        self.witness: Witness | None = None
        self.started = time.monotonic()
        self.attacks, self.point_seconds = 0, 0.0
        self.places: Iterator[tuple[Tensor, Tensor]] | None = None

    def glance(self, regions: Domains) -> None:
        """A small attack. Where points are so dear that the first attack would be no larger, it is the first attack."""
        if self.config.method == "none":
            return
        start = time.monotonic()
        restarts, steps = (part * whole for part, whole in zip(GLANCE, (self.config.restarts, self.config.steps)))
        if self._descend(self._some(regions), regions, restarts, max(1, round(steps)), self._allowance(), polish=False):
            self.attacks += 1
        self.seconds["attack"] += time.monotonic() - start

    def attack(self, share: float, regions: Domains, waiting: Pool[Domains]) -> None:
        """One attack, if attacks have had less than `share` of the time so far."""
        elapsed = time.monotonic() - self.started
        spent = self.attacks and self.seconds["attack"] > share * elapsed
        if self.config.method == "none" or self.witness is not None or spent:
            return
        start = time.monotonic()
        boxes = waiting.worst(16) if self.attacks % 2 and len(waiting) else self._some(regions)
        effort = min(GROWTH**self.attacks, LARGEST)
        seconds = max(self._allowance(), share * elapsed / 2)
        self._descend(boxes, regions, self.config.restarts * effort, round(self.config.steps * effort**0.5), seconds)
        self.attacks += 1
        self.seconds["attack"] += time.monotonic() - start

    def _allowance(self) -> float:
        """Seconds that an attack may take whatever has been spent."""
        return max(0.2, 0.05 * self.deadline.left())

    def _some(self, regions: Domains) -> Domains:
        """Some regions at random."""
        some = torch.randperm(len(regions), generator=self.points.generator)[:64]
        return regions.take(some.to(regions.region.device))

    def _descend(
        self, boxes: Domains, regions: Domains, restarts: float, steps: int, seconds: float, polish: bool = True
    ) -> bool:
        """Attacks boxes from so many starts in all; whether there were fewer for want of time."""
        affordable = seconds / (GRADIENT_COST * steps * self._seconds_per_point(boxes))
        each = max(1, int(min(restarts, affordable)) // len(boxes))
        boxes = boxes.take(slice(0, max(1, int(affordable))))
        allowed = self.deadline.sooner(seconds)
        self._sweep(regions)
        if self.witness is None:
            found = self.points.descend(
                boxes.lower, boxes.upper, boxes.region, boxes.open, each, steps, allowed, polish
            )
            self._replay(found)
        return affordable < restarts

    def probe(self, x: Tensor, region: Tensor) -> None:
        """Tries points (N, m) in regions (N,)."""
        self._replay(self.points.probe(x, region))

    def _sweep(self, regions: Domains) -> None:
        """Goes on trying all places where few dimensions move."""
        if self.places is None:
            few = regions.take(slice(0, SWEPT_BOXES))
            self.places = sweep(few.lower, few.upper, SWEPT_BLOCK, self.points.generator)
        until, done = self.deadline.sooner(SWEEP_SHARE * self.deadline.left()), 0
        while self.witness is None and done < SWEPT_POINTS and not until.passed():
            x, box = next(self.places, (None, None))
            if x is None:
                return
            done += len(x)
            self.probe(x, regions.region[box])

    def _seconds_per_point(self, boxes: Domains) -> float:
        """What running the network forward costs per point, measured once on a handful."""
        if not self.point_seconds:
            x = boxes.lower[:8].repeat(8, 1)[:8]
            begin = time.monotonic()
            self.points.probe(x, boxes.region[:8].repeat(8)[:8])
            self.point_seconds = max(1e-9, (time.monotonic() - begin) / len(x))
        return self.point_seconds

    def _replay(self, found: Found) -> None:
        """Replays candidates until one is confirmed."""
        start = time.monotonic()
        if found.nearest is not None and found.least > 0:
            self.near.tried.add(found.nearest.double().cpu().numpy(), np.array([found.least]))
        points = found.points.detach().double().cpu().numpy()
        for x in self.problem.lift(points):
            self.witness = self.confirm(x)
            if self.witness is not None or self.deadline.passed():
                break
            self.stats["replays refused"] += 1
        self.seconds["replay"] += time.monotonic() - start
