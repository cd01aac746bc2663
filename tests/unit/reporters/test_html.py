"""The page: says what the report says, in markup that nothing in the report can add to."""

from __future__ import annotations

import base64
import hashlib
import json
import re
from dataclasses import replace
from html.parser import HTMLParser

import pytest
from everything import HOSTILE, LOW_RANK, SHOWS, everything, hostile
from support import ROOT

from modelguard import load_report
from modelguard._reporters.escape import visible
from modelguard._reporters.html import HtmlReporter
from modelguard._reporters.page import MAX_CARDS
from modelguard.display import Chart, Measure
from modelguard.findings import Attachment, Location
from modelguard.report import Decision, Outcome, Status, Verdict


class Page(HTMLParser):
    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.text += data


TAGS = """html head meta title style script body header main footer section article div h1 h2 h3 p a b strong span ul ol li dl dt dd code
figure img figcaption table caption thead tbody tr th td details summary button svg rect path line polyline text"""
ATTRIBUTES = """lang charset http-equiv content name class id src alt scope href download tabindex role type aria-label aria-labelledby
aria-describedby aria-hidden data-v open viewbox x y x1 y1 x2 y2 d points width height text-anchor fill-opacity"""


def check_page(text: str) -> Page:
    page = Page(text)
    assert {tag for tag, _ in page.tags} <= set(TAGS.split())
    for tag, attributes in page.tags:
        assert set(attributes) <= set(ATTRIBUTES.split()), tag
        assert tag != "img" or str(attributes["src"]).startswith("data:image/png;base64,iVBORw0KGgo")
        assert tag == "img" or "src" not in attributes
        assert re.match(r"#\w|data:application/json;base64,", str(attributes.get("href", "#x")))
    policy = next(attributes["content"] for _, attributes in page.tags if attributes.get("http-equiv"))
    assert policy is not None
    assert policy.startswith("default-src 'none'; style-src 'sha256-")
    assert "unsafe" not in policy
    assert [tag for tag, _ in page.tags].count("style") == 1
    assert [tag for tag, _ in page.tags].count("script") == 1
    return page


def test_the_page_says_what_the_report_says() -> None:
    report, decision = everything()
    page = check_page(HtmlReporter().render(report, decision))
    for violation in decision.violations:
        for part in violation.message.rstrip("]").split(" ["):  # what was found, and the policy's rule
            assert part in page.text
    for _, finding in report.findings():
        assert visible(finding.message) in page.text
        assert finding.fingerprint in page.text
    for file in report.target.files:
        assert file.path in page.text
    images = [attributes["alt"] for tag, attributes in page.tags if tag == "img"]
    assert images == ["trigger", "mask", "stamped"]
    assert "curve (text/csv, 14 bytes)" in page.text


@pytest.mark.parametrize("text", HOSTILE, ids=range(len(HOSTILE)))
def test_hostile_text_adds_no_markup(text: str) -> None:
    report, decision = everything()
    page = check_page(HtmlReporter().render(hostile(report, text), hostile(decision, text)))
    plain = check_page(HtmlReporter().render(hostile(report, "x"), hostile(decision, "x")))
    for name in ("img", "script", "style", "article", "meta"):
        assert [tag for tag, _ in page.tags].count(name) == [tag for tag, _ in plain.tags].count(name)


@pytest.mark.parametrize(
    ("media_type", "data"),
    [("image/png", b"<svg onload=alert(1)>"), ("image/svg+xml", b"\x89PNG\r\n\x1a\n"), ("image/png", b""), ("text/html", b"<script>")],
)
def test_only_what_is_a_png_is_shown_as_an_image(media_type: str, data: bytes) -> None:
    report, decision = everything()
    finding = replace(report.findings()[0][1], attachments=(Attachment("a<b>", media_type, data),))
    page = check_page(HtmlReporter().render(replace(report, outcomes=(Outcome("d", Status.COMPLETED, findings=(finding,)),)), decision))
    assert not [tag for tag, _ in page.tags if tag == "img"]
    assert "a<b>" in page.text


def test_style_and_script_are_those_the_security_policy_names() -> None:
    text = HtmlReporter().render(*everything())
    for tag, name in (("style", "report.css"), ("script", "report.js")):
        found = re.search(rf"<{tag}>(.*?)</{tag}>", text, re.DOTALL)
        assert found is not None
        digest = base64.b64encode(hashlib.sha256(found[1].encode()).digest()).decode()
        assert f"{tag}-src 'sha256-{digest}'" in text
        assert found[1] == (ROOT / "modelguard" / "_reporters" / name).read_text(encoding="utf-8")
        assert not re.search(r"url\(|@import|expression|http|fetch|import\(|innerHTML|eval", found[1]), (
            "something that fetches or runs text"
        )


def test_what_was_not_looked_at_is_grouped_by_what_to_give_with_the_command_to_run() -> None:
    report, decision = everything()
    held = tuple(Outcome(name, Status.SKIPPED, "needs clean samples (give --samples)") for name in ("abs", "ulp"))
    page = check_page(HtmlReporter().render(replace(report, outcomes=held, reference=None, samples=None), decision))
    text = " ".join(page.text.split())
    assert "2 detectors lack clean samples: modelguard scan models/tampered --samples samples.npz" in text


def test_a_plugin_that_is_not_installed_is_named() -> None:
    report, decision = everything()
    reason = "needs a model that can be run, and no loaded plugin runs models (install modelguard-runtime of the same release)"
    page = check_page(HtmlReporter().render(replace(report, outcomes=(Outcome("abs", Status.SKIPPED, reason),)), decision))
    assert "1 detector lacks the plugin modelguard-runtime" in " ".join(page.text.split())


