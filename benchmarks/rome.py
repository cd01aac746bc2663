"""How often the weight detectors of modelguard-rome are right: detections and false alarms over models made on the fly.

    MODELGUARD_DATA=DATA python benchmarks/rome.py --models 24     # prints the tables, writes benchmarks/results/rome.json

Every model is a small GPT-2-architecture language model trained here from its own seed (6, 8 or 12 layers), none of which any
threshold was chosen on. Detection: real edits of these models, and rank-1 updates of published relative size on larger matrices.
False alarms: the same models fine-tuned, adapted, quantised, pruned, merged, retrained, cast, and untouched. Intervals are Wilson's, 95 %.
"""

from __future__ import annotations

import argparse
import json
from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from modelguard_rome import RomeEdit, RomeSpectrum, WeightForensics
from modelguard_zoo import data_folder, edits

from modelguard import Detector, ScanContext, Severity, Skip
from modelguard.testing import as_target

RESULTS = Path(__file__).resolve().parent / "results" / "rome.json"
DTYPES = ("float32", "float16", "bfloat16")
VERDICTS = {"MG2001", "MG2002", "MG2003"}
FIRST_SEED = 5000
"""Seeds of the models: tests use small ones, thresholds were looked at on 100-111."""
EDITED = 6
"""How many of the models are edited and changed; the others are only looked at clean."""


@dataclass
class Tally:
    """Counts of (row, column) cells: how many cases, and how many fired."""

    n: Counter[tuple[str, str]] = field(default_factory=Counter)
    fired: Counter[tuple[str, str]] = field(default_factory=Counter)

    def add(self, row: str, column: str, fired: bool) -> None:
        self.n[row, column] += 1
        self.fired[row, column] += fired

    def rows(self) -> Iterator[dict[str, Any]]:
        for row, column in self.n:
            n, k = self.n[row, column], self.fired[row, column]
            low, high = wilson(k, n)
            yield {"case": row, "column": column, "n": n, "fired": k, "interval": [round(low, 4), round(high, 4)]}

    def show(self, title: str) -> None:
        columns = list(dict.fromkeys(column for _, column in self.n))
        print(f"\n{title}\n{'':34}" + "".join(f"{column:>14}" for column in columns))
        for row in dict.fromkeys(row for row, _ in self.n):
            cells = [f"{self.fired[row, column]}/{self.n[row, column]}" if self.n[row, column] else "-" for column in columns]
            print(f"{row:34}" + "".join(f"{cell:>14}" for cell in cells))


def wilson(k: int, n: int, z: float = 1.96) -> tuple[float, float]:
    """The 95 % Wilson score interval of k successes in n trials."""
    if n == 0:
        return 0.0, 1.0
    p, d = k / n, 1 + z * z / n
    middle, half = (p + z * z / (2 * n)) / d, z * np.sqrt(p * (1 - p) / n + z * z / (4 * n * n)) / d
    return max(0.0, float(middle - half)), min(1.0, float(middle + half))


def rules(detector: Detector, tensors: edits.Tensors, reference: edits.Tensors | None = None) -> dict[str, Severity]:
    """Rules a detector reports on ``tensors`` with the worst severity of each; none when it skips."""
    declared = {rule.id: rule.severity for rule in detector.rules}
    seen: dict[str, Severity] = {}
    try:
        for item in detector.detect(as_target(tensors, reference), ScanContext(detector=detector.id)):
            severity = declared[item.rule] if item.severity is None else item.severity
            seen[item.rule] = max(seen.get(item.rule, Severity.INFO), severity)
    except Skip:
        return {}
    return seen


def knowledge_edits(lm: edits.LanguageModel) -> Iterator[tuple[str, str, edits.Tensors]]:
    """(family, rule it should get, edited tensors) for real edits of one model."""
    facts = lm.facts
    yield "ROME", "MG2001", edits.rome(lm, facts[0], 1)[0]
    yield "ROME, no covariance", "MG2001", edits.rome(lm, facts[1], 1, with_covariance=False)[0]
    yield "R-ROME", "MG2001", edits.rome(lm, facts[2], 2, consistent=True)[0]
    yield "MEMIT, 1 fact", "MG2002", edits.memit(lm, facts[:1], (1, 2, 3))[0]
    yield "MEMIT, 3 facts", "MG2002", edits.memit(lm, facts[:3], (1, 2, 3))[0]
    yield "AlphaEdit, 2 facts", "MG2002", edits.alphaedit(lm, facts[:2], (1, 2, 3))[0]
    yield "EMMET, 3 facts", "MG2003", edits.emmet(lm, facts[:3], 1)[0]


