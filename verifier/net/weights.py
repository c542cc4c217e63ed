"""Weights: read from the file, sparse ones made dense, numbers that are not finite found before they spoil a search.

A NaN in a weight, or an infinity in one that something is multiplied by, makes outputs that are no numbers: the file is
broken (training diverged, or a conversion overflowed), and no answer about it means anything. Infinities that are added
or compared, such as the -inf of a mask, are ordinary.
"""

from __future__ import annotations

from collections.abc import Container, Mapping, Sequence

import numpy as np
import onnx
from onnx import helper, numpy_helper

from verifier.net.draft import Raw
from verifier.net.inputs import checked_dims
from verifier.net.runtime import Tensors, first_line
from verifier.result import ModelError

PRODUCTS = {"MatMul", "Gemm", "Conv", "ConvTranspose", "LSTM", "GRU", "RNN", "BatchNormalization"}
PRODUCTS |= {f"{kind}Normalization" for kind in ("Layer", "RMS", "Group", "Instance")}
SUMMED = {"Gemm": (2,)}  # inputs that are added, not multiplied
SUMS = {"Add", "Sub", "Mul", "Div", "Sum"}  # nothing but NaN comes of NaN in these either


def read_weights(graph: onnx.GraphProto, used: set[str]) -> Tensors:
    """The initializers that are used, as arrays."""
    weights = {}
    for tensor in graph.initializer:
        if tensor.name in used:
            checked_dims(tensor.name, tensor.dims)
            try:
                weights[tensor.name] = numpy_helper.to_array(tensor)
            except Exception as e:
                raise ModelError(f"weight {tensor.name!r} cannot be read: {first_line(e)}") from None
    return weights


def with_dense_weights(model: onnx.ModelProto) -> onnx.ModelProto:
    """The model with dense weights and constants in place of sparse ones; the given one is left as it is."""
    constants = [k for k, n in enumerate(model.graph.node) if any(a.name == "sparse_value" for a in n.attribute)]
    if not model.graph.sparse_initializer and not constants:
        return model
    made = onnx.ModelProto()
    made.CopyFrom(model)
    for sparse in model.graph.sparse_initializer:
        made.graph.initializer.append(dense(sparse, sparse.values.name))
    del made.graph.sparse_initializer[:]
    for k in constants:
        node = made.graph.node[k]
        value = dense(node.attribute[0].sparse_tensor, node.output[0])
        node.attribute[0].CopyFrom(helper.make_attribute("value", value))
    return made


def dense(sparse: onnx.SparseTensorProto, name: str) -> onnx.TensorProto:
    """A sparse tensor as an ordinary one; places are flat or tuples."""
    dims = checked_dims(name, sparse.dims)
    try:
        values, places = numpy_helper.to_array(sparse.values), numpy_helper.to_array(sparse.indices)
        array = np.zeros(dims, values.dtype)
        array[np.unravel_index(places, dims) if places.ndim == 1 else tuple(places.T)] = values
    except Exception as e:
        raise ModelError(f"sparse weight {name!r} cannot be read: {first_line(e)}") from None
    return numpy_helper.from_array(array, name)


def refuse_not_finite(raws: Sequence[Raw], values: Mapping[str, np.ndarray], weights: Container[str]) -> None:
    """Raises ModelError for the first operator that multiplies by a constant with a number that is not finite, or adds
    a NaN; it names the one of the file's `weights` that the number comes from."""
    bad = {name: text for name, value in values.items() if (text := not_finite(value))}
    if not bad:
        return
    makers = {o: raw for raw in raws for o in raw.outputs if o}
    for raw in raws:
        if all(o in values for o in raw.outputs if o):
            continue
        for k, name in enumerate(raw.inputs):
            multiplied = raw.op in PRODUCTS and k not in SUMMED.get(raw.op, ())
            if name in bad and (multiplied or (raw.op in PRODUCTS | SUMS and "NaN" in bad[name])):
                source = name
                while source not in weights and source in makers:  # back to the file's own weight
                    source = next((i for i in makers[source].inputs if i in bad), "")
                source = source or name
                what = "weight" if source in weights else "constant"
                raise ModelError(
                    f"{what} {source!r} has {bad[source]}, and {raw.op} {raw.origin or raw.outputs[0]!r} computes with "
                    "it, so the outputs are no numbers; export the model again from weights that are finite"
                )


def not_finite(value: np.ndarray) -> str:
    """How many numbers of an array are not finite, in words; '' where all are."""
    if value.dtype.kind != "f" or np.isfinite(value).all():
        return ""
    nan = int(np.isnan(value).sum())
    inf = int(np.isinf(value).sum())
    return " and ".join(f"{count} {word}" for count, word in ((nan, "NaN"), (inf, "infinite entries")) if count)
