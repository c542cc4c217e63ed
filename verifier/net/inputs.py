"""What the property says of the model's inputs: their unknown dimensions, the ones that never move, points to run at.

The property's variables X_0 … X_{n-1} are the entries of all inputs in the file's order; `InputBox` is the smallest box
that holds all its regions.

*Unknown dimensions.* The property says how many entries there are. A dimension without a number (one unknown for each
symbolic name, however often it occurs) is 1 where that fits; else the one dimension that explains the count alone gets
its value and all others are 1, and of several that could, those named like a batch stay 1. Whatever is left open is an
error that names the dimensions: a guess would verify another network.

*Fixed inputs.* An input of which every entry is held at one number in all regions is a constant, in the input's own
element type (of integers and truth values: whose box holds one whole number). So weights, axes and shapes that are
inputs of the model are known before operators are looked at. Sound, since no other value can reach the model. Where
nothing would be left to move, the first input of floating-point numbers stays: bounds prove in real arithmetic what
folding would leave to the runtime's roundings.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import onnx
from onnx import helper, numpy_helper

from verifier.net.graph import Shape, Tensor
from verifier.net.runtime import is_number
from verifier.result import ModelError, UsageError

MAX_ENTRIES = 2**29  # of one tensor: 2 GiB of float32
BATCH = re.compile(r"n|bs|.*batch.*", re.IGNORECASE)  # names of a dimension that counts samples
FIXED = "//fixed"  # ends the name under which a fixed input is listed; its own name is the constant's
EMPTY = "=0"  # ends the name of a dimension that is 0 in the file: some exporters mean "unknown" by that
Dims = list  # of int, or str where unknown: the symbolic name, or 'input[axis]'


@dataclass(frozen=True, eq=False)
class InputBox:
    """The least box (n,) float64 that holds every input the property speaks of; infinite where it says nothing."""

    lower: np.ndarray
    upper: np.ndarray

    def __len__(self) -> int:
        return len(self.lower)

    def part(self, start: int, place: Tensor) -> InputBox:
        """The box of the input whose first entry is X_start, in its shape."""
        cut = slice(start, start + place.size)
        return InputBox(self.lower[cut].reshape(place.shape), self.upper[cut].reshape(place.shape))


# --- shapes


def checked_dims(name: str, dims: Sequence[int]) -> Shape:
    """Dimensions as a shape, if a tensor of that shape can be held."""
    shape = tuple(int(d) for d in dims)
    if min(shape, default=0) < 0 or math.prod(shape) > MAX_ENTRIES:
        raise ModelError(f"tensor {name!r} of shape {list(shape)} is too large or has a negative dimension")
    return shape


def input_places(graph: onnx.GraphProto, box: InputBox | None = None, shapes: str = "") -> tuple[Tensor, ...]:
    """The model's inputs with all dimensions known; `shapes` are those given by the user (`given_shapes`).

    Raises ModelError for an input that is no tensor of numbers or whose dimensions do not follow, UsageError for
    shapes that do not fit.
    """
    names = {i.name for i in graph.initializer} | {i.values.name for i in graph.sparse_initializer}
    infos = [i for i in graph.input if i.name not in names]
    dims = {i.name: declared(i) for i in infos}
    known = bind(dims, given_shapes(shapes))
    dims = {name: [known.get(d, d) for d in ds] for name, ds in dims.items()}
    known = solve(dims, None if box is None else len(box))
    return tuple(
        Tensor(i.name, checked_dims(i.name, [known.get(d, d) for d in dims[i.name]]), element_type(i)) for i in infos
    )


def declared(info: onnx.ValueInfoProto) -> Dims:
    """The dimensions of an input as the file has them."""
    if not info.type.HasField("tensor_type") or not info.type.tensor_type.HasField("shape"):
        raise ModelError(f"input {info.name!r} is no tensor of known rank")
    dims = info.type.tensor_type.shape.dim
    unnamed = [f"{info.name}[{k}]" + EMPTY * (d.WhichOneof("value") == "dim_value") for k, d in enumerate(dims)]
    return [d.dim_value if d.dim_value > 0 else d.dim_param or name for d, name in zip(dims, unnamed)]


def element_type(info: onnx.ValueInfoProto) -> np.dtype:
    """The element type of an input of numbers."""
    kind = info.type.tensor_type.elem_type
    try:
        dtype = np.dtype(helper.tensor_dtype_to_np_dtype(kind))
    except Exception:
        raise ModelError(f"input {info.name!r} has an unknown element type ({kind})") from None
    if is_number(dtype) and (dtype.kind != "f" or dtype.itemsize in (2, 4, 8)):
        return dtype
    word = onnx.TensorProto.DataType.Name(kind).lower()
    if dtype.kind in "OcSU":
        raise ModelError(f"input {info.name!r} has elements of type {word}, not numbers; cut off what reads it")
    raise ModelError(
        f"input {info.name!r} has elements of type {word}, which points cannot be given in; "
        f"make it a float32 input and put a Cast to {word} behind it"
    )


def given_shapes(text: str) -> dict[str, Shape]:
    """Shapes by input from 'x=1,16,4;y=2' as users write them. Raises UsageError."""
    shapes = {}
    for word in filter(None, (w.strip() for w in text.split(";"))):
        name, _, dims = word.rpartition("=")
        if not name or not re.fullmatch(r"\d+(,\d+)*|", dims.replace(" ", "")):
            raise UsageError(f"input shape {word!r}: expected the name of an input and its dimensions, as in x=1,16,4")
        shapes[name.strip()] = tuple(int(d) for d in dims.split(",") if d.strip())
    return shapes


def bind(dims: Mapping[str, Dims], given: Mapping[str, Shape]) -> dict[str, int]:
    """Values of the unknown dimensions that the given shapes name. Raises UsageError where these do not fit."""
    known: dict[str, int] = {}
    for name, shape in given.items():
        if name not in dims:
            raise UsageError(f"--input-shape {name}=…: no such input; the model has {', '.join(dims)}")
        has = dims[name]
        pairs = list(zip(has, shape))
        fits = len(has) == len(shape) and all(s >= 1 and (isinstance(d, str) or d == s) for d, s in pairs)
        for d, s in pairs:
            fits = fits and (not isinstance(d, str) or known.setdefault(d, s) == s)
        if not fits:
            raise UsageError(f"--input-shape {name}={listed(shape)}: input {name!r} is [{listed(has)}] in the file")
    return known


def solve(dims: Mapping[str, Dims], count: int | None) -> dict[str, int]:
    """Values of the unknown dimensions such that all inputs together have `count` entries (None: all are 1)."""
    unknown = list(dict.fromkeys(d for ds in dims.values() for d in ds if isinstance(d, str)))
    ones = dict.fromkeys(unknown, 1)

    def total(values: Mapping[str, int]) -> int:
        return sum(math.prod(values.get(d, d) for d in ds) for ds in dims.values())

    empty = {**ones, **{d: 0 for d in unknown if d.endswith(EMPTY)}}
    if count is not None and total(empty) == count:
        return empty
    if count is None or not unknown or total(ones) == count:
        return ones
    found = {}
    for name in unknown:
        low, high = 1, count + 1  # the total grows with it: bisect
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (middle, high) if total({**ones, name: middle}) <= count else (low, middle)
        if total({**ones, name: low}) == count:
            found[name] = low
    if len(found) > 1:
        found = {k: v for k, v in found.items() if not BATCH.fullmatch(k)} or found
    if len(found) == 1:
        return {**ones, **found}
    open_ = [f"{name} [{listed(ds)}]" for name, ds in dims.items() if any(isinstance(d, str) for d in ds)]
    first = next(name for name, ds in dims.items() if any(isinstance(d, str) for d in ds))
    fits = " or ".join(f"{k}={v}" for k, v in found.items()) or "no value of one of them alone"
    guess = dict([next(iter(found.items()), ("", 1))])
    example = listed([guess.get(d, 1) if isinstance(d, str) else d for d in dims[first]])
    raise ModelError(
        f"unknown dimensions of {', '.join(open_)}: the property declares {count} inputs, which fits {fits}; check "
        f"that property and model belong together, or give the shape, as in --input-shape {first}={example}"
    )


def listed(dims: Sequence) -> str:
    return ",".join(map(str, dims))


# --- values


def fixed_inputs(places: Sequence[Tensor], box: InputBox | None) -> dict[str, np.ndarray]:
    """The inputs that the property holds at one value, by name; see the file's head."""
    if not fits(places, box):
        return {}
    found, start = {}, 0
    for place in places:
        value = only_value(box.part(start, place), place.dtype)
        start += place.size
        if value is not None:
            found[place.name] = value
    if len(found) == len(places):
        first = next((p.name for p in places if p.dtype.kind == "f" and p.size), None)
        found.pop(first, None)
    return found


