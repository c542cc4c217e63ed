"""Moves: operators that only pick, repeat or reorder entries, or put constants between them. They round nothing.

Every forward is a view or a copy by index; adjoints add up what a move repeated, and `terms` counts the repeats.
Symbols: x (N, *in_shape), a (N, *out_shape); axis k of a node's shape is axis k + 1 of a tensor. Forwards and adjoints
may return views of their argument.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache

import numpy as np
import torch
from torch import Tensor

from verifier.ops import OPS
from verifier.ops.arithmetic import lift, rounded, unbroadcast
from verifier.ops.base import Affine, Move, Operator, Site, Unsuitable, size
from verifier.ops.integers import Whole, as_floats, is_integer


@cache
def as_move(kind: type[Affine]) -> type[Affine]:
    return type(kind.__name__, (kind, Move), {"__doc__": kind.__doc__})


def settle(kind: type[Affine], site: Site, rounds: bool | int) -> Affine:
    """An operator that puts constants between what it moves: a `Move` (exact) unless a constant had to be rounded."""
    if not rounds:
        return as_move(kind)(site)
    op = kind(site)
    op.terms = (op.terms[0] + 1, op.terms[1])
    return op


@OPS.add("Reshape")
class Reshape(Move):
    def forward(self, x: Tensor) -> Tensor:
        return x.reshape(x.shape[0], *self.out_shape)

    def adjoint(self, a: Tensor) -> tuple[Tensor, ...]:
        return (a.reshape(a.shape[0], *self.in_shapes[0]),)


@OPS.add("Transpose")
class Transpose(Move):
    def __init__(self, site: Site):
        super().__init__(site)
        perm = site.attrs["perm"]
        self.perm = (0, *(p + 1 for p in perm))
        self.inverse = (0, *(int(p) + 1 for p in np.argsort(perm)))

    def forward(self, x: Tensor) -> Tensor:
        return x.permute(self.perm)

    def adjoint(self, a: Tensor) -> tuple[Tensor, ...]:
        return (a.permute(self.inverse),)


@OPS.add("Slice")
class Slice(Move):
    """Takes range(start, end, step) along each of `axes`; negative steps read the entries in order and flip them."""

    def __init__(self, site: Site):
        super().__init__(site)
        cuts: list[slice] = [slice(None)] * (len(site.shape) + 1)
        flips = []
        for axis, start, end, step in zip(*(site.attrs[k] for k in ("axes", "starts", "ends", "steps"))):
            taken = range(start, end, step)
            if step < 0:
                taken = taken[::-1]
                flips.append(axis + 1)
            cuts[axis + 1] = slice(taken.start, max(taken.stop, taken.start), taken.step)
        self.cuts, self.flips = tuple(cuts), flips

    def forward(self, x: Tensor) -> Tensor:
        y = x[self.cuts]
        return y.flip(self.flips) if self.flips else y

    def adjoint(self, a: Tensor) -> tuple[Tensor, ...]:
        x = a.new_zeros((a.shape[0], *self.in_shapes[0]))
        x[self.cuts] = a.flip(self.flips) if self.flips else a
        return (x,)


class Joined(Affine):
    """Joins along `axis`; constant parts make the offset."""

    integers = "keep"
    native = True

    terms = (1, 1)

    def __init__(self, site: Site):
        super().__init__(site)
        self.axis = site.attrs["axis"] + 1
        self.fixed = [site.constant(i) for i in range(len(site.shapes))]
        self.lengths = [s[self.axis - 1] for s in site.shapes]

    def _join(self, xs: Sequence[Tensor], constants: bool) -> Tensor:
        n, left = xs[0].shape[0], iter(xs)
        parts = []
        for c in self.fixed:
            part = next(left) if c is None else (c if constants else torch.zeros_like(c)).expand(n, *c.shape)
            parts.append(part)
        return torch.cat(parts, self.axis)

    def forward(self, *xs: Tensor) -> Tensor:
        return self._join(xs, True)

    def absolute(self, *rs: Tensor) -> Tensor:
        return self._join(rs, False)

    def adjoint(self, a: Tensor) -> tuple[Tensor, ...]:
        parts = a.split(self.lengths, self.axis)
        return tuple(p for p, c in zip(parts, self.fixed) if c is None)

    def offset(self) -> Tensor | None:
        if all(c is None for c in self.fixed):
            return None
        c0 = next(c for c in self.fixed if c is not None)
        parts = [c0.new_zeros(s) if c is None else c for c, s in zip(self.fixed, self.site.shapes)]
        return torch.cat(parts, self.axis - 1).to(self.site.dtype)


@OPS.add("Concat")
def concat(site: Site) -> Operator:
    return settle(Joined, site, rounded(site, *range(len(site.shapes))))


class Select(Move):
    """Entries `indices[k]` along axis `axes[k]`, one axis after another; the adjoint adds what was taken repeatedly."""

    def __init__(self, site: Site, axes: Sequence[int], indices: Sequence[np.ndarray]):
        super().__init__(site)
        lengths, repeats = list(self.in_shapes[0]), 1
        self.steps = []
        for axis, index in zip(axes, indices):
            flat = np.asarray(index, dtype=np.int64).ravel()
            self.steps.append((axis + 1, lengths[axis], torch.from_numpy(flat.copy()).to(site.device)))
            repeats *= int(np.bincount(flat, minlength=1).max())
            lengths[axis] = flat.size
        self.flat_shape = tuple(lengths)
        self.terms = (1, max(repeats, 1))

    def forward(self, x: Tensor) -> Tensor:
        for axis, _, index in self.steps:
            x = x.index_select(axis, index)
        return x.reshape(x.shape[0], *self.out_shape)

    def adjoint(self, a: Tensor) -> tuple[Tensor, ...]:
        a = a.reshape(a.shape[0], *self.flat_shape)
        for axis, length, index in reversed(self.steps):
            x = a.new_zeros((*a.shape[:axis], length, *a.shape[axis + 1 :]))
            a = x.index_add(axis, index, a)
        return (a,)


@OPS.add("Gather")
def gather(site: Site) -> Operator:
    return Select(site, [site.attrs["axis"]], [site.attrs["indices"]])


@OPS.add("Pick")
class Pick(Move):
    """y = x.ravel()[positions]."""

    def __init__(self, site: Site):
        super().__init__(site)
        flat = np.asarray(site.attrs["positions"], dtype=np.int64).ravel()
        self.index = torch.from_numpy(flat.copy()).to(site.device)
        self.terms = (1, max(int(np.bincount(flat, minlength=1).max()), 1))

    def forward(self, x: Tensor) -> Tensor:
        return x.flatten(1).index_select(1, self.index).reshape(x.shape[0], *self.out_shape)

    def adjoint(self, a: Tensor) -> tuple[Tensor, ...]:
        x = a.new_zeros((a.shape[0], size(self.in_shapes[0])))
        x = x.index_add(1, self.index, a.flatten(1))
        return (x.reshape(a.shape[0], *self.in_shapes[0]),)


@OPS.add("Expand")
class Expand(Move):
    """x repeated to the node's shape, as in numpy's broadcasting."""

    def __init__(self, site: Site):
        super().__init__(site)
        self.terms = (1, max(size(site.shape) // max(size(self.in_shapes[0]), 1), 1))

    def forward(self, x: Tensor) -> Tensor:
        return lift(x, len(self.out_shape)).expand(x.shape[0], *self.out_shape)

    def adjoint(self, a: Tensor) -> tuple[Tensor, ...]:
        return (unbroadcast(a, self.in_shapes[0]),)


@OPS.add("Tile")
class Tile(Move):
    """x repeated `repeats[k]` times along axis k."""

    def __init__(self, site: Site):
        super().__init__(site)
        self.repeats = tuple(int(r) for r in site.attrs["repeats"])
        self.blocks = tuple(n for pair in zip(self.repeats, self.in_shapes[0]) for n in pair)
        self.terms = (1, max(size(self.repeats), 1))

    def forward(self, x: Tensor) -> Tensor:
        return x.repeat(1, *self.repeats)

    def adjoint(self, a: Tensor) -> tuple[Tensor, ...]:
        if not self.repeats:
            return (a,)
        return (a.reshape(a.shape[0], *self.blocks).sum(tuple(range(1, 2 * len(self.repeats), 2))),)


class Surrounded(Affine):
    """Pads with one constant number."""

    integers = "keep"
    native = True

    terms = (1, 1)

    def __init__(self, site: Site):
        super().__init__(site)
        rank = len(site.shape)
        begins, ends = site.attrs["pads"][:rank], site.attrs["pads"][rank:]
        self.value = float(site.attrs["value"])
        self.pads = [int(n) for pair in zip(reversed(begins), reversed(ends)) for n in pair]
        self.inside = (slice(None), *(slice(int(b), int(b) + n) for b, n in zip(begins, self.in_shapes[0])))

    def forward(self, x: Tensor) -> Tensor:
        return torch.nn.functional.pad(x, self.pads, value=self.value)

    def absolute(self, r: Tensor) -> Tensor:
        return torch.nn.functional.pad(r, self.pads)

    def adjoint(self, a: Tensor) -> tuple[Tensor, ...]:
        return (a[self.inside],)

    def offset(self) -> Tensor | None:
        if self.value == 0:
            return None
        return self.forward(torch.zeros((1, *self.in_shapes[0]), dtype=self.site.dtype, device=self.site.device))[0]


@OPS.add("Pad")
def pad(site: Site) -> Operator:
    mode, pads, rank = site.attrs["mode"], site.attrs["pads"], len(site.shape)
    if mode == "constant":
        held = float(torch.tensor(site.attrs["value"], dtype=site.dtype))
        return settle(Surrounded, site, held != site.attrs["value"])
    names = {"reflect": "reflect", "edge": "edge", "wrap": "wrap"}
    if mode not in names:
        raise Unsuitable(f"{site.name}: Pad with mode {mode!r}")
    lengths = site.shapes[0]
    axes = [k for k in range(rank) if pads[k] or pads[rank + k]]
    indices = [np.pad(np.arange(lengths[k]), (pads[k], pads[rank + k]), mode=names[mode]) for k in axes]
    return Select(site, axes, indices)


class Embedded(Affine):
    """y = base with y[index] = x: x (m,), attribute `index` (m,) without repeats, constant input `base` (n,)."""

    integers = "keep"
    native = True

    terms = (1, 1)

    def __init__(self, site: Site):
        super().__init__(site)
        self.base = next(c for i in range(len(site.shapes)) if (c := site.constant(i)) is not None)
        self.index = torch.from_numpy(np.array(site.attrs["index"], dtype=np.int64)).to(site.device)

    def forward(self, x: Tensor) -> Tensor:
        return self.base.expand(x.shape[0], -1).index_copy(1, self.index, x)

    def absolute(self, r: Tensor) -> Tensor:
        return torch.zeros_like(self.base).expand(r.shape[0], -1).index_copy(1, self.index, r)

    def adjoint(self, a: Tensor) -> tuple[Tensor, ...]:
        return (a.index_select(1, self.index),)

    def offset(self) -> Tensor | None:
        return self.base.index_fill(0, self.index, 0)


@OPS.add("Embed")
def embed(site: Site) -> Operator:
    return settle(Embedded, site, rounded(site, *range(len(site.shapes))))


class Same(Move):
    """A cast to a floating type, from another one, an integer or a truth value: real arithmetic does not see it."""

    def forward(self, x: Tensor) -> Tensor:
        return as_floats(x, self.site.in_dtypes[0] if self.site.in_dtypes else None, self.site.dtype)

    def absolute(self, r: Tensor) -> Tensor:
        return r

    def adjoint(self, a: Tensor) -> tuple[Tensor, ...]:
        return (a,)


@OPS.add("Cast")
def cast(site: Site) -> Operator:
    # A cast to a narrower float rounds visibly: a function of its own, not the identity.
    from verifier.ops.whole import Convert

    if site.attrs["to"] in ("float32", "float64"):
        return Same(site)
    whole = site.in_dtypes and (is_integer(site.in_dtypes[0]) or site.in_dtypes[0].kind == "b")
    whole = whole or site.attrs.get("entry", 0) or site.attrs.get("whole", 0)
    return Whole(site) if whole and is_integer(site.out_dtype) else Convert(site)
