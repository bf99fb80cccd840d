"""Secrets: one file each in a folder of root's in memory. Their values are never read back by this daemon."""

from __future__ import annotations

import posix

from stereos_guest import fields, files
from stereos_guest.protocol import ProtocolError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from typing import Any

FOLDER = "/run/stereos/secrets"
_MODE = 0o600
_MOST_SECRETS = 1000
_LONGEST_NAME = 200  # bytes
_NEW = ".new"  # what a name becomes while it is written


class Secrets:
    """The folder below `root`. `changed` is called when it has."""

    def __init__(self, root: str, changed: Callable[[], None]) -> None:
        self._folder = root + FOLDER
        self._changed = changed

    def put(self, body: Mapping[str, Any]) -> str:
        """Store what an `inject_secret` brought; the name of it. Raises ProtocolError, OSError."""
        name = checked(fields.text(body, "name"))
        mode = fields.number(body, "mode", 0o777) or _MODE
        value = fields.text(body, "value").encode()
        names = self.names()
        if name not in names and len(names) >= _MOST_SECRETS:
            raise ProtocolError(f"there are {_MOST_SECRETS} secrets already")
        files.replace(f"{self._folder}/{name}", value, mode)
        self._changed()
        return name

    def names(self) -> list[str]:
        """Which there are. Raises OSError."""
        return sorted(name for name in posix.listdir(self._folder) if not name.endswith(_NEW))

    def remove(self, name: str) -> None:
        """Forget one; it is no error if there is none. Raises ProtocolError, OSError."""
        try:
            posix.unlink(f"{self._folder}/{checked(name)}")
        except FileNotFoundError:
            return
        self._changed()


def checked(name: str) -> str:
    """A name that is a file's in one folder. Raises ProtocolError."""
    if not name:
        raise ProtocolError("name is empty")
    if "/" in name or ".." in name or name == ".":
        raise ProtocolError("name is not the plain name of a file")
    if any(letter < " " or letter == "\x7f" for letter in name):
        raise ProtocolError("name has control characters")
    if len(name.encode()) > _LONGEST_NAME or name.endswith(_NEW):
        raise ProtocolError(f"name has more than {_LONGEST_NAME} bytes, or ends in {_NEW}")
    return name
