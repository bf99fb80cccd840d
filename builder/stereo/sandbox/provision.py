"""What a guest gets once it is up, in the order that lets no agent start before all that it needs is there.

First network, shares and secrets, side by side; then the configuration, which makes agentd start the agents; then we
wait until each of them runs, or has failed to.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Collection, Coroutine, Iterable, Mapping
from contextlib import aclosing, suppress
from typing import TYPE_CHECKING, Any

from stereo.errors import StereoError, shown
from stereo.model.egress import as_address
from stereo.sandbox.job import Job
from stereo.vm.backends import BackendName
from stereo.vm.control import GuestError, NoAnswerError
from stereo.vm.machine import GATEWAY, GUEST, PROXY_PORT, RESOLVER
from stereos_guest import protocol

if TYPE_CHECKING:
    from stereo.vm.control import Control

log = logging.getLogger(__name__)

HOST_NAME = "host.stereo.internal"
USERS = ("admin", "agent")
SETTLED = ("running", "backoff", "exited", "failed", "stopped")
_OWN_ADDRESS = {"address": f"{GUEST}/24", "gateway": GATEWAY}
_STEP_SECONDS = 30.0  # an emulated machine under load takes its time
_SSHD_SECONDS = 120.0  # more than stereosd gives the start of sshd; nobody waits for it but `ssh`
_ONLINE_SECONDS = 20
# The file is networkd's own; networkctl, which shows the same, needs a D-Bus that the image lacks.
_ONLINE = (
    f"/usr/lib/systemd/systemd-networkd-wait-online --any --ipv4 --timeout={_ONLINE_SECONDS} "
    "&& sed -n s/^DNS=//p /run/systemd/netif/state"
)
_NEWER = "an older image knows no gateway by vsock: build or pull a newer one"
_LARGEST_ANSWER = 4096  # bytes
_MOST_NAMESERVERS = 3  # resolv.conf(5)
_AGENTS_SECONDS = 120.0
_MOST_AGENTS = 1000


def tag(index: int) -> str:
    """The virtiofs tag of the share with that index."""
    return f"share{index}"


async def furnish(control: Control, job: Job, vsock_ports: Collection[int] = ()) -> list[str]:
    """Give the guest its network, shares and secrets, then its configuration.

    `vsock_ports` are those of the host that a guest without a network card reaches its egress gate by.
    Returns what went wrong without stopping anything. Raises StereoError.
    """
    online = asyncio.create_task(_online(control)) if _asks_for_address(job) else None
    steps = [
        _step(control, "network", protocol.SET_NETWORK, network(job, vsock_ports)),
        *(
            _step(control, f"share {share.guest}", protocol.MOUNT, _mount(index, share.guest, share.readonly))
            for index, share in enumerate(job.shares)
        ),
        *(give_secret(control, name, value) for name, value in job.secrets.items()),
    ]
    try:
        await _all(steps)
        notes = [] if online is None else await _told_names(control, job, await online)
    finally:
        if online:
            online.cancel()
    await configure(control, job.config)
    return notes


async def _online(control: Control) -> list[str] | None:
    """Wait until the guest has an address: an agent that starts before that fails at its first request.

    Returns the name servers that came with it; None if it has none in time.
    """
    said = b""
    request = {"argv": ["/bin/sh", "-c", _ONLINE], "user": "root"}
    try:
        async with (
            asyncio.timeout(_ONLINE_SECONDS + _STEP_SECONDS),
            await control.open_stream(protocol.EXEC, request, _STEP_SECONDS) as stream,
        ):
            while piece := await stream.read():
                said = (said + piece[1])[:_LARGEST_ANSWER] if piece[0] == "stdout" else said
            if (await stream.wait()).code == 0:
                servers = map(as_address, said.decode(errors="replace").split())
                return [str(server) for server in servers if server][:_MOST_NAMESERVERS]
    except (GuestError, TimeoutError) as error:
        log.warning("whether the guest is online: %s", error)
    return None


async def _told_names(control: Control, job: Job, servers: list[str] | None) -> list[str]:
    """Have the guest ask the name servers that it heard of. Returns what went wrong. Raises StereoError."""
    if servers is None:
        return ["the guest has no network address yet"]
    if not servers:
        return ["the network told the guest no name server"]
    await _step(control, "network", protocol.SET_NETWORK, {**network(job), "nameservers": servers})
    return []


async def configure(control: Control, config: str) -> None:
    """Hand over the agents' configuration. Raises StereoError."""
    await _step(control, "configuration", protocol.SET_CONFIG, {"content": config})


async def let_in(control: Control, public_key: str) -> None:
    """Let the owner of a key in by ssh. Raises StereoError."""
    keys = [{"user": user, "public_key": public_key} for user in USERS]
    kind = protocol.INJECT_SSH_KEY
    await _all([_step(control, f"SSH key of {key['user']}", kind, key, _SSHD_SECONDS) for key in keys])


async def give_secret(control: Control, name: str, value: str) -> None:
    """Put a secret into the guest's memory. Raises StereoError."""
    await _step(control, f"secret {name}", protocol.INJECT_SECRET, {"name": name, "value": value, "mode": 0o600})


async def take_secret(control: Control, name: str) -> None:
    """Remove a secret. Raises StereoError."""
    await _step(control, f"secret {name}", protocol.REMOVE_SECRET, {"name": name})


