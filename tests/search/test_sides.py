"""Entries before jumps, decided one by one on the windows that they see."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper

from verifier.api import verify
from verifier.bounds import METHODS
from verifier.bounds.crown import crown_trace
from verifier.bounds.program import Program
from verifier.branching import NEURONS
from verifier.branching.points import Points
from verifier.branching.store import Store
from verifier.config import AttackConfig, Config
from verifier.events import Deadline
from verifier.net.load import load_network
from verifier.problem import compile_problem
from verifier.result import Verdict
from verifier.search import sides
from verifier.search.bounder import Bounder
from verifier.search.sides import Sides
from verifier.spec.parse import parse_property

H, W = 5, 6


def counting(seed: int, kind: str = "Greater", depth: int = 2) -> onnx.ModelProto:
    """Images (1, 2, H, W) through convolutions to a score per pixel; the output is how many are above a threshold."""
    rng = np.random.default_rng(seed)
    widths = [2, *(4,) * depth, 1]
    nodes, constants, name = [], [], "x"
    for k, (c, d) in enumerate(zip(widths, widths[1:])):
        weight = (rng.normal(size=(d, c, 3, 3)) / np.sqrt(9 * c / 2)).astype(np.float32)
        constants += [numpy_helper.from_array(weight, f"w{k}")]
        constants += [numpy_helper.from_array((0.3 * rng.normal(size=d)).astype(np.float32), f"b{k}")]
        nodes.append(helper.make_node("Conv", [name, f"w{k}", f"b{k}"], [f"c{k}"], pads=[1, 1, 1, 1]))
        name = f"c{k}"
        if k < depth:
            nodes.append(helper.make_node("Relu", [name], [f"r{k}"]))
            name = f"r{k}"
    if kind == "Sign":
        nodes.append(helper.make_node("Sign", [name], ["f"]))
    else:
        constants.append(numpy_helper.from_array(np.array(0.1, np.float32), "t"))
        nodes += [helper.make_node(kind, [name, "t"], ["g"]), helper.make_node("Cast", ["g"], ["f"], to=1)]
    constants.append(numpy_helper.from_array(np.array([1, H * W]), "flat"))
    nodes.append(helper.make_node("Reshape", ["f", "flat"], ["v"]))
    nodes.append(helper.make_node("ReduceSum", ["v"], ["y"], keepdims=1))
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 2, H, W])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 1])],
        constants,
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)


def prop(path, l: np.ndarray, u: np.ndarray, condition: str) -> str:
    lines = [f"(declare-const X_{i} Real)" for i in range(len(l))] + ["(declare-const Y_0 Real)"]
    for i, (a, b) in enumerate(zip(l, u)):
        lines += [f"(assert (>= X_{i} {a:.9f}))", f"(assert (<= X_{i} {b:.9f}))"]
    path.write_text("\n".join([*lines, f"(assert {condition})"]))
    return str(path)


class Case:
    def __init__(self, tmp_path, seed: int, width: float, kind: str = "Greater"):
        METHODS.load()
        rng = np.random.default_rng(seed + 100)
        self.l = np.round(rng.normal(size=2 * H * W), 4)
        self.u = np.round(self.l + width, 6)
        self.model = counting(seed, kind)
        text = prop(tmp_path / "p.vnnlib", self.l, self.u, "(<= Y_0 -100.0)")
        problem = compile_problem(load_network(self.model), parse_property(text))
        self.program = Program(problem.network, torch.float32, "cpu")
        ends = (torch.from_numpy(t).float() for t in (problem.lower, problem.upper))
        self.trace = crown_trace(self.program, *ends, 1 << 26)
        points = Points(self.program.device, "auto", Store(), lambda: 1.0)
        heuristic = NEURONS.load()["kfsb"]
        make = lambda t, rows, fine, clip: Bounder(t, rows, fine, heuristic, points=points)
        self.sides = Sides(self.trace, Program(problem.network, torch.float64, "cpu"), make, 1 << 26)
        self.open = len(self.sides.entries)
        self.sides.entries = sorted(self.sides.entries, key=lambda n: n.gap)[:6]

    def values(self) -> torch.Tensor:
        """The value before the jump at points of the box (N, H W), many at its corners."""
        rng = torch.Generator().manual_seed(0)
        l, u = self.trace.boxes[0]
        share = torch.rand((3000, l.shape[1]), generator=rng)
        x = (l + (u - l) * torch.where(torch.arange(3000)[:, None] % 3 == 0, share, share.round())).double()
        values = [x]
        for step in Program(self.program.network, torch.float64, "cpu").steps[1:]:
            values.append(step.op.forward(*(values[i] for i in step.inputs)))
        return values[self.sides.value].reshape(len(x), -1)

    def outside(self) -> int:
        """How many values lie outside the box that the decided entries leave."""
        l, u = (t.reshape(-1).double() for t in self.sides.trace.boxes[self.sides.value])
        v = self.values()
        return int(((v < l) | (v > u)).sum())

    def decide(self) -> int:
        for _ in self.sides.decide(Deadline.after(60)):
            pass
        return self.sides.decided


@pytest.mark.parametrize("kind", ("Greater", "Less", "GreaterOrEqual", "LessOrEqual", "Sign"))
@pytest.mark.parametrize("seed", (0, 2))
def test_decided_entries_stay_on_their_side(tmp_path, seed, kind, monkeypatch):
    monkeypatch.setattr(sides, "BUDGETS", (1, 8))
    case = Case(tmp_path, seed, 0.25, kind)
    assert case.decide() > 0
    assert case.outside() == 0
    assert case.sides.decided + len(case.sides) <= case.open
    drawn = case.sides.drawn(case.sides.trace)
    low, high = (t[0] for t in drawn.boxes[drawn.program.output])
    old_low, old_high = (t[0] for t in case.trace.boxes[drawn.program.output])
    step = 2 if kind == "Sign" else 1
    assert float(high - low) <= float(old_high - old_low) - 0.99 * step * case.sides.decided


def _narrow(monkeypatch):
    part = sides._part
    held = {}

    def wrong(box, w):
        # Both ends at the middle of what was asked for last: boxes that hold one point of many.
        held[w] = part(box, w) if w not in held else held[w]
        return held[w]

    monkeypatch.setattr(sides, "_part", wrong)


def _easier(monkeypatch):
    bounder = Sides._bounder

    def wrong(self, n, clip):
        # Shows less than is told of it afterwards.
        self.places = self.places - 0.5 * n.side
        try:
            return bounder(self, n, clip)
        finally:
            self.places = self.places + 0.5 * n.side

    monkeypatch.setattr(Sides, "_bounder", wrong)


def _any_bound(monkeypatch):
    monkeypatch.setattr(Bounder, "_certified", lambda self, c, f: (torch.ones(len(c), dtype=torch.bool), 0))


@pytest.mark.parametrize("mutation", (_narrow, _easier, _any_bound))
def test_the_check_notices(mutation, tmp_path, monkeypatch):
    monkeypatch.setattr(sides, "BUDGETS", (1, 8))
    mutation(monkeypatch)

    def noticed(seed: int) -> bool:
        case = Case(tmp_path, seed, 0.25)
        try:
            case.decide()
        except (RuntimeError, IndexError):
            return True
        return case.outside() > 0

    assert any(map(noticed, (0, 2, 3)))


def test_boxes_that_end_at_the_jump_are_no_decision(tmp_path):
    """The box of a decided entry ends beyond the jump, so that the step is settled there."""
    case = Case(tmp_path, 0, 0.25)
    every = case.sides.narrowed(case.sides.entries)
    l, u = (t.reshape(-1) for t in every.boxes[case.sides.value])
    place = case.sides.places.reshape(-1)
    for n in case.sides.entries:
        assert l[n.at] > place[n.at] if n.side > 0 else u[n.at] < place[n.at]


CONFIG = Config(attack=AttackConfig(method="none"), timeout=20.0)


@pytest.mark.parametrize("seed", range(3))
def test_counts_are_bounded_by_what_is_decided(tmp_path, seed):
    """What no point reaches is refuted, what some point reaches never is."""
    case = Case(tmp_path, seed, 0.1)
    v = case.values() > 0.1
    most = int(v.sum(1).max())
    entries = int((case.values().amax(0) > -0.1).sum())  # no other entry comes near the threshold
    far = prop(tmp_path / "far.vnnlib", case.l, case.u, f"(>= Y_0 {entries + 0.5})")
    near = prop(tmp_path / "near.vnnlib", case.l, case.u, f"(>= Y_0 {most - 0.5})")
    assert verify(case.model, near, CONFIG).verdict != Verdict.UNSAT
    assert verify(case.model, far, CONFIG).verdict == Verdict.UNSAT


def test_what_no_window_shows_is_left_alone(tmp_path, monkeypatch):
    """Where there is no small network for the first entries, the others are not asked for, and nothing is claimed."""
    case = Case(tmp_path, 0, 0.25)
    asked = []
    monkeypatch.setattr(sides, "cut_down", lambda *a: asked.append(a))
    assert case.decide() == 0 and len(asked) == sides.STRANGE
    assert case.sides.trace.boxes[case.sides.value] is case.trace.boxes[case.sides.value]


def test_no_time_is_no_decision(tmp_path):
    case = Case(tmp_path, 0, 0.25)
    for _ in case.sides.decide(Deadline.after(-1)):
        pass
    assert case.sides.decided == 0 and len(case.sides) == 6
