"""Looking for short strings of bytes in long ones, each by itself: a pattern with several beginnings takes ten times as long."""

from __future__ import annotations

import heapq
import re
from collections.abc import Iterator
from functools import cache


def places(data: memoryview, *needles: bytes) -> Iterator[int]:
    """Where any of ``needles`` begins, in order."""
    return heapq.merge(*((hit.start() for hit in _pattern(needle).finditer(data)) for needle in needles))


def holds(data: memoryview, *needles: bytes) -> bool:
    """Whether any of ``needles`` is in ``data``."""
    return any(_pattern(needle).search(data) is not None for needle in needles)


@cache
def _pattern(needle: bytes) -> re.Pattern[bytes]:
    return re.compile(re.escape(needle))
