"""Which code a configuration makes its library import or call: one function a convention, with the library it is of."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from modelguard import Artifact, Severity
from modelguard_serialization._configured_names import judge
from modelguard_serialization._documents import Pairs, Tagged
from modelguard_serialization._known import known
from modelguard_serialization._paths import outside


@dataclass(frozen=True, slots=True)
class Pointer:
    """A name that a configuration makes a library import, run or read. ``severity`` None: ordinary, and told as information."""

    name: str
    message: str
    severity: Severity | None
    rule: str = "MG0334"


_DOTTED = re.compile(r"[A-Za-z_]\w*(?:\.\w+)+")
_YAML_PLAIN = frozenset(["tuple", "none", "bool", "str", "unicode", "int", "long", "float", "complex", "list", "dict", "bytes"])
_DIFFUSERS = known("diffusers_modules")
"""Libraries and modules of ``diffusers.pipelines`` that model_index.json may name."""
_MLFLOW = known("mlflow_loaders")
"""Loader modules that MLflow writes itself."""
_HANDLERS = frozenset(
    ["image_classifier", "image_segmenter", "object_detector", "text_classifier", "text_handler", "vision_handler", "base_handler"]
)
_RUNS = re.compile(
    r"__\w+__|\b(?:eval|exec|system|popen|subprocess|socket|urllib|requests|ctypes|pickle|compile|getattr|builtins)\b|\bimport\s+(?:os|sys|shutil)\b|\bos\."
)


_KEYS = frozenset(
    """
    auto_mapping parent_library user_dir class_path import_path init_parameters custom_imports structure model_file custom_ops_library
    activation_function activation_fn sbert_ce_default_activation_function megatron_core _class_name class_name _diffusers_version
    loader_module attn_implementation _attn_implementation _attn_implementation_internal experts_implementation _experts_implementation
    _experts_implementation_internal trust_remote_code _target_ weightsManifest
    """.split()  # noqa: SIM905
)
"""Keys that the conventions below go by; beside them ``target`` and ``_type`` with a text, ``lc``, and ``py/`` as the first of a key."""
_IMPLEMENTATIONS = frozenset(key for key in _KEYS if "_implementation" in key)


def pointers(place: str, node: Any, name: str, artifact: Artifact) -> Iterator[Pointer]:
    """What the value at ``place`` in the document of a file or member called ``name`` makes libraries import or run."""
    if isinstance(node, Tagged):
        yield from _tag(node, artifact)
    elif isinstance(node, Pairs):
        if any(key in _KEYS or key in ("target", "_type", "lc") or key.startswith("py/") for key, _ in node):
            for convention in _MAPPINGS:
                yield from convention(node, artifact)
        yield from _expressions(node)
        if not place:
            for convention in _ROOTS:
                yield from convention(node, artifact)
            file = name.rsplit("/", 1)[-1].lower()
            if file == "mlmodel":
                yield from _mlmodel(node, artifact)
            if file == "manifest.json" or file == "bentofile.yaml":
                yield from _served(node, artifact)
            if file.endswith("model_config.yaml"):
                yield from (_named(target, artifact, "NeMo") for target in node.all("target") if isinstance(target, str))
    elif isinstance(node, list) and not place:
        yield from _modules(node, artifact)


def _named(name: str, artifact: Artifact, library: str) -> Pointer:
    found = judge(name, artifact)
    return Pointer(name, f"{library} imports {name[:200]!r} and calls it, which {found.why}", found.severity)


def _tag(node: Tagged, artifact: Artifact) -> Iterator[Pointer]:
    tag = node.tag
    python = re.fullmatch(r"(?:tag:yaml\.org,2002:|!!?)python/(\w+)(?:/(\w+))?:?(.*)", tag, re.DOTALL)
    if python:
        kind, target = python[1], python[3]
        if kind in _YAML_PLAIN and not target:
            return
        # Older hyperpyyaml and Lightning write such tags for values and for what they seed; only loaders without safety follow any of them.
        found = judge(target, artifact)
        severity = max(found.severity, Severity.HIGH) if found.severity is not None else Severity.LOW
        message = f"a YAML tag makes yaml.unsafe_load or full_load build {target[:200] or tag[:200]!r}, which {found.why}"
        yield Pointer(target or tag, message, severity)
    elif ruby := re.fullmatch(r"!?!?(?:ruby|java|javax|perl|php)[/:.](.*)", tag, re.DOTALL):
        yield Pointer(tag, f"a YAML tag makes other languages' loaders build {ruby[1][:200]!r}", Severity.HIGH)
    elif speech := re.fullmatch(r"!(new|name|module|apply|applyref):(.*)", tag, re.DOTALL):
        yield _named(speech[2], artifact, f"HyperPyYAML (!{speech[1]}:)")
    elif included := re.fullmatch(r"!include:(.*)", tag, re.DOTALL):
        away = outside(included[1])
        severity = Severity.CRITICAL if away else Severity.INFO
        yield Pointer(included[1], f"HyperPyYAML includes {included[1][:200]!r}", severity, "MG0336" if away else "MG0334")


def _instantiated(node: Pairs, artifact: Artifact) -> Iterator[Pointer]:
    """Hydra's ``instantiate``, OmegaConf, MONAI bundles (``_target_``); ``instantiate_from_config`` of CompVis (``target``)."""
    for target in node.all("_target_"):
        if isinstance(target, str) and (_DOTTED.fullmatch(target) or ":" in target):
            yield _named(target, artifact, "Hydra")
            if any(str(value).lower() == "true" for value in node.all("trust_remote_code")):
                yield Pointer(
                    target,
                    f"Hydra calls {target[:200]!r} with trust_remote_code, which runs code of the repository it names",
                    Severity.HIGH,
                )
            if target.startswith("hydra.utils.") or target == "functools.partial":
                yield from (
                    _named(item, artifact, "Hydra")
                    for item in (*node.all("path"), *_first(node.all("_args_")))
                    if isinstance(item, str) and _DOTTED.fullmatch(item)
                )
    for target in node.all("target"):
        if (
            isinstance(target, str)
            and _DOTTED.fullmatch(target)
            and (node.has("params") or judge(target, artifact).severity is Severity.CRITICAL)
        ):
            yield _named(target, artifact, "a library with instantiate_from_config")


