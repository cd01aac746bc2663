"""The opcodes that the machine runs without a handler do what their handlers do, on whatever bytes."""

from __future__ import annotations

import collections
import datetime
import pickle

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from modelguard_serialization._pickle.machine import BrokenError, Machine, Watch
from modelguard_serialization._pickle.opcodes import HANDLERS
from modelguard_serialization._pickle.run import run
from modelguard_serialization._pickle.values import Call, Dict, Global, Persistent, SetOf, Unknown, Value

VALUE = {
    "x": [1, 2.5, "s", b"bytes" * 3, None, True, "é", 300, 70_000, -1, 2**70, "long" * 20, (), (1,), (1, 2), (1, 2, 3), (1, 2, 3, 4)],
    "d": collections.OrderedDict(a=(1, 2)),
    "t": datetime.date(2020, 1, 2),
    "s": {1, 2},
    "many": {f"key{number}": number for number in range(300)},
}
PICKLES = (
    *(pickle.dumps(VALUE, protocol) for protocol in range(6)),
    b"cos\nsystem\n(S'true'\ntR.",
    b"\x80\x02(lp0\nI1\naI2\na(dp1\nS'a'\nI1\nsb.",
    b"\x80\x04\x8c\x03\xed\xa0\x80\x94.",
    b"\x80\x02X\x03\0\0\0\xed\xa0\x80q\0.",
)
OPCODES = st.sampled_from(
    [bytes([code]) for code in b"\x94\x8c\x86\x85\x87\x81\x88\x89hqru}eatK(NR)XJG.]ljMb02spdoi\x90\x91\x92\x93\x95\x80"]
)


class Heard(Watch):
    def __init__(self) -> None:
        self.events: list[object] = []

    def imported(self, name: Global) -> None:
        self.events.append(shown(name))

    def called(self, call: Call) -> None:
        self.events.append(shown(call))

    def built(self, target: Value, state: Value, at: int) -> None:
        self.events.append(("built", shown(target), shown(state), at))

    def changed(self, target: Value, what: str, at: int) -> None:
        self.events.append((what, shown(target), at))

    def odd(self, what: str, at: int) -> None:
        self.events.append((what, at))

    def literal(self, data: memoryview | str, at: int) -> None:
        self.events.append((shown(data), at))


def shown(value: Value, depth: int = 5) -> object:
    """Plain values that say everything of ``value`` as far down as ``depth``."""
    if depth == 0:
        return "..."
    if isinstance(value, (list, tuple)):
        return type(value).__name__, [shown(item, depth - 1) for item in value]
    if isinstance(value, memoryview):
        return bytes(value)
    if isinstance(value, (Call, Dict, Global, Persistent, SetOf, Unknown)):
        return type(value).__name__, [shown(getattr(value, name), depth - 1) for name in type(value).__slots__]
    return repr(value)


def by_handlers(m: Machine) -> Value:
    """What ``run`` does, one handler after another. Three opcodes have none."""
    plain = {
        0x4B: lambda: m.stack.append(m.take(1)[0]),
        0x68: lambda: m.stack.append(m.memo[m.take(1)[0]]),
    }
    while True:
        begin = m.at
        try:
            code = m.data[begin]
            if code == 0x2E:
                value = m.stack.pop()
                m.at = begin + 1
                return value
            m.at = begin + 1
            if code in plain:
                plain[code]()
            elif (handler := HANDLERS[code]) is not None:
                handler(m)
            else:
                raise BrokenError("no opcode")
        except (IndexError, KeyError):
            m.at = begin
            raise BrokenError("underflow") from None


def outcome(data: memoryview, how: object) -> tuple[object, ...]:
    heard = Heard()
    machine = Machine(data, 0, heard, lambda: None)
    try:
        value = shown(run(machine) if how is run else by_handlers(machine))
    except BrokenError as error:
        # Where an argument is cut off, the place is the opcode's or the argument's.
        value = ("broken", error.limit)
        return value, heard.events
    return value, heard.events, machine.at, machine.kept, len(machine.memo)


def check(data: bytes) -> None:
    whole = outcome(memoryview(data), run)
    assert whole == outcome(memoryview(data), by_handlers)
    assert whole == outcome(memoryview(b"." + data + b".")[1:-1], run)  # a view of a part is read by another way


@pytest.mark.parametrize("data", PICKLES)
def test_pickles_as_they_are_and_cut_off_anywhere(data: bytes) -> None:
    for end in {*range(min(len(data), 200)), len(data)}:
        check(data[:end])


@settings(max_examples=500, deadline=None)
@given(st.sampled_from(PICKLES), st.lists(st.tuples(st.integers(0, 400), st.integers(0, 3), st.lists(OPCODES, max_size=4)), max_size=5))
def test_pickles_with_opcodes_taken_out_and_put_in(data: bytes, edits: list[tuple[int, int, list[bytes]]]) -> None:
    for at, gone, new in edits:
        at = at % (len(data) + 1)
        data = data[:at] + b"".join(new) + data[at + gone :]
    check(data)


@settings(max_examples=300, deadline=None)
@given(st.lists(OPCODES | st.binary(min_size=1, max_size=3), max_size=30))
def test_any_opcodes(parts: list[bytes]) -> None:
    check(b"".join(parts))
