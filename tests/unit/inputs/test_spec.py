"""What a model takes: who is believed, in which order, and how samples are brought into that form."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from modelguard import InputHints, InputSpec, ModelError, Samples, SamplesError, UsageError, canonical_inputs, resolve_input


def samples(values: Any, **given: Any) -> Samples:
    return Samples(np.asarray(values), None, "samples.npz", "0" * 64, **given)


def image_spec(**given: Any) -> InputSpec:
    fields: dict[str, Any] = {"kind": "image", "shape": (3, 4, 4), "dtype": "float32", "layout": "NCHW", "low": 0.0, "high": 1.0}
    return InputSpec(**{**fields, "mean": None, "std": None, "source": {}, **given})


def test_the_user_is_believed_before_the_graph_and_the_graph_before_the_samples() -> None:
    graph = InputHints.from_graph(("N", 3, 32, 32), "float32", samples=None)
    given = InputHints.from_option("range=0..255,mean=0.5:0.4:0.3,std=0.25")
    resolved = resolve_input([given, graph], samples(np.zeros((2, 32, 32, 3), np.float32)))
    assert (resolved.kind, resolved.shape, resolved.layout) == ("image", (3, 32, 32), "NCHW")
    assert (resolved.low, resolved.high) == (0, 255)
    assert resolved.mean == pytest.approx((127.5, 102, 76.5))
    assert resolved.std == pytest.approx((63.75,) * 3)
    assert resolved.source == {
        "kind": "ONNX graph", "shape": "ONNX graph", "layout": "ONNX graph", "dtype": "ONNX graph",
        "low": "--input", "high": "--input", "mean": "--input", "std": "--input",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("text", "mean", "std"),
    [
        ("range=0..255,mean=0.5,std=0.5", 127.5, 127.5),
        ("range=0..255,mean=0.5,std=0.5,units=raw", 0.5, 0.5),
        ("range=0..255,mean=127.5,std=64", 127.5, 64),
        ("range=0..1,mean=0.5,std=0.25", 0.5, 0.25),
    ],
)
def test_means_as_everybody_writes_them(text: str, mean: float, std: float) -> None:
    resolved = resolve_input([InputHints.from_option(text + ",shape=1x4x4")], None)
    assert resolved.mean == (mean,)
    assert resolved.std == (std,)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "rnge=0..1",
            "--input rnge=0..1: is not a known setting; known: data=, dtype=, kind=, layout=, mean=, range=, shape=, std=, units=",
        ),
        ("range=1..0", "a range is LOW..HIGH"),
        ("range=5", "a range is LOW..HIGH"),
        ("range=0..inf", "a range is LOW..HIGH"),
        ("mean=a", "could not convert"),
        ("mean=nan", "finite numbers"),
        ("layout=CHWN", "must be one of"),
        ("shape=3x0x4", "a shape is"),
        ("shape=1x2x3x4", "a shape is"),
        ("dtype=object", "must be one of"),
    ],
)
def test_a_wrong_option_is_a_usage_error_that_names_it(text: str, message: str) -> None:
    with pytest.raises(UsageError) as raised:
        InputHints.from_option(text)
    assert message in str(raised.value)


@pytest.mark.parametrize(
    ("shape", "dtype", "kind", "canonical_shape", "layout"),
    [
        (("N", 3, 32, 24), "float32", "image", (3, 32, 24), "NCHW"),
        ((1, 32, 24, 3), "float32", "image", (3, 32, 24), "NHWC"),
        (("N", "h", "w", 3), "uint8", "image", (3, -1, -1), "NHWC"),
        ((None, 28, 28), "float32", "image", (1, 28, 28), "NHW"),
        (("N", 20), "float32", "vector", (20,), "NF"),
        (("N", "T"), "int64", "text", (-1,), "NT"),
    ],
)
def test_a_graph_input_tells_kind_and_layout(shape: Any, dtype: str, kind: str, canonical_shape: Any, layout: str) -> None:
    resolved = resolve_input([InputHints.from_graph(shape, dtype, samples=None)], None)
    assert (resolved.kind, resolved.shape, resolved.layout) == (kind, canonical_shape, layout)


def test_free_dimensions_are_filled_from_the_samples() -> None:
    graph = InputHints.from_graph((None, 3, None, None), "float32", samples=None)
    resolved = resolve_input([graph], samples(np.zeros((2, 3, 20, 24))))
    assert resolved.shape == (3, 20, 24)
    assert resolved.source["shape"] == "ONNX graph, inferred from samples"


def test_a_graph_of_another_rank_is_refused() -> None:
    with pytest.raises(ModelError, match="has 5 dimensions"):
        InputHints.from_graph((1, 3, 8, 32, 32), "float32", samples=None)


@pytest.mark.parametrize(
    ("values", "low", "high"),
    [
        (np.array([[[0, 200]]], np.uint8), 0, 255),
        (np.array([[[0.0, 0.9]]], np.float32), 0, 1),
        (np.array([[[0.0, 200.0]]], np.float32), 0, 255),
        (np.array([[[-2.0, 2.5]]], np.float32), -2, 2.5),
    ],
)
def test_the_range_is_inferred_from_samples(values: Any, low: float, high: float) -> None:
    resolved = resolve_input([], samples(values))
    assert (resolved.low, resolved.high) == (low, high)
    assert resolved.source["low"] == "inferred from samples"


def test_a_float_graph_for_whole_pixels_is_assumed_to_take_0_to_1_and_says_so() -> None:
    resolved = resolve_input([InputHints.from_graph(("N", 3, 4, 4), "float32", samples=None)], samples(np.zeros((2, 4, 4, 3), np.uint8)))
    assert resolved.std == (255.0,) * 3
    assert resolved.source["std"] == "assumed"
    whole = resolve_input([InputHints.from_graph(("N", 3, 4, 4), "uint8", samples=None)], None)
    assert (whole.high, whole.mean, whole.std) == (255, None, None)


def test_processor_settings_are_of_pixels_in_0_to_1_whatever_the_samples_are() -> None:
    config = {"do_normalize": True, "image_mean": [0.5, 0.5, 0.5], "image_std": [0.25, 0.25, 0.25]}
    for values, scale in ((np.zeros((2, 4, 4, 3), np.uint8), 255.0), (np.zeros((2, 4, 4, 3), np.float32), 1.0)):
        resolved = resolve_input([InputHints.from_preprocessor(config)], samples(values))
        assert resolved.high == scale
        assert resolved.mean == (0.5 * scale,) * 3
        assert resolved.std == (0.25 * scale,) * 3
    plain = resolve_input([InputHints.from_preprocessor({"do_normalize": False})], samples(np.zeros((2, 4, 4, 3), np.uint8)))
    assert plain.std == (255.0,) * 3
    hostile = InputHints.from_preprocessor({"image_mean": ["a"], "image_std": {"b": 1}, "do_normalize": True})
    assert hostile.mean == (0.0,)


def test_timm_and_metadata_speak_too() -> None:
    config = {"pretrained_cfg": {"input_size": [3, 64, 64], "mean": [0.5, 0.5, 0.5], "std": [0.5, 0.5, 0.5]}}
    assert resolve_input([InputHints.from_timm(config)], None).shape == (3, 64, 64)
    metadata = InputHints.from_metadata({"Image.NominalPixelRange": "NominalRange_0_255"})
    resolved = resolve_input([metadata, InputHints.from_option("shape=3x4x4")], None)
    assert (resolved.low, resolved.high, resolved.mean) == (0, 255, (0.0, 0.0, 0.0))


def test_a_normalisation_of_the_wrong_width_is_refused() -> None:
    with pytest.raises(ModelError, match="has 3 channels but a normalisation of 2"):
        resolve_input([InputHints.from_option("shape=3x4x4,mean=0.5:0.5,std=0.5")], None)
    with pytest.raises(ModelError, match="standard deviation 0"):
        resolve_input([InputHints.from_option("shape=3x4x4,mean=0.5,std=0")], None)


def test_nobody_says_anything() -> None:
    with pytest.raises(ModelError, match="is not described by the model; give --samples"):
        resolve_input([], None)


@pytest.mark.parametrize("order", [(0, 1, 2, 3), (0, 2, 3, 1)])
def test_both_image_layouts_become_canonical(order: tuple[int, ...]) -> None:
    values = np.random.default_rng(0).random((2, 3, 4, 4)).astype(np.float32)
    np.testing.assert_array_equal(canonical_inputs(samples(values.transpose(order)), image_spec()), values)


def test_photographs_are_resized_and_other_arrays_are_not() -> None:
    pytest.importorskip("PIL")
    values = np.full((2, 9, 11, 3), 255, np.uint8)
    result = canonical_inputs(samples(values, resizable=True), image_spec())
    assert result.shape == (2, 3, 4, 4)
    assert result.min() == 1
    with pytest.raises(SamplesError, match=r"samples.npz: has samples of shape 9x11x3, the model takes 3x4x4"):
        canonical_inputs(samples(values), image_spec())


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (np.full((2, 3, 4, 4), 2.0), "has values 2..2, the model's raw range is 0..1; say --input range"),
        (np.full((2, 3, 4, 4), -0.5), "raw range"),
        (np.full((2, 3, 4, 4), np.nan), "not finite"),
        (np.array(["text"]), "not numbers"),
        (np.zeros((0, 3, 4, 4)), "holds no sample"),
    ],
)
def test_values_outside_the_raw_range_are_refused(values: Any, message: str) -> None:
    with pytest.raises(SamplesError, match=message):
        canonical_inputs(samples(values), image_spec())


def test_token_ids_outside_the_vocabulary_are_refused() -> None:
    text = image_spec(kind="text", shape=(-1,), dtype="int64", layout="NT", high=99.0)
    np.testing.assert_array_equal(canonical_inputs(samples(np.array([[1, 99]])), text), [[1, 99]])
    with pytest.raises(SamplesError, match=r"token ids outside 0..99"):
        canonical_inputs(samples(np.array([[1, 100]])), text)
    with pytest.raises(SamplesError, match="not token ids"):
        canonical_inputs(samples(np.array([[1.5, 2.0]])), text)


def test_the_option_names_the_data_and_what_other_inputs_are_given() -> None:
    hints = InputHints.from_option("range=0..255,data=images:0,im_shape=640:480,serving/x:0=1e-3")
    assert (hints.data, hints.high) == ("images:0", 255.0)
    assert hints.numbers == {"im_shape": (640.0, 480.0), "serving/x:0": (0.001,)}
    with pytest.raises(UsageError, match="NAME=NUMBER"):
        InputHints.from_option("sr=fast")
