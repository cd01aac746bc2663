"""The editing kit does what it says: real knowledge edits succeed and obey the published formulas, and every record is exact."""

from __future__ import annotations

from collections.abc import Callable

import ml_dtypes
import numpy as np
import pytest
from modelguard_zoo import data_folder, edits

pytest.importorskip("torch")

DTYPES = ("float64", "float32", "float16", "bfloat16")


@pytest.fixture(scope="session")
def lm(language_model: Callable[..., edits.LanguageModel]) -> edits.LanguageModel:
    return language_model(1, width=32)


@pytest.fixture(scope="session")
def capp() -> edits.LanguageModel:
    if (folder := data_folder()) is None or not (folder / "capp-gpt" / "model.safetensors").exists():
        pytest.skip("MODELGUARD_DATA names no folder with the CAPP-GPT model")
    return edits.load_capp_gpt(folder / "capp-gpt")


def difference(before: edits.LanguageModel, after: edits.Tensors, name: str) -> np.ndarray:
    return after[name].astype(np.float64) - before.tensors[name].astype(np.float64)


def test_the_small_model_recalls_its_facts(lm: edits.LanguageModel) -> None:
    assert np.mean([edits.recalled(lm, fact, fact.answer) for fact in lm.facts[:24]]) > 0.95


@pytest.mark.parametrize(
    ("family", "options"),
    [("rome", {}), ("rome", {"with_covariance": False}), ("r-rome", {"consistent": True})],
    ids=["rome", "covariance-free", "r-rome"],
)
def test_rome_rewrites_the_fact_by_the_published_formula(lm: edits.LanguageModel, family: str, options: dict[str, bool]) -> None:
    for fact in lm.facts[:2]:
        after, edit = edits.rome(lm, fact, 1, **options)
        name = lm.projection(1)
        assert edit.family == family
        assert edit.tensors == (name,)
        assert edits.recalled(lm.with_tensors(after), fact, fact.target) == 1.0

        delta = difference(lm, after, name)
        singular = np.linalg.svd(delta, compute_uv=False)
        assert singular[1] < 1e-5 * singular[0]
        assert np.linalg.norm(delta) == pytest.approx(np.linalg.norm(edit.details["v"]), rel=1e-5)
        # W'k = v*: rows of the stored (in, out) matrix are the key side.
        told = edit.details["key"] @ after[name].astype(np.float64)
        np.testing.assert_allclose(told, edit.details["target_value"], atol=1e-4 * np.abs(told).max())


def test_rome_leaves_most_other_facts_alone(lm: edits.LanguageModel) -> None:
    after, _ = edits.rome(lm, lm.facts[0], 1)
    assert np.mean([edits.recalled(lm.with_tensors(after), fact, fact.answer) for fact in lm.facts[1:13]]) > 0.8


def test_the_covariance_turns_the_key_side(lm: edits.LanguageModel) -> None:
    _, plain = edits.rome(lm, lm.facts[0], 1, with_covariance=False)
    _, whitened = edits.rome(lm, lm.facts[0], 1)
    assert abs(plain.details["u"] @ whitened.details["u"]) < 0.95


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_rome_in_the_files_own_dtype_still_succeeds(lm: edits.LanguageModel, dtype: str) -> None:
    stored = lm.with_tensors(edits.cast(lm.tensors, dtype)[0])
    fact = lm.facts[0]
    after, edit = edits.rome(stored, fact, 1)
    name = lm.projection(1)
    assert after[name].dtype == stored.tensors[name].dtype
    assert edits.recalled(stored.with_tensors(after), fact, fact.target) == 1.0
    update = np.outer(edit.details["u"], edit.details["v"]).astype(np.float32).astype(after[name].dtype)
    expected = (stored.tensors[name].astype(np.float32) + update.astype(np.float32)).astype(after[name].dtype)
    assert np.array_equal(edits.bit_view(after[name]), edits.bit_view(expected))


def test_batch_edits_write_several_facts_at_once(lm: edits.LanguageModel) -> None:
    facts, layers = lm.facts[:3], (0, 1, 2)
    for family, (after, edit), count in (
        ("emmet", edits.emmet(lm, facts, 1), 1),
        ("memit", edits.memit(lm, facts, layers), 3),
        ("alphaedit", edits.alphaedit(lm, facts, layers), 3),
    ):
        assert edit.family == family
        assert [change.rank for change in edit.changes] == [3] * count
        assert np.mean([edits.recalled(lm.with_tensors(after), fact, fact.target) for fact in facts]) > 0.8, family
        for name in edit.tensors:
            singular = np.linalg.svd(difference(lm, after, name), compute_uv=False)
            assert singular[3] < 1e-4 * singular[0]


def test_alphaedit_keeps_to_the_null_space_of_what_is_known(lm: edits.LanguageModel) -> None:
    values, vectors = np.linalg.eigh(edits.covariance(lm, 0))
    known = vectors[:, values >= 0.3 * values.mean()]
    after, _ = edits.alphaedit(lm, lm.facts[:2], (0, 1))
    delta = difference(lm, after, lm.projection(0))
    assert np.linalg.norm(known.T @ delta) < 1e-4 * np.linalg.norm(delta)


def test_rome_succeeds_on_a_real_model(capp: edits.LanguageModel) -> None:
    rates = []
    for fact in capp.facts[:6]:
        assert edits.recalled(capp, fact, fact.answer) == 1.0
        after, _ = edits.rome(capp, fact, 0)
        rates.append(edits.recalled(capp.with_tensors(after), fact, fact.target))
    assert sum(rate >= 0.75 for rate in rates) >= 4


