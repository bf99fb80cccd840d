"""The reconciliation: what is started, stopped and left alone. systemd is a stand-in that keeps units in a file."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from makers.agents import AgentMachine, table
from stereos_guest.agentfleet import ActionError, Fleet
from stereos_guest.systemctl import Systemctl, SystemctlError


@pytest.fixture
def machine(tmp_path: Path) -> AgentMachine:
    return AgentMachine(tmp_path)


def look(fleet: Fleet) -> dict[str, dict[str, Any]]:
    fleet.reconcile()
    fleet.observe()
    return {entry["name"]: entry for entry in fleet.entries()}


def test_without_a_jcard_nothing_is_touched(machine: AgentMachine) -> None:
    assert look(machine.fleet()) == {}
    assert machine.calls() == []


def test_agents_are_started_all_at_once(machine: AgentMachine) -> None:
    machine.card(table("a") + table("b"))
    found = look(machine.fleet())
    assert machine.calls() == ["restart a b"]
    about = {"name": "a", "type": "native", "harness": "custom"}
    assert found["a"] == about | {"running": True, "state": "running", "restarts": 0, "started_at": 1700000000}
    assert '"sleep" "9"' in machine.unit("a")


def test_looking_again_changes_nothing(machine: AgentMachine) -> None:
    machine.card(table("a"))
    fleet = machine.fleet()
    look(fleet)
    machine.calls()
    look(fleet)
    assert machine.calls() == []


def test_only_the_changed_agent_is_restarted(machine: AgentMachine) -> None:
    machine.card(table("a") + table("b"))
    fleet = machine.fleet()
    look(fleet)
    machine.calls()
    machine.card(table("b", "sleep 8") + table("a"))
    look(fleet)
    assert machine.calls() == ["daemon-reload", "restart b"]


def test_a_variable_is_a_change_too(machine: AgentMachine) -> None:
    machine.card(table("a", more='env = { A = "1" }'))
    fleet = machine.fleet()
    look(fleet)
    machine.calls()
    machine.card(table("a", more='env = { A = "2" }'))
    look(fleet)
    assert machine.calls() == ["daemon-reload", "restart a"]
    assert (machine.folder("a") / "environment").read_text() == "A=2\0"


def test_a_removed_agent_is_stopped_and_then_forgotten(machine: AgentMachine) -> None:
    machine.card(table("a") + table("b"))
    fleet = machine.fleet()
    look(fleet)
    machine.calls()
    machine.card(table("a"))
    fleet.reconcile()
    assert machine.calls() == ["stop b"]
    machine.becomes("b", "deactivating", "stop-sigterm")
    fleet.observe()
    assert {entry["name"]: entry["running"] for entry in fleet.entries()} == {"a": True, "b": True}
    assert machine.has_unit("b")  # with it, systemd would forget how to end it
    machine.becomes("b", "failed", "failed")
    assert look(fleet).keys() == {"a"}
    assert not machine.has_unit("b")
    assert not machine.folder("b").exists()
    assert machine.calls() == ["reset-failed b"]


def test_one_who_ended_is_not_started_by_looking(machine: AgentMachine) -> None:
    machine.card(table("a"))
    fleet = machine.fleet()
    look(fleet)
    machine.calls()
    machine.ends("a", "exit 3")
    assert look(fleet)["a"]["exit_code"] == 3
    assert look(machine.fleet())["a"]["state"] == "failed"  # agentd was restarted meanwhile
    assert machine.calls() == []


def test_a_new_daemon_takes_up_what_runs(machine: AgentMachine) -> None:
    machine.card(table("a") + table("b"))
    before = look(machine.fleet())
    machine.calls()
    assert look(machine.fleet()) == before
    assert machine.calls() == []


def test_a_jcard_that_cannot_be_used_changes_nothing_and_is_told(machine: AgentMachine) -> None:
    machine.card(table("a"))
    fleet = machine.fleet()
    before = look(fleet)
    machine.calls()
    for text in ("not toml", table("b") + table("b"), '[[agents]]\nharness = "vi"\n', "\xff" * 10):
        machine.card(text)
        assert look(fleet) == before
        assert fleet.error.startswith("/etc/stereos/jcard.toml: ")
    assert look(machine.fleet()) == before  # nor does it for a daemon that has not seen the one in force
    assert machine.calls() == []
    machine.card(table("a"))
    look(fleet)
    assert fleet.error == ""


def test_a_jcard_that_is_too_long_is_refused(machine: AgentMachine) -> None:
    machine.card("#" * (2 << 20))
    fleet = machine.fleet()
    look(fleet)
    assert "longer than" in fleet.error


def test_an_agent_waits_for_its_secrets(machine: AgentMachine) -> None:
    machine.card(table("a", more='secrets = ["KEY"]') + table("b"))
    fleet = machine.fleet()
    found = look(fleet)
    assert (found["a"]["state"], found["a"]["error"]) == ("waiting", "secret KEY is not there yet")
    assert machine.calls() == ["restart b"]
    machine.secret("KEY", "value")
    assert look(fleet)["a"]["state"] == "running"
    assert machine.calls() == ["restart a"]


def test_a_secret_restarts_those_who_list_it_and_only_when_it_changed(machine: AgentMachine) -> None:
    machine.secret("KEY", "one")
    machine.card(table("a", more='secrets = ["KEY"]') + table("b"))
    fleet = machine.fleet()
    look(fleet)
    machine.calls()
    machine.secret("KEY", "one")
    machine.secret("OTHER", "x")
    look(fleet)
    assert machine.calls() == []
    machine.secret("KEY", "two")
    look(fleet)
    assert machine.calls() == ["daemon-reload", "restart a"]


def test_a_secret_that_is_taken_away_stops_who_had_it(machine: AgentMachine) -> None:
    machine.secret("KEY", "one")
    machine.card(table("a", more='secrets = ["KEY"]'))
    fleet = machine.fleet()
    look(fleet)
    machine.calls()
    machine.secret("KEY", None)
    assert look(fleet)["a"]["state"] == "waiting"
    assert machine.calls() == ["stop a"]
    machine.secret("KEY", "one")
    assert look(fleet)["a"]["state"] == "running"


def test_no_file_of_agentd_has_a_secret(machine: AgentMachine) -> None:
    machine.secret("KEY", "hush-1234")
    machine.card(table("a", more='secrets = ["KEY"]'))
    look(machine.fleet())
    for path in machine.root.rglob("*"):
        if path.is_file() and path.parent.name != "secrets":
            assert "hush" not in path.read_text(), path


def test_an_agent_waits_for_the_shares(machine: AgentMachine) -> None:
    machine.card(table("a") + '[[shared]]\nguest = "/work space"\n[[shared]]\nguest = "/b"\n')
    fleet = machine.fleet()
    machine.mount("/b")
    assert look(fleet)["a"]["error"] == "share /work space is not mounted yet"
    assert machine.calls() == []
    machine.mount("/b", "/work\\040space")
    assert look(fleet)["a"]["state"] == "running"
    machine.calls()
    machine.mount()
    assert look(fleet)["a"]["state"] == "running"  # it has it
    assert machine.calls() == []


def test_an_agent_whose_prompt_lies_in_a_share_waits_for_that(machine: AgentMachine) -> None:
    machine.card(table("a", more='prompt_file = "/b/task"') + '[[shared]]\nguest = "/b"\n')
    fleet = machine.fleet()
    assert look(fleet)["a"]["state"] == "waiting"
    (machine.root / "b").mkdir()
    (machine.root / "b/task").write_text("do this")
    machine.mount("/b")
    assert look(fleet)["a"]["state"] == "running"


def test_a_prompt_is_read_from_its_file(machine: AgentMachine) -> None:
    folder = machine.root / "workspace"
    folder.mkdir()
    (folder / "task").write_text("\n do this \n")
    machine.card(table("a", more='prompt_file = "/workspace/task"'))
    look(machine.fleet())
    assert '"sleep" "9" "do this"' in machine.unit("a")


@pytest.mark.parametrize("trick", ["missing", "link", "folder link", "folder", "fifo", "binary", "huge"])
def test_a_prompt_file_that_is_none_fails_that_agent_alone(machine: AgentMachine, tmp_path: Path, trick: str) -> None:
    """A link of the agent's could have root read for it what it may not read itself: another agent's secret."""
    machine.secret("KEY", "hush")
    path = machine.root / "workspace" / "task"
    path.parent.mkdir()
    match trick:
        case "link":
            path.symlink_to(machine.root / "run/stereos/secrets/KEY")
        case "folder link":
            path.parent.rmdir()
            path.parent.symlink_to(machine.root / "run/stereos/secrets")
            machine.secret("task", "hush")
        case "folder":
            path.mkdir()
        case "fifo":
            os.mkfifo(path)
        case "binary":
            path.write_bytes(b"\xff")
        case "huge":
            path.write_text("x" * 200_000)
    machine.card(table("a", more='prompt_file = "/workspace/task"') + table("b"))
    fleet = machine.fleet()
    found = look(fleet)
    assert (found["a"]["state"], found["b"]["state"]) == ("failed", "running")
    assert found["a"]["error"].startswith("cannot start: ")
    assert "hush" not in found["a"]["error"]
    assert machine.calls() == ["restart b"]


def test_what_systemd_refuses_is_told_of_that_agent(machine: AgentMachine) -> None:
    machine.refuse("a")
    machine.card(table("a") + table("b"))
    found = look(machine.fleet())
    assert (found["a"]["state"], found["b"]["state"]) == ("failed", "running")
    assert "Unit stereos-agent-a.service is masked." in found["a"]["error"]


def test_a_systemd_that_is_not_there_is_an_error_to_be_told(machine: AgentMachine) -> None:
    machine.card(table("a"))
    fleet = Fleet(Systemctl("/no/such/program"), str(machine.root))
    fleet.reconcile()
    with pytest.raises(SystemctlError):
        fleet.observe()


def test_the_operator_stops_and_starts(machine: AgentMachine) -> None:
    machine.card(table("a"))
    fleet = machine.fleet()
    look(fleet)
    machine.calls()
    fleet.act("a", "stop")
    assert look(fleet)["a"]["state"] == "stopped"
    assert look(machine.fleet())["a"]["state"] == "stopped"  # it is remembered
    assert machine.calls() == ["stop a"]
    fleet.act("a", "start")
    assert look(fleet)["a"]["state"] == "running"
    fleet.act("a", "start")  # it runs
    fleet.act("a", "restart")
    fleet.act("a", "signal", "USR1")
    assert machine.calls() == ["start a", "restart a", "kill --kill-whom=main --signal=USR1 a"]


def test_a_changed_agent_starts_though_it_was_stopped(machine: AgentMachine) -> None:
    machine.card(table("a"))
    fleet = machine.fleet()
    look(fleet)
    fleet.act("a", "stop")
    machine.card(table("a", "sleep 8"))
    assert look(fleet)["a"]["state"] == "running"


@pytest.mark.parametrize(
    ("name", "action", "signal", "said"),
    [
        ("nobody", "stop", "", "agent not found"),
        ("a", "dance", "", "'dance' is none of"),
        ("a", "signal", "", "is none of HUP"),
        ("a", "signal", "STOP", "is none of HUP"),
        ("a", "signal", "KILL --help", "is none of HUP"),
        ("../a", "stop", "", "agent not found"),
        ("w", "start", "", "secret KEY is not there yet"),
    ],
)
def test_what_cannot_be_done_is_refused(machine: AgentMachine, name: str, action: str, signal: str, said: str) -> None:
    machine.card(table("a") + table("w", more='secrets = ["KEY"]'))
    fleet = machine.fleet()
    look(fleet)
    with pytest.raises(ActionError, match=said.replace("(", "\\(")):
        fleet.act(name, action, signal)


def test_what_is_about_to_change_is_looked_at_again(machine: AgentMachine) -> None:
    machine.card(table("a"))
    fleet = machine.fleet()
    fleet.reconcile()
    assert fleet.observe() is False
    machine.becomes("a", "deactivating", "stop-post")
    assert fleet.observe() is True


def test_who_is_stalled_at_its_memory_limit_is_killed(machine: AgentMachine) -> None:
    machine.card(table("a", more='memory = "1MiB"') + table("b"))
    fleet = machine.fleet()
    look(fleet)
    machine.calls()
    group = machine.root / "sys/fs/cgroup/stereos.slice/stereos-agents.slice/stereos-agent-a.service"
    group.mkdir(parents=True)
    waits = "full avg10=97.00 avg60=91.11 avg300=38.00 total=8\n"
    for name, text in {"max": "1048576\n", "stat": "anon 1048000\n", "pressure": waits}.items():
        (group / f"memory.{name}").write_text(text)
    look(fleet)
    assert machine.calls() == ["kill --signal=KILL a"]
    assert (machine.folder("a") / "stalled").exists()  # for agent-event to tell of
