"""Command lines, wherever they stand: what in them fetches and runs, opens a shell to somebody else, hides, or destroys."""

from __future__ import annotations

import re
from collections.abc import Iterator

from modelguard import Severity

_HIGH, _MEDIUM, _CRITICAL = Severity.HIGH, Severity.MEDIUM, Severity.CRITICAL
_TRICKS: tuple[tuple[str, str, Severity], ...] = (
    (
        "runs what it downloads without encryption",
        r"(?:curl|wget|fetch|aria2c)\b[^\n|;&]*(?:http://(?!localhost|127\.0\.0\.1)|https?://\d{1,3}(?:\.\d{1,3}){3})[^\n;&]*"
        r"\|\s*(?:sudo\s+)?(?:ba|z|da|k)?(?:sh|python[\d.]*|perl|ruby|node)\b",
        _HIGH,
    ),
    (
        "runs what it downloads",
        r"(?:curl|wget|fetch|aria2c)\b[^\n|;&]*\|\s*(?:sudo\s+(?:-\w+\s+)*)?(?:ba|z|da|k)?(?:sh|python[\d.]*|perl|ruby|node)\b"
        r"|(?:ba|z)?sh\s+-c\s+[\"']?\$\((?:curl|wget)\b|(?:ba|z)?sh\s+<\(\s*(?:curl|wget)\b|eval\s+[\"']?\$\((?:curl|wget)\b",
        _MEDIUM,
    ),
    (
        "downloads a program and runs it",
        r"(?:curl|wget)\b[^\n]*?(?:-[oO]\s*|>\s*|--output[= ])?(/tmp/|/dev/shm/|/var/tmp/)[^\n]*(?:&&|;)[^\n]*(?:chmod\s+\S*[x7]"
        r"|\b(?:ba)?sh\s+/)",
        _HIGH,
    ),
    (
        "opens a shell to another machine",
        r"/dev/(?:tcp|udp)/\S+/\d+|\bn(?:c|cat|etcat)\b[^\n]*\s-\w*[ec]\w*\s+\S*(?:sh|cmd)\b|\bsocat\b[^\n]*\bexec:"
        r"|\bmkfifo\b[^\n]*\bn(?:c|cat)\b"
        r"|\bbash\s+-i\s*[>&]|perl\s+-e[^\n]*socket|python[\d.]*\s+-c[^\n]*socket[^\n]*(?:dup2|pty)|ruby\s+-rsocket"
        r"|php\s+-r[^\n]*fsockopen",
        _CRITICAL,
    ),
    (
        "runs what it decodes",
        r"base64\s+(?:-d|-D|--decode)\b[^\n]*\|\s*(?:sudo\s+)?(?:(?:ba|z|da)?sh|python[\d.]*|perl|xargs|gunzip|zcat)\b"
        r"|\|\s*xxd\s+-r[^\n]*\|\s*\w*sh\b"
        r"|(?:eval|(?:ba)?sh\s+-c)\s+[\"']?(?:\$\(|`)[^\n]*base64\s+(?:-d|--decode)",
        _HIGH,
    ),
    (
        "hides what PowerShell runs",
        r"powershell(?:\.exe)?\b[^\n]*\s-e(?:nc?|ncodedcommand)?\s+[A-Za-z0-9+/=]{16,}|\b(?:iex"
        r"|invoke-expression)\b[^\n]*(?:downloadstring|webclient"
        r"|invoke-webrequest|\biwr\b|frombase64string)|(?:downloadstring|\biwr\b|invoke-webrequest)[^\n]*\|\s*(?:iex"
        r"|invoke-expression)\b|FromBase64String"
        r"[^\n]*(?:Invoke|Load)|\bcertutil\b[^\n]*-(?:urlcache|decode)\b|\bmshta\b\s+http|\bregsvr32\b[^\n]*/i:http"
        r"|\bbitsadmin\b[^\n]*/transfer",
        _HIGH,
    ),
    (
        "destroys files",
        r"\brm\s+(?:-\w+\s+)*-\w*[rf]\w*\s+(?:-\w+\s+)*(?:--no-preserve-root\s+)?(?:/(?:\s|$|\*|(?:etc|home|usr|boot|lib)\b)|~/?(?:\s|$"
        r"|\*)|\$HOME/?(?:\s|$|\*))"
        r"|\bmkfs\.\w+\s+/dev/|\bdd\b[^\n]*\bof=/dev/[shn]|:\(\)\s*\{\s*:\|:&\s*\};:",
        _HIGH,
    ),
    (
        "makes itself start again",
        r">>?\s*\S*(?:\.bashrc|\.profile|\.zshrc|\.bash_profile|authorized_keys|/etc/cron|rc\.local|ld\.so\.preload)\b"
        r"|\bcrontab\s+(?!-l)\S|"
        r"\bschtasks\b[^\n]*/create|\breg\s+add\b[^\n]*\\Run\b|\bsystemctl\s+enable\b",
        _HIGH,
    ),
    (
        "sends secrets away",
        r"(?:curl|wget|nc)\b[^\n]*(?:\$\(?(?:env|printenv)\b|\.ssh/|\.aws/|/etc/passwd|/etc/shadow|\$(?:HF_TOKEN|AWS_SECRET\w*"
        r"|GITHUB_TOKEN)"
        r"(?![^\n]*(?:huggingface\.co|github\.com|amazonaws\.com)))|(?:\benv\b|\bprintenv\b|cat\s+\S*(?:\.ssh/|/etc/passwd|\.aws/))[^\n"
        r"|]*\|[^\n]*(?:curl|wget|\bnc)\b",
        _HIGH,
    ),
)
_SEARCH = tuple((what, re.compile(pattern, re.I), severity) for what, pattern, severity in _TRICKS)
_LINE = 4000
"""Characters of one line that are looked at: longer ones are no commands, and the patterns go back and forth in them."""


def tricks(text: str) -> Iterator[tuple[str, Severity]]:
    """(what it does, how bad) of each kind of trick in some lines of commands, once a kind."""
    told: set[str] = set()
    for line in joined(text):
        for what, pattern, severity in _SEARCH:
            if what not in told and pattern.search(line):
                told.add(what)
                yield what, severity


def joined(text: str) -> Iterator[str]:
    """Lines as a shell takes them, without comments and with the signs gone that only hide words."""
    for line in re.sub(r"[\\^`]\r?\n", " ", text).splitlines():
        bare = line.strip()
        if bare and not bare.startswith(("#", "REM ", "rem ", "::")):
            for start in range(0, min(len(bare), 10 * _LINE), _LINE // 2):
                piece = bare[start : start + _LINE]
                plain = re.sub(r"(?<=\w)(?:''|\"\"|\\)(?=\w)|\$\{?IFS\}?", lambda mark: " " if "IFS" in mark[0] else "", piece)
                yield plain
                if start + _LINE >= len(bare):
                    break
