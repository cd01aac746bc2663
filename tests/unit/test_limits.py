"""Every limit of the table is held from both sides: as much as it says is taken, one more is not.

Limits are lowered for the test, so that it costs nothing to reach them; what the numbers are for is said in ``modelguard/_limits.py``.
"""

from __future__ import annotations

import ast
import hashlib
import io
import json
import zlib
from base64 import b64encode
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from modelguard import Artifact, ArtifactFile, Attachment, Finding, LimitError, ModelguardError, SourceContext, Status, _limits, load_report
from modelguard._detectors.signature import _Refused as Refused
from modelguard._detectors.signature import _statement as signed_statement
from modelguard._formats import builtin_formats, opening
from modelguard._formats.card import read_card
from modelguard._formats.elements import size_in_bits
from modelguard._formats.mapped import _open
from modelguard._formats.onnx_schema import Messages
from modelguard._formats.opening import Opened, open_artifact
from modelguard._formats.pickled import runs_as_pickle
from modelguard._formats.protobuf import Wire, encode_field
from modelguard._formats.sniff import classify
from modelguard._inputs.config import artifact_json
from modelguard._lock.file import read_lock
from modelguard._policies.load import load_policy
from modelguard._scanner import budget, protocol
from modelguard._scanner.protocol import Answers, BadAnswer, Ended, Found, Progressed, decode, encode
from modelguard._scanner.values import NotJsonSafe, json_safe
from modelguard._sources.left_out import why
from modelguard._sources.listing import cached_listing, check_listing
from modelguard._sources.local import LocalSource
from modelguard._sources.references import references
from modelguard._sources.xet import Reconstructions
from modelguard.testing import safetensors_bytes, write_sharded

Attempt = Callable[[Path, int], bool]
"""Whether so much is taken."""
CASES: dict[str, tuple[tuple[str, ...], int, Attempt]] = {}


def case(limit: str, *places: str, lowered: int) -> Callable[[Attempt], Attempt]:
    """Declare how ``limit`` is met; ``places`` are the names that it has in the modules that hold it."""

    def add(attempt: Attempt) -> Attempt:
        CASES[limit] = (tuple(f"modelguard.{place}" for place in places), lowered, attempt)
        return attempt

    return add


def artifact_of(folder: Path) -> Artifact:
    files = [
        ArtifactFile(path.relative_to(folder).as_posix(), path, path.stat().st_size) for path in sorted(folder.rglob("*")) if path.is_file()
    ]
    return Artifact("x", "x", folder, tuple(files))


def opened(folder: Path) -> Opened:
    return open_artifact(artifact_of(folder), [item() for item in builtin_formats()])


def within(folder: Path) -> bool:
    """Whether opening the folder meets no limit."""
    return "MG0104" not in {problem.rule for problem in opened(folder).problems}


def written(folder: Path, name: str, content: bytes) -> ArtifactFile:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return ArtifactFile(name, path, len(content))


def takes(call: Callable[[], object], *errors: type[Exception]) -> bool:
    refusals = errors or (ModelguardError,)
    try:
        call()
    except refusals:
        return False
    return True


def entry(shape: list[int], end: int) -> dict[str, Any]:
    return {"dtype": "U8", "shape": shape, "data_offsets": [0, end]}


def fetched(folder: Path) -> bool:
    return takes(lambda: LocalSource(folder).fetch(str(folder), SourceContext(digest=False)))


# Sources


@case("FILES", "_sources.local.MAX_FILES", "_sources.listing.MAX_FILES", lowered=3)
def _files(folder: Path, count: int) -> bool:
    for number in range(count):
        written(folder, f"{number}", b"x")
    return fetched(folder)


@case("PATHS", "_limits.PATHS", lowered=20)
def _paths(folder: Path, size: int) -> bool:
    written(folder, "a" * 10, b"")
    written(folder, "b" * (size - 10), b"")
    return fetched(folder)


def listed(path: str) -> SimpleNamespace:
    return SimpleNamespace(path=path, size=1, blob_id="a" * 40, lfs=None, xet_hash=None)


@case("PATH", "_limits.PATH", lowered=20)
def _path(folder: Path, size: int) -> bool:
    return takes(lambda: check_listing("x", [listed("a" * size)]))


@case("LISTING", "_sources.listing.TREE_LIMIT", lowered=100)
def _listing(folder: Path, size: int) -> bool:
    body = '{"format_version": 1, "files": {}}'
    written(folder, f"trees/{'c' * 40}.json", body.ljust(size).encode())
    return cached_listing("x", folder, "c" * 40) is not None


@case("RECORD", "_sources.left_out.MAX_TEXT", lowered=82)
def _record(folder: Path, size: int) -> bool:
    return bool(why(written(folder, ".git/shallow", b"a" * 40 + b"\n" + b"b" * (size - 42) + b"\n")) if size == 82 else "")


