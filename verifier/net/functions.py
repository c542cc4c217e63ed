"""Operators that ONNX defines by other operators are replaced by these.

A schema may come with a *body*: a graph of simpler operators that is the operator's definition (Attention,
RotaryEmbedding, the losses, MeanVarianceNormalization, …); for some it is built anew for each node, from its attributes
and the types of its inputs. A node is replaced by its body if this project has neither a rule nor an operator for it,
again and again until no such node is left. Exact, since the body is what the standard says that the operator computes.
The runtime decides, however: both are run at one point, and a node stays where its own results differ from the body's.

A body is written in some version of the operator set, which the schema tells: the newest one that is not above the
model's is taken. Where an operator's inputs or attributes changed between that version and the model's, onnx converts
the body; elsewhere both versions mean the same.
"""

from __future__ import annotations

from collections.abc import Callable, Container
from typing import Any

import numpy as np
import onnx
from onnx import defs, helper
from onnx.inliner import inline_local_functions

from verifier.net.trace import Trace, live_nodes
from verifier.result import ModelError

ROUNDS = 8  # bodies within bodies; ONNX has three levels
Look = Callable[..., Trace]  # one run of a model, in which certain tensors are kept
OWN = "clipbab.body"  # the domain of bodies on their way into the graph


def inline_faithful(
    model: onnx.ModelProto, known: Container[str], look: Look, keep: tuple[str, ...] = ()
) -> onnx.ModelProto:
    """As `inline_bodies`, but for nodes that compute something else in ONNX Runtime."""
    made = inline_bodies(model, known, keep)
    if made is model:
        return model
    names = tuple(o for n, _ in with_bodies(model, known, keep) for o in n.output if o)
    one, other = look(model, (*keep, *names)), look(made, (*keep, *names))
    have, want = other.run(one.sample), one.run(one.sample)
    differ = frozenset(name for name in names if not agree(want[name], have[name]))
    return inline_bodies(model, known, keep, differ) if differ else made


def agree(want: Any, have: Any) -> bool:
    """Whether two results are the same up to roundings. Where the runtime has no number nothing is ever claimed."""
    if not isinstance(want, np.ndarray) or want.dtype.kind not in "fiub":
        return True
    if want.shape != have.shape or want.dtype != have.dtype:
        return False
    slack = 1e-2 if want.dtype == np.float16 else 1e-3
    numbers = ~np.isnan(want.astype(np.float64))
    a, b = want[numbers].astype(np.float64), have[numbers].astype(np.float64)
    largest = np.abs(a[np.isfinite(a)]).max(initial=1.0)
    with np.errstate(invalid="ignore"):
        return bool(((a == b) | (np.abs(a - b) <= slack * largest)).all())


def with_bodies(
    model: onnx.ModelProto, known: Container[str], keep: tuple[str, ...], left: Container[str] = ()
) -> list[tuple[onnx.NodeProto, Any]]:
    """The live nodes whose operator is not known and has a body, with their schemas, but for those that yield a tensor
    of `left`."""
    versions = {"" if o.domain == "ai.onnx" else o.domain: o.version for o in model.opset_import}
    nodes = live_nodes(model.graph, (*(o.name for o in model.graph.output), *keep))
    open_ = [n for n in nodes if not any(o in left for o in n.output)]
    return [(n, s) for n in open_ if (s := schema_with_body(n, versions, known)) is not None]


