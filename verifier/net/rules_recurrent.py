"""LSTM, GRU and RNN unrolled: a Linear for all steps' inputs at once, then step by step the operators of one cell.

With X_t the input at time t, H and C what the step before left, W and R constant, sigma, g, h the activations:

    RNN   H' = sigma(X_t W + H R + b)
    GRU   z, r = sigma(X_t W + H R + b) gate by gate, n = g(X_t W + (r H) R + b), or X_t W + b + r (H R + c) where
          linear_before_reset; H' = (1 - z) n + z H, written n + z (H - n): one product of variables instead of two
    LSTM  i, f = sigma(X_t W + H R + P C + b), n = g(X_t W + H R + b), C' = f C + i n,
          o = sigma(X_t W + H R + P C' + b), H' = o h(C'); f = 1 - i where input_forget

`clip` limits the arguments of the activations, but for that of h, as ONNX Runtime has it. A direction "reverse" runs
from the last step of each sequence to the first. Steps beyond a sequence's length leave H and C as they are and yield
0. An initial state that is absent is zero, and what is multiplied by it is left out.

Symbols: T steps, B sequences, D directions, G gates, H hidden units; a gate is (B, H). W (D, G H, in), R (D, G H, H), b
(D, 2 G H): first those of W, then those of R; gates in the order i o f n, z r n.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np

from verifier.net.draft import RULES, Draft, Dynamic, Raw

MAX_STEPS = 512  # steps times directions that are unrolled

Value = str | np.ndarray | None  # a tensor's name, a constant, or zero
DEFAULTS = {"RNN": ("Tanh",), "GRU": ("Sigmoid", "Tanh"), "LSTM": ("Sigmoid", "Tanh", "Tanh")}
ALPHA = {"affine": 1.0, "leakyrelu": 0.01, "thresholdedrelu": 1.0, "scaledtanh": 1.0, "hardsigmoid": 0.2, "elu": 1.0}
BETA = {"affine": 0.0, "scaledtanh": 1.0, "hardsigmoid": 0.5}
PLAIN = {"relu": "Relu", "tanh": "Tanh", "sigmoid": "Sigmoid", "softsign": "Softsign", "softplus": "Softplus"}
SHAPED = {"leakyrelu": "LeakyRelu", "thresholdedrelu": "ThresholdedRelu", "elu": "Elu"}


class Builder:
    """Arithmetic on values of shape (B, H), or (B, columns); zeros and constants are computed at once, in float64."""

    def __init__(self, g: Draft, dtype: np.dtype, base: str):
        self.g, self.dtype, self.base = g, dtype, base

    def named(self, value: str | np.ndarray) -> str:
        return value if isinstance(value, str) else self.g.constant(value, self.base)

    def emit(self, kind: str, *values: str | np.ndarray, shape: tuple[int, ...] | None = None, **attrs) -> str:
        """A node over values that broadcast; its shape is theirs unless another is given."""
        names = tuple(self.named(v) for v in values)
        shape = np.broadcast_shapes(*(self.g.shapes[n] for n in names)) if shape is None else shape
        return self.g.emit_dtype(kind, names, shape, self.dtype, **attrs)

    def add(self, a: Value, b: Value) -> Value:
        if a is None or b is None:
            return b if a is None else a
        if isinstance(a, np.ndarray) and isinstance(b, np.ndarray):
            return a.astype(np.float64) + b.astype(np.float64)
        return self.emit("Add", b, a) if isinstance(a, np.ndarray) else self.emit("Add", a, b)

    def mul(self, a: Value, b: Value) -> Value:
        if a is None or b is None:
            return None
        if isinstance(a, np.ndarray) and isinstance(b, np.ndarray):
            return a.astype(np.float64) * b.astype(np.float64)
        return self.emit("Mul", b, a) if isinstance(a, np.ndarray) else self.emit("Mul", a, b)

    def complement(self, a: str) -> str:
        """1 - a."""
        return self.emit("Sub", np.ones((), self.dtype), a)

    def linear(self, h: Value, w: np.ndarray) -> Value:
        """h W."""
        if h is None:
            return None
        if isinstance(h, np.ndarray):
            return h.astype(np.float64) @ w.astype(np.float64)
        return self.g.emit("Linear", (h, self.g.constant(w, self.base), ""), shape=(self.g.shapes[h][0], w.shape[1]))

    def gate(self, x: Value, k: int, width: int) -> Value:
        """Gate k of what holds all gates side by side."""
        if x is None or isinstance(x, np.ndarray):
            return None if x is None else x[..., k * width : (k + 1) * width]
        if self.g.shapes[x][1] == width:
            return x
        cut = {"axes": (1,), "starts": (k * width,), "ends": ((k + 1) * width,), "steps": (1,)}
        return self.emit("Slice", x, shape=(self.g.shapes[x][0], width), **cut)

    def first(self, x: str, width: int) -> str:
        """The first columns."""
        cut = {"axes": (1,), "starts": (0,), "ends": (width,), "steps": (1,)}
        return self.emit("Slice", x, shape=(self.g.shapes[x][0], width), **cut)

    def choose(self, mask: np.ndarray, a: Value, b: Value) -> Value:
        """a for the sequences in `mask` (B,), b for the others; the one that is taken somewhere is no constant."""
        if mask.all() or not mask.any():
            return a if mask.all() else b
        shape = self.g.shapes[a if isinstance(a, str) else b]
        a, b = (np.zeros(shape, self.dtype) if v is None else v for v in (a, b))
        return self.emit("Where", mask[:, None], a, b, shape=shape)

    def joined(self, parts: list[Value], shape: tuple[int, ...], axis: int, name: str = "") -> str:
        """Tensors of one shape side by side, as `name`; zero stands for a piece of zeros."""
        names = [self.named(np.zeros(shape, self.dtype) if p is None else p) for p in parts]
        out = tuple(d * len(names) if k == axis else d for k, d in enumerate(shape))
        if len(names) == 1:
            return self.g.emit("Identity", (names[0],), name, out)
        return (
            self.g.emit("Concat", tuple(names), name, axis=axis)
            if name
            else self.emit("Concat", *names, shape=out, axis=axis)
        )

    def reshaped(self, x: Value, shape: tuple[int, ...]) -> Value:
        if x is None or isinstance(x, np.ndarray):
            return None if x is None else x.reshape(shape)
        return self.emit("Reshape", x, shape=shape)


def activations(n: Raw, directions: int) -> list[Callable[[Builder, str], str]]:
    """The activations of all directions in a row. Parameters are listed for those that take some, in order."""
    names = n.attrs.get("activations") or DEFAULTS[n.op] * directions
    alphas, betas = iter(n.attrs.get("activation_alpha") or ()), iter(n.attrs.get("activation_beta") or ())
    count = len(DEFAULTS[n.op]) * directions
    limits = [0.0 if k % 3 == 2 and n.op == "LSTM" else n.attrs.get("clip", 0.0) for k in range(count)]
    return [activation(name.lower(), alphas, betas, limit) for name, limit in zip(names, limits)]


def activation(
    name: str, alphas: Iterator[float], betas: Iterator[float], limit: float
) -> Callable[[Builder, str], str]:
    if name not in PLAIN and name not in ALPHA:
        raise Dynamic(f"activation {name}")
    alpha = float(next(alphas, ALPHA[name])) if name in ALPHA else 0.0
    beta = float(next(betas, BETA[name])) if name in BETA else 0.0

    def apply(b: Builder, x: str) -> str:
        if limit:
            x = b.emit("Clip", x, min=-limit, max=limit)
        if name in PLAIN:
            return b.emit(PLAIN[name], x)
        if name in SHAPED:
            return b.emit(SHAPED[name], x, alpha=alpha)
        if name == "hardsigmoid":
            return b.emit("HardSigmoid", x, alpha=alpha, beta=beta)
        if name == "affine":
            return b.emit("Add", b.emit("Mul", x, np.float64(alpha)), np.float64(beta))
        return b.emit("Mul", b.emit("Tanh", b.emit("Mul", x, np.float64(beta))), np.float64(alpha))

    return apply


@dataclass
class Cell:
    """One direction's constants and activations, and one step of each kind of cell: (x, h, c) to (h', c')."""

    b: Builder
    op: str
    r: np.ndarray  # (H, G H)
    bias: np.ndarray | None  # what is added to H R (G H,), float64, where that must stay apart
    peep: np.ndarray | None  # (3 H,)
    acts: list
    before_reset: bool
    coupled: bool

    @property
    def width(self) -> int:
        return len(self.r)

    def step(self, x: str, h: Value, c: Value) -> tuple[Value, Value]:
        if self.op == "RNN":
            return self.acts[0](self.b, self.b.add(x, self.b.linear(h, self.r))), None
        return self.lstm(x, h, c) if self.op == "LSTM" else (self.gru(x, h), None)

    def lstm(self, x: str, h: Value, c: Value) -> tuple[Value, Value]:
        b, (f, g, last) = self.b, self.acts
        total = b.add(x, b.linear(h, self.r))
        part = [b.gate(total, k, self.width) for k in range(4)]
        peep = [None if self.peep is None else b.gate(self.peep, k, self.width) for k in range(3)]
        i = f(b, b.add(part[0], b.mul(c, peep[0])))
        new = b.mul(i, g(b, part[3]))
        if c is not None:
            forget = b.complement(i) if self.coupled else f(b, b.add(part[2], b.mul(c, peep[2])))
            new = b.add(new, b.mul(forget, c))
        o = f(b, b.add(part[1], b.mul(new, peep[1])))
        return b.mul(o, last(b, new)), new

    def gru(self, x: str, h: Value) -> Value:
        b, (f, g), w = self.b, self.acts, self.width
        both = b.add(b.first(x, 2 * w), b.linear(h, self.r[:, : 2 * w]))
        z, r = f(b, b.gate(both, 0, w)), f(b, b.gate(both, 1, w))
        own, back = b.gate(x, 2, w), self.r[:, 2 * w :]
        if self.before_reset:
            n = g(b, b.add(own, b.mul(r, b.add(b.linear(h, back), self.bias))))
        else:
            n = g(b, b.add(own, b.linear(b.mul(r, h), back)))
        if h is None:
            return b.mul(b.complement(z), n)
        return b.add(n, b.mul(z, b.emit("Sub", h, n)))


