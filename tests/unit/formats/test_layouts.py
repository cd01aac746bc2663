"""Which files make one checkpoint, which of several a loader would take, and what lies beside it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from modelguard._formats import builtin_formats
from modelguard._formats.opening import open_artifact
from modelguard._scanner.models import model_builder
from modelguard._sources.local import LocalSource
from modelguard.artifact import SourceContext
from modelguard.detector import Target
from modelguard.model import ModelFactory, ModelOptions
from modelguard.testing.checkpoints import open_target, write_safetensors, write_sharded

Files = Mapping[str, Mapping[str, float]]


def one(value: float) -> npt.NDArray[np.float32]:
    return np.full((2, 2), value, np.float32)


def write(folder: Path, files: Files, weight_map: Mapping[str, str] | None = None, index: str = "model.safetensors.index.json") -> Target:
    """Files of tensors that hold one number each, and an index, by default one that names every tensor in the last file that has it."""
    for file, tensors in files.items():
        write_safetensors(folder / file, {name: one(value) for name, value in tensors.items()})
    if weight_map is None:
        weight_map = {name: file for file, tensors in files.items() for name in tensors}
    size = sum(16 * len(tensors) for file, tensors in files.items() if file in weight_map.values())
    (folder / index).write_text(json.dumps({"metadata": {"total_size": size}, "weight_map": weight_map}))
    return open_target(folder)


def told(target: Target) -> list[tuple[str, str]]:
    return [(problem.rule, problem.file) for problem in target.problems]


def values(target: Target, number: int = 0) -> dict[str, float]:
    checkpoint = target.checkpoints[number]
    return {name: float(checkpoint.read(name)[0, 0]) for name in checkpoint.tensors}


def names(target: Target) -> list[str]:
    return [item.name for item in target.checkpoints]


# The index says which files belong together.


def test_files_of_any_name_that_an_index_names_are_one_checkpoint(tmp_path: Path) -> None:
    target = write(tmp_path, {f"{number:05d}.safetensors": {f"layers.{number}.w": number} for number in range(3)})
    assert (names(target), told(target)) == (["model"], [])
    assert values(target) == {"layers.0.w": 0, "layers.1.w": 1, "layers.2.w": 2}


def test_without_an_index_they_are_three(tmp_path: Path) -> None:
    target = write(tmp_path, {f"{number:05d}.safetensors": {f"layers.{number}.w": number} for number in range(3)})
    (tmp_path / "model.safetensors.index.json").unlink()
    assert len(open_target(tmp_path).checkpoints) == 3 > len(target.checkpoints)


@pytest.mark.parametrize(
    ("index", "stem"),
    [
        ("model.safetensors.index.json", "model"),
        ("diffusion_pytorch_model.safetensors.index.fp16.json", "diffusion_pytorch_model.fp16"),
    ],
)
def test_the_checkpoint_is_called_what_its_index_is(index: str, stem: str, tmp_path: Path) -> None:
    assert names(write(tmp_path, {"a.safetensors": {"a": 1}, "b.safetensors": {"b": 2}}, index=index)) == [stem]


def test_a_single_file_that_an_index_names_is_the_model_whatever_it_is_called(tmp_path: Path) -> None:
    write_safetensors(tmp_path / "a.safetensors", {"w": one(5)})
    target = write(tmp_path, {"weights.safetensors": {"w": 1}})
    assert (names(target), told(target)) == (["a", "model"], [])
    build, _ = model_builder(target.artifact, target.checkpoints, None, ModelOptions(), [AnyFactory()])
    assert build is not None
    assert str(build()) == "model"


def test_what_an_index_names_beside_a_whole_file_does_not_take_its_name(tmp_path: Path) -> None:
    write_safetensors(tmp_path / "model.safetensors", {"a": one(3)})
    target = write(tmp_path, {"x.safetensors": {"a": 1}, "y.safetensors": {"b": 2}})
    assert names(target) == ["model", "model-of-2"]


def test_a_file_belongs_to_one_index(tmp_path: Path) -> None:
    write(tmp_path, {"a.safetensors": {"a": 1}, "b.safetensors": {"b": 2}})
    target = write(tmp_path, {"c.safetensors": {"c": 3}}, {"a": "a.safetensors", "c": "c.safetensors"}, "model.safetensors.index.x.json")
    assert names(target) == ["model", "model.x"]
    assert (values(target), values(target, 1)) == ({"a": 1, "b": 2}, {"c": 3})


# The same name in two files.


def overlaid(folder: Path, overlay: str) -> Target:
    files = {
        "model-00001-of-00002.safetensors": {"body": 1, "classifier.weight": 2},
        "model-00002-of-00002.safetensors": {"tail": 3},
        overlay: {"classifier.weight": 4},
    }
    chosen = {"body": "model-00001-of-00002.safetensors", "tail": "model-00002-of-00002.safetensors", "classifier.weight": overlay}
    return write(folder, files, chosen)


def test_an_overlay_that_the_index_sends_a_tensor_to_is_what_counts_and_is_reported(tmp_path: Path) -> None:
    target = overlaid(tmp_path, "overlay.safetensors")
    assert told(target) == [("MG0107", "overlay.safetensors")]
    assert target.problems[0].tensor == "classifier.weight"
    assert values(target)["classifier.weight"] == 4
    assert values(target)["classifier.weight (model-00001-of-00002.safetensors)"] == 2


def test_files_are_read_in_order_of_their_names_so_an_overlay_may_lose(tmp_path: Path) -> None:
    target = overlaid(tmp_path, "a.safetensors")
    assert told(target) == [("MG0107", "model-00001-of-00002.safetensors")]
    assert values(target)["classifier.weight"] == 2


def test_an_index_over_shards_and_a_file_beside_them_without_a_name_in_common_is_fine(tmp_path: Path) -> None:
    target = write(tmp_path, {"model-00001-of-00001.safetensors": {"body": 1}, "head.safetensors": {"classifier.weight": 2}})
    assert (names(target), told(target)) == (["model"], [])


# Numbers of shards.


def numbered(folder: Path, numbers: range, count: int) -> Target:
    return write(folder, {f"model-{number:05d}-of-{count:05d}.safetensors": {f"w{number}": number} for number in numbers})


def test_shards_from_0_to_n_of_n_are_fine_where_the_index_names_them(tmp_path: Path) -> None:
    """As published: https://huggingface.co/openai/gpt-oss-20b/tree/main."""
    target = numbered(tmp_path, range(3), 2)
    assert (names(target), told(target)) == (["model"], [])
    assert values(target) == {"w0": 0, "w1": 1, "w2": 2}


