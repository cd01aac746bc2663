"""What a fleet has done so far, in one SQLite file: whoever is killed goes on where it was."""

from __future__ import annotations

import base64
import contextlib
import fcntl
import json
import os
import sqlite3
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

from modelguard.errors import ModelguardError, UsageError

_TABLES = """
CREATE TABLE IF NOT EXISTS about (name TEXT PRIMARY KEY, value TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS models (key TEXT PRIMARY KEY, row TEXT NOT NULL, report BLOB NOT NULL);
"""
_ANEW = "name another with --journal, or begin anew with --fresh"


class JournalError(ModelguardError):
    """Something could not be written down."""


class Journal:
    """A context manager, which holds the journal for this process alone.

    One that was finished, or is begun ``fresh``, is emptied; one that was not is gone on with. ``asked`` is what was asked of every model,
    as a digest. Raises :class:`UsageError` where another process has the journal, something else was asked, or it is no journal.
    """

    def __init__(self, path: Path, asked: str, *, fresh: bool) -> None:
        self.path = path
        what = f"journal {path}"
        try:
            self._lock = os.open(f"{path}.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except (OSError, ValueError) as error:
            cause = f"cannot be written ({getattr(error, 'strerror', None) or error})"
            raise UsageError(what, cause, "name another with --journal") from error
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            os.close(self._lock)
            raise UsageError(what, "another fleet is writing it", "wait for that, or name another with --journal") from None
        try:
            self._database = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
            self._open(what, asked, fresh)
        except sqlite3.Error as error:
            self.close()
            raise UsageError(what, f"cannot be used ({error})", "name another with --journal, or remove it") from error
        except BaseException:
            self.close()
            raise

    def _open(self, what: str, asked: str, fresh: bool) -> None:
        self._database.execute("PRAGMA journal_mode=WAL")
        self._database.execute("PRAGMA synchronous=FULL")
        self._database.executescript(_TABLES)
        about = dict(self._database.execute("SELECT name, value FROM about").fetchall())
        if about and not fresh and "finished" not in about and about.get("asked") != asked:
            raise UsageError(what, "was begun with another policy, other options or another modelguard, and is not finished", _ANEW)
        with self._writing():
            if fresh or "finished" in about:
                self._database.execute("DELETE FROM models")
                self._database.execute("DELETE FROM about")
            self._database.execute("INSERT OR REPLACE INTO about VALUES ('asked', ?)", (asked,))

    def __enter__(self) -> Journal:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        if hasattr(self, "_database"):
            with contextlib.suppress(sqlite3.Error):
                self._database.close()
        os.close(self._lock)

    def rows(self) -> dict[str, dict[str, Any]]:
        """The rows of the models that are done, by key."""
        return {key: json.loads(row) for key, row in self._database.execute("SELECT key, row FROM models")}

    def report(self, key: str) -> str:
        """The report of one model as :func:`~modelguard._fleet.work.perform` gave it; empty where there is none."""
        found = self._database.execute("SELECT report FROM models WHERE key = ?", (key,)).fetchone()
        return base64.b64encode(found[0]).decode() if found else ""

    def record(self, key: str, row: Mapping[str, Any], report: str) -> None:
        """Write down that a model is done: the first word counts. Raises :class:`JournalError`."""
        self._write("INSERT OR IGNORE INTO models VALUES (?, ?, ?)", (key, json.dumps(row), base64.b64decode(report)))

    def finish(self) -> None:
        """Every model is done: the next fleet begins anew. Raises :class:`JournalError`."""
        self._write("INSERT OR REPLACE INTO about VALUES ('finished', 'yes')", ())

    def _write(self, statement: str, values: tuple[str | bytes, ...]) -> None:
        try:
            with self._writing():
                self._database.execute(statement, values)
        except sqlite3.Error as error:
            remedy = "free some space; what is not written down is scanned again if this run is ended"
            raise JournalError(f"journal {self.path}", f"cannot be written ({error})", remedy) from error

    @contextlib.contextmanager
    def _writing(self) -> Iterator[None]:
        self._database.execute("BEGIN IMMEDIATE")
        try:
            yield
            self._database.execute("COMMIT")
        except BaseException:
            with contextlib.suppress(sqlite3.Error):
                self._database.execute("ROLLBACK")
            raise
