"""Which renamings leave every tensor where a loader looks for it, and which put it in another place.

A checkpoint that is no ONNX file is loaded by name, so a name is part of what the model computes. Known renamings are a prefix that is
added or taken away (:data:`PREFIX`), names of old in their own roles (:data:`_LEGACY`), and another word for a stack of layers with the
same numbers (:data:`_STACKS`). Nothing else is known to be harmless, whatever the tensors hold.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from modelguard._diff.names import is_embedding, is_head
from modelguard._diff.pairing import Pairing

_WRAPPERS = r"module|_orig_mod|base_model\.model"
"""What DistributedDataParallel, torch.compile and PEFT put in front of every name."""
_BASES = (
    r"model|transformer|bert|roberta|distilbert|albert|electra|deberta|mobilebert|mpnet|longformer|layoutlm|esm|gpt_neox|"
    r"vit|deit|beit|swin|dinov2|segformer|resnet|convnext|wav2vec2|hubert|backbone"
)
"""``base_model_prefix`` of transformers' classes: models with a head have it, bare ones have not, and from_pretrained adds and drops it."""
PREFIX = re.compile(rf"^(({_WRAPPERS}|{_BASES})\.)+")
_WRAPPER = re.compile(rf"(?<![^.])({_WRAPPERS})\.")

_LEGACY = {
    "gamma": ("weight",),
    "beta": ("bias",),
    "weight_g": ("parametrizations", "weight", "original0"),
    "weight_v": ("parametrizations", "weight", "original1"),
}
"""Last parts of names that transformers renames when it loads (modeling_utils, ``_fix_state_dict_key_on_load``)."""
_STACKS = frozenset({"h", "layer", "layers", "block", "blocks"})
"""Words for a stack of numbered layers."""
_ROLES = {
    word: role
    for role, words in {
        "weight": "weight gamma kernel", "bias": "bias beta", "q": "q_proj query wq q_lin", "k": "k_proj key wk k_lin",
        "v": "v_proj value wv v_lin", "gate": "gate_proj", "up": "up_proj", "down": "down_proj",
    }.items()
    for word in words.split()
}  # fmt: skip
_OUTPUT = re.compile(r"(^|[._/])(predictions|generator_lm_head|vocab_projector|pred_layer|output_projection|proj_out)([._/]|$)")
_INPUT = re.compile(r"(^|[._/])embeddings\.weight$")


def stem(name: str) -> str:
    """The name without the prefixes that wrappers and models with a head add."""
    return PREFIX.sub("", name)


def canonical(name: str) -> str:
    """The name as a loader that knows names of old reads it: equal for two names of one parameter."""
    parts = stem(name).split(".")
    stacks = [at for at, part in enumerate(parts[:-1]) if part in _STACKS and _number(parts[at + 1])]
    for at in stacks:
        parts[at] = "layers"
    return ".".join((*parts[:-1], *_LEGACY.get(parts[-1], (parts[-1],))))


def common_prefix(old: Iterable[str], new: Iterable[str]) -> tuple[str, str]:
    """What to take from every old name and from every new one: the one prefix that all names of one side have and the other lacks."""
    left, right = _shared(old), _shared(new)
    if left.endswith(right):
        return left.removesuffix(right), ""
    return ("", right.removesuffix(left)) if right.endswith(left) else ("", "")


def may_be_tied(name: str, other: str) -> bool:
    """Whether models are known that keep one tensor under both names: embeddings and what maps back onto the vocabulary."""
    ends = name.rpartition(".")[2], other.rpartition(".")[2]
    return name == other or (ends[0] == ends[1] and all(map(_of_vocabulary, (name, other))))


@dataclass(frozen=True, slots=True)
class Renames:
    """Pairs under other names than the reference's, by what a loader makes of that.

    ``harmless`` are found by a loader that knows both words (or wired by a graph, where both sides are ONNX), ``unknown`` are not
    known to be, and ``exchanged`` stand under a name that says another layer or another part.
    """

    harmless: tuple[Pairing, ...] = ()
    unknown: tuple[Pairing, ...] = ()
    exchanged: tuple[Pairing, ...] = ()


