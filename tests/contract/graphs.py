"""Random graphs of registered operators: from one flat input through 3 to 10 nodes, with fan-out, to one flat output.

Values in between have shape (1, C, L). A step is a function of a random generator and the values so far that returns a
node and its constants; functions of one number come from the registry, with the attributes of their examples.
"""

from __future__ import annotations

import ml_dtypes
import numpy as np

from verifier.net.graph import Network, Node, Tensor

F = np.dtype(np.float32)
TRUTHS = ("Greater", "GreaterOrEqual", "Less", "LessOrEqual", "Not", "Or")
PLACES = ("ArgMax", "ArgMin")
ENTRYWISE = ["Mul", "Max", "Min"]  # joint functions of two values
ALONG, REDUCED = ["Softmax", "LogSoftmax"], ["ReduceLogSumExp", "ReduceMax", "ReduceMin"]  # joint functions along axes
REACHED = [*ENTRYWISE, "MatMul", "Einsum", *ALONG, *REDUCED, "MaxPool"]
Value = tuple[str, tuple[int, int, int]]  # a name and its shape


class Builder:
    """Collects nodes and constants; `pick` chooses an earlier value."""

    def __init__(self, seed: int, m: int):
        self.rng = np.random.default_rng(seed)
        self.nodes: list[Node] = []
        self.constants: dict[str, np.ndarray] = {}
        self.values: list[Value] = []
        self.m = m
        channels = int(self.rng.choice([c for c in (1, 2, 3) if m % c == 0]))
        self.emit("Reshape", ("x",), (1, channels, m // channels))

    def weight(self, *shape: int, wide: bool = False) -> str:
        """A constant; `wide` ones hold numbers that float32 cannot."""
        name = f"c{len(self.constants)}"
        value = self.rng.normal(size=shape) / np.sqrt(max(shape[-1] if shape else 1, 1))
        self.constants[name] = value if wide else value.astype(F)
        return name

    def emit(self, kind: str, inputs: tuple[str, ...], shape: tuple[int, ...], **attrs) -> None:
        name = f"v{len(self.nodes)}"
        self.nodes.append(Node(name, kind, inputs, shape, self.dtype(kind, inputs, attrs), attrs))
        self.values.append((name, shape))

    def dtype(self, kind: str, inputs: tuple[str, ...], attrs: dict) -> np.dtype:
        """The element type of a node's result."""
        if kind == "Cast":
            return np.dtype(ml_dtypes.bfloat16 if attrs["to"] == "bfloat16" else attrs["to"])
        if kind == "Reshape":
            return next((n.dtype for n in self.nodes if n.name == inputs[0]), F)
        return np.dtype(bool if kind in TRUTHS else np.int64 if kind in PLACES else F)

    def pick(self) -> Value:
        """Mostly one of the last few values."""
        return self.values[-1 - min(int(self.rng.geometric(0.6)) - 1, len(self.values) - 1)]

    def network(self) -> Network:
        """The last two values, joined and flat."""
        ends = [v for v in self.values[-2:] if v[1]]
        for name, shape in ends:
            self.emit("Reshape", (name,), (int(np.prod(shape)),))
        flat = self.values[-len(ends) :]
        width = sum(s[0] for _, s in flat)
        self.emit("Concat", tuple(n for n, _ in flat), (width,), axis=0)
        out = Tensor(self.values[-1][0], (width,), F)
        return Network((Tensor("x", (self.m,), F),), tuple(self.nodes), self.constants, (out,), 17)


def linear(b: Builder) -> None:
    (x, (_, c, n)), out = b.pick(), int(b.rng.integers(1, 6))
    b.emit("Linear", (x, b.weight(n, out), b.weight(out) if b.rng.random() < 0.7 else ""), (1, c, out))


def product(b: Builder) -> None:
    (x, (_, c, n)), out = b.pick(), int(b.rng.integers(1, 5))
    b.emit("MatMul", (b.weight(out, c), x), (1, out, n))


def convolution(b: Builder) -> None:
    (x, (_, c, n)), out = b.pick(), int(b.rng.integers(1, 4))
    k, t, p = (
        min(int(b.rng.integers(1, 4)), n),
        int(b.rng.integers(1, 3)),
        tuple(int(i) for i in b.rng.integers(0, 2, 2)),
    )
    attrs = {"strides": (t,), "dilations": (1,), "pads": p, "group": 1}
    b.emit("Conv", (x, b.weight(out, c, k), b.weight(out)), (1, out, (n + sum(p) - k) // t + 1), **attrs)


def transposed_convolution(b: Builder) -> None:
    (x, (_, c, n)), out = b.pick(), int(b.rng.integers(1, 4))
    t = int(b.rng.integers(1, 3))
    attrs = {"strides": (t,), "dilations": (1,), "pads": (1, 0), "group": 1, "output_padding": (0,)}
    b.emit("ConvTranspose", (x, b.weight(c, out, 3), ""), (1, out, t * (n - 1) + 2), **attrs)


def pool(b: Builder) -> None:
    x, (_, c, n) = b.pick()
    attrs = {"kernel_shape": (2,), "strides": (1,), "dilations": (1,), "pads": (1, 0), "ceil_mode": 0}
    b.emit("AveragePool", (x,), (1, c, n), count_include_pad=int(b.rng.integers(2)), **attrs)


def largest(b: Builder) -> None:
    x, (_, c, n) = b.pick()
    k, t = min(int(b.rng.integers(1, 5)), n), int(b.rng.integers(1, 3))
    attrs = {"kernel_shape": (k,), "strides": (t,), "dilations": (1,), "pads": (k - 1, 0), "ceil_mode": 0}
    b.emit("MaxPool", (x,), (1, c, (n - 1) // t + 1), **attrs)


def normalisation(b: Builder) -> None:
    x, shape = b.pick()
    b.emit("BatchNormalization", (x, b.weight(shape[1], wide=True), b.weight(shape[1], wide=True)), shape)


def sum_or_difference(b: Builder) -> None:
    """Of two values where they broadcast, else of a value and a constant on either side."""
    kind, (x, s), (y, t) = str(b.rng.choice(["Add", "Sub"])), b.pick(), b.pick()
    if all(p == q or 1 in (p, q) for p, q in zip(s, t)):
        b.emit(kind, (x, y), np.broadcast_shapes(s, t))
    else:
        pair = (x, b.weight(s[2])) if b.rng.random() < 0.5 else (b.weight(s[1], 1), x)
        b.emit(kind, pair, s)


def multiple(b: Builder) -> None:
    x, s = b.pick()
    if b.rng.random() < 0.5:
        b.emit("Mul", (b.weight(s[1], 1), x), s)
    else:
        name = b.weight(s[2])
        b.constants[name] = np.where(np.abs(b.constants[name]) < 0.3, F.type(0.3), b.constants[name])
        b.emit("Div", (x, name), s)


def combination(b: Builder) -> None:
    """A joint function of two values that broadcast; of a value and itself, read backwards, where they do not."""
    kind, (x, s), (y, t) = str(b.rng.choice(ENTRYWISE)), b.pick(), b.pick()
    if not all(p == q or 1 in (p, q) for p, q in zip(s, t)):
        b.emit("Slice", (x,), s, axes=(2,), starts=(s[2] - 1,), ends=(-1,), steps=(-1,))
        y, t = b.values[-1]
    b.emit(kind, (x, y), np.broadcast_shapes(s, t))


def inner(b: Builder, kind: str, inputs: tuple[str, ...], shape: tuple[int, ...], **attrs) -> str:
    """A value that no other step picks: truth values, indices, parts."""
    b.emit(kind, inputs, shape, **attrs)
    return b.values.pop()[0]


def decision(b: Builder) -> None:
    """One of two values, as a comparison says."""
    (x, s), way = b.pick(), str(b.rng.choice(["Greater", "GreaterOrEqual", "Less", "LessOrEqual"]))
    c = inner(b, way, (x, b.weight(s[1], 1)) if b.rng.random() < 0.5 else (b.weight(s[2]), x), s)
    if b.rng.random() < 0.3:
        c = inner(b, "Not", (inner(b, "Or", (c, inner(b, "Less", (x, b.weight())[::-1], s)), s),), s)
    if b.rng.random() < 0.3:
        b.emit("Cast", (c,), s, to="float32")
    else:
        b.emit("Where", (c, x, b.weight(s[2])) if b.rng.random() < 0.5 else (c, b.weight(s[1], 1), x), s)


def rounding(b: Builder) -> None:
    (x, s), to = b.pick(), str(b.rng.choice(["int64", "float16", "bfloat16"]))
    b.emit("Cast", (inner(b, "Cast", (x,), s, to=to),), s, to="float32")


def lookup(b: Builder) -> None:
    (x, s), (y, _) = b.pick(), b.pick()
    i = inner(
        b,
        "Cast",
        (inner(b, "Slice", (y,), (1, 1, 1), axes=(1, 2), starts=(0, 0), ends=(1, 1), steps=(1, 1)),),
        (1, 1, 1),
        to="int64",
    )
    if b.rng.random() < 0.5:
        i = inner(b, "Cast", (x,), s, to="int64")
        b.emit("GatherElementsDynamic", (x, i), s, axis=2)
    else:
        b.emit("GatherDynamic", (x, inner(b, "Reshape", (i,), (1,))), (1, s[1], 1), axis=2)


def pasting(b: Builder) -> None:
    x, (_, c, n) = b.pick()
    part = inner(b, "Slice", (x,), (1, c, 1), axes=(2,), starts=(0,), ends=(1,), steps=(1,))
    i = inner(b, "Cast", (part,), (1, c, 1), to="int64")
    b.emit(
        "ScatterElementsDynamic", (x, i, part), (1, c, n), axis=2, reduction=str(b.rng.choice(["none", "add", "max"]))
    )


def ranking(b: Builder) -> None:
    x, (_, c, n) = b.pick()
    b.emit("TopK", (x,), (1, c, (n + 1) // 2), axis=2, k=(n + 1) // 2, largest=int(b.rng.integers(2)), sorted=1)


def place(b: Builder) -> None:
    x, (_, c, n) = b.pick()
    if b.rng.random() < 0.4:
        b.emit("Hardmax", (x,), (1, c, n), axes=(2,))
        return
    attrs = {"axis": 2, "keepdims": 1, "select_last_index": int(b.rng.integers(2))}
    b.emit(
        "Cast", (inner(b, str(b.rng.choice(["ArgMax", "ArgMin"])), (x,), (1, c, 1), **attrs),), (1, c, 1), to="float32"
    )


def group(b: Builder) -> None:
    """A joint function along one axis or two."""
    (x, s), kind = b.pick(), str(b.rng.choice(ALONG + REDUCED))
    axes = ((1,), (2,), (1, 2))[int(b.rng.integers(3))]
    shape = tuple(1 if k in axes else n for k, n in enumerate(s)) if kind in REDUCED else s
    b.emit(kind, (x,), shape, axes=axes, **({"keepdims": 1} if kind in REDUCED else {}))


def contraction(b: Builder) -> None:
    """A matrix product of two values: of a value and another, or itself, transposed."""
    (x, s), (y, t) = b.pick(), b.pick()
    if s[2] != t[2]:
        y, t = x, s
    b.emit("Transpose", (y,), (1, t[2], t[1]), perm=(0, 2, 1))
    if b.rng.random() < 0.5:
        b.emit("MatMul", (x, b.values[-1][0]), (1, s[1], t[1]))
    else:
        b.emit("Einsum", (x, y), (1, t[1], s[1]), equation="nij,nkj->nki")


def reduction(b: Builder) -> None:
    x, (_, c, n) = b.pick()
    b.emit(str(b.rng.choice(["ReduceSum", "ReduceMean"])), (x,), (1, c, 1), axes=(2,), keepdims=1)


def transposition(b: Builder) -> None:
    x, (_, c, n) = b.pick()
    b.emit("Transpose", (x,), (1, n, c), perm=(0, 2, 1))


def backwards(b: Builder) -> None:
    x, (_, c, n) = b.pick()
    b.emit("Slice", (x,), (1, c, (n + 1) // 2), axes=(2,), starts=(n - 1,), ends=(-1,), steps=(-2,))


def join(b: Builder) -> None:
    (x, s), (y, t) = b.pick(), b.pick()
    if s[2] != t[2]:
        y, t = b.weight(1, 2, s[2]), (1, 2, s[2])
    b.emit("Concat", (x, y), (1, s[1] + t[1], s[2]), axis=1)


def repetition(b: Builder) -> None:
    x, (_, c, n) = b.pick()
    index = b.rng.integers(0, n, 4)
    b.emit("Gather", (x,), (1, c, 4), axis=2, indices=index)


def border(b: Builder) -> None:
    x, (_, c, n) = b.pick()
    mode = str(b.rng.choice(["constant", "edge"]))
    b.emit("Pad", (x,), (1, c, n + 3), pads=(0, 0, 1, 0, 0, 2), mode=mode, value=float(b.rng.normal()))


def stretch(b: Builder) -> None:
    x, (_, c, n) = b.pick()
    name = b.weight(5, n, wide=True)
    b.emit("Resize", (x,), (1, c, 5), mode="linear", axes=(2,), weights=(b.constants.pop(name),))


def running(b: Builder) -> None:
    x, s = b.pick()
    b.emit("CumSum", (x,), s, axis=2, exclusive=int(b.rng.integers(2)), reverse=int(b.rng.integers(2)))


def choice(b: Builder) -> None:
    x, s = b.pick()
    mask = f"c{len(b.constants)}"
    b.constants[mask] = b.rng.random(s) < 0.6
    b.emit("Where", (mask, x, b.weight(s[2], wide=bool(b.rng.integers(2)))), s)


STEPS = (
    linear,
    product,
    convolution,
    transposed_convolution,
    pool,
    normalisation,
    sum_or_difference,
    multiple,
    reduction,
)
JOINTS = (combination, contraction, group, largest, decision, rounding, lookup, pasting, ranking, place)
STEPS += (transposition, backwards, join, repetition, border, stretch, running, choice)


def build(seed: int, functions: list[tuple[str, dict]]) -> Network:
    """A graph in which about every third node is one of `functions` (kind, attributes), every seventh a joint one."""
    b = Builder(seed, int(np.random.default_rng(seed).integers(1, 7)))
    for _ in range(int(b.rng.integers(3, 11))):
        if b.rng.random() < 0.4:
            (x, shape), (kind, attrs) = b.pick(), functions[int(b.rng.integers(len(functions)))]
            b.emit(kind, (x,), shape, **attrs)
        else:
            steps = JOINTS if b.rng.random() < 0.25 else STEPS
            steps[int(b.rng.integers(len(steps)))](b)
    return b.network()
