"""What each opcode does to a machine. The loop that runs them is in ``run.py``."""

from __future__ import annotations

import codecs
from collections.abc import Callable
from struct import Struct
from typing import Any, cast

from modelguard_serialization import limits
from modelguard_serialization._pickle.machine import BrokenError, Machine
from modelguard_serialization._pickle.values import Call, Dict, Global, Persistent, SetOf, Unknown, Value

I4, _U2, U4, _U8, F8 = (Struct(code) for code in ("<i", "<H", "<I", "<Q", ">d"))

Handler = Callable[[Machine], None]
HANDLERS: list[Handler | None] = [None] * 256


def _on(code: bytes) -> Callable[[Handler], Handler]:
    def register(handler: Handler) -> Handler:
        HANDLERS[code[0]] = handler
        return handler

    return register


def _constant(code: bytes, value: Value) -> None:
    HANDLERS[code[0]] = lambda m: m.stack.append(value)


_constant(b"N", None)
_constant(b"\x88", True)
_constant(b"\x89", False)
_constant(b")", ())
HANDLERS[ord("]")] = lambda m: m.stack.append([])
HANDLERS[ord("}")] = lambda m: m.stack.append(Dict([]))
HANDLERS[0x8F] = lambda m: m.stack.append(SetOf([]))


def _packed(code: bytes, struct: Struct) -> None:
    def push(m: Machine) -> None:
        m.stack.append(struct.unpack(m.take(struct.size))[0])

    HANDLERS[code[0]] = push


_packed(b"J", I4)
_packed(b"M", _U2)
_packed(b"G", F8)


def _sized(code: bytes, width: int, push: Callable[[Machine, int], None]) -> None:
    """An opcode whose argument begins with its length in ``width`` bytes. A length that unpicklers take for negative is past any end."""
    HANDLERS[code[0]] = lambda m: push(m, int.from_bytes(m.take(width), "little"))


def _utf8(m: Machine, size: int) -> None:
    m.text(m.take(size), "utf-8", "surrogatepass")


def _old_string(m: Machine, size: int) -> None:
    # Which encoding is up to the loader. A name in ASCII is the same in all of them.
    m.text(m.take(size), "latin-1")


def _long(m: Machine, size: int) -> None:
    raw = m.take(size)
    m.stack.append(int.from_bytes(raw, "little", signed=True) if size <= 1024 else Unknown("a number of more than 1024 bytes"))


for _code, _width, _push in (
    (b"\x8c", 1, _utf8), (b"X", 4, _utf8), (b"\x8d", 8, _utf8),
    (b"U", 1, _old_string), (b"T", 4, _old_string),
    (b"C", 1, Machine.bytes_), (b"B", 4, Machine.bytes_), (b"\x8e", 8, Machine.bytes_), (b"\x96", 8, Machine.bytes_),
    (b"\x8a", 1, _long), (b"\x8b", 4, _long),
):  # fmt: skip
    _sized(_code, _width, _push)


def _number(line: bytes, base: int, at: int, m: Machine) -> Value:
    # strtol, which the C unpickler tries first, takes octal with a bare zero and ignores leading white space; int(_, 0) does the rest.
    try:
        return int(line, base)
    except ValueError:
        pass
    try:
        return int(line, 8)
    except ValueError:
        m.watch.odd("a number that Python cannot read", at)
        return Unknown("a number that Python cannot read")


@_on(b"I")
def _int(m: Machine) -> None:
    at = m.at
    line = m.line()
    m.stack.append(line == b"01" if line in (b"00", b"01") else _number(line, 0, at, m))


@_on(b"L")
def _long_text(m: Machine) -> None:
    at = m.at
    m.stack.append(_number(m.line().removesuffix(b"L"), 0, at, m))


@_on(b"F")
def _float(m: Machine) -> None:
    at = m.at
    try:
        m.stack.append(float(m.line()))
    except ValueError:
        m.watch.odd("a number that Python cannot read", at)
        m.stack.append(Unknown("a number that Python cannot read"))


@_on(b"S")
def _string(m: Machine) -> None:
    at = m.at
    line = m.line()
    body = line.strip()
    if len(body) >= 2 and body[0] == body[-1] and body[:1] in (b"'", b'"'):
        body = body[1:-1]
    else:
        m.watch.odd("a quoted string without its quotes", at)
    try:
        m.text(cast(Any, codecs).escape_decode(body)[0], "latin-1")
    except ValueError:
        m.watch.odd("a quoted string with escapes that Python cannot read", at)
        m.stack.append(Unknown("a quoted string with escapes that Python cannot read"))


