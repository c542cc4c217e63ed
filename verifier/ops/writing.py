"""Writing at computed places: ScatterND and ScatterElements with indices that depend on x.

Every update lands at one of the places between the first and the last that its index may name. A place that no update
may reach keeps the data, which are handed on. One that a single update surely reaches, and no other may, holds that
update, which is handed on. Elsewhere the result lies in the hull of all updates that may land there and, unless one
surely does, of the data; where several land at one place, ONNX takes any of them.

With a reduction the data stay and more joins them: 'max' and 'min' are at least (most) the data and every update that
surely lands; 'add' adds the updates that surely land, and of every other at most its positive, at least its negative
part, times how many may land; sums of m + 1 terms are moved outward by m + 1 epsilons of their size, more than twice
what they round. 'mul' says nothing where an update may land.

Layout: data (D, R, B), places along R; updates (D, L, B).
"""

from __future__ import annotations

from math import prod

import torch
from torch import Tensor

from verifier.ops import OPS
from verifier.ops.base import Site
from verifier.ops.indexing import Computed, wrapped
from verifier.ops.reading import flat_places, flat_reach
from verifier.ops.spans import landed, landings, reach
from verifier.ops.stepwise import FLAT, Box, Choice, Selecting, finite, held_box


def write(x: Tensor, axis: int, index: Tensor, updates: Tensor, reduction: str) -> Tensor:
    """x with updates at index along an axis, replaced or reduced ('add', 'mul', 'max', 'min')."""
    x = x.long() if x.dtype == torch.bool else x  # back from there in `verifier.ops.integers`
    updates = updates.to(x.dtype)
    if reduction == "none":
        return x.scatter(axis, index, updates)
    names = {"add": "sum", "mul": "prod", "max": "amax", "min": "amin"}
    return x.scatter_reduce(axis, index, updates, names[reduction], include_self=True)


