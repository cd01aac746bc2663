"""The linear part of ``ai.onnx.ml``: what sklearn-onnx writes for linear models and the steps before them.

Class labels that are strings are returned as their position in the list of classes.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from modelguard_runtime.onnx.ops.table import ML, op

Floats = Sequence[float]


def _matrix(values: Floats, columns: int, x: Tensor) -> Tensor:
    """Attribute floats as a (rows, columns) matrix beside ``x``."""
    return torch.tensor(values, dtype=torch.float32, device=x.device).reshape(-1, columns)


def _float(x: Tensor) -> Tensor:
    return x if x.dtype == torch.float32 else x.to(torch.float32)


def _rows(x: Tensor) -> Tensor:
    """(N, F) of (N, F), or (1, F) of one row (F,): the models give a row of results for either."""
    return _float(x) if x.ndim > 1 else _float(x).unsqueeze(0)


def _transform(scores: Tensor, name: str) -> Tensor:
    match name:
        case "NONE":
            return scores
        case "LOGISTIC":
            return torch.sigmoid(scores)
        case "SOFTMAX":
            return torch.softmax(scores, -1)
        case "SOFTMAX_ZERO":
            return torch.where(scores == 0, scores, torch.softmax(scores.masked_fill(scores == 0, -torch.inf), -1))
        case "PROBIT":
            quantiles: Tensor = torch.special.ndtri(scores)
            return quantiles
    raise ValueError(f"post_transform {name!r}")


@op("LinearClassifier", domain=ML)
def linear_classifier(
    x: Tensor,
    *,
    coefficients: Floats,
    classlabels_ints: Sequence[int] | None = None,
    classlabels_strings: Sequence[str] | None = None,
    intercepts: Floats | None = None,
    multi_class: int = 0,
    post_transform: str = "NONE",
) -> tuple[Tensor, Tensor]:
    """Labels (N,) and scores (N, classes). One row of coefficients for two classes scores both.

    There are as many rows as intercepts, and coefficients beyond them are not used (onnxruntime's linearclassifier.cc).
    """
    x = _rows(x)
    rows = len(intercepts) if intercepts else len(coefficients) // x.shape[-1]
    scores = x @ _matrix(coefficients[: rows * x.shape[-1]], x.shape[-1], x).t()
    if intercepts:
        scores = scores + torch.tensor(intercepts, device=x.device)
    count = len(classlabels_ints or classlabels_strings or ()) or scores.shape[-1]
    if scores.shape[-1] == 1 and count == 2:
        positive = _transform(scores, post_transform)
        index = (scores[:, 0] > 0).to(torch.int64)
        shown = torch.cat([1 - positive if post_transform == "LOGISTIC" else -positive, positive], -1)
    else:
        index, shown = scores.argmax(-1), _transform(scores, post_transform)
    return torch.tensor(classlabels_ints, device=x.device)[index] if classlabels_ints else index, shown


@op("LinearRegressor", domain=ML)
def linear_regressor(
    x: Tensor, *, coefficients: Floats, intercepts: Floats | None = None, post_transform: str = "NONE", targets: int = 1
) -> Tensor:
    """Values (N, targets). Coefficients beyond those of ``targets`` rows are not used, nor intercepts of another number (onnxruntime's
    linearregressor.cc)."""
    x = _rows(x)
    y = x @ _matrix(coefficients[: targets * x.shape[-1]], x.shape[-1], x).t()
    return _transform(y + torch.tensor(intercepts, device=x.device) if intercepts and len(intercepts) == targets else y, post_transform)


@op("Normalizer", domain=ML)
def normalizer(x: Tensor, *, norm: str = "MAX") -> Tensor:
    """Each row over its norm; a row of norm 0 stays as it is."""
    x = _float(x)
    match norm:
        case "MAX":
            size = x.amax(-1, keepdim=True)
        case "L1":
            size = x.abs().sum(-1, keepdim=True)
        case "L2":
            size = torch.linalg.vector_norm(x, 2, -1, keepdim=True)
        case _:
            raise ValueError(f"Normalizer with norm {norm!r}")
    return x / torch.where(size == 0, torch.ones_like(size), size)


@op("Scaler", domain=ML)
def scaler(x: Tensor, *, offset: Floats | None = None, scale: Floats | None = None) -> Tensor:
    y = _float(x)
    if offset:
        y = y - torch.tensor(offset, device=x.device)
    return y * torch.tensor(scale, device=x.device) if scale else y


@op("ArrayFeatureExtractor", domain=ML)
def array_feature_extractor(x: Tensor, y: Tensor) -> Tensor:
    """Columns ``y`` of the last axis."""
    result = x.index_select(-1, y.flatten().to(torch.int64))
    return result.reshape(1, -1) if x.ndim == 1 else result


@op("Binarizer", domain=ML)
def binarizer(x: Tensor, *, threshold: float = 0.0) -> Tensor:
    return (x > threshold).to(x.dtype)


@op("FeatureVectorizer", domain=ML)
def feature_vectorizer(*xs: Tensor, inputdimensions: Sequence[int] | None = None) -> Tensor:
    return torch.cat([_rows(x) for x in xs], -1)


@op("Imputer", domain=ML)
def imputer(
    x: Tensor,
    *,
    imputed_value_floats: Floats | None = None,
    imputed_value_int64s: Sequence[int] | None = None,
    replaced_value_float: float = 0.0,
    replaced_value_int64: int = 0,
) -> Tensor:
    """Replaces one value, NaN among them, column by column."""
    floats = x.is_floating_point()
    fill = torch.tensor(imputed_value_floats if floats else imputed_value_int64s, dtype=x.dtype, device=x.device)
    marker = replaced_value_float if floats else replaced_value_int64
    return torch.where(x.isnan() if marker != marker else x == marker, fill, x)


@op("OneHotEncoder", domain=ML)
def one_hot_encoder(x: Tensor, *, cats_int64s: Sequence[int], zeros: int = 1) -> Tensor:
    """A new last axis, one place a category."""
    return (x.unsqueeze(-1) == torch.tensor(cats_int64s, device=x.device)).to(torch.float32)


@op("LabelEncoder", domain=ML)
def label_encoder(
    x: Tensor,
    *,
    default_float: float = -0.0,
    default_int64: int = -1,
    default_tensor: Tensor | None = None,
    keys_floats: Floats | None = None,
    keys_int64s: Sequence[int] | None = None,
    keys_tensor: Tensor | None = None,
    values_floats: Floats | None = None,
    values_int64s: Sequence[int] | None = None,
    values_tensor: Tensor | None = None,
) -> Tensor:
    """Each key's value, else the default. NaN is a key like any other."""
    keys = keys_tensor if keys_tensor is not None else torch.tensor(keys_floats or keys_int64s, dtype=x.dtype, device=x.device)
    if values_tensor is not None:
        values, default = values_tensor, values_tensor.new_zeros(()) if default_tensor is None else default_tensor.reshape(())
    elif values_floats is not None:
        values, default = torch.tensor(values_floats, device=x.device), torch.tensor(default_float, device=x.device)
    else:
        values, default = torch.tensor(values_int64s, device=x.device), torch.tensor(default_int64, device=x.device)
    same = x.unsqueeze(-1) == keys
    if x.is_floating_point():
        same = same | (x.unsqueeze(-1).isnan() & keys.isnan())
    return torch.where(same.any(-1), values[same.to(torch.int8).argmax(-1)], default)


@op("SVMRegressor", domain=ML)
def svm_regressor(
    x: Tensor,
    *,
    coefficients: Floats,
    kernel_params: Floats | None = None,
    kernel_type: str = "LINEAR",
    n_supports: int = 0,
    one_class: int = 0,
    post_transform: str = "NONE",
    rho: Floats | None = None,
    support_vectors: Floats | None = None,
) -> Tensor:
    """``sum_i a_i k(x, s_i) + rho``; without support vectors, a linear model."""
    x = _rows(x)
    weights = torch.tensor(coefficients, device=x.device)
    if not n_supports:
        y = x @ weights.reshape(-1, 1)
    else:
        vectors = _matrix(support_vectors or (), x.shape[-1], x)
        gamma, shift, degree = kernel_params or (0.0, 0.0, 0.0)
        match kernel_type:
            case "LINEAR":
                kernel = x @ vectors.t()
            case "POLY":
                kernel = (gamma * (x @ vectors.t()) + shift) ** degree
            case "RBF":
                kernel = torch.exp(-gamma * (x.unsqueeze(-2) - vectors).square().sum(-1))
            case "SIGMOID":
                kernel = torch.tanh(gamma * (x @ vectors.t()) + shift)
            case _:
                raise ValueError(f"SVMRegressor with kernel {kernel_type!r}")
        y = kernel @ weights.reshape(-1, 1)
    y = y + (rho or (0.0,))[0]
    return torch.where(y > 0, 1.0, -1.0) if one_class else _transform(y, post_transform)


@op("ZipMap", domain=ML)
def zip_map(x: Tensor, *, classlabels_int64s: Sequence[int] | None = None, classlabels_strings: Sequence[str] | None = None) -> Tensor:
    """The maps' values as they came, (N, classes): the keys are the class labels in order."""
    return x
