"""What is text: it can be read by people, and is run or unpickled by nobody unless they say so."""

from __future__ import annotations

import codecs

_STEP = 1 << 20


def is_text(data: memoryview | bytes, whole: bool = True) -> bool:
    """Whether ``data`` is UTF-8 (or, with a byte order mark, UTF-16 or UTF-32) without nulls and such. ``whole``: it does not go on."""
    name = "utf-8"
    head = bytes(data[:4])
    if head.startswith((codecs.BOM_UTF32_LE, codecs.BOM_UTF32_BE)):
        name = "utf-32"
    elif head.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        name = "utf-16"
    decoder = codecs.getincrementaldecoder(name)()
    try:
        for at in range(0, len(data), _STEP):
            block = bytes(data[at : at + _STEP])
            if name == "utf-8":
                if b"\0" in block:
                    return False
                decoder.decode(block)
            elif "\0" in decoder.decode(block):
                return False
        if whole:
            decoder.decode(b"", final=True)
    except UnicodeDecodeError:
        return False
    return True
