"""Einsum: sums of products named by letters. Affine where one operand depends on x; of two variables see
`verifier.ops.contractions`.

The batch axis N becomes one more letter, on every operand that depends on x and on the result. With one variable
operand, an entry of y sums one product per value of the letters that the result lacks, and an entry of the adjoint one
per value of the letters that x lacks. Further constants add one rounding each: contracted pairwise in any order, stages
of m_1, m_2, ... terms round at most sum m_i <= prod m_i + (number of stages - 1) times.
"""

from __future__ import annotations

from math import prod

import torch
from torch import Tensor

from verifier.ops import OPS
from verifier.ops.arithmetic import rounded
from verifier.ops.base import Affine, Operator, Site
from verifier.ops.contractions import Unbounded, product_of


class Terms:
    """An equation with the batch letter put in, and the constant operands."""

    def __init__(self, site: Site):
        inputs, arrow, output = site.attrs["equation"].replace(" ", "").partition("->")
        self.inputs = inputs.split(",")
        if not arrow:
            letters = inputs.replace(",", "").replace("...", "")
            once = sorted(c for c in set(letters) if letters.count(c) == 1)
            output = ("..." if "..." in inputs else "") + "".join(once)
        self.output = output
        batch = next(c for c in "NABCDEFGHIJKLMOPQRSTUVWXYZ" if c not in site.attrs["equation"])
        held = [site.constant(i) for i in range(len(site.shapes))]
        self.fixed = [None if c is None else c.to(site.dtype) for c in held]
        named = (t if c is not None else batch + t for t, c in zip(self.inputs, self.fixed))
        self.equation = f"{','.join(named)}->{batch}{self.output}"

    def sum(self, xs: tuple[Tensor, ...], fixed: list[Tensor | None]) -> Tensor:
        left = iter(xs)
        return torch.einsum(self.equation, *(next(left) if c is None else c for c in fixed))


class EinsumConstant(Affine):
    """Linear in its one variable operand."""

    integers = "wrap"

    def __init__(self, site: Site):
        super().__init__(site)
        self.of = of = Terms(site)
        (slot,) = site.variable
        self.magnitude = [None if c is None else c.abs() for c in of.fixed]
        length = {c: n for t, s in zip(of.inputs, site.shapes) for c, n in zip(t, s)}
        factors = max(len(of.inputs) - 2, 0) + sum(rounded(site, i) for i in range(len(of.inputs)))
        absent = [prod(n for c, n in length.items() if c not in t) for t in (of.output, of.inputs[slot])]
        self.terms = (max(absent[0] + factors, 1), max(absent[1] + factors, 1))

    def forward(self, x: Tensor) -> Tensor:
        return self.of.sum((x,), self.of.fixed)

    def absolute(self, r: Tensor) -> Tensor:
        return self.of.sum((r,), self.magnitude)

    def offset(self) -> Tensor | None:
        return None


@OPS.add("Einsum")
def einsum(site: Site) -> Operator:
    plain = "..." not in site.attrs["equation"]
    if plain and len(site.variable) == 1:
        return EinsumConstant(site)
    of = Terms(site)

    def run(*xs: Tensor) -> Tensor:
        return of.sum(xs, of.fixed)

    return product_of(site, of.inputs, of.output, run) if plain and len(of.inputs) == 2 else Unbounded(site, run)
