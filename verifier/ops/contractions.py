"""Sums of products of two variables: MatMul and Einsum, between McCormick planes that need no tensor of all products.

y_o = sum_t a_(o,t) b_(o,t), where every letter of the equation belongs to at least two of a, b and y. With one mixture
r for all products of a side, the slopes of a product depend on one operand each (see `verifier.ops.products`):

    lower: p = bl + (1 - r)(bu - bl) in a,  q = al + (1 - r)(au - al) in b;
    upper: p = bl + (1 - r)(bu - bl) in a,  q = al + r (au - al) in b.

So p has the shape of b and q that of a, and rows are pulled through by two contractions, of the row with p and with q.

Why sound: a b - p a - q b = (a - q)(b - p) - p q. Below, q - al <= (1 - r) s and au - q <= r s, and the same for b, p
and t (s, t the widths, rounded up). Where the product of the differences is negative, it is at least -r (1 - r) s t;
above, with r and 1 - r exchanged in a, it is at most r (1 - r) s t. The offsets -sum (p q) -+ r (1 - r) sum (s t) are
formed in float64 and moved outward by what that and the last rounding lose. Where neither operand keeps its sign, r is
1/2 (`near_ends`): both sides then share their slopes, and one contraction serves both signs of a row.

An interval's ends are sums of products' ends, formed in blocks.

Symbols: D domains, S rows; a, b, y (D, *shape) without the axes of length 1 that broadcasting would repeat.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import prod

import torch
from torch import Tensor

from verifier.ops.arithmetic import lift
from verifier.ops.base import Opaque, Operator, Planes, Shape, Site, gamma, size
from verifier.ops.bilinear import Bilinear
from verifier.ops.planes import outward
from verifier.ops.products import Box, times

DOMAIN, ROW = "Y", "Z"
LETTERS = "abcdefghijklmnopqrstuvwxyz"
BLOCK_ENTRIES = 1 << 21  # products that an interval holds at a time


class Equation:
    """Letters of a, b and y, and how long each is. Operands lose the axes that broadcasting would repeat."""

    def __init__(self, names: tuple[str, str], out: str, shapes: tuple[Shape, Shape]):
        self.length: dict[str, int] = {}
        for letters, shape in zip(names, shapes):
            for c, n in zip(letters, shape):
                self.length[c] = max(self.length.get(c, 1), n)
        kept = [
            "".join(c for c, n in zip(letters, shape) if n == self.length[c]) for letters, shape in zip(names, shapes)
        ]
        self.a, self.b, self.out = kept[0], kept[1], out
        self.sums = "".join(c for c in self.a if c not in out)

    def fits(self) -> bool:
        """Whether every letter belongs to two of a, b, y, and none comes twice in one."""
        a, b, y = (set(t) for t in (self.a, self.b, self.out))
        alone = (a - b - y) | (b - a - y) | (y - a - b)
        return not alone and all(len(set(t)) == len(t) for t in (self.a, self.b, self.out))

    def shape(self, letters: str) -> Shape:
        return tuple(self.length[c] for c in letters)

    def outer(self, a: Tensor, b: Tensor) -> Tensor:
        """sum a b: (D, *a) and (D, *b) to (D, *y)."""
        return torch.einsum(f"{DOMAIN}{self.a},{DOMAIN}{self.b}->{DOMAIN}{self.out}", a, b)

    def back(self, rows: Tensor, other: Tensor, to_a: bool) -> Tensor:
        """Rows (D, S, *y) times the other operand's slopes, summed to (D, S, *a) or (D, S, *b)."""
        mine, its = (self.a, self.b) if to_a else (self.b, self.a)
        return torch.einsum(f"{DOMAIN}{ROW}{self.out},{DOMAIN}{its}->{DOMAIN}{ROW}{mine}", rows, other)

    def along(self, x: Tensor, letters: str) -> Tensor:
        """(D, *letters) to (D, *y or 1, K), the summed letters last and as one."""
        places = [c for c in self.out if c in letters] + list(self.sums)
        x = x.permute(0, *(letters.index(c) + 1 for c in places))
        return x.reshape(x.shape[0], *(self.length[c] if c in letters else 1 for c in self.out), -1)


