"""A snapshot folder with timm's config.json."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar

from modelguard import Artifact, BuildRequest, Checkpoint, InputHints, ModelError, Skip, artifact_json, output_spec, resolve_input
from modelguard_runtime._factory import WeightsFactory
from modelguard_runtime._facts import ModelFacts
from modelguard_runtime._failures import one_line, raise_if_out_of_memory

if TYPE_CHECKING:
    from modelguard_runtime._torch_model import TorchModel

ARGUMENTS = ("img_size", "embed_dim", "depth", "num_heads", "patch_size", "global_pool", "in_chans")
"""Entries of ``model_args`` that are passed on: sizes, never names of classes or files."""


class TimmFactory(WeightsFactory):
    """timm's models, by its config.json."""

    id: ClassVar[str] = "timm"
    priority: ClassVar[int] = 30

    def knows(self, artifact: Artifact, checkpoint: Checkpoint) -> bool:
        """Whether config.json is timm's: it names an ``architecture`` and says how it was pretrained."""
        config = artifact_json(artifact, checkpoint, "config.json")
        named = isinstance(config.get("architecture"), str) and "model_type" not in config
        return named and isinstance(config.get("pretrained_cfg"), Mapping)

    def make(self, request: BuildRequest) -> TorchModel:
        """Create timm's model without pretrained weights and load the checkpoint into it, strictly.

        Raises :class:`Skip` when timm is not installed or has no such architecture; :class:`ModelError` when the tensors do not fit.
        """
        timm = _timm()
        from modelguard_runtime._torch_model import TorchModel
        from modelguard_runtime._weights import fit, state_dict

        config = artifact_json(request.artifact, request.checkpoint, "config.json")
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
        fit(module, state_dict(request.checkpoint), f"timm {name}")
        hints = [InputHints.from_option(request.options.input)] if request.options.input else []
        names = config.get("label_names")
        labelled = {"id2label": {str(i): label for i, label in enumerate(names)}} if isinstance(names, list) else {}
        return TorchModel(
            module,
            resolve_input([*hints, InputHints.from_timm(config)], request.samples),
            lambda width, head: output_spec(width, head, request.samples, labelled),
            facts=ModelFacts(factory=f"timm {timm.__version__}, {name}", checkpoint=request.checkpoint.name),
        )


def _timm() -> Any:
    try:
        import timm  # type: ignore[import-not-found, import-untyped, unused-ignore]
    except ImportError as error:
        if isinstance(error, ModuleNotFoundError) and error.name == "timm":
            raise Skip("config.json names a timm model, and timm is not installed: pip install timm") from None
        raise_if_out_of_memory(error)
        raise Skip(f"config.json names a timm model, and timm cannot be imported: {one_line(error)}") from None
    return timm