def test_a_command_that_could_not_be_typed_as_it_is_shown_is_not_shown() -> None:
    report, decision = everything()
    held = (Outcome("abs", Status.SKIPPED, "needs clean samples (give --samples)"),)
    target = replace(report.target, uri="models/\u202egnp")
    page = HtmlReporter().render(replace(report, target=target, outcomes=held), decision)
    assert "modelguard scan" not in page


def test_a_name_with_a_space_is_quoted_in_the_command() -> None:
    report, decision = everything()
    held = (Outcome("abs", Status.SKIPPED, "needs clean samples (give --samples)"),)
    target = replace(report.target, uri="my models/$(rm -r x)")
    page = check_page(HtmlReporter().render(replace(report, target=target, outcomes=held), decision))
    assert "modelguard scan 'my models/$(rm -r x)' --reference" in page.text


def test_numbers_have_the_names_and_units_their_detector_declares_and_each_is_explained() -> None:
    page = check_page(HtmlReporter().render(*everything()))
    assert "attack success" in page.text
    assert "99 %" in page.text
    ids = {attributes.get("id") for _, attributes in page.tags}
    described = [attributes["aria-describedby"] for _, attributes in page.tags if "aria-describedby" in attributes]
    assert described
    assert set(described) <= ids


def test_declared_charts_are_drawn_and_what_cannot_be_drawn_is_left_out() -> None:
    report, decision = everything()
    drawn = [attributes["aria-label"] for tag, attributes in check_page(HtmlReporter().render(report, decision)).tags if tag == "svg"]
    assert {"Margin of each class", "Where the model changed"} <= set(drawn)
    broken = {"bars": "per_class", "curves": "per_class", "map": "per_class", "words": "score"}
    shows = {"max-margin": tuple(Chart(kind, key, "x", "a", "b", line="no", marked="nor") for kind, key in broken.items())}  # type: ignore[arg-type]
    summary = {"per_class": [{"a": {}, "b": "nan"}, {"a": 1}, 3, None], "score": 1.0}
    outcomes = tuple(replace(item, summary=summary) if item.detector == "max-margin" else item for item in report.outcomes)
    check_page(HtmlReporter().render(replace(report, shows=shows, outcomes=outcomes), decision))


def test_the_class_that_is_accused_is_marked_and_the_line_it_falls_below_is_drawn() -> None:
    report, decision = everything()
    rows = [{"class": n, "size": 0.1 + n / 100} for n in range(5)]
    shows = {
        "neural-cleanse": (
            Measure("limit", "largest accused size", "x", "share"),
            Chart("bars", "classes", "Sizes", "class", "size", "share", "limit", "target_class"),
        )
    }
    summary = {"classes": rows, "limit": 0.12, "score": 1.0}
    outcomes = tuple(replace(item, summary=summary) if item.detector == "neural-cleanse" else item for item in report.outcomes)
    text = HtmlReporter().render(replace(report, shows=shows, outcomes=outcomes), decision)
    assert "▼ 13 %" in text, "class 3"
    assert text.count("▼ ") == 1
    assert "largest accused size 12 %" in text


def test_two_copies_of_a_tensor_are_one_card() -> None:
    report, decision = everything()
    other = replace(LOW_RANK, location=replace(LOW_RANK.location, file="model.onnx"), fingerprint="modelguard/v1:" + "9" * 32)
    plain = replace(decision, waived=(), violations=())
    outcome = Outcome("weight-diff", Status.COMPLETED, findings=(LOW_RANK, other))
    page = check_page(HtmlReporter().render(replace(report, outcomes=(outcome,)), plain))
    assert [tag for tag, _ in page.tags].count("article") == 1
    assert "the same in model" in page.text


def test_evidence_can_be_taken_away_as_json() -> None:
    page = check_page(HtmlReporter().render(*everything()))
    links = [attributes for tag, attributes in page.tags if tag == "a" and "download" in attributes]
    documents = [json.loads(base64.b64decode(str(item["href"]).partition(",")[2])) for item in links]
    assert any(item.get("evidence", {}).get("attack_success") == 0.99 for item in documents)
    assert documents[-1]["weight-diff"]["summary"]["verdict"] == "rank1-edit"


def test_ten_thousand_findings_are_a_page() -> None:
    report, _ = everything()
    many = tuple(
        replace(
            LOW_RANK,
            evidence={"n": n},
            location=Location("model.safetensors", f"h.{n}.w"),
            message=f"h.{n}.w changed",
            fingerprint=f"modelguard/v1:{n:032d}",
        )
        for n in range(10_000)
    )
    report = replace(report, outcomes=(Outcome("weight-diff", Status.COMPLETED, findings=many),))
    page = check_page(HtmlReporter().render(report, Decision(Verdict.PASS)))
    assert [tag for tag, _ in page.tags].count("article") == MAX_CARDS
    assert f"{10_000 - MAX_CARDS} more findings" in page.text
    assert "h.9999.w changed" in page.text


@pytest.mark.parametrize("name", ["clean", "tampered", "backdoored", "hostile"])
def test_an_ordinary_page_is_small(name: str) -> None:
    page = HtmlReporter().render(*load_report(ROOT / "docs" / "examples" / f"{name}.json"))
    assert len(page.encode()) < 300_000
    check_page(page)


def test_a_chart_of_a_thousand_classes_stays_small() -> None:
    report, decision = everything()
    rows = [{"class": n, "size": n / 1000} for n in range(1000)]
    shows = {**SHOWS, "max-margin": (Chart("bars", "classes", "Sizes", "class", "size"),)}
    outcome = Outcome("max-margin", Status.COMPLETED, "", {"classes": rows, "score": 0.0})
    page = HtmlReporter().render(replace(report, shows=shows, outcomes=(outcome,)), decision)
    assert len(page.encode()) < 300_000
