"""The tensors in what torch saved, by the names a state dictionary gives them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from modelguard_serialization import limits
from modelguard_serialization._pickle.arguments import counts
from modelguard_serialization._pickle.storages import BY_TORCH, WIDTHS, StorageRef, storage_of
from modelguard_serialization._pickle.values import Call, Dict, Global, Persistent, SetOf, Value

WRAPPERS = frozenset({"state_dict", "model_state_dict", "model", "module", "net", "network", "weights", "params"})
"""Keys under which training programs keep the weights, beside what else they save."""

_TENSORS = frozenset({"torch._utils._rebuild_tensor", "torch._utils._rebuild_tensor_v2", "torch._utils._rebuild_tensor_v3"})
_PARAMETERS = frozenset({"torch._utils._rebuild_parameter", "torch._utils._rebuild_parameter_with_state"})
_OF_TYPE = frozenset({"torch._tensor._rebuild_from_type", "torch._tensor._rebuild_from_type_v2"})
_OTHERS = {
    "torch._utils._rebuild_sparse_tensor": "sparse",
    "torch._utils._rebuild_sparse_csr_tensor": "sparse",
    "torch._utils._rebuild_qtensor": "quantised",
    "torch._utils._rebuild_nested_tensor": "nested",
    "torch._utils._rebuild_meta_tensor_no_storage": "without values",
    "torch._utils._rebuild_device_tensor_from_numpy": "kept as an array of another device",
    "torch._utils._rebuild_device_tensor_from_cpu_tensor": "kept as a tensor of another device",
    "torch._utils._rebuild_wrapper_subclass": "of a class without values",
    "torch.storage._load_from_bytes": "kept as a file in bytes",
}


@dataclass(frozen=True, slots=True)
class Tensor:
    """A view of a storage. ``offset`` and ``stride`` count elements of ``dtype``, a name of :data:`modelguard.DTYPE_BITS`."""

    storage: StorageRef
    dtype: str
    offset: int
    shape: tuple[int, ...]
    stride: tuple[int, ...]

    @property
    def width(self) -> int:
        return WIDTHS[self.dtype]

    @property
    def contiguous(self) -> bool:
        """Whether the elements follow each other in C order."""
        step = 1
        for size, stride in zip(reversed(self.shape), reversed(self.stride), strict=True):
            if size != 1 and stride != step:
                return 0 in self.shape
            step *= size
        return True

    @property
    def end(self) -> int:
        """The element of the storage after the last one that is used."""
        if 0 in self.shape:
            return self.offset
        return self.offset + sum((size - 1) * stride for size, stride in zip(self.shape, self.stride, strict=True)) + 1


@dataclass(frozen=True, slots=True)
class Found:
    """``tensors`` by name; ``others``, tensors that are not read, by name, with what they are; ``wrapper``, the key they all lie under."""

    tensors: dict[str, Tensor]
    others: dict[str, str]
    wrapper: str
    repeated: str = ""
    """A name that two tensors have."""


def find_tensors(saved: Value) -> Found:
    """Look through a saved object: dictionaries and lists of tensors, modules, and what else holds some. Their code is not run.

    Names are keys and list places joined by full stops; those of a module are its state dictionary's. Tensors that all lie under one of
    :data:`WRAPPERS` are named without it. Raises ``OverflowError`` past the limits on values and depth.
    """
    leaves = list(_leaves(saved))
    tops = {path[0] for path, _ in leaves}
    wrapper = next(iter(tops)) if len(tops) == 1 else ""
    wrapper = wrapper if wrapper in WRAPPERS and all(len(path) > 1 for path, _ in leaves) else ""
    found = Found({}, {}, wrapper)
    repeated = ""
    for path, leaf in leaves:
        name = ".".join(path[1:] if wrapper else path)
        if name in found.tensors or name in found.others:
            repeated = repeated or name
            continue
        if isinstance(leaf, Tensor):
            found.tensors[name] = leaf
        else:
            found.others[name] = leaf
    return Found(found.tensors, found.others, wrapper, repeated)


Path = tuple[str, ...]


def _leaves(saved: Value) -> Iterator[tuple[Path, Tensor | str]]:
    """Every tensor with its path, or what it is where it is not read."""
    todo: list[tuple[Path, Value, tuple[int, ...]]] = [((), saved, ())]
    steps = again = 0
    seen: set[int] = set()
    while todo:
        path, value, around = todo.pop()
        kind = type(value)
        steps += 1
        if kind in (Call, Dict, list, SetOf):
            # Shared parts are looked through wherever they are, each under its own names; sharing shared parts doubles them each time.
            if id(value) in around:
                continue  # a module that knows what it is in
            again += id(value) in seen
            seen.add(id(value))
            around = (*around, id(value))
        if steps > limits.TORCH_VALUES or again > limits.TORCH_SHARED or len(path) > limits.TORCH_DEPTH:
            raise OverflowError
        if kind is Call:
            leaf = tensor_of(value)
            if leaf is not None:
                yield path or ("tensor",), leaf
                continue
        elif kind not in (Dict, list, tuple, SetOf):
            continue
        todo += reversed([(inner, part, around) for inner, part in _parts(path, value)])


def _parts(path: Path, value: Value) -> Iterator[tuple[Path, Value]]:
    kind = type(value)
    if kind is Dict:
        yield from _pairs(path, value.pairs)
    elif kind in (list, tuple, SetOf):
        for index, item in enumerate(value.items if kind is SetOf else value):
            if type(item) in (Call, Dict, list, tuple, SetOf):
                yield (*path, str(index)), item
    else:
        yield from _instance(path, value)


def _instance(path: Path, call: Call) -> Iterator[tuple[Path, Value]]:
    state = call.state
    state = state[0] if type(state) is tuple and len(state) == 2 and type(state[0]) is Dict else state
    members = dict(_pairs((), state.pairs)) if type(state) is Dict else {}
    if {("_parameters",), ("_modules",)} <= members.keys():  # a torch.nn.Module
        for part in ("_parameters", "_buffers", "_modules"):
            yield path, members.pop((part,), None)
        members.pop(("_flat_weights",), None)  # of recurrent layers: the parameters once more
        for key, item in members.items():
            yield (*path, *key), item
        return
    for key, item in members.items():
        yield (*path, *key), item
    if type(call.args) is tuple:
        # OrderedDict([(key, value), ...]), as protocols 0 and 1 write it
        listed = call.args[0] if len(call.args) == 1 and type(call.args[0]) is list else ()
        if listed and all(type(item) in (list, tuple) and len(item) == 2 for item in listed):
            yield from _pairs(path, [part for item in listed for part in item])
        else:
            yield from _parts(path, call.args)
    for held in (call.items, call.kwargs):
        if held is not None:
            yield from _parts(path, held)
    if call.pairs is not None:
        yield from _pairs(path, call.pairs)


def _pairs(path: Path, pairs: list[Value]) -> Iterator[tuple[Path, Value]]:
    """The values of a dictionary that can hold tensors. What is set last counts, as it does for Python."""
    found: dict[str, Value] = {}
    for index in range(0, len(pairs) - 1, 2):
        key, value = pairs[index], pairs[index + 1]
        if type(key) is str or (type(key) is int and abs(key) < 1 << 64):
            found[str(key)] = value
        elif type(value) in (Call, Dict, list, tuple, SetOf):
            found[f"[{index // 2}]"] = value
    for name, value in found.items():
        if type(value) in (Call, Dict, list, tuple, SetOf):
            yield (*path, name), value


def tensor_of(call: Call) -> Tensor | str | None:
    """The tensor a call makes; what it is where it is one that is not read; None where it makes no tensor."""
    for _ in range(8):  # a parameter of a subclass of a tensor
        if type(call.callee) is not Global or type(call.args) is not tuple:
            return None
        path, args = call.callee.path, call.args
        if path in _PARAMETERS or path == "torch.nn.parameter.Parameter":
            if not args or type(args[0]) is not Call:
                return None if call.kind.startswith("NEWOBJ") else "a parameter without a tensor"
            call = args[0]
        elif path in _OF_TYPE:
            if len(args) < 3 or type(args[0]) is not Global:
                return "of a class of its own"
            call = Call(call.kind, args[0], args[2], None, call.at)
        elif path in _TENSORS:
            return _tensor(path, args)
        else:
            return _OTHERS.get(path)
    return "nested in itself"


def _tensor(path: str, args: tuple[Value, ...]) -> Tensor | str:
    storage = storage_of(args[0].pid) if args and type(args[0]) is Persistent else None
    if storage is None:
        return "without a storage in the file"
    if len(args) < 4:
        return "without a shape"
    shape, stride, offset = counts(args[2]), counts(args[3]), args[1]
    if shape is None or stride is None or type(offset) is not int or offset < 0 or len(shape) != len(stride) or len(shape) > 32:
        return "of a shape that is none"
    dtype = storage.dtype
    if path == "torch._utils._rebuild_tensor_v3":
        given = args[6] if len(args) > 6 else None
        dtype = BY_TORCH.get(given.name, "") if type(given) is Global and given.module == "torch" else ""
    if dtype not in WIDTHS or dtype.startswith("q"):
        return "of a dtype that is not read"
    if len(args) > 5 and path != "torch._utils._rebuild_tensor" and type(args[-1]) is Dict and args[-1].pairs:
        return "kept conjugated or negated"  # metadata: {"conj": True} and {"neg": True}
    return Tensor(storage, dtype, offset, shape, stride)
