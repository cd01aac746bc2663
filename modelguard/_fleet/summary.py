"""One summary of many models: JSON, CSV and a page; and what has changed since an earlier one."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import modelguard
from modelguard._fleet.run import Done
from modelguard._fleet.targets import FleetTarget
from modelguard._reporters.csv import cell
from modelguard._reporters.json import dump
from modelguard.errors import UsageError
from modelguard.findings import Severity
from modelguard.report import PolicyInfo

if TYPE_CHECKING:
    from jinja2 import Template

SCHEMA = "modelguard-fleet/1"
FORMATS = ("json", "csv", "html")
_WORST = {1: 0, 3: 1, 0: 2}
_COLUMNS = (
    *("uri", "name", "verdict", "exit_code", "change", "reasons", "findings", "formats", "files", "bytes"),
    *("revision", "digest", "licence", "seconds", "cached"),
)


def summary(targets: Sequence[FleetTarget], done: Done, policy: PolicyInfo, since: Mapping[str, Any] | None) -> dict[str, Any]:
    """The document that every format is made of; the worst models first.

    ``exit_code`` is that of one scan: 1 where any model is blocked, else 3 where any has no verdict, or was not scanned, or there is none.
    """
    earlier = {key(item): item for item in since["models"]} if since is not None else {}
    models = []
    for target in targets:
        if (row := done.rows.get(target.key)) is not None:
            entry = {"uri": target.uri, "name": target.name, **row}
            models.append({**entry, "change": _change(entry, earlier) if since is not None else []})
    models.sort(key=lambda item: (_WORST.get(item["exit_code"], 1), item["uri"], item["name"]))
    left = len(targets) - len(models)
    codes = {item["exit_code"] for item in models} | ({3} if left or not models else set())
    names = {target.key for target in targets}
    return {
        "schema": SCHEMA,
        "tool": {"name": "modelguard", "version": modelguard.__version__},
        "policy": {"name": policy.name, "sha256": policy.sha256},
        "counts": {verdict: sum(item["verdict"] == verdict for item in models) for verdict in ("block", "incomplete", "pass")},
        "not_scanned": left,
        "exit_code": 1 if 1 in codes else max(codes),
        "models": models,
        "since": None
        if since is None
        else {
            "changed": sum(bool(item["change"]) for item in models),
            "gone": sorted(item["uri"] for name, item in earlier.items() if name not in names),
        },
    }


def key(item: Mapping[str, Any]) -> str:
    """As :attr:`FleetTarget.key`, of a model of a summary."""
    return FleetTarget(str(item["uri"]), str(item["name"])).key


def read_summary(path: str) -> dict[str, Any]:
    """An earlier summary. Raises :class:`UsageError` for a file that is not one."""
    remedy = "give a summary written by `modelguard fleet -o json=PATH`"
    try:
        document = json.loads(Path(path).read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise UsageError(f"--since {path}", f"cannot be read ({getattr(error, 'strerror', None) or error})", remedy) from error
    models = document.get("models") if isinstance(document, dict) and document.get("schema") == SCHEMA else None
    if not isinstance(models, list) or not all(isinstance(item, dict) and _named(item) for item in models):
        raise UsageError(f"--since {path}", f"is not a {SCHEMA} document", remedy)
    return dict(document)


def _named(item: Mapping[str, Any]) -> bool:
    return all(isinstance(item.get(name), str) for name in ("uri", "name", "verdict"))


def _change(now: Mapping[str, Any], earlier: Mapping[str, Mapping[str, Any]]) -> list[str]:
    before = earlier.get(key(now))
    if before is None:
        return ["new"]
    change = [f"was {before['verdict']}"] if before["verdict"] != now["verdict"] else []
    if before.get("digest") != now.get("digest"):
        change.append("other files")
    known = before.get("fingerprints")
    more = set(now.get("fingerprints", ())) - set(known if isinstance(known, list) else ())
    return change + (["new findings"] if more else [])


def render(document: Mapping[str, Any], form: str, links: Mapping[str, str] | None = None) -> str:
    """The summary as ``json``, ``csv`` or ``html``. ``links`` are where reports of models lie, by key."""
    if form == "json":
        return dump(document)
    return _csv(document) if form == "csv" else _html(document, links or {})


def _csv(document: Mapping[str, Any]) -> str:
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(_COLUMNS)
    for item in document["models"]:
        writer.writerow([cell(_flat(item.get(name))) for name in _COLUMNS])
    return out.getvalue()


def _flat(value: Any) -> str:
    if isinstance(value, Mapping):
        return " ".join(f"{name}={number}" for name, number in value.items())
    if isinstance(value, list):
        return "; ".join(f"{item['rule']} {item['message']}".strip() if isinstance(item, Mapping) else str(item) for item in value)
    return "" if value is None else str(value)


def _html(document: Mapping[str, Any], links: Mapping[str, str]) -> str:
    from modelguard._reporters.html import digest, resource

    style, script = resource("report.css"), resource("report.js")
    page = _template().render(
        style=style, style_hash=digest(style), script=script, script_hash=digest(script),
        fleet=document, links=links, key=key, severities=[item.label for item in sorted(Severity, reverse=True)],
    )  # fmt: skip
    return page.lstrip()


@cache
def _template() -> Template:
    from modelguard._reporters.html import environment, resource

    return environment().from_string(resource("fleet.html.j2"))
