"""What an agent's entry says, for everything that systemd and the agent's last end can say."""

from __future__ import annotations

from typing import Any

import pytest

from stereos_guest import agentstate

ABOUT = {"name": "a", "type": "native", "harness": "codex"}
NOTED = {"at": "1700000009", "result": "exit-code", "code": "exited", "status": "3", "restarts": "0"}


def unit(active: str = "inactive", sub: str = "dead", **more: str) -> dict[str, str]:
    return {"ActiveState": active, "SubState": sub, "NRestarts": "0", **more}


def ended(told: str, **noted: str) -> agentstate.Ending:
    return agentstate.ending({**NOTED, **noted}, told)


def entry(shown: dict[str, str], end: agentstate.Ending | None = None, **more: Any) -> dict[str, Any]:
    return agentstate.entry(ABOUT, shown, end, **more)


@pytest.mark.parametrize(
    ("shown", "state", "running"),
    [
        (unit("active", "running"), "running", True),
        (unit("deactivating", "stop-sigterm"), "running", True),
        (unit("activating", "start"), "starting", False),
        (unit("activating", "auto-restart"), "backoff", False),
        (unit("activating", "auto-restart-queued"), "backoff", False),
        (unit(Job="77"), "starting", False),
        (unit(), "starting", False),
        ({}, "starting", False),
    ],
)
def test_what_systemd_holds_is_what_is_told(shown: dict[str, str], state: str, running: bool) -> None:
    found = entry(shown)
    assert (found["state"], found["running"]) == (state, running)


def test_an_end_with_zero_is_an_exit_and_any_other_a_failure() -> None:
    assert entry(unit(), ended("started\nexit 0"))["state"] == "exited"
    found = entry(unit("failed", "failed"), ended("started\nexit 3"))
    assert (found["state"], found["exit_code"], found["ended_at"], found["timed_out"]) == (
        "failed",
        3,
        1700000009,
        False,
    )
    assert "exit_signal" not in found


def test_a_signal_is_told_from_the_exit_code_that_shells_give_it() -> None:
    assert entry(unit("failed"), ended("started\nexit 137"))["exit_code"] == 137
    found = entry(unit("failed"), ended("started\nsignal 9"))
    assert (found["exit_signal"], "exit_code" in found) == ("KILL", False)


def test_an_agent_that_was_killed_with_all_of_its_unit_was_killed() -> None:
    found = entry(unit("failed"), ended("started\n", result="signal", code="killed", status="KILL"))
    assert (found["state"], found["exit_signal"]) == ("failed", "KILL")


def test_a_time_limit_is_a_failure_even_of_one_who_left_politely() -> None:
    found = entry(unit("failed"), ended("started\nexit 0", result="timeout"))
    assert (found["state"], found["timed_out"], found["error"]) == ("failed", True, "timed out")


def test_memory_that_ran_out_is_told() -> None:
    assert entry(unit("failed"), ended("started\nsignal 9", memory="yes"))["error"] == "ran out of memory"
    assert "error" not in entry(unit(), ended("started\nexit 0", memory="yes"))  # it went on without what was killed


def test_what_could_not_start_says_why() -> None:
    found = entry(unit("failed"), ended("error codex: No such file or directory"))
    assert (found["state"], found["error"]) == ("failed", "cannot start: codex: No such file or directory")
    assert "exit_code" not in found
    assert "its secrets" in entry(unit("failed"), ended("", status="243"))["error"]
    assert "status 199" in entry(unit("failed"), ended("", status="199"))["error"]
    assert "cannot start" in entry(unit("failed"), ended("", code="", result="resources"))["error"]
    assert entry(unit(), None, problem="cannot start: x")["state"] == "failed"


def test_waiting_says_for_what() -> None:
    found = entry({}, None, waiting="secret KEY is not there yet")
    assert (found["state"], found["error"], found["running"]) == ("waiting", "secret KEY is not there yet", False)


def test_who_was_stopped_is_stopped_however_it_ended() -> None:
    found = entry(unit("failed"), ended("started\nsignal 15"), stopped=True)
    assert (found["state"], found["exit_signal"]) == ("stopped", "TERM")


def test_restarts_are_counted_over_the_end_of_the_unit() -> None:
    assert entry(unit("activating", "auto-restart", NRestarts="4"), ended("started\nexit 1"))["restarts"] == 4
    assert entry(unit("failed"), ended("started\nexit 1", restarts="5"))["restarts"] == 5


def test_a_running_agent_has_a_start_and_no_end() -> None:
    found = entry(unit("active", "running", ExecMainStartTimestamp="@1700000000"), ended("started\nexit 1"))
    assert found["started_at"] == 1700000000
    assert not {"exit_code", "ended_at", "error"} & found.keys()


@pytest.mark.parametrize("told", ["", "\n", "nonsense", "exit", "exit x", "signal 999", "started\nstarted", "\0"])
def test_records_that_make_no_sense_are_no_success_to_speak_of(told: str) -> None:
    found = entry(unit("failed"), agentstate.ending({}, told))
    assert found["state"] in ("failed", "exited")
