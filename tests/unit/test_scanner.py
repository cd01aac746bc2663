"""Plans, jobs and events: the parts of the scanner that need no process."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from modelguard import (
    Artifact,
    ArtifactFile,
    Attachment,
    Capability,
    Confidence,
    FileStamp,
    Finding,
    Location,
    ModelOptions,
    PluginError,
    Severity,
)
from modelguard._scanner.events import NotJsonSafe, decode_finding, decode_line, encode_finding, is_description, json_safe
from modelguard._scanner.isolation import worker_environment
from modelguard._scanner.job import Job, Limits, Task, dump_tasks, parse_tasks, reference_to, resolve
from modelguard._scanner.plan import make_plan
from modelguard.detector import Detector


def detector(name: str, *needs: Capability) -> type[Detector]:
    return type(name, (Detector,), {"id": name, "requires": frozenset(needs), "rules": ()})


def test_a_plan_names_everything_a_detector_lacks() -> None:
    steps = make_plan(
        [detector("z-all", Capability.GRADIENTS, Capability.FORWARD, Capability.SAMPLES), detector("a-files", Capability.FILES)],
        frozenset({Capability.FILES}),
    )
    assert [(step.detector, step.runnable) for step in steps] == [("a-files", True), ("z-all", False)]
    assert "--samples" in steps[1].reason
    assert "differentiated" in steps[1].reason
    assert "can be run:" not in steps[1].reason


def test_a_plan_does_not_depend_on_the_order_of_registration() -> None:
    classes = [detector(name, Capability.WEIGHTS) for name in "cab"]
    assert make_plan(classes, frozenset()) == make_plan(reversed(classes), frozenset())


def test_a_quick_plan_leaves_out_what_has_no_shorter_form() -> None:
    kinds = {"a": "same", "b": "shorter", "c": "skipped"}
    classes = [type(name, (detector(name, Capability.FILES),), {"when_quick": kind}) for name, kind in kinds.items()]
    plan = {quick: make_plan(classes, frozenset({Capability.FILES}), quick=quick) for quick in (False, True)}
    assert [step.runnable for step in plan[False]] == [True, True, True]
    assert [step.runnable for step in plan[True]] == [True, True, False]
    assert plan[True][2].reason == "left out by --quick; scan without it"


def test_a_job_survives_the_pipe() -> None:
    stamp = FileStamp(1, 2, 3, 4, 5)
    artifact = Artifact("hf://a/b", "hf:a/b", Path("/x"), (ArtifactFile("m.onnx", Path("/x/m.onnx"), 3, "0" * 64, stamp),), "f" * 40)
    job = Job(
        artifact, None, Path("/s.npz"), ModelOptions(factory="m:f", cwd=Path("/here")), ("a:B",), (), 7, Limits(memory=None, threads=2)
    )
    assert Job.parse(job.dump()) == job
    tasks = (Task("d", "m:D", {"steps": 3}, 1.5),)
    assert parse_tasks(dump_tasks(tasks)) == tasks


def test_a_class_is_found_again_by_its_reference() -> None:
    assert resolve(reference_to(FileStamp)) is FileStamp
    with pytest.raises(PluginError, match="no_such_module"):
        resolve("no_such_module:X")


def test_a_finding_survives_the_pipe_with_its_fingerprint() -> None:
    finding = Finding(
        "MG0001",
        "text",
        Confidence.HIGH,
        location=Location("f", "t", (1, 2), 3, 4),
        evidence={"array": np.arange(2, dtype=np.float32), "scalar": np.float32(0.5), "tuple": (1, "a")},
        attachments=(Attachment("mask", "image/png", b"\x89PNG"),),
        key="k",
    )
    event, problem = encode_finding(finding)
    assert problem == ""
    back = decode_finding(json.loads(json.dumps(event)), "d", {"MG0001": Severity.HIGH}, "local:x")
    assert back.severity is Severity.HIGH
    assert back.evidence == {"array": [0.0, 1.0], "scalar": 0.5, "tuple": [1, "a"]}
    assert back.attachments == finding.attachments
    assert back.location == finding.location
    again = decode_finding(
        json.loads(json.dumps({**event, "message": "other", "severity": "low"})), "d", {"MG0001": Severity.HIGH}, "local:x"
    )
    assert again.fingerprint == back.fingerprint, "a fingerprint depends on neither message nor severity"
    elsewhere = decode_finding(event, "d", {"MG0001": Severity.HIGH}, "local:y")
    assert elsewhere.fingerprint != back.fingerprint


@pytest.mark.parametrize(
    "change",
    [
        {"rule": "MG9999"}, {"confidence": "absolute"}, {"severity": "fatal"}, {"location": None}, {"evidence": 3}, {"attachments": [{}]},
        {"location": {"file": "f", "tensor": None, "rows": "xy", "byte_offset": None, "byte_length": None}},
        {"attachments": [{"name": "n", "media_type": "t", "data": "!!"}]},
    ],
)  # fmt: skip
def test_a_malformed_finding_is_refused_by_name(change: dict[str, object]) -> None:
    event, _ = encode_finding(Finding("MG0001", "text"))
    with pytest.raises(PluginError, match="detector d"):
        decode_finding({**event, **change}, "d", {"MG0001": Severity.HIGH}, "local:x")


def nested(depth: int) -> object:
    value: object = 1
    for _ in range(depth):
        value = [value]
    return value


@pytest.mark.parametrize("value", [float("nan"), {"a": [1, float("inf")]}, {1, 2}, b"bytes", object(), 10**400, -(2**65), nested(100)])
def test_what_json_cannot_carry_is_named(value: object) -> None:
    with pytest.raises(NotJsonSafe, match="evidence"):
        json_safe({"x": value}, "evidence")
    event, problem = encode_finding(Finding("MG0001", "text", evidence={"x": value, "fine": 2**64}))
    assert problem.startswith("evidence.x")
    assert event["evidence"]["fine"] == 2**64, "the finding is kept, and what was fine in it"
    assert decode_line(json.dumps({"event": "finding", "finding": event}, allow_nan=False).encode())


@pytest.mark.parametrize(
    "line",
    [
        b"", b"[]", b"{}", b'{"event": 1}', b'{"event": "x", "v": NaN}', b"\xff", b"[" * 100_000, b'{"event": "x", "v": 1e999}',
        b'{"event": "x", "v": -36893488147419103232}', b'{"event": "x", "v": ' + b"9" * 5000 + b"}",
        b'{"event": "x", "v": ' + b"[" * 100 + b"]" * 100 + b"}",
    ],
)  # fmt: skip
def test_a_line_that_is_no_event_is_refused(line: bytes) -> None:
    with pytest.raises((ValueError, RecursionError)):
        decode_line(line)


def test_a_worker_sees_no_token_and_no_home() -> None:
    base = {"PATH": "/bin", "HF_TOKEN": "hf_x", "AWS_SECRET_ACCESS_KEY": "k", "HOME": "/root", "LC_ALL": "C", "PYTHONPATH": "/evil"}
    seen = worker_environment(base, "/empty", 3)
    assert seen["PATH"] == "/bin"
    assert seen["HOME"] == "/empty"
    assert seen["LC_ALL"] == "C"
    assert not {"HF_TOKEN", "AWS_SECRET_ACCESS_KEY", "PYTHONPATH"} & set(seen)


DESCRIPTION = {
    "capabilities": ["files", "weights"], "formats": ["onnx"], "unread": [], "problems": [], "reference": None,
    "samples": {"origin": "s.npz", "sha256": "0" * 64, "count": 3, "labelled": True},
}  # fmt: skip


def test_a_description_is_believed_only_in_its_form() -> None:
    assert is_description(DESCRIPTION)
    assert is_description({**DESCRIPTION, "reference": {**DESCRIPTION, "samples": None}})
    for change in (
        {"capabilities": ["flight"]}, {"capabilities": None}, {"formats": [1]}, {"unread": "x"}, {"problems": [{}]}, {"samples": 3},
        {"samples": {"origin": "x"}}, {"samples": {**DESCRIPTION["samples"], "count": True}}, {"reference": "x"},  # type: ignore[dict-item]
        {"reference": {"capabilities": []}},
    ):  # fmt: skip
        assert not is_description({**DESCRIPTION, **change}), change
    assert not is_description(None)
