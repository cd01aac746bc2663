"""Looking for short strings of bytes in long ones. A pattern with several beginnings takes ten times as long."""

from __future__ import annotations

from collections.abc import Iterator

_STEP = 1 << 20


def places(data: memoryview, *needles: bytes) -> Iterator[int]:
    """Where any of ``needles`` begins, in order."""
    for begin, block in _blocks(data, needles):
        found = set()
        for needle in needles:
            at = block.find(needle)
            while 0 <= at < _STEP:
                found.add(begin + at)
                at = block.find(needle, at + 1)
        yield from sorted(found)


def holds(data: memoryview, *needles: bytes) -> bool:
    """Whether any of ``needles`` is in ``data``."""
    return any(needle in block for _, block in _blocks(data, needles) for needle in needles)


def _blocks(data: memoryview, needles: tuple[bytes, ...]) -> Iterator[tuple[int, bytes]]:
    """All of ``data`` in pieces, each with as much of the next as a needle may reach into, and where it begins."""
    overlap = max(map(len, needles)) - 1
    for begin in range(0, len(data), _STEP):
        yield begin, bytes(data[begin : begin + _STEP + overlap])
