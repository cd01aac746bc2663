"""What parent and worker say to each other: every message survives the pipe, and nothing past a limit is believed."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

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
    Rule,
    Severity,
    Status,
)
from modelguard._scanner import protocol
from modelguard._scanner.protocol import (
    Answer,
    Answers,
    BadAnswer,
    Building,
    Built,
    Ended,
    Facts,
    Failed,
    Found,
    Job,
    Limits,
    Progressed,
    Started,
    Task,
    Tasks,
    ask,
    asked,
    decode,
    encode,
    reference_to,
    resolve,
)
from modelguard._scanner.run import admitted
from modelguard._scanner.values import NotJsonSafe, finite, json_safe
from modelguard.detector import Detector
from modelguard.report import SamplesInfo

FINDING = Finding(
    "MG0001",
    "text",
    Confidence.HIGH,
    location=Location("f", "t", (1, 2), 3, 4),
    evidence={"list": [0.0, 1.0], "scalar": 0.5},
    attachments=(Attachment("mask", "image/png", b"\x89PNG"),),
    key="k",
)
FACTS = Facts(
    capabilities=(Capability.FILES, Capability.WEIGHTS),
    formats=("onnx",),
    unread=("x.bin",),
    problems=("broken",),
    samples=SamplesInfo("s.npz", "0" * 64, 3, True),
    reference=Facts(formats=("onnx",)),
    obstacle="nothing says what 'x' is given",
    licence="apache-2.0",
    base_models=("org/base",),
    card="the head of README.md is not valid YAML",
)
ANSWERS: list[Answer] = [
    FACTS,
    Failed("m: cannot be read; look"),
    Started("d"),
    Progressed("d", 1, 2, "crawling"),
    Found("d", FINDING),
    Found("d", replace(FINDING, severity=Severity.LOW, attachments=(), location=Location())),
    Building("d"),
    Built("d"),
    Ended("d", Status.TIMED_OUT, "late", {"score": 1}, {"classes": 3}),
]


def detector(name: str, *rules: str) -> type[Detector]:
    declared = tuple(Rule(rule, "Name", "title", Severity.HIGH, "d", "r") for rule in rules)
    return type(name, (Detector,), {"id": name, "requires": frozenset(), "rules": declared})


def line(answer: Answer, **changes: Any) -> bytes:
    return json.dumps({**json.loads(encode(answer)), **changes}).encode()


def test_requests_survive_the_pipe() -> None:
    stamp = FileStamp(1, 2, 3, 4, 5)
    artifact = Artifact("hf://a/b", "hf:a/b", Path("/x"), (ArtifactFile("m.onnx", Path("/x/m.onnx"), 3, "0" * 64, stamp),), "f" * 40)
    model = ModelOptions(factory="m:f", cwd=Path("/here"))
    job = Job(artifact, None, Path("/s.npz"), model, ("a:B",), (), 7, Limits(memory=None, threads=2))
    assert asked(Job, ask(job).decode()) == job
    tasks = Tasks((Task("d", "m:D", {"steps": 3}, 1.5),))
    assert asked(Tasks, ask(tasks).decode()) == tasks
    assert ask(job).count(b"\n") == ask(tasks).count(b"\n") == 1


def test_a_class_is_found_again_by_its_reference() -> None:
    assert resolve(reference_to(FileStamp)) is FileStamp
    with pytest.raises(PluginError, match="no_such_module"):
        resolve("no_such_module:X")


@pytest.mark.parametrize("answer", ANSWERS, ids=lambda item: type(item).__name__)
def test_answers_survive_the_pipe(answer: Answer) -> None:
    assert decode(encode(answer)) == answer


def test_answers_come_out_in_order_however_the_bytes_arrive() -> None:
    stream, answers, seen = b"".join(map(encode, ANSWERS)), Answers(), []
    for at in range(0, len(stream), 7):
        answers.feed(stream[at : at + 7])
        while (answer := answers.next()) is not None:
            seen.append(answer)
    assert seen == ANSWERS


def test_a_finding_gets_the_fingerprint_of_its_place_and_nothing_else() -> None:
    declares = detector("d", "MG0001")
    marked = admitted(FINDING, declares, "local:x")
    assert admitted(replace(FINDING, message="other", severity=Severity.LOW, fingerprint="forged"), declares, "local:x").fingerprint == (
        marked.fingerprint
    )
    assert admitted(FINDING, declares, "local:y").fingerprint != marked.fingerprint
    assert admitted(replace(FINDING, key="other"), declares, "local:x").fingerprint != marked.fingerprint
    with pytest.raises(PluginError, match=r"detector d: yielded the undeclared rule MG0001; declare it in `rules` \(declared: MG0002\)"):
        admitted(FINDING, detector("d", "MG0002"), "local:x")


@pytest.mark.parametrize(
    "change",
    [
        {"rule": 3}, {"confidence": "absolute"}, {"severity": "fatal"}, {"location": None}, {"evidence": 3}, {"attachments": [{}]},
        {"message": None}, {"location": {"file": "f", "tensor": None, "rows": "xy", "byte_offset": None, "byte_length": None}},
        {"location": {"file": "f", "tensor": None, "rows": [1.5], "byte_offset": None, "byte_length": None}},
        {"location": {"file": "f", "tensor": None, "rows": None, "byte_offset": "1", "byte_length": None}},
        {"attachments": [{"name": "n", "media_type": "t", "data": "!!"}]},
        {"attachments": [{"name": "n", "media_type": "t", "data": "A" * (8 << 20)}]},
    ],
)  # fmt: skip
def test_a_malformed_finding_is_refused_by_name(change: dict[str, object]) -> None:
    sent = json.loads(encode(Found("d", FINDING)))
    with pytest.raises(PluginError, match="detector d: sent a malformed finding"):
        decode(json.dumps({**sent, "finding": {**sent["finding"], **change}}).encode())


def nested(depth: int) -> object:
    value: object = 1
    for _ in range(depth):
        value = [value]
    return value


def test_numpy_values_become_json() -> None:
    values = {"array": np.arange(2, dtype=np.float32), "scalar": np.float32(0.5), "tuple": (1, "a")}
    assert json_safe(values, "evidence") == {"array": [0.0, 1.0], "scalar": 0.5, "tuple": [1, "a"]}


@pytest.mark.parametrize("value", [float("nan"), {"a": [1, float("inf")]}, {1, 2}, b"bytes", object(), 10**400, -(2**65), nested(100)])
def test_what_json_cannot_carry_is_named(value: object) -> None:
    with pytest.raises(NotJsonSafe, match=r"evidence\.x"):
        json_safe({"x": value}, "evidence")
    kept = finite({"x": value, "fine": 2**64})
    assert kept["fine"] == 2**64, "what was fine is kept"
    answer = decode(encode(Found("d", replace(FINDING, evidence=kept))))
    assert isinstance(answer, Found)
    assert answer.finding.evidence == kept


@pytest.mark.parametrize(
    "sent",
    [
        b"", b"[]", b"{}", b"\xff", b"[" * 100_000, b'{"answer": 1}', b'{"answer": "x"}', b'{"answer": "started"}',
        line(Started("d"), detector=3), line(Started("d"), v=0)[:-1] + b', "w": NaN}', line(Started("d"))[:-1] + b', "w": 1e999}',
        line(Started("d"), v=-(2**65)), line(Started("d"))[:-1] + b', "w": ' + b"9" * 5000 + b"}", line(Started("d"), v=nested(100)),
        line(Progressed("d", 1, 2, ""), done=1.5), line(Progressed("d", 1, 2, ""), note=None), line(Failed("x"), reason=None),
        line(Found("d", FINDING), finding=[]), line(Found("d", FINDING), key=3),
        line(Ended("d", Status.COMPLETED, "", {}), status="fine"), line(Ended("d", Status.COMPLETED, "", {}), summary=[]),
        line(Ended("d", Status.COMPLETED, "", {}), reason=None), line(Ended("d", Status.COMPLETED, "", {}), model="x"),
        line(FACTS, capabilities=["flight"]), line(FACTS, capabilities=None), line(FACTS, formats=[1]), line(FACTS, unread="x"),
        line(FACTS, problems=[{}]), line(FACTS, samples=3), line(FACTS, samples={"origin": "x"}), line(FACTS, reference="x"),
        line(FACTS, samples={"origin": "s", "sha256": "0", "count": True, "labelled": True}), line(FACTS, reference={"capabilities": []}),
    ],
)  # fmt: skip
def test_a_line_that_is_not_an_answer_is_refused(sent: bytes) -> None:
    with pytest.raises(BadAnswer, match=r"wrote .* to the answer pipe, which is not an answer"):
        decode(sent)


def test_progress_is_cut_to_what_can_be_shown() -> None:
    assert decode(line(Progressed("d", 1, 2, ""), done=-3, note="x" * 900)) == Progressed("d", 0, 2, "x" * protocol.MAX_NOTE)


@pytest.mark.parametrize("ended", [b"", b"\n"])
def test_a_line_without_end_is_not_kept(monkeypatch: pytest.MonkeyPatch, ended: bytes) -> None:
    monkeypatch.setattr(protocol, "MAX_LINE", 1 << 20)
    answers = Answers()
    answers.feed(b"x" * (1 << 20) + ended)
    if not ended:
        assert answers.next() is None
    answers = Answers()
    answers.feed(b"x" * ((1 << 20) + 1) + ended)
    with pytest.raises(BadAnswer, match="an answer of more than 1 MiB"):
        answers.next()


def test_the_sum_of_bytes_and_findings_is_limited_per_detector(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(protocol, "MAX_TOTAL", 1 << 20)
    monkeypatch.setattr(protocol, "MAX_FINDINGS", 3)
    answers, found = Answers(), encode(Found("d", FINDING))
    for _ in range(2):
        answers.feed(found * 3)
        assert [answers.next() for _ in range(4)] == [Found("d", FINDING)] * 3 + [None]
        answers.renew()
    answers.feed(found * 4)
    for _ in range(3):
        answers.next()
    with pytest.raises(BadAnswer, match="sent more than 3 findings"):
        answers.next()
    answers.renew()
    with pytest.raises(BadAnswer, match="sent more than 1 MiB of answers"):
        answers.feed(b" " * ((1 << 20) + 1))
