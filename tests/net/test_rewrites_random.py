"""Random graphs, rewritten: all that was asked to be kept is there, and computes in float64 what it did before."""

import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

sys.path.insert(0, str(Path(__file__).parents[1] / "contract"))

import graphs  # noqa: E402

from verifier.bounds.program import Program  # noqa: E402
from verifier.net.draft import Draft  # noqa: E402
from verifier.net.graph import Network, Tensor  # noqa: E402
from verifier.net.simplify import settle  # noqa: E402

FUNCTIONS = [
    ("Relu", {}), ("Neg", {}), ("Abs", {}), ("Sigmoid", {}), ("Clip", {"min": -0.5, "max": 0.75}),
    ("Clip", {"min": 0.0, "max": np.inf}), ("LeakyRelu", {"alpha": 0.0}), ("HardSigmoid", {"alpha": 0.2, "beta": 0.5}),
    ("Softplus", {}), ("Tanh", {}), ("Erf", {}),
]  # fmt: skip


def extreme(b) -> None:
    (x, s), (y, t) = b.pick(), b.pick()
    kind = str(b.rng.choice(["Max", "Min"]))
    if all(p == q or 1 in (p, q) for p, q in zip(s, t)) and b.rng.random() < 0.6:
        b.emit(kind, (x, y), np.broadcast_shapes(s, t))
    else:
        b.emit(kind, (x, b.weight(s[2])), s)


def window(b) -> None:
    x, (_, c, n) = b.pick()
    attrs = {"kernel_shape": (2,), "strides": (1,), "dilations": (1,), "pads": (1, 0), "ceil_mode": 0}
    b.emit("MaxPool", (x,), (1, c, n), **attrs)


def product(b) -> None:
    (x, s), (y, t) = b.pick(), b.pick()
    if all(p == q or 1 in (p, q) for p, q in zip(s, t)):
        b.emit(str(b.rng.choice(["Mul", "Add"])), (x, y), np.broadcast_shapes(s, t))


def again(b) -> None:
    """The last node once more, under another name."""
    b.nodes.append(replace(b.nodes[-1], name=f"v{len(b.nodes)}"))
    b.values.append((b.nodes[-1].name, b.nodes[-1].shape))


def rewritten(network: Network, keep: tuple[str, ...]) -> Network:
    tensors = [*network.inputs, *network.nodes]
    values = dict(network.constants)
    shapes = {t.name: t.shape for t in tensors} | {k: v.shape for k, v in values.items()}
    dtypes = {t.name: t.dtype for t in tensors} | {k: v.dtype for k, v in values.items()}
    draft = Draft(shapes, dtypes, values, network.opset)
    draft.nodes = list(network.nodes)
    settle(draft, frozenset((network.outputs[0].name, *keep)), rewrite=True)
    assert set(keep) <= {n.name for n in draft.nodes}
    return replace(network, nodes=tuple(draft.nodes), constants=draft.values)


def value(network: Network, name: str, x: torch.Tensor) -> np.ndarray:
    """A node's tensor (5, *shape), by what comes before it."""
    last = next(k for k, n in enumerate(network.nodes) if n.name == name)
    out = Tensor(name, network.nodes[last].shape, network.nodes[last].dtype)
    cut = replace(network, nodes=network.nodes[: last + 1], outputs=(out,))
    return Program(cut, torch.float64, "cpu").forward(x).numpy()


@settings(max_examples=150, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow])
@given(seed=st.integers(0, 2**31))
def test_random_graphs_compute_the_same(seed):
    before = graphs.STEPS
    graphs.STEPS = (*before, extreme, window, product, again, *before[:9])
    try:
        network = graphs.build(seed, FUNCTIONS)
    finally:
        graphs.STEPS = before
    rng = np.random.default_rng(seed)
    kept = str(rng.choice([n.name for n in network.nodes]))
    new = rewritten(network, (kept,))
    x = torch.from_numpy(rng.normal(size=(5, network.inputs[0].size)) * 2)
    for name in (network.outputs[0].name, kept):
        y, z = (np.asarray(value(n, name, x), np.float64) for n in (network, new))  # truth values are numbers here
        assert np.abs(y - z).max(initial=0) <= 1e-11 * (1 + np.abs(y).max(initial=0)), [n.kind for n in network.nodes]
