"""What a Python program uses, and when."""

from __future__ import annotations

from dataclasses import dataclass, field

IMPORT, LOAD, RUN = "on import", "when the model is loaded or used", "when called"
MODULE, MAIN = "<module>", "<main>"
"""Units that are no functions: what runs on import, and what is guarded by ``__main__``."""


@dataclass(frozen=True, slots=True)
class Use:
    """One use of something dangerous: its kind (of ``dangers``), the full name, when it happens, and what it is given as text."""

    kind: str
    name: str
    unit: str
    line: int
    given: str = ""
    first: str = ""
    decoded: bool = False
    constant: bool = False


@dataclass
class Program:
    """One file as it is judged."""

    imports: set[str] = field(default_factory=set)
    uses: list[Use] = field(default_factory=list)
    texts: list[tuple[str, int]] = field(default_factory=list)
    hides: list[tuple[str, str, int]] = field(default_factory=list)
    """(what it does, unit, line) of things that have no use but to hide."""
    calls: dict[str, set[str]] = field(default_factory=dict)
    units: dict[str, set[str]] = field(default_factory=dict)
    """Units (functions) by the simple name they are called by; a class stands for its constructors."""
    loading: set[str] = field(default_factory=set)
    writes: bool = False
    environment: int = 0
    """The line where the whole environment is taken, or 0."""

    def when(self) -> dict[str, str]:
        """When each unit runs, the earliest."""
        found: dict[str, str] = {}
        for moment, start in ((IMPORT, {MODULE}), (LOAD, self.loading)):
            todo = list(start)
            while todo:
                unit = todo.pop()
                if unit not in found:
                    found[unit] = moment
                    todo.extend(target for name in self.calls.get(unit, ()) for target in self.units.get(name, ()))
        return found
