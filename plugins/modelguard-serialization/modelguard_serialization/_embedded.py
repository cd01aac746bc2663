"""Code where texts are expected: in the metadata of weights, in attributes, in labels."""

from __future__ import annotations

import ast
import base64
import binascii
import re
import warnings

from modelguard import Severity

PICKLED = re.compile(
    rb"c([A-Za-z_][\w.]{1,80})\n([A-Za-z_][\w.]{1,80})\n[(q)\x85-\x87\x8cpRVUXK\x94]"
    rb"|\x8c[\x02-\x50]([A-Za-z_][\w.]{1,79})\x94?\x8c[\x02-\x50]([A-Za-z_][\w.]{1,79})\x94?\x93"
)
"""An opcode of pickle that imports, with the module and the name it imports: GLOBAL, or two short texts and STACK_GLOBAL."""

_BASE64 = re.compile(r"[A-Za-z0-9+/_-]{40,}={0,2}")
_HEX = re.compile(r"(?:\\x[0-9a-fA-F]{2}){16,}|[0-9a-fA-F]{80,}")
_PYTHON = re.compile(r"\b(?:import|exec|eval|__import__|lambda|compile|getattr|open)\b|__\w+__")
_RUNS = re.compile(
    r"\b(?:exec|eval|compile|__import__)\s*\(|\bos\s*\.\s*(?:system|popen|exec\w*|spawn\w*|remove|unlink)|\bsubprocess\b|\bpty\s*\.|\bsocket\s*\.|\bctypes\b|"
    r"\b(?:pickle|marshal|dill|cloudpickle)\s*\.\s*loads?|\burllib\b|\brequests\s*\.\s*(?:get|post)|\bb64decode\b|\bbuiltins\b|__(?:class|globals|subclasses|mro|bases|builtins)__|\bshutil\s*\.\s*rmtree"
)
_SHELL = re.compile(
    r"\b(?:curl|wget)\b[^\n|;&]*[|;&]+\s*(?:sudo\s+)?(?:ba|z|da)?sh\b|/dev/tcp/|\bnc\s+-[a-z]*e\b|\bpowershell(?:\.exe)?\s+-|\brm\s+-rf\s+[/~]|\bchmod\s+\+x\b|^#!\s*/|\bbash\s+-[ic]\b",
    re.MULTILINE,
)
_MARKUP = re.compile(r"<script\b|javascript:|\bon(?:error|load)\s*=", re.IGNORECASE)
_TEMPLATE = re.compile(r"\{[{%][^}]*(?:__\w+__|\|\s*attr\b|\bcycler\b|\bjoiner\b|\blipsum\b|\bself\._)")
_LONGEST = 1 << 16


def code_in(text: str) -> tuple[str, Severity] | None:
    """What code a text is or holds, completing "holds ...", and how bad that is; None for ordinary text."""
    if found := _of_bytes(text.encode("utf-8", "surrogatepass")):
        return found
    for match in (*_BASE64.finditer(text), *_HEX.finditer(text)):
        if (raw := _decoded(match[0])) is not None and (found := _of_bytes(raw) or _hidden(raw)):
            return f"encoded, {found[0]}", Severity.HIGH
    if _SHELL.search(text):
        return "a shell command that fetches or runs", Severity.HIGH
    if _TEMPLATE.search(text):
        return "a template that reaches for Python's internals", Severity.HIGH
    if _MARKUP.search(text):
        return "a script for browsers", Severity.MEDIUM
    return _python(text)


def _of_bytes(raw: bytes) -> tuple[str, Severity] | None:
    if match := PICKLED.search(raw):
        module, name = (part.decode("ascii", "replace") for part in match.groups() if part is not None)
        return f"a pickle that imports {module}.{name}", Severity.HIGH
    if re.match(rb"\x80[\x02-\x05].*\.\s*$", raw, re.DOTALL):
        return "a pickle", Severity.MEDIUM
    if re.match(rb"\x7fELF|MZ.{58}|\xcf\xfa\xed\xfe|\xca\xfe\xba\xbe", raw, re.DOTALL):
        return "a program", Severity.HIGH
    if re.match(rb"\xe3[\x00-\xff]{16}", raw, re.DOTALL) and re.search(rb"<(?:lambda|module)>|\.py", raw):
        return "Python byte code", Severity.HIGH
    return None


def _hidden(raw: bytes) -> tuple[str, Severity] | None:
    """Source behind an encoding, which nobody needs for a label."""
    try:
        text = raw.decode()
    except UnicodeDecodeError:
        return None
    return ("a script", Severity.HIGH) if _RUNS.search(text) or _SHELL.search(text) else None


def _decoded(text: str) -> bytes | None:
    try:
        if _HEX.fullmatch(text):
            return bytes.fromhex(text.replace("\\x", ""))
        return base64.b64decode(text.replace("-", "+").replace("_", "/") + "=" * (-len(text) % 4))
    except (ValueError, binascii.Error):
        return None


def _python(text: str) -> tuple[str, Severity] | None:
    if not _PYTHON.search(text):
        return None
    runs = _RUNS.search(text) is not None
    if len(text) > _LONGEST:
        return (
            ("Python that runs commands or code", Severity.HIGH)
            if runs and re.search(r"^\s*(?:import|from)\s+\w+", text, re.MULTILINE)
            else None
        )
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            nodes = list(ast.walk(ast.parse(text.strip())))
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return None
    called = any(isinstance(node, ast.Call) for node in nodes)
    if called and runs:
        return "Python that runs commands or code", Severity.HIGH
    return (
        ("Python that imports and calls", Severity.MEDIUM)
        if called and any(isinstance(node, ast.Import | ast.ImportFrom) for node in nodes)
        else None
    )
