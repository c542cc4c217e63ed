"""The pool of open domains: a struct of arrays on the device, without a Python object per domain.

A domain is a box of a region, the set of the region's disjuncts that are still open in it, its score (the least, over
open disjuncts, of the best row bound: how far it is from refutation; lower is worse) and the dimensions to split next,
best first. It may carry half-spaces outside of which an open disjunct cannot hold.

Symbols: D domains, m dimensions, K disjuncts of a region at most, P preferred dimensions, C half-spaces.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Generic, TypeVar

import torch
from torch import Tensor


class Arrays:
    """Arrays of one length D, named by the dataclass that derives from this. `score` (D,) must be among them: lower is
    further from refutation.
    """

    score: Tensor

    def __len__(self) -> int:
        return len(self.score)

    def take(self, index: Tensor | slice):
        """The domains at an index or mask."""
        return type(self)(*(getattr(self, f.name)[index] for f in fields(self)))

    @classmethod
    def join(cls, parts: list):
        return cls(*(torch.cat([getattr(p, f.name) for p in parts]) for f in fields(cls)))

    def bytes(self) -> int:
        return sum(t.numel() * t.element_size() for t in (getattr(self, f.name) for f in fields(self)))


A = TypeVar("A", bound=Arrays)


@dataclass
class Domains(Arrays):
    """Boxes: arrays of one length D. `lower`, `upper` (D, m); `region` (D,); `open` (D, K) bool; `score` (D,) float64;
    `prefer` (D,) int64, the dimension to split. Half-spaces `g` (D, C, m) x + `h` (D, C) <= 0, each for the disjunct
    `owner` (D, C) alone, -1 where there are fewer.
    """

    lower: Tensor
    upper: Tensor
    region: Tensor
    open: Tensor
    score: Tensor
    prefer: Tensor
    g: Tensor | None = None
    h: Tensor | None = None
    owner: Tensor | None = None

    def __post_init__(self):
        if self.g is None:
            d, m = self.lower.shape
            self.g, self.h = self.lower.new_zeros((d, 0, m)), self.lower.new_zeros((d, 0))
            self.owner = self.region.new_zeros((d, 0))


class Pool(Generic[A]):
    """Open domains waiting to be split, worst first; past half of `limit` bytes nearly done first, which empties the
    pool instead of widening it.
    """

    def __init__(self, limit: int):
        self.limit = limit
        self.held: A | None = None

    def __len__(self) -> int:
        return 0 if self.held is None else len(self.held)

    def bytes(self) -> int:
        return 0 if self.held is None else self.held.bytes()

    def add(self, domains: A) -> None:
        if len(domains):
            self.held = domains if self.held is None else type(domains).join([self.held, domains])

    def pop(self, count: int, among: Tensor | None = None) -> A:
        """Removes and returns up to `count` domains, of those where `among` (D,) holds if it is given: those furthest
        from refutation, or the nearest when memory is short.
        """
        held = self.held
        if among is None and count >= len(held):
            self.held = None
            return held
        crowded = 2 * held.bytes() > self.limit
        score = held.score if among is None else held.score[among]
        chosen = torch.topk(score, min(count, len(score)), largest=crowded, sorted=False).indices
        chosen = chosen if among is None else torch.nonzero(among).squeeze(1)[chosen]
        rest = torch.ones(len(held), dtype=torch.bool, device=held.score.device)
        rest[chosen] = False
        self.held = held.take(rest) if bool(rest.any()) else None
        return held.take(chosen)

    def worst(self, count: int) -> A:
        """The `count` domains furthest from refutation, left in the pool."""
        chosen = torch.topk(self.held.score, min(count, len(self.held)), largest=False).indices
        return self.held.take(chosen)


def halvable(l: Tensor, u: Tensor, whole: Tensor | None = None) -> Tensor:
    """Where a side's middle differs from both of its ends: bool like l. Narrower ones the precision cannot halve; of
    `whole` dimensions (m,) bool those that hold two whole numbers.
    """
    middle = l + (u - l) / 2
    can = (middle > l) & (middle < u)
    return can if whole is None else torch.where(whole, middle.floor() + 1 <= u.floor(), can)


def shrunk(domains: Domains, whole: Tensor | None) -> Domains:
    """Domains whose ends in `whole` dimensions (m,) bool are whole numbers; without those that hold none.

    Sound: no input of the model is left out, since it has whole numbers there.
    """
    if whole is None:
        return domains
    out = domains.take(slice(None))
    out.lower = torch.where(whole, domains.lower.ceil(), domains.lower)
    out.upper = torch.where(whole, domains.upper.floor(), domains.upper)
    return out.take((out.lower <= out.upper).all(1))


def split(domains: Domains, whole: Tensor | None = None) -> tuple[Domains, Tensor]:
    """Halves every domain along its preferred dimension: children that cover their parents exactly, but for what lies
    between two neighbours in a dimension of `whole` numbers (m,) bool.

    One dimension a round: to split several along what one bound told costs twice the domains, and more with clipping.
    A dimension whose middle is one of its ends is as fine as the working precision allows and is not halved. Returns
    the children, left halves first, and for every parent whether it could not be halved (such a parent yields one
    child, itself, at its own place).
    """
    d = domains.prefer.unsqueeze(1)
    l, u = domains.lower.gather(1, d), domains.upper.gather(1, d)
    mine = None if whole is None else whole[d]
    mid, can = l + (u - l) / 2, halvable(l, u, mine)
    after = mid
    if mine is not None:
        mid = torch.where(mine, mid.floor(), mid)
        after = torch.where(mine, mid + 1, mid)
    split = can.squeeze(1)
    left, right = domains.take(slice(None)), domains.take(split)
    left.upper = torch.where(can, left.upper.scatter(1, d, mid), left.upper)
    right.lower = right.lower.scatter(1, d[split], after[split])
    return Domains.join([left, right]), ~split
