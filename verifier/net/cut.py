"""A model cut at tensors of the user's choice: they become its outputs, and what only other outputs need is gone.

Classifiers often end in a head that no property speaks of (ArgMax, labels as words, ZipMap). The file with its outputs
replaced is the model from then on, for bounds and for every run in ONNX Runtime alike.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping

import numpy as np
import onnx

from verifier.net.nested import reads
from verifier.net.runtime import is_number
from verifier.net.trace import live_nodes
from verifier.result import ModelError, UsageError

NAMED = 8  # names that an error lists
FLOAT = "//float"  # ends the name of an output that was cast to float32


def cut(model: onnx.ModelProto, outputs: str) -> onnx.ModelProto:
    """The model with the tensors `outputs` (names separated by commas) for its outputs, in this order; the caller's
    proto is left alone. Raises UsageError where the graph has no such tensor."""
    graph = model.graph
    yields = {o for n in graph.node for o in n.output if o}
    names = [outputs] if outputs in yields else [name.strip() for name in outputs.split(",") if name.strip()]
    for name in names:
        if name not in yields:
            near = difflib.get_close_matches(name, yields, NAMED, 0.6) or [o.name for o in graph.output]
            raise UsageError(f"--output {name}: no operator of the model yields it; perhaps {', '.join(near)}")
    if len(set(names)) < len(names) or not names:
        raise UsageError(f"--output {outputs}: expected names of tensors, each once, as in --output logits")
    types = {v.name: v for v in (*graph.value_info, *graph.output)}
    nodes = live_nodes(graph, tuple(names))
    needed = {i for n in nodes for i in reads(n)}
    made = onnx.ModelProto()
    made.CopyFrom(model)
    for field in ("node", "output", "value_info", "initializer"):
        made.graph.ClearField(field)
    made.graph.node.extend(nodes)
    made.graph.initializer.extend(t for t in graph.initializer if t.name in needed)
    made.graph.output.extend(types.get(name, onnx.ValueInfoProto(name=name)) for name in names)
    return made


def refuse_outputs(
    outputs: Iterable[str], inputs: Mapping[str, Iterable[str]], dtypes: Mapping[str, np.dtype | None]
) -> None:
    """Raises ModelError where an output is no tensor of numbers, with the tensors that it is made from that are.

    `inputs`: from every tensor to those that it is computed from; `dtypes`: element types, object for words, sequences
    and maps.
    """
    bad = [o for o in outputs if dtypes[o].kind in "OSU"]
    if not bad:
        return
    good = [o for o in outputs if o not in bad and dtypes[o].kind == "f"]
    seen, queue = set(bad), list(bad)
    while queue and not good:
        level = [i for o in queue for i in inputs.get(o, ()) if i and i not in seen]
        seen.update(level)
        good, queue = [i for i in dict.fromkeys(level) if i in inputs and dtypes[i].kind == "f"], level
    way = f"; choose with --output {good[0]}" if good else ""
    what = f"output {bad[0]!r} is" if len(bad) == 1 else f"outputs {', '.join(map(repr, bad[:NAMED]))} are"
    raise ModelError(f"{what} no tensor{'s' * (len(bad) > 1)} of numbers{way}")


def with_float_outputs(model: onnx.ModelProto, dtypes: Mapping[str, np.dtype]) -> onnx.ModelProto:
    """The model with a Cast to float32 behind every output whose element type no array has (bfloat16, float8, int4):
    float32 holds each of their numbers. The model itself where there is none."""
    odd = [o.name for o in model.graph.output if not is_number(dtypes[o.name]) and dtypes[o.name].kind not in "OSU"]
    if not odd:
        return model
    made = onnx.ModelProto()
    made.CopyFrom(model)
    for output in made.graph.output:
        if output.name in odd:
            cast = onnx.helper.make_node("Cast", [output.name], [output.name + FLOAT], to=onnx.TensorProto.FLOAT)
            made.graph.node.append(cast)
            output.CopyFrom(onnx.ValueInfoProto(name=cast.output[0]))
    return made
