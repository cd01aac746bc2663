"""``remote-code``: does the configuration name code that a loader would fetch and run?"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from modelguard._detectors.shows import REMOTE
from modelguard.artifact import ArtifactFile, sha256_file
from modelguard.detector import Capability, Detector, ScanContext, Target, option
from modelguard.errors import ArtifactError
from modelguard.findings import Confidence, Finding, Location, Rule, Severity

REMOTE_CODE = Rule(
    "MG0301",
    "RemoteCodePointer",
    "configuration that names code to run on load",
    Severity.MEDIUM,
    "A JSON file holds `auto_map` (or a `custom_pipeline` entry), which tells transformers or diffusers to import the named Python class "
    "from this repository, or from another one (`user/repo--module.Class`), when it is loaded with trust_remote_code. The weights may be "
    "clean and the code beside them not; the code can change without the weights changing.",
    "Load the model with a class that ships with the library, or review the code at a pinned commit and vendor it. A policy with "
    "`sources: {remote_code: deny}` refuses such an artifact.",
    lookalikes="Many honest models of new architectures point at code until their class is merged into transformers.",
    cwe=829,
)
ELSEWHERE = Rule(
    "MG9009",
    "CodeElsewhereNotRead",
    "code of another repository that was not read",
    Severity.MEDIUM,
    "The configuration names code that does not lie in the artifact: of another repository (`user/repo--module.Class`), or a pipeline that "
    "diffusers fetches by its name. A loader with trust_remote_code fetches and runs it. Nobody has read it here, and it can change at any "
    "time.",
    "Scan that repository as well, or copy its code into the artifact at a commit that was reviewed.",
    lookalikes="Honest models that share the code of the model they were made from.",
    cwe=829,
)
UNREAD = Rule(
    "MG9008",
    "ConfigurationNotRead",
    "a configuration file that could not be read",
    Severity.LOW,
    "A file named like a JSON configuration, or one that names code, is too large, nested too deeply, or no valid JSON, so what it tells a "
    "loader is unknown.",
    "Look at the file; a loader more tolerant than this one may still act on it.",
)


_KEYS = ("auto_map", "custom_pipelines", "custom_pipeline")
_REPOSITORY = re.compile(r"([\w.-]*[\w.]/[\w.-]*?[\w.])--")
"""The repository in ``user/repo--module.Class``."""
_HINT = re.compile(rb"auto_map|custom_pipeline|\\u00[2-7]|^[\xff\xfe\x00]|^[^\x00]\x00")
"""What stands in every JSON file with one of the keys: the key, an escape that may be part of one, or the beginning of UTF-16 or UTF-32."""


@dataclass(frozen=True)
class RemoteCode(Detector):
    """Looks through the artifact's JSON files for keys that make loaders import code. The score is the number of files that have one."""

    id = "remote-code"
    requires = frozenset({Capability.FILES})
    rules = (REMOTE_CODE, ELSEWHERE, UNREAD)
    shows = REMOTE

    max_bytes: int = option(64 << 20, "the largest JSON file that is parsed, of those called *config*.json and those that name code", ge=1)

    def detect(self, target: Target, context: ScanContext) -> Iterator[Finding]:
        read = found = 0
        for done, file in enumerate(target.artifact.files):
            context.check_deadline()
            context.progress(done, len(target.artifact.files), file.path)
            try:
                if not _may_name_code(file):
                    continue
                pointers = _numbered(_pointers(self._parse(file), ""))
            except (ArtifactError, ValueError, RecursionError) as error:
                reason = "nested too deeply" if isinstance(error, RecursionError) else str(error).splitlines()[0]
                yield Finding(
                    "MG9008", f"{file.path}: {reason}; what it tells a loader is unknown", Confidence.HIGH, location=Location(file.path)
                )
                continue
            read += 1
            if pointers:
                found += 1
                named = ", ".join(sorted(set(map(str, pointers.values()))))[:200]
                message = f"{file.path} names code to run on load: {named}"
                code = _digest(pointers, target)
                yield Finding("MG0301", message, Confidence.HIGH, location=Location(file.path), evidence={"auto_map": pointers}, key=code)
            if others := _elsewhere(pointers, target):
                yield Finding(
                    ELSEWHERE.id,
                    f"{file.path} names code that lies elsewhere and was not read: {', '.join(others)[:200]}",
                    Confidence.HIGH,
                    location=Location(file.path),
                    evidence={"elsewhere": others},
                    key=json.dumps(others),
                )
        context.summary(score=float(found), configurations_read=read)

    def _parse(self, file: ArtifactFile) -> Any:
        if file.size > self.max_bytes:
            raise ValueError(f"has {file.size} bytes, more than the {self.max_bytes} that are parsed")
        with file.open() as handle:
            return json.loads(handle.read(self.max_bytes + 1), object_pairs_hook=_Pairs)


