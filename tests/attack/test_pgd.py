"""The attack stays in its boxes, finds what was planted where gradients lead, and repeats itself by its seed."""

from __future__ import annotations

import time

import numpy as np
import pytest
import torch
from handmade import FUNCTIONS, dense, random_dense
from queries import query

from verifier.attack import pgd
from verifier.attack.pgd import Attack, starts
from verifier.bounds.program import Program
from verifier.bounds.targets import Targets
from verifier.events import Deadline
from verifier.ops import OPS
from verifier.problem import compile_problem


class Ready:
    """An attack on a query, its boxes in float32, and the points that it evaluates."""

    def __init__(self, network, q, seed: int = 0, dtype: torch.dtype = torch.float32):
        self.problem = compile_problem(network, q)
        self.program = Program(self.problem.network, dtype, "cpu")
        self.targets = Targets(self.problem, dtype, "cpu")
        self.attack = Attack(self.program, self.targets, seed)
        self.l, self.u = (torch.from_numpy(t).to(dtype) for t in (self.problem.lower, self.problem.upper))
        self.region = torch.arange(len(self.l))
        self.visited: list[torch.Tensor] = []
        self.last = torch.zeros(0), torch.zeros(0)  # the points that were run last, and what the network made of them
        forward = self.program.forward

        def watched(x, guided=False):
            self.visited.append(x.detach().clone())
            y = forward(x, guided)
            self.last = self.visited[-1], y.detach()
            return y

        self.program.forward = watched

    def descend(self, restarts: int = 64, steps: int = 30, deadline: Deadline = Deadline()):  # noqa: B008
        open = self.targets.start(self.region)
        return self.attack.descend(self.l, self.u, self.region, open, restarts, steps, deadline)


@pytest.mark.parametrize("dtype", (torch.float32, torch.float64), ids=str)
def test_starts(dtype):
    l = torch.tensor([[-1.0, 0.1, 1e6, -3e38], [5.0, 5.0, 0.0, 1.0]], dtype=dtype)
    u = torch.tensor([[2.0, 0.1, 1e6 + 1, -1e38], [5.0, 7.0, 1e-30, 1.0]], dtype=dtype)
    x = starts(l, u, 40, torch.Generator().manual_seed(0))
    assert x.shape == (40, 2, 4) and x.dtype == dtype
    assert bool(((x >= l) & (x <= u)).all())
    assert torch.allclose(x[0], l + (u - l) / 2)
    corner = ((x == l) | (x == u)).all(-1)
    assert bool(corner[1::2].all()) and not bool(corner[2::2, 0].any())


@pytest.mark.parametrize("kind", FUNCTIONS)
def test_every_point_stays_in_its_box(kind):
    """Sides of length zero, tiny and huge ones; the points that are run and the points that are returned."""
    rng = np.random.default_rng(0)
    network = random_dense(rng, (4, 6, 2), kind)
    l = np.array([[-1.0, 0.5, 3.0, 1e6], [0.0, 0.0, -1e-30, 7.0]]).astype(np.float32)
    u = np.array([[1.0, 0.5, np.nextafter(np.float32(3), np.float32(4)), 2e6], [1.0, 0.0, 1e-30, 7.0]], np.float32)
    rows = [({4: 1.0}, -1.0), ({5: -1.0}, 1e9)]
    ready = Ready(network, query(4, 2, list(zip(l, u)), [(0, rows), (1, rows), (1, [({4: 1.0}, 0.0)])]))
    found = ready.descend(restarts=16, steps=12)
    for x in [*ready.visited, found.points]:
        inside = ((x[:, None] >= ready.l) & (x[:, None] <= ready.u)).all(-1)
        assert bool(inside.any(1).all())
    # A descent keeps start k in box k, so whole batches can be compared with the boxes in turn.
    for x in ready.visited[:13]:
        assert bool(((x >= ready.l.repeat(16, 1)) & (x <= ready.u.repeat(16, 1))).all())


