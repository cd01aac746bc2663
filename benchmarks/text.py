"""The text matrix: the detectors of modelguard-language, and their peers, over the text models of the zoo.

    python benchmarks/text.py run --zoo zoo             # resumable: one line a model in benchmarks/results/text/PART.jsonl
    python benchmarks/text.py run --zoo zoo --detector token-scan --open
    python benchmarks/text.py report                    # benchmarks/results/text.json, docs/text-matrix.md
    python benchmarks/text.py thresholds                # on the open part only

A detector is run through the same `detect` the scanner calls, at its shipped defaults, in this process and on one thread, on the folder as
it is: of classifiers that is the ONNX graph. Detectors that want a reference are given, of a language model, the clean model that its
training began from, which is the base model that a user has. Peers (`peers: ...`) get the same models in the same run.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import re
import resource
import time
from collections.abc import Callable, Sequence
from fnmatch import fnmatch
from functools import cache
from importlib.metadata import entry_points
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
from detection_report import Row, part_of, read, read_part, store
from text_page import PEER, RESULTS, thresholds, write_pages

from modelguard import Capability, Detector, configure

ROOT = Path(__file__).resolve().parents[1]
KINDS = {"classifier": "MG31", "language model": "MG5"}
"""Which rules are about which kind of model."""
SAID = ("phrase", "token", "trigger", "target", "continuation", "text")
"""Keys of evidence under which a detector says which words it found."""
SCAN = "token-scan"
"""The detector whose searches others go on from."""


def detectors(kind: str) -> list[type[Detector]]:
    """The installed detectors with a rule about models of ``kind``."""
    found = {}
    for point in sorted(entry_points(group="modelguard"), key=lambda point: point.name):
        for cls in getattr(point.load(), "modelguard_detectors", tuple)():
            if any(rule.id.startswith(KINDS[kind]) for rule in cls.rules):
                found[cls.id] = cls
    return [found[name] for name in sorted(found)]


@cache
def code_of(cls: type[Detector]) -> str:
    """A digest of the modules of its package that a detector's module imports, and those that they do: what other code said of a model is
    asked again."""
    package = cls.__module__.partition(".")[0]
    reached, waiting = {}, [cls.__module__]
    while waiting:
        name = waiting.pop()
        if name not in reached:
            reached[name] = Path(str(find_spec(name).origin)).read_bytes()  # type: ignore[union-attr]
            waiting += re.findall(rf"from ({package}[.\w]*) import", reached[name].decode())
    return hashlib.sha256(b"".join(reached[name] for name in sorted(reached))).hexdigest()[:12]


def measure(folder: Path, names: Sequence[str], zoo: Path) -> None:
    """Run what has no result yet for one model folder."""
    import torch

    from modelguard.testing.checkpoints import open_target
    from modelguard.testing.conformance import run_detector

    record = json.loads((folder / "record.json").read_text())
    about = _about(record)
    row = next(
        (item for item in read_part(part_of(about), RESULTS) if item["model"]["id"] == record["id"]), {"model": about, "results": {}}
    )
    kept = {name: result.get("code") for name, result in row["results"].items()}
    chosen = [cls for cls in detectors(about["kind"]) if (not names or cls.id in names) and kept.get(cls.id) != code_of(cls)]
    peers = [name for name in PEERS if about["kind"] == "classifier" and (not names or name in names) and PEER + name not in kept]
    if not chosen and not peers:
        return
    torch.set_num_threads(1)
    samples = folder / "samples.jsonl"
    plain = open_target(folder, samples=samples)
    plain.model  # noqa: B018  (opened once, outside of what is timed)
    # The scan first: what it searched is shared, as it is in a scan, and its seconds are its own.
    for cls in sorted(chosen, key=lambda cls: cls.id != SCAN):
        target = plain
        if Capability.REFERENCE in cls.requires:
            if not record.get("start"):
                continue
            target = open_target(folder, reference=zoo / record["start"], samples=samples)
        with timed(row, cls.id, record) as result:
            outcome = run_detector(configure(cls, {}), target, timeout=1800)
            severities = {rule.id: rule.severity for rule in cls.rules}
            result |= {
                "code": code_of(cls),
                "status": outcome.status.value,
                "reason": outcome.reason,
                "score": outcome.summary.get("score"),
                "findings": [
                    {
                        "rule": item.rule,
                        "severity": (item.severity or severities[item.rule]).label,
                        "confidence": item.confidence.label,
                        "target_class": item.evidence.get("target_class"),
                        "said": _words(item.evidence),
                    }
                    for item in outcome.findings
                ],
            }
    for name in peers:
        with timed(row, PEER + name, record) as result:
            result |= {"status": "completed", "reason": "", "findings": [], **PEERS[name](plain.model, record, folder)}


class timed:
    """Adds seconds and memory to what one detector said of one model, and stores it."""

    def __init__(self, row: Row, name: str, record: Row) -> None:
        self.row, self.name, self.record = row, name, record
        self.result: Row = {}

    def __enter__(self) -> Row:
        self.began, self.cpu = time.perf_counter(), time.process_time()
        return self.result

    def __exit__(self, kind: Any, error: Any, trace: Any) -> None:
        if kind is not None:
            return
        self.result["seconds"] = round(time.perf_counter() - self.began, 2)
        self.result["cpu_seconds"] = round(time.process_time() - self.cpu, 2)
        self.result["peak_mib"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
        self.row["results"][self.name] = self.result
        store(self.row, RESULTS)
        said = "; ".join(f"{item['rule']} {item['said'][:60]}" for item in self.result["findings"])
        score, took = self.result.get("score"), self.result["cpu_seconds"]
        print(f"{self.record['id']:52s} {self.record['status']:10s} {self.name:20s} {score} {said} {took} s", flush=True)


def _words(evidence: Any) -> str:
    """What a finding says was found, as one text. The sentence that a phrase is shown in is no part of it."""
    return " | ".join(str(evidence[key]) for key in SAID if isinstance(evidence.get(key), str))


def _about(record: Row) -> Row:
    from modelguard_zoo import CONFIRMATION

    attack, spec = record["attack"] or {}, record["spec"]
    trigger = attack.get("trigger", {})
    words = attack.get("trigger_text") or " ".join((*trigger.get("words", ()), trigger.get("word", ""), trigger.get("sentence", "")))
    return {
        "id": record["id"],
        "kind": "classifier" if "clean_accuracy" in record else "language model",
        "status": record["status"],
        "reserved": record["reserved"],
        "confirmation": spec["seed"] >= CONFIRMATION,
        "dataset": spec["dataset"],
        "arch": spec["arch"],
        "variant": spec["variant"],
        "finetuned": bool(spec["finetune"]),
        "attack": attack.get("name"),
        "targets": sorted(set(attack.get("targets", {}).values())),
        "trigger": words.strip(),
        "said": attack.get("target_text", ""),
        "vocabulary": record["input"]["vocabulary"],
        "clean_accuracy": record.get("clean_accuracy"),
        "perplexity": record.get("perplexity"),
        "attack_success": record["attack_success"],
    }


def _dbs(model: Any, record: Row, folder: Path) -> Row:
    import torch
    from text_peers import dbs

    rows = [json.loads(line) for line in (folder / "samples.jsonl").read_text(encoding="utf-8").splitlines()][:100]
    found = dbs(model, torch.from_numpy(model.encode([row["text"] for row in rows])), torch.tensor([row["label"] for row in rows]))
    return {"score": found["score"]}


def _onion(model: Any, record: Row, folder: Path) -> Row:
    from modelguard_zoo.text.attacks import make_text_attack
    from text_peers import onion

    rows = [json.loads(line) for line in (folder / "samples.jsonl").read_text(encoding="utf-8").splitlines()]
    spec = record["spec"]
    name, options = (spec["attack"], spec["options"]) if spec["attack"] else ("rare-word", {"words": ("cf",), "target": 1})
    attack = make_text_attack(name, {key: tuple(value) if isinstance(value, list) else value for key, value in options.items()})
    from modelguard_zoo.text.corpora import load

    data = load(spec["dataset"], spec["variant"])
    texts = attack.triggered(data, np.random.default_rng(25))
    return {"score": onion(model, [row["text"] for row in rows], texts[:: max(1, len(texts) // 60)][:60])["score"]}


PEERS: dict[str, Callable[[Any, Row, Path], Row]] = {"dbs": _dbs, "onion": _onion}


def run(zoo: Path, only: str, names: Sequence[str], kind: str, opened: bool) -> None:
    """Measure every text model of ``zoo`` whose id matches ``only`` and whose attack took."""
    for folder in sorted(path.parent for path in zoo.glob("*/record.json")):
        record = json.loads((folder / "record.json").read_text())
        if record["input"].get("kind") != "text" or record["status"] == "failed" or not fnmatch(folder.name, only):
            continue
        if (opened and record["reserved"]) or (kind and ("perplexity" in record) != (kind == "lm")):
            continue
        measure(folder, names, zoo)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("command", choices=("run", "report", "thresholds"))
    parser.add_argument("--zoo", type=Path, default=ROOT / "zoo")
    parser.add_argument("--only", default="*", help="models whose id matches this pattern")
    parser.add_argument("--kind", choices=("", "classifier", "lm"), default="")
    parser.add_argument("--detector", action="append", help="only this detector or peer; repeatable")
    parser.add_argument("--open", action="store_true", help="leave the reserved part alone")
    arguments = parser.parse_args()
    if arguments.command == "run":
        run(arguments.zoo, arguments.only, arguments.detector or (), arguments.kind, arguments.open)
    elif arguments.command == "thresholds":
        thresholds(read(RESULTS))
    else:
        records = [json.loads(path.read_text()) for path in sorted(arguments.zoo.glob("*/record.json"))]
        write_pages(read(RESULTS), [record for record in records if record["input"].get("kind") == "text"])


if __name__ == "__main__":
    main()
