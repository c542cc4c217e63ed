"""Dual bounds: gradients, bounds, and how near they come to the best that the relaxation allows.

Symbols: N domains, K columns, P splits.
"""

from __future__ import annotations

import numpy as np
import pytest
import torch
from handmade import exact, random_branches, random_convolution, random_dense
from scipy.optimize import linprog

from verifier.bounds.certify import Certifier
from verifier.bounds.crown import crown_trace
from verifier.bounds.dual import Settings, optimise
from verifier.bounds.program import Program
from verifier.bounds.relaxation import Multipliers, Relaxation, Splits, Start
from verifier.bounds.tighten import tightened
from verifier.bounds.walk import Pass
from verifier.ops.base import Affine

D = torch.float64


def make(seed: int, dtype=D):
    """A network of a random kind over a random box, and its relaxation."""
    rng = np.random.default_rng(seed)
    kinds = [str(k) for k in rng.choice(("Relu", "LeakyRelu", "Abs", "Clip", "Tanh", "Sin", "Softplus"), 2)]
    network = (
        random_dense(rng, (3, 6, 5, 3), kinds[0]),
        random_convolution(rng, kinds),
        random_branches(rng, kinds),
        random_dense(rng, (4, 8, 8, 6, 3), "Relu"),
    )[seed % 4]
    program = Program(network, dtype, "cpu")
    centre = torch.from_numpy(rng.normal(size=program.n_in)).to(dtype)
    radius = torch.from_numpy(rng.random(program.n_in)).to(dtype) * float(rng.choice([0.2, 1.0]))
    trace = crown_trace(program, (centre - radius)[None], (centre + radius)[None], 1 << 26)
    return rng, network, Relaxation(trace)


def domains(rng, r: Relaxation, n: int, most: int, rows: int = 2):
    """n random domains: rows of a disjunct, splits of up to `most` columns, multipliers."""
    p = r.program.shapes[r.program.output][-1]
    dtype = r.alpha.dtype
    start = Start(
        r.program.output,
        rows=torch.from_numpy(rng.normal(size=(n, rows, p))).to(dtype),
        const=torch.from_numpy(rng.normal(size=(n, rows))).to(dtype),
    )
    can = torch.nonzero(r.splittable).squeeze(1).numpy()
    most = min(most, len(can))
    column = np.full((n, most), -1)
    for i in range(n):
        k = int(rng.integers(most + 1))
        column[i, :k] = rng.choice(can, k, replace=False)
    sign = torch.from_numpy(rng.choice([-1.0, 1.0], column.shape)).to(dtype)
    at = torch.from_numpy(column).clamp(min=0)
    point = torch.zeros_like(sign)
    if most:  # curves are split anywhere, kinks at 0
        share = torch.from_numpy(rng.random(column.shape)).to(dtype)
        point = torch.where(r.is_curve[at], torch.lerp(r.lower[at], r.upper[at], share), 0.0)
    splits = Splits(torch.from_numpy(column), sign, point)
    m = Multipliers(
        torch.from_numpy(rng.random((n, r.width))).to(dtype),
        torch.from_numpy(rng.normal(size=(n, int(r.is_curve.sum())))).to(dtype),
        torch.from_numpy(rng.random(column.shape)).to(dtype) * (splits.column >= 0),
        torch.from_numpy(rng.random((n, rows))).to(dtype),
    )
    lines = r.lines(splits)
    r.project(m, lines)
    if lines.curves is not None:  # inside their ranges: at a slope of 0 the bound has a kink in everything below
        for slopes, side in ((m.alpha[:, r.is_curve], lines.curves.low), (m.upper, lines.curves.high)):
            slopes.copy_(torch.lerp(side.least, side.most, torch.from_numpy(rng.random(slopes.shape)).to(dtype)))
            if slopes is not m.upper:
                m.alpha[:, r.is_curve] = slopes
    return start, splits, m


def _inside(side) -> torch.Tensor:
    """Which curves have a range of slopes worth a difference quotient."""
    return side.most - side.least > 1e-5


