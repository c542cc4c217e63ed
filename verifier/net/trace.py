"""One run of the model in ONNX Runtime tells every tensor's shape, element type and constant value.

Inputs come with static shapes, and with points to run at (`verifier.net.inputs`): the first that the model can be run
at is taken. Operators that the outputs do not need are dropped, large weights become inputs of the run (so that nothing
is serialised twice), and every tensor becomes an output.

A tensor is constant if all its ancestors are weights, constants, or shapes of tensors whose own shape does not depend
on the inputs. Its value is what ONNX Runtime computed. A tensor's shape is *open* if values that depend on the inputs
decide on it or on a tensor it is made from. Such a tensor has the shape that it has at that point; `Trace.again` sees
to it that at least the outputs keep theirs.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx
from onnx import helper, numpy_helper

from verifier.net.attributes import not_understood
from verifier.net.draft import Raw
from verifier.net.graph import Shape
from verifier.net.graph import Tensor as Place
from verifier.net.inputs import MAX_ENTRIES, checked_dims
from verifier.net.nested import operators_in, reads
from verifier.net.runtime import Tensors, element_type, first_line, is_number, run_session, session_of
from verifier.net.weights import read_weights, refuse_not_finite
from verifier.result import ModelError, UnsupportedError

MAX_TOTAL = 2**31  # of all tensors together, which the run holds at once
SMALL = 1024  # weights up to this many entries stay in the graph, where shape inference may need them
RANDOM = {"RandomNormal", "RandomUniform", "RandomNormalLike", "RandomUniformLike", "Bernoulli", "Multinomial"}
SHAPE_ONLY = {"Shape", "Size"}
TYPED_BY_SECOND = {"CastLike"}  # of the second input only the element type counts
HOLDS_GRAPHS = {"If", "Loop", "Scan", "SequenceMap"}
SHAPED_BY_FIRST = {"ScatterND", "ScatterElements", "Scatter"}  # results have the shape of the first input
# Inputs whose values decide on the result's shape.
ALL = (0, 1, 2, 3, 4)
STRUCTURE = {
    **dict.fromkeys(("Reshape", "Expand", "Tile", "Split", "TopK", "OneHot", "Squeeze", "Unsqueeze"), (1,)),
    **dict.fromkeys(("Slice", "Pad", "Resize", "Upsample", "Col2Im", "AffineGrid", "DFT", "CenterCropPad"), ALL[1:]),
    **dict.fromkeys(("ConstantOfShape", "NonZero", "Unique", "HannWindow", "HammingWindow", "BlackmanWindow"), ALL),
    **dict.fromkeys(("Range", "Compress", "NonMaxSuppression", "MaxUnpool", "STFT", "MelWeightMatrix"), ALL),
}


@dataclass
class Trace:
    """The live part of a model: operators in topological order, and for every tensor its shape, type and (if constant)
    value."""

    inputs: tuple[Place, ...]
    outputs: tuple[str, ...]
    raws: list[Raw]
    opset: int
    values: Tensors
    shapes: dict[str, Shape] = field(default_factory=dict)
    dtypes: dict[str, np.dtype] = field(default_factory=dict)
    session: Any = None
    weights: Tensors = field(default_factory=dict)  # those fed at run time
    sample: Tensors = field(default_factory=dict)  # the inputs that it was run at
    open_shapes: set[str] = field(default_factory=set)

    def run(self, sample: Tensors) -> Tensors:
        names = [o.name for o in self.session.get_outputs()]
        try:
            return dict(zip(names, run_session(self.session, {**self.weights, **sample})))
        except Exception as e:
            raise ModelError(f"ONNX Runtime cannot run the model: {first_line(e)}") from None

    def again(self, samples: Sequence[Tensors]) -> None:
        """Runs on more inputs; an output whose shape changes has no place in a network of static shapes.

        An input that the model cannot run on (an index out of range, say) tells nothing. Shapes inside may change: they
        do so behind an operator that no bounds exist for, so nothing is ever proved from them.
        """
        for sample in samples:
            try:
                results = self.run(sample)
            except ModelError:
                continue
            for name in self.outputs:
                value = results.get(name)
                if isinstance(value, np.ndarray) and value.shape != self.shapes[name]:
                    shapes = f"{list(self.shapes[name])} and {list(value.shape)}"
                    raise ModelError(f"the shape of output {name!r} depends on the input: {shapes} were seen")

    def first_run(self, samples: Sequence[Tensors]) -> Tensors:
        """Every tensor at the first of the samples that the model can be run at. Raises what the first one raised."""
        error: ModelError | None = None
        for sample in samples:
            try:
                results, self.sample = {**sample, **self.run(sample)}, sample
                return results
            except ModelError as e:
                error = error or e
        raise error or ModelError("the model has no inputs")


def trace(
    model: onnx.ModelProto, inputs: tuple[Place, ...], samples: Sequence[Tensors], keep: tuple[str, ...] = ()
) -> Trace:
    """Runs `model` at one of the samples for its `inputs`. `keep` names tensors that must not be dropped. Raises
    ModelError, UnsupportedError."""
    graph = model.graph
    if graph.sparse_initializer:
        raise ModelError("sparse weights are not supported")
    opset = next((o.version for o in model.opset_import if o.domain in ("", "ai.onnx")), 0)
    if opset < 7 and any(n.domain in ("", "ai.onnx") for n in graph.node):
        raise ModelError(f"opset {opset} is not supported (7 or later is)" if opset else "the file names no opset")
    outputs = tuple(o.name for o in graph.output)
    if not outputs or not graph.node:
        raise ModelError("the graph has no outputs" if graph.node else "the graph is empty")
    refuse_odd_names(graph)
    nodes = live_nodes(graph, (*outputs, *keep))
    versions = {"" if o.domain == "ai.onnx" else o.domain: o.version for o in model.opset_import}
    refuse_unknown(nodes, opset, versions)
    weights = read_weights(graph, {i for n in nodes for i in reads(n)} | set(outputs))
    read = {i for n in nodes for i in reads(n)} | {*outputs, *keep}
    t = Trace(inputs, outputs, [decode(n, versions, read) for n in nodes], opset, weights)
    t.session, t.weights = open_session(model, nodes, inputs, weights)
    results = t.first_run(samples)
    for name, value in {**weights, **results}.items():
        plain = isinstance(value, np.ndarray)  # sequences and optionals have no shape here; no operator takes them
        t.shapes[name], t.dtypes[name] = (value.shape, value.dtype) if plain else ((), np.dtype(object))
    for raw in t.raws:
        if shape_is_open(t, raw, t.open_shapes):
            t.open_shapes.update(o for o in raw.outputs if o)
        mark_constants(t, raw, results, t.open_shapes)
    refuse_not_finite(t.raws, t.values, {i.name for i in graph.initializer})
    return t


def shape_is_open(t: Trace, raw: Raw, open_shapes: set[str]) -> bool:
    """Whether the shapes of what `raw` yields may depend on the network's inputs. A shape itself has a fixed length."""
    if raw.op in SHAPE_ONLY:
        return False
    slots = (1,) if raw.op.startswith("Reduce") else STRUCTURE.get(raw.op, ())
    foreign = ("." in raw.op and not raw.op.startswith("ai.onnx.ml.")) or raw.op in HOLDS_GRAPHS
    if foreign or any(t.dtypes[o].kind == "O" for o in raw.outputs if o):
        slots = tuple(range(len(raw.inputs)))  # another domain's, a sequence, or graphs inside: nothing is known
    inputs = raw.inputs[:1] if raw.op in SHAPED_BY_FIRST else raw.inputs
    return any(i in open_shapes or (k in slots and i not in t.values) for k, i in enumerate(inputs) if i)