class _Pairs(list[tuple[str, Any]]):
    """A mapping with all its pairs: which of two equal keys counts depends on who reads it."""


def _may_name_code(file: ArtifactFile) -> bool:
    """Whether a file is a configuration by its name, or JSON, of any name and size, in which one of the keys may stand."""
    name = file.path.rsplit("/", 1)[-1].lower()
    if name.endswith(".json") and ("config" in name or ("index" in name and "safetensors" not in name)):
        return True
    try:
        head = file.head(64).lstrip(b"\xef\xbb\xbf\xff\xfe\x00 \t\r\n")[:1]
    except ArtifactError:
        return False  # format-integrity says so
    return head in (b"{", b"[", b"") and _HINT.search(file.map()) is not None


def _numbered(found: Iterator[tuple[str, str]]) -> dict[str, str]:
    """Each pointer under its place; of several in one place, the later ones with their number."""
    pointers: dict[str, str] = {}
    for place, named in found:
        number, key = 1, place
        while key in pointers:
            number += 1
            key = f"{place}#{number}"
        pointers[key] = named
    return pointers


def _elsewhere(pointers: Mapping[str, str], target: Target) -> list[str]:
    """What ``pointers`` take code from that is not in the artifact: repositories, and pipelines by name. The artifact's own repository, as
    the user named it, is none."""
    own = target.artifact.identity.removeprefix("hf:")
    found = {repo for named in pointers.values() for repo in _REPOSITORY.findall(named)} - {own}
    there = {file.path for file in target.artifact.files}
    for place, named in pointers.items():
        pipeline = place.partition("#")[0].rpartition(".")[2] == "custom_pipeline" and not named.startswith(("{", "["))
        if pipeline and "--" not in named and not {named, f"{named}.py"} & there:
            found.add(named)
    return sorted(found)


def _digest(pointers: Mapping[str, str], target: Target) -> str:
    """What a waiver of the finding is for: what the configuration points at, and all Python code of the artifact, which that may import."""
    code = [(file.path, file.sha256 or sha256_file(file).sha256) for file in target.artifact.files if file.path.lower().endswith(".py")]
    return hashlib.sha256(json.dumps([sorted(pointers.items()), code]).encode()).hexdigest()


def _pointers(value: Any, place: str) -> Iterator[tuple[str, str]]:
    """(place, class named) of every code pointer, however deep it lies."""
    if isinstance(value, _Pairs):
        for key, item in value:
            here = f"{place}.{key}" if place else key
            if key in _KEYS and item:
                yield here, json.dumps(_plain(item), sort_keys=True) if not isinstance(item, str) else item
            else:
                yield from _pointers(item, here)
    elif isinstance(value, list):
        for number, item in enumerate(value):
            yield from _pointers(item, f"{place}[{number}]")


def _plain(value: Any) -> Any:
    if isinstance(value, _Pairs):
        return {key: _plain(item) for key, item in value}
    return [_plain(item) for item in value] if isinstance(value, list) else value
