"""Finds plugins and takes what they register, each entry point alone, so that a broken one neither stops nor replaces another.

pluggy's own entry-point loader aborts at the first plugin that fails to import and silently drops the second of two entry points
with one name; a gate can afford neither. pluggy still checks each plugin's hooks against the specification.
"""

from __future__ import annotations

import re
import signal
import threading
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import EntryPoint, entry_points
from types import FrameType
from typing import TYPE_CHECKING, Any

from modelguard.errors import PluginError, without_paths
from modelguard.hookspecs import GROUP

if TYPE_CHECKING:
    import click

    from modelguard.artifact import Source
    from modelguard.checkpoint import Format
    from modelguard.detector import Detector
    from modelguard.findings import Rule
    from modelguard.model import ModelFactory
    from modelguard.report import PluginFailure, PluginInfo, Reporter

LOAD_SECONDS = 60
"""How long importing one plugin may take before it counts as hanging. Importing torch takes up to 10 s on a cold disk."""

_HOOKS: Mapping[str, Callable[[Any], str]] = {
    "detectors": lambda item: str(item.id),
    "formats": lambda item: str(item.id),
    "sources": lambda item: str(item.scheme),
    "models": lambda item: str(item.id),
    "reporters": lambda item: str(item.format),
    "commands": lambda item: str(item.name),
}


@dataclass(frozen=True, slots=True)
class Registry:
    """Everything registered, by its own name, and who registered it. ``owners`` maps (kind, name) to a distribution."""

    detectors: Mapping[str, type[Detector]]
    formats: Mapping[str, type[Format]]
    sources: Mapping[str, type[Source]]
    models: Mapping[str, type[ModelFactory]]
    reporters: Mapping[str, type[Reporter]]
    commands: Mapping[str, click.Command]
    plugins: tuple[PluginInfo, ...]
    failures: tuple[PluginFailure, ...]
    owners: Mapping[tuple[str, str], str]

    def rules(self) -> dict[str, Rule]:
        """Every declared rule by id. Raises :class:`PluginError` when two detectors declare one id differently."""
        rules: dict[str, Rule] = {}
        for detector in self.detectors.values():
            for rule in detector.rules:
                if rules.setdefault(rule.id, rule) != rule:
                    raise PluginError(
                        f"rule {rule.id}", f"{detector.id} declares it differently from another detector", "give it an id of its own"
                    )
        return dict(sorted(rules.items()))


def load(
    *,
    disabled: Iterable[str] = (),
    allows: Callable[[str], bool] | None = None,
    ours: Collection[str] | None = None,
    declared: bool = False,
) -> Registry:
    """Load the built-ins and every allowed, not disabled entry point.

    ``disabled`` are entry-point or distribution names; ``allows`` says of a distribution name whether it may be loaded (default: all);
    ``ours`` are the distributions that may declare ``MG`` rules (default: the catalogue's). ``declared`` takes the detectors, formats
    and models of our own distributions from the catalogue, where they have this version, and imports none: enough to plan a scan. Raises
    :class:`PluginError` naming both sides when two plugins claim one name or one prefix of rule ids.
    """
    import modelguard
    from modelguard import _builtin
    from modelguard._policies.catalogue import hooks, stand_ins
    from modelguard.report import CORE, PluginFailure, PluginInfo

    skip = set(disabled)
    tables: dict[str, dict[str, Any]] = {kind: {} for kind in _HOOKS}
    owners: dict[tuple[str, str], str] = {}
    infos: list[PluginInfo] = []
    failures: list[PluginFailure] = []

    def taken(plugin: Callable[[], object], dist: str, version: str) -> dict[str, list[Any]]:
        known = stand_ins(dist) if declared and version == modelguard.__version__ else None
        if known is None:
            return _collect(plugin())
        asked = [kind for kind in hooks(dist) if kind not in known]
        return {**(_collect(plugin(), asked) if asked else {}), **known}

    _claim(tables, owners, CORE, taken(lambda: _builtin, CORE, modelguard.__version__))
    infos.append(PluginInfo(CORE, modelguard.__version__, tuple(sorted(tables["detectors"]))))

    for entry in _entry_points():
        dist, version = _distribution(entry)
        if entry.name in skip or dist in skip:
            continue
        if allows is not None and not allows(dist):
            failures.append(PluginFailure(entry.name, dist, "not loaded: the policy's plugins.allow does not list it"))
            continue
        try:
            with _time_limit(LOAD_SECONDS):
                registered = taken(entry.load, dist, version)
            for detector in registered["detectors"]:
                check_rule_ids(detector)
        except KeyboardInterrupt:
            raise
        except BaseException as error:  # SystemExit at import must not end the scan
            failures.append(PluginFailure(entry.name, dist, _reason(error)))
            continue
        _claim(tables, owners, dist, registered)
        detectors = tuple(sorted(_HOOKS["detectors"](item) for item in registered["detectors"]))
        infos.append(PluginInfo(dist, version, detectors))

    check_prefixes(((owners["detectors", name], item) for name, item in tables["detectors"].items()), ours)
    return Registry(
        **{kind: dict(sorted(table.items())) for kind, table in tables.items()},
        plugins=tuple(sorted(infos, key=lambda info: info.name)),
        failures=tuple(sorted(failures, key=lambda failure: (failure.distribution, failure.name))),
        owners=owners,
    )


