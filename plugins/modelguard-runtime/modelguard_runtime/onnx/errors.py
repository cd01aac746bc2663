"""What importing an ONNX graph, or running an imported one, may raise.

Every error says which thing failed, why, and what to do about it, in one line.
"""

from __future__ import annotations

from textwrap import shorten

MALFORMED = "the graph is malformed"
HOSTILE = "the graph is malformed or hostile"

LENGTH = 400
"""Characters of a library's message that are kept."""

_OUT_OF_MEMORY = (
    "can't allocate memory",  # torch's allocator on the CPU
    "cannot allocate memory",  # the operating system
    "could not create a primitive",  # oneDNN, which does not say why; torch has checked everything but the memory by then
    "bad_alloc",
)


class OnnxError(Exception):
    """Base of every error raised here on purpose: ``thing`` failed by ``cause``; ``remedy`` says what to do next (may be empty)."""

    def __init__(self, thing: str, cause: str, remedy: str = "") -> None:
        self.thing, self.cause, self.remedy = thing, cause, remedy
        super().__init__(thing, cause, remedy)

    def __str__(self) -> str:
        line = f"{self.thing}: {self.cause}"
        return f"{line}; {self.remedy}" if self.remedy else line


class GraphError(OnnxError):
    """The graph is malformed, or holds what cannot be run."""


class GraphLimitError(OnnxError):
    """The graph asks for more than a limit allows; the message names limit and request. Raised before anything of that size is made."""


class UnsupportedError(OnnxError):
    """The graph is valid but uses an operator, opset or attribute that is not supported."""

    def __init__(self, thing: str, cause: str) -> None:
        super().__init__(thing, cause)

    def __str__(self) -> str:
        return f"{self.thing} {self.cause}"


class WeightError(Exception):
    """Carries ``error``, which the caller's ``weight`` raised, past those who would take it for a fault of the graph."""

    def __init__(self, error: Exception) -> None:
        self.error = error
        super().__init__(error)


def one_line(error: BaseException) -> str:
    """The message of a library's error without line breaks, cut after a word and marked where it is too long."""
    return shorten(str(error), LENGTH, placeholder=" ...")


def raise_if_out_of_memory(error: BaseException) -> None:
    """Raise ``MemoryError`` when that is what the exception says: torch says it in a ``RuntimeError``."""
    said = str(error).casefold()
    if isinstance(error, MemoryError) or any(words in said for words in _OUT_OF_MEMORY):
        raise MemoryError(one_line(error)) from error
