"""Only what the asked rows depend on is bounded well."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from test_entries import Image

from verifier.bounds import METHODS
from verifier.bounds.crown import crown_trace
from verifier.bounds.final import final_rows
from verifier.bounds.influence import influence
from verifier.bounds.program import Program
from verifier.bounds.trace import loose_entries
from verifier.net.graph import Network, Node, Tensor

F = np.dtype(np.float32)


def few_rows(program: Program, seed: int) -> torch.Tensor:
    """Rows (1, 2, p) over two neighbouring entries of the output."""
    p = program.shapes[program.output][0]
    at = int(np.random.default_rng(seed).integers(max(1, p - 1)))
    rows = torch.zeros((1, 2, p), dtype=program.dtype)
    rows[0, 0, at], rows[0, 1, min(at + 1, p - 1)] = 1.0, -1.0
    return rows


def box(image: Image, dtype: torch.dtype, width: float = 0.05) -> tuple[torch.Tensor, torch.Tensor]:
    centre = torch.from_numpy(np.random.default_rng(0).normal(size=(1, image.m))).to(dtype)
    return centre - width, centre + width


@pytest.mark.parametrize("seed", range(12))
def test_entries_outside_have_no_influence(seed):
    """Changing every entry of a value that is said not to count changes no row."""
    METHODS.load()
    image = Image(seed, "Relu")
    program = image.program(torch.float64)
    rows = few_rows(program, seed)
    masks = influence(program, rows)
    values = [box(image, torch.float64)[0]]
    for k in range(1, len(program.steps)):
        values.append(program.steps[k].op.forward(*(values[i] for i in program.steps[k].inputs)))
    right = rows[0] @ values[-1][0]
    for k, mask in masks.items():
        changed = list(values)
        noise = torch.from_numpy(np.random.default_rng(k).normal(size=values[k].shape))
        changed[k] = torch.where(mask.view(values[k].shape), values[k], values[k] + noise)
        for j in range(k + 1, len(program.steps)):
            changed[j] = program.steps[j].op.forward(*(changed[i] for i in program.steps[j].inputs))
            if j in masks:  # what bypasses the value is as it was
                changed[j] = torch.where(masks[j].view(changed[j].shape), changed[j], values[j])
        assert torch.allclose(rows[0] @ changed[-1][0], right, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("seed", range(12))
def test_rows_are_bounded_as_well_as_with_everything_bounded(seed):
    METHODS.load()
    image = Image(seed, "Relu")
    program = image.program(torch.float64)
    l, u = box(image, torch.float64)
    rows = few_rows(program, seed)
    some = final_rows(crown_trace(program, l, u, 1 << 26, None, rows), rows, 1 << 26)
    every = final_rows(crown_trace(program, l, u, 1 << 26), rows, 1 << 26)
    assert torch.allclose(some.lb, every.lb, rtol=1e-9, atol=1e-9)


def test_less_is_bounded_for_a_row_over_one_entry():
    METHODS.load()
    seen = 0
    for seed in range(12):
        image = Image(seed, "Relu")
        program = image.program(torch.float64)
        rows = torch.zeros((1, 1, program.shapes[program.output][0]), dtype=torch.float64)
        rows[0, 0, rows.shape[2] // 2] = 1.0
        masks = influence(program, rows)
        trace = crown_trace(program, *box(image, torch.float64, 0.5), 1 << 26, None, rows)
        for value in {s.inputs[0] for s in program.steps[1:] if s.node.kind == "Relu"} & set(masks):
            assert not bool((loose_entries(trace, value).reshape(-1) & ~masks[value]).any())
            seen += 0 < int(masks[value].sum()) < masks[value].numel()
    assert seen > 10


def test_a_joint_step_counts_as_a_whole():
    """Of two factors every entry counts as soon as one of the product does; of a matrix only the columns asked for."""
    weight = np.eye(4, dtype=F)
    nodes = (
        Node("a", "Linear", ("t", "w", ""), (4,), F),
        Node("b", "Relu", ("a",), (4,), F),
        Node("c", "Mul", ("a", "b"), (4,), F),
    )
    net = Network((Tensor("t", (4,), F),), nodes, {"w": weight}, (Tensor("c", (4,), F),), 17)
    METHODS.load()
    program = Program(net, torch.float64, "cpu")
    rows = torch.tensor([[1.0, 0.0, 0.0, 0.0]], dtype=torch.float64)
    masks = influence(program, rows)
    assert set(masks) == {3} and masks[3].tolist() == [True, False, False, False]
    assert not influence(program, torch.ones((1, 4), dtype=torch.float64))


def test_values_that_are_places_of_the_input():
    image = Image(0, "Relu")
    program = image.program(torch.float64)
    kinds = [None] + [s.node.kind for s in program.steps[1:]]
    first = kinds.index("Conv")
    assert all(program.distinct[:first]) and not any(program.distinct[first:])


def test_a_move_that_repeats_entries_has_none_of_its_own():
    nodes = (Node("a", "Gather", ("t",), (3,), F, {"axis": 0, "indices": np.array([0, 1, 1])}),)
    net = Network((Tensor("t", (2,), F),), nodes, {}, (Tensor("a", (3,), F),), 17)
    assert Program(net, torch.float64, "cpu").distinct == [True, False]
