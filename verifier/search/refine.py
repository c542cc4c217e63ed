"""Tighter boxes of intermediate values at the root, by branch and bound on the values themselves.

What other verifiers ask an integer program for (Tjeng, Xiao and Tedrake, "Evaluating Robustness of Neural Networks with
Mixed Integer Programming", arXiv 1711.07356; Singh et al., "Boosting Robustness Certification of Neural Networks", ICLR
2019), in the terms of this search: the rows +z_e and -z_e of every entry e that a nonlinear step reads where it is
loose each get a tree of their own, whose cases split neurons of earlier steps. In a round the worst leaf of every row
is split; a row's bound is the least of its leaves'. Values are taken in order, so the trees of later ones stand on what
those of earlier ones found. What is gained multiplies from layer to layer: in deep networks a few splits a row replace
more splits of the property's rows than could ever be made.

A row of a value that only kinks at 0 read is bounded until it is above 0, where its neuron is stable and nothing more
is to be had; that of another value until time is over.

Sound: at any time the leaves of a row cover the region, since its tree began with the region as a whole and a split at
p leaves z <= p or z >= p. A leaf is dropped only where the row was certified to be above its target there, all others
are evaluated in float64 with their error (`verifier.bounds.certify`) at the end; the row's bound is the least of these
and of the target, if a leaf was dropped. The trace that rows are bounded on holds on all of the region, by induction.

Within a budget of time: values share what is left equally, entries whose relaxation has the largest area come first.

Symbols: k entries, 2 k rows, the one of +z_e before that of -z_e; D leaves, K columns.
"""

from __future__ import annotations

import time

import torch
from torch import Tensor

from verifier.bounds.backward import rows_at
from verifier.bounds.dual import Settings
from verifier.bounds.interval import outward
from verifier.bounds.program import Program
from verifier.bounds.relaxation import Multipliers, Splits, Start
from verifier.bounds.tighten import Tightener, loosest
from verifier.bounds.trace import Trace, known, trace_values
from verifier.branching import NEURONS
from verifier.branching.points import Points
from verifier.ops.base import Nonlinear
from verifier.ops.piecewise import ThroughZero
from verifier.search.bounder import CHUNK_BYTES, Bounder, Heuristic
from verifier.search.cases import Cases, roots, split
from verifier.search.domains import Pool

FIRST = Settings(steps=15, alpha_rate=0.5, decay=0.85, patience=5)
ROUND = Settings(steps=2, alpha_rate=0.2, beta_rate=0.4, decay=0.9)  # more are worth less than more splits
LAST = Settings(steps=60, alpha_rate=0.2, beta_rate=0.4, decay=0.95, patience=20)  # where no neuron is left to split
HEURISTIC = "gap"  # trials of both children cost more than they are worth where so many rows are bounded
ROUNDS = 8  # that a group of entries gets before the next group's turn
LAST_SHARE = 0.1  # of the time, for the evaluation of the leaves
STABLE = 1e-30  # what a neuron's input is above or below where it has no kink left
ROOM = 256 << 20  # bytes of the leaves of a value


