"""``modelguard schema``: the published JSON Schemas."""

from __future__ import annotations

import json

import click

from modelguard._cli._options import print_answer


@click.command("schema", short_help="Print the JSON Schema of a report or policy file.")
@click.argument("document", type=click.Choice(["policy", "report"]))
def command(document: str) -> int:
    """Print the JSON Schema (2020-12) of a policy file or of a JSON report."""
    from modelguard._schemas import policy_schema, report_schema

    print_answer(json.dumps(policy_schema() if document == "policy" else report_schema(), indent=2, sort_keys=True))
    return 0
