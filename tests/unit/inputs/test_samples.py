"""Samples from disk: what is read, what is refused, and that nothing is unpickled."""

from __future__ import annotations

import hashlib
import json
import os
import sys
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from modelguard import SamplesError, load_samples
from modelguard._inputs.samples import samples_sha256


class Bomb:
    """Unpickling it leaves a file behind."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return (os.mkdir, (str(self.path),))


def test_npz_and_safetensors_hold_inputs_and_labels(tmp_path: Path) -> None:
    from safetensors.numpy import save_file

    inputs, labels = np.random.default_rng(0).random((5, 3, 4, 4)).astype(np.float32), np.array([0, 1, 2, 0, 1])
    np.savez(tmp_path / "a.npz", inputs=inputs, labels=labels)
    np.savez_compressed(tmp_path / "b.npz", inputs=inputs, labels=labels.astype(np.uint8)[:, None], extra=np.zeros(3))
    save_file({"inputs": inputs, "labels": labels}, tmp_path / "c.safetensors")
    for name in ("a.npz", "b.npz", "c.safetensors"):
        samples = load_samples(tmp_path / name)
        np.testing.assert_array_equal(samples.inputs, inputs)
        assert samples.labels is not None
        assert samples.labels.dtype == np.int64
        np.testing.assert_array_equal(samples.labels, labels)
        assert samples.origin == name
        assert samples.sha256 == hashlib.sha256((tmp_path / name).read_bytes()).hexdigest()


def test_an_encrypted_archive_and_one_that_does_not_decompress_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.npz"
    np.savez_compressed(path, inputs=np.random.default_rng(0).random((40, 3)))
    whole = path.read_bytes()
    encrypted = bytearray(whole)
    for signature, flags in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        encrypted[whole.index(signature) + flags] |= 1
    path.write_bytes(encrypted)
    with pytest.raises(SamplesError, match=r"^a\.npz: is not a valid \.npz file \(.*encrypted"):
        load_samples(path)
    path.write_bytes(whole[:64] + b"\xff" * 20 + whole[84:])
    with pytest.raises(SamplesError, match=r"^a\.npz: is not a valid \.npz file \(Error -3 while decompressing"):
        load_samples(path)


def test_an_image_that_is_broken_inside_is_refused(tmp_path: Path) -> None:
    image = pytest.importorskip("PIL.Image")
    path = tmp_path / "broken.png"
    image.fromarray(np.random.default_rng(0).integers(0, 256, (256, 256, 3), np.uint8)).save(path)
    first, second, *rest = path.read_bytes().split(b"IDAT")
    path.write_bytes(b"IDAT".join((first, second + b"\xff" * 4 + rest[0], *rest[1:])))
    with pytest.raises(SamplesError, match=r"^broken\.png: is not an image that can be read \(SyntaxError\)"):
        load_samples(tmp_path)


def test_labels_are_optional(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", inputs=np.zeros((2, 3)))
    assert load_samples(tmp_path / "a.npz").labels is None


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"x": np.zeros(3)}, r"no array called inputs \(it has x\)"),
        ({"inputs": np.zeros((0, 3))}, "holds no sample"),
        ({"inputs": np.zeros((3, 2)), "labels": np.zeros(2, int)}, "has 3 inputs but labels of shape 2"),
        ({"inputs": np.zeros((3, 2)), "labels": np.eye(3)}, "has 3 inputs but labels of shape 3x3"),
        ({"inputs": np.zeros((3, 2)), "labels": np.array([0.5, 1, 2])}, "not whole class numbers"),
        ({"inputs": np.zeros((3, 2)), "labels": np.array([-1, 1, 2])}, "not whole class numbers"),
        ({"inputs": np.zeros((3, 2)), "labels": np.array(["a", "b", "c"])}, "not class numbers"),
        ({"inputs": np.zeros(3, complex)}, "inputs are complex128"),
    ],
)
def test_what_does_not_fit_is_named(tmp_path: Path, arrays: dict[str, Any], message: str) -> None:
    np.savez(tmp_path / "a.npz", **arrays)
    with pytest.raises(SamplesError, match=message):
        load_samples(tmp_path / "a.npz")


def test_further_arrays_are_what_inputs_of_their_names_are_given(tmp_path: Path) -> None:
    rate = np.array(8000)
    np.savez(tmp_path / "a.npz", inputs=np.zeros((3, 2)), sr=rate, odd=np.array([Bomb(tmp_path / "unpickled")], dtype=object))
    with zipfile.ZipFile(tmp_path / "a.npz", "a") as archive:
        archive.writestr("README.txt", "no array")
    from safetensors.numpy import save_file

    save_file({"inputs": np.zeros((3, 2)), "sr": rate}, tmp_path / "a.safetensors")
    for name in ("a.npz", "a.safetensors"):
        assert load_samples(tmp_path / name).others == {"sr": rate}
    assert not (tmp_path / "unpickled").exists()


def test_pickles_are_never_loaded(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", inputs=np.array([Bomb(tmp_path / "unpickled")], dtype=object))
    with pytest.raises(SamplesError, match="Python objects, which are never unpickled"):
        load_samples(tmp_path / "a.npz")
    np.save(tmp_path / "b.npz", np.array([Bomb(tmp_path / "unpickled")], dtype=object))
    with pytest.raises(SamplesError):
        load_samples(tmp_path / "b.npz")
    assert not (tmp_path / "unpickled").exists()


def test_an_array_that_claims_terabytes_is_refused_before_it_is_allocated(tmp_path: Path) -> None:
    header = b"{'descr': '<f4', 'fortran_order': False, 'shape': (1000000, 1000000), }"
    header += b" " * (-(10 + len(header) + 1) % 64) + b"\n"
    with zipfile.ZipFile(tmp_path / "a.npz", "w") as archive:
        archive.writestr("inputs.npy", b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header)
    with pytest.raises(SamplesError, match="holds 4000000000000 bytes of samples"):
        load_samples(tmp_path / "a.npz")


def test_a_truncated_file_is_named(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", inputs=np.zeros((100, 100)))
    (tmp_path / "a.npz").write_bytes((tmp_path / "a.npz").read_bytes()[:5000])
    with pytest.raises(SamplesError, match=r"a\.npz: is not a valid .npz file"):
        load_samples(tmp_path / "a.npz")
    (tmp_path / "b.safetensors").write_bytes(b"\xff" * 100)
    with pytest.raises(SamplesError, match=r"b\.safetensors: is not a valid .safetensors file"):
        load_samples(tmp_path / "b.safetensors")


def test_a_missing_file_and_an_unknown_kind_are_usage_errors(tmp_path: Path) -> None:
    with pytest.raises(SamplesError, match="does not exist") as raised:
        load_samples(tmp_path / "none.npz")
    assert raised.value.exit_code == 2
    assert str(tmp_path) not in str(raised.value)
    (tmp_path / "a.csv").write_text("1,2")
    with pytest.raises(SamplesError, match="not a known kind of samples"):
        load_samples(tmp_path / "a.csv")


def test_text_lines_with_class_names_or_numbers(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text('{"text": "good", "label": "pos"}\n\n{"text": "bad", "label": "neg"}\n')
    samples = load_samples(path)
    assert samples.inputs.tolist() == ["good", "bad"]
    assert samples.labels is not None
    assert samples.labels.tolist() == [1, 0]
    assert samples.label_names == ("neg", "pos")
    path.write_text('{"text": "good", "label": 1}\n{"text": "bad", "label": 0}\n')
    labels = load_samples(path).labels
    assert labels is not None
    assert labels.tolist() == [1, 0]
    path.write_text('{"text": "good"}\n')
    assert load_samples(path).labels is None


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"text": "a", "label": 1}\n{"text": "b"}\n', "labels for 1 of 2 samples"),
        ('{"label": 1}\n', "a.jsonl:1: has no text"),
        ("[1]\n", "a.jsonl:1: has no text"),
        ("{oops\n", "is not a JSON Lines file"),
        ('{"text": "a", "label": 1}\n{"text": "b", "label": "x"}\n', "mixes kinds of labels"),
        ("", "holds no sample"),
        ("[" * 100_000, "is not a JSON Lines file"),
    ],
)
def test_bad_text_is_named(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "a.jsonl").write_text(text)
    with pytest.raises(SamplesError, match=message):
        load_samples(tmp_path / "a.jsonl")


def image(path: Path, size: tuple[int, int], colour: Any, mode: str = "RGB") -> None:
    pillow = pytest.importorskip("PIL.Image")
    path.parent.mkdir(parents=True, exist_ok=True)
    pillow.new(mode, size, colour).save(path)


def test_a_folder_of_images_has_a_class_per_sub_folder(tmp_path: Path) -> None:
    image(tmp_path / "dog" / "1.png", (6, 4), (10, 20, 30))
    image(tmp_path / "cat" / "1.png", (6, 4), (40, 50, 60))
    image(tmp_path / "cat" / "2.png", (6, 4), (70, 80, 90))
    (tmp_path / "notes.txt").write_text("not an image")
    samples = load_samples(tmp_path)
    assert samples.inputs.shape == (3, 4, 6, 3)
    assert samples.inputs.dtype == np.uint8
    assert samples.label_names == ("cat", "dog")
    assert samples.labels is not None
    assert samples.labels.tolist() == [0, 0, 1]
    assert samples.inputs[2, 0, 0].tolist() == [10, 20, 30]
    assert samples.resizable


def test_images_of_mixed_size_are_brought_to_one(tmp_path: Path) -> None:
    image(tmp_path / "1.png", (20, 10), 0, "L")
    image(tmp_path / "2.png", (12, 30), 255, "L")
    image(tmp_path / "3.png", (12, 12), 255, "L")
    samples = load_samples(tmp_path)
    assert samples.inputs.shape == (3, 12, 12, 1)
    assert samples.labels is None
    assert samples.inputs[0].max() == 0
    assert samples.inputs[1].min() == 255


def test_images_in_and_beside_class_folders_are_refused(tmp_path: Path) -> None:
    image(tmp_path / "cat" / "1.png", (4, 4), 0, "L")
    image(tmp_path / "2.png", (4, 4), 0, "L")
    with pytest.raises(SamplesError, match="images beside its class folders"):
        load_samples(tmp_path)


def test_a_broken_image_and_a_decompression_bomb_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pillow = pytest.importorskip("PIL.Image")
    image(tmp_path / "big.png", (100, 100), 0, "L")
    monkeypatch.setattr(pillow, "MAX_IMAGE_PIXELS", 1000)
    with pytest.raises(SamplesError, match=r"big.png: is not an image that can be read \(DecompressionBomb"):
        load_samples(tmp_path)
    (tmp_path / "big.png").write_bytes(b"\x89PNG garbage")
    with pytest.raises(SamplesError, match=r"big\.png: is not an image that can be read"):
        load_samples(tmp_path)


def test_an_empty_folder_is_named(tmp_path: Path) -> None:
    with pytest.raises(SamplesError, match="holds no image and no parquet file"):
        load_samples(tmp_path)


def test_the_digest_of_a_folder_changes_with_names_and_bytes(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("1")
    first = samples_sha256(tmp_path)
    assert first == samples_sha256(tmp_path)
    (tmp_path / "a").rename(tmp_path / "b")
    second = samples_sha256(tmp_path)
    (tmp_path / "b").write_text("2")
    assert len({first, second, samples_sha256(tmp_path)}) == 3


def test_parquet_as_hugging_face_datasets_write_it(tmp_path: Path) -> None:
    pyarrow = pytest.importorskip("pyarrow", reason="pyarrow is not installed")
    import pyarrow.parquet as parquet

    image(tmp_path / "images" / "1.png", (4, 4), 7, "L")
    encoded = (tmp_path / "images" / "1.png").read_bytes()
    features = {"info": {"features": {"label": {"names": ["cat", "dog"], "_type": "ClassLabel"}}}}
    table = pyarrow.table({"image": [{"bytes": encoded, "path": "1.png"}] * 2, "label": [1, 0]})
    folder = tmp_path / "dataset"
    (folder / "data").mkdir(parents=True)
    parquet.write_table(table.replace_schema_metadata({"huggingface": json.dumps(features)}), folder / "data" / "train.parquet")
    samples = load_samples(folder)
    assert samples.inputs.shape == (2, 4, 4, 1)
    assert samples.labels is not None
    assert samples.labels.tolist() == [1, 0]
    assert samples.label_names == ("cat", "dog")
    parquet.write_table(pyarrow.table({"text": ["a", "b"], "label": [0, 1]}), tmp_path / "text.parquet")
    assert load_samples(tmp_path / "text.parquet").inputs.tolist() == ["a", "b"]
    parquet.write_table(pyarrow.table({"other": [1]}), tmp_path / "other.parquet")
    with pytest.raises(SamplesError, match="neither a column"):
        load_samples(tmp_path / "other.parquet")


def test_a_parquet_file_without_pyarrow_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a.parquet").write_bytes(b"PAR1")
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    monkeypatch.setitem(sys.modules, "pyarrow.parquet", None)
    with pytest.raises(SamplesError, match="pip install pyarrow"):
        load_samples(tmp_path / "a.parquet")
