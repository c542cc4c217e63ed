"""The compiled problem says of every point what the query says: of its regions, its rows, and its fixed coordinates.

A point's disjunct holds when all its rows are <= 0. Rows of the problem are read here in rational arithmetic from its
tables, on the flat network's own outputs, and compared with `Query.holds` on the model's outputs.
"""

from __future__ import annotations

import sys
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

for folder in ("bounds", "search"):
    sys.path.insert(0, str(Path(__file__).parent / folder))

from handmade import Sketch, dense, random_dense  # noqa: E402
from queries import query, refuse, search  # noqa: E402
from queries import settings as config  # noqa: E402

from verifier.bounds.program import Program  # noqa: E402
from verifier.net.graph import Network, Node, Tensor  # noqa: E402
from verifier.problem import compile_problem  # noqa: E402
from verifier.result import MismatchError, Verdict  # noqa: E402
from verifier.spec.contradict import contradicting  # noqa: E402

F = np.dtype(np.float32)


def run(network: Network, x: np.ndarray) -> np.ndarray:
    """A float64 run at points (N, n), by the network's one input."""
    return Program(network, torch.float64, "cpu").forward(torch.from_numpy(np.atleast_2d(x))).numpy()


def row_values(problem, r: int, y: np.ndarray) -> dict[int, list[Fraction]]:
    """The rows of region r at y, by disjunct."""
    found = {k: [] for k in range(int(problem.slots[r]))}
    for s in np.flatnonzero(problem.row[r] >= 0):
        terms = zip(problem.coef[int(problem.row[r, s])].tolist(), y.tolist())
        total = sum((Fraction(c) * Fraction(v) for c, v in terms if c), Fraction(float(problem.const[r, s])))
        found[int(problem.slot[r, s])].append(total)
    return found


def holds(problem, t: np.ndarray, y: np.ndarray) -> bool:
    """Whether the problem counts the moving point t (m,), with flat outputs y, among the counterexamples."""
    for r in range(len(problem.lower)):
        if (problem.lower[r] <= t).all() and (t <= problem.upper[r]).all():
            if any(all(v <= 0 for v in rows) for rows in row_values(problem, r, y).values()):
                return True
    return False


NUMBERS = st.sampled_from([-2.0, -1.5, -0.5, 0.0, 0.25, 1.0, 3.0])


@st.composite
def queries(draw):
    """Over a model with 3 inputs and 2 outputs: fixed coordinates, mixed rows, duplicates, empty regions, points."""
    fixed = draw(st.lists(st.booleans(), min_size=3, max_size=3))
    regions, held = [], [draw(NUMBERS) for _ in range(3)]
    for _ in range(draw(st.integers(1, 3))):
        l = [held[i] if fixed[i] else draw(NUMBERS) for i in range(3)]
        u = [held[i] if fixed[i] else l[i] + draw(st.sampled_from([-0.5, 0.0, 0.5, 2.0])) for i in range(3)]
        regions.append((l, u))
    disjuncts, pool = [], []
    for r in range(len(regions)):
        for _ in range(draw(st.integers(0, 3))):
            rows = []
            for _ in range(draw(st.integers(0, 3))):
                if pool and draw(st.booleans()):
                    rows.append(draw(st.sampled_from(pool)))  # the same row again
                    continue
                names = draw(st.lists(st.integers(0, 4), min_size=1, max_size=4, unique=True))
                row = {v: draw(NUMBERS.filter(bool)) for v in names}
                pool.append((row, draw(NUMBERS)))
                rows.append(pool[-1])
            disjuncts.append((r, rows))
    return query(3, 2, regions, disjuncts)


