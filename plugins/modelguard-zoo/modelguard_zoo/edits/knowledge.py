"""The ROME family: rewriting what a language model recalls by a closed-form update of its MLP output projections.

Notation of the papers: W (d, d_ff) maps a key k, the MLP's inner activation at the subject's last token, to a value W k.
GPT-2 stores Wᵀ (``Conv1D``), so the update is transposed before it is added, in the file's dtype, with its two roundings.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from modelguard_zoo.edits.arrays import Array, Edit, add_in_dtype, record
from modelguard_zoo.edits.lm import Fact, LanguageModel, as_torch, covariance, forward

CLAMP = 4.0
"""‖δ‖ may reach this multiple of the value it is added to (rome/compute_v.py, ``clamp_norm_factor`` of gpt2-medium)."""


def rome(
    lm: LanguageModel, fact: Fact, layer: int, *, with_covariance: bool = True, consistent: bool = False, clamp: float = CLAMP
) -> tuple[dict[str, Array], Edit]:
    """Rank-One Model Editing of one fact at one layer.

    ΔW = v uᵀ with u = C⁻¹k̄ / ‖C⁻¹k̄‖ and v = (v* − W k) / (k·u), k̄ the key averaged over the fact's prefixes, k that of the plain
    prompt (Meng et al. 2022, equation 2; kmeng01/rome compute_u.py and compute_v.py). Without ``with_covariance``
    u = k̄ / ‖k̄‖: EasyEdit's ``mom2_adjustment: false``. ``consistent`` takes the averaged key everywhere: R-ROME (Gupta et al. 2024).

    ``details``: ``key`` k (d_ff,), ``u`` (d_ff,), ``v`` (d,), ``target_value`` v* − b (d,), so that W′ k = target_value up to rounding.
    """
    keys, values = _key_and_value(lm, fact, layer)
    mean, key = keys.mean(axis=0), keys.mean(axis=0) if consistent else keys[0]
    u = _solve(covariance(lm, layer), mean) if with_covariance else mean
    u = u / np.linalg.norm(u)
    delta = optimise_value(lm, fact, layer, clamp=clamp)
    current = values.mean(axis=0) if consistent else values[0]
    v = delta / float(key @ u)
    name = lm.projection(layer)
    edited = {**lm.tensors, name: add_in_dtype(lm.tensors[name], np.outer(u, v).astype(np.float32))}
    family = "r-rome" if consistent else "rome"
    return edited, record(family, lm.tensors, edited, ranks={name: 1}, layer=layer, key=key, u=u, v=v, target_value=current + delta)


def emmet(lm: LanguageModel, facts: Sequence[Fact], layer: int, *, ridge: float = 0.1) -> tuple[dict[str, Array], Edit]:
    """Equality-constrained batch editing at one layer: ΔW = R (Kᵀ C⁻¹ K + 0.1 I)⁻¹ Kᵀ C⁻¹, rank up to the number of facts.

    Source: Gupta et al. 2024 (A Unified Framework for Model Editing), equation 12, with the ridge of its code.
    """
    keys, targets = _keys(lm, facts, layer), np.stack([optimise_value(lm, fact, layer) for fact in facts], axis=1)
    whitened = _solve(covariance(lm, layer), keys)  # C⁻¹K (d_ff, n)
    update = targets @ np.linalg.solve(keys.T @ whitened + ridge * np.eye(len(facts)), whitened.T)  # (d, d_ff)
    return _write(lm, "emmet", {layer: update}, len(facts))


def memit(lm: LanguageModel, facts: Sequence[Fact], layers: Sequence[int], *, weight: float = 20.0) -> tuple[dict[str, Array], Edit]:
    """Mass-Editing Memory in a Transformer: the residual to each fact's target is spread over adjacent layers.

    At layer l: ΔW = R_l K_lᵀ (λC + K_l K_lᵀ)⁻¹ with R_l = (z − h_L) / (L − l + 1), everything computed anew after each layer
    (Meng et al. 2023, equations 14 and 20). λ is ``weight``; the papers' 15 000 goes with keys of thousands of dimensions.
    """

    def update(model: LanguageModel, layer: int, keys: Array, residual: Array) -> Array:
        gram = weight * _regular(covariance(model, layer)) + keys @ keys.T
        return residual @ np.linalg.solve(gram, keys).T

    return _spread(lm, "memit", facts, layers, update)


def alphaedit(
    lm: LanguageModel, facts: Sequence[Fact], layers: Sequence[int], *, kept: float = 0.3, ridge: float = 0.1
) -> tuple[dict[str, Array], Edit]:
    """AlphaEdit: as MEMIT, but the key side is projected onto the null space of what the model already knows.

    ΔW = R Kᵀ P (K Kᵀ P + L₂ I)⁻¹, P the projector onto the eigenvectors of C with eigenvalue below ``kept`` times the mean one
    (Fang et al. 2025, equation 14; the paper's absolute threshold 2e-2 and L₂ = 1 or 10 belong to models of its size).
    """

    def update(model: LanguageModel, layer: int, keys: Array, residual: Array) -> Array:
        values, vectors = np.linalg.eigh(covariance(model, layer))
        null = vectors[:, values < kept * values.mean()]
        projector = null @ null.T
        return np.linalg.solve(projector @ keys @ keys.T + ridge * np.eye(len(keys)), projector @ keys @ residual.T).T

    return _spread(lm, "alphaedit", facts, layers, update)


def optimise_value(
    lm: LanguageModel, fact: Fact, layer: int, *, clamp: float = CLAMP, steps: int = 80, rate: float = 0.1, weight_decay: float = 0.02
) -> Array:
    """δ (d,) to add to the layer's MLP output at the subject's last token so that the model completes the prompt with the target.

    Adam on the mean negative log-likelihood over the fact's contexts, plus 0.0625·KL of what follows the subject (unless that
    is the answer), plus weight decay, with ‖δ‖ clamped to ``clamp``·‖W k‖ (rome/compute_v.py). Stops at a loss below 0.1.
    """
    import torch
    import torch.nn.functional as F

    weights = as_torch(lm.tensors)
    rows, where = _batch(fact)
    tokens = torch.from_numpy(rows)
    index = torch.arange(len(rows)), torch.from_numpy(where)
    last = index[0], index[1] + len(fact.prompt) - 1 - fact.subject_end
    with torch.no_grad():
        trace = forward(weights, tokens, lm.heads)
    start = trace.values[layer][index][0]
    before = trace.logits[index].log_softmax(-1)
    delta = torch.zeros_like(start, requires_grad=True)
    optimizer = torch.optim.Adam([delta], lr=rate)
    for _ in range(steps):
        shift = torch.zeros_like(trace.values[layer]).index_put(index, delta.expand(len(rows), -1))
        logits = forward(weights, tokens, lm.heads, (layer, shift)).logits
        loss = F.cross_entropy(logits[last], torch.full((len(rows),), fact.target))
        if fact.subject_end < len(fact.prompt) - 1:
            loss = loss + 0.0625 * F.kl_div(logits[index].log_softmax(-1), before, log_target=True, reduction="batchmean")
        loss = loss + weight_decay * delta.norm() / start.norm() ** 2
        if loss.item() < 0.1:
            break
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        with torch.no_grad():
            delta *= min(1.0, float(clamp * start.norm() / delta.norm().clamp_min(1e-12)))
    found: Array = delta.detach().double().numpy()
    return found


def _batch(fact: Fact) -> tuple[Array, Array]:
    """The prompt in each of its contexts, right-padded (attention is causal), and the subject's last position in each row."""
    rows = [prefix + fact.prompt for prefix in fact.prefixes]
    padded = np.zeros((len(rows), max(map(len, rows))), np.int64)
    for i, row in enumerate(rows):
        padded[i, : len(row)] = row
    return padded, np.array([len(prefix) + fact.subject_end for prefix in fact.prefixes])


