# ruff: noqa: E501 - one case a line
"""Configurations that name code, by the convention of each library; and ordinary ones of the same libraries, which must not alarm."""

from __future__ import annotations

import json
from typing import Any

import pytest
from modelguard_serialization import limits
from modelguard_serialization.testing import look_through

from modelguard import Severity

CRITICAL, HIGH, MEDIUM, LOW = Severity.CRITICAL, Severity.HIGH, Severity.MEDIUM, Severity.LOW


def worst(name: str, content: str | bytes | dict[str, Any] | list[Any], beside: dict[str, bytes] | None = None) -> Severity | None:
    """The worst severity of MG0334 that is more than information; None without."""
    data = content if isinstance(content, bytes) else (content if isinstance(content, str) else json.dumps(content)).encode()
    look, by = look_through(name, data, beside)
    assert by
    assert look.missed == []
    assert {finding.rule for finding in look.findings} <= {"MG0334", "MG0336", "MG0333"}
    return max((finding.severity or HIGH for finding in look.findings if finding.severity != Severity.INFO), default=None)


@pytest.mark.parametrize(
    ("name", "content", "severity"),
    [
        # https://nvd.nist.gov/vuln/detail/CVE-2025-23304: hydra.utils.instantiate on a model's own configuration (NeMo; uni2TS and FlexTok likewise)
        ("model_config.yaml", "_target_: builtins.exec\n_args_: ['1']", CRITICAL),
        ("config.yaml", "model:\n  encoder: {_target_: os.system, command: id}", CRITICAL),
        ("config.json", {"a": [{"_target_": "subprocess.Popen", "args": ["id"]}]}, CRITICAL),
        ("config.json", b'\xef\xbb\xbf{"_targ\\u0065t_": "os.system"}', CRITICAL),
        ("config.json", '{"_target_": "os.system", "_target_": "torch.nn.ReLU"}', CRITICAL),
        ("settings.toml", '[model]\n_target_ = "os.system"', CRITICAL),
        ("config.yaml", "a: {_target_: hydra.utils.get_method, path: os.system}", CRITICAL),
        ("config.yaml", "a: {_target_: functools.partial, _args_: [os.system]}", CRITICAL),
        ("config.yaml", "a: {_target_: evil_package.Thing}", HIGH),
        ("config.yaml", "a: {_target_: torch.load, f: x.pt}", HIGH),
        ("config.yaml", "a: {_target_: torch.hub.load, repo: x/y}", HIGH),
        ("config.yaml", "a: {_target_: mmengine.Config.fromfile, filename: x.py}", HIGH),
        ("config.yaml", "a: {_target_: torch.distributed.elastic.multiprocessing.start_processes}", HIGH),
        ("config.yaml", "a: {_target_: pandas.read_pickle, f: x}", CRITICAL),
        ("config.yaml", "a: {_target_: torch.utils.collect_env.run, command: id}", CRITICAL),
        ("config.yaml", "a: {_target_: numpy.testing._private.utils.runstring}", CRITICAL),
        ("model_config.yaml", "target: evil.models.Model", HIGH),
        ("v1.yaml", "model: {target: evil.ddpm.Latent, params: {a: 1}}", HIGH),
        # https://github.com/speechbrain/HyperPyYAML: "load_hyperpyyaml should not be used on untrusted sources"
        ("hyperparams.yaml", "a: !apply:os.system [id]", CRITICAL),
        ("hyperparams.yaml", "a: !new:subprocess.Popen\n  args: id", CRITICAL),
        ("hyperparams.yaml", "a: !name:evil.thing", HIGH),
        ("hyperparams.yaml", "a: !module:pty", CRITICAL),
        ("hyperparams.yaml", "a: [1, {b: !apply:speechbrain.utils.superpowers.run_shell [id]}]", CRITICAL),
        ("hyperparams.yaml", "%TAG !x! !apply:os.\n---\na: !x!system [id]", CRITICAL),
        ("hyperparams.yaml", "a: !include:../../secret.yaml", CRITICAL),
        # https://nvd.nist.gov/vuln/detail/CVE-2020-14343, CVE-2020-1747: full_load and unsafe_load
        ("hparams.yaml", "!!python/object/apply:os.system ['id']", CRITICAL),
        ("hparams.yaml", "a: !!python/object/new:os.system ['id']", CRITICAL),
        ("hparams.yaml", "a: !!python/name:os.system", CRITICAL),
        ("hparams.yaml", "a: !!python/object:mine.Thing {}", HIGH),
        ("hparams.yaml", "a: !!python/object/apply:torch.manual_seed [1986]\nb: !!python/object:argparse.Namespace {x: 1}", LOW),
        ("config.yaml", "a: {_target_: transformers.AutoModel.from_pretrained, trust_remote_code: true}", HIGH),
        ("hparams.yaml", "a: !<tag:yaml.org,2002:python/module:os> ''", CRITICAL),
        ("hparams.yaml", "? !!python/object/apply:os.system ['id']\n: 1", CRITICAL),
        ("hparams.yaml", '{"a": !!python/object/apply:os.system [id]}', CRITICAL),
        ("config.json", " " * 5000 + '{"_target_": "os.system"}', CRITICAL),
        ("notes", "%YAML 1.1\n---\na: !!python/object/apply:os.system ['id']", CRITICAL),
        # sentence-transformers imports the types of modules.json
        ("modules.json", [{"idx": 0, "name": "0", "path": "", "type": "custom_st.Transformer"}], HIGH),
        ("modules.json", [{"idx": 0, "name": "0", "path": "", "type": "os.system"}], CRITICAL),
        # PEFT imports parent_library
        ("adapter_config.json", {"auto_mapping": {"base_model_class": "system", "parent_library": "os"}}, CRITICAL),
        ("adapter_config.json", {"auto_mapping": {"base_model_class": "M", "parent_library": "evil"}}, HIGH),
        ("adapter_config.json", {"auto_mapping": {"base_model_class": "M", "parent_library": "transformers_modules.x.modeling"}}, MEDIUM),
        # https://mlflow.org/docs/latest/models.html: loader_module, code
        ("MLmodel", "flavors:\n  python_function:\n    loader_module: evil_loader\n", HIGH),
        ("MLmodel", "flavors:\n  python_function:\n    loader_module: os\n", CRITICAL),
        ("MLmodel", "flavors:\n  python_function:\n    loader_module: mlflow.sklearn\n    code: code\n", MEDIUM),
        ("MLmodel", "flavors:\n  python_function:\n    loader_module: mlflow.pyfunc.model\n    model_code_path: run.py\n", HIGH),
        # diffusers imports the libraries of model_index.json
        ("model_index.json", {"_class_name": ["pipeline", "My"], "_diffusers_version": "0.30"}, HIGH),
        ("model_index.json", {"_class_name": "X", "unet": ["evil", "UNet"]}, HIGH),
        ("model_index.json", {"_class_name": "X", "unet": ["os", "system"]}, CRITICAL),
        # https://jsonpickle.readthedocs.io: "only load data you trust"
        ("state.json", {"py/object": "os.system"}, CRITICAL),
        ("state.json", {"py/reduce": [{"py/function": "subprocess.Popen"}, {"py/tuple": ["id"]}]}, CRITICAL),
        # https://nvd.nist.gov/vuln/detail/CVE-2025-68664
        ("chain.json", {"lc": 1, "type": "constructor", "id": ["os", "system"], "kwargs": {}}, CRITICAL),
        # https://docs.monai.io/en/stable/config_syntax.html: $ evaluates Python
        ("inference.json", {"imports": ["$import os"], "run": "$__import__('os').system('id')"}, CRITICAL),
        ("config.json", {"attn_implementation": "someone/kernel"}, HIGH),
        ("config.yaml", "common: {user_dir: ./plugin}", HIGH),
        ("MAR-INF/MANIFEST.json", {"model": {"handler": "handler.py", "modelName": "m"}}, MEDIUM),
        ("config.pbtxt", 'name: "m"\nbackend: "python"', MEDIUM),
        ("config.pbtxt", 'model_operations { op_library_filename: "ops.so" }', HIGH),
        ("config.pbtxt", 'backend: "python" parameters { key: "EXECUTION_ENV_PATH" value { string_value: "env.tar.gz" } }', HIGH),
        ("Modelfile", "FROM /etc/passwd\n", HIGH),
        # https://lightning.ai/docs/pytorch/stable/cli: class_path
        ("config.yaml", "model: {class_path: evil.Model, init_args: {a: 1}}", HIGH),
        ("config.yaml", "model: {class_path: subprocess.Popen, init_args: {args: id}}", CRITICAL),
        ("pipeline.yaml", "components: {a: {type: evil.Component, init_parameters: {}}}", HIGH),
        ("config.yaml", "custom_imports: {imports: [evil.hooks]}", HIGH),
        ("serve.yaml", "applications: [{import_path: 'evil:app'}]", HIGH),
        # sentence-transformers: Router and Asym import types, Dense and cross encoders an activation
        ("router_config.json", {"types": {"q": "os.system"}, "structure": {"query": ["q"]}}, CRITICAL),
        ("2_Dense/config.json", {"in_features": 1, "activation_function": "os.getcwd"}, CRITICAL),
        ("config.json", {"sentence_transformers": {"activation_fn": "evil.Activation"}}, HIGH),
        ("adapter_config.json", {"megatron_core": "evil.core", "megatron_config": {}}, HIGH),
        ("config.json", {"model_type": "x", "model_file": "custom.py"}, HIGH),
        ("genai_config.json", {"model": {"decoder": {"session_options": {"custom_ops_library": "ops.so"}}}}, HIGH),
        ("modular_model_index.json", {"_class_name": "X", "unet": ["evil", "UNet", {"repo": "a/b"}]}, HIGH),
        # https://github.com/tensorflow/tfjs: a path of the manifest may be an address
        ("model.json", {"format": "graph-model", "weightsManifest": [{"paths": ["https://x.invalid/w.bin"], "weights": []}]}, CRITICAL),
    ],
)
def test_code_that_a_configuration_names_is_told(name: str, content: Any, severity: Severity) -> None:
    assert worst(name, content) == severity


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("config.yaml", "a: {_target_: torch.nn.Linear, in_features: 1}\nb: {_target_: torch.optim.AdamW, lr: 0.1}\nc: {_target_: pytorch_lightning.Trainer}"),
        ("config.json", {"distr_output": {"_target_": "uni2ts.distribution.MixtureOutput", "components": [{"_target_": "uni2ts.distribution.StudentTOutput"}]}}),
        ("model.json", {"format": "graph-model", "weightsManifest": [{"paths": ["group1-shard1of1.bin"], "weights": []}]}),
        ("config.yaml", "data: {target: main.DataModuleFromConfig, params: {train: {target: ldm.data.simple.hf_dataset, params: {}}}}"),
        ("config.yaml", "a: {_target_: timm.create_model, model_name: x}\nb: {_target_: transformers.AutoModel.from_pretrained}\nc: {_target_: optuna.samplers.TPESampler}"),
        ("config.yaml", "target: production\nhost: a.b.example\nnote: Hello! World"),
        ("hyperparams.yaml", "a: !new:speechbrain.lobes.models.ECAPA_TDNN.ECAPA_TDNN\n  x: !ref <b>\nb: !name:torch.nn.ReLU\nc: !apply:torch.manual_seed [1]\ne: !apply:operator.not_ [True]\nd: !tuple (1, 2)"),
        ("cosyvoice.yaml", "__set_seed1: !apply:random.seed [1986]\nllm: !new:cosyvoice.llm.llm.TransformerLM\n  length_normalized_loss: True"),
        ("v1-inference.yaml", "model:\n  target: ldm.models.diffusion.ddpm.LatentDiffusion\n  params:\n    unet_config: {target: ldm.modules.x.UNetModel, params: {}}"),
        ("model_config.yaml", "target: nemo.collections.asr.models.EncDecCTCModel\npreprocessor: {_target_: nemo.collections.asr.modules.Preprocessor}"),
        ("modules.json", [{"idx": 0, "name": "0", "path": "", "type": "sentence_transformers.models.Transformer"}]),
        ("adapter_config.json", {"auto_mapping": None, "base_model_name_or_path": "org/model", "peft_type": "LORA", "target_modules": ["q_proj"]}),
        ("adapter_config.json", {"auto_mapping": {"base_model_class": "WhisperModel", "parent_library": "transformers.models.whisper.modeling_whisper"}}),
        ("MLmodel", "flavors:\n  python_function:\n    loader_module: mlflow.transformers\n    code: null\n    env: {conda: conda.yaml}\n  transformers: {code: null}"),
        ("model_index.json", {"_class_name": "StableDiffusionPipeline", "_diffusers_version": "0.6", "safety_checker": ["stable_diffusion", "S"], "x": [None, None],
                              "unet": ["diffusers", "UNet2DConditionModel"], "text_encoder": ["transformers", "CLIPTextModel"]}),
        ("tokenizer.json", {"model": {"type": "BPE", "vocab": {"_target_": 7, "class_name": 8, "os.system": 9, "$": 10, "py/object": 11, "\u0120": 12}}}),
        ("tokenizer_config.json", {"tokenizer_class": "LlamaTokenizer", "chat_template": "{{ messages }}"}),
        ("config.json", {"attn_implementation": "flash_attention_2", "model_type": "llama"}),
        ("state.json", {"py/object": "numpy.ndarray"}),
        ("bundle.json", {"device": "$torch.device('cuda:0' if torch.cuda.is_available() else 'cpu')", "net": {"_target_": "monai.networks.nets.UNet"}}),
        ("hparams.yaml", "shape: !!python/tuple [1, 2]\nname: !!python/unicode abc\nlist: &a [1]\nagain: *a"),
        ("conda.yaml", "channels: [conda-forge]\ndependencies: [python=3.11, {pip: [mlflow, scikit-learn==1.3]}]"),
        ("config.yaml", "common: {user_dir: null}"),
        ("config.yaml", "model: {class_path: lightning.pytorch.demos.boring_classes.BoringModel, init_args: {a: 1}}"),
        ("2_Dense/config.json", {"in_features": 1, "activation_function": "torch.nn.modules.activation.Tanh"}),
        ("config.json", {"activation_function": "gelu_new", "sentence_transformers": {"activation_fn": "torch.nn.modules.linear.Identity"}}),
        ("router_config.json", {"types": {"q": "sentence_transformers.models.Transformer"}, "structure": {"query": ["q"]}}),
        ("adapter_config.json", {"megatron_core": "megatron.core", "megatron_config": None}),
        ("MAR-INF/MANIFEST.json", {"model": {"handler": "image_classifier", "modelName": "m"}}),
        ("config.pbtxt", 'name: "m"\nplatform: "onnxruntime_onnx"\nbackend: "onnxruntime"'),
        ("Modelfile", "FROM ./model.gguf\nTEMPLATE x\nFROM llama3:8b"),
        ("config.cfg", '[nlp]\nlang = "en"\npipeline = ["tok2vec"]\n[components.tok2vec.model]\n@architectures = "spacy.Tok2Vec.v2"'),
        ("workflow.yaml", "jobs: {build: {steps: [{run: 'echo $HOME && python -c \"import os\"'}]}}"),
    ],
)  # fmt: skip
def test_ordinary_configurations_do_not_alarm(name: str, content: Any) -> None:
    assert worst(name, content) is None


