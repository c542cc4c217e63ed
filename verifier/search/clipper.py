"""Clips the input search's domains with half-spaces that their own bounds give.

A disjunct k holds at x only if all its rows are <= 0 there. Over a domain's box row s is at least plane_s x + bias_s:
where k holds, plane_s x + bias_s <= 0, a half-space of disjunct k, and of k alone. Of a box that several open disjuncts
share, the hull of what each of them leaves is kept. A disjunct whose half-spaces leave nothing is closed. Planes hold
in their whole box, so children inherit them; and what was bounded within half-spaces need hold only there, which is
where counterexamples are.

Linear constraints on inputs are rows like others (`verifier.problem`), whose planes are the constraints themselves.

`relaxed` shrinks boxes by their fresh planes before a dimension is chosen. `reordered` shrinks the children too, once
they are split. `complete` also looks for multipliers that refute a disjunct by several of its planes, and bounds
neurons within the half-spaces of the one open disjunct; `all` keeps the path's planes, the deepest cuts first.

It turns itself down where it does not pay. Planes that cut nothing off their box are dropped, and domains without
planes cost nothing. Domains are bounded within the two half-spaces that cut deepest (within eight, domains were no
fewer where that was measured, and took 1.3 times as long). That is weighed against bounding without on a few domains,
as often as a small share of the time allows: where it costs more than it spares, as domains closed or as what the
others' bounds still lack, it is left out until the next time.

Symbols: D domains, S rows, K disjuncts, C half-spaces, m dimensions, P pairs of a domain and an open disjunct.
"""

from __future__ import annotations

import torch
from torch import Tensor

from verifier.bounds.base import RowBounds
from verifier.bounds.interval import outward
from verifier.bounds.proved import proves_positive
from verifier.bounds.targets import Picked
from verifier.clip.complete import minima
from verifier.clip.constraints import Halfspaces, depth, halfspaces
from verifier.clip.relaxed import clip
from verifier.config import ClipConfig
from verifier.search.domains import Domains

PAYS = 0.03  # of what bounds lack, from which bounding within half-spaces may pay
FEW = 16  # domains that say too little
SHARE = 0.01  # of the time spent on bounds, for weighing
DEEPEST = 2  # half-spaces that a domain is bounded within
LEVEL = ("none", "relaxed", "reordered", "complete", "all")


