"""Quotients that are the share of a part in a whole, such as the overlap of two boxes in their union.

Let i = r_1 r_2 with r_k = relu(min(b, d, …) - max(a, c, …)): the length that intervals [a, b], [c, d], … along axis k
have in common. If i > 0, both r_k are positive, so r_k <= b - a for each b under the minimum and each a under the
maximum, and a product of such differences, one of each axis, is at least i: the area of each box is at least that of
the overlap. If then

    u = (sum of n such areas, or i) - m i + c,    n > m, c >= 0,

u >= (n - m) i + c >= i > 0 wherever i > 0. So i / u is 0 where i = 0 and u is not 0, and lies in (0, 1] where i > 0:
it is `Share` (i, u), whose bounds need no box of u that keeps away from 0. (m = 1, n = 2: intersection over union.)

Where i = u = 0 (one box has a side of negative length) the quotient has no value, while Share is 0: the model yields
NaN there, and bounds of Share say nothing about it. NaN fulfils no property, so this is harmless as long as it gets
through to the outputs. Hence the rewrite is made only where every path from the quotient to the outputs consists of
arithmetic and moves, through which NaN passes; not where a comparison, a maximum or a cast could make a number of it.
"""

from __future__ import annotations

from collections.abc import Iterator

from verifier.net.graph import Node
from verifier.net.local import Around, Local, Nodes, become

# NaN in any entry that a result depends on makes it NaN.
ARITHMETIC = {"Add", "Sub", "Neg", "Mul", "Linear", "MatMul", "Conv", "BatchNormalization", "ReduceSum", "ReduceMean"}
MOVES = {"Identity", "Reshape", "Transpose", "Slice", "Concat", "Gather", "Expand", "Tile"}


def share(n: Node, c: Around) -> Nodes | None:
    """i / u, however it is spelled, if i is proved to be a part of u."""
    if n.dtype.kind != "f":
        return None
    for part, whole in quotients(n, c):
        if is_part(part, whole, c) and passes_undefined(n.name, c):
            return [become(n, "Share", (part, whole))]
    return None


def quotients(n: Node, c: Around) -> Iterator[tuple[str, str]]:
    """(i, u) for n = i / u or i (1 / u)."""
    if n.kind == "Div":
        yield n.inputs
        return
    for part, inverse in (n.inputs, n.inputs[::-1]):
        r = c.producer(inverse, "Reciprocal")
        if r is not None:
            yield part, r.inputs[0]


def is_part(part: str, whole: str, c: Around) -> bool:
    """Whether u >= i wherever i > 0, by the argument at the head of the file."""
    product = c.producer(part, "Mul")
    common = [] if product is None else [common_length(r, c) for r in product.inputs]
    if len(common) != 2 or None in common:
        return False
    plus, minus = [], []
    for sign, name in summands(whole, c):
        value = c.value(name)
        if value is not None:
            if not bool((sign * value >= 0).all()):  # NaN is not
                return False
        else:
            (plus if sign > 0 else minus).append(name)
    return (
        len(plus) > len(minus)
        and all(m == part for m in minus)
        and all(a == part or is_area(a, common, c) for a in plus)
    )


def common_length(r: str, c: Around) -> tuple[set[str], set[str]] | None:
    """For r = relu(min(…) - max(…)) the names under the minimum and under the maximum."""
    relu = c.producer(r, "Relu")
    difference = None if relu is None else c.producer(relu.inputs[0], "Sub")
    if difference is None:
        return None
    return set(under(difference.inputs[0], "Min", c)), set(under(difference.inputs[1], "Max", c))


def under(name: str, extreme: str, c: Around) -> Iterator[str]:
    """All tensors that a chain of minima (maxima) is not above (not below); itself among them."""
    yield name
    n = c.producer(name, extreme, f"{extreme}Join")
    if n is not None:
        for i in (n.inputs[0], n.inputs[-1]):
            yield from under(i, extreme, c)


def summands(name: str, c: Around, sign: int = 1) -> Iterator[tuple[int, str]]:
    """The terms of a sum with their signs."""
    n = c.producer(name, "Add", "Sub", "Neg")
    if n is None:
        yield sign, name
        return
    yield from summands(n.inputs[0], c, -sign if n.kind == "Neg" else sign)
    if n.kind != "Neg":
        yield from summands(n.inputs[1], c, sign if n.kind == "Add" else -sign)


def is_area(name: str, common: list[tuple[set[str], set[str]]], c: Around) -> bool:
    """Whether a term is a product of one difference for each axis that is at least the common length there."""
    product = c.producer(name, "Mul")
    if product is None:
        return False
    sides = [c.producer(s, "Sub") for s in product.inputs]
    if None in sides:
        return False
    fits = lambda side, lengths: side.inputs[0] in lengths[0] and side.inputs[1] in lengths[1]
    return any(fits(s, common[0]) and fits(t, common[1]) for s, t in (sides, sides[::-1]))


def passes_undefined(name: str, c: Around) -> bool:
    """Whether all that depends on a tensor, up to the outputs, is NaN where the tensor is."""
    readers: dict[str, list[Node]] = {}
    for n in c.by_name.values():
        for i in n.inputs:
            readers.setdefault(i, []).append(n)
    seen, waiting = {name}, [name]
    while waiting:
        for n in readers.get(waiting.pop(), ()):
            if n.kind not in ARITHMETIC and n.kind not in MOVES:
                return False
            if n.name not in seen:
                seen.add(n.name)
                waiting.append(n.name)
    return True


RULES: dict[str, tuple[Local, ...]] = {"Div": (share,), "Mul": (share,)}
