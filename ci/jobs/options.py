"""Options that several scripts have, and what they stand for."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

from stereo.cli.plans import DEFAULT_LEVEL, QUICK_LEVEL, plan_of
from stereo.plan.plan import Plan

Command = TypeVar("Command", bound=Callable[..., Any])

# As those of the verbs: -h too, and lines of a width that suits the examples.
SETTINGS: dict[str, Any] = {"help_option_names": ["-h", "--help"], "max_content_width": 100}


def quick_option(command: Command) -> Command:
    """--quick"""
    text = "Compress lightly: for trying the pipeline out, not for a release."
    return click.option("--quick", is_flag=True, help=text)(command)


def output_option(command: Command) -> Command:
    """--output-dir"""
    kind = click.Path(path_type=Path, file_okay=False)
    text = "Where NAME/VERSION/ARCH is made."
    return click.option("--output-dir", type=kind, default=Path("dist"), show_default=True, metavar="DIR", help=text)(
        command
    )


def level_of(quick: bool) -> int:
    """The level of zstd."""
    return QUICK_LEVEL if quick else DEFAULT_LEVEL


def plans_of(
    names: tuple[str, ...], archs: tuple[str, ...], version: str | None, locks: Path | None, level: int
) -> list[Plan]:
    """The plans of mixtapes, for this machine's architecture where none is named."""
    return [
        plan_of(name, arch=arch, version=version, locks=locks, level=level)
        for name in names
        for arch in archs or (None,)
    ]
