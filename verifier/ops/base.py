"""The facts an operator states; every bounding method is written from these alone.

An operator stands at a `Site` (its attributes, constant inputs and static shapes) and is one of

* `Affine` y = sum_i M_i x_i + c over its variable inputs: forward, adjoint, |M|. Interval, CROWN, dual bounds follow.
* `Move` an Affine whose M only picks, repeats or reorders entries: the ends of a box go through `forward`.
* `Nonlinear` forward, interval, and lines that enclose it (`Lines`); see `verifier.ops.pointwise` for functions of one
  number. One that reads several variable inputs, or whose entries depend on several entries, is a `Joint`, enclosed by
  `Planes`.
* `Opaque` forward only. A network with one of these can be attacked and replayed, but not bounded.

Axis convention: every tensor given to an operator has one leading batch axis N before the node's own shape; callers
flatten (domains, rows) into N. "Variable input i" counts only the inputs that depend on x, in order. Interval and
magnitude arguments obey it too.

Rounding. Real arithmetic is bounded with floating point, so every method adds an error term built from two facts:
`terms`, the largest number of products that one entry of `forward` or `adjoint` sums, and `absolute`, |M| applied to
magnitudes. With unit round-off u, a sum of m products is off by at most gamma_m = m u / (1 - m u) times the sum of
absolute products, in any order of summation (Higham, Accuracy and Stability of Numerical Algorithms, 2002, section
3.1). Constants that were derived in float64 and rounded once count as more terms; what they are off by beyond that,
where sums cancelled, is said by `doubt`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from copy import copy
from dataclasses import dataclass
from math import prod
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

Shape = tuple[int, ...]


def gamma(terms: int, dtype: torch.dtype) -> float:
    """gamma_m = m u / (1 - m u): relative error bound of a sum of m rounded products in `dtype`; u is half of its
    machine epsilon.
    """
    mu = terms * torch.finfo(dtype).eps / 2
    return mu / (1 - mu) if mu < 0.5 else float("inf")


class Unsuitable(Exception):
    """Raised when an operator cannot stand at its site; the message says what is missing."""


@dataclass(frozen=True)
class Site:
    """Where an operator stands. `constants[i]` is the i-th input's value, or None if it depends on x; `shapes[i]` its
    shape (None: absent).
    """

    kind: str
    name: str
    attrs: Mapping[str, Any]
    constants: tuple[np.ndarray | None, ...]
    shapes: tuple[Shape | None, ...]
    shape: Shape
    opset: int
    dtype: torch.dtype
    device: torch.device
    out_dtype: np.dtype = np.dtype(np.float32)
    errors: tuple[np.ndarray | None, ...] = ()  # what constants[i] may be off by beyond a few roundings, entry by entry
    in_dtypes: tuple[np.dtype | None, ...] = ()  # the inputs' element types in the model

    @property
    def variable(self) -> tuple[int, ...]:
        """Slots of the inputs that depend on x."""
        return tuple(i for i, s in enumerate(self.shapes) if s is not None and self.constants[i] is None)

    def constant(self, i: int) -> Tensor | None:
        """Input i's constant value on the device (floats in the working dtype, integers as int64, truth values), or
        None if absent or variable.
        """
        if i >= len(self.constants) or self.constants[i] is None:
            return None
        value = np.array(self.constants[i])  # a copy: ONNX hands out read-only views
        if value.dtype.kind == "b":
            return torch.from_numpy(value).to(self.device)
        if value.dtype.name.startswith(("int", "uint")):
            return torch.from_numpy(value.astype(np.int64)).to(self.device)
        value = value.astype(np.float32) if value.dtype.kind not in "fc" else value  # bfloat16 and narrower ones
        return torch.from_numpy(value).to(self.device, self.dtype)

    def whole(self, i: int) -> Tensor:
        """Input i's constant value, whole numbers, as int64."""
        return torch.from_numpy(np.array(self.constants[i]).astype(np.int64)).to(self.device)

    def error(self, i: int) -> Tensor | None:
        """What input i's constant may be off by (see `Affine.doubt`) in the working dtype, rounded up; None: nothing
        beyond what `terms` counts.
        """
        if i >= len(self.errors) or self.errors[i] is None:
            return None
        info = torch.finfo(self.dtype)
        error = torch.from_numpy(np.array(self.errors[i])).to(self.device, self.dtype)
        return error * (1 + 4 * info.eps) + info.tiny * (error > 0)

    def has(self, i: int) -> bool:
        return i < len(self.shapes) and self.shapes[i] is not None


