"""Pickles made by hand, one test for each way round scanners that is known, and beside each an ordinary pickle that looks like it."""

from __future__ import annotations

import base64
import collections
import io
import pickle
import struct
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from modelguard_serialization._readers.pickles import LegacyTorchReader, PickleReader
from modelguard_serialization.detector import RULES
from modelguard_serialization.reader import Look
from modelguard_serialization.testing import look_through

from modelguard import Severity

SEVERITY = {rule.id: rule.severity for rule in RULES}
MARKER = Path("modelguard-canary-was-executed")
COMMAND = f"touch {MARKER}"


@pytest.fixture(autouse=True)
def canary() -> Iterator[None]:
    yield
    assert not MARKER.exists()


def scan(data: bytes, name: str = "model.bin", beside: dict[str, bytes] | None = None) -> Look:
    return look_through(name, data, beside)[0]


def rules(data: bytes, name: str = "model.bin", beside: dict[str, bytes] | None = None) -> set[str]:
    return {finding.rule for finding in scan(data, name, beside).findings}


def blocked(look: Look) -> bool:
    return any((finding.severity or SEVERITY[finding.rule]) >= Severity.HIGH for finding in look.findings)


def clean(data: bytes, name: str = "model.bin", beside: dict[str, bytes] | None = None) -> bool:
    look, readers = look_through(name, data, beside)
    return bool(readers) and not look.findings and not look.missed


# An assembler: pieces of pickles.


def text(value: str) -> bytes:
    raw = value.encode("utf-8", "surrogatepass")
    return b"X" + struct.pack("<I", len(raw)) + raw


def short(value: str) -> bytes:
    raw = value.encode()
    return b"\x8c" + bytes([len(raw)]) + raw


def name(module: str, attribute: str) -> bytes:
    return f"c{module}\n{attribute}\n".encode()


def stacked(module: str, attribute: str) -> bytes:
    return short(module) + short(attribute) + b"\x93"


def call(callee: bytes, *args: bytes) -> bytes:
    return callee + b"(" + b"".join(args) + b"tR"


def system(command: str = COMMAND) -> bytes:
    return call(name("os", "system"), text(command))


P2, P4 = b"\x80\x02", b"\x80\x04"


@pytest.mark.parametrize("protocol", range(6))
def test_a_command_in_every_protocol(protocol: int) -> None:
    class Payload:
        def __reduce__(self) -> Any:
            import os

            return os.system, (COMMAND,)

    look = scan(pickle.dumps({"weights": [1.0], "x": Payload()}, protocol=protocol), "vocab.json")
    assert [finding.rule for finding in look.findings] == ["MG0310"]
    assert COMMAND[:10] in look.findings[0].evidence["arguments"]
    assert not look.missed


