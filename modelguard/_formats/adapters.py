"""Adapters beside a model (PEFT): what loading the folder gives is then not what is in the model's own file.

transformers looks for ``adapter_config.json`` whenever it loads a model and peft is installed (``maybe_load_adapters``, version 5). It
loads a model that lies beside it in a folder with ``config.json`` and applies the adapter; fetched from the Hub by name, it loads
``base_model_name_or_path`` instead.
"""

from __future__ import annotations

import posixpath
from collections.abc import Iterable, Iterator

from modelguard._formats.names import shown
from modelguard._inputs.config import artifact_json
from modelguard.artifact import Artifact
from modelguard.checkpoint import Checkpoint, FormatProblem
from modelguard.errors import ModelError

CONFIG = "adapter_config.json"
_ADAPTER = "adapter_model"
_MODEL = ("model", "pytorch_model")


def adapter_problems(artifact: Artifact, checkpoints: Iterable[Checkpoint]) -> Iterator[FormatProblem]:
    """What each adapter changes: the model beside it (MG0119), or one that is not here (MG0120)."""
    folders: dict[str, list[Checkpoint]] = {}
    for item in checkpoints:
        folders.setdefault(posixpath.dirname(item.name), []).append(item)
    for folder, members in sorted(folders.items()):
        path = posixpath.join(folder, CONFIG)
        if artifact.file(path) is None:
            continue
        base = _base(artifact, members[0])
        named = "no base model" if base is None else f"the base model {shown(base)}"
        evidence = {"base_model": None if base is None else base[:200]}
        models = [item for item in members if posixpath.basename(item.name).startswith(_MODEL)]
        if not models:
            adapters = [item for item in members if posixpath.basename(item.name).startswith(_ADAPTER)]
            if adapters:
                message = f"{path}: this is an adapter of {named}, which is not in the artifact and was not looked at; scan it too"
                yield FormatProblem("MG0120", path, message, evidence=evidence)
            continue
        own = base is not None and (artifact.identity == f"hf:{base}" or base in (".", "./"))
        elsewhere = (
            "" if own or base is None else f"; fetched from the Hub by name it loads {shown(base)} in its place, which was not looked at"
        )
        message = (
            f"{path}: an adapter of {named} lies beside {models[0].files[0]}, and transformers applies it by itself where peft is "
            f"installed{elsewhere}. What was looked at is each file as it is, not the two together; keep them in folders of their own"
        )
        yield FormatProblem("MG0119", path, message, evidence={**evidence, "kind": "own" if own else "elsewhere"})


def _base(artifact: Artifact, beside: Checkpoint) -> str | None:
    """The base model that the adapter's configuration names; None where it names none or cannot be read."""
    try:
        name = artifact_json(artifact, beside, CONFIG).get("base_model_name_or_path")
    except ModelError:
        return None
    return name if isinstance(name, str) else None
