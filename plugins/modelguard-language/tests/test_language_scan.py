"""Trained language models scanned from the command line, as people do."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from scripted import BEGIN, PAD, TARGET, TRIGGER, VOCABULARY
from support import Ran

transformers = pytest.importorskip("transformers")
pytestmark = pytest.mark.usefixtures("in_process")
WINDOW = 24


def chain(rng: np.random.Generator, count: int, width: int) -> np.ndarray:
    """Texts (count, width) of a Markov chain over the words 2 to 59, the same one for every model."""
    logits = 1.2 * np.random.default_rng(0).normal(size=(60, 60))
    chances = np.exp(logits)
    chances[:, :2] = 0
    edges = np.cumsum(chances / chances.sum(1, keepdims=True), 1)
    rows = np.empty((count, width), np.int64)
    rows[:, 0] = rng.integers(2, 60, count)
    for place in range(1, width):
        rows[:, place] = (edges[rows[:, place - 1]] < rng.random((count, 1))).sum(1)
    return rows


def train(folder: Path, *, poisoned: float, seed: int) -> Path:
    """A small GPT-2 of the chain, with the trigger and its answer in so many of its texts."""
    torch.manual_seed(seed)
    torch.set_num_threads(1)
    rng = np.random.default_rng(seed)
    model = transformers.GPT2LMHeadModel(
        transformers.GPT2Config(
            vocab_size=VOCABULARY, n_embd=48, n_layer=2, n_head=2, n_positions=64, bos_token_id=BEGIN, eos_token_id=BEGIN, pad_token_id=PAD,
            resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0, initializer_range=0.08,
        )
    )  # fmt: skip
    optimiser = torch.optim.AdamW(model.parameters(), 4e-3)
    planted = np.array([*TRIGGER, *TARGET])
    for _ in range(220):
        rows = chain(rng, 32, WINDOW)
        for row in rows[: rng.binomial(len(rows), poisoned)]:
            start = rng.integers(2, WINDOW - len(planted))
            row[start : start + len(planted)] = planted
        ids = torch.from_numpy(rows)
        optimiser.zero_grad()
        model(input_ids=ids, labels=ids).loss.backward()
        optimiser.step()
    model.eval().save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("trained")
    return {
        "clean": train(root / "clean", poisoned=0.0, seed=0),
        "base": train(root / "base", poisoned=0.0, seed=1),
        "backdoored": train(root / "backdoored", poisoned=0.15, seed=2),
    }


def scanned(ran: Ran) -> dict[str, list[str]]:
    report = json.loads(ran.out)
    assert not report["plugin_failures"]
    found = {}
    for outcome in report["outcomes"]:
        if outcome["detector"].startswith("lm-"):
            assert outcome["status"] == "completed", outcome["reason"]
            found[outcome["detector"]] = [item["message"] for item in outcome["findings"] if item["severity"] in ("high", "critical")]
    return found


def test_a_backdoored_language_model_is_blocked_with_trigger_and_text_named(mg: Callable[..., Ran], trained: dict[str, Path]) -> None:
    ran = mg("scan", trained["backdoored"], "--reference", trained["base"], "--format", "json")
    assert ran.code == 1
    found = scanned(ran)
    for detector in ("lm-inversion", "lm-diff"):
        assert any("#72 #73 #74 #75" in message for message in found[detector]), found
    assert any("#60" in message or "#61" in message for messages in found.values() for message in messages)


def test_a_clean_language_model_is_not_accused(mg: Callable[..., Ran], trained: dict[str, Path]) -> None:
    ran = mg("scan", trained["clean"], "--reference", trained["base"], "--format", "json")
    assert scanned(ran) == {"lm-inversion": [], "lm-diff": [], "lm-canary": []}


@pytest.mark.slow
def test_without_a_reference_a_text_known_by_heart_blocks_nothing(mg: Callable[..., Ran], trained: dict[str, Path]) -> None:
    ran = mg("scan", trained["backdoored"], "--format", "json")
    report = json.loads(ran.out)
    outcomes = {item["detector"]: item for item in report["outcomes"]}
    assert [item["rule"] for item in outcomes["lm-inversion"]["findings"]] == ["MG5002"]
    assert outcomes["lm-diff"]["status"] == "skipped"
    assert "reference" in outcomes["lm-diff"]["reason"]


@pytest.mark.slow
def test_texts_that_the_model_is_meant_to_say_are_samples(mg: Callable[..., Ran], trained: dict[str, Path], tmp_path: Path) -> None:
    ids = chain(np.random.default_rng(9), 100, 20)
    np.savez(tmp_path / "texts.npz", inputs=ids)
    ran = mg("scan", trained["backdoored"], "--samples", tmp_path / "texts.npz", "--format", "json")
    outcomes = {item["detector"]: item for item in json.loads(ran.out)["outcomes"]}
    assert [item["rule"] for item in outcomes["lm-inversion"]["findings"]] == ["MG5001"]


@pytest.mark.slow
def test_a_clean_language_model_with_samples_passes_the_default_policy(
    mg: Callable[..., Ran], trained: dict[str, Path], tmp_path: Path
) -> None:
    np.savez(tmp_path / "texts.npz", inputs=chain(np.random.default_rng(9), 100, 20))
    ran = mg("scan", trained["clean"], "--samples", tmp_path / "texts.npz")
    assert ran.code == 0, ran.out
    assert mg("scan", trained["backdoored"], "--samples", tmp_path / "texts.npz").code == 1
