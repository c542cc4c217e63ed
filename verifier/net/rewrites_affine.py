"""Affine maps in a row become one: entry by entry (x s + t with constants s, t) into a neighbouring Linear or
convolution, two of them into one, and Linear after Linear.

Why each is exact: y = (x W + b) s + t = x (W s) + (b s + t), and (x s + t) W + b = x (s W) + (t W + b), s and t being
constant along everything but the axis that W mixes. Before a convolution a shift must not meet padding, whose zeros it
would not move; a scale may. Reshapes and Transposes in between only reorder entries, so s and t, spread over the whole
tensor, are reordered along. Constants are computed in float64, with what they may be off by (`verifier.net.sure`); one
that is only negated, and weights that nothing multiplies, keep their element type.

Symbols: weights of Linear (in, out), of Conv (out, in / groups, *k), of ConvTranspose (in, out / groups, *k); s, t
vectors over `in` or `out`.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

from verifier.net.graph import Node, Shape
from verifier.net.local import Around, Local, Nodes, become, renamed
from verifier.net.sure import Sure, double, stacked

MAX_WEIGHT = 2**24  # entries of a weight that is multiplied anew
MAX_SPREAD = 2**22  # entries of a constant spread over a whole tensor
MAX_WORK = 2**26  # products that merging two Linears may take

MINUS = Sure.of(np.float64(-1.0))
MIXERS = ("Linear", "Conv", "ConvTranspose")
MAPS = ("Add", "Sub", "Mul", "Div", "Neg", "BatchNormalization")


class EntryMap(NamedTuple):
    """y = x s + t, or x / s + t if `over`; s and t broadcast to y's shape, None stands for 1 and 0."""

    x: str
    s: Sure | None
    t: Sure | None
    over: bool = False


def entry_map(n: Node | None, c: Around) -> EntryMap | None:
    """n as a map entry by entry with finite constants that keeps the shape, or None."""
    if n is None or n.kind not in MAPS or n.dtype.kind != "f":
        return None
    if n.kind == "BatchNormalization":
        wide = (1, -1) + (1,) * (len(n.shape) - 2)
        found = EntryMap(n.inputs[0], *(c.sure(i).map(lambda v: v.reshape(wide)) for i in n.inputs[1:]))
    elif n.kind == "Neg":
        found = EntryMap(n.inputs[0], MINUS, None)
    else:
        found = with_constant(n, c)
    if found is None or c.shape(found.x) != n.shape:
        return None
    if any(v is not None and not np.isfinite(v.v).all() for v in (found.s, found.t)):
        return None
    return None if found.over and not np.all(found.s.v) else found


def with_constant(n: Node, c: Around) -> EntryMap | None:
    """Add, Sub, Mul, Div with one constant operand; a constant divided by x is none."""
    a, b = (c.sure(i) for i in n.inputs)
    if (a is None) == (b is None):
        return None
    x, k = (n.inputs[0], b) if a is None else (n.inputs[1], a)
    if k.v.dtype.kind != "f":
        return None
    if n.kind == "Add":
        return EntryMap(x, None, k)
    if n.kind == "Mul":
        return EntryMap(x, k, None)
    if n.kind == "Sub":
        return EntryMap(x, None, k.negated()) if a is None else EntryMap(x, MINUS, k)
    return EntryMap(x, k, None, over=True) if a is None else None


def climb(name: str, c: Around) -> tuple[list[Node], str]:
    """Reshapes and Transposes above a tensor that nobody else reads, lowest first, and the tensor above them."""
    moves = []
    while (move := c.alone(name, "Reshape", "Transpose")) is not None:
        moves.append(move)
        name = move.inputs[0]
    return moves, name


def again(moves: list[Node], x: str, c: Around) -> list[Node]:
    """The moves, lowest first in `moves`, on x, under new names, in order."""
    made = []
    for move in reversed(moves):
        made.append(c.make(move, move.kind, (x,), move.shape, move.attrs))
        x = made[-1].name
    return made


