"""What an affine operator promises, each promise a function that returns its violations as text (empty: kept).

M is found by pushing the identity through `forward` in float64: matrices (n_in_i, n_out), row j the image of the j-th
unit vector. Nothing here uses an operator's own adjoint, absolute or offset to judge itself.
"""

from __future__ import annotations

import torch
from torch import Tensor

from verifier.ops.base import Affine, Move, gamma, size

CLOSE = 1e-11  # float64, relative to the scale at hand


class Matrix:
    """M_i by unit vectors, and c, of an operator bound in float64."""

    def __init__(self, op: Affine):
        zeros = [torch.zeros((1, *s), dtype=torch.float64) for s in op.in_shapes]
        self.c = op.forward(*zeros)[0].clone()
        self.parts = []
        for i, shape in enumerate(op.in_shapes):
            n = size(shape)
            xs = [torch.zeros((n, *s), dtype=torch.float64) for s in op.in_shapes]
            xs[i] = torch.eye(n, dtype=torch.float64).reshape(n, *shape)
            self.parts.append(
                (op.forward(*xs) - self.c).flatten(1) if op.out_shape else (op.forward(*xs) - self.c)[:, None]
            )

    def times(self, xs: list[Tensor], absolute: bool = False) -> Tensor:
        y = sum(x.flatten(1) @ (m.abs() if absolute else m) for x, m in zip(map(_wide, xs), self.parts))
        return y.reshape(-1, *self.c.shape)

    def transposed(self, a: Tensor, shapes, absolute: bool = False) -> list[Tensor]:
        a = _wide(a).flatten(1)
        return [(a @ (m.abs() if absolute else m).T).reshape(-1, *s) for m, s in zip(self.parts, shapes)]


def _wide(x: Tensor) -> Tensor:
    x = x.double()
    return x[:, None] if x.ndim == 1 else x


def points(op: Affine, n: int, seed: int, dtype=torch.float64) -> list[Tensor]:
    """Random inputs of mixed magnitude, representable in float32."""
    g = torch.Generator().manual_seed(seed)
    draw = lambda s: torch.randn((n, *s), generator=g) * torch.exp(2 * torch.randn((n, *s), generator=g))
    return [draw(s).to(dtype) for s in op.in_shapes]


def rows_of(op: Affine, n: int, seed: int, dtype=torch.float64) -> Tensor:
    g = torch.Generator().manual_seed(seed)
    return torch.randn((n, *op.out_shape), generator=g).to(dtype)


def differs(what: str, have: Tensor, want: Tensor) -> list[str]:
    if have.shape != want.shape:
        return [f"{what}: shape {tuple(have.shape)} instead of {tuple(want.shape)}"]
    scale = max(1.0, float(want.abs().max())) if want.numel() else 1.0
    worst = float((have - want).abs().max()) if want.numel() else 0.0
    return [] if worst <= CLOSE * scale else [f"{what}: off by {worst:.3g} at scale {scale:.3g}"]


def linear(op: Affine, m: Matrix) -> list[str]:
    """forward is M x + c: linear, and the same for a batch, for its members and for no members at all."""
    xs = points(op, 3, 1)
    y = op.forward(*xs)
    found = differs("forward", y, m.times(xs) + m.c)
    singles = torch.cat([op.forward(*(x[k : k + 1] for x in xs)) for k in range(3)])
    found += differs("forward, one by one", singles, y)
    return found + differs("forward of an empty batch", op.forward(*(x[:0] for x in xs)), y[:0])


def offset(op: Affine, m: Matrix) -> list[str]:
    c = op.offset()
    found = differs("offset", torch.zeros_like(m.c) if c is None else c, m.c)
    return found if c is not None or not m.c.any() else [*found, "offset: None, but not zero"]


def adjoint(op: Affine, m: Matrix) -> list[str]:
    """adjoint is a M, equals the autograd default, hands out rows, and takes empty batches."""
    a = rows_of(op, 3, 2)
    found = []
    want, oracle = m.transposed(a, op.in_shapes), Affine.adjoint(op, a)
    for i, part in enumerate(op.adjoint(a)):
        found += differs(f"adjoint {i}", part, want[i]) + differs(f"adjoint {i} against autograd", part, oracle[i])
    for i, part in enumerate(op.adjoint(a[:0])):
        found += differs(f"adjoint {i} of an empty batch", part, want[i][:0])
    index = torch.arange(size(op.out_shape)).flip(0)
    sign = (1 - 2 * (index % 2)).to(a.dtype)
    for i, part in enumerate(op.rows(index, sign)):
        found += differs(f"rows {i}", part, (m.parts[i].T[index] * sign[:, None]).reshape(part.shape))
    return found


