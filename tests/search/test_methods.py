"""Which bounding method gets further: by time and by distance to values that points show."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

from verifier.bounds.base import RowBounds
from verifier.bounds.targets import Picked
from verifier.search import methods
from verifier.search.domains import Domains


def chosen(monkeypatch, seconds: dict[str, float], low: dict[str, float], dimensions: int) -> methods.Choice:
    """For boxes [0, 1] on which the one row takes values from 1 upwards."""
    n, clock = 10, [0.0]
    region = torch.zeros(n, dtype=torch.int64)
    score = torch.full((n,), -1.0, dtype=torch.float64)
    some = Domains(torch.zeros(n, 2), torch.ones(n, 2), region, torch.ones(n, 1, dtype=torch.bool), score, region)
    row = region.unsqueeze(1)
    picked = Picked(row, torch.zeros(n, 1, dtype=torch.float64), row, torch.ones(n, 1, dtype=torch.bool), row.bool())

    def bound(method: str) -> RowBounds:
        clock[0] += seconds[method]
        lb, plane = torch.full((n, 1), low[method]), torch.ones(n, 1, 2)
        return RowBounds(lb, plane, lb, plane, torch.zeros(n, 1))

    monkeypatch.setattr(methods, "time", SimpleNamespace(monotonic=lambda: clock[0]))
    return methods.choose(some, picked, bound, lambda x: 1.0 + x.sum(1, keepdim=True).double(), dimensions)


@pytest.mark.parametrize(
    "forward, low, dimensions, better",
    (
        (0.5, 0.0, 4, "forward"),  # as close, and faster
        (2.0, 0.0, 4, "crown"),
        (0.5, -1.0, 4, "crown"),  # twice as far: four times the boxes
        (0.2, -1.0, 4, "forward"),
        (0.2, -1.0, 6, "crown"),
        (0.2, -1.0, 2, "forward"),
        (0.01, -float("inf"), 2, "crown"),
    ),
)
def test_time_against_distance(forward, low, dimensions, better, monkeypatch):
    choice = chosen(monkeypatch, {"crown": 1.0, "forward": forward}, {"crown": 0.0, "forward": low}, dimensions)
    assert choice.method == better
    assert choice.rate == pytest.approx(10 / {"crown": 1.0, "forward": forward}[better])


def test_more_dimensions_than_matter_change_nothing(monkeypatch):
    few, many = (
        chosen(monkeypatch, {"crown": 1.0, "forward": 0.2}, {"crown": 0.0, "forward": -0.7}, d)
        for d in (methods.MATTER, 50)
    )
    assert few == many
