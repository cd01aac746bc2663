"""A fleet from its targets to the rows of its summary: what is done is written down at once, and nothing is done twice."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Any, Protocol

from modelguard._fleet.journal import Journal, JournalError
from modelguard._fleet.targets import FleetTarget


class Engine(AbstractContextManager["Engine"], Protocol):
    """Where models are scanned. Leaving it ends what still runs."""

    def run(self, asked: Mapping[str, Any], targets: Sequence[FleetTarget]) -> Iterator[tuple[FleetTarget, Mapping[str, Any]]]:
        """Each target once, with what :func:`~modelguard._fleet.work.perform` answered, in the order they end."""


@dataclass
class Done:
    """``rows`` are by key of the target; ``resumed`` of them were in the journal. ``problem`` says why something could not be written
    down, ``interrupted`` that Ctrl-C came before all were done."""

    rows: dict[str, Mapping[str, Any]] = field(default_factory=dict)
    resumed: int = 0
    problem: str = ""
    interrupted: bool = False


def run_fleet(
    asked: Mapping[str, Any],
    targets: Sequence[FleetTarget],
    engine: Engine,
    journal: Journal,
    tell: Callable[[FleetTarget, Mapping[str, Any], str], None],
) -> Done:
    """Scan what the journal does not have. ``tell`` is told of each model that ends: target, row, report as ``perform`` gave it."""
    done = Done()
    before = journal.rows()
    done.rows = {target.key: before[target.entry] for target in targets if target.entry in before}
    done.resumed = len(done.rows)
    todo = [target for target in targets if target.key not in done.rows]
    try:
        if todo:
            with engine:
                for target, answer in engine.run(asked, todo):
                    row, report = answer["row"], answer["report"]
                    done.rows.setdefault(target.key, row)
                    try:
                        journal.record(target.entry, row, report)
                    except JournalError as error:
                        done.problem = done.problem or str(error)
                    tell(target, row, report)
    except KeyboardInterrupt as error:
        if type(error) is not KeyboardInterrupt:  # the process is being ended, and nobody waits for a summary
            raise
        done.interrupted = True
    if not done.interrupted and not done.problem:
        try:
            journal.finish()
        except JournalError as error:
            done.problem = str(error)
    return done
