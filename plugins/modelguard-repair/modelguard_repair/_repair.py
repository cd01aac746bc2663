"""A repair from beginning to end: scan, split, repair, write, measure what was written, scan again, keep the best."""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from modelguard_evaluate import Inputs, labelled
from modelguard_runtime import TorchModel

from modelguard import Decision, ModelError, Skip, UsageError, Verdict, load_samples
from modelguard.testing import open_target
from modelguard_repair import _measure
from modelguard_repair._measure import Named, Score
from modelguard_repair._record import FIT, INCOMPLETE, NOT_FIT, Attempt, changes, record
from modelguard_repair._scans import Scanned, Scans, difference
from modelguard_repair._weights import Weights
from modelguard_repair._write import write
from modelguard_repair.methods import METHODS, Material

if TYPE_CHECKING:
    from modelguard import Checkpoint, Samples, Target
    from modelguard_repair._request import Request

MODEL = "model"
"""The folder of the result that holds the model; the record and the reports lie beside it, and are no part of it."""


@dataclass(frozen=True)
class Repaired:
    """What came of a repair. ``code`` is the exit code: 0 fit for deployment, 1 not, 3 no verdict. ``folder`` is where the result lies,
    None where nothing was written. ``line`` says it in one line, ``record`` is what ``repair.json`` has."""

    code: int
    line: str
    folder: Path | None
    record: dict[str, Any]


def repair(request: Request) -> Repaired:
    """Repair a model, as ``request`` says.

    Nothing is written where every method fails, costs more accuracy than allowed, or cannot be used. The result appears at once, when
    all of it is there. Raises :class:`~modelguard.ModelguardError` for what cannot be repaired: a model that is no classifier, that cannot
    be differentiated, or that does not understand the samples.
    """
    samples = load_samples(request.samples)
    _measure.check(samples)
    scans = Scans.of(request)
    with _staging(request.out) as place:
        original = scans.original()
        case = _Case.of(request, scans, original, samples, place)
        attempts: list[Attempt] = []
        for name in request.ordered(blind=not case.triggers):
            attempts.append(case.attempt(name))
            if attempts[-1].code == FIT:
                break
        best = case.judged(min(attempts, key=lambda item: item.rank))
        attempts = [best if item.method == best.method else item for item in attempts]
        said = case.record(best, attempts)
        if best.folder is None or best.scanned is None:
            code = NOT_FIT if any(item.code == NOT_FIT for item in attempts) else INCOMPLETE
            reasons = "; ".join(f"{item.method}: {item.why}" for item in attempts)
            return Repaired(code, f"not repaired, nothing was written: {reasons}", None, said)
        files = {"before": original.json(), "after": best.scanned.json(), "repair": json.dumps(said, indent=1) + "\n"}
        for stem, text in files.items():
            (best.folder / f"{stem}.json").write_text(text)
        best.folder.rename(request.out)
    return Repaired(best.code, _line(best, case.before), request.out, said)


