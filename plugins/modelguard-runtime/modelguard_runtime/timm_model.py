"""A snapshot folder with timm's config.json."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from modelguard._inputs import spec
from modelguard._inputs.agreement import output_spec
from modelguard._inputs.config import artifact_json
from modelguard.artifact import Artifact
from modelguard.checkpoint import Checkpoint
from modelguard.detector import Skip
from modelguard.errors import ModelError
from modelguard.model import ModelOptions, Samples
from modelguard_runtime.failures import one_line, raise_if_out_of_memory

if TYPE_CHECKING:
    from modelguard_runtime.torch_model import TorchModel

ARGUMENTS = ("img_size", "embed_dim", "depth", "num_heads", "patch_size", "global_pool", "in_chans")
"""Entries of ``model_args`` that are passed on: sizes, never names of classes or files."""


def accepts(config: Mapping[str, Any]) -> bool:
    """Whether config.json is timm's: it names an ``architecture`` and says how it was pretrained."""
    return isinstance(config.get("architecture"), str) and "model_type" not in config and isinstance(config.get("pretrained_cfg"), Mapping)


def build(artifact: Artifact, checkpoint: Checkpoint, samples: Samples | None, options: ModelOptions) -> TorchModel:
    """Create timm's model without pretrained weights and load the checkpoint into it, strictly.

    Raises :class:`Skip` when timm is not installed or has no such architecture; :class:`ModelError` when the tensors do not fit.
    """
    try:
        import timm  # type: ignore[import-not-found, import-untyped, unused-ignore]
    except ImportError as error:
        if isinstance(error, ModuleNotFoundError) and error.name == "timm":
            raise Skip("config.json names a timm model, and timm is not installed: pip install timm") from None
        raise_if_out_of_memory(error)
        raise Skip(f"config.json names a timm model, and timm cannot be imported: {one_line(error)}") from None
    from modelguard_runtime.torch_model import TorchModel
    from modelguard_runtime.weights import fit, state_dict

    config = artifact_json(artifact, checkpoint, "config.json")
    name = config["architecture"]
    if ":" in name or "/" in name or not timm.is_model(name):
        raise Skip(f"timm {timm.__version__} has no architecture {name[:80]!r}")
    given = config.get("model_args")
    arguments = {key: value for key, value in given.items() if key in ARGUMENTS} if isinstance(given, Mapping) else {}
    classes = config.get("num_classes")
    try:
        module = timm.create_model(name, pretrained=False, num_classes=classes if isinstance(classes, int) else 1000, **arguments)
    except Exception as error:  # whatever timm's constructors make of the arguments
        raise_if_out_of_memory(error)
        raise ModelError(f"timm {name[:80]}", f"cannot be built: {one_line(error)}", "check config.json") from error
    fit(module, state_dict(checkpoint), f"timm {name}")
    hints = [spec.parse_option(options.input)] if options.input else []
    names = config.get("label_names")
    labelled = {"id2label": {str(i): label for i, label in enumerate(names)}} if isinstance(names, list) else {}
    return TorchModel(
        module,
        spec.resolve([*hints, spec.from_timm(config)], samples),
        lambda width, head: output_spec(width, head, samples, labelled),
        facts={"factory": f"timm {timm.__version__}, {name}", "checkpoint": checkpoint.name},
    )
