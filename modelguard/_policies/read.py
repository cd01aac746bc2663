"""Reads one policy file.

A file that could be read in two ways is refused: duplicate keys, anchors and aliases, tags, unknown keys. The first two of several
parsers disagree about; the last is how a typing error becomes a hole in the gate.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from difflib import get_close_matches
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError
from ruamel.yaml import YAML
from ruamel.yaml.error import MarkedYAMLError, YAMLError
from ruamel.yaml.events import AliasEvent, CollectionEndEvent, CollectionStartEvent
from ruamel.yaml.nodes import MappingNode, Node, ScalarNode, SequenceNode

from modelguard import _limits
from modelguard._policies.file import (
    DetectorsPart,
    MatchPart,
    PluginsPart,
    PolicyFile,
    ProvenancePart,
    RulePart,
    SignaturePart,
    SourcesPart,
    WaiverPart,
)
from modelguard.errors import PolicyError

M = TypeVar("M", bound=BaseModel)
MAX_DEPTH = _limits.POLICY_DEPTH


def read_policy(text: str, place: str) -> PolicyFile:
    """The policy file ``text``; ``place`` is what errors call it. Raises :class:`PolicyError` naming the line."""
    data, node = read_yaml(text, place)
    return validated(PolicyFile, data, node, place, "`modelguard schema policy` describes the format")


def read_yaml(text: str, place: str) -> tuple[dict[Any, Any], Node | None]:
    """A mapping that can be read in one way only, and its nodes. Raises :class:`PolicyError` naming the line."""
    yaml = YAML(typ="safe", pure=True)
    try:
        depth = 0
        for event in yaml.parse(text):
            depth += isinstance(event, CollectionStartEvent) - isinstance(event, CollectionEndEvent)
            if depth > MAX_DEPTH:
                raise _at(place, event, "is nested too deeply", "correct the file")
            if isinstance(event, AliasEvent) or getattr(event, "anchor", None):
                raise _at(place, event, "uses an anchor or alias", "write the value where it is used, so that a reader sees it there")
            if str(getattr(event, "tag", None) or "").strip():
                raise _at(place, event, f"uses the tag {event.tag}", "remove the tag")
        node = YAML(typ="safe", pure=True).compose(text)
        _no_duplicates(node, place)
        data = YAML(typ="safe", pure=True).load(text)
    except MarkedYAMLError as error:
        raise _at(place, error, f"is not valid YAML ({error.problem})", "correct the file") from None
    except (YAMLError, ValueError) as error:
        raise PolicyError(place, f"is not valid YAML ({str(error).splitlines()[0]})", "correct the file") from None
    if not isinstance(data, dict):
        raise PolicyError(place, "is empty" if data is None else "is not a mapping", "begin with `version: 1`")
    return data, node


def validated(model: type[M], data: Mapping[Any, Any], node: Node | None, place: str, remedy: str) -> M:
    """``data`` as a ``model``. Raises :class:`PolicyError` naming the line."""
    try:
        return model.model_validate(data)
    except ValidationError as error:
        loc, message = _first(error)
        raise PolicyError(f"{place}, line {line_of(node, loc)}", message, remedy) from None


def _at(place: str, what: Any, cause: str, remedy: str) -> PolicyError:
    mark = getattr(what, "problem_mark", None) or getattr(what, "start_mark", None)
    return PolicyError(f"{place}, line {mark.line + 1}" if mark is not None else place, cause, remedy)


def _no_duplicates(node: Node | None, place: str) -> None:
    if isinstance(node, MappingNode):
        lines: dict[str, int] = {}
        for key, value in node.value:
            line = key.start_mark.line + 1
            if not isinstance(key, ScalarNode):
                raise PolicyError(f"{place}, line {line}", "a key is a list or a mapping, and must be a word", "correct the file")
            name = str(key.value)
            if name in lines:
                raise PolicyError(
                    f"{place}, line {line}", f"the key {name!r} is given twice (first in line {lines[name]})", "remove one of the two"
                )
            lines[name] = line
            _no_duplicates(value, place)
    elif isinstance(node, SequenceNode):
        for item in node.value:
            _no_duplicates(item, place)


def line_of(node: Node | None, loc: tuple[int | str, ...]) -> int:
    """The line of the innermost part of ``loc`` that is in the file."""
    line = 1
    for step in loc:
        if isinstance(node, MappingNode):
            found = next(((key, value) for key, value in node.value if key.value == str(step)), None)
            if found is None:
                break
            line, node = found[0].start_mark.line + 1, found[1]
        elif isinstance(node, SequenceNode) and isinstance(step, int) and step < len(node.value):
            node = node.value[step]
            line = node.start_mark.line + 1
        else:
            break
    return line


_KEYS = tuple(
    sorted(
        {
            name
            for model in (
                PolicyFile,
                SourcesPart,
                ProvenancePart,
                SignaturePart,
                DetectorsPart,
                RulePart,
                MatchPart,
                WaiverPart,
                PluginsPart,
            )
            for name in model.model_fields
        }
    )
)


def _first(error: ValidationError) -> tuple[tuple[int | str, ...], str]:
    """Where and what the first problem is, as one clause."""
    problems = error.errors(include_url=False)
    first = problems[0]
    loc = first["loc"]
    where = re.sub(r"\.\[", "[", ".".join(f"[{step}]" if isinstance(step, int) else step for step in loc))
    text = first["msg"].removeprefix("Value error, ")
    if first["type"] == "extra_forbidden":
        close = get_close_matches(str(loc[-1]), _KEYS, n=1)
        text = "unknown key" + (f", did you mean {close[0]}?" if close else "")
    elif first["type"] == "missing":
        text = "is missing"
    more = f" (and {len(problems) - 1} more)" if len(problems) > 1 else ""
    return loc, f"{where}: {text}{more}" if where else f"{text}{more}"
