"""Functions behind a Where that guards them: they see only what the guard lets through.

Where(x > c, f(x), b) takes f(x) at x > c alone. There x = Clip(x, c', inf) for every c' <= c, so

    Where(x > c, f(x), b) = Where(x > c, f(Clip(x, c', inf)), b),

and likewise for >=, <, <= (with the other end), for the other branch, which is taken where the condition is false, and
for a condition behind Nots. Where the branch is not taken its value is nobody's, whatever it is; where x is NaN, so is
the clipped x, and whichever branch is taken sees what it saw before. What is gained: f is bounded on what it may be
asked, a logarithm away from 0, instead of on all that x may be.

c' lies a little outside of c, at a number of float32: c may be off by a few roundings where it was computed.

f is a chain of functions of one number, entry by entry, constants beside it; at least one of them has no bounded range
on all numbers (`WILD`).
"""

from __future__ import annotations

import math

import numpy as np

from verifier.net.graph import Node
from verifier.net.local import Around, Local, Nodes, become

WILD = {"Log", "Sqrt", "Reciprocal", "Pow", "Div", "Exp", "Tan", "Acosh", "Asin", "Acos", "Atanh", "Sinh", "Cosh"}
TAME = {"Add", "Sub", "Mul", "Neg", "Abs", "Relu", "Sigmoid", "Tanh", "Erf", "Softplus", "Clip", "Sin", "Cos"}
ABOVE = {"Greater": True, "GreaterOrEqual": True, "Less": False, "LessOrEqual": False}
LONGEST = 8  # functions in a chain
OUTSIDE = 2.0**-20  # of c: how far c' lies outside


def guarded(n: Node, c: Around) -> Nodes | None:
    """The Where with a branch whose function reads the clipped x; see the file's head."""
    found = compared(n.inputs[0], c)
    if found is None or not c.room or n.dtype.kind != "f":
        return None
    x, limit, above = found
    for branch, side in ((1, above), (2, not above)):
        chain = chain_to(n.inputs[branch], x, n, c)
        if chain is None:
            continue
        ends = (outside(limit, -1), math.inf) if side else (-math.inf, outside(limit, 1))
        clip = c.make(n, "Clip", (x,), c.shape(x), {"min": ends[0], "max": ends[1]})
        made, before, now = [clip], x, clip.name
        for f in chain:
            copy = c.make(n, f.kind, tuple(now if i == before else i for i in f.inputs), f.shape, f.attrs)
            made.append(copy)
            before, now = f.name, copy.name
        inputs = tuple(now if k == branch else i for k, i in enumerate(n.inputs))
        return [*made, become(n, "Where", inputs)]
    return None


def compared(condition: str, c: Around) -> tuple[str, float, bool] | None:
    """(x, limit, whether the condition is true above it) of a comparison of x with a number."""
    right = True
    node = c.producer(condition)
    while node is not None and node.kind == "Not":
        node, right = c.producer(node.inputs[0]), not right
    if node is None or node.kind not in ABOVE:
        return None
    above = ABOVE[node.kind] == right
    for x, other, up in ((node.inputs[0], node.inputs[1], above), (node.inputs[1], node.inputs[0], not above)):
        limit = c.uniform(other)
        if limit is not None and c.value(x) is None and math.isfinite(limit) and c.floats(x):
            return (x, limit, up) if c.shape(x) == node.shape else None
    return None


def chain_to(name: str, x: str, n: Node, c: Around) -> list[Node] | None:
    """The functions from x to a branch of n, first to last, if they are such a chain and x is not clipped yet."""
    chain: list[Node] = []
    while name != x:
        f = c.producer(name, *WILD, *TAME)
        if f is None or len(chain) == LONGEST or f.shape != n.shape or f.dtype != n.dtype:
            return None
        variable = {i for i in f.inputs if i and c.value(i) is None}
        if len(variable) != 1 or c.shape(next(iter(variable))) != n.shape:
            return None
        chain.append(f)
        (name,) = variable
    clipped = bool(chain) and chain[-1].kind in ("Clip", "Relu")
    return chain[::-1] if any(f.kind in WILD for f in chain) and not clipped else None


def outside(limit: float, sign: int) -> float:
    """A number of float32 beyond the limit, below for -1, above for 1."""
    with np.errstate(over="ignore"):
        near = np.float32(limit + sign * OUTSIDE * abs(limit))
    return float(near) if (float(near) - limit) * sign >= 0 else float(np.nextafter(near, np.float32(sign * np.inf)))


RULES: dict[str, tuple[Local, ...]] = {"Where": (guarded,)}
