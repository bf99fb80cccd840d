"""How the machine is: the rules, and that hosts are told when it changes. A socket stands in for agentd."""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from makers.guest import Machine, heard
from stereos_guest import agentlink, health, protocol, requests
from stereos_guest.session import Session


def agent(name: str, state: str, **more: object) -> dict[str, Any]:
    return {"name": name, "type": "native", "running": state == "running", "restarts": 0, "state": state, **more}


@pytest.mark.parametrize(
    ("states", "expected"),
    [
        ([], "ready"),
        (["waiting"], "ready"),
        (["starting"], "ready"),
        (["stopped"], "ready"),
        (["running"], "healthy"),
        (["exited"], "healthy"),
        (["backoff", "waiting"], "healthy"),
        (["running", "failed"], "degraded"),
    ],
)
def test_the_machine_is_as_well_as_its_agents(states: list[str], expected: str) -> None:
    agents = [agent(f"a{number}", state) for number, state in enumerate(states)]
    assert health.state_of(agents, agentd_gone=False)[0] == expected
    assert health.state_of(agents, agentd_gone=True)[0] == "degraded"


class Agentd:
    """Listens where agentd does."""

    def __init__(self, machine: Machine) -> None:
        self.listening = socket.socket(socket.AF_UNIX)
        path = machine.root / "run/stereos/agentd-control.sock"
        path.unlink(missing_ok=True)
        self.listening.bind(str(path))
        self.listening.listen()
        self.machine = machine
        machine.turn()
        self.line, _ = self.listening.accept()
        self.line.settimeout(5)
        self.said = self.line.makefile("rb")

    def tell(self, *agents: dict[str, Any]) -> None:
        self.line.sendall(protocol.encode("agents", {"agents": list(agents)}))
        self.machine.turn()

    def heard(self) -> Any:
        self.machine.turn()
        return json.loads(self.said.readline())

    def leave(self) -> None:
        self.said.close()
        self.line.close()
        self.listening.close()
        self.machine.turn()


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Machine]:
    monkeypatch.setattr(agentlink, "_RETRY_SECONDS", 0.01)
    monkeypatch.setattr(requests, "_AGENTD_COMES_SECONDS", 0.05)
    machine = Machine(tmp_path)
    machine.requests.link.connect()
    yield machine
    machine.close()


@pytest.fixture
def agentd(machine: Machine) -> Iterator[Agentd]:
    agentd = Agentd(machine)
    assert agentd.heard()["type"] == "reload"  # what changed before it was there to be told
    yield agentd
    agentd.leave()


def pushed(session: Session) -> list[Any]:
    """State of a `lifecycle`, or name and state of an agent's `event`."""
    news = []
    for line in heard(session):
        payload = json.loads(line)["payload"]
        news.append((payload["agent"]["name"], payload["agent"]["state"]) if "agent" in payload else payload["state"])
    return news


def test_a_failed_agent_degrades_and_one_that_is_mended_heals_and_each_change_is_pushed(
    machine: Machine, agentd: Agentd
) -> None:
    host, port, original = machine.greeted(), machine.session(unasked=True), machine.session()
    agentd.tell(agent("a", "running"))
    assert pushed(host) == [("a", "running"), "healthy"]
    agentd.tell(agent("a", "failed", error="exit status 1"))
    assert machine.daemon.state == "degraded"
    assert pushed(host) == [("a", "failed"), "degraded"]
    agentd.tell(agent("a", "running"))
    assert pushed(host) == [("a", "running"), "healthy"]
    assert pushed(port) == ["healthy"]  # of the three it took none in time: the last is what counts
    assert pushed(original) == []  # it would take it for an answer


def test_an_agent_that_is_gone_is_told_too(machine: Machine, agentd: Agentd) -> None:
    host = machine.greeted()
    agentd.tell(agent("a", "running"), agent("b", "running"))
    pushed(host)
    agentd.tell(agent("b", "running"))
    [line] = heard(host)
    assert json.loads(line)["payload"]["agent"] == {**agent("a", "stopped"), "removed": True}


def test_what_did_not_change_is_not_pushed(machine: Machine, agentd: Agentd) -> None:
    host = machine.greeted()
    for _ in range(3):
        agentd.tell(agent("a", "running"))
        pushed(host)
    agentd.tell(agent("a", "running"))
    assert pushed(host) == []


def test_without_agentd_a_machine_that_had_one_is_degraded_until_it_is_back(machine: Machine, agentd: Agentd) -> None:
    agentd.tell(agent("a", "running"))
    agentd.leave()
    assert machine.daemon.state == "degraded"
    [told] = machine.ask(machine.session(), "get_health")
    assert [row["name"] for row in told["payload"]["agents"]] == ["a"]
    again = Agentd(machine)
    again.tell(agent("a", "running"))
    assert machine.daemon.state == "healthy"
    again.leave()


