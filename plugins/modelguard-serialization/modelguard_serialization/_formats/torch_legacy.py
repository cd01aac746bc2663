"""What torch.save wrote before 1.6, recognised by its beginning. What reads it is imported once there is one."""

from __future__ import annotations

from modelguard import Artifact, ArtifactFile, Checkpoint, Format, FormatProblem
from modelguard_serialization._formats.torch_names import EXTENSIONS
from modelguard_serialization._pickle.recognise import is_legacy_torch


class TorchLegacyFormat(Format):
    id = "torch-legacy"
    extensions = EXTENSIONS
    exclusive = False
    also = frozenset({"a Python pickle"})

    def recognise(self, head: bytes, size: int) -> bool:
        return is_legacy_torch(memoryview(head))

    def open(self, file: ArtifactFile, artifact: Artifact) -> tuple[Checkpoint, tuple[FormatProblem, ...]]:
        from modelguard_serialization._formats.torch_legacy_checkpoint import open_torch_legacy

        return open_torch_legacy(self.id, file)
