"""What in a template reaches out of it: Python's inner attributes, other files, and names that its renderers do not offer.

The sandbox of jinja2 refuses most of it; llama-cpp-python rendered without one (CVE-2024-34359), and the sandbox has been left by
``str.format`` (CVE-2016-10745, CVE-2024-56326) and the ``attr`` filter (CVE-2025-27516).
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

from jinja2 import Environment, nodes

from modelguard import Severity
from modelguard_serialization._templates.parse import Constants, fold, walk
from modelguard_serialization._words import words


@dataclass(frozen=True, slots=True)
class Escape:
    """``what`` completes "the template ..."; ``key`` is the same in every revision."""

    what: str
    severity: Severity
    line: int
    key: str


DUNDER = re.compile(r"__[A-Za-z]\w*")
_INNER = words(
    "mro gi_frame gi_code gi_yieldfrom cr_frame cr_code ag_frame ag_code f_globals f_locals f_builtins f_back f_code tb_frame tb_next "
    "func_globals func_code func_closure im_func im_class im_self co_code co_consts format_map"
)
"""Attributes that jinja2's sandbox refuses (``jinja2.sandbox``: UNSAFE_*_ATTRIBUTES), and ``format_map``, which leaves it."""
_RUNS = words(
    "popen Popen system exec eval execfile compile open read write unlink getoutput check_output check_call spawn run_module import_module "
    "load_module find_spec loads from_string subclasses communicate environ getenv fromfile breakpoint"
)
_HANDLES = words("lipsum cycler joiner url_for get_flashed_messages self")
"""What jinja2 and Flask put into every template, and every exploit begins with. Templates of chats have no use for an attribute of one."""
_OFFERED = words("raise_exception strftime_now namespace range dict caller tojson super")
"""Functions of transformers' environment (``utils/chat_template_utils.py``) and of jinja2's own that do no harm."""
_METHODS = words(
    "get items keys values split rsplit splitlines partition rpartition strip lstrip rstrip startswith endswith removeprefix removesuffix "
    "replace upper lower title capitalize casefold swapcase join format find rfind index rindex count append extend insert pop remove "
    "update copy setdefault clear sort reverse isdigit isalpha isalnum isspace isupper islower isnumeric isdecimal istitle zfill rjust "
    "ljust center encode decode strftime isoformat expandtabs translate next reset"
)
_FILTERS = frozenset(Environment(autoescape=True).filters) - {"attr"} | {
    "from_json",
    "fromjson",
    "strftime",
    "b64encode",
    "to_json",
    "tojson",
}
_BY_ATTRIBUTE = words("map selectattr rejectattr groupby sum sort unique min max select reject")


def escapes(tree: nodes.Template, known: Constants) -> Iterator[Escape]:
    """Everything of the kind in the tree, once each."""
    seen: set[tuple[str, Severity]] = set()
    own = {node.name for node in walk(tree) if isinstance(node, nodes.Macro)}
    own |= {node.name for node in walk(tree) if isinstance(node, nodes.Name) and node.ctx in ("store", "param")}
    for node in walk(tree):
        for what, severity, key in _of(node, known, own):
            if (key, severity) not in seen:
                seen.add((key, severity))
                yield Escape(what, severity, node.lineno or 0, key)


