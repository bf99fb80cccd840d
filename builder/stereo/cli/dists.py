"""`stereo dists`: what the local store holds and what it costs, and how it is kept small."""

from __future__ import annotations

import sys
import time
from typing import TYPE_CHECKING, Any

import click

from stereo.cli.measure import amount
from stereo.cli.options import ARCHITECTURE
from stereo.cli.output import Output, columns, safe, speaking
from stereo.cli.places import complete_stored
from stereo.errors import StereoError, UsageError

if TYPE_CHECKING:
    from datetime import timedelta
    from pathlib import Path

    from stereo.dists.keep import Row


class _Shelf(click.Group):
    """Without a verb of its own, `list` is meant."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        if not args or (args[0] not in self.commands and args[0] not in ctx.help_option_names):
            args = ["list", *args]
        return super().parse_args(ctx, args)


@click.group(
    cls=_Shelf,
    short_help="List the dists of the local store; prune and remove them.",
    epilog="""\b
Examples:
  stereo dists                              what is there, what it costs, who uses it
  stereo dists opencode-mixtape --json
  stereo dists prune --keep 2 --dry-run     what all but the newest two of each would give back
  stereo dists prune --older-than 30d --yes
  stereo dists prune --budget 20GB
  stereo dists remove opencode-mixtape:2026.01.31.0

A dist that a running program or a sandbox uses is never removed, and what a link leads to stays where it is.""",
)
def dists() -> None:
    """List what the local store holds, and keep it small."""


@dists.command("list", short_help="List what is there.")
@click.argument("name", required=False, shell_complete=complete_stored)
@speaking(as_json=True)
def list_(out: Output, name: str | None) -> None:
    """List the dists of the local store, or of mixtape NAME: what each costs, where it is, and who uses it."""
    rows = [row for row in _rows(out, asking=True) if name is None or row.entry.name == name]
    table = [("NAME", "VERSION", "ARCHITECTURE", "DISK", "APPARENT", "PLACE")]
    for row in rows:
        linked = row.entry.place.is_symlink()
        costs = ("-", "-") if linked else (amount(row.cost.allocated, "B"), amount(row.cost.apparent, "B"))
        place = ("-> " if linked else "") + safe(str(row.entry.target)) + ("" if row.entry.there else " (gone)")
        used = f" (in use by {safe(row.user)})" if row.user else ""
        table.append((row.entry.name, row.entry.version, row.entry.arch, *costs, place + used))
    total = amount(sum(row.cost.allocated for row in rows), "B")
    text = "\n".join([*columns(table), f"{total} in all; links cost nothing here"])
    out.result([_data(row) for row in rows], text)


@dists.command(
    short_help="Remove what a policy gives up.",
    epilog="""\b
Examples:
  stereo dists prune --dry-run               what all but the newest three of each would give back
  stereo dists prune --keep 1 --older-than 30d --yes
  stereo dists prune --keep 0 --budget 20GB

Without --yes it asks on a terminal, and elsewhere removes nothing.""",
)
@click.option(
    "--keep", type=click.IntRange(0), default=3, show_default=True, metavar="N", help="How many of each mixtape stay."
)
@click.option("--older-than", metavar="AGE", help="Of the rest, remove only what is older: 36h, 30d, 52w.")
@click.option("--budget", metavar="SIZE", help="Of the rest, remove the oldest until all takes less: 20GB.")
@click.option("-n", "--dry-run", is_flag=True, help="Show what would go, and remove nothing.")
@click.option("-y", "--yes", is_flag=True, help="Do not ask.")
@speaking(as_json=True)
def prune(out: Output, keep: int, older_than: str | None, budget: str | None, dry_run: bool, yes: bool) -> None:
    """Remove all but the newest of each mixtape and architecture, and links that lead nowhere.

    Releases are counted by their version, other builds apart from them by when they came.
    """
    from stereo.dists import store_folder
    from stereo.dists.keep import Keeping, given_up
    from stereo.dists.removal import finish, remove

    policy = Keeping(keep, _age(older_than), _size(budget))
    store = store_folder()
    found = given_up(_rows(out), policy, time.time())
    size = sum(each.row.cost.allocated for each in found)
    lines = [f"{amount(each.row.cost.allocated, 'B'):>8}  {_label(each.row)}: {each.reason}" for each in found]
    lines.append(f"{amount(size, 'B'):>8}  in all, in {store}")
    data = {"bytes": size, "entries": [{**_data(each.row), "reason": each.reason} for each in found]}
    if removing := _agreed(out, lines, bool(found), dry_run=dry_run, yes=yes):
        users = _users()
        with out.report.progress("Removing", len(found), "dists") as progress:
            for each in found:
                remove(each.row.entry, store, users)
                progress.advance(1)
    if not dry_run:
        finish(store)
    advice = "" if dry_run or not found else "; --yes removes it"
    lines.append("removed" if removing else f"nothing was removed{advice}")
    out.result({**data, "removed": removing}, "\n".join(lines))


@dists.command(
    "remove",
    short_help="Remove one, or all versions of one.",
    epilog="""\b
