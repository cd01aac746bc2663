"""Operators that have no conformance case, against onnxruntime; function transforms; sharing of weights; hand-made graphs."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
import torch
from modelguard_runtime.onnx import EXTERNAL_KEY, import_graph
from modelguard_runtime.onnx.graph.values import ints_to_tensor
from onnx import TensorProto, helper, numpy_helper

RNG = np.random.default_rng(0)


@pytest.fixture(autouse=True)
def the_same_draws(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever ran before."""
    monkeypatch.setitem(globals(), "RNG", np.random.default_rng(0))


def f(*shape: int) -> np.ndarray:
    return RNG.standard_normal(shape).astype(np.float32)


def u8(*shape: int) -> np.ndarray:
    return RNG.integers(0, 255, shape).astype(np.uint8)


def ids(high: int, *shape: int) -> np.ndarray:
    return RNG.integers(0, high, shape).astype(np.int32)


def scale(value: float = 0.05) -> np.ndarray:
    return np.array(value, np.float32)


ZERO = np.array(128, np.uint8)


def single(op: str, domain: str, inputs: list[np.ndarray | None], outputs: int = 1, **attributes: Any) -> onnx.ModelProto:
    """A graph of one node that takes all its inputs from outside."""
    names = [f"i{i}" if v is not None else "" for i, v in enumerate(inputs)]
    given = [
        helper.make_tensor_value_info(n, helper.np_dtype_to_tensor_dtype(v.dtype), list(v.shape))
        for n, v in zip(names, inputs, strict=True)
        if v is not None
    ]
    makes = [f"o{i}" for i in range(outputs)]
    graph = helper.make_graph(
        [helper.make_node(op, names, makes, domain=domain, **attributes)], "g", given, [onnx.ValueInfoProto(name=n) for n in makes]
    )
    imports = [helper.make_opsetid("", 17), helper.make_opsetid("com.microsoft", 1), helper.make_opsetid("ai.onnx.ml", 1)]
    return helper.make_model(graph, opset_imports=imports, ir_version=10)


def run(model: onnx.ModelProto, inputs: list[np.ndarray]) -> list[Any]:
    options = ort.SessionOptions()
    options.log_severity_level = 4
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    results: list[Any] = session.run(None, {i.name: v for i, v in zip(session.get_inputs(), inputs, strict=True)})
    return results


def compare(model: onnx.ModelProto, inputs: list[np.ndarray | None], levels: float = 0.0) -> None:
    present = [v for v in inputs if v is not None]
    ours = import_graph(model).module(*(torch.from_numpy(v.copy()) for v in present))
    theirs = run(model, present)
    for a, b in zip(ours, theirs, strict=True):
        b = np.asarray(b)
        assert tuple(a.shape) == b.shape
        np.testing.assert_allclose(a.detach().double().numpy(), b.astype(np.float64), rtol=1e-4, atol=levels or 1e-5)


def attention(**attributes: Any) -> tuple[list[np.ndarray | None], dict[str, Any]]:
    return [f(2, 5, 16), f(16, 48), f(48)], {"num_heads": 4, **attributes}


