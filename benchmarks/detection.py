"""The detection matrix: every backdoor detector over every model of the zoo.

    python benchmarks/detection.py                      # all of it: build the zoo, run what has not run, also quickly, write the page
    python benchmarks/detection.py run --zoo zoo        # resumable: one line a model in benchmarks/results/detection/PART.jsonl
    python benchmarks/detection.py run --zoo zoo --quick
    python benchmarks/detection.py report --zoo zoo     # benchmarks/results/{zoo,detection}.json, docs/detection-{matrix,tables}.md
    python benchmarks/detection.py thresholds

A detector is run through the same `detect` the scanner calls, on the model's ONNX graph, in this process and on one thread. A model
is detected when the detector, at its shipped defaults, reports a finding of medium confidence or more; thresholds are chosen with
`thresholds`, which reads the part of the zoo that is not reserved and nothing else.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import subprocess
import sys
import time
from collections.abc import Sequence
from fnmatch import fnmatch
from importlib.metadata import entry_points
from pathlib import Path

from detection_page import DOCS, pages
from detection_report import ENSEMBLE, QUICK, RESULTS, Row, part_of, read, read_part, store, summarise_all, thresholds
from modelguard_zoo import CONFIRMATION

from modelguard import Detector, SamplesError, configure

ROOT = Path(__file__).resolve().parents[1]
SUMMARY = RESULTS.with_suffix(".json")
RECORDS = RESULTS.with_name("zoo.json")


def detectors() -> list[type[Detector]]:
    """The installed detectors that accuse classes of being a target: those with a rule MG3xxx."""
    found = {}
    for point in sorted(entry_points(group="modelguard"), key=lambda point: point.name):
        hooks = point.load()
        for cls in getattr(hooks, "modelguard_detectors", tuple)():
            if any(rule.id.startswith("MG3") for rule in cls.rules):
                found[cls.id] = cls
    return [found[name] for name in sorted(found)]


def measure(folder: Path, chosen: Sequence[type[Detector]], quick: bool, results: Path = RESULTS) -> None:
    """Run the detectors that have no result yet in the folder ``results`` for one model folder."""
    import torch

    from modelguard.testing.checkpoints import open_target
    from modelguard.testing.conformance import run_detector

    record = json.loads((folder / "record.json").read_text())
    about = _about(record)
    row = next(
        (item for item in read_part(part_of(about), results) if item["model"]["id"] == record["id"]), {"model": about, "results": {}}
    )
    prefix = QUICK if quick else ""
    missing = [cls for cls in chosen if prefix + cls.id not in row["results"] and not (quick and cls.when_quick == "skipped")]
    if not missing:
        return
    torch.set_num_threads(1)
    target = open_target(folder, samples=folder / "samples.npz")
    # The ensemble last: what its members have done already is shared, as it is in a scan, and each member's seconds are its own.
    for cls in sorted(missing, key=lambda cls: cls.id == ENSEMBLE):
        shortened = {"quick": True} if quick and cls.when_quick == "shorter" else {}
        began, cpu = time.perf_counter(), time.process_time()
        outcome = run_detector(configure(cls, shortened), target, timeout=1800)
        row["results"][prefix + cls.id] = {
            "status": outcome.status.value,
            "reason": outcome.reason,
            "score": outcome.summary.get("score"),
            "findings": [
                {"rule": item.rule, "confidence": item.confidence.label, "target_class": item.evidence.get("target_class")}
                for item in outcome.findings
            ],
            "seconds": round(time.perf_counter() - began, 2),
            "cpu_seconds": round(time.process_time() - cpu, 2),
        }
        store(row, results)
        found = str([item.evidence.get("target_class") for item in outcome.findings])
        took = time.process_time() - cpu
        print(f"{record['id']:44s} {record['status']:10s} {prefix + cls.id:32s} {found:12s} {took:.1f} s", flush=True)


def _about(record: Row) -> Row:
    attack = record["attack"] or {}
    targets = sorted(set(attack.get("targets", {}).values()))
    return {
        "id": record["id"],
        "status": record["status"],
        "reserved": record["reserved"],
        "confirmation": record["spec"]["seed"] >= CONFIRMATION,
        "dataset": record["spec"]["dataset"],
        "arch": record["spec"]["arch"],
        "finetuned": bool(record["spec"]["finetune"]),
        "attack": attack.get("name"),
        "targets": targets,
        "clean_accuracy": record["clean_accuracy"],
        "attack_success": record["attack_success"],
    }


def run(zoo: Path, only: str, names: Sequence[str], quick: bool) -> None:
    """Measure every model of ``zoo`` whose id matches ``only`` and whose attack took."""
    chosen = [cls for cls in detectors() if not names or cls.id in names]
    for folder in sorted(path.parent for path in zoo.glob("*/record.json")):
        if not fnmatch(folder.name, only) or json.loads((folder / "record.json").read_text())["status"] == "failed":
            continue
        try:
            measure(folder, chosen, quick)
        except SamplesError as error:
            print(f"{folder.name}: {error}", flush=True)


def records(zoo: Path) -> dict[str, Row]:
    """The records of ``zoo`` by id. Lists of sample indices, which a seed gives again, are kept as their number and digest."""
    found = {}
    for path in sorted(zoo.glob("*/record.json")):
        record = json.loads(path.read_text())
        for name in ("poisoned_indices", "cover_indices"):
            if record["attack"]:
                indices = record["attack"].pop(name)
                digest = hashlib.sha256(json.dumps(indices).encode()).hexdigest()
                record["attack"][name] = {"count": len(indices), "sha256": digest}
        found[record["id"]] = record
    return found


def report(zoo: Path) -> None:
    """Aggregate what there is; write the JSON and the page. Without a zoo folder the records committed last are used."""
    if zoo.is_dir():
        RECORDS.write_text(json.dumps(records(zoo), sort_keys=True, separators=(",", ":")).replace('},"', '},\n"') + "\n")
    summary = summarise_all(read(), json.loads(RECORDS.read_text()))
    SUMMARY.write_text(json.dumps(summary, indent=1, sort_keys=True) + "\n")
    for name, text in pages(summary).items():
        (DOCS / name).write_text(text)
        print(f"wrote docs/{name}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("command", nargs="?", choices=("all", "run", "report", "thresholds"), default="all")
    parser.add_argument("--zoo", type=Path, default=ROOT / "zoo")
    parser.add_argument("--only", default="*", help="models whose id matches this pattern")
    parser.add_argument("--detector", action="append", help="only this detector; repeatable")
    parser.add_argument("--quick", action="store_true", help="run the detectors with their reduced budgets")
    parser.add_argument("--workers", type=int, default=2, help="processes that train side by side")
    arguments = parser.parse_args()
    if arguments.command == "all":
        script = Path(sys.executable).with_name("modelguard")
        build = [
            "zoo",
            "build",
            "--part",
            "images",
            "--out",
            str(arguments.zoo),
            "--only",
            arguments.only,
            "--workers",
            str(arguments.workers),
        ]
        subprocess.run([str(script), *build], check=True)
    if arguments.command in ("all", "run"):
        for quick in (False, True) if arguments.command == "all" else (arguments.quick,):
            run(arguments.zoo, arguments.only, arguments.detector or (), quick)
    if arguments.command in ("all", "report"):
        report(arguments.zoo)
    if arguments.command == "thresholds":
        thresholds()


if __name__ == "__main__":
    main()
