"""Where to cut an interval [l, u] of a value, worked out beforehand: tables of the points that leave the least gap.

Shi et al., "Neural Network Verification with Branch-and-Bound for General Nonlinearities" (arXiv 2405.21063). For the
set of operators that read one value (the tanh and the product in an LSTM cell, say), the point is

    p(l, u) = argmin over p in (l, u) of G(l, p) + G(p, u),      G(a, b) = sum over the operators of the gap's area on
                                                                        [a, b],

the gap being what is between the default upper and lower line (`Pointwise.relax`). As a line's mean is its value at the
middle m, the area is (b - a)(upper(m) - lower(m)). For a product v w between McCormick planes (`verifier.ops.products`)
the gap is (width of v)(width of w) / 2 everywhere, so its area counts as (b - a)^2 W / 2; the width W of the other
factor is not known here and counts as 1, what a gate between 0 and 1 has. On its own that is least at the midpoint,
whatever W is: (p - l)^2 + (u - p)^2 is.

A table holds t = (p - l) / (u - l) at nodes (l, u). `Plane`: nodes c sinh(k step) for l and for u, dense near 0, each a
fixed part of its distance further out, up to REACH. `Waves`, where all operators have period 2 pi: l over one period,
and u - l. In between t is interpolated; where the corners of a cell disagree (two points do equally well, on different
sides of the middle) it is taken from the nearest. Outside, and where a gap is not finite, t = 1/2.

Sound: any point strictly inside is. The tables only steer; `verifier.branching.points` keeps what it hands out inside.

How a table is made: t on a coarse mesh for all nodes at once, then twice a finer mesh around the best. Ties go to the
middle, so that functions with a symmetry have symmetric points. Where tables are kept: `verifier.branching.store`.

Symbols: I, J nodes of either axis; P pairs of nodes; (...) any shape.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from math import asinh, inf, pi
from typing import Any

import numpy as np
import torch
from torch import Tensor

from verifier.ops import OPS
from verifier.ops.base import Operator, Site
from verifier.ops.contractions import Contraction
from verifier.ops.periodic import Cos, Sin
from verifier.ops.pointwise import Pointwise
from verifier.ops.products import Product
from verifier.ops.steps import Jumps, Stairs

VERSION = 1  # of everything that decides what is in a table; goes into its key
REACH = 200.0
COARSE, FINE = 31, 7  # points of the meshes over t
LEVELS = 254  # t is kept as a whole number of these; even, so that 1/2 is one of them
UNKNOWN = 255
SURE = 0.12  # corners of a cell that differ by more are not interpolated between
CHUNK = 1 << 15  # intervals whose gaps are computed at once: what stays in the cache


@dataclass(frozen=True, order=True)
class Consumer:
    """An operator that reads a value, as far as its gap depends on it: ONNX kind, attributes and constants."""

    kind: str
    attrs: tuple[tuple[str, Any], ...] = ()
    constants: tuple[tuple[int, float], ...] = ()

    def __str__(self) -> str:
        facts = [f"{k}={v:g}" if isinstance(v, float) else f"{k}={v}" for k, v in self.attrs]
        facts += [f"{v:g}" for _, v in self.constants]
        return self.kind + (f"({', '.join(facts)})" if facts else "")

    @property
    def product(self) -> bool:
        return self.kind == "Mul"

    def operator(self, device: torch.device | str = "cpu") -> Pointwise:
        """The function itself, in float64, for tensors of any shape."""
        count = 1 + max([0, *(i for i, _ in self.constants)])
        constants: list[np.ndarray | None] = [None] * count
        for i, v in self.constants:
            constants[i] = np.array(v, dtype=np.float64)
        shapes = [(1,)] + [None if c is None else () for c in constants[1:]]
        where = torch.device(device)
        return OPS.load()[self.kind](
            Site(
                self.kind, str(self), dict(self.attrs), tuple(constants), tuple(shapes), (1,), 20, torch.float64, where
            )
        )


def consumer(op: Operator) -> Consumer | None:
    """What a table has to know of an operator; None where its gap has no part in the choice, or cannot be foreseen
    because it differs from entry to entry.
    """
    if isinstance(op, (Product, Contraction)):
        return Consumer("Mul")
    if not isinstance(op, Pointwise) or isinstance(op, (Jumps, Stairs)):  # steps are finer than a table's nodes
        return None
    site = op.site
    attrs = []
    for name, value in sorted(site.attrs.items()):
        if isinstance(value, (bool, int, float, str)):
            attrs.append((name, float(value) if isinstance(value, float) else value))
        elif np.size(value):  # a table or a list: not one of the functions that are worth a table of their own
            return None
    constants = []
    for i, value in enumerate(site.constants):
        if value is None:
            continue
        if not np.size(value) or (np.ravel(value) != np.ravel(value)[0]).any():
            return None
        constants.append((i, float(np.ravel(value)[0])))
    if site.constants and site.constants[0] is not None:  # a constant base with a variable exponent
        return None
    return Consumer(site.kind, tuple(attrs), tuple(constants))


@dataclass(frozen=True)
class Plane:
    """Nodes x_k = scale sinh(k step), -count <= k <= count, for l and for u."""

    scale: float
    step: float

    @property
    def count(self) -> int:
        return int(asinh(REACH / self.scale) / self.step)

    @property
    def shape(self) -> tuple[int, int]:
        return 2 * self.count + 1, 2 * self.count + 1

    def ends(self) -> tuple[Tensor, Tensor, Tensor]:
        """l, u and where these are intervals, (I, J) each."""
        x = self.scale * torch.sinh(torch.arange(-self.count, self.count + 1, dtype=torch.float64) * self.step)
        n = len(x)
        l, u = x[:, None].expand(n, n), x[None].expand(n, n)
        return l, u, u > l

    def fill(self, t: Tensor) -> Tensor:
        """On to the other side of the diagonal, so that there is something to interpolate to: 1/2 on it, 1 - t across,
        which is the same p.
        """
        upper = torch.triu(t, 1)
        return upper + torch.tril(1 - t.T, -1) + 0.5 * torch.eye(len(t), dtype=t.dtype)

    def place(self, l: Tensor, u: Tensor) -> tuple[Tensor, Tensor]:
        """Where (l, u) lies among the nodes, in units of nodes."""
        return tuple(torch.asinh(x * (1 / self.scale)) * (1 / self.step) + self.count for x in (l, u))


@dataclass(frozen=True)
class Waves:
    """Nodes l = 2 pi i / period, and u - l = j step up to three periods."""

    period: int = 96
    step: float = pi / 24

    @property
    def shape(self) -> tuple[int, int]:
        return self.period + 1, round(6 * pi / self.step) + 1

    def ends(self) -> tuple[Tensor, Tensor, Tensor]:
        i, j = (torch.arange(n, dtype=torch.float64) for n in self.shape)
        l = (i * (2 * pi / self.period))[:, None].expand(self.shape)
        return l, l + (j * self.step)[None], (j > 0)[None].expand(self.shape)

    def fill(self, t: Tensor) -> Tensor:
        t[:, 0] = 0.5
        t[-1] = t[0]
        return t

    def place(self, l: Tensor, u: Tensor) -> tuple[Tensor, Tensor]:
        return torch.remainder(l, 2 * pi) * (self.period / (2 * pi)), (u - l) * (1 / self.step)


Grid = Plane | Waves


def grid_for(consumers: Iterable[Consumer]) -> Grid:
    """Nodes that suit the operators: by period, or dense at 0 where a function ends or has its pole there."""
    ops = [c.operator() for c in consumers if not c.product]
    if ops and all(isinstance(op, (Sin, Cos)) for op in ops):
        return Waves()
    return Plane(0.05, 0.09) if any(map(steep, ops)) else Plane(1.0, 0.05)


def steep(op: Pointwise) -> bool:
    """Whether the function ends or has its pole at 0."""
    one = torch.ones(1, dtype=torch.float64)
    return 0.0 in op.domain or any(p is not None and bool(p) for p in op.poles(-one, one))


def key(consumers: tuple[Consumer, ...]) -> str:
    """Names the table of these operators, whatever their order: 24 hexadecimal digits."""
    facts = [VERSION, REACH, LEVELS, repr(grid_for(consumers))]
    facts += [[c.kind, c.attrs, c.constants] for c in sorted(set(consumers), key=repr)]
    return hashlib.sha256(json.dumps(facts).encode()).hexdigest()[:24]


def gap(consumers: tuple[Consumer, ...], device: torch.device | str = "cpu") -> Callable[[Tensor, Tensor], Tensor]:
    """G of the file's head, for float64 l <= u of one shape; infinite where a gap is."""
    ops = [c.operator(device) for c in consumers if not c.product]
    products = sum(c.product for c in consumers)

    def area(l: Tensor, u: Tensor) -> Tensor:
        width, middle = u - l, l + (u - l) / 2
        total = width * width * (products / 2)
        for op in ops:
            lo_a, lo_b, up_a, up_b = op.relax(l, u)
            height = (up_a - lo_a) * middle
            for sign, b in ((1, up_b), (-1, lo_b)):
                height = height if b is None else height + sign * b
            total = total + width * height.clamp(min=0)
        return torch.nan_to_num(total, nan=torch.inf)

    return area


