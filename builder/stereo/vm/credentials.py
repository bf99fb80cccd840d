"""How what a host gives a machine gets to systemd there, which takes it for its own: see systemd.system-credentials(7).

Firmware carries it in SMBIOS. Who starts a kernel without firmware may have no SMBIOS (Arm's, Apple's), so there it
comes with the initrd, as a second archive behind the first; `mkosi/image/initrd/init` hands that over.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Mapping

from stereo.errors import StereoError, shown

_NAME = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9_.-]{0,199}")  # none that a shell's * leaves out
_LARGEST = 32 << 10  # bytes; an SMBIOS table counts all its strings in 16 bits
_FOLDER = "credentials"
_IS_FOLDER, _IS_FILE = 0o040700, 0o100400
_ALIGNMENT = 4  # of archives, and in them; see the kernel's driver-api/early-userspace/buffer-format.rst


def check(credentials: Mapping[str, str]) -> None:
    """Raises StereoError for what no machine can be given."""
    for name, value in credentials.items():
        if not _NAME.fullmatch(name) or len(value.encode()) > _LARGEST:
            raise StereoError(f"the credential {shown(repr(name))} cannot be given to a machine")


def smbios_string(name: str, value: str) -> bytes:
    """A string of an SMBIOS table of type 11 that systemd(1) takes for the credential `name`."""
    return f"io.systemd.credential.binary:{name}=".encode() + base64.b64encode(value.encode())


def behind_initrd(size: int, credentials: Mapping[str, str]) -> bytes:
    """What has to follow an initrd of `size` bytes, so that the kernel unpacks the credentials too: cpio(5), newc."""
    rows = [_row(_FOLDER, _IS_FOLDER, b"")]
    rows += [_row(f"{_FOLDER}/{name}", _IS_FILE, value.encode()) for name, value in credentials.items()]
    return bytes(-size % _ALIGNMENT) + b"".join(rows) + _row("TRAILER!!!", 0, b"")


def _row(name: str, mode: int, content: bytes) -> bytes:
    """A file or folder of root's. All are number 0, which makes no hard links of those that have one name."""
    text = name.encode() + b"\0"
    fields = (0, mode, 0, 0, 1, 0, len(content), 0, 0, 0, 0, len(text), 0)
    head = b"070701" + b"".join(b"%08x" % field for field in fields) + text
    return _padded(head) + _padded(content)


def _padded(data: bytes) -> bytes:
    return data + bytes(-len(data) % _ALIGNMENT)