class EntryBounder(Bounder):
    """Bounds cases of rows +z_e, -z_e instead of a property's; the slot of a case is its row."""

    def __init__(self, trace: Trace, value: int, entries: Tensor, fine: Program, heuristic: Heuristic, *more):
        """`entries` (k,): flat. `more`: as for `Bounder`."""
        none = trace.boxes[0][0].new_zeros(0)
        super().__init__(trace, (none, none, none, none.bool()), fine, heuristic, *more)
        self.value, self.entry = value, entries.repeat_interleave(2)
        self.sign = none.new_tensor([1.0, -1.0]).repeat(len(entries))
        l, u = (t.reshape(-1)[entries] for t in trace.boxes[value])
        # Nothing can be above its upper bound: such rows are never done. A box that ended at 0 itself would leave both
        # sides of a split there.
        stable, never = torch.full_like(self.sign, STABLE), torch.stack([u, -l], 1).reshape(-1)
        self.target = stable if _kinks(trace, value) else never

    def _start(self, slot: Tensor) -> Start:
        rows, top = rows_at(self.relaxation.trace, self.value, self.entry[slot], self.sign[slot])
        return Start(top, rows.live, rows.bias - self.target[slot])

    def least(self, slot: Tensor, splits: Splits, m: Multipliers) -> Tensor:
        """Bounds (D,) float64 of rows where splits hold; -inf if nothing is known."""
        base = self.certifier.base
        rows, top = rows_at(base, self.value, self.entry[slot], self.sign[slot].to(base.program.dtype))
        return self.certifier.least(*self.certifier.seeded(rows, top, splits, m)).double()

    def _proved(self, slot: Tensor, splits: Splits, m: Multipliers, boxes: tuple[Tensor, Tensor] | None) -> Tensor:
        return self.least(slot, splits, m) - self.target[slot].double()  # its sign is all that counts, and is exact

    def _strict(self, slot: Tensor, m: Multipliers) -> Tensor:
        return torch.zeros_like(slot, dtype=torch.bool)