MICROSOFT: dict[str, Callable[[], tuple[Any, ...]]] = {
    "FusedMatMul": lambda: ("FusedMatMul", [f(2, 4, 3), f(2, 5, 4)], {"transA": 1, "transB": 1, "alpha": 0.5}),
    "FusedMatMul-plain": lambda: ("FusedMatMul", [f(3, 4), f(4, 5)], {}),
    "FusedConv": lambda: ("FusedConv", [f(1, 2, 6, 6), f(3, 2, 3, 3), f(3)], {"activation": "Relu", "pads": [1, 1, 1, 1]}),
    "FusedGemm": lambda: ("FusedGemm", [f(3, 4), f(4, 5), f(5)], {"activation": "LeakyRelu", "activation_alpha": 0.2}),
    "Gelu": lambda: ("Gelu", [f(3, 4)], {}),
    "FastGelu": lambda: ("FastGelu", [f(3, 4), f(4)], {}),
    "BiasGelu": lambda: ("BiasGelu", [f(3, 4), f(4)], {}),
    "QuickGelu": lambda: ("QuickGelu", [f(3, 4)], {"alpha": 1.5}),
    "SkipLayerNormalization": lambda: ("SkipLayerNormalization", [f(2, 3, 8), f(2, 3, 8), f(8), f(8), f(8)], {"epsilon": 1e-5}),
    "SkipSimplifiedLayerNormalization": lambda: ("SkipSimplifiedLayerNormalization", [f(2, 3, 8), f(2, 3, 8), f(8)], {"epsilon": 1e-5}),
    "EmbedLayerNormalization": lambda: (
        "EmbedLayerNormalization",
        [ids(9, 2, 4), ids(2, 2, 4), f(9, 8), f(6, 8), f(2, 8), f(8), f(8), np.array([[1, 1, 1, 0]] * 2, np.int32)],
        {},
        2,
    ),
    "Attention": lambda: ("Attention", *attention()),
    "Attention-mask": lambda: ("Attention", [*attention()[0], np.array([[1, 1, 1, 0, 0]] * 2, np.int32)], {"num_heads": 4}),
    "Attention-lengths": lambda: ("Attention", [*attention()[0], np.array([3, 5], np.int32)], {"num_heads": 4}),
    "Attention-unidirectional": lambda: ("Attention", *attention(unidirectional=1)),
    "Attention-past": lambda: ("Attention", [*attention()[0], None, f(2, 2, 4, 3, 4)], {"num_heads": 4, "unidirectional": 1}, 2),
    "Attention-bias": lambda: ("Attention", [*attention()[0], None, None, f(2, 4, 5, 5)], {"num_heads": 4}),
    "MultiHeadAttention": lambda: ("MultiHeadAttention", [f(2, 5, 16), f(2, 7, 16), f(2, 7, 16), f(48)], {"num_heads": 4}),
    "MultiHeadAttention-mask": lambda: (
        "MultiHeadAttention",
        [f(2, 3, 16), f(2, 3, 16), f(2, 3, 16), None, np.array([[1, 1, 0]] * 2, np.int32)],
        {"num_heads": 4},
    ),
    "MultiHeadAttention-past": lambda: (
        "MultiHeadAttention",
        [f(2, 1, 16), f(2, 1, 16), f(2, 1, 16), None, None, None, f(2, 4, 3, 4), f(2, 4, 3, 4)],
        {"num_heads": 4},
        3,
    ),
    "RotaryEmbedding": lambda: ("RotaryEmbedding", [f(2, 3, 16), np.array([[0, 1, 2]] * 2, np.int64), f(8, 4), f(8, 4)], {}),
    "RotaryEmbedding-offset": lambda: ("RotaryEmbedding", [f(2, 2, 3, 8), np.array([2], np.int64), f(8, 4), f(8, 4)], {"interleaved": 1}),
    "QLinearAdd": lambda: ("QLinearAdd", [u8(3, 4), scale(), ZERO, u8(4), scale(0.03), ZERO, scale(0.1), ZERO], {}),
    "QLinearMul": lambda: ("QLinearMul", [u8(3, 4), scale(), ZERO, u8(4), scale(0.03), ZERO, scale(0.3), ZERO], {}),
    "QLinearSigmoid": lambda: ("QLinearSigmoid", [u8(3, 4), scale(), ZERO, scale(1 / 256), np.array(0, np.uint8)], {}),
    "QLinearLeakyRelu": lambda: ("QLinearLeakyRelu", [u8(3, 4), scale(), ZERO, scale(), ZERO], {"alpha": 0.1}),
    "QLinearSoftmax": lambda: ("QLinearSoftmax", [u8(3, 4), scale(), ZERO, scale(1 / 256), np.array(0, np.uint8)], {"opset": 13}),
    "QLinearGlobalAveragePool": lambda: ("QLinearGlobalAveragePool", [u8(1, 3, 4, 4), scale(), ZERO, scale(), ZERO], {}),
    "QLinearAveragePool": lambda: ("QLinearAveragePool", [u8(1, 3, 4, 4), scale(), ZERO, scale(), ZERO], {"kernel_shape": [2, 2]}),
    "QLinearConcat": lambda: ("QLinearConcat", [scale(), ZERO, u8(2, 3), scale(0.03), ZERO, u8(2, 3), scale(), ZERO], {"axis": 1}),
    "QGemm": lambda: ("QGemm", [u8(3, 4), scale(), ZERO, u8(4, 5), scale(0.03), ZERO, ids(9, 5), scale(0.2), ZERO], {}),
    "QGemm-float": lambda: ("QGemm", [u8(3, 4), scale(), ZERO, u8(5, 4), scale(0.03), ZERO], {"transB": 1}),
    "MatMulIntegerToFloat": lambda: ("MatMulIntegerToFloat", [u8(3, 4), u8(4, 5), scale(), scale(0.03), ZERO, ZERO, f(5)], {}),
    "DynamicQuantizeMatMul": lambda: ("DynamicQuantizeMatMul", [f(3, 4), u8(4, 5), scale(0.03), ZERO, f(5)], {}),
    "MatMulNBits": lambda: ("MatMulNBits", [f(3, 32), u8(5, 2, 8), f(10)], {"K": 32, "N": 5, "bits": 4, "block_size": 16}),
    "MatMulNBits-zero": lambda: ("MatMulNBits", [f(3, 32), u8(5, 2, 8), f(10), u8(5)], {"K": 32, "N": 5, "bits": 4, "block_size": 16}),
}


