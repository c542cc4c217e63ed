"""Convolutions with windows that lie in the pads alone."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from verifier.bounds.program import Program
from verifier.net.graph import Network, Node, Tensor

F = np.dtype(np.float32)


@pytest.mark.parametrize("size, kernel, stride, pad", ((1, 1, 3, 2), (2, 2, 5, 3), (2, 1, 3, 2)))
def test_a_window_beyond_the_image_sees_zeros(size, kernel, stride, pad):
    """More than the image is cropped at the end where only the first pads are read."""
    out = (size + pad - kernel) // stride + 1
    attrs = {"strides": (stride,) * 2, "dilations": (1, 1), "pads": (pad, pad, 0, 0), "group": 1}
    rng = np.random.default_rng(0)
    weight, bias = rng.normal(size=(2, 1, kernel, kernel)).astype(F), rng.normal(size=2).astype(F)
    node = Node("y", "Conv", ("t", "w", "b"), (1, 2, out, out), F, attrs)
    ends = (Tensor("t", (1, 1, size, size), F),), (Tensor("y", node.shape, F),)
    op = Program(Network(ends[0], (node,), {"w": weight, "b": bias}, ends[1], 17), torch.float64, "cpu").steps[1].op
    x, a = (torch.from_numpy(rng.normal(size=(3, *shape))) for shape in ((1, 1, size, size), node.shape))
    y = op.forward(x)
    padded = torch.nn.functional.pad(x[:, 0], (pad, 0, pad, 0))
    right = torch.nn.functional.conv2d(padded, torch.from_numpy(weight).double(), stride=stride)
    right = right + torch.from_numpy(bias).double()[:, None, None]
    assert torch.allclose(y[:, 0], right)
    pulled, offset = op.adjoint(a)[0], op.offset()
    assert torch.allclose((a * (y - offset)).flatten(1).sum(1), (pulled * x).flatten(1).sum(1))
