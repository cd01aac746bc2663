"""Which files of a folder are records that git and the Hub's client keep beside a model, and are left out on purpose.

A name decides nothing here: a file is left out when its place *and* its bytes are those of such a record. Git's objects must inflate to
the object that their name is the SHA-1 of, packs and indexes must end in the SHA-1 of what they hold, text must have the lines git
writes (gitrepository-layout(5), gitformat-pack(5), gitformat-index(5)), and a configuration must set nothing that runs a command.
Whatever else lies there is listed, and judged, like any other file.
"""

from __future__ import annotations

import hashlib
import re
import zlib
from collections.abc import Callable

from modelguard import _limits
from modelguard.artifact import HASH_BLOCK, ArtifactFile
from modelguard.errors import ArtifactError

MAX_TEXT = _limits.RECORD
MAX_OBJECT = _limits.GIT_OBJECT

GIT = "git's own files"
DOWNLOADS = "the Hub client's records of downloads"
LFS_COPIES = "copies of listed files that Git LFS keeps"

_HEX = "(?:[0-9a-f]{40}|[0-9a-f]{64})"


def _lines(pattern: str) -> Callable[[ArtifactFile], bool]:
    """A check for text of which every line matches ``pattern``."""

    def check(file: ArtifactFile) -> bool:
        line, text = re.compile(pattern), _text(file)
        return text is not None and all(line.fullmatch(item) for item in text.removesuffix("\n").split("\n"))

    return check


def _text(file: ArtifactFile) -> str | None:
    if file.size > MAX_TEXT:
        return None
    with file.open() as handle:
        content = handle.read(MAX_TEXT + 1)
    try:
        return None if b"\0" in content or len(content) > MAX_TEXT else content.decode("utf-8")
    except UnicodeDecodeError:
        return None


def _exactly(pattern: str) -> Callable[[ArtifactFile], bool]:

    def check(file: ArtifactFile) -> bool:
        text = _text(file)
        return text is not None and re.fullmatch(pattern, text, re.DOTALL) is not None

    return check


def _plain(file: ArtifactFile) -> bool:
    """Whether the file is text that nothing runs or unpickles."""
    from modelguard._formats.sniff import classify

    return _text(file) is not None and classify(file).matter == "inert"


def _empty(file: ArtifactFile) -> bool:
    return file.size == 0


def _loose(file: ArtifactFile) -> bool:
    """Whether the file inflates to the git object that its name is the digest of, and holds nothing more."""
    name = "".join(file.path.split("/")[-2:])
    digest = hashlib.sha1(usedforsecurity=False) if len(name) == 40 else hashlib.sha256()
    inflate, total, head = zlib.decompressobj(), 0, b""
    try:
        with file.open() as handle:
            while block := inflate.unconsumed_tail or handle.read(1 << 16):
                if inflate.eof:
                    return False
                part = inflate.decompress(block, 1 << 20)
                total += len(part)
                head = head or part[:8]
                digest.update(part)
                if total > MAX_OBJECT:
                    return False
    except zlib.error:
        return False
    return (
        inflate.eof
        and not inflate.unused_data
        and head.startswith((b"blob ", b"tree ", b"commit ", b"tag "))
        and digest.hexdigest() == name
    )


def _sealed(magic: bytes) -> Callable[[ArtifactFile], bool]:
    """A check for a file that begins with ``magic``, ends in the digest of all before, and is no zip archive behind that."""

    def check(file: ArtifactFile) -> bool:
        from modelguard._formats.readings import trailing_zip

        with file.open() as handle:
            if handle.read(len(magic)) != magic:
                return False
            for digest, length in ((hashlib.sha1(usedforsecurity=False), 20), (hashlib.sha256(), 32)):
                handle.seek(0)
                left = file.size - length
                while left > 0 and (block := handle.read(min(HASH_BLOCK, left))):
                    digest.update(block)
                    left -= len(block)
                if left == 0 and handle.read(length + 1) == digest.digest():
                    return not trailing_zip(file.map())
        return False

    return check


