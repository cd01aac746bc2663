"""From one line a model to the figures of the detection matrix."""

from __future__ import annotations

import fcntl
import json
import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "benchmarks" / "results" / "detection"
"""Folder of one JSONL file a part of the zoo: one line a model, sorted by id."""

PATCH_LIKE = ("badnets", "pixel", "checkerboard", "insert")
STATIC = (*PATCH_LIKE, "blended", "sig", "reflection", "clean-label", "all-to-all", "source-specific")
SEARCHES = "neural-cleanse ∪ abs"
ENSEMBLE = "backdoor-ensemble"
QUICK = "quick/"
"""Prefix of a detector's results with its `quick` option."""
BASELINE = "builtin:baseline"
BLOCKING = ("abs", ENSEMBLE, "neural-cleanse", "neural-cleanse-all-to-all", "neural-cleanse-warp")
"""Detectors of triggers whose findings are of severity high, which is what builtin:baseline blocks."""
WARNING = ("MG3022",)
"""Rules of these that only warn: ABS's filters, which turn pictures into a class that is told by its colour. Not counted."""

Row = dict[str, Any]
PARTS = ("reserved", "confirmation", "open")


def part_of(model: Row) -> str:
    """The part of the zoo a model belongs to."""
    if model.get("confirmation"):
        return "confirmation"
    return "reserved" if model["reserved"] else "open"


def read(folder: Path = RESULTS) -> list[Row]:
    """Every model's results in ``folder``, by id."""
    return sorted((row for part in PARTS for row in read_part(part, folder)), key=lambda row: str(row["model"]["id"]))


def read_part(part: str, folder: Path = RESULTS) -> list[Row]:
    """The results of one part of the zoo, by id."""
    path = folder / f"{part}.jsonl"
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()] if path.is_file() else []


