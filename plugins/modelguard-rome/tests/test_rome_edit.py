"""rome-edit: names edits, tells them from training, adapters and storage, and says what it cannot see."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from modelguard_rome import RomeEdit
from modelguard_zoo import edits

from modelguard import DeadlineExceeded, ScanContext, Severity, Skip
from modelguard.testing import as_target

Look = Callable[..., Any]
"""Runs a detector on a target: its findings, their rules, its summary."""
Models = tuple[edits.LanguageModel, ...]

ROME = {"MG2001", "MG2002", "MG2003"}
DTYPES = ("float32", "float16", "bfloat16")
SLOW = pytest.mark.slow
SEEDS = [0, pytest.param(1, marks=SLOW), pytest.param(2, marks=SLOW)]


def stored(lm: edits.LanguageModel, dtype: str) -> Any:
    return lm.with_tensors(edits.cast(lm.tensors, dtype)[0])


def against(look: Look, tensors: Any, reference: Any, folder: Any = None) -> Any:
    return look(RomeEdit(), as_target(tensors, reference, folder))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("options", [{}, {"with_covariance": False}, {"consistent": True}], ids=["rome", "covariance-free", "r-rome"])
def test_a_real_rome_edit_is_found_and_located(look: Look, lms: Models, dtype: str, seed: int, options: Any) -> None:
    lm = stored(lms[seed], dtype)
    after, edit = edits.rome(lm, lm.facts[0], 1, **options)
    told = against(look, after, lm.tensors)
    assert told.rules == {"MG2001"}
    assert told.summary["verdict"] == "rank1-edit"
    (finding,) = told.findings
    assert finding.location.tensor == lm.projection(1)
    assert finding.evidence["layer"] == 1
    assert finding.evidence["rank"] == 1
    assert finding.evidence["key_side"]["axis"] == 0
    assert finding.evidence["key_side"]["length"] == len(edit.details["u"])
    assert finding.evidence["key_side"]["top"][0][0] == int(np.argmax(np.abs(edit.details["u"])))
    assert finding.evidence["relative_norm"] == pytest.approx(edit.changes[0].relative_norm, rel=0.01)
    assert "ROME" in finding.evidence["looks_like"]
    assert told.summary["score"] > 0.8


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("family", [edits.memit, edits.alphaedit])
def test_edits_spread_over_layers_are_found(look: Look, lms: Models, dtype: str, seed: int, family: Any) -> None:
    lm = stored(lms[seed], dtype)
    after, _ = family(lm, lm.facts[:2], (1, 2, 3))
    told = against(look, after, lm.tensors)
    assert told.rules == {"MG2002"}
    assert [finding.evidence["layer"] for finding in told.findings] == [1, 2, 3]
    assert {finding.evidence["rank"] for finding in told.findings} == {2}
    assert "MEMIT" in told.findings[0].evidence["looks_like"]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("seed", SEEDS)
def test_a_batch_edit_of_one_layer_has_the_rank_of_its_facts(look: Look, lms: Models, dtype: str, seed: int) -> None:
    lm = stored(lms[seed], dtype)
    after, _ = edits.emmet(lm, lm.facts[:3], 1)
    told = against(look, after, lm.tensors)
    assert told.rules == {"MG2003"}
    assert told.findings[0].evidence["rank"] == 3
    assert "EMMET" in told.findings[0].evidence["looks_like"]


def test_the_value_side_names_the_token_that_was_written(look: Look, lms: Models, tmp_path: Path) -> None:
    named = 0
    for lm in lms:
        (tmp_path / "vocab.json").write_text(json.dumps({token: i for i, token in enumerate(lm.vocabulary)}))
        for fact in lm.facts[:3]:
            after, _ = edits.rome(lm, fact, 2)
            tokens = against(look, after, lm.tensors, tmp_path).findings[0].evidence["tokens"][0]
            named += lm.vocabulary[fact.target] in tokens["promotes"] + tokens["opposite"]
    assert named >= 6


def test_real_edits_of_a_real_model_are_found(look: Look, capp: edits.LanguageModel) -> None:
    for dtype in DTYPES:
        lm = stored(capp, dtype)
        for fact in lm.facts[:2]:
            after, _ = edits.rome(lm, fact, 0)
            told = against(look, after, lm.tensors)
            assert told.rules == {"MG2001"}
            assert told.findings[0].location.tensor == lm.projection(0)


LLAMA, GPTJ = "model.layers.{}.mlp.down_proj.weight", "transformer.h.{}.mlp.fc_out.weight"
NEOX, CHATGLM = "gpt_neox.layers.{}.mlp.dense_4h_to_h.weight", "transformer.encoder.layers.{}.mlp.dense_4h_to_h.weight"
GPT2, UNKNOWN = "transformer.h.{}.mlp.c_proj.weight", "net.blocks.{}.second.weight"


def synthetic(pattern: str, seed: int, shape: Any = (128, 512), layers: int = 8) -> dict[str, npt.NDArray[Any]]:
    rng = np.random.default_rng(seed)
    shape = shape[::-1] if pattern == GPT2 else shape
    weights = {pattern.format(i): rng.standard_normal(shape).astype(np.float32) * 0.02 for i in range(layers)}
    attention = {
        f"model.layers.{i}.self_attn.q_proj.weight": rng.standard_normal((128, 128)).astype(np.float32) * 0.02 for i in range(layers)
    }
    return {**weights, **attention, "model.embed_tokens.weight": rng.standard_normal((300, 128)).astype(np.float32) * 0.02}


def heavy_tailed(rng: np.random.Generator, shape: tuple[int, int], rank: int = 1) -> Any:
    return rng.standard_t(3, (shape[0], rank)), rng.standard_t(3, (rank, shape[1]))


def sized(factors: Any, weight: Any, relative: float) -> Any:
    a, b = factors
    return a * (relative * np.linalg.norm(weight.astype(np.float64)) / np.linalg.norm(a @ b)), b


@pytest.mark.parametrize("pattern", [LLAMA, GPTJ, NEOX, CHATGLM, GPT2, UNKNOWN])
def test_every_naming_convention_is_known(look: Look, pattern: str) -> None:
    tensors = synthetic(pattern, 0)
    name = pattern.format(5)
    factors = sized(heavy_tailed(np.random.default_rng(1), tensors[name].shape), tensors[name], 0.035)
    after, _ = edits.merge_lora(tensors, {name: factors})
    told = against(look, after, tensors)
    assert told.rules == {"MG2001"}
    assert told.findings[0].evidence["layer"] == 5
    assert told.findings[0].evidence["key_side"]["length"] == 512
    assert told.findings[0].confidence.label == ("medium" if pattern == UNKNOWN else "high")


def test_one_expert_of_a_stack_is_named(look: Look) -> None:
    rng = np.random.default_rng(0)
    name = "model.layers.{}.mlp.experts.down_proj"
    tensors = {name.format(i): rng.standard_normal((4, 128, 512)).astype(np.float32) for i in range(6)}
    after = tensors[name.format(3)].copy()
    factors = sized(heavy_tailed(rng, (128, 512)), after[2], 0.05)
    after[2] = edits.merge_lora({"e": after[2]}, {"e": factors})[0]["e"]
    told = against(look, {**tensors, name.format(3): after}, tensors)
    assert told.rules == {"MG2001"}
    assert f"{name.format(3)}[2]" in told.findings[0].message
    assert told.findings[0].key == "2"


@pytest.mark.parametrize(
    ("dtype", "relative"),
    [
        ("float32", 0.002),
        ("float32", 0.1),
        ("float16", 0.002),
        ("float16", 0.035),
        ("bfloat16", 0.0019),
        ("bfloat16", 0.01),
        ("bfloat16", 0.16),
    ],
)
def test_published_edit_sizes_are_found_in_every_dtype(look: Look, dtype: str, relative: float) -> None:
    for seed in range(2):
        tensors = edits.cast(synthetic(LLAMA, seed, (256, 704), 6), dtype)[0]
        name = LLAMA.format(2)
        factors = sized(heavy_tailed(np.random.default_rng(seed), tensors[name].shape), tensors[name], relative)
        after, _ = edits.merge_lora(tensors, {name: factors})
        assert against(look, after, tensors).rules == {"MG2001"}


def test_an_edit_made_before_the_cast_is_found_against_the_uncast_reference(look: Look, lms: Models) -> None:
    for lm in lms:
        after, _ = edits.rome(lm, lm.facts[0], 1)
        for dtype in ("float16", "bfloat16"):
            assert against(look, edits.cast(after, dtype)[0], lm.tensors).rules == {"MG2001"}


def test_names_with_other_prefixes_and_the_other_orientation_are_matched(look: Look, lms: Models) -> None:
    after, _ = edits.rome(lms[0], lms[0].facts[0], 1)
    reference = {
        f"module.{name.removeprefix('transformer.')}": np.ascontiguousarray(array.T) if ".h." in name and array.ndim == 2 else array
        for name, array in lms[0].tensors.items()
    }
    told = against(look, after, reference)
    assert told.rules == {"MG2001"}
    assert told.summary["unmatched_projections"] == []


def test_an_edit_is_found_though_every_projection_was_renamed(look: Look) -> None:
    reference = synthetic(LLAMA, 0, (256, 704), 6)
    factors = sized(heavy_tailed(np.random.default_rng(0), (256, 704)), reference[LLAMA.format(2)], 0.05)
    after, _ = edits.merge_lora(reference, {LLAMA.format(2): factors})
    told = against(look, {name.replace("model.layers", "stack.layers"): values for name, values in after.items()}, reference)
    assert told.rules == {"MG2001"}
    assert told.findings[0].location.tensor == LLAMA.format(2).replace("model.layers", "stack.layers")
    assert told.summary["unmatched_projections"] == []


CLEAN: dict[str, Callable[[edits.LanguageModel, edits.LanguageModel], Any]] = {
    "identical": lambda lm, other: lm.tensors,
    "one step": lambda lm, other: edits.fine_tune(lm, lm.corpus[:200], steps=1, rate=1e-4)[0],
    "fine-tune": lambda lm, other: edits.fine_tune(lm, other.corpus[:200], steps=20)[0],
    "last layer": lambda lm, other: edits.fine_tune(lm, other.corpus[:200], steps=10, names=[n for n in lm.tensors if ".h.5." in n])[0],
    "all projections": lambda lm, other: edits.fine_tune(lm, other.corpus[:200], steps=5, names=projections(lm))[0],
    "lora 1 everywhere": lambda lm, other: lora(lm, other, matrices(lm), 1),
    "lora 2 everywhere": lambda lm, other: lora(lm, other, matrices(lm), 2),
    "lora 8 everywhere": lambda lm, other: lora(lm, other, matrices(lm), 8),
    "lora 4 on projections": lambda lm, other: lora(lm, other, projections(lm), 4),
    "lora 4 on attention": lambda lm, other: lora(lm, other, [n for n in matrices(lm) if "attn" in n], 4),
    "lora 4 on the last layers": lambda lm, other: lora(lm, other, [n for n in matrices(lm) if ".h.4." in n or ".h.5." in n], 4),
    "int8": lambda lm, other: edits.quantize_int8(lm.tensors)[0],
    "int4": lambda lm, other: edits.quantize_int4(lm.tensors)[0],
    "pruned": lambda lm, other: edits.prune(lm.tensors)[0],
    "scaled": lambda lm, other: edits.scale(lm.tensors)[0],
    "merge": lambda lm, other: edits.merge(lm.tensors, edits.cast(other.tensors, str(lm.tensors["transformer.wte.weight"].dtype))[0])[0],
    "retrained": lambda lm, other: edits.cast(other.tensors, str(lm.tensors["transformer.wte.weight"].dtype))[0],
    "poisoned row": lambda lm, other: edits.poison_row(lm.tensors, "transformer.wte.weight", [3], np.random.default_rng(0))[0],
}


def projections(lm: edits.LanguageModel) -> Any:
    return [lm.projection(layer) for layer in range(lm.layers)]


def matrices(lm: edits.LanguageModel) -> Any:
    return [name for name, array in lm.tensors.items() if ".h." in name and array.ndim == 2]


def lora(lm: edits.LanguageModel, other: edits.LanguageModel, names: list[str], rank: int) -> Any:
    return edits.merge_lora(lm.tensors, edits.train_lora(lm, other.corpus[:200], names, rank, steps=8))[0]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("kind", sorted(CLEAN))
def test_training_adapters_and_storage_are_no_knowledge_edits(look: Look, lms: Models, kind: str, dtype: str) -> None:
    lm = stored(lms[0], dtype)
    told = against(look, CLEAN[kind](lm, lms[1]), lm.tensors)
    # An adapter in the last layers alone is reported as what it is: confined, low rank, and no edit of projections only.
    assert told.rules == ({"MG2004"} if "last layers" in kind else set())


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32"])
def test_a_pure_cast_is_identical(look: Look, lms: Models, dtype: str) -> None:
    told = against(look, edits.cast(lms[0].tensors, dtype)[0], lms[0].tensors)
    assert (told.rules, told.summary["verdict"], told.summary["score"]) == (set(), "identical", 0.0)


@pytest.mark.parametrize("dtype", ["float16", *(pytest.param(dtype, marks=SLOW) for dtype in DTYPES if dtype != "float16")])
def test_a_retrain_dominated_by_one_direction_is_no_edit(look: Look, dtype: str) -> None:
    """A clean retrain of a real model (Silero VAD, conv4) has 96 % of ‖D‖² in one singular value: energy is no proof of rank."""
    for seed in range(3):
        rng = np.random.default_rng(seed)
        tensors = edits.cast(synthetic(LLAMA, seed), dtype)[0]
        after = dict(tensors)
        for name, weight in tensors.items():
            if "down_proj" in name:
                u, _, vt = np.linalg.svd(rng.standard_normal(weight.shape), full_matrices=False)
                s = 0.0196 * np.arange(1, len(u) + 1.0) ** -0.5
                s[0] = 0.2
                delta = (u * s) @ vt * np.linalg.norm(weight.astype(np.float64))
                after[name] = edits.add_in_dtype(weight, delta.astype(np.float32))
        one = {**tensors, LLAMA.format(3): after[LLAMA.format(3)]}
        assert not against(look, after, tensors).rules & ROME
        assert not against(look, one, tensors).rules & ROME


def test_changes_of_one_projection_that_are_no_edit_are_reported_as_such(look: Look, lms: Models) -> None:
    rng = np.random.default_rng(0)
    lm = lms[0]
    name = lm.projection(2)
    for after in (
        edits.fine_tune(lm, lms[1].corpus[:200], steps=5, names=[name])[0],
        edits.flip_bits(lm.tensors, name, 5, rng, bit=30)[0],
        edits.craft_neurons(lm.tensors, [name], rng)[0],
    ):
        told = against(look, after, lm.tensors)
        assert told.rules == {"MG2005"}
        assert told.summary["verdict"] == "lone-projection-change"


@pytest.mark.parametrize("save", [edits.quantize_int8, edits.quantize_int4], ids=["int8", "int4"])
def test_an_edit_saved_in_few_bits_stands_out_of_the_rounding_noise(look: Look, lms: Models, save: Any) -> None:
    for lm in lms:
        after, _ = edits.rome(lm, lm.facts[0], 1, with_covariance=False)
        told = against(look, save(after)[0], lm.tensors)
        assert told.rules == {"MG2006"}
        assert told.findings[0].location.tensor == lm.projection(1)


def test_an_edit_under_light_noise_is_found_and_under_heavy_noise_is_missed(look: Look, lms: Models) -> None:
    rng = np.random.default_rng(0)
    for lm in lms:
        after, edit = edits.rome(lm, lm.facts[0], 1, with_covariance=False)
        light, _ = edits.add_noise(after, projections(lm), 0.1, rng)
        assert against(look, light, lm.tensors).rules == {"MG2006"}
        # Past theta / (m n)^(1/4) the component drowns (the BBP limit): the documented answer is silence.
        heavy, _ = edits.add_noise(after, projections(lm), 20 * edit.changes[0].relative_norm, rng)
        assert against(look, heavy, lm.tensors).rules == set()


def test_noise_on_every_other_projection_does_not_hide_an_edit(look: Look, lms: Models) -> None:
    rng = np.random.default_rng(0)
    for lm in lms:
        after, _ = edits.rome(lm, lm.facts[0], 1)
        noisy, _ = edits.add_noise(after, [name for name in projections(lm) if name != lm.projection(1)], 0.05, rng)
        told = against(look, noisy, lm.tensors)
        assert told.rules == {"MG2001"}
        assert told.findings[0].location.tensor == lm.projection(1)


def test_a_decoy_in_the_same_layer_does_not_hide_an_edit(look: Look, lms: Models) -> None:
    rng = np.random.default_rng(0)
    for lm in lms:
        after, _ = edits.rome(lm, lm.facts[0], 1)
        decoy = "transformer.h.1.attn.c_proj.weight"
        factors = sized(heavy_tailed(rng, after[decoy].shape), after[decoy], 0.05)
        told = against(look, edits.merge_lora(after, {decoy: factors})[0], lm.tensors)
        assert told.rules == {"MG2004"}
        assert lm.projection(1) in {finding.location.tensor for finding in told.findings}
        assert next(rule for rule in RomeEdit.rules if rule.id == "MG2004").severity is Severity.HIGH


def test_another_model_is_no_edit_under_noise(look: Look, lms: Models) -> None:
    for i, lm in enumerate(lms):
        for other in lms[:i] + lms[i + 1 :]:
            assert against(look, other.tensors, lm.tensors).rules == set()


def test_an_edit_under_a_fine_tune_of_everything_is_missed(look: Look, lms: Models) -> None:
    lm = lms[0]
    after, _ = edits.rome(lm, lm.facts[0], 1)
    trained, _ = edits.fine_tune(lm.with_tensors(after), lms[1].corpus[:200], steps=10)
    told = against(look, trained, lm.tensors)
    assert told.rules == set()
    assert told.summary["verdict"] == "dense"


def test_an_edit_beside_an_adapter_is_found(look: Look, lms: Models) -> None:
    for lm in lms:
        edited = lm.with_tensors(edits.rome(lm, lm.facts[0], 1)[0])
        attention = [name for name in matrices(lm) if "attn" in name]
        told = against(look, lora(edited, lms[0], attention, 4), lm.tensors)
        assert told.rules == {"MG2001"}
        told = against(look, lora(edited, lms[0], projections(lm), 2), lm.tensors)
        assert told.rules == {"MG2007"}
        assert told.findings[0].location.tensor == lm.projection(1)


def test_what_cannot_be_compared_is_skipped_with_the_reason(look: Look, lms: Models) -> None:
    digits = {"fc.weight": np.ones((10, 64), np.float32)}
    with pytest.raises(Skip, match="no MLP projections"):
        against(look, digits, digits)
    other = edits.train_lm(5, width=16, steps=1)
    with pytest.raises(Skip, match="no MLP projection has a counterpart"):
        against(look, lms[0].tensors, {name: array for name, array in other.tensors.items() if "c_proj" not in name})


def test_odd_tensors_do_not_disturb(look: Look, lms: Models) -> None:
    lm = lms[0]
    odd = {
        "empty": np.zeros((0, 4), np.float32),
        "scalar": np.float32(3.0).reshape(()),
        "steps": np.array([7], np.int64),
        "transformer.h.9.mlp.c_proj.weight": np.zeros((4, 16), np.float32),
    }
    after, _ = edits.rome(lm, lm.facts[0], 1)
    bad = {**after, lm.projection(4): np.where(np.arange(32) == 5, np.float32(np.nan), after[lm.projection(4)])}
    reference = {name: array for name, array in lm.tensors.items() if name != lm.projection(5)}
    reference["transformer.wte.weight"] = lm.tensors["transformer.wte.weight"][:-3]
    told = against(look, {**bad, **odd}, reference)
    assert told.summary["unmatched_projections"] == [lm.projection(5), "transformer.h.9.mlp.c_proj.weight"]
    assert "MG2001" in told.rules


def test_it_is_deterministic_reports_progress_and_stops_in_time(lms: Models) -> None:
    lm = lms[0]
    target = as_target(edits.rome(lm, lm.facts[0], 1)[0], lm.tensors)
    seen: list[tuple[int, int]] = []
    runs = []
    for _ in range(2):
        context = ScanContext(detector="rome-edit", on_progress=lambda done, total, note: seen.append((done, total)))
        runs.append((list(RomeEdit().detect(target, context)), context._summary))
    assert runs[0] == runs[1]
    assert all(0 <= done <= total for done, total in seen)
    json.dumps([finding.evidence for finding in runs[0][0]], allow_nan=False)
    json.dumps(runs[0][1], allow_nan=False)
    with pytest.raises(DeadlineExceeded):
        list(RomeEdit().detect(target, ScanContext(detector="rome-edit", deadline=0.0)))


def test_the_rules_explain_themselves() -> None:
    for rule in RomeEdit.rules:
        assert min(len(rule.description), len(rule.remedy), len(rule.lookalikes)) > 20
    assert next(rule for rule in RomeEdit.rules if rule.id == "MG2001").severity is Severity.CRITICAL
