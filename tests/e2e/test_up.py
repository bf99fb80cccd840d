"""A sandbox from the first `up` to `destroy`, in a real machine: what stays, what is told, what death leaves behind."""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from makers.command import Stereo
from makers.processes import SOON, alive
from makers.sandboxes import Desk, desk, found_in

pytestmark = [pytest.mark.boot, pytest.mark.build]

KEY = "sk-up-9d1f7c2e5b8a4630"
JCARD = """
[resources]
memory = "1GiB"
disk = "2GiB"

[secrets]
KEY = "${TEST_KEY}"

[[agents]]
name = "good"
type = "native"
harness = "custom"
command = ["/bin/sh", "-c", "test -n \\"$KEY\\""]
prompt = "none"
secrets = ["KEY"]

[[agents]]
name = "bad"
type = "native"
harness = "custom"
command = ["/bin/sh", "-c", "exit 3"]
prompt = "none"

[[agents]]
name = "long"
type = "native"
harness = "custom"
command = ["/bin/sh", "-c", "exec sleep 1000000"]
prompt = "none"
"""


@pytest.fixture(scope="module")
def one(stereo: Stereo, base: Path) -> Iterator[Desk]:
    with desk(stereo, base) as one:
        one.variables["TEST_KEY"] = KEY
        one.write(JCARD)
        one("up", timeout=400)
        yield one


def running(one: Desk) -> None:
    if one.status()["state"] != "running":
        one("up", timeout=400)


def test_agents_ran_and_how_they_ended_is_known(one: Desk) -> None:
    assert one.agent_until("good", "exited", "failed")["exit_code"] == 0
    assert one.agent_until("bad", "exited", "failed")["exit_code"] == 3
    assert one.agent("long")["state"] == "running"
    assert one.status()["guest"] == "degraded"


def test_a_command_runs_inside(one: Desk) -> None:
    assert one("exec", "id", "-un").stdout == "agent\n"
    assert one("exec", "sh", "-c", "exit 7", status=None).returncode == 7


def test_up_again_is_no_work(one: Desk) -> None:
    began = time.monotonic()
    assert "nothing changed" in one("up").stderr
    assert time.monotonic() - began < 10


def test_apply_changes_one_agent_and_leaves_the_others_alone(one: Desk) -> None:
    running(one)
    before = one.agent("long")["started_at"]
    one.write(JCARD.replace("exit 3", "exit 4"))
    assert one("apply").stdout == "agents\n"
    give_up = time.monotonic() + 60
    while one.agent("bad").get("exit_code") != 4:
        assert time.monotonic() < give_up, one.agent("bad")
        time.sleep(0.5)
    assert one.agent("long")["started_at"] == before


def test_ssh_leads_in_with_the_host_key_checked(one: Desk) -> None:
    running(one)
    for user in ("admin", "agent"):
        assert one("ssh", "-u", user, "desk", "id", "-un").stdout == f"{user}\n"


def test_down_and_up_keep_the_home_and_take_the_edited_jcard(one: Desk) -> None:
    running(one)
    one("exec", "sh", "-c", "echo kept >~/kept")
    told = json.loads(one("down", "--json").stdout)
    assert told["how"] == "it shut down"
    assert one.status()["state"] == "stopped"
    one.write(JCARD.replace("exit 3", "exit 5"))
    one("up", timeout=400)
    assert one("exec", "sh", "-c", "cat ~/kept").stdout == "kept\n"
    assert one.agent_until("bad", "failed")["exit_code"] == 5


def test_the_key_is_nowhere_on_disk(one: Desk) -> None:
    running(one)
    assert found_in(one.root, KEY.encode()) == []


def test_a_killed_qemu_is_told_and_recovered_from(one: Desk) -> None:
    running(one)
    family = one.family()
    os.kill(one.helper(b"-blockdev").pid, signal.SIGKILL)
    told = one.until("failed")
    assert "signal 9" in told["reason"]
    time.sleep(SOON)
    assert alive(family) == []
    one("up", timeout=400)
    assert one.status()["state"] == "running"


def test_a_killed_supervisor_takes_all_with_it_and_up_starts_again(one: Desk) -> None:
    running(one)
    family = one.family()
    os.kill(family[0].pid, signal.SIGKILL)
    time.sleep(SOON)
    assert alive(family) == []
    assert one.status()["state"] == "crashed"
    one("up", timeout=400)
    assert one("exec", "sh", "-c", "cat ~/kept").stdout == "kept\n"


def test_an_end_from_inside_is_a_stop(one: Desk) -> None:
    running(one)
    one("exec", "-u", "root", "systemctl", "poweroff", status=None)
    assert one.until("stopped")["reason"] == "it was shut down from inside"


def test_a_sandbox_whose_time_is_over_shuts_down(one: Desk) -> None:
    if one.status()["state"] == "running":
        one("down")
    one.write(JCARD + '\n[timeout]\nduration = "45s"\n')
    one("up", timeout=400)
    assert "time of 45 s was over" in one.until("stopped", "failed", seconds=120)["reason"]


def test_destroy_leaves_nothing(one: Desk) -> None:
    one("destroy", "--yes")
    assert not one.folder.exists()
    assert json.loads(one("list", "--json").stdout) == []
