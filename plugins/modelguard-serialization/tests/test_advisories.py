"""Published advisories, one test each, where no other test has them: loaders, and scanners that let something through.

Nothing here would do more than make a file, and that file must never appear.
"""

from __future__ import annotations

import io
import json
import struct
import tarfile
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from modelguard_serialization.detector import RULES
from modelguard_serialization.testing import look_through

from modelguard import Severity

SEVERITY = {rule.id: rule.severity for rule in RULES}
MARKER = Path("modelguard-advisory-was-executed")
COMMAND = f"touch {MARKER}"
CALL = f"cos\nsystem\n(S'{COMMAND}'\ntR.".encode()


@pytest.fixture(autouse=True)
def canary() -> Iterator[None]:
    yield
    assert not MARKER.exists()


def said(name: str, data: bytes | dict[str, Any], beside: dict[str, bytes] | None = None) -> set[tuple[str, Severity]]:
    """Rules and severities of what is found; every file here is one that some reader takes, and takes to its end."""
    look, readers = look_through(name, json.dumps(data).encode() if isinstance(data, dict) else data, beside)
    assert readers
    assert not look.missed
    return {(finding.rule, SEVERITY[finding.rule] if finding.severity is None else finding.severity) for finding in look.findings}


# Names that scanners with a list of the forbidden let through. Each is https://github.com/advisories/ and the id.
NAMES = {
    # picklescan
    "GHSA-3gf5-cxq9-w223": "idlelib.pyshell ModifiedInterpreter.runcode",
    "GHSA-j343-8v2j-ff7w": "idlelib.pyshell ModifiedInterpreter.runcommand",
    "GHSA-m869-42cg-3xwr": "idlelib.run Executive.runcode",
    "GHSA-3vg9-h568-4w9m": "idlelib.debugobj ObjectTreeItem.SetText",
    "GHSA-6w4w-5w54-rjvr": "idlelib.autocomplete AutoComplete.get_entity",
    "GHSA-7cq8-mj8x-j263": "idlelib.autocomplete AutoComplete.fetch_completions",
    "GHSA-8r4j-24qv-fmq9": "idlelib.calltip Calltip.fetch_tip",
    "GHSA-9xph-j2h6-g47v": "idlelib.calltip get_entity",
    "GHSA-f54q-57x4-jg88": "lib2to3.pgen2.grammar Grammar.loads",
    "GHSA-p9w7-82w4-7q8m": "lib2to3.pgen2.pgen ParserGenerator.make_label",
    "GHSA-49gj-c84q-6qm9": "cProfile run",
    "GHSA-9w88-8rmg-7g2p": "cProfile runctx",
    "GHSA-x696-vm39-cp64": "profile Profile.run",
    "GHSA-6vqj-c2q5-j97w": "profile Profile.runctx",
    "GHSA-7wx9-6375-f5wh": "profile run",
    "GHSA-5qwp-399c-mjwf": "trace Trace.run",
    "GHSA-g344-hcph-8vgg": "trace Trace.runctx",
    "GHSA-fqq6-7vqf-w3fg": "doctest debug_script",
    "GHSA-cj3c-v495-4xqh": "code InteractiveInterpreter.runcode",
    "GHSA-xp4f-hrf8-rxw7": "ensurepip _run_pip",
    "GHSA-m273-6v24-x4m4": "distutils.file_util write_file",
    "GHSA-q77w-mwjj-7mqx": "asyncio.unix_events _UnixSubprocessTransport._start",
    "GHSA-jgw4-cr84-mqxg": "asyncio.unix_events _UnixSubprocessTransport._start",
    "GHSA-4675-36f9-wf6r": "ctypes CDLL",
    "GHSA-84r2-jw7c-4r5q": "pydoc locate",
    "GHSA-vqmv-47xg-9wpr": "pty spawn",
    "GHSA-hgrh-qx5j-jfwx": "pty spawn",
    "GHSA-93mv-x874-956g": "ssl get_server_certificate",
    "GHSA-m7j5-r2p5-c39r": "logging FileHandler",
    "GHSA-955r-x9j8-7rhh": "_operator methodcaller",
    "GHSA-46h3-79wf-xr6c": "_operator attrgetter",
    "GHSA-r8g5-cgf2-4m4m": "numpy.f2py.crackfortran getlincoef",
    "GHSA-rrxm-2pvv-m66x": "numpy.f2py.crackfortran getlincoef",
    "GHSA-3329-ghmp-jmv5": "numpy.f2py.crackfortran myeval",
    "GHSA-6556-fwc2-fg2p": "numpy.f2py.crackfortran _eval_length",
    "GHSA-cffc-mxrf-mhh4": "numpy.f2py.crackfortran param_eval",
    "GHSA-fj43-3qmq-673f": "numpy.testing._private.utils runstring",
    "GHSA-v7x6-rv5q-mhwc": "timeit timeit",
    "GHSA-4r9r-ch6f-vxmx": "torch.utils.bottleneck.__main__ run_cprofile",
    "GHSA-4whj-rm5r-c2v8": "torch.utils.bottleneck.__main__ run_autograd_prof",
    "GHSA-86cj-95qr-2p4f": "torch._dynamo.guards GuardBuilder.get",
    "GHSA-f4x7-rfwp-v3xw": "torch.fx.experimental.symbolic_shapes ShapeEnv.evaluate_guards_expression",
    "GHSA-f745-w6jp-hpxx": "torch.utils.collect_env run",
    "GHSA-jhph-76pp-mggw": "torch.utils.collect_env run_and_read_all",
    "GHSA-h3qp-7fh3-f8h4": "torch.utils.data.datapipes.utils.decoder basichandlers",
    "GHSA-vr7h-p6mm-wpmh": "torch.jit.unsupported_tensor_ops execWrapper",
    "GHSA-vv6j-3g6g-2pvj": "torch.utils._config_module ConfigModule.load_config",
    # fickling
    "GHSA-r7v6-mfhq-g3m2": "pty spawn",
    "GHSA-565g-hwwr-4pp3": "marshal loads",
    "GHSA-wfq2-52f7-7qvj": "runpy run_path",
    "GHSA-p523-jq9w-64x9": "cProfile run",
    "GHSA-5hvc-6wx8-mvv4": "pydoc locate",
    "GHSA-q5qq-mvfm-j35x": "multiprocessing.util spawnv_passfds",
    "GHSA-h4rm-mm56-xf63": "builtins __import__",
    "GHSA-r48f-3986-4f9c": "linecache getlines",
    "GHSA-5cxw-w2xg-2m8h": "platform popen",
    "GHSA-5hwf-rc88-82xm": "_osx_support _read_output",
    "GHSA-cffv-grgg-g429": "antigravity geohash",  # any module of the standard library that no list had
}
# Several names under one advisory: GHSA-g38g-8gr9-h9xp (CVE-2026-56315) and https://nvd.nist.gov/vuln/detail/CVE-2026-56304 of picklescan.
MORE = [
    "uuid _get_command_stdout",
    "_osx_support _read_output",
    "_aix_support _read_cmd_output",
    "_pyrepl.pager pipe_pager",
    "imaplib IMAP4_stream",
    "test.support.script_helper assert_python_ok",
    "codeop compile_command",
    "compileall compile_file",
    "py_compile compile",
    "logging FileHandler",
    "types FunctionType",
    "importlib import_module",
]


