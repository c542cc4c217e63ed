"""ONNX Runtime sessions, and tensors of every element type out of them.

An element type is what ONNX calls it. numpy has no float8, bfloat16 or int4; arrays of these have a dtype of
`ml_dtypes`, as in onnx itself. ONNX Runtime's Python interface hands out some of them as numbers of another type
(float8e4m3fn as uint8) and most not at all, so results are taken as its own values, which know their type.
"""

from __future__ import annotations

import ctypes
import re
from collections.abc import Mapping
from typing import Any

import numpy as np
import onnx
from onnx import helper, numpy_helper

from verifier.result import ModelError

Tensors = dict[str, np.ndarray]


def first_line(e: BaseException) -> str:
    """An error's first line, short enough for one line of ours."""
    text = " ".join(str(e).strip().splitlines()[:1]) or type(e).__name__
    text = re.sub(r"(/\S*onnxruntime\S*:\d+ ).*\) (?=\S{2})", "", text)  # where in its source it happened
    return text if len(text) <= 300 else text[:297] + "..."


def element_type(dtype: np.dtype) -> int:
    """ONNX's number of an element type."""
    return helper.np_dtype_to_tensor_dtype(dtype)


def is_number(dtype: np.dtype) -> bool:
    """Whether an element type is one of numpy's own numbers or truth values: those that operators are modelled for."""
    return dtype.isbuiltin == 1 and dtype.kind in "fiub"


def session_of(ort: Any, data: bytes) -> Any:
    """A session that computes exactly what the graph says, on one thread, and prints nothing."""
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 4
    options.enable_cpu_mem_arena = False
    try:
        return ort.InferenceSession(data, options, providers=["CPUExecutionProvider"], enable_fallback=0)
    except Exception as e:
        raise ModelError(f"ONNX Runtime refuses the model: {first_line(e)}") from None


def run_session(session: Any, feeds: Mapping[str, np.ndarray]) -> list[Any]:
    """All outputs in order; None for what is no tensor (a sequence, an optional value). Raises what ONNX Runtime
    raises."""
    from onnxruntime import OrtValue

    names = [o.name for o in session.get_outputs()]
    given = {name: OrtValue.ortvalue_from_numpy(np.asarray(value)) for name, value in feeds.items()}
    return [array_of(value) for value in session.run_with_ort_values(names, given)]


def array_of(value: Any) -> np.ndarray | None:
    """A value of ONNX Runtime as an array of its own element type, None if it is no tensor."""
    if not value.has_value() or not value.is_tensor():
        return None
    kind = value.element_type()
    dtype = np.dtype(helper.tensor_dtype_to_np_dtype(kind))
    if dtype.isbuiltin == 1:
        return value.numpy()
    size = value.tensor_size_in_bytes()  # as in files: types below a byte are packed
    data = ctypes.string_at(value.data_ptr(), size) if size else b""
    return numpy_helper.to_array(onnx.TensorProto(data_type=kind, dims=value.shape(), raw_data=data))
