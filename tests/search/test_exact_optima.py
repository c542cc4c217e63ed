"""Whole verdicts against exact optima of real networks, found without bounds, attacks or our reader of models.

*Lattices.* A two-level lattice network computes max over groups of min over the group's linear functions. Its greatest
value over a box is the best of one linear program a group. Its least value lies above the best of the groups' least
values in every cell of a grid, which cells' corners give, since a minimum of linear functions is concave.

*One hidden layer.* The least difference of two outputs of a ReLU network is an integer program's optimum; its dual
bound and its best solution enclose it whenever the solver is stopped.

Functions are read off the weights, and their values are held to ONNX Runtime.

This also settles labels: what is published for some names of these folders is not true of the files.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import numpy_helper
from oracles import model_bytes, run_ort
from scipy.optimize import Bounds, LinearConstraint, linprog, milp

from verifier import settings
from verifier.api import verify
from verifier.result import Verdict

REAL = Path(__file__).resolve().parents[3] / "shared" / "vnncomp"
LATTICES, HIDDEN = REAL / "tllverifybench", REAL / "safenlp"
SMALL = 120_000  # bytes of a lattice; searches in larger ones of these can take a minute
EVERY = slice(2, None, 16)  # of the instances with one hidden layer; published answers of these are wrong
CELLS = 256  # a side
SECONDS = 10  # for an integer program; the sign of its optimum is known long before
NEAR = 1e-4  # what single precision may be off by, some fifty times over

real = pytest.mark.skipif(not REAL.is_dir(), reason=f"needs the real instances in {REAL}")


def instances(folder: Path) -> list[tuple[Path, Path]]:
    with open(folder / "instances.csv", newline="", encoding="utf-8") as f:
        return [(folder / row["onnx"], folder / row["vnnlib"]) for row in csv.DictReader(f)]


def weights(model: Path, *names: tuple[str, str]) -> list[np.ndarray]:
    """The initializers that have both words of each of `names` in theirs."""
    graph = onnx.load_model_from_string(model_bytes(model)).graph
    held = {i.name: numpy_helper.to_array(i).astype(float) for i in graph.initializer}
    return [next(t for name, t in held.items() if all(w in name for w in words)) for words in names]


def box(prop: Path) -> tuple[np.ndarray, np.ndarray, str]:
    """The box's ends (m,) each, and the property's text without comments."""
    text = re.sub(rb";[^\n]*", b"", model_bytes(prop)).decode()
    found = re.findall(r"\(assert \((<=|>=) X_(\d+) ([^ )]+)\)\)", text)
    ends = {(op, int(k)): float(v) for op, k, v in found}
    n = len(found) // 2
    assert len(ends) == 2 * n and text.count("assert") == 2 * n + 1
    return *(np.array([ends[op, k] for k in range(n)]) for op in (">=", "<=")), text


def assert_right(model: Path, prop: Path, right: Verdict) -> None:
    assert verify(model, prop, settings.read(None, ["timeout=60"])).verdict is right, (model.name, prop.name)


# --- lattices


def greatest(w, b, groups, low, high) -> float:
    """The exact maximum over the box."""
    found = []
    for g in groups:
        g = np.unique(g)
        a = np.c_[-w[:, g].T, np.ones(len(g))]
        found.append(-linprog([0, 0, -1], a, b[g], bounds=[*zip(low, high), (None, None)]).fun)
    return max(found)


def least(w, b, groups, low, high) -> tuple[float, float]:
    """The minimum over the box lies between these two."""
    lines = np.meshgrid(*(np.linspace(low[d], high[d], CELLS + 1) for d in (0, 1)), indexing="ij")
    at = np.stack(lines, -1) @ w + b  # (corners, corners, functions)
    corners = np.minimum(at[1:], at[:-1])
    corners = np.minimum(corners[:, 1:], corners[:, :-1])
    below, values = (np.max([t[..., np.unique(g)].min(-1) for g in groups], 0) for t in (corners, at))
    return below.min(), values.min()


def answer(w, b, groups, low, high, op: str, value: float) -> Verdict | None:
    """The exact answer to whether the output can be >= or <= `value`; None where it is too close to tell."""
    if op == ">=":
        first = last = greatest(w, b, groups, low, high) - value
    else:
        first, last = (value - t for t in reversed(least(w, b, groups, low, high)))
    return Verdict.SAT if first > NEAR else Verdict.UNSAT if last < -NEAR else None


@real
def test_verdicts_on_lattices():
    rng, answers = np.random.default_rng(0), set()
    names = ("linearLayer", "MatMul"), ("linearLayer", "Bias"), ("selectionLayer", "MatMul")
    for model, prop in instances(LATTICES):
        if model.stat().st_size > SMALL:
            continue
        w, b, chosen = weights(model, *names)
        assert (np.sort(chosen, 0)[:-1] == 0).all() and (chosen.max(0) == 1).all()
        groups = chosen.argmax(0).reshape(-1, w.shape[1])
        low, high, text = box(prop)
        ((op, value),) = re.findall(r"\(assert \((<=|>=) Y_0 ([^ )]+)\)\)", text)
        xs = rng.uniform(low, high, (50, 2)).astype(np.float32)
        ours = (xs.astype(float) @ w + b)[:, groups].min(2).max(1)
        np.testing.assert_allclose(ours, np.concatenate(run_ort(model, xs)), atol=NEAR / 2)
        right = answer(w, b, groups, low, high, op, float(value))
        assert right is not None
        assert_right(model, prop, right)
        answers.add(right)
    assert answers == {Verdict.SAT, Verdict.UNSAT}


def test_optima_of_a_lattice_worked_by_hand():
    w, b, groups = np.array([[1.0, -1.0, 0.0], [0.0, 0.0, 1.0]]), np.array([0.0, 0.0, -3.0]), np.array([[0, 1], [2, 2]])
    low, high = np.array([-1.0, 0.0]), np.array([2.0, 2.0])  # max(min(x, -x), y - 3)
    assert greatest(w, b, groups, low, high) == pytest.approx(0.0, abs=1e-9)
    below, above = least(w, b, groups, low, high)
    assert below <= -2.0 <= above and above - below < 0.02
    assert answer(w, b, groups, low, high, ">=", -0.5) is Verdict.SAT
    assert answer(w, b, groups, low, high, ">=", 0.5) is Verdict.UNSAT
    assert answer(w, b, groups, low, high, "<=", -1.5) is Verdict.SAT
    assert answer(w, b, groups, low, high, "<=", -2.5) is Verdict.UNSAT
    assert answer(w, b, groups, low, high, ">=", 0.0) is None


# --- one hidden layer


def least_of_row(w, b, row, const, low, high) -> Iterator[float]:
    """The minimum over the box of row . relu(w x + b) + const lies between these two; w (h, n), row (h,)."""
    h, n = w.shape
    mid, wide = w @ ((low + high) / 2) + b, np.abs(w) @ ((high - low) / 2)
    l, u = np.minimum(mid - wide, 0), np.maximum(mid + wide, 0)
    one, none, free = np.eye(h), np.zeros((h, h)), np.full(h, np.inf)
    # Variables x (n,), z (h,) = relu(w x + b), and whether a neuron is active (h,).
    above = LinearConstraint(np.c_[-w, one, none], b, free)
    on = LinearConstraint(np.c_[-w, one, np.diag(-l)], -free, b - l)
    off = LinearConstraint(np.c_[np.zeros((h, n)), one, np.diag(-u)], -free, np.zeros(h))
    active = (mid - wide > 0).astype(float), (mid + wide > 0).astype(float)
    ends = Bounds(np.r_[low, np.zeros(h), active[0]], np.r_[high, u, active[1]])
    cost, whole = np.r_[np.zeros(n), row, np.zeros(h)], np.r_[np.zeros(n + h), np.ones(h)]
    found = milp(cost, constraints=[above, on, off], integrality=whole, bounds=ends, options={"time_limit": SECONDS})
    return (t + const if t is not None else far for t, far in ((found.mip_dual_bound, -np.inf), (found.fun, np.inf)))


@real
def test_verdicts_on_one_hidden_layer():
    rng, answers = np.random.default_rng(0), set()
    names = [(layer, part) for layer in ("dense_1", "predictions") for part in ("MatMul", "Bias")]
    for model, prop in instances(HIDDEN)[EVERY]:
        w, b, v, c = weights(model, *names)
        low, high, text = box(prop)
        assert "(assert (<= Y_0 Y_1))" in text
        xs = rng.uniform(low, high, (20, len(low))).astype(np.float32)
        ours = np.maximum(xs.astype(float) @ w + b, 0) @ v + c
        np.testing.assert_allclose(ours, run_ort(model, xs), atol=NEAR / 2)
        below, above = least_of_row(w.T, b, v[:, 0] - v[:, 1], c[0] - c[1], low, high)
        assert below > NEAR or above < -NEAR
        right = Verdict.UNSAT if below > 0 else Verdict.SAT
        assert_right(model, prop, right)
        answers.add(right)
    assert answers == {Verdict.SAT, Verdict.UNSAT}


def test_optima_of_one_hidden_layer_worked_by_hand():
    w, b = np.array([[1.0, 1.0], [1.0, -1.0]]), np.array([0.0, -1.0])
    low, high = np.array([-1.0, -1.0]), np.array([1.0, 1.0])  # -relu(x + y) + 2 relu(x - y - 1): least at (1, 1)
    found = tuple(least_of_row(w, b, np.array([-1.0, 2.0]), 0.5, low, high))
    assert found == pytest.approx((-1.5, -1.5), abs=1e-6)