def store(row: Row, folder: Path = RESULTS) -> None:
    """Write one model's results among those of its part. Safe beside other processes that do the same."""
    folder.mkdir(parents=True, exist_ok=True)
    part = part_of(row["model"])
    with (folder / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        rows = {item["model"]["id"]: item for item in read_part(part, folder)} | {row["model"]["id"]: row}
        text = "".join(json.dumps(rows[name], sort_keys=True, separators=(",", ":")) + "\n" for name in sorted(rows))
        fresh = folder / f"{part}.tmp"
        fresh.write_text(text, encoding="utf-8")
        fresh.replace(folder / f"{part}.jsonl")


def accused(result: Row) -> bool:
    """Whether the detector accuses the model: a finding of medium confidence or more."""
    return bool(accusations(result))


def accusations(result: Row) -> list[Row]:
    return [item for item in result["findings"] if item["confidence"] in ("medium", "high") and item["rule"] not in WARNING]


def wilson(hits: int, n: int, z: float = 1.96) -> tuple[float, float]:
    """The 95 % score interval of a proportion (Wilson 1927)."""
    if n == 0:
        return 0.0, 1.0
    p, w = hits / n, z * z / n
    centre, half = p + w / 2, z * math.sqrt(p * (1 - p) / n + w / (4 * n))
    return max(0.0, (centre - half) / (1 + w)), min(1.0, (centre + half) / (1 + w))


def auroc(positive: Sequence[float], negative: Sequence[float]) -> float | None:
    """P(a backdoored model scores above a clean one), ties half (Mann and Whitney 1947)."""
    if not positive or not negative:
        return None
    wins = sum((p > n) + 0.5 * (p == n) for p in positive for n in negative)
    return wins / (len(positive) * len(negative))


def looked(rows: Iterable[Row], names: Sequence[str]) -> list[tuple[Row, list[Row]]]:
    """(model, results) of the models that every detector of ``names`` looked at to the end."""
    found = []
    for row in rows:
        results = [row["results"].get(name) for name in names]
        if all(item is not None and item["status"] == "completed" for item in results):
            found.append((row["model"], results))
    return found


def share(hits: int, n: int) -> Row:
    low, high = wilson(hits, n)
    return {"n": n, "hits": hits, "rate": hits / n if n else None, "interval": [low, high]}


def top_score(results: Iterable[Row]) -> float:
    return max(float(item["score"]) for item in results)


def detected(rows: Iterable[Row], clean: Sequence[float], names: Sequence[str]) -> Row:
    """Detection of backdoored ``rows`` by the union of ``names``: TPR, AUROC by the largest score, and how often exactly the
    backdoor's target classes were accused where anything was."""
    seen = looked(rows, names)
    hits = [(model, results) for model, results in seen if any(accused(item) for item in results)]
    single = [
        {item["target_class"] for result in results for item in accusations(result)} == set(model["targets"])
        for model, results in hits
        if len(model["targets"]) == 1
    ]
    return {
        **share(len(hits), len(seen)),
        "auroc": auroc([top_score(results) for _, results in seen], clean),
        "right_class": share(sum(single), len(single)),
    }


def summarise(rows: Sequence[Row], names: Sequence[str]) -> Row:
    """All figures of one part of the zoo for one column (a detector, or a union of several)."""
    clean, repaired, bad = ([row for row in rows if row["model"]["status"] == status] for status in ("clean", "repaired", "backdoored"))
    scores = [top_score(results) for _, results in looked(clean, names)]
    attacks = sorted({row["model"]["attack"] for row in bad})

    def alarms(of: Iterable[Row]) -> Row:
        seen = looked(of, names)
        return share(sum(any(accused(item) for item in results) for _, results in seen), len(seen))

    def among(wanted: Sequence[str]) -> Row:
        return detected((row for row in bad if row["model"]["attack"] in wanted), scores, names)

    seconds = [sum(item["cpu_seconds"] for item in results) for _, results in looked(rows, names)]
    return {
        "clean": alarms(clean),
        "repaired": alarms(repaired),
        "attacks": {attack: among((attack,)) for attack in attacks},
        "groups": {
            "all patch-like": among(PATCH_LIKE),
            "all static": among(STATIC),
            "everything": among(attacks),
            "fine-tuned, still backdoored": detected((row for row in bad if row["model"]["finetuned"]), scores, names),
        },
        "median_cpu_seconds": median(seconds) if seconds else None,
        "not_looked_at": sum(any(name in row["results"] for name in names) for row in rows) - len(looked(rows, names)),
    }


def summarise_all(rows: Sequence[Row], records: Mapping[str, Row]) -> Row:
    """The whole matrix: models by part and status, why attacks failed, figures by part and column, misses and false alarms by name."""
    names = sorted({name for row in rows for name in row["results"]})
    columns = {name: [name] for name in names} | {SEARCHES: ["neural-cleanse", "abs"], BASELINE: list(BLOCKING)}
    members = {part: [row for row in rows if part_of(row["model"]) == part] for part in PARTS}
    failed = [record for record in records.values() if record["status"] == "failed"]
    return {
        "models": {part: Counter(row["model"]["status"] for row in of) for part, of in members.items()},
        "data": Counter(row["model"]["dataset"] for row in rows),
        "architectures": Counter(row["model"]["arch"] for row in rows),
        "failed": {"n": len(failed), "built": len(records), "attacks": Counter(record["spec"]["attack"] for record in failed)},
        "judged": {column: summarise(members["reserved"] + members["confirmation"], group) for column, group in columns.items()},
        "kinds": _by_kind(members["open"]),
        "figures": {part: {column: summarise(of, group) for column, group in columns.items()} for part, of in members.items()},
        "misses": sorted(_named(members["open"], ("backdoored",), False)),
        "false_alarms": sorted(_named(members["open"], ("clean", "repaired"), True)),
    }


def _by_kind(rows: Sequence[Row]) -> Row:
    """The ensemble on the static backdoors and the clean models of each data set and architecture."""
    found = {}
    for kind in sorted({(row["model"]["dataset"], row["model"]["arch"]) for row in rows}):
        figures = summarise([row for row in rows if (row["model"]["dataset"], row["model"]["arch"]) == kind], [ENSEMBLE])
        found[" ".join(kind)] = {"static": figures["groups"]["all static"], "clean": figures["clean"]}
    return found


def _named(rows: Iterable[Row], status: Sequence[str], blocked: bool) -> list[str]:
    seen = ((model, any(accused(item) for item in results)) for model, results in looked(rows, BLOCKING))
    return [model["id"] for model, found in seen if model["status"] in status and found is blocked]


def thresholds() -> None:
    """For each detector on the open part: the score at which 0, 2, 5 and 10 % of clean models alarm, and what it then detects."""
    rows = [row for row in read() if not row["model"]["reserved"]]
    for name in sorted({name for row in rows for name in row["results"]}):
        seen = looked(rows, [name])
        clean = sorted(result["score"] for model, (result,) in seen if model["status"] == "clean")
        bad = [result["score"] for model, (result,) in seen if model["status"] == "backdoored"]
        for rate in (0.0, 0.02, 0.05, 0.10):
            if clean and bad:
                limit = clean[max(0, len(clean) - 1 - int(rate * len(clean)))]
                print(f"{name:26s} FPR {rate:.2f}: score > {limit:.2f}  TPR {sum(value > limit for value in bad) / len(bad):.2f}")
