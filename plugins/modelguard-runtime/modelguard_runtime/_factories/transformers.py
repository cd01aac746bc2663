"""A snapshot folder with transformers' config.json: transformers' own classes, our reading of the weights, no remote code."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, ClassVar

from modelguard import (
    Artifact,
    BuildRequest,
    Checkpoint,
    InputHints,
    ModelError,
    OutputSpec,
    Skip,
    artifact_json,
    output_spec,
    resolve_input,
)
from modelguard_runtime._factory import WeightsFactory
from modelguard_runtime._facts import ModelFacts
from modelguard_runtime._failures import one_line, raise_if_out_of_memory

if TYPE_CHECKING:
    import torch

    from modelguard_runtime._torch_model import TorchModel

TASKS = {
    "ForImageClassification": "MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING_NAMES",
    "ForSequenceClassification": "MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING_NAMES",
    "ForCausalLM": "MODEL_FOR_CAUSAL_LM_MAPPING_NAMES",
    "LMHeadModel": "MODEL_FOR_CAUSAL_LM_MAPPING_NAMES",
}
"""Endings of the architectures that are run, and transformers' table of the classes each model type has for them."""

# What a configuration could make transformers fetch, import or patch; none of it belongs to an architecture.
_DROPPED = frozenset(
    {
        "auto_map", "custom_pipelines", "attn_implementation", "experts_implementation", "fusion_config", "kernel_config", "use_kernels",
        "distributed_config", "transformers_weights", "name_or_path", "base_model_name_or_path", "use_timm_backbone", "backbone",
        "use_pretrained_backbone", "torch_dtype", "dtype", "torchscript", "compression_config", "transformers_version",
    }
)  # fmt: skip


class TransformersFactory(WeightsFactory):
    """transformers' own classes, by config.json."""

    id: ClassVar[str] = "transformers"
    priority: ClassVar[int] = 20

    def knows(self, artifact: Artifact, checkpoint: Checkpoint) -> bool:
        """Whether config.json names an architecture of a task that is run."""
        config = artifact_json(artifact, checkpoint, "config.json")
        return isinstance(config.get("model_type"), str) and _task(config) is not None

    def obstacle(self, request: BuildRequest) -> str:
        """The architecture that config.json names, where it is none of those that are run."""
        config = artifact_json(request.artifact, request.checkpoint, "config.json")
        names = config.get("architectures")
        name = names[0] if isinstance(names, list) and names and isinstance(names[0], str) else ""
        if request.options.factory is not None or not name or self.knows(request.artifact, request.checkpoint):
            return ""
        known = ", ".join(f"...{task}" for task in TASKS)
        return f"config.json names the architecture {name[:80]}, and those that are run are {known}: say --model package.module:factory"

    def make(self, request: BuildRequest) -> TorchModel:
        """Build transformers' class for config.json and load the checkpoint into it, strictly.

        Raises :class:`Skip` when transformers is not installed or has no such class; :class:`ModelError` when the tensors do not fit.
        """
        try:
            import transformers
        except ImportError as error:
            raise_if_out_of_memory(error)
            raise Skip("config.json names a transformers model, and transformers is not installed: pip install transformers") from None
        from modelguard_runtime._text import read_text
        from modelguard_runtime._torch_model import TorchModel
        from modelguard_runtime._weights import state_dict

        artifact, checkpoint, samples = request.artifact, request.checkpoint, request.samples
        config = artifact_json(artifact, checkpoint, "config.json")
        if config.get("quantization_config"):
            raise Skip("config.json asks for quantised weights, whose kernels are not run; scan the unquantised model")
        name = _class_name(config)
        _check_depth(config, len(checkpoint.tensors))
        module = _load(transformers, name, config, state_dict(checkpoint))
        hints = [InputHints.from_option(request.options.input)] if request.options.input else []
        text, generates = None, not name.endswith(("ForImageClassification", "ForSequenceClassification"))
        if name.endswith("ForImageClassification"):
            hints += _image_hints(artifact, checkpoint, module.config)
        else:
            vocabulary = int(module.get_input_embeddings().num_embeddings)
            hints.append(InputHints("config.json", "text", (-1,), "int64", "NT", 0.0, float(vocabulary - 1)))
            # The configuration as the class completes it: what it takes for padding where config.json says nothing.
            whole = {**module.config.to_dict(), "architectures": config["architectures"]}
            text = read_text(artifact, checkpoint, whole, vocabulary=vocabulary)
            if module.config.pad_token_id is None:
                module.config.pad_token_id = text.spec.pad  # classifiers that read the last token look for it by that

        def describe_output(width: int, head: Any) -> OutputSpec:
            return OutputSpec("language-model", width, "logits") if generates else output_spec(width, head, samples, config)

        return TorchModel(
            module,
            resolve_input(hints, samples),
            describe_output,
            head="logits",
            call=_pixels if text is None else _caller(text.spec.pad),
            text=text,
            last=_last(module, text.spec.pad) if text is not None and generates else None,
            facts=ModelFacts(factory=f"transformers {transformers.__version__}, {name}", checkpoint=checkpoint.name),
        )


def _task(config: Mapping[str, Any]) -> str | None:
    names = config.get("architectures")
    first = names[0] if isinstance(names, list) and names and isinstance(names[0], str) else ""
    return next((ending for ending in TASKS if first.endswith(ending)), None)


