"""Operators whose structure (indices, starts, shapes) depends on the input. Evaluated, never bounded.

Every operand gets the batch axis N, constants by repetition; shapes are static, only the places vary. Places outside an
axis, where the model has no value at all, are moved to its nearest end: a device cannot raise errors per sample, and a
counterexample is only believed after ONNX Runtime has replayed it.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import prod

import torch
from torch import Tensor

from verifier.ops import OPS
from verifier.ops.arithmetic import lift
from verifier.ops.base import Opaque, Site, Unsuitable
from verifier.ops.rank import number_type


class Computed(Opaque):
    """Subclasses give `compute`, which sees all operands (N, *shape) in the file's order, None where absent."""

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
class Retargeted(Computed):
    """A computed target; the result's static shape says what it is."""

    def compute(self, x: Tensor, shape: Tensor) -> Tensor:
        if self.site.kind == "ReshapeDynamic":
            return x.reshape(x.shape[0], *self.out_shape)
        return lift(x, len(self.out_shape)).expand(x.shape[0], *self.out_shape)


@OPS.add("ConstantOfShapeDynamic")
class ConstantOfShape(Computed):
    def compute(self, shape: Tensor) -> Tensor:
        value = self.site.attrs.get("value", 0.0)
        value = float(value.reshape(-1)[0]) if hasattr(value, "reshape") else float(value)
        return torch.full((shape.shape[0], *self.out_shape), value, dtype=number_type(self.site), device=shape.device)


@OPS.add("RangeDynamic")
class Range(Computed):
    def compute(self, start: Tensor, limit: Tensor, delta: Tensor) -> Tensor:
        steps = torch.arange(self.out_shape[0], device=start.device)
        return start.reshape(-1, 1) + steps * delta.reshape(-1, 1)


@OPS.add("SliceDynamic")
class Slice(Computed):
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


@OPS.add("GatherDynamic")
class Gather(Computed):
    def compute(self, x: Tensor, index: Tensor) -> Tensor:
        axis = self.site.attrs.get("axis", 0) % (x.ndim - 1) + 1
        y = take(x, axis, wrapped(index, x.shape[axis]).flatten(1))
        return y.reshape(x.shape[0], *self.out_shape)


@OPS.add("GatherElementsDynamic")
class GatherElements(Computed):
    def compute(self, x: Tensor, index: Tensor) -> Tensor:
        axis = self.site.attrs.get("axis", 0) % (x.ndim - 1) + 1
        return x.gather(axis, wrapped(index, x.shape[axis]))


@OPS.add("ScatterElementsDynamic", "ScatterDynamic")
class ScatterElements(Computed):
    def compute(self, x: Tensor, index: Tensor, updates: Tensor) -> Tensor:
        axis = self.site.attrs.get("axis", 0) % (x.ndim - 1) + 1
        return write(x, axis, wrapped(index, x.shape[axis]), updates, self.site.attrs.get("reduction", "none"))


def write(x: Tensor, axis: int, index: Tensor, updates: Tensor, reduction: str) -> Tensor:
    """x with updates at index along an axis, replaced or reduced ('add', 'mul', 'max', 'min')."""
    if reduction == "none":
        return x.scatter(axis, index, updates)
    names = {"add": "sum", "mul": "prod", "max": "amax", "min": "amin"}
    return x.scatter_reduce(axis, index, updates, names[reduction], include_self=True)


def flat_places(index: Tensor, shape: Sequence[int]) -> Tensor:
    """Tuples of places (..., k) in an array whose first k axes are `shape`, as places in those axes merged into one."""
    flat = torch.zeros_like(index[..., 0])
    for j, length in enumerate(shape):
        flat = flat * length + wrapped(index[..., j], length)
    return flat


@OPS.add("GatherNDDynamic")
class GatherND(Computed):
    def compute(self, x: Tensor, index: Tensor) -> Tensor:
        index, n = index.long(), x.shape[0]
        shared = self.site.attrs.get("batch_dims", 0) + 1  # the batch axis N is one more
        k, lead = index.shape[-1], prod(x.shape[:shared])
        rows = x.reshape(lead, prod(x.shape[shared : shared + k]), prod(x.shape[shared + k :]))
        places = flat_places(index, x.shape[shared : shared + k])
        places = places.reshape(lead, prod(places.shape[shared:]))
        return take(rows, 1, places).reshape(n, *self.out_shape)


@OPS.add("ScatterNDDynamic")
class ScatterND(Computed):
    """y = x with updates (N, *q, *rest) at index (N, *q, k)."""

    def compute(self, x: Tensor, index: Tensor, updates: Tensor) -> Tensor:
        index, n = index.long(), x.shape[0]
        k = index.shape[-1]
        rows = x.reshape(n, prod(x.shape[1 : k + 1]), prod(x.shape[k + 1 :]))
        places = flat_places(index, x.shape[1 : k + 1]).flatten(1).unsqueeze(2).expand(-1, -1, rows.shape[2])
        updates = updates.reshape(places.shape).to(x.dtype)
        return write(rows, 1, places, updates, self.site.attrs.get("reduction", "none")).reshape(x.shape)


@OPS.add("ShapeDynamic", "SizeDynamic")
class ShapeOf(Computed):
    """The shape, or the number of entries, of a tensor whose shape was seen not to be settled by the model alone."""

    def compute(self, x: Tensor) -> Tensor:
        dims = torch.tensor(x.shape[1:], dtype=torch.int64, device=x.device)
        dims = dims if self.site.kind == "ShapeDynamic" else dims.prod()
        return dims.expand(x.shape[0], *self.out_shape)
