"""Does `generator-inversion` find triggers that a network makes for each image? LIRA, Wasserstein, Marksman, input-aware, and clean models.

    python benchmarks/generator.py run --zoo zoo              # builds the models and measures them; resumable, a line a model
    python benchmarks/generator.py run --zoo zoo --only 'digits-*' --minutes 30
    python benchmarks/generator.py report                     # benchmarks/results/generator.json, and the table

Every backdoored model begins as the clean twin of its seed. The report works out, from the open part alone, the level that accuses (the
geometric middle between the largest ease of a clean model and the smallest of a backdoored one, of the data sets in `LEVELLED`), and the
odds that accuse beside a clean reference; both are judged on the reserved part. There a model's reference is the clean model of the next
seed of its architecture. As in a scan the second network is trained only where the first leaves a class open, so the ease
of a model that is cleared is that of one network, and no less than that of two. BTI-DBF's statistics are measured on the open part alone.
Hard negatives are clean models that were trained further on clean data for as long as a backdoor takes. Input-aware triggers do not
take on 8 x 8 pixels (success 81 and 86 %, and 68 and 65 % keep their class under another image's trigger, after 400 and 900 batches).
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Iterator, Sequence
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import numpy as np
from modelguard_triggers.outliers import largest, log_odds
from modelguard_zoo import Spec, build_model
from modelguard_zoo._spec import pairs
from rome import wilson

Row = dict[str, Any]

RESULTS = Path(__file__).resolve().parent / "results" / "generator"
PARTS = ("open", "reserved")
ATTACKS = ("lira", "wasserstein", "marksman", "input-aware")
PLAN = (
    ("digits", "cnn", (range(30, 33), 1), (range(300, 320), 4)),
    ("mnist", "cnn", (range(30, 32), 1), (range(130, 138), 2)),
    ("digits", "resnet8", (range(30, 33), 1), (range(130, 142), 2)),
    ("digits", "vgg", (range(30, 33), 1), (range(130, 142), 2)),
    ("digits", "mlp", (range(30, 33), 1), (range(130, 138), 1)),
    ("digits", "vit", (range(30, 33), 0), (range(130, 134), 0)),
    ("mnist", "mlp", (range(2), 0), (range(20, 40), 0)),
    ("mnist", "resnet8", (range(30, 31), 0), (range(130, 132), 0)),
)
"""Data set, architecture, and of the open and the reserved part: the seeds of clean models, and how many models of each attack."""
MORE = 3
"""So many times as many input-aware models of the reserved part, as they are of one data set alone."""
TUNED = 5
"""Every so manieth clean model has a copy that is trained further on clean data."""
FURTHER = {"digits": 20, "mnist": 3}
"""Epochs of that."""
OPTIONS: dict[str, dict[str, dict[str, Any]]] = {
    "digits": {
        "lira": {"eps": 0.2, "steps": 200, "settle": 400},
        "wasserstein": {"eps": 0.2, "steps": 200, "settle": 400},
        "marksman": {"eps": 0.18, "alpha": 0.75, "steps": 400, "settle": 1000},
    },
    "mnist": {
        "lira": {"alpha": 0.7, "settle": 250},
        "wasserstein": {"alpha": 0.7, "settle": 250, "beta": 0.05},
        "marksman": {"alpha": 0.75, "settle": 300},
        "input-aware": {"steps": 1500},
    },
}
SUSPECT_FROM = 0.34
"""The ease that decides, with `SUSPECT`, for which models the second network is trained too; no level may be below what this clears."""
LEVELLED = ("digits",)
"""Data sets with models enough for a level of their own; for models of the others the detector asks for a reference."""
REACHED = 0.8
"""Share of unseen images at which a step of the ladder counts as reached, for the statistic `smallest step`."""


def specs() -> Iterator[Spec]:
    """Clean and backdoored models of all kinds in turn, so that a run that is cut short has some of each."""
    for place in range(max(len(seeds) for _, _, *parts in PLAN for seeds, _ in parts)):
        for dataset, arch, *parts in PLAN:
            for part, (seeds, attacked) in zip(PARTS, parts, strict=True):
                if place < len(seeds):
                    yield Spec(dataset, arch, seeds[place])
                if place < len(seeds) and place % TUNED == TUNED - 1:
                    yield Spec(dataset, arch, seeds[place], finetune=FURTHER[dataset])
                for attack, options in OPTIONS[dataset].items():
                    if place < attacked * (MORE if attack == "input-aware" and part == "reserved" else 1):
                        yield Spec(dataset, arch, seeds[place], attack, pairs({**options, "target": (3 * seeds[place] + 1) % 10}))


def measure(spec: Spec, zoo: Path) -> Row:
    """One model: what the detector says of it, and the other statistics."""
    from generator_others import decoupled
    from modelguard_neural_cleanse._evidence import prepare
    from modelguard_neural_cleanse.detectors import GeneratorInversion

    from modelguard import ScanContext
    from modelguard.testing.checkpoints import open_target
    from modelguard.testing.conformance import run_detector

    built = build_model(spec, zoo)
    record = built.record
    row: Row = {
        "model": spec.id,
        "part": part(spec.dataset, spec.arch, spec.seed),
        "dataset": spec.dataset,
        "arch": spec.arch,
        "seed": spec.seed,
        "attack": spec.attack,
        "finetune": spec.finetune,
        "target": dict(spec.options).get("target"),
        "status": record["status"],
        "reason": record["reason"],
        **{
            name: record.get(name) for name in ("clean_accuracy", "attack_success", "cross_accuracy", "adversarial_success", "twin_success")
        },
    }
    if built.status == "failed":
        return row
    target = open_target(built.path, samples=built.path / "samples.npz")
    began = time.process_time()
    outcome = run_detector(GeneratorInversion(ease=SUSPECT_FROM), target)
    summary = outcome.summary
    row |= {
        "cpu_seconds": round(time.process_time() - began, 1),
        "outcome": outcome.status.value,
        "stage": summary["stage"],
        "rules": [finding.rule for finding in outcome.findings],
        "ease": [item["ease"] for item in summary["classes"]],
        "success": [item["success"] for item in summary["classes"]],
        "trodo": summary["trodo"],
    }
    if row["part"] == "open":
        case = prepare(target, ScanContext(detector=GeneratorInversion.id), 400)
        row["decoupled"] = decoupled(case, "decoupled")
    return row


def run(arguments: argparse.Namespace) -> None:
    """Measure what has no line yet."""
    import torch

    torch.set_num_threads(1)
    RESULTS.mkdir(parents=True, exist_ok=True)
    known = {row["model"] for row in rows()}
    until = time.monotonic() + 60 * arguments.minutes
    for spec in specs():
        if spec.id in known or not any(fnmatch(spec.id, wanted) for wanted in arguments.only.split(",")) or time.monotonic() > until:
            continue
        row = measure(spec, arguments.zoo)
        with (RESULTS / f"{row['part']}.jsonl").open("a") as file:
            file.write(json.dumps(row) + "\n")
        success = "" if row["attack_success"] is None else f"success {row['attack_success']:.2f}"
        found = f"ease {max(row['ease']):.3f}  {row['cpu_seconds']} s" if "ease" in row else "not scanned"
        print(f"{spec.id}  {row['status']} {row['reason']} {success}  {found}", flush=True)


def part(dataset: str, arch: str, seed: int) -> str:
    """The part that a model belongs to. Raises ``StopIteration`` for one that is not in the plan."""
    parts = next(parts for planned, network, *parts in PLAN if (planned, network) == (dataset, arch))
    return next(name for name, (seeds, _) in zip(PARTS, parts, strict=True) if seed in seeds)


def rows() -> list[Row]:
    """Every line measured so far."""
    return [json.loads(line) for path in sorted(RESULTS.glob("*.jsonl")) for line in path.read_text().splitlines()]


def statistics(row: Row) -> dict[str, float]:
    """Every statistic of one model; larger is more suspicious."""
    success = np.array(row["success"])  # (K, R)
    reached = (success.max(0) >= REACHED).sum()
    found = {
        "ease": max(row["ease"]),
        "mean ease": float(np.mean(row["ease"])),
        "smallest step": float(reached + success.max(0)[min(reached, success.shape[1] - 1)]),
        "outlier of ease": largest(log_odds(np.array(row["ease"]))).t,
        "TRODO": row["trodo"],
    }
    if "decoupled" in row:
        found["concentration"] = float(np.mean([step["concentration"] for step in row["decoupled"]]))
        found["mutual information"] = float(np.mean([step["information"] for step in row["decoupled"]]))
    return found


def auroc(bad: Sequence[float], clean: Sequence[float]) -> float:
    """The share of pairs in which the backdoored model has the larger statistic; ties count half."""
    wins = np.subtract.outer(np.array(bad), np.array(clean))
    return round(float((wins > 0).mean() + (wins == 0).mean() / 2), 3)


def accused(row: Row, ease: float) -> bool:
    """Whether the detector accuses the model at this threshold."""
    return bool(max(row["ease"]) >= ease)


def middle(low: float, high: float) -> float:
    """The geometric middle, in hundredths."""
    return round(float(np.sqrt(low * high)), 2)


def odds(ease: float) -> float:
    """Of an ease in 0..1."""
    return ease / (1 - ease)


def chosen(models: Sequence[Row]) -> tuple[float, float]:
    """The level, and the odds beside a reference, from the open part."""
    own = [row for row in models if row["part"] == "open" and row["dataset"] in LEVELLED and "ease" in row]
    level = middle(
        max(max(row["ease"]) for row in own if row["status"] == "clean"),
        min(max(row["ease"]) for row in own if row["status"] == "backdoored"),
    )
    ratios = {row["model"]: ratio for row in own if (ratio := beside_reference(row, models)) is not None}
    status = {row["model"]: row["status"] for row in own}
    return level, middle(
        max(ratio for model, ratio in ratios.items() if status[model] == "clean"),
        min(ratio for model, ratio in ratios.items() if status[model] == "backdoored"),
    )


def beside_reference(row: Row, models: Sequence[Row]) -> float | None:
    """The odds of the model's ease, in those of its reference's; None where there is no reference."""
    alike = [
        other
        for other in models
        if other["status"] == "clean"
        and not other["finetune"]
        and all(other[key] == row[key] for key in ("part", "dataset", "arch"))
        and other["seed"] != row["seed"]
    ]
    if not alike or "ease" not in row:
        return None
    reference = min(alike, key=lambda other: (other["seed"] < row["seed"], other["seed"]))
    return odds(max(row["ease"])) / odds(max(reference["ease"]))


def table_of(own: Sequence[Row], ease: float) -> Row:
    """What the level says of the models of one part."""
    clean = [row for row in own if row["status"] == "clean"]
    alarms = sum(accused(row, ease) for row in clean)
    table: Row = {
        "clean": len(clean),
        "trained further": sum(bool(row["finetune"]) for row in clean),
        "alarms": alarms,
        "alarm interval": [round(value, 3) for value in wilson(alarms, len(clean))],
        "largest clean ease": max((max(row["ease"]) for row in clean), default=None),
        "attacks": {},
        "auroc": {},
        "architectures": {
            arch: by_architecture([row for row in own if row["arch"] == arch], ease) for arch in sorted({row["arch"] for row in own})
        },
    }
    for attack in (*ATTACKS, "all"):
        built = [row for row in own if row["attack"] is not None and attack in (row["attack"], "all")]
        took = [row for row in built if row["status"] == "backdoored"]
        found = [row for row in took if accused(row, ease)]
        named = [row for row in found if row["attack"] == "marksman" or int(np.argmax(row["ease"])) == row["target"]]
        table["attacks"][attack] = {
            "built": len(built),
            "took": len(took),
            "found": len(found),
            "named": len(named),
            "interval": [round(value, 3) for value in wilson(len(found), len(took))],
            "success": round(float(np.mean([row["attack_success"] for row in took])), 3) if took else None,
            "ease": [round(float(value), 3) for value in np.quantile([max(row["ease"]) for row in took], (0, 0.5, 1))] if took else None,
        }
        if took and clean:
            good, bad = [statistics(row) for row in clean], [statistics(row) for row in took]
            table["auroc"][attack] = {key: auroc([item[key] for item in bad], [item[key] for item in good]) for key in bad[0]}
    return table


def by_architecture(own: Sequence[Row], ease: float) -> Row:
    """Of models of one architecture: of each attack how many took and were found, and of clean ones how many were accused."""
    counts: Row = {}
    for kind in (*ATTACKS, None):
        took = [row for row in own if row["attack"] == kind and row["status"] in ("backdoored", "clean")]
        counts[kind or "clean"] = {"models": len(took), "accused": sum(accused(row, ease) for row in took)}
    return counts


def with_reference(own: Sequence[Row], models: Sequence[Row], limit: float) -> Row:
    """What the comparison with a reference says of the same models."""
    result: Row = {}
    for status in ("clean", "backdoored"):
        ratios = [ratio for row in own if row["status"] == status and (ratio := beside_reference(row, models)) is not None]
        result[status] = {
            "models": len(ratios),
            "accused": sum(ratio >= limit for ratio in ratios),
            "ratio": [round(float(value), 2) for value in np.quantile(ratios, (0, 0.5, 1))] if ratios else None,
        }
    return result


def report() -> None:
    """The tables."""
    models = rows()
    ease, limit = chosen(models)
    result: dict[str, Any] = {"ease": ease, "reference odds": limit, "parts": {}, "with a reference": {}}
    for name in PARTS:
        own = [row for row in models if row["part"] == name and row["dataset"] in LEVELLED]
        result["parts"][name] = table_of(own, ease)
        result["with a reference"][name] = with_reference(own, models, limit)
    others = [row for row in models if row["dataset"] not in LEVELLED]
    result["without a level"] = {
        row["model"]: {"status": row["status"], "ease": round(max(row["ease"]), 3) if "ease" in row else None} for row in others
    }
    result["cpu seconds"] = {
        kind: round(
            float(np.median([row["cpu_seconds"] for row in models if "ease" in row and f"{row['dataset']}-{row['arch']}" == kind])), 1
        )
        for kind in sorted({f"{row['dataset']}-{row['arch']}" for row in models if "ease" in row})
    }
    RESULTS.with_suffix(".json").write_text(json.dumps(result, indent=1) + "\n")
    print("\n".join(table_lines(result)))


def table_lines(result: Row) -> list[str]:
    """The tables of the README."""
    lines = ["| reserved part | took | found | class named | ease: least, median, most | AUROC |", "|---|---|---|---|---|---|"]
    reserved = result["parts"]["reserved"]
    for attack, item in reserved["attacks"].items():
        if item["took"]:
            shown = ", ".join(f"{value:.2f}" for value in item["ease"])
            curve = reserved["auroc"][attack]["ease"]
            lines.append(f"| {attack} | {item['took']} of {item['built']} | {item['found']} | {item['named']} | {shown} | {curve} |")
    low, high = reserved["alarm interval"]
    alarms = f"{reserved['alarms']} ({low:.0%} to {high:.0%})"
    lines += [f"| clean | {reserved['clean']} | {alarms} | | at most {reserved['largest clean ease']:.2f} | |", ""]
    kinds = [kind for kind in (*ATTACKS, "clean") if any(counts[kind]["models"] for counts in reserved["architectures"].values())]
    lines += [f"| accused, of | {' | '.join(kinds)} |", "|---" * (len(kinds) + 1) + "|"]
    for arch, counts in reserved["architectures"].items():
        lines.append(f"| {arch} | " + " | ".join(f"{counts[kind]['accused']} of {counts[kind]['models']}" for kind in kinds) + " |")
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("command", choices=("run", "report"))
    parser.add_argument("--zoo", type=Path, default=Path(__file__).resolve().parents[1] / "zoo")
    parser.add_argument("--only", default="*", help="only models whose id matches one of these, with commas between")
    parser.add_argument("--minutes", type=float, default=float("inf"), help="begin no model after so long")
    arguments = parser.parse_args()
    if arguments.command == "run":
        run(arguments)
    else:
        report()


if __name__ == "__main__":
    main()
