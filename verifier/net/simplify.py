"""Rewrites that bring every operator to one normal form, whatever the opset and whoever exported the file.

Normal form of a `Network`. "Constant" means independent of the network's inputs. Tensors are named as in the file;
made-up ones contain '//'. In every row: attributes are Python numbers, strings, tuples or numpy arrays; axes are
non-negative; shapes are static, so whatever the result's shape says already (Reshape's target, Expand's) is said by
`node.shape` only. Inputs marked c are always constant.

  kind                   inputs              attrs and meaning

  Linear                 x, c W (in, out), b y = x W + b on the last axis, any rank of x; b is c (out,) or ''. From
                                             Gemm, and MatMul by a constant matrix or vector on the right
  MatMul                 a, b                numpy's matmul: both variable, or a constant on the left, or a constant
                                             stack of several matrices
  Conv                   x, W, b or ''       strides, dilations (s each), pads (2 s: all begins, then all ends),
                                             group; auto_pad is resolved
  ConvTranspose          x, W, b or ''       the same and output_padding (s); output_shape and auto_pad are resolved
                                             into pads
  MaxPool                x                   kernel_shape, strides, dilations (s), pads (2 s), ceil_mode 0 or 1 (out
                                             size: node.shape)
  AveragePool            x                   as MaxPool, and count_include_pad 0 or 1
  BatchNormalization     x, c scale, c shift y = scale x + shift, both (C,) float64 along axis 1, from gamma, beta,
                                             mean, var and epsilon
  Add Sub Mul Div Pow    a, b                numpy broadcasting; either may be constant. Sum becomes Adds; Mean
                                             becomes Adds and a Div; Mul (x, x) becomes Pow (x, 2)
  Max Min                a, b                numpy broadcasting; longer lists become chains, a single one vanishes
  MaxJoin                b, r, a             b + r, where r = relu(a - b) (broadcasting): the maximum of a and b
  MinJoin                a, r, b             a - r, where r = relu(a - b): the minimum of a and b
  Share                  i, u                i / u, which lies in [0, 1] (`verifier.net.rewrites_shares`); 0 for i <= 0
  Equal Less Greater     a, b                likewise; also LessOrEqual GreaterOrEqual And Or Xor, and Not with one
                                             input. Of two floats that both depend on x, an order is that of their
                                             difference and 0
  BitwiseAnd BitwiseOr   a, b                integers; also BitwiseXor, and BitShift (direction). BitwiseNot becomes Sub
  Where                  condition, a, b     broadcasting
  Relu Sigmoid Tanh Sin  x                   no attributes; likewise Cos Tan Exp Log Sqrt Reciprocal Abs Neg Sign
                                             Floor Ceil Round Erf Softplus Softsign HardSwish Mish Asin Acos Atan
                                             Sinh Cosh Asinh Acosh Atanh IsNaN
  LeakyRelu Elu Celu     x                   alpha; also ThresholdedRelu (alpha), Selu (alpha, gamma), HardSigmoid
                                             (alpha, beta), Gelu (approximate: 'none' or 'tanh', off), Shrink (bias,
                                             lambd), Swish (alpha)
  Table                  x                   points (ascending), slopes (one more), value: floats. Piecewise linear
                                             with these slopes between the points and `value` at the first
  PRelu                  x, slope            slope broadcasts to x
  Clip                   x                   min, max: floats, -inf or inf where absent. Bounds that depend on x:
                                             Max, then Min
  Softmax LogSoftmax     x                   axes: tuple; normalised over all of them at once (before opset 13:
                                             every axis from `axis` on); also Hardmax
  ReduceSum ReduceMean   x                   axes: tuple, never empty; keepdims 0 or 1. Also ReduceMax ReduceMin
                                             ReduceProd ReduceLogSumExp. GlobalAveragePool and GlobalMaxPool become
                                             ReduceMean and ReduceMax; ReduceL1, ReduceL2, ReduceSumSquare and
                                             ReduceLogSum become ReduceSum with Abs, Pow (x, 2), Sqrt, Log around it.
                                             Integers are reduced between two Casts, but for ReduceMax, ReduceMin
  ArgMax ArgMin          x                   axis, keepdims, select_last_index. Over two floats: Sub, Greater (…),
                                             Cast
  Reshape                x                   none: target is node.shape. Also from Flatten, Squeeze, Unsqueeze; runs
                                             of them are merged
  Transpose              x                   perm
  Slice                  x                   axes, starts, ends, steps: along axes[i] the entries range(starts[i],
                                             ends[i], steps[i]) are taken, all of them inside the axis (a negative
                                             step may have end -1). Split becomes one Slice per piece
  Concat                 two or more         axis; some may be constant
  Gather                 x                   axis, indices (int64 array of any rank, non-negative): numpy.take
  Pick                   x                   positions (int64 array of node.shape): y = x.ravel()[positions]. From
                                             GatherElements, GatherND
  Place                  data, updates       positions (int64, of updates' shape, without repeats unless reduction
                                             is 'add'), reduction 'none' or 'add': y = data; y.ravel()[positions] =
                                             (or +=) updates. From ScatterND, ScatterElements; either may be
                                             constant
  Expand                 x                   none: x broadcast to node.shape
  Tile                   x                   repeats (one per axis)
  Pad                    x                   pads (2 rank: all begins, then all ends; >= 0), mode 'constant',
                                             'reflect', 'edge' or 'wrap', value (float). Negative pads become a
                                             Slice first
  Resize                 x                   mode 'nearest': axes and indices (one int64 array (out,) per axis:
                                             index_select along it). Any other mode: 'linear' with axes and weights
                                             (one float64 (out, in) per axis, applied one axis after another). Also
                                             from Upsample
  Cast                   x                   to: numpy dtype name ('int64', 'float32', 'bool', …). Casts to the same
                                             type vanish. To integers also saturate, whole, near (0 or 1): beyond
                                             the type's ends its ends; x is whole; x is a float that was computed
  OneHot                 indices             axis, depth, off, on (floats); negative indices count from depth,
                                             others outside give `off` everywhere
  CumSum                 x                   axis, exclusive, reverse
  TopK                   x                   axis, k, largest, sorted
  Einsum                 any                 equation, without blanks
  Trees                  x                   feature, cut, closed, yes, no, roots, weights: numpy arrays, aggregate
                                             (`verifier.ops.trees`). From TreeEnsemble, TreeEnsembleRegressor and
                                             TreeEnsembleClassifier of ai.onnx.ml

Vanish: Identity, Dropout, Constant, and Shape, Size, ConstantOfShape, Range, EyeLike, … where they are constant.
Rewritten into others: DepthToSpace, SpaceToDepth (Reshape, Transpose, Reshape), Trilu (Mul by a constant mask), LRN,
LpPool and GlobalLpPool (Pow, Conv, MatMul, ReduceSum, Sqrt, …), GridSample at a constant grid (Pick, Mul, Add), DFT and
STFT (Linear), Conv and ConvTranspose with weights that depend on x (Pick, MatMul, Place), Col2Im and MaxUnpool
(Place), ReverseSequence (Pick), CumProd and Det (Slice, Gather, Mul, Add, Sub),
LayerNormalization, InstanceNormalization, GroupNormalization, RMSNormalization, LpNormalization (ReduceMean, Sub, Mul,
Sqrt, Div, …), Gemm with two variable matrices (MatMul, Add), LSTM, GRU, RNN (Linear, Sigmoid, Tanh, Mul, … for every
step), MatMulInteger, ConvInteger, QLinearMatMul, QLinearConv (Cast, Sub, Linear or Conv, Mul, QuantizeLinear with the
attribute `jitter`).

Rewrites. What stands above is the normal form of each operator by itself; with `rewrite` (the default) nodes are then
merged and replaced, exactly in real arithmetic, each rewrite saying why. What follows holds afterwards:
  affine       no Sub of a constant (Add). Maps entry by entry with constants are inside a neighbouring Linear, Conv or
               ConvTranspose, and one after another are one, as far as nobody reads what lies between. A Linear after a
               Linear is one where that is no larger; two of one tensor that are added are one
  numbers      no Div by a variable (Mul by a Reciprocal; an overlap over a union is a Share; a Clip follows where a
               vector is divided by its norm), except of integers; no
               Mul of a tensor by itself; no Pow to 1, 1/2, -1 (Sqrt, Reciprocal); no HardSigmoid (Mul, Add, Clip); no
               Clip to [0, inf) (Relu); clippings in a row are one. Softmax, Softplus, Sigmoid, Gelu by erf, Swish, Mish
               and HardSwish are so however they are spelled
  extremes     no Max or Min of floating-point numbers (Sub, Relu, MaxJoin or MinJoin; with finite constants Add, Relu,
               Add), no MaxPool, ReduceMax, ReduceMin and ReduceProd over up to 9 entries, while the graph is small
  order        no ArgMax or ArgMin of a softmax (of its argument instead)
  ReLUs        no pairs of opposite neurons between two Linears, where they are many; sums of ReLUs of one number are
               Tables
  products     no Einsum of two variables that is a MatMul or Mul of them (with Transposes and Reshapes); no MatMul of a
               constant matrix and a column (Linear)
  moves        no two Transposes or Reshapes with only functions of one number between them
  duplicates   no two nodes that compute the same, unless an output or a kept tensor is one

Structure that depends on x. Where the indices, axes, pads, starts, shape or other structural input of an operator are
not constant, the kind is '<Op>Dynamic', its inputs are those of the file (all of them), its attributes ONNX's:
GatherDynamic, ScatterNDDynamic, SliceDynamic, RangeDynamic, ReshapeDynamic, … Their shapes, and those of what is made
from them, are the ones seen on zeros; only the outputs have been seen to keep theirs on several inputs. A shape that
may change is not constant: it comes from ShapeDynamic. A piece of the model with such shapes inside that depends on a
few integers alone is one node: 'Lookup', inputs these integers, attribute `piece` (`verifier.net.lookup`).

Without an operator. What has no kind here and ONNX Runtime runs is left to it: 'Opaque', inputs as far back as they can
be seen, attributes `piece`, `op` and `why` (`verifier.net.opaque`). Before that, branches, loops and sequences that do
not depend on x are carried out (`verifier.net.control`), and operators that ONNX defines by others are replaced by
their bodies (`verifier.net.functions`).

Several outputs. Output k > 0 of an operator with several that is not rewritten is a node of its own with kind '<Op>:k'
and the inputs and attributes of the first ('TopK:1' are the indices).

Everything else keeps ONNX's kind, inputs and attributes, with the defaults of its opset filled in.

Constants. Untouched weights keep their element type; constants that an operator of the file computes are what ONNX
Runtime computes; those derived here (BatchNormalization's, Gemm's alpha W and beta b, merged weights) are computed in
float64 from the file's values and stay float64: whoever binds the network to a precision rounds them once. A network
output is always a node.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial

import numpy as np

from verifier.net import rewrites_affine as affine
from verifier.net import rewrites_einsum as einsum
from verifier.net import rewrites_extremes as extremes
from verifier.net import rewrites_functions as functions
from verifier.net import rewrites_gates as gates
from verifier.net import rewrites_guards as guards
from verifier.net import rewrites_moves as moves
from verifier.net import rewrites_order as order
from verifier.net import rewrites_ranges as ranges
from verifier.net import rewrites_relus as relus
from verifier.net import rewrites_shares as shares
from verifier.net import (  # noqa: F401
    rules_affine,
    rules_linear,
    rules_ml,
    rules_moves,
    rules_other,
    rules_pools,
    rules_quantize,
    rules_recurrent,
    rules_resize,
    rules_trees,
)
from verifier.net.draft import Draft, Raw
from verifier.net.graph import Network, Tensor
from verifier.net.local import Local, apply_local
from verifier.net.rewrites_places import take_differences

Rewrite = Callable[[Draft, frozenset[str]], bool]

NEVER_THE_SAME = {"RandomNormal", "RandomUniform", "RandomNormalLike", "RandomUniformLike", "Bernoulli", "Multinomial"}
NEVER_THE_SAME |= {"Dropout", "DropoutDynamic", "Dropout:1", "DropoutDynamic:1"}
LARGEST_KEY = 64  # entries of a constant that is compared by its content, larger ones by name


def simplify(
    raws: list[Raw],
    draft: Draft,
    inputs: tuple[Tensor, ...],
    outputs: tuple[str, ...],
    source: str = "",
    keep: tuple[str, ...] = (),
    rewrite: bool = True,
) -> Network:
    """Brings the operators to the normal form, and replaces and merges them unless `rewrite` is off. Tensors in
    `outputs` and `keep` survive under their names."""
    for raw in raws:
        if any(o and o not in draft.values for o in raw.outputs):
            draft.apply(raw)
    move_constants(draft, inputs)
    outputs = outputs_as_nodes(draft, inputs, outputs)
    roots = frozenset((*outputs, *keep))
    settle(draft, roots, rewrite)
    if rewrite:
        take_differences(draft, roots)
        settle(draft, roots, False)
    used = {i for n in draft.nodes for i in n.inputs}
    constants = {name: value for name, value in draft.values.items() if name in used}
    places = tuple(Tensor(o, draft.shapes[o], draft.dtypes[o]) for o in outputs)
    errors = {name: e for name, e in draft.errors.items() if name in constants and name in draft.rough}
    return Network(inputs, tuple(draft.nodes), constants, places, draft.opset, source, errors)


def settle(g: Draft, roots: frozenset[str], rewrite: bool) -> None:
    """Rewrites until nothing changes. Every step makes nodes fewer or simpler, so there is an end."""
    changed = True
    while changed:
        changed = any([step(g, roots) for step in (*TIDYING, *(REWRITES if rewrite else ()))])


def outputs_as_nodes(g: Draft, inputs: tuple[Tensor, ...], outputs: tuple[str, ...]) -> tuple[str, ...]:
    """Names of the outputs, each of them a node. An input y as output becomes a Reshape to its own shape under a new
    name; a constant c is put beside x_0, the first entry of the first input that has any, and taken from there: in
    float64, which holds whole numbers as a replay compares them."""
    names = {t.name for t in inputs}
    result = []
    for name in outputs:
        if name in names:
            name = g.emit("Reshape", (name,), shape=g.shapes[name])
        elif name in g.values:
            value = g.values.pop(name)
            rename_constant(g, name, value)
            x = emit_standing(g, inputs, value, name)
            g.dtypes[name] = np.dtype(np.float64)
            g.emit("Reshape", (x,), name)
        result.append(name)
    return tuple(result)


def rename_constant(g: Draft, name: str, value: np.ndarray) -> None:
    """Lets nodes that read the constant `name` read it under another name."""
    if any(name in n.inputs for n in g.nodes):
        other = g.constant(value, name)
        g.nodes = [replace(n, inputs=tuple(other if i == name else i for i in n.inputs)) for n in g.nodes]


def emit_standing(g: Draft, inputs: tuple[Tensor, ...], value: np.ndarray, name: str) -> str:
    """A constant beside x_0, flat, in float64; see `outputs_as_nodes`."""
    bias = value.astype(np.float64).reshape(-1)
    source = next((t for t in inputs if t.size), inputs[0])
    x = g.emit("Reshape", (source.name,), shape=(source.size,))
    x = g.emit("Slice", (x,), shape=(1,), axes=(0,), starts=(0,), ends=(1,), steps=(1,))
    if source.dtype.kind != "f":
        x = g.emit_dtype("Cast", (x,), (1,), np.dtype(np.float64), to="float64")
    return beside(g, x, bias, name)


def move_constants(g: Draft, inputs: tuple[Tensor, ...]) -> None:
    """Nodes that rules made of constants alone read the first of them beside x_0: operators need an input that moves,
    and bounds see to what their arithmetic rounds."""
    nodes, g.nodes = g.nodes, []
    for n in nodes:
        if n.inputs and all(not i or i in g.values for i in n.inputs):
            k = next(k for k, i in enumerate(n.inputs) if i)
            name = n.inputs[k]
            x, dtype = emit_standing(g, inputs, g.values[name], name), g.dtypes[name]
            if dtype.kind != "f":
                x = g.emit_dtype("Cast", (x,), g.shapes[x], dtype, to=dtype.name, whole=1)
            x = g.emit("Reshape", (x,), shape=g.shapes[name])
            n = replace(n, inputs=(*n.inputs[:k], x, *n.inputs[k + 1 :]))
        g.nodes.append(n)


def beside(g: Draft, x: str, value: np.ndarray, name: str) -> str:
    """A constant (n,) float64 as a node that reads x (1,): what is moved about is exact. Numbers that single precision
    does not hold are rounded when the network is bound, which sums account for: these become x 0 + value."""
    kind, n = np.dtype(np.float64), value.size
    with np.errstate(over="ignore"):
        if (value.astype(np.float32) != value).any():
            weight = g.constant(np.zeros((1, n)), name)
            return g.emit_dtype("Linear", (x, weight, g.constant(value, name)), (n,), kind)
    both = g.emit_dtype("Concat", (x, g.constant(value, name)), (n + 1,), kind, axis=0)
    return g.emit("Slice", (both,), shape=(n,), axes=(0,), starts=(1,), ends=(n + 1,), steps=(1,))


def drop_dead(g: Draft, roots: frozenset[str]) -> bool:
    """Nodes that no root needs."""
    needed, alive = set(roots), []
    for n in reversed(g.nodes):
        if n.name in needed:
            needed.update(n.inputs)
            alive.append(n)
    changed = len(alive) < len(g.nodes)
    g.nodes = alive[::-1]
    return changed


def drop_identities(g: Draft, roots: frozenset[str]) -> bool:
    """Readers of an Identity read its input. A root keeps its name: its producer takes it, or it becomes a Reshape to
    its own shape."""
    by_name = {n.name: n for n in g.nodes}
    alias: dict[str, str] = {}
    for n in g.nodes:
        if n.kind == "Identity":
            source = alias.get(n.inputs[0]) or n.inputs[0]
            if n.name not in roots:
                alias[n.name] = source
            elif source in by_name and source not in roots and source not in alias.values():
                alias[source] = n.name
                by_name.pop(source)
            else:
                alias[n.name] = ""
    if not alias:
        return False
    nodes = []
    for n in g.nodes:
        inputs = tuple(alias.get(i) or i for i in n.inputs)
        if n.kind == "Identity":
            if alias.get(n.name) == "":
                nodes.append(replace(n, kind="Reshape", inputs=inputs))
            continue
        nodes.append(replace(n, name=alias.get(n.name) or n.name, inputs=inputs))
    g.nodes = nodes
    return True


def drop_duplicates(g: Draft, roots: frozenset[str]) -> bool:
    """Of two nodes that compute the same from the same, readers of the second read the first."""
    seen: dict[tuple, str] = {}
    alias: dict[str, str] = {}
    number = {name: content(value) for name, value in g.values.items() if value.size <= LARGEST_KEY}
    for k, n in enumerate(g.nodes):
        inputs = tuple(alias.get(i, i) for i in n.inputs)
        if inputs != n.inputs:
            g.nodes[k] = n = replace(n, inputs=inputs)
        if n.kind not in NEVER_THE_SAME:
            attrs = tuple((a, content(v)) for a, v in sorted(n.attrs.items()))
            key = (n.kind, tuple(number.get(i, i) for i in inputs), n.shape, n.dtype, attrs)
            first = seen.setdefault(key, n.name)
            if first != n.name and n.name not in roots:
                alias[n.name] = first
    return bool(alias)


def content(value: object) -> object:
    """What tells an attribute or a constant from others: all of it, to the last bit."""
    if isinstance(value, np.ndarray):
        return value.shape, value.dtype.str, value.tobytes()
    if isinstance(value, (tuple, list)):
        return tuple(content(v) for v in value)
    return type(value).__name__, repr(value)


def merge_reshapes(g: Draft, roots: frozenset[str]) -> bool:
    """A Reshape of a Reshape reads the first one's input; a Reshape to its input's own shape is an Identity unless a
    root needs it."""
    by_name = {n.name: n for n in g.nodes}
    changed = False
    for k, n in enumerate(g.nodes):
        if n.kind != "Reshape":
            continue
        before = by_name.get(n.inputs[0])
        if before is not None and before.kind == "Reshape":
            n, changed = replace(n, inputs=before.inputs), True
        source = n.inputs[0]
        if g.shapes[source] == n.shape and (n.name not in roots or (source in by_name and source not in roots)):
            n, changed = replace(n, kind="Identity"), True
        g.nodes[k] = by_name[n.name] = n
    return changed


def merge_transposes(g: Draft, roots: frozenset[str]) -> bool:
    """Two Transposes in a row are one; one that moves only axes of length 1 is a Reshape."""
    by_name = {n.name: n for n in g.nodes}
    changed = False
    for k, n in enumerate(g.nodes):
        if n.kind != "Transpose":
            continue
        before = by_name.get(n.inputs[0])
        if before is not None and before.kind == "Transpose":
            perm = tuple(before.attrs["perm"][p] for p in n.attrs["perm"])
            n, changed = replace(n, inputs=before.inputs, attrs={"perm": perm}), True
        moved = [p for p in n.attrs["perm"] if g.shapes[n.inputs[0]][p] != 1]
        if moved == sorted(moved):
            n, changed = replace(n, kind="Reshape", attrs={}), True
        g.nodes[k] = by_name[n.name] = n
    return changed


def joined(*families: dict[str, tuple[Local, ...]]) -> dict[str, tuple[Local, ...]]:
    """Local rewrites by kind, earlier families first."""
    kinds = {kind for family in families for kind in family}
    return {kind: tuple(rule for family in families for rule in family.get(kind, ())) for kind in kinds}


REST = joined(
    moves.RULES,
    affine.FIRST,
    affine.LAST,
    shares.RULES,
    ranges.RULES,
    guards.RULES,
    functions.RULES,
    gates.RULES,
    extremes.RULES,
    einsum.RULES,
    order.RULES,
    {"Linear": (relus.lookup,)},
)
TIDYING: tuple[Rewrite, ...] = (drop_dead, drop_identities, merge_transposes, merge_reshapes)
REWRITES: tuple[Rewrite, ...] = (
    drop_duplicates,
    partial(apply_local, rules=affine.FIRST),
    partial(apply_local, rules=relus.SPLITS),
    partial(apply_local, rules=REST),
)
