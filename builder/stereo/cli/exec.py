"""`stereo exec` and `stereo attach`: run a command in a sandbox, or join an agent's terminal."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import click

from stereo.cli.options import Seconds, sandbox_option
from stereo.cli.output import Output, speaking
from stereo.errors import UsageError

if TYPE_CHECKING:
    from stereo.vm.stream import Exit

USERS = ("agent", "admin", "root")


@click.command(
    "exec",
    short_help="Run a command in a sandbox.",
    context_settings={"ignore_unknown_options": True, "allow_interspersed_args": False},
    epilog="""\b
Examples:
  stereo exec id                            as the agent, in its workspace
  stereo exec -u root systemctl --failed    as root
  stereo exec -t bash                       with a terminal
  git diff | stereo exec -i patch -p1       with what comes on stdin
  stereo exec --timeout 60 make test        ended after a minute, with status 124

The exit status is the command's own; 128 and its number for a signal, 124 for the time limit.""",
)
@sandbox_option
@click.option("-u", "--user", type=click.Choice(USERS), default="agent", show_default=True, help="Who runs it.")
@click.option("-w", "--workdir", metavar="DIR", help="Where it runs; default: the user's workspace or home.")
@click.option("-e", "--env", "variables", multiple=True, metavar="KEY=VALUE", help="Set a variable; may be repeated.")
@click.option("-i", "--stdin", is_flag=True, help="Pass stdin on.")
@click.option("-t", "--tty", is_flag=True, help="Give it a terminal, and pass stdin on.")
@click.option("--timeout", type=Seconds(1e9, min_open=True), metavar="S", help="End it after so many seconds.")
@click.argument("command", nargs=-1, required=True, type=click.UNPROCESSED)
@speaking()
def exec_(
    out: Output,
    sandbox: str | None,
    user: str,
    workdir: str | None,
    variables: Sequence[str],
    stdin: bool,
    tty: bool,
    timeout: float | None,
    command: Sequence[str],
) -> int:
    """Run COMMAND in a sandbox and pass its output and exit status on."""
    request: dict[str, Any] = {"argv": list(command), "user": user, "stdin": stdin or tty}
    if variables:
        request["env"] = _environment(variables)
    if workdir:
        request["cwd"] = workdir
    if timeout:
        request["timeout"] = timeout
    return run(sandbox, request, tty=tty)


@click.command(
    short_help="Join the terminal of an interactive agent.",
    epilog="""\b
Examples:
  stereo attach                    the only agent that has a terminal
  stereo attach reviewer           one of several

Ctrl-b d leaves it; the agent works on.""",
)
@sandbox_option
@click.argument("agent", required=False)
@speaking()
def attach(out: Output, sandbox: str | None, agent: str | None) -> int:
    """Join the terminal of AGENT, an agent without a prompt, until you leave it or it ends."""
    import asyncio

    _need_terminal()
    from stereo.cli.interactive import terminal_size
    from stereo.sandbox.client import connected
    from stereo.sandbox.names import pick

    async def join() -> int:
        from stereo.cli.interactive import attend, exit_status

        async with connected(pick(sandbox)) as control:
            from stereo.sandbox.provision import list_agents
            from stereos_guest import protocol

            name = _with_terminal(await list_agents(control), agent)
            request = {"argv": ["/usr/lib/stereos/agent-attach", name], "user": "agent", "stdin": True}
            async with await control.open_stream(protocol.EXEC, {**request, "tty": terminal_size()}) as stream:
                return exit_status(await attend(stream, terminal=True, keyboard=True))

    return asyncio.run(join())


def run(sandbox: str | None, request: dict[str, Any], *, tty: bool) -> int:
    """Run one `exec` request, tied to this process's stdin, stdout and stderr; returns its status."""
    import asyncio

    if tty:
        _need_terminal()
    from stereo.cli.interactive import attend, exit_status, terminal_size
    from stereo.sandbox.client import connected
    from stereo.sandbox.names import pick
    from stereos_guest import protocol

    async def follow() -> Exit:
        size = {"tty": terminal_size()} if tty else {}
        async with (
            connected(pick(sandbox)) as control,
            await control.open_stream(protocol.EXEC, {**request, **size}) as stream,
        ):
            return await attend(stream, terminal=tty, keyboard=bool(request["stdin"]))

    return exit_status(asyncio.run(follow()))


def _environment(variables: Sequence[str]) -> dict[str, str]:
    pairs = [variable.partition("=") for variable in variables]
    if wrong := [name for name, equals, _ in pairs if not name or not equals]:
        raise UsageError(f"{wrong[0]!r} has no value", where="--env", hint="write it as KEY=VALUE")
    return {name: value for name, _, value in pairs}


def _need_terminal() -> None:
    if not sys.stdin.isatty():
        raise UsageError("stdin is not a terminal", hint="without one, use `stereo exec -i`")


def _with_terminal(agents: Iterable[Mapping[str, Any]], wanted: str | None) -> str:
    """The name of the agent to join."""
    names = [str(agent["name"]) for agent in agents if agent.get("session") and agent.get("running") is True]
    if wanted is None and len(names) == 1:
        return names[0]
    if wanted is not None and wanted in names:
        return wanted
    hint = (
        f"these have one: {', '.join(names)}" if names else "an agent has one if it has no prompt, see `stereo status`"
    )
    raise UsageError(f"agent {wanted} has no terminal now" if wanted else "name an agent", hint=hint)
