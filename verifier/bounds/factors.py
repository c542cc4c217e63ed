"""The operands of products of two variables as columns, and what a split of one value means for others.

A column stands for one entry of a value, as some step reads it. A split of it holds for the entry, so for every step
that reads the entry, and for what is computed from it:

* columns of the same entry, however moves (reshapes, slices, concatenations) have passed it on, are `alike`: all take
  the narrowest of their intervals. The first of them speaks for all: it is the one that is split;
* a factor of a product that a function of one number makes of a split entry lies in the function's range over what is
  left of the entry's interval.

So one split draws the lines of all readers anew, and the planes of the products they go into. A product's planes on the
narrower boxes of its factors are the operator's own.

Sound: moves copy numbers, so columns that are alike have one value at every input. `Nonlinear.interval` encloses the
function on the interval. Both say only what follows from intervals that held already.

Symbols: N domains, K columns, T terms of all products, J pairs.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from verifier.bounds.program import Program
from verifier.bounds.trace import Trace
from verifier.ops.base import Move, size
from verifier.ops.bilinear import Bilinear
from verifier.ops.pointwise import Pointwise

MOST_TERMS = 1 << 20  # of a step whose operands are split
EXACT = 1 << 24  # up to here float32 holds every whole number


@dataclass(frozen=True)
class Factor:
    """Entries of an operand of a product of two variables: `slot` 0 or 1 of step `step`."""

    step: int
    slot: int
    value: int  # what is read
    index: Tensor | None  # (k,) flat entries, or None for all of them
    cut: slice  # their columns

    def pick(self, flat: Tensor) -> Tensor:
        """(N, n) to (N, k)."""
        return flat if self.index is None else flat.index_select(1, self.index)


def factors_of(trace: Trace, at: int) -> list[Factor]:
    """Where a narrower box of an operand brings planes noticeably closer, as columns from `at` on."""
    found = []
    for k in sorted(trace.lines):
        step = trace.program.steps[k]
        if not isinstance(step.op, Bilinear) or step.op.term_count > MOST_TERMS:
            continue
        boxes = [trace.boxes[i] for i in step.inputs]
        for slot, worth in enumerate(step.op.worth(*boxes)):
            value, (l, u) = step.inputs[slot], boxes[slot]
            worth = (worth & torch.isfinite(u - l)).reshape(-1)
            if value in trace.asked:
                worth &= trace.asked[value]
            index = torch.nonzero(worth).squeeze(1)
            if not len(index) or not trace.moves(value):
                continue
            whole = len(index) == len(worth)
            found.append(Factor(k, slot, value, None if whole else index, slice(at, at + len(index))))
            at += len(index)
    return found


class Origins:
    """Where the entries of values come from through moves: numbers that are the same for the same entry."""

    def __init__(self, program: Program):
        self.program, self.found = program, {}
        self.first = [0]
        for shape in program.shapes:
            self.first.append(self.first[-1] + size(shape))

    def of(self, value: int) -> Tensor:
        """(n,) int64, different from one another unless a move repeated them."""
        asked, wanted = [value], set()
        while asked:  # moves of moves may be many
            k = asked.pop()
            if k not in self.found and k not in wanted:
                wanted.add(k)
                asked += self.program.steps[k].inputs if self._moves(k) else ()
        for k in sorted(wanted):
            own = torch.arange(self.first[k], self.first[k + 1])
            moved = self._moved(k) if self._moves(k) else None
            self.found[k] = own if moved is None else torch.where(moved >= 0, moved, own)
        return self.found[value]

    def _moves(self, value: int) -> bool:
        step = self.program.steps[value]
        return step is not None and isinstance(step.op, Move) and step.op.terms[0] == 1 and step.op.offset() is None

    def _moved(self, value: int) -> Tensor | None:
        """(n,) origins of a move's result, -1 where it has put a constant; None where they are too many to tell."""
        step = self.program.steps[value]
        names = torch.cat([self.found[i] for i in step.inputs])
        if len(names) >= EXACT:
            return None
        at, places = 1, []
        for i in step.inputs:
            shape, device = self.program.shapes[i], self.program.device
            place = torch.arange(at, at + size(shape), dtype=self.program.dtype, device=device)
            places.append(place.reshape(1, *shape))
            at += size(shape)
        came = step.op.forward(*places).reshape(-1).cpu().long() - 1  # moves copy: these are whole numbers still
        return torch.where(came >= 0, names[came.clamp(min=0)], -1)


