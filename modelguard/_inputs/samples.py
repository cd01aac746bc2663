"""Reading clean samples from disk: arrays, images, parquet, text. No torch here."""

from __future__ import annotations

import hashlib
import io
import json
import warnings
import zipfile
import zlib
from collections.abc import Iterable, Sequence
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, Any

from modelguard.errors import SamplesError
from modelguard.model import Samples

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

MAX_BYTES = 4 << 30
"""Bytes of decoded samples that are held."""
MAX_FILES = 200_000
MAX_SIDE = 512
"""Pixels of the shorter side that images of mixed size are brought to at most."""
KNOWN = ("inputs", "labels", "label_names")
"""Arrays of a file of samples that have a meaning of their own."""
IMAGES = (".png", ".jpg", ".jpeg", ".bmp", ".gif", ".tif", ".tiff", ".webp", ".ppm", ".pgm")
_HASH_BLOCK = 1 << 22


def load_samples(path: str | Path) -> Samples:
    """Read samples: ``.npz`` or ``.safetensors`` with ``inputs`` and optional ``labels`` (and what further inputs of the graph are given,
    by their names); ``.jsonl`` with ``text`` and optional
    ``label``; a folder of images (a class per sub-folder) or of parquet files.

    Nothing is unpickled. Raises :class:`SamplesError` for what cannot be read, is too large, or whose labels do not fit.
    """
    path = Path(path)
    if not path.exists():
        raise SamplesError(path.name, "does not exist", "check the path")
    digest = samples_sha256(path)
    if path.is_dir():
        if any(path.rglob("*.parquet")):
            return _parquet(sorted(path.rglob("*.parquet")), path.name, digest)
        return _image_folder(path, digest)
    readers = {".npz": _npz, ".safetensors": _safetensors}
    suffix = path.suffix.lower()
    if suffix in readers:
        arrays = readers[suffix](path)
        inputs, labels = _pair(arrays, path.name)
        others = {name: array for name, array in arrays.items() if name not in KNOWN and array is not None and array.dtype.kind in "fiub"}
        return Samples(inputs, labels, path.name, digest, others=others)
    if suffix in (".jsonl", ".json"):
        return _jsonl(path, digest)
    if suffix == ".parquet":
        return _parquet([path], path.name, digest)
    raise SamplesError(path.name, "is not a known kind of samples", "give .npz, .safetensors, .jsonl, .parquet or a folder of images")


def samples_sha256(path: str | Path) -> str:
    """64 hex digits: of a file's bytes; of a folder, over the sorted relative paths and digests of its files."""
    path = Path(path)
    if path.is_file():
        return _file_sha256(path)
    whole = hashlib.sha256()
    for file in _files(path):
        whole.update(f"{_file_sha256(file)}  {file.relative_to(path).as_posix()}\n".encode())
    return whole.hexdigest()


def _file_sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as handle:
        while block := handle.read(_HASH_BLOCK):
            digest.update(block)
    return digest.hexdigest()


def _files(folder: Path) -> list[Path]:
    found = sorted(file for file in folder.rglob("*") if file.is_file())
    if len(found) > MAX_FILES:
        raise SamplesError(folder.name, f"holds {len(found)} files, {MAX_FILES} are allowed", "give fewer samples")
    return found


def _npz(path: Path) -> dict[str, Any]:
    """The arrays of the file by name; None for those of objects that nobody asks for."""
    from numpy.lib import format as npy

    arrays: dict[str, Any] = {}
    total = 0
    try:
        with zipfile.ZipFile(path) as archive:
            for member in archive.infolist():
                name = member.filename.removesuffix(".npy")
                if name == member.filename and name not in KNOWN:
                    arrays.setdefault(name, None)
                    continue
                with archive.open(member) as handle:
                    # The header is checked first: the array is allocated from what it says.
                    version = npy.read_magic(handle)
                    read_header = npy.read_array_header_1_0 if version == (1, 0) else npy.read_array_header_2_0
                    shape, _, dtype = read_header(handle)
                    if dtype.hasobject and name not in KNOWN:
                        arrays.setdefault(name, None)
                        continue
                    total += prod(shape) * dtype.itemsize
                    _check_size(path.name, total)
                    if dtype.hasobject:
                        raise SamplesError(path.name, f"{name} holds Python objects, which are never unpickled", "save plain arrays")
                with archive.open(member) as handle:
                    arrays[name] = npy.read_array(handle, allow_pickle=False)
    except (zipfile.BadZipFile, zlib.error, ValueError, EOFError, OSError, RuntimeError) as error:  # RuntimeError: it is encrypted
        raise SamplesError(
            path.name, f"is not a valid .npz file ({error})", "write it with numpy.savez(path, inputs=..., labels=...)"
        ) from error
    return arrays


