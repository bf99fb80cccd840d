"""Runs inside a sandbox, as root, and tries to get out: by every way that we know, with all that root may do there.

`stereo exec` runs it with one argument, a JSON object: ports of the host, and how far to go. It judges nothing: what
ought to be is written in test_egress.py.
"""

from __future__ import annotations

import json
import os
import random
import socket
import struct
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any

GATEWAY = "10.0.2.2"
JOB: dict[str, Any] = json.loads(sys.argv[1])
ALLOWED, SHUT = JOB["allowed"], JOB["shut"]
PATIENCE = 6  # seconds; a refusal takes a moment where all is emulated
Answers = dict[str, str]


def tcp(address: str, port: int, source: str = "") -> str:
    """What whoever listens there says, or why nobody does."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    try:
        with socket.socket(family, socket.SOCK_STREAM) as there:
            there.settimeout(PATIENCE)
            if source:
                there.bind((source, 0))
            there.connect((address, port))
            return f"connected: {there.recv(100).decode(errors='replace')}"
    except OSError as error:
        return str(error.strerror or error)


def udp(address: str, port: int, words: bytes = b"knock") -> str:
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    try:
        with socket.socket(family, socket.SOCK_DGRAM) as there:
            there.settimeout(PATIENCE)
            there.sendto(words, (address, port))
            return f"answered: {there.recvfrom(2000)[0][:100].hex()}"
    except OSError as error:
        return str(error.strerror or error)


def proxied(request: str, more: bytes = b"") -> str:
    """The proxy's answer to a request, head and body."""
    try:
        with socket.create_connection((GATEWAY, 3128), 10) as proxy:
            proxy.sendall(request.replace("\n", "\r\n").encode() + more)
            found = b""
            with suppress(TimeoutError):  # whoever is reached may keep the connection
                while len(found) < 4000 and (data := proxy.recv(4000)):
                    found += data
            return found.decode(errors="replace")
    except OSError as error:
        return str(error.strerror or error)


def connect(target: str) -> str:
    return proxied(f"CONNECT {target} HTTP/1.1\nHost: {target}\n\n")


def query(name: str, kind: int) -> bytes:
    labels = b"".join(bytes([len(label)]) + label.encode() for label in name.split("."))
    return struct.pack("!6H", random.randrange(1 << 16), 0x100, 1, 0, 0, 0) + labels + struct.pack("!BHH", 0, kind, 1)


def asked(server: str, name: str, kind: int, *, by_tcp: bool = False) -> str:
    """The code of a name server's response, and how many answers it had; or what went wrong."""
    wire = query(name, kind)
    try:
        if by_tcp:
            with socket.create_connection((server, 53), PATIENCE) as there:
                there.sendall(struct.pack("!H", len(wire)) + wire)
                found = there.recv(4000)[2:]
        else:
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as there:
                there.settimeout(PATIENCE)
                there.sendto(wire, (server, 53))
                found = there.recvfrom(4000)[0]
        if len(found) < 12:
            return "closed"
        return f"code {found[3] & 15}, {struct.unpack('!H', found[6:8])[0]} answers"
    except OSError as error:
        return str(error.strerror or error)


def all_at_once(jobs: dict[str, Callable[[], str]]) -> Answers:
    with ThreadPoolExecutor(12) as pool:
        running = {name: pool.submit(job) for name, job in jobs.items()}
        return {name: each.result() for name, each in running.items()}


def tcp_everywhere() -> Answers:
    """The host by each of its names, the gateway's other ports, the world."""
    places = [(GATEWAY, SHUT), (GATEWAY, 22), (GATEWAY, 1024), ("10.0.2.3", SHUT), ("10.0.2.3", 22)]
    places += [("10.0.2.4", 139), ("10.0.2.4", 445), ("10.0.2.255", SHUT), ("8.8.8.8", 53), ("1.1.1.1", 443)]
    places += [("169.254.169.254", 80), ("198.51.100.7", 443), *((each, SHUT) for each in JOB["own"])]
    places += [(f"fec0::{tail}", SHUT) for tail in (2, 3)] + [("::ffff:10.0.2.2", SHUT), ("2606:4700::1111", 443)]
    return all_at_once({f"{place} {port}": lambda p=place, q=port: tcp(p, q) for place, port in places})  # type: ignore[misc]


