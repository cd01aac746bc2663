"""Keras configurations: every class they name is judged, however deep it lies."""

from __future__ import annotations

import base64
import json
import marshal
from typing import Any

import pytest
from modelguard_serialization.testing import look_through

from modelguard import Severity


def layer(name: str, module: str | None = "keras.layers", /, **config: Any) -> dict[str, Any]:
    return {"module": module, "class_name": name, "config": config, "registered_name": None}


def model(*layers: Any, **more: Any) -> dict[str, Any]:
    return {"module": "keras", "class_name": "Sequential", "config": {"name": "s", "layers": list(layers)}, "registered_name": None, **more}


def found(config: Any, name: str = "config.json") -> list[tuple[str, Severity | None]]:
    look, _ = look_through(name, json.dumps(config).encode())
    assert look.missed == []
    return [(finding.rule, finding.severity) for finding in look.findings]


CODE = base64.b64encode(marshal.dumps(compile("lambda x: open('marker', 'w')", "attack.py", "eval"))).decode()
LAMBDA = {"class_name": "__lambda__", "config": {"code": CODE, "defaults": None, "closure": None}}


# https://nvd.nist.gov/vuln/detail/CVE-2024-3660
@pytest.mark.parametrize(
    "config",
    [
        model(layer("Lambda", function=LAMBDA)),
        model(layer("TimeDistributed", layer=layer("Bidirectional", layer=layer("Lambda", function=LAMBDA)))),
        model(model(model(layer("Lambda", function=[CODE, None, None], function_type="lambda")))),
        model(layer("Dense", activation=LAMBDA)),
        model(compile_config={"loss": LAMBDA}),
        {
            "class_name": "Sequential",
            "config": [{"class_name": "Lambda", "config": {"function": [CODE, None, None], "function_type": "lambda"}}],
        },
        {"x": [{"y": {"class_name": "Lambda", "config": {"function": LAMBDA}}}]},
        {"modelTopology": {"model_config": {"class_name": "Sequential", "config": [{"class_name": "Lambda", "config": {}}]}}},
    ],
    ids=["plain", "in wrappers", "in models in models", "as activation", "as loss", "Keras 1", "below other keys", "TensorFlow.js"],
)
def test_byte_code_is_critical_wherever_it_lies(config: dict[str, Any]) -> None:
    rules = found(config)
    assert rules
    assert set(rules) == {("MG0330", None)}


def test_what_the_byte_code_names_is_shown() -> None:
    look, _ = look_through("config.json", json.dumps(model(layer("Lambda", function=LAMBDA))).encode())
    assert {"marker", "attack.py"} <= set(look.findings[0].evidence["strings"])


def test_a_lambda_of_a_named_function_is_high() -> None:
    assert found(model(layer("Lambda", function="relu", function_type="function"))) == [("MG0330", Severity.HIGH)]


CRITICAL = Severity.CRITICAL


