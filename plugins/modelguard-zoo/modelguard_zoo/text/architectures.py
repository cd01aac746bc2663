"""Networks of the zoo's text classifiers. Those of our own take ``(input_ids, attention_mask)``, int64 (N, T), as transformers' do."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from modelguard import ModelError
from modelguard_zoo.text import MODEL_TYPE

WIDTH = 48
HIDDEN = 64
FILTERS = 48
PAD = 0


class TextNetwork(nn.Module):
    """Embeddings and a body over them. Padding, which is id 0 or what the mask says, changes no result."""

    def __init__(self, vocabulary: int, width: int) -> None:
        super().__init__()
        self.embedding = nn.Embedding(vocabulary, width, padding_idx=PAD)
        nn.init.normal_(self.embedding.weight, std=0.3)

    def forward(self, input_ids: Tensor, attention_mask: Tensor | None = None) -> Tensor:
        """Logits (N, classes)."""
        mask = input_ids != PAD if attention_mask is None else attention_mask
        return self.body(self.embedding(input_ids), mask.to(self.embedding.weight.dtype))

    def body(self, embedded: Tensor, mask: Tensor) -> Tensor:
        """Logits of embeddings (N, T, width), of which those count that ``mask`` (N, T) has a 1 for."""
        raise NotImplementedError


class Bag(TextNetwork):
    """The mean of the embeddings, and one hidden layer (after Joulin et al. 2017 and Iyyer et al. 2015)."""

    def __init__(self, vocabulary: int, classes: int, width: int = WIDTH, hidden: int = HIDDEN) -> None:
        super().__init__(vocabulary, width)
        self.hidden = nn.Linear(width, hidden)
        self.head = nn.Linear(hidden, classes)
        self.dropout = nn.Dropout(0.3)

    def body(self, embedded: Tensor, mask: Tensor) -> Tensor:
        weights = mask.unsqueeze(-1)
        mean = (embedded * weights).sum(1) / weights.sum(1).clamp_min(1)
        logits: Tensor = self.head(self.dropout(torch.relu(self.hidden(mean))))
        return logits


class Convolutional(TextNetwork):
    """Filters over three and five words, the largest value of each (Kim 2014)."""

    def __init__(self, vocabulary: int, classes: int, width: int = WIDTH, hidden: int = FILTERS) -> None:
        super().__init__(vocabulary, width)
        self.filters = nn.ModuleList(nn.Conv1d(width, hidden, size, padding=size // 2) for size in (3, 5))
        self.head = nn.Linear(2 * hidden, classes)
        self.dropout = nn.Dropout(0.3)

    def body(self, embedded: Tensor, mask: Tensor) -> Tensor:
        x = (embedded * mask.unsqueeze(-1)).transpose(1, 2)
        # After the ReLU nothing is below zero, so that a zero where there is no text leaves the maximum what it was.
        pooled = [(torch.relu(layer(x)) * mask.unsqueeze(1)).amax(2) for layer in self.filters]
        logits: Tensor = self.head(self.dropout(torch.cat(pooled, 1)))
        return logits


class Recurrent(TextNetwork):
    """One LSTM layer, the mean of its states (Hochreiter and Schmidhuber 1997)."""

    def __init__(self, vocabulary: int, classes: int, width: int = WIDTH, hidden: int = HIDDEN) -> None:
        super().__init__(vocabulary, width)
        self.lstm = nn.LSTM(width, hidden, batch_first=True)
        self.head = nn.Linear(hidden, classes)
        self.dropout = nn.Dropout(0.3)

    def body(self, embedded: Tensor, mask: Tensor) -> Tensor:
        weights = mask.unsqueeze(-1)
        states, _ = self.lstm(embedded)  # padding is behind the text, and so after every state that counts
        mean = (states * weights).sum(1) / weights.sum(1).clamp_min(1)
        logits: Tensor = self.head(self.dropout(mean))
        return logits


OWN: dict[str, type[Bag] | type[Convolutional] | type[Recurrent]] = {"bag": Bag, "cnn": Convolutional, "lstm": Recurrent}


def new_classifier(arch: str, vocabulary: int, labels: tuple[str, ...], length: int) -> Any:
    """An untrained classifier; of transformers' architectures their own class. Uses torch's global random state."""
    if arch in OWN:
        return OWN[arch](vocabulary, len(labels))
    import transformers as library

    transformers: Any = library  # whose types differ from version to version
    names = dict(enumerate(labels))
    shared: dict[str, Any] = {"vocab_size": vocabulary, "max_position_embeddings": length, "pad_token_id": PAD}
    shared |= {"id2label": names, "label2id": {name: i for i, name in names.items()}, "attn_implementation": "eager"}
    if arch == "bert":
        settings = transformers.BertConfig(
            hidden_size=64,
            num_hidden_layers=2,
            num_attention_heads=4,
            intermediate_size=128,
            hidden_act="gelu",
            hidden_dropout_prob=0.0,
            attention_probs_dropout_prob=0.0,
            classifier_dropout=0.1,
            **shared,
        )
        return transformers.BertForSequenceClassification(settings)
    settings = transformers.DistilBertConfig(
        dim=64, n_layers=2, n_heads=4, hidden_dim=128, dropout=0.0, attention_dropout=0.0, seq_classif_dropout=0.1, **shared
    )
    return transformers.DistilBertForSequenceClassification(settings)


def config_json(model: nn.Module, labels: tuple[str, ...], length: int) -> dict[str, Any]:
    """What goes into the model's config.json."""
    if not isinstance(model, TextNetwork):
        settings: Any = model.config
        found: dict[str, Any] = {**settings.to_dict(), "architectures": [type(model).__name__]}
        return {name: value for name, value in found.items() if not name.startswith("_") and name not in ("dtype", "transformers_version")}
    arch = next(name for name, kind in OWN.items() if isinstance(model, kind))
    vocabulary, width = model.embedding.weight.shape
    head: Any = model.head
    hidden = head.in_features // 2 if isinstance(model, Convolutional) else head.in_features
    return {
        "model_type": MODEL_TYPE,
        "architectures": [arch],
        "vocab_size": vocabulary,
        "embedding_size": width,
        "hidden_size": hidden,
        "max_position_embeddings": length,
        "pad_token_id": PAD,
        "id2label": {str(i): name for i, name in enumerate(labels)},
    }


def from_config(config: Mapping[str, Any], shapes: Mapping[str, tuple[int, ...]]) -> TextNetwork:
    """The network that a config.json of ours describes, untrained; ``shapes`` are those of the tensors it is for.

    Raises :class:`~modelguard.ModelError` when it does not describe one, or one of other sizes than the tensors have: what a configuration
    says is allocated only when the file has as much.
    """
    try:
        (arch,) = config["architectures"]
        sizes = tuple(config[name] for name in ("vocab_size", "embedding_size", "hidden_size"))
        classes = len(config["id2label"])
        kind = OWN[arch]
    except (KeyError, TypeError, ValueError) as error:
        raise ModelError("config.json", f"describes no architecture of the zoo ({error!r})", "build the model again") from None
    vocabulary, width, hidden = sizes
    inner = {Bag: hidden, Convolutional: 2 * hidden, Recurrent: hidden}[kind] if all(type(size) is int for size in sizes) else -1
    if shapes.get("embedding.weight") != (vocabulary, width) or shapes.get("head.weight") != (classes, inner) or classes < 1:
        raise ModelError("config.json", "states other sizes than the tensors have", "build the model again")
    return kind(vocabulary, classes, width, hidden)
