"""Branch and bound over neuron splits: bound a batch of cases, drop what is refuted, split the most telling neuron of
the rest, repeat.

What makes `unsat` right. Every region starts with one case per disjunct. A case leaves only when its bound is positive
as evaluated in float64 with its error (`verifier.bounds.certify`), or when a split of it holds nowhere on a box that
has all values of its neuron (`verifier.search.cases.moved`); and its two children cover it, since every z_j is <= p or
>= p. Multipliers, slopes, scores and heuristics only steer. Cases that neither a split nor an exact linear program can
end are set aside, and then `unsat` is not said.

Regions are taken one after the other: their intermediate boxes have nothing in common.
"""

from __future__ import annotations

import time
from collections.abc import Generator, Iterator

import torch
from torch import Tensor

from verifier.bounds.dual import Settings
from verifier.bounds.program import Program
from verifier.bounds.targets import Picked
from verifier.bounds.tighten import tightened
from verifier.bounds.trace import Trace
from verifier.branching import NEURONS
from verifier.branching.points import Points
from verifier.branching.store import Store
from verifier.config import Config
from verifier.events import Deadline, Event, Listener
from verifier.search.bab import Parts, Search
from verifier.search.bounder import CHUNK_BYTES, Bounded, Bounder, tables
from verifier.search.cases import Cases, moved, roots, split
from verifier.search.clauses import Clauses
from verifier.search.domains import Pool
from verifier.search.leaves import certified, explicit, solve_leaf
from verifier.search.nearest import note_minimisers
from verifier.search.refine import refined
from verifier.search.root import Root
from verifier.search.sides import Sides

PREFERRED = 6  # columns remembered per case, for splits of several levels
FIRST_LOOK = 2.0  # seconds of search, at most as long as the root took, before intermediate boxes are optimised
TIGHTENING_SHARE = 0.2  # of the time that is left
PATIENCE = 0.25  # of the time that the last work on the root took, to be searched before the next
SOON = 0.25  # of the region's time so far: trees that end in less than that are let alone
REFINING_SHARE = 0.5  # of the time that is left
GAINED = 0.9  # boxes that leave less of the roots' distance to a refutation are soon worth branching on again
LEAP = 0.1  # boxes that leave less of it are worth as long again; else it takes longer than last time to find more
TABLE_SHARE = 0.05  # of the time that is left, for making a table of split points
FEW = 16  # up to so many children, several levels are split at once
ROOT = Settings(steps=60, alpha_rate=0.5, decay=0.94, patience=8)
LEAF = Settings(steps=150, alpha_rate=0.2, beta_rate=0.4, decay=0.97, patience=40)
ROUND = Settings(steps=10, alpha_rate=0.2, beta_rate=0.4, decay=0.9, patience=10)