@pytest.mark.parametrize("name", sorted(MICROSOFT))
def test_microsoft(name: str) -> None:
    op, inputs, attributes, *outputs = MICROSOFT[name]()
    quantised = op.startswith("Q") and op != "QuickGelu"
    # One level: what is halfway between two may round either way.
    compare(single(op, "com.microsoft", inputs, *outputs, **attributes), inputs, levels=1.0 if quantised else 0.0)


ML: dict[str, Callable[[], tuple[Any, ...]]] = {
    "classifier": lambda: (
        "LinearClassifier",
        [f(4, 3)],
        {"coefficients": f(9).tolist(), "intercepts": f(3).tolist(), "classlabels_ints": [5, 6, 7], "post_transform": "SOFTMAX"},
        2,
    ),
    "classifier-logistic": lambda: (
        "LinearClassifier",
        [f(4, 3)],
        {"coefficients": f(9).tolist(), "intercepts": f(3).tolist(), "classlabels_ints": [5, 6, 7], "post_transform": "LOGISTIC"},
        2,
    ),
    "classifier-two": lambda: (
        "LinearClassifier",
        [f(4, 3)],
        {
            "coefficients": (c := f(3).tolist()) + [-v for v in c],
            "intercepts": [0.1, -0.1],
            "classlabels_ints": [0, 1],
            "post_transform": "LOGISTIC",
        },
        2,
    ),
    "classifier-one-row": lambda: (
        "LinearClassifier",
        [f(4, 3)],
        {"coefficients": f(3).tolist(), "intercepts": [0.1], "classlabels_ints": [0, 1], "post_transform": "LOGISTIC"},
        2,
    ),
    "regressor": lambda: ("LinearRegressor", [f(4, 3)], {"coefficients": f(6).tolist(), "intercepts": f(2).tolist(), "targets": 2}),
    "normalizer-l1": lambda: ("Normalizer", [f(4, 3)], {"norm": "L1"}),
    "normalizer-l2": lambda: ("Normalizer", [f(4, 3)], {"norm": "L2"}),
    "scaler": lambda: ("Scaler", [f(4, 3)], {"offset": [1.0, 2.0, 3.0], "scale": [0.5, 2.0, 1.5]}),
    "extractor": lambda: ("ArrayFeatureExtractor", [f(4, 3), np.array([2, 0], np.int64)], {}),
    "binarizer": lambda: ("Binarizer", [f(4, 3)], {"threshold": 0.2}),
    "imputer": lambda: (
        "Imputer",
        [np.array([[1.0, np.nan], [np.nan, 2.0]], np.float32)],
        {"imputed_value_floats": [7.0, 8.0], "replaced_value_float": float("nan")},
    ),
    "one-hot": lambda: ("OneHotEncoder", [np.array([3, 1, 9], np.int64)], {"cats_int64s": [1, 2, 3]}),
    "svm-linear": lambda: (
        "SVMRegressor",
        [f(4, 3)],
        {
            "coefficients": f(2).tolist(),
            "support_vectors": f(6).tolist(),
            "n_supports": 2,
            "rho": [0.3],
            "kernel_type": "LINEAR",
            "kernel_params": [1.0, 0.0, 1.0],
        },
    ),
    "svm-rbf": lambda: (
        "SVMRegressor",
        [f(4, 3)],
        {
            "coefficients": f(2).tolist(),
            "support_vectors": f(6).tolist(),
            "n_supports": 2,
            "rho": [0.3],
            "kernel_type": "RBF",
            "kernel_params": [0.5, 0.0, 3.0],
        },
    ),
    "vectorizer": lambda: ("FeatureVectorizer", [f(4, 3), f(4, 2)], {"inputdimensions": [3, 2]}),
    "classifier-surplus": lambda: (
        "LinearClassifier",
        [f(4, 3)],
        {"coefficients": f(18).tolist(), "intercepts": f(3).tolist(), "classlabels_ints": [5, 6, 7], "post_transform": "SOFTMAX"},
        2,
    ),
    "regressor-surplus": lambda: ("LinearRegressor", [f(4, 3)], {"coefficients": f(9).tolist(), "intercepts": f(2).tolist(), "targets": 2}),
    "regressor-other-intercepts": lambda: ("LinearRegressor", [f(4, 3)], {"coefficients": f(6).tolist(), "intercepts": f(2).tolist()}),
    # One row without a batch.
    "classifier-row": lambda: (
        "LinearClassifier",
        [f(3)],
        {"coefficients": f(9).tolist(), "intercepts": f(3).tolist(), "classlabels_ints": [5, 6, 7], "post_transform": "SOFTMAX"},
        2,
    ),
    "regressor-row": lambda: ("LinearRegressor", [f(3)], {"coefficients": f(6).tolist(), "intercepts": f(2).tolist(), "targets": 2}),
    "svm-row": lambda: (
        "SVMRegressor",
        [f(3)],
        {
            "coefficients": f(2).tolist(),
            "support_vectors": f(6).tolist(),
            "n_supports": 2,
            "rho": [0.3],
            "kernel_type": "RBF",
            "kernel_params": [0.5, 0.0, 3.0],
        },
    ),
    "vectorizer-row": lambda: ("FeatureVectorizer", [f(3), f(2)], {"inputdimensions": [3, 2]}),
    "normalizer-row": lambda: ("Normalizer", [f(3)], {"norm": "L2"}),
    "scaler-row": lambda: ("Scaler", [f(3)], {"offset": [1.0, 2.0, 3.0], "scale": [0.5, 2.0, 1.5]}),
}


