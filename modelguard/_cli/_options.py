"""Options that several commands share, and what becomes of their values."""

from __future__ import annotations

import io
import math
import os
import sys
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from modelguard._cli._streams import complain, let_go
from modelguard.errors import UsageError

if TYPE_CHECKING:
    from modelguard._plugins import Registry
    from modelguard.detector import Detector
    from modelguard.model import ModelOptions
    from modelguard.report import Decision, Report

F = TypeVar("F", bound=Callable[..., Any])

MEMORY_SHARE = 0.75
"""Share of the machine's memory a worker may hold unless ``--memory`` says otherwise."""


def stack(*decorators: Callable[[F], F]) -> Callable[[F], F]:
    """Several click decorators as one, applied so that help shows them in the order given."""

    def apply(function: F) -> F:
        for decorator in reversed(decorators):
            function = decorator(function)
        return function

    return apply


def _finite(context: click.Context, option: click.Parameter, seconds: float) -> float:
    """A range has room for inf, and lets nan through: no comparison with it holds."""
    if not math.isfinite(seconds):
        raise UsageError(f"--timeout {seconds:g}", "is no finite number of seconds", "write for example --timeout 86400")
    return seconds


plugin_option = click.option(
    "-p", "plugins", multiple=True, metavar="no:NAME", help="Do not load plugin NAME (entry point or distribution). Repeatable."
)

output_options = stack(
    click.option(
        "-o",
        "--output",
        "outputs",
        multiple=True,
        metavar="FORMAT=PATH",
        help="Write a report to a file, whatever the verdict. Repeatable.",
    ),
    click.option("-f", "--format", "stdout_format", default="console", metavar="FORMAT", help="What goes to standard output [console]."),
)

run_options = stack(
    click.option("--seed", type=click.IntRange(0, 2**63 - 1), default=0, metavar="N", help="Seed of every random choice [0]."),
    click.option(
        "--timeout",
        type=click.FloatRange(0, min_open=True),
        callback=_finite,
        default=900.0,
        metavar="S",
        help="Seconds each detector may run [900].",
    ),
    click.option("--memory", metavar="SIZE", help="Memory a worker may hold, such as 8G, or 'none' [3/4 of the machine's]."),
    click.option("--threads", type=click.IntRange(1, 1024), metavar="N", help="Threads a detector may use [all cores]."),
    click.option("--offline", is_flag=True, help="Use no network: only local files and the Hub cache."),
    click.option("-q", "--quiet", is_flag=True, help="No progress on standard error."),
)

model_options = stack(
    click.option(
        "--model",
        "factory",
        metavar="MODULE:FACTORY",
        help="Your own function that builds the torch module to load the weights into. Its code is run.",
    ),
    click.option("--input", "input_spec", metavar="SPEC", help="What the model takes, such as range=0..255,layout=NHWC,mean=0.5,std=0.25."),
    click.option("--device", type=click.Choice(["auto", "cpu", "cuda"]), default="auto", help="Where models run [auto]."),
    click.option(
        "--precision",
        type=click.Choice(["float32", "bfloat16", "float16"]),
        default="float32",
        help="What products and convolutions are computed in; the rest stays float32 [float32].",
    ),
)


def chosen_model(factory: str | None, input_spec: str | None, device: str, precision: str, threads: int | None) -> ModelOptions:
    """What ``model_options`` and ``--threads`` ask for; a factory is looked up from the working directory.

    Raises :class:`UsageError` for what is wrong whatever the model is: in the worker it would only be the detectors' failure to look.
    """
    from modelguard._inputs.spec import parse_option
    from modelguard.model import ModelOptions

    if input_spec is not None:
        parse_option(input_spec)
    if factory is not None:
        module, colon, function = factory.partition(":")
        if not (colon and all(module.split(".")) and all(part.isidentifier() for part in function.split("."))):
            raise UsageError(f"--model {factory}", "is not module:factory", "write for example --model mypackage.models:resnet")
    return ModelOptions(
        factory=factory,
        input=input_spec,
        device=device,  # type: ignore[arg-type]
        precision=precision,  # type: ignore[arg-type]
        threads=threads,
        cwd=Path.cwd(),
    )


def load_registry(plugins: Iterable[str], allows: Callable[[str], bool] | None = None) -> Registry:
    """Load plugins as ``-p`` and the policy say. Raises :class:`UsageError` for a ``-p`` that is not ``no:NAME``."""
    from modelguard._plugins import load

    disabled = []
    for item in plugins:
        prefix, _, name = item.partition(":")
        if prefix != "no" or not name:
            raise UsageError(f"-p {item}", "is not no:NAME", "write -p no:NAME to leave a plugin out")
        disabled.append(name)
    return load(disabled=disabled, allows=allows)


def parse_detector_options(values: Iterable[str], detectors: Mapping[str, type[Detector]]) -> dict[str, dict[str, Any]]:
    """``ID.name=value`` options by detector. Raises :class:`UsageError` when one is malformed or names no detector."""
    parsed: dict[str, dict[str, Any]] = {}
    for item in values:
        place, equals, value = item.partition("=")
        detector, dot, name = place.rpartition(".")
        if not (equals and dot and detector and name):
            raise UsageError(f"--option {item}", "is not ID.name=value", "write for example --option neural-cleanse.samples=600")
        if detector not in detectors:
            raise UsageError(f"--option {item}", f"there is no detector {detector!r}", "`modelguard plugins list` shows those installed")
        parsed.setdefault(detector, {})[name] = value
    return parsed


