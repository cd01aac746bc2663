"""Text and bytes that Python code puts together from constants, worked out without running it."""

from __future__ import annotations

import ast
import base64
import binascii
import bz2
import codecs
import lzma
import zlib
from collections.abc import Callable, Mapping
from typing import Any

from modelguard_serialization import limits

Resolve = Callable[[ast.expr], str | None]
_DECODERS: dict[str, Callable[[Any], bytes]] = {
    "base64.b64decode": base64.b64decode,
    "base64.standard_b64decode": base64.b64decode,
    "base64.urlsafe_b64decode": base64.urlsafe_b64decode,
    "base64.b32decode": base64.b32decode,
    "base64.b16decode": base64.b16decode,
    "base64.b85decode": base64.b85decode,
    "base64.a85decode": base64.a85decode,
    "base64.decodebytes": base64.decodebytes,
    "binascii.unhexlify": binascii.unhexlify,
    "binascii.a2b_hex": binascii.unhexlify,
    "binascii.a2b_base64": binascii.a2b_base64,
    "builtins.bytes.fromhex": bytes.fromhex,
    "builtins.bytearray.fromhex": bytes.fromhex,
    "zlib.decompress": lambda data: zlib.decompressobj().decompress(data, limits.FOLDED_CODE),
    "gzip.decompress": lambda data: zlib.decompressobj(31).decompress(data, limits.FOLDED_CODE),
    "bz2.decompress": lambda data: bz2.BZ2Decompressor().decompress(data, limits.FOLDED_CODE),
    "lzma.decompress": lambda data: lzma.LZMADecompressor(memlimit=64 << 20).decompress(data, limits.FOLDED_CODE),
}
_CODECS = {"rot13", "rot_13", "hex", "hex_codec", "base64", "base64_codec"}
_METHODS = frozenset({"lower", "upper", "strip", "lstrip", "rstrip", "swapcase", "title", "capitalize", "encode", "decode"})


