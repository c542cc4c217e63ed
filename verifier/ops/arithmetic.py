"""Sums, differences, multiples and means: affine maps that act entry by entry or add up whole axes.

Operands broadcast as in numpy, over the node's own shape; the leading batch axis N stays apart. Where an operand is
repeated by broadcasting, M has one row per copy: the adjoint adds the coefficients of all copies (`unbroadcast`), and
`terms` counts them.
Division by a constant divides, in `forward` and in `adjoint` alike: one rounding, no rounded reciprocal.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from verifier.ops import OPS
from verifier.ops.base import Affine, Opaque, Operator, Shape, Site, Unsuitable, size


def lift(x: Tensor, rank: int) -> Tensor:
    """(N, *s) to (N, 1, ..., 1, *s) with `rank` axes after N: unequal ranks then broadcast beside the batch axis."""
    missing = rank - (x.ndim - 1)
    return x.reshape(x.shape[0], *(1,) * missing, *x.shape[1:]) if missing > 0 else x


def unbroadcast(a: Tensor, shape: Shape) -> Tensor:
    """Adjoint of broadcasting: (N, *out_shape) to (N, *shape), summed over the axes along which it was repeated."""
    lead = a.ndim - 1 - len(shape)
    axes = [i + 1 for i in range(a.ndim - 1) if i < lead or (shape[i - lead] == 1 and a.shape[i + 1] != 1)]
    if axes:
        a = a.sum(axes, keepdim=True)
    return a.reshape(a.shape[0], *shape) if lead else a


def rounded(site: Site, *slots: int) -> int:
    """1, one more term, if the working precision cannot hold one of these constants exactly; else 0."""
    kind = np.float32 if site.dtype == torch.float32 else np.float64
    values = (site.constants[i] for i in slots if i < len(site.constants))
    with np.errstate(over="ignore"):
        return int(any(v is not None and v.dtype.kind in "fiu" and bool((v.astype(kind) != v).any()) for v in values))


DERIVED = 8


def derived(site: Site, *slots: int) -> int:
    """Terms for constants that rewrites may have computed in float64: they are off by up to DERIVED roundings of it
    (`HARMLESS` in `verifier.net.sure`), which must count when that is the working precision; plus `rounded`. What is
    off by more has its own error (`Affine.doubt`).
    """
    values = (site.constants[i] for i in slots if i < len(site.constants))
    wide = any(v is not None and v.dtype == np.float64 for v in values)
    return rounded(site, *slots) + (DERIVED if wide else 0)


class Total(Affine):
    """y = sum_i s_i x_i + c with signs s_i = 1 or -1 over operands that broadcast; constant ones make c."""

    integers = "wrap"
    native = True

    def __init__(self, site: Site, signs: Sequence[int]):
        super().__init__(site)
        self.rank = len(site.shape)
        self.signs = [signs[i] for i in site.variable]
        parts = [(signs[i], site.constant(i)) for i in range(len(site.shapes)) if site.constants[i] is not None]
        self.c = None
        for sign, part in parts:
            part = part if sign > 0 else -part
            self.c = part if self.c is None else self.c + part
        repeats = max(size(site.shape) // max(size(s), 1) for s in self.in_shapes)
        operands = len(self.signs) + len(parts) + (derived(site, *range(len(site.shapes))) if parts else 0)
        self.terms = (operands, max(repeats, 1))
        self.entrywise = len(self.in_shapes) == 1

    def forward(self, *xs: Tensor) -> Tensor:
        y = None
        for sign, x in zip(self.signs, xs):
            x = lift(x, self.rank)
            y = (x if sign > 0 else -x) if y is None else (y + x if sign > 0 else y - x)
        if self.c is not None:
            y = y + self.c
        return y.expand(y.shape[0], *self.out_shape)

    def absolute(self, *rs: Tensor) -> Tensor:
        y = None
        for r in rs:
            y = lift(r, self.rank) if y is None else y + lift(r, self.rank)
        return y.expand(y.shape[0], *self.out_shape)

    def adjoint(self, a: Tensor) -> tuple[Tensor, ...]:
        return tuple(unbroadcast(a if sign > 0 else -a, s) for sign, s in zip(self.signs, self.in_shapes))

    def doubt(self, *rs: Tensor) -> Tensor | None:
        errors = [e for i in range(len(self.site.errors)) if (e := self.site.error(i)) is not None]
        return sum(errors).expand(rs[0].shape[0], *self.out_shape) if errors else None

    def within(self, *boxes: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor] | None:
        """x + c >= c for x >= 0: rounding must not cost a sign that a root or a logarithm above depends on."""
        if self.c is None or self.signs != [1]:
            return None
        c = self.c.to(self.site.dtype)
        least = c - 4 * torch.finfo(c.dtype).eps * c.abs()
        for i in range(len(self.site.errors)):
            least = least if self.site.error(i) is None else least - self.site.error(i)
        l = lift(boxes[0][0], self.rank)
        low = torch.where(l >= 0, least, -torch.inf).expand(l.shape[0], *self.out_shape)
        return low, torch.full_like(low, torch.inf)

    def offset(self) -> Tensor | None:
        return None if self.c is None else self.c.to(self.site.dtype).expand(self.out_shape)


@OPS.add("Add")
def add(site: Site) -> Operator:
    return Total(site, (1, 1))


@OPS.add("Sub")
def sub(site: Site) -> Operator:
    return Total(site, (1, -1))


@OPS.add("Neg")
def neg(site: Site) -> Operator:
    return Total(site, (-1,))


class Scale(Affine):
    """y = k x entry by entry, k constant; either side may be broadcast."""

    integers = "wrap"
    native = True

    entrywise = True

    def __init__(self, site: Site, slot: int):
        super().__init__(site)
        self.k = site.constant(slot)
        self.magnitude = self.k.abs()
        self.rank = len(site.shape)
        extra = derived(site, slot)
        self.terms = (1 + extra, max(size(site.shape) // max(size(self.in_shapes[0]), 1), 1) + extra)

    def _times(self, x: Tensor, k: Tensor) -> Tensor:
        return x * k

    def forward(self, x: Tensor) -> Tensor:
        return self._times(lift(x, self.rank), self.k)

    def absolute(self, r: Tensor) -> Tensor:
        return self._times(lift(r, self.rank), self.magnitude)

    def doubt(self, *rs: Tensor) -> Tensor | None:
        error = self.site.error(1 - self.site.variable[0])
        return None if error is None else lift(rs[0], self.rank) * error

    def adjoint(self, a: Tensor) -> tuple[Tensor, ...]:
        return (unbroadcast(self._times(a, self.k), self.in_shapes[0]),)

    def offset(self) -> Tensor | None:
        return None


class Shrunk(Scale):
    """y = x / k, k constant without zeros, known to a few roundings (rewrites make no others)."""

    integers = ""
    native = False

    def _times(self, x: Tensor, k: Tensor) -> Tensor:
        return x / k


class Entrywise(Opaque):
    """A function of several operands entry by entry; they broadcast, and some may be constant."""

    lacks = "operands that depend on the input where bounds need a constant, or a constant that is not finite"

    def __init__(self, site: Site):
        super().__init__(site)
        self.fixed = [site.constant(i) for i in range(len(site.shapes))]
        self.rank = len(site.shape)

    def combine(self, *operands: Tensor) -> Tensor:
        raise NotImplementedError

    def forward(self, *xs: Tensor) -> Tensor:
        left = iter(xs)
        return self.combine(*(lift(next(left), self.rank) if c is None else c for c in self.fixed))


class Ratio(Entrywise):
    """y = a / b where b depends on x or has zeros."""

    lacks = "a divisor that depends on the input, or has zeros"

    def combine(self, a: Tensor, b: Tensor) -> Tensor:
        return a / b


@OPS.add("Div")
def div(site: Site) -> Operator:
    if site.out_dtype.kind in "iu":  # towards zero, as in ONNX
        from verifier.ops.whole import Quotient

        return Quotient(site)
    k = site.constants[1]
    simple = k is not None and k.dtype.kind == "f" and np.isfinite(k).all() and (k != 0).all()
    return Shrunk(site, 1) if simple else Ratio(site)


@OPS.add("BatchNormalization")
class BatchNormalization(Affine):
    """y = scale x + shift along axis 1 of the node's shape."""

    entrywise = True

    def __init__(self, site: Site):
        super().__init__(site)
        scale, shift = site.constant(1), site.constant(2)
        if scale is None or shift is None:
            raise Unsuitable(f"{site.name}: BatchNormalization needs constant scale and shift")
        tail = (1,) * (len(site.shape) - 2)
        self.scale, self.shift = scale.reshape(-1, *tail), shift.reshape(-1, *tail)
        extra = derived(site, 1, 2)
        self.terms = (2 + extra, 1 + extra)

    def forward(self, x: Tensor) -> Tensor:
        return torch.addcmul(self.shift, x, self.scale)

    def absolute(self, r: Tensor) -> Tensor:
        return r * self.scale.abs()

    def doubt(self, *rs: Tensor) -> Tensor | None:
        errors = self.site.error(1), self.site.error(2)
        scale, shift = (0.0 if e is None else e.reshape(self.scale.shape) for e in errors)
        return None if errors == (None, None) else rs[0] * scale + shift

    def adjoint(self, a: Tensor) -> tuple[Tensor, ...]:
        return (a * self.scale,)

    def offset(self) -> Tensor | None:
        return self.shift.expand(self.out_shape)


