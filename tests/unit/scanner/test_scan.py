"""Where a scan's artifacts come from: any registered source, which may read only what differs of two."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import ClassVar

import pytest

from modelguard import Artifact, Source, SourceContext, UsageError
from modelguard._plugins import Registry, load
from modelguard._scanner.run import Silent
from modelguard._scanner.scan import Request, brought


def artifact(uri: str, how: str) -> Artifact:
    return Artifact(uri, f"acme:{uri}", Path("/nowhere"), (), notes=(how,))


class Fetching(Source):
    """A third party's source that can only fetch."""

    scheme: ClassVar[str] = "acme"

    def fetch(self, uri: str, context: SourceContext) -> Artifact:
        return artifact(uri, f"fetched, {' '.join(context.extensions)}")


class Pairing(Fetching):
    """One that reads of two artifacts only what differs."""

    left: ClassVar[list[str]] = []

    def pair(self, reference: str, target: str, context: SourceContext) -> AbstractContextManager[tuple[Artifact, Artifact]] | None:
        return None if context.offline else self._pair(reference, target)

    @contextmanager
    def _pair(self, reference: str, target: str) -> Iterator[tuple[Artifact, Artifact]]:
        yield artifact(reference, "read by ranges"), artifact(target, "read by ranges")
        self.left.append(target)


@pytest.fixture
def registry() -> Callable[[type[Source]], Registry]:
    loaded = load()
    return lambda source: replace(loaded, sources={**loaded.sources, source.scheme: source})


def bring(registry: Registry, target: str, reference: str | None, **given: object) -> tuple[Artifact, Artifact | None]:
    with brought(Request(target, (), reference=reference, **given), registry, Silent()) as pair:  # type: ignore[arg-type]
        return pair


def test_a_plugins_source_pairs_two_artifacts(registry: Callable[[type[Source]], Registry]) -> None:
    Pairing.left.clear()
    new, old = bring(registry(Pairing), "acme://new", "acme://old", by_range=True)
    assert old is not None
    assert (new.uri, old.uri) == ("acme://new", "acme://old")
    assert new.notes == old.notes == ("read by ranges",)
    assert Pairing.left == ["acme://new"], "what the source made is there no longer than the scan"


@pytest.mark.parametrize(
    ("source", "reference", "given"),
    [
        (Fetching, "acme://old", {"by_range": True}),  # the source has no such way
        (Pairing, "acme://old", {}),  # nobody asked for it
        (Pairing, "acme://old", {"by_range": True, "source": SourceContext(offline=True)}),  # it declines
        (Pairing, None, {"by_range": True}),
    ],
)
def test_otherwise_both_are_fetched(
    registry: Callable[[type[Source]], Registry], source: type[Source], reference: str | None, given: dict[str, object]
) -> None:
    new, old = bring(registry(source), "acme://new", reference, **given)
    assert new.notes[0].startswith("fetched, ")
    assert ".safetensors" in new.notes[0]
    assert (old is None) == (reference is None)
    assert old is None or old.notes == new.notes


def test_artifacts_of_two_sources_are_fetched(registry: Callable[[type[Source]], Registry], tiny_model: Path) -> None:
    new, old = bring(registry(Pairing), "acme://new", str(tiny_model), by_range=True)
    assert new.notes[0].startswith("fetched")
    assert old is not None
    assert [file.path for file in old.files] == ["model.safetensors"]


def test_a_scheme_nobody_has_is_refused_before_anything_is_fetched(registry: Callable[[type[Source]], Registry]) -> None:
    with pytest.raises(UsageError, match="no source handles zeta://"):
        bring(registry(Fetching), "acme://new", "zeta://old")
