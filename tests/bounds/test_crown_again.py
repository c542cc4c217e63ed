"""CROWN against a second CROWN: plain numpy, one box and one row at a time, written from the paper alone.

Backward passes only: the registered method intersects their boxes with others and is tighter.
"""

from __future__ import annotations

import numpy as np
import pytest
import torch
from handmade import random_dense

from verifier.bounds.crown import by_crown
from verifier.bounds.final import final_rows
from verifier.bounds.program import Program
from verifier.bounds.trace import trace_values


def lines(l: np.ndarray, u: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Lower slope, upper slope, upper offset of the ReLU's triangle."""
    low, high, offset = np.zeros(len(l)), np.zeros(len(l)), np.zeros(len(l))
    for j in range(len(l)):
        if l[j] >= 0:
            low[j] = high[j] = 1.0
        elif u[j] > 0:
            low[j] = 1.0 if u[j] > -l[j] else 0.0
            high[j] = u[j] / (u[j] - l[j])
            offset[j] = -high[j] * l[j]
    return low, high, offset


def lower(row: np.ndarray, weights, biases, relaxed, l: np.ndarray, u: np.ndarray) -> tuple[float, np.ndarray, float]:
    """Least value of row @ (last layer) over the box, with its plane; `relaxed[k]` are the lines behind layer k."""
    bias = 0.0
    for k in range(len(weights) - 1, -1, -1):
        bias += row @ biases[k]
        row = weights[k] @ row
        if k:
            low, high, offset = relaxed[k - 1]
            bias += np.minimum(row, 0) @ offset
            row = np.where(row >= 0, row * low, row * high)
    return float(np.maximum(row, 0) @ l + np.minimum(row, 0) @ u + bias), row, bias


def crown(weights, biases, l: np.ndarray, u: np.ndarray, rows: np.ndarray) -> list[tuple[float, np.ndarray, float]]:
    """Layer by layer: the interval of a layer, and where it crosses zero the backward bounds if they are better."""
    relaxed, a, b = [], l, u
    for k in range(len(weights) - 1):
        w = weights[k]
        z_l = np.maximum(w, 0).T @ a + np.minimum(w, 0).T @ b + biases[k]
        z_u = np.maximum(w, 0).T @ b + np.minimum(w, 0).T @ a + biases[k]
        for j in np.flatnonzero((z_l < 0) & (z_u > 0)) if k else ():
            unit = np.eye(len(z_l))[j]
            z_l[j] = max(z_l[j], lower(unit, weights[: k + 1], biases[: k + 1], relaxed, l, u)[0])
            z_u[j] = min(z_u[j], -lower(-unit, weights[: k + 1], biases[: k + 1], relaxed, l, u)[0])
        relaxed.append(lines(z_l, z_u))
        a, b = np.maximum(z_l, 0), np.maximum(z_u, 0)
    return [lower(row, weights, biases, relaxed, l, u) for row in rows]


@pytest.mark.parametrize("sizes", [(1, 5, 2), (3, 8, 8, 3), (4, 7, 9, 6, 8, 2)])
def test_the_same_bounds_and_planes(sizes):
    for seed in range(8):
        rng = np.random.default_rng(seed)
        network, n = random_dense(rng, sizes), len(sizes) - 1
        weights = [network.constants[f"c{2 * k}"].astype(float) for k in range(n)]
        biases = [network.constants[f"c{2 * k + 1}"].astype(float) for k in range(n)]
        centre, rows = rng.normal(size=(5, sizes[0])), rng.normal(size=(3, sizes[-1]))
        l = centre - np.array([0.02, 0.1, 0.5, 1.0, 4.0])[:, None]
        u = centre + np.array([0.02, 0.1, 0.5, 1.0, 4.0])[:, None]
        program = Program(network, torch.float64, "cpu")
        for d in range(5):
            box = torch.from_numpy(l[d])[None], torch.from_numpy(u[d])[None]
            trace = trace_values(program, *box, 1 << 26, by_crown)
            bounds = final_rows(trace, torch.from_numpy(rows)[None], 1 << 26)
            for s, (lb, plane, bias) in enumerate(crown(weights, biases, l[d], u[d], rows)):
                tolerance = 1e-10 * (1 + abs(lb))
                mine = bounds.plane[0, s].numpy()
                least = np.maximum(mine, 0) @ l[d] + np.minimum(mine, 0) @ u[d] + float(bounds.bias[0, s])
                assert least == pytest.approx(lb, abs=tolerance)
                assert float(bounds.lb[0, s]) >= lb - tolerance  # the output's interval may know better
                assert bounds.plane[0, s].numpy() == pytest.approx(plane, abs=1e-10 * (1 + np.abs(plane).max()))
                assert float(bounds.bias[0, s]) == pytest.approx(bias, abs=1e-10 * (1 + abs(bias)))
