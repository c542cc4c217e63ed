"""Edges of discrete operators: ties, signs of zero, truncation, indices of either sign and out of range.

Boxes are tight where a value is settled, and hold what the forward pass yields everywhere.
"""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch

from verifier.ops import OPS
from verifier.ops.base import Site
from verifier.ops.spans import extreme, landed, landings, reach

OPS.load()


def operator(kind, *operands, shape, dtype=torch.float32, out=np.float32, **attrs):
    """An operator whose operands are shapes, or arrays for constants."""
    constants = tuple(a if isinstance(a, np.ndarray) else None for a in operands)
    shapes = tuple(a.shape if isinstance(a, np.ndarray) else a for a in operands)
    return OPS[kind](Site(kind, kind, attrs, constants, shapes, shape, 17, dtype, torch.device("cpu"), np.dtype(out)))


def box(l, u):
    return torch.tensor([l], dtype=torch.float32), torch.tensor([u], dtype=torch.float32)


def ends(op, *boxes):
    return tuple(t[0].tolist() for t in op.interval(*boxes))


def test_casts_truncate_towards_zero_and_know_no_negative_zero():
    op = operator("Cast", (4,), shape=(4,), out=np.int64, to="int64")
    assert ends(op, box([-1.5, -0.9, 0.2, 1.0], [-1.1, 0.9, 0.3, 2.0])) == ([-1, 0, 0, 1], [-1, 0, 0, 2])
    low, high = op.interval(box([-0.5] * 4, [-0.1] * 4))
    assert not torch.signbit(low).any() and not torch.signbit(high).any()
    wild = ends(op, box([-np.inf, 0, 0, 0], [0, np.inf, 1e30, 0]))
    assert wild == ([-(2.0**63)] * 3 + [0], [2.0**63] * 3 + [0]), "an end that is infinite, or that no integer can be"
    narrow = operator("Cast", (3,), shape=(3,), out=np.uint8, to="uint8")
    assert ends(narrow, box([3.5, -1.5, 255.5], [4.5, 1, 256])) == ([3, 0, 0], [4, 255, 255])
    truth = operator("Cast", (4,), shape=(4,), out=np.bool_, to="bool")
    assert ends(truth, box([-0.0, 0.1, -1, -3], [0.0, 2, 1, -1])) == ([0, 1, 0, 1], [0, 1, 1, 1])


def test_lines_of_casts_follow_the_number():
    op = operator("Cast", (3,), shape=(3,), out=np.int64, to="int64")
    l, u = box([0, -50, -40], [50, 0, 40])
    planes = op.relax((l, u))
    x = l + (u - l) * torch.linspace(0, 1, 101)[:, None]
    low, high = planes.values(x[None])
    assert ((low <= torch.trunc(x)) & (torch.trunc(x) <= high)).all()
    assert ((high - low)[0].amax(0) <= torch.tensor([1.0, 1.0, 2.0])).all(), "as far apart as truncation moves a number"


def test_ties_of_the_largest_go_to_the_first_or_the_last():
    for kind, sign in (("ArgMax", 1), ("ArgMin", -1)):
        for last, tied in ((0, 0), (1, 2)):
            op = operator(kind, (3,), shape=(), out=np.int64, axis=0, keepdims=0, select_last_index=last)
            same = torch.full((1, 3), 2.0) * sign
            assert ends(op, (same, same)) == (tied, tied)
            # Entry 1 touches the others from below (never wins on the wrong side of a tie) or from above.
            l, u = torch.tensor([[2.0, 0.0, 0.0]]), torch.tensor([[2.0, 2.0, 1.0]])
            l, u = (l, u) if sign > 0 else (-u, -l)
            assert ends(op, (l, u)) == ((0, 0) if not last else (0, 1)), (kind, last)
            l, u = l.flip(1), u.flip(1)
            assert ends(op, (l, u)) == ((1, 2) if not last else (2, 2)), (kind, last)


@pytest.mark.parametrize("last", (0, 1))
def test_every_candidate_can_win_and_nothing_else_does(last):
    op = operator("ArgMax", (4,), shape=(), out=np.int64, axis=0, keepdims=0, select_last_index=last)
    rng = np.random.default_rng(3)
    for _ in range(200):
        a, b = rng.integers(0, 4, (2, 1, 4))
        l, u = torch.tensor(np.minimum(a, b)).float(), torch.tensor(np.maximum(a, b)).float()
        grid = [torch.unique(torch.tensor([float(p), float(q)])) for p, q in zip(l[0], u[0])]
        won = op.forward(torch.cartesian_prod(*grid)).float()
        assert ends(op, (l, u)) == (float(won.min()), float(won.max()))


def test_hot_places():
    op = operator("OneHot", (1,), shape=(1, 4), axis=1, depth=4, on=1.0, off=0.0)
    assert ends(op, box([-1], [-1])) == ([[0, 0, 0, 1]], [[0, 0, 0, 1]])
    assert ends(op, box([-1], [1])) == ([[0, 0, 0, 0]], [[1, 1, 0, 1]])
    assert ends(op, box([4], [9])) == ends(op, box([-9], [-5])) == ([[0] * 4], [[0] * 4])
    assert ends(op, box([0.99999], [1.00001])) == ([[0, 1, 0, 0]], [[0, 1, 0, 0]])


