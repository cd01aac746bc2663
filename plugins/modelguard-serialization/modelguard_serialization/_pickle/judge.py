"""Judges what a pickle does, and makes few findings of it: one for each name, however often it is used."""

from __future__ import annotations

import posixpath
from dataclasses import dataclass, field

from modelguard import Artifact, Severity
from modelguard_serialization._pickle.allowlist import allowed
from modelguard_serialization._pickle.arguments import CHECKS, hidden_name, is_plain
from modelguard_serialization._pickle.dangerous import danger
from modelguard_serialization._pickle.machine import Watch
from modelguard_serialization._pickle.nested import nested
from modelguard_serialization._pickle.rules import DANGEROUS, HOSTILE, SHADOWED, TRICKS, UNKNOWN
from modelguard_serialization._pickle.values import Call, Dict, Global, Persistent, SetOf, Unknown, Value
from modelguard_serialization.blob import Blob
from modelguard_serialization.reader import Look

_PLACES = ("{}.py", "{}.pyc", "{}.so", "{}.pyd", "{}.pyw", "{}/__init__.py", "{}/__init__.pyc", "{}/__init__.so")
_SHARED = frozenset({"builtins.type", "logging.getLogger"})
"""Calls that give what was there before."""
_SEVERE = frozenset({"a name that is computed while loading"})


@dataclass
class _Seen:
    rule: str
    what: str
    at: int
    severity: Severity | None = None
    count: int = 0
    evidence: dict[str, object] = field(default_factory=dict)


class Judge(Watch):
    """Collects what is to be said of the pickles in one blob; :meth:`tell` says it."""

    def __init__(self, blob: Blob, look: Look) -> None:
        self._blob = blob
        self._look = look
        self._seen: dict[tuple[str, str], _Seen] = {}
        self._verdicts: dict[tuple[str, str], str | None] = {}
        self._shadows: dict[tuple[str, str], str] = {}
        self.names = 0
        """Names that were looked up."""

    def imported(self, name: Global) -> None:
        self.names += 1
        kind = self._kind(name)
        if kind is None:
            reason = danger(name.module, name.name) or (danger(name.raw, name.name) if name.raw != name.module else "")
            if reason:
                self._note(DANGEROUS, name.path, f"names {_shown(name.path)}, which {reason}; do not load it", name.at, name=name.path)
            else:
                message = f"names {_shown(name.path)}, which no list of framework names has; do not load it unless you trust that module"
                self._note(UNKNOWN, name.path, message, name.at, name=name.path)
        elif shadow := self._shadow(name):
            message = f"names {_shown(name.path)}, and {_shown(shadow)} takes the place of that module where it is on Python's path"
            self._note(SHADOWED, f"{name.module}:{shadow}", message, name.at, name=name.path, file=shadow)

    def called(self, call: Call) -> None:
        callee = call.callee
        if type(callee) is not Global:
            if type(callee) in (Call, Unknown, Persistent, Dict, SetOf, list, tuple):
                self._hostile("call", "calls what another call gave, or what is no name", call.at)
            return
        kind = self._kind(callee)
        if kind is None:
            seen = self._seen.get((DANGEROUS, callee.path)) or self._seen.get((UNKNOWN, callee.path))
            if seen is not None and "arguments" not in seen.evidence:
                seen.evidence["arguments"] = _sketch(call.args)
            return
        nothing = call.args == () and not call.kwargs if type(call.args) is tuple else False
        why = ""
        if kind == "name":
            why = "which is only ever referred to"
        elif kind == "class":
            if call.kind not in ("NEWOBJ", "NEWOBJ_EX") and not nothing:
                why = "with arguments, where frameworks only allocate it"
        elif kind == "enum":
            plain = type(call.args) is tuple and len(call.args) == 1 and is_plain(call.args[0])
            why = "" if plain else "with what is no plain value"
        elif (check := CHECKS.get(callee.path)) is not None:
            why = check(call.args) if type(call.args) is tuple else "with what is no tuple"
        if why:
            self._hostile(f"{callee.path} {why}", f"calls {callee.path} {why}", call.at, name=callee.path, arguments=_sketch(call.args))
        elif callee.path == "torch.storage._load_from_bytes":
            self._bytes(call.args[0], call.at)

    def built(self, target: Value, state: Value, at: int) -> None:
        if type(target) is Global:
            self._hostile(f"changes {target.path}", f"changes {_shown(target.path)} itself, for the whole program", at, name=target.path)
        elif type(target) in (Persistent, Unknown, SetOf, Dict, list, tuple):
            self._hostile("state", "gives a state to what has none", at)
        elif type(target) is Call and type(target.callee) is Global:
            path = target.callee.path
            if path in _SHARED or self._kind(target.callee) == "enum":
                self._hostile(f"changes {path}", f"changes what {path} gives, which others use too", at, name=path)
            elif name := hidden_name(state) or hidden_name(target):
                self._hostile(f"{path} {name}", f"sets {_shown(name)} of an instance of {_shown(path)}", at, name=path)
            if path == "functools.partial" and (why := CHECKS[path](state) if type(state) is tuple else "with what is no tuple"):
                self._hostile(f"{path} {why}", f"makes a {path} {why}", at, name=path)

    def changed(self, target: Value, what: str, at: int) -> None:
        if type(target) is Global:
            self._hostile(f"changes {target.path}", f"changes {_shown(target.path)} itself, for the whole program", at, name=target.path)
        elif type(target) is Call:
            # Picklers add items to an instance before it has a state: later, what adds them may be an attribute the state has set.
            mixed = what != "setitem" and target.pairs is not None
            if target.state is not None or mixed or (type(target.callee) is Global and target.callee.path in _SHARED):
                self._hostile(what, "adds items to an instance by what its own state says", at)
        elif type(target) not in (str, memoryview):
            self._hostile(what, "adds items to what holds none", at)

    def odd(self, what: str, at: int) -> None:
        severity = Severity.HIGH if what in _SEVERE or what.startswith("the extension code") else None
        self._note(TRICKS, what, f"has {what}", at, severity)

    def literal(self, data: memoryview | str, at: int) -> None:
        found = nested(data)
        if found is None:
            return
        if found.pickle is not None:
            inside = found.pickle
            self._look.inside.append(self._blob.member(f"bytes at {at}", inside, at if found.stored else None))
        if found.hidden:
            self._note(TRICKS, found.hidden, f"has {found.hidden} in its data; ask the author what it is for", at)

    def _bytes(self, value: Value, at: int) -> None:
        """What torch loads out of bytes in a pickle is a file of its own."""
        if type(value) is Call:
            text = value.args[0]
            try:
                raw = (str(text, "utf-8", "surrogatepass") if type(text) is memoryview else text).encode("latin-1")
            except ValueError:
                self._hostile("bytes", "loads a torch file out of bytes that cannot be read", at)
                return
            self._look.inside.append(self._blob.member(f"torch file at {at}", raw))
        elif nested(value) is None:  # else it is among the members already
            self._look.inside.append(self._blob.member(f"torch file at {at}", value))

    def tell(self) -> None:
        """Hand over the findings, in the order of their first place."""
        for (rule, key), seen in sorted(self._seen.items(), key=lambda item: (item[1].at, item[0])):
            times = f" ({seen.count} times)" if seen.count > 1 else ""
            evidence = {**seen.evidence, "count": seen.count}
            self._look.find(rule, self._blob, seen.what + times, severity=seen.severity, at=seen.at, evidence=evidence, key=key[:200])

    def _hostile(self, key: str, what: str, at: int, **evidence: object) -> None:
        self._note(HOSTILE, key, f"{what}; do not load it", at, None, **evidence)

    def _note(self, rule: str, key: str, what: str, at: int, severity: Severity | None = None, **evidence: object) -> None:
        seen = self._seen.get((rule, key))
        if seen is None:
            seen = self._seen[rule, key] = _Seen(rule, what, at, severity, 0, evidence)
        seen.count += 1

    def _kind(self, name: Global) -> str | None:
        key = (name.module, name.name)
        if key not in self._verdicts:
            self._verdicts[key] = allowed(*key)
        return self._verdicts[key]

    def _shadow(self, name: Global) -> str:
        """A file of the artifact that Python would import in place of the module."""
        tops = (name.module.partition(".")[0], name.raw.partition(".")[0])
        if tops not in self._shadows:
            self._shadows[tops] = self._find_shadow({*tops})
        return self._shadows[tops]

    def _find_shadow(self, modules: set[str]) -> str:
        folders = {"", posixpath.dirname(self._blob.file)}
        paths = _paths(self._look.artifact)
        for module in sorted(modules):
            for folder in sorted(folders):
                for place in _PLACES:
                    path = posixpath.join(folder, place.format(module))
                    if path in paths:
                        return path
        return ""


