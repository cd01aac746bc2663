"""What a text is: words to be read, or something that a program runs, installs or computes with."""

from __future__ import annotations

import codecs
import posixpath
import re

from modelguard import _limits
from modelguard._formats.named import Kind, by_name, extension

MAX_TEXT = _limits.TEXT
"""Bytes of a text file that are looked through for what is no text."""
_STEP = 1 << 20
_MAX_LIST = 1 << 24
"""Bytes of a list of packages. Nobody writes a longer one, and it would be slow to look through."""

_HTML = re.compile(rb"\s*(?:<!--.*?-->\s*)*<(?:!doctype\s+html|html|head|body|script|svg|\?xml)", re.IGNORECASE | re.DOTALL)
_SCRIPT = re.compile(
    rb"<script|<iframe|<object|<embed|<foreignobject|javascript:|\son[a-z]{3,20}\s*=|http-equiv\s*=\s*[\"']?refresh", re.IGNORECASE
)
"""What runs, loads or leads to code when a browser shows a page or a drawing (HTML standard; "How To Secure SVG", W3C)."""
_COMMANDS = re.compile(rb"\s*(?:<\?php|<\?=|@echo off|\[Desktop Entry\]|\[InternetShortcut\]|Windows Registry Editor)", re.IGNORECASE)
_BOOSTER = re.compile(rb"\"(?:gradient_booster|learner_model_param|oblivious_trees)\"\s*:")
"""Keys of the models that XGBoost and CatBoost save as JSON."""
_TREES = re.compile(rb"tree\r?\nversion=v\d")
_PMML = re.compile(rb"<(?:\w+:)?PMML[\s>]")
_OPENVINO = re.compile(rb"\s*(?:<\?xml[^>]*>\s*)?<net\s[^>]*>\s*<layers>")
_RUN_BY_GIT = re.compile(r"(?:^|/)\.git/(?:.*/)?(?:config|config\.worktree|hooks/[^/]*)$")
"""What git itself reads for commands to run: sources leave out those that have none."""
_IMPORTS = re.compile(rb"^import[ \t]", re.MULTILINE)
"""What the ``site`` module executes of a line in a .pth file."""

_REQUIREMENTS = re.compile(r"(?:requirements|constraints)[^/]*\.(?:txt|in|pip)$|(?:^|/)requirements/[^/]*\.(?:txt|in)$")
_FETCHED = re.compile(rb"^[ \t]*(?![#\s])[^\n#]*?(?:://|git\+|--index-url|--find-links|--trusted-host)|^[ \t]*-[efi][ \t=.]", re.MULTILINE)
"""Lines of a requirements file that do not name a package of the index (pip, "Requirements File Format")."""
_ENVIRONMENT = re.compile(r"(?:^|/)(?:environment|conda|env)[^/]*\.ya?ml$|(?:^|/)pipfile(?:\.lock)?$")
_PROJECT = re.compile(r"(?:^|/)(?:pyproject\.toml|setup\.cfg|uv\.lock|poetry\.lock)$")
_BUILDS = re.compile(
    rb"backend-path|cmdclass|\battr:|git\+|@\s*(?:https?|file):|index-url|extra-index|find-links|\[\[tool\.\w+\.(?:source|index)\]\]|"
    rb"\[tool\.(?:poetry\.build|pdm\.build|hatch\.build\.hooks|setuptools\.cmdclass)|\bpost(?:un)?install\b",
)
"""What makes installing a project run its own code, or fetch from elsewhere (PEP 517, setuptools, Poetry, uv)."""
_NODE = re.compile(rb"\"(?:(?:pre|post)?install|prepare)\"\s*:")
_PIP = re.compile(rb"git\+|--(?:extra-)?index-url|--find-links|-e[ \t]|@\s*https?:")


def is_text(data: memoryview) -> bool:
    """Whether all of ``data`` is UTF-8 (UTF-16 and UTF-32 with a byte order mark) without nulls, and no more than :data:`MAX_TEXT`."""
    if len(data) > MAX_TEXT:
        return False
    head = bytes(data[:4])
    wide = "utf-32" if head in (codecs.BOM_UTF32_LE, codecs.BOM_UTF32_BE) else ""
    wide = wide or ("utf-16" if head.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)) else "")
    decoder = codecs.getincrementaldecoder(wide or "utf-8")()
    try:
        for at in range(0, len(data), _STEP):
            if "\0" in decoder.decode(bytes(data[at : at + _STEP])):
                return False
        decoder.decode(b"", final=True)
    except UnicodeDecodeError:
        return False
    return True


def text_kind(path: str, data: memoryview) -> Kind:
    """What a text called ``path`` is. Its name counts where programs go by it, its content where they do not."""
    named = by_name(path)
    lower = path.lower()
    head = bytes(data[:4096]).removeprefix(codecs.BOM_UTF8)
    if _RUN_BY_GIT.search(path):
        return Kind("a git configuration or hook that may run commands", "code")
    if head.startswith(b"#!"):
        return Kind("a script", "code")
    if _COMMANDS.match(head):
        return Kind("text that a program runs", "code")
    if named.matter == "code":
        return Kind(f"text, and {named.what}", "code")
    if _TREES.match(head):
        return Kind("a LightGBM model", "weights")
    if head.lstrip()[:1] == b"{" and _BOOSTER.search(data):
        return Kind("a model of XGBoost or CatBoost", "weights")
    markup = _HTML.match(head) is not None or extension(path) in (".html", ".htm", ".svg", ".xml", ".xhtml")
    if markup and _PMML.search(head):
        return Kind("a PMML model", "weights")
    if _OPENVINO.match(head):
        return Kind("an OpenVINO model", "weights")
    if markup and _SCRIPT.search(data):
        return Kind("a page or drawing with a script in it", "code")
    if extension(path) == ".pth" and _IMPORTS.search(data):
        return Kind("a .pth file of Python, whose lines run when Python starts", "code")
    if (wants := _installs(lower)) is not None and (len(data) > _MAX_LIST or wants.search(data)):
        return Kind("a list of packages, some of which come from elsewhere than the index or run code when they are installed", "code")
    if named.matter == "weights":
        return Kind(f"text, and {named.what}", "weights")
    return Kind("an HTML page" if _HTML.match(head) and extension(path) != ".svg" else "text", "inert")


def _installs(path: str) -> re.Pattern[bytes] | None:
    """What in a file of that name makes an installer run code or fetch from elsewhere than it is told."""
    if _REQUIREMENTS.search(path):
        return _FETCHED
    if _ENVIRONMENT.search(path):
        return _PIP
    if _PROJECT.search(path):
        return _BUILDS
    return _NODE if posixpath.basename(path) == "package.json" else None
