"""Rows through products, bounded together: never above exact values, and exact where the form is convex."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
import torch
from handmade import EXACT, Sketch
from hypothesis import given, settings
from hypothesis import strategies as st

from verifier.bounds import METHODS, bilinear
from verifier.bounds.program import Program

DTYPES = (torch.float32, torch.float64)
SCALES = (1e-12, 1e-3, 1.0, 1e3, 1e12)


def exactly(values) -> list[Fraction]:
    return [Fraction(float(v)) for v in values]


@settings(max_examples=150, deadline=None)
@given(st.integers(0, 10**6), st.integers(1, 7), st.sampled_from(SCALES), st.sampled_from(SCALES))
def test_planes_lie_below_forms(seed, m, scale, steep):
    rng = np.random.default_rng(seed)
    half = rng.normal(size=(m, rng.integers(1, m + 1)))
    form = half @ half.T if seed % 3 else half @ half.T * -1.0
    if seed % 3 == 2:
        form = form + np.diag(rng.normal(size=m)) * rng.choice((0.0, 1e-9, 0.3, 5.0))
    form = torch.from_numpy((form + form.T) / 2 * scale)[None, None]
    g = torch.from_numpy(rng.normal(size=m) * steep)[None, None]
    slope, value, mass = bilinear.below_form(form, g)
    slack = Fraction(1e-13) * Fraction(float(mass) + 1e-300)
    a, b, f = exactly(slope.flatten()), Fraction(float(value)), [exactly(row) for row in form[0, 0]]
    points = [rng.uniform(-1, 1, m), rng.choice((-1.0, 1.0), m), -np.sign(g.numpy().ravel()), np.zeros(m)]
    for e in map(exactly, points):
        true = sum(e[i] * f[i][j] * e[j] for i in range(m) for j in range(m))
        assert sum(x * y for x, y in zip(a, e)) + b <= true + slack


def test_forms_that_are_not_finite_give_nothing():
    for bad in (torch.nan, torch.inf):
        form = torch.full((1, 1, 2, 2), bad, dtype=torch.float64)
        assert bilinear.below_form(form, torch.zeros(1, 1, 2, dtype=torch.float64))[1].item() == -torch.inf


class Mixed(Sketch):
    """Features of the input, products of sums of these, products of products, and sums of all."""

    def __init__(self, seed: int):
        rng = np.random.default_rng(seed)
        super().__init__(int(rng.integers(1, 5)))
        self.rng = rng
        pool = ["t"]
        for _ in range(rng.integers(0, 3)):
            kind = str(rng.choice(("Relu", "Abs", "LeakyRelu")))
            pool.append(self.function(self.mix(pool, int(rng.integers(1, 4))), kind))
        for _ in range(rng.integers(1, 4)):
            n = int(rng.integers(1, 4))
            left, right = self.mix(pool, n), self.mix(pool, int(rng.choice((1, n))))
            if rng.random() < 0.3:
                right = self.linear(left, np.eye(n) + 0.5 * rng.normal(size=(n, n)))
            pool.append(self.add("Mul", (left, right), (n,)))
        self.mix(pool, 2)

    def mix(self, pool: list[str], n: int) -> str:
        """A sum of affine images of all that there is."""
        x, total = self.concat(*pool), sum(self.shapes[v][0] for v in pool)
        return self.linear(x, self.rng.normal(size=(total, n)) / total**0.5, self.rng.normal(size=n))


def run(network, x: list[Fraction]) -> list[Fraction]:
    """In rational arithmetic."""
    values = {"t": x}
    for n in network.nodes:
        a = values[n.inputs[0]]
        if n.kind == "Linear":
            w, b = network.constants[n.inputs[1]], network.constants.get(n.inputs[2])
            out = [sum(v * Fraction(float(w[i, j])) for i, v in enumerate(a)) for j in range(w.shape[1])]
            out = out if b is None else [v + Fraction(float(c)) for v, c in zip(out, b)]
        elif n.kind == "Concat":
            out = [v for i in n.inputs for v in values[i]]
        elif n.kind == "Mul":
            b = values[n.inputs[1]]
            out = [a[i % len(a)] * b[i % len(b)] for i in range(n.shape[0])]
        else:
            out = [EXACT[n.kind](v) for v in a]
        values[n.name] = out
    return values[network.nodes[-1].name]


def violations(seed: int, method: str, dtype: torch.dtype) -> int:
    """Points at which a plane, or the bound, is above the exact value of its row."""
    rng = np.random.default_rng(seed)
    network = Mixed(seed).network()
    program = Program(network, dtype, "cpu")
    m, d = program.n_in, 3
    centre, half = rng.normal(size=(d, m)), rng.choice((1e-4, 0.05, 0.5, 2.0), (d, m)) * rng.integers(0, 2, (d, m))
    l, u = (torch.from_numpy(np.float32(centre + s * half)).to(dtype) for s in (-1, 1))
    rows = torch.from_numpy(np.float32(rng.normal(size=(d, 3, 2)))).to(dtype)
    bounds = METHODS[method].run(program, l, u, rows, 1 << 26)
    count = 0
    for k in range(d):
        ends = l[k].double().numpy(), u[k].double().numpy()
        points = [np.where(rng.integers(0, 2, m), *ends), ends[0] + (ends[1] - ends[0]) * rng.random(m)]
        low = [Fraction(float(v)) for v in bounds.lb[k]] if bool(torch.isfinite(bounds.lb[k]).all()) else None
        for s in range(3):
            plane = bounds.plane[k, s].double().numpy()
            worst = np.where(plane > 0, *ends)
            for x in (*points, worst):
                exact_x = exactly(np.clip(x, *ends))
                y = run(network, exact_x)
                value = sum(Fraction(float(c)) * v for c, v in zip(rows[k, s].double(), y))
                height = sum(Fraction(float(c)) * v for c, v in zip(plane, exact_x)) + Fraction(
                    float(bounds.bias[k, s])
                )
                count += height > value or (low is not None and low[s] > value)
    return count


@pytest.mark.parametrize("method", ("crown", "forward"))
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("seed", range(25))
def test_bounds_hold_exactly(method, dtype, seed):
    assert not violations(seed, method, dtype)


def test_products_are_taken_together_in_these_networks(monkeypatch):
    """The networks above reach what they are to test."""
    better, original = [], bilinear.together

    def counted(trace, products, low, *more):
        found = original(trace, products, low, *more)
        better.append(bool((found[0] > low).any()))
        return found

    monkeypatch.setattr("verifier.bounds.final.together", counted)
    for seed in range(25):
        violations(seed, "crown", torch.float64)
    assert sum(better) >= 10


def broken(how: str, monkeypatch) -> None:
    """Leaves out something without which the bounds do not hold."""
    enclose, losses, form = bilinear._enclose, bilinear._losses, bilinear.below_form

    def enclosed(*args):
        x = enclose(*args)
        return x if x is None else x._replace(error=x.error * 0.5)

    def lost(*args):
        a, slopes, recovered = losses(*args)
        return a, slopes, recovered * 1.5

    def straight(b, g):
        slope, value, mass = form(b, g)
        return slope, torch.zeros_like(value), mass

    name, new = {
        "errors of operands": ("_enclose", enclosed),
        "what was lost": ("_losses", lost),
        "the form": ("below_form", straight),
    }[how]
    monkeypatch.setattr(bilinear, name, new)


@pytest.mark.parametrize("how", ("errors of operands", "what was lost", "the form"))
def test_the_test_notices_what_is_left_out(how, monkeypatch):
    broken(how, monkeypatch)
    assert any(violations(seed, "crown", torch.float64) for seed in range(25))


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_convex_form_is_bounded_exactly(dtype):
    """x M x, whether its minimum lies in the box or on its border; products alone lose the size of the form."""
    rng = np.random.default_rng(3)
    half = np.float32(rng.normal(size=(4, 4)))
    s = Sketch(4)
    product = s.add("Mul", ("t", s.linear("t", half @ half.T)))
    s.linear(product, np.ones((4, 1)))
    program = Program(s.network(), dtype, "cpu")
    form = program.network.constants["c0"].astype(np.float64)
    steepest = 2 * np.linalg.eigvalsh(form)[-1]
    for centre in (0.0, 0.3, 2.0):
        l, u = (torch.full((1, 4), centre + e, dtype=dtype) for e in (-0.5, 0.5))
        low = METHODS["crown"].run(program, l, u, torch.ones(1, 1, 1, dtype=dtype), 1 << 26).lb.item()
        x = np.full(4, centre)
        for _ in range(20000):
            x = np.clip(x - (form + form.T) @ x / steepest, centre - 0.5, centre + 0.5)
        least = x @ form @ x
        plain = -0.25 * np.abs(form).sum() + centre**2 * form.sum() - centre * np.abs(form.sum(0)).sum()
        assert plain < low <= least + 1e-6
        assert least - low < 0.1 * (least - plain)
