"""What is known of one rule, as a text for a terminal and as a document."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

import click

from modelguard.errors import UsageError

if TYPE_CHECKING:
    from modelguard._plugins import Registry
    from modelguard.findings import Rule


def every_rule(registry: Registry, others: Iterable[Rule] = ()) -> dict[str, Rule]:
    """Rules of installed detectors, of the policy's judgement, and ``others`` (those of a stored report), by id."""
    from modelguard.policy import JUDGEMENT_RULES

    rules = {**{item.id: item for item in others}, **registry.rules(), **{item.id: item for item in JUDGEMENT_RULES}}
    return dict(sorted(rules.items()))


def find_rule(name: str, rules: Mapping[str, Rule]) -> Rule:
    """The rule called ``name``, by id or by name, in any case. Raises :class:`UsageError` naming one that is written alike."""
    found = rules.get(name.upper()) or next((item for item in rules.values() if item.name.lower() == name.lower()), None)
    if found is None:
        close = difflib.get_close_matches(name.upper(), rules, n=len(rules), cutoff=0.5)
        # Ids share their digits: of those alike, the one that begins alike is what was meant.
        near = sorted(close, key=lambda item: -sum(item.startswith(name.upper()[:size]) for size in range(1, len(name) + 1)))
        raise UsageError(f"rule {name}", "there is no such rule", f"did you mean {near[0]}?" if near else "`modelguard rules` lists them")
    return found


def reporters(rule: Rule, registry: Registry) -> list[str]:
    """Ids of the installed detectors that may report ``rule``."""
    return sorted(item.id for item in registry.detectors.values() if rule.id in {known.id for known in item.rules})


def document(rule: Rule, detectors: Iterable[str]) -> dict[str, Any]:
    """The rule as JSON values."""
    return {
        "id": rule.id,
        "name": rule.name,
        "title": rule.title,
        "severity": rule.severity.label,
        "description": rule.description,
        "lookalikes": rule.lookalikes,
        "remedy": rule.remedy,
        "cwe": rule.cwe,
        "detectors": list(detectors),
    }


def text(rule: Rule, detectors: Iterable[str]) -> Iterator[str]:
    """Paragraphs that say what the rule means, what else looks like it, and what to do."""
    from modelguard._reporters.escape import visible

    by = ", ".join(detectors) or "the policy's judgement"
    yield f"{rule.id} {visible(rule.name)}: {visible(rule.title)}\nseverity {rule.severity.label}; reported by {visible(by)}\n"
    for heading, body in (("What it means", rule.description), ("What else looks like it", rule.lookalikes), ("What to do", rule.remedy)):
        if body:
            yield f"{heading}\n{click.wrap_text(visible(body), width=78, initial_indent='  ', subsequent_indent='  ')}\n"
