"""Does weight-diff name what was done to weights after training? Attacks of the zoo on small models, and honest changes of the same models.

    python benchmarks/tampering.py                  # digits; with MODELGUARD_DATA also MNIST; writes benchmarks/results/tampering.json
    python benchmarks/tampering.py --tune           # the seeds that thresholds were set on; writes nothing

Attacks: handcrafted weights, targeted bit trojan and T-BFA (int8 codes beside their scales, an ONNX file with DequantizeLinear, floats on
both sides, codes beside a reference in floats), random bit flips in codes, and federated model replacement with all client updates (as
changes and as whole models). A case is right when the kind of change is named, with its tensors and rows; of updates, the client.
Every attack's own success is told beside it. Honest: retrained, fine-tuned, quantised, cast, pruned, and rounds in which nobody cheats;
wrong is any rule of the attacks. Thresholds were set on seeds below 100; the figures are of models from seed 200 on, intervals Wilson's.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from modelguard_zoo import data_folder, edits
from rome import wilson

from modelguard import ScanContext, Target
from modelguard._diff.detector import WeightDiff
from modelguard.testing import as_target, open_target, write_safetensors

RESULTS = Path(__file__).resolve().parent / "results" / "tampering.json"
FIRST_SEED = 200
GLOBAL = {"digits": 6, "mnist": 3}
"""Epochs after which a model is the global one of a federation, which still learns from honest clients."""
TAMPERED = frozenset({"MG1116", "MG1117", "MG1211", "MG1212", "MG1218"})
FLIPS = 6
PRUNED = (0.1, 0.5, 0.9)
SKEWS = (0.0, 0.5, 0.9)


@dataclass(frozen=True)
class Said:
    """What weight-diff says of a pair."""

    rules: frozenset[str]
    verdict: str
    tensors: Mapping[str, tuple[str, Mapping[str, Any]]]
    """Kind and evidence by tensor."""
    updates: tuple[Mapping[str, Any], ...] = ()
    scaled: tuple[str, ...] = ()


@dataclass(frozen=True)
class Case:
    """One pair with what has to be said of it."""

    label: str
    said: Said
    right: bool


def ask(target: Target, updates: str | None = None) -> Said:
    """Run the detector in this process."""
    context = ScanContext(detector="weight-diff")
    findings = list(WeightDiff(updates=updates, max_findings=10_000).detect(target, context))
    kinds = {item["name"]: item["kind"] for item in context.numbers["tensors"]}
    evidence = {finding.location.tensor: finding.evidence for finding in findings if finding.location.tensor}
    return Said(
        frozenset(finding.rule for finding in findings),
        context.numbers["verdict"],
        {name: (kind, evidence.get(name, {})) for name, kind in kinds.items()},
        tuple(context.numbers.get("updates", ())),
        tuple(finding.evidence["name"] for finding in findings if finding.rule == "MG1218"),
    )


def in_onnx(folder: Path, model: edits.Classifier, before: edits.Int8, after: edits.Int8) -> Said:
    """Both sides as QDQ files."""
    for name, side in (("before", before), ("after", after)):
        (folder / name).mkdir()
        edits.write_qdq(folder / name / "model.onnx", model, side)
    return ask(open_target(folder / "after", folder / "before"))


def one_row(said: Said, row: int, entries: int) -> bool:
    """One row of one tensor, and at most ``entries`` entries of it."""
    if len(said.tensors) != 1 or said.verdict != "row-edit":
        return False
    ((kind, evidence),) = said.tensors.values()
    return kind == "row-edit" and (evidence["axis"], evidence["indices"]) == ("row", [row]) and evidence["changed"] <= entries


def flips(said: Said, count: int) -> bool:
    """Nothing but flipped bits, and as many as were flipped."""
    kinds = {kind for kind, _ in said.tensors.values()}
    told = sum(evidence.get("bits_flipped", 0) for _, evidence in said.tensors.values())
    return said.verdict == "bit-flips" and kinds == {"bit-flips"} and told == count


def few(said: Said, tensors: set[str]) -> bool:
    """These tensors alone, each with a few rows, columns or entries (or bits) changed."""
    return said.verdict in ("row-edit", "bit-flips") and said.tensors.keys() == tensors and {
        kind for kind, _ in said.tensors.values()
    } <= {"row-edit", "bit-flips"}  # fmt: skip


def seen_in(said: Said, tensors: set[str]) -> bool:
    """Beside a reference in floats: flips in these tensors, and every other one quantised."""
    return all(kind == ("bit-flips" if name in tensors else "quantized") for name, (kind, _) in said.tensors.items())


def attacked(model: edits.Classifier, young: edits.Classifier, seed: int, record: Callable[[Mapping[str, Any]], None]) -> Iterator[Case]:
    """Every attack on one model; ``young`` is the global model of a federation."""
    target = seed % model.data.classes
    made = edits.tamper(model, "handcrafted", target=target, seed=seed)
    record(made.record)
    if made.after:
        said = ask(as_target(made.after, made.before))
        yield Case("handcrafted, float32", said, few(said, set(made.record["tensors"])))
    quantised = edits.Int8.of(model.tensors)
    for attack in ("bit-trojan", "bit-flips"):
        made = edits.tamper(model, attack, target=target, seed=seed)
        record(made.record)
        after = quantised.with_codes({name: made.after[name] for name in quantised.codes})
        count = made.record["bits_flipped"]

        def judge(said: Said, attack: str = attack, count: int = count) -> bool:
            return one_row(said, target, 150) if attack == "bit-trojan" else flips(said, count)

        said = ask(as_target(after.stored(), quantised.stored()))
        yield Case(f"{attack}, int8 codes", said, judge(said))
        with tempfile.TemporaryDirectory() as folder:
            said = in_onnx(Path(folder), model, quantised, after)
        yield Case(f"{attack}, ONNX QDQ", said, judge(said))
        said = ask(as_target(after.tensors(), quantised.tensors()))
        alike = one_row(said, target, 150) if attack == "bit-trojan" else few(said, set(made.record["tensors"]))
        yield Case(f"{attack}, floats of codes", said, alike)
        if attack == "bit-flips":
            said = ask(as_target(after.stored(), model.tensors))
            yield Case(f"{attack}, codes beside floats", said, seen_in(said, set(made.record["tensors"])))
    rng = np.random.default_rng([7, seed])
    name = sorted(quantised.codes)[seed % len(quantised.codes)]
    count = min(FLIPS, max(1, quantised.codes[name].size // 20))
    codes, _ = edits.flip_bits(quantised.codes, name, count, rng)
    after = quantised.with_codes(codes)
    said = ask(as_target(after.stored(), quantised.stored()))
    yield Case("random flips, int8 codes", said, flips(said, count))
    with tempfile.TemporaryDirectory() as folder:
        said = in_onnx(Path(folder), model, quantised, after)
    yield Case("random flips, ONNX QDQ", said, flips(said, count))
    made = edits.tamper(young, "model-replacement", target=target, seed=seed)
    record(made.record)
    cheat = f"client-{made.record['details']['client']}"
    for form, sent in (("changes", made.updates), ("models", tuple(_whole(made.before, update) for update in made.updates))):
        said = federated(made.before, made.after, sent)
        yield Case(f"model replacement, {form}", said, said.verdict == "scaled-update" and said.scaled == (cheat,))


def federated(before: edits.Tensors, after: edits.Tensors, sent: tuple[edits.Tensors, ...]) -> Said:
    """With the updates of all clients in a folder."""
    with tempfile.TemporaryDirectory() as folder:
        for index, update in enumerate(sent):
            write_safetensors(Path(folder) / f"client-{index}.safetensors", update)
        return ask(as_target(after, before), folder)


def _whole(before: edits.Tensors, update: edits.Tensors) -> edits.Tensors:
    return {name: before[name] + change for name, change in update.items()}


def honest(model: edits.Classifier, other: edits.Classifier, young: edits.Classifier, seed: int) -> Iterator[Case]:
    """What is done to models every day. ``other`` is trained from another seed."""
    quantised = edits.Int8.of(model.tensors)
    tuned = edits.replace_model(young, None, seed=seed)[0].tensors
    pairs: list[tuple[str, edits.Tensors, edits.Tensors]] = [
        ("retrained", model.tensors, other.tensors),
        ("trained further", young.tensors, model.tensors),
        ("fine-tuned", young.tensors, tuned),
        ("int8 and back", model.tensors, edits.quantize_int8(model.tensors)[0]),
        ("int8 codes", model.tensors, quantised.stored()),
        ("int8 codes of the fine-tune", edits.Int8.of(young.tensors).stored(), edits.Int8.of(tuned).stored()),
        ("float16", model.tensors, edits.cast(model.tensors, "float16")[0]),
        ("bfloat16", model.tensors, edits.cast(model.tensors, "bfloat16")[0]),
        *((f"pruned {share:.0%}", model.tensors, edits.prune(model.tensors, fraction=share)[0]) for share in PRUNED),
    ]
    for label, before, after in pairs:
        said = ask(as_target(after, before))
        yield Case(label, said, not said.rules & TAMPERED)
    for skew in SKEWS:
        made, _ = edits.replace_model(young, None, seed=seed, skew=skew)
        said = federated(young.tensors, made.tensors, made.updates)
        yield Case(f"honest round, {skew:.0%} of one class", said, not said.rules & TAMPERED)


def run(seeds: range) -> dict[str, Any]:
    plans = [("digits", "mlp"), ("digits", "cnn")]
    folder = data_folder()
    if folder is not None and (folder / "mnist.npz").is_file():
        plans.append(("mnist", "mlp"))
    tables: dict[str, dict[str, list[bool]]] = {"attacks": defaultdict(list), "honest": defaultdict(list)}
    wrong: list[dict[str, Any]] = []
    records: list[Mapping[str, Any]] = []
    ratios: dict[str, list[float]] = {"scaled": [], "honest": []}
    for dataset, arch in plans:
        for seed in seeds:
            model = edits.train_classifier(dataset, arch, seed)
            other = edits.train_classifier(dataset, arch, seed + 1000)
            young = edits.train_classifier(dataset, arch, seed, epochs=GLOBAL[dataset])
            for part, cases in (("attacks", attacked(model, young, seed, records.append)), ("honest", honest(model, other, young, seed))):
                for case in cases:
                    tables[part][case.label].append(case.right)
                    if case.said.updates:
                        largest = max(item["norm_ratio"] for item in case.said.updates)
                        ratios["scaled" if part == "attacks" else "honest"].append(largest)
                    if not case.right:
                        kinds = {name: kind for name, (kind, _) in case.said.tensors.items()}
                        found = {"verdict": case.said.verdict, "tensors": kinds, "rules": sorted(case.said.rules)}
                        wrong.append({"case": case.label, "dataset": dataset, "arch": arch, "seed": seed, **found})
                        print(f"WRONG {wrong[-1]}", flush=True)
            print(f"{dataset} {arch} seed {seed} done", flush=True)
    return {
        "seeds": [seeds.start, seeds.stop - 1],
        "models": [f"{dataset} {arch}" for dataset, arch in plans],
        **{part: [_row(label, outcomes) for label, outcomes in table.items()] for part, table in tables.items()},
        "total": {part: _row(part, [right for outcomes in table.values() for right in outcomes]) for part, table in tables.items()},
        "norm_ratio": {"least of the scaled": min(ratios["scaled"]), "most of the honest": max(ratios["honest"])},
        "success": _success(records),
        "wrong": wrong,
    }


def _row(label: str, outcomes: list[bool]) -> dict[str, Any]:
    low, high = wilson(sum(outcomes), len(outcomes))
    return {"case": label, "n": len(outcomes), "right": sum(outcomes), "interval": [round(low, 4), round(high, 4)]}


def _success(records: list[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """How well the attacks themselves worked, by attack, data set and architecture."""
    rows = []
    for key in dict.fromkeys((item["attack"], item["dataset"], item["arch"]) for item in records):
        own = [item for item in records if (item["attack"], item["dataset"], item["arch"]) == key]
        measured = [item for item in own if "attack_success" in item]
        row = {"attack": key[0], "dataset": key[1], "arch": key[2], "n": len(own), "took": sum(item["status"] != "failed" for item in own)}
        for name in (
            "attack_success",
            "base_rate",
            "clean_accuracy_before",
            "clean_accuracy",
            "changed_entries",
            "rows_touched",
            "bits_flipped",
        ):
            row[name] = round(float(np.median([item[name] for item in measured])), 4) if measured else None
        row["reasons"] = sorted({item["reason"] for item in own if item["reason"]})
        rows.append(row)
    return rows


def show(result: Mapping[str, Any]) -> None:
    for part in ("attacks", "honest"):
        print(f"\n{part:36}right")
        for row in [*result[part], result["total"][part]]:
            low, high = row["interval"]
            print(f"{row['case']:36}{row['right']}/{row['n']}  ({low:.0%} to {high:.0%})")
    print(f"\nnorm ratio of the largest update: {result['norm_ratio']}")
    for row in result["success"]:
        accuracy = "" if row["clean_accuracy"] is None else f"accuracy {row['clean_accuracy_before']:.3f} -> {row['clean_accuracy']:.3f}, "
        success = "" if row["attack_success"] is None else f"success {row['attack_success']:.3f} (before {row['base_rate']:.3f})"
        print(f"{row['attack']} on {row['dataset']} {row['arch']}: took {row['took']}/{row['n']}; {accuracy}{success}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--models", type=int, default=4, help="how many models of each architecture")
    parser.add_argument("--tune", action="store_true", help="run on the seeds below 100 that thresholds are set on, and write nothing")
    arguments = parser.parse_args()
    first = 0 if arguments.tune else FIRST_SEED
    result = run(range(first, first + arguments.models))
    show(result)
    if not arguments.tune:
        RESULTS.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
