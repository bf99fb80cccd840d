"""The machine's own address, set by the host: the kernel's own view of it in a network namespace, and refusals."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from stereos_guest import interface, network
from stereos_guest.protocol import ProtocolError

_INSIDE = """
import sys
from pathlib import Path
from stereos_guest import interface
interface.configure("lo", "10.0.2.15", 24, "10.0.2.2")
interface.configure("lo", "10.0.2.15", 24, "10.0.2.2")
print(Path("/proc/net/route").read_text())
print(Path("/proc/net/fib_trie").read_text())
"""
_LOOPBACK = """
import socket
from pathlib import Path
from stereos_guest import interface
interface.configure("lo", "127.0.0.1", 8, "127.0.0.1")
interface.add_to_loopback("10.0.2.2")
interface.add_to_loopback("10.0.2.2")
for address in ("10.0.2.2", "127.0.0.1"):
    with socket.create_server((address, 0)) as server, socket.create_connection(server.getsockname()) as client:
        print("reached from", server.accept()[1][0])
print(Path("/proc/net/fib_trie").read_text())
"""


def said_inside(program: str) -> str:
    """What a program prints in a network namespace of its own."""
    if os.geteuid() != 0:
        pytest.skip("needs root for a network namespace of its own")
    folder = str(Path(interface.__file__).parents[1])
    done = subprocess.run(
        ["unshare", "--net", sys.executable, "-c", program],
        env={**os.environ, "PYTHONPATH": folder},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_kernel_has_the_address_and_the_route_also_when_told_twice() -> None:
    said = said_inside(_INSIDE)
    rows = [line.split()[:4] for line in said.splitlines() if line.startswith("lo")]
    assert ["lo", "00000000", "0202000A", "0003"] in rows, "the default route: destination, gateway, up and gateway"
    assert "10.0.2.15" in said
    assert "/24" in said


def test_the_machine_itself_has_the_address_of_its_gateway_beside_loopback_also_when_told_twice() -> None:
    said = said_inside(_LOOPBACK)
    assert "reached from 10.0.2.2" in said
    assert "reached from 127.0.0.1" in said
    assert "/32 host LOCAL" in said.split("|-- 10.0.2.2\n")[1]
    assert "10.0.0.0" not in said, "nothing but the one address"


def test_the_card_is_the_first_that_is_a_device(tmp_path: Path) -> None:
    for name in ("lo", "docker0"):
        (tmp_path / "sys/class/net" / name).mkdir(parents=True)
    with pytest.raises(OSError, match="no network card"):
        interface.card(str(tmp_path))
    (tmp_path / "sys/class/net/eth0/device").mkdir(parents=True)
    assert interface.card(str(tmp_path)) == "eth0"


@pytest.mark.parametrize(
    "body",
    [
        {"address": "10.0.2.15", "gateway": "10.0.2.2"},
        {"address": "10.0.2.15/24"},
        {"gateway": "10.0.2.2"},
        {"address": "10.0.2.15/0", "gateway": "10.0.2.2"},
        {"address": "10.0.2.15/99", "gateway": "10.0.2.2"},
        {"address": "10.0.2/24", "gateway": "10.0.2.2"},
        {"address": "fe80::1/64", "gateway": "fe80::2"},
        {"address": "10.0.2.15/24", "gateway": "nowhere"},
        {"address": 1, "gateway": 2},
    ],
)
def test_an_address_that_is_none_changes_nothing(tmp_path: Path, body: dict[str, object]) -> None:
    (tmp_path / "etc").mkdir()
    (tmp_path / "etc/resolv.conf").write_text("before")
    with pytest.raises(ProtocolError):
        network.set_network(str(tmp_path), {"nameservers": ["10.0.2.3"], **body})
    assert (tmp_path / "etc/resolv.conf").read_text() == "before"