def between(l: Tensor, u: Tensor, r: float) -> tuple[Tensor, Tensor]:
    """(q, s) with q = l + (1 - r)(u - l) as computed, q - l <= (1 - r) s and u - q <= r s; for finite l <= u."""
    q = u if r == 0 else torch.minimum(l + (1 - r) * (u - l), u)
    s = torch.zeros_like(q)
    if r < 1:
        s = (q - l) / (1 - r)
    if r > 0:
        s = torch.maximum(s, (u - q) / r)
    info = torch.finfo(l.dtype)
    return q, torch.where(s > 0, s * (1 + 4 * info.eps) + info.tiny, 0.0)


def near_ends(a: Box, b: Box) -> tuple[float, float]:
    """The mixture (r below, r above) to start from.

    All mixtures enclose the same volume, but what the slopes multiply is loose already. Where an operand keeps its sign
    (as weights of a mean do: the results of a softmax), the other one's slope on both sides is the operand's end nearer
    to 0, the smallest slope there is; else the middle.
    """
    ends = (((1.0, 0.0), a[0] >= 0), ((0.0, 1.0), a[1] <= 0), ((1.0, 1.0), b[0] >= 0), ((0.0, 0.0), b[1] <= 0))
    return next((mix for mix, kept in ends if bool(kept.all())), (0.5, 0.5))


