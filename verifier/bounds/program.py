"""A network bound to operators: the straight-line program that every bounding method and attack walks over.

Value 0 is the flat input t (m,); value k > 0 is the result of step k; the last value is the flat output (p,). Binding
rounds each constant once to the working precision. A program holds no bounds and never changes (what
is derived from it alone is kept with it).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property
from math import ceil

import numpy as np
import torch
from torch import Tensor

from verifier.net.graph import Network, Node
from verifier.ops import OPS
from verifier.ops.base import Affine, Joint, Move, Nonlinear, Operator, Site, Unsuitable, gamma, size
from verifier.ops.integers import Whole, exactly, guided, is_integer, settled
from verifier.ops.products import Product
from verifier.result import UnsupportedError

BLOCK = (
    64  # length of the pieces in which long sums are formed in the working precision; the pieces are added in float64
)


@dataclass(frozen=True)
class Step:
    """One operator and the values it reads (only those that depend on the input, in the operator's order); `run` is its
    forward on values as the model has them, `guide` the same in floats (`verifier.ops.integers`).
    """

    node: Node
    op: Operator
    inputs: tuple[int, ...]
    run: Callable[..., Tensor]
    guide: Callable[..., Tensor]


class Program:
    """`network` must have one flat input and one flat output (see `verifier.problem`). Raises UnsupportedError for
    what cannot be bound.
    """

    def __init__(self, network: Network, dtype: torch.dtype, device: torch.device | str):
        OPS.load()
        self.network, self.dtype, self.device = network, dtype, torch.device(device)
        place = {network.inputs[0].name: 0}
        self.steps: list[Step | None] = [None]
        missing, reasons = [], []
        for node in network.nodes:
            site = self._site(node, place)
            try:
                if node.kind not in OPS:
                    raise Unsuitable("no such operator")
                op = OPS[node.kind](site)
                if any(e is not None for e in site.errors) and getattr(type(op), "doubt", None) in (None, Affine.doubt):
                    raise Unsuitable("a constant in whose computation too much cancelled")
                op = settled(op)
                self._append(node, op, tuple(place[n] for n in node.inputs if n in place))
            except Unsuitable as why:
                missing.append((node.origin or node.name, node.kind, network.opset, node.shape))
                reasons.append(str(why))
                self.steps.append(Step(node, None, (), None, None))
            place[node.name] = len(self.steps) - 1
        if missing:
            raise UnsupportedError(network.source, missing, reasons)
        self.output = place[network.outputs[0].name]
        self.influences: dict[bytes, dict[int, Tensor]] = {}  # kept by `verifier.bounds.influence`
        self.shapes = [network.inputs[0].shape] + [s.node.shape for s in self.steps[1:]]

    def _append(self, node: Node, op: Operator, inputs: tuple[int, ...]) -> None:
        """Adds a step, and one behind it where integers may leave their type."""
        self.steps.append(Step(node, op, inputs, exactly(op), guided(op)))
        if op.integers in ("wrap", "near") and is_integer(node.dtype):
            attrs = {"to": node.dtype.name, "near": int(op.integers == "near")}
            behind = replace(node, name=f"{node.name}//whole", kind="Cast", inputs=(node.name,), attrs=attrs)
            whole = Whole(self._site(behind, {node.name: len(self.steps) - 1}))
            self.steps.append(Step(behind, whole, (len(self.steps) - 1,), exactly(whole), guided(whole)))

    def _site(self, node: Node, place: dict[str, int]) -> Site:
        """The node's surroundings; an input that is neither variable nor constant is absent."""
        constants, shapes, dtypes = [], [], []
        for name in node.inputs:
            value = None if name in place or not name else self.network.constants[name]
            constants.append(value)
            if name in place:
                source = self.steps[place[name]].node if place[name] else self.network.inputs[0]
                shapes.append(source.shape)
                dtypes.append(source.dtype)
            else:
                shapes.append(None if value is None else tuple(np.shape(value)))
                dtypes.append(None if value is None else value.dtype)
        return Site(
            node.kind,
            node.origin or node.name,
            node.attrs,
            tuple(constants),
            tuple(shapes),
            node.shape,
            self.network.opset,
            self.dtype,
            self.device,
            node.dtype,
            tuple(self.network.errors.get(name) for name in node.inputs),
            tuple(dtypes),
        )

    @property
    def n_in(self) -> int:
        return size(self.network.inputs[0].shape)

    def forward(self, x: Tensor, guided: bool = False) -> Tensor:
        """(N, m) to (N, p), through the operators' own forward; differentiable where they are. `guided`: with gradients
        that lead somewhere even where there are jumps (`Operator.guide`), the same values up to rounding.
        """
        values: list[Tensor | None] = [x] + [None] * (len(self.steps) - 1)
        last_use = self.last_use
        for k in range(1, len(self.steps)):
            step = self.steps[k]
            run = step.guide if guided else step.run
            values[k] = run(*(values[i] for i in step.inputs))
            for i in step.inputs:
                if last_use[i] == k:
                    values[i] = None  # free what nobody reads any more
        return values[self.output]

    @cached_property
    def last_use(self) -> list[int]:
        last = [0] * len(self.steps)
        for k in range(1, len(self.steps)):
            for i in self.steps[k].inputs:
                last[i] = k
        return last

    @cached_property
    def reads(self) -> list[int]:
        """How often each value is read; a step that reads one twice counts twice."""
        counts = [0] * len(self.steps)
        for step in self.steps[1:]:
            for i in step.inputs:
                counts[i] += 1
        return counts

    @cached_property
    def consumers(self) -> list[list[int]]:
        """For every value the steps that read it."""
        readers: list[list[int]] = [[] for _ in self.steps]
        for k in range(1, len(self.steps)):
            for i in set(self.steps[k].inputs):
                readers[i].append(k)
        return readers

    @cached_property
    def products(self) -> list[int]:
        """The steps that are products of two variables, entry by entry."""
        return [k for k, s in enumerate(self.steps) if k and isinstance(s.op, Product)]

    @cached_property
    def factors(self) -> list[int]:
        """The values that `products` read, each once."""
        return sorted({i for k in self.products for i in self.steps[k].inputs})

    @cached_property
    def most_reads(self) -> int:
        """How many rows a backward pass adds up at one value at most."""
        return max(self.reads)

    def product_error(self, terms: int) -> float:
        """What an entry of a row may be off by after one step whose entries sum `terms` products, relative to the sum
        of their absolute values: the sum itself, a product with a line's slope and a rounded constant, and the
        addition to other rows over the same value. Rounded up by enough for the charge's own arithmetic.
        """
        return 1.01 * gamma(terms + 4 + self.most_reads, self.dtype)

    @cached_property
    def sum_error(self) -> float:
        """The same for a bias: sums over whole values, formed in blocks of `BLOCK`, added up step by step.

        A sum is at most two sums deep (over a channel, over channels), each rounded once more to the working precision.
        The blocks are added in float64, whose roundings are that much smaller than those of the working precision.
        """
        finer = torch.finfo(torch.float64).eps / torch.finfo(self.dtype).eps
        blocks = max(size(s) for s in self.shapes) // BLOCK + 1
        longest = 2 * BLOCK + 8 + ceil(2 * blocks * finer)
        steps = sum(2 + len(s.inputs) for s in self.steps[1:])
        return 1.01 * gamma(longest + 2 * steps + 8, self.dtype)

    @cached_property
    def distinct(self) -> list[bool]:
        """Values whose entries are functions of one input coordinate each, no two of the same: then the least value of
        a row over the value's box is the least over the input's box.
        """
        found = [True] + [False] * (len(self.steps) - 1)
        for k in range(1, len(self.steps)):
            step = self.steps[k]
            if len(step.inputs) == 1 and found[step.inputs[0]]:
                moves = isinstance(step.op, Move) and step.op.terms[1] == 1
                same = self.shapes[k] == self.shapes[step.inputs[0]]
                found[k] = moves or (isinstance(step.op, Affine) and step.op.entrywise and same)
        return found

    def without_bounds(self) -> list[Step]:
        """The steps whose operator can only be run forward."""
        return [s for s in self.steps[1:] if not isinstance(s.op, (Affine, Nonlinear))]

    @cached_property
    def exact(self) -> list[bool]:
        """Values whose interval is already the best box: reached from the input by entry-wise maps and at most one
        that mixes entries.

        True only spares work: elsewhere a backward pass may tighten the interval.
        """
        plain = [True] + [False] * (len(self.steps) - 1)  # every entry still depends on one coordinate alone
        exact = list(plain)
        for k in range(1, len(self.steps)):
            step = self.steps[k]
            sources = [plain[i] for i in step.inputs]
            if isinstance(step.op, Move):
                plain[k] = all(sources)
                exact[k] = all(exact[i] for i in step.inputs)
            elif isinstance(step.op, Affine) and len(step.inputs) == 1 and step.op.entrywise:
                plain[k], exact[k] = sources[0], exact[step.inputs[0]]
            else:
                exact[k] = isinstance(step.op, Affine) and len(step.inputs) == 1 and sources[0]
                # A function of one number keeps an entry's dependence on a single coordinate.
                if isinstance(step.op, Nonlinear) and not isinstance(step.op, Joint):
                    plain[k] = exact[k] = sources[0]
        return exact
