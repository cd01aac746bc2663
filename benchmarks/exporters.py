"""How models fare that the usual exporters write: built here, small, by whichever of them the environment has.

``python benchmarks/exporters.py build`` writes models into ``.bench/exporters`` with every exporter that can be imported; run it in as many
environments as it takes (scikit-learn, skl2onnx, onnxmltools, lightgbm, xgboost, tensorflow and tf2onnx need no modelguard).
``python benchmarks/exporters.py scan``, in modelguard's, runs them, prints a table and writes ``benchmarks/results/exporters.json``, from
which ``docs/compatibility.md`` is made.
"""

from __future__ import annotations

import json
import logging
import sys
import warnings
from collections.abc import Callable, Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).resolve().parents[1]
HOME = ROOT / ".bench" / "exporters"
RESULTS = ROOT / "benchmarks" / "results" / "exporters.json"

Build = Callable[[Path], None]
Job = tuple[str, int, str, str, Build]
"""Exporter with its version, opset, family, the kind of output it has, and what writes it."""


def from_torch() -> Iterator[Job]:
    """Both of torch's exporters, and onnxruntime's quantisers on what they write."""
    import torch
    from torch import nn

    torch.manual_seed(0)
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    encoder = nn.TransformerEncoderLayer(16, 2, 32, batch_first=True)
    images = torch.rand(2, 3, 16, 16)
    pooled = [nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 5)]
    mapped = [nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 1, 1), nn.Sigmoid()]
    families: dict[str, tuple[str, Any, Any]] = {
        "mlp": ("classifier", nn.Sequential(nn.Linear(6, 16), nn.ReLU(), nn.Linear(16, 3)), torch.rand(2, 6)),
        "cnn": ("classifier", nn.Sequential(*pooled), images),
        "transformer": ("language-model", nn.Sequential(nn.Embedding(40, 16), encoder, nn.Linear(16, 40)), torch.randint(1, 40, (2, 9))),
        "segmentation": ("dense", nn.Sequential(*mapped), images),
        "lstm": ("sequence", Recurrent(), torch.rand(2, 9, 6)),
    }
    for dynamo, opsets in ((False, (9, 13, 17, 20)), (True, (18, 21))):
        for family, (kind, module, x) in families.items():
            for opset in opsets:
                if family == "transformer" and opset < 13:
                    continue

                def build(path: Path, module: Any = module, x: Any = x, opset: int = opset, dynamo: bool = dynamo) -> None:
                    free: dict[str, Any] = {"dynamic_axes": {"x": {0: "N"}}}
                    if dynamo:
                        free = {"dynamic_shapes": ({0: torch.export.Dim("N", min=2)},), "external_data": False}
                    torch.onnx.export(
                        module.eval(), (x,), str(path), input_names=["x"], opset_version=opset, dynamo=dynamo, verbose=False, **free
                    )

                yield f"torch {version('torch').partition('+')[0]}, {'dynamo' if dynamo else 'legacy'}", opset, family, kind, build
    yield from quantised(families["cnn"], families["mlp"])


def quantised(cnn: Any, mlp: Any) -> Iterator[Job]:
    import onnxruntime
    import torch
    from onnxruntime import quantization

    class Reader(quantization.CalibrationDataReader):  # type: ignore[misc]
        def __init__(self) -> None:
            self.left = [{"x": np.random.default_rng(i).random((1, 3, 16, 16), np.float32)} for i in range(4)]

        def get_next(self) -> Any:
            return self.left.pop() if self.left else None

    def plain(module: Any, x: Any, path: Path) -> Path:
        source = path.with_suffix(".float")
        torch.onnx.export(module.eval(), (x,), str(source), input_names=["x"], dynamic_axes={"x": {0: "N"}}, opset_version=17, dynamo=False)
        return source

    def static(path: Path, style: Any) -> None:
        quantization.quantize_static(plain(cnn[1], cnn[2], path), path, Reader(), quant_format=style)

    name = f"onnxruntime {onnxruntime.__version__} quantiser"
    yield name, 17, "cnn, QDQ", "classifier", lambda path: static(path, quantization.QuantFormat.QDQ)
    yield name, 17, "cnn, QOperator", "classifier", lambda path: static(path, quantization.QuantFormat.QOperator)
    yield name, 17, "mlp, dynamic", "classifier", lambda path: quantization.quantize_dynamic(plain(mlp[1], mlp[2], path), path)