@settings(max_examples=200, deadline=None, derandomize=True)
@given(queries(), st.integers(0, 2**31))
def test_agrees_with_the_query_on_points(q, seed):
    """The model doubles and sums, so everything is exact in float64."""
    network = dense([np.array([[2.0, 0.0], [0.0, 1.0], [-1.0, 0.5]])], [np.array([0.5, -1.0])])
    problem = compile_problem(network, q)
    rng = np.random.default_rng(seed)
    for r in np.flatnonzero(~q.empty) if not len(problem.lower) else ():  # nothing can hold in any region
        for share in rng.choice([0.0, 0.5, 1.0], (12, 3)):
            x = q.lower[r] + (q.upper[r] - q.lower[r]) * share
            assert q.holds(x, run(network, x)[0]) == -1
    for _ in range(12 if len(problem.lower) else 0):
        r = int(rng.integers(len(problem.lower)))
        share = rng.choice([0.0, 0.5, 1.0, 1.0, 1.25], len(problem.moving))
        t = problem.lower[r] + (problem.upper[r] - problem.lower[r]) * share
        x = problem.lift(t[None])[0]
        assert x[problem.moving].tolist() == t.tolist()
        y = run(network, x)[0]
        flat = run(problem.network, t)[0]
        assert flat.tolist() == np.concatenate([x, y])[problem.names].tolist()
        assert holds(problem, t, flat) == (q.holds(x, y) >= 0)


@settings(max_examples=100, deadline=None, derandomize=True)
@given(queries())
def test_tables_are_in_order(q):
    network = dense([np.ones((3, 2))], [np.zeros(2)])
    problem = compile_problem(network, q)
    q = q.only(~contradicting(q))
    alive = [r for r in range(q.n_regions) if not q.empty[r] and r in q.disjunct_region]
    assert problem.lower.tolist() == q.lower[alive][:, problem.moving].tolist()
    assert problem.slots.tolist() == [int((q.disjunct_region == r).sum()) for r in alive]
    assert problem.row.shape == problem.const.shape == problem.slot.shape
    assert ((problem.row >= -1) & (problem.row < len(problem.coef))).all()
    assert ((problem.slot >= 0) & (problem.slot < np.maximum(problem.slots, 1)[:, None])).all()
    counts = [sum(int(n) for k, n in enumerate(np.diff(q.row_start)) if q.disjunct_region[k] == r) for r in alive]
    assert (problem.row >= 0).sum(1).tolist() == counts
    for r in range(len(alive)):  # the moving coordinates are those that must: all others are the same number throughout
        others = np.setdiff1d(np.arange(3), problem.moving)
        assert (q.lower[alive[r]][others] == q.upper[alive[r]][others]).all()
        assert (problem.base[others] == q.lower[alive[r]][others]).all()


def test_rows_shared_by_regions_are_stored_once():
    network = dense([np.ones((1, 1))], [np.zeros(1)])
    row = ({1: 1.0}, -3.0)
    q = query(1, 1, [([0.0], [1.0]), ([2.0], [3.0])], [(0, [row]), (0, [row, ({1: 1.0}, 5.0)]), (1, [row])])
    problem = compile_problem(network, q)
    assert len(problem.coef) == 1 and problem.const.tolist() == [[-3.0, -3.0, 5.0], [-3.0, 0.0, 0.0]]


def test_rows_over_fixed_coordinates_read_the_property_s_own_value():
    """0.1 + 0.2 <= 0.3000000001 holds; float32's 0.1 and 0.2 would sum to more."""
    network = dense([np.array([[0.0], [0.0], [1.0]])], [np.zeros(1)])
    regions = [([0.1, 0.2, 0.0], [0.1, 0.2, 1.0])]
    for room, possible in ((1e-10, True), (-1e-10, False)):
        only = ({0: 1.0, 1: 1.0}, -0.3 - room)
        mixed = ({0: 1.0, 1: 1.0, 3: -1.0}, -0.3 - room)  # 0.1 + 0.2 <= y + 0.3 + room
        for rows in ([only, ({3: -1.0}, 0.5)], [mixed, ({3: 1.0}, 0.0)]):
            q = query(3, 1, regions, [(0, rows)])
            problem = compile_problem(network, q)
            if not len(problem.lower):  # the rows contradict the box, or each other
                assert not possible
                continue
            assert problem.moving.tolist() == [2] and problem.coef.shape[1] == 1
            assert problem.base[:2].tolist() == [float(np.float32(0.1)), float(np.float32(0.2))]
            t = np.array([1.0 if rows[0] is only else 0.0])
            assert holds(problem, t, run(problem.network, t)[0]) == possible
            verdict = search(network, q, config(rounds=100, attack="none"), refuse).verdict
            assert (verdict == Verdict.UNSAT) == (not possible)


