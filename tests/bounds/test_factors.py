"""Splits of values that several steps read, and of the operands of products: what they mean must hold in every run."""

from __future__ import annotations

from math import prod

import numpy as np
import pytest
import torch
from handmade import Sketch, random_products
from hypothesis import given
from hypothesis import settings as examples
from hypothesis import strategies as st

from verifier.bounds.certify import Certifier
from verifier.bounds.crown import crown_trace
from verifier.bounds.dual import Settings, optimise
from verifier.bounds.factors import Kin, Origins, Terms
from verifier.bounds.program import Program
from verifier.bounds.relaxation import Multipliers, Relaxation, Splits, Start
from verifier.net.graph import Network, Tensor
from verifier.ops.bilinear import Bilinear, term_lines

SEEDS = st.integers(0, 2**31)


def rooted(network: Network, rng: np.random.Generator, dtype=torch.float64, reach: float = 0.6) -> Relaxation:
    program = Program(network, dtype, "cpu")
    centre = torch.from_numpy(rng.normal(size=(1, program.n_in))).to(dtype)
    return Relaxation(crown_trace(program, centre - reach, centre + reach, 1 << 26), split=True)


def values(r: Relaxation, x: torch.Tensor) -> dict[int, torch.Tensor]:
    """Every value (N, n) that a column stands for, in float64."""
    net, found = r.program.network, {}
    for k in {s.value for s in r.readers} | {r.program.output}:
        node = r.program.steps[k].node
        at = net.nodes.index(node)
        part = Network(net.inputs, net.nodes[: at + 1], net.constants, (Tensor(node.name, node.shape, node.dtype),), 13)
        found[k] = Program(part, torch.float64, "cpu").forward(x).reshape(len(x), -1)
    return found


def columns_at(r: Relaxation, seen: dict[int, torch.Tensor]) -> torch.Tensor:
    """(N, K): the values of all columns."""
    parts = [seen[s.value] if s.index is None else seen[s.value][:, s.index] for s in r.readers]
    return torch.cat(parts, 1)


def points(r: Relaxation, rng: np.random.Generator, count: int = 2000) -> torch.Tensor:
    l, u = (t.double() for t in r.trace.boxes[0])
    t = torch.from_numpy(rng.random((count, r.program.n_in)))
    return l + (u - l) * torch.cat([t, t.round()])


def random_splits(r: Relaxation, rng: np.random.Generator, n: int, count: int, any_column: bool) -> Splits:
    """At random points, some of them outside of the intervals that other splits leave."""
    can = torch.arange(r.width) if any_column else torch.nonzero(r.splittable).squeeze(1)
    column = torch.from_numpy(rng.choice(can.numpy(), (n, count)))
    column[0] = -1
    sign = torch.from_numpy(rng.choice([-1.0, 1.0], (n, count))).to(r.lower.dtype)
    share, at = torch.from_numpy(rng.random((n, count))).to(r.lower.dtype), column.clamp(min=0)
    return Splits(column, sign, torch.lerp(r.lower[at], r.upper[at], share))


def holds(z: torch.Tensor, splits: Splits) -> torch.Tensor:
    """(N, X) bool: where at columns' values z (X, K) the splits of each domain hold."""
    z = z[:, splits.column.clamp(min=0)].permute(1, 0, 2)
    fine = (z - splits.point.double().unsqueeze(1)) * splits.sign.double().unsqueeze(1) >= 0
    return (fine | (splits.column < 0).unsqueeze(1)).all(2)


def denials(seed: int, dtype: torch.dtype, any_column: bool, spoil=None) -> int:
    """How often a certified bound of random splits and multipliers is above what the network does there."""
    rng = np.random.default_rng(seed)
    r = rooted(random_products(rng), rng, dtype)
    if spoil is not None:
        spoil(r)
    n, count = 10, int(rng.integers(1, 4))
    splits = random_splits(r, rng, n, count, any_column)
    rows = torch.from_numpy(rng.normal(size=(n, 1, 2))).to(dtype)
    const = torch.zeros((n, 1), dtype=dtype)
    slopes = (t.expand(n, -1).clone() for t in (r.alpha, r.upper_slopes))
    m = Multipliers(*slopes, torch.from_numpy(rng.random((n, count))).to(dtype), torch.ones((n, 1), dtype=dtype))
    start = Start(r.program.output, rows=rows, const=const)
    m = optimise(r, start, splits, m, Settings(steps=6), target=float("inf")).multipliers
    fine = Program(r.program.network, torch.float64, "cpu")
    lb = Certifier(r, fine).bounds(rows.double(), const.double(), splits, m)
    x = points(r, rng)
    seen = values(r, x)
    where = holds(columns_at(r, seen), splits)
    true = torch.where(where, rows[:, 0].double() @ seen[r.program.output].t(), torch.inf).amin(1)
    return int((lb > true + 1e-9 * (1 + true.abs())).sum())


