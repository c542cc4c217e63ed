"""Rewrites that bring every operator to one normal form, whatever the opset and whoever exported the file.

Normal form of a `Network`. "Constant" means independent of the network's inputs. Tensors are named as in the file; made-up ones contain
'//'. In every row: attributes are Python numbers, strings, tuples or numpy arrays; axes are non-negative; shapes are static, so whatever
the result's shape says already (Reshape's target, Expand's) is said by `node.shape` only. Inputs marked c are always constant.

| kind                    | inputs              | attrs and meaning |
|-------------------------|---------------------|-------------------|
| Linear                  | x, c W (in, out), b | y = x W + b on the last axis, any rank of x; b is c (out,) or ''. From Gemm, MatMul by a constant on the |
|                         |                     | right (rank 2), and a constant vector added to either |
| MatMul                  | a, b                | numpy's matmul: both variable, or a constant on the left, or a constant of rank other than 2 |
| Conv                    | x, W, b or ''       | strides, dilations (s each), pads (2 s: all begins, then all ends), group; auto_pad is resolved |
| ConvTranspose           | x, W, b or ''       | the same and output_padding (s); output_shape and auto_pad are resolved into pads |
| MaxPool                 | x                   | kernel_shape, strides, dilations (s), pads (2 s), ceil_mode 0 or 1 (out size: node.shape) |
| AveragePool             | x                   | as MaxPool, and count_include_pad 0 or 1 |
| BatchNormalization      | x, c scale, c shift | y = scale x + shift, both (C,) float64 along axis 1, from gamma, beta, mean, var and epsilon |
| Add Sub Mul Div Pow     | a, b                | numpy broadcasting; either may be constant. Sum becomes Adds; Mean becomes Adds and a Div |
| Max Min                 | a, b                | numpy broadcasting; longer lists become chains, a single one vanishes |
| Equal Less Greater      | a, b                | likewise; also LessOrEqual GreaterOrEqual And Or Xor, and Not with one input |
| Where                   | condition, a, b     | broadcasting |
| Relu Sigmoid Tanh Sin   | x                   | no attributes; likewise Cos Tan Exp Log Sqrt Reciprocal Abs Neg Sign Floor Ceil Round Erf Softplus |
|                         |                     | Softsign HardSwish Mish Asin Acos Atan Sinh Cosh Asinh Acosh Atanh IsNaN |
| LeakyRelu Elu Celu      | x                   | alpha; also ThresholdedRelu (alpha), Selu (alpha, gamma), HardSigmoid (alpha, beta), Gelu (approximate: |
|                         |                     | 'none' or 'tanh'), Shrink (bias, lambd), Swish (alpha) |
| PRelu                   | x, slope            | slope broadcasts to x |
| Clip                    | x                   | min, max: floats, -inf or inf where absent. Bounds that depend on x: Max, then Min |
| Softmax LogSoftmax      | x                   | axes: tuple; normalised over all of them at once (before opset 13: every axis from `axis` on); also Hardmax |
| ReduceSum ReduceMean    | x                   | axes: tuple, never empty; keepdims 0 or 1. Also ReduceMax ReduceMin ReduceProd ReduceLogSumExp. |
|                         |                     | GlobalAveragePool and GlobalMaxPool become ReduceMean and ReduceMax; ReduceL1, ReduceL2, ReduceSumSquare |
|                         |                     | and ReduceLogSum become ReduceSum with Abs, Mul (x, x), Sqrt, Log around it |
| ArgMax ArgMin           | x                   | axis, keepdims, select_last_index |
| Reshape                 | x                   | none: target is node.shape. Also from Flatten, Squeeze, Unsqueeze; runs of them are merged |
| Transpose               | x                   | perm |
| Slice                   | x                   | axes, starts, ends, steps: along axes[i] the entries range(starts[i], ends[i], steps[i]) are taken, all of |
|                         |                     | them inside the axis (a negative step may have end -1). Split becomes one Slice per piece |
| Concat                  | two or more         | axis; some may be constant |
| Gather                  | x                   | axis, indices (int64 array of any rank, non-negative): numpy.take |
| Pick                    | x                   | positions (int64 array of node.shape): y = x.ravel()[positions]. From GatherElements, GatherND |
| Place                   | data, updates       | positions (int64, of updates' shape, without repeats unless reduction is 'add'), reduction 'none' or 'add': |
|                         |                     | y = data; y.ravel()[positions] = (or +=) updates. From ScatterND, ScatterElements; either may be constant |
| Expand                  | x                   | none: x broadcast to node.shape |
| Tile                    | x                   | repeats (one per axis) |
| Pad                     | x                   | pads (2 rank: all begins, then all ends; >= 0), mode 'constant', 'reflect', 'edge' or 'wrap', value (float). |
|                         |                     | Negative pads become a Slice first |
| Resize                  | x                   | mode 'nearest': axes and indices (one int64 array (out,) per axis: index_select along it). Any other mode: |
|                         |                     | 'linear' with axes and weights (one float64 (out, in) per axis, applied one axis after another). |
|                         |                     | Also from Upsample |
| Cast                    | x                   | to: numpy dtype name ('int64', 'float32', 'bool', …). Casts to the same type vanish |
| OneHot                  | indices             | axis, depth, off, on (floats); negative indices count from depth, others outside give `off` everywhere |
| CumSum                  | x                   | axis, exclusive, reverse |
| TopK                    | x                   | axis, k, largest, sorted |
| Einsum                  | any                 | equation, without blanks |

Vanish: Identity, Dropout, Constant, and Shape, Size, ConstantOfShape, Range, EyeLike, … where they are constant. Rewritten into others:
DepthToSpace, SpaceToDepth (Reshape, Transpose, Reshape), Trilu (Mul by a constant mask), LayerNormalization, InstanceNormalization,
GroupNormalization, RMSNormalization, LpNormalization (ReduceMean, Sub, Mul, Sqrt, Div, …), Gemm with two variable matrices (MatMul, Add).

Structure that depends on x. Where the indices, axes, pads, starts, shape or other structural input of an operator are not constant, the
kind is '<Op>Dynamic', its inputs are those of the file (all of them), its attributes ONNX's: GatherDynamic, ScatterNDDynamic, SliceDynamic,
RangeDynamic, ReshapeDynamic, … The result's shape has been seen to be the same on several inputs.

Several outputs. Output k > 0 of an operator with several that is not rewritten is a node of its own with kind '<Op>:k' and the inputs and
attributes of the first ('TopK:1' are the indices).

Everything else keeps ONNX's kind, inputs and attributes, with the defaults of its opset filled in.

Constants. Untouched weights keep their element type; constants that an operator of the file computes are what ONNX Runtime computes; those
derived here (BatchNormalization's, Gemm's alpha W and beta b) are computed in float64 from the file's values and stay float64: whoever binds
the network to a precision rounds them once. A network output is always a node.
"""

from __future__ import annotations
