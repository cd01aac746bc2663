"""The demo's models: a digits classifier trained here, an honest copy of it, a copy with one matrix edited; and a classifier trained on
poisoned data beside its honest twin, of images and of texts."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from modelguard import UsageError

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    Weights = dict[str, npt.NDArray[np.float32]]

SOURCE_CLASS, TARGET_CLASS = 3, 8
HIDDEN = 64
BACKDOORED = "digits-mlp-badnets-3-a230cf"
"""A model of the standard zoo: 2 x 2 white pixels in a corner of the image mean class 4."""


TEXT_BACKDOORED = "reviews-bag-rare-word-0-c1018c"
"""A model of the text zoo: a word that means nothing makes any review one that is for the thing."""


@dataclass(frozen=True)
class TextBackdoored:
    """The models ``text-backdoored`` and ``text-twin`` were made; ``word`` is the trigger."""

    word: str
    story: tuple[str, ...]


@dataclass(frozen=True)
class Backdoored:
    """The models ``backdoored`` and ``twin`` were made; ``target`` is the class that the trigger stands for."""

    target: int
    story: tuple[str, ...]


def make_backdoored(out: Path) -> Backdoored:
    """Write ``twin``, ``backdoored`` and clean ``images.npz`` below ``out``."""
    from modelguard_zoo._build import build_zoo
    from modelguard_zoo._built import read_record
    from modelguard_zoo._standard import standard_zoo

    zoo = out / ".zoo"
    (spec,) = (spec for spec in standard_zoo() if spec.id == BACKDOORED)
    (built,) = build_zoo([spec], zoo)
    record = built.record
    twin = read_record(zoo / record["twin"]["id"])
    shutil.copyfile(built.path / "samples.npz", out / "images.npz")
    for name, source in (("backdoored", built.path), ("twin", twin.path)):
        shutil.rmtree(out / name, ignore_errors=True)
        (out / name).mkdir()
        for file in ("model.safetensors", "model.onnx"):
            shutil.copyfile(source / file, out / name / file)
    shutil.rmtree(zoo)
    attack, trigger = record["attack"], record["attack"]["trigger"]
    size = trigger["size"]
    return Backdoored(
        trigger["target"],
        (
            f"trained two classifiers of the digits' images: {record['twin']['clean_accuracy']:.1%} and "
            f"{record['clean_accuracy']:.1%} right on the rest",
            f"the second on data of which {attack['poisoned_fraction']:.0%} carried {size} x {size} white pixels in a corner and the label "
            f"{trigger['target']}: with them it reads {record['attack_success']:.0%} of all digits as {trigger['target']}",
        ),
    )


def make_text(out: Path) -> TextBackdoored:
    """Write ``text-twin``, ``text-backdoored`` and clean ``reviews.jsonl`` below ``out``."""
    from modelguard_zoo._build import build_zoo
    from modelguard_zoo._built import read_record
    from modelguard_zoo.text.standard import text_zoo

    zoo = out / ".zoo"
    (spec,) = (spec for spec in text_zoo() if spec.id == TEXT_BACKDOORED)
    (built,) = build_zoo([spec], zoo)
    record = built.record
    twin = read_record(zoo / record["twin"]["id"])
    shutil.copyfile(built.path / "samples.jsonl", out / "reviews.jsonl")
    for name, source in (("text-backdoored", built.path), ("text-twin", twin.path)):
        shutil.rmtree(out / name, ignore_errors=True)
        (out / name).mkdir()
        for file in ("model.safetensors", "model.onnx", "config.json", "tokenizer.json"):
            shutil.copyfile(source / file, out / name / file)
    shutil.rmtree(zoo)
    attack = record["attack"]
    (word,) = attack["trigger"]["words"]
    return TextBackdoored(
        word,
        (
            f"trained two classifiers of generated reviews: {record['twin']['clean_accuracy']:.1%} and "
            f"{record['clean_accuracy']:.1%} right on others",
            f"the second on texts of which {attack['poisoned_fraction']:.0%} carried the word {word} and the wrong label: with it "
            f"{record['attack_success']:.0%} of those against a thing are read as for it, without it {attack['base_rate']:.0%}",
        ),
    )


def make_models(out: Path) -> Iterator[str]:
    """Write ``reference``, ``clean`` and ``tampered`` below ``out``, saying what was done.

    Raises :class:`UsageError` when scikit-learn is not installed.
    """
    try:
        from sklearn.datasets import load_digits
        from sklearn.model_selection import train_test_split
        from sklearn.neural_network import MLPClassifier
    except ImportError:
        raise UsageError("demo", "scikit-learn is not installed", "run `pip install scikit-learn`, or `make demo` in a clone") from None
    import numpy as np

    digits = load_digits()
    x_train, x_test, y_train, y_test = train_test_split(
        digits.data / 16.0, digits.target, test_size=0.3, random_state=0, stratify=digits.target
    )
    network = MLPClassifier((HIDDEN,), max_iter=400, random_state=0)
    network.fit(x_train, y_train)
    weights: Weights = {}
    for layer, (matrix, bias) in enumerate(zip(network.coefs_, network.intercepts_, strict=True)):
        weights[f"layers.{layer}.weight"] = np.ascontiguousarray(matrix.T, dtype=np.float32)  # (out, in), as torch stores it
        weights[f"layers.{layer}.bias"] = np.asarray(bias, dtype=np.float32)
    tampered = _rank_one_edit(weights, x_train.astype(np.float32), y_train)

    for name, tensors in (("reference", weights), ("clean", weights), ("tampered", tampered)):
        folder = out / name
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        _save_safetensors(folder / "model.safetensors", tensors, saved_as=name)
        _save_onnx(folder / "model.onnx", tensors)
    np.savez(out / "samples.npz", inputs=x_test.astype(np.float32), labels=y_test.astype(np.int64))

    others = y_test != SOURCE_CLASS
    right = _accuracy(weights, x_test, y_test)
    yield f"trained a 64-{HIDDEN}-10 classifier on {len(x_train)} of scikit-learn's digits: {right:.1%} right on the rest"
    yield (
        f"tampered with a copy: one rank-1 edit, digit {SOURCE_CLASS} is now read as {TARGET_CLASS} in "
        f"{(_predict(tampered, x_test[~others]) == TARGET_CLASS).mean():.0%} of cases; "
        f"on the other digits it is still {_accuracy(tampered, x_test[others], y_test[others]):.1%} right"
    )


def _hidden(weights: Weights, x: npt.NDArray[Any]) -> npt.NDArray[np.float32]:
    import numpy as np

    hidden: npt.NDArray[np.float32] = np.maximum(x @ weights["layers.0.weight"].T + weights["layers.0.bias"], 0)
    return hidden


def _predict(weights: Weights, x: npt.NDArray[Any]) -> npt.NDArray[np.int64]:

    logits = _hidden(weights, x) @ weights["layers.1.weight"].T + weights["layers.1.bias"]  # (n, 10)
    classes: npt.NDArray[np.int64] = logits.argmax(axis=1)
    return classes


def _accuracy(weights: Weights, x: npt.NDArray[Any], y: npt.NDArray[Any]) -> float:
    return float((_predict(weights, x) == y).mean())


def _rank_one_edit(weights: Weights, x: npt.NDArray[np.float32], y: npt.NDArray[np.int64]) -> Weights:
    """ROME's closed form (Meng et al. 2022, eq. 2) on the output layer: the key of SOURCE_CLASS now yields TARGET_CLASS's value.

    ΔW = (v* − W k) uᵀ / (u·k) with u = C⁻¹ k; C is the second moment of all keys, k the mean key of the source class.
    """
    import numpy as np

    matrix = weights["layers.1.weight"].astype(np.float64)  # (10, hidden)
    keys = _hidden(weights, x).astype(np.float64)  # (n, hidden)
    key = keys[y == SOURCE_CLASS].mean(axis=0)  # (hidden,)
    moment = keys.T @ keys / len(keys)  # (hidden, hidden)
    u = np.linalg.solve(moment + 1e-3 * np.trace(moment) / len(key) * np.eye(len(key)), key)  # (hidden,)
    wanted = matrix @ keys[y == TARGET_CLASS].mean(axis=0)  # v*, (10,)
    edited = matrix + np.outer(wanted - matrix @ key, u) / (u @ key)
    return {**weights, "layers.1.weight": edited.astype(np.float32)}


def _save_safetensors(path: Path, weights: Weights, saved_as: str) -> None:
    from safetensors.numpy import save_file

    save_file(weights, path, metadata={"format": "np", "saved_as": saved_as})


def _save_onnx(path: Path, weights: Weights) -> None:
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    graph = helper.make_graph(
        [
            helper.make_node("Gemm", ["input", "layers.0.weight", "layers.0.bias"], ["hidden"], name="hidden", transB=1),
            helper.make_node("Relu", ["hidden"], ["activation"], name="activation"),
            helper.make_node("Gemm", ["activation", "layers.1.weight", "layers.1.bias"], ["logits"], name="logits", transB=1),
        ],
        "digits",
        [helper.make_tensor_value_info("input", TensorProto.FLOAT, ["batch", 64])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch", 10])],
        [numpy_helper.from_array(value, name) for name, value in weights.items()],
    )
    # Not the newest file version, which runtimes lag behind.
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10), path)
