"""What the host decides of the network: the machine's address, who is asked for names, fixed names, a proxy, and for a
machine without a card, what it reaches of the host by vsock (`gateway`)."""

from __future__ import annotations

import _socket

from stereos_guest import fields, files, interface, protocol
from stereos_guest.protocol import ProtocolError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any

RESOLVERS = "/etc/resolv.conf"
HOSTS = "/etc/hosts"
AGENT_ENVIRONMENT = "/run/stereos/agent.env"
GATEWAY = "/run/stereos/gateway"
"""The gateway's arguments, for its unit to read: it is started by a host who wants it, and never by itself."""
_SYSTEMCTL, _UNIT = "/usr/bin/systemctl", "stereos-gateway.service"
_MARK = "# From the host, by set_network:\n"
_MOST_NAMESERVERS = 3  # resolv.conf(5)
_MOST_HOSTS = 1000
_MOST_PORTS = 1000
_NAME_LETTERS = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789.-_")


def set_network(root: str, body: Mapping[str, Any]) -> list[str]:
    """Write the three files below `root`, all or, if anything is wrong, none; then set the address, if one is given.

    Returns the command that has to succeed before the network is as the host wants it, or nothing.
    Raises ProtocolError, OSError.
    """
    nameservers = protocol.field(body, "nameservers", None) or []
    if not isinstance(nameservers, list) or len(nameservers) > _MOST_NAMESERVERS:
        raise ProtocolError(f"nameservers is not a list of up to {_MOST_NAMESERVERS} addresses")
    resolvers = "".join(f"nameserver {_address(server)}\n" for server in nameservers)
    names = protocol.field(body, "hosts", None) or {}
    if not isinstance(names, dict) or len(names) > _MOST_HOSTS:
        raise ProtocolError("hosts is not a table of names and addresses")
    rows = "".join(f"{_address(address)} {_name(name)}\n" for name, address in names.items())
    proxy, no_proxy = _plain(body, "proxy"), _plain(body, "no_proxy")
    if proxy and not proxy.startswith("http://"):
        raise ProtocolError("proxy is not an http:// address")
    variables = {"HTTP_PROXY": proxy, "HTTPS_PROXY": proxy, "NO_PROXY": no_proxy}
    environment = "".join(
        f"{spelling}={value}\n" for name, value in variables.items() if value for spelling in (name, name.lower())
    )
    ports = _vsock_ports(body)
    own = None if ports else _own_address(body)
    gateway = _ipv4(fields.word(body, "gateway", 50)) if ports else ""
    image = files.read(root + HOSTS).partition(_MARK)[0]
    files.replace(root + RESOLVERS, resolvers.encode(), 0o644)
    files.replace(root + HOSTS, (image + (_MARK + rows if rows else "")).encode(), 0o644)
    files.replace(root + AGENT_ENVIRONMENT, environment.encode(), 0o644)
    if own:
        interface.configure(interface.card(root), *own)
    return _gateway_at(root, gateway, ports) if ports else []


def _gateway_at(root: str, address: str, ports: list[int]) -> list[str]:
    """Give the machine the address of its gateway; returns what starts that, or starts it anew for other ports."""
    words = f"WORDS={' '.join([address, *map(str, ports)])}\n"
    try:
        same = files.read(root + GATEWAY) == words
    except FileNotFoundError:
        same = False
    files.replace(root + GATEWAY, words.encode(), 0o600)
    interface.add_to_loopback(address)
    return [_SYSTEMCTL, "start" if same else "restart", _UNIT]


def _vsock_ports(body: Mapping[str, Any]) -> list[int]:
    """The ports of the host's vsock that its guest reaches at `gateway`. Raises ProtocolError."""
    ports = protocol.field(body, "vsock_ports", None) or []
    if not isinstance(ports, list) or len(ports) > _MOST_PORTS:
        raise ProtocolError(f"vsock_ports is not a list of up to {_MOST_PORTS} ports")
    if any(isinstance(port, bool) or not isinstance(port, int) or not 0 < port < 1 << 16 for port in ports):
        raise ProtocolError("vsock_ports has what is no port")
    if ports and fields.word(body, "address", 50):
        raise ProtocolError("a machine has an address, or vsock_ports")
    return sorted(set(ports))


def _own_address(body: Mapping[str, Any]) -> tuple[str, int, str] | None:
    """Address, prefix length and gateway, all IPv4; None where the host leaves it to DHCP. Raises ProtocolError."""
    address, slash, prefix = fields.word(body, "address", 50).partition("/")
    gateway = fields.word(body, "gateway", 50)
    if not address and not gateway:
        return None
    if not slash or not prefix.isascii() or not prefix.isdigit() or not 1 <= int(prefix) <= 30:
        raise ProtocolError("address is not an IPv4 address with the length of its prefix, as 10.0.2.15/24")
    return _ipv4(address), int(prefix), _ipv4(gateway)


def _ipv4(address: str) -> str:
    try:
        return _socket.inet_ntop(_socket.AF_INET, _socket.inet_pton(_socket.AF_INET, address))
    except (OSError, ValueError):
        raise ProtocolError("address and gateway are IPv4 addresses, and go together") from None


def _address(value: Any) -> str:
    for family in (_socket.AF_INET, _socket.AF_INET6):
        try:
            return _socket.inet_ntop(family, _socket.inet_pton(family, value))
        except (OSError, TypeError, ValueError):
            continue
    raise ProtocolError("an address that is none of IPv4 or IPv6")


def _name(value: str) -> str:
    if not value or len(value) > 253 or not _NAME_LETTERS.issuperset(value):
        raise ProtocolError("hosts has a name that is not a host's")
    return value


def _plain(body: Mapping[str, Any], name: str) -> str:
    """Text that an environment file holds without quotes. Raises ProtocolError."""
    value = fields.word(body, name)
    if any(letter in " \"'\\$`" for letter in value) or not value.isascii():
        raise ProtocolError(f"{name} has characters that it must not have")
    return value
