"""Which expressions of a template stand for what people wrote, and which for the date."""

from __future__ import annotations

from collections.abc import Iterator

from jinja2 import nodes

from modelguard_serialization._templates.parse import Constants, fold, walk
from modelguard_serialization._words import words

CONTENT = "content"
"""Words of the conversation."""
MESSAGE = "message"
"""A message, or the list of them: its keys and roles are form, its text is content."""
DATE = "date"

_MESSAGES = words("messages message msg conversation conversations chat history loop_messages")
_TEXTS = words("content text reasoning_content reasoning thinking thought value body query prompt")
_FORM = words("role type name id from tool_calls tool_call_id function arguments parameters function_call")
_DATES = words("date_string today now current_date current_time date datetime timestamp")
_SAME = words(
    "strip lstrip rstrip lower upper title capitalize casefold swapcase split rsplit splitlines partition rpartition removeprefix "
    "removesuffix replace join count find rfind index rindex format encode decode items values strftime isoformat next pop"
)
_COUNTS = words("length count wordcount")


class Taint:
    """Kinds of expressions, with the kinds of every name worked out over the whole template, wherever a name is set."""

    def __init__(self, tree: nodes.Template, known: Constants) -> None:
        self.known = known
        self.names: dict[str, frozenset[str]] = {name: frozenset({MESSAGE}) for name in _MESSAGES}
        self.names |= {name: frozenset({DATE}) for name in _DATES}
        macros = {node.name: node for node in walk(tree) if isinstance(node, nodes.Macro)}
        setting = [node for node in walk(tree) if isinstance(node, nodes.Assign | nodes.AssignBlock | nodes.For | nodes.Call)]
        for _ in range(4):  # a name set from a name set from a name
            before = dict(self.names)
            for node in setting:
                self._spread(node, macros)
            if before == self.names:
                break

    def _spread(self, node: nodes.Node, macros: dict[str, nodes.Macro]) -> None:
        if isinstance(node, nodes.Assign):
            for target, value in _parts(node.target, node.node):
                self._add(target, self.kinds(value))
        elif isinstance(node, nodes.AssignBlock):
            for piece in node.body:
                for output in walk(piece):
                    if isinstance(output, nodes.Output):
                        for value in output.nodes:
                            self._add(node.target, self.kinds(value))
        elif isinstance(node, nodes.For):
            kinds = self.kinds(node.iter)
            last = node.target.items[-1] if isinstance(node.target, nodes.Tuple) and node.target.items else node.target
            self._add(last, kinds)
        elif isinstance(node, nodes.Call) and isinstance(node.node, nodes.Name) and (macro := macros.get(node.node.name)):
            for target, value in zip(macro.args, node.args, strict=False):
                self._add(target, self.kinds(value))
            named = {target.name: target for target in macro.args}
            for pair in node.kwargs:
                if pair.key in named:
                    self._add(named[pair.key], self.kinds(pair.value))
        elif isinstance(node, nodes.Call) and isinstance(node.node, nodes.Name) and node.node.name == "namespace":
            for pair in node.kwargs:
                self._add(nodes.Name(pair.key, "store"), self.kinds(pair.value))

    def _add(self, target: nodes.Node, kinds: frozenset[str]) -> None:
        name = target.name if isinstance(target, nodes.Name) else target.attr if isinstance(target, nodes.NSRef) else None
        if name is not None and kinds:
            self.names[name] = self.names.get(name, frozenset()) | kinds

    def kinds(self, node: nodes.Node | None, depth: int = 0) -> frozenset[str]:
        """What the expression may be: some of :data:`CONTENT`, :data:`MESSAGE` and :data:`DATE`, or nothing of interest."""
        if node is None or depth > 60:
            return frozenset()

        def down(part: nodes.Node | None) -> frozenset[str]:
            return self.kinds(part, depth + 1)

        match node:
            case nodes.Name():
                return self.names.get(node.name, frozenset())
            case nodes.Getattr():
                return self._part(node.attr, down(node.node), node)
            case nodes.Getitem():
                keys = [key for key in fold(node.arg, self.known) if isinstance(key, str)]
                base = down(node.node)
                if isinstance(node.arg, nodes.Name) and MESSAGE in base and not keys and node.arg.name not in ("i", "index", "last"):
                    return base
                return frozenset().union(*(self._part(key, base, node) for key in keys)) if keys else base
            case nodes.Call():
                return self._call(node, down)
            case nodes.Filter():
                return self._filter(node, down(node.node))
            case nodes.Concat():
                return _flat(frozenset().union(*(down(part) for part in node.nodes)))
            case nodes.Add() | nodes.Mod() | nodes.Mul() | nodes.Or() | nodes.And():
                return down(node.left) | down(node.right)
            case nodes.CondExpr():
                return down(node.expr1) | down(node.expr2)
            case nodes.List() | nodes.Tuple():
                return frozenset().union(*(down(item) for item in node.items[:50])) if node.items else frozenset()
        return frozenset()

    def _part(self, key: str, base: frozenset[str], node: nodes.Getattr | nodes.Getitem) -> frozenset[str]:
        if (isinstance(node.node, nodes.Name) and node.node.name in ("ns", "namespace")) or not base:
            own = self.names.get(key, frozenset()) if isinstance(node.node, nodes.Name) else frozenset()
            return own | ({CONTENT} if key in _TEXTS and key != "value" else frozenset())
        if key in _FORM:
            return frozenset()
        if key in _TEXTS:
            return frozenset({CONTENT})
        return base & {DATE, MESSAGE} | (base & {CONTENT} if key in _SAME else frozenset())

    def _call(self, node: nodes.Call, down: object) -> frozenset[str]:
        kinds = self.kinds
        if isinstance(node.node, nodes.Getattr):
            base = kinds(node.node.node)
            if node.node.attr == "get":
                keys = [key for key in fold(node.args[0] if node.args else None, self.known) if isinstance(key, str)]
                return frozenset().union(*(self._part(key, base, node.node) for key in keys)) if keys else base
            if node.node.attr in ("items", "values") and MESSAGE in base:
                return frozenset({CONTENT, MESSAGE})
            if node.node.attr == "join":
                base |= frozenset().union(*(kinds(argument) for argument in node.args)) if node.args else frozenset()
            return _flat(base) if node.node.attr in _SAME else frozenset()
        if isinstance(node.node, nodes.Name):
            if node.node.name == "strftime_now":
                return frozenset({DATE})
            if node.node.name in ("raise_exception", "namespace", "range"):
                return frozenset()
            given = frozenset().union(*(kinds(argument) for argument in node.args)) if node.args else frozenset()
            return given & {CONTENT, DATE}
        return frozenset()

    def _filter(self, node: nodes.Filter, base: frozenset[str]) -> frozenset[str]:
        if node.name in _COUNTS:
            return frozenset()
        if node.name in ("string", "tojson", "join", "pprint", "urlencode", "format"):
            return _flat(base)
        if node.name == "map":
            keys = [pair.value for pair in node.kwargs if pair.key == "attribute"]
            named = [key for value in keys for key in fold(value, self.known) if isinstance(key, str)]
            if named:
                texts = any(key.rsplit(".", 1)[-1] in _TEXTS for key in named)
                return frozenset({CONTENT}) if texts and base else frozenset()
        return base


def _flat(kinds: frozenset[str]) -> frozenset[str]:
    """A message made into one text is content."""
    return kinds - {MESSAGE} | {CONTENT} if MESSAGE in kinds else kinds


def _parts(target: nodes.Node, value: nodes.Node) -> Iterator[tuple[nodes.Node, nodes.Node]]:
    if isinstance(target, nodes.Tuple):
        if isinstance(value, nodes.Tuple | nodes.List) and len(value.items) == len(target.items):
            yield from zip(target.items, value.items, strict=True)
        else:
            yield from ((item, value) for item in target.items)
    else:
        yield target, value
