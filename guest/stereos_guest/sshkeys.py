"""Keys that let somebody in by ssh, and the server that is started once there is one."""

from __future__ import annotations

import posix
from binascii import Error, a2b_base64

from stereos_guest import fields, files
from stereos_guest.protocol import ProtocolError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from typing import Any

    from stereos_guest.execution import Account
    from stereos_guest.helpers import Run

USERS = ("admin", "agent")
TYPES = (
    *("ssh-ed25519", "ssh-rsa", "ecdsa-sha2-nistp256", "ecdsa-sha2-nistp384", "ecdsa-sha2-nistp521"),
    *("sk-ssh-ed25519@openssh.com", "sk-ecdsa-sha2-nistp256@openssh.com"),
)
FOLDER = "/etc/stereos/ssh-keys"
"""A file for each user, root's alone to write and gone with the boot; `overlays/ssh` has sshd look there."""
HOST_KEY = "/var/lib/stereos/ssh/ssh_host_ed25519_key.pub"
_START = ("/usr/bin/systemctl", "start")
_SERVER, _HOST_KEY_MAKER = "ssh.service", "stereos-ssh-host-key.service"
_LONGEST_KEY = 16 << 10  # bytes; of an RSA key of 16384 bits, less than 3 KiB


class SshKeys:
    """Replaces the one injected key of a user; `account` finds the user."""

    def __init__(self, root: str, run: Run, account: Callable[[str], Account]) -> None:
        self._root = root
        self._run = run
        self._account = account

    def put(self, body: Mapping[str, Any], done: Callable[[str], None]) -> None:
        """Store what an `inject_ssh_key` brought, and start the server. Raises ProtocolError, OSError."""
        user = fields.word(body, "user")
        if not user:
            raise ProtocolError("user is empty")
        if user not in USERS:
            raise ProtocolError(f"user is none of {' and '.join(USERS)}")
        key = checked(fields.text(body, "public_key"))
        try:
            self._account(user)
        except KeyError:
            raise ProtocolError(f"this machine has no user {user}") from None
        store(self._root, user, key)
        self._run([*_START, _SERVER], lambda error: done(error and f"sshd did not start: {error}"), "/")

    def host_key(self, done: Callable[[str, str], None]) -> None:
        """Give the public host key, made if there is none yet, to `done`: the line and an error, one of them empty."""

        def read(error: str) -> None:
            try:
                done("" if error else files.read(self._root + HOST_KEY).strip(), error)
            except OSError as missing:
                done("", f"{HOST_KEY}: {missing.strerror}")

        self._run([*_START, _HOST_KEY_MAKER], read, "/")


def checked(key: str) -> str:
    """One line of an authorized_keys file, without options (sshd(8)). Raises ProtocolError."""
    key = key.rstrip("\r\n")
    if not key:
        raise ProtocolError("public_key is empty")
    if len(key) > _LONGEST_KEY or not key.isprintable():
        raise ProtocolError("public_key is not one line of text")
    kind, _, rest = key.partition(" ")
    if kind not in TYPES:
        raise ProtocolError("public_key is of no type that is accepted")
    try:
        blob = a2b_base64(rest.split(" ")[0], strict_mode=True)
    except (Error, ValueError):
        raise ProtocolError("public_key is not base64") from None
    # RFC 4253, 6.6: the key begins with its type, and that with its length.
    named = len(kind).to_bytes(4, "big") + kind.encode()
    if not blob.startswith(named) or len(blob) <= len(named) + 4:
        raise ProtocolError("public_key is not a key of its type")
    return key


def store(root: str, user: str, key: str) -> None:
    """Let `key` be the one injected key of a user. Raises OSError.

    Not in the user's home, as the original has it: who runs as `agent` could add a key of its own there, and by ssh to
    this very machine leave whatever confines it.
    """
    try:
        posix.mkdir(root + FOLDER)
    except FileExistsError:
        pass
    posix.chmod(root + FOLDER, 0o755)  # sshd reads as the user
    files.replace(f"{root}{FOLDER}/{user}", key.encode() + b"\n", 0o644)
