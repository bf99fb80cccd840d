"""The jcard.toml of the machine: in memory, root's alone, and never one that does not parse."""

from __future__ import annotations

import posix

from stereos_guest import fields, files
from stereos_guest.protocol import ProtocolError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from typing import Any

FILE = "/etc/stereos/jcard.toml"


class Config:
    """The file below `root`. `changed` is called when it was replaced."""

    def __init__(self, root: str, changed: Callable[[], None]) -> None:
        self._path = root + FILE
        self._changed = changed

    def put(self, body: Mapping[str, Any]) -> None:
        """Store what a `set_config` brought. Raises ProtocolError, and then the old one stays; OSError."""
        content = fields.text(body, "content")
        if len(content.encode()) > files.MOST_BYTES:
            raise ProtocolError(f"content is longer than {files.MOST_BYTES} bytes")
        check(content)
        files.replace(self._path, content.encode(), 0o600)
        self._changed()

    def there(self) -> bool:
        """Whether there is one."""
        try:
            posix.stat(self._path)
        except OSError:
            return False
        return True


def check(content: str) -> None:
    """Whether it is TOML. What the tables mean is agentd's affair. Raises ProtocolError."""
    import tomllib  # brings in `re`: not before ready

    try:
        tomllib.loads(content)
    except tomllib.TOMLDecodeError as error:
        raise ProtocolError(f"content does not parse: {error}") from None
    except RecursionError:
        raise ProtocolError("content does not parse: nested too deep") from None
