"""Agents as their operator sees them: joined on a terminal, told of in status and logs, changed by apply.

One boot, by the real command line. The agents of `FIRST` come to every kind of end; those of `SECOND` are all well.
"""

from __future__ import annotations

import json
import re
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import pytest

from makers.command import Stereo
from makers.sandboxes import Desk, desk
from makers.terminal import Terminal, terminal

pytestmark = [pytest.mark.boot, pytest.mark.build]

TASK = 'Line one: 100% of $HOME `id`\nline two -- "it\'s" \\ done'
MACHINE = """
[resources]
memory = "1536MiB"
disk = "2GiB"
"""
LEFT_BEHIND = "/home/agent/evil"
# What programs obey before their own first line; some would have root's do the agent's bidding.
_OBEYED = {"BASH_ENV": "", "ENV": "", "LD_PRELOAD": ".so", "LOCPATH": "", "GCONV_PATH": "", "PYTHONSTARTUP": ".py"}
HOSTILE = ", ".join(f'{name} = "{LEFT_BEHIND}{ending}"' for name, ending in _OBEYED.items())


def agent(name: str, script: str, more: str = "", kind: str = "native") -> str:
    """An agent that runs a shell script."""
    return f"""
[[agents]]
name = "{name}"
type = "{kind}"
harness = "custom"
command = ["/bin/bash", "-c", {json.dumps(script)}]
{more}
"""


TYPIST = """
[[agents]]
name = "typist"
type = "native"
harness = "custom"
command = ["/bin/sh"]
session = "typist"
"""
PEER = agent("peer", "exec sleep 1000000")
# As most write it: no type, so sandboxed.
PLAIN = """
[[agents]]
name = "plain"
harness = "custom"
command = ["/bin/bash", "-c", "echo in $PWD as $USER with $COLOUR; /usr/bin/dmesg | grep -c 'Starting gVisor'; exit 7"]
env = { COLOUR = "blue" }
"""
READER = """
[[agents]]
name = "reader"
type = "native"
harness = "custom"
command = ["/usr/bin/printf", "<%s>"]
prompt_file = "task.md"
"""
STUBBORN = "trap 'echo asked' TERM; while :; do sleep 0.2; done"
FIRST = (
    MACHINE
    + TYPIST
    + PEER
    + PLAIN
    + READER
    + agent("killed", "echo last words; kill -KILL $BASHPID")
    + agent("late", STUBBORN, 'timeout = "4s"\ngrace_period = "1s"')
    + agent("greedy", "exec tail /dev/zero", 'memory = "64MiB"')
    + agent("crowd", "for i in {1..60}; do sleep 100 & done; wait", "pid_limit = 20")
    + agent("glutton", "exec tail /dev/zero", 'memory = "96MiB"', "sandboxed")
    + agent("swarm", "for i in {1..200}; do sleep 30 & done; echo all", "pid_limit = 80", "sandboxed")
    + agent("stubborn", STUBBORN, 'timeout = "30s"\ngrace_period = "1s"', "sandboxed")
    + agent("nowhere", "echo here", 'workdir = "/home/agent/no/such"')
    + agent("team", "echo $0 is $SHARED; exec sleep 1000000", 'replicas = 2\nenv = { SHARED = "both" }')
)
SECOND = (
    MACHINE
    + TYPIST
    + PEER
    + PLAIN.replace("exit 7", "exit 0")
    + agent("careful", "exit 0", f'env = {{ {HOSTILE}, LC_ALL = "evil" }}\nrestart = "always"\nmax_restarts = 1')
    + agent("boxed", "exit 0", f'env = {{ {HOSTILE}, LC_ALL = "evil" }}', "sandboxed")
)


@pytest.fixture(scope="module")
def one(stereo: Stereo, base: Path) -> Iterator[Desk]:
    with desk(stereo, base) as one:
        (one.home / "task.md").write_text(f"\n{TASK}\n\n")
        one.write(FIRST)
        one("up", timeout=400)
        yield one


