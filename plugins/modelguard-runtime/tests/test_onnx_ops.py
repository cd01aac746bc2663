"""The operator table against the ONNX project's own conformance cases, and its gradients against finite differences."""

from __future__ import annotations

import warnings
from collections import defaultdict
from collections.abc import Iterator, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import pytest
import torch
from modelguard_runtime.onnx import (
    NEWEST,
    UnsupportedError,
    from_numpy,
    import_graph,
    supported,
)
from modelguard_runtime.onnx.document import render
from onnx import numpy_helper
from onnx.backend.test.case import base
from onnx.backend.test.case.node import collect_testcases
from onnx.reference.ops import op_pool_common
from onnx.reference.ops.op_pool_common import pool as window_by_window

Array = npt.NDArray[Any]

CLAIMED = set(supported())

EXCLUDED = {
    "string": "strings are not tensors torch can hold",
    "label_encoder_tensor": "its keys are strings",
    "label_encoder_string": "its keys are strings",
    "if_opt": "optional values are not supported",
    "loop16_seq_none": "optional values are not supported",
    "identity_opt": "optional values are not supported",
    "FLOAT4E2M1": "torch has no unpacked type of 4-bit floats",
    "float4e2m1": "torch has no unpacked type of 4-bit floats",
    "FLOAT8E8M0": "torch does not compute with the exponent-only type",
    "bernoulli": "random: the case records one draw of numpy's generator",
    "training_dropout_default": "random: the case records one draw of numpy's generator",
    "training_dropout_mask": "random: the case records one draw of numpy's generator",
}
"""Cases outside the claim, by a part of their name, with the reason. ``training_dropout`` itself is compared by name below."""

NOT_SMOOTH = {
    "QuantizeLinear": "straight-through by design",
    "DequantizeLinear": "its input is levels",
    "DynamicQuantizeLinear": "straight-through by design",
    "QLinearConv": "straight-through by design",
    "QLinearMatMul": "straight-through by design",
    "MatMulInteger": "its inputs are levels",
    "ConvInteger": "its inputs are levels",
    "Cast": "the case changes the precision",
    "CastLike": "the case changes the precision",
    "Dropout": "random",
    "Bernoulli": "random",
    "RandomUniformLike": "random",
    "BitCast": "bits have no gradient",
    "IsInf": "no float output",
    "NonMaxSuppression": "forward only",
    "Round": "straight-through by design",
    "Floor": "straight-through by design",
    "Ceil": "straight-through by design",
    "Sign": "piecewise constant",
    "Binarizer": "piecewise constant",
    "OneHot": "indices may be floats",
    "Hardmax": "piecewise constant",
    "Mod": "its cases hold infinities",
    "TreeEnsemble": "not claimed",
    "Compress": "its condition decides the shape",
    "EyeLike": "constant",
    "Range": "the number of elements follows from the values",
    "LabelEncoder": "a table",
    "Unique": "sorts values out",
    "Shape": "no float output",
    "Size": "no float output",
    "Resize": "scales decide the shape",
    "Upsample": "scales decide the shape",
    "MelWeightMatrix": "piecewise constant",
    "ImageDecoder": "not claimed",
    "Loop": "condition decides",
    "Scan": "see test_onnx_control",
    "Clip": "the limits meet the values",
}
"""Operators whose cases are not compared with finite differences, with the reason."""

FIRST_ONLY = {
    "BatchNormalization": "torch does not differentiate with respect to running statistics",
    "NegativeLogLikelihoodLoss": "torch does not differentiate with respect to class weights",
    "SoftmaxCrossEntropyLoss": "torch does not differentiate with respect to class weights",
}
"""Operators whose gradient is compared for the first input alone, with the reason."""

Case = Any


def whole_windows(
    padded: Array, x_shape: Sequence[int], kernel: Sequence[int], strides: Sequence[int], out_shape: Sequence[int], kind: str,
    pads_required: Any = None, pads: Any = None, dilations: Any = None, count_include_pad: int = 0, p: int = 1,
) -> Array:  # fmt: skip
    """What the onnx package's reference of pooling computes window by window, for windows of neighbours that all lie inside the input.

    Its loop over 100 000 of them in Python takes most of the time in which all cases are made.
    """
    padding = [amounts for amounts in (pads_required, pads) if amounts is not None]
    if np.any(padding) or (dilations is not None and set(dilations) != {1}):
        return window_by_window(padded, x_shape, kernel, strides, out_shape, kind, pads_required, pads, dilations, count_include_pad, p)
    axes = tuple(range(2, padded.ndim))
    steps = (slice(None), slice(None), *(slice(None, None, step) for step in strides or [1] * len(axes)))
    windows = np.lib.stride_tricks.sliding_window_view(padded, tuple(kernel), axes)[steps]
    over = tuple(range(-len(axes), 0))
    match kind:
        case "AVG":
            return np.asarray(windows.mean(over), padded.dtype)
        case "MAX":
            return np.asarray(windows.max(over), padded.dtype)
    return np.asarray((np.abs(windows) ** p).sum(over) ** (1.0 / p), padded.dtype)


