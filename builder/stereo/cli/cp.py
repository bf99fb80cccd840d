"""`stereo cp`: copy files into a sandbox, and out of it."""

from __future__ import annotations

from pathlib import Path

import click

from stereo.cli.options import sandbox_option
from stereo.cli.output import Output, speaking
from stereo.errors import UsageError, shown


@click.command(
    short_help="Copy files into a sandbox or out of it.",
    epilog="""\b
Examples:
  stereo cp notes.md :                         into the agent's home
  stereo cp src/ :workspace/                   a folder into a folder
  stereo cp :workspace/report.html .           out
  stereo cp -u root :/etc/nftables.conf /tmp   with root's rights inside

A path that begins with a colon is inside; a relative one starts at the user's home. Owners, links that lead out
of what is copied, devices and set-id bits do not come out.""",
)
@sandbox_option
@click.option("-u", "--user", type=click.Choice(["agent", "admin", "root"]), default="agent", show_default=True)
@click.argument("source")
@click.argument("target")
@speaking()
def cp(out: Output, sandbox: str | None, user: str, source: str, target: str) -> None:
    """Copy SOURCE to TARGET, one of which is inside the sandbox (:PATH)."""
    import asyncio

    from stereo.sandbox.client import connected
    from stereo.sandbox.names import pick
    from stereo.sandbox.transfer import GuestPath, copy_in, copy_out

    if source.startswith(":") == target.startswith(":"):
        raise UsageError(
            "one of the two must be inside, and only one", hint="begin that one with a colon, as :workspace/"
        )

    if not (source and target):
        raise UsageError("an empty path", hint="'.' is this folder, ':' the user's home inside")

    left_out: list[str] = []

    async def copy() -> None:
        async with connected(pick(sandbox)) as control:
            with out.report.progress(f"Copying {source}", None) as progress:
                if source.startswith(":"):
                    await copy_out(control, GuestPath(_inside(source, user), user), Path(target), progress.advance)
                else:
                    inside = GuestPath(_inside(target, user), user)
                    await copy_in(control, Path(source), inside, progress.advance, left_out.append)

    asyncio.run(copy())
    for socket in left_out:
        out.report.warn(f"left out {shown(socket)}: a socket cannot be copied")


def _inside(path: str, user: str) -> str:
    home = "/root" if user == "root" else f"/home/{user}"
    inner = path[1:]
    return inner if inner.startswith("/") else f"{home}/{inner}"
