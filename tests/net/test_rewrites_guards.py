"""Functions behind a guard read the clipped input: the same values, and bounds where there were none."""

import numpy as np
import pytest
from tiny import check, kinds, model, node

from verifier import api
from verifier.config import Config

F = np.float32


def guarded(kind, compare="Greater", limit=0.1, swapped=False, negated=False, function="Log"):
    sides = "z x" if swapped else "x z"
    nodes = [node(compare, sides, "c0"), node("Not", "c0", "c") if negated else node("Identity", "c0", "c")]
    nodes += [node(function, "x", "f"), node("Where", "c f d" if kind == "then" else "c d f")]
    return model(nodes, {"x": [1, 6]}, opset=17, z=F(limit), d=F(-0.5))


def clips(net):
    return [(n.attrs["min"], n.attrs["max"]) for n in net.nodes if n.kind == "Clip"]


@pytest.mark.parametrize("function", ("Log", "Sqrt", "Reciprocal"))
@pytest.mark.parametrize(
    "branch, compare, swapped",
    [
        ("then", "Greater", False),
        ("then", "GreaterOrEqual", False),
        ("then", "Less", True),
        ("else", "Less", False),
        ("else", "LessOrEqual", False),
    ],
)
def test_the_branch_that_is_taken_above_reads_what_lies_above(branch, compare, swapped, function):
    net = check(guarded(branch, compare, 0.1, swapped, function=function))
    ((low, high),) = clips(net)
    assert 0.0999 < low <= F(0.1) and high == np.inf


@pytest.mark.parametrize("branch, compare, negated", [("then", "Greater", True), ("else", "Less", True)])
def test_a_condition_behind_not_is_seen(branch, compare, negated):
    ((low, high),) = clips(check(guarded(branch, compare, 0.1, negated=negated, function="Reciprocal")))
    assert low == -np.inf and F(0.1) <= high < 0.1001


def test_branches_that_need_no_guard_are_left_alone():
    assert "Clip" not in kinds(check(guarded("then", function="Tanh")))
    nodes = [node("Greater", "x z", "c"), node("Log", "w", "f"), node("Where", "c f d")]
    assert "Clip" not in kinds(check(model(nodes, {"x": [1, 3], "w": [1, 3]}, z=F(0.1), d=F(0)), low=0.5))


def test_chains_are_followed_through_constants():
    nodes = [node("GreaterOrEqual", "x z", "c"), node("Add", "x one", "a"), node("Log", "a", "l")]
    nodes += [node("Mul", "l two", "m"), node("Where", "c m d")]
    net = check(model(nodes, {"x": [1, 5]}, z=F(-0.5), one=F(1), two=F(2), d=F(3)), low=-0.9)
    assert len(clips(net)) == 1


@pytest.mark.parametrize("limit, verdict", [(2.31, "unsat"), (2.3, "sat")])
def test_what_the_guard_lets_through_is_bounded(limit, verdict, tmp_path):
    text = "".join(f"(declare-const X_{i} Real)(assert (>= X_{i} -1))(assert (<= X_{i} 0.5))\n" for i in range(6))
    text += "".join(f"(declare-const Y_{i} Real)\n" for i in range(6)) + f"(assert (<= Y_0 -{limit}))"
    path = tmp_path / "p.vnnlib"
    path.write_text(text)
    result = api.verify(guarded("then"), path, Config(timeout=20.0, threads=1, device="cpu"))
    assert result.verdict == verdict