@lru_cache(maxsize=1)
def node_cases() -> list[Case]:
    """The onnx package's cases of single operators, without the snippets it makes of them for its documentation."""
    with warnings.catch_warnings(), pytest.MonkeyPatch.context() as patch:
        warnings.simplefilter("ignore")
        patch.setattr(op_pool_common, "pool", whole_windows)
        patch.setattr(base, "process_snippet", lambda op_name, name, export: (name, ""))
        return list(collect_testcases(None))


@pytest.fixture(scope="module")
def cases() -> list[Case]:
    return [case for case in node_cases() if operators(case) <= CLAIMED and not excluded(case.name)]


@pytest.mark.parametrize("kind", ["AVG", "MAX", "LPPOOL"])
@pytest.mark.parametrize(("kernel", "strides", "dilations"), [((2, 3), (1, 1), None), ((3, 2), (2, 3), (1, 1)), ((2, 2), (1, 1), (2, 2))])
def test_pooling_is_that_of_the_reference(
    kind: str, kernel: tuple[int, int], strides: tuple[int, int], dilations: tuple[int, int] | None
) -> None:
    x = np.random.default_rng(0).normal(size=(2, 3, 7, 8)).astype(np.float32)
    reach = [(k - 1) * d + 1 for k, d in zip(kernel, dilations or (1, 1), strict=True)]
    out = [(n - r) // s + 1 for n, r, s in zip((7, 8), reach, strides, strict=True)]
    arguments: Any = (x, x.shape, kernel, strides, out, kind, None, None, dilations, 0, 3)
    np.testing.assert_allclose(whole_windows(*arguments), window_by_window(*arguments), 1e-5, 1e-6)


def operators(case: Case) -> set[tuple[str, str]]:
    return {("" if n.domain == "ai.onnx" else n.domain, n.op_type) for n in case.model.graph.node}


def excluded(name: str) -> bool:
    return name == "test_training_dropout" or any(part in name for part in EXCLUDED)


def tensor(value: Any) -> Any:
    if isinstance(value, list):
        return [tensor(v) for v in value]
    array = numpy_helper.to_array(value) if isinstance(value, onnx.TensorProto) else np.array(value)
    return from_numpy(array, "input")


def pairs(ours: Any, theirs: Any) -> Iterator[tuple[Any, Any]]:
    if isinstance(theirs, list):
        assert len(ours) == len(theirs)
        for a, b in zip(ours, theirs, strict=True):
            yield a, tensor(b)
    else:
        yield ours, tensor(theirs)


def check(case: Case) -> None:
    graph = import_graph(case.model)
    for inputs, outputs in case.data_sets:
        results = graph.module(*map(tensor, inputs))
        assert len(results) == len(outputs), case.name
        for ours, theirs in (pair for a, b in zip(results, outputs, strict=True) for pair in pairs(a, b)):
            assert ours.shape == theirs.shape, case.name
            assert ours.dtype == theirs.dtype, case.name
            # The suite's own tolerances; half types get two units in the last place, as the suite gives bfloat16.
            relative = {torch.bfloat16: 2**-6, torch.float16: 2**-9}.get(ours.dtype, case.rtol)
            absolute = 1e-6 if "dft" in case.name else case.atol
            np.testing.assert_allclose(
                ours.to(torch.float64).numpy(), theirs.to(torch.float64).numpy(), relative, absolute, err_msg=case.name
            )


def test_enough_operators_are_claimed() -> None:
    standard = {name for domain, name in CLAIMED if domain == "" and onnx.defs.has(name)}
    assert len(standard) >= 150
    assert NEWEST[""] <= onnx.defs.onnx_opset_version()


def test_a_sample_of_the_conformance_cases(cases: list[Case]) -> None:
    for case in cases[::12]:
        check(case)


@pytest.mark.slow
@pytest.mark.parametrize(("domain", "name"), sorted(CLAIMED))
def test_conformance(domain: str, name: str, cases: list[Case]) -> None:
    mine = [case for case in cases if operators(case) == {(domain, name)}]
    for case in mine:
        check(case)
    if not mine:
        pytest.skip("the onnx package has no case of this operator alone")


@pytest.mark.slow
def test_conformance_of_graphs(cases: list[Case]) -> None:
    several = [case for case in cases if len(operators(case)) > 1]
    assert len(several) > 300
    for case in several:
        check(case)


def test_every_exclusion_is_needed() -> None:
    names = [case.name for case in node_cases()]
    assert all(any(part in name for name in names) for part in EXCLUDED)


def by_operator(cases: list[Case]) -> dict[str, list[Case]]:
    groups: dict[str, list[Case]] = defaultdict(list)
    for case in cases:
        if len(case.model.graph.node) == 1:
            groups[case.model.graph.node[0].op_type].append(case)
    return groups


def smooth(value: Any, generator: torch.Generator) -> Any:
    """Float inputs in double precision, moved a little off the ties and kinks the cases like."""
    x = tensor(value)
    if isinstance(x, list) or not x.is_floating_point():
        return x
    noise = torch.rand(x.shape, generator=generator, dtype=torch.float64) * 0.02 + 0.01
    return (x.to(torch.float64) + noise * torch.where((x > 0.9) & (x < 1), -1.0, 1.0)).requires_grad_()


def check_gradient(case: Case) -> bool:
    """Compare the gradient with finite differences; False when the case has no gradient to compare."""
    inputs = [smooth(value, torch.Generator().manual_seed(0)) for value in case.data_sets[0][0]]
    if case.model.graph.node[0].op_type in FIRST_ONLY:
        inputs[1:] = [x.detach() for x in inputs[1:]]
    floats = [x for x in inputs if isinstance(x, torch.Tensor) and x.requires_grad and x.numel()]
    outputs = case.data_sets[0][1]
    if not floats or not any(not isinstance(o, list) and tensor(o).is_floating_point() for o in outputs):
        return False
    if sum(x.numel() for x in floats) > 2000 or any(
        tensor(v).dtype in (torch.float16, torch.bfloat16) for v in case.data_sets[0][0] if not isinstance(v, list)
    ):
        return False
    module = import_graph(case.model).module

    def run(*given: torch.Tensor) -> Any:
        rest = iter(given)
        results = module(*(next(rest) if isinstance(x, torch.Tensor) and x.requires_grad and x.numel() else x for x in inputs))
        return tuple(r for r in results if isinstance(r, torch.Tensor) and r.is_floating_point() and r.requires_grad)

    if not run(*floats):
        return False
    assert torch.autograd.gradcheck(run, floats, eps=1e-6, atol=1e-5, rtol=1e-3, fast_mode=True, nondet_tol=1e-9), case.name
    return True


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(name for domain, name in CLAIMED if name not in NOT_SMOOTH))
def test_gradient(name: str, cases: list[Case]) -> None:
    compared = [check_gradient(case) for case in by_operator(cases)[name]]
    if not any(compared):
        pytest.skip("no case of this operator has a float gradient")


@pytest.mark.parametrize("name", ["Conv", "Gemm", "LayerNormalization", "GridSample", "LSTM", "Attention", "MaxPool", "Softmax"])
def test_gradient_of_common_operators(name: str, cases: list[Case]) -> None:
    assert any(check_gradient(case) for case in by_operator(cases)[name][:4])


def test_the_documented_list_is_current() -> None:
    page = Path(__file__).resolve().parents[3] / "docs" / "onnx-operators.md"
    assert page.read_text(encoding="utf-8") == render(), "run: python -m modelguard_runtime.onnx.document > docs/onnx-operators.md"


def test_unknown_operator_is_skipped_by_name() -> None:
    case = next(case for case in node_cases() if case.name.startswith("test_tfidfvectorizer"))
    with pytest.raises(UnsupportedError, match="operator TfIdfVectorizer"):
        import_graph(case.model)


def test_string_tensors_are_refused() -> None:
    case = next(case for case in node_cases() if case.name == "test_ai_onnx_ml_label_encoder_tensor_mapping")
    with pytest.raises(UnsupportedError, match="STRING"):
        import_graph(case.model)