@pytest.mark.parametrize("seed", range(8))
def test_gradients_are_differences(seed):
    """Where the bound is smooth, its derivative along random directions is the difference quotient."""
    rng, _, r = make(seed)
    start, splits, m = domains(rng, r, 6, 3)
    lines = r.lines(splits)
    walk = Pass(r, start, lines, splits)
    walk.backward(m)
    g = walk.gradients(walk.forward(m))
    for name in ("alpha", "upper", "beta", "weights"):
        t, slope = getattr(m, name), getattr(g, name)
        if not t.shape[1]:
            continue
        direction = torch.from_numpy(rng.normal(size=t.shape))
        if name == "alpha":
            if lines.curves is not None:
                direction[:, r.is_curve] *= _inside(lines.curves.low)
            direction = direction * (lines.least < lines.most)
        if name == "beta":
            direction = direction * (splits.column >= 0)
        if name == "upper":
            direction = direction * _inside(lines.curves.high)
        h = 1e-7
        ends = []
        for step in (h, -h):
            moved = m.clone()
            setattr(moved, name, t + step * direction)
            ends.append(Pass(r, start, lines, splits).backward(moved))
        measured = (ends[0] - ends[1]) / (2 * h)
        expected = (slope * direction).sum(1)
        close = (measured - expected).abs() <= 1e-5 * (1 + expected.abs())
        assert int(close.sum()) >= 5, (name, measured, expected)  # one of six may sit on a kink


def by_autograd(r: Relaxation, start: Start, splits: Splits, m: Multipliers) -> tuple[torch.Tensor, torch.Tensor]:
    """The bound written down plainly, entry by entry of full-width lines; and d lb / d alpha."""
    n, program = len(m.alpha), r.program
    alpha, upper = m.alpha.clone().requires_grad_(True), m.upper
    lines = r.lines(splits)
    live = {program.output: torch.einsum("ns,nsp->np", m.weights, start.rows)}
    bias = (m.weights * start.const).sum(1)
    for k in range(program.output, 0, -1):
        a = live.pop(k, None)
        if a is None:
            continue
        step = program.steps[k]
        if isinstance(step.op, Affine):
            parts = step.op.adjoint(a)
            zeros = (torch.zeros(1, *program.shapes[i], dtype=D) for i in step.inputs)
            bias = bias + a.flatten(1) @ step.op.forward(*zeros).flatten()
        else:
            site, root = r.sites[k], r.trace.lines[k]
            wide = [None if t is None else t.reshape(1, -1).expand(n, -1).clone() for t in root]
            lo_b, up_b = (torch.zeros_like(wide[0]) if t is None else t for t in (wide[1], wide[3]))
            index = torch.arange(wide[0].shape[1]) if site.index is None else site.index
            c = site.cut
            lo_a = wide[0].index_copy(1, index, alpha[:, c])
            lo_b = lo_b.index_copy(1, index, r.lo_b[c].expand(n, -1))
            up_a = wide[2].index_copy(1, index, lines.up_a[:, c])
            up_b = up_b.index_copy(1, index, lines.up_b[:, c])
            if site.curved is not None:  # offsets as the least and the greatest of the chords
                curve, b = lines.curves, site.curved
                chain = (curve.low.c[:, :, b] + curve.low.d[:, :, b] * alpha[:, c]).amin(0)
                lo_b = lo_b.index_copy(1, index, chain)
                up_a = up_a.index_copy(1, index, upper[:, b])
                chain = (curve.high.c[:, :, b] + curve.high.d[:, :, b] * upper[:, b]).amax(0)
                up_b = up_b.index_copy(1, index, chain)
            flat = a.flatten(1)
            pos, neg = flat.clamp(min=0), flat.clamp(max=0)
            bias = bias + (pos * lo_b + neg * up_b).sum(1)
            out = pos * lo_a + neg * up_a
            for i, j in torch.nonzero((splits.column >= c.start) & (splits.column < c.stop)).tolist():
                out = out.clone()
                amount = m.beta[i, j] * splits.sign[i, j]
                out[i, index[splits.column[i, j] - c.start]] -= amount
                bias = bias.index_add(0, torch.tensor([i]), (amount * splits.point[i, j])[None])
            parts = (out.reshape(n, *program.shapes[step.inputs[0]]),)
        for i, part in zip(step.inputs, parts):
            live[i] = live[i] + part if i in live else part
    plane = live[0]
    l, u = r.trace.boxes[0]
    lb = bias + (plane.clamp(min=0) * l + plane.clamp(max=0) * u).sum(1)
    (gradient,) = torch.autograd.grad(lb.sum(), alpha, allow_unused=True) if alpha.shape[1] else (alpha,)
    return lb.detach(), gradient


