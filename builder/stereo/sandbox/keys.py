"""The sandbox's own SSH key, and what the guest says its host key is; see ssh-keygen(1) and sshd(8), known_hosts."""

from __future__ import annotations

import re
import shutil

from stereo import process
from stereo.errors import StereoError
from stereo.sandbox.state import Folder

_HOST_KEY = re.compile(r"((?:ssh|ecdsa)-[a-z0-9-]{1,40}) ([A-Za-z0-9+/]{40,4000}={0,2})(?: [ -~]{0,200})?", re.ASCII)


def make_key(folder: Folder) -> str:
    """The public half of the sandbox's key, made when it is first asked for. Raises StereoError."""
    public = folder.ssh_key.with_suffix(".pub")
    if not public.is_file():
        program = shutil.which("ssh-keygen")
        if program is None:
            raise StereoError("no ssh-keygen on PATH", hint="install openssh-client")
        folder.ssh_key.unlink(missing_ok=True)
        words = ("-q", "-t", "ed25519", "-N", "", "-C", f"stereo-{folder.name}", "-f", folder.ssh_key)
        process.run([program, *words], umask=0o077, timeout=30)
    return public.read_text().strip()


def alias(name: str) -> str:
    """The name of the guest's host key, whatever port leads there; see ssh_config(5), HostKeyAlias."""
    return f"stereo-{name}"


def learn_host_key(folder: Folder, port: int, public_key: object) -> None:
    """Write down what the guest says its host key is. Raises StereoError if that is none."""
    found = _HOST_KEY.fullmatch(public_key.strip()) if isinstance(public_key, str) else None
    if found is None:
        raise StereoError("what the guest calls its host key is none")
    folder.known_hosts.write_text(f"{alias(folder.name)},[127.0.0.1]:{port} {found[1]} {found[2]}\n")
