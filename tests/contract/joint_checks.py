"""What a `Joint` promises: an interval and planes that enclose it, and facts about the planes that bounds rely on.

A check returns its violations as text (empty: kept). The planes' matrices L and U are read off by pulling unit rows
through a copy of the planes in float64: that is exact for planes of one coefficient per operand and entry, and off by
gamma of `Joint.terms` products in float64 otherwise, which is forgiven. Planes and functions are then evaluated in
longdouble. Each box is searched at its corners, its centre, near its corners and in between, and then twice around the
worst point found.

Symbols: D boxes, P points in each, O entries of the result, I entries of all variable inputs together.
"""

from __future__ import annotations

import copy
from math import prod

import numpy as np
import torch
from joint_exact import JOINT, RANGES, Range
from torch import Tensor

from verifier.ops.base import Joint, Planes, gamma
from verifier.ops.planes import EntryPlanes

L = np.longdouble
UNIT = np.finfo(L).eps
MARKS = (0.0, 1e-30, 1e-10, 1e-3, 0.5, 1.0, 2.0, 5.0, 30.0, 100.0, 1e4, 1e10, 1e30)
FAR = 1e4  # how far beyond the other end points lie where an end is infinite


def wide(x: Tensor) -> np.ndarray:
    return x.detach().double().numpy().astype(L)


def widened(planes: Planes) -> Planes:
    """The same planes, every number held in float64."""

    def double(value):
        if isinstance(value, Tensor):
            return value.double() if value.is_floating_point() else value
        if isinstance(value, (tuple, list)) and any(isinstance(v, (Tensor, tuple, list)) for v in value):
            return type(value)(double(v) for v in value)
        return widened(value) if isinstance(value, Planes) else value

    twin = copy.copy(planes)
    twin.__dict__.update({k: double(v) for k, v in planes.__dict__.items()})
    return twin


# --- boxes and points ---


def ends(rng: np.random.Generator, style: int, shape: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray]:
    """One box of a style: points, tiny, wide, at 0, crossing it, far off, huge, infinite, all sides alike."""
    middle = 3 * rng.normal(size=shape)
    size = np.exp(rng.uniform(-20, 3, shape if style % 2 else ()))
    radius = size * rng.random(shape)
    if style == 0:
        radius = 0 * radius
    elif style == 2:  # some sides have no length
        radius = radius * (rng.random(shape) < 0.5)
    elif style == 3:  # at 0 or around it
        middle = radius * rng.integers(-1, 2, shape)
    elif style == 4:
        middle = middle + rng.choice([-1e3, 1e3])
    elif style in (5, 6):
        a, b = (rng.choice(MARKS[: 10 if style == 5 else None], shape) * rng.choice([-1, 1], shape) for _ in "ab")
        return np.minimum(a, b), np.maximum(a, b)
    elif style == 7:
        middle, radius = np.full(shape, middle.flat[0] if middle.size else 0.0), np.full(shape, float(size.flat[0]))
    elif style == 8:  # the operand is fixed
        radius = np.zeros(shape)
    l, u = middle - radius, middle + radius
    if style == 9:
        l = np.where(rng.random(shape) < 0.2, -np.inf, l)
        u = np.where(rng.random(shape) < 0.2, np.inf, u)
    return l, u


def confined(l: np.ndarray, u: np.ndarray, to: Range) -> tuple[np.ndarray, np.ndarray]:
    """The box, moved into a range."""
    if to.whole:
        l, u = np.rint(l), np.rint(u)
    if np.isfinite(to.low) and not np.isfinite(to.high):
        l, u = to.low + np.minimum(abs(l), abs(u)), to.low + np.maximum(abs(l), abs(u))
    return np.clip(l, to.low, to.high), np.clip(u, to.low, to.high)


