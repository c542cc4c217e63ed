"""Constants that were computed, with what they may be off by.

A constant of the file is exact. One made from others in float64 is off by the roundings of its sums and products, and
where much cancels that is much compared with what is left: an entry of V W is off by about 2^-53 |V||W|, not by 2^-53
|V W|. So merged constants carry an error: the true value is v ± e, entry by entry, e >= 0. Operators charge

* up to HARMLESS roundings 2^-53 |v| as terms of their sums (`verifier.ops.arithmetic.derived`);
* more than that as it stands (`Affine.doubt`); such constants are noted beside the network (`Network.errors`).

Why e is right: with u = 2^-53, fl(x) = x (1 + d) + t, |d| <= u, |t| <= 2^-1074, for every operation of float64, and a
sum of n products in any order is off by at most gamma_n = n u / (1 - n u) times the sum of their absolute values
(Higham 2002, section 3.1), n the most nonzero products of an entry: zeros round nothing. The error of a result is what
the operands' errors make of it, exactly, plus that; e itself is a sum of numbers >= 0, computed by at most n + 16
roundings, and rounded up by that.

What is exact is told apart, since some rewrites hold for exact constants only: sums by their remainder (TwoSum: Knuth,
The Art of Computer Programming, vol. 2, section 4.2.2), products of numbers with at most 24 bits, and sums of products
of multiples of g and of h (powers of 2) whose absolute values add up to less than 2^53 g h.

Symbols: v, e: arrays that broadcast.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

U = 2.0**-53
TINY = float(np.finfo(np.float64).tiny)
FEW = 4  # roundings behind a constant of which nothing else is said
HARMLESS = 8  # roundings of float64 that constants may have behind them without a word


def up(e: np.ndarray, n: int = 0) -> np.ndarray:
    """A sum of numbers >= 0, enlarged by what n + 16 roundings may have lost, and by underflow."""
    return e * (1 + 2 * (n + 16) * U) + TINY * (e > 0)


class Sure(NamedTuple):
    """The true value lies in v ± e."""

    v: np.ndarray
    e: np.ndarray

    @staticmethod
    def of(v: np.ndarray) -> Sure:
        """What is exact."""
        return Sure(v, np.zeros(()))

    @property
    def known(self) -> bool:
        """Whether there is no error at all."""
        return not np.any(self.e)

    @property
    def harmless(self) -> bool:
        """Whether the errors are such as every constant in float64 may have."""
        return bool((self.e <= HARMLESS * U * np.abs(self.v)).all())

    def map(self, f: Callable[[np.ndarray], np.ndarray]) -> Sure:
        """Entries picked, repeated or moved."""
        return Sure(f(self.v), f(np.broadcast_to(self.e, self.v.shape)))

    def negated(self) -> Sure:
        return Sure(-self.v, self.e)

    def plus(self, other: Sure) -> Sure:
        a, b = double(self.v), double(other.v)
        v = a + b
        part = v - a
        return Sure(v, up(self.e + other.e + np.abs((a - (v - part)) + (b - part))))

    def times(self, other: Sure) -> Sure:
        a, b = np.abs(double(self.v)), np.abs(double(other.v))
        v = double(self.v) * double(other.v)
        rounded = 0.0 if short(a) and short(b) else U * np.abs(v) + TINY
        return Sure(v, up(a * other.e + self.e * b + self.e * other.e + rounded))

    def over(self, other: Sure) -> Sure:
        """The quotient; infinite where the divisor may be 0."""
        with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
            v = double(self.v) / double(other.v)
            least = np.abs(double(other.v)) * (1 - 2 * U) - other.e
            e = up((self.e + np.abs(v) * other.e) / least + U * np.abs(v)) + TINY
            # The product of numbers of 24 bits is exact: if it is the dividend, so was the quotient.
            if self.known and other.known and short(v) and short(double(other.v)) and np.all(v * other.v == self.v):
                return Sure.of(v)
        return Sure(np.where(least > 0, v, np.nan), np.where(least > 0, e, np.inf))

    def root(self) -> Sure:
        """The square root of what is above 0: |sqrt(a) - sqrt(b)| <= |a - b| / sqrt(a)."""
        v = np.sqrt(self.v)
        return Sure(v, up(self.e / v + U * v) + TINY)

    def matmul(self, other: Sure, product: Callable[[np.ndarray, np.ndarray], np.ndarray]) -> Sure:
        """The product (…, n, k) (…, k, m); `product` forms sums of products in any order, zeros left out or not."""
        a, b = double(self.v), double(other.v)
        n = int(min((a != 0).sum(-1).max(initial=0), (b != 0).sum(-2).max(initial=0)))
        absolute = product(np.abs(a), np.abs(b))
        whole = absolute.max(initial=0) < 2.0**52 * grain(a) * grain(b)
        e = (n * U / (1 - n * U)) * absolute + n * TINY * (absolute > 0)
        e = 0 * e if whole or (n <= 1 and short(a) and short(b)) else e
        if not self.known:
            e = e + product(np.broadcast_to(self.e, a.shape), np.abs(b) + other.e)
        if not other.known:
            e = e + product(np.abs(a), np.broadcast_to(other.e, b.shape))
        return Sure(product(a, b), up(e, 2 * n))


def double(a: np.ndarray) -> np.ndarray:
    return np.asarray(a).astype(np.float64)


def short(a: np.ndarray) -> bool:
    """Whether all numbers have at most 24 bits; zeros and numbers that float32 holds, but for its smallest."""
    with np.errstate(over="ignore"):
        return bool(((a.astype(np.float32) == a) & ((a == 0) | (np.abs(a) > 1e-37))).all())


def grain(a: np.ndarray) -> float:
    """The largest power of 2 of which all numbers are multiples; 0 where it is too small to be of use."""
    a = a[(a != 0) & np.isfinite(a)]
    if not len(a):
        return 1.0
    mantissa, exponent = np.frexp(np.abs(a))
    whole = (mantissa * 2.0**53).astype(np.int64)
    least = int((exponent + np.frexp((whole & -whole).astype(np.float64))[1]).min()) - 54
    return 2.0**least if least > -400 else 0.0


def stacked(*rows: Sure) -> Sure:
    """Rows one below the other."""
    return Sure(np.vstack([double(r.v) for r in rows]), np.vstack([np.broadcast_to(r.e, r.v.shape) for r in rows]))
