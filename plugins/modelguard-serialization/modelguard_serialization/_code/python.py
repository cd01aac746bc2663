"""Python source: what it uses, and whether that happens on import, once a model is loaded, or only when somebody asks for it."""

from __future__ import annotations

import ast
import io
import re
import tokenize
import warnings
from collections.abc import Iterator
from dataclasses import dataclass, field

from modelguard_serialization import limits
from modelguard_serialization._code import dangers
from modelguard_serialization._code.fold import Folder
from modelguard_serialization._words import words

IMPORT, LOAD, RUN = "on import", "when the model is loaded or used", "when called"
_MODULE, _MAIN = "<module>", "<main>"
_LOADED = re.compile(
    r"(?:PreTrained|Pretrained)\w*$|(?:Model|Module|Config|Tokenizer|TokenizerFast|Processor|Pipeline|Extractor|Handler|Mixin|Layer)$"
)
_LOADING = words(
    "from_pretrained from_config _from_config from_dict register_for_auto_class __reduce__ __setstate__ __getattr__ __init_subclass__"
)
HIDING = words("utf-7 utf-16 utf-16-le utf-16-be utf-32 unicode_escape unicode-escape raw_unicode_escape raw-unicode-escape punycode")
"""Encodings of Python in which code reads as something else."""
_ENCODINGS = words(
    "utf-8 utf-8-sig ascii us-ascii latin-1 iso-8859-1 iso-8859-15 cp1252 cp1251 gbk gb2312 gb18030 big5 euc-jp shift_jis euc-kr"
)


class NotParsedError(ValueError):
    """No Python; the text says why."""


@dataclass(frozen=True, slots=True)
class Use:
    """One use of something dangerous: its kind (of ``dangers``), the full name, when it happens, and what it is given as text."""

    kind: str
    name: str
    unit: str
    line: int
    given: str = ""
    first: str = ""
    decoded: bool = False
    constant: bool = False


@dataclass
class Program:
    """One file as it is judged."""

    imports: set[str] = field(default_factory=set)
    uses: list[Use] = field(default_factory=list)
    texts: list[tuple[str, int]] = field(default_factory=list)
    hides: list[tuple[str, str, int]] = field(default_factory=list)
    """(what it does, unit, line) of things that have no use but to hide."""
    calls: dict[str, set[str]] = field(default_factory=dict)
    units: dict[str, set[str]] = field(default_factory=dict)
    """Units (functions) by the simple name they are called by; a class stands for its constructors."""
    loading: set[str] = field(default_factory=set)
    writes: bool = False
    environment: int = 0
    """The line where the whole environment is taken, or 0."""

    def when(self) -> dict[str, str]:
        """When each unit runs, the earliest."""
        found: dict[str, str] = {}
        for moment, start in ((IMPORT, {_MODULE}), (LOAD, self.loading)):
            todo = list(start)
            while todo:
                unit = todo.pop()
                if unit not in found:
                    found[unit] = moment
                    todo.extend(target for name in self.calls.get(unit, ()) for target in self.units.get(name, ()))
        return found


def source_text(data: bytes) -> tuple[str, str]:
    """Source as Python would decode it, and the encoding it declares. Raises :class:`NotParsedError`."""
    try:
        encoding, _ = tokenize.detect_encoding(io.BytesIO(data).readline)
        if encoding.lower() not in _ENCODINGS and encoding.lower() not in HIDING:
            raise NotParsedError(f"declares the encoding {encoding[:40]!r}, which is not followed")
        return data.decode(encoding), encoding
    except (SyntaxError, UnicodeError, LookupError) as error:
        raise NotParsedError(f"is no text in the encoding it declares ({type(error).__name__})") from error


def parse(text: str) -> ast.Module:
    """The tree. Raises :class:`NotParsedError` for what is no Python, or too large or deep."""
    if len(text) > limits.CODE:
        raise NotParsedError(f"has {len(text)} characters, more than the {limits.CODE} that are parsed")
    depth = deepest = 0
    for mark in re.finditer(r"[\[({]|[\])}]", text):
        depth += 1 if mark[0] in "[({" else -1
        deepest = max(deepest, depth)
    if deepest > limits.CODE_NESTING and _bracketed(text) > limits.CODE_NESTING:
        raise NotParsedError("nests brackets too deeply")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about the escapes in somebody else's strings
            return ast.parse(text)
    except SyntaxError as error:
        raise NotParsedError(f"line {error.lineno}: {str(error.msg)[:120]}") from error
    except (ValueError, RecursionError, MemoryError, OverflowError) as error:
        raise NotParsedError(f"cannot be parsed ({type(error).__name__})") from error


