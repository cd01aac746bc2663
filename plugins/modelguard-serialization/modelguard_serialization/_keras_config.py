"""A Keras configuration: which classes it names, and what of them is code.

Which names Keras resolves how: ``keras.src.saving.serialization_lib`` (Keras 3.15), ``keras.legacy.saving`` for H5.
"""

from __future__ import annotations

import base64
import binascii
import re
import sys
from collections.abc import Iterator
from typing import Any

from modelguard import Severity
from modelguard_serialization._documents import Pairs, walk
from modelguard_serialization._known import known
from modelguard_serialization._paths import outside
from modelguard_serialization._tf_ops import judge_function, judge_op
from modelguard_serialization.blob import Blob
from modelguard_serialization.reader import Look

_PACKAGES = frozenset({"keras", "tf_keras"})
_SISTERS = frozenset({"keras_hub", "keras_cv", "keras_nlp", "keras_rs"})
"""Packages beside ``keras`` that its loader imports, and of which it takes nothing but layers."""

_VALUES = frozenset(
    [
        "__tuple__",
        "__tensor__",
        "__numpy__",
        "__bytes__",
        "__ellipsis__",
        "__slice__",
        "__keras_tensor__",
        "__typespec__",
        "__class__",
        "TensorShape",
        "type",
        "set",
        "tuple",
    ]
)
"""What stands for values, not classes."""

_CARRIERS = {
    "TorchModuleWrapper": "unpickles a torch module out of the configuration",
    "TFSMLayer": "loads and runs another SavedModel",
    "JaxLayer": "calls a function named by the configuration",
    "FlaxLayer": "calls a function named by the configuration",
    "KerasLayer": "loads and runs another SavedModel, from an address",
}
_RUN = ("Lambda", "__lambda__", *_CARRIERS)
_NO_LAYERS = re.compile(
    r"get_file|load_model|save_model|load_weights|save_weights|load_img|save_img|model_from_\w+|clone_model|enable_unsafe_deserialization|"
    r"(?:de)?serialize_keras_object|register_keras_serializable|pad_sequences|\w+_from_directory|get_source_inputs|set_\w+|clear_session|Progbar|Sequence"
)
_VOCABULARY = frozenset({"StringLookup", "IntegerLookup", "IndexLookup", "TextVectorization"})


def is_keras(tree: Any) -> bool:
    """Whether a document is, or holds, the configuration of a Keras object.

    ``deserialize_keras_object`` goes through whatever mappings and lists come first. Raises :class:`NotReadError` past the limits.
    """
    if not isinstance(tree, Pairs):
        return False
    if any(tree.has(key) for key in ("model_config", "modelTopology")) or (tree.text("class_name") and tree.has("config")):
        return True
    return any(
        node.has("config") and (node.has("module") or any(name in _RUN for name in node.all("class_name")))
        for _, node in walk(tree)
        if isinstance(node, Pairs) and node.text("class_name")
    )


def judge(tree: Any, blob: Blob, look: Look) -> None:
    """Findings for every object of the configuration, however deep it lies. Raises :class:`NotReadError` past the limits."""
    seen: set[tuple[str, str]] = set()
    for done, (place, node) in enumerate(walk(tree)):
        if done % 4096 == 0:
            look.check()
        if not isinstance(node, Pairs):
            continue
        for rule, name, message, severity in _judge(node):
            if (rule, name) not in seen:
                seen.add((rule, name))
                look.find(rule, blob, message, severity=severity, key=name, evidence={"at": place[:500], **_strings(node)})