class Case:
    """An operator, boxes, and points in them with exact values."""

    def __init__(self, op: Joint, reference: Joint, seed: int = 0):
        """`reference` is the same operator in float64."""
        self.op, kind = op, op.site.kind
        ranges = RANGES.get(kind, (Range(),) * len(op.site.shapes))
        self.ranges = [ranges[i] for i in op.site.variable]
        self.rng = rng = np.random.default_rng(seed)
        self.n_in = [prod(s) for s in op.in_shapes]
        entries = max(prod(op.out_shape) * sum(self.n_in), 1)
        self.count = int(np.clip(60_000 // entries, 20, 200))
        sides = []
        for d in range(self.count):
            style = d % 10
            fixed = int(rng.integers(len(self.n_in))) if style == 8 and len(self.n_in) > 1 else -1
            styles = [(1 if style == 8 and i != fixed else style) for i in range(len(self.n_in))]
            sides.append([confined(*ends(rng, k, s), r) for k, s, r in zip(styles, op.in_shapes, self.ranges)])
        dtype = op.site.dtype
        self.boxes = []
        for i in range(len(self.n_in)):
            l, u = (torch.from_numpy(np.stack([side[i][k] for side in sides])).to(dtype) for k in (0, 1))
            self.boxes.append((l, u))
        self.low, self.high = self._flat(0), self._flat(1)
        self.finite = np.isfinite(self.low).all(1) & np.isfinite(self.high).all(1)
        low = np.where(np.isfinite(self.low), self.low, np.minimum(self.high, 0) - FAR)
        high = np.where(np.isfinite(self.high), self.high, np.maximum(self.low, 0) + FAR)
        self.a = np.where(np.isfinite(low), low, -FAR)
        self.b = np.where(np.isfinite(high), high, FAR)
        exact = JOINT.get(kind)
        self.f = exact(op) if exact else self._forward(reference)
        self.unit = 64 * (UNIT if exact else np.finfo(np.float64).eps)
        self.x = self._points()
        self.y = self.exact(self.x)

    def copy(self) -> Case:
        """The same case, as it was drawn: what checks draw next does not depend on those before."""
        out = copy.copy(self)
        out.rng = copy.deepcopy(self.rng)
        return out

    @staticmethod
    def _forward(op: Joint):
        return lambda *xs: op.forward(*(torch.from_numpy(x.astype(np.float64)) for x in xs)).double().numpy().astype(L)

    def _flat(self, end: int) -> np.ndarray:
        return np.concatenate([wide(box[end]).reshape(self.count, -1) for box in self.boxes], 1)

    def _points(self) -> np.ndarray:
        """(D, P, I): corners, centre, near corners, between."""
        rng, shape = self.rng, (self.count, 1, sum(self.n_in))
        corner = [np.zeros(shape), np.ones(shape), np.full(shape, 0.5), rng.integers(0, 2, (shape[0], 16, shape[2]))]
        near = 2.0 ** -rng.integers(1, 40, (shape[0], 8, shape[2]))
        mixed = rng.integers(0, 3, (shape[0], 8, shape[2])) / 2
        t = np.concatenate([*corner, near, 1 - near, mixed, rng.random((shape[0], 10, shape[2]))], 1).astype(L)
        return self._settled(self.a[:, None] + (self.b - self.a)[:, None] * t)

    def _settled(self, x: np.ndarray) -> np.ndarray:
        """Points put into their boxes, and on whole numbers where only these count."""
        whole = np.concatenate([np.full(n, r.whole) for n, r in zip(self.n_in, self.ranges)])
        x = np.where(whole, np.rint(x), x) if whole.any() else x
        return np.clip(x, self.a[:, None], self.b[:, None])

    def near(self, x: np.ndarray) -> np.ndarray:
        """(D, 24, I) points around one point (D, I) of each box."""
        size = self.rng.choice([0.3, 0.05, 0.005], (self.count, 24, 1)) * (self.b - self.a)[:, None]
        step = self.rng.normal(size=(self.count, 24, x.shape[1])) * (
            self.rng.random((self.count, 24, x.shape[1])) < 0.4
        )
        return self._settled(x[:, None] + size * step)

    def parts(self, x: np.ndarray) -> list[np.ndarray]:
        """(…, I) to one array (…, *in_shape_i) per input."""
        pieces = np.split(x, np.cumsum(self.n_in)[:-1], -1)
        return [p.reshape(*x.shape[:-1], *s) for p, s in zip(pieces, self.op.in_shapes)]

    def exact(self, x: np.ndarray) -> np.ndarray:
        """(D, P, I) to (D, P, O)."""
        with np.errstate(all="ignore"):
            y = self.f(*(p.reshape(-1, *s) for p, s in zip(self.parts(x), self.op.in_shapes)))
        return y.reshape(*x.shape[:2], -1)

    def below(self, lower, sign: int) -> np.ndarray:
        """Least of sign (f - g) + what is forgiven, (D, O), where lower(x) gives g and its own room at points."""
        best, x, y = None, self.x, self.y
        for _ in range(3):
            with np.errstate(all="ignore"):
                g, room = lower(x)
                gap = sign * (y - g) + room + self.unit * (np.abs(y) + np.abs(g))
            says_nothing = np.isinf(g) & (np.sign(g) == -sign)
            gap = np.where(says_nothing | ~np.isfinite(y), np.inf, np.where(np.isnan(gap), -np.inf, gap))
            best = gap.min(1) if best is None else np.minimum(best, gap.min(1))
            worst = gap.min(2).argmin(1)
            x = self.near(x[np.arange(self.count), worst])
            y = self.exact(x)
        return best

    def report(self, what: str, least: np.ndarray) -> list[str]:
        bad = np.argwhere(~(least >= 0))
        if not len(bad):
            return []
        d, k = bad[np.argmin(np.nan_to_num(least[tuple(bad.T)], nan=-np.inf))]
        where = [(float(l), float(u)) for l, u in zip(self.low[d], self.high[d])][:8]
        name = f"{self.op.site.kind} {self.op.in_shapes} {dict(self.op.site.attrs)}"
        return [f"{name}, {what}: {len(bad)} places, worst by {float(-least[d, k]):.3g} in box {d} entry {k}: {where}"]


class Matrices:
    """L, U (D, O, I), offsets and weights (D, O) of planes over a case's boxes; `room` is forgiven, times weights."""

    def __init__(self, case: Case):
        op = case.op
        self.planes = op.relax(*case.boxes)
        self.twin = widened(self.planes)
        out, count = prod(op.out_shape), case.count
        unit = torch.eye(out, dtype=torch.float64).reshape(1, out, *op.out_shape).expand(count, -1, *op.out_shape)
        zero = torch.zeros_like(unit)
        self.lower, self.upper = (
            np.concatenate([wide(p).reshape(count, out, -1) for p in self.twin.pull(*pair)], 2) * sign
            for pair, sign in (((unit, zero), 1), ((zero, -unit), -1))
        )
        named = ("lo_b", "up_b", "lo_w", "up_w")
        self.lo_b, self.up_b, self.lo_w, self.up_w = (wide(getattr(self.planes, n)).reshape(count, out) for n in named)
        self.room = 0.0 if isinstance(self.planes, EntryPlanes) else 2 * gamma(op.terms + 2, torch.float64)

    def below(self, case: Case) -> dict[str, np.ndarray]:
        found = {}
        sides = ((self.lower, self.lo_b, self.lo_w, 1), (self.upper, self.up_b, self.up_w, -1))
        for name, (matrix, offset, weight, sign) in zip(("lower plane", "upper plane"), sides):
            size = np.abs(matrix)

            def plane(x, matrix=matrix, offset=offset, weight=weight, size=size):
                y = x @ matrix.transpose(0, 2, 1) + offset[:, None]
                sums = np.abs(x) @ size.transpose(0, 2, 1) + np.abs(offset)[:, None]
                return y, (x.shape[2] + 4) * UNIT * sums + (self.room * weight[:, None] if self.room else 0.0)

            found[name] = case.below(plane, sign)
        return found


# --- checks ---


def interval(case: Case) -> list[str]:
    """The interval holds f, and is never NaN."""
    found = []
    for name, end, sign in zip(("lower end", "upper end"), case.op.interval(*case.boxes), (1, -1)):
        flat = wide(end).reshape(case.count, -1)
        found += case.report(name, case.below(lambda x, flat=flat: (flat[:, None] + 0 * x[:, :, :1], 0.0), sign))
    return found


def planes(case: Case) -> list[str]:
    """The planes enclose f."""
    return [t for name, least in Matrices(case).below(case).items() for t in case.report(name, least)]


def infinite(case: Case) -> list[str]:
    """No coefficient is infinite or NaN, and where all sides are infinite there is none."""
    m, found = Matrices(case), []
    if not (np.isfinite(m.lower).all() and np.isfinite(m.upper).all()):
        found.append(f"{case.op.site.kind}: a coefficient is not finite")
    unbounded = [(torch.full_like(l, -torch.inf), torch.full_like(u, torch.inf)) for l, u in case.boxes]
    endless = copy.copy(case)
    endless.boxes = unbounded
    m = Matrices(endless)
    if np.abs(m.lower).max(initial=0) > 0 or np.abs(m.upper).max(initial=0) > 0:
        found.append(f"{case.op.site.kind}: coefficients where all ends are infinite")
    if np.isnan(m.lo_b).any() or np.isnan(m.up_b).any():
        found.append(f"{case.op.site.kind}: NaN where all ends are infinite")
    return found


def weights(case: Case) -> list[str]:
    """Weights bound |L| |x| + |offset|."""
    m, size, found = Matrices(case), np.maximum(np.abs(case.low), np.abs(case.high)), []
    few = 4 * np.finfo(np.float64 if case.op.site.dtype == torch.float64 else np.float32).eps
    for name, matrix, offset, weight in (("lower", m.lower, m.lo_b, m.lo_w), ("upper", m.upper, m.up_b, m.up_w)):
        with np.errstate(invalid="ignore"):
            used = np.where(matrix == 0, 0, np.abs(matrix) * size[:, None]).sum(2) + np.abs(offset)
            least = np.where(np.isinf(weight) & (weight > 0), np.inf, weight * (1 + few) - used)
        found += case.report(f"{name} weight", least)
    return found


def rows_for(case: Case, dtype: torch.dtype, count: int = 5) -> tuple[Tensor, Tensor]:
    g = torch.Generator().manual_seed(1)
    shape = (case.count, count, *case.op.out_shape)
    a = torch.randn(shape, generator=g) * (torch.rand(shape, generator=g) < 0.8)
    a[:, 0] = torch.rand(shape[:1] + shape[2:], generator=g) + 0.5  # nothing cancels
    a = a.to(dtype)
    return a.clamp(min=0), a.clamp(max=0)


def pulls(case: Case) -> list[str]:
    """`pull` is pos L + neg U, and `values` are L x + lo_b and U x + up_b."""
    m, found = Matrices(case), []
    pos, neg = rows_for(case, torch.float64)
    parts = m.twin.pull(pos, neg)
    if [tuple(p.shape) for p in parts] != [(*pos.shape[:2], *s) for s in case.op.in_shapes]:
        return [f"{case.op.site.kind}: pulled rows of shapes {[tuple(p.shape) for p in parts]}"]
    have = np.concatenate([wide(p).reshape(*pos.shape[:2], -1) for p in parts], 2)
    p, n = (wide(t).reshape(*pos.shape[:2], -1) for t in (pos, neg))
    # What the weights count is forgiven in proportion: structured planes cancel in single coefficients.
    size = np.maximum(np.abs(case.low), np.abs(case.high))
    with np.errstate(invalid="ignore"):
        gap = np.abs(have - (p @ m.lower + n @ m.upper))
        off = np.where(gap == 0, 0, gap * size[:, None]).sum(2)
        counted = np.where(p == 0, 0, p * m.lo_w[:, None]) - np.where(n == 0, 0, n * m.up_w[:, None])
        room = 1e-12 * counted.sum(2)
    if (off > room).any():
        found.append(f"{case.op.site.kind}: rows are not pulled as the unit rows are, off by {float(off.max()):.3g}")
    x = case.x[:, :6]
    with np.errstate(invalid="ignore"):
        given = m.twin.values(*(torch.from_numpy(t.astype(np.float64)) for t in case.parts(x)))
        sides = ((m.lower, m.lo_b, m.lo_w), (m.upper, m.up_b, m.up_w))
        for name, y, (matrix, b, weight) in zip(("lower", "upper"), given, sides):
            want = x.astype(np.float64) @ matrix.transpose(0, 2, 1) + b[:, None]
            sums = np.abs(x) @ np.abs(matrix).transpose(0, 2, 1) + np.abs(b)[:, None]
            off = np.abs(wide(y).reshape(want.shape) - want) > 1e-9 * sums + 1e-13 * weight[:, None]
            # Infinite offsets agree or not by themselves.
            if (off & np.isfinite(want)).any() or (np.isinf(want) != np.isinf(wide(y).reshape(want.shape))).any():
                found.append(f"{case.op.site.kind}: {name} values are not those of the planes")
    return found


def terms(case: Case) -> list[str]:
    """As many products as `terms` says enter an entry of a pulled row, and no more is lost than they may lose."""
    m, found = Matrices(case), []
    most = max(int((t != 0).sum(1).max(initial=0)) for t in (m.lower, m.upper))
    if case.op.terms < most:
        found.append(f"{case.op.site.kind}: {most} products in an entry, terms is {case.op.terms}")
    dtype, info = case.op.site.dtype, torch.finfo(case.op.site.dtype)
    if dtype == torch.float32:
        pos, neg = rows_for(case, dtype)
        low, high = (
            np.concatenate([wide(p).reshape(*pos.shape[:2], -1) for p in planes.pull(*pair)], 2)
            for planes, pair in ((m.planes, (pos, neg)), (m.twin, (pos.double(), neg.double())))
        )
        size = np.maximum(np.abs(case.low), np.abs(case.high))
        p, n = (wide(t).reshape(*pos.shape[:2], -1) for t in (pos, neg))
        with np.errstate(invalid="ignore"):
            lost = np.where(low == high, 0, np.abs(low - high) * size[:, None]).sum(2)
            room = (
                1.001
                * gamma(case.op.terms, dtype)
                * (np.where(p == 0, 0, p * m.lo_w[:, None]) - np.where(n == 0, 0, n * m.up_w[:, None])).sum(2)
                + 4 * info.tiny * (case.op.terms + 2) * size.sum(1)[:, None]
            )
        if (lost > room)[case.finite].any():
            found.append(f"{case.op.site.kind}: pulling loses more than {case.op.terms} products may")
    return found


def touching(case: Case) -> list[str]:
    """On boxes that are moderate points both planes and both ends meet f."""
    points = (case.low == case.high).all(1) & (np.abs(case.high) < 30).all(1)
    if not points.any():
        return []
    m, eps = Matrices(case), np.finfo(np.float64 if case.op.site.dtype == torch.float64 else np.float32).eps
    x = case.low[:, None]
    with np.errstate(invalid="ignore"):
        low, high = ((x @ t.transpose(0, 2, 1))[:, 0] + b for t, b in ((m.lower, m.lo_b), (m.upper, m.up_b)))
    room = (100 * eps + 1e-10) * (m.lo_w + m.up_w + 1e-6)
    found = []
    bottom, top = (wide(t).reshape(low.shape) for t in case.op.interval(*case.boxes))
    for what, gap in (("planes", high - low), ("ends", top - bottom)):
        if not (gap <= room)[points].all():
            found.append(f"{case.op.site.kind}: {what} apart by {float(gap[points].max()):.3g} on a point")
    return found


def pushed(case: Case) -> list[str]:
    """`push` is L+ low + L- high and U+ high + U- low, `reach` at least |L| r and |U| r; where planes have them."""
    m, found = Matrices(case), []
    if not m.twin.fan:
        return found
    g = torch.Generator().manual_seed(2)
    shapes = [(case.count, 3, *s) for s in case.op.in_shapes]
    low, high, r = ([torch.randn(s, generator=g, dtype=torch.float64) for s in shapes] for _ in range(3))
    r = [t.abs() for t in r]
    a, b, c = (np.concatenate([wide(t).reshape(case.count, 3, -1) for t in ts], 2) for ts in (low, high, r))
    reach = wide(m.twin.reach(*r)).reshape(case.count, 3, -1)
    pairs = ((m.lower, a, b), (m.upper, b, a))
    for y, (matrix, first, second) in zip(m.twin.push(low, high), pairs):
        rising, falling = (np.clip(matrix, *ends).transpose(0, 2, 1) for ends in ((0, None), (None, 0)))
        want, room = first @ rising + second @ falling, 1e-12 * (np.abs(first) @ rising - np.abs(second) @ falling)
        if (np.abs(wide(y).reshape(want.shape) - want) > room).any():
            found.append(f"{case.op.site.kind}: bounds are not pushed as the unit rows say")
        if (c @ np.abs(matrix).transpose(0, 2, 1) > reach * (1 + 1e-12)).any():
            found.append(f"{case.op.site.kind}: reach is too short")
    return found


def settled(case: Case) -> list[str]:
    """Where no entry is loose, smaller boxes of it do not bring the planes closer."""
    op, rng, smaller = case.op, np.random.default_rng(3), []
    for (l, u), loose in zip(case.boxes, op.loose(*case.boxes)):
        t = torch.from_numpy(np.sort(rng.random((2, *l.shape)), 0)).to(l.dtype)
        a, b = (torch.maximum(torch.minimum(l + (u - l) * s, u), l) for s in t)
        keep = loose | ~torch.isfinite(u - l)
        smaller.append((torch.where(keep, l, a), torch.where(keep, u, b)))
    inside = copy.copy(case)
    inside.boxes = smaller
    old, new, found = Matrices(case), Matrices(inside), []
    low, high = inside._flat(0), inside._flat(1)
    with np.errstate(invalid="ignore"):
        x = np.where(case.finite[:, None], low + (high - low) * rng.random(low.shape), 0)[:, None]
    eps = np.finfo(np.float64 if op.site.dtype == torch.float64 else np.float32).eps
    for name, sign in (("lower", 1), ("upper", -1)):
        before, after = (
            (x @ getattr(m, name).transpose(0, 2, 1))[:, 0] + getattr(m, f"{name[:2]}_b") for m in (old, new)
        )
        room = (300 * eps + 1e-9) * (old.lo_w + old.up_w + 1e-6)
        with np.errstate(invalid="ignore"):
            if (sign * (after - before) > room)[case.finite].any():
                found.append(f"{op.site.kind}: the {name} planes gain where nothing is loose")
    return found


CHECKS = (interval, planes, infinite, weights, pulls, terms, touching, pushed, settled)


def violations(case: Case) -> list[str]:
    return [text for check in CHECKS for text in check(case)]
