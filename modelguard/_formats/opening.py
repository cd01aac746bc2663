"""Opening an artifact: every file is looked at, none can keep the others from being opened."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from modelguard.artifact import Artifact, ArtifactFile
from modelguard.checkpoint import Checkpoint, Format, FormatProblem
from modelguard.errors import ArtifactError, FormatError

HEAD = 4096


@dataclass(frozen=True, slots=True)
class Opened:
    """An artifact's checkpoints in order of name, what was wrong with them, and the files no format recognised."""

    checkpoints: tuple[Checkpoint, ...]
    problems: tuple[FormatProblem, ...]
    unread: tuple[ArtifactFile, ...]


def open_artifact(artifact: Artifact, formats: Iterable[Format]) -> Opened:
    """Open every file that a format recognises by its content. Headers are parsed under limits; no tensor is read."""
    checkpoints: list[Checkpoint] = []
    problems: list[FormatProblem] = []
    unread: list[ArtifactFile] = []
    known = list(formats)
    for file in artifact.files:
        try:
            with file.open() as handle:
                head = handle.read(HEAD)
            fitting = next((item for item in known if item.recognise(head, file.size)), None)
            fitting = fitting or next((item for item in known if file.path.lower().endswith(item.extensions)), None)
            if fitting is None:
                unread.append(file)
                continue
            checkpoint, found = fitting.open(file, artifact)
            checkpoints.append(checkpoint)
            problems.extend(found)
        except FormatError as error:
            problems.append(FormatProblem(error.rule, file.path, str(error), fatal=True))
        except ArtifactError as error:
            problems.append(FormatProblem("MG0114", file.path, str(error), fatal=True))
    return Opened(tuple(sorted(checkpoints, key=lambda item: (item.name, item.format))), tuple(problems), tuple(unread))
