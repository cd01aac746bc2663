"""Detector options: which values each type takes, from a word on the command line, a policy or Python; and the catalogue's copy of them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Literal

import pytest

from modelguard import Capability, Detector, Finding, PluginError, Rule, ScanContext, Severity, Target, UsageError, configure, option
from modelguard._options import Option, check_options, options_of


@dataclass(frozen=True)
class Every(Detector):
    """One option of each type there is."""

    id = "every"
    requires = frozenset({Capability.FILES})
    rules = (Rule("ACME-0001", "Name", "a title", Severity.LOW, "It is.", "Do."),)

    on: bool = option(False, "a switch")
    count: int = option(3, "a number of things", ge=0, le=10)
    share: float = option(0.5, "a share", gt=0, le=1)
    name: str = option("x", "a name")
    kind: Literal["fast", "slow"] = option("fast", "a kind")
    sizes: tuple[int, ...] = option((1, 2), "sizes", ge=1)
    limit: int | None = option(None, "a limit, or none", ge=1)

    def detect(self, target: Target, context: ScanContext) -> Iterator[Finding]:
        yield from ()


@pytest.mark.parametrize(
    ("name", "value", "parsed"),
    [
        ("on", "yes", True), ("on", "0", False), ("on", True, True),
        ("count", "7", 7), ("count", 0, 0), ("count", 7.0, 7),
        ("share", "1", 1.0), ("share", 1, 1.0), ("share", "1e-3", 0.001),
        ("name", "", ""), ("name", "y z", "y z"),
        ("kind", "slow", "slow"),
        ("sizes", "3,4,", (3, 4)), ("sizes", [5], (5,)), ("sizes", (), ()), ("sizes", "", ()),
        ("limit", "none", None), ("limit", None, None), ("limit", "", None), ("limit", "8", 8),
    ],
)  # fmt: skip
@pytest.mark.parametrize("copied", [False, True], ids=["declared", "in the catalogue"])
def test_a_value_becomes_its_type(name: str, value: Any, parsed: Any, copied: bool) -> None:
    options = [Option.read(item.document()) for item in options_of(Every)] if copied else options_of(Every)
    (found,) = check_options("every", options, {name: value}).values()
    assert (found, type(found)) == (parsed, type(parsed))
    assert getattr(configure(Every, {name: value}), name) == parsed


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("on", "perhaps", "'perhaps' is not true or false; it means: a switch"),
        ("on", 2, "2 is not true or false"),
        ("count", "1.5", "'1.5' is not a whole number"),
        ("count", 1.5, "1.5 is not a whole number"),
        ("count", True, "True is not a number"),
        ("count", "-1", "'-1' is out of range; it must be >= 0"),
        ("count", 11, "11 is out of range; it must be <= 10"),
        ("share", "0", "'0' is out of range; it must be > 0"),
        ("share", "nan", "'nan' is not a finite number"),
        ("share", "inf", "'inf' is not a finite number"),
        ("share", [], "[] is not a number"),
        ("name", 3, "3 is not text"),
        ("kind", "FAST", "'FAST' is not one of fast, slow"),
        ("sizes", "1,x", "'1,x' is not a whole number"),
        ("sizes", 3, "3 is not a list"),
        ("sizes", "2,0", "'2,0' is out of range; it must be >= 1"),
        ("limit", 0, "0 is out of range; it must be >= 1"),
        ("speed", 1, "there is no such option; every has: count, kind, limit, name, on, share, sizes"),
    ],
)
@pytest.mark.parametrize("copied", [False, True], ids=["declared", "in the catalogue"])
def test_any_other_value_is_refused_by_name(name: str, value: Any, words: str, copied: bool) -> None:
    options = [Option.read(item.document()) for item in options_of(Every)] if copied else options_of(Every)
    with pytest.raises(UsageError) as caught:
        check_options("every", options, {name: value})
    assert str(caught.value) == f"option every.{name}: {words}" or str(caught.value).startswith(f"option every.{name}: {words};")


def test_a_type_that_no_word_can_become_is_its_authors_mistake() -> None:
    @dataclass(frozen=True)
    class Strange(Every):
        table: dict[str, int] = field(default_factory=dict)

    with pytest.raises(PluginError, match="option table: has the type"):
        configure(Strange, {})


def test_a_detector_without_options_takes_none() -> None:
    class Plain(Detector):
        id = "plain"
        requires = frozenset({Capability.FILES})
        rules = ()

        def detect(self, target: Target, context: ScanContext) -> Iterator[Finding]:
            yield from ()

    assert options_of(Plain) == ()
    with pytest.raises(UsageError, match=r"option plain\.x: there is no such option; plain has: none"):
        configure(Plain, {"x": 1})
