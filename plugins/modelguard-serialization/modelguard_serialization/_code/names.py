"""What the names in Python source stand for, as far as can be told without running it."""

from __future__ import annotations

import ast
from collections.abc import Iterator

from modelguard_serialization._code import dangers
from modelguard_serialization._code.fold import Folder
from modelguard_serialization._code.source import walk

Binding = tuple[ast.expr, ast.expr]
"""A target and one value it may take."""

_IMPORTING = ("builtins.__import__", "importlib.import_module", "importlib.__import__")


class Names:
    """The names of one file. ``imports`` are the first parts of modules it imports, "." where that is relative, "*" where it is computed.

    ``alias`` is the full dotted name by the name it goes by, ``constants`` the value of each name that is given one only once,
    ``decoded`` the names of what is decoded or downloaded.
    """

    def __init__(self, tree: ast.Module) -> None:
        self.imports: set[str] = set()
        self.alias: dict[str, str] = {}
        self.constants: dict[str, ast.expr] = {}
        self.decoded: set[str] = set()
        nodes = list(walk(tree))
        for node in nodes:
            self._import(node)
        called = {node.attr if isinstance(node, ast.Attribute) else node.id for node in nodes if isinstance(node, ast.Attribute | ast.Name)}
        self._decoding = bool(called & dangers.DECODERS)
        assigned = [(name.id, part) for node in nodes for target, value in _bindings(node) for name, part in _names(target, value)]
        counts = {node.target.id: 2 for node in nodes if isinstance(node, ast.AugAssign) and isinstance(node.target, ast.Name)}
        for name, value in assigned:
            counts[name] = counts.get(name, 0) + 1
            self.constants[name] = value
        self.constants = {name: value for name, value in self.constants.items() if counts[name] == 1}
        self.folder = Folder(self.constants, self.resolve)
        for name, value in assigned * 2:  # twice: an alias of an alias
            full = self.resolve(value)
            if full and (dangers.kind_of(full) or full in (*dangers.REACH, dangers.LIBRARY)) and name not in self.alias:
                self.alias[name] = full
            if self.decodes(value):
                self.decoded.add(name)
        for node in nodes:
            if isinstance(node, ast.Call) and node.args and self.resolve(node.func) in _IMPORTING:
                self.imports.add((self.folder.text(node.args[0]) or "*").partition(".")[0])

    def _import(self, node: ast.AST) -> None:
        if isinstance(node, ast.Import):
            for item in node.names:
                top = item.name.partition(".")[0]
                self.imports.add(top)
                self.alias[item.asname or top] = item.name if item.asname else top
        elif isinstance(node, ast.ImportFrom):
            module = "." * node.level + (node.module or "")
            self.imports.add(module.partition(".")[0] if not node.level else ".")
            for item in node.names:
                if item.name == "*":
                    self.alias |= {name.rpartition(".")[2]: name for name in dangers.EXACT if name.rpartition(".")[0] == module}
                else:
                    self.alias[item.asname or item.name] = f"{module}.{item.name}" if not node.level else f"..{item.name}"

    def resolve(self, node: ast.expr, depth: int = 0) -> str | None:
        """The full dotted name an expression stands for, or may stand for: through imports, aliases, getattr, tables and choices."""
        if depth > 30:
            return None
        match node:
            case ast.Name(id=name):
                if name in self.alias:
                    return self.alias[name]
                return f"builtins.{name}" if name in dangers.BUILTINS else None
            case ast.Attribute(value=of, attr=attr):
                owner = self.resolve(of, depth + 1)
                return _plain(f"{owner}.{attr}") if owner else None
            case ast.NamedExpr(value=value) | ast.Await(value=value) | ast.Starred(value=value):
                return self.resolve(value, depth + 1)
            case ast.IfExp(body=first, orelse=second):
                return self.resolve(first, depth + 1) or self.resolve(second, depth + 1)
            case ast.BoolOp(values=values):
                return next((full for value in values if (full := self.resolve(value, depth + 1))), None)
            case ast.Call(func=func, args=args):
                return self._called(func, args, depth + 1)
            case ast.Subscript(value=of, slice=key):
                return self._looked_up(of, key, depth + 1)
        return None

    def _called(self, func: ast.expr, args: list[ast.expr], depth: int) -> str | None:
        if isinstance(func, ast.Lambda):
            return self.resolve(func.body, depth)
        called = self.resolve(func, depth)
        if called in _IMPORTING and args:
            return self.folder.text(args[0])
        if called == "builtins.getattr" and len(args) > 1:
            holder, part = self.resolve(args[0], depth), self.folder.text(args[1])
            return _plain(f"{holder}.{part}") if holder and part else None
        if called in ("builtins.globals", "builtins.locals"):
            return "builtins.globals"
        if called == "builtins.vars" and args:
            return self.resolve(args[0], depth)
        return dangers.LIBRARY if called in dangers.LIBRARIES else None

    def _looked_up(self, of: ast.expr, key: ast.expr, depth: int) -> str | None:
        held = self.constants.get(of.id, of) if isinstance(of, ast.Name) else of
        if isinstance(held, ast.List | ast.Tuple | ast.Dict):  # which of them the key picks is not followed
            items = held.values if isinstance(held, ast.Dict) else held.elts
            return next((full for item in items[:100] if (full := self.resolve(item, depth)) and _matters(full)), None)
        table, item = self.resolve(of, depth), self.folder.text(key)
        if table == "sys.modules" and item:
            return item
        if table in ("ctypes.cdll", "ctypes.windll", "ctypes.oledll") and item:
            return dangers.LIBRARY
        if table == "builtins.globals" and item:
            return "builtins.__builtins__" if item == "__builtins__" else self.alias.get(item)
        if table and item and (table.endswith("__dict__") or table in ("builtins", "builtins.__builtins__", *dangers.REACH)):
            return _plain(f"{table.removesuffix('.__dict__')}.{item}")
        return None

    def decodes(self, node: ast.expr) -> bool:
        """Whether an expression decodes or downloads something, or holds what was."""
        for part in walk(node) if self._decoding else ():
            if isinstance(part, ast.Call):
                name = self.resolve(part.func)
                if name and (dangers.kind_of(name) in (dangers.DECODE, dangers.NETWORK) or name.startswith("marshal.")):
                    return True
            elif isinstance(part, ast.Name) and part.id in self.decoded:
                return True
        return False


