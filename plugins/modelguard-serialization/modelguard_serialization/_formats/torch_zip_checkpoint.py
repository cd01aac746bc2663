"""torch.save's zip files: a pickle that refers to storages, and each storage a member (``torch/serialization.py``, ``_save``)."""

from __future__ import annotations

from functools import partial

from modelguard import ArtifactError, ArtifactFile, FormatError, FormatProblem
from modelguard_serialization import limits
from modelguard_serialization._formats.torch_checkpoint import AGAIN, Place, TorchCheckpoint, check, load, shown, tensors_in
from modelguard_serialization._unpack import TooLargeError
from modelguard_serialization._zip import Member, contents, read_directory
from modelguard_serialization.reader import NotReadError


class TwiceError(NotReadError):
    """Two parts of the archive have the part of one."""


def is_torch_zip(file: ArtifactFile) -> bool:
    """Whether torch would look for a model in the zip archive."""
    try:
        return _members(file.map()) is not None
    except TwiceError:
        return True
    except (ArtifactError, NotReadError):
        return False


def open_torch_zip(kind: str, file: ArtifactFile) -> tuple[TorchCheckpoint, tuple[FormatProblem, ...]]:
    """What :meth:`modelguard.Format.open` returns, of the format called ``kind``."""
    view = file.map()
    try:
        found = _members(view)
        if found is None:
            raise FormatError(file.path, "is a zip archive without torch's data.pkl", AGAIN)
        top, members = found
        pickled = memoryview(contents(view, members[f"{top}/data.pkl"], limits.TORCH_PICKLE))
        order = members.get(f"{top}/byteorder")
        big = order is not None and bytes(contents(view, order, 64)).strip() == b"big"
    except TooLargeError as error:
        raise FormatError(file.path, f"has a pickle that unpacks past the limit ({error})", AGAIN, rule="MG0104") from None
    except TwiceError as error:
        raise FormatError(file.path, str(error), AGAIN, rule="MG0107") from None
    except NotReadError as error:
        raise FormatError(file.path, str(error), AGAIN) from None
    value, _ = load(file.path, pickled)
    tensors = tensors_in(file.path, value)
    places = {}
    for tensor in tensors.tensors.values():
        key = tensor.storage.key
        if key not in places and (member := members.get(f"{top}/data/{key}")) is not None:
            places[key] = _place(file.path, member)
    problems = tuple(check(file.path, tensors, places))
    return TorchCheckpoint(kind, file, len(view), tensors, places, big), problems


def _members(view: memoryview) -> tuple[str, dict[str, Member]] | None:
    """The folder with the pickle, which torch takes for the archive's, and all members by name; None where there is none.

    Raises :class:`NotReadError`, and :class:`TwiceError` where two could be taken.
    """
    listed = [member for member in read_directory(view).members if member.listed]
    tops = {member.name.partition("/")[0] for member in listed if member.name.endswith("/data.pkl") and member.name.count("/") == 1}
    if not tops:
        return None
    if len(tops) > 1:
        raise TwiceError(f"has {len(tops)} pickles that torch could take for the model's, so what is loaded depends on the reader")
    top = tops.pop()
    found: dict[str, Member] = {}
    for member in listed:
        if member.name in found and member.name.startswith(f"{top}/"):
            raise TwiceError(f"has two members {shown(member.name)}, so what is loaded depends on the reader")
        found[member.name] = member
    return top, found


def _place(path: str, member: Member) -> Place:
    if member.stored:
        return Place(member.begin, member.packed)
    return Place(None, max(member.size, 0), partial(_unpacked, path, member))


def _unpacked(path: str, member: Member, view: memoryview) -> memoryview:
    try:
        data = memoryview(contents(view, member, limits.TORCH_STORAGE)).toreadonly()
    except NotReadError as error:
        raise FormatError(path, f"member {shown(member.name)} {error}", AGAIN) from None
    if len(data) != member.size:
        raise FormatError(path, f"member {shown(member.name)} has {len(data)} bytes, and says {member.size}", AGAIN, rule="MG0105")
    return data
