"""What a function of one number promises: intervals and lines that enclose it, for every slope, in extended precision.

A check gives its violations as text (none: kept), one after the other where each takes long to look for. Lines are
evaluated on the very numbers that the operator hands out: the product and the sum in longdouble are off by a few units
of longdouble, and only that much is forgiven. Each interval is searched at its ends, at kinks and inflections, on a
grid that is fine towards the ends, and then twice around the lowest local minima found.

Symbols: K intervals, P points in each; l, u, slopes and offsets are tensors (K,) in the precision under test.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from exact import Exact, L
from torch import Tensor

UNIT = 8 * np.finfo(L).eps
FINE = [0.0, 1.0, 0.5, *(t for k in range(1, 40, 3) for t in (2.0**-k, 1 - 2.0**-k)), *np.linspace(0.02, 0.98, 25)]


def wide(x: Tensor | None, like: Tensor) -> np.ndarray:
    return np.zeros(like.shape, L) if x is None else x.detach().cpu().double().numpy().astype(L)


def neighbours(x: Tensor) -> Tensor:
    """Numbers, and the next ones above and below."""
    return torch.cat([x, torch.nextafter(x, x + torch.inf), torch.nextafter(x, x - torch.inf)])


def intervals(exact: Exact, dtype: torch.dtype, seed: int = 0, n: int = 800) -> tuple[Tensor, Tensor]:
    """Adversarial and random intervals: tiny and huge, at and around every special point, one-sided, degenerate."""
    info = torch.finfo(dtype)
    marks = [0.0, info.tiny, 1e-30, 1e-10, 1e-3, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0, 100.0, 1e4, 1e10, 1e30]
    g = torch.Generator().manual_seed(seed)
    special = neighbours(torch.tensor(sorted({*exact.points, 0.0}), dtype=dtype))
    ends = neighbours(torch.tensor(sorted({s * m for m in marks for s in (-1, 1)}), dtype=dtype))
    ends = torch.cat([special, ends])
    pairs = torch.cartesian_prod(ends, ends)
    # All pairs of numbers at special points, and a choice of the others.
    chosen = torch.rand(len(pairs), generator=g) < 2 * n / len(pairs)
    pairs = torch.cat([torch.cartesian_prod(special, special)[:2000], torch.stack([ends, ends], 1), pairs[chosen]])
    l, u = pairs.unbind(1)
    middle = 3 * torch.randn(n, generator=g, dtype=torch.float64)
    radius = torch.exp(torch.empty(n, dtype=torch.float64).uniform_(-20, 4, generator=g))
    near = torch.tensor(exact.points, dtype=torch.float64)[torch.randint(len(exact.points), (n,), generator=g)]
    middle = torch.where(torch.rand(n, generator=g) < 0.5, middle, near + radius * (torch.rand(n, generator=g) * 2 - 1))
    l, u = torch.cat([l, (middle - radius).to(dtype)]), torch.cat([u, (middle + radius).to(dtype)])
    low, high = exact.domain
    inside = (l <= u) & (l.double() >= low) & (u.double() <= high)
    if not exact.closed:
        inside &= ((l > low) | (low == -np.inf)) & ((u < high) | (high == np.inf))
    return l[inside], u[inside]


def points_in(exact: Exact, l: Tensor, u: Tensor) -> np.ndarray:
    """(K, P) points of each interval."""
    a, b = wide(l, l)[:, None], wide(u, u)[:, None]
    grid = a + (b - a) * np.array(FINE, L)
    marks = np.array(exact.points, L)
    beside = [np.nextafter(marks, s * L(np.inf)) for s in (-1, 1)]  # limits from either side, where f jumps
    special = np.concatenate([marks, *beside, 3 * marks + 1])[None].repeat(len(a), 0)
    return np.clip(np.concatenate([grid, special, np.zeros_like(a)], 1), a, b)


def basins(gap: np.ndarray, count: int = 3) -> np.ndarray:
    """(K, count) places of the lowest local minima of gap (K, P), whose points are sorted."""
    before, after = np.full_like(gap, np.inf), np.full_like(gap, np.inf)
    before[:, 1:], after[:, :-1] = gap[:, :-1], gap[:, 1:]
    low = np.where((gap <= before) & (gap < after), gap, np.inf)
    return np.argpartition(low, count, 1)[:, :count]


def next_to(x: np.ndarray, a: np.ndarray, b: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """For sorted x (..., P) the nearest numbers below and above each that differ from it; a and b where none does."""
    below, above = (np.broadcast_to(t, x.shape).copy() for t in (a, b))
    for k in range(1, x.shape[-1]):
        below[..., k] = np.where(x[..., k - 1] < x[..., k], x[..., k - 1], below[..., k - 1])
        above[..., -1 - k] = np.where(x[..., -k] > x[..., -1 - k], x[..., -k], above[..., -k])
    return below, above


def between(beside: tuple[np.ndarray, ...], place: np.ndarray, a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Points (K, B, 13) between the neighbours, (K, 1 or B, P) on either side, of the numbers at `place` (K, B)."""
    left, right = (np.take_along_axis(t, place[..., None], 2) for t in beside)
    return np.clip(left + (right - left) * np.linspace(0, 1, 13, dtype=L), a, b)


