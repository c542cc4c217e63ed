"""The contract of every registered operator: it passes by being registered, or fails for want of an example.

forward is what ONNX Runtime computes; the facts of affine operators, the lines of functions of one number and the
planes of joint ones hold (`affine_checks`, `line_checks`, `joint_checks`); and each of those checks notices an operator
that has been tampered with.
"""

from __future__ import annotations

import copy
from dataclasses import replace
from functools import cache, partial

import affine_checks
import joint_checks
import line_checks
import numpy as np
import pytest
import torch
from exact import EXACT
from sites import Example, bind, execute
from table import TABLE

from verifier.ops import OPS
from verifier.ops.base import Affine, Joint, Lines, Move, Nonlinear

KINDS = list(OPS.load())
WORKING = (torch.float32, torch.float64)


@cache
def examples(kind: str) -> list[Example]:
    """Made once: reading models and running them is what costs."""
    return TABLE[kind]()


class OneNumber:
    """Stands for the nonlinear operators that are not joint."""


def is_a(op, of: type) -> bool:
    return isinstance(op, Nonlinear) and not isinstance(op, Joint) if of is OneNumber else isinstance(op, of)


def operators(kind: str, dtype: torch.dtype, of: type):
    """Operators of the kind and class in its examples."""
    for example in examples(kind):
        yield from (op for node, op, _ in bind(example.network, dtype) if node.kind == kind and is_a(op, of))


@cache
def kinds_of(of: type) -> list[str]:
    return [k for k in KINDS if k in TABLE and any(True for _ in operators(k, torch.float64, of))]


def mismatches(example: Example, steps, dtype: torch.dtype, tolerance: float) -> list[str]:
    """Differences of the operators' forwards, on a batch and one by one, from the independent implementation."""
    xs = example.sample(3)
    tensors = [torch.from_numpy(x).to(dtype) for x in xs]
    found = []
    singles = zip(*(execute(example.network, steps, [t[k : k + 1] for t in tensors]) for k in range(3)))
    empty = execute(example.network, steps, [t[:0] for t in tensors])
    results = zip(execute(example.network, steps, tensors), singles, empty, example.expected(xs))
    for (y, ones, none, want), out in zip(results, example.network.outputs):
        if tuple(y.shape) != want.shape or tuple(none.shape) != (0, *out.shape) or y.dtype != dtype:
            found.append(f"{example.name}: {y.dtype} {tuple(y.shape)} instead of {dtype} {want.shape}")
            continue
        scale = max(1.0, float(np.abs(want).max()))
        for what, have in (("batch", y), ("singles", torch.cat(ones))):
            off = np.abs(have.double().numpy() - want).max()
            found += (
                [] if off <= tolerance * scale else [f"{example.name} ({what}): off by {off:.3g} at scale {scale:.3g}"]
            )
    return found


def test_table_and_registry_name_the_same_operators():
    assert set(KINDS) == set(TABLE) == set(OPS.declared)


@pytest.mark.parametrize("kind", KINDS)
def test_forward_is_what_onnx_runtime_computes(kind):
    found = []
    for example in examples(kind):
        assert kind in [n.kind for n in example.network.nodes], f"example {example.name} has no {kind}"
        for dtype in WORKING:
            found += mismatches(example, bind(example.network, dtype), dtype, 2e-6 if dtype == torch.float64 else 1e-5)
    assert not found


@pytest.mark.parametrize("kind", KINDS)
def test_gradients_flow(kind):
    """The derivative of forward is the one that differences see; without it no attack would climb."""
    for example in examples(kind)[:12]:
        run = partial(differentiable, example, bind(example.network, torch.float64))
        xs = [torch.from_numpy(x).requires_grad_() for x in example.sample(2, seed=3)]
        assert not run(*xs) or torch.autograd.gradcheck(run, xs, eps=1e-7, atol=1e-4, fast_mode=True)


@pytest.mark.parametrize("kind", KINDS)
def test_guides_have_the_values_of_forward(kind):
    for example in examples(kind)[:12]:
        xs = [torch.from_numpy(x) for x in example.sample(5, seed=4)]
        steps = bind(example.network, torch.float64)
        for y, guided in zip(execute(example.network, steps, xs), execute(example.network, steps, xs, guided=True)):
            assert torch.allclose(guided.double(), y.double(), 1e-12, 1e-12, equal_nan=True)


