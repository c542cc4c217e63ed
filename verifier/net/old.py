"""Models of opset 6 and older, in which operators broadcast by attributes, are brought to opset 7 by onnx's converter.

A converter is trusted as far as the runtime confirms it: the file and what became of it are run at the same points, and
must compute the same. What ONNX Runtime does not run is refused, since no counterexample could be shown for it.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx
from onnx import helper, version_converter

from verifier.net.runtime import Tensors, first_line, run_session, session_of
from verifier.result import ModelError

OLDEST = 7  # the first opset that is read as it is
BESIDE = 13  # the opset of a file that names none and needs none


def as_new(model: onnx.ModelProto, samples: Sequence[Tensors]) -> onnx.ModelProto:
    """The model in opset 7 if it is older; itself if not. `samples` are points for all its inputs.

    Raises ModelError where the runtime cannot run it or the converter fails."""
    opset = next((o.version for o in model.opset_import if o.domain in ("", "ai.onnx")), 0)
    if opset >= OLDEST:
        return model
    if not opset:
        if any(n.domain in ("", "ai.onnx") for n in model.graph.node):
            raise ModelError("the file names no opset")
        made = onnx.ModelProto()  # only operators of other domains, beside which any version of ONNX's own may stand
        made.CopyFrom(model)
        made.opset_import.append(helper.make_opsetid("", BESIDE))
        return made
    way = f"export it again with opset {OLDEST} or later"
    old = outputs(model, samples, f"opset {opset} is too old for ONNX Runtime: {way}")
    try:
        made = version_converter.convert_version(model, OLDEST)
    except Exception as e:
        raise ModelError(f"opset {opset} cannot be converted: {first_line(e)}; {way}") from None
    new = outputs(made, samples, f"opset {opset} cannot be converted: {way}")
    same = len(old) == len(new) and all(a.shape == b.shape and np.array_equal(a, b) for a, b in zip(old, new))
    if not same:
        raise ModelError(f"opset {opset} cannot be converted: what comes of it computes something else; {way}")
    return made


def outputs(model: onnx.ModelProto, samples: Sequence[Tensors], otherwise: str) -> list[np.ndarray]:
    """What ONNX Runtime computes at all the points that the model runs at, one after another; at least at one."""
    import onnxruntime as ort

    error, found = "", []
    try:
        session = session_of(ort, model.SerializeToString())
    except ModelError as e:
        raise ModelError(f"{otherwise} ({e})") from None
    for sample in samples:
        try:
            found += run_session(session, sample)
        except Exception as e:
            error = first_line(e)
    if not found:
        raise ModelError(f"{otherwise} ({error})")
    return found