def only_value(box: InputBox, dtype: np.dtype) -> np.ndarray | None:
    """The one value of `dtype` that the model can receive from the box, None where there are several or none."""
    lower, upper = box.lower, box.upper
    if dtype.kind == "f":
        with np.errstate(over="ignore"):
            value = lower.astype(dtype)
        return value if (lower == upper).all() and np.isfinite(value).all() else None
    lower, upper = np.ceil(lower), np.floor(upper)
    if (lower != upper).any():
        return None
    info = np.iinfo(np.uint8 if dtype.kind == "b" else dtype)
    held = (lower >= float(info.min)) & (lower < float(int(info.max) + 1))
    return lower.astype(dtype) if held.all() else None


def with_constants(model: onnx.ModelProto, values: Mapping[str, np.ndarray]) -> onnx.ModelProto:
    """The model with weights in place of some inputs; the given one is left as it is."""
    if not values:
        return model
    made = onnx.ModelProto()
    made.CopyFrom(model)
    kept = [i for i in made.graph.input if i.name not in values]
    del made.graph.input[:]
    made.graph.input.extend(kept)
    made.graph.initializer.extend(numpy_helper.from_array(value, name) for name, value in values.items())
    made.ir_version = max(made.ir_version, 4)  # from 4 on, initializers need not be inputs
    return made


