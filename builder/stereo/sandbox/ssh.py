"""What OpenSSH has to be told to reach a sandbox: its own key, its host key checked strictly, nothing of the user's."""

from __future__ import annotations

import asyncio

from stereo.errors import StereoError
from stereo.sandbox import messages
from stereo.sandbox.client import connected
from stereo.sandbox.keys import alias
from stereo.sandbox.state import RUNNING, Folder

_WAIT_SECONDS = 180.0


def options(name: str, user: str) -> dict[str, str]:
    """The ssh_config(5) options for logging in to a running sandbox. Raises StereoError if it does not run."""
    folder = Folder(name)
    folder.check()
    state, record = folder.condition()
    if state != RUNNING or record is None or record.ssh_port is None:
        raise StereoError(f"{name} is not running: {state}", hint="stereo up")
    if not folder.known_hosts.exists():  # sshd is the last to start
        asyncio.run(_wait(name))
    return {
        "HostName": "127.0.0.1",
        "Port": str(record.ssh_port),
        "User": user,
        "HostKeyAlias": alias(name),
        "UserKnownHostsFile": _quoted(str(folder.known_hosts)),
        "GlobalKnownHostsFile": "none",
        "StrictHostKeyChecking": "yes",
        "IdentityFile": _quoted(str(folder.ssh_key)),
        "IdentitiesOnly": "yes",
        "PasswordAuthentication": "no",
        "KbdInteractiveAuthentication": "no",
        "ForwardAgent": "no",
    }


async def _wait(name: str) -> None:
    async with connected(name) as control:
        await control.request(messages.WAIT, {"ssh": True}, answer=messages.WAIT, seconds=_WAIT_SECONDS)


def _quoted(path: str) -> str:
    """A path as these options take it: "%" begins a token there, and blanks part file names."""
    return '"' + path.replace("%", "%%") + '"'