def mark_constants(t: Trace, raw: Raw, results: Tensors, open_shapes: set[str]) -> None:
    """Adds to `t.values` the outputs of `raw` that do not depend on the network's inputs."""
    inside = [v for v in raw.attrs.values() if isinstance(v, onnx.GraphProto)] if raw.op in HOLDS_GRAPHS else []
    if (
        raw.op in RANDOM
        or any(RANDOM & operators_in(g) for g in inside)
        or (raw.op == "Dropout" and raw.input(2) and bool(np.any(t.values.get(raw.inputs[2], True))))
    ):
        return
    for k, name in enumerate(raw.outputs):
        mask = raw.op == "Dropout" and k == 1
        of_shape = raw.op in SHAPE_ONLY and raw.inputs[0] not in open_shapes
        read = raw.inputs[:1] if raw.op in TYPED_BY_SECOND else raw.inputs
        constant = mask or of_shape or all(i in t.values for i in read if i)
        if name and constant and isinstance(results[name], np.ndarray):
            t.values[name] = results[name]


def live_nodes(graph: onnx.GraphProto, roots: tuple[str, ...]) -> list[onnx.NodeProto]:
    """The nodes that the roots need, in topological order (the file's, if that is one)."""
    producer = {o: i for i, n in enumerate(graph.node) for o in n.output if o}
    known = {i.name for i in graph.input} | {i.name for i in graph.initializer}
    missing = [r for r in roots if r not in producer and r not in known]
    if missing:
        raise ModelError(f"nothing in the graph yields {missing[0]!r}")
    live, stack = set(), [r for r in roots if r in producer]
    while stack:
        i = producer[stack.pop()]
        if i not in live:
            live.add(i)
            stack += [name for name in reads(graph.node[i]) if name in producer]
    order = sorted(live)
    place = {i: at for at, i in enumerate(order)}
    before = {i: {producer[name] for name in reads(graph.node[i]) if name in producer} for i in order}
    if any(place[j] >= place[i] for i in order for j in before[i]):
        from graphlib import CycleError, TopologicalSorter

        try:
            order = list(TopologicalSorter(before).static_order())
        except CycleError:
            raise ModelError("the graph has a cycle") from None
    return [graph.node[i] for i in order]