def test_ranks_of_settled_and_open_numbers():
    values = operator("TopK", (4,), shape=(2,), axis=0, k=2, largest=1)
    places = operator("TopK:1", (4,), shape=(2,), out=np.int64, axis=0, k=2, largest=1)
    assert ends(values, box([0, 5, 1, 2], [3, 6, 1, 2])) == ([5, 2], [6, 3])
    assert ends(places, box([0, 5, 1, 2], [3, 6, 1, 2])) == ([1, 0], [1, 3])
    assert ends(places, box([2, 2, 1, 2], [2, 2, 1, 2])) == ([0, 1], [0, 1])


def test_integer_division_and_remainders():
    op = operator("Div", (4,), np.array(3), shape=(4,), out=np.int64)
    assert ends(op, box([-8, -2, 2, 5], [-7, 2, 6, 5])) == ([-2, 0, 0, 1], [-2, 0, 2, 1])
    assert not torch.signbit(op.interval(box([-2] * 4, [-1] * 4))[1]).any()
    op = operator("Div", (3,), (3,), shape=(3,), out=np.int64)
    assert ends(op, box([7, 7, -7], [9, 9, 9]), box([2, -1, -3], [3, 1, -2])) == ([2, -np.inf, -4], [4, np.inf, 3])
    op = operator("Mod", (4,), np.array([3, 3, -3, 3.0], np.float32), shape=(4,), fmod=0)
    low, high = ends(op, box([-2, 4, 4, 2], [-1, 5, 5, 4]))
    np.testing.assert_allclose((low, high), ([1, 1, -2, 0], [2, 2, -1, 3]), atol=1e-5)
    op = operator("Mod", (3,), np.array([3, 3, 3.0], np.float32), shape=(3,), fmod=1)
    np.testing.assert_allclose(ends(op, box([-2, 4, -4], [-1, 5, -4])), ([-2, 1, -1], [-1, 2, -1]), atol=1e-5)


def test_comparisons_that_touch():
    touching = box([0.0], [1.0]), box([1.0], [2.0])
    for kind, want in (("Greater", (0, 0)), ("GreaterOrEqual", (0, 1)), ("Less", (0, 1)), ("LessOrEqual", (1, 1))):
        op = operator(kind, (1,), (1,), shape=(1,), out=np.bool_)
        assert ends(op, *touching) == ([want[0]], [want[1]]), kind
    op = operator("Equal", (3,), (3,), shape=(3,), out=np.bool_)
    assert ends(op, box([0, -0.0, 0], [0, 0, 1]), box([1, 0, 1], [1, 0, 1])) == ([0, 1, 0], [0, 1, 1])


def test_settled_choices_hand_on_and_others_are_flat():
    op = operator("Where", (3,), (3,), np.array([7.0, 8, 9], np.float32), shape=(3,))
    boxes = box([1, 0, 0], [1, 0, 1]), box([-1, -1, -1], [1, 1, 1])
    assert ends(op, *boxes) == ([-1, 8, -1], [1, 8, 9])
    planes = op.relax(*boxes)
    pos = torch.eye(3)[None]
    _, taken = planes.pull(pos, torch.zeros_like(pos))
    assert taken[0].tolist() == [[1, 0, 0], [0, 0, 0], [0, 0, 0]]


def test_reading_at_indices_of_either_sign_and_out_of_range():
    data = np.array([5, 1, 4, 2, 3], np.float32)
    op = operator("GatherDynamic", data, (7,), shape=(7,), axis=0)
    low, high = ends(op, box([0, -1, 1, -2, -1, 7, -9], [0, -1, 3, -1, 1, 9, -7]))
    assert (low, high) == ([5, 3, 1, 2, 1, 3, 5], [5, 3, 4, 3, 5, 3, 5])
    moving = operator("GatherDynamic", (5,), (1,), shape=(1,), axis=0)
    taken, index = moving.relax(box([0] * 5, [1] * 5), box([-2], [-2])).pull(torch.ones(1, 1, 1), torch.zeros(1, 1, 1))
    assert taken[0, 0].tolist() == [0, 0, 0, 1, 0] and not index.any()


def test_writing_where_it_may_and_where_it_must():
    op = operator("ScatterNDDynamic", (4,), (2, 1), (2,), shape=(4,), reduction="none")
    data, update = box([0, 1, 2, 3], [0, 1, 2, 3]), box([10, 20], [10, 20])
    assert ends(op, data, box([[1], [2]], [[1], [3]]), update) == ([0, 10, 2, 3], [0, 10, 20, 20])
    assert ends(op, data, box([[1], [1]], [[1], [1]]), update) == ([0, 10, 2, 3], [0, 20, 2, 3]), "any of both"
    assert ends(op, data, box([[-1], [-1]], [[-1], [0]]), update) == ([0, 1, 2, 10], [20, 20, 20, 20])
    kept, _, put = op.relax(data, box([[1], [2]], [[1], [3]]), update).pull(torch.eye(4)[None], torch.zeros(1, 4, 4))
    assert kept[0].diag().tolist() == [1, 0, 0, 0] and put[0].tolist() == [[0, 0], [1, 0], [0, 0], [0, 0]]