@pytest.mark.parametrize("name", sorted(ML))
def test_linear_models(name: str) -> None:
    op, inputs, attributes, *outputs = ML[name]()
    compare(single(op, "ai.onnx.ml", inputs, *outputs, **attributes), inputs)


OTHERS: dict[str, Callable[[], tuple[Any, ...]]] = {
    "GlobalLpPool": lambda: ("GlobalLpPool", [f(2, 3, 4, 4)], {"p": 3}),
    "convtranspose-output-shape": lambda: ("ConvTranspose", [f(1, 2, 4, 4), f(2, 3, 3, 3)], {"strides": [2, 2], "output_shape": [8, 8]}),
    "convtranspose-odd-pads": lambda: (
        "ConvTranspose",
        [f(1, 2, 4, 4), f(2, 3, 3, 3)],
        {"strides": [2, 2], "pads": [0, 1, 1, 0], "output_padding": [1, 0]},
    ),
    "convtranspose-same-lower": lambda: ("ConvTranspose", [f(1, 2, 4, 4), f(2, 3, 3, 3)], {"strides": [2, 2], "auto_pad": "SAME_LOWER"}),
    "averagepool-ceil": lambda: (
        "AveragePool",
        [f(1, 2, 7, 7)],
        {"kernel_shape": [3, 3], "strides": [2, 2], "pads": [1, 0, 0, 1], "ceil_mode": 1},
    ),
    "averagepool-count": lambda: (
        "AveragePool",
        [f(1, 2, 7, 7)],
        {"kernel_shape": [3, 3], "strides": [2, 2], "pads": [1, 1, 1, 1], "count_include_pad": 1},
    ),
    "maxpool-ceil": lambda: ("MaxPool", [f(1, 2, 7, 7)], {"kernel_shape": [2, 2], "strides": [2, 2], "ceil_mode": 1}),
    "maxpool-dilated": lambda: ("MaxPool", [f(1, 2, 9, 9)], {"kernel_shape": [3, 3], "dilations": [2, 2], "pads": [0, 1, 1, 0]}),
    "gather-negative": lambda: ("Gather", [f(5, 4), np.array([[-1, 0], [2, -5]], np.int64)], {}),
    "conv-same-lower": lambda: ("Conv", [f(1, 2, 7, 7), f(3, 2, 4, 4)], {"auto_pad": "SAME_LOWER", "strides": [2, 2]}),
    "lrn-even": lambda: ("LRN", [f(1, 6, 3, 3)], {"size": 3, "alpha": 0.1}),
    "gru-reset-first": lambda: ("GRU", [f(5, 2, 3), f(1, 12, 3), f(1, 12, 4), f(1, 24)], {"hidden_size": 4, "linear_before_reset": 0}, 2),
    "gru-reverse": lambda: (
        "GRU",
        [f(5, 2, 3), f(1, 12, 3), f(1, 12, 4), f(1, 24)],
        {"hidden_size": 4, "linear_before_reset": 1, "direction": "reverse"},
        2,
    ),
    "lstm-lengths": lambda: (
        "LSTM",
        [f(5, 2, 3), f(2, 16, 3), f(2, 16, 4), f(2, 32), np.array([3, 5], np.int32)],
        {"hidden_size": 4, "direction": "bidirectional"},
        3,
    ),
    "lstm-peephole-clip": lambda: (
        "LSTM",
        [f(5, 2, 3), f(1, 16, 3), f(1, 16, 4), f(1, 32), None, None, None, f(1, 12)],
        {"hidden_size": 4, "clip": 0.5},
        3,
    ),
    "resize-cubic": lambda: ("Resize", [f(1, 2, 5, 5), None, None, np.array([1, 2, 8, 3], np.int64)], {"mode": "cubic"}),
    "resize-asymmetric-linear": lambda: (
        "Resize",
        [f(1, 2, 5, 5), None, np.array([1, 1, 1.7, 2.2], np.float32)],
        {"mode": "linear", "coordinate_transformation_mode": "asymmetric"},
    ),
    "resize-nearest": lambda: ("Resize", [f(1, 2, 5, 5), None, np.array([1, 1, 1.7, 2.2], np.float32)], {"mode": "nearest"}),
}


