"""`modelguard fleet`: many models, real processes, a real journal, a Hub on the loopback interface."""

from __future__ import annotations

import contextlib
import csv
import json
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jsonschema  # type: ignore[import-untyped]
import pytest
from guarding import BAD, GOOD, quick_policy, weights
from support import Ran

from modelguard._schemas.fleet import FleetDocument
from modelguard.testing.hub import LoopbackHub

Run = Callable[..., Ran]


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working directory: three models, of which one is hostile and one is damaged, and a list of them."""
    monkeypatch.chdir(tmp_path)
    for name, files in (("a", GOOD), ("b", BAD), ("c", GOOD)):
        for path, body in files.items():
            (tmp_path / name / path).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / name / path).write_bytes(body)
    (tmp_path / "c" / "model.safetensors").write_bytes(weights(1)[:-3])
    (tmp_path / "list.txt").write_text("# models\na\nb\n\nc\na\nnowhere\n")
    quick_policy(tmp_path)
    return tmp_path


def fleet(mg: Run, *argv: object, code: int = 1) -> dict[str, Any]:
    ran = mg("fleet", *argv, "--policy", "gate.yaml", "-q", "-f", "json")
    assert ran.code == code, ran.err
    document: dict[str, Any] = ran.json
    return document


def verdicts(document: dict[str, Any]) -> dict[str, str]:
    return {item["uri"]: item["verdict"] for item in document["models"]}


EXPECTED = {"a": "pass", "b": "block", "c": "block", "nowhere": "incomplete"}


def test_every_model_once_and_one_summary_in_every_format(mg: Run, here: Path) -> None:
    ran = mg(
        "fleet",
        "list.txt",
        "--policy",
        "gate.yaml",
        "--workers",
        2,
        "-o",
        "html=s.html",
        "-o",
        "json=s.json",
        "-o",
        "csv=s.csv",
        "--reports",
        "r",
    )
    assert ran.code == 1, ran.err
    assert ran.out.splitlines()[0] == "4 models: 2 BLOCKED, 1 NO VERDICT, 1 PASS"
    assert sorted(line.split(": ")[1] for line in ran.err.splitlines()) == [f"{n} of 4" for n in range(1, 5)]
    document = json.loads((here / "s.json").read_text())
    jsonschema.Draft202012Validator(mg("schema", "fleet").json).validate(document)
    FleetDocument.model_validate(document)
    assert verdicts(document) == EXPECTED
    assert document["counts"] == {"block": 2, "incomplete": 1, "pass": 1}
    rows = list(csv.DictReader((here / "s.csv").open()))
    assert {row["uri"]: row["verdict"] for row in rows} == EXPECTED
    page = (here / "s.html").read_text()
    assert 'class="sortable"' in page
    reports = {json.loads(path.read_text())["target"]["uri"]: path for path in (here / "r").glob("*.json")}
    assert set(reports) == set(EXPECTED)
    assert mg("report", reports["b"]).code == 1
    pages = [path.with_suffix(".html") for path in reports.values()]
    assert all(f'href="r/{path.name}"' in page for path in pages)
    assert "BLOCKED" in reports["b"].with_suffix(".html").read_text()


def test_exit_codes_are_those_of_one_scan(mg: Run, here: Path) -> None:
    for names, code in (("a", 0), ("a\nnowhere", 3), ("nowhere\nb", 1), ("# nothing", 3)):
        (here / "some.txt").write_text("\ufeff" + names)  # as some editors save it
        fleet(mg, "some.txt", "--fresh", code=code)


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        (["none.txt"], "cannot be read"),
        (["a"], "is a folder"),
        (["list.txt", "--since", "list.txt"], "--since list.txt"),
        (["list.txt", "-o", "sarif=x"], "there is no format"),
        (["list.txt", "--journal", "no/where"], "--journal"),
        (["list.txt", "--journal", "list.txt"], "--journal"),
        (["hf://*/x"], "hf://org/*"),
        (["list.txt", "--gpus", "1"], "--executor ray"),
        (["list.txt", "-o", "json=list.txt"], "list.txt is read by this command"),
        (["list.txt", "-o", "json=s", "-o", "html=./s"], "s is given to two reports"),
    ],
)
def test_what_is_asked_wrongly_is_refused_before_anything_is_scanned(mg: Run, here: Path, argv: list[str], said: str) -> None:
    ran = mg("fleet", *argv)
    assert (ran.code, ran.err.count("\n")) == (2, 1), ran.err
    assert said in ran.err


def test_what_has_changed_since_an_earlier_summary(mg: Run, here: Path) -> None:
    (here / "earlier.json").write_text(mg("fleet", "list.txt", "--policy", "gate.yaml", "-q", "-f", "json").out)
    assert fleet(mg, "list.txt", "--since", "earlier.json")["since"] == {"changed": 0, "gone": []}
    (here / "a" / "evil.pkl").write_bytes(BAD["extra.pkl"])
    shutil.copytree(here / "a", here / "d")
    (here / "list.txt").write_text("a\nb\nc\nd\n")
    document = fleet(mg, "list.txt", "--since", "earlier.json")
    changes = {item["uri"]: item["change"] for item in document["models"]}
    assert changes == {"a": ["was pass", "other files", "new findings"], "b": [], "c": [], "d": ["new"]}
    assert document["since"] == {"changed": 2, "gone": ["nowhere"]}


def started(here: Path, *argv: object, **more: Any) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "modelguard", "fleet", *map(str, argv), "--policy", "gate.yaml", "--workers", "2"]
    return subprocess.Popen(command, cwd=here, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True, **more)


@pytest.fixture
def many(here: Path) -> Path:
    """Twelve models."""
    names = [f"m{number:02}" for number in range(12)]
    for number, name in enumerate(names):
        shutil.copytree(here / ("b" if number % 4 == 0 else "a"), here / name)
    (here / "many.txt").write_text("\n".join(names))
    return here


def of_many() -> dict[str, str]:
    return {f"m{number:02}": "block" if number % 4 == 0 else "pass" for number in range(12)}


def ended(process: subprocess.Popen[str], lines: int) -> None:
    """Wait until so many models are done."""
    assert process.stderr is not None
    for _ in range(lines):
        assert " of " in process.stderr.readline()


def children(pid: int) -> Iterator[int]:
    for task in Path(f"/proc/{pid}/task").iterdir():
        for child in (task / "children").read_text().split():
            yield int(child)


def alive(pid: int) -> bool:
    """Whether the process runs: a container's init may leave the dead unburied."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(") ", 1)[1][0] not in "ZX"
    except OSError:
        return False