@pytest.mark.parametrize("seed", range(8))
def test_bounds_and_gradients_are_those_of_automatic_differentiation(seed):
    rng, _, r = make(seed)
    start, splits, m = domains(rng, r, 5, 4)
    walk = Pass(r, start, r.lines(splits), splits)
    lb = walk.backward(m)
    g = walk.gradients(walk.forward(m))
    plain, gradient = by_autograd(r, start, splits, m)
    assert torch.allclose(lb, plain, rtol=1e-9, atol=1e-9)
    free = (r.least < r.most).expand_as(g.alpha).clone()
    if r.curves is not None:
        free[:, r.is_curve] = _inside(r.lines(splits).curves.low)
    free &= r.lines(splits).least < r.lines(splits).most
    assert torch.allclose(g.alpha[free], gradient[free], rtol=1e-7, atol=1e-9)


def best_of_relaxation(r: Relaxation, splits: Splits, row: np.ndarray, const: float, i: int) -> float:
    """The exact optimum of the triangle relaxation of domain i of a dense ReLU network: a linear program."""
    l, u = splits.boxes(r.lower, r.upper)
    program, m = r.program, r.program.n_in
    widths = [program.shapes[k][-1] for k in range(len(program.steps))]
    offset = np.concatenate([[0], np.cumsum(widths)])
    n = offset[-1]
    at = lambda k: slice(offset[k], offset[k] + widths[k])
    a_eq, b_eq, a_ub, b_ub = [], [], [], []
    bounds = [(None, None)] * n
    for j in range(m):
        bounds[j] = tuple(float(t[0, j]) for t in r.trace.boxes[0])
    for k in range(1, len(program.steps)):
        step = program.steps[k]
        if isinstance(step.op, Affine):
            row_k = np.zeros((widths[k], n))
            row_k[:, at(step.inputs[0])] = step.op.weight.numpy().T
            row_k[:, at(k)] -= np.eye(widths[k])
            a_eq.append(row_k)
            b_eq.append(-step.op.bias.numpy())
            continue
        site, (lo_box, up_box) = r.sites[k], r.trace.boxes[step.inputs[0]]
        low, high = lo_box[0].clone(), up_box[0].clone()
        index = torch.arange(widths[k]) if site.index is None else site.index
        low[index], high[index] = l[i, site.cut], u[i, site.cut]
        for e in range(widths[k]):
            lo, hi = float(low[e]), float(high[e])
            z, y = offset[step.inputs[0]] + e, offset[k] + e
            if lo >= 0 or hi <= 0:
                one = np.zeros(n)
                one[y], one[z] = 1.0, -float(lo >= 0)
                a_eq.append(one[None])
                b_eq.append([0.0])
                split = (splits.column[i] >= 0) & (splits.column[i] == _column(r, k, e))
                if bool(split.any()):  # the split itself; the root's boxes are implied by the layers before
                    side = np.zeros(n)
                    side[z] = -1.0 if lo >= 0 else 1.0
                    a_ub.append(side[None])
                    b_ub.append([0.0])
            else:
                for rows in (((y, -1.0),), ((y, -1.0), (z, 1.0)), ((y, 1.0), (z, -hi / (hi - lo)))):
                    one = np.zeros(n)
                    for place, c in rows:
                        one[place] = c
                    a_ub.append(one[None])
                    b_ub.append([-lo * hi / (hi - lo) if rows[0][1] > 0 else 0.0])
    cost = np.zeros(n)
    cost[at(program.output)] = row
    a_ub, b_ub = (np.concatenate(a_ub), np.concatenate(b_ub)) if a_ub else (None, None)
    found = linprog(cost, a_ub, b_ub, np.concatenate(a_eq), np.concatenate(b_eq), bounds)
    return np.inf if found.status == 2 else found.fun + const


