"""Einsum of two variables as a product of matrices or of numbers.

The letters of "a, b -> y" fall into four groups: in all three (batch), in a and y (left), in b and y (right), in a and
b alone (inner). Then y[batch, left, right] = sum over inner of a[batch, left, inner] b[batch, inner, right]: a MatMul
of operands brought to this order and y brought out of it, each by a Transpose and a Reshape, which only reorder
entries. Without inner letters it is a Mul that broadcasts. Letters of one operand alone that y lacks, repeated letters
and ellipses stay an Einsum.
"""

from __future__ import annotations

import math

from verifier.net.graph import Node
from verifier.net.local import Around, Local, Nodes, become, renamed


def split_equation(n: Node, c: Around) -> tuple[str, str, str, dict[str, int]] | None:
    """The letters of a, b and y, and each letter's length."""
    left, arrow, y = n.attrs["equation"].partition("->")
    terms = left.split(",")
    if len(terms) != 2 or "." in n.attrs["equation"]:
        return None
    a, b = terms
    if not arrow:
        y = "".join(sorted(x for x in set(a + b) if (a + b).count(x) == 1))
    if any(len(set(t)) < len(t) for t in (a, b, y)):
        return None
    if (set(a) ^ set(b)) - set(y) or set(y) - set(a + b):
        return None
    lengths: dict[str, int] = {}
    for term, name in zip(terms, n.inputs):
        for letter, d in zip(term, c.shape(name)):
            if lengths.setdefault(letter, d) != d:
                return None  # an axis of length 1 that broadcasts
    return a, b, y, lengths


def ordered(n: Node, c: Around, x: str, letters: str, order: str, shape: tuple[int, ...], made: list[Node]) -> str:
    """x with its axes in the given order, then of the given shape."""
    if order != letters:
        perm = tuple(letters.index(k) for k in order)
        made.append(c.make(n, "Transpose", (x,), tuple(c.shape(x)[p] for p in perm), {"perm": perm}))
        x = made[-1].name
    if c.shape(x) != shape:
        made.append(c.make(n, "Reshape", (x,), shape))
        x = made[-1].name
    return x


def of_two(n: Node, c: Around) -> Nodes | None:
    """See the head of this file."""
    if len(n.inputs) != 2 or any(c.value(i) is not None for i in n.inputs):
        return None
    found = split_equation(n, c)
    if found is None:
        return None
    a, b, y, lengths = found
    size = lambda letters: math.prod(lengths[k] for k in letters)
    shape = lambda letters: tuple(lengths[k] for k in letters)
    batch, inner = "".join(k for k in y if k in a and k in b), "".join(k for k in a if k in b and k not in y)
    left, right = "".join(k for k in y if k not in b), "".join(k for k in y if k not in a)
    made: list[Node] = []
    if not inner:
        sides = [(x, t, "".join(k for k in y if k in t)) for x, t in zip(n.inputs, (a, b))]
        wide = [
            ordered(n, c, x, t, order, tuple(lengths[k] if k in t else 1 for k in y), made) for x, t, order in sides
        ]
        return [*made, become(n, "Mul", tuple(wide))]
    ends = (
        ordered(n, c, n.inputs[0], a, batch + left + inner, (*shape(batch), size(left), size(inner)), made),
        ordered(n, c, n.inputs[1], b, batch + inner + right, (*shape(batch), size(inner), size(right)), made),
    )
    made.append(c.make(n, "MatMul", ends, (*shape(batch), size(left), size(right))))
    made.append(c.make(n, "Reshape", (made[-1].name,), shape(batch + left + right)))
    order = batch + left + right
    if order != y:
        perm = tuple(order.index(k) for k in y)
        made.append(c.make(n, "Transpose", (made[-1].name,), n.shape, {"perm": perm}))
    return renamed(made, n)


RULES: dict[str, tuple[Local, ...]] = {"Einsum": (of_two,)}