def _first(values: list[Any]) -> list[Any]:
    return [value[0] for value in values if isinstance(value, list) and value]


def _class_paths(node: Pairs, artifact: Artifact) -> Iterator[Pointer]:
    """Names by other keys: LightningCLI and jsonargparse (``class_path``), Haystack (``type`` with ``init_parameters``), MMEngine
    (``custom_imports``), Ray Serve (``import_path``), sentence-transformers (``activation_function`` of Dense, ``activation_fn`` of cross
    encoders), PEFT (``megatron_core``).
    """
    keys = [("class_path", "LightningCLI"), ("import_path", "Ray Serve"), ("activation_function", "sentence-transformers")]
    keys += [
        ("activation_fn", "sentence-transformers"),
        ("sbert_ce_default_activation_function", "sentence-transformers"),
        ("megatron_core", "PEFT"),
    ]
    keys += [("type", "Haystack")] if node.has("init_parameters") else []
    for key, library in keys:
        for name in node.all(key):
            if isinstance(name, str) and _DOTTED.fullmatch(name.replace(":", ".")) and name != "megatron.core":
                yield _named(name, artifact, library)
    for imports in node.all("custom_imports"):
        for names in imports.all("imports") if isinstance(imports, Pairs) else []:
            for name in names if isinstance(names, list) else [names]:
                if isinstance(name, str):
                    yield _named(name, artifact, "MMEngine")


def _routes(node: Pairs, artifact: Artifact) -> Iterator[Pointer]:
    """sentence-transformers' Router and Asym import the ``types`` of their configuration."""
    for types in node.all("types") if node.has("structure") else []:
        for _, name in types if isinstance(types, Pairs) else []:
            if isinstance(name, str) and not name.startswith("sentence_transformers."):
                yield _named(name, artifact, "sentence-transformers")


def _files(node: Pairs, artifact: Artifact) -> Iterator[Pointer]:
    """mlx-lm runs ``model_file`` as Python; onnxruntime-genai loads ``custom_ops_library`` as native code."""
    for path in node.all("model_file"):
        if isinstance(path, str) and path.endswith(".py"):
            yield Pointer(path, f"mlx-lm runs the file {path[:200]!r}", Severity.HIGH)
    for path in node.all("custom_ops_library"):
        if isinstance(path, str) and path:
            yield Pointer(path, f"ONNX Runtime loads the native library {path[:200]!r}", Severity.HIGH)


def _weights(node: Pairs, artifact: Artifact) -> Iterator[Pointer]:
    """TensorFlow.js fetches the weights of a ``model.json`` from the paths in its manifest, which may be addresses."""
    for manifest in node.all("weightsManifest"):
        groups = [group for group in manifest if isinstance(group, Pairs)] if isinstance(manifest, list) else []
        for path in (path for group in groups for paths in group.all("paths") if isinstance(paths, list) for path in paths):
            if isinstance(path, str) and outside(path):
                yield Pointer(path, f"TensorFlow.js takes weights from {path[:200]!r}", Severity.CRITICAL, "MG0336")


