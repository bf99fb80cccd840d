"""What agents wrote, read from the guest's journal as `journalctl --output=json` tells it.

The fields are those of systemd.journal-fields(7); in JSON a field is text, or an array of bytes where it is not UTF-8
or holds control characters, or null where it was too long. All of it is a stranger's: what makes no sense is left out.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

from stereos_guest import jsontext
from stereos_guest.protocol import LineReader

_UNIT = re.compile(r"stereos-agent-([a-z0-9][a-z0-9-]{0,40})\.service")
_TIME = re.compile(r"[0-9]{1,17}")  # microseconds since 1970


@dataclass(frozen=True)
class Entry:
    """One line that an agent wrote: when (seconds since 1970), which agent, and what. The text is as it came."""

    time: float
    agent: str
    text: str


class Journal:
    """Puts entries together from the pieces in which they come."""

    def __init__(self) -> None:
        self._lines = LineReader()

    def feed(self, data: bytes) -> list[Entry]:
        """The entries that `data` completes."""
        return [entry for line in self._lines.feed(data) if line and (entry := _entry(line))]


def _entry(line: bytes) -> Entry | None:
    try:
        fields = jsontext.loads(line.decode())
    except ValueError:
        return None
    if not isinstance(fields, dict):
        return None
    time, unit = fields.get("__REALTIME_TIMESTAMP"), fields.get("_SYSTEMD_UNIT")
    agent = _UNIT.fullmatch(unit) if isinstance(unit, str) else None
    text = _text(fields.get("MESSAGE"))
    if agent is None or text is None or not isinstance(time, str) or not _TIME.fullmatch(time):
        return None
    return Entry(int(time) / 1e6, agent[1], text)


def _text(message: Any) -> str | None:
    if isinstance(message, list):
        try:
            return bytes(message).decode(errors="replace")
        except (TypeError, ValueError):
            return None
    return message if isinstance(message, str) else None
