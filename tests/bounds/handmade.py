"""Small networks written by hand, and what they compute exactly.

`Sketch` collects nodes from one flat float32 input to one flat output. Slopes and clipping ends are numbers that
float32 holds, so both working precisions run the same function. `exact` runs piecewise linear networks in rational
arithmetic.
"""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import torch

from verifier.bounds import METHODS
from verifier.net.graph import Network, Node, Tensor

F = np.dtype(np.float32)
METHODS.load()
ATTRS = {"LeakyRelu": {"alpha": 0.125}, "Clip": {"min": -0.5, "max": 0.75}}
FUNCTIONS = ("Relu", "LeakyRelu", "Sigmoid", "Tanh", "Clip", "Abs")
EXACT = {
    "Relu": lambda v: max(v, Fraction(0)),
    "LeakyRelu": lambda v: v if v >= 0 else v / 8,
    "Abs": abs,
    "Clip": lambda v: min(max(v, Fraction(-1, 2)), Fraction(3, 4)),
}


class Sketch:
    """Nodes and constants under construction; every method returns the name of a value."""

    def __init__(self, m: int):
        self.m, self.nodes, self.constants, self.shapes = m, [], {}, {"t": (m,)}

    def add(self, kind: str, inputs: tuple[str, ...], shape: tuple[int, ...] | None = None, **attrs) -> str:
        name = f"v{len(self.nodes)}"
        shape = self.shapes[inputs[0]] if shape is None else shape
        self.nodes.append(Node(name, kind, tuple(inputs), shape, F, attrs))
        self.shapes[name] = shape
        return name

    def constant(self, value) -> str:
        name = f"c{len(self.constants)}"
        self.constants[name] = np.asarray(value, F)
        return name

    def linear(self, x: str, weight, bias=None) -> str:
        weight = np.asarray(weight, F)
        shape = (*self.shapes[x][:-1], weight.shape[1])
        return self.add("Linear", (x, self.constant(weight), "" if bias is None else self.constant(bias)), shape)

    def function(self, x: str, kind: str) -> str:
        return self.add(kind, (x,), **ATTRS.get(kind, {}))

    def concat(self, *names: str) -> str:
        shapes = [self.shapes[n] for n in names]
        return self.add("Concat", names, (sum(s[0] for s in shapes), *shapes[0][1:]), axis=0)

    def reshape(self, x: str, *shape: int) -> str:
        return self.add("Reshape", (x,), shape)

    def network(self, dtype: np.dtype = F) -> Network:
        """The last value is the output."""
        last = self.nodes[-1]
        return Network(
            (Tensor("t", (self.m,), dtype),), tuple(self.nodes), self.constants, (Tensor(last.name, last.shape, F),), 13
        )


def dense(weights: list, biases: list, kind: str = "Relu") -> Network:
    """Layers of x W + b with a function after each but the last."""
    s = Sketch(np.shape(weights[0])[0])
    x = "t"
    for k, (w, b) in enumerate(zip(weights, biases)):
        x = s.linear(x, w, b)
        x = s.function(x, kind) if k < len(weights) - 1 else x
    return s.network()


def random_dense(rng: np.random.Generator, sizes: tuple[int, ...], kind: str = "Relu") -> Network:
    pairs = list(zip(sizes[:-1], sizes[1:]))
    weights = [rng.normal(size=p) / np.sqrt(p[0]) for p in pairs]
    return dense(weights, [0.3 * rng.normal(size=n) for n in sizes[1:]], kind)


def random_convolution(rng: np.random.Generator, kinds: list[str]) -> Network:
    """Two convolutions of a 4 x 4 picture, then a product."""
    s = Sketch(16)
    x = s.reshape("t", 1, 1, 4, 4)
    for (c, o, n), kind in zip(((1, 2, 4), (2, 2, 3)), kinds):
        attrs = {"strides": (1, 1), "dilations": (1, 1), "pads": (1, 1, 1, 1) if n == 4 else (0, 0, 1, 1), "group": 1}
        w, b = s.constant(rng.normal(size=(o, c, 3, 3)) / 3), s.constant(0.3 * rng.normal(size=o))
        x = s.function(s.add("Conv", (x, w, b), (1, o, n, n), **attrs), kind)
    s.linear(s.reshape(x, 18), rng.normal(size=(18, 3)), rng.normal(size=3))
    return s.network()


def random_branches(rng: np.random.Generator, kinds: list[str]) -> Network:
    """Values read several times: by two branches that meet again, and twice by one step."""
    m = int(rng.integers(1, 4))
    s = Sketch(m)
    f = lambda x: s.function(x, kinds[int(rng.integers(len(kinds)))])
    product = lambda x, n: s.linear(x, rng.normal(size=(s.shapes[x][-1], n)), 0.3 * rng.normal(size=n))
    h = f(product("t", 4))
    for _ in range(int(rng.integers(1, 4))):
        joint = int(rng.integers(6))
        if joint == 0:
            v = s.add("Add", (f(product(h, 4)), h))
        elif joint == 1:
            v = s.add("Add", (h, h))
        elif joint == 2:
            v = product(f(s.concat(h, h)), 4)
        elif joint == 3:
            v = s.add("Sub", (f(product(h, 4)), f(product(h, 4))))
        elif joint == 4:
            v = s.reshape(f(s.reshape(h, 2, 2)), 4)
        else:
            v = product(s.concat(h, f(h), h), 4)
        h = f(v)
    s.concat(h, product(h, 2), h) if rng.random() < 0.5 else product(h, 3)
    return s.network()