class Samples:
    """Points of the intervals and the exact values there, searched once for many lines."""

    def __init__(self, exact: Exact, l: Tensor, u: Tensor):
        self.exact, self.l, self.u = exact, l, u
        self.a, self.b = wide(l, l)[:, None], wide(u, u)[:, None]
        self.x = np.sort(points_in(exact, l, u), 1)
        self.y = exact.f(self.x)
        self.beside = next_to(self.x, self.a, self.b)

    def below(self, slope: Tensor, offset: Tensor | None, sign: int) -> np.ndarray:
        """Least of sign (f(x) - slope x - offset) over each interval, plus what the reference may be off by: (K,).

        Negative is a violation. Offsets that say nothing (infinite on the safe side) are none; a NaN is.
        """
        s, o = wide(slope, slope)[:, None, None], wide(offset, slope)[:, None, None]
        gap = self._gap(self.x[:, None], self.y[:, None], s, o, sign)
        best, place, beside = gap.min((1, 2)), basins(gap[:, 0]), tuple(t[:, None] for t in self.beside)
        a, b = self.a[..., None], self.b[..., None]
        for _ in range(2):
            x = between(beside, place, a, b)
            gap = self._gap(x, self.exact.f(x), s, o, sign)
            best, place, beside = np.minimum(best, gap.min((1, 2))), gap.argmin(2), next_to(x, a, b)
        return best

    @staticmethod
    def _gap(x: np.ndarray, y: np.ndarray, s: np.ndarray, o: np.ndarray, sign: int) -> np.ndarray:
        with np.errstate(invalid="ignore", over="ignore"):
            size = s * x  # in place from here on: fresh memory costs more than the arithmetic
            gap = size + o
            gap = np.subtract(*((y, gap) if sign > 0 else (gap, y)), out=gap)
            np.abs(size, out=size)
            size += np.abs(y) + np.abs(o)
            size *= UNIT
            gap += size
        undefined = np.isnan(gap)
        if undefined.any():
            gap = np.where(undefined, np.where(np.isinf(o) & (np.sign(o) == -sign), np.inf, -np.inf), gap)
        return gap

    def report(self, what: str, least: np.ndarray, *shown: Tensor | None) -> list[str]:
        bad = np.flatnonzero(~(least >= 0))
        if not len(bad):
            return []
        k = bad[np.argmin(np.nan_to_num(least[bad], nan=-np.inf))]
        numbers = ", ".join("0" if t is None else repr(float(t[k])) for t in shown)
        where = f"[{float(self.l[k])!r}, {float(self.u[k])!r}]"
        return [f"{what}: {len(bad)} of {len(least)} intervals, worst by {float(-least[k]):.3g} on {where} ({numbers})"]


def lines(op, samples: Samples) -> list[str]:
    """The default lines enclose f."""
    lo_a, lo_b, up_a, up_b = op.relax(samples.l, samples.u)
    found = samples.report("lower line", samples.below(lo_a, lo_b, 1), lo_a, lo_b)
    return found + samples.report("upper line", samples.below(up_a, up_b, -1), up_a, up_b)


def interval(op, samples: Samples) -> list[str]:
    """The range encloses f."""
    low, high = op.interval((samples.l, samples.u))
    flat = torch.zeros_like(low)
    found = samples.report("lower end", samples.below(flat, low, 1), low)
    return found + samples.report("upper end", samples.below(flat, high, -1), high)


