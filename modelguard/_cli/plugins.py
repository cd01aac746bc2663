"""``modelguard plugins``: what is installed, what it registers, and what failed to load."""

from __future__ import annotations

import json
from typing import Any

import click

from modelguard._cli._options import plugin_option, print_answer


@click.group("plugins", short_help="List installed plugins and what they register.", invoke_without_command=True)
@click.pass_context
def command(context: click.Context) -> Any:
    """Inspect installed plugins; alone, list them. A plugin is code you trust: it runs with the worker's rights."""
    return context.invoke(list_plugins) if context.invoked_subcommand is None else None


@command.command("list", short_help="List plugins with version and detectors.")
@click.option("--json", "as_json", is_flag=True, help="Machine-readable.")
@plugin_option
def list_plugins(as_json: bool, without: tuple[str, ...]) -> int:
    """List plugins with version and detectors; exit 3 when one failed to load."""
    from modelguard._plugins import load
    from modelguard._reporters.escape import visible

    registry = load(disabled=without)
    if as_json:
        data = {
            "plugins": [
                {
                    "name": info.name,
                    "version": info.version,
                    "detectors": list(info.detectors),
                    "registers": sorted(f"{kind}:{name}" for (kind, name), owner in registry.owners.items() if owner == info.name),
                }
                for info in registry.plugins
            ],
            "failures": [
                {"name": failure.name, "distribution": failure.distribution, "reason": failure.reason} for failure in registry.failures
            ],
        }
        print_answer(json.dumps(data, indent=2))
    else:
        width = max(map(len, registry.detectors))
        for info in registry.plugins:
            print_answer(f"{visible(info.name)} {visible(info.version)}")
            for name in info.detectors:
                needs = ", ".join(sorted(item.value for item in registry.detectors[name].requires))
                print_answer(f"  {name:<{width}}  needs {needs}")
            others = sorted(
                f"{kind.rstrip('s')} {name or 'local'}"
                for (kind, name), owner in registry.owners.items()
                if owner == info.name and kind != "detectors"
            )
            if others:
                print_answer("  also: " + ", ".join(map(visible, others)))
        for failure in registry.failures:
            print_answer(f"NOT LOADED {visible(failure.distribution)} ({visible(failure.name)}): {visible(failure.reason)}")
    return 3 if registry.failures else 0
