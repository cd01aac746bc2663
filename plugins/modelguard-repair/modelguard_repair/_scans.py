"""The scans of a repair: of the original, of the result under the same policy, and of the two beside each other."""

from __future__ import annotations

import datetime
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from modelguard import Decision, Policy, Report, SourceError, UsageError, evaluate, load_policy, load_report, render, scan
from modelguard.testing import open_target

if TYPE_CHECKING:
    from modelguard_repair._request import Request


@dataclass(frozen=True)
class Scanned:
    """A report, and what the policy says of it."""

    report: Report
    decision: Decision

    def json(self) -> str:
        """As a stored report."""
        return render(self.report, self.decision)


@dataclass(frozen=True)
class Scans:
    """Scans as ``request`` asks for them, judged by ``policy``."""

    request: Request
    policy: Policy

    @classmethod
    def of(cls, request: Request) -> Scans:
        """Raises :class:`~modelguard.PolicyError`."""
        policy = load_policy(request.policy or "builtin:baseline")
        return cls(request, policy if request.detectors is None else policy.requiring(request.detectors))

    def original(self) -> Scanned:
        """The model as it is: by the report that was given, or by a scan. Raises :class:`~modelguard.ModelguardError`."""
        request = self.request
        if request.report is None:
            request.progress("scanning the model as it is")
            return self.of_path(request.model, None)
        report, _ = load_report(request.report)
        there = {file.path: file.sha256 for file in open_target(request.model).artifact.files}
        if {file.path: file.sha256 for file in report.target.files} != there:
            raise UsageError(f"--report {request.report}", f"is of other files than {request.model}", "scan the model again")
        return self._judged(report)

    def of_path(self, path: Path, identity: str | None) -> Scanned:
        """A scan of ``path``, called ``identity`` in fingerprints. Raises :class:`~modelguard.SourceError` where it cannot be opened."""
        request, options = self.request, self.request.options
        report = scan(
            path,
            samples=request.samples,
            policy=self.policy,
            detectors=request.detectors,
            quick=request.quick,
            budget=request.budget,
            model=options.factory,
            input=options.input,
            output=options.output,
            device=options.device,
            threads=options.threads,
            seed=request.seed,
            timeout=request.timeout,
            identity=identity,
            offline=True,
        )
        return self._judged(report)

    def _judged(self, report: Report) -> Scanned:
        if report.failure:
            raise SourceError(self.request.model.name, f"cannot be scanned ({report.failure})", "give a model that can be opened")
        return Scanned(report, _judge(report, self.policy))


def difference(after: Path, before: Path) -> Scanned:
    """What ``weight-diff`` says of two checkpoints."""
    report = scan(after, reference=before, detectors=["weight-diff"], offline=True)
    return Scanned(report, _judge(report, load_policy("builtin:baseline").requiring(["weight-diff"])))


def _judge(report: Report, policy: Policy) -> Decision:
    return evaluate(report, policy, datetime.datetime.now(datetime.UTC).date())
