"""The exception tree of modelguard.

Every error answers three questions in one line: which thing failed, why, and what the reader can do about it.
``exit_code`` is the process exit code the command line maps the error to (see ``docs/architecture.md`` section 3).
"""

from __future__ import annotations

import re
from typing import ClassVar, Self

_ABSOLUTE = re.compile(r"(?<![\w.:/])/(?:[^\s'\"():,;/]+/)+([^\s'\"():,;/]+)")


class ModelguardError(Exception):
    """Base of every error modelguard raises on purpose.

    ``thing`` names what failed (a file, tensor, option, plugin), ``cause`` says why, ``remedy`` says what to do next.
    """

    exit_code: ClassVar[int] = 3

    def __init__(self, thing: str, cause: str, remedy: str = "") -> None:
        self.thing = thing
        self.cause = cause
        self.remedy = remedy
        super().__init__(thing, cause, remedy)

    def __str__(self) -> str:
        line = f"{self.thing}: {self.cause}"
        return f"{line}; {self.remedy}" if self.remedy else line


class UsageError(ModelguardError):
    """The command line or configuration is wrong; nothing was scanned."""

    exit_code = 2


class PolicyError(UsageError):
    """A policy file cannot be read, is invalid, or names something unknown."""


class SourceError(ModelguardError):
    """An artifact could not be brought here: not found, refused, truncated, offline."""

    again: float | None = None
    """Seconds after which asking once more may help; None where it will not."""
    busy: bool = False
    """Whether it is the remote side that asks to wait."""

    def later(self, seconds: float, *, busy: bool = False) -> Self:
        """The same error, with :attr:`again` and :attr:`busy`."""
        self.again, self.busy = seconds, busy
        return self


class DigestMismatchError(SourceError):
    """Bytes received are not the bytes that were advertised; the message names both digests."""


class ArtifactError(ModelguardError):
    """A file of an artifact may not be opened: a link out of the artifact, a special file, changed while scanned."""


class FormatError(ModelguardError):
    """A file is not a valid instance of its format. ``rule`` is the MG01xx rule the violation belongs to."""

    def __init__(self, thing: str, cause: str, remedy: str = "", *, rule: str = "MG0102") -> None:
        super().__init__(thing, cause, remedy)
        self.rule = rule


class LimitError(FormatError):
    """A file asks for more than a parser's limit allows; the message names limit and request."""


class ModelError(ModelguardError):
    """A checkpoint cannot be turned into a runnable model, or must not be trusted as one."""


class SamplesError(UsageError):
    """The samples file does not fit: unreadable, wrong shape, range or labels."""


class PluginError(ModelguardError):
    """A plugin could not be loaded or broke its contract."""


class OutputError(ModelguardError):
    """A report could not be written."""


def without_paths(text: str) -> str:
    """``text`` with every absolute path cut to its last part: what a report says must not depend on the machine."""
    return _ABSOLUTE.sub(r"\1", text)
