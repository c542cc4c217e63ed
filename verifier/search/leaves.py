"""The end of the tree: a case without an unstable neuron left is a linear program, and ends refuted or as a candidate.

With every kink decided, by a split or by the case's boxes (`explicit` makes splits of these), the network is affine on
the case; a curve too narrow to be split stands as one of its lines, the one that the row's sign picks. Rows
R x + r of the disjunct, split values g_j x + h_j. The program

    min t   such that   R x + r <= t,   -sign_j (g_j x + h_j - p_j) / scale_j <= t,   x in the box

always has a solution. If t > 0 nothing in the case satisfies the disjunct, and the program's multipliers, weights of
rows and betas of splits, are what `verifier.bounds.certify` evaluates: no solver's tolerance is trusted. If t <= 0, x
satisfies everything as far as the solver can tell, with the most room: a candidate.

Solved by HiGHS through scipy. Rows and splits whose planes are not finite say nothing that a program could use: they
are left out, with multipliers of 0 (all x satisfy what is left, so t can only fall, and a proof is one without them).

Symbols: P splits, S rows, m dimensions.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from verifier.bounds.proved import proves_positive, strict_sum
from verifier.bounds.relaxation import Multipliers, Relaxation, Splits, Start
from verifier.bounds.walk import Pass
from verifier.ops.base import size
from verifier.search.bounder import Bounder
from verifier.search.cases import Cases


@dataclass
class Solved:
    """`t` as the solver found it, x (m,), and multipliers of the rows (S,) and the splits (P,)."""

    t: float
    x: np.ndarray
    weights: np.ndarray
    beta: np.ndarray


def solve(a: np.ndarray, b: np.ndarray, lower: np.ndarray, upper: np.ndarray) -> tuple | None:
    """(t, x (m,), multipliers (C,) >= 0) of min t, a x + b <= t, over the box: a (C, m), b (C,); None where no row is
    finite or no solution is found.
    """
    from scipy.optimize import linprog  # half a second that most runs need not spend

    finite = np.isfinite(a).all(1) & np.isfinite(b)
    if not finite.any() or not (np.isfinite(lower) & np.isfinite(upper)).all():
        return None
    m, multipliers = len(lower), np.zeros(len(a))
    cost = np.zeros(m + 1)
    cost[m] = 1.0
    matrix = np.concatenate([a[finite], -np.ones((int(finite.sum()), 1))], 1)
    found = linprog(cost, matrix, -b[finite], bounds=[*zip(lower, upper), (None, None)], method="highs")
    if found.status != 0 or not np.isfinite(found.x).all():
        return None
    multipliers[finite] = np.nan_to_num(np.maximum(-found.ineqlin.marginals, 0.0), posinf=0.0)
    return float(found.fun), found.x[:m], multipliers


def explicit(r: Relaxation, case: Cases) -> Cases:
    """A case (D = 1) in which the kinks that its boxes decide are split as well: its counterexamples satisfy that, and
    points that the program finds will.
    """
    boxes = case.boxes(r.lower, r.upper)
    if boxes is None:
        return case
    l, u = (t[0] for t in case.splits.boxes(r.lower, r.upper))
    low, high = (t[0] for t in case.splits.boxes(*boxes))
    decided = r.kinked & (l < 0) & (u > 0) & ((low >= 0) | (high <= 0))
    column = torch.nonzero(decided).squeeze(1)
    width, count = case.column.shape[1], len(column)
    new = Cases(**case.padded(width + count).__dict__)
    new.column, new.sign, new.point = new.column.clone(), new.sign.clone(), new.point.clone()
    new.column[0, width:] = column
    new.sign[0, width:] = torch.where(low[column] >= 0, 1.0, -1.0).to(new.sign.dtype)
    return new


def affine_maps(
    r: Relaxation, splits: Splits, start: Start, boxes: tuple[torch.Tensor, torch.Tensor] | None
) -> tuple[np.ndarray, np.ndarray]:
    """Planes (N, m) and constants (N,) of rows in a case whose neurons are all decided by its splits (1, P); `boxes` of
    its columns (1, K).
    """
    n = len(start.rows) if start.rows is not None else len(start.bias)
    first = torch.zeros(n, dtype=torch.int64, device=r.alpha.device)
    boxes = None if boxes is None else tuple(t[first] for t in boxes)
    lines, alpha = r.lines(splits.take(first), boxes), r.alpha.expand(n, -1).clone()
    m = Multipliers(alpha, r.upper_slopes.expand(n, -1).clone(), alpha.new_zeros((n, 0)), alpha.new_ones((n, 1)))
    r.project(m, lines)
    walk = Pass(r, start, lines, Splits.none(n, alpha))
    walk.backward(m)
    return walk.plane.double().cpu().numpy(), walk.bias.double().cpu().numpy()


def solve_leaf(bounder: Bounder, case: Cases) -> Solved | None:
    """The program of one case (D = 1); None without a solution."""
    r, splits = bounder.relaxation, case.splits
    boxes = case.boxes(r.lower, r.upper)
    rows, const = bounder.rows[case.slot[0]], bounder.const[case.slot[0]]
    real = rows.abs().sum(1) > 0
    real = real | (const != -1.0)
    start = Start(r.program.output, rows=rows[real].unsqueeze(1), const=const[real].to(rows.dtype).unsqueeze(1))
    plane, bias = affine_maps(r, splits, start, boxes)
    planes, biases, scales, places = [plane], [bias], [np.ones(len(bias))], []
    for j in torch.nonzero(case.column[0] >= 0).squeeze(1).tolist():
        g, h = _split_value(bounder, splits, boxes, int(case.column[0, j]))
        sign, point = float(case.sign[0, j]), float(case.point[0, j])
        size = np.abs(g).sum()
        scale = max(size, 1e-12) if np.isfinite(size) else 1.0
        planes.append(-sign * g / scale)
        biases.append(-sign * (h - point) / scale)
        scales.append(np.full(1, scale))
        places.append(j)
    l, u = (t[0].double().cpu().numpy() for t in r.trace.boxes[0])
    found = solve(np.concatenate(planes), np.concatenate(biases), l, u)
    if found is None:
        return None
    t, x, y = found
    y = y / np.concatenate(scales)
    weights, beta = np.zeros(len(real)), np.zeros(case.column.shape[1])
    weights[real.cpu().numpy()] = y[: len(bias)]
    beta[places] = y[len(bias) :]
    return Solved(t, x, weights, beta)


def _split_value(
    bounder: Bounder, splits: Splits, boxes: tuple[torch.Tensor, torch.Tensor] | None, column: int
) -> tuple[np.ndarray, np.ndarray]:
    """The split neuron's value as a function of x: plane (1, m), constant (1,)."""
    r = bounder.relaxation
    site = next(s for s in r.readers if s.cut.start <= column < s.cut.stop)
    entry = column - site.cut.start
    entry = entry if site.index is None else int(site.index[entry])
    shape = r.program.shapes[site.value]
    unit = r.alpha.new_zeros((1, size(shape)))
    unit[0, entry] = 1.0
    start = Start(site.value, live={site.value: unit.reshape(1, *shape)}, bias=r.alpha.new_zeros(1))
    return affine_maps(r, splits, start, boxes)


def certified(bounder: Bounder, case: Cases, solved: Solved) -> bool:
    """Whether the multipliers refute the case, evaluated in float64 with its error."""
    r = bounder.relaxation
    m = Multipliers(
        case.alpha.double(),
        case.upper.double(),
        torch.from_numpy(solved.beta)[None].to(r.lower.device),
        torch.from_numpy(solved.weights)[None].to(r.lower.device),
    )
    slot = case.slot
    boxes = case.boxes(r.lower, r.upper)
    lb = bounder.certifier.bounds(bounder.fine_rows[slot], bounder.const[slot], case.splits, m, boxes)
    return bool(proves_positive(lb, strict_sum(bounder.strict[slot], m.weights))[0])
