"""Where a finding is for a tool that knows a repository's files: a path in it, whenever there is one."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import PurePosixPath

from modelguard.report import CHECKPOINT, Report


@dataclass(frozen=True)
class Places:
    """A local target named by a relative path is taken to lie in the repository, because that is the only path a code-scanning view can
    resolve; any other target is its own root.

    ``folder`` are the parts of the path that files are relative to; ``fallback`` is the file that stands for the artifact.
    """

    in_repository: bool
    folder: tuple[str, ...]
    fallback: str

    @classmethod
    def of(cls, report: Report) -> Places:
        target = report.target
        files = [file.path for file in target.files]
        named = PurePosixPath(target.uri)
        in_repository = "://" not in target.uri and not named.is_absolute() and ".." not in named.parts
        single = len(files) == 1 and named.name == files[0]
        folder = (named.parent if single else named).parts if in_repository else ()
        # The first checkpoint file stands for the artifact; when nothing could be fetched, its name does.
        checkpoints = [file.path for file in target.files if file.what == CHECKPOINT]
        name = target.uri.partition("://")[2] if "://" in target.uri else named.name
        return cls(in_repository, folder, next(iter(checkpoints or files), "" if in_repository else name))

    def parts(self, path: str | None) -> list[str]:
        """The parts of the path of a file of the artifact, or of the artifact for None; they never lead up."""
        path = self.fallback if path is None else path
        return [part for part in (*self.folder, *path.split("/")) if part not in ("", ".", "..")] or ["artifact"]
