"""`stereo init`: a jcard.toml to begin with."""

from __future__ import annotations

import os
import re
from contextlib import suppress
from pathlib import Path

import click

from stereo.cli.output import Output, speaking
from stereo.errors import StereoError


@click.command(
    short_help="Write a jcard.toml to begin with.",
    epilog="""\b
Examples:
  stereo init
  stereo init ~/project && cd ~/project && stereo up

A jcard.toml that is there already stays as it is.""",
)
@click.argument("folder", metavar="[DIR]", type=click.Path(path_type=Path, file_okay=False), default=Path())
@click.option("--force", is_flag=True, help="Replace a jcard.toml that is there already.")
@speaking(as_json=True)
def init(out: Output, folder: Path, force: bool) -> None:
    """Write a commented jcard.toml into DIR, by default into this folder."""
    from stereo.model.jcard import JCARD_FILE

    folder.mkdir(parents=True, exist_ok=True)
    path = folder / JCARD_FILE
    written = _write(path, _text(folder), force=force)
    text = f"{path}: written; look through it, then: stereo up" if written else f"{path}: is there already"
    out.result({"jcard": str(path.absolute()), "written": written}, text)


def _text(folder: Path) -> str:
    from stereo.model.jcard_page import jcard_template
    from stereo.model.jcard_values import NAME_PATTERN

    own = folder.absolute().name
    if re.fullmatch(NAME_PATTERN, own):
        return jcard_template()
    return jcard_template(re.sub(r"[^a-z0-9]+", "-", own.lower()).strip("-")[:41].rstrip("-") or "sandbox")


def _write(path: Path, text: str, *, force: bool) -> bool:
    """Whether it was written: over nothing that was there unless `force`, and then in one step."""
    if path.is_dir():
        raise StereoError("is a folder", where=str(path), hint="move it away")
    if not force:
        try:
            with path.open("x", encoding="utf-8") as file:
                file.write(text)
        except FileExistsError:
            return False
        return True
    fresh = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        fresh.write_text(text, encoding="utf-8")
        fresh.replace(path)
    finally:
        with suppress(FileNotFoundError):
            fresh.unlink()
    return True