@pytest.mark.parametrize("name", sorted(OTHERS))
def test_corners_of_standard_operators(name: str) -> None:
    op, inputs, attributes, *outputs = OTHERS[name]()
    compare(single(op, "", inputs, *outputs, **attributes), inputs)


# ---- graphs made by hand, after what other converters write


def graph(
    nodes: list[onnx.NodeProto], weights: dict[str, np.ndarray], x: list[int | str], opset: int = 13, outputs: tuple[str, ...] = ("y",)
) -> onnx.ModelProto:
    proto = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, x)],
        [onnx.ValueInfoProto(name=o) for o in outputs],
        [numpy_helper.from_array(v, n) for n, v in weights.items()],
    )
    return helper.make_model(proto, opset_imports=[helper.make_opsetid("", opset), helper.make_opsetid("ai.onnx.ml", 1)], ir_version=8)


def node(op: str, inputs: list[str], outputs: list[str], **attributes: Any) -> onnx.NodeProto:
    return helper.make_node(op, inputs, outputs, **attributes)


@pytest.mark.parametrize("name", ["LSTM", "GRU", "RNN"])
@pytest.mark.parametrize("wrong", ["W", "R", "B"])
def test_recurrences_do_not_read_past_their_weights(name: str, wrong: str) -> None:
    """oneDNN takes the sizes it needs for the sizes there are."""
    gates = {"LSTM": 4, "GRU": 3, "RNN": 1}[name] * 4
    shapes = {"W": (1, gates, 5), "R": (1, gates, 4), "B": (1, 2 * gates)}
    shapes[wrong] = (*shapes[wrong][:-1], shapes[wrong][-1] - 1)
    inputs: list[np.ndarray | None] = [f(3, 2, 5), *(f(*shape) for shape in shapes.values())]
    module = import_graph(single(name, "", inputs, 2, hidden_size=4, **({"linear_before_reset": 1} if name == "GRU" else {}))).module
    with pytest.raises((ValueError, RuntimeError)):
        module(*(torch.from_numpy(array) for array in inputs))


