"""Rows through products of two variables, all products of a row together.

A product between McCormick planes of the slopes p = middle of b, q = middle of a (`verifier.ops.products`) is

    a b = p a + q b - p q + (a - q)(b - p),

and each product pays for its remainder (a - q)(b - p) as if a and b were free in their boxes. They are not: both follow
x. With planes around a and b, such as backward passes give, e = x - c, c the middle of the domain's box,

    a = alpha e + a0 + s,  |s| <= E_a,        b = beta e + b0 + t,  |t| <= E_b.

So the remainders of a row, A its coefficients on the products, add up to a quadratic form of e and little else:

    sum A (a - q)(b - p) >= e Q e + sum A ((a0 - q) beta + (b0 - p) alpha) e + sum A (a0 - q)(b0 - p)
                            - sum |A| (E_a (|beta| r + |b0 - p| + E_b) + E_b (|alpha| r + |a0 - q|)),

Q the symmetric part of sum A alpha beta'. A square, a positive definite form, the decrease of a Lyapunov function make
a convex Q, which loses nothing where a tangent is laid; the products alone would lose sum |A| (|alpha| r)(|beta| r).
(Quadratic terms kept until the end: as in Taylor models, Makino and Berz, Int. J. Pure Appl. Math. 4, 2003.)

A lower plane of e Q e. In units of r, B = r Q r and |e| <= 1. B = V L V'; with L+ the eigenvalues raised to at least 0
(all by the same amount tau, or the negative ones alone, whatever loses less) P = V L+ V' is positive semidefinite
whatever rounding did to V, so e P e >= (2 t P) e - t P t for any t; and what is left, B - P + tau, is at least minus
the sum of its absolute entries, less tau m. t is near the minimum of the row over the box, which a few projected
gradient steps find.

Why it is sound. Coefficients A, slopes p, q and the rows' planes are exact as computed, as everywhere
(`verifier.bounds.backward`). Planes around operands are bounds of backward passes with their charge. What is formed
here is formed in float64; every sum is off by at most gamma of its length times the sum of absolute values, and all of
these are collected in `mass`, times gamma, subtracted. The new plane is rounded to the working precision and the
difference charged. Entries whose boxes are infinite, or whose two planes differ in slope, keep their own planes.

Symbols: D domains, S rows, m dimensions, K products, O entries of operands.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import torch
from torch import Tensor

from verifier.bounds.backward import Rows, backward
from verifier.bounds.trace import Trace
from verifier.ops.arithmetic import lift
from verifier.ops.base import gamma, size

MOST_MOVING = 24  # dimensions of a quadratic form
MOST_ENTRIES = 256  # of all operands
NOTICEABLE = 0.02  # of what a row varies by over the box: products that lose less are left as they are
STEPS = 8  # of the search for a tangent


class Enclosures(NamedTuple):
    """Operands within alpha e + mid ± error: alpha (D, O, m), others (D, O); float64."""

    alpha: Tensor
    mid: Tensor
    error: Tensor

    def at(self, index: Tensor) -> Enclosures:
        return Enclosures(*(t[:, index] for t in self))


def pays(trace: Trace) -> bool:
    """Whether there are products, few enough of them over few enough dimensions, in a network that moves as a whole."""
    program = trace.program
    if not program.products or program.n_in > MOST_MOVING or trace.still is not None or trace.wild:
        return False
    return sum(size(program.shapes[v]) for v in program.factors) <= MOST_ENTRIES


def together(
    trace: Trace, products: Mapping[int, Tensor], low: Tensor, plane: Tensor, bias: Tensor, limit: int
) -> tuple[Tensor, Tensor, Tensor]:
    """Better bounds of rows, where there are any: low (D, S), plane (D, S, m) and bias (D, S) as they were found with
    the products' own planes, whose coefficients are `products`, step by step (D S, *shape).
    """
    steps = list(products)
    l, u = (t.double() for t in trace.boxes[0])
    c = l + (u - l) / 2
    r = torch.maximum(u - c, c - l) * (1 + 1e-15)
    a, slopes, recovered = _losses(trace, products, low.shape)
    varies = (plane.double().abs() * r.unsqueeze(1)).sum(-1)
    if not bool((recovered > NOTICEABLE * (varies + recovered)).any()):
        return low, plane, bias
    x = _enclose(trace, c, r, limit)
    if x is None:
        return low, plane, bias
    left, right, p, q = *(x.at(i) for i in _places(trace, steps)), *slopes
    # Everything linear: g e + rest, g = plane + the remainders' linear parts.
    off_a, off_b = left.mid - q, right.mid - p
    g = plane.double() + (a * off_a.unsqueeze(1)) @ right.alpha + (a * off_b.unsqueeze(1)) @ left.alpha
    wide_a, wide_b = ((t.alpha.abs() * r.unsqueeze(1)).sum(-1) for t in (left, right))  # (D, K)
    size_a, size_b = wide_a + off_a.abs() + left.error, wide_b + off_b.abs() + right.error
    rest = left.error * size_b + right.error * (wide_a + off_a.abs())
    mass = (a.abs() * (size_a * size_b).unsqueeze(1)).sum(-1)  # of all products, however they are taken apart
    at_middle = (plane.double() * c.unsqueeze(1)).sum(-1) + bias.double()
    constant = at_middle + recovered + ((off_a * off_b).unsqueeze(1) * a).sum(-1)
    constant = constant - (a.abs() * rest.unsqueeze(1)).sum(-1)
    mass = mass + (plane.double().abs() * c.abs().unsqueeze(1)).sum(-1) + varies + bias.double().abs() + recovered
    form = torch.einsum("dsk,dki,dkj->dsij", a, left.alpha * r.unsqueeze(1), right.alpha * r.unsqueeze(1))
    slope, value, form_mass = below_form((form + form.mT) / 2, g * r.unsqueeze(1))
    error = 4 * gamma(a.shape[-1] + 4 * l.shape[-1] + 32, torch.float64)
    constant = constant + value - error * (mass + form_mass)
    # The plane in the working precision; at the middle it takes the constant, elsewhere it is off by its rounding.
    exact = g + torch.where(r.unsqueeze(1) > 0, slope / r.clamp(min=1e-300).unsqueeze(1), 0.0)
    new = exact.to(plane.dtype)
    constant = constant - ((new.double() - exact).abs() * r.unsqueeze(1)).sum(-1) - 1e-290
    spread = (new.double().abs() * r.unsqueeze(1)).sum(-1)
    reach = (new.double() * c.unsqueeze(1)).sum(-1)
    weight = (new.double().abs() * c.abs().unsqueeze(1)).sum(-1)
    found = constant - spread - error * (spread + constant.abs())
    offset = constant - reach - error * (constant.abs() + weight)
    found, offset = (_down(t, low.dtype) for t in (found, offset))
    better = torch.isfinite(found) & torch.isfinite(offset) & torch.isfinite(new).all(-1) & (found > low)
    return (
        torch.where(better, found, low),
        torch.where(better.unsqueeze(-1), new, plane),
        torch.where(better, offset, bias),
    )


def _down(t: Tensor, dtype: torch.dtype) -> Tensor:
    """float64 to `dtype`, rounded down."""
    y = t.to(dtype)
    return torch.where(y.double() > t, torch.nextafter(y, torch.full_like(y, -torch.inf)), y)


def _losses(
    trace: Trace, products: Mapping[int, Tensor], shape: torch.Size
) -> tuple[Tensor, tuple[Tensor, Tensor], Tensor]:
    """Coefficients (D, S, K) on the products that are taken together, 0 elsewhere; their slopes p and q (D, K); and
    what the rows lose by the products' own planes, a little less (D, S). All float64.
    """
    coefs, ps, qs, lost = [], [], [], []
    for k, a in products.items():
        planes, n, op = trace.lines[k], shape[0], trace.program.steps[k].op
        flat = lambda t: lift(t, op.rank).expand(n, *op.out_shape).reshape(n, -1).double()  # noqa: B023, E731
        (p, q), (p2, q2) = planes.lower, planes.upper
        low, high, p, q, p2, q2 = (flat(t) for t in (planes.lo_b, planes.up_b, p, q, p2, q2))
        known = (p == p2) & (q == q2)
        for box in (trace.boxes[i] for i in trace.program.steps[k].inputs):
            known &= torch.isfinite(flat(box[1] - box[0]))
        low, high, p, q = (torch.where(known, t, 0.0) for t in (low, high, p, q))
        a = a.reshape(*shape, -1).double() * known.unsqueeze(1)
        base, slack = -p * q, 4 * torch.finfo(torch.float64).eps * (p * q).abs()
        down, up = ((t - slack - 1e-300).unsqueeze(1) for t in (base - low, high - base))
        coefs.append(a)
        ps.append(p)
        qs.append(q)
        lost.append((a.clamp(min=0) * down - a.clamp(max=0) * up).sum(-1))
    return torch.cat(coefs, 2), (torch.cat(ps, 1), torch.cat(qs, 1)), sum(lost)


def _places(trace: Trace, steps: list[int]) -> tuple[Tensor, Tensor]:
    """Where the two operands of all products (K,) stand among the entries of all factors."""
    starts, at = {}, 0
    for v in trace.program.factors:
        starts[v], at = at, at + size(trace.program.shapes[v])
    found = [[], []]
    for k in steps:
        op, shape = trace.program.steps[k].op, trace.program.shapes[k]
        for side, v, inner in zip(found, trace.program.steps[k].inputs, op.in_shapes):
            places = torch.arange(starts[v], starts[v] + size(inner), device=trace.boxes[0][0].device)
            side.append(lift(places.reshape(1, *inner), op.rank).expand(1, *shape).reshape(-1))
    return torch.cat(found[0]), torch.cat(found[1])


def _enclose(trace: Trace, c: Tensor, r: Tensor, limit: int) -> Enclosures | None:
    """Planes around all operands, by one backward pass of all of them; None where that would take too much memory."""
    values, like = trace.program.factors, trace.boxes[0][0]
    sizes = [size(trace.program.shapes[v]) for v in values]
    n, d = sum(sizes), trace.domains
    if d * 2 * n * max(sizes) * like.element_size() > limit:
        return None
    live, at = {}, 0
    for v, count in zip(values, sizes):
        unit = like.new_zeros((d, 2, n, count))
        entry = torch.arange(count, device=like.device)
        unit[:, 0, at + entry, entry], unit[:, 1, at + entry, entry] = 1.0, -1.0
        live[v], at = unit.reshape(d * 2 * n, *trace.program.shapes[v]), at + count
    zero = like.new_zeros(d * 2 * n)
    plane, bias, charge = backward(trace, values[-1], Rows(live, zero, zero.clone()), 2 * n)
    plane, bias, charge = plane.double(), bias.double(), charge.double()
    first, second = plane[:, :n], plane[:, n:]
    low_b, high_b = (bias - charge)[:, :n], (bias - charge)[:, n:]
    alpha = (first - second) / 2
    # x >= first (c + e) + low_b and -x >= second (c + e) + high_b; about alpha e, with what rounding may lose.
    here = lambda t: (t * c.unsqueeze(1)).sum(-1)  # noqa: E731
    wide = lambda t: (t.abs() * r.unsqueeze(1)).sum(-1)  # noqa: E731
    weight = wide(first) + wide(second) + wide(alpha) + low_b.abs() + high_b.abs()
    weight = weight + ((first.abs() + second.abs()) * c.abs().unsqueeze(1)).sum(-1)
    slack = 4 * gamma(2 * c.shape[-1] + 16, torch.float64) * weight + 1e-290
    low = here(first) + low_b - wide(first - alpha) - slack
    high = -here(second) - high_b + wide(second + alpha) + slack
    mid = low + (high - low) / 2
    error = torch.maximum(high - mid, mid - low) * (1 + 1e-15)
    box_l, box_u = (torch.cat([trace.boxes[v][side].reshape(d, -1) for v in values], 1).double() for side in (0, 1))
    middle = box_l + (box_u - box_l) / 2
    half = torch.maximum(box_u - middle, middle - box_l) * (1 + 1e-15)
    boxed = ~(error < half)  # the box alone says more; also where a plane is not finite
    return Enclosures(
        torch.where(boxed.unsqueeze(-1), 0.0, alpha),
        torch.where(boxed, middle, mid),
        torch.where(boxed, half, error),
    )


def below_form(form: Tensor, g: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """A plane below e B e over |e| <= 1: slope (..., m) and value at 0 (...), for symmetric B (..., m, m), laid where g
    e + e B e is about least; and what the sums here are relative to (...).
    """
    m = form.shape[-1]
    fine = torch.isfinite(form).flatten(-2).all(-1)
    form = torch.where(fine[..., None, None], form, 0.0)
    roots, v = torch.linalg.eigh(form)
    column = v.abs().sum(-2) ** 2  # (..., m): sum of |v_i v_j| over i, j
    below = (-roots[..., :1]).clamp(min=0)  # tau, if all are raised
    alone = ((-roots).clamp(min=0) * column).sum(-1, keepdim=True)
    tau = torch.where(alone <= m * below, 0.0, below)
    raised = (roots + tau).clamp(min=0)
    convex = (v * raised.unsqueeze(-2)) @ v.mT
    left = form - convex + tau.unsqueeze(-1) * torch.eye(m, dtype=form.dtype, device=form.device)
    mass = 6 * (raised * column).sum(-1) + 2 * form.abs().sum((-2, -1)) + 2 * m * tau.squeeze(-1)
    t = tangent_at(convex, raised[..., -1:], g)
    pull = (convex @ t.unsqueeze(-1)).squeeze(-1)
    value = -(t * pull).sum(-1) - left.abs().sum((-2, -1)) - m * tau.squeeze(-1)
    value = torch.where(fine & torch.isfinite(value), value, -torch.inf)
    return 2 * pull, value, mass


def tangent_at(convex: Tensor, steepest: Tensor, g: Tensor) -> Tensor:
    """Where g e + e P e is about least over |e| <= 1: (..., m); P (..., m, m), its largest eigenvalue (..., 1)."""
    step = 1 / (2 * steepest).clamp(min=1e-300)
    t, old, speed = torch.zeros_like(g), torch.zeros_like(g), 1.0
    for _ in range(STEPS):  # accelerated (Nesterov)
        ahead = 0.5 * (1 + (1 + 4 * speed * speed) ** 0.5)
        y = t + ((speed - 1) / ahead) * (t - old)
        slope = g + 2 * (convex @ y.unsqueeze(-1)).squeeze(-1)
        old, t, speed = t, torch.nan_to_num(y - step * slope).clamp(-1.0, 1.0), ahead
    return t
