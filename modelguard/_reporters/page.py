"""What the page shows, in the order it shows it: values for the template, which does nothing but lay them out."""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from modelguard._reporters.drawn import Drawing, draw
from modelguard._reporters.numbers import written
from modelguard._reporters.things import Thing, things
from modelguard._reporters.view import place, recalled
from modelguard._schemas.finding import write_finding
from modelguard.display import Chart, Measure, charts, measures
from modelguard.findings import Attachment, Rule
from modelguard.report import Decision, Outcome, Report, Status

MAX_CARDS = 50
"""Things that are shown in full; the others are rows of a table."""
MAX_ROWS = 400
MAX_DOWNLOAD = 2_000_000
"""Characters of JSON up to which the page carries all evidence."""
PNG_MAGIC = b"\x89PNG\r\n\x1a\n"


@dataclass(frozen=True)
class Term:
    """What a column or number is called. ``entry`` is its place among the explained numbers, 0 where nobody explained it."""

    name: str
    meaning: str = ""
    entry: int = 0
    plain: bool = False


@dataclass
class Glossary:
    """The numbers that the page shows and somebody explained, each once."""

    known: Mapping[str, Mapping[str, Measure]]
    files: tuple[str, ...] = ()
    entries: dict[tuple[str, str], int] = field(default_factory=dict)
    users: dict[int, set[str]] = field(default_factory=dict)

    def term(self, detector: str, key: str, plain: bool = False) -> Term:
        """What ``key`` is called; where nobody says, itself, as code unless ``plain``."""
        measure = self.known.get(detector, {}).get(key)
        if measure is None:
            return Term(key, plain=plain)
        number = self.entries.setdefault((measure.name, measure.meaning), len(self.entries) + 1)
        self.users.setdefault(number, set()).add(detector)
        return Term(measure.name, measure.meaning, number)

    def listed(self) -> list[tuple[str, str, int, str]]:
        """Name, meaning and number of every entry, by name; and the detectors that mean it, where others mean something else by it."""
        names = [name for name, _ in self.entries]
        return sorted(
            (name, meaning, number, ", ".join(sorted(self.users[number])) if names.count(name) > 1 else "")
            for (name, meaning), number in self.entries.items()
        )

    def unit(self, detector: str, key: str) -> Any:
        measure = self.known.get(detector, {}).get(key)
        return measure.unit if measure is not None else ""


@dataclass(frozen=True)
class Cell:
    text: str
    sort: float | None = None


@dataclass(frozen=True)
class Table:
    """``left_out`` counts the rows that are only in the JSON report."""

    title: Term
    columns: list[Term]
    rows: list[list[Cell]]
    left_out: int = 0


@dataclass(frozen=True)
class Numbers:
    """What was measured, taken apart: single values, rows, pictures."""

    single: list[tuple[Term, str]]
    tables: list[Table]
    drawings: list[Drawing]


@dataclass(frozen=True)
class Card:
    """One thing in full."""

    id: str
    thing: Thing
    rule: Rule | None
    where: str
    copies: list[str]
    images: list[tuple[Term, str]]
    others: list[Attachment]
    numbers: Numbers
    of_detector: list[Drawing]
    download: str


@dataclass(frozen=True)
class Section:
    """One detector that looked."""

    outcome: Outcome
    score: float | None
    seconds: float | None
    cached: bool
    numbers: Numbers
    cards: list[Card]


@dataclass(frozen=True)
class Folder:
    """Files of a folder, each with what it holds and the ids of its cards."""

    name: str
    folders: list[Folder]
    files: list[tuple[str, Any, list[tuple[str, str]]]]

    @property
    def hit(self) -> bool:
        return any(cards for _, _, cards in self.files) or any(folder.hit for folder in self.folders)


@dataclass(frozen=True)
class Page:
    things: list[Thing]
    cards: list[Card]
    rest: list[Thing]
    sections: list[Section]
    tree: Folder
    glossary: Glossary
    download: str


def build(report: Report, decision: Decision) -> Page:
    """The page of a report."""
    found = things(report, decision)
    glossary = Glossary(
        {detector: measures(items) for detector, items in report.shows.items()}, tuple(file.path for file in report.target.files)
    )
    rules = {rule.id: rule for rule in report.rules}
    outcomes = {outcome.detector: outcome for outcome in report.outcomes}
    cards: list[Card] = []
    drawn: set[str] = set()
    for thing in found[:MAX_CARDS]:
        first = thing.detector not in drawn and thing.fate != "allowed"
        of_detector = _of_summary(report, outcomes[thing.detector]) if first else []
        drawn |= {thing.detector} if first else set()
        cards.append(_card(report, glossary, rules, f"f{len(cards) + 1}", thing, of_detector))
    seconds = report.timings.get("detectors", {})
    sections = [
        _section(report, glossary, outcome, seconds.get(outcome.detector), cards, outcome.detector not in drawn)
        for outcome in report.outcomes
        if outcome.status is not Status.SKIPPED
    ]
    return Page(found, cards, found[MAX_CARDS:], sections, _tree(report, cards), glossary, _everything(report))