def test_without_anything_to_do_for_it_agentd_is_not_missed(machine: Machine) -> None:
    machine.turn()
    assert machine.daemon.state == "ready"


def test_once_there_is_a_configuration_agentd_is_missed_after_a_while(machine: Machine) -> None:
    machine.error("set_config", {"content": ""})
    assert machine.daemon.state == "ready"
    machine.turn(30)
    assert machine.daemon.state == "degraded"


def test_agents_are_told_in_full_to_our_hosts_and_as_the_original_did_in_health(
    machine: Machine, agentd: Agentd
) -> None:
    entry = agent("a", "running", session="a", error="", started_at=5)
    agentd.tell(entry)
    assert machine.ask(machine.greeted(), "list_agents", id=1)[0]["payload"] == {"agents": [entry]}
    [told] = machine.ask(machine.session(), "get_health")
    assert told["payload"]["agents"] == [{"name": "a", "running": True, "session": "a", "restarts": 0}]


def test_agentd_is_told_to_look_again_when_something_changed(machine: Machine, agentd: Agentd) -> None:
    agentd.tell()
    assert machine.ask(machine.session(), "set_config", {"content": ""}) == []
    machine.error("inject_secret", {"name": "A", "value": "v"})
    machine.error("mount", {"tag": "share0", "guest_path": "/workspace", "fs_type": "virtiofs"})
    assert [agentd.heard()["type"] for _ in range(4)] == ["reload"] * 4


def test_a_configuration_is_answered_when_agentd_has_acted_on_it(machine: Machine, agentd: Agentd) -> None:
    agentd.tell(agent("a", "failed"))
    host = machine.greeted()
    assert machine.ask(host, "set_config", {"content": ""}, 7) == []
    asked = next(one for one in iter(agentd.heard, None) if one.get("id"))
    agentd.tell(agent("a", "starting"))
    agentd.line.sendall(protocol.ack("reload", "", asked["id"]))
    machine.turn()
    assert 7 in [json.loads(line).get("id") for line in heard(host)]
    assert machine.ask(host, "list_agents", id=8)[0]["payload"]["agents"][0]["state"] == "starting"


def test_without_an_agentd_a_configuration_is_answered_at_once(machine: Machine) -> None:
    assert machine.error("set_config", {"content": ""}) == ""


def test_what_is_asked_of_an_agent_is_handed_on_and_its_answer_back(machine: Machine, agentd: Agentd) -> None:
    agentd.tell(agent("a", "running"))
    host = machine.greeted()
    for number, error in ((1, ""), (2, "it is not running")):
        machine.ask(host, "agent", {"name": "a", "action": "signal", "signal": "HUP"}, number)
        asked = agentd.heard()
        assert asked["payload"] == {"name": "a", "action": "signal", "signal": "HUP"}
        agentd.line.sendall(protocol.ack("agent", error, asked["id"]))
        machine.turn()
        [answer] = [json.loads(line) for line in heard(host) if b'"ack"' in line]
        assert (answer["id"], answer["payload"].get("error", "")) == (number, error)


@pytest.mark.parametrize(
    "payload", [{"name": "b", "action": "start"}, {"name": "a", "action": "dance"}, {"name": "a"}, {}]
)
def test_what_cannot_be_asked_of_an_agent_is_refused(machine: Machine, agentd: Agentd, payload: dict[str, str]) -> None:
    agentd.tell(agent("a", "running"))
    assert not machine.ask(machine.greeted(), "agent", payload)[0]["payload"]["ok"]


def test_an_agentd_that_ends_leaves_no_question_open(machine: Machine, agentd: Agentd) -> None:
    agentd.tell(agent("a", "running"))
    host = machine.greeted()
    machine.ask(host, "agent", {"name": "a", "action": "stop"}, 5)
    agentd.leave()
    [answer] = [json.loads(line) for line in heard(host) if b'"ack"' in line]
    assert (answer["id"], answer["payload"]["error"]) == (5, "agentd ended meanwhile")


@pytest.mark.parametrize(
    "line", [b"nonsense\n", b'{"type":"agents","payload":{"agents":[1]}}\n', b'{"type":"agents"}\n', b"x" * 100]
)
def test_nonsense_from_agentd_is_left_out(machine: Machine, agentd: Agentd, line: bytes) -> None:
    agentd.line.sendall(line + b"\n")
    machine.turn()
    agentd.tell(agent("a", "running"))
    assert machine.daemon.state == "healthy"
