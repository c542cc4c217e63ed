"""Softmax, its logarithm, and log-sum-exp along axes: planes whose matrix is a diagonal minus a matrix of rank one.

Per group of K entries let e_j = exp(x_j), Z = sum e_j, p_i = e_i / Z, LSE = log Z, all with x shifted by the largest u
of the group, so that nothing overflows. On [l_j, u_j] the chord lies above exp: e_j <= k_j x_j + b_j for any k_j, with
b_j the larger of the offsets at both ends (exp - k x is convex). Call the sum of the chords C(x) >= Z, and m the middle
of the box. After Wei et al., "Convex Bounds on the Softmax Function with Applications to Robustness Verification"
(AISTATS 2023, arXiv 2303.01713), with e_i the unit vector in gradients:

* lower: p_i >= exp(x_i) / C(x), which is convex, since exp(x_i - log C) composes the convex x_i - log C with exp. So it
  lies above its tangent at m, of gradient g (e_i - k / C(m)), g = exp(m_i) / C(m).
* upper: p_i = exp(z), z = x_i - LSE in [zl, zu]. exp lies below its chord c z + a, c >= 0, and z below its tangent at
  m, since LSE is convex: gradient c (e_i - softmax(m)).

Per entry the better plane at m is kept, this one or the constant at the end of the interval: the volume between a plane
and p_i depends on the plane through its value at m alone. The decomposed form (exp, sum, reciprocal, product, each
between lines of its own) was tried and left out: below, at m its planes are worth exp(m_i) / C(m) minus (exp(m_i) -
el)(1 / C(m) - 1 / Su) or (eu - exp(m_i))(1 / Sl - 1 / C(m)), S in [Sl, Su] the sum and [el, eu] the range of exp(x_i),
so never more than the direct plane; above it closed less than a hundredth of the gap at m, on any width tried.

log p_i = x_i - LSE with LSE between its tangent at m and log C(m) + (C(x) - C(m)) / C(m), a tangent of the concave log.

An entry that is -inf on the whole box (its score is masked) has exp(x_j) = 0 and takes no part: p_j is 0, log p_j is
-inf, and everything else is as in a group without it.

The range of p_i is that of 1 / (1 + sum_(j != i) exp(x_j - x_i)), monotone in every entry: its ends lie at corners.

Rounding. Everything is formed in float64. A relative error of `tolerance` covers an exponential (its argument, below
746 in size or the value is 0, is off by 2^-53 of itself: 1e-13) and what is built from a few of them and sums of K.
Planes are anchored at m: a value V there and a gradient G give V + G (x - m). Rounding G to the working precision moves
the plane by at most 2 eps |G| |x - m|, which the offset pays for, as it does for `tolerance` of V, of G (x - m), and
for the rounding of G m.

Symbols: D domains, G groups, K entries each; a row's coefficients are d_i e_i - c_i w, with d, c, w (D, G, K).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from verifier.ops import OPS
from verifier.ops.base import Joint, Planes, Shape, Site, size
from verifier.ops.planes import outward

Box = tuple[Tensor, Tensor]
PAIRS = 1 << 21  # differences of pairs of entries held at a time


class Groups:
    """Entries of a shape that are taken together along axes: (N, *shape) to (N, G, K) and back."""

    def __init__(self, shape: Shape, axes: tuple[int, ...]):
        kept = [k for k in range(len(shape)) if k not in axes]
        self.shape, self.order = shape, (*kept, *axes)
        self.inverse = tuple(self.order.index(k) for k in range(len(shape)))
        self.moved = tuple(shape[k] for k in self.order)
        self.length = size(tuple(shape[k] for k in axes))

    def split(self, x: Tensor) -> Tensor:
        return x.permute(0, *(k + 1 for k in self.order)).reshape(x.shape[0], -1, self.length)

    def join(self, y: Tensor) -> Tensor:
        return y.reshape(y.shape[0], *self.moved).permute(0, *(k + 1 for k in self.inverse)).contiguous()


def tolerance(length: int) -> float:
    return 1e-12 + 2e-15 * length


@dataclass
class Shifted:
    """Groups of a box in float64, shifted by their largest u: ends, middle m, half-width r; exponentials and chords.

    `el`, `eu` lie outside the exponentials of the ends, `em` is that of the middle, C(m) = `cm`, chord slopes `k`.
    """

    l: Tensor
    u: Tensor
    m: Tensor
    r: Tensor
    known: Tensor  # (D, G, 1): all ends of the group are finite, but for those of masked entries
    masked: Tensor  # (D, G, K): -inf on the whole box; ends and middle are 0 here, exponentials and slopes too

    @classmethod
    def of(cls, l: Tensor, u: Tensor) -> Shifted:
        l, u = l.double(), u.double()
        finite = torch.isfinite(u - l) & (u.abs() < 1e300) & (l.abs() < 1e300)
        masked = u == -torch.inf
        known = (finite | masked).all(-1, keepdim=True) & finite.any(-1, keepdim=True)
        masked = masked & known
        l, u = (torch.where(known & ~masked, t, 0.0) for t in (l, u))
        m = l + (u - l) / 2
        return cls(l, u, m, torch.maximum(u - m, m - l), known, masked)

    def __post_init__(self):
        hidden = lambda x: torch.where(self.masked, -torch.inf, x)
        top = hidden(self.u).amax(-1, keepdim=True)
        self.el = torch.exp(hidden(self.l) - top) * (1 - 2e-13)
        self.eu = torch.where(self.masked, 0.0, torch.exp(hidden(self.u) - top) * (1 + 2e-13) + 1e-300)
        self.em = torch.exp(hidden(self.m) - top)
        self.top, width = top, self.u - self.l
        wide = width > 1e-9
        self.k = torch.where(wide, (self.eu - self.el) / torch.where(wide, width, 1.0), self.em)
        # The chord against m, e_j <= k (x - m) + at: both ends must lie below it.
        self.at = torch.maximum(
            self.eu - self.k * (self.u - self.m), self.el * (1 + 1e-12) + self.k * (self.m - self.l)
        )
        self.at = self.at * (1 + 4e-15)
        self.cm = self.at.sum(-1, keepdim=True)
        self.zm = self.em.sum(-1, keepdim=True)
        self.soft = torch.softmax(hidden(self.m), -1)
        self.z = torch.where(self.masked, 0.0, torch.log_softmax(hidden(self.m), -1))


class GroupPlanes(Planes):
    """Rows d_i e_i - c_i w of both sides, in groups; `lower`, `upper`: (d, c, w) each (D, G, K)."""

    def __init__(self, groups: Groups, lower: tuple[Tensor, ...], upper: tuple[Tensor, ...], ends, weights):
        super().__init__(*ends, *weights)
        self.groups, self.lower, self.upper = groups, lower, upper

    def pull(self, pos: Tensor, neg: Tensor) -> tuple[Tensor, ...]:
        total = None
        for rows, (d, c, w) in ((pos, self.lower), (neg, self.upper)):
            rows = self.groups.split(rows.flatten(0, 1)).reshape(*rows.shape[:2], *d.shape[1:])
            part = rows * d.unsqueeze(1)
            part = part - torch.einsum("dsgk,dgk->dsg", rows, c).unsqueeze(-1) * w.unsqueeze(1)
            total = part if total is None else total + part
        return (self.groups.join(total.flatten(0, 1)).reshape(*pos.shape[:2], *self.groups.shape),)

    def values(self, *xs: Tensor) -> tuple[Tensor, Tensor]:
        (x,), found = xs, []
        rows = self.groups.split(x.flatten(0, 1)).reshape(*x.shape[:2], *self.lower[0].shape[1:])
        for (d, c, w), offset in ((self.lower, self.lo_b), (self.upper, self.up_b)):
            y = rows * d.unsqueeze(1) - torch.einsum("dsgk,dgk->dsg", rows, w).unsqueeze(-1) * c.unsqueeze(1)
            found.append(self.groups.join(y.flatten(0, 1)).reshape(x.shape) + offset.unsqueeze(1))
        return found[0], found[1]


def anchored(at: Shifted, value: Tensor, d: Tensor, c: Tensor, w: Tensor, mass: Tensor, sign: int, dtype: torch.dtype):
    """One side's rows in `dtype`, offset and weight (D, G, K): planes worth `value` at m, of gradient d_i e_i - c_i w.

    `mass`: the sum of sizes that `value` was summed from. sign 1: lower, -1: upper.
    """
    info, length = torch.finfo(dtype), w.shape[-1]
    d, c, w = (torch.where(at.known, t, 0.0).to(dtype) for t in (d, c, w))
    dd, cc, ww = d.double(), c.double(), w.double()
    rough = 4 * info.eps + tolerance(length) if dtype != torch.float64 else 2 * tolerance(length)

    def through(x: Tensor) -> Tensor:
        alone = dd.abs() * x if d.shape == w.shape else 0.0  # log-sum-exp has one row per group, and d = 0
        return alone + cc.abs() * (ww.abs() * x).sum(-1, keepdim=True)

    err = tolerance(length) * mass + rough * through(at.r)
    err = err + 8 * info.tiny * (1 + cc.abs()) * (at.r.sum(-1, keepdim=True) + 1)
    err = err + (length + 8) * 2.3e-16 * through(at.m.abs())
    alone = dd * at.m if d.shape == w.shape else 0.0
    offset = value - alone + cc * (ww * at.m).sum(-1, keepdim=True) - sign * err
    offset = offset.to(dtype)
    offset = outward(offset, offset)[0 if sign > 0 else 1]
    weight = through(torch.maximum(at.l.abs(), at.u.abs())).to(dtype) * (1 + 8 * info.eps)
    return (d, c, w), offset, (weight + offset.abs()) * (1 + 2 * info.eps)


class AlongAxes(Joint):
    """A function of groups along `axes` whose result has the shape of its input."""

    def __init__(self, site: Site):
        super().__init__(site)
        self.axes = tuple(k + 1 for k in site.attrs["axes"])
        self.groups = Groups(self.in_shapes[0], tuple(site.attrs["axes"]))
        self.terms = 2 * self.groups.length + 4

    def logs(self, l: Tensor, u: Tensor) -> Box:
        """The range of log p_i = -log(1 + sum_(j != i) exp(x_j - x_i)), (D, G, K) in float64, rounded outward."""
        l, u = l.double(), u.double()
        count, groups, k = l.shape
        block, lows, highs = max(1, PAIRS // max(1, count * groups * k)), [], []
        for start in range(0, k, block):
            mine = slice(start, start + block)
            itself = torch.eye(k, dtype=torch.bool, device=l.device)[mine]
            for one, others, found in ((l, u, lows), (u, l, highs)):
                gap = others.unsqueeze(-2) - one[..., mine].unsqueeze(-1)
                gap = torch.where(itself, 0.0, gap)
                gap = torch.where(torch.isnan(gap), torch.inf if found is lows else -torch.inf, gap)
                found.append(-torch.logsumexp(gap, -1))
        low, high = torch.cat(lows, -1), torch.cat(highs, -1)
        # The largest gap is off by 2^-53 of itself, and bounds the sum's logarithm from below.
        t = tolerance(k)
        masked = high == -torch.inf
        low, high = low - t * low.abs() - t, torch.where(masked, high, high + t * high.abs() + t)
        return torch.where(torch.isnan(low), -torch.inf, low), torch.where(torch.isnan(high), 0.0, high).clamp(max=0.0)

    def interval(self, *boxes: Box) -> Box:
        l, u = boxes[0]
        return self._ends(self.logs(self.groups.split(l), self.groups.split(u)), l.dtype)

    def relax(self, *boxes: Box) -> Planes:
        l, u = (self.groups.split(t) for t in boxes[0])
        at, z = Shifted.of(l, u), self.logs(l, u)
        inside = tuple(torch.where(at.masked, 0.0, t) for t in z)
        parts = ((self.lower(at, inside), 1), (self.upper(at, inside), -1))
        # What is masked is a constant: no plane of its own, and no part in those of others, where its slope w is 0.
        alone = lambda d, c: (torch.where(at.masked, 0.0, t) for t in (d, c))
        sides = [anchored(at, v, *alone(d, c), w, mass, sign, l.dtype) for (v, d, c, w, mass), sign in parts]
        known = self.groups.join(at.known & ~at.masked)
        offsets = [
            torch.where(known, self.groups.join(b), end) for (_, b, _), end in zip(sides, self._ends(z, l.dtype))
        ]
        weights = [torch.where(known, self.groups.join(w), b.abs()) for (_, _, w), b in zip(sides, offsets)]
        return GroupPlanes(self.groups, sides[0][0], sides[1][0], offsets, weights)

    def _ends(self, z: Box, dtype: torch.dtype) -> Box:
        """The interval (D, *shape) from the range of log p."""
        raise NotImplementedError

    def lower(self, at: Shifted, z: Box) -> tuple[Tensor, ...]:
        """Of the lower plane the value at m, d, c, w, and the sizes that the value is summed from; z: log p's range."""
        raise NotImplementedError

    def upper(self, at: Shifted, z: Box) -> tuple[Tensor, ...]:
        """The same of the upper plane."""
        raise NotImplementedError