def _bracketed(text: str) -> int:
    """How deep brackets are nested outside of strings and comments."""
    depth = deepest = 0
    try:
        for token in tokenize.generate_tokens(io.StringIO(text).readline):
            if token.type == tokenize.OP:
                depth += (token.string in "([{") - (token.string in ")]}")
                deepest = max(deepest, depth)
    except (tokenize.TokenError, SyntaxError, RecursionError):
        return limits.CODE_NESTING + 1
    return deepest


def study(tree: ast.Module, unit: str = _MODULE, program: Program | None = None, executed: int = 0) -> Program:
    """Everything in the tree that :mod:`.dangers` knows, with the units it is in."""
    return _Student(tree, program or Program(), executed).study(unit)


class _Student:
    def __init__(self, tree: ast.Module, program: Program, executed: int) -> None:
        self.tree = tree
        self.program = program
        self.executed = executed
        self.alias: dict[str, str] = {}
        self.constants: dict[str, ast.expr] = {}
        self.decoded: set[str] = set()
        self.decoding = False
        self.told: set[int] = set()
        """Nodes that the node above them has spoken for."""
        self._names()
        self.folder = Folder(self.constants, self.resolve)

    def _names(self) -> None:
        nodes = list(_walk(self.tree))
        for node in nodes:
            if isinstance(node, ast.Import):
                for item in node.names:
                    self.program.imports.add(item.name.partition(".")[0])
                    self.alias[item.asname or item.name.partition(".")[0]] = item.name if item.asname else item.name.partition(".")[0]
            elif isinstance(node, ast.ImportFrom):
                module = "." * node.level + (node.module or "")
                self.program.imports.add(module.partition(".")[0] if not node.level else ".")
                for item in node.names:
                    if item.name == "*":
                        self.alias |= {name.rpartition(".")[2]: name for name in dangers.EXACT if name.rpartition(".")[0] == module}
                    else:
                        self.alias[item.asname or item.name] = f"{module}.{item.name}" if not node.level else f"..{item.name}"
        called = {node.attr if isinstance(node, ast.Attribute) else node.id for node in nodes if isinstance(node, ast.Attribute | ast.Name)}
        self.decoding = bool(called & dangers.DECODERS)
        counts: dict[str, int] = {}
        assigned: list[tuple[str, ast.expr]] = []
        for node in nodes:
            pairs: list[tuple[ast.expr, ast.expr | None]] = []
            if isinstance(node, ast.Assign):
                pairs = [(target, node.value) for target in node.targets]
            elif isinstance(node, ast.AnnAssign | ast.NamedExpr):
                pairs = [(node.target, node.value)]
            elif isinstance(node, ast.AugAssign):
                counts[getattr(node.target, "id", "")] = 2
            for target, value in pairs:
                if isinstance(target, ast.Tuple) and isinstance(value, ast.Tuple) and len(target.elts) == len(value.elts):
                    assigned += [(part.id, item) for part, item in zip(target.elts, value.elts, strict=True) if isinstance(part, ast.Name)]
                elif isinstance(target, ast.Name) and value is not None:
                    assigned.append((target.id, value))
        for name, value in assigned:
            counts[name] = counts.get(name, 0) + 1
            self.constants[name] = value
        self.constants = {name: value for name, value in self.constants.items() if counts[name] == 1}
        self.folder = Folder(self.constants, self.resolve)
        for name, value in assigned * 2:  # twice: an alias of an alias
            full = self.resolve(value)
            if full and (dangers.kind_of(full) or full in dangers.REACH) and name not in self.alias:
                self.alias[name] = full
            if self._decodes(value):
                self.decoded.add(name)

    def resolve(self, node: ast.expr, depth: int = 0) -> str | None:
        """The full dotted name an expression stands for, through imports, aliases, getattr and tables of names."""
        if depth > 30:
            return None
        match node:
            case ast.Name(id=name):
                if name in self.alias:
                    return self.alias[name]
                return f"builtins.{name}" if name in dangers.BUILTINS else None
            case ast.Attribute(value=of, attr=attr):
                owner = self.resolve(of, depth + 1)
                return self._plain(f"{owner}.{attr}") if owner else None
            case ast.Call(func=func, args=args):
                called = self.resolve(func, depth + 1)
                if called in ("builtins.__import__", "importlib.import_module", "importlib.__import__") and args:
                    return self.folder.text(args[0])
                if called == "builtins.getattr" and len(args) > 1:
                    base, attr = self.resolve(args[0], depth + 1), self.folder.text(args[1])
                    return self._plain(f"{base}.{attr}") if base and attr else None
                if called in ("builtins.globals", "builtins.locals"):
                    return "builtins.globals"
                if called == "builtins.vars" and args:
                    return self.resolve(args[0], depth + 1)
            case ast.Subscript(value=of, slice=key):
                table, item = self.resolve(of, depth + 1), self.folder.text(key)
                if table == "sys.modules" and item:
                    return item
                if table == "builtins.globals" and item:
                    return "builtins.__builtins__" if item == "__builtins__" else self.alias.get(item)
                if table and item and (table.endswith("__dict__") or table in ("builtins", *dangers.REACH)):
                    return self._plain(f"{table.removesuffix('.__dict__')}.{item}")
        return None

    @staticmethod
    def _plain(name: str) -> str:
        for prefix in ("builtins.__builtins__.", "__builtins__.", "__builtin__.", "builtins.builtins.", "builtins.__dict__."):
            if name.startswith(prefix):
                return "builtins." + name[len(prefix) :]
        return name

    def _decodes(self, node: ast.expr) -> bool:
        for part in _walk(node) if self.decoding else ():
            if isinstance(part, ast.Call):
                name = self.resolve(part.func)
                if name and (dangers.kind_of(name) in (dangers.DECODE, dangers.NETWORK) or name.startswith("marshal.")):
                    return True
            elif isinstance(part, ast.Name) and part.id in self.decoded:
                return True
        return False

    def study(self, unit: str) -> Program:
        later = "annotations" in {item.name for node in self.tree.body if isinstance(node, ast.ImportFrom) for item in node.names}
        stack: list[tuple[ast.AST, str, str]] = [(node, unit, "") for node in reversed(self.tree.body)]
        while stack:
            node, here, owner = stack.pop()
            stack.extend(reversed(list(self._children(node, here, owner, later))))
            self._look(node, here)
        return self.program

    def _children(self, node: ast.AST, unit: str, owner: str, later: bool) -> Iterator[tuple[ast.AST, str, str]]:
        """What is below a node, with the unit it runs in and the class around it."""
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            inner = f"{owner}.{node.name}" if owner else node.name if unit == _MODULE else f"{unit}/{node.name}"
            self.program.units.setdefault(node.name, set()).add(inner)
            if owner and node.name in ("__init__", "__new__", "__call__", "__post_init__", "__enter__", "forward"):
                self.program.units.setdefault(owner, set()).add(inner)
            if node.name in _LOADING:
                self.program.loading.add(inner)
            yield from ((part, inner, "") for part in node.body)
            arguments = node.args
            outer = [*node.decorator_list, *arguments.defaults, *(value for value in arguments.kw_defaults if value)]
            if not later:
                every = [*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs, arguments.vararg, arguments.kwarg]
                outer += [argument.annotation for argument in every if argument and argument.annotation]
                outer += [node.returns] if node.returns else []
            yield from ((part, unit, owner) for part in outer)
        elif isinstance(node, ast.ClassDef):
            bases = [ast.unparse(base)[:200] if isinstance(base, ast.Name | ast.Attribute) else "" for base in node.bases]
            if any(_LOADED.search(base) for base in bases) or node.name == "EndpointHandler":
                self.program.loading |= {f"{node.name}.{part.name}" for part in node.body if isinstance(part, ast.FunctionDef)}
            yield from ((part, unit, node.name) for part in node.body)
            yield from ((part, unit, owner) for part in [*node.decorator_list, *node.bases, *(key.value for key in node.keywords)])
        elif isinstance(node, ast.If) and unit == _MODULE and _is_main(node.test):
            yield from ((part, _MAIN, owner) for part in node.body)
            yield from ((part, unit, owner) for part in node.orelse)
        else:
            for part in _below(node):
                yield part, unit, owner

    def _look(self, node: ast.AST, unit: str) -> None:
        calls = self.program.calls.setdefault(unit, set())
        if isinstance(node, ast.Call):
            if isinstance(node.func, ast.Name):
                calls.add(node.func.id)
            elif isinstance(node.func, ast.Attribute) and not (unit == _MODULE and self._foreign(node.func.value)):
                calls.add(node.func.attr)
            self.told.add(id(node.func))
            self._call(node, unit)
            return
        if isinstance(node, ast.Subscript | ast.Attribute) and not (isinstance(node, ast.Attribute) and node.attr in ("items", "values")):
            self.told.add(id(node.value))
        if isinstance(node, ast.Compare):
            self.told |= {id(part) for part in node.comparators}
        if isinstance(node, ast.Name | ast.Attribute | ast.Subscript) and isinstance(node.ctx, ast.Load):
            if isinstance(node, ast.Name) and not node.id[:1].isupper():
                calls.add(node.id)  # a function that is handed on is called by whoever gets it
            name = self.resolve(node)
            kind = dangers.kind_of(name) if name else None
            if isinstance(node, ast.Subscript) and kind in (dangers.COMMAND, dangers.EXECUTE) and not isinstance(node.slice, ast.Constant):
                self.program.hides.append((f"puts the name {name} together from pieces", unit, node.lineno))
            if name == "os.environ" and id(node) not in self.told:
                self.program.environment = node.lineno
            if name and kind in (dangers.COMMAND, dangers.EXECUTE) and name != "builtins.compile" and id(node) not in self.told:
                self._use(Use(kind, name, unit, node.lineno))
            if isinstance(node, ast.Attribute) and node.attr in ("__subclasses__", "__globals__", "__builtins__") and _from_literal(node):
                self.program.hides.append((f"reaches {node.attr} from a literal", unit, node.lineno))
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and len(node.value) > 3:
            self.program.texts.append((node.value[:100_000], node.lineno))

    def _call(self, node: ast.Call, unit: str) -> None:
        name = self.resolve(node.func)
        if name == "builtins.getattr" and len(node.args) > 1:
            base = self.resolve(node.args[0])
            if base in (*dangers.REACH, "builtins.__builtins__") and self.folder.text(node.args[1]) is None:
                self.program.hides.append((f"takes an attribute of {base} by a name that it computes", unit, node.lineno))
            full = self.resolve(node)
            if full and (kind := dangers.kind_of(full)):
                if not isinstance(node.args[1], ast.Constant):
                    self.program.hides.append((f"puts the name {full} together from pieces", unit, node.lineno))
                self._use(Use(kind, full, unit, node.lineno))
        kind = dangers.kind_of(name) if name else None
        if name == "builtins.open" and node.args:
            mode = next((key.value for key in node.keywords if key.arg == "mode"), node.args[1] if len(node.args) > 1 else None)
            self.program.writes |= bool(set(self.folder.text(mode) or "r") & set("wax+"))
            if path := self.folder.text(node.args[0]):
                self.program.texts.append((path, node.lineno))
        elif isinstance(node.func, ast.Attribute) and node.func.attr in (
            "write_text",
            "write_bytes",
            "symlink",
            "symlink_to",
            "copy",
            "copyfile",
        ):
            self.program.writes = True
        if not name or not kind or kind == dangers.DECODE:
            return
        arguments = [*node.args, *(key.value for key in node.keywords)]
        texts = [text for part in arguments for text in self._texts(part)]
        weights_only = next((key.value for key in node.keywords if key.arg == "weights_only"), None)
        if name == "torch.load" and isinstance(weights_only, ast.Constant) and weights_only.value is True:
            return
        decoded = kind == dangers.EXECUTE and any(self._decodes(part) for part in node.args)
        first = self.folder.value(node.args[0]) if node.args else None
        listed = self._listed(node.args[0]) if node.args else None
        head = self.folder.text(listed.elts[0]) if listed else first
        constant = (isinstance(first, str | bytes) and name.startswith("builtins.") and self.executed < limits.EXECUTED) or (
            kind == dangers.EXECUTE and bool(node.args) and self._own_file(node.args[0])
        )
        self._use(
            Use(kind, name, unit, node.lineno, " ".join(texts)[:2000], head[:200] if isinstance(head, str) else "", decoded, constant)
        )
        if kind == dangers.EXECUTE and name in ("builtins.exec", "builtins.eval", "builtins.compile") and self.executed < limits.EXECUTED:
            self._executed(self.folder.text(node.args[0]) if node.args else None, unit)
        if (
            name in ("builtins.exec", "builtins.eval", "builtins.compile")
            and node.args
            and any(self._decodes(part) for part in node.args[:1])
        ):
            self.program.hides.append(("runs text that it decodes or downloads", unit, node.lineno))

    def _foreign(self, node: ast.expr) -> bool:
        """Whether the thing a method is called on comes from another module, so that no method of this one is meant."""
        for _ in range(20):
            match node:
                case ast.Constant() | ast.JoinedStr():
                    return True
                case ast.Name(id=name):
                    if name in self.alias:
                        return True
                    if name not in self.constants:
                        return False
                    node = self.constants[name]
                case ast.Call(func=inner) | ast.Attribute(value=inner) | ast.Subscript(value=inner):
                    node = inner
                case _:
                    return False
        return False

    def _listed(self, node: ast.expr) -> ast.List | ast.Tuple | None:
        named = self.constants.get(node.id) if isinstance(node, ast.Name) else node
        return named if isinstance(named, ast.List | ast.Tuple) and named.elts else None

    def _own_file(self, node: ast.expr) -> bool:
        """Whether it is the text of a Python file beside this one, as in ``exec(open("version.py").read())``."""
        opened = [part for part in _walk(node) if isinstance(part, ast.Call) and self.resolve(part.func) == "builtins.open" and part.args]
        paths = [text for part in opened for text in self._texts(part.args[0])] or [self.folder.text(node) or ""]
        return bool(paths) and all(path.endswith(".py") and not path.startswith(("/", "~")) and ".." not in path for path in paths[-1:])

    def _executed(self, text: str | None, unit: str) -> None:
        if text:
            try:
                study(parse(text), unit, self.program, self.executed + 1)
            except NotParsedError:
                return

    def _texts(self, node: ast.expr) -> list[str]:
        value = self.folder.value(node)
        if isinstance(value, bytes):
            return [value.decode("latin-1")]
        if isinstance(value, list):
            return [str(item) for item in value]
        if value is not None:
            return [str(value)]
        return [part.value for part in _walk(node) if isinstance(part, ast.Constant) and isinstance(part.value, str)]

    def _use(self, use: Use) -> None:
        if len(self.program.uses) < limits.MEMBERS:
            self.program.uses.append(use)