def test_without_an_index_one_is_too_many_and_the_remedy_names_the_index(tmp_path: Path) -> None:
    numbered(tmp_path, range(3), 2)
    (tmp_path / "model.safetensors.index.json").unlink()
    (problem,) = open_target(tmp_path).problems
    assert problem.rule == "MG0108"
    assert "restore the index" in problem.message


def test_with_an_index_that_leaves_one_out_the_loader_does_not_have_it_and_it_is_said(tmp_path: Path) -> None:
    numbered(tmp_path, range(3), 2)
    target = write(tmp_path, {}, {"w1": "model-00001-of-00002.safetensors", "w2": "model-00002-of-00002.safetensors"})
    assert ("MG0109", "model.safetensors.index.json") in told(target)
    assert values(target, names(target).index("model")) == {"w1": 1, "w2": 2}


def test_a_missing_shard_is_missing_though_the_index_does_not_name_it(tmp_path: Path) -> None:
    target = numbered(tmp_path, range(1, 3), 4)
    assert [(problem.rule, problem.fatal) for problem in target.problems] == [("MG0108", True)]


# Which of several is run.


def test_what_is_run_has_the_overlay_and_not_the_copy_that_loaders_drop(tmp_path: Path) -> None:
    target = overlaid(tmp_path, "overlay.safetensors")
    build, _ = model_builder(target.artifact, target.checkpoints, None, ModelOptions(), [Tensors()])
    assert build is not None
    loaded: Any = build()
    assert loaded == {"body": 1, "tail": 3, "classifier.weight": 4}


def test_a_tensor_named_like_a_copy_hides_none(tmp_path: Path) -> None:
    target = write(
        tmp_path,
        {"a.safetensors": {"w": 1}, "b.safetensors": {"w": 2, "w (a.safetensors)": 3}},
        {"w": "a.safetensors", "x": "b.safetensors"},
    )
    assert sorted(values(target).values()) == [1, 2, 3]


class Tensors(ModelFactory):
    id = "tensors"

    def accepts(self, artifact: Any, checkpoint: Any, options: Any) -> bool:
        return True

    def build(self, request: Any) -> Any:
        return {name: float(request.checkpoint.read(name)[0, 0]) for name in request.checkpoint.tensors}


class AnyFactory(ModelFactory):
    id = "any"

    def accepts(self, artifact: Any, checkpoint: Any, options: Any) -> bool:
        return True

    def build(self, request: Any) -> Any:
        return request.checkpoint.name


@pytest.mark.parametrize(
    ("beside", "chosen"),
    [
        (("consolidated.safetensors", "model.safetensors"), "model"),
        (("adapter_model.safetensors", "model.safetensors"), "model"),
        (("adapter_model.safetensors", "consolidated.safetensors", "weights.safetensors"), "weights"),
        (("a.safetensors", "pytorch_model.safetensors", "sub/model.safetensors"), "pytorch_model"),
        (("b.safetensors", "a.safetensors"), "a"),
        (("consolidated.safetensors",), "consolidated"),
    ],
)
def test_the_checkpoint_that_is_run_is_the_one_that_transformers_loads(beside: tuple[str, ...], chosen: str, tmp_path: Path) -> None:
    for file in beside:
        write_safetensors(tmp_path / file, {"w": one(1)})
    target = open_target(tmp_path)
    build, _ = model_builder(target.artifact, target.checkpoints, None, ModelOptions(), [AnyFactory()])
    assert build is not None
    assert str(build()) == chosen