def inline_bodies(
    model: onnx.ModelProto, known: Container[str], keep: tuple[str, ...] = (), left: Container[str] = ()
) -> onnx.ModelProto:
    """The model with every node replaced by its body whose operator (as '<domain>.<Op>', ONNX's own as '<Op>') is not
    in `known` and has one, but for those that yield a tensor of `left`. The caller's proto is left alone."""
    if not model.graph.node:
        return model
    for _ in range(ROUNDS):
        versions = {"" if o.domain == "ai.onnx" else o.domain: o.version for o in model.opset_import}
        found = with_bodies(model, known, keep, left)
        if not found:
            return model
        copy = onnx.ModelProto()
        copy.CopyFrom(model)
        types = types_of(model)
        places = {o: k for k, n in enumerate(model.graph.node) for o in n.output if o}
        convert = False
        for number, (node, schema) in enumerate(found):
            body, other = body_of(node, schema, versions, types)
            body.name, body.domain = f"{node.op_type}{number}", OWN
            convert = convert or other
            there = copy.graph.node[places[next(filter(None, node.output))]]
            there.op_type, there.domain = body.name, OWN
            fill_in_defaults(there, schema, body)
            copy.functions.append(body)
            have = {o.domain for o in copy.opset_import}
            copy.opset_import.extend(o for o in body.opset_import if o.domain not in have)
        if not any(o.domain == OWN for o in copy.opset_import):
            copy.opset_import.append(helper.make_opsetid(OWN, 1))
        model = inline_local_functions(copy, convert_version=convert)
    raise ModelError(f"operator {found[0][0].op_type} is defined by itself")


def schema_with_body(node: onnx.NodeProto, versions: dict[str, int], known: Container[str]) -> Any:
    """The schema of an operator that is unknown here and has a body, or None."""
    domain = "" if node.domain == "ai.onnx" else node.domain
    if (f"{domain}.{node.op_type}" if domain else node.op_type) in known or domain not in versions:
        return None
    try:
        schema = defs.get_schema(node.op_type, versions[domain], domain)
    except defs.SchemaError:
        return None
    return schema if schema.has_function or schema.has_context_dependent_function else None


def types_of(model: onnx.ModelProto) -> dict[str, onnx.TypeProto]:
    """The type of every tensor that can be told without running the model."""
    try:
        graph = onnx.shape_inference.infer_shapes(model, data_prop=True).graph
    except Exception:  # ONNX Runtime will say better what is wrong with the model
        graph = model.graph
    types = {i.name: helper.make_tensor_type_proto(i.data_type, i.dims) for i in graph.initializer}
    return types | {i.name: i.type for i in (*graph.value_info, *graph.input, *graph.output)}


def body_of(
    node: onnx.NodeProto, schema: Any, versions: dict[str, int], types: dict[str, onnx.TypeProto]
) -> tuple[onnx.FunctionProto, bool]:
    """The body for `node`, said to be in the model's own version, and whether it is yet to be converted to that."""
    opset = versions.get("", 0)
    fixed = schema.has_function
    offered = schema.function_opset_versions if fixed else schema.context_dependent_function_opset_versions
    version = max((v for v in offered if v <= opset), default=min(offered))
    if fixed:
        data = schema.get_function_with_opset_version(version)
    else:
        ins = [types.get(i, onnx.TypeProto()).SerializeToString() for i in node.input]
        data = schema.get_context_dependent_function_with_opset_version(version, node.SerializeToString(), ins)
    if not data:
        raise ModelError(f"operator {node.op_type} {node.name!r} has no definition for inputs of these types")
    body = onnx.FunctionProto.FromString(data)
    convert = False
    for imported in body.opset_import:
        if imported.domain in ("", "ai.onnx") and opset:
            convert = any(changed(n, imported.version, opset) for n in body.node)
            if not convert:
                imported.version = opset
    return body, convert


def changed(node: onnx.NodeProto, one: int, other: int) -> bool:
    """Whether the operator reads its inputs or attributes differently in two versions of ONNX's own set. New element
    types are no difference."""
    if node.domain not in ("", "ai.onnx"):
        return False
    try:
        signatures = [signature(defs.get_schema(node.op_type, version, "")) for version in (one, other)]
    except defs.SchemaError:
        return True
    return signatures[0] != signatures[1]


def signature(schema: Any) -> Any:
    attributes = {k: (a.type, a.required, a.default_value.SerializeToString()) for k, a in schema.attributes.items()}
    return [(i.name, i.option) for i in schema.inputs], len(schema.outputs), attributes


def fill_in_defaults(node: onnx.NodeProto, schema: Any, body: onnx.FunctionProto) -> None:
    """Gives the call every attribute that the body refers to and the schema has a default for."""
    given = {a.name for a in node.attribute}
    for name in body.attribute:
        default = schema.attributes[name].default_value if name in schema.attributes else None
        if name not in given and default is not None and default.type:
            node.attribute.append(default)
