"""What OpenSSH has to be told to reach a sandbox: its own key, its host key checked strictly, nothing of the user's."""

from __future__ import annotations

from stereo.errors import StereoError
from stereo.sandbox.keys import alias
from stereo.sandbox.state import RUNNING, Folder


def options(name: str, user: str) -> dict[str, str]:
    """The ssh_config(5) options for logging in to a running sandbox. Raises StereoError if it does not run."""
    folder = Folder(name)
    folder.check()
    state, record = folder.condition()
    if state != RUNNING or record is None or record.ssh_port is None:
        raise StereoError(f"{name} is not running: {state}", hint="stereo up")
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


def _quoted(path: str) -> str:
    """A path as these options take it: "%" begins a token there, and blanks part file names."""
    return '"' + path.replace("%", "%%") + '"'
