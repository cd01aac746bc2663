"""JSON, YAML and TOML: configurations that name code, and those of Keras."""

from __future__ import annotations

import re
from typing import Any

from modelguard import Severity
from modelguard_serialization import _keras_config, limits
from modelguard_serialization._configured import YAML_WORDS, Pointer, may_name_code, may_name_code_in, pointers
from modelguard_serialization._documents import Pairs, parse_json, parse_toml, parse_yaml, text_of, walk
from modelguard_serialization._format_rules import CONFIGURED_CODE, KERAS_CLASS, KERAS_CODE, OUTSIDE_FILE
from modelguard_serialization.blob import Blob
from modelguard_serialization.reader import Look, NotReadError, Reader

_RULES = (KERAS_CODE, KERAS_CLASS, CONFIGURED_CODE, OUTSIDE_FILE)
_JSON = re.compile(r'\s*(?:\{\s*(?:["}]|$)|\[\s*(?:["{\[\]\d-]|true|false|null|$))')


class Json(Reader):
    what = "JSON"
    rules = _RULES

    def recognise(self, blob: Blob) -> bool:
        head = blob.head(4096)
        if head[:4].count(0) > 1 or head[:2] in (b"\xff\xfe", b"\xfe\xff"):
            head = head.replace(b"\0", b"").lstrip(b"\xff\xfe")
        if not head.strip():
            return len(blob.data) > len(head)
        return bool(_JSON.match(head.decode("utf-8", "replace").lstrip("\ufeff")))

    def read(self, blob: Blob, look: Look) -> None:
        if len(blob.data) > limits.DOCUMENT:
            if may_name_code_in(blob.data):
                raise NotReadError(f"is JSON of more than {limits.DOCUMENT} bytes, which may name code")
            return
        text = _text(blob)
        if not may_name_code(text, blob.name):
            return
        for tree in parse_json(text):
            if _keras_config.is_keras(tree):
                _keras_config.judge(tree, blob, look)
            _judge(tree, blob, look)


class Yaml(Reader):
    what = "YAML"
    rules = _RULES

    def recognise(self, blob: Blob) -> bool:
        head = blob.head(64)
        name = blob.name.rsplit("/", 1)[-1].lower()
        if blob.ending in (".yaml", ".yml") or name == "mlmodel":
            return True  # JSON too is YAML, and what only looks like it may have tags
        return bool(re.match(rb"%YAML|---\s*[\r\n][^-]", head)) and blob.ending not in (".md", ".markdown", ".mdx", ".txt", ".rst")

    def read(self, blob: Blob, look: Look) -> None:
        text = _text(blob)
        if not YAML_WORDS.search(text):
            return
        if len(blob.data) > limits.YAML:
            raise NotReadError(f"is YAML of more than {limits.YAML} bytes, which may name code")
        for tree in parse_yaml(text):
            if _keras_config.is_keras(tree):
                _keras_config.judge(tree, blob, look)
            _judge(tree, blob, look)


class Toml(Reader):
    what = "TOML"
    rules = _RULES

    def recognise(self, blob: Blob) -> bool:
        return blob.ending == ".toml"

    def read(self, blob: Blob, look: Look) -> None:
        text = _text(blob)
        if YAML_WORDS.search(text):
            if len(blob.data) > limits.DOCUMENT:
                raise NotReadError(f"is TOML of more than {limits.DOCUMENT} bytes, which may name code")
            _judge(parse_toml(text), blob, look)


def _text(blob: Blob) -> str:
    text = text_of(blob.data)
    if text is None:
        raise NotReadError("begins as text and is none")
    return text


def _judge(tree: Any, blob: Blob, look: Look) -> None:
    told: set[tuple[str, str]] = set()
    ordinary: list[str] = []
    for done, (place, node) in enumerate(walk(tree)):
        if done % 4096 == 0:
            look.check()
        for pointer in pointers(place, node, blob.name, look.artifact):
            if (pointer.name, pointer.message) in told:
                continue
            told.add((pointer.name, pointer.message))
            if pointer.severity is None:
                ordinary.append(pointer.name)
            else:
                _find(pointer, place, node, blob, look)
    if ordinary:
        named = ", ".join(sorted(ordinary)[:8]) + (f" and {len(ordinary) - 8} more" if len(ordinary) > 8 else "")
        look.find(
            "MG0334",
            blob,
            f"a library that loads it builds {named[:300]}",
            severity=Severity.INFO,
            evidence={"names": sorted(ordinary)[:50]},
            key="ordinary",
        )


def _find(pointer: Pointer, place: str, node: Any, blob: Blob, look: Look) -> None:
    arguments = [key for key, _ in node if not key.startswith("_")][:20] if isinstance(node, Pairs) else []
    look.find(
        pointer.rule,
        blob,
        pointer.message,
        severity=pointer.severity,
        key=pointer.name[:200],
        evidence={"at": place[:500], "beside": [str(key)[:80] for key in arguments]},
    )
