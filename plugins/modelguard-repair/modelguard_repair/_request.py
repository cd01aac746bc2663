"""What the user asked for, checked at the door. Imports no torch."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path

from modelguard import ModelOptions, UsageError

BEST = "best"
NAMES = ("unlearn", "fine-tune", "fine-pruning", "nad", "anp", "distil")
"""The methods, in the order of what they cost: :data:`modelguard_repair.methods.METHODS` has them."""
BLIND = ("distil", "fine-pruning", "fine-tune", "nad", "anp", "unlearn")
"""The order where no trigger is known: nothing tells a repair from none then, so what forgets most comes first. In benchmarks/repair.py
distil takes out triggers that no search recovers, which nad and anp leave."""
MAX_DROP = 2.0
MAX_ASR = 0.1


@dataclass(frozen=True)
class KnownTrigger:
    """A trigger as ``modelguard evaluate`` takes it: ``trigger`` is a picture, report, function or text; ``target`` None is the class that
    gains most."""

    trigger: str
    mask: str = ""
    finding: str = ""
    target: int | None = None


@dataclass(frozen=True)
class Request:
    """One repair.

    ``model`` is a local file or folder and ``samples`` labelled clean inputs of it; the result goes to the folder ``out``, which must not
    be there. ``methods`` are tried in the order of what they cost, and the best is kept. ``trigger`` is one that somebody knows; those
    that a scan recovers come beside it. ``report`` is a JSON report of a scan of ``model``, which spares another. The result may have lost
    ``max_drop`` points of accuracy, and have ``max_asr`` of attack success left. Scans are made under ``policy``, by ``detectors`` (None:
    all), ``quick`` and within ``budget``, before and after alike. ``progress`` hears what goes on.

    Raises :class:`~modelguard.UsageError`.
    """

    model: Path
    samples: Path
    out: Path
    methods: tuple[str, ...] = (BEST,)
    trigger: KnownTrigger | None = None
    report: Path | None = None
    policy: str | None = None
    max_drop: float = MAX_DROP
    max_asr: float = MAX_ASR
    seed: int = 0
    detectors: tuple[str, ...] | None = None
    quick: bool = False
    budget: str | None = None
    timeout: float = 900.0
    options: ModelOptions = field(default_factory=ModelOptions)
    progress: Callable[[str], None] = lambda note: None

    def __post_init__(self) -> None:
        if str(self.model).startswith("hf:"):
            raise UsageError(str(self.model), "is not on this machine", "download it first: modelguard fetch")
        for option, path in (("MODEL", self.model), ("--samples", self.samples), ("--report", self.report)):
            if path is not None and not path.exists():
                raise UsageError(f"{option} {path}", "there is no such file", "check the path")
        if not self.methods:
            raise UsageError("--method", "names no method", f"name one of {', '.join((BEST, *NAMES))}")
        if unknown := sorted({*self.methods} - {BEST, *NAMES}):
            raise UsageError(f"--method {unknown[0]}", "there is no such method", f"name one of {', '.join((BEST, *NAMES))}")
        inside = self.model.resolve() if self.model.is_dir() else self.model.resolve().parent
        if self.model.is_dir() and self.out.resolve().is_relative_to(inside):
            raise UsageError(f"-o {self.out}", "lies in the model that is repaired", "name a folder outside it")
        if self.out.exists() or self.out.is_symlink():
            raise UsageError(f"-o {self.out}", "is there already", "name a folder that is not there: nothing is overwritten")
        if not self.out.resolve().parent.is_dir():
            raise UsageError(f"-o {self.out}", "lies in a folder that is not there", "make it first")
        if not 0 <= self.max_drop <= 100:
            raise UsageError(f"--max-drop {self.max_drop:g}", "is no number of points", "give 0 to 100")

    def ordered(self, *, blind: bool) -> tuple[str, ...]:
        """The methods to try: the cheapest first, or where no trigger is known (``blind``) what forgets most."""
        asked: Iterable[str] = NAMES if BEST in self.methods else self.methods
        return tuple(name for name in (BLIND if blind else NAMES) if name in set(asked))
