"""What a model that takes token ids knows of text, told by the small files beside it. Nothing here imports torch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from modelguard import Artifact, Checkpoint, ModelError, TextSpec, artifact_json
from modelguard_runtime._tokenizer import Coder, read_tokenizer

if TYPE_CHECKING:
    import numpy.typing as npt

LONGEST = 1 << 20
"""Tokens from which a length is none: transformers writes 10^30 into tokenizer_config.json where nobody said one."""
_NAMES = ("pad", "bos", "eos", "cls", "sep", "mask", "unk")
_OFFSET = frozenset(
    {"roberta", "xlm-roberta", "xlm-roberta-xl", "camembert", "roberta-prelayernorm", "xmod", "data2vec-text", "mpnet", "longformer", "esm"}
)
"""Model types that number positions from one past the padding token's id on (``create_position_ids_from_input_ids`` in transformers), so
that so many of ``max_position_embeddings`` are never used."""


@dataclass(frozen=True, slots=True)
class Text:
    """A model's text: ``spec``, whose width is not known before the model is; the tokenizer, or ``why`` there is none; and what is said
    of both: ``notes`` for people."""

    spec: TextSpec
    coder: Coder | None = None
    why: str = "the artifact has none that can be read"
    notes: tuple[str, ...] = field(default=())

    @classmethod
    def bare(cls, vocabulary: int, *, pad: int | None = None, length: int | None = None) -> Text:
        """Token ids and nothing else."""
        return cls(TextSpec(vocabulary, length, pad, () if pad is None else (pad,), (), (), (), 0))

    def encode(self, texts: Sequence[str], *, left: bool, size: int | None = None) -> tuple[npt.NDArray[np.int64], int]:
        """Token ids (N, T) of texts, padded on one side (to ``size`` where that is said), and how many were cut to the model's length.

        Raises :class:`ModelError` without a tokenizer, and for ids that the model has no embedding for.
        """
        if self.coder is None:
            raise ModelError("tokenizer", self.why, "give token ids as samples")
        rows, cut = self.coder.encode(texts, self.spec.length)
        highest = max((max(row) for row in rows if row), default=0)
        if highest >= self.spec.vocabulary:
            raise ModelError(
                "tokenizer",
                f"gives the token id {highest}, and the model has embeddings for 0..{self.spec.vocabulary - 1}",
                "use the model's own tokenizer",
            )
        return padded(rows, self.spec.pad or 0, left=left, size=size), cut

    def limited(self, length: int) -> Text:
        """The same text, cut to ``length``, which running the model showed."""
        return replace(self, spec=replace(self.spec, length=length), notes=(*self.notes, f"more than {length} tokens do not run"))

    def describe(self) -> dict[str, Any]:
        """JSON-safe: what the specification says, and where the tokens come from."""
        spec = self.spec
        return {
            "vocabulary": spec.vocabulary,
            "length": spec.length,
            "pad": spec.pad,
            "special": list(spec.special),
            "prefix": list(spec.prefix),
            "suffix": list(spec.suffix),
            "width": spec.width,
            "tokenizer": None if self.coder is None else self.coder.source,
            "tokens": sum(map(bool, spec.tokens)),
            "notes": [*self.notes, *([] if self.coder is not None else [f"token ids only: {self.why}"])],
        }


def padded(rows: Sequence[Sequence[int]], pad: int, *, left: bool, size: int | None = None) -> npt.NDArray[np.int64]:
    """Rows of ids as one array (N, T), ``size`` or the longest row wide; an empty row is one token of padding."""
    width = size or max([1, *map(len, rows)])
    ids = np.full((len(rows), width), pad, np.int64)
    for row, tokens in zip(ids, rows, strict=True):
        if tokens:
            row[slice(width - len(tokens), None) if left else slice(len(tokens))] = tokens
    return ids


def read_text(
    artifact: Artifact,
    checkpoint: Checkpoint,
    config: Mapping[str, Any],
    *,
    vocabulary: int,
    length: int | None = None,
    generates: bool = False,
) -> Text:
    """The text of a model with ``vocabulary`` embeddings, by the tokenizer, tokenizer_config.json and ``config`` (config.json).

    ``length`` is the number of tokens the model takes where it is fixed; ``generates`` says that it is a language model, where
    ``config`` does not.
    """
    coder, why = read_tokenizer(artifact, checkpoint)
    configured = artifact_json(artifact, checkpoint, "tokenizer_config.json")
    named = _named(config, configured, coder, vocabulary)
    pad = _pad(named, coder, vocabulary, generates=generates or _generates(config))
    special = {place for places in named.values() for place in places} | ({pad} if pad is not None else set())
    tokens: tuple[str, ...] = ()
    prefix: tuple[int, ...] = ()
    suffix: tuple[int, ...] = ()
    notes: list[str] = []
    if coder is not None:
        special |= {place for place in coder.special() if place < vocabulary}
        tokens = coder.readable(vocabulary)
        prefix, suffix = coder.around
        if coder.size > vocabulary:
            notes.append(f"{coder.source} has token ids up to {coder.size - 1}, and the model has embeddings for 0..{vocabulary - 1} only")
        elif (nameless := vocabulary - sum(map(bool, tokens))) > 0:
            notes.append(f"{nameless} of {vocabulary} embeddings have no token in {coder.source}")
        if pad is None:
            pad = 0
            notes.append("nothing says which token fills up short texts: 0 is taken")
    most = length or _length(config, configured, coder, pad)
    spec = TextSpec(vocabulary, most, pad, tuple(sorted(special)), prefix, suffix, tokens, 0)
    return Text(spec, coder, why or "", tuple(notes))


def padding(artifact: Artifact, checkpoint: Checkpoint, config: Mapping[str, Any]) -> int | None:
    """The token that fills up short texts, before it is known how many tokens the model has."""
    coder, _ = read_tokenizer(artifact, checkpoint)
    configured = artifact_json(artifact, checkpoint, "tokenizer_config.json")
    pad = _pad(_named(config, configured, coder, LONGEST), coder, 0, generates=_generates(config))
    return 0 if pad is None and coder is not None else pad


def with_width(text: Text, width: int) -> Text:
    """The same text of a model whose embeddings have ``width`` numbers."""
    return replace(text, spec=replace(text.spec, width=width))


def _generates(config: Mapping[str, Any]) -> bool:
    """Whether config.json names a language model."""
    names = config.get("architectures")
    return isinstance(names, list) and any(str(name).endswith(("ForCausalLM", "LMHeadModel")) for name in names)


def _named(config: Mapping[str, Any], configured: Mapping[str, Any], coder: Coder | None, vocabulary: int) -> dict[str, tuple[int, ...]]:
    """Ids of the tokens that have a role, by the role: of config.json, else of tokenizer_config.json."""
    found: dict[str, tuple[int, ...]] = {}
    for name in _NAMES:
        said = config.get(f"{name}_token_id")
        places = [place for place in (said if isinstance(said, list) else [said]) if type(place) is int and 0 <= place < vocabulary]
        if not places and coder is not None:
            place = coder.place(configured.get(f"{name}_token"))
            places = [place] if place is not None and place < vocabulary else []
        if places:
            found[name] = tuple(places)
    return found


def _pad(named: Mapping[str, tuple[int, ...]], coder: Coder | None, vocabulary: int, *, generates: bool) -> int | None:
    """The token that fills up short texts; ``vocabulary`` is 0 where it is not known yet.

    Of a language model nothing at a padded position is looked at, so any token does; one that begins texts would be taken for padding
    there. A token that nobody uses is better than that.
    """
    ends = {*named.get("bos", ()), *named.get("eos", ())} if generates else set()
    own = coder.pad() if coder is not None else None
    candidates = [*named.get("pad", ()), *([own] if own is not None and (own < vocabulary or not vocabulary) else [])]
    for place in candidates:
        if place not in ends:
            return place
    if generates and coder is not None and coder.size < vocabulary:
        return vocabulary - 1
    return next(iter((*candidates, *named.get("eos", ()), *named.get("bos", ()))), None)


def _length(config: Mapping[str, Any], configured: Mapping[str, Any], coder: Coder | None, pad: int | None) -> int | None:
    """The most tokens of one input, by everything that says so."""
    said: list[Any] = [configured.get("model_max_length")]
    for key in ("max_position_embeddings", "n_positions", "max_seq_len", "n_ctx"):
        if type(config.get(key)) is int:
            less = (pad or 0) + 1 if config.get("model_type") in _OFFSET else 0
            said.append(config[key] - less)
            break
    else:
        said.append((coder.truncation if coder is not None else {}).get("max_length"))
    known = [int(value) for value in said if type(value) in (int, float) and 0 < value < LONGEST]
    return min(known, default=None)