class Operator:
    """Root of the four kinds. `__init__(site)` reads attributes and constants and raises `Unsuitable` if it cannot
    stand there.
    """

    # What integer results are, if real arithmetic on whole numbers shows it: "keep" where they never leave the type,
    # "wrap" where they are what it gives modulo 2^bits, "near" where they are brought to a whole number in some way.
    # "": nothing is known (see `verifier.ops.integers`).
    integers: str = ""
    # Whether `forward` takes int64 tensors and truth values as they are.
    native: bool = False

    def __init__(self, site: Site):
        self.site = site
        self.in_shapes = tuple(site.shapes[i] for i in site.variable)
        self.out_shape = site.shape

    def forward(self, *xs: Tensor) -> Tensor:
        """Variable inputs (N, *in_shape_i) to (N, *out_shape); differentiable where the operator is."""
        raise NotImplementedError

    def guide(self, *xs: Tensor) -> Tensor:
        """The values of `forward` with a gradient that leads somewhere; for those who search, not for bounds."""
        return self.forward(*xs)

    def jump(self) -> Tensor | None:
        """For functions of one operand, entry by entry, that jump at one place and are constant before and after it:
        the places (*in_shape). None for all others.
        """
        return None


class Opaque(Operator):
    """Forward only: no bounds yet. `lacks` says in which case, or what bounds would need."""

    lacks = "nothing bounds it yet"


class Affine(Operator):
    """y = sum_i M_i x_i + c. Subclasses give `forward`, `terms`, `absolute`, and `adjoint` where a faster one than
    autograd's exists.
    """

    # Most products summed in one entry of forward, and in one entry of adjoint; both count the addition of c.
    terms: tuple[int, int] = (2, 2)
    # Whether every entry of the result depends on one entry of the (single) variable input: then intervals stay exact.
    entrywise: bool = False

    def within(self, *boxes: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor] | None:
        """A box (l, u) each (N, *out_shape) that is known to hold y for another reason than M, or None.

        For an affine step that puts together what a rewrite took apart, such as max(a, b) = b + relu(a - b): its inputs
        depend on each other in a way that M does not show.
        """
        return None

    def absolute(self, *rs: Tensor) -> Tensor:
        """sum_i |M_i| r_i for r_i >= 0 (N, *in_shape_i): radii of intervals, and magnitudes for rounding errors.
        Without c.
        """
        raise NotImplementedError

    def doubt(self, *rs: Tensor) -> Tensor | None:
        """sum_i E_i r_i + e for r_i >= |x_i| (N, *in_shape_i), where the true matrices lie in M_i ± E_i, c in c ± e:
        how far off the result is, apart from the roundings that `terms` counts. None: not at all.
        """
        return None

    def adjoint(self, a: Tensor) -> tuple[Tensor, ...]:
        """a (N, *out_shape) to (a M_i) (N, *in_shape_i) for every variable input i."""
        zeros = [a.new_zeros((a.shape[0], *s)) for s in self.in_shapes]
        return pull_back(self.forward, zeros, a)

    def rows(self, index: Tensor, sign: Tensor) -> tuple[Tensor, ...]:
        """Rows of M, each times a sign.

        For flat output indices (K,) and factors of 1 or -1 (K,), the coefficients (K, *in_shape_i) over every variable
        input i.
        """
        unit = torch.zeros((len(index), size(self.out_shape)), dtype=self.site.dtype, device=self.site.device)
        unit.scatter_(1, index[:, None], sign[:, None])
        return self.adjoint(unit.reshape(-1, *self.out_shape))

    def offset(self) -> Tensor | None:
        """The constant c (*out_shape), or None where it is zero."""
        zeros = [torch.zeros((1, *s), dtype=self.site.dtype, device=self.site.device) for s in self.in_shapes]
        return self.forward(*zeros)[0]


class Move(Affine):
    """An Affine that picks, repeats or reorders entries (or puts constants between them): |M| = M, and forward rounds
    nothing.
    """

    terms = (1, 1)
    integers = "keep"
    native = True

    def absolute(self, *rs: Tensor) -> Tensor:
        c = self.offset()
        return self.forward(*rs) if c is None else self.forward(*rs) - c

    def offset(self) -> Tensor | None:
        return None


class Lines(NamedTuple):
    """Linear functions around an operator with one variable input, elementwise: for every x in [l, u],

        lo_a x + lo_b <= f(x) <= up_a x + up_b        (real arithmetic on these very floating-point numbers)

    Each is (N, *shape). Offsets of None mean all zero.
    """

    lo_a: Tensor
    lo_b: Tensor | None
    up_a: Tensor
    up_b: Tensor | None


