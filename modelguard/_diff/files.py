"""The files of an artifact beside its weights, each against the file of its path in the reference.

Weights are the business of :mod:`modelguard._diff.diff`; everything else is equal, says the same, or is a change. What a file is for is
taken from its name where that makes a change graver, and from name and content where it makes it lesser.
"""

from __future__ import annotations

import hashlib
import posixpath
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import IO, Literal

from modelguard._diff.documents import LARGEST, Compared, Difference, compare
from modelguard._diff.match import checkpoint_stem
from modelguard._formats.named import WEIGHTS, by_name, extension
from modelguard._formats.sniff import classify
from modelguard.artifact import Artifact, ArtifactFile, UnfetchedFile, sha256_file
from modelguard.detector import Target
from modelguard.errors import ArtifactError
from modelguard.findings import Severity

Role = Literal["weights", "code", "template", "tokenizer", "index", "documentation", "configuration"]
What = Literal["changed", "missing", "added", "not compared"]

BLOCK = 1 << 20
_NAMES: dict[Role, re.Pattern[str]] = {
    "index": re.compile(r".*\.safetensors\.index\.json"),
    "template": re.compile(r".*(template|prompt|instruction).*|(agents|skill)\.md|.*\.(jinja|jinja2|j2)"),
    "documentation": re.compile(
        r"(readme|license|licence|copying|notice|changelog|contributing|citation|authors|code_of_conduct|use_policy)"
        r"([_-][a-z0-9_-]*)?(\.(md|txt|rst|html))?|"
        r".*\.(md|rst|bib|cff|png|jpe?g|gif|webp|svg|bmp|ico|pdf)|\.gitattributes|\.gitignore"
    ),
    "tokenizer": re.compile(r".*token.*|(vocab|merges|spiece|sentencepiece|bpe|tekken).*|.*\.(spm|tiktoken|model)"),
}
_RUN = re.compile(r"(requirements.*\.txt|setup\.cfg|pyproject\.toml|environment\.ya?ml|makefile|dockerfile.*|jenkinsfile)")
_WRITER = frozenset({"transformers_version", "_name_or_path"})
"""Keys of config.json that from_pretrained sets anew when it loads: who wrote the file, and from which path."""
_PRECISION = frozenset({"torch_dtype", "dtype"})
"""One key under its old and its new name (transformers 4.56): the dtype weights are rounded to when they are loaded."""
_FLOATS = frozenset({'"float32"', '"float16"', '"bfloat16"', None})
_RUNS = re.compile(r"(^|\.)(chat_template|auto_map|custom_pipelines?)\b")


@dataclass(frozen=True, slots=True)
class FileChange:
    """One file that is not as in the reference.

    ``why`` completes "PATH ..."; ``digest`` names the artifact's bytes (empty where there are none) and ``compared`` where they differ,
    where that is known. ``same_as`` is another file of the reference with these bytes.
    """

    path: str
    what: What
    role: Role
    severity: Severity
    why: str
    digest: str = ""
    compared: Compared | None = None
    same_as: str = ""


@dataclass(frozen=True, slots=True)
class FileDiff:
    """Every file of both artifacts: ``changes``, how many are ``equal`` or ``restated`` (other bytes that say the same), and those that
    hold ``weights``, which are compared tensor by tensor. ``alone`` says which side is a single file, whose neighbours were not named."""

    changes: tuple[FileChange, ...]
    equal: int
    restated: tuple[str, ...]
    weights: int
    alone: Literal["", "reference", "artifact"] = ""


def diff_files(reference: Target, target: Target, check: Callable[[], None], progress: Callable[[int, int, str], None]) -> FileDiff:
    """Compare the files of two artifacts path by path. ``check`` may raise to stop; ``progress`` counts files."""
    old, new = _listed(reference), _listed(target)
    old_weights, new_weights = _weights(reference), _weights(target)
    known = {file.sha256: path for path, file in old.items() if isinstance(file, ArtifactFile) and file.sha256}
    single = _is_single(reference.artifact, old_weights), _is_single(target.artifact, new_weights)
    alone: Literal["", "reference", "artifact"] = "" if single[0] == single[1] else "reference" if single[0] else "artifact"
    lost = _lost(reference, target)
    changes: list[FileChange] = []
    uncovered: list[str] = []
    restated: list[str] = []
    equal = weights = 0
    paths = sorted(old.keys() | new.keys())
    for done, path in enumerate(paths):
        check()
        progress(done, len(paths), path)
        before, after = old.get(path), new.get(path)
        if path in new_weights:
            weights += 1
        elif path not in new and path in old_weights:
            if not any(single) and path in lost:
                changes.append(_elsewhere(path))
        elif after is None:
            if alone != "artifact" and before is not None:
                changes.append(_missing(before))
        elif before is None and alone == "reference":
            if _of(after)[1] > Severity.LOW:
                uncovered.append(path)
        elif before is None:
            changes.append(_added(after, known))
        else:
            change = _changed(before, after, check)
            if change is None:
                equal += 1
            elif change.compared is not None and not change.compared.count:
                restated.append(path)
            else:
                changes.append(change)
    if uncovered:
        others = f", nor were {len(uncovered) - 1} other files" if len(uncovered) > 1 else ""
        why = f"was not compared with anything{others}: the reference is a single file"
        changes.append(FileChange(uncovered[0], "not compared", role_of(uncovered[0]), Severity.MEDIUM, why))
    return FileDiff(tuple(changes), equal, tuple(restated), weights, alone)


