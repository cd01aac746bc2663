"""Command lines, wherever they stand: what in them fetches and runs, opens a shell to somebody else, hides, or destroys."""

from __future__ import annotations

import re
from collections.abc import Iterator

from modelguard import Severity

_HIGH, _MEDIUM, _CRITICAL = Severity.HIGH, Severity.MEDIUM, Severity.CRITICAL
_RUN = r"\|\s*(?:sudo\s+(?:-\w+\s+)?)?(?:ba|z|da|k)?(?:sh|python[\d.]*|perl|ruby|node)\b"
_GET = r"\b(?:curl|wget|fetch|aria2c)\b"
_THEN = " ... "
"""Parts the pieces of a pattern, each of which is looked for behind the one before. Stars in one expression would go back and forth."""
_TRICKS: tuple[tuple[str, Severity, tuple[str, ...]], ...] = (
    (
        "runs what it downloads without encryption",
        _HIGH,
        (
            _GET + r"[^\n|;&]{0,200}http://(?!localhost|127\.0\.0\.1)[^\s|;&]{0,200}\s{0,4}" + _RUN,
            _GET + r"[^\n|;&]{0,200}https?://\d{1,3}(?:\.\d{1,3}){3}[^\s|;&]{0,200}\s{0,4}" + _RUN,
            _GET + r"[^\n|;&]{0,200}http://(?!localhost|127\.0\.0\.1)[^\n|;&]{0,100}" + _RUN,
        ),
    ),
    (
        "runs what it downloads",
        _MEDIUM,
        (
            _GET + r"[^\n|;&]{0,400}" + _RUN,
            r"\b(?:ba|z)?sh\s+-c\s+[\"']?\$\((?:curl|wget)\b",
            r"\b(?:ba|z)?sh\s+<\(\s*(?:curl|wget)\b",
            r"\beval\s+[\"']?\$\((?:curl|wget)\b",
        ),
    ),
    (
        "downloads a program and runs it",
        _HIGH,
        (r"\b(?:curl|wget)\b ... (?:/tmp/|/dev/shm/|/var/tmp/) ... (?:&&|;) ... (?:\bchmod\s+\S{0,20}[x7]|\b(?:ba)?sh\s+/)",),
    ),
    (
        "opens a shell to another machine",
        _CRITICAL,
        (
            r"/dev/(?:tcp|udp)/[^\s/]+/\d+",
            r"\bn(?:c|cat|etcat)\b ... \s-\w{0,6}[ec]\w{0,6}\s+\S{0,60}(?:sh|cmd)\b",
            r"\bsocat\b ... \bexec:",
            r"\bmkfifo\b ... \bn(?:c|cat)\b",
            r"\bbash\s+-i\s*[>&]",
            r"\bperl\s+-e ... socket",
            r"\bpython[\d.]*\s+-c ... socket ... (?:dup2|pty)",
            r"\bruby\s+-rsocket",
            r"\bphp\s+-r ... fsockopen",
        ),
    ),
    (
        "runs what it decodes",
        _HIGH,
        (
            r"\bbase64\s+(?:-d|-D|--decode)\b ... \|\s*(?:sudo\s+)?(?:(?:ba|z|da)?sh|python[\d.]*|perl|xargs|gunzip|zcat)\b",
            r"\|\s*xxd\s+-r ... \|\s*(?:ba|z|da)?sh\b",
            r"\b(?:eval|(?:ba)?sh\s+-c)\s+[\"']?(?:\$\(|`) ... \bbase64\s+(?:-d|--decode)",
        ),
    ),
    (
        "hides what PowerShell runs",
        _HIGH,
        (
            r"\bpowershell(?:\.exe)?\b ... \s-e(?:nc?|ncodedcommand)?\s+[A-Za-z0-9+/=]{16}",
            r"\b(?:iex|invoke-expression)\b ... (?:downloadstring|webclient|invoke-webrequest|\biwr\b|frombase64string)",
            r"(?:downloadstring|\biwr\b|invoke-webrequest) ... \|\s*(?:iex|invoke-expression)\b",
            r"FromBase64String ... (?:Invoke|Load)",
            r"\bcertutil\b ... -(?:urlcache|decode)\b",
            r"\bmshta\b\s+http",
            r"\bregsvr32\b ... /i:http",
            r"\bbitsadmin\b ... /transfer",
        ),
    ),
    (
        "destroys files",
        _HIGH,
        (
            r"\brm\s+(?:-{1,2}[\w-]+\s+){1,6}(?:/|~/?|\$HOME/?|/(?:etc|home|usr|boot|lib)/?)(?:\s|$|\*)",
            r"\bmkfs\.\w+\s+/dev/",
            r"\bdd\b ... \bof=/dev/[shn]",
            r":\(\)\s*\{\s*:\|:&\s*\};:",
        ),
    ),
    (
        "makes itself start again",
        _HIGH,
        (
            r">>?\s*\S{0,100}(?:\.bashrc|\.profile|\.zshrc|\.bash_profile|authorized_keys|/etc/cron|rc\.local|ld\.so\.preload)\b",
            r"\bcrontab\s+(?!-l)\S",
            r"\bschtasks\b ... /create",
            r"\breg\s+add\b ... \\Run\b",
            r"\bsystemctl\s+enable\b",
        ),
    ),
    (
        "sends secrets away",
        _HIGH,
        (
            r"\b(?:curl|wget|nc)\b ... (?:\$\((?:env|printenv)\b|\.ssh/|\.aws/|/etc/passwd|/etc/shadow)",
            r"\b(?:env|printenv)\s*\|\s*\S ... \b(?:curl|wget|nc)\b",
            r"\bcat\s+\S{0,100}(?:\.ssh/|/etc/passwd|\.aws/) ... \| ... \b(?:curl|wget|nc)\b",
        ),
    ),
)
_SEARCH = tuple(
    (what, severity, tuple(tuple(re.compile(part, re.I) for part in pattern.split(_THEN)) for pattern in patterns))
    for what, severity, patterns in _TRICKS
)
_ANY = re.compile(
    r"curl|wget|fetch|aria2c|/dev/|\bnc|netcat|socat|bash|perl|python|ruby|php|base64|xxd|powershell|iex|invoke-|download|frombase64"
    r"|certutil|mshta"
    r"|regsvr32|bitsadmin|\brm\b|mkfs|\bdd\b|:\(\)|rc\b|profile|authorized_keys|cron|rc\.local|preload|schtasks|\breg\b|systemctl|env\b",
    re.I,
)
"""What any of them needs; most lines have none of it."""
_LINE = 1000
"""Characters of a line that are looked at together, because the patterns go back and forth in them."""


