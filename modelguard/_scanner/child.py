"""The parent's end of one worker process: starts it, reads its events under limits, and never outlives it."""

from __future__ import annotations

import contextlib
import os
import select
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import IO, Any

from modelguard._scanner.events import MAX_LINE, MAX_TOTAL, decode_line
from modelguard._scanner.isolation import worker_environment
from modelguard._scanner.job import Job, Task, dump_tasks

LOG_TAIL = 1 << 13
LEAVE = 3.0
"""Seconds a worker that has nothing left to do gets to end by itself before it is killed."""


class WorkerError(Exception):
    """The worker can no longer be used; the text says what became of it."""


class WorkerTimeout(WorkerError):
    """No event came before the deadline."""


class Child:
    """A running worker. Use as a context manager: leaving it kills the worker's whole process group and removes its home.

    Raises :class:`WorkerError` when the system lets no worker start: no space for temporary files, no memory, too many processes.
    """

    def __init__(self, job: Job) -> None:
        try:
            self._start(job)
        except OSError as error:
            raise WorkerError(f"could not be started ({error.strerror or error})") from error

    def _start(self, job: Job) -> None:
        self._home = Path(tempfile.mkdtemp(prefix="modelguard-"))
        read_end, write_end = os.pipe()
        try:
            self._process = subprocess.Popen(
                [sys.executable, "-I", "-m", "modelguard._scanner.worker", str(write_end)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                pass_fds=(write_end,),
                env=worker_environment(os.environ, str(self._home), job.limits.threads),
                cwd=self._home,
                start_new_session=True,
            )
        except BaseException:
            os.close(read_end)
            shutil.rmtree(self._home, ignore_errors=True)
            raise
        finally:
            os.close(write_end)
        self._events = read_end
        self._buffer = bytearray()
        self._received = 0
        self._log = bytearray()
        assert self._process.stdout is not None
        self._drain = threading.Thread(target=self._keep_tail, args=(self._process.stdout,), daemon=True)
        self._drain.start()
        self._send(job.dump())

    def __enter__(self) -> Child:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def close(self) -> None:
        """Kill what is left of the worker and its children, and remove its home."""
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
        for stream in (self._process.stdin, self._process.stdout):
            if stream is not None:
                with contextlib.suppress(OSError):
                    stream.close()
        with contextlib.suppress(OSError):
            os.close(self._events)
        shutil.rmtree(self._home, ignore_errors=True)

    def dismiss(self) -> None:
        """Let a worker that has nothing left to do end by itself, then :meth:`close`."""
        assert self._process.stdin is not None
        try:
            with contextlib.suppress(OSError):
                self._process.stdin.close()
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(timeout=LEAVE)
        finally:
            self.close()

    def start(self, tasks: Sequence[Task]) -> None:
        """Hand over the tasks. Once per worker."""
        self._send(dump_tasks(tasks))

    def reset_quota(self) -> None:
        """Begin counting the bytes of another detector."""
        self._received = 0

    def event(self, deadline: float) -> dict[str, Any]:
        """The next event, waiting until ``deadline`` (``time.monotonic``).

        Raises :class:`WorkerTimeout`, or :class:`WorkerError` when the worker died, or sends what is no event or too much.
        """
        while (end := self._buffer.find(b"\n")) < 0:
            if len(self._buffer) > MAX_LINE:
                raise WorkerError(f"sent an event of more than {MAX_LINE >> 20} MiB")
            wait = deadline - time.monotonic()
            if wait <= 0:
                raise WorkerTimeout
            # select in slices, so that Ctrl-C is noticed at once on every platform
            if not select.select([self._events], [], [], min(wait, 1.0))[0]:
                continue
            block = os.read(self._events, 1 << 18)
            if not block:
                raise WorkerError(self._epitaph())
            self._received += len(block)
            if self._received > MAX_TOTAL:
                raise WorkerError(f"sent more than {MAX_TOTAL >> 20} MiB of events")
            self._buffer += block
        line = bytes(self._buffer[:end])
        del self._buffer[: end + 1]
        try:
            return decode_line(line)
        except (ValueError, RecursionError):
            raise WorkerError(f"wrote {line[:40]!r} to the event pipe, which is no event") from None

    def _send(self, line: str) -> None:
        assert self._process.stdin is not None
        with contextlib.suppress(BrokenPipeError):  # a worker that died already is noticed at the next event
            self._process.stdin.write(line.encode() + b"\n")
            self._process.stdin.flush()

    def _keep_tail(self, stream: IO[bytes]) -> None:
        with contextlib.suppress(ValueError, OSError):
            while block := os.read(stream.fileno(), 1 << 16):
                self._log += block
                del self._log[:-LOG_TAIL]

    def _epitaph(self) -> str:
        """What became of a worker whose event pipe closed."""
        try:
            code = self._process.wait(timeout=5)
        except subprocess.TimeoutExpired:
            return "closed its event pipe"
        self._drain.join(timeout=1)
        if code < 0:
            name = signal.Signals(-code).name if -code in set(signal.Signals) else f"signal {-code}"
            hint = ", perhaps by the system for want of memory" if name == "SIGKILL" else ""
            return f"was killed by {name}{hint}"
        lines = [line for line in self._log.decode("utf-8", "replace").splitlines() if line.strip()]
        said = f" (its last words: {lines[-1].strip()[:200]})" if code != 0 and lines else ""
        return f"exited with status {code} before it was done{said}"
