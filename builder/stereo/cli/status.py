"""`stereo status` and `stereo list`: what sandboxes there are, and how they are."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import click

from stereo.cli.measure import duration
from stereo.cli.options import sandbox_argument
from stereo.cli.output import Output, columns, safe, speaking

if TYPE_CHECKING:
    from stereo.sandbox.state import Folder

_ASK_SECONDS = 20.0


@click.command(
    short_help="Show how a sandbox is.",
    epilog="""\b
Examples:
  stereo status          the sandbox of the jcard.toml here, or the only one
  stereo status --all    every one
  stereo status --json   for programs

States: starting, running, stopping; stopped and failed, with the reason; crashed, when its supervisor was killed;
unreadable, when what is kept of it is damaged.""",
)
@sandbox_argument
@click.option("--all", "everything", is_flag=True, help="Show every sandbox.")
@speaking(as_json=True)
def status(out: Output, sandbox: str | None, everything: bool) -> None:
    """Show how a sandbox is: its machine, its agents, its network."""
    import asyncio

    from stereo.sandbox.names import pick
    from stereo.sandbox.state import Folder, all_folders

    async def ask() -> list[dict[str, Any]]:
        return list(await asyncio.gather(*map(_status_of, folders)))

    folders = all_folders() if everything else [_there(Folder(pick(sandbox)))]
    told = asyncio.run(ask())
    text = "\n\n".join(_text(one) for one in told)
    if everything:
        out.result(told, text)
    else:
        out.result(told[0], text)


@click.command(
    "list",
    short_help="List the sandboxes.",
    epilog="""\b
Examples:
  stereo list
  stereo list --json""",
)
@speaking(as_json=True)
def list_(out: Output) -> None:
    """List the sandboxes of this user, running or not."""
    from stereo.sandbox.state import all_folders

    rows = [_outside(folder) for folder in all_folders()]
    table = [("NAME", "STATE", "MIXTAPE", "SINCE", "SSH")]
    for row in rows:
        since = _ago(row["since"]) if row["since"] else "-"
        port = str(row["ssh_port"]) if row["ssh_port"] and row["state"] == "running" else "-"
        table.append((row["name"], row["state"], row["mixtape"] or "-", since, port))
    out.result(rows, "\n".join(_columns(table)) if rows else "")


def _there(folder: Folder) -> Folder:
    """The same. Raises UsageError if there is no such sandbox; what else is wrong with it is its state."""
    from stereo.errors import StereoError, UsageError

    try:
        folder.check()
    except UsageError:
        raise
    except StereoError:
        pass
    return folder


def _outside(folder: Folder) -> dict[str, Any]:
    """What its folder tells."""
    from stereo.errors import StereoError
    from stereo.sandbox.state import CRASHED, UNREADABLE

    try:
        folder.check()
        state, record = folder.condition()
    except StereoError as error:  # the others are to be seen all the same
        state, record = UNREADABLE, None
        unreadable = f"{error.where}: {error.what}" if error.where else error.what
    reason = "its supervisor was killed; `stereo up` starts it again" if state == CRASHED else ""
    if record and record.state == state:
        reason = record.reason
    if state == UNREADABLE:
        reason = unreadable
    return {
        "name": folder.name,
        "state": state,
        "reason": reason,
        "since": record.changed if record else None,
        "mixtape": record.mixtape if record else None,
        "jcard": record.jcard if record else None,
        "network": record.network if record else None,
        "backend": record.backend if record else None,
        "arch": record.arch or None if record else None,
        "ssh_port": record.ssh_port if record else None,
    }


async def _status_of(folder: Folder) -> dict[str, Any]:
    """What its folder tells, and its supervisor if it has one. Raises StereoError."""
    from stereo.errors import StereoError
    from stereo.sandbox import messages
    from stereo.sandbox.client import connected

    told = {**_outside(folder), "agents": []}
    if folder.held():
        try:
            async with connected(folder.name) as control:
                told |= await control.request(messages.STATUS, {}, answer=messages.STATUS, seconds=_ASK_SECONDS)
        except StereoError as error:
            told["reason"] = error.what
    return told


def _text(told: Mapping[str, Any]) -> str:
    reason = f": {told['reason']}" if told["reason"] else ""
    since = f" for {duration(time.time() - told['since'])}" if told["since"] else ""
    rows = [("", f"{told['name']} is {told['state']}{since}{reason}")]
    rows.append(("mixtape", told["mixtape"]))
    rows.append(("network", told["network"]))
    rows.append(("backend", told["backend"]))
    rows.append(("architecture", told["arch"]))
    if told["state"] == "running":
        rows.append(("guest", f"{told.get('guest', 'silent')} {told.get('guest_error', '')}"))
        rows.append(("ssh", f"127.0.0.1:{told['ssh_port']}" if told["ssh_port"] else "not available"))
        rows.append(("secrets", ", ".join(told.get("secrets", []))))
        if counts := told.get("egress"):
            rows.append(("egress", ", ".join(f"{count} {verdict}" for verdict, count in counts.items())))
        if told.get("ends_at"):
            rows.append(("ends in", duration(max(0, told["ends_at"] - time.time()))))
    lines = [_plain(f"{key}: {value}".strip() if key else value) for key, value in rows if value]
    if told["agents"]:
        table = [("AGENT", "STATE", "EXIT", "RESTARTS", "ERROR"), *map(_agent, told["agents"])]
        lines.extend(_columns(table))
    return "\n".join([lines[0], *(f"  {line}" for line in lines[1:])])


def _agent(agent: Mapping[str, Any]) -> tuple[str, ...]:
    code, signal = agent.get("exit_code"), agent.get("exit_signal")
    ended = str(signal) if signal else "-" if code is None else str(code)
    if agent.get("timed_out"):
        ended += " (time over)"
    return str(agent["name"]), str(agent["state"]), ended, str(agent.get("restarts", 0)), str(agent.get("error", ""))


def _columns(table: Sequence[Sequence[str]]) -> list[str]:
    return columns([[_plain(cell) for cell in row] for row in table])


def _plain(text: object) -> str:
    """The guest's words may be among it."""
    return safe(str(text).replace("\n", " | "))[:500]


def _ago(moment: float) -> str:
    return f"{duration(max(0, time.time() - moment))} ago"
