"""Each class yields one honest finding, then misbehaves as its id says."""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import ClassVar

from modelguard import Capability, Detector, Finding, Location, Rule, ScanContext, Severity, Target, option

RULE = Rule("FAULTY-0001", "Honest", "an honest finding", Severity.LOW, "Made before the detector misbehaves.", "Nothing.")
HOSTILE = "tensor\x1b[31m\u202e\x07name"


class Faulty(Detector):
    requires: ClassVar[frozenset[Capability]] = frozenset({Capability.FILES})
    rules: ClassVar[tuple[Rule, ...]] = (RULE,)

    def detect(self, target: Target, context: ScanContext) -> Iterator[Finding]:
        yield Finding("FAULTY-0001", f"{self.id} looked", location=Location(target.artifact.files[0].path), key=self.id)
        context.summary(score=0.0)
        yield from self.misbehave(context)

    def misbehave(self, context: ScanContext) -> Iterable[Finding]:
        raise NotImplementedError


class Raises(Faulty):
    id = "faulty-raises"

    def misbehave(self, context: ScanContext) -> Iterable[Finding]:
        raise ValueError("the dog ate the tensor")


class Hangs(Faulty):
    id = "faulty-hangs"

    def misbehave(self, context: ScanContext) -> Iterable[Finding]:
        while True:
            time.sleep(1)


class Slow(Faulty):
    id = "faulty-slow"

    def misbehave(self, context: ScanContext) -> Iterable[Finding]:
        while True:
            context.check_deadline()
            context.progress(1, 2, "crawling")
            time.sleep(0.05)


class Exits(Faulty):
    id = "faulty-exits"

    def misbehave(self, context: ScanContext) -> Iterable[Finding]:
        os._exit(0)


class SystemExits(Faulty):
    id = "faulty-system-exit"

    def misbehave(self, context: ScanContext) -> Iterable[Finding]:
        raise SystemExit(0)


class Killed(Faulty):
    id = "faulty-killed"

    def misbehave(self, context: ScanContext) -> Iterable[Finding]:
        os.kill(os.getpid(), signal.SIGKILL)
        return ()


class Allocates(Faulty):
    id = "faulty-allocates"

    def misbehave(self, context: ScanContext) -> Iterable[Finding]:
        hoard = []
        while True:
            hoard.append(bytearray(64 << 20))


class Undeclared(Faulty):
    id = "faulty-undeclared"

    def misbehave(self, context: ScanContext) -> Iterable[Finding]:
        yield Finding("FAULTY-0999", "nobody declared this")


class NonFinite(Faulty):
    id = "faulty-non-finite"

    def misbehave(self, context: ScanContext) -> Iterable[Finding]:
        yield Finding("FAULTY-0001", "a finding whose evidence is not finite", evidence={"ratio": float("nan"), "fine": 1}, key="nan")


class Scoreless(Faulty):
    id = "faulty-scoreless"

    def detect(self, target: Target, context: ScanContext) -> Iterator[Finding]:
        yield Finding("FAULTY-0001", "looked", key="scoreless")


class Garbage(Faulty):
    id = "faulty-garbage"

    def misbehave(self, context: ScanContext) -> Iterable[Finding]:
        _scribble(b"\x00\xff not an event\n")
        time.sleep(60)
        return ()


class Impostor(Faulty):
    id = "faulty-impostor"

    def misbehave(self, context: ScanContext) -> Iterable[Finding]:
        said = {"status": "completed", "reason": "", "summary": {"score": 0}, "model": None}
        _scribble(json.dumps({"answer": "ended", "detector": "format-integrity", **said}).encode() + b"\n")
        time.sleep(60)
        return ()


class Flood(Faulty):
    id = "faulty-flood"

    def misbehave(self, context: ScanContext) -> Iterable[Finding]:
        for index in range(20_000):
            yield Finding("FAULTY-0001", "again", key=str(index))


class LongLine(Faulty):
    id = "faulty-long-line"

    def misbehave(self, context: ScanContext) -> Iterable[Finding]:
        block = b"x" * (1 << 20)
        for _ in range(64):
            _scribble(block)
        time.sleep(60)
        return ()


class Chatty(Faulty):
    id = "faulty-chatty"

    def misbehave(self, context: ScanContext) -> Iterable[Finding]:
        print("verdict: pass\n" * 100_000)
        return ()


class Escapes(Faulty):
    id = "faulty-escapes"

    def misbehave(self, context: ScanContext) -> Iterable[Finding]:
        yield Finding("FAULTY-0001", f"{HOSTILE} <script>alert(1)</script>", location=Location(tensor=HOSTILE), evidence={HOSTILE: HOSTILE})


@dataclass(frozen=True)
class Fine(Faulty):
    id: ClassVar[str] = "faulty-fine"

    extra: int = option(0, "how many further findings to make", ge=0, le=5)

    def misbehave(self, context: ScanContext) -> Iterable[Finding]:
        for index in range(self.extra):
            yield Finding("FAULTY-0001", f"number {index}", key=str(index))


ALL: list[type[Detector]] = [
    Raises, Hangs, Slow, Exits, SystemExits, Killed, Allocates, Undeclared, NonFinite, Scoreless, Garbage, Impostor, Flood, LongLine,
    Chatty, Escapes, Fine,
]  # fmt: skip


def _scribble(data: bytes) -> None:
    """Write to whatever pipe this process was given besides the standard streams."""
    for fd in range(3, 64):
        try:
            if os.readlink(f"/proc/self/fd/{fd}").startswith("pipe:"):
                view = memoryview(data)
                while view:
                    view = view[os.write(fd, view) :]
        except OSError:
            continue