def differentiable(example: Example, steps, *xs: torch.Tensor) -> tuple[torch.Tensor, ...]:
    return tuple(y for y in execute(example.network, steps, list(xs)) if y.requires_grad)


@pytest.mark.parametrize("kind", kinds_of(Affine))
def test_affine_facts(kind):
    pairs = zip(operators(kind, torch.float64, Affine), operators(kind, torch.float32, Affine))
    assert not [text for wide, narrow in pairs for text in affine_checks.violations(wide, narrow)]


@cache
def lined(kind: str, dtype: torch.dtype):
    """One operator for each set of attributes and single numbers that it is made with, with its reference."""
    assert kind in EXACT, f"exact.py has no reference for {kind}"
    seen = {}
    for op in operators(kind, dtype, OneNumber):
        if all(c is None or c.size == 1 for c in op.site.constants):
            seen.setdefault(str((sorted(op.site.attrs.items()), op.site.constants)), op)
    return [(op, EXACT[kind](op)) for op in seen.values()]


@pytest.mark.parametrize("dtype", WORKING, ids=str)
@pytest.mark.parametrize("kind", kinds_of(OneNumber))
def test_lines_and_intervals(kind, dtype):
    assert not [text for op, exact in lined(kind, dtype) for text in line_checks.violations(op, exact)]


class OneEntry:
    """A function of one number with constants by entry, as one entry sees it: the same interval goes to all entries."""

    def __init__(self, op, entry: tuple[int, ...]):
        self.op, self.entry = op, entry
        constants = [None if c is None else self.mine(np.asarray(c)) for c in op.site.constants]
        self.site = replace(op.site, constants=tuple(constants))

    def mine(self, constant: np.ndarray) -> np.ndarray:
        """The constant's number for this entry; scales and zeros of quantisation lie along an axis."""
        shape, axis = self.op.out_shape, self.op.site.attrs.get("axis", 1)
        if "Quantize" in self.op.site.kind and constant.ndim == 1 and constant.size > 1:
            constant = constant.reshape(-1, *(1,) * (len(shape) - 1 - axis))
        return np.broadcast_to(constant, shape)[self.entry]

    def wide(self, x: torch.Tensor) -> torch.Tensor:
        return x.reshape(-1, *(1,) * len(self.op.out_shape)).expand(-1, *self.op.out_shape)

    def relax(self, l, u):
        lines = self.op.relax(self.wide(l), self.wide(u))
        return Lines(*(None if t is None else t[(slice(None), *self.entry)] for t in lines))

    def interval(self, box):
        return tuple(t[(slice(None), *self.entry)] for t in self.op.interval(tuple(map(self.wide, box))))

    def offsets(self, l, u, s):
        return tuple(t[(slice(None), *self.entry)] for t in self.op.offsets(*map(self.wide, (l, u, s))))

    def loose(self, l, u):
        return self.op.loose(self.wide(l), self.wide(u))[(slice(None), *self.entry)]


@cache
def entries(kind: str, dtype: torch.dtype) -> list[OneEntry]:
    """Entries with different constants of all operators of the kind that have such; a choice of them."""
    found = {}
    for op in operators(kind, dtype, OneNumber):
        if any(c is not None and c.size > 1 for c in op.site.constants):
            for entry in np.ndindex(*op.out_shape):
                view = OneEntry(op, entry)
                found.setdefault(str([None if c is None else float(c) for c in view.site.constants]), view)
    views = list(found.values())
    return [views[k] for k in sorted({int(t) for t in np.linspace(0, len(views) - 1, min(len(views), 5))})]


BY_ENTRY = ("PRelu", "Pow", "QuantizeLinear")


@pytest.mark.parametrize("dtype", WORKING, ids=str)
@pytest.mark.parametrize("kind", BY_ENTRY)
def test_lines_and_intervals_of_constants_by_entry(kind, dtype):
    found = entries(kind, dtype)
    assert len(found) >= 3
    assert not [text for view in found for text in line_checks.violations(view, EXACT[kind](view), n=40)]


@pytest.mark.parametrize("kind", BY_ENTRY)
def test_constants_of_another_entry_are_noticed(kind):
    one, other = (entries(kind, torch.float32)[k] for k in (0, 1))
    assert line_checks.violations(one, EXACT[kind](other), n=80)


