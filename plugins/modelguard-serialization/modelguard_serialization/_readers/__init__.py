"""Every reader, in the order in which they name a file that several of them recognise."""

from __future__ import annotations

from modelguard_serialization._readers.arrays import NumpyReader
from modelguard_serialization._readers.pickles import LegacyTorchReader, PickleReader
from modelguard_serialization.reader import Reader

READERS: tuple[Reader, ...] = (PickleReader(), LegacyTorchReader(), NumpyReader())
