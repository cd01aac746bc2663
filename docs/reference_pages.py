"""Reference pages that come from code, for docs/generate.py: detectors, exit codes, hooks and the public names."""

from __future__ import annotations

import ast
import importlib
import inspect
import re
import textwrap
from collections.abc import Callable, Iterable
from itertools import pairwise
from typing import Any

import modelguard
from modelguard import Detector, ModelguardError

EXIT_CODES = {
    0: ("pass", "The policy lets the artifact through. Where `--detector` or `diff` left out what the policy requires: *no objection*."),
    1: ("blocked", "Something that the policy blocks was found. Whatever else failed, a proven violation is told."),
    2: ("wrong call", "The command line, the configuration or the policy file is wrong; nothing was scanned."),
    3: ("no verdict", "Something required was not looked at, or the report could not be delivered. Never a pass."),
    130: ("interrupted", "Ctrl-C. A scan still tells what it had found; no verdict of it is a pass."),
    143: ("terminated", "SIGTERM or SIGHUP."),
}
HOOKS = {
    "modelguard_detectors": ("Detector", "detectors"),
    "modelguard_formats": ("Format", "formats"),
    "modelguard_sources": ("Source", "sources"),
    "modelguard_models": ("ModelFactory", "models"),
    "modelguard_reporters": ("Reporter", "reporters"),
    "modelguard_commands": ("", "commands"),
}
"""Of each hook: the public class that what it hands over is a subclass of, and the kind under which it is registered."""


def first_sentence(thing: Any) -> str:
    """The first paragraph of a docstring, in one line, as a cell of a table."""
    text = " ".join((inspect.getdoc(thing) or "").split("\n\n")[0].split())
    return re.sub(r":\w+:`~?\.?([^`]+)`", r"`\1`", text).replace("``", "`").replace("|", "\\|")


def detectors(known: Iterable[type[Detector]], owners: dict[tuple[str, str], str]) -> str:
    """The index of detectors."""
    lines = [
        "# Detectors\n",
        "A detector runs where the target has what it needs; else the report says that it was skipped, and why.",
        "`modelguard scan TARGET --plan` says which would run. Options are set by `--option ID.NAME=VALUE` or in a [policy](policy.md).\n",
        "| detector | what it does | needs | from |",
        "|---|---|---|---|",
    ]
    for item in sorted(known, key=lambda item: item.id):
        needs = ", ".join(sorted(need.value for need in item.requires))
        lines.append(f"| [{item.id}](detectors/{item.id}.md) | {first_sentence(item)} | {needs} | `{owners['detectors', item.id]}` |")
    return "\n".join(lines) + "\n"


def exit_codes() -> str:
    """What each exit code says, and which errors end with which."""
    lines = [
        "# Exit codes\n",
        "The same for every command that judges, and for every output format. 1 beats 3.\n",
        "| code | says | when |",
        "|---|---|---|",
        *(f"| {code} | {says} | {when} |" for code, (says, when) in EXIT_CODES.items()),
        "\nA policy in `mode: report` turns 1 into 0, and leaves 2 and 3. `modelguard model` and `doctor` exit 3 where a model, or scans,",
        "cannot run.\n",
        "## From Python\n",
        "Errors are raised with a line that names thing, cause and remedy; `error.exit_code` is what the command line exits with.\n",
        "| error | code | when |",
        "|---|---|---|",
    ]
    errors = (getattr(modelguard, name) for name in modelguard.__all__)
    for error in errors:
        if isinstance(error, type) and issubclass(error, ModelguardError):
            lines.append(f"| `{error.__name__}` | {error.exit_code} | {first_sentence(error)} |")
    return "\n".join(lines) + "\n"


