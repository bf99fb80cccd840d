"""The host's record of what verbs did to a sandbox: a line for each action, before it is done, without secrets."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from stereo.sandbox import messages
from stereo.sandbox.bounded import BoundedFile
from stereos_guest import protocol

log = logging.getLogger(__name__)

_WORDS = 100
_LETTERS = 1000
# What is kept of each action. Everything else that a verb asks for only looks.
_KEPT = {
    protocol.EXEC: ("user", "cwd", "argv", "env"),
    protocol.COPY_IN: ("user", "path"),
    protocol.COPY_OUT: ("user", "path"),
    protocol.CONNECT: ("host", "port"),
    protocol.AGENT: ("name", "action", "signal"),
    protocol.INJECT_SECRET: ("name",),
    protocol.REMOVE_SECRET: ("name",),
    messages.APPLY: (),
    messages.DOWN: ("grace", "force"),
    "started": ("mixtape", "jcard", "digest", "shares", "secrets"),
    "ended": ("state", "reason"),
}


class Actions:
    """Appends to the bounded file `path`. `redact` takes secrets that are known out of a text."""

    def __init__(self, path: Path, redact: Callable[[str], str]) -> None:
        self._path = path
        self._redact = redact
        self._file: BoundedFile | None = None

    def note(self, action: str, body: Mapping[str, Any]) -> None:
        """Write down that `action` was asked for, if it is one. A record that cannot be kept stops nobody."""
        if action not in _KEPT:
            return
        kept = {name: self._plain(body[name]) for name in _KEPT[action] if body.get(name) not in (None, "", [], {})}
        try:
            self._file = self._file or BoundedFile(self._path)
            self._file.write(json.dumps({"time": round(time.time(), 3), "action": action, **kept}).encode() + b"\n")
        except OSError as error:
            log.warning("%s was not recorded: %s", action, error)

    def _plain(self, value: Any) -> Any:
        """Names of variables without their values; of text, what a line has room for. Cut last: no half of a secret."""
        if isinstance(value, (list, dict)):
            return [self._plain(str(each)) for each in list(value)[:_WORDS]]
        return value if isinstance(value, (bool, int, float)) else self._redact(str(value))[:_LETTERS]


def read_actions(path: Path) -> Iterator[dict[str, Any]]:
    """What was written down, oldest first. Lines that are none of ours are passed over."""
    for each in (path.with_name(f"{path.name}.old"), path):
        with suppress(FileNotFoundError), each.open("rb") as file:
            for line in file:
                with suppress(ValueError, RecursionError):
                    row = json.loads(line)
                    if _is_row(row):
                        yield row


def _is_row(row: object) -> bool:
    if not isinstance(row, dict) or not isinstance(row.get("action"), str) or row["action"] not in _KEPT:
        return False
    return isinstance(row.get("time"), (int, float)) and 0 <= row["time"] < 1e11
