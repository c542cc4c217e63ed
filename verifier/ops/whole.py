"""Rounding to fewer numbers: casts to integers, truth values and narrow floats, integer division, remainders.

A cast is monotone, so its range is between the images of both ends. Its lines follow from how far it moves a number:

    to integers (towards zero)   x - 1 < trunc(x) <= x for x >= 0, mirrored below 0
    to a narrow float            |round(x) - x| <= e = (unit / 2) max|x| + the smallest number there is

On each side the better of that line (slope 1, an offset that is exact or rounded up) and the flat end is taken, by the
value at the middle. Casts beyond the range of an integer type wrap around in unspecified ways: then the whole range of
the type is taken. Where the number was computed in floats (`near`) and may end on the other side of a whole one, it is
first moved outward. Casts from integers are in `verifier.ops.integers`.

trunc(a / b) for whole a, b is monotone in the quotient, whose extremes over b > 0 or b < 0 lie at corners. Quotients of
whole numbers below 2^25 differ from the whole number above them by at least 2^-25, more than float64 rounds there, so
truncating the rounded quotient is exact; larger ones are moved outward by 1.

a mod b for a constant b equals a - b q where floor(a / b) (with `fmod`: trunc) is the same q in the whole box, and
lies between 0 and b elsewhere.

Symbols: boxes (D, *shape).
"""

from __future__ import annotations

import torch
from torch import Tensor

from verifier.ops import OPS
from verifier.ops.base import Planes, Site
from verifier.ops.integers import brought, ends
from verifier.ops.planes import EntryPlanes
from verifier.ops.steps import straight_through
from verifier.ops.stepwise import Box, EntrySteps, FlatPlanes, Stepwise, finite, settled_by

NARROW = {"float16": torch.float16, "bfloat16": torch.bfloat16}
SAFE = 2.0**25
NEAR = 1e-6  # roots and logarithms that are cast may be off by as much


class Convert(Stepwise):
    """A cast to integers (towards zero), to truth values (nonzero is true), or to a float narrower than float32."""

    integers = "keep"
    native = True

    def __init__(self, site: Site):
        super().__init__(site)
        to = site.attrs["to"]
        self.to = NARROW.get(to)
        self.back = self.to is not None  # floats go on in the working precision
        self.truth, self.near = to == "bool", bool(site.attrs.get("near", 0))
        self.ends = (0, 1) if self.back or self.truth else ends(site.out_dtype)

    def forward(self, x: Tensor) -> Tensor:
        if self.back:
            return x.to(self.to).to(self.site.dtype)
        return x != 0 if self.truth else brought(x, self.site)

    def guide(self, x: Tensor) -> Tensor:
        return straight_through(x, self.forward(x).to(x.dtype))

    def interval(self, *boxes: Box) -> Box:
        l, u = boxes[0]
        if self.back:
            return l.to(self.to).to(l.dtype), u.to(self.to).to(l.dtype)
        if self.truth:
            return settled_by((l > 0) | (u < 0), (l == 0) & (u == 0), l)
        least, most = (float(e) for e in self.ends)
        if self.near:  # what is cast is off by as much, relative to its size
            l, u = l - NEAR * (1 + l.abs()), u + NEAR * (1 + u.abs())
        l, u = self._multiples(l, u)
        known = (l >= least) & (u < most + 1) & finite(l, u)
        inside = torch.trunc(l) + 0.0, torch.trunc(u) + 0.0  # + 0.0: no -0
        return torch.where(known, inside[0], least), torch.where(known, inside[1], most)

    def _multiples(self, l: Tensor, u: Tensor) -> Box:
        """A box of multiples of 1/n (attribute `part`), brought to the first and the last of them where that is exact:
        products with n round to the near side of a whole number that floats hold, and quotients stay whole.
        """
        n = float(self.site.attrs.get("part", 0))
        first, last = (l * n).ceil(), (u * n).floor()
        fits = (torch.maximum(first.abs(), last.abs()) < 0.25 / torch.finfo(l.dtype).eps) & (first <= last) & (n > 0)
        return torch.where(fits, first / n, l), torch.where(fits, last / n, u)

    def relax(self, *boxes: Box) -> Planes:
        l, u = boxes[0]
        low, high = self.interval((l, u))
        if self.truth:
            return FlatPlanes(low, high, self.in_shapes)
        usable = finite(l, u) & finite(low, high)
        if self.back:
            info = torch.finfo(self.to)
            usable &= torch.maximum(l.abs(), u.abs()) < info.max
            above = info.eps * torch.maximum(l.abs(), u.abs()) * (0.5 + info.eps / 8) + info.smallest_normal * info.eps
            below = -above
        else:
            usable &= (low == torch.trunc(l)) & (high == torch.trunc(u))
            below, above = torch.where(u <= 0, 0.0, -torch.ones_like(l)), torch.where(l >= 0, 0.0, torch.ones_like(u))
            if self.near:
                off = NEAR * (1 + torch.maximum(l.abs(), u.abs()))
                below, above = below - off, above + off
        middle = torch.where(usable, l + (u - l) / 2, 0.0)
        lower, upper = usable & (middle + below > low), usable & (middle + above < high)
        return EntryPlanes(
            [lower.to(l.dtype)],
            torch.where(lower, below, low),
            [upper.to(l.dtype)],
            torch.where(upper, above, high),
            boxes,
        )


