"""JSON and YAML by what they say, everything else by lines; what parsers may read in two ways is not waved through."""

from __future__ import annotations

import json

import pytest

from modelguard import Severity
from modelguard._diff import documents
from modelguard._diff.documents import Compared, Difference, compare


def differ(path: str, before: str, after: str) -> Compared:
    found = compare(path, before.encode(), after.encode())
    assert found is not None
    return found


def places(found: Compared) -> list[tuple[str, str | None, str | None]]:
    return [(item.place, item.before, item.after) for item in found.first]


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ('{"a": 1, "b": [true, null]}', '{\n  "b": [true,null],\n  "a": 1.0\n}'),
        ('{"a": 1e-05}', '{"a": 0.00001}'),
        ('{"a": "\\u00e9"}', '{"a": "é"}'),
        ('{"a": NaN, "b": []}', '{"b": [], "a": NaN}'),
    ],
)
def test_json_that_says_the_same(before: str, after: str) -> None:
    found = differ("config.json", before, after)
    assert (found.how, found.count, found.note) == ("keys", 0, "")


@pytest.mark.parametrize(
    ("before", "after", "place"),
    [
        ('{"a": 1}', '{"a": true}', ("a", "1", "true")),
        ('{"a": 0}', '{"a": false}', ("a", "0", "false")),
        ('{"a": "1"}', '{"a": 1}', ("a", '"1"', "1")),
        ('{"a": null}', "{}", ("a", "null", None)),
        ('{"a": {}}', '{"a": []}', ("a", "{}", "[]")),
        ('{"a": {"b c": [1]}}', '{"a": {"b c": [1, 2]}}', ('a["b c"][1]', None, "2")),
        ('{"a": 10000000000000001}', '{"a": 10000000000000000}', ("a", "10000000000000001", "10000000000000000")),
        ("{}", "[]", ("the whole document", "{}", "[]")),
    ],
)
def test_json_that_says_something_else(before: str, after: str, place: tuple[str, str | None, str | None]) -> None:
    assert places(differ("config.json", before, after)) == [place]


# Parsers take the first or the last of two keys: https://datatracker.ietf.org/doc/html/rfc8259#section-4
def test_key_that_is_there_twice_is_a_difference() -> None:
    found = differ("config.json", '{"a": 1}', '{"a": 2, "a": 1}')
    assert found.how == "lines"
    assert "has a key twice" in found.note
    assert found.count == 1


@pytest.mark.parametrize("path", ["a.json", "a.yaml"])
def test_nesting_that_would_exhaust_a_stack_is_compared_by_lines(path: str) -> None:
    found = differ(path, "[" * 100_000, "[" * 99_999)
    assert (found.how, found.count) == ("lines", 1)
    assert "nested too deeply" in found.note


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("a: 1\nb: [x, y]\n", "# said again\nb:\n- x\n- 'y'\na: 1\n"),
        ('a: "plain text"\n', "a: plain text\n"),
        ("a: |\n  two\n  lines\n", 'a: "two\\nlines\\n"\n'),
    ],
)
def test_yaml_that_says_the_same(before: str, after: str) -> None:
    found = differ("a.yaml", before, after)
    assert (found.how, found.count) == ("keys", 0)


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("a: yes\n", 'a: "yes"\n'),
        ("a: 1\n", "a: '1'\n"),
        ("a: ~\n", 'a: "~"\n'),
        ("a: x\n", "a: !new:os.system x\n"),
        ("a: {b: 1}\n", "a: !apply:os.system {b: 1}\n"),
        ("- a\n- b\n", "a\n---\nb\n"),
        ("a: 1\na: 1\n", "a: 1\n"),
        ("a: &x 1\nb: *x\n", "a: 1\nb: 1\n"),
        ("? [a]\n: 1\n", "? [b]\n: 1\n"),
        ("a: [\n", "a: {\n"),
        ("%YAML 1.1\n---\na: yes\n", "a: yes\n"),
        ("%YAML 1.0\n---\na: 1\n", "a: 1\n"),
    ],
)
def test_yaml_that_says_something_else(before: str, after: str) -> None:
    assert differ("a.yaml", before, after).count


# https://en.wikipedia.org/wiki/Billion_laughs_attack
def test_yaml_that_multiplies_itself_is_not_expanded() -> None:
    laughs = "a0: &a0 [x, x]\n" + "".join(f"a{at}: &a{at} [*a{at - 1}, *a{at - 1}]\n" for at in range(1, 60))
    found = differ("a.yaml", laughs, laughs + "b: 1\n")
    assert (found.how, found.count, found.note) == ("lines", 1, "compared by lines: the file has anchors")


def test_lines_between_equal_ends() -> None:
    found = differ("merges.txt", "a\nb\nc\nd\n", "a\nx\nd\n")
    assert places(found) == [("line 2", '"b"', '"x"'), ("line 3", '"c"', None)]
    assert differ("merges.txt", "a\n", "a").count


def test_bytes_that_are_no_text_are_not_compared_by_lines() -> None:
    assert compare("a.bin", b"\xff\xfe", b"a") is None
    assert compare("a.json", b"{}", b"{}\0") is None


def test_many_and_long_differences_are_counted_and_cut() -> None:
    vocabulary = {f"token{at}": at for at in range(5000)}
    found = differ("vocab.json", json.dumps(vocabulary), json.dumps({name: at + 1 for name, at in vocabulary.items()}))
    assert (found.count, len(found.first)) == (5000, documents.LISTED)
    (long,) = differ("a.json", '{"a": ""}', json.dumps({"a": "x" * 10_000})).first
    assert len(long.after or "") < 2 * documents.SHOWN
    assert "10002 characters" in (long.after or "")


def test_the_gravest_are_in_front_however_many_there_are() -> None:
    def weigh(difference: Difference) -> Severity:
        return Severity.HIGH if difference.place == "z" else Severity.LOW

    before = json.dumps({f"a{at}": 1 for at in range(100)} | {"z": 1})
    found = compare("a.json", before.encode(), before.replace(": 1", ": 2").encode(), weigh)
    assert found is not None
    assert (found.worst, found.first[0].place) == (Severity.HIGH, "z")


def test_more_differences_than_are_weighed_weigh_what_any_other_does(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(documents, "WEIGHED", 3)
    found = compare(
        "a.json", b'{"a": [1, 1, 1, 1], "z": 1}', b'{"a": [2, 2, 2, 2], "z": 2}',
        lambda difference: Severity.LOW if difference.place.startswith("a") else Severity.HIGH,
    )  # fmt: skip
    assert found is not None
    assert (found.worst, found.count, len(found.first)) == (Severity.HIGH, 5, 3)


def test_json_of_too_many_values_is_not_built(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(documents, "MOST_VALUES", 4)
    assert differ("a.json", "[[],[]]", "[[], []]").count == 0
    found = differ("a.json", "[[],[],[]]", "[[], [],[]]")
    assert (found.how, found.note) == ("lines", "compared by lines: the file has too many values")


def test_hostile_text_is_shown_escaped() -> None:
    for path, after in (("a.json", json.dumps({"\x1b[2J": "\u202e"})), ("a.yaml", "a: \u202ex\n"), ("a.txt", "\x1b[2J\n")):
        found = differ(path, "{}" if path == "a.json" else "b: 1\n", after)
        assert all(
            text.isascii() and text.isprintable() for item in found.first for text in (item.place, item.before or "", item.after or "")
        )
