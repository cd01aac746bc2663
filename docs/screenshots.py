"""Pictures of the HTML report for the docs: ``python docs/screenshots.py`` writes docs/images of docs/examples.

Needs Chromium and ``pip install modelguard-core[browser,images]``.
"""

from __future__ import annotations

import io
import shutil
import tempfile
from pathlib import Path
from typing import Literal

from PIL import Image
from playwright.sync_api import sync_playwright

from modelguard import load_report, render

DOCS = Path(__file__).resolve().parent
SHOTS: tuple[tuple[str, Literal["light", "dark"], int, int], ...] = (
    ("clean", "light", 1000, 760),
    ("tampered", "light", 1000, 1180),
    ("backdoored", "light", 1000, 1500),
    ("backdoored", "dark", 768, 1100),
    ("hostile", "light", 1000, 900),
    ("hostile", "dark", 360, 1100),
)
"""Example, colour scheme, width and height."""
COLOURS = 48


def main() -> None:
    chromium = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    with sync_playwright() as driver, tempfile.TemporaryDirectory() as folder:
        browser = driver.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        for name, scheme, width, height in SHOTS:
            page = Path(folder) / f"{name}.html"
            page.write_text(render(*load_report(DOCS / "examples" / f"{name}.json"), "html"), encoding="utf-8")
            view = browser.new_context(viewport={"width": width, "height": height}, color_scheme=scheme).new_page()
            view.goto(page.as_uri())
            picture = Image.open(io.BytesIO(view.screenshot())).convert("RGB").quantize(COLOURS, dither=Image.Dither.NONE)
            path = DOCS / "images" / f"report-{name}{'-dark' if scheme == 'dark' else ''}.png"
            picture.save(path, optimize=True)
            print(f"{path.relative_to(DOCS.parent)}: {path.stat().st_size:,} bytes")
        browser.close()


if __name__ == "__main__":
    main()
