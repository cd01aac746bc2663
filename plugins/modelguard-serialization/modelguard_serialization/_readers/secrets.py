"""Credentials in any text."""

from __future__ import annotations

from modelguard import Confidence
from modelguard_serialization import limits
from modelguard_serialization._code import rules, secrets
from modelguard_serialization.blob import Blob
from modelguard_serialization.reader import Look, Reader


class SecretReader(Reader):
    """Recognises text that holds a credential, and nothing else: what the text is, other readers say."""

    what = "text with a credential"
    rules = (rules.SECRET,)

    def recognise(self, blob: Blob) -> bool:
        if len(blob.data) > limits.TEXT or b"\0" in blob.head(4096):
            return False
        data = bytes(blob.data)
        return secrets.suspected(data) and any(True for _ in secrets.secrets(data)) and _is_text(data)

    def read(self, blob: Blob, look: Look) -> None:
        for secret in secrets.secrets(bytes(blob.data)):
            look.find(
                "MG0352",
                blob,
                f"holds {secret.what}: {secret.shown}",
                confidence=Confidence.MEDIUM,
                at=secret.at,
                key=f"{secret.what} {secret.shown}",
            )


def _is_text(data: bytes) -> bool:
    try:
        data.decode()
    except UnicodeDecodeError:
        return False
    return b"\0" not in data