def udp_everywhere() -> Answers:
    tftp = b"\0\1/etc/passwd\0octet\0"
    jobs: dict[str, Callable[[], str]] = {
        f"{place} {port}": lambda p=place, q=port: udp(p, q)  # type: ignore[misc]
        for place, port in [(GATEWAY, JOB["udp"]), (GATEWAY, 123), ("8.8.8.8", 123), ("10.0.2.3", JOB["udp"])]
    }
    jobs["tftp"] = lambda: udp(GATEWAY, 69, tftp)
    jobs["tftp of dns"] = lambda: udp("10.0.2.3", 69, tftp)
    return all_at_once(jobs)


def by_proxy() -> Answers:
    """Every spelling of the host's loopback that somebody might take for a name."""
    names = ["127.0.0.1", "127.1", "2130706433", "0x7f000001", "0177.0.0.1", "127.0.0.1.", "0.0.0.0", "0", "localhost"]
    names += ["LOCALHOST.", "x.localhost", "ip6-localhost", "host.stereo.internal", "HOST.stereo.INTERNAL."]
    names += ["[::1]", "[::]", "[::ffff:127.0.0.1]", "[::ffff:7f00:1]", "[::127.0.0.1]", "[64:ff9b::7f00:1]"]
    names += [GATEWAY, "10.0.2.15", "169.254.169.254", *JOB["own"], *JOB["names"], "example.com", "allowed.test"]
    found = {f"{name}:{SHUT}": f"{name}:{SHUT}" for name in names}
    found["user"] = f"host.stereo.internal:{ALLOWED}@127.0.0.1:{SHUT}"
    found["allowed name, other port"] = "x.allowed.test:22"
    found["allowed network, other port"] = "198.51.100.7:22"
    found["allowed network, next address"] = "198.51.101.7:443"
    found["no port"] = "host.stereo.internal"
    return all_at_once({name: lambda t=target: connect(t) for name, target in found.items()})  # type: ignore[misc]


def by_http() -> Answers:
    good, bad = f"host.stereo.internal:{ALLOWED}", f"host.stereo.internal:{SHUT}"
    close = "Connection: close\n"
    requests = {
        "other port": f"GET http://{bad}/ HTTP/1.1\nHost: {bad}\n{close}\n",
        "loopback": f"GET http://127.0.0.1:{SHUT}/ HTTP/1.1\nHost: 127.0.0.1:{SHUT}\n{close}\n",
        "another Host": f"GET http://{good}/ HTTP/1.1\nHost: 127.0.0.1:{SHUT}\n{close}\n",
        "two Hosts": f"GET http://{good}/ HTTP/1.1\nHost: {good}\nHost: {bad}\n{close}\n",
        "user": f"GET http://{good}@127.0.0.1:{SHUT}/ HTTP/1.1\nHost: {good}\n{close}\n",
        "backslash": f"GET http://{good}\\@127.0.0.1:{SHUT}/ HTTP/1.1\nHost: {good}\n{close}\n",
        "origin form": f"GET / HTTP/1.1\nHost: {bad}\n{close}\n",
        "https": f"GET https://{bad}/ HTTP/1.1\nHost: {bad}\n{close}\n",
        "two lengths": f"POST http://{good}/ HTTP/1.1\nHost: {good}\nContent-Length: 4\nTransfer-Encoding: chunked\n\n"
        f"0\n\nGET http://{bad}/ HTTP/1.1\nHost: {bad}\n\n",
        "body of CONNECT": f"CONNECT {good} HTTP/1.1\nHost: {good}\nContent-Length: 5\n\nhello",
        "no HTTP": "SSH-2.0-probe\n\n",
        "SOCKS": "\5\1\0",
        "rest of a request": f"GET http://{good}/ HTTP/1.1\nHost: {good}\n\n"
        f"GET http://{bad}/ HTTP/1.1\nHost: {bad}\n{close}\n",
    }
    return all_at_once({name: lambda text=text: proxied(text) for name, text in requests.items()})  # type: ignore[misc]