def test_keras_like_cnn_with_channels_last() -> None:
    """Transposed in front, padded SAME, batch norm apart, reshape to a constant, MatMul and Add for Dense."""
    nodes = [
        node("Transpose", ["x"], ["t"], perm=[0, 3, 1, 2]),
        node("Conv", ["t", "w", "b"], ["c"], strides=[2, 2], auto_pad="SAME_UPPER", kernel_shape=[3, 3]),
        node("BatchNormalization", ["c", "s", "o", "m", "v"], ["n"], epsilon=1e-3),
        node("Clip", ["n", "low", "high"], ["r"]),
        node("MaxPool", ["r"], ["p"], kernel_shape=[2, 2], strides=[2, 2], auto_pad="VALID"),
        node("Transpose", ["p"], ["q"], perm=[0, 2, 3, 1]),
        node("Reshape", ["q", "flat"], ["z"]),
        node("MatMul", ["z", "d"], ["e"]),
        node("Add", ["e", "g"], ["l"]),
        node("Softmax", ["l"], ["y"], axis=-1),
    ]
    weights = {
        "w": f(4, 3, 3, 3), "b": f(4), "s": f(4), "o": f(4), "m": f(4), "v": np.abs(f(4)) + 1, "low": np.float32(0), "high": np.float32(6),
        "flat": np.array([-1, 36], np.int64), "d": f(36, 5), "g": f(5),
    }  # fmt: skip
    weights["low"], weights["high"] = np.array(0, np.float32), np.array(6, np.float32)
    compare(graph(nodes, weights, ["n", 13, 13, 3]), [f(3, 13, 13, 3)])


def test_tf_like_shape_arithmetic() -> None:
    """The batch is read off with Shape, cast, sliced, and packed with Unsqueeze and Concat; the classes are taken out with Gather."""
    nodes = [
        node("Shape", ["x"], ["s"]),
        node("Cast", ["s"], ["s32"], to=TensorProto.INT32),
        node("Slice", ["s32", "zero", "one", "zero"], ["n1"]),
        node("Squeeze", ["n1", "zero"], ["n"]),
        node("Unsqueeze", ["n", "zero"], ["nn"]),
        node("Cast", ["nn"], ["n64"], to=TensorProto.INT64),
        node("Concat", ["n64", "rest"], ["shape"], axis=0),
        node("Reshape", ["x", "shape"], ["r"]),
        node("ReduceMean", ["r"], ["m"], axes=[1], keepdims=0),
        node("Gather", ["m", "pick"], ["y"], axis=1),
    ]
    weights = {
        "zero": np.array([0], np.int64),
        "one": np.array([1], np.int64),
        "rest": np.array([4, 3], np.int64),
        "pick": np.array([2, 0], np.int64),
    }
    model = graph(nodes, weights, ["n", 12])
    for n in (1, 5):
        compare(model, [f(n, 12)])
    assert ints_to_tensor not in {n.target for n in import_graph(model).module.graph.nodes}, "shapes are Python numbers, not tensors"


def test_sklearn_like_pipeline() -> None:
    """Imputer, scaler, a linear classifier, and its scores zipped into a map, which come out as a tensor."""
    nodes = [
        node("Scaler", ["x"], ["s"], domain="ai.onnx.ml", offset=[0.1, 0.2, 0.3], scale=[1.0, 2.0, 3.0]),
        node(
            "LinearClassifier",
            ["s"],
            ["label", "p"],
            domain="ai.onnx.ml",
            coefficients=f(9).tolist(),
            intercepts=f(3).tolist(),
            classlabels_ints=[0, 1, 2],
            post_transform="SOFTMAX",
        ),
        node("Normalizer", ["p"], ["q"], domain="ai.onnx.ml", norm="L1"),
        node("ZipMap", ["q"], ["y"], domain="ai.onnx.ml", classlabels_int64s=[0, 1, 2]),
    ]
    x = f(4, 3)
    model = graph(nodes, {}, ["n", 3], outputs=("label", "y"))
    label, scores = import_graph(model).module(torch.from_numpy(x))
    theirs, maps = run(model, [x])
    np.testing.assert_array_equal(label.numpy(), theirs)
    np.testing.assert_allclose(scores.numpy(), [[row[k] for k in range(3)] for row in maps], rtol=1e-5)