# Names no denylist had: https://github.com/advisories/GHSA-655q-fx9r-782v (pip.main, CVE-2025-1716),
# https://github.com/mmaitre314/picklescan/security/advisories/GHSA-vvpj-8cmc-gx39 (pkgutil.resolve_name),
# https://github.com/trailofbits/fickling/security/advisories/GHSA-mhc9-48gj-9gp3, https://github.com/protectai/modelscan/issues/338
@pytest.mark.parametrize(
    "path",
    [
        "os system",
        "posix system",
        "nt system",
        "subprocess Popen",
        "subprocess check_output",
        "builtins eval",
        "builtins exec",
        "builtins compile",
        "builtins __import__",
        "builtins getattr",
        "builtins open",
        "builtins breakpoint",
        "pip main",
        "pip._internal main",
        "pkgutil resolve_name",
        "runpy _run_code",
        "pydoc locate",
        "pydoc pipepager",
        "ctypes CDLL",
        "code InteractiveInterpreter",
        "pty spawn",
        "pdb run",
        "bdb Bdb.run",
        "cProfile run",
        "profile run",
        "timeit timeit",
        "trace Trace.run",
        "webbrowser open",
        "importlib import_module",
        "imp load_source",
        "shutil rmtree",
        "socket socket",
        "urllib.request urlopen",
        "requests.api get",
        "smtplib SMTP",
        "ssl get_server_certificate",
        "imaplib IMAP4_stream",
        "asyncio.unix_events _UnixSubprocessTransport",
        "multiprocessing.util spawnv_passfds",
        "torch.utils.collect_env run",
        "torch.hub load",
        "torch load",
        "torch.jit load",
        "torch.utils.bottleneck.__main__ run_cprofile",
        "torch.fx.graph_module reduce_graph_module",
        "numpy.testing._private.utils runstring",
        "numpy.f2py.crackfortran getlincoef",
        "numpy.distutils.exec_command exec_command",
        "numpy load",
        "sympy.utilities.lambdify lambdify",
        "pandas.io.pickle read_pickle",
        "pandas eval",
        "mlflow.projects.backend.local _run_entry_point",
        "dill._dill _create_code",
        "cloudpickle.cloudpickle _make_function",
        "marshal loads",
        "pickle loads",
        "types FunctionType",
        "types CodeType",
        "operator attrgetter",
        "operator methodcaller",
        "functools reduce",
        "idlelib.pyshell ModifiedInterpreter.runcode",
        "lib2to3.pgen2.pgen ParserGenerator",
        "distutils.file_util write_file",
        "ensurepip _run_pip",
        "venv EnvBuilder",
        "uuid _get_command_stdout",
        "uuid _popen",
        "aiohttp.client request",
        "keras.models load_model",
        "tensorflow.python.ops.io_ops read_file",
        "logging.config listen",
        "scipy.stats._distn_infrastructure rv_frozen",
        "sys modules",
        "sys setprofile",
        "__builtin__ eval",
        "commands getoutput",
    ],
)
def test_names_that_are_known_to_do_harm_are_critical(path: str) -> None:
    module, attribute = path.split()
    found = scan(P2 + call(name(module, attribute), text(COMMAND)) + b".")
    assert blocked(found)
    assert {finding.rule for finding in found.findings} == {"MG0310"}


def test_a_name_that_no_list_has_is_refused_even_if_it_is_only_looked_up() -> None:
    assert rules(P2 + name("stylegan.legacy", "Generator") + b"0N.") == {"MG0311"}
    assert rules(P4 + stacked("osmium", "Reader") + b".") == {"MG0311"}  # not os


# Submodules and parts of names: https://github.com/advisories/GHSA-f7qq-56ww-84cr (CVE-2025-10157)
def test_names_are_compared_whole() -> None:
    assert rules(P2 + call(name("collections", "OrderedDictionary")) + b".") == {"MG0311"}
    assert rules(P2 + call(name("collections.abc", "OrderedDict")) + b".") == {"MG0311"}
    assert clean(P2 + call(name("collections", "OrderedDict")) + b".")


# https://github.com/trailofbits/fickling/security/advisories/GHSA-5j3x-jp52-966f
@pytest.mark.parametrize("attribute", ["OrderedDict.__reduce__.__globals__", "abc.sys.modules", "namedtuple.__globals__", "_sys.modules"])
def test_a_dotted_name_is_followed_to_its_end(attribute: str) -> None:
    assert rules(P4 + call(stacked("collections", attribute), text("x")) + b".") == {"MG0310"}
    assert clean(P4 + call(stacked("collections", "deque"), b"]") + b".")


# https://github.com/protectai/modelscan/issues/330
def test_builtins_by_way_of_numpy() -> None:
    look = scan(P4 + stacked("numpy", "__builtins__") + short("eval") + short("x") + b"s0N.")
    assert {finding.rule for finding in look.findings} == {"MG0310", "MG0312"}


def test_a_module_that_another_module_imported() -> None:
    assert rules(P4 + call(stacked("numpy", "os.system"), text(COMMAND)) + b".") == {"MG0310"}
    assert rules(P4 + stacked("torch", "sys") + b".") == {"MG0310"}


# Python 2 names are translated below protocol 3, and PROTO may be given again.
def test_names_of_python_2() -> None:
    assert rules(b"c__builtin__\neval\n(S'1'\ntR.") == {"MG0310"}
    assert clean(b"c__builtin__\nset\n((lp0\nI1\natR.")
    assert "MG0310" in rules(b"\x80\x04N0\x80\x02c__builtin__\neval\n(S'1'\ntR.")


