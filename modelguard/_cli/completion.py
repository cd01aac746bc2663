"""``modelguard completion``: the script that completes commands in a shell."""

from __future__ import annotations

import click

from modelguard._cli._options import print_answer

_USE = {
    "bash": 'eval "$(modelguard completion bash)"    # in ~/.bashrc',
    "zsh": 'eval "$(modelguard completion zsh)"    # in ~/.zshrc, after compinit',
    "fish": "modelguard completion fish > ~/.config/fish/completions/modelguard.fish",
}


@click.command(
    "completion",
    short_help="Print the script that completes commands in your shell.",
    epilog="\b\n" + "\n".join(_USE.values()),
)
@click.argument("shell", type=click.Choice(list(_USE)))
@click.pass_context
def command(context: click.Context, shell: str) -> int:
    """Print the script that has SHELL complete commands, options, detectors, rules and policies."""
    from click.shell_completion import get_completion_class

    kind = get_completion_class(shell)
    assert kind is not None
    made = kind(context.find_root().command, {}, "modelguard", "_MODELGUARD_COMPLETE")
    print_answer(made.source_template % made.source_vars(), nl=False)  # source() would ask bash for its version
    return 0
