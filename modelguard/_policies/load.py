"""Reads policy files and merges a policy with its parents.

A file that could be read in two ways is refused: duplicate keys, anchors and aliases, tags, unknown keys. The first two of several
parsers disagree about; the last is how a typing error becomes a hole in the gate.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from importlib import resources
from pathlib import Path
from typing import Any

from pydantic import ValidationError
from ruamel.yaml import YAML
from ruamel.yaml.error import MarkedYAMLError, YAMLError
from ruamel.yaml.events import AliasEvent, CollectionEndEvent, CollectionStartEvent
from ruamel.yaml.nodes import MappingNode, Node, ScalarNode, SequenceNode

from modelguard import _limits
from modelguard._policies.merge import Layer, beside, merge
from modelguard._policies.model import Detectors, Match, Plugins, Policy, PolicyRule, Sources, Waiver
from modelguard.errors import PolicyError

MAX_BYTES = _limits.POLICY_BYTES
MAX_DEPTH = _limits.POLICY_DEPTH
MAX_FILES = _limits.POLICY_FILES
BUILTIN = "builtin:"
DEFAULT = "builtin:baseline"


@dataclass(frozen=True, slots=True)
class Resolved:
    """A policy without parents, and for each of its parts which file it came from.

    ``origins`` maps dotted keys (``sources.pinned``, ``rules[0]``, ``detectors.required.weight-diff``) to names of policies.
    """

    policy: Policy
    origins: Mapping[str, str]


def load_policy(name_or_path: str | os.PathLike[str] | None = None) -> Policy:
    """The resolved policy ``builtin:NAME`` or at a path; ``builtin:baseline`` for None.

    Raises :class:`PolicyError` naming file and line. Names of rules and detectors are checked by :meth:`Policy.check`.
    """
    return resolve(name_or_path).policy


def resolve(name_or_path: str | os.PathLike[str] | None = None) -> Resolved:
    """As :func:`load_policy`, together with where each part came from."""
    name = DEFAULT if name_or_path is None else os.fspath(name_or_path)
    layer = _layer(name, Path(), (), [])
    return Resolved(Policy.model_validate(layer.document()), layer.all_origins())


def builtin_names() -> tuple[str, ...]:
    """Names of the policies that ship with modelguard, sorted."""
    return tuple(sorted(item.name.removesuffix(".yaml") for item in _folder().iterdir() if item.name.endswith(".yaml")))


def _layer(name: str, folder: Path, children: tuple[str, ...], seen: list[str]) -> Layer:
    """The policy ``name``, written in a file of ``folder``, merged over its parents. ``children`` are the files on the way here."""
    place = name if name.startswith(BUILTIN) else str(folder / name)
    try:
        identity = place if name.startswith(BUILTIN) else str(Path(place).resolve())
    except (OSError, RuntimeError, ValueError):  # what is wrong with the path is said when it is read
        identity = place
    if identity in children:
        raise PolicyError(place, "extends itself, directly or through its parents", "remove one of the extends")
    seen.append(identity)
    if len(seen) > MAX_FILES:
        raise PolicyError(place, f"more than {MAX_FILES} policies are extended", "merge some of them")
    policy = _parse(read_text(place), place)
    above: Layer | None = None
    for parent in policy.extends:
        if not parent.startswith(BUILTIN) and (name.startswith(BUILTIN) or Path(parent).is_absolute() or "://" in parent):
            raise PolicyError(place, f"cannot extend {parent!r}", "use builtin:NAME or a path relative to this file")
        layer = _layer(parent, Path(place).parent, (*children, identity), seen)
        above = layer if above is None else beside(above, layer)
    own = Layer.of(policy, place)
    return own if above is None else merge(above, own)


def _folder() -> Any:
    return resources.files("modelguard._policies")


def read_text(place: str) -> str:
    """The policy file at ``place`` (a path or ``builtin:NAME``) as written. Raises :class:`PolicyError`."""
    if place.startswith(BUILTIN):
        name = place.removeprefix(BUILTIN)
        known = builtin_names()
        if name not in known:
            raise PolicyError(place, "there is no such built-in policy", f"there are {', '.join(known)}")
        return str((_folder() / f"{name}.yaml").read_text(encoding="utf-8"))
    try:
        with open(place, "rb") as handle:
            body = handle.read(MAX_BYTES + 1)
    except (OSError, ValueError) as error:
        hint = f"did you mean {BUILTIN}{place}?" if place in builtin_names() else "check the path"
        raise PolicyError(place, f"cannot be read ({getattr(error, 'strerror', None) or error})", hint) from error
    if len(body) > MAX_BYTES:
        raise PolicyError(place, f"is larger than {MAX_BYTES} bytes", "split it and use extends")
    try:
        return body.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise PolicyError(place, f"is not UTF-8 (byte {error.start})", "save it as UTF-8") from None


def _parse(text: str, place: str) -> Policy:
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
    try:
        return Policy.model_validate(data)
    except ValidationError as error:
        loc, message = _first(error)
        raise PolicyError(f"{place}, line {_line(node, loc)}", message, "`modelguard schema policy` describes the format") from None


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


def _line(node: Node | None, loc: tuple[int | str, ...]) -> int:
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


_KEYS = tuple(sorted({name for model in (Policy, Sources, Detectors, PolicyRule, Match, Waiver, Plugins) for name in model.model_fields}))


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
