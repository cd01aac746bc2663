"""CycloneDX 1.6: a bill of materials for one model, by cyclonedx-python-lib (the extra ``bom``).

The library has no model cards yet; what the card claims of licence and base models is in the component itself.
"""

from __future__ import annotations

import hashlib
import json
import re
import uuid
from importlib import import_module
from typing import Any

from modelguard._reporters.escape import shorten, visible
from modelguard._reporters.json import dump
from modelguard.report import Decision, Report, Reporter, TargetInfo

_NAME = re.compile(r"[\w.-]+(/[\w.-]+)?", re.ASCII)
_NAMESPACE = uuid.uuid5(uuid.NAMESPACE_URL, "https://pypi.org/project/modelguard-core/")


class CycloneDxReporter(Reporter):
    """The model as a machine-learning-model with its files, digests, licence, base models, and the verdict as properties."""

    format = "cyclonedx"

    def render(self, report: Report, decision: Decision) -> str:
        bom: Any = import_module("cyclonedx.model.bom")
        output: Any = import_module("cyclonedx.output.json")
        model = _model(report, decision)
        files = _files(report.target)
        serial = uuid.uuid5(_NAMESPACE, visible(f"{report.target.uri} {report.target.revision} {_digest(report.target)}"))
        made = bom.Bom(components=files, serial_number=serial)
        made.metadata.component = model
        made.register_dependency(model, files)
        made.metadata.tools.components.add(
            _component("APPLICATION", name="modelguard", version=shorten(visible(report.tool_version), 1024))
        )
        document = json.loads(output.JsonV1Dot6(made).output_as_string())
        # The same report gives the same text, whenever it is rendered.
        document["metadata"].pop("timestamp", None)
        return dump(document)


def _component(kind: str, **values: Any) -> Any:
    component: Any = import_module("cyclonedx.model.component")
    return component.Component(type=component.ComponentType[kind], **values)


def _model(report: Report, decision: Decision) -> Any:
    component: Any = import_module("cyclonedx.model.component")
    licences: Any = import_module("cyclonedx.model.license")
    model: Any = import_module("cyclonedx.model")
    target = report.target
    said = {
        "modelguard:verdict": decision.verdict.value,
        "modelguard:policy": visible(report.policy.name),
        "modelguard:policy:sha256": report.policy.sha256,
        "modelguard:format": ", ".join(map(visible, target.format)),
        "modelguard:uri": visible(target.uri),
    }
    bases = [_component("MACHINE_LEARNING_MODEL", name=visible(item), purl=_purl(item, None)) for item in target.base_models]
    digest = _digest(target)
    return _component(
        "MACHINE_LEARNING_MODEL",
        name=visible(target.identity.partition(":")[2] or target.uri),
        version=shorten(visible(target.revision), 1024) if target.revision else None,
        bom_ref="model",
        purl=_purl(target.identity.removeprefix("hf:"), target.revision) if target.identity.startswith("hf:") else None,
        hashes=[model.HashType(alg=model.HashAlgorithm.SHA_256, content=digest)] if digest else None,
        licenses=[licences.DisjunctiveLicense(name=visible(target.licence))] if target.licence else None,
        pedigree=component.Pedigree(ancestors=bases) if bases else None,
        properties=[model.Property(name=name, value=value) for name, value in said.items()],
    )


def _files(target: TargetInfo) -> list[Any]:
    model: Any = import_module("cyclonedx.model")
    return [
        _component(
            "FILE",
            name=visible(file.path),
            bom_ref=f"file:{number}",
            hashes=[model.HashType(alg=model.HashAlgorithm.SHA_256, content=file.sha256)] if file.sha256 else None,
            properties=[model.Property(name="modelguard:size", value=str(file.size))],
        )
        for number, file in enumerate(target.files)
    ]


def _purl(name: str, revision: str | None) -> Any:
    packageurl: Any = import_module("packageurl")
    if not _NAME.fullmatch(name):
        return None
    namespace, _, last = name.rpartition("/")
    return packageurl.PackageURL("huggingface", namespace or None, last, revision)


def _digest(target: TargetInfo) -> str:
    """The model as a whole, as an attestation names it; empty where a file has no digest."""
    digests = [file.sha256 for file in target.files if file.sha256 is not None]
    if not digests or len(digests) != len(target.files):
        return ""
    return hashlib.sha256(b"".join(map(bytes.fromhex, digests))).hexdigest()