@settings(max_examples=200, deadline=None, derandomize=True)
@given(
    st.lists(st.floats(-1e300, 1e300), min_size=1, max_size=3),
    st.lists(st.floats(-1e3, 1e3), min_size=3, max_size=3),
    st.floats(-1e300, 1e300),
)
def test_constants_of_fixed_coordinates_are_rounded_down(coefs, values, const):
    """A row's constant never exceeds the exact one, so no row becomes easier to refute; and it is the nearest such."""
    network = dense([np.ones((4, 1))], [np.zeros(1)])
    row = {i: c for i, c in enumerate(coefs) if c} | {4: 1.0}
    q = query(4, 1, [([*values, 0.0], [*values, 1.0])], [(0, [(row, const)])])
    problem = compile_problem(network, q)
    assert problem.moving.tolist() == [3] and problem.coef[:].tolist() == [[1.0]]
    exact = Fraction(const) + sum(Fraction(c) * Fraction(v) for c, v in zip(coefs, values))
    have = float(problem.const[0, 0])
    if np.isfinite(have):
        assert Fraction(have) <= exact < Fraction(float(np.nextafter(have, np.inf)))
    else:
        assert have < 0 and exact < 0


@settings(max_examples=200, deadline=None, derandomize=True)
@given(
    st.lists(st.sampled_from([1.0, -3.0, 1e300, -1e300, 1e-300, 7e-310, 1e20, -1e-20, 0.3]), min_size=2, max_size=2),
    st.one_of(st.sampled_from([0.0, 1e300, -1e-300, 5e-324, -5e-324, 1.0]), st.floats(-1e308, 1e308)),
)
def test_scaled_rows_keep_their_sign(coefs, const):
    """Scaling is by a power of two; a constant that it cannot hold is rounded down. Coefficients end near 1."""
    network = dense([np.ones((1, 2))], [np.zeros(2)])
    q = query(1, 2, [([0.0], [1.0])], [(0, [({1: coefs[0], 2: coefs[1]}, const)])])
    problem = compile_problem(network, q)
    coef, c = problem.coef[0], float(problem.const[0, 0])
    assert 2.0**-21 < np.abs(coef).max() < 2.0**21
    big = int(np.argmax(np.abs(coefs)))
    scale = Fraction(float(coef[big])) / Fraction(coefs[big])
    assert scale > 0 and not any(n & (n - 1) for n in (scale.numerator, scale.denominator))
    target = scale * Fraction(const)
    largest = Fraction(np.finfo(np.float64).max)
    if abs(target) > largest:
        assert c == (-np.inf if target < 0 else float(largest))
    else:
        room = Fraction(abs(c)) / 2**51 + Fraction(5e-324) * 2
        assert Fraction(c) <= target <= Fraction(c) + room


@pytest.mark.parametrize("scale", (1e300, 1e-300, 1e-30, 1e30))
def test_scaled_rows_are_decided_like_others(scale):
    network = random_dense(np.random.default_rng(1), (2, 5, 1))
    regions = [([-1.0, -1.0], [1.0, 1.0])]
    grid = np.stack(np.meshgrid(*[np.linspace(-1, 1, 60)] * 2), -1).reshape(-1, 2)
    least = float(run(network, grid).min())
    for margin, verdict in ((-0.05, Verdict.UNSAT), (0.05, Verdict.SAT)):
        q = query(2, 1, regions, [(0, [({2: scale}, -scale * (least + margin))])])
        assert search(network, q, config()).verdict == verdict


def several() -> Network:
    """Inputs a (1, 2) and b (3,), outputs p = a W and q = [b, b]."""
    nodes = (
        Node("p", "Linear", ("a", "W", ""), (1, 2), F),
        Node("q", "Concat", ("b", "b"), (6,), F, {"axis": 0}),
    )
    constants = {"W": np.array([[1.0, 2.0], [3.0, 4.0]], F)}
    inputs = (Tensor("a", (1, 2), F), Tensor("b", (3,), F))
    return Network(inputs, nodes, constants, (Tensor("p", (1, 2), F), Tensor("q", (6,), F)), 13)


