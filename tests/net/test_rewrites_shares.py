"""The overlap of two boxes in their union becomes a Share, and only where that is proved and harmless."""

import numpy as np
import pytest
import torch
from tiny import check, kinds, model, node

from verifier.bounds import METHODS
from verifier.bounds.program import Program
from verifier.problem import flatten

ENDS = ("x1", "y1", "x2", "y2")
BOXES = [node("Split", "p", " ".join(f"{e}p" for e in ENDS)), node("Split", "q", " ".join(f"{e}q" for e in ENDS))]


def overlap(area="x1p x2p y1p y2p", union=("+", "+", "-"), extremes=("Min", "Max"), after=None):
    """Intersection over union of boxes p and q, with changes: the ends that make p's area, the signs of both areas and
    of the intersection in the union, which extremes are taken, and an operator behind."""
    a, b, c, d = area.split()
    least, most = extremes
    nodes = [*BOXES]
    for k in "xy":
        nodes += [node(least, f"{k}2p {k}2q", f"{k}2"), node(most, f"{k}1p {k}1q", f"{k}1")]
        nodes += [node("Sub", f"{k}2 {k}1", f"{k}d"), node("Clip", f"{k}d zero", f"{k}r")]
        nodes += [node("Sub", f"{k}2q {k}1q", f"{k}q")]
    nodes += [node("Mul", "xr yr", "i"), node("Mul", "yq xq", "aq")]
    nodes += [node("Sub", f"{b} {a}", "w"), node("Sub", f"{d} {c}", "h"), node("Mul", "w h", "ap")]
    nodes += [
        node("Add" if union[0] == "+" else "Sub", "e ap", "s"),
        node("Add" if union[1] == "+" else "Sub", "s aq", "t"),
    ]
    nodes += [node("Add" if union[2] == "+" else "Sub", "t i", "u"), node("Div", "i u", "v" if after else "y")]
    nodes += [node(after, "v")] if after else []
    shapes = {"p": (4, 3), "q": (4, 3)}
    return model(nodes, shapes, zero=np.float32(0), e=np.float32(1e-16))


def test_intersection_over_union():
    net = check(overlap())
    assert kinds(net)[-1] == "Share" and "Reciprocal" not in kinds(net)
    assert "Share" in kinds(check(overlap(after="Neg")))
    assert "Share" in kinds(check(overlap(union=("+", "+", "+"))))


@pytest.mark.parametrize(
    "changes",
    [
        {"area": "x1p x2p y2p y1p"},  # not an area
        {"area": "x1p x2p x1p x2p"},  # not of both axes
        {"union": ("-", "+", "-")},
        {"extremes": ("Max", "Max")},
        {"extremes": ("Min", "Min")},
        {"after": "Relu"},  # what has no value might become a number
        {"after": "Sign"},
    ],
    ids=str,
)
def test_what_is_not_proved_stays(changes):
    assert "Share" not in kinds(check(overlap(**changes), tolerance=1e-3))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("method", ["interval", "crown", "forward"])
def test_bounds_are_finite_where_the_union_may_vanish(method, dtype):
    """On a box of 24 dimensions over which sides have either sign; and close on a small one."""
    from verifier.net.load import load_network

    METHODS.load()
    net = load_network(overlap())
    base = np.tile(np.array([[0.0], [0.0], [1.0], [1.0]]), (1, 3)).ravel()
    program = Program(flatten(net, np.arange(24), np.tile(base, 2), np.zeros(0, np.int64)), dtype, "cpu")
    centre = torch.from_numpy(np.concatenate([base, base + 0.25]))
    rows = torch.eye(3, dtype=dtype).repeat(2, 1)[None]
    rows[0, 3:] *= -1
    for radius, widest in ((5.0, 1.00001), (0.01, 0.08)):
        l, u = ((centre + s * radius).to(dtype)[None] for s in (-1, 1))
        x = l.double() + (u - l).double() * torch.rand((2000, 24), generator=torch.Generator().manual_seed(0))
        y = program.forward(x.to(dtype)).double()
        low = METHODS[method].run(program, l, u, rows, 1 << 24).lb[0].double()
        assert (y >= low[:3] - 1e-6).all() and (y <= -low[3:] + 1e-6).all()
        assert (-(low[:3] + low[3:]) <= widest + (0.12 if method == "interval" and radius < 1 else 0)).all()