# Stack and memo: https://github.com/mmaitre314/picklescan/security/advisories/GHSA-9m3x-qqw2-h32h
@pytest.mark.parametrize(
    "data",
    [
        short("os") + b"\x940" + short("system") + b"\x940" + b"h\x00h\x01\x93" + b"(" + text(COMMAND) + b"tR.",
        short("os")
        + b"q\x05"
        + b"0"
        + short("safe")
        + b"q\x06"
        + b"0"
        + short("system")
        + b"q\x060"
        + b"h\x05h\x06\x93("
        + text("x")
        + b"tR.",
        short("system") + short("os") + b"2q\x000" + b"0q\x010h\x00h\x01\x93(" + text("x") + b"tR.",
        b"(" + short("os") + short("system") + b"\x93" + text("x") + b"o.",
        b"(" + text("x") + b"ios\nsystem\n.",
        b"(((" + short("os") + short("system") + b"\x93" + text("x") + b"o00" + b"0N.",
        short("os") + short("system") + b"\x93" + text("x") + b"\x85R0}.",
        short("os") + short("system") + b"\x93)}\x92.",
        short("os") + short("system") + b"\x93)\x81.",
        b"U\x02osU\x06system\x93(" + text("x") + b"tR.",
        b"S'o\\x73'\nV\\u0073ystem\n\x93(" + text("x") + b"tR.",
        b"I0x10\n0L0x10L\n0I 7\n0F1_0.5\n0" + short("os") + short("system") + b"\x93(" + text("x") + b"tR.",
        b"p 1_0\n"[:0] + short("os") + b"p 1_0\n0" + b"g10\n" + short("system") + b"\x93(" + text("x") + b"tR.",
    ],
)
def test_the_stack_and_the_memo_are_the_unpicklers(data: bytes) -> None:
    assert "MG0310" in rules(P4 + data)


def test_a_name_that_is_computed() -> None:
    look = scan(P4 + call(stacked("builtins", "str"), text("os")) + short("system") + b"\x93(" + text("x") + b"tR.")
    assert blocked(look)
    assert "MG0315" in {finding.rule for finding in look.findings}
    assert clean(P4 + call(stacked("builtins", "str"), text("os")) + b".")


def test_memo_entries_that_are_not_there_or_are_overwritten() -> None:
    assert rules(P4 + stacked("collections", "deque") + b"0h\x63.") == {"MG0314"}
    assert "MG0315" in rules(P2 + name("collections", "deque") + b"q\x000" + name("builtins", "dict") + b"q\x000N.")
    assert "MG0315" in rules(P4 + name("collections", "deque") + b"q\x010" + name("builtins", "dict") + b"\x940N.")
    assert "MG0315" in rules(P2 + b"Nr\xff\xff\xff\xff.", "a.pkl")


# https://github.com/trailofbits/fickling/security/advisories/GHSA-mhc9-48gj-9gp3: what is popped or built on has run all the same.
def test_results_that_are_thrown_away() -> None:
    assert "MG0310" in rules(P2 + system() + b"0" + call(name("collections", "OrderedDict")) + b".")
    assert "MG0310" in rules(P2 + system() + b"}b0N.")


# https://github.com/trailofbits/fickling/pull/317
def test_frames() -> None:
    inner = pickle.dumps([1])
    overlapping = P4 + b"\x95" + struct.pack("<Q", 60) + b"N0\x95" + struct.pack("<Q", 4) + b"N0N." + bytes(60)
    assert "MG0315" in rules(overlapping)
    hidden = P4 + b"\x95" + struct.pack("<Q", 20) + b"N." + b"\xff" * 18 + P2 + system() + b"."
    assert {"MG0310", "MG0315"} <= rules(hidden)
    assert clean(inner)


