"""The name server: addresses of allowed names, REFUSED for the rest, and nothing passed on."""

from __future__ import annotations

import asyncio
import socket
import struct
from collections.abc import Iterator
from pathlib import Path

import dns.edns
import dns.flags
import dns.message
import dns.opcode
import dns.query
import dns.rcode
import dns.rdatatype
import dns.update
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from makers.gate import Running, World, running
from stereo.egress.gate import DNS_TCP, DNS_UDP
from stereo.egress.log import Log
from stereo.egress.nameserver import NameServer
from stereo.egress.passage import Passages
from stereo.model.egress import Rules

PUBLIC, PUBLIC6 = "93.184.216.34", "2606:2800:220:1::1"


@pytest.fixture
def gate(tmp_path: Path) -> Iterator[Running]:
    world = World(
        names={
            "good.example": [PUBLIC, PUBLIC6],
            "four.example": [PUBLIC],
            "inside.example": ["10.0.0.1", "127.0.0.1"],
            "mixed.example": ["10.0.0.1", PUBLIC],
        }
    )
    names = ("good.example:443", "four.example", "inside.example", "mixed.example", "*.deep.example")
    with running(tmp_path, *names, "host.stereo.internal:9999", world=world) as made:
        yield made


def ask(gate: Running, name: str, kind: str = "A", *, tcp: bool = False) -> tuple[int, list[str]]:
    query = dns.message.make_query(name, kind)
    send = dns.query.tcp if tcp else dns.query.udp
    response = send(query, "127.0.0.1", timeout=5, port=gate.ports[DNS_TCP if tcp else DNS_UDP])
    assert response.question == query.question
    return response.rcode(), [str(record) for answer in response.answer for record in answer]


@pytest.mark.parametrize("tcp", [False, True])
def test_addresses_of_allowed_names_are_told(gate: Running, tcp: bool) -> None:
    assert ask(gate, "good.example", tcp=tcp) == (dns.rcode.NOERROR, [PUBLIC])
    assert ask(gate, "good.example", "AAAA", tcp=tcp) == (dns.rcode.NOERROR, [PUBLIC6])
    assert ask(gate, "four.example", "AAAA", tcp=tcp) == (dns.rcode.NOERROR, [])
    assert [(row["verdict"], row["host"], row["address"], row["reason"]) for row in gate.rows()] == [
        ("allowed", "good.example", PUBLIC, "A"),
        ("allowed", "good.example", PUBLIC6, "AAAA"),
        ("allowed", "four.example", "", "AAAA"),
    ]


@pytest.mark.parametrize(
    "name", ["evil.example", "c2VjcmV0.evil.example", "sub.good.example", "example", "deep.example", "."]
)
def test_other_names_are_refused_and_nobody_is_asked(gate: Running, name: str) -> None:
    assert ask(gate, name) == (dns.rcode.REFUSED, [])
    assert gate.world.lookups == []
    assert [row["verdict"] for row in gate.rows()] == ["refused"]


@pytest.mark.parametrize("kind", ["TXT", "NULL", "MX", "SRV", "CNAME", "NS", "SOA", "ANY", "HTTPS", "PTR", "AXFR"])
def test_only_addresses_are_told(gate: Running, kind: str) -> None:
    assert ask(gate, "good.example", kind, tcp=True) == (dns.rcode.REFUSED, [])
    assert gate.world.lookups == []


def test_addresses_inside_are_kept_back(gate: Running) -> None:
    assert ask(gate, "inside.example") == (dns.rcode.REFUSED, [])
    assert ask(gate, "mixed.example") == (dns.rcode.NOERROR, [PUBLIC])
    gate.apply("inside.example", "10.0.0.0/24:5432")
    assert ask(gate, "inside.example") == (dns.rcode.NOERROR, ["10.0.0.1"])


def test_the_host_is_where_the_guest_sees_it_while_a_port_is_open(gate: Running) -> None:
    assert ask(gate, "host.stereo.internal") == (dns.rcode.NOERROR, ["10.0.2.2"])
    assert ask(gate, "HOST.stereo.INTERNAL", "AAAA") == (dns.rcode.NOERROR, [])
    gate.apply("good.example")
    assert ask(gate, "host.stereo.internal") == (dns.rcode.REFUSED, [])
    assert gate.world.lookups == []