@pytest.fixture(scope="module")
def ends(one: Desk) -> dict[str, dict[str, Any]]:
    """The agents by name, once those that end have ended."""
    for name in ("plain", "reader", "killed", "late", "greedy", "crowd", "nowhere", "glutton", "swarm", "stubborn"):
        one.agent_until(name, "exited", "failed")
    return {row["name"]: row for row in one.status()["agents"]}


def attached(one: Desk, name: str) -> AbstractContextManager[Terminal]:
    """`stereo attach` on a terminal."""
    stereo = one.stereo
    return terminal(stereo.argv("attach", name), one.home, stereo.environment(one.variables))


def said(one: Desk, name: str) -> list[str]:
    """What an agent wrote, line by line, without times."""
    return [row["text"] for row in one.lines("logs", name, "--json")]


def pid(one: Desk, name: str) -> str:
    show = ("systemctl", "show", "--value", "--property=MainPID", f"stereos-agent-{name}.service")
    return one("exec", "-u", "root", *show).stdout.strip()


# --- ends ---


def test_the_end_of_every_agent_is_told(ends: dict[str, dict[str, Any]]) -> None:
    assert (ends["plain"]["state"], ends["plain"]["exit_code"]) == ("failed", 7)
    assert (ends["killed"]["state"], ends["killed"]["exit_signal"]) == ("failed", "KILL")
    assert (ends["late"]["state"], ends["late"]["timed_out"], ends["late"]["error"]) == ("failed", True, "timed out")
    assert (ends["greedy"]["exit_signal"], ends["greedy"]["error"]) == ("KILL", "ran out of memory")
    assert (ends["crowd"]["state"], ends["crowd"]["exit_code"]) == ("failed", 254)  # what bash makes of it
    assert "working directory /home/agent/no/such: No such file or directory" in ends["nowhere"]["error"]
    assert (ends["reader"]["state"], ends["reader"]["exit_code"]) == ("exited", 0)


def test_limits_hold_for_sandboxed_agents_too(one: Desk, ends: dict[str, dict[str, Any]]) -> None:
    stubborn, glutton = ends["stubborn"], ends["glutton"]
    assert (stubborn["timed_out"], stubborn["exit_signal"], stubborn["error"]) == (True, "KILL", "timed out")
    # The kernel would let it read its program again and again, for ever.
    assert (glutton["state"], glutton["exit_signal"], glutton["error"]) == ("failed", "KILL", "ran out of memory")
    assert ends["swarm"]["state"] == "failed"
    assert "all" not in said(one, "swarm")


def test_status_tells_people_the_same(one: Desk, ends: dict[str, dict[str, Any]]) -> None:
    rows = {row.split()[0]: row for row in one("status").stdout.splitlines() if row.strip()}
    for name, words in {"plain": "7", "killed": "KILL", "late": "timed out", "greedy": "ran out of memory"}.items():
        assert words in rows[name], rows[name]


def test_an_agent_without_a_type_is_sandboxed_and_keeps_its_output(one: Desk, ends: dict[str, dict[str, Any]]) -> None:
    assert ends["plain"]["type"] == "sandboxed"
    assert said(one, "plain") == ["in /home/agent/workspace as agent with blue", "1"]


def test_logs_of_an_ended_agent_have_times(one: Desk, ends: dict[str, dict[str, Any]]) -> None:
    row = one("logs", "killed").stdout
    assert re.fullmatch(r"20\d\d-\d\d-\d\d \d\d:\d\d:\d\d killed \| last words\n", row)
    (entry,) = one.lines("logs", "killed", "--json")
    assert abs(entry["time"] - ends["killed"]["ended_at"]) < 30
    assert said(one, "late") == ["asked"]
    assert any("fork" in text for text in said(one, "crowd"))


def test_a_prompt_file_of_the_host_arrives_letter_by_letter(one: Desk, ends: dict[str, dict[str, Any]]) -> None:
    assert "\n".join(said(one, "reader")) == f"<{TASK}>"


