"""TorchScript: the source that ``torch.jit.load`` compiles. Source: torch/csrc/jit/serialization/python_print.cpp."""

from __future__ import annotations

import re

from modelguard import Severity
from modelguard_serialization import limits
from modelguard_serialization._format_rules import CUSTOM_OP, DANGEROUS_OP
from modelguard_serialization._known import known
from modelguard_serialization.blob import Blob
from modelguard_serialization.reader import Look, NotReadError, Reader

_FILES = {
    "from_file": ("reads a file into a tensor", Severity.HIGH),
    "save": ("writes a file", Severity.CRITICAL),
}
_CALL = re.compile(r"\b(?:torch|ops\.aten|aten::)\s*\.?\s*(from_file|save)\s*\(")
_SPACE = re.compile(r"\b(?:torch\.)?ops\.([A-Za-z_]\w*)\.([A-Za-z_]\w*)|\^([A-Za-z_]\w*)\(")
_SPACES = known("torch_namespaces")
"""Namespaces of operators that PyTorch and its sister libraries register."""


_PLACE = re.compile(r"(?:^|/)code/.*\.py$")
_NO_TORCHSCRIPT = re.compile(
    rb"(?:^|;)[ \t]*(?:import|from)\b|\b(?:__import__|__builtins__|exec|eval|compile|globals)\b|\bgetattr\b(?!\(self, \")", re.MULTILINE
)


def is_torchscript(blob: Blob) -> bool:
    """Whether a member of an archive is source where TorchScript keeps its own, without what that language does not have."""
    return bool(blob.members) and _PLACE.search(blob.name) is not None and _NO_TORCHSCRIPT.search(blob.data) is None


class TorchScript(Reader):
    what = "TorchScript source"
    rules = (DANGEROUS_OP, CUSTOM_OP)
    format = "torchscript"

    def recognise(self, blob: Blob) -> bool:
        return bool(blob.members) and _PLACE.search(blob.name) is not None

    def read(self, blob: Blob, look: Look) -> None:
        if len(blob.data) > limits.DOCUMENT:
            raise NotReadError("is TorchScript source, too large to be read")
        text = bytes(blob.data).decode("utf-8", "replace")
        for name in sorted(set(_CALL.findall(text))):
            does, severity = _FILES[name]
            look.find("MG0332", blob, f"the operator torch.{name} {does}", severity=severity, key=name)
        spaces: dict[str, str] = {}
        for match in _SPACE.finditer(text):
            if match[3]:
                look.find("MG0332", blob, f"calls the Python function {match[3]!r}", severity=Severity.CRITICAL, key=match[3])
            elif match[1] not in _SPACES:
                spaces.setdefault(match[1], match[2])
        for space, name in sorted(spaces.items()):
            look.find("MG0333", blob, f"the operator {space}.{name} is no part of PyTorch", key=space)
