"""How the machine is, from how its agents are: the rules of the lifecycle, and what is told when something changes."""

from __future__ import annotations

from stereos_guest import protocol

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any

_AT_WORK = ("running", "backoff", "exited")
_ORIGINAL_FIELDS = ("name", "running", "session", "restarts", "error")


def state_of(agents: Sequence[dict[str, Any]], *, agentd_gone: bool) -> tuple[str, str]:
    """The state of a machine that is up, and the reason where it is not well."""
    if agentd_gone:
        return protocol.DEGRADED, "agentd is not there"
    for agent in agents:
        if agent["state"] == "failed":
            why = f": {agent['error']}" if agent.get("error") else ""
            return protocol.DEGRADED, f"agent {agent['name']} failed{why}"
    if any(agent["state"] in _AT_WORK for agent in agents):
        return protocol.HEALTHY, ""
    return protocol.READY, ""


def as_original(agents: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """The entries of `health` and of the HTTP API, with the fields of the original."""
    plain = [{"running": False, "restarts": 0, **agent} for agent in agents]
    return [{name: agent[name] for name in _ORIGINAL_FIELDS if agent.get(name) not in (None, "")} for agent in plain]


def changes(before: Sequence[dict[str, Any]], after: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """The entries to tell of: what is new or different, and what is gone, with `removed`."""
    old = {agent["name"]: agent for agent in before}
    changed = [agent for agent in after if old.pop(agent["name"], None) != agent]
    gone = [{**agent, "running": False, "state": "stopped", "removed": True} for agent in old.values()]
    return changed + gone
