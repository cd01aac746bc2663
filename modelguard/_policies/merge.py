"""How a child policy and its parents become one: which part wins, and what a parent's ``locked`` forbids.

==============================  =======================================  ===================================================
key                             merged                                   weakened, and so refused where the parent locked it
==============================  =======================================  ===================================================
mode                            the child's                              enforce -> report
sources.pinned, .digests        the child's                              true -> false
sources.remote_code             the child's                              deny -> allow
sources.left_out                the child's                              incomplete -> allow
sources.formats                 the child's                              a format the parent does not list
sources.allow, .licences        the child's                              a glob that no glob of the parent covers
provenance.locked               the child's                              true -> false
provenance.signature            the child's                              any other value, where the parent has one
provenance.base_model           the child's                              check -> allow
plugins.allow                   the child's                              any other value: more may not load, fewer may look
detectors.required,             both                                     impossible
  .required_with_reference,
  .required_with_samples
detectors.optional              the child's                              a detector the parent does not list
detectors.budget                the child's                              any other value
detectors.options, .timeouts    the child's, one by one                  any other value, or one the parent leaves alone
rules                           the child's, then the parent's           a rule whose action is not ``block``
default                         the child's                              towards allow < warn < incomplete < block
waivers                         both                                     any waiver
baseline                        the child's                              deny -> allow
plugins.failures                the child's                              incomplete -> report
locked                          both                                     impossible
==============================  =======================================  ===================================================

Of several parents each is merged over the one before, and what one locks the others may not weaken, whether they come before or after.

``version`` and ``name`` are the child's own, ``description`` is not inherited.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from modelguard._policies.file import DetectorsPart, PolicyFile, RulePart, WaiverPart
from modelguard._policies.model import STRICTNESS, glob_matches
from modelguard.errors import PolicyError

_UNIONS = ("detectors.required", "detectors.required_with_reference", "detectors.required_with_samples")
_TABLES = ("detectors.options", "detectors.timeouts")


@dataclass(frozen=True, slots=True)
class Layer:
    """What a policy and the parents already merged into it say, and where each word stands.

    ``values`` has only what some file wrote, by dotted key, one entry per option and timeout; ``origins`` names the file of each;
    ``members`` the file of each required detector, ``locked`` the file that locked each key.
    """

    name: str
    description: str | None
    values: Mapping[str, Any]
    origins: Mapping[str, str]
    members: Mapping[tuple[str, str], str]
    rules: tuple[tuple[RulePart, str], ...]
    waivers: tuple[tuple[WaiverPart, str], ...]
    locked: Mapping[str, str]

    @classmethod
    def of(cls, policy: PolicyFile, origin: str) -> Layer:
        """The layer of one file, without its parents."""
        values: dict[str, Any] = {key: getattr(policy, key) for key in ("mode", "default", "baseline") if key in policy.model_fields_set}
        for part in ("sources", "provenance", "detectors", "plugins"):
            section = getattr(policy, part)
            values |= {f"{part}.{key}": getattr(section, key) for key in section.model_fields_set}
        for table in _TABLES:
            for detector, content in values.pop(table, {}).items():
                named = content.items() if table.endswith("options") else [("", content)]
                values |= {f"{table}.{detector}" + (f".{name}" if name else ""): value for name, value in named}
        members = {(key, item): origin for key in _UNIONS for item in values.get(key) or ()}
        return cls(
            name=policy.name,
            description=policy.description,
            values=values,
            origins=dict.fromkeys(values, origin),
            members=members,
            rules=tuple((rule, origin) for rule in policy.rules),
            waivers=tuple((waiver, origin) for waiver in policy.waivers),
            locked=dict.fromkeys(policy.locked, origin),
        )

    def lock(self, key: str) -> str | None:
        """The file that locked ``key`` or a part it lies in, or None."""
        parts = key.split(".")
        return next((self.locked[".".join(parts[:n])] for n in range(1, len(parts) + 1) if ".".join(parts[:n]) in self.locked), None)

    def document(self) -> dict[str, Any]:
        """The merged policy as the mapping :class:`PolicyFile` validates."""
        document: dict[str, Any] = {
            "version": 1,
            "name": self.name,
            "description": self.description,
            "locked": tuple(sorted(self.locked)),
            "rules": tuple(rule for rule, _ in self.rules),
            "waivers": tuple(waiver for waiver, _ in self.waivers),
        }
        for key, value in sorted(self.values.items()):
            *parts, last = _parts(key)
            place = document
            for part in parts:
                place = place.setdefault(part, {})
            place[last] = tuple(sorted(value)) if key in _UNIONS and value is not None else value
        # Durations are written with their unit.
        timeouts = document.get("detectors", {}).get("timeouts", {})
        timeouts |= {detector: f"{seconds}s" for detector, seconds in timeouts.items()}
        if (budget := document.get("detectors", {}).get("budget")) is not None:
            document["detectors"]["budget"] = f"{budget}s"
        return document

    def all_origins(self) -> dict[str, str]:
        """Where each part of :meth:`document` comes from."""
        origins = {key: origin for key, origin in self.origins.items() if key not in _UNIONS}
        origins |= {f"{key}.{item}": origin for (key, item), origin in self.members.items()}
        origins |= {f"rules[{number}]": origin for number, (_, origin) in enumerate(self.rules)}
        origins |= {f"waivers[{number}]": origin for number, (_, origin) in enumerate(self.waivers)}
        origins |= {f"locked.{key}": origin for key, origin in self.locked.items()}
        return dict(sorted(origins.items()))


def beside(first: Layer, second: Layer) -> Layer:
    """Two parents of one policy, ``second`` over ``first``. What either locked holds against the other, in whatever order they are named.

    Raises :class:`PolicyError`.
    """
    for key, value in first.values.items():
        if key not in _UNIONS and key not in second.values and _weakens(key, second.values, value):
            _refuse_if_locked(second, key, first.origins[key], f"{key}: {_shown(_default_or(second, key))} -> {_shown(value)}")
    known = {rule for rule, _ in second.rules}
    default = second.values.get("default", _default("default"))
    for rule, origin in first.rules:
        if rule not in known and STRICTNESS[rule.action] < STRICTNESS[default]:
            _refuse_if_locked(second, "rules", origin, f"its rule would {rule.action} ({rule.match}) where the default is {default}")
    for waiver, origin in first.waivers:
        _refuse_if_locked(second, "waivers", origin, f"it waives {waiver.rule}")
    return merge(first, second)


def merge(parent: Layer, child: Layer) -> Layer:
    """``child`` over ``parent``. Raises :class:`PolicyError` where it weakens what the parent locked."""
    values, origins = dict(parent.values), dict(parent.origins)
    for key, value in child.values.items():
        if key in _UNIONS:
            values[key] = tuple(sorted({*(values.get(key) or ()), *(value or ())}))
        else:
            if _weakens(key, parent.values, value):
                _refuse_if_locked(parent, key, child.origins[key], f"{key}: {_shown(parent.values.get(key))} -> {_shown(value)}")
            values[key] = value
        origins[key] = child.origins[key]
    for number, (rule, origin) in enumerate(child.rules):
        if rule.action != "block":
            _refuse_if_locked(
                parent, "rules", origin, f"rules[{number}] would {rule.action} ({rule.match}) before the parent's rules are asked"
            )
    for number, (waiver, origin) in enumerate(child.waivers):
        _refuse_if_locked(parent, "waivers", origin, f"waivers[{number}] waives {waiver.rule}")
    return Layer(
        name=child.name,
        description=child.description,
        values=values,
        origins=origins,
        members={**child.members, **parent.members},
        rules=(*child.rules, *parent.rules),
        waivers=(*parent.waivers, *child.waivers),
        locked={**child.locked, **parent.locked},
    )


def _refuse_if_locked(parent: Layer, key: str, origin: str, what: str) -> None:
    locker = parent.lock(key)
    if locker is not None:
        raise PolicyError(origin, f"weakens what {locker} locks ({what})", "remove it, or ask the owner of that policy")


def _weakens(key: str, old: Mapping[str, Any], new: Any) -> bool:
    if key.startswith(_TABLES):
        return key not in old or old[key] != new
    return _WEAKER[key](old.get(key, _default(key)), new)


def _default_or(layer: Layer, key: str) -> Any:
    return layer.values.get(key) if key.startswith(_TABLES) else layer.values.get(key, _default(key))


def _default(key: str) -> Any:
    value: Any = PolicyFile(version=1, name="x", detectors=DetectorsPart(required=("x",)))
    for part in key.split("."):
        value = getattr(value, part)
    return value


def _shrinks(old: Any, new: Any) -> bool:
    return bool(old) and not new


def _widens(old: tuple[str, ...] | None, new: tuple[str, ...] | None) -> bool:
    if old is None:
        return False
    # With `*` the only wildcard, a parent's glob that matches the text of a child's glob matches all that the child's does.
    return new is None or not all(any(glob_matches(pattern, item) for pattern in old) for item in new)


_WEAKER: Mapping[str, Callable[[Any, Any], bool]] = {
    "mode": lambda old, new: (old, new) == ("enforce", "report"),
    "baseline": lambda old, new: (old, new) == ("deny", "allow"),
    "default": lambda old, new: STRICTNESS[new] < STRICTNESS[old],
    "sources.pinned": _shrinks,
    "sources.digests": _shrinks,
    "sources.remote_code": lambda old, new: (old, new) == ("deny", "allow"),
    "sources.left_out": lambda old, new: (old, new) == ("incomplete", "allow"),
    "sources.formats": _widens,
    "sources.allow": _widens,
    "sources.licences": _widens,
    "provenance.locked": _shrinks,
    "provenance.signature": lambda old, new: old is not None and old != new,
    "provenance.base_model": lambda old, new: (old, new) == ("check", "allow"),
    "plugins.allow": lambda old, new: old != new,
    "detectors.budget": lambda old, new: old != new,
    "detectors.optional": lambda old, new: not set(new or ()) <= set(old or ()),
    "plugins.failures": lambda old, new: (old, new) == ("incomplete", "report"),
}


def _parts(key: str) -> list[str]:
    """The steps of a dotted key; detector ids have no dots, and an option's name is the rest."""
    return key.split(".", 3)


def _shown(value: Any) -> str:
    return "unset" if value is None else ", ".join(map(str, value)) if isinstance(value, tuple) else str(value)
