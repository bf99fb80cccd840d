"""`egress_allow` for a machine without a network card: it reaches the egress gate by vsock, and nothing else. One boot.

The probe of test_egress.py tries to get out, as root, by all that it knows of; then by vsock itself.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from makers.vsock_machine import vsock_machine
from stereo.egress.client import Gate, read_log
from stereo.model.egress import Rules
from stereo.sandbox import provision
from stereo.sandbox.job import Job
from stereo.vm import vsockgate
from stereo.vm.control import Control
from stereo.vm.machine import Gated
from stereo.vm.programs import Programs

pytestmark = [pytest.mark.boot, pytest.mark.build]

SECONDS = 240.0
PROBE = Path(__file__).with_name("egressprobe.py").read_text()
PARTS = ("interfaces", "allowed", "allowed by proxy", "tcp", "udp", "proxy", "dns")
NAME = "host.stereo.internal"
ANSWER = b"HTTP/1.0 200 OK\r\nContent-Length: 7\r\n\r\nreached"
MEGABYTES = 5
ECHO = f"""
import socket, sys, threading
with socket.create_connection(("{NAME}", int(sys.argv[1])), 60) as s:
    def send():
        for _ in range({MEGABYTES}): s.sendall(b"x" * 1048576)
        s.shutdown(socket.SHUT_WR)
    threading.Thread(target=send).start()
    count = 0
    while piece := s.recv(65536): count += len(piece)
    print(count)
"""
# Every port that somebody may have on the host, and the addresses of others.
VSOCK = """
import json, socket, sys
found = {}
def knock(cid, port, kind=socket.SOCK_STREAM):
    try:
        with socket.socket(socket.AF_VSOCK, kind) as s:
            s.settimeout(5)
            s.connect((cid, port))
            found[f"{cid} {port} {kind}"] = "connected"
    except (OSError, OverflowError) as error: found[f"{cid} {port} {kind}"] = type(error).__name__
for port in json.loads(sys.argv[1]): knock(2, port)
for cid in (0, 1, 4, 0xffffffff): knock(cid, 3128)
knock(2, 3128, socket.SOCK_SEQPACKET)
knock(2, 3128, socket.SOCK_DGRAM)
print(json.dumps(found))
"""


@dataclass
class Server:
    """A server on the host's loopback that counts who comes."""

    echo: bool = False
    came: int = 0
    port: int = 0
    _writers: list[asyncio.StreamWriter] = field(default_factory=list)

    async def start(self) -> asyncio.Server:
        server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.port = server.sockets[0].getsockname()[1]
        return server

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.came += 1
        if self.echo:
            while data := await reader.read(1 << 16):
                writer.write(data)
                await writer.drain()
        else:
            writer.write(ANSWER)
            await writer.drain()
        writer.close()


def job_with(rules: list[str]) -> Job:
    """As far as the network is concerned."""
    return Job(
        *("desk", "jcard.toml", "base", "", "", "x86_64"),
        cpus=1,
        memory=1,
        disk=1,
        mode="nat",
        config="",
        agents=(),
        egress=tuple(rules),
    )


async def run(control: Control, *argv: str, user: str = "agent", seconds: float = 100) -> str:
    said = {"stdout": b"", "stderr": b""}
    request = {"argv": list(argv), "user": user, "timeout": seconds}
    async with await control.open_stream("exec", request) as stream:
        while (piece := await stream.read()) is not None:
            said[piece[0]] += piece[1]
        await stream.wait()
    return (said["stdout"] or said["stderr"]).decode(errors="replace")


async def everything(control: Control, opened: Server, echo: Server, shut: Server) -> dict[str, Any]:
    found: dict[str, Any] = {}
    open_at, shut_at = f"http://{NAME}:{opened.port}/", f"http://{NAME}:{shut.port}/"
    curl = ("/usr/bin/curl", "-sS", "--max-time", "30", "-w", " %{http_code}")
    found["curl"] = await run(control, *curl, open_at)
    found["curl without proxy"] = await run(control, *curl, "--noproxy", "*", open_at)
    found["curl forbidden"] = await run(control, *curl, shut_at)
    found["curl forbidden name"] = await run(control, *curl, "http://forbidden.test/")
    found["by name"] = await run(control, "/usr/bin/getent", "ahostsv4", NAME)
    found["by forbidden name"] = await run(control, "/usr/bin/getent", "ahostsv4", "forbidden.test")
    found["echo"] = await run(control, "/usr/bin/python3", "-c", ECHO, str(echo.port))
    job = {"allowed": opened.port, "shut": shut.port, "udp": shut.port, "own": [], "names": [], "parts": PARTS}
    found.update(json.loads(await run(control, "/usr/bin/python3", "-c", PROBE, json.dumps(job), user="root")))
    ports = [shut.port, 22, 80, 1024, 1025, 5000, 1 << 16, (1 << 16) + 3128, opened.port, 3128]
    found["vsock"] = json.loads(await run(control, "/usr/bin/python3", "-c", VSOCK, json.dumps(ports), user="root"))
    show = ("/usr/bin/systemctl", "show", "-P", "ActiveState,NRestarts", "stereos-gateway.service")
    found["unit"] = (await run(control, *show, user="root")).split()
    found["may the agent"] = await run(control, "/usr/bin/cat", "/run/stereos/gateway")
    found["failed"] = await run(control, "/usr/bin/systemctl", "--failed", "--plain", "--no-legend", user="root")
    return found


