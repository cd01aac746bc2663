"""What an earlier scan of the same bytes said, in the place of asking again."""

from __future__ import annotations

import json
import shutil
import signal
import sqlite3
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from support import Ran

from modelguard._cache.store import Store
from modelguard._scanner.prepare import RunOptions, ScanArguments, prepare
from modelguard._scanner.run import Silent
from modelguard.report import Status

pytestmark = pytest.mark.usefixtures("in_process")

Run = Callable[..., Ran]


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("MODELGUARD_CACHE", str(tmp_path / "kept"))
    return tmp_path / "kept"


@pytest.fixture
def model(tiny_model: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(tiny_model, tmp_path / "model"))


def scanned(mg: Run, *argv: object) -> tuple[dict[str, Any], set[str]]:
    """The report without its timings, and which detectors were not asked."""
    ran = mg("scan", *argv, "-q", "-f", "json")
    assert ran.err == ""
    report = ran.json
    return report, set(report.pop("timings").get("cached", ()))


def asked(report: dict[str, Any]) -> set[str]:
    """Detectors that the plan did not leave out."""
    return {item["detector"] for item in report["outcomes"] if item["status"] == "completed"}


def test_the_same_bytes_give_the_same_report_without_a_worker(mg: Run, model: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first, known = scanned(mg, model)
    assert known == set()
    from modelguard._scanner import run

    monkeypatch.delattr(run, "Child")
    second, known = scanned(mg, model)
    assert second == first
    assert known >= asked(first)
    shown = mg("scan", model, "-q")
    assert "all cached" in shown.out
    assert "cached" in mg("scan", model, "-q", "-v").out


def test_findings_come_back_whole(mg: Run, model: Path, tiny_model: Path, cache: Path) -> None:
    (model / "evil.pkl").write_bytes(b"cposix\nsystem\n(S'id'\ntR.")
    first, _ = scanned(mg, model, "--reference", tiny_model)
    second, known = scanned(mg, model, "--reference", tiny_model)
    assert "executable-content" in known
    assert second == first
    assert first["decision"]["verdict"] == "block"


@pytest.mark.parametrize("change", ["byte", "file", "name", "option", "seed", "reference"])
def test_whatever_a_detector_could_see_otherwise_is_asked_again(mg: Run, model: Path, tiny_model: Path, cache: Path, change: str) -> None:
    scanned(mg, model, "--reference", tiny_model)
    argv: list[object] = [model, "--reference", tiny_model]
    if change == "byte":
        body = bytearray((model / "model.safetensors").read_bytes())
        body[-1] ^= 1
        (model / "model.safetensors").write_bytes(body)
    elif change == "file":
        (model / "notes.txt").write_text("more")
    elif change == "name":
        argv[0] = model.rename(model.with_name("other"))
    elif change == "option":
        argv += ["--option", "weight-forensics.search_files=false"]
    elif change == "seed":
        argv += ["--seed", "1"]
    else:
        argv[2] = reference = shutil.copytree(model, model.with_name("reference"))
        (reference / "README.md").write_text("# another reference\n")
    report, known = scanned(mg, *argv)
    if change == "option":
        assert "weight-forensics" not in known
        assert "format-integrity" not in known, "it runs last, and is told what weight-forensics looked at"
        assert "executable-content" in known
    else:
        assert known == set()
    assert asked(report)


def test_no_cache_asks_and_keeps_nothing(mg: Run, model: Path, cache: Path) -> None:
    scanned(mg, model, "--no-cache")
    assert not cache.exists()
    scanned(mg, model)
    assert scanned(mg, model, "--no-cache")[1] == set()


def test_another_policy_judges_the_same_outcomes(mg: Run, model: Path, cache: Path) -> None:
    scanned(mg, model)
    report, known = scanned(mg, model, "--policy", "builtin:strict")
    assert known
    assert report["decision"]["verdict"] == "incomplete"


def test_a_poisoned_entry_is_asked_again_and_replaced(mg: Run, model: Path, cache: Path) -> None:
    first, _ = scanned(mg, model)
    with sqlite3.connect(cache / "outcomes.sqlite") as database:
        database.execute("UPDATE entries SET body = replace(body, 'completed', 'completed') || '\n' WHERE kind = 'executable-content'")
    again, known = scanned(mg, model)
    assert again == first
    assert "executable-content" not in known
    assert "weight-forensics" in known
    assert "executable-content" in scanned(mg, model)[1]


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"not an answer\n",
        b'{"answer": "started", "detector": "executable-content"}\n',
        b'{"answer": "ended", "detector": "remote-code", "status": "completed", "reason": "", "summary": {"score": 0.0}, "model": null}\n',
        b'{"answer": "looked", "detector": "executable-content", "at": {"path": "/etc/passwd", "what": "x", "format": "", "missed": ""}}\n'
        b'{"answer": "ended", "detector": "executable-content", "status": "completed", "reason": "", "summary": {"score": 0.0}, '
        b'"model": null}\n',
    ],
)
def test_an_entry_with_the_right_key_that_says_something_else_is_asked_again(mg: Run, model: Path, cache: Path, body: bytes) -> None:
    first, _ = scanned(mg, model)
    with sqlite3.connect(cache / "outcomes.sqlite") as database:
        (name,) = database.execute("SELECT name FROM entries WHERE kind = 'executable-content'").fetchone()
    with Store(cache) as store:
        store.put({name: ("executable-content", body)})
    again, known = scanned(mg, model)
    assert again == first
    assert "executable-content" not in known


