"""Every reader, in the order in which they name a file that several of them recognise."""

from __future__ import annotations

from modelguard_serialization._readers.arrays import NumpyReader
from modelguard_serialization._readers.code import NotebookReader, PythonReader
from modelguard_serialization._readers.compressed import Bzip2s, Gzips, OldJoblibs, Xzs, Zlibs, Zstds
from modelguard_serialization._readers.documents import Json, Toml, Yaml
from modelguard_serialization._readers.framework_texts import Modelfile, SpacyConfig, TritonConfig
from modelguard_serialization._readers.gguf import GgufReader
from modelguard_serialization._readers.graphs import Caffe, CoreMl, OpenVino, Paddle
from modelguard_serialization._readers.hdf5 import Hdf5
from modelguard_serialization._readers.msgpack import Msgpack
from modelguard_serialization._readers.pickles import LegacyTorchReader, PickleReader
from modelguard_serialization._readers.plain import Plain, Safetensors, TextModels
from modelguard_serialization._readers.plain_models import PLAIN, TensorRt
from modelguard_serialization._readers.programs import HiddenProgramReader, ProgramReader, ShortcutReader
from modelguard_serialization._readers.scripts import OtherCodeReader, RequirementsReader, ScriptReader
from modelguard_serialization._readers.sealed import Sealed
from modelguard_serialization._readers.secrets import SecretReader
from modelguard_serialization._readers.sevenzip import SevenZips
from modelguard_serialization._readers.skops import Skops
from modelguard_serialization._readers.tars import Tars
from modelguard_serialization._readers.templates import TemplateReader
from modelguard_serialization._readers.tensorflow import KerasMetadata, TensorflowGraph, TensorflowSide, TensorflowText
from modelguard_serialization._readers.tflite import TfLite
from modelguard_serialization._readers.torchscript import TorchScript
from modelguard_serialization._readers.weights_metadata import SafetensorsMetadata
from modelguard_serialization._readers.zips import TorchZips, Zips
from modelguard_serialization.reader import Reader

READERS: tuple[Reader, ...] = (
    GgufReader(),
    PickleReader(),
    LegacyTorchReader(),
    NumpyReader(),
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
    Hdf5(),
    TensorflowGraph(),
    TensorflowText(),
    KerasMetadata(),
    TensorflowSide(),
    TfLite(),
    CoreMl(),
    Paddle(),
    Caffe(),
    OpenVino(),
    TensorRt(),
    SafetensorsMetadata(),
    Safetensors(),
    Skops(),
    Msgpack(),
    TorchScript(),
    *PLAIN,
    TextModels(),
    ProgramReader(),
    ShortcutReader(),
    HiddenProgramReader(),
    PythonReader(),
    NotebookReader(),
    ScriptReader(),
    RequirementsReader(),
    OtherCodeReader(),
    TemplateReader(),
    SpacyConfig(),
    TritonConfig(),
    Modelfile(),
    Json(),
    Yaml(),
    Toml(),
    SecretReader(),
    Plain(),
)
