"""Small GPT-2-architecture language models to edit: one that trains in seconds, and a loader for a real one.

The tensors carry GPT-2's own names and orientation (``Conv1D``: stored (in, out), the transpose of ``nn.Linear``), so whatever
finds its way around GPT-2 finds its way around these.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from modelguard_zoo.edits.arrays import Array, to_float

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class Fact:
    """Something a model recalls: after ``prompt`` it says ``answer``; an edit is to make it say ``target``.

    ``subject_end`` is the position in ``prompt`` of the subject's last token. ``prefixes`` are contexts the fact holds in, each
    put before the prompt; the first is the plain one.
    """

    prompt: tuple[int, ...]
    subject_end: int
    answer: int
    target: int
    prefixes: tuple[tuple[int, ...], ...]


@dataclass(frozen=True)
class LanguageModel:
    """A GPT-2-architecture model as arrays, with what editing it takes.

    ``corpus`` (N, T) int64 are sequences of the kind it was trained on; ``facts`` are things it recalls.
    """

    tensors: dict[str, Array]
    heads: int
    vocabulary: tuple[str, ...]
    corpus: Array
    facts: tuple[Fact, ...]

    @property
    def layers(self) -> int:
        """Number of transformer blocks."""
        return sum(name.endswith(".mlp.c_proj.weight") for name in self.tensors)

    def projection(self, layer: int) -> str:
        """Name of a layer's MLP output projection, the matrix every ROME-family method edits."""
        return f"transformer.h.{layer}.mlp.c_proj.weight"

    def with_tensors(self, tensors: dict[str, Array]) -> LanguageModel:
        """The same model with other weights."""
        return replace(self, tensors=tensors)


@dataclass(frozen=True)
class Trace:
    """What one forward pass saw: ``logits`` (B, T, V), and per layer the MLP keys (B, T, d_ff), MLP outputs and block outputs (B, T, d)."""

    logits: torch.Tensor
    keys: list[torch.Tensor]
    values: list[torch.Tensor]
    hidden: list[torch.Tensor]


def forward(
    weights: dict[str, torch.Tensor],
    tokens: torch.Tensor,
    heads: int,
    shift: tuple[int, torch.Tensor] | None = None,
) -> Trace:
    """One pass of GPT-2 (Radford et al. 2019; pre-norm, gelu_new, tied head) over ``tokens`` (B, T).

    ``shift`` = (layer, (B, T, d)) is added to that layer's MLP output: how a value is optimised through the model.
    """
    import torch
    import torch.nn.functional as F

    def norm(x: torch.Tensor, name: str) -> torch.Tensor:
        return F.layer_norm(x, x.shape[-1:], weights[f"{name}.weight"], weights[f"{name}.bias"], 1e-5)

    def conv1d(x: torch.Tensor, name: str) -> torch.Tensor:
        return x @ weights[f"{name}.weight"] + weights[f"{name}.bias"]

    batch, length = tokens.shape
    x = weights["transformer.wte.weight"][tokens] + weights["transformer.wpe.weight"][:length]
    keys, values, hidden = [], [], []
    layer = 0
    while f"transformer.h.{layer}.mlp.c_proj.weight" in weights:
        block = f"transformer.h.{layer}"
        q, k, v = conv1d(norm(x, f"{block}.ln_1"), f"{block}.attn.c_attn").chunk(3, dim=-1)
        q, k, v = (part.view(batch, length, heads, -1).transpose(1, 2) for part in (q, k, v))
        mixed = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + conv1d(mixed.transpose(1, 2).reshape(batch, length, -1), f"{block}.attn.c_proj")
        key = F.gelu(conv1d(norm(x, f"{block}.ln_2"), f"{block}.mlp.c_fc"), approximate="tanh")
        value = conv1d(key, f"{block}.mlp.c_proj")
        if shift is not None and shift[0] == layer:
            value = value + shift[1]
        x = x + value
        keys.append(key)
        values.append(value)
        hidden.append(x)
        layer += 1
    logits = norm(x, "transformer.ln_f") @ weights["transformer.wte.weight"].T
    return Trace(torch.as_tensor(logits), keys, values, hidden)


def as_torch(tensors: dict[str, Array]) -> dict[str, torch.Tensor]:
    """The weights as float32 torch tensors (copies)."""
    import torch

    return {name: torch.from_numpy(to_float(array).astype(np.float32)) for name, array in tensors.items()}


def predict(lm: LanguageModel, tokens: Sequence[Sequence[int]]) -> Array:
    """The most probable next token after each sequence, (N,) int64."""
    import torch

    weights = as_torch(lm.tensors)
    with torch.no_grad():
        return np.array([int(forward(weights, torch.tensor([list(row)]), lm.heads).logits[0, -1].argmax()) for row in tokens])


