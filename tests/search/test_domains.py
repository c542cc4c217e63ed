"""Splitting covers parents exactly, the pool keeps every domain once, and ends are rounded outward."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from verifier.bounds.interval import outward
from verifier.bounds.targets import Picked, best_rows
from verifier.search.domains import Domains, Pool, shrunk, split

INF = float("inf")
DTYPES = st.sampled_from([torch.float32, torch.float64])


def domains(lower, upper, prefer=None, score=None) -> Domains:
    d, m = lower.shape
    prefer = torch.zeros(d, dtype=torch.int64) if prefer is None else prefer
    score = torch.arange(d, dtype=torch.float64) if score is None else score
    return Domains(lower, upper, torch.arange(d), torch.ones(d, 2, dtype=torch.bool), score, prefer)


def step(x: torch.Tensor, times: int) -> torch.Tensor:
    for _ in range(times):
        x = torch.nextafter(x, torch.full_like(x, INF))
    return x


@st.composite
def parents(draw):
    """Boxes with sides of 0 to 3 units in the last place, tiny, usual and huge ones."""
    dtype, d, m = draw(DTYPES), draw(st.integers(1, 4)), draw(st.integers(1, 4))
    rng = np.random.default_rng(draw(st.integers(0, 2**31)))
    lower = torch.from_numpy(rng.normal(size=(d, m)) * 10.0 ** rng.uniform(-35, 30, (d, m))).to(dtype)
    upper = lower.clone()
    for i, j in itertools.product(range(d), range(m)):
        kind = int(rng.integers(6))
        upper[i, j] = step(lower[i, j], kind) if kind < 4 else lower[i, j].abs() * 10.0 ** rng.uniform(-3, 3) + 1e-30
    upper = torch.maximum(lower, upper)
    return domains(lower, upper, torch.from_numpy(rng.integers(0, m, d)))


@settings(max_examples=300, deadline=None, derandomize=True)
@given(parents())
def test_children_cover_their_parents_exactly(boxes):
    children, whole = split(boxes)
    assert bool((children.lower <= children.upper).all())
    for k in range(len(boxes)):
        mine = torch.nonzero(children.region == k).squeeze(1)
        # Every child is a product of pieces; along each dimension the pieces chain from end to end without a gap.
        chains = []
        for j in range(boxes.lower.shape[1]):
            pairs = zip(children.lower[mine, j].tolist(), children.upper[mine, j].tolist())
            pieces = sorted(set(pairs))
            assert pieces[0][0] == float(boxes.lower[k, j]) and pieces[-1][1] == float(boxes.upper[k, j])
            assert all(a[1] == b[0] and a[0] < a[1] for a, b in zip(pieces, pieces[1:]))
            assert len(pieces) <= 2
            chains.append(pieces)
        ends = zip(children.lower[mine].tolist(), children.upper[mine].tolist())
        have = sorted(tuple(zip(low, high)) for low, high in ends)
        assert have == sorted(itertools.product(*chains))
        split_dims = [j for j, pieces in enumerate(chains) if len(pieces) == 2]
        j = int(boxes.prefer[k])
        next_up = np.nextafter(*(t[k, j].numpy() for t in (boxes.lower, boxes.upper)))
        assert split_dims == ([j] if bool(next_up < boxes.upper[k, j].numpy()) else [])
        assert bool(whole[k]) == (not split_dims)
        if bool(whole[k]):
            assert mine.tolist() == [k]  # an unsplit parent stands at its own place
        for name in ("open", "score", "prefer"):
            assert bool((getattr(children, name)[mine] == getattr(boxes, name)[k]).all())


@settings(max_examples=100, deadline=None, derandomize=True)
@given(
    st.lists(st.one_of(st.tuples(st.just("add"), st.integers(0, 7)), st.tuples(st.just("pop"), st.integers(1, 9)))),
    st.sampled_from([1, 200, 1 << 30]),
)
def test_the_pool_keeps_every_domain_once(actions, limit):
    """Whatever fits `limit`; past half of it those nearest to refutation come first, otherwise the furthest."""
    pool, inside, count = Pool(limit), {}, 0
    rng = np.random.default_rng(0)
    for what, n in actions:
        if what == "add":
            mark = torch.arange(count, count + n, dtype=torch.float64)[:, None]
            count += n
            score = torch.from_numpy(rng.choice([-INF, -2.0, -1.0, 0.0, 5.0], n))
            pool.add(domains(mark, mark, score=score))
            inside |= dict(zip(mark[:, 0].tolist(), score.tolist()))
        elif len(pool):
            crowded = 2 * pool.bytes() > limit
            worst = pool.worst(n)
            assert sorted(worst.score.tolist()) == sorted(inside.values())[:n]
            out = pool.pop(n)
            assert sorted(out.score.tolist()) == sorted(sorted(inside.values(), reverse=crowded)[:n])
            for mark, score in zip(out.lower[:, 0].tolist(), out.score.tolist()):
                assert inside.pop(mark) == score
        assert len(pool) == len(inside)
    left = pool.pop(len(pool)).lower[:, 0].tolist() if len(pool) else []
    assert sorted(left) == sorted(inside) and len(pool) == 0 and pool.bytes() == 0


@settings(max_examples=300, deadline=None, derandomize=True)
@given(st.floats(allow_nan=False, width=64), st.sampled_from([-1, 1]))
def test_outward_is_the_nearest_number_on_that_side(x, direction):
    y = outward(torch.tensor([x], dtype=torch.float64), torch.float32, direction)
    assert y.dtype == torch.float32
    v = float(y)
    assert v <= x if direction < 0 else v >= x
    with np.errstate(over="ignore"):
        inward = float(np.nextafter(np.float32(v), np.float32(-direction * INF)))
    assert v == x or (inward > x if direction < 0 else inward < x)
    same = outward(torch.tensor([x], dtype=torch.float64), torch.float64, direction)
    assert float(same) == x


def test_outward_at_the_edges():
    values = [0.1, -0.1, 1e300, -1e300, 1e-300, -1e-300, 0.0, float(np.finfo(np.float32).max) * (1 + 1e-12)]
    x = torch.tensor(values, dtype=torch.float64)
    low, high = outward(x, torch.float32, -1), outward(x, torch.float32, 1)
    assert bool((low.double() <= x).all() and (x <= high.double()).all())
    assert float(low[2]) == float(np.finfo(np.float32).max) and float(high[2]) == INF
    assert float(low[4]) == 0.0 and 0 < float(high[4]) < 1e-44


@settings(max_examples=150, deadline=None, derandomize=True)
@given(st.integers(0, 2**31))
def test_best_rows(seed):
    """The score is the least over open disjuncts of their best row; the speaker is that very row."""
    rng = np.random.default_rng(seed)
    d, s, k = (int(n) for n in rng.integers(1, 5, 3))
    lb = torch.from_numpy(rng.choice([-INF, np.nan, -3.0, -1.0, 2.0, INF], (d, s)))
    slot, real = torch.from_numpy(rng.integers(0, k, (d, s))), torch.from_numpy(rng.random((d, s)) < 0.8)
    open = torch.from_numpy(rng.random((d, k)) < 0.7)
    score, speaker = best_rows(Picked(torch.zeros_like(slot), lb, slot, real, torch.zeros_like(real)), lb, open)
    for i in range(d):
        best = {q: -INF for q in range(k)}
        for j in range(s):
            if real[i, j] and np.isfinite(float(lb[i, j])):
                best[int(slot[i, j])] = max(best[int(slot[i, j])], float(lb[i, j]))
        want = min((best[q] for q in range(k) if open[i, q]), default=INF)
        assert float(score[i]) == want
        if np.isfinite(want):
            j = int(speaker[i])
            assert bool(real[i, j]) and float(lb[i, j]) == want and best[int(slot[i, j])] == want


@pytest.mark.parametrize("dtype", (torch.float32, torch.float64))
def test_whole_numbers_are_in_exactly_one_child(dtype):
    """Children hold every whole number of their parents once, and nothing in between; what holds one is not halved."""
    whole = torch.tensor([True, False])
    for low, high in [(-3.0, 4.0), (0.0, 1.0), (-128.0, 127.0), (2.0, 2.0), (-1.5, 0.75), (0.2, 0.8)]:
        parent = domains(torch.tensor([[low, 0.0]], dtype=dtype), torch.tensor([[high, 1.0]], dtype=dtype))
        parent = shrunk(parent, whole)
        numbers = list(range(math.ceil(low), math.floor(high) + 1))
        assert len(parent) == bool(numbers)
        if not numbers:
            continue
        children, stuck = split(parent, whole)
        assert bool(stuck[0]) == (len(numbers) == 1)
        held = [n for l, u in zip(children.lower[:, 0].tolist(), children.upper[:, 0].tolist())
                for n in range(int(l), int(u) + 1)]  # fmt: skip
        assert sorted(held) == numbers and bool((children.lower == children.lower.round())[:, 0].all())
