"""Independent readings of a model: ONNX Runtime, the judge, and onnx2torch, which shares no code with our reader.

Both take points as flat float vectors x (n,), cut into the model's inputs in their order, and give y flat.
"""

from __future__ import annotations

import gzip
import os
import sys
import types

import numpy as np
import onnx
from onnx import version_converter


def model_bytes(source) -> bytes:
    """The bytes of a path (plain or gzip), or of bytes or a ModelProto."""
    if isinstance(source, onnx.ModelProto):
        return source.SerializeToString()
    if not isinstance(source, bytes):
        with open(os.fspath(source), "rb") as f:
            source = f.read()
    return gzip.decompress(source) if source[:2] == b"\x1f\x8b" else source


def cut(x: np.ndarray, shapes: list[tuple[int, ...]], dtypes: list[np.dtype]) -> list[np.ndarray]:
    """A flat vector as the inputs of a model."""
    ends = np.cumsum([int(np.prod(s)) for s in shapes])
    return [p.reshape(s).astype(d) for p, s, d in zip(np.split(np.asarray(x), ends[:-1]), shapes, dtypes)]


def run_ort(source, xs) -> list[np.ndarray]:
    """The outputs (p,) of the original model on each x (n,), float64; unknown dimensions are 1."""
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 4
    session = ort.InferenceSession(model_bytes(source), options, providers=["CPUExecutionProvider"])
    slots = session.get_inputs()
    shapes = [tuple(d if isinstance(d, int) and d > 0 else 1 for d in s.shape) for s in slots]
    types_ = {"tensor(float)": "float32", "tensor(double)": "float64", "tensor(float16)": "float16"}
    dtypes = [np.dtype(types_.get(s.type) or s.type[7:-1]) for s in slots]
    results = []
    for x in xs:
        feeds = {s.name: v for s, v in zip(slots, cut(x, shapes, dtypes))}
        results.append(np.concatenate([np.asarray(o, np.float64).reshape(-1) for o in session.run(None, feeds)]))
    return results


def stand_in_torchvision() -> None:
    """onnx2torch imports torchvision for three operators that no model here has; its wheels may not fit the torch."""
    try:
        import torchvision  # noqa: F401
    except Exception:
        for name in [n for n in sys.modules if n.split(".")[0] == "torchvision"]:
            del sys.modules[name]

        def absent(*_args, **_kwargs):
            raise NotImplementedError("torchvision is not there")

        package, ops = types.ModuleType("torchvision"), types.ModuleType("torchvision.ops")
        ops.roi_align = ops.nms = ops.box_convert = absent
        package.ops = ops
        sys.modules.update({"torchvision": package, "torchvision.ops": ops})


def onnx2torch_forward(source, x) -> np.ndarray | None:
    """The outputs (p,) on x (n,) by onnx2torch, float64; None where it cannot convert the model, whatever its opset."""
    import torch

    stand_in_torchvision()
    from onnx2torch import convert

    model = onnx.load_model_from_string(model_bytes(source))
    weights = {i.name for i in model.graph.initializer}
    inputs = [i for i in model.graph.input if i.name not in weights]
    shapes = [tuple(max(d.dim_value, 0) or 1 for d in i.type.tensor_type.shape.dim) for i in inputs]
    dtypes = [onnx.helper.tensor_dtype_to_np_dtype(i.type.tensor_type.elem_type) for i in inputs]
    parts = [torch.from_numpy(v) for v in cut(x, shapes, dtypes)]
    opset = next((o.version for o in model.opset_import if o.domain in ("", "ai.onnx")), 0)
    for target in (opset, 9, 11, 13, 14, 16):
        if target < opset:
            continue
        try:
            raised = model if target == opset else version_converter.convert_version(model, target)
            with torch.no_grad():
                y = convert(raised).eval()(*parts)
        except Exception:  # any of dozens of reasons, none of them ours
            continue
        ys = y if isinstance(y, (list, tuple)) else [y]
        return np.concatenate([v.numpy().astype(np.float64).reshape(-1) for v in ys])
    return None
