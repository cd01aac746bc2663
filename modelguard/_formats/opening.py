"""Opening an artifact: every file is looked at, and none can keep the others from being opened."""

from __future__ import annotations

import posixpath
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from modelguard import _limits
from modelguard._formats.adapters import adapter_problems
from modelguard._formats.named import by_name, extension
from modelguard._formats.names import shown
from modelguard._formats.readings import other_readings
from modelguard._formats.shard_index import INDEX, Headers, check_index
from modelguard._formats.shards import Indexed, join_shards
from modelguard._formats.sniff import HEAD, LFS_POINTER, PAGE, magic
from modelguard._formats.texts import is_text
from modelguard.artifact import Artifact, ArtifactFile
from modelguard.checkpoint import Checkpoint, Format, FormatProblem
from modelguard.errors import ArtifactError, FormatError

MAX_SLACK = _limits.SLACK
LEAST_TEXT = 8
"""Bytes from which text under a checkpoint's name is text, and no header that was cut off."""


@dataclass(frozen=True, slots=True)
class Opened:
    """An artifact's checkpoints in order of name, what was wrong with its files, and the files no format recognised."""

    checkpoints: tuple[Checkpoint, ...]
    problems: tuple[FormatProblem, ...]
    unread: tuple[ArtifactFile, ...]


def open_artifact(artifact: Artifact, formats: Iterable[Format]) -> Opened:
    """Open every file that a format recognises by its content. Headers are parsed under limits; no tensor is read.

    Never raises for what is wrong with a file: that is a problem, fatal when the file's tensors are out of reach.
    """
    opener = _Opener(artifact, tuple(formats))
    for file in artifact.files:
        opener.guarded(file, opener.open)
    opener.headers = Headers(opener.holders, artifact)
    for file in artifact.files:
        if INDEX.fullmatch(posixpath.basename(file.path)) and file.path not in opener.holders and file.path not in opener.broken:
            opener.guarded(file, opener.index)
    # The shortest name first: what a loader reads that is not asked for a variant.
    indexed = [opener.indexes[path] for path in sorted(opener.indexes, key=lambda path: (len(path), path))]
    checkpoints, problems = join_shards(opener.holders, artifact, indexed)
    opener.problems += problems
    opener.problems += adapter_problems(artifact, checkpoints)
    used = {path for checkpoint in checkpoints for path in checkpoint.files} | opener.indexes.keys()
    claims: dict[str, list[tuple[int, int]]] = {path: [] for path in used - opener.holders.keys() - opener.indexes.keys()}
    for checkpoint in checkpoints if claims else ():
        for info in checkpoint.tensors.values():
            if info.file in claims and info.byte_offset is not None:
                claims[info.file].append((info.byte_offset, info.byte_offset + info.byte_length))
    for file in artifact.files:
        if file.path in claims:
            opener.guarded(file, lambda item: opener.problems.extend(_slack(item, claims[item.path])))
    return Opened(
        checkpoints=tuple(sorted(checkpoints, key=lambda item: (item.name, item.format, item.files))),
        problems=tuple(sorted(opener.problems, key=lambda item: (item.file, item.rule, item.tensor or "", item.message))),
        unread=tuple(file for file in artifact.files if file.path not in used),
    )


