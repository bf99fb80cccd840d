"""What the guest gets to know of a jcard: its agents and mount points. No value of a secret, nothing of the host."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import tomlkit
from tomlkit.items import Table

from stereo.model.jcard_agents import Agent, Restart
from stereo.model.units import duration_text

MOST_BYTES = 400 * 1024
"""What a config may have, in bytes: as JSON, where a character may take six, it must pass a line of 1 MiB."""


def guest_text(agents: Iterable[Agent], mounts: Iterable[tuple[str, bool]]) -> str:
    """The TOML text. `mounts` are paths in the guest, and whether each is read-only."""
    document = tomlkit.document()
    shared = tomlkit.aot()
    for path, read_only in mounts:
        shared.append(_table({"guest": path, "readonly": read_only}.items()))
    if len(shared):
        document.append("shared", shared)
    listed = tomlkit.aot()
    for agent in agents:
        listed.append(_table(_keys(agent)))
    if len(listed):
        document.append("agents", listed)
    return tomlkit.dumps(document)


def _table(items: Iterable[tuple[str, object]]) -> Table:
    table = tomlkit.table()
    for key, value in items:
        table.append(key, value)
    return table


def _keys(agent: Agent) -> Iterator[tuple[str, object]]:
    """The keys of one agent. What the guest has a default for, and the jcard does not say, stays unsaid."""
    yield "name", agent.name
    yield "type", agent.type.value
    yield "harness", agent.harness.value
    if agent.command:
        yield "command", list(agent.command)
    if agent.args:
        yield "args", list(agent.args)
    if agent.prompt:
        yield "prompt", agent.prompt
    yield "workdir", agent.workdir
    if agent.secrets:
        yield "secrets", list(dict.fromkeys(agent.secrets))
    if agent.restart is not Restart.NO:
        yield "restart", agent.restart.value
        yield "max_restarts", agent.max_restarts
    if agent.timeout is not None:
        yield "timeout", duration_text(agent.timeout)
    yield "grace_period", duration_text(agent.grace_period)
    if agent.session:
        yield "session", agent.session
    if agent.memory is not None:
        yield "memory", agent.memory
    if agent.pid_limit is not None:
        yield "pid_limit", agent.pid_limit
    if agent.env:
        env = tomlkit.table()
        for name, value in agent.env.items():
            env.append(name, value)
        yield "env", env
