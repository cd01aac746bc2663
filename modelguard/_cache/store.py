"""A folder with one SQLite file of entries, and the key that vouches for each of them. It says nothing that it cannot vouch for.

An entry is bytes under a name, with a MAC over both. Whoever can write the file but not read the key can make an entry that is taken for
none; whoever can read the key is the user, who can change modelguard itself. SQLite in WAL mode lets many processes read and write.
"""

from __future__ import annotations

import contextlib
import hashlib
import hmac
import os
import secrets
import sqlite3
import stat
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

from modelguard.errors import ModelguardError

VARIABLE = "MODELGUARD_CACHE"
"""Environment variable: the folder, or :data:`OFF`."""
OFF = "off"
DATABASE = "outcomes.sqlite"
KEY = "key"
KEY_BYTES = 32
BUSY_SECONDS = 10.0
"""How long a process waits for others that write."""
LARGEST = 1 << 30
"""Bytes of entries past which the oldest go."""

_TABLE = """
CREATE TABLE IF NOT EXISTS entries (name TEXT PRIMARY KEY, kind TEXT NOT NULL, body BLOB NOT NULL, mac BLOB NOT NULL)
"""


class CacheError(ModelguardError):
    """The cache cannot be used; a scan goes on without it."""


@dataclass(frozen=True, slots=True)
class Stats:
    """Entries by kind, bytes of all entries, and bytes of the folder's files."""

    kinds: Mapping[str, int]
    size: int
    on_disk: int


def folder() -> Path | None:
    """Where the cache lies: ``MODELGUARD_CACHE``, or ``modelguard`` in the user's cache folder. None where it is switched off."""
    named = os.environ.get(VARIABLE, "")
    if named == OFF:
        return None
    if named:
        return Path(named).absolute()
    base = os.environ.get("XDG_CACHE_HOME", "")
    return (Path(base) if os.path.isabs(base) else Path("~/.cache").expanduser()) / "modelguard"


class Store:
    """The entries in a folder, which is made when it is not there. A context manager. Raises :class:`CacheError` for a folder, key or
    database that is not the user's alone, or cannot be read; so does every method for what goes wrong later."""

    def __init__(self, place: Path) -> None:
        self.place = place
        with self._blamed():
            _own_folder(place)
            self._key = _own_key(place)
            file = place / DATABASE
            _refuse_strangers(file)
            self._database = sqlite3.connect(file, timeout=BUSY_SECONDS, isolation_level=None)
        try:
            with self._blamed():
                if file.stat().st_mode & 0o077:
                    file.chmod(0o600)
                if self._database.execute("PRAGMA journal_mode=WAL").fetchone()[0] == "wal":
                    self._database.execute("PRAGMA synchronous=NORMAL")
                self._database.execute(_TABLE)
        except BaseException:
            self._database.close()
            raise

    def __enter__(self) -> Store:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        with contextlib.suppress(sqlite3.Error):
            self._database.close()

    def get(self, names: Iterable[str]) -> dict[str, bytes]:
        """The entries that are there, and vouched for, by name."""
        found: dict[str, bytes] = {}
        with self._blamed():
            for name in names:
                row = self._database.execute("SELECT body, mac FROM entries WHERE name = ?", (name,)).fetchone()
                if row is not None and self._vouched(name, *row):
                    found[name] = row[0]
        return found

    def put(self, entries: Mapping[str, tuple[str, bytes]]) -> None:
        """Keep (kind, body) under each name; all of them, or none."""
        rows = [(name, kind, body, self._mac(name, body)) for name, (kind, body) in entries.items()]
        with self._blamed(), self._writing():
            self._database.executemany("INSERT OR REPLACE INTO entries VALUES (?, ?, ?, ?)", rows)
            self._make_room()

    def stats(self) -> Stats:
        with self._blamed():
            kinds = dict(self._database.execute("SELECT kind, count(*) FROM entries GROUP BY kind ORDER BY kind").fetchall())
            size = self._database.execute("SELECT coalesce(sum(length(body)), 0) FROM entries").fetchone()[0]
        return Stats(kinds, size, sum(file.stat().st_size for file in files(self.place)))

    def verify(self) -> tuple[int, int]:
        """How many entries are vouched for, and how many are not; those are removed."""
        good, bad = 0, []
        with self._blamed():
            said = self._database.execute("PRAGMA integrity_check(1)").fetchone()[0]
            if said != "ok":
                raise sqlite3.DatabaseError(str(said))
            for name, body, mac in self._database.execute("SELECT name, body, mac FROM entries"):
                if self._vouched(name, body, mac):
                    good += 1
                else:
                    bad.append((name,))
            with self._writing():
                self._database.executemany("DELETE FROM entries WHERE name = ?", bad)
        return good, len(bad)

    def _vouched(self, name: object, body: object, mac: object) -> bool:
        if not (isinstance(name, str) and isinstance(body, bytes) and isinstance(mac, bytes)):
            return False
        return hmac.compare_digest(mac, self._mac(name, body))

    def _mac(self, name: str, body: bytes) -> bytes:
        return hmac.digest(self._key, hashlib.sha256(name.encode()).digest() + body, "sha256")

    def _make_room(self) -> None:
        """Past the limit the oldest entries go, a tenth of them at once."""
        size = self._database.execute("SELECT page_count * page_size FROM pragma_page_count, pragma_page_size").fetchone()[0]
        free = self._database.execute("SELECT freelist_count * page_size FROM pragma_freelist_count, pragma_page_size").fetchone()[0]
        if size - free > LARGEST:
            oldest = "SELECT rowid FROM entries ORDER BY rowid LIMIT (SELECT max(1, count(*) / 10) FROM entries)"
            self._database.execute(f"DELETE FROM entries WHERE rowid IN ({oldest})")  # noqa: S608

    @contextlib.contextmanager
    def _writing(self) -> Iterator[None]:
        self._database.execute("BEGIN IMMEDIATE")
        try:
            yield
        except BaseException:
            with contextlib.suppress(sqlite3.Error):
                self._database.execute("ROLLBACK")
            raise
        self._database.execute("COMMIT")

    @contextlib.contextmanager
    def _blamed(self) -> Iterator[None]:
        try:
            yield
        except (sqlite3.Error, OSError) as error:
            if isinstance(error, sqlite3.DatabaseError) and not isinstance(error, sqlite3.OperationalError):
                remedy = "`modelguard cache clear` begins a new one"
            else:
                remedy = f"free space, let it be written to, or name another folder in {VARIABLE}"
            cause = f"cannot be used ({getattr(error, 'strerror', None) or error})"
            raise CacheError(f"cache {self.place}", cause, remedy) from error


