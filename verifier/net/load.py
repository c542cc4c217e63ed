"""ONNX file -> `Network`. The normal form is described in `verifier.net.simplify`, the run that finds shapes in
`verifier.net.trace`.

Every failure is a VerifierError with one line: FileError where the bytes cannot be had, ModelError where they are no
model that can be run, UnsupportedError where operators are unknown. Nothing here imports torch.
"""

from __future__ import annotations

import gzip
import os
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from verifier.config import ModelConfig
from verifier.foreign import is_property, recognised
from verifier.net.control import flatten
from verifier.net.cut import cut, refuse_outputs, with_float_outputs
from verifier.net.draft import RULES, UNREAD, WHY, Draft
from verifier.net.functions import Look, inline_faithful
from verifier.net.graph import Network, Node
from verifier.net.inputs import InputBox, as_fixed, fixed_inputs, input_places, probes, samples, with_constants
from verifier.net.lookup import look_up
from verifier.net.old import as_new
from verifier.net.opaque import conceal
from verifier.net.runtime import first_line
from verifier.net.simplify import simplify
from verifier.net.trace import RANDOM, trace
from verifier.net.weights import with_dense_weights
from verifier.ops import OPS
from verifier.result import FileError, ModelError, UnsupportedError, UsageError, VerifierError

__all__ = ["RULES", "check_supported", "load_network", "read_model_bytes"]

GZIP = b"\x1f\x8b"
NESTED = 6  # rounds in which control flow and definitions are replaced


def read_model_bytes(source: Any) -> bytes:
    """The model's bytes, unpacked if they are gzip; `path`.gz stands in for a missing `path`. Raises FileError.

    `source` is a path, the bytes themselves, or a ModelProto.
    """
    if isinstance(source, bytes):
        return unpacked(source, "model")
    if hasattr(source, "SerializeToString"):
        return source.SerializeToString()
    path = os.fspath(source)
    found = path if os.path.exists(path) or not os.path.exists(path + ".gz") else path + ".gz"
    try:
        data = Path(found).read_bytes()
    except OSError as e:
        raise FileError(f"{path}: cannot read the model: {e.strerror or first_line(e)}") from None
    return unpacked(data, found)


def unpacked(data: bytes, name: str) -> bytes:
    """The content of a gzip file, or the data as they are."""
    if data[:2] != GZIP:
        return data
    try:
        return gzip.decompress(data)
    except (OSError, EOFError, zlib.error) as e:
        raise FileError(f"{name}: the gzip file is truncated or damaged: {first_line(e)}") from None


def load_network(
    source: Any,
    keep: tuple[str, ...] = (),
    rewrite: bool = True,
    box: InputBox | None = None,
    config: ModelConfig | None = None,
    opaque: Mapping[str, str] = {},
) -> Network:
    """Reads a file (path), bytes, or a ModelProto. `keep` names tensors of the file that must survive as nodes; without
    `rewrite` every operator of the file keeps its own nodes. `box` is what the property says of the inputs, where it is
    known: unknown dimensions, constants and the point of the shape inference run follow from it. `opaque`: nodes
    or tensors by name that ONNX Runtime is to compute, as it does where there is no operator, and why.

    Raises FileError, ModelError, UnsupportedError or UsageError; no other exception.
    """
    proto = hasattr(source, "SerializeToString")
    name = "model" if proto or isinstance(source, bytes) else os.fspath(source)
    data = source if proto else read_model_bytes(source)
    config = config or ModelConfig()
    try:
        network = build(parse(data, name, config.outputs), name, tuple(keep), rewrite, box, config, opaque)
    except UnsupportedError as e:
        raise UnsupportedError(name, e.nodes, e.why) from None
    except (FileError, UsageError):
        raise
    except VerifierError as e:
        raise ModelError(f"{name}: {e}") from None
    except Exception as e:  # a file damaged in a way nobody foresaw
        raise ModelError(f"{name}: the model cannot be read ({type(e).__name__}: {first_line(e)})") from None
    return network


def check_supported(network: Network) -> None:
    """Raises UnsupportedError with all nodes for which no operator is registered. Reads names only: no operator is
    imported."""
    declared = OPS.declared
    unknown = [n for n in network.nodes if n.kind not in declared]
    bad = [(n.origin or n.name, n.kind.replace(UNREAD, ""), network.opset, n.shape) for n in unknown]
    if bad:
        raise UnsupportedError(network.source, bad, [missing(n) for n in unknown])


