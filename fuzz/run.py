"""Coverage-guided fuzzing of every parser, with atheris.

    python fuzz/run.py [--seconds 60] [TARGET ...]     fuzz each target (all, when none is named) so long
    python fuzz/run.py TARGET --input FILE             run one input again

A run fails on the first crash, on an input that takes longer than ten seconds, and on one that needs more than two gigabytes; the input
is kept in ``.fuzz/TARGET/``. What is found there becomes a test before it is mended. The corpus grows in ``.fuzz/TARGET/corpus``.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

HERE = Path(__file__).resolve().parent
KEPT = HERE.parent / ".fuzz"
SLOW = 10
"""Seconds of one input that count as a hang."""
MEMORY = 2048
"""MiB of one process that count as a blow-up."""
LARGEST = 1 << 14
"""Bytes of the largest input."""


def fuzz(target: str, seconds: int) -> tuple[str, str]:
    """Fuzz one target in a process of its own: its name, and the end of what libFuzzer wrote, empty when nothing was found."""
    corpus = KEPT / target / "corpus"
    corpus.mkdir(parents=True, exist_ok=True)
    limits = [f"-max_total_time={seconds}", f"-timeout={SLOW}", f"-rss_limit_mb={MEMORY}", f"-max_len={LARGEST}"]
    command = [sys.executable, str(HERE / "run.py"), "--inside", target, *limits, f"-artifact_prefix={KEPT / target}/", str(corpus)]
    done = subprocess.run(command, capture_output=True, text=True, errors="replace", check=False)
    lines = done.stderr.splitlines()
    (KEPT / target / "log").write_text(done.stderr, encoding="utf-8")
    runs = next((line for line in reversed(lines) if line.startswith("Done ")), "no summary")
    print(f"{target}: {runs if not done.returncode else 'FAILED'}", flush=True)
    return target, "\n".join(lines[-12:]) if done.returncode else ""


def inside(target: str, arguments: list[str]) -> None:
    """The fuzzing process: everything of ours is instrumented before it is imported."""
    import atheris

    with atheris.instrument_imports(include=["modelguard", "modelguard_serialization"]):
        from targets import NAMES, targets

        work = targets()[target]
    from fuzz_seeds import seeds

    corpus = Path(arguments[-1])
    for number, seed in enumerate(seeds()):
        # A target that takes a name from the first byte gets each seed under every name.
        for prefix in range(len(NAMES)) if target.startswith("read-") else (None,):
            (corpus / f"seed-{number:03d}-{prefix}").write_bytes(seed if prefix is None else bytes([prefix]) + seed)
    atheris.Setup([sys.argv[0], *arguments], work)
    atheris.Fuzz()


def main() -> int:
    if sys.argv[1:2] == ["--inside"]:
        inside(sys.argv[2], sys.argv[3:])
        return 0
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("targets", nargs="*", metavar="TARGET")
    parser.add_argument("--seconds", type=int, default=60, help="of each target")
    parser.add_argument("--input", type=Path, help="run this input once, and do not fuzz")
    arguments = parser.parse_args()
    from targets import targets

    known = targets()
    if unknown := sorted(set(arguments.targets) - known.keys()):
        parser.error(f"no target {unknown[0]!r}; there are: {', '.join(known)}")
    if arguments.input is not None:
        for name in arguments.targets:
            known[name](arguments.input.read_bytes())
        return 0
    with ThreadPoolExecutor(len(os.sched_getaffinity(0))) as pool:
        found = [(name, tail) for name, tail in pool.map(lambda name: fuzz(name, arguments.seconds), arguments.targets or known) if tail]
    for name, tail in found:
        print(f"\n{name}: the input is in {KEPT / name}\n{tail}")
    print(f"{len(arguments.targets or known)} targets, {arguments.seconds} s each: {len(found)} failed")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
