"""`stereo down` and `stereo destroy`: end a sandbox, and give it up."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import Any

import click

from stereo.cli.options import Seconds, sandbox_argument
from stereo.cli.output import Output, speaking
from stereo.errors import StereoError, UsageError

_CLEAN_UP_SECONDS = 30.0  # beyond the guest's grace: the power button, and what is left to do
_FORCE_SECONDS = 15.0
_LONGEST_GRACE = 3600.0


@click.command(
    short_help="Shut a sandbox down.",
    epilog="""\b
Examples:
  stereo down               ask the guest, press its power button, switch it off: whatever works first
  stereo down --grace 120   give its agents two minutes to end
  stereo down --force       switch it off at once

What the guest wrote to its disk stays: `stereo up` boots it again.""",
)
@sandbox_argument
@click.option("--force", is_flag=True, help="Switch it off at once.")
@click.option(
    "--grace",
    type=Seconds(_LONGEST_GRACE),
    metavar="SECONDS",
    help="What the guest gets to shut down; default: what its agents get, and 30 s.",
)
@speaking(as_json=True)
def down(out: Output, sandbox: str | None, force: bool, grace: float | None) -> None:
    """Shut a sandbox down."""
    from stereo.sandbox.names import pick
    from stereo.sandbox.state import Folder

    folder = Folder(pick(sandbox))
    folder.check()
    if not folder.held():
        state, _ = folder.condition()
        out.result({"name": folder.name, "how": None, "state": state}, "")
        out.report.note(f"{folder.name} is not running: {state}")
        return
    with out.report.step(f"Shutting {folder.name} down", f"{folder.name} is down"):
        how = _end(folder.name, grace, force=force)
    out.result({"name": folder.name, "how": how, "state": folder.condition()[0]}, how)


@click.command(
    short_help="Remove a sandbox and its disk.",
    epilog="""\b
Examples:
  stereo destroy review         ask, shut it down if it runs, and remove it
  stereo destroy review --yes   without asking
  stereo destroy --yes --force  and without giving it time to shut down

Shared folders are the host's, and stay.""",
)
@sandbox_argument
@click.option("-y", "--yes", is_flag=True, help="Do not ask.")
@click.option("--force", is_flag=True, help="Switch it off at once if it runs.")
@speaking(as_json=True)
def destroy(out: Output, sandbox: str | None, yes: bool, force: bool) -> None:
    """Remove a sandbox: its disk, its keys, its logs."""
    from stereo.sandbox.machines import end_left
    from stereo.sandbox.names import pick
    from stereo.sandbox.state import Folder

    folder = Folder(pick(sandbox))
    folder.check()
    if not yes:
        if not sys.stdin.isatty():
            raise UsageError("nobody is there to be asked", where=folder.name, hint="add --yes")
        click.confirm(f"Remove {folder.name} and all that was written to its disk?", abort=True, err=True)
    with out.report.step(f"Removing {folder.name}", f"Removed {folder.name}"):
        if folder.held():
            _end(folder.name, None, force=force)
        if folder.exists():  # one that never was ready is gone with its supervisor
            folder.lock()  # held until we end
            end_left(folder)
            folder.remove()
    out.result({"name": folder.name, "removed": True}, "")


def _end(name: str, grace: float | None, *, force: bool) -> str:
    """Have the supervisor end the sandbox. Returns how it went."""
    import asyncio

    from stereo.sandbox import messages
    from stereo.sandbox.client import connected, kill
    from stereo.vm.control import NoAnswerError

    async def ask() -> Mapping[str, Any]:
        async with connected(name) as control:
            patience = _FORCE_SECONDS if force else (_LONGEST_GRACE if grace is None else grace) + _CLEAN_UP_SECONDS
            wish = {"grace": grace, "force": force}
            return await control.request(messages.DOWN, wish, answer=messages.DOWN, seconds=patience)

    try:
        answer = asyncio.run(ask())
    except NoAnswerError:
        if not force:
            raise StereoError("its supervisor does not answer", where=name, hint="stereo down --force") from None
        kill(name)
        return "its supervisor was killed"
    return str(answer["how"])
