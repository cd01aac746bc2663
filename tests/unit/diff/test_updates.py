"""Client updates beside suspect and reference: the scaled one is named, honest rounds are not, and what cannot be read says so."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from modelguard import Finding, ScanContext, Skip
from modelguard._diff.detector import WeightDiff
from modelguard.testing import as_target, write_safetensors

Tensors = dict[str, npt.NDArray[Any]]
CLIENTS = 10


def model(seed: int) -> Tensors:
    rng = np.random.default_rng(seed)
    shapes = {"fc1.weight": (48, 32), "fc1.bias": (48,), "fc2.weight": (10, 48), "fc2.bias": (10,)}
    return {name: rng.standard_normal(shape).astype(np.float32) for name, shape in shapes.items()}


def rounds(seed: int, gamma: float = 1.0, client: int = 3) -> list[Tensors]:
    """Ten changes with a part in common. With ``gamma`` that of ``client`` is another one, three times as large, times ``gamma``."""
    rng = np.random.default_rng([1, seed])
    common = {name: rng.standard_normal(array.shape) for name, array in model(seed).items()}
    sent = []
    for index in range(CLIENTS):
        cheats = gamma != 1 and index == client
        size, shared = (3 * gamma, 0.0) if cheats else (rng.uniform(0.5, 1.6), 1.0)
        own = {name: rng.standard_normal(part.shape) for name, part in common.items()}
        sent.append({name: (0.01 * size * (shared * common[name] + own[name])).astype(np.float32) for name in common})
    return sent


def average(before: Tensors, sent: list[Tensors]) -> Tensors:
    return {name: (array + sum(update[name] for update in sent) / len(sent)).astype(np.float32) for name, array in before.items()}


def write(folder: Path, sent: list[Tensors]) -> str:
    for index, tensors in enumerate(sent):
        write_safetensors(folder / f"client-{index}.safetensors", tensors)
    return str(folder)


def run(folder: str, before: Tensors, after: Tensors) -> tuple[list[Finding], dict[str, Any]]:
    context = ScanContext(detector="weight-diff")
    findings = list(WeightDiff(updates=folder).detect(as_target(after, before), context))
    return [finding for finding in findings if finding.rule == "MG1218"], context._summary


@pytest.mark.parametrize("whole", [False, True], ids=["changes", "models"])
@pytest.mark.parametrize("seed", range(3))
def test_a_scaled_update_is_named_and_followed(tmp_path: Path, seed: int, whole: bool) -> None:
    before, sent = model(seed), rounds(seed, gamma=10.0)
    given = [{name: before[name] + update[name] for name in before} for update in sent] if whole else sent
    (finding,), summary = run(write(tmp_path, given), before, average(before, sent))
    assert finding.evidence["name"] == "client-3"
    assert finding.evidence["form"] == ("model" if whole else "delta")
    assert finding.evidence["followed"] > 0.9
    assert "and the suspect follows it" in finding.message
    assert (summary["verdict"], summary["follows"]) == ("scaled-update", "client-3")
    assert len(summary["updates"]) == CLIENTS
    assert summary["reason"].startswith("2 of 2 matrices changed densely; the update client-3 is ")


@pytest.mark.parametrize("seed", range(6))
def test_an_honest_round_is_not(tmp_path: Path, seed: int) -> None:
    before, sent = model(seed), rounds(seed)
    findings, summary = run(write(tmp_path, sent), before, average(before, sent))
    assert findings == []
    assert summary["verdict"] == "fine-tune"
    assert summary["reason"].endswith("none of 10 updates is scaled")
    assert all(0.4 < item["cosine"] < 1 for item in summary["updates"])


def test_a_replacement_that_is_not_scaled_is_followed_but_no_finding(tmp_path: Path) -> None:
    """The near miss: who can write the global model needs no scaling, and the summary alone says whom it follows."""
    before, sent = model(0), rounds(0)
    after = {name: before[name] + sent[4][name] for name in before}
    findings, summary = run(write(tmp_path, sent), before, after)
    assert findings == []
    assert (summary["verdict"], summary["follows"]) == ("fine-tune", "client-4")
    assert next(item for item in summary["updates"] if item["name"] == "client-4")["followed"] > 0.99


@pytest.mark.parametrize("seed", range(3))
def test_clients_that_all_differ_widely_are_honest(tmp_path: Path, seed: int) -> None:
    """Nine tenths of one class each: norms are spread over more than a decade, and the largest is not alone."""
    before, sizes = model(seed), np.geomspace(0.05, 60, CLIENTS)
    sent = [
        {name: (array * size).astype(np.float32) for name, array in update.items()}
        for update, size in zip(rounds(seed), sizes, strict=True)
    ]
    findings, summary = run(write(tmp_path, sent), before, average(before, sent))
    assert findings == []
    assert max(item["norm_ratio"] for item in summary["updates"]) > 6


def test_a_scaled_update_that_the_server_left_out_is_still_a_finding(tmp_path: Path) -> None:
    before, sent = model(1), rounds(1, gamma=10.0)
    (finding,), summary = run(write(tmp_path, sent), before, average(before, [*sent[:3], *sent[4:]]))
    assert "follows" not in finding.message
    assert summary["verdict"] == "fine-tune"
    assert summary["score"] == 0.8


def test_counters_of_batches_are_no_weights(tmp_path: Path) -> None:
    before, sent = model(0), rounds(0, gamma=10.0)
    counted: list[Tensors] = [{**update, "num_batches_tracked": np.asarray(7, np.int64)} for update in sent]
    (finding,), _ = run(write(tmp_path, counted), before, average(before, sent))
    assert finding.evidence["name"] == "client-3"


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda sent: sent[:2], "holds 2 updates, and 3 to 1000 are needed"),
        (lambda sent: [*sent[:3], {**sent[3], "fc1.weight": sent[3]["fc1.weight"].T}], "has shape [32, 48], and [48, 32] in the reference"),
        (lambda sent: [{**update, "other": np.ones(3, np.float32)} for update in sent], "holds other, which the reference does not have"),
        (lambda sent: [*sent, {"fc1.weight": sent[0]["fc1.weight"]}], "does not hold the same tensors"),
        (lambda sent: [*sent[:3], {**sent[3], "fc2.bias": np.full(10, np.nan, np.float32)}], "values that are not finite"),
    ],
    ids=["too few", "shape", "unknown tensor", "part of the tensors", "not finite"],
)
def test_updates_that_cannot_be_compared_are_a_skip(tmp_path: Path, change: Any, words: str) -> None:
    before, sent = model(0), rounds(0)
    with pytest.raises(Skip, match=words.replace("[", r"\[").replace("]", r"\]")) as raised:
        run(write(tmp_path, change(sent)), before, average(before, sent))
    assert "\n" not in str(raised.value)


def test_a_folder_that_is_not_there_is_a_skip() -> None:
    with pytest.raises(Skip, match="is no folder"):
        run("/nowhere/updates", model(0), model(1))


def test_a_broken_file_among_the_updates_is_a_skip(tmp_path: Path) -> None:
    folder = write(tmp_path, rounds(0))
    (tmp_path / "client-3.safetensors").write_bytes(b"\xff" * 40)
    with pytest.raises(Skip, match="client-3"):
        run(folder, model(0), model(0))