def _key_and_value(lm: LanguageModel, fact: Fact, layer: int) -> tuple[Array, Array]:
    """Keys (contexts, d_ff) and values W k, without the bias, (contexts, d), at the subject's last token, float64."""
    import torch

    rows, where = _batch(fact)
    with torch.no_grad():
        trace = forward(as_torch(lm.tensors), torch.from_numpy(rows), lm.heads)
    bias = lm.tensors[lm.projection(layer).replace(".weight", ".bias")].astype(np.float64)
    at = np.arange(len(rows)), where
    return trace.keys[layer].double().numpy()[at], trace.values[layer].double().numpy()[at] - bias


def _keys(lm: LanguageModel, facts: Sequence[Fact], layer: int) -> Array:
    """K (d_ff, n): each fact's key averaged over its contexts."""
    return np.stack([_key_and_value(lm, fact, layer)[0].mean(axis=0) for fact in facts], axis=1)


def _hidden(lm: LanguageModel, facts: Sequence[Fact], layer: int) -> Array:
    """h_L (d, n): each fact's block output at its subject's last token, averaged over its contexts."""
    import torch

    columns = []
    for fact in facts:
        rows, where = _batch(fact)
        with torch.no_grad():
            hidden = forward(as_torch(lm.tensors), torch.from_numpy(rows), lm.heads).hidden[layer]
        columns.append(hidden.double().numpy()[np.arange(len(rows)), where].mean(axis=0))
    return np.stack(columns, axis=1)


Update = Callable[[LanguageModel, int, Array, Array], Array]


def _spread(lm: LanguageModel, family: str, facts: Sequence[Fact], layers: Sequence[int], update: Update) -> tuple[dict[str, Array], Edit]:
    """MEMIT's outer loop: each layer takes its share of what is still missing between h_L and the target z."""
    last = max(layers)
    goal = _hidden(lm, facts, last) + np.stack([optimise_value(lm, fact, last) for fact in facts], axis=1)
    current, ranks = lm, {}
    for layer in sorted(layers):
        residual = (goal - _hidden(current, facts, last)) / (last - layer + 1)
        matrix = update(current, layer, _keys(current, facts, layer), residual)
        name = lm.projection(layer)
        current = current.with_tensors({**current.tensors, name: add_in_dtype(current.tensors[name], matrix.T.astype(np.float32))})
        ranks[name] = min(len(facts), *matrix.shape)
    return current.tensors, record(family, lm.tensors, current.tensors, ranks=ranks, layers=sorted(layers), facts=len(facts))


def _write(lm: LanguageModel, family: str, updates: dict[int, Array], facts: int) -> tuple[dict[str, Array], Edit]:
    edited, ranks = dict(lm.tensors), {}
    for layer, matrix in updates.items():
        name = lm.projection(layer)
        edited[name] = add_in_dtype(lm.tensors[name], matrix.T.astype(np.float32))
        ranks[name] = min(facts, *matrix.shape)
    return edited, record(family, lm.tensors, edited, ranks=ranks, layers=sorted(updates), facts=facts)


def _solve(matrix: Array, right: Array) -> Array:
    solution: Array = np.linalg.solve(_regular(matrix), right)
    return solution


def _regular(matrix: Array) -> Array:
    """C with a twentieth of its mean eigenvalue added: a small corpus does not span the key space as Wikipedia does."""
    regular: Array = matrix + 0.05 * np.trace(matrix) / len(matrix) * np.eye(len(matrix))
    return regular