def _judge(node: Pairs) -> Iterator[tuple[str, str, str, Severity | None]]:
    for name in node.all("class_name"):
        if not isinstance(name, str):
            continue
        modules = [module for module in node.all("module") if isinstance(module, str) and module] or [""]
        configs = [config for config in node.all("config") if isinstance(config, Pairs)]
        if name == "__lambda__":
            yield "MG0330", name, "a function is stored as Python byte code, which runs when the model does", None
        elif name == "Lambda":
            yield from _lambda(configs)
        elif name in _CARRIERS:
            yield "MG0330", name, f"the layer {name} {_CARRIERS[name]}", None
        elif name == "TFOpLambda":
            for function in (function for config in configs for function in config.all("function")):
                if (severity := judge_function(str(function))) is not None:
                    yield "MG0330", str(function), f"a layer calls the TensorFlow function {str(function)[:100]!r}", severity
        elif name == "TensorFlowOpLayer":
            for op in re.findall(r'"op":\s*"([^"]+)"', str(configs)) + re.findall(r"'op', '([^']+)'", str(configs)):
                if (judged := judge_op(op)) and judged[0] == "MG0332":
                    yield "MG0330", op, f"a layer runs the TensorFlow operator {op[:100]!r}", judged[1]
        elif name not in _VALUES:
            for module in modules:
                yield from _class(name, module, node)
        for called in (called for config in configs for called in config.all("name")):
            if isinstance(called, str) and outside(called):
                # https://nvd.nist.gov/vuln/detail/CVE-2026-12479: Keras makes folders that are called like layers.
                yield (
                    "MG0336",
                    called,
                    f"the layer {name} is called {called[:200]!r}, a path that leads out of where it is saved",
                    Severity.CRITICAL,
                )
        if name in _VOCABULARY:
            for path in (path for config in configs for key in ("vocabulary", "vocabulary_file") for path in config.all(key)):
                if isinstance(path, str):
                    yield "MG0336", path, f"the layer {name} reads its vocabulary from {path[:200]!r} when it is loaded", _reach(path)


def _reach(path: str) -> Severity | None:
    return Severity.CRITICAL if outside(path) else None


def _lambda(configs: list[Any]) -> Iterator[tuple[str, str, str, Severity | None]]:
    functions = [function for config in configs for function in config.all("function")]
    if functions and all(isinstance(function, str) for function in functions):
        named = ", ".join(functions)[:200]
        yield "MG0330", f"Lambda {named}", f"a Lambda layer calls the function {named!r}, which the loader looks up by name", Severity.HIGH
    else:
        yield "MG0330", "Lambda", "a Lambda layer carries Python byte code, which runs when the model does", None


def _class(name: str, module: str, node: Pairs) -> Iterator[tuple[str, str, str, Severity | None]]:
    package = module.partition(".")[0]
    if name in ("function", "builtin_function_or_method"):
        name = node.text("config") or name
        module, package = ("", "") if module == "builtins" else (module, package)
    shown = f"{module}.{name}"[:200] if module else name[:200]
    keras = package in _PACKAGES or module.startswith(("tensorflow.keras", "tensorflow.python.keras"))
    if (not module or keras) and (name in known("keras_classes") or name in known("keras_functions")):
        return
    if package in _SISTERS and re.fullmatch(r"[\w.]+", module) and re.fullmatch(r"[A-Z]\w*", name):
        return
    if keras:
        severity = Severity.CRITICAL if _NO_LAYERS.fullmatch(name) else None
        yield "MG0331", shown, f"names {shown!r}, which is no layer, loss or other part of a model that Keras ships", severity
    elif not module:
        yield "MG0331", shown, f"names the class {shown!r}, which Keras does not ship; whoever loads it must supply it", Severity.MEDIUM
    else:
        severity = Severity.CRITICAL if package in sys.stdlib_module_names or package in ("tensorflow", "torch", "numpy") else None
        yield "MG0331", shown, f"names {shown!r}, which a loader imports from outside Keras", severity


def _strings(node: Pairs) -> dict[str, list[str]]:
    """The readable pieces of byte code stored in the object: the names and texts it uses."""
    for _, value in _texts(node, 6):
        if len(value) > 40 and re.fullmatch(r"[A-Za-z0-9+/=\s]+", value):
            try:
                code = base64.b64decode(value)
            except binascii.Error:
                continue
            if code[:1] in (b"\xe3", b"c"):
                return {"strings": [piece.decode() for piece in re.findall(rb"[\x20-\x7e]{3,80}", code)][:40]}
    return {}


def _texts(value: Any, depth: int) -> Iterator[tuple[str, str]]:
    if depth and isinstance(value, Pairs):
        for key, item in value:
            yield from ((key, item),) if isinstance(item, str) else _texts(item, depth - 1)
    elif depth and isinstance(value, list):
        for item in value[:64]:
            yield from (("", item),) if isinstance(item, str) else _texts(item, depth - 1)
