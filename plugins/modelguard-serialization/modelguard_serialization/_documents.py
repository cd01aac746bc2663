"""JSON, YAML and TOML as trees that keep what ordinary parsers drop: keys that are there twice, and YAML's tags."""

from __future__ import annotations

import json
import re
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from modelguard_serialization import limits
from modelguard_serialization.reader import NotReadError

_SPACE = " \t\r\n"
_FLOW_DEPTH = 100
_MAPPING, _SEQUENCE = "tag:yaml.org,2002:map", "tag:yaml.org,2002:seq"


class Pairs(list[tuple[str, Any]]):
    """A mapping as it was written: all its pairs, because which of two equal keys counts depends on who reads it."""

    def all(self, key: str) -> list[Any]:
        """Every value under ``key``."""
        return [value for name, value in self if name == key]

    def text(self, key: str) -> str:
        """The last value under ``key``, which most parsers take, if it is text; else the empty string."""
        value = next((value for name, value in reversed(self) if name == key), None)
        return value if isinstance(value, str) else ""

    def has(self, key: str) -> bool:
        """Whether ``key`` is there."""
        return any(name == key for name, _ in self)


@dataclass(frozen=True, slots=True)
class Tagged:
    """A YAML value with a tag of its own (``!new:torch.nn.Linear``); of a tag of YAML itself, the long form."""

    tag: str
    value: Any


def text_of(data: memoryview | bytes) -> str | None:
    """The text that the bytes are in UTF-8, UTF-16 or UTF-32, as ``json.loads`` finds out; None when they are none."""
    raw = bytes(data)
    try:
        return raw.decode(json.detect_encoding(raw)).lstrip("\ufeff")
    except UnicodeDecodeError:
        return None


def parse_json(text: str) -> list[Any]:
    """The values of a JSON text: one, or several on end as in JSON lines. Raises :class:`NotReadError`."""
    decoder = json.JSONDecoder(object_pairs_hook=Pairs, strict=False)
    values: list[Any] = []
    at = 0
    try:
        while (at := _past_space(text, at)) < len(text):
            value, at = decoder.raw_decode(text, at)
            values.append(value)
    except RecursionError:
        raise NotReadError("is nested too deeply to be parsed") from None
    except ValueError:
        raise NotReadError("is no valid JSON") from None
    return values


def parse_toml(text: str) -> Any:
    """The mapping of a TOML text, in which no key is there twice. Raises :class:`NotReadError`."""
    try:
        return _from_plain(tomllib.loads(text))
    except RecursionError:
        raise NotReadError("is nested too deeply to be parsed") from None
    except ValueError:
        raise NotReadError("is no valid TOML") from None


def parse_yaml(text: str) -> list[Any]:
    """The documents of a YAML text, composed and not constructed: no tag is followed. Raises :class:`NotReadError`.

    An alias is the very value it refers to, so a tree may hold a value many times, and may not hold itself.
    """
    from ruamel.yaml import YAML
    from ruamel.yaml.error import YAMLError

    if _flow_depth(text) > _FLOW_DEPTH:
        raise NotReadError("is nested too deeply to be parsed")
    yaml = YAML(typ="safe", pure=True)
    try:
        return [_from_node(node, {}, set()) for node in yaml.compose_all(text)]
    except RecursionError:
        raise NotReadError("is nested too deeply to be parsed") from None
    except (YAMLError, ValueError):
        raise NotReadError("is no valid YAML") from None


def _flow_depth(text: str) -> int:
    """How deep brackets nest, those in texts and comments counted too: the parser's time grows with the square of it."""
    depth = deepest = 0
    for bracket in re.findall(r"[\[\]{}]", text):
        depth += 1 if bracket in "[{" else -1
        deepest = max(deepest, depth)
    return deepest


def walk(value: Any) -> Iterator[tuple[str, Any]]:
    """Every value of a tree with the keys that lead to it, parents first. Raises :class:`NotReadError` past ``limits.NODES``."""
    stack: list[tuple[str, Any]] = [("", value)]
    left = limits.NODES
    while stack:
        left -= 1
        if left < 0:
            raise NotReadError(f"has more than {limits.NODES} values")
        place, item = stack.pop()
        yield place, item
        if isinstance(item, Tagged):
            stack.append((place, item.value))
        elif isinstance(item, Pairs):
            stack.extend((f"{place}.{key}" if place else key, inner) for key, inner in reversed(item) if not _leaf(inner))
        elif isinstance(item, list):
            stack.extend((f"{place}[{number}]", inner) for number, inner in reversed([*enumerate(item)]) if not _leaf(inner))


def _leaf(value: Any) -> bool:
    return not isinstance(value, list | Tagged)


def _past_space(text: str, at: int) -> int:
    while at < len(text) and text[at] in _SPACE:
        at += 1
    return at


def _from_plain(value: Any) -> Any:
    if isinstance(value, dict):
        return Pairs((str(key), _from_plain(item)) for key, item in value.items())
    return [_from_plain(item) for item in value] if isinstance(value, list) else value


def _from_node(node: Any, made: dict[int, Any], open_: set[int]) -> Any:
    from ruamel.yaml.nodes import MappingNode, SequenceNode

    if node is None:
        return None
    key = id(node)
    if key in made:
        return made[key]
    if key in open_:
        raise NotReadError("has a value that holds itself")
    open_.add(key)
    tag = str(node.tag or "")
    value: Any
    if isinstance(node, MappingNode):
        value = Pairs((_key(name), _from_node(item, made, open_)) for name, item in node.value)
        value.extend(("<tagged key>", _from_node(name, made, open_)) for name, _ in node.value if not _plain_key(name))
        plain = tag == _MAPPING
    elif isinstance(node, SequenceNode):
        value = [_from_node(item, made, open_) for item in node.value]
        plain = tag == _SEQUENCE
    else:
        value = node.value
        plain = bool(re.fullmatch(r"tag:yaml\.org,2002:(?:str|int|float|bool|null|timestamp|binary|merge|value)", tag))
    open_.discard(key)
    made[key] = value if plain or not tag else Tagged(tag, value)
    return made[key]


def _plain_key(node: Any) -> bool:
    return isinstance(node.value, str) and str(node.tag).startswith("tag:yaml.org,2002:") and "python" not in str(node.tag)


def _key(node: Any) -> str:
    return node.value if isinstance(node.value, str) else "<key>"
