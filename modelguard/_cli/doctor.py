"""``modelguard doctor``: what can run on this machine, and what is missing."""

from __future__ import annotations

import json
import shutil
import textwrap
from dataclasses import asdict

import click

from modelguard._cli._options import plugin_option, print_answer


@click.command("doctor", short_help="Say what can run on this machine, and what is missing.")
@click.option("--json", "as_json", is_flag=True, help="Machine-readable.")
@plugin_option
def command(as_json: bool, without: tuple[str, ...]) -> int:
    """Try a scan of a tiny model, and look at plugins, detectors, GPU, confinement and cache.

    Exit codes: 0 scans can run here (whatever is missing is named), 2 usage error, 3 they cannot, or a plugin failed to load.
    """
    from modelguard._cli._health import checks, readiness
    from modelguard._plugins import load
    from modelguard._reporters.escape import visible

    registry = load(disabled=without)
    seen, detectors = list(checks(registry)), readiness(registry)
    if as_json:
        document = {
            "checks": [asdict(item) for item in seen],
            "plugins": [{"name": item.name, "version": item.version} for item in registry.plugins],
            "detectors": [asdict(item) for item in detectors],
        }
        print_answer(json.dumps(document, indent=2))
    else:
        lines = []
        for item in seen:
            lines += _wrapped(
                f"{'ok' if item.well else '--'}  {item.name:<11}  ", visible(item.seen) + (f": {item.remedy}" if item.remedy else "")
            )
        lines += _wrapped("ok  plugins      ", ", ".join(visible(f"{item.name} {item.version}") for item in registry.plugins))
        for heading, ready in (("Detectors that can look here, by what they need", True), ("Detectors that cannot look here", False)):
            by_need: dict[str, list[str]] = {}
            for detector in detectors:
                if detector.ready is ready:
                    by_need.setdefault(detector.needs, []).append(visible(detector.detector))
            lines += [f"\n{heading}"] * bool(by_need)
            for needs, names in sorted(by_need.items()):
                lines += _wrapped(f"  {needs}: ", ", ".join(names), indent=4)
        print_answer("\n".join(lines))
    broken = registry.failures or any(item.name == "worker" and not item.well for item in seen)
    return 3 if broken else 0


def _wrapped(head: str, text: str, indent: int | None = None) -> list[str]:
    columns = min(shutil.get_terminal_size().columns, 100)
    hanging = " " * (len(head) if indent is None else indent)
    return textwrap.wrap(head + text, columns, subsequent_indent=hanging, break_on_hyphens=False)
