"""Scans from Python, as the command line does them: ``scan``, then ``modelguard.evaluate`` by a policy, then ``render``.

Nothing here prints, exits the process or raises anything but :class:`~modelguard.errors.ModelguardError` for what the caller or the
artifact did wrong. Detectors run in a process of their own that is started with ``python -m``, so a script needs no ``__main__`` guard,
and a scan may run in any thread. ``docs/api.md`` shows how it is used.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from modelguard import _limits
from modelguard._reporters import builtin_reporters
from modelguard._reporters.json import report_from_json
from modelguard._scanner.prepare import RunOptions, ScanArguments, StrPath, prepare
from modelguard._scanner.scan import DEFAULT_TIMEOUT
from modelguard.detector import Detector
from modelguard.errors import UsageError
from modelguard.model import ModelOptions
from modelguard.policy import Policy
from modelguard.report import Decision, Outcome, Report

MAX_REPORT_BYTES = _limits.STORED_REPORT

ProgressCallback = Callable[[str, int, int, str], None]
"""Told ``(what, done, total, note)``: ``what`` is ``reading`` (in bytes) or a detector's id (in its own units); ``total`` 0 is unknown.
While files are fetched it is called from several threads."""


def scan(
    target: StrPath,
    *,
    reference: StrPath | None = None,
    samples: StrPath | None = None,
    policy: Policy | StrPath | None = None,
    detectors: Iterable[str | type[Detector]] | None = None,
    options: Mapping[str, Mapping[str, Any]] | None = None,
    quick: bool = False,
    budget: float | str | None = None,
    model: str | None = None,
    input: str | None = None,
    output: str | None = None,
    device: Literal["auto", "cpu", "cuda"] = "auto",
    precision: Literal["float32", "bfloat16", "float16"] = "float32",
    seed: int = 0,
    timeout: float = DEFAULT_TIMEOUT,
    memory: int | str | None = None,
    threads: int | None = None,
    offline: bool = False,
    cache: bool = False,
    digest: bool = True,
    by_range: bool = False,
    without: Iterable[str] = (),
    identity: str | None = None,
    progress: ProgressCallback | None = None,
) -> Report:
    """Scan a model artifact in an isolated worker and say what every detector found, or why it did not look.

    :param target: a file, a folder, or ``hf://org/name[@revision][/path]``.
    :param reference: a trusted artifact to compare with, given like ``target``.
    :param samples: clean inputs: ``.npz``, ``.safetensors``, ``.jsonl``, or a folder of images.
    :param policy: a policy, its path, or ``builtin:NAME``; ``builtin:baseline`` by default. The scan takes detector options, timeouts and
        the plugins that may load from it; ``modelguard.evaluate`` judges by it.
    :param detectors: ids of the only detectors to run, or classes, which need not be registered by a plugin; all by default. The
        report's policy requires exactly these then (:meth:`Policy.requiring`).
    :param options: detector options by id and name, such as ``{"abs": {"steps": 50}}``; they win over the policy's.
    :param quick: a shorter look that misses more.
    :param budget: seconds that all searches for backdoors may take together, or a duration such as ``"5m"``; the policy's by default.
    :param model: ``module:factory`` of your own function that builds the torch module to load the weights into. Its code is run.
    :param input: what the model takes, such as ``range=0..255,layout=NHWC,mean=0.5,std=0.25``.
    :param output: the output of the model to read, and after a comma how its positions are pooled (mean, max, first, last).
    :param device: where models run.
    :param precision: what products and convolutions are computed in.
    :param seed: of every random choice, 0 to 2^63 - 1.
    :param timeout: seconds each detector may run, where the policy does not say.
    :param memory: bytes the worker may hold, or a size such as ``"8G"``, or ``"none"``; three quarters of the machine's by default.
    :param threads: how many a detector may use; all cores by default.
    :param offline: use no network.
    :param cache: take what detectors said of the very same bytes in an earlier scan, and keep what they say in this one
        (``docs/scale.md``); the command line does so by default.
    :param digest: hash every file of the artifacts.
    :param by_range: of two artifacts in one remote source read only what may differ between them; only for comparing them.
    :param without: plugins not to load, by entry point or distribution.
    :param identity: what the model is called in fingerprints; ``hf:org/name``, or the path below the working directory, by default.
    :param progress: called while artifacts are read and detectors work, see :data:`ProgressCallback`.

    An artifact that cannot be fetched or opened is not an error: the report's ``failure`` says so, and no policy passes it. Raises
    :class:`~modelguard.UsageError` (or its subclass :class:`~modelguard.PolicyError`) for a wrong argument, before anything is fetched,
    and :class:`~modelguard.PluginError` when two plugins claim one name.
    """
    if isinstance(detectors, str):
        raise UsageError(f"detectors {detectors!r}", "must be a list of ids or classes", f"write [{detectors!r}]")
    asked = ScanArguments(
        target=target,
        reference=reference,
        samples=samples,
        policy=policy,
        detectors=None if detectors is None else tuple(detectors),
        options=options or {},
        quick=quick,
        budget=budget,
        model=ModelOptions(model, input, device, precision, output=output),
        run=RunOptions(seed, timeout, memory, threads, offline, cache),
        without=tuple(without),
        identity=identity,
        by_range=by_range,
        digest=digest,
    )
    return prepare(asked).scan(_Told(progress))


def render(report: Report, decision: Decision, format: str = "json") -> str:
    """The report with its decision as a document: ``json``, ``sarif``, ``html``, ``console`` (80 columns, no colour), or a plugin's format.

    Raises :class:`~modelguard.UsageError` for a format nobody has.
    """
    from modelguard._plugins import load

    reporters = {item.format: item for item in builtin_reporters()}
    if format not in reporters:
        reporters = dict(load().reporters)
    if format not in reporters:
        raise UsageError(f"format {format}", "there is no such format", "formats: " + ", ".join(sorted(reporters)))
    return reporters[format]().render(report, decision)


def load_report(path: StrPath) -> tuple[Report, Decision]:
    """A stored JSON report and the decision it was stored with. Raises :class:`~modelguard.UsageError` for a file that is not one."""
    name, remedy = os.fspath(path), "give a report written by `modelguard scan -o json=PATH`"
    try:
        with open(path, "rb") as handle:
            body = handle.read(MAX_REPORT_BYTES + 1)
    except (OSError, ValueError) as error:
        raise UsageError(name, f"cannot be read ({getattr(error, 'strerror', None) or error})", remedy) from error
    if len(body) > MAX_REPORT_BYTES:
        raise UsageError(name, f"is larger than {MAX_REPORT_BYTES} bytes", remedy)
    try:
        text = body.decode("utf-8")
    except UnicodeDecodeError as error:
        raise UsageError(name, f"is not UTF-8 (byte {error.start})", remedy) from None
    return report_from_json(text, name)


@dataclass(frozen=True)
class _Told:
    """Hands what happens on to a callback."""

    callback: ProgressCallback | None

    def reading(self, done: int, total: int, note: str) -> None:
        self._tell("reading", done, total, note)

    def started(self, detector: str) -> None:
        self._tell(detector, 0, 0, "")

    def progressed(self, detector: str, done: int, total: int, note: str) -> None:
        self._tell(detector, done, total, note)

    def ended(self, outcome: Outcome, seconds: float) -> None: ...

    def _tell(self, what: str, done: int, total: int, note: str) -> None:
        if self.callback is not None:
            self.callback(what, done, total, note)
