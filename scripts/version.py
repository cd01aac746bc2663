"""One version for every distribution of this repository: that of ``modelguard/__init__.py``.

python scripts/version.py            says which pyproject.toml disagrees, and exits with 1
python scripts/version.py --write    writes version and first-party bounds into every pyproject.toml
python scripts/version.py 0.2.0      sets a new version, then does the same

Bounds are compatible releases (``~=``, PEP 440): a plugin works with the minor release that it was tested with.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
SOURCE = ROOT / "modelguard" / "__init__.py"
_ASSIGNED = re.compile(r'^__version__ = "(?P<version>[^"]+)"$', re.M)
_VERSION = re.compile(r'^version = "[^"]*"$', re.M)
_REQUIRED = re.compile(r'"(?P<name>modelguard-[a-z-]+)(?P<extras>\[[a-z,-]+\])?(?P<bounds>[<>=~!][^"]*)?"')


def current() -> str:
    """The version that ``modelguard/__init__.py`` states."""
    found = _ASSIGNED.search(SOURCE.read_text(encoding="utf-8"))
    if found is None:
        raise SystemExit(f'{SOURCE}: has no line __version__ = "..."')
    return found["version"]


def projects() -> list[Path]:
    """Every pyproject.toml: the core's first, then the plugins' by name."""
    return [ROOT / "pyproject.toml", *sorted(ROOT.glob("plugins/*/pyproject.toml"))]


def stamped(text: str, version: str) -> str:
    """A pyproject.toml with this version, and first-party requirements bounded by it."""
    own = set(re.findall(r'^name = "([^"]+)"$', text, re.M))

    def bounded(found: re.Match[str]) -> str:
        name = found["name"]
        return found[0] if name in own else f'"{name}{found["extras"] or ""}~={version}"'

    return _REQUIRED.sub(bounded, _VERSION.sub(f'version = "{version}"', text))


def main(arguments: list[str]) -> int:
    write = bool(arguments)
    if arguments and arguments[0] != "--write":
        if not re.fullmatch(r"\d+\.\d+\.\d+", arguments[0]):
            raise SystemExit(f"{arguments[0]}: a version has three numbers, such as 0.2.0")
        text = SOURCE.read_text(encoding="utf-8")
        SOURCE.write_text(_ASSIGNED.sub(f'__version__ = "{arguments[0]}"', text), encoding="utf-8")
    version = current()
    stale = [path for path in projects() if stamped(path.read_text(encoding="utf-8"), version) != path.read_text(encoding="utf-8")]
    for path in stale:
        if write:
            path.write_text(stamped(path.read_text(encoding="utf-8"), version), encoding="utf-8")
        else:
            print(f"{path.relative_to(ROOT)}: does not state version {version} everywhere; run `python scripts/version.py --write`")
    return 1 if stale and not write else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
