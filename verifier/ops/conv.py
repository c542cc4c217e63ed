"""Convolution, transposed convolution and average pooling in one to three spatial dimensions, with their adjoints.

Symbols: x (N, B, C, *in) with the node's own batch axis B, merged with N for the computation; s spatial dimensions;
kernel k, stride t, dilation d, pads (begins, ends). An entry of y sums C / groups * prod(k) products, one of the
adjoint only the taps that fall on it, at most ceil(k / (t / gcd(t, d))) per dimension: tap j of window i covers
i t + j d, so taps that cover the same entry differ by multiples of t / gcd(t, d). The adjoint of a convolution is the
transposed one with the same weight, and the other way round; asymmetric pads become an explicit pad or crop (`cut`),
each the other's adjoint.

Rounding: the bound of `terms` holds for any order of summation, not for Winograd or Fourier algorithms, which cuDNN may
choose in float32 (never in float64).
"""

from __future__ import annotations

from itertools import product
from math import gcd, prod

import torch
import torch.nn.functional as F
from torch import Tensor

from verifier.ops import OPS
from verifier.ops.arithmetic import derived
from verifier.ops.base import Affine, Shape, Site, Unsuitable

FORWARD = {1: F.conv1d, 2: F.conv2d, 3: F.conv3d}
TRANSPOSED = {1: F.conv_transpose1d, 2: F.conv_transpose2d, 3: F.conv_transpose3d}


def cut(x: Tensor, begins: Shape, ends: Shape) -> Tensor:
    """Pads with zeros (positive numbers) or crops (negative) the last len(begins) axes."""
    if not any(begins) and not any(ends):
        return x
    pads = [n for pair in zip(reversed(begins), reversed(ends)) for n in pair]
    if min(pads) < 0 < max(pads):  # torch crops first; what is cropped may be more than there is before padding
        return F.pad(F.pad(x, [max(n, 0) for n in pads]), [min(n, 0) for n in pads])
    return F.pad(x, pads)