class Quotient(EntrySteps):
    """Integers divided towards zero."""

    integers = "wrap"
    native = True

    def combine(self, a: Tensor, b: Tensor) -> Tensor:
        if a.is_floating_point() or b.is_floating_point():
            return torch.trunc(a / b)
        return torch.div(a, b, rounding_mode="trunc")

    def steps(self, a: Box, b: Box) -> Box:
        dtype = a[0].dtype
        al, au, bl, bu = a[0].double().ceil(), a[1].double().floor(), b[0].double().ceil(), b[1].double().floor()
        known = ((bl > 0) | (bu < 0)) & finite(al, au) & (al <= au) & (bl <= bu)
        bl, bu = torch.where(known, bl, 1.0), torch.where(known, bu, 1.0)
        # A divisor without a finite end brings quotients down to 0.
        corners = torch.stack([torch.where(torch.isinf(q), 0.0, p / q) for p in (al, au) for q in (bl, bu)])
        least, most = torch.trunc(corners.amin(0)), torch.trunc(corners.amax(0))
        large = torch.stack([al.abs(), au.abs(), bl.abs(), bu.abs()]).nan_to_num(posinf=0.0).amax(0) > SAFE
        low, high = (least - large.double()).to(dtype), (most + large.double()).to(dtype)
        if dtype == torch.float32:  # whole numbers beyond 2^24 were rounded
            low = torch.where(low.abs() > 2**23, torch.nextafter(low, torch.full_like(low, -torch.inf)), low)
            high = torch.where(high.abs() > 2**23, torch.nextafter(high, torch.full_like(high, torch.inf)), high)
        inf = float("inf")
        return torch.where(known, low + 0.0, -inf), torch.where(known, high + 0.0, inf)


@OPS.add("Mod")
class Mod(EntrySteps):
    """The remainder with the sign of the divisor, or (`fmod`) of the dividend."""

    def combine(self, a: Tensor, b: Tensor) -> Tensor:
        return torch.fmod(a, b) if self.site.attrs.get("fmod", 0) else torch.remainder(a, b)

    def quotient(self, a: Box, b: Box) -> tuple[Tensor, Tensor]:
        """Where a / b surely rounds to one q, and b q (float64, rounded once)."""
        al, au, k = a[0].double(), a[1].double(), b[0].double()
        one = (b[0] == b[1]) & (k != 0) & finite(al, au)
        k = torch.where(one, k, 1.0)
        step = torch.trunc if self.site.attrs.get("fmod", 0) else torch.floor
        q = step(torch.where(one, al, 0.0) / k)
        whole = k * q
        # r = a - k q is the remainder if 0 <= r < |k| with the right sign; ends of float32 are exact in float64.
        room = 0.0 if a[0].dtype == torch.float32 else torch.finfo(torch.float64).eps
        slack = room * (whole.abs() + k.abs())
        r0, r1 = torch.where(one, al - whole, 0.0), torch.where(one, au - whole, 0.0)
        if self.site.attrs.get("fmod", 0):
            positive = al >= 0
            one = one & (positive | (au <= 0))
        else:
            positive = k > 0
        size = k.abs()
        fits = torch.where(
            positive,
            (r0 >= slack) & (r1 + slack < size) | ((r0 == 0) & (q == 0) & (r1 + slack < size)),
            (r1 <= -slack) & (r0 - slack > -size) | ((r1 == 0) & (q == 0) & (r0 - slack > -size)),
        )
        return one & fits & (q.abs() < SAFE), torch.where(one, whole, 0.0)

    def steps(self, a: Box, b: Box) -> Box:
        eps = torch.finfo(a[0].dtype).eps
        size = torch.maximum(b[0].abs(), b[1].abs())
        if self.site.attrs.get("fmod", 0):  # |r| < |b|, |r| <= |a|, and the sign of a
            low = torch.where(a[0] < 0, torch.maximum(-size, a[0]), 0.0)
            high = torch.where(a[1] > 0, torch.minimum(size, a[1]), 0.0)
        else:
            low, high = b[0].clamp(max=0), b[1].clamp(min=0)
        one, whole = self.quotient(a, b)
        ends = []
        for x, sign in zip(a, (-1, 1)):  # fmod is exact; a remainder adds the divisor to it, which rounds once
            r = torch.where(one, self.combine(torch.where(one, x, 0.0), torch.where(one, b[0], 1.0)), 0.0)
            ends.append(r + sign * 2 * eps * r.abs())
        zero = (b[0] <= 0) & (b[1] >= 0)
        inf = float("inf")
        low = torch.where(one, torch.maximum(ends[0], low), low)
        high = torch.where(one, torch.minimum(ends[1], high), high)
        return torch.where(zero, -inf, low), torch.where(zero, inf, high)

    def relax(self, *boxes: Box) -> Planes:
        operands = self.operands(boxes)
        low, high = self.steps(*operands)
        if self.held[0] is not None or self.held[1] is None:  # the divisor moves
            return FlatPlanes(low, high, self.in_shapes)
        one, whole = self.quotient(*operands)
        one = one & finite(low, high)
        dtype, eps = low.dtype, torch.finfo(low.dtype).eps
        offset = -torch.where(one, whole, 0.0).to(dtype)
        slack = eps * offset.abs()
        slope = one.to(dtype)
        return EntryPlanes(
            [slope], torch.where(one, offset - slack, low), [slope], torch.where(one, offset + slack, high), boxes
        )
