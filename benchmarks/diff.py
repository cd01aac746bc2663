"""Speed and memory of weight-diff against ``cat``, and with --cases how often it is right; prints tables and writes JSON.

Every ratio is taken in one run on one machine, page cache warm, against ``cat A B > /dev/null`` on the same pair. A diff is timed
in a process of its own, from opening the files to the verdict; interpreter start and imports are not counted.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

RESULTS = Path(__file__).parent / "results"
MIB = 1 << 20


def layout(size: int) -> Iterator[tuple[str, tuple[int, int]]]:
    """Names and shapes of a Llama-like bfloat16 model of about ``size`` bytes."""
    d = 4096 if size >= 1 << 30 else 1024
    ff = 11008 if d == 4096 else 2752
    per_layer = 2 * (4 * d * d + 3 * d * ff)
    yield "model.embed_tokens.weight", (4 * d, d)
    for index in range(max(2, round((size - 8 * d * d) / per_layer))):
        for name in ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.o_proj"):
            yield f"model.layers.{index}.{name}.weight", (d, d)
        for name, shape in (("mlp.gate_proj", (ff, d)), ("mlp.up_proj", (ff, d)), ("mlp.down_proj", (d, ff))):
            yield f"model.layers.{index}.{name}.weight", shape


def write(path: Path, size: int, edit: Callable[[str, npt.NDArray[Any]], npt.NDArray[Any]] = lambda name, block: block) -> None:
    """A checkpoint whose values depend on ``size`` alone; ``edit`` changes tensors on their way to the file."""
    import ml_dtypes

    header: dict[str, Any] = {}
    offset = 0
    shapes = list(layout(size))
    for name, (m, n) in shapes:
        header[name] = {"dtype": "BF16", "shape": [m, n], "data_offsets": [offset, offset + 2 * m * n]}
        offset += 2 * m * n
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 64)
    rng = np.random.default_rng(0)
    pool = (0.02 * rng.standard_normal(1 << 26, dtype=np.float32)).astype(ml_dtypes.bfloat16)
    with path.open("wb") as out:
        out.write(len(text).to_bytes(8, "little") + text)
        for index, (name, (m, n)) in enumerate(shapes):
            shift = (index * 7919 * 64) % (len(pool) // 8)
            values = np.resize(pool[shift:], m * n).reshape(m, n)
            out.write(edit(name, values).tobytes())


def dense(name: str, values: npt.NDArray[Any]) -> npt.NDArray[Any]:
    rng = np.random.default_rng(list(name.encode()))
    # A prime period keeps rows from repeating, which would make the change low-rank.
    noise = 0.0002 * rng.standard_normal(4194301, dtype=np.float32)
    step = np.resize(noise, values.size).reshape(values.shape)
    return (values.astype(np.float32) + step).astype(values.dtype)


def one_edit(name: str, values: npt.NDArray[Any]) -> npt.NDArray[Any]:
    if name != "model.layers.1.mlp.down_proj.weight":
        return values
    rng = np.random.default_rng(1)
    wide = values.astype(np.float32)
    left, right = rng.standard_normal(len(wide), dtype=np.float32), rng.standard_normal(wide.shape[1], dtype=np.float32)
    scale = 0.035 * np.linalg.norm(wide) / (np.linalg.norm(left) * np.linalg.norm(right))
    return (wide + np.outer(scale * left, right)).astype(values.dtype)


def child(reference: str, checkpoint: str, threads: int) -> None:
    """Time one diff and watch the process's anonymous memory; prints one line of JSON."""
    from modelguard_weight_diff import diff_checkpoints

    from modelguard import Artifact, ArtifactFile
    from modelguard._formats.safetensors import SafetensorsFormat

    peak, stop = [0], threading.Event()

    def anonymous() -> int:
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith("RssAnon"):
                return int(line.split()[1]) * 1024
        return 0

    def watch() -> None:
        while not stop.wait(0.01):
            peak[0] = max(peak[0], anonymous())

    def opened(name: str) -> Any:
        path = Path(name)
        file = ArtifactFile(path.name, path, path.stat().st_size)
        return SafetensorsFormat().open(file, Artifact(name, "local:bench", path.parent, (file,)))[0]

    watcher = threading.Thread(target=watch)
    watcher.start()
    began, cpu = time.perf_counter(), time.process_time()
    diff = diff_checkpoints([opened(reference)], [opened(checkpoint)], threads=threads)
    took, cpu = time.perf_counter() - began, time.process_time() - cpu
    stop.set()
    watcher.join()
    print(
        json.dumps(
            {"seconds": took, "cpu_seconds": cpu, "anonymous": peak[0], "verdict": diff.verdict.verdict, "tensors": len(diff.tensors)}
        )
    )


def measure(reference: Path, checkpoint: Path, threads: int) -> dict[str, Any]:
    done = subprocess.run(
        [sys.executable, __file__, "--child", str(reference), str(checkpoint), str(threads)], check=True, capture_output=True, text=True
    )
    result: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return result


