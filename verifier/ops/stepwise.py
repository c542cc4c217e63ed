"""Operators whose results are discrete or picked: flat planes where a value is open, the value itself where it is not.

Two kinds of joints share this file. A `Stepwise` one has an interval and nothing else (comparisons, indices): its
planes have no slope and the ends as offsets, which encloses f because the interval does. A `Selecting` one hands on
entries of its operands, chosen by values that depend on x too (Where, Gather, Scatter): an entry whose source is
settled in the whole box equals that source, so both planes have the single coefficient 1 and no offset; any other
entry lies in the hull of everything that it may be, and is flat. Nothing is rounded, so nothing needs slack.

Whole numbers. Boxes of integers come in the working precision, moved outward by steps that rounded; the whole numbers
in them (`whole_range`) are all that the value can be.

Symbols: D domains, S rows, O entries of the result; boxes (D, *in_shape_i); `source`, `place` (D, *out_shape).
"""

from __future__ import annotations

from math import prod
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from verifier.ops.arithmetic import lift, unbroadcast
from verifier.ops.base import Joint, Planes, Shape, Site

Box = tuple[Tensor, Tensor]
FLAT = -1  # a source that is not settled


def whole_range(l: Tensor, u: Tensor, least: int, most: int) -> tuple[Tensor, Tensor]:
    """First and last whole number (int64) in [l, u], both moved into least..most; ends that are no numbers are open.

    A box of whole numbers holds at least one of them. One that holds none (ends of a fraction, handed in by mistake)
    is widened to the numbers around it.
    """
    low = torch.nan_to_num(l.ceil(), nan=float(least), posinf=float(most), neginf=float(least))
    high = torch.nan_to_num(u.floor(), nan=float(most), posinf=float(most), neginf=float(least))
    low, high = torch.minimum(low, high), torch.maximum(low, high)
    return low.clamp(least, most).long(), high.clamp(least, most).long()


class FlatPlanes(Planes):
    """Both planes without slope: the ends of an interval (D, *out_shape)."""

    def __init__(self, low: Tensor, high: Tensor, in_shapes: tuple[Shape, ...]):
        super().__init__(low, high, low.abs(), high.abs())
        self.in_shapes = in_shapes

    def pull(self, pos: Tensor, neg: Tensor) -> tuple[Tensor, ...]:
        return tuple(pos.new_zeros((*pos.shape[:2], *s)) for s in self.in_shapes)

    def values(self, *xs: Tensor) -> tuple[Tensor, Tensor]:
        count = xs[0].shape[1]
        return tuple(b.unsqueeze(1).expand(-1, count, *b.shape[1:]) for b in (self.lo_b, self.up_b))


class Stepwise(Joint):
    """Subclasses give `forward` and `interval`; where they act entry by entry, `steep` needs no help."""

    terms = 2

    def relax(self, *boxes: Box) -> Planes:
        return FlatPlanes(*self.interval(*boxes), self.in_shapes)

    def steep(self, a: Tensor, *boxes: Box) -> tuple[Tensor, ...]:
        """The rise from the lower to the upper end, over the width of each input."""
        return tuple(self.shared(a, l, u, *self.interval(*boxes)) for l, u in boxes)

    def shared(self, a: Tensor, l: Tensor, u: Tensor, low: Tensor, high: Tensor) -> Tensor:
        """Rows (D, S, *out_shape) times the rise, given to the input with box [l, u], divided by its width."""
        rise = a * torch.nan_to_num(high - low, posinf=1.0).unsqueeze(1)
        width = torch.nan_to_num(u - l, posinf=1e30)
        share = torch.where(width > 0, 1 / width.clamp(min=1e-30), 0.0).unsqueeze(1)
        back = self.spread(rise.flatten(0, 1), tuple(l.shape[1:])).reshape(*a.shape[:2], *l.shape[1:])
        return torch.nan_to_num(back * share, posinf=0.0, neginf=0.0)

    def spread(self, a: Tensor, shape: Shape) -> Tensor:
        """Rows (N, *out_shape) to an input's shape (N, *shape): each entry to those that it depends on, roughly."""
        return unbroadcast(a, shape)


class Choice(NamedTuple):
    """What a `Selecting` joint may yield in a box: the hull [low, high] of every entry, and where it is settled
    which variable input (`source`, else FLAT) and which of that input's flat entries (`place`) it equals. `size`
    bounds what was summed to get open ends, if anything was.
    """

    low: Tensor
    high: Tensor
    source: Tensor
    place: Tensor
    size: Tensor | None = None