# nullifAI: https://www.reversinglabs.com/blog/rl-identifies-malware-ml-model-hosted-on-hugging-face
@pytest.mark.parametrize("tail", [b"", b"\xff", b"X\xff\xff", b"0000.", b"h\x09."])
def test_what_stands_before_a_broken_end_is_kept_and_the_rest_is_missed(tail: bytes) -> None:
    look = scan(P2 + system() + tail)
    assert {finding.rule for finding in look.findings} == {"MG0310", "MG0314"}
    assert look.missed
    look = scan(P2 + call(name("collections", "OrderedDict")) + tail)
    assert {finding.rule for finding in look.findings} == {"MG0314"}
    assert look.missed


def test_later_pickles_in_a_file() -> None:
    assert rules(pickle.dumps([1]) * 3 + P2 + system() + b".") == {"MG0310"}
    assert clean(pickle.dumps([1]) * 3)
    assert scan(pickle.dumps([1]) + b"something else").missed
    assert clean(pickle.dumps([1]) + b"\n\0\0")


# https://github.com/Lab700xOrg/aisbom/issues/91: joblib's arrays lie between the opcodes.
def _joblib(before: bytes = b"", after: bytes = b"", padding: bytes = b"", array: np.ndarray | None = None) -> bytes:
    array = np.arange(6.0) if array is None else array
    wrapper = {
        "subclass": np.ndarray, "shape": array.shape, "order": "C", "dtype": array.dtype, "allow_mmap": True,
        "numpy_array_alignment_bytes": 16,
    }  # fmt: skip
    state = pickle.dumps(wrapper, protocol=2)[2:-1]
    pad = padding if padding else b"\x03\xff\xff\xff"
    raw = array.tobytes() if not array.dtype.hasobject else b""
    body = name("joblib.numpy_pickle", "NumpyArrayWrapper") + b")\x81" + state + b"b"
    return P2 + b"}" + text("k") + before + text("w") + body + (pad if raw else b"") + raw + after


def test_arrays_that_joblib_writes_between_opcodes() -> None:
    head = P2 + b"}(" + text("w")
    body = _joblib()[len(P2 + b"}" + text("k") + text("w")) :]
    assert clean(head + body + b"u.")
    look = scan(head + body + text("x") + system() + b"u.")
    assert {finding.rule for finding in look.findings} == {"MG0310"}
    assert not look.missed


def test_arrays_of_objects_are_pickles_of_their_own() -> None:
    head = P2 + b"}(" + text("w")
    body = _joblib(array=np.array([None], dtype=object))[len(P2 + b"}" + text("k") + text("w")) :]
    assert clean(head + body + pickle.dumps([None], protocol=2) + b"u.")
    assert rules(head + body + P2 + system() + b"." + b"u.") == {"MG0310"}


def test_an_array_that_other_loaders_take_for_opcodes() -> None:
    payload = b"0" + system("x") + b"."
    padding = payload + b"\0" * (ord("0") - len(payload) + 1)
    body = _joblib(padding=padding)[len(P2 + b"}" + text("k") + text("w")) :]
    assert rules(P2 + b"}(" + text("w") + body + b"u.") == {"MG0310"}


def test_pickles_in_bytes_and_texts() -> None:
    inner = P2 + system() + b"."
    assert "MG0310" in rules(pickle.dumps({"payload": inner}))
    assert "MG0310" in rules(pickle.dumps(base64.b64encode(inner).decode()))
    assert "MG0310" in rules(pickle.dumps(zlib.compress(inner)))
    assert "MG0310" in rules(pickle.dumps(base64.b64encode(zlib.compress(inner))))
    assert "MG0310" in rules(pickle.dumps(inner.hex()))
    assert "MG0315" in rules(pickle.dumps(base64.b64encode(b"import os\nos.system('x')  # and more of it").decode()))
    assert clean(pickle.dumps({"sha": "ab" * 32, "text": "import os  # a text about code", "key": "A" * 40, "raw": bytes(range(200))}))
    assert clean(pickle.dumps([pickle.dumps([1, 2])]))


