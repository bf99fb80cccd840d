"""A supervisor in a process of its own, over a guest that is played: how sandboxes begin, end, fail and die."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import sys
import time
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from stereo.errors import StereoError
from stereo.sandbox import launch, messages
from stereo.sandbox.client import NotRunning, connected, kill
from stereo.sandbox.job import Forward, Job, Shared
from stereo.sandbox.launch import Launch
from stereo.sandbox.state import Folder, sandboxes

SECRET = "a-value-that-must-be-nowhere"


@pytest.fixture(autouse=True)
def _played(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    script = Path(__file__).with_name("fake_supervisor.py")
    monkeypatch.setattr(launch, "SUPERVISOR", (sys.executable, str(script)))
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))


@pytest.fixture
def job(tmp_path: Path) -> Job:
    dist = tmp_path / "dist"
    dist.mkdir()
    (dist / "cmdline").write_text("quiet")
    (dist / "behaviour").write_text("")
    return Job(
        *("box", "/home/me/jcard.toml", "base:2026.01.31.0", str(dist), "0" * 64, "x86_64"),
        cpus=1,
        memory=512,
        disk=1 << 30,
        mode="nat",
        config="",
        agents=(),
        secrets={"KEY": SECRET},
        grace=5.0,
        root=str(sandboxes()),
        accelerator="tcg",
    )


@pytest.fixture
def folder(job: Job) -> Iterator[Folder]:
    folder = Folder("box")
    yield folder
    if folder.exists():
        kill("box")


def behave(job: Job, *words: str) -> None:
    (Path(job.dist) / "behaviour").write_text("\n".join(words))


def heard(job: Job) -> list[tuple[str, dict[str, Any]]]:
    return [tuple(json.loads(line)) for line in (Path(job.dist) / "heard").read_text().splitlines()]


def up(job: Job) -> list[dict[str, Any]]:
    with Launch() as one:
        one.send(job)
        return list(one.events())


def ask(kind: str, body: Mapping[str, Any] | None = None) -> Mapping[str, Any]:
    async def asking() -> Mapping[str, Any]:
        async with connected("box") as control:
            return await control.request(kind, body or {}, answer=kind, seconds=20)

    return asyncio.run(asking())


def until_state(folder: Folder, *states: str) -> str:
    give_up = time.monotonic() + 10
    while (state := folder.condition()[0]) not in states:
        assert time.monotonic() < give_up, state
        time.sleep(0.02)
    return state


def supervisor_of(folder: Folder) -> int:
    with folder.connect() as sock:
        return int.from_bytes(sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12)[:4], sys.byteorder)


def test_it_comes_up_in_phases_and_is_there_for_others(job: Job, folder: Folder) -> None:
    events = up(job)
    assert [event["event"] for event in events] == ["phase", "phase", "phase", "ready"]
    assert [event["phase"] for event in events[:3]] == list(messages.PHASES)
    assert folder.condition()[0] == "running"
    told = ask(messages.STATUS)
    assert told["state"] == "running"
    assert told["secrets"] == ["KEY"]
    assert told["guest"] == "ready"


def test_no_agent_can_start_before_secrets_and_shares_are_there(job: Job, folder: Folder) -> None:
    behave(job, "agents")
    up(replace(job, config="[[agents]]", agents=("worker",), shares=(Shared("/srv", "/workspace", True),)))
    kinds = [kind for kind, _ in heard(job)]
    config = kinds.index("set_config")
    for earlier in ("set_network", "mount", "inject_secret"):
        assert earlier in kinds[:config]
        assert earlier not in kinds[config:]
    assert dict(heard(job))["mount"] == {
        "tag": "share0",
        "guest_path": "/workspace",
        "fs_type": "virtiofs",
        "read_only": True,
    }


def test_ready_waits_for_the_agents(job: Job, folder: Folder) -> None:
    behave(job, "late agents")
    events = up(replace(job, config="[[agents]]", agents=("worker",)))
    assert events[-1]["event"] == "ready"


def test_agents_are_not_started_before_the_guest_is_online_or_known_not_to_be(job: Job, folder: Folder) -> None:
    behave(job, "offline", "agents")
    events = up(replace(job, mode="bridged", bridge="br0", egress=None, config="[[agents]]", agents=("worker",)))
    assert [kind for kind, _ in heard(job) if kind in ("exec", "set_config")] == ["exec", "set_config"]
    assert [event["text"] for event in events if event["event"] == "note"] == ["the guest has no network address yet"]


def networks(job: Job) -> list[list[str]]:
    return [payload["nameservers"] for kind, payload in heard(job) if kind == "set_network"]


def test_a_guest_that_asked_for_its_address_asks_the_name_servers_that_came_with_it(job: Job, folder: Folder) -> None:
    behave(job, "says 192.168.64.1 fe80::1%2 $(reboot) fd00::1 192.168.64.2 192.168.64.3")
    events = up(replace(job, mode="bridged", bridge="br0", egress=None))
    assert networks(job) == [[], ["192.168.64.1", "fd00::1", "192.168.64.2"]]
    assert "note" not in [event["event"] for event in events]


def test_a_network_without_a_name_server_is_told(job: Job, folder: Folder) -> None:
    behave(job)
    events = up(replace(job, mode="bridged", bridge="br0", egress=None))
    assert [event["text"] for event in events if event["event"] == "note"] == [
        "the network told the guest no name server"
    ]
    assert networks(job) == [[]]


def test_a_guest_without_a_network_is_not_waited_for(job: Job, folder: Folder) -> None:
    behave(job, "agents")
    up(replace(job, mode="none", config="[[agents]]", agents=("worker",)))
    assert "exec" not in [kind for kind, _ in heard(job)]


def test_a_first_start_that_fails_leaves_nothing(job: Job, folder: Folder) -> None:
    behave(job, "no machine")
    event = up(job)[-1]
    assert event["event"] == "failed"
    assert event["error"] == {"what": "QEMU did not start", "where": None, "hint": "try another"}
    assert list(folder.root.iterdir()) == []


def test_a_first_start_that_fails_can_be_kept_for_a_look(job: Job, folder: Folder) -> None:
    behave(job, "no machine")
    up(replace(job, keep=True))
    assert folder.condition()[0] == "failed"


def test_what_the_guest_refuses_is_told_without_the_secret(job: Job, folder: Folder) -> None:
    behave(job, "refuses inject_secret")
    what = up(replace(job, keep=True))[-1]["error"]["what"]
    assert "secret KEY" in what
    assert "no, not [secret KEY]" in what
    assert SECRET not in what


def test_no_file_of_the_state_holds_a_secret(job: Job, folder: Folder) -> None:
    behave(job, "refuses inject_secret")
    up(replace(job, keep=True))
    behave(job)
    up(job)
    ask(messages.APPLY, {"job": replace(job, secrets={"KEY": SECRET + "2"}).encode()})
    ask(messages.DOWN)
    files = [path for path in folder.root.rglob("*") if path.is_file()]
    assert len(files) >= 5
    assert [path for path in files if SECRET.encode() in path.read_bytes()] == []


def test_no_command_line_and_no_environment_holds_a_secret(job: Job, folder: Folder) -> None:
    up(job)
    process = Path(f"/proc/{supervisor_of(folder)}")
    assert SECRET.encode() not in (process / "cmdline").read_bytes() + (process / "environ").read_bytes()


def test_down_lets_the_guest_shut_down_and_says_so(job: Job, folder: Folder) -> None:
    up(job)
    assert ask(messages.DOWN) == {"reason": "`stereo down`", "how": "it shut down"}
    assert not folder.held()
    assert folder.condition()[0] == "stopped"
    assert not folder.socket.exists()


def test_a_guest_that_does_not_want_to_is_stopped_all_the_same(job: Job, folder: Folder) -> None:
    behave(job, "stubborn")
    up(job)
    assert ask(messages.DOWN, {"grace": 0.2})["how"] == "its power button was pressed"


def test_force_counts_even_while_it_shuts_down(job: Job, folder: Folder) -> None:
    behave(job, "stubborn")
    up(job)

    async def both() -> tuple[Any, Any]:
        async with connected("box") as one, connected("box") as other:
            patient = asyncio.create_task(one.request(messages.DOWN, {"grace": 60}, answer=messages.DOWN, seconds=20))
            await asyncio.sleep(0.3)
            return await other.request(messages.DOWN, {"force": True}, answer=messages.DOWN), await patient

    assert {answer["how"] for answer in asyncio.run(both())} == {"it was switched off"}


def test_a_stopped_one_starts_again_with_what_the_jcard_says_now(job: Job, folder: Folder) -> None:
    up(job)
    key = folder.ssh_key.read_bytes()
    ask(messages.DOWN)
    (Path(job.dist) / "heard").unlink()
    up(replace(job, config="# another"))
    assert dict(heard(job))["set_config"] == {"content": "# another"}
    assert folder.ssh_key.read_bytes() == key


@pytest.mark.parametrize(
    "change",
    [{"manifest": "1" * 64}, {"mixtape": "base:2", "manifest": "1" * 64}, {"disk": 5}, {"arch": "aarch64"}],
)
def test_a_disk_that_was_made_for_something_else_is_left_alone(
    job: Job, folder: Folder, change: dict[str, Any]
) -> None:
    up(job)
    ask(messages.DOWN)
    event = up(replace(job, **change))[-1]
    assert event["event"] == "failed"
    assert "stereo destroy" in event["error"]["hint"]
    assert folder.condition()[0] == "stopped"
    assert folder.disks["qemu"].exists()


def test_a_second_up_finds_it_taken(job: Job, folder: Folder, monkeypatch: pytest.MonkeyPatch) -> None:
    up(job)
    assert [event["event"] for event in up(job)] == ["taken"]
    assert folder.condition()[0] == "running"


def test_giving_up_while_it_starts_undoes_all(job: Job, folder: Folder) -> None:
    behave(job, "mute")

    def interrupted() -> None:
        with Launch() as one:
            one.send(job)
            next(one.events())
            assert ask(messages.STATUS)["state"] == "starting"
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert not folder.exists()


def test_while_it_starts_the_guest_is_not_to_be_had_but_it_can_be_ended(job: Job, folder: Folder) -> None:
    behave(job, "mute")
    with Launch() as one:
        one.send(job)
        next(one.events())
        with pytest.raises(StereoError, match="still starting"):
            ask("ping")
        ask(messages.DOWN)
        assert list(one.events())[-1]["event"] == "failed"


def test_an_end_from_inside_is_a_stop(job: Job, folder: Folder) -> None:
    behave(job, "powers off later")
    up(job)
    until_state(folder, "stopped")
    record = folder.record()
    assert record
    assert record.reason == "it was shut down from inside"


def test_a_machine_that_dies_while_it_starts_is_told_with_its_console(job: Job, folder: Folder) -> None:
    behave(job, "mute", "crashes")
    what = up(job)[-1]["error"]["what"]
    assert "killed by signal 9" in what
    assert "Linux version 6" in what


def test_a_killed_supervisor_is_seen_and_started_again(job: Job, folder: Folder) -> None:
    up(job)
    os.kill(supervisor_of(folder), signal.SIGKILL)
    assert until_state(folder, "crashed") == "crashed"
    with pytest.raises(NotRunning, match="was killed"):
        ask(messages.STATUS)
    assert up(job)[-1]["event"] == "ready"


def test_sigterm_is_a_wish_to_shut_down(job: Job, folder: Folder) -> None:
    up(job)
    os.kill(supervisor_of(folder), signal.SIGTERM)
    until_state(folder, "stopped")
    assert ("shutdown", {"reason": "the supervisor got SIGTERM"}) in heard(job)


def test_a_sandbox_whose_time_is_over_shuts_down(job: Job, folder: Folder) -> None:
    up(replace(job, lifetime=2.0))
    until_state(folder, "stopped")
    record = folder.record()
    assert record
    assert record.reason == "its time of 2 s was over"


def test_apply_changes_what_can_change_and_tells_it(job: Job, folder: Folder) -> None:
    up(job)
    ask(messages.WAIT, {"ssh": True})
    other = replace(job, config="# other", secrets={"NEW": "x" * 8})
    assert ask(messages.DIFFER, {"job": job.encode()})["changes"] == []
    expected = [["secrets.KEY", True], ["secrets.NEW", True], ["agents", True]]
    assert ask(messages.DIFFER, {"job": other.encode()})["changes"] == expected
    assert ask(messages.APPLY, {"job": other.encode()})["changes"] == expected
    assert [kind for kind, _ in heard(job)][-3:] == ["inject_secret", "set_config", "remove_secret"]
    assert ask(messages.DIFFER, {"job": other.encode()})["changes"] == []
    assert ask(messages.STATUS)["secrets"] == ["NEW"]


def test_apply_refuses_by_name_what_needs_a_new_start_and_does_nothing(job: Job, folder: Folder) -> None:
    up(job)
    ask(messages.WAIT, {"ssh": True})
    before = heard(job)
    with pytest.raises(StereoError, match=r"resources\.memory, shared"):
        ask(messages.APPLY, {"job": replace(job, memory=1, shares=(Shared("/a", "/b", True),), config="#").encode()})
    assert heard(job) == before


def test_what_an_apply_could_not_do_is_still_to_be_done(job: Job, folder: Folder) -> None:
    behave(job, "refuses inject_secret")
    up(replace(job, secrets={}))
    for _ in range(2):
        with pytest.raises(StereoError, match="did not take the secret KEY"):
            ask(messages.APPLY, {"job": job.encode()})
    assert ask(messages.DIFFER, {"job": job.encode()})["changes"] == [["secrets.KEY", True]]


def test_a_guest_that_does_not_list_its_agents_is_told_of(job: Job, folder: Folder) -> None:
    behave(job, "refuses list_agents")
    what = up(replace(job, agents=("worker",)))[-1]["error"]["what"]
    assert "refused list_agents" in what


def test_a_forward_to_a_port_that_is_taken_is_told(job: Job, folder: Folder) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        what = up(replace(job, forwards=(Forward(port, 80, "tcp"),)))[-1]["error"]["what"]
    assert f"127.0.0.1:{port}" in what


def test_a_supervisor_without_a_job_ends(folder: Folder) -> None:
    with Launch():
        pass
    assert not folder.root.exists()
