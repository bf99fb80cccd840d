"""Egress rules: what each form means, what is refused, and that nothing slips by in another spelling."""

from __future__ import annotations

import re
from ipaddress import IPv4Address, IPv6Address, ip_network

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stereo.model.egress import HOST_NAME, Rules, as_address, normal_name, parse_rule

LABELS = st.from_regex(r"[a-z]([a-z0-9-]{0,8}[a-z0-9])?", fullmatch=True)
NAMES = st.lists(LABELS, min_size=1, max_size=4).map(lambda labels: ".".join([*labels, "example"]))
PORTS = st.integers(1, 65535)


@pytest.mark.parametrize(
    ("rule", "allowed", "refused"),
    [
        ("example.com", [("example.com", 443), ("EXAMPLE.com.", 1)], [("a.example.com", 443), ("example.org", 443)]),
        ("example.com:443", [("example.com", 443)], [("example.com", 80), ("example.com", 4430)]),
        ("example.com:80-90", [("example.com", 80), ("example.com", 90)], [("example.com", 79), ("example.com", 91)]),
        ("*.example.com", [("a.example.com", 1), ("b.a.example.com", 2)], [("example.com", 1), ("xexample.com", 1)]),
        ("*.example.com:443", [("a.example.com", 443)], [("a.example.com", 80)]),
        ("bücher.example", [("xn--bcher-kva.example", 1), ("BÜCHER.example", 1)], [("bucher.example", 1)]),
        ("registry", [("registry", 5000)], [("registry.example.com", 5000)]),
        (f"{HOST_NAME}:8080", [(HOST_NAME, 8080)], [(HOST_NAME, 8081), ("127.0.0.1", 8080), ("localhost", 8080)]),
        ("*.internal", [("a.internal", 1)], [(HOST_NAME, 1)]),
        ("*.stereo.internal", [("a.stereo.internal", 1)], [(HOST_NAME, 1)]),
    ],
)
def test_a_rule_for_a_name(rule: str, allowed: list[tuple[str, int]], refused: list[tuple[str, int]]) -> None:
    rules = Rules.parse([rule])
    assert all(str(rules.allows(*each)) == rule for each in allowed)
    assert not any(rules.allows(*each) for each in refused)