def test_what_did_not_come_to_its_end_is_not_kept(mg: Run, model: Path, cache: Path) -> None:
    prepared = prepare(ScanArguments(target=model, run=RunOptions(cache=True)))
    hurried = replace(prepared.request, timeouts={"weight-forensics": 1e-9})
    first = replace(prepared, request=hurried).scan(Silent())
    assert [item.detector for item in first.outcomes if item.status is Status.TIMED_OUT] == ["weight-forensics"]
    _, known = scanned(mg, prepared.request.target)
    assert "executable-content" in known
    assert not known & {"weight-forensics", "format-integrity"}, "the last looks again where one that it waits for does"
    assert "weight-forensics" in scanned(mg, model)[1]


def test_another_build_of_a_detector_is_asked(mg: Run, model: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from modelguard._cache import code

    scanned(mg, model)
    real = code._build
    monkeypatch.setattr(code, "_build", lambda name, found: f"{real(name, found)}{'+' if name == 'modelguard-rome' else ''}")
    code.code.cache_clear()
    try:
        _, known = scanned(mg, model)
    finally:
        code.code.cache_clear()
    assert "weight-forensics" not in known
    assert "executable-content" in known


@pytest.mark.parametrize("fault", ["full", "damaged", "a file", "open to all"])
def test_a_cache_that_cannot_be_used_costs_a_line_and_no_verdict(
    mg: Run, model: Path, cache: Path, fault: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if fault == "a file":
        cache.write_text("not a folder")
    else:
        Store(cache).close()
    if fault == "damaged":
        (cache / "outcomes.sqlite").write_bytes(b"no database" * 1000)
    if fault == "open to all":
        cache.chmod(0o777)
    if fault == "full":
        # The kernel's own limit on the size of files says what a full disk says, to this process's SQLite; its workers are told the same.
        import resource

        previous = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (13_000, hard))
        try:
            ran = mg("scan", model)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
            signal.signal(signal.SIGXFSZ, previous)
    else:
        ran = mg("scan", model)
    assert ran.code == 0, ran.err
    assert ran.out.startswith("PASS")
    (line,) = [line for line in ran.err.splitlines() if "without" in line]
    assert "cache" in line
    assert str(cache.parent) not in mg("scan", model, "-f", "json").out


def test_commands_for_what_is_kept(mg: Run, model: Path, cache: Path) -> None:
    assert mg("cache", "stats").out.startswith(f"{cache}: 0 entries")
    mg("scan", model, "-q")
    assert mg("cache", "stats", "-f", "json").json["entries"]["executable-content"] == 1
    assert mg("cache", "verify").code == 0
    with sqlite3.connect(cache / "outcomes.sqlite") as database:
        database.execute("UPDATE entries SET mac = x'00' WHERE kind = 'remote-code'")
    ran = mg("cache", "verify")
    assert (ran.code, "1 other removed" in ran.out) == (3, True)
    assert mg("cache", "clear").code == 0
    assert mg("cache", "stats", "-f", "json").json["entries"] == {}
    assert "nothing" in mg("cache", "clear").out


def test_commands_say_when_nothing_is_kept(mg: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MODELGUARD_CACHE", "off")
    for name in ("stats", "verify", "clear"):
        ran = mg("cache", name)
        assert ran.code == 2
        assert "unset MODELGUARD_CACHE" in ran.err


def test_the_api_keeps_nothing_unless_told(model: Path, cache: Path) -> None:
    import modelguard

    modelguard.scan(model)
    assert not cache.exists()
    modelguard.scan(model, cache=True)
    assert "executable-content" in json.loads(modelguard.render(*_judged(model)))["timings"]["cached"]


def _judged(model: Path) -> tuple[Any, Any]:
    import datetime

    import modelguard

    report = modelguard.scan(model, cache=True)
    return report, modelguard.evaluate(report, modelguard.load_policy("builtin:baseline"), datetime.date(2026, 1, 1))
