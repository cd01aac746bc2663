"""Decompression that stops: at the end of its input, or at a limit on its output, whichever comes first."""

from __future__ import annotations

import bz2
import importlib
import lzma
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

from modelguard_serialization.reader import NotReadError

_FEED = 1 << 18
"""Packed bytes that are handed to a decompressor at a time."""
_STEP = 1 << 22
"""Bytes that it may give back at a time."""
_SMALL = 64
"""The same where the stream is known to break soon."""
DICTIONARY = 1 << 28
"""Bytes of memory that an lzma stream may ask for; ``xz -9`` asks for 64 MiB."""


class TooLargeError(NotReadError):
    """The output is past the limit."""

    def __init__(self, limit: int, packed: int) -> None:
        super().__init__(f"unpacks to more than the {limit} bytes that are looked at")
        self.packed = packed
        """Bytes of input that had been taken by then."""


@dataclass(frozen=True, slots=True)
class Unpacked:
    """``data`` and the number of input bytes it was made of; ``ended`` where the stream says that it is complete."""

    data: bytes
    used: int
    ended: bool


class Decompressor(Protocol):
    @property
    def eof(self) -> bool: ...
    @property
    def unused_data(self) -> bytes: ...
    @property
    def needs_input(self) -> bool: ...
    def decompress(self, data: bytes, max_length: int = -1) -> bytes: ...


class _Zlib:
    """:mod:`zlib` with the interface of the other modules."""

    def __init__(self, window: int) -> None:
        self._inner = zlib.decompressobj(window)
        self.needs_input = True

    @property
    def eof(self) -> bool:
        return self._inner.eof

    @property
    def unused_data(self) -> bytes:
        return self._inner.unused_data

    @property
    def left(self) -> int:
        """Bytes of input that were given and are not used yet."""
        return len(self._inner.unconsumed_tail)

    def decompress(self, data: bytes, max_length: int = -1) -> bytes:
        made = self._inner.decompress(self._inner.unconsumed_tail + data, max(0, max_length))
        # Output that just fills the room may leave more behind without any input left to take.
        self.needs_input = not self._inner.unconsumed_tail and len(made) < max_length
        return made


class _Zstandard:
    """The ``zstandard`` distribution, which cannot limit its output, fed so little at a time that the output stays small."""

    def __init__(self, module: Any) -> None:
        self._inner = module.ZstdDecompressor(max_window_size=1 << 27).decompressobj()
        self._left = b""

    @property
    def eof(self) -> bool:
        return bool(self._inner.eof)

    @property
    def unused_data(self) -> bytes:
        return bytes(self._inner.unused_data) + self._left

    @property
    def needs_input(self) -> bool:
        return not self._left

    def decompress(self, data: bytes, max_length: int = -1) -> bytes:
        data = self._left + data
        # A block of at most 128 KiB is the least that gives output, and four bytes describe a run of it (RFC 8878, 3.1.1.2).
        made = self._inner.decompress(data[:64])
        self._left = data[64:]
        return bytes(made)


def zstd() -> Callable[[], Decompressor] | None:
    """Makes a Zstandard decompressor, or None where no library for it is installed (the standard one is since Python 3.14)."""
    for name in ("compression.zstd", "backports.zstd"):
        try:
            made: Callable[[], Decompressor] = importlib.import_module(name).ZstdDecompressor
        except ImportError:
            continue
        return made
    try:
        module = importlib.import_module("zstandard")
    except ImportError:
        return None
    return lambda: _Zstandard(module)


def deflate() -> Decompressor:
    return _Zlib(-zlib.MAX_WBITS)


def gzipped() -> Decompressor:
    return _Zlib(16 + zlib.MAX_WBITS)


def zlibbed() -> Decompressor:
    return _Zlib(zlib.MAX_WBITS)


def bzip2() -> Decompressor:
    return bz2.BZ2Decompressor()


def xz() -> Decompressor:
    return lzma.LZMADecompressor(memlimit=DICTIONARY)


def raw_lzma(properties: bytes) -> Decompressor:
    """LZMA1 without a header, of 5 bytes of ``properties``. Raises :class:`NotReadError`."""
    if len(properties) != 5 or properties[0] >= 9 * 5 * 5:
        raise NotReadError("has an lzma header that makes no sense")
    size = int.from_bytes(properties[1:], "little")
    if size > DICTIONARY:
        raise NotReadError(f"needs a dictionary of {size} bytes to be unpacked")
    rest, lc = divmod(properties[0], 9)
    pb, lp = divmod(rest, 5)
    filters = [{"id": lzma.FILTER_LZMA1, "dict_size": max(size, 4096), "lc": lc, "lp": lp, "pb": pb}]
    try:
        return lzma.LZMADecompressor(lzma.FORMAT_RAW, filters=filters)
    except lzma.LZMAError as error:
        raise NotReadError(f"has an lzma header that makes no sense ({error})") from error


def unpack(make: Callable[[], Decompressor], data: memoryview, limit: int, check: Callable[[], None] | None = None) -> Unpacked:
    """One stream at the beginning of ``data``, as far as it goes. ``check`` is called now and then, and may raise.

    Raises :class:`TooLargeError` past ``limit`` bytes of output, and :class:`NotReadError` where the stream breaks before it gave any;
    where it breaks later, what a loader that reads bit by bit gets until then is returned as not ended.
    """
    parts: list[bytes] = []
    try:
        return _unpack(make, data, limit, check, parts, fine=limit + 1)
    except _BrokenError:
        sound = sum(map(len, parts))
    parts = []
    try:
        return _unpack(make, data, limit, check, parts, fine=sound)
    except _BrokenError as error:
        if not any(parts):
            raise NotReadError(f"cannot be unpacked ({error})") from error
        return Unpacked(b"".join(parts), len(data), ended=False)


class _BrokenError(Exception):
    """The stream breaks here."""


def _unpack(
    make: Callable[[], Decompressor], data: memoryview, limit: int, check: Callable[[], None] | None, parts: list[bytes], fine: int
) -> Unpacked:
    """Past ``fine`` bytes, output is taken in small steps, because a library gives nothing of the step that it breaks in."""
    decompressor = make()
    size = at = 0
    while not decompressor.eof:
        if check is not None:
            check()
        feed = b""
        if decompressor.needs_input:
            feed = bytes(data[at : at + _FEED])
            at += len(feed)
            if not feed:
                break
        try:
            made = decompressor.decompress(feed, min(_STEP if size < fine else _SMALL, limit - size + 1))
        except (zlib.error, OSError, EOFError, ValueError, lzma.LZMAError) as error:
            raise _BrokenError(error) from error
        except Exception as error:
            # Zstandard libraries each raise an error of their own, which cannot be named where none is installed.
            if type(error).__name__ != "ZstdError":
                raise
            raise _BrokenError(error) from error
        size += len(made)
        parts.append(made)
        if size > limit:
            raise TooLargeError(limit, at - (decompressor.left if isinstance(decompressor, _Zlib) else 0))
    ended = decompressor.eof
    return Unpacked(b"".join(parts), at - len(decompressor.unused_data) if ended else at, ended)