def test_killed_it_goes_on_where_it_was(mg: Run, many: Path) -> None:
    process = started(many, "many.txt")
    ended(process, 4)
    process.kill()
    process.communicate()
    with sqlite3.connect(many / "modelguard-fleet.journal") as database:
        before = {key.rpartition(" ")[0] for (key,) in database.execute("SELECT key FROM models")}
    assert 4 <= len(before) < 12
    ran = mg("fleet", "many.txt", "--policy", "gate.yaml", "--workers", 2, "-f", "json")
    assert ran.code == 1
    assert verdicts(ran.json) == of_many()
    assert f"{len(before)} of 12 models were done already" in ran.err
    again = {line.split()[-1] for line in ran.err.splitlines() if " of 12: " in line}
    assert again == set(of_many()) - before


def test_a_model_that_was_touched_since_is_scanned_again(mg: Run, many: Path) -> None:
    process = started(many, "many.txt")
    ended(process, 4)
    process.kill()
    process.communicate()
    with sqlite3.connect(many / "modelguard-fleet.journal") as database:
        passed = sorted({key.rpartition(" ")[0] for (key,) in database.execute("SELECT key FROM models")} & {"m01", "m02", "m03"})
    (many / passed[0] / "evil.pkl").write_bytes(BAD["extra.pkl"])
    assert verdicts(fleet(mg, "many.txt", "--workers", "2"))[passed[0]] == "block"


