"""Models on a Ray cluster: what is sent and what comes back is text; files never go through Ray, each node reads its own.

``RAY_ADDRESS`` names a cluster; without it one is started on this machine, for as long as the run takes.
"""

from __future__ import annotations

import contextlib
import json
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from typing import Any

from modelguard._fleet.targets import FleetTarget
from modelguard._fleet.work import lost, perform
from modelguard.errors import ModelguardError, UsageError

RETRIES = 2
"""How often a model is begun again whose worker, or node, died."""
AHEAD = 2
"""Tasks for each worker that are handed to Ray before one ends, so that none waits for the next."""


def _there(cwd: str, work: str) -> str:
    """:func:`perform` in the folder that relative paths are meant from, where the node has it."""
    with contextlib.suppress(OSError):
        os.chdir(cwd)
    return perform(work)


class RayCluster:
    """A context manager; leaving it ends what still runs, and the cluster that it started. ``workers`` limits how many models are scanned
    at the same time; each takes ``cpus``, ``gpus`` and ``memory`` (bytes) of the cluster. Raises :class:`UsageError` without Ray."""

    def __init__(self, workers: int | None, *, cpus: int = 1, gpus: float = 0.0, memory: int | None = None) -> None:
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
        try:
            import ray
        except ImportError as error:
            raise UsageError("--executor ray", f"needs Ray ({error})", "pip install 'modelguard-core[ray]', or leave it out") from error
        self._ray: Any = ray
        self._workers = workers
        self._needs: dict[str, Any] = {"num_cpus": cpus, "num_gpus": gpus, **({"memory": memory} if memory else {})}
        self._started = False
        self._aside = contextlib.ExitStack()

    def __enter__(self) -> RayCluster:
        # Ray tells of workers that died on standard output, where the summary goes.
        self._aside.enter_context(contextlib.redirect_stdout(sys.stderr))
        if not self._ray.is_initialized():
            address = os.environ.get("RAY_ADDRESS")
            size = {} if address or self._workers is None else {"num_cpus": self._workers * self._needs["num_cpus"]}
            try:
                self._ray.init(address=address or "local", include_dashboard=False, log_to_driver=False, logging_level="ERROR", **size)
            except Exception as error:
                self._aside.close()
                remedy = "check RAY_ADDRESS and the cluster, or scan with --executor local"
                raise ModelguardError("--executor ray", f"no cluster could be reached or started ({_line(error)})", remedy) from error
            self._started = True
        return self

    def __exit__(self, *exc: object) -> None:
        with self._aside:
            if self._started:
                self._ray.shutdown()

    def run(self, asked: Mapping[str, Any], targets: Sequence[FleetTarget]) -> Iterator[tuple[FleetTarget, Mapping[str, Any]]]:
        """Each target with its answer, as they come."""
        # max_calls ends a worker after a model that used a GPU, whose memory is free only then.
        more = {"max_calls": 1} if self._needs["num_gpus"] else {}
        task = self._ray.remote(max_retries=RETRIES, **self._needs, **more)(_there)
        most = self._workers or AHEAD * max(1, int(self._ray.cluster_resources().get("CPU", 1) / max(self._needs["num_cpus"], 1)))
        left = list(reversed(targets))
        running: dict[Any, FleetTarget] = {}
        try:
            while left or running:
                while left and len(running) < most:
                    target = left.pop()
                    running[task.remote(os.getcwd(), json.dumps({"asked": asked, "target": asdict(target)}))] = target
                for ref in self._ray.wait(list(running), num_returns=1, timeout=0.5)[0]:  # in slices, so that Ctrl-C is noticed
                    target = running.pop(ref)
                    yield target, self._answer(target, ref)
        finally:
            for ref in running:
                with contextlib.suppress(Exception):
                    self._ray.cancel(ref, force=True)

    def _answer(self, target: FleetTarget, ref: Any) -> Mapping[str, Any]:
        try:
            answer: Mapping[str, Any] = json.loads(self._ray.get(ref))
        except Exception as error:
            said = f"Ray gave it up after {RETRIES + 1} tries ({_line(error)})"
            return {"row": lost(str(ModelguardError(target.uri, said, "scan it alone"))), "report": ""}
        return answer


def _line(error: Exception) -> str:
    return f"{type(error).__name__}: {error}".strip().splitlines()[0][:200]