def _safetensors(path: Path) -> dict[str, Any]:
    """The tensors of the file by name."""
    from safetensors import SafetensorError, safe_open

    _check_size(path.name, path.stat().st_size)
    arrays: dict[str, Any] = {}
    try:
        with safe_open(path, framework="np") as handle:
            for name in handle.keys():  # noqa: SIM118  (safe_open is no mapping)
                try:
                    arrays[name] = handle.get_tensor(name)
                except TypeError:  # of a type numpy has not
                    if name in KNOWN:
                        raise
                    arrays[name] = None
    except (SafetensorError, TypeError, ValueError) as error:
        raise SamplesError(
            path.name, f"is not a valid .safetensors file ({error})", "save `inputs` and `labels` as plain arrays"
        ) from error
    return arrays


def _pair(arrays: dict[str, Any], origin: str) -> tuple[npt.NDArray[Any], npt.NDArray[np.int64] | None]:
    """Inputs (N, ...) and labels (N,) out of the arrays of a file."""
    if arrays.get("inputs") is None:
        names = ", ".join(sorted(arrays)[:8]) or "nothing"
        raise SamplesError(origin, f"has no array called inputs (it has {names})", "save them as `inputs` and `labels`")
    inputs = arrays["inputs"]
    if inputs.ndim < 1 or not len(inputs):
        raise SamplesError(origin, "holds no sample", "give `inputs` of shape (N, ...)")
    if inputs.dtype.kind not in "fiubU":
        raise SamplesError(origin, f"inputs are {inputs.dtype}, not numbers", "save float32 or uint8")
    labels = arrays.get("labels")
    return inputs, None if labels is None else check_labels(labels, len(inputs), origin)


def check_labels(labels: npt.NDArray[Any], count: int, origin: str) -> npt.NDArray[np.int64]:
    """Labels as int64 (N,). Raises :class:`SamplesError` when they are not one whole class number a sample."""
    import numpy as np

    if labels.ndim == 2 and labels.shape[1] == 1:
        labels = labels[:, 0]
    if labels.shape != (count,):
        shape = "x".join(map(str, labels.shape))
        raise SamplesError(origin, f"has {count} inputs but labels of shape {shape}", "give one class number a sample")
    if labels.dtype.kind not in "fiub":
        raise SamplesError(origin, f"labels are {labels.dtype}, not class numbers", "save them as int64")
    whole = labels.astype(np.int64)
    if not np.array_equal(whole, labels) or whole.min() < 0:
        raise SamplesError(origin, "labels are not whole class numbers from 0 on", "save them as int64")
    return whole


def _jsonl(path: Path, digest: str) -> Samples:
    """Lines of ``{"text": ..., "label": ...}``; labels are class numbers or names, of all lines or of none."""
    import numpy as np

    _check_size(path.name, path.stat().st_size)
    texts: list[str] = []
    labels: list[Any] = []
    with path.open(encoding="utf-8", errors="strict") as handle:
        try:
            for number, line in enumerate(handle, 1):
                if not line.strip():
                    continue
                entry = json.loads(line)
                if not isinstance(entry, dict) or not isinstance(entry.get("text"), str):
                    raise SamplesError(f"{path.name}:{number}", "has no text", 'write one {"text": "...", "label": 0} a line')
                texts.append(entry["text"])
                if entry.get("label") is not None:
                    labels.append(entry["label"])
        except (ValueError, RecursionError) as error:
            raise SamplesError(path.name, f"is not a JSON Lines file ({error})", 'write one {"text": "...", "label": 0} a line') from error
    if not texts:
        raise SamplesError(path.name, "holds no sample", 'write one {"text": "...", "label": 0} a line')
    numbers, names = _numbered(labels, len(texts), path.name)
    return Samples(np.array(texts, dtype=object), numbers, path.name, digest, names)


def _numbered(labels: Sequence[Any], count: int, origin: str) -> tuple[npt.NDArray[np.int64] | None, tuple[str, ...]]:
    """Class numbers, and the class names when the labels are text (numbered in sorted order)."""
    import numpy as np

    if not labels:
        return None, ()
    if len(labels) != count:
        raise SamplesError(origin, f"has labels for {len(labels)} of {count} samples", "label all or none")
    if all(isinstance(item, str) for item in labels):
        names = sorted(set(labels))
        places = {name: place for place, name in enumerate(names)}
        return np.array([places[item] for item in labels], np.int64), tuple(names)
    if not all(isinstance(item, int) for item in labels):
        raise SamplesError(origin, "mixes kinds of labels", "give class numbers or class names")
    return check_labels(np.array(labels), count, origin), ()


def _image_folder(folder: Path, digest: str) -> Samples:
    """Images below ``folder``: labelled by sub-folder, in sorted order, when there are sub-folders."""
    files = [file for file in _files(folder) if file.suffix.lower() in IMAGES]
    if not files:
        raise SamplesError(folder.name, "holds no image and no parquet file", f"image files end in {', '.join(IMAGES)}")
    nested = [len(file.relative_to(folder).parts) > 1 for file in files]
    if any(nested) and not all(nested):
        raise SamplesError(folder.name, "has images beside its class folders", "put every image into a class folder, or none")
    classes = [file.relative_to(folder).parts[0] for file in files] if all(nested) else []
    labels, names = _numbered(classes, len(files), folder.name)
    inputs = _stack((_decode(file, file.name) for file in files), folder.name)
    return Samples(inputs, labels, folder.name, digest, names, resizable=True)


