"""Networks with operators of several operands, in the dual passes and their certified bounds.

Largest entries, softmax: their planes on the root's boxes hold in every domain, whatever the multipliers. Products are
split, at any point of their factors. And
functions of one number whose constants differ from entry to entry: nobody may mistake one entry's for another's.
"""

from __future__ import annotations

import numpy as np
import pytest
import torch

from verifier.bounds.certify import Certifier
from verifier.bounds.crown import crown_trace
from verifier.bounds.dual import Settings, optimise
from verifier.bounds.program import Program
from verifier.bounds.relaxation import Multipliers, Relaxation, Splits, Start
from verifier.net.graph import Network, Node, Tensor

F = np.dtype(np.float32)


def network(seed: int, joint: str) -> Network:
    """Two Relu layers, a joint step between their results, and a third layer."""
    rng = np.random.default_rng(seed)
    constants = {
        f"{n}{k}": rng.normal(size=(i, 6) if n == "W" else 6).astype(F) for k, i in enumerate((3, 6, 6)) for n in "Wb"
    }
    nodes = [
        Node("z0", "Linear", ("t", "W0", "b0"), (6,), F),
        Node("h0", "Relu", ("z0",), (6,), F),
        Node("z1", "Linear", ("h0", "W1", "b1"), (6,), F),
        Node("h1", "Relu", ("z1",), (6,), F),
    ]
    if joint == "PRelu":
        constants["s"] = np.array([1.4, -0.7, 0.2, 3.0, 0.0, -1.5], F)  # above 1: the function is not convex there
        nodes[-1:] = [Node("j", joint, ("z1", "s"), (6,), F)]
    elif joint == "Pow":
        constants["p"] = np.array([2, 3, 1, 2, 3, 4], F)
        nodes[-1:] = [Node("j", joint, ("z1", "p"), (6,), F)]
    elif joint == "Softmax":
        nodes.append(Node("j", joint, ("h1",), (6,), F, {"axes": (0,)}))
    else:
        nodes.append(Node("j", joint, ("h0", "h1"), (6,), F))
    nodes += [Node("z2", "Linear", ("j", "W2", "b2"), (6,), F), Node("y", "Relu", ("z2",), (6,), F)]
    return Network((Tensor("t", (3,), F),), tuple(nodes), constants, (Tensor("y", (6,), F),), 17)


def values(net: Network, x: torch.Tensor) -> dict[str, torch.Tensor]:
    """Every node's value in float64, by the program's own forward on the nodes up to it."""
    found = {}
    for k, node in enumerate(net.nodes):
        part = Network(net.inputs, net.nodes[: k + 1], net.constants, (Tensor(node.name, node.shape, F),), 17)
        found[node.name] = Program(part, torch.float64, "cpu").forward(x)
    return found


@pytest.mark.parametrize("dtype", (torch.float32, torch.float64), ids=str)
@pytest.mark.parametrize("joint", ("Mul", "Max", "Softmax", "PRelu", "Pow"))
@pytest.mark.parametrize("seed", range(3))
def test_certified_bounds_lie_below_executions_where_the_splits_hold(seed, joint, dtype):
    net, rng = network(seed, joint), np.random.default_rng(seed)
    program = Program(net, dtype, "cpu")
    centre = torch.from_numpy(rng.normal(size=(1, 3))).to(dtype)
    l, u = centre - 0.4, centre + 0.4
    r = Relaxation(crown_trace(program, l, u, 1 << 26), split=True)
    assert r.width, "nothing is unstable: the example says nothing"
    n = 12
    can = torch.nonzero(r.splittable).squeeze(1)
    column = torch.from_numpy(rng.choice(can.numpy(), (n, 1)))
    column[0] = -1
    sign = torch.from_numpy(rng.choice([-1.0, 1.0], (n, 1))).to(dtype)
    share = torch.from_numpy(rng.random((n, 1))).to(dtype)
    at = column.clamp(min=0)
    splits = Splits(column, sign, torch.where(r.bendable[at], torch.lerp(r.lower[at], r.upper[at], share), 0.0))
    rows = torch.from_numpy(rng.normal(size=(n, 1, 6))).to(dtype)
    start = Start(program.output, rows=rows, const=torch.zeros((n, 1), dtype=dtype))
    slopes = (t.expand(n, -1).clone() for t in (r.alpha, r.upper_slopes))
    m = Multipliers(*slopes, torch.zeros((n, 1), dtype=dtype), torch.ones((n, 1), dtype=dtype))
    found = optimise(r, start, splits, m, Settings(steps=10), target=float("inf")).multipliers
    fine = Program(net, torch.float64, "cpu")
    lb = Certifier(r, fine).bounds(rows.double(), start.const.double(), splits, found)
    assert bool(torch.isfinite(lb).all())
    t = torch.from_numpy(rng.random((4000, 3)))
    x = l.double() + (u.double() - l.double()) * torch.cat([t, t.round()])
    seen = values(net, x)
    tight = 0
    for i in range(n):
        holds = torch.ones(len(x), dtype=torch.bool)
        if int(column[i, 0]) >= 0:
            site = next(s for s in r.readers if s.cut.start <= int(column[i, 0]) < s.cut.stop)
            entry = int(column[i, 0]) - site.cut.start
            entry = entry if site.index is None else int(site.index[entry])
            z = seen[program.steps[site.value].node.name][:, entry]
            holds = (z - float(splits.point[i, 0])) * float(sign[i, 0]) >= 0
        if bool(holds.any()):
            least = float((seen["y"][holds] @ rows[i, 0].double()).min())
            assert float(lb[i]) <= least + 1e-9 * (1 + abs(least))
            tight += float(lb[i]) > least - 10 * (1 + abs(least))
    assert tight  # the bounds are not below everything
