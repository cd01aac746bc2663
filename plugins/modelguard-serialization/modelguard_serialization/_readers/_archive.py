"""What readers of archives share: how what they find in an archive goes on to be looked at."""

from __future__ import annotations

from collections.abc import Callable

from modelguard_serialization import limits
from modelguard_serialization._archive_rules import BOMB
from modelguard_serialization._unpack import TooLargeError, Unpacked
from modelguard_serialization.blob import Blob
from modelguard_serialization.reader import Look

RATIO = 100
"""Unpacked bytes for each packed one from which an archive that is past the limit is a bomb. Text packs to a tenth, weights hardly."""


def put(look: Look, blob: Blob, name: str, data: memoryview | bytes, offset: int | None = None) -> None:
    """Leave a part of ``blob`` to all readers. Past :data:`limits.DEPTH` nothing is looked at: no model is an archive so deep."""
    if not len(data):
        return
    if len(blob.members) >= limits.DEPTH:
        if not any(item.rule == BOMB.id and item.key.startswith("depth") for item in look.findings):
            look.find(BOMB.id, blob, f"has archives in archives {len(blob.members)} deep; do not load it", key="depth")
        look.miss(blob, f"lies in {len(blob.members)} archives, past the limit")
        return
    look.inside.append(blob.member(name, data, offset))


def within(look: Look, blob: Blob, packed: int, unpack: Callable[[int], Unpacked]) -> Unpacked:
    """What ``unpack``, given the bytes that may still be unpacked, makes of ``packed`` bytes. Raises :class:`NotReadError`."""
    try:
        made = unpack(look.room)
    except TooLargeError as error:
        bomb(look, blob, look.room, min(error.packed, packed))
        raise
    look.unpacked += len(made.data)
    return made


def bomb(look: Look, blob: Blob, size: int, packed: int) -> None:
    """A finding if ``size`` bytes, which are past the limit, come out of so few packed ones that no model is like that."""
    if size >= RATIO * max(1, packed):
        message = f"unpacks to more than {size} bytes from {packed}, which no model needs; do not load it"
        look.find(BOMB.id, blob, message, key="bomb", evidence={"packed": packed, "unpacked": size})