def slopes_to_try(op, samples: Samples, seed: int = 1) -> list[Tensor]:
    """Slopes for every interval: none, small, large, of chord and tangents, of either sign, at random."""
    l, u = samples.l, samples.u
    tangents = []
    for x in (samples.a, samples.b, (samples.a + samples.b) / 2):
        step = np.maximum(np.abs(x), L(1)) * L(2.0**-20)
        with np.errstate(invalid="ignore", over="ignore", divide="ignore"):
            tangents.append(((samples.exact.f(x + step) - samples.exact.f(x - step)) / (2 * step))[:, 0])
    with np.errstate(invalid="ignore", over="ignore", divide="ignore"):
        tangents.append(((samples.y[:, -1] - samples.y[:, 0]) / (samples.b - samples.a)[:, 0]))
    largest = 1e6
    found = [torch.from_numpy(np.clip(np.nan_to_num(t.astype(np.float64)), -largest, largest)).to(l) for t in tangents]
    found += [torch.full_like(l, s) for s in (0.0, 1e-30, -1e-30, 1e-3, -1e-3, 0.25, 1.0, -1.0, 1e3, -1e3)]
    g = torch.Generator().manual_seed(seed)
    return found + [
        torch.randn(len(l), generator=g, dtype=torch.float64).to(u),
        torch.rand(len(l), generator=g, dtype=torch.float64).to(u),
    ]


def every_slope(op, samples: Samples) -> Iterator[str]:
    """For any slope the offsets enclose f."""
    for s in slopes_to_try(op, samples):
        low, high = op.offsets(samples.l, samples.u, s)
        yield from samples.report("lower offset", samples.below(s, low, 1), s, low)
        yield from samples.report("upper offset", samples.below(s, high, -1), s, high)


def infinite(op, samples: Samples) -> Iterator[str]:
    """Where an end is infinite the lines are flat, and enclose f on what is finite of the interval."""
    low, high = samples.exact.domain
    l, u = samples.l, samples.u
    cases = [(l, torch.full_like(u, torch.inf))] if high == np.inf else []
    cases += (
        [(torch.full_like(l, -torch.inf), u), (torch.full_like(l, -torch.inf), torch.full_like(u, torch.inf))]
        if low == -np.inf
        else []
    )
    for a, b in cases:
        parts = op.relax(a, b)
        if bool((parts.lo_a != 0).any()) or bool((parts.up_a != 0).any()):
            yield "lines on an infinite interval are not flat"
        inner = Samples(samples.exact, *(torch.clamp(t, -1e32, 1e32) for t in (a, b)))
        yield from inner.report("lower line, infinite end", inner.below(parts.lo_a, parts.lo_b, 1), parts.lo_b)
        yield from inner.report("upper line, infinite end", inner.below(parts.up_a, parts.up_b, -1), parts.up_b)


def exact_where_linear(op, samples: Samples) -> list[str]:
    """Between kinks of a piecewise linear function, and where nothing is `loose`, both lines are the function."""
    l, u = samples.l, samples.u
    settled = ~op.loose(l, u)
    if samples.exact.linear:
        settled |= ~torch.stack([(l < p) & (u > p) for p in torch.tensor(samples.exact.points, dtype=l.dtype)]).any(0)
    lo_a, lo_b, up_a, up_b = (wide(t, l) for t in op.relax(l, u))
    scale = np.abs(samples.y).max(1) + np.maximum(np.abs(samples.a), np.abs(samples.b))[:, 0]
    apart = np.maximum(*(np.abs((up_a - lo_a) * e[:, 0] + up_b - lo_b) for e in (samples.a, samples.b)))
    settled = settled.numpy() & (np.abs(samples.y).max(1) < torch.finfo(l.dtype).max / 8)  # numbers there are
    room = 64 * torch.finfo(l.dtype).eps * scale + 8 * torch.finfo(l.dtype).tiny - np.where(settled, apart, 0)
    return samples.report("lines apart where the function is linear", room)


def touching(op, samples: Samples) -> list[str]:
    """On ordinary intervals no line could move towards the function by a thousandth of its scale: offsets are exact."""
    l, u = samples.l, samples.u
    ordinary = ((l.abs() < 50) & (u.abs() < 50) & (u - l > 1e-3)).numpy()
    ordinary &= np.abs(samples.y).max(1) < torch.finfo(l.dtype).max / 8
    lo_a, lo_b, up_a, up_b = op.relax(l, u)
    room = 1e-3 * (1 + np.abs(samples.y).max(1))
    found = []
    for what, slope, offset, sign in (("lower", lo_a, lo_b, 1), ("upper", up_a, up_b, -1)):
        slack = np.where(ordinary, room - samples.below(slope, offset, sign), 0)
        found += samples.report(f"{what} line away from the function", slack, slope, offset)
    return found


def hull(x: np.ndarray, y: np.ndarray, at: float) -> float:
    """The greatest convex function below the points (x, y), x sorted, at a number between the first and the last x."""
    i, j = 0, len(x) - 1
    while True:
        slope = (y[j] - y[i]) / (x[j] - x[i])
        rest = y - slope * x
        k = int(rest.argmin())
        if not rest[k] < min(rest[i], rest[j]) - 1e-12 * (1 + np.abs(rest).max()):
            return y[i] + slope * (at - x[i])
        i, j = (k, j) if x[k] <= at else (i, k)


