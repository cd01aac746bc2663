"""The parent's end of one worker process: starts it, reads its answers under limits, and never outlives it."""

from __future__ import annotations

import contextlib
import os
import select
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterable, Mapping, Sequence
from typing import IO

from modelguard._scanner.protocol import Answer, Answers, BadAnswer, Job, Purse, Task, Tasks, ask
from modelguard._temporary import TemporaryFolder
from modelguard.detector import LookedAt

LOG_TAIL = 1 << 13
LEAVE = 3.0
"""Seconds a worker that has nothing left to do gets to end by itself before it is killed."""


# Allowed through because libraries need them to find themselves, the GPU, or the user's language; nothing here carries a secret.
_KEEP = ("PATH", "LANG", "LANGUAGE", "TZ", "LD_LIBRARY_PATH", "SYSTEMROOT", "CUDA_VISIBLE_DEVICES", "CUDA_HOME")
_KEEP_PREFIXES = ("LC_", "OMP_", "MKL_", "NVIDIA_", "COVERAGE_")


class WorkerError(Exception):
    """The worker can no longer be used; the text says what became of it."""


class WorkerTimeout(WorkerError):
    """No answer came before the deadline."""


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
        self._home = TemporaryFolder()
        read_end, write_end = os.pipe()
        try:
            self._process = subprocess.Popen(
                [sys.executable, "-I", "-m", "modelguard._scanner.worker", str(write_end)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                pass_fds=(write_end,),
                env=worker_environment(os.environ, str(self._home.path), job.limits.threads),
                cwd=self._home.path,
                start_new_session=True,
            )
        except BaseException:
            os.close(read_end)
            self._home.close()
            raise
        finally:
            os.close(write_end)
        self._pipe = read_end
        self._answers = Answers()
        self._log = bytearray()
        assert self._process.stdout is not None
        self._drain = threading.Thread(target=self._keep_tail, args=(self._process.stdout,), daemon=True)
        self._drain.start()
        self._send(ask(job))

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
            os.close(self._pipe)
        self._home.close()

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

    def start(self, tasks: Sequence[Task], looked_at: Iterable[LookedAt], purse: Purse, lost: Iterable[str]) -> None:
        """Hand over the tasks, what was looked at before, what is left of the budget, and who was lost. Once per worker."""
        self._send(ask(Tasks(tuple(tasks), tuple(looked_at), purse, tuple(lost))))

    def renew(self) -> None:
        """Begin counting the answers about another detector."""
        self._answers.renew()

    def answer(self, deadline: float) -> Answer:
        """The next answer, waiting until ``deadline`` (``time.monotonic``).

        Raises :class:`WorkerTimeout`, or :class:`WorkerError` when the worker died or cannot be believed any more, or
        :class:`~modelguard.errors.PluginError` for a finding that is malformed.
        """
        try:
            while (answer := self._answers.next()) is None:
                self._answers.feed(self._block(deadline))
            return answer
        except BadAnswer as error:
            raise WorkerError(str(error)) from None

    def _block(self, deadline: float) -> bytes:
        while True:
            wait = deadline - time.monotonic()
            if wait <= 0:
                raise WorkerTimeout
            # select in slices, so that Ctrl-C is noticed at once on every platform
            if select.select([self._pipe], [], [], min(wait, 1.0))[0]:
                if block := os.read(self._pipe, 1 << 18):
                    return block
                raise WorkerError(self._epitaph())

    def _send(self, line: bytes) -> None:
        assert self._process.stdin is not None
        with contextlib.suppress(BrokenPipeError):  # a worker that died already is noticed at the next answer
            self._process.stdin.write(line)
            self._process.stdin.flush()

    def _keep_tail(self, stream: IO[bytes]) -> None:
        with contextlib.suppress(ValueError, OSError):
            while block := os.read(stream.fileno(), 1 << 16):
                self._log += block
                del self._log[:-LOG_TAIL]

    def _epitaph(self) -> str:
        """What became of a worker whose answer pipe closed."""
        try:
            code = self._process.wait(timeout=5)
        except subprocess.TimeoutExpired:
            return "closed its answer pipe"
        self._drain.join(timeout=1)
        if code < 0:
            name = signal.Signals(-code).name if -code in set(signal.Signals) else f"signal {-code}"
            hint = ", perhaps by the system for want of memory" if name == "SIGKILL" else ""
            return f"was killed by {name}{hint}"
        lines = [line for line in self._log.decode("utf-8", "replace").splitlines() if line.strip()]
        said = f" (its last words: {lines[-1].strip()[:200]})" if code != 0 and lines else ""
        return f"exited with status {code} before it was done{said}"


def worker_environment(base: Mapping[str, str], home: str, threads: int) -> dict[str, str]:
    """The environment of a worker: an allow-list of ``base``, an empty ``home``, no token, everything offline."""
    kept = {name: value for name, value in base.items() if name in _KEEP or name.startswith(_KEEP_PREFIXES)}
    return {
        # Threads that wait for each other while spinning keep the late one off the core: on two cores that something else uses too,
        # a pass through a small network then takes ten times as long.
        "OMP_WAIT_POLICY": "PASSIVE",
        # A search allocates and frees the same buffers at every step: handing them back to the kernel each time costs an eighth of it.
        # 32 MiB is the largest that glibc takes for the first.
        "MALLOC_MMAP_THRESHOLD_": str(32 << 20),
        "MALLOC_TRIM_THRESHOLD_": str(512 << 20),
        **kept,
        "HOME": home,
        "TMPDIR": home,
        "HF_HUB_OFFLINE": "1",
        "TRANSFORMERS_OFFLINE": "1",
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "TOKENIZERS_PARALLELISM": "false",
        "OMP_NUM_THREADS": str(threads),
        "CUBLAS_WORKSPACE_CONFIG": ":4096:8",
    }
