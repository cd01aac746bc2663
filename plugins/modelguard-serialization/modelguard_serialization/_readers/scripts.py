"""Scripts of shells and build tools, requirements, and code in languages that are not looked into."""

from __future__ import annotations

import re

from modelguard import Severity
from modelguard_serialization import limits
from modelguard_serialization._code import installs, rules, shell
from modelguard_serialization._file_names import COMMANDS, LANGUAGES, PACKAGES, SHELL, SHELL_NAMES
from modelguard_serialization.blob import Blob
from modelguard_serialization.reader import Look, NotReadError, Reader

_SHEBANG = re.compile(rb"#!\s*\S*/(?:env\s+(?:-\S+\s+)*)?(?:ba|z|da|k|a|c|tc|fi)?sh\b")
_OTHER_SHEBANG = re.compile(rb"#!\s*/\S+")
_HOSTILE = re.compile(
    r"\beval\s*\(\s*(?:atob|base64_decode|gzinflate|str_rot13|unescape|Buffer\.from)\s*\(|\b(?:system|exec|shell_exec|passthru|assert"
    r"|popen)\s*\(\s*\$_"
    r"(?:GET|POST|REQUEST|COOKIE|SERVER)|\brequire\s*\(\s*['\"](?:node:)?child_process['\"]\s*\)|\bRuntime\.getRuntime\(\)\.exec\s*\("
    r"|\bos\.execute\s*\("
    r"|WScript\.Shell|ActiveXObject|CreateObject\s*\(|\bProcessBuilder\s*\("
)


class ScriptReader(Reader):
    """Scripts for shells, and files of build tools and services that hold commands: looked through line by line."""

    what = "a script"
    rules = (rules.CODE, rules.INSTALL)

    def recognise(self, blob: Blob) -> bool:
        named = SHELL_NAMES.fullmatch(blob.base) or COMMANDS.search(blob.name.lower())
        return blob.ending in SHELL or bool(named) or bool(_SHEBANG.match(blob.head(256)))

    def read(self, blob: Blob, look: Look) -> None:
        text = _text(blob, "a script")
        look.find("MG0350", blob, "is a script of commands", severity=Severity.LOW, key="script")
        _commands(blob, text, look)


def _commands(blob: Blob, text: str, look: Look) -> None:
    for what, severity in shell.tricks(text):
        rule = "MG0353" if what.startswith("runs what it downloads") else "MG0350"
        look.find(rule, blob, what, severity=severity, key=what)
    for fetch in installs.addresses(text):
        look.find("MG0353", blob, f"{fetch.what}, line {fetch.line}", severity=fetch.severity, key=fetch.what[:200])


class RequirementsReader(Reader):
    """Lists of packages and what describes a package: where they are fetched from."""

    what = "a list of packages"
    rules = (rules.INSTALL,)

    def recognise(self, blob: Blob) -> bool:
        return PACKAGES.fullmatch(blob.base) is not None or (blob.ending == ".txt" and "requirements/" in blob.name.lower())

    def read(self, blob: Blob, look: Look) -> None:
        text = _text(blob, "a list of packages")
        if blob.base == "package.json":
            try:
                found = list(installs.package_json(text))
            except (ValueError, RecursionError) as error:
                raise NotReadError("is no JSON that can be parsed") from error
        else:
            if blob.base in ("pyproject.toml", "setup.cfg"):
                text = _without_links(text)
            found = list(installs.requirements(text))
        for fetch in found:
            look.find("MG0353", blob, f"{fetch.what}, line {fetch.line}", severity=fetch.severity, key=fetch.what[:200])


def _without_links(text: str) -> str:
    """The description of a package, only those lines that name something to install."""
    kept, sources = [], False
    for line in text.splitlines():
        if line.lstrip().startswith("[") and "=" not in line:
            sources = bool(re.search(r"source|index|depend", line, re.I))
        named = re.search(r"@\s*(?:git\+|https?:|file:)|\bgit\s*=|index.url|find.links|dependency_links|\bindex\s*=", line, re.I)
        kept.append(line if named or (sources and re.search(r"\burl\s*=|(?:git\+|https?)://", line)) else "")
    return "\n".join(kept)


class OtherCodeReader(Reader):
    """Code in languages that are not looked into: it is said to be there, and counts as not looked at."""

    what = "source code in a language that is not looked into"
    rules = (rules.CODE, rules.INSTALL)

    def recognise(self, blob: Blob) -> bool:
        head = blob.head(256)
        if b"\0" in head:
            return False
        other = blob.ending in ("", ".cgi", ".run", ".bin") and _OTHER_SHEBANG.match(head) and not _SHEBANG.match(head)
        other = other and b"python" not in head.split(b"\n", 1)[0]
        return blob.ending in LANGUAGES or bool(other) or head.lstrip()[:5].lower() == b"<?php"

    def read(self, blob: Blob, look: Look) -> None:
        language = LANGUAGES.get(blob.ending, "PHP" if b"<?php" in blob.head(256).lower() else "a language of its own interpreter")
        windows = language in ("a script of Windows", "PHP")
        look.find(
            "MG0350",
            blob,
            f"is code in {language}, which is not looked into",
            severity=Severity.MEDIUM if windows else Severity.LOW,
            key="language",
        )
        if len(blob.data) <= limits.CODE:
            text = str(blob.data, "utf-8", "replace")
            if hit := _HOSTILE.search(text):
                bad = "eval" in hit[0] or "$_" in hit[0]
                severity = Severity.HIGH if bad else Severity.LOW
                look.find(
                    "MG0350",
                    blob,
                    f"runs commands or text it decodes ({' '.join(hit[0].split())[:60]})",
                    severity=severity,
                    key=hit[0][:60],
                )
            for what, severity in shell.tricks(text):
                if severity >= Severity.HIGH:  # what a comment says of an installer is nothing
                    look.find("MG0350", blob, what, severity=severity, key=what)
        look.miss(blob, f"is code in {language}, which is not looked into")


def _text(blob: Blob, what: str) -> str:
    if len(blob.data) > limits.CODE:
        raise NotReadError(f"is {what} of {len(blob.data)} bytes, more than the {limits.CODE} that are read")
    data = bytes(blob.data)
    for encoding in ("utf-8-sig", "utf-16") if data[:2] in (b"\xff\xfe", b"\xfe\xff") else ("utf-8-sig",):
        try:
            return data.decode(encoding)
        except UnicodeDecodeError:
            continue
    if b"\0" in data:
        raise NotReadError(f"is named like {what} and is no text")
    return data.decode("latin-1")