class Writing(Computed, Selecting):
    """Subclasses bring operands into the layout, and results back."""

    terms = 2

    def __init__(self, site: Site):
        super().__init__(site)
        self.held = [held_box(site, i) for i in range(3)]
        self.number = {i: site.variable.index(i) for i in (0, 2) if self.held[i] is None}
        self.reduction = site.attrs.get("reduction", "none")
        if site.out_dtype.kind == "b":  # sums and products of truth values are "or" and "and"
            self.reduction = {"add": "max", "mul": "min"}.get(self.reduction, self.reduction)
        self.integers = "wrap" if self.reduction in ("add", "mul") else "keep"
        self.own = [torch.arange(prod(site.shapes[i]), device=site.device).reshape(1, *site.shapes[i]) for i in (0, 2)]

    def data_layout(self, x: Tensor) -> Tensor:
        raise NotImplementedError

    def data_back(self, rows: Tensor) -> Tensor:
        raise NotImplementedError

    def update_layout(self, x: Tensor) -> Tensor:
        raise NotImplementedError

    def spans(self, index: Box) -> tuple[Tensor, Tensor]:
        """First and last place of every update: (D, L)."""
        raise NotImplementedError

    def choose(self, *boxes: Box) -> Choice:
        left, domains = iter(boxes), boxes[0][0].shape[0]
        data, index, update = (
            next(left) if h is None else tuple(t.expand(domains, *t.shape[1:]) for t in h) for h in self.held
        )
        first, last = self.spans(index)
        data = tuple(self.data_layout(t) for t in data)
        update = tuple(self.update_layout(t) for t in update)
        may = landings(first, last, data[0].shape[1]).unsqueeze(2)
        sure = first == last
        surely = torch.zeros_like(may[..., 0]).scatter_add_(1, first, sure.long()).unsqueeze(2)
        size = None
        if self.reduction == "none":
            low, high = self._replaced(data, update, first, last, surely)
        elif self.reduction == "add":
            low, high, size = self._added(data, update, first, last, may)
        else:
            low, high = self._extreme(data, update, first, last, may)
        low, high = torch.where(may > 0, low, data[0]), torch.where(may > 0, high, data[1])
        source = torch.full_like(low, FLAT, dtype=torch.int8)
        place = torch.zeros_like(low, dtype=torch.int64)
        known = finite(low, high)
        if 0 in self.number:
            kept = (may == 0) & known
            source = torch.where(kept, self.number[0], source).to(torch.int8)
            place = torch.where(kept, self.data_layout(self.own[0]), place)
        if 2 in self.number and self.reduction == "none" and first.shape[1]:
            taken = (may == 1) & (surely == 1) & known
            who = torch.zeros_like(may[..., 0]).scatter_reduce_(
                1, first, torch.where(sure, torch.arange(first.shape[1], device=first.device), 0), "amax"
            )
            numbers = self.update_layout(self.own[1])[0][who]
            source = torch.where(taken, self.number[2], source).to(torch.int8)
            place = torch.where(taken, numbers, place)
        return Choice(*(None if t is None else self.data_back(t) for t in (low, high, source, place, size)))

    @staticmethod
    def _replaced(data: Box, update: Box, first: Tensor, last: Tensor, surely: Tensor) -> Box:
        n = data[0].shape[1]
        low, high = landed(update[0], first, last, n, False), landed(update[1], first, last, n, True)
        gone = surely > 0
        return (
            torch.where(gone, low, torch.minimum(low, data[0])),
            torch.where(gone, high, torch.maximum(high, data[1])),
        )

    @staticmethod
    def _added(data: Box, update: Box, first: Tensor, last: Tensor, may: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        n, count = data[0].shape[1], may.to(data[0].dtype)
        sure = (first == last).unsqueeze(2)
        places = first.unsqueeze(2).expand(update[0].shape)
        surely = torch.zeros_like(may[..., 0]).scatter_add_(1, first, sure[..., 0].long()).unsqueeze(2)
        open_count = may - surely
        eps, tiny = torch.finfo(data[0].dtype).eps, torch.finfo(data[0].dtype).tiny
        ends, sizes = [], []
        for x, v, sign in zip(data, update, (-1, 1)):
            certain = torch.where(sure, v, 0.0)
            part = (v.clamp(min=0) if sign > 0 else v.clamp(max=0)).masked_fill(sure, 0.0)
            extra = landed(part, first, last, n, sign > 0)
            extra = torch.where(open_count > 0, open_count.to(x.dtype) * extra, 0.0)
            total = x.scatter_add(1, places, certain) + extra
            size = x.abs().scatter_add(1, places, certain.abs()) + extra.abs()
            ends.append(total + sign * ((count + 1) * eps * size + tiny))
            sizes.append(size * (1 + (count + 1) * eps))
        inf, size = float("inf"), torch.maximum(*sizes)
        low, high = torch.where(torch.isnan(ends[0]), -inf, ends[0]), torch.where(torch.isnan(ends[1]), inf, ends[1])
        return low, high, torch.where(torch.isnan(size), inf, size)

    def _extreme(self, data: Box, update: Box, first: Tensor, last: Tensor, may: Tensor) -> Box:
        inf, n = float("inf"), data[0].shape[1]
        if self.reduction not in ("max", "min"):
            return torch.full_like(data[0], -inf), torch.full_like(data[1], inf)
        largest = self.reduction == "max"
        better, nothing = (torch.maximum, -inf) if largest else (torch.minimum, inf)
        sure = (first == last).unsqueeze(2)
        ends = []
        for k in (0, 1):
            # The end towards the data moves with what surely lands, the other one with what may.
            v = update[k] if k == int(largest) else torch.where(sure, update[k], nothing)
            ends.append(better(data[k], landed(v, first, last, n, largest)))
        return ends[0], ends[1]


@OPS.add("ScatterNDDynamic")
class ScatterND(Writing):
    """y = x with updates (N, *q, *rest) at index (N, *q, k)."""

    def __init__(self, site: Site):
        super().__init__(site)
        k = site.shapes[1][-1]
        self.merged, self.rest = site.shapes[0][:k], prod(site.shapes[0][k:])

    def data_layout(self, x: Tensor) -> Tensor:
        return x.reshape(x.shape[0], prod(self.merged), self.rest)

    def data_back(self, rows: Tensor) -> Tensor:
        return rows.reshape(rows.shape[0], *self.out_shape)

    def update_layout(self, x: Tensor) -> Tensor:
        return x.reshape(x.shape[0], prod(self.site.shapes[1][:-1]), self.rest)

    def spans(self, index: Box) -> tuple[Tensor, Tensor]:
        first, last = flat_reach(index, self.merged)
        return self._row(first), self._row(last)

    def _row(self, places: Tensor) -> Tensor:
        return places.reshape(places.shape[0], prod(self.site.shapes[1][:-1]))

    def compute(self, x: Tensor, index: Tensor, updates: Tensor) -> Tensor:
        rows, updates = self.data_layout(x), self.update_layout(updates)
        places = self._row(flat_places(index.long(), self.merged)).unsqueeze(2).expand(updates.shape)
        return self.data_back(write(rows, 1, places, updates, self.reduction))


@OPS.add("ScatterElementsDynamic", "ScatterDynamic")
class ScatterElements(Writing):
    """y = x with updates (N, *q) at index (N, *q) along one axis; places of all lines in a row, the axis last."""

    def __init__(self, site: Site):
        super().__init__(site)
        self.axis = site.attrs.get("axis", 0) % len(site.shape) + 1
        self.length = site.shape[self.axis - 1]
        lines = self._moved(self.own[0])[..., 0]  # of every line along the axis its number times its length
        lines = torch.arange(lines.numel(), device=site.device).reshape(lines.shape) * self.length
        cuts = tuple(slice(n) for k, n in enumerate(site.shapes[1]) if k != self.axis - 1)
        self.starts = lines[(slice(None), *cuts)].unsqueeze(-1)

    def _moved(self, x: Tensor) -> Tensor:
        return x.movedim(self.axis, -1)

    def data_layout(self, x: Tensor) -> Tensor:
        return self._moved(x).reshape(x.shape[0], prod(self.out_shape), 1)

    def data_back(self, rows: Tensor) -> Tensor:
        shape = [n for k, n in enumerate(self.out_shape) if k != self.axis - 1]
        return rows.reshape(rows.shape[0], *shape, self.length).movedim(-1, self.axis)

    def update_layout(self, x: Tensor) -> Tensor:
        return self._moved(x).reshape(x.shape[0], prod(self.site.shapes[1]), 1)

    def spans(self, index: Box) -> tuple[Tensor, Tensor]:
        first, last, split = reach(*(self._moved(t) for t in index), self.length)
        first, last = torch.where(split, 0, first), torch.where(split, self.length - 1, last)
        count = prod(self.site.shapes[1])
        return tuple((t + self.starts).reshape(t.shape[0], count) for t in (first, last))

    def compute(self, x: Tensor, index: Tensor, updates: Tensor) -> Tensor:
        return write(x, self.axis, wrapped(index, self.length), updates, self.reduction)