def by_dns() -> Answers:
    """Kinds 1 A, 5 CNAME, 10 NULL, 15 MX, 16 TXT, 28 AAAA, 252 AXFR, 255 ANY."""
    label = "6b65793d736b2d74756e6e656c2d" * 2
    tunnel = f"{label}.{label}.t.refused.test"
    jobs: dict[str, Callable[[], str]] = {}
    for kind in (1, 5, 10, 15, 16, 28, 252, 255):
        jobs[f"tunnel {kind}"] = lambda k=kind: asked(GATEWAY, tunnel, k)  # type: ignore[misc]
    for kind in (10, 16, 255):
        jobs[f"allowed name {kind}"] = lambda k=kind: asked(GATEWAY, "x.allowed.test", k)  # type: ignore[misc]
    jobs["by TCP"] = lambda: asked(GATEWAY, tunnel, 16, by_tcp=True)
    for server in ("10.0.2.3", "8.8.8.8", "10.0.2.4"):
        jobs[f"{server}"] = lambda s=server: asked(s, "example.com", 1)  # type: ignore[misc]
        jobs[f"{server} by TCP"] = lambda s=server: asked(s, "example.com", 1, by_tcp=True)  # type: ignore[misc]
    jobs["own name"] = lambda: asked(GATEWAY, "host.stereo.internal", 1)
    for name in JOB["names"]:
        jobs["leads to the host"] = lambda n=name: asked(GATEWAY, n, 1)  # type: ignore[misc]
    return all_at_once(jobs)


def checksum(data: bytes) -> int:
    total: int = sum(struct.unpack(f"!{len(data) // 2}H", data + b"\0" * (len(data) % 2)))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return 0xFFFF - total


def packet(source: str, target: str, protocol: int, payload: bytes) -> bytes:
    head = struct.pack("!BBHHHBBH", 69, 0, 20 + len(payload), 7, 0, 64, protocol, 0)
    head += socket.inet_aton(source) + socket.inet_aton(target)
    return head[:10] + struct.pack("!H", checksum(head)) + head[12:] + payload


def syn(source: str, target: str, port: int) -> bytes:
    head = struct.pack("!HHIIBBHHH", 40001, port, 7, 0, 80, 2, 64000, 0, 0)
    pseudo = socket.inet_aton(source) + socket.inet_aton(target) + struct.pack("!HH", 6, 20)
    return packet(source, target, 6, head[:16] + struct.pack("!H", checksum(pseudo + head)) + head[18:])


def datagram(source: str, target: str, port: int) -> bytes:
    return packet(source, target, 17, struct.pack("!4H", 40001, port, 13, 0) + b"knock")


def card() -> str:
    return next(name for _, name in socket.if_nameindex() if name != "lo")


def frames() -> dict[str, Any]:
    """Frames of our own making, past all routes and filters of this machine, and what came back."""
    name = card()
    wire = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3))
    wire.bind((name, 0))
    ours = bytes.fromhex(Path(f"/sys/class/net/{name}/address").read_text().strip().replace(":", ""))
    gateway = bytes.fromhex("52550a000202")  # slirp's, for 10.0.2.2
    nobody = bytes.fromhex("02beefbeef02")
    made = []
    for source in ("10.0.2.15", "10.0.2.99", GATEWAY, "127.0.0.1", "8.8.8.8"):
        for target in (GATEWAY, "127.0.0.1", "10.0.2.3", "0.0.0.0", "8.8.8.8", *JOB["own"]):
            if ":" not in target:
                made += [syn(source, target, SHUT), datagram(source, target, JOB["udp"])]
                made.append(packet(source, target, 1, struct.pack("!BBHHH", 8, 0, 0xF7FC, 1, 2)))
    # A fragment, a source route, an unknown protocol, IP in IP.
    inner = syn("10.0.2.15", "127.0.0.1", SHUT)
    made += [packet("10.0.2.15", GATEWAY, number, inner) for number in (4, 41, 47, 50, 132, 255)]
    sent = [gateway + mac + b"\x08\x00" + each for each in made for mac in (ours, nobody)]
    link_local, router = socket.inet_pton(socket.AF_INET6, "fe80::15"), socket.inet_pton(socket.AF_INET6, "ff02::2")
    solicit = b"\x85" + bytes(7)
    sent.append(
        bytes.fromhex("333300000002")
        + ours
        + b"\x86\xdd"
        + struct.pack("!IHBB", 6 << 28, 8, 58, 255)
        + link_local
        + router
        + solicit
    )
    for target in ("fe80::2", "fec0::2", "fec0::3"):
        six = socket.inet_pton(socket.AF_INET6, target)
        head = struct.pack("!HHIIBBHHH", 40002, SHUT, 7, 0, 80, 2, 64000, 0, 0)
        for mac in (gateway, bytes.fromhex("333300000001")):
            sent.append(mac + ours + b"\x86\xdd" + struct.pack("!IHBB", 6 << 28, 20, 6, 64) + link_local + six + head)
    arp = (
        struct.pack("!HHBBH", 1, 0x800, 6, 4, 2)
        + gateway
        + socket.inet_aton(GATEWAY)
        + nobody
        + socket.inet_aton("10.0.2.3")
    )
    sent += [b"\xff" * 6 + gateway + b"\x08\x06" + arp, os.urandom(60), b"\xff" * 6 + os.urandom(1400)]
    found: dict[str, Any] = {"sent": len(sent), "ipv6": 0, "opened": [], "echoed": [], "datagrams": []}
    for frame in sent:
        wire.send(frame)
    wire.settimeout(0.5)
    end = time.monotonic() + 4
    while time.monotonic() < end:
        try:
            frame, place = wire.recvfrom(4000)
        except TimeoutError:
            continue
        if place[2] == socket.PACKET_OUTGOING:
            continue
        kind, body = frame[12:14], frame[14:]
        if kind == b"\x86\xdd":
            found["ipv6"] += 1
        if kind != b"\x08\x00" or len(body) < 28:
            continue
        source, rest = socket.inet_ntoa(body[12:16]), body[(body[0] & 15) * 4 :]
        if body[9] == 6 and len(rest) > 13 and rest[13] & 0x12 == 0x12:
            found["opened"].append([source, struct.unpack("!H", rest[:2])[0]])
        elif body[9] == 1 and rest[:1] == b"\0":
            found["echoed"].append(source)
        elif body[9] == 17 and struct.unpack("!H", rest[:2])[0] not in (53, 67):
            found["datagrams"].append([source, rest[:60].hex()])
    wire.close()
    found["echoed"] = sorted(set(found["echoed"]))
    return found