def best(area: Callable[[Tensor, Tensor], Tensor], l: Tensor, u: Tensor) -> Tensor:
    """t (P,) at the best point of intervals (P,) of positive width; 1/2 where all points are as good, NaN where no gap
    is finite.
    """
    width = u - l

    def cost(t: Tensor) -> Tensor:
        """(P, M) to the gaps left, and a hair more away from the middle."""
        p = torch.addcmul(l[:, None], width[:, None], t)
        parts = [
            area(a.reshape(-1), b.reshape(-1)).reshape(t.shape)
            for a, b in ((l[:, None].expand_as(p), p), (p, u[:, None].expand_as(p)))
        ]
        return parts[0] + parts[1] + (1e-6 * whole + 1e-12 * width)[:, None] * (t - 0.5).abs()

    whole = area(l, u)
    whole = torch.where(torch.isfinite(whole), whole, 0.0)
    mesh = torch.linspace(0, 1, COARSE + 2, dtype=l.dtype, device=l.device)[1:-1]
    t, step = mesh.expand(len(l), COARSE), 1 / (COARSE + 1)
    for _ in range(3):
        least, at = cost(t).min(1)
        found = t.gather(1, at[:, None])
        step = 2 * step / (FINE + 1)
        t = found + step * torch.arange(-(FINE // 2), FINE // 2 + 1, dtype=l.dtype, device=l.device)
    return torch.where(torch.isfinite(least), found[:, 0], torch.nan)


@torch.no_grad()
def build(
    consumers: tuple[Consumer, ...],
    device: torch.device | str = "cpu",
    seconds: float = inf,
    told: Callable[[float], None] = lambda share: None,
) -> np.ndarray | None:
    """The table of these operators: t in units of 1 / LEVELS, UNKNOWN where there is none; (I, J) uint8.

    None where, going by what is done so far, it would take longer than `seconds`. `told` hears what share is done.
    """
    grid, begin = grid_for(consumers), time.monotonic()
    l, u, real = grid.ends()
    area = gap(consumers, device)
    found = torch.full(grid.shape, 0.5, dtype=torch.float64)
    starts, ends = (x[real].to(device).split(CHUNK // COARSE) for x in (l, u))
    parts: list[Tensor] = []
    for a, b in zip(starts, ends):
        parts.append(best(area, a, b).cpu())
        share = len(parts) / len(starts)
        if time.monotonic() - begin > seconds * share:
            return None
        told(share)
    found[real] = torch.cat(parts)
    found = torch.where(real & torch.isnan(found), torch.nan, grid.fill(found))
    levels = torch.round(found * LEVELS)
    return torch.where(torch.isnan(levels), UNKNOWN, levels).numpy().astype(np.uint8)


@dataclass(frozen=True)
class Table:
    """A table on a device. `cells` ((I-1)(J-1), 4): t at the corners of every cell, float32."""

    grid: Grid
    cells: Tensor
    columns: int = field(default=0)

    @staticmethod
    def of(grid: Grid, levels: np.ndarray, device: torch.device | str) -> Table:
        """From what `build` gives."""
        t = torch.from_numpy(np.where(levels == UNKNOWN, LEVELS // 2, levels).astype(np.float32)) / LEVELS
        cells = torch.stack([t[:-1, :-1], t[:-1, 1:], t[1:, :-1], t[1:, 1:]], 2)
        return Table(grid, cells.reshape(-1, 4).contiguous().to(device), t.shape[1] - 1)

    def fraction(self, l: Tensor, u: Tensor) -> Tensor:
        """t (...) for intervals (...): interpolated, or that of the nearest corner; 1/2 outside of the table."""
        a, b = self.grid.place(l, u)
        last_a, last_b = self.grid.shape[0] - 2, self.grid.shape[1] - 2
        i, j = (torch.nan_to_num(x).floor().clamp(0, last) for x, last in ((a, last_a), (b, last_b)))
        x, y = a - i, b - j
        c = self.cells[(i * self.columns + j).long()]
        low = torch.lerp(c[..., 0].to(l.dtype), c[..., 1].to(l.dtype), y)
        high = torch.lerp(c[..., 2].to(l.dtype), c[..., 3].to(l.dtype), y)
        t = torch.lerp(low, high, x)
        unsure = c.amax(-1) - c.amin(-1) > SURE
        nearest = (2 * (x > 0.5).long() + (y > 0.5).long()).unsqueeze(-1)
        t = torch.where(unsure, c.gather(-1, nearest).squeeze(-1).to(l.dtype), t)
        inside = (a >= 0) & (a <= last_a + 1) & (b >= 0) & (b <= last_b + 1)
        return torch.where(inside, t, 0.5)
