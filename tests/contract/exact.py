"""Functions of one number in extended precision: the reference that lines and intervals are held against.

`EXACT[kind](op)` gives an `Exact` for an operator at its site. f maps longdouble arrays to longdouble arrays with a
relative error of a few units of longdouble; `points` are kinks, jumps, turning and inflection points; `domain` is where
intervals are drawn from.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from math import inf

import numpy as np

L = np.longdouble
PI = L(np.pi) + L(1.2246467991473532e-16)
Array = np.ndarray
NORMAL = 1e-37  # next to a pole at 0, or where subnormal numbers are not trusted; what is there has tests of its own


@dataclass(frozen=True)
class Exact:
    f: Callable[[Array], Array]
    points: tuple[float, ...] = (0.0,)
    domain: tuple[float, float] = (-inf, inf)
    linear: bool = False  # a line between neighbouring points
    closed: bool = False  # the ends of the domain belong to it


def held(op, value: float) -> np.longdouble:
    """A parameter as the working precision holds it."""
    return L({"torch.float32": np.float32, "torch.float64": np.float64}[str(op.site.dtype)](value))


def piecewise(x: Array, pieces: tuple[tuple[float, Callable[[Array], Array]], ...]) -> Array:
    """For x >= 0: each piece up to its end, and 0 from the last end on."""
    found, start = np.zeros_like(x), 0.0
    for end, f in pieces:
        here = (x >= start) & (x < end)
        if here.any():
            found[here] = f(x[here])
        start = end
    return found


def series(terms: int) -> Callable[[Array], Array]:
    """erf(x) as 2 / sqrt(pi) exp(-x^2) sum 2^n x^(2n+1) / (2n+1)!!, all terms of one sign."""

    def f(y: Array) -> Array:
        term, total, twice = y.copy(), y.copy(), 2 * y * y
        for n in range(1, terms):
            term = term * twice / (2 * n + 1)
            total = total + term
        return 2 / np.sqrt(PI) * np.exp(-y * y) * total

    return f


def fraction(levels: int) -> Callable[[Array], Array]:
    """1 - erf(x) as the continued fraction exp(-x^2) / sqrt(pi) / (x + (1/2) / (x + 1 / (x + ...)))."""

    def f(y: Array) -> Array:
        below = y
        for n in range(levels, 0, -1):
            below = y + L(n) / 2 / below
        return np.exp(-y * y) / np.sqrt(PI) / below

    return f


# As many terms as longdouble asks for; it holds nothing but 0 from 110 on.
NEAR = ((0.5, series(20)), (1.0, series(30)), (2.0, series(60)))
FAR = ((2.0, np.zeros_like), (3.0, fraction(110)), (4.0, fraction(50)), (8.0, fraction(30)), (110.0, fraction(18)))


def erf(x: Array) -> Array:
    """By the series up to 2, by the fraction beyond."""
    y = np.abs(np.asarray(x, L))
    return np.sign(x) * np.where(y < 2, piecewise(y, NEAR), 1 - piecewise(y, FAR))


def erfc(x: Array) -> Array:
    """1 - erf(x), without cancellation from 2 on."""
    return np.where(x < 2, 1 - erf(x), piecewise(np.asarray(x, L), FAR))


def sigmoid(x: Array) -> Array:
    return 1 / (1 + np.exp(-np.clip(x, L(-11000), L(11000))))


def softplus(x: Array) -> Array:
    return np.maximum(x, 0) + np.log1p(np.exp(-np.abs(x)))


def mish(x: Array) -> Array:
    """x tanh(log(1 + e^x)) = x (e^2x + 2 e^x) / (e^2x + 2 e^x + 2)."""
    e = np.exp(-np.abs(np.clip(x, L(-11000), L(11000))))
    low, high = e * (e + 2), 1 + 2 * e
    return x * np.where(x < 0, low / (low + 2), high / (high + 2 * e * e))


def clip(op) -> Exact:
    low, high = held(op, op.site.attrs["min"]), held(op, op.site.attrs["max"])
    points = tuple(float(p) for p in (low, high) if np.isfinite(p))
    return Exact(lambda x: np.minimum(np.maximum(x, low), high), points or (0.0,), linear=True)


def leaky(op) -> Exact:
    alpha = held(op, op.site.attrs["alpha"])
    return Exact(lambda x: np.where(x >= 0, x, alpha * x), linear=True)


def table(op) -> Exact:
    """The slopes times the stretches of the pieces between the first point and x."""
    points, slopes, value = (op.site.attrs[k] for k in ("points", "slopes", "value"))
    ends = [-inf, *points, inf]

    def f(x: Array) -> Array:
        lengths = [np.clip(x, L(a), L(b)) - np.clip(L(points[0]), a, b) for a, b in zip(ends[:-1], ends[1:])]
        return L(value) + sum(L(s) * d for s, d in zip(slopes, lengths))

    return Exact(f, points, linear=True)


def elu(op) -> Exact:
    alpha = held(op, op.site.attrs["alpha"])
    return Exact(lambda x: np.where(x > 0, x, alpha * np.expm1(np.minimum(x, 0))))


def gelu(op) -> Exact:
    if op.site.attrs["approximate"] == "none":
        return Exact(lambda x: x * erfc(-x / np.sqrt(L(2))) / 2, (0.0, -0.7517915247, 2**0.5, -(2**0.5)))
    c = np.sqrt(2 / PI)
    return Exact(lambda x: x * sigmoid(2 * c * (x + L(0.044715) * x**3)), (0.0, -0.7524614, 1.4, -1.4))


def hard_sigmoid(op) -> Exact:
    alpha, beta = held(op, op.site.attrs["alpha"]), held(op, op.site.attrs["beta"])
    ends = (float(-beta / alpha), float((1 - beta) / alpha))
    return Exact(lambda x: np.clip(alpha * x + beta, 0, 1), ends, linear=True)


def power(op) -> Exact:
    if op.site.constants[0] is not None:
        base = held(op, np.ravel(op.site.constants[0])[0])
        return Exact(lambda x: np.exp(x * np.log(base)))
    p = float(held(op, np.ravel(op.site.constants[1])[0]))
    whole = p == int(p)
    domain = (-inf, inf) if whole and p >= 0 else (NORMAL, inf)
    return Exact((lambda x: whole_power(x, int(p))) if whole else (lambda x: x ** L(p)), (0.0, 1.0), domain)


def whole_power(x: Array, p: int) -> Array:
    """By products, which are quicker than logarithms."""
    y = np.ones_like(x)
    for _ in range(abs(p)):
        y = y * x
    return y if p >= 0 else 1 / y


def prelu(op) -> Exact:
    slope = held(op, np.ravel(op.site.constants[1])[0])
    return Exact(lambda x: np.where(x >= 0, x, slope * x), linear=True)


def celu(op) -> Exact:
    alpha = held(op, op.site.attrs["alpha"])
    return Exact(lambda x: np.where(x > 0, x, alpha * np.expm1(np.minimum(x, 0) / alpha)))


def selu(op) -> Exact:
    alpha, gamma = held(op, op.site.attrs["alpha"]), held(op, op.site.attrs["gamma"])
    return Exact(lambda x: gamma * np.where(x > 0, x, alpha * np.expm1(np.minimum(x, 0))))


def swish(op) -> Exact:
    alpha = held(op, op.site.attrs["alpha"])
    points = (0.0, -1.2784645, -2.39936, 2.39936)
    return Exact(lambda x: x * sigmoid(alpha * x), tuple(float(z / alpha) for z in points))


def thresholded(op) -> Exact:
    alpha = held(op, op.site.attrs["alpha"])
    return Exact(lambda x: np.where(x > alpha, x, 0), (0.0, float(alpha)))


def shrink(op) -> Exact:
    bias, lambd = held(op, op.site.attrs["bias"]), held(op, op.site.attrs["lambd"])
    inner = lambda x: np.where(x > lambd, x - bias, 0)
    return Exact(lambda x: np.where(x < -lambd, x + bias, inner(x)), (0.0, float(lambd), float(-lambd)))


def quantised(op) -> Exact:
    scale, zero = held(op, op.site.constants[1]), op.site.constants[2]
    ends = np.iinfo(zero.dtype)
    places = tuple(float((k - 0.5) * scale) for k in (0, 1, 2, -1, ends.min - int(zero) + 1, ends.max - int(zero)))
    return Exact(lambda x: np.clip(np.rint(x / scale) + int(zero), ends.min, ends.max), (0.0, *places))


def plain(f, *points: float, domain=(-inf, inf), linear=False, closed=False) -> Callable:
    return lambda op: Exact(f, points or (0.0,), domain, linear, closed)


def turning(shift: float) -> tuple[float, ...]:
    """Turning and inflection points of a sine."""
    return tuple((k + shift) * np.pi / 2 for k in range(-6, 7))


EXACT: dict[str, Callable[..., Exact]] = {
    "Relu": plain(lambda x: np.maximum(x, 0), linear=True),
    "Abs": plain(np.abs, linear=True),
    "LeakyRelu": leaky,
    "Clip": clip,
    "Table": table,
    "HardSigmoid": hard_sigmoid,
    "Sigmoid": plain(sigmoid),
    "Tanh": plain(np.tanh),
    "Atan": plain(np.arctan),
    "Sinh": plain(np.sinh),
    "Cosh": plain(np.cosh),
    "Asinh": plain(np.arcsinh),
    "Sin": plain(np.sin, *turning(0)),
    "Cos": plain(np.cos, *turning(0)),
    "Exp": plain(np.exp),
    "Log": plain(np.log, 1.0, domain=(NORMAL, inf)),
    "Sqrt": plain(np.sqrt, 1.0, domain=(0.0, inf), closed=True),
    "Reciprocal": plain(lambda x: 1 / x, 1.0, domain=(NORMAL, inf)),
    "Erf": plain(erf),
    "Softplus": plain(softplus),
    "Softsign": plain(lambda x: x / (1 + np.abs(x))),
    "HardSwish": plain(lambda x: x * np.clip(x / 6 + L(0.5), 0, 1), -3.0, 3.0, -1.5),
    "Mish": plain(mish, 0.0, -1.1924312, -2.2563764, 1.4905712),
    "Elu": elu,
    "Celu": celu,
    "Selu": selu,
    "PRelu": prelu,
    "Swish": swish,
    "ThresholdedRelu": thresholded,
    "Shrink": shrink,
    "QuantizeLinear": quantised,
    "Tan": plain(np.tan, 0.0, 1.5, -1.5, 0.7, domain=(-np.pi / 2, np.pi / 2)),
    "Asin": plain(np.arcsin, 0.0, 1.0, -1.0, 0.9, domain=(-1.0, 1.0), closed=True),
    "Acos": plain(np.arccos, 0.0, 1.0, -1.0, 0.9, domain=(-1.0, 1.0), closed=True),
    "Atanh": plain(np.arctanh, 0.0, 0.9999, -0.9999, 0.9, domain=(-0.999999, 0.999999)),
    "Acosh": plain(np.arccosh, 1.0, 1.1, 2.0, domain=(1.0, inf), closed=True),
    "Gelu": gelu,
    "Sign": plain(np.sign),
    "Floor": plain(np.floor, 0.0, 1.0, -1.0),
    "Ceil": plain(np.ceil, 0.0, 1.0, -1.0),
    "Round": plain(np.rint, 0.5, -0.5, 1.5),
    "Pow": power,
}
