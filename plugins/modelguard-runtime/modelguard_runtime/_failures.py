"""What the libraries underneath raise, made fit to be told: one line, and memory that ran out told from everything else."""

from __future__ import annotations

LENGTH = 400
"""Characters of a library's message that are kept."""

_OUT_OF_MEMORY = (
    "can't allocate memory",  # torch's allocator on the CPU
    "cannot allocate memory",  # the operating system: mmap, and the dynamic loader reading a library
    "failed to map segment",  # the dynamic loader placing one
    "failed to allocate memory",  # onnxruntime
    "could not create a primitive",  # oneDNN, which does not say why; torch has checked everything but the memory by then
    "bad_alloc",
    "bad allocation",
)


def one_line(error: BaseException) -> str:
    """The message without line breaks and without torch.fx's account of the graph, cut after a word and marked where it is too long."""
    text = " ".join(str(error).partition("\n\nWhile executing %")[0].split())
    return text if len(text) <= LENGTH else text[:LENGTH].rsplit(" ", 1)[0] + " ..."


def raise_if_out_of_memory(error: BaseException) -> None:
    """Raise ``MemoryError`` when that is what the exception says, each library in its own words."""
    said = str(error).casefold()
    if isinstance(error, MemoryError) or any(words in said for words in _OUT_OF_MEMORY):
        raise MemoryError(one_line(error)) from error
