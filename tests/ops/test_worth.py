"""Which factors of a product are worth tighter bounds: not beside one that hardly moves; all where nothing is known."""

from __future__ import annotations

import pytest
import torch

from verifier.ops import OPS
from verifier.ops.base import Site

INF = float("inf")


def worth(a: tuple[float, float], b: tuple[float, float], dtype=torch.float32) -> tuple[bool, bool]:
    op = OPS.load()["Mul"](Site("Mul", "p", {}, (None, None), ((1,), (1,)), (1,), 13, dtype, torch.device("cpu")))
    boxes = tuple(tuple(torch.tensor([[e]], dtype=dtype) for e in box) for box in (a, b))
    return tuple(bool(t) for t in op.worth(*boxes))


@pytest.mark.parametrize("dtype", (torch.float32, torch.float64))
def test_a_factor_is_worth_it_beside_one_that_moves(dtype):
    assert worth((-1, 2), (0.5, 3), dtype) == (True, True)
    assert worth((-1, 2), (-0.01, 0.01), dtype) == (True, True)  # small, but all of it moves
    assert worth((-1, 2), (0.9999999, 1), dtype) == (False, False)
    assert worth((-1, 2), (3, 3), dtype) == (False, False)
    assert worth((0, 0), (0, 0), dtype) == (False, False)


@pytest.mark.parametrize("wide", ((-INF, INF), (0.0, INF), (-3e38, 3e38), (-1e30, 1e30)))
def test_where_nothing_is_known_everything_is_worth_it(wide):
    assert worth(wide, (-1, 1)) == (True, True)
    assert worth(wide, wide) == (True, True)


def test_an_entry_counts_wherever_it_is_used():
    """a (2, 1) times b (1, 3): an entry is worth it if it is for any of its products."""
    site = Site("Mul", "p", {}, (None, None), ((2, 1), (1, 3)), (2, 3), 13, torch.float32, torch.device("cpu"))
    op = OPS.load()["Mul"](site)
    a = (torch.tensor([[[-1.0], [2.0]]]), torch.tensor([[[1.0], [2.0]]]))
    b = (torch.tensor([[[1.0, 0.0, 5.0]]]), torch.tensor([[[1.0, 1.0, 5.0]]]))
    first, second = op.worth(a, b)
    assert first.flatten().tolist() == [True, False]
    assert second.flatten().tolist() == [False, True, False]
