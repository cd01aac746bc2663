"""Bad input through the command line: the documented exit code, one line that names thing, cause and remedy, and a report all the same."""

from __future__ import annotations

import io
import json
import os
import pickle
import signal
import socket
import subprocess
import sys
import time
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import jsonschema  # type: ignore[import-untyped]
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file
from support import Ran

from modelguard import Outcome
from modelguard._cli._progress import ProgressDisplay
from modelguard._scanner.child import Child
from modelguard._schemas import report_schema
from modelguard.testing.checkpoints import corrupt_safetensors, safetensors_bytes, write_onnx_mlp

Run = Callable[..., Ran]
Make = Callable[[Path], object]
IN_PROCESS = pytest.mark.usefixtures("in_process")
"""Of tests of what is said of an input; those of what a worker does, and of what is done to it, have one."""
WEIGHTS = {"a": np.arange(6, dtype=np.float32).reshape(2, 3), "b": np.ones(4, np.float32)}


def judged(mg: Run, folder: Path, *argv: object) -> tuple[Ran, dict[str, Any]]:
    """A quiet scan, and its JSON report, which must be there whatever the verdict, keep to the schema and say what the console says."""
    path = folder / "report.json"
    ran = mg("scan", *argv, "-q", "-o", f"json={path}")
    assert "Traceback" not in ran.err
    report: dict[str, Any] = json.loads(path.read_text())
    path.unlink()
    jsonschema.Draft202012Validator(report_schema()).validate(report)
    assert report["decision"]["exit_code"] == ran.code
    answer = {"pass": "PASS", "block": "BLOCKED", "incomplete": "INCOMPLETE"}[report["decision"]["verdict"]]
    assert ran.out.startswith(answer)
    return ran, report


def said(report: dict[str, Any]) -> list[str]:
    """Every sentence in which the report says what is wrong."""
    findings = [finding["message"] for outcome in report["outcomes"] for finding in outcome["findings"]]
    return [*findings, *(item["message"] for item in report["decision"]["violations"]), report["failure"]]


def zipped() -> bytes:
    data = io.BytesIO()
    with zipfile.ZipFile(data, "w") as archive:
        archive.writestr("archive/data.pkl", pickle.dumps({"w": 1}))
    return data.getvalue()


def damaged() -> bytes:
    """A compressed .npz whose first array does not decompress."""
    data = io.BytesIO()
    np.savez_compressed(data, inputs=np.random.default_rng(0).random((40, 3)))
    body = bytearray(data.getvalue())
    body[64:84] = b"\xff" * 20
    return bytes(body)


def truncated(path: Path) -> None:
    save_file(WEIGHTS, path)
    path.write_bytes(path.read_bytes()[:-5])


FILES: dict[str, tuple[str, Make, int, str, list[str]]] = {
    # name: (file, how it is made, exit code, rule, words of one sentence)
    "truncated": ("m.safetensors", truncated, 1, "MG0105", ["m.safetensors", "download"]),
    "header of 2^63": (
        "m.safetensors", lambda path: path.write_bytes(safetensors_bytes(b"{}", length=1 << 63)), 1, "MG0104",
        ["m.safetensors", "9223372036854775808"],
    ),
    "overlap": (
        "m.safetensors", lambda path: path.write_bytes(corrupt_safetensors("overlap").data), 1, "MG0105", ["m.safetensors", "overlap"],
    ),
    "zip": ("m.safetensors", lambda path: path.write_bytes(zipped()), 1, "MG0101", ["m.safetensors", "zip archive"]),
    "pickle as safetensors": ("m.safetensors", lambda path: path.write_bytes(pickle.dumps([1])), 1, "MG0101", ["m.safetensors", "pickle"]),
    "unknown": ("pytorch_model.bin", lambda path: path.write_bytes(bytes(range(256))), 3, "", ["holds nothing that can be scanned"]),
    "empty": ("m.safetensors", lambda path: path.write_bytes(b""), 1, "", ["m.safetensors", "0 bytes", "download"]),
    "text": ("README.md", lambda path: path.write_text("weights elsewhere"), 3, "", ["holds nothing that can be scanned", "point at"]),
    "garbage onnx": ("m.onnx", lambda path: path.write_bytes(b"\x08\x07" + b"\xff" * 64), 1, "", ["m.onnx"]),
}  # fmt: skip
ALONE = ("empty", "truncated")
"""Those that are tried alone as well as in a folder whenever the tests run."""


