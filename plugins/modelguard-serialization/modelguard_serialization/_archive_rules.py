"""The rules on archives: MG0320 to MG0323."""

from __future__ import annotations

from modelguard import Rule, Severity

TRICK = Rule(
    "MG0320",
    "ArchiveTrick",
    "an archive that readers take differently",
    Severity.HIGH,
    "The archive says two things about one member, or has members, bytes or headers where some readers look and others do not: a name, "
    "size or flag that differs between directory and member, two members of one name, data between members or after the end. Scanners "
    "that read it one way pass what a loader that reads it another way runs (CVE-2025-1944, CVE-2025-1945, CVE-2025-10156). Every "
    "reading was looked at.",
    "Do not load it. Get the file from its source again; if it is the same there, ask its author how it was made.",
    "A damaged or cut off download; archives that were edited in place by a careless tool; torch files saved without checksums.",
    cwe=436,
)
ESCAPE = Rule(
    "MG0321",
    "ArchivePathEscape",
    "an archive that writes outside the folder it is unpacked into",
    Severity.CRITICAL,
    "A member has an absolute name, a drive or '..' in its name, or is a link to such a place or a device. Tools that unpack it without "
    "a check overwrite files of the user (Zip Slip; CVE-2007-4559 for tar).",
    "Do not unpack or load it. Models have no reason for such names.",
    "Archives of whole systems, which are no models.",
    cwe=22,
)
BOMB = Rule(
    "MG0322",
    "ArchiveBomb",
    "an archive that unpacks to far more than it is",
    Severity.HIGH,
    "The archive, or a stream in it, unpacks to more than is looked at, at a ratio or depth that no model has. Loading it fills memory or "
    "disk, and a scanner that gives up on it has not seen what lies behind. It was looked at up to the limit, and counts as not looked at.",
    "Do not load it.",
    "Very large arrays of nothing but zeros, saved with compression.",
    cwe=409,
)
POLYGLOT = Rule(
    "MG0323",
    "Polyglot",
    "a file that is two kinds of file at once",
    Severity.HIGH,
    "The file is complete and valid as one kind, and carries more bytes, or an archive, that another program finds in it. What is loaded "
    "depends on the loader, and tools that go by the first bytes take it for the harmless one.",
    "Do not load it. Ask its author what the additional bytes are for.",
    "Self-extracting archives and Python applications, which are programs and reported as such; pictures behind which an editor kept data.",
    cwe=434,
)
RULES = (TRICK, ESCAPE, BOMB, POLYGLOT)