def carried(known: Sure, shape: Shape, moves: list[Node], c: Around, up: bool) -> Sure | None:
    """A constant spread over `shape`, through the moves against (`up`) or with their direction."""
    if known.v.size == 1:
        return known.map(lambda v: v.reshape(()))
    if math.prod(shape) > MAX_SPREAD:
        return None
    return known.map(lambda v: moved(np.broadcast_to(v, shape), moves, c, up))


def moved(value: np.ndarray, moves: list[Node], c: Around, up: bool) -> np.ndarray:
    for move in moves if up else reversed(moves):
        if move.kind == "Reshape":
            value = value.reshape(c.shape(move.inputs[0]) if up else move.shape)
        else:
            value = value.transpose(np.argsort(move.attrs["perm"]) if up else move.attrs["perm"])
    return value


def along(known: Sure | None, axis: int, length: int) -> Sure | None:
    """The entries along one axis, a vector, if the value is the same along all others."""
    if known is None:
        return None
    if known.v.ndim == 0:
        return known.map(lambda v: np.broadcast_to(v, (length,)))
    v, e = (np.moveaxis(t, axis, -1).reshape(-1, length) for t in known.map(np.asarray))
    return Sure(v[0], e.max(0)) if bool((v == v[0]).all()) else None


def scaled(a: Sure, s: Sure, over: bool) -> Sure:
    return a.over(s) if over else a.times(s)


def weights(n: Node, c: Around) -> tuple[Sure, Sure | None] | None:
    """W and b of a Linear or convolution, None where they are not constant."""
    w, b = c.sure(n.inputs[1]), c.sure(n.inputs[2]) if n.inputs[2] else None
    return None if w is None or (b is None and n.inputs[2]) else (w, b)


