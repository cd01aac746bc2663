"""Legacy torch files: five pickles, then the storages (``torch/serialization.py``, ``_legacy_save``)."""

from __future__ import annotations

from dataclasses import dataclass

from modelguard_serialization._pickle.storages import WIDTHS, storage_of
from modelguard_serialization._pickle.streams import Streams
from modelguard_serialization._pickle.values import Dict, Persistent, Value
from modelguard_serialization.blob import Blob
from modelguard_serialization.reader import Look

PROTOCOL = 1001


@dataclass(frozen=True, slots=True)
class Storage:
    """Where the bytes of a storage lie in the file, and how many elements of which torch dtype it has."""

    at: int
    size: int
    dtype: str


def find_storages(
    data: memoryview, at: int, keys: list[Value], persistents: list[Persistent], little: bool
) -> tuple[dict[str, Storage], int]:
    """The storages from ``at`` on, as far as they fit what the pickle says of them, by key; and where the last one ends."""
    dtypes: dict[str, str] = {}
    for found in persistents:
        storage = storage_of(found.pid)
        if storage is not None:
            dtypes[storage.key] = storage.dtype
    storages: dict[str, Storage] = {}
    for key in keys:
        dtype = dtypes.get(key) if type(key) is str else None
        if dtype is None or key in storages or len(data) - at < 8:
            break
        count = int.from_bytes(data[at : at + 8], "little" if little else "big", signed=True)
        size = count * WIDTHS[dtype]
        if count < 0 or size > len(data) - at - 8:
            break
        storages[key] = Storage(at + 8, count, dtype)
        at += 8 + size
    return storages, at


def read_legacy(blob: Blob, look: Look) -> None:
    """Judge the pickles of a legacy torch file and find its storages. What does not fit is missed, and read as pickles all the same."""
    streams = Streams(blob, look)
    values: list[Value] = []
    for _ in range(5):
        if not streams.broken and streams.at < len(blob.data):
            values.append(streams.next())
    if streams.broken:
        streams.tell()
        return
    if len(values) < 5 or values[1] != PROTOCOL or type(values[2]) is not Dict or type(values[4]) is not list:
        streams.rest()  # torch.load refuses it; other loaders take it for pickles
        return
    little = values[2].get("little_endian") is not False
    storages, end = find_storages(blob.data, streams.at, values[4], streams.persistents, little)
    whole = len(storages) == len(values[4])
    streams.at = end if whole else streams.at
    if not whole:
        look.miss(blob, f"the storages of the torch file do not fit what it says of them, after {len(storages)} of {len(values[4])}")
    streams.rest()
