"""Extremes and soft extremes along axes: reductions, pooling by maximum, softmax.

All are evaluated, not bounded yet. Node axis k is tensor axis k + 1.
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


class Along(Opaque):
    """An operator along `axes` (tensor axes, counted from the batch axis)."""

    def __init__(self, site: Site):
        super().__init__(site)
        self.axes = tuple(k + 1 for k in site.attrs["axes"])

    def last(self, x: Tensor) -> Tensor:
        """x with `axes` merged into one last axis."""
        x = x.movedim(self.axes, tuple(range(-len(self.axes), 0)))
        return x.flatten(x.ndim - len(self.axes))


@OPS.add("ReduceMax", "ReduceMin", "ReduceProd", "ReduceLogSumExp")
class Reduce(Along):
    def forward(self, x: Tensor) -> Tensor:
        steps = {"ReduceMax": torch.amax, "ReduceMin": torch.amin, "ReduceLogSumExp": torch.logsumexp}
        step = steps.get(self.site.kind)
        y = self.last(x).prod(-1) if step is None else step(x, self.axes)
        return y.reshape(x.shape[0], *self.out_shape)


@OPS.add("Softmax", "LogSoftmax")
class Softmax(Along):
    """exp(x) divided by its sum over all axes at once, or the logarithm of that."""

    def forward(self, x: Tensor) -> Tensor:
        y = x - x.amax(self.axes, keepdim=True).detach()
        if self.site.kind == "LogSoftmax":
            return y - y.exp().sum(self.axes, keepdim=True).log()
        y = y.exp()
        return y / y.sum(self.axes, keepdim=True)


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