def _expressions(node: Pairs) -> Iterator[Pointer]:
    """MONAI evaluates texts that begin with ``$`` as Python."""
    for key, value in node:
        for text in value if isinstance(value, list) else [value]:
            if isinstance(text, str) and text.startswith("$") and _RUNS.search(text):
                yield Pointer(
                    text, f"MONAI evaluates {key[:80]!r}, which is Python that runs more than arithmetic: {text[:200]!r}", Severity.CRITICAL
                )


def _jsonpickle(node: Pairs, artifact: Artifact) -> Iterator[Pointer]:
    """jsonpickle builds and calls what ``py/...`` keys name: https://jsonpickle.readthedocs.io (it warns of untrusted data)."""
    for key, value in node:
        if key in ("py/object", "py/function", "py/type", "py/class", "py/newargs", "py/repr") and isinstance(value, str):
            found = judge(value, artifact)
            yield Pointer(value, f"jsonpickle imports {value[:200]!r}, which {found.why}", found.severity)


def _langchain(node: Pairs, artifact: Artifact) -> Iterator[Pointer]:
    """LangChain's own serialisation: ``{"lc": 1, "type": "constructor", "id": ["langchain", ...]}``."""
    for path in node.all("id") if node.has("lc") else []:
        if isinstance(path, list) and path and all(isinstance(part, str) for part in path):
            yield _named(".".join(path), artifact, "LangChain")
    for kind in node.all("_type"):
        if kind in ("python_repl", "llm_bash_chain", "pal_chain", "terminal"):
            yield Pointer(str(kind), f"LangChain builds a chain of type {kind!r}, which runs code", Severity.HIGH)


def _kernels(node: Pairs, artifact: Artifact) -> Iterator[Pointer]:
    """transformers fetches a compiled kernel from the Hub where attention, or a mixture's experts, are named like a repository."""
    for key, value in node:
        if key in _IMPLEMENTATIONS and isinstance(value, str) and "/" in value:
            severity = Severity.LOW if value.startswith("kernels-community/") else Severity.HIGH
            yield Pointer(value, f"transformers fetches and loads the native kernel {value[:200]!r}", severity)


def _trusting(node: Pairs, artifact: Artifact) -> Iterator[Pointer]:
    """A configuration that switches ``trust_remote_code`` on by itself and takes a part from elsewhere.

    LightGlue in transformers 5.2 obeys it whatever the caller says: https://nvd.nist.gov/vuln/detail/CVE-2026-5241.
    """
    parts = [part for _, part in node if isinstance(part, Pairs)] if any(node.all("trust_remote_code")) else []
    for part in parts:
        for path in part.all("_name_or_path"):
            if isinstance(path, str) and "/" in path:
                yield Pointer(path, f"transformers takes code from {path[:200]!r}, which this file says to trust", Severity.MEDIUM)


def _user_dir(node: Pairs, artifact: Artifact) -> Iterator[Pointer]:
    """fairseq imports every module of ``user_dir``."""
    for value in node.all("user_dir"):
        if isinstance(value, str) and value not in ("", "null", "~", "None"):
            yield Pointer(value, f"fairseq imports the folder {value[:200]!r}", Severity.HIGH)


def _parent_library(node: Pairs, artifact: Artifact) -> Iterator[Pointer]:
    """PEFT imports ``auto_mapping.parent_library`` and takes ``base_model_class`` from it."""
    for mapping in node.all("auto_mapping"):
        for library in mapping.all("parent_library") if isinstance(mapping, Pairs) else []:
            if isinstance(library, str) and library != "__main__":
                found = judge(f"{library}.{mapping.text('base_model_class')}", artifact)
                severity = Severity.MEDIUM if library.startswith("transformers_modules.") else found.severity
                yield Pointer(library, f"PEFT imports {library[:200]!r}, which {found.why}", severity)


def _pipeline(node: Pairs, artifact: Artifact) -> Iterator[Pointer]:
    """diffusers imports the library of every ``[library, class]`` of model_index.json; ``_class_name`` as a list is its own code."""
    if not node.has("_class_name") and not node.has("_diffusers_version"):
        return
    for key, value in node:
        if not (isinstance(value, list) and len(value) >= 2 and not isinstance(value, Pairs) and isinstance(value[0], str)):
            continue
        library = value[0]
        if key == "_class_name":
            yield Pointer(library, f"diffusers runs the file {library[:200] + '.py'!r} of the repository as the pipeline", Severity.HIGH)
        elif key.startswith("_") or not isinstance(value[1], str | None):
            continue
        elif any(file.path == f"{key}/{library}.py" or file.path.endswith(f"/{key}/{library}.py") for file in artifact.files):
            yield Pointer(library, f"diffusers imports {key}/{library}.py of the repository", Severity.HIGH)
        elif library not in _DIFFUSERS and re.fullmatch(r"[A-Za-z_][\w.]*", library):
            found = judge(f"{library}.{value[1] or ''}", artifact)
            yield Pointer(library, f"diffusers imports {library[:200]!r}, which {found.why}", found.severity)