def network(job: Job, vsock_ports: Collection[int] = ()) -> dict[str, Any]:
    """What the guest is told of its network; for `vsock_ports` see `furnish`."""
    if job.egress is not None:
        local = "localhost,127.0.0.1,::1"  # not the host's name: what the proxy refuses is logged, a closed port is not
        proxy, hosts = f"http://{GATEWAY}:{PROXY_PORT}", {HOST_NAME: GATEWAY}
        way = {"gateway": GATEWAY, "vsock_ports": sorted(vsock_ports)} if vsock_ports else _OWN_ADDRESS
        return {**way, "nameservers": [GATEWAY], "proxy": proxy, "no_proxy": local, "hosts": hosts}
    closed: dict[str, Any] = {"proxy": "", "no_proxy": "", "hosts": {}}
    if job.mode == "nat" and not _asks_for_address(job):
        return {**_OWN_ADDRESS, **closed, "nameservers": [RESOLVER]}
    return {**closed, "nameservers": []}


def _asks_for_address(job: Job) -> bool:
    """Whether the guest asks for its address: a bridge's neighbours, or macOS. Elsewhere it is told one."""
    return job.mode == "bridged" or (job.mode == "nat" and job.egress is None and job.backend == BackendName.APPLEVIRT)


async def list_agents(control: Control, seconds: float = 10) -> list[dict[str, Any]]:
    """The guest's word on its agents, by name. Raises GuestError."""
    body = await control.request(protocol.LIST_AGENTS, answer=protocol.AGENTS, seconds=seconds)
    agents = body.get("agents")
    if not isinstance(agents, list) or len(agents) > _MOST_AGENTS or not all(map(_is_entry, agents)):
        raise GuestError("the guest's list of agents is none")
    return sorted((dict(agent) for agent in agents), key=lambda agent: str(agent["name"]))


async def settle(control: Control, names: Collection[str], seconds: float = _AGENTS_SECONDS) -> list[dict[str, Any]]:
    """Wait until each agent of `names` has started or failed, and return the list of all. Raises StereoError."""
    if not names:
        return []
    agents: dict[str, dict[str, Any]] = {}
    try:
        async with asyncio.timeout(seconds), aclosing(control.events()) as events:
            news = asyncio.ensure_future(anext(events, None))
            try:
                await asyncio.sleep(0)  # now it listens, and nothing is missed between the list and the first event
                agents = {agent["name"]: agent for agent in await list_agents(control)}
                while unsettled(agents.values(), names):
                    message = await news
                    if message is None:
                        raise GuestError("the guest closed the control channel")
                    news = asyncio.ensure_future(anext(events, None))
                    agent = message.body().get("agent") if message.type == protocol.EVENT else None
                    if isinstance(agent, dict) and _is_entry(agent):
                        agents[agent["name"]] = agent
            finally:  # whatever it was: events that somebody still waits for cannot be closed
                news.cancel()
                with suppress(asyncio.CancelledError):
                    await news
    except TimeoutError:
        late = "; ".join(unsettled(agents.values(), names))
        raise StereoError(f"agents did not start within {seconds:g} s: {late}") from None
    return sorted(agents.values(), key=lambda agent: str(agent["name"]))


def unsettled(agents: Iterable[Mapping[str, Any]], names: Iterable[str]) -> list[str]:
    """Those of `names` that have neither started nor failed, with what is known of them."""
    known = {agent["name"]: agent for agent in agents}
    return [
        f"{name} is {shown(str(known[name]['state']), 40)}{_reason(known[name])}"
        if name in known
        else f"{name} is unknown"
        for name in names
        if name not in known or known[name]["state"] not in SETTLED
    ]


def failures(agents: Iterable[Mapping[str, Any]]) -> list[str]:
    """A sentence for each agent that failed."""
    return [f"agent {agent['name']} failed{_reason(agent)}" for agent in agents if agent["state"] == "failed"]


def _reason(agent: Mapping[str, Any]) -> str:
    if error := agent.get("error"):
        return f": {shown(str(error))}"
    code, signal = agent.get("exit_code"), agent.get("exit_signal")
    if agent["state"] != "failed" or (code is None and signal is None):
        return ""
    return f": killed by {shown(str(signal), 20)}" if signal else f": exit status {shown(str(code), 20)}"


def _is_entry(agent: object) -> bool:
    return isinstance(agent, dict) and isinstance(agent.get("name"), str) and isinstance(agent.get("state"), str)


def _mount(index: int, guest_path: str, read_only: bool) -> dict[str, Any]:
    return {"tag": tag(index), "guest_path": guest_path, "fs_type": "virtiofs", "read_only": read_only}


async def _step(
    control: Control, what: str, kind: str, payload: Mapping[str, Any], seconds: float = _STEP_SECONDS
) -> None:
    try:
        await control.request(kind, payload, seconds=seconds)
    except NoAnswerError as error:
        raise StereoError(f"the guest took no {what}: {error.what}") from error
    except GuestError as error:
        hint = _NEWER if "vsock_ports" in payload else None
        raise StereoError(f"the guest did not take the {what}: {error.what}", hint=hint) from error


async def _all(steps: Iterable[Coroutine[Any, Any, None]]) -> None:
    """Run all at once; the first failure cancels the others."""
    try:
        async with asyncio.TaskGroup() as group:
            for step in steps:
                group.create_task(step)
    except* StereoError as failed:
        raise failed.exceptions[0] from None
