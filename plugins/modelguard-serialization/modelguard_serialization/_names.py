"""What is wrong with the name of a member of an archive."""

from __future__ import annotations

import posixpath
import re
import unicodedata

_DRIVE = re.compile(r"[A-Za-z]:")


def escapes(name: str) -> str:
    """Why unpacking a member of that name (or following a link to it) would leave the folder that is unpacked into; empty if it would not.

    Windows takes backslashes and drives; a scanner does not know who will unpack. CWE-22, "Zip Slip".
    """
    path = name.replace("\\", "/")
    if path.startswith("/"):
        return "is absolute"
    if _DRIVE.match(path):
        return "names a drive"
    return "leads upwards" if ".." in path.split("/") else ""


def folded(name: str) -> str:
    """What is equal for names that file systems, and readers that disregard case (miniz, which PyTorch reads with), take for one."""
    return unicodedata.normalize("NFC", name).casefold()


def shown(name: str) -> str:
    """A name as messages quote it, cut short where somebody made it long."""
    return repr(name if len(name) <= 200 else f"{name[:200]}...")


def leads_out(folder: str, target: str) -> str:
    """The same of a link to ``target`` in ``folder``: the target may lead upwards as long as it stays inside."""
    path = posixpath.normpath(posixpath.join(folder, target.replace("\\", "/")))
    why = escapes(target)
    return why if why != "leads upwards" or path.split("/")[0] == ".." else ""
