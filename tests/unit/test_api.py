"""Scans from Python: what docs/api.md shows is run, and what the command line promises holds here too."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import textwrap
import threading
from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import date
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file
from support import ROOT

import modelguard
from modelguard import Capability, Detector, Finding, ModelguardError, PolicyError, Rule, ScanContext, Severity, Status, Target, UsageError

TODAY = date(2026, 1, 1)

DETECTOR = '''
from dataclasses import dataclass, replace

from modelguard import Capability, Detector, Finding, Location, Rule, Severity, option


@dataclass(frozen=True)
class Squares(Detector):
    """Finds square matrices."""

    id = "squares"
    requires = frozenset({Capability.WEIGHTS})
    rules = (Rule("ACME-0001", "Square", "a square matrix", Severity.LOW, "It is square.", "Nothing."),)

    least: int = option(1, "the smallest side", ge=1)

    def detect(self, target, context):
        for checkpoint, tensor in target.walk():
            if len(tensor.shape) == 2 and tensor.shape[0] == tensor.shape[1] >= self.least:
                yield Finding("ACME-0001", f"{tensor.name} is square", location=Location(tensor.file, tensor.name))
        context.summary(score=0.0)
'''


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, tiny_model: Path) -> Path:
    """A folder with the demo's artifacts in small, and a module with a detector."""
    folder = tmp_path_factory.mktemp("api")
    weights = load_file(tiny_model / "model.safetensors")
    tampered = dict(weights)
    tampered["layers.1.weight"] = weights["layers.1.weight"] + np.outer(np.ones(16), np.linspace(0, 1, 16)).astype(np.float32)
    for name, tensors in (("reference", weights), ("clean", weights), ("tampered", tampered)):
        (folder / "demo" / name).mkdir(parents=True)
        save_file(tensors, folder / "demo" / name / "model.safetensors", metadata={"saved_as": name})
    (folder / "my_detectors.py").write_text(DETECTOR)
    return folder


