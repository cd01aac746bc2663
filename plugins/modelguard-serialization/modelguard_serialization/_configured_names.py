"""Dotted names in configurations: what a library gets when it imports them."""

from __future__ import annotations

import re
import sys
from dataclasses import dataclass

from modelguard import Artifact, Severity
from modelguard_serialization._known import known

LIBRARIES = known("libraries")
"""Packages whose classes configurations name."""

_PLAIN = known("plain_values")
"""What of the standard library builds values or numbers, and nothing more."""

_RUNS = re.compile(
    r"(?:^|[._])(?:exec|eval|system|popen|spawn\w*|subprocess|run_shell|run_command|run_cmd|shell|load_library|load_op_library|cpp_extension|f2py|"
    r"runstring|import_module|import_string|collect_env|os|sys|builtins|ctypes|pickle|unpickle|joblib|dill|cloudpickle|marshal|code|pty|distutils|py_function)(?:$|[._])"
    r"|__\w+__"
)
_LOADS = re.compile(
    r"(?:^|\.)(?:hub\.\w+|loads?|load_(?:pkl|model|learner|from_checkpoint|rel)|loadmat|read_pickle|from_?file|download\w*|urlretrieve|get_file|fetch\w*|"
    r"get_(?:static_)?(?:method|class|object)|get_class_from_dynamic_module|open|rmtree|remove|run|main|call|launch|instantiate|install\w*|"
    r"check_requirements|PackageImporter|PythonREPL)$"
    r"|\.(?:commands|cli|testing|_testing|tests|elastic|launcher|rpc|package|_inductor|_dynamo|dynamic_module_utils)\."
)
"""What of known libraries unpickles, fetches, starts programs or looks names up, and modules whose business that is."""


@dataclass(frozen=True, slots=True)
class Named:
    """What a dotted name stands for: how bad naming it is (None: ordinary), and why, completing "which ..."."""

    severity: Severity | None
    why: str = ""


def judge(name: str, artifact: Artifact) -> Named:
    """What importing ``name`` (``package.module.attribute``, with or without a colon) would get."""
    name = name.strip().replace(":", ".")
    package = name.partition(".")[0]
    if brought_along(package, artifact):
        return Named(Severity.HIGH, "is code that the artifact brings along")
    if name in _PLAIN:
        return Named(None, "is a plain value")
    if package in sys.stdlib_module_names or package in ("posix", "nt"):
        return Named(Severity.CRITICAL, "is Python's own and can run commands or code")
    if package in LIBRARIES:
        if _RUNS.search(name):
            return Named(Severity.CRITICAL, "runs commands or code, or unpickles files")
        return Named(Severity.HIGH, "loads or fetches what its arguments say") if _LOADS.search(name) else Named(None, f"is of {package}")
    return Named(Severity.HIGH, "is in no library known to be named in configurations")


def brought_along(package: str, artifact: Artifact) -> bool:
    """Whether a file of the artifact would be imported as ``package`` by whoever runs with its folder on the path."""
    return (
        any(re.fullmatch(rf"(?:.*/)?{re.escape(package)}(?:/__init__)?\.(?:py|pyc|so|pyd)", file.path) for file in artifact.files)
        if package
        else False
    )
