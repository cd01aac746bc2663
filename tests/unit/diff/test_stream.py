"""The streaming pass: the same numbers as numpy's, for any number of threads, in bounded memory."""

from __future__ import annotations

import json
import subprocess
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from modelguard import diff_checkpoints, numpy_dtype
from modelguard._diff.detector import summary
from modelguard._diff.operand import Operand
from modelguard._diff.stream import Statistics, measure
from modelguard.testing import ArrayCheckpoint, safetensors_bytes


def measured(before: Any, after: Any, dtype: str) -> Statistics:
    return measure(Operand(before, dtype, before.shape), Operand(after, dtype, after.shape))


@pytest.mark.parametrize("dtype", ["F64", "F32", "F16", "BF16", "F8_E4M3", "F8_E5M2", "I8", "I32"])
@pytest.mark.parametrize("shape", [(700, 900), (1, 100_000), (3000, 7), (5, 30_000)])
def test_sums_are_those_of_numpy(dtype: str, shape: tuple[int, int]) -> None:
    rng = np.random.default_rng(0)
    scale = 40 if dtype[0] == "I" else 0.5
    before, after = ((scale * rng.standard_normal(shape)).astype(numpy_dtype(dtype)) for _ in range(2))
    w, d = before.astype(np.float64), after.astype(np.float64) - before.astype(np.float64)
    found = measured(before, after, dtype)
    sums = found.sums
    assert sums.changed == np.count_nonzero(before.view(f"u{before.itemsize}") != after.view(f"u{after.itemsize}"))
    for value, expected in ((sums.ww, (w * w).sum()), (sums.dd, (d * d).sum()), (sums.d4, (d**4).sum())):
        assert value == pytest.approx(float(expected), rel=1e-5)
    assert sums.wd == pytest.approx(float((w * d).sum()), abs=1e-5 * float((d * d).sum()))
    assert sums.max_abs == pytest.approx(float(np.abs(d).max()), rel=1e-6)
    if shape[0] > 1:
        assert found.row_energy is not None
        assert found.column_energy is not None
        np.testing.assert_allclose(found.row_energy, (d * d).sum(axis=1), rtol=1e-4)
        np.testing.assert_allclose(found.column_energy, (d * d).sum(axis=0), rtol=1e-4)
        assert found.rows is not None
        assert found.columns is not None
        np.testing.assert_array_equal(found.rows, (before.view(f"u{before.itemsize}") != after.view(f"u{after.itemsize}")).any(axis=1))
        np.testing.assert_array_equal(found.columns, (before.view(f"u{before.itemsize}") != after.view(f"u{after.itemsize}")).any(axis=0))


def test_sums_of_a_tall_matrix_are_exact_though_the_sketches_spare_most_of_it() -> None:
    rng = np.random.default_rng(0)
    before = (0.5 * rng.standard_normal((9000, 40))).astype(numpy_dtype("BF16"))
    after = (before.astype(np.float32) + 0.1 * rng.standard_normal(before.shape)).astype(before.dtype)
    after[5000, 7] = 9
    w, d = before.astype(np.float64), after.astype(np.float64) - before.astype(np.float64)
    found = measured(before, after, "BF16")
    assert 2048 <= found.sketched < 5000
    assert found.sums.max_abs == np.abs(d).max()
    for value, expected in ((found.sums.ww, (w * w).sum()), (found.sums.dd, (d * d).sum()), (found.sums.wd, (w * d).sum())):
        assert value == pytest.approx(float(expected), rel=1e-5)
    assert found.sums.d_sum == pytest.approx(float(d.sum()), abs=1e-4)
    assert found.rows is not None
    assert found.columns is not None
    assert found.rows.all()
    assert found.columns.all()
    assert found.row_energy is not None
    seen = found.row_energy > 0
    assert np.count_nonzero(seen) == found.sketched
    np.testing.assert_allclose(found.row_energy[seen], (d * d).sum(axis=1)[seen], rtol=1e-4)
    assert found.energy == pytest.approx(float(found.row_energy.sum()))


@pytest.mark.parametrize("rank", [1, 16])
def test_rank_of_a_change_of_which_the_sketches_see_half(rank: int) -> None:
    rng = np.random.default_rng(rank)
    before = (0.02 * rng.standard_normal((4200, 600))).astype(numpy_dtype("BF16"))
    step = rng.standard_normal((4200, rank)) @ rng.standard_normal((rank, 600)) * (0.004 / rank**0.5)
    after = (before.astype(np.float32) + step).astype(before.dtype)
    diff = diff_checkpoints([ArrayCheckpoint({"w": before})], [ArrayCheckpoint({"w": after})])
    assert [(item.kind, item.rank) for item in diff.tensors] == [("low-rank", rank)]