class Clipper:
    """Clipping as configured; `trusted`: planes in the working precision hold in real arithmetic."""

    def __init__(self, config: ClipConfig, trusted: bool):
        self.level = LEVEL.index(config.method) if trusted else 0
        self.most = config.planes
        self.stats = {"closed by clipping": 0, "bounded within half-spaces": 0}
        self.deep = False
        self.spent = [0.0, 0.0]  # seconds of bounding the same domains without and within half-spaces

    # --- before bounding

    def children(self, domains: Domains) -> Domains:
        """What is left of children by their parents' planes."""
        return self.shrink(domains)[0] if self.level >= 2 else domains

    def shrink(self, domains: Domains) -> tuple[Domains, Tensor]:
        """Domains within their half-spaces without those of which nothing is left, and where something was (D,)."""
        some = torch.nonzero((domains.owner >= 0).any(1)).squeeze(1)
        alive = domains.open.any(1)
        if self.level < 1 or not len(some):
            return (domains if bool(alive.all()) else domains.take(alive)), alive
        clipped = self._shrink(domains.take(some))
        out = domains.take(slice(None))
        for name in ("lower", "upper", "open"):
            whole = getattr(domains, name).clone()
            whole[some] = getattr(clipped, name)
            setattr(out, name, whole)
        left = out.open.any(1)
        self.stats["closed by clipping"] += int(alive.sum()) - int(left.sum())
        return out.take(left), left

    def _shrink(self, domains: Domains) -> Domains:
        """Clipped boxes and what stays open in them."""
        d, k, planes = _pairs(domains)
        l, u, empty = clip(domains.lower[d], domains.upper[d], planes)
        if self.level >= 3:
            empty |= contradicts(l, u, planes)
        open = domains.open.clone()
        open[d[empty], k[empty]] = False
        left = ~empty
        index = d[left].unsqueeze(1).expand(-1, l.shape[1])
        inf = float("inf")
        out = domains.take(slice(None))
        out.open = open
        out.lower = torch.full_like(out.lower, inf).scatter_reduce(0, index, l[left], "amin")
        out.upper = torch.full_like(out.upper, -inf).scatter_reduce(0, index, u[left], "amax")
        return out

    def within(self, domains: Domains) -> Halfspaces | None:
        """What to bound the domains within: the half-spaces of a domain's only open disjunct."""
        if self.level < 3 or not domains.g.shape[1] or not len(domains):
            return None
        k = domains.open.to(torch.uint8).argmax(1, keepdim=True)
        mine = (domains.owner == k) & (domains.open.sum(1, keepdim=True) == 1)
        most = int(mine.sum(1).max())
        if not most:
            return None
        planes = Halfspaces(domains.g, domains.h).only(mine)
        # Planes are held deepest first (`fresh`).
        first = mine.to(torch.uint8).sort(dim=1, descending=True, stable=True).indices[:, : min(most, DEEPEST)]
        wide = first.unsqueeze(-1).expand(-1, -1, planes.g.shape[2])
        return Halfspaces(planes.g.gather(1, wide), planes.h.gather(1, first))

    def due(self, count: int, seconds: float) -> bool:
        """Whether to weigh now, with `count` domains that have half-spaces, after so many seconds of bounding."""
        return count >= FEW and sum(self.spent) <= SHARE * seconds

    def weigh(self, without: Tensor, within: Tensor, seconds: tuple[float, float]) -> None:
        """Decides by the scores (n,) of the same domains without and within half-spaces, above 0 is closed, and by what
        they took.
        """
        self.spent = [a + b for a, b in zip(self.spent, seconds)]
        lacking = torch.nan_to_num(-without).clamp(min=0)
        gain = torch.nan_to_num(within - without).clamp(min=0).minimum(lacking)
        hard = lacking > 0
        spared = float((gain[hard] / lacking[hard]).mean()) if bool(hard.any()) else 0.0
        self.deep = spared >= PAYS and (1 - spared) * self.spent[1] < self.spent[0]

    # --- after bounding

    def fresh(self, domains: Domains, picked: Picked, bounds: RowBounds) -> Domains:
        """The domains with their rows' planes added, those of closed disjuncts dropped, at most so many kept."""
        if self.level < 1:
            return domains
        g, h, owner = bounds.plane, bounds.bias.double() + picked.const, picked.slot
        h = outward(h - h.abs() * 2.0**-50, g.dtype, -1)  # rounding can only make it lower
        owner = torch.where(picked.real, owner, -1)
        if self.level >= 4:
            g, h = torch.cat([g, domains.g], 1), torch.cat([h, domains.h], 1)
            owner = torch.cat([owner, domains.owner], 1)
        owner = torch.where((owner >= 0) & domains.open.gather(1, owner.clamp(min=0)), owner, -1)
        planes = halfspaces(g, h)
        rank = torch.where(owner >= 0, depth(planes, domains.lower, domains.upper), -2e30)
        rank, best = torch.topk(rank, min(self.most, g.shape[1]), dim=1)
        pad = self.most - best.shape[1]
        out = domains.take(slice(None))
        out.g = _pad(planes.g.gather(1, best.unsqueeze(-1).expand(-1, -1, g.shape[2])), pad)
        out.h = _pad(planes.h.gather(1, best), pad)
        out.owner = _pad(torch.where(rank > -1, owner.gather(1, best), -1), pad, -1)
        return out


def _pairs(domains: Domains) -> tuple[Tensor, Tensor, Halfspaces]:
    """Domain and disjunct (P,) wherever one is open, and the pair's half-spaces (P, C, m)."""
    d, k = torch.nonzero(domains.open, as_tuple=True)
    return d, k, Halfspaces(domains.g[d], domains.h[d]).only(domains.owner[d] == k.unsqueeze(1))


def _pad(t: Tensor, count: int, value: float = 0.0) -> Tensor:
    return t if not count else torch.cat([t, t.new_full((len(t), count, *t.shape[2:]), value)], 1)


def contradicts(l: Tensor, u: Tensor, planes: Halfspaces) -> Tensor:
    """Where several half-spaces have no common point in boxes l, u (P, m), as far as coordinate ascent shows it: (P,)
    bool. One of them has a positive minimum within the others.
    """
    bite = depth(planes, l, u) > -1
    order = bite.to(torch.uint8).sort(dim=1, descending=True, stable=True).indices
    found, count = torch.zeros(len(l), dtype=torch.bool, device=l.device), bite.sum(1)
    some = torch.nonzero(count > 1).squeeze(1)
    if not len(some):
        return found
    order = order[some, : int(count.max())]
    wide = order.unsqueeze(-1).expand(-1, -1, l.shape[1])
    planes = Halfspaces(planes.g[some].gather(1, wide), planes.h[some].gather(1, order)).double()
    found[some] = _contradict(l[some].double(), u[some].double(), planes)
    return found


def _contradict(l: Tensor, u: Tensor, planes: Halfspaces) -> Tensor:
    best = depth(planes, l, u).argmax(1, keepdim=True)
    a = planes.g.gather(1, best.unsqueeze(-1).expand(-1, -1, l.shape[1]))
    c = planes.h.gather(1, best)
    others = planes.only(torch.arange(planes.g.shape[1], device=l.device) != best)
    low = minima(a, l, u, others) + c
    return proves_positive(low).squeeze(1)
