"""``modelguard schema``: the published JSON Schemas."""

from __future__ import annotations

import json

import click

from modelguard._cli._options import print_answer


@click.command("schema", short_help="Print the JSON Schema of a policy, report or summary.")
@click.argument("document", type=click.Choice(["policy", "report", "fleet"]))
def command(document: str) -> int:
    """Print the JSON Schema (2020-12) of a policy file, of a JSON report, or of the JSON summary of a fleet."""
    from modelguard._schemas import fleet_schema, policy_schema, report_schema

    schema = {"policy": policy_schema, "report": report_schema, "fleet": fleet_schema}[document]
    print_answer(json.dumps(schema(), indent=2, sort_keys=True))
    return 0