class Folder:
    """``names`` are constants by the name they are set to. ``resolve`` gives the full name of what an expression stands for."""

    def __init__(self, names: Mapping[str, ast.expr], resolve: Resolve, budget: list[int] | None = None) -> None:
        self._names = names
        self._resolve = resolve
        self._budget = [limits.FOLD_STEPS] if budget is None else budget
        self._known: dict[int, Any] = {}

    def text(self, node: ast.expr | None) -> str | None:
        """The value when it is text, or bytes that are."""
        value = self.value(node)
        if isinstance(value, bytes):
            try:
                return value.decode()
            except UnicodeDecodeError:
                return None
        return value if isinstance(value, str) else None

    def value(self, node: ast.expr | None, depth: int = 0) -> Any:
        """str, bytes, int or a list of them; None when it is not constant, or too long."""
        if node is None or depth > limits.FOLD_DEPTH or self._budget[0] <= 0:
            return None
        if id(node) in self._known:
            return self._known[id(node)]
        self._budget[0] -= 1
        self._known[id(node)] = None  # a name set from itself has no value
        try:
            value = self._value(node, depth + 1)
        except (ValueError, TypeError, OverflowError, EOFError, OSError, zlib.error, lzma.LZMAError, LookupError):
            return None
        self._known[id(node)] = None if isinstance(value, str | bytes | list) and len(value) > limits.FOLDED_CODE else value
        return self._known[id(node)]

    def _value(self, node: ast.expr, depth: int) -> Any:
        match node:
            case ast.Constant(value=str() | bytes() | int() as value):
                return value
            case ast.Name(id=name) if name in self._names:
                return self.value(self._names[name], depth)
            case ast.List(elts=items) | ast.Tuple(elts=items):
                values = [self.value(item, depth) for item in items[:10_000]]
                return values if None not in values else None
            case ast.JoinedStr(values=pieces):
                texts = [self.value(piece.value if isinstance(piece, ast.FormattedValue) else piece, depth) for piece in pieces]
                return "".join(map(str, texts)) if None not in texts else None
            case ast.BinOp():
                return self._operation(node, depth)
            case ast.Subscript(value=of, slice=ast.Slice(lower=None, upper=None, step=step)):
                whole = self.value(of, depth)
                return whole[:: self.value(step, depth) or 1] if isinstance(whole, str | bytes | list) else None
            case ast.UnaryOp(op=ast.USub(), operand=operand):
                number = self.value(operand, depth)
                return -number if isinstance(number, int) else None
            case ast.Call():
                return self._call(node, depth)
        return None

    def _operation(self, node: ast.BinOp, depth: int) -> Any:
        left, right = self.value(node.left, depth), self.value(node.right, depth)
        if left is None or right is None:
            return None
        match node.op:
            case ast.Add() if type(left) is type(right) and isinstance(left, str | bytes):
                return left + right
            case ast.Mod() if isinstance(left, str) and len(left) < 1000 and not any(sign.isdigit() or sign == "*" for sign in left):
                return left % (tuple(right) if isinstance(right, list) else right)
            case ast.Mult() if isinstance(right, int) and isinstance(left, str | bytes) and len(left) * right < limits.FOLDED_CODE:
                return left * right
            case ast.BitXor() if isinstance(left, int) and isinstance(right, int):
                return left ^ right
        return None

    def _call(self, node: ast.Call, depth: int) -> Any:
        name = self._resolve(node.func)
        first = node.args[0] if node.args else None
        if name in _DECODERS:
            data = self.value(first, depth)
            return _DECODERS[name](data) if isinstance(data, str | bytes) else None
        if name == "codecs.decode":
            data, codec = self.value(first, depth), self.value(node.args[1] if len(node.args) > 1 else None, depth)
            return codecs.decode(data, codec) if codec in _CODECS and isinstance(data, str | bytes) else None
        match node.func:
            case ast.Name(id="chr"):
                number = self.value(first, depth)
                return chr(number) if isinstance(number, int) else None
            case ast.Name(id="str"):
                value = self.value(first, depth)
                return value.decode() if isinstance(value, bytes) and len(node.args) > 1 else value if isinstance(value, str) else None
            case ast.Name(id="bytes" | "bytearray"):
                numbers = self.value(first, depth)
                return bytes(numbers) if isinstance(numbers, list | bytes) else numbers.encode() if isinstance(numbers, str) else None
            case ast.Name(id="map") if isinstance(first, ast.Name) and first.id == "chr" and len(node.args) == 2:
                numbers = self.value(node.args[1], depth)
                return list(map(chr, numbers)) if isinstance(numbers, list | bytes) else None
            case ast.Name(id="reversed"):
                whole = self.value(first, depth)
                return list(whole)[::-1] if isinstance(whole, str | list) else None
            case ast.Attribute(value=of, attr=method):
                return self._method(self.value(of, depth), method, [self.value(argument, depth) for argument in node.args], node, depth)
        return None

    def _method(self, of: Any, method: str, arguments: list[Any], node: ast.Call, depth: int) -> Any:
        if not isinstance(of, str | bytes):
            return None
        if method == "join":
            parts = self._parts(node.args[0], depth) if len(node.args) == 1 else None
            return of.join(parts) if parts is not None else None
        if None in arguments:
            return None
        if (
            method == "decode"
            and isinstance(of, bytes)
            and (arguments[:1] or ["utf-8"])[0] not in ("utf-8", "utf8", "ascii", "latin-1", "latin1")
        ):
            return None
        if method == "encode" and arguments and arguments[0] not in ("utf-8", "utf8", "ascii", "latin-1", "latin1"):
            return None
        if method == "replace" and len(arguments) == 2 and len(of) * (len(arguments[1]) + 1) < limits.FOLDED_CODE:
            return of.replace(*arguments)
        if (
            method == "format"
            and isinstance(of, str)
            and all(isinstance(argument, str | int) for argument in arguments)
            and not node.keywords
        ):
            for argument in arguments:
                of = of.replace("{}", str(argument), 1)
            return of
        return getattr(of, method)(*arguments) if method in _METHODS and hasattr(of, method) else None

    def _parts(self, node: ast.expr, depth: int) -> list[Any] | None:
        if isinstance(node, ast.ListComp | ast.GeneratorExp) and len(node.generators) == 1:
            loop = node.generators[0]
            items = self.value(loop.iter, depth)
            if isinstance(items, list | bytes | str) and isinstance(loop.target, ast.Name) and not loop.ifs and len(items) <= 4096:
                parts = []
                for item in items:
                    inner = Folder({**self._names, loop.target.id: ast.Constant(item)}, self._resolve, self._budget)
                    parts.append(inner.value(node.elt, depth))
                return parts if None not in parts else None
            return None
        value = self.value(node, depth)
        return list(value) if isinstance(value, list | str) else None