_BARE = (ast.expr_context, ast.operator, ast.unaryop, ast.boolop, ast.cmpop)


def _below(node: ast.AST) -> Iterator[ast.AST]:
    """The nodes right below one, without those that only say how."""
    for name in node._fields:
        value = getattr(node, name, None)
        if isinstance(value, list):
            for item in value:
                if isinstance(item, ast.AST) and not isinstance(item, _BARE):
                    yield item
        elif isinstance(value, ast.AST) and not isinstance(value, _BARE):
            yield value


def _walk(node: ast.AST) -> Iterator[ast.AST]:
    stack = [node]
    while stack:
        current = stack.pop()
        yield current
        stack.extend(reversed(list(_below(current))))


def _is_main(test: ast.expr) -> bool:
    names = {part.id for part in _walk(test) if isinstance(part, ast.Name)}
    return isinstance(test, ast.Compare) and names == {"__name__"} and isinstance(test.ops[0], ast.Eq)


def _from_literal(node: ast.Attribute) -> bool:
    inner: ast.expr = node
    seen = set()
    while isinstance(inner, ast.Attribute | ast.Subscript | ast.Call):
        if isinstance(inner, ast.Attribute):
            seen.add(inner.attr)
        inner = inner.func if isinstance(inner, ast.Call) else inner.value
    return bool(seen & {"__class__", "__base__", "__bases__", "__mro__", "__init__"}) and (
        isinstance(inner, ast.Constant | ast.Tuple | ast.List | ast.Dict | ast.Lambda) or "__subclasses__" in seen
    )