@case("GIT_OBJECT", "_sources.left_out.MAX_OBJECT", lowered=100)
def _git_object(folder: Path, size: int) -> bool:
    content = b"blob 9\0".ljust(size)
    name = hashlib.sha1(content).hexdigest()
    return bool(why(written(folder, f".git/objects/{name[:2]}/{name[2:]}", zlib.compress(content))))


@case("REFERRING_INDEX", "_sources.references.INDEX_LIMIT", lowered=100)
def _referring_index(folder: Path, size: int) -> bool:
    return bool(references(written(folder, "x.json", json.dumps({"weight_map": {"w": "a"}}).ljust(size).encode())))


LOCATION = b"\x0a\x08location\x12\x01a"


@case("REFERRING_ONNX", "_sources.references.ONNX_LIMIT", lowered=100)
def _referring_onnx(folder: Path, size: int) -> bool:
    return bool(references(written(folder, "x.onnx", LOCATION.ljust(size))))


@case("REFERENCES", "_sources.references.MAX_REFERENCES", lowered=3)
def _references(folder: Path, count: int) -> bool:
    index = json.dumps({"weight_map": {str(n): f"f{n}" for n in range(count)}})
    return len(references(written(folder, "x.json", index.encode()))) == count


@case("XET_ANSWER", "_sources.xet.MAX_ANSWER", lowered=1000)
def _xet_answer(folder: Path, size: int) -> bool:
    content = json.dumps({"offset_into_first_range": 0, "terms": [], "casUrl": "x", "accessToken": "x"}).ljust(size).encode()
    response = SimpleNamespace(status_code=200, content=content, json=lambda: json.loads(content))
    session: Any = SimpleNamespace(attach=lambda: SimpleNamespace(get=lambda *args, **named: response), grant=lambda *args: None)
    return takes(lambda: Reconstructions(session, "x", "a/b", "c", {})._get("x", {}), ValueError)


# Formats


@case("HEADER", "_formats.safetensors.MAX_HEADER", lowered=200)
def _header(folder: Path, size: int) -> bool:
    written(folder, "m.safetensors", safetensors_bytes(json.dumps({"w": entry([0], 0)}).ljust(size).encode()))
    return within(folder)


@case("TENSORS", "_formats.safetensors.MAX_TENSORS", "_formats.uniform.MAX_TENSORS", "_formats.onnx_checkpoint.MAX_TENSORS", lowered=5)
def _tensors(folder: Path, count: int) -> bool:
    written(folder, "m.safetensors", safetensors_bytes({str(n): entry([0], 0) for n in range(count)}))
    return within(folder)


@case("RANK", "_formats.safetensors.MAX_RANK", "_formats.uniform.MAX_RANK", "_formats.onnx_tensors.MAX_RANK", lowered=4)
def _rank(folder: Path, rank: int) -> bool:
    written(folder, "m.safetensors", safetensors_bytes({"w": entry([1] * rank, 1)}, b"x"))
    return within(folder)


@case("NAME", "_formats.safetensors.MAX_NAME", "_formats.uniform.MAX_NAME", lowered=12)
def _name(folder: Path, length: int) -> bool:
    written(folder, "m.safetensors", safetensors_bytes({"w" * length: entry([0], 0)}))
    return within(folder)


