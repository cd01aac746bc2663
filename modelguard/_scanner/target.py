"""From an artifact to the target that detectors see."""

from __future__ import annotations

from collections.abc import Sequence

from modelguard._scanner.models import model_builder
from modelguard.artifact import Artifact
from modelguard.checkpoint import Format
from modelguard.detector import Capability, Target
from modelguard.model import ModelFactory, ModelOptions, Samples


def make_target(
    artifact: Artifact,
    formats: Sequence[Format],
    factories: Sequence[ModelFactory],
    options: ModelOptions,
    samples: Samples | None = None,
    reference: Target | None = None,
) -> Target:
    """Open the artifact's checkpoints and say what can be done with them. Headers are parsed; no tensor is read, no model built."""
    from modelguard._formats.opening import open_artifact

    opened = open_artifact(artifact, formats)
    build, obstacle = model_builder(artifact, opened.checkpoints, samples, options, factories)
    capabilities = {Capability.FILES}
    if opened.checkpoints:
        capabilities.add(Capability.WEIGHTS)
    if build is not None and not obstacle:
        capabilities |= {Capability.FORWARD, Capability.GRADIENTS}
    if reference is not None and reference.checkpoints:
        capabilities.add(Capability.REFERENCE)
    if samples is not None:
        capabilities.add(Capability.SAMPLES)
    return Target(
        artifact, opened.checkpoints, opened.problems, opened.unread, reference, samples, frozenset(capabilities), build, obstacle=obstacle
    )
