"""`modelguard lock` and `scan --lock` against a Hub on loopback: what is pinned stays pinned, and every deviation has its rule."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jsonschema  # type: ignore[import-untyped]
import pytest
from guarding import BAD, GOOD, quick_policy, weights
from support import ROOT, Ran

from modelguard.testing.hub import LoopbackHub

pytestmark = pytest.mark.usefixtures("in_process")

SARIF = json.loads((ROOT / "tests" / "golden" / "sarif-schema-2.1.0.json").read_text(encoding="utf-8"))
CARD = b"---\nlicense: Apache-2.0\nbase_model: org/base\n---\n# A model\n"
Lock = Callable[..., Ran]


@pytest.fixture
def lock(own_hub: LoopbackHub, tmp_path: Path, mg: Callable[..., Ran], monkeypatch: pytest.MonkeyPatch) -> Lock:
    """Run a command in a folder whose lock has ``encoder``, org/name at the tag v1."""
    own_hub.commit("org/base", GOOD)
    own_hub.tag("org/name", "v1", own_hub.commit("org/name", {**GOOD, "README.md": CARD}))
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    quick_policy(tmp_path / "work")

    def run(*argv: object) -> Ran:
        ran = mg(*argv)
        assert "Traceback" not in ran.err
        return ran

    assert run("lock", "add", "hf://org/name@v1", "--name", "encoder", "--policy", "gate.yaml").code == 0
    return run


@pytest.fixture
def scan(lock: Lock) -> Callable[..., tuple[Ran, dict[str, Any]]]:
    """Scan what the lock pins, and return how that ended and the report."""

    def run(*argv: object) -> tuple[Ran, dict[str, Any]]:
        Path("r.json").unlink(missing_ok=True)
        ran = lock("scan", "--lock", "encoder", "-q", "-o", "json=r.json", *argv)
        return ran, json.loads(Path("r.json").read_text()) if Path("r.json").exists() else {}

    return run


def move(hub: LoopbackHub) -> str:
    """Move the tag to a new commit with other weights, and return that."""
    commit = hub.commit("org/name", {"model.safetensors": weights(1), "new.json": b"{}", "e.txt": None})
    hub.tag("org/name", "v1", commit)
    return commit


def edit(old: str, new: str) -> None:
    text = Path("modelguard.lock").read_text()
    assert old in text
    Path("modelguard.lock").write_text(text.replace(old, new, 1))


def rules(report: dict[str, Any]) -> set[str]:
    return {item["rule"] for item in report["decision"]["violations"]}


def test_a_lock_says_what_the_model_is(lock: Lock, own_hub: LoopbackHub) -> None:
    (commit,) = own_hub.repos["org/name"].commits
    text = Path("modelguard.lock").read_text()
    blob = own_hub.repos["org/name"].commits[commit]["model.safetensors"]
    for said in (
        "uri: hf://org/name@v1",
        f"commit: {commit}",
        "licence: apache-2.0",
        "base_model: org/base",
        f"model.safetensors: {{size: {blob.size}, sha256: {blob.sha256}}}",
        "vocab/empty.txt: {size: 0, sha256: e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855}",
    ):
        assert said in text
    assert not [item for item in own_hub.requests if item.kind == "storage"], "weights are not fetched to be pinned"
    ran = lock("lock", "verify")
    assert (ran.code, ran.out.split(":")[0]) == (0, "encoder")


def test_what_is_pinned_is_scanned_at_its_commit(scan: Callable[..., tuple[Ran, dict[str, Any]]], own_hub: LoopbackHub) -> None:
    own_hub.commit("org/name", BAD)  # main moves, the tag does not
    ran, report = scan()
    (commit, _) = own_hub.repos["org/name"].commits
    assert (ran.code, rules(report)) == (0, set())
    assert report["target"]["uri"] == f"hf://org/name@{commit}"
    assert report["policy"]["name"] == "gate"
    assert {**report["lock"], "line": 0} == {"name": "encoder", "file": "modelguard.lock", "line": 0, "differences": []}


def test_a_moved_tag_is_caught_and_taken_over_by_an_update(
    lock: Lock, scan: Callable[..., tuple[Ran, dict[str, Any]]], own_hub: LoopbackHub
) -> None:
    edit("  encoder:\n", "  # reviewed in SEC-981\n  encoder:  # ours\n")
    commit = move(own_hub)
    ran, report = scan()
    assert (ran.code, rules(report)) == (1, {"MG0211"})
    assert commit in report["decision"]["violations"][0]["message"]
    ran = lock("lock", "verify")
    assert (ran.code, "MG0211" in ran.out) == (1, True)
    held = Path("modelguard.lock").read_text()
    ran = lock("lock", "diff", "encoder")
    assert ran.code == 1
    for said in (commit, "changed     model.safetensors", "added       new.json", "removed     e.txt", "UNRELATED"):
        assert said in ran.out
    assert Path("modelguard.lock").read_text() == held, "a diff writes nothing"
    ran = lock("lock", "update", "encoder")
    assert (ran.code, "UNRELATED" in ran.out) == (0, True)
    text = Path("modelguard.lock").read_text()
    assert "  # reviewed in SEC-981\n  encoder:  # ours\n" in text
    assert (f"commit: {commit}" in text, "new.json:" in text, "e.txt:" in text.replace("vocab/empty.txt:", "")) == (True, True, False)
    assert scan()[0].code == 0
    assert lock("lock", "diff").code == 0
    assert lock("lock", "update", "encoder").out.startswith("encoder: as locked")
    assert Path("modelguard.lock").read_text() == text


@pytest.mark.parametrize(
    ("old", "new", "rule"),
    [
        ("config.json: {size: 3, sha256: c", "config.json: {size: 3, sha256: d", "MG0212"),
        ("config.json: {size: 3", "config.json: {size: 4", "MG0212"),
        ("config.json: {size: 3", "gone.json: {size: 3", "MG0214"),
    ],
)
def test_a_file_that_is_not_as_it_was_locked_blocks(
    lock: Lock, scan: Callable[..., tuple[Ran, dict[str, Any]]], old: str, new: str, rule: str
) -> None:
    edit(old, new)
    ran, report = scan()
    assert (ran.code, rules(report)) == (1, {rule} | ({"MG0213"} if rule == "MG0214" else set()))
    assert {item["rule"] for item in report["lock"]["differences"]} == rules(report)
    ran = lock("lock", "verify", "-f", "json")
    assert (ran.code, {item["rule"] for item in ran.json["encoder"]}) == (1, rules(report))
    again = lock("policy", "eval", "r.json", "--policy", "gate.yaml")
    assert (again.code, rule in again.out) == (1, True), "a stored report is judged alike"


def test_a_hub_that_serves_other_bytes_is_caught(scan: Callable[..., tuple[Ran, dict[str, Any]]], own_hub: LoopbackHub) -> None:
    repo = own_hub.repos["org/name"]
    (commit,) = repo.commits
    own_hub.commit("org/other", {"model.safetensors": weights(2)})
    repo.commits[commit]["model.safetensors"] = next(iter(own_hub.repos["org/other"].commits.values()))["model.safetensors"]
    ran, report = scan()
    assert (ran.code, rules(report)) == (1, {"MG0212"}), "listing and bytes agree with each other, and not with the lock"


def test_what_cannot_be_asked_leaves_no_verdict(lock: Lock, scan: Callable[..., tuple[Ran, dict[str, Any]]], own_hub: LoopbackHub) -> None:
    assert scan()[0].code == 0
    ran, report = scan("--offline")
    assert (ran.code, rules(report)) == (3, {"MG0215"})
    assert "the Hub was not asked" in report["decision"]["violations"][0]["message"]
    own_hub.stop()
    ran, report = scan()
    assert (ran.code, rules(report)) == (3, {"MG0215", "MG9006"})
    held = Path("modelguard.lock").read_text()
    for argv in (("verify",), ("diff", "encoder"), ("update", "encoder"), ("add", "hf://org/base", "--name", "base")):
        ran = lock("lock", *argv)
        assert ran.code == 3, argv
        assert "the Hub cannot be reached" in ran.out + ran.err
    assert Path("modelguard.lock").read_text() == held
    edit("hf://org/name@v1", f"hf://org/name@{next(iter(own_hub.repos['org/name'].commits))}")
    assert scan("--offline")[0].code == 0, "a commit cannot move, and the cache has it"


def test_an_update_that_cannot_compare_writes_nothing(lock: Lock, own_hub: LoopbackHub) -> None:
    move(own_hub)
    held = Path("modelguard.lock").read_text()
    own_hub.fault("status", request="resolve", path="model.safetensors", status=503)
    ran = lock("lock", "update", "encoder")
    assert (ran.code, Path("modelguard.lock").read_text()) == (3, held)
    assert "not written" in ran.out
    assert lock("lock", "update", "encoder", "--no-weights").code == 0
    assert Path("modelguard.lock").read_text() != held


def test_sarif_points_at_the_line_that_names_the_model(scan: Callable[..., tuple[Ran, dict[str, Any]]], own_hub: LoopbackHub) -> None:
    move(own_hub)
    ran, _ = scan("-o", "sarif=r.sarif", "--reference", "hf://org/base@main")
    assert ran.code == 1
    document = json.loads(Path("r.sarif").read_text())
    jsonschema.Draft4Validator(SARIF).validate(document)
    (run,) = document["runs"]
    line = Path("modelguard.lock").read_text().splitlines().index("  encoder:") + 1
    assert {item["ruleId"] for item in run["results"]} >= {"MG0211", "MG0205"}
    for result in run["results"]:
        (place,) = result["locations"]
        assert place["physicalLocation"] == {
            "artifactLocation": {"uri": "modelguard.lock", "uriBaseId": "%SRCROOT%"},
            "region": {"startLine": line},
        }
        assert len({item["id"] for item in result["relatedLocations"]}) == len(result["relatedLocations"])
    assert {"%SRCROOT%", "ARTIFACT"} == set(run["originalUriBaseIds"])


@pytest.mark.parametrize(("place", "shown"), [("sub", "sub/my.lock"), ("../elsewhere", "my.lock")])
def test_a_lock_in_another_place_is_named_without_an_absolute_path(lock: Lock, place: str, shown: str) -> None:
    Path(place).mkdir()
    where = (Path(place) / "my.lock").resolve()
    assert lock("lock", "add", "hf://org/base", "--name", "base", "--lock-file", where).code == 0
    ran = lock("scan", "--lock", "base", "--lock-file", where, "-q", "--policy", "gate.yaml", "-f", "json")
    assert (ran.code, ran.json["lock"]["file"]) == (0, shown)
    assert str(Path.cwd()) not in ran.out


def test_several_models_each_with_its_report(lock: Lock, own_hub: LoopbackHub) -> None:
    own_hub.commit("org/bad", BAD)
    assert lock("lock", "add", "hf://org/bad", "--name", "bad", "--reference", "hf://org/base", "--policy", "gate.yaml").code == 0
    (base,) = own_hub.repos["org/base"].commits
    assert f"reference: hf://org/base@{base}" in Path("modelguard.lock").read_text()
    for argv, cause in (
        (("-o", "json=one.json"), "cannot hold 2 reports"),
        (("-f", "json"), "cannot hold 2 reports"),
        (("--plan",), "cannot be combined with --lock"),
        (("nope",), "is not in the lock"),
        (("--lock-file", "none.lock"), "cannot be read"),
    ):
        ran = lock("scan", "--lock", "-q", *argv)
        assert (ran.code, ran.err.count("\n")) == (2, 1), ran.err
        assert cause in ran.err
    ran = lock("scan", "--lock", "-q", "-o", "json={name}.json")
    assert ran.code == 1
    found = {name: json.loads(Path(f"{name}.json").read_text()) for name in ("encoder", "bad")}
    assert {name: report["decision"]["verdict"] for name, report in found.items()} == {"encoder": "pass", "bad": "block"}
    assert found["bad"]["reference"]["revision"] == base
    ran = lock("scan", "--lock", "-q", "--policy", "builtin:nope")
    assert (ran.code, "no such built-in policy" in ran.err) == (2, True), "what is said on the command line goes first"


@pytest.mark.parametrize(
    ("text", "cause"),
    [
        ("version: 1\nmodels: {}\n", "names no model"),
        ("version: 2\nmodels: {}\n", "line 1: version"),
        ("version: 1\nmodels: {x: 1}\n", "line 2: models.x"),
        ("version: 1\nmodels: {}\nmodels: {}\n", "given twice"),
        ("version: 1\nmodels:\n  x: {uri: ./here, commit: " + "0" * 40 + ", files: {}}\n", "must be hf://"),
        ("version: 1\nmodels:\n  x: {uri: 'hf://o/n', commit: main, files: {}}\n", "models.x.commit"),
        (
            "version: 1\nmodels:\n  x:\n    uri: hf://o/n\n    commit: '" + "0" * 40 + "'\n    files: {../x: {size: 1, sha256: x}}\n",
            "is no path",
        ),
        ("\xff", "is not UTF-8"),
    ],
)
def test_a_lock_that_could_mean_two_things_is_refused(lock: Lock, text: str, cause: str) -> None:
    Path("modelguard.lock").write_bytes(text.encode("latin-1"))
    for argv in (("lock", "verify"), ("scan", "--lock", "-q")):
        ran = lock(*argv)
        assert (ran.code, ran.err.count("\n")) == (2, 1), ran.err
        assert cause in ran.err
        assert ran.err.startswith("modelguard: error: modelguard.lock")


@pytest.mark.parametrize(
    ("argv", "cause"),
    [
        (("hf://org/name", "--name", "encoder"), "is in the lock"),
        (("./here", "--name", "x"), "is not on the Hub"),
        (("hf://org/name", "--name", "a/b"), "must be letters"),
        (("hf://org/name", "--name", "x", "--policy", "none.yaml"), "cannot be read"),
        (("hf://org/name", "--name", "x", "--reference", "none"), "does not exist beside the lock"),
        (("hf://org/name", "--name", "x", "--lock-file", "no/m.lock"), "does not exist"),
    ],
)
def test_wrong_arguments_are_refused_before_the_hub_is_asked(lock: Lock, own_hub: LoopbackHub, argv: tuple[str, ...], cause: str) -> None:
    own_hub.requests.clear()
    ran = lock("lock", "add", *argv)
    assert (ran.code, ran.err.count("\n")) == (2, 1), ran.err
    assert cause in ran.err
    assert own_hub.requests == []


def test_a_revision_that_is_not_there(lock: Lock) -> None:
    held = Path("modelguard.lock").read_text()
    ran = lock("lock", "add", "hf://org/name@nope", "--name", "x")
    assert (ran.code, ran.err.count("\n"), Path("modelguard.lock").read_text()) == (3, 1, held)
    assert "no such revision" in ran.err


def test_a_claimed_base_model_is_compared_where_the_lock_has_it(
    lock: Lock, scan: Callable[..., tuple[Ran, dict[str, Any]]], own_hub: LoopbackHub
) -> None:
    quick_policy(Path(), "sources: {licences: [apache-2.0]}\nprovenance: {locked: true, base_model: check}\n")
    ran, report = scan()
    assert (ran.code, rules(report), report["reference"]) == (3, {"MG0232"}, None)
    assert lock("lock", "add", "hf://org/base", "--name", "base", "--policy", "gate.yaml").code == 0
    ran, report = scan()
    assert (ran.code, rules(report), report["reference"]["identity"]) == (0, set(), "hf:org/base")
    assert (report["target"]["licence"], report["target"]["base_models"]) == ("apache-2.0", ["org/base"])
    own_hub.commit("org/base", {"model.safetensors": weights(3)})
    assert lock("lock", "update", "base").code == 0
    ran, report = scan()
    assert (ran.code, {"MG0231"} <= rules(report)) == (1, True)
    ran = lock("scan", "hf://org/name@v1", "-q", "--policy", "gate.yaml", "-f", "json")
    assert (ran.code, {"MG0291", "MG0232"} == rules(ran.json)) == (1, True), "the same model, not from the lock"