def _column(r: Relaxation, step: int, entry: int) -> int:
    site = r.sites[step]
    if site.index is None:
        return site.cut.start + entry
    found = torch.nonzero(site.index == entry)
    return site.cut.start + int(found) if len(found) else -2


def test_a_hundred_steps_come_within_a_percent_of_the_linear_program():
    """Of the optimum's size plus what there was to gain, since optima near 0 have no size."""
    gaps = []
    for seed in range(8):
        rng = np.random.default_rng(seed)
        network = random_dense(rng, ((5, 12, 10, 3), (4, 10, 3), (3, 8, 8, 8, 2))[seed % 3])
        program = Program(network, D, "cpu")
        c = torch.from_numpy(rng.normal(size=(1, program.n_in)))
        r = Relaxation(crown_trace(program, c - 0.5, c + 0.5, 1 << 26))
        start, splits, m = domains(rng, r, 8, 3, rows=1)
        m.weights.fill_(1.0)
        m.beta.zero_()
        m.alpha = r.alpha.expand(8, -1).clone()
        settings = Settings(steps=100, alpha_rate=0.3, beta_rate=0.5, decay=0.96, patience=100)
        found = optimise(r, start, splits, m, settings, target=float("inf"))
        plain = Pass(r, start, r.lines(splits), splits).backward(m)
        for i in range(8):
            row, const = start.rows[i, 0].numpy(), float(start.const[i, 0])
            optimum = best_of_relaxation(r, splits, row, const, i)
            if np.isinf(optimum):
                continue
            assert found.lb[i] <= optimum + 1e-7 * (1 + abs(optimum))
            gaps.append((optimum - float(found.lb[i])) / (abs(optimum) + abs(optimum - float(plain[i]))))
    assert len(gaps) > 40
    assert np.mean(np.array(gaps) <= 0.01) >= 0.95, sorted(gaps)[-8:]


