"""The HTTP proxy: tunnels by CONNECT, and plain HTTP request by request, each one decided on by itself.

Every request of a connection gets a connection of its own to the outside: nothing that came with one request can reach
where another one was allowed to go. Bodies pass in pieces as they come, both ways at once, and a sender waits for the
slowest reader: no more than a few pieces are ever held.
"""

from __future__ import annotations

import asyncio
import errno
from collections.abc import Awaitable, Callable, Coroutine
from contextlib import suppress
from typing import Any, Final

import h11

from stereo.egress.passage import CHUNK, Passage, Passages
from stereo.egress.policy import Refused, Unreachable
from stereo.egress.target import BadRequest, Target, back, host_of, onward, target_of
from stereo.model.egress import HOST_NAME

LARGEST_HEAD: Final = 32 << 10  # bytes, and what one more read may add
HEAD_SECONDS: Final = 60.0  # from the end of one request to the end of the next one's head
_PARTING_SECONDS = 0.2
_LINGER_SECONDS = 2.0


async def tunnel(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter, passage: Passage, first: bytes = b""
) -> None:
    """Bytes both ways until both sides have ended. Raises OSError when either breaks."""

    async def out() -> None:
        data = first or await reader.read(CHUNK)
        while data:
            await passage.write(data)
            data = await reader.read(CHUNK)
        passage.write_eof()

    async def into() -> None:
        while data := await passage.read():
            writer.write(data)
            await writer.drain()
        with suppress(OSError):  # who has heard all may be gone: a unix socket says so here, TCP does not
            writer.write_eof()

    await _both(out(), into())


async def _both(one: Coroutine[Any, Any, None], other: Coroutine[Any, Any, None]) -> None:
    """Run two halves of an exchange side by side; the first that fails ends both, and its error is raised."""
    try:
        async with asyncio.TaskGroup() as group:
            group.create_task(one)
            group.create_task(other)
    except ExceptionGroup as errors:
        raise errors.exceptions[0] from None