@OPS.add("ReduceSum")
class ReduceSum(Affine):
    """y = sum of x over `axes`; the mean divides that sum by their size."""

    integers = "wrap"
    native = True

    def __init__(self, site: Site):
        super().__init__(site)
        (shape,) = self.in_shapes
        self.axes = tuple(i + 1 for i in site.attrs["axes"])
        self.count = size(tuple(shape[i - 1] for i in self.axes))
        self.kept = tuple(1 if i + 1 in self.axes else n for i, n in enumerate(shape))
        self.terms = (max(self.count, 1), 1)

    def within(self, *boxes: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor] | None:
        """Sums and means of numbers >= 0 are >= 0, whatever rounding says."""
        l = boxes[0][0]
        low = torch.where((~(l >= 0)).sum(self.axes) == 0, 0.0, -torch.inf).to(l.dtype)
        low = low.reshape(l.shape[0], *self.out_shape)
        return low, torch.full_like(low, torch.inf)

    def forward(self, x: Tensor) -> Tensor:
        return x.sum(self.axes).reshape(x.shape[0], *self.out_shape)

    def absolute(self, r: Tensor) -> Tensor:
        return self.forward(r)

    def adjoint(self, a: Tensor) -> tuple[Tensor, ...]:
        return (a.reshape(a.shape[0], *self.kept).expand(a.shape[0], *self.in_shapes[0]),)

    def offset(self) -> Tensor | None:
        return None


@OPS.add("ReduceMean")
class ReduceMean(ReduceSum):
    integers = ""
    native = False

    def __init__(self, site: Site):
        super().__init__(site)
        self.terms = (self.count + 1, 1)

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) / self.count

    def adjoint(self, a: Tensor) -> tuple[Tensor, ...]:
        return super().adjoint(a / self.count)