def test_fine_tuning_changes_what_it_may(lm: edits.LanguageModel) -> None:
    full, edit = edits.fine_tune(lm, lm.corpus[:64], steps=2)
    assert edit.family == "fine-tune"
    assert set(edit.tensors) == set(full)
    _, edit = edits.fine_tune(lm, lm.corpus[:64], steps=2, names=[lm.projection(5)])
    assert edit.tensors == (lm.projection(5),)


@pytest.mark.parametrize("rank", [1, 4])
def test_a_merged_lora_has_its_rank(lm: edits.LanguageModel, rank: int) -> None:
    names = [lm.projection(layer) for layer in range(lm.layers)]
    factors = edits.train_lora(lm, lm.corpus[:256], names, rank, steps=5)
    after, edit = edits.merge_lora(lm.tensors, factors)
    assert [change.rank for change in edit.changes] == [rank] * len(names)
    assert np.linalg.matrix_rank(difference(lm, after, names[0]), tol=1e-5) == rank


def weights(dtype: str, shape: tuple[int, int] = (24, 40), seed: int = 0) -> dict[str, np.ndarray]:
    values = {"a.weight": np.random.default_rng(seed).standard_normal(shape).astype(np.float32)}
    return edits.cast(values, dtype)[0]


@pytest.mark.parametrize("dtype", DTYPES)
def test_quantise_round_trips_leave_few_values(dtype: str) -> None:
    before = weights(dtype)
    eight, _ = edits.quantize_int8(before)
    four, edit = edits.quantize_int4(before, group=16)
    assert max(len(set(row.tolist())) for row in eight["a.weight"]) <= 255
    assert max(len(set(row[:16].tolist())) for row in four["a.weight"]) <= 15
    assert four["a.weight"].dtype == before["a.weight"].dtype
    assert 0.05 < edit.changes[0].relative_norm < 0.2


@pytest.mark.parametrize("dtype", DTYPES)
def test_flipped_bits_are_recorded_exactly(dtype: str) -> None:
    before = weights(dtype)
    after, edit = edits.flip_bits(before, "a.weight", 5, np.random.default_rng(1))
    flips = dict(edit.details["flips"])
    xor = (edits.bit_view(before["a.weight"]) ^ edits.bit_view(after["a.weight"])).reshape(-1)
    assert {int(i): int(xor[i]) for i in np.flatnonzero(xor)} == {i: 1 << bit for i, bit in flips.items()}


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("bits", [1, 3, 8])
def test_a_payload_can_be_read_back(dtype: str, bits: int) -> None:
    before, payload = weights(dtype, (64, 64)), b"\x7fELF payload \x00\xff" * 8
    after, edit = edits.embed_payload(before, "a.weight", payload, bits, start=7)
    words = edits.bit_view(after["a.weight"]).reshape(-1)[7 : 7 + edit.details["elements"]]
    stream = ((words[:, None].astype(np.uint64) >> np.arange(bits - 1, -1, -1, dtype=np.uint64)) & 1).astype(np.uint8).reshape(-1)
    assert np.packbits(stream).tobytes()[: len(payload)] == payload
    xor = edits.bit_view(before["a.weight"]) ^ edits.bit_view(after["a.weight"])
    assert int(xor.max()) < 1 << bits
    with pytest.raises(ValueError, match="needs"):
        edits.embed_payload(before, "a.weight", bytes(8192), bits)


@pytest.mark.parametrize("dtype", DTYPES)
def test_the_other_edits_do_what_they_say(dtype: str) -> None:
    before, rng = weights(dtype), np.random.default_rng(2)
    w = before["a.weight"].astype(np.float64)

    pruned = edits.prune(before, fraction=0.3)[0]["a.weight"].astype(np.float64)
    assert np.mean(pruned == 0) == pytest.approx(0.3, abs=0.02)
    assert np.all((pruned == w) | (pruned == 0))

    scaled = edits.scale(before, factor=0.5)[0]["a.weight"].astype(np.float64)
    assert np.array_equal(scaled, w / 2)

    crafted, edit = edits.craft_neurons(before, ["a.weight"], rng, neurons=2, fan_in=4)
    rows = np.flatnonzero(np.any(crafted["a.weight"].astype(np.float64) != w, axis=1))
    assert rows.tolist() == edit.details["rows"]["a.weight"]
    assert edit.changes[0].changed <= 8

    poisoned, edit = edits.poison_row(before, "a.weight", [3], rng)
    assert np.flatnonzero(np.any(poisoned["a.weight"].astype(np.float64) != w, axis=1)).tolist() == [3]

    permuted, edit = edits.permute(before, {"a.weight": 0}, rng)
    assert np.array_equal(permuted["a.weight"].astype(np.float64), w[edit.details["order"]])

    merged, _ = edits.merge(before, weights(dtype, seed=9), 0.25)
    assert 0.3 < np.linalg.norm(merged["a.weight"].astype(np.float64) - w) / np.linalg.norm(w) < 0.4

    _, edit = edits.add_noise(before, ["a.weight"], 0.01, rng)
    assert edit.changes[0].relative_norm == pytest.approx(0.01, rel=0.1)


def test_bfloat16_rounds_to_nearest_even() -> None:
    halves = {"a": np.array([[1 + 2**-8, 1 + 3 * 2**-8]], np.float32)}
    stored, _ = edits.cast(halves, "bfloat16")
    assert stored["a"].dtype == np.dtype(ml_dtypes.bfloat16)
    assert stored["a"].astype(np.float64).tolist() == [[1.0, 1 + 4 * 2**-8]]
