"""Interval bounds: one box per value, pushed forward; sound in the presence of rounding.

For an affine step with centre c and radius r of its inputs, y lies in M c + b ± |M| r. Evaluated in floating point, M
c + b is off by at most gamma |M||c| + |b| and |M| r by gamma |M| r (gamma as in `verifier.ops.base`), so the box is
widened by twice gamma times

    magnitude = |M| (|c| + r) + |b|,

which bounds |y| too and is kept: the backward pass (`verifier.bounds.crown`) uses it as the weight of its own rounding
errors. What the constants themselves are off by (`Affine.doubt`) comes on top.

An entry of which nothing is known has an infinite box. Of a sum it takes part in nothing is known either; but 0 times
it is 0, so all other sums are what they are without it (`_apart`).

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
    l, u, magnitude = _affine_interval(op, boxes)
    if not bool(torch.isfinite(magnitude).all()):
        l, u, magnitude = _apart(op, boxes)
    known = op.within(*boxes)
    if known is not None:  # both hold y, so they meet; NaN ends lose against what is there
        l, u = torch.fmax(l, known[0]), torch.fmin(u, known[1])
    return l, u, magnitude


def _affine_interval(op: Affine, boxes: list[Box]) -> tuple[Tensor, Tensor, Tensor]:
    """l, u and magnitude of an affine step; as they come where something is not finite."""
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
    return y - r - slack, y + r + slack, magnitude


def _apart(op: Affine, boxes: list[Box]) -> tuple[Tensor, Tensor, Tensor]:
    """The same where some entries have infinite boxes: what depends on them is unknown, all else is as without them. An
    infinite constant is its entry's value.
    """
    inf, clean, wild = float("inf"), [], []
    for l, u in boxes:
        known = torch.isfinite(l) & torch.isfinite(u)
        wild.append(~known)
        clean.append((torch.where(known, l, 0.0), torch.where(known, u, 0.0)))
    lost = depends(op, wild)
    l, u, magnitude = _affine_interval(op, clean)
    fixed = op.offset()
    if fixed is not None:
        fixed = fixed.expand_as(l)
        endless = torch.isinf(fixed)
        l, u = torch.where(endless, fixed, l), torch.where(endless, fixed, u)
        lost = lost & ~(endless & torch.isfinite(magnitude))
    lost = lost | torch.isnan(l) | torch.isnan(u)
    l, u = torch.where(lost, -inf, l), torch.where(lost, inf, u)
    return l, u, torch.where(torch.isfinite(magnitude) & ~lost, magnitude, inf)


def depends(op: Affine, entries: list[Tensor]) -> Tensor:
    """Which results (N, *out_shape) bool of an affine step depend on marked entries (N, *in_shape_i) bool at all; or
    might, as far as its constants are known.
    """
    marks = [t.to(op.site.dtype) * 2.0**60 for t in entries]  # so large that no product with them underflows
    found, doubt = op.absolute(*marks) > 0, op.doubt(*marks)
    return found if doubt is None else found | (doubt > 0)


def rows_from_box(rows: Tensor, l: Tensor, u: Tensor) -> Tensor:
    """Lower bound (D, S) of rows (D, S, p) @ y for y in [l, u] (D, p), rounded down; -inf where it is not finite.

    A row that is an entry of y or its negative, or nothing at all, rounds nothing: what is known of the entry in real
    arithmetic, such as the range of a function, is known of the row.
    """
    up, down = rows.clamp(min=0), rows.clamp(max=0)
    known, lost = torch.isfinite(l) & torch.isfinite(u), None
    if not bool(known.all()):  # what a row does not read is nothing to it
        lost = ((up != 0) & ~torch.isfinite(l).unsqueeze(1)) | ((down != 0) & ~torch.isfinite(u).unsqueeze(1))
        l, u, lost = torch.where(torch.isfinite(l), l, 0.0), torch.where(torch.isfinite(u), u, 0.0), lost.any(-1)
    magnitude = (rows.abs() * torch.maximum(l.abs(), u.abs()).unsqueeze(1)).sum(-1)
    low = (up * l.unsqueeze(1) + down * u.unsqueeze(1)).sum(-1)
    tiny = torch.finfo(rows.dtype).tiny
    size_of_y = torch.maximum(l.abs(), u.abs()).sum(-1, keepdim=True)
    charge = 2 * gamma(rows.shape[-1] + 4, rows.dtype) * magnitude + 4 * tiny * (rows.shape[-1] + size_of_y)
    whole = rows.abs().sum(-1)
    plain = ((rows != 0).sum(-1) <= 1) & ((whole == 0) | (whole == 1))
    low = torch.where(plain, low, low - charge)
    low = low if lost is None else torch.where(lost, -float("inf"), low)
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
