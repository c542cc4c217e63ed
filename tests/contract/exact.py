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


@dataclass(frozen=True)
class Exact:
    f: Callable[[Array], Array]
    points: tuple[float, ...] = (0.0,)
    domain: tuple[float, float] = (-inf, inf)
    linear: bool = False  # a line between neighbouring points


def held(op, value: float) -> np.longdouble:
    """A parameter as the working precision holds it."""
    return L({"torch.float32": np.float32, "torch.float64": np.float64}[str(op.site.dtype)](value))


def erf(x: Array) -> Array:
    """2 / sqrt(pi) exp(-x^2) sum 2^n x^(2n+1) / (2n+1)!!, all terms of one sign; 1 - erf < 1e-22 beyond 7."""
    y = np.clip(x, L(-7), L(7))
    term, total = y.copy(), y.copy()
    for n in range(1, 240):
        term = term * 2 * y * y / (2 * n + 1)
        total = total + term
    return np.where(np.abs(x) > 7, np.sign(x).astype(L), 2 / np.sqrt(PI) * np.exp(-y * y) * total)


def erfc(x: Array) -> Array:
    """1 - erf(x) below 2, the continued fraction exp(-x^2) / sqrt(pi) / (x + (1/2) / (x + 1 / (x + ...))) beyond."""
    y = np.clip(np.abs(x), L(2), L(110))
    tail = y
    for n in range(200, 0, -1):
        tail = y + L(n) / 2 / tail
    far = np.exp(-y * y) / np.sqrt(PI) / tail
    return np.where(np.abs(x) < 2, 1 - erf(np.clip(x, L(-2), L(2))), np.where(x > 0, far, 2 - far))


def sigmoid(x: Array) -> Array:
    return 1 / (1 + np.exp(-np.clip(x, L(-11000), L(11000))))


def softplus(x: Array) -> Array:
    return np.maximum(x, 0) + np.log1p(np.exp(-np.abs(x)))


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
    p = float(np.ravel(op.site.constants[1])[0])
    whole = p == int(p)
    domain = (-inf, inf) if whole and p >= 0 else (0.0, inf)
    return Exact((lambda x: x ** int(p)) if whole else (lambda x: x ** L(p)), (0.0,), domain)


def plain(f, *points: float, domain=(-inf, inf), linear=False) -> Callable:
    return lambda op: Exact(f, points or (0.0,), domain, linear)


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
    "Log": plain(np.log, 1.0, domain=(0.0, inf)),
    "Sqrt": plain(np.sqrt, 1.0, domain=(0.0, inf)),
    "Reciprocal": plain(lambda x: 1 / x, 1.0, domain=(0.0, inf)),
    "Erf": plain(erf),
    "Softplus": plain(softplus),
    "Softsign": plain(lambda x: x / (1 + np.abs(x))),
    "HardSwish": plain(lambda x: x * np.clip(x / 6 + L(0.5), 0, 1), -3.0, 3.0, -1.5),
    "Mish": plain(lambda x: x * np.tanh(softplus(x)), 0.0, -1.192),
    "Elu": elu,
    "Gelu": gelu,
    "Sign": plain(np.sign),
    "Floor": plain(np.floor, 0.0, 1.0, -1.0),
    "Ceil": plain(np.ceil, 0.0, 1.0, -1.0),
    "Round": plain(np.rint, 0.5, -0.5, 1.5),
    "Pow": power,
}