def test_a_name_that_does_not_exist_does_not(gate: Running) -> None:
    assert ask(gate, "none.deep.example") == (dns.rcode.NXDOMAIN, [])


def test_updates_responses_and_crowded_queries_get_nothing_done(gate: Running) -> None:
    update = dns.update.UpdateMessage("good.example")
    response = dns.query.udp(update, "127.0.0.1", timeout=5, port=gate.ports[DNS_UDP])
    assert response.rcode() == dns.rcode.REFUSED
    crowd = dns.message.make_query("good.example", "A")
    crowd.question.append(dns.message.make_query("evil.example", "A").question[0])
    assert dns.query.udp(crowd, "127.0.0.1", timeout=5, port=gate.ports[DNS_UDP]).rcode() == dns.rcode.FORMERR
    reply = dns.message.make_response(dns.message.make_query("good.example", "A")).to_wire()
    assert silent(gate, reply)
    assert gate.world.lookups == []


def test_edns_is_understood(gate: Running) -> None:
    query = dns.message.make_query(
        "good.example",
        "A",
        use_edns=0,
        payload=1232,
        options=[dns.edns.GenericOption(dns.edns.OptionType.COOKIE, b"12345678")],
    )
    response = dns.query.udp(query, "127.0.0.1", timeout=5, port=gate.ports[DNS_UDP])
    assert (response.rcode(), response.edns, len(response.options)) == (dns.rcode.NOERROR, 0, 0)


def test_queries_beyond_the_rate_are_dropped(tmp_path: Path) -> None:
    async def scenario() -> int:
        world = World(names={"good.example": [PUBLIC]})
        server = NameServer(Passages(Rules.parse(["good.example"]), Log(tmp_path / "log"), world))
        wire = dns.message.make_query("good.example", "A").to_wire()
        answers = [await server.answer(wire) for _ in range(2000)]
        assert len(world.lookups) == 2000 - answers.count(None)
        return len(world.lookups)

    assert 300 <= asyncio.run(scenario()) < 1000


def test_a_flood_of_refused_queries_is_slowed_down(gate: Running) -> None:
    wire = dns.message.make_query("evil.example", "A").to_wire()
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
        client.connect(("127.0.0.1", gate.ports[DNS_UDP]))
        for _ in range(3000):
            client.send(wire)
        client.settimeout(0.5)
        answers = 0
        try:
            while client.recv(512):
                answers += 1
        except TimeoutError:
            pass
    assert 0 < answers < 1500
    assert len(gate.rows("refused")) == answers


def test_a_tcp_connection_carries_several_queries_and_half_a_one_ends_it(gate: Running) -> None:
    wire = dns.message.make_query("good.example", "A").to_wire()
    framed = struct.pack("!H", len(wire)) + wire
    with gate.dial(DNS_TCP) as client:
        client.sendall(framed + framed + framed[:5])
        client.shutdown(socket.SHUT_WR)
        data = b""
        while piece := client.recv(4096):
            data += piece
    (length,) = struct.unpack("!H", data[:2])
    assert len(data) == 2 * (2 + length)


def silent(gate: Running, data: bytes) -> bool:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
        client.settimeout(0.2)
        client.sendto(data, ("127.0.0.1", gate.ports[DNS_UDP]))
        try:
            client.recv(512)
        except TimeoutError:
            return True
    return False


WIRE = dns.message.make_query("good.example", "A", use_edns=0, payload=1232).to_wire()
MUTATED = st.lists(st.tuples(st.integers(0, len(WIRE) - 1), st.integers(0, 255)), max_size=6)


@settings(max_examples=200, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.binary(max_size=200), changes=MUTATED)
def test_garbage_does_not_stop_it(gate: Running, data: bytes, changes: list[tuple[int, int]]) -> None:
    mutated = bytearray(WIRE)
    for at, value in changes:
        mutated[at] = value
    names = gate._gate._names
    names._rate._free = 100.0  # what is tried here is the parser
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
        for each in (data, bytes(mutated), WIRE[: len(data)]):
            client.sendto(each, ("127.0.0.1", gate.ports[DNS_UDP]))
    assert ask(gate, "good.example") == (dns.rcode.NOERROR, [PUBLIC])
    assert {name.lower().rstrip(".") for name in gate.world.lookups} <= {"good.example"}