def test_every_kind_with_constants_by_entry_is_checked():
    assert {k for k in kinds_of(OneNumber) if entries(k, torch.float32)} == set(BY_ENTRY)


@pytest.mark.parametrize("dtype", WORKING, ids=str)
@pytest.mark.parametrize("kind", kinds_of(OneNumber))
def test_functions_are_evaluated_twice_as_well_as_declared(kind, dtype):
    assert not [text for op, exact in lined(kind, dtype) for text in line_checks.evaluation(op, exact)]


@pytest.mark.parametrize("kind", ["Exp", "Sin", "Gelu", "Pow"])
def test_a_coarse_evaluation_is_noticed(kind):
    op, exact = lined(kind, torch.float32)[0]
    assert not line_checks.evaluation(op, exact)
    assert line_checks.evaluation(tampered(op, f=lambda y: y * (1 + 20 * torch.finfo(y.dtype).eps)), exact)


@cache
def drawn(kind: str, dtype: torch.dtype, most: int) -> list[joint_checks.Case]:
    pairs = list(zip(operators(kind, dtype, Joint), operators(kind, torch.float64, Joint)))
    return [joint_checks.Case(*pairs[k]) for k in sorted({int(t) for t in np.linspace(0, len(pairs) - 1, most)})]


def joints(kind: str, dtype: torch.dtype, most: int = 6) -> list[joint_checks.Case]:
    """Boxes for a choice of the kind's operators, spread over its examples; for the caller to change."""
    return [case.copy() for case in drawn(kind, dtype, most)]


@pytest.mark.parametrize("dtype", WORKING, ids=str)
@pytest.mark.parametrize("kind", kinds_of(Joint))
def test_planes_and_intervals(kind, dtype):
    assert not [text for case in joints(kind, dtype) for text in joint_checks.violations(case)]


@pytest.mark.parametrize("mix", [(0.0, 0.0), (1.0, 1.0), (0.3, 0.9)])
@pytest.mark.parametrize("kind", ("Mul", "MatMul", "Einsum"))
def test_every_mixture_of_planes_encloses_a_product(kind, mix):
    for dtype in WORKING:
        for case in joints(kind, dtype, most=3):
            case.op = mixed(case.op, mix)
            checks = (joint_checks.planes, joint_checks.weights, joint_checks.pulls, joint_checks.terms)
            assert not [text for check in checks for text in check(case)]


def mixed(op, mix: tuple[float, float]):
    """The operator with planes of other mixtures."""
    other = copy.copy(op)
    other.relax = lambda *boxes: op.planes(boxes, mix)
    return other


# --- the checks notice ---


def tampered(op, **changes):
    """The operator with some of its methods or attributes replaced; a callable gets the original result."""
    bad = copy.copy(op)
    for name, change in changes.items():
        original = getattr(op, name)
        new = (lambda *a, _f=original, _c=change: _c(_f(*a))) if callable(change) else change
        setattr(bad, name, new)
    return bad


def shifted(y):
    return y + 1e-3


def scaled(parts):
    return tuple(1.001 * p for p in parts)


AFFINE_DAMAGE = {
    "forward": (affine_checks.linear, shifted),
    "offset": (affine_checks.offset, lambda c: torch.full((), 1e-3, dtype=torch.float64) if c is None else c + 1e-3),
    "adjoint": (affine_checks.adjoint, scaled),
    "rows": (affine_checks.adjoint, scaled),
    "absolute": (affine_checks.absolute, lambda y: 0.999 * y),
    "terms": (affine_checks.terms, (0, 0)),
}


@pytest.mark.parametrize("fact", AFFINE_DAMAGE)
@pytest.mark.parametrize("kind", kinds_of(Affine))
def test_a_damaged_affine_operator_is_noticed(kind, fact):
    check, change = AFFINE_DAMAGE[fact]
    op = next(operators(kind, torch.float64, Affine))
    matrix = affine_checks.Matrix(op)
    assert not check(op, matrix)
    assert check(tampered(op, **{fact: change}), matrix)


