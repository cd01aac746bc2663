"""``--model package.module:factory``: the user's own code builds the module the checkpoint's weights go into."""

from __future__ import annotations

import importlib
import inspect
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from modelguard import (
    Artifact,
    BuildRequest,
    Checkpoint,
    InputHints,
    ModelError,
    ModelOptions,
    UsageError,
    artifact_json,
    output_spec,
    resolve_input,
)
from modelguard_runtime._factory import TorchFactory
from modelguard_runtime._facts import ModelFacts
from modelguard_runtime._failures import one_line, raise_if_out_of_memory

if TYPE_CHECKING:
    from torch import nn

    from modelguard_runtime._torch_model import TorchModel


class UserFactory(TorchFactory):
    """The user's own function builds the module; any format whose tensors can be read will do."""

    id: ClassVar[str] = "user"
    priority: ClassVar[int] = 0

    def accepts(self, artifact: Artifact, checkpoint: Checkpoint, options: ModelOptions) -> bool:
        return options.factory is not None

    def make(self, request: BuildRequest) -> TorchModel:
        """Call the user's factory and load the checkpoint into what it returns, strictly.

        Raises :class:`UsageError` when the factory cannot be found, :class:`ModelError` when it fails or the weights do not fit.
        """
        from modelguard_runtime._text import read_text
        from modelguard_runtime._torch_model import TorchModel
        from modelguard_runtime._weights import fit, input_shape, state_dict, token_table

        options, samples = request.options, request.samples
        reference = options.factory or ""
        config = artifact_json(request.artifact, request.checkpoint, "config.json")
        module = _call(reference, config, options.cwd)
        fit(module, state_dict(request.checkpoint), f"--model {reference}")
        preprocessor = artifact_json(request.artifact, request.checkpoint, "preprocessor_config.json")
        hints = [
            *([InputHints.from_option(options.input)] if options.input else []),
            *([InputHints.from_preprocessor(preprocessor)] if preprocessor else []),
        ]
        if (tokens := token_table(module)) is not None:
            hints.append(InputHints("first layer", "text", (-1,), "int64", "NT", 0.0, float(tokens - 1)))
        elif samples is None and (shape := input_shape(module)) is not None:
            hints.append(InputHints("first layer", {1: "vector", 3: "image"}[len(shape)], shape))
        facts = ModelFacts(factory=f"--model {reference} (the user's own code)", checkpoint=request.checkpoint.name)
        described = resolve_input(hints, samples)
        text = None
        if described.kind == "text":
            text = read_text(request.artifact, request.checkpoint, config, vocabulary=int(described.high) + 1)
        return TorchModel(module, described, lambda width, head: output_spec(width, head, samples, config), text=text, facts=facts)


def _call(reference: str, config: Mapping[str, Any], cwd: Path | None) -> nn.Module:
    from torch import nn

    thing = f"--model {reference}"
    name, colon, attribute = reference.partition(":")
    if not (colon and name and attribute):
        raise UsageError(thing, "is not module:factory", "write for example --model mypackage.models:resnet")
    with _on_path(cwd):
        try:
            factory: Any = importlib.import_module(name)
        except Exception as error:
            raise_if_out_of_memory(error)
            raise UsageError(
                thing, f"cannot be imported ({type(error).__name__}: {one_line(error)})", "run from the folder it lies in"
            ) from error
        for part in attribute.split("."):
            factory = getattr(factory, part, None)
        if not callable(factory):
            raise UsageError(thing, "names nothing that can be called", "name a function that returns the module")
        try:
            module = factory(dict(config)) if _takes_config(factory) else factory()
        except Exception as error:
            raise_if_out_of_memory(error)
            raise ModelError(thing, f"failed ({type(error).__name__}: {one_line(error)})", "repair the factory") from error
    if not isinstance(module, nn.Module):
        raise ModelError(thing, f"returned {type(module).__name__}, not a torch.nn.Module", "return the module itself")
    return module


def _takes_config(factory: Any) -> bool:
    """Whether the factory has a positional parameter without a default: it is given config.json as a dictionary."""
    try:
        parameters = inspect.signature(factory).parameters.values()
    except (ValueError, TypeError):
        return False
    return any(p.default is p.empty and p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD) for p in parameters)


@contextmanager
def _on_path(folder: Path | None) -> Iterator[None]:
    """``folder`` first on ``sys.path`` while the user's code is imported and called, and at no other time."""
    if folder is None:
        yield
        return
    entry = str(folder)
    sys.path.insert(0, entry)
    try:
        yield
    finally:
        sys.path.remove(entry)