# https://github.com/mmaitre314/picklescan/blob/main/tests/data/pytorch_magic_bypass.pt: a magic number that is wrong.
def test_legacy_torch_files_with_another_magic_number() -> None:
    good = pickle.dumps(0x1950A86A20F9469CFC6C, 2) + pickle.dumps(1001, 2) + pickle.dumps({"little_endian": True}, 2)
    assert clean(good + pickle.dumps({}, 2) + pickle.dumps([], 2))
    assert rules(good + P2 + system() + b"." + pickle.dumps([], 2)) == {"MG0310"}
    wrong = pickle.dumps(0x1950A86A20F9469CFC6D, 2) + pickle.dumps(1001, 2) + pickle.dumps({}, 2) + P2 + system() + b"."
    assert rules(wrong) == {"MG0310"}
    trailing = good + pickle.dumps({}, 2) + pickle.dumps([], 2) + P2 + system() + b"."
    assert rules(trailing) == {"MG0310"}


def test_objects_in_numpy_files() -> None:
    def npy(pickled: bytes) -> bytes:
        header = b"{'descr': '|O', 'fortran_order': False, 'shape': (1,), }\n"
        return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header + pickled

    assert rules(npy(P2 + system() + b"."), "array.npy") == {"MG0310"}
    assert clean(npy(pickle.dumps([1])), "array.npy")
    plain = io.BytesIO()
    np.save(plain, np.arange(3))
    assert clean(plain.getvalue(), "array.npy")
    assert scan(plain.getvalue()[:-1], "array.npy").missed


@pytest.mark.parametrize("code", [b"\x82\x01", b"\x83\x01\x00", b"\x84\x01\x00\x00\x00"])
def test_extension_codes(code: bytes) -> None:
    assert blocked(scan(P2 + code + b")R.", "a.pkl"))


def test_persistent_ids_and_buffers() -> None:
    assert "MG0315" in rules(P2 + text("anything") + b"Q.", "a.pkl")
    assert "MG0315" in rules(b"\x80\x05\x8c\x01x0\x97.", "a.pkl")
    storage = b"(" + text("storage") + name("torch", "FloatStorage") + text("0") + text("cpu") + b"K\x06tQ"
    assert clean(P2 + storage + b".", "a.pkl")


def _tensor(offset: int, size: tuple[int, ...], stride: tuple[int, ...], storage: bytes | None = None) -> bytes:
    found = b"(" + text("storage") + name("torch", "FloatStorage") + text("0") + text("cpu") + b"K\x06tQ" if storage is None else storage
    rest = [pickle.dumps(part, 2)[2:-1] for part in (offset, size, stride, False)]
    return call(name("torch._utils", "_rebuild_tensor_v2"), found, *rest, call(name("collections", "OrderedDict")))


# Sizes and strides past the storage are CVE-2026-24747's kind: https://github.com/advisories/GHSA-63cw-57p8-fm3p
def test_tensors_that_reach_past_their_storage() -> None:
    assert clean(P2 + _tensor(0, (2, 3), (3, 1)) + b".")
    for hostile in (_tensor(1, (2, 3), (3, 1)), _tensor(0, (2, 3), (30, 1)), _tensor(-1, (2,), (1,)), _tensor(0, (2,), (1,), b"N")):
        assert rules(P2 + hostile + b".") == {"MG0312"}


