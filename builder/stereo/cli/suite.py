"""`stereo test`, which the launcher keeps to itself: pytest must not run inside the thing that it tests."""

from __future__ import annotations

import click

from stereo.errors import UsageError


@click.command(context_settings={"ignore_unknown_options": True}, add_help_option=False)
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED)
def test(arguments: tuple[str, ...]) -> None:
    """Run the test suite; further words go to pytest."""
    raise UsageError("the test suite is started by the launcher", hint="./stereo test")