def as_fixed(place: Tensor, fixed: Mapping[str, np.ndarray]) -> Tensor:
    """An input as the network lists it: a fixed one under a name that nothing reads."""
    return replace(place, name=place.name + FIXED) if place.name in fixed else place


def samples(
    places: Sequence[Tensor], fixed: Mapping[str, np.ndarray], box: InputBox | None
) -> list[dict[str, np.ndarray]]:
    """Values for the inputs that are not fixed, best first: the middle of the box if there is one, ones, zeros."""
    free = [p for p in places if p.name not in fixed]
    plain = [{p.name: np.full(p.shape, v, p.dtype) for p in free} for v in (1, 0)]
    return [*points(places, fixed, box, [0.5]), *plain] if fits(places, box) else plain


def probes(
    places: Sequence[Tensor], fixed: Mapping[str, np.ndarray], box: InputBox | None
) -> list[dict[str, np.ndarray]]:
    """More values for the inputs that are not fixed: both ends of the box and random points of it; without a box, of
    boxes of several sizes."""
    if fits(places, box):
        return points(places, fixed, box, [0.0, 1.0, None, None, None])
    n = sum(p.size for p in places)
    boxes = [InputBox(np.zeros(n), np.full(n, float(size))) for size in (1, 8, 64)]
    return [sample for b in boxes for sample in points(places, fixed, b, [0.0, None])]


def fits(places: Sequence[Tensor], box: InputBox | None) -> bool:
    return box is not None and sum(p.size for p in places) == len(box)


def points(
    places: Sequence[Tensor], fixed: Mapping[str, np.ndarray], box: InputBox, shares: Sequence[float | None]
) -> list[dict[str, np.ndarray]]:
    """A point of the box for each of the shares (`point_of`), None for a random one."""
    rng, start = np.random.default_rng(0), 0
    found: list[dict[str, np.ndarray]] = [{} for _ in shares]
    for place in places:
        for share, sample in zip(shares, found):
            if place.name not in fixed:
                at = rng.random(place.shape) if share is None else share
                sample[place.name] = point_of(box.part(start, place), at, place.dtype)
        start += place.size
    return found


def point_of(box: InputBox, share: np.ndarray | float, dtype: np.dtype) -> np.ndarray:
    """A point of the box in `dtype`, `share` of the way from its lower to its upper end; where an end is infinite,
    next to the other end or to 0."""
    lower, upper = box.lower, box.upper
    lower = np.where(np.isfinite(lower), lower, np.where(np.isfinite(upper), upper - 1.0, 0.0))
    upper = np.where(np.isfinite(upper), upper, lower + 1.0)
    x = lower * (1.0 - share) + upper * share
    if dtype.kind == "f":
        info = np.finfo(dtype)
        return np.clip(x, float(info.min), float(info.max)).astype(dtype)
    if dtype.kind == "b":
        return np.round(x) != 0
    info = np.iinfo(dtype)
    x = np.clip(np.round(x), np.ceil(lower), np.maximum(np.ceil(lower), np.floor(upper)))
    top = np.nextafter(float(int(info.max) + 1), 0.0)  # the greatest float64 that the type holds, rounded down
    return np.clip(x, float(info.min), np.floor(top)).astype(dtype)
