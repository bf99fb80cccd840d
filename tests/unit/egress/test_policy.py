"""The decision by itself, for addresses of every kind, and the host's own resolver and addresses."""

from __future__ import annotations

import asyncio
import socket
import time
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from makers.gate import World
from stereo.egress.log import Log, read_log
from stereo.egress.passage import Bucket, Passages
from stereo.egress.policy import HostNetwork, Policy, Refused, Unreachable, rule_for
from stereo.model.egress import Rules

ADDRESSES = st.one_of(st.ip_addresses(v=4), st.ip_addresses(v=6))
INSIDE_4 = "0.0.0.0/8 10.0.0.0/8 100.64.0.0/10 127.0.0.0/8 169.254.0.0/16 172.16.0.0/12 192.168.0.0/16 224.0.0.0/3"
INSIDE_6 = "::/128 ::1/128 ::ffff:0:0/96 fc00::/7 fe80::/10 fec0::/10 ff00::/8"
INSIDE = [ip_network(text) for text in f"{INSIDE_4} {INSIDE_6}".split(" ")]


def policy(*rules: str, **world: set[str]) -> Policy:
    return Policy(Rules.parse(rules), World(**world))  # type: ignore[arg-type]


@given(address=ADDRESSES)
@example(address=ip_address("64:ff9b::169.254.169.254"))
@example(address=ip_address("2002:c0a8:101::1"))
def test_a_name_never_leads_inside(address: IPv4Address | IPv6Address) -> None:
    if policy("a.example").permits("a.example", 443, address):
        carried = {
            address,
            getattr(address, "sixtofour", None) or address,
            getattr(address, "ipv4_mapped", None) or address,
        }
        assert not any(each in network for each in carried for network in INSIDE)


@given(address=ADDRESSES)
def test_no_name_is_needed_where_a_rule_is_for_addresses_and_one_is_where_it_is_not(
    address: IPv4Address | IPv6Address,
) -> None:
    assert not policy("a.example").permits(str(address), 443, address)
    assert not policy("a.example", "0.0.0.0/0:443", "[::/0]:443").permits(str(address), 80, address)


@given(address=ADDRESSES)
def test_the_widest_rules_do_not_open_loopback_or_metadata(address: IPv4Address | IPv6Address) -> None:
    wide = policy("0.0.0.0/0", "::/0", "a.example")
    for each in (address, ip_address("127.0.0.1"), ip_address("::1"), ip_address("169.254.169.254")):
        for asked in (str(each), "a.example"):
            if wide.permits(asked, 80, each):
                assert not any((each.is_loopback, each.is_link_local, each.is_multicast, each.is_unspecified))


def test_the_hosts_own_addresses_take_a_rule_for_them() -> None:
    address, own = ip_address("93.184.216.34"), {"93.184.216.34"}
    assert not policy("a.example", own=own).permits("a.example", 80, address)
    assert policy("a.example", "93.184.216.34:80", own=own).permits("a.example", 80, address)
    assert not policy("a.example", "93.184.216.34:81", own=own).permits("a.example", 80, address)


@pytest.mark.parametrize(
    ("host", "port", "rule"),
    [
        ("a.example", 443, "a.example:443"),
        ("10.0.0.1", 80, "10.0.0.1:80"),
        ("fd00::1", 80, "[fd00::1]:80"),
        ("127.0.0.1", 80, "host.stereo.internal:80"),
        ("::1", 80, "host.stereo.internal:80"),
        ("localhost", 80, "host.stereo.internal:80"),
        ("224.0.0.1", 80, None),
        ("0.0.0.0", 80, None),
    ],
)
def test_what_is_advised_is_a_rule_that_can_be_written(host: str, port: int, rule: str | None) -> None:
    assert rule_for(host, port) == rule


def test_the_resolver_and_the_addresses_of_this_host() -> None:
    async def scenario() -> None:
        network = HostNetwork()
        assert ip_address("127.0.0.1") in await network.lookup("localhost")
        with pytest.raises(Unreachable):
            await network.lookup("none.invalid")
        with pytest.raises(Refused):
            await Policy(Rules.parse(["*.example"]), network).way("localhost", 80)

    asyncio.run(scenario())
    network = HostNetwork()
    assert network.is_own(ip_address("127.0.0.1"))
    assert not network.is_own(ip_address("192.0.2.1"))
    assert not network.is_own(ip_address("2001:db8::1"))
    for family, *_, address in socket.getaddrinfo(socket.gethostname(), None):
        if family in (socket.AF_INET, socket.AF_INET6):
            assert network.is_own(ip_address(str(address[0]).partition("%")[0]))


def test_refusals_wait_for_their_turn_so_that_they_do_not_fill_the_log(tmp_path: Path) -> None:
    async def scenario() -> float:
        passages = Passages(Rules(), Log(tmp_path / "log"), World())
        passages._refusals = Bucket(rate=20, burst=1)
        began = time.monotonic()
        await asyncio.gather(*(passages.refuse("http", "a.example", 80, "no rule") for _ in range(5)))
        return time.monotonic() - began

    assert asyncio.run(scenario()) > 0.18
    assert len(list(read_log(tmp_path / "log"))) == 5