def files(place: Path) -> list[Path]:
    """What the cache consists of, as far as it is there."""
    names = (KEY, DATABASE, f"{DATABASE}-wal", f"{DATABASE}-shm")
    return [place / name for name in names if (place / name).exists()]


def clear(place: Path) -> int:
    """Remove everything, the key too; the bytes that were freed. Raises :class:`CacheError`."""
    freed = 0
    try:
        for file in files(place):
            freed += file.stat().st_size
            file.unlink()
    except OSError as error:
        raise CacheError(f"cache {place}", f"cannot be removed ({error.strerror})", "remove the folder yourself") from error
    return freed


def _own_folder(place: Path) -> None:
    place.mkdir(mode=0o700, parents=True, exist_ok=True)
    _only_mine(place, os.stat(place))


def _own_key(place: Path) -> bytes:
    """The key, made on first use: a process that finds none writes one of its own, and the first to link it in wins."""
    file = place / KEY
    if not file.exists():
        made = place / f".{KEY}-{secrets.token_hex(8)}"
        fd = os.open(made, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        try:
            os.write(fd, secrets.token_bytes(KEY_BYTES))
            os.fsync(fd)
            with contextlib.suppress(FileExistsError):
                os.link(made, file)
        finally:
            os.close(fd)
            made.unlink()
    fd = os.open(file, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        info = os.fstat(fd)
        _only_mine(file, info)
        if not stat.S_ISREG(info.st_mode) or info.st_size != KEY_BYTES:
            raise CacheError(f"cache {place}", "its key is damaged, so nothing in it counts", "`modelguard cache clear` begins a new one")
        return os.read(fd, KEY_BYTES)
    finally:
        os.close(fd)


def _only_mine(place: Path, info: os.stat_result) -> None:
    """Raises :class:`CacheError` for what belongs to another user, a folder that others write to, or a key that others read."""
    if info.st_uid != os.geteuid():
        raise CacheError(f"cache {place}", "belongs to another user", f"name a folder of your own in {VARIABLE}")
    if info.st_mode & (0o022 if stat.S_ISDIR(info.st_mode) else 0o077):
        allowed = "write to" if stat.S_ISDIR(info.st_mode) else "read"
        raise CacheError(f"cache {place}", f"is open for other users to {allowed}", f"chmod go-rwx {place}, or name another in {VARIABLE}")


def _refuse_strangers(file: Path) -> None:
    """A database that is a link, or another user's, is not even opened."""
    try:
        info = os.lstat(file)
    except FileNotFoundError:
        return
    if not stat.S_ISREG(info.st_mode) or info.st_uid != os.geteuid():
        raise CacheError(f"cache {file}", "is no file of yours", "`modelguard cache clear` begins a new one")