@_on(b"V")
def _unicode(m: Machine) -> None:
    m.text(m.line(), "raw-unicode-escape")


@_on(b"\x80")
def _proto(m: Machine) -> None:
    m.proto = m.take(1)[0]
    if m.proto > 5:
        m.watch.odd(f"protocol {m.proto}, which does not exist", m.at)
    elif m.at != m.start + 2:
        m.watch.odd("a second PROTO, which changes the meaning of names", m.at)


@_on(b"\x95")
def _frame(m: Machine) -> None:
    at = m.at
    size = _U8.unpack(m.take(8))[0]
    if at - 1 < m.frame_end:
        m.watch.odd("a frame that begins inside another", at)
    m.frame_end = m.at + size
    if m.frame_end > len(m.data):
        m.watch.odd("a frame longer than the file", at)
        m.frame_end = 0


@_on(b"(")
def _mark(m: Machine) -> None:
    m.metastack.append(m.stack)
    m.stack = []
    if len(m.metastack) > limits.PICKLE_MARKS:
        raise BrokenError("it is past the limit on marks", limit=True)


@_on(b"0")
def _pop(m: Machine) -> None:
    if m.stack:
        m.stack.pop()
    else:
        m.pop_mark()


@_on(b"1")
def _pop_mark(m: Machine) -> None:
    m.pop_mark()


@_on(b"2")
def _dup(m: Machine) -> None:
    m.stack.append(m.stack[-1])


def _get(m: Machine, index: int) -> None:
    m.stack.append(m.memo[index])


def _put(m: Machine, index: int) -> None:
    value = m.stack[-1]
    if index > limits.PICKLE_MEMO and index > 16 * len(m.memo):
        m.watch.odd(f"a memo index of {index}, for which the unpickler makes room", m.at)
    if isinstance(m.memo.get(index), Global | Call) and m.memo[index] is not value:
        m.watch.odd("a memo entry that is overwritten", m.at)
    m.memo[index] = value


HANDLERS[ord("j")] = lambda m: _get(m, U4.unpack(m.take(4))[0])
HANDLERS[ord("q")] = lambda m: _put(m, m.take(1)[0])
HANDLERS[ord("r")] = lambda m: _put(m, U4.unpack(m.take(4))[0])
HANDLERS[0x94] = lambda m: _put(m, len(m.memo))


@_on(b"g")
def _get_text(m: Machine) -> None:
    try:
        index = int(m.line())
    except ValueError:
        raise BrokenError("it takes from its memo by what is no number") from None
    _get(m, index)


@_on(b"p")
def _put_text(m: Machine) -> None:
    try:
        index = int(m.line())
    except ValueError:
        raise BrokenError("it puts into its memo by what is no number") from None
    _put(m, index)


@_on(b"t")
def _tuple(m: Machine) -> None:
    items = m.pop_mark()
    m.keep(len(items))
    m.stack.append(tuple(items))


@_on(b"\x85")
def _tuple1(m: Machine) -> None:
    m.stack[-1] = (m.stack[-1],)


@_on(b"\x86")
def _tuple2(m: Machine) -> None:
    second = m.stack.pop()
    m.stack[-1] = (m.stack[-1], second)


@_on(b"\x87")
def _tuple3(m: Machine) -> None:
    third, second = m.stack.pop(), m.stack.pop()
    m.stack[-1] = (m.stack[-1], second, third)


@_on(b"l")
def _list(m: Machine) -> None:
    items = m.pop_mark()
    m.keep(len(items))
    m.stack.append(items)


@_on(b"d")
def _dict(m: Machine) -> None:
    pairs = m.pop_mark()
    m.keep(len(pairs))
    m.stack.append(Dict(pairs))


@_on(b"\x91")
def _frozenset(m: Machine) -> None:
    items = m.pop_mark()
    m.keep(len(items))
    m.stack.append(SetOf(items))


def _add(m: Machine, items: list[Value], what: str) -> None:
    target = m.stack[-1]
    kind = type(target)
    m.keep(len(items))
    if kind is list and what == "append":
        target.extend(items)
    elif kind is Dict and what == "setitem":
        target.pairs.extend(items)
    elif kind is SetOf and what == "add":
        target.items.extend(items)
    else:
        if kind is Call:
            if what == "setitem":
                target.pairs = target.pairs if target.pairs is not None else []
                target.pairs.extend(items)
            else:
                target.items = target.items if target.items is not None else []
                target.items.extend(items)
        m.watch.changed(target, what, m.at - 1)


