"""Python source as text, and the tree of it."""

from __future__ import annotations

import ast
import io
import re
import tokenize
import warnings
from collections.abc import Iterator

from modelguard_serialization import limits
from modelguard_serialization._words import words

HIDING = words("utf-7 utf-16 utf-16-le utf-16-be utf-32 unicode_escape unicode-escape raw_unicode_escape raw-unicode-escape punycode")
"""Encodings of Python in which code reads as something else."""
_ENCODINGS = words(
    "utf-8 utf-8-sig ascii us-ascii latin-1 iso-8859-1 iso-8859-15 cp1252 cp1251 gbk gb2312 gb18030 big5 euc-jp shift_jis euc-kr"
)


class NotParsedError(ValueError):
    """No Python; the text says why."""


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


_BARE = (ast.expr_context, ast.operator, ast.unaryop, ast.boolop, ast.cmpop)


def below(node: ast.AST) -> Iterator[ast.AST]:
    """The nodes right below one, without those that only say how."""
    for name in node._fields:
        value = getattr(node, name, None)
        if isinstance(value, list):
            for item in value:
                if isinstance(item, ast.AST) and not isinstance(item, _BARE):
                    yield item
        elif isinstance(value, ast.AST) and not isinstance(value, _BARE):
            yield value


def walk(node: ast.AST) -> Iterator[ast.AST]:
    """A node and all below it, in the order they are written."""
    stack = [node]
    while stack:
        current = stack.pop()
        yield current
        stack.extend(reversed(list(below(current))))