@pytest.mark.parametrize("any_column", (False, True))
@pytest.mark.parametrize("dtype", (torch.float32, torch.float64), ids=str)
@examples(max_examples=25, deadline=None, derandomize=True)
@given(seed=SEEDS)
def test_certified_bounds_lie_below_what_the_network_does_where_the_splits_hold(dtype, any_column, seed):
    assert denials(seed, dtype, any_column) == 0


def _mix_up(r: Relaxation) -> None:
    """Says that columns hold the same number that do not."""
    r.kin.first = torch.zeros_like(r.kin.first)
    r.kin.twins = torch.arange(r.width)


def _other_factors(r: Relaxation) -> None:
    """Says that a function makes other factors than it does."""
    r.kin.made = {k: (source, target.roll(1)) for k, (source, target) in r.kin.made.items()}


def _too_narrow(r: Relaxation) -> None:
    """Draws products' planes on a half of the boxes."""
    right = r.operands
    half = lambda box: (box[0], box[0] + (box[1] - box[0]) / 4)
    r.operands = lambda *a: (found := right(*a)) and tuple(map(half, found))


@pytest.mark.parametrize("spoil", (_mix_up, _too_narrow))
def test_what_is_wrong_about_kin_is_noticed(spoil):
    assert any(denials(seed, torch.float64, False, spoil) for seed in range(60))


def escapes(seed: int, spoil=None) -> int:
    """How many columns' values leave the boxes that splits which hold there say."""
    rng = np.random.default_rng(seed)
    r = rooted(random_products(rng), rng, torch.float32)
    if spoil is not None:
        spoil(r)
    splits = random_splits(r, rng, 8, 3, True)
    z = columns_at(r, values(r, points(r, rng)))
    where, found = holds(z, splits), 0
    slack = 1e-6 * (1 + z.abs().amax())  # the values here are float64's, the boxes' functions round to float32
    for program in (r.program, Program(r.program.network, torch.float64, "cpu")):
        l, u = (t.double() for t in r.boxes(splits, None, program))
        for i in range(len(l)):
            found += int(((z[where[i]] < l[i] - slack) | (z[where[i]] > u[i] + slack)).sum())
        first = r.kin.first
        assert spoil or (torch.equal(l, l[:, first]) and torch.equal(u, u[:, first]))
    assert spoil or torch.equal(z, z[:, r.kin.first])  # what moves pass on is the same number
    return found


@examples(max_examples=40, deadline=None, derandomize=True)
@given(seed=SEEDS)
def test_boxes_hold_the_columns_values_and_those_alike_have_the_same(seed):
    assert escapes(seed) == 0


@pytest.mark.parametrize("spoil", (_mix_up, _other_factors))
def test_boxes_that_say_too_much_are_noticed(spoil):
    assert any(escapes(seed, spoil) for seed in range(20))


def shared() -> Relaxation:
    """x sigmoid(x), and a tanh that reads x by another way; the product's second factor is the sigmoid's."""
    s = Sketch(2)
    z = s.linear("t", [[1.0, -1.0, 0.5], [0.5, 1.0, -1.0]])
    product = s.add("Mul", (z, s.function(z, "Sigmoid")))
    turned = s.function(s.add("Pick", (s.reshape(z, 1, 3),), (3,), positions=np.array([2, 1, 0])), "Tanh")
    s.linear(s.concat(product, turned), np.ones((6, 1)))
    return rooted(s.network(), np.random.default_rng(0))


