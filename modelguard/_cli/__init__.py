"""The command line. This file parses nothing itself: it finds the command, runs it, and turns every way it can end into an exit code."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator, Mapping
from functools import cache
from importlib import import_module
from typing import Any, NoReturn

import click

from modelguard import __version__
from modelguard._cli._ending import Terminated, leave, listen
from modelguard._cli._streams import complain, let_go, stand_in, telling

EXIT_NO_VERDICT = 3
EXIT_INTERRUPTED = 130
EXIT_TERMINATED = 143

# Command, and the line `modelguard --help` shows for it; the module is imported only when the command is used.
COMMANDS = {
    "scan": "Scan a model artifact and say whether it may be deployed.",
    "fetch": "Download a model, scan it, and put it in place only if it passes.",
    "lock": "Pin models to a commit and to the digest of every file.",
    "cache": "Scan a Hugging Face cache; look after what is kept of scans.",
    "fleet": "Scan many models, and sum them up.",
    "diff": "Compare a checkpoint with a reference: what was done to the weights.",
    "evaluate": "Say what a trigger that you know does to a model.",
    "audit-data": "Look for poisoned samples in a training set.",
    "model": "Show how a checkpoint runs: inputs, classes, layers, parity.",
    "report": "Render or re-judge a stored JSON report.",
    "policy": "Write, validate, show and evaluate policy files.",
    "rules": "List the rules detectors may report.",
    "explain": "Say what a rule or a finding means, and what to do.",
    "plugins": "List installed plugins, write one, or check one.",
    "doctor": "Say what can run on this machine, and what is missing.",
    "completion": "Print the script that completes commands in your shell.",
    "schema": "Print the JSON Schema of a report or policy file.",
}


START = """\
modelguard decides whether a model artifact may be deployed. Begin with:

  modelguard scan MODEL      may it be deployed? (file, folder, hf://org/name)
  modelguard explain RULE    what a rule in a report means, and what to do
  modelguard doctor          what can run on this machine, and what is missing

`modelguard --help` shows every command.
"""


class LazyGroup(click.Group):
    """Looks commands up by name, so that help costs no imports; plugins' commands come after the built-in ones."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return [*COMMANDS, *plugin_commands(strict=False)]

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name in COMMANDS:
            command: click.Command = import_module(f"modelguard._cli.{cmd_name.replace('-', '_')}").command
            return command
        return plugin_commands(strict=True).get(cmd_name)

    # click answers a closed pipe with exit code 1, which is "blocked by policy" here: it must not see one.

    def make_context(self, info_name: str | None, args: list[str], parent: click.Context | None = None, **extra: Any) -> click.Context:
        with _pipe_hidden():
            return super().make_context(info_name, args, parent, **extra)

    def invoke(self, ctx: click.Context) -> Any:
        with _pipe_hidden():
            return super().invoke(ctx)

    def resolve_command(self, ctx: click.Context, args: list[str]) -> tuple[str | None, click.Command | None, list[str]]:
        try:
            return super().resolve_command(ctx, args)
        except click.exceptions.NoSuchCommand as error:
            raise click.exceptions.NoSuchCommand(error.command_name, possibilities=self.list_commands(ctx), ctx=ctx) from None

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl(list(COMMANDS.items()))
        extra = plugin_commands(strict=False)
        if extra:
            with formatter.section("Commands from plugins"):
                formatter.write_dl([(name, item.get_short_help_str(100)) for name, item in extra.items()])


@cache
def plugin_commands(*, strict: bool) -> Mapping[str, click.Command]:
    """Commands plugins bring. Not strict: a plugin conflict must not take ``--help`` away; it is told by every command that scans."""
    from modelguard._plugins import load_commands
    from modelguard.errors import PluginError

    try:
        return load_commands()
    except PluginError:
        if strict:
            raise
        return {}


@click.group(cls=LazyGroup, invoke_without_command=True, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(__version__, prog_name="modelguard", message="%(prog)s %(version)s")
@click.pass_context
def cli(context: click.Context) -> int:
    """modelguard decides whether a model artifact may be deployed.

    Exit codes: 0 pass, 1 blocked by policy, 2 usage or policy-file error, 3 no verdict, 130 interrupted.
    """
    if context.invoked_subcommand is None:
        click.echo(START, nl=False, err=True)
    return 2  # nothing was asked, and nothing looked at; a command gives a code of its own


class _ReaderGone(Exception):
    """Nobody reads what the command writes."""


@contextlib.contextmanager
def _pipe_hidden() -> Iterator[None]:
    try:
        yield
    except BrokenPipeError as error:
        raise _ReaderGone from error


def main(argv: list[str] | None = None) -> NoReturn:
    """Run the command line and exit with the documented code."""
    stand_in()
    listen()
    code = run(argv)
    if code in (EXIT_INTERRUPTED, EXIT_TERMINATED):
        leave(code)
    sys.exit(code)


def _of_echo(error: OSError) -> bool:
    """Whether click met ``error`` when it wrote to standard output."""
    place = error.__traceback__
    while place is not None and place.tb_next is not None:
        place = place.tb_next
    return place is not None and place.tb_frame.f_code is click.echo.__code__


def run(argv: list[str] | None = None) -> int:
    """Run the command line and return the exit code: 0, 1, 2, 3, 130 or 143."""
    from modelguard.errors import ModelguardError, OutputError

    try:
        result: Any = cli.main(args=argv, prog_name="modelguard", standalone_mode=False)
    except click.UsageError as error:
        with telling():
            error.show()
        return 2
    except click.ClickException as error:
        with telling():
            error.show()
        return EXIT_NO_VERDICT
    except (KeyboardInterrupt, click.Abort) as error:
        terminated = isinstance(error.__cause__ or error, Terminated)  # click turns every KeyboardInterrupt into Abort
        with telling():
            print(f"modelguard: {'terminated' if terminated else 'interrupted'}; nothing was decided", file=sys.stderr)
        return EXIT_TERMINATED if terminated else EXIT_INTERRUPTED
    except ModelguardError as error:
        complain(error)
        return error.exit_code
    except (_ReaderGone, BrokenPipeError):
        # Whoever read our output went away; what was decided is not known to have arrived.
        let_go()
        return EXIT_NO_VERDICT
    except Exception as error:
        if isinstance(error, OSError) and _of_echo(error):  # click writes help and version itself
            let_go()
            complain(OutputError("standard output", f"cannot be written ({error.strerror})", "free some space"))
            return EXIT_NO_VERDICT
        import traceback

        from modelguard._reporters.escape import visible

        said = f"modelguard: internal error: {type(error).__name__}: {error}; please report it with the lines above"
        with telling():
            for line in [*traceback.format_exc().splitlines(), said]:
                print(visible(line), file=sys.stderr)
        return EXIT_NO_VERDICT
    return result if isinstance(result, int) else 0
