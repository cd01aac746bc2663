"""The loop that runs a pickle's opcodes."""

from __future__ import annotations

from modelguard_serialization import limits
from modelguard_serialization._pickle.machine import LOOKED_THROUGH, BrokenError, Machine
from modelguard_serialization._pickle.opcodes import F8, HANDLERS, I4, U4
from modelguard_serialization._pickle.values import Call, Dict, Value

_PAUSE = 4096
"""Opcodes between two looks at the clock and the limits."""


def run(m: Machine) -> Value:
    """What the pickle stands for; ``m.at`` is then the byte after its STOP. Raises :class:`BrokenError`, with ``m.at`` where it is."""
    # Opcodes that are nine of ten in the files of torch, sklearn and joblib are run here, on local variables, and cost half of what a
    # handler does. What is odd about one of them is left to its handler.
    data, size, memo, stack, metastack, at = m.raw, len(m.raw), m.memo, m.stack, m.metastack, m.at
    called = m.watch.called
    last = m.opcodes + m.most
    opcodes, step = m.opcodes, 0
    try:
        while True:
            for step in range(_PAUSE):
                code = data[at]
                if code >= 0x80:
                    if code == 0x94:  # MEMOIZE
                        if (index := len(memo)) not in memo:
                            memo[index] = stack[-1]
                            at += 1
                            continue
                    elif code == 0x8C:  # SHORT_BINUNICODE
                        begin = at + 2
                        end = begin + data[at + 1]
                        if end - begin < LOOKED_THROUGH and end <= size:
                            try:
                                stack.append(str(data[begin:end], "utf-8"))
                                at = end
                                continue
                            except ValueError:
                                pass
                    elif code == 0x86:  # TUPLE2
                        second = stack.pop()
                        stack[-1] = (stack[-1], second)
                        at += 1
                        continue
                    elif code == 0x85:  # TUPLE1
                        stack[-1] = (stack[-1],)
                        at += 1
                        continue
                    elif code == 0x81:  # NEWOBJ
                        args = stack.pop()
                        stack[-1] = call = Call("NEWOBJ", stack[-1], args, None, at)
                        at += 1
                        called(call)
                        continue
                    elif code == 0x88 or code == 0x89:  # NEWTRUE, NEWFALSE
                        stack.append(code == 0x88)
                        at += 1
                        continue
                elif code >= 0x60:
                    if code == 0x68:  # BINGET
                        stack.append(memo[data[at + 1]])
                        at += 2
                        continue
                    if code == 0x71:  # BINPUT
                        if (index := data[at + 1]) not in memo:
                            memo[index] = stack[-1]
                            at += 2
                            continue
                    elif code == 0x72:  # LONG_BINPUT
                        if at + 5 <= size and len(memo) == (index := U4.unpack_from(data, at + 1)[0]) and index not in memo:
                            memo[index] = stack[-1]
                            at += 5
                            continue
                    elif code == 0x7D:  # EMPTY_DICT
                        stack.append(Dict([]))
                        at += 1
                        continue
                    elif code == 0x75:  # SETITEMS
                        if metastack and type(target := metastack[-1][-1]) is Dict:
                            target.pairs.extend(stack)
                            m.kept += len(stack)
                            m.stack = stack = metastack.pop()
                            at += 1
                            continue
                    elif code == 0x65:  # APPENDS
                        if metastack and type(target := metastack[-1][-1]) is list:
                            target.extend(stack)
                            m.kept += len(stack)
                            m.stack = stack = metastack.pop()
                            at += 1
                            continue
                    elif code == 0x61:  # APPEND
                        if type(stack[-2]) is list:
                            value = stack.pop()
                            stack[-1].append(value)
                            m.kept += 1
                            at += 1
                            continue
                    elif code == 0x74 and metastack:  # TUPLE
                        value = tuple(stack)
                        m.kept += len(value)
                        m.stack = stack = metastack.pop()
                        stack.append(value)
                        at += 1
                        continue
                elif code == 0x4B:  # BININT1
                    stack.append(data[at + 1])
                    at += 2
                    continue
                elif code == 0x28:  # MARK
                    metastack.append(stack)
                    m.stack = stack = []
                    if len(metastack) > limits.PICKLE_MARKS:
                        raise BrokenError("it is past the limit on marks", limit=True)
                    at += 1
                    continue
                elif code == 0x4E:  # NONE
                    stack.append(None)
                    at += 1
                    continue
                elif code == 0x52:  # REDUCE
                    args = stack.pop()
                    stack[-1] = call = Call("REDUCE", stack[-1], args, None, at)
                    at += 1
                    called(call)
                    continue
                elif code == 0x58:  # BINUNICODE
                    begin = at + 5
                    if begin <= size and (end := begin + U4.unpack_from(data, at + 1)[0]) - begin < LOOKED_THROUGH and end <= size:
                        try:
                            stack.append(str(data[begin:end], "utf-8"))
                            at = end
                            continue
                        except ValueError:
                            pass
                elif code == 0x29:  # EMPTY_TUPLE
                    stack.append(())
                    at += 1
                    continue
                elif code == 0x4A:  # BININT
                    if at + 5 <= size:
                        stack.append(I4.unpack_from(data, at + 1)[0])
                        at += 5
                        continue
                elif code == 0x47:  # BINFLOAT
                    if at + 9 <= size:
                        stack.append(F8.unpack_from(data, at + 1)[0])
                        at += 9
                        continue
                elif code == 0x2E:  # STOP
                    m.at = at + 1
                    m.opcodes = max(opcodes + step + 1, m.opcodes)
                    return stack.pop()
                if (handler := HANDLERS[code]) is None:
                    m.at = at
                    raise BrokenError(f"byte {code:#04x} is no opcode")
                m.at = at + 1
                handler(m)
                at, stack = m.at, m.stack
            m.opcodes = opcodes = max(opcodes + _PAUSE, m.opcodes)  # a handler may have counted what other machines did
            m.check()
            if opcodes > last or len(memo) + m.kept > limits.PICKLE_VALUES:
                m.at = at
                raise BrokenError("it is past the limits on opcodes and values", limit=True)
    except IndexError:
        m.at = at
        why = "it ends without a STOP" if at >= size else "it takes more from its stack than there is, or ends inside an argument"
        raise BrokenError(why) from None
    except KeyError:
        m.at = at
        raise BrokenError("it takes from its memo what was not put there") from None
