"""What a fleet costs beside its scans, how it scales, and how soon a killed one goes on.

``python benchmarks/fleet.py [MODELS] [MEGABYTES]``: so many tiny models for the overhead, so large a model for the guarded download. The
figures are for 1 000 models, 1 GB and an idle machine of two cores; ``results/fleet.json`` says how many models the recorded run had.
"""

from __future__ import annotations

import contextlib
import importlib.util
import json
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save_file

from modelguard._fleet.targets import read_targets

HERE = Path(__file__).resolve().parent
JOURNAL = 10_000
MIXED = 48
POLICY = "version: 1\nname: static\nextends: [builtin:baseline]\nplugins: {allow: [modelguard-serialization]}\n"
ENGINES = ("local", "ray") if importlib.util.find_spec("ray") else ("local",)


def model(place: Path, side: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    place.mkdir()
    save_file({f"layers.{n}.weight": rng.normal(size=(side, side)).astype(np.float32) for n in range(4)}, place / "model.safetensors")


def fleet(folder: Path, targets: list[Path], *argv: str, cache: str = "off") -> tuple[float, dict[str, Any], int]:
    """Seconds of the whole command, its summary, and its exit code."""
    (folder / "list.txt").write_text("\n".join(str(item.relative_to(folder)) for item in targets) + "\n")
    command = [sys.executable, "-m", "modelguard", "fleet", "list.txt", "-q", "-f", "json", "--policy", "static.yaml", *argv]
    began = time.perf_counter()
    ran = subprocess.run(command, cwd=folder, env={**os.environ, "MODELGUARD_CACHE": cache}, capture_output=True, text=True)
    took = time.perf_counter() - began
    return took, json.loads(ran.stdout), ran.returncode


def idle(folder: Path, engine: str) -> float:
    """Seconds that a fleet of one model takes beside its scan: start of the command and of the engine."""
    place = folder / "lone"
    if not place.exists():
        model(place, 8, 0)
    took, document, _ = fleet(folder, [place], "--fresh", "--executor", engine, "--workers", "1")
    return took - float(document["models"][0]["seconds"])


def scaling(folder: Path, engine: str) -> dict[str, float]:
    """Wall time of mixed scans (small and large models) with one and with two workers, the start of the engine taken off."""
    targets = []
    for number in range(MIXED):
        place = folder / f"mixed-{number}"
        if not place.exists():
            model(place, 64 if number % 2 else 1024, number)
        targets.append(place)
    start = idle(folder, engine)
    seconds = {n: fleet(folder, targets, "--fresh", "--threads", "1", "--executor", engine, "--workers", str(n))[0] - start for n in (1, 2)}
    return {"one": seconds[1], "two": seconds[2], "efficiency": seconds[1] / (2 * seconds[2])}


def overhead(folder: Path, targets: list[Path], engine: str) -> dict[str, float]:
    """Milliseconds of each model beside its scan: workers' time that no scan used, with outcomes from the cache so that scans are short."""
    start = idle(folder, engine)
    cache = str(folder / "cache")
    first, _, _ = fleet(folder, targets, "--fresh", "--executor", engine, "--workers", "2", cache=cache)
    second, document, _ = fleet(folder, targets, "--fresh", "--executor", engine, "--workers", "2", cache=cache)
    scans = sum(float(item["seconds"]) for item in document["models"])
    return {"first": first, "second": second, "ms_a_model": 1e3 * max(0.0, 2 * (second - start) - scans) / len(targets), "start": start}


def resumed(folder: Path) -> dict[str, Any]:
    """A journal of 10 000 models whose writer was killed, all but one of them done: the whole command that goes on."""
    place = folder / "killed"
    place.mkdir()
    (place / "static.yaml").write_text(POLICY)
    model(place / "m", 8, 1)
    names = [f"m/../m/./{number}" for number in range(JOURNAL - 1)]
    _, document, _ = fleet(place, [place / "m"], "--fresh")
    (place / "list.txt").write_text("\n".join([*names, "m"]) + "\n")
    with contextlib.chdir(place):
        entries = {target.uri: target.entry for target in read_targets(["list.txt"])}
    row = {key: value for key, value in document["models"][0].items() if key not in ("uri", "name", "change")}
    fill = (
        "import json, sys, os, signal, sqlite3\n"
        "names, row = json.load(sys.stdin)\n"
        "database = sqlite3.connect('modelguard-fleet.journal', isolation_level=None)\n"
        "report = database.execute('SELECT report FROM models').fetchone()[0]\n"
        "database.execute('DELETE FROM models'); database.execute(\"DELETE FROM about WHERE name = 'finished'\")\n"
        "database.execute('BEGIN')\n"
        "for name in names: database.execute('INSERT INTO models VALUES (?, ?, ?)', (name, json.dumps(row), report))\n"
        "database.execute('COMMIT'); os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    subprocess.run([sys.executable, "-c", fill], cwd=place, input=json.dumps([[entries[name] for name in names], row]), text=True)
    command = [sys.executable, "-m", "modelguard", "fleet", "list.txt", "-f", "json", "--policy", "static.yaml"]
    began = time.perf_counter()
    ran = subprocess.run(command, cwd=place, capture_output=True, text=True, env={**os.environ, "MODELGUARD_CACHE": "off"})
    seconds = time.perf_counter() - began
    found = json.loads(ran.stdout)
    again = sum(" of 10000: " in line for line in ran.stderr.splitlines())
    size = (place / "modelguard-fleet.journal").stat().st_size
    return {"seconds": seconds - float(found["models"][-1]["seconds"]), "models": len(found["models"]), "scanned": again, "bytes": size}


def download(folder: Path, megabytes: int) -> dict[str, float]:
    """`modelguard fetch` against the plain client, interleaved, over the loopback interface."""
    from modelguard.testing.hub import LoopbackHub

    source = folder / "large.safetensors"
    save_file({f"w{n}": np.random.default_rng(n).normal(size=(megabytes << 15,)).astype(np.float32) for n in range(8)}, source)
    plain: list[float] = []
    guarded: list[float] = []
    client = "import sys, huggingface_hub; huggingface_hub.snapshot_download('org/large', local_dir=sys.argv[1])"
    with LoopbackHub() as hub:
        hub.commit("org/large", {"model.safetensors": source, "config.json": b"{}\n"})
        for number in range(3):
            env = {**os.environ, **hub.env(folder / f"hf{number}"), "MODELGUARD_CACHE": "off"}
            for name, seconds in (("plain", plain), ("guarded", guarded)):
                target = str(folder / f"{name}{number}")
                fetch = [
                    sys.executable,
                    "-m",
                    "modelguard",
                    "fetch",
                    "hf://org/large",
                    target,
                    "-q",
                    "--policy",
                    str(folder / "static.yaml"),
                ]
                began = time.perf_counter()
                subprocess.run(
                    fetch if name == "guarded" else [sys.executable, "-c", client, target], check=True, env=env, capture_output=True
                )
                seconds.append(time.perf_counter() - began)
                shutil.rmtree(target)
            shutil.rmtree(folder / f"hf{number}", ignore_errors=True)
    return {"plain": min(plain), "guarded": min(guarded), "ratio": min(guarded) / min(plain)}


def inputs(folder: Path) -> dict[str, float]:
    """What docs/scale.md reckons with: CPU seconds of a scan of 1 MB and of 1 GB by what looks, and requests for a model of four files."""
    from modelguard.testing.hub import LoopbackHub

    used: dict[tuple[str, str], float] = {}
    for name, side in (("MB", 177), ("GB", 5590)):
        model(folder / f"input-{name}", 1, 0)
        rng = np.random.default_rng(0)
        tensors = {f"model.layers.{n}.mlp.down_proj.weight": rng.normal(size=(side, side)).astype(np.float32) for n in range(8)}
        save_file(tensors, folder / f"input-{name}" / "model.safetensors")
        for policy in ("static.yaml", "builtin:baseline"):
            before = resource.getrusage(resource.RUSAGE_CHILDREN)
            command = [sys.executable, "-m", "modelguard", "scan", f"input-{name}", "-q", "--no-cache", "--policy", policy]
            subprocess.run(command, cwd=folder, capture_output=True, check=True)
            after = resource.getrusage(resource.RUSAGE_CHILDREN)
            used[name, policy] = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    with LoopbackHub() as hub:
        files: dict[str, bytes | Path | None] = {"model.safetensors": folder / "input-MB" / "model.safetensors"}
        hub.commit("org/m", files | dict.fromkeys(("config.json", "tokenizer.json", "README.md"), b"{}\n"))
        env = {**os.environ, **hub.env(folder / "hub")}
        command = [sys.executable, "-m", "modelguard", "scan", "hf://org/m", "-q", "--no-cache", "--policy", "static.yaml"]
        subprocess.run(command, cwd=folder, env=env, capture_output=True, check=True)
        requests = len(hub.requests)
    static = used["GB", "static.yaml"] - used["MB", "static.yaml"]
    return {
        "cpu_start": used["MB", "builtin:baseline"],
        "cpu_static_gb": static,
        "cpu_weights_gb": used["GB", "builtin:baseline"] - used["MB", "builtin:baseline"] - static,
        "requests": requests,
    }


def main() -> int:
    number = int(sys.argv[1]) if len(sys.argv) > 1 else 1000
    megabytes = int(sys.argv[2]) if len(sys.argv) > 2 else 1000
    result: dict[str, Any] = {"models": number, "megabytes": megabytes}
    rows: list[tuple[str, str, str, bool]] = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "static.yaml").write_text(POLICY)
        for engine in ENGINES:
            least = 0.9 if engine == "local" else 0.85
            found = result[f"scaling {engine}"] = scaling(folder, engine)
            rows.append((f"one to two workers, {engine}", f"{found['efficiency']:.2f}", f">= {least}", found["efficiency"] >= least))
        targets = [folder / f"tiny-{index}" for index in range(number)]
        for index, place in enumerate(targets):
            model(place, 8, index)
        for engine in ENGINES:
            with contextlib.suppress(FileNotFoundError):
                shutil.rmtree(folder / "cache")
            most = 20 if engine == "local" else 50
            cost = result[f"overhead {engine}"] = overhead(folder, targets, engine)
            rows.append((f"beside the scan, {engine}", f"{cost['ms_a_model']:.1f} ms", f"<= {most} ms", cost["ms_a_model"] <= most))
            share = (cost["second"] - cost["start"]) / (cost["first"] - cost["start"])
            rows.append((f"second run, {engine}", f"{share:.1%}", "<= 5%", share <= 0.05))
        went = result["resume"] = resumed(folder)
        whole = went["models"] == JOURNAL and went["scanned"] == 1
        rows.append(("resume of 10 000 after kill -9", f"{went['seconds']:.1f} s", "<= 5 s", went["seconds"] <= 5 and whole))
        result["inputs"] = inputs(folder)
        times = result["download"] = download(folder, megabytes)
        rows.append((f"guarded download, {megabytes} MB", f"{times['ratio']:.2f} x", "<= 1.3 x", times["ratio"] <= 1.3))
    print("inputs: " + ", ".join(f"{name} {value:.2f}" for name, value in result["inputs"].items()))
    for what, value, figure, good in rows:
        print(f"{what:<34} {value:>10}  {figure:>8}  {'' if good else 'MISSED'}".rstrip())
    (HERE / "results" / "fleet.json").write_text(json.dumps(result, indent=2) + "\n")
    return 0 if all(row[3] for row in rows) else 1


if __name__ == "__main__":
    sys.exit(main())
