"""`stereo logs`: what the agents wrote, where connections went, what the console showed."""

from __future__ import annotations

import json
import shlex
from collections import deque
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import click

from stereo.cli.options import sandbox_option
from stereo.cli.output import Output, safe, speaking
from stereo.errors import UsageError

if TYPE_CHECKING:
    from stereo.sandbox.state import Folder


@click.command(
    short_help="Show what agents wrote, or where connections went.",
    epilog="""\b
Examples:
  stereo logs                      all agents, from the beginning
  stereo logs reviewer -f          one agent, and what it goes on to write
  stereo logs -n 20                the last 20 lines
  stereo logs --egress             every connection that was allowed or refused
  stereo logs --actions            what verbs did to it: exec, cp, secret, apply, down
  stereo logs --console            the machine's console, also after its end""",
)
@sandbox_option
@click.option("-f", "--follow", is_flag=True, help="Go on until Ctrl-C.")
@click.option("-n", "--lines", type=click.IntRange(0), metavar="N", help="Begin with the last N lines.")
@click.option("--egress", is_flag=True, help="The egress gate's log instead.")
@click.option("--console", is_flag=True, help="The console's log instead.")
@click.option("--actions", is_flag=True, help="What verbs did to the sandbox instead.")
@click.argument("agent", required=False)
@speaking(as_json=True)
def logs(
    out: Output,
    sandbox: str | None,
    follow: bool,
    lines: int | None,
    egress: bool,
    console: bool,
    actions: bool,
    agent: str | None,
) -> None:
    """Show the log of AGENT, or of all agents, with times in UTC."""
    import asyncio

    if sum((egress, console, actions, agent is not None)) > 1:
        raise UsageError("--egress, --console, --actions and AGENT exclude each other")
    if actions and follow:
        raise UsageError("--actions are printed once", hint="leave out --follow")
    if console and (follow or out.json):
        raise UsageError("--console is printed as it is, and once", hint="leave out --follow and --json")
    from stereo.sandbox.names import pick
    from stereo.sandbox.state import Folder

    folder = Folder(pick(sandbox))
    folder.check()
    if egress:
        _egress(out, folder, follow, lines)
    elif console:
        _console(folder, lines)
    elif actions:
        _actions(out, folder, lines)
    else:
        asyncio.run(_agents(out, folder.name, agent, follow, lines))


async def _agents(out: Output, sandbox: str, agent: str | None, follow: bool, lines: int | None) -> None:
    from stereo.errors import StereoError
    from stereo.sandbox.client import connected
    from stereo.sandbox.provision import list_agents
    from stereo.vm.journal import Journal
    from stereos_guest import protocol

    request: dict[str, Any] = {"follow": follow}
    if agent:
        request["agent"] = agent
    if lines is not None:
        request["lines"] = lines
    complaint, unknown = b"", False
    async with connected(sandbox) as control, await control.open_stream(protocol.LOGS, request) as stream:
        if agent:
            unknown = agent not in {each["name"] for each in await list_agents(control)}
            if unknown and follow:
                out.report.warn(f"there is no agent {agent} now")
        journal = Journal()
        while piece := await stream.read():
            if piece[0] == "stderr":
                complaint = (complaint + piece[1])[:1000]
                continue
            for entry in journal.feed(piece[1]):
                unknown = False  # it was removed since
                if out.json:
                    click.echo(json.dumps({"time": entry.time, "agent": entry.agent, "text": entry.text}))
                else:
                    click.echo(f"{_moment(entry.time)} {safe(entry.agent)} | {safe(entry.text)}")
        ended = await stream.wait()
    if unknown and not follow and lines != 0:
        raise UsageError(f"there is no agent {agent}", hint="`stereo status` shows those that are")
    if ended.code != 0:
        raise StereoError(f"the guest could not read its journal: {safe(complaint.decode(errors='replace'))}")


def _egress(out: Output, folder: Folder, follow: bool, lines: int | None) -> None:
    from stereo.egress.client import read_log

    for row in read_log(folder.egress_log, follow=follow, lines=lines):
        if out.json:
            click.echo(json.dumps(row))
        else:
            where = f"{row['host']}:{row['port']}" if row["port"] else row["host"]
            reason = f"  ({row['reason']})" if row.get("reason") else ""
            text = f"{_moment(row['time'])} {row['verdict']:8} {row['protocol']:7} {where}{reason}"
            click.echo(safe(text))


def _console(folder: Folder, lines: int | None) -> None:
    text = folder.console_log.read_bytes().decode(errors="replace")
    rows = [safe(row.rstrip("\r")) for row in text.split("\n")]
    click.echo("\n".join(rows if lines is None else rows[len(rows) - lines :] if lines else []))


def _actions(out: Output, folder: Folder, lines: int | None) -> None:
    from stereo.sandbox.actions import read_actions

    rows = deque(read_actions(folder.actions_log), lines)
    for row in rows:
        if out.json:
            click.echo(json.dumps(row))
            continue
        said = [
            f"{key}={shlex.join(map(str, value)) if isinstance(value, list) else value}" for key, value in row.items()
        ]
        click.echo(safe(f"{_moment(row['time'])} {row['action']:13} {' '.join(said[2:])}".rstrip()))


def _moment(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d %H:%M:%S")