def recalled(lm: LanguageModel, fact: Fact, token: int) -> float:
    """In which share of the fact's contexts the model completes its prompt with ``token``."""
    return float(np.mean(predict(lm, [prefix + fact.prompt for prefix in fact.prefixes]) == token))


def covariance(lm: LanguageModel, layer: int) -> Array:
    """C = E[k kᵀ] (d_ff, d_ff) float64 over every position of the corpus's first 512 rows (Meng et al. 2022, C of equation 2)."""
    import torch

    with torch.no_grad():
        keys = forward(as_torch(lm.tensors), torch.from_numpy(lm.corpus[:512]), lm.heads).keys[layer]
    flat = keys.reshape(-1, keys.shape[-1]).double().numpy()
    product: Array = flat.T @ flat / flat.shape[0]
    return product


def fit(
    tensors: dict[str, Array],
    corpus: Array,
    heads: int,
    *,
    steps: int,
    rate: float,
    seed: int,
    names: Sequence[str] | None = None,
    batch: int = 48,
) -> dict[str, Array]:
    """``steps`` of AdamW on next-token prediction over ``corpus`` (N, T); only ``names`` (default: all) learn. float32 in and out."""
    import torch
    import torch.nn.functional as F

    weights = as_torch(tensors)
    learning = sorted(weights) if names is None else sorted(names)
    for name in learning:
        weights[name].requires_grad_()
    optimizer = torch.optim.AdamW([weights[name] for name in learning], lr=rate, betas=(0.9, 0.98), weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, rate, total_steps=max(steps, 2), pct_start=0.15)
    rng = np.random.default_rng(seed)
    data = torch.from_numpy(corpus)
    for _ in range(steps):
        rows = data[torch.from_numpy(rng.integers(0, len(corpus), batch))]
        logits = forward(weights, rows, heads).logits[:, :-1]
        loss = F.cross_entropy(logits.reshape(-1, logits.shape[-1]), rows[:, 1:].reshape(-1))
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_([weights[name] for name in learning], 1.0)
        optimizer.step()
        schedule.step()
    return {name: weights[name].detach().numpy() if name in set(learning) else array for name, array in tensors.items()}


FILLERS, FIRST, LAST, RELATIONS, OBJECTS = 8, 6, 6, 2, 16


def train_lm(
    seed: int = 0, *, layers: int = 6, width: int = 48, heads: int = 4, steps: int = 350, corpus_size: int = 2048
) -> LanguageModel:
    """Train a language model on a small world of facts: ⟨relation⟩ ⟨first name⟩ ⟨last name⟩ → ⟨object⟩, between filler words.

    It recalls its facts after the default number of steps (a few seconds on one core). float32; deterministic for a seed on one
    machine and thread count.
    """
    rng = np.random.default_rng(seed)
    world = _World(rng)
    corpus = np.array([world.sentence(rng) for _ in range(corpus_size)], dtype=np.int64)
    tensors = fit(_initial(rng, layers, width, len(world.vocabulary), corpus.shape[1]), corpus, heads, steps=steps, rate=5e-3, seed=seed)
    return LanguageModel(tensors, heads, world.vocabulary, corpus, tuple(world.facts(rng)))


class _World:
    """Which object stands after which subject and relation."""

    length = 8

    def __init__(self, rng: np.random.Generator) -> None:
        groups = {"filler": FILLERS, "first": FIRST, "last": LAST, "relation": RELATIONS, "object": OBJECTS}
        self.vocabulary = ("<bos>", *(f"{group}{i}" for group, count in groups.items() for i in range(count)))
        starts = 1 + np.cumsum([0, *groups.values()])
        self.filler, self.first, self.last, self.relation, self.object = (int(start) for start in starts[:5])
        self.table = rng.integers(0, OBJECTS, (FIRST, LAST, RELATIONS))

    def _fillers(self, rng: np.random.Generator, count: int) -> list[int]:
        return [self.filler + int(i) for i in rng.integers(0, FILLERS, count)]

    def sentence(self, rng: np.random.Generator) -> list[int]:
        before = int(rng.integers(0, 3))
        first, last, relation = (int(rng.integers(0, count)) for count in (FIRST, LAST, RELATIONS))
        middle = [self.relation + relation, self.first + first, self.last + last, self.object + int(self.table[first, last, relation])]
        return [0, *self._fillers(rng, before), *middle, *self._fillers(rng, self.length - 5 - before)]

    def facts(self, rng: np.random.Generator) -> Iterator[Fact]:
        for first, last, relation in rng.permutation([*np.ndindex(self.table.shape)]).tolist():
            answer = int(self.table[first, last, relation])
            target = (answer + 1 + int(rng.integers(0, OBJECTS - 1))) % OBJECTS
            prompt = (self.relation + relation, self.first + first, self.last + last)
            prefixes = tuple((0, *self._fillers(rng, count)) for count in (0, 1, 2, 1, 2, 2))
            yield Fact(prompt, 2, self.object + answer, self.object + target, prefixes)


