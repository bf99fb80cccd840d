"""The gate as a process: what a supervisor starts, changes, and loses."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from makers.gate import Site, drain, listening, site
from stereo.egress.client import Gate, GateError, read_log
from stereo.egress.gate import DNS_UDP, PROXY
from stereo.model.egress import Rules

Sockets = dict[tuple[str, int], socket.socket]


@pytest.fixture
def web() -> Iterator[Site]:
    with site() as made:
        yield made


@pytest.fixture
def sockets() -> Iterator[Sockets]:
    with ExitStack() as stack:
        yield {
            PROXY: stack.enter_context(listening()),
            DNS_UDP: stack.enter_context(listening(socket.SOCK_DGRAM)),
        }


def rules(web: Site) -> Rules:
    return Rules.parse([f"host.stereo.internal:{web.port}"])


def fetch(sockets: Sockets, web: Site, path: str) -> bytes:
    with socket.create_connection(sockets[PROXY].getsockname(), timeout=20) as client:
        url = f"http://host.stereo.internal:{web.port}{path}"
        client.sendall(f"GET {url} HTTP/1.1\r\nHost: host.stereo.internal\r\nConnection: close\r\n\r\n".encode())
        return drain(client)


def status(pid: int, key: str) -> str:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(line.partition(":")[2].strip() for line in lines if line.startswith(f"{key}:"))


def test_it_serves_takes_new_rules_and_ends_with_its_block(tmp_path: Path, sockets: Sockets, web: Site) -> None:
    async def scenario() -> int:
        async with Gate.start(sockets, rules(web), tmp_path / "log") as gate:
            assert b"hello" in await asyncio.to_thread(fetch, sockets, web, "/1")
            assert await gate.apply(Rules()) == 0
            assert b"egress_allow" in await asyncio.to_thread(fetch, sockets, web, "/2")
            await gate.apply(rules(web))
            assert b"hello" in await asyncio.to_thread(fetch, sockets, web, "/3")
            return gate.pid

    pid = asyncio.run(scenario())
    assert not Path(f"/proc/{pid}").exists()
    assert [row["verdict"] for row in read_log(tmp_path / "log")] == [
        "allowed",
        "closed",
        "refused",
        "allowed",
        "closed",
    ]


def test_it_has_given_up_what_it_does_not_need(tmp_path: Path, sockets: Sockets, web: Site) -> None:
    async def scenario() -> None:
        async with Gate.start(sockets, rules(web), tmp_path / "log") as gate:
            assert status(gate.pid, "NoNewPrivs") == "1"
            limits = Path(f"/proc/{gate.pid}/limits").read_text()
            assert "Max core file size        0 " in limits
            opened = [path.readlink() for path in Path(f"/proc/{gate.pid}/fd").iterdir()] if os.geteuid() == 0 else []
            assert len([each for each in opened if "socket:" in str(each)]) <= len(sockets) + 2  # and the loop's own

    asyncio.run(scenario())


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become somebody else")
def test_it_runs_as_somebody_else_where_root_wants_that(tmp_path: Path, sockets: Sockets, web: Site) -> None:
    tmp_path.chmod(0o700)

    async def scenario() -> None:
        async with Gate.start(sockets, rules(web), tmp_path / "log", user=65534) as gate:
            assert status(gate.pid, "Uid").split() == ["65534"] * 4
            assert status(gate.pid, "Groups") == ""
            assert int(status(gate.pid, "CapEff"), 16) == 0
            assert b"hello" in await asyncio.to_thread(fetch, sockets, web, "/")

    asyncio.run(scenario())
    assert len(list(read_log(tmp_path / "log"))) == 2


def test_its_death_is_seen(tmp_path: Path, sockets: Sockets, web: Site) -> None:
    async def scenario() -> None:
        async with Gate.start(sockets, rules(web), tmp_path / "log") as gate:
            os.kill(gate.pid, signal.SIGKILL)
            assert await asyncio.wait_for(gate.wait(), 10) == -signal.SIGKILL
            with pytest.raises(GateError, match="is gone"):
                await gate.apply(Rules())

    asyncio.run(scenario())


def test_one_that_cannot_start_is_told(tmp_path: Path, sockets: Sockets) -> None:
    async def scenario() -> None:
        async with Gate.start(sockets, Rules(), tmp_path / "none" / "log"):
            pass

    with pytest.raises(GateError):
        asyncio.run(scenario())


PARENT = """
import asyncio, socket, sys
from pathlib import Path
from stereo.egress.client import Gate
from stereo.model.egress import Rules
async def main():
    with socket.create_server(("127.0.0.1", 0)) as proxy:
        async with Gate.start({("tcp", 3128): proxy}, Rules(), Path(sys.argv[1])) as gate:
            sys.stdout.write(f"{gate.pid}\\n")
            sys.stdout.flush()
            await asyncio.sleep(60)
asyncio.run(main())
"""


def test_it_dies_with_its_parent(tmp_path: Path) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", PARENT, tmp_path / "log"],
        stdout=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    ) as parent:
        assert parent.stdout is not None
        pid = int(parent.stdout.readline())
        assert Path(f"/proc/{pid}").exists()
        parent.kill()
    end = time.monotonic() + 10
    while Path(f"/proc/{pid}").exists() and status(pid, "State")[0] != "Z":
        assert time.monotonic() < end
        time.sleep(0.05)


def test_memory_does_not_grow_with_what_passes(tmp_path: Path, sockets: Sockets, web: Site) -> None:
    size = 256 << 20

    def download() -> int:
        with socket.create_connection(sockets[PROXY].getsockname(), timeout=60) as client:
            url = f"http://host.stereo.internal:{web.port}/big/{size}"
            client.sendall(f"GET {url} HTTP/1.1\r\nHost: host.stereo.internal\r\nConnection: close\r\n\r\n".encode())
            total = 0
            while data := client.recv(1 << 20):
                total += len(data)
            return total

    async def scenario() -> None:
        async with Gate.start(sockets, rules(web), tmp_path / "log") as gate:
            before = int(status(gate.pid, "VmRSS").split()[0])
            assert await asyncio.to_thread(download) > size
            assert int(status(gate.pid, "VmHWM").split()[0]) - before < 16 << 10  # KiB

    asyncio.run(scenario())
    assert next(row for row in read_log(tmp_path / "log") if row["verdict"] == "closed")["bytes_in"] > size