Examples:
  stereo dists remove opencode-mixtape:2026.01.31.0
  stereo dists remove opencode-mixtape --arch aarch64 --yes
  stereo dists remove opencode-mixtape --dry-run

Exit status: 0 removed, or only shown; 1 it is in use; 2 there is no such dist.""",
)
@click.argument("reference", metavar="NAME[:VERSION]", shell_complete=complete_stored)
@click.option("--arch", type=ARCHITECTURE, help="Only those for that machine; default: all.")
@click.option("-n", "--dry-run", is_flag=True, help="Show what would go, and remove nothing.")
@click.option("-y", "--yes", is_flag=True, help="Do not ask.")
@speaking(as_json=True)
def remove_(out: Output, reference: str, arch: str | None, dry_run: bool, yes: bool) -> None:
    """Remove NAME:VERSION, or every version of NAME, from the local store; of a link, the link alone."""
    from stereo.dists import store_folder
    from stereo.dists.removal import finish, remove

    name, _, version = reference.partition(":")
    rows = [row for row in _rows(out) if row.entry.name == name and version in ("", row.entry.version)]
    rows = [row for row in rows if arch in (None, row.entry.arch)]
    if not rows:
        what = f"there is no {safe(reference)[:120]}{f' for {arch}' if arch else ''} in the local store"
        raise UsageError(what, hint="stereo dists lists it")
    for row in rows:
        if row.user:
            raise StereoError(f"is in use by {row.user}", where=str(row.entry.place), hint="end that first")
    size = sum(row.cost.allocated for row in rows)
    lines = [f"{amount(row.cost.allocated, 'B'):>8}  {_label(row)}" for row in rows]
    store, users = store_folder(), _users()
    if removing := _agreed(out, lines, True, dry_run=dry_run, yes=yes):
        for row in rows:
            remove(row.entry, store, users)
        finish(store)
    lines.append("removed" if removing else "nothing was removed" + ("" if dry_run else "; --yes removes it"))
    out.result({"bytes": size, "entries": [_data(row) for row in rows], "removed": removing}, "\n".join(lines))


def _agreed(out: Output, lines: list[str], something: bool, *, dry_run: bool, yes: bool) -> bool:
    """Whether to go on; where a person can be asked, `lines` were shown then, and are taken away."""
    if out.json and not (dry_run or yes):
        raise UsageError("--json cannot ask", where="--json", hint="add --dry-run or --yes")
    if dry_run or not something:
        return False
    if not yes and sys.stdin.isatty():
        click.echo("\n".join(lines), err=True)
        lines.clear()
        return click.confirm("Remove?", err=True)
    return yes


def _rows(out: Output, *, asking: bool = False) -> tuple[Row, ...]:
    """The store, with who uses what. Who only asks is warned of a sandbox that cannot be read; else it is an error."""
    from stereo.dists import entries, store_folder
    from stereo.dists.keep import rows

    try:
        users = _users()
    except StereoError as error:
        if not asking:
            raise
        out.report.warn(str(error))
        users = {}
    with out.report.step("Looking through the store"):
        return rows(entries(store_folder()), users)


def _users() -> dict[Path, str]:
    from stereo.sandbox.state import users_of_dists

    return users_of_dists()


def _label(row: Row) -> str:
    link = f" (a link to {safe(str(row.entry.target))})" if row.entry.place.is_symlink() else ""
    return f"{row.entry.name} {row.entry.version} {row.entry.arch}{link}"


def _data(row: Row) -> dict[str, Any]:
    return {
        "name": row.entry.name,
        "version": row.entry.version,
        "arch": row.entry.arch,
        "path": str(row.entry.target),
        "link": row.entry.place.is_symlink(),
        "there": row.entry.there,
        "apparent": row.cost.apparent,
        "allocated": row.cost.allocated,
        "in_use_by": row.user,
    }


def _age(text: str | None) -> timedelta | None:
    from stereo.model.units import parse_age

    try:
        return None if text is None else parse_age(text)
    except ValueError as error:
        raise UsageError(f"{safe(text or '')[:40]!r} {error}", where="--older-than") from None


def _size(text: str | None) -> int | None:
    from stereo.model.units import parse_size

    try:
        return None if text is None else parse_size(int(text) if text.isdecimal() and len(text) < 20 else text)
    except ValueError as error:
        raise UsageError(f"{safe(text or '')[:40]!r} {error}", where="--budget") from None
