"""Connections to the outside: each is decided on, written down before its first byte, counted, and closed when it must.

A passage is open while its `async with` block runs. It ends by itself when nothing moved for a while, and from outside
when new rules no longer allow it. Without a line in the log there is no connection.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Final

from stereo.egress.log import Log
from stereo.egress.policy import Outside, Policy, Refused, Unreachable, Way
from stereo.model.egress import Address, Rules, normal_name

CHUNK: Final = 1 << 16  # bytes read at once
IDLE_SECONDS: Final = 1800.0  # a model may think for long before it says a word
_CLOSE_SECONDS = 5.0
_REFUSALS_PER_SECOND = 50.0
_REFUSALS_AT_ONCE = 200.0


async def let_go(writer: asyncio.StreamWriter) -> None:
    """Close, and wait for what is still to be sent, but not for one who does not take it."""
    writer.close()
    try:
        with suppress(OSError):
            async with asyncio.timeout(_CLOSE_SECONDS):
                await writer.wait_closed()
    finally:
        writer.transport.abort()


class Bucket:
    """Lets through `rate` a second on average, and `burst` at once."""

    def __init__(self, rate: float, burst: float) -> None:
        self._rate, self._burst = rate, burst
        self._free, self._last = burst, time.monotonic()

    def take(self) -> float:
        """Take one, in advance if need be: the seconds to wait until it is due."""
        now = time.monotonic()
        self._free = min(self._burst, self._free + (now - self._last) * self._rate) - 1
        self._last = now
        return max(0.0, -self._free / self._rate)

    def try_take(self) -> bool:
        """Take one if there is one."""
        if self.take() == 0:
            return True
        self._free += 1
        return False


class Passage:
    """One connection to the outside."""

    def __init__(
        self, way: Way, address: Address, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, idle: float
    ) -> None:
        self.way = way
        self.address = address
        self.bytes_in = self.bytes_out = 0
        self.ended = "done"
        self.stopped: str | None = None
        self._reader, self._writer = reader, writer
        self._idle = idle
        self.clock = asyncio.timeout(idle)

    def _moved(self) -> None:
        self.clock.reschedule(asyncio.get_running_loop().time() + self._idle)

    async def read(self) -> bytes:
        """What came from outside; empty at its end. Raises OSError."""
        data = await self._reader.read(CHUNK)
        self.bytes_in += len(data)
        self._moved()
        return data

    async def write(self, data: bytes) -> None:
        """Send, and wait until there is room for more. Raises OSError."""
        self._writer.write(data)
        await self._writer.drain()
        self.bytes_out += len(data)
        self._moved()

    def write_eof(self) -> None:
        """Nothing more will be sent. Raises OSError."""
        self._writer.write_eof()

    async def close(self) -> None:
        """Give the connection up; what was written still goes out, if it is taken soon."""
        await let_go(self._writer)

    def abort(self) -> None:
        """Give the connection up at once."""
        self._writer.transport.abort()


class Passages:
    """All connections to the outside, under the rules of now."""

    def __init__(self, rules: Rules, log: Log, outside: Outside, idle: float = IDLE_SECONDS) -> None:
        self.policy = Policy(rules, outside)
        self._log = log
        self._idle = idle
        self._open: dict[Passage, asyncio.Task[object]] = {}
        self._refusals = Bucket(_REFUSALS_PER_SECOND, _REFUSALS_AT_ONCE)

    @asynccontextmanager
    async def open(self, protocol: str, host: str, port: int) -> AsyncIterator[Passage]:
        """A connection to `host`, as the guest named it.

        Raises Refused (after it was written down, and not before its turn: a flood of them would drive all else out of
        the log), Unreachable, and in the block OSError, or TimeoutError when nothing moved.
        """
        try:
            way = await self.policy.way(host, port)
        except Refused as error:
            await self.refuse(protocol, host, port, error.reason)
            raise
        except Unreachable as error:
            self._write("allowed", protocol, normal_name(host) or host, port, error.reason)
            raise
        passage = await self._connect(protocol, way)
        try:
            self._write("allowed", protocol, way.host, port, f"rule {way.rule}", address=str(passage.address))
        except Refused:
            passage.abort()
            raise
        task = asyncio.current_task()
        assert task is not None
        self._open[passage] = task
        began = time.monotonic()
        try:
            async with passage.clock:
                yield passage
        except TimeoutError:
            passage.ended = f"nothing moved for {self._idle:.0f} s"
            raise
        except OSError as error:
            passage.ended = error.strerror or str(error) or type(error).__name__
            raise
        except asyncio.CancelledError:
            passage.ended = passage.stopped or "the gate was closed"
            raise
        finally:
            del self._open[passage]
            with suppress(Refused):
                self._write(
                    "closed",
                    protocol,
                    way.host,
                    port,
                    passage.ended,
                    address=str(passage.address),
                    bytes_in=passage.bytes_in,
                    bytes_out=passage.bytes_out,
                    seconds=round(time.monotonic() - began, 3),
                )
            await passage.close()

    async def _connect(self, protocol: str, way: Way) -> Passage:
        failure = ""
        for address in way.addresses:
            try:
                reader, writer = await self.policy.outside.connect(address, way.port)
            except OSError as error:
                reason = "no answer" if isinstance(error, TimeoutError) else error.strerror or str(error)
                failure = f"connecting to {address} failed: {reason}"
                continue
            if not self.policy.permits(way.host, way.port, address):
                writer.transport.abort()
                await self.refuse(protocol, way.host, way.port, "the rules were replaced")
                raise Refused("the rules were replaced")
            return Passage(way, address, reader, writer, self._idle)
        self._write("allowed", protocol, way.host, way.port, failure, address=str(way.addresses[-1]))
        raise Unreachable(failure)

    async def refuse(self, protocol: str, host: str, port: int, reason: str) -> None:
        """Write down that something was refused. Raises Refused if that cannot be."""
        await asyncio.sleep(self._refusals.take())
        self._write("refused", protocol, host, port, reason)

    def told(self, host: str, reason: str, addresses: str) -> None:
        """Write down that a name was looked up. Raises Refused if that cannot be."""
        self._write("allowed", "dns", host, 53, reason, address=addresses)

    def _write(self, verdict: str, protocol: str, host: str, port: int, reason: str, **rest: object) -> None:
        try:
            self._log.write(verdict, protocol, host, port, reason, **rest)
        except OSError as error:
            raise Refused("the host cannot write its log, and without it nothing is let through") from error

    def replace(self, rules: Rules) -> int:
        """Put new rules in force, and close the connections that they do not allow: how many."""
        self.policy.rules = rules
        closed = 0
        for passage, task in self._open.items():
            if not self.policy.permits(passage.way.host, passage.way.port, passage.address):
                passage.stopped = "the rules no longer allow it"
                passage.abort()
                task.cancel()
                closed += 1
        return closed
