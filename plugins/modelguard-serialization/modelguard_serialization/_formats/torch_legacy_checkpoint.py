"""What torch.save wrote before 1.6: five pickles, then the storages, one after another."""

from __future__ import annotations

from modelguard import ArtifactFile, FormatError, FormatProblem
from modelguard_serialization._formats.torch_checkpoint import AGAIN, Place, TorchCheckpoint, check, load, tensors_in
from modelguard_serialization._pickle.legacy import PROTOCOL, find_storages
from modelguard_serialization._pickle.storages import WIDTHS
from modelguard_serialization._pickle.values import Dict, Persistent, Value


def open_torch_legacy(kind: str, file: ArtifactFile) -> tuple[TorchCheckpoint, tuple[FormatProblem, ...]]:
    """What :meth:`modelguard.Format.open` returns, of the format called ``kind``."""
    view = file.map()
    values: list[Value] = []
    persistents: list[Persistent] = []
    at = 0
    for _ in range(5):
        value, machine = load(file.path, view, at)
        values.append(value)
        persistents += machine.persistents
        at = machine.at
    if values[1] != PROTOCOL or type(values[2]) is not Dict or type(values[4]) is not list:
        raise FormatError(file.path, "begins as a legacy torch file and does not go on as one", AGAIN)
    little = values[2].get("little_endian") is not False
    storages, end = find_storages(view, at, values[4], persistents, little)
    if len(storages) != len(values[4]):
        cause = f"has {len(storages)} of the {len(values[4])} storages it lists: it is cut off, or says wrongly how long they are"
        raise FormatError(file.path, cause, AGAIN, rule="MG0105")
    tensors = tensors_in(file.path, values[3])
    places = {key: Place(item.at, item.size * WIDTHS[item.dtype]) for key, item in storages.items()}
    problems = [*check(file.path, tensors, places)]
    if end < len(view):
        message = f"{file.path}: {len(view) - end} bytes after the last storage belong to no tensor; ask the author what they are"
        problems.append(FormatProblem("MG0106", file.path, message, byte_offset=end, evidence={"bytes": len(view) - end}))
    return TorchCheckpoint(kind, file, len(view), tensors, places, not little), tuple(problems)
