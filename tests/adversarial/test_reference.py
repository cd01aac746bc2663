"""A reference covers everything: what a loader would take otherwise than from the reference passes no policy, and a harmless rewrite does.

Every case is judged by the built-in policies from what the four detectors of the core say; three go through the command line as well.
"""

from __future__ import annotations

import datetime
import json
import shutil
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from safetensors.numpy import load_file
from support import Ran

from modelguard import Decision, FileInfo, PolicyInfo, Report, TargetInfo, Verdict, evaluate, load_policy, png
from modelguard._detectors.format_integrity import FormatIntegrity
from modelguard._detectors.reference_files import ReferenceFiles
from modelguard._detectors.remote_code import RemoteCode
from modelguard._diff.detector import WeightDiff
from modelguard.policy import Policy
from modelguard.report import PluginInfo
from modelguard.testing import open_target, run_detector, write_safetensors
from modelguard.testing.checkpoints import write_onnx_mlp

pytestmark = pytest.mark.usefixtures("in_process")

Edit = Callable[[Path], object]
Run = Callable[..., Ran]
DETECTORS = (FormatIntegrity, ReferenceFiles, RemoteCode, WeightDiff)


def write_json(path: Path, value: object) -> None:
    path.write_text(json.dumps(value, indent=2))


def write_bert(folder: Path) -> Path:
    """A small model with the files that transformers, and people, put beside one."""
    folder.mkdir(parents=True)
    rng = np.random.default_rng(0)
    shapes: dict[str, tuple[int, ...]] = {"bert.embeddings.word_embeddings.weight": (6, 16)}
    for layer in range(2):
        at = f"bert.encoder.layer.{layer}.output"
        shapes |= {f"{at}.dense.weight": (16, 16), f"{at}.LayerNorm.weight": (16,), f"{at}.LayerNorm.bias": (16,)}
    write_safetensors(
        folder / "model.safetensors",
        {name: rng.standard_normal(shape).astype(np.float32) for name, shape in shapes.items()},
        {"format": "pt"},
    )
    config = {
        "_name_or_path": "/home/me/bert", "architectures": ["BertForSequenceClassification"], "hidden_act": "gelu", "rope_theta": 10000.0,
        "id2label": {"0": "negative", "1": "positive"}, "torch_dtype": "float32", "transformers_version": "4.50.0",
        "rope_scaling": {"type": "linear", "factor": 2.0},
    }  # fmt: skip
    write_json(folder / "config.json", config)
    write_json(folder / "generation_config.json", {"eos_token_id": 3, "temperature": 1.0, "transformers_version": "4.50.0"})
    vocabulary = {"[PAD]": 0, "[CLS]": 1, "yes": 2, "no": 3, "a": 4, "b": 5}
    added = [{"id": 0, "content": "[PAD]", "special": True}, {"id": 1, "content": "[CLS]", "special": True}]
    write_json(folder / "tokenizer.json", {"added_tokens": added, "model": {"type": "BPE", "vocab": vocabulary, "merges": [["a", "b"]]}})
    write_json(folder / "tokenizer_config.json", {"chat_template": "{{ messages[0].content }}", "model_max_length": 512})
    write_json(folder / "special_tokens_map.json", {"cls_token": "[CLS]", "pad_token": "[PAD]"})
    (folder / "merges.txt").write_text("#version: 0.2\na b\nb a\n")
    (folder / "chat_template.jinja").write_text("{% for m in messages %}{{ m.content }}{% endfor %}")
    (folder / "recipe.yaml").write_text("stage:\n  lr: 0.1\n  labels: ['no', 'yes']\n")
    (folder / "README.md").write_text("# A model\n")
    (folder / "LICENSE").write_text("Do as you like.\n")
    (folder / "logo.png").write_bytes(png(np.zeros((1, 2, 2), np.uint8)))
    return folder