def test_threads_do_not_change_a_single_number(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("modelguard._diff.diff.SHARE", 1)
    rng = np.random.default_rng(0)
    reference = {f"layers.{i}.w": (0.02 * rng.standard_normal((1500, 3000))).astype(numpy_dtype("BF16")) for i in range(2)}
    reference |= {f"layers.{i}.b": rng.standard_normal(3000).astype(np.float32) for i in range(40)}
    step = np.outer(rng.standard_normal(1500), rng.standard_normal(3000)) * 0.0002
    changed = {k: (v.astype(np.float64) + (step if v.ndim == 2 else 0.01)).astype(v.dtype) for k, v in reference.items()}
    changed["layers.1.w"] = (reference["layers.1.w"].astype(np.float64) + 0.001 * rng.standard_normal((1500, 3000))).astype(
        numpy_dtype("BF16")
    )
    results = []
    for threads in (1, 2, 5):
        diff = diff_checkpoints([ArrayCheckpoint(reference)], [ArrayCheckpoint(changed)], threads=threads)
        results.append(json.dumps([summary(diff), [item.evidence for item in diff.tensors]], sort_keys=True, default=dict))
    assert results[0] == results[1] == results[2]
    assert {item.kind for item in diff.tensors if item.is_matrix} == {"low-rank", "dense"}


CAPPED = """
    import json, resource, sys
    from pathlib import Path
    from modelguard import Artifact, ArtifactFile
    from modelguard._formats.safetensors import SafetensorsFormat
    from modelguard import diff_checkpoints

    def opened(path):
        file = ArtifactFile(path.name, path, path.stat().st_size)
        return SafetensorsFormat().open(file, Artifact(path.name, "local:test", path.parent, (file,)))[0]

    import numpy.linalg, threadpoolctl, modelguard._diff.diff
    limit = int(sys.argv[3])
    status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines() if ":" in line)
    held = int(status["VmData"].split()[0]) * 1024
    resource.setrlimit(resource.RLIMIT_DATA, (held + limit, held + limit))
    diff = diff_checkpoints([opened(Path(sys.argv[1]))], [opened(Path(sys.argv[2]))], threads=2)
    print(json.dumps([diff.change.kind, len(diff.tensors)]))
"""


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Callable[[int], tuple[Path, Path]]:
    """Two files of 144 MB, of whose three matrices the second has as many changed as asked for."""
    folder, shape, count = tmp_path_factory.mktemp("pair"), (4000, 6000), 3
    rng = np.random.default_rng(0)
    base = (0.02 * rng.standard_normal(shape, dtype=np.float32)).astype(numpy_dtype("BF16"))
    moved = (base.astype(np.float32) + 0.001 * rng.standard_normal(shape, dtype=np.float32)).astype(base.dtype)
    offsets = [index * base.nbytes for index in range(count + 1)]
    header = {
        f"layers.{index}.weight": {"dtype": "BF16", "shape": shape, "data_offsets": offsets[index : index + 2]} for index in range(count)
    }

    def write(name: str, changed: int) -> Path:
        path = folder / f"{name}.safetensors"
        with path.open("wb") as out:
            out.write(safetensors_bytes(header))
            for index in range(count):
                out.write((moved if index < changed else base).view(np.uint16).data)
        return path

    before = write("before", 0)
    return lambda changed: (before, write("after", changed))


@pytest.mark.skipif(sys.platform != "linux", reason="RLIMIT_DATA counts anonymous memory on Linux only")
@pytest.mark.parametrize(("edited", "verdict"), [(1, "lone-change"), (3, "fine-tune")])
def test_pair_larger_than_the_memory_it_may_use(pair: Callable[[int], tuple[Path, Path]], edited: int, verdict: str) -> None:
    # The diff may take 96 MB on top of what the interpreter and its libraries hold.
    command = [sys.executable, "-c", textwrap.dedent(CAPPED), *map(str, pair(edited)), str(96 << 20)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env={"OPENBLAS_NUM_THREADS": "1", "PATH": ""})
    assert done.returncode == 0, done.stderr[-2000:]
    assert json.loads(done.stdout) == [verdict, edited]
