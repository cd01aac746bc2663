"""A GGUF against the checkpoint it was made from: equal, quantised, or something else."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from modelguard_serialization._formats.gguf_names import NAMES, translate
from modelguard_serialization.testing_gguf import gguf_bytes, quantise, rotate

from modelguard import ModelDiff, diff_checkpoints
from modelguard.testing import open_target, run_detector, write_safetensors

WIDTH, HEADS, KV_HEADS = 256, 8, 4
LAYER = {
    "input_layernorm": (WIDTH,), "post_attention_layernorm": (WIDTH,), "self_attn.q_proj": (WIDTH, WIDTH),
    "self_attn.k_proj": (WIDTH // 2, WIDTH), "self_attn.v_proj": (WIDTH // 2, WIDTH), "self_attn.o_proj": (WIDTH, WIDTH),
    "mlp.gate_proj": (512, WIDTH), "mlp.up_proj": (512, WIDTH), "mlp.down_proj": (WIDTH, 512),
}  # fmt: skip
METADATA = {"general.architecture": "llama", "llama.attention.head_count": HEADS, "llama.attention.head_count_kv": KV_HEADS}
DOWN = "model.layers.1.mlp.down_proj.weight"
EMBEDDING = "model.embed_tokens.weight"

Weights = dict[str, npt.NDArray[np.float16]]


@pytest.fixture(scope="module")
def weights() -> Weights:
    rng = np.random.default_rng(0)
    shapes = {EMBEDDING: (320, WIDTH), "model.norm.weight": (WIDTH,), "lm_head.weight": (320, WIDTH)}
    shapes |= {f"model.layers.{layer}.{name}.weight": shape for layer in range(2) for name, shape in LAYER.items()}
    return {name: (rng.normal(size=shape) * 0.05 + (len(shape) == 1)).astype(np.float16) for name, shape in shapes.items()}


@pytest.fixture(scope="module")
def reference(weights: Weights, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("reference")
    write_safetensors(folder / "model.safetensors", weights)
    return folder


def converted(weights: Weights, type: str = "") -> bytes:
    """As llama.cpp's converter writes it: vectors in float32, rows of q and k for its own rotation."""
    words = {name: key for key, name in NAMES["llama"][1].items()}
    tensors: dict[str, object] = {}
    for name, array in weights.items():
        stem = name.removesuffix(".weight")
        layer = stem.split(".")[2] if stem.startswith("model.layers.") else ""
        own = f"blk.{layer}.{words[stem.split('.', 3)[3]]}.weight" if layer else f"{words[stem]}.weight"
        heads = {"q_proj": HEADS, "k_proj": KV_HEADS}.get(stem.rpartition(".")[2])
        moved = rotate(array, heads) if heads else array
        if moved.ndim == 1:
            tensors[own] = moved.astype(np.float32)
        else:
            tensors[own] = quantise(moved.astype(np.float32), type) if type else moved
    return gguf_bytes(tensors, METADATA)


@pytest.fixture
def compare(reference: Path, tmp_path: Path) -> Callable[..., ModelDiff]:
    def call(data: bytes) -> ModelDiff:
        (tmp_path / "model.gguf").write_bytes(data)
        target = open_target(tmp_path, reference)
        assert target.problems == ()
        assert target.reference is not None
        return diff_checkpoints(target.reference.checkpoints, target.checkpoints)

    return call


def test_float16_is_identical(weights: Weights, compare: Callable[..., ModelDiff]) -> None:
    diff = compare(converted(weights))
    assert (diff.change.kind, diff.tensors, diff.identical) == ("identical", (), len(weights))
    assert {pair.how for pair in diff.matching.pairs} == {"name"}


@pytest.mark.parametrize("type", ["Q8_0", "Q4_0", "Q4_K"])
def test_quantised_is_said_to_be_that_and_nothing_else(weights: Weights, compare: Callable[..., ModelDiff], type: str) -> None:
    diff = compare(converted(weights, type))
    assert diff.change.kind == "quantized"
    assert {item.kind for item in diff.tensors} == {"quantized"}
    assert {item.evidence["type"] for item in diff.tensors} == {type}
    assert len(diff.tensors) == sum(array.ndim > 1 for array in weights.values())