def exact(network: Network, x: np.ndarray) -> list[Fraction]:
    """Output of a network of Linear, Add, Concat and piecewise linear functions on vectors at x (m,)."""
    number = np.vectorize(lambda v: Fraction(float(v)), otypes=[object])
    values = {"t": number(x), **{k: number(v) if v.size else v for k, v in network.constants.items()}}
    for n in network.nodes:
        args = [values[i] for i in n.inputs if i]
        if n.kind == "Linear":
            y = args[0].dot(args[1]) + (args[2] if len(args) == 3 else 0)
        elif n.kind in EXACT:
            y = np.array([EXACT[n.kind](v) for v in args[0]], object)
        else:
            y = {"Add": sum, "Concat": np.concatenate}[n.kind](args)
        values[n.name] = y
    return list(values[network.outputs[0].name])


def boxes(rng: np.random.Generator, m: int, dtype: torch.dtype, widths: tuple[float, ...]) -> tuple:
    """One box of every width, some of its sides of length 0."""
    centre = torch.from_numpy(rng.normal(size=(len(widths), m)))
    half = torch.tensor(widths, dtype=torch.float64)[:, None] * torch.from_numpy(rng.random((len(widths), m)))
    half = half * torch.from_numpy(rng.random((len(widths), m)) < 0.8)
    return (centre - half).to(dtype), (centre + half).to(dtype)


def points(rng: np.random.Generator, l: torch.Tensor, u: torch.Tensor, planes: torch.Tensor, count: int = 40):
    """Points (D, P, m) float64: the corner where each plane (D, S, m) is lowest, other corners, anything between."""
    l, u = l.double()[:, None], u.double()[:, None]
    t = torch.from_numpy(rng.random((len(l), count, l.shape[2])))
    t[:, : count // 2] = t[:, : count // 2].round()
    return torch.cat([torch.where(planes > 0, l, u), torch.minimum(torch.maximum(l + (u - l) * t, l), u)], 1)


def random_products(rng: np.random.Generator) -> Network:
    """Products of two variables: gates, a cell's state that two steps read, attention, and factors that are shared."""
    m = int(rng.integers(2, 4))
    s = Sketch(m)
    dense_of = lambda x, n: s.linear(x, rng.normal(size=(s.shapes[x][-1], n)), 0.5 * rng.normal(size=n))
    part = lambda x, a, b: s.add("Pick", (x,), (b - a,), positions=np.arange(a, b))
    h = s.function(dense_of("t", 4), str(rng.choice(["Tanh", "Relu", "Sigmoid"])))
    for _ in range(int(rng.integers(1, 3))):
        form = int(rng.integers(5))
        if form == 0:  # a cell: the state goes through a reshape to a function, and into a product beside it
            z = dense_of(h, 12)
            gates = [s.function(part(z, 4 * k, 4 * k + 4), k_) for k, k_ in enumerate(("Sigmoid", "Tanh", "Sigmoid"))]
            state = s.add("Add", (s.add("Mul", (gates[0], gates[1])), h))
            h = s.add("Mul", (gates[2], s.reshape(s.function(s.reshape(state, 2, 2), "Tanh"), 4)))
            h = s.add("Add", (h, s.add("Mul", (gates[0], state))))
        elif form == 1:  # a gate on itself
            z = dense_of(h, 4)
            h = s.add("Mul", (z, s.function(z, str(rng.choice(["Sigmoid", "Relu", "Tanh"])))))
        elif form == 2:  # attention
            q, k, v = (s.reshape(dense_of(h, 6), *shape) for shape in ((2, 3), (3, 2), (2, 3)))
            scores = s.function(s.add("MatMul", (q, k), (2, 2)), str(rng.choice(["Sigmoid", "Tanh"])))
            h = dense_of(s.reshape(s.add("MatMul", (scores, v), (2, 3)), 6), 4)
        elif form == 3:  # a factor that repeats, and one that a kink reads too
            z = dense_of(h, 4)
            h = s.add("Mul", (s.add("Mul", (z, dense_of(h, 1))), s.function(dense_of(h, 4), "Relu")))
            h = s.add("Add", (h, s.function(z, "Relu")))
        else:  # every entry of one by some of the other, turned around
            z = dense_of(h, 4)
            h = s.add("Mul", (z, s.add("Pick", (z,), (4,), positions=np.array([2, 0, 1, 1]))))
        h = dense_of(h, 4) if rng.random() < 0.5 else h
    dense_of(h, 2)
    return s.network()
