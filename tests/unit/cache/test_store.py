"""The file that outcomes are kept in: it gives back what was put into it by whoever has the key, and nothing else."""

from __future__ import annotations

import os
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest

from modelguard._cache import store
from modelguard._cache.store import CacheError, Store, clear, folder


def kept(place: Path) -> dict[str, bytes]:
    with Store(place) as found:
        return found.get(["a", "b", "c"])


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """A cache with two entries."""
    with Store(tmp_path / "cache") as made:
        made.put({"a": ("x", b"said of a"), "b": ("y", b"said of b")})
    return tmp_path / "cache"


def test_it_gives_what_was_put_and_only_the_user_can_read_it(place: Path) -> None:
    assert kept(place) == {"a": b"said of a", "b": b"said of b"}
    assert [oct(file.stat().st_mode & 0o777) for file in (place, place / "key", place / "outcomes.sqlite")] == ["0o700", "0o600", "0o600"]
    with Store(place) as found:
        assert found.stats().kinds == {"x": 1, "y": 1}
        assert found.verify() == (2, 0)


@pytest.mark.parametrize(
    "poison",
    [
        "UPDATE entries SET body = 'said of b' WHERE name = 'a'",
        "UPDATE entries SET body = x'00' WHERE name = 'a'",
        "UPDATE entries SET mac = x'00' WHERE name = 'a'",
        "UPDATE entries SET mac = NULL, body = 1 WHERE name = 'a'",
        "REPLACE INTO entries SELECT 'a', kind, body, mac FROM entries WHERE name = 'b'",
        "UPDATE entries SET body = substr(body, 1, 3) WHERE name = 'a'",
    ],
)
def test_an_entry_that_somebody_wrote_without_the_key_is_none(place: Path, poison: str) -> None:
    with sqlite3.connect(place / "outcomes.sqlite") as database:
        database.execute("PRAGMA ignore_check_constraints = 1")
        database.execute(poison.replace("mac = NULL", "mac = 0"))
    assert kept(place) == {"b": b"said of b"}
    with Store(place) as found:
        assert found.verify() == (1, 1)
        assert found.verify() == (1, 0)


def test_with_another_key_there_is_nothing(place: Path) -> None:
    (place / "key").write_bytes(os.urandom(store.KEY_BYTES))
    assert kept(place) == {}


@pytest.mark.parametrize(
    ("file", "mode", "said"),
    [(".", 0o777, "open for other users to write"), ("key", 0o640, "open for other users to read")],
)
def test_what_others_can_reach_is_not_used(place: Path, file: str, mode: int, said: str) -> None:
    (place / file).chmod(mode)
    with pytest.raises(CacheError, match=said):
        Store(place)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files away")
@pytest.mark.parametrize(("file", "said"), [(".", "another user"), ("key", "another user"), ("outcomes.sqlite", "no file of yours")])
def test_what_belongs_to_somebody_else_is_not_used(place: Path, file: str, said: str) -> None:
    os.chown(place / file, 12345, 12345)
    with pytest.raises(CacheError, match=said):
        Store(place)


def test_links_are_not_followed(place: Path, tmp_path: Path) -> None:
    for name in ("key", "outcomes.sqlite"):
        (place / name).rename(tmp_path / name)
        (place / name).symlink_to(tmp_path / name)
        with pytest.raises(CacheError):
            Store(place)
        (place / name).unlink()
        (tmp_path / name).rename(place / name)
    assert len(kept(place)) == 2


@pytest.mark.parametrize("body", [b"", b"short", b"x" * 33])
def test_a_damaged_key_says_what_to_do(place: Path, body: bytes) -> None:
    (place / "key").write_bytes(body)
    with pytest.raises(CacheError, match="modelguard cache clear"):
        Store(place)
    assert clear(place) > 0
    assert kept(place) == {}


def test_a_damaged_database_says_what_to_do(place: Path) -> None:
    (place / "outcomes.sqlite").write_bytes(b"no database at all" * 1000)
    with pytest.raises(CacheError, match="modelguard cache clear"):
        kept(place)


def test_past_its_limit_the_oldest_go(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store, "LARGEST", 200_000)
    with Store(place) as found:
        for number in range(60):
            found.put({f"n{number}": ("x", bytes(10_000))})
        names = [row[0] for row in found._database.execute("SELECT name FROM entries")]
    assert "n59" in names
    assert "a" not in names
    assert len(names) < 30


def test_many_processes_at_once_lose_nothing(tmp_path: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from modelguard._cache.store import Store\n"
        "who = sys.argv[2]\n"
        "for n in range(20):\n"
        "    with Store(Path(sys.argv[1])) as s: s.put({f'{who}-{n}': ('x', who.encode())})\n"
    )
    running = [subprocess.Popen([sys.executable, "-c", code, str(tmp_path / "cache"), str(who)]) for who in range(4)]
    assert [process.wait() for process in running] == [0] * 4
    with Store(tmp_path / "cache") as found:
        assert found.verify() == (80, 0)


def test_a_process_that_is_killed_leaves_whole_entries(tmp_path: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from modelguard._cache.store import Store\n"
        "with Store(Path(sys.argv[1])) as s:\n"
        "    for n in range(10**9):\n"
        "        s.put({f'{n}-{i}': ('x', bytes(5000)) for i in range(9)}); print(n, flush=True)\n"
    )
    running = subprocess.Popen([sys.executable, "-c", code, str(tmp_path / "cache")], stdout=subprocess.PIPE, text=True)
    assert running.stdout is not None
    said = [running.stdout.readline() for _ in range(5)]
    running.kill()
    said += running.stdout.read().splitlines()
    running.wait()
    running.stdout.close()
    with Store(tmp_path / "cache") as found:
        good, bad = found.verify()
    assert bad == 0
    assert good % 9 == 0, "all entries of a scan, or none"
    assert good >= 9 * len(said)


def test_where_it_lies(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("MODELGUARD_CACHE", "off")
    assert folder() is None
    monkeypatch.setenv("MODELGUARD_CACHE", str(tmp_path))
    assert folder() == tmp_path
    monkeypatch.delenv("MODELGUARD_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", "/var/somewhere")
    assert folder() == Path("/var/somewhere/modelguard")
    monkeypatch.setenv("XDG_CACHE_HOME", "relative")
    monkeypatch.setenv("HOME", "/home/somebody")
    assert folder() == Path("/home/somebody/.cache/modelguard")
