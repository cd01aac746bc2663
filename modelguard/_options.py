"""A detector's option: what it is called, which values it takes, and how a word becomes one of them."""

from __future__ import annotations

import dataclasses
import math
import operator
import types
import typing
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal, Union, get_args, get_origin

from modelguard.errors import PluginError, UsageError

Kind = Literal["bool", "int", "float", "str"]
_KINDS: Mapping[Any, Kind] = {bool: "bool", int: "int", float: "float", str: "str"}
_WORDS = {"true": True, "yes": True, "1": True, "false": False, "no": False, "0": False}
_BOUNDS = (("ge", ">=", operator.ge), ("le", "<=", operator.le), ("gt", ">", operator.gt))


@dataclass(frozen=True, slots=True)
class Option:
    """One option of a detector.

    ``choices`` are the only values where there are any; ``many`` says that it takes a list, ``optional`` that it may be None;
    ``ge``, ``le`` and ``gt`` are bounds.
    """

    name: str
    kind: Kind
    default: Any = None
    help: str = ""
    choices: tuple[Any, ...] = ()
    many: bool = False
    optional: bool = False
    ge: float | None = None
    le: float | None = None
    gt: float | None = None

    @classmethod
    def of(cls, item: dataclasses.Field[Any], hint: Any) -> Option:
        """The option a dataclass field declares with its type ``hint``. Raises :class:`PluginError` for a type no option can have."""
        meta = item.metadata
        optional = many = False
        choices: tuple[Any, ...] = ()
        if get_origin(hint) in (Union, types.UnionType):
            optional = True
            hint = next(arg for arg in get_args(hint) if arg is not type(None))
        if get_origin(hint) is tuple:
            many = True
            hint = get_args(hint)[0]
        if get_origin(hint) is Literal:
            choices = get_args(hint)
            hint = type(choices[0])
        if hint not in _KINDS:
            raise PluginError(f"option {item.name}", f"has the type {hint}", "use bool, int, float, str, Literal or a tuple of one")
        default = None if item.default is dataclasses.MISSING else item.default
        bounds = {name: meta.get(name) for name, _, _ in _BOUNDS}
        return cls(item.name, _KINDS[hint], default, meta.get("help", ""), choices, many, optional, **bounds)

    @classmethod
    def read(cls, data: Mapping[str, Any]) -> Option:
        """The option that :meth:`document` describes."""
        return cls(**{**data, "choices": tuple(data.get("choices", ()))})

    def document(self) -> dict[str, Any]:
        """The option as JSON values; what says nothing is left out."""
        return {
            key: value
            for key, value in dataclasses.asdict(self).items()
            if key in ("name", "kind", "default") or not (value is None or value is False or value == "" or value == ())
        }

    def parse(self, value: Any) -> Any:
        """``value`` (a string or typed) as this option's type. Raises ``ValueError``, whose text completes "... is not"."""
        if self.optional and (value is None or (isinstance(value, str) and value.lower() in ("", "none"))):
            return None
        if not self.many:
            return self._one(value)
        if isinstance(value, str):
            return tuple(self._one(part) for part in value.split(",") if part)
        if not isinstance(value, Iterable):
            raise ValueError("a list")
        return tuple(self._one(part) for part in value)

    def check(self, detector: str, value: Any) -> Any:
        """As :meth:`parse`, within the bounds. Raises :class:`UsageError` naming ``detector`` and the option."""
        thing = f"option {detector}.{self.name}"
        try:
            parsed = self.parse(value)
        except ValueError as error:
            raise UsageError(thing, f"{value!r} is not {error}", f"it means: {self.help}") from None
        for name, symbol, holds in _BOUNDS:
            bound = getattr(self, name)
            if bound is not None and any(not holds(item, bound) for item in (parsed if self.many else (parsed,)) if item is not None):
                raise UsageError(thing, f"{value!r} is out of range", f"it must be {symbol} {bound:g}")
        return parsed

    def _one(self, value: Any) -> Any:
        if self.choices:
            if value not in self.choices:
                raise ValueError("one of " + ", ".join(map(str, self.choices)))
            return value
        if self.kind == "bool":
            if isinstance(value, bool):
                return value
            if str(value).lower() not in _WORDS:
                raise ValueError("true or false")
            return _WORDS[str(value).lower()]
        if self.kind == "str":
            if not isinstance(value, str):
                raise ValueError("text")
            return value
        return self._number(value)

    def _number(self, value: Any) -> int | float:
        what = "a whole number" if self.kind == "int" else "a number"
        if isinstance(value, bool):
            raise ValueError("a number")
        try:
            number: int | float = int(value) if self.kind == "int" else float(value)
        except (ValueError, TypeError, OverflowError):
            raise ValueError(what) from None
        if self.kind == "int" and isinstance(value, float) and value != number:
            raise ValueError(what)
        if not math.isfinite(number):
            raise ValueError("a finite number")
        return number


def options_of(detector: type) -> tuple[Option, ...]:
    """The options of a detector class, in order of declaration; ``declared_options`` are those of a class that stands for another."""
    plain: Any = detector
    if (declared := vars(detector).get("declared_options")) is not None:
        return tuple(declared)
    if not dataclasses.is_dataclass(plain):
        return ()
    hints = typing.get_type_hints(detector)
    return tuple(Option.of(item, hints[item.name]) for item in dataclasses.fields(plain))


def check_options(detector: str, options: Iterable[Option], values: Mapping[str, Any]) -> dict[str, Any]:
    """``values``, each as its option's type. Raises :class:`UsageError` naming the option when it is unknown, of the wrong type, or out
    of bounds."""
    known = {item.name: item for item in options}
    for name in values:
        if name not in known:
            has = ", ".join(sorted(known)) or "none"
            raise UsageError(f"option {detector}.{name}", "there is no such option", f"{detector} has: {has}")
    return {name: known[name].check(detector, value) for name, value in values.items()}
