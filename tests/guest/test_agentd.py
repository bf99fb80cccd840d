"""agentd as a process of its own: its sockets, its FIFO, what it tells and to whom. systemd is a stand-in."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, ClassVar

import pytest

from makers.agents import AgentMachine, table
from stereo.paths import Checkout
from stereos_guest import agentd

GUEST = Checkout.containing_this_package().root / "guest"
_START = """
import sys
from stereos_guest import agentd, systemctl
agentd.main(sys.argv[1], systemctl.Systemctl(sys.argv[2]))
"""


class Agentd:
    """The running daemon and its clients."""

    def __init__(self, machine: AgentMachine) -> None:
        self.machine = machine
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        argv = [sys.executable, "-c", _START, str(self.machine.root), str(self.machine.program)]
        self.process = subprocess.Popen(argv, env={"PYTHONPATH": str(GUEST)})
        self._until(self._answers)

    def kill(self) -> None:
        if self.process:
            self.process.send_signal(signal.SIGKILL)
            self.process.wait(30)

    def _answers(self) -> bool:
        try:
            return bool(self.get("/v1/health")[0] == 200)
        except OSError:
            return False

    def _until(self, test: Callable[[], bool]) -> None:
        end = time.monotonic() + 20
        while not test():
            assert time.monotonic() < end
            time.sleep(0.02)

    def connect(self, name: str) -> socket.socket:
        channel = socket.socket(socket.AF_UNIX)
        channel.settimeout(20)
        channel.connect(str(self.machine.root / "run/stereos" / name))
        return channel

    def get(self, path: str, method: str = "GET") -> tuple[int, Any]:
        with self.connect("agentd.sock") as channel:
            channel.sendall(f"{method} {path} HTTP/1.1\r\nConnection: close\r\n\r\n".encode())
            answer = b""
            while data := channel.recv(1 << 16):
                answer += data
        head, _, body = answer.partition(b"\r\n\r\n")
        is_json = b"application/json" in head
        return int(head.split()[1]), json.loads(body) if is_json else body.decode()

    def agent(self, name: str) -> dict[str, Any]:
        return dict(self.get(f"/v1/agents/{name}")[1])

    def until_state(self, name: str, state: str) -> None:
        self._until(lambda: self.agent(name).get("state") == state)


class Client:
    """stereosd's end of the control socket."""

    def __init__(self, daemon: Agentd) -> None:
        self.channel = daemon.connect("agentd-control.sock")
        self._lines = self.channel.makefile("rb")
        self._number = 0

    def hear(self) -> dict[str, Any]:
        return dict(json.loads(self._lines.readline()))

    def ask(self, kind: str, **payload: Any) -> dict[str, Any]:
        """The ack; what is pushed before it is dropped."""
        self._number += 1
        line = json.dumps({"type": kind, "id": self._number, "payload": payload})
        self.channel.sendall(line.encode() + b"\n")
        while (answer := self.hear()).get("id") != self._number:
            pass
        return answer

    def close(self) -> None:
        self._lines.close()
        self.channel.close()


@pytest.fixture
def daemon(tmp_path: Path) -> Iterator[Agentd]:
    found = Agentd(AgentMachine(tmp_path))
    found.start()
    yield found
    found.kill()


def test_without_a_jcard_it_waits(daemon: Agentd) -> None:
    status, health = daemon.get("/v1/health")
    assert (status, health["state"], health["uptime_seconds"] >= 0) == (200, "running", True)
    assert daemon.get("/v1/agents") == (200, [])


def test_the_api_is_the_originals(daemon: Agentd) -> None:
    daemon.machine.card(table("b") + table("a"))
    client = Client(daemon)
    assert client.ask("reload")["payload"] == {"reply_to": "reload", "ok": True}
    daemon.until_state("a", "running")
    status, agents = daemon.get("/v1/agents")
    assert (status, [agent["name"] for agent in agents]) == (200, ["a", "b"])
    assert daemon.get("/v1/agents/B")[1] == agents[1]
    assert daemon.get("/v1/agents/c") == (404, {"error": "agent not found"})
    assert daemon.get("/v1/other")[0] == 404
    assert daemon.get("/v1/agents", "POST")[0] == 405
    client.close()


