"""Products x g(x) that are one function of one number: GELU, Swish, Mish, HardSwish however they are spelled.

A product of two variables is bounded without knowing that both come from one number; one function is bounded far
better. With s the common number, a = alpha s the one factor and b = beta g(kappa s) the other:

    s sigmoid(kappa s)             Swish(s; alpha = kappa)
    s (1 + tanh(kappa s))          2 Swish(s; alpha = 2 kappa), as 1 + tanh(z) = 2 sigmoid(2 z)
    s (1 + erf(kappa s))           2 / q Gelu(q s), q = kappa sqrt(2), as Gelu(z) = z (1 + erf(z / sqrt 2)) / 2
    s tanh(softplus(kappa s))      1 / kappa Mish(kappa s)
    s clip(kappa s + h / 2, 0, h)  h / q HardSwish(q s), q = 6 kappa / h, as HardSwish(z) = z clip(z / 6 + 1/2, 0, 1)

    s (1 + tanh(kappa s + mu s^3)) 2 / q TanhGelu(q s), q = kappa / sqrt(2 / pi), up to `off`

All but the last hold in real arithmetic for any kappa that is not 0 (HardSwish: above 0), so the file's own constant
need not be the nearest number to 1 / sqrt(2): what it lacks goes into q. The factors become Muls by constants, which
vanish into neighbours that take them.

TanhGelu(z) = z sigmoid(2 c (z + a z^3)), c = sqrt(2 / pi), a = 0.044715, has two constants; those of the file are
rounded, and no rescaling makes both right. With z = q s the linear terms agree, and mu s^3 = c a (1 + d) z^3 with d =
mu / (c a q^3) - 1. By the mean value theorem z sigmoid moves by at most |d| times the greatest value of 2 c a z^4
sigmoid'(xi), xi between the two arguments. With |d| <= 1e-6 these differ by less than 2e-4 for |z| <= 13, so that
sigmoid' differs by less than a thousandth part, and 2 c a z^4 sigmoid'(2 c (z + a z^3)) < 0.0261 (largest at |z| =
1.84); for |z| > 13 it is below 1e-60. So the Gelu carries `off` = 0.027 |d|, which its bounds add.
"""

from __future__ import annotations

import math
from fractions import Fraction
from typing import NamedTuple

import numpy as np

from verifier.net.graph import Node
from verifier.net.local import Around, Local, Nodes, become, renamed
from verifier.net.sure import Sure


class Gate(NamedTuple):
    """The product s g(kappa s) as `factor` times kind(`inner` s); `exact`: no rounding made the factor."""

    factor: float
    inner: float
    kind: str
    attrs: dict
    exact: bool = False


C, A = math.sqrt(2 / math.pi), 0.044715


def multiples(name: str, c: Around) -> list[tuple[float, str]]:
    """(k, t) with the tensor equal to k t, for as many t as there are constant factors above it, itself first."""
    k, found = 1.0, [(1.0, name)]
    while (n := c.producer(name, "Mul", "Div", "Neg")) is not None and len(found) < 8:
        values = [c.uniform(i) for i in n.inputs]
        if n.kind == "Neg":
            k, name = -k, n.inputs[0]
        elif n.kind == "Mul" and (values[0] is None) != (values[1] is None):
            k, name = (k * values[1], n.inputs[0]) if values[0] is None else (k * values[0], n.inputs[1])
        elif n.kind == "Div" and values[0] is None and values[1]:
            k, name = k / values[1], n.inputs[0]
        else:
            break
        if c.shape(name) != n.shape:
            break
        found.append((k, name))
    return found


def shifted(n: Node | None, c: Around) -> tuple[str, float] | None:
    """(x, t) of an Add x + t with one number t."""
    if n is None or n.kind != "Add":
        return None
    for x, k in (n.inputs, n.inputs[::-1]):
        if c.uniform(k) is not None and c.value(x) is None and c.shape(x) == n.shape:
            return x, c.uniform(k)
    return None


def argument(name: str, c: Around) -> tuple[str, str, float, float] | None:
    """What kind of gate a tensor is, its argument, and shift and height of a clipped one."""
    n = c.producer(name, "Sigmoid", "Tanh", "Add", "Clip")
    if n is None:
        return None
    if n.kind == "Sigmoid":
        return "sigmoid", n.inputs[0], 0.0, 0.0
    if n.kind == "Tanh":
        inner = c.producer(n.inputs[0], "Softplus")
        return None if inner is None else ("mish", inner.inputs[0], 0.0, 0.0)
    if n.kind == "Add":
        found = shifted(n, c)
        inner = c.producer(found[0], "Erf", "Tanh") if found is not None and found[1] == 1.0 else None
        return None if inner is None else (inner.kind.lower(), inner.inputs[0], 0.0, 0.0)
    found = shifted(c.producer(n.inputs[0]), c)
    if found is None or n.attrs["min"] != 0 or not 0 < n.attrs["max"] < math.inf or 2 * found[1] != n.attrs["max"]:
        return None
    return "clip", found[0], found[1], n.attrs["max"]


