"""What a model card (the YAML at the head of README.md) claims. It is the artifact's own word: it may be judged, and lowers nothing."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from modelguard import _limits
from modelguard.artifact import Artifact
from modelguard.errors import ModelguardError

_HEAD = re.compile(r"\A\s*---\r?\n(.*?)\r?\n---(?:\r?\n|\Z)", re.DOTALL)
_CLAIM = re.compile(r"[\w./:@+-]{1,200}", re.ASCII)


@dataclass(frozen=True, slots=True)
class Card:
    """``licence`` as the card writes it, in lower case; ``base_models`` are repositories (``org/name``).

    ``problem`` says why something of it was not read.
    """

    licence: str | None = None
    base_models: tuple[str, ...] = ()
    problem: str = ""


def read_card(artifact: Artifact) -> Card:
    """The card of an artifact; an empty one where there is none."""
    file = artifact.file("README.md")
    if file is None:
        return Card()
    try:
        text = file.head(_limits.CARD).decode("utf-8-sig")
    except (ModelguardError, UnicodeDecodeError):
        return Card(problem="README.md is not text")
    match = _HEAD.match(text)
    if match is None:
        return Card(problem="" if not text.lstrip().startswith("---") else "the head of README.md has no end, or is too long")
    return parse_card(match[1])


def parse_card(text: str) -> Card:
    """The card that the YAML ``text`` is."""
    from ruamel.yaml import YAML
    from ruamel.yaml.error import YAMLError
    from ruamel.yaml.events import AliasEvent, CollectionEndEvent, CollectionStartEvent

    try:
        depth = 0
        for event in YAML(typ="safe", pure=True).parse(text):
            depth += isinstance(event, CollectionStartEvent) - isinstance(event, CollectionEndEvent)
            if isinstance(event, AliasEvent) or depth > _limits.POLICY_DEPTH:
                return Card(problem="the head of README.md uses YAML aliases, or is nested too deeply")
        data = YAML(typ="safe", pure=True).load(text)
    except (YAMLError, ValueError, RecursionError):
        return Card(problem="the head of README.md is not valid YAML")
    if not isinstance(data, Mapping):
        return Card(problem="the head of README.md is not a mapping")
    licences, bases, names = (_claims(data.get(key)) for key in ("license", "base_model", "license_name"))
    if licences is None or bases is None or names is None:
        return Card(problem="the head of README.md has a license or base_model that is no name")
    if licences == ["other"]:
        licences = names or licences
    return Card(" and ".join(item.lower() for item in licences) or None, tuple(bases))


def _claims(value: Any) -> list[str] | None:
    """The names that a key of the card gives, one or a list; None where it gives something else."""
    items = [] if value is None else value if isinstance(value, list) else [value]
    return items if len(items) <= 20 and all(isinstance(item, str) and _CLAIM.fullmatch(item) for item in items) else None