def test_who_connects_hears_at_once_and_then_of_every_change(daemon: Agentd) -> None:
    client = Client(daemon)
    assert client.hear() == {"type": "agents", "payload": {"agents": []}}
    daemon.machine.card(table("a"))
    client.ask("reload")
    told = client.hear()
    assert [(entry["name"], entry["state"]) for entry in told["payload"]["agents"]] == [("a", "running")]
    daemon.machine.ends("a", "exit 0")
    with (daemon.machine.root / "run/stereos/agents.fifo").open("w") as events:
        events.write("a\n")
    (entry,) = client.hear()["payload"]["agents"]
    assert (entry["state"], entry["exit_code"]) == ("exited", 0)
    client.close()


def test_a_refused_jcard_is_told(daemon: Agentd) -> None:
    client = Client(daemon)
    client.hear()
    daemon.machine.card("no toml")
    client.ask("reload")
    assert "is not TOML" in client.hear()["payload"]["error"]
    assert "is not TOML" in daemon.get("/v1/health")[1]["error"]
    client.close()


def test_it_does_what_it_is_asked(daemon: Agentd) -> None:
    daemon.machine.card(table("a"))
    client = Client(daemon)
    client.ask("reload")
    daemon.until_state("a", "running")
    assert client.ask("agent", name="a", action="stop")["payload"]["ok"] is True
    daemon.until_state("a", "stopped")
    refused = client.ask("agent", name="x", action="stop")["payload"]
    assert (refused["ok"], refused["error"]) == (False, "x: agent not found")
    assert client.ask("agent", name=1, action="stop")["payload"]["ok"] is False
    assert client.ask("nonsense")["payload"]["ok"] is False
    client.close()


def test_killed_and_started_again_it_tells_the_same(daemon: Agentd) -> None:
    daemon.machine.card(table("a") + table("b"))
    Client(daemon).ask("reload")
    daemon.until_state("a", "running")
    daemon.kill()
    daemon.machine.ends("b", "signal 11")
    daemon.machine.calls()
    daemon.start()
    assert (daemon.agent("a")["state"], daemon.agent("b")["exit_signal"]) == ("running", "SEGV")
    assert daemon.machine.calls() == []


def test_garbage_disturbs_nobody(daemon: Agentd) -> None:
    client = Client(daemon)
    client.channel.sendall(b"\0\xff{]\n\n" + b'{"type":"reload","payload":' + b"[" * 5000 + b"\n")
    assert client.ask("ping")["type"] == "pong"
    with daemon.connect("agentd.sock") as channel:
        channel.sendall(os.urandom(5000) + b"\r\n\r\n")
    assert daemon.get("/v1/health")[0] == 200
    client.close()


def test_it_sleeps_while_nothing_happens(daemon: Agentd) -> None:
    assert daemon.process
    daemon.machine.card(table("a"))
    Client(daemon).ask("reload")
    daemon.until_state("a", "running")
    time.sleep(1)
    stat = Path(f"/proc/{daemon.process.pid}/stat")
    before = [int(field) for field in stat.read_text().split()[13:17]]
    time.sleep(2)
    assert [int(field) for field in stat.read_text().split()[13:17]] == before


def test_an_agent_that_starts_during_the_first_look_is_looked_at_again_soon() -> None:
    """As when the jcard was there before agentd: no unit tells that it has come from starting to running."""

    class Fleet:
        error = ""
        reconcile = staticmethod(lambda: None)
        observe = staticmethod(lambda: True)
        entries = staticmethod(lambda: [{"name": "steady", "state": "starting"}])

    class Loop:
        waits: ClassVar[list[float]] = []

        def later(self, seconds: float, callback: Callable[[], None]) -> None:
            self.waits.append(seconds)

    agentd.Daemon(Loop(), Fleet()).look()  # type: ignore[arg-type]
    assert Loop.waits
    assert Loop.waits[-1] < 1


def test_its_sockets_are_not_for_everybody(daemon: Agentd) -> None:
    for name in ("agentd.sock", "agentd-control.sock", "agents.fifo"):
        assert (daemon.machine.root / "run/stereos" / name).stat().st_mode & 0o007 == 0