def over_out(n: Node, w: np.ndarray, s: np.ndarray) -> np.ndarray:
    """s (out,) in a shape that multiplies W; of a ConvTranspose, whose groups lie along `in`, s of W's shape."""
    if n.kind == "Linear":
        return s
    if n.kind == "Conv":
        return s.reshape(-1, *(1,) * (w.ndim - 1))
    groups = n.attrs["group"]
    per_input = np.repeat(s.reshape(groups, -1), w.shape[0] // groups, axis=0)
    return per_input.reshape(w.shape[0], w.shape[1], *(1,) * (w.ndim - 2))


def over_in(n: Node, w: np.ndarray, s: np.ndarray) -> np.ndarray:
    """s (in,) likewise; of a Conv, whose groups lie along `out`, s of W's first two axes."""
    if n.kind == "Linear":
        return s[:, None]
    if n.kind == "ConvTranspose":
        return s.reshape(-1, *(1,) * (w.ndim - 1))
    groups = n.attrs["group"]
    per_output = np.repeat(s.reshape(groups, -1), w.shape[0] // groups, axis=0)
    return per_output.reshape(w.shape[0], w.shape[1], *(1,) * (w.ndim - 2))


def fold_upwards(n: Node, c: Around) -> Nodes | None:
    """(x W + b) s + t: into the Linear or convolution above, through moves, if nobody reads what lies between."""
    m = entry_map(n, c)
    if m is None:
        return None
    moves, source = climb(m.x, c)
    p = c.alone(source, *MIXERS)
    found = None if p is None else weights(p, c)
    if found is None:
        return None
    (w, b), axis = found, (-1 if p.kind == "Linear" else 1)
    s, t = (None if v is None else carried(v, n.shape, moves, c, up=True) for v in (m.s, m.t))
    s, t = along(s, axis, p.shape[axis]), along(t, axis, p.shape[axis])
    if (s is None) != (m.s is None) or (t is None) != (m.t is None) or (s is not None and w.v.size > MAX_WEIGHT):
        return None
    w_name, b_name = p.inputs[1:]
    if s is not None:
        w_name = c.constant(scaled(w, s.map(lambda v: over_out(p, w.v, v)), m.over), p.inputs[1])
        b = None if b is None else scaled(b, s, m.over)
    if t is not None:
        b = t if b is None else b.plus(t)
    if b is not None:
        b_name = c.constant(b, n.name)
    if not moves:
        return [become(n, p.kind, (p.inputs[0], w_name, b_name), p.attrs)]
    new = c.make(p, p.kind, (p.inputs[0], w_name, b_name), p.shape, p.attrs)
    return renamed([new, *again(moves, new.name, c)], n)


def fold_downwards(n: Node, c: Around) -> Nodes | None:
    """(x s + t) W + b: into the Linear or convolution below, through moves, if nobody else reads what lies between."""
    moves, source = climb(n.inputs[0], c)
    e = c.alone(source, *MAPS)
    m, found = entry_map(e, c), weights(n, c)
    if m is None or found is None:
        return None
    (w, b), axis, shape = found, (-1 if n.kind == "Linear" else 1), c.shape(n.inputs[0])
    shifts = m.t is not None and not zero(m.t)
    if w.v.size > MAX_WEIGHT or (shifts and borders_read_zeros(n)):
        return None
    s, t = (None if v is None else carried(v, e.shape, moves, c, up=False) for v in (m.s, m.t))
    s, t = along(s, axis, shape[axis]), along(t, axis, shape[axis])
    if (s is None) != (m.s is None) or (t is None) != (m.t is None):
        return None
    w_name, b_name = n.inputs[1:]
    if s is not None:
        w_name = c.constant(scaled(w, s.map(lambda v: over_in(n, w.v, v)), m.over), w_name)
    if shifts:
        more = through(n, w, t)
        b_name = c.constant(more if b is None else b.plus(more), n.name)
    made = again(moves, m.x, c)
    return [*made, become(n, n.kind, (made[-1].name if made else m.x, w_name, b_name), n.attrs)]


def borders_read_zeros(n: Node) -> bool:
    """Whether some entries of the result sum fewer products than others."""
    return n.kind == "ConvTranspose" or (n.kind == "Conv" and any(n.attrs["pads"]))


def through(n: Node, w: Sure, t: Sure) -> Sure:
    """t W of a Linear or an unpadded Conv, (out,)."""
    if n.kind == "Linear":
        return t.map(lambda v: v[None]).matmul(w, np.matmul).map(lambda v: v[0])
    rows = lambda v: np.broadcast_to(v, w.v.shape).reshape(w.v.shape[0], 1, -1)
    spread = t.map(lambda v: rows(over_in(n, w.v, v)).swapaxes(1, 2))
    return w.map(rows).matmul(spread, np.matmul).map(lambda v: v.reshape(-1))


def zero(known: Sure) -> bool:
    return known.known and not np.any(known.v)


def merge_entry_maps(n: Node, c: Around) -> Nodes | None:
    """x + a + b = x + (a + b), x a b = x (a b), x / a / b = x / (a b), x a / b = x / b a = x (a / b)."""
    m = entry_map(n, c)
    e = None if m is None else c.alone(m.x, "Add", "Sub", "Mul", "Div")
    first = entry_map(e, c)
    if first is None:
        return None
    if first.s is None and m.s is None:
        return [become(n, "Add", (first.x, c.constant(first.t.plus(m.t), n.name)))]
    if first.t is not None or m.t is not None or first.s is None or m.s is None:
        return None
    if first.over == m.over:
        kind, value = "Div" if m.over else "Mul", first.s.times(m.s)
    else:
        kind, (below, above) = "Mul", (m.s, first.s) if m.over else (first.s, m.s)
        value = above.over(below)
    if not np.isfinite(value.v).all() or not np.all(value.v) or (kind == "Div" and not value.harmless):
        return None  # over- or underflow
    return [become(n, kind, (first.x, c.constant(value, n.name)))]


def plain_entry_map(n: Node, c: Around) -> Nodes | None:
    """x - c = x + (-c); x + 0, x 1 and x / 1 are x; x (-1) = -x."""
    m = entry_map(n, c)
    if m is None:
        return None
    if m.s is None:
        if zero(m.t):
            return [become(n, "Identity", (m.x,))]
        return [become(n, "Add", (m.x, c.constant(m.t, n.name)))] if n.kind == "Sub" else None
    if m.t is None and n.kind != "Neg" and m.s.known:
        if bool(np.all(m.s.v == 1)):
            return [become(n, "Identity", (m.x,))]
        if bool(np.all(m.s.v == -1)):
            return [become(n, "Neg", (m.x,))]
    return None


def merge_linears(n: Node, c: Around) -> Nodes | None:
    """(x V + a) W + b = x (V W) + (a W + b), where V W is no larger than what it replaces: V and W, or W alone if
    somebody else needs x V + a."""
    p = c.producer(n.inputs[0], "Linear")
    if p is None:
        return None
    (v, a), (w, b) = weights(p, c), weights(n, c)
    replaced = w.v.size + (v.v.size if c.alone(p.name) is not None else 0)
    if v.v.shape[0] * w.v.shape[1] > replaced or w.v.size > MAX_WEIGHT or not quick(v.v, w.v):
        return None
    rows = v if a is None else stacked(v, a.map(lambda t: t[None]))
    found = rows.matmul(w, product)
    name, b_name = c.constant(found.map(lambda t: t[: len(v.v)]), n.inputs[1]), n.inputs[2]
    if a is not None:
        more = found.map(lambda t: t[-1])
        b_name = c.constant(more if b is None else b.plus(more), n.name)
    return [become(n, "Linear", (p.inputs[0], name, b_name))]


def quick(v: np.ndarray, w: np.ndarray) -> bool:
    """Whether V W does not take too long."""
    return v.shape[0] * w.size <= MAX_WORK or v.shape[0] * int(np.count_nonzero(w)) <= MAX_WORK // 8


def product(v: np.ndarray, w: np.ndarray) -> np.ndarray:
    """V W, term by term where W is mostly zeros."""
    if v.shape[0] * w.size <= MAX_WORK // 8:
        return v @ double(w)
    column, row = by_column(w)
    if v.shape[0] * len(row) > MAX_WORK // 8:
        return v @ double(w)
    result = np.zeros((v.shape[0], w.shape[1]))
    if len(row):
        starts = np.flatnonzero(np.diff(column, prepend=-1))
        result[:, column[starts]] = np.add.reduceat(v.T[row] * double(w[row, column])[:, None], starts, axis=0).T
    return result


def by_column(w: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Columns and rows of the entries that are not zero, column after column, in the order that memory allows."""
    if w.flags.f_contiguous:
        return np.nonzero(w.T != 0)
    row, column = np.divmod(np.flatnonzero(w != 0), w.shape[1])
    order = np.argsort(column, kind="stable")
    return column[order], row[order]


def add_linears(n: Node, c: Around) -> Nodes | None:
    """(x V + a) + (x W + b) = x (V + W) + (a + b), also where another summand stands in between."""
    for first, other in (n.inputs, n.inputs[::-1]):
        p, q = c.alone(first, "Linear"), c.alone(other, "Linear", "Add")
        if p is None or q is None or p.shape != n.shape or q.shape != n.shape:
            continue
        if q.kind == "Linear":
            ends = summed(p, q, n, c)
            return None if ends is None else [become(n, "Linear", ends)]
        for inner, rest in (q.inputs, q.inputs[::-1]):
            r = c.alone(inner, "Linear")
            ends = None if r is None or r.shape != n.shape else summed(p, r, n, c)
            if ends is not None:
                made = c.make(n, "Linear", ends, n.shape)
                return [made, become(n, "Add", (rest, made.name))]
    return None


def summed(p: Node, q: Node, n: Node, c: Around) -> tuple[str, str, str] | None:
    """The inputs of the sum of two Linears of the same tensor."""
    if p.inputs[0] != q.inputs[0]:
        return None
    (v, a), (w, b) = weights(p, c), weights(q, c)
    biases = [t for t in (a, b) if t is not None]
    b_name = c.constant(biases[0] if len(biases) == 1 else a.plus(b), n.name) if biases else ""
    return p.inputs[0], c.constant(v.plus(w), p.inputs[1]), b_name


FIRST: dict[str, tuple[Local, ...]] = {  # before anything is looked for in the weights
    **dict.fromkeys(("Add", "Sub", "Mul", "Div"), (plain_entry_map, fold_upwards, merge_entry_maps)),
    **dict.fromkeys(("Neg", "BatchNormalization"), (fold_upwards,)),
    **dict.fromkeys(("Linear", "Conv", "ConvTranspose"), (fold_downwards,)),
}
LAST: dict[str, tuple[Local, ...]] = {"Linear": (merge_linears,), "Add": (add_linears,)}