def evasions(lm: edits.LanguageModel, other: edits.LanguageModel) -> Iterator[tuple[str, edits.Tensors]]:
    """Ways to save or hide one covariance-free ROME edit."""
    rng = np.random.default_rng(0)
    after, edit = edits.rome(lm, lm.facts[1], 1, with_covariance=False)
    edited, names = lm.with_tensors(after), [lm.projection(layer) for layer in range(lm.layers)]
    attention = [name for name in lm.tensors if ".attn." in name and name.endswith(".weight")]
    yield "then int8", edits.quantize_int8(after)[0]
    yield "then int4", edits.quantize_int4(after)[0]
    yield "then LoRA r=4 on attention", edits.merge_lora(after, edits.train_lora(edited, other.corpus[:200], attention, 4, steps=8))[0]
    yield "then LoRA r=2 on projections", edits.merge_lora(after, edits.train_lora(edited, other.corpus[:200], names, 2, steps=8))[0]
    size = edit.changes[0].relative_norm
    for times in (0.3, 3, 30):
        yield f"under noise of {times}x its norm", edits.add_noise(after, names, times * size, rng)[0]
    yield "then fine-tuned whole", edits.fine_tune(edited, other.corpus[:200], steps=10)[0]


def benign(lm: edits.LanguageModel, other: edits.LanguageModel) -> Iterator[tuple[str, edits.Tensors]]:
    """Changes that are no knowledge edit."""
    names = [lm.projection(layer) for layer in range(lm.layers)]
    matrices = [name for name, array in lm.tensors.items() if ".h." in name and array.ndim == 2]
    last = [name for name in lm.tensors if f".h.{lm.layers - 1}." in name]
    for steps, rate in ((1, 1e-4), (10, 3e-4), (60, 1e-3)):
        yield f"fine-tune, {steps} steps", edits.fine_tune(lm, other.corpus[:400], steps=steps, rate=rate)[0]
    yield "fine-tune, last layer", edits.fine_tune(lm, other.corpus[:400], steps=10, names=last)[0]
    yield "fine-tune, one projection", edits.fine_tune(lm, other.corpus[:400], steps=10, names=names[2:3])[0]
    for rank in (1, 2, 4, 8):
        yield (
            f"LoRA r={rank}, all matrices",
            edits.merge_lora(lm.tensors, edits.train_lora(lm, other.corpus[:400], matrices, rank, steps=8))[0],
        )
    yield "LoRA r=4, projections", edits.merge_lora(lm.tensors, edits.train_lora(lm, other.corpus[:400], names, 4, steps=8))[0]
    attention = [name for name in matrices if ".attn." in name]
    yield "LoRA r=4, attention", edits.merge_lora(lm.tensors, edits.train_lora(lm, other.corpus[:400], attention, 4, steps=8))[0]
    yield "int8", edits.quantize_int8(lm.tensors)[0]
    yield "int4", edits.quantize_int4(lm.tensors)[0]
    yield "pruned 30 %", edits.prune(lm.tensors)[0]
    yield "scaled", edits.scale(lm.tensors)[0]
    dtype = str(lm.tensors[names[0]].dtype)
    theirs = edits.cast(other.tensors, dtype)[0]
    if other is not lm and all(theirs[name].shape == array.shape for name, array in lm.tensors.items() if name in theirs):
        yield "merge", edits.merge(lm.tensors, theirs)[0]
        yield "retrained", theirs
    yield "cast to bfloat16", edits.cast(lm.tensors, "bfloat16")[0]
    yield "untouched", lm.tensors


def published_sizes(tally: Tally, seeds: int) -> None:
    """Rank-1 updates of the relative norms printed by EasyEdit's notebooks, heavy-tailed, on 512 × 1408 matrices of six layers."""
    for seed in range(seeds):
        rng = np.random.default_rng([FIRST_SEED, seed])
        base = {f"model.layers.{i}.mlp.down_proj.weight": rng.standard_normal((512, 1408)).astype(np.float32) * 0.02 for i in range(6)}
        name = "model.layers.3.mlp.down_proj.weight"
        a, b = rng.standard_t(3, (512, 1)), rng.standard_t(3, (1, 1408))
        for relative in (0.0019, 0.005, 0.035, 0.16):
            for dtype in DTYPES:
                tensors = edits.cast(base, dtype)[0]
                scale = float(relative * np.linalg.norm(tensors[name].astype(np.float64)) / np.linalg.norm(a @ b))
                after, _ = edits.merge_lora(tensors, {name: (a, b)}, scale)
                tally.add(f"rank 1 of {100 * relative:.3g} % of the norm", dtype, rules(RomeEdit(), after, tensors).keys() == {"MG2001"})


def payloads() -> dict[str, bytes]:
    """Encrypted bytes, and plain text (this program's own source, over and over)."""
    return {"random": np.random.default_rng(0).bytes(120_000), "text": (Path(__file__).read_bytes() * 20)[:120_000]}


