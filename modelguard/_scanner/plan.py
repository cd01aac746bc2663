"""Which detectors can look at a target, and what the others lack."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from modelguard.detector import Capability, Detector

_REMEDY = {
    Capability.FILES: "files",
    Capability.WEIGHTS: "readable weights (no file of the artifact is a checkpoint in a known format)",
    Capability.REFERENCE: "a reference (give --reference)",
    Capability.FORWARD: "a model that can be run (ONNX, a known config.json, or --model package.module:factory)",
    Capability.GRADIENTS: "a model that can be differentiated (ONNX, a known config.json, or --model package.module:factory)",
    Capability.SAMPLES: "clean samples (give --samples)",
}


@dataclass(frozen=True, slots=True)
class Step:
    """One detector of a plan. ``reason`` is empty when it can run."""

    detector: str
    requires: frozenset[Capability]
    reason: str

    @property
    def runnable(self) -> bool:
        return not self.reason


def make_plan(
    detectors: Iterable[type[Detector]],
    provides: frozenset[Capability],
    *,
    runs_models: bool = True,
    quick: bool = False,
    obstacle: str = "",
) -> tuple[Step, ...]:
    """One step per detector, by id: runnable, or skipped with everything it lacks, or because a ``quick`` look leaves it out.

    ``obstacle`` is why the model plainly cannot be built, where something says so. ``runs_models`` says whether any plugin
    that is loaded brings model factories: where none does, that is what to install.
    """
    remedies = _REMEDY if runs_models else {**_REMEDY, **_without_runtime()}
    told = (Capability.FORWARD, Capability.GRADIENTS) if obstacle else ()
    if obstacle:
        remedies = {
            **remedies,
            Capability.FORWARD: f"a model that can be run: {obstacle}",
            Capability.GRADIENTS: f"a model that can be differentiated: {obstacle}",
        }
    steps = []
    for detector in sorted(detectors, key=lambda item: item.id):
        # What is said of the model at length comes last.
        missing = sorted(detector.requires - provides, key=lambda item: (item in told, list(Capability).index(item)))
        if Capability.GRADIENTS in missing and Capability.FORWARD in missing:
            missing.remove(Capability.FORWARD)
        reason = "needs " + " and ".join(remedies[item] for item in missing) if missing else ""
        if quick and detector.when_quick == "skipped":
            reason = "left out by --quick; scan without it"
        steps.append(Step(detector.id, detector.requires, reason))
    return tuple(steps)


def _without_runtime() -> dict[Capability, str]:
    """What detectors that run a model lack where no plugin runs any: the distribution of ours that does."""
    from modelguard._policies.catalogue import runner

    how = f"and no loaded plugin runs models (install {runner()} of the same release)"
    return {Capability.FORWARD: f"a model that can be run, {how}", Capability.GRADIENTS: f"a model that can be differentiated, {how}"}
