"""The site that `make docs` builds: every link and anchor leads somewhere, nothing comes from elsewhere, and it is found by searching."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest
from support import ROOT

pytest.importorskip("material", reason="pip install -c constraints.txt .[docs]")
pytest.importorskip("mkdocs_awesome_nav", reason="pip install -c constraints.txt .[docs]")

DOCS = ROOT / "docs"
LOADS = {("script", "src"), ("img", "src"), ("iframe", "src"), ("source", "src"), ("object", "data"), ("use", "href")}


def build(config: Path, out: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "-f", str(config), "-d", str(out)]
    # Not --quiet: what is not logged is not counted, and nothing would be strict.
    environment = {**os.environ, "NO_MKDOCS_2_WARNING": "1"}
    return subprocess.run(command, capture_output=True, text=True, check=False, env=environment)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The built site. A warning of any kind, such as a link to nowhere, makes the build fail."""
    out = tmp_path_factory.mktemp("site")
    built = build(ROOT / "mkdocs.yml", out)
    assert built.returncode == 0, built.stderr
    return out


class Page(HTMLParser):
    """The ids of a page, what it links to, and what it loads."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.ids: set[str] = set()
        self.links: list[str] = []
        self.loads: list[str] = []
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = {name: value or "" for name, value in attrs}
        self.ids |= {given[name] for name in ("id", "name") if name in given}
        if tag == "a" and "href" in given:
            self.links.append(given["href"])
        self.loads += [value for name, value in given.items() if (tag, name) in LOADS]
        if tag == "link" and given.get("rel") not in ("canonical", "prev", "next", "edit"):
            self.loads.append(given.get("href", ""))

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)


@pytest.fixture(scope="module")
def pages(site: Path) -> dict[Path, Page]:
    return {path: Page(path) for path in sorted(site.rglob("*.html"))}


def test_every_page_is_built(pages: dict[Path, Page], site: Path) -> None:
    written = {path.relative_to(DOCS).with_suffix("").as_posix() for path in DOCS.rglob("*.md") if "examples" not in path.parts}
    assert {path.relative_to(site).with_suffix("").as_posix() for path in pages} >= written


def broken(pages: dict[Path, Page], site: Path) -> Iterator[str]:
    for path, page in pages.items():
        if path.name == "404.html":  # it does not know how deep it is asked for
            continue
        for link in page.links:
            parts = urlsplit(link)
            if parts.scheme or parts.netloc:
                continue
            target = (path.parent / unquote(parts.path)).resolve() if parts.path else path
            if target.is_dir():
                target /= "index.html"
            where = f"{path.relative_to(site)}: {link}"
            if not target.exists() or (parts.fragment and target in pages and unquote(parts.fragment) not in pages[target].ids):
                yield where


def test_every_link_and_anchor_leads_somewhere(pages: dict[Path, Page], site: Path) -> None:
    assert sum(len(page.links) for page in pages.values()) > 1000
    assert list(broken(pages, site)) == []


def test_a_link_to_nowhere_is_found(tmp_path: Path) -> None:
    (tmp_path / "a.html").write_text(
        '<p id="here"><a href="b.html">x</a><a href="#here">y</a><a href="#gone">z</a><a href="https://x.org">w</a>'
    )
    found = list(broken({tmp_path / "a.html": Page(tmp_path / "a.html")}, tmp_path))
    assert found == ["a.html: b.html", "a.html: #gone"]


def test_nothing_is_loaded_from_elsewhere(pages: dict[Path, Page], site: Path) -> None:
    foreign = {load for page in pages.values() for load in page.loads if re.match(r"(?:[a-z]+:)?//", load)}
    assert foreign == set()
    for sheet in site.rglob("*.css"):
        assert not re.findall(r"(?:url\(|@import )[\"']?(?:https?:)?//", sheet.read_text(encoding="utf-8")), sheet.name


def test_the_index_of_the_search_is_there_as_a_script_too(site: Path) -> None:
    """A browser lets no page of a folder read JSON, but any page load a script."""
    text = (site / "search" / "search_index.js").read_text(encoding="utf-8")
    index = json.loads(text.removeprefix("var __index = "))
    assert {"rules/MG1208.html", "how-to/waive.html", "detectors/abs.html"} <= {item["location"] for item in index["docs"]}


def test_nothing_but_pages_and_what_they_show_is_published(site: Path) -> None:
    assert not [path for path in site.rglob("*") if path.suffix in (".py", ".yaml", ".yml", ".md")]
    assert not (site / "examples").exists()


def test_a_new_page_finds_its_place_by_itself_and_one_with_a_broken_link_is_refused(tmp_path: Path) -> None:
    docs = tmp_path / "docs"
    docs.mkdir()
    shutil.copy(DOCS / "mkdocs_hooks.py", docs)
    shutil.copytree(DOCS / "assets", docs / "assets")
    (docs / "index.md").write_text("# Home\n")
    (docs / "lock.md").write_text("<!-- generated -->\n# Keep a lock\n\nSee [the code](../setup.py) and [`x[1]`](../x.py).\n")
    shutil.copy(ROOT / "mkdocs.yml", tmp_path)
    rest = re.findall(r"^      - \{glob: .*$", (DOCS / ".nav.yml").read_text(), re.MULTILINE)
    assert len(rest) == 2
    (docs / ".nav.yml").write_text("\n".join(["nav:", "  - Home: index.md", "  - How to:", *rest]))
    built = build(tmp_path / "mkdocs.yml", tmp_path / "site")
    assert built.returncode == 0, built.stderr
    home, page = ((tmp_path / "site" / name).read_text() for name in ("index.html", "lock.html"))
    assert "Keep a lock" in home, "the title is the first heading, below the comment"
    assert "setup.py" not in page
    assert "<code>x[1]</code>" in page
    (docs / "lock.md").write_text("# Keep a lock\n\n[x](nowhere.md)\n")
    assert "nowhere.md" in build(tmp_path / "mkdocs.yml", tmp_path / "again").stderr


CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)


@pytest.mark.skipif(CHROMIUM is None, reason="there is no Chromium on this machine")
def test_it_opens_from_a_folder_fits_a_telephone_is_accessible_and_searched_without_a_network(site: Path) -> None:
    sync_api = pytest.importorskip("playwright.sync_api", reason="pip install modelguard-core[browser]")
    axe = Path(pytest.importorskip("axe_core_python", reason="pip install modelguard-core[browser]").__file__).with_name("axe.min.js")
    said: list[str] = []
    with sync_api.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": 400, "height": 900})
        page.on("console", lambda message: said.append(message.text))
        page.on("pageerror", lambda error: said.append(str(error)))
        page.on("request", lambda request: None if request.url.startswith(("file:", "data:", "blob:")) else said.append(request.url))
        for name in ("detection-matrix", "policy", "rules/MG1208", "index"):
            page.goto((site / f"{name}.html").as_uri())
            assert page.evaluate("document.documentElement.scrollWidth") <= 400, name
        for scheme in ("light", "dark"):
            own = browser.new_context(color_scheme=scheme).new_page()  # of its own, because a page remembers what the reader chose
            for name in ("detection-matrix", "api"):
                own.goto((site / f"{name}.html").as_uri())
                assert own.locator("body").get_attribute("data-md-color-scheme") == {"light": "default", "dark": "slate"}[scheme]
                own.evaluate(axe.read_text(encoding="utf-8"))
                found = own.evaluate("axe.run(document, {runOnly: ['wcag2a', 'wcag2aa', 'wcag21aa', 'wcag22aa']})")["violations"]
                assert [(item["id"], item["nodes"][0]["html"]) for item in found] == [], (scheme, name)
        page.locator("label[for=__search]").first.click()
        page.locator(".md-search__input").press_sequentially("SingleRankOneEdit")
        page.locator(".md-search-result__link").first.wait_for()
        assert "MG1208" in page.locator(".md-search-result__list").inner_text()
        browser.close()
    assert said == []
