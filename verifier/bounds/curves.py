"""Free lines of curved functions: both slopes are optimised, their offsets follow at the cost of a few products.

The lower offset b(s) = min over x in [l, u] of f(x) - s x is a minimum of functions that are affine in s, so it is
concave in s: between two slopes where it is known, the chord of b lies below b. So for slopes s_1 < ... < s_m with
offsets b_i, and any s in [s_1, s_m],

    b~(s) = min_i (c_i + d_i s) <= b(s)        d_i = (b_{i+1} - b_i) / (s_{i+1} - s_i),  c_i = b_i - d_i s_i

is a sound offset, exact at the m slopes (a concave chain of chords is the minimum of its pieces), and the derivative of
the line's value s z + b~(s) is z + d_i. Upper offsets are convex, their chords lie above: the maximum of the pieces.
No function is evaluated while slopes move. Nothing here proves anything: `verifier.bounds.certify` computes the exact
offset of the slopes that were found.

Which slopes: the default line's, those at both ends of the interval, the chord's, and halfway between.

Symbols: N domains, C curved columns, M = 4 pieces.
"""

from __future__ import annotations

from dataclasses import dataclass, fields

import torch
from torch import Tensor

from verifier.ops.pointwise import Pointwise, chord

PIECES = 4


@dataclass
class Side:
    """Pieces c + d s (M, N, C) of the offsets of one side, for slopes between `least` and `most` (N, C); `best`: the
    default slope.
    """

    c: Tensor
    d: Tensor
    least: Tensor
    most: Tensor
    best: Tensor


@dataclass
class Curves:
    """Lines below and above; `free` (N, C) bool: what can be drawn anew on a part of the interval."""

    low: Side
    high: Side
    free: Tensor

    def map(self, pieces, entries) -> Curves:
        """Applies a function to the tensors (M, N, C), another to those (N, C)."""
        ends = lambda s: (entries(t) for t in (s.least, s.most, s.best))
        sides = (Side(pieces(s.c), pieces(s.d), *ends(s)) for s in (self.low, self.high))
        return Curves(*sides, entries(self.free))

    def expand(self, n: int) -> Curves:
        """Copies (n, C) of those of one domain."""
        return self.map(lambda t: t.expand(-1, n, -1).clone(), lambda t: t.expand(n, -1).clone())

    def take(self, index: Tensor) -> Curves:
        return self.map(lambda t: t[:, index], lambda t: t[index])

    @staticmethod
    def cat(parts: list[Curves]) -> Curves:
        """Side by side."""
        sides = [
            Side(*(torch.cat([getattr(getattr(p, name), f.name) for p in parts], -1) for f in fields(Side)))
            for name in ("low", "high")
        ]
        return Curves(*sides, torch.cat([p.free for p in parts], -1))

    def put(self, row: Tensor, column: Tensor, new: Curves) -> None:
        """Replaces the lines of (row, column) pairs (M,) by `new` (1, M)."""
        for mine, fresh in ((self.low, new.low), (self.high, new.high)):
            mine.c[:, row, column], mine.d[:, row, column] = fresh.c[:, 0], fresh.d[:, 0]
            for name in ("least", "most", "best"):
                getattr(mine, name)[row, column] = getattr(fresh, name)[0]

    def project(self, alpha: Tensor, upper: Tensor, is_curve: Tensor) -> None:
        """Moves lower slopes alpha (N, K), at curved columns, and upper slopes (N, C) into their ranges, in place."""
        low = alpha[:, is_curve]
        alpha[:, is_curve] = torch.minimum(torch.maximum(low, self.low.least), self.low.most)
        upper.copy_(torch.minimum(torch.maximum(upper, self.high.least), self.high.most))

    def offsets(self, cut: slice, low: Tensor, high: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Offsets of lower and of upper slopes (N, k) of curved columns `cut`, and their derivatives."""
        b, which = (self.low.d[:, :, cut] * low + self.low.c[:, :, cut]).min(0)
        slope = self.low.d[:, :, cut].gather(0, which.unsqueeze(0)).squeeze(0)
        top, which = (self.high.d[:, :, cut] * high + self.high.c[:, :, cut]).max(0)
        return b, slope, top, self.high.d[:, :, cut].gather(0, which.unsqueeze(0)).squeeze(0)

    def offsets_at(self, row: Tensor, column: Tensor, low: Tensor, high: Tensor) -> tuple[Tensor, Tensor]:
        """Offsets (M,) of lower and of upper slopes (M,) at (row, column) pairs."""
        below = (self.low.d[:, row, column] * low + self.low.c[:, row, column]).amin(0)
        return below, (self.high.d[:, row, column] * high + self.high.c[:, row, column]).amax(0)


def curves_of(op: Pointwise, l: Tensor, u: Tensor, lines: list[Tensor]) -> Curves:
    """Free lines of `op` on [l, u] (N, C); `lines` are its default ones (lo_a, lo_b, up_a, up_b), which stand alone
    where an offset is not finite.
    """
    fixed = frozen(lines)
    ends = [torch.nan_to_num(s, nan=0.0, posinf=0.0, neginf=0.0) for s in op.end_slopes(l, u)]
    ends.append(torch.nan_to_num(chord(l, u, op.f(l), op.f(u)), nan=0.0, posinf=0.0, neginf=0.0))
    sides, good = [], torch.isfinite(l) & torch.isfinite(u)
    for which, slope in ((0, lines[0]), (1, lines[2])):
        everything = torch.stack([slope, *ends])
        least, most = everything.amin(0), everything.amax(0)
        knots = torch.stack([least, (least + slope) / 2, slope, (slope + most) / 2, most])
        at = [op.offset(l, u, knots[k], which == 0) for k in (0, 1, 3, 4)]
        offsets = torch.stack([*at[:2], lines[2 * which + 1], *at[2:]])
        step, rise = knots.diff(dim=0), offsets.diff(dim=0)
        wide = step > 1e-6 * (knots.abs().amax(0) + 1e-30)
        # A piece between two slopes that are as good as equal says nothing that the default line's offset does not.
        d = torch.where(wide, rise / torch.where(wide, step, 1.0), 0.0)
        c = torch.where(wide, offsets[:-1] - d * knots[:-1], torch.inf if which == 0 else -torch.inf)
        none = ~wide.any(0)
        c, d = torch.where(none, offsets[2], c), torch.where(none, 0.0, d)
        c = torch.where(torch.isfinite(c) | torch.isfinite(offsets).all(0), c, torch.nan)
        good = good & torch.isfinite(offsets).all(0)
        # An infinite piece times a zero derivative must not become NaN in a product with a slope.
        big = torch.finfo(c.dtype).max / 4
        sides.append(Side(c.clamp(-big, big), d, least, most, slope))
    merged = []
    for mine, other in zip(sides, (fixed.low, fixed.high)):
        merged.append(Side(*(torch.where(good, getattr(mine, f.name), getattr(other, f.name)) for f in fields(Side))))
    return Curves(*merged, good & (u > l))


def frozen(lines: list[Tensor]) -> Curves:
    """The given lines (lo_a, lo_b, up_a, up_b), (N, C) each, and no others."""
    lo_a, lo_b, up_a, up_b = lines
    wide = lambda t: t.expand(PIECES, *t.shape)
    zero = torch.zeros_like(lo_a)
    return Curves(
        Side(wide(lo_b), wide(zero), lo_a, lo_a, lo_a),
        Side(wide(up_b), wide(zero), up_a, up_a, up_a),
        torch.zeros_like(lo_a, dtype=torch.bool),
    )
