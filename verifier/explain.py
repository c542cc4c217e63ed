"""`verify explain`: what the model is, what the property says, what would be done and why; as lines of text.

Everything about the files is said before torch is imported, so that it appears at once.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator
from math import prod

import numpy as np

from verifier import api
from verifier.config import Config
from verifier.net.graph import Network
from verifier.ops import OPS
from verifier.problem import Problem
from verifier.spec.query import Query

SHOWN = 8  # entries of a longer list that are printed


def lines(model: str | os.PathLike[str], prop: str | os.PathLike[str], config: Config) -> Iterator[str]:
    """The explanation, line by line; raises what `verify` would raise for the same files."""
    loaded = api.load(model, prop, {})
    yield f"model      {model}"
    yield from _network(loaded.network)
    yield f"property   {prop}"
    yield from _query(loaded.query, loaded.problem)
    yield "plan"
    for line in api.make_plan(loaded, config):
        yield f"  {line}"


def _network(network: Network) -> Iterator[str]:
    numbers = sum(c.size for c in network.constants.values() if np.asarray(c).dtype.kind == "f")
    yield f"  opset {network.opset}; {len(network.nodes)} operators after simplification; {numbers:,} parameters"
    for word, tensors in (("input", network.inputs), ("output", network.outputs)):
        for t in tensors:
            yield f"  {word} {t.name} {_shape(t.shape)} {t.dtype}"
    sizes: Counter = Counter()
    for node in network.nodes:
        sizes[node.kind] += prod(node.shape)
    for kind, count in sorted(network.kinds().items(), key=lambda item: -sizes[item[0]]):
        yield f"  {count:4d} x {kind:<20} {sizes[kind]:>9,} values"


def _shape(shape: tuple[int, ...]) -> str:
    return "[" + ",".join(map(str, shape)) + "]"


def _query(query: Query, problem: Problem) -> Iterator[str]:
    facts = query.describe()
    yield (
        f"  {facts['inputs']} inputs, {facts['outputs']} outputs; {facts['regions']} regions "
        f"({facts['empty_regions']} empty), {facts['disjuncts']} disjuncts "
        f"of {facts['rows_min']} to {facts['rows_max']} rows"
    )
    yield (
        f"  {facts['rows']} rows: {facts['output_rows']} over outputs, {facts['input_rows']} over inputs, "
        f"{facts['mixed_rows']} over both; {facts['strict_rows']} strict"
    )
    if not len(problem.lower):
        return
    moving = problem.moving
    names = [f"X_{i}" for i in moving[:SHOWN].tolist()]
    more = f" and {len(moving) - SHOWN} more" if len(moving) > SHOWN else ""
    yield f"  {len(moving)} of {facts['inputs']} inputs move: {', '.join(names)}{more}"
    width = (problem.upper - problem.lower).max(axis=0)
    yield f"  widths of the moving inputs from {width.min():g} to {width.max():g}"


def operators() -> list[str]:
    """Names of the ONNX operators that a model may use, sorted; read from the source text, without torch."""
    from verifier.net.load import RULES

    ours = RULES.declared | OPS.declared
    return sorted(name for name in ours if _is_onnx(name))


def _is_onnx(name: str) -> bool:
    import onnx.defs

    return onnx.defs.has(name)