@pytest.mark.parametrize("kind", ("Relu", "Tanh", "LeakyRelu"))
def test_planted_counterexamples_are_found(kind):
    """The neighbourhood of a random point or corner: one row a little above what the network takes there."""
    found = 0
    for seed in range(12):
        rng = np.random.default_rng(seed)
        network = random_dense(rng, (4, 8, 8, 3), kind)
        x = rng.uniform(-1, 1, (500, 4))
        x[250:] = x[250:].round()
        y = Program(network, torch.float64, "cpu").forward(torch.from_numpy(x)).numpy()
        c = rng.normal(size=3)
        least = float(np.quantile(y @ c, 0.01))
        row = ({4 + j: float(c[j]) for j in range(3)}, -least)
        hopeless = [({4: 1.0}, 1e3)]
        q = query(4, 3, [([-1.0] * 4, [1.0] * 4)], [(0, hopeless), (0, [row]), (0, hopeless)])
        ready = Ready(network, q, seed)
        got = ready.descend(restarts=32, steps=25)
        found += bool(len(got.points))
        if len(got.points):
            assert got.least <= 0
            # As the attack saw them: by itself a point rounds otherwise than in a batch.
            x, y = ready.last
            place = (got.points[:, None] == x).all(-1).to(torch.uint8).argmax(1)
            assert torch.equal(x[place], got.points)
            values = ready.targets.values(y[place], torch.zeros(len(got.points)).long())
            assert bool((values.amin(1) <= 0).all())
            assert values.amin(1).tolist() == sorted(values.amin(1).tolist())  # best first
    assert found >= 11


def meetings_found(rows: int, seeds: int) -> int:
    """How often rows that hold together only close to one point, which no single row's gradient leads to, are met."""
    found = 0
    for seed in range(seeds):
        rng = np.random.default_rng(seed)
        network = random_dense(rng, (6, 10, 8), "Tanh")
        x = rng.uniform(-0.8, 0.8, 6)
        y = Program(network, torch.float64, "cpu").forward(torch.from_numpy(x)[None])[0].numpy()
        c = rng.normal(size=(rows - 1, 8))
        c = np.concatenate([c, -c.sum(0, keepdims=True)])  # the rows' sum is zero: they can only hold together
        conjunction = [({6 + j: float(r[j]) for j in range(8)}, float(-(r @ y)) - 1e-3) for r in c]
        q = query(6, 8, [([-1.0] * 6, [1.0] * 6)], [(0, conjunction)])
        found += bool(len(Ready(network, q, seed, torch.float64).descend(restarts=32, steps=15).points))
    return found


@pytest.mark.parametrize("rows", (2, 3, 5))
def test_rows_that_meet_in_one_point_are_found(rows, monkeypatch):
    assert meetings_found(rows, 6) >= 5
    if rows == 5:  # without the last steps such points are missed: there is something to lose
        monkeypatch.setattr(pgd, "POLISH_STEPS", 0)
        assert meetings_found(rows, 3) == 0


def test_an_exact_corner_of_the_box():
    """y = x, and both outputs must be at their upper ends."""
    network = dense([np.eye(2)], [np.zeros(2)])
    rows = [({2: -1.0}, 0.7), ({3: -1.0}, 0.3)]
    q = query(2, 2, [([0.0, -1.0], [np.float32(0.7), np.float32(0.3)])], [(0, rows)])
    ready = Ready(network, q)
    got = ready.descend(restarts=4, steps=10)
    corner = [float(np.float32(0.7)), float(np.float32(0.3))]
    possible = corner[0] >= 0.7 and corner[1] >= 0.3
    assert bool(len(got.points)) == possible
    exact = query(2, 2, [([0.0, -1.0], corner)], [(0, [({2: -1.0}, corner[0]), ({3: -1.0}, corner[1])])])
    got = Ready(network, exact).descend(restarts=4, steps=10)
    assert got.points.tolist()[0] == corner


