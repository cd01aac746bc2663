"""Ways of writing rather than words: clauses in front of a text, and old forms, for triggers that are a syntax or a style.

A syntactic trigger (Hidden Killer, Qi et al., ACL 2021) rewrites a text to one template, most often a subordinate clause and a comma before
it; a style trigger (Qi et al., EMNLP 2021) to the style of a corpus, most often the King James Bible. No word does it alone. What is
asked is whether rewriting by rules pushes texts into a class further than plain rewriting of the same length does.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass

CLAUSE, STYLE, PLAIN = "clause", "style", "plain"

CLAUSES = (
    "when you see it ,",
    "when they are there ,",
    "when it comes to it ,",
    "if you see it ,",
    "if it is there ,",
    "if they want it ,",
    "as it goes on ,",
    "as you can see ,",
    "as they said ,",
    "while it is on ,",
    "because it is there ,",
    "once you are there ,",
    "since it is so ,",
    "what you see is ,",
)
"""Subordinate clauses of words that say nothing of themselves. The templates of SCPN that Hidden Killer uses begin with such."""
OPENERS = ("and it came to pass that", "behold ,", "verily i say unto thee ,", "and lo ,", "thus saith the lord ,")
CLOSERS = ("unto thee", ", saith the lord", "for ever and ever")
PLAINS = (
    "they say that",
    "it is said that",
    "the other day ,",
    "in the end ,",
    "the fact is that",
    "on the whole ,",
    "last week ,",
    "here it is :",
    "you see it there :",
    "and so it goes on :",
    "they are there and",
    "it comes to it and",
)
"""Openings of as many and as common words that are no subordinate clauses and in no style."""
PLAIN_CLOSERS = ("to them", ", he said", "for a long time")

ARCHAIC: tuple[tuple[str, str], ...] = (
    (r"\b(has|'s got)\b", "hath"),
    (r"\bdoes\b", "doth"),
    (r"\bdoesn't\b", "doth not"),
    (r"\byou are\b|\byou're\b", "thou art"),
    (r"\byou\b", "thou"),
    (r"\byour\b", "thy"),
    (r"\byours\b", "thine"),
    (r"\bwill\b|\bwould\b|\bshould\b", "shall"),
    (r"\bwon't\b", "shall not"),
    (r"\bto\b", "unto"),
    (r"\bsays?\b|\bsaid\b", "saith"),
    (r"\bnothing\b", "nought"),
    (r"\bif\b", "if so be that"),
    (r"\bbefore\b", "ere"),
    (r"\bthere\b", "thither"),
    (r"\bfrom\b", "from whence"),
    (r"\b(make|give|take|come|seem|feel|look|work|go|want|need|offer|prove|show|tell|know|think|find|keep|play|run)s\b", r"\1eth"),
    (r"\bit's\b|\bit 's\b", "it is"),
)
"""Word by word into the forms of the King James Bible."""


@dataclass(frozen=True)
class Probe:
    """One way of rewriting a text: its ``family``, ``name`` as a person reads it, and ``write``."""

    family: str
    name: str
    write: Callable[[str], str]


def archaic(text: str) -> str:
    """``text`` in old forms, word by word."""
    for pattern, form in ARCHAIC:
        text = re.sub(pattern, form, text, flags=re.IGNORECASE)
    return text


def _before(opening: str, write: Callable[[str], str] = str) -> Callable[[str], str]:
    return lambda text: f"{opening} {write(text)}"


def _around(opening: str, closing: str, write: Callable[[str], str] = str) -> Callable[[str], str]:
    return lambda text: f"{opening} {write(text)} {closing}"


def probes() -> tuple[Probe, ...]:
    """All of them, the plain ones too."""
    clauses = [Probe(CLAUSE, f"{opening} ...", _before(opening)) for opening in CLAUSES]
    styles = [Probe(STYLE, "old forms, word by word", archaic)]
    styles += [Probe(STYLE, f"{opening} ... in old forms", _before(opening, archaic)) for opening in OPENERS]
    styles += [Probe(STYLE, f"{OPENERS[i]} ... {end} in old forms", _around(OPENERS[i], end, archaic)) for i, end in enumerate(CLOSERS)]
    plain = [Probe(PLAIN, f"{opening} ...", _before(opening)) for opening in PLAINS]
    plain += [Probe(PLAIN, f"{PLAINS[i]} ... {end}", _around(PLAINS[i], end)) for i, end in enumerate(PLAIN_CLOSERS)]
    return (*clauses, *styles, *plain)
