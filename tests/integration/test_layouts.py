"""Repositories laid out as well-known public ones are, built small: they pass, are compared, and the right file of each is run."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

import modelguard
from modelguard import diff_checkpoints, numpy_dtype
from modelguard._scanner.models import model_builder
from modelguard.model import ModelFactory, ModelOptions
from modelguard.testing.checkpoints import open_target, write_safetensors, write_sharded

Tensors = dict[str, npt.NDArray[Any]]
BF16, FP8 = numpy_dtype("BF16"), numpy_dtype("F8_E4M3")


def drawn(shapes: Mapping[str, tuple[int, ...]]) -> Tensors:
    rng = np.random.default_rng(0)
    return {name: (0.02 * rng.standard_normal(shape)).astype(BF16) for name, shape in shapes.items()}


def transformer() -> Tensors:
    shapes = {"model.embed_tokens.weight": (96, 64), "lm_head.weight": (96, 64)}
    for layer in range(2):
        shapes |= {f"model.layers.{layer}.{part}.weight": (128, 64) for part in ("self_attn.q_proj", "mlp.up_proj")}
    return drawn(shapes)


def index(folder: Path, files: Mapping[str, Tensors]) -> None:
    size = sum(values.nbytes for tensors in files.values() for values in tensors.values())
    weight_map = {name: file for file, tensors in files.items() for name in tensors}
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {"total_size": size}, "weight_map": weight_map}))
    for file, tensors in files.items():
        write_safetensors(folder / file, tensors, {"format": "pt"})


def gpt_oss(folder: Path) -> Tensors:
    """https://huggingface.co/openai/gpt-oss-20b: shards 00000 to 00002 "of 00002", experts in MXFP4."""
    values = drawn({"model.layers.0.mlp.experts.down_proj": (2, 64, 48)}) | transformer()
    name = "model.layers.0.mlp.experts.down_proj"
    turned = values[name].astype(np.float32).transpose(0, 2, 1).reshape(2, 48, 2, 32)
    power = np.floor(np.log2(np.abs(turned).max(axis=-1))) - 2
    scaled = turned / np.exp2(power)[..., None]
    levels = np.asarray([0, 0.5, 1, 1.5, 2, 3, 4, 6], np.float32)
    codes = np.abs(np.abs(scaled)[..., None] - levels).argmin(axis=-1) + 8 * (scaled < 0)
    stored: Tensors = {key: value for key, value in values.items() if key != name}
    stored[f"{name}_blocks"] = (codes[..., 0::2] | codes[..., 1::2] << 4).astype(np.uint8)
    stored[f"{name}_scales"] = (power + 127).astype(np.uint8)
    names = list(stored)
    index(folder, {f"model-{at:05d}-of-00002.safetensors": {name: stored[name] for name in names[at::3]} for at in range(3)})
    return values


def mistral(folder: Path) -> Tensors:
    """https://huggingface.co/mistralai/Mistral-7B-Instruct-v0.3: transformers' shards and Mistral's own file of the same weights."""
    values = transformer()
    write_sharded(folder, values, 2)
    own = {name.replace("model.embed_tokens", "tok_embeddings").replace("lm_head", "output"): array for name, array in values.items()}
    write_safetensors(folder / "consolidated.safetensors", own)
    (folder / "params.json").write_text('{"dim": 64, "n_layers": 2}')
    return values


def deepseek(folder: Path) -> Tensors:
    """https://huggingface.co/deepseek-ai/DeepSeek-V3: FP8 with a scale for each block of 128 x 128."""
    values = transformer()
    stored: Tensors = {}
    for name, array in values.items():
        if ".layers." not in name:
            stored[name] = array
            continue
        wide = array.astype(np.float32)
        scale = np.asarray([[np.abs(wide).max() / 448]], np.float32)
        stored |= {name: (wide / scale).astype(FP8), f"{name}_scale_inv": scale}
    write_sharded(folder, stored, 3)
    return values


def adapter(folder: Path) -> Tensors:
    """A model and, beside it, the adapter that was trained on it."""
    values = transformer()
    write_safetensors(folder / "model.safetensors", values)
    write_safetensors(folder / "adapter_model.safetensors", drawn({"base_model.model.lm_head.lora_A.weight": (4, 64)}))
    (folder / "adapter_config.json").write_text(json.dumps({"peft_type": "LORA", "base_model_name_or_path": "org/base"}))
    return values


LAYOUTS: dict[str, Callable[[Path], Tensors]] = {"gpt-oss": gpt_oss, "mistral": mistral, "deepseek": deepseek, "adapter": adapter}
NOTED = {"adapter": {"MG0119"}}


@pytest.fixture(scope="module", params=LAYOUTS)
def layout(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Path, Tensors]:
    folder = tmp_path_factory.mktemp(request.param)
    values = LAYOUTS[request.param](folder)
    (folder / "config.json").write_text('{"model_type": "llama", "architectures": ["LlamaForCausalLM"]}')
    return request.param, folder, values


def test_it_passes_the_default_policy(layout: tuple[str, Path, Tensors]) -> None:
    name, folder, _ = layout
    report = modelguard.scan(folder, detectors=["format-integrity"])
    decision = modelguard.evaluate(report, modelguard.load_policy("builtin:baseline").requiring(["format-integrity"]), date(2026, 1, 1))
    assert decision.verdict.value == "pass", decision.violations
    assert {finding.rule for outcome in report.outcomes for finding in outcome.findings} == NOTED.get(name, set())


def test_it_is_compared_as_the_weights_it_stands_for(layout: tuple[str, Path, Tensors], tmp_path: Path) -> None:
    name, folder, values = layout
    write_safetensors(tmp_path / "model.safetensors", values)
    found = diff_checkpoints(open_target(tmp_path).checkpoints, open_target(folder).checkpoints)
    assert {item.kind for item in found.tensors} == ({"quantized"} if name in ("gpt-oss", "deepseek") else set())
    assert not found.matching.missing
    if name in ("gpt-oss", "deepseek"):
        assert found.change.kind == "quantized"
        assert not found.matching.added


class First(ModelFactory):
    id = "first"

    def accepts(self, artifact: Any, checkpoint: Any, options: Any) -> bool:
        return True

    def build(self, request: Any) -> Any:
        return request.checkpoint.name


def test_the_model_that_is_run_is_the_one_that_transformers_loads(layout: tuple[str, Path, Tensors]) -> None:
    target = open_target(layout[1])
    build, _ = model_builder(target.artifact, target.checkpoints, None, ModelOptions(), [First()])
    assert build is not None
    assert str(build()) == "model"