@pytest.fixture
def here(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(folder)
    monkeypatch.syspath_prepend(str(folder))
    return folder


def test_the_readmes_code_runs(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    (block,) = (block for block in re.findall(r"```python\n(.*?)```", text, re.DOTALL) if "modelguard.scan" in block)
    exec(compile(block, "README.md", "exec"), {})
    assert capsys.readouterr().out == "pass 0\n"


def test_the_documentations_code_runs(here: Path) -> None:
    text = (ROOT / "docs" / "api.md").read_text(encoding="utf-8")
    blocks = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    assert len(blocks) == 10
    names: dict[str, object] = {}
    for number, block in enumerate(blocks):
        exec(compile(block, f"docs/api.md block {number}", "exec"), names)
    assert json.loads((here / "report.json").read_text())["decision"]["verdict"] == "block"


def test_every_argument_is_documented() -> None:
    import inspect

    text = (ROOT / "docs" / "api.md").read_text(encoding="utf-8")
    documented = {name for line in text.splitlines() if line.startswith("| `") for name in re.findall(r"`(\w+)`", line.split(" | ")[0])}
    assert documented == set(inspect.signature(modelguard.scan).parameters)
    for name in documented:
        assert f":param {name}:" in (modelguard.scan.__doc__ or ""), name


def test_it_runs_from_a_string_and_prints_nothing_of_its_own(here: Path) -> None:
    code = "import modelguard; print(len(modelguard.scan('demo/clean', reference='demo/reference').outcomes))"
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert int(ran.stdout) == len(modelguard.scan("demo/clean", reference="demo/reference").outcomes)
    assert ran.stderr == ""


def test_it_runs_from_a_script_without_a_guard_and_imports_neither_torch_nor_onnxruntime(here: Path, tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(
        textwrap.dedent("""
            import sys
            import modelguard
            assert not modelguard.scan("demo/clean").failure
            assert not {"torch", "onnxruntime"} & set(sys.modules)
        """)
    )
    subprocess.run([sys.executable, str(script)], check=True)


def test_it_runs_in_threads(here: Path) -> None:
    reports: dict[str, modelguard.Report] = {}

    def work(name: str) -> None:
        reports[name] = modelguard.scan(f"demo/{name}", reference="demo/reference", detectors=["weight-diff"])

    threads = [threading.Thread(target=work, args=(name,)) for name in ("clean", "tampered")]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not reports["clean"].findings()
    assert reports["tampered"].findings()


def test_it_gives_the_command_lines_report(here: Path, capfd: pytest.CaptureFixture[str]) -> None:
    from modelguard._cli import run

    capfd.readouterr()
    code = run(["scan", "demo/tampered", "--reference", "demo/reference", "--option", "weight-diff.max_rank=4", "-q", "-f", "json"])
    printed = json.loads(capfd.readouterr().out)
    policy = modelguard.load_policy()
    report = modelguard.scan("demo/tampered", reference="demo/reference", policy=policy, options={"weight-diff": {"max_rank": 4}})
    decision = modelguard.evaluate(report, policy, TODAY)
    rendered = json.loads(modelguard.render(report, decision))
    assert {**rendered, "timings": 0} == {**printed, "timings": 0}
    assert decision.exit_code == code == 1
    assert capfd.readouterr() == ("", "")


def test_paths_policies_and_options_may_be_given_as_objects(here: Path, tmp_path: Path) -> None:
    file = tmp_path / "p.yaml"
    file.write_text("version: 1\nname: mine\ndetectors: {required: [remote-code], options: {weight-diff: {max_rank: 2}}}\n")
    target, reference = here / "demo" / "clean", here / "demo" / "reference"
    report = modelguard.scan(
        target, reference=reference, policy=file, detectors=["weight-diff"], options={"weight-diff": {"max_findings": "3"}}
    )
    assert report.options == {"weight-diff": {"max_rank": 2, "max_findings": 3}}
    policy = modelguard.load_policy(file)
    assert modelguard.scan(target, policy=policy, detectors=["remote-code"]).policy == policy.requiring(["remote-code"]).info
    narrowed = replace(policy.requiring(["format-integrity"]).info, alone=("format-integrity",))
    assert modelguard.scan(target, policy=policy, detectors=["format-integrity"]).policy == narrowed
    assert report.target.uri == "clean"


def test_what_happens_is_told(here: Path) -> None:
    told: list[tuple[str, int, int, str]] = []
    modelguard.scan("demo/clean", detectors=["format-integrity"], progress=lambda *what: told.append(what))
    assert ("format-integrity", 0, 0, "") in told
    assert any(what == "reading" and done == total > 0 for what, done, total, _ in told)


def test_a_class_may_be_tried_without_a_plugin(here: Path) -> None:
    import my_detectors  # type: ignore[import-not-found]

    report = modelguard.scan("demo/clean", detectors=[my_detectors.Squares, "remote-code"], options={"squares": {"least": 17}})
    assert {outcome.detector: outcome.status for outcome in report.outcomes} == dict.fromkeys(("remote-code", "squares"), Status.COMPLETED)
    assert not report.findings()
    assert report.options == {"squares": {"least": 17}}


@dataclass(frozen=True)
class Ours(Detector):
    id = "ours"
    requires = frozenset({Capability.FILES})
    rules = (Rule("MG7001", "Ours", "a rule", Severity.LOW, "It is.", "Do."),)

    def detect(self, target: Target, context: ScanContext) -> Iterator[Finding]:
        yield from ()


class Impostor(Ours):
    id = "weight-diff"


class Misnamed(Ours):
    id = "misnamed"
    rules = (Rule("acme1", "Ours", "a rule", Severity.LOW, "It is.", "Do."),)


def test_a_class_that_cannot_be_tried_is_refused() -> None:
    class Local(Ours):
        id = "local"
        rules = (Rule("ACME-0001", "Ours", "a rule", Severity.LOW, "It is.", "Do."),)

    for detector, words in (
        (Ours, "rule MG7001: .* declares it, and MG is the prefix of modelguard"),
        (Impostor, "detector weight-diff: another class has this id"),
        (Misnamed, "declares a rule 'acme1', which is not a rule id"),
        (Local, "cannot import that; put the class into a module"),
    ):
        with pytest.raises(ModelguardError, match=words):
            modelguard.scan("demo/clean", detectors=[detector])


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"detectors": ["weight-dif"]}, "detector weight-dif: there is no such detector; did you mean weight-diff?"),
        ({"detectors": "weight-diff"}, "detectors 'weight-diff': must be a list of ids or classes; write ['weight-diff']"),
        ({"detectors": []}, "detectors: names none, so nothing would be looked at"),
        ({"options": {"nobody": {}}}, "options of nobody: there is no such detector"),
        ({"options": {"weight-diff": {"steps": 1}}}, "option weight-diff.steps: there is no such option"),
        ({"options": {"weight-diff": {"max_rank": 0}}}, "option weight-diff.max_rank: 0 is out of range; it must be >= 1"),
        ({"samples": "nowhere.npz"}, "samples nowhere.npz: does not exist"),
        ({"policy": "nowhere.yaml"}, "nowhere.yaml: cannot be read"),
        ({"memory": "12"}, "memory 12: must be a size of at least 256M"),
        ({"memory": 1024}, "memory 1024: must be a size of at least 256M"),
        ({"threads": 0}, "threads 0: must be from 1 to 1024"),
        ({"timeout": float("nan")}, "timeout nan: must be a finite number of seconds above 0"),
        ({"timeout": -1}, "timeout -1: must be a finite number of seconds above 0"),
        ({"seed": -1}, "seed -1: must be from 0 to 2^63 - 1"),
        ({"model": "factory"}, "model factory: is not module:factory"),
        ({"input": "range=1..0"}, "range is LOW..HIGH"),
        ({"device": "tpu"}, "device tpu: is not known; write one of auto, cpu, cuda"),
        ({"precision": "int8"}, "precision int8: is not known; write one of float32, bfloat16, float16"),
    ],
)
def test_a_wrong_argument_is_an_error_in_one_line_before_anything_is_fetched(given: dict[str, object], words: str) -> None:
    with pytest.raises(UsageError) as caught:
        modelguard.scan("hf://nobody/nothing", **given)  # type: ignore[arg-type]
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)
    assert caught.value.remedy