def renames_of(pairs: Sequence[Pairing]) -> Renames:
    """Sort the pairs whose names differ by more than a known prefix or a name of old."""
    if all(pair.before.tensor.name == pair.after.tensor.name for pair in pairs):
        return Renames()
    strays = set(strays_of(pairs))
    harmless, unknown, exchanged = [], [], []
    for pair in pairs:
        old, new = pair.before.tensor.name, pair.after.tensor.name
        graphs = [place.checkpoint.format == "onnx" for place in (pair.before, pair.after)]
        if pair.how in ("content", "similar"):
            if all(graphs):
                # What the graph does with them is compared, and names of values are no part of that.
                if pair.how == "content":
                    harmless.append(pair)
            elif _contradict(old, new):
                exchanged.append(pair)
            elif not any(graphs):
                unknown.append(pair)
        elif pair in strays and not any(graphs):
            unknown.append(pair)
        elif pair.how == "renamed" and _words(old) != _words(new) and not any(graphs):
            harmless.append(pair)
    return Renames(tuple(harmless), tuple(unknown), tuple(exchanged))


def strays_of(pairs: Sequence[Pairing]) -> list[Pairing]:
    """Those that lost or got a prefix, or another word for a stack of layers, while others of it did not: no wrapper renames a few tensors.

    Only the bare model within one with a head has a prefix of its own: there whole modules have it or have it not.
    """
    framed: dict[tuple[str, str, str], list[tuple[Pairing, str]]] = {}
    for pair in pairs:
        if pair.how in ("name", "prefix", "renamed", "transposed"):
            for kind, old, new in _frames(pair):
                framed.setdefault((pair.after.group, kind, old), []).append((pair, new))
    found: dict[Pairing, None] = {}
    for (_, kind, old), members in framed.items():
        kept = {_module(pair) for pair, new in members if new == old}
        several = len({new for _, new in members}) > 1
        headed = kind == "prefix" and not old and len({new for _, new in members if new}) == 1
        for pair, new in members:
            if new != old and ((several and not (headed and _module(pair) not in kept)) or (kind == "prefix" and not _extends(old, new))):
                found[pair] = None
    return list(found)


def _module(pair: Pairing) -> str:
    return stem(pair.before.tensor.name).partition(".")[0]


def _extends(old: str, new: str) -> bool:
    """Whether one of two prefixes is the other with more in front, wrappers aside."""
    bare = _WRAPPER.sub("", old), _WRAPPER.sub("", new)
    return bare[0].endswith(bare[1]) or bare[1].endswith(bare[0])


def _frames(pair: Pairing) -> list[tuple[str, str, str]]:
    """What of a name may change for all tensors alike: (kind, reference's, checkpoint's)."""
    old, new = pair.before.tensor.name, pair.after.tensor.name
    found = (
        [("prefix", old.removesuffix(stem(old)), new.removesuffix(stem(new)))] if stem(old) == stem(new) or pair.how == "renamed" else []
    )
    before, after = _words(old), _words(new)
    return found + [(f"stack {path}", word, after.get(path, word)) for path, word in before.items()]


def _words(name: str) -> dict[str, str]:
    """The words for stacks of layers, each by the canonical path that leads to it."""
    parts = stem(name).split(".")
    paths = canonical(name).split(".")
    return {
        ".".join(part for part in paths[: at + 1] if not _number(part)): word
        for at, word in enumerate(parts[:-1])
        if word in _STACKS and _number(parts[at + 1])
    }


def _contradict(old: str, new: str) -> bool:
    """Whether both names say where the tensor belongs, and not the same: another layer, or another part of one."""
    left, right = (re.split(r"[./]", name) for name in (old, new))
    if min(len(left), len(right)) < 2:
        return False
    numbers = [[part for part in parts if _number(part)] for parts in (left, right)]
    if len(numbers[0]) == len(numbers[1]) and numbers[0] != numbers[1]:
        return True
    ends, parts = (
        [[role for part in side if (role := _ROLES.get(part))] for side in sides]
        for sides in ((left[-1:], right[-1:]), (left[:-1], right[:-1]))
    )
    return any(all(both) and both[0] != both[1] for both in (ends, parts))


def _number(part: str) -> bool:
    return part.isascii() and part.isdigit()


def _shared(names: Iterable[str]) -> str:
    """The longest prefix of whole parts that all names have."""
    several = [name.split(".")[:-1] for name in names]
    if not several:
        return ""
    low, high = min(several), max(several)
    length = next((at for at, (a, b) in enumerate(zip(low, high, strict=False)) if a != b), min(len(low), len(high)))
    return "".join(f"{part}." for part in low[:length])


def _of_vocabulary(name: str) -> bool:
    return is_embedding(name) or is_head(name) or _OUTPUT.search(name) is not None or _INPUT.search(name) is not None