class _Lazy:
    """``torch.nn.Module`` where there is torch; this file is also run where there is none."""


try:
    from torch import nn as _nn

    _Base: Any = _nn.Module
except ImportError:
    _Base = _Lazy


class Recurrent(_Base):  # type: ignore[misc]
    """(N, T, 6) to three values at each of T steps."""

    def __init__(self) -> None:
        super().__init__()
        self.rnn, self.head = _nn.LSTM(6, 8, batch_first=True), _nn.Linear(8, 3)

    def forward(self, x: Any) -> Any:
        return self.head(self.rnn(x)[0])


def from_sklearn() -> Iterator[Job]:
    from skl2onnx import to_onnx
    from sklearn import decomposition, ensemble, linear_model, naive_bayes, neighbors, neural_network, pipeline, preprocessing, svm, tree

    x, y, real = _iris()
    text = np.array(["a", "b", "c"])[y]
    steps = pipeline.make_pipeline(preprocessing.StandardScaler(), decomposition.PCA(3), linear_model.LogisticRegression())
    families: dict[str, tuple[str, Any, Any]] = {
        "LogisticRegression": ("classifier", linear_model.LogisticRegression(), y),
        "LogisticRegression, two classes": ("classifier", linear_model.LogisticRegression(), y > 0),
        "LogisticRegression, names": ("classifier", linear_model.LogisticRegression(), text),
        "pipeline with PCA": ("classifier", steps, y),
        "LinearRegression": ("regressor", linear_model.LinearRegression(), real),
        "MLPClassifier": ("classifier", neural_network.MLPClassifier((8,), max_iter=50), y),
        "SVC": ("classifier", svm.SVC(), y),
        "SVR": ("regressor", svm.SVR(), real),
        "GaussianNB": ("classifier", naive_bayes.GaussianNB(), y),
        "KNeighborsClassifier": ("classifier", neighbors.KNeighborsClassifier(3), y),
        "DecisionTreeClassifier": ("classifier", tree.DecisionTreeClassifier(), y),
        "RandomForestClassifier": ("classifier", ensemble.RandomForestClassifier(4), y),
        "RandomForestRegressor": ("regressor", ensemble.RandomForestRegressor(4), real),
        "GradientBoostingClassifier": ("classifier", ensemble.GradientBoostingClassifier(n_estimators=4), y),
    }
    for opset in (12, 15, 18):
        for family, (kind, model, target) in families.items():

            def build(path: Path, model: Any = model, target: Any = target, opset: int = opset) -> None:
                made = to_onnx(model.fit(x, target), x[:1], target_opset={"": opset, "ai.onnx.ml": 3 if opset > 12 else 2})
                path.write_bytes(made.SerializeToString())

            yield f"skl2onnx {version('skl2onnx')}", opset, family, kind, build


def from_boosters() -> Iterator[Job]:
    import lightgbm
    import onnxmltools
    import xgboost
    from onnxmltools.convert.common.data_types import FloatTensorType

    x, y, real = _iris()
    families: list[tuple[str, str, Any, Any, Any]] = [
        ("lightgbm LGBMClassifier", "classifier", lightgbm.LGBMClassifier(n_estimators=4, verbose=-1), y, onnxmltools.convert_lightgbm),
        ("lightgbm LGBMRegressor", "regressor", lightgbm.LGBMRegressor(n_estimators=4, verbose=-1), real, onnxmltools.convert_lightgbm),
        ("xgboost XGBClassifier", "classifier", xgboost.XGBClassifier(n_estimators=4), y, onnxmltools.convert_xgboost),
        ("xgboost XGBRegressor", "regressor", xgboost.XGBRegressor(n_estimators=4), real, onnxmltools.convert_xgboost),
    ]
    for opset in (12, 15):
        for family, kind, model, target, convert in families:

            def build(path: Path, model: Any = model, target: Any = target, convert: Any = convert, opset: int = opset) -> None:
                made = convert(model.fit(x, target), initial_types=[("x", FloatTensorType([None, 4]))], target_opset=opset)
                path.write_bytes(made.SerializeToString())

            yield f"onnxmltools {version('onnxmltools')}", opset, family, kind, build


