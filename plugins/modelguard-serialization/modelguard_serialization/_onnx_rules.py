"""The rules on what an ONNX file carries: MG0360 to MG0363."""

from __future__ import annotations

from modelguard import Rule, Severity

RULES = (
    Rule(
        "MG0360",
        "OnnxPythonOp",
        "an operator that runs Python",
        Severity.CRITICAL,
        "A node calls back into Python (PyOp, PythonOp and the like of onnxruntime and its extensions): what runs is whatever the program "
        "that loads the model has registered under that name, or imports for it.",
        "Do not run it. Export the model again with operators of ONNX.",
        "Models exported half-way through training by onnxruntime-training hold them.",
        cwe=829,
    ),
    Rule(
        "MG0361",
        "OnnxCustomDomain",
        "operators that ONNX does not have",
        Severity.MEDIUM,
        "Nodes use operators of a domain of their own, so the model only runs with a library of native code that brings them, and what "
        "they "
        "compute is not in the file. Domains of onnxruntime and of frameworks' exporters, and operators that the file itself defines, are "
        "information.",
        "Find out which library they are of, and whether you trust it; or export the model again without them.",
        "Exporters for one engine (TensorRT, mmdeploy) use domains of their own.",
        cwe=829,
    ),
    Rule(
        "MG0362",
        "OnnxShadowingFunction",
        "a function under the name of a standard operator",
        Severity.HIGH,
        "The model defines functions in ONNX's own domain, or one function twice. Some runtimes then compute what the file says and others "
        "what the standard says, so the model that was tested and the one that runs can differ.",
        "Do not use it. Export the model again.",
        "Tools that inline operators write the function under a domain of their own.",
        cwe=436,
    ),
    Rule(
        "MG0363",
        "OnnxMetadata",
        "more in an ONNX file's notes than notes",
        Severity.LOW,
        "The metadata or documentation in the file is very large, encoded or binary, or holds code. Runtimes ignore it; a loader that "
        "comes "
        "with the model need not.",
        "Look at the value. Remove it if nothing needs it.",
        "Exporters keep stack traces, class names and configurations there.",
        cwe=506,
    ),
)