def test_one_split_narrows_everything_that_reads_the_value():
    r = shared()
    sigmoid, tanh = (
        next(s for k, s in r.sites.items() if r.program.steps[k].node.kind == n) for n in ("Sigmoid", "Tanh")
    )
    left, right = r.factors
    assert [left.value, right.value] == [sigmoid.value, sigmoid.step]
    can = torch.nonzero(r.splittable).squeeze(1).tolist()
    assert can == list(range(3))  # once for all four
    point = float(r.lower[0] + 0.3 * (r.upper[0] - r.lower[0]))
    splits = Splits(torch.tensor([[0]]), torch.ones((1, 1)).double(), torch.full((1, 1), point, dtype=torch.float64))
    l, u = (t[0] for t in r.boxes(splits))
    narrower = torch.nonzero((l > r.lower) | (u < r.upper)).squeeze(1).tolist()
    assert narrower == [0, tanh.cut.start + 2, left.cut.start, right.cut.start]
    assert float(l[left.cut.start]) == float(l[tanh.cut.start + 2]) == point
    assert abs(float(l[right.cut.start]) - 1 / (1 + np.exp(-point))) < 1e-9
    lines, plain = r.lines(splits), r.lines(Splits.none(1, r.lower))
    for site in (sigmoid, tanh):
        entry = site.curved.start + (0 if site is sigmoid else 2)
        assert float(lines.curves.low.best[0, entry]) != float(plain.curves.low.best[0, entry])
    root, own = r.trace.lines[left.step], lines.planes[left.step]
    gap = lambda p: (p.up_b - p.lo_b)[0]
    assert bool((gap(own)[1:] == gap(root)[1:]).all()) and float(gap(own)[0]) < 0.75 * float(gap(root)[0])


def test_a_split_multiplier_of_a_factor_acts_where_it_is_read():
    """A product of two inputs' sums; only the multipliers of its factors' splits can prove its least value there."""
    s = Sketch(2)
    a, b = s.linear("t", [[1.0], [1.0]]), s.linear("t", [[1.0], [-1.0]])
    s.linear(s.add("Mul", (a, b)), [[1.0]])
    program = Program(s.network(), torch.float64, "cpu")
    l = torch.full((1, 2), -1.0, dtype=torch.float64)
    r = Relaxation(crown_trace(program, l, -l, 1 << 26), split=True)
    assert r.splittable.tolist() == [True, True]
    # Where a <= 0.125 and a >= -0.125, |b| <= 2: a b >= -0.25.
    splits = Splits(torch.tensor([[0, 0]]), torch.tensor([[1.0, -1.0]]), torch.tensor([[-0.125, 0.125]]).double())
    m = Multipliers(r.alpha[None], r.upper_slopes[None], torch.zeros((1, 2)).double(), torch.ones((1, 1)).double())
    start = Start(program.output, rows=torch.ones((1, 1, 1)).double(), const=torch.zeros((1, 1)).double())
    found = optimise(r, start, splits, m, Settings(steps=60), target=float("inf"))
    lb = float(Certifier(r, program).bounds(start.rows, start.const, splits, found.multipliers))
    assert -0.26 < lb <= -0.2343  # at a = 0.125, b = 2 - 0.125: the network's own least value


@pytest.mark.parametrize("seed", range(30))
def test_terms_add_up_to_the_products_and_losses_are_what_the_planes_lose(seed):
    rng = np.random.default_rng(seed)
    r = rooted(random_products(rng), rng)
    for k, mix in r.mixes.items():
        step = r.program.steps[k]
        op, boxes = step.op, [r.trace.boxes[i] for i in step.inputs]
        a, b, out = op.term_index()
        assert len(a) == len(b) == len(out) == op.term_count
        at = [torch.lerp(l, u, torch.from_numpy(rng.random(l.shape))) for l, u in boxes]
        y = op.forward(*at)
        terms = at[0].reshape(-1)[a] * at[1].reshape(-1)[b]
        assert torch.allclose(torch.zeros_like(y).view(-1).index_add_(0, out, terms), y.view(-1), atol=1e-12)
        rows = torch.from_numpy(rng.normal(size=(1, *op.out_shape)))
        planes = op.planes(tuple(boxes), mix)
        low, high = (t.squeeze(1) for t in planes.values(*(x.unsqueeze(1) for x in at)))
        lost = float((rows * (y - torch.where(rows > 0, low, high))).sum())
        price, here = op.losses(rows, tuple(boxes), tuple(at), mix)
        for slot in (0, 1):
            assert abs(float(here[slot].sum()) - lost) < 1e-9 * (1 + abs(lost))
            assert price[slot].shape == at[slot].shape and bool((price[slot] >= 0).all())
        flat = [tuple(e.reshape(-1)[i] for e in box) for box, i in zip(boxes, (a, b))]
        p, q, e = term_lines(mix, rows.reshape(-1)[out], *flat)
        value = p * at[0].reshape(-1)[a] + q * at[1].reshape(-1)[b] + e
        bound = float((rows.reshape(-1)[out] * value).sum())
        assert abs(float((rows * y).sum()) - bound - lost) < 1e-9 * (1 + abs(lost))
        taken = planes.take(torch.zeros(3, dtype=torch.int64))
        assert all(torch.equal(t, s.expand_as(t)) for t, s in ((taken.lo_b, planes.lo_b), (taken.up_w, planes.up_w)))
        pos, neg = (t.clamp(**c).expand(3, 1, *op.out_shape) for t, c in ((rows, {"min": 0}), (rows, {"max": 0})))
        for one, many in zip(planes.pull(pos[:1], neg[:1]), taken.pull(pos, neg)):
            assert torch.allclose(many, one.expand_as(many))