@_on(b"a")
def _append(m: Machine) -> None:
    value = m.stack.pop()
    _add(m, [value], "append")


@_on(b"s")
def _setitem(m: Machine) -> None:
    value, key = m.stack.pop(), m.stack.pop()
    _add(m, [key, value], "setitem")


HANDLERS[ord("e")] = lambda m: _add(m, m.pop_mark(), "append")
HANDLERS[ord("u")] = lambda m: _add(m, m.pop_mark(), "setitem")
HANDLERS[0x90] = lambda m: _add(m, m.pop_mark(), "add")


def _names(m: Machine) -> tuple[str, str]:
    # Bytes that are no UTF-8 are no name that any list knows, and stay visible.
    return m.line().decode("utf-8", "backslashreplace"), m.line().decode("utf-8", "backslashreplace")


@_on(b"c")
def _global(m: Machine) -> None:
    at = m.at - 1
    m.find(*_names(m), at)


@_on(b"\x93")
def _stack_global(m: Machine) -> None:
    at = m.at - 1
    name, module = m.stack.pop(), m.stack.pop()
    if type(name) is str and type(module) is str:
        m.find(module, name, at)
    else:
        m.stack.append(Unknown("a name that is computed"))
        m.watch.odd("a name that is computed while loading", at)


@_on(b"i")
def _inst(m: Machine) -> None:
    at = m.at - 1
    m.find(*_names(m), at)
    callee = m.stack.pop()
    args = m.pop_mark()
    m.call("INST", callee, tuple(args), None, at)


@_on(b"o")
def _obj(m: Machine) -> None:
    args = m.pop_mark()
    callee = args.pop(0)
    m.call("OBJ", callee, tuple(args), None, m.at - 1)


@_on(b"R")
def _reduce(m: Machine) -> None:
    args, callee = m.stack.pop(), m.stack.pop()
    m.call("REDUCE", callee, args, None, m.at - 1)


@_on(b"\x81")
def _newobj(m: Machine) -> None:
    args, callee = m.stack.pop(), m.stack.pop()
    m.call("NEWOBJ", callee, args, None, m.at - 1)


@_on(b"\x92")
def _newobj_ex(m: Machine) -> None:
    kwargs, args, callee = m.stack.pop(), m.stack.pop(), m.stack.pop()
    m.call("NEWOBJ_EX", callee, args, kwargs, m.at - 1)


@_on(b"b")
def _build(m: Machine) -> None:
    state = m.stack.pop()
    target = m.stack[-1]
    if type(target) is Call:
        target.state = state
    m.watch.built(target, state, m.at - 1)
    if m.after_build is not None:
        m.after_build(m, target, state)


def _extension(m: Machine, width: int) -> None:
    code = int.from_bytes(m.take(width), "little")
    m.watch.odd(f"the extension code {code}, which stands for a name only the loading program knows", m.at - 1 - width)
    m.stack.append(Unknown("an extension code"))


HANDLERS[0x82] = lambda m: _extension(m, 1)
HANDLERS[0x83] = lambda m: _extension(m, 2)
HANDLERS[0x84] = lambda m: _extension(m, 4)


@_on(b"P")
def _persid(m: Machine) -> None:
    at = m.at - 1
    _persistent(m, m.line().decode("ascii", "backslashreplace"), at)


@_on(b"Q")
def _binpersid(m: Machine) -> None:
    _persistent(m, m.stack.pop(), m.at - 1)


def _persistent(m: Machine, pid: Value, at: int) -> None:
    # torch: ("storage", storage class, key, location, size); in legacy files also ("module", class, file, source) for the class.
    if type(pid) is tuple and len(pid) > 1 and type(pid[0]) is str and pid[0] == "module" and type(pid[1]) is Global:
        m.stack.append(pid[1])
        return
    if not (type(pid) is tuple and pid and type(pid[0]) is str and pid[0] == "storage"):
        m.watch.odd("a persistent id, which only the loading program knows how to load", at)
    found = Persistent(pid, at)
    m.persistents.append(found)
    m.stack.append(found)


@_on(b"\x97")
def _next_buffer(m: Machine) -> None:
    m.watch.odd("a buffer that is handed over beside the pickle", m.at - 1)
    m.stack.append(Unknown("a buffer that is handed over beside the pickle"))


@_on(b"\x98")
def _readonly_buffer(m: Machine) -> None:
    m.stack[-1]  # underflow is an error here too