def _card(report: Report, glossary: Glossary, rules: Mapping[str, Rule], id: str, thing: Thing, of_detector: list[Drawing]) -> Card:
    finding = thing.finding
    shown = charts(report.shows.get(thing.detector, ()))
    pictures = [(item, uri) for item in finding.attachments if (uri := png(item)) is not None]
    return Card(
        id,
        thing,
        rules.get(finding.rule),
        place(finding),
        [place(item) for item in thing.copies],
        [(glossary.term(thing.detector, item.name, plain=True), uri) for item, uri in pictures],
        [item for item in finding.attachments if png(item) is None],
        _numbers(glossary, thing.detector, finding.evidence, shown, [finding.evidence]),
        of_detector,
        _uri(_json({**write_finding(finding), "attachments": [item.name for item in finding.attachments], "detector": thing.detector})),
    )


def _section(report: Report, glossary: Glossary, outcome: Outcome, seconds: Any, cards: list[Card], drawings: bool) -> Section:
    score = outcome.summary.get("score")
    shown = charts(report.shows.get(outcome.detector, ())) if drawings else []
    return Section(
        outcome,
        float(score) if isinstance(score, int | float) else None,
        seconds if isinstance(seconds, int | float) else None,
        outcome.detector in recalled(report),
        _numbers(glossary, outcome.detector, outcome.summary, shown, [finding.evidence for finding in outcome.findings]),
        [card for card in cards if card.thing.detector == outcome.detector],
    )


def _of_summary(report: Report, outcome: Outcome) -> list[Drawing]:
    """The pictures of a detector's summary, with what its findings accuse marked."""
    shown = report.shows.get(outcome.detector, ())
    marks = [finding.evidence for finding in outcome.findings]
    made = [draw(chart, outcome.summary, marks, measures(shown), [file.path for file in report.target.files]) for chart in charts(shown)]
    return [item for item in made if item is not None]


def _numbers(glossary: Glossary, detector: str, values: Mapping[str, Any], shown: list[Chart], marks: list[Mapping[str, Any]]) -> Numbers:
    known = glossary.known.get(detector, {})
    order = {key: number for number, key in enumerate(known)}
    single: list[tuple[Term, str]] = []
    tables: list[Table] = []
    for key in sorted(values, key=lambda key: (order.get(key, len(order)), key)):
        item = values[key]
        if item in ({}, [], ()):
            continue
        if isinstance(item, list | tuple) and all(isinstance(part, Mapping) for part in item):
            tables.append(_table(glossary, detector, key, item))
        else:
            single.append((glossary.term(detector, key), written(item, glossary.unit(detector, key))))
    made = [draw(chart, values, marks, known, glossary.files) for chart in shown]
    return Numbers(single, tables, [item for item in made if item is not None])


def _table(glossary: Glossary, detector: str, key: str, rows: Any) -> Table:
    named: dict[str, None] = {}
    for row in rows:
        named.update(dict.fromkeys(row))
    order = {name: number for number, name in enumerate(glossary.known.get(detector, {}))}
    columns = sorted(named, key=lambda name: (name not in ("class", "name"), order.get(name, len(order)), name))

    def cell(row: Mapping[str, Any], name: str) -> Cell:
        return Cell(written(row.get(name), glossary.unit(detector, name)), _sortable(row.get(name)))

    cells = [[cell(row, name) for name in columns] for row in rows[:MAX_ROWS]]
    return Table(glossary.term(detector, key), [glossary.term(detector, name) for name in columns], cells, max(0, len(rows) - MAX_ROWS))


def _sortable(item: Any) -> float | None:
    return float(item) if isinstance(item, int | float) else None


def _tree(report: Report, cards: list[Card]) -> Folder:
    about: dict[str, list[tuple[str, str]]] = {}
    for card in cards:
        for path in {item.location.file for item in (card.thing.finding, *card.thing.copies)}:
            if path is not None:
                about.setdefault(path, []).append((card.id, card.thing.severity.label))
    root = Folder("", [], [])
    known = {"": root}
    for file in report.target.files:
        *parents, name = file.path.split("/")
        folder, path = root, ""
        for parent in parents:
            path = f"{path}/{parent}"
            if path not in known:
                known[path] = Folder(parent, [], [])
                folder.folders.append(known[path])
            folder = known[path]
        folder.files.append((name, file, about.get(file.path, [])))
    return root


def png(attachment: Attachment) -> str | None:
    """The attachment as a data URI when it is a PNG by content, else None: nothing else is given to a browser to decode."""
    if attachment.media_type != "image/png" or not attachment.data.startswith(PNG_MAGIC):
        return None
    return "data:image/png;base64," + base64.b64encode(attachment.data).decode()


def _everything(report: Report) -> str:
    """All evidence as a data URI of JSON; empty where it is too much for a page."""
    text = _json(
        {
            outcome.detector: {
                "summary": dict(outcome.summary),
                "findings": [{**write_finding(item), "attachments": [part.name for part in item.attachments]} for item in outcome.findings],
            }
            for outcome in report.outcomes
            if outcome.status is not Status.SKIPPED
        }
    )
    return _uri(text) if len(text) <= MAX_DOWNLOAD else ""


def _json(document: Mapping[str, Any]) -> str:
    return json.dumps(document, sort_keys=True, indent=1) + "\n"


def _uri(text: str) -> str:
    return "data:application/json;base64," + base64.b64encode(text.encode()).decode()