@RULES.add("LSTM", "GRU", "RNN")
def recurrent(n: Raw, g: Draft) -> None:
    x, direction = n.inputs[0], n.attrs.get("direction", "forward")
    w, r = g.value(n.inputs[1]), g.value(n.inputs[2])
    count, width = len(w), r.shape[2]
    steps, batch, _ = g.shapes[x]
    if steps * count > MAX_STEPS or g.is_constant(x) or n.attrs.get("layout", 0):
        raise Dynamic("too many steps, or sequences first, which ONNX Runtime does not run")
    lengths = np.array(g.ints(n.inputs[4])) if n.input(4) else np.full(batch, steps)
    if (lengths < 1).any() or (lengths > steps).any():
        raise Dynamic("lengths of sequences")
    b, acts = Builder(g, g.dtypes[x], x), activations(n, count)
    each = len(acts) // count
    outputs: list[list[Value]] = []
    last: list[tuple[Value, Value]] = []
    for d in range(count):
        bias = g.value(n.inputs[3])[d].astype(np.float64) if n.input(3) else np.zeros(2 * w.shape[1])
        cell, to_x = make_cell(n, g, b, d, bias, acts[d * each : (d + 1) * each])
        held = [start(n, g, b, slot, d) for slot in (5, 6)]
        backwards = direction == "reverse" or d == 1
        hs, state = run(b, cell, inputs_by_step(g, b, x, w[d].T, to_x), held, lengths, backwards)
        outputs.append(hs)
        last.append(state)
    finish(n, b, outputs, last, (steps, batch, width))


