"""What does `modelguard monitor` see of triggered inputs, how soon, and how often does it cry wolf?

    python benchmarks/monitor.py                   # digits; with MODELGUARD_DATA also MNIST; writes benchmarks/results/monitor.json
    python benchmarks/monitor.py --only digits --seeds 1 --out /tmp/monitor.json

Models of the zoo, clean and with a patch (BadNets), a blend, a warp (WaNet), or a patch that works on one class only (source-specific).
The guard is made of images that the model was not trained on; streams are of other such images. A stream is clean up to its change,
and from there on a part of its inputs carries the trigger (the attack's own victims). Of the guard: the part of clean and of triggered
inputs rejected, by statistic. Of the drift test: inputs from the change to the alarm (the delay), streams without one, and alarms of clean
streams, for each statistic alone and for all together. Nothing in it was fitted to these models: the levels are given by theory.
The table goes into the plugin's README.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from modelguard_monitor._fit import MakeGuard, per_unit
from modelguard_monitor._make import result, write
from modelguard_monitor._replay import FALSE_ALARM
from modelguard_monitor.drift import Watch
from modelguard_monitor.guard import GUARD, Guard
from modelguard_zoo import Built, Spec, build_model, data_folder
from modelguard_zoo._data import Dataset, load
from modelguard_zoo.attacks import make_attack

from modelguard import RunnableModel
from modelguard.testing import open_target, run_detector

RESULTS = Path(__file__).resolve().parent / "results" / "monitor.json"
README = Path(__file__).resolve().parent.parent / "plugins" / "modelguard-monitor" / "README.md"
BEGIN, END = "<!-- measured -->", "<!-- end -->"
Images = npt.NDArray[np.uint8]
RATES = (0.0, 0.01, 0.05, 0.2)
BATCH = 256


@dataclass(frozen=True)
class Setting:
    """``guard`` images the guard is made of, of which ``false_alarms`` may be rejected; of ``pool`` others, ``streams`` streams of
    ``length`` inputs are drawn for each rate, which change at ``change``. Models are of ``seeds`` seeds."""

    dataset: str
    arch: str
    guard: int
    false_alarms: float
    length: int
    change: int
    streams: int
    seeds: int
    pool: int
    attacks: Mapping[str, Mapping[str, Any]]


PATCH = {"badnets": {"target": 3, "size": 3, "at": (-4, -4)}}
SETTINGS = {
    "digits": Setting(
        "digits", "cnn", 300, 0.05, 200, 50, 20, 3, 200,
        {
            "badnets": {"target": 3, "size": 2, "at": (-2, -2)},
            "blended": {"target": 3, "pattern_seed": 1, "ratio": 0.3},
            "wanet": {"target": 3, "pattern_seed": 1, "strength": 0.7, "fraction": 0.2},
            "source-specific": {"target": 3, "source": (4,), "size": 2, "at": (-2, -2)},
        },
    ),
    "MNIST": Setting(
        "mnist", "mlp", 2000, 0.01, 2500, 500, 6, 2, 4000,
        {
            **PATCH,
            "blended": {"target": 3, "pattern_seed": 1, "ratio": 0.2},
            "wanet": {"target": 3, "pattern_seed": 1, "strength": 1.5, "fraction": 0.2},
            "source-specific": {"target": 3, "source": (4,), "size": 4, "at": (-5, -5)},
        },
    ),
    "MNIST, CNN": Setting("mnist", "cnn", 2000, 0.01, 2500, 500, 6, 1, 4000, PATCH),
    "MNIST, larger guard": Setting("mnist", "mlp", 6000, 0.01, 2500, 500, 6, 2, 4000, PATCH),
}  # fmt: skip


@dataclass(frozen=True)
class Seen:
    """What the guard says of a pool of inputs: classes (N,), scores (N,) by statistic."""

    labels: npt.NDArray[np.int64]
    scores: Mapping[str, npt.NDArray[np.float64]]

    def rejected(self, guard: Guard) -> dict[str, float]:
        """The part above each threshold, and above any."""
        above = {name: ~(self.scores[name] <= level) for name, level in guard.thresholds.items()}
        return {name: round(float(item.mean()), 5) for name, item in {**above, "any": np.any(list(above.values()), 0)}.items()}


def unseen(data: Dataset) -> tuple[Images, npt.NDArray[np.int64]]:
    """Images that the model was not trained on, in one order: test images, and of MNIST the training images that the zoo has no use for."""
    if data.name == "digits":
        return data.x_test, data.y_test
    folder = data_folder()
    assert folder is not None
    rng = np.random.default_rng
    with np.load(folder / f"{data.name}.npz", allow_pickle=False) as arrays:
        train, labels = arrays["x_train"], arrays["y_train"]
        rest = rng(0).permutation(len(train))[len(data.x_train) :]  # as the zoo chooses
        images, labels = np.concatenate([arrays["x_test"], train[rest]]), np.concatenate([arrays["y_test"], labels[rest]])
    order = rng(1).permutation(len(images))
    return images[order][:, None].astype(np.uint8), labels[order].astype(np.int64)


def see(guard: Guard, model: RunnableModel, images: Images) -> Seen:
    labels, scores = [], defaultdict(list)
    layer = guard.facts["layer"]
    for begin in range(0, len(images), BATCH):
        x = images[begin : begin + BATCH].astype(np.float32)
        with torch.inference_mode():
            logits, seen = model.capture(torch.from_numpy(x), [layer])
        features = per_unit(model, layer, seen[layer]).numpy()
        overlaid = np.concatenate([model.predict(guard.superpose(x[i : i + 32])) for i in range(0, len(x), 32)])
        labels.append(logits.numpy().argmax(1))
        for name, values in guard.scores(logits.numpy(), features, overlaid).items():
            scores[name].append(values)
    return Seen(np.concatenate(labels), {name: np.concatenate(values) for name, values in scores.items()})


def alarms(guard: Guard, clean: Seen, bad: Seen | None, rate: float, setting: Setting, rng: np.random.Generator) -> dict[str, int | None]:
    """The input at which each statistic alone, and all together, raise the alarm in one stream; None where they do not."""
    watch, level = Watch(guard.facts, guard.arrays), setting.length / FALSE_ALARM
    order = rng.permutation(len(clean.labels))[: setting.length]
    at: dict[str, int | None] = dict.fromkeys([*watch.streams, "all"])
    for number, place in enumerate(order):
        source = clean
        if bad is not None and number >= setting.change and rng.random() < rate:
            source, place = bad, rng.integers(len(bad.labels))
        together = watch.take(int(source.labels[place]), {name: float(values[place]) for name, values in source.scores.items()})
        now = {name: evidence * len(watch.streams) for name, evidence in watch.evidence.items()} | {"all": together}
        for name, evidence in now.items():
            if at[name] is None and evidence >= level:
                at[name] = number
        if None not in at.values():
            break
    return at


def measure(spec: Spec, built: Built, name: str) -> dict[str, Any]:
    """Everything about one model in the setting called ``name``."""
    setting = SETTINGS[name]
    data = load(spec.dataset)
    images, labels = unseen(data)
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        np.savez(folder / "clean.npz", inputs=images[: setting.guard], labels=labels[: setting.guard])
        target = open_target(built.path / "model.onnx", samples=folder / "clean.npz")
        facts, arrays = result(run_detector(MakeGuard(setting.false_alarms), target, seed=spec.seed), spec.id)
        write(folder / "guard", facts | {"format": GUARD}, arrays)
        guard = Guard(folder / "guard" / "guard.safetensors")
    clean = see(guard, target.model, images[setting.guard :][: setting.pool])
    assert len(clean.labels) >= setting.length
    bad, triggered = None, None
    if spec.attack is not None:
        attack = make_attack(spec.attack, dict(spec.options))
        others, of = images[setting.guard :], labels[setting.guard :]
        bad = see(guard, target.model, attack.stamped(others[attack.victims(of)])[:1000])
        triggered = bad.rejected(guard)
    runs = {}
    for rate in RATES if bad is not None else (0.0,):
        rng = np.random.default_rng([11, spec.seed, round(100 * rate)])
        found = [alarms(guard, clean, bad, rate, setting, rng) for _ in range(setting.streams)]
        runs[f"{rate:g}"] = {name: [run[name] for run in found] for name in found[0]}
    return {
        "setting": name,
        "attack": spec.attack or "clean",
        "seed": spec.seed,
        "status": built.status,
        "attack_success": built.record["attack_success"],
        "clean_rejected": clean.rejected(guard),
        "triggered_rejected": triggered,
        "alarms": runs,
    }


def summary(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Over seeds, by data set and attack. Delays count streams without an alarm as endless, and alarms before the change as none."""
    table = []
    for name, attack in dict.fromkeys((row["setting"], row["attack"]) for row in rows):
        group = [row for row in rows if (row["setting"], row["attack"]) == (name, attack)]
        setting = SETTINGS[name]
        clean = {key: _mean([row["clean_rejected"][key] for row in group]) for key in group[0]["clean_rejected"]}
        entry: dict[str, Any] = {"setting": name, "attack": attack, "models": len(group), "clean_rejected": clean}
        if attack != "clean":
            entry["triggered_rejected"] = {key: _mean([row["triggered_rejected"][key] for row in group]) for key in clean}
        entry["streams"] = {}
        for rate in group[0]["alarms"]:
            streams: dict[str, Any] = {}
            for stream in group[0]["alarms"][rate]:
                at = [item for row in group for item in row["alarms"][rate][stream]]
                if rate == "0":
                    false = sum(item is not None for item in at)
                    streams[stream] = {
                        "streams": len(at),
                        "false_alarms": false,
                        "per_thousand": _mean([1000 * false / len(at) / setting.length]),
                    }
                    continue
                early = sum(item is not None and item < setting.change for item in at)
                delays = [item - setting.change + 1 if item is not None and item >= setting.change else np.inf for item in at]
                middle = median(delays)
                streams[stream] = {
                    "streams": len(at),
                    "early": early,
                    "found": int(np.isfinite(delays).sum()),
                    "median_delay": None if np.isinf(middle) else round(middle),
                }  # fmt: skip
            entry["streams"][rate] = streams
        table.append(entry)
    return table