class Kin:
    """Which columns (K,) depend on which: `first` (K,) the first column of the same entry; `twins` (J,) the columns
    that have others alike; `made` pairs by step of a function of one number: the columns of what it reads, and those of
    factors that it makes, (J,) each.
    """

    def __init__(self, program: Program, readers: Sequence, width: int, device: torch.device | str):
        self.first = torch.arange(width, device=device)
        origins, names = Origins(program), torch.zeros(width, dtype=torch.int64)
        for s in readers:
            mine = origins.of(s.value)
            names[s.cut] = mine if s.index is None else mine[s.index.cpu()]
        _, number = torch.unique(names, return_inverse=True)
        count = int(number.max()) + 1 if width else 0
        least = torch.full((count,), width, dtype=torch.int64).scatter_reduce(0, number, torch.arange(width), "amin")
        self.first = least[number].to(device)
        alone = torch.bincount(number, minlength=count)[number] == 1
        self.twins = torch.nonzero(~alone).squeeze(1).to(device)
        self.made = self._made(program, readers, names, origins, device)

    def _made(self, program: Program, readers: Sequence, names: Tensor, origins: Origins, device) -> dict:
        factors = [s for s in readers if isinstance(s, Factor)]
        made: dict[int, tuple[Tensor, Tensor]] = {}
        if not factors:
            return made
        column = torch.cat([torch.arange(s.cut.start, s.cut.stop) for s in factors])
        name = names[column]
        for s in readers:
            op = program.steps[s.step].op
            if isinstance(s, Factor) or not isinstance(op, Pointwise) or not op.uniform:
                continue
            lo, hi = origins.first[s.step], origins.first[s.step + 1]
            source = torch.full((hi - lo,), -1, dtype=torch.int64)
            mine = torch.arange(s.cut.start, s.cut.stop)
            if s.index is None:
                source[:] = mine
            else:
                source[s.index.cpu()] = mine
            inside = (name >= lo) & (name < hi)
            target, source = column[inside], source[name[inside] - lo]
            pair = (source[source >= 0].to(device), target[source >= 0].to(device))
            if len(pair[0]):
                made[s.step] = pair
        return made

    def share(self, l: Tensor, u: Tensor) -> None:
        """Gives columns that are alike the narrowest of their intervals (N, K), in place."""
        if not len(self.twins):
            return
        place = self.first[self.twins].expand(len(l), -1)
        for ends, how in ((l, "amax"), (u, "amin")):
            ends.scatter_reduce_(1, place, ends[:, self.twins], how)
            ends[:, self.twins] = ends.gather(1, place)

    def spread(self, program: Program, lower: Tensor, upper: Tensor, l: Tensor, u: Tensor) -> None:
        """Narrows intervals l, u (N, K) within (K,) to what they say about each other, in place. `program` is in the
        precision of l and u.
        """
        self.share(l, u)
        for step, (source, target) in self.made.items():
            a, b = l[:, source], u[:, source]
            less = (a > lower[source]) | (b < upper[source])
            if not bool(less.any()):
                continue
            low, high = program.steps[step].op.interval((a, b))
            l[:, target] = torch.where(less, torch.maximum(l[:, target], low), l[:, target])
            u[:, target] = torch.where(less, torch.minimum(u[:, target], high), u[:, target])
        if self.made:
            self.share(l, u)

    def sums(self) -> tuple[Tensor, Tensor]:
        """Pairs (J,) of columns and the first columns whose splits narrow their intervals too."""
        here = [torch.arange(len(self.first), device=self.first.device)]
        there = [self.first]
        for source, target in self.made.values():
            here.append(target)
            there.append(self.first[source])
        return torch.cat(here), torch.cat(there)


@dataclass(frozen=True)
class Terms:
    """The terms of all products whose factors are both columns: columns `a`, `b`, the `step` and the entry `out` of its
    result, (T,) each. Those that a split of column c narrows are list[start[c] : start[c + 1]].
    """

    a: Tensor
    b: Tensor
    step: Tensor
    out: Tensor
    list: Tensor
    start: Tensor

    @staticmethod
    def of(program: Program, factors: Iterable[Factor], kin: Kin) -> Terms:
        device, width = kin.first.device, len(kin.first)
        sides: dict[int, dict[int, Factor]] = {}
        for f in factors:
            sides.setdefault(f.step, {})[f.slot] = f
        parts: list[tuple[Tensor, ...]] = []
        for k, mine in sides.items():
            if len(mine) < 2:
                continue
            a, b, out = program.steps[k].op.term_index()
            columns = []
            for slot, entry in ((0, a), (1, b)):
                f = mine[slot]
                place = torch.full((size(program.shapes[f.value]),), -1, dtype=torch.int64)
                index = slice(None) if f.index is None else f.index.cpu()
                place[index] = torch.arange(f.cut.start, f.cut.stop)
                columns.append(place[entry])
            both = (columns[0] >= 0) & (columns[1] >= 0)
            parts.append((columns[0][both], columns[1][both], torch.full_like(out[both], k), out[both]))
        none = torch.zeros(0, dtype=torch.int64)
        a, b, step, out = (torch.cat([none, *t]).to(device) for t in (zip(*parts) if parts else [()] * 4))
        here, there = kin.sums()
        order = torch.argsort(here, stable=True)
        here, there = here[order], there[order]
        start = torch.searchsorted(here, torch.arange(width + 1, device=device))
        which, owner = [], []
        for side in (a, b):  # the terms of a side's columns, told to the columns that narrow these
            term, pair = ragged(start, side)
            which.append(term)
            owner.append(there[pair])
        count = max(1, len(a))
        pairs = torch.unique(torch.cat(owner) * count + torch.cat(which))  # as numbers, by far faster than as columns
        begin = torch.searchsorted(pairs, torch.arange(width + 1, device=device) * count)
        return Terms(a, b, step, out, pairs % count, begin)

    def narrowed_by(self, columns: Tensor) -> tuple[Tensor, Tensor]:
        """Pairs (J,): places in `columns` (M,), and terms that splits there narrow."""
        which, at = ragged(self.start, columns)
        return which, self.list[at]


def ragged(start: Tensor, columns: Tensor) -> tuple[Tensor, Tensor]:
    """For columns (M,) all places start[c], …, start[c + 1] - 1: the columns' own places (J,), and these (J,)."""
    count = start[columns + 1] - start[columns]
    which = torch.repeat_interleave(torch.arange(len(columns), device=columns.device), count)
    offset = torch.arange(len(which), device=columns.device) - (count.cumsum(0) - count)[which]
    return which, start[columns][which] + offset
