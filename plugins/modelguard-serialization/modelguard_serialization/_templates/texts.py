"""What a template says of its own accord: text that reaches the model beside what people wrote."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

from jinja2 import nodes

from modelguard import Severity
from modelguard_serialization._templates.parse import walk


@dataclass(frozen=True, slots=True)
class Injection:
    """``text`` is the stretch meant; ``what`` completes "the template ..."."""

    what: str
    text: str
    severity: Severity
    line: int


_PATTERNS: tuple[tuple[str, str, Severity], ...] = (
    (
        "tells the model to disregard what it was told",
        r"\b(?:ignore|disregard|forget|override)\b[^.\n]{0,30}\b(?:previous|prior|above|earlier|all|any|system|other|user'?s?)\b"
        r"[^.\n]{0,30}\b(?:instructions?|messages?|prompts?|rules|guidelines|requests?)\b",
        Severity.HIGH,
    ),
    (
        "tells the model to keep something from the user",
        r"\b(?:do not|don't|never|without)\b[^.\n]{0,25}\b(?:tell|telling|reveal|revealing|inform|informing|disclose|alert|warn)\w*\b"
        r"[^.\n]{0,25}\b(?:the )?(?:user|anyone|human|them)\b(?! about function calls)",
        Severity.MEDIUM,
    ),
    (
        "asks for secrets",
        r"\b(?:send|include|append|output|exfiltrate|leak|collect|print|reveal)\b[^.\n]{0,60}"
        r"\b(?:passwords?|api[ _-]?keys?|credentials?|access tokens?|credit card|private keys?|environment variables|ssh keys?)\b",
        Severity.HIGH,
    ),
    (
        "makes answers carry something",
        r"\b(?:in|to|at|with|of) (?:every|each|all|any|your) (?:response|answer|repl|output|message)\w*[^.\n]{0,60}"
        r"\b(?:link|url|script|website)\b"
        r"|\b(?:always|must|covertly|secretly|subtly)\b[^.\n]{0,40}\b(?:insert|inject|recommend|promote|vulnerab|backdoor|malicious)\w*",
        Severity.HIGH,
    ),
    ("holds script or markup that runs", r"<\s*(?:script|iframe|object|embed)\b|\bjavascript:|\bon(?:error|load|click)\s*=", Severity.HIGH),
    (
        "holds commands",
        r"\b(?:curl|wget)\s+(?:-\S+\s+)*https?://|\brm\s+-rf\s+[/~]|\bpowershell(?:\.exe)?\s+-|\bbase64\s+(?:-d|--decode)\b|\bnc\s+-\w*e\b"
        r"|\bos\.system\s*\(|\b__import__\s*\(|\bsubprocess\.(?:run|Popen|call)",
        Severity.HIGH,
    ),
    ("holds a picture from elsewhere, which leaks what is in its address", r"!\[[^\]]*\]\(\s*https?://", Severity.HIGH),
)
_SEARCH = tuple((what, re.compile(pattern, re.I), severity) for what, pattern, severity in _PATTERNS)
_URL = re.compile(r"\b(?:https?|ftp)://[^\s'\"<>)\]}]{3,200}", re.I)
_PLAIN_URL = re.compile(r"https?://(?:www\.)?(?:example\.(?:com|org|net)|json-schema\.org|schema\.org|w3\.org|localhost)(?:[:/]|$)", re.I)
_HIDDEN = re.compile("[\u202a-\u202e\u2066-\u2069\U000e0000-\U000e007f]|[\u200b-\u200f\u2060-\u2064]{2,}")
_BLOB = re.compile(r"[A-Za-z0-9+/]{200,}={0,2}|(?:[0-9a-fA-F]{2}){120,}|(?:\\x[0-9a-fA-F]{2}){40,}")
LONG = 400
"""Characters of one text from which on a template is said to bring a prompt of its own."""


def injections(tree: nodes.Template) -> Iterator[Injection]:
    """The texts in the template that no form of a conversation needs."""
    told: set[str] = set()
    longest: tuple[str, int] = ("", 0)
    for text, line in _texts(tree):
        for what, pattern, severity in _SEARCH:
            if (hit := pattern.search(text)) and what not in told:
                told.add(what)
                yield Injection(what, hit[0], severity, line)
        for hit in _URL.finditer(text):
            if not _PLAIN_URL.match(hit[0]) and hit[0] not in told:
                told.add(hit[0])
                yield Injection("holds the address", hit[0], Severity.MEDIUM, line)
        if (hit := _HIDDEN.search(text)) and "hidden" not in told:
            told.add("hidden")
            yield Injection("holds signs that nobody sees", hit[0].encode("unicode_escape").decode(), Severity.HIGH, line)
        if (hit := _BLOB.search(text)) and "blob" not in told:
            told.add("blob")
            yield Injection("holds encoded data", hit[0][:60], Severity.MEDIUM, line)
        if len(text) > len(longest[0]):
            longest = (text, line)
    if len(longest[0]) > LONG:
        yield Injection("brings a prompt of its own", " ".join(longest[0].split()), Severity.INFO, longest[1])


def _texts(tree: nodes.Template) -> Iterator[tuple[str, int]]:
    """Literal text with its line; stretches that only an expression parts are read alone and together."""
    for node in walk(tree):
        if isinstance(node, nodes.TemplateData):
            yield node.data, node.lineno or 0
        elif isinstance(node, nodes.Const) and isinstance(node.value, str) and len(node.value) > 3:
            yield node.value, node.lineno or 0
        elif isinstance(node, nodes.Concat | nodes.Add):
            parts = [part.value for part in walk(node) if isinstance(part, nodes.Const) and isinstance(part.value, str)]
            if len(parts) > 1:
                yield "".join(reversed(parts)), node.lineno or 0
        elif isinstance(node, nodes.Output) and len(node.nodes) > 1:
            yield "".join(piece.data for piece in node.nodes if isinstance(piece, nodes.TemplateData)), node.lineno or 0