@OPS.add("Softmax")
class Softmax(AlongAxes):
    """exp(x) divided by its sum over all axes at once."""

    def forward(self, *xs: Tensor) -> Tensor:
        y = (xs[0] - xs[0].amax(self.axes, keepdim=True).detach()).exp()
        return y / y.sum(self.axes, keepdim=True)

    def _ends(self, z: Box, dtype: torch.dtype) -> Box:
        low, high = outward(*(self._range(z)[k].to(dtype) for k in (0, 1)))
        return self.groups.join(low.clamp(min=0.0)), self.groups.join(high.clamp(max=1.0))

    @staticmethod
    def _range(z: Box) -> Box:
        """The range of p in float64."""
        return torch.exp(z[0]) * (1 - 1e-12), torch.exp(z[1]) * (1 + 1e-12) + 1e-300

    def lower(self, at: Shifted, z: Box) -> tuple[Tensor, ...]:
        """Direct, or the constant."""
        least, _ = self._range(z)
        value = at.em / at.cm
        flat = least > value
        d, c = (torch.where(flat, 0.0, t) for t in (value, value / at.cm))
        value = torch.where(flat, least, value)
        return value, d, c, at.k, value

    def upper(self, at: Shifted, z: Box) -> tuple[Tensor, ...]:
        """Direct, or the constant."""
        _, most = self._range(z)
        value, slope, mass = direct(at, z)
        flat = most < value
        slope, value, mass = (torch.where(flat, a, b) for a, b in ((0.0, slope), (most, value), (most, mass)))
        return value, slope, slope, at.soft, mass