class ContractionPlanes(Planes):
    """Slopes `in_a` (D, *b), `in_b` (D, *a) of the lower and of the upper planes; `known` (D, *y) is 0 where boxes are
    infinite, None where none are. `alike`: both sides have the same slopes.
    """

    def __init__(
        self,
        eq: Equation,
        shapes: tuple[Shape, ...],
        in_a: tuple[Tensor, Tensor],
        in_b: tuple[Tensor, Tensor],
        known: Tensor | None,
        offsets: tuple[Tensor, Tensor],
        weights: tuple[Tensor, Tensor],
    ):
        super().__init__(*offsets, *weights)
        self.eq, self.shapes, self.in_a, self.in_b, self.known = eq, shapes, in_a, in_b, known
        self.alike = in_a[0] is in_a[1] and in_b[0] is in_b[1]

    def pull(self, pos: Tensor, neg: Tensor) -> tuple[Tensor, ...]:
        rows = [pos + neg] if self.alike else [pos, neg]
        rows = [r.reshape(*r.shape[:2], *self.eq.shape(self.eq.out)) for r in rows]
        if self.known is not None:
            rows = [r * self.known.unsqueeze(1) for r in rows]
        found = []
        for slopes, to_a, shape in ((self.in_a, True, self.shapes[0]), (self.in_b, False, self.shapes[1])):
            part = sum(self.eq.back(r, s, to_a) for r, s in zip(rows, slopes))
            found.append(part.reshape(*pos.shape[:2], *shape))
        return tuple(found)

    def values(self, *xs: Tensor) -> tuple[Tensor, Tensor]:
        found = []
        for p, q, offset in zip(self.in_a, self.in_b, (self.lo_b, self.up_b)):
            found.append(self._apply(p, q, *xs) + offset.unsqueeze(1))
        return found[0], found[1]

    @property
    def fan(self) -> int:
        return 4 * prod(self.eq.length[c] for c in self.eq.sums)

    def push(self, low: Sequence[Tensor], high: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        found = []
        for p, q, first, second in zip(self.in_a, self.in_b, (low, high), (high, low)):
            y = self._apply(p.clamp(min=0), q.clamp(min=0), *first)
            found.append(y + self._apply(p.clamp(max=0), q.clamp(max=0), *second))
        return found[0], found[1]

    def reach(self, *rs: Tensor) -> Tensor:
        p, q = (torch.maximum(s[0].abs(), s[1].abs()) for s in (self.in_a, self.in_b))
        return self._apply(p, q, *rs)

    def _apply(self, p: Tensor, q: Tensor, a: Tensor, b: Tensor) -> Tensor:
        """p a + q b for a, b (D, P, *in_shape): (D, P, *out_shape)."""
        eq, lead = self.eq, a.shape[:2]
        a, b = (x.reshape(*lead, *eq.shape(t)) for x, t in zip((a, b), (eq.a, eq.b)))
        y = torch.einsum(f"{DOMAIN}{ROW}{eq.a},{DOMAIN}{eq.b}->{DOMAIN}{ROW}{eq.out}", a, p)
        y = y + torch.einsum(f"{DOMAIN}{eq.a},{DOMAIN}{ROW}{eq.b}->{DOMAIN}{ROW}{eq.out}", q, b)
        y = y if self.known is None else y * self.known.unsqueeze(1)
        return y.reshape(*lead, *self.lo_b.shape[1:])


class Contraction(Bilinear):
    """y = sum a b by an equation; `run` computes it from the operands' own shapes."""

    integers = "wrap"

    def __init__(self, site: Site, eq: Equation, run: Callable[[Tensor, Tensor], Tensor]):
        super().__init__(site)
        self.eq, self.run = eq, run
        absent = [prod(eq.length[c] for c in eq.out if c not in t) for t in (eq.a, eq.b)]
        self.terms = 2 * max(absent)

    def forward(self, *xs: Tensor) -> Tensor:
        return self.run(*xs)

    def _operands(self, boxes: tuple[Box, ...]) -> list[Box]:
        shapes = (self.eq.shape(self.eq.a), self.eq.shape(self.eq.b))
        return [tuple(t.reshape(t.shape[0], *s) for t in box) for box, s in zip(boxes, shapes)]

    def interval(self, *boxes: Box) -> Box:
        eq = self.eq
        a, b = ([eq.along(t, letters) for t in box] for box, letters in zip(self._operands(boxes), (eq.a, eq.b)))
        count, k = a[0].shape[0], a[0].shape[-1]
        info = torch.finfo(a[0].dtype)
        block = max(1, BLOCK_ENTRIES // max(1, count * size(self.out_shape)))
        low = high = mass = torch.zeros((), dtype=torch.float64, device=a[0].device)
        for start in range(0, k, block):
            part = slice(start, start + block)
            corners = torch.stack([times(p[..., part], q[..., part]) for p in a for q in b])
            least, most = corners.amin(0).clamp(max=info.max), corners.amax(0).clamp(min=-info.max)
            low, high = low + least.sum(-1, dtype=torch.float64), high + most.sum(-1, dtype=torch.float64)
            mass = mass + torch.maximum(most.abs(), least.abs()).sum(-1, dtype=torch.float64)
        slack = (info.eps + 2 * gamma(k + 2, torch.float64)) * mass + 2 * k * info.tiny
        low = torch.where(torch.isinf(low), low, low - slack)
        high = torch.where(torch.isinf(high), high, high + slack)
        shape = (count, *self.out_shape)
        return outward(low.to(a[0].dtype).reshape(shape), high.to(a[0].dtype).reshape(shape), 2)

    def mix(self, *boxes: Box) -> tuple[float, float]:
        return near_ends(*boxes)

    def back(self, rows: Tensor, other: Tensor, slot: int) -> Tensor:
        eq, n = self.eq, len(rows)
        rows = rows.reshape(n, 1, *eq.shape(eq.out))
        other = other.reshape(len(other), *eq.shape(eq.a if slot else eq.b))
        return eq.back(rows, other, not slot).reshape(n, *self.in_shapes[slot])

    def term_index(self) -> tuple[Tensor, Tensor, Tensor]:
        eq = self.eq
        order = eq.out + eq.sums
        where = []
        for letters in (eq.a, eq.b, eq.out):
            entry = torch.arange(prod(eq.shape(letters))).reshape(eq.shape(letters))
            places = [c for c in order if c in letters]
            entry = entry.permute(*(letters.index(c) for c in places)) if places else entry
            entry = entry.reshape([eq.length[c] if c in letters else 1 for c in order])
            where.append(entry.expand([eq.length[c] for c in order]).reshape(-1))
        return where[0], where[1], where[2]

    @property
    def term_count(self) -> int:
        return prod(self.eq.length[c] for c in self.eq.out + self.eq.sums)

    def planes(self, boxes: tuple[Box, ...], mix: tuple[float, float] = (0.5, 0.5)) -> Planes:
        """The planes for mixtures r of the lower and of the upper side."""
        eq, dtype, operands = self.eq, boxes[0][0].dtype, self._operands(boxes)
        finite = [torch.isfinite(u - l) for l, u in operands]
        a, b = (tuple(torch.where(f, t, 0.0) for t in box) for f, box in zip(finite, operands))
        sides = [(between(*b, r), between(*a, r_a), r) for r, r_a in ((mix[0], mix[0]), (mix[1], 1 - mix[1]))]
        if mix == (0.5, 0.5):
            sides[1] = sides[0]
        found = [self._offset(side, sign, (a, b)) for side, sign in zip(sides, (1, -1))]
        offsets, weights = ([t.reshape(-1, *self.out_shape) for t in ts] for ts in zip(*found))
        offsets = [outward(t, t)[k] for k, t in enumerate(t.to(dtype) for t in offsets)]
        lost = eq.outer((~finite[0]).double(), torch.ones_like(b[0], dtype=torch.float64))
        lost = lost + eq.outer(torch.ones_like(a[0], dtype=torch.float64), (~finite[1]).double())
        known = (lost == 0).reshape(offsets[0].shape) & torch.isfinite(offsets[0]) & torch.isfinite(offsets[1])
        mask = None
        if not bool(known.all()):
            offsets = [torch.where(known, t, end) for t, end in zip(offsets, self.interval(*boxes))]
            weights = [torch.where(known, w, 0.0) for w in weights]
            mask = known.reshape(-1, *eq.shape(eq.out)).to(dtype)
        up = 1 + 4 * torch.finfo(dtype).eps
        weights = [(w.to(dtype) * up + b.abs()) * up for w, b in zip(weights, offsets)]
        in_a, in_b = zip(*((p, q) for (p, _), (q, _), _ in sides))
        return ContractionPlanes(eq, self.in_shapes, in_a, in_b, mask, tuple(offsets), tuple(weights))

    def _offset(self, side: tuple, sign: int, operands: tuple[Box, Box]) -> tuple[Tensor, Tensor]:
        """The offset of one side (sign 1: lower, -1: upper) and |p| |a| + |q| |b| at most, both (D, *y) in float64."""
        eq, ((p, t), (q, s), r) = self.eq, side
        p, q, s, t = (x.double() for x in (p, q, s, t))
        size_a, size_b = (torch.maximum(l.abs(), u.abs()).double() for l, u in operands)
        slack = 2 * gamma(prod(eq.length[c] for c in eq.sums) + 4, torch.float64)
        reach = r * (1 - r) * eq.outer(s, t)
        magnitude = eq.outer(q.abs(), p.abs()) + reach
        weight = eq.outer(size_a, p.abs()) + eq.outer(q.abs(), size_b)
        return -eq.outer(q, p) - sign * (reach + slack * magnitude), weight * (1 + slack)


def product_of(site: Site, names: tuple[str, str], out: str, run: Callable[[Tensor, Tensor], Tensor]) -> Operator:
    """The contraction of two variables that an equation names, or an operator without bounds where it does not fit."""
    shapes = tuple(site.shapes[i] for i in site.variable)
    eq = Equation(names, out, shapes)
    return Contraction(site, eq, run) if eq.fits() else Unbounded(site, run)


class Unbounded(Opaque):
    """Run forward only."""

    def __init__(self, site: Site, run: Callable[..., Tensor]):
        super().__init__(site)
        self.run = run

    def forward(self, *xs: Tensor) -> Tensor:
        return self.run(*xs)


def matmul(site: Site) -> Operator:
    """numpy's matmul of two variables."""
    ranks = [len(site.shapes[i]) for i in site.variable]
    batch = "".join(LETTERS[: max(*ranks, 2) - 2])
    names = (
        (batch[len(batch) - (ranks[0] - 2) :] if ranks[0] > 2 else "") + ("NK" if ranks[0] > 1 else "K"),
        (batch[len(batch) - (ranks[1] - 2) :] if ranks[1] > 2 else "") + ("KM" if ranks[1] > 1 else "K"),
    )
    out = batch + ("N" if ranks[0] > 1 else "") + ("M" if ranks[1] > 1 else "")

    def run(x: Tensor, y: Tensor) -> Tensor:
        x = x.unsqueeze(1) if ranks[0] == 1 else x
        y = y.unsqueeze(2) if ranks[1] == 1 else y
        rank = max(x.ndim, y.ndim) - 1
        return torch.matmul(lift(x, rank), lift(y, rank)).reshape(x.shape[0], *site.shape)

    return product_of(site, names, out, run)
