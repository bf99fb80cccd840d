"""What a guest may reach, decided on the very address that is connected to.

The rules of a jcard speak of names and addresses (`model.egress`). A name that is allowed may still lead anywhere: who
owns it decides, and may decide anew for each lookup (DNS rebinding). So the addresses of an allowed name count only if
they are public, or if a rule for addresses allows them besides; the host's own addresses are not public. An address in
which another is embedded (NAT64, 6to4 and their like) must pass for both.
"""

from __future__ import annotations

import asyncio
import encodings.idna  # noqa: F401 - getaddrinfo wants it, when there may be no right to read modules any more
import errno
import socket
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address, IPv6Network
from typing import Final, Protocol

from stereo.model.egress import HOST_NAME, Address, Rule, Rules, as_address, normal_name, parse_rule

LOOPBACK: Final = IPv4Address("127.0.0.1")
GUESTS_NAME_FOR_US: Final = IPv4Address("10.0.2.2")
"""Where QEMU's network has the gate, as seen from the guest."""

_LOOKUPS = 16  # at once
_LOOKUP_SECONDS = 10
_CONNECT_SECONDS = 15
_MOST_ADDRESSES = 8  # tried, or told, of one name
_NAT64 = IPv6Network("64:ff9b::/96")
_IPV4_COMPATIBLE = IPv6Network("::/96")
_NO_SUCH_NAME = {socket.EAI_NONAME, getattr(socket, "EAI_NODATA", socket.EAI_NONAME)}


class Refused(Exception):  # noqa: N818 - reads as what happened
    """The rules do not allow it. `reason` is a clause; `add` is what `egress_allow` would need, if anything helps."""

    def __init__(self, reason: str, add: str | None = None) -> None:
        super().__init__(reason)
        self.reason = reason
        self.add = add


class Unreachable(Exception):  # noqa: N818 - reads as what happened
    """It is allowed, and cannot be looked up or connected to. `missing`: the name does not exist."""

    def __init__(self, reason: str, *, missing: bool = False) -> None:
        super().__init__(reason)
        self.reason = reason
        self.missing = missing


@dataclass(frozen=True)
class Way:
    """Leave to connect to one of `addresses` on `port`, asked for as `host`."""

    host: str
    port: int
    addresses: tuple[Address, ...]
    rule: Rule


class Outside(Protocol):
    """The network that the gate lives in."""

    async def lookup(self, name: str) -> Sequence[Address]:
        """The addresses of a name. Raises Unreachable."""

    def is_own(self, address: Address) -> bool:
        """Whether the address is one of this host's."""

    async def connect(self, address: Address, port: int) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """Connect by TCP. Raises OSError, TimeoutError among them."""


class HostNetwork:
    """The host's resolver, addresses and sockets."""

    def __init__(self) -> None:
        self._threads = ThreadPoolExecutor(_LOOKUPS, "lookup")

    async def lookup(self, name: str) -> Sequence[Address]:
        def look_up() -> list[str]:
            found = socket.getaddrinfo(name, None, type=socket.SOCK_STREAM)
            return [str(address[0]) for family, *_, address in found if family in (socket.AF_INET, socket.AF_INET6)]

        try:
            async with asyncio.timeout(_LOOKUP_SECONDS):
                texts = await asyncio.get_running_loop().run_in_executor(self._threads, look_up)
        except socket.gaierror as error:
            raise Unreachable(
                f"looking it up failed: {error.strerror}", missing=error.errno in _NO_SUCH_NAME
            ) from error
        except UnicodeError as error:
            raise Unreachable("the host's resolver takes it for no name", missing=True) from error
        except TimeoutError as error:
            raise Unreachable(f"looking it up took longer than {_LOOKUP_SECONDS} s") from error
        return [address for text in dict.fromkeys(texts) if (address := as_address(text)) is not None]

    def is_own(self, address: Address) -> bool:
        """A socket can be bound to our own addresses alone, whatever interface has them, see ip(7)."""
        family = socket.AF_INET if isinstance(address, IPv4Address) else socket.AF_INET6
        try:
            with socket.socket(family, socket.SOCK_DGRAM) as probe:
                probe.bind((str(address), 0))
        except OSError as error:
            return error.errno not in (errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT)
        return True

    async def connect(self, address: Address, port: int) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        async with asyncio.timeout(_CONNECT_SECONDS):
            return await asyncio.open_connection(str(address), port)