def hooks(registered: Iterable[tuple[str, str]]) -> str:
    """The plugin contract: every hook, what it hands over, and what is registered by it already."""
    from modelguard import hookspecs

    names: dict[str, list[str]] = {}
    for kind, name in sorted(registered):
        names.setdefault(kind, []).append(f"`{name}`" if name else "local paths")
    lines = [
        "# Hooks\n",
        "A plugin is an installed distribution with an entry point in the group `modelguard`. The entry point names a module; its",
        "functions marked `@modelguard.hookimpl` return classes. [Write a detector](plugins.md) goes through one from end to end.\n",
        "Two plugins that register one name, or use one prefix of rule ids, are an error that names both. A plugin that cannot be",
        "imported is named in every report and costs nothing else, unless the policy requires its detector. `plugins.allow` in the",
        "policy says which may load.\n",
    ]
    for hook, (base, kind) in HOOKS.items():
        lines += [f"## {hook}\n", first_sentence(getattr(hookspecs, hook)) + "\n"]
        if base:
            cls = getattr(modelguard, base)
            lines += [f"Hands over subclasses of `modelguard.{base}`. {first_sentence(cls)}\n", "| to write | what |", "|---|---|"]
            lines += [f"| `{name}` | {first_sentence(getattr(cls, name))} |" for name in sorted(cls.__abstractmethods__)]
            lines.append("")
        else:
            lines.append("Hands over `click.Command` objects.\n")
        lines.append(f"In modelguard and its plugins: {', '.join(names[kind])}.\n")
    return "\n".join(lines)


def public_names() -> str:
    """Everything `modelguard` exports, by kind, each with its signature or its first sentence."""
    groups: dict[str, list[str]] = {"Functions": [], "Classes": [], "Markers and constants": []}
    for name in sorted(modelguard.__all__):
        thing = getattr(modelguard, name)
        if isinstance(thing, type):
            if not issubclass(thing, ModelguardError):
                groups["Classes"].append(f"| `{name}` | {first_sentence(thing)} |")
        elif inspect.isfunction(thing):
            said = first_sentence(thing).replace("\\|", "|")
            groups["Functions"].append(f"### {name}\n\n```python\n{_signature(thing)}\n```\n\n{said}\n")
        else:
            groups["Markers and constants"].append(f"| `{name}` | {_said_below(name) or first_sentence(thing)} |")
    lines = [
        "# Public names\n",
        "What `import modelguard` gives. [Python](api.md) shows how it goes together; errors are listed with",
        "[their exit codes](exit-codes.md#from-python).\n",
    ]
    for title, rows in groups.items():
        lines += [f"## {title}\n", *(["| name | what |", "|---|---|"] if title != "Functions" else []), *rows, ""]
    return re.sub(r"\n{3,}", "\n\n", "\n".join(lines)).rstrip() + "\n"


def _signature(function: Callable[..., Any]) -> str:
    """The signature as it is written, a parameter a line where it is long."""
    tree = ast.parse(textwrap.dedent(inspect.getsource(function))).body[0]
    assert isinstance(tree, ast.FunctionDef)
    given = tree.args
    defaults: list[ast.expr | None] = [*[None] * (len(given.args) - len(given.defaults)), *given.defaults]
    parts = [_parameter(item, default) for item, default in zip(given.args, defaults, strict=True)]
    parts += ["*"] if given.kwonlyargs else []
    parts += [_parameter(item, default) for item, default in zip(given.kwonlyargs, given.kw_defaults, strict=True)]
    returns = f" -> {ast.unparse(tree.returns)}" if tree.returns else ""
    written = f"def {tree.name}({', '.join(parts)}){returns}: ..."
    if len(written) > 90:
        written = f"def {tree.name}(\n" + "".join(f"    {part},\n" for part in parts) + f"){returns}: ..."
    return written.replace("'", '"')


def _parameter(item: ast.arg, default: ast.expr | None) -> str:
    return ast.unparse(item) + (f" = {ast.unparse(default)}" if default else "")


def _said_below(name: str) -> str:
    """What the string below the assignment of a public constant says."""
    home = importlib.import_module(f"modelguard.{modelguard._MODULE[name]}")
    body = ast.parse(inspect.getsource(home)).body
    for assigned, below in pairwise(body):
        target = assigned.targets[0] if isinstance(assigned, ast.Assign) else getattr(assigned, "target", None)
        if isinstance(target, ast.Name) and target.id == name and isinstance(below, ast.Expr) and isinstance(below.value, ast.Constant):
            return " ".join(str(below.value.value).split()).replace("``", "`")
    return ""