_URL = r"(?:(?:https?|ssh|git|file)://[^\s\"'`$;|&<>]+|[\w.-]+@[\w.-]+:[^\s\"'`$;|&<>:]+|(?:\.\.?)?/[\w./ -]*)"
_SETTINGS = (
    r"core\.(?:repositoryformatversion|filemode|bare|logallrefupdates|ignorecase|precomposeunicode|symlinks|autocrlf|eol|safecrlf|compression"
    r"|sparsecheckout|sparsecheckoutcone|quotepath)=[\w-]*"
    rf"|remote\..*\.(?:url|pushurl)={_URL}|remote\..*\.(?:fetch|tagopt|promisor|partialclonefilter)=[\w+:/*.=-]*"
    rf"|branch\..*\.(?:remote|merge|rebase)=[\w/.-]*|user\.(?:name|email)=.*|init\.defaultbranch=[\w/.-]*|submodule\..*\.url={_URL}"
    r"|submodule\..*\.active=\w*|submodule\.active=.*|extensions\.(?:worktreeconfig|partialclone|objectformat|refstorage)=[\w-]*"
    r"|(?:gc|advice|pull|fetch|push)\.\w+=[\w.-]*|lfs\.repositoryformatversion=\d+|lfs\..*\.(?:access|locksverify)=\w*"
    r"|http\..*\.extraheader=.*"
)
"""What a configuration may set and still be git's own record: nothing of it names a program, a file to include or a filter."""
_SECTION = r'\[\s*([\w.-]+)(?:\s+"([^"\\]*)")?\s*\]'
_SETTING = r"([A-Za-z][A-Za-z0-9-]*)\s*(?:=\s*([^\\]*))?"


def _harmless(file: ArtifactFile) -> bool:
    """Whether a git configuration has only settings of :data:`_SETTINGS`, one a line and without continued lines."""
    text = _text(file)
    section = ""
    for line in (text or "").splitlines():
        line = line.strip()
        if not line or line[0] in "#;":
            continue
        if found := re.fullmatch(_SECTION, line):
            section = found[1] + (f".{found[2]}" if found[2] is not None else "")
            continue
        found = re.fullmatch(_SETTING, line)
        if not (found and re.fullmatch(_SETTINGS, f"{section}.{found[1]}={(found[2] or '').strip()}", re.IGNORECASE)):
            return False
    return text is not None