@pytest.mark.parametrize("seed", range(30))
def test_pairs_of_terms_are_those_whose_factors_a_split_narrows(seed):
    rng = np.random.default_rng(seed)
    r = rooted(random_products(rng), rng)
    for c in torch.nonzero(r.splittable).squeeze(1).tolist():
        splits = Splits(
            torch.tensor([[c]]), torch.ones((1, 1)).double(), torch.lerp(r.lower[c], r.upper[c], 0.5).view(1, 1)
        )
        l, u = (t[0] for t in r.boxes(splits))
        narrower = (l > r.lower) | (u < r.upper)
        _, term = r.terms.narrowed_by(torch.tensor([c]))
        mine = torch.zeros(len(r.terms.a), dtype=torch.bool)
        mine[term] = True
        touched = narrower[r.terms.a] | narrower[r.terms.b]
        assert bool((mine | ~touched).all())
        assert len(torch.unique(term)) == len(term)


def test_a_million_terms_are_told_apart_as_numbers(monkeypatch):
    """Not as pairs, which sorting compares one by one."""
    unique = torch.unique
    monkeypatch.setattr(torch, "unique", lambda t, **how: pytest.fail("pairs") if "dim" in how else unique(t, **how))
    s, n = Sketch(2), 100
    left, right = (s.reshape(s.linear("t", np.ones((2, n * n))), n, n) for _ in range(2))
    s.linear(s.reshape(s.add("MatMul", (left, right)), n * n), np.ones((n * n, 1)))
    r = rooted(s.network(), np.random.default_rng(0))
    terms = Terms.of(r.program, r.factors, r.kin)
    assert len(terms.a) == n**3 and len(terms.list) == 2 * n**3
    count = terms.start[1:] - terms.start[:-1]
    assert bool((count == n).all())


def test_origins_go_through_moves_and_no_further():
    s = Sketch(4)
    z = s.linear("t", np.eye(4))
    moved = s.concat(s.reshape(s.reshape(z, 2, 2), 4), z)
    twice = s.add("Pick", (moved,), (3,), positions=np.array([7, 0, 4]))
    s.add("Add", (twice, s.constant(np.ones(3))))
    program = Program(s.network(), torch.float32, "cpu")
    origins = Origins(program)
    names = [origins.of(k).tolist() for k in range(len(program.steps))]
    first = program.shapes[0][0]
    z_names = list(range(first, first + 4))
    place = {step.node.name: k for k, step in enumerate(program.steps) if step is not None}
    assert names[place[z]] == z_names and names[place[moved]] == 2 * z_names
    assert names[place[twice]] == [z_names[3], z_names[0], z_names[0]]
    assert not set(names[program.output]) & {n for k in range(program.output) for n in names[k]}
    assert prod(program.shapes[0]) == 4 and Kin(program, [], 0, "cpu").made == {}


def test_origins_go_through_any_number_of_moves():
    s = Sketch(2)
    z = x = s.linear("t", np.eye(2))
    for k in range(1500):
        x = s.reshape(x, *((1, 2), (2,))[k % 2])
    program = Program(s.network(), torch.float32, "cpu")
    assert Origins(program).of(program.output).tolist() == Origins(program).of(1).tolist() == [2, 3] and z == "v0"


def test_only_products_of_two_variables_have_factors():
    r = shared()
    assert {f.step for f in r.factors} == {k for k, s in enumerate(r.program.steps) if k and isinstance(s.op, Bilinear)}
