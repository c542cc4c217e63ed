"""Ensembles of decision trees: y_k = sum (or least, or greatest) over trees of what k gets at the leaf that x falls to.

A node asks whether x_f < c or, if it is closed, x_f <= c. All such cuts of a feature f are ordered: c_0 < c_1 < …, an
open cut at a number before a closed one there. x_f is *beyond* cut r if the answer is no, and then it is beyond all
cuts before r. So the number of cuts it is beyond, its *bin* b(x_f), rises with x_f and says all that the trees see of
x_f: the answer at cut r is yes iff b <= r. A box [l, u] has the bins b(l)..b(u), and every combination of bins of
different features occurs in it.

Interval. A leaf is reached from somewhere in the box iff at every node on its path that answer is possible: conditions
on different features are met apart from each other, and those on one feature say that its bin lies in a range, which
meets the box's range if each of its ends does (cuts on one path never contradict each other, or no x reaches the leaf
and counting it costs nothing but tightness). The sum of the trees' ranges holds the sum. As cuts that several trees
share couple them, the box is first divided into cells along cuts that still matter, up to `CELLS` of them, and the
union of the cells' ranges is taken: a box that few cuts pass through gets its exact range, at a cut too.

Rounding: cuts are compared exactly, in float64, which holds every number of the working precisions. A sum of T numbers
in float64 is off by gamma_T times the sum of absolute values, and is rounded outward to the working precision.

Symbols: F features, M nodes, L leaves, T trees, K results; R rows (boxes, times the node's own leading axes), P = M + L
places: node i is place i, leaf j place M + j. In attributes a child or root c >= 0 is node c, below 0 leaf -1 - c.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from verifier.ops import OPS
from verifier.ops.base import Site, Unsuitable, gamma
from verifier.ops.steps import straight_through
from verifier.ops.stepwise import Box, Stepwise

CELLS = 64  # that a box is divided into at most
AT_ONCE = 1 << 22  # entries looked at together
SOFTNESS = 8  # a guide's answers turn over this part of what a feature's cuts span


class Level(NamedTuple):
    """The nodes at one depth: their places, and those of their children."""

    nodes: Tensor
    yes: Tensor
    no: Tensor


@OPS.add("Trees")
class Trees(Stepwise):
    """x (…, F) to y (…, K); see the file's head. Attributes: feature, cut, closed, yes, no (M,), roots (T,), weights
    (L, K), aggregate 'SUM', 'MIN' or 'MAX'."""

    def __init__(self, site: Site):
        super().__init__(site)
        a, device = site.attrs, site.device
        if len(self.in_shapes) != 1:
            raise Unsuitable(f"{site.name}: {site.kind} takes one input that depends on x")
        self.count = len(a["feature"])
        place = lambda c: torch.from_numpy(np.where(c >= 0, c, self.count - 1 - c).astype(np.int64)).to(device)
        hold = lambda v: torch.from_numpy(np.array(v)).to(device)
        self.feature, self.cut, self.closed = hold(a["feature"]), hold(a["cut"]), hold(a["closed"])
        self.yes, self.no, self.roots = place(a["yes"]), place(a["no"]), place(a["roots"])
        self.weights, self.aggregate = hold(a["weights"]).double(), a["aggregate"]
        self.places = self.count + len(self.weights)
        self.levels = self._levels()
        self._order_cuts(np.asarray(a["feature"]), np.asarray(a["cut"]), np.asarray(a["closed"]))
        self.large = max(self.places, len(self.used) * self.longest, 1)  # entries of a row's largest tensor
        self.owner = self._owners()
        self.span = self._spans()

    def _levels(self) -> list[Level]:
        found, now = [], self.roots
        while len(now := now[now < self.count]):
            found.append(Level(now, self.yes[now], self.no[now]))
            now = torch.cat(found[-1][1:])
            if len(found) > self.count:
                raise Unsuitable(f"{self.site.name}: nodes in a circle")
        return found

    def _order_cuts(self, feature: np.ndarray, cut: np.ndarray, closed: np.ndarray) -> None:
        """`used` (U,) the features that are asked for; per node the place of its feature among them and its cut's rank;
        `open_at`, `closed_at` (U, …) the cuts in ascending order, filled up with infinity."""
        device = self.site.device
        self.used = torch.from_numpy(np.unique(feature)).to(device)
        mine, rank = np.searchsorted(np.unique(feature), feature), np.zeros(len(feature), np.int64)
        tables: list[list[np.ndarray]] = [[], []]
        longest = 0
        for f in range(len(self.used)):
            at = np.flatnonzero(mine == f)
            keys = np.unique(np.stack([cut[at], closed[at].astype(np.float64)], 1), axis=0)
            order = {(c, k): r for r, (c, k) in enumerate(keys.tolist())}
            rank[at] = [order[float(cut[i]), float(closed[i])] for i in at]
            longest = max(longest, len(keys))
            for k in (0, 1):
                tables[k].append(keys[keys[:, 1] == k, 0])
        self.longest = longest
        self.mine, self.rank = (torch.from_numpy(t.astype(np.int64)).to(device) for t in (mine, rank))
        self.filled, self.tables = [], []
        for rows in tables:
            width = max(map(len, rows), default=0)
            table = np.full((len(rows), width), np.inf)
            for f, row in enumerate(rows):
                table[f, : len(row)] = row
            self.tables.append(torch.from_numpy(table).to(device))
            self.filled.append(torch.tensor([len(r) for r in rows], device=device))

    def _owners(self) -> Tensor:
        """(L,): the tree of each leaf."""
        owner = torch.zeros(self.places, dtype=torch.int64, device=self.site.device)
        owner[self.roots] = torch.arange(len(self.roots), device=owner.device)
        for level in self.levels:
            owner[level.yes] = owner[level.no] = owner[level.nodes]
        return owner[self.count :]

    def _spans(self) -> Tensor:
        """(M, K): by how much the leaves below each node differ."""
        low = torch.cat([self.weights.new_zeros((self.count, self.weights.shape[1])), self.weights])
        high = low.clone()
        for level in reversed(self.levels):
            low[level.nodes] = torch.minimum(low[level.yes], low[level.no])
            high[level.nodes] = torch.maximum(high[level.yes], high[level.no])
        return (high - low)[: self.count]

    # --- values ---

    def forward(self, x: Tensor) -> Tensor:
        rows = x.detach().reshape(-1, x.shape[-1])
        parts = [self._values(part) for part in rows.split(max(1, AT_ONCE // max(1, len(self.roots))))]
        y = torch.cat(parts) if parts else self.weights.new_zeros((0, self.weights.shape[1]))
        return y.to(x.dtype).reshape(x.shape[0], *self.out_shape)

    def _values(self, rows: Tensor) -> Tensor:
        """(R, K) in float64."""
        place = self.roots.expand(len(rows), -1)
        for _ in self.levels:
            inner = place < self.count
            node = torch.where(inner, place, 0)
            at, cut = rows.gather(1, self.feature[node]).double(), self.cut[node]
            yes = torch.where(self.closed[node], at <= cut, at < cut)
            place = torch.where(inner, torch.where(yes, self.yes[node], self.no[node]), place)
        return self._together(self.weights[place - self.count])

    def _together(self, leaves: Tensor) -> Tensor:
        """(R, T, K) to (R, K)."""
        if self.aggregate == "SUM":
            return leaves.sum(1)
        return leaves.amin(1) if self.aggregate == "MIN" else leaves.amax(1)

    def guide(self, x: Tensor) -> Tensor:
        """The gradient of trees whose answers turn gradually."""
        y = self.forward(x)
        if self.aggregate != "SUM" or not self.levels or not x.requires_grad:
            return y
        rows = x.reshape(-1, x.shape[-1])
        scale = torch.ones(x.shape[-1], dtype=torch.float64, device=x.device)
        for k, f in enumerate(self.used):
            cuts = self.cut[self.mine == k]
            scale[f] = torch.maximum((cuts.max() - cuts.min()) / SOFTNESS, cuts.abs().max() / 100).clamp(min=1e-9)
        soft, places = 0.0, self.levels[0].nodes
        now = torch.ones((len(rows), len(places)), dtype=x.dtype, device=x.device)
        for level in self.levels:
            f = self.feature[level.nodes]
            yes = torch.sigmoid(((self.cut[level.nodes] - rows[:, f]) / scale[f]).clamp(-30, 30)).to(x.dtype)
            both, places = torch.cat([now * yes, now * (1 - yes)], 1), torch.cat(level[1:])
            leaf = places >= self.count
            soft = soft + both[:, leaf] @ self.weights[places[leaf] - self.count].to(x.dtype)
            now = both[:, ~leaf]
        return straight_through(soft.reshape(y.shape), y)

    # --- boxes ---

    def bins(self, x: Tensor) -> Tensor:
        """(R, F) to (R, U): how many cuts each used feature is beyond; NaN counts as it comes (see `ends`)."""
        at = x[:, self.used].double().T.contiguous()
        below, upto = (
            torch.minimum(torch.searchsorted(table, at, right=right), filled[:, None])
            for table, filled, right in zip(self.tables, self.filled, (True, False))
        )
        return (below + upto).T

    def ends(self, l: Tensor, u: Tensor) -> tuple[Tensor, Tensor]:
        """Bins (R, U) of the ends of boxes (D, …, F); an end that is not a number is infinite."""
        l, u = (t.reshape(-1, t.shape[-1]) for t in (l, u))
        low = torch.where(torch.isnan(l), -torch.inf, l)
        return self.bins(low), self.bins(torch.where(torch.isnan(u), torch.inf, u))

    def reached(self, low: Tensor, high: Tensor) -> tuple[Tensor, Tensor]:
        """For bins (R, U): the places (R, P) that some x in the box comes to, and the nodes (R, M) where both answers
        occur."""
        yes, no = low[:, self.mine] <= self.rank, high[:, self.mine] > self.rank
        there = torch.zeros((len(low), self.places), dtype=torch.bool, device=low.device)
        there[:, self.roots] = True
        for level in self.levels:
            here = there[:, level.nodes]
            there[:, level.yes] = here & yes[:, level.nodes]
            there[:, level.no] = here & no[:, level.nodes]
        return there, there[:, : self.count] & yes & no

    def cells(self, low: Tensor, high: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Boxes (bins (R', U) each) that cover those given, and which of these each is a part of (R',)."""
        owner = torch.arange(len(low), device=low.device)
        room = torch.full_like(owner, max(1, min(CELLS, AT_ONCE // self.large)))
        while True:
            matters = self._matters(self.reached(low, high)[1])
            parts = 1 + matters.sum(2)
            fits = (parts > 1) & (parts <= room[:, None])
            if not bool(fits.any()):
                return low, high, owner
            f = torch.where(fits, parts, self.longest + 2).argmin(1)
            row = torch.arange(len(low), device=low.device)
            several = torch.where(fits[row, f], parts[row, f], 1)
            cut = torch.where(matters[row, f], torch.arange(matters.shape[2], device=low.device), self.longest + 1)
            cut = cut.sort(1).values
            again = row.repeat_interleave(several)
            part = torch.arange(len(again), device=low.device) - (several.cumsum(0) - several)[again]
            f, several, cut = f[again], several[again], cut[again]
            low, high, owner, room = low[again], high[again], owner[again], room[again] // several
            new = torch.arange(len(again), device=low.device)
            before = cut[new, (part - 1).clamp(min=0)] + 1
            after = cut[new, part.clamp(max=cut.shape[1] - 1)]
            low[new, f] = torch.where(part > 0, before, low[new, f])
            high[new, f] = torch.where(part < several - 1, after, high[new, f])

    def _matters(self, split: Tensor) -> Tensor:
        """(R, U, most cuts of a feature): the cuts that a reached node asks for and both answers to which occur."""
        found = torch.zeros((len(split), len(self.used) * self.longest), dtype=torch.bool, device=split.device)
        index = (self.mine * self.longest + self.rank).expand(len(split), -1)
        found = found.to(torch.uint8).scatter_reduce(1, index, split.to(torch.uint8), "amax")
        return found.bool().reshape(len(split), len(self.used), self.longest)

    def interval(self, *boxes: Box) -> Box:
        l, u = boxes[0]
        low, high = self.ends(l, u)
        some = max(1, AT_ONCE // (self.large * CELLS))
        found = [self._range(*pair) for pair in zip(low.split(some), high.split(some))]
        return tuple(torch.cat(t).to(l.dtype).reshape(l.shape[0], *self.out_shape) for t in zip(*found))

    def _range(self, low: Tensor, high: Tensor) -> Box:
        """Ends (R, K) float64, numbers of the working precision."""
        rows, results = len(low), self.weights.shape[1]
        low, high, owner = self.cells(low, high) if self.levels else (low, high, torch.arange(rows, device=low.device))
        leaves = self.reached(low, high)[0][:, self.count :]
        tree = self.owner.expand(len(leaves), -1)
        found = []
        for sign in (1, -1):
            ends = []
            for k in range(results):
                value = torch.where(leaves, sign * self.weights[:, k], torch.inf)
                least = value.new_full((len(leaves), len(self.roots)), torch.inf).scatter_reduce(1, tree, value, "amin")
                if self.aggregate == "SUM":
                    size = least.abs().sum(1)
                    end = least.sum(1) - 2 * gamma(len(self.roots) + 2, torch.float64) * size
                else:
                    lowest = (self.aggregate == "MIN") == (sign > 0)
                    end = least.amin(1) if lowest else least.amax(1)
                ends.append(end.new_full((rows,), torch.inf).scatter_reduce(0, owner, end, "amin"))
            end = torch.stack(ends, 1)
            near = end.to(self.site.dtype)
            near = torch.where(near.double() > end, torch.nextafter(near, torch.full_like(near, -torch.inf)), near)
            found.append(sign * near.double())
        return found[0], found[1]

    def steep(self, a: Tensor, *boxes: Box) -> tuple[Tensor, ...]:
        """By how much the nodes that the box is divided by differ, feature by feature, over the feature's width."""
        l, u = boxes[0]
        split = self.reached(*self.ends(l, u))[1].double()
        each = split.new_zeros((len(split), l.shape[-1], self.weights.shape[1]))
        for k in range(each.shape[2]):
            each[:, :, k].scatter_add_(1, self.feature.expand(len(split), -1), split * self.span[:, k])
        each = each.reshape(*l.shape, -1).unsqueeze(1).to(a.dtype)  # (D, 1, …, F, K)
        total = (each * a.abs().unsqueeze(-2)).sum(-1)
        width = torch.nan_to_num(u - l, posinf=1e30).unsqueeze(1)
        return (torch.where(width > 0, total / width.clamp(min=1e-30), 0.0),)