def test_local_functions_are_inlined() -> None:
    imports = [helper.make_opsetid("", 18)]
    inner = helper.make_function("local", "Scale", ["a"], ["b"], [node("Mul", ["a", "a"], ["b"])], imports)
    leaky = node("LeakyRelu", ["t"], ["b"])
    leaky.attribute.append(onnx.AttributeProto(name="alpha", ref_attr_name="slope", type=onnx.AttributeProto.FLOAT))
    outer = helper.make_function(
        "local",
        "Outer",
        ["a"],
        ["b"],
        [helper.make_node("Scale", ["a"], ["t"], domain="local"), leaky],
        [*imports, helper.make_opsetid("local", 1)],
        ["slope"],
    )
    nodes = [node("Neg", ["x"], ["a"]), helper.make_node("Outer", ["a"], ["y"], domain="local", slope=0.5)]
    proto = graph(nodes, {}, ["n", 3], 18)
    proto.opset_import.append(helper.make_opsetid("local", 1))
    proto.functions.extend([inner, outer])
    imported = import_graph(proto)
    x = torch.randn(2, 3)
    assert torch.equal(imported.module(x)[0], torch.nn.functional.leaky_relu(x * x, 0.5))
    assert imported.operators == {"LeakyRelu": 1, "Mul": 1, "Neg": 1}


def conditional() -> onnx.ModelProto:
    """x + 1 where the sum is positive, else tanh(x): the branch is known only when the graph runs."""
    then = helper.make_graph([node("Add", ["x", "one"], ["o"])], "then", [], [onnx.ValueInfoProto(name="o")])
    other = helper.make_graph([node("Tanh", ["x"], ["o2"])], "else", [], [onnx.ValueInfoProto(name="o2")])
    nodes = [
        node("ReduceSum", ["x"], ["s"], keepdims=0),
        node("Greater", ["s", "zero"], ["c"]),
        node("If", ["c"], ["y"], then_branch=then, else_branch=other),
    ]
    return graph(nodes, {"one": np.array(1, np.float32), "zero": np.array(0, np.float32)}, ["n", 3])


@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_branch_on_data(sign: float) -> None:
    x = np.abs(f(2, 3)) * np.float32(sign)
    compare(conditional(), [x])
    leaf = torch.from_numpy(x).requires_grad_()
    import_graph(conditional()).module(leaf)[0].sum().backward()
    expected = torch.ones(2, 3) if sign > 0 else 1 - torch.tanh(torch.from_numpy(x)) ** 2
    torch.testing.assert_close(leaf.grad, expected)


def test_loop_over_a_constant_count_has_gradients() -> None:
    body = helper.make_graph(
        [node("Mul", ["s", "w"], ["t"]), node("Identity", ["c"], ["d"]), node("ReduceSum", ["t"], ["u"], keepdims=0)],
        "body",
        [
            helper.make_tensor_value_info(n, k, None)
            for n, k in (("i", TensorProto.INT64), ("c", TensorProto.BOOL), ("s", TensorProto.FLOAT))
        ],
        [onnx.ValueInfoProto(name=n) for n in ("d", "t", "u")],
    )
    model = graph(
        [node("Loop", ["m", "", "x"], ["y", "z"], body=body)],
        {"m": np.array(3, np.int64), "w": np.array(2, np.float32)},
        ["n", 3],
        outputs=("y", "z"),
    )
    x = torch.randn(2, 3, requires_grad=True)
    y, z = import_graph(model).module(x)
    torch.testing.assert_close(y, 8 * x)
    torch.testing.assert_close(z, torch.stack([2 * x.sum(), 4 * x.sum(), 8 * x.sum()]))
    y.sum().backward()
    torch.testing.assert_close(x.grad, torch.full((2, 3), 8.0))


# ---- how the module behaves


