"""Interval bounds: one box per value, pushed forward; sound in the presence of rounding.

For an affine step with centre c and radius r of its inputs, y lies in M c + b ± |M| r. Evaluated in floating point, M
c + b is off by at most gamma |M||c| + |b| and |M| r by gamma |M| r (gamma as in `verifier.ops.base`), so the box is
widened by twice gamma times

    magnitude = |M| (|c| + r) + |b|,

which bounds |y| too and is kept: the backward pass (`verifier.bounds.crown`) uses it as the weight of its own rounding
errors. What the constants themselves are off by (`Affine.doubt`) comes on top.

Symbols: D domains; l, u: (D, *shape) of a value.
"""

from __future__ import annotations

import torch
from torch import Tensor

from verifier.bounds import METHODS
from verifier.bounds.base import NOTHING, Box, Given, Part, RowBounds, widest
from verifier.bounds.program import Program, Step
from verifier.ops.base import Affine, Move, gamma, size


def outward(x: Tensor, dtype: torch.dtype, direction: int) -> Tensor:
    """float64 values to `dtype`, rounded down (direction -1) or up (+1)."""
    y = x.to(dtype)
    wrong = y.double() > x if direction < 0 else y.double() < x
    return torch.where(wrong, torch.nextafter(y, torch.full_like(y, direction * float("inf"))), y)


def step_interval(step: Step, boxes: list[Box]) -> tuple[Tensor, Tensor, Tensor | None]:
    """l, u of a step from its inputs' boxes, and the magnitude (D, *shape) for affine steps that round (None
    elsewhere).
    """
    op = step.op
    if isinstance(op, Move):
        return op.forward(*(l for l, _ in boxes)), op.forward(*(u for _, u in boxes)), None
    if not isinstance(op, Affine):
        return *op.interval(*boxes), None
    eps, tiny = torch.finfo(boxes[0][0].dtype).eps, torch.finfo(boxes[0][0].dtype).tiny
    centres, radii = [], []
    for l, u in boxes:
        c = l + (u - l) / 2
        centres.append(c)
        radii.append(torch.maximum(u - c, c - l) * (1 + 2 * eps))
    y, r = op.forward(*centres), op.absolute(*radii)
    magnitude = op.absolute(*(c.abs() + r for c, r in zip(centres, radii)))
    offset = op.offset()
    if offset is not None:
        magnitude = magnitude + offset.abs()
    terms = op.terms[0]
    slack = 2 * gamma(terms + 4, y.dtype) * magnitude + 4 * terms * tiny
    doubt = op.doubt(*(c.abs() + r for c, r in zip(centres, radii)))
    slack = slack if doubt is None else slack + doubt * (1 + 2 * gamma(terms + 4, y.dtype))
    l, u = y - r - slack, y + r + slack
    wild = torch.isnan(l) | torch.isnan(u)  # infinite ends meet zeros or each other: nothing is known
    inf = float("inf")
    l, u = torch.where(wild, -inf, l), torch.where(wild, inf, u)
    known = op.within(*boxes)
    if known is not None:  # both hold y, so they meet; NaN ends lose against what is there
        l, u = torch.fmax(l, known[0]), torch.fmin(u, known[1])
    return l, u, torch.where(torch.isfinite(magnitude), magnitude, inf)


def rows_from_box(rows: Tensor, l: Tensor, u: Tensor) -> Tensor:
    """Lower bound (D, S) of rows (D, S, p) @ y for y in [l, u] (D, p), rounded down; -inf where it is not finite.

    A row that is an entry of y or its negative, or nothing at all, rounds nothing: what is known of the entry in real
    arithmetic, such as the range of a function, is known of the row.
    """
    up, down = rows.clamp(min=0), rows.clamp(max=0)
    magnitude = (rows.abs() * torch.maximum(l.abs(), u.abs()).unsqueeze(1)).sum(-1)
    low = (up * l.unsqueeze(1) + down * u.unsqueeze(1)).sum(-1)
    tiny = torch.finfo(rows.dtype).tiny
    size_of_y = torch.maximum(l.abs(), u.abs()).sum(-1, keepdim=True)
    charge = 2 * gamma(rows.shape[-1] + 4, rows.dtype) * magnitude + 4 * tiny * (rows.shape[-1] + size_of_y)
    whole = rows.abs().sum(-1)
    plain = ((rows != 0).sum(-1) <= 1) & ((whole == 0) | (whole == 1))
    low = torch.where(plain, low, low - charge)
    return torch.where(torch.isfinite(low), low, -float("inf"))


@METHODS.add("interval")
class Interval:
    """Boxes alone; the planes are constants."""

    @staticmethod
    def entries(program: Program, rows: int, moving: int, still: Part | None = None) -> int:
        """Entries of the largest tensor per domain."""
        return max(widest(program, still), rows * size(program.shapes[program.output]))

    @staticmethod
    def run(
        program: Program,
        l: Tensor,
        u: Tensor,
        rows: Tensor,
        limit: int,
        given: Given = NOTHING,
    ) -> RowBounds:
        rows = rows.to(l.dtype)  # of intervals rows in float64 are not worth a pass
        still = given.still
        values: list[Box | None] = [(l, u)]
        for k, step in enumerate(program.steps[1:], 1):
            if still is not None and not still.moves[k]:
                values.append(still.boxes.get(k))
                continue
            low, high, _ = step_interval(step, [values[i] for i in step.inputs])
            values.append((low, high))
        lb = rows_from_box(rows, *values[program.output])
        flat = rows.new_zeros((*rows.shape[:2], l.shape[-1]))
        return RowBounds(lb, flat, lb, flat, torch.zeros_like(lb))
