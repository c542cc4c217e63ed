"""Largest and smallest entries: Max and Min of two operands, ReduceMax, ReduceMin, MaxPool, by lists of windows.

An entry of the result is y = max x_j over the window's entries j, out of all variable inputs laid end to end. The least
is minus the largest of -x. With l_j, u_j the ends, lmax the largest l and u_(k) the k-th largest u of a window:

* lower: y >= x_i for every i. The entry with the greatest middle is taken: the volume between y and a plane depends on
  the plane's value at the middle alone.
* upper: for any t >= lmax, y <= t + sum_j max(x_j - t, 0), as y <= max(t, y) and max(t, y) - t = max_j max(x_j - t, 0)
  is at most the sum. On [l_j, u_j], where l_j <= t, max(x_j - t, 0) is 0 if u_j <= t and lies below its chord, of slope
  (u_j - t) / (u_j - l_j), else: it is convex. At the middle a chord is worth (u_j - t) / 2, so that the plane there is
  worth t + sum_j max(u_j - t, 0) / 2, which falls while more than two u_j exceed t and rises when one does: the best is
  t = max(lmax, u_(3)). Two entries at most have a slope then.

t = u_(1) gives the constant, and t = lmax the sum over all entries: neither is better at the middle. Where one entry
dominates, l_i >= u_j for all others, both planes are x_i itself. Any slope s is sound with the offset b = max(-s l, u -
t - s u), the larger of the convex function's distances at both ends; it is rounded upward. Entries with an infinite end
get no slope: max(x_j - t, 0) <= u_j - t.

Symbols: D domains, I entries of all variable inputs, O windows, K entries in each; `index` (O, K) into the I entries,
then the constants, then one that stands for -inf (pads).
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product
from math import prod

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from verifier.ops import OPS
from verifier.ops.arithmetic import Entrywise, lift
from verifier.ops.base import Joint, Operator, Planes, Shape, Site, size
from verifier.ops.conv import Window

Box = tuple[Tensor, Tensor]
POOLS = {1: F.max_pool1d, 2: F.max_pool2d, 3: F.max_pool3d}


class PickedPlanes(Planes):
    """A few slopes per window: `lower`, `upper` are (places, slopes), each (D, O, k) into the I entries."""

    def __init__(self, shapes: Sequence[Shape], lower, upper, offsets: tuple[Tensor, ...], sizes: Tensor):
        """`sizes`: the largest |x| (D, I)."""
        weights, shape = [], offsets[0].shape
        for (place, slope), offset in ((lower, offsets[0]), (upper, offsets[1])):
            reach = sizes.gather(1, place.reshape(len(place), -1)).reshape(place.shape)
            total = torch.where(slope == 0, 0.0, slope.abs() * reach).sum(-1).reshape(shape) + offset.abs()
            weights.append(total * (1 + 8 * torch.finfo(total.dtype).eps))
        super().__init__(*offsets, *weights)
        self.shapes, self.lower, self.upper = shapes, lower, upper
        self.sizes = [size(s) for s in shapes]

    def pull(self, pos: Tensor, neg: Tensor) -> tuple[Tensor, ...]:
        lead = pos.shape[:2]
        total = pos.new_zeros((*lead, sum(self.sizes)))
        for rows, (place, slope) in ((pos, self.lower), (neg, self.upper)):
            rows = rows.reshape(*lead, -1)
            for k in range(place.shape[-1]):
                where = place[..., k].unsqueeze(1).expand(*lead, -1)
                total.scatter_add_(2, where, rows * slope[..., k].unsqueeze(1))
        return tuple(t.reshape(*lead, *s) for t, s in zip(total.split(self.sizes, 2), self.shapes))

    def values(self, *xs: Tensor) -> tuple[Tensor, Tensor]:
        low, high = self.push(xs, xs)
        return low + self.lo_b.unsqueeze(1), high + self.up_b.unsqueeze(1)

    fan = 2

    def push(self, low: Sequence[Tensor], high: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        return self._apply(self.lower, low), self._apply(self.upper, high)  # no slope is negative

    def reach(self, *rs: Tensor) -> Tensor:
        return torch.maximum(self._apply(self.lower, rs), self._apply(self.upper, rs))

    def _apply(self, side: tuple[Tensor, Tensor], xs: Sequence[Tensor]) -> Tensor:
        """Slopes times entries of x_i (D, P, *in_i), summed: (D, P, *out)."""
        place, slope = side
        x = torch.cat([t.reshape(*t.shape[:2], -1) for t in xs], 2)
        where = place.reshape(len(place), -1).unsqueeze(1).expand(-1, x.shape[1], -1)
        terms = x.gather(2, where).reshape(*x.shape[:2], *place.shape[1:]) * slope.unsqueeze(1)
        return terms.sum(-1).reshape(*x.shape[:2], *self.lo_b.shape[1:])


class Extreme(Joint):
    """The largest (`sign` 1) or least (-1) entry of every window. Subclasses give `windows` and `forward`."""

    integers = "keep"

    sign = 1

    def __init__(self, site: Site):
        super().__init__(site)
        index, constants = self.windows()
        self.inputs = sum(size(s) for s in self.in_shapes)
        device = site.device
        self.index = torch.from_numpy(np.ascontiguousarray(index)).to(device)
        self.constants = torch.from_numpy(constants).to(device, site.dtype)
        counts = np.bincount(index[index < self.inputs].reshape(-1), minlength=1)
        self.terms = 2 * max(int(counts.max()), 1)

    def windows(self) -> tuple[np.ndarray, np.ndarray]:
        """`index` (O, K), and the constants that it may point to."""
        raise NotImplementedError

    def _signed(self, boxes: tuple[Box, ...]) -> Box:
        """Ends (D, I + constants + 1) of what the largest is taken of: -x for the least."""
        l, u = (torch.cat([box[k].reshape(len(box[k]), -1) for box in boxes], 1) for k in (0, 1))
        if self.sign < 0:
            l, u = -u, -l
        rest = torch.cat([self.sign * self.constants, self.constants.new_full((1,), -torch.inf)])
        rest = rest.expand(l.shape[0], -1)
        return torch.cat([l, rest], 1), torch.cat([u, rest], 1)

    def _ends(self, l: Tensor, u: Tensor) -> Box:
        """lmax and u_(1) (D, O)."""
        return self._of(l).amax(-1), self._of(u).amax(-1)

    def _of(self, x: Tensor) -> Tensor:
        """(D, I + …) to (D, O, K)."""
        return x[:, self.index]

    def _out(self, y: Tensor) -> Tensor:
        return y.reshape(y.shape[0], *self.out_shape)

    def interval(self, *boxes: Box) -> Box:
        low, high = (self._out(t) for t in self._ends(*self._signed(boxes)))
        return (low, high) if self.sign > 0 else (-high, -low)

    def loose(self, *boxes: Box) -> tuple[Tensor, ...]:
        """Entries that exceed their window's lmax, unless they dominate it: planes do not depend on the others."""
        l, u = self._signed(boxes)
        wide_l, wide_u = self._of(l), self._of(u)
        best = wide_l.amax(-1, keepdim=True)
        over = wide_u > best
        counts = over & ((over.sum(-1, keepdim=True) > 1) | (wide_l < best))
        flags = torch.zeros_like(l)
        flags.scatter_add_(1, self.index.flatten().expand(l.shape[0], -1), counts.flatten(1).to(l.dtype))
        flags = (flags > 0) & (u > l)
        parts = flags[:, : self.inputs].split([size(s) for s in self.in_shapes], 1)
        return tuple(p.reshape(p.shape[0], *s) for p, s in zip(parts, self.in_shapes))

    def relax(self, *boxes: Box) -> Planes:
        l, u = self._signed(boxes)
        lower, lo_b = self._lower(l, u)
        upper, up_b = self._upper(l, u)
        if self.sign < 0:
            lower, lo_b, upper, up_b = upper, -up_b, lower, -lo_b
        sizes = torch.maximum(l.abs(), u.abs())[:, : self.inputs]
        return PickedPlanes(self.in_shapes, lower, upper, (self._out(lo_b), self._out(up_b)), sizes)

    def _lower(self, l: Tensor, u: Tensor) -> tuple[tuple[Tensor, Tensor], Tensor]:
        """x_i with the greatest middle; a constant's value, or lmax, where none has finite ends."""
        middle = torch.where(torch.isfinite(l) & torch.isfinite(u), l / 2 + u / 2, -torch.inf)
        best, at = self._of(middle).max(-1, keepdim=True)
        place = self.index.expand(l.shape[0], -1, -1).gather(2, at)
        known, variable = torch.isfinite(best[..., 0]), place[..., 0] < self.inputs
        value = l.gather(1, place[..., 0])
        offset = torch.where(known, torch.where(variable, 0.0, value), self._of(l).amax(-1))
        slope = (known & variable).to(l.dtype).unsqueeze(-1)
        return (place.clamp(max=self.inputs - 1), slope), offset

    def _upper(self, l: Tensor, u: Tensor) -> tuple[tuple[Tensor, Tensor], Tensor]:
        """t and the chords of the entries that exceed it."""
        info, wide_u = torch.finfo(l.dtype), self._of(u)
        most = wide_u.topk(min(3, wide_u.shape[-1]), -1)
        t = self._of(l).amax(-1)
        if most.values.shape[-1] > 2:
            t = torch.maximum(t, most.values[..., 2])
        place = self.index.expand(l.shape[0], -1, -1).gather(2, most.indices[..., :2])
        near = place.reshape(len(place), -1)
        low, high = (x.gather(1, near).reshape(place.shape) for x in (l, u))
        base = t.unsqueeze(-1)
        over = (high > base) & (place < self.inputs)
        finite = torch.isfinite(high - low) & torch.isfinite(base)
        low, top = torch.where(finite, low, 0.0), torch.where(finite, high, 0.0)
        width, excess = top - low, top - base
        slope = torch.where(over & finite & (width > 0), (excess / torch.where(width > 0, width, 1.0)).clamp(0, 1), 0.0)
        rise = torch.where(finite, torch.maximum(-slope * low, excess - slope * top), high - base)
        rise = rise + 2 * info.eps * (slope.abs() * torch.maximum(low.abs(), top.abs()) + excess.abs()) + info.tiny
        alone = (over.sum(-1, keepdim=True) == 1) & finite & (low >= base)  # y = x_i
        slope = torch.where(alone & over, 1.0, slope)
        rise = torch.where(over, rise, 0.0)
        total = t + rise.sum(-1)
        slack = 4 * info.eps * (t.abs() + rise.abs().sum(-1))
        offset = torch.where(over.any(-1), total + slack, t)
        offset = torch.where((alone & over).any(-1), 0.0, offset)
        wild = ~torch.isfinite(offset)  # t or an end is infinite: the constant
        slope = torch.where(wild.unsqueeze(-1), 0.0, slope)
        return (place.clamp(max=self.inputs - 1), slope), torch.where(wild, most.values[..., 0], offset)


