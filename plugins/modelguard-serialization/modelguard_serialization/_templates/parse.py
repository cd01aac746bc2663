"""Text to a syntax tree, walking it, and the values that expressions of constants have."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from jinja2 import Environment, nodes
from jinja2.exceptions import TemplateError
from jinja2.ext import Extension
from jinja2.parser import Parser

from modelguard_serialization import limits


class NotParsedError(ValueError):
    """No template; the text says why."""


class _Generation(Extension):
    """The tag of transformers that marks what the assistant said; what is between it and its end counts as it stands."""

    tags = {"generation"}  # noqa: RUF012  as its base declares it

    def parse(self, parser: Parser) -> nodes.Node:
        line = next(parser.stream).lineno
        return nodes.Scope(parser.parse_statements(("name:endgeneration",), drop_needle=True)).set_lineno(line)


_ENVIRONMENT = Environment(  # noqa: S701  nothing is ever rendered with it
    trim_blocks=True, lstrip_blocks=True, extensions=["jinja2.ext.loopcontrols", "jinja2.ext.do", _Generation]
)


def parse(text: str) -> nodes.Template:
    """The tree of a template as transformers would read it. Raises :class:`NotParsedError`."""
    if len(text) > limits.TEMPLATE:
        raise NotParsedError(f"has {len(text)} characters, more than the {limits.TEMPLATE} that are parsed")
    try:
        return _ENVIRONMENT.parse(text)
    except TemplateError as error:
        raise NotParsedError(f"line {getattr(error, 'lineno', 0)}: {str(error.message)[:200]}") from error
    except RecursionError as error:
        raise NotParsedError("is nested too deeply") from error
    except (ValueError, OverflowError, ArithmeticError) as error:  # numbers of thousands of digits
        raise NotParsedError(str(error)[:200]) from error


def walk(node: nodes.Node) -> Iterator[nodes.Node]:
    """``node`` and all below it, in no particular order and without recursion."""
    stack = [node]
    while stack:
        current = stack.pop()
        yield current
        stack.extend(current.iter_child_nodes())


Constants = Mapping[str, tuple[Any, ...]]
"""The values that names are set to where those are constants."""


def constants(tree: nodes.Template) -> Constants:
    """What names are set to, wherever that is. Three rounds, so that constants built from constants are found too."""
    found: dict[str, tuple[Any, ...]] = {}
    assigns = [node for node in walk(tree) if isinstance(node, nodes.Assign)]
    blocks = [node for node in walk(tree) if isinstance(node, nodes.AssignBlock)]
    for _ in range(3):
        for node in assigns:
            for target, value in _pairs(node.target, node.node):
                if isinstance(target, nodes.Name):
                    found[target.name] = _few((*found.get(target.name, ()), *fold(value, found)))
        for block in blocks:
            text = "".join(piece.data for piece in walk(block) if isinstance(piece, nodes.TemplateData))
            if isinstance(block.target, nodes.Name):
                found[block.target.name] = _few((*found.get(block.target.name, ()), text))
    return found


def _pairs(target: nodes.Node, value: nodes.Node) -> list[tuple[nodes.Node, nodes.Node]]:
    if isinstance(target, nodes.Tuple) and isinstance(value, nodes.Tuple | nodes.List) and len(target.items) == len(value.items):
        return list(zip(target.items, value.items, strict=True))
    return [(target, value)]


def fold(node: nodes.Node | None, known: Constants, depth: int = 0) -> tuple[Any, ...]:
    """The values (text, numbers, lists of them) the expression may have as far as they are constant; none when they are not.

    Only what hides a name is worked out: joining, formatting, replacing, reversing, slicing and repeating text.
    """
    if node is None or depth > limits.FOLD_DEPTH:
        return ()

    def down(part: nodes.Node | None) -> tuple[Any, ...]:
        return fold(part, known, depth + 1)

    match node:
        case nodes.Const():
            return (node.value,)
        case nodes.TemplateData():
            return (node.data,)
        case nodes.Name():
            return known.get(node.name, ())
        case nodes.List() | nodes.Tuple():
            items = [down(item)[:1] for item in node.items[:1000]]
            return ([item[0] for item in items],) if all(items) else ()
        case nodes.Concat():
            parts = [down(item)[:1] for item in node.nodes[:1000]]
            return _few(["".join(str(part[0]) for part in parts)]) if all(parts) else ()
        case nodes.Add():
            return _few(a + b for a in down(node.left) for b in down(node.right) if isinstance(a, str) and isinstance(b, str))
        case nodes.Mul():
            pairs = [(a, b) for a in down(node.left) for b in down(node.right)]
            return _few(
                text * times
                for a, b in pairs
                for text, times in ((a, b), (b, a))
                if isinstance(text, str) and isinstance(times, int) and 0 <= len(text) * times <= limits.FOLDED
            )
        case nodes.Mod():
            return _few(_percent(a, b) for a in down(node.left) for b in down(node.right) if isinstance(a, str))
        case nodes.Neg():
            return tuple(-value for value in down(node.node) if isinstance(value, int))
        case nodes.CondExpr():
            return _few((*down(node.expr1), *down(node.expr2)))
        case nodes.And() | nodes.Or():
            return _few((*down(node.left), *down(node.right)))
        case nodes.Getitem():
            return _few(_taken(value, node.arg, down) for value in down(node.node))
        case nodes.Filter():
            arguments = [(*down(argument), None)[0] for argument in node.args]
            return _few(_filtered(node.name, value, arguments) for value in down(node.node))
        case nodes.Call() if isinstance(node.node, nodes.Getattr):
            arguments = [(*down(argument), None)[0] for argument in node.args]
            return _few(_method(node.node.attr, value, arguments) for value in down(node.node.node))
    return ()


def _few(values: Any) -> tuple[Any, ...]:
    """A handful of distinct values, those that are too long or nothing left out."""
    kept: list[Any] = []
    for value in values:
        if value is not None and not (isinstance(value, str) and len(value) > limits.FOLDED) and value not in kept:
            kept.append(value)
            if len(kept) == 8:
                break
    return tuple(kept)


def _percent(form: str, values: Any) -> str | None:
    try:
        short = len(form) < 1000 and not any(sign.isdigit() or sign == "*" for sign in form)  # no widths: they are sizes
        return form % (tuple(values) if isinstance(values, list) else values) if short else None
    except (TypeError, ValueError, OverflowError, KeyError):
        return None


def _taken(value: Any, argument: nodes.Node, down: Any) -> Any:
    if not isinstance(value, str | list):
        return None
    if isinstance(argument, nodes.Slice):
        bounds = [(*down(bound), None)[0] if bound is not None else None for bound in (argument.start, argument.stop, argument.step)]
        if all(bound is None or isinstance(bound, int) for bound in bounds) and bounds[2] != 0:
            return value[slice(*bounds)]
        return None
    place = (*down(argument), None)[0]
    return value[place] if isinstance(place, int) and -len(value) <= place < len(value) else None


def _filtered(name: str, value: Any, arguments: list[Any]) -> Any:
    if name == "join" and isinstance(value, list | str):
        return str((*arguments, "")[0] or "").join(map(str, value))
    if name == "reverse" and isinstance(value, str | list):
        return value[::-1]
    if name in ("first", "last") and isinstance(value, str | list) and value:
        return value[0 if name == "first" else -1]
    if name == "list" and isinstance(value, str):
        return list(value)
    if name == "format" and isinstance(value, str):
        return _percent(value, arguments)
    if name == "replace" and isinstance(value, str):
        return _method("replace", value, arguments)
    if name in ("lower", "upper", "title", "capitalize", "trim"):
        return _method({"trim": "strip"}.get(name, name), value, arguments)
    return value if name in ("string", "safe", "escape", "e", "default", "d") else None


def _method(name: str, value: Any, arguments: list[Any]) -> Any:
    if not isinstance(value, str):
        return None
    if name == "join" and arguments and isinstance(arguments[0], list | str):
        return value.join(map(str, arguments[0]))
    if name == "replace" and len(arguments) >= 2 and all(isinstance(argument, str) for argument in arguments[:2]):
        return value.replace(arguments[0], arguments[1]) if len(value) * (len(arguments[1]) + 1) <= limits.FOLDED else None
    if name in ("lower", "upper", "title", "capitalize", "swapcase", "strip", "lstrip", "rstrip") and None not in arguments:
        return getattr(value, name)(*[argument for argument in arguments[:1] if isinstance(argument, str) and "strip" in name])
    if name == "format" and all(isinstance(argument, str | int) for argument in arguments):
        for argument in arguments:  # the fields in order; what else a field can say does not build a name
            value = value.replace("{}", str(argument), 1)
        return value
    if name == "split":
        return value.split(arguments[0] if arguments and isinstance(arguments[0], str) and arguments[0] else None)
    return None