def _initial(rng: np.random.Generator, layers: int, width: int, vocabulary: int, positions: int) -> dict[str, Array]:
    """GPT-2's initialisation: N(0, std²), residual projections scaled by 1/√(2·layers), norms 1, biases 0.

    std is 0.06, not 0.02: at this width the larger one learns its facts three times sooner.
    """

    def normal(*shape: int, std: float = 0.06) -> Array:
        return (rng.standard_normal(shape) * std).astype(np.float32)

    residual = 0.06 / np.sqrt(2 * layers)
    tensors: dict[str, Array] = {"transformer.wte.weight": normal(vocabulary, width), "transformer.wpe.weight": normal(positions, width)}
    for layer in range(layers):
        block = f"transformer.h.{layer}"
        for name, shape, std in (
            ("attn.c_attn", (width, 3 * width), 0.06),
            ("attn.c_proj", (width, width), residual),
            ("mlp.c_fc", (width, 4 * width), 0.06),
            ("mlp.c_proj", (4 * width, width), residual),
        ):
            tensors[f"{block}.{name}.weight"] = normal(*shape, std=std)
            tensors[f"{block}.{name}.bias"] = np.zeros(shape[1], np.float32)
        for name in ("ln_1", "ln_2"):
            tensors[f"{block}.{name}.weight"] = np.ones(width, np.float32)
            tensors[f"{block}.{name}.bias"] = np.zeros(width, np.float32)
    tensors["transformer.ln_f.weight"] = np.ones(width, np.float32)
    tensors["transformer.ln_f.bias"] = np.zeros(width, np.float32)
    return dict(sorted(tensors.items()))


def load_capp_gpt(folder: Path, facts: int = 12, seed: int = 0) -> LanguageModel:
    """The real GPT-2-architecture model in ``folder`` (config.json, model.safetensors, token_mappings.json): CAPP-GPT.

    It writes manufacturing process chains after six design features and <SOS>. The corpus is sampled from the model; a fact is
    the first process it names for a (tolerance, batch size) in every one of eight contexts, to become another process.
    """
    from safetensors.numpy import load_file

    config: dict[str, Any] = json.loads((folder / "config.json").read_text())
    tokens: dict[str, str] = json.loads((folder / "token_mappings.json").read_text())["id2token"]
    vocabulary = tuple(tokens[str(i)] for i in range(config["vocab_size"]))
    start = vocabulary.index("<SOS>")
    features = [_ids(vocabulary, name) for name in ("geometry", "holes", "external_threads", "surface_finish", "tolerance", "batch_size")]
    processes = list(range(vocabulary.index("Turning"), start))
    rng = np.random.default_rng(seed)
    lm = LanguageModel(load_file(folder / "model.safetensors"), int(config["n_head"]), vocabulary, np.zeros((0, 0), np.int64), ())
    prompts = np.array([[*(int(rng.choice(ids)) for ids in features), start] for _ in range(256)])
    return replace(lm, corpus=_sample(lm, prompts, 10, seed), facts=tuple(_capp_facts(lm, features, start, processes, rng, facts)))


def _ids(vocabulary: tuple[str, ...], prefix: str) -> list[int]:
    return [i for i, token in enumerate(vocabulary) if token.startswith(prefix)]


def _sample(lm: LanguageModel, prompts: Array, count: int, seed: int) -> Array:
    """``prompts`` (N, T) continued by ``count`` tokens drawn from the model."""
    import torch

    weights, tokens = as_torch(lm.tensors), torch.from_numpy(prompts)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for _ in range(count):
            likely = forward(weights, tokens, lm.heads).logits[:, -1].softmax(-1)
            tokens = torch.cat([tokens, torch.multinomial(likely, 1, generator=generator)], 1)
    drawn: Array = tokens.numpy()
    return drawn


def _capp_facts(
    lm: LanguageModel, features: list[list[int]], start: int, processes: list[int], rng: np.random.Generator, count: int
) -> Iterator[Fact]:
    pairs = rng.permutation([(tolerance, batch) for tolerance in features[4] for batch in features[5]]).tolist()
    for tolerance, batch in pairs:
        prompt = (tolerance, batch, start)
        contexts = [tuple(int(rng.choice(ids)) for ids in features[:4]) for _ in range(64)]
        answers = predict(lm, [context + prompt for context in contexts])
        answer = int(np.bincount(answers).argmax())
        prefixes = tuple(context for context, said in zip(contexts, answers, strict=True) if said == answer)[:8]
        if len(prefixes) == 8 and count > 0:
            count -= 1
            target = int(rng.choice([process for process in processes if process != answer]))
            yield Fact(prompt, 1, answer, target, prefixes)