class NeuronSearch(Search):
    """One run over one problem. Shares attacks, replays and the outcome with the search over input boxes."""

    def __init__(self, parts: Parts, config: Config, deadline: Deadline, listener: Listener):
        super().__init__(parts, config, deadline, listener)
        self.heuristic = NEURONS.load()[config.branching.neurons]
        self.points = Points(
            parts.program.device,
            config.branching.points,
            Store.of_user() if config.branching.cache else Store(),
            lambda: TABLE_SHARE * deadline.left(),
        )
        self.cases: Pool[Cases] = Pool(parts.memory)
        self.roots = 1  # disjuncts that are open at the root
        self.missed = torch.zeros(0)  # (K,): by what a refutation of disjuncts is missed there
        self.course: list[tuple[float, float]] = []  # seconds since trees were planted, and how much was open then
        self.clauses = Clauses(self.stats)
        self.stats |= {"overturned by float64": 0, "leaves": 0, "optimiser steps": 0, "cases of intermediate values": 0}
        self.seconds |= {"root": 0.0, "tightening": 0.0, "refining": 0.0, "clauses": 0.0}

    # --- the loop

    def rounds(self) -> Iterator[None]:
        self.fresh = self._regions()
        self.falsifier.glance(self.fresh)
        while self.at < len(self.fresh) and self.witness is None and not self.deadline.passed():
            through = yield from self._region(self.at)
            if not through or len(self.cases) or self.witness is not None:
                return
            self.at += 1
        self.done = self.at >= len(self.fresh)

    def open_share(self) -> float:
        """How much of the trees is open, every region alike."""
        share = float(len(self.fresh) - self.at + self.unsplittable)
        if len(self.cases):
            share += self._share(self.cases.held) - 1.0
        return share / max(1, len(self.fresh))

    def _share(self, cases: Cases) -> float:
        """How much of the region's trees cases are, a split counting as a half."""
        return float(torch.exp2(-(cases.column >= 0).sum(1).double()).sum()) / self.roots

    def _ending(self, seconds: float) -> bool:
        """Whether trees that go on closing as they did in the second half of their time are closed in `seconds`."""
        now, open = self.course[-1]
        then, before = next((t, s) for t, s in reversed(self.course) if t <= (now + self.course[0][0]) / 2)
        return open * (now - then) < seconds * (before - open)

    def _region(self, index: int) -> Generator[None, None, bool]:
        """Searches a region; whether it came to an end. Cases are left waiting where it ends before all disjuncts are
        refuted or set aside.
        """
        begin = time.monotonic()
        self.clauses = Clauses(self.stats)
        root = Root(self.parts, self._fine, self.deadline, self.fresh.take(slice(index, index + 1)))
        trace = yield from self._rooted(root)
        if trace is not None and not self.falsifier.attacks:
            self._attack(self.config.attack.share)
        if trace is not None and self._over():
            return False
        bounder = self._plant(trace, root) if trace is not None else None
        rooted, self.course = time.monotonic(), []
        self.seconds["root"] += rooted - begin
        coarse, mark, rest = True, self.seconds["bounds"], min(FIRST_LOOK, rooted - begin)
        # Seconds of the last branching on boxes, and how much of the roots' distance to a refutation that left.
        last, left = 0.0, 1.0
        while len(self.cases):
            yield
            if self._over():
                return False
            limit = self.config.search.max_rounds
            whole = limit == 1  # the root is a round: where there is no other, no pains are spared for its bounds
            searched, now = self.seconds["bounds"] - mark, time.monotonic()
            self.course.append((searched, self._share(self.cases.held)))
            budget = last if left < LEAP else now - begin
            stuck = self.config.search.refine and last <= REFINING_SHARE * self.deadline.left()
            stuck = stuck and not self._ending(SOON * (now - begin))
            if coarse and whole or searched > rest and (coarse or stuck):
                if coarse:
                    bounder = self._tighten(bounder, root)
                else:
                    last = min(budget, REFINING_SHARE * self.deadline.left())
                    bounder, left = self._refine(bounder, root, last)
                soon = coarse or left < GAINED
                rest = PATIENCE * max(rest, time.monotonic() - now) if soon else now - begin
                coarse, mark, self.course = False, self.seconds["bounds"], []
                continue
            if whole:
                bounded = bounder.bound(self.cases.pop(len(self.cases)), LEAF, PREFERRED)
                self._settle(bounded, bounder, root)
                return True
            if limit and self.stats["rounds"] >= limit:
                return False
            self._round_of(bounder, root)
            if self.witness is None and len(self.cases):
                self._attack(self.config.attack.share / 3)  # every round tries its minimisers as well
        return True

    # --- the root

    def _rooted(self, root: Root) -> Generator[None, None, Trace | None]:
        """Bounds the region as a whole, and decides entries before jumps; None where that settles it."""
        self.stats["domains"] += 1
        trace = root.bounded()
        if trace is None:
            return None
        sides = Sides(trace, root.fine()[0], self._bounder, self.parts.limit.rows)
        trace = yield from root.decided(sides, self._over, self._tell_sides)
        self.stats["domains"] += sides.domains
        return trace

    def _over(self) -> bool:
        return self.witness is not None or self.deadline.passed()

    def _tell_sides(self, sides: Sides) -> None:
        facts = {"open": len(sides), "decided": sides.decided, "domains": sides.domains}
        self.listener(Event("search", "sides of jumps", facts))

    def _bounder(
        self, trace: Trace, rows: tuple[Tensor, Tensor, Tensor, Tensor], fine: Program, clip: bool = True
    ) -> Bounder:
        """A bounder of a trace's network as this search wants it; `rows`, `fine` as `Bounder` takes them."""
        chunk = CHUNK_BYTES if trace.program.device.type == "cpu" else self.parts.limit.chunk
        curves, method = self.config.branching.curves, self.config.clip.method if clip else "none"
        return Bounder(trace, rows, fine, self.heuristic, chunk, self.points, curves, method)

    def _tighten(self, bounder: Bounder, root: Root) -> Bounder | None:
        """Optimises the intermediate boxes; None where that settles the region."""
        begin = time.monotonic()
        held = self._lifted(root)
        trace = tightened(bounder.relaxation.trace, self.parts.limit.rows, TIGHTENING_SHARE * self.deadline.left())
        try:
            return self._moved(held, bounder, trace, root)
        finally:
            self.seconds["tightening"] += time.monotonic() - begin

    def _refine(self, bounder: Bounder, root: Root, seconds: float) -> tuple[Bounder | None, float]:
        """Branches on the intermediate boxes for at most `seconds`; None where that settles the region. And how much
        that leaves of the roots' distance to a refutation.
        """
        begin, held = time.monotonic(), self._lifted(root)
        missed = float(self.missed[held.slot.unique()].sum())
        trace, cases = refined(
            bounder.relaxation.trace,
            self.parts.limit.rows,
            seconds,
            root.fine()[0],
            bounder.chunk_bytes,
            self.points,
            self.config.branching.curves,
        )
        self.stats["cases of intermediate values"] += cases
        new = self._moved(held, bounder, trace, root)
        self.seconds["refining"] += time.monotonic() - begin
        return new, float(self.missed.sum()) / missed if new is not None and missed > 0 else 1.0

    def _lifted(self, root: Root) -> Cases:
        """Takes all cases out of the pool, which leaves open what these are of."""
        held = self.cases.pop(len(self.cases))
        root.reopen(held.slot)
        return held

    def _moved(self, held: Cases, bounder: Bounder, trace: Trace, root: Root) -> Bounder | None:
        """Goes on with cases on narrower boxes, but for those of disjuncts that are refuted at the root there."""
        aside = self.unsplittable
        new = self._plant(trace, root)
        if new is not None:
            old = bounder.relaxation
            self.clauses.moved(old, new.relaxation)
            if len(self.cases):
                self.cases.pop(len(self.cases))
            self.unsplittable = aside  # what was set aside at the root is open in the cases
            self.cases.add(moved(held.take(root.open[held.slot]), old, new.relaxation))
        return new

    def _plant(self, trace: Trace, root: Root) -> Bounder | None:
        """Refutes what rows bounded backward on a trace refute; the other open disjuncts become cases."""
        picked, lb, open = root.rows(trace)
        root.open.copy_(open)
        slots = root.slots()
        if not len(slots):
            return None
        self.roots = len(slots)
        fine, fine_targets = root.fine()
        targets = self.parts.targets if self.parts.trusted else fine_targets
        bounder = self._bounder(trace, tables(targets, fine_targets, int(root.box.region[0])), fine)
        self.listener(
            Event("search", "root", {"open disjuncts": len(slots), "unstable neurons": bounder.relaxation.width})
        )
        bounded = bounder.bound(_first(bounder, slots, picked, lb), ROOT, PREFERRED)
        self.missed = torch.zeros_like(root.open, dtype=torch.float64)
        self.missed[bounded.kept.slot] = -bounded.kept.score
        root.reopen(bounded.kept.slot)
        self._settle(bounded, bounder, root)
        return bounder

    # --- rounds

    def _round_of(self, bounder: Bounder, root: Root) -> None:
        start = time.monotonic()
        batch = max(2, self._batch())
        parents = self.cases.pop(max(1, batch // 2))
        levels = 1
        while levels < parents.prefer.shape[1] and len(parents) << (levels + 1) <= min(batch, FEW):
            levels += 1
        children = split(parents, levels)
        begin = time.monotonic()
        children = self.clauses.reduce(children)
        self.seconds["clauses"] += time.monotonic() - begin
        if not len(children):
            return
        bounder.learning = self.config.search.clauses and self.clauses.pay()
        bounded = bounder.bound(children, ROUND, PREFERRED)
        spent = time.monotonic() - start
        now = len(children) / max(spent, 1e-6)
        self.rate = 0.5 * (self.rate + now) if self.rate else now
        self.seconds["bounds"] += spent
        self.stats["domains"] += len(children)
        self.stats["rounds"] += 1
        self._settle(bounded, bounder, root)
        self.stats["most domains waiting"] = max(self.stats["most domains waiting"], len(self.cases))
        self._tell(self.cases)

    def _settle(self, bounded: Bounded, bounder: Bounder, root: Root) -> None:
        """Puts what stays open into the pool, and tries the minimisers as counterexamples."""
        for name, value in bounded.figures.items():
            self.stats[name] = self.stats.get(name, 0) + value
        for name, value in bounded.seconds.items():
            self.seconds[name] = self.seconds.get(name, 0.0) + value
        self._learn(bounded)
        note_minimisers(self.parts.near, *bounded.refuted)
        kept = bounded.kept
        if not len(kept):
            return
        region = root.box.region.expand(len(kept))
        self.falsifier.probe(bounded.x.to(self.parts.program.dtype), region)
        ended = kept.prefer[:, 0] < 0
        if bool(ended.any()):
            self._end(kept.take(ended), bounder, root)
            kept = kept.take(~ended)
        self.cases.add(kept)

    def _learn(self, bounded: Bounded) -> None:
        if bounded.learned is not None:
            begin = time.monotonic()
            self.clauses.add(bounded.learned)
            self.seconds["clauses"] += time.monotonic() - begin

    def _end(self, leaves: Cases, bounder: Bounder, root: Root) -> None:
        """Decides cases that cannot be split any further: what many steps do not refute, exact linear programs, one by
        one.
        """
        bounded = bounder.bound(leaves, LEAF, PREFERRED)
        self._learn(bounded)
        note_minimisers(self.parts.near, *bounded.refuted)
        leaves = bounded.kept
        for i in range(len(leaves)):
            if self.witness is not None or self.deadline.passed():
                self.unsplittable += len(leaves) - i
                return
            leaf = explicit(bounder.relaxation, leaves.take(slice(i, i + 1)))
            self.stats["leaves"] += 1
            solved = solve_leaf(bounder, leaf)
            if solved is not None and solved.t > 0 and certified(bounder, leaf, solved):
                continue
            if solved is not None:
                x = torch.from_numpy(solved.x)[None].to(root.open.device, self.parts.program.dtype)
                self.falsifier.probe(x, root.box.region)
            if self.witness is None:
                self.unsplittable += 1

    def _waiting(self) -> int:
        return len(self.cases)

    def _stuck(self) -> str:
        return f"{self.unsplittable} cases have no neuron left to split and are neither refuted nor violated"


def _first(bounder: Bounder, slots: Tensor, picked: Picked, lb: Tensor) -> Cases:
    """One case per open disjunct, starting from its best row alone."""
    n, alpha = len(slots), bounder.relaxation.alpha
    weights = alpha.new_zeros((n, bounder.rows.shape[1]))
    for i, k in enumerate(slots.tolist()):
        mine = torch.nonzero((picked.slot[0] == k) & picked.real[0]).squeeze(1)
        weights[i, int(lb[0, mine].argmax()) if len(mine) else 0] = 1.0
    return roots(bounder.relaxation, slots, weights, PREFERRED)
