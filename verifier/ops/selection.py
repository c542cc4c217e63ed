"""Extremes, their places, and soft extremes along axes: reductions, pooling by maximum, softmax.

All are evaluated, not bounded yet. Node axis k is tensor axis k + 1. Ties go to the first entry unless the node asks
for the last, as in ONNX.
"""

from __future__ import annotations

from math import prod

import torch
import torch.nn.functional as F
from torch import Tensor

from verifier.ops import OPS
from verifier.ops.base import Opaque, Site
from verifier.ops.conv import Window

POOLS = {1: F.max_pool1d, 2: F.max_pool2d, 3: F.max_pool3d}


def number_type(site: Site) -> torch.dtype:
    """The type of a made-up number: the working precision where ONNX has a float, else ONNX's own type."""
    if site.out_dtype.kind == "f":
        return site.dtype
    return getattr(torch, site.out_dtype.name)


class Along(Opaque):
    """An operator along `axes` (tensor axes, counted from the batch axis)."""

    def __init__(self, site: Site):
        super().__init__(site)
        self.axes = tuple(k + 1 for k in site.attrs["axes"])

    def last(self, x: Tensor) -> Tensor:
        """x with `axes` merged into one last axis."""
        x = x.movedim(self.axes, tuple(range(-len(self.axes), 0)))
        return x.flatten(x.ndim - len(self.axes))


@OPS.add("ReduceMax", "ReduceMin", "ReduceProd")
class Reduce(Along):
    def forward(self, x: Tensor) -> Tensor:
        step = {"ReduceMax": torch.amax, "ReduceMin": torch.amin}.get(self.site.kind)
        y = self.last(x).prod(-1) if step is None else step(x, self.axes)
        return y.reshape(x.shape[0], *self.out_shape)


@OPS.add("Hardmax")
class Hardmax(Along):
    """1 at the first maximum, 0 elsewhere."""

    def forward(self, x: Tensor) -> Tensor:
        rows = self.last(x)
        y = F.one_hot(rows.argmax(-1), rows.shape[-1]).to(x.dtype)
        kept = [n for k, n in enumerate(x.shape) if k not in self.axes]
        y = y.reshape(*kept, *(x.shape[k] for k in self.axes))
        return y.movedim(tuple(range(-len(self.axes), 0)), self.axes)


@OPS.add("ArgMax", "ArgMin")
class ArgExtreme(Opaque):
    def forward(self, x: Tensor) -> Tensor:
        axis, length = self.site.attrs["axis"] + 1, x.shape[self.site.attrs["axis"] + 1]
        last = self.site.attrs.get("select_last_index", 0)
        x = x.flip(axis) if last else x
        place = x.argmax(axis) if self.site.kind == "ArgMax" else x.argmin(axis)
        place = length - 1 - place if last else place
        return place.reshape(x.shape[0], *self.out_shape)


@OPS.add("TopK", "TopK:1")
class TopK(Opaque):
    """The k largest or smallest entries in order, or (`TopK:1`) their indices; the first of equals comes first."""

    def forward(self, x: Tensor) -> Tensor:
        axis = self.site.attrs["axis"] + 1
        values, places = x.sort(dim=axis, descending=bool(self.site.attrs["largest"]), stable=True)
        return (places if self.site.kind.endswith(":1") else values).narrow(axis, 0, self.out_shape[axis - 1])


@OPS.add("OneHot")
class OneHot(Opaque):
    """`on` where the position along a new axis is the index (negative ones count from the depth), `off` elsewhere."""

    def forward(self, x: Tensor) -> Tensor:
        a = self.site.attrs
        axis, rank = a["axis"] + 1, len(self.out_shape)
        index = x.long().unsqueeze(axis)
        index = torch.where(index < 0, index + a["depth"], index)
        places = torch.arange(a["depth"], device=x.device).reshape(-1, *(1,) * (rank - axis))
        on, off = (torch.tensor(a[k], dtype=number_type(self.site), device=x.device) for k in ("on", "off"))
        return torch.where(places == index, on, off)


@OPS.add("MaxPool")
class MaxPool(Opaque):
    """The largest entry of each window; pads never win."""

    def __init__(self, site: Site):
        super().__init__(site)
        self.window = w = Window(site, tuple(site.attrs["kernel_shape"]))
        dense, windows = self.in_shapes[0][2:], self.out_shape[2:]
        over = (c - n - b for c, n, b in zip(w.covered(windows), dense, w.begins))
        self.pads = [n for pair in list(zip(w.begins, over))[::-1] for n in pair]

    def forward(self, x: Tensor) -> Tensor:
        w, n = self.window, x.shape[0]
        channels = x.reshape(n * prod(self.in_shapes[0][:2]), 1, *self.in_shapes[0][2:])
        if any(self.pads):
            channels = F.pad(channels, self.pads, value=-torch.inf)
        return POOLS[w.rank](channels, w.kernel, w.strides, 0, w.dilations).reshape(n, *self.out_shape)