def busy(*words: str) -> int:
    done = subprocess.run(["busybox", *words], capture_output=True, timeout=20)
    return int(done.returncode)


def reconfigured() -> Answers:
    """The same doors, with the guest's own filter gone and addresses, routes and resolver as they suit an attacker."""
    name = card()
    subprocess.run(["nft", "flush", "ruleset"], capture_output=True, timeout=20)
    for address in ("10.0.2.99/24", "8.8.8.9/8"):
        busy("ip", "addr", "add", address, "dev", name)
    Path("/proc/sys/net/ipv4/conf/all/route_localnet").write_text("1")
    busy("ip", "route", "add", "198.51.100.0/24", "via", "10.0.2.3")
    resolver = Path("/etc/resolv.conf").read_text()
    Path("/etc/resolv.conf").write_text("nameserver 8.8.8.8\n")
    try:
        jobs: dict[str, Callable[[], str]] = {
            "as a neighbour": lambda: tcp(GATEWAY, SHUT, "10.0.2.99"),
            "as a stranger": lambda: tcp(GATEWAY, SHUT, "8.8.8.9"),
            "another gateway": lambda: tcp("198.51.100.7", 443),
            "another resolver": lambda: asked("8.8.8.8", "example.com", 1),
            "as loopback": lambda: tcp(GATEWAY, SHUT, "127.0.0.1"),
        }
        found = all_at_once(jobs)
        try:
            found["resolved"] = str(socket.getaddrinfo("example.com", 80))
        except OSError as error:
            found["resolved"] = str(error)
        return found
    finally:
        Path("/etc/resolv.conf").write_text(resolver)
        Path("/proc/sys/net/ipv4/conf/all/route_localnet").write_text("0")
        for address in ("10.0.2.99/24", "8.8.8.9/8"):
            busy("ip", "addr", "del", address, "dev", name)
        busy("ip", "route", "del", "198.51.100.0/24")
        subprocess.run(["nft", "-f", "/etc/nftables.conf"], capture_output=True, timeout=20)


PARTS: dict[str, Callable[[], Any]] = {
    "interfaces": lambda: sorted(name for _, name in socket.if_nameindex()),
    "allowed": lambda: tcp(GATEWAY, ALLOWED),
    "allowed by proxy": lambda: connect(f"host.stereo.internal:{ALLOWED}"),
    "tcp": tcp_everywhere,
    "udp": udp_everywhere,
    "proxy": by_proxy,
    "http": by_http,
    "dns": by_dns,
    "frames": frames,
    "reconfigured": reconfigured,
    "allowed after all": lambda: tcp(GATEWAY, ALLOWED),
}


def main() -> None:
    found = {}
    for name in JOB["parts"] or PARTS:
        began = time.monotonic()
        try:
            found[name] = PARTS[name]()
        except Exception as error:  # whatever it is, the host must hear of it
            found[name] = f"the probe failed: {type(error).__name__}: {error}"
        print(f"{name}: {time.monotonic() - began:.1f} s", file=sys.stderr)
    print(json.dumps(found))


if __name__ == "__main__":
    main()
