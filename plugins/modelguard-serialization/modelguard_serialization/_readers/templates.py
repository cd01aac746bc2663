"""Jinja templates wherever they lie: files of their own, values in JSON and YAML, prompts."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

from modelguard import Confidence, Severity
from modelguard_serialization import limits
from modelguard_serialization._file_names import NOT_TEMPLATES, TEMPLATES
from modelguard_serialization._search import holds
from modelguard_serialization._templates.rules import RULES
from modelguard_serialization.blob import Blob
from modelguard_serialization.reader import Look, NotReadError, Reader

MARKS = (b"chat_template", b"{{", b"{%", b"\\u007b", b"\\u007B")
_RAW_ESCAPE = re.compile(r"\{[{%][^}]{0,400}?(__[a-z]{3,20}__)")


class TemplateReader(Reader):
    """Finds templates by name, by key, and by their marks in any text, and judges each as a syntax tree."""

    what = "text with a Jinja template"
    rules = RULES

    def recognise(self, blob: Blob) -> bool:
        named = bool(TEMPLATES.search(blob.base)) and blob.ending not in NOT_TEMPLATES
        if not named and blob.ending in NOT_TEMPLATES:
            return False
        head = blob.head(512)
        if b"\0" in head or not (named or holds(blob.data, *MARKS)):
            return False
        if len(blob.data) > limits.TEXT:
            return named or blob.ending in (".json", ".yaml", ".yml", ".txt")
        text = _decoded(blob)
        return named or (text is not None and (_marked(text) or "\\u007" in text or '"chat_template"' in text))

    def read(self, blob: Blob, look: Look) -> None:
        if len(blob.data) > limits.TEXT:
            raise NotReadError(f"has {len(blob.data)} bytes, more than the {limits.TEXT} that are read for templates")
        text = _decoded(blob)
        if text is None:
            raise NotReadError("is named like a template and is no text")
        for place, template, sure in _templates(blob, text, look):
            look.check()
            judge(blob, template, place, sure, look)


def judge(blob: Blob, text: str, place: str, sure: bool, look: Look) -> None:
    """Findings in one template. ``place`` is the key it stands under; ``sure`` whether it is one, or only has the marks of one.

    Of text that only has the marks, what is less than high is not reported: most of it is for other engines.
    """
    from modelguard_serialization._templates import conditions, escapes, parse, texts

    where = f"the template in {place}" if place else "the template"
    try:
        tree = parse.parse(text)
        known = parse.constants(tree)
        reaching = list(escapes.escapes(tree, known))
        compared = list(conditions.conditions(tree, known))
        said = list(texts.injections(tree))
    except (parse.NotParsedError, RecursionError) as error:
        if hit := _RAW_ESCAPE.search(text):
            look.find("MG0340", blob, f"{where} is no valid Jinja, and takes {hit[1]}", evidence={"name": hit[1], "key": place}, key=hit[1])
        if sure:
            why = "is nested too deeply" if isinstance(error, RecursionError) else str(error)
            look.find("MG0343", blob, f"{where} cannot be parsed: {why}", evidence={"key": place}, key=place)
            look.miss(blob, f"{where} cannot be parsed")
        return
    least = Severity.INFO if sure else Severity.HIGH
    for escape in reaching:
        if escape.severity < least:
            continue
        look.find(
            "MG0340",
            blob,
            f"{where} {escape.what} (line {escape.line})",
            severity=escape.severity,
            evidence={"line": escape.line, "key": place},
            key=f"{place} {escape.key}"[:200],
        )
    for condition in compared:
        if condition.severity < least:
            continue
        depends = f"; on it depends {_short(condition.says)!r}" if condition.says else ""
        look.find(
            "MG0341",
            blob,
            f"{where} compares {'the date' if condition.of == 'date' else 'what is written'} with {_short(condition.literal)!r}"
            f" (line {condition.line}){depends}",
            severity=condition.severity,
            confidence=Confidence.HIGH if condition.says else Confidence.MEDIUM,
            evidence={"line": condition.line, "key": place, "literal": condition.literal[:500], "says": condition.says[:500]},
            key=f"{place} {condition.literal}"[:200],
        )
    for injection in said:
        if injection.severity < least:
            continue
        look.find(
            "MG0342",
            blob,
            f"{where} {injection.what}: {_short(injection.text)!r} (line {injection.line})",
            severity=injection.severity,
            confidence=Confidence.MEDIUM,
            evidence={"line": injection.line, "key": place, "text": injection.text[:2000]},
            key=f"{place} {injection.what} {injection.text}"[:200],
        )


def _marked(text: str) -> bool:
    """Whether something in it stands between the marks of Jinja."""
    text = text.replace("${{", "")  # expressions of workflows
    for opened, closed in (("{{", "}}"), ("{%", "%}")):
        start = text.find(opened)
        if start >= 0 and text.find(closed, start + 2) >= 0:
            return True
    return False


def _decoded(blob: Blob) -> str | None:
    try:
        return str(blob.data, "utf-8-sig")
    except UnicodeDecodeError:
        return None


def _templates(blob: Blob, text: str, look: Look) -> Iterator[tuple[str, str, bool]]:
    """(key, text, whether it surely is a template) of every template in the file."""
    stripped = text.lstrip()
    if stripped[:1] in ("{", "[") and stripped[:2] not in ("{{", "{%", "{#"):
        try:
            yield from _json(json.loads(text, object_pairs_hook=_Pairs), "")
            return
        except (ValueError, RecursionError):
            if blob.ending == ".json" and _marked(text):
                look.miss(blob, "has the marks of templates and is no JSON that can be parsed")
    elif blob.ending in (".yaml", ".yml"):
        yield from _yaml(blob, text, look)
        return
    yield "", text, bool(TEMPLATES.search(blob.base)) and blob.ending not in (".json", ".txt")


class _Pairs(list[tuple[str, Any]]):
    """An object with all its pairs: of two with one key, parsers disagree on which counts."""


def _json(document: Any, top: str) -> Iterator[tuple[str, str, bool]]:
    stack: list[tuple[str, Any]] = [(top, document)]
    while stack:
        place, value = stack.pop()
        if isinstance(value, _Pairs):
            named = next((str(item) for key, item in value if key == "name" and isinstance(item, str)), "")
            stack.extend((f"{place}.{_key(key, named)}" if place else key, item) for key, item in reversed(value))
        elif isinstance(value, list) and value and "chat_template" in place and all(isinstance(item, str) for item in value):
            yield place[:200], "\n".join(value), True  # a template line by line
        elif isinstance(value, list):
            stack.extend((f"{place}[{number}]", item) for number, item in reversed(list(enumerate(value))))
        elif isinstance(value, str) and ("chat_template" in place or _marked(value)):
            yield place[:200], value, "chat_template" in place


def _key(key: str, named: str) -> str:
    return f"{key}({named[:40]})" if named and key == "template" else key


def _yaml(blob: Blob, text: str, look: Look) -> Iterator[tuple[str, str, bool]]:
    """Scalars of the file's events, so that nothing is constructed and no alias is followed. Broken YAML is read as text."""
    from ruamel.yaml import YAML
    from ruamel.yaml.error import YAMLError
    from ruamel.yaml.events import ScalarEvent

    if len(text) > limits.TEMPLATE:
        if _marked(text):
            look.miss(blob, f"has the marks of templates, and more than the {limits.TEMPLATE} characters of YAML that are parsed")
        return
    last = ""
    try:
        for event in YAML(typ="safe", pure=True).parse(text):
            if isinstance(event, ScalarEvent):
                if _marked(event.value):
                    yield last[:200], event.value, "chat_template" in last
                else:
                    last = event.value
    except (YAMLError, RecursionError, ValueError):
        yield "", text, False


def _short(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= 100 else line[:99] + "…"
