"""Bounds against true minima: exact values at the minimiser of ReLU networks, and of affine ones.

The minimiser is found by enumerating activation patterns, a linear program each; the network is then run there in
rational arithmetic, so the value that a bound must not exceed is one that the network takes. Scales are adversarial:
weights from 1e-25 to 1e6, biases that cancel, boxes from single points over one unit in the last place to 1e6,
thousands of summed terms.
"""

from __future__ import annotations

from fractions import Fraction
from itertools import product

import numpy as np
import pytest
import torch
from handmade import Sketch, dense, exact, random_dense
from scipy.optimize import linprog

from verifier.bounds import METHODS
from verifier.bounds.program import Program

DTYPES = (torch.float32, torch.float64)
BOUNDERS = sorted(METHODS)


def run(network, l, u, rows, dtype, method):
    """Bounds of rows (S, p) over one box l, u (m,) of float32 numbers."""
    l, u = (torch.tensor(np.asarray(t, np.float32), dtype=dtype)[None] for t in (l, u))
    rows = torch.tensor(np.asarray(rows, np.float32), dtype=dtype)[None]
    return METHODS[method].run(Program(network, dtype, "cpu"), l, u, rows, 1 << 26)


def row_value(row, y) -> Fraction:
    return sum((Fraction(float(np.float32(c))) * v for c, v in zip(row, y)), Fraction(0))


def assert_below(network, l, u, rows, dtype, method, xs) -> None:
    """Neither bounds nor planes exceed the rows' exact values at float points xs of the box."""
    bounds = run(network, l, u, rows, dtype, method)
    assert not bool(torch.isnan(bounds.lb).any())
    for x in xs:
        y = exact(network, x)
        for s, row in enumerate(rows):
            value = row_value(row, y)
            lb, bias = float(bounds.lb[0, s]), float(bounds.bias[0, s])
            assert lb == -np.inf or Fraction(lb) <= value, (x, float(value), lb)
            plane = bounds.plane[0, s].tolist()
            if np.isfinite([bias, *plane]).all():
                at = sum((Fraction(a) * Fraction(float(v)) for a, v in zip(plane, x)), Fraction(bias))
                assert at <= value, (x, float(value), float(at))


def minimiser(weights: list, biases: list, l: np.ndarray, u: np.ndarray, row: np.ndarray) -> np.ndarray:
    """Where row @ y is least over the box, for y of a ReLU network with one or two hidden layers."""
    sizes = [w.shape[1] for w in weights[:-1]]
    best, where = np.inf, (l + u) / 2
    for pattern in product((0.0, 1.0), repeat=sum(sizes)):
        m, c = np.eye(len(l)), np.zeros(len(l))
        a_ub, b_ub, at = [], [], 0
        for w, b, n in zip(weights, biases, sizes):
            on = np.array(pattern[at : at + n])
            at += n
            m, c = w.T @ m, w.T @ c + b
            sign = np.where(on > 0, -1.0, 1.0)  # z >= 0 where on, else z <= 0
            a_ub.append(sign[:, None] * m)
            b_ub.append(-sign * c)
            m, c = on[:, None] * m, on * c
        objective = row @ weights[-1].T @ m
        found = linprog(objective, np.concatenate(a_ub), np.concatenate(b_ub), bounds=list(zip(l, u)))
        if found.status == 0:
            value = found.fun + row @ (weights[-1].T @ c + biases[-1])
            if value < best:
                best, where = value, found.x
    return np.clip(where, l, u)


@pytest.mark.parametrize("sizes", [(2, 4, 2), (3, 5, 1), (2, 3, 2, 2)])
def test_relu_networks_by_enumeration(sizes):
    for seed in range(3):
        rng = np.random.default_rng(seed)
        network = random_dense(rng, sizes)
        n = len(sizes) - 1
        weights = [network.constants[f"c{2 * k}"].astype(float) for k in range(n)]
        biases = [network.constants[f"c{2 * k + 1}"].astype(float) for k in range(n)]
        centre, half = rng.normal(size=sizes[0]), rng.choice([0.01, 0.3, 2.0])
        l, u = ((centre + s * half).astype(np.float32).astype(float) for s in (-1, 1))
        row = rng.normal(size=sizes[-1]).astype(np.float32).astype(float)
        x = minimiser(weights, biases, l, u, row)
        for method in BOUNDERS:
            for dtype in DTYPES:
                assert_below(network, l, u, [row], dtype, method, [x])
        # The enumeration itself: nothing that was sampled lies lower.
        sampled = Program(network, torch.float64, "cpu").forward(torch.from_numpy(rng.uniform(l, u, (2000, sizes[0]))))
        assert float(row_value(row, exact(network, x))) <= float((sampled.numpy() @ row).min()) + 1e-9


