"""Python source: what it uses, and whether that happens on import, once a model is loaded, or only when somebody asks for it."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator

from modelguard_serialization import limits
from modelguard_serialization._code import dangers
from modelguard_serialization._code.names import Names
from modelguard_serialization._code.program import MAIN, MODULE, Program, Use
from modelguard_serialization._code.source import NotParsedError, below, parse, walk
from modelguard_serialization._words import words

_LOADED = re.compile(
    r"(?:PreTrained|Pretrained)\w*$|(?:Model|Module|Config|Tokenizer|TokenizerFast|Processor|Pipeline|Extractor|Handler|Mixin|Layer)$"
)
_LOADING = words(
    "from_pretrained from_config _from_config from_dict register_for_auto_class __reduce__ __setstate__ __getattr__ __init_subclass__"
)


def study(tree: ast.Module, unit: str = MODULE, program: Program | None = None, executed: int = 0) -> Program:
    """Everything in the tree that :mod:`.dangers` knows, with the units it is in."""
    return _Student(tree, program or Program(), executed).study(unit)


class _Student:
    def __init__(self, tree: ast.Module, program: Program, executed: int) -> None:
        self.tree = tree
        self.program = program
        self.executed = executed
        self.names = Names(tree)
        self.program.imports |= self.names.imports
        self.told: set[int] = set()
        """Nodes that the node above them has spoken for."""

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
            inner = f"{owner}.{node.name}" if owner else node.name if unit == MODULE else f"{unit}/{node.name}"
            self.program.units.setdefault(node.name, set()).add(inner)
            if owner and node.name in ("__init__", "__new__", "__call__", "__post_init__", "__enter__", "forward"):
                self.program.units.setdefault(owner, set()).add(inner)
            if node.name in _LOADING:
                self.program.loading.add(inner)
            yield from ((part, inner, "") for part in node.body)
            arguments = node.args
            defaults = [*arguments.defaults, *(value for value in arguments.kw_defaults if value)]
            self.told |= {id(value) for value in defaults}  # what is called by the parameter's name is found there
            outer = [*node.decorator_list, *defaults]
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
        elif isinstance(node, ast.If) and unit == MODULE and _is_main(node.test):
            yield from ((part, MAIN, owner) for part in node.body)
            yield from ((part, unit, owner) for part in node.orelse)
        else:
            for part in below(node):
                yield part, unit, owner

    def _look(self, node: ast.AST, unit: str) -> None:
        calls = self.program.calls.setdefault(unit, set())
        if isinstance(node, ast.Call):
            if isinstance(node.func, ast.Name):
                calls.add(node.func.id)
            elif isinstance(node.func, ast.Attribute) and not (unit == MODULE and self._foreign(node.func.value)):
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
            name = self.names.resolve(node)
            kind = dangers.kind_of(name) if name else None
            if isinstance(node, ast.Subscript) and kind in (dangers.COMMAND, dangers.EXECUTE) and self._spelled(node):
                self.program.hides.append((f"puts the name {name} together from pieces", unit, node.lineno))
            if name == "os.environ" and id(node) not in self.told:
                self.program.environment = node.lineno
            if name and kind in (dangers.COMMAND, dangers.EXECUTE) and name != "builtins.compile" and id(node) not in self.told:
                self._use(Use(kind, name, unit, node.lineno))
            if isinstance(node, ast.Attribute) and node.attr in ("__subclasses__", "__globals__", "__builtins__") and _from_literal(node):
                self.program.hides.append((f"reaches {node.attr} from a literal", unit, node.lineno))
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and len(node.value) > 3:
            self.program.texts.append((node.value[:100_000], node.lineno))

    def _spelled(self, node: ast.Subscript) -> bool:
        """Whether a namespace is asked for a name that is put together. A table of functions is asked for its own keys."""
        return not isinstance(node.slice, ast.Constant) and self.names.resolve(node.value) is not None

    def _by_method(self, func: ast.expr, node: ast.Call) -> str | None:
        """What ``X.system("id")`` is where nothing says what X is, in a file that has the module of such a function at hand."""
        if not isinstance(func, ast.Attribute) or not node.args or self._foreign(func.value):
            return None
        if isinstance(func.value, ast.Name) and func.value.id in ("self", "cls"):
            return None
        known = dangers.BY_METHOD.get(func.attr, ())
        return next((name for name in known if self.program.imports & {name.partition(".")[0], "*"}), None)

    def _call(self, node: ast.Call, unit: str) -> None:
        name = self.names.resolve(node.func) or self._by_method(node.func, node)
        if name == "builtins.getattr" and len(node.args) > 1:
            base = self.names.resolve(node.args[0])
            if base in (*dangers.REACH, "builtins.__builtins__") and self.names.folder.text(node.args[1]) is None:
                self.program.hides.append((f"takes an attribute of {base} by a name that it computes", unit, node.lineno))
            full = self.names.resolve(node)
            if full and (kind := dangers.kind_of(full)):
                if not isinstance(node.args[1], ast.Constant):
                    self.program.hides.append((f"puts the name {full} together from pieces", unit, node.lineno))
                self._use(Use(kind, full, unit, node.lineno))
        kind = dangers.kind_of(name) if name else None
        if name == "builtins.open" and node.args:
            mode = next((key.value for key in node.keywords if key.arg == "mode"), node.args[1] if len(node.args) > 1 else None)
            self.program.writes |= bool(set(self.names.folder.text(mode) or "r") & set("wax+"))
            if path := self.names.folder.text(node.args[0]):
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
        decoded = kind == dangers.EXECUTE and any(self.names.decodes(part) for part in node.args)
        first = self.names.folder.value(node.args[0]) if node.args else None
        listed = self._listed(node.args[0]) if node.args else None
        head = self.names.folder.text(listed.elts[0]) if listed else first
        constant = (isinstance(first, str | bytes) and name.startswith("builtins.") and self.executed < limits.EXECUTED) or (
            kind == dangers.EXECUTE and bool(node.args) and self._own_file(node.args[0])
        )
        self._use(
            Use(kind, name, unit, node.lineno, " ".join(texts)[:2000], head[:200] if isinstance(head, str) else "", decoded, constant)
        )
        if kind == dangers.EXECUTE and name in ("builtins.exec", "builtins.eval", "builtins.compile") and self.executed < limits.EXECUTED:
            self._executed(self.names.folder.text(node.args[0]) if node.args else None, unit)
        if (
            name in ("builtins.exec", "builtins.eval", "builtins.compile")
            and node.args
            and any(self.names.decodes(part) for part in node.args[:1])
        ):
            self.program.hides.append(("runs text that it decodes or downloads", unit, node.lineno))

    def _foreign(self, node: ast.expr) -> bool:
        """Whether the thing a method is called on comes from another module, so that no method of this one is meant."""
        for _ in range(20):
            match node:
                case ast.Constant() | ast.JoinedStr():
                    return True
                case ast.Name(id=name):
                    if name in self.names.alias:
                        return True
                    if name not in self.names.constants:
                        return False
                    node = self.names.constants[name]
                case ast.Call(func=inner) | ast.Attribute(value=inner) | ast.Subscript(value=inner):
                    node = inner
                case _:
                    return False
        return False

    def _listed(self, node: ast.expr) -> ast.List | ast.Tuple | None:
        named = self.names.constants.get(node.id) if isinstance(node, ast.Name) else node
        return named if isinstance(named, ast.List | ast.Tuple) and named.elts else None

    def _own_file(self, node: ast.expr) -> bool:
        """Whether it is the text of a Python file beside this one, as in ``exec(open("version.py").read())``."""
        opened = [
            part for part in walk(node) if isinstance(part, ast.Call) and self.names.resolve(part.func) == "builtins.open" and part.args
        ]
        paths = [text for part in opened for text in self._texts(part.args[0])] or [self.names.folder.text(node) or ""]
        return bool(paths) and all(path.endswith(".py") and not path.startswith(("/", "~")) and ".." not in path for path in paths[-1:])

    def _executed(self, text: str | None, unit: str) -> None:
        if text:
            try:
                study(parse(text), unit, self.program, self.executed + 1)
            except NotParsedError:
                return

    def _texts(self, node: ast.expr) -> list[str]:
        value = self.names.folder.value(node)
        if isinstance(value, bytes):
            return [value.decode("latin-1")]
        if isinstance(value, list):
            return [str(item) for item in value]
        if value is not None:
            return [str(value)]
        return [part.value for part in walk(node) if isinstance(part, ast.Constant) and isinstance(part.value, str)]

    def _use(self, use: Use) -> None:
        if len(self.program.uses) < limits.MEMBERS:
            self.program.uses.append(use)


def _is_main(test: ast.expr) -> bool:
    names = {part.id for part in walk(test) if isinstance(part, ast.Name)}
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
