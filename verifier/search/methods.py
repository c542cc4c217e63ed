"""Which of two bounding methods gets further per second, by what both say of the same open domains.

A relaxation loses in proportion to the square of a box's width, so a method that is further below the true values by a
factor q needs boxes smaller by the root of q in each dimension: q^(m / 2) times as many, m the dimensions that matter.
What the true values are is shown from above, by the points at which either method's planes are least, and the middle.
(Not by the share that a method closes at once, of which the easy parts are most: one that stalls on the others may
close many domains a second.)

Sound: only the choice of a method depends on it.

Symbols: D domains, S rows, m dimensions.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from verifier.bounds.base import RowBounds
from verifier.bounds.targets import Picked, best_rows
from verifier.search.domains import Domains

FIRST, SECOND = "crown", "forward"
MATTER = 6  # dimensions along which boxes have to be small, at most


class Choice(NamedTuple):
    """The method, domains that it bounds per second, and what was measured."""

    method: str
    rate: float
    facts: dict[str, float]


def choose(
    domains: Domains,
    picked: Picked,
    bound: Callable[[str], RowBounds],
    values: Callable[[Tensor], Tensor],
    dimensions: int,
) -> Choice:
    """The cheaper of `FIRST` and `SECOND`. `bound`: the picked rows' bounds by a method; `values`: what the rows are,
    constants included, at points (D, m): (D, S).
    """
    seconds, low, points = {}, {}, [domains.lower + (domains.upper - domains.lower) / 2]
    for method in (FIRST, SECOND):
        start = time.monotonic()
        bounds = bound(method)
        seconds[method] = max(1e-6, time.monotonic() - start)
        low[method], speaker = best_rows(picked, bounds.lb.double() + picked.const, domains.open)
        points.append(lowest(bounds.plane, speaker, domains))
    true = torch.stack([best_rows(picked, values(x), domains.open)[0] for x in points]).amin(0)
    gap = {m: torch.nan_to_num(true - b, nan=1e30, posinf=1e30).clamp(1e-9, 1e30) for m, b in low.items()}
    looser = float((gap[SECOND] / gap[FIRST]).log().mean().exp())
    needs = {FIRST: seconds[FIRST], SECOND: seconds[SECOND] * looser ** (min(dimensions, MATTER) / 2)}
    method = min(needs, key=needs.get)
    facts = {f"{SECOND} looser by": round(looser, 3)} | {f"seconds, {m}": round(s, 3) for m, s in seconds.items()}
    return Choice(method, len(domains) / seconds[method], facts)


def lowest(plane: Tensor, speaker: Tensor, domains: Domains) -> Tensor:
    """Where the planes (D, S, m) of rows `speaker` (D,) are least over the domains: (D, m)."""
    slope = plane.gather(1, speaker.view(-1, 1, 1).expand(-1, -1, plane.shape[2])).squeeze(1)
    return torch.where(slope > 0, domains.lower, domains.upper)