def _matters(full: str) -> bool:
    return dangers.kind_of(full) is not None or full in dangers.REACH


def _plain(name: str) -> str:
    for prefix in ("builtins.__builtins__.", "__builtins__.", "__builtin__.", "builtins.builtins.", "builtins.__dict__."):
        if name.startswith(prefix):
            return "builtins." + name[len(prefix) :]
    return name


def _bindings(node: ast.AST) -> Iterator[Binding]:
    """The targets that a statement or expression gives values to, each with the values it may take."""
    match node:
        case ast.Assign(targets=targets, value=value):
            yield from ((target, value) for target in targets)
        case ast.AnnAssign(target=target, value=ast.expr() as value) | ast.NamedExpr(target=target, value=value):
            yield target, value
        case ast.For(target=target, iter=values) | ast.AsyncFor(target=target, iter=values) | ast.comprehension(target=target, iter=values):
            if isinstance(values, ast.List | ast.Tuple | ast.Set):
                yield from ((target, value) for value in values.elts)
        case ast.withitem(context_expr=value, optional_vars=ast.expr() as target):
            yield target, value
        case ast.FunctionDef(args=arguments) | ast.AsyncFunctionDef(args=arguments) | ast.Lambda(args=arguments):
            named = [*arguments.posonlyargs, *arguments.args]
            yield from _parameters(named[len(named) - len(arguments.defaults) :], arguments.defaults)
            yield from _parameters(arguments.kwonlyargs, arguments.kw_defaults)
        case ast.Call(func=ast.Lambda(args=arguments), args=values, keywords=keywords):
            yield from _parameters([*arguments.posonlyargs, *arguments.args], values)
            yield from ((ast.Name(key.arg, ast.Store()), key.value) for key in keywords if key.arg)


def _parameters(named: list[ast.arg], values: list[ast.expr] | list[ast.expr | None]) -> Iterator[Binding]:
    for argument, value in zip(named, values, strict=False):
        if value is not None:
            yield ast.Name(argument.arg, ast.Store()), value


def _names(target: ast.expr, value: ast.expr) -> Iterator[tuple[ast.Name, ast.expr]]:
    """The single names of a target, each with its part of the value."""
    if isinstance(target, ast.Name):
        yield target, value
    elif isinstance(target, ast.Tuple | ast.List) and isinstance(value, ast.Tuple | ast.List) and len(target.elts) == len(value.elts):
        for part, item in zip(target.elts, value.elts, strict=True):
            yield from _names(part, item)
