"""Every reader, in the order in which they name a file that several of them recognise."""

from __future__ import annotations

from modelguard_serialization._readers.documents import Json, Toml, Yaml
from modelguard_serialization._readers.hdf5 import Hdf5
from modelguard_serialization._readers.tensorflow import KerasMetadata, TensorflowGraph, TensorflowSide, TensorflowText
from modelguard_serialization.reader import Reader

READERS: tuple[Reader, ...] = (Json(), Yaml(), Toml(), Hdf5(), TensorflowGraph(), TensorflowText(), KerasMetadata(), TensorflowSide())
