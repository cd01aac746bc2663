"""Every reader, in the order in which they name a file that several of them recognise."""

from __future__ import annotations

from modelguard_serialization._readers.code import NotebookReader, PythonReader
from modelguard_serialization._readers.onnx_content import OnnxReader
from modelguard_serialization._readers.programs import HiddenProgramReader, ProgramReader, ShortcutReader
from modelguard_serialization._readers.scripts import OtherCodeReader, RequirementsReader, ScriptReader
from modelguard_serialization._readers.secrets import SecretReader
from modelguard_serialization._readers.templates import TemplateReader
from modelguard_serialization.reader import Reader

READERS: tuple[Reader, ...] = (
    OnnxReader(),
    TemplateReader(),
    PythonReader(),
    NotebookReader(),
    ScriptReader(),
    RequirementsReader(),
    OtherCodeReader(),
    ProgramReader(),
    ShortcutReader(),
    HiddenProgramReader(),
    SecretReader(),
)
