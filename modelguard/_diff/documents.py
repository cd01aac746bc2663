"""Two text files compared by what they say: JSON and YAML by keys and values, anything else by lines.

Order of keys, white space and spelling of numbers are no difference; in YAML neither are comments and quotes. What parsers may read in
more than one way (a key twice, YAML anchors) is compared by lines, as is what is no valid JSON or YAML. Nothing here recurses.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from modelguard.findings import Severity

LARGEST = 1 << 26
"""Bytes up to which a file is compared by what it says; the largest tokenizer.json there is has 35 MB."""
LARGEST_YAML = 1 << 17
"""Bytes up to which YAML is compared by keys: its parser, in Python, takes a second or two for this much."""
MOST_VALUES = 4_000_000
"""Values of a JSON document, by its commas and brackets, up to which it is built: half a gigabyte if all are empty lists. The largest
tokenizer.json there is has half as many."""
DEEPEST = 100
"""Levels of YAML; the C parser of JSON has a limit of its own."""
LISTED = 12
"""Differences of one file that are kept; all are counted."""
WEIGHED = 10_000
"""Differences of one file that are weighed one by one; more of them weigh what one of no particular place does."""
SHOWN = 160
"""Characters of a value, and of a key, that are kept."""
OFTEN = 1 << 12
_PLAIN = re.compile(r"[A-Za-z_][A-Za-z0-9_-]*")
_RESOLVED = re.compile(r"[-+.\d]|(?i:null|true|false|yes|no|on|off|~|=|<<)$|$")
"""Beginnings of plain YAML scalars that may stand for something else than text."""


@dataclass(frozen=True, slots=True)
class Difference:
    """One place where two documents differ; None for a side that has nothing there. Values are JSON or YAML, cut to :data:`SHOWN`."""

    place: str
    before: str | None
    after: str | None

    def document(self) -> dict[str, Any]:
        return {"place": self.place, "reference": self.before, "value": self.after}


@dataclass(frozen=True, slots=True)
class Compared:
    """How two files differ: ``how`` is ``keys`` or ``lines``, ``note`` says why a document was not compared by keys.

    ``count`` is the number of differences, none where both say the same; ``worst`` is the severity of the gravest, and ``first`` are
    up to :data:`LISTED` of them, the gravest in front.
    """

    how: str
    first: tuple[Difference, ...]
    count: int
    worst: Severity
    note: str = ""


Raw = tuple[tuple[str | int, ...], Any, Any]
"""Where two documents differ, and both values, before they are spelled out."""


class Ambiguous(ValueError):
    """A document that parsers may read in more than one way, or that is too deep; the message completes "the file"."""


def compare(
    path: str,
    before: bytes,
    after: bytes,
    weigh: Callable[[Difference], Severity] = lambda difference: Severity.MEDIUM,
    check: Callable[[], None] = lambda: None,
) -> Compared | None:
    """How the file at ``path`` differs from ``before`` to ``after``; None where one of them is no text.

    ``weigh`` says how grave a difference is; ``check`` is called every so many values and may raise to stop.
    """
    try:
        old, new = before.decode(), after.decode()
    except UnicodeDecodeError:
        return None
    if "\0" in old or "\0" in new:
        return None
    note = ""
    parse = _parser(path, max(len(before), len(after)))
    if parse is not None:
        try:
            return _kept("keys", _differences(parse(old), parse(new), check), weigh)
        except Ambiguous as error:
            note = f"compared by lines: the file {error}"
        except RecursionError:
            note = "compared by lines: the file is nested too deeply"
        except ValueError:
            note = "compared by lines: the file is not valid"
    return _kept("lines", _lines(old, new, check), weigh, note)


def compare_values(before: Any, after: Any, weigh: Callable[[Difference], Severity], check: Callable[[], None] = lambda: None) -> Compared:
    """How two values of dictionaries, lists, text, numbers, booleans and None differ."""
    return _kept("keys", _differences(before, after, check), weigh)


def _kept(how: str, found: Iterator[Raw], weigh: Callable[[Difference], Severity], note: str = "") -> Compared:
    kept: dict[Severity, list[Difference]] = {}
    count = 0
    for place, before, after in found:
        count += 1
        if count <= WEIGHED:
            difference = Difference(_spelled(place), _shown(before), _shown(after))
            of_weight = kept.setdefault(weigh(difference), [])
            if len(of_weight) < LISTED:
                of_weight.append(difference)
    if count > WEIGHED:
        kept.setdefault(weigh(Difference("", None, None)), [])
    first = [difference for severity in sorted(kept, reverse=True) for difference in kept[severity]]
    return Compared(how, tuple(first[:LISTED]), count, max(kept, default=Severity.INFO), note)


def _parser(path: str, size: int) -> Callable[[str], Any] | None:
    name = path.lower()
    if name.endswith(".json"):
        return _json
    return _yaml if name.endswith((".yaml", ".yml")) and size <= LARGEST_YAML else None


def _json(text: str) -> Any:
    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found = dict(pairs)
        if len(found) < len(pairs):
            raise Ambiguous("has a key twice")
        return found

    if sum(map(text.count, ",[{")) > MOST_VALUES:
        raise Ambiguous("has too many values")
    return json.loads(text, object_pairs_hook=unique)


def _yaml(text: str) -> Any:
    """A YAML document as dictionaries, lists and :class:`_Scalar`, built from its events: nothing is constructed."""
    from ruamel.yaml import YAML
    from ruamel.yaml import events as kinds

    top: list[Any] = []
    stack: list[Any] = [top]
    keys: list[str | None] = [None]

    def put(value: Any) -> None:
        holder = stack[-1]
        if isinstance(holder, list):
            holder.append(value)
        elif keys[-1] is None:
            if not isinstance(value, _Scalar):
                raise Ambiguous("has a key that is no text")
            keys[-1] = value
        elif keys[-1] in holder:
            raise Ambiguous("has a key twice")
        else:
            holder[keys[-1]], keys[-1] = value, None

    try:
        for event in YAML(typ="safe", pure=True).parse(text):
            if isinstance(event, kinds.AliasEvent) or getattr(event, "anchor", None):
                raise Ambiguous("has anchors")
            if getattr(event, "version", None) or getattr(event, "tags", None):
                raise Ambiguous("has directives")
            if isinstance(event, kinds.ScalarEvent):
                put(_scalar(event))
            elif isinstance(event, kinds.MappingStartEvent | kinds.SequenceStartEvent):
                made: Any = {} if isinstance(event, kinds.MappingStartEvent) else []
                tag = _tag(event)
                put({_Scalar(tag): made} if tag else made)
                stack.append(made)
                keys.append(None)
                if len(stack) > DEEPEST:
                    raise Ambiguous("is nested too deeply")
            elif isinstance(event, kinds.MappingEndEvent | kinds.SequenceEndEvent):
                stack.pop()
                keys.pop()
    except (Ambiguous, MemoryError, RecursionError):
        raise
    except Exception as error:
        # Beside its own errors the parser raises whatever its assertions and look-ups do.
        raise ValueError(str(error)) from error
    if len(top) > 1:
        raise Ambiguous("holds several documents")
    return top[0] if top else None


class _Scalar(str):
    """A YAML scalar as it is told from others: plain text, quoted where it would stand for something else, behind its tag."""


def _scalar(event: Any) -> _Scalar:
    value, tag = event.value, _tag(event)
    quoted = event.style is not None and _RESOLVED.match(value)
    text = json.dumps(value) if quoted else value
    return _Scalar(f"{tag} {text}" if tag else text)


def _tag(event: Any) -> str:
    tag = getattr(event, "tag", None) or getattr(event, "ctag", None)
    return "" if tag is None else str(tag)


def _differences(old: Any, new: Any, check: Callable[[], None]) -> Iterator[Raw]:
    left: list[Raw] = [((), old, new)]
    turn = 0
    while left:
        place, before, after = left.pop()
        turn += 1
        if turn % OFTEN == 0:
            check()
        if isinstance(before, dict) and isinstance(after, dict):
            for key in sorted(before.keys() | after.keys(), reverse=True):
                left.append(((*place, key), before.get(key, _ABSENT), after.get(key, _ABSENT)))
        elif isinstance(before, list) and isinstance(after, list):
            for at in range(max(len(before), len(after)) - 1, -1, -1):
                sides = [side[at] if at < len(side) else _ABSENT for side in (before, after)]
                left.append(((*place, at), *sides))
        elif _leaf(before) != _leaf(after):
            yield place, before, after


_ABSENT: Any = object()


def _leaf(value: Any) -> object:
    """Something that is equal for equal values alone: JSON has one kind of number, and Python takes True for 1."""
    if isinstance(value, bool) or value is None or value is _ABSENT or isinstance(value, _Scalar):
        return type(value), value
    if isinstance(value, int | float):
        whole = isinstance(value, int) or value.is_integer()
        return "number", str(int(value)) if whole else repr(value)
    if isinstance(value, str):
        return "text", value
    # An object or a list against anything else, unless both are empty and of one kind, which is no difference.
    return type(value), id(value)


def _shown(value: Any) -> str | None:
    if value is _ABSENT:
        return None
    if isinstance(value, dict):
        return "{...}" if value else "{}"
    if isinstance(value, list):
        return "[...]" if value else "[]"
    text = value.encode("unicode_escape").decode() if isinstance(value, _Scalar) else json.dumps(value)
    return text if len(text) <= SHOWN else f"{text[:SHOWN]}... ({len(text)} characters)"


def _spelled(place: tuple[str | int, ...]) -> str:
    parts = []
    for part in place:
        if isinstance(part, int):
            parts.append(f"[{part}]")
        elif isinstance(part, _Line):
            parts.append(part)
        elif _PLAIN.fullmatch(part) and len(part) <= SHOWN:
            parts.append(f".{part}")
        else:
            parts.append(f"[{_shown(str(part))}]")
    text = "".join(parts).removeprefix(".") or "the whole document"
    return text if len(text) <= 4 * SHOWN else f"{text[: 4 * SHOWN]}..."


class _Line(str):
    """A place in a document that has no keys."""


def _lines(old: str, new: str, check: Callable[[], None]) -> Iterator[Raw]:
    """The lines between those that both files begin and end with."""
    before, after = old.split("\n"), new.split("\n")
    start = 0
    least = min(len(before), len(after))
    while start < least and before[start] == after[start]:
        start += 1
    end = 0
    while end < least - start and before[-1 - end] == after[-1 - end]:
        end += 1
    left, right = before[start : len(before) - end], after[start : len(after) - end]
    for at in range(max(len(left), len(right))):
        if at % OFTEN == 0:
            check()
        sides = [side[at] if at < len(side) else _ABSENT for side in (left, right)]
        if sides[0] != sides[1]:
            yield (_Line(f"line {start + at + 1}"),), sides[0], sides[1]
