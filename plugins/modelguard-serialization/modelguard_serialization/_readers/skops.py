"""skops: scikit-learn models as a tree of typed nodes in ``schema.json``.

Source: https://skops.readthedocs.io; skops/io/_general.py and _trusted_types.py.
"""

from __future__ import annotations

import re
from typing import Any

from modelguard import Severity
from modelguard_serialization import limits
from modelguard_serialization._configured_names import judge
from modelguard_serialization._documents import Pairs, parse_json, text_of, walk
from modelguard_serialization._format_rules import CONFIGURED_CODE
from modelguard_serialization._known import known
from modelguard_serialization.blob import Blob
from modelguard_serialization.reader import Look, NotReadError, Reader

_LIBRARIES = re.compile(
    r"sklearn\.(?!datasets|externals|utils|conftest|.*\btests\b)[\w.]+"
    r"|sklearn\.utils\.(?:_metadata_requests|_bunch\.Bunch|Bunch|deprecation|_encode|_mask|validation|_typedefs)[\w.]*"
    r"|numpy\.(?:(?:random|ma|core|_core|dtypes)\.)?[\w.]+|scipy\.(?:sparse|special|stats|interpolate|spatial)\.[\w.]+"
    r"|(?:catboost|lightgbm|xgboost|quantile_forest|imblearn)\.[\w.]+|pandas\.core\.[\w.]+"
)
_PLAIN = known("skops_values")
"""Types whose nodes hold values, or a name that is judged by itself."""
_GADGETS = re.compile(
    r"(?:^|\.)(?:_memory|joblib|fetch_\w+|load_svmlight_files?|load_files|open_ml|_bunch|exec_command|runstring|f2py|distutils|testing\._private\.\w+|loadtxt|fromfile|load|save\w*|memmap|DataSource)(?:\.|$)"
)


class Skops(Reader):
    what = "the schema of a skops model"
    rules = (CONFIGURED_CODE,)
    format = "skops"

    def recognise(self, blob: Blob) -> bool:
        return blob.name.rsplit("/", 1)[-1] == "schema.json" and b'"__class__"' in bytes(blob.data[:4096])

    def read(self, blob: Blob, look: Look) -> None:
        text = text_of(blob.data)
        if text is None or len(blob.data) > limits.DOCUMENT:
            raise NotReadError("is a skops schema that is no text, or too large to be read")
        told: set[str] = set()
        for tree in parse_json(text):
            for done, (_, node) in enumerate(walk(tree)):
                if done % 4096 == 0:
                    look.check()
                if isinstance(node, Pairs):
                    self._mismatched(node, blob, look)
                for name in _names(node):
                    if name not in told:
                        told.add(name)
                        self._judge(name, blob, look)

    def _mismatched(self, node: Pairs, blob: Blob, look: Look) -> None:
        """Nodes whose loader takes something else than the type that skops asks the user to trust.

        https://nvd.nist.gov/vuln/detail/CVE-2025-54412 (OperatorFuncNode), https://nvd.nist.gov/vuln/detail/CVE-2025-54413 (MethodNode).
        """
        loader = node.text("__loader__")
        if loader == "OperatorFuncNode" and node.all("__module__") != ["operator"]:
            name = node.text("__class__")
            look.find(
                "MG0334",
                blob,
                f"skops takes {name[:100]!r} of the module operator, and says it were another",
                severity=Severity.CRITICAL,
                key=name[:100],
            )
        if loader == "MethodNode":
            methods = [method for content in node.all("content") if isinstance(content, Pairs) for method in content.all("func")]
            for method in methods:
                if not isinstance(method, str) or not re.fullmatch(r"[A-Za-z]\w*", method):
                    look.find(
                        "MG0334",
                        blob,
                        f"skops follows {str(method)[:200]!r} to a method",
                        severity=Severity.CRITICAL,
                        key=str(method)[:200],
                    )

    def _judge(self, name: str, blob: Blob, look: Look) -> None:
        if name not in _PLAIN and not (_LIBRARIES.fullmatch(name) and not _GADGETS.search(name)):
            severity = judge(name, look.artifact).severity or Severity.HIGH
            look.find(
                "MG0334",
                blob,
                f"skops imports {name[:200]!r}, which is no type of scikit-learn, NumPy or SciPy",
                severity=severity,
                key=name[:200],
            )


def _names(node: Any) -> list[str]:
    """What a node makes skops import: its own type, and the function or method that it stands for."""
    if not isinstance(node, Pairs) or not node.has("__class__"):
        return []
    names = [f"{module}.{name}" for module in node.all("__module__") or [""] for name in node.all("__class__") if isinstance(name, str)]
    for content in node.all("content"):
        if isinstance(content, Pairs) and content.has("module_path"):
            names += [f"{module}.{name}" for module in content.all("module_path") for name in content.all("function")]
    return names