@dataclass(frozen=True)
class _Case:
    """One model to repair: opened, its samples split, and measured ``before``. ``place`` is where results are made."""

    request: Request
    scans: Scans
    original: Scanned
    target: Target
    samples: Samples
    weights: Weights
    part: Inputs
    held: Inputs
    triggers: tuple[Named, ...]
    before: Score
    notes: tuple[str, ...]
    place: Path

    @classmethod
    def of(cls, request: Request, scans: Scans, original: Scanned, samples: Samples, place: Path) -> _Case:
        """Raises :class:`~modelguard.ModelError` where the model cannot be repaired."""
        target = open_target(request.model, samples=samples, model=request.options)
        try:
            model = _runnable(target)
            inputs = labelled(model, samples)
            part, held = _measure.split(inputs, request.seed)
            found, notes = _measure.recovered(model, inputs, original.report)
            given = [_measure.known(model, inputs, request.trigger, Path())] if request.trigger is not None else []
            request.progress("measuring the model as it is")
            triggers = _measure.settled(model, held, (*given, *found))
            before = _measure.score(model, held, triggers)
            weights = Weights.of(model, _checkpoint(target, model))
        except Skip as skip:
            remedy = "give a classifier in float32, and labelled images or texts that it understands"
            raise ModelError(request.model.name, f"cannot be repaired: {skip}", remedy) from skip
        return cls(request, scans, original, target, samples, weights, part, held, triggers, before, tuple(notes), place)

    def attempt(self, name: str) -> Attempt:
        """Repair by one method, write what came out, measure that, and scan it. The weights are afterwards what they were."""
        request, start = self.request, self.weights.state()
        given = Material(
            self.weights,
            self.part,
            self.triggers,
            request.max_drop / 100,
            request.seed,
            lambda note: request.progress(f"{name}: {note}"),
        )
        try:
            facts = METHODS[name]().repair(given)
            made = self.weights.arrays()
        except Skip as skip:
            return Attempt(name, INCOMPLETE, f"cannot be used: {skip}", {})
        finally:
            self.weights.restore(start)
        if not all(np.isfinite(array).all() for array in made.values()):
            return Attempt(name, NOT_FIT, "its training came to values that are not finite", facts)
        folder = self.place / name
        run = write(self.target, self.weights.checkpoint, made, folder / MODEL)
        again = open_target(folder / MODEL, samples=self.samples, model=request.options)
        score = _measure.score(_runnable(again), self.held, self.triggers)
        drop = 100 * (self.before.accuracy.value - score.accuracy.value)
        if drop > request.max_drop + 1e-9:
            return Attempt(name, NOT_FIT, f"accuracy fell by {drop:.1f} points, {request.max_drop:g} are allowed", facts, score)
        (folder / "diff.json").write_text(self._difference(folder / MODEL, run).json())
        if alive := score.alive(request.max_asr):
            worst = max(alive, key=lambda item: item.success.value)
            said = f"the trigger {worst.name!r} still turns {worst.success.value:.1%} into class {worst.target}"
            return Attempt(name, NOT_FIT, said, facts, score, folder)
        return self.judged(Attempt(name, FIT, "", facts, score, folder))

    def judged(self, attempt: Attempt) -> Attempt:
        """The attempt with the scan of its result, where there is a result that was not scanned yet. What its triggers say stays said."""
        if attempt.folder is None or attempt.scanned is not None:
            return attempt
        self.request.progress(f"{attempt.method}: scanning the result")
        scanned = self.scans.of_path(attempt.folder / MODEL, self.original.report.target.identity)
        if attempt.why:
            return replace(attempt, scanned=scanned)
        code, why = _verdict(scanned.decision)
        return replace(attempt, code=code, why=why, scanned=scanned)

    def record(self, best: Attempt, attempts: list[Attempt]) -> dict[str, Any]:
        """What ``repair.json`` says."""
        changed = []
        if best.folder is not None:
            old = self.weights.checkpoint
            new = open_target(best.folder / MODEL).checkpoints
            same = next(item for item in new if (item.name, item.format == "onnx") == (old.name, old.format == "onnx"))
            changed = changes(old, same, self.weights.tensors)
        counts = len(self.part), len(self.held)
        return record(self.request, self.samples, counts, self.original, self.before, best, attempts, changed, self.notes)

    def _difference(self, folder: Path, run: tuple[Path, ...]) -> Scanned:
        """The result beside the original; of one file beside one file, where a twin does not count."""
        files = [self.target.artifact.file(path) for path in self.weights.checkpoint.files]
        local = [file.local for file in files if file is not None]
        if len(run) == len(local) == 1:
            return difference(run[0], local[0])
        return difference(folder, self.request.model)


def _verdict(decision: Decision) -> tuple[int, str]:
    """The exit code, and what speaks against a result."""
    if decision.verdict is Verdict.PASS:
        return FIT, ""
    reason = f": {decision.violations[0].message}" if decision.violations else ""
    return (NOT_FIT if decision.verdict is Verdict.BLOCK else INCOMPLETE), f"its scan says {decision.verdict.value}{reason}"


def _runnable(target: Target) -> TorchModel:
    """The model that is differentiated. Raises :class:`~modelguard.Skip` where there is none."""
    model = target.model
    if not isinstance(model, TorchModel):
        raise Skip(f"its runtime ({type(model).__name__}) gives no access to weights")
    if model.facts.forward_only:
        raise Skip(f"it runs forward only: {model.facts.forward_only}")
    return model


def _checkpoint(target: Target, model: TorchModel) -> Checkpoint:
    """The checkpoint that ``model`` was built from."""
    graph = model.facts.graph is not None
    found = [item for item in target.checkpoints if item.name == model.facts.checkpoint and (item.format == "onnx") == graph]
    if len(found) != 1:
        raise Skip(f"{len(found)} of its checkpoints are called {model.facts.checkpoint}: leave the one that is to be repaired")
    return found[0]


def _line(best: Attempt, before: Score) -> str:
    assert best.score is not None
    said = f"accuracy {before.accuracy.value:.1%} before, {best.score.accuracy.value:.1%} after"
    if before.triggers:
        said += f"; triggers turned {before.worst:.1%} before, {best.score.worst:.1%} after"
    else:
        said += "; no trigger is known, so nothing shows that one is gone"
    end = "its scan passes" if best.code == FIT else f"not fit for deployment: {best.why}"
    return f"repaired by {best.method}: {said}; {end}"


@contextmanager
def _staging(out: Path) -> Iterator[Path]:
    """A folder beside ``out`` for what is not finished. Raises :class:`~modelguard.UsageError`."""
    try:
        place = Path(tempfile.mkdtemp(prefix=".modelguard-repair-", dir=out.resolve().parent))
    except OSError as error:
        raise UsageError(f"-o {out}", f"cannot be made ({error.strerror})", "name another folder") from error
    try:
        yield place
    finally:
        shutil.rmtree(place, ignore_errors=True)