def test_ctrl_c_keeps_what_is_done_and_leaves_no_process(mg: Run, many: Path) -> None:
    process = started(many, "many.txt", "-f", "json")
    ended(process, 3)
    below = [*children(process.pid), *(inner for child in children(process.pid) for inner in children(child))]
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 130, err
    document = json.loads(out)
    assert 3 <= len(document["models"]) < 12
    assert document["not_scanned"] == 12 - len(document["models"])
    assert all(of_many()[uri] == verdict for uri, verdict in verdicts(document).items())
    deadline = time.monotonic() + 20
    while any(map(alive, below)) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not any(map(alive, below))
    assert verdicts(fleet(mg, "many.txt")) == of_many()


def test_a_process_that_dies_costs_its_model_a_second_try(many: Path) -> None:
    process = started(many, "many.txt", "-f", "json")
    ended(process, 2)
    os.kill(next(children(process.pid)), signal.SIGKILL)
    out, err = process.communicate(timeout=120)
    assert process.returncode == 1, err
    assert verdicts(json.loads(out)) == of_many()
    assert len(json.loads(out)["models"]) == 12


def test_two_fleets_on_one_journal_are_refused(mg: Run, many: Path) -> None:
    process = started(many, "many.txt")
    ended(process, 1)
    ran = mg("fleet", "many.txt", "--policy", "gate.yaml")
    process.kill()
    process.communicate()
    assert (ran.code, "another fleet is writing it" in ran.err) == (2, True)


def test_a_run_that_asked_something_else_is_not_gone_on_with(mg: Run, many: Path) -> None:
    process = started(many, "many.txt")
    ended(process, 1)
    process.kill()
    process.communicate()
    ran = mg("fleet", "many.txt", "--policy", "gate.yaml", "--seed", 1)
    assert (ran.code, "--fresh" in ran.err) == (2, True)
    (many / "many.txt").write_text("m00\n")
    assert verdicts(fleet(mg, "many.txt", "--seed", 1, "--fresh")) == {"m00": "block"}


