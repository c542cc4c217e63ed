"""Products along axes: evaluated, not bounded yet. Node axis k is tensor axis k + 1."""

from __future__ import annotations

from torch import Tensor

from verifier.ops import OPS
from verifier.ops.base import Opaque, Site


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