@pytest.fixture(scope="module")
def found(
    base: Path, tools_tree: Path, tell: Callable[[str], None], tmp_path_factory: pytest.TempPathFactory
) -> dict[str, Any]:
    folder = tmp_path_factory.mktemp("gate")
    log = folder / "egress.log"
    opened, echo, shut = Server(), Server(echo=True), Server()

    async def ask() -> dict[str, Any]:
        async with await opened.start(), await echo.start(), await shut.start():
            rules = [f"{NAME}:{port}" for port in (opened.port, echo.port)] + ["*.allowed.test:443"]
            gate, paths = vsockgate.listen(Gated((opened.port, echo.port)), folder)
            programs = Programs.find(tools_tree)
            listening = {(str(protocol), port): sock for (protocol, port), sock in gate.items()}
            async with (
                Gate.start(listening, Rules.parse(rules), log),
                vsock_machine(base, programs, folder, listen=paths) as machine,
            ):
                control = await machine.greeted(SECONDS)
                body = provision.network(job_with(rules), vsockgate.ports_of(gate))
                for _ in range(2):  # also when it is told again
                    await control.request("set_network", body, seconds=60)
                answers = await everything(control, opened, echo, shut)
                answers["came"] = shut.came
                await control.shutdown(60)
                await asyncio.wait_for(machine.device, 60)
                await control.close()
            for sock in gate.values():
                sock.close()
            return {**answers, "log": list(read_log(log))}

    tell("booting: base, gated without a network card")
    return asyncio.run(ask())


def refused(found: dict[str, Any], protocol: str) -> set[str]:
    return {row["host"] for row in found["log"] if row["verdict"] == "refused" and row["protocol"] == protocol}


# --- tests ---


def test_what_the_rules_allow_is_reached_through_the_proxy_and_by_name(found: dict[str, Any]) -> None:
    assert found["curl"] == found["curl without proxy"] == "reached 200"
    assert found["by name"].split()[0] == "10.0.2.2"
    assert "reached" in found["allowed"]
    assert "reached" in found["allowed by proxy"]
    assert found["echo"] == f"{MEGABYTES << 20}\n"


def test_what_they_do_not_allow_is_refused_and_written_down(found: dict[str, Any]) -> None:
    assert found["curl forbidden"].endswith(" 403")
    assert found["curl forbidden name"].endswith(" 403")
    assert found["by forbidden name"] == ""
    assert found["came"] == 0, "counted on the host"
    assert {NAME, "forbidden.test"} <= refused(found, "http")
    assert "forbidden.test" in refused(found, "dns")
    passed = [target for target, words in found["proxy"].items() if words.split(" ")[1:2] == ["200"]]
    assert passed == []


def test_names_are_told_by_udp_and_tcp_as_with_a_card(found: dict[str, Any]) -> None:
    answers = dict(found["dns"])
    assert answers.pop("own name") == "code 0, 1 answers"
    assert answers["by TCP"] == "code 5, 0 answers"
    assert {words for place, words in answers.items() if place.startswith("tunnel")} == {"code 5, 0 answers"}
    assert not any(words.startswith("code") for place, words in answers.items() if place[0].isdigit())


def test_root_in_the_guest_reaches_nothing_by_any_packet(found: dict[str, Any]) -> None:
    assert found["interfaces"] == ["lo"]
    assert "connected" not in json.dumps(found["tcp"])
    assert "answered" not in json.dumps(found["udp"])


def test_root_in_the_guest_reaches_the_gates_ports_alone_by_vsock(found: dict[str, Any]) -> None:
    connected = [place for place, words in found["vsock"].items() if words == "connected"]
    assert connected == list(found["vsock"])[8:10]


def test_the_gateway_runs_and_its_file_is_not_for_the_agent(found: dict[str, Any]) -> None:
    assert sorted(found["unit"]) == ["0", "active"]
    assert "Permission denied" in found["may the agent"]
    assert found["failed"] == ""
