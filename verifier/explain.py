"""`verify explain`: what the model is, what the property says, what would be done and why; as lines of text.

Everything about the files is said before torch is imported, so that it appears at once.
"""

from __future__ import annotations

import ast
import os
from collections import Counter
from collections.abc import Iterable, Iterator
from math import prod
from pathlib import Path
from types import FunctionType
from typing import Any

import numpy as np

from verifier import api
from verifier.config import Config
from verifier.net.control import FOLDS
from verifier.net.cut import FLOAT
from verifier.net.graph import Network
from verifier.net.inputs import FIXED
from verifier.net.sequences import SEQUENCE_OPS
from verifier.net.trace import RANDOM
from verifier.ops import OPS
from verifier.problem import Problem
from verifier.result import UnsupportedError
from verifier.spec.query import Query

SHOWN = 8  # entries of a longer list that are printed


def lines(model: str | os.PathLike[str], prop: str | os.PathLike[str], config: Config) -> Iterator[str]:
    """The explanation, line by line; raises what `verify` would raise for the same files."""
    try:
        loaded = api.load(model, prop, {}, config.model)
    except UnsupportedError as error:
        yield from _unknown(error)
        raise
    yield f"model      {model}"
    yield from _network(loaded.network)
    yield f"property   {prop}"
    yield from _query(loaded.query, loaded.problem)
    yield "plan"
    try:
        problem, planned = api.make_plan(loaded, config)
    except UnsupportedError as error:
        yield from _unknown(error)
        raise
    for line in planned:
        yield f"  {line}"
    yield from _without_bounds(problem)


def _network(network: Network) -> Iterator[str]:
    numbers = sum(c.size for c in network.constants.values() if np.asarray(c).dtype.kind == "f")
    yield f"  opset {network.opset}; {len(network.nodes)} operators after simplification; {numbers:,} parameters"
    for word, tensors in (("input", network.inputs), ("output", network.outputs)):
        for t in tensors:
            name = t.name.removesuffix(FIXED).removesuffix(FLOAT)
            fixed = ", fixed by the property" if t.name.endswith(FIXED) else ""
            yield f"  {word} {name} {_shape(t.shape)} {t.dtype}{fixed}"
    sizes: Counter = Counter()
    for node in network.nodes:
        sizes[node.operator] += prod(node.shape)
    for kind, count in sorted(Counter(n.operator for n in network.nodes).items(), key=lambda item: -sizes[item[0]]):
        yield f"  {count:4d} x {kind:<20} {sizes[kind]:>9,} values"


def _unknown(error: UnsupportedError) -> Iterator[str]:
    yield "missing"
    for (name, op, opset, shape), why in zip(error.nodes, error.why):
        where = name if shape is None else f"{name} {_shape(shape)}"
        yield f"  cannot be run   {op} (opset {opset}) at {where}" + (f": {why}" if why else "")


def _without_bounds(problem: Problem) -> Iterator[str]:
    """Every node that no bounds are known for, and what is missing."""
    import torch

    from verifier.bounds.program import Program

    steps = Program(problem.network, torch.float32, "cpu").without_bounds()
    if steps:
        yield "missing"
    for step in steps:
        node = step.node
        yield f"  no bounds       {node.operator} at {node.origin or node.name} {_shape(node.shape)}: {step.op.lacks}"


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


def operators() -> dict[str, frozenset[str]]:
    """The ONNX operators that a model may use, and what each becomes; read from the source text, without torch.

    These are the operators that state facts themselves, and those that the reader rewrites into such. What a rewrite
    emits is read off the names in its source and in that of its helpers.
    """
    import onnx.defs

    from verifier.net.load import RULES

    functions = dict(_functions())
    asked = RULES.declared - OPS.declared - {"Identity"}  # occur where a rule asks which operator it is at
    names = ({schema.name for schema in onnx.defs.get_all_schemas()} | OPS.declared) - asked
    becomes = {op: _emits(rule, op, functions) & names for op, rule in _rules(functions.values())}
    # Identity is dropped by simplification
    becomes = {
        op: words - {"Identity"} for op, words in becomes.items() if words and words <= OPS.declared | {"Identity"}
    }
    becomes |= {op: {op} for op in OPS.declared}
    return {op: frozenset(becomes[op]) for op in sorted(becomes) if onnx.defs.has(*op.rpartition(".")[::-2])}