def test_a_path_that_leads_nowhere_is_a_wrong_argument() -> None:
    for given in ({"target": "no/such/model"}, {"target": ".", "reference": "no/such/model"}):
        with pytest.raises(UsageError, match="no/such/model: there is no such file or folder; check the path"):
            modelguard.scan(**given)  # type: ignore[arg-type]


def test_a_policy_that_names_nothing_known_is_refused(tmp_path: Path) -> None:
    (tmp_path / "p.yaml").write_text("version: 1\nname: x\ndetectors: {required: [weight-dif]}\n")
    with pytest.raises(PolicyError, match="did you mean weight-diff"):
        modelguard.scan("demo/clean", policy=tmp_path / "p.yaml")


def test_render_takes_every_format_there_is_and_no_other(here: Path) -> None:
    report = modelguard.scan("demo/clean", detectors=["remote-code"])
    decision = modelguard.evaluate(report, modelguard.load_policy().requiring(["remote-code"]), TODAY)
    assert json.loads(modelguard.render(report, decision, "sarif"))["version"] == "2.1.0"
    assert modelguard.render(report, decision, "html").startswith("<!doctype html>")
    assert modelguard.render(report, decision, "console").startswith("NO OBJECTION  demo/clean")
    assert modelguard.render(report, decision, "diff")
    with pytest.raises(UsageError, match="format pdf: there is no such format; formats: console, "):
        modelguard.render(report, decision, "pdf")


def test_what_is_no_report_cannot_be_loaded(tmp_path: Path) -> None:
    (tmp_path / "r.json").write_bytes(b"\xff")
    for path, words in ((tmp_path / "r.json", "is not UTF-8"), (tmp_path / "none.json", "cannot be read"), (tmp_path, "cannot be read")):
        with pytest.raises(UsageError, match=words):
            modelguard.load_report(path)


def test_public_names_exist_and_are_listed() -> None:
    assert all(getattr(modelguard, name) is not None for name in modelguard.__all__)
    assert set(modelguard.__all__) <= set(dir(modelguard))
    assert modelguard.__all__ == sorted(modelguard.__all__)
