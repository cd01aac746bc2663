"""What allowed functions may be called with, where it matters. A check says what is wrong as the end of a sentence, or an empty text."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType

from modelguard_serialization._pickle.allowlist import allowed
from modelguard_serialization._pickle.values import Call, Dict, Global, Persistent, SetOf, Value

Args = tuple[Value, ...]
Check = Callable[[Args], str]

_BASES = frozenset({"object", "dict", "list", "tuple", "int", "float", "complex", "str", "bytes", "bytearray", "set", "frozenset"})
_CODECS = frozenset({"latin1", "latin-1", "iso-8859-1", "ascii", "utf-8", "utf8"})
MAX_BYTES = 1 << 32
"""Bytes that a number as the argument of ``bytes`` may make."""
MAX_ELEMENTS = 1 << 48


def _path(value: Value) -> str:
    return value.path if type(value) is Global else ""


def _callee(value: Value) -> str:
    return _path(value.callee) if type(value) is Call else ""


def _is_class(value: Value) -> bool:
    """A name that may be called, or that has a finding of its own."""
    return type(value) is Global and allowed(value.module, value.name) != "name"


def _count(value: Value) -> bool:
    return type(value) is int and 0 <= value <= MAX_ELEMENTS


def counts(value: Value) -> tuple[int, ...] | None:
    """A shape or strides: whole numbers in a tuple, a list or a ``torch.Size``."""
    if _callee(value) == "torch.Size" and type(value.args) is tuple and len(value.args) == 1:
        value = value.args[0]
    if type(value) not in (tuple, list) or not all(_count(item) for item in value):
        return None
    return tuple(value)


def _reconstructor(args: Args) -> str:
    if len(args) != 3 or not _is_class(args[0]):
        return "with what is no class"
    module, _, base = _path(args[1]).rpartition(".")
    return "" if module == "builtins" and base in _BASES else "with a base that is no plain class of Python's own, whose constructor runs"


def _new(args: Args) -> str:
    return "" if args and _is_class(args[0]) else "with what is no class"


def _encode(args: Args) -> str:
    if not args or type(args[0]) not in (str, memoryview):
        return "with what is no text"
    known = len(args) == 1 or (len(args) == 2 and type(args[1]) is str and args[1] in _CODECS)
    return "" if known else "with an encoding that framework files do not use"


def _sized(args: Args) -> str:
    return "with a size past every limit" if args and type(args[0]) is int and args[0] > MAX_BYTES else ""


def _type(args: Args) -> str:
    return "" if len(args) == 1 else "to make a class"


def _factory(args: Args) -> str:
    if not args or args[0] is None or _is_class(args[0]) or _callee(args[0]) == "functools.partial":
        return ""
    return "with a factory that is no class"


def _partial(args: Args) -> str:
    if not args or type(args[0]) is not Global:
        return "with what is no name"
    return f"with {args[0].path}" if args[0].path in CHECKS and args[0].path not in _HARMLESS_WHEN_PARTIAL else ""


_HARMLESS_WHEN_PARTIAL = frozenset({"builtins.bytes", "builtins.bytearray"})


def _texts(args: Args) -> str:
    return "" if all(type(item) is str for item in args) else "with what is no text"


def _array_class(args: Args) -> str:
    ok = len(args) == 3 and _path(args[0]).startswith("numpy.") and (_is_class(args[0]) or args[0].name == "memmap")
    return "" if ok else "with what is no class of arrays"


def _masked(args: Args) -> str:
    ok = len(args) == 4 and all(_path(item).startswith("numpy.") and _is_class(item) for item in args[:2])
    return "" if ok else "with what is no class of arrays"


def _scalar(args: Args) -> str:
    if not args or not (_callee(args[0]) == "numpy.dtype" or _callee(args[0]).startswith("numpy.dtypes.")):
        return "with what is no dtype"
    of = args[0].args
    return "with a dtype of objects" if type(of) is tuple and of and type(of[0]) is str and of[0].lstrip("<>=|").startswith("O") else ""


def _ufunc(args: Args) -> str:
    if len(args) == 2 and all(type(item) is str for item in args) and allowed(*args) == "name" and args[0] in ("numpy", "scipy.special"):
        return ""
    return "to look up a name that is no function of numpy's"


_BIT_GENERATOR = "numpy.random._pickle.__bit_generator_ctor"


def _bit_generator(args: Args) -> str:
    ok = len(args) <= 1 and all(type(item) is str or _path(item).startswith("numpy.random.") for item in args)
    return "" if ok else "with what is no random generator"


def _generator(args: Args) -> str:
    ok = len(args) <= 2 and all(type(item) is str or _callee(item) == _BIT_GENERATOR for item in args[:1])
    ok = ok and all(_path(item) == _BIT_GENERATOR for item in args[1:])
    return "" if ok else "with a constructor that is none of numpy's"


def _index(args: Args) -> str:
    return "" if args and _path(args[0]).startswith("pandas.") and _is_class(args[0]) else "with what is no class of pandas"


def _storage(value: Value) -> bool:
    return type(value) is Persistent or _callee(value) in ("torch.storage._load_from_bytes", "torch.storage.TypedStorage")


def _tensor(args: Args) -> str:
    if len(args) < 4 or not _storage(args[0]):
        return "with what is no storage"
    size, stride = counts(args[2]), counts(args[3])
    if not _count(args[1]) or size is None or stride is None or len(size) != len(stride):
        return "with an offset, a size or strides that are no such thing"
    pid = args[0].pid if type(args[0]) is Persistent else ()
    if type(pid) is tuple and len(pid) >= 5 and type(pid[4]) is int and all(size):
        last = args[1] + sum((count - 1) * step for count, step in zip(size, stride, strict=True))
        if last >= pid[4]:
            return "with a size and strides that reach past the end of the storage"
    return ""


def _parameter(args: Args) -> str:
    if len(args) < 2 or type(args[0]) is not Call or not _callee(args[0]).startswith(("torch._utils._rebuild_", "torch._tensor._rebuild_")):
        return "with what is no tensor"
    if len(args) > 3 and (name := hidden_name(args[3])):
        return f"with a state that sets {name}"
    return ""


def _from_type(args: Args) -> str:
    if len(args) != 4 or not _path(args[0]).startswith("torch._utils._rebuild_") or allowed("torch._utils", args[0].name) is None:
        return "with a function that rebuilds no tensor"
    if not _is_class(args[1]) or type(args[2]) is not tuple:
        return "with what is no class of tensors"
    if name := hidden_name(args[3]):
        return f"with a state that sets {name}"
    check = CHECKS.get(_path(args[0]))
    return check(args[2]) if check is not None else ""


def _bytes(args: Args) -> str:
    ok = len(args) == 1 and (type(args[0]) is memoryview or _callee(args[0]) == "_codecs.encode")
    return "" if ok else "with what is not written in the file"


CHECKS: Mapping[str, Check] = MappingProxyType(
    {
        "copyreg._reconstructor": _reconstructor,
        "copyreg.__newobj__": _new,
        "copyreg.__newobj_ex__": _new,
        "_codecs.encode": _encode,
        "builtins.bytes": _sized,
        "builtins.bytearray": _sized,
        "builtins.type": _type,
        "collections.defaultdict": _factory,
        "functools.partial": _partial,
        "logging.getLogger": _texts,
        "numpy.core.multiarray._reconstruct": _array_class,
        "numpy._core.multiarray._reconstruct": _array_class,
        "numpy.core.multiarray.scalar": _scalar,
        "numpy._core.multiarray.scalar": _scalar,
        "numpy.core._ufunc_reconstruct": _ufunc,
        "numpy._core._ufunc_reconstruct": _ufunc,
        "numpy.ma.core._mareconstruct": _masked,
        "numpy.random._pickle.__bit_generator_ctor": _bit_generator,
        "numpy.random._pickle.__generator_ctor": _generator,
        "numpy.random._pickle.__randomstate_ctor": _generator,
        "pandas.core.indexes.base._new_Index": _index,
        "pandas.core.indexes.datetimes._new_DatetimeIndex": _index,
        "pandas.core.indexes.period._new_PeriodIndex": _index,
        "torch._utils._rebuild_tensor": _tensor,
        "torch._utils._rebuild_tensor_v2": _tensor,
        "torch._utils._rebuild_tensor_v3": _tensor,
        "torch._utils._rebuild_parameter": _parameter,
        "torch._utils._rebuild_parameter_with_state": _parameter,
        "torch._tensor._rebuild_from_type": _from_type,
        "torch._tensor._rebuild_from_type_v2": _from_type,
        "torch.storage._load_from_bytes": _bytes,
    }
)
"""By the path of the function. What is called with something other than a tuple fails every check."""


def is_plain(value: Value) -> bool:
    """A number, a text, None, or a tuple of such."""
    return type(value) in (int, float, bool, str, type(None)) or (
        type(value) is tuple and all(type(item) in (int, float, bool, str, type(None)) for item in value)
    )


def hidden_name(state: Value) -> str:
    """A name in ``state`` that Python itself gives a meaning (``__class__``), or an empty text: no framework sets one in a state."""
    parts = state if type(state) is tuple and len(state) == 2 else (state,)
    for part in parts:
        pairs = part.pairs if type(part) in (Dict, Call) else None
        for key in (pairs or ())[::2]:
            if type(key) is str and key[:2] == "__" and key[-2:] == "__":
                return key
            if type(key) in (Call, SetOf):
                return "a computed name"
    return ""