class Policy:
    """The rules in force, and the network that they are about."""

    def __init__(self, rules: Rules, outside: Outside) -> None:
        self.rules = rules
        self.outside = outside

    async def way(self, host: str, port: int) -> Way:
        """How to reach `host`, a name or address as the guest sent it. Raises Refused and Unreachable."""
        address, name = as_address(host), normal_name(host)
        if address is None and name is None:
            raise Refused("it is neither a host name nor an address in its usual form")
        shown = name or str(address)
        if self.rules.allows(host, port) is None:
            raise Refused("no rule of egress_allow names it", rule_for(shown, port))
        if name == HOST_NAME:
            found: Sequence[Address] = (LOOPBACK,)
        else:
            found = (address,) if address is not None else await self.outside.lookup(shown)
        if not found:
            raise Unreachable("it has no address", missing=True)
        # The rules may have been replaced while the lookup went on: those of now decide.
        rule = self.rules.allows(host, port)
        good = tuple(each for each in found if self.permits(host, port, each))
        if rule is None or not good:
            raise Refused(f"it leads to {found[0]}, which is not a public address", rule_for(str(found[0]), port))
        return Way(shown, port, good[:_MOST_ADDRESSES], rule)

    def permits(self, host: str, port: int, address: Address) -> bool:
        """Whether the rules of now allow `address` to be connected to for `host`."""
        if self.rules.allows(host, port) is None:
            return False
        if normal_name(host) == HOST_NAME:
            return address == LOOPBACK
        return all(self._is_open(each, port) for each in _meanings(address))

    def _is_open(self, address: Address, port: int | None) -> bool:
        """Whether an address is public, or a rule allows it on `port` (None: on any)."""
        if any(
            rule.matches_address(address) and (port is None or rule.matches_port(port)) for rule in self.rules.rules
        ):
            return True
        return _is_public(address) and not self.outside.is_own(address)

    async def answer(self, name: str) -> tuple[Address, ...]:
        """The addresses that the guest may be told for a name. Raises Refused and Unreachable."""
        known = normal_name(name)
        if known is None or self.rules.allows_name(name) is None:
            raise Refused("no rule of egress_allow names it", known)
        if known == HOST_NAME:
            return (GUESTS_NAME_FOR_US,)
        found = await self.outside.lookup(known)
        good = [each for each in found if all(self._is_open(part, None) for part in _meanings(each))]
        if self.rules.allows_name(name) is None or (found and not good):
            raise Refused("it leads to addresses that are not public")
        return tuple(good[:_MOST_ADDRESSES])


def rule_for(host: str, port: int) -> str | None:
    """What `egress_allow` needs for it; None where no rule can help."""
    address = as_address(host)
    if host == "localhost" or (address is not None and address.is_loopback):
        host = HOST_NAME
    text = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
    try:
        return parse_rule(text).text
    except ValueError:
        return None


def _is_public(address: Address) -> bool:
    """Whether anyone on the Internet may have it. See the special-purpose registries, RFC 6890."""
    if isinstance(address, IPv6Address) and address.is_site_local:
        return False
    return address.is_global and not (address.is_multicast or address.is_reserved)


def _meanings(address: Address) -> Iterator[Address]:
    """An address, and the one that it carries inside: RFC 6052, RFC 3056, RFC 4380."""
    yield address
    if isinstance(address, IPv4Address):
        return
    if address in _NAT64 or address in _IPV4_COMPATIBLE:
        yield IPv4Address(int(address) & 0xFFFFFFFF)
    if address.sixtofour is not None:
        yield address.sixtofour
    if address.teredo is not None:
        yield from address.teredo
