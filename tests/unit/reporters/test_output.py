"""Writing reports: whole or not at all, whatever the file system does."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from modelguard._reporters import HOMES, builtin_reporters
from modelguard._reporters.output import parse_output_spec, write_atomically
from modelguard.errors import OutputError, UsageError


def test_an_output_is_a_format_and_a_path() -> None:
    assert parse_output_spec("sarif=r.sarif", {"json", "sarif"}) == ("sarif", Path("r.sarif"))
    assert parse_output_spec("json=a=b/c", {"json", "sarif"}) == ("json", Path("a=b/c"))


@pytest.mark.parametrize(
    ("spec", "words"),
    [("r.json", "is not FORMAT=PATH"), ("json=", "is not FORMAT=PATH"), ("xml=r", "no format 'xml'"), ("=r", "no format ''")],
)
def test_anything_else_is_a_usage_error_that_lists_the_formats(spec: str, words: str) -> None:
    with pytest.raises(UsageError) as caught:
        parse_output_spec(spec, {"json", "sarif"})
    assert words in str(caught.value)
    assert "json, sarif" in str(caught.value)


def test_a_file_is_written_and_replaced_whole(tmp_path: Path) -> None:
    path = tmp_path / "r.json"
    write_atomically(path, "one\n")
    path.chmod(0o640)
    write_atomically(path, "ü\r\n")
    assert path.read_bytes() == "ü\r\n".encode()
    assert stat.S_IMODE(path.stat().st_mode) == 0o640
    assert os.listdir(tmp_path) == ["r.json"]


def test_a_new_file_has_ordinary_permissions(tmp_path: Path) -> None:
    ordinary = tmp_path / "a"
    ordinary.touch()
    write_atomically(tmp_path / "b", "x")
    assert (tmp_path / "b").stat().st_mode == ordinary.stat().st_mode


def test_a_link_stays_a_link(tmp_path: Path) -> None:
    (tmp_path / "real").write_text("old")
    (tmp_path / "link").symlink_to("real")
    write_atomically(tmp_path / "link", "new")
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "real").read_text() == "new"


@pytest.mark.parametrize("name", ["missing/r.json", "file/r.json", "folder", "n" * 300])
def test_what_cannot_be_written_is_one_line_and_leaves_nothing(tmp_path: Path, name: str) -> None:
    (tmp_path / "file").write_text("x")
    (tmp_path / "folder").mkdir()
    with pytest.raises(OutputError) as caught:
        write_atomically(tmp_path / name, "text")
    assert caught.value.exit_code == 3
    assert "cannot be written" in str(caught.value)
    assert "\n" not in str(caught.value)
    assert sorted(os.listdir(tmp_path)) == ["file", "folder"]
    assert os.listdir(tmp_path / "folder") == []


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs /dev/full")
def test_a_full_device_is_an_error() -> None:
    with pytest.raises(OutputError, match="No space left on device"):
        write_atomically(Path("/dev/full"), "text")


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs RLIMIT_FSIZE")
def test_a_full_disk_keeps_the_old_file_and_leaves_no_half_one(tmp_path: Path) -> None:
    (tmp_path / "r.json").write_text("old")
    program = f"""
import resource, signal
from pathlib import Path
from modelguard._reporters.output import write_atomically
from modelguard.errors import OutputError
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))
try:
    write_atomically(Path({str(tmp_path / "r.json")!r}), "x" * 100_000)
except OutputError as error:
    print(error)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert "cannot be written (File too large)" in done.stdout
    assert (tmp_path / "r.json").read_text() == "old"
    assert os.listdir(tmp_path) == ["r.json"]


def test_a_pipe_is_written_to_and_not_replaced(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    with subprocess.Popen(["cat", str(pipe)], stdout=subprocess.PIPE, text=True) as reader:
        write_atomically(pipe, "text\n")
        assert reader.communicate(timeout=10)[0] == "text\n"
    assert stat.S_ISFIFO(pipe.stat().st_mode)


def test_every_reporter_is_known_by_its_format_and_made_when_it_is_asked_for() -> None:
    assert {item.format: type(item()).__name__ for item in builtin_reporters()} == {
        name: home.partition(".")[2] for name, home in HOMES.items()
    }
    assert all(item().format == item.format for item in builtin_reporters())
