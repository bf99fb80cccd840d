"""A machine's network card, seen from outside: who carries its frames, and what that lets the guest reach.

QEMU itself has no network (see `enclosure`). With NAT, passt in the host's network carries the frames over a socket
pair: it needs no privileges, opens ordinary sockets for the guest, and never one to the host's loopback. On a bridge,
the kernel does, by a tap device that lives as long as somebody holds its descriptor.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import socket
import struct
import sys
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from stereo.errors import StereoError
from stereo.vm.machine import GATEWAY, GUEST, RESOLVER, Bridged, Forward

# linux/if_tun.h, linux/sockios.h
_TUNSETIFF, _IFF_TAP, _IFF_NO_PI, _IFF_VNET_HDR = 0x400454CA, 0x0002, 0x1000, 0x4000
_SIOCGIFFLAGS, _SIOCSIFFLAGS, _SIOCGIFINDEX, _SIOCBRADDIF = 0x8913, 0x8914, 0x8933, 0x89A2
_IFF_UP = 1
_LONGEST_NAME = 15
_NAT_HINT = 'use the network "nat"'


def passt_arguments(descriptor: int, forwards: Sequence[Forward]) -> list[str]:
    """The arguments that follow passt's own argv prefix, with the socket to QEMU. See passt(1).

    IPv4 alone, and no address of the guest's leads to the host's loopback, where people keep what is not for others.
    """
    return [
        *("--foreground", "--quiet", "--fd", str(descriptor), "--ipv4-only"),
        *("--address", GUEST, "--netmask", "24", "--gateway", GATEWAY),
        *("--dns", RESOLVER, "--dns-forward", RESOLVER, "--search", "none"),
        *("--no-map-gw", "--map-host-loopback", "none", "--map-guest-addr", "none"),
        *("--tcp-ports", _ports(forwards, "tcp"), "--udp-ports", _ports(forwards, "udp")),
    ]


def _ports(forwards: Sequence[Forward], protocol: str) -> str:
    words = [f"{each.host}:{each.guest}" for each in forwards if each.protocol == protocol]
    return f"127.0.0.1/{','.join(words)}" if words else "none"


def open_tap(network: Bridged) -> int:
    """A new tap device on the bridge, as a descriptor for QEMU. Raises StereoError where that cannot work."""
    where = f"bridge {network.bridge}"
    if sys.platform != "linux":
        raise StereoError("bridged networks need Linux", where=where, hint=_NAT_HINT)
    if not 0 < len(os.fsencode(network.bridge)) <= _LONGEST_NAME or "/" in network.bridge:
        raise StereoError("this is no name of a network interface", where=where)
    if not Path("/sys/class/net", network.bridge, "bridge").is_dir():
        there = sorted(path.parent.name for path in Path("/sys/class/net").glob("*/bridge"))
        raise StereoError(
            "there is no such bridge", where=where, hint=f"there {'is ' + ', '.join(there) if there else 'is none'}"
        )
    try:
        tap = os.open("/dev/net/tun", os.O_RDWR | os.O_CLOEXEC)
        try:
            request = struct.pack("16sH22x", b"stereo%d", _IFF_TAP | _IFF_NO_PI | _IFF_VNET_HDR)
            name = struct.unpack("16sH22x", fcntl.ioctl(tap, _TUNSETIFF, request))[0]
            _join(name, network.bridge)
        except BaseException:
            os.close(tap)
            raise
    except OSError as error:
        raise StereoError(
            f"a machine cannot join it: {error.strerror}",
            where=where,
            hint=f"it takes root, or CAP_NET_ADMIN and /dev/net/tun; or {_NAT_HINT}",
        ) from error
    os.set_blocking(tap, False)
    return tap


def _join(tap: bytes, bridge: str) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        index = struct.unpack("16si20x", fcntl.ioctl(sock, _SIOCGIFINDEX, struct.pack("16si20x", tap, 0)))[1]
        fcntl.ioctl(sock, _SIOCBRADDIF, struct.pack("16si20x", os.fsencode(bridge), index))
        flags = struct.unpack("16sh22x", fcntl.ioctl(sock, _SIOCGIFFLAGS, struct.pack("16sh22x", tap, 0)))[1]
        fcntl.ioctl(sock, _SIOCSIFFLAGS, struct.pack("16sh22x", tap, flags | _IFF_UP))


def mac_address(place: Path) -> str:
    """Of the machine whose files are at `place`: the same at each start, and no neighbour's on the same bridge."""
    host = b""
    with suppress(OSError):
        host = Path("/etc/machine-id").read_bytes()
    last = hashlib.sha256(host + os.fsencode(place)).digest()[:3]
    return "52:54:00:" + last.hex(":")