class Trees:
    """The trees of all rows of one value."""

    def __init__(self, bounder: EntryBounder, end: float):
        self.bounder, self.end = bounder, end
        threads = torch.get_num_threads() if bounder.entry.device.type == "cpu" else 1
        rows = torch.arange(len(bounder.entry), device=bounder.entry.device)
        self.groups = rows.split(2 * max(4, bounder.chunk * threads // 4))
        self.pools: list[Pool[Cases]] = []
        self.cases = 0

    def over(self) -> bool:
        return time.monotonic() > self.end or sum(p.bytes() for p in self.pools) > ROOM

    def grow(self) -> tuple[Tensor, Tensor]:
        """Rows (n,) that were bounded at all, and their bounds (n,) float64."""
        grew = True
        while grew and not self.over():
            grew = False
            for i, group in enumerate(self.groups):
                if self.over():
                    break
                if i == len(self.pools):
                    self.pools.append(Pool(ROOM))
                    r = self.bounder.relaxation
                    self._bound(i, roots(r, group, r.alpha.new_zeros((len(group), 0)), 1), FIRST)
                for _ in range(ROUNDS):
                    chosen = None if self.over() else self._worst(self.pools[i])
                    if chosen is None:
                        break
                    grew = True
                    parents = self.pools[i].pop(len(chosen), chosen)
                    self._bound(i, split(parents, 1), ROUND)
        return self._bounds()

    def _bound(self, i: int, leaves: Cases, settings: Settings) -> None:
        kept = self.bounder.bound(leaves, settings, 1).kept
        ended = kept.prefer[:, 0] < 0
        self.cases += len(leaves)
        if bool(ended.any()):
            self.pools[i].add(self.bounder.bound(kept.take(ended), LAST, 1).kept)
            self.cases += int(ended.sum())
        self.pools[i].add(kept.take(~ended))

    def _worst(self, pool: Pool[Cases]) -> Tensor | None:
        """Which leaves are to be split (D,) bool: the worst of every row, unless the row is done or its worst leaf has
        nothing left to split; None where there are none.
        """
        if not len(pool):
            return None
        leaves = pool.held
        slot, count = leaves.slot, len(self.bounder.entry)
        waits = torch.zeros(count, dtype=torch.bool, device=slot.device)
        waits[slot] = True
        # The neuron is stable once one of its two rows is done.
        waits = waits.view(-1, 2).all(1).repeat_interleave(2)
        least = torch.full((count,), float("inf"), dtype=torch.float64, device=slot.device)
        least.scatter_reduce_(0, slot, leaves.score, "amin")
        worst = (leaves.score == least[slot]) & waits[slot]
        first = torch.full((count,), len(slot), device=slot.device)
        at = torch.nonzero(worst).squeeze(1)
        first.scatter_reduce_(0, slot[at], at, "amin")
        chosen = torch.zeros_like(worst)
        chosen[first[first < len(slot)]] = True
        chosen &= leaves.prefer[:, 0] >= 0
        return chosen if bool(chosen.any()) else None

    def _bounds(self) -> tuple[Tensor, Tensor]:
        """See `grow`."""
        b, dtype = self.bounder, self.bounder.relaxation.alpha.dtype
        begun = torch.cat(self.groups[: len(self.pools)]) if self.pools else self.groups[0][:0]
        low = b.target.double()[: len(begun)].clone()
        for pool in filter(len, self.pools):
            for part in torch.arange(len(pool)).split(b.chunk):
                leaves = pool.held.take(part.to(low.device))
                found = b.least(leaves.slot, leaves.splits, leaves.multipliers(dtype))
                low.scatter_reduce_(0, leaves.slot, found, "amin")
        return begun, low


class Refiner:
    """A `tighten` of `trace_values`: what the old trace knew, what optimisation adds, what splitting adds to that."""

    def __init__(
        self,
        old: Trace,
        seconds: float,
        chunk_bytes: int,
        fine: Program,
        points: Points | None,
        curves: bool,
    ):
        self.old, self.end = old, time.monotonic() + seconds
        self.tightener = Tightener(old, seconds, chunk_bytes)
        self.means = fine, NEURONS.load()[HEURISTIC], chunk_bytes, points, curves
        self.cases = 0

    def __call__(self, trace: Trace, value: int, loose: Tensor, limit: int) -> None:
        known(self.old)(trace, value, loose, limit)
        later = sum(v >= value for v in self.tightener.values)
        now = time.monotonic()
        share = (self.end - now) / max(1, later)
        if share > 0 and later:
            self.tightener.improve(trace, value, now + share / 2)
            self._branch(trace, value, now + share * (1 - LAST_SHARE))

    @torch.no_grad()
    def _branch(self, trace: Trace, value: int, end: float) -> None:
        entries = loosest(trace, value)
        if not len(entries) or time.monotonic() > end:
            return
        bounder = EntryBounder(trace, value, entries, *self.means)
        if not bool(bounder.splittable.any()):
            return
        trees = Trees(bounder, end)
        rows, bound = trees.grow()
        self.cases += trees.cases
        l, u = (t.reshape(-1) for t in trace.boxes[value])
        low, high = outward(bound[0::2], l.dtype, -1), outward(-bound[1::2], l.dtype, 1)
        at = entries[: len(rows) // 2]
        new_l, new_u = l.clone(), u.clone()
        new_l[at], new_u[at] = torch.maximum(l[at], low), torch.minimum(u[at], high)
        crossed = new_l > new_u  # only rounding can make two valid boxes cross
        shape = trace.boxes[value][0].shape
        trace.boxes[value] = (
            torch.where(crossed, l, new_l).reshape(shape),
            torch.where(crossed, u, new_u).reshape(shape),
        )
        trace.sizes.pop(value, None)


def _kinks(trace: Trace, value: int) -> bool:
    """Whether nothing but functions with one kink, at 0, and affine steps read a value."""
    ops = [trace.program.steps[c].op for c in trace.program.consumers[value]]
    return all(isinstance(op, ThroughZero) or not isinstance(op, Nonlinear) for op in ops)


def refined(
    old: Trace,
    limit: int,
    seconds: float,
    fine: Program,
    chunk_bytes: int = CHUNK_BYTES,
    points: Points | None = None,
    curves: bool = True,
) -> tuple[Trace, int]:
    """A trace over the same box whose intermediate boxes were branched on for about `seconds`, and with how many cases.
    `fine`: the program in float64; `chunk_bytes`, `points`, `curves`: as for `Bounder`.
    """
    refiner = Refiner(old, seconds, chunk_bytes, fine, points, curves)
    return trace_values(old.program, *old.boxes[0], limit, refiner, None, old.asked), refiner.cases
