"""Reading at computed places: Gather, GatherElements, GatherND with indices that depend on x.

An index whose box holds one whole number picks one entry, which is handed on. Otherwise the result is one of the
entries between the first and the last place that the index may name, and lies between their extremes
(`verifier.ops.spans`). Tuples of indices (GatherND) name a place in the merged axes; the places of all tuples in a box
lie between those of its first and its last tuple, because merging keeps their order. An index that may have both signs
names a place near either end; in a tuple it is taken to name any.

Layout: data (D, A, n, B), places along n; indices (D, A or 1, L, B or 1); results (D, A, L, B).
"""

from __future__ import annotations

from collections.abc import Sequence
from math import prod

import torch
from torch import Tensor

from verifier.ops import OPS
from verifier.ops.base import Shape, Site
from verifier.ops.indexing import Computed, take, wrapped
from verifier.ops.spans import extreme, reach
from verifier.ops.stepwise import FLAT, Box, Choice, Selecting, finite, held_box


def flat_places(index: Tensor, shape: Sequence[int]) -> Tensor:
    """Tuples of places (..., k) in an array whose first k axes are `shape`, as places in those axes merged into one."""
    flat = torch.zeros_like(index[..., 0])
    for j, length in enumerate(shape):
        flat = flat * length + wrapped(index[..., j], length)
    return flat


def flat_reach(box: Box, shape: Sequence[int]) -> tuple[Tensor, Tensor]:
    """First and last of the merged places that tuples (..., k) in a box may name."""
    ends = [torch.zeros_like(box[0][..., 0], dtype=torch.int64) for _ in range(2)]
    for j, length in enumerate(shape):
        first, last, split = reach(box[0][..., j], box[1][..., j], length)
        first, last = torch.where(split, 0, first), torch.where(split, length - 1, last)
        ends = [ends[0] * length + first, ends[1] * length + last]
    return ends[0], ends[1]


class Reading(Computed, Selecting):
    """Subclasses bring operands into the layout."""

    def __init__(self, site: Site):
        super().__init__(site)
        self.held = [held_box(site, 0), held_box(site, 1)]
        self.shape = site.shapes[0]
        self.index_shape = site.shapes[1]
        count = prod(self.shape)
        self.numbers = torch.arange(count, device=site.device).reshape(self.shape)  # every entry's own place
        self.terms = 2 * max(prod(self.index_shape), 1)

    def layout(self, x: Tensor) -> Tensor:
        """Data (D, *shape) to (D, A, n, B)."""
        raise NotImplementedError

    def spans(self, index: Box) -> tuple[Tensor, Tensor, Tensor]:
        """First, last, split as `reach` says, (D, A or 1, L, B or 1)."""
        raise NotImplementedError

    def choose(self, *boxes: Box) -> Choice:
        left, domains = iter(boxes), boxes[0][0].shape[0]
        data, index = (
            next(left) if h is None else tuple(t.expand(domains, *t.shape[1:]) for t in h) for h in self.held
        )
        first, last, split = self.spans(index)
        parts = [(torch.where(split, 0, first), torch.where(split, first, last))]
        l, u = (self.layout(t) for t in data)
        if bool(split.any()):
            parts.append((torch.where(split, last, first), torch.where(split, l.shape[2] - 1, last)))
        low = torch.stack([extreme(l, *p, largest=False) for p in parts]).amin(0)
        high = torch.stack([extreme(u, *p, largest=True) for p in parts]).amax(0)
        source = torch.full_like(low, FLAT, dtype=torch.int8)
        place = torch.zeros_like(low, dtype=torch.int64)
        if self.held[0] is None:
            settled = (first == last) & ~split & finite(low, high)
            source = torch.where(settled, 0, source).to(torch.int8)
            numbers = self.layout(self.numbers.unsqueeze(0)).expand(domains, *l.shape[1:])
            place = torch.take_along_dim(numbers, torch.where(split, 0, first), 2).expand(low.shape)
        return Choice(*(t.reshape(domains, *self.out_shape) for t in (low, high, source, place)))


@OPS.add("GatherDynamic")
class Gather(Reading):
    def __init__(self, site: Site):
        super().__init__(site)
        self.axis = site.attrs.get("axis", 0) % len(self.shape) + 1

    def compute(self, x: Tensor, index: Tensor) -> Tensor:
        places = wrapped(index, x.shape[self.axis]).reshape(x.shape[0], prod(self.index_shape))
        y = take(x, self.axis, places)
        return y.reshape(x.shape[0], *self.out_shape)

    def layout(self, x: Tensor) -> Tensor:
        s = self.shape
        return x.reshape(x.shape[0], prod(s[: self.axis - 1]), s[self.axis - 1], prod(s[self.axis :]))

    def spans(self, index: Box) -> tuple[Tensor, Tensor, Tensor]:
        l, u = (t.reshape(t.shape[0], 1, prod(self.index_shape), 1) for t in index)
        return reach(l, u, self.shape[self.axis - 1])


@OPS.add("GatherElementsDynamic")
class GatherElements(Reading):
    def __init__(self, site: Site):
        super().__init__(site)
        self.axis = site.attrs.get("axis", 0) % len(self.shape) + 1

    def compute(self, x: Tensor, index: Tensor) -> Tensor:
        return x.gather(self.axis, wrapped(index, x.shape[self.axis]))

    def _split(self, shape: Shape) -> tuple[int, int, int]:
        return prod(shape[: self.axis - 1]), shape[self.axis - 1], prod(shape[self.axis :])

    def layout(self, x: Tensor) -> Tensor:
        """Only the part of the other axes that the indices span is read."""
        cuts = [slice(None), *(slice(n) for n in self.index_shape)]
        cuts[self.axis] = slice(None)
        a, _, b = self._split(self.index_shape)
        return x[tuple(cuts)].reshape(x.shape[0], a, self.shape[self.axis - 1], b)

    def spans(self, index: Box) -> tuple[Tensor, Tensor, Tensor]:
        l, u = (t.reshape(t.shape[0], *self._split(self.index_shape)) for t in index)
        return reach(l, u, self.shape[self.axis - 1])


@OPS.add("GatherNDDynamic")
class GatherND(Reading):
    def __init__(self, site: Site):
        super().__init__(site)
        self.shared = site.attrs.get("batch_dims", 0)
        self.merged = self.shape[self.shared : self.shared + self.index_shape[-1]]

    def layout(self, x: Tensor) -> Tensor:
        rest = self.shape[self.shared + len(self.merged) :]
        return x.reshape(x.shape[0], prod(self.shape[: self.shared]), prod(self.merged), prod(rest))

    def _rows(self, places: Tensor) -> Tensor:
        lead, tuples = prod(self.shape[: self.shared]), prod(self.index_shape[self.shared : -1])
        return places.reshape(places.shape[0], lead, tuples, 1)

    def compute(self, x: Tensor, index: Tensor) -> Tensor:
        places = self._rows(flat_places(index.long(), self.merged))
        return torch.take_along_dim(self.layout(x), places, 2).reshape(x.shape[0], *self.out_shape)

    def spans(self, index: Box) -> tuple[Tensor, Tensor, Tensor]:
        first, last = (self._rows(t) for t in flat_reach(index, self.merged))
        return first, last, torch.zeros_like(first, dtype=torch.bool)
