"""All pickles in a blob, one after another, with the arrays that joblib puts between their opcodes."""

from __future__ import annotations

import re
from contextlib import suppress
from pickletools import opcodes

from modelguard_serialization import limits
from modelguard_serialization._pickle.arrays import is_wrapper, place
from modelguard_serialization._pickle.judge import Judge
from modelguard_serialization._pickle.machine import BrokenError, Deaf, Machine, Watch, compact
from modelguard_serialization._pickle.recognise import is_pickle
from modelguard_serialization._pickle.rules import BROKEN
from modelguard_serialization._pickle.run import run
from modelguard_serialization._pickle.values import Call, Global, Persistent, Unknown, Value
from modelguard_serialization.blob import Blob
from modelguard_serialization.reader import Look

_OPCODES = frozenset(ord(opcode.code) for opcode in opcodes)
_BEGINS = re.compile(rb"\x80[\x00-\x05][%b]" % b"".join(re.escape(bytes([code])) for code in sorted(_OPCODES)))


class Streams:
    """Reads pickles from ``at`` on and judges them. ``at`` is where the next one would begin."""

    def __init__(self, blob: Blob, look: Look, at: int = 0) -> None:
        self.blob = blob
        self._data = compact(blob.data)
        self.look = look
        self.at = at
        self.judge = Judge(blob, look)
        self.broken = False
        """Whether one broke off, so that nothing is known of what follows."""
        self.persistents: list[Persistent] = []
        self._count = 0
        self._frames: list[int] = []

    def next(self) -> Value:
        """The value of the next pickle; None where it breaks off. What it does goes to the judge."""
        machine = Machine(self._data, self.at, self.judge, self.look.check)
        machine.after_build = self._after_build
        value = self._run(machine)
        self.persistents += machine.persistents
        if not self.broken and machine.frame_end > machine.at:
            self.judge.odd("a frame that goes on where its pickle has ended", machine.at)
            self._frames.append(machine.frame_end)
        self.at = machine.at
        return value

    def rest(self) -> None:
        """All that follow, up to the end of the blob; then :meth:`tell`."""
        size = len(self.blob.data)
        while not self.broken and self.at < size:
            rest = self.blob.data[self.at :]
            if self._count and not self._goes_on():
                if _filled(rest):
                    self.look.miss(self.blob, f"the {len(rest)} bytes after the pickle that ends at {self.at} are no pickle")
                break
            self.next()
        # Loaders that read a frame at once find the next pickle after it, others after the STOP.
        while not self.broken and self._frames:
            self.at = self._frames.pop()
            if self.at < size and self._goes_on():
                self.next()
        self.tell()

    def tell(self) -> None:
        self.judge.tell()

    def _goes_on(self) -> bool:
        """Whether a pickle begins here: after another, it need not import anything, nor be the last."""
        if is_pickle(self.blob.data[self.at :]) or _BEGINS.match(bytes(self.blob.data[self.at : self.at + 3])):
            return True
        try:
            run(Machine(self._data, self.at, Deaf(), self.look.check))
        except BrokenError as error:
            return error.limit
        return True

    def _run(self, machine: Machine) -> Value:
        self._count += 1
        if self._count > limits.PICKLE_STREAMS:
            self._stop("more pickles follow each other than are followed")
            return None
        try:
            return run(machine)
        except BrokenError as error:
            why = f"the pickle at {machine.start} breaks off at byte {machine.at}: {error}"
            if error.limit:
                why = f"the pickle at {machine.start} was followed to byte {machine.at}: {error}"
            else:
                self.look.find(BROKEN, self.blob, why, at=machine.at)
            self._stop(why)
            return None

    def _stop(self, why: str) -> None:
        self.broken = True
        self.look.miss(self.blob, why)

    def _after_build(self, machine: Machine, target: Value, state: Value) -> None:
        if not is_wrapper(target):
            return
        if machine.frame_end > machine.at:
            self.judge.odd("an array of joblib's inside a frame, where loaders disagree on what follows", machine.at)
            self._stop("an array of joblib's lies inside a frame")
            return
        found, data, begin = place(state), self._data, machine.at
        if found is None:
            self._stop(f"the array of joblib's at {begin} does not say how long it is")
            return
        if found.size is None:
            inner = Machine(data, begin, self.judge, self.look.check)
            self._run(inner)
            machine.stack[-1] = Unknown("an array")
            machine.at = inner.at
            if self.broken:
                raise BrokenError("an array of objects in it breaks off")
            return
        end = begin + found.size
        if found.padded:
            if begin >= len(data):
                raise BrokenError("it ends inside an array")
            end += 1 + data[begin]
        if end > len(data):
            raise BrokenError("it ends inside an array")
        # A loader that knows nothing of joblib takes the array for opcodes; an honest file's padding is none.
        if begin < len(data) and data[begin] in _OPCODES:
            self._as_opcodes(machine)
        machine.stack[-1] = Unknown("an array")
        machine.at = end

    def _as_opcodes(self, machine: Machine) -> None:
        other = Machine(self._data, machine.at, _Named(self.judge), self.look.check, fork=machine)
        other.opcodes += len(other.stack) + sum(map(len, other.metastack))  # copying them takes time too
        with suppress(BrokenError):
            run(other)
        machine.opcodes = max(machine.opcodes, other.opcodes)


class _Named(Watch):
    """Passes on what is done from the first name on that is one: bytes of arrays seldom spell names, and often opcodes."""

    def __init__(self, judge: Judge) -> None:
        self._judge = judge
        self._named = False

    def imported(self, name: Global) -> None:
        if name.module.isprintable() and name.name.isprintable() and len(name.path) < 512:
            self._named = True
            self._judge.imported(name)

    def called(self, call: Call) -> None:
        if self._named:
            self._judge.called(call)

    def built(self, target: Value, state: Value, at: int) -> None:
        if self._named:
            self._judge.built(target, state, at)

    def changed(self, target: Value, what: str, at: int) -> None:
        if self._named:
            self._judge.changed(target, what, at)

    def odd(self, what: str, at: int) -> None:
        pass

    def literal(self, data: memoryview | str, at: int) -> None:
        pass


def _filled(view: memoryview) -> bool:
    """Whether there is anything but zeros and white space."""
    step = 1 << 20
    return any(bytes(view[at : at + step]).strip(b"\0 \t\r\n") for at in range(0, len(view), step))