def _modules(root: list[Any], artifact: Artifact) -> Iterator[Pointer]:
    """sentence-transformers imports the ``type`` of every entry of modules.json."""
    for item in root:
        if isinstance(item, Pairs) and item.has("path") and (item.has("idx") or item.has("name")):
            for kind in item.all("type"):
                if isinstance(kind, str) and _DOTTED.fullmatch(kind) and not kind.startswith("sentence_transformers."):
                    yield _named(kind, artifact, "sentence-transformers")


def _mlmodel(node: Pairs, artifact: Artifact) -> Iterator[Pointer]:
    """MLflow imports the ``loader_module`` of the python_function flavour, with the folder ``code`` on the path."""
    for flavours in node.all("flavors"):
        for _, flavour in flavours if isinstance(flavours, Pairs) else []:
            if not isinstance(flavour, Pairs):
                continue
            for module in flavour.all("loader_module"):
                if isinstance(module, str) and module not in _MLFLOW:
                    found = judge(module, artifact)
                    yield Pointer(module, f"MLflow imports {module[:200]!r} and calls its loader", found.severity or Severity.HIGH)
            for key in ("code", "model_code_path"):
                for path in flavour.all(key):
                    if isinstance(path, str) and path not in ("", "null", "~"):
                        severity = Severity.HIGH if key == "model_code_path" or outside(path) else Severity.MEDIUM
                        yield Pointer(path, f"MLflow puts {path[:200]!r} on the path of modules, or runs it", severity)


def _served(node: Pairs, artifact: Artifact) -> Iterator[Pointer]:
    for model in node.all("model"):
        for handler in model.all("handler") if isinstance(model, Pairs) else []:
            if isinstance(handler, str) and handler not in _HANDLERS:
                yield Pointer(handler, f"TorchServe runs the handler {handler[:200]!r}", Severity.MEDIUM)
    for service in node.all("service"):
        if isinstance(service, str):
            yield Pointer(service, f"BentoML imports and serves {service[:200]!r}", Severity.MEDIUM)


Convention = Callable[[Pairs, Artifact], Iterator[Pointer]]
_MAPPINGS: tuple[Convention, ...] = (
    _instantiated,
    _jsonpickle,
    _langchain,
    _kernels,
    _trusting,
    _user_dir,
    _parent_library,
    _class_paths,
    _routes,
    _files,
    _weights,
)
_ROOTS: tuple[Convention, ...] = (_pipeline,)
"""What is looked for in every mapping, and at the top of a document only."""

_JSON_KEYS = tuple(f'"{key}"' for key in sorted(_KEYS))
_JSON_OTHER = (
    r'"py/',
    r'"lc"\s*:\s*1\b',
    r'"_type"\s*:\s*"',
    r'"target"\s*:\s*"',
    r'"\$[^"]*(?:__|\b(?:eval|exec|system|popen|subprocess|import|compile|getattr|os)\b)',
    r"\\u00[2-7]",
)
_IN_TEXT = tuple(map(re.compile, _JSON_OTHER))
_IN_BYTES = tuple(re.compile(pattern.encode()) for pattern in (*map(re.escape, _JSON_KEYS), *_JSON_OTHER, r"\x00"))


def may_name_code(text: str, name: str) -> bool:
    """Whether a JSON text, of a file called ``name``, has a key that any of the above goes by, or an escape that may be part of one.

    Searched one by one, because what begins with a fixed text is found many times as fast as alternatives are: vocabularies are large.
    """
    if any(key in text for key in _JSON_KEYS) or any(pattern.search(text) for pattern in _IN_TEXT):
        return True
    if name.lower().endswith(("manifest.json", "bentofile.json")):
        return True
    return '"type"' in text and '"path"' in text and re.match(r"\s*\[", text) is not None


def may_name_code_in(data: memoryview) -> bool:
    """The same of bytes, for a text too large to be taken into memory."""
    return any(pattern.search(data) for pattern in _IN_BYTES)


YAML_WORDS = re.compile(
    r"(?:^|[\s:\-\[,{?])!|%TAG|python/|_target_|\b(?:auto_mapping|parent_library|loader_module|class_path|import_path|init_parameters|custom_imports)\b|"
    r"\b(?:activation_function|activation_fn|megatron_core|model_file|custom_ops_library|model_code_path|user_dir|class_name|\w*(?:attn|experts)_implementation\w*|target|handler|service)\b|"
    r"py/|\$.*(?:__|eval|exec|system|popen|subprocess|import|compile|getattr)|\\[xuU]",
    re.MULTILINE,
)
"""One of these stands in every YAML document that any of the above has something to say of; the last are escapes, which may hide one."""