class OfTwo(Extreme):
    """The larger or the smaller of two operands that broadcast; one may be constant."""

    integers = "keep"
    native = True

    def __init__(self, site: Site):
        super().__init__(site)
        self.fixed = [site.constant(i) for i in range(len(site.shapes))]
        self.rank = len(site.shape)

    def windows(self) -> tuple[np.ndarray, np.ndarray]:
        site, at, found, constants = self.site, 0, [], np.zeros(0)
        first = sum(size(s) for s in self.in_shapes)
        for shape, constant in zip(site.shapes, site.constants):
            start = at if constant is None else first
            places = start + np.arange(size(shape), dtype=np.int64).reshape(shape)
            found.append(np.broadcast_to(places, site.shape).reshape(-1))
            if constant is None:
                at += size(shape)
            else:
                constants = np.asarray(constant, np.float64).reshape(-1)
        return np.stack(found, -1), constants

    def forward(self, *xs: Tensor) -> Tensor:
        left = iter(xs)
        a, b = (lift(next(left), self.rank) if c is None else c for c in self.fixed)
        return torch.maximum(a, b) if self.sign > 0 else torch.minimum(a, b)


class Max(OfTwo):
    """The larger of two."""


class Min(OfTwo):
    """The smaller of two."""

    sign = -1