def make_cell(n: Raw, g: Draft, b: Builder, d: int, bias: np.ndarray, acts: list) -> tuple[Cell, np.ndarray]:
    """A direction's cell, and the bias that joins its inputs' Linear."""
    r = g.value(n.inputs[2])[d].T
    of_w, of_r = np.split(bias, 2)
    width, apart = len(r), bool(n.attrs.get("linear_before_reset", 0)) and n.op == "GRU"
    own = of_r[2 * width :] if apart else None
    if apart:
        of_r = np.concatenate([of_r[: 2 * width], np.zeros(width)])
    peep = g.value(n.inputs[7])[d] if n.input(7) else None
    return Cell(b, n.op, r, own, peep, acts, apart, bool(n.attrs.get("input_forget", 0))), of_w + of_r


def start(n: Raw, g: Draft, b: Builder, slot: int, d: int) -> Value:
    """The initial state of a direction, (B, H)."""
    name = n.input(slot) if n.op == "LSTM" or slot == 5 else ""
    if not name:
        return None
    if g.is_constant(name):
        value = g.value(name)[d]
        return value if value.any() else None
    count, *shape = g.shapes[name]
    if count > 1:
        name = b.emit("Slice", name, shape=(1, *shape), axes=(0,), starts=(d,), ends=(d + 1,), steps=(1,))
    return b.reshaped(name, tuple(shape))


