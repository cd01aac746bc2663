"""What reading executable content costs, beside the peers: CPU time of whole processes, alternately, in one run.

    python benchmarks/static.py [--peers .bench/peers] [--only folder small many large]

The peers (picklescan, fickling, hayward, modelaudit) are installed into virtual environments of their own under ``--peers``, and
modelguard's own wheels into another, with the same interpreter. Writes benchmarks/results/static.json.

Where the CPU time of a file goes, phase by phase in one process, in microseconds (the machine was busy; the shares are what counts):
a pickle of 3 kB among 10 000: 246, of which executable-content 113 (the first look 30), listing and hashing 36, opening 24, remote-code 8,
the last look at whether files changed 8, requests and answers between the processes 57. A file of the folder of 300: 2 350, of which
executable-content 1 430 (a third of it opcodes, a tenth the directories of torch files), opening 720, listing and hashing 120, messages 50.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import pickle
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
RESULT = HERE / "results" / "static.json"
PEERS = {
    "picklescan": ["picklescan==1.0.5"],
    "fickling": ["fickling==0.1.12", "typing_extensions"],
    "hayward": ["hayward==1.4.1"],
    "modelaudit": ["modelaudit==0.2.54"],
}
FASTER = {"picklescan": 1.0, "fickling": 5.0, "hayward": 5.0, "modelaudit": 20.0}
"""Times a peer's throughput on a folder that ours is to be."""
SMALL = 2.0
"""Times picklescan's CPU time that one small pickle may take, from start to verdict."""
MANY = 2.0
"""Times hashing plus start-up that a folder of 10 000 files may take."""
READ = 0.05
"""Share of a large torch file's bytes that may be read for the verdict on its code."""
WEIGHTS = 1.2
"""Times the time for safetensors that comparing the weights of a torch file may take."""
ROUNDS = 3
LONG = 60.0
"""Seconds from which on a command is run once only."""
NOT_RUN = frozenset({2, 3})
"""Exit codes of modelguard that say that it did not do what is measured."""


def cpu_seconds(command: Sequence[str]) -> float:
    """CPU time, user and system, of a process and its children. Raises RuntimeError where it is modelguard and did not do its work."""
    process = subprocess.Popen(list(command), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    if (code := os.waitstatus_to_exitcode(status)) < 0 or (code in NOT_RUN and Path(command[0]).name == "modelguard"):
        raise RuntimeError(f"{' '.join(command[:3])} ... ended with {code}")
    return usage.ru_utime + usage.ru_stime


def least(commands: Mapping[str, Sequence[str]], rounds: int = ROUNDS) -> dict[str, float]:
    """The least CPU time of each command, taken alternately."""
    best = dict.fromkeys(commands, float("inf"))
    for number in range(rounds):
        for name, command in commands.items():
            if number == 0 or best[name] < LONG:
                best[name] = min(best[name], cpu_seconds(command))
    return best


def environment(folder: Path, requirements: Sequence[str]) -> Path:
    """The ``bin`` folder of a virtual environment with ``requirements``, made on first use."""
    if not (folder / "ready").exists():
        subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True)
        subprocess.run([str(folder / "bin" / "pip"), "install", "-q", *requirements], check=True)
        (folder / "ready").touch()
    return folder / "bin"


def ours(folder: Path) -> Path:
    """modelguard as wheels of this checkout, core and modelguard-serialization, in an environment of their own."""
    root = HERE.parent
    parts = [root, root / "plugins" / "modelguard-serialization"]
    subprocess.run([sys.executable, "-m", "venv", "--clear", str(folder)], check=True)
    wheels = folder / "wheels"
    subprocess.run([str(folder / "bin" / "pip"), "wheel", "-q", "--no-deps", "-w", str(wheels), *map(str, parts)], check=True)
    constraints = ["-c", str(root / "constraints.txt")]
    subprocess.run([str(folder / "bin" / "pip"), "install", "-q", *constraints, *map(str, wheels.glob("*.whl"))], check=True)
    return folder / "bin"