def missing(node: Node) -> str:
    """Why a node whose kind is not registered cannot be run."""
    kind = node.kind
    if WHY in node.attrs:
        return node.attrs[WHY]
    op, _, number = kind.partition(":")
    if op.endswith("Dynamic") and not kind.startswith("Dynamic"):
        name = op.removesuffix("Dynamic")
        known = name in OPS.declared or name in RULES
        return f"{name} with attributes or structural inputs that are not handled" if known else "no such operator"
    return f"output {number} of {op} is not handled" if number else "no such operator"


def parse(data: Any, name: str, outputs: str = "") -> Any:
    """Bytes or ModelProto to a ModelProto with all its weights inside and no functions of its own, cut at the tensors
    `outputs` if any are named. Leaves the caller's proto untouched."""
    import onnx

    if isinstance(data, bytes):
        refuse_foreign(data)
        try:
            model = onnx.load_model_from_string(data)
        except Exception as e:
            raise ModelError(f"not an ONNX file, or one that is truncated or damaged ({first_line(e)})") from None
    else:
        model = data
    if not model.HasField("graph"):
        raise ModelError("not an ONNX file (it holds no graph)")
    if any(t.data_location == onnx.TensorProto.EXTERNAL for t in model.graph.initializer):
        model = with_external_data(model, name, copy=not isinstance(data, bytes))
    if model.functions:
        from onnx.inliner import inline_local_functions

        model = inline_local_functions(model)
    model = with_dense_weights(model)
    return cut(model, outputs) if outputs else model


def refuse_foreign(data: bytes) -> None:
    """Raises ModelError for files of other kinds that are given for a model by mistake."""
    if is_property(data):
        raise ModelError("not an ONNX file but a VNN-LIB property: give the model first, then the property")
    what = recognised(data) if data else "an empty file: it may not have been written or copied to its end"
    if what:
        raise ModelError(f"not an ONNX file but {what}")


def with_external_data(model: Any, name: str, copy: bool) -> Any:
    """Weights kept in files beside the model, read into it."""
    import onnx

    if not os.path.exists(name) and not os.path.exists(name + ".gz"):
        raise ModelError("the weights are in other files; give the model as a path")
    if copy:
        model = onnx.ModelProto.FromString(model.SerializeToString())
    try:
        onnx.load_external_data_for_model(model, os.path.dirname(os.path.abspath(name)))
    except Exception as e:
        raise FileError(f"{name}: the external data cannot be read: {first_line(e)}") from None
    return model


def one_graph(model: Any, look: Look, keep: tuple[str, ...]) -> Any:
    """The model without control flow that is constant and without operators that ONNX defines by others; either may
    bring the other."""
    known = RULES.declared | OPS.declared | RANDOM
    for _ in range(NESTED):
        made = inline_faithful(flatten(model, look, keep), known, look, keep)
        if made is model:
            break
        model = made
    return model


def build(
    model: Any,
    name: str,
    keep: tuple[str, ...],
    rewrite: bool,
    box: InputBox | None,
    config: ModelConfig,
    opaque: Mapping[str, str],
) -> Network:
    """Constants for fixed inputs, one graph, trace, lookups for pieces, rewrite; what is left without an operator goes
    to ONNX Runtime. Where structure depends on the input look at the shapes again."""
    inputs = input_places(model.graph, box, config.input_shapes)
    if not inputs:
        raise ModelError("the model has no inputs")
    fixed = fixed_inputs(inputs, box)
    free, tried = tuple(p for p in inputs if p.name not in fixed), samples(inputs, fixed, box)
    model = as_new(model, samples(inputs, {}, box))
    model = one_graph(with_constants(model, fixed), lambda part, kept=(): trace(part, free, tried, kept), keep)
    t = trace(model, free, tried, keep)
    cast = with_float_outputs(model, t.dtypes)
    if cast is not model:
        model, t = cast, trace(cast, free, tried, keep)
    refuse_outputs(t.outputs, {o: raw.inputs for raw in t.raws for o in raw.outputs}, t.dtypes)
    look_up(t, model, keep)
    if opaque:
        conceal(t, model, opaque, keep)
    listed = tuple(as_fixed(p, fixed) for p in inputs)

    def network() -> Network:
        draft = Draft(dict(t.shapes), dict(t.dtypes), dict(t.values), t.opset)
        for place in listed:
            draft.shapes[place.name], draft.dtypes[place.name] = place.shape, place.dtype
        return simplify(t.raws, draft, listed, t.outputs, name, keep, rewrite)

    made = network()
    strange = {n.name: missing(n) for n in made.nodes if n.kind not in OPS.declared}
    if strange and conceal(t, model, strange, keep):
        made = network()
    if any("Dynamic" in n.kind or n.kind == "Opaque" for n in made.nodes):
        t.again(probes(inputs, fixed, box))
    return made