class ProxyClient:
    """One connection of the guest to the proxy."""

    def __init__(
        self,
        passages: Passages,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        head_seconds: float = HEAD_SECONDS,
    ) -> None:
        self._passages = passages
        self._reader, self._writer = reader, writer
        self._head_seconds = head_seconds
        self._http = h11.Connection(h11.SERVER, max_incomplete_event_size=LARGEST_HEAD)

    async def serve(self) -> None:
        """Answer requests until the connection ends. Raises OSError when it breaks."""
        while await self._serve_one():
            self._http.start_next_cycle()
        if self._http.their_state in (h11.SEND_BODY, h11.ERROR):  # it was answered before it had said all
            await self._linger()

    async def _serve_one(self) -> bool:
        """Answer a request; whether another may follow."""
        asked = ""
        try:
            async with asyncio.timeout(self._head_seconds):
                request = await _next_event(self._http, self._reader.read)
            if not isinstance(request, h11.Request):
                return False
            asked = host_of(request.target)
            target = target_of(request)
        except TimeoutError:
            return False
        except BadRequest as error:
            await self._passages.refuse("http", asked, 0, str(error))
            await self._answer(400, str(error))
            return False
        except h11.RemoteProtocolError as error:
            await self._passages.refuse("http", asked, 0, "it is no HTTP request")
            await self._answer(error.error_status_hint, f"This is no request that the proxy understands: {error}.")
            return False
        protocol = "http" if target.path is not None else "connect"
        try:
            async with self._passages.open(protocol, target.host, target.port) as passage:
                if target.path is None:
                    return await self._tunnel(passage)
                await self._exchange(request, target, passage)
        except Refused as error:
            await self._answer(403, _words(target, error))
        except Unreachable as error:
            where = f"{target.host}:{target.port}"
            await self._answer(502, f"The rules allow {where}, but {error.reason}.")
        except h11.ProtocolError as error:
            await self._answer(502, f"What came from one side was no HTTP: {error}.")
        except OSError as error:
            await self._answer(502, f"The connection broke: {error}.")
        return self._http.our_state is h11.DONE and self._http.their_state is h11.DONE

    async def _tunnel(self, passage: Passage) -> bool:
        await _next_event(self._http, self._reader.read)  # the end of a request without a body
        await self._send(h11.Response(status_code=200, headers=[], reason=b"Connection established"))
        await tunnel(self._reader, self._writer, passage, self._http.trailing_data[0])
        return False

    async def _exchange(self, request: h11.Request, target: Target, passage: Passage) -> None:
        """Pass on one request and its response."""
        server = h11.Connection(h11.CLIENT, max_incomplete_event_size=LARGEST_HEAD)
        await passage.write(server.send(onward(request, target)) or b"")
        answered = asyncio.Event()
        await _both(self._send_body(server, passage, answered), self._respond(server, passage, answered))

    async def _send_body(self, server: h11.Connection, passage: Passage, answered: asyncio.Event) -> None:
        """The request's body to the server, then watch for the guest hanging up, until it was answered."""
        upload = asyncio.ensure_future(self._upload(server, passage))
        done = asyncio.ensure_future(answered.wait())
        try:
            await asyncio.wait({upload, done}, return_when=asyncio.FIRST_COMPLETED)
            if upload.done():
                upload.result()
            await answered.wait()
        finally:
            upload.cancel()
            done.cancel()

    async def _upload(self, server: h11.Connection, passage: Passage) -> None:
        while True:
            event = await _next_event(self._http, self._reader.read)
            if isinstance(event, h11.Data | h11.EndOfMessage):
                piece = event if isinstance(event, h11.Data) else h11.EndOfMessage()
                with suppress(ConnectionError):  # it has heard enough; what it says to that is still to come
                    await passage.write(server.send(piece) or b"")
            if isinstance(event, h11.EndOfMessage):
                break
        early = await self._reader.read(CHUNK)
        if not early:
            await asyncio.sleep(_PARTING_SECONDS)  # who has all of the answer may go before we know that it is all
            raise ConnectionAbortedError(errno.ECONNABORTED, "the guest hung up")
        self._http.receive_data(early)

    async def _respond(self, server: h11.Connection, passage: Passage, answered: asyncio.Event) -> None:
        """The server's response to the guest."""

        async def read(_: int) -> bytes:
            return await passage.read()

        try:
            while not isinstance(event := await _next_event(server, read), h11.EndOfMessage):
                if isinstance(event, h11.Response | h11.InformationalResponse):
                    await self._send(back(event, type(event)))
                elif isinstance(event, h11.Data):
                    await self._send(event)
                else:
                    raise h11.RemoteProtocolError("the server closed without an answer")
            await self._send(h11.EndOfMessage())
        finally:
            answered.set()

    async def _send(self, event: h11.Event) -> None:
        self._writer.write(self._http.send(event) or b"")
        await self._writer.drain()

    async def _answer(self, status: int, text: str) -> None:
        """An answer of our own, after which the connection ends; nothing if an answer was already on its way."""
        if self._http.our_state not in (h11.IDLE, h11.SEND_RESPONSE):
            return
        body = f"stereo: {text}\n".encode()
        headers = [("Content-Type", "text/plain; charset=utf-8"), ("Content-Length", str(len(body)))]
        with suppress(OSError, h11.LocalProtocolError):
            await self._send(h11.Response(status_code=status, headers=[*headers, ("Connection", "close")]))
            await self._send(h11.Data(data=body))
            await self._send(h11.EndOfMessage())

    async def _linger(self) -> None:
        """Take what the guest still sends: closing before that would reset the connection, and lose the answer."""
        with suppress(OSError):
            self._writer.write_eof()
            async with asyncio.timeout(_LINGER_SECONDS):
                while await self._reader.read(CHUNK):
                    pass


async def _next_event(connection: h11.Connection, read: Callable[[int], Awaitable[bytes]]) -> h11.Event:
    """The next event, reading as much as it takes. Raises RemoteProtocolError and OSError."""
    while (event := connection.next_event()) is h11.NEED_DATA:
        connection.receive_data(await read(CHUNK))
    if isinstance(event, h11.Event):
        return event
    raise h11.RemoteProtocolError("more came than was asked for")


def _words(target: Target, refused: Refused) -> str:
    text = f"the sandbox may not connect to {target.host}:{target.port}: {refused.reason}."
    if refused.add:
        # A port of the host's own needs a wire that a running machine does not get.
        run = "`stereo down` and `stereo up`" if refused.add.startswith(f"{HOST_NAME}:") else "`stereo apply`"
        text += f'\nTo allow it, add "{refused.add}" to egress_allow in jcard.toml and run {run}.'
    return text