def calls(path: str, stacked: bool) -> bytes:
    """A pickle that calls ``module attribute`` with a text, named by GLOBAL or by STACK_GLOBAL."""
    module, name = path.split()
    if stacked:
        texts = b"".join(b"\x8c" + bytes([len(part)]) + part.encode() for part in (module, name))
        return b"\x80\x04" + texts + b"\x93\x8c\x01x\x85R."
    return b"\x80\x02" + f"c{module}\n{name}\n".encode() + b"U\x01x\x85R."


@pytest.mark.parametrize("stacked", [False, True], ids=["global", "stack global"])
@pytest.mark.parametrize("path", [*NAMES.values(), *MORE], ids=[*NAMES, *MORE])
def test_a_name_that_another_scanner_let_through_is_critical(path: str, stacked: bool) -> None:
    assert said("model.pkl", calls(path, stacked)) == {("MG0310", Severity.CRITICAL)}


@pytest.mark.parametrize("path", ["collections Counter", "numpy int64", "torch Size", "pathlib PurePosixPath"])
def test_a_name_that_picklers_write_is_no_alarm(path: str) -> None:
    assert not said("model.pkl", calls(path, stacked=True))


# https://github.com/advisories/GHSA-9gvj-pp9x-gcfr: the first instruction of all is one of the two texts that make the name.
def test_a_name_whose_module_is_the_first_instruction() -> None:
    assert said("model.pkl", b"\x8c\x02os\x8c\x06system\x93" + f"(S'{COMMAND}'\ntR.".encode()) == {("MG0310", Severity.CRITICAL)}