Listed = ArtifactFile | UnfetchedFile


def _listed(target: Target) -> dict[str, Listed]:
    found: dict[str, Listed] = {file.path: file for file in target.artifact.unfetched}
    return found | {file.path: file for file in target.artifact.files}


def _weights(target: Target) -> frozenset[str]:
    return frozenset(path for checkpoint in target.checkpoints for path in checkpoint.files)


def _lost(reference: Target, target: Target) -> frozenset[str]:
    """The first file of every checkpoint of the reference whose name the artifact has no checkpoint of, in any format."""
    kept = {checkpoint_stem(item.name) for item in target.checkpoints}
    return frozenset(item.files[0] for item in reference.checkpoints if checkpoint_stem(item.name) not in kept)


def _elsewhere(path: str) -> FileChange:
    why = "is weights in the reference, and the artifact has none of that name: what looks for them there does not find them"
    return FileChange(path, "missing", "weights", _SEVERITY["weights"], why)


def _is_single(artifact: Artifact, weights: frozenset[str]) -> bool:
    """Whether the user named one file: it was brought with the shards, the external data or the index that belong to it, and no others."""
    paths = {file.path for file in artifact.files}
    named = posixpath.basename(artifact.uri) in paths and not artifact.unfetched
    return named and all(path in weights or role_of(path) == "index" for path in paths)


def role_of(path: str) -> Role:
    """What a file is for, going by its name."""
    name = posixpath.basename(path).lower()
    if by_name(name).matter == "code" or _RUN.fullmatch(name):
        return "code"
    return next((role for role, pattern in _NAMES.items() if pattern.fullmatch(name)), "configuration")


_SEVERITY: dict[Role, Severity] = {
    "code": Severity.HIGH, "template": Severity.HIGH, "tokenizer": Severity.MEDIUM, "configuration": Severity.MEDIUM,
    "weights": Severity.LOW, "index": Severity.LOW, "documentation": Severity.LOW,
}  # fmt: skip


def _of(file: Listed) -> tuple[Role, Severity]:
    """What a file of the artifact is for and how grave a change of it is: nothing that was not read is documentation."""
    role = role_of(file.path)
    if isinstance(file, UnfetchedFile):
        return ("configuration" if role == "documentation" else role), max(_SEVERITY[role], Severity.MEDIUM)
    try:
        matter = classify(file).matter
    except ArtifactError:
        matter = "unknown"
    if matter == "code" and role != "code":
        return "code", Severity.HIGH
    if role in ("documentation", "index") and matter != "inert":
        return "configuration", Severity.MEDIUM
    return role, _SEVERITY[role]


def _missing(before: Listed) -> FileChange:
    role = role_of(before.path)
    if extension(before.path) in WEIGHTS and role == "configuration":
        return FileChange(before.path, "missing", role, Severity.LOW, "is weights in a format of its own, and only in the reference")
    return FileChange(before.path, "missing", role, _SEVERITY[role], "is in the reference and not in the artifact")


def _added(after: Listed, known: dict[str, str]) -> FileChange:
    role, severity = _of(after)
    same_as = known.get(after.sha256 or "", "") if isinstance(after, ArtifactFile) else ""
    why = f"is not in the reference, which has the same bytes as {same_as}" if same_as else "is not in the reference"
    return FileChange(after.path, "added", role, severity, why, _digest(after), same_as=same_as)


