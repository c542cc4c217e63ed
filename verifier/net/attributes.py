"""Which attributes of which operators the reader understands.

An operator grows attributes from one version of ONNX to the next, and one that is not known may change what it
computes. So a node is read only if every attribute that it sets to something other than the schema's default stands in
the table below, and if its operator was last changed by a version of ONNX up to `NEWEST`; any other is kept without an
operator, and says why (`Raw.unread`). The table holds what rules and operators read, and what cannot change a number
that bounds are given for: `storage_order` (the order of indices of a MaxPool), `hidden_size` (said by shapes),
`momentum` and `seed` (training), `saturate` and `round_mode` of a Cast (for types below a byte and float8, which no
operator takes), `nodes_hitrates` (statistics). `stash_type` and `precision`, the type in which a runtime shall compute,
do not stand in it.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from onnx import defs

NEWEST = 28  # the version of ONNX whose operators these are

# Operators that share a list of attributes, a colon, the list; further lines are indented.
TABLE = """
Abs Acos Acosh Add And Asin Asinh Atan Atanh BitwiseAnd BitwiseNot BitwiseOr BitwiseXor Ceil Cos Cosh Det Div
  DynamicQuantizeLinear Equal Erf Exp Expand Floor GlobalAveragePool GlobalMaxPool Greater GreaterOrEqual HardSwish
  Identity IsNaN Less LessOrEqual Log MatMul MatMulInteger Max Mean Min Mish Mul Neg NonZero Not Or PRelu Pow
  QLinearMatMul Range Reciprocal Relu Round Sigmoid Sign Sin Sinh Size Softplus Softsign Sqrt Sub Sum Tan Tanh Tile
  Where Xor ai.onnx.ml.ArrayFeatureExtractor:
ArgMax ArgMin: axis keepdims select_last_index
AveragePool: auto_pad ceil_mode count_include_pad dilations kernel_shape pads strides
BatchNormalization: epsilon momentum spatial training_mode
BitShift: direction
Cast: round_mode saturate to
CastLike: round_mode saturate
Celu Elu LeakyRelu Swish ThresholdedRelu: alpha
Clip: max min
Compress Concat Flatten Gather GatherElements Hardmax LogSoftmax OneHot Scatter Softmax: axis
ConstantOfShape: value
Conv ConvInteger QLinearConv: auto_pad dilations group kernel_shape pads strides
ConvTranspose: auto_pad dilations group kernel_shape output_padding output_shape pads strides
CumProd CumSum: exclusive reverse
Col2Im: dilations pads strides
DFT: axis inverse onesided
GridSample: align_corners mode padding_mode
ReverseSequence: batch_axis time_axis
DepthToSpace SpaceToDepth: blocksize mode
DequantizeLinear: axis block_size output_dtype
Dropout: ratio seed
Einsum: equation
GRU: activation_alpha activation_beta activations clip direction hidden_size layout linear_before_reset
GatherND: batch_dims
Gelu: approximate
Gemm: alpha beta transA transB
GlobalLpPool: p
GroupNormalization: epsilon num_groups
HardSigmoid: alpha beta
InstanceNormalization: epsilon
IsInf: detect_negative detect_positive
LRN: alpha beta bias size
LSTM: activation_alpha activation_beta activations clip direction hidden_size input_forget layout
LayerNormalization RMSNormalization: axis epsilon
LpNormalization: axis p
LpPool: auto_pad ceil_mode dilations kernel_shape p pads strides
MaxPool: auto_pad ceil_mode dilations kernel_shape pads storage_order strides
MaxUnpool: kernel_shape pads strides
Mod: fmod
NonMaxSuppression: center_point_box
Pad: mode pads value
QuantizeLinear: axis block_size output_dtype saturate
RNN: activation_alpha activation_beta activations clip direction hidden_size layout
ReduceL1 ReduceL2 ReduceLogSum ReduceLogSumExp ReduceMax ReduceMean ReduceMin ReduceProd ReduceSum ReduceSumSquare:
  axes keepdims noop_with_empty_axes