def _decode(source: Path | io.BytesIO, name: str) -> Any:
    """An image in mode L or RGB. Raises :class:`SamplesError` when Pillow is missing, cannot read it, or finds it a bomb."""
    try:
        from PIL import Image
    except ImportError:
        raise SamplesError(name, "is an image, and Pillow is not installed", "pip install pillow") from None
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(source) as image:
                return image.convert("L" if image.mode in ("1", "L", "I;16", "I", "F") else "RGB")
    except MemoryError:
        raise
    except Exception as error:  # Pillow's decoders raise whatever a broken file leads them to: SyntaxError, struct.error, IndexError
        raise SamplesError(name, f"is not an image that can be read ({type(error).__name__})", "remove it from the samples") from error


def _stack(images: Iterable[Any], origin: str) -> npt.NDArray[np.uint8]:
    """Images as one uint8 array (N, H, W, C). Those of mixed size are scaled to a common shorter side and centre-cropped."""
    import numpy as np
    from PIL import Image

    held, total = [], 0
    for image in images:
        total += image.width * image.height * 3
        _check_size(origin, total)
        held.append(image)
    mode = "RGB" if any(image.mode == "RGB" for image in held) else "L"
    sizes = {image.size for image in held}
    if len(sizes) > 1:
        side = min(MAX_SIDE, sorted(min(image.size) for image in held)[len(held) // 2])
        held = [_square(image, side, Image.Resampling.BILINEAR) for image in held]
    stacked = np.stack([np.asarray(image.convert(mode), dtype=np.uint8) for image in held])
    return stacked if stacked.ndim == 4 else stacked[..., None]


def _square(image: Any, side: int, resampling: Any) -> Any:
    scale = side / min(image.size)
    width, height = (max(side, round(length * scale)) for length in image.size)
    left, top = (width - side) // 2, (height - side) // 2
    return image.resize((width, height), resampling).crop((left, top, left + side, top + side))


def _parquet(files: list[Path], origin: str, digest: str) -> Samples:
    """Parquet files with a column ``image`` (as Hugging Face datasets store it: encoded bytes) or ``text``, and maybe ``label``."""
    import numpy as np

    try:
        import pyarrow.parquet as parquet  # type: ignore[import-untyped, import-not-found, unused-ignore]
    except ImportError:
        raise SamplesError(origin, "is parquet, and pyarrow is not installed", "pip install pyarrow") from None
    columns: dict[str, list[Any]] = {"image": [], "text": [], "label": []}
    names: tuple[str, ...] = ()
    for file in files:
        try:
            reader = parquet.ParquetFile(file)
            _check_size(origin, sum(reader.metadata.row_group(i).total_byte_size for i in range(reader.num_row_groups)))
            wanted = {"image": ("image", "img"), "text": ("text", "sentence"), "label": ("label", "labels")}
            chosen = {key: next((c for c in choices if c in reader.schema_arrow.names), None) for key, choices in wanted.items()}
            table = reader.read(columns=[c for c in chosen.values() if c])
        except (OSError, ValueError) as error:
            raise SamplesError(file.name, f"cannot be read as parquet ({error})", "check the file") from error
        names = _feature_names(reader.schema_arrow.metadata, chosen["label"]) or names
        for key, column in chosen.items():
            if column:
                columns[key] += table.column(column).to_pylist()
    labels, found = _numbered([item for item in columns["label"] if item is not None], max(map(len, columns.values())), origin)
    if columns["image"]:
        encoded = [item.get("bytes") if isinstance(item, dict) else item for item in columns["image"]]
        embedded = [item for item in encoded if isinstance(item, bytes)]
        if len(embedded) < len(encoded):
            raise SamplesError(origin, "has images that are not embedded", "save the dataset with its images embedded")
        inputs: npt.NDArray[Any] = _stack((_decode(io.BytesIO(item), origin) for item in embedded), origin)
        return Samples(inputs, labels, origin, digest, found or names, resizable=True)
    if columns["text"]:
        return Samples(np.array([str(text) for text in columns["text"]], dtype=object), labels, origin, digest, found or names)
    raise SamplesError(origin, "has neither a column `image` nor `text`", "name the columns `image` or `text`, and `label`")


def _feature_names(metadata: dict[bytes, bytes] | None, column: str | None) -> tuple[str, ...]:
    """Class names that the datasets library keeps in the schema."""
    try:
        features = json.loads((metadata or {})[b"huggingface"])["info"]["features"]
        return tuple(map(str, features[column]["names"]))
    except (KeyError, TypeError, ValueError):
        return ()


def _check_size(origin: str, size: int) -> None:
    if size > MAX_BYTES:
        raise SamplesError(origin, f"holds {size} bytes of samples, {MAX_BYTES} are allowed", "give fewer samples")