def _entry_points() -> list[EntryPoint]:
    """The group's entry points in a fixed order. Raises :class:`PluginError` when two distributions use one name."""
    seen: dict[str, EntryPoint] = {}
    for entry in entry_points(group=GROUP):
        other = seen.setdefault(entry.name, entry)
        # The same distribution met twice on sys.path (an editable install beside its build) is one plugin.
        if other is not entry and (other.value != entry.value or _distribution(other)[0] != _distribution(entry)[0]):
            both = " and ".join(sorted({_distribution(other)[0], _distribution(entry)[0]}))
            raise PluginError(f"plugin {entry.name}", f"two distributions register this name: {both}", "uninstall one of them")
    return [seen[name] for name in sorted(seen)]


def _distribution(entry: EntryPoint) -> tuple[str, str]:
    """Name and version of the distribution that registers it.

    They are taken from the head of its core metadata: ``dist.name`` and ``dist.version`` parse all of it as an e-mail message, which
    takes longer than planning a scan.
    """
    if entry.dist is None:
        return entry.name, "unknown"
    text = entry.dist.read_text("METADATA") or entry.dist.read_text("PKG-INFO") or ""
    head = dict(line.split(": ", 1) for line in text.split("\n\n", 1)[0].split("\n") if line.startswith(("Name: ", "Version: ")))
    return head.get("Name", entry.name).strip(), head.get("Version", "unknown").strip()


def _collect(plugin: object, kinds: Iterable[str] = tuple(_HOOKS)) -> dict[str, list[Any]]:
    """What one plugin's hooks return, by kind. Raises whatever the plugin raises."""
    import pluggy

    from modelguard import hookspecs

    manager = pluggy.PluginManager("modelguard")
    manager.add_hookspecs(hookspecs)
    manager.register(plugin)
    manager.check_pending()
    return {kind: [item for items in getattr(manager.hook, f"modelguard_{kind}")() for item in items] for kind in kinds}


def _claim(tables: dict[str, dict[str, Any]], owners: dict[tuple[str, str], str], dist: str, registered: Mapping[str, list[Any]]) -> None:
    for kind, items in registered.items():
        for item in items:
            name = _HOOKS[kind](item)
            if name in tables[kind]:
                raise PluginError(
                    f"{kind.rstrip('s')} {name}", f"registered by both {owners[kind, name]} and {dist}", "uninstall one of them"
                )
            tables[kind][name] = item
            owners[kind, name] = dist


def check_rule_ids(detector: type[Detector]) -> None:
    """Raises :class:`PluginError` for a rule id that reports and policies could not carry."""
    from modelguard.findings import RULE_ID

    for rule in detector.rules:
        if not re.fullmatch(RULE_ID, rule.id):
            remedy = "write a prefix of your own, a hyphen and four digits, such as ACME-0001"
            raise PluginError(f"detector {detector.id}", f"declares a rule {rule.id!r}, which is not a rule id", remedy)


def check_prefixes(detectors: Iterable[tuple[str, type[Detector]]], ours: Collection[str] | None = None) -> None:
    """Raises :class:`PluginError`, naming both, when two distributions use one prefix of rule ids, or one that is not ours uses ``MG``.

    ``detectors`` come with the distribution that registers them.
    """
    from modelguard._policies.catalogue import first_party
    from modelguard.findings import OWN_PREFIX, rule_prefix
    from modelguard.report import CORE

    if ours is None:
        ours = {CORE, *(item.name for item in first_party())}
    users: dict[str, str] = {}
    for dist, detector in detectors:
        for prefix, rule in {rule_prefix(rule.id): rule.id for rule in detector.rules}.items():
            if prefix == OWN_PREFIX:
                if dist not in ours:
                    cause = f"{dist} declares it, and {prefix} is the prefix of {CORE} itself"
                    raise PluginError(f"rule {rule}", cause, f"give the rules of {dist} a prefix of their own, such as ACME-0001")
            elif (other := users.setdefault(prefix, dist)) != dist:
                raise PluginError(f"rule prefix {prefix}", f"used by both {other} and {dist}", "uninstall one of them")


def _reason(error: BaseException) -> str:
    text = without_paths(str(error)).strip().splitlines()
    return f"{type(error).__name__}: {text[0]}" if text else type(error).__name__


@contextmanager
def _time_limit(seconds: int) -> Iterator[None]:
    """Raise ``TimeoutError`` in the main thread after ``seconds``; elsewhere, and where there is no SIGALRM, it does nothing."""
    if threading.current_thread() is not threading.main_thread() or not hasattr(signal, "SIGALRM"):
        yield
        return

    def ring(signum: int, frame: FrameType | None) -> None:
        raise TimeoutError(f"still importing after {seconds} s")

    previous = signal.signal(signal.SIGALRM, ring)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, previous)


def load_commands() -> Mapping[str, click.Command]:
    """Only the commands plugins register; a plugin that fails to load brings none, and every command that scans says so.

    Raises :class:`PluginError` on a name claimed twice.
    """
    tables: dict[str, dict[str, Any]] = {"commands": {}}
    owners: dict[tuple[str, str], str] = {}
    for entry in _entry_points():
        try:
            with _time_limit(LOAD_SECONDS):
                registered = _collect(entry.load(), ("commands",))
        except KeyboardInterrupt:
            raise
        except BaseException:  # noqa: S112
            continue
        if registered["commands"]:
            _claim(tables, owners, _distribution(entry)[0], registered)
    return dict(sorted(tables["commands"].items()))
