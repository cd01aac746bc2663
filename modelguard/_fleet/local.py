"""Processes on this machine, one model at a time in each. One that dies costs its model a second try, and the pool goes on."""

from __future__ import annotations

import contextlib
import json
import os
import queue
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from typing import Any

from modelguard._fleet.targets import FleetTarget
from modelguard._fleet.work import lost
from modelguard.errors import ModelguardError

TRIES = 2
LEAVE = 5.0
"""Seconds a process gets to end its worker before it is killed."""


class _Runner:
    def __init__(self) -> None:
        read, write = os.pipe()
        try:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "modelguard._fleet.runner", str(write)],
                stdin=subprocess.PIPE,
                stdout=subprocess.DEVNULL,
                pass_fds=(write,),
                start_new_session=True,
                text=True,
            )
        except BaseException:
            os.close(read)
            raise
        finally:
            os.close(write)
        self.answers = os.fdopen(read, "r", encoding="utf-8")

    def ask(self, work: str) -> str:
        """The answer; empty where the process died."""
        assert self.process.stdin is not None
        try:
            self.process.stdin.write(work + "\n")
            self.process.stdin.flush()
        except (OSError, ValueError):
            return ""
        answer = self.answers.readline()
        return answer if answer.endswith("\n") else ""

    def leave(self) -> None:
        """Let it end; a scan in progress is given up."""
        with contextlib.suppress(OSError, ValueError):
            assert self.process.stdin is not None
            self.process.stdin.close()

    def close(self) -> int:
        """Wait until it has ended, if need be by force; how it ended."""
        self.leave()
        try:
            code = self.process.wait(LEAVE)
        except subprocess.TimeoutExpired:
            self.process.kill()
            code = self.process.wait()
        self.answers.close()
        return code


class LocalPool:
    """``workers`` processes. A context manager: leaving it ends them all."""

    name = "local"

    def __init__(self, workers: int) -> None:
        self._workers = workers
        self._runners: dict[int, _Runner] = {}
        self._threads: list[threading.Thread] = []
        self._stopped = threading.Event()
        self._lock = threading.Lock()

    def __enter__(self) -> LocalPool:
        return self

    def __exit__(self, *exc: object) -> None:
        self._stopped.set()
        with self._lock:
            for runner in self._runners.values():
                runner.leave()
        for thread in self._threads:
            thread.join()

    def run(self, asked: Mapping[str, Any], targets: Sequence[FleetTarget]) -> Iterator[tuple[FleetTarget, Mapping[str, Any]]]:
        """Each target with its answer, as they come."""
        work: queue.SimpleQueue[FleetTarget] = queue.SimpleQueue()
        done: queue.SimpleQueue[tuple[FleetTarget, Mapping[str, Any]]] = queue.SimpleQueue()
        for target in targets:
            work.put(target)
        for number in range(min(self._workers, len(targets))):
            thread = threading.Thread(target=self._serve, args=(number, json.dumps(asked), work, done), daemon=True)
            self._threads.append(thread)
            thread.start()
        for _ in targets:
            while True:
                with contextlib.suppress(queue.Empty):
                    yield done.get(timeout=0.5)  # in slices, so that Ctrl-C is noticed
                    break

    def _serve(self, number: int, asked: str, work: queue.SimpleQueue[FleetTarget], done: queue.SimpleQueue[Any]) -> None:
        runner: _Runner | None = None
        while not self._stopped.is_set():
            try:
                target = work.get_nowait()
            except queue.Empty:
                break
            line = f'{{"asked": {asked}, "target": {json.dumps(asdict(target))}}}'
            answer, said = "", ""
            for _ in range(TRIES):
                try:
                    runner = runner or self._start(number)
                    answer = runner.ask(line)
                except OSError as error:
                    said = f"no process could be started for it ({error.strerror or error})"
                    continue
                if answer or self._stopped.is_set():
                    break
                code = self._close(number, runner)
                runner = None
                said = f"the process that scanned it died {TRIES} times ({_how(code)}); scan it alone, with more memory"
            if not answer and self._stopped.is_set():
                break
            done.put((target, json.loads(answer) if answer else {"row": lost(str(ModelguardError(target.uri, said))), "report": ""}))
        if runner is not None:
            self._close(number, runner)

    def _start(self, number: int) -> _Runner:
        with self._lock:
            self._runners[number] = made = _Runner()
        return made

    def _close(self, number: int, runner: _Runner) -> int:
        with self._lock:
            self._runners.pop(number, None)
        return runner.close()


def _how(code: int) -> str:
    return f"signal {-code}" if code < 0 else f"status {code}"
