"""``modelguard plugins new`` and ``plugins check``: a plugin to begin with, and whether one keeps the contract."""

from __future__ import annotations

import re
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from importlib import resources
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from modelguard.errors import UsageError

if TYPE_CHECKING:
    from modelguard._plugins import Registry
    from modelguard.detector import Detector

FILES: Mapping[str, str] = {
    "pyproject.toml": "pyproject.toml",
    "README.md": "README.md",
    "init.py": "{package}/__init__.py",
    "detector.py": "{package}/detector.py",
    "test_detector.py": "tests/test_detector.py",
    "ci.yml": ".github/workflows/test.yml",
    "gitignore": ".gitignore",
}
"""Templates, and where in the new plugin each goes."""
_NAME = re.compile(r"[a-z][a-z0-9]*(-[a-z0-9]+)*")
_PREFIX = re.compile(r"[A-Z][A-Z0-9]{1,15}")


def render_plugin(name: str, prefix: str | None, into: Path) -> Path:
    """Write the plugin ``modelguard-NAME`` below the folder ``into``, and return where.

    ``prefix`` is that of its rule ids; by default it is made of ``name``. Raises :class:`UsageError` for a name that is not one or is
    taken, and where something is there already.
    """
    import jinja2

    from modelguard import __version__
    from modelguard._policies.catalogue import detectors, first_party
    from modelguard.findings import OWN_PREFIX

    name = name.removeprefix("modelguard-")
    if not _NAME.fullmatch(name) or len(name) > 40:
        raise UsageError(f"plugin {name}", "is not a name", "write lower-case words joined by hyphens, such as acme-outliers")
    if name in detectors() or f"modelguard-{name}" in {item.name for item in first_party()}:
        raise UsageError(f"plugin {name}", "modelguard itself has one of this name", "choose another, such as acme-" + name)
    prefix = prefix or re.sub("[^A-Z0-9]", "", name.upper())[:16]
    if not _PREFIX.fullmatch(prefix) or re.fullmatch(f"{OWN_PREFIX}[0-9]*", prefix):
        cause = "is not a prefix of rule ids" if prefix != OWN_PREFIX else f"is modelguard's own ({OWN_PREFIX})"
        raise UsageError(f"--prefix {prefix}", cause, "write 2 to 16 capitals or digits, such as ACME")
    folder = into / f"modelguard-{name}"
    if folder.exists():
        raise UsageError(str(folder), "is there already", "choose another name, or another place with --out")
    words = {
        "name": name,
        "package": f"modelguard_{name.replace('-', '_')}",
        "cls": "".join(word.capitalize() for word in name.split("-")),
        "title": name.replace("-", " ").capitalize(),
        "prefix": prefix,
        "core": ".".join(__version__.split(".")[:2]) + ".0",
    }
    # Source code, not HTML; and neither Python's nor GitHub's braces.
    environment = jinja2.Environment(
        variable_start_string="[[ ",
        variable_end_string=" ]]",
        keep_trailing_newline=True,
        undefined=jinja2.StrictUndefined,
        autoescape=False,  # noqa: S701
    )
    templates = resources.files("modelguard._cli") / "_plugin_template"
    try:
        for template, place in FILES.items():
            path = folder / place.format(package=words["package"])
            path.parent.mkdir(parents=True, exist_ok=True)
            text = (templates / f"{template}.j2").read_text(encoding="utf-8")
            path.write_text(environment.from_string(text).render(words), encoding="utf-8")
    except OSError as error:
        raise UsageError(str(folder), f"cannot be written ({error.strerror or error})", "choose another place with --out") from error
    return folder


@dataclass(frozen=True, slots=True)
class Row:
    """One line of the table: of which detector, what is asked, and what is wrong; ``wrong`` is None where it was not tried."""

    detector: str
    name: str
    promise: str
    wrong: str | None = ""


@dataclass(frozen=True, slots=True)
class Given:
    """What detectors are tried on: paths of a model, a reference and samples; a tiny model of modelguard's own where there is no target."""

    target: str | None = None
    reference: str | None = None
    samples: str | None = None


def check_plugin(name: str, registry: Registry, given: Given) -> Iterator[Row]:
    """Every promise of every detector of the plugin ``name``: a distribution, an entry point or a detector.

    Raises :class:`UsageError` when none is called so, or when it brings no detector.
    """
    failed = [item for item in registry.failures if name in (item.name, item.distribution, item.distribution.removeprefix("modelguard-"))]
    for failure in failed:
        yield Row(failure.name, "loads", "its entry point loads", failure.reason)
    chosen = [] if failed else _chosen(name, registry)
    if given.target is None and find_spec("onnx") is None:
        raise UsageError("plugins check", "writes its tiny model with onnx, which is not installed", "install it, or give --on MODEL")
    from modelguard.testing import contract, open_target

    target = open_target(given.target, given.reference, given.samples) if given.target is not None else None
    for detector in chosen:
        yield Row(detector.id, "loads", "its entry point loads")
        for check in contract(detector, target):
            yield Row(detector.id, check.name, check.promise, check.wrong if check.tried else None)
        yield _isolated(detector, given)


def _chosen(name: str, registry: Registry) -> list[type[Detector]]:
    owners = {item: owner for (kind, item), owner in registry.owners.items() if kind == "detectors"}
    names = {name, f"modelguard-{name}"}
    found = [registry.detectors[item] for item, owner in sorted(owners.items()) if item == name or owner in names]
    if found:
        return found
    if names & {item.name for item in registry.plugins}:
        raise UsageError(f"plugin {name}", "it brings no detector", "there is nothing to check")
    raise UsageError(f"plugin {name}", "no plugin or detector that is installed is called so", "`modelguard plugins` lists them")


def _isolated(detector: type[Detector], given: Given) -> Row:
    """A scan with this detector alone: the worker has to find its class, and the parent to believe its answers."""
    from modelguard._scanner.prepare import ScanArguments, prepare
    from modelguard._scanner.run import Silent
    from modelguard.report import Status
    from modelguard.testing import write_onnx_cnn

    promise = "runs in a scan, in the isolated worker"
    with tempfile.TemporaryDirectory() as folder:
        if given.target is None:
            a, b = write_onnx_cnn(Path(folder, "a", "model.onnx")), write_onnx_cnn(Path(folder, "b", "model.onnx"))
            asked = ScanArguments(target=a, reference=b, detectors=(detector.id,))
        else:
            asked = ScanArguments(target=given.target, reference=given.reference, samples=given.samples, detectors=(detector.id,))
        report = prepare(asked).scan(Silent())
    outcome: Any = next(iter(report.outcomes), None)
    if report.failure or outcome is None:
        return Row(detector.id, "isolated", promise, report.failure or "it was not run")
    if outcome.status is Status.SKIPPED:
        return Row(detector.id, "isolated", f"{promise}; skipped: {outcome.reason}", None)
    return Row(detector.id, "isolated", promise, "" if outcome.status is Status.COMPLETED else f"{outcome.status.value}: {outcome.reason}")
