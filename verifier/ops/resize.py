"""Resize by constant scales (nearest is a move, the other modes are one small matrix per axis); running sums.

y = (R_1 along axis a_1) (R_2 along axis a_2) ... x with R_k (out_k, in_k). One entry of y is a sum of
prod_k nnz(row of R_k) products of x with a product of weights; computed axis after axis, it suffers at most
sum_k (nnz_k + 1) roundings, the 1 for the weight itself, which was computed in float64 and rounded.
"""

from __future__ import annotations

from math import prod

import numpy as np
import torch
from torch import Tensor

from verifier.ops import OPS
from verifier.ops.base import Affine, Operator, Site, Unsuitable
from verifier.ops.moves import Select


class Separable(Affine):
    def __init__(self, site: Site):
        super().__init__(site)
        weights = [np.asarray(w) for w in site.attrs["weights"]]
        self.axes = [axis + 1 for axis in site.attrs["axes"]]
        self.weights = [torch.from_numpy(w.copy()).to(site.device, site.dtype) for w in weights]
        self.magnitudes = [w.abs() for w in self.weights]
        self.terms = (self._count(weights, 1), self._count(weights, 0))
        means = all((w >= 0).all() and (w.sum(1) < 1 + 1e-6).all() for w in weights)
        self.integers = "near" if means else ""

    @staticmethod
    def _count(weights: list[np.ndarray], axis: int) -> int:
        most = [int(np.count_nonzero(w, axis=axis).max()) for w in weights]
        return max(prod(most), sum(m + 1 for m in most), 1)

    def _apply(self, x: Tensor, weights: list[Tensor]) -> Tensor:
        for axis, w in zip(self.axes, weights):
            x = (x.movedim(axis, -1) @ w.T).movedim(-1, axis)
        return x

    def forward(self, x: Tensor) -> Tensor:
        return self._apply(x, self.weights)

    def absolute(self, r: Tensor) -> Tensor:
        return self._apply(r, self.magnitudes)

    def adjoint(self, a: Tensor) -> tuple[Tensor, ...]:
        return (self._apply(a, [w.T for w in self.weights]),)

    def offset(self) -> Tensor | None:
        return None


@OPS.add("Resize")
def resize(site: Site) -> Operator:
    if site.attrs["mode"] == "nearest":
        return Select(site, site.attrs["axes"], site.attrs["indices"])
    if site.attrs["mode"] == "linear":
        return Separable(site)
    raise Unsuitable(f"{site.name}: Resize with mode {site.attrs['mode']!r}")


@OPS.add("CumSum")
class CumSum(Affine):
    """Running sums along `axis`: exclusive of the entry itself, in reverse, or both. The adjoint runs the other way."""

    integers = "wrap"
    native = True

    def __init__(self, site: Site):
        super().__init__(site)
        self.axis = site.attrs["axis"] + 1
        self.exclusive, self.reverse = bool(site.attrs["exclusive"]), bool(site.attrs["reverse"])
        length = max(site.shape[self.axis - 1], 1)
        self.terms = (length, length)

    def _run(self, x: Tensor, reverse: bool) -> Tensor:
        x = x.flip(self.axis) if reverse else x
        if self.exclusive:
            head = torch.zeros_like(x.narrow(self.axis, 0, 1))
            x = torch.cat([head, x.narrow(self.axis, 0, x.shape[self.axis] - 1)], self.axis)
        y = x.cumsum(self.axis)
        return y.flip(self.axis) if reverse else y

    def forward(self, x: Tensor) -> Tensor:
        return self._run(x, self.reverse)

    def absolute(self, r: Tensor) -> Tensor:
        return self.forward(r)

    def adjoint(self, a: Tensor) -> tuple[Tensor, ...]:
        return (self._run(a, not self.reverse),)

    def offset(self) -> Tensor | None:
        return None
