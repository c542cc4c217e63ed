"""Operators whose structure depends on the input: what they share, and those whose shapes may depend on it.

Reading and writing at computed places has a fixed shape and is bounded (`verifier.ops.reading` and `writing`). Slices
between computed ends, computed ranges and targets have the shape that was seen on zeros, which other inputs may change:
they are evaluated, never bounded.

Every operand gets the batch axis N, constants by repetition; shapes are static, only the places vary. Places outside an
axis, where the model has no value at all, are moved to its nearest end: a device cannot raise errors per sample, and a
counterexample is only believed after ONNX Runtime has replayed it.
"""

from __future__ import annotations

import torch
from torch import Tensor

from verifier.ops import OPS
from verifier.ops.arithmetic import lift
from verifier.ops.base import Opaque, Operator, Site, Unsuitable
from verifier.ops.rank import number_type


class Computed(Operator):
    """Subclasses give `compute`, which sees all operands (N, *shape) in the file's order, None where absent."""

    integers = "keep"
    native = True

    lacks = "its shape, starts or ends are computed from the network's input"

    def __init__(self, site: Site):
        super().__init__(site)
        self.fixed = [site.constant(i) for i in range(len(site.shapes))]

    def compute(self, *operands: Tensor | None) -> Tensor:
        raise NotImplementedError

    def forward(self, *xs: Tensor) -> Tensor:
        left, n = iter(xs), xs[0].shape[0]
        operands: list[Tensor | None] = []
        for i, c in enumerate(self.fixed):
            if c is not None:
                operands.append(c.expand(n, *c.shape))
            else:
                operands.append(next(left) if self.site.has(i) else None)
        return self.compute(*operands)

    def guide(self, *xs: Tensor) -> Tensor:
        """Whole numbers, which come as floats, are indices."""
        dtypes = [self.site.in_dtypes[i] for i in self.site.variable]
        return self.forward(*(x.round().long() if d.kind in "iu" else x for x, d in zip(xs, dtypes)))


def wrapped(index: Tensor, length: int) -> Tensor:
    """Places along an axis of `length`: negative ones count from its end."""
    index = index.long()
    return torch.where(index < 0, index + length, index).clamp(0, max(length - 1, 0))


def take(x: Tensor, axis: int, index: Tensor) -> Tensor:
    """x (N, ..., axis, ...) at index (N, L) along a tensor axis, per sample."""
    shape = [1] * x.ndim
    shape[0], shape[axis] = index.shape
    return torch.take_along_dim(x, index.reshape(shape), axis)


@OPS.add("ReshapeDynamic", "ExpandDynamic")
class Retargeted(Computed, Opaque):
    """A computed target; the result's static shape says what it is."""

    def compute(self, x: Tensor, shape: Tensor) -> Tensor:
        if self.site.kind == "ReshapeDynamic":
            return x.reshape(x.shape[0], *self.out_shape)
        return lift(x, len(self.out_shape)).expand(x.shape[0], *self.out_shape)


@OPS.add("ConstantOfShapeDynamic")
class ConstantOfShape(Computed, Opaque):
    def compute(self, shape: Tensor) -> Tensor:
        value = self.site.attrs.get("value", 0.0)
        value = float(value.reshape(-1)[0]) if hasattr(value, "reshape") else float(value)
        return torch.full((shape.shape[0], *self.out_shape), value, dtype=number_type(self.site), device=shape.device)


@OPS.add("RangeDynamic")
class Range(Computed, Opaque):
    def compute(self, start: Tensor, limit: Tensor, delta: Tensor) -> Tensor:
        steps = torch.arange(self.out_shape[0], device=start.device)
        return start.reshape(-1, 1) + steps * delta.reshape(-1, 1)


@OPS.add("SliceDynamic")
class Slice(Computed, Opaque):
    """Computed starts; the lengths are static, so ends need not be looked at."""

    def __init__(self, site: Site):
        super().__init__(site)
        if site.has(3) and self.fixed[3] is None:
            raise Unsuitable(f"{site.name}: Slice along computed axes")
        axes = self.fixed[3].tolist() if site.has(3) else range(site.shapes[1][0])
        self.axes = [int(k) % len(site.shape) for k in axes]

    def compute(self, x: Tensor, starts: Tensor, ends: Tensor, *rest: Tensor | None) -> Tensor:
        steps = rest[1] if len(rest) > 1 else None
        for j, axis in enumerate(self.axes):
            step = torch.ones_like(starts[:, j]) if steps is None else steps[:, j]
            first = wrapped(starts[:, j], x.shape[axis + 1])
            index = first[:, None] + step[:, None] * torch.arange(self.out_shape[axis], device=x.device)
            x = take(x, axis + 1, index.clamp(0, max(x.shape[axis + 1] - 1, 0)))
        return x


@OPS.add("ShapeDynamic", "SizeDynamic")
class ShapeOf(Computed, Opaque):
    """The shape, or the number of entries, of a tensor whose shape was seen not to be settled by the model alone."""

    def compute(self, x: Tensor) -> Tensor:
        dims = torch.tensor(x.shape[1:], dtype=torch.int64, device=x.device)
        dims = dims if self.site.kind == "ShapeDynamic" else dims.prod()
        return dims.expand(x.shape[0], *self.out_shape)