_LOG = rf"{_HEX} {_HEX} [^\t]*(?:\t.*)?"
_GIT_RULES: tuple[tuple[str, str, Callable[[ArtifactFile], bool]], ...] = (
    (r"(?:.*/)?(?:\w*HEAD|AUTO_MERGE|refs/.+)", GIT, _exactly(rf"(?:ref: refs/[^\n]*|{_HEX})\n")),
    (r"(?:.*/)?FETCH_HEAD", GIT, _lines(rf"(?:{_HEX}\t(?:not-for-merge)?\t.*)?")),
    (r"(?:.*/)?packed-refs", GIT, _lines(rf"# pack-refs with:[ \w-]*|\^?{_HEX}(?: refs/[^ ]*)?")),
    (r"(?:.*/)?info/refs", GIT, _lines(rf"(?:{_HEX}\trefs/.*)?")),
    (r"(?:.*/)?objects/info/packs", GIT, _lines(rf"(?:P pack-{_HEX}\.pack)?")),
    (r"(?:.*/)?shallow", GIT, _lines(_HEX)),
    (r"(?:.*/)?logs/.+", GIT, _lines(_LOG)),
    (r"(?:.*/)?info/exclude", GIT, _lines("(?:#.*)?")),
    (r"(?:.*/)?(?:COMMIT_EDIT|MERGE_|SQUASH_|TAG_EDIT)MSG", GIT, _plain),
    (r"(?:.*/)?description", GIT, _lines(r"Unnamed repository; edit this file 'description' to name the repository\.")),
    (r"(?:.*/)?(?:config|config\.worktree)", GIT, _harmless),
    (r"(?:.*/)?objects/(?:[0-9a-f]{2}/(?:[0-9a-f]{38}|[0-9a-f]{62}))", GIT, _loose),
    (rf"(?:.*/)?objects/pack/pack-{_HEX}\.pack", GIT, _sealed(b"PACK\0\0\0")),
    (rf"(?:.*/)?objects/pack/pack-{_HEX}\.idx", GIT, _sealed(b"\xfftOc\0\0\0")),
    (rf"(?:.*/)?objects/pack/pack-{_HEX}\.rev", GIT, _sealed(b"RIDX\0\0\0")),
    (rf"(?:.*/)?objects/pack/pack-{_HEX}\.bitmap", GIT, _sealed(b"BITM\0")),
    (rf"(?:.*/)?objects/pack/pack-{_HEX}\.mtimes", GIT, _sealed(b"MTME\0\0\0")),
    (rf"(?:.*/)?objects/pack/pack-{_HEX}\.keep", GIT, _empty),
    (rf"(?:.*/)?objects/pack/pack-{_HEX}\.promisor", GIT, _lines(rf"(?:{_HEX} [^ ]+)?")),
    (r"(?:.*/)?objects/pack/multi-pack-index", GIT, _sealed(b"MIDX")),
    (r"(?:.*/)?objects/info/(?:commit-graph|commit-graphs/graph-[0-9a-f]+\.graph)", GIT, _sealed(b"CGPH")),
    (r"(?:.*/)?objects/info/commit-graphs/commit-graph-chain", GIT, _lines(_HEX)),
    (r"(?:.*/)?index", GIT, _sealed(b"DIRC\0\0\0")),
    # Git runs no hook whose name ends so; the templates it copies are shell and Perl scripts.
    (r"(?:.*/)?hooks/[\w-]+\.sample", GIT, _exactly(r"#!/(?:bin/sh|usr/bin/perl)\n.*")),
    # What `git lfs install` writes, whose one changing part is the text of a message.
    (
        r"(?:.*/)?hooks/(?:post-checkout|post-commit|post-merge|pre-push)", GIT,
        _exactly(
            r'#!/bin/sh\ncommand -v git-lfs >/dev/null 2>&1 \|\| \{ (?:echo|printf) >&2(?: "[^"$`]*")+; exit 2; \}\n'
            r'git lfs (?:post-checkout|post-commit|post-merge|pre-push) "\$@"\n?'
        ),
    ),
)  # fmt: skip
_DOWNLOADS = (
    (r"\.gitignore", DOWNLOADS, _exactly(r"\*\n?")),
    (r"CACHEDIR\.TAG", DOWNLOADS, _lines(r"Signature: 8a477f597d28d172789f06886806bc55|#.*|")),
    (r"download/.+\.metadata", DOWNLOADS, _exactly(r"[0-9a-f]{40}\n[\"\w/-]{1,200}\n[0-9]{1,12}\.[0-9]{1,20}\n?")),
    (r"(?:download|upload)/.+\.lock", DOWNLOADS, _empty),
)
"""Patterns are compiled when a file lies where they are asked: most models have none, and compiling takes longer than listing them."""
_LFS = r"(?:.*/)?lfs/objects/[0-9a-f]{2}/[0-9a-f]{2}/([0-9a-f]{64})"


def place(path: str) -> str:
    """The folder of records that an artifact-relative path lies in (``.git``, ``vae/.git``, ``.cache/huggingface``), or ''."""
    if ".git" not in path and not path.startswith(".cache/"):
        return ""
    parts = path.split("/")
    if ".git" in parts:
        return "/".join(parts[: parts.index(".git") + 1])
    return ".cache/huggingface" if parts[:2] == [".cache", "huggingface"] and len(parts) > 2 else ""


def why(file: ArtifactFile) -> str:
    """Why a file that is no link is left out, or '' when it is listed."""
    folder = place(file.path)
    if not folder:
        return ""
    if file.path == folder:  # a worktree or submodule, whose repository lies elsewhere
        return GIT if _exactly(r"gitdir: [^\n]*\n?")(file) else ""
    inside = file.path[len(folder) + 1 :]
    try:
        rules = _DOWNLOADS if folder == ".cache/huggingface" else _GIT_RULES
        return next((reason for pattern, reason, check in rules if re.fullmatch(pattern, inside, re.DOTALL) and check(file)), "")
    except ArtifactError:
        return ""


def lfs_object(path: str) -> str:
    """The sha256 that an object of Git LFS is named by, or '' for any other path."""
    found = re.fullmatch(_LFS, path) if place(path) else None
    return found[1] if found else ""
