"""The rules of model formats: MG0330 to MG0338."""

from __future__ import annotations

from modelguard import Rule, Severity

KERAS_CODE = Rule(
    "MG0330",
    "KerasCode",
    "a Keras model that carries code",
    Severity.CRITICAL,
    "The configuration of the model holds Python code, or a layer that runs what the file gives it: a Lambda layer with marshalled byte "
    "code, a wrapper that unpickles a torch module, a layer that loads another SavedModel, an operator that calls Python. Keras refuses "
    "some of it under safe_mode, other loaders and the H5 format do not (CVE-2024-3660, CVE-2025-9905, CVE-2025-49655).",
    "Do not load it. Ask for a model whose layers are classes of Keras, and rebuild Lambda layers from reviewed source.",
    "Honest models use Lambda layers for a line of arithmetic; only reading the code says so.",
    cwe=502,
)
KERAS_CLASS = Rule(
    "MG0331",
    "KerasUnknownClass",
    "a Keras configuration that names a class or function Keras does not ship",
    Severity.HIGH,
    "Deserialising imports the module and calls the class or function that the configuration names. A name outside Keras is code from "
    "somewhere else; one inside Keras that is no layer (get_file, load_model, enable_unsafe_deserialization) is an attack known to work "
    "(CVE-2025-1550, CVE-2025-8747, CVE-2025-9906).",
    "Do not load it unless the named class is yours and reviewed, registered by your own code.",
    "Models with custom layers name them; without a module, nothing is imported, and loading fails unless the user registers the class "
    "(medium).",
    cwe=470,
)
DANGEROUS_OP = Rule(
    "MG0332",
    "DangerousOp",
    "a graph with an operator that reaches outside the model",
    Severity.HIGH,
    "TensorFlow graphs are programs. This one has operators that call Python, or read or write files or sockets when the model runs. "
    "Loading and calling the model is enough to run them; no safe mode exists.",
    "Do not run it. Export the model again from source, without input pipelines and file access in its signatures.",
    "Reading files is part of some exported input pipelines; saving and restoring variables is ordinary and is not told.",
    cwe=94,
)
CUSTOM_OP = Rule(
    "MG0333",
    "CustomOperator",
    "a model that needs an operator its framework does not ship",
    Severity.LOW,
    "The model names an operator that is no part of the framework's release. It runs only where a native library with that operator is "
    "loaded; what that library does is not in the artifact.",
    "Find out which library provides the operator, and whether you trust it.",
    "TensorFlow Text, TensorFlow Decision Forests, MediaPipe and newer releases bring operators of their own.",
)
CONFIGURED_CODE = Rule(
    "MG0334",
    "ConfiguredCode",
    "configuration that names code to import or call",
    Severity.HIGH,
    "A library that loads this configuration imports the Python name it holds, and usually calls it with arguments from the same file. "
    "Names in the usual libraries' classes are ordinary and not told. A function that runs commands or code is critical, a name in no "
    "known library is high, another name in a known library low.",
    "Do not load it with a library that instantiates configurations. Read what the name is, and pin and review where it comes from.",
    "Research code names classes of its own package, which is not part of the artifact.",
    cwe=470,
)
OUTSIDE_FILE = Rule(
    "MG0336",
    "OutsideFile",
    "a model file that makes its loader read other files",
    Severity.HIGH,
    "The file names another file, or an address, whose content becomes part of the model: an external link or external storage in HDF5 "
    "(CVE-2026-1669), a vocabulary by its path (CVE-2025-12058), a custom layer or weights by path. With an absolute path, '..' or an "
    "address it is critical: it reads what the machine has, and a model can hand it out.",
    "Do not load it. Ask for a file that holds all of the model.",
    "HDF5 data sets split over several files on purpose; vocabularies beside the model.",
    cwe=73,
)
NATIVE_MODEL = Rule(
    "MG0337",
    "NativeModel",
    "a model compiled to native code",
    Severity.MEDIUM,
    "The file is compiled for one kind of processor, and its loader runs it as a program. What it does cannot be read from it.",
    "Build it yourself from the model it was made of.",
    "TensorRT engines are built for speed, on purpose, by whoever deploys.",
    cwe=829,
)
METADATA_CODE = Rule(
    "MG0338",
    "MetadataCode",
    "code in the metadata of a weights file",
    Severity.MEDIUM,
    "A text in the metadata of the file is a pickle, compiled Python, a program, or Python that imports and calls. Metadata is for "
    "names and numbers; a second stage finds its code here, where nothing looks.",
    "Do not use the file; ask for one without it.",
    "Training tools store their command line and configuration as text, which is not told.",
    cwe=506,
)
RULES = (KERAS_CODE, KERAS_CLASS, DANGEROUS_OP, CUSTOM_OP, CONFIGURED_CODE, OUTSIDE_FILE, NATIVE_MODEL, METADATA_CODE)
