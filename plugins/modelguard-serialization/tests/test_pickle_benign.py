"""What frameworks write must yield nothing, and the machine must name what CPython's unpickler names."""

from __future__ import annotations

import argparse
import collections
import datetime
import decimal
import functools
import io
import pathlib
import pickle
import random
import re
import types
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from modelguard_serialization._pickle.machine import BrokenError, Deaf, Machine
from modelguard_serialization._pickle.run import run
from modelguard_serialization._pickle.values import Global
from modelguard_serialization._readers.pickles import LegacyTorchReader, PickleReader
from modelguard_serialization.blob import Blob
from modelguard_serialization.testing import look_through

from modelguard import runs_as_pickle


def plain() -> dict[str, Any]:
    return {
        "python": [
            datetime.datetime(2020, 1, 1), datetime.timedelta(1), decimal.Decimal("1.1"), uuid.UUID(int=1), pathlib.PurePosixPath("a"),
            random.Random(1), re.compile("a"), argparse.Namespace(a=1), types.SimpleNamespace(a=1), functools.partial(int, base=3),
            {1, 2}, frozenset([1]), b"abc" * 100, bytearray(b"x" * 20), 1 + 2j, slice(1), range(3), collections.Counter("abc"),
            collections.defaultdict(list, a=[1]), collections.deque([1]), collections.OrderedDict(a=1), type(None), Ellipsis,
            ValueError("x"), 2**70, -(2**2000), 1.5, "x" * 70_000, b"y" * 70_000, "\\ud800 \\n \u00e9",
        ],
        "numpy": [
            np.arange(5), np.float32(1), np.array(["a", "bc"]), np.array([1, "x", None], dtype=object), np.datetime64("2020"),
            np.array([(1, 2.0)], dtype=[("a", "i4"), ("b", "f8")]), np.ma.array([1, 2], mask=[False, True]), np.random.RandomState(0),
            np.random.default_rng(0), np.dtype("f4"), np.float64, np.asfortranarray(np.eye(3)), np.log, np.arange(1000.0), np.empty((0, 3)),
        ],
    }  # fmt: skip


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """Files by name, as their frameworks write them."""
    joblib = pytest.importorskip("joblib")
    from sklearn.ensemble import GradientBoostingClassifier, HistGradientBoostingClassifier, RandomForestClassifier
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.linear_model import LogisticRegression, SGDClassifier
    from sklearn.neighbors import KNeighborsClassifier
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(40, 3)), np.arange(40) % 2
    estimators = [
        make_pipeline(StandardScaler(), LogisticRegression()), RandomForestClassifier(3), GradientBoostingClassifier(n_estimators=3),
        HistGradientBoostingClassifier(max_iter=3), SGDClassifier(), KNeighborsClassifier(algorithm="kd_tree"),
    ]  # fmt: skip
    objects = plain() | {type(item).__name__: item.fit(x, y) for item in estimators} | {"tfidf": TfidfVectorizer().fit(["a bc", "bc de"])}
    found = {f"{name}.{protocol}.pkl": pickle.dumps(value, protocol) for name, value in objects.items() for protocol in range(6)}
    for name, value in objects.items():
        buffer = io.BytesIO()
        joblib.dump(value, buffer)
        found[f"{name}.joblib"] = buffer.getvalue()
    return found | torch_files()


def torch_files() -> dict[str, bytes]:
    torch = pytest.importorskip("torch")
    model = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.BatchNorm1d(4), torch.nn.MultiheadAttention(4, 2), torch.nn.GELU())
    optimiser = torch.optim.AdamW(model.parameters())
    sum(p.sum() for p in model.parameters()).backward()
    optimiser.step()
    found: dict[str, bytes] = {}
    for name, value in {"state": model.state_dict(), "whole": model, "optimiser": optimiser.state_dict()}.items():
        buffer = io.BytesIO()
        torch.save(value, buffer, _use_new_zipfile_serialization=False)
        found[f"{name}.legacy.pt"] = buffer.getvalue()
        found[f"{name}.torch.pkl"] = pickle.dumps(value)
    return found


