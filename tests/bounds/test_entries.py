"""Bounds of the entries of one value over one box: as patches, as whole rows, ended early."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from verifier.bounds import METHODS, entries, patches
from verifier.bounds.crown import by_crown
from verifier.bounds.entries import bound_entries
from verifier.bounds.program import Program
from verifier.bounds.trace import Trace, trace_values
from verifier.net.graph import Network, Node, Tensor
from verifier.ops.base import gamma
from verifier.ops.conv import Conv

F = np.dtype(np.float32)
CONV = {"strides": (1, 1), "dilations": (1, 1), "pads": (1, 1, 1, 1), "group": 1}


class Image:
    """A random network over images (1, C, H, W): convolutions, pools, slices, sums, functions of one number."""

    def __init__(self, seed: int, function: str):
        self.rng = np.random.default_rng(seed)
        self.nodes: list[Node] = []
        self.constants: dict[str, np.ndarray] = {}
        c, h, w = int(self.rng.integers(1, 4)), int(self.rng.integers(9, 14)), int(self.rng.integers(9, 14))
        self.m = c * h * w
        self.emit("Reshape", ("t",), (1, c, h, w))
        for _ in range(int(self.rng.integers(2, 5))):
            self.block(function)
        self.emit("Reshape", (self.name,), (int(np.prod(self.shape)),))

    @property
    def name(self) -> str:
        return self.nodes[-1].name

    @property
    def shape(self) -> tuple[int, ...]:
        return self.nodes[-1].shape

    def emit(self, kind: str, inputs: tuple[str, ...], shape: tuple[int, ...], **attrs) -> str:
        self.nodes.append(Node(f"v{len(self.nodes)}", kind, inputs, shape, F, attrs))
        return self.name

    def constant(self, *shape: int) -> str:
        name = f"c{len(self.constants)}"
        self.constants[name] = (self.rng.normal(size=shape) / np.sqrt(np.prod(shape[1:]) or 1)).astype(F)
        return name

    def convolution(self, out: int) -> None:
        _, c, h, w = self.shape
        k, t = min(int(self.rng.integers(1, 4)), h, w), int(self.rng.integers(1, 3))
        d = int(self.rng.integers(1, 3)) if min(h, w) > 2 * (k - 1) else 1
        pads = tuple(int(p) for p in self.rng.integers(0, 3, 4))
        span = d * (k - 1) + 1
        size = [(n + a + b - span) // t + 1 for n, a, b in ((h, pads[0], pads[2]), (w, pads[1], pads[3]))]
        groups = c if out % c == 0 and self.rng.random() < 0.3 else 1
        weight, bias = self.constant(out, c // groups, k, k), self.constant(out)
        attrs = {"strides": (t, t), "dilations": (d, d), "pads": pads, "group": groups}
        self.emit("Conv", (self.name, weight, bias), (1, out, *size), **attrs)

    def block(self, function: str) -> None:
        choice = int(self.rng.integers(6))
        _, c, h, w = self.shape
        if min(h, w) < 3:
            return
        if choice == 0:
            attrs = {"kernel_shape": (2, 2), "strides": (2, 2), "dilations": (1, 1), "ceil_mode": 0}
            pads, size = (0, 1, 0, 0), (h // 2, (w + 1) // 2)
            include = int(self.rng.integers(2))
            self.emit("AveragePool", (self.name,), (1, c, *size), pads=pads, count_include_pad=include, **attrs)
        elif choice == 1:
            cut = {"axes": (2, 3), "starts": (1, 0), "ends": (h, w - 1), "steps": (1, 2)}
            self.emit("Slice", (self.name,), (1, c, h - 1, (w - 1 + 1) // 2), **cut)
        elif choice == 2:
            self.emit("BatchNormalization", (self.name, self.constant(c), self.constant(c)), self.shape)
        elif choice == 3:
            skip, shape = self.name, self.shape
            attrs = {"strides": (1, 1), "dilations": (1, 1), "pads": (1, 1, 1, 1), "group": 1}
            self.emit("Conv", (skip, self.constant(c, c, 3, 3), self.constant(c)), shape, **attrs)
            self.emit(function, (self.name,), shape)
            self.emit(str(self.rng.choice(["Add", "Sub"])), (self.name, skip), shape)
        self.convolution(int(self.rng.integers(1, 5)))
        self.emit(function, (self.name,), self.shape)

    def program(self, dtype: torch.dtype) -> Program:
        end = Tensor(self.name, self.shape, F)
        return Program(
            Network((Tensor("t", (self.m,), F),), tuple(self.nodes), self.constants, (end,), 17), dtype, "cpu"
        )


def traced(image: Image, dtype: torch.dtype, width: float, tighten) -> Trace:
    METHODS.load()
    centre = torch.from_numpy(np.random.default_rng(0).normal(size=(1, image.m))).to(dtype)
    return trace_values(image.program(dtype), centre - width, centre + width, 1 << 26, tighten)


@pytest.mark.parametrize("function", ("Relu", "Tanh"))
@settings(max_examples=10, deadline=None, derandomize=True)
@given(seed=st.integers(0, 2**31))
def test_patches_say_what_whole_rows_say(function, seed):
    """Without early ends the bounds agree up to rounding, whether rows are kept as patches or whole."""
    image = Image(seed, function)
    trace = traced(image, torch.float64, 0.05, by_crown)
    for value in [s.inputs[0] for s in trace.program.steps[1:] if s.node.kind == function]:
        index = torch.arange(trace.boxes[value][0].numel())[:: max(1, trace.boxes[value][0].numel() // 40)]
        found = []
        for smallest in (0, 10**9):
            with pytest.MonkeyPatch.context() as patched:
                patched.setattr(patches, "SMALLEST", smallest)
                patched.setattr(entries.EntryPass, "_drop_settled", lambda self: None)
                found.append(bound_entries(trace, value, index, 1 << 24))
        for a, b in zip(*found):
            assert torch.allclose(a, b, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("dtype", (torch.float32, torch.float64), ids=str)
@settings(max_examples=15, deadline=None, derandomize=True)
@given(seed=st.integers(0, 2**31))
def test_bounds_of_images_enclose_executions(dtype, seed):
    """The registered method on one box, where entries end early and are walked in patches."""
    image = Image(seed, "Relu")
    program, exact = image.program(dtype), image.program(torch.float64)
    rng = np.random.default_rng(seed)
    centre = torch.from_numpy(rng.normal(size=(1, image.m))).to(dtype)
    width = float(rng.choice([0.0, 1e-3, 0.1, 1.0]))
    l, u = centre - width, centre + width
    rows = torch.from_numpy(rng.normal(size=(1, 3, program.shapes[program.output][0]))).to(dtype)
    bounds = METHODS.load()["crown"].run(program, l, u, rows, 1 << 26)
    corners = torch.where(bounds.plane[0] > 0, l, u).double()
    t = torch.from_numpy(rng.random((40, image.m))).round()
    points = torch.cat([corners, l.double() + (u.double() - l.double()) * t])
    value = exact.forward(points) @ rows[0].double().T
    assert bool((bounds.lb.double() <= value.amin(0) + 1e-12 * value.abs().amax()).all())


@pytest.mark.parametrize("other", ("Slice", "Conv"))
def test_branches_of_different_strides_meet(other, monkeypatch):
    """A convolution with stride 2 plus what keeps stride 1: their windows drift apart from row to row."""
    image = Image(0, "Relu")
    image.nodes, image.constants, image.m = [], {}, 2 * 11 * 11
    whole = image.emit("Reshape", ("t",), (1, 2, 11, 11))
    plain = {"dilations": (1, 1), "pads": (0, 0, 0, 0), "group": 1}
    a = image.emit("Conv", (whole, image.constant(2, 2, 3, 3)), (1, 2, 5, 5), strides=(2, 2), **plain)
    if other == "Slice":
        b = image.emit("Slice", (whole,), (1, 2, 5, 5), axes=(2, 3), starts=(3, 3), ends=(8, 8), steps=(1, 1))
    else:
        b = image.emit("Conv", (whole, image.constant(2, 2, 7, 7)), (1, 2, 5, 5), strides=(1, 1), **plain)
    image.emit("Add", (a, b), (1, 2, 5, 5))
    image.emit("Conv", (image.name, image.constant(3, 2, 1, 1)), (1, 3, 5, 5), strides=(1, 1), **plain)
    image.emit("Relu", (image.name,), (1, 3, 5, 5))
    image.emit("Reshape", (image.name,), (75,))
    trace = traced(image, torch.float64, 0.1, by_crown)
    value = next(s.inputs[0] for s in trace.program.steps[1:] if s.node.kind == "Relu")
    assert patches.starts_here(trace.program, value)
    monkeypatch.setattr(entries.EntryPass, "_drop_settled", lambda self: None)
    drifting = bound_entries(trace, value, torch.arange(75), 1 << 24)
    monkeypatch.setattr(patches, "SMALLEST", 10**9)
    whole = bound_entries(trace, value, torch.arange(75), 1 << 24)
    assert all(torch.allclose(a, b, rtol=1e-9, atol=1e-9) for a, b in zip(drifting, whole))


def test_the_comparison_notices_a_patch_in_the_wrong_place(monkeypatch):
    moved = patches.moved
    wrong = lambda *a: dataclasses.replace(moved(*a), top=moved(*a).top + 1)
    image = next(i for i in (Image(s, "Relu") for s in range(9)) if len(i.nodes) > 5)
    trace = traced(image, torch.float64, 0.05, by_crown)
    value = [s.inputs[0] for s in trace.program.steps[1:] if s.node.kind == "Relu"][-1]
    index = torch.arange(trace.boxes[value][0].numel())
    monkeypatch.setattr(patches, "SMALLEST", 0)
    right = bound_entries(trace, value, index, 1 << 24)[0]
    monkeypatch.setattr(patches, "moved", wrong)
    assert not torch.allclose(bound_entries(trace, value, index, 1 << 24)[0], right)


def test_entries_that_end_early_are_settled():
    """With wide layers of mostly stable entries some end before the input, and all that end there are settled."""
    image = Image(4, "Relu")
    met = []
    original = entries.EntryPass._drop_settled

    def counted(self):
        before = len(self.kept)
        original(self)
        met.append(before - len(self.kept))

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(entries.EntryPass, "_drop_settled", counted)
        METHODS.load()["crown"].run(
            image.program(torch.float64),
            torch.zeros((1, image.m), dtype=torch.float64),
            torch.full((1, image.m), 0.02, dtype=torch.float64),
            torch.ones((1, 1, image.shape[0]), dtype=torch.float64),
            1 << 26,
        )
    assert sum(met) > 0


def relu_inputs(trace: Trace) -> list[int]:
    return [s.inputs[0] for s in trace.program.steps[1:] if s.node.kind == "Relu"]


@pytest.mark.parametrize("seed", range(8))
def test_the_order_of_entries_does_not_matter(seed, monkeypatch):
    monkeypatch.setattr(patches, "SMALLEST", 0)
    monkeypatch.setattr(entries, "gains", lambda *a: True)
    monkeypatch.setattr(entries.EntryPass, "_drop_settled", lambda self: None)  # when, depends on who goes together
    trace = traced(Image(seed, "Relu"), torch.float64, 0.05, by_crown)
    for value in relu_inputs(trace):
        index = torch.arange(trace.boxes[value][0].numel())
        mixed = index[torch.from_numpy(np.random.default_rng(seed).permutation(len(index)))]
        right, found = (bound_entries(trace, value, i, 1 << 12) for i in (index, mixed))
        for a, b in zip(right, found):
            assert torch.allclose(a[mixed], b, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("seed", range(8))
def test_whole_rows_become_patches(seed):
    """`narrowed` keeps every entry of rows that live in small windows, and leaves rows that do not."""
    rng = np.random.default_rng(seed)
    shape, k = (1, int(rng.integers(1, 4)), int(rng.integers(6, 12)), int(rng.integers(6, 12))), 7
    rows = torch.zeros((2, k, *shape), dtype=torch.float64)
    for i in range(k - 1):  # the last row is zero
        y, x = int(rng.integers(shape[2] - 1)), int(rng.integers(shape[3] - 1))
        h, w = int(rng.integers(1, 4)), int(rng.integers(1, 4))
        part = rows[:, i, 0, :, y : y + h, x : x + w]
        part.copy_(torch.from_numpy(rng.normal(size=part.shape)))
    patch = patches.narrowed(rows, shape)
    assert patch.window <= (3, 3) and torch.equal(patch.whole(shape), rows.flatten(0, 1))
    rows[1, 2, 0, 0, 0, 0] = rows[0, 2, 0, 0, -1, -1] = 1.0
    assert patches.narrowed(rows, shape) is None


def test_windows_beyond_the_border_hold_zeros():
    image = torch.arange(1.0, 21.0).view(1, 4, 5)
    top, left = torch.tensor([-3, -1, 0, 2, 3, 5]), torch.tensor([0, -1, 3, 4, 9, 0])
    patch = patches.Patch(torch.zeros((2, 6, 1, 2, 3)), top, left, torch.arange(6))
    padded = torch.zeros((30, 30))
    padded[10:14, 10:15] = image[0]
    for found, y, x in zip(patch.look_up(image), top.tolist(), left.tolist()):
        assert torch.equal(found[0], padded[10 + y : 12 + y, 10 + x : 13 + x])
    outside = patch.inside((1, 1, 4, 5)) * torch.ones(())
    assert torch.equal(outside[:, 0] != 0, patch.look_up(torch.ones((1, 4, 5)))[:, 0] != 0)


def test_rows_that_begin_whole_end_as_patches(monkeypatch):
    """A difference of two channels of a convolution is seeded as whole rows; its windows are as small as the others."""
    nodes = (
        Node("x", "Reshape", ("t",), (1, 1, 12, 12), F),
        Node("a", "Conv", ("x", "v", ""), (1, 3, 12, 12), F, CONV),
        Node("r", "Relu", ("a",), (1, 3, 12, 12), F),
        Node("b", "Conv", ("r", "w", ""), (1, 2, 12, 12), F, CONV),
        *(Node(f"s{k}", "Gather", ("b",), (1, 12, 12), F, {"axis": 1, "indices": np.array(k)}) for k in (0, 1)),
        Node("d", "Sub", ("s0", "s1"), (1, 12, 12), F),
        Node("e", "Relu", ("d",), (1, 12, 12), F),
        Node("y", "Reshape", ("e",), (144,), F),
    )
    rng = np.random.default_rng(0)
    weights = {"v": rng.normal(size=(3, 1, 3, 3)).astype(F), "w": rng.normal(size=(2, 3, 3, 3)).astype(F)}
    net = Network((Tensor("t", (144,), F),), nodes, weights, (Tensor("y", (144,), F),), 17)
    METHODS.load()
    program = Program(net, torch.float64, "cpu")
    l = torch.from_numpy(rng.normal(size=(1, 144)))
    trace = trace_values(program, l, l + 0.3, 1 << 26, by_crown)
    value = program.steps[-2].inputs[0]
    met = []
    original = patches.narrowed
    monkeypatch.setattr(entries, "narrowed", lambda *a: met.append(original(*a)) or met[-1])
    found = bound_entries(trace, value, torch.arange(144), 1 << 24)
    assert met and all(p is not None and p.window == (1, 1) for p in met)
    monkeypatch.setattr(entries, "narrowed", lambda *a: None)
    for a, b in zip(found, bound_entries(trace, value, torch.arange(144), 1 << 24)):
        assert torch.allclose(a, b, rtol=1e-9, atol=1e-9)


def test_what_time_does_not_allow_keeps_its_interval(monkeypatch):
    monkeypatch.setattr(entries, "gains", lambda *a: True)
    image = next(i for i in (Image(s, "Relu") for s in range(20)) if i.nodes[-2].shape[1] * i.m > 300)
    trace = traced(image, torch.float64, 0.05, lambda *a: None)
    value = max(relu_inputs(trace), key=lambda v: trace.boxes[v][0].numel() * (v > 2))
    index = torch.arange(trace.boxes[value][0].numel())
    low, high = bound_entries(trace, value, index, 1, seconds=0.0)
    tried = entries.FIRST_BLOCK + torch.get_num_threads()
    assert len(index) > tried and trace.left_out[value] == len(index) - tried
    assert int(torch.isfinite(low).sum()) == int(torch.isfinite(high).sum()) == tried


def test_where_nothing_is_gained_the_rest_is_left(monkeypatch):
    """Rows over an input's image can be no better than its interval."""
    image = next(i for i in (Image(s, "Relu") for s in range(20)) if i.nodes[1].kind == "Conv")
    trace = traced(image, torch.float64, 0.05, lambda *a: None)
    value = relu_inputs(trace)[0]
    monkeypatch.setattr(entries, "FIRST_BLOCK", 4)
    index = torch.arange(trace.boxes[value][0].numel())
    low, _ = bound_entries(trace, value, index, 1 << 24)
    assert trace.left_out[value] == len(index) - 4 and not torch.isfinite(low[4:]).any()