def test_a_journal_that_cannot_be_written_loses_no_verdict(mg: Run, here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from modelguard._fleet.journal import Journal

    real = Journal._write

    def full(self: Journal, statement: str, values: tuple[str | bytes, ...]) -> None:
        self._database.execute("PRAGMA max_page_count = 1")  # SQLite then says what it says of a full disk
        real(self, statement, (*values[:-1], values[-1] * 1000) if values else values)

    monkeypatch.setattr(Journal, "_write", full)
    ran = mg("fleet", "list.txt", "--policy", "gate.yaml", "-q", "-f", "json")
    assert verdicts(ran.json) == EXPECTED
    assert ran.code == 1
    assert "disk is full" in ran.err


def test_the_second_time_only_what_changed_is_looked_at(mg: Run, here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MODELGUARD_CACHE", str(here / "kept"))
    first = fleet(mg, "list.txt")
    assert not any(item.get("cached") for item in first["models"])
    (here / "a" / "e.txt").write_text("changed")
    second = fleet(mg, "list.txt")
    assert {item["uri"]: bool(item.get("cached")) for item in second["models"]} == {"a": False, "b": True, "c": True, "nowhere": False}
    assert verdicts(second) == EXPECTED


@pytest.fixture
def org(hub: LoopbackHub, here: Path, monkeypatch: pytest.MonkeyPatch) -> LoopbackHub:
    """An organisation with three models, one of them hostile, and a model of somebody else; for processes of this test."""
    for name, files in (("org/a", GOOD), ("org/b", BAD), ("org/bert", GOOD), ("other/d", GOOD)):
        hub.commit(name, files)
    for name, value in hub.env(here / "hf").items():
        monkeypatch.setenv(name, value)
    return hub


def from_shell(here: Path, *argv: str) -> Ran:
    """Run the command in a process of its own: the client reads the environment when it is imported."""
    ran = subprocess.run([sys.executable, "-m", "modelguard", *argv], cwd=here, capture_output=True, text=True)
    return Ran(ran.returncode, ran.stdout, ran.stderr)


def of_hub(here: Path, *argv: str, code: int = 1) -> dict[str, str]:
    ran = from_shell(here, "fleet", *argv, "--policy", "gate.yaml", "-q", "-f", "json")
    assert (ran.code, ran.err) == (code, ""), ran.out[:3000]
    return verdicts(ran.json)


OF_ORG = {"hf://org/a": "pass", "hf://org/b": "block", "hf://org/bert": "pass"}


def test_all_of_an_organisation(org: LoopbackHub, here: Path) -> None:
    org.page_size = 2
    assert of_hub(here, "hf://org/*") == OF_ORG
    assert set(of_hub(here, "hf://org/be*", code=0)) == {"hf://org/bert"}
    of_hub(here, "hf://nobody/*", code=3)


@pytest.mark.slow
def test_a_hub_that_is_busy_failing_and_breaks_off_costs_time_and_no_verdict(org: LoopbackHub, here: Path) -> None:
    org.fault("rate-limit", request="models", times=1, seconds=1)
    org.fault("rate-limit", request="info", times=4, seconds=1)
    org.fault("status", request="tree", status=503, times=6)
    org.fault("truncate", path="model.safetensors", times=3)
    org.fault("drop", request="resolve", times=2)
    assert of_hub(here, "hf://org/*") == OF_ORG


def test_a_lock_brings_its_policies(org: LoopbackHub, here: Path) -> None:
    for name in ("a", "bert"):
        ran = from_shell(here, "lock", "add", f"hf://org/{name}@main", "--name", name, "--policy", "gate.yaml")
        assert ran.code == 0, ran.err
    org.commit("org/bert", {"config.json": b'{"x": 1}\n'})
    ran = from_shell(here, "fleet", "modelguard.lock", "-q", "-f", "json")
    assert ran.code == 1, ran.err
    assert {item["name"]: item["verdict"] for item in ran.json["models"]} == {"a": "pass", "bert": "block"}
    assert any(reason["rule"] == "MG0211" for reason in ran.json["models"][0]["reasons"])


@pytest.mark.slow
def test_a_ray_cluster_of_which_a_worker_is_killed_says_the_same(many: Path) -> None:
    pytest.importorskip("ray", reason="Ray has no wheel for this Python or system")
    process = started(many, "many.txt", "-f", "json", "--executor", "ray")
    ended(process, 1)
    killed = 0
    deadline = time.monotonic() + 30
    while not killed and time.monotonic() < deadline:
        for pid in below(process.pid):
            with contextlib.suppress(OSError):
                if b"ray::_there" in Path(f"/proc/{pid}/cmdline").read_bytes():
                    os.kill(pid, signal.SIGKILL)
                    killed = pid
                    break
    out, err = process.communicate(timeout=200)
    assert killed
    assert process.returncode == 1, err
    assert verdicts(json.loads(out)) == of_many()
    local = started(many, "many.txt", "-f", "json", "--fresh", "-q")
    expected = json.loads(local.communicate(timeout=200)[0])

    def lasting(document: dict[str, Any]) -> list[dict[str, Any]]:
        return [{name: value for name, value in item.items() if name != "seconds"} for item in document["models"]]

    assert lasting(json.loads(out)) == lasting(expected)


def below(pid: int) -> Iterator[int]:
    """Every process below one."""
    with contextlib.suppress(OSError):
        for child in children(pid):
            yield child
            yield from below(child)


def test_without_ray_it_says_what_to_install(here: Path) -> None:
    code = "import sys; sys.modules['ray'] = None; from modelguard._cli import main; main(['fleet', 'list.txt', '--executor', 'ray'])"
    ran = subprocess.run([sys.executable, "-c", code], cwd=here, capture_output=True, text=True)
    assert (ran.returncode, ran.stderr.count("\n")) == (2, 1)
    assert "modelguard-core[ray]" in ran.stderr