@pytest.mark.parametrize(
    ("hostile", "harmless"),
    [
        (call(name("copyreg", "_reconstructor"), name("argparse", "Namespace"), name("argparse", "Namespace"), b"N"),
         call(name("copyreg", "_reconstructor"), name("argparse", "Namespace"), name("builtins", "object"), b"N")),
        (call(name("_codecs", "encode"), text("x"), b"]"), call(name("_codecs", "encode"), text("x"))),
        (call(name("_codecs", "encode"), text("x"), text("rot13")), call(name("_codecs", "encode"), text("x"), text("latin1"))),
        (call(name("numpy.core.multiarray", "_reconstruct"), name("collections", "deque"), b"K\x00\x85", text("b")),
         call(name("numpy.core.multiarray", "_reconstruct"), name("numpy", "ndarray"), b"K\x00\x85", text("b"))),
        (call(name("numpy.core", "_ufunc_reconstruct"), text("os"), text("system")),
         call(name("numpy.core", "_ufunc_reconstruct"), text("numpy"), text("log"))),
        (call(name("numpy.random._pickle", "__generator_ctor"), text("id"), name("builtins", "str")),
         call(name("numpy.random._pickle", "__generator_ctor"), text("PCG64"), name("numpy.random._pickle", "__bit_generator_ctor"))),
        (call(name("builtins", "type"), text("X"), b")", b"}"), call(name("builtins", "type"), b"N")),
        (call(name("functools", "partial"), name("torch.storage", "_load_from_bytes"), text("x")),
         call(name("functools", "partial"), name("builtins", "int"), text("x"))),
        (call(call(name("functools", "partial"), name("builtins", "int")), text("1")), call(name("builtins", "int"), text("1"))),
        (call(name("collections", "defaultdict"), text("x")), call(name("collections", "defaultdict"), name("builtins", "list"))),
        (call(name("xgboost.core", "Booster"), b"N", b")", text("http://example.invalid/")), name("xgboost.core", "Booster") + b")\x81"),
        (name("argparse", "Namespace") + b"N}" + text("__reduce__") + b"Ns\x86b", name("argparse", "Namespace") + b")\x81}b"),
        (name("argparse", "Namespace") + b")\x81}" + text("__class__") + name("builtins", "int") + b"sb",
         name("argparse", "Namespace") + b")\x81}" + text("klass") + name("builtins", "int") + b"sb"),
        (call(name("torch._tensor", "_rebuild_from_type_v2"), name("builtins", "str"), name("torch", "Tensor"), b")", b"}"),
         call(name("torch._tensor", "_rebuild_from_type_v2"), name("torch._utils", "_rebuild_meta_tensor_no_storage"),
              name("torch", "Tensor"), b")", b"}")),
        (call(name("torch.nn.functional", "relu"), b"N"), name("torch.nn.functional", "relu")),
    ],
)  # fmt: skip
def test_allowed_names_with_hostile_arguments(hostile: bytes, harmless: bytes) -> None:
    look = scan(P2 + hostile + b".")
    assert blocked(look)
    assert {finding.rule for finding in look.findings} == {"MG0312"}
    assert clean(P2 + harmless + b".")


def test_torch_files_in_bytes_are_looked_at_too() -> None:
    legacy = pickle.dumps(0x1950A86A20F9469CFC6C, 2) + pickle.dumps(1001, 2) + pickle.dumps({"little_endian": True}, 2)
    good, bad = legacy + pickle.dumps({}, 2) + pickle.dumps([], 2), legacy + P2 + system() + b"." + pickle.dumps([], 2)

    def load(raw: bytes) -> bytes:
        return b"\x80\x03" + call(name("torch.storage", "_load_from_bytes"), b"B" + struct.pack("<I", len(raw)) + raw) + b"."

    assert rules(load(bad)) == {"MG0310"}
    assert clean(load(good))
    encoded = call(name("_codecs", "encode"), text(bad.decode("latin-1")), text("latin1"))
    assert rules(P2 + call(name("torch.storage", "_load_from_bytes"), encoded) + b".") == {"MG0310"}
    assert blocked(scan(P2 + call(name("torch.storage", "_load_from_bytes"), call(name("builtins", "bytes"), b"K\x05")) + b"."))


# ShadowPickle: https://arxiv.org/abs/2607.17503
@pytest.mark.parametrize(
    "path", ["collections.py", "collections/__init__.py", "sub/collections.py", "sub/collections.cpython-311-x86_64-linux-gnu.so"]
)
def test_a_file_that_takes_the_place_of_an_allowed_module(path: str) -> None:
    data = pickle.dumps(collections.OrderedDict(a=1), protocol=2)
    assert rules(data, "sub/model.bin", {path: b"x"}) == {"MG0313"}
    assert clean(data, "sub/model.bin", {"other/collections.py": b"x", "collections.txt": b"x", "sub/mycollections.py": b"x"})