def refuse_unknown(nodes: list[onnx.NodeProto], opset: int, domains: dict[str, int]) -> None:
    """Lists the operators that ONNX does not define at this opset, or that belong to no imported domain."""
    unknown, reasons = [], []
    for n in nodes:
        domain = "" if n.domain == "ai.onnx" else n.domain
        if (domain == "" and not onnx.defs.has(n.op_type)) or (domain and domain not in domains):
            unknown.append((n.name or next(iter(n.output), ""), n.op_type, domains.get(domain, 0) or opset, None))
            reasons.append("its domain is not imported" if domain else "not an operator of ONNX")
    if unknown:
        raise UnsupportedError("model", unknown, reasons)


def refuse_odd_names(graph: onnx.GraphProto) -> None:
    """Names that are not UTF-8 come as bytes; ONNX Runtime would choke on them when it reports an error."""
    names = [s for n in graph.node for s in (n.name, n.op_type, n.domain, *n.input, *n.output)]
    names += [v.name for values in (graph.input, graph.output, graph.initializer) for v in values]
    names += [s for n in graph.node for a in n.attribute for s in (a.name, a.s)]
    odd = next((s for s in names if not is_text(s)), None)
    if odd is not None:
        raise ModelError(f"the name {odd!r} is not UTF-8")


def is_text(name: Any) -> bool:
    """Names come as str; as bytes only where they are not UTF-8, and always in the values of attributes."""
    try:
        name.decode() if isinstance(name, bytes) else name.encode()
    except UnicodeError:
        return False
    return True


