"""Graphs inside nodes (the bodies of If, Loop, Scan, SequenceMap): what they read from around them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import onnx

GRAPHS = (onnx.AttributeProto.GRAPH, onnx.AttributeProto.GRAPHS)


def graphs_in(node: onnx.NodeProto) -> list[onnx.GraphProto]:
    """The graphs that a node holds as attributes."""
    found = [a for a in node.attribute if a.type in GRAPHS]
    return [g for a in found for g in ([a.g] if a.type == onnx.AttributeProto.GRAPH else a.graphs)]


def captured(node: onnx.NodeProto) -> tuple[str, ...]:
    """Names that a node's graphs read and do not define, each once, in the order in which they are met."""
    return tuple(dict.fromkeys(name for graph in graphs_in(node) for name in _free(graph)))


def reads(node: onnx.NodeProto) -> tuple[str, ...]:
    """All names that a node reads: its inputs, and what its graphs capture."""
    return (*node.input, *captured(node))


def read_anywhere(graph: onnx.GraphProto) -> set[str]:
    """All names that a graph, or one inside it, reads or yields."""
    names = {o.name for o in graph.output} | {i for n in graph.node for i in n.input}
    return names.union(*(read_anywhere(inner) for n in graph.node for inner in graphs_in(n)))


def operators_in(graph: onnx.GraphProto) -> set[str]:
    """The operators of a graph and of those inside it."""
    return {n.op_type for n in graph.node}.union(*(operators_in(g) for n in graph.node for g in graphs_in(n)))


def _free(graph: onnx.GraphProto) -> Iterator[str]:
    own = {v.name for v in (*graph.input, *graph.initializer)} | {o for n in graph.node for o in n.output}
    read = [name for n in graph.node for name in reads(n)] + [o.name for o in graph.output]
    yield from (name for name in read if name and name not in own)


def rename_captured(node: onnx.NodeProto, names: Mapping[str, str]) -> None:
    """Lets the graphs inside a node read `names[n]` where they read n from around them; in place."""
    for graph in graphs_in(node):
        own = {v.name for v in (*graph.input, *graph.initializer)} | {o for n in graph.node for o in n.output}
        outer = {old: new for old, new in names.items() if old not in own}
        for inner in graph.node:
            inner.input[:] = [outer.get(i, i) for i in inner.input]
            rename_captured(inner, outer)
        for k, output in enumerate(graph.output):
            if output.name in outer:  # an output must be made inside
                made = f"{graph.name}//out{k}"
                graph.node.append(onnx.helper.make_node("Identity", [outer[output.name]], [made]))
                output.name = made