# https://github.com/advisories/GHSA-97f8-7cmv-76j2 (CVE-2026-53875): the magic number of a legacy torch file is computed, so not seen.
def test_a_magic_number_that_is_computed() -> None:
    rest = b"\x80\x02M\xe9\x03." + b"\x80\x02}." + CALL + b"\x80\x02]."
    assert said("model.pt", b"\x80\x02c__builtin__\neval\nU\x0cMAGIC_NUMBER\x85R." + rest) == {("MG0310", Severity.CRITICAL)}


# https://nvd.nist.gov/vuln/detail/CVE-2026-4538: torch.export's archives hold torch files, and compiled code.
def test_an_exported_program_is_what_it_holds() -> None:
    def exported(inputs: bytes) -> bytes:
        inner, outer = io.BytesIO(), io.BytesIO()
        with zipfile.ZipFile(inner, "w") as archive:
            archive.writestr("archive/data.pkl", inputs)
            archive.writestr("archive/version", b"3\n")
        with zipfile.ZipFile(outer, "w") as archive:
            archive.writestr("m/archive_format", b"pt2")
            archive.writestr("m/archive_version", b"0")
            archive.writestr("m/models/model.json", b'{"graph_module": {}}')
            archive.writestr("m/data/sample_inputs/model.pt", inner.getvalue())
        return outer.getvalue()

    assert said("model.pt2", exported(CALL)) == {("MG0310", Severity.CRITICAL)}
    assert not said("model.pt2", exported(b"\x80\x02)."))


# https://nvd.nist.gov/vuln/detail/CVE-2025-32434: what weights_only let through before torch 2.6, its two other kinds of file.
def test_the_tar_files_of_old_torch() -> None:
    def saved(pickled: bytes) -> bytes:
        made = io.BytesIO()
        with tarfile.open(fileobj=made, mode="w") as archive:
            for name, data in (("sys_info", b"}."), ("storages", b"K\0."), ("tensors", b"K\0."), ("pickle", pickled)):
                entry = tarfile.TarInfo(name)
                entry.size = len(data)
                archive.addfile(entry, io.BytesIO(data))
        return made.getvalue()

    assert said("model.pt", saved(CALL)) == {("MG0310", Severity.CRITICAL)}
    assert not said("model.pt", saved(b"\x80\x02}."))


def test_torchscript_under_the_name_of_weights() -> None:
    def saved(line: str) -> bytes:
        made = io.BytesIO()
        with zipfile.ZipFile(made, "w") as archive:
            archive.writestr("archive/data.pkl", b"\x80\x02c__torch__\nM\n)\x81}b.")
            archive.writestr("archive/constants.pkl", b"\x80\x02).")
            archive.writestr("archive/version", b"3\n")
            archive.writestr(
                "archive/code/__torch__.py", f"class M(Module):\n  def forward(self, x: Tensor) -> Tensor:\n    {line}\n    return x\n"
            )
        return made.getvalue()

    assert ("MG0332", Severity.CRITICAL) in said("pytorch_model.bin", saved(f"torch.save(x, '{MARKER}')"))
    assert not {rule for rule, severity in said("pytorch_model.bin", saved("x = torch.relu(x)")) if severity >= Severity.MEDIUM}


# https://nvd.nist.gov/vuln/detail/CVE-2024-37065 and https://nvd.nist.gov/vuln/detail/CVE-2025-54886: skops, and joblib behind its name.
def test_skops_files_are_what_they_hold() -> None:
    assert said("model.skops", CALL) == {("MG0310", Severity.CRITICAL)}
    made = io.BytesIO()
    with zipfile.ZipFile(made, "w") as archive:
        node = {"__class__": "system", "__module__": "os", "__loader__": "FunctionNode", "content": {}}
        archive.writestr("schema.json", json.dumps({**node, "protocol": 2, "_skops_version": "0.9"}))
    assert ("MG0334", Severity.CRITICAL) in said("model.skops", made.getvalue())


def keras(layer: dict[str, Any]) -> dict[str, Any]:
    return {"module": "keras", "class_name": "Sequential", "config": {"name": "s", "layers": [layer]}, "registered_name": None}


# https://github.com/advisories/GHSA-4f3f-g24h-fr8m (CVE-2026-1462): a layer that loads and runs another SavedModel in spite of safe_mode.
def test_a_layer_that_loads_a_saved_model() -> None:
    layer = {"module": "keras.layers", "class_name": "TFSMLayer", "config": {"filepath": "/tmp/x", "call_endpoint": "serve"}}
    assert said("config.json", keras(layer)) == {("MG0330", Severity.CRITICAL)}
    assert not said("config.json", keras({**layer, "class_name": "Dense", "config": {"units": 3}}))