@IN_PROCESS
@pytest.mark.parametrize(
    ("name", "whole"),
    [
        pytest.param(name, whole, id=f"{name}-{'folder' if whole else 'file'}", marks=() if whole or name in ALONE else pytest.mark.slow)
        for name in FILES
        for whole in (False, True)
    ],
)
def test_a_file_that_is_no_checkpoint_is_no_pass(mg: Run, tmp_path: Path, name: str, whole: bool) -> None:
    file, make, code, rule, words = FILES[name]
    (tmp_path / "in").mkdir()
    make(tmp_path / "in" / file)
    ran, report = judged(mg, tmp_path, tmp_path / "in" if whole else tmp_path / "in" / file)
    assert ran.code == code
    sentences = [text for text in said(report) if all(word in text for word in words)]
    assert sentences, said(report)
    assert all("\n" not in text for text in said(report))
    assert " ".join(sentences[0].split()[:4]) in " ".join(ran.out.split())
    if rule:
        assert rule in {finding["rule"] for outcome in report["outcomes"] for finding in outcome["findings"]}


@IN_PROCESS
def test_a_broken_file_beside_a_good_one_hides_nothing(mg: Run, tmp_path: Path) -> None:
    folder = tmp_path / "m"
    folder.mkdir()
    save_file({**WEIGHTS, "c": np.array([np.nan], np.float32)}, folder / "good.safetensors")
    truncated(folder / "bad.safetensors")
    ran, report = judged(mg, tmp_path, folder)
    assert ran.code == 1
    assert report["target"]["format"] == ["safetensors"]
    places = {(finding["location"]["file"], finding["rule"]) for outcome in report["outcomes"] for finding in outcome["findings"]}
    assert ("bad.safetensors", "MG0105") in places
    assert {outcome["detector"]: outcome["status"] for outcome in report["outcomes"]}["format-integrity"] == "completed"


@pytest.mark.parametrize("argv", [["nowhere"], ["tiny", "--reference", "nowhere"]], ids=["target", "reference"])
def test_what_is_not_there_is_named(mg: Run, tiny_model: Path, tmp_path: Path, argv: list[str]) -> None:
    words = [str(tiny_model) if word == "tiny" else str(tmp_path / word) if word == "nowhere" else word for word in argv]
    ran = mg("scan", *words, "-o", f"json={tmp_path / 'r.json'}")
    assert (ran.code, ran.out) == (2, "")
    assert ran.err == f"modelguard: error: {tmp_path / 'nowhere'}: there is no such file or folder; check the path\n"
    assert not (tmp_path / "r.json").exists()


