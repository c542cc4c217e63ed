"""Integers as strings of bits: BitwiseAnd, BitwiseOr, BitwiseXor, BitShift.

Forward, numbers are int64 in two's complement, which every narrower type is a part of (`verifier.ops.integers`), so
bits of it are bits of the type's.

Ranges. Where both boxes together hold at most `PAIRS` pairs of whole numbers, all of them are tried. Elsewhere, with k
the bits that hold all numbers (-2^k <= a, b < 2^k), for the sign of a bit string is its highest bit:

    a & b   >= 0 where a or b is, else >= -2^k;   <= the greater of a and b, and <= each of them that is >= 0
    a | b   = ~(~a & ~b) with ~x = -1 - x
    a ^ b   in [0, 2^k - 1] where the signs are the same, in [-2^k, -1] where they differ
    a >> b  = floor(a / 2^b), which rises with a and comes nearer to 0 (or -1) as b grows;
    a << b  = a 2^b modulo the type: any number of the type, unless it stays inside.

A shift by less than 0 or by all bits or more leaves none: 0, or -1 for a >> b with a < 0 (as ONNX Runtime has it).
What lies beyond 2^52 may be any number of the type: ends there are not exact.

Symbols: boxes (D, *shape).
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from verifier.ops import OPS
from verifier.ops.base import Site
from verifier.ops.integers import ends, truncated, wrap
from verifier.ops.stepwise import Box, EntrySteps, held

Ends = tuple[Tensor, Tensor]  # int64
PAIRS = 16
EXACT = 2.0**52


class Bits(EntrySteps):
    """Two operands; subclasses give `of` on int64, and `hull` for boxes of many pairs: both ends, and where these are
    known."""

    def __init__(self, site: Site):
        super().__init__(site)
        self.least, self.most = ends(site.out_dtype)
        self.count = (self.most - self.least).bit_length()

    def of(self, a: Tensor, b: Tensor) -> Tensor:
        raise NotImplementedError

    def hull(self, a: Ends, b: Ends) -> tuple[Tensor, Tensor, Tensor]:
        raise NotImplementedError

    def combine(self, a: Tensor, b: Tensor) -> Tensor:
        floats = [t.dtype for t in (a, b) if t.is_floating_point()]
        y = self.of(truncated(a), truncated(b))
        return y.to(floats[0]) if floats else y

    def steps(self, a: Box, b: Box) -> Box:
        dtype = a[0].dtype
        known = torch.stack([t.abs() <= EXACT for t in (*a, *b)]).all(0)
        whole = [torch.where(known, t.double(), 0.0) for t in (a[0].ceil(), a[1].floor(), b[0].ceil(), b[1].floor())]
        al, au, bl, bu = (t.long() for t in whole)
        known &= (al <= au) & (bl <= bu)
        low, high, sure = self.hull((al, au), (bl, bu))
        width = (bu - bl + 1).clamp(1, PAIRS + 1)
        few = (au - al + 1).clamp(1, PAIRS + 1) * width <= PAIRS
        if bool(few.any()):
            tried = torch.stack([self.of(torch.minimum(al + k // width, au), bl + k % width) for k in range(PAIRS)])
            low, high = torch.where(few, tried.amin(0), low), torch.where(few, tried.amax(0), high)
            sure = torch.where(few, low >= self.least, sure)  # uint64 beyond 2^63 looks negative
        known &= sure
        ends = held(low, dtype)[0], held(high, dtype)[1]
        return torch.where(known, ends[0], float(self.least)), torch.where(known, ends[1], float(self.most))


def both(a: Ends, b: Ends) -> Ends:
    """The range of a & b."""
    (al, au), (bl, bu) = a, b
    low = torch.where((al >= 0) | (bl >= 0), 0, -power(torch.maximum(-al, -bl)))
    high = torch.maximum(au, bu)
    for l, u in (a, b):
        high = torch.where(l >= 0, torch.minimum(high, u), high)
    return low, high


def power(x: Tensor) -> Tensor:
    """The least power of 2 that is not below x."""
    exponent = torch.frexp((x - 1).clamp(min=0).double())[1].long()
    return torch.bitwise_left_shift(torch.ones_like(x), exponent)


WAYS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "BitwiseAnd": torch.bitwise_and,
    "BitwiseOr": torch.bitwise_or,
    "BitwiseXor": torch.bitwise_xor,
}


@OPS.add("BitwiseAnd", "BitwiseOr", "BitwiseXor")
class Bitwise(Bits):
    def of(self, a: Tensor, b: Tensor) -> Tensor:
        return WAYS[self.site.kind](a, b)

    def hull(self, a: Ends, b: Ends) -> tuple[Tensor, Tensor, Tensor]:
        everywhere = torch.ones_like(a[0], dtype=torch.bool)
        if self.site.kind == "BitwiseAnd":
            return *both(a, b), everywhere
        if self.site.kind == "BitwiseOr":
            low, high = both(*((-1 - u, -1 - l) for l, u in (a, b)))
            return -1 - high, -1 - low, everywhere
        reach = power(torch.stack([-a[0], a[1] + 1, -b[0], b[1] + 1]).amax(0))
        minus, plus = [(u < 0) for _, u in (a, b)], [(l >= 0) for l, _ in (a, b)]
        same = (minus[0] & minus[1]) | (plus[0] & plus[1])
        differ = (minus[0] & plus[1]) | (plus[0] & minus[1])
        return torch.where(same, 0, -reach), torch.where(differ, -1, reach - 1), everywhere


@OPS.add("BitShift")
class BitShift(Bits):
    """a shifted by b bits in the attribute `direction`."""

    def of(self, a: Tensor, b: Tensor) -> Tensor:
        inside = (b >= 0) & (b < self.count)
        by = torch.where(inside, b, 0)
        if self.site.attrs["direction"] == "LEFT":
            return torch.where(inside, wrap(torch.bitwise_left_shift(a, by), self.site.out_dtype), 0)
        y = torch.bitwise_right_shift(a, by)
        if self.least == 0 and self.count == 64:  # int64 holds the bits, and would fill up with ones
            y = torch.where(by > 0, y & (torch.bitwise_left_shift(torch.ones_like(a), 64 - by) - 1), y)
            return torch.where(inside, y, 0)
        return torch.where(inside, y, torch.where(a < 0, -1, 0))

    def hull(self, a: Ends, b: Ends) -> tuple[Tensor, Tensor, Tensor]:
        least, most = b[0].clamp(0, self.count), b[1].clamp(0, self.count)
        if self.site.attrs["direction"] == "LEFT":
            reach = power(torch.maximum(-a[0], a[1] + 1)).double().log2() + most
            fits = (b[0] >= 0) & (reach <= min((self.most + 1).bit_length() - 1, 62))
            low = torch.bitwise_left_shift(a[0], torch.where(fits, torch.where(a[0] < 0, most, least), 0))
            high = torch.bitwise_left_shift(a[1], torch.where(fits, torch.where(a[1] > 0, most, least), 0))
            return low, high, fits
        none = torch.where(b[0] < 0, self.count, most)  # a shift that leaves nothing, where there is one
        corners = torch.stack([self.of(x, y) for x in a for y in (least, most, none)])
        return corners.amin(0), corners.amax(0), torch.ones_like(none, dtype=torch.bool)