class Endless(Entrywise):
    """Either, where a constant is not finite."""

    lacks = "a constant that is not finite"

    def combine(self, a: Tensor, b: Tensor) -> Tensor:
        return torch.maximum(a, b) if self.site.kind == "Max" else torch.minimum(a, b)


@OPS.add("Max", "Min")
def extreme(site: Site) -> Operator:
    if not all(c is None or np.isfinite(c).all() for c in site.constants):
        return Endless(site)
    return Max(site) if site.kind == "Max" else Min(site)


class Along(Extreme):
    """The largest or least entry along axes."""

    integers = "keep"
    native = True

    def windows(self) -> tuple[np.ndarray, np.ndarray]:
        shape, axes = self.in_shapes[0], self.site.attrs["axes"]
        places = np.arange(size(shape), dtype=np.int64).reshape(shape)
        places = np.moveaxis(places, axes, range(-len(axes), 0))
        return places.reshape(size(self.out_shape), -1), np.zeros(0)

    def forward(self, *xs: Tensor) -> Tensor:
        step = torch.amax if self.sign > 0 else torch.amin
        y = step(xs[0], tuple(k + 1 for k in self.site.attrs["axes"]))
        return y.reshape(xs[0].shape[0], *self.out_shape)


@OPS.add("ReduceMax")
class ReduceMax(Along):
    """The largest."""