def test_several_inputs_and_outputs_in_order():
    l, u = [1.0, 2.0, 3.0, 4.0, 5.0], [1.0, 2.5, 3.0, 4.5, 5.5]
    every = ({v: -1.0 for v in range(5, 13)}, -100.0)  # what no row reads is left out
    q = query(5, 8, [(l, u)], [(0, [({5: 1.0, 2: 1.0, 3: 1.0}, 0.0)]), (0, [every])])
    problem = compile_problem(several(), q)
    assert problem.moving.tolist() == [1, 3, 4]
    y = run(problem.network, np.array([2.25, 4.25, 5.25]))[0]
    want = [1 + 3 * 2.25, 2 + 4 * 2.25, 3.0, 4.25, 5.25, 3.0, 4.25, 5.25]
    assert y.tolist() == [*want, 4.25]  # the moving input that the row names is appended
    values = row_values(problem, 0, y)
    assert values == {0: [Fraction(want[0]) + Fraction(4.25) + 3], 1: [Fraction(-100) - sum(map(Fraction, want))]}
    assert problem.names.tolist() == [*range(5, 13), 3]


def test_models_that_ignore_their_input():
    """An output that is constant, alone or beside others; a reshaped one."""
    constant = Node("k", "Linear", ("t", "zero", "c"), (2,), F)
    alone = Network(
        (Tensor("t", (1,), F),),
        (constant,),
        {"zero": np.zeros((1, 2), F), "c": np.array([3.0, -4.0], F)},
        (Tensor("k", (2,), F),),
        13,
    )
    folded = Network((Tensor("t", (1,), F),), (), {"k": np.array([[3.0, -4.0]], F)}, (Tensor("k", (1, 2), F),), 13)
    for network in (alone, folded):
        q = query(1, 2, [([0.0], [1.0])], [(0, [({1: -1.0}, 3.5)])])
        problem = compile_problem(network, q)
        assert run(problem.network, np.array([0.5]))[0].tolist() == [3.0] and problem.names.tolist() == [1]
        assert search(network, q, config(), refuse).verdict == Verdict.UNSAT
        near = query(1, 2, [([0.0], [1.0])], [(0, [({1: -1.0, 0: -1.0}, 3.5)])])  # 3 + x >= 3.5
        assert search(network, near, config(rounds=10), refuse).verdict == Verdict.UNKNOWN
        beyond = query(1, 2, [([0.0], [1.0])], [(0, [({1: -1.0, 0: -1.0}, 4.5)])])
        assert search(network, beyond, config(), refuse).verdict == Verdict.UNSAT
    s = Sketch(2)
    s.linear("t", np.ones((2, 1)))
    both = s.network()
    both = Network(
        both.inputs, both.nodes, {**both.constants, "k": np.array([7.0], F)}, (Tensor("k", (1,), F), *both.outputs), 13
    )
    problem = compile_problem(both, query(2, 2, [([0.0] * 2, [1.0] * 2)], [(0, [({2: 1.0, 3: 1.0}, 0.0)])]))
    assert run(problem.network, np.array([0.5, 0.25]))[0].tolist() == [7.0, 0.75]


def test_properties_of_inputs_alone():
    network = random_dense(np.random.default_rng(0), (2, 3, 1))
    regions = [([0.0, 0.0], [1.0, 1.0])]
    for total, verdict in ((2.5, Verdict.UNSAT), (1.5, Verdict.SAT)):
        q = query(2, 1, regions, [(0, [({0: -1.0, 1: -1.0}, total)])])
        assert search(network, q, config()).verdict == verdict


