"""Which of two rules names the dimension to split: now and then both are tried on a few domains.

The heuristic as configured reads its choice off a domain's own bounds (`verifier.branching.input`). Where these mislead
it, its choices change little, domain after domain, while the children of a split along the widest dimension would be
closed at once; the search then goes on for ever without its rate telling. So in many rounds a few parents are split by
both rules and their children bounded. What counts is the deficit, how far below refutation the children are
together, relative to twice the parent's (0: both closed; 1: nothing gained). At a mean deficit q a branch of the tree
is about ln(1 / `CLOSED`) / ln(1 / q) levels deep, and twice as large for every level. From then on the cheaper is done:
follow the first rule, follow the second, or try both on every parent, which costs three times as much and has the
better of the two.

Sound: only the choice of a dimension depends on it.

Symbols: P parents, m dimensions.
"""

from __future__ import annotations

from collections.abc import Callable
from math import inf, log

import torch
from torch import Tensor

from verifier.search.domains import Domains, halvable, split

SAMPLE = 64  # parents on which both rules are tried
LEAST = 8  # fewer say nothing
SHARE = 0.05  # of all children bounded: more is not spent on trying the rules on samples
CLOSED = 0.05  # a deficit that counts as closed, when levels are counted
BOTH = 3.0  # bounding the children of two splits, then those of the better one again

Score = Callable[[Domains], Tensor]  # least bound of the open disjuncts, (D,); above 0 is refuted


class Trials:
    """What is done is one of `first`, `second` and `both`; `scale` (m,): widths of the
    regions; `whole` as for `split`."""

    def __init__(self, scale: Tensor, whole: Tensor | None = None):
        self.scale, self.whole, self.rule = scale, whole, "first"
        self.children, self.sampled = 0, 0  # of all parents; bounded to weigh the rules
        self.tried = 0  # children bounded on trial so far

    def choose(self, parents: Domains, score: Score) -> Domains:
        """The parents, each with the dimension along which to split it."""
        second = self._second(parents)
        self.children += 2 * len(parents)
        if len(parents) >= LEAST and self.sampled <= SHARE * self.children:
            some, before = slice(0, SAMPLE), self.tried
            self._decide(self._deficits(parents.take(some), second[some], score))
            self.sampled += self.tried - before
        if self.rule == "first":
            return parents
        out = parents.take(slice(None))
        if self.rule == "both":
            first, other = self._deficits(parents, second, score)
            second = torch.where(other < first, second, parents.prefer)
        out.prefer = second
        return out

    def _second(self, parents: Domains) -> Tensor:
        """The widest dimension but the first rule's, if another one can be halved: (P,)."""
        width = (parents.upper - parents.lower) / self.scale
        width = torch.where(halvable(parents.lower, parents.upper, self.whole), width, -1.0)
        width = width.scatter(1, parents.prefer.unsqueeze(1), -1.0)
        widest = width.max(1)
        return torch.where(widest.values > 0, widest.indices, parents.prefer)

    def _deficits(self, parents: Domains, second: Tensor, score: Score) -> tuple[Tensor, Tensor]:
        """Of both rules, (P,) each."""
        found = []
        for dimension in (parents.prefer, second):
            tried = parents.take(slice(None))
            tried.prefer = dimension
            children, whole = split(tried, self.whole)
            self.tried += len(children)
            lacking = (-torch.nan_to_num(score(children), nan=-inf)).clamp(0.0, 1e30)
            total = lacking[: len(parents)].clone()  # left halves first
            total[~whole] += lacking[len(parents) :]
            total[whole] *= 2
            found.append((total / (2 * (-parents.score).clamp(min=1e-30))).clamp(max=1.0))
        return found[0], found[1]

    def _decide(self, deficits: tuple[Tensor, Tensor]) -> None:
        first, second = deficits
        cost = {
            "first": size_of_tree(float(first.mean())),
            "second": size_of_tree(float(second.mean())),
            "both": BOTH * size_of_tree(float(torch.minimum(first, second).mean())),
        }
        self.rule = min(cost, key=cost.get)


def size_of_tree(deficit: float) -> float:
    """Domains of a branch whose children have this mean deficit."""
    if deficit <= CLOSED:
        return 2.0
    return 2.0 ** min(log(CLOSED) / log(deficit), 500.0) if deficit < 1 else 2.0**500
