"""Every reader, in the order in which they name a file that several of them recognise."""

from __future__ import annotations

from modelguard_serialization._readers.compressed import Bzip2s, Gzips, OldJoblibs, Xzs, Zlibs, Zstds
from modelguard_serialization._readers.plain import Plain, Safetensors, TextModels
from modelguard_serialization._readers.sealed import Sealed
from modelguard_serialization._readers.sevenzip import SevenZips
from modelguard_serialization._readers.tars import Tars
from modelguard_serialization._readers.zips import TorchZips, Zips
from modelguard_serialization.reader import Reader

READERS: tuple[Reader, ...] = (
    TorchZips(),
    Zips(),
    Tars(),
    Gzips(),
    Bzip2s(),
    Xzs(),
    Zstds(),
    Zlibs(),
    OldJoblibs(),
    SevenZips(),
    Sealed(),
    TextModels(),
    Safetensors(),
    Plain(),
)
