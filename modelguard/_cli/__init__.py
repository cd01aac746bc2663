"""The command line. This file parses nothing itself: it finds the command, runs it, and turns every way it can end into an exit code."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Mapping
from functools import cache
from importlib import import_module
from typing import Any, NoReturn

import click

from modelguard import __version__

EXIT_NO_VERDICT = 3
EXIT_INTERRUPTED = 130
EXIT_TERMINATED = 143

# Command, and the line `modelguard --help` shows for it; the module is imported only when the command is used.
COMMANDS = {
    "scan": "Scan a model artifact and say whether it may be deployed.",
    "diff": "Compare a checkpoint with a reference: what was done to the weights.",
    "model": "Show how a checkpoint runs: inputs, classes, layers, parity.",
    "report": "Render or re-judge a stored JSON report.",
    "policy": "Validate, show and evaluate policy files.",
    "rules": "List the rules detectors may report, or explain one.",
    "plugins": "List installed plugins and what they register.",
    "schema": "Print the JSON Schema of a report or policy file.",
    "demo": "Train small models, tamper with one, poison another, and scan them.",
}


class LazyGroup(click.Group):
    """Looks commands up by name, so that help costs no imports; plugins' commands come after the built-in ones."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return [*COMMANDS, *plugin_commands(strict=False)]

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name in COMMANDS:
            command: click.Command = import_module(f"modelguard._cli.{cmd_name}").command
            return command
        return plugin_commands(strict=True).get(cmd_name)

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


@click.group(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(__version__, prog_name="modelguard", message="%(prog)s %(version)s")
def cli() -> None:
    """modelguard decides whether a model artifact may be deployed.

    Exit codes: 0 pass, 1 blocked by policy, 2 usage or policy-file error, 3 no verdict, 130 interrupted.
    """


class _Terminated(KeyboardInterrupt):
    """SIGTERM or SIGHUP: unwinds like Ctrl-C, so that no worker and no temporary folder is left behind."""


def main(argv: list[str] | None = None) -> NoReturn:
    """Run the command line and exit with the documented code."""
    for name in ("SIGTERM", "SIGHUP"):
        if hasattr(signal, name) and signal.getsignal(getattr(signal, name)) is signal.SIG_DFL:
            signal.signal(getattr(signal, name), _terminate)
    sys.exit(run(argv))


def _terminate(signum: int, frame: object) -> NoReturn:
    raise _Terminated


def run(argv: list[str] | None = None) -> int:
    """Run the command line and return the exit code: 0, 1, 2, 3, 130 or 143."""
    from modelguard.errors import ModelguardError

    try:
        result: Any = cli.main(args=argv, prog_name="modelguard", standalone_mode=False)
    except click.exceptions.NoArgsIsHelpError as error:
        error.show()
        return 2
    except click.UsageError as error:
        error.show()
        return 2
    except click.ClickException as error:
        error.show()
        return EXIT_NO_VERDICT
    except (KeyboardInterrupt, click.Abort) as error:
        terminated = isinstance(error.__cause__ or error, _Terminated)  # click turns every KeyboardInterrupt into Abort
        print(f"modelguard: {'terminated' if terminated else 'interrupted'}; nothing was decided", file=sys.stderr)
        return EXIT_TERMINATED if terminated else EXIT_INTERRUPTED
    except ModelguardError as error:
        from modelguard._reporters.escape import visible

        print(f"modelguard: error: {visible(str(error))}", file=sys.stderr)
        return error.exit_code
    except BrokenPipeError:
        # Whoever read our output went away; what was decided is not known to have arrived.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return EXIT_NO_VERDICT
    except Exception as error:
        import traceback

        traceback.print_exc()
        print(f"modelguard: internal error: {type(error).__name__}: {error}; please report it with the lines above", file=sys.stderr)
        return EXIT_NO_VERDICT
    return result if isinstance(result, int) else 0