def taps(kernel: Shape, strides: Shape, dilations: Shape) -> int:
    """Most windows that cover one entry of the input."""
    return prod(-(-k // (t // gcd(t, d))) for k, t, d in zip(kernel, strides, dilations))


class Window:
    """Geometry that convolution and pooling share: strides, dilations, pads by dimension."""

    def __init__(self, site: Site, kernel: Shape):
        self.kernel, self.rank = kernel, len(kernel)
        if self.rank not in FORWARD:
            raise Unsuitable(f"{site.name}: {self.rank} spatial dimensions; one to three are supported")
        self.strides = tuple(site.attrs["strides"])
        self.dilations = tuple(site.attrs["dilations"])
        pads = tuple(site.attrs["pads"])
        self.begins, self.ends = pads[: self.rank], pads[self.rank :]

    def span(self) -> Shape:
        """Entries from the first to the last tap of a window."""
        return tuple(d * (k - 1) + 1 for d, k in zip(self.dilations, self.kernel))

    def covered(self, windows: Shape) -> Shape:
        """Entries from the first to the last that `windows` windows touch."""
        return tuple((n - 1) * t + s for n, t, s in zip(windows, self.strides, self.span()))


class Sliding(Affine):
    """Slides a kernel over x (padded) and back: `slide` and `spread` are each other's adjoints."""

    window: Window
    groups: int

    def geometry(self, dense: Shape, sparse: Shape) -> None:
        """`dense`, `sparse`: the spatial shapes before and after sliding. Pads become symmetric or an explicit cut.

        `covered`: the stretch that the windows touch, which may end before the dense side does (a remainder of the
        stride) or, in a ceiling pool, beyond its pads; `over` = covered - dense - begins is what the end is padded
        (or, negative, cropped) by.
        """
        w = self.window
        over = tuple(c - n - b for c, n, b in zip(w.covered(sparse), dense, w.begins))
        # Symmetric padding p reaches begin and end alike; it serves where the remainder below is less than a stride.
        spare = tuple(b - o for b, o in zip(w.begins, over))
        self.symmetric = all(0 <= r < t and b < s for r, t, b, s in zip(spare, w.strides, w.begins, w.span()))
        self.over, self.spare = over, spare

    def slide(self, x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
        w = self.window
        if self.symmetric:
            return FORWARD[w.rank](x, weight, bias, w.strides, w.begins, w.dilations, self.groups)
        x = cut(x, w.begins, self.over)
        return FORWARD[w.rank](x, weight, bias, w.strides, 0, w.dilations, self.groups)

    def spread(self, y: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
        w = self.window
        if self.symmetric:
            return TRANSPOSED[w.rank](y, weight, bias, w.strides, w.begins, self.spare, self.groups, w.dilations)
        x = TRANSPOSED[w.rank](y, weight, None, w.strides, 0, 0, self.groups, w.dilations)
        x = cut(x, tuple(-b for b in w.begins), tuple(-o for o in self.over))
        return x if bias is None else x + bias.reshape(-1, *(1,) * w.rank)


class Weighted(Sliding):
    """What Conv and ConvTranspose share: weight (the sparse side's channels first), bias, groups, batch axes merged."""

    integers = "wrap"

    def __init__(self, site: Site):
        super().__init__(site)
        if site.constants[1] is None or (site.has(2) and site.constants[2] is None):
            raise Unsuitable(f"{site.name}: {site.kind} needs a constant weight and bias")
        self.weight = site.constant(1).to(site.dtype)
        self.bias = site.constant(2).to(site.dtype) if site.has(2) else None
        self.magnitude = self.weight.abs()
        self.groups = site.attrs["group"]
        self.window = Window(site, tuple(self.weight.shape[2:]))
        self.rounded = derived(site, 1, 2)

    def doubt(self, *rs: Tensor) -> Tensor | None:
        weight, bias = self.site.error(1), self.site.error(2)
        if weight is None and bias is None:
            return None
        by_weight = 0.0 if weight is None else self.through(rs[0], weight, None)
        tail = (1,) * self.window.rank
        total = by_weight + (0.0 if bias is None else bias.reshape(-1, *tail))
        return total.expand(rs[0].shape[0], *self.out_shape)

    def through(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        """The map with another weight and bias."""
        raise NotImplementedError

    def forward(self, x: Tensor) -> Tensor:
        return self.through(x, self.weight, self.bias)

    def absolute(self, r: Tensor) -> Tensor:
        return self.through(r, self.magnitude, None)

    def _merged(self, step, x: Tensor, weight: Tensor, bias: Tensor | None, shape: Shape) -> Tensor:
        return step(x.flatten(0, 1), weight, bias).reshape(x.shape[0], *shape)

    def offset(self) -> Tensor | None:
        return None if self.bias is None else self.bias.reshape(-1, *(1,) * self.window.rank).expand(self.out_shape)


@OPS.add("Conv")
class Conv(Weighted):
    """weight (C_out, C_in / groups, *k)."""

    def __init__(self, site: Site):
        super().__init__(site)
        w, (out, per_group) = self.window, self.weight.shape[:2]
        self.geometry(self.in_shapes[0][2:], self.out_shape[2:])
        back = out // self.groups * taps(w.kernel, w.strides, w.dilations)
        self.terms = (per_group * prod(w.kernel) + (self.bias is not None) + self.rounded, back + self.rounded)

    def through(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        return self._merged(self.slide, x, weight, bias, self.out_shape)

    def adjoint(self, a: Tensor) -> tuple[Tensor, ...]:
        return (self._merged(self.spread, a, self.weight, None, self.in_shapes[0]),)


@OPS.add("ConvTranspose")
class ConvTranspose(Weighted):
    """weight (C_in, C_out / groups, *k)."""

    def __init__(self, site: Site):
        super().__init__(site)
        w, (c_in, per_group) = self.window, self.weight.shape[:2]
        self.geometry(self.out_shape[2:], self.in_shapes[0][2:])
        forward = c_in // self.groups * taps(w.kernel, w.strides, w.dilations)
        self.terms = (forward + (self.bias is not None) + self.rounded, per_group * prod(w.kernel) + self.rounded)

    def through(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        return self._merged(self.spread, x, weight, bias, self.out_shape)

    def adjoint(self, a: Tensor) -> tuple[Tensor, ...]:
        return (self._merged(self.slide, a, self.weight, None, self.in_shapes[0]),)


@OPS.add("AveragePool")
class AveragePool(Sliding):
    """Sums windows with a kernel of ones, one channel at a time, and divides by the number of entries that count.

    Pads count if count_include_pad; what a ceiling size adds beyond the pads never does.
    """

    groups = 1

    def __init__(self, site: Site):
        super().__init__(site)
        self.window = w = Window(site, tuple(site.attrs["kernel_shape"]))
        dense, sparse = self.in_shapes[0][2:], self.out_shape[2:]
        self.geometry(dense, sparse)
        self.ones = torch.ones((1, 1, *w.kernel), dtype=site.dtype, device=site.device)
        counted = torch.ones((1, 1, *dense), dtype=site.dtype, device=site.device)
        if site.attrs["count_include_pad"]:
            padded = F.pad(counted, [n for p in zip(reversed(w.begins), reversed(w.ends)) for n in p], value=1.0)
            counted = cut(padded, (0,) * w.rank, tuple(o - e for o, e in zip(self.over, w.ends)))
            self.count = FORWARD[w.rank](counted, self.ones, None, w.strides, 0, w.dilations)
        else:
            self.count = self.slide(counted, self.ones)
        self.terms = (prod(w.kernel) + 1, taps(w.kernel, w.strides, w.dilations) + 1)

    def forward(self, x: Tensor) -> Tensor:
        channels = x.reshape(-1, 1, *self.in_shapes[0][2:])
        return (self.slide(channels, self.ones) / self.count).reshape(x.shape[0], *self.out_shape)

    def absolute(self, r: Tensor) -> Tensor:
        return self.forward(r)

    def adjoint(self, a: Tensor) -> tuple[Tensor, ...]:
        w, windows = self.window, self.out_shape[2:]
        channels = (a / self.count[0]).flatten(0, 2)
        x = a.new_zeros((channels.shape[0], *w.covered(windows)))
        # Tap by tap, for all windows at once: many times faster than a transposed convolution of one channel.
        for tap in product(*(range(k) for k in w.kernel)):
            ends = zip(tap, w.dilations, windows, w.strides)
            x[(slice(None), *(slice(j * d, j * d + (n - 1) * t + 1, t) for j, d, n, t in ends))] += channels
        x = cut(x, tuple(-b for b in w.begins), tuple(-o for o in self.over))
        return (x.reshape(a.shape[0], *self.in_shapes[0]),)

    def offset(self) -> Tensor | None:
        return None
