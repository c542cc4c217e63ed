"""Branch and bound: bound a batch of domains, drop what is refuted, look for counterexamples in the rest, split,
repeat.

What makes `unsat` right. At the start the domains are the property's regions with all their disjuncts open. A disjunct
is closed in a domain only when a row of it is proved positive over the whole box (`Targets.refuted`: finite and > 0
after the rounding error was subtracted). Children cover their parent exactly (`domains.split`: both share the same
middle) and inherit what is closed. A domain leaves only when all its disjuncts are closed, and `unsat` is said only
when none is left and none was set aside. Boxes are rounded outward from the property's float64 ends once, at the
start.

What makes `sat` right: nothing here. Candidates go to `confirm`, which replays them in ONNX Runtime; what it refuses
is no counterexample.

Precision. float32 bounds carry their own rounding charge and are trusted where its assumptions hold
(`strategy.trusts_float32`). Domains that float32 fails to refute only by that charge are bounded again in float64.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from torch import Tensor

from verifier.attack.pgd import Attack
from verifier.bounds.backward import concretise
from verifier.bounds.base import Given, RowBounds
from verifier.bounds.chunks import Limits, bound_rows
from verifier.bounds.fine import usable
from verifier.bounds.interval import outward
from verifier.bounds.program import Program
from verifier.bounds.still import Still
from verifier.bounds.targets import Picked, Targets, best_rows
from verifier.branching import HEURISTICS
from verifier.clip.constraints import Halfspaces
from verifier.config import Config
from verifier.events import Deadline, Event, Listener
from verifier.evidence.near import NearMisses
from verifier.problem import Problem
from verifier.result import Verdict, Witness
from verifier.search.clipper import Clipper
from verifier.search.domains import Domains, Pool, halvable, shrunk, split
from verifier.search.falsify import Falsifier
from verifier.search.methods import choose, lowest
from verifier.search.nearest import note
from verifier.search.trials import Trials

SLOW = 200.0  # domains per second below which another bounding method is tried, if the configuration leaves the choice
FAIR = 128  # domains from which the measured rate counts, or the time that they would take at that rate
PROBED, PROBE_SECONDS = 128, 1.0  # open domains bounded by two methods on trial; about so long by the first
SAMPLE = 128  # domains on which deep clipping is weighed
OFTEN = 0.05  # share of domains bounded again in float64 from which rows are bounded in float64 at once
FEW_DIMENSIONS = 16  # forward planes carry one column per dimension
ROUND_SECONDS = 1.0  # a round aims to take no longer, so that deadline, attack and progress get their turn


@dataclass
class Outcome:
    """How a search ended."""

    verdict: Verdict
    reason: str
    witness: Witness | None = None
    seconds: dict[str, float] = field(default_factory=dict)
    stats: dict[str, float] = field(default_factory=dict)


@dataclass
class Parts:
    """What the loop is put together from. `confirm` takes a whole input (n,) float64 and returns a Witness if ONNX
    Runtime agrees.
    """

    problem: Problem
    program: Program
    targets: Targets
    attack: Attack
    confirm: Callable[[np.ndarray], Witness | None]
    limit: Limits
    memory: int  # bytes the pool may take
    trusted: bool  # whether the error terms hold for float32 here; otherwise every refutation is repeated in float64
    still: Still | None = None  # what stands still in regions, where that spares much; of `program`
    near: NearMisses = field(default_factory=NearMisses)  # what came nearest to satisfying the property; is added to


class Search:
    """One run over one problem. Values out: everything it learns is in the Outcome."""

    def __init__(self, parts: Parts, config: Config, deadline: Deadline, listener: Listener):
        self.parts, self.config, self.deadline, self.listener = parts, config, deadline, listener
        self.score = HEURISTICS.load()[config.branching.method]
        self.method = "crown" if config.bounds.method == "auto" else config.bounds.method
        self.undecided = config.bounds.method == "auto" and parts.problem.most_moving <= FEW_DIMENSIONS
        self.pool = Pool(parts.memory)
        self.clipper = Clipper(config.clip, parts.trusted or parts.program.dtype == torch.float64)
        self.unsplittable, self.at, self.done = 0, 0, False  # `at`: the next region
        self.seconds = {"attack": 0.0, "bounds": 0.0, "replay": 0.0}
        self.stats = {
            "domains": 0,
            "rounds": 0,
            "rechecked in float64": 0,
            "replays refused": 0,
            "most domains waiting": 0,
        }
        self.fine: tuple[Program, Targets] | None = None
        self.often = False  # whether float32 leaves much to float64
        self.rate = 0.0  # domains bounded per second
        self.falsifier = Falsifier(
            parts.problem, parts.attack, parts.confirm, config.attack, deadline, self.seconds, self.stats, parts.near
        )

    @property
    def witness(self) -> Witness | None:
        """A counterexample that was replayed."""
        return self.falsifier.witness

    # --- the loop

    def run(self) -> Outcome:
        """Searches until an answer, the deadline, or the limit of rounds."""
        for _ in self.rounds():
            pass
        return self.outcome()

    def rounds(self) -> Iterator[None]:
        """The search, round by round: whoever drives it may pause it, or leave it, between two of them. At the end
        `done` says whether nothing is left open.
        """
        fresh = self.fresh = self._regions()
        if self.parts.still is not None:  # those that are bounded together come together
            fresh = fresh.take(torch.argsort(self.parts.still.group, stable=True))
        self.whole = whole_dimensions(self.parts.problem, fresh.lower, fresh.upper)
        self.scale = (fresh.upper - fresh.lower).amax(0).clamp(min=torch.finfo(fresh.lower.dtype).tiny)
        self.trials = Trials(self.scale, self.whole)
        self.falsifier.glance(fresh)
        while self.witness is None and not self.deadline.passed():
            if self.at < len(fresh):
                count = min(self._batch(), self._together(fresh.region[self.at :]))
                children = fresh.take(slice(self.at, self.at + count))
                self.at += count
            elif len(self.pool):
                children = self._children()
            else:
                break
            self._round(children)
            if self.undecided and len(self.pool) and self._measured():
                self._choose_method()
            if self.at >= len(fresh) and len(self.pool):
                self._attack(self.config.attack.share)
            if self.config.search.max_rounds and self.stats["rounds"] >= self.config.search.max_rounds:
                break
            yield
        self.done = self.at >= len(fresh) and not len(self.pool)

    def open_share(self) -> float:
        """How much of the input set is still open, by volume, every region counted alike; and what was set aside."""
        share = float(len(self.fresh) - self.at + self.unsplittable)
        if len(self.pool):
            held, whole = self.pool.held, self.fresh.take(self.pool.held.region)
            width = whole.upper - whole.lower
            part = torch.where(width > 0, (held.upper - held.lower) / width.clamp(min=1e-30), 1.0)
            share += float(part.double().prod(1).sum())
        return share / max(1, len(self.fresh))

    def attack_only(self, unbounded: tuple[str, ...], deadline: Deadline) -> Outcome:
        """Attacks until this search's own deadline; for networks that cannot be bounded. `deadline` is the run's."""
        self.fresh = self._regions()
        while self.witness is None and not self.deadline.passed() and self.config.attack.method != "none":
            self._attack(share=1.0)
        if self.witness is not None:
            return self.outcome()
        reason = f"no bounds for {', '.join(unbounded)}, and no counterexample was found"
        return Outcome(
            Verdict.TIMEOUT if deadline.passed() else Verdict.UNKNOWN,
            reason,
            None,
            dict(self.seconds),
            dict(self.stats),
        )

    def _regions(self) -> Domains:
        """The regions as domains."""
        lower, upper = regions_of(self.parts.problem, self.parts.program)
        region = torch.arange(len(lower), device=lower.device)
        zero = torch.zeros(len(lower), dtype=torch.float64, device=lower.device)
        prefer = torch.zeros_like(region)
        return Domains(lower, upper, region, self.parts.targets.start(region), zero, prefer)

    def _batch(self) -> int:
        """How many domains to bound now: what a round's time allows."""
        most = self.config.search.batch
        if not self.rate:
            return min(most, 64)
        return int(max(1, min(most, self.rate * min(ROUND_SECONDS, max(0.05, self.deadline.left() / 4)))))

    def _together(self, left: Tensor) -> int:
        """How many of the regions left are bounded in one go, at most: those of the first one's group."""
        if self.parts.still is None:
            return len(left)
        group = self.parts.still.group[left]
        return int((group == group[0]).sum())

    def _largest_group(self) -> Tensor | None:
        """Where the waiting domains belong to the group that has most of them: a round of one group has the overhead
        of one. None where there are no groups.
        """
        still, held = self.parts.still, self.pool.held
        if still is None:
            return None
        group = still.group[held.region]
        return group == torch.bincount(group).argmax()

    def _children(self) -> Domains:
        """Takes domains from the pool and splits them."""
        batch = max(2, self._batch())
        before, begin = self.trials.tried, time.monotonic()
        parents = shrunk(self.pool.pop(max(1, batch // 2), self._largest_group()), self.whole)
        parents = self.trials.choose(parents, self._scores)
        self.seconds["bounds"] += time.monotonic() - begin
        children, whole = split(parents, self.whole)
        self.stats["domains"] += self.trials.tried - before
        self.stats["domains bounded on trial"] = self.trials.tried
        stuck = int(whole.sum())
        if stuck:
            self.unsplittable += stuck
            keep = torch.ones(len(children), dtype=torch.bool, device=whole.device)
            keep[torch.nonzero(whole).squeeze(1)] = False  # an unsplit parent stands at its own place among them
            children = children.take(keep)
        return self.clipper.children(children)

    def _round(self, children: Domains) -> None:
        if not len(children):
            return
        start = time.monotonic()
        kept, points, region = self._bound(children)
        spent = time.monotonic() - start
        now = len(children) / max(spent, 1e-6)
        self.rate = 0.5 * (self.rate + now) if self.rate else now
        self.seconds["bounds"] += spent
        self.stats["domains"] += len(children)
        self.stats["rounds"] += 1
        self.pool.add(kept)
        self.stats["most domains waiting"] = max(self.stats["most domains waiting"], len(self.pool))
        if len(points):
            self.falsifier.probe(points, region)
        self._tell(self.pool)

    def _tell(self, pool: Pool) -> None:
        """Reports a round."""
        facts = {
            "domains": self.stats["domains"],
            "waiting": len(pool),
            "per second": round(self.rate),
            "worst bound": float(pool.held.score.min()) if len(pool) else 0.0,
        }
        self.listener(Event("search", "round", facts))

    def _measured(self) -> bool:
        """Whether the rate says something: a handful of domains is bounded no faster than one."""
        return self.stats["domains"] >= FAIR or self.seconds["bounds"] > FAIR / SLOW

    def _choose_method(self) -> None:
        """Where the backward method is slow, measures whether forward planes get further, and keeps the better one."""
        self.undecided = False
        if self.rate >= SLOW:
            return
        begin, p = time.monotonic(), self.parts
        some = self.pool.worst(max(1, min(PROBED, int(self.rate * PROBE_SECONDS))))
        picked = p.targets.pick(some.region, some.open)
        coef = p.targets.coef[picked.row].double()
        choice = choose(
            some,
            picked,
            lambda method: self._rows(p.program, p.targets, some, picked, None, method),
            lambda x: torch.einsum("dsp,dp->ds", coef, p.program.forward(x).double()) + picked.const,
            p.problem.most_moving,
        )
        self.method, self.rate = choice.method, choice.rate
        self.stats["domains"] += 2 * len(some)
        self.seconds["bounds"] += time.monotonic() - begin
        self.listener(Event("search", f"bounding by {self.method}", choice.facts))

    # --- bounding

    def _bound(self, domains: Domains) -> tuple[Domains, Tensor, Tensor]:
        """The domains that stay open, with scores and preferred dimensions; and candidate points (N, m) with their
        regions.
        """
        targets = self.parts.targets
        picked = targets.pick(domains.region, domains.open)
        p, within = self.parts, self._within(domains, picked)
        bounds = self._rows(p.program, targets, domains, picked, within)
        lb = bounds.lb.double() + picked.const
        closed = targets.refuted(picked, lb)
        open = domains.open & ~closed
        note(p.near, domains, picked, bounds, lb, ~open.any(1))
        if self.parts.program.dtype == torch.float32:
            nearly = open & ~targets.refuted(picked, lb + 4 * bounds.charge.double())
            doubt = open.any(1) & ~nearly.any(1)
            if not self.parts.trusted:  # float32 only proposes
                doubt, open = doubt | (domains.open & closed).any(1), domains.open.clone()
            doubt = torch.nonzero(doubt).squeeze(1)
            if len(doubt):
                some = None if within is None else within.at(doubt).double()
                open[doubt] &= ~self._closed_in_float64(domains.take(doubt), open[doubt], some)
        alive = torch.nonzero(open.any(1)).squeeze(1)
        if not len(alive):
            return domains.take(alive), domains.lower[alive], domains.region[alive]
        kept = domains.take(alive)
        kept.open = open[alive]
        if self.clipper.level:
            kept = self.clipper.fresh(kept, picked.at(alive), bounds.at(alive))
            kept, left = self.clipper.shrink(kept)
            alive = alive[left]
            if not len(alive):
                return kept, kept.lower, kept.region
        picked, lb, bounds = picked.at(alive), lb[alive], bounds.at(alive)
        picked = replace(picked, real=picked.real & kept.open.gather(1, picked.slot))
        plane = bounds.plane
        if self.clipper.level:  # the boxes are smaller now
            lb = torch.maximum(lb, concretise(plane, kept.lower, kept.upper) + bounds.bias + picked.const)
        kept.score, speaker = best_rows(picked, lb, kept.open)
        points = lowest(plane, speaker, kept)
        scale = self.scale.unsqueeze(0)
        preference = self.score(kept.lower, kept.upper, scale, bounds.slope, lb, picked, targets.n_slots)
        middle = kept.lower + (kept.upper - kept.lower) / 2
        preference = torch.where(halvable(kept.lower, kept.upper, self.whole), torch.nan_to_num(preference), -1.0)
        kept.prefer = preference.argmax(1)
        return kept, torch.cat([points, middle]), torch.cat([kept.region, kept.region])

    def _scores(self, domains: Domains) -> Tensor:
        """The least bound of the open disjuncts (D,), by their own boxes alone."""
        p, picked = self.parts, self.parts.targets.pick(domains.region, domains.open)
        bounds = self._rows(p.program, p.targets, domains, picked, None)
        return best_rows(picked, bounds.lb.double() + picked.const, domains.open)[0]

    def _rows(
        self,
        program: Program,
        targets: Targets,
        domains: Domains,
        picked: Picked,
        within: Halfspaces | None,
        method: str = "",
    ) -> RowBounds:
        """Bounds of the picked rows, in the program's precision; by the search's own method if none is named."""
        method = method or self.method
        l, u = domains.lower.to(program.dtype), domains.upper.to(program.dtype)
        coef, row, still, fine = targets.coef, picked.row, self.parts.still, None
        if self._rows_in_float64(program):
            fine, targets = self._fine()
            coef = targets.coef
        if still is None:
            return bound_rows(program, l, u, coef, row, method, self.parts.limit, Given(within, None, fine))
        return still.bound(program, l, u, domains.region, coef, row, method, self.parts.limit, within, fine)

    def _rows_in_float64(self, program: Program) -> bool:
        """Whether so many domains had to be bounded again in float64 that their rows go there at once."""
        often = self.stats["rechecked in float64"] >= max(FAIR, OFTEN * self.stats["domains"])
        self.often = self.often or (often and self.parts.trusted)
        return self.often and usable(program)

    def _within(self, domains: Domains, picked: Picked) -> Halfspaces | None:
        """The half-spaces to bound within, if that pays: now and then a few domains are bounded both ways."""
        clipper, seconds = self.clipper, self.seconds["bounds"]
        if not (clipper.deep or clipper.due(len(domains), seconds)):
            return None
        within = clipper.within(domains)
        if within is None:
            return None
        some = torch.nonzero((within.g != 0).flatten(1).any(1)).squeeze(1)
        count = len(some)
        if clipper.due(count, seconds):
            some = some[:SAMPLE]
            few, rows, p, scores, times = domains.take(some), picked.at(some), self.parts, [], [time.monotonic()]
            for planes in (None, within.at(some)):
                b = self._rows(p.program, p.targets, few, rows, planes)
                scores.append(best_rows(rows, b.lb.double() + rows.const, few.open)[0])
                times.append(time.monotonic())
            clipper.weigh(*scores, (times[1] - times[0], times[2] - times[1]))
        if not clipper.deep:
            return None
        clipper.stats["bounded within half-spaces"] += count
        return within

    def _closed_in_float64(self, domains: Domains, open: Tensor, within: Halfspaces | None) -> Tensor:
        """Disjuncts (D, K) that float64 refutes, within half-spaces."""
        program, targets = self._fine()
        self.stats["rechecked in float64"] += len(domains)
        picked = targets.pick(domains.region, open)
        bounds = self._rows(program, targets, domains, picked, within)
        lb = bounds.lb + picked.const
        closed = targets.refuted(picked, lb)
        note(self.parts.near, domains, picked, bounds, lb, ~(open & ~closed).any(1))
        return closed

    def _fine(self) -> tuple[Program, Targets]:
        """Program and targets in float64."""
        if self.fine is None:
            p = self.parts
            self.fine = (
                p.still.fine if p.still is not None else Program(p.program.network, torch.float64, p.program.device),
                Targets(p.problem, torch.float64, p.program.device),
            )
        return self.fine

    def _attack(self, share: float) -> None:
        """One more attack, if attacks have had less than `share` of the time so far."""
        self.falsifier.attack(share, self.fresh, self.pool)

    def _waiting(self) -> int:
        return len(self.pool)

    def _stuck(self) -> str:
        kind = self.parts.program.dtype
        return f"{self.unsplittable} boxes are as small as {kind} allows and neither refuted nor violated"

    def outcome(self) -> Outcome:
        """What the search has come to, at its end or where it was left."""
        done = self.done
        count = f"{self.stats['domains']} domains bounded in {self.stats['rounds']} rounds"
        if self.witness is not None:
            verdict, reason = Verdict.SAT, "counterexample replayed in ONNX Runtime"
        elif done and not self.unsplittable:
            verdict, reason = Verdict.UNSAT, f"every disjunct refuted in every region; {count}"
        elif done:
            verdict, reason = (
                Verdict.UNKNOWN,
                f"{self._stuck()}; {count}; try --set precision=float64",
            )
        elif self.deadline.passed():
            verdict, reason = Verdict.TIMEOUT, f"{self._waiting()} domains still open; {count}"
        else:
            verdict, reason = (
                Verdict.UNKNOWN,
                f"limit of {self.config.search.max_rounds} rounds reached; {count}; raise search.max_rounds",
            )
        stats = {**self.stats, **self.clipper.stats}
        return Outcome(verdict, reason, self.witness, dict(self.seconds), stats)


def whole_dimensions(problem: Problem, lower: Tensor, upper: Tensor) -> Tensor | None:
    """Which dimensions (m,) bool hold whole numbers that the precision of boxes lower, upper (R, m) tells apart, their
    neighbours too; None where there are none.
    """
    whole = torch.from_numpy(problem.whole).to(lower.device)
    if bool(whole.any()):
        whole &= (torch.maximum(lower.abs(), upper.abs()) < 1 / torch.finfo(lower.dtype).eps).all(0)
    return whole if bool(whole.any()) else None


def regions_of(problem: Problem, program: Program) -> tuple[Tensor, Tensor]:
    """The regions' ends (R, m) each, as the model may receive them, rounded outward to the working precision."""
    ends = zip(problem.received(), (-1, 1))
    lower, upper = (outward(torch.from_numpy(t), program.dtype, s).to(program.device) for t, s in ends)
    return lower, upper
