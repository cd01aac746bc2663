"""``repair.json``: what was repaired, how, what it cost, and what is left."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Iterable

    from modelguard import Checkpoint, Report, Samples
    from modelguard_repair._measure import Score
    from modelguard_repair._request import Request
    from modelguard_repair._scans import Scanned

SCHEMA = "modelguard-repair/1"
FIT, NOT_FIT, INCOMPLETE = 0, 1, 3
"""Exit codes: the result may be deployed, it may not, there is no verdict."""


@dataclass(frozen=True)
class Attempt:
    """What one method came to. ``why`` says what speaks against the result, "" where nothing does. ``folder`` is where it lies, None where
    there is none; ``facts`` are what the method says of itself."""

    method: str
    code: int
    why: str
    facts: dict[str, Any]
    score: Score | None = None
    folder: Path | None = None
    scanned: Scanned | None = None

    @property
    def rank(self) -> tuple[Any, ...]:
        """What there is before what is not, what is fit before what is not, then the weaker trigger, then the better accuracy."""
        if self.score is None or self.folder is None:
            return (1, self.code, 1.0, 0.0)
        return (0, {FIT: 0, INCOMPLETE: 1, NOT_FIT: 2}[self.code], self.score.worst, -self.score.accuracy.value)

    def facts_of(self) -> dict[str, Any]:
        """JSON-safe."""
        return {
            "method": self.method,
            "code": self.code,
            "why": self.why,
            "facts": self.facts,
            "measured": self.score.facts() if self.score is not None else None,
            "verdict": self.scanned.decision.verdict.value if self.scanned is not None else None,
        }


def record(
    request: Request,
    samples: Samples,
    counts: tuple[int, int],
    original: Scanned,
    before: Score,
    best: Attempt,
    attempts: Iterable[Attempt],
    changed: list[dict[str, Any]],
    notes: Iterable[str],
) -> dict[str, Any]:
    """The record; ``counts`` are the samples that were repaired on, and measured on."""
    report, after = original.report, best.scanned
    return {
        "schema": SCHEMA,
        "tool": {"name": "modelguard", "version": (after or original).report.tool_version},
        "method": best.method,
        "seed": request.seed,
        "fit": best.code == FIT,
        "why": best.why,
        "limits": {"max_drop": request.max_drop, "max_asr": request.max_asr},
        "policy": {"name": report.policy.name, "sha256": report.policy.sha256},
        "samples": {
            "origin": samples.origin,
            "sha256": samples.sha256,
            "count": len(samples.inputs),
            "repaired_on": counts[0],
            "measured_on": counts[1],
        },
        "original": {"identity": report.target.identity, "files": _files(report)},
        "result": {"files": _files(after.report) if after is not None else []},
        "verdict": {"before": original.decision.verdict.value, "after": after.decision.verdict.value if after is not None else None},
        "before": before.facts(),
        "after": best.score.facts() if best.score is not None else None,
        "changed": changed,
        "attempts": [item.facts_of() for item in attempts],
        "notes": list(notes),
    }


def changes(before: Checkpoint, after: Checkpoint, names: Iterable[str]) -> list[dict[str, Any]]:
    """Of each tensor: how many of its numbers changed, and the norm of the change as a share of its own."""
    rows = []
    for name in sorted(names):
        old, new = (item.read(name).astype(np.float64) for item in (before, after))
        norm = float(np.linalg.norm(old))
        relative = float(f"{np.linalg.norm(new - old) / norm:.4g}") if norm else None
        rows.append({"tensor": name, "shape": list(old.shape), "changed": int((old != new).sum()), "relative": relative})
    return rows


def _files(report: Report) -> list[dict[str, Any]]:
    return [{"path": file.path, "size": file.size, "sha256": file.sha256} for file in report.target.files]
