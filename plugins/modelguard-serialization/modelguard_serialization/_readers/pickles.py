"""Pickles, and legacy torch files, which are pickles with storages behind them."""

from __future__ import annotations

from modelguard_serialization._pickle.legacy import read_legacy
from modelguard_serialization._pickle.recognise import HEADER, is_legacy_torch
from modelguard_serialization._pickle.rules import RULES
from modelguard_serialization._pickle.streams import Streams
from modelguard_serialization.blob import Blob
from modelguard_serialization.reader import Look, Reader


class PickleReader(Reader):
    what = "a Python pickle"
    rules = RULES
    format = "pickle"

    def recognise(self, blob: Blob) -> bool:
        if is_legacy_torch(blob.data):
            return False
        # In tensors, which are members without an ending, any bytes may come first by chance; elsewhere what begins like a pickle is one.
        return ((bool(blob.ending) or not blob.members) and HEADER.match(blob.start) is not None) or blob.runs

    def read(self, blob: Blob, look: Look) -> None:
        Streams(blob, look).rest()


class LegacyTorchReader(Reader):
    """What torch.save wrote before 1.6, and still writes when asked to."""

    what = "a legacy torch file"
    rules = RULES
    format = "torch-legacy"

    def recognise(self, blob: Blob) -> bool:
        return is_legacy_torch(blob.data)

    def read(self, blob: Blob, look: Look) -> None:
        read_legacy(blob, look)
