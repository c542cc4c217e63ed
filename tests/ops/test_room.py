"""Decisions that operators take at their site: what is a move, what is affine, what is only run, what is refused."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from verifier.ops import OPS
from verifier.ops.base import Affine, Joint, Move, Opaque, Site, Unsuitable

OPS.load()


def site(kind, shapes, shape, constants=None, dtype=torch.float32, **attrs):
    """A site whose inputs listed in `constants` (slot: value) do not depend on x."""
    constants = constants or {}
    fixed = tuple(constants.get(i) for i in range(len(shapes)))
    return Site(kind, "here", attrs, fixed, tuple(shapes), tuple(shape), 17, dtype, torch.device("cpu"))


def stand(*args, **kwargs):
    where = site(*args, **kwargs)
    return OPS[where.kind](where)


THIRD = np.full(3, 1 / 3)  # float32 cannot hold it
WINDOW = {"strides": (1,) * 4, "dilations": (1,) * 4, "pads": (0,) * 8, "group": 1}


@pytest.mark.parametrize(
    "constant, dtype, moves",
    [
        (THIRD, torch.float32, False),
        (THIRD, torch.float64, True),
        (THIRD.astype(np.float32), torch.float32, True),
        (np.full(3, 0.5), torch.float32, True),
        (np.full(3, 2**24 + 1), torch.float32, False),
    ],
)
def test_a_constant_that_must_be_rounded_makes_a_move_affine(constant, dtype, moves):
    op = stand("Concat", [(3,), (3,)], (6,), {1: constant}, dtype, axis=0)
    assert isinstance(op, Affine) and isinstance(op, Move) == moves and op.terms == ((1, 1) if moves else (2, 1))


@pytest.mark.parametrize(
    "kind, slot, value, of",
    [
        ("Mul", 1, [2.0, 0.5], Affine),
        ("Mul", 1, [2.0, np.inf], Opaque),
        ("Mul", None, None, Joint),
        ("Div", 1, [2.0, 4.0], Affine),
        ("Div", 1, [2.0, 0.0], Opaque),
        ("Div", 0, [2.0, 4.0], Opaque),
        ("Add", None, None, Affine),
        ("MatMul", 1, [2.0, 4.0], Affine),
        ("MatMul", None, None, Joint),
    ],
)
def test_affine_only_where_it_is(kind, slot, value, of):
    constants = {} if slot is None else {slot: np.array(value, np.float32)}
    assert isinstance(stand(kind, [(2,), (2,)], () if kind == "MatMul" else (2,), constants), of)


@pytest.mark.parametrize(
    "where",
    [
        site("Linear", [(3,), (3, 2), None], (2,)),
        site(
            "Conv", [(1, 1, 2, 2, 2, 2), (1, 1, 1, 1, 1, 1), None], (1, 1, 2, 2, 2, 2), {1: np.ones((1,) * 6)}, **WINDOW
        ),
        site("Conv", [(1, 1, 4), (1, 1, 2), None], (1, 1, 3), strides=(1,), dilations=(1,), pads=(0, 0), group=1),
        site("Pad", [(3,)], (5,), pads=(1, 1), mode="circular", value=0.0),
        site("Resize", [(3,)], (6,), mode="cubic", axes=(0,), weights=()),
        site("QuantizeLinear", [(4,), ()], (4,), {1: np.float32(0.1)}, block_size=2),
        site("SliceDynamic", [(4,), (1,), (1,), (1,)], (2,)),
    ],
    ids=lambda where: where.kind,
)
def test_unsuitable_places_are_refused_by_name(where):
    with pytest.raises(Unsuitable, match="here"):
        OPS[where.kind](where)


def test_computed_places_outside_an_axis_go_to_its_end():
    op = stand("GatherDynamic", [(4,), (3,)], (3,), axis=0)
    x = torch.tensor([[1.0, 2.0, 3.0, 4.0]])
    assert op.forward(x, torch.tensor([[-9, 9, -1]])).tolist() == [[1.0, 4.0, 4.0]]


def test_strided_adjoint_counts_only_the_windows_that_cover_an_entry():
    """Kernel 4, stride 2: an entry lies under two windows, so the adjoint sums 2 products per output channel, not 4."""
    attrs = {"strides": (2,), "dilations": (1,), "pads": (0, 0), "group": 1}
    constants = {1: np.ones((5, 3, 4), "f"), 2: np.ones(5, "f")}
    op = stand("Conv", [(1, 3, 8), (5, 3, 4), (5,)], (1, 5, 3), constants, **attrs)
    assert op.terms == (3 * 4 + 1, 5 * 2)


def test_large_batches():
    weight = np.random.default_rng(0).normal(size=(7, 5)).astype(np.float32)
    op = stand("Linear", [(7,), (7, 5), None], (5,), {1: weight})
    a = torch.randn(100_000, 5)
    assert torch.equal(op.adjoint(a)[0], a @ torch.from_numpy(weight).T)