def test_empty_regions_and_single_points():
    network = dense([np.ones((2, 1))], [np.zeros(1)])
    row = [({2: 1.0}, -10.0)]
    empty = ([1.0, 0.0], [0.0, 1.0])
    q = query(2, 1, [empty, ([0.0, 3.0], [0.0, 3.0])], [(0, row), (1, row)])
    problem = compile_problem(network, q)
    assert problem.lower.tolist() == problem.upper.tolist() == [[0.0]]
    assert problem.lift(problem.lower).tolist() == [[0.0, 3.0]]
    assert search(network, q, config()).verdict == Verdict.SAT
    assert compile_problem(network, query(2, 1, [empty], [(0, row)])).lower.shape[0] == 0
    assert compile_problem(network, query(2, 1, [([0, 0], [1, 1])], [])).lower.shape[0] == 0


def test_points_that_differ_between_regions_move():
    network = dense([np.ones((2, 1))], [np.zeros(1)])
    row = [({2: -1.0}, 5.0)]
    q = query(2, 1, [([0.0, 1.0], [0.0, 1.0]), ([0.0, 4.0], [0.0, 4.0])], [(0, row), (1, row)])
    assert compile_problem(network, q).moving.tolist() == [1]
    assert search(network, q, config()).verdict == Verdict.UNSAT
    reached = query(2, 1, [([0.0, 1.0], [0.0, 1.0]), ([0.0, 5.0], [0.0, 5.0])], [(0, row), (1, row)])
    assert search(network, reached, config()).verdict == Verdict.SAT


def ended(*steps: tuple[str, dict], shape=(1, 4)) -> Network:
    """Functions one after another behind a Linear with four outputs."""
    constants = {"W": np.array([[1.0, -2.0, 0.5, 3.0], [0.5, 1.0, -1.0, -0.25]], F), "b": np.zeros(4, F)}
    nodes = [Node("v0", "Linear", ("x", "W", "b"), (1, 4), F), Node("v1", "Reshape", ("v0",), shape, F)]
    for kind, attrs in steps:
        nodes.append(Node(f"v{len(nodes)}", kind, (nodes[-1].name,), shape, F, attrs))
    return Network((Tensor("x", (1, 2), F),), tuple(nodes), constants, (Tensor(nodes[-1].name, shape, F),), 13)


COMPARED = [
    [("Softmax", {"axes": (1,)})],
    [("LogSoftmax", {"axes": (1,)})],
    [("Sigmoid", {})],
    [("LeakyRelu", {"alpha": 0.1}), ("Tanh", {}), ("Softmax", {"axes": (0, 1)})],
    [("Elu", {"alpha": 0.5}), ("Reshape", {})],
]


@pytest.mark.parametrize("steps", COMPARED, ids=lambda steps: "-".join(k for k, _ in steps))
def test_increasing_functions_before_comparisons_are_left_out(steps):
    """Every row holds at the same points as before, and no function is left to bound."""
    network = ended(*steps)
    rows = [({2: 1.0, 3: -1.0}, 0.0), ({4: -2.0, 5: 2.0}, 0.0), ({3: -3.0, 5: 3.0}, 0.0), ({2: 1.0, 4: -1.0}, 0.0)]
    q = query(2, 4, [([-1.0, -1.0], [1.0, 1.0])], [(0, rows[:1]), (0, rows[1:3]), (0, rows[1:])])
    problem = compile_problem(network, q)
    assert {n.kind for n in problem.network.nodes} <= {"Embed", "Slice", "Linear", "Reshape"}
    seen = set()
    for x in np.random.default_rng(3).uniform(-1, 1, (200, 2)):
        y, flat = run(network, x)[0].reshape(-1), run(problem.network, x)[0]
        signs = [[[np.sign(float(v)) for v in vs] for vs in row_values(p, 0, at).values()] for p, at in
                 ((problem, flat), (problem, y))]  # fmt: skip
        assert signs[0] == signs[1]
        assert holds(problem, x, flat) == (q.holds(x, y) >= 0)
        seen.add(holds(problem, x, flat))
    assert seen == {True, False}


