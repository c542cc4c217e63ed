"""Products with a constant matrix: Linear (y = x W + b on the last axis) and MatMul with one constant operand. That of
two variables is in `verifier.ops.contractions`.

Shapes: x (N, *in_shape), W (in, out), b (out,). M is W repeated along the leading axes of x, so |M| r = r |W| and
a M = a W^T, summed over the axes along which x is broadcast. The transposed product uses W.T as a view: BLAS reads a
transposed operand as fast as a contiguous copy of it (measured for (25600, 50) (50, 50) and (512, 512) (512, 512) in
float32 and float64), and the copy would cost memory.
"""

from __future__ import annotations

from functools import cached_property

import torch
from torch import Tensor

from verifier.ops import OPS, contractions
from verifier.ops.arithmetic import derived, unbroadcast
from verifier.ops.base import Affine, Operator, Shape, Site, Unsuitable, size


@OPS.add("Linear")
class Linear(Affine):
    """y = x W + b on the last axis of x, any rank."""

    integers = "wrap"
    native = True

    def __init__(self, site: Site):
        super().__init__(site)
        if site.constants[1] is None or site.constants[1].ndim != 2:
            raise Unsuitable(f"{site.name}: Linear needs a constant matrix")
        if site.has(2) and site.constants[2] is None:
            raise Unsuitable(f"{site.name}: Linear needs a constant bias")
        self.weight = site.constant(1).to(site.dtype)
        self.bias = site.constant(2).to(site.dtype) if site.has(2) else None
        self.magnitude = self.weight.abs()
        n_in, n_out = self.weight.shape
        extra = derived(site, 1, 2)
        self.terms = (n_in + (self.bias is not None) + extra, n_out + extra)

    def forward(self, x: Tensor) -> Tensor:
        if not x.is_floating_point():
            y = whole_product(x, self.site.whole(1))
            return y if self.bias is None else y + self.site.whole(2)
        rows = x.flatten(0, -2)
        y = rows @ self.weight if self.bias is None else torch.addmm(self.bias, rows, self.weight)
        return y if x.ndim == 2 else y.reshape(*x.shape[:-1], y.shape[-1])

    def absolute(self, r: Tensor) -> Tensor:
        return r @ self.magnitude

    def doubt(self, *rs: Tensor) -> Tensor | None:
        weight, bias = self.site.error(1), self.site.error(2)
        if weight is None:
            return None if bias is None else bias.expand(rs[0].shape[0], *self.out_shape)
        return rs[0] @ weight + (0.0 if bias is None else bias)

    def adjoint(self, a: Tensor) -> tuple[Tensor, ...]:
        x = a.flatten(0, -2) @ self.weight.T
        return (x if a.ndim == 2 else x.reshape(*a.shape[:-1], x.shape[-1]),)

    def rows(self, index: Tensor, sign: Tensor) -> tuple[Tensor, ...]:
        n_in, n_out = self.weight.shape
        columns = self._columns.index_select(0, index % n_out).mul_(sign[:, None])
        lead = size(self.out_shape[:-1])
        if lead == 1:
            return (columns.reshape(-1, *self.in_shapes[0]),)
        x = columns.new_zeros((len(index), lead, n_in))
        x[torch.arange(len(index), device=x.device), index // n_out] = columns
        return (x.reshape(-1, *self.in_shapes[0]),)

    @cached_property
    def _columns(self) -> Tensor:
        return self.weight.T.contiguous()  # picking rows from a transposed view would touch every cache line of W

    def offset(self) -> Tensor | None:
        return None if self.bias is None else self.bias.expand(self.out_shape)


def whole_product(a: Tensor, b: Tensor) -> Tensor:
    """numpy's matmul of int64 tensors, modulo 2^64; on the host, since devices have no kernels for it."""
    return torch.matmul(a.cpu(), b.cpu()).to(a.device)


class MatMulConstant(Affine):
    """y = x C or y = C x (numpy's matmul), C constant. Operands of rank 1 get an axis that the result then lacks."""

    integers = "wrap"
    native = True

    def __init__(self, site: Site):
        super().__init__(site)
        (slot,) = site.variable
        self.left, self.fixed = slot == 0, 1 - slot  # x stands on the left
        c = site.constant(1 - slot).to(site.dtype)
        n_x = len(site.shapes[slot])
        if c.ndim == 1:
            c = c[:, None] if self.left else c[None, :]
        matrix = self.in_shapes[0]
        if n_x == 1:
            matrix = (1, *matrix) if self.left else (*matrix, 1)
        batch = torch.broadcast_shapes(matrix[:-2], c.shape[:-2])
        self.x_shape: Shape = (*(1,) * (len(batch) + 2 - len(matrix)), *matrix)
        self.y_shape: Shape = (*batch, matrix[-2], c.shape[-1]) if self.left else (*batch, c.shape[-2], matrix[-1])
        self.matrix, self.magnitude = c, c.abs()
        repeats = size(batch) // max(size(matrix[:-2]), 1)
        inner, outer = (c.shape[-2], c.shape[-1]) if self.left else (c.shape[-1], c.shape[-2])
        extra = derived(site, 1 - slot)
        self.terms = (inner + extra, outer * repeats + extra)

    def _times(self, x: Tensor, c: Tensor) -> Tensor:
        x, times = x.reshape(x.shape[0], *self.x_shape), torch.matmul if x.is_floating_point() else whole_product
        y = times(x, c) if self.left else times(c, x)
        return y.reshape(x.shape[0], *self.out_shape)

    def forward(self, x: Tensor) -> Tensor:
        matrix = self.matrix if x.is_floating_point() else self.site.whole(self.fixed).reshape(self.matrix.shape)
        return self._times(x, matrix)

    def absolute(self, r: Tensor) -> Tensor:
        return self._times(r, self.magnitude)

    def adjoint(self, a: Tensor) -> tuple[Tensor, ...]:
        a = a.reshape(a.shape[0], *self.y_shape)
        x = torch.matmul(a, self.matrix.mT) if self.left else torch.matmul(self.matrix.mT, a)
        return (unbroadcast(x, self.x_shape).reshape(a.shape[0], *self.in_shapes[0]),)

    def offset(self) -> Tensor | None:
        return None


@OPS.add("MatMul")
def matmul(site: Site) -> Operator:
    return MatMulConstant(site) if len(site.variable) == 1 else contractions.matmul(site)
