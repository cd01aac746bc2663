"""What the site does to a page before it is built: a link out of docs/ leads somewhere in the repository, and nowhere in the site."""

from __future__ import annotations

import posixpath
import re
from typing import Any

LINK = re.compile(r"(?<!!)\[((?:[^\[\]\n]|\[[^\[\]\n]*\])+)\]\(((?!\w+:)[^)#\s]+)(#[^)\s]*)?\)")


def inside(markdown: str, path: str) -> str:
    """The text of the page ``path`` (below docs/), with links that leave docs/ as plain text."""

    def plain(link: re.Match[str]) -> str:
        leads = posixpath.normpath(posixpath.join(posixpath.dirname(path), link[2]))
        return link[1] if leads.startswith("../") else link[0]

    return LINK.sub(plain, markdown)


def on_page_markdown(markdown: str, page: Any, **_: object) -> str:
    # With a comment before it, the first heading would not be taken for the page's title.
    return inside(re.sub(r"\A\s*<!--.*?-->\s*", "", markdown, flags=re.DOTALL), page.file.src_uri)