def _of(node: nodes.Node, known: Constants, own: set[str]) -> Iterator[tuple[str, Severity, str]]:
    critical, high, low = Severity.CRITICAL, Severity.HIGH, Severity.LOW
    match node:
        case nodes.Getattr() if node.attr.startswith("_") or node.attr in _INNER:
            yield f"takes the attribute {node.attr}", critical, node.attr
        case nodes.Getattr() | nodes.Getitem() if isinstance(node.node, nodes.Name) and node.node.name in _HANDLES - own:
            yield f"takes a part of {node.node.name}, with which escapes from templates begin", critical, node.node.name
        case nodes.Getitem() if not isinstance(node.arg, nodes.Const):
            yield from _subscript(node.arg, known)
        case nodes.Filter() | nodes.Test() if node.name == "attr":
            names = [name for name in fold(node.args[0] if node.args else None, known) if isinstance(name, str)]
            bad = [name for name in names if name.startswith("_") or name in _INNER]
            yield f"takes an attribute with the filter attr: {bad or names or 'a computed one'}", critical if bad else high, "attr"
        case nodes.Filter() if node.name in _BY_ATTRIBUTE and "attr" in fold(node.args[0] if node.args else None, known):
            yield f"takes attributes with {node.name}('attr')", high, f"{node.name} attr"
        case nodes.Filter() if node.name not in _FILTERS:
            yield f"uses the filter {node.name}, which renderers of chats do not offer", low, f"filter {node.name}"
        case nodes.Call() if isinstance(node.node, nodes.Name) and node.node.name not in own:
            yield from _function(node.node.name)
        case nodes.Call() if isinstance(node.node, nodes.Getattr):
            yield from _call(node.node, known, own)
        case nodes.Import() | nodes.FromImport() | nodes.Include() | nodes.Extends():
            yield f"brings in another template ({type(node).__name__.lower()})", high, type(node).__name__.lower()
        case nodes.Const() if isinstance(node.value, str) and (hit := DUNDER.search(node.value)) and hit[0].endswith("__"):
            yield f"holds the name {hit[0][:80]} as text", critical, hit[0]
    if isinstance(node, nodes.Concat | nodes.Add | nodes.Mod | nodes.Mul | nodes.Filter | nodes.Call | nodes.Getitem):
        for value in fold(node, known):
            if isinstance(value, str) and (hit := DUNDER.search(value)):
                yield f"puts the name {hit[0][:80]} together from pieces", critical, hit[0]
            elif isinstance(value, str) and (value in _INNER or value in ("popen", "import_module", "check_output")):
                yield f"puts the name {value} together from pieces", high, value


def _subscript(argument: nodes.Node, known: Constants) -> Iterator[tuple[str, Severity, str]]:
    values = fold(argument, known)
    for value in values:
        if isinstance(value, str) and (value.startswith("_") or value in _INNER):
            yield f"takes the item {value[:80]}", Severity.CRITICAL, value
    built = isinstance(argument, nodes.Concat | nodes.Mod) or (
        isinstance(argument, nodes.Filter) and argument.name in ("join", "format", "replace", "reverse")
    )
    if built and not values:
        yield "takes an item whose name it puts together while it is rendered", Severity.HIGH, "computed item"


def _function(name: str) -> Iterator[tuple[str, Severity, str]]:
    if name in _RUNS or name in ("__import__", "getattr", "setattr", "globals", "locals", "vars", "type", "input"):
        yield f"calls {name}", Severity.CRITICAL, name
    elif name in _HANDLES - {"cycler", "joiner"} or name.startswith("_"):
        yield f"calls {name}, which no renderer of chats offers", Severity.HIGH, name
    elif name not in _OFFERED:
        yield f"calls {name}, which no renderer of chats offers", Severity.MEDIUM, name


def _call(method: nodes.Getattr, known: Constants, own: set[str]) -> Iterator[tuple[str, Severity, str]]:
    if method.attr in _RUNS:
        yield f"calls the method {method.attr}", Severity.CRITICAL, method.attr
    elif method.attr == "format":
        forms = [form for form in fold(method.node, known) if isinstance(form, str)]
        if any(re.search(r"\{[^{}]*[.\[][^{}]*\}", form) for form in forms):
            yield "formats text with fields that take attributes or items", Severity.CRITICAL, "format field"
        elif not forms:
            yield "formats text that it computes, and a format may take attributes", Severity.MEDIUM, "format"
    elif method.attr not in _METHODS and not method.attr.startswith("_"):
        yield f"calls the method {method.attr}, which text, lists and mappings do not have", Severity.MEDIUM, method.attr