def tight(op, exact: Exact, seed: int = 2, n: int = 60) -> list[str]:
    """On ordinary intervals no slope gives a line that leaves less than 0.99 of the area between f and the default one.

    The best line lies, in the middle, on the convex hull of a grid of 400 points and more; in float64.
    """
    low, high = (max(min(e, 6.0), -6.0) for e in exact.domain)
    g = torch.Generator().manual_seed(seed)
    ends = low + (high - low) * torch.rand((n, 2), generator=g, dtype=torch.float64)
    l, u = ends.sort(1).values.unbind(1)
    l, u = l[u - l > 0.05], u[u - l > 0.05]
    parts = [t.numpy() for t in op.relax(l, u) if t is not None]
    lo_a, lo_b, up_a, up_b = parts if len(parts) == 4 else [wide(t, l).astype(float) for t in op.relax(l, u)]
    found = []
    for k in range(len(l)):
        x = np.linspace(float(l[k]), float(u[k]), 400)
        x = np.sort(np.concatenate([x, np.clip(exact.points, x[0], x[-1])]))
        y = exact.f(x.astype(L)).astype(float)
        for _ in range(30):  # a jump needs points on both sides of it
            steep = np.flatnonzero(np.abs(np.diff(y)) > 0.01 * np.ptp(y))
            if not len(steep):
                break
            halves = (x[steep] + x[steep + 1]) / 2
            x = np.insert(x, steep + 1, halves)
            y = np.insert(y, steep + 1, exact.f(halves.astype(L)).astype(float))
        middle, mean = (x[0] + x[-1]) / 2, np.trapezoid(y, x) / (x[-1] - x[0])
        for what, sign, a, b in (("lower", 1, lo_a[k], lo_b[k]), ("upper", -1, up_a[k], up_b[k])):
            gap, least = sign * mean - sign * (a * middle + b), sign * mean - hull(x, sign * y, middle)
            if not gap <= least + 0.01 * abs(least) + 1e-6 * (1 + np.abs(y).max()):
                found.append(f"{what} line on [{x[0]:.4g}, {x[-1]:.4g}]: area {gap:.4g} (u - l), the best {least:.4g}")
    return found[:1]


def evaluation(op, exact: Exact, margin: float = 2.0, n: int = 2000, seed: int = 4) -> list[str]:
    """f as evaluated is off by no more than a part of what the operator declares, on thousands of points.

    `margin` is what is kept for points that are worse than those tried. What float cannot hold is left out.
    """
    info, g = torch.finfo(op.site.dtype), torch.Generator().manual_seed(seed)
    size = torch.exp(torch.empty(n, dtype=torch.float64).uniform_(-25, 12, generator=g))
    size = size * (1 - 2 * torch.randint(2, (n,), generator=g))
    near = torch.tensor(exact.points, dtype=torch.float64)[torch.randint(len(exact.points), (n,), generator=g)]
    x = torch.cat([size, 8 * torch.rand(n, generator=g, dtype=torch.float64) - 4, near + size.clamp(-1, 1) / 4])
    x = neighbours(torch.cat([x, torch.tensor(exact.points, dtype=torch.float64)]).to(op.site.dtype))
    x = x[(x.double() > exact.domain[0]) & (x.double() < exact.domain[1])]
    wide_x = wide(x, x)
    with np.errstate(over="ignore"):
        y, have = exact.f(wide_x), wide(op.f(x), x)
    held = (np.abs(y) < info.max / 8) & ((np.abs(y) > info.tiny) | (y == 0))
    declared = info.eps * (op.ulps * np.abs(y) + op.swing * np.minimum(np.abs(wide_x), op.far) + op.fuzz)
    if hasattr(op, "slack"):  # a bound of its own
        declared = wide(op.slack(x, torch.zeros_like(x)), x)
    room = declared / margin + info.tiny + UNIT * np.abs(y)
    off = np.where(held, np.abs(have - y) - room, 0)
    k = int(np.nan_to_num(off, nan=np.inf).argmax())
    units = float(np.abs(have[k] - y[k]) / (info.eps * np.abs(y[k]) + info.tiny))
    return [] if off[k] <= 0 else [f"{op.site.kind} at {float(x[k])!r} off by {units:.3g} epsilons"]


CHECKS = (lines, interval, every_slope, infinite, exact_where_linear, touching)


def violations(op, exact: Exact, n: int = 300) -> list[str]:
    samples = Samples(exact, *intervals(exact, op.site.dtype, n=n))
    found = [text for check in CHECKS for text in check(op, samples)]
    return found + (tight(op, exact) if op.site.dtype == torch.float64 else [])