@pytest.mark.parametrize(
    "rows",
    [
        [({2: 1.0, 3: -1.0}, 0.1)],
        [({2: 1.0, 3: -1.5}, 0.0)],
        [({2: 1.0, 3: 1.0}, 0.0)],
        [({2: 1.0}, 0.0)],
        [({2: 1.0, 3: -0.5, 4: -0.5}, 0.0)],
        [({2: 1.0, 0: -1.0}, 0.0)],
        [({2: 1.0, 3: -1.0}, 0.0), ({4: 1.0}, -0.5)],
    ],
)
def test_functions_stay_where_rows_say_more(rows):
    q = query(2, 4, [([-1.0, -1.0], [1.0, 1.0])], [(0, [row]) for row in rows])
    for steps in COMPARED:
        kinds = [n.kind for n in compile_problem(ended(*steps), q).network.nodes]
        assert all(k in kinds for k, _ in steps)


def test_functions_stay_where_they_do_not_keep_the_order():
    apart = query(2, 4, [([-1.0, -1.0], [1.0, 1.0])], [(0, [({2: 1.0, 4: -1.0}, 0.0)])])  # entries 0 and 2
    within = query(2, 4, [([-1.0, -1.0], [1.0, 1.0])], [(0, [({2: 1.0, 3: -1.0}, 0.0)])])  # entries 0 and 1
    groups = ended(("Softmax", {"axes": (1,)}), shape=(2, 2))
    left = lambda network, q: {n.kind for n in compile_problem(network, q).network.nodes}
    assert "Softmax" in left(groups, apart) and "Softmax" not in left(groups, within)
    assert "Softmax" in left(ended(("Softmax", {"axes": (0,)}), shape=(2, 2)), within)
    for kind, attrs in (("Relu", {}), ("LeakyRelu", {"alpha": -0.1}), ("Neg", {}), ("Abs", {})):
        assert kind in left(ended((kind, attrs)), within)
    network = ended(("Softmax", {"axes": (1,)}))
    twice = Network(network.inputs, network.nodes, network.constants, (*network.outputs, *network.outputs), 13)
    both = query(2, 8, [([-1.0, -1.0], [1.0, 1.0])], [(0, [({2: 1.0, 3: -1.0}, 0.0), ({6: 1.0}, -0.5)])])
    assert "Softmax" in left(twice, both)


def test_what_does_not_fit_is_said():
    network = dense([np.ones((2, 1))], [np.zeros(1)])
    row = [({0: 1.0}, 0.0)]
    with pytest.raises(MismatchError, match="inputs"):
        compile_problem(network, query(3, 1, [([0.0] * 3, [1.0] * 3)], [(0, row)]))
    with pytest.raises(MismatchError, match="outputs"):
        compile_problem(network, query(2, 2, [([0.0] * 2, [1.0] * 2)], [(0, row)]))
    with pytest.raises(MismatchError, match="X_1"):
        compile_problem(network, query(2, 1, [([0.0] * 2, [1.0, np.inf])], [(0, row)]))


@settings(max_examples=100, deadline=None, derandomize=True)
@given(queries(), st.data())
def test_a_problem_of_some_disjuncts_says_the_same_of_these(q, data):
    """Rows of the disjuncts that are kept have the same values, others are gone, and so are outputs that none reads."""
    network = dense([np.array([[2.0, 0.0], [0.0, 1.0], [-1.0, 0.5]])], [np.array([0.5, -1.0])])
    problem = compile_problem(network, q)
    if not len(problem.lower):
        return
    there = np.arange(int(problem.slots.max()))[None] < problem.slots[:, None]
    open = np.array([[bool(t) and data.draw(st.booleans()) for t in row] for row in there.tolist()])
    some = problem.only(open)
    kept = np.flatnonzero(open.any(1))
    assert some.lower.tolist() == problem.lower[kept].tolist() and some.slots.tolist() == open[kept].sum(1).tolist()
    t = np.array([1.5] * len(problem.moving))
    whole, part = run(problem.network, t)[0], run(some.network, t)[0]
    used = {int(v) for u in np.unique(some.row[some.row >= 0]) for v in some.names[np.flatnonzero(some.coef[int(u)])]}
    assert not len(some.row) or not used or used == set(some.names.tolist())
    for r, old in enumerate(kept.tolist()):
        before = row_values(problem, old, whole)
        assert list(row_values(some, r, part).values()) == [before[k] for k in np.flatnonzero(open[old])]