def convolution(c_out: int, c_in: int, dtype: torch.dtype, strides=(1, 1), dilations=(1, 1), kernel=(3, 3)) -> Conv:
    """One with positive weights of many sizes, whose sums are off by as much as sums of so many terms may be."""
    weight = np.exp(np.random.default_rng(0).normal(size=(c_out, c_in, *kernel))).astype(F)
    size = [(14 - d * (k - 1) - 1) // t + 1 for t, d, k in zip(strides, dilations, kernel)]
    attrs = {"strides": strides, "dilations": dilations, "pads": (0, 0, 0, 0), "group": 1}
    node = Node("y", "Conv", ("t", "w", ""), (1, c_out, *size), F, attrs)
    end = (Tensor("y", node.shape, F),)
    net = Network((Tensor("t", (1, c_in, 14, 14), F),), (node,), {"w": weight}, end, 17)
    return Program(net, dtype, "cpu").steps[1].op


@pytest.mark.parametrize("strides", ((1, 1), (2, 1)))
@pytest.mark.parametrize("dilations", ((1, 1), (1, 2)))
@pytest.mark.parametrize("kernel", ((3, 3), (1, 2)))
def test_taps_make_a_transposed_convolution(strides, dilations, kernel):
    op = convolution(5, 17, torch.float64, strides, dilations, kernel)
    data = torch.from_numpy(np.random.default_rng(1).normal(size=(6, 5, 4, 3)))
    whole = torch.nn.functional.conv_transpose2d(data, op.weight, None, strides, 0, 0, 1, dilations)
    assert patches.by_taps(op) and torch.allclose(patches.tap_by_tap(op, data), whole, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("channels", (16, 128, 700))
def test_taps_round_no_more_than_is_charged(channels):
    op, exact = (convolution(channels, 16, dtype) for dtype in (torch.float32, torch.float64))
    data = torch.from_numpy(np.random.default_rng(1).uniform(0.5, 1.0, (8, channels, 3, 3)).astype(F))
    found, true = patches.tap_by_tap(op, data).double(), patches.tap_by_tap(exact, data.double())
    assert bool(((found - true).abs() <= gamma(patches.terms_of(op), torch.float32) * true).all())
    assert patches.terms_of(op) < op.terms[1] / 4  # that is why


def test_taps_that_are_added_up_in_another_order_are_charged_as_before():
    op = convolution(8, 8, torch.float32)  # too few channels
    assert not patches.by_taps(op) and patches.terms_of(op) == op.terms[1]


@pytest.mark.parametrize("strides", ((1, 1), (2, 2)))
def test_rows_begin_as_weights(strides):
    """What a pass begins with is what the first step would make of unit rows."""
    op = convolution(5, 3, torch.float64, strides)
    index = torch.randperm(int(np.prod(op.out_shape)), generator=torch.Generator().manual_seed(0))[:20]
    index = index[torch.argsort(index % int(np.prod(op.out_shape[2:])), stable=True)]
    unit = patches.unit_patch(index, op.out_shape, op.weight)
    begun = patches.begun(op, index)
    assert torch.equal(begun.whole((1, 3, 14, 14)), patches.convolved(op, unit).whole((1, 3, 14, 14)))
