"""Whatever a test here looks through, the first look passes it to every reader that recognises it."""

from __future__ import annotations

import pytest
from modelguard_serialization import detector
from modelguard_serialization.testing import asking_all


@pytest.fixture(autouse=True)
def all_readers_are_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(detector, "recognising", asking_all)