def _changed(before: Listed, after: Listed, check: Callable[[], None]) -> FileChange | None:
    path = after.path
    if isinstance(before, UnfetchedFile) or isinstance(after, UnfetchedFile):
        return _by_digest(before, after)
    if before.sha256 is not None and before.sha256 == after.sha256:
        return None
    if None in (before.sha256, after.sha256) and extension(path) in (".safetensors", ".onnx"):
        # Of a pair that is compared by ranges such a file is there in part, and what is not there reads as zeros.
        return _not_compared(after, "could not be opened as weights")
    try:
        if before.size == after.size and _same_bytes(before, after, check):
            return None
        role, severity = _of(after)
        if max(before.size, after.size) > LARGEST:
            why = f"differs from the reference's, and is too large ({after.size} bytes) to say where"
            return FileChange(path, "changed", role, severity, why, _digest(after))
        old, new = _read(before), _read(after)
    except ArtifactError as error:
        return _not_compared(after, str(error))
    found = compare(path, old, new, partial(_weigh, path, severity), check)
    if found is None:
        return FileChange(path, "changed", role, severity, f"differs from the reference's ({len(old)} to {len(new)} bytes)", _digest(after))
    return FileChange(path, "changed", role, found.worst, _sentence(found), _digest(after), found)


def _sentence(found: Compared) -> str:
    places = ", ".join(f"{item.place} ({item.before or 'absent'} -> {item.after or 'absent'})" for item in found.first[:2])
    unit = {"keys": "value", "lines": "line"}[found.how]
    rest = " ..." if found.count > 2 else ""
    return f"differs from the reference's in {found.count} {unit}{'' if found.count == 1 else 's'}: {places}{rest}"


def _weigh(path: str, severity: Severity, difference: Difference) -> Severity:
    """How grave one difference is: less where its key says nothing of what the model does, more where it is run."""
    name, place = posixpath.basename(path).lower(), difference.place
    if _RUNS.search(place):
        return max(severity, Severity.HIGH)
    parents, _, key = place.rpartition(".")
    nested = all(part.endswith("_config") and part != "quantization_config" for part in parents.split(".")) if parents else True
    if name == "generation_config.json" and place == "transformers_version":
        return Severity.LOW
    if name != "config.json" or not nested:
        return severity
    harmless = key in _WRITER or (key in _PRECISION and {difference.before, difference.after} <= _FLOATS)
    return Severity.LOW if harmless else severity


def _by_digest(before: Listed, after: Listed) -> FileChange | None:
    """Two files of which one at least is not here, by the digests their hosts list."""
    sides = [_digests(file) for file in (before, after)]
    common = sides[0].keys() & sides[1].keys()
    if before.size == after.size and any(sides[0][kind] == sides[1][kind] for kind in common):
        return None
    if before.size == after.size and not common:
        return _not_compared(after, "was not fetched, and no digest is listed that could be compared")
    role, severity = _of(after)
    if isinstance(before, UnfetchedFile):
        severity = max(severity, Severity.MEDIUM)
    return FileChange(
        after.path, "changed", role, severity, "differs from the reference's and was not read, so it is not known where", _digest(after)
    )


def _digests(file: Listed) -> dict[str, str]:
    """What is known of a file's bytes, by kind of digest: ``sha256``, and ``git`` for git's sha1 of the blob."""
    if isinstance(file, UnfetchedFile):
        kind, _, value = file.digest.partition(":")
        return {kind: value} if value else {}
    found = {} if file.sha256 is None else {"sha256": file.sha256}
    if file.size > LARGEST:
        return found
    try:
        content = _read(file)
    except ArtifactError:
        return found
    return {
        "sha256": hashlib.sha256(content).hexdigest(),
        "git": hashlib.sha1(b"blob %d\0" % len(content) + content, usedforsecurity=False).hexdigest(),
    }


def _not_compared(file: Listed, why: str) -> FileChange:
    return FileChange(
        file.path, "not compared", role_of(file.path), Severity.MEDIUM, f"was not compared with the reference's: {why}", _digest(file)
    )


def _digest(file: Listed) -> str:
    """What a waiver of the finding holds for: these bytes."""
    if isinstance(file, UnfetchedFile):
        return file.digest
    try:
        return file.sha256 or sha256_file(file).sha256 or ""
    except ArtifactError:
        return ""


def _read(file: ArtifactFile) -> bytes:
    with file.open() as handle:
        return handle.read(LARGEST + 1)


def _same_bytes(before: ArtifactFile, after: ArtifactFile, check: Callable[[], None]) -> bool:
    with before.open() as left, after.open() as right:
        for one, other in zip(_blocks(left), _blocks(right), strict=False):
            check()
            if one != other:
                return False
    return True


def _blocks(handle: IO[bytes]) -> Iterator[bytes]:
    while True:
        block = handle.read(BLOCK)
        yield block
        if not block:
            return
