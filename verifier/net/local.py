"""Rewrites of one node in its surroundings: what they see, what they hand back, and the pass that applies them.

A local rewrite gets a node n and returns the nodes to put in its place, the last one under n's name and with n's
shape, or None where it does not apply. Nodes that n read before and nobody reads any more are dropped by
`verifier.net.simplify`; so a rewrite never removes a name that somebody else, or a root, needs.

Rewrites hold in real arithmetic. Constants made from others are float64, each off by a few roundings of itself, which
whoever binds the network counts; where it may be more, it is a `Sure` that says by how much.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from verifier.net.draft import Draft
from verifier.net.graph import Node, Shape
from verifier.net.sure import Sure

MAX_NODES = 20_000  # rewrites that put several nodes in the place of one stop here

Nodes = Sequence[Node]
Local = Callable[[Node, "Around"], "Nodes | None"]


class Around:
    """The graph as the pass finds it: producers by name, how often tensors are read, constants, roots."""

    def __init__(self, g: Draft, roots: frozenset[str]):
        self.g, self.roots = g, roots
        self.by_name = {n.name: n for n in g.nodes}
        self.count = Counter(i for n in g.nodes for i in n.inputs)

    @property
    def room(self) -> bool:
        """Whether the graph may still grow."""
        return len(self.by_name) < MAX_NODES

    def producer(self, name: str, *kinds: str) -> Node | None:
        """The node that yields a tensor, if there is one and it is of one of these kinds (any, if none is named)."""
        n = self.by_name.get(name)
        return n if n is not None and (not kinds or n.kind in kinds) else None

    def alone(self, name: str, *kinds: str) -> Node | None:
        """As `producer`, if nobody else reads the tensor and no root is it: then the node vanishes with its reader."""
        return self.producer(name, *kinds) if self.count[name] == 1 and name not in self.roots else None

    def value(self, name: str) -> np.ndarray | None:
        """A constant's value, None for what is not constant, and for constants that are known so badly that what is
        made of them must say so (`sure`)."""
        return None if name in self.g.rough else self.g.values.get(name)

    def sure(self, name: str) -> Sure | None:
        """A constant with what it may be off by, None for what is not constant."""
        return self.g.sure(name)

    def shape(self, name: str) -> Shape:
        return self.g.shapes[name]

    def uniform(self, name: str) -> float | None:
        """The one number that a constant consists of, None where it is not constant or holds several."""
        value = self.value(name)
        if value is None or value.size == 0:
            return None
        first = value.flat[0]
        return float(first) if value.size == 1 or bool((value == first).all()) else None

    def floats(self, *names: str) -> bool:
        """Whether these tensors hold floating-point numbers."""
        return all(np.dtype(self.g.dtypes[n]).kind == "f" for n in names)

    def constant(self, value: Any, base: str) -> str:
        return self.g.constant(value, base)

    def make(
        self, like: Node, kind: str, inputs: tuple[str, ...], shape: Shape, attrs: Mapping[str, Any] | None = None
    ) -> Node:
        """A new node with a name made after `like`, of its element type."""
        name = self.g.fresh(like.name)
        self.g.shapes[name], self.g.dtypes[name] = tuple(shape), like.dtype
        return Node(name, kind, inputs, tuple(shape), like.dtype, dict(attrs or {}), like.origin)

    def put(self, old: Node, new: Nodes) -> None:
        """Takes note that `new` stands in the place of `old`."""
        self.count.subtract(old.inputs)
        for n in new:
            self.count.update(n.inputs)
            self.by_name[n.name] = n


def become(n: Node, kind: str, inputs: tuple[str, ...], attrs: Mapping[str, Any] | None = None) -> Node:
    """n's tensor, computed in another way."""
    return replace(n, kind=kind, inputs=inputs, attrs=dict(attrs or {}))


def renamed(new: list[Node], n: Node) -> list[Node]:
    """The nodes, the last one under n's name."""
    return [*new[:-1], replace(new[-1], name=n.name)]


def apply_local(g: Draft, roots: frozenset[str], rules: Mapping[str, Sequence[Local]]) -> bool:
    """One pass over the nodes, each kind with its own rewrites; the first that applies wins."""
    if not any(n.kind in rules for n in g.nodes):
        return False
    around, nodes, changed = Around(g, roots), [], False
    for n in g.nodes:
        new = next((new for rule in rules.get(n.kind, ()) if (new := rule(n, around)) is not None), None)
        if new is None:
            nodes.append(n)
            continue
        assert new[-1].name == n.name and new[-1].shape == n.shape
        around.put(n, new)
        nodes += new
        changed = True
    g.nodes = nodes
    return changed