def test_replicas_are_agents_of_their_own(one: Desk) -> None:
    assert {one.agent(f"team-{number}")["state"] for number in (0, 1)} == {"running"}
    assert pid(one, "team-0") != pid(one, "team-1")
    assert said(one, "team-0") == said(one, "team-1") == ["/bin/bash is both"]


def test_a_guest_with_failed_agents_is_degraded(one: Desk, ends: dict[str, dict[str, Any]]) -> None:
    assert one.status()["guest"] == "degraded"


# --- terminals ---


def test_a_terminal_is_joined_and_left_and_the_agent_goes_on(one: Desk) -> None:
    assert one.agent_until("typist", "running")["session"] == "typist"
    before = pid(one, "typist")
    with attached(one, "typist") as person:
        assert person.sees(b"$ "), person.shown
        person.types(b"word=left; echo a''nswer $(id -un) $(stty size)\r")
        assert person.sees(b"answer agent 29 100"), person.shown  # a row is tmux's own
        person.is_sized(40, 90)
        person.types(b"sleep 1; echo n''ow $(stty size)\r")
        assert person.sees(b"now 39 90"), person.shown
        person.types(b"\x02d")
        assert person.status() == 0
    assert (one.agent("typist")["state"], pid(one, "typist")) == ("running", before)


def test_who_joins_again_finds_what_was_left_and_can_end_the_agent(one: Desk) -> None:
    with attached(one, "typist") as person:
        assert person.sees(b"$ "), person.shown
        person.types(b"echo s''till $word\r")
        assert person.sees(b"still left"), person.shown
        person.types(b"exit 3\r")
        person.status()
    row = one.agent_until("typist", "failed", "exited")
    assert (row["state"], row["exit_code"], row["running"]) == ("failed", 3, False)
    assert any("still left" in text for text in said(one, "typist"))  # what the terminal showed


def test_an_agent_without_a_terminal_cannot_be_joined(one: Desk) -> None:
    for name in ("peer", "nobody"):
        with attached(one, name) as person:
            assert person.status() == 2
            assert person.sees(f"agent {name} has no terminal now".encode())


# --- changes ---


def test_apply_mends_agents_and_leaves_the_others_alone(one: Desk, ends: dict[str, dict[str, Any]]) -> None:
    evil = f"echo 'echo $(/usr/bin/id -u) >>{LEFT_BEHIND}.ran' >{LEFT_BEHIND}"
    one("exec", "sh", "-c", evil)
    before = pid(one, "peer")
    one.write(SECOND)
    assert one("apply").stdout == "agents\n"
    for name in ("plain", "careful", "boxed"):
        one.agent_until(name, "exited")
    assert pid(one, "peer") == before != "0"
    rows = one.status()["agents"]
    assert sorted(row["name"] for row in rows) == ["boxed", "careful", "peer", "plain", "typist"]


def test_a_guest_whose_agents_are_mended_is_healthy_again(one: Desk) -> None:
    end = time.monotonic() + 60
    one.write(SECOND.replace(TYPIST, ""))  # that had ended with 3, and nobody had changed it
    one("apply")
    while (guest := one.status()["guest"]) != "healthy" and time.monotonic() < end:
        time.sleep(0.5)
    assert guest == "healthy"


def test_variables_of_a_jcard_are_the_agents_alone(one: Desk) -> None:
    assert one.agent("careful")["restarts"] == 1
    ran = one("exec", "cat", f"{LEFT_BEHIND}.ran").stdout.split()
    assert ran == ["1000"] * 3  # twice native, once sandboxed: by the agents' own bash, as whoever they are
    # The loader complains of a library that is not there, whatever it loads.
    for user, complains in (("0", False), ("1000", True)):
        match = ("--unit=stereos-agent-careful.service", f"_UID={user}")
        journal = one("exec", "-u", "root", "journalctl", "--no-pager", "--output=cat", *match).stdout
        assert (f"{LEFT_BEHIND}.so" in journal) is complains, journal