@IN_PROCESS
def test_a_reference_of_another_architecture_is_no_pass_and_says_so(mg: Run, tiny_model: Path, tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    save_file({"other.weight": np.ones((3, 5), np.float32)}, tmp_path / "other" / "model.safetensors")
    ran, report = judged(mg, tmp_path, tiny_model, "--reference", tmp_path / "other")
    assert ran.code == 1
    assert any("other.weight" in text for text in said(report))


@IN_PROCESS
def test_a_reference_that_holds_nothing_is_no_verdict(mg: Run, tiny_model: Path, tmp_path: Path) -> None:
    (tmp_path / "docs").mkdir()
    (tmp_path / "docs" / "README.md").write_text("nothing")
    ran, report = judged(mg, tmp_path, tiny_model, "--reference", tmp_path / "docs")
    assert ran.code == 3
    assert report["failure"].startswith("docs: holds nothing that can be scanned")


def fifo(path: Path) -> None:
    os.mkfifo(path)


def listening(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as server:
        here = os.getcwd()
        os.chdir(path.parent)  # a socket's path may have 107 bytes
        server.bind(path.name)
        os.chdir(here)


@IN_PROCESS
@pytest.mark.parametrize("whole", [False, True], ids=["file", "folder"])
@pytest.mark.parametrize(
    ("make", "cause"),
    [
        (fifo, "is a FIFO"),
        (listening, "is a socket"),
        (lambda path: path.symlink_to("/dev/zero"), "device"),
        (lambda path: path.symlink_to(path.name), "cannot be opened"),
        (lambda path: path.symlink_to("gone"), ""),
    ],
    ids=["fifo", "socket", "device", "loop", "dangling"],
)
def test_special_files_are_refused(mg: Run, tmp_path: Path, make: Make, cause: str, whole: bool) -> None:
    (tmp_path / "m").mkdir()
    make(tmp_path / "m" / "model.safetensors")
    ran, report = judged(mg, tmp_path, tmp_path / "m" if whole else tmp_path / "m" / "model.safetensors")
    assert ran.code == 3
    assert "model.safetensors" in report["failure"] or report["failure"].startswith("zero: ")
    assert "; " in report["failure"], "a remedy is named"
    assert cause in report["failure"] or (whole and "symlink out" in report["failure"])


@IN_PROCESS
def test_a_link_out_of_the_folder_is_refused(mg: Run, tmp_path: Path) -> None:
    (tmp_path / "m").mkdir()
    save_file(WEIGHTS, tmp_path / "secret.safetensors")
    (tmp_path / "m" / "model.safetensors").symlink_to(tmp_path / "secret.safetensors")
    ran, report = judged(mg, tmp_path, tmp_path / "m")
    assert ran.code == 3
    assert report["failure"].startswith("model.safetensors: is a symlink out of the artifact; ")


@IN_PROCESS
def test_a_link_the_user_names_is_followed(mg: Run, tmp_path: Path) -> None:
    save_file(WEIGHTS, tmp_path / "real.safetensors")
    (tmp_path / "link.safetensors").symlink_to(tmp_path / "real.safetensors")
    assert judged(mg, tmp_path, tmp_path / "link.safetensors")[0].code == 0


@contextmanager
def as_nobody() -> Iterator[None]:
    """Without root's right to read and write everything, whoever runs this."""
    if os.geteuid() != 0:
        yield
        return
    os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(0)


@pytest.fixture
def public() -> Iterator[Path]:
    """A folder that everybody may enter (pytest's own are private)."""
    import shutil
    import tempfile

    folder = Path(tempfile.mkdtemp(prefix="bad-input-"))
    folder.chmod(0o777)
    yield folder
    shutil.rmtree(folder)


def readable_by_nobody() -> bool:
    import modelguard

    with as_nobody():
        return os.access(modelguard.__file__, os.R_OK, effective_ids=True)


needs_nobody = pytest.mark.skipif(not readable_by_nobody(), reason="modelguard is installed where only root can read it")


@needs_nobody
@pytest.mark.parametrize("locked", ["file", "folder"])
def test_what_may_not_be_read_is_named(mg: Run, public: Path, locked: str) -> None:
    folder = public / "m"
    folder.mkdir()
    save_file(WEIGHTS, folder / "model.safetensors")
    (folder / "model.safetensors" if locked == "file" else folder).chmod(0)
    mg("scan", public / "nothing", "-q")  # root imports what nobody perhaps may not
    with as_nobody():
        ran, report = judged(mg, public, folder)
    folder.chmod(0o700)
    assert ran.code == 3
    assert "cannot be " in report["failure"]
    assert "ermission denied" in report["failure"]
    assert report["failure"].startswith("model.safetensors: " if locked == "file" else "m: ")


@needs_nobody
def test_a_report_that_may_not_be_written_is_told_and_costs_the_pass(mg: Run, tiny_model: Path, public: Path) -> None:
    mg("scan", tiny_model, "-q", "-o", f"json={public}/stored.json", "-o", f"sarif={public}/r.sarif")
    (public / "ro").mkdir()
    (public / "ro").chmod(0o555)
    (public / "r.sarif").unlink()
    mg("report", public / "stored.json")  # nobody may not read what Python imports from
    with as_nobody():
        ran = mg("report", public / "stored.json", "-o", f"json={public}/ro/r.json", "-o", f"sarif={public}/r.sarif")
    assert ran.code == 3
    assert ran.out.startswith("PASS")
    (line,) = ran.err.splitlines()
    assert "r.json: cannot be written (Permission denied); check" in line
    assert json.loads((public / "r.sarif").read_text())["version"] == "2.1.0"
    assert list((public / "ro").iterdir()) == []


@pytest.mark.parametrize("count", [1, pytest.param(20, marks=pytest.mark.slow)])
def test_a_huge_sparse_file_is_scanned_without_being_held(tmp_path: Path, count: int) -> None:
    """Tensors of a gigabyte of zeros, each larger than the memory there is; hashing them is what takes the time."""
    path = tmp_path / "huge.safetensors"
    size = 1 << 30
    header = {f"t{i}": {"dtype": "F16", "shape": [1 << 15, 1 << 14], "data_offsets": [i * size, (i + 1) * size]} for i in range(count)}
    head = safetensors_bytes(json.dumps(header).encode())
    with path.open("wb") as file:
        file.write(head)
        file.truncate(len(head) + count * size)
    code = (
        "import resource, sys; from modelguard._cli import run; "
        "resource.setrlimit(resource.RLIMIT_DATA, (700 << 20, 700 << 20)); "  # the parent; --memory limits the worker
        "sys.exit(run(sys.argv[1:]))"
    )
    argv = ["scan", str(path), "--detector", "format-integrity", "--memory", "700M", "-q"]
    ran = subprocess.run([sys.executable, "-c", code, *argv], capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr
    assert "huge.safetensors" in ran.stdout


@IN_PROCESS
@pytest.mark.parametrize(
    ("name", "data", "cause"),
    [
        ("s.npz", b"no zip", "s.npz: is not a valid .npz file (File is not a zip file); write it"),
        ("s.npz", damaged(), "s.npz: is not a valid .npz file (Error -3 while decompressing data"),
        ("s.jsonl", b"{}", "s.jsonl:1: has no text; write one"),
        ("s.txt", b"", "s.txt: is not a known kind of samples; give .npz"),
    ],
)
def test_samples_that_are_none_are_no_verdict(mg: Run, tiny_model: Path, tmp_path: Path, name: str, data: bytes, cause: str) -> None:
    (tmp_path / name).write_bytes(data)
    ran, report = judged(mg, tmp_path, tiny_model, "--samples", tmp_path / name)
    assert ran.code == 3
    assert report["failure"].startswith(cause)
    assert cause.split("(")[0].split(";")[0] in " ".join(ran.out.split())


def test_samples_that_no_reader_expects_are_blamed_and_not_the_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from modelguard import SamplesError
    from modelguard._inputs import samples
    from modelguard._scanner.worker import _samples

    for error, said in (
        (KeyError("x"), r"^s\.npz: cannot be read \(KeyError at "),
        (MemoryError(), r"^s\.npz: need more memory than the limit"),
    ):

        def fail(path: Path, error: Exception = error) -> None:
            raise error

        monkeypatch.setattr(samples, "load_samples", fail)
        with pytest.raises(SamplesError, match=said):
            _samples(tmp_path / "s.npz")


# Files that change under the scanner


def once_opened(monkeypatch: pytest.MonkeyPatch, action: Callable[[Child], object]) -> None:
    """Do ``action`` once, when the worker has opened the artifact and no detector has begun."""
    start = Child.start
    done: list[Child] = []

    def meddle(self: Child, *given: Any) -> None:
        if not done:
            done.append(self)
            action(self)
        start(self, *given)

    monkeypatch.setattr(Child, "start", meddle)


def flip(path: Path) -> None:
    body = bytearray(path.read_bytes())
    body[-1] ^= 1
    path.write_bytes(body)


def put_back(path: Path) -> None:
    """Change the file and make it look as before: same bytes, same size, same time of modification."""
    body, times = path.read_bytes(), path.stat()
    flip(path)
    path.write_bytes(body)
    os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))


@pytest.mark.parametrize(
    ("change", "cause"),
    [
        (flip, "changed while it was being scanned"),
        (put_back, "changed while it was being scanned"),
        (lambda path: path.unlink(), "cannot be opened (No such file or directory)"),
        (lambda path: path.replace(path.with_name("moved")), "cannot be opened"),
    ],
    ids=["modified", "modified and put back", "deleted", "moved"],
)
def test_a_file_that_changes_during_the_scan_is_no_verdict(
    mg: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, change: Make, cause: str
) -> None:
    model = tmp_path / "model.safetensors"
    save_file(WEIGHTS, model)
    once_opened(monkeypatch, lambda _: change(model))
    ran, report = judged(mg, tmp_path, model)
    assert ran.code == 3
    assert report["failure"].startswith("model.safetensors: ")
    assert cause in report["failure"]
    assert report["outcomes"], "what was found before is kept"


def test_a_file_that_changes_before_the_worker_opens_it_is_no_verdict(mg: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from modelguard._scanner import scan

    model = tmp_path / "model.safetensors"
    save_file(WEIGHTS, model)
    make_job = scan._job

    def late(*given: Any) -> Any:
        flip(model)
        return make_job(*given)

    monkeypatch.setattr(scan, "_job", late)
    ran, report = judged(mg, tmp_path, model)
    assert ran.code in (1, 3)
    assert any("changed while it was being scanned" in text for text in said(report))


def test_a_file_cut_short_under_a_reader_costs_one_detector(mg: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is noticed when the file is mapped, or kills the worker (SIGBUS) when a page is read; the others look, what was found stays."""
    (tmp_path / "m").mkdir()
    model = tmp_path / "m" / "model.safetensors"
    rng = np.random.default_rng(0)
    save_file({f"h.{i}.weight": rng.normal(size=(512, 512)).astype(np.float32) for i in range(4)}, model)
    (tmp_path / "m" / "extra.bin").write_bytes(bytes(range(256)))
    once_opened(monkeypatch, lambda _: os.truncate(model, 4096))
    ran, report = judged(mg, tmp_path, tmp_path / "m")
    outcomes = {item["detector"]: item for item in report["outcomes"]}
    assert ran.code in (1, 3)
    assert outcomes["weight-forensics"]["status"] == "errored"
    assert any(word in outcomes["weight-forensics"]["reason"] for word in ("changed while", "SIGBUS"))
    assert [finding["rule"] for finding in outcomes["format-integrity"]["findings"]] == ["MG9004"]
    assert "changed while it was being scanned" in report["failure"]


# Names


@IN_PROCESS
@pytest.mark.parametrize("whole", [True, pytest.param(False, marks=pytest.mark.slow)], ids=["folder", "file"])
@pytest.mark.parametrize("name", ["with space", "größe 模型", "new\nline", "esc\x1b[31mape", "-dash", "a'b\"c", "%s{}$(x)", "\u202ertl"])
def test_any_name_can_be_scanned_and_none_reaches_the_terminal_raw(mg: Run, tmp_path: Path, name: str, whole: bool) -> None:
    folder, sarif = tmp_path / name, tmp_path / "r.sarif"
    folder.mkdir()
    save_file(WEIGHTS, folder / f"{name}.safetensors")
    ran, report = judged(mg, tmp_path, folder if whole else folder / f"{name}.safetensors", "-o", f"sarif={sarif}")
    assert ran.code == 0, ran.out
    assert [file["path"] for file in report["target"]["files"]] == [f"{name}.safetensors"]
    assert all(line.isprintable() for line in ran.out.splitlines())
    assert json.loads(sarif.read_text())["runs"][0]["invocations"][0]["executionSuccessful"] is True


@pytest.mark.parametrize("name", ["line\nbreak", "bell\x07", "\u202egnp.exe"])
def test_a_missing_target_with_a_hostile_name_is_told_in_one_line(mg: Run, tmp_path: Path, name: str) -> None:
    ran = mg("scan", tmp_path / name)
    assert (ran.code, len(ran.err.splitlines())) == (2, 1)
    assert ran.err[:-1].isprintable()


@IN_PROCESS
def test_a_name_that_is_not_utf8_is_refused(mg: Run, tmp_path: Path) -> None:
    folder = tmp_path / "m"
    folder.mkdir()
    save_file(WEIGHTS, folder / "model.safetensors")
    with open(os.fsencode(folder) + b"/bad\xff.bin", "wb"):
        pass
    ran, report = judged(mg, tmp_path, folder)
    assert ran.code == 3
    assert report["failure"] == "bad\\udcff.bin: its name is not valid UTF-8; rename it, or scan in a UTF-8 locale"


# What the user writes


@pytest.mark.parametrize(
    ("argv", "line"),
    [
        ([""], "target: is empty; name a file, a directory or hf://org/name@revision"),
        (["-"], "-: standard input cannot be scanned; save it to a file, or write ./- for a file of that name"),
        (["s3://bucket/x"], "s3://bucket/x: no source handles s3://; use a path, or one of: hf://"),
        (["hf://"], "hf://: names no repository; write hf://org/name[@revision][/path]"),
        (["m", "-o", "json=r.json", "-o", "sarif=./r.json"], "-o sarif=./r.json: r.json is given to two reports; name another file"),
        (["m", "-o", "json=r.json", "--attest", "r.json"], "-o json=r.json: r.json is given to two reports; name another file"),
        (["m", "--reference", "ref", "--attest", "ref"], "--attest ref: ref is read by this command; name another file"),
        (["m", "-o", "json=m"], "-o json=m: m is read by this command; name another file"),
        (["m", "--reference", "ref", "-o", "json=./ref"], "-o json=./ref: ref is read by this command; name another file"),
        (["m", "-o", "json=-"], "-o json=-: standard output is not a file; write --format json"),
        (["m", "-o", "json=folder"], "-o json=folder: folder is a folder; name a file in it"),
        (["m", "-o", "json=no/r.json"], "-o json=no/r.json: the folder no does not exist; create it first"),
    ],
)
def test_a_request_that_cannot_be_right_is_refused_before_anything_is_read(
    mg: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, argv: list[str], line: str
) -> None:
    monkeypatch.chdir(tmp_path)
    save_file(WEIGHTS, "m")
    save_file(WEIGHTS, "ref")
    Path("folder").mkdir()
    before = {path: path.stat().st_mtime_ns for path in tmp_path.iterdir()}
    ran = mg("scan", *argv)
    assert (ran.code, ran.out, ran.err) == (2, "", f"modelguard: error: {line}\n")
    assert {path: path.stat().st_mtime_ns for path in tmp_path.iterdir()} == before


@IN_PROCESS
def test_a_device_takes_any_number_of_reports(mg: Run, tiny_model: Path) -> None:
    assert mg("scan", tiny_model, "-q", "-o", "json=/dev/null", "-o", "sarif=/dev/null").code == 0


@IN_PROCESS
def test_a_report_is_not_rendered_over_itself(mg: Run, tiny_model: Path, tmp_path: Path) -> None:
    report = tmp_path / "r.json"
    mg("scan", tiny_model, "-q", "-o", f"json={report}")
    assert mg("report", report, "-o", f"sarif={report}").code == 2
    assert json.loads(report.read_text())["schema"] == "modelguard-report/1"


def test_a_mistyped_command_names_the_nearest(mg: Run) -> None:
    ran = mg("scna", "x")
    assert ran.code == 2
    assert "No such command 'scna'. (Did you mean one of: 'scan'" in ran.err


# Signals, terminals, locales


def alive(pid: str) -> bool:
    """Whether the process runs: a container's init may leave the dead unburied."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(") ", 1)[1][0] not in "ZX"
    except OSError:
        return False


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGINT, signal.SIGKILL])
def test_a_scan_that_is_stopped_takes_its_worker_along(tmp_path: Path, tiny_model: Path, number: signal.Signals) -> None:
    temporary = tmp_path / "tmp"
    temporary.mkdir()
    script = (
        "import sys, time\n"
        "from modelguard._scanner import scan\n"
        "plan = scan._plan\n"
        "def waiting(*given):\n    print('planning', flush=True)\n    time.sleep(60)\n    return plan(*given)\n"
        "scan._plan = waiting\n"
        "from modelguard._cli import main\n"
        "main(['scan', sys.argv[1], '-o', 'json=' + sys.argv[2], '-q'])\n"
    )
    report = tmp_path / "r.json"
    process = subprocess.Popen(
        [sys.executable, "-c", script, str(tiny_model), str(report)],
        env={**os.environ, "TMPDIR": str(temporary)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "planning\n"
    listed = subprocess.run(["pgrep", "-P", str(process.pid)], capture_output=True, text=True, check=True)
    (worker,) = listed.stdout.split()
    process.send_signal(number)
    _, err = process.communicate(timeout=30)
    expected = {signal.SIGTERM: 143, signal.SIGHUP: 143, signal.SIGINT: 130, signal.SIGKILL: -signal.SIGKILL}
    assert process.returncode == expected[number]
    deadline = time.monotonic() + 60
    while alive(worker) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not alive(worker)
    assert not report.exists()
    if number is not signal.SIGKILL:
        assert (
            err.strip().splitlines()[-1] == f"modelguard: {'interrupted' if number is signal.SIGINT else 'terminated'}; nothing was decided"
        )
        assert list(temporary.iterdir()) == []


def on_terminal(*argv: object, columns: int = 80, **environment: str) -> tuple[int, str]:
    """Exit code and what a terminal of this width is shown on standard output."""
    import fcntl
    import pty
    import struct
    import termios

    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
    kept = {name: value for name, value in os.environ.items() if name not in ("NO_COLOR", "FORCE_COLOR", "COLUMNS")}
    process = subprocess.Popen(
        [sys.executable, "-m", "modelguard", *map(str, argv)],
        stdout=theirs,
        stderr=subprocess.PIPE,
        env={**kept, "TERM": "xterm-256color", **environment},
    )
    os.close(theirs)
    shown = b""
    while True:
        try:
            block = os.read(ours, 1 << 16)
        except OSError:  # the terminal hangs up
            break
        if not block:
            break
        shown += block
    os.close(ours)
    return process.wait(timeout=60), shown.decode()


@pytest.fixture(scope="module")
def stored(tmp_path_factory: pytest.TempPathFactory, tiny_model: Path) -> Path:
    """A report with findings and gaps."""
    from modelguard._cli import run

    folder = tmp_path_factory.mktemp("stored")
    tensors = load_file(tiny_model / "model.safetensors")
    tensors["layers.1.weight"] = -tensors["layers.1.weight"]
    (folder / "m").mkdir()
    save_file(tensors, folder / "m" / "größe.safetensors")
    assert run(["scan", str(folder / "m"), "--reference", str(tiny_model), "-q", "-o", f"json={folder / 'r.json'}"]) == 1
    return folder / "r.json"


@pytest.mark.parametrize("columns", [40, 80, 132])
def test_a_terminal_gets_colour_and_lines_that_fit(stored: Path, columns: int) -> None:
    import re

    code, shown = on_terminal("report", stored, columns=columns)
    assert code == 1
    assert "\x1b[1;31mBLOCKED" in shown
    lines = re.sub(r"\x1b\[[0-9;]*m", "", shown).splitlines()
    assert max(map(len, lines)) <= columns


@pytest.mark.parametrize(("variable", "value"), [("NO_COLOR", "1"), ("TERM", "dumb")])
def test_colour_is_left_out_where_it_is_not_wanted(stored: Path, variable: str, value: str) -> None:
    code, shown = on_terminal("report", stored, columns=80, **{variable: value})
    assert code == 1
    assert "\x1b[" not in shown
    assert shown.startswith("BLOCKED")


@pytest.mark.parametrize("form", ["console", "json", "sarif", "html"])
def test_a_locale_that_knows_only_ascii_loses_nothing(stored: Path, form: str) -> None:
    environment = {**os.environ, "LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    ran = subprocess.run(
        [sys.executable, "-m", "modelguard", "report", stored, "-f", form, "-v"], capture_output=True, env=environment, check=False
    )
    assert ran.returncode == 1, ran.stderr
    text = ran.stdout.decode("ascii" if form == "console" else "utf-8")
    assert ("gr\\xf6\\xdfe" if form == "console" else "größe") in text or "gr%C3%B6%C3%9Fe" in text


def test_a_target_named_beyond_ascii_needs_a_locale_that_can_name_it(tmp_path: Path) -> None:
    save_file(WEIGHTS, tmp_path / "größe.safetensors")
    environment = {**os.environ, "LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    command = [sys.executable, "-m", "modelguard", "scan", "größe.safetensors", "-q"]
    ran = subprocess.run(command, capture_output=True, env=environment, cwd=tmp_path, check=False)
    assert ran.returncode == 3, ran.stderr
    assert "or scan in a UTF-8 locale" in " ".join(ran.stdout.decode("ascii").split())


@pytest.mark.parametrize("reader", ["head -1", "true"])
def test_a_reader_that_leaves_early_does_not_change_the_verdict(stored: Path, reader: str) -> None:
    command = f"'{sys.executable}' -m modelguard report '{stored}' | {reader}; exit ${{PIPESTATUS[0]}}"
    ran = subprocess.run(["bash", "-c", command], capture_output=True, text=True, check=False)
    assert ran.returncode == 1
    assert ran.stderr == ""


@pytest.mark.parametrize("command", ["rules", "plugins list", "schema report", "policy show"])
def test_other_commands_leave_quietly_when_nobody_reads(command: str) -> None:
    ran = subprocess.run(["bash", "-c", f"'{sys.executable}' -m modelguard {command} | true"], capture_output=True, text=True, check=False)
    assert ran.stderr == ""


def test_a_full_standard_output_is_told(stored: Path, tiny_model: Path) -> None:
    with open("/dev/full", "w") as full:
        command = [sys.executable, "-m", "modelguard", "scan", str(tiny_model), "-q"]
        ran = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True, check=False)
    assert ran.returncode == 3
    (line,) = ran.stderr.splitlines()
    assert line == "modelguard: error: standard output: cannot be written (No space left on device); free some space or use -o"


# Workers that cannot be had, and what they must not be believed


def test_a_machine_that_lets_no_worker_start_is_no_verdict(
    mg: Run, tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(**_: object) -> str:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("modelguard._temporary.tempfile.mkdtemp", full)
    ran, report = judged(mg, tmp_path, tiny_model)
    assert ran.code == 3
    assert report["failure"] == (
        "the isolated worker: could not be started (No space left on device); free memory, processes or temporary space (TMPDIR)"
    )


def test_a_worker_that_cannot_be_replaced_costs_what_it_had_to_do(
    mg: Run, tmp_path: Path, tiny_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def worst(child: Child) -> None:
        os.kill(child._process.pid, signal.SIGKILL)
        monkeypatch.setattr(os, "pipe", lambda: (_ for _ in ()).throw(OSError(24, "Too many open files")))

    once_opened(monkeypatch, worst)
    ran, report = judged(mg, tmp_path, tiny_model, "--detector", "format-integrity", "--detector", "remote-code")
    assert ran.code == 3
    assert {item["detector"]: (item["status"], item["reason"]) for item in report["outcomes"]} == {
        "remote-code": ("errored", "its worker was killed by SIGKILL, perhaps by the system for want of memory"),
        "format-integrity": ("errored", "a fresh worker could not be started (Too many open files)"),
    }


@pytest.mark.parametrize(
    ("line", "cause"),
    [
        ("os.kill(os.getpid(), 9)", "was killed by SIGKILL, perhaps by the system for want of memory"),
        ("raise SystemExit", "exited with status 0 before it was done"),
        ("raise ValueError(os.urandom(8).hex())", ""),  # a second build would say something else
    ],
)
def test_a_model_that_ends_its_worker_is_built_once(
    mg: Run, tmp_path: Path, tiny_model: Path, monkeypatch: pytest.MonkeyPatch, line: str, cause: str
) -> None:
    pytest.importorskip("torch")
    pytest.importorskip("modelguard_companions")
    (tmp_path / "mine.py").write_text(f"import os\ndef net():\n    {line}\n")
    monkeypatch.chdir(tmp_path)
    chosen = [word for name in ("final-layer", "mm-bd", "remote-code") for word in ("--detector", name)]
    ran, report = judged(mg, tmp_path, tiny_model, *chosen, "--model", "mine:net")
    assert ran.code == 3
    found = {item["detector"]: (item["status"], item["reason"]) for item in report["outcomes"]}
    reason = f"building the model did not end: its worker {cause}"
    if cause:
        assert found["final-layer"] == ("errored", reason)
        assert found["mm-bd"] == ("errored", f"not started, because final-layer ended so: {reason}")
    else:
        assert found["mm-bd"] == found["final-layer"]
    assert found["remote-code"][0] == "completed"


@pytest.mark.parametrize(
    ("line", "cause"),
    [
        (b'{"answer": "facts"}', 'wrote b\'{"answer": "facts"}\' to the answer pipe, which is not an answer; '),
        (b'{"answer": "facts", "capabilities": [["x"]]}', "which is not an answer; "),
        (b'{"answer": "started", "detector": "format-integrity"}', "answered something other than facts; "),
        (b'{"answer": "found", "detector": "format-integrity", "key": "", "finding": {}}', "answered something other than facts; "),
    ],
    ids=["empty", "wrong types", "another answer", "a broken finding"],
)
def test_a_worker_that_describes_nothing_is_not_believed(
    mg: Run, tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, line: bytes, cause: str
) -> None:
    monkeypatch.setattr(Child, "_block", lambda self, deadline: line + b"\n")
    ran, report = judged(mg, tmp_path, tiny_model)
    assert ran.code == 3
    assert report["failure"].startswith("tiny: could not be opened: the isolated worker ")
    assert cause in report["failure"]


@pytest.mark.parametrize("model", [{"input": 3}, {"input": {"shape": 1, "source": "x"}}, {"error": "x"}, {}])
def test_a_model_that_describes_itself_badly_spoils_no_report(mg: Run, stored: Path, tmp_path: Path, model: dict[str, Any]) -> None:
    report = json.loads(stored.read_text())
    path = tmp_path / "r.json"
    path.write_text(json.dumps({**report, "model": model}))
    for form in ("console", "html", "sarif", "json"):
        assert mg("report", path, "-f", form).code == 1


@IN_PROCESS
def test_an_onnx_model_that_no_runtime_takes_costs_only_what_needs_to_run_it(mg: Run, tmp_path: Path) -> None:
    import onnx

    path = write_onnx_mlp(tmp_path / "m.onnx")
    model = onnx.load(path)
    model.graph.node[0].op_type = "NoSuchOperator"
    onnx.save(model, path)
    ran, report = judged(mg, tmp_path, path)
    statuses = {item["detector"]: item["status"] for item in report["outcomes"]}
    assert ran.code == 0, ran.out
    assert statuses["format-integrity"] == "completed"
    assert "completed" not in {status for name, status in statuses.items() if name in ("final-layer", "mm-bd")}
    assert "not looked at:" in ran.out


def test_progress_is_a_line_a_detector_and_skipped_ones_are_left_to_the_report(capsys: pytest.CaptureFixture[str]) -> None:
    from modelguard import Status

    display = ProgressDisplay(quiet=False)
    display.ended(Outcome("a", Status.COMPLETED), 0.25)
    display.ended(Outcome("b", Status.SKIPPED, "needs samples"), 0.0)
    assert capsys.readouterr().err == "modelguard: a completed in 0.2 s\n"