def direct(at: Shifted, z: Box) -> tuple[Tensor, ...]:
    """Upper: the chord of exp over the range of z = log p. Value at m, d = c, mass."""
    zl, zu = z
    pl, pu = torch.exp(zl) * (1 + 1e-12), torch.exp(zu) * (1 + 1e-12)
    wide = zu - zl > 1e-9
    slope = torch.where(wide, (pu - pl) / torch.where(wide, zu - zl, 1.0), pu).clamp(min=0.0)
    offset = torch.maximum(pl - slope * zl, pu - slope * zu)
    mass = slope * (at.z.abs() + zl.abs() + zu.abs() + 1) + pl + pu
    return slope * at.z + offset, slope, mass


@OPS.add("LogSoftmax")
class LogSoftmax(AlongAxes):
    """x - LSE(x) over all axes at once."""

    def forward(self, *xs: Tensor) -> Tensor:
        y = xs[0] - xs[0].amax(self.axes, keepdim=True).detach()
        return y - y.exp().sum(self.axes, keepdim=True).log()

    def _ends(self, z: Box, dtype: torch.dtype) -> Box:
        low, high = outward(z[0].to(dtype), z[1].to(dtype))
        return self.groups.join(low), self.groups.join(high.clamp(max=0.0))

    def lower(self, at: Shifted, z: Box) -> tuple[Tensor, ...]:
        one, total = torch.ones_like(at.k), torch.log(at.cm)
        mass = 1 + at.m.abs() + at.top.abs() + total.abs()
        return at.m - at.top - total, one, one, at.k / at.cm, mass

    def upper(self, at: Shifted, z: Box) -> tuple[Tensor, ...]:
        one = torch.ones_like(at.k)
        return at.z, one, one, at.soft, 1 + at.z.abs()


