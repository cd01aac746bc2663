"""``modelguard plugins``: what is installed, what it registers, and what failed to load."""

from __future__ import annotations

import json
import shutil
import textwrap
from pathlib import Path
from typing import Any

import click

from modelguard._cli import _complete
from modelguard._cli._options import plugin_option, print_answer
from modelguard.errors import UsageError


@click.group("plugins", short_help="List installed plugins, write one, or check one.", invoke_without_command=True)
@click.pass_context
def command(context: click.Context) -> Any:
    """Inspect installed plugins (alone, list them), begin one, or check one.

    A plugin is code you trust: it runs with the worker's rights.
    """
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


@command.command("new", short_help="Write a plugin to begin with.")
@click.argument("name")
@click.option("--prefix", metavar="ACME", help="Prefix of its rule ids: 2 to 16 capitals or digits [made of NAME].")
@click.option("--out", default=".", metavar="FOLDER", help="Where the folder modelguard-NAME goes [.].")
def new(name: str, prefix: str | None, out: str) -> int:
    """Write the plugin modelguard-NAME: a detector that works, its tests, README, pyproject.toml and CI."""
    from modelguard._cli._plugin_kit import render_plugin
    from modelguard._reporters.escape import visible

    folder = render_plugin(name, prefix, Path(out))
    shown = visible(str(folder))
    print_answer(f"wrote {shown}; install it with `pip install -e {shown}` and run `modelguard plugins check {visible(name)}`")
    return 0


@command.command("check", short_help="Hold a plugin's detectors to the contract.")
@click.argument("name")
@click.option("--on", "target", metavar="MODEL", shell_complete=_complete.files, help="Try them on this model [a tiny classifier].")
@click.option("--reference", metavar="R", shell_complete=_complete.files, help="A reference beside --on.")
@click.option("--samples", metavar="F", shell_complete=_complete.files, help="Samples beside --on.")
@click.option("--json", "as_json", is_flag=True, help="Machine-readable.")
def check(name: str, target: str | None, reference: str | None, samples: str | None, as_json: bool) -> int:
    """Try every detector of the plugin NAME, and print which promises it keeps.

    NAME is a distribution (modelguard- may be left out), an entry point or a detector. Exit codes: 0 all are kept, 1 one is not, 2 usage
    error, 3 something could not be tried.
    """
    from dataclasses import asdict

    from modelguard._cli._plugin_kit import Given, check_plugin
    from modelguard._plugins import load
    from modelguard._reporters.escape import visible

    if target is None and (reference or samples):
        raise UsageError("--reference and --samples", "go with a model", "give --on MODEL as well")
    rows = list(check_plugin(name, load(), Given(target, reference, samples)))
    broken, untried = any(row.wrong for row in rows), any(row.wrong is None for row in rows)
    if as_json:
        print_answer(json.dumps([asdict(row) for row in rows], indent=2))
    else:
        lines, last = [], ""
        for row in rows:
            if row.detector != last:
                lines.append(visible(row.detector))
            last = row.detector
            mark = "WRONG" if row.wrong else "?" if row.wrong is None else "ok"
            head = f"  {mark:<5}  {row.name:<11}  "
            body = visible(f"{row.promise}: {row.wrong}" if row.wrong else row.promise)
            width = shutil.get_terminal_size().columns
            lines += textwrap.wrap(head + body, min(width, 120), subsequent_indent=" " * len(head), break_on_hyphens=False)
        print_answer("\n".join(lines))
    return 1 if broken else 3 if untried else 0
