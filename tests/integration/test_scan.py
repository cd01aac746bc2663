"""The main job, through the command line: artifact in, verdict out."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jsonschema  # type: ignore[import-untyped]
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file
from support import ROOT, Ran

from modelguard._reporters import builtin_reporters

Run = Callable[..., Ran]


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory, tiny_model: Path) -> tuple[Path, Path]:
    """(clean copy, copy with one rank-1 edit) of the tiny model."""
    folder = tmp_path_factory.mktemp("pair")
    shutil.copytree(tiny_model, folder / "clean")
    tensors = load_file(tiny_model / "model.safetensors")
    rng = np.random.default_rng(1)
    tensors["layers.1.weight"] = tensors["layers.1.weight"] + 0.05 * np.outer(rng.normal(size=16), rng.normal(size=16)).astype(np.float32)
    (folder / "tampered").mkdir()
    save_file(tensors, folder / "tampered" / "model.safetensors")
    return folder / "clean", folder / "tampered"


def without_timings(text: str) -> str:
    data = json.loads(text)
    data.pop("timings")
    return json.dumps(data, indent=2)


def without_confinement(text: str) -> dict[str, Any]:
    """Without timings either."""
    report: dict[str, Any] = json.loads(without_timings(text))
    del report["confinement"]
    return report


def test_a_scan_in_the_process_of_the_tests_says_what_one_in_a_worker_says(
    mg: Run, tiny_model: Path, pair: tuple[Path, Path], tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    """What holds for the tests that use the fixture holds for users."""
    model = Path(shutil.copytree(pair[1], tmp_path / "model"))
    (model / "evil.pkl").write_bytes(b"cposix\nsystem\n(S'id'\ntR.")
    in_worker = mg("scan", model, "--reference", tiny_model, "-q", "-f", "json")
    request.getfixturevalue("in_process")
    here = mg("scan", model, "--reference", tiny_model, "-q", "-f", "json")
    assert here.code == in_worker.code == 1
    assert without_confinement(here.out) == without_confinement(in_worker.out)


def test_a_clean_copy_passes_and_a_tampered_one_is_blocked(mg: Run, tiny_model: Path, pair: tuple[Path, Path], tmp_path: Path) -> None:
    sarif_schema = json.loads((ROOT / "tests" / "golden" / "sarif-schema-2.1.0.json").read_text())
    report_schema = mg("schema", "report").json
    for path, code, verdict in ((pair[0], 0, "pass"), (pair[1], 1, "block")):
        out, sarif = tmp_path / "r.json", tmp_path / "r.sarif"
        ran = mg(
            "scan",
            path,
            "--reference",
            tiny_model,
            "--policy",
            ROOT / "policies" / "baseline.yaml",
            "-q",
            "-o",
            f"json={out}",
            "-o",
            f"sarif={sarif}",
        )
        assert ran.code == code, ran.err
        report = json.loads(out.read_text())
        jsonschema.Draft202012Validator(report_schema).validate(report)
        jsonschema.Draft7Validator(sarif_schema).validate(json.loads(sarif.read_text()))
        assert report["decision"]["verdict"] == verdict
        assert {"pass": "PASS", "block": "BLOCK"}[verdict] in ran.out.splitlines()[0].upper()
        assert ran.err == ""
    tensors = {finding["location"]["tensor"] for outcome in report["outcomes"] for finding in outcome["findings"]}
    assert "layers.1.weight" in tensors


def test_two_runs_give_the_same_bytes(mg: Run, tiny_model: Path, pair: tuple[Path, Path]) -> None:
    first, second = (mg("scan", pair[1], "--reference", tiny_model, "-q", "-f", "json") for _ in range(2))
    assert without_timings(first.out) == without_timings(second.out)


def test_the_order_of_registration_changes_nothing(
    mg: Run, tiny_model: Path, pair: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    from dataclasses import replace

    from modelguard import _plugins

    first = mg("scan", pair[1], "--reference", tiny_model, "-q", "-f", "json")
    load = _plugins.load

    def reversed_load(**given: Any) -> _plugins.Registry:
        registry = load(**given)
        backwards: dict[str, Any] = {
            kind: dict(reversed(list(getattr(registry, kind).items())))
            for kind in ("detectors", "formats", "sources", "models", "reporters")
        }
        return replace(registry, **backwards, plugins=registry.plugins[::-1])

    monkeypatch.setattr(_plugins, "load", reversed_load)
    second = mg("scan", pair[1], "--reference", tiny_model, "-q", "-f", "json")
    assert without_timings(first.out) == without_timings(second.out)


def test_no_absolute_path_or_host_is_in_a_report(mg: Run, pair: tuple[Path, Path], tmp_path: Path) -> None:
    others = {reporter.format: tmp_path / reporter.format for reporter in builtin_reporters()}
    ran = mg("scan", pair[0], "-q", *(word for form, path in others.items() for word in ("-o", f"{form}={path}")))
    for text in (ran.out, *(path.read_text() for path in others.values())):
        assert str(pair[0].parent) not in text


def test_a_plan_says_what_would_run_and_what_the_rest_lacks(mg: Run, tiny_model: Path) -> None:
    ran = mg("scan", tiny_model, "--plan")
    assert ran.code == 0, ran.err
    lines = {line.split()[0]: line for line in ran.out.splitlines()[1:]}
    assert "run" in lines["format-integrity"]
    assert "required" in lines["format-integrity"]
    assert "--reference" in lines["weight-diff"]
    same = mg("scan", tiny_model, "--plan", "-f", "json").json
    assert {step["detector"]: step["runnable"] for step in same["steps"]}["weight-diff"] is False


def test_a_plan_that_cannot_do_what_is_required_is_no_success(mg: Run, tiny_model: Path) -> None:
    assert mg("scan", tiny_model, "--plan", "--detector", "weight-diff").code == 3


def test_a_plan_for_nothing_ends_as_the_scan_would(mg: Run, tiny_model: Path, tmp_path: Path) -> None:
    (tmp_path / "README.md").write_text("weights elsewhere")
    for argv, empty in (((tmp_path,), tmp_path), ((tiny_model, "--reference", tmp_path), tmp_path)):
        ran = mg("scan", *argv, "--plan")
        assert ran.code == 3
        assert f"the scan would end without a verdict: {empty.name}: holds nothing that can be scanned; point at" in ran.out
        same = mg("scan", *argv, "--plan", "-f", "json")
        assert same.code == 3
        assert same.json["failure"].startswith(f"{empty.name}: holds nothing")
    assert mg("scan", tiny_model, "--plan", "-f", "json").json["failure"] == ""


def test_a_chosen_detector_that_cannot_look_is_no_pass(mg: Run, tiny_model: Path) -> None:
    ran = mg("scan", tiny_model, "--detector", "weight-diff", "-q")
    assert ran.code == 3
    assert "INCOMPLETE" in ran.out.splitlines()[0].upper()
    assert "--reference" in ran.out


def test_standard_output_carries_the_report_and_nothing_else(mg: Run, tiny_model: Path) -> None:
    ran = mg("scan", tiny_model, "-f", "json")
    assert ran.json["schema"] == "modelguard-report/1"
    assert "format-integrity" in ran.err


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        (["--policy", "nowhere.yaml"], ["nowhere.yaml"]),
        (["--policy", "builtin:bseline"], ["bseline", "baseline"]),
        (["--detector", "weight-dif"], ["weight-dif", "did you mean weight-diff"]),
        (["--option", "weight-diff"], ["--option weight-diff", "ID.name=value"]),
        (["--option", "nobody.x=1"], ["nobody", "plugins list"]),
        (["--option", "weight-diff.nonsense=1"], ["weight-diff.nonsense", "no such option"]),
        (["-o", "json"], ["-o json", "FORMAT=PATH"]),
        (["-o", "pdf=x.pdf"], ["pdf", "sarif"]),
        (["-f", "pdf"], ["pdf", "sarif"]),
        (["--samples", "nowhere.npz"], ["samples nowhere.npz", "does not exist"]),
        (["-p", "weight-diff"], ["-p weight-diff", "no:NAME"]),
        (["--memory", "lots"], ["memory lots", "8G"]),
        (["--timeout", "0"], ["timeout"]),
        (["--timeout", "inf"], ["timeout inf: must be a finite number of seconds above 0; write for example"]),
        (["--timeout", "nan"], ["timeout nan: must be a finite number of seconds"]),
        (["--input", "rnage=0..1"], ["--input rnage=0..1: is not a known setting", "range="]),
        (["--input", "range=1..0"], ["--input range=1..0: is wrong: a range is LOW..HIGH"]),
        (["--model", "factory"], ["model factory: is not module:factory; write for example"]),
        (["--model", "module:"], ["model module:: is not module:factory"]),
        (["--model", ".module:f"], ["model .module:f: is not module:factory"]),
        (["--seed", "-1"], ["seed"]),
        (["--no-such-option"], ["--no-such-option"]),
        (["--plan", "-o", "json=x.json"], ["--plan", "leave -o out"]),
        (["--plan", "-f", "sarif"], ["--plan", "console or json"]),
    ],
)
def test_a_wrong_request_is_one_line_and_exit_2(mg: Run, tiny_model: Path, argv: list[str], words: list[str]) -> None:
    ran = mg("scan", tiny_model, *argv)
    assert ran.code == 2
    assert ran.out == ""
    line = ran.err.strip().splitlines()[-1]
    for word in words:
        assert word in line


def test_nothing_is_downloaded_before_the_policy_is_read(mg: Run, tmp_path: Path) -> None:
    policy = tmp_path / "p.yaml"
    policy.write_text("version: 1\nname: a\nname: b\ndetectors: {required: [format-integrity]}\n")
    ran = mg("scan", "hf://nobody/nothing", "--policy", policy)
    assert ran.code == 2
    assert "name" in ran.err
    policy.write_text("version: 1\nname: a\ndetectors: {required: [format-integrity]}\nrules:\n- {match: {rule: MG7777}, action: block}\n")
    ran = mg("scan", "hf://nobody/nothing", "--policy", policy)
    assert ran.code == 2
    assert "MG7777" in ran.err


def test_a_folder_with_nothing_scannable_has_no_verdict(mg: Run, tmp_path: Path) -> None:
    (tmp_path / "README.md").write_text("weights elsewhere")
    ran = mg("scan", tmp_path, "-q")
    assert ran.code == 3
    assert "nothing" in ran.out


def test_a_reference_of_another_architecture_is_told(mg: Run, tiny_model: Path, tmp_path: Path) -> None:
    save_file({"other.weight": np.ones((3, 5), np.float32)}, tmp_path / "model.safetensors")
    ran = mg("scan", tiny_model, "--reference", tmp_path, "-q", "-f", "json")
    assert ran.code in (1, 3)
    assert ran.json["decision"]["verdict"] != "pass"


def test_a_file_that_changes_during_the_scan_is_no_pass(tiny_model: Path, tmp_path: Path) -> None:
    from modelguard import ArtifactError, sha256_file
    from modelguard._sources.local import LocalSource
    from modelguard.artifact import SourceContext

    shutil.copytree(tiny_model, tmp_path / "m")
    artifact = LocalSource().fetch(str(tmp_path / "m"), SourceContext())
    path = tmp_path / "m" / "model.safetensors"
    body = bytearray(path.read_bytes())
    body[-1] ^= 1
    path.write_bytes(body)
    with pytest.raises(ArtifactError, match="changed"):
        artifact.files[0].map()
    assert sha256_file(artifact.files[0].__class__("x", path, 0)).sha256 != artifact.files[0].sha256


@pytest.mark.parametrize("digest", [True, False])
def test_a_change_is_noticed_whether_or_not_files_are_hashed(tiny_model: Path, tmp_path: Path, digest: bool) -> None:
    from modelguard import ArtifactError
    from modelguard._sources.local import LocalSource
    from modelguard.artifact import SourceContext

    shutil.copytree(tiny_model, tmp_path / "m")
    artifact = LocalSource().fetch(str(tmp_path / "m"), SourceContext(digest=digest))
    assert (artifact.files[0].sha256 is not None) == digest
    with (tmp_path / "m" / "model.safetensors").open("r+b") as handle:
        handle.seek(-1, 2)
        handle.write(b"\x01")
    with pytest.raises(ArtifactError, match="changed"):
        artifact.files[0].map()


def test_a_stored_report_can_be_shown_and_judged_again(mg: Run, tiny_model: Path, pair: tuple[Path, Path], tmp_path: Path) -> None:
    report = tmp_path / "r.json"
    assert mg("scan", pair[1], "--reference", tiny_model, "-q", "-o", f"json={report}").code == 1
    again = mg("report", report)
    assert again.code == 1
    assert "BLOCK" in again.out.splitlines()[0].upper()
    assert mg("policy", "eval", report, "--policy", "builtin:baseline").code == 1


def test_details_are_shown_when_asked_for_and_a_scan_explains_its_numbers(
    mg: Run, tiny_model: Path, pair: tuple[Path, Path], tmp_path: Path
) -> None:
    report = tmp_path / "r.json"
    assert "Detectors that ran" not in mg("scan", pair[1], "--reference", tiny_model, "-q", "-o", f"json={report}").out
    shown = mg("report", report, "-v").out
    assert "Detectors that ran" in shown
    assert "relative_norm=" in shown
    shows = json.loads(report.read_text())["shows"]["weight-diff"]
    assert {"key": "rank", "name": "rank"}.items() <= next(item for item in shows["measures"] if item["key"] == "rank").items()
    assert [chart["kind"] for chart in shows["charts"]] == ["map", "bars"]
    assert "largest_gap" not in json.dumps(shows), "only what was measured is explained"


def test_an_uncaught_exception_is_no_verdict(mg: Run, tiny_model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from modelguard._scanner import prepare

    def explode(*_: object) -> None:
        raise RuntimeError("boom")

    monkeypatch.setattr(prepare, "scan", explode)
    ran = mg("scan", tiny_model, "-q")
    assert ran.code == 3
    assert "boom" in ran.err.splitlines()[-1]
