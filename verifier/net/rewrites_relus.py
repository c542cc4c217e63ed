"""Pairs of ReLUs that undo each other, and sums of ReLUs of one number that are one piecewise linear function.

Between two Linears, neurons i and j with opposite weights and biases have z_j = -z_i, and relu(-z) = relu(z) - z:

    v_i relu(z_i) + v_j relu(z_j) = (v_i + v_j) relu(z_i) - v_j z_i.

So one ReLU and a linear path replace two; none is left where v_i + v_j = 0. Networks that pass numbers on through
layers of ReLUs, and lattices of maxima, max(a, b) = (a + b) / 2 + |a - b| / 2, are full of them. Weights count as
opposite only if they are so to the last bit.

Where every ReLU reads the same entry of x, sum_k v_k relu(w_k x + b_k) + c is a function of that number: a `Table`
with the breakpoints -b_k / w_k. Its slopes are sums of the v_k w_k of one sign. All of it is worked out in rational
arithmetic: in steep tables nearly everything cancels.

Symbols: W (in, out) with rows v of the second Linear; tables: w, b, v (k,).
"""

from __future__ import annotations

from fractions import Fraction

import numpy as np

from verifier.net.graph import Node
from verifier.net.local import Around, Local, Nodes, become
from verifier.net.rewrites_affine import MAX_WEIGHT, by_column
from verifier.net.sure import Sure, double

SHARE = 4  # one neuron in so many must be saved
MAX_POINTS = 64  # breakpoints of a table


def between(n: Node, c: Around) -> Node | None:
    """The Relu between n and what is before, if nobody else reads it."""
    return c.alone(n.inputs[0], "Relu")


def weights(n: Node, c: Around) -> tuple[np.ndarray, np.ndarray | None] | None:
    """W and b of a Linear; None where they are not constant, or not known well."""
    w, b = c.value(n.inputs[1]), c.value(n.inputs[2]) if n.inputs[2] else None
    return None if w is None or (b is None and n.inputs[2]) else (w, b)


def opposite_pairs(w: np.ndarray, b: np.ndarray | None) -> list[tuple[int, int]]:
    """(i, j), i < j, no index twice, with column j of W the negative of column i, and b likewise; [] if they are few.

    Opposite columns have equal sizes in every row: a row with too many different ones rules them out.
    """
    for row in np.linspace(0, len(w) - 1, min(len(w), 4)).astype(int):
        if (len(np.unique(np.abs(w[row]))) - 1) * SHARE > w.shape[1] * (SHARE - 1):
            return []
    pairs = matched(keys(w, b))
    return pairs if len(pairs) * SHARE >= w.shape[1] else []


def keys(w: np.ndarray, b: np.ndarray | None) -> list[tuple[bytes, bytes]]:
    """What tells columns of W with b apart, and the key of their negatives: the places and values of what is not 0."""
    b = np.zeros(w.shape[1], w.dtype) if b is None else b + b.dtype.type(0)  # there is one zero now
    column, row = by_column(w)
    values = w[row, column]
    ends = np.searchsorted(column, np.arange(w.shape[1] + 1)).tolist()
    found = []
    for j, (start, end) in enumerate(zip(ends[:-1], ends[1:])):
        places, mine = row[start:end].tobytes(), values[start:end]
        bias = b[j : j + 1]
        found.append(
            (
                b"".join((places, mine.tobytes(), bias.tobytes())),
                b"".join((places, (-mine).tobytes(), (0 - bias).tobytes())),
            )
        )
    return found


def matched(columns: list[tuple[bytes, bytes]]) -> list[tuple[int, int]]:
    """Pairs whose keys are each other's negatives."""
    waiting: dict[bytes, list[int]] = {}
    pairs = []
    for j, (own, negative) in enumerate(columns):
        others = waiting.get(negative)
        if others:
            pairs.append((others.pop(), j))
        else:
            waiting.setdefault(own, []).append(j)
    return pairs


def undo_splitting(n: Node, c: Around) -> Nodes | None:
    """Linear, Relu, Linear with opposite neurons."""
    r = between(n, c)
    q = None if r is None else c.alone(r.inputs[0], "Linear")
    ends = None if q is None or not c.room else (weights(q, c), weights(n, c))
    if ends is None or None in ends or not all(c.sure(i).known for i in (*q.inputs[1:], n.inputs[1]) if i):
        return None  # opposite as computed need not be opposite
    (w, b), (v, _) = ends
    if w.size > MAX_WEIGHT or w.shape[1] < 2:
        return None
    pairs = opposite_pairs(w, b)
    if not pairs:
        return None
    first, second = (np.array(side) for side in zip(*pairs))
    kept = v.any(1)
    kept[first] = (v[first] != -v[second]).any(1)
    kept[second] = False
    relus = np.flatnonzero(kept)
    partner = np.full(len(v), -1)
    partner[first] = second
    sure, paired = c.sure(n.inputs[1]), partner[relus] >= 0
    other = sure.map(lambda t: np.where(paired[:, None], t[partner[relus]], 0))
    bent_rows = sure.map(lambda t: t[relus]).plus(other)
    passed = v[second].any(1)
    first, second = first[passed], second[passed]
    bias = n.inputs[2]
    made: list[Node] = []
    straight = joined(n, c, q, made, first, -v[second], bias, relu=False) if len(first) else None
    if straight is None:
        bent = joined(n, c, q, made, relus, bent_rows, bias, relu=True)
        return [*made[:-1], become(n, "Linear", bent.inputs)]
    if not len(relus):
        return [*made[:-1], become(n, "Linear", straight.inputs)]
    bent = joined(n, c, q, made, relus, bent_rows, "", relu=True)
    return [*made, become(n, "Add", (bent.name, straight.name))]


