"""Extremes, their places, and soft extremes along axes: reductions, pooling by maximum, softmax.

All are evaluated, not bounded yet. Node axis k is tensor axis k + 1. Ties go to the first entry unless the node asks
for the last, as in ONNX.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from verifier.ops import OPS
from verifier.ops.base import Opaque, Site


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


@OPS.add("ReduceProd")
class ReduceProd(Along):
    def forward(self, x: Tensor) -> Tensor:
        return self.last(x).prod(-1).reshape(x.shape[0], *self.out_shape)


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