def test_torchscripts_own_classes() -> None:
    data = P2 + name("__torch__.model", "Net") + b")\x81}b."
    assert clean(data, "data.pkl")
    assert rules(data, "data.pkl", {"__torch__/__init__.py": b"x"}) == {"MG0313"}


# Scanners that stop at a size, a depth or a number: https://github.com/promptfoo/promptfoo/issues/6266
def test_depth_and_sharing_cost_what_they_take_in_the_file() -> None:
    assert rules(P2 + b"(" * 50_000 + b"0" * 50_000 + system() + b".") == {"MG0310"}
    assert rules(P2 + b"]" + b"2\x86" * 20_000 + b"0" + system() + b".") == {"MG0310"}  # 2 ** 50000 leaves, if copied
    assert rules(P2 + b")" + b"\x85" * 50_000 + b"0" + system() + b".") == {"MG0310"}
    assert len(scan(P2 + system() * 2000 + b".").findings) == 1


def test_text_is_not_taken_for_a_pickle() -> None:
    for words in (b"cat\ndog\nbird\n", b"(a list)\n", b"I am\nno pickle.\n", b"the\nof\n.\n", b"c\na\nb\n"):
        look, readers = look_through("vocab.txt", words)
        assert not any(isinstance(reader, PickleReader | LegacyTorchReader) for reader in readers)
        assert not look.findings


LOADS = name("torch.storage", "_load_from_bytes")


@pytest.mark.parametrize(
    "hostile",
    [
        # An attribute the state has set takes the place of the method that adds items.
        name("argparse", "Namespace") + b")\x81}" + text("append") + LOADS + b"sb" + b"C\x02xxa",
        name("pytorch_lightning.utilities.parsing", "AttributeDict") + b")\x81" + text("append") + LOADS + b"s" + b"C\x02xxa",
        name("pytorch_lightning.utilities.parsing", "AttributeDict") + b")\x81" + text("__setstate__") + LOADS + b"s" + b"C\x02xxb",
        call(name("functools", "partial"), name("builtins", "int")) + call(name("builtins", "tuple"), b"]") + b"b",
        call(name("logging", "getLogger"), text("x")) + b"}b",
        call(name("builtins", "type"), b"N") + b"N}\x86b",
        name("numpy", "memmap") + text("file") + b"\x85\x81",
        call(name("copyreg", "__newobj__"), call(name("builtins", "type"), b"N")),
    ],
)
def test_instances_that_are_made_to_do_something_else(hostile: bytes) -> None:
    assert blocked(scan(P2 + hostile + b"."))


def test_items_come_before_a_state() -> None:
    made = name("pytorch_lightning.utilities.parsing", "AttributeDict") + b")\x81" + text("a") + b"K\x01s"
    assert clean(P2 + made + b"}" + text("b") + b"K\x01sb.")


@pytest.mark.parametrize(
    "make",
    [
        lambda cls: call(name("copyreg", "_reconstructor"), cls, name("builtins", "object"), b"N"),
        lambda cls: call(name("copyreg", "__newobj__"), cls),
        lambda cls: call(cls),
        lambda cls: b"(" + cls + b"o",
    ],
)
def test_joblibs_wrapper_however_it_is_made(make: Any) -> None:
    whole = _joblib(after=system("x"))
    cls = name("joblib.numpy_pickle", "NumpyArrayWrapper")
    assert (cls + b")\x81") in whole
    made = whole.replace(cls + b")\x81", make(cls)).replace(P2 + b"}" + text("k") + text("w"), P2 + text("w"))
    look = scan(made + b".")
    assert {finding.rule for finding in look.findings} == {"MG0310"}
    assert not look.missed


def test_a_dtype_that_says_another_size() -> None:
    state = b"(K\x03" + text("|") + b"NNNK\x64K\x01K\x00tb"
    odd = call(name("numpy", "dtype"), text("S1")) + state
    wrapper = name("joblib.numpy_pickle", "NumpyArrayWrapper") + b")\x81}(" + text("shape") + b"K\x01\x85" + text("dtype") + odd + b"ub"
    assert scan(P2 + wrapper + b"\x00" * 200 + b".").missed
