"""A loopback Hub, and a client that loses no time waiting."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest

from modelguard.testing.hub import LoopbackHub


@pytest.fixture
def hub() -> Iterator[LoopbackHub]:
    with LoopbackHub() as serving:
        yield serving


@pytest.fixture
def hasty(monkeypatch: pytest.MonkeyPatch) -> None:
    """The client's pauses between attempts take no time, and it waits one second for an answer instead of ten."""
    import huggingface_hub.constants
    import huggingface_hub.file_download
    import huggingface_hub.utils._http

    instant = SimpleNamespace(**{**vars(time), "sleep": lambda _: None})
    monkeypatch.setattr(huggingface_hub.utils._http, "time", instant)
    monkeypatch.setattr(huggingface_hub.file_download, "time", instant)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_DOWNLOAD_TIMEOUT", 1)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_ETAG_TIMEOUT", 1)


@pytest.fixture
def own_hub(hub: LoopbackHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, hasty: None) -> LoopbackHub:
    """A Hub that this process takes for the real one, with a cache in ``tmp_path / "cache"``."""
    from modelguard._sources import hub as hub_source
    from modelguard._sources.session import Patience

    monkeypatch.setattr(hub_source.HubSource, "endpoint", hub.endpoint)  # the client reads HF_ENDPOINT when it is imported
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("huggingface_hub.constants.HF_TOKEN_PATH", str(tmp_path / "no-token"))
    monkeypatch.delenv("HF_TOKEN", raising=False)
    monkeypatch.setattr(hub_source, "Patience", lambda: Patience(window=0.5, rate_limit=5))
    return hub