@pytest.mark.parametrize(
    ("config", "rule", "severity"),
    [
        # https://nvd.nist.gov/vuln/detail/CVE-2025-1550: any module is imported
        (layer("system", "os"), "MG0331", CRITICAL),
        (model(layer("Popen", "subprocess")), "MG0331", CRITICAL),
        ({"a": [layer("Popen", "subprocess")]}, "MG0331", CRITICAL),
        (model(layer("MyLayer", "attacker.layers")), "MG0331", None),
        # https://nvd.nist.gov/vuln/detail/CVE-2025-8747: get_file, and other functions of Keras itself
        (model(layer("get_file", "keras.utils", fname="x", origin="https://x.test/x")), "MG0331", CRITICAL),
        (model(layer("load_model", "keras.saving")), "MG0331", CRITICAL),
        # https://nvd.nist.gov/vuln/detail/CVE-2025-9906: safe mode is switched off by the file
        (model(layer("enable_unsafe_deserialization", "keras.config")), "MG0331", CRITICAL),
        (
            model(
                {
                    "module": "keras.config",
                    "class_name": "function",
                    "config": "enable_unsafe_deserialization",
                    "registered_name": "function",
                }
            ),
            "MG0331",
            CRITICAL,
        ),
        # https://nvd.nist.gov/vuln/detail/CVE-2025-49655: a torch module out of a pickle
        (model(layer("TorchModuleWrapper", module="gAWV", name="t")), "MG0330", None),
        (model(layer("TFSMLayer", filepath="/tmp/saved_model")), "MG0330", None),
        (model(layer("JaxLayer", call_fn={})), "MG0330", None),
        # https://nvd.nist.gov/vuln/detail/CVE-2025-12058: a vocabulary by its path, or address
        (model(layer("StringLookup", vocabulary="/etc/passwd")), "MG0336", CRITICAL),
        (model(layer("StringLookup", vocabulary="http://169.254.169.254/latest/meta-data")), "MG0336", CRITICAL),
        (model(layer("TextVectorization", vocabulary="vocabulary.txt")), "MG0336", None),
        (model(layer("IntegerLookup", vocabulary="../../secret")), "MG0336", CRITICAL),
        (model(layer("TFOpLambda", function="io.write_file")), "MG0330", CRITICAL),
        (model(layer("TFOpLambda", function="py_function")), "MG0330", CRITICAL),
        (model(layer("TFOpLambda", function="compat.v1.py_func")), "MG0330", CRITICAL),
        (model(layer("TFOpLambda", function="saved_model.load")), "MG0330", CRITICAL),
        (model(layer("TensorFlowOpLayer", node_def='{"name": "w", "op": "WriteFile"}')), "MG0330", CRITICAL),
    ],
)
def test_each_advisory(config: dict[str, Any], rule: str, severity: Severity | None) -> None:
    assert found(config) == [(rule, severity)]


def test_of_keys_that_are_there_twice_each_value_counts() -> None:
    for pair in ('"class_name": "Lambda", "class_name": "Dense"', '"class_name": "Dense", "class_name": "Lambda"'):
        look, _ = look_through("config.json", b'{"class_name": "Sequential", "config": {"layers": [{%s, "config": {}}]}}' % pair.encode())
        assert [finding.rule for finding in look.findings] == ["MG0330"]


def test_a_class_of_the_user_is_told_at_medium_because_nothing_is_imported_for_it() -> None:
    assert found(model({**layer("Mine", None), "registered_name": "Pack>Mine"})) == [("MG0331", Severity.MEDIUM)]


@pytest.mark.parametrize(
    "config",
    [
        model(layer("Dense", activation="relu", kernel_initializer=layer("HeNormal", "keras.initializers", seed=None))),
        model(layer("StringLookup", vocabulary=["a", "b"])),
        model(layer("TextVectorization", vocabulary=None)),
        model(layer("TFOpLambda", function="math.reduce_mean"), layer("TFOpLambda", function="__operators__.add")),
        model(
            layer("TensorFlowOpLayer", node_def='{"name": "w", "op": "Mean"}'),
            layer("SlicingOpLambda", "keras.layers", function="__operators__.getitem"),
        ),
        model({"module": "keras.src.ops.numpy", "class_name": "Mean", "config": {"name": "mean"}, "registered_name": "Mean"}),
        model({"module": "builtins", "class_name": "function", "config": "softmax", "registered_name": "function"}),
        model(layer("MobileNet", "keras_hub.src.models.mobilenet.mobilenet_backbone")) | {"registered_name": "keras_hub>X"},
        {
            "class_name": "Functional",
            "config": {"layers": [{"class_name": "InputLayer", "config": {}}, {"class_name": "Conv2D", "config": {}}]},
        },
        {"config": {"class_name": "os.system"}, "architectures": ["BertModel"]},
        {"steps": [{"class_name": "MyStep", "config": {"a": 1}}]},
        {"class_name": "Lambda", "note": "a word, and no configuration"},
    ],
)
def test_ordinary_configurations_are_no_finding(config: dict[str, Any]) -> None:
    assert found(config) == []
