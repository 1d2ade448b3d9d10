"""Completion for shells."""

from __future__ import annotations

import click
from click.shell_completion import get_completion_class

from .exits import Unusable


@click.command("completion")
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
@click.pass_context
def completion(ctx: click.Context, shell: str) -> None:
    """Print what a shell needs to complete commands and names.

    bash: eval "$(varserve completion bash)"; zsh the same; fish: varserve completion fish | source
    """
    kind = get_completion_class(shell)
    if kind is None:
        raise Unusable(f"there is no completion for {shell}")
    root = ctx.find_root().command
    click.echo(kind(root, {}, "varserve", "_VARSERVE_COMPLETE").source())


COMMANDS = (completion,)
