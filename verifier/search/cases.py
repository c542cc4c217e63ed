"""Domains of the neuron-splitting search: a region's box, one disjunct, and a list of neuron splits.

Symbols: D domains, P splits at most, K columns (unstable neurons), S rows of a disjunct, C curved columns, Q preferred
columns, R columns to look at, n input dimensions that move.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from verifier.bounds.relaxation import Multipliers, Relaxation, Splits
from verifier.search.domains import Arrays


@dataclass
class Cases(Arrays):
    """`slot` (D,): the disjunct. Splits: `column`, `sign`, `point` (D, P), column -1 where there are fewer.
    Multipliers: `alpha` (D, K), `upper` (D, C) in half precision (any value is sound), `beta` (D, P), `weights` (D, S).
    `score` (D,) float64: the bound. `prefer` (D, Q): columns to split next, best first, -1 for none; `where` (D, Q): at
    which point.

    What clipping knows (`verifier.search.tighter`), with K, R and n 0 where it is off: `low`, `high` (D, K) in half
    precision, rounded outward: where the columns' values lie in a counterexample, besides the root's boxes and the
    splits; a half-space `g` (D, n), `mid`, `reach` (D,) that holds it; `look` (D, R) int32: the columns whose boxes
    matter, best first, -1 for none, and how much a unit of their ends does, `matter` (D, R).
    """

    slot: Tensor
    column: Tensor
    sign: Tensor
    point: Tensor
    alpha: Tensor
    upper: Tensor
    beta: Tensor
    weights: Tensor
    score: Tensor
    prefer: Tensor
    where: Tensor
    low: Tensor | None = None
    high: Tensor | None = None
    g: Tensor | None = None
    mid: Tensor | None = None
    reach: Tensor | None = None
    look: Tensor | None = None
    matter: Tensor | None = None

    def __post_init__(self):
        if self.low is None:
            none, zero = self.where.new_zeros((len(self.score), 0)), torch.zeros_like(self.score)
            self.low, self.high, self.g, self.look, self.matter = (
                none.half(),
                none.half(),
                none,
                none.int(),
                none.half(),
            )
            self.mid, self.reach = zero - 1, zero

    @classmethod
    def join(cls, parts: list[Cases]) -> Cases:
        """One after another; split lists are padded to the longest."""
        parts = [p for p in parts if len(p)] or parts[:1]
        width = max(p.column.shape[1] for p in parts)
        return super().join([p.padded(width) for p in parts])

    def boxes(self, lower: Tensor, upper: Tensor) -> tuple[Tensor, Tensor] | None:
        """Boxes (D, K) of the columns, within the root's (K,); None where clipping is off."""
        if not self.low.shape[1]:
            return None
        return torch.maximum(self.low.to(lower.dtype), lower), torch.minimum(self.high.to(upper.dtype), upper)

    def padded(self, width: int) -> Cases:
        """The same with room for `width` splits at least."""
        more = width - self.column.shape[1]
        if more <= 0:
            return self
        pad = torch.nn.functional.pad
        wide = {
            "column": pad(self.column, (0, more), value=-1),
            "sign": pad(self.sign, (0, more)),
            "point": pad(self.point, (0, more)),
            "beta": pad(self.beta, (0, more)),
        }
        return Cases(**{**self.__dict__, **wide})

    @property
    def splits(self) -> Splits:
        return Splits(self.column, self.sign, self.point)

    def multipliers(self, dtype: torch.dtype) -> Multipliers:
        return Multipliers(*(t.to(dtype) for t in (self.alpha, self.upper, self.beta, self.weights)))


def roots(r: Relaxation, slot: Tensor, weights: Tensor, preferred: int) -> Cases:
    """Cases without splits of disjuncts `slot` (D,), with the relaxation's own slopes and weights (D, S); nothing is
    known of them, and `preferred` columns can be ranked.
    """
    n, none = len(slot), Splits.none(len(slot), r.alpha)
    return Cases(
        slot,
        none.column,
        none.sign,
        none.point,
        r.alpha.expand(n, -1).half(),
        r.upper_slopes.expand(n, -1).half(),
        none.sign.clone(),
        weights,
        torch.full((n,), -float("inf"), dtype=torch.float64, device=slot.device),
        slot.new_full((n, preferred), -1),
        r.alpha.new_zeros((n, preferred)),
    )


def split(parents: Cases, levels: int) -> Cases:
    """Splits every domain at its first `levels` preferred columns, as far as it has so many: the children cover it.

    A domain without a preferred column comes back as it is.
    """
    depth = (parents.column >= 0).sum(1)
    children = parents.padded(int(depth.max()) + levels)
    for level in range(levels):
        at = children.prefer[:, level]
        can = at >= 0
        two = torch.cat([torch.arange(len(children), device=at.device), torch.nonzero(can).squeeze(1)])
        first = len(children)
        children = children.take(two)
        place = (children.column >= 0).sum(1, keepdim=True)
        column = children.prefer[:, level : level + 1]
        real = column >= 0
        place = torch.where(real, place, place.clamp(max=children.column.shape[1] - 1))
        sign = torch.ones_like(children.sign[:, :1])
        sign[first:] = -1
        old = children
        children = Cases(**old.__dict__)
        children.column = old.column.scatter(1, place, torch.where(real, column, old.column.gather(1, place)))
        point = old.where[:, level : level + 1]
        children.point = old.point.scatter(1, place, torch.where(real, point, old.point.gather(1, place)))
        children.sign = old.sign.scatter(1, place, torch.where(real, sign, old.sign.gather(1, place)))
    return children