@pytest.mark.parametrize("kind", kinds_of(Affine))
def test_coarse_arithmetic_is_noticed(kind):
    """Results that are off by a few units of float32 break the promise of `terms`; in a move a single unit does."""
    op, narrow = (next(operators(kind, dtype, Affine)) for dtype in (torch.float64, torch.float32))
    matrix = affine_checks.Matrix(op)
    unit = torch.finfo(torch.float32).eps * (1 if isinstance(narrow, Move) else narrow.terms[0] + 1)
    assert not affine_checks.rounding(op, narrow, matrix)
    assert affine_checks.rounding(op, tampered(narrow, forward=lambda y: y * (1 + unit)), matrix)


@pytest.mark.parametrize("kind", KINDS)
def test_a_wrong_forward_is_noticed(kind):
    example = examples(kind)[0]
    steps = bind(example.network, torch.float32)
    last = steps[-1]
    steps[-1] = (last[0], tampered(last[1], forward=lambda y: y + 1e-3), last[2])
    assert mismatches(example, steps, torch.float32, 1e-5)


LINE_DAMAGE = {
    "lower line raised": (line_checks.lines, "relax", lambda p: p._replace(lo_b=raised(p.lo_b, p.lo_a, 1e-3))),
    "upper line lowered": (line_checks.lines, "relax", lambda p: p._replace(up_b=raised(p.up_b, p.up_a, -1e-3))),
    "lines of NaN": (line_checks.lines, "relax", lambda p: Lines(*(torch.full_like(p.lo_a, torch.nan) for _ in p))),
    "lower end raised": (line_checks.interval, "interval", lambda p: (p[0] + 1e-3, p[1])),
    "upper end lowered": (line_checks.interval, "interval", lambda p: (p[0], p[1] - 1e-3)),
    "lower offset raised": (line_checks.every_slope, "offsets", lambda p: (p[0] + 1e-3, p[1])),
    "upper offset lowered": (line_checks.every_slope, "offsets", lambda p: (p[0], p[1] - 1e-3)),
    "a slope where an end is infinite": (line_checks.infinite, "relax", lambda p: p._replace(lo_a=p.lo_a + 1)),
    "lines apart where nothing is loose": (
        line_checks.exact_where_linear,
        "relax",
        lambda p: p._replace(lo_b=raised(p.lo_b, p.lo_a, -1e-3)),
    ),
    "lines far from the function": (
        line_checks.touching,
        "relax",
        lambda p: p._replace(lo_b=raised(p.lo_b, p.lo_a, -10.0)),
    ),
}


def raised(offset, slope, by: float):
    return (torch.zeros_like(slope) if offset is None else offset) + by


def relaxations_and_damage() -> list[tuple[str, str]]:
    """Every kind with every damage, but for infinite ends that a bounded domain does not have."""
    pairs = [(kind, damage) for kind in kinds_of(OneNumber) for damage in LINE_DAMAGE]
    bounded = {k for k in kinds_of(OneNumber) if np.isfinite(lined(k, torch.float32)[0][1].domain).all()}
    return [(k, d) for k, d in pairs if k not in bounded or LINE_DAMAGE[d][0] is not line_checks.infinite]


@cache
def sampled(kind: str) -> tuple:
    """The first operator of the kind, and samples of what it should be."""
    op, exact = lined(kind, torch.float32)[0]
    return op, line_checks.Samples(exact, *line_checks.intervals(exact, torch.float32, n=100))


@pytest.mark.parametrize(("kind", "damage"), relaxations_and_damage())
def test_a_damaged_relaxation_is_noticed(kind, damage):
    check, method, change = LINE_DAMAGE[damage]
    op, samples = sampled(kind)
    assert any(check(tampered(op, **{method: change}), samples))


@pytest.mark.parametrize("kind", ["Sigmoid", "Gelu", "Floor"])
def test_lines_that_leave_too_much_are_noticed(kind):
    op, exact = lined(kind, torch.float64)[0]
    assert not line_checks.tight(op, exact)
    for change in (lambda p: p._replace(lo_b=p.lo_b - 0.05), lambda p: p._replace(up_b=p.up_b + 0.05)):
        assert line_checks.tight(tampered(op, relax=change), exact)


def changed(planes, **parts):
    """A copy of planes with some tensors changed by a function."""
    bad = copy.copy(planes)
    for name, change in parts.items():
        setattr(bad, name, change(getattr(planes, name)))
    return bad


def answering(planes, name: str, change):
    """A copy of planes with the results of a method changed, entry by entry of the tuple."""
    bad, original = copy.copy(planes), getattr(type(planes), name)
    method = lambda self, *xs: tuple(map(change, original(self, *xs)))
    bad.__class__ = type("Changed", (type(planes),), {name: method})
    return bad


