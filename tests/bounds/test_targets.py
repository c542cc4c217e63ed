"""`Targets` against a slow reading of its tables: ragged regions, shared slots, disjuncts without rows, padding."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from verifier.bounds.targets import TINY, Targets
from verifier.rowtables import Coefficients

NUMBERS = st.sampled_from([-2.0, -1.0, -0.5, 0.0, 0.5, 1.0, 3.0])


@st.composite
def problems(draw):
    """regions[r][k] is a list of rows (index, constant) of disjunct k; rows of different disjuncts are interleaved."""
    p = draw(st.integers(1, 3))
    coef = np.array(draw(st.lists(st.lists(NUMBERS, min_size=p, max_size=p), min_size=1, max_size=4)))
    row = st.tuples(st.integers(0, len(coef) - 1), NUMBERS)
    strict = draw(st.booleans())
    regions = draw(st.lists(st.lists(st.lists(row, max_size=3), min_size=1, max_size=4), min_size=1, max_size=4))
    flat = [[(i, c, k) for k, rows in enumerate(r) for i, c in rows] for r in regions]
    flat = [draw(st.permutations(f)) for f in flat]
    width = max(len(f) for f in flat)
    table = np.full((3, len(flat), width), 0.0)
    table[0] = -1
    for r, f in enumerate(flat):
        for s, entry in enumerate(f):
            table[:, r, s] = entry
    slots = np.array([len(r) for r in regions])
    tables = {
        "coef": Coefficients.of(coef),
        "row": table[0].astype(np.int64),
        "const": table[1],
        "slot": table[2].astype(np.int64),
    }
    tables["strict"] = (tables["row"] + tables["slot"]) % 2 == 1 if strict else tables["row"] < -1
    return SimpleNamespace(**tables, slots=slots), regions


@st.composite
def cases(draw):
    """A problem, domains' regions, and which disjuncts are open in them."""
    problem, regions = draw(problems())
    region = draw(st.lists(st.integers(0, len(regions) - 1), min_size=1, max_size=5))
    most = int(problem.slots.max())
    open = [[k < len(regions[r]) and draw(st.booleans()) for k in range(most)] for r in region]
    return problem, regions, region, open


@settings(max_examples=150, deadline=None, derandomize=True)
@given(cases())
def test_start_and_pick(case):
    problem, regions, region, open = case
    targets = Targets(problem, torch.float64, "cpu")
    start = targets.start(torch.tensor(region))
    assert start.tolist() == [[k < len(regions[r]) for k in range(targets.n_slots)] for r in region]
    picked = targets.pick(torch.tensor(region), torch.tensor(open))
    assert bool(((picked.row >= 0) & (picked.row < len(problem.coef))).all())
    for d, r in enumerate(region):
        wanted = sorted((i, c, k) for k, rows in enumerate(regions[r]) for i, c in rows if open[d][k])
        real = picked.real[d]
        have = zip(picked.row[d][real].tolist(), picked.const[d][real].tolist(), picked.slot[d][real].tolist())
        assert sorted(have) == wanted


@settings(max_examples=150, deadline=None, derandomize=True)
@given(cases(), st.data())
def test_refuted(case, data):
    """By a real row with a finite positive bound, or by a strict one with one of 0, and nothing else; so never without
    rows, and never by padding.
    """
    problem, regions, region, open = case
    targets = Targets(problem, torch.float64, "cpu")
    picked = targets.pick(torch.tensor(region), torch.tensor(open))
    inf = float("inf")
    bound = st.sampled_from([-1.0, -0.0, 0.0, 5e-324, 1.0, inf, -inf, float("nan")])
    lb = [[data.draw(bound) for _ in row] for row in picked.row.tolist()]
    closed = targets.refuted(picked, torch.tensor(lb, dtype=torch.float64))
    assert closed.shape == (len(region), targets.n_slots)
    for d, r in enumerate(region):
        proved = set()
        for s, (real, slot) in enumerate(zip(picked.real[d].tolist(), picked.slot[d].tolist())):
            strict = bool(picked.strict[d, s])
            assert not real or strict == (problem.strict.any() and (int(picked.row[d, s]) + slot) % 2 == 1)
            if real and (0 < lb[d][s] < inf or (strict and lb[d][s] == 0)):
                proved.add(slot)
        assert {k for k, c in enumerate(closed[d].tolist()) if c} == proved
        assert all(regions[r][k] and open[d][k] for k in proved)
    everything = targets.refuted(picked, torch.ones(picked.row.shape, dtype=torch.float64))
    for d, r in enumerate(region):
        with_rows = [open[d][k] and bool(regions[r][k]) if k < len(regions[r]) else False for k in range(len(open[d]))]
        assert everything[d].tolist() == with_rows


@settings(max_examples=150, deadline=None, derandomize=True)
@given(cases(), st.data())
def test_values(case, data):
    """The largest row of every disjunct; -inf where there is none, inf for NaN that is read and for slots that are not
    there.
    """
    problem, regions, region, _ = case
    targets = Targets(problem, torch.float64, "cpu")
    entry = st.one_of(NUMBERS, st.just(float("nan"))) if data.draw(st.booleans()) else NUMBERS
    y = np.array([[data.draw(entry) for _ in range(problem.coef.shape[1])] for _ in region])
    values = targets.values(torch.from_numpy(y), torch.tensor(region))
    for n, r in enumerate(region):
        for k in range(targets.n_slots):
            if k >= len(regions[r]):
                want = np.inf
            else:
                strict = lambda i, k=k: bool(problem.strict.any()) and (i + k) % 2 == 1
                rows = [
                    (problem.coef[i] @ np.where(problem.coef[i] == 0, 0, y[n]) + c) or TINY * strict(i)
                    for i, c in regions[r][k]
                ]
                want = max((np.inf if np.isnan(v) else v for v in rows), default=-np.inf)
            assert float(values[n, k]) == want


@settings(max_examples=60, deadline=None, derandomize=True)
@given(st.integers(0, 2**31))
def test_apply_both_ways(seed):
    """Few distinct rows go through one product, many are gathered; both are coef[row] @ y."""
    rng = np.random.default_rng(seed)
    u, s = (int(rng.integers(40, 60)), 2) if seed % 2 else (int(rng.integers(1, 16)), 2)
    coef, y, row = rng.normal(size=(u, 3)), rng.normal(size=(4, 3)), rng.integers(0, u, (4, s))
    tables = {
        "row": row,
        "const": np.zeros((4, s)),
        "slot": np.zeros((4, s), np.int64),
        "strict": np.zeros((4, s), bool),
    }
    targets = Targets(
        SimpleNamespace(coef=Coefficients.of(coef), slots=np.ones(4, np.int64), **tables), torch.float64, "cpu"
    )
    have = targets.apply(torch.from_numpy(y), torch.from_numpy(row))
    assert np.allclose(have.numpy(), np.einsum("nsp,np->ns", coef[row], y), atol=1e-12)
