"""The file that keeps a meta-classifier: safetensors, with what it is bound to and how it was made as JSON in its metadata.

It is read as hostile input: nothing is larger than a limit, every name, type and shape is checked, and a digest over all of it tells a file
that was changed by accident. Whoever changes it on purpose makes the digest anew: a policy pins the file's own sha256.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from safetensors import SafetensorError
from safetensors.numpy import load, save

from modelguard import UsageError
from modelguard_meta._architecture import PARTS

Floats = npt.NDArray[np.float32]

LIMIT, HEADER = 64 << 20, 1 << 20
"""Bytes of a file and of its header. The queries for images of 3 x 224 x 224 are 30 MB."""
KEY, DIGEST = "modelguard-meta/1", "digest"
"""Keys of the metadata: the facts, as JSON, and their digest with the tensors'."""
AGAIN = "make it again with `modelguard meta train`"
RANKS = {"queries": 5, "hidden": 3, "hidden_bias": 2, "out": 2, "out_bias": 1, "benign": 1, "trojaned": 1, "probes": 4}
"""The tensors of a file and how many dimensions each has."""


@dataclass(frozen=True)
class Facts:
    """How a meta-classifier was made.

    ``architecture`` as of :func:`fingerprint`, ``described`` in words. ``samples`` has the sha256, number and file name of the training
    set; ``shadows`` the numbers of models by kind; ``quality`` medians over the shadows (clean accuracy of both kinds, attack success) and
    ``agreement``, the share of class means that the median benign shadow calls by their class. ``auroc`` is of held-out shadows; a score
    above ``threshold`` is a finding, at the false-alarm rate ``level``. ``cpu_seconds`` is what training took; ``versions`` names what
    computed it.
    """

    architecture: Mapping[str, str]
    described: str
    samples: Mapping[str, Any]
    shadows: Mapping[str, int]
    quality: Mapping[str, float]
    auroc: float
    level: float
    threshold: float
    seed: int
    cpu_seconds: float
    versions: Mapping[str, str]


@dataclass(frozen=True)
class MetaFile:
    """A meta-classifier for one architecture, which is the mean of E.

    Its tensors, all float32, are ``queries`` (E, Q, C, H, W) raw, ``hidden`` (E, H, Q K), ``hidden_bias`` and ``out`` (E, H), ``out_bias``
    (E,), the scores ``benign`` (n,) and ``trojaned`` (m,) of held-out shadows, and ``probes`` (K, C, H, W) raw, the mean image of each
    class. ``sha256`` is of the file's bytes.
    """

    facts: Facts
    tensors: Mapping[str, Floats]
    sha256: str = ""

    @property
    def benign(self) -> Floats:
        return self.tensors["benign"]


def write(path: Path, facts: Facts, tensors: Mapping[str, Floats]) -> MetaFile:
    """Write the file, whole or not at all, and return what :func:`read` reads. Raises :class:`UsageError`."""
    text = json.dumps(asdict(facts), sort_keys=True)
    data = save(dict(tensors), {KEY: text, DIGEST: _digest(text, tensors)})
    part = path.with_name(f".{path.name}.part")
    try:
        part.write_bytes(data)
        part.replace(path)
    except OSError as error:
        raise UsageError(f"-o {path}", f"cannot be written ({error.strerror})", "name another file") from error
    return read(path)


