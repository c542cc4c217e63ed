"""A sweep tries every place of every level once, inside its boxes, and leaves boxes of many dimensions alone."""

from __future__ import annotations

import itertools

import pytest
import torch
from handmade import dense
from queries import query, search, settings

from verifier.attack import sweep as module
from verifier.attack.sweep import FEW, sweep
from verifier.result import Verdict
from verifier.search import falsify


def generator() -> torch.Generator:
    return torch.Generator().manual_seed(0)


@pytest.mark.parametrize("d", range(1, FEW + 1))
def test_every_place_of_a_level_once(d):
    l, u = torch.zeros(1, d + 1), torch.tensor([[1.0] * d + [0.0]])
    seen, level = [], 2
    for x, box in sweep(l, u, 7, generator()):
        assert len(x) <= 7 and not bool(box.any())
        seen += [tuple(p) for p in x.tolist()]
        if len(seen) >= (2**level + 1) ** d:
            break
    side = [i / 2**level for i in range(2**level + 1)]
    assert sorted(seen) == sorted((*p, 0.0) for p in itertools.product(side, repeat=d))
    assert sorted(seen[: 2**d]) == sorted((*p, 0.0) for p in itertools.product((0.0, 1.0), repeat=d))  # corners first


@pytest.mark.parametrize("d", range(1, FEW + 1))
def test_blocks_are_full_and_slabs_lose_nothing(d, monkeypatch):
    l, u, points = torch.zeros(1, d), torch.ones(1, d), (2**4 + 1) ** d

    def blocks() -> list[torch.Tensor]:
        found, count = [], 0
        for x, _ in sweep(l, u, 64, generator()):
            found.append(x)
            count += len(x)
            if count >= points:
                return found

    whole = blocks()
    assert len(whole) <= points // 64 + 5  # a block for every level may be short
    monkeypatch.setattr(module, "WHOLE", 8)
    assert sorted(map(tuple, torch.cat(blocks()).tolist())) == sorted(map(tuple, torch.cat(whole).tolist()))


def test_boxes():
    l = torch.tensor([[0.0, 0.0, 0.0, 0.0], [1.0, 2.0, 3.0, 4.0], [-1.0, 0.1, 5.0, 1e6]])
    u = torch.tensor([[1.0, 1.0, 1.0, 1.0], [1.0, 2.0, 3.0, 4.0], [1.0, 0.1, 5.0, 1e6 + 3]])
    points = [(p, b) for x, box in itertools.islice(sweep(l, u, 64, generator()), 12) for p, b in zip(x, box.tolist())]
    assert {b for _, b in points} == {1, 2}  # the first moves in four dimensions
    assert sum(b == 1 for _, b in points) == 1  # a point is tried once
    assert all(bool(((p >= l[b]) & (p <= u[b])).all()) for p, b in points)


def test_a_place_that_no_gradient_leads_to(monkeypatch):
    """An output that is 2 at one whole place of 65 by 65 alone, and flat elsewhere but near one of its coordinates."""
    place = torch.tensor([37.0, 11.0])
    w = torch.eye(2).repeat(1, 3).double().numpy()
    shifts = [-place - 0.5, -place, -place + 0.5]  # a tent around the place in either dimension, from three kinks
    tent = torch.tensor([[2.0], [2.0], [-4.0], [-4.0], [2.0], [2.0]]).double().numpy()
    network = dense([w, tent], [torch.cat(shifts).double().numpy(), [0.0]])
    q = query(2, 1, [([0.0, 0.0], [64.0, 64.0])], [(0, [({2: -1.0}, 1.9)])])
    c = settings(rounds=1)
    assert search(network, q, c).verdict == Verdict.SAT
    monkeypatch.setattr(falsify, "sweep", lambda *a: iter(()))
    assert search(network, q, c).verdict == Verdict.UNKNOWN
