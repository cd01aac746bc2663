"""A fleet's source asks a Hub again that was busy or failing, and no other."""

from __future__ import annotations

from pathlib import Path

import pytest

from modelguard import Artifact, SourceContext
from modelguard._fleet import patient
from modelguard._fleet.patient import PatientSource
from modelguard._sources.session import explain, rate_limited
from modelguard.artifact import Source
from modelguard.errors import SourceError

FOUND = Artifact("hf://a/b", "hf:a/b", Path("."), ())


class Faulty(Source):
    scheme = "hf"

    def __init__(self, *errors: SourceError) -> None:
        self.errors = list(errors)
        self.asked = 0

    def fetch(self, uri: str, context: SourceContext) -> Artifact:
        self.asked += 1
        if self.errors:
            raise self.errors.pop(0)
        return FOUND


@pytest.fixture
def waits(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    waited: list[float] = []
    monkeypatch.setattr("modelguard._fleet.patient.time.sleep", waited.append)
    return waited


def broken() -> SourceError:
    from huggingface_hub.utils import httpx  # type: ignore[attr-defined]

    found = explain("x", httpx.RemoteProtocolError("half a body"))
    assert isinstance(found, SourceError)
    return found


def test_it_waits_as_long_as_the_hub_asks(waits: list[float]) -> None:
    source = Faulty(rate_limited("x", 40), broken(), rate_limited("x", None))
    assert PatientSource(source).fetch("x", SourceContext()) is FOUND
    assert [wait >= least for wait, least in zip(waits, (40, 1, 10), strict=True)] == [True] * 3


def test_what_asking_again_does_not_help_is_not_asked_again(waits: list[float]) -> None:
    source = Faulty(SourceError("x", "no such repository"))
    with pytest.raises(SourceError, match="no such"):
        PatientSource(source).fetch("x", SourceContext())
    assert (source.asked, waits) == (1, [])


def test_there_is_an_end_to_it(waits: list[float]) -> None:
    source = Faulty(*(broken() for _ in range(99)))
    with pytest.raises(SourceError, match="broke"):
        PatientSource(source).fetch("x", SourceContext())
    assert source.asked == patient.TRIES
    source = Faulty(*(rate_limited("x", 600) for _ in range(99)))
    with pytest.raises(SourceError, match="429"):
        PatientSource(source).fetch("x", SourceContext())
    assert sum(waits[patient.TRIES - 1 :]) <= patient.LONGEST