class Nonlinear(Operator):
    """An operator that bounds replace by lines. Elementwise ones derive from `verifier.ops.pointwise.Pointwise`."""

    def interval(self, *boxes: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        """Range over a box of inputs, rounded outward: (l, u) each (N, *in_shape_i) to (l, u) each (N, *out_shape).

        An end that is not known is infinite, never NaN.
        """
        raise NotImplementedError

    def loose(self, l: Tensor, u: Tensor) -> Tensor:
        """Where tighter input bounds could tighten the lines: bool like l. Elsewhere no intermediate bounds are
        computed.
        """
        raise NotImplementedError

    def relax(self, l: Tensor, u: Tensor) -> Lines:
        """The default lines on [l, u], sound for every finite l <= u; slope 0 where l or u is not finite."""
        raise NotImplementedError

    def typical_slope(self, l: Tensor, u: Tensor) -> Tensor:
        """How steep the function is on [l, u] on the whole: finite, like l. Guides branching, proves nothing."""
        raise NotImplementedError


class Planes:
    """Linear functions around a `Joint`: for all x_i in their boxes, entry by entry of the output,

        sum_i L_i x_i + lo_b <= f(x) <= sum_i U_i x_i + up_b     (real arithmetic on these very floating-point numbers)

    with matrices L_i, U_i that differ from domain to domain; subclasses say how to multiply by them. `lo_b`, `up_b`,
    and the weights `lo_w` >= sum_i |L_i| |x_i| + |lo_b|, `up_w` likewise, |x_i| the largest in the box, are (D,
    *out_shape). Where a box is infinite the rows of L and U are zero there and the offsets are the interval.
    """

    def __init__(self, lo_b: Tensor, up_b: Tensor, lo_w: Tensor, up_w: Tensor):
        self.lo_b, self.up_b, self.lo_w, self.up_w = lo_b, up_b, lo_w, up_w

    def double(self) -> Planes:
        """The same planes in float64."""
        out = copy(self)
        for name, value in vars(self).items():
            setattr(out, name, _double(value))
        return out

    def take(self, index: Tensor) -> Planes:
        """The planes of domains `index` (M,), which may repeat."""
        out = copy(self)
        for name, value in vars(self).items():
            if isinstance(value, Tensor):
                setattr(out, name, value[index])
            elif type(value) in (tuple, list):
                setattr(out, name, type(value)(v[index] if isinstance(v, Tensor) else v for v in value))
        return out

    def pull(self, pos: Tensor, neg: Tensor) -> tuple[Tensor, ...]:
        """Rows over the output, pos >= 0 and neg <= 0 (D, S, *out_shape) each, to rows pos L_i + neg U_i over every
        variable input (D, S, *in_shape_i); at most `Joint.terms` products are summed in one entry.
        """
        raise NotImplementedError

    def values(self, *xs: Tensor) -> tuple[Tensor, Tensor]:
        """The lower and the upper planes (D, P, *out_shape) at points x_i (D, P, *in_shape_i); not rounded outward."""
        raise NotImplementedError

    # Most products summed in one entry of `push` and of `reach`; 0 where planes do not have these.
    fan: int = 0

    def push(self, low: Sequence[Tensor], high: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        """For low_i, high_i (D, P, *in_shape_i): L+ low + L- high and U+ high + U- low (D, P, *out_shape).

        L+ and L- are the matrix's positive and negative entries; without the offsets.
        """
        raise NotImplementedError

    def reach(self, *rs: Tensor) -> Tensor:
        """Entry by entry at least |L| r and |U| r for r_i >= 0 (D, P, *in_shape_i)."""
        raise NotImplementedError


def _double(value: Any) -> Any:
    """Floating-point tensors, in tuples and lists too, as float64; anything else as it is."""
    if isinstance(value, Tensor):
        return value.double() if value.is_floating_point() else value
    if type(value) in (tuple, list):
        return type(value)(_double(v) for v in value)
    return value


class Joint(Nonlinear):
    """A nonlinear operator of several variable inputs, or one whose entries depend on several entries of its input."""

    # Most products summed in one entry of what `Planes.pull` returns.
    terms: int = 2

    def loose(self, *boxes: tuple[Tensor, Tensor]) -> tuple[Tensor, ...]:
        """For every variable input where tighter bounds could tighten the planes: bool, like its l."""
        return tuple(u > l for l, u in boxes)

    def worth(self, *boxes: tuple[Tensor, Tensor]) -> tuple[Tensor, ...]:
        """Where tighter bounds would bring the planes noticeably closer: a part of `loose`."""
        return self.loose(*boxes)

    def relax(self, *boxes: tuple[Tensor, Tensor]) -> Planes:
        """The default planes over boxes (l, u) each (D, *in_shape_i)."""
        raise NotImplementedError

    def steep(self, a: Tensor, *boxes: tuple[Tensor, Tensor]) -> tuple[Tensor, ...]:
        """Rows a (D, S, *out_shape) through the derivative at the middle of the boxes: (D, S, *in_shape_i).

        Guides branching, proves nothing.
        """
        middle = [torch.nan_to_num(l + (u - l) / 2).clamp(-1e30, 1e30) for l, u in boxes]
        points = [m.repeat_interleave(a.shape[1], 0) for m in middle]
        pulled = pull_back(self.forward, points, a.flatten(0, 1))
        return tuple(torch.nan_to_num(p).reshape(*a.shape[:2], *p.shape[1:]) for p in pulled)


def pull_back(f: Callable[..., Tensor], xs: list[Tensor], a: Tensor) -> tuple[Tensor, ...]:
    """a (like f's result) through f's derivative at xs: like xs.

    Of a sum: a gradient of anything else, like `torch.func`, makes torch import its compiler, a second.
    """
    with torch.enable_grad():
        xs = [x.detach().requires_grad_(True) for x in xs]
        y = f(*xs)
        found = torch.autograd.grad((y * a).sum(), xs, allow_unused=True) if y.requires_grad else [None] * len(xs)
    return tuple(torch.zeros_like(x) if g is None else g for x, g in zip(xs, found))


def size(shape: Shape) -> int:
    """Number of entries of a shape."""
    return prod(shape)
