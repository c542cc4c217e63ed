"""Lookup: a function of a few whole numbers that somebody else computes (`verifier.net.lookup`), looked up.

The range over a box is the hull of the results at all whole numbers in it, entry by entry, as long as these are at most
CELLS; with more, or where the model cannot be run at one of them, nothing is known. A result that the working precision
cannot hold is moved outward. Different integers mostly yield few different results, which are kept once.

Symbols: k integers, all entries of all inputs in order; a key is one choice of them.
"""

from __future__ import annotations

from itertools import product
from math import prod

import numpy as np
import torch
from onnx import helper
from torch import Tensor

from verifier.ops import OPS
from verifier.ops.base import Opaque, Shape, Site
from verifier.ops.rank import number_type
from verifier.ops.stepwise import Box, Stepwise, whole_range
from verifier.ops.stepwise import held as held_ends

CELLS = 2**13
FAR = 2**31


@OPS.add("Lookup")
class Lookup(Stepwise):
    integers = "keep"
    native = True

    def __init__(self, site: Site):
        super().__init__(site)
        self.piece = site.attrs["piece"]
        self.count = sum(prod(s) for s in self.in_shapes)
        self.rows: list[tuple[Tensor, Tensor, Tensor]] = []  # by the piece's numbers: the result itself, and its ends

    def _keys(self, xs: tuple[Tensor, ...]) -> Tensor:
        """(N, k) whole numbers on the host."""
        return torch.cat([torch.round(x.reshape(x.shape[0], prod(x.shape[1:])).double()) for x in xs], 1).long().cpu()

    def _row(self, number: int) -> tuple[Tensor, Tensor, Tensor]:
        """Result `number` in the type of the forward pass, and its ends in the working precision."""
        for k in range(len(self.rows), len(self.piece.results)):
            value, dtype, device = self.piece.results[k], number_type(self.site), self.site.device
            exact = torch.from_numpy(value.copy())
            low, high = held_ends(exact, self.site.dtype)
            if tuple(value.shape) != self.out_shape:  # a shape that was not fixed after all
                low = torch.full(self.out_shape, -torch.inf, dtype=self.site.dtype)
                exact, high = torch.zeros(self.out_shape), -low
            self.rows.append((exact.to(device, dtype), low.to(device), high.to(device)))
        return self.rows[number]

    def forward(self, *xs: Tensor) -> Tensor:
        dtype = number_type(self.site)
        if not xs[0].shape[0]:
            return torch.zeros((0, *self.out_shape), dtype=dtype, device=self.site.device)
        keys, back = torch.unique(self._keys(xs), dim=0, return_inverse=True)
        missing = torch.full(self.out_shape, torch.nan if dtype.is_floating_point else 0)
        found = []
        for key in keys.tolist():
            number = self.piece.at(tuple(key))
            found.append(missing.to(self.site.device, dtype) if number < 0 else self._row(number)[0])
        return torch.stack(found)[back.to(self.site.device)]

    def interval(self, *boxes: Box) -> Box:
        domains = boxes[0][0].shape[0]
        ends = [whole_range(*(t.reshape(domains, prod(t.shape[1:])) for t in box), -FAR, FAR) for box in boxes]
        both = torch.cat([*(e[0] for e in ends), *(e[1] for e in ends)], 1).cpu()
        cells, back = torch.unique(both, dim=0, return_inverse=True)
        hulls = [self._hull(c[: self.count], c[self.count :]) for c in cells.tolist()]
        back = back.to(self.site.device)
        return tuple(torch.stack([h[i] for h in hulls])[back] for i in (0, 1))

    def _hull(self, first: list[int], last: list[int]) -> Box:
        """Ends (*out_shape) over all keys between first and last."""
        inf = torch.full(self.out_shape, torch.inf, dtype=self.site.dtype, device=self.site.device)
        if min(first) <= -FAR or max(last) >= FAR or prod(b - a + 1 for a, b in zip(first, last)) > CELLS:
            return -inf, inf
        numbers = {self.piece.at(key) for key in product(*(range(a, b + 1) for a, b in zip(first, last)))}
        if min(numbers) < 0:
            return -inf, inf
        low, high = inf, -inf
        for number in numbers:
            _, l, u = self._row(number)
            low, high = torch.minimum(low, l), torch.maximum(high, u)
        return low, high

    def spread(self, a: Tensor, shape: Shape) -> Tensor:
        total = a.reshape(a.shape[0], prod(self.out_shape)).abs().sum(1)
        return total.reshape(-1, *(1,) * len(shape)).expand(a.shape[0], *shape)


@OPS.add("Opaque")
class Outside(Opaque):
    """A part of the model that ONNX Runtime computes (`verifier.net.opaque`), point by point and without gradients."""

    native = True

    def __init__(self, site: Site):
        super().__init__(site)
        self.piece = site.attrs["piece"]
        self.lacks = site.attrs["why"]

    def forward(self, *xs: Tensor) -> Tensor:
        """NaN (0 for integers) where the model cannot be run, or yields another shape."""
        dtype = number_type(self.site)
        missing = torch.full(self.out_shape, torch.nan if dtype.is_floating_point else 0).to(dtype)
        batches = [as_given(x, kind) for x, (_, _, kind) in zip(xs, self.piece.inputs)]
        found = [missing]
        for arrays in zip(*batches):
            result = self.piece.run([np.asarray(a) for a in arrays])  # of scalars numpy makes numbers
            fits = result is not None and tuple(result.shape) == self.out_shape
            found.append(torch.from_numpy(as_travelling(result)).to(dtype) if fits else missing)
        return torch.stack(found)[1:].to(self.site.device)


def as_given(x: Tensor, kind: int) -> np.ndarray:
    """x (N, …) as numbers of ONNX's element type `kind`."""
    dtype = np.dtype(helper.tensor_dtype_to_np_dtype(kind))
    if x.is_floating_point() and dtype.kind in "iu":
        x = torch.round(x).long()
    with np.errstate(over="ignore"):
        return x.detach().cpu().numpy().astype(dtype)


def as_travelling(value: np.ndarray) -> np.ndarray:
    """Whole numbers as int64, which torch has kernels for; a copy that may be written to."""
    return value.astype(np.int64) if value.dtype.kind in "iu" else value.copy()
