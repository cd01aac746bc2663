"""Which meaning an operator of ONNX's own set has in which version of the set.

Read off the operators' schemas (onnx.defs): a version begins a new meaning where attributes, their defaults, inputs or outputs differ from
the version before. Most new versions only admit more types of elements, which is no other meaning.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

LAST = 28
"""The newest version of the set that the tables know."""

MEANINGS: Mapping[str, tuple[int, ...]] = MappingProxyType({
    "Abs": (1, 6), "Add": (1, 6, 7), "And": (1, 7), "ArgMax": (1, 12), "ArgMin": (1, 12), "Attention": (23, 24, 25),
    "AveragePool": (1, 7, 10, 19), "BatchNormalization": (1, 6, 7, 9, 14), "Cast": (1, 6, 19, 24), "CastLike": (15, 19, 24),
    "Ceil": (1, 6), "Clip": (1, 6, 11), "Concat": (1, 4), "Constant": (1, 11, 12), "DFT": (17, 20), "DepthToSpace": (1, 11),
    "DequantizeLinear": (10, 13, 21, 23), "Div": (1, 6, 7), "Dropout": (1, 6, 7, 12), "Elu": (1, 6), "Equal": (1, 7), "Exp": (1, 6),
    "Floor": (1, 6), "GRU": (1, 3, 7, 14), "GatherND": (11, 12), "Gemm": (1, 7, 11), "GlobalLpPool": (1, 2), "Greater": (1, 7),
    "GridSample": (16, 20), "GroupNormalization": (18, 21), "HardSigmoid": (1, 6), "Hardmax": (1, 13), "InstanceNormalization": (1, 6),
    "LSTM": (1, 7, 14), "LeakyRelu": (1, 6), "Less": (1, 7), "Log": (1, 6), "LogSoftmax": (1, 13), "Loop": (1, 11), "LpPool": (1, 2, 18),
    "Max": (1, 6), "MaxPool": (1, 8, 10), "Mean": (1, 6), "Min": (1, 6), "Mul": (1, 6, 7), "Neg": (1, 6), "OptionalHasElement": (15, 18),
    "Or": (1, 7), "PRelu": (1, 6), "Pad": (1, 2, 11, 18), "Pow": (1, 7), "QuantizeLinear": (10, 13, 19, 21, 23), "RNN": (1, 7, 14),
    "Range": (11, 27), "Reciprocal": (1, 6), "ReduceL1": (1, 18), "ReduceL2": (1, 18), "ReduceLogSum": (1, 18),
    "ReduceLogSumExp": (1, 18), "ReduceMax": (1, 18), "ReduceMean": (1, 18), "ReduceMin": (1, 18), "ReduceProd": (1, 18),
    "ReduceSum": (1, 13), "ReduceSumSquare": (1, 18), "Relu": (1, 6), "Reshape": (1, 5, 14), "Resize": (10, 11, 13, 18),
    "RoiAlign": (10, 16), "Scan": (8, 9), "ScatterElements": (11, 16), "ScatterND": (11, 16), "Selu": (1, 6), "Shape": (1, 15),
    "Sigmoid": (1, 6), "Slice": (1, 10), "Softmax": (1, 13), "SpaceToDepth": (1, 28), "Split": (1, 2, 13, 18), "Sqrt": (1, 6),
    "Squeeze": (1, 13), "Sub": (1, 6, 7), "Sum": (1, 6), "Tanh": (1, 6), "Tile": (1, 6), "TopK": (1, 10, 11), "Unsqueeze": (1, 13),
    "Upsample": (1, 7, 9), "Xor": (1, 7),
})  # fmt: skip
"""Operators that changed, with the versions from which they mean something new."""

UNCHANGED = frozenset({
    "Acos", "Acosh", "AffineGrid", "Asin", "Asinh", "Atan", "Atanh", "Bernoulli", "BitCast", "BitShift", "BitwiseAnd", "BitwiseNot",
    "BitwiseOr", "BitwiseXor", "BlackmanWindow", "CausalConvWithState", "Celu", "CenterCropPad", "Col2Im", "Compress",
    "ConcatFromSequence", "ConstantOfShape", "Conv", "ConvInteger", "ConvTranspose", "Cos", "Cosh", "CumProd", "CumSum", "DeformConv",
    "Det", "DynamicQuantizeLinear", "Einsum", "Erf", "Expand", "EyeLike", "Flatten", "Gather", "GatherElements", "Gelu",
    "GlobalAveragePool", "GlobalMaxPool", "GreaterOrEqual", "HammingWindow", "HannWindow", "HardSwish", "Identity", "If", "ImageDecoder",
    "IsInf", "IsNaN", "LRN", "LayerNormalization", "LessOrEqual", "LinearAttention", "LpNormalization", "MatMul", "MatMulInteger",
    "MaxRoiPool", "MaxUnpool", "MeanVarianceNormalization", "MelWeightMatrix", "Mish", "Mod", "Multinomial", "NegativeLogLikelihoodLoss",
    "NonMaxSuppression", "NonZero", "Not", "OneHot", "Optional", "OptionalGetElement", "QLinearConv", "QLinearMatMul",
    "RMSNormalization", "RandomNormal", "RandomNormalLike", "RandomUniform", "RandomUniformLike", "RegexFullMatch", "ReverseSequence",
    "RotaryEmbedding", "Round", "STFT", "Scatter", "SequenceAt", "SequenceConstruct", "SequenceEmpty", "SequenceErase", "SequenceInsert",
    "SequenceLength", "SequenceMap", "Shrink", "Sign", "Sin", "Sinh", "Size", "SoftmaxCrossEntropyLoss", "Softplus", "Softsign",
    "SplitToSequence", "StringConcat", "StringNormalizer", "StringSplit", "SwiGLU", "Swish", "Tan", "TensorScatter", "TfIdfVectorizer",
    "ThresholdedRelu", "Transpose", "Trilu", "Unique", "Where",
})  # fmt: skip
"""Operators that have meant the same since there are such."""


def meaning(operator: str, version: int) -> int:
    """The version of the set in which what ``operator`` means in ``version`` began; ``version`` itself where that is not known."""
    if version > LAST:
        return version
    if operator in UNCHANGED:
        return 1
    return max((since for since in MEANINGS.get(operator, ()) if since <= version), default=version)