class _Opener:
    def __init__(self, artifact: Artifact, formats: tuple[Format, ...]) -> None:
        self._artifact = artifact
        self._formats = formats
        self.holders: dict[str, Checkpoint] = {}
        """The checkpoint of each file that was opened."""
        self.headers = Headers({}, artifact)
        self.indexes: dict[str, Indexed] = {}
        """What each index names, nothing where it is no index."""
        self.broken: set[str] = set()
        self.problems: list[FormatProblem] = []

    def guarded(self, file: ArtifactFile, action: Callable[[ArtifactFile], None]) -> None:
        """Run ``action``; whatever it raises over the file becomes a fatal problem."""
        try:
            action(file)
        except FormatError as error:
            self._fail(error.rule, file, str(error))
        except ArtifactError as error:
            self._fail("MG0114", file, str(error))
        except MemoryError:
            self._fail("MG0104", file, f"{file.path}: reading its header needs more memory than the limit; raise --memory")

    def open(self, file: ArtifactFile) -> None:
        head = file.head(HEAD)
        fitting = [item for item in self._formats if item.recognise(head, file.size) and item.claims(file)]
        expected = [item for item in self._formats if file.path.lower().endswith(item.extensions)]
        if head.startswith(LFS_POINTER) and (expected or by_name(file.path).matter != "inert"):
            raise FormatError(file.path, "is a Git LFS pointer, and the file it stands for is not here", "run git lfs pull", rule="MG0113")
        promised = [item for item in expected if item.exclusive]
        # What can carry code under the name of what cannot is not opened: whoever goes by the name was deceived.
        disguised = bool(fitting) and all(item.also and item not in promised for item in fitting)
        if promised and (disguised or not fitting):
            kind, remedy = magic(head), "it may be what a server answered instead of the file; download it again"
            if kind is not None:
                cause = f"is named like {promised[0].id} and is {kind.what}"
                raise FormatError(
                    file.path, cause, remedy if kind is PAGE else "find out who renamed it, and do not load it", rule="MG0101"
                )
            if file.size >= LEAST_TEXT and is_text(file.map()):
                cause = f"is named like {promised[0].id} and is text ({shown(_first_line(file), 60)})"
                raise FormatError(file.path, cause, remedy, rule="MG0101")
            fitting = promised  # its reader says best what is wrong with it
        if not fitting:
            return
        if len(fitting) > 1:
            names = " and ".join(item.id for item in fitting)
            self._note("MG0111", file, f"{file.path}: can be read as {names}, so loaders disagree on what it holds; do not load it")
        # Every reading is tried; the first that holds is the one detectors see.
        errors = []
        for item in fitting:
            try:
                checkpoint, found = item.open(file, self._artifact)
            except FormatError as error:
                errors.append(error)
                continue
            self.holders[file.path] = checkpoint
            self.problems += found
            break
        else:
            raise errors[0]
        self._check_name(file, item, expected)
        self._check_other_readings(file, item)

    def index(self, file: ArtifactFile) -> None:
        self.indexes[file.path] = Indexed("", ())
        checked = check_index(file, self.headers)
        self.indexes[file.path] = checked.files
        self.problems += checked.problems

    def _check_name(self, file: ArtifactFile, actual: Format, expected: list[Format]) -> None:
        ending = extension(file.path)
        if ending and actual not in expected:
            message = f"{file.path}: is {actual.id}, and its name ends in {ending}; rename it to end in {actual.extensions[0]}"
            self._note("MG0103", file, message, {"format": actual.id, "extension": ending})

    def _check_other_readings(self, file: ArtifactFile, actual: Format) -> None:
        if also := " and ".join(item for item in other_readings(file.map()) if item not in actual.also):
            message = f"{file.path}: is {actual.id} and {also} at once, so what is loaded depends on the loader; do not load it"
            self._note("MG0111", file, message, {"format": actual.id, "also": also})

    def _note(self, rule: str, file: ArtifactFile, message: str, evidence: Mapping[str, Any] | None = None) -> None:
        self.problems.append(FormatProblem(rule, file.path, message, evidence=evidence or {}))

    def _fail(self, rule: str, file: ArtifactFile, message: str) -> None:
        self.broken.add(file.path)
        self.problems.append(FormatProblem(rule, file.path, message, fatal=True))


def _first_line(file: ArtifactFile) -> str:
    return next(iter(file.head(256).decode("utf-8", "replace").strip().splitlines()), "")


def _slack(file: ArtifactFile, claims: list[tuple[int, int]]) -> Iterator[FormatProblem]:
    """Bytes of a file beside a checkpoint (ONNX external data) that no tensor claims, unless they are zero: padding."""
    view = file.map()
    gaps: list[tuple[int, int]] = []
    position = 0
    for begin, end in [*sorted(claims), (len(view), len(view))]:
        if begin > position:
            gaps.append((position, begin))
        position = max(position, end)
    total = sum(end - begin for begin, end in gaps)
    filled = [(begin, end) for begin, end in gaps if total > MAX_SLACK or _any(view[begin:end])]
    if filled:
        size = sum(end - begin for begin, end in filled)
        message = (
            f"{file.path}: {size} bytes in {len(filled)} places, first at {filled[0][0]}, belong to no tensor; ask the author what they are"
        )
        yield FormatProblem("MG0116", file.path, message, byte_offset=filled[0][0], evidence={"bytes": size, "places": len(filled)})


def _any(view: memoryview) -> bool:
    step = 1 << 20
    return any(bytes(view[at : at + step]).strip(b"\0") for at in range(0, len(view), step))
