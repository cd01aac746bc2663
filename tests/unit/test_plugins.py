"""Rule ids have a namespace: ``MG`` is ours, and every other prefix belongs to one distribution."""

from __future__ import annotations

import types
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import jsonschema  # type: ignore[import-untyped]
import pytest

from modelguard import Capability, Detector, Finding, PluginError, Rule, ScanContext, Severity, Target, hookimpl
from modelguard import _plugins as plugins
from modelguard._policies import catalogue
from modelguard._schemas import policy_schema, report_schema
from modelguard.findings import rule_prefix


@dataclass(frozen=True)
class _Distribution:
    name: str

    def read_text(self, filename: str) -> str:
        return f"Metadata-Version: 2.4\nName: {self.name}\nVersion: 1\n\nName: of nothing\n"


@dataclass(frozen=True)
class _Entry:
    """An entry point of a distribution that is not there."""

    name: str
    dist: _Distribution
    plugin: object

    @property
    def value(self) -> str:
        return self.name

    def load(self) -> object:
        return self.plugin


def plugin(distribution: str, *rules: str) -> _Entry:
    """A distribution with one detector that declares ``rules``."""
    declared = tuple(Rule(rule, "Name", "a title", Severity.LOW, "It is.", "Do.") for rule in rules)

    class Looks(Detector):
        id = f"{distribution}-looks"
        requires = frozenset({Capability.FILES})
        rules = declared

        def detect(self, target: Target, context: ScanContext) -> Iterator[Finding]:
            yield from ()

    module = types.SimpleNamespace()
    module.modelguard_detectors = hookimpl(specname="modelguard_detectors")(lambda: [Looks])
    return _Entry(distribution, _Distribution(distribution), module)


@pytest.fixture
def load(monkeypatch: pytest.MonkeyPatch) -> Callable[..., plugins.Registry]:
    def installed(*entries: _Entry, **given: Any) -> plugins.Registry:
        monkeypatch.setattr(plugins, "entry_points", lambda group: list(entries))
        return plugins.load(**given)

    return installed


def test_a_plugin_brings_rules_under_its_own_prefix(load: Callable[..., plugins.Registry]) -> None:
    registry = load(plugin("acme", "ACME-0001", "ACME-0002"), plugin("zeta", "Z9-0001"))
    assert {"ACME-0001", "ACME-0002", "Z9-0001"} <= set(registry.rules())


@pytest.mark.parametrize("rule", ["MG8001", "MG0101", "MG-0001", "MG7-0001"])
def test_ours_is_not_for_others(load: Callable[..., plugins.Registry], rule: str) -> None:
    with pytest.raises(PluginError, match=rf"rule {rule}: acme declares it, and MG is the prefix of modelguard"):
        load(plugin("acme", "ACME-0001", rule))


def test_a_distribution_of_ours_uses_ours(load: Callable[..., plugins.Registry]) -> None:
    assert "MG3999" in load(plugin("modelguard-abs", "MG3999")).rules()
    assert "MG3999" in load(plugin("modelguard-new", "MG3999"), ours={"modelguard-core", "modelguard-new"}).rules()


def test_two_distributions_with_one_prefix_are_an_error_that_names_both(load: Callable[..., plugins.Registry]) -> None:
    with pytest.raises(PluginError, match="rule prefix ACME: used by both acme and other; uninstall one of them"):
        load(plugin("acme", "ACME-0001"), plugin("other", "OTHER-0001", "ACME-0002"))


@pytest.mark.parametrize("rule", ["X1", "acme-0001", "A-0001", "ACME-001", "ACME-00001", "ACME_0001", "MG123", f"{'A' * 17}-0001", ""])
def test_a_plugin_whose_rule_id_is_none_is_not_loaded(load: Callable[..., plugins.Registry], rule: str) -> None:
    registry = load(plugin("acme", rule))
    (failure,) = registry.failures
    assert failure.distribution == "acme"
    assert "which is not a rule id" in failure.reason
    assert "acme-looks" not in registry.detectors


def test_prefixes() -> None:
    assert [rule_prefix(rule) for rule in ("MG0101", "MG-0001", "MG12-0001", "ACME-0001", "MGX-0001")] == ["MG", "MG", "MG", "ACME", "MGX"]


def test_the_published_schemas_take_both_forms() -> None:
    report, policy = report_schema(), policy_schema()
    rule = jsonschema.Draft202012Validator(report["$defs"]["FindingDocument"]["properties"]["rule"])
    pattern = jsonschema.Draft202012Validator(policy["$defs"]["MatchPart"]["properties"]["rule"]["anyOf"][0])
    for name in ("MG0101", "ACME-0001"):
        assert rule.is_valid(name)
        assert pattern.is_valid(name)
    for name in ("MG*", "MG01*", "ACME-*", "ACME-00*"):
        assert pattern.is_valid(name)
        assert not rule.is_valid(name)
    for name in ("ACME0001", "ACME*", "*", "ACME-0001*", "MG01010", "acme-0001"):
        assert not pattern.is_valid(name)


def test_the_catalogue_knows_what_registers_what() -> None:
    assert catalogue.provider("format-integrity") == "modelguard-core"
    assert catalogue.provider("nobodys") is None
    assert catalogue.runner() == "modelguard-runtime"
    assert catalogue.reporting("MG03") == ("executable-content", "remote-code")
