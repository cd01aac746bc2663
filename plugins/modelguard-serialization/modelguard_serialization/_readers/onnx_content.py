"""What an ONNX file asks of its runtime beyond ONNX's own operators, and what it carries beside the graph."""

from __future__ import annotations

import re

from modelguard import Confidence, Severity
from modelguard_serialization import _onnx_walk, limits
from modelguard_serialization._code import shell
from modelguard_serialization._onnx_rules import RULES
from modelguard_serialization._words import words
from modelguard_serialization.blob import Blob
from modelguard_serialization.reader import Look, NotReadError, Reader

_PYTHON = re.compile(r"Py(?:thon)?(?:Custom)?(?:Op|Func|Call)(?:Grad|Stateless|Base)?|PyFunc\w*|PyOp\w*|PythonOp\w*", re.I)
_KNOWN = words(
    "ai.onnx.ml ai.onnx.training ai.onnx.preview ai.onnx.preview.training com.microsoft com.microsoft.nchwc com.microsoft.experimental "
    "com.microsoft.dml com.ms.internal.nhwc ai.onnx.contrib com.microsoft.extensions org.pytorch.aten org.pytorch.prim org.pytorch._caffe2 "
    "trt.plugins trt com.nvidia com.intel.ai org.openvinotoolkit com.qualcomm com.amd.ai"
)
"""Domains of onnxruntime, its extensions, exporters of frameworks, and engines of makers of hardware."""
_EXPORTERS = ("pkg.", "onnxscript", "this.", "local.", "com.microsoft.", "ai.onnx.")
_CODE = re.compile(
    rb"\b(?:os\.system|os\.popen|subprocess\.(?:run|Popen|call|check_output)|__import__|builtins|pickle\.loads?|marshal\.loads|exec"
    rb"|eval)\s*\("
    rb"|<script\b|__reduce__|base64\.b64decode\s*\("
)
_ENCODED = re.compile(rb"[A-Za-z0-9+/=_-]{1000,}")


class OnnxReader(Reader):
    """The operators, functions and notes of an ONNX file. Its tensors, and the places they name, are the core's to check."""

    what = "an ONNX model"
    rules = RULES
    format = "onnx"

    def recognise(self, blob: Blob) -> bool:
        return blob.ending == ".onnx" or _onnx_walk.is_model(blob.data, lenient=blob.ending in (".onnxlib", ".pb"))

    def read(self, blob: Blob, look: Look) -> None:
        found = _onnx_walk.Notes()
        try:
            for _ in _onnx_walk.walk(blob.data, found):
                look.check()
        except _onnx_walk.BrokenError as error:
            raise NotReadError(f"is an ONNX model that breaks off: {error}") from error
        finally:
            _operators(blob, found, look)
            _functions(blob, found, look)
            _texts(blob, found, look)


def _operators(blob: Blob, found: _onnx_walk.Notes, look: Look) -> None:
    own = {(domain, name) for domain, name, _ in found.functions}
    domains: dict[str, dict[str, int]] = {}
    for (domain, op), count in found.operators.items():
        if _PYTHON.fullmatch(op) and (domain, op) not in own:
            look.find(
                "MG0360",
                blob,
                f"{count} {'node runs' if count == 1 else 'nodes run'} Python ({domain or 'ai.onnx'}:{op[:80]})",
                key=f"{domain}:{op}"[:200],
            )
        if domain not in ("", "ai.onnx") and (domain, op) not in own:
            domains.setdefault(domain, {})[op] = count
    for domain, ops in sorted(domains.items()):
        known = domain in _KNOWN or domain.startswith(_EXPORTERS)
        names = ", ".join(sorted(ops)[:10]) + (" ..." if len(ops) > 10 else "")
        look.find(
            "MG0361",
            blob,
            f"needs {len(ops)} operators of the domain {domain[:80]!r}: {names[:200]}",
            severity=Severity.INFO if known else Severity.MEDIUM,
            evidence={"domain": domain, "operators": dict(sorted(ops.items())[:100])},
            key=domain[:200],
        )


def _functions(blob: Blob, found: _onnx_walk.Notes, look: Look) -> None:
    for (domain, name, overload), count in found.functions.items():
        if domain in ("", "ai.onnx") or domain in ("ai.onnx.ml", "ai.onnx.training"):
            look.find(
                "MG0362",
                blob,
                f"defines {name[:80]!r} in the domain {domain or 'ai.onnx'}, which is ONNX's own",
                key=f"{domain}:{name}"[:200],
            )
        elif domain == "com.microsoft":
            what = f"defines {name[:80]!r} in the domain of onnxruntime"
            look.find("MG0362", blob, what, severity=Severity.MEDIUM, key=f"{domain}:{name}"[:200])
        if count > 1:
            look.find("MG0362", blob, f"defines {domain[:80]}:{name[:80]} {count} times", key=f"twice {domain}:{name}:{overload}"[:200])
    for domain, count in found.opsets.items():
        if count > 1:
            look.find(
                "MG0362",
                blob,
                f"imports the operators of {domain or 'ai.onnx'!r} {count} times",
                severity=Severity.MEDIUM,
                key=f"opset {domain}",
            )


def _texts(blob: Blob, found: _onnx_walk.Notes, look: Look) -> None:
    for what, value in found.texts:
        look.check()
        data = bytes(value[: limits.TEXT])
        if len(data) < len(value):
            look.miss(blob, f"{what[:100]} has {len(value)} bytes, more than the {limits.TEXT} that are read")
        trace = "stack_trace" in what or "fx_node" in what
        try:
            text = data.decode()
        except UnicodeDecodeError:
            text = None
        if len(value) > limits.NOTES:
            severity = Severity.MEDIUM if len(value) > 16 * limits.NOTES and not trace else Severity.LOW
            look.find("MG0363", blob, f"{what[:100]} has {len(value)} bytes", severity=severity, key=f"large {what}"[:200])
        if text is None or "\0" in text or data[:2] in (b"PK", b"\x80\x04", b"\x80\x03", b"\x80\x02"):
            look.find("MG0363", blob, f"{what[:100]} is no text", severity=Severity.MEDIUM, key=f"binary {what}"[:200])
            look.inside.append(blob.member(what[:100], data))
        elif not trace and (hit := _CODE.search(data)):
            shown = hit[0].decode("ascii", "replace")
            look.find("MG0363", blob, f"{what[:100]} holds code ({shown!r})", severity=Severity.MEDIUM, key=f"code {what}"[:200])
        elif _ENCODED.search(data):
            look.find("MG0363", blob, f"{what[:100]} holds encoded data", confidence=Confidence.MEDIUM, key=f"encoded {what}"[:200])
        for trick, severity in shell.tricks(text) if text and not trace else ():
            look.find("MG0363", blob, f"{what[:100]} holds a command that {trick}", severity=severity, key=f"{trick} {what}"[:200])
