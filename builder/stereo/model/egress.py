"""What a sandbox may reach: the rules of a jcard's `egress_allow`, and the question whether they allow a connection.

    example.com            this name, on any port           10.0.0.0/8          addresses, on any port
    example.com:443        on one port                      10.0.0.1:8080       one address, one port
    example.com:8000-8100  on a range of ports              [2001:db8::/32]:443 IPv6 takes brackets before a port
    *.example.com          every name below it, at any      host.stereo.internal:PORT
                           depth, but not example.com       this port of the host's loopback

- Without a port a rule means every port. No rule at all means nothing at all.
- A rule for a name says nothing of addresses, nor the other way: whoever connects by address needs a rule for it. Names
  are compared as DNS does: without regard to case, a final dot is no part of them, other scripts in their xn-- form.
- The host's loopback is reached by its own name alone. So no wildcard matches that name, and no rule for addresses
  matches loopback, unspecified, multicast or broadcast ones, however wide it is. Link-local addresses, where clouds
  keep their metadata, are matched only by a rule that lies within them.
- An IPv4 address that is mapped into IPv6 (::ffff:10.0.0.1) is that IPv4 address.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network
from typing import Final

Address = IPv4Address | IPv6Address
Network = IPv4Network | IPv6Network

HOST_NAME: Final = "host.stereo.internal"
"""The guest's name for the host's loopback."""

ANY_PORT: Final = (1, 65535)
_LONGEST_NAME = 253
_LONGEST_RULE = 300
_LABEL = re.compile(r"(?!-)[a-z0-9_-]{1,63}(?<!-)")
_PORTS = re.compile(r"([0-9]{1,5})(?:-([0-9]{1,5}))?")
# Characters that IDNA 2003, which Python knows, turns into others, and IDNA 2008 keeps: they are two different names.
_DEVIATIONS = frozenset("ßẞς\u200c\u200d")
_LINK_LOCAL: tuple[Network, ...] = (IPv4Network("169.254.0.0/16"), IPv6Network("fe80::/10"))
_NEVER: tuple[Network, ...] = (
    *map(IPv4Network, ("0.0.0.0/8", "127.0.0.0/8", "224.0.0.0/4", "255.255.255.255/32")),
    *map(IPv6Network, ("::/128", "::1/128", "ff00::/8")),
)


@dataclass(frozen=True)
class Rule:
    """One line of the list. Either `name` (in xn-- form, without `*.`) or `network` is set; `ports` is inclusive."""

    text: str
    ports: tuple[int, int] = field(compare=False)
    name: str | None = field(default=None, compare=False)
    wildcard: bool = field(default=False, compare=False)
    network: Network | None = field(default=None, compare=False)

    def __str__(self) -> str:
        return self.text

    def matches_name(self, name: str) -> bool:
        """Whether the rule is about `name`, which has been through `normal_name`."""
        if self.name is None:
            return False
        if self.wildcard:
            return name.endswith(f".{self.name}") and name != HOST_NAME
        return name == self.name

    def matches_address(self, address: Address) -> bool:
        """Whether the rule is about `address`."""
        if self.network is None or address not in self.network or any(address in each for each in _NEVER):
            return False
        return all(address not in each or _within(self.network, each) for each in _LINK_LOCAL)

    def matches_port(self, port: int) -> bool:
        """Whether `port` is one of the rule's."""
        return self.ports[0] <= port <= self.ports[1]


def parse_rule(text: str) -> Rule:
    """The rule that `text` says. Raises ValueError with a sentence for whoever wrote it."""
    if len(text) > _LONGEST_RULE:
        raise ValueError(f"longer than any rule ({_LONGEST_RULE} characters)")
    if not text or not text.isprintable() or " " in text:
        raise ValueError("must be a name or an address, with a port if wanted, and without blanks")
    if "://" in text:
        raise ValueError("is an address of the web: give its host alone, such as 'example.com:443'")
    if text.startswith("["):
        inside, bracket, rest = text[1:].partition("]")
        if not bracket or ":" not in inside:
            raise ValueError("brackets hold an IPv6 address, such as '[2001:db8::1]:443'")
        return _address_rule(text, inside, _ports(rest))
    if text.count(":") > 1:
        return _address_rule(text, text, ANY_PORT)
    host, colon, _ = text.partition(":")
    ports = _ports(text[len(host) :])
    if "/" in host or _is_numeric(host):
        return _address_rule(text, host, ports)
    return _name_rule(text, host, ports, has_port=bool(colon))


def _ports(text: str) -> tuple[int, int]:
    """The ports of ':443', ':8000-8100' or ''."""
    if not text:
        return ANY_PORT
    found = _PORTS.fullmatch(text[1:]) if text[0] == ":" else None
    if found is None:
        raise ValueError("a port is written ':443', a range ':8000-8100'")
    first, last = int(found[1]), int(found[2] or found[1])
    if not ANY_PORT[0] <= first <= last <= ANY_PORT[1]:
        raise ValueError("ports are from 1 to 65535, the lower one first")
    return first, last


