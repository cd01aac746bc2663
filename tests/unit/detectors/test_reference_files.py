"""``reference-files``: files that were not fetched, digests, limits, and what its findings hold."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from modelguard import Finding, ScanContext, Severity, Target, UnfetchedFile
from modelguard._detectors.reference_files import ReferenceFiles
from modelguard._diff import files
from modelguard.testing import check_detector, open_target, run_detector, write_safetensors


def folder(root: Path, **content: str | bytes) -> Path:
    root.mkdir(parents=True)
    write_safetensors(root / "model.safetensors", {"w": np.arange(4, dtype=np.float32)})
    for name, text in content.items():
        path = root / name.replace("__", ".")
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return root


def opened(tmp_path: Path, before: dict[str, str | bytes], after: dict[str, str | bytes]) -> Target:
    return open_target(folder(tmp_path / "after", **after), folder(tmp_path / "before", **before))


def found(target: Target, **options: Any) -> list[Finding]:
    return list(run_detector(ReferenceFiles(**options), target).findings)


def unfetched(target: Target, path: str, digest: str, size: int | None = None) -> Target:
    """The same target with one of its files left where it came from."""
    file = target.artifact.file(path)
    assert file is not None
    kept = tuple(item for item in target.artifact.files if item.path != path)
    missing = UnfetchedFile(path, file.size if size is None else size, digest, "it is large")
    return replace(target, artifact=replace(target.artifact, files=kept, unfetched=(missing,)))


def both(target: Target, change: Callable[[Target], Target]) -> Target:
    assert target.reference is not None
    return replace(change(target), reference=change(target.reference))


def sha256(text: bytes) -> str:
    return "sha256:" + hashlib.sha256(text).hexdigest()


def git(text: bytes) -> str:
    return "git:" + hashlib.sha1(b"blob %d\0" % len(text) + text).hexdigest()


def test_it_keeps_the_contract_of_detectors() -> None:
    check_detector(ReferenceFiles)


def test_equal_folders_have_no_findings_and_say_so(tmp_path: Path) -> None:
    outcome = run_detector(ReferenceFiles(), opened(tmp_path, {"a__json": "{}"}, {"a__json": "{ }"}))
    assert outcome.findings == ()
    numbers = {"score": 0.0, "equal": 0, "restated": 1, "weights": 1, "changed": 0, "missing": 0, "added": 0, "not_compared": 0}
    assert outcome.summary == numbers


@pytest.mark.parametrize("digest", [sha256, git])
def test_files_that_were_not_fetched_are_known_by_their_digests(tmp_path: Path, digest: Callable[[bytes], str]) -> None:
    target = opened(tmp_path, {"t__json": "one"}, {"t__json": "one"})
    assert found(both(target, lambda side: unfetched(side, "t.json", digest(b"one")))) == []
    assert found(unfetched(target, "t.json", digest(b"one"))) == []
    (changed,) = found(unfetched(target, "t.json", digest(b"two")))
    assert (changed.rule, changed.severity) == ("MG0201", Severity.MEDIUM)
    assert "was not read" in changed.message


def test_file_of_which_nothing_is_known_is_not_compared(tmp_path: Path) -> None:
    target = opened(tmp_path, {"t__json": "one"}, {"t__json": "one"})
    (gap,) = found(unfetched(target, "t.json", ""))
    assert (gap.rule, gap.location.file) == ("MG0206", "t.json")
    (changed,) = found(unfetched(target, "t.json", "", size=7))
    assert changed.rule == "MG0201"


def test_what_was_not_read_is_no_documentation(tmp_path: Path) -> None:
    target = opened(tmp_path, {"README__md": "one"}, {"README__md": "two"})
    assert [item.rule for item in found(target)] == ["MG0205"]
    (unread,) = found(unfetched(target, "README.md", sha256(b"two")))
    assert (unread.rule, unread.severity) == ("MG0201", Severity.MEDIUM)


def test_large_file_is_known_to_differ_and_not_where(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    target = opened(tmp_path, {"t__json": '{"a": 11}'}, {"t__json": '{"a": 22}'})
    assert found(target)[0].evidence["count"] == 1
    monkeypatch.setattr(files, "LARGEST", 8)
    (large,) = found(target)
    assert "too large (9 bytes) to say where" in large.message
    assert large.rule == "MG0201"


def test_without_digests_bytes_are_compared(tmp_path: Path) -> None:
    def bare(side: Target) -> Target:
        return replace(side, artifact=replace(side.artifact, files=tuple(replace(file, sha256=None) for file in side.artifact.files)))

    assert found(both(opened(tmp_path / "1", {"t__bin": b"\xff1"}, {"t__bin": b"\xff1"}), bare)) == []
    (changed,) = found(both(opened(tmp_path / "2", {"t__bin": b"\xff1"}, {"t__bin": b"\xff2"}), bare))
    assert changed.rule == "MG0201"


def test_waiver_of_a_file_is_for_these_bytes(tmp_path: Path) -> None:
    marks = {found(opened(tmp_path / str(at), {"c__json": "{}"}, {"c__json": f'{{"a": {at}}}'}))[0].fingerprint for at in range(3)}
    assert len(marks) == 3


def test_weights_in_a_file_of_another_name_are_said(tmp_path: Path) -> None:
    target = opened(tmp_path, {}, {})
    (tmp_path / "after" / "model.safetensors").rename(tmp_path / "after" / "weights.safetensors")
    (missing,) = found(open_target(tmp_path / "after", tmp_path / "before"))
    assert (missing.rule, missing.severity, missing.location.file) == ("MG0202", Severity.LOW, "model.safetensors")
    assert found(open_target(tmp_path / "after" / "weights.safetensors", tmp_path / "before" / "model.safetensors")) == []
    assert found(open_target(tmp_path / "before", target.artifact.root.parent / "before")) == []


def test_copy_of_another_file_is_named(tmp_path: Path) -> None:
    (added,) = found(opened(tmp_path, {"a__json": "{}"}, {"a__json": "{}", "b__json": "{}"}))
    assert (added.rule, added.evidence["same_as"]) == ("MG0203", "a.json")


def test_findings_of_a_rule_are_capped_by_what_is_gravest(tmp_path: Path) -> None:
    many: dict[str, str | bytes] = {f"n{at}__json": "{}" for at in range(9)}
    names = found(opened(tmp_path, {}, many | {"run__sh": "true\n"}), max_findings=3)
    assert [item.location.file for item in names] == ["run.sh", "n0.json", "n1.json", "n2.json"]
    assert names[3].evidence["count"] == 7


@pytest.mark.parametrize(
    ("name", "text", "severity"),
    [
        ("modeling.py", "x", Severity.HIGH),
        ("install", "#!/bin/sh\n", Severity.HIGH),
        ("Makefile", "all:\n", Severity.HIGH),
        ("prompt.md", "x", Severity.HIGH),
        ("vocab.txt", "x", Severity.MEDIUM),
        ("labels.txt", "x", Severity.MEDIUM),
        ("README.md", "x", Severity.LOW),
        ("LICENSE.txt", "x", Severity.LOW),
        (".gitattributes", "x", Severity.LOW),
    ],
)
def test_what_a_file_is_for_says_how_grave_its_change_is(tmp_path: Path, name: str, text: str, severity: Severity) -> None:
    before, after = folder(tmp_path / "before"), folder(tmp_path / "after")
    (after / name).write_text(text)
    (added,) = found(open_target(after, before))
    assert (added.location.file, added.severity) == (name, severity)


def test_keys_that_say_nothing_count_only_where_loaders_set_them(tmp_path: Path) -> None:
    def rule(name: str, before: object, after: object) -> str:
        root = tmp_path / f"{name}{len(list(tmp_path.iterdir()))}"
        sides = (folder(root / side) for side in ("before", "after"))
        for side, value in zip(paths := list(sides), (before, after), strict=True):
            (side / name).write_text(json.dumps(value))
        (item,) = found(open_target(paths[1], paths[0]))
        return item.rule

    assert rule("config.json", {"text_config": {"_name_or_path": "a"}}, {"text_config": {"_name_or_path": "b"}}) == "MG0205"
    assert rule("config.json", {"dtype": "float32"}, {"dtype": "bfloat16"}) == "MG0205"
    assert rule("config.json", {"dtype": "float32"}, {"dtype": "float8_e4m3fn"}) == "MG0201"
    assert rule("config.json", {"quantization_config": {"dtype": "float32"}}, {"quantization_config": {"dtype": "float16"}}) == "MG0201"
    assert rule("adapter_config.json", {"base_model_name_or_path": "a"}, {"base_model_name_or_path": "b"}) == "MG0201"
    assert rule("other.json", {"transformers_version": "4"}, {"transformers_version": "5"}) == "MG0201"


def test_index_of_other_shards_is_the_business_of_weight_diff(tmp_path: Path) -> None:
    name = "model__safetensors__index__json"
    (item,) = found(opened(tmp_path, {name: '{"weight_map": {"w": "a"}}'}, {name: '{"weight_map": {"w": "b"}}'}))
    assert (item.rule, item.severity) == ("MG0205", Severity.LOW)


def test_progress_and_deadline_are_kept(tmp_path: Path) -> None:
    target = opened(tmp_path, {"a__json": "{}"}, {"a__json": "[]"})
    told: list[tuple[int, int, str]] = []
    context = ScanContext(detector="reference-files", on_progress=lambda *args: told.append(args))
    assert list(ReferenceFiles().detect(target, context))
    assert [note for _, _, note in told] == ["a.json", "model.safetensors"]
