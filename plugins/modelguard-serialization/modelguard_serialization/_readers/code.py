"""Python files and notebooks: parsed, never compiled."""

from __future__ import annotations

import json
import posixpath
import re
import sys
from typing import Any

from modelguard import Artifact, ArtifactError, Severity
from modelguard_serialization import limits
from modelguard_serialization._code import dangers, judge, python, rules, shell, source
from modelguard_serialization._code.program import Program
from modelguard_serialization._file_names import PYTHON
from modelguard_serialization._readers.torchscript import is_torchscript
from modelguard_serialization._words import words
from modelguard_serialization.blob import Blob
from modelguard_serialization.reader import Look, NotReadError, Reader

_SHEBANG = re.compile(rb"#![^\n]{0,200}\bpython")
_ALWAYS_IMPORTED = words("__init__.py sitecustomize.py usercustomize.py conftest.py handler.py setup.py pipeline.py model.py inference.py")
_DOES = re.compile(rb"\b(?:os\.system|os\.popen|subprocess\.\w{1,20}|exec|eval|__import__|socket\.socket)(?=[ \t]*\()")
_NOTHING = (
    "; nothing in it runs commands, text as code or native code, uses the network, unpickles or deletes files as far as its names tell"
)


_SHADOWED = (
    sys.stdlib_module_names | words("numpy torch transformers safetensors tokenizers huggingface_hub onnx onnxruntime click pydantic")
) - words("test token code trace profile statistics calendar cmd this site")
"""Modules that programs of the field import when they start, less those whose names honest scripts have."""


def _stands_for(blob: Blob) -> str | None:
    """The module that a file at the top of the artifact is imported instead of, because Python looks in its working directory first."""
    folder, _, name = blob.file.rpartition("/")
    top = (
        folder.split("/")[0]
        if name == "__init__.py" and "/" not in folder and folder
        else posixpath.splitext(name)[0]
        if not folder
        else ""
    )
    return top if not blob.members and top in _SHADOWED else None


class PythonReader(Reader):
    """Source by its name, because that is what Python loads by, or by the line that names its interpreter."""

    what = "Python source"
    rules = (rules.CODE, rules.INSTALL)

    def recognise(self, blob: Blob) -> bool:
        if blob.ending == ".pth":  # a line of these that begins with "import" is run when Python starts
            return re.match(rb"(?:\xef\xbb\xbf)?(?:[^\0\n]{0,300}\n){0,20}import[ \t]", blob.head(8192)) is not None
        if is_torchscript(blob):
            return False  # nobody imports it, and its reader knows what it can do
        return blob.ending in PYTHON or bool(_SHEBANG.match(blob.head(256)))

    def read(self, blob: Blob, look: Look) -> None:
        if (module := _stands_for(blob)) is not None:
            look.find(
                "MG0350",
                blob,
                f"stands in the place of Python's module {module} for whoever runs Python in this folder; do not, and delete it",
                severity=Severity.HIGH,
                key=f"stands for {module}",
            )
        if len(blob.data) > limits.CODE:
            raise NotReadError(f"is Python source of {len(blob.data)} bytes, more than the {limits.CODE} that are parsed")
        try:
            text, encoding = source.source_text(bytes(blob.data))
            if blob.ending == ".pth":
                text = "\n".join(line for line in text.splitlines() if line.startswith(("import ", "import\t")))
            if encoding.lower() in source.HIDING:
                look.find(
                    "MG0350", blob, f"declares the encoding {encoding}, in which code reads as something else", severity=Severity.HIGH
                )
            tree = source.parse(text)
        except source.NotParsedError as error:
            named = _DOES.search(bytes(blob.data))
            look.find(
                "MG0350",
                blob,
                f"is named like Python source, and cannot be parsed: {error}{'; it names ' + named[0].decode() if named else ''}",
                severity=Severity.MEDIUM if named else Severity.LOW,
                key="not parsed",
            )
            raise NotReadError(f"cannot be parsed as Python ({error})") from error
        look.check()
        program = python.study(tree)
        if posixpath.basename(blob.name) == "setup.py":  # pip calls the commands of a package that is installed from its folder
            program.loading |= program.units.get("run", set())
        loaded = (
            bool(program.loading)
            or blob.ending == ".pth"
            or posixpath.basename(blob.name) in _ALWAYS_IMPORTED
            or posixpath.splitext(posixpath.basename(blob.name))[0] in _pointed(look.artifact)
        )
        report(blob, look, program, loaded)


def report(blob: Blob, look: Look, program: Program, loaded: bool) -> None:
    """One finding that this is code, and one for each thing to be said of it."""
    found = list(judge.verdicts(program, loaded))
    imports = ", ".join(sorted(program.imports)[:20]) or "nothing"
    quiet = _NOTHING if not any(use.kind != dangers.IMPORT for use in program.uses) and not program.hides else ""
    look.find(
        "MG0350",
        blob,
        f"is Python code that imports {imports}{quiet}",
        severity=Severity.LOW,
        evidence={"imports": sorted(program.imports)[:100]},
        key="code",
    )
    for verdict in found:
        look.find(
            "MG0350",
            blob,
            f"{verdict.what}, line {verdict.line}",
            severity=verdict.severity,
            evidence={"line": verdict.line},
            key=verdict.key[:200],
        )


_last: tuple[Artifact | None, frozenset[str]] = (None, frozenset())


