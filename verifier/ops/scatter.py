"""Operators that write into a tensor: Place (scatter at constant positions) and Where with a constant condition.

y = data outside the written positions, and the updates there (or data plus updates). Symbols: data (N, *out_shape),
updates (N, *k), positions (K,) flat indices into a node's shape; either operand may be constant.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from verifier.ops import OPS
from verifier.ops.arithmetic import lift, rounded, unbroadcast
from verifier.ops.base import Affine, Operator, Site
from verifier.ops.moves import settle
from verifier.ops.truth import ChosenByValue


class Blend(Affine):
    """y = blend(first, second), linear in both together; constants stand in for operands that do not depend on x.

    Subclasses give `blend`, where a constant operand has batch length 1 instead of N, and `spread`, its adjoint.
    """

    integers = "keep"
    native = True

    slots = (0, 1)

    def __init__(self, site: Site):
        super().__init__(site)
        self.fixed = [site.constant(i) for i in self.slots]
        self.fixed = [None if c is None else c.unsqueeze(0) for c in self.fixed]

    def blend(self, first: Tensor, second: Tensor) -> Tensor:
        raise NotImplementedError

    def spread(self, a: Tensor) -> tuple[Tensor, Tensor]:
        raise NotImplementedError

    def _fill(self, xs: tuple[Tensor, ...], constants: bool) -> Tensor:
        left, dtype = iter(xs), xs[0].dtype  # whole numbers in the model, floats in bounds
        held = [None if c is None else c.to(dtype) for c in self.fixed]
        return self.blend(*(next(left) if c is None else (c if constants else torch.zeros_like(c)) for c in held))

    def forward(self, *xs: Tensor) -> Tensor:
        return self._fill(xs, True)

    def absolute(self, *rs: Tensor) -> Tensor:
        return self._fill(rs, False)

    def adjoint(self, a: Tensor) -> tuple[Tensor, ...]:
        return tuple(part for part, c in zip(self.spread(a), self.fixed) if c is None)

    def offset(self) -> Tensor | None:
        if all(c is None for c in self.fixed):
            return None
        zeros = (torch.zeros((1, *s), dtype=self.site.dtype, device=self.site.device) for s in self.in_shapes)
        return self._fill(tuple(zeros), True)[0]


class Overwritten(Blend):
    """y = data; y.ravel()[positions] = updates, positions without repeats."""

    terms = (1, 1)

    def __init__(self, site: Site):
        super().__init__(site)
        flat = np.asarray(site.attrs["positions"], dtype=np.int64)
        self.updates_shape = flat.shape
        self.index = torch.from_numpy(flat.ravel().copy()).to(site.device)

    def blend(self, data: Tensor, updates: Tensor) -> Tensor:
        n = max(data.shape[0], updates.shape[0]) if data.shape[0] and updates.shape[0] else 0
        flat = data.flatten(1).expand(n, -1)
        return flat.index_copy(1, self.index, updates.flatten(1).expand(n, -1)).reshape(n, *self.out_shape)

    def spread(self, a: Tensor) -> tuple[Tensor, Tensor]:
        flat = a.flatten(1)
        taken = flat.index_select(1, self.index).reshape(a.shape[0], *self.updates_shape)
        return flat.index_fill(1, self.index, 0).reshape(a.shape), taken


class Deposited(Overwritten):
    """y = data; y.ravel()[positions] += updates, where a position may occur several times."""

    integers = "wrap"
    native = True

    def __init__(self, site: Site):
        super().__init__(site)
        repeats = int(np.bincount(self.index.cpu().numpy(), minlength=1).max())
        self.terms = (1 + repeats + rounded(site, 0, 1), 1)

    def blend(self, data: Tensor, updates: Tensor) -> Tensor:
        n = max(data.shape[0], updates.shape[0]) if data.shape[0] and updates.shape[0] else 0
        flat = data.flatten(1).expand(n, -1)
        return flat.index_add(1, self.index, updates.flatten(1).expand(n, -1)).reshape(n, *self.out_shape)

    def spread(self, a: Tensor) -> tuple[Tensor, Tensor]:
        return a, a.flatten(1).index_select(1, self.index).reshape(a.shape[0], *self.updates_shape)


@OPS.add("Place")
def place(site: Site) -> Operator:
    return Deposited(site) if site.attrs["reduction"] == "add" else settle(Overwritten, site, rounded(site, 0, 1))


class Chosen(Blend):
    """y = where(mask, a, b), mask constant; all three broadcast."""

    slots = (1, 2)

    def __init__(self, site: Site):
        super().__init__(site)
        self.mask = site.constant(0).bool()
        self.rank = len(site.shape)
        size = int(np.prod(site.shape, dtype=np.int64))
        self.terms = (1, max(max(size // max(int(np.prod(s, dtype=np.int64)), 1) for s in self.in_shapes), 1))

    def blend(self, a: Tensor, b: Tensor) -> Tensor:
        y = torch.where(self.mask, lift(a, self.rank), lift(b, self.rank))
        return y.expand(y.shape[0], *self.out_shape)

    def spread(self, a: Tensor) -> tuple[Tensor, Tensor]:
        first, second = torch.where(self.mask, a, 0.0), torch.where(self.mask, 0.0, a)
        shapes = [self.site.shapes[i] for i in self.slots]
        return unbroadcast(first, shapes[0]), unbroadcast(second, shapes[1])


@OPS.add("Where")
def where(site: Site) -> Operator:
    return ChosenByValue(site) if site.constants[0] is None else settle(Chosen, site, rounded(site, 1, 2))
