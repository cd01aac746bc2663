"""Where rendered reports go: ``-o FORMAT=PATH``, written whole or not at all."""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Collection
from pathlib import Path

from modelguard.errors import OutputError, UsageError


def parse_output_spec(spec: str, formats: Collection[str]) -> tuple[str, Path]:
    """``sarif=r.sarif`` as format and path. Raises :class:`UsageError` for an unknown format, and a path that is empty or ``-``."""
    name, equals, path = spec.partition("=")
    known = ", ".join(sorted(formats))
    if path == "-":
        raise UsageError(f"-o {spec}", "standard output is not a file", f"write --format {name}")
    if not equals or not path:
        raise UsageError(f"-o {spec}", "is not FORMAT=PATH", f"write for example json=report.json; formats: {known}")
    if name not in formats:
        raise UsageError(f"-o {spec}", f"there is no format {name!r}", f"formats: {known}")
    return name, Path(path)


def write_atomically(path: Path, text: str) -> None:
    """Write ``text`` as UTF-8 so that ``path`` holds either what it held before or all of it.

    A temporary file in the same folder is written, flushed to disk and renamed over ``path``; something that is not a regular file
    (``/dev/stdout``, a pipe) is written to directly. Raises :class:`OutputError`; nothing half-written is left.
    """
    try:
        if path.exists() and not path.is_file():
            path.write_text(text, encoding="utf-8")
            return
        # A link is followed, so that its target is replaced and the link stays one.
        target = Path(os.path.realpath(path))
        handle, name = tempfile.mkstemp(dir=target.parent, prefix=f".{target.name[:100]}.", suffix=".tmp")
        try:
            with os.fdopen(handle, "w", encoding="utf-8", newline="\n") as file:
                file.write(text)
                file.flush()
                os.fsync(file.fileno())
            os.chmod(name, _mode(target))
            os.replace(name, target)
        except BaseException:
            with contextlib.suppress(OSError):
                os.unlink(name)
            raise
    except OSError as error:
        raise OutputError(
            str(path), f"cannot be written ({error.strerror or error})", "check the folder, its permissions and free space"
        ) from error


def _mode(target: Path) -> int:
    """The permissions the file has, or what a file made the ordinary way would get (mkstemp's are private)."""
    with contextlib.suppress(OSError):
        return target.stat().st_mode & 0o777
    umask = os.umask(0o077)
    os.umask(umask)
    return 0o666 & ~umask