def tricks(text: str) -> Iterator[tuple[str, Severity]]:
    """(what it does, how bad) of each kind of trick in some lines of commands, once a kind."""
    told: set[str] = set()
    for line in joined(text):
        for what, severity, patterns in _SEARCH:
            if what not in told and any(_follows(line, parts) for parts in patterns):
                told.add(what)
                yield what, severity


def _follows(line: str, parts: tuple[re.Pattern[str], ...]) -> bool:
    at = 0
    for part in parts:
        hit = part.search(line, at)
        if hit is None:
            return False
        at = hit.end()
    return True


def joined(text: str) -> Iterator[str]:
    """Lines as a shell takes them that may hold a trick, without comments and the signs that only hide words."""
    for line in re.sub(r"[\\^`]\r?\n", " ", text).splitlines():
        bare = line.strip()
        if bare and not bare.startswith(("#", "REM ", "rem ", "::")):
            for start in range(0, len(bare), _LINE // 2):
                piece = bare[start : start + _LINE]
                plain = re.sub(r"(?<=\w)(?:''|\"\"|\\)(?=\w)|\$\{?IFS\}?", lambda mark: " " if "IFS" in mark[0] else "", piece)
                if _ANY.search(plain):
                    yield plain
                if start + _LINE >= len(bare):
                    break