def decode(n: onnx.NodeProto, versions: Mapping[str, int], read: set[str]) -> Raw:
    """A node with its attributes as Python values; absent ones get the default of the opset. Optional outputs that
    nobody reads are none. `versions` are those of the domains, `read` the names that anything reads."""
    domain = "" if n.domain in ("", "ai.onnx") else n.domain
    op = f"{domain}.{n.op_type}" if domain else n.op_type
    outputs, unread = tuple(n.output), ""
    try:
        given = {a.name: python_value(a) for a in n.attribute}
    except (ValueError, TypeError, KeyError) as e:
        raise ModelError(f"operator {n.op_type} {n.name!r}: an attribute cannot be read: {first_line(e)}") from None
    defaults: dict[str, Any] = {}
    try:
        schema = onnx.defs.get_schema(n.op_type, versions.get(domain, 0), domain)
    except onnx.defs.SchemaError:
        pass  # an operator of another domain: ONNX Runtime decides
    else:
        refuse_absent_inputs(n, schema)
        formal = [o.option == onnx.defs.OpSchema.FormalParameterOption.Optional for o in schema.outputs]
        outputs = tuple("" if o not in read and any(formal[k : k + 1]) else o for k, o in enumerate(outputs))
        defaults = {k: python_value(a.default_value) for k, a in schema.attributes.items() if a.default_value.type}
        unread = not_understood(op, schema, given, defaults)
    return Raw(op, reads(n), outputs, {**defaults, **given}, n.name or next(filter(None, n.output), ""), unread)


def refuse_absent_inputs(n: onnx.NodeProto, schema: Any) -> None:
    """'' stands for an optional input; in place of another one it makes ONNX Runtime read memory that is not there."""
    for i, name in enumerate(n.input):
        formal = schema.inputs[min(i, len(schema.inputs) - 1)] if schema.inputs else None
        if not name and formal is not None and formal.option != onnx.defs.OpSchema.FormalParameterOption.Optional:
            raise ModelError(f"operator {n.op_type} {n.name!r} lacks its input {i}")


def python_value(a: onnx.AttributeProto) -> Any:
    """Number, string, tuple or array."""
    if a.type == onnx.AttributeProto.TENSOR:
        checked_dims(a.name, a.t.dims)
        return numpy_helper.to_array(a.t)
    value = helper.get_attribute_value(a)
    if isinstance(value, bytes):
        return value.decode("utf-8", "replace")
    if a.type == onnx.AttributeProto.STRINGS:
        return tuple(v.decode("utf-8", "replace") for v in value)
    return tuple(value) if a.type in (onnx.AttributeProto.FLOATS, onnx.AttributeProto.INTS) else value


def open_session(
    model: onnx.ModelProto, nodes: list, inputs: tuple[Place, ...], weights: Tensors
) -> tuple[Any, Tensors]:
    """An ONNX Runtime session that yields every tensor of the live graph, and the weights to feed to it."""
    import onnxruntime as ort

    slim = onnx.ModelProto(ir_version=max(model.ir_version, 4))  # from 4 on, initializers need not be inputs
    domains = {n.domain for n in nodes} | {""}
    slim.opset_import.extend(o for o in model.opset_import if o.domain in domains or o.domain == "ai.onnx")
    slim.functions.extend(model.functions)
    graph = slim.graph
    graph.name = "g"
    graph.node.extend(nodes)
    fed = {name: value for name, value in weights.items() if value.size > SMALL and is_number(value.dtype)}
    for place in inputs:
        graph.input.append(helper.make_tensor_value_info(place.name, element_type(place.dtype), place.shape))
    for tensor in model.graph.initializer:
        if tensor.name in fed:
            graph.input.append(helper.make_tensor_value_info(tensor.name, tensor.data_type, tensor.dims))
        elif tensor.name in weights:
            graph.initializer.append(tensor)
    graph.output.extend(onnx.ValueInfoProto(name=o) for n in nodes for o in n.output if o)
    refuse_large(slim)
    return session_of(ort, slim.SerializeToString()), fed


def refuse_large(slim: onnx.ModelProto) -> None:
    """Infers shapes without running anything, so that a tensor too large to hold is refused before it is made."""
    try:
        inferred = onnx.shape_inference.infer_shapes(slim, data_prop=True)
    except Exception:
        return  # ONNX Runtime infers again, and says better what is wrong
    total = 0
    for info in {i.name: i for i in (*inferred.graph.value_info, *inferred.graph.output)}.values():
        dims = [d.dim_value for d in info.type.tensor_type.shape.dim]
        size = math.prod(dims) if dims else 0
        total += size
        if size > MAX_ENTRIES:
            raise ModelError(f"tensor {info.name!r} of shape {dims} is too large")
    if total > MAX_TOTAL:
        raise ModelError(f"the model's tensors together have {total} entries, too many to hold")
