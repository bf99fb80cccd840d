"""`stereo completion`: what a shell needs to complete verbs, options and the names of mixtapes."""

from __future__ import annotations

import click
from click.shell_completion import get_completion_class

from stereo.cli.app import COMPLETE


@click.command(
    epilog="""\b
Examples:
  source <(./stereo completion bash)
  ./stereo completion fish > ~/.config/fish/completions/stereo.fish"""
)
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
@click.pass_context
def completion(ctx: click.Context, shell: str) -> None:
    """Print the completion script of a shell."""
    kind = get_completion_class(shell)
    assert kind is not None
    # Not `source()`: for bash that starts bash to ask for its version, and who completes for bash has one.
    script = kind(ctx.find_root().command, {}, "stereo", COMPLETE)
    click.echo(script.source_template % script.source_vars(), nl=False)
