"""modelguard decides whether a model artifact may be deployed. These are its public names."""

from __future__ import annotations

import sys

# `python -m modelguard` puts the working directory first, and people scan the folder they stand in: before anything else is imported,
# so that a click.py or typing.py of an artifact is not. Another program's `python -m` keeps its path.
if sys.argv[:1] == ["-m"] and not sys.flags.safe_path and {"modelguard", "-mmodelguard"} & {*sys.orig_argv}:
    del sys.path[0]

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from modelguard._diff.diff import ModelDiff, TensorDiff, diff_checkpoints
    from modelguard._diff.grid import narrow, widen
    from modelguard._diff.match import Matching, match_tensors
    from modelguard._diff.pairing import Pairing
    from modelguard._diff.replay import Replay, replay_rank
    from modelguard._formats.named import Kind
    from modelguard._formats.onnx_checkpoint import onnx_skeleton
    from modelguard._formats.pickled import runs_as_pickle
    from modelguard._formats.sniff import kind_of
    from modelguard._inputs.agreement import agreement, class_numbers, require_understanding
    from modelguard._inputs.canonical import canonical_inputs
    from modelguard._inputs.config import artifact_json
    from modelguard._inputs.hints import InputHints
    from modelguard._inputs.output import output_spec
    from modelguard._inputs.samples import load_samples
    from modelguard._inputs.spec import resolve_input, usual_normalisations
    from modelguard.api import load_report, render, scan
    from modelguard.artifact import Artifact, ArtifactFile, FileStamp, LeftOut, Source, SourceContext, UnfetchedFile, sha256_file
    from modelguard.checkpoint import DTYPE_BITS, Checkpoint, Format, FormatProblem, Quantization, TensorInfo, numpy_dtype
    from modelguard.detector import (
        Capability,
        DeadlineExceeded,
        Detector,
        LookedAt,
        ScanContext,
        Skip,
        Target,
        configure,
        option,
        option_fields,
    )
    from modelguard.display import Chart, Measure
    from modelguard.errors import (
        ArtifactError,
        DigestMismatchError,
        FormatError,
        LimitError,
        ModelError,
        ModelguardError,
        OutputError,
        PluginError,
        PolicyError,
        SamplesError,
        SourceError,
        UsageError,
    )
    from modelguard.findings import Attachment, Confidence, Finding, Location, Rule, Severity, fingerprint
    from modelguard.hookspecs import hookimpl, hookspec
    from modelguard.images import exhibit, png
    from modelguard.model import (
        ASSUMED,
        BuildRequest,
        InputSpec,
        Layer,
        ModelFactory,
        ModelOptions,
        OutputSpec,
        RunnableModel,
        Samples,
        TextSpec,
    )
    from modelguard.policy import Policy, evaluate, load_policy
    from modelguard.report import (
        Decision,
        FileInfo,
        Outcome,
        PluginFailure,
        PluginInfo,
        PolicyInfo,
        Report,
        Reporter,
        SamplesInfo,
        Status,
        TargetInfo,
        Verdict,
        Violation,
        Waived,
    )

