"""GGUF: the texts in its metadata, of which chat templates are programs. Its tensors are the format's, ``_formats/gguf.py``."""

from __future__ import annotations

from modelguard import FormatError
from modelguard_serialization._formats.gguf import MAGIC
from modelguard_serialization.blob import Blob
from modelguard_serialization.reader import Look, NotReadError, Reader

TEMPLATE = "tokenizer.chat_template"
"""Key of the default template; those for other uses have the use after it and a dot."""
TOKENIZER = "tokenizer.huggingface.json"
LEAST = 16
"""Bytes from which a value can be something by itself."""
_BYTES = (0, 1)


class GgufReader(Reader):
    what = "a GGUF model"
    format = "gguf"

    def recognise(self, blob: Blob) -> bool:
        return blob.head(4) == MAGIC

    def read(self, blob: Blob, look: Look) -> None:
        from modelguard_serialization._formats.gguf_header import STRING, read_header

        try:
            header = read_header(blob.data, blob.place)
        except FormatError as error:
            raise NotReadError(error.cause) from None
        for key, value in header.values.items():
            look.check()
            data = blob.data[value.at : value.end]
            if value.kind == STRING and key == TEMPLATE:
                look.inside.append(blob.member("chat_template.jinja", data, value.at))
            elif value.kind == STRING and key.startswith(f"{TEMPLATE}."):
                look.inside.append(blob.member(f"{key.removeprefix(TEMPLATE)[1:]}/chat_template.jinja", data, value.at))
            elif value.kind == STRING and key == TOKENIZER:
                look.inside.append(blob.member("tokenizer.json", data, value.at))
            elif value.kind == STRING and len(data) >= LEAST:
                look.perhaps.append(blob.member(f"{key}.txt", data, value.at))
            elif value.item in _BYTES and value.count >= LEAST:
                look.perhaps.append(blob.member(f"{key}.bytes", data[12:], value.at + 12))
