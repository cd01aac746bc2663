"""The page in a real browser: accessible, silent, usable by keyboard, unmoved by hostile text. Skipped where there is none.

``pip install modelguard-core[browser]`` brings the driver and axe-core; the browser is the system's Chromium.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from everything import HOSTILE, everything, hostile
from support import ROOT

from modelguard import load_report
from modelguard._fleet.run import Done
from modelguard._fleet.summary import render, summary
from modelguard._fleet.targets import FleetTarget
from modelguard._fleet.work import lost, row
from modelguard._reporters.html import HtmlReporter
from modelguard.report import PolicyInfo

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
if CHROMIUM is None:
    pytest.skip("there is no Chromium on this machine", allow_module_level=True)
axe_core_python = pytest.importorskip("axe_core_python", reason="pip install modelguard-core[browser]")
sync_api = pytest.importorskip("playwright.sync_api", reason="pip install modelguard-core[browser]")

WIDTHS = (360, 768, 1280)


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with sync_api.sync_playwright() as driver:
        launched = driver.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield launched
        launched.close()


@pytest.fixture
def said() -> list[str]:
    """What the page complained of in the console, and what it asked the network for."""
    return []


def opened(browser: Any, folder: Path, text: str, said: list[str], **context: Any) -> Any:
    path = folder / "report.html"
    path.write_text(text, encoding="utf-8")
    page = browser.new_context(**context).new_page()
    page.on("console", lambda message: said.append(message.text))
    page.on("pageerror", lambda error: said.append(str(error)))
    page.on("request", lambda request: None if request.url.startswith(("data:", path.as_uri())) else said.append(request.url))
    page.on("dialog", lambda dialog: said.append(dialog.message))
    page.goto(path.as_uri())
    return page


def violations(page: Any) -> list[str]:
    script = (Path(axe_core_python.__file__).parent / "axe.min.js").read_text(encoding="utf-8")
    page.evaluate(script)
    found = page.evaluate("axe.run(document, {runOnly: ['wcag2a', 'wcag2aa', 'wcag21aa', 'wcag22aa', 'best-practice']})")
    return [f"{item['id']}: {[node['html'][:200] for node in item['nodes'][:3]]}" for item in found["violations"]]


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", WIDTHS)
def test_the_page_is_accessible_and_silent(browser: Any, tmp_path: Path, said: list[str], width: int, scheme: str) -> None:
    page = opened(
        browser, tmp_path, HtmlReporter().render(*everything()), said,
        viewport={"width": width, "height": 900}, color_scheme=scheme, bypass_csp=True,
    )  # fmt: skip
    page.evaluate("document.querySelectorAll('details').forEach((part) => (part.open = true))")
    assert violations(page) == []
    assert page.evaluate("document.documentElement.scrollWidth") <= width, "the page scrolls sideways"
    assert said == []


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", WIDTHS)
def test_the_summary_of_a_fleet_is_accessible_and_silent(browser: Any, tmp_path: Path, said: list[str], width: int, scheme: str) -> None:
    """Models with a report and without one, an earlier summary, hostile names."""
    rows = [
        row(*everything()),
        lost("the process that scanned it died 2 times"),
        row(*load_report(ROOT / "docs" / "examples" / "clean.json")),
    ]
    targets = [
        FleetTarget("models/bert"),
        FleetTarget(" ".join(HOSTILE)),
        FleetTarget("hf://acme/gpt", name="writer"),
        FleetTarget("never"),
    ]
    done = Done(rows={target.key: item for target, item in zip(targets, rows, strict=False)})
    earlier = summary(targets[:1], Done(rows={targets[0].key: lost("")}), PolicyInfo("gate", "0" * 64), None)
    text = render(summary(targets, done, PolicyInfo("gate", "0" * 64), earlier), "html", {targets[0].key: "reports/bert.json"})
    page = opened(browser, tmp_path, text, said, viewport={"width": width, "height": 900}, color_scheme=scheme, bypass_csp=True)
    page.evaluate("document.querySelectorAll('details').forEach((part) => (part.open = true))")
    assert violations(page) == []
    assert page.evaluate("document.documentElement.scrollWidth") <= width, "the page scrolls sideways"
    assert said == []
    page.get_by_role("button", name="verdict").click()
    first = page.locator("table.sortable tbody tr").first.inner_text()
    page.get_by_role("button", name="verdict").click()
    assert page.locator("table.sortable tbody tr").first.inner_text() != first


@pytest.mark.parametrize("name", ["clean", "tampered", "backdoored", "hostile"])
def test_the_examples_are_accessible(browser: Any, tmp_path: Path, said: list[str], name: str) -> None:
    text = HtmlReporter().render(*load_report(ROOT / "docs" / "examples" / f"{name}.json"))
    page = opened(browser, tmp_path, text, said, bypass_csp=True)
    page.evaluate("document.querySelectorAll('details').forEach((part) => (part.open = true))")
    assert violations(page) == []
    assert said == []


@pytest.mark.parametrize("text", HOSTILE, ids=range(len(HOSTILE)))
def test_hostile_text_runs_nothing_and_fetches_nothing(browser: Any, tmp_path: Path, said: list[str], text: str) -> None:
    report, decision = everything()
    page = opened(
        browser,
        tmp_path,
        HtmlReporter().render(hostile(report, text), hostile(decision, text)),
        said,
        viewport={"width": 800, "height": 600},
    )
    assert page.locator("script").count() == 1
    assert page.evaluate("document.documentElement.scrollWidth") <= 800
    assert said == []


def test_tables_sort_and_explanations_open_and_close_by_keyboard(browser: Any, tmp_path: Path, said: list[str]) -> None:
    page = opened(browser, tmp_path, HtmlReporter().render(*everything()), said)
    page.evaluate("document.querySelectorAll('details').forEach((part) => (part.open = true))")
    sizes = "[...document.querySelectorAll('table.sortable:has(td.mono) tbody tr')].map((row) => Number(row.cells[1].dataset.v))"
    button = page.get_by_role("button", name="Bytes")
    button.focus()
    page.keyboard.press("Enter")
    up = page.evaluate(sizes)
    page.keyboard.press("Enter")
    assert up == sorted(up)
    assert page.evaluate(sizes) == up[::-1]
    term = page.locator(".term[tabindex]").first
    term.focus()
    assert term.locator(".tip").is_visible()
    page.keyboard.press("Escape")
    assert not term.locator(".tip").is_visible()
    assert said == []


def test_the_evidence_that_is_downloaded_is_json(browser: Any, tmp_path: Path, said: list[str]) -> None:
    page = opened(browser, tmp_path, HtmlReporter().render(*everything()), said, accept_downloads=True)
    with page.expect_download() as started:
        page.get_by_role("link", name="All evidence as JSON").click()
    document = json.loads(Path(started.value.path()).read_text(encoding="utf-8"))
    assert started.value.suggested_filename == "evidence.json"
    assert document["weight-diff"]["summary"]["verdict"] == "rank1-edit"


def test_what_is_folded_is_printed_too(browser: Any, tmp_path: Path, said: list[str]) -> None:
    page = opened(browser, tmp_path, HtmlReporter().render(*everything()), said)
    assert page.locator("details:not([open])").count()
    assert page.pdf()[:5] == b"%PDF-"
    assert page.locator("details:not([open])").count() == 0