def cat(*paths: Path) -> float:
    """Seconds of wall clock; what other programs take of the machine meanwhile is in it, as it is in a diff's seconds."""
    began = time.perf_counter()
    with open("/dev/null", "wb") as null:
        subprocess.run(["cat", *map(str, paths)], check=True, stdout=null)
    return time.perf_counter() - began


def against_cat(reference: Path, checkpoint: Path, threads: int, rounds: int) -> dict[str, Any]:
    """The best of ``rounds`` of each, taken in turns."""
    cat(reference, checkpoint)
    cats, runs = [], []
    for _ in range(rounds):
        cats.append(cat(reference, checkpoint))
        runs.append(measure(reference, checkpoint, threads))
    best = min(runs, key=lambda run: run["seconds"])
    return {**best, "cat_seconds": min(cats), "ratio": best["seconds"] / min(cats), "anonymous": max(run["anonymous"] for run in runs)}


def speed(size: int, sizes: tuple[int, int], rounds: int, folder: Path, parts: set[str]) -> dict[str, Any]:
    a, b = folder / "a.safetensors", folder / "b.safetensors"
    result: dict[str, Any] = {"bytes": size}
    write(a, size)
    works = (("identical", None, 1.5, "identical"), ("one edited", one_edit, 1.8, "rank1-edit"), ("dense", dense, 6.0, "fine-tune"))
    for work, edit, figure, verdict in works:
        if work not in parts:
            continue
        write(b, size, edit or (lambda name, values: values))
        row = against_cat(a, b, 2, rounds)
        result[work] = row
        ok = row["ratio"] <= figure and row["verdict"] == verdict
        times = f"{row['seconds']:7.2f} s   cat {row['cat_seconds']:6.2f} s   {row['ratio']:5.2f} x (figure: <= {figure} x)"
        rest = f"cpu {row['cpu_seconds']:6.2f} s   anonymous {row['anonymous'] / MIB:5.0f} MiB   {row['verdict']}"
        print(f"{work:12s} {times}   {rest}{'' if ok else '   MISSED'}", flush=True)
        if work == "dense" and "threads" in parts:
            one = min(measure(a, b, 1)["seconds"] for _ in range(rounds))
            two = min(measure(a, b, 2)["seconds"] for _ in range(rounds))
            result["threads"] = {"one": one, "two": two, "ratio": one / two}
            missed = "" if one / two >= 1.6 else "   MISSED"
            print(f"{'threads':12s} one {one:.2f} s, two {two:.2f} s   {one / two:5.2f} x (figure: >= 1.6 x){missed}", flush=True)
    if "memory" in parts:
        rows = []
        for bytes_ in sizes:
            write(a, bytes_)
            write(b, bytes_, dense)
            rows.append(measure(a, b, 2))
            peak = rows[-1]["anonymous"] / MIB
            print(f"{'memory':12s} {bytes_ / 2**30:5.2f} GiB files: anonymous {peak:6.0f} MiB (figure: <= 1024 MiB)", flush=True)
        result["memory"] = [{"bytes": bytes_, **row} for bytes_, row in zip(sizes, rows, strict=True)]
    return result


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="sizes for CI instead of 4 GB and 8 GB")
    parser.add_argument("--size", type=float, help="GB of each file")
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--only", help="comma-separated: identical, one edited, dense, threads, memory")
    parser.add_argument("--folder", help="where the files are made (and removed again)")
    parser.add_argument("--cases", action="store_true", help="judge classification on generated cases instead of speed")
    parser.add_argument("--child", nargs=3, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.child:
        child(given.child[0], given.child[1], int(given.child[2]))
        return 0
    result: dict[str, Any] = {}
    RESULTS.mkdir(exist_ok=True)
    if given.cases or not given.only:
        result["cases"] = classification(given.quick)
        (RESULTS / "diff_cases.json").write_text(json.dumps(result["cases"], indent=2) + "\n")
    if given.cases:
        return 0
    size = int((given.size or (0.25 if given.quick else 4)) * 1e9)
    sizes = (int(1e8), int(4e8)) if given.quick else (int(1e9), int(8e9))
    parts = set(given.only.split(",")) if given.only else {"identical", "one edited", "dense", "threads", "memory"}
    with tempfile.TemporaryDirectory(dir=given.folder) as folder:
        (RESULTS / "diff.json").write_text(json.dumps(speed(size, sizes, given.rounds, Path(folder), parts), indent=2) + "\n")
    return 0


def classification(quick: bool) -> dict[str, Any]:
    """Judge on seeds and shapes that no threshold was tuned on."""
    from diff_cases import judge

    shapes = ((256, 384), (300, 704)) if quick else ((256, 384), (300, 704), (96, 1000), (448, 192))
    found = judge(range(1000, 1001) if quick else range(1000, 1003), shapes)
    print(f"{found['cases']} cases: kind right {found['kind_right']:.2%} (figure: >= 98 %)")
    print(f"rank exact {found['rank_exact']:.2%} of {found['ranked']} (figure: >= 99 %)")
    print(f"false ROME verdicts {found['false_rome']} (figure: 0)", flush=True)
    return found


if __name__ == "__main__":
    sys.exit(main())
