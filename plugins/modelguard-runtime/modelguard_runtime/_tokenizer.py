"""The tokenizer an artifact carries as data: tokenizer.json, or a WordPiece vocab.txt; never a Python class."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import PurePosixPath
from typing import Any

from modelguard import Artifact, Checkpoint, ModelError, artifact_json
from modelguard_runtime._failures import one_line

VOCABULARY = 32 << 20
"""Bytes of a vocab.txt."""
_PROBES = ("the", "a b", "0", "The end.", "x")
"""Texts that show what a tokenizer puts around them; of one it makes no token, the next is tried."""
_PADS = ("[PAD]", "<pad>", "<PAD>")
"""Names that the token for padding has."""
_WORDPIECE = ("[UNK]", "[CLS]", "[SEP]", "[PAD]", "[MASK]")
"""Special tokens of BERT's vocab.txt (Devlin et al. 2019, arXiv:1810.04805)."""


class Coder:
    """Text to token ids and back, by the library ``tokenizers``. ``source`` is the file it was read from, ``size`` one more than the
    largest id it gives; ``padding`` and ``truncation`` are what the file says of them."""

    def __init__(self, coder: Any, source: str) -> None:
        self.source = source
        self._coder = coder
        self.padding: Mapping[str, Any] = coder.padding or {}
        self.truncation: Mapping[str, Any] = coder.truncation or {}
        coder.no_padding()
        coder.no_truncation()
        self._ids: dict[str, int] = {str(token): int(place) for token, place in coder.get_vocab(with_added_tokens=True).items()}
        self.size = max(self._ids.values(), default=-1) + 1

    def encode(self, texts: Sequence[str], length: int | None) -> tuple[list[list[int]], int]:
        """The ids of each text with what is put around it, at most ``length``, and how many texts were longer than that.

        Raises :class:`ModelError` when the tokenizer fails, or when ``length`` leaves no room for a token of the text.
        """
        around = len(self.prefix) + len(self.suffix)
        if length is not None and length <= around:
            raise ModelError(
                "tokenizer", f"puts {around} tokens around a text, and the model takes {length}", "use the model's own tokenizer"
            )
        rows = [list(map(int, item.ids)) for item in self._batch(texts)]
        if length is None:
            return rows, 0
        kept = length - len(self.suffix)
        longer = [row for row in rows if len(row) > length]
        for row in longer:
            row[kept:] = self.suffix
        return rows, len(longer)

    def decode(self, ids: Sequence[int]) -> str:
        """Ids as text. Ids that the tokenizer has not are left out."""
        return str(self._coder.decode([place for place in ids if 0 <= place < self.size], skip_special_tokens=False))

    def place(self, token: Any) -> int | None:
        """The id of a token, by its name or by the mapping a configuration describes it with; None for what is no token."""
        name = token.get("content") if isinstance(token, Mapping) else token
        return self._ids.get(name) if isinstance(name, str) else None

    @cached_property
    def settings(self) -> Mapping[str, Any]:
        """The tokenizer as tokenizer.json writes it."""
        settings: Mapping[str, Any] = json.loads(self._coder.to_str())
        return settings

    @cached_property
    def around(self) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """What is put before and after a text."""
        for text in _PROBES:
            whole, bare = (self._batch([text], special)[0].ids for special in (True, False))
            for start in range(len(whole) - len(bare) + 1):
                if bare and whole[start : start + len(bare)] == bare:
                    return tuple(whole[:start]), tuple(whole[start + len(bare) :])
        return (), ()

    @property
    def prefix(self) -> tuple[int, ...]:
        return self.around[0]

    @property
    def suffix(self) -> tuple[int, ...]:
        return self.around[1]

    def special(self) -> set[int]:
        """Ids of added special tokens, and of the unknown token."""
        found = {self.place(item) for item in self.settings.get("added_tokens") or () if item.get("special")}
        model = self.settings.get("model") or {}
        unknown = model.get("unk_token")
        found.add(self.place(unknown) if not isinstance(model.get("unk_id"), int) else model["unk_id"])
        return {place for place in found if place is not None}

    def pad(self) -> int | None:
        """The id that fills up short texts, where the tokenizer says so."""
        said = self.padding.get("pad_id")
        return said if isinstance(said, int) else next((self._ids[name] for name in _PADS if name in self._ids), None)

    def readable(self, vocabulary: int) -> tuple[str, ...]:
        """The string of each id 0..``vocabulary``-1 as a person reads it, "" where there is none."""
        bytewise = "ByteLevel" in {part.get("type") for part in _parts(self.settings.get("decoder"))}
        table = _byte_of_character() if bytewise else {}
        added = {item["id"] for item in self.settings.get("added_tokens") or ()}
        found = [""] * vocabulary
        for token, place in self._ids.items():
            if 0 <= place < vocabulary:
                plain = bytewise and place not in added and all(character in table for character in token)
                found[place] = (
                    bytes(table[character] for character in token).decode("utf-8", "replace") if plain else token.replace("▁", " ")
                )
        return tuple(found)

    def _batch(self, texts: Sequence[str], special: bool = True) -> Any:
        try:
            return self._coder.encode_batch(list(texts), add_special_tokens=special)
        except Exception as error:  # a tokenizer of an artifact may fail in any of its steps: an unknown word without a token for it, ...
            raise ModelError("tokenizer", f"fails on a text ({one_line(error)})", "use the model's own tokenizer") from error