def test_what_is_no_number_is_open_only_where_ends_are_unknown():
    op = operator("IsNaN", (2,), shape=(2,), out=np.bool_)
    assert ends(op, box([0, 0], [1, np.inf])) == ([0, 0], [0, 1])


def test_spans_are_what_brute_force_finds():
    n, g = 7, torch.Generator().manual_seed(0)
    pairs = torch.tensor([(a, b) for a, b in itertools.product(range(n), repeat=2) if a <= b])
    first, last = pairs[:, 0], pairs[:, 1]
    x = torch.randn((2, 3, n, 2), generator=g)
    span = first.reshape(1, 1, -1, 1).expand(2, -1, -1, -1), last.reshape(1, 1, -1, 1).expand(2, -1, -1, -1)
    value = torch.randn((2, len(pairs), 1), generator=g)
    for largest, name in ((True, "amax"), (False, "amin")):
        want = torch.stack([getattr(x[:, :, a : b + 1], name)(2) for a, b in pairs.tolist()], 2)
        assert torch.equal(extreme(x, *span, largest), want)
        for part in (slice(0, 3), slice(3, 20), slice(None)):
            a, b, v = first[part].expand(2, -1), last[part].expand(2, -1), value[:, part]
            found = landed(v, a, b, n, largest)
            for place in range(n):
                there = (first[part] <= place) & (place <= last[part])
                best = (
                    getattr(v[:, there], name)(1)
                    if there.any()
                    else torch.full((2, 1), -torch.inf if largest else torch.inf)
                )
                assert torch.equal(found[:, place], best)
            assert landings(a, b, n)[0].tolist() == [
                int(((first[part] <= p) & (p <= last[part])).sum()) for p in range(n)
            ]


def test_reach_of_an_index():
    first, last, split = reach(*box([0.2, -3, -1, 2.9999, -50, np.nan], [1.9, -2, 1, 3.0001, 50, np.nan]), 4)
    assert first[0].tolist() == [1, 1, 1, 3, 3, 3] and last[0].tolist() == [1, 2, 3, 3, 0, 0]
    assert split[0].tolist() == [False, False, True, False, True, True]


@pytest.mark.parametrize("shape", ((), (3,)))
@pytest.mark.parametrize("kind", ("Greater", "GreaterOrEqual", "Less", "LessOrEqual"))
def test_planes_of_two_variables_hold_their_order(kind, shape):
    op = operator(kind, shape, shape, shape=shape, out=np.bool_)
    g = torch.Generator().manual_seed(1)
    boxes = []
    for _ in range(2):
        middle, radius = torch.randn((60, *shape), generator=g), torch.randn((60, *shape), generator=g).exp()
        boxes.append((middle - radius, middle + radius))
    xs = []
    for l, u in boxes:
        t = torch.rand((60, 40, *shape), generator=g)
        t[:, :20] = t[:, :20].round()
        xs.append(l[:, None] + (u - l)[:, None] * t)
    xs[1][:, ::4] = torch.minimum(torch.maximum(xs[0], boxes[1][0][:, None]), boxes[1][1][:, None])[:, ::4]  # ties
    planes = op.relax(*boxes)
    low, high = planes.values(*xs)
    y = op.forward(*(x.flatten(0, 1) for x in xs)).reshape(low.shape).float()
    assert (low <= y + 1e-6).all() and (y <= high + 1e-6).all()
    assert bool((planes.lower[0] != 0).any()) and bool((planes.upper[0] != 0).any())
    first, second = planes.pull(torch.ones_like(low), torch.zeros_like(low))
    assert torch.equal(first, -second)


def test_joints_of_rank_zero():
    numbers = torch.tensor([1.0, 0.0]), torch.tensor([2.0, 3.0])
    cases = [
        (operator("Where", (), (), (), shape=()), (torch.tensor([1.0, 0.0]),) * 2, numbers, numbers),
        (operator("Cast", (), shape=(), out=np.int64, to="int64"), numbers),
        (operator("GatherDynamic", (4,), (), shape=(), axis=0), (torch.zeros(2, 4), torch.ones(2, 4)), numbers),
        (operator("OneHot", (), shape=(3,), axis=0, depth=3, on=1.0, off=0.0), numbers),
    ]
    for op, *boxes in cases:
        low, high = op.interval(*boxes)
        assert low.shape == high.shape == (2, *op.out_shape) and (low <= high).all()
        a = torch.ones((2, 5, *op.out_shape))
        for parts in (op.relax(*boxes).pull(a, torch.zeros_like(a)), op.steep(a, *boxes)):
            assert [p.shape for p in parts] == [(2, 5, *s) for s in op.in_shapes]
            assert all(torch.isfinite(p).all() for p in parts)
