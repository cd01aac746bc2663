"""How bad what a Python program does is, by what it does and when."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

from modelguard import Severity
from modelguard_serialization._code import dangers, shell
from modelguard_serialization._code.program import IMPORT, LOAD, RUN, Program, Use

INFO, LOW, MEDIUM, HIGH, CRITICAL = Severity.INFO, Severity.LOW, Severity.MEDIUM, Severity.HIGH, Severity.CRITICAL


@dataclass(frozen=True, slots=True)
class Verdict:
    """``what`` completes "the code ..."; ``key`` is the same in every revision."""

    what: str
    severity: Severity
    line: int
    key: str


_SEVERITY: dict[str, tuple[Severity, Severity, Severity]] = {
    #                 on import, on load, when called
    dangers.COMMAND: (HIGH, HIGH, LOW),
    dangers.EXECUTE: (HIGH, MEDIUM, LOW),
    dangers.SOCKET: (HIGH, MEDIUM, INFO),
    dangers.NETWORK: (HIGH, LOW, INFO),
    dangers.UNPICKLE: (MEDIUM, LOW, INFO),
    dangers.NATIVE: (MEDIUM, LOW, INFO),
    dangers.IMPORT: (LOW, LOW, INFO),
    dangers.DELETE: (MEDIUM, LOW, INFO),
}
"""Code beside a model is imported by whoever trusts remote code, and its classes are then built and called. What is only defined, or
guarded by ``__main__``, runs when somebody asks for it."""
_SCRIPTED = frozenset({dangers.NETWORK, dangers.UNPICKLE, dangers.DELETE, dangers.NATIVE})
_TAME = frozenset({"types.FunctionType", "types.CodeType", "mmap.mmap", "ctypes.CFUNCTYPE", "ctypes.util.find_library", "webbrowser.open"})
_PRIVATE = re.compile(
    r"(?:^|[/\\~])\.(?:ssh|aws|gnupg|kube|docker|azure|config/gcloud|netrc|npmrc|pypirc|git-credentials|bash_history|mozilla)\b"
    r"|/etc/(?:passwd|shadow|sudoers)\b|\bid_(?:rsa|ed25519|ecdsa)\b|\.cache/huggingface/(?:token|stored_tokens)|\bLogin Data\b|wallet\.dat"
    r"|169\.254\.169\.254|metadata\.google\.internal"
)
_STARTS = re.compile(
    r"(?:^|[/\\~])\.(?:bashrc|bash_profile|profile|zshrc|zprofile|zshenv|config/autostart|config/systemd)\b|\bauthorized_keys\b"
    r"|/etc/(?:cron|init\.d"
    r"|systemd|rc\.local|ld\.so\.preload|profile\.d)|\bcrontab\b|\bsitecustomize\b|\busercustomize\b|LaunchAgents|LaunchDaemons"
    r"|\\CurrentVersion\\Run\b|Start Menu\\Programs\\Startup",
    re.I,
)
_BLOB = re.compile(r"[A-Za-z0-9+/=_-]{1000,}|(?:[0-9a-fA-F]{2}){500,}|(?:\\x[0-9a-fA-F]{2}){200,}")


def verdicts(program: Program, loaded: bool = True) -> Iterator[Verdict]:
    """What is to be said of the program, once each.

    ``loaded``: whether something would import the file. A script that nobody imports may use the network and read files as it likes,
    since somebody chose to run it; commands it may not.
    """
    moments = program.when()
    told: set[str] = set()
    for verdict in _all(program, moments, loaded):
        if verdict.severity > INFO and verdict.key not in told:
            told.add(verdict.key)
            yield verdict


def _all(program: Program, moments: dict[str, str], loaded: bool) -> Iterator[Verdict]:
    kinds = {use.kind for use in program.uses}
    ordered = sorted(program.uses, key=lambda use: (-_of(use, moments, loaded), not use.given, use.line))
    for use in ordered:
        moment = moments.get(use.unit, RUN)
        given = f": {_short(use.given)!r}" if use.given else ""
        yield Verdict(f"{use.kind} {moment} ({use.name}{given})", _of(use, moments, loaded), use.line, f"{use.name} {moment}")
        for what, severity in shell.tricks(use.given) if use.kind == dangers.COMMAND else ():
            yield Verdict(f"{what} {moment} ({_short(use.given)!r})", severity, use.line, f"{what}")
    for what, unit, line in program.hides:
        moment = moments.get(unit, RUN)
        severity = (
            (CRITICAL if moment != RUN else HIGH)
            if what.startswith(("runs text", "puts the name", "reaches"))
            else HIGH
            if moment != RUN
            else MEDIUM
        )
        yield Verdict(f"{what} ({moment})", severity, line, what)
    if dangers.SOCKET in kinds and any(
        use.name in ("os.dup2", "pty.spawn", "subprocess.Popen", "subprocess.call", "os.system") for use in program.uses
    ):
        raw = [use for use in program.uses if use.name == "socket.socket" or use.name == "socket.create_connection"]
        shells = any(re.search(r"(?:/bin/(?:ba|z)?sh|cmd\.exe|powershell)\b", text) for text, _ in program.texts)
        if raw and shells:
            yield Verdict("connects a shell to a socket", CRITICAL, raw[0].line, "reverse shell")
    if program.environment and kinds & {dangers.NETWORK, dangers.SOCKET}:
        yield Verdict("takes the whole environment, secrets included, and uses the network", MEDIUM, program.environment, "environment")
    acts = kinds & {dangers.NETWORK, dangers.SOCKET, dangers.COMMAND}
    for text, line in program.texts:
        if hit := _PRIVATE.search(text) if len(text) < 300 else None:
            yield Verdict(
                f"names {hit[0]!r}, where secrets lie{', and ' + min(acts) if acts else ''}",
                HIGH if acts else MEDIUM,
                line,
                f"private {hit[0]}",
            )
        if hit := _STARTS.search(text) if len(text) < 300 else None:
            yield Verdict(
                f"names {hit[0]!r}, from where programs are started", HIGH if acts or program.writes else MEDIUM, line, f"starts {hit[0]}"
            )
        if len(text) >= 1000 and _BLOB.fullmatch(text.strip()):
            yield Verdict(f"holds {len(text)} characters of encoded data", LOW, line, "encoded data")


def _of(use: Use, moments: dict[str, str], loaded: bool) -> Severity:
    moment = moments.get(use.unit, RUN)
    severity = _SEVERITY[use.kind][(IMPORT, LOAD, RUN).index(moment)]
    if not loaded and use.kind in _SCRIPTED:
        return min(severity, LOW)
    if use.kind == dangers.COMMAND and _program(use.first) in dangers.TOOLS and not any(shell.tricks(use.given)):
        return min(severity, MEDIUM if moment == IMPORT else LOW)
    if use.kind == dangers.EXECUTE and use.constant and not use.decoded:
        return LOW
    if use.name in _TAME or (use.kind == dangers.EXECUTE and use.name == "builtins.compile"):
        return min(severity, LOW)
    return severity


def _program(first: str) -> str:
    return re.split(r"[\\/]", first.split(" ", 1)[0])[-1].removesuffix(".exe")


def _short(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= 120 else line[:119] + "…"