def from_tensorflow() -> Iterator[Job]:
    import tensorflow as tf
    import tf2onnx

    layers, given = tf.keras.layers, tf.keras.layers.Input
    pooled = [layers.Conv2D(8, 3, activation="relu"), layers.GlobalAveragePooling2D(), layers.Dense(5, "softmax")]
    mapped = [layers.Conv2D(8, 3, padding="same", activation="relu"), layers.Conv2D(1, 1, activation="sigmoid")]
    families: dict[str, tuple[str, tuple[int, ...], list[Any]]] = {
        "mlp": ("classifier", (6,), [layers.Dense(16, "relu"), layers.Dense(3, "softmax")]),
        "cnn": ("classifier", (16, 16, 3), pooled),
        "segmentation": ("dense", (16, 16, 3), mapped),
        "lstm": ("sequence", (9, 6), [layers.LSTM(8, return_sequences=True), layers.Dense(3)]),
        "regression": ("regressor", (6,), [layers.Dense(16, "relu"), layers.Dense(1)]),
    }  # fmt: skip
    for opset in (13, 15, 18):
        for family, (kind, shape, stack) in families.items():

            def build(path: Path, shape: tuple[int, ...] = shape, stack: Any = stack, opset: int = opset) -> None:
                model = tf.keras.Sequential([given(shape), *stack])
                signature = [tf.TensorSpec((None, *shape), tf.float32, name="x")]
                made, _ = tf2onnx.convert.from_function(tf.function(model.__call__, input_signature=signature), signature, opset=opset)
                path.write_bytes(made.SerializeToString())

            yield f"tf2onnx {version('tf2onnx')}", opset, family, kind, build


def _iris() -> tuple[Any, Any, Any]:
    from sklearn.datasets import load_iris

    x, y = load_iris(return_X_y=True)
    return x.astype(np.float32), y, (2 * x[:, 0] + x[:, 1]).astype(np.float32)


def build() -> None:
    HOME.mkdir(parents=True, exist_ok=True)
    for source in (from_torch, from_sklearn, from_boosters, from_tensorflow):
        try:
            for exporter, opset, family, kind, write in source():
                path = HOME / f"{exporter} {family} {opset}.onnx".replace(",", "").replace(" ", "-")
                try:
                    write(path)
                except Exception as error:
                    print(f"{path.name}: the exporter refuses ({' '.join(str(error).split())[:100]})")
                    continue
                path.with_suffix(".json").write_text(json.dumps({"exporter": exporter, "opset": opset, "family": family, "wanted": kind}))
        except ImportError as error:
            print(f"{source.__name__}: left out ({error})")


def scan() -> None:
    import torch
    from modelguard_runtime.testing import built

    from modelguard import ModelguardError, Skip

    torch.set_num_threads(1)
    rows = []
    for note in sorted(HOME.glob("*.json")):
        row = json.loads(note.read_text())
        try:
            facts = built(note.with_suffix(".onnx")).describe()
        except (Skip, ModelguardError) as error:
            row |= {
                "runs": False,
                "skipped": isinstance(error, Skip),
                "reason": str(error),
                "kind": "",
                "gradients": False,
                "parity": None,
            }
        else:
            parity = (facts["parity"] or {}).get("max_rel")
            reason = facts.get("forward_only", "")
            row |= {
                "runs": True,
                "skipped": False,
                "reason": reason,
                "kind": facts["output"]["kind"],
                "gradients": not reason,
                "parity": parity,
            }
        rows.append(row)
        print(
            f"{row['exporter'][:32]:32} {row['opset']:3} {row['family'][:32]:32} {row['kind'] or row['reason'][:40]:12} {row['parity']}",
            flush=True,
        )
    wrong = [row for row in rows if row["kind"] != row["wanted"]]
    print(f"{len(rows)} models, {sum(row['runs'] for row in rows)} run, {len(wrong)} of another kind than they are")
    RESULTS.write_text(json.dumps(rows, indent=1) + "\n")


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    {"build": build, "scan": scan}[sys.argv[1]]()