def inputs_by_step(g: Draft, b: Builder, x: str, w: np.ndarray, bias: np.ndarray) -> list[str]:
    """X_t W + b for every t, each (B, G H), from one Linear."""
    steps, batch, _ = g.shapes[x]
    ends = (x, g.constant(w, b.base), g.constant(bias, b.base))
    whole = g.emit("Linear", ends, shape=(steps, batch, w.shape[1]))
    found = []
    for t in range(steps):
        cut = {"axes": (0,), "starts": (t,), "ends": (t + 1,), "steps": (1,)}
        piece = b.emit("Slice", whole, shape=(1, batch, w.shape[1]), **cut) if steps > 1 else whole
        found.append(b.reshaped(piece, (batch, w.shape[1])))
    return found


def run(
    b: Builder, cell: Cell, xs: list[str], held: list[Value], lengths: np.ndarray, backwards: bool
) -> tuple[list[Value], tuple[Value, Value]]:
    """H at every t, zero beyond a sequence's length, and the state at the end."""
    h, c = held
    hs: list[Value] = [None] * len(xs)
    for t in reversed(range(len(xs))) if backwards else range(len(xs)):
        alive = lengths > t
        if alive.any():
            new_h, new_c = cell.step(xs[t], h, c)
            hs[t] = b.choose(alive, new_h, None)
            h, c = b.choose(alive, new_h, h), new_c if new_c is None else b.choose(alive, new_c, c)
    return hs, (h, c)


def finish(n: Raw, b: Builder, outputs: list, last: list, sizes: tuple[int, int, int]) -> None:
    """Y (T, D, B, H), and the last H and C (D, B, H)."""
    steps, batch, width = sizes
    if n.outputs[0]:
        piece = (1, 1, batch, width)
        sides = [b.joined([b.reshaped(h, piece) for h in hs], piece, 0) for hs in outputs]
        b.joined(sides, (steps, 1, batch, width), 1, n.outputs[0])
    for k, name in enumerate(n.outputs[1:]):
        if name:
            piece = (1, batch, width)
            b.joined([b.reshaped(state[k], piece) for state in last], piece, 0, name)