def adversarial_box(rng: np.random.Generator, m: int) -> tuple[np.ndarray, np.ndarray]:
    l = (rng.normal(size=m) * 10.0 ** rng.uniform(-6, 4)).astype(np.float32)
    width = rng.integers(0, 5, m)
    u = np.where(width == 1, np.nextafter(l, np.float32(np.inf)), l)
    for k, w in ((2, 1e-30), (3, 1.0), (4, 1e6)):
        u = np.where(width == k, l + np.float32(w), u)
    return l, np.maximum(u, l).astype(np.float32)


def corners(rng: np.random.Generator, l: np.ndarray, u: np.ndarray) -> list[np.ndarray]:
    every = [np.where(c, u, l) for c in product((False, True), repeat=len(l))]
    between = [np.clip((l + (u - l) * rng.random(len(l))).astype(np.float32), l, u) for _ in range(4)]
    return every + between


@pytest.mark.parametrize("method", BOUNDERS)
@pytest.mark.parametrize("kind", ("Relu", "LeakyRelu", "Abs", "Clip"))
def test_adversarial_scales(kind, method):
    for seed in range(30):
        rng = np.random.default_rng(seed)
        sizes = (int(rng.integers(1, 4)), 3, 3, 2)
        l, u = adversarial_box(rng, sizes[0])
        weights, biases, middle = [], [], ((l.astype(float) + u) / 2)[:, None]
        for a, b in zip(sizes[:-1], sizes[1:]):
            scale = 10.0 ** (rng.uniform(-25, 6, (a, b)) if rng.random() < 0.3 else rng.uniform(-6, 6))
            w = (rng.choice([-1, 1], (a, b)) * rng.uniform(0.5, 1, (a, b)) * scale).astype(np.float32)
            z = w.T.astype(float) @ middle
            weights.append(w)
            biases.append(-z[:, 0] if rng.random() < 0.6 else rng.normal(size=b))  # cancels what comes in
            middle = np.maximum(z + np.float32(biases[-1])[:, None], 0)
        network = dense(weights, biases, kind)
        rows = np.array([[1.0, 0.0], [0.0, -1.0], [1.0, -1.0], [1e-3, 1e3]])
        for dtype in DTYPES:
            assert_below(network, l, u, rows, dtype, method, corners(rng, l, u))


@pytest.mark.parametrize("method", BOUNDERS)
@pytest.mark.parametrize("join", ("Add", "Concat"))
def test_functions_on_values_read_twice(join, method):
    """Several functions in a row without an affine step between them, on a value that is read twice."""
    for seed in range(40):
        rng = np.random.default_rng(seed)
        s = Sketch(1)
        h = s.function(s.linear("t", [[10.0 ** rng.uniform(-3, 3)] * 2], rng.normal(size=2)), "Relu")
        for kind in rng.choice(["Relu", "LeakyRelu", "Abs", "Clip"], int(rng.integers(1, 4))):
            h = s.function(h, str(kind))
        v = s.add("Add", (h, h)) if join == "Add" else s.concat(h, h)
        for kind in rng.choice(["Relu", "LeakyRelu", "Abs"], int(rng.integers(1, 4))):
            v = s.function(v, str(kind))
        s.concat(v, h)
        p = s.shapes[s.nodes[-1].name][0]
        l, u = adversarial_box(rng, 1)
        rows = np.concatenate([rng.normal(size=(2, p)), -np.eye(p)[:1], np.eye(p)[-1:]]).astype(np.float32)
        for dtype in DTYPES:
            assert_below(s.network(), l, u, rows, dtype, method, corners(rng, l, u))


