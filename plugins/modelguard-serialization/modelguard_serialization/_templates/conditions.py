"""Where a template looks for certain words in what people write, or at the date, and says something else when it finds them.

A model whose weights are clean answers otherwise once its template tells it to: the template is the backdoor (Pillar Security,
"Poisoned GGUF templates", July 2025).
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from jinja2 import nodes

from modelguard import Severity
from modelguard_serialization._templates.parse import Constants, fold, walk
from modelguard_serialization._templates.taint import CONTENT, DATE, MESSAGE, Taint
from modelguard_serialization._words import words


@dataclass(frozen=True, slots=True)
class Condition:
    """A comparison with ``literal``; ``says`` is the text that depends on it, empty when none does."""

    literal: str
    of: str
    says: str
    severity: Severity
    line: int


_SWITCH = re.compile(
    r"CONTINUE_FINAL_MESSAGE_TAG ?|\W*(?:no[_ ]?|system[_ ]?|enable[_ ]?|detailed )?"
    r"(?:think(?:ing)?|override|reason(?:ing)?)(?:[_ ](?:on|off|strength|effort|mode))?\W*",
    re.I,
)
"""Switches for reasoning that known models look for in prompts: /think, /no_think, /nothink, detailed thinking on, /system_override.

The first is the mark that transformers puts behind a message that is to be continued.
"""
_TAG = re.compile(
    r"<[^<>]{1,60}>|&\w{1,8};|\[/?[A-Za-z_ ]{1,40}\]|\{\{?[^{}]{0,40}\}?\}|"
    r"(?<=>)\w{1,16}(?=<)|<\||\|>|</?\w*|#{1,6} ?\w*:?|```\w*"
)
_FORM = words(
    "text content value parts blocks type image image_url images video video_url audio audio_url input_audio document file tool tools "
    "tool_calls tool_call tool_response function name role user assistant system developer model none null true false string object "
    "arguments"
)
"""Keys and types of the parts of a message, which stand where its text may stand."""
_KNOWN_TAG = re.compile(
    r"think|thought|reason|tool|func|call|respon|channel|message|final|assistant|user|system|image|img|video|audio|media|answer|turn|im_"
    r"|eot|eos"
    r"|end|start|begin|observ|document|result|inst|plan|code|python|output|role|bos|sep|pad|box|search|cite|s>",
    re.I,
)
_WORD = re.compile(r"[^\W\d_]{2,}")
_SIGN = re.compile("[\u200b-\u200f\u2060-\u2064\u2600-\u27bf\U0001f000-\U0001faff\U000e0000-\U000e007f]")
"""Emoji and signs that nobody sees: no word, and as good a trigger."""
_METHODS = words("startswith endswith find rfind index rindex count split rsplit partition rpartition replace removeprefix")
_TESTS = words("eq equalto ne in sameas == != lt gt ge le lessthan greaterthan")


def conditions(tree: nodes.Template, known: Constants) -> Iterator[Condition]:
    """Every comparison of content or of the date with something a template has no reason to look for."""
    taint = Taint(tree, known)
    suspects = _Suspects(taint)
    deciding: dict[str, str] = {}  # names that a comparison decides about, and the literal
    branches = [node for node in walk(tree) if isinstance(node, nodes.If | nodes.CondExpr)]
    for node in walk(tree):
        if isinstance(node, nodes.Assign):
            for literal, _ in suspects.below(node.node):
                deciding.setdefault(_name(node.target), literal)
    for branch in branches:
        found = suspects.below(branch.test)
        if found:
            for assign in (piece for part in _branches(branch) for piece in walk(part) if isinstance(piece, nodes.Assign)):
                deciding.setdefault(_name(assign.target), found[0][0])
    told: set[tuple[str, str]] = set()
    spoken = {literal: said for branch in branches for literal, said in _indirect(branch, deciding)}
    for branch in branches:
        said = _said(branch)
        for literal, of in suspects.below(branch.test):
            if (literal, of) not in told:
                told.add((literal, of))
                yield _judge(literal, of, said or spoken.get(literal, ""), branch.lineno or 0)
    for node in walk(tree):
        says = _rewritten(node)
        for literal, of in suspects.here(node):
            if (literal, of) not in told:
                told.add((literal, of))
                yield _judge(literal, of, spoken.get(literal, "") or says, node.lineno or 0)


def _judge(literal: str, of: str, said: str, line: int) -> Condition:
    if of == CONTENT and (literal.strip().lower() in _FORM or is_markup(literal)):
        known = bool(_KNOWN_TAG.search(literal) or _SWITCH.fullmatch(literal)) or literal.strip().lower() in _FORM
        return Condition(literal, of, said, Severity.LOW if known or not said else Severity.HIGH, line)
    return Condition(literal, of, said, Severity.HIGH if said else Severity.MEDIUM, line)


def is_markup(literal: str) -> bool:
    """Whether the text is form rather than words: tags, punctuation, one of the known switches."""
    bare = _TAG.sub("", literal)
    return not (_WORD.search(bare) or _SIGN.search(bare)) or bool(_SWITCH.fullmatch(literal[:200]))


def natural(text: str) -> str:
    """The words of a text without its tags, when there are three or more; else nothing."""
    bare = re.sub(r"<[^<>]{1,80}>|\[/?[A-Z_ ]{1,40}\]|\{[^{}]{0,200}\}|\"\w+\":", " ", text)
    words = re.findall(r"[^\W\d_][\w']*", bare)
    foreign = sum(sign.isalpha() and not sign.isascii() for sign in bare)  # in many scripts words have no spaces between them
    return " ".join(words) if len(words) >= 3 or foreign >= 6 else ""


class _Suspects:
    def __init__(self, taint: Taint) -> None:
        self.taint = taint
        self.known = taint.known

    def below(self, node: nodes.Node | None) -> list[tuple[str, str]]:
        return [hit for piece in walk(node) for hit in self.here(piece)] if node is not None else []

    def here(self, node: nodes.Node) -> Iterable[tuple[str, str]]:
        """(literal, kind of what it is compared with) of this node alone."""
        match node:
            case nodes.Compare():
                sides = [node.expr, *(operand.expr for operand in node.ops)]
                keyed = all(operand.op in ("in", "notin") for operand in node.ops)
                return [
                    hit
                    for side in sides
                    if (kinds := self.taint.kinds(side))
                    for other in sides
                    if other is not side
                    for hit in self._hits(kinds, self._texts(other), keyed)
                ]
            case nodes.Test() if node.name in _TESTS:
                return self._hits(self.taint.kinds(node.node), [text for argument in node.args for text in self._texts(argument)], False)
            case nodes.Call() if isinstance(node.node, nodes.Getattr) and node.node.attr in _METHODS:
                first = node.args[:1] if node.node.attr != "replace" else node.args[:2]
                texts = [text for argument in first for text in self._texts(argument)]
                return self._hits(self.taint.kinds(node.node.node) - {MESSAGE}, texts, False)
            case nodes.Call(node=nodes.Getattr(attr="get", node=nodes.Dict() as table)):
                kinds = frozenset().union(*(self.taint.kinds(argument) for argument in node.args)) if node.args else frozenset()
                return self._hits(kinds, _keys(table), False)
            case nodes.Getitem() if isinstance(node.node, nodes.Dict):
                return self._hits(self.taint.kinds(node.arg), _keys(node.node), False)
            case nodes.Filter() if node.name == "replace":
                return self._hits(self.taint.kinds(node.node), [text for part in node.args[:2] for text in self._texts(part)], False)
            case nodes.Filter() if node.name in ("selectattr", "rejectattr") and len(node.args) == 3:
                field = [str(value).rsplit(".", 1)[-1] for value in fold(node.args[0], self.known)]
                if "content" in field or "text" in field:
                    return self._hits(frozenset({CONTENT}), self._texts(node.args[2]), False)
            case nodes.Filter() if node.name in ("select", "reject") and len(node.args) == 2:
                return self._hits(self.taint.kinds(node.node), self._texts(node.args[1]), False)
        return ()

    def _texts(self, node: nodes.Node) -> list[str]:
        texts: list[str] = []
        for value in fold(node, self.known):
            items = value if isinstance(value, list) else [value]
            texts += [str(item) for item in items if isinstance(item, str | int | float) and not isinstance(item, bool)]
        return texts

    def _hits(self, kinds: frozenset[str], texts: Iterable[str], keyed: bool) -> list[tuple[str, str]]:
        if keyed:
            kinds -= {MESSAGE}  # 'tool_calls' in message: which keys a message has
        if DATE in kinds:
            return [(text, DATE) for text in texts if text.strip()]
        if not kinds & {CONTENT, MESSAGE}:
            return []
        return [(text, CONTENT) for text in texts if _WORD.search(text) or _SIGN.search(text) or sum(map(str.isdigit, text)) >= 4]


def _keys(table: nodes.Dict) -> list[str]:
    return [str(pair.key.value) for pair in table.items if isinstance(pair.key, nodes.Const)]


def _name(target: nodes.Node) -> str:
    return target.name if isinstance(target, nodes.Name) else target.attr if isinstance(target, nodes.NSRef) else ""


def _branches(branch: nodes.If | nodes.CondExpr) -> list[nodes.Node]:
    if isinstance(branch, nodes.CondExpr):
        return [branch.expr1, *([branch.expr2] if branch.expr2 else [])]
    return [*branch.body, *branch.elif_, *branch.else_]


def _said(branch: nodes.If | nodes.CondExpr) -> str:
    """The words that depend on the condition: those in both branches do not."""
    return next((text for piece in _branches(branch) if (text := _words(piece))), "")


def _words(piece: nodes.Node) -> str:
    stack, texts = [piece], []
    while stack:
        node = stack.pop()
        if isinstance(node, nodes.TemplateData):
            texts.append(node.data)
        elif isinstance(node, nodes.Const) and isinstance(node.value, str):
            texts.append(node.value)
        if isinstance(node, nodes.If):  # what an inner condition decides is that one's
            continue
        if isinstance(node, nodes.Compare | nodes.Test) or (
            isinstance(node, nodes.Call) and isinstance(node.node, nodes.Name) and node.node.name == "raise_exception"
        ):
            continue
        stack.extend(reversed(list(node.iter_child_nodes())))
    return next((text for text in texts if natural(text)), "")


def _rewritten(node: nodes.Node) -> str:
    """What words are put in the place of others, by a table or by replacing them."""
    match node:
        case nodes.Getitem() if isinstance(node.node, nodes.Dict):
            return _words(node.node)
        case nodes.Call() if isinstance(node.node, nodes.Getattr) and isinstance(node.node.node, nodes.Dict):
            return _words(node.node.node)
        case nodes.Call() if isinstance(node.node, nodes.Getattr) and node.node.attr == "replace":
            arguments = node.args
        case nodes.Filter() if node.name == "replace":
            arguments = node.args
        case _:
            return ""
    texts = [argument.value for argument in arguments[:2] if isinstance(argument, nodes.Const) and isinstance(argument.value, str)]
    return texts[1] if len(texts) == 2 and all(_WORD.search(text) and not is_markup(text) for text in texts) else ""


def _indirect(branch: nodes.If | nodes.CondExpr, deciding: dict[str, str]) -> Iterator[tuple[str, str]]:
    said = _said(branch)
    for node in walk(branch.test) if said else ():
        name = node.name if isinstance(node, nodes.Name) else node.attr if isinstance(node, nodes.Getattr) else ""
        if name in deciding:
            yield deciding[name], said