@OPS.add("ReduceMin")
class ReduceMin(Along):
    """The least."""

    sign = -1


@OPS.add("MaxPool")
class MaxPool(Extreme):
    """The largest entry of each window; pads never win."""

    def __init__(self, site: Site):
        self.window = w = Window(site, tuple(site.attrs["kernel_shape"]))
        shape = site.shapes[0]
        self.over = tuple(c - n - b for c, n, b in zip(w.covered(site.shape[2:]), shape[2:], w.begins))
        super().__init__(site)

    def windows(self) -> tuple[np.ndarray, np.ndarray]:
        w, shape = self.window, self.in_shapes[0]
        places = np.arange(size(shape), dtype=np.int64).reshape(shape)
        places = places[(..., *(slice(0, n + min(o, 0)) for n, o in zip(shape[2:], self.over)))]
        pads = [(0, 0), (0, 0), *((b, max(o, 0)) for b, o in zip(w.begins, self.over))]
        places = np.pad(places, pads, constant_values=size(shape))
        taps = []
        for tap in product(*(range(k) for k in w.kernel)):
            ends = zip(tap, w.dilations, self.out_shape[2:], w.strides)
            taps.append(places[(..., *(slice(j * d, j * d + (n - 1) * t + 1, t) for j, d, n, t in ends))].reshape(-1))
        return np.stack(taps, -1), np.zeros(0)

    def forward(self, *xs: Tensor) -> Tensor:
        w, n = self.window, xs[0].shape[0]
        channels = xs[0].reshape(n * prod(self.in_shapes[0][:2]), 1, *self.in_shapes[0][2:])
        pads = [p for pair in list(zip(w.begins, self.over))[::-1] for p in pair]
        if any(pads):
            channels = F.pad(channels, pads, value=-torch.inf)
        return POOLS[w.rank](channels, w.kernel, w.strides, 0, w.dilations).reshape(n, *self.out_shape)
