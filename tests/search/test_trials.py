"""Which rule names the dimension to split: the one after which the children's bounds are best, and both where neither
is.
"""

from __future__ import annotations

import pytest
import torch

from verifier.search.domains import Domains
from verifier.search.trials import LEAST, SAMPLE, SHARE, Trials, size_of_tree


def parents(count: int, prefer, width=(1.0, 2.0, 1.5)) -> Domains:
    """Boxes whose widest dimension is 1; `prefer` is what the first rule says."""
    u = torch.tensor(width).repeat(count, 1)
    region = torch.zeros(count, dtype=torch.int64)
    prefer = torch.as_tensor(prefer).expand(count).clone()
    score = torch.full((count,), -1.0, dtype=torch.float64)
    return Domains(torch.zeros_like(u), u, region, torch.ones(count, 1, dtype=torch.bool), score, prefer)


def needs(dimension: int):
    """Bounds of domains that are refuted when one dimension is halved, and gain nothing by any other."""

    def score(domains: Domains) -> torch.Tensor:
        width = (domains.upper - domains.lower)[:, dimension]
        return torch.where(width < (1.0, 2.0, 1.5)[dimension], 0.5, -1.0).double()

    return score


@pytest.mark.parametrize("dimension, rule", ((0, "first"), (1, "second")))
def test_the_rule_that_closes_more_is_followed(dimension, rule):
    trials = Trials(torch.ones(3))
    out = trials.choose(parents(20, 0), needs(dimension))
    assert trials.rule == rule
    assert (out.prefer == dimension).all()


def test_both_are_tried_where_each_is_right_for_some():
    def score(domains):
        width = domains.upper - domains.lower
        mine = torch.where(domains.region == 0, width[:, 0] < 1, width[:, 1] < 2)
        return torch.where(mine, 0.5, -1.0).double()

    mixed = parents(40, 0)
    mixed.region = torch.arange(40) % 2
    trials = Trials(torch.ones(3))
    out = trials.choose(mixed, score)
    assert trials.rule == "both"
    assert (out.prefer == mixed.region).all()


def test_samples_stay_a_small_share_of_all():
    trials = Trials(torch.ones(3))
    for _ in range(200):
        trials.choose(parents(100, 0), needs(0))
    assert 4 * SAMPLE <= trials.tried <= SHARE * 200 * 2 * 100 + 4 * SAMPLE
    assert trials.rule == "first"


def test_a_handful_of_parents_says_nothing():
    trials = Trials(torch.ones(3))
    out = trials.choose(parents(LEAST - 1, 2), needs(1))
    assert not trials.tried and (out.prefer == 2).all()


def test_a_dimension_that_does_not_move_is_never_named():
    out = Trials(torch.ones(3)).choose(parents(20, 0, (1.0, 0.0, 0.0)), needs(1))
    assert (out.prefer == 0).all()


def test_a_dimension_that_cannot_be_halved_is_never_named():
    """A side of one step of the precision: ends that rounding moved apart, the widest there is next to its region's."""
    some = parents(20, 0)
    some.lower[:, 1] = 1.0
    some.upper[:, 1] = torch.nextafter(torch.tensor(1.0), torch.tensor(2.0))
    trials = Trials(torch.tensor([10.0, 1e-7, 10.0]))
    out = trials.choose(some, needs(2))
    assert trials.rule == "second" and (out.prefer == 2).all()


def test_bounds_that_are_not_numbers_count_as_the_worst():
    nothing = lambda domains: torch.full((len(domains),), torch.nan, dtype=torch.float64)  # noqa: E731
    trials = Trials(torch.ones(3))
    trials.choose(parents(20, 0), nothing)
    assert trials.rule == "first"


def test_trees_grow_with_the_deficit():
    sizes = [size_of_tree(q) for q in (0.0, 0.04, 0.2, 0.5, 0.9, 0.999, 1.0)]
    assert sizes == sorted(sizes) and sizes[0] == 2.0
