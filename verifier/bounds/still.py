"""What stands still in a region: values that its moving inputs do not reach, bounded once instead of in every domain.

A property may have thousands of regions, each a box of which few dimensions move, while a network reads them all: most
of what a domain's bounds are made of is then the same in all of a region's domains. A value of the program that no
moving dimension reaches is a constant there. Its box is found once for each region, by intervals in float64 (of a point
it is as wide as rounding makes it), and regions that agree in all that the value depends on share it. Bounds of a
domain then walk over the values that move alone; a row that arrives at a value that stands still is minimised over its
box (`verifier.bounds.backward.settle`).

Regions in which the same values move form a group, and small groups one together. A batch is bounded group by group.

Why it is sound. A box of a value over a whole region, by intervals from the region's own ends, holds in every part of
it, whether or not the value depends on what moves: what is taken to move only decides how much is saved. But regions
share a box if they agree in the dimensions that reach the value, so `reach` may say too much, never too little. Boxes
are rounded outward to the working precision.

Which input reaches which value is known entry by entry through moves and functions of one number, otherwise every
entry of a result is taken to depend on all that any of them depends on.

Symbols: R regions, m input dimensions, K values of the program, G groups, D domains, U different boxes of what a value
depends on.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from verifier.bounds.base import Box, Given, Part, RowBounds
from verifier.bounds.chunks import Limits, bound_rows, join
from verifier.bounds.interval import outward, step_interval
from verifier.bounds.program import Program
from verifier.clip.constraints import Halfspaces
from verifier.ops.base import Move, size
from verifier.ops.pointwise import Pointwise

MOST_ENTRIES = 1 << 24  # numbers that finding out what depends on what may take
TABLE_BYTES = 512 << 20  # of all boxes that are kept
BLOCK_ENTRIES = 1 << 21  # of a block of boxes that is worked on at once
WORTH = 0.5  # share of the values' entries that may move on the average, for this to pay
SMALL = 0.04  # share of the regions below which a group is not worth a walk of its own
LEAST_REGIONS = 4.0  # of a group on the average: every group costs a walk of its own


class Still:
    """The groups of a problem's regions, with the boxes of what stands still, made when they are first asked for."""

    def __init__(self, program: Program, fine: Program, lower: Tensor, upper: Tensor, moving: Tensor | None = None):
        """`fine`: the program in float64; lower, upper (R, m) float64; `moving` (R, m) bool, where that is not all
        whose ends differ: ends may have been moved apart by rounding.
        """
        self.fine, self.lower, self.upper = fine, lower, upper
        self.dtype = program.dtype
        self.reach = reach(fine)  # (m, K)
        moving = upper > lower if moving is None else moving
        patterns, pattern = torch.unique(moving, dim=0, return_inverse=True)
        reached = (patterns.double() @ self.reach.double()) > 0
        reached[~reached[:, -1]] = True  # a result that stands still is left to those who bound everything
        groups, group = torch.unique(reached, dim=0, return_inverse=True)
        self.group = group[pattern]  # (R,)
        groups = self._merge_small(groups)
        self.moves = [tuple(row.tolist()) for row in groups]
        self.frontiers = [self._frontier(moves) for moves in self.moves]
        self.places: dict[tuple[int, ...], tuple[Tensor, Tensor]] = {}
        self.tables: dict[tuple[int, torch.dtype], tuple[Tensor, Tensor, Tensor]] = {}

    def _merge_small(self, groups: Tensor) -> Tensor:
        """Groups (G, K) bool with those of few regions made one: in it moves what moves in any of them."""
        count = torch.bincount(self.group, minlength=len(groups))
        small = count < SMALL * len(self.group)
        if int(small.sum()) < 2:
            return groups
        place = torch.where(small, 0, (~small).cumsum(0))
        self.group = place[self.group]
        return torch.cat([groups[small].any(0, keepdim=True), groups[~small]])

    def _frontier(self, moves: Sequence[bool]) -> list[int]:
        read = {i for k, step in enumerate(self.fine.steps) if k and moves[k] for i in step.inputs}
        return sorted(i for i in read if not moves[i])

    @property
    def share(self) -> float:
        """The share of all values' entries that move, on the average over the regions."""
        sizes = torch.tensor([float(size(s)) for s in self.fine.shapes], dtype=torch.float64)
        each = torch.stack([sizes[torch.tensor(m)].sum() for m in self.moves]) / sizes.sum()
        return float(each[self.group.cpu()].mean())

    @property
    def bytes(self) -> int:
        """What the boxes of all values that stand still take, in both precisions."""
        values = {i for frontier in self.frontiers for i in frontier}
        return sum(24 * len(self._different(i)[1]) * size(self.fine.shapes[i]) for i in values)

    def pays(self) -> bool:
        """Whether bounds save much by it."""
        many = len(self.lower) >= LEAST_REGIONS * len(self.moves)
        return many and self.share <= WORTH and self.bytes <= TABLE_BYTES

    def part(self, group: int, region: Tensor, dtype: torch.dtype) -> Part:
        """For domains in regions (D,) of one group."""
        boxes = {}
        for value in self.frontiers[group]:
            at, l, u = self._table(value, dtype)
            boxes[value] = (l[at[region]], u[at[region]])
        return Part(self.moves[group], boxes)

    def _table(self, value: int, dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor]:
        """For every region its place (R,) among boxes (U, *shape) of a value."""
        if (value, dtype) not in self.tables:
            if dtype == torch.float64:
                self.tables[value, dtype] = self._make(value)
            else:
                at, l, u = self._table(value, torch.float64)
                self.tables[value, dtype] = (at, outward(l, dtype, -1), outward(u, dtype, 1))
        return self.tables[value, dtype]

    def bound(
        self,
        program: Program,
        l: Tensor,
        u: Tensor,
        region: Tensor,
        coef: Tensor,
        row: Tensor,
        method: str,
        limit: Limits,
        within: Halfspaces | None = None,
        fine: Program | None = None,
    ) -> RowBounds:
        """As `bound_rows`, for domains in regions (D,) of any groups."""
        group = self.group[region]
        order, parts = torch.argsort(group, stable=True), []
        for some in order.split(torch.bincount(group, minlength=len(self.moves)).tolist()):
            if len(some):
                part = self.part(int(group[some[0]]), region[some], program.dtype)
                given = Given(None if within is None else within.at(some), part, fine)
                parts.append(bound_rows(program, l[some], u[some], coef, row[some], method, limit, given))
        return join(parts).at(torch.argsort(order))

    def _different(self, value: int) -> tuple[Tensor, Tensor]:
        """For every region its place (R,) among the boxes of what a value depends on, and a region (U,) of each."""
        dims = torch.nonzero(self.reach[:, value]).squeeze(1)
        key = tuple(dims.tolist())
        if key not in self.places:
            ends = torch.cat([self.lower[:, dims], self.upper[:, dims]], 1)
            if not len(dims):  # all the model's own
                ends = torch.zeros_like(self.lower[:, :1])
            known, at = torch.unique(ends, dim=0, return_inverse=True)
            first = torch.full((len(known),), len(at), dtype=at.dtype, device=at.device)
            first = first.scatter_reduce(0, at, torch.arange(len(at), device=at.device), "amin")
            self.places[key] = (at, first)
        return self.places[key]

    def _make(self, value: int) -> tuple[Tensor, Tensor, Tensor]:
        at, first = self._different(value)
        cone = self._cone(value)
        block = max(1, BLOCK_ENTRIES // sum(size(self.fine.shapes[k]) for k in cone))
        parts = [self._boxes(value, cone, self.lower[some], self.upper[some]) for some in first.split(block)]
        return at, *(torch.cat(p) for p in zip(*parts))

    def _cone(self, value: int) -> list[int]:
        """All values that one depends on, itself among them, in order."""
        wanted = {value}
        for k in range(value, 0, -1):
            if k in wanted:
                wanted.update(self.fine.steps[k].inputs)
        return sorted(wanted)

    def _boxes(self, value: int, cone: list[int], l: Tensor, u: Tensor) -> Box:
        boxes: dict[int, Box] = {0: (l, u)}
        for k in cone:
            if k:
                step = self.fine.steps[k]
                boxes[k] = step_interval(step, [boxes[i] for i in step.inputs])[:2]
        return boxes[value]


def reach(program: Program) -> Tensor:
    """Which input dimension reaches which value: bool (m, K)."""
    one = torch.eye(program.n_in, dtype=program.dtype, device=program.device)
    masks, found = [one], [torch.ones(program.n_in, dtype=torch.bool, device=program.device)]
    last = program.last_use
    for k in range(1, len(program.steps)):
        step = program.steps[k]
        if isinstance(step.op, Move):
            mask = step.op.absolute(*(masks[i] for i in step.inputs))
        elif isinstance(step.op, Pointwise):
            mask = masks[step.inputs[0]]
        else:
            any_of = torch.stack([found[i] for i in step.inputs]).any(0).to(one.dtype)
            mask = any_of.view(-1, *[1] * len(program.shapes[k])).expand(-1, *program.shapes[k])
        masks.append(mask)
        found.append((mask != 0).reshape(len(mask), size(program.shapes[k])).any(1))
        for i in step.inputs:
            if last[i] == k:
                masks[i] = None  # nobody reads it any more
    return torch.stack(found, 1)


def affordable(program: Program) -> bool:
    """Whether `reach` may be asked for."""
    return program.n_in * max(size(s) for s in program.shapes) <= MOST_ENTRIES