# https://nvd.nist.gov/vuln/detail/CVE-2026-12479: the name of a layer becomes a path when the model is saved.
@pytest.mark.parametrize("name", ["..", "../../evil", "a/../../evil", "/etc/evil", "..\\evil"])
def test_a_layer_whose_name_is_a_path_that_leads_out(name: str) -> None:
    layer = {"module": "keras.layers", "class_name": "Dense", "config": {"name": name, "units": 3}}
    assert said("config.json", keras(layer)) == {("MG0336", Severity.CRITICAL)}
    for ordinary in ("dense", "block_1/conv..2", "a.b", "tf.math.add~1"):
        assert not said("config.json", keras({**layer, "config": {"name": ordinary, "units": 3}}))


# https://nvd.nist.gov/vuln/detail/CVE-2026-4372: the fix names both keys. Where in the file they stand does not matter.
@pytest.mark.parametrize("key", ["_attn_implementation_internal", "_experts_implementation_internal", "experts_implementation"])
def test_a_kernel_that_a_configuration_has_fetched(key: str) -> None:
    for config in ({key: "somebody/kernel"}, {"vision_config": [{key: "somebody/kernel"}]}):
        assert said("config.json", {"model_type": "llama", **config}) == {("MG0334", Severity.HIGH)}
    assert not said("config.json", {"model_type": "llama", key: "eager"})


# https://nvd.nist.gov/vuln/detail/CVE-2026-5241
def test_a_configuration_that_trusts_code_on_its_own() -> None:
    part = {"model_type": "disk", "_name_or_path": "somebody/detector"}
    config = {"model_type": "lightglue", "keypoint_detector_config": part}
    assert said("config.json", {**config, "trust_remote_code": True}) == {("MG0334", Severity.MEDIUM)}
    assert not said("config.json", {**config, "trust_remote_code": False})
    assert not said("config.json", {"model_type": "llama", "_name_or_path": "org/model", "trust_remote_code": True})


# https://nvd.nist.gov/vuln/detail/CVE-2026-44827: diffusers before 0.38 runs a file of this name without being asked.
def test_a_pipeline_called_none() -> None:
    assert ("MG0350", Severity.HIGH) in said("None.py", f"import os\nos.system({COMMAND!r})\n".encode())
    assert max(severity for _, severity in said("None.py", b"NOTHING = None\n")) == Severity.LOW


# https://github.com/ggml-org/llama.cpp/security/advisories/GHSA-96jg-mvhq-q7q7 (CVE-2026-33298): bytes of a tensor that overflow.
def test_a_tensor_whose_bytes_overflow() -> None:
    name = struct.pack("<Q", 1) + b"w"
    header = b"GGUF" + struct.pack("<IQQ", 3, 1, 0) + name + struct.pack("<IQQQIQ", 3, 2**31, 2**31, 2, 0, 0)
    look, readers = look_through("model.gguf", header + bytes(64 - len(header) % 32))
    assert readers
    assert look.missed


def tflite(*shape: int) -> bytes:
    """A TensorFlow Lite model of one tensor. Every table has its fields right behind it, and every offset leads forward."""
    vtable = struct.pack("<HHHHH", 10, 16, 0, 0, 4)  # a model whose third field, the graphs, is 4 bytes into it
    model = struct.pack("<i", 10) + struct.pack("<I", 12) + bytes(8)
    graphs = struct.pack("<II", 1, 4 + 8)  # one graph, past its own list of fields
    graph = struct.pack("<HHHH", 6, 8, 4, 0) + struct.pack("<i", 8) + struct.pack("<I", 4)
    tensors = struct.pack("<II", 1, 4 + 8)
    tensor = struct.pack("<HHHH", 6, 8, 4, 0) + struct.pack("<i", 8) + struct.pack("<I", 4)
    dimensions = struct.pack(f"<I{len(shape)}i", len(shape), *shape)
    return struct.pack("<I4s", 18, b"TFL3") + vtable + model + graphs + graph + tensors + tensor + dimensions


# https://nvd.nist.gov/vuln/detail/CVE-2026-42627: sizes that overflow where they are counted in 32 bits.
def test_a_tensor_with_more_values_than_32_bits_count() -> None:
    assert not said("model.tflite", tflite(1, 224, 224, 3))
    for shape in ((2**16, 2**16), (2**31 - 1, 2), (-(2**16), 2**16)):
        look, readers = look_through("model.tflite", tflite(*shape))
        assert readers
        assert ["32 bits" in reason for reason in look.missed] == [True]