@case("BITS", "_formats.elements.MAX_BITS", lowered=800)
def _bits(folder: Path, bits: int) -> bool:
    return size_in_bits("U8", (-(-bits // 8),)) is not None


def model(*fields: bytes) -> bytes:
    return b"\x08\x08" + b"".join(fields)


@case("PROTOBUF_FIELDS", "_formats.protobuf.MAX_FIELDS", lowered=50)
def _protobuf_fields(folder: Path, count: int) -> bool:
    # ir_version, the graph, and its name are fields themselves.
    written(folder, "m.onnx", model(encode_field(7, encode_field(2, b"g") + encode_field(99, b"") * (count - 3))))
    return within(folder)


@case("ONNX_DEPTH", "_formats.onnx_schema.MAX_DEPTH", lowered=12)
def _onnx_depth(folder: Path, depth: int) -> bool:
    return takes(lambda: list(Messages(Wire(memoryview(b""), "x")).fields("Graph", 0, 0, depth)), LimitError)


@case("ONNX_TEXT", lowered=_limits.ONNX_TEXT)
def _onnx_text(folder: Path, size: int) -> bool:
    note = encode_field(14, encode_field(1, b"note") + encode_field(2, b" " * size))
    written(folder, "m.onnx", model(encode_field(7, encode_field(2, b"g")), note))
    return within(folder)


@case("SHARD_INDEX", "_formats.shard_index.MAX_INDEX", lowered=600)
def _shard_index(folder: Path, size: int) -> bool:
    import numpy as np

    write_sharded(folder, {name: np.zeros(2, np.float32) for name in "ab"})
    index = folder / "model.safetensors.index.json"
    index.write_text(index.read_text().ljust(size))
    return within(folder)


@case("SHARD_BRACKETS", "_formats.shard_index.MAX_BRACKETS", lowered=20)
def _shard_brackets(folder: Path, count: int) -> bool:
    import numpy as np

    write_sharded(folder, {name: np.zeros(2, np.float32) for name in "ab"})
    index = folder / "model.safetensors.index.json"
    content = json.loads(index.read_text())
    there = index.read_text().count("{") + index.read_text().count("[")
    content["metadata"]["x"] = [[] for _ in range(count - there - 1)]
    index.write_text(json.dumps(content))
    return within(folder)


@case("SLACK", "_formats.opening.MAX_SLACK", lowered=1000)
def _slack(folder: Path, size: int) -> bool:
    return not list(opening._slack(written(folder, "data", bytes(10 + size)), [(0, 10)]))


@case("TEXT", "_formats.texts.MAX_TEXT", lowered=5000)
def _text(folder: Path, size: int) -> bool:
    return classify(written(folder, "notes", b"= " * (size // 2) + b"=" * (size % 2))).matter == "inert"


@case("PICKLE_OPCODES", "_formats.pickled.MAX_OPCODES", lowered=100)
def _pickle_opcodes(folder: Path, count: int) -> bool:
    # Numbers are opcodes; what ends in something that is none before the limit is no pickle.
    content = b"N" * (count - 1) + b"\xff"
    return not runs_as_pickle(io.BytesIO(content), len(content))


@case("PICKLE_LINE", "_formats.pickled.MAX_LINE", lowered=100)
def _pickle_line(folder: Path, size: int) -> bool:
    content = b"I" + b"1" * (size - 2) + b"\n\xff"
    return not runs_as_pickle(io.BytesIO(content), len(content))


@case("CONFIGURATION", "_inputs.config.MAX_BYTES", lowered=100)
def _configuration(folder: Path, size: int) -> bool:
    written(folder, "config.json", b"{}".ljust(size))
    written(folder, "m.safetensors", safetensors_bytes({"w": entry([0], 0)}))
    (checkpoint,) = opened(folder).checkpoints
    return takes(lambda: artifact_json(artifact_of(folder), checkpoint, "config.json"))


@case("MAPS", "_formats.mapped.MAX_OPEN", lowered=3)
def _maps(folder: Path, count: int) -> bool:
    _open.clear()
    for number in range(count):
        written(folder, f"{number}.safetensors", safetensors_bytes({"w": entry([1], 1)}, b"x"))
    checkpoints = opened(folder).checkpoints
    for checkpoint in checkpoints:
        checkpoint.read("w")
    return len(_open) == count


# Reports


def report_finding(**changed: Any) -> Finding:
    return replace(Finding("MG0001", "m"), **changed)


@case("REPORT_BYTES", lowered=1000)
def _report_bytes(folder: Path, size: int) -> bool:
    return budget.Budget(1000).values({"x": "y" * (size - len(json.dumps({"x": ""})))}) is not None


@case("REASON", "_scanner.budget.REASON", lowered=400)
def _reason(folder: Path, length: int) -> bool:
    return budget.clipped("x" * length) == "x" * length


@case("ANSWER", "_scanner.protocol.MAX_LINE", lowered=1000)
def _answer(folder: Path, size: int) -> bool:
    answers = Answers()
    answers.feed(encode(Ended("d", Status.COMPLETED, "", {})).rstrip().ljust(size) + b"\n")
    return takes(answers.next, BadAnswer)


@case("ANSWERS", "_scanner.protocol.MAX_TOTAL", lowered=1000)
def _answers(folder: Path, size: int) -> bool:
    return takes(lambda: Answers().feed(b" " * size), BadAnswer)


@case("FINDINGS", "_scanner.protocol.MAX_FINDINGS", lowered=3)
def _findings(folder: Path, count: int) -> bool:
    answers = Answers()
    answers.feed(encode(Found("d", report_finding())) * count)
    return takes(lambda: [answers.next() for _ in range(count)], BadAnswer)


@case("ATTACHMENT", "_scanner.protocol.MAX_ATTACHMENT", lowered=100)
def _attachment(folder: Path, size: int) -> bool:
    return takes(lambda: decode(encode(Found("d", report_finding(attachments=(Attachment("a", "image/png", bytes(size)),))))))


@case("NOTE", "_scanner.protocol.MAX_NOTE", lowered=10)
def _note(folder: Path, length: int) -> bool:
    answer = decode(encode(Progressed("d", 1, 2, "x" * length)))
    assert isinstance(answer, Progressed)
    return answer.note == "x" * length


@case("NESTING", "_scanner.values.MAX_DEPTH", lowered=5)
def _nesting(folder: Path, depth: int) -> bool:
    value: Any = 1
    for _ in range(depth):
        value = [value]
    return takes(lambda: json_safe(value, "x"), NotJsonSafe)


@case("WHOLE", "_scanner.values.MAX_WHOLE", lowered=100)
def _whole(folder: Path, number: int) -> bool:
    return takes(lambda: json_safe([number, -number], "x"), NotJsonSafe)


@case("STORED_REPORT", "api.MAX_REPORT_BYTES", lowered=100_000)
def _stored_report(folder: Path, size: int) -> bool:
    stored = (Path(__file__).parents[1] / "golden" / "reports" / "everything.json").read_text(encoding="utf-8")
    (folder / "r.json").write_bytes(stored.encode().ljust(size))
    return takes(lambda: load_report(folder / "r.json"))


# Policies

POLICY = "version: 1\nname: x\ndetectors: {required: [weight-diff]}\n"


@case("POLICY_BYTES", "_policies.load.MAX_BYTES", lowered=200)
def _policy_bytes(folder: Path, size: int) -> bool:
    (folder / "p.yaml").write_text((POLICY + "#").ljust(size, "x"))
    return takes(lambda: load_policy(folder / "p.yaml"))


@case("LOCK_BYTES", "_limits.LOCK_BYTES", lowered=200)
def _lock_bytes(folder: Path, size: int) -> bool:
    (folder / "m.lock").write_text("version: 1\nmodels: {}\n#".ljust(size, "x"))
    return takes(lambda: read_lock(folder / "m.lock"))


@case("SIGNATURE", "_limits.SIGNATURE", lowered=300)
def _signature(folder: Path, size: int) -> bool:
    statement = {"predicate": {"serialization": {"method": "files"}, "resources": []}}
    envelope = {"dsseEnvelope": {"payload": b64encode(json.dumps(statement).encode()).decode()}}
    file = written(folder, "model.sig", json.dumps(envelope).encode().ljust(size))
    return takes(lambda: signed_statement(file), Refused)


@case("CARD", "_limits.CARD", lowered=200)
def _card(folder: Path, size: int) -> bool:
    (folder / "README.md").write_text("---\nlicense: mit\n#".ljust(size - 4, "x") + "\n---")
    return read_card(artifact_of(folder)).licence == "mit"


@case("POLICY_DEPTH", "_policies.read.MAX_DEPTH", lowered=6)
def _policy_depth(folder: Path, depth: int) -> bool:
    (folder / "p.yaml").write_text(POLICY + "waivers: " + "[" * (depth - 1) + "]" * (depth - 1) + "\n")
    with pytest.raises(ModelguardError) as refused:
        load_policy(folder / "p.yaml")
    return "nested too deeply" not in str(refused.value)


@case("POLICY_FILES", "_policies.load.MAX_FILES", lowered=4)
def _policy_files(folder: Path, count: int) -> bool:
    for number in range(count):
        parent = f"extends: [p{number + 1}.yaml]\n" if number + 1 < count else ""
        (folder / f"p{number}.yaml").write_text(POLICY + parent)
    return takes(lambda: load_policy(folder / "p0.yaml"))


def test_every_limit_is_listed_and_says_what_it_is_for() -> None:
    tree = ast.parse(Path(_limits.__file__).read_text(encoding="utf-8"))
    names = [node.targets[0].id for node in tree.body if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name)]
    assert set(names) == CASES.keys()
    for at, node in enumerate(tree.body):
        if isinstance(node, ast.Assign):
            following = tree.body[at + 1]
            assert isinstance(following, ast.Expr), ast.unparse(node)


@pytest.mark.parametrize("limit", CASES)
def test_as_much_is_taken_and_no_more(limit: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    places, lowered, attempt = CASES[limit]
    for place in places:
        monkeypatch.setattr(place, lowered)
    for folder in ("at", "past"):
        (tmp_path / folder).mkdir()
    assert attempt(tmp_path / "at", lowered)
    assert not attempt(tmp_path / "past", lowered + 1)


def test_the_modules_hold_the_limits_of_the_table() -> None:
    import importlib

    for limit, (places, _, _) in CASES.items():
        for place in places:
            module, _, name = place.rpartition(".")
            assert getattr(importlib.import_module(module), name) == getattr(_limits, limit), place
    assert protocol.MAX_LINE == _limits.ANSWER
