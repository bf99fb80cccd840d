"""Which script of ci/ was started, and so which command this is."""

from __future__ import annotations

import sys
from importlib import import_module
from pathlib import Path

import click

from stereo.cli.app import run, treat_signals_as_ctrl_c

_OF_THEIR_OWN = ("release", "nightly", "matrix")


def main() -> None:
    """Become the command that is named as the script."""
    name = Path(sys.argv[0]).name
    command = getattr(import_module(f"ci.jobs.{name if name in _OF_THEIR_OWN else 'single'}"), name)
    assert isinstance(command, click.Command)
    command.name = f"ci/{name}"
    treat_signals_as_ctrl_c()
    sys.exit(run(command=command))
