"""Products and convolutions of the size that networks have, on every device at hand: no worse than `terms` says.

Inputs mix magnitudes, one entry in twenty being a million times larger, and errors are measured entry by entry.
Algorithms that trade products for sums of inputs (Winograd's) spread the error of a large entry to neighbours that do
not see it, and fail here.
"""

from __future__ import annotations

import numpy as np
import pytest
import torch

from verifier.ops import OPS, arithmetic
from verifier.ops.base import Site, gamma

OPS.load()
DEVICES = ["cpu", pytest.param("cuda", marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA"))]


def normal(*shape):
    return np.random.default_rng(list(shape)).normal(size=shape).astype(np.float32)


def stand(kind, constants, shapes, shape, dtype, device, **attrs):
    fixed = (None, *constants)
    return OPS[kind](Site(kind, "here", attrs, fixed, shapes, shape, 17, dtype, torch.device(device)))


def convolution(dtype, device, c_in, c_out, n, k):
    attrs = {"strides": (1, 1), "dilations": (1, 1), "pads": (k // 2,) * 4, "group": 1}
    w, b = normal(c_out, c_in, k, k), normal(c_out)
    shapes = ((1, c_in, n, n), w.shape, b.shape)
    return stand("Conv", (w, b), shapes, (1, c_out, n, n), dtype, device, **attrs)


def dense(dtype, device, n, m):
    w, b = normal(n, m), normal(m)
    return stand("Linear", (w, b), ((n,), w.shape, b.shape), (m,), dtype, device)


def uneven(shape, device):
    """Normal numbers, one in twenty a million times larger."""
    g = torch.Generator().manual_seed(1)
    x = torch.randn(shape, generator=g)
    return (x * torch.where(torch.rand(shape, generator=g) < 0.05, 1e6, 1.0)).to(device)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize(
    "make, sizes",
    [
        (dense, (512, 512)),
        (convolution, (3, 16, 32, 3)),
        (convolution, (16, 16, 16, 3)),
        (convolution, (64, 64, 16, 3)),
        (convolution, (16, 32, 8, 5)),
    ],
)
@pytest.mark.parametrize("batch", [1, 32])
def test_errors_stay_within_gamma(make, sizes, batch, device):
    narrow, wide = make(torch.float32, device, *sizes), make(torch.float64, device, *sizes)
    x, a = uneven((batch, *narrow.in_shapes[0]), device), uneven((batch, *narrow.out_shape), device)
    size = wide.absolute(x.double().abs()) + wide.offset().abs()
    allowed = gamma(narrow.terms[0], torch.float32) * size
    assert bool(((narrow.forward(x).double() - wide.forward(x.double())).abs() <= allowed).all())
    # The adjoint's magnitude |a| |M| from the same operator with |M| in place of M.
    back, exact = narrow.adjoint(a)[0], wide.adjoint(a.double())[0]
    wide.weight = wide.magnitude
    allowed = gamma(narrow.terms[1], torch.float32) * wide.adjoint(a.double().abs())[0]
    assert bool(((back.double() - exact).abs() <= allowed).all())


def test_constants_that_rewrites_computed_count_as_rounded_in_float64():
    """They are float64 in a float32 model; a file's own constants are exact there."""
    for dtype, more in ((np.float32, 0), (np.float64, arithmetic.DERIVED)):
        weight = np.ones((3, 2), dtype)
        op = stand("Linear", (weight, None), ((3,), (3, 2), None), (2,), torch.float64, "cpu")
        assert op.terms == (3 + more, 2 + more)