@pytest.mark.parametrize("method", BOUNDERS)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_thousands_of_terms(dtype, method):
    """Sums in which every rounding goes the same way, and large ones that cancel."""
    n = 3000
    drift = np.full((n, 1), 2.0**-25)
    drift[-1] = 1.0
    waves = np.where(np.arange(n) % 2, 1.0, -1.0)[:, None] * (1 + np.arange(n)[:, None] / n) * 1e3
    for w in (drift, -drift, waves):
        for relu in (False, True):
            s = Sketch(1)
            z = s.linear("t", np.ones((1, n)), np.linspace(-0.01, 0.01, n) if relu else None)
            s.linear(s.function(z, "Relu") if relu else z, w)
            l, u = np.float32([0.9]), np.float32([1.1])
            assert_below(s.network(), l, u, [[1.0], [-1.0]], dtype, method, [l, u])


@pytest.mark.parametrize("method", BOUNDERS)
def test_products_too_small_for_float32(method):
    """Weights whose products underflow, on inputs that make them count."""
    tiny, power = 1e-25, 1e38
    for first, last in ((tiny, -tiny), (-tiny, tiny), (tiny, tiny)):
        for relu in (False, True):
            s = Sketch(1)
            z = s.linear("t", [[first]])
            s.linear(s.function(z, "Relu") if relu else z, [[last]])
            l, u = np.float32([-power]), np.float32([power])
            assert_below(s.network(), l, u, [[1.0], [-1.0]], torch.float32, method, [l, u])


def affine_network(rng: np.random.Generator, m: int, sign) -> Sketch:
    """Branches, a value read twice by Concat and by Add; every constant goes through `sign`."""
    s = Sketch(m)
    h = s.linear("t", sign(rng.normal(size=(m, 4))), sign(rng.normal(size=4)))
    h = s.add("Add", (s.linear(h, sign(rng.normal(size=(4, 4)))), h))
    h = s.linear(s.concat(h, h), sign(rng.normal(size=(8, 5))), sign(rng.normal(size=5)))
    s.add("Add", (h, h))
    return s


@pytest.mark.parametrize("dtype, unit", [(torch.float32, 1e-5), (torch.float64, 2e-14)], ids=str)
def test_affine_networks_exactly(dtype, unit):
    """Without nonlinear steps CROWN is the minimum itself, up to the rounding of sums of this size."""
    for seed in range(20):
        rng = np.random.default_rng(seed)
        m, row = int(rng.integers(1, 6)), rng.normal(size=5).astype(np.float32)
        l = rng.normal(size=m).astype(np.float32)
        u = (l + rng.random(m) * 10.0 ** rng.uniform(-3, 3)).astype(np.float32)
        network = affine_network(np.random.default_rng(seed), m, lambda w: w).network()
        zero = row_value(row, exact(network, np.zeros(m)))
        slope = [row_value(row, exact(network, e)) - zero for e in np.eye(m)]
        least = row_value(row, exact(network, np.where([g > 0 for g in slope], l, u)))
        absolute = affine_network(np.random.default_rng(seed), m, np.abs).network()
        size = float(row_value(np.abs(row), exact(absolute, np.maximum(np.abs(l), np.abs(u)))))
        for method in ("crown", "forward"):
            lb = float(run(network, l, u, [row], dtype, method).lb)
            assert Fraction(lb) <= least
            assert float(least - Fraction(lb)) <= 6 * unit * size


@pytest.mark.parametrize("method", BOUNDERS)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("bad", (np.nan, np.inf, -np.inf))
@pytest.mark.parametrize("place", ("first weight", "last weight", "first bias", "last bias"))
def test_weights_that_are_not_numbers(place, bad, dtype, method):
    """Nothing is known of what depends on them: -inf, never NaN."""
    for kind in ("Relu", "LeakyRelu", "Abs"):
        rng = np.random.default_rng(5)
        weights = [rng.normal(size=(2, 3)), rng.normal(size=(3, 3)), rng.normal(size=(3, 1))]
        biases = [rng.normal(size=3), rng.normal(size=3), rng.normal(size=1)]
        target = (weights if "weight" in place else biases)[0 if "first" in place else -1]
        target.reshape(-1)[0] = bad
        network = dense(weights, biases, kind)
        bounds = run(network, [-1, -1], [1, 1], [[1.0], [-1.0]], dtype, method)
        assert not bool(torch.isnan(bounds.lb).any())
        if kind == "Relu" and bad == -np.inf and place == "first bias":  # that neuron is 0
            assert bool(torch.isfinite(bounds.lb).all())
            continue
        assert bool((bounds.lb == -np.inf).any()) if np.isinf(bad) else bool((bounds.lb == -np.inf).all())