def coarse(x: torch.Tensor) -> torch.Tensor:
    return x.bfloat16().to(x) if x.dtype == torch.float32 else x


JOINT_DAMAGE = {
    "lower plane raised": (joint_checks.planes, "relax", lambda p: changed(p, lo_b=lambda b: b + 1e-3)),
    "upper plane lowered": (joint_checks.planes, "relax", lambda p: changed(p, up_b=lambda b: b - 1e-3)),
    "planes of NaN": (joint_checks.planes, "relax", lambda p: changed(p, lo_b=lambda b: b * torch.nan)),
    "lower end raised": (joint_checks.interval, "interval", lambda p: (p[0] + 1e-3, p[1])),
    "upper end lowered": (joint_checks.interval, "interval", lambda p: (p[0], p[1] - 1e-3)),
    "lower weights shrunk": (joint_checks.weights, "relax", lambda p: changed(p, lo_w=lambda w: 0.5 * w)),
    "upper weights shrunk": (joint_checks.weights, "relax", lambda p: changed(p, up_w=lambda w: 0.5 * w)),
    "rows turned round": (joint_checks.planes, "relax", lambda p: answering(p, "pull", lambda x: -x)),
    "rows squared": (joint_checks.pulls, "relax", lambda p: answering(p, "pull", lambda x: x * x)),
    "coarse rows": (joint_checks.terms, "relax", lambda p: answering(p, "pull", coarse)),
    "other values": (joint_checks.pulls, "relax", lambda p: answering(p, "values", lambda y: y + 1e-3)),
    "no terms": (joint_checks.terms, "terms", 0),
    "slopes of infinity": (joint_checks.infinite, "relax", lambda p: answering(p, "pull", lambda x: x + 1)),
    "planes apart on points": (joint_checks.touching, "relax", lambda p: changed(p, lo_b=lambda b: b - 0.1)),
    "ends apart on points": (joint_checks.touching, "interval", lambda p: (p[0] - 0.1, p[1])),
}


# Damage to what planes without slopes, or with lower ends of 0 only, do not have.
OF_SLOPES = ("rows turned round", "rows squared", "coarse rows", "no terms")
OF_WEIGHTS = ("lower weights shrunk",)


def has_part(case: joint_checks.Case, damage: str) -> bool:
    m = joint_checks.Matrices(case)
    if damage in OF_SLOPES:
        return bool(m.lower.any() or m.upper.any())
    return damage not in OF_WEIGHTS or bool(m.lo_w.any())


@pytest.mark.parametrize("damage", JOINT_DAMAGE)
@pytest.mark.parametrize("kind", kinds_of(Joint))
def test_a_damaged_joint_is_noticed(kind, damage):
    check, method, change = JOINT_DAMAGE[damage]
    case = joints(kind, torch.float32, most=1)[0]
    if not has_part(case, damage):
        return
    case.op = tampered(case.op, **{method: change})
    assert check(case)


@pytest.mark.parametrize("method", ("push", "reach"))
@pytest.mark.parametrize("kind", kinds_of(Joint))
def test_planes_that_are_pushed_wrongly_are_noticed(kind, method):
    case = joints(kind, torch.float32, most=1)[0]
    if case.op.relax(*case.boxes).fan:
        assert not joint_checks.pushed(case)
        halved = (lambda y: 0.5 * y) if method == "push" else None
        case.op = tampered(case.op, relax=lambda p: answering(p, "push", halved) if halved else short(p))
        assert joint_checks.pushed(case)


def short(planes):
    bad, reach = copy.copy(planes), type(planes).reach
    bad.__class__ = type("Changed", (type(planes),), {"reach": lambda self, *rs: 0.9 * reach(self, *rs)})
    return bad


@pytest.mark.parametrize("kind", sorted(set(kinds_of(Joint)) - {"IsNaN", "IsInf"}))  # nothing tightens their planes
def test_entries_that_are_wrongly_called_settled_are_noticed(kind):
    case = joints(kind, torch.float32, most=1)[0]
    assert not joint_checks.settled(case)
    case.op = tampered(case.op, loose=lambda parts: tuple(torch.zeros_like(p) for p in parts))
    assert joint_checks.settled(case)