def each(bin: Path, files: Sequence[Path]) -> list[str]:
    """fickling has no command for a folder: its own function, file by file, in one process."""
    code = "import sys\nfrom fickling.loader import scan_file\nfor path in sys.argv[1:]: scan_file(path, graceful=True)"
    return [str(bin / "python"), "-c", code, *map(str, files)]


def commands(bins: Mapping[str, Path], target: Path) -> dict[str, list[str]]:
    files = sorted(target.rglob("*")) if target.is_dir() else [target]
    return {
        "modelguard": [str(bins["modelguard"] / "modelguard"), "scan", str(target), "--quiet", "--no-cache"],
        "picklescan": [str(bins["picklescan"] / "picklescan"), "-p", str(target)],
        "fickling": each(bins["fickling"], files),
        "hayward": [str(bins["hayward"] / "hayward"), "scan", str(target)],
        "modelaudit": [str(bins["modelaudit"] / "modelaudit"), "scan", str(target), "--quiet", "--no-cache"],
    }


def write_folder(folder: Path) -> None:
    """300 files as frameworks write them: pickles of every protocol, joblib, torch files of both kinds."""
    import joblib
    import numpy as np
    import torch
    from sklearn.ensemble import RandomForestClassifier
    from sklearn.linear_model import LogisticRegression

    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(200, 8)), rng.integers(0, 2, 200)
    for number in range(100):
        value = {"name": str(number), "weights": rng.normal(size=(32, 64)), "steps": list(range(200))}
        (folder / f"{number:03d}.pkl").write_bytes(pickle.dumps(value, number % 6))
    for number in range(100):
        state = {f"layers.{layer}.weight": torch.randn(64, 64) for layer in range(12)}
        torch.save(state, folder / f"{number:03d}.pt", _use_new_zipfile_serialization=bool(number % 4))
    for number in range(100):
        model = LogisticRegression().fit(x, y) if number % 2 else RandomForestClassifier(10, random_state=number).fit(x, y)
        joblib.dump(model, folder / f"{number:03d}.joblib")


def folder(bins: Mapping[str, Path], temporary: Path) -> tuple[dict[str, Any], bool]:
    place = temporary / "folder"
    place.mkdir()
    write_folder(place)
    took = least(commands(bins, place))
    mine = took["modelguard"]
    times = {name: took[name] / mine for name in FASTER}
    for name, seconds in took.items():
        against = f"   ours is {times[name]:.1f} x as fast   (figure: >= {FASTER[name]:g} x)" if name in times else ""
        print(f"300 files   {name:<12} {seconds:7.2f} s CPU{against}")
    return {"seconds": took, "times": times}, all(times[name] >= figure for name, figure in FASTER.items())


def small(bins: Mapping[str, Path], temporary: Path) -> tuple[dict[str, Any], bool]:
    place = temporary / "small.pkl"
    place.write_bytes(pickle.dumps({"a": [1, 2, 3], "b": "x" * 100}))
    took = least({name: command for name, command in commands(bins, place).items() if name in ("modelguard", "picklescan")}, 10)
    ratio = took["modelguard"] / took["picklescan"]
    print(
        f"one small pickle: {took['modelguard']:.3f} s, picklescan {took['picklescan']:.3f} s CPU: {ratio:.2f} x (figure: <= {SMALL:g} x)"
    )
    return {"seconds": took, "ratio": ratio}, ratio <= SMALL


def many(bins: Mapping[str, Path], temporary: Path) -> tuple[dict[str, Any], bool]:
    took: dict[int, float] = {}
    for count in (1_000, 10_000):
        place = temporary / f"many-{count}"
        place.mkdir()
        for number in range(count):
            (place / f"{number:05d}.pkl").write_bytes(pickle.dumps({"n": number, "data": os.urandom(3000)}))
        took[count] = least({"": [str(bins["modelguard"] / "modelguard"), "scan", str(place), "--quiet", "--no-cache"]}, 2)[""]
    files = sorted((temporary / "many-10000").iterdir())
    hashing = min(_hashing(files) for _ in range(3))
    start = least({"": [str(bins["modelguard"] / "modelguard"), "scan", str(files[0]), "--quiet", "--no-cache"]})[""]
    ratio, growth = took[10_000] / (hashing + start), (took[10_000] - start) / (took[1_000] - start)
    print(f"10 000 files: {took[10_000]:.2f} s, hashing {hashing:.2f} s + start-up {start:.2f} s: {ratio:.2f} x (figure: <= {MANY:g} x)")
    print(f"10 000 files take {growth:.1f} x what 1 000 take")
    return {"seconds": took, "hashing": hashing, "start": start, "ratio": ratio, "growth": growth}, ratio <= MANY


