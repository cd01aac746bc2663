"""``modelguard rules``: what detectors may report."""

from __future__ import annotations

import difflib
import json

import click

from modelguard._cli._options import plugin_option, print_answer
from modelguard.errors import UsageError


@click.command("rules", short_help="List the rules detectors may report, or explain one.")
@click.argument("rule", required=False)
@click.option("--json", "as_json", is_flag=True, help="Machine-readable.")
@plugin_option
def command(rule: str | None, as_json: bool, without: tuple[str, ...]) -> int:
    """List every rule, or explain RULE: what it means, what else looks like it, what to do."""
    from modelguard._plugins import load
    from modelguard.policy import JUDGEMENT_RULES

    registry = load(disabled=without)
    rules = {**registry.rules(), **{item.id: item for item in JUDGEMENT_RULES}}
    rules = dict(sorted(rules.items()))
    if rule is None:
        if as_json:
            listing = [{"id": item.id, "name": item.name, "title": item.title, "severity": item.severity.label} for item in rules.values()]
            print_answer(json.dumps(listing, indent=2))
        else:
            for item in rules.values():
                print_answer(f"{item.id}  {item.severity.label:<8}  {item.title}")
        return 0
    found = rules.get(rule.upper())
    if found is None:
        near = difflib.get_close_matches(rule.upper(), rules, n=1, cutoff=0.5)
        raise UsageError(f"rule {rule}", "there is no such rule", f"did you mean {near[0]}?" if near else "`modelguard rules` lists them")
    detectors = sorted(item.id for item in registry.detectors.values() if found in item.rules) or ["the policy's judgement"]
    if as_json:
        data = {
            "id": found.id,
            "name": found.name,
            "title": found.title,
            "severity": found.severity.label,
            "description": found.description,
            "lookalikes": found.lookalikes,
            "remedy": found.remedy,
            "cwe": found.cwe,
            "detectors": detectors,
        }
        print_answer(json.dumps(data, indent=2))
        return 0
    print_answer(f"{found.id} {found.name}: {found.title}\nseverity {found.severity.label}; reported by {', '.join(detectors)}\n")
    for heading, text in (
        ("What it means", found.description),
        ("What else looks like it", found.lookalikes),
        ("What to do", found.remedy),
    ):
        if text:
            print_answer(f"{heading}\n{click.wrap_text(text, width=90, initial_indent='  ', subsequent_indent='  ')}\n")
    return 0