def read(path: Path, expected: str = "") -> MetaFile:
    """The meta-classifier in a file, whose bytes must have the sha256 ``expected`` where that is given. Raises :class:`UsageError`."""
    thing = f"meta-classifier {path.name}"
    try:
        with path.open("rb") as file:
            data = file.read(LIMIT + 1)
    except OSError as error:
        raise UsageError(thing, f"cannot be read ({error.strerror})", "check the path") from error
    if len(data) > LIMIT:
        raise UsageError(thing, f"has more than {LIMIT} bytes", AGAIN)
    sha256 = hashlib.sha256(data).hexdigest()
    if expected and sha256 != expected.lower():
        raise UsageError(thing, f"has the sha256 {sha256}, not {expected}", "get the file that was meant, or correct the digest")
    text, digest = _metadata(thing, data)
    try:
        tensors: dict[str, Floats] = load(data)
    except (SafetensorError, KeyError, ValueError) as error:
        raise UsageError(thing, f"is no safetensors file ({error})", AGAIN) from error
    facts = _facts(thing, text)
    _check(thing, facts, tensors)
    if digest != _digest(text, tensors):
        raise UsageError(thing, "was changed: its contents have another digest than the one it carries", AGAIN)
    return MetaFile(facts, tensors, sha256)


def _metadata(thing: str, data: bytes) -> tuple[str, str]:
    """The facts as JSON, and the digest."""
    length = int.from_bytes(data[:8], "little")
    if len(data) < 8 or length > min(HEADER, len(data) - 8):
        raise UsageError(thing, "is no safetensors file with a header of at most 1 MiB", AGAIN)
    try:
        metadata = json.loads(data[8 : 8 + length])["__metadata__"]
        text, digest = metadata[KEY], metadata[DIGEST]
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise UsageError(thing, f"says nothing under {KEY!r}: it is no meta-classifier, or one of another version", AGAIN) from error
    if not isinstance(text, str) or not isinstance(digest, str):
        raise UsageError(thing, "has metadata that are no text", AGAIN)
    return text, digest


_VALUES = {"shadows": int, "quality": float, "architecture": str, "versions": str}
"""Of each mapping among the facts, what its values are."""
_SCALARS = {"described": str, "auroc": float, "level": float, "threshold": float, "seed": int, "cpu_seconds": float}


def _facts(thing: str, text: str) -> Facts:
    try:
        given: Any = json.loads(text)
        named: list[tuple[Any, type]] = [(given[key], kind) for key, kind in _SCALARS.items()]
        named += [(value, kind) for key, kind in _VALUES.items() for value in given[key].values()]
        named += [(given["samples"]["sha256"], str), (given["quality"]["agreement"], float)]
        right = (
            set(given["architecture"]) == set(PARTS)
            and all(isinstance(value, kind) for value, kind in named)
            and all(math.isfinite(value) for value, kind in named if kind is float)
        )
        facts = Facts(**given)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        right = False
    if not right:
        raise UsageError(thing, "has metadata of another form", AGAIN)
    return facts


def _check(thing: str, facts: Facts, tensors: Mapping[str, Floats]) -> None:
    """Raise :class:`UsageError` unless the tensors are those of a meta-classifier and fit each other."""
    if set(tensors) != set(RANKS) or any(tensors[name].dtype != np.float32 or tensors[name].ndim != RANKS[name] for name in RANKS):
        raise UsageError(thing, f"does not hold the float32 tensors {', '.join(RANKS)}", AGAIN)
    queries, hidden, probes = tensors["queries"], tensors["hidden"], tensors["probes"]
    count, units = hidden.shape[:2]
    fits = (
        len(queries) == count
        and hidden.shape[2] == queries.shape[1] * len(probes)
        and tensors["hidden_bias"].shape == tensors["out"].shape == (count, units)
        and tensors["out_bias"].shape == (count,)
        and queries.shape[2:] == probes.shape[1:]
        and len(tensors["benign"]) > 0
        and all(value.size > 0 for value in tensors.values())
    )
    if not fits:
        raise UsageError(thing, "holds tensors that do not fit each other", AGAIN)
    if not all(np.isfinite(value).all() for value in tensors.values()):
        raise UsageError(thing, "holds values that are not finite", AGAIN)


def _digest(text: str, tensors: Mapping[str, Floats]) -> str:
    digest = hashlib.sha256(text.encode())
    for name in sorted(tensors):
        value = np.ascontiguousarray(tensors[name], np.float32)
        digest.update(f"{name} {value.shape}".encode())
        digest.update(value.tobytes())
    return digest.hexdigest()
