"""One model of a fleet, scanned by whatever process has its turn: JSON in, JSON out, so that every engine can carry it."""

from __future__ import annotations

import base64
import datetime
import hashlib
import json
import traceback
import zlib
from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

from modelguard._fleet.patient import PatientSource
from modelguard._lock.check import LockedSource
from modelguard._lock.file import Lock, LockedModel, read_lock
from modelguard._reporters.json import report_document
from modelguard._scanner.prepare import Prepared, RunOptions, ScanArguments, prepare
from modelguard._scanner.run import Silent
from modelguard._sources.hub import HubSource
from modelguard.artifact import Source
from modelguard.errors import ModelguardError, UsageError
from modelguard.policy import evaluate
from modelguard.report import Decision, LockInfo, Report, Status

MOST_REASONS = 20
"""Reasons of one model that a summary has; its report has them all."""
MOST_LETTERS = 400


def perform(work: str) -> str:
    """Scan what ``work`` (JSON: ``asked`` of everything, ``target`` of this model) names.

    The answer is JSON too: ``row`` is the model's line of the summary, ``report`` its report (base64 of deflated JSON), empty where there
    is none. It never raises: what goes wrong with a model is that model's row.
    """
    given = json.loads(work)
    asked, target = given["asked"], given["target"]
    try:
        report, decision = _scanned(json.dumps(asked, sort_keys=True), target)
        body = json.dumps(report_document(report, decision), sort_keys=True).encode()
        return json.dumps({"row": row(report, decision), "report": base64.b64encode(zlib.compress(body, 6)).decode()})
    except ModelguardError as error:
        return json.dumps({"row": lost(str(error)), "report": ""})
    except Exception as error:
        frames = traceback.extract_tb(error.__traceback__)
        place = f" at {Path(frames[-1].filename).name}:{frames[-1].lineno}" if frames else ""
        return json.dumps({"row": lost(f"internal error: {type(error).__name__}{place}: {error}; please report it"), "report": ""})


def stored(report: str) -> dict[str, Any]:
    """The report that :func:`perform` gave."""
    document: dict[str, Any] = json.loads(zlib.decompress(base64.b64decode(report)))
    return document


def lost(reason: str) -> dict[str, Any]:
    """The row of a model that there is no report of: nobody has looked, and that is no pass."""
    reasons = [{"rule": "", "message": reason[:MOST_LETTERS], "blocks": False}]
    nothing: dict[str, Any] = dict.fromkeys(("identity", "revision", "digest", "seconds", "licence"))
    nothing |= dict.fromkeys(("more_reasons", "files", "bytes", "completed", "detectors", "cached"), 0)
    nothing |= {"findings": {}, "fingerprints": [], "formats": [], "uncached": ""}
    return {**nothing, "verdict": "incomplete", "exit_code": 3, "reasons": reasons}


def row(report: Report, decision: Decision) -> dict[str, Any]:
    """What a summary says of one model."""
    files = "\n".join(f"{file.path} {file.size} {file.sha256}" for file in report.target.files)
    severities = Counter(report.severity(finding).label for _, finding in report.findings())
    reasons = [{"rule": item.rule, "message": item.message[:MOST_LETTERS], "blocks": item.blocks} for item in decision.violations]
    reasons.sort(key=lambda item: not item["blocks"])
    return {
        "identity": report.target.identity,
        "revision": report.target.revision,
        "verdict": decision.verdict.value,
        "exit_code": decision.exit_code,
        "reasons": reasons[:MOST_REASONS],
        "more_reasons": max(0, len(reasons) - MOST_REASONS),
        "findings": dict(sorted(severities.items())),
        "fingerprints": sorted({finding.fingerprint for _, finding in report.findings()})[:MOST_REASONS],
        "formats": list(report.target.format),
        "files": len(report.target.files),
        "bytes": sum(file.size for file in report.target.files),
        "digest": hashlib.sha256(files.encode()).hexdigest() if report.target.files else None,
        "completed": sum(item.status is Status.COMPLETED for item in report.outcomes),
        "detectors": len(report.outcomes),
        "cached": len(report.timings.get("cached", ())),
        "uncached": report.timings.get("cache", ""),
        "seconds": report.timings.get("total"),
        "licence": report.target.licence,
    }


def _scanned(asked: str, target: Mapping[str, Any]) -> tuple[Report, Decision]:
    uri, lock, model = target["uri"], None, None
    policy = reference = None
    if target.get("lock"):
        lock, model = _locked(target["lock"], target["name"])
        uri, policy, reference = model.pinned, lock.policy(model), lock.reference(model)
    prepared = prepared_for(asked, policy, reference)
    if model is not None and lock is not None and reference is None and prepared.policy.provenance.base_model == "check":
        prepared = prepared_for(asked, policy, lock.base_of(model))
    source: Source | None = None
    locked = LockedSource(model) if model is not None else None
    if uri.startswith("hf://"):
        source = PatientSource(locked or HubSource())
    report = replace(prepared, request=replace(prepared.request, target=uri, origin=source)).scan(Silent())
    if lock is not None and locked is not None:
        info = LockInfo(target["name"], lock.path.as_posix(), lock.lines[target["name"]], locked.differences)
        report = replace(report, lock=info)
    return report, evaluate(report, prepared.policy, datetime.datetime.now(datetime.UTC).date())


@cache
def prepared_for(asked: str, policy: str | None, reference: str | None) -> Prepared:
    """What was asked of every model, checked once in each process. ``policy`` and ``reference`` are a lock's; what was asked goes first."""
    given = json.loads(asked)
    prepared = prepare(
        ScanArguments(
            target=".",
            policy=given["policy"] or policy,
            reference=reference,
            quick=given["quick"],
            budget=given["budget"],
            without=tuple(given["without"]),
            run=RunOptions(**given["run"]),
        )
    )
    if (wanted := given.get("policy_sha256")) and given["policy"] and prepared.policy.info.sha256 != wanted:
        raise UsageError(f"policy {given['policy']}", "changed while the fleet was scanned", "begin again with --fresh")
    return prepared


@cache
def _lock(path: str) -> Lock:
    return read_lock(Path(path))


def _locked(path: str, name: str) -> tuple[Lock, LockedModel]:
    lock = _lock(path)
    return lock, lock.chosen((name,))[name]