def test_what_is_built_from_known_libraries_is_told_as_information() -> None:
    look, _ = look_through("config.yaml", b"a: {_target_: torch.nn.Linear}")
    assert [(finding.rule, finding.severity) for finding in look.findings] == [("MG0334", Severity.INFO)]
    assert "torch.nn.Linear" in look.findings[0].message


def test_a_known_library_that_the_artifact_brings_along_is_high() -> None:
    assert worst("config.yaml", "a: {_target_: torch.nn.Linear}", {"torch.py": b"x = 1"}) == HIGH
    assert worst("config.yaml", "a: {_target_: torch.nn.Linear}", {"torchx.py": b"x = 1"}) is None
    assert worst("v1.yaml", "data: {target: main.DataModuleFromConfig, params: {}}", {"main.py": b"x = 1"}) == HIGH


def test_a_component_of_the_repository_is_high() -> None:
    index = {"_class_name": "X", "unet": ["my_unet", "UNet"]}
    assert worst("model_index.json", index, {"unet/my_unet.py": b"x = 1"}) == HIGH


@pytest.mark.parametrize(
    ("name", "data"),
    [
        ("config.json", b'{"_target_": "os.system"'),
        ("config.json", b'{"a": ' * 100_000 + b'"_target_"'),
        ("config.yaml", b"_target_: os.system\n  b: [1"),
        ("config.yaml", b"_target_: " + b"[" * 5000),
        ("config.yaml", b"a: &a [*a]\n_target_: x"),
        ("config.yaml", b"_target_: os.system\n" + b"a: 1\n" * 100_000),
        ("config.json", b'{"_target_": "\xff\xfe os.system"}'),
    ],
    ids=["cut off", "deep JSON", "broken YAML", "deep YAML", "a list that holds itself", "large YAML", "no text"],
)
def test_what_cannot_be_parsed_is_not_looked_at(name: str, data: bytes) -> None:
    look, _ = look_through(name, data)
    assert look.missed


def test_json_too_large_to_be_parsed_is_searched(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "DOCUMENT", 1000)
    look, _ = look_through("train.jsonl", b'{"text": "an ordinary line"}\n' * 100)
    assert look.missed == []
    look, _ = look_through("train.jsonl", b'{"text": "an ordinary line"}\n' * 100 + b'{"_target_": "os.system"}')
    assert "bytes" in look.missed[0]


def test_aliases_that_multiply_are_not_followed_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    """https://en.wikipedia.org/wiki/Billion_laughs_attack"""
    monkeypatch.setattr(limits, "NODES", 10_000)
    lines = ["_target_: x", "a0: &a0 [1]"] + [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]" for n in range(1, 10)]
    look, _ = look_through("config.yaml", "\n".join(lines).encode())
    assert "values" in look.missed[0]
