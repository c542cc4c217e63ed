"""Cutting the batch and the rows changes no result beyond rounding; running out of memory halves the work and goes on.

Where the batch is cut the networks are smooth: a neuron of a ReLU that is settled in its own domain is bounded all the
same when it fills up a batch, and that may tighten what follows.
"""

from __future__ import annotations

import numpy as np
import pytest
import torch
from handmade import boxes, random_branches, random_dense

from verifier.bounds import METHODS
from verifier.bounds.chunks import Limits, bound_rows, limits
from verifier.bounds.program import Program

BOUNDERS = sorted(METHODS)
WHOLE = Limits(1 << 30, 1 << 30)


@pytest.fixture(autouse=True)
def one_thread():
    """Chunks in turn, so that a test can say which there were; with several threads the batch is dealt out first."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def task(dtype: torch.dtype, seed: int = 0, kinds: tuple[str, ...] = ("Tanh", "Sigmoid"), count: int = 12):
    """Arguments of `bound_rows` but the method: every domain has rows of its own."""
    rng = np.random.default_rng(seed)
    network = random_dense(rng, (3, 9, 9, 9, 4), kinds[0]) if seed % 2 else random_branches(rng, list(kinds))
    program = Program(network, dtype, "cpu")
    l, u = boxes(rng, program.n_in, dtype, (0.0, 0.1, 0.5, 2.0) * (count // 4))
    coef = torch.from_numpy(rng.normal(size=(6, network.outputs[0].size))).to(dtype)
    return program, l, u, coef, torch.from_numpy(rng.integers(0, 6, (count, 5)))


def assert_same(a, b, room: float) -> None:
    """The bounds are; planes may differ where several do equally well."""
    assert [x.shape for x in a] == [x.shape for x in b]
    off = ((a.lb.double() - b.lb.double()).abs() / (1 + a.lb.double().abs())).max()
    assert float(off) <= room


@pytest.mark.parametrize("dtype, room", [(torch.float32, 2e-3), (torch.float64, 1e-10)], ids=str)
@pytest.mark.parametrize("method", BOUNDERS)
@pytest.mark.parametrize("limit", [Limits(1, 1 << 30), Limits(1 << 30, 1), Limits(1 << 30, 700), Limits(5000, 700)])
def test_any_limits_give_the_same_bounds(limit, method, dtype, room):
    for seed in range(4):
        for kinds in (("Tanh", "Sigmoid"), ("Relu", "Abs")) if limit.chunk == WHOLE.chunk else (("Tanh", "Sigmoid"),):
            arguments = task(dtype, seed, kinds)
            whole = bound_rows(*arguments, method, WHOLE)
            assert_same(whole, bound_rows(*arguments, method, limit), room)


@pytest.mark.parametrize("method", BOUNDERS)
def test_domains_do_not_mix(method):
    """A domain's bounds are those that it gets alone, and rows may come in any order."""
    program, l, u, coef, row = task(torch.float64, 1)
    whole = bound_rows(program, l, u, coef, row, method, WHOLE)
    order = torch.randperm(len(l), generator=torch.Generator().manual_seed(0))
    shuffled = bound_rows(program, l[order], u[order], coef, row[order].flip(1), method, WHOLE)
    assert torch.allclose(whole.lb[order], shuffled.lb.flip(1), rtol=1e-10, atol=1e-10)
    assert torch.allclose(whole.plane[order], shuffled.plane.flip(1), rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("method", BOUNDERS)
def test_threads_share_the_work(method):
    """With two threads the bounds are the same."""
    program, l, u, coef, row = task(torch.float64, 3)
    alone = bound_rows(program, l, u, coef, row, method, WHOLE)
    torch.set_num_threads(2)
    assert_same(bound_rows(program, l, u, coef, row, method, WHOLE), alone, 1e-10)


def test_threads_that_run_out_of_memory_leave_it_to_one(monkeypatch):
    short = Short(2, MemoryError())
    monkeypatch.setitem(METHODS._things, "short", short)
    program, l, u, coef, row = task(torch.float64)
    torch.set_num_threads(2)
    found = bound_rows(program, l, u, coef, row, "short", WHOLE)
    assert short.tried[-1] <= 2 and len(found.lb) == len(l)


class Short:
    """Interval bounds on a machine that holds at most `room` domains."""

    def __init__(self, room: int, error: BaseException):
        self.room, self.error, self.tried = room, error, []

    def entries(self, program, rows, moving, still):
        return 1

    def run(self, program, l, u, rows, limit, given):
        self.tried.append(len(l))
        if len(l) > self.room:
            raise self.error
        return METHODS["interval"].run(program, l, u, rows, limit, given)


@pytest.mark.parametrize("error", [MemoryError(), RuntimeError("DefaultCPUAllocator: can't allocate memory: 9 bytes")])
@pytest.mark.parametrize("room", (1, 2, 5))
def test_running_out_of_memory(room, error, monkeypatch):
    short = Short(room, error)
    monkeypatch.setitem(METHODS._things, "short", short)
    arguments = task(torch.float64, 1)
    assert_same(bound_rows(*arguments, "interval", WHOLE), bound_rows(*arguments, "short", WHOLE), 1e-12)
    assert short.tried[0] == 12 and sum(t for t in short.tried if t <= room) == 12


def test_other_errors_and_hopeless_ones_come_through(monkeypatch):
    broken = Short(0, RuntimeError("shapes do not match"))
    monkeypatch.setitem(METHODS._things, "short", broken)
    with pytest.raises(RuntimeError, match="shapes"):
        bound_rows(*task(torch.float64), "short", WHOLE)
    assert broken.tried == [12]
    hopeless = Short(0, MemoryError())
    monkeypatch.setitem(METHODS._things, "short", hopeless)
    with pytest.raises(MemoryError):
        bound_rows(*task(torch.float64), "short", WHOLE)
    assert hopeless.tried[-1] == 1 and len(hopeless.tried) < 40


def test_limits_follow_the_setting():
    device = torch.device("cpu")
    assert limits(device, 6).chunk == 1 << 20
    assert limits(device, 1e-9).chunk == 1 and limits(device, 1e-9).rows >= 1
