"""Networks cut down to what a window of one of their images depends on."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from verifier.bounds.program import Program
from verifier.net import window
from verifier.net.graph import Network, Node, Tensor
from verifier.net.window import Small, cut_down
from verifier.result import UnsupportedError

F = np.dtype(np.float32)


def random_network(seed: int) -> Network:
    """Convolutions with all sorts of strides, dilations and pads, functions of one number, sums, scaling by channel."""
    rng = np.random.default_rng(seed)
    c, h, w = int(rng.integers(1, 3)), int(rng.integers(9, 14)), int(rng.integers(9, 14))
    constants: dict[str, np.ndarray] = {}
    nodes = [Node("x", "Reshape", ("t",), (1, c, h, w), F)]

    def constant(*shape: int) -> str:
        constants[f"c{len(constants)}"] = rng.normal(size=shape).astype(F) / max(1, np.prod(shape[1:])) ** 0.5
        return f"c{len(constants) - 1}"

    def emit(kind: str, inputs: tuple[str, ...], shape: tuple[int, ...], **attrs) -> None:
        nodes.append(Node(f"v{len(nodes)}", kind, inputs, shape, F, attrs))

    def conv(out: int, kernel: tuple[int, int], strides, dilations, pads) -> None:
        name, (_, channels, *ends) = nodes[-1].name, nodes[-1].shape
        size = [
            (n + pads[i] + pads[i + 2] - dilations[i] * (kernel[i] - 1) - 1) // strides[i] + 1
            for i, n in enumerate(ends)
        ]
        attrs = {"strides": strides, "dilations": dilations, "pads": pads, "group": 1}
        inputs = (name, constant(out, channels, *kernel), constant(out))
        emit("Conv", inputs, (1, out, *size), **attrs)

    for _ in range(int(rng.integers(2, 5))):
        kind = int(rng.integers(4))
        _, channels, h, w = nodes[-1].shape
        if min(h, w) < 4:
            break
        if kind == 0:
            skip = nodes[-1]
            conv(channels, (3, 3), (1, 1), (1, 1), (1, 1, 1, 1))
            emit("Relu", (nodes[-1].name,), nodes[-1].shape)
            emit(str(rng.choice(["Add", "Sub"])), (nodes[-1].name, skip.name), skip.shape)
        elif kind == 1:
            emit("BatchNormalization", (nodes[-1].name, constant(channels), constant(channels)), nodes[-1].shape)
        dilation = int(rng.integers(1, 3)) if min(h, w) > 6 else 1
        kernel = int(rng.integers(1, 4)), int(rng.integers(1, 4))
        strides = int(rng.integers(1, 3)), int(rng.integers(1, 3))
        conv(int(rng.integers(1, 4)), kernel, strides, (dilation, 1), tuple(int(p) for p in rng.integers(0, 3, 4)))
        emit(str(rng.choice(["Relu", "Tanh"])), (nodes[-1].name,), nodes[-1].shape)
    top = nodes[-1]
    nodes.append(Node("y", "Reshape", (top.name,), (int(np.prod(top.shape)),), F))
    inputs, outputs = (Tensor("t", (int(np.prod(nodes[0].shape)),), F),), (Tensor("y", nodes[-1].shape, F),)
    return Network(inputs, tuple(nodes), constants, outputs, 17)


def some_window(network: Network, seed: int) -> window.Window:
    rng, (_, _, h, w) = np.random.default_rng(seed), network.nodes[-2].shape
    top, left = int(rng.integers(h)), int(rng.integers(w))
    return top, min(h, top + int(rng.integers(1, 4))), left, min(w, left + int(rng.integers(1, 4)))


def values(network: Network, x: torch.Tensor) -> dict[str, torch.Tensor]:
    """All values of a network, by name."""
    program = Program(network, torch.float64, "cpu")
    found = [x]
    for step in program.steps[1:]:
        found.append(step.op.forward(*(found[i] for i in step.inputs)))
    return {s.node.name: v for s, v in zip(program.steps[1:], found[1:])}


def differs(network: Network, small: Small) -> float:
    """How far the small network's values are from the large one's in their windows."""
    x = torch.from_numpy(np.random.default_rng(1).normal(size=(3, network.n_inputs)))
    large, worst = values(network, x), 0.0
    part = lambda name: large[name][..., slice(*small.windows[name][:2]), slice(*small.windows[name][2:])]
    mine = values(small.network, part(small.bottom).reshape(3, -1))
    for name in small.windows:
        if name in mine:
            assert mine[name].shape == part(name).shape
            worst = max(worst, float((mine[name] - part(name)).abs().max()))
    assert any(name in mine for name in small.windows)
    return worst


@settings(max_examples=60, deadline=None, derandomize=True)
@given(seed=st.integers(0, 2**31))
def test_values_in_the_window_are_the_large_networks(seed):
    network = random_network(seed)
    small = cut_down(network, network.nodes[-2].name, some_window(network, seed))
    if small is not None:  # what reads nothing but a border is left alone
        assert differs(network, small) < 1e-9


def test_most_windows_can_be_cut():
    networks = [random_network(s) for s in range(40)]
    found = [cut_down(n, n.nodes[-2].name, some_window(n, s)) for s, n in enumerate(networks)]
    small = [f for f in found if f is not None]
    assert len(small) > 30
    assert any(f.network.n_inputs < n.n_inputs // 2 for f, n in zip(found, networks) if f is not None)


@pytest.mark.parametrize("wrong", ("shifted", "narrow"))
def test_the_comparison_notices_windows_that_are_off(wrong, monkeypatch):
    reads = window.reads

    def bad(n, network, w):
        top, bottom, left, right = reads(n, network, w)
        return (
            (top + 1, bottom + 1, left, right)
            if wrong == "shifted" and n.kind == "Conv"
            else (top, bottom, left, right)
        )

    if wrong == "shifted":
        monkeypatch.setattr(window, "reads", bad)
    else:  # as if nothing were padded at the border: zeros in place of what is there
        monkeypatch.setattr(window, "clipped", lambda w, shape: _inner(w, shape))
    noticed = 0
    for seed in range(20):
        network = random_network(seed)
        try:
            small = cut_down(network, network.nodes[-2].name, some_window(network, seed))
            noticed += small is not None and differs(network, small) > 1e-6
        except (RuntimeError, AssertionError, IndexError, UnsupportedError):
            noticed += 1
    assert noticed > 5


def _inner(w, shape):
    top, bottom, left, right = max(0, w[0]), min(shape[2], w[1]), max(0, w[2]), min(shape[3], w[3])
    if bottom - top > 1:
        top += 1  # one row too few, padded with zeros
    return (top, bottom, left, right) if top < bottom and left < right else None


def test_what_mixes_the_whole_image_ends_the_walk():
    """A value that is no function of a window becomes the input; two such values are one too many."""
    plain = {"strides": (1, 1), "dilations": (1, 1), "pads": (1, 1, 1, 1), "group": 1}
    rng = np.random.default_rng(0)
    constants = {"W": rng.normal(size=(72, 72)).astype(F), "w": rng.normal(size=(2, 2, 3, 3)).astype(F)}
    nodes = (
        Node("a", "Linear", ("t", "W", ""), (72,), F),
        Node("x", "Reshape", ("a",), (1, 2, 6, 6), F),
        Node("b", "Conv", ("x", "w", ""), (1, 2, 6, 6), F, plain),
        Node("r", "Relu", ("b",), (1, 2, 6, 6), F),
        Node("y", "Reshape", ("r",), (72,), F),
    )
    network = Network((Tensor("t", (72,), F),), nodes, constants, (Tensor("y", (72,), F),), 17)
    small = cut_down(network, "r", (0, 1, 2, 3))
    assert small.bottom == "x" and small.windows["x"] == (0, 2, 1, 4) and differs(network, small) < 1e-9
    other = Node("z", "Reshape", ("t",), (1, 2, 6, 6), F)
    total = Node("s", "Add", ("b", "z"), (1, 2, 6, 6), F)
    relu = Node("r", "Relu", ("s",), (1, 2, 6, 6), F)
    network = Network(network.inputs, (*nodes[:3], other, total, relu, nodes[4]), constants, network.outputs, 17)
    assert cut_down(network, "r", (0, 1, 2, 3)) is None
