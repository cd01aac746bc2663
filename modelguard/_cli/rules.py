"""``modelguard rules``: what detectors may report."""

from __future__ import annotations

import json

import click

from modelguard._cli import _complete
from modelguard._cli._options import plugin_option, print_answer


@click.command("rules", short_help="List the rules detectors may report.")
@click.argument("rule", required=False, shell_complete=_complete.rules)
@click.option("--json", "as_json", is_flag=True, help="Machine-readable.")
@plugin_option
def command(rule: str | None, as_json: bool, without: tuple[str, ...]) -> int:
    """List every rule; with RULE say what it means, as `modelguard explain` does."""
    from modelguard._cli._rule import document, every_rule, find_rule, reporters, text
    from modelguard._plugins import load

    registry = load(disabled=without)
    rules = every_rule(registry)
    if rule is not None:
        found = find_rule(rule, rules)
        detectors = reporters(found, registry)
        if as_json:
            print_answer(json.dumps(document(found, detectors or ["the policy's judgement"]), indent=2))
        else:
            print_answer("\n".join(text(found, detectors)))
    elif as_json:
        listing = [{"id": item.id, "name": item.name, "title": item.title, "severity": item.severity.label} for item in rules.values()]
        print_answer(json.dumps(listing, indent=2))
    else:
        print_answer("\n".join(f"{item.id}  {item.severity.label:<8}  {item.title}" for item in rules.values()))
    return 0