def support() -> dict[str, list[str]]:
    """The same operators by what can be proved about them: with bounds wherever they stand, with bounds at some places
    (a function chooses by the inputs, and one of the classes it chooses from has none), without bounds. Then those that
    are replaced by what ONNX defines them to be, and those that are carried out where the input has no say in it.
    """
    OPS.load()
    from verifier.ops.base import Opaque

    lists: dict[str, list[str]] = {"with bounds": [], "with bounds at some places": [], "without bounds": []}
    for op, becomes in operators().items():
        chosen = [classes(OPS[kind]) for kind in becomes]
        opaque = [[issubclass(c, Opaque) for c in cs] for cs in chosen]
        if any(cs and all(cs) for cs in opaque):
            lists["without bounds"].append(op)
        else:
            lists["with bounds at some places" if any(map(any, opaque)) else "with bounds"].append(op)
    steering = (FOLDS.keys() | SEQUENCE_OPS) - operators().keys()
    lists["as ONNX defines it"] = sorted(defined_by_others() - operators().keys() - steering)
    lists["if the input does not decide"] = sorted(steering)
    return lists


def defined_by_others() -> set[str]:
    """ONNX's operators that no rule is for, and whose schema comes with a body (`verifier.net.functions`)."""
    import onnx.defs

    from verifier.net.load import RULES

    schemas = (s for s in onnx.defs.get_all_schemas() if s.has_function or s.has_context_dependent_function)
    return {f"{s.domain}.{s.name}" if s.domain else s.name for s in schemas} - RULES.declared - RANDOM


def classes(thing: Any) -> list[type]:
    """The operator classes that a registered thing is, or chooses from: read off the names that its code uses, and the
    code of functions of the same room that it calls.
    """
    from verifier.ops.base import Operator

    if isinstance(thing, type):
        return [thing] if issubclass(thing, Operator) and thing is not Operator else []
    if not isinstance(thing, FunctionType) or not thing.__module__.startswith("verifier.ops."):
        return []
    named = [thing.__globals__.get(name) for name in thing.__code__.co_names]
    return [c for other in named if other is not thing for c in classes(other)]


def _functions() -> Iterator[tuple[str, ast.FunctionDef]]:
    import verifier.net

    for path in Path(verifier.net.__path__[0]).glob("rules_*.py"):
        for node in ast.parse(path.read_text(encoding="utf-8")).body:
            if isinstance(node, ast.FunctionDef):
                yield node.name, node


def _rules(functions: Iterable[ast.FunctionDef]) -> Iterator[tuple[str, ast.FunctionDef]]:
    """(ONNX operator, the function that rewrites it)."""
    for f in functions:
        for d in f.decorator_list:
            if isinstance(d, ast.Call) and getattr(getattr(d.func, "value", None), "id", "") == "RULES":
                yield from ((a.value, f) for a in d.args if isinstance(a, ast.Constant))


def _emits(f: ast.FunctionDef, op: str, functions: dict[str, ast.FunctionDef], seen: tuple[str, ...] = ()) -> set[str]:
    """Every word in the function and in those it calls; the operator's own name where the function passes it on."""
    words: set[str] = set()
    for node in (n for part in f.body for n in _reached(part, op)):
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            words.add(node.value)
        elif isinstance(node, ast.Attribute) and node.attr == "op":
            words.add(op)
        elif isinstance(node, ast.Name) and node.id in functions and node.id not in seen:
            words |= _emits(functions[node.id], op, functions, (*seen, f.name))
    return words


def _reached(node: ast.AST, op: str) -> Iterator[ast.AST]:
    """The nodes below, but where the code asks for the operator's name only those of the branch taken for `op`."""
    yield node
    inside = list(ast.iter_child_nodes(node))
    test = getattr(node, "test", None)
    if isinstance(node, (ast.IfExp, ast.If)) and isinstance(test, ast.Compare) and len(test.ops) == 1:
        asks = isinstance(test.left, ast.Attribute) and test.left.attr == "op" and isinstance(test.ops[0], ast.Eq)
        if asks and isinstance(test.comparators[0], ast.Constant):
            branch = node.body if test.comparators[0].value == op else node.orelse
            inside = branch if isinstance(branch, list) else [branch]
    for child in inside:
        yield from _reached(child, op)