def as_one(what: str, kappa: float, height: float) -> Gate | None:
    """The table at the head of this file."""
    if what == "sigmoid":
        return Gate(1.0, 1.0, "Swish", {"alpha": kappa}, True)
    if what == "tanh":
        return Gate(2.0, 1.0, "Swish", {"alpha": 2 * kappa}, True)
    if what == "erf":
        q = kappa * math.sqrt(2)
        return Gate(2 / q, q, "Gelu", {"approximate": "none"})
    if what == "mish":
        return Gate(1 / kappa, kappa, "Mish", {})
    q = 6 * kappa / height
    exact = kappa == 1 and Fraction(q) * Fraction(height) == 6
    exact = exact and Fraction(height / q) * Fraction(q) == Fraction(height)
    return Gate(height / q, q, "HardSwish", {}, exact) if kappa > 0 else None


def cubic(y: str, c: Around) -> tuple[str, float, float] | None:
    """(s, kappa, mu) of y = kappa s + mu s^3."""
    for k, t in multiples(y, c):
        total = c.producer(t, "Add")
        for line, curve in () if total is None else (total.inputs, total.inputs[::-1]):
            for mu, cube in multiples(curve, c):
                s = cubed(cube, c)
                kappa = next((k1 for k1, t1 in multiples(line, c) if t1 == s), None)
                if s is not None and kappa is not None and c.shape(s) == c.shape(y):
                    return s, k * kappa, k * mu
    return None


def cubed(name: str, c: Around) -> str | None:
    """s for s^3, or s s^2."""
    n = c.producer(name, "Pow", "Mul")
    if n is None:
        return None
    if n.kind == "Pow":
        return n.inputs[0] if c.uniform(n.inputs[1]) == 3.0 else None
    for s, other in (n.inputs, n.inputs[::-1]):
        square = c.producer(other, "Pow")
        if square is not None and square.inputs[0] == s and c.uniform(square.inputs[1]) == 2.0:
            return s
    return None


def tanh_gelu(kappa: float, mu: float) -> Gate | None:
    """The last row of the table."""
    q = kappa / C
    d = mu / (C * A * q**3) - 1 if q > 0 else math.inf
    off = 0.027 * (abs(d) + 1e-15)
    return Gate(2 / q, q, "Gelu", {"approximate": "tanh", "off": off}) if abs(d) <= 1e-6 else None


def product(n: Node, c: Around) -> Nodes | None:
    """A Mul of a number and a gate of it."""
    if n.dtype.kind != "f" or any(c.value(i) is not None or c.shape(i) != n.shape for i in n.inputs):
        return None
    for a, b in (n.inputs, n.inputs[::-1]):
        for beta, inner in multiples(b, c):
            found = argument(inner, c)
            if found is None:
                continue
            what, y, _, height = found
            curve = cubic(y, c) if what == "tanh" else None
            if curve is not None:
                alpha = next((k for k, t in multiples(a, c) if t == curve[0]), None)
                gate = None if alpha is None else tanh_gelu(*curve[1:])
                if gate is not None:
                    return emit(n, c, curve[0], np.asarray(beta * alpha * gate.factor), gate)
            kappas = {t: k for k, t in reversed(multiples(y, c))}
            match = next(((k, t) for k, t in multiples(a, c) if kappas.get(t)), None)
            gate = None if match is None else as_one(what, kappas[match[1]], height)
            if gate is not None and c.shape(match[1]) == n.shape:
                factor = np.asarray(beta * match[0] * gate.factor)
                exact = gate.exact and (inner, match[1]) == (b, a)  # and no products of constants
                return emit(n, c, match[1], Sure.of(factor) if exact else factor, gate)
    return None


def emit(n: Node, c: Around, x: str, factor: np.ndarray | Sure, gate: Gate) -> Nodes:
    """factor kind(inner x)."""
    made: list[Node] = []
    if gate.inner != 1.0:
        made.append(c.make(n, "Mul", (x, c.constant(gate.inner, n.name)), n.shape))
        x = made[-1].name
    made.append(c.make(n, gate.kind, (x,), n.shape, gate.attrs))
    if (factor.v if isinstance(factor, Sure) else factor) == 1.0:
        return renamed(made, n)
    return [*made, become(n, "Mul", (made[-1].name, c.constant(factor, n.name)))]


RULES: dict[str, tuple[Local, ...]] = {"Mul": (product,)}