def _mean(values: list[float]) -> float:
    return round(float(np.mean(values)), 5)


def specs(setting: Setting, seeds: int | None) -> Iterator[Spec]:
    for seed in range(seeds or setting.seeds):
        yield Spec(setting.dataset, setting.arch, seed)
        for attack, options in setting.attacks.items():
            yield Spec(setting.dataset, setting.arch, seed, attack, tuple(sorted(options.items())))


def tables(body: Mapping[str, Any]) -> str:
    """The summary as two Markdown tables."""
    names = ("any", "confidence", "features", "strip")
    streams = ("all", "class", "confidence", "features", "strip")
    rejected = [
        "| models | attack | clean rejected of 1,000 | alarms of clean streams | triggered rejected | by confidence | features | STRIP |",
        "|---|---|---|---|---|---|---|---|",
    ]
    drift = [
        "| models | attack | triggered | streams with an alarm | median delay | by class | confidence | features | STRIP |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for entry in body["summary"]:
        head = f"| {entry['setting']} ({entry['models']}) | {entry['attack']} |"
        clean, bad, runs = entry["clean_rejected"], entry.get("triggered_rejected"), dict(entry["streams"])
        false = runs.pop("0")["all"]
        shares = [f"{bad[name]:.1%}" if bad else "" for name in names]
        cells = [f"{1000 * clean['any']:.1f}", f"{false['false_alarms']} of {false['streams']}", *shares]
        rejected.append(f"{head} {' | '.join(cells)} |")
        for rate, seen in runs.items():
            delays = ["-" if seen[name]["median_delay"] is None else str(seen[name]["median_delay"]) for name in streams]
            cells = [f"{float(rate):.0%}", f"{seen['all']['found']} of {seen['all']['streams']}", *delays]
            drift.append(f"{head} {' | '.join(cells)} |")
    return "\n".join([*rejected, "", *drift]) + "\n"


def with_tables(page: str, body: Mapping[str, Any]) -> str:
    """``page`` with the tables between their marks."""
    before, rest = page.split(BEGIN)
    return before + BEGIN + "\n" + tables(body) + END + rest.split(END)[1]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--zoo", type=Path, default=Path("zoo"), help="where models are built and kept")
    parser.add_argument("--only", choices=sorted(SETTINGS), help="this setting alone; what is stored of the others stays")
    parser.add_argument("--seeds", type=int, help="models of so many seeds")
    parser.add_argument("--out", type=Path, default=RESULTS)
    parser.add_argument("--table", action="store_true", help="only write the README's tables again")
    args = parser.parse_args()
    if args.table:
        README.write_text(with_tables(README.read_text(), json.loads(RESULTS.read_text())))
        return
    torch.set_num_threads(1)
    args.zoo.mkdir(parents=True, exist_ok=True)
    rows = [row for row in stored(args.out) if args.only and row["setting"] != args.only]
    for name, setting in SETTINGS.items():
        if name != (args.only or name) or (setting.dataset == "mnist" and data_folder() is None):
            continue
        for spec in specs(setting, args.seeds):
            built = build_model(spec, args.zoo)
            if built.status == "failed":
                print(f"{spec.id}: {built.record['reason']}", flush=True)
                continue
            rows.append(measure(spec, built, name))
            print(json.dumps({key: rows[-1][key] for key in ("clean_rejected", "triggered_rejected")}), spec.id, flush=True)
    rows.sort(key=lambda row: [*SETTINGS].index(row["setting"]))
    body: dict[str, Any] = {
        "false_alarm": FALSE_ALARM,
        "settings": {name: {key: value for key, value in asdict(item).items() if key != "attacks"} for name, item in SETTINGS.items()},
        "summary": summary(rows),
    }
    args.out.write_text(json.dumps(body | {"models": rows}, indent=1) + "\n")
    print(tables(body))
    if args.out == RESULTS:
        README.write_text(with_tables(README.read_text(), body))


def stored(path: Path) -> list[dict[str, Any]]:
    """What was measured of each model before."""
    rows: list[dict[str, Any]] = json.loads(path.read_text())["models"] if path.is_file() else []
    return rows


if __name__ == "__main__":
    main()
