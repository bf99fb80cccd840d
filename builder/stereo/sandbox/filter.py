"""Keeps the egress gate of a sandbox running. While there is none, nothing leaves the sandbox."""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import Iterable, Mapping
from pathlib import Path

from stereo.egress.client import Gate, GateError
from stereo.errors import StereoError
from stereo.model.egress import Rules
from stereo.vm.enclosure import uid_for
from stereo.vm.machine import Transport

log = logging.getLogger(__name__)

_MOST_STARTS = 5  # in the life of a sandbox; a gate that dies more often is broken, or under attack
_START_SECONDS = 60.0


class Filter:
    """A gate on the sockets that a guest can reach, and another when it died."""

    def __init__(
        self, sockets: Mapping[tuple[Transport, int], socket.socket], rules: Iterable[str], log_file: Path
    ) -> None:
        self._sockets = {(str(protocol), port): sock for (protocol, port), sock in sockets.items()}
        self._rules = Rules.parse(rules)
        self._log_file = log_file
        self._gate: Gate | None = None
        self._up = asyncio.Event()
        self._keeping = asyncio.create_task(self._keep())

    async def _keep(self) -> str:
        for _ in range(_MOST_STARTS):
            try:
                # As root it becomes a user of its own, another one than QEMU's.
                user = uid_for(self._log_file)
                async with Gate.start(self._sockets, self._rules, self._log_file, user=user) as gate:
                    self._gate = gate
                    self._up.set()
                    reason = f"it ended with status {await gate.wait()}"
            except GateError as error:
                reason = error.what
            except OSError as error:
                reason = f"it cannot be started: {error.strerror}"
            self._gate = None
            self._up.clear()
            log.warning("the egress gate: %s", reason)
        return f"its egress gate cannot be kept running: {reason}"

    async def ready(self) -> None:
        """Return when it filters. Raises StereoError."""
        up = asyncio.create_task(self._up.wait())
        waits: list[asyncio.Future[object]] = [up, self._keeping]  # type: ignore[list-item]  # Future is invariant
        await asyncio.wait(waits, timeout=_START_SECONDS, return_when=asyncio.FIRST_COMPLETED)
        if not up.done():
            up.cancel()
            raise StereoError(self._keeping.result() if self._keeping.done() else "the egress gate does not start")

    async def apply(self, rules: Iterable[str]) -> None:
        """Put other rules in force. Raises StereoError."""
        self._rules = Rules.parse(rules)
        if self._gate:
            await self._gate.apply(self._rules)

    def counts(self) -> dict[str, int]:
        """How many connections were allowed and refused, as far as the log goes back."""
        return _counts(self._log_file)

    async def broken(self) -> str:
        """Return a sentence when it is given up."""
        return await asyncio.shield(self._keeping)

    async def close(self) -> None:
        """End it."""
        self._keeping.cancel()
        await asyncio.wait([self._keeping])


def _counts(log_file: Path) -> dict[str, int]:
    found = {"allowed": 0, "refused": 0}
    for path in (log_file.with_name(f"{log_file.name}.old"), log_file):
        try:
            with path.open("rb") as file:
                for line in file:
                    for verdict in found:
                        # Text of the guest's cannot look so: JSON escapes its quotes.
                        found[verdict] += f'"verdict": "{verdict}"'.encode() in line
        except FileNotFoundError:
            continue
    return found