def _pointed(artifact: Artifact) -> frozenset[str]:
    """Names of the modules that the artifact's configuration, or its other code, imports."""
    global _last
    if _last[0] is not artifact:
        names: set[str] = set()
        for file in artifact.files:
            ending = posixpath.splitext(file.path.lower())[1]
            if file.size > limits.CODE or ending not in (".py", ".json"):
                continue
            try:
                with file.open() as handle:
                    data = handle.read(limits.CODE)
            except ArtifactError:
                continue
            if ending == ".json":
                names |= {hit.decode() for hit in re.findall(rb'"(?:[\w./-]+--)?([A-Za-z_]\w{0,100})\.[A-Za-z_]\w{0,100}"', data)}
            else:
                found = re.findall(
                    rb"^[ \t]*(?:from[ \t]+\.*([\w.]*)[ \t]+import[ \t]+\(?([\w, \t]*)|import[ \t]+([\w., \t]+))", data, re.M
                )
                names |= {part for hit in found for part in re.split(r"[\s,.]+", b" ".join(hit).decode()) if part}
        _last = (artifact, frozenset(names))
    return _last[1]


class NotebookReader(Reader):
    """The code in Jupyter notebooks, with the commands that its magics run, and scripts in what cells have put out."""

    what = "a Jupyter notebook"
    rules = (rules.NOTEBOOK, rules.INSTALL)

    def recognise(self, blob: Blob) -> bool:
        return blob.ending == ".ipynb" or (
            blob.head(1)[:1] == b"{" and b'"nbformat"' in blob.head(1 << 16) and b'"cells"' in blob.head(1 << 16)
        )

    def read(self, blob: Blob, look: Look) -> None:
        if len(blob.data) > limits.TEXT:
            raise NotReadError(f"is a notebook of {len(blob.data)} bytes, more than the {limits.TEXT} that are parsed")
        try:
            document = json.loads(bytes(blob.data))
        except (ValueError, RecursionError) as error:
            raise NotReadError("is no notebook that can be parsed") from error
        cells = _cells(document)
        code, commands, unparsed, program = [], [], 0, Program()
        for cell in cells:
            look.check()
            lines, magic = _magics(_text(cell.get("source", cell.get("input"))))
            code.append(lines)
            commands += magic
            try:
                python.study(source.parse("\n".join(lines)), program=program)
            except source.NotParsedError:
                unparsed += 1
                commands += lines
        _notebook_findings(blob, look, program, commands, len(code))
        if unparsed:
            look.miss(blob, f"{unparsed} of its {len(code)} code cells cannot be parsed as Python")
        for kind in sorted({kind for cell in cells for kind in _active(cell)}):
            look.find("MG0355", blob, f"holds {kind} in what a cell has put out", severity=Severity.LOW, key=f"output {kind}")


def _notebook_findings(blob: Blob, look: Look, program: Program, commands: list[str], cells: int) -> None:
    if cells:
        look.find(
            "MG0355", blob, f"has {cells} cells of code, and {len(commands)} lines of commands", severity=Severity.LOW, key="notebook"
        )
    for verdict in judge.verdicts(program, loaded=False):
        hides = verdict.key in {what for what, _, _ in program.hides} or verdict.severity > Severity.HIGH
        severity = min(verdict.severity, Severity.HIGH) if hides else Severity.LOW
        look.find("MG0355", blob, verdict.what, severity=severity, key=verdict.key[:200])
    for what, severity in shell.tricks("\n".join(commands)):
        look.find("MG0355", blob, f"{what} in a cell", severity=severity, key=what)


def _cells(document: Any) -> list[dict[str, Any]]:
    if not isinstance(document, dict):
        return []
    sheets = document.get("worksheets")  # notebooks of version 3
    lists = [
        document.get("cells"),
        *([sheet.get("cells") for sheet in sheets if isinstance(sheet, dict)] if isinstance(sheets, list) else []),
    ]
    return [
        cell for cells in lists if isinstance(cells, list) for cell in cells if isinstance(cell, dict) and cell.get("cell_type") == "code"
    ]


def _text(lines: Any) -> str:
    if isinstance(lines, list):
        return "".join(part for part in lines if isinstance(part, str))
    return lines if isinstance(lines, str) else ""


def _magics(text: str) -> tuple[list[str], list[str]]:
    """Lines of Python, and lines of commands, which leave a ``pass`` in their place."""
    lines, commands = text.splitlines(), []
    first = next((line.strip() for line in lines if line.strip()), "")
    if first.startswith("%%"):
        python_too = first.startswith(("%%time", "%%capture", "%%prun"))
        if not python_too:
            return [], lines[1:]
    kept = []
    for line in lines:
        bare = line.lstrip()
        shell_out = re.match(r"[\w, ]+=\s*!(.*)", bare)
        if bare.startswith(("!", "%", "?")) or bare.endswith("?") or shell_out:
            if shell_out or bare.startswith(("!", "%")):
                commands.append(shell_out[1] if shell_out else bare.lstrip("!%"))
            kept.append(line[: len(line) - len(bare)] + "pass")
        else:
            kept.append(line)
    return kept, commands


def _active(cell: dict[str, Any]) -> set[str]:
    found = set()
    for output in cell.get("outputs") or [] if isinstance(cell.get("outputs"), list) else []:
        data = output.get("data") if isinstance(output, dict) else None
        for kind, value in data.items() if isinstance(data, dict) else ():
            if kind == "application/javascript":
                found.add("JavaScript")
            elif kind in ("text/html", "image/svg+xml") and re.search(r"<script\b|\bon\w+\s*=|javascript:", _text(value), re.I):
                found.add("HTML with scripts")
    return found