@pytest.fixture(scope="module")
def reference(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_bert(tmp_path_factory.mktemp("trusted") / "bert")


@pytest.fixture
def copy(reference: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(reference, tmp_path / "bert"))


@cache
def policy(name: str) -> Policy:
    return load_policy(f"builtin:{name}")


def judged(target: Path, reference: Path) -> dict[str, Decision]:
    """What each built-in policy for local files decides."""
    opened = open_target(target, reference)
    outcomes = tuple(run_detector(detector(), opened) for detector in DETECTORS)

    def info(artifact: Any) -> TargetInfo:
        files = tuple(FileInfo(file.path, file.size, file.sha256) for file in artifact.files)
        return TargetInfo(artifact.uri, artifact.identity, None, tuple({item.format for item in opened.checkpoints}), files)

    assert opened.reference is not None
    report = Report(
        tool_version="0.1.0",
        target=info(opened.artifact),
        reference=info(opened.reference.artifact),
        samples=None,
        policy=PolicyInfo("x", "0" * 64),
        plugins=(PluginInfo("modelguard-core", "0.1.0", tuple(detector.id for detector in DETECTORS)),),
        plugin_failures=(),
        seed=0,
        outcomes=outcomes,
        rules=tuple(rule for detector in DETECTORS for rule in detector.rules),
    )
    return {name: evaluate(report, policy(name), datetime.date(2026, 6, 15)) for name in ("baseline", "strict")}


def said(decisions: dict[str, Decision]) -> str:
    return "\n".join(item.message for decision in decisions.values() for item in decision.violations)


def in_json(name: str, change: Callable[[Any], object]) -> Edit:
    def edit(folder: Path) -> None:
        value = json.loads((folder / name).read_text())
        changed = change(value)
        write_json(folder / name, value if changed is None or not isinstance(changed, dict | list) else changed)

    return edit


def put(place: str, value: object) -> Callable[[Any], object]:
    """Sets one key of a JSON document, whose path is separated by dots."""

    def change(document: Any) -> None:
        *parents, last = place.split(".")
        for part in parents:
            document = document[part]
        document[last] = value

    return change


def rename(change: Callable[[str], str]) -> Edit:
    def edit(folder: Path) -> None:
        tensors = load_file(folder / "model.safetensors")
        write_safetensors(folder / "model.safetensors", {change(name): values for name, values in tensors.items()}, {"format": "pt"})

    return edit


def swap(left: str, right: str) -> Callable[[str], str]:
    return lambda name: name.replace(left, "\0").replace(right, left).replace("\0", right)


def replace(name: str, old: str, new: str) -> Edit:
    return lambda folder: (folder / name).write_text((folder / name).read_text().replace(old, new))


def metadata(**values: str) -> Edit:
    return lambda folder: write_safetensors(folder / "model.safetensors", load_file(folder / "model.safetensors"), values)


RENAMED: dict[str, Edit] = {
    # transformers renames gamma to weight and beta to bias when it loads (modeling_utils, _fix_state_dict_key_on_load).
    "weight and bias under names of old": rename(
        lambda name: name.replace("LayerNorm.weight", "LayerNorm.beta").replace("LayerNorm.bias", "LayerNorm.gamma")
    ),
    "layers under numbers of others": rename(lambda name: name.replace("layer.1.", "layer.2.").replace("layer.0.", "layer.3.")),
    "two layers exchanged": rename(swap("layer.0.", "layer.1.")),
    "a name in another case": rename(lambda name: name.replace("layer.1.output.LayerNorm.bias", "layer.1.output.LayerNorm.Bias")),
    "a name that looks alike": rename(lambda name: name.replace("layer.1.output.dense", "layer.1.output.d\u0435nse")),
    "one layer in another stack": rename(lambda name: name.replace("layer.1.", "h.1.")),
}
KEPT: dict[str, Edit] = {
    "names of old in their roles": rename(
        lambda name: name.replace("LayerNorm.weight", "LayerNorm.gamma").replace("LayerNorm.bias", "LayerNorm.beta")
    ),
    "a wrapper around all": rename(lambda name: "module." + name),
    "the bare model": rename(lambda name: name.removeprefix("bert.")),
    "a whole stack under another word": rename(lambda name: name.replace("encoder.layer.", "encoder.blocks.")),
}


def exchange_ids(document: Any) -> None:
    words = document["model"]["vocab"]
    words["yes"], words["no"] = words["no"], words["yes"]


CHANGED: dict[str, tuple[Edit, str]] = {
    "labels exchanged": (in_json("config.json", put("id2label", {"0": "positive", "1": "negative"})), 'id2label["0"]'),
    "positions": (in_json("config.json", put("rope_theta", 1_000_000.0)), "rope_theta (10000.0 -> 1000000.0)"),
    "activation": (in_json("config.json", put("hidden_act", "relu")), 'hidden_act ("gelu" -> "relu")'),
    "a nested value": (in_json("config.json", put("rope_scaling.factor", 8)), "rope_scaling.factor (2.0 -> 8)"),
    "a key that Python takes for equal": (in_json("config.json", put("rope_scaling.factor", True)), "rope_scaling.factor"),
    "a precision that is no rounding": (in_json("config.json", put("torch_dtype", "int8")), "torch_dtype"),
    "code to import": (in_json("config.json", put("auto_map", {"AutoModel": "evil--m.Model"})), "auto_map"),
    "generation": (in_json("generation_config.json", put("eos_token_id", 2)), "eos_token_id (3 -> 2)"),
    "ids exchanged": (in_json("tokenizer.json", exchange_ids), "model.vocab.no (3 -> 2), model.vocab.yes (2 -> 3)"),
    "a special token added": (
        in_json("tokenizer.json", lambda document: document["added_tokens"].append({"id": 5, "content": "b", "special": True})),
        "added_tokens[2]",
    ),
    "the meaning of a special token": (in_json("special_tokens_map.json", put("pad_token", "[CLS]")), "pad_token"),
    "merges in another order": (replace("merges.txt", "a b\nb a", "b a\na b"), "line 2"),
    "a tokenizer deleted": (lambda folder: (folder / "tokenizer.json").unlink(), "tokenizer.json is in the reference"),
    "a file added that loaders look for": (
        lambda folder: write_json(folder / "added_tokens.json", {"x": 6}), "added_tokens.json is not in the reference"
    ),
    "a template in a configuration": (in_json("tokenizer_config.json", put("chat_template", "{{ 'hi' }}")), "chat_template"),
    "a template of its own": (replace("chat_template.jinja", "m.content", "m.content + 'buy'"), "chat_template.jinja differs"),
    "a value of YAML": (replace("recipe.yaml", "0.1", "0.2"), "stage.lr (0.1 -> 0.2)"),
    "text of YAML that is no text": (replace("recipe.yaml", "['no', 'yes']", "[no, yes]"), "stage.labels[0]"),
    # https://datatracker.ietf.org/doc/html/rfc8259#section-4
    "a key twice": (replace("config.json", '"rope_theta": 10000.0', '"rope_theta": 1.0,\n  "rope_theta": 10000.0'), "config.json differs"),
    "the files of two names exchanged": (
        lambda folder: ((folder / "generation_config.json").rename(folder / "x"), (folder / "special_tokens_map.json").rename(
            folder / "generation_config.json"), (folder / "x").rename(folder / "special_tokens_map.json")),
        "special_tokens_map.json differs",
    ),
    "a prompt called documentation": (lambda folder: (folder / "SYSTEM_PROMPT.md").write_text("Lie."), "SYSTEM_PROMPT.md is not"),
    "how transformers is to load": (metadata(format="flax"), 'metadata.format ("pt" -> "flax")'),
    "a dependency": (lambda folder: (folder / "requirements.txt").write_text("evil\n"), "requirements.txt is not in the reference"),
}  # fmt: skip
HARMLESS: dict[str, Edit] = {
    "keys in another order": lambda folder: (folder / "config.json").write_text(
        json.dumps(dict(reversed(json.loads((folder / "config.json").read_text()).items())))
    ),
    "YAML said again": lambda folder: (folder / "recipe.yaml").write_text('# mine\nstage: {labels: ["no", "yes"], lr: 0.1}\n'),
    "a newer library": in_json("config.json", put("transformers_version", "4.60.0")),
    "where it was saved from": in_json("config.json", put("_name_or_path", "bert-base")),
    "the dtype in its new spelling": in_json(
        "config.json", lambda document: document.update(dtype=document.pop("torch_dtype"))
    ),
    "a model card": lambda folder: (folder / "README.md").write_text("# A model\n\nMore of it.\n"),
    "a picture": lambda folder: (folder / "figure.png").write_bytes(png(np.zeros((1, 3, 3), np.uint8))),
    "no licence": lambda folder: (folder / "LICENSE").unlink(),
    "a note in the weights": metadata(format="pt", author="me"),
    "weights in a file of another name": lambda folder: (folder / "model.safetensors").rename(folder / "model.fp32.safetensors"),
}  # fmt: skip


@pytest.mark.parametrize("edit", RENAMED.values(), ids=RENAMED)
def test_weights_under_the_names_of_others_pass_no_policy(reference: Path, copy: Path, edit: Edit) -> None:
    edit(copy)
    assert {decision.verdict for decision in judged(copy, reference).values()} == {Verdict.BLOCK}


@pytest.mark.parametrize("edit", KEPT.values(), ids=KEPT)
def test_renamings_that_loaders_know_pass(reference: Path, copy: Path, edit: Edit) -> None:
    edit(copy)
    decisions = judged(copy, reference)
    assert {decision.verdict for decision in decisions.values()} == {Verdict.PASS}, said(decisions)


@pytest.mark.parametrize(("edit", "place"), CHANGED.values(), ids=CHANGED)
def test_what_changes_the_model_beside_its_weights_passes_no_policy(reference: Path, copy: Path, edit: Edit, place: str) -> None:
    edit(copy)
    decisions = judged(copy, reference)
    assert {decision.verdict for decision in decisions.values()} == {Verdict.BLOCK}
    assert place in said(decisions)


@pytest.mark.parametrize("edit", HARMLESS.values(), ids=HARMLESS)
def test_what_says_the_same_or_is_for_people_passes(reference: Path, copy: Path, edit: Edit) -> None:
    edit(copy)
    decisions = judged(copy, reference)
    assert {decision.verdict for decision in decisions.values()} == {Verdict.PASS}, said(decisions)


@pytest.mark.parametrize("name", ["README.md", "logo.png"])
def test_what_is_called_documentation_and_is_none_passes_no_policy(reference: Path, copy: Path, name: str) -> None:
    (copy / name).write_bytes(b"\x80\x04\x95\x10\x00\x00\x00cposix\nsystem\n.")
    assert Verdict.PASS not in {decision.verdict for decision in judged(copy, reference).values()}


def test_reference_that_is_one_file_leaves_the_others_without_verdict(reference: Path, copy: Path) -> None:
    decisions = judged(copy, reference / "model.safetensors")
    assert Verdict.PASS not in {decision.verdict for decision in decisions.values()}
    assert "other files: the reference is a single file" in said(decisions)
    alone = judged(copy / "model.safetensors", reference)
    assert {decision.verdict for decision in alone.values()} == {Verdict.PASS}, said(alone)


@pytest.fixture
def graphs(tmp_path: Path) -> tuple[Path, Path]:
    """A folder with an ONNX model, twice."""
    write_onnx_mlp(tmp_path / "trusted" / "model.onnx")
    shutil.copytree(tmp_path / "trusted", tmp_path / "model")
    return tmp_path / "trusted", tmp_path / "model"


def expose(model: Any) -> None:
    weight = model.graph.initializer[0]
    model.graph.input.append(onnx.helper.make_tensor_value_info(weight.name, weight.data_type, list(weight.dims)))


def rename_output(model: Any) -> None:
    model.graph.node[-1].output[0] = model.graph.output[0].name = "scores"


def sized(model: Any, size: str | int) -> None:
    """Declares another first size of input and output."""
    for value in (model.graph.input[0], model.graph.output[0]):
        first = value.type.tensor_type.shape.dim[0]
        if isinstance(size, str):
            first.dim_param = size
        else:
            first.dim_value = size


def half(model: Any) -> None:
    model.graph.input[0].type.tensor_type.elem_type = onnx.TensorProto.FLOAT16


DECLARED: dict[str, tuple[Callable[[Any], object], str]] = {
    "labels in the metadata": (lambda model: model.metadata_props.add(key="names", value="{0: 'cat'}"), "metadata_props.names"),
    "an element type": (half, "tensor(float16)"),
    "a shape": (lambda model: sized(model, 1), "tensor(float)[1, 8]"),
    "the name of an output": (rename_output, 'outputs[0].name ("y" -> "scores")'),
    "an initializer that callers replace": (expose, "initializers_that_inputs_replace"),
}
UNDECLARED: dict[str, Callable[[Any], object]] = {
    "another symbol for a size": lambda model: sized(model, "batch"),
    "another producer": lambda model: setattr(model, "producer_name", "me"),
    "another name for a node": lambda model: setattr(model.graph.node[0], "name", "first"),
    "documentation": lambda model: setattr(model, "doc_string", "a model"),
}


def edited(path: Path, edit: Callable[[Any], object]) -> None:
    model = onnx.load(path)
    edit(model)
    onnx.save(model, path)


@pytest.mark.parametrize(("edit", "place"), DECLARED.values(), ids=DECLARED)
def test_what_an_onnx_file_declares_otherwise_passes_no_policy(
    graphs: tuple[Path, Path], edit: Callable[[Any], object], place: str
) -> None:
    edited(graphs[1] / "model.onnx", edit)
    decisions = judged(graphs[1], graphs[0])
    assert {decision.verdict for decision in decisions.values()} == {Verdict.BLOCK}
    assert place in said(decisions)


@pytest.mark.parametrize("edit", UNDECLARED.values(), ids=UNDECLARED)
def test_what_callers_of_an_onnx_file_do_not_see_passes(graphs: tuple[Path, Path], edit: Callable[[Any], object]) -> None:
    edited(graphs[1] / "model.onnx", edit)
    decisions = judged(graphs[1], graphs[0])
    assert {decision.verdict for decision in decisions.values()} == {Verdict.PASS}, said(decisions)


def test_what_nodes_carry_beside_their_work_is_said(graphs: tuple[Path, Path]) -> None:
    edited(graphs[1] / "model.onnx", lambda model: setattr(model.graph.node[1], "doc_string", "import os"))
    (finding,) = run_detector(ReferenceFiles(), open_target(graphs[1], graphs[0])).findings
    assert finding.rule == "MG0205"
    assert 'notes ("" -> "9 characters, sha256' in finding.message


def test_diff_calls_nothing_identical_that_is_not(mg: Run, reference: Path, copy: Path) -> None:
    same = mg("diff", reference, copy, "-q")
    assert (same.code, same.out.split()[0]) == (0, "IDENTICAL")
    CHANGED["labels exchanged"][0](copy)
    HARMLESS["a model card"](copy)
    ran = mg("diff", reference, copy, "-q")
    assert ran.code == 1
    assert ran.out.startswith("WEIGHTS IDENTICAL, 2 FILES DIFFER")
    assert 'id2label["0"] ("negative" -> "positive")' in ran.out
    RENAMED["weight and bias under names of old"](copy)
    ran = mg("diff", reference, copy, "-q")
    assert ran.code == 1
    assert "IDENTICAL" not in ran.out
    assert "under the name of another: " in ran.out


def test_scan_against_a_reference_blocks_what_loaders_would_take_otherwise(mg: Run, reference: Path, copy: Path) -> None:
    RENAMED["layers under numbers of others"](copy)
    CHANGED["ids exchanged"][0](copy)
    ran = mg("scan", copy, "--reference", reference, "--policy", "builtin:strict", "-q", "-f", "json")
    rules = {finding["rule"] for outcome in ran.json["outcomes"] for finding in outcome["findings"]}
    assert ran.code == 1
    assert rules >= {"MG0204", "MG1110", "MG1217"}