def test_files_of_frameworks_yield_nothing(files: dict[str, bytes]) -> None:
    for name, data in files.items():
        look, readers = look_through(name, data)
        assert readers, name
        assert [finding.message for finding in look.findings] == [], name
        assert look.missed == [], name


class Recorder(Deaf):
    def __init__(self) -> None:
        self.names: list[tuple[str, str]] = []

    def imported(self, name: Global) -> None:
        self.names.append((name.module, name.name))


class Reference(pickle._Unpickler):
    proto: int

    """CPython's unpickler, of files this test wrote, noting what it looks up."""

    def __init__(self, data: bytes) -> None:
        super().__init__(io.BytesIO(data))
        self.names: list[tuple[str, str]] = []

    def find_class(self, module: str, name: str) -> Any:
        found = super().find_class(module, name)
        from _compat_pickle import IMPORT_MAPPING, NAME_MAPPING

        if self.proto < 3:
            module, name = NAME_MAPPING.get((module, name), (IMPORT_MAPPING.get(module, module), name))
        self.names.append((module, name))
        return found


def test_the_machine_names_what_cpython_names(files: dict[str, bytes]) -> None:
    compared = 0
    for name, data in files.items():
        if name.endswith(".pkl"):
            reference, recorder = Reference(data), Recorder()
            reference.load()
            machine = Machine(memoryview(data), 0, recorder, lambda: None)
            run(machine)
            assert recorder.names == reference.names, name
            assert machine.at == len(data)
            compared += 1
    assert compared > 40


CANARY = Path("modelguard-canary-was-executed")
PIECES = [
    b"N", b"\x88", b"]", b"}", b")", b"(", b"t", b"l", b"d", b"0", b"1", b"2", b"\x85", b"\x86", b"\x87", b"a", b"e", b"s", b"u", b"R",
    b"b", b"\x81", b"\x92", b"o", b"\x8f", b"\x90", b"\x91", b"\x94", b"h\x00", b"q\x00", b"g0\n", b"p0\n", b"K\x01", b"J\x01\x00\x00\x00",
    b"I0x10\n", b"L5L\n", b"F1e5\n", b"S'os'\n", b"Vsystem\n", b"\x8c\x02os", b"\x8c\x06system", b"X\x01\x00\x00\x00x", b"\x93",
    b"cos\nsystem\n", b"ccollections\nOrderedDict\n", b"ios\nsystem\n", b"\x82\x01", b"P1\n", b"Q", b"\x80\x02", b"\x80\x04",
    b"\x95\x04\x00\x00\x00\x00\x00\x00\x00", b"\x97", b"\x98", b"C\x02ab", b"\x8a\x01\x01", b".", b"\xff",
    b"cjoblib.numpy_pickle\nNumpyArrayWrapper\n", b"\x96\x02\x00\x00\x00\x00\x00\x00\x00ab", b"cfunctools\npartial\n",
]  # fmt: skip


@pytest.fixture(scope="module", autouse=True)
def canary() -> Iterator[None]:
    yield
    assert not CANARY.exists()


@settings(max_examples=300, deadline=None)
@given(st.one_of(st.lists(st.sampled_from(PIECES), max_size=40).map(b"".join), st.binary(max_size=80)))
def test_any_sequence_of_opcodes_ends_in_an_answer(data: bytes) -> None:
    blob = Blob("x", memoryview(data).toreadonly())
    taken = [reader for reader in (PickleReader(), LegacyTorchReader()) if reader.recognise(blob)]
    if runs_as_pickle(io.BytesIO(data), len(data)):
        assert taken  # the machine reads whatever the core calls a pickle
    look, _ = look_through("x", data)
    assert not any("failed" in why for why in look.missed)
    machine = Machine(blob.data, 0, Deaf(), lambda: None)
    try:
        run(machine)
    except BrokenError:
        return
    assert machine.at <= len(data)


@settings(max_examples=100, deadline=None)
@given(st.lists(st.sampled_from(PIECES), max_size=30).map(b"".join))
def test_what_follows_a_command_never_hides_it(tail: bytes) -> None:
    look, _ = look_through("x", b"\x80\x02cos\nsystem\n(X\x01\x00\x00\x00xtR" + tail)
    assert "MG0310" in {finding.rule for finding in look.findings}
