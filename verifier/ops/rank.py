"""Places and ranks along an axis: ArgMax, ArgMin, Hardmax, TopK, OneHot. Ties go to the first entry unless the node
asks for the last, as in ONNX.

Where the largest entry may be. Entry i comes first among the largest for some x in the box iff nothing before it is
surely as large and nothing after it surely larger:

    u_i > l_j for all j < i,    u_i >= l_j for all j > i          (strict the other way round where the last one wins)

If these hold, x_i = u_i and x_j = l_j elsewhere is such a point; if one fails, x_j >= x_i (or >) at every point. The
index then lies between the first and the last candidate; Hardmax is 1 at a single candidate, 0 where there is none,
and between 0 and 1 at several. A NaN end fails no test, so it leaves its entry a candidate.

TopK. The k-th largest of numbers grows with each of them, so its range is between the k-th largest lower end and the
k-th largest upper end. Entry i may have rank r only if at most r entries are surely larger and at most n - 1 - r
surely smaller; the index at rank r lies between the first and last such entry.

OneHot of an index in first..last is `on` at a single possible place, `off` where no index leads, and in between
elsewhere. No box here is rounded: all ends are numbers that were there before, or whole numbers.

Symbols: boxes (D, *in_shape), moved so that the axis (of length n) is last.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from verifier.ops import OPS
from verifier.ops.base import Shape, Site
from verifier.ops.stepwise import Box, Stepwise, settled_by, whole_range


def number_type(site: Site) -> torch.dtype:
    """The type of a made-up number: the working precision where ONNX has a float, int64 for all integers."""
    return {"f": site.dtype, "b": torch.bool}.get(site.out_dtype.kind, torch.int64)


def before(x: Tensor) -> Tensor:
    """The largest of the entries before each one along the last axis, -inf at the first; NaN stays NaN."""
    start = torch.full_like(x[..., :1], -float("inf"))
    return torch.cat([start, x.cummax(-1).values[..., :-1]], -1)


def candidates(l: Tensor, u: Tensor, last: bool) -> Tensor:
    """Entries along the last axis that may be the first (or last) of the largest ones."""
    earlier, later = before(l), before(l.flip(-1)).flip(-1)
    if last:
        return ~((u < earlier) | (u <= later))
    return ~((u <= earlier) | (u < later))


def first_and_last(possible: Tensor) -> tuple[Tensor, Tensor]:
    """Places of the first and the last True along the last axis; 0 and n - 1 where there is none."""
    n = possible.shape[-1]
    number = possible.to(torch.uint8)
    first, last = number.argmax(-1), n - 1 - number.flip(-1).argmax(-1)
    none = ~possible.any(-1)
    return torch.where(none, 0, first), torch.where(none, n - 1, last)


@OPS.add("ArgMax", "ArgMin")
class ArgExtreme(Stepwise):
    integers = "keep"
    native = True

    def __init__(self, site: Site):
        super().__init__(site)
        self.axis = site.attrs["axis"] + 1
        self.last = bool(site.attrs.get("select_last_index", 0))

    def forward(self, x: Tensor) -> Tensor:
        x = x.flip(self.axis) if self.last else x
        place = x.argmax(self.axis) if self.site.kind == "ArgMax" else x.argmin(self.axis)
        place = x.shape[self.axis] - 1 - place if self.last else place
        return place.reshape(x.shape[0], *self.out_shape)

    def interval(self, *boxes: Box) -> Box:
        l, u = boxes[0] if self.site.kind == "ArgMax" else (-boxes[0][1], -boxes[0][0])
        possible = candidates(l.movedim(self.axis, -1), u.movedim(self.axis, -1), self.last)
        return tuple(t.to(l.dtype).reshape(l.shape[0], *self.out_shape) for t in first_and_last(possible))

    def spread(self, a: Tensor, shape: Shape) -> Tensor:
        kept = (*shape[: self.axis - 1], 1, *shape[self.axis :])
        return a.reshape(a.shape[0], *kept).expand(a.shape[0], *shape)


@OPS.add("Hardmax")
class Hardmax(Stepwise):
    """1 at the first maximum over all `axes` at once, 0 elsewhere."""

    integers = "keep"
    native = True

    def __init__(self, site: Site):
        super().__init__(site)
        self.axes = tuple(k + 1 for k in site.attrs["axes"])
        self.ends = tuple(range(-len(self.axes), 0))

    def _rows(self, x: Tensor) -> Tensor:
        x = x.movedim(self.axes, self.ends)
        return x.flatten(x.ndim - len(self.axes))

    def _back(self, rows: Tensor, like: Tensor) -> Tensor:
        return rows.reshape(like.movedim(self.axes, self.ends).shape).movedim(self.ends, self.axes)

    def forward(self, x: Tensor) -> Tensor:
        rows = self._rows(x)
        return self._back(F.one_hot(rows.argmax(-1), rows.shape[-1]).to(x.dtype), x)

    def interval(self, *boxes: Box) -> Box:
        l, u = boxes[0]
        possible = candidates(self._rows(l), self._rows(u), False)
        sure = possible & (possible.sum(-1, keepdim=True) == 1)
        return settled_by(self._back(sure, l), self._back(~possible, l), l)


class Ranked(Stepwise):
    """Largest first; the smallest first is the same for negated numbers."""

    integers = "keep"
    native = True

    def __init__(self, site: Site):
        super().__init__(site)
        self.axis = site.attrs["axis"] + 1
        self.largest = bool(site.attrs["largest"])
        self.k = site.shape[site.attrs["axis"]]

    def sorted(self, x: Tensor) -> tuple[Tensor, Tensor]:
        found = x.sort(dim=self.axis, descending=self.largest, stable=True)
        return tuple(t.narrow(self.axis, 0, self.k) for t in found)

    def spread(self, a: Tensor, shape: Shape) -> Tensor:
        return a.sum(self.axis, keepdim=True).expand(a.shape[0], *shape)


@OPS.add("TopK")
class Top(Ranked):
    """The k largest or smallest entries in order."""

    def forward(self, x: Tensor) -> Tensor:
        return self.sorted(x)[0]

    def interval(self, *boxes: Box) -> Box:
        l, u = boxes[0]
        l, u = (
            torch.nan_to_num(l, nan=-torch.inf, posinf=torch.inf, neginf=-torch.inf),
            torch.nan_to_num(u, nan=torch.inf, posinf=torch.inf, neginf=-torch.inf),
        )
        return self.sorted(l)[0], self.sorted(u)[0]


@OPS.add("TopK:1")
class TopPlaces(Ranked):
    """The indices of the k largest or smallest entries in order; the first of equals comes first."""

    def forward(self, x: Tensor) -> Tensor:
        return self.sorted(x)[1]

    def interval(self, *boxes: Box) -> Box:
        l, u = boxes[0] if self.largest else (-boxes[0][1], -boxes[0][0])
        l, u = (t.movedim(self.axis, -1).contiguous() for t in (l, u))
        n = l.shape[-1]
        # How many lie surely above and surely below each entry, by its place among all sorted ends.
        above = n - torch.searchsorted(l.sort(-1).values, u, right=True)
        below = torch.searchsorted(u.sort(-1).values, l)
        wild = torch.isnan(l) | torch.isnan(u)
        wild = wild.any(-1, keepdim=True)
        ends = []
        for r in range(self.k):
            ends.append(first_and_last(((above <= r) & (below <= n - 1 - r)) | wild))
        low, high = (torch.stack([e[i] for e in ends], -1) for i in (0, 1))
        # Equal numbers leave their order open above; where all are settled, it is the order of the sort.
        order = l.sort(dim=-1, descending=True, stable=True).indices[..., : self.k]
        settled = (l == u).all(-1, keepdim=True)
        low, high = torch.where(settled, order, low), torch.where(settled, order, high)
        return tuple(t.movedim(-1, self.axis).to(l.dtype) for t in (low, high))


@OPS.add("OneHot")
class OneHot(Stepwise):
    """`on` where the position along a new axis is the index (negative ones count from the depth), `off` elsewhere."""

    integers = "keep"
    native = True

    def __init__(self, site: Site):
        super().__init__(site)
        a, rank = site.attrs, len(site.shape)
        self.axis, self.depth = a["axis"] + 1, int(a["depth"])
        self.places = torch.arange(self.depth, device=site.device).reshape(-1, *(1,) * (rank - self.axis))

    def forward(self, x: Tensor) -> Tensor:
        index = x.long().unsqueeze(self.axis)
        index = torch.where(index < 0, index + self.depth, index)
        a, kind = self.site.attrs, number_type(self.site)
        on, off = (torch.tensor(a[k], dtype=kind, device=x.device) for k in ("on", "off"))
        return torch.where(self.places == index, on, off)

    def interval(self, *boxes: Box) -> Box:
        l, u = (t.unsqueeze(self.axis) for t in boxes[0])
        first, last = whole_range(l, u, -self.depth - 1, self.depth)
        hit = (first <= self.places) & (self.places <= last)
        hit |= (first <= self.places - self.depth) & (self.places - self.depth <= last)
        sure = hit & (first == last)
        (on_l, on_u), (off_l, off_u) = (self._held(self.site.attrs[k], l) for k in ("on", "off"))
        low = torch.where(sure, on_l, torch.where(hit, min(on_l, off_l), off_l))
        high = torch.where(sure, on_u, torch.where(hit, max(on_u, off_u), off_u))
        return low.to(l.dtype), high.to(l.dtype)

    @staticmethod
    def _held(value: float, like: Tensor) -> tuple[float, float]:
        """A number between two of the working precision."""
        near = torch.tensor(value, dtype=torch.float64).to(like.dtype)
        if float(near) == value:
            return value, value
        inf = torch.tensor(float("inf"), dtype=like.dtype)
        return float(torch.nextafter(near, -inf)), float(torch.nextafter(near, inf))

    def spread(self, a: Tensor, shape: Shape) -> Tensor:
        return a.sum(self.axis)