@pytest.mark.parametrize("seed", (0, 1, 2, 3))
def test_leaving_finished_domains_out_changes_nothing_for_the_others(seed):
    rng, _, r = make(seed)
    start, splits, m = domains(rng, r, 24, 3)
    start.const += 0.5 * torch.from_numpy(rng.normal(size=start.const.shape))
    whole = optimise(r, start, splits, m, Settings(steps=15, compact=2.0, patience=99))
    parts = optimise(r, start, splits, m, Settings(steps=15, compact=0.01, patience=99))
    assert torch.equal(whole.lb > 0, parts.lb > 0)
    open = whole.lb <= 0
    assert 0 < int(open.sum())
    for name in ("lb", "coef", "x", "z"):
        assert torch.allclose(getattr(whole, name)[open], getattr(parts, name)[open], rtol=1e-7, atol=1e-9), name
    assert torch.allclose(whole.multipliers.alpha[open], parts.multipliers.alpha[open], rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("dtype", (torch.float32, torch.float64))
@pytest.mark.parametrize("seed", range(12))
def test_certified_bounds_lie_below_the_network_where_the_splits_hold(seed, dtype):
    """For any multipliers, optimised or absurd, in the root's precision and in a finer one."""
    rng, network, r = make(seed, dtype)
    start, splits, m = domains(rng, r, 12, 2)
    absurd = m.clone()
    absurd.alpha = torch.from_numpy(rng.normal(size=m.alpha.shape) * 5).to(dtype)
    absurd.upper = torch.from_numpy(rng.normal(size=m.upper.shape) * 5).to(dtype)
    absurd.beta = torch.from_numpy(rng.normal(size=m.beta.shape) * 100).to(dtype)
    absurd.weights = torch.from_numpy(rng.normal(size=m.weights.shape)).to(dtype)
    found = optimise(r, start, splits, m, Settings(steps=10), target=float("inf")).multipliers
    l, u = (t[0].double() for t in r.trace.boxes[0])
    x = l + (u - l) * torch.from_numpy(rng.random((400, len(l))))
    x[:200] = torch.where(torch.from_numpy(rng.random((200, len(l)))) > 0.5, l, u)
    fine = Program(network, D, "cpu")
    values = {0: x}
    for k in range(1, len(fine.steps)):
        values[k] = fine.steps[k].op.forward(*(values[i] for i in fine.steps[k].inputs))
    inside = torch.ones((12, 400), dtype=torch.bool)
    for i, j in torch.nonzero(splits.column >= 0).tolist():
        column = int(splits.column[i, j])
        site = next(s for s in r.sites.values() if s.cut.start <= column < s.cut.stop)
        entry = column - site.cut.start if site.index is None else int(site.index[column - site.cut.start])
        z = values[site.value].flatten(1)[:, entry]
        inside[i] &= (z - float(splits.point[i, j])) * float(splits.sign[i, j]) >= 0
    seen = 0
    for program in {id(p): p for p in (r.program, fine)}.values():
        certifier = Certifier(r, program)
        for multipliers in (m, absurd, found):
            lb = certifier.bounds(start.rows.to(program.dtype), start.const.double(), splits, multipliers)
            assert not bool(torch.isnan(lb).any())
            w = multipliers.weights.clamp(min=0).double()
            y = values[fine.output].flatten(1)
            value = torch.einsum("ns,nsp,qp->nq", w, start.rows.double(), y)
            value = value + (w * start.const.double()).sum(1, keepdim=True)
            least = torch.where(inside, value, float("inf")).amin(1)
            assert bool((lb <= least + 1e-12 * (1 + least.abs())).all())
            seen += int(inside.any(1).sum())
    assert seen


@pytest.mark.parametrize("seed", range(8))
def test_tightened_boxes_hold_what_the_network_takes_and_are_no_wider(seed):
    rng, network, r = make(seed, torch.float32)
    old = r.trace
    new = tightened(old, 1 << 26, 5.0)
    l, u = (t[0] for t in old.boxes[0])
    x = (l + (u - l) * torch.from_numpy(rng.random((300, len(l)))).float()).clamp(l, u).double()
    values = {0: x}
    fine = Program(network, D, "cpu")
    for k in range(1, len(fine.steps)):
        values[k] = fine.steps[k].op.forward(*(values[i] for i in fine.steps[k].inputs))
        (a, b), (c, d) = new.boxes[k], old.boxes[k]
        slack = 1e-5 * (1 + c.abs().amax() + d.abs().amax())
        assert bool((a >= c - slack).all()) and bool((b <= d + slack).all())
        assert bool((values[k] >= a.double() - 1e-12).all()) and bool((values[k] <= b.double() + 1e-12).all())


def test_tightening_tightens():
    rng = np.random.default_rng(3)
    program = Program(random_dense(rng, (5, 14, 14, 14, 3)), D, "cpu")
    c = torch.from_numpy(rng.normal(size=(1, 5)))
    old = crown_trace(program, c - 0.4, c + 0.4, 1 << 26)
    new = tightened(old, 1 << 26, 5.0)
    widths = [float((u - l).sum()) for l, u in (old.boxes[-2], new.boxes[-2])]
    assert widths[1] < 0.97 * widths[0]


def test_a_sum_of_rows_can_refute_what_no_row_can():
    """|x| <= 1: neither x - 0.5 nor -x - 0.5 is positive everywhere, but x + 0.1 and -x + 0.1 sum to 0.2."""
    rng = np.random.default_rng(0)
    program = Program(random_dense(rng, (1, 2, 2)), D, "cpu")
    one = torch.ones((1, 1), dtype=D)
    r = Relaxation(crown_trace(program, -one, one, 1 << 26))
    rows = torch.tensor([[[1.0, 0.0], [-1.0, 0.0]]], dtype=D)
    start = Start(program.output, rows=rows, const=torch.full((1, 2), 0.1, dtype=D))
    m = Multipliers(r.alpha[None].clone(), one[:, :0], one[:, :0], torch.tensor([[1.0, 0.0]], dtype=D))
    none = Splits.none(1, r.alpha)
    found = optimise(r, start, none, m, Settings(steps=80, weight_rate=0.1, patience=80))
    lb = Certifier(r, program).bounds(rows, start.const, none, found.multipliers)
    assert float(lb) > 0.0


def test_exact_values_of_a_split_network_lie_above_its_certified_bound():
    """In rational arithmetic at points of the box where the splits hold."""
    rng = np.random.default_rng(11)
    network = random_dense(rng, (2, 5, 5, 2))
    program = Program(network, torch.float32, "cpu")
    box = torch.tensor([[-1.0, -1.0]]), torch.tensor([[1.0, 1.0]])
    r = Relaxation(crown_trace(program, *box, 1 << 26))
    start, splits, m = domains(rng, r, 20, 3, rows=1)
    found = optimise(r, start, splits, m, Settings(steps=15), target=float("inf")).multipliers
    lb = Certifier(r, Program(network, D, "cpu")).bounds(start.rows.double(), start.const.double(), splits, found)
    for x in rng.uniform(-1, 1, (40, 2)).astype(np.float32).astype(float):
        y = [float(v) for v in exact(network, x)]
        walk = {0: torch.from_numpy(x)[None]}
        fine = Program(network, D, "cpu")
        for k in range(1, len(fine.steps)):
            walk[k] = fine.steps[k].op.forward(*(walk[i] for i in fine.steps[k].inputs))
        for i in range(20):
            holds = True
            for j in range(splits.column.shape[1]):
                c = int(splits.column[i, j])
                if c >= 0:
                    s = next(s for s in r.sites.values() if s.cut.start <= c < s.cut.stop)
                    e = c - s.cut.start if s.index is None else int(s.index[c - s.cut.start])
                    holds &= float(walk[s.value].flatten()[e]) * float(splits.sign[i, j]) >= 0
            if holds:
                w = float(found.weights[i, 0].clamp(min=0))
                value = w * (float(start.rows[i, 0].double() @ torch.tensor(y, dtype=D)) + float(start.const[i, 0]))
                assert float(lb[i]) <= value + 1e-12 * (1 + abs(value))


@pytest.mark.parametrize("kind", ["Tanh", "Softplus", "Sin"])
def test_curves_on_boxes_without_an_end_keep_lines_that_hold(kind):
    """Any slopes may be asked for; where an end is infinite, no offset is exact, and the root's lines must stay."""
    rng = np.random.default_rng(3)
    program = Program(random_dense(rng, (2, 4, 2), kind), D, "cpu")
    box = torch.zeros((1, 2), dtype=D)
    trace = crown_trace(program, box - 1, box + 1, 1 << 26)
    k = next(k for k, step in enumerate(program.steps) if step is not None and step.node.kind == kind)
    l, u = (t.clone() for t in trace.boxes[program.steps[k].inputs[0]])
    l[0, 0], u[0, 1] = -float("inf"), float("inf")
    trace.boxes[program.steps[k].inputs[0]] = (l, u)
    trace.lines[k] = program.steps[k].op.relax(l, u)
    r = Relaxation(trace)
    assert r.width == 4
    x = torch.linspace(0, 1, 500, dtype=D)[:, None] * (u.clamp(max=60) - l.clamp(min=-60)) + l.clamp(min=-60)
    f = program.steps[k].op.f(x)
    for slope in (-0.5, 0.0, 0.3, 2.0):
        s = torch.full((1, 4), slope, dtype=D)
        lines = Certifier(r, program)._curves(k, l, u, Multipliers(s, s, s[:, :0], s[:, :1]))
        assert bool((lines.lo_a * x + lines.lo_b <= f).all()) and bool((lines.up_a * x + lines.up_b >= f).all())
