"""Sums of products of two variables between McCormick planes: what their operands have to do with it.

y_o = sum of a_i b_j over terms (i, j, o). A term's planes, for a mixture r of its side (`verifier.ops.products`), have
the slopes p in a_i and q in b_j, and with s and t the widths of a_i and b_j a row with coefficient A on y_o loses

    A > 0:   A ((a - q)(b - p) + r (1 - r) s t),        A < 0:   |A| (r (1 - r) s t - (a - q)(b - p))

of the term's value at (a, b). Both volumes between the product and its planes are (s t)^2 / 4, whatever r is, so on
average either side loses s t / 4. A split of a_i at its middle halves that in every term that reads a_i; of a smooth
function's lines it would leave a quarter.

Nothing here proves anything: what is lost only tells which operands to split. Planes on smaller boxes are sound as all
planes are.

Symbols: N domains; rows and y (N, *out_shape), operands (N, *in_shape_i); T terms.
"""

from __future__ import annotations

import torch
from torch import Tensor

from verifier.ops.base import Joint, Planes

Box = tuple[Tensor, Tensor]


class Bilinear(Joint):
    """A sum of products of two variables. Subclasses give `planes`, `mix`, `back` and `term_index`."""

    def mix(self, *boxes: Box) -> tuple[float, float]:
        """The mixture (r below, r above) that `relax` takes."""
        return 0.5, 0.5

    def planes(self, boxes: tuple[Box, ...], mix: tuple[float, float]) -> Planes:
        """The planes for mixtures r of the lower and of the upper side."""
        raise NotImplementedError

    def back(self, rows: Tensor, other: Tensor, slot: int) -> Tensor:
        """Rows (N, *out_shape) times the other operand (N, *its shape), summed over the terms: (N, *in_shape_slot)."""
        raise NotImplementedError

    def term_index(self) -> tuple[Tensor, Tensor, Tensor]:
        """Flat entries (T,) of a, of b and of y, term by term."""
        raise NotImplementedError

    @property
    def term_count(self) -> int:
        """T."""
        raise NotImplementedError

    def relax(self, *boxes: Box) -> Planes:
        return self.planes(boxes, self.mix(*boxes))

    def losses(
        self, rows: Tensor, boxes: tuple[Box, ...], at: tuple[Tensor, ...], mix: tuple[float, float]
    ) -> tuple[tuple[Tensor, ...], tuple[Tensor, ...]]:
        """What the rows lose by the terms that read each entry of the operands, (N, *in_shape_i) each: per unit of the
        entry's width, on average over the boxes; and where the operands are `at`.
        """
        pos, neg = rows.clamp(min=0), -rows.clamp(max=0)
        wide = [u - l for l, u in boxes]
        price = tuple(self.back(rows.abs(), wide[1 - slot], slot) / 4 for slot in (0, 1))
        here = [torch.zeros_like(t) for t in price]
        for side, r, r_a, sign in ((pos, mix[0], mix[0], 1), (neg, mix[1], 1 - mix[1], -1)):
            off = [x - (l + (1 - r) * w) for x, (l, _), w, r in zip(at, boxes, wide, (r_a, r))]
            for slot in (0, 1):
                cross = off[slot] * self.back(side, off[1 - slot], slot)
                here[slot] += sign * cross + r * (1 - r) * wide[slot] * self.back(side, wide[1 - slot], slot)
        return price, tuple(here)


def term_lines(mix: tuple[float, float], rows: Tensor, a: Box, b: Box) -> tuple[Tensor, Tensor, Tensor]:
    """Slopes p, q and offset of the plane that a coefficient `rows` on a product of a and b in boxes a, b asks for; all
    of one shape. In plain arithmetic, for estimates.
    """
    low = rows > 0
    r = torch.where(low, mix[0], mix[1])
    r_a = torch.where(low, mix[0], 1 - mix[1])
    s, t = a[1] - a[0], b[1] - b[0]
    p, q = b[0] + (1 - r) * t, a[0] + (1 - r_a) * s
    spread = r * (1 - r) * s * t
    return p, q, -p * q - torch.where(low, spread, -spread)