class SumPlanes(Planes):
    """One row w (D, G, K) per group and side."""

    def __init__(self, groups: Groups, lower: Tensor, upper: Tensor, ends, weights):
        super().__init__(*ends, *weights)
        self.groups, self.lower, self.upper = groups, lower, upper

    def pull(self, pos: Tensor, neg: Tensor) -> tuple[Tensor, ...]:
        pos, neg = (t.reshape(*t.shape[:2], -1, 1) for t in (pos, neg))
        rows = pos * self.lower.unsqueeze(1) + neg * self.upper.unsqueeze(1)
        return (self.groups.join(rows.flatten(0, 1)).reshape(*pos.shape[:2], *self.groups.shape),)

    def values(self, *xs: Tensor) -> tuple[Tensor, Tensor]:
        (x,), shape = xs, self.lo_b.shape[1:]
        rows = self.groups.split(x.flatten(0, 1)).reshape(*x.shape[:2], *self.lower.shape[1:])
        pairs = ((self.lower, self.lo_b), (self.upper, self.up_b))
        return tuple((rows * w.unsqueeze(1)).sum(-1).reshape(*x.shape[:2], *shape) + b.unsqueeze(1) for w, b in pairs)


@OPS.add("ReduceLogSumExp")
class LogSumExp(Joint):
    """log of the sum of exp(x) over axes: between its tangent at m and the tangent of log C at m, or the constant."""

    def __init__(self, site: Site):
        super().__init__(site)
        self.axes = tuple(k + 1 for k in site.attrs["axes"])
        self.groups = Groups(self.in_shapes[0], tuple(site.attrs["axes"]))

    def forward(self, *xs: Tensor) -> Tensor:
        return torch.logsumexp(xs[0], self.axes).reshape(xs[0].shape[0], *self.out_shape)

    def interval(self, *boxes: Box) -> Box:
        found, t = [], tolerance(self.groups.length)
        for x, sign in zip(boxes[0], (-1, 1)):
            y = torch.logsumexp(self.groups.split(x).double(), -1)
            found.append((y + sign * t * (1 + y.abs())).to(x.dtype).reshape(-1, *self.out_shape))
        return outward(*found)

    def relax(self, *boxes: Box) -> Planes:
        l, u = (self.groups.split(t) for t in boxes[0])
        at, dtype, ends = Shifted.of(l, u), l.dtype, self.interval(*boxes)
        hidden = lambda x: torch.where(at.masked, -torch.inf, x)
        most = torch.logsumexp(hidden(at.u), -1, keepdim=True)
        sides = []
        for sign, value, w in (
            (1, torch.logsumexp(hidden(at.m), -1, keepdim=True), at.soft),
            (-1, at.top + torch.log(at.cm), at.k / at.cm),
        ):
            flat = (value > most) if sign < 0 else torch.zeros_like(at.known)
            w, value = torch.where(flat, 0.0, w), torch.where(flat, most, value)
            # A group's row is d = 0, c = -1 of the form that `anchored` knows.
            mass = 1 + value.abs() + at.top.abs()
            sides.append(anchored(at, value, torch.zeros_like(value), -torch.ones_like(value), w, mass, sign, dtype))
        known = at.known.reshape(ends[0].shape)
        offsets = [torch.where(known, b.reshape(known.shape), end) for (_, b, _), end in zip(sides, ends)]
        weights = [torch.where(known, w.reshape(known.shape), b.abs()) for (_, _, w), b in zip(sides, offsets)]
        return SumPlanes(self.groups, sides[0][0][2], sides[1][0][2], offsets, weights)