def convolutional() -> onnx.ModelProto:
    nodes = [
        node("Conv", ["x", "w", "b"], ["c"], pads=[1, 1, 1, 1]),
        node("BatchNormalization", ["c", "s", "o", "m", "v"], ["n"]),
        node("Relu", ["n"], ["r"]),
        node("GlobalAveragePool", ["r"], ["p"]),
        node("Flatten", ["p"], ["q"]),
        node("Gemm", ["q", "d", "g"], ["y"], transB=1),
    ]
    weights = {"w": f(4, 3, 3, 3), "b": f(4), "s": f(4), "o": f(4), "m": f(4), "v": np.abs(f(4)) + 1, "d": f(5, 4), "g": f(5)}
    return graph(nodes, weights, ["n", 3, 8, 8])


def test_gradients_under_function_transforms() -> None:
    """Per-class gradients by vmap over one-hot cotangents, and per-sample gradients by vmap over the batch."""
    module = import_graph(convolutional()).module
    x = torch.randn(4, 3, 8, 8)

    def score(x: torch.Tensor, k: torch.Tensor) -> torch.Tensor:
        total: torch.Tensor = module(x)[0].index_select(1, k.reshape(1)).sum()
        return total

    classes = torch.arange(5)
    mapped = torch.func.vmap(torch.func.grad(score), (None, 0))(x, classes)
    for k in classes:
        torch.testing.assert_close(mapped[k], torch.func.grad(score)(x, k))
    samples = torch.func.vmap(lambda s: module(s.unsqueeze(0))[0][0])(x)
    torch.testing.assert_close(samples, module(x)[0])


def test_weights_are_frozen_parameters_with_the_initializers_names() -> None:
    imported = import_graph(convolutional())
    assert set(imported.parameters.values()) == {"w", "b", "s", "o", "m", "v", "d", "g"}
    assert not any(p.requires_grad for p in imported.module.parameters())
    assert len(list(imported.module.buffers())) == 0


def test_weights_share_memory_with_what_the_checkpoint_gives() -> None:
    proto = convolutional()
    arrays = {t.name: numpy_helper.to_array(t).copy() for t in proto.graph.initializer}
    for array in arrays.values():
        array.setflags(write=False)
    for tensor in proto.graph.initializer:
        tensor.ClearField("raw_data")
        tensor.data_location = TensorProto.EXTERNAL
        tensor.external_data.add(key=EXTERNAL_KEY, value=tensor.name)
    imported = import_graph(proto, arrays.__getitem__)
    for attribute, name in imported.parameters.items():
        assert getattr(imported.module, attribute).data_ptr() == arrays[name].ctypes.data


def test_every_value_knows_its_node() -> None:
    imported = import_graph(convolutional())
    outputs = {source.output: source.op_type for source in imported.nodes.values()}
    assert outputs == {"c": "Conv", "n": "BatchNormalization", "r": "Relu", "p": "GlobalAveragePool", "q": "Flatten", "y": "Gemm"}
    assert imported.operators == {"BatchNormalization": 1, "Conv": 1, "Flatten": 1, "Gemm": 1, "GlobalAveragePool": 1, "Relu": 1}
    assert (imported.inputs[0].name, imported.inputs[0].dtype, imported.inputs[0].shape) == ("x", "F32", ("n", 3, 8, 8))
    assert imported.opsets[""] == 13


def test_straight_through_gradients() -> None:
    nodes = [node("QuantizeLinear", ["x", "s", "z"], ["q"]), node("DequantizeLinear", ["q", "s", "z"], ["y"])]
    model = graph(nodes, {"s": np.array(0.1, np.float32), "z": np.array(0, np.int8)}, ["n"])
    x = torch.tensor([0.04, -0.26, 99.0], requires_grad=True)
    y = import_graph(model).module(x)[0]
    torch.testing.assert_close(y, torch.tensor([0.0, -0.3, 12.7]))
    y.sum().backward()
    assert x.grad is not None
    assert x.grad.tolist() == [1.0, 1.0, 0.0]


def test_quantised_outputs_leave_as_integers() -> None:
    model = graph([node("QuantizeLinear", ["x", "s", "z"], ["y"])], {"s": np.array(0.1, np.float32), "z": np.array(3, np.int8)}, ["n"])
    model.graph.output[0].CopyFrom(helper.make_tensor_value_info("y", TensorProto.INT8, None))
    assert import_graph(model).module(torch.tensor([0.4]))[0].dtype == torch.int8
