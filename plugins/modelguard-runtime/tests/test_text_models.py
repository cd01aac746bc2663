"""Text models: what is known of their text, padding that changes nothing, embeddings as a cut, and the same from ONNX."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from modelguard_runtime.testing import built
from text_models import CLASSIFIERS, GENERATORS, LENGTH, TEXTS, VOCABULARY, export, folder, network, tokenizer

from modelguard import ModelError, RunnableModel, Samples, SamplesError, Skip, TextSpec

KINDS = (*CLASSIFIERS, *GENERATORS)


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, RunnableModel]:
    root = tmp_path_factory.mktemp("models")
    return {kind: built(folder(root / kind, kind)) for kind in KINDS}


def spec(model: RunnableModel) -> TextSpec:
    assert model.text is not None
    return model.text


@pytest.mark.parametrize(
    ("kind", "pad", "prefix", "suffix", "special", "shown"),
    [
        ("bert", 0, (2,), (3,), (0, 1, 2, 3, 4), {7: "film", 20: "##ly"}),
        ("distilbert", 0, (2,), (3,), (0, 1, 2, 3, 4), {7: "film"}),
        ("roberta", 1, (0,), (2,), (0, 1, 2, 3), {4: " film", 29: "\n"}),
        ("gpt2-classifier", 0, (), (), (0,), {1: " film", 26: "\n", 0: "<|endoftext|>"}),
        ("llama-classifier", 2, (1,), (), (0, 1, 2), {5: " film"}),
        ("gpt2", 39, (), (), (0, 39), {1: " film"}),
        ("llama", 39, (1,), (), (0, 1, 2, 39), {5: " film"}),
    ],
)
def test_what_is_known_of_the_text(
    models: dict[str, RunnableModel], kind: str, pad: int, prefix: tuple[int, ...], suffix: tuple[int, ...], special: tuple[int, ...],
    shown: dict[int, str],
) -> None:  # fmt: skip
    text = spec(models[kind])
    assert (text.vocabulary, text.width, text.length) == (VOCABULARY, 16, LENGTH)
    assert (text.pad, text.prefix, text.suffix, text.special) == (pad, prefix, suffix, special)
    assert len(text.tokens) == VOCABULARY
    assert {place: text.tokens[place] for place in shown} == shown
    told = models[kind].describe()["text"]
    assert (told["tokenizer"], told["length"], told["masked"]) == ("tokenizer.json", LENGTH, True)


@pytest.mark.parametrize("kind", KINDS)
def test_padding_changes_nothing(models: dict[str, RunnableModel], kind: str) -> None:
    """Each text gives together with longer ones what transformers' own class gives of it alone."""
    model, source = models[kind], network(kind)
    ids = model.encode(TEXTS)
    rows = [tokenizer(kind).encode(text).ids for text in TEXTS]
    assert ids.shape == (3, max(map(len, rows)))
    assert (ids == spec(model).pad).any()
    with torch.no_grad():
        alone = torch.cat([source(input_ids=torch.tensor([row])).logits for row in rows] if kind not in GENERATORS else
                          [source(input_ids=torch.tensor([row])).logits[:, -1] for row in rows])  # fmt: skip
    assert alone.std(0).max() > 1e-2  # the texts are told apart
    torch.testing.assert_close(model(torch.from_numpy(ids)), alone, atol=1e-4, rtol=1e-4)
    np.testing.assert_allclose(model.predict(ids), alone.numpy(), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("kind", KINDS)
def test_embeddings_are_a_cut_with_gradients(models: dict[str, RunnableModel], kind: str) -> None:
    model = models[kind]
    ids = torch.from_numpy(model.encode(TEXTS))
    table = model.embeddings()
    assert (table.shape, table.requires_grad) == ((VOCABULARY, 16), False)
    leaf = table[ids].requires_grad_()
    logits = model.embedded(leaf, ids)
    torch.testing.assert_close(logits, model(ids), atol=1e-4, rtol=1e-4)
    (gradient,) = torch.autograd.grad((logits * torch.randn(logits.shape, generator=torch.Generator().manual_seed(0))).sum(), leaf)
    real = ids != spec(model).pad
    assert bool((gradient.abs().sum(2) > 0)[real].all())
    assert float(gradient[~real].abs().max()) == 0
    step = 1e-3 * torch.randn(leaf.shape, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        moved = (model.embedded(leaf + step, ids) - model.embedded(leaf - step, ids)).flatten()
        swapped = model.embedded(table[ids.roll(1, 0)], ids)
    assert moved.abs().max() > 0
    assert not torch.allclose(swapped, logits, atol=1e-3)
    with pytest.raises(ModelError, match="embeddings: of shape"):
        model.embedded(leaf[:, :-1], ids)


@pytest.mark.parametrize("kind", GENERATORS)
def test_logits_at_every_position(models: dict[str, RunnableModel], kind: str) -> None:
    model, source = models[kind], network(kind)
    ids = torch.from_numpy(model.encode(TEXTS))
    found = model.positions(ids)
    assert found.shape == (*ids.shape, VOCABULARY)
    torch.testing.assert_close(found[:, -1], model(ids), atol=1e-4, rtol=1e-4)
    for row, text in zip(found, TEXTS, strict=True):
        own = tokenizer(kind).encode(text).ids
        with torch.no_grad():
            wanted = source(input_ids=torch.tensor([own])).logits[0]
        torch.testing.assert_close(row[-len(own) :], wanted, atol=1e-4, rtol=1e-4)


def test_classifiers_have_no_next_token(models: dict[str, RunnableModel]) -> None:
    with pytest.raises(Skip, match="no language model"):
        models["bert"].positions(torch.ones(1, 4, dtype=torch.long))


@pytest.mark.parametrize("kind", KINDS)
def test_ids_are_shown_as_text(models: dict[str, RunnableModel], kind: str) -> None:
    model = models[kind]
    said = model.decode(model.encode(["great film is dull"])[0])
    assert said.replace(" ", "") in ("greatfilmisdull", "greatfilmis<unk>dull")
    assert model.decode(spec(model).special) == ""


@pytest.mark.parametrize(
    ("kind", "names"),
    [
        ("bert", ("input_ids", "attention_mask", "token_type_ids")),
        ("bert", ("input_ids", "attention_mask")),
        ("distilbert", ("input_ids", "attention_mask")),
        ("roberta", ("input_ids", "attention_mask")),
        ("gpt2", ("input_ids", "attention_mask")),
        ("llama", ("input_ids", "attention_mask")),
    ],
)
def test_the_same_numbers_from_onnx(models: dict[str, RunnableModel], tmp_path: Path, kind: str, names: tuple[str, ...]) -> None:
    pytest.importorskip("onnxruntime")
    theirs, ours = models[kind], built(export(tmp_path / kind, kind, names))
    assert ours.text == theirs.text
    ids = ours.encode(TEXTS)
    assert np.array_equal(ids, theirs.encode(TEXTS))
    x = torch.from_numpy(ids)
    torch.testing.assert_close(ours(x), theirs(x), atol=1e-4, rtol=1e-4)
    np.testing.assert_allclose(ours.predict(ids), theirs.predict(ids), atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(ours.embeddings(), theirs.embeddings())
    slopes = []
    for model in (ours, theirs):
        leaf = model.embeddings()[x].requires_grad_()
        (slope,) = torch.autograd.grad(model.embedded(leaf, x)[:, 1].sum(), leaf)
        slopes.append(slope)
    torch.testing.assert_close(*slopes, atol=1e-4, rtol=1e-3)
    if kind in GENERATORS:
        real = x != spec(ours).pad
        torch.testing.assert_close(ours.positions(x)[real], theirs.positions(x)[real], atol=1e-4, rtol=1e-4)


def test_a_graph_without_a_mask_is_said_to_have_none(tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime")
    model = built(export(tmp_path / "bert", "bert", ("input_ids",)))
    assert model.describe()["text"]["masked"] is False


def test_a_module_of_the_users_own(tmp_path: Path) -> None:
    from safetensors.torch import save_file

    (tmp_path / "project").mkdir()
    (tmp_path / "project" / "bag_of_tests.py").write_text(
        "from torch import nn\n"
        "class Bag(nn.Module):\n"
        "    def __init__(self):\n"
        "        super().__init__()\n"
        "        self.table = nn.Embedding(40, 8, padding_idx=0)\n"
        "        self.out = nn.Linear(8, 2)\n"
        "    def forward(self, ids):\n"
        "        return self.out(self.table(ids).sum(1) / (ids != 0).sum(1, keepdim=True).clamp(min=1))\n"
    )
    torch.manual_seed(0)
    bag = torch.nn.ModuleDict({"table": torch.nn.Embedding(40, 8, padding_idx=0), "out": torch.nn.Linear(8, 2)})
    (tmp_path / "model").mkdir()
    save_file(bag.state_dict(), tmp_path / "model" / "model.safetensors")
    tokenizer("bert").save(str(tmp_path / "model" / "tokenizer.json"))
    model = built(tmp_path / "model", model="bag_of_tests:Bag", cwd=tmp_path / "project")
    assert (spec(model).vocabulary, spec(model).width, spec(model).length, spec(model).pad) == (40, 8, None, 0)
    ids = torch.from_numpy(model.encode(TEXTS))
    assert model.describe()["text"]["masked"] is True
    torch.testing.assert_close(model.embedded(model.embeddings()[ids], ids), model(ids))


@pytest.mark.parametrize("silent", [False, True])
def test_a_graph_whose_gradient_says_nothing_of_embeddings_runs_forward_only(tmp_path: Path, silent: bool) -> None:
    pytest.importorskip("onnxruntime")
    from onnx import TensorProto, helper, numpy_helper

    rng = np.random.default_rng(0)
    weights = {
        "table": rng.normal(size=(VOCABULARY, 8)).astype(np.float32), "out": rng.normal(size=(8, 3)).astype(np.float32),
        "axes": np.array([1]), "zero": np.float32(0),
    }  # fmt: skip
    steps = [helper.make_node("Greater", ["e", "zero"], ["g"]), helper.make_node("Cast", ["g"], ["s"], to=TensorProto.FLOAT)]
    graph = helper.make_graph(
        [
            helper.make_node("Gather", ["table", "input_ids"], ["e"]), *(steps if silent else []),
            helper.make_node("ReduceMean", ["s" if silent else "e", "axes"], ["m"], keepdims=0),
            helper.make_node("MatMul", ["m", "out"], ["logits"]),
        ],
        "g", [helper.make_tensor_value_info("input_ids", TensorProto.INT64, ["N", "T"])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["N", 3])],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in weights.items()],
    )  # fmt: skip
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    (tmp_path / "model.onnx").write_bytes(made.SerializeToString())
    model = built(tmp_path)
    ids = torch.randint(1, VOCABULARY, (2, 5))
    assert bool(model.describe().get("forward_only")) is silent
    if silent:
        with pytest.raises(Skip, match="its gradient says nothing"):
            model.embedded(model.embeddings()[ids], ids)
    else:
        torch.testing.assert_close(model.embedded(model.embeddings()[ids], ids), model(ids))


def samples(*texts: str, labels: list[int] | None = None) -> Samples:
    return Samples(np.array(texts, object), None if labels is None else np.array(labels), "reviews.jsonl", "0" * 64)


def test_texts_longer_than_the_model_takes_are_cut_and_it_is_said(tmp_path: Path) -> None:
    long = " ".join(["dull"] * 60)
    model = built(folder(tmp_path, "bert"), samples(long, "great"))
    ids = model.encode([long])
    assert ids.shape == (1, LENGTH)
    assert (ids[0, 0], ids[0, -1]) == (2, 3)  # what is put around the text stays
    assert model.describe()["cut"] == {"samples": 1, "of": 2, "length": LENGTH}
    with pytest.raises(ModelError, match="takes 40 tokens, and is given 41"):
        model(torch.full((1, LENGTH + 1), 7))
    too_long = Samples(np.full((2, LENGTH + 1), 7), None, "ids.npz", "")
    with pytest.raises(SamplesError, match="has 41 tokens a sample, the model takes 40"):
        model.inputs(too_long)


def test_an_onnx_graph_shows_how_many_tokens_it_takes(tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime")
    path = export(tmp_path, "bert", ("input_ids", "attention_mask"))
    (path / "config.json").unlink()
    model = built(path)
    assert spec(model).length == LENGTH
    assert f"more than {LENGTH} tokens do not run" in model.describe()["text"]["notes"]
    assert model.encode([" ".join(["dull"] * 60)]).shape == (1, LENGTH)


def test_a_model_that_takes_few_tokens(tmp_path: Path) -> None:
    """Fewer than a model is probed with where nothing says how many it takes."""
    transformers = pytest.importorskip("transformers")
    config = transformers.GPT2Config(vocab_size=20, n_embd=16, n_layer=1, n_head=2, n_positions=6, bos_token_id=0, eos_token_id=0)
    transformers.GPT2LMHeadModel(config).save_pretrained(tmp_path)
    model = built(tmp_path)
    assert spec(model).length == 6
    assert model(torch.full((2, 6), 7)).shape == (2, 20)


@pytest.mark.parametrize("text", ["", "   "])
@pytest.mark.parametrize("kind", KINDS)
def test_empty_texts(models: dict[str, RunnableModel], kind: str, text: str) -> None:
    model = models[kind]
    ids = model.encode([text, TEXTS[0]])
    alone = model.encode([text])
    assert bool(torch.isfinite(model(torch.from_numpy(ids))).all())
    torch.testing.assert_close(model(torch.from_numpy(ids))[:1], model(torch.from_numpy(alone)), atol=1e-4, rtol=1e-4)


def test_without_a_tokenizer_there_are_token_ids_only(tmp_path: Path) -> None:
    path = folder(tmp_path, "bert", tokens=False)
    model = built(path, samples("fine film", labels=[1]))
    text = spec(model)
    assert (text.tokens, text.prefix, text.suffix, text.pad, text.special) == ((), (), (), 0, (0,))
    assert model.decode([12, 7, 0]) == "#12 #7"
    assert "token ids only: the artifact has no tokenizer.json" in model.describe()["text"]["notes"]
    with pytest.raises(ModelError, match=r"tokenizer: the artifact has no tokenizer\.json; give token ids as samples"):
        model.encode(["fine"])
    assert "no tokenizer.json" in model.describe()["agreement"]["reason"]
    ids = Samples(np.full((3, 5), 7), np.array([0, 1, 2]), "ids.npz", "1" * 64)
    assert built(path, ids).inputs(ids).shape == (3, 5)
    outside = Samples(np.full((3, 5), VOCABULARY), None, "ids.npz", "")
    with pytest.raises(SamplesError, match=r"has token ids outside 0\.\.39; use the model's own tokenizer"):
        model.inputs(outside)


def test_a_tokenizer_that_cannot_be_read_is_said_to_be(tmp_path: Path) -> None:
    path = folder(tmp_path, "bert")
    (path / "tokenizer.json").write_text('{"model": {"type": "Evil"}}')
    with pytest.raises(ModelError, match=r"tokenizer: tokenizer\.json cannot be read"):
        built(path).encode(["fine"])


def test_a_tokenizer_with_more_tokens_than_the_model(tmp_path: Path) -> None:
    path = folder(tmp_path, "bert")
    coder = tokenizer("bert")
    coder.add_tokens([f"extra{i}" for i in range(30)])
    coder.save(str(path / "tokenizer.json"))
    model = built(path, samples("great film", "great extra29", labels=[0, 1]))
    assert "tokenizer.json has token ids up to 52, and the model has embeddings for 0..39 only" in model.describe()["text"]["notes"]
    assert model.encode(["great film"]).tolist() == [[2, 12, 7, 3]]
    with pytest.raises(
        ModelError, match=r"tokenizer: gives the token id 52, and the model has embeddings for 0\.\.39; use the model's own"
    ):
        model.encode(["great extra29"])
    assert "token id 52" in model.describe()["agreement"]["reason"]


def test_fewer_tokens_than_embeddings_are_said(models: dict[str, RunnableModel]) -> None:
    assert "17 of 40 embeddings have no token in tokenizer.json" in models["bert"].describe()["text"]["notes"]


def test_a_vocabulary_of_wordpiece_alone(models: dict[str, RunnableModel], tmp_path: Path) -> None:
    path = folder(tmp_path, "bert", tokens=False)
    words = sorted(tokenizer("bert").get_vocab().items(), key=lambda item: item[1])
    (path / "vocab.txt").write_text("\n".join(word for word, _ in words))
    model = built(path)
    assert model.text == models["bert"].text
    assert model.encode(TEXTS).tolist() == models["bert"].encode(TEXTS).tolist()
    assert model.encode(["The FILM"]).tolist() == [[2, 6, 7, 3]]
    (path / "vocab.txt").write_text("the\nfilm\n")
    with pytest.raises(ModelError, match=r"vocab\.txt cannot be read: it has no \[UNK\]"):
        built(path).encode(["fine"])


@pytest.mark.parametrize("classes", [1, 200])
def test_numbers_of_classes(tmp_path: Path, classes: int) -> None:
    model = built(folder(tmp_path, "bert", classes=classes))
    assert (model.output.kind, model.output.classes) == ("regressor" if classes == 1 else "classifier", classes)
    assert model(torch.from_numpy(model.encode(TEXTS))).shape == (3, classes)


def test_padding_that_texts_begin_with_is_none(models: dict[str, RunnableModel]) -> None:
    """GPT-2 begins and ends texts with one token, and fills up with it by custom."""
    model, source = models["gpt2"], network("gpt2")
    ids = torch.tensor([[0, 5, 6, 0]])
    with torch.no_grad():
        torch.testing.assert_close(model(ids), source(input_ids=ids).logits[:, -1], atol=1e-4, rtol=1e-4)
