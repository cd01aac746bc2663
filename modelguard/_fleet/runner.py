"""A process of the local pool: lines of work on standard input, a line for each on file descriptor FD.

``python -m modelguard._fleet.runner FD``. It ends when standard input does, in the middle of a scan too: whoever gave the work is gone.
"""

from __future__ import annotations

import os
import queue
import signal
import sys
import threading

from modelguard._fleet.work import perform


class _Ended(KeyboardInterrupt):
    """Unwinds a scan, so that its worker ends too."""


def _end(signum: int, frame: object) -> None:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    raise _Ended


def main() -> int:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for whoever gave the work
    signal.signal(signal.SIGTERM, _end)
    answers = os.fdopen(int(sys.argv[1]), "w", encoding="utf-8")
    work: queue.Queue[str] = queue.Queue()

    def listen() -> None:
        for line in sys.stdin:
            work.put(line)
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=listen, daemon=True).start()
    try:
        while True:
            answers.write(perform(work.get()) + "\n")
            answers.flush()
    except (_Ended, BrokenPipeError):
        os._exit(0)  # the thread that listens holds standard input


if __name__ == "__main__":
    sys.exit(main())
