"""Agents in a real machine: they end, restart, run out of time and memory, keep secrets, survive their daemon.

One boot goes through all of it (agentprobe.py); the tests judge what it saw.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from e2e import agentprobe
from makers.probe import Prober
from stereo.paths import Cache
from stereo.report import Silent
from stereo.vm.accel import choose
from stereo.vm.programs import Programs
from stereo.vm.qemu import QemuBackend

pytestmark = [pytest.mark.boot, pytest.mark.build]


@pytest.fixture(scope="module")
def found(
    base: Path, tools_tree: Path, cache: Cache, tell: Callable[[str], None], tmp_path_factory: pytest.TempPathFactory
) -> dict[str, Any]:
    programs = Programs.find(tools_tree)
    folder = tmp_path_factory.mktemp("agents")
    accelerator = choose(programs, cache.probe, Silent())
    program = Path(agentprobe.__file__)
    prober = Prober(base, QemuBackend(programs, folder / "scratch"), accelerator, folder, tell, program)
    return prober.ask(prober.spec(), "a machine whose agents live through everything")


def ended(entry: dict[str, Any], state: str, **more: Any) -> bool:
    """Whether an entry has this state and no other end than that."""
    kinds = {key: entry[key] for key in ("exit_code", "exit_signal") if key in entry}
    return entry["state"] == state and not entry["running"] and kinds == more


def answer(lines: list[dict[str, Any]]) -> dict[str, Any]:
    return dict(next(line["payload"] for line in lines if line.get("id")))


def test_every_part_of_the_probe_came_to_its_end(found: dict[str, Any]) -> None:
    assert [found[key] for key in found if key.endswith(" failed")] == []


def test_without_agents_the_daemon_waits_and_takes_little(found: dict[str, Any]) -> None:
    assert found["idle"]["agents"] == {"status": 200, "body": []}
    assert "NRestarts=0" in found["unit"]
    for memory in (found["memory"], found["memory at the end"]):
        assert next(int(row.split()[1]) for row in memory.splitlines() if row.startswith("VmRSS")) <= 18 << 10


# --- how agents end ---


def test_the_exit_status_is_the_true_one(found: dict[str, Any]) -> None:
    ends = found["ends"]
    assert ended(ends["good"], "exited", exit_code=0)
    assert ended(ends["seven"], "failed", exit_code=7)
    assert ended(ends["likely"], "failed", exit_code=137)
    assert ended(ends["killed"], "failed", exit_signal="KILL")
    assert ended(ends["terminated"], "failed", exit_signal="TERM")


def test_an_agent_is_who_and_where_it_should_be(found: dict[str, Any]) -> None:
    said = found["said"]["good"]
    assert "HOME=/home/agent USER=agent PATH=/usr/lib/stereos/agent/bin PWD=/home/agent/workspace" in said
    assert "uid=1000(agent) gid=1000(agent) groups=1000(agent)\n" in said
    assert "bad\n" in said  # what it said on stderr


def test_a_prompt_arrives_letter_by_letter(found: dict[str, Any]) -> None:
    assert found["said"]["odd"] == "<100% of $HOME `id` \\ \"quoted\" 'x' \t\u00e9\nsecond line -- end>\n"


def test_who_cannot_start_says_why_and_is_not_tried_for_ever(found: dict[str, Any]) -> None:
    ends = found["ends"]
    assert ended(ends["absent"], "failed")  # though its policy is: always
    assert ends["absent"]["error"] == "cannot start: no-such-program: No such file or directory"
    assert ends["nowhere"]["error"] == "cannot start: working directory /no/such/folder: No such file or directory"
    assert ends["speechless"]["error"] == "cannot start: /no/prompt: No such file or directory"


def test_one_agent_is_found_by_its_name_in_any_case(found: dict[str, Any]) -> None:
    seven, nobody = found["one"]
    assert (seven["status"], seven["body"]["name"]) == (200, "seven")
    assert nobody == {"status": 404, "body": {"error": "agent not found"}}


# --- restarts and limits ---


def test_restarts_follow_the_policy_and_stop_at_their_number(found: dict[str, Any]) -> None:
    restarts = found["restarts"]
    assert ended(restarts["thrice"], "failed", exit_code=3)
    assert ended(restarts["twice"], "exited", exit_code=0)
    assert ended(restarts["once"], "exited", exit_code=0)
    assert {name: restarts[name]["restarts"] for name in found["runs"]} == {"thrice": 2, "twice": 1, "once": 0}
    assert found["runs"] == {"thrice": 3, "twice": 2, "once": 1}


def test_waiting_for_a_restart_is_told_and_grows(found: dict[str, Any]) -> None:
    assert ended(found["backoff"]["ever"], "backoff", exit_code=1)
    first, second, third = found["waits"][:3]  # microseconds
    assert 1_000_000 <= first < second < third


def test_a_time_limit_ends_the_agent_for_good(found: dict[str, Any]) -> None:
    late, polite = found["limits"]["late"], found["limits"]["polite"]
    assert ended(late, "failed", exit_signal="KILL")
    assert ended(polite, "failed", exit_code=0)
    assert (late["timed_out"], polite["timed_out"], polite["restarts"]) == (True, True, 0)
    assert found["limits said"]["late"] == "asked\n"  # SIGTERM, its grace, SIGKILL
    assert found["limits said"]["polite"] == "bye\n"


def test_a_memory_limit_kills_what_breaks_it_and_tells(found: dict[str, Any]) -> None:
    assert ended(found["limits"]["greedy"], "failed", exit_signal="KILL")
    assert found["limits"]["greedy"]["error"] == "ran out of memory"
    assert ended(found["limits"]["survivor"], "exited", exit_code=0)
    assert "went on after 137" in found["limits said"]["survivor"]


def test_a_process_limit_holds(found: dict[str, Any]) -> None:
    assert "fork" in found["limits said"]["crowd"]
    assert found["limits"]["crowd"]["state"] == "failed"


# --- secrets ---


def test_a_secret_reaches_who_lists_it_and_nobody_else(found: dict[str, Any]) -> None:
    assert found["holder"] == f"length {len(agentprobe.KEY)} other 0\n{len(agentprobe.KEY) + 1}\n"
    assert found["theft"]["holder"]["state"] == "running"  # while it was looked for
    before, _, after = found["thief"].partition("processes\n")
    assert sorted(before.splitlines()) == [
        *("/run/agentd:", "/run/credentials:", "listing"),
        *("ls: cannot open directory '/run/stereos': Permission denied", "stereos-agent-thief.service", "thief"),
    ]
    assert after.splitlines()[-1] == "searched"
    assert len(after.splitlines()) <= 4  # it sees no processes but its own


def test_no_secret_is_where_it_would_be_seen(found: dict[str, Any]) -> None:
    for place in ("journal", "unit", "command line"):
        assert found[f"{place} has key"] is False


def test_an_agent_waits_for_its_secret_and_starts_with_it(found: dict[str, Any]) -> None:
    waiting = found["waiting"]["patient"]
    assert (waiting["state"], waiting["error"]) == ("waiting", "secret THIRD is not there yet")
    entry, said = found["patient"]
    assert (entry["state"], said) == ("exited", "got third\n")


def test_a_secret_restarts_its_agent_only_when_it_changed(found: dict[str, Any]) -> None:
    first, same = found["holder kept"]
    assert first == same != "0"
    old, new = found["holder changed"]
    assert old != new != "0"
    assert found["revoked"]["state"] == "waiting"


# --- changes ---


def test_changing_one_agent_leaves_the_others_alone(found: dict[str, Any]) -> None:
    first, second = found["pids"]
    assert first["one"] == second["one"] != "0"
    assert first["two"] != second["two"] != "0"
    assert "three" not in found["reloaded"]
    assert "ActiveState=inactive" in found["three gone"]["out"]
    assert found["reloaded"]["done"]["exit_code"] == 4  # and it was not started again


def test_a_refused_jcard_changes_nothing_and_is_told(found: dict[str, Any]) -> None:
    pids, health, agents = found["after refusal"]
    assert pids == found["pids"][1]
    assert "harness: is 'nonsense'" in health["error"]
    assert {name for name, entry in agents.items() if entry["running"]} == {"one", "two", "four"}


def test_agents_outlive_their_daemon_and_are_taken_up_again(found: dict[str, Any]) -> None:
    pids, agents, restarts = found["after kill"]
    assert restarts == "1"
    assert pids == {name: found["pids"][1][name] for name in ("one", "two")}
    assert (agents["one"]["state"], agents["two"]["state"]) == ("running", "running")
    assert ended(agents["four"], "failed", exit_signal="KILL")  # it ended while nobody looked
    assert ended(agents["done"], "failed", exit_code=4)
    after, one = found["taken up"]
    assert (sorted(after), one) == (["done", "one"], pids["one"])


# --- the operator ---


def test_replicas_are_agents_of_their_own(found: dict[str, Any]) -> None:
    assert all(found["replicas"][f"team-{number}"]["running"] for number in range(3))


def test_signals_reach_the_agent(found: dict[str, Any]) -> None:
    assert answer(found["signal"])["ok"]
    assert found["signalled"] == "woken\n"


def test_who_was_stopped_stays_stopped_until_started(found: dict[str, Any]) -> None:
    assert answer(found["stop"])["ok"]
    assert answer(found["start"])["ok"]
    assert ended(found["stopped"], "stopped", exit_signal="TERM")
    assert found["stays stopped"]["state"] == "stopped"
    entry, old, new = found["started"]
    assert (entry["running"], old != new) == (True, True)
    assert found["restarted"][1] not in ("0", new)


def test_what_cannot_be_done_is_refused(found: dict[str, Any]) -> None:
    assert [answer(lines)["ok"] for lines in found["wrong"]] == [False, False, False]


# --- terminals ---


def test_a_terminal_is_joined_and_left_and_joined_again(found: dict[str, Any]) -> None:
    assert found["terminals"]["typist"]["session"] == "typist"
    assert found["seen"][0], found["seen"][1]
    left, entry = found["left"]
    assert (left, entry["running"]) == (True, True)
    assert (found["again"], found["heard"]) == (True, True)


def test_the_end_of_an_interactive_agent_is_the_true_one_and_leaves_no_shell(found: dict[str, Any]) -> None:
    agents, left, said, off, _ = found["typed"]
    assert ended(agents["typist"], "failed", exit_code=5)
    assert ended(agents["ended"], "exited", exit_code=0)
    assert left  # who was attached is let go
    assert "heard hello there" in said
    assert off == "off\n"
    hung, last = found["hung"]
    assert ended(hung, "stopped", exit_code=9)
    assert last == "up\ntold\n"
    assert found["left over"] == ""


def test_no_agent_reaches_the_terminal_of_another(found: dict[str, Any]) -> None:
    spied = found["typed"][4]
    assert "/run/agentd/spy" in spied
    assert "typist" not in spied
    assert "reached" not in spied
