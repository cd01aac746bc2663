"""Finds policies and merges each with its parents. The built-in ones are merged already, in ``builtin.json``, which ``docs/generate.py``
writes: so a scan under one of them needs no parser of YAML and no pydantic."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any

from modelguard import _limits
from modelguard._policies.model import Policy
from modelguard.errors import PolicyError

if TYPE_CHECKING:
    from modelguard._policies.file import PolicyFile
    from modelguard._policies.merge import Layer

MAX_BYTES = _limits.POLICY_BYTES
MAX_FILES = _limits.POLICY_FILES
BUILTIN = "builtin:"
DEFAULT = "builtin:baseline"


@dataclass(frozen=True, slots=True)
class Resolved:
    """A policy without parents, and for each of its parts which file it came from.

    ``origins`` maps dotted keys (``sources.pinned``, ``rules[0]``, ``detectors.required.weight-diff``) to names of policies.
    """

    policy: Policy
    origins: Mapping[str, str]


def load_policy(name_or_path: str | os.PathLike[str] | None = None) -> Policy:
    """The resolved policy ``builtin:NAME`` or at a path; ``builtin:baseline`` for None.

    Raises :class:`PolicyError` naming file and line. Names of rules and detectors are checked by :meth:`Policy.check`.
    """
    return resolve(name_or_path).policy


def resolve(name_or_path: str | os.PathLike[str] | None = None) -> Resolved:
    """As :func:`load_policy`, together with where each part came from."""
    name = DEFAULT if name_or_path is None else os.fspath(name_or_path)
    if name.startswith(BUILTIN) and (known := _builtins().get(name.removeprefix(BUILTIN))):
        return Resolved(Policy.read(known["policy"]), known["origins"])
    return from_file(name)


def from_file(name: str) -> Resolved:
    """As :func:`resolve`, from the files as they are written, built-in policies too."""
    from modelguard._policies.file import PolicyFile

    layer = _layer(name, Path(), (), [])
    return Resolved(PolicyFile.model_validate(layer.document()).policy(), layer.all_origins())


@cache
def _builtins() -> Mapping[str, Any]:
    found: Mapping[str, Any] = json.loads((_folder() / "builtin.json").read_text(encoding="utf-8"))
    return found


def builtin_names() -> tuple[str, ...]:
    """Names of the policies that ship with modelguard, sorted."""
    return tuple(sorted(item.name.removesuffix(".yaml") for item in _folder().iterdir() if item.name.endswith(".yaml")))


def _layer(name: str, folder: Path, children: tuple[str, ...], seen: list[str]) -> Layer:
    """The policy ``name``, written in a file of ``folder``, merged over its parents. ``children`` are the files on the way here."""
    from modelguard._policies.merge import Layer, beside, merge
    from modelguard._policies.read import read_policy

    place = name if name.startswith(BUILTIN) else str(folder / name)
    try:
        identity = place if name.startswith(BUILTIN) else str(Path(place).resolve())
    except (OSError, RuntimeError, ValueError):  # what is wrong with the path is said when it is read
        identity = place
    if identity in children:
        raise PolicyError(place, "extends itself, directly or through its parents", "remove one of the extends")
    seen.append(identity)
    if len(seen) > MAX_FILES:
        raise PolicyError(place, f"more than {MAX_FILES} policies are extended", "merge some of them")
    policy = read_policy(read_text(place), place)
    above: Layer | None = None
    for parent in policy.extends:
        if not parent.startswith(BUILTIN) and (name.startswith(BUILTIN) or Path(parent).is_absolute() or "://" in parent):
            raise PolicyError(place, f"cannot extend {parent!r}", "use builtin:NAME or a path relative to this file")
        layer = _layer(parent, Path(place).parent, (*children, identity), seen)
        above = layer if above is None else beside(above, layer)
    own = Layer.of(_with_material(policy, place), place)
    return own if above is None else merge(above, own)


def _with_material(policy: PolicyFile, place: str) -> PolicyFile:
    """The policy with keys and certificates in the place of the paths that name them, so that its digest is over them too."""
    signature = policy.provenance.signature
    if signature is None:
        return policy
    read = {}
    for name in ("key", "certificate", "trust_root"):
        value = getattr(signature, name)
        if value is not None and not value.lstrip().startswith(("-----BEGIN", "{")):
            read[name] = read_text(str(Path(place).parent / value))
            if not read[name].lstrip().startswith(("-----BEGIN", "{")):
                raise PolicyError(place, f"provenance.signature.{name}: {value} is neither PEM nor JSON", "name the public key's file")
            if "PRIVATE KEY" in read[name]:
                raise PolicyError(place, f"provenance.signature.{name}: {value} is a private key", "name the public key's file")
    if not read:
        return policy
    signature = signature.model_copy(update=read)
    return policy.model_copy(update={"provenance": policy.provenance.model_copy(update={"signature": signature})})


def _folder() -> Any:
    return resources.files("modelguard._policies")


def read_text(place: str) -> str:
    """The policy file at ``place`` (a path or ``builtin:NAME``) as written. Raises :class:`PolicyError`."""
    if place.startswith(BUILTIN):
        name = place.removeprefix(BUILTIN)
        known = builtin_names()
        if name not in known:
            raise PolicyError(place, "there is no such built-in policy", f"there are {', '.join(known)}")
        return str((_folder() / f"{name}.yaml").read_text(encoding="utf-8"))
    try:
        with open(place, "rb") as handle:
            body = handle.read(MAX_BYTES + 1)
    except (OSError, ValueError) as error:
        hint = f"did you mean {BUILTIN}{place}?" if place in builtin_names() else "check the path"
        raise PolicyError(place, f"cannot be read ({getattr(error, 'strerror', None) or error})", hint) from error
    if len(body) > MAX_BYTES:
        raise PolicyError(place, f"is larger than {MAX_BYTES} bytes", "split it and use extends")
    try:
        return body.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise PolicyError(place, f"is not UTF-8 (byte {error.start})", "save it as UTF-8") from None
