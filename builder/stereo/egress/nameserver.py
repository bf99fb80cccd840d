"""The name server of a guest: addresses of allowed names, and REFUSED for everything else.

Nothing of a query is passed on. The host's own resolver is asked for the addresses of a name that the rules allow, so a
name that they do not allow leaves no trace outside, and no other type of record can carry anything in or out.
"""

from __future__ import annotations

import asyncio
import struct
from typing import Any, Final, cast

import dns.exception
import dns.message
import dns.name
import dns.opcode
import dns.rcode
import dns.rdata
import dns.rdataclass
import dns.rdatatype
import dns.rrset

from stereo.egress.passage import Bucket, Passages
from stereo.egress.policy import Refused, Unreachable

LARGEST_QUERY: Final = 4096  # bytes
_TTL: Final = 30  # seconds
_PER_SECOND = 100.0
_AT_ONCE = 300.0
_UNDER_WAY = 64
_TCP_SECONDS = 10.0
_VERSIONS = {dns.rdatatype.A: 4, dns.rdatatype.AAAA: 6}

# Now, not when a query first asks for them: by then the process may have no right to read its own modules.
dns.rdata.load_all_types()  # type: ignore[no-untyped-call]


class NameServer:
    """Answers queries by UDP and TCP, within one rate for both."""

    def __init__(self, passages: Passages) -> None:
        self._passages = passages
        self._rate = Bucket(_PER_SECOND, _AT_ONCE)
        self._under_way: set[asyncio.Task[None]] = set()

    async def answer(self, wire: bytes) -> bytes | None:
        """The response to a query; None for what deserves none: no query, or too many of them."""
        if len(wire) > LARGEST_QUERY or not self._rate.try_take():
            return None
        try:
            query = dns.message.from_wire(wire)
            response = dns.message.make_response(query, recursion_available=True)  # FormError if it is one itself
            response.set_rcode(await self._fill(query, response))
            return response.to_wire()
        except (dns.exception.DNSException, ValueError, struct.error):
            return None

    async def _fill(self, query: dns.message.Message, response: dns.message.Message) -> dns.rcode.Rcode:
        """Put the answers into `response`."""
        if query.opcode() != dns.opcode.QUERY:
            await self._refuse("", f"opcode {dns.opcode.to_text(query.opcode())}")
            return dns.rcode.REFUSED
        if len(query.question) != 1:
            return dns.rcode.FORMERR
        question = query.question[0]
        name = question.name.to_text(omit_final_dot=True)
        version = _VERSIONS.get(question.rdtype)
        if version is None or question.rdclass != dns.rdataclass.IN:
            await self._refuse(name, f"only addresses are told, not {dns.rdatatype.to_text(question.rdtype)}")
            return dns.rcode.REFUSED
        try:
            found = await self._passages.policy.answer(name)
            told = [str(address) for address in found if address.version == version]
            self._passages.told(name, dns.rdatatype.to_text(question.rdtype), " ".join(told))
        except Refused as error:
            await self._refuse(name, error.reason)
            return dns.rcode.REFUSED
        except Unreachable as error:
            self._passages.told(name, error.reason, "")
            return dns.rcode.NXDOMAIN if error.missing else dns.rcode.SERVFAIL
        if told:
            response.answer.append(dns.rrset.from_text_list(question.name, _TTL, "IN", question.rdtype, told))
        return dns.rcode.NOERROR

    async def _refuse(self, name: str, reason: str) -> None:
        await self._passages.refuse("dns", name, 53, reason)

    async def serve_tcp(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Answer the queries of one connection, one after the other. RFC 7766. Raises OSError."""
        try:
            while True:
                async with asyncio.timeout(_TCP_SECONDS):
                    (length,) = struct.unpack("!H", await reader.readexactly(2))
                    wire = await reader.readexactly(length)
                response = await self.answer(wire)
                if response is None:
                    return
                writer.write(struct.pack("!H", len(response)) + response)
                await writer.drain()
        except asyncio.IncompleteReadError:
            return

    def udp(self) -> asyncio.DatagramProtocol:
        """What answers the packets of a socket."""
        return _Packets(self)

    def take(self, wire: bytes, address: Any, transport: asyncio.DatagramTransport) -> None:
        """Answer a packet in its own time; drop it if too many wait, as networks do."""
        if len(self._under_way) >= _UNDER_WAY:
            return

        async def answer() -> None:
            try:
                response = await self.answer(wire)
            except Refused:  # the log cannot be written
                return
            if response is not None and not transport.is_closing():
                transport.sendto(response, address)

        task = asyncio.get_running_loop().create_task(answer())
        self._under_way.add(task)
        task.add_done_callback(self._under_way.discard)


class _Packets(asyncio.DatagramProtocol):
    def __init__(self, server: NameServer) -> None:
        self._server = server

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.DatagramTransport, transport)

    def datagram_received(self, data: bytes, addr: Any) -> None:
        self._server.take(data, addr, self._transport)