_last: tuple[Artifact | None, frozenset[str]] = (None, frozenset())


def _paths(artifact: Artifact) -> frozenset[str]:
    """The paths of the artifact that a module could have; those of the last artifact asked for are kept."""
    global _last
    if _last[0] is not artifact:
        ends = (".py", ".pyc", ".pyw", ".so", ".pyd")
        found = {file.path for file in artifact.files if file.path.endswith(ends)}
        # collections.cpython-311-x86_64-linux-gnu.so is the module "collections" too
        found |= {posixpath.join(posixpath.dirname(path), posixpath.basename(path).partition(".")[0] + ".so") for path in found}
        _last = (artifact, frozenset(found))
    return _last[1]


def _shown(text: str) -> str:
    """A name out of the file, for a message."""
    safe = "".join(char if char.isprintable() else f"\\u{ord(char):04x}" for char in text[:120])
    return safe if len(text) <= 120 else f"{safe}... ({len(text)} characters)"


def _sketch(value: Value, depth: int = 3) -> str:
    """Arguments in few words."""
    if type(value) is str:
        return repr(value[:80]) if len(value) <= 80 else f"{value[:80]!r}..."
    if type(value) is memoryview:
        return repr(bytes(value[:40])) + ("..." if len(value) > 40 else "")
    if type(value) in (bool, type(None), float) or (type(value) is int and abs(value) < 1 << 64):
        return repr(value)
    if type(value) is tuple:
        if depth == 0:
            return "(...)"
        inner = ", ".join(_sketch(item, depth - 1) for item in value[:4])
        inner += ", ..." if len(value) > 4 else "," if len(value) == 1 else ""
        return f"({inner})"
    if type(value) is Global:
        return _shown(value.path)
    if type(value) is Call:
        return f"{_sketch(value.callee, 0)}(...)" if depth else "..."
    return {list: "[...]", Dict: "{...}"}.get(type(value), "...")