# Resolved on first use, so that importing the package (and `modelguard --help`) costs next to nothing.
_HOME = {
    "_diff.diff": ("ModelDiff", "TensorDiff", "diff_checkpoints"),
    "_diff.grid": ("narrow", "widen"),
    "_diff.match": ("Matching", "match_tensors"),
    "_diff.pairing": ("Pairing",),
    "_diff.replay": ("Replay", "replay_rank"),
    "_formats.named": ("Kind",),
    "_formats.onnx_checkpoint": ("onnx_skeleton",),
    "_formats.pickled": ("runs_as_pickle",),
    "_formats.sniff": ("kind_of",),
    "_inputs.agreement": ("agreement", "class_numbers", "require_understanding"),
    "api": ("load_report", "render", "scan"),
    "_inputs.canonical": ("canonical_inputs",),
    "_inputs.config": ("artifact_json",),
    "_inputs.hints": ("InputHints",),
    "_inputs.output": ("output_spec",),
    "_inputs.samples": ("load_samples",),
    "_inputs.spec": ("resolve_input", "usual_normalisations"),
    "artifact": ("Artifact", "ArtifactFile", "FileStamp", "LeftOut", "Source", "SourceContext", "UnfetchedFile", "sha256_file"),
    "checkpoint": ("DTYPE_BITS", "Checkpoint", "Format", "FormatProblem", "Quantization", "TensorInfo", "numpy_dtype"),
    "detector": (
        "Capability", "DeadlineExceeded", "Detector", "LookedAt", "ScanContext", "Skip", "Target", "configure", "option", "option_fields",
    ),
    "display": ("Chart", "Measure"),
    "errors": (
        "ArtifactError", "DigestMismatchError", "FormatError", "LimitError", "ModelError", "ModelguardError", "OutputError",
        "PluginError", "PolicyError", "SamplesError", "SourceError", "UsageError",
    ),
    "findings": ("Attachment", "Confidence", "Finding", "Location", "Rule", "Severity", "fingerprint"),
    "hookspecs": ("hookimpl", "hookspec"),
    "images": ("exhibit", "png"),
    "policy": ("Policy", "evaluate", "load_policy"),
    "report": (
        "Decision", "FileInfo", "Outcome", "PluginFailure", "PluginInfo", "PolicyInfo", "Report", "Reporter", "SamplesInfo", "Status",
        "TargetInfo", "Verdict", "Violation", "Waived",
    ),
    "model": (
        "ASSUMED", "BuildRequest", "InputSpec", "Layer", "ModelFactory", "ModelOptions", "OutputSpec", "RunnableModel", "Samples",
        "TextSpec",
    ),
}  # fmt: skip
_MODULE = {name: module for module, names in _HOME.items() for name in names}

__all__ = [
    "ASSUMED",
    "Artifact",
    "ArtifactError",
    "ArtifactFile",
    "Attachment",
    "BuildRequest",
    "Capability",
    "Chart",
    "Checkpoint",
    "Confidence",
    "DTYPE_BITS",
    "DeadlineExceeded",
    "Decision",
    "Detector",
    "DigestMismatchError",
    "FileInfo",
    "FileStamp",
    "Finding",
    "Format",
    "FormatError",
    "FormatProblem",
    "InputHints",
    "InputSpec",
    "Kind",
    "Layer",
    "LeftOut",
    "LimitError",
    "Location",
    "LookedAt",
    "Matching",
    "Measure",
    "ModelDiff",
    "ModelError",
    "ModelFactory",
    "ModelOptions",
    "ModelguardError",
    "Outcome",
    "OutputError",
    "OutputSpec",
    "Pairing",
    "PluginError",
    "PluginFailure",
    "PluginInfo",
    "Policy",
    "PolicyError",
    "PolicyInfo",
    "Quantization",
    "Replay",
    "Report",
    "Reporter",
    "Rule",
    "RunnableModel",
    "Samples",
    "SamplesError",
    "SamplesInfo",
    "ScanContext",
    "Severity",
    "Skip",
    "Source",
    "SourceContext",
    "SourceError",
    "Status",
    "Target",
    "TargetInfo",
    "TensorDiff",
    "TensorInfo",
    "TextSpec",
    "UnfetchedFile",
    "UsageError",
    "Verdict",
    "Violation",
    "Waived",
    "agreement",
    "artifact_json",
    "canonical_inputs",
    "class_numbers",
    "configure",
    "diff_checkpoints",
    "evaluate",
    "exhibit",
    "fingerprint",
    "hookimpl",
    "hookspec",
    "kind_of",
    "load_policy",
    "load_report",
    "load_samples",
    "match_tensors",
    "narrow",
    "numpy_dtype",
    "onnx_skeleton",
    "option",
    "option_fields",
    "output_spec",
    "png",
    "render",
    "replay_rank",
    "require_understanding",
    "resolve_input",
    "runs_as_pickle",
    "scan",
    "sha256_file",
    "usual_normalisations",
    "widen",
]


def __getattr__(name: str) -> Any:
    if name not in _MODULE:
        raise AttributeError(f"module 'modelguard' has no attribute {name!r}")
    return getattr(import_module(f"modelguard.{_MODULE[name]}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