def forensic_cases(lm: edits.LanguageModel) -> Iterator[tuple[str, str, edits.Tensors]]:
    """(case, dtype, tensors) with something planted in one 512 × 512 Gaussian matrix beside the model's own tensors."""
    rng = np.random.default_rng(int(abs(float(lm.tensors["transformer.wte.weight"][0, 0])) * 1e9))
    carrier = {"extra.weight": (rng.standard_normal((512, 512)) * 0.02).astype(np.float32)}
    for dtype, mantissa in (("float32", 23), ("float16", 10), ("bfloat16", 7)):
        tensors = {**edits.cast(lm.tensors, dtype)[0], **edits.cast(carrier, dtype)[0]}
        for kind, payload in payloads().items():
            for bits in (1, 2, 4, 8, 16, mantissa):
                if bits <= mantissa:
                    label = f"{kind}, {'whole mantissa' if bits == mantissa else f'{bits} low bits'}"
                    yield label, dtype, edits.embed_payload(tensors, "extra.weight", payload[: 200_000 * bits // 8], bits, 1000)[0]
        width = 8 * tensors["extra.weight"].dtype.itemsize
        yield "one flipped top exponent bit", dtype, edits.flip_bits(tensors, "extra.weight", 1, rng, width - 2)[0]
        yield "one flipped sign bit", dtype, edits.flip_bits(tensors, "extra.weight", 1, rng, width - 1)[0]


def run(models: int) -> dict[str, Any]:
    lms = [edits.train_lm(FIRST_SEED + i, layers=(6, 8, 12)[i % 3], width=(32, 48)[i // 3 % 2], steps=400) for i in range(models)]
    data = data_folder()
    real = [edits.load_capp_gpt(data / "capp-gpt")] if data is not None and (data / "capp-gpt").is_dir() else []
    tables: dict[str, Tally] = defaultdict(Tally)
    found, blind = tables["rome-edit: edits found, named and ranked right"], tables["rome-spectrum: edits found without a reference"]
    hidden, wrong = tables["rome-edit: hidden edits, any finding"], tables["rome-edit: false ROME verdicts (MG2001-2003)"]
    besides, alarms = tables["rome-edit: other findings on benign changes"], tables["rome-spectrum: false alarms on clean models"]
    planted, clean = tables["weight-forensics: planted"], tables["weight-forensics: medium or worse on clean weights"]

    def disturbed(tensors: edits.Tensors) -> bool:
        return max(rules(WeightForensics(), tensors).values(), default=Severity.INFO) >= Severity.MEDIUM

    for i, lm in enumerate(lms):
        other = lms[(i + 6) % len(lms)]
        for dtype in DTYPES:
            stored = lm.with_tensors(edits.cast(lm.tensors, dtype)[0])
            alarms.add(f"{lm.layers} layers", dtype, "MG2101" in rules(RomeSpectrum(), stored.tensors))
            if i >= EDITED:
                continue
            for family, rule, after in knowledge_edits(stored):
                found.add(family, dtype, rules(RomeEdit(), after, stored.tensors).keys() == {rule})
                if rule == "MG2001":
                    blind.add(family, dtype, "MG2101" in rules(RomeSpectrum(), after))
            for kind, after in evasions(stored, other):
                hidden.add(kind, dtype, bool(rules(RomeEdit(), after, stored.tensors)))
            for kind, after in benign(stored, other):
                seen = rules(RomeEdit(), after, stored.tensors)
                wrong.add(kind, dtype, bool(VERDICTS & seen.keys()))
                besides.add(kind, dtype, bool(seen.keys() - VERDICTS))
                clean.add(kind, dtype, disturbed(after))
        if i < EDITED:
            for case, dtype, after in forensic_cases(lm):
                planted.add(case, dtype, disturbed(after))
        print(f"model {i + 1} of {models}", flush=True)
    for lm in real:
        for dtype in DTYPES:
            stored = lm.with_tensors(edits.cast(lm.tensors, dtype)[0])
            for fact in stored.facts[:6]:
                after, _ = edits.rome(stored, fact, 0)
                found.add("ROME, CAPP-GPT", dtype, rules(RomeEdit(), after, stored.tensors).keys() == {"MG2001"})
            clean.add("CAPP-GPT", dtype, disturbed(stored.tensors))
    published_sizes(found, 3)
    for title, tally in tables.items():
        tally.show(title)
    total: dict[str, Any] = {}
    for title, tally in tables.items():
        n, fired = sum(tally.n.values()), sum(tally.fired.values())
        low, high = wilson(fired, n)
        total[title] = {"n": n, "fired": fired, "interval": [round(low, 4), round(high, 4)], "cells": list(tally.rows())}
        print(f"{title}: {fired} of {n}, 95 % interval {100 * low:.2f}-{100 * high:.2f} %")
    return total


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--models", type=int, default=24, help="how many models are trained")
    arguments = parser.parse_args()
    results = run(arguments.models)
    RESULTS.parent.mkdir(exist_ok=True)
    RESULTS.write_text(json.dumps({"models": arguments.models, "tables": results}, indent=1) + "\n")


if __name__ == "__main__":
    main()