def _class_name(config: Mapping[str, Any]) -> str:
    """The architecture of config.json, if transformers itself has it for that model type: no other attribute is ever looked up."""
    from transformers.models.auto import modeling_auto

    name, kind, task = config["architectures"][0], config["model_type"], _task(config)
    known = getattr(modeling_auto, TASKS[task or ""]).get(kind, ())
    if name not in ((known,) if isinstance(known, str) else tuple(known)):
        raise Skip(
            f"transformers has no {name[:80]} for model type {kind[:80]!r}; models with code of their own need --model module:factory"
        )
    return str(name)


def _check_depth(config: Mapping[str, Any], tensors: int) -> None:
    """Refuse more layers than there are tensors: transformers would build them all before it notices."""
    for key, value in config.items():
        if isinstance(value, Mapping):
            _check_depth(value, tensors)
        counts = value if isinstance(value, list) else [value]
        if ("layer" in key or "depth" in key) and any(type(count) is int and count > max(tensors, 1) for count in counts):
            raise ModelError(f"config.json {key[:80]}", f"asks for more layers than the checkpoint has tensors ({tensors})", "repair it")


def _load(transformers: Any, name: str, config: Mapping[str, Any], state: dict[str, torch.Tensor]) -> Any:
    import torch

    from modelguard_runtime._weights import misshapen, refuse_misfit

    what, settings = f"transformers {name}", None
    transformers.utils.logging.disable_progress_bar()
    try:
        settings = transformers.CONFIG_MAPPING[config["model_type"]].from_dict(_plain(config))
        architecture = getattr(transformers, name)
        # One fused kernel where the class has it: a fifth less time for short texts on a CPU, and gradients of the same values.
        attention = "sdpa" if architecture._supports_sdpa else "eager"
        module, info = architecture.from_pretrained(
            None, config=settings, state_dict=state, dtype=torch.float32, attn_implementation=attention, output_loading_info=True,
            local_files_only=True, use_safetensors=True,
        )  # fmt: skip
    except Exception as error:  # transformers raises whatever its configuration classes and loaders run into
        raise_if_out_of_memory(error)
        refuse_misfit(what, (), (), misshapen(_empty(getattr(transformers, name), settings), state))
        raise ModelError(what, f"cannot be built: {one_line(error)}", "check config.json against the weights") from error
    refuse_misfit(
        what, info.get("missing_keys", ()), info.get("unexpected_keys", ()), [str(item[0]) for item in info.get("mismatched_keys", ())]
    )
    return module


def _empty(architecture: Any, settings: Any) -> Mapping[str, torch.Tensor]:
    """The tensors of an architecture, which take no memory; none where it cannot be built."""
    import torch

    try:
        with torch.device("meta"):
            return dict(architecture(settings).state_dict())
    except Exception:  # the error that led here says why
        return {}


def _plain(value: Any) -> Any:
    """The configuration without what could make transformers fetch, import or patch anything, at any depth."""
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in value.items() if not key.startswith("_") and key not in _DROPPED}
    return [_plain(item) for item in value] if isinstance(value, list) else value


def _pixels(module: Any, x: torch.Tensor) -> torch.Tensor:
    logits: torch.Tensor = module(pixel_values=x).logits
    return logits


def _caller(pad: int | None) -> Callable[[Any, torch.Tensor], torch.Tensor]:
    """Token ids with the padding behind -> logits, the padding masked."""

    def on_tokens(module: Any, x: torch.Tensor) -> torch.Tensor:
        from modelguard_runtime._tokens import tail_mask

        logits: torch.Tensor = module(input_ids=x, attention_mask=tail_mask(x, pad)).logits
        return logits

    return on_tokens


def _last(module: Any, pad: int | None) -> Callable[[Any, torch.Tensor, torch.Tensor], torch.Tensor] | None:
    """Logits at one position a row, where the module computes them for chosen ones: of a large vocabulary they are most of the work."""
    if "logits_to_keep" not in inspect.signature(module.forward).parameters:
        return None

    def at(module: Any, x: torch.Tensor, ends: torch.Tensor) -> torch.Tensor:
        import torch

        from modelguard_runtime._tokens import tail_mask

        kept, place = torch.unique(ends, return_inverse=True)
        logits: torch.Tensor = module(input_ids=x, attention_mask=tail_mask(x, pad), logits_to_keep=kept).logits
        return logits[torch.arange(len(x), device=logits.device), place]

    return at


def _image_hints(artifact: Artifact, checkpoint: Checkpoint, config: Any) -> list[InputHints]:
    size, channels = getattr(config, "image_size", None), getattr(config, "num_channels", 3)
    side = size[0] if isinstance(size, list | tuple) else size
    preprocessor = artifact_json(artifact, checkpoint, "preprocessor_config.json")
    if not isinstance(side, int):
        wanted = preprocessor.get("size")
        wanted = wanted.get("height", wanted.get("shortest_edge")) if isinstance(wanted, Mapping) else wanted
        side = wanted if isinstance(wanted, int) and 0 < wanted < 1 << 14 else -1
    hints = [InputHints("config.json", "image", (channels, side, side), "float32", "NCHW")]
    return [*hints, InputHints.from_preprocessor(preprocessor)] if preprocessor else hints