def choose_detectors(names: Iterable[str], registry: Registry) -> tuple[type[Detector], ...]:
    """The classes named, or all. Raises :class:`UsageError` for an unknown id, with the nearest known one."""
    import difflib

    wanted = sorted(set(names))
    for name in wanted:
        if name not in registry.detectors:
            near = difflib.get_close_matches(name, registry.detectors, n=1)
            failed = [failure for failure in registry.failures if name in (failure.name, failure.distribution)]
            remedy = f"did you mean {near[0]}?" if near else "`modelguard plugins list` shows those installed"
            cause = f"its plugin failed to load ({failed[0].reason})" if failed else "there is no such detector"
            raise UsageError(f"--detector {name}", cause, remedy)
    return tuple(registry.detectors[name] for name in wanted or registry.detectors)


def parse_memory(text: str | None) -> int | None:
    """Bytes from ``8G``, ``512M``, plain bytes or ``none``; the default is a share of what the machine has."""
    if text is None:
        try:
            return int(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") * MEMORY_SHARE)
        except (ValueError, OSError, AttributeError):
            return None
    if text.lower() == "none":
        return None
    units = {"K": 10, "M": 20, "G": 30, "T": 40}
    number, unit = (text[:-1], text[-1].upper()) if text[-1:].upper() in units else (text, "")
    try:
        size = int(float(number) * (1 << units.get(unit, 0)))
    except (ValueError, OverflowError):
        size = 0
    if size < 1 << 28:
        raise UsageError(f"--memory {text}", "is no size of at least 256M", "write for example --memory 8G, or --memory none")
    return size


def thread_count(threads: int | None) -> int:
    if threads is not None:
        return threads
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def existing_path(text: str | None, option: str) -> Path | None:
    """The absolute path of a local file or folder the user named. Raises :class:`UsageError` when it is not there."""
    if text is None:
        return None
    path = Path(text)
    if not path.exists():
        raise UsageError(f"{option} {text}", "does not exist", "check the path")
    return path.absolute()


def parse_outputs(
    outputs: Iterable[str], stdout_format: str, registry: Registry, inputs: Iterable[str | None]
) -> tuple[tuple[str, Path], ...]:
    """What ``-o`` and ``--format`` ask for, as (format, path).

    Raises :class:`UsageError` for an unknown format, a path in no folder, one given twice, and one among ``inputs``, which are read.
    """
    from modelguard._reporters.output import parse_output_spec

    if stdout_format not in registry.reporters:
        raise UsageError(f"--format {stdout_format}", "there is no such format", "formats: " + ", ".join(registry.reporters))
    taken = {os.path.realpath(path): "is read by this command" for path in inputs if path and "://" not in path}
    files = []
    for spec in outputs:
        name, path = parse_output_spec(spec, registry.reporters)
        real = os.path.realpath(path)
        if real in taken:
            raise UsageError(f"-o {spec}", f"{path} {taken[real]}", "name another file")
        if path.is_dir():
            raise UsageError(f"-o {spec}", f"{path} is a folder", "name a file in it")
        if not path.parent.is_dir():
            raise UsageError(f"-o {spec}", f"the folder {path.parent} does not exist", "create it first")
        if path.is_file() or not path.exists():  # a device or pipe takes any number of reports
            taken[real] = "is given to two reports"
        files.append((name, path))
    return tuple(files)


def print_answer(text: str, *, nl: bool = True) -> None:
    """Write the command's answer to standard output. A reader that has seen enough changes nothing.

    click would exit with 1, which says that something was found. Raises :class:`OutputError` when it cannot be written.
    """
    from modelguard.errors import OutputError

    try:
        click.echo(text, nl=nl)
    except BrokenPipeError:
        let_go()
    except OSError as error:
        let_go()
        raise OutputError("standard output", f"cannot be written ({error.strerror})", "free some space") from error


def deliver(report: Report, decision: Decision, registry: Registry, outputs: Iterable[tuple[str, Path]], stdout_format: str) -> int:
    """Write every file, print one report, and return the exit code: the decision's, or 3 when something could not be written."""
    from modelguard._reporters.output import write_atomically
    from modelguard.errors import OutputError

    lost = False
    for name, path in outputs:
        try:
            write_atomically(path, registry.reporters[name]().render(report, decision))
        except OutputError as error:
            lost = True
            complain(error)
    code = decision.exit_code
    try:
        if stdout_format != "console" and isinstance(sys.stdout, io.TextIOWrapper):
            sys.stdout.reconfigure(encoding="utf-8")  # documents are UTF-8 whatever the locale; a terminal gets what it can show
        sys.stdout.write(registry.reporters[stdout_format].for_stream(sys.stdout).render(report, decision))
        sys.stdout.flush()
    except BrokenPipeError:
        let_go()  # the reader has seen enough; the verdict stands
    except OSError as error:
        lost = True
        let_go()
        complain(OutputError("standard output", f"cannot be written ({error.strerror})", "free some space or use -o"))
    return 3 if lost and code == 0 else code
