"""Options that several commands share, and what becomes of their values."""

from __future__ import annotations

import functools
import io
import os
import sys
from collections.abc import Callable, Iterable
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from modelguard._cli import _complete
from modelguard._cli._streams import complain, let_go
from modelguard._reporters.escape import shorten
from modelguard.errors import UsageError

if TYPE_CHECKING:
    from modelguard._plugins import Registry
    from modelguard.report import Decision, Report

F = TypeVar("F", bound=Callable[..., Any])


@dataclass(frozen=True, slots=True)
class OutputOptions:
    """Where reports go: ``FORMAT=PATH`` files, and one format for standard output, with all it has to say where ``verbose``."""

    outputs: tuple[str, ...]
    stdout_format: str
    verbose: bool = False


def grouped(argument: str, kind: Callable[[], type], *options: Callable[[F], F]) -> Callable[[F], F]:
    """Several click options that a command takes as one ``argument``, an instance of what ``kind`` returns; in the order help shows them.

    The options are called as the fields of that class. ``kind`` is called when the command runs, so that help imports nothing.
    """
    names = {_name(option) for option in options}

    def apply(function: F) -> F:
        @functools.wraps(function)
        def command(**given: Any) -> Any:
            cls: Any = kind()
            # A field may be called like an option of another group.
            own = {item.name: given.pop(item.name) for item in fields(cls) if item.name in names}
            return function(**given, **{argument: cls(**own)})

        wrapped: Any = command
        for option in reversed(options):
            wrapped = option(wrapped)
        return wrapped  # type: ignore[no-any-return]

    return apply


def _name(option: Callable[[Any], Any]) -> str:
    """What a click option hands its value over as."""

    def probe() -> None: ...

    option(probe)
    parameters: list[click.Parameter] = probe.__click_params__  # type: ignore[attr-defined]
    return str(parameters[0].name)


def _left_out(context: click.Context, option: click.Parameter, values: tuple[str, ...]) -> tuple[str, ...]:
    for item in values:
        prefix, _, name = item.partition(":")
        if prefix != "no" or not name:
            raise UsageError(f"-p {item}", "is not no:NAME", "write -p no:NAME to leave a plugin out")
    return tuple(item.partition(":")[2] for item in values)


def _run_options() -> type:
    from modelguard._scanner.prepare import RunOptions

    return RunOptions


def _model_options() -> type:
    from modelguard.model import ModelOptions

    return ModelOptions


plugin_option = click.option(
    "-p",
    "without",
    multiple=True,
    callback=_left_out,
    metavar="no:NAME",
    help="Do not load plugin NAME (entry point or distribution). Repeatable.",
)

policy_option = click.option(
    "--policy", metavar="F", shell_complete=_complete.policies, help="Policy file, or builtin:NAME [builtin:baseline]."
)

quick_option = click.option("--quick", is_flag=True, help="A shorter look, which misses more; see `modelguard scan --help`.")

baseline_option = click.option(
    "--baseline",
    metavar="REPORT.json",
    shell_complete=_complete.files,
    help="An earlier report of the same artifact: findings that it has are known and do not block. The policy must allow it.",
)

samples_option = click.option(
    "--samples", metavar="F", shell_complete=_complete.files, help="Clean inputs: .npz, .safetensors, .jsonl, or a folder of images."
)

identity_option = click.option(
    "--identity",
    metavar="NAME",
    help="What the model is called in fingerprints [hf:org/name, or the path below the working directory].",
)

output_options = grouped(
    "output",
    lambda: OutputOptions,
    click.option(
        "-o",
        "--output",
        "outputs",
        multiple=True,
        metavar="FORMAT=PATH",
        shell_complete=_complete.formats,
        help="Write a report to a file, whatever the verdict. Repeatable.",
    ),
    click.option(
        "-f",
        "--format",
        "stdout_format",
        default="console",
        metavar="FORMAT",
        shell_complete=_complete.formats,
        help="What goes to standard output [console].",
    ),
    click.option("-v", "--verbose", is_flag=True, help="Show evidence, places and every detector on the console."),
)

run_options = grouped(
    "run",
    _run_options,
    click.option("--seed", type=click.IntRange(0, 2**63 - 1), default=0, metavar="N", help="Seed of every random choice [0]."),
    click.option("--timeout", type=float, default=900.0, metavar="S", help="Seconds each detector may run [900]."),
    click.option("--memory", metavar="SIZE", help="Memory a worker may hold, such as 8G, or 'none' [3/4 of the machine's]."),
    click.option("--threads", type=click.IntRange(1, 1024), metavar="N", help="Threads a detector may use [all cores]."),
    click.option("--offline", is_flag=True, help="Use no network: only local files and the Hub cache."),
    click.option(
        "--no-cache", "cache", flag_value=False, default=True, help="Ask every detector, also what it said of these bytes before."
    ),
    click.option("-q", "--quiet", is_flag=True, help="No progress on standard error."),
)