def _is_numeric(host: str) -> bool:
    """Whether resolvers may take `host` for an IPv4 address: its last label begins with a digit; no domain's does."""
    return host.rstrip(".").rpartition(".")[2][:1].isdigit()


def _address_rule(text: str, host: str, ports: tuple[int, int]) -> Rule:
    if "%" in host:
        raise ValueError("an address here has no zone")
    try:
        network = ip_network(host, strict=False)
    except ValueError:
        raise ValueError("is no IP address and no network such as '10.0.0.0/8'") from None
    if "/" in host and ip_address(host.partition("/")[0]) != network.network_address:
        raise ValueError(f"has bits set beyond its prefix: {network} is the network")
    if isinstance(network, IPv6Network) and (mapped := network.network_address.ipv4_mapped) and network.prefixlen >= 96:
        network = IPv4Network((mapped, network.prefixlen - 96))
    if any(_within(network, each) for each in _NEVER):
        loopback = network.is_loopback or network.is_unspecified
        hint = f"the host's loopback is {HOST_NAME}:PORT" if loopback else "it has no single machine behind it"
        raise ValueError(f"{network} cannot be allowed: {hint}")
    return Rule(text, ports, network=network)


def _name_rule(text: str, host: str, ports: tuple[int, int], *, has_port: bool) -> Rule:
    wildcard = host.startswith("*.")
    name = normal_name(host[2:] if wildcard else host)
    if name is None:
        if host == "*":
            raise ValueError("allows everything: leave egress_allow out instead")
        known = "'example.com' or '*.example.com'"
        raise ValueError(f"is no host name such as {known}; what is not ASCII may be written in its xn-- form")
    if name == "localhost" or name.endswith(".localhost"):
        raise ValueError(f"means the guest itself; the host's loopback is {HOST_NAME}:PORT")
    if name == HOST_NAME and (wildcard or not has_port or ports[0] != ports[1]):
        raise ValueError(f"the host's loopback is opened one port at a time: {HOST_NAME}:PORT")
    return Rule(text, ports, name=name, wildcard=wildcard)


def normal_name(text: str) -> str | None:
    """A host name as it is compared: lower case, xn-- form, no final dot. None for what is no name, or an address."""
    if len(text) > _LONGEST_NAME + 1:
        return None
    name = text.removesuffix(".")
    if not name.isascii():
        if _DEVIATIONS & {*name}:
            return None
        try:
            name = name.encode("idna").decode("ascii")
        except UnicodeError:
            return None
    name = name.lower()
    if len(name) > _LONGEST_NAME or _is_numeric(name) or not all(map(_LABEL.fullmatch, name.split("."))):
        return None
    return name


def as_address(text: str) -> Address | None:
    """The address that `text` is, in brackets or not, IPv4-mapped ones as IPv4. None for anything else."""
    bare = text[1:-1] if text.startswith("[") and text.endswith("]") and ":" in text else text
    if "%" in bare:
        return None
    try:
        return _unmapped(ip_address(bare))
    except ValueError:
        return None


def _unmapped(address: Address) -> Address:
    return (address.ipv4_mapped or address) if isinstance(address, IPv6Address) else address


def _within(inner: Network, outer: Network) -> bool:
    if isinstance(inner, IPv4Network):
        return isinstance(outer, IPv4Network) and inner.subnet_of(outer)
    return isinstance(outer, IPv6Network) and inner.subnet_of(outer)


@dataclass(frozen=True)
class Rules:
    """A whole list. The first rule that allows something is the one that is told."""

    rules: tuple[Rule, ...] = ()

    @classmethod
    def parse(cls, texts: Iterable[str]) -> Rules:
        """Raises ValueError for the first text that is no rule."""
        return cls(tuple(map(parse_rule, texts)))

    @property
    def texts(self) -> tuple[str, ...]:
        """The rules as they were written."""
        return tuple(rule.text for rule in self.rules)

    @property
    def host_ports(self) -> tuple[int, ...]:
        """The ports of the host's loopback that are open, sorted."""
        return tuple(sorted({rule.ports[0] for rule in self.rules if rule.name == HOST_NAME}))

    def allows(self, host: str, port: int) -> Rule | None:
        """The rule by which `host`, a name or address as a client sent it, may be reached on `port`."""
        address = as_address(host)
        if address is not None:
            return self.allows_address(address, port)
        name = normal_name(host)
        if name is None:
            return None
        return next((rule for rule in self.rules if rule.matches_name(name) and rule.matches_port(port)), None)

    def allows_address(self, address: Address | str, port: int) -> Rule | None:
        """The rule by which `address` may be reached on `port` without a name."""
        known = as_address(address) if isinstance(address, str) else _unmapped(address)
        if known is None:
            return None
        return next((rule for rule in self.rules if rule.matches_address(known) and rule.matches_port(port)), None)

    def allows_name(self, host: str) -> Rule | None:
        """A rule that has to do with `host` on some port: whether DNS may answer for it."""
        name = normal_name(host)
        return None if name is None else next((rule for rule in self.rules if rule.matches_name(name)), None)
