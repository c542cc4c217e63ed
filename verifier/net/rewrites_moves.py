"""Moves around entry-by-entry functions, and products with columns.

f(move(x)) = move(f(x)) for a function f of one number that is the same for all entries: so between two moves of a kind
such functions change places with the first, and the two moves become one or vanish. C x with a column x (k, 1) is
(x' C')' with a row x': a Linear between Reshapes, which mostly vanish.
"""

from __future__ import annotations

from verifier.net.graph import Node
from verifier.net.local import Around, Local, Nodes, become
from verifier.net.rewrites_affine import with_constant

UNARY = {
    "Relu", "Sigmoid", "Tanh", "Sin", "Cos", "Exp", "Log", "Sqrt", "Reciprocal", "Abs", "Neg", "Sign", "Floor", "Ceil",
    "Round", "Erf", "Softplus", "Softsign", "HardSwish", "Mish", "LeakyRelu", "Elu", "Celu", "Selu", "Gelu", "Swish",
    "Clip", "Table", "ThresholdedRelu", "Shrink", "Atan",
}  # fmt: skip


def uniform_function(name: str, c: Around) -> tuple[Node, str] | None:
    """The node that yields a tensor nobody else reads and what it reads, if it does the same to all entries."""
    n = c.alone(name)
    if n is None or n.dtype.kind != "f":
        return None
    if n.kind in UNARY:
        return n, n.inputs[0]
    if n.kind == "Pow":
        return (n, n.inputs[0]) if c.uniform(n.inputs[1]) is not None and c.shape(n.inputs[0]) == n.shape else None
    if n.kind not in ("Add", "Sub", "Mul", "Div"):
        return None
    m = with_constant(n, c)
    k = None if m is None else next(i for i in n.inputs if i != m.x)
    return (n, m.x) if m is not None and c.sure(k).v.size == 1 and c.shape(m.x) == n.shape else None


def exchange(n: Node, c: Around) -> Nodes | None:
    """move(f(move(x))) = move(move(f(x))), for one function or several."""
    functions: list[tuple[Node, str]] = []
    name = n.inputs[0]
    while (found := uniform_function(name, c)) is not None:
        functions.append(found)
        name = found[1]
    first = c.alone(name, n.kind) if functions else None
    if first is None or c.shape(first.inputs[0]) == () or not c.floats(first.inputs[0]):
        return None
    made: list[Node] = []
    x = first.inputs[0]
    for f, old in reversed(functions):
        inputs = tuple(scalar(i, c) if i != old else x for i in f.inputs)
        made.append(c.make(f, f.kind, inputs, c.shape(x), f.attrs))
        x = made[-1].name
    move = c.make(first, first.kind, (x,), first.shape, first.attrs)
    return [*made, move, become(n, n.kind, (move.name,), n.attrs)]


def scalar(name: str, c: Around) -> str:
    """A constant of one number without axes: it fits any shape."""
    return name if c.shape(name) == () else c.constant(c.sure(name).map(lambda v: v.reshape(-1)[:1].reshape(())), name)


def column(n: Node, c: Around) -> Nodes | None:
    """C x with one column: C (m, k), x (…, k, 1)."""
    matrix, x = c.value(n.inputs[0]), n.inputs[1]
    if matrix is None or matrix.ndim != 2 or len(c.shape(x)) < 2 or c.shape(x)[-1] != 1 or n.dtype.kind != "f":
        return None
    turned = lambda shape: (*shape[:-2], 1, shape[-2])
    row = c.make(n, "Reshape", (x,), turned(c.shape(x)))
    y = c.make(n, "Linear", (row.name, c.constant(matrix.T, n.inputs[0]), ""), turned(n.shape))
    return [row, y, become(n, "Reshape", (y.name,))]


RULES: dict[str, tuple[Local, ...]] = {"Reshape": (exchange,), "Transpose": (exchange,), "MatMul": (column,)}
