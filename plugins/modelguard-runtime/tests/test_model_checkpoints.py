"""Checkpoints without a graph: transformers' classes, the user's factory, and plain sequences told from their shapes."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from modelguard_runtime.testing import built, cnn, digits, digits_module, mlp, train
from safetensors.torch import load_file, save_file
from torch import nn

from modelguard import Capability, ModelError, Skip, UsageError
from modelguard.model import Samples
from modelguard.testing import open_target


def save(module: nn.Module, folder: Path) -> Path:
    folder.mkdir(exist_ok=True)
    save_file({name: tensor.contiguous() for name, tensor in module.state_dict().items()}, folder / "model.safetensors")
    return folder


# transformers


def small(kind: str) -> Any:
    """A transformers model of random weights, small enough to build at once."""
    transformers = pytest.importorskip("transformers")
    common = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}
    torch.manual_seed(0)
    makers = {
        "vit": lambda: transformers.ViTForImageClassification(transformers.ViTConfig(**common, image_size=8, patch_size=4, num_labels=5)),
        "resnet": lambda: transformers.ResNetForImageClassification(
            transformers.ResNetConfig(embedding_size=4, hidden_sizes=[4, 8], depths=[1, 1], num_labels=5, layer_type="basic")
        ),
        "bert": lambda: transformers.BertForSequenceClassification(
            transformers.BertConfig(**common, vocab_size=40, num_labels=3, id2label={0: "bad", 1: "so-so", 2: "good"})
        ),
        "gpt2": lambda: transformers.GPT2LMHeadModel(
            transformers.GPT2Config(vocab_size=40, n_embd=16, n_layer=2, n_head=2, n_positions=64, bos_token_id=1, eos_token_id=1)
        ),
        "llama": lambda: transformers.LlamaForCausalLM(
            transformers.LlamaConfig(**common, vocab_size=40, num_key_value_heads=1, tie_word_embeddings=True)
        ),
    }
    return makers[kind]().eval()


@pytest.mark.parametrize("kind", ["vit", "resnet", "bert", "gpt2", "llama"])
def test_transformers_own_classes(tmp_path: Path, kind: str) -> None:
    source = small(kind)
    source.save_pretrained(tmp_path)
    model = built(tmp_path, input="shape=3x16x16" if kind == "resnet" else None)
    assert type(source).__name__ in model.describe()["factory"]
    if model.input.kind == "image":
        x = torch.rand(2, *model.input.shape)
        torch.testing.assert_close(model(x), source(pixel_values=x).logits)
        assert (model.output.kind, model.output.classes) == ("classifier", 5)
    else:
        x = torch.randint(2, 40, (2, 9))
        logits = source(input_ids=x).logits
        torch.testing.assert_close(model(x), logits if kind == "bert" else logits[:, -1])
        assert model.output.kind == ("classifier" if kind == "bert" else "language-model")
    cuts = [layer.name for layer in model.layers if layer.kind in ("block", "embedding")]
    front, back = model.split(cuts[0] if kind != "resnet" else "resnet.encoder.stages.0")
    torch.testing.assert_close(back(front(x)), model(x))


def test_a_configuration_without_the_sizes_of_the_weights_is_said_to_be(tmp_path: Path) -> None:
    small("llama").save_pretrained(tmp_path)
    (tmp_path / "config.json").write_text('{"model_type": "llama", "architectures": ["LlamaForCausalLM"], "num_hidden_layers": 1}')
    with pytest.raises(ModelError, match=r"of another shape \(model.*weight is 40x16 instead of 32000x4096"):
        built(tmp_path)


def test_label_names_and_a_tokenizer_from_the_folder(tmp_path: Path) -> None:
    tokenizers = pytest.importorskip("tokenizers")
    source = small("bert")
    source.save_pretrained(tmp_path)
    words = tokenizers.Tokenizer(tokenizers.models.WordLevel({"[PAD]": 0, "[UNK]": 1, "fine": 2, "film": 3}, unk_token="[UNK]"))
    words.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    words.save(str(tmp_path / "tokenizer.json"))
    texts = Samples(np.array(["fine film", "film"]), np.array([0, 1]), "texts.jsonl", "", ("bad", "good"))
    model = built(tmp_path, texts)
    assert model.output.labels == ("bad", "so-so", "good")
    ids = model.inputs(texts)
    assert ids.tolist() == [[2, 3], [3, 0]]
    alone = source(input_ids=torch.tensor([[3]])).logits
    torch.testing.assert_close(model(ids)[1:], alone, atol=1e-5, rtol=1e-4)
    assert "accuracy" in model.describe()["agreement"]
    (tmp_path / "tokenizer.json").unlink()
    with pytest.raises(ModelError, match="tokenizer: the artifact has no tokenizer"):
        built(tmp_path).inputs(texts)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda state: state.pop("classifier.weight"), r"1 missing \(classifier.weight\)"),
        (lambda state: state.update(extra=torch.zeros(2)), r"1 unexpected \(extra\)"),
        (lambda state: state.update({"classifier.bias": torch.zeros(7)}), "cannot be built|another shape"),
    ],
)
def test_weights_that_do_not_fit_are_refused(tmp_path: Path, change: Any, message: str) -> None:
    small("vit").save_pretrained(tmp_path)
    state = load_file(tmp_path / "model.safetensors")
    change(state)
    save_file(state, tmp_path / "model.safetensors")
    with pytest.raises(ModelError, match=message):
        built(tmp_path)


def test_neurons_are_counted_where_they_are(tmp_path: Path) -> None:
    """ConvNeXt has channels first outside its blocks and last inside them."""
    transformers = pytest.importorskip("transformers")
    config = transformers.ConvNextConfig(hidden_sizes=[8, 12], depths=[1, 1], num_stages=2, num_labels=5, image_size=32)
    torch.manual_seed(0)
    transformers.ConvNextForImageClassification(config).save_pretrained(tmp_path)
    found = {layer.name: (layer.kind, layer.shape, layer.unit_axis) for layer in built(tmp_path).layers}
    block = "convnext.encoder.stages.1.layers.0"
    assert found[f"{block}.dwconv"] == ("conv", (12, 4, 4), 0)
    assert found[f"{block}.layernorm"] == ("norm", (4, 4, 12), -1)
    assert found[f"{block}.pwconv1"] == ("linear", (4, 4, 48), -1)
    assert found[f"{block}.act"] == ("activation", (4, 4, 48), -1)
    assert found[block] == ("block", (12, 4, 4), 0)


def edit_config(folder: Path, **changes: Any) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def test_remote_code_is_never_run(tmp_path: Path) -> None:
    small("vit").save_pretrained(tmp_path)
    witness = tmp_path / "ran"
    (tmp_path / "modeling.py").write_text(f"open({str(witness)!r}, 'w')\nclass Own: pass\n")
    edit_config(
        tmp_path,
        auto_map={"AutoConfig": "modeling.Own", "AutoModelForImageClassification": "modeling.Own"},
        _attn_implementation="evil/kernel",
        attn_implementation="evil/kernel",
    )
    assert built(tmp_path).describe()["factory"].endswith("ViTForImageClassification")
    assert not witness.exists()


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"architectures": ["EvilForImageClassification"]}, Skip, "transformers has no EvilForImageClassification"),
        ({"model_type": "evil"}, Skip, "transformers has no ViTForImageClassification for model type 'evil'"),
        ({"num_hidden_layers": 10**9}, ModelError, "asks for more layers than the checkpoint has tensors"),
        ({"num_hidden_layers": "two"}, ModelError, "cannot be built"),
        ({"hidden_size": 10**7}, ModelError, "cannot be built|another shape"),
        ({"quantization_config": {"quant_method": "gptq"}}, Skip, "quantised"),
    ],
)
def test_hostile_configurations_are_refused(tmp_path: Path, changes: dict[str, Any], error: type[Exception], message: str) -> None:
    small("vit").save_pretrained(tmp_path)
    edit_config(tmp_path, **changes)
    with pytest.raises(error, match=message):
        built(tmp_path)


def test_without_transformers_the_reason_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    small("vit").save_pretrained(tmp_path)
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(Skip, match=r"pip install transformers"):
        built(tmp_path)


# the user's own factory


@pytest.fixture
def module_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "project"
    folder.mkdir()
    (folder / "mine_of_tests.py").write_text(
        "import torch\n"
        "from torch import nn\n"
        "def network():\n    return nn.Sequential(nn.Flatten(), nn.Linear(64, 16), nn.ReLU(), nn.Linear(16, 10))\n"
        "def configured(config):\n    width = config['width']\n"
        "    return nn.Sequential(nn.Flatten(), nn.Linear(64, width), nn.ReLU(), nn.Linear(width, 10))\n"
        "def number():\n    return 3\n"
        "def broken():\n    raise OSError('no disk')\n"
    )
    monkeypatch.delitem(sys.modules, "mine_of_tests", raising=False)
    return folder


@pytest.fixture
def weights(tmp_path: Path) -> tuple[nn.Module, Path]:
    torch.manual_seed(0)
    source = nn.Sequential(nn.Flatten(), nn.Linear(64, 16), nn.ReLU(), nn.Linear(16, 10)).eval()
    return source, save(source, tmp_path / "artifact")


def test_the_users_factory_builds_the_module(weights: tuple[nn.Module, Path], module_folder: Path, held_out: Samples) -> None:
    source, folder = weights
    model = built(folder, held_out, model="mine_of_tests:network", cwd=module_folder)
    x = model.inputs(held_out)[:4]
    torch.testing.assert_close(model(x), source(x))
    assert model.describe()["factory"] == "--model mine_of_tests:network (the user's own code)"
    assert str(module_folder) not in sys.path


def test_a_factory_may_take_the_configuration(weights: tuple[nn.Module, Path], module_folder: Path, held_out: Samples) -> None:
    _, folder = weights
    (folder / "config.json").write_text('{"width": 16}')
    assert built(folder, held_out, model="mine_of_tests:configured", cwd=module_folder).output.classes == 10


@pytest.mark.parametrize(
    ("reference", "error", "message"),
    [
        ("mine_of_tests", UsageError, "is not module:factory"),
        ("mine_of_tests:nothing", UsageError, "names nothing that can be called"),
        ("no_such_module_of_tests:f", UsageError, "cannot be imported"),
        ("mine_of_tests:number", ModelError, "returned int, not a torch.nn.Module"),
        ("mine_of_tests:broken", ModelError, r"failed \(OSError: no disk\)"),
    ],
)
def test_a_wrong_factory_is_named(
    weights: tuple[nn.Module, Path], module_folder: Path, reference: str, error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        built(weights[1], model=reference, cwd=module_folder)


def test_weights_that_do_not_fit_the_factory_are_told(module_folder: Path, tmp_path: Path, held_out: Samples) -> None:
    folder = save(nn.Sequential(nn.Flatten(), nn.Linear(64, 20), nn.ReLU(), nn.Linear(20, 10), nn.Linear(10, 10)), tmp_path / "other")
    with pytest.raises(ModelError, match=r"2 unexpected \(4.bias, 4.weight\), 3 of another shape \(1.bias is 20 instead of 16"):
        built(folder, held_out, model="mine_of_tests:network", cwd=module_folder)


# plain sequences


def test_one_linear_layer_needs_no_samples(tmp_path: Path) -> None:
    torch.manual_seed(0)
    source = nn.Linear(6, 3)
    model = built(save(nn.Sequential(source), tmp_path / "a"))
    x = torch.rand(4, 6)
    torch.testing.assert_close(model(x), source(x))


def test_what_shapes_do_not_say_is_not_guessed_without_labels(tmp_path: Path, held_out: Samples) -> None:
    folder = save(mlp(64, 10), tmp_path / "a")
    for samples in (None, replace(held_out, labels=None)):
        with pytest.raises(Skip, match="do not say which activation and pooling"):
            built(folder, samples)
    target = open_target(folder)
    assert "do not say which activation and pooling" in target.obstacle  # so no scan builds it, or imports torch, to be told that
    assert Capability.FORWARD not in target.capabilities


@pytest.mark.parametrize("activation", [nn.ReLU, nn.Tanh])
def test_labels_tell_the_activation_of_an_mlp(tmp_path: Path, held_out: Samples, activation: type[nn.Module]) -> None:
    torch.manual_seed(0)
    source = nn.Sequential(nn.Flatten(), nn.Linear(64, 64), activation(), nn.Linear(64, 32), activation(), nn.Linear(32, 10))
    for layer in source:
        if isinstance(layer, nn.Linear):
            nn.init.normal_(layer.weight, std=2.0 / layer.in_features**0.5)
    training, _ = digits()
    train(source, training.inputs, training.labels, epochs=10)  # type: ignore[arg-type]
    model = built(save(source, tmp_path / "a"), held_out)
    assert model.describe()["assumed"].startswith(activation.__name__)
    x = model.inputs(held_out)[:50]
    torch.testing.assert_close(model(x), source(x))


def test_labels_tell_padding_and_pooling_of_a_cnn(tmp_path: Path, held_out: Samples) -> None:
    source = digits_module("cnn")
    model = built(save(source, tmp_path / "a"), held_out)
    assert model.describe()["assumed"].startswith("ReLU, same padding, max pooling")
    assert model.describe()["agreement"]["accuracy"] > 0.95
    x = model.inputs(held_out)[:50]
    torch.testing.assert_close(model(x), source(x), atol=1e-4, rtol=1e-4)


def test_features_come_before_their_classifier(tmp_path: Path, held_out: Samples) -> None:
    source = digits_module("cnn")
    assert isinstance(source, nn.Sequential)
    split = nn.ModuleDict({"features": source[:8], "classifier": source[9:]})
    model = built(save(split, tmp_path / "a"), held_out)
    x = model.inputs(held_out)[:50]
    torch.testing.assert_close(model(x), source(x), atol=1e-4, rtol=1e-4)


def test_an_untrained_sequence_is_refused(tmp_path: Path, held_out: Samples) -> None:
    torch.manual_seed(0)
    with pytest.raises(Skip, match="no usual activation and pooling makes model agree"):
        built(save(cnn(), tmp_path / "a"), held_out)


def test_an_architecture_that_is_not_run_is_named(tmp_path: Path) -> None:
    save_file({"encoder.block": torch.zeros(2, 3, 5)}, tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text('{"model_type": "t5", "architectures": ["T5ForConditionalGeneration"]}')
    with pytest.raises(Skip, match=r"config\.json names the architecture T5ForConditionalGeneration, and those that are run are \.\.\.For"):
        built(tmp_path)


def test_tensors_that_are_no_chain_have_no_model(tmp_path: Path) -> None:
    folder = save(nn.ModuleDict({"a": nn.Linear(4, 5), "b": nn.Linear(7, 3)}), tmp_path / "a")
    with pytest.raises(Skip, match="no runnable model: it needs ONNX"):
        built(folder)


def test_torchscript_and_pickles_are_never_run(tmp_path: Path) -> None:
    witness = tmp_path / "ran"

    class Bomb:
        def __reduce__(self) -> Any:
            import os

            return (os.mkdir, (str(witness),))

    (tmp_path / "artifact").mkdir()
    torch.jit.save(torch.jit.script(nn.Linear(4, 2)), str(tmp_path / "artifact" / "model.pt"))  # type: ignore[no-untyped-call, unused-ignore]
    torch.save(Bomb(), tmp_path / "artifact" / "pytorch_model.bin")
    (tmp_path / "artifact" / "config.json").write_text('{"model_type": "vit", "architectures": ["ViTForImageClassification"]}')
    with pytest.raises(ModelError, match="does not fit the checkpoint's tensors"):
        built(tmp_path / "artifact")
    assert not witness.exists()


# capabilities


def test_capabilities_are_told_without_torch(tmp_path: Path) -> None:
    """In a fresh interpreter, so that nothing else has imported torch."""
    import subprocess

    save(nn.Sequential(nn.Linear(4, 2)), tmp_path / "plain")
    (tmp_path / "none").mkdir()
    save_file({"x": torch.zeros(3, 3, 3)}, tmp_path / "none" / "model.safetensors")
    code = (
        "import sys\n"
        "from modelguard.testing import open_target\n"
        "for name in sys.argv[1:]:\n"
        "    print(sorted(item.value for item in open_target(name).capabilities), 'torch' in sys.modules)\n"
    )
    folders = [str(tmp_path / "plain"), str(tmp_path / "none")]
    ran = subprocess.run([sys.executable, "-c", code, *folders], capture_output=True, text=True, check=True)
    assert ran.stdout.splitlines() == ["['files', 'forward', 'gradients', 'weights'] False", "['files', 'weights'] False"]