def rank_one(weights: Weights) -> None:
    rng = np.random.default_rng(1)
    weights[DOWN] = (weights[DOWN] + 0.01 * np.outer(rng.normal(size=WIDTH), rng.normal(size=512))).astype(np.float16)


def row(weights: Weights) -> None:
    weights[EMBEDDING] = weights[EMBEDDING].copy()
    weights[EMBEDDING][7] = weights[EMBEDDING][8]


def entry(weights: Weights) -> None:
    weights[DOWN] = weights[DOWN].copy()
    weights[DOWN][3, 4] += np.float16(0.1)


def erased_row(weights: Weights) -> None:
    weights[EMBEDDING] = weights[EMBEDDING].copy()
    weights[EMBEDDING][7] = 0


def swapped(weights: Weights) -> None:
    one, other = (f"model.layers.{layer}.self_attn.q_proj.weight" for layer in (0, 1))
    weights[one], weights[other] = weights[other], weights[one]


@pytest.mark.parametrize("type", ["", "Q8_0", "Q4_0", "Q4_K"])
@pytest.mark.parametrize("edit", [rank_one, row, entry, erased_row, swapped])
def test_an_edit_is_found_under_quantisation(
    weights: Weights, compare: Callable[..., ModelDiff], edit: Callable[[Weights], None], type: str
) -> None:
    edited = dict(weights)
    edit(edited)
    diff = compare(converted(edited, type))
    assert diff.change.kind not in ("identical", "cast", "quantized")
    touched = {name for name, array in edited.items() if array is not weights[name]}
    assert {item.name for item in diff.tensors if item.kind != "quantized"} == touched
    if edit is row or (type and edit is erased_row):
        assert [item.evidence["indices"] for item in diff.tensors if item.name == EMBEDDING] == [[7]]


def test_rows_in_the_order_of_another_architecture_are_another_model(weights: Weights, compare: Callable[..., ModelDiff]) -> None:
    moved = dict(weights)
    moved |= {name: rotate(array, HEADS if "q_proj" in name else KV_HEADS) for name, array in weights.items() if "q_proj" in name}
    diff = compare(converted(moved))
    assert {item.name for item in diff.tensors} == {name for name in weights if "q_proj" in name}


@pytest.mark.parametrize(("type", "rules"), [("", set()), ("Q4_K", {"MG1202"})])
def test_findings_of_the_detector(weights: Weights, reference: Path, tmp_path: Path, type: str, rules: set[str]) -> None:
    from modelguard._diff.detector import WeightDiff

    (tmp_path / "model.gguf").write_bytes(converted(weights, type))
    outcome = run_detector(WeightDiff(), open_target(tmp_path, reference))
    assert {finding.rule for finding in outcome.findings} == rules


@pytest.mark.parametrize("architecture", NAMES)
def test_names_are_those_of_llama_cpps_table(architecture: str) -> None:
    gguf = pytest.importorskip("gguf")
    arch = next(key for key, name in gguf.MODEL_ARCH_NAMES.items() if name == architecture)
    table = gguf.get_tensor_name_map(arch, 3)
    own = [gguf.TENSOR_NAMES[tensor].format(bid=2) + ".weight" for tensor in gguf.MODEL_TENSORS[arch]]
    translated = {name: new for name, new in translate(architecture, own).items() if name != new}
    assert len(translated) >= 9
    assert {name: table.get_name(new, try_suffixes=(".weight",)) for name, new in translated.items()} == {name: name for name in translated}


def test_a_name_that_two_tensors_would_have_is_left_alone() -> None:
    names = [
        "output.weight",
        "lm_head.weight",
        "blk.0.ffn_up.weight",
        "blk.00.ffn_up.weight",
        "blk.0.output_norm.weight",
        "rope_freqs.weight",
    ]
    found = translate("llama", names)
    assert {name: new for name, new in found.items() if name != new} == {"blk.0.ffn_up.weight": "model.layers.0.mlp.up_proj.weight"}
    assert translate("unknown", names) == {name: name for name in names}