def joined(
    n: Node, c: Around, q: Node, made: list[Node], units: np.ndarray, v: np.ndarray | Sure, bias: str, relu: bool
) -> Node:
    """Some units of q, through Relu or straight, times v, plus a bias: appended to `made`, the last node handed out."""
    w, b = weights(q, c)
    b_name = "" if b is None else c.constant(b[units], q.inputs[2])
    shape = (*q.shape[:-1], len(units))
    made.append(c.make(q, "Linear", (q.inputs[0], c.constant(w[:, units], q.inputs[1]), b_name), shape))
    if relu:
        made.append(c.make(n, "Relu", (made[-1].name,), shape))
    made.append(c.make(n, "Linear", (made[-1].name, c.constant(v, n.inputs[1]), bias), n.shape))
    return made[-1]


def lookup(n: Node, c: Around) -> Nodes | None:
    """Linear (k -> 1) of Relus that all read one entry: x (…, 1) plus a constant (k,), or a Linear (1 -> k)."""
    r = between(n, c)
    q = None if r is None else c.alone(r.inputs[0], "Linear", "Add", "Sub")
    own = None if q is None else weights(n, c)
    if own is None:
        return None
    v, c0 = own
    found = None if v.shape[1] != 1 else units(q, len(v), c)
    if found is None or not 2 <= len(v) <= MAX_POINTS:
        return None
    x, w, b = found
    numbers = (w, b, double(v[:, 0]), np.zeros(1) if c0 is None else double(c0[:1]))
    exact = all(c.sure(i).known for i in (*q.inputs, *n.inputs[1:]) if i and c.sure(i) is not None)
    if not exact or not all(np.isfinite(t).all() for t in numbers):
        return None
    points, slopes, value = table(*(list(map(Fraction, t.tolist())) for t in numbers))
    if not points:
        return None
    return [become(n, "Table", (x,), {"points": points, "slopes": slopes, "value": value})]


def units(q: Node, k: int, c: Around) -> tuple[str, np.ndarray, np.ndarray] | None:
    """x, w, b of q's last axis as w x + b with x (…, 1)."""
    if q.kind == "Linear":
        w, b = weights(q, c) or ((), None)
        return (q.inputs[0], double(w[0]), np.zeros(k) if b is None else double(b)) if len(w) == 1 else None
    a, t = q.inputs
    if c.value(a) is not None and c.value(t) is None:
        a, t, sign = t, a, (-1.0 if q.kind == "Sub" else 1.0)
    elif c.value(a) is None and c.value(t) is not None:
        sign = 1.0
    else:
        return None
    b = double(c.value(t))
    if b.size != k or b.shape[-1:] != (k,) or c.shape(a) != (*q.shape[:-1], 1):
        return None
    b = -b if q.kind == "Sub" and sign > 0 else b
    return a, np.full(k, sign), b.reshape(-1)


Numbers = list[Fraction]


def table(
    w: Numbers, b: Numbers, v: Numbers, c: Numbers
) -> tuple[tuple[Fraction, ...], tuple[Fraction, ...], Fraction]:
    """Breakpoints, the slopes around them, and the value at the first, of c + sum v relu(w x + b)."""
    moving = [(wk, bk, vk) for wk, bk, vk in zip(w, b, v) if wk != 0 and vk != 0]
    change: dict[Fraction, Fraction] = {}
    for wk, bk, vk in moving:
        change[-bk / wk] = change.get(-bk / wk, Fraction(0)) + vk * abs(wk)
    points = sorted(change)
    slopes = [sum((vk * wk for wk, _, vk in moving if wk < 0), Fraction(0))]
    for p in points:
        slopes.append(slopes[-1] + change[p])
    first = points[0] if points else Fraction(0)
    value = sum((vk * max(wk * first + bk, Fraction(0)) for wk, bk, vk in zip(w, b, v)), c[0])
    return tuple(points), tuple(slopes), value


SPLITS: dict[str, tuple[Local, ...]] = {"Linear": (undo_splitting,)}