def read_tokenizer(artifact: Artifact, checkpoint: Checkpoint) -> tuple[Coder | None, str]:
    """The artifact's tokenizer, or None and why there is none."""
    settings = artifact_json(artifact, checkpoint, "tokenizer.json")
    words = "" if settings else _lines(artifact, checkpoint, "vocab.txt")
    source = "tokenizer.json" if settings else "vocab.txt"
    if not settings and not words:
        return None, "the artifact has no tokenizer.json"
    try:
        from tokenizers import Tokenizer
    except ImportError:
        return None, f"the artifact has a {source}, and tokenizers is not installed: pip install tokenizers"
    try:
        if settings:
            return Coder(Tokenizer.from_str(json.dumps(settings)), source), ""
        configured = artifact_json(artifact, checkpoint, "tokenizer_config.json")
        return Coder(_wordpiece(words.splitlines(), lower=configured.get("do_lower_case") is not False), source), ""
    except Exception as error:  # the library raises bare Exceptions for what it cannot read
        return None, f"{source} cannot be read: {one_line(error)}"


def _lines(artifact: Artifact, checkpoint: Checkpoint, name: str) -> str:
    """A text file beside the checkpoint; "" when there is none, or it is too large for a vocabulary."""
    folder = PurePosixPath(checkpoint.files[0]).parent if checkpoint.files else PurePosixPath()
    file = artifact.file((folder / name).as_posix())
    if file is None or file.size > VOCABULARY:
        return ""
    with file.open() as handle:
        return handle.read(VOCABULARY).decode("utf-8", "replace")


def _wordpiece(words: Sequence[str], *, lower: bool) -> Any:
    """BERT's tokenizer of a vocabulary, a token a line. Raises :class:`ValueError` when it is none."""
    from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors

    places = {word: place for place, word in enumerate(words)}
    unknown = "[UNK]"
    if unknown not in places:
        raise ValueError("it has no [UNK], so it is no WordPiece vocabulary")
    coder = Tokenizer(models.WordPiece(places, unk_token=unknown))
    coder.normalizer = normalizers.BertNormalizer(lowercase=lower)
    coder.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    coder.decoder = decoders.WordPiece()
    coder.add_special_tokens([word for word in _WORDPIECE if word in places])
    if "[CLS]" in places and "[SEP]" in places:
        coder.post_processor = processors.BertProcessing(("[SEP]", places["[SEP]"]), ("[CLS]", places["[CLS]"]))
    return coder


def _parts(step: Any) -> list[Mapping[str, Any]]:
    """A step of a tokenizer and, of a sequence of steps, each of them."""
    if not isinstance(step, Mapping):
        return []
    inner = step.get("decoders") or ()
    return [step, *(part for item in inner for part in _parts(item))]


def _byte_of_character() -> dict[str, int]:
    """The byte each character of a byte-level vocabulary stands for: printable ones for themselves, the others from U+0100 on in order
    (Radford et al. 2019, ``bytes_to_unicode`` of the code of GPT-2)."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    table = {chr(byte): byte for byte in printable}
    others = [byte for byte in range(0x100) if byte not in set(printable)]
    return table | {chr(0x100 + place): byte for place, byte in enumerate(others)}
