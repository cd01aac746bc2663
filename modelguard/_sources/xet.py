"""Which bytes of two Hub files are equal, from what Xet says they are made of, without reading them.

A file in Xet storage is a list of terms (xorb, first chunk, end chunk): runs of chunks inside content-addressed containers. Where two
files take the same chunks from the same xorb, their bytes are equal, as far as the storage can be believed: a hash equality of
the same strength, and from the same party, as two equal LFS digests. Sources: huggingface.co/docs/xet, "File Reconstruction:
Term-based Representation" and "CAS API". Chunks have no fixed size, so two terms are aligned where they begin, or end, with the same
chunk. All of this saves reading only: whatever goes wrong here, or cannot be aligned, is read.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from modelguard import _limits
from modelguard._sources.session import Session

MAX_QUERIES = 64
MAX_ANSWER = _limits.XET_ANSWER
_HASH = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True, slots=True)
class Term:
    """Bytes ``[begin, end)`` of a file are the chunks ``[first, last)`` of a xorb."""

    begin: int
    end: int
    xorb: str
    first: int
    last: int


Run = tuple[int, int, int]
"""Begin in one file, begin in the other, length: equal bytes."""


def common_runs(left: Iterable[Term], right: Iterable[Term]) -> list[Run]:
    """Where terms that begin or end with the same chunk of a xorb make two files equal."""
    by_xorb: dict[str, list[Term]] = defaultdict(list)
    for term in left:
        by_xorb[term.xorb].append(term)
    runs = set()
    for other in right:
        for term in by_xorb[other.xorb]:
            length = min(term.end - term.begin, other.end - other.begin)
            if term.first == other.first:
                runs.add((term.begin, other.begin, length))
            elif term.last == other.last:
                runs.add((term.end - length, other.end - length, length))
    return sorted(runs)


def uncovered(begin: int, end: int, shift: int, runs: Iterable[Run]) -> list[tuple[int, int]]:
    """The parts of ``[begin, end)`` of the first file that no run shows equal to the bytes ``shift`` further on in the second."""
    missing = []
    at = begin
    for start, other, length in sorted(runs):
        if other - start != shift or start + length <= at or start >= end:
            continue
        if start > at:
            missing.append((at, start))
        at = start + length
    if at < end:
        missing.append((at, end))
    return missing


class Reconstructions:
    """Asks Xet storage what files of one repository are made of. Every answer may be None: then nothing is known."""

    def __init__(self, session: Session, endpoint: str, repo_id: str, commit: str, headers: dict[str, str]) -> None:
        self._session = session
        self._token_url = f"{endpoint}/api/models/{repo_id}/xet-read-token/{commit}"
        self._headers = headers
        self._store: tuple[str, str] | None = None
        self._queries = 0

    def terms(self, xet_hash: str, begin: int, end: int) -> list[Term]:
        """The terms that bytes ``[begin, end)`` of the file lie in; empty when they cannot be had."""
        self._queries += 1
        if self._queries > MAX_QUERIES:
            return []
        try:
            store, authorization = self._store = self._store or self._open()
            headers = {"Authorization": authorization, "Range": f"bytes={begin}-{end - 1}"}
            answer = self._get(f"{store}/v1/reconstructions/{xet_hash}", headers)
            return _parse(answer, begin)
        except Exception:
            return []

    def _open(self) -> tuple[str, str]:
        answer = self._get(self._token_url, self._headers)
        store, authorization = str(answer["casUrl"]).rstrip("/"), f"Bearer {answer['accessToken']}"
        self._session.grant(store, authorization)
        return store, authorization

    def _get(self, url: str, headers: dict[str, str]) -> Any:
        response = self._session.attach().get(url, headers=headers, follow_redirects=False)
        if response.status_code not in (200, 206) or len(response.content) > MAX_ANSWER:
            raise ValueError(response.status_code)
        return response.json()


def equal_runs(ours: Reconstructions, our_hash: str, our_size: int, theirs: Reconstructions, their_hash: str, their_size: int) -> list[Run]:
    """Every stretch of two files that Xet shows to be equal.

    Where a term of theirs uses chunks from the middle of one of ours, ours is asked again for just those bytes, which aligns
    terms between several edits made in place.
    """
    left = ours.terms(our_hash, 0, our_size)
    right = theirs.terms(their_hash, 0, their_size) if left else []
    runs = common_runs(left, right)
    for term in right:
        inside = any(item.xorb == term.xorb and item.first < term.last and term.first < item.last for item in left)
        if inside and uncovered(term.begin, term.end, 0, [(b, a, n) for a, b, n in runs if a == b]) and term.end <= our_size:
            runs += common_runs(ours.terms(our_hash, term.begin, term.end), [term])
    return sorted(runs)


def _parse(answer: Any, begin: int) -> list[Term]:
    at = begin - int(answer["offset_into_first_range"])
    terms: list[Term] = []
    for item in answer["terms"]:
        length, first, last = int(item["unpacked_length"]), int(item["range"]["start"]), int(item["range"]["end"])
        if not _HASH.fullmatch(item["hash"]) or length <= 0 or not 0 <= first < last or (at > begin + length and not terms):
            raise ValueError("not a reconstruction")
        terms.append(Term(at, at + length, item["hash"], first, last))
        at += length
    return terms