Reshape: allowzero
Resize: antialias axes coordinate_transformation_mode cubic_coeff_a exclude_outside extrapolation_value
  keep_aspect_ratio_policy mode nearest_mode
ScatterElements: axis reduction
ScatterND: reduction
Selu: alpha gamma
Shape: end start
Shrink: bias lambd
Slice: axes ends starts
Split: axis num_outputs split
STFT: onesided
Squeeze Unsqueeze: axes
TopK: axis k largest sorted
Transpose: perm
Trilu: upper
Unique: axis sorted
Upsample: mode scales
ai.onnx.ml.Binarizer: threshold
ai.onnx.ml.FeatureVectorizer: inputdimensions
ai.onnx.ml.Imputer: imputed_value_floats imputed_value_int64s replaced_value_float replaced_value_int64
ai.onnx.ml.LinearClassifier: classlabels_ints classlabels_strings coefficients intercepts multi_class post_transform
ai.onnx.ml.LinearRegressor: coefficients intercepts post_transform targets
ai.onnx.ml.Normalizer: norm
ai.onnx.ml.OneHotEncoder: cats_int64s cats_strings zeros
ai.onnx.ml.SVMRegressor: coefficients kernel_params kernel_type n_supports one_class post_transform rho
  support_vectors
ai.onnx.ml.Scaler: offset scale
ai.onnx.ml.TreeEnsemble: aggregate_function leaf_targetids leaf_weights membership_values n_targets nodes_falseleafs
  nodes_falsenodeids nodes_featureids nodes_hitrates nodes_missing_value_tracks_true nodes_modes nodes_splits
  nodes_trueleafs nodes_truenodeids post_transform tree_roots
ai.onnx.ml.TreeEnsembleClassifier: base_values base_values_as_tensor class_ids class_nodeids class_treeids
  class_weights class_weights_as_tensor classlabels_int64s classlabels_strings nodes_falsenodeids nodes_featureids
  nodes_hitrates nodes_hitrates_as_tensor nodes_missing_value_tracks_true nodes_modes nodes_nodeids nodes_treeids
  nodes_truenodeids nodes_values nodes_values_as_tensor post_transform
ai.onnx.ml.TreeEnsembleRegressor: aggregate_function base_values base_values_as_tensor n_targets nodes_falsenodeids
  nodes_featureids nodes_hitrates nodes_hitrates_as_tensor nodes_missing_value_tracks_true nodes_modes nodes_nodeids
  nodes_treeids nodes_truenodeids nodes_values nodes_values_as_tensor post_transform target_ids target_nodeids
  target_treeids target_weights target_weights_as_tensor
"""


def _read(table: str) -> dict[str, frozenset[str]]:
    lines = table.replace("\n  ", " ").strip().splitlines()
    pairs = [line.split(":") for line in lines]
    return {op: frozenset(attrs.split()) for ops, attrs in pairs for op in ops.split()}


UNDERSTOOD = _read(TABLE)


def not_understood(op: str, schema: defs.OpSchema, given: dict[str, Any], defaults: dict[str, Any]) -> str:
    """Why a node of the operator `op` (with its domain, unless it is ONNX's) that sets the attributes `given` is not
    read; '' where it is, and where nothing reads such operators at all."""
    if op not in UNDERSTOOD:
        return ""
    if not schema.domain and schema.since_version > NEWEST:
        return f"{op} as of opset {schema.since_version} is not known (up to {NEWEST} is)"
    for name, value in sorted(given.items()):
        if name not in UNDERSTOOD[op] and not (name in defaults and _equal(value, defaults[name])):
            return f"its attribute {name}={value!r} is not understood"
    return ""


def _equal(a: Any, b: Any) -> bool:
    return bool(np.array_equal(np.asarray(a), np.asarray(b)))
