"""Pooling by norms and normalisation across channels: the same values as ONNX Runtime, and bounds that hold."""

import numpy as np
import pytest
import torch
from tiny import check, model, node

from verifier.bounds import METHODS
from verifier.bounds.program import Program
from verifier.net.load import load_network
from verifier.problem import flatten


def bounds(net, low, high):
    """Interval bounds (p,) of the outputs for all inputs in [low, high]."""
    n = net.n_inputs
    program = Program(flatten(net, np.arange(n), np.zeros(n), np.zeros(0, np.int64)), torch.float64, "cpu")
    rows = torch.cat([torch.eye(net.n_outputs), -torch.eye(net.n_outputs)])[None].double()
    ends = (torch.full((1, n), float(v), dtype=torch.float64) for v in (low, high))
    found = METHODS.load()["interval"].run(program, *ends, rows, 1 << 30).lb[0].numpy()
    return found[: net.n_outputs], -found[net.n_outputs :]


@pytest.mark.parametrize("size, alpha, beta, bias", [(3, 0.1, 0.75, 1.0), (1, 1.0, 0.5, 2.0), (5, 1e-4, 1.3, 0.5)])
def test_lrn(size, alpha, beta, bias):
    m = model(node("LRN", "x", size=size, alpha=alpha, beta=beta, bias=bias), {"x": (2, 4, 3, 2)}, opset=13)
    low, high = bounds(check(m), -1, 1)
    assert (low >= -(bias**-beta) - 1e-6).all() and (high <= bias**-beta + 1e-6).all() and (high > 0.5).all()


@pytest.mark.parametrize("p", [1, 2, 3, 4])
def test_lp_pool(p):
    for attrs in (
        {"kernel_shape": [2, 3], "strides": [2, 1], "pads": [1, 1, 0, 1]},
        {"kernel_shape": [2, 2], "auto_pad": "SAME_LOWER"},
        {"kernel_shape": [2, 2], "dilations": [2, 1], "strides": [2, 2], "ceil_mode": 1},
    ):
        m = model(node("LpPool", "x", p=p, **attrs), {"x": (1, 2, 5, 6)}, opset=18)
        low, high = bounds(check(m), -1, 1)
        assert (low >= -1e-6).all() and (low <= 1e-3).all() and (high <= 6 ** (1 / p) + 1e-6).all()
    low, high = bounds(check(model(node("GlobalLpPool", "x", p=p), {"x": (1, 2, 2, 3)})), 1, 2)
    np.testing.assert_allclose(low, 6 ** (1 / p), rtol=1e-5)
    np.testing.assert_allclose(high, 2 * 6 ** (1 / p), rtol=1e-5)


def test_norms_at_zero_have_bounds():
    """The root of a sum that rounding could push below 0."""
    for op, attrs in (("LpPool", {"kernel_shape": [2]}), ("GlobalLpPool", {})):
        for p in (1, 2, 3):
            net = load_network(model(node(op, "x", p=p, **attrs), {"x": (1, 1, 4)}, opset=18))
            low, high = bounds(net, 0, 0)
            assert np.isfinite(low).all() and (high < 1e-2).all()
