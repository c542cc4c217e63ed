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
        """One after another; lists of splits and of columns to look at are padded to the longest."""
        parts = [p for p in parts if len(p)] or parts[:1]
        width, looked = (max(t.shape[1] for t in ts) for ts in zip(*((p.column, p.look) for p in parts)))
        return super().join([p.padded(width, looked) for p in parts])

    def boxes(self, lower: Tensor, upper: Tensor) -> tuple[Tensor, Tensor] | None:
        """Boxes (D, K) of the columns, within the root's (K,); None where clipping is off."""
        if not self.low.shape[1]:
            return None
        return torch.maximum(self.low.to(lower.dtype), lower), torch.minimum(self.high.to(upper.dtype), upper)

    def padded(self, width: int, looked: int = 0) -> Cases:
        """The same with room for `width` splits and `looked` columns to look at, at least."""
        wide = dict(self.__dict__)
        for least, none, *names in ((width, "column", "sign", "point", "beta"), (looked, "look", "matter")):
            more = least - wide[none].shape[1]
            for name in (none, *names) if more > 0 else ():
                wide[name] = torch.nn.functional.pad(wide[name], (0, more), value=-1 if name == none else 0)
        return Cases(**wide)

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


def moved(cases: Cases, old: Relaxation, new: Relaxation) -> Cases:
    """Cases of a relaxation as cases of another one of the same program and region. Nothing is preferred in them: they
    are to be bounded before they can be split.

    Sound: a case is dropped only where one of its splits holds nowhere on the new box, which has all values there are.
    Splits that hold on all of it, or whose entries have no column there, are left out; that makes a case no smaller.
    What clipping knows of the case's counterexamples stays true.
    """
    there, first, low, high = old.moved(new)
    real, j, up = cases.column >= 0, cases.column.clamp(min=0), cases.sign > 0
    never = real & torch.where(up, high[j] < cases.point, low[j] > cases.point)
    sure = torch.where(up, low[j] >= cases.point, high[j] <= cases.point)
    column = torch.where(real & ~sure, first[j], -1)
    order = torch.argsort((column < 0).to(torch.uint8), dim=1, stable=True)  # real ones first, as `split` wants them
    column, sign, point, beta = (t.gather(1, order) for t in (column, cases.sign, cases.point, cases.beta))

    alpha, upper = (t.expand(len(cases), -1).half() for t in (new.alpha, new.upper_slopes))
    c = torch.nonzero(there >= 0).squeeze(1)
    alpha[:, there[c]] = cases.alpha[:, c]
    b = c[(old.curve_of[c] >= 0) & (new.curve_of[there[c]] >= 0)]
    upper[:, new.curve_of[there[b]]] = cases.upper[:, old.curve_of[b]]
    if cases.low.shape[1]:
        far = cases.low.new_full((len(cases), new.width), torch.inf)
        least, most = -far, far
        least[:, there[c]], most[:, there[c]] = cases.low[:, c], cases.high[:, c]
    else:
        least, most = cases.low, cases.high
    found = Cases(
        cases.slot,
        column,
        sign,
        point,
        alpha,
        upper,
        beta,
        cases.weights,
        cases.score,
        torch.full_like(cases.prefer, -1),
        torch.zeros_like(cases.where),
        least,
        most,
        cases.g,
        cases.mid,
        cases.reach,
        cases.look[:, :0],
        cases.matter[:, :0],
    )
    return found.take(~never.any(1))


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
