"""Gives the machine's network card the address that its hypervisor has for it, without asking by DHCP first; and a
machine without a card the address at which it looks for its gateway.

A hypervisor's own network knows one guest, always by the same address; finding that out by DHCP costs an emulated
machine seconds, in which agents could not start. networkd still asks, and finds what it would have set; see
systemd.network(5), KeepConfiguration=. The requests are those of netdevice(7) and route(8).
"""

from __future__ import annotations

import _socket
import posix

_SIOCADDRT, _SIOCGIFFLAGS, _SIOCSIFFLAGS, _SIOCSIFADDR, _SIOCSIFNETMASK = 0x890B, 0x8913, 0x8914, 0x8916, 0x891C
_IFF_UP = 1
_RTF_UP, _RTF_GATEWAY = 1, 2
_EEXIST = 17
_IFREQ = 40  # bytes, both structures in their 64-bit layout
_RTENTRY = 120
_RT_FLAGS = 56


def card(root: str = "") -> str:
    """The name of the first network card. Raises OSError if there is none."""
    folder = root + "/sys/class/net"
    for name in sorted(posix.listdir(folder)):
        try:
            posix.stat(f"{folder}/{name}/device")  # what is only software has none
        except OSError:
            continue
        return name
    raise OSError("no network card")


def configure(name: str, address: str, prefix: int, gateway: str) -> None:
    """Set the IPv4 address and the default route of the card `name`, and bring it up. Raises OSError."""
    from fcntl import ioctl as request

    sock = _socket.socket(_socket.AF_INET, _socket.SOCK_DGRAM | _socket.SOCK_CLOEXEC)
    try:
        head = _give(sock, name, address, prefix)
        told = request(sock.fileno(), _SIOCGIFFLAGS, head.ljust(_IFREQ, b"\0"))
        flags = _IFF_UP | int.from_bytes(told[16:18], "little")
        request(sock.fileno(), _SIOCSIFFLAGS, (head + flags.to_bytes(2, "little")).ljust(_IFREQ, b"\0"))
        nowhere = _sockaddr(bytes(4))
        route = bytearray(bytes(8) + nowhere + _sockaddr(_socket.inet_aton(gateway)) + nowhere)
        route += bytes(_RTENTRY - len(route))
        route[_RT_FLAGS : _RT_FLAGS + 2] = (_RTF_UP | _RTF_GATEWAY).to_bytes(2, "little")
        try:
            request(sock.fileno(), _SIOCADDRT, bytes(route))
        except OSError as error:
            if error.errno != _EEXIST:  # it is there from before
                raise
    finally:
        sock.close()


def add_to_loopback(address: str) -> None:
    """Let the machine itself have an IPv4 address, beside those of its loopback. Raises OSError."""
    sock = _socket.socket(_socket.AF_INET, _socket.SOCK_DGRAM | _socket.SOCK_CLOEXEC)
    try:
        _give(sock, "lo:gateway", address, 32)  # with a label of its own, so that 127.0.0.1 stays; see netdevice(7)
    finally:
        sock.close()


def _give(sock: _socket.socket, name: str, address: str, prefix: int) -> bytes:
    """Set address and netmask; returns the name as a struct ifreq begins with it. Raises OSError."""
    from fcntl import ioctl as request

    mask = ((1 << 32) - (1 << (32 - prefix))).to_bytes(4, "big")
    head = name.encode().ljust(16, b"\0")
    for number, value in ((_SIOCSIFADDR, _socket.inet_aton(address)), (_SIOCSIFNETMASK, mask)):
        request(sock.fileno(), number, (head + _sockaddr(value)).ljust(_IFREQ, b"\0"))
    return head


def _sockaddr(address: bytes) -> bytes:
    """A struct sockaddr_in, see ip(7)."""
    return int(_socket.AF_INET).to_bytes(2, "little") + bytes(2) + address + bytes(8)