model_options = grouped(
    "model",
    _model_options,
    click.option(
        "--model",
        "factory",
        metavar="MODULE:FACTORY",
        help="Your own function that builds the torch module to load the weights into. Its code is run.",
    ),
    click.option("--input", "input", metavar="SPEC", help="What the model takes, such as range=0..255,layout=NHWC,mean=0.5,std=0.25."),
    click.option(
        "--model-output",
        "output",
        metavar="NAME[,POOL]",
        help="The output to read classes from; POOL is mean, max, first or last of positions.",
    ),
    click.option("--device", type=click.Choice(["auto", "cpu", "cuda"]), default="auto", help="Where models run [auto]."),
    click.option(
        "--precision",
        type=click.Choice(["float32", "bfloat16", "float16"]),
        default="float32",
        help="What products and convolutions are computed in; the rest stays float32 [float32].",
    ),
)


def parse_detector_options(values: Iterable[str]) -> dict[str, dict[str, Any]]:
    """``ID.name=value`` options by detector. Raises :class:`UsageError` when one is malformed."""
    parsed: dict[str, dict[str, Any]] = {}
    for item in values:
        place, equals, value = item.partition("=")
        detector, dot, name = place.rpartition(".")
        if not (equals and dot and detector and name):
            raise UsageError(f"--option {item}", "is not ID.name=value", "write for example --option neural-cleanse.samples=600")
        parsed.setdefault(detector, {})[name] = value
    return parsed


def parse_outputs(
    output: OutputOptions, registry: Registry, inputs: Iterable[str | None], attestation: str | None = None
) -> tuple[tuple[str, Path], ...]:
    """The files that ``-o`` asks for, as (format, path).

    Raises :class:`UsageError` for an unknown format, a path in no folder, one given twice (as ``attestation`` too), and one among
    ``inputs``, which are read.
    """
    from modelguard._reporters.output import parse_output_spec

    if output.stdout_format not in registry.reporters:
        raise UsageError(f"--format {output.stdout_format}", "there is no such format", "formats: " + ", ".join(registry.reporters))
    taken = _taken(inputs, () if attestation is None else (attestation,))
    files = []
    for spec in output.outputs:
        name, path = parse_output_spec(spec, registry.reporters)
        try:
            _check_output(f"-o {spec}", path, taken)
        except (OSError, ValueError) as error:
            cause = f"cannot be written ({getattr(error, 'strerror', None) or error})"
            raise UsageError(f"-o {shorten(spec, 200)}", cause, "name another file") from error
        files.append((name, path))
    return tuple(files)


def _taken(inputs: Iterable[str | None], written: Iterable[str | Path]) -> dict[str, str]:
    taken = {os.path.realpath(path): "is given to two reports" for path in written}
    return taken | {os.path.realpath(path): "is read by this command" for path in inputs if path and "://" not in path}


def _check_output(what: str, path: Path, taken: dict[str, str]) -> None:
    real = os.path.realpath(path)
    if real in taken:
        raise UsageError(what, f"{path} {taken[real]}", "name another file")
    if path.is_dir():
        raise UsageError(what, f"{path} is a folder", "name a file in it")
    if not path.parent.is_dir():
        raise UsageError(what, f"the folder {path.parent} does not exist", "create it first")
    if path.is_file() or not path.exists():  # a device or pipe takes any number of reports
        taken[real] = "is given to two reports"


def check_file(what: str, path: Path, inputs: Iterable[str | None] = (), written: Iterable[Path] = ()) -> None:
    """Refuse a file that could not be written, is among ``inputs``, which are read, or ``written`` by another option than ``what``.

    Raises :class:`UsageError`.
    """
    try:
        _check_output(what, path, _taken(inputs, written))
    except (OSError, ValueError) as error:
        raise UsageError(what, f"cannot be written ({getattr(error, 'strerror', None) or error})", "name another file") from error


def reports_folder(named: str | None) -> Path | None:
    """The folder of ``--reports``, made where it is not there. Raises :class:`UsageError`."""
    if named is None:
        return None
    try:
        Path(named).mkdir(exist_ok=True)
    except (OSError, ValueError) as error:
        cause = f"cannot be made a folder ({getattr(error, 'strerror', None) or error})"
        raise UsageError(f"--reports {named}", cause, "name another") from error
    return Path(named)


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


def deliver(report: Report, decision: Decision, registry: Registry, files: Iterable[tuple[str, Path]], output: OutputOptions) -> int:
    """Write every file, print one report, and return the exit code: the decision's, or 3 when something could not be written."""
    from modelguard._reporters.output import write_atomically
    from modelguard.errors import OutputError

    lost = False
    for name, path in files:
        try:
            write_atomically(path, registry.reporters[name]().render(report, decision))
        except OutputError as error:
            lost = True
            complain(error)
    code = decision.exit_code
    try:
        if output.stdout_format != "console" and isinstance(sys.stdout, io.TextIOWrapper):
            sys.stdout.reconfigure(encoding="utf-8")  # documents are UTF-8 whatever the locale; a terminal gets what it can show
        reporter = registry.reporters[output.stdout_format].for_stream(sys.stdout)
        sys.stdout.write((reporter.in_full() if output.verbose else reporter).render(report, decision))
        sys.stdout.flush()
    except BrokenPipeError:
        let_go()  # the reader has seen enough; the verdict stands
    except OSError as error:
        lost = True
        let_go()
        complain(OutputError("standard output", f"cannot be written ({error.strerror})", "free some space or use -o"))
    return 3 if lost and code == 0 else code