def absolute(op: Affine, m: Matrix) -> list[str]:
    rs = [x.abs() for x in points(op, 3, 3)]
    return differs("absolute", op.absolute(*rs), m.times(rs, absolute=True)) + differs(
        "absolute of an empty batch", op.absolute(*(r[:0] for r in rs)), m.c.new_zeros((0, *m.c.shape))
    )


def terms(op: Affine, m: Matrix) -> list[str]:
    """Not fewer than the products that an entry really sums (the constant counts as one in forward)."""
    forward = sum((p != 0).sum(0) for p in m.parts) + (m.c.reshape(-1) != 0)
    most = (int(forward.max()), max(int((p != 0).sum(1).max()) for p in m.parts))
    return [f"terms {op.terms} below the true counts {most}"] if op.terms[0] < most[0] or op.terms[1] < most[1] else []


def enclosing(op: Affine, m: Matrix) -> list[str]:
    """M c + b ± |M| r, and for a move the images of the ends, enclose the images of the box."""
    centre, radius = points(op, 1, 4), [x.abs() for x in points(op, 1, 5)]
    g = torch.Generator().manual_seed(6)
    inside = [
        c + r * (2 * torch.rand((64, *c.shape[1:]), generator=g, dtype=torch.float64) - 1).sign()
        for c, r in zip(centre, radius)
    ]
    y, mid, r = op.forward(*inside), op.forward(*centre), op.absolute(*radius)
    slack = CLOSE * (1 + mid.abs() + r)
    found = [] if bool(((y - mid).abs() <= r + slack).all()) else ["|M| r does not enclose the images of the box"]
    if isinstance(op, Move):
        low, high = (op.forward(*(c + s * r for c, r in zip(centre, radius))) for s in (-1, 1))
        if not bool(((low <= y) & (y <= high)).all()):
            found.append("the images of the ends do not enclose the images of the box")
    return found


def rounding(op: Affine, narrow: Affine, m: Matrix) -> list[str]:
    """In float32 an entry is off by at most gamma(terms) (|M||x| + |c|), constants included; moves by nothing."""
    xs, a = points(narrow, 4, 7, torch.float32), rows_of(narrow, 4, 8, torch.float32)
    found = []
    checks = [
        (
            "forward",
            narrow.forward(*xs),
            m.times(xs) + m.c,
            m.times([x.abs() for x in xs], True) + m.c.abs(),
            narrow.terms[0],
        )
    ]
    rs = [x.abs() for x in xs]
    checks.append(("absolute", narrow.absolute(*rs), m.times(rs, True), m.times(rs, True), narrow.terms[0]))
    wide = zip(narrow.adjoint(a), m.transposed(a, op.in_shapes), m.transposed(a.abs(), op.in_shapes, True))
    checks += [(f"adjoint {i}", *parts, narrow.terms[1]) for i, parts in enumerate(wide)]
    for what, have, want, magnitude, count in checks:
        if have.dtype != torch.float32 or have.shape != want.shape:
            found.append(f"{what} in float32: {have.dtype}, shape {tuple(have.shape)}")
            continue
        allowed = gamma(count, torch.float32) * magnitude * (1 + 1e-6) + 1e-13 * magnitude + 1e-44
        if not bool(((have.double() - want).abs() <= allowed).all()):
            worst = float(((have.double() - want).abs() / (magnitude + 1e-300)).max())
            found.append(f"{what} in float32: relative error {worst:.3g} beyond gamma of {count} terms")
    if isinstance(narrow, Move) and not bool((narrow.forward(*xs).double() == m.times(xs) + m.c).all()):
        found.append("a move that rounds")
    return found


CHECKS = (linear, offset, adjoint, absolute, terms, enclosing)


def violations(op: Affine, narrow: Affine | None = None) -> list[str]:
    """All broken promises of an operator bound in float64, and of the same one bound in float32."""
    m = Matrix(op)
    found = [text for check in CHECKS for text in check(op, m)]
    return found + (rounding(op, narrow, m) if narrow is not None else [])