def _hashing(files: Sequence[Path]) -> float:
    began = time.process_time()
    for file in files:
        with file.open("rb") as handle:
            hashlib.file_digest(handle, "sha256")
    return time.process_time() - began


def large(bins: Mapping[str, Path], temporary: Path) -> tuple[dict[str, Any], bool]:
    """2 GB: what of it is in memory after the look at its code, and its weights compared against those of safetensors."""
    import torch
    from safetensors.torch import save_file

    tensors = {f"layers.{number}.weight": torch.randn(4096, 4096) for number in range(32)}
    changed = {name: tensor if number else tensor * 1.5 for number, (name, tensor) in enumerate(tensors.items())}
    names = {}
    for kind, save in (("pt", torch.save), ("safetensors", save_file)):
        names[kind] = (temporary / f"a.{kind}", temporary / f"b.{kind}")
        save(tensors, names[kind][0])
        save(changed, names[kind][1])
    del tensors, changed
    share = _read(names["pt"][0])
    print(f"2 GB torch file: {share:.1%} of it read for the verdict on its code (figure: <= {READ:.0%})")
    diff = [str(bins["modelguard"] / "modelguard"), "diff", "--quiet", "--no-cache"]
    took = least({kind: [*diff, *map(str, pair)] for kind, pair in names.items()})
    ratio = took["pt"] / took["safetensors"]
    print(
        f"weights compared: torch {took['pt']:.1f} s, safetensors {took['safetensors']:.1f} s CPU: {ratio:.2f} x (figure: <= {WEIGHTS:g} x)"
    )
    return {"read": share, "seconds": took, "ratio": ratio}, share <= READ and ratio <= WEIGHTS


def _read(file: Path) -> float:
    """The share of ``file`` that a look at its code brings into the page cache."""
    from modelguard_serialization.detector import ExecutableContent

    from modelguard import Artifact, ArtifactFile, ScanContext, Target

    with file.open("rb") as handle:
        os.fsync(handle.fileno())
        os.posix_fadvise(handle.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    size = file.stat().st_size
    artifact = Artifact(file.name, "local:large", file.parent, (ArtifactFile(file.name, file, size),))
    for _ in ExecutableContent().detect(Target(artifact), ScanContext()):
        pass
    said = subprocess.run(["fincore", "--bytes", "--noheadings", "--output", "RES", str(file)], check=True, capture_output=True, text=True)
    return int(said.stdout) / size


PARTS: Mapping[str, Callable[[Mapping[str, Path], Path], tuple[dict[str, Any], bool]]] = {
    "folder": folder,
    "small": small,
    "many": many,
    "large": large,
}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--peers", type=Path, default=HERE.parent / ".bench" / "peers")
    parser.add_argument("--only", nargs="+", choices=PARTS, default=list(PARTS))
    arguments = parser.parse_args()
    bins = (
        {name: environment(arguments.peers / name, needs) for name, needs in PEERS.items()}
        if {"folder", "small"} & {*arguments.only}
        else {}
    )
    bins["modelguard"] = ours(arguments.peers / "modelguard")
    results: dict[str, Any] = json.loads(RESULT.read_text(encoding="utf-8")) if RESULT.exists() else {}
    held = True
    for name in arguments.only:
        with tempfile.TemporaryDirectory() as temporary:
            results[name], good = PARTS[name](bins, Path(temporary))
        held = held and good
        RESULT.write_text(json.dumps(results, indent=2, sort_keys=True) + "\n", encoding="utf-8")
    return 0 if held else 1


if __name__ == "__main__":
    sys.exit(main())