@pytest.mark.parametrize("kind", ("Sign", "Round"))
def test_steps_are_passed_straight_through(kind, monkeypatch):
    """Networks of steps, whose own gradients are zero: a rare output is found by the gradients that stand in."""

    def found() -> int:
        count = 0
        for seed in range(6):
            rng = np.random.default_rng(seed)
            network = random_dense(rng, (24, 32, 32, 1), kind)
            x = torch.from_numpy(rng.uniform(-1, 1, (20000, 24)).astype(np.float32))
            least = float(Program(network, torch.float32, "cpu").forward(x).min())
            q = query(24, 1, [([-1.0] * 24, [1.0] * 24)], [(0, [({24: 1.0}, -least)])])  # one in 20,000, at the most
            count += bool(len(Ready(network, q, seed).descend(restarts=16, steps=30).points))
        return count

    assert found() >= 5
    monkeypatch.setattr(OPS[kind], "guide", OPS[kind].forward)
    assert found() <= 1


def test_seeds_reproduce():
    rng = np.random.default_rng(0)
    network = random_dense(rng, (3, 8, 2), "Tanh")
    q = query(3, 2, [([-1.0] * 3, [1.0] * 3)], [(0, [({3: 1.0}, 1e3)]), (0, [({4: 1.0}, 1e3), ({3: -1.0}, 0.0)])])
    a, b, c = (Ready(network, q, seed) for seed in (1, 1, 2))
    runs = [(r.descend(8, 5).least, r.descend(8, 5).least) for r in (a, b, c)]
    assert runs[0] == runs[1] and len(a.visited) == len(b.visited)
    assert all(torch.equal(x, y) for x, y in zip(a.visited, b.visited))
    assert not torch.equal(a.visited[0], c.visited[0])
    assert not torch.equal(a.visited[0], a.visited[len(a.visited) // 2])  # a second attack starts elsewhere


def test_nothing_to_find_and_nothing_to_do():
    network = random_dense(np.random.default_rng(0), (2, 4, 1))
    q = query(2, 1, [([-1.0] * 2, [1.0] * 2)], [(0, [({2: 1.0}, 1e3)])])
    ready = Ready(network, q)
    got = ready.descend(8, 5)
    assert not len(got.points) and got.least > 900
    empty = ready.attack.probe(torch.zeros((0, 2)), torch.zeros(0, dtype=torch.int64))
    assert not len(empty.points) and empty.least == float("inf")
    start = time.monotonic()
    assert not len(ready.descend(8, 10**7, Deadline.after(-1.0)).points)
    assert time.monotonic() - start < 20
    free = Ready(network, query(2, 1, [([-1.0] * 2, [1.0] * 2)], [(0, [])]))
    assert len(free.descend(4, 3).points)  # a disjunct without rows holds everywhere


def test_probe_sorts_and_cuts():
    network = dense([np.eye(1)], [np.zeros(1)])
    ready = Ready(network, query(1, 1, [([0.0], [1.0])], [(0, [({1: 1.0}, -0.5)])]))
    x = torch.linspace(0, 1, 101)[:, None]
    got = ready.attack.probe(x.flip(0), torch.zeros(101, dtype=torch.int64))
    assert torch.allclose(got.points[:, 0], x[:16, 0]) and got.least == -0.5


def test_gradients_that_are_not_numbers_do_no_harm():
    for bad in (np.nan, np.inf):
        network = dense([np.array([[bad, 1.0]]), np.ones((2, 1))], [np.zeros(2), np.zeros(1)])
        ready = Ready(network, query(1, 1, [([1.0], [2.0])], [(0, [({1: 1.0}, 0.0), ({1: 1.0}, 1.0)])]))
        got = ready.descend(8, 5)
        assert not len(got.points)
        assert all(bool(torch.isfinite(x).all()) for x in ready.visited)
