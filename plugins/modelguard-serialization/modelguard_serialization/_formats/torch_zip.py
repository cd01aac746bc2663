"""torch.save's zip files, recognised by their beginning. What reads them is imported once there is one."""

from __future__ import annotations

from modelguard import Artifact, ArtifactFile, Checkpoint, Format, FormatProblem
from modelguard_serialization._formats.torch_names import EXTENSIONS


class TorchZipFormat(Format):
    id = "torch-zip"
    extensions = EXTENSIONS
    exclusive = False
    also = frozenset({"a zip archive"})

    def recognise(self, head: bytes, size: int) -> bool:
        return head.startswith(b"PK\x03\x04")  # torch.load goes by these four bytes

    def claims(self, file: ArtifactFile) -> bool:
        from modelguard_serialization._formats.torch_zip_checkpoint import is_torch_zip

        return is_torch_zip(file)

    def open(self, file: ArtifactFile, artifact: Artifact) -> tuple[Checkpoint, tuple[FormatProblem, ...]]:
        from modelguard_serialization._formats.torch_zip_checkpoint import open_torch_zip

        return open_torch_zip(self.id, file)