def test_shards_come_before_consolidated_ones(tmp_path: Path) -> None:
    write_sharded(tmp_path, {"a": one(1), "b": one(2)}, 2)
    write_safetensors(tmp_path / "consolidated.safetensors", {"tok_embeddings.weight": one(1)})
    target = open_target(tmp_path)
    assert not target.problems
    build, _ = model_builder(target.artifact, target.checkpoints, None, ModelOptions(), [AnyFactory()])
    assert build is not None
    assert str(build()) == "model"


# Adapters.


def adapter(folder: Path, base: object = "org/base", model: str | None = "model.safetensors") -> list[tuple[str, str]]:
    write_safetensors(folder / "adapter_model.safetensors", {"base_model.model.w.lora_A.weight": one(1)})
    if model is not None:
        write_safetensors(folder / model, {"w": one(1)})
    (folder / "adapter_config.json").write_text(json.dumps({"peft_type": "LORA", "base_model_name_or_path": base}))
    return [(problem.rule, problem.message) for problem in open_target(folder).problems]


def test_an_adapter_beside_a_model_is_told_with_what_it_is_loaded_on(tmp_path: Path) -> None:
    ((rule, message),) = adapter(tmp_path, "someone/else")
    assert rule == "MG0119"
    assert "adapter of the base model 'someone/else' lies beside model.safetensors" in message
    assert "it loads 'someone/else' in its place" in message


def test_an_adapter_of_the_very_model_beside_it_is_only_applied(tmp_path: Path) -> None:
    ((rule, message),) = adapter(tmp_path, ".")
    assert rule == "MG0119"
    assert "in its place" not in message


def test_an_adapter_of_the_repository_it_came_from(tmp_path: Path) -> None:
    adapter(tmp_path, "org/base")
    artifact = LocalSource().fetch(str(tmp_path), SourceContext(digest=False))
    object.__setattr__(artifact, "identity", "hf:org/base")
    (problem,) = open_artifact(artifact, [item() for item in builtin_formats()]).problems
    assert (problem.rule, problem.evidence["kind"]) == ("MG0119", "own")


@pytest.mark.parametrize("base", [None, 3, ["x"]])
def test_a_base_that_is_no_name(base: object, tmp_path: Path) -> None:
    ((rule, message),) = adapter(tmp_path, base)
    assert rule == "MG0119"
    assert "an adapter of no base model" in message


def test_an_adapter_alone_is_ordinary_and_its_base_was_not_looked_at(tmp_path: Path) -> None:
    ((rule, message),) = adapter(tmp_path, "org/base", model=None)
    assert rule == "MG0120"
    assert "'org/base', which is not in the artifact and was not looked at" in message


def test_a_model_in_another_folder_is_not_beside_it(tmp_path: Path) -> None:
    assert [rule for rule, _ in adapter(tmp_path, model="sub/model.safetensors")] == ["MG0120"]


def test_a_configuration_that_is_no_json_does_not_hide_the_adapter(tmp_path: Path) -> None:
    adapter(tmp_path)
    (tmp_path / "adapter_config.json").write_text("{")
    assert [problem.rule for problem in open_target(tmp_path).problems] == ["MG0119"]


# What a server said instead.


@pytest.mark.parametrize("text", ["Invalid username or password.", "Entry not found\n", '{"error":"Repository is gated"}\n'])
def test_what_a_server_answered_instead_is_text(text: str, tmp_path: Path) -> None:
    (tmp_path / "model.safetensors").write_text(text)
    (problem,) = open_target(tmp_path).problems
    assert (problem.rule, problem.fatal) == ("MG0101", True)
    assert "is text (" in problem.message
    assert "download it again" in problem.message
    assert "bytes" not in problem.message


def test_a_page_that_a_server_sent_instead_may_be_downloaded_again(tmp_path: Path) -> None:
    (tmp_path / "model.safetensors").write_text("<!DOCTYPE html><html><title>404</title></html>")
    (problem,) = open_target(tmp_path).problems
    assert problem.message.endswith("is an HTML page; it may be what a server answered instead of the file; download it again")


def test_a_header_that_was_cut_off_is_not_called_text(tmp_path: Path) -> None:
    path = write_safetensors(tmp_path / "model.safetensors", {"w": one(1)})
    path.write_bytes(path.read_bytes()[:40])
    (problem,) = open_target(tmp_path).problems
    assert problem.rule == "MG0102"
