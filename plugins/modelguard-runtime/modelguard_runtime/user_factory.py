"""``--model package.module:factory``: the user's own code builds the module the checkpoint's weights go into."""

from __future__ import annotations

import importlib
import inspect
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from modelguard._inputs import spec
from modelguard._inputs.agreement import output_spec
from modelguard._inputs.config import artifact_json
from modelguard.artifact import Artifact
from modelguard.checkpoint import Checkpoint
from modelguard.errors import ModelError, UsageError
from modelguard.model import ModelOptions, Samples
from modelguard_runtime.failures import one_line, raise_if_out_of_memory

if TYPE_CHECKING:
    from torch import nn

    from modelguard_runtime.torch_model import TorchModel


def build(artifact: Artifact, checkpoint: Checkpoint, samples: Samples | None, options: ModelOptions) -> TorchModel:
    """Call the factory and load the checkpoint into what it returns, strictly.

    Raises :class:`UsageError` when the factory cannot be found, :class:`ModelError` when it fails or the weights do not fit.
    """
    from modelguard_runtime.torch_model import TorchModel
    from modelguard_runtime.weights import fit, input_shape, state_dict

    reference = options.factory or ""
    config = artifact_json(artifact, checkpoint, "config.json")
    module = _call(reference, config, options.cwd)
    fit(module, state_dict(checkpoint), f"--model {reference}")
    preprocessor = artifact_json(artifact, checkpoint, "preprocessor_config.json")
    hints = [
        *([spec.parse_option(options.input)] if options.input else []),
        *([spec.from_preprocessor(preprocessor)] if preprocessor else []),
    ]
    if samples is None and (shape := input_shape(module)) is not None:
        hints.append(spec.Hints("first layer", {1: "vector", 3: "image"}[len(shape)], shape))
    described = spec.resolve(hints, samples)
    facts = {"factory": f"--model {reference} (the user's own code)", "checkpoint": checkpoint.name}
    return TorchModel(module, described, lambda width, head: output_spec(width, head, samples, config), facts=facts)


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