@pytest.mark.parametrize(
    ("rule", "allowed", "refused"),
    [
        ("10.0.0.0/8", [("10.1.2.3", 1), ("::ffff:10.1.2.3", 1), ("[::ffff:10.0.0.1]", 9)], [("11.0.0.0", 1)]),
        ("10.0.0.1:8080", [("10.0.0.1", 8080)], [("10.0.0.1", 80), ("10.0.0.2", 8080)]),
        ("10.0.0.1", [("10.0.0.1", 1)], [("010.0.0.1", 1), ("10.1", 1), ("167772161", 1), ("0xa000001", 1)]),
        ("2001:db8::1", [("2001:db8::1", 1), ("[2001:DB8:0::1]", 2)], [("2001:db8::2", 1), ("2001:db8::1%eth0", 1)]),
        ("[2001:db8::/32]:443", [("2001:db8:9::", 443)], [("2001:db8:9::", 80), ("2001:db9::", 443)]),
        ("::ffff:10.0.0.0/104", [("10.9.9.9", 1)], [("11.0.0.1", 1)]),
        ("0.0.0.0/0", [("8.8.8.8", 53)], [("127.0.0.1", 1), ("0.0.0.0", 1), ("169.254.169.254", 80), ("224.0.0.1", 1)]),
        ("::/0", [("2001:db8::1", 53)], [("::1", 1), ("::", 1), ("fe80::1", 80), ("ff02::1", 1), ("::ffff:7f00:1", 1)]),
        ("::ffff:0:0/96", [("8.8.8.8", 1)], [("127.9.9.9", 1), ("::ffff:127.0.0.1", 1)]),
        ("169.254.169.254:80", [("169.254.169.254", 80)], [("169.254.169.253", 80)]),
    ],
)
def test_a_rule_for_addresses(rule: str, allowed: list[tuple[str, int]], refused: list[tuple[str, int]]) -> None:
    rules = Rules.parse([rule])
    for address, port in allowed:
        assert str(rules.allows_address(address, port)) == rule
        assert str(rules.allows(address, port)) == rule
    for address, port in refused:
        assert rules.allows_address(address, port) is None
        assert rules.allows(address, port) is None


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "must be a name or an address"),
        ("a b", "without blanks"),
        ("a\n", "without blanks"),
        ("*", "leave egress_allow out"),
        ("*:443", "leave egress_allow out"),
        ("*.*.example.com", "no host name"),
        ("a.*.com", "no host name"),
        ("https://example.com", "give its host alone"),
        ("example.com/path", "no network"),
        ("example.com:", "a port is written"),
        ("example.com:https", "a port is written"),
        ("example.com:0", "from 1 to 65535"),
        ("example.com:65536", "from 1 to 65535"),
        ("example.com:90-80", "the lower one first"),
        ("-a.example", "no host name"),
        ("a..example", "no host name"),
        (f"{'a' * 64}.example", "no host name"),
        ("straße.example", "no host name"),
        ("user@example.com", "no host name"),
        ("localhost", HOST_NAME),
        ("a.localhost:80", HOST_NAME),
        (HOST_NAME, "one port at a time"),
        (f"{HOST_NAME}:80-81", "one port at a time"),
        (f"*.{HOST_NAME}", "one port at a time"),
        ("10.0.0.1/8", "10.0.0.0/8 is the network"),
        ("10.0.0.0/33", "no network"),
        ("10.0.0.256", "no IP address"),
        ("127.1", "no IP address"),
        ("1.2.3.4.5", "no IP address"),
        ("127.0.0.1:80", HOST_NAME),
        ("127.0.0.0/8", HOST_NAME),
        ("[::1]:80", HOST_NAME),
        ("::ffff:127.0.0.1", HOST_NAME),
        ("0.0.0.0", HOST_NAME),
        ("224.0.0.0/4", "no single machine"),
        ("255.255.255.255", "no single machine"),
        ("fe80::1%eth0", "no zone"),
        ("[10.0.0.1]:80", "brackets hold an IPv6"),
        ("[2001:db8::1", "brackets hold an IPv6"),
        ("[2001:db8::1]443", "a port is written"),
        ("a:b:c", "no IP address"),
        ("a" * 400, "longer than any rule"),
    ],
)
def test_what_is_no_rule_is_refused_with_a_reason(text: str, message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        parse_rule(text)


def test_no_rules_allow_nothing() -> None:
    rules = Rules()
    assert not rules.allows("example.com", 443)
    assert not rules.allows_address("8.8.8.8", 53)
    assert not rules.allows_name("example.com")


def test_the_ports_of_the_host_that_are_open_are_known() -> None:
    rules = Rules.parse(["example.com:1", f"{HOST_NAME}:90", f"{HOST_NAME}:80", f"{HOST_NAME.upper()}:80"])
    assert rules.host_ports == (80, 90)


def test_dns_answers_for_names_that_have_a_rule_on_some_port() -> None:
    rules = Rules.parse(["example.com:443", "*.example.org", "10.0.0.0/8"])
    assert rules.allows_name("example.com.")
    assert rules.allows_name("a.example.org")
    assert not rules.allows_name("example.org")
    assert not rules.allows_name("secret.example.com")
    assert not rules.allows_name("10.0.0.1")


@given(st.text(max_size=80))
def test_any_text_is_a_rule_or_refused(text: str) -> None:
    try:
        rule = parse_rule(text)
    except ValueError:
        return
    assert (rule.name is None) != (rule.network is None)
    assert parse_rule(rule.text) == rule


@pytest.mark.parametrize(
    "text", ["10.0.0.1", "1.2.3", "a.1", "a.0x7f", "1", "", ".", "a..b", "[::1]", "a b", "x" * 300]
)
def test_what_a_resolver_might_take_for_an_address_is_no_name(text: str) -> None:
    assert normal_name(text) is None


@given(st.text(max_size=80), PORTS)
def test_any_host_is_answered(host: str, port: int) -> None:
    rules = Rules.parse(["*.example", "0.0.0.0/0", "::/0"])
    rules.allows(host, port)
    assert not (normal_name(host) and as_address(host)), "nothing is a name and an address"


@given(NAMES, LABELS, PORTS)
def test_a_wildcard_allows_what_is_below_and_nothing_else(name: str, label: str, port: int) -> None:
    rules = Rules.parse([f"*.{name}"])
    assert rules.allows(f"{label}.{name}", port)
    assert rules.allows(f"{label}.{label}.{name.upper()}.", port)
    assert not rules.allows(name, port)
    assert not rules.allows(f"{label}{name}", port)
    assert not rules.allows(f"{label}.{name}.{label}", port)


@given(NAMES, PORTS, PORTS)
def test_a_port_is_that_port(name: str, one: int, other: int) -> None:
    assert bool(Rules.parse([f"{name}:{one}"]).allows(name, other)) == (one == other)


@given(st.integers(8, 32), st.ip_addresses(v=4), st.ip_addresses(v=4), PORTS)
def test_a_network_is_its_addresses(bits: int, base: IPv4Address, other: IPv4Address, port: int) -> None:
    network = ip_network((base, bits), strict=False)
    try:
        rules = Rules.parse([str(network)])
    except ValueError:
        return  # loopback and its kin
    found = rules.allows_address(other, port)
    assert other in network or not found
    assert bool(rules.allows_address(IPv6Address(f"::ffff:{other}"), port)) == bool(found)


@given(st.sampled_from(["0.0.0.0/0", "::/0", "::ffff:0:0/96", "64.0.0.0/2"]), st.integers(0, 2**24 - 1), PORTS)
def test_no_network_however_wide_has_the_loopback(rule: str, low: int, port: int) -> None:
    rules = Rules.parse([rule])
    loopback = IPv4Address((127 << 24) + low)
    assert not rules.allows_address(loopback, port)
    assert not rules.allows(f"::ffff:{loopback}", port)