class PickPlanes(Planes):
    """Planes of a `Selecting` joint: coefficient 1 at (source, place) where settled, the hull's ends elsewhere."""

    def __init__(self, choice: Choice, in_shapes: tuple[Shape, ...]):
        self.in_shapes = in_shapes
        self.source, self.place = choice.source, choice.place
        settled = choice.source != FLAT
        low, high = choice.low.abs(), choice.high.abs()
        size = torch.maximum(low, high)
        if choice.size is not None:
            low, high = torch.maximum(low, choice.size), torch.maximum(high, choice.size)
        super().__init__(
            torch.where(settled, 0.0, choice.low),
            torch.where(settled, 0.0, choice.high),
            torch.where(settled, size, low),
            torch.where(settled, size, high),
        )

    def pull(self, pos: Tensor, neg: Tensor) -> tuple[Tensor, ...]:
        domains, rows = pos.shape[:2]
        both = (pos + neg).reshape(domains, rows, -1)
        place = self.place.reshape(domains, 1, -1).expand(-1, rows, -1)
        found = []
        for i, shape in enumerate(self.in_shapes):
            mine = (self.source == i).reshape(domains, 1, -1)
            x = pos.new_zeros((domains, rows, prod(shape)))
            if bool(mine.any()):
                x.scatter_add_(2, torch.where(mine, place, 0), torch.where(mine, both, 0.0))
            found.append(x.reshape(domains, rows, *shape))
        return tuple(found)

    def values(self, *xs: Tensor) -> tuple[Tensor, Tensor]:
        domains, count = xs[0].shape[:2]
        shape = self.source.shape[1:]
        source = self.source.reshape(domains, 1, -1)
        place = self.place.reshape(domains, 1, -1).expand(-1, count, -1)
        y = xs[0].new_zeros((domains, count, prod(shape)))
        for i, x in enumerate(xs):
            flat = x.reshape(domains, count, -1)
            if flat.shape[2]:
                y = torch.where(source == i, flat.gather(2, torch.where(source == i, place, 0)), y)
        y = y.reshape(domains, count, *shape)
        return y + self.lo_b.unsqueeze(1), y + self.up_b.unsqueeze(1)


class Selecting(Joint):
    """Subclasses give `choose`, and `terms`: at least how often one entry of an operand may be handed on."""

    def choose(self, *boxes: Box) -> Choice:
        """The hulls, and the settled sources. A source with an infinite end must be FLAT."""
        raise NotImplementedError

    def interval(self, *boxes: Box) -> Box:
        low, high, *_ = self.choose(*boxes)
        return low, high

    def relax(self, *boxes: Box) -> Planes:
        return PickPlanes(self.choose(*boxes), self.in_shapes)

    def steep(self, a: Tensor, *boxes: Box) -> tuple[Tensor, ...]:
        """Settled entries hand their rows on; an open one rises by its hull over the width of all inputs alike."""
        choice = self.choose(*boxes)
        handed = PickPlanes(choice, self.in_shapes).pull(a, torch.zeros_like(a))
        rise = torch.where(choice.source == FLAT, torch.nan_to_num(choice.high - choice.low, posinf=1.0), 0.0)
        total = (a.abs() * rise.unsqueeze(1)).reshape(*a.shape[:2], -1).sum(2)
        found = []
        for part, (l, u) in zip(handed, boxes):
            width = torch.nan_to_num(u - l, posinf=1e30).unsqueeze(1)
            share = torch.where(width > 0, 1 / width.clamp(min=1e-30), 0.0) / max(prod(l.shape[1:]), 1)
            found.append(part + total.reshape(*total.shape, *(1,) * (l.ndim - 1)) * share)
        return tuple(torch.nan_to_num(p, posinf=0.0, neginf=0.0) for p in found)


def finite(l: Tensor, u: Tensor) -> Tensor:
    """Where both ends are numbers."""
    return torch.isfinite(l) & torch.isfinite(u)


def held(exact: Tensor, dtype: torch.dtype) -> Box:
    """The ends of numbers in the working precision, moved outward where that cannot hold them."""
    near = exact.to(dtype)
    if exact.dtype == torch.bool:
        return near, near
    off = near.double() != exact.double() if exact.is_floating_point() else near.to(exact.dtype) != exact
    inf = torch.full_like(near, float("inf"))
    return torch.where(off, torch.nextafter(near, -inf), near), torch.where(off, torch.nextafter(near, inf), near)


def held_box(site: Site, i: int) -> Box | None:
    """Input i's constant value as a box (1, *shape) in the working precision; None where it is not constant."""
    if i >= len(site.constants) or site.constants[i] is None:
        return None
    exact = torch.from_numpy(np.array(site.constants[i])).to(site.device)
    return tuple(t.unsqueeze(0) for t in held(exact, site.dtype))


def broadcast(box: Box, out: Shape) -> Box:
    """A box (D, *shape) seen with the result's shape (D, *out)."""
    return tuple(lift(t, len(out)).expand(t.shape[0], *out) for t in box)


class EntrySteps(Stepwise):
    """A function of several operands entry by entry; they broadcast, and some may be constant. Subclasses give
    `combine`, and `steps` for its range."""

    integers = "keep"
    native = True

    def __init__(self, site: Site):
        super().__init__(site)
        self.fixed = [site.constant(i) for i in range(len(site.shapes))]
        self.held = [held_box(site, i) for i in range(len(site.shapes))]
        self.rank = len(site.shape)
        self.terms = 2 * max([1, *(prod(site.shape) // max(prod(s), 1) for s in self.in_shapes)])

    def combine(self, *operands: Tensor) -> Tensor:
        raise NotImplementedError

    def steps(self, *operands: Box) -> Box:
        """Ends (D, *out_shape) from the operands' boxes, brought to that shape, in the file's order."""
        raise NotImplementedError

    def forward(self, *xs: Tensor) -> Tensor:
        left = iter(xs)
        return self.combine(*(lift(next(left), self.rank) if c is None else c for c in self.fixed))

    def operands(self, boxes: tuple[Box, ...]) -> list[Box]:
        left, domains = iter(boxes), boxes[0][0].shape[0]
        found = [broadcast(next(left) if h is None else h, self.out_shape) for h in self.held]
        return [tuple(t.expand(domains, *self.out_shape) for t in box) for box in found]

    def interval(self, *boxes: Box) -> Box:
        return self.steps(*self.operands(boxes))


def settled_by(yes: Tensor, no: Tensor, like: Tensor) -> Box:
    """Ends of a truth value: 1 where surely true, 0 where surely false, [0, 1] elsewhere."""
    return yes.to(like.dtype), 1 - no.to(like.dtype)
