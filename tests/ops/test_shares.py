"""Shares over boxes whose numbers are very small or very large: squares of them leave the numbers there are."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from verifier.ops import OPS
from verifier.ops.base import Site


@pytest.mark.parametrize("dtype", (torch.float32, torch.float64))
@pytest.mark.parametrize("power", (-30, -25, -23, -22, -19, -8, 0, 8, 19, 25, 30))
def test_planes_hold_at_any_scale(power, dtype):
    op = OPS.load()["Share"](Site("Share", "s", {}, (None, None), ((1,), (1,)), (1,), 13, dtype, torch.device("cpu")))
    scale = 10.0**power
    for il, iu, ul, uu in ((1, 1, 1, 9), (0.2, 3, 0.5, 40), (-1, 2, 1, 3), (1, 5, 2, 2)):
        i, u = (tuple(torch.tensor([[e * scale]], dtype=dtype) for e in box) for box in ((il, iu), (ul, uu)))
        planes = op.relax(i, u)
        x, w = np.meshgrid(*(np.linspace(*(float(e) for e in box), 401) for box in (i, u)))
        part = np.maximum(x, 0)
        f = np.where(part > 0, part / np.maximum(np.maximum(part, w), 1e-300), 0)
        low, high = (
            float(c[0]) * x + float(c[1]) * w + float(b)
            for c, b in ((planes.lower, planes.lo_b), (planes.upper, planes.up_b))
        )
        assert (low <= f + 1e-12).all() and (high >= f - 1e-12).all()
