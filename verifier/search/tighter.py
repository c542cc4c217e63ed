"""Tightens the boxes of the columns of cases by the half-spaces that hold their counterexamples.

Zhou et al., "Clip-and-Verify: Linear Constraint-Driven Domain Clipping for Accelerating Neural Network Verification"
(arXiv 2512.11087), complete clipping of intermediate bounds, in activation space. A counterexample of a case satisfies

* row <= 0 of its disjunct's weighted rows, so plane x + offset <= 0 for the plane that bounded them from below;
* its splits: where sign (z_j - p) >= 0 and z_j is between planes of the region (`verifier.bounds.columnplanes`),
  U x + uc >= p or L x + lc <= p.

Within these half-spaces the planes of the columns that matter most, by |coefficient| x gap between their lines, have
smaller ranges (`verifier.clip.centred`); lines drawn on these lose less. A case takes its parent's half-space, and
those of the splits on its path.

Sound: by induction every counterexample of the case's disjunct that satisfies its splits has its columns' values in the
case's boxes. At the root these are the region's. The plane was evaluated in float64 with its error on boxes for which
this holds; so its counterexamples are in the half-space, those of its children are too, and the new ends bound what
planes, valid on all of the region, can be there. Ends are rounded outward to half precision; those of one sign keep it.
Where they cross no counterexample is left. Boxes speak of counterexamples, of one disjunct and one case: nothing that
is proved with them may be told to other cases (clauses are certified without them).

It turns itself down where it does not pay: now and then a few cases are bounded with several numbers of columns, none
among them, and what they gain is weighed against what they cost.

Symbols: D cases, K columns, R columns looked at, C half-spaces, n input dimensions that move.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from verifier.bounds.columnplanes import ColumnPlanes
from verifier.clip.centred import Forms, least
from verifier.search.cases import Cases

TRIED = (0, 16, 64, 192)  # columns looked at
SAMPLE, PART = 16, 4  # cases that are bounded with each of these at most, and one in so many of a round's
SELDOM = 32  # rounds between two such trials at most
EARLY = 2  # cases that are bounded before anything is clipped
PATIENCE = 1.0  # of the time spent on cases so far, for making planes in one of these trials
SHALLOW = 8  # levels of a tree that is not that deep yet
BLOCK = 1 << 23  # numbers in one of the tables and products that are worked on at once
PATH = 12  # splits whose half-spaces are taken at most, the newest


class Tighter:
    """What a region's cases share. Several threads may call it."""

    def __init__(self, planes: ColumnPlanes, method: str):
        """`method`: complete (the half-space of the rows alone), or all (those of splits as well); else nothing."""
        self.planes, self.method, self.on = planes, method, method in ("complete", "all")
        self.count, self.known = 0, None
        self.rounds, self.next, self.cases = 0, 0, 0

    def cut(self, cases: Cases, plane: Tensor, offset: Tensor, coef: Tensor, gap: Tensor) -> None:
        """Stores half-spaces plane (D, m) x + offset (D,) <= 0 in cases, and the columns with the largest |coef| gap
        (D, K).
        """
        held = self.planes.middle.forms(plane, offset)
        good = torch.isfinite(held.a).all(1) & torch.isfinite(held.mid) & torch.isfinite(held.reach)
        cases.g = torch.where(good.unsqueeze(1), held.a, 0.0)
        cases.mid, cases.reach = torch.where(good, held.mid, -1.0), torch.where(good, held.reach, 0.0)
        r = self.planes.relaxation
        if not cases.low.shape[1]:
            cases.low, cases.high = (t.expand(len(cases), -1).clone() for t in rounded(r.lower, r.upper))
        coef = torch.nan_to_num(coef).abs()
        top = torch.topk(torch.nan_to_num(coef * gap), min(TRIED[-1], r.width), dim=1)
        cases.look = torch.where(top.values > 0, top.indices, -1).int()
        largest = coef.amax(1, keepdim=True).clamp(min=1e-30) if r.width else 1.0
        cases.matter = (coef / largest).gather(1, top.indices).half()

    def clipped(self, cases: Cases, count: int) -> tuple[Cases, Tensor]:
        """Cases with tighter boxes of `count` columns; and where no counterexample is left (D,) bool."""
        empty = torch.zeros(len(cases), dtype=torch.bool, device=cases.slot.device)
        count = min(count, cases.look.shape[1])
        if not count:
            return cases, empty
        cases = Cases(**cases.__dict__)
        cases.low, cases.high = cases.low.clone(), cases.high.clone()
        r = self.planes.relaxation
        ends = r.boxes(cases.splits, cases.boxes(r.lower, r.upper), self.planes.certifier.program)
        self._block(cases, slice(0, len(cases)), count, ends, empty)
        return cases, empty

    def _block(self, cases: Cases, block: slice, count: int, ends: tuple[Tensor, Tensor], empty: Tensor) -> None:
        """Tightens the boxes of some of the cases, in place; `ends` (D, K) of the boxes as they are."""
        planes, some = self.planes, cases.take(block)
        look = some.look[:, :count].long()
        columns = look.clamp(min=0)
        unique, place = torch.unique(columns, return_inverse=True)
        d, n = len(look), len(planes.middle.r)
        halves = d + min(PATH * d, 2 * planes.relaxation.width)  # at most, in the table
        if max(2 * len(unique) * max(n, halves), 2 * count * d * (1 + PATH)) > BLOCK and d > 1:
            middle = block.start + d // 2
            for part in (slice(block.start, middle), slice(middle, block.stop)):
                self._block(cases, part, count, ends, empty)
            return
        table = Forms(*(t.flatten(0, 1) for t in planes.of(unique)))
        row = torch.stack([2 * place, 2 * place + 1], 2).flatten(1)
        weight = some.matter[:, :count].to(table.a.dtype).repeat_interleave(2, 1)
        found = least(table, row, weight, *self._halves(some), planes.middle.r, count)
        low, high = found.unflatten(1, (count, 2)).unbind(2)
        l, u = (t[block].gather(1, columns).double() for t in ends)
        low, high = torch.maximum(l, low), torch.minimum(u, -high)
        mine = look >= 0
        empty[block] = ((low > high) & mine).any(1)
        low, high = rounded(low, high)
        for name, new in (("low", low), ("high", high)):
            held = getattr(cases, name)
            old = held[block].gather(1, columns)
            held[block] = held[block].scatter(1, columns, torch.where(mine, new, old))

    def _halves(self, cases: Cases) -> tuple[Forms, Tensor, Tensor]:
        """The half-spaces of cases as `least` takes them: a table of forms (V, n), and for every case which of them
        (D, C), and their mid (D, C).
        """
        d = len(cases)
        own = Forms(cases.g, cases.mid, cases.reach)
        half, mid = torch.arange(d, device=own.a.device).unsqueeze(1), own.mid.unsqueeze(1)
        real = cases.column >= 0
        if self.method != "all" or not bool(real.any()):
            return own, half, mid
        order, total = real.cumsum(1) - 1, real.sum(1)  # splits are numbered as they were made
        wanted = real & (order >= (total - PATH).unsqueeze(1))
        count = int(wanted.sum(1).max())
        if not count:
            return own, half, mid
        at = torch.topk(wanted.to(own.a.dtype), count, dim=1).indices
        mine = wanted.gather(1, at)
        column, sign, point = (t.gather(1, at) for t in (cases.column, cases.sign, cases.point))
        # sign (z - p) >= 0 is -z + p <= 0 or z - p <= 0; where there is none, 0 x - 1 <= 0
        sides, place = torch.unique(2 * column.clamp(min=0) + (sign > 0), return_inverse=True)
        splits = self.planes.of(sides // 2).at((torch.arange(len(sides), device=sides.device), sides % 2))
        none = Forms(own.a.new_zeros(1, own.a.shape[1]), own.mid.new_zeros(1), own.reach.new_zeros(1))
        shift, base = sign.double() * point.double(), splits.mid[place]
        shifted = base + shift - 1e-15 * (base.abs() + shift.abs())
        half = torch.cat([half, torch.where(mine, d + place, d + len(sides))], 1)
        mid = torch.cat([mid, torch.where(mine, shifted, -1.0)], 1)
        return Forms(*(torch.cat(parts) for parts in zip(own, splits, none))), half, mid

    def due(self, count: int) -> bool:
        """Whether it is time to find out again how many columns pay; told once a round, with its number of cases."""
        self.rounds, self.cases = self.rounds + 1, self.cases + count
        if not self.on or self.cases < EARLY or self.rounds < self.next:
            return False
        self.next = min(2 * self.rounds, self.rounds + SELDOM)
        if self.known is None:
            self.count = TRIED[2]
        return True

    def weigh(self, gains: list[float], costs: list[float], rest: float, depth: float) -> None:
        """Chooses how many columns are looked at from what numbers of them, `TRIED`, gained in a sample, as shares of
        what was missing to a refutation, and cost, in seconds a case, where everything else costs `rest`.

        Levels of the tree are as many fewer as each closes more of the gap, and its domains double with every level.
        `depth` is how deep the sample is.
        """
        new = list(zip(gains, costs))
        self.known = [tuple(0.5 * (a + b) for a, b in zip(*pair)) for pair in zip(self.known or new, new)]
        most, levels = self.known[0][0], math.log(2.0) * max(depth, SHALLOW)
        work = [math.log(rest + cost) + levels * most / max(gain, 1e-6) for gain, cost in self.known]
        self.count = TRIED[work.index(min(work))]


def rounded(low: Tensor, high: Tensor) -> tuple[Tensor, Tensor]:
    """Ends in half precision, rounded outward; ends of one sign keep it."""
    # To nearest, half precision is off by 2^-11 of a number, or by 2^-25; what is too large becomes infinite.
    down = (low - low.abs() * 2.0**-10 - 2.0**-24).clamp(max=6e4).half()
    up = (high + high.abs() * 2.0**-10 + 2.0**-24).clamp(min=-6e4).half()
    down, up = torch.where(low >= 0, down.clamp(min=0), down), torch.where(high <= 0, up.clamp(max=0), up)
    return torch.where(down.isnan(), -torch.inf, down), torch.where(up.isnan(), torch.inf, up)
