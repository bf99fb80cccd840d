"""Streams to a booted machine: programs as each user, terminals, ends, copies, connections and logs. One boot."""

from __future__ import annotations

import asyncio
import hashlib
import io
import random
import tarfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from makers.inside import Said, hear, run, shell
from stereo.paths import Cache
from stereo.report import Silent
from stereo.vm.accel import choose
from stereo.vm.boot import BootFiles, Form, make_spec, running, shut_down
from stereo.vm.control import Control, GuestError
from stereo.vm.journal import Entry, Journal
from stereo.vm.programs import Programs
from stereo.vm.qemu import QemuBackend
from stereo.vm.stream import Exit, Stream
from stereos_guest import protocol

pytestmark = [pytest.mark.boot, pytest.mark.build]

SECONDS = 300.0
USERS = {"agent": 1000, "admin": 1001, "root": 0}
TELL = "id -u; id -G; pwd; echo $PATH; echo $HOME; umask; echo $(ls /proc/self/fd); cut -d: -f3 /proc/self/cgroup"
MEGABYTES = 8
PORT = 8123
# Only what is built into the interpreter: Debian's smallest Python has no more.
LISTENER = f"""
import _socket
listener = _socket.socket(_socket.AF_INET, _socket.SOCK_STREAM)
listener.bind(("127.0.0.1", {PORT}))
listener.listen()
print("listening", flush=True)
descriptor, _ = listener._accept()
peer = _socket.socket(fileno=descriptor)
said = b""
while piece := peer.recv(65536):
    said += piece
peer.sendall(said.upper())
peer.close()
"""
UNIT = """
[Service]
Type=oneshot
Slice=stereos-agents.slice
ExecStart=/bin/sh -c 'echo hello; printf "a\\033[31mb\\n"; echo oops >&2'
"""


async def copy(control: Control, content: bytes) -> dict[str, Any]:
    """In and out again: seconds, and what it was found to be at each place."""
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w") as tar:
        entry = tarfile.TarInfo("copied")
        entry.size = len(content)
        tar.addfile(entry, io.BytesIO(content))
    began = time.monotonic()
    async with await control.open_stream(protocol.COPY_IN, {"path": "workspace", "user": "agent"}) as stream:
        await stream.write(packed.getvalue())
        await stream.write_eof()
        said_in = await hear(stream)
    between = time.monotonic()
    async with await control.open_stream(protocol.COPY_OUT, {"path": "workspace/copied", "user": "agent"}) as stream:
        said, ended = await hear(stream)
    took = {"in": between - began, "out": time.monotonic() - between}
    with tarfile.open(fileobj=io.BytesIO(said["stdout"])) as tar:
        member = tar.extractfile("copied")
        assert member
        back = hashlib.sha256(member.read()).hexdigest()
    inside = await shell(control, "sha256sum copied; stat -c %U copied")
    return {"in": said_in, "out": ended, "back": back, "inside": inside, "took": took}


async def connect(control: Control) -> Said:
    async with await control.open_stream(protocol.EXEC, {"argv": ["/usr/bin/python3", "-c", LISTENER]}) as listener:
        assert await listener.read() == ("stdout", b"listening\n")
        async with await control.open_stream(protocol.CONNECT, {"port": PORT}) as stream:
            await stream.write(b"hello" * 1000)
            await stream.write_eof()
            return await hear(stream)


async def logs(control: Control) -> dict[str, Any]:
    write = f"cat >/run/systemd/system/stereos-agent-probe.service <<'END'\n{UNIT}\nEND\nsystemctl daemon-reload"
    start = "systemctl start stereos-agent-probe.service"
    await shell(control, write, user="root")
    async with await control.open_stream(protocol.LOGS, {"agent": "probe", "follow": True}) as following:
        began = await shell(control, start, user="root")
        followed = await entries(following, 3)
    async with await control.open_stream(protocol.LOGS, {}) as stream:
        everything = await entries(stream)
        ended = await stream.wait()
    async with await control.open_stream(protocol.LOGS, {"agent": "other"}) as stream:
        other = await entries(stream)
    return {"began": began, "followed": followed, "all": everything, "ended": ended, "other": other}


async def entries(stream: Stream, enough: int = 1 << 30) -> list[Entry]:
    journal, found = Journal(), list[Entry]()
    while len(found) < enough and (piece := await stream.read()):
        found += journal.feed(piece[1]) if piece[0] == "stdout" else []
    return found


async def flood_and_ping(control: Control) -> float:
    """The longest ping while a program writes as fast as it can, and another is not read at all."""
    flood = {"argv": ["/usr/bin/cat", "/dev/zero"]}
    slowest = 0.0
    async with (
        await control.open_stream(protocol.EXEC, flood),
        await control.open_stream(protocol.EXEC, flood) as read,
    ):
        swallowing = asyncio.create_task(hear(read))
        for _ in range(20):
            began = time.monotonic()
            await control.ping()
            slowest = max(slowest, time.monotonic() - began)
        swallowing.cancel()
    return slowest


async def kill_the_daemon(control: Control) -> dict[str, Any]:
    """What becomes of a program, and of the conversation, when stereosd is killed."""
    async with await control.open_stream(protocol.EXEC, {"argv": ["/bin/sh", "-c", "exec sleep 4712"]}) as stream:
        killing = asyncio.create_task(shell(control, "systemctl kill --signal=KILL stereosd.service", user="root"))
        with pytest.raises(GuestError) as caught:
            await stream.wait()
        await asyncio.gather(killing, return_exceptions=True)
    until = time.monotonic() + 60
    while control.greeting is None and time.monotonic() < until:
        await asyncio.sleep(0.1)
    return {"told": str(caught.value), "after": await shell(control, "pgrep -f 'sleep 471[2]'; echo back", user="root")}


async def ask(control: Control) -> dict[str, Any]:
    found: dict[str, Any] = {f"as {user}": await shell(control, TELL, user=user) for user in USERS}
    tty = {"tty": {"rows": 33, "cols": 99, "term": "xterm"}}
    orphans = "setsid sleep 4711 & sleep 4711 & wait"
    found |= {
        "sudo of admin": await shell(control, "sudo -n id -u", user="admin"),
        "sudo of agent": await shell(control, "/usr/bin/sudo -n id -u"),
        "terminal": await shell(control, "stty size; echo $TERM; tty", **tty),
        "exit": await shell(control, "exit 7"),
        "signal": await shell(control, "kill -KILL $$"),
        "missing": await run(control, "no-such-program"),
        "timeout": await shell(control, orphans, user="root", timeout=1),
        "left over": await shell(control, "sleep 0.5; pgrep -f 'sleep 471[1]'", user="root"),
        "environment": await shell(control, "echo $WORD", env={"WORD": "given"}),
        "copy": await copy(control, random.Random(3).randbytes(MEGABYTES << 20)),
        "connect": await connect(control),
        "logs": await logs(control),
        "slowest ping": await flood_and_ping(control),
        "cgroups": await shell(control, "ls -d /sys/fs/cgroup/system.slice/stereosd.service/*/", user="root"),
    }
    began = time.monotonic()
    for _ in range(10):
        await run(control, "true")
    found["exec"] = (time.monotonic() - began) / 10
    return {**found, "killed": await kill_the_daemon(control)}


@pytest.fixture(scope="module")
def answers(
    base: Path, tools_tree: Path, cache: Cache, tell: Callable[[str], None], tmp_path_factory: pytest.TempPathFactory
) -> dict[str, Any]:
    programs = Programs.find(tools_tree)
    backend = QemuBackend(programs, tmp_path_factory.mktemp("scratch"))
    spec = make_spec(BootFiles.in_folder(base), Form.KERNEL, programs.arch, choose(programs, cache.probe, Silent()))

    async def boot() -> dict[str, Any]:
        async with asyncio.timeout(SECONDS), running(backend, spec, Silent(), timeout=SECONDS) as booted:
            await booted.control.hello(60)
            found = await ask(booted.control)
            await shut_down(booted, 60)
            return found

    tell("booting: base, for streams")
    found = asyncio.run(boot())
    rates = ", ".join(f"{way} {MEGABYTES / took:.0f} MiB/s" for way, took in found["copy"]["took"].items())
    tell(
        f"copy {rates}; exec of true {found['exec'] * 1000:.0f} ms; slowest ping {found['slowest ping'] * 1000:.0f} ms"
    )
    return found


@pytest.mark.parametrize("user", USERS)
def test_a_program_runs_as_the_user_it_was_asked_for(answers: dict[str, Any], user: str) -> None:
    heard, ended = answers[f"as {user}"]
    assert ended == Exit(0, None, False, ""), heard
    uid, groups, folder, path, home, mask, descriptors, cgroup = heard["stdout"].decode().splitlines()
    assert (int(uid), mask, descriptors) == (USERS[user], "0022", "0 1 2 3")
    assert set(groups.split()) == {str(USERS[user])}
    assert home == ("/root" if user == "root" else f"/home/{user}")
    assert folder == ("/home/agent/workspace" if user == "agent" else home)
    assert (path == "/usr/lib/stereos/agent/bin") is (user == "agent")
    assert "/stereosd.service/exec-" in cgroup


def test_admin_becomes_root_and_agent_does_not(answers: dict[str, Any]) -> None:
    assert answers["sudo of admin"][0]["stdout"] == b"0\n", answers["sudo of admin"]
    assert answers["sudo of agent"][1].code == 126


def test_a_terminal_has_the_size_and_type_that_were_told(answers: dict[str, Any]) -> None:
    size, term, name = answers["terminal"][0]["stdout"].decode().split("\r\n")[:3]
    assert (size, term) == ("33 99", "xterm")
    assert name.startswith("/dev/pts/")


@pytest.mark.parametrize(
    ("name", "ended"),
    [
        ("exit", Exit(7, None, False, "")),
        ("signal", Exit(None, "KILL", False, "")),
        ("missing", Exit(127, None, False, "no-such-program: No such file or directory")),
        ("timeout", Exit(None, "TERM", True, "")),
    ],
)
def test_the_true_end_is_told(answers: dict[str, Any], name: str, ended: Exit) -> None:
    assert answers[name][1] == ended


def test_a_time_limit_leaves_nobody_behind(answers: dict[str, Any]) -> None:
    assert answers["left over"][0]["stdout"] == b""


def test_variables_are_passed_on(answers: dict[str, Any]) -> None:
    assert answers["environment"][0]["stdout"] == b"given\n"


def test_a_copy_is_the_same_inside_and_when_it_is_back(answers: dict[str, Any]) -> None:
    expected = hashlib.sha256(random.Random(3).randbytes(MEGABYTES << 20)).hexdigest()
    found = answers["copy"]
    assert (found["in"][1].code, found["out"].code) == (0, 0), found["in"]
    assert found["inside"][0]["stdout"].decode() == f"{expected}  copied\nagent\n"
    assert found["back"] == expected


def test_a_connection_reaches_a_listener_inside(answers: dict[str, Any]) -> None:
    heard, ended = answers["connect"]
    assert heard["stdout"] == b"HELLO" * 1000
    assert ended.code == 0


def test_logs_show_what_agents_wrote_and_nothing_else(answers: dict[str, Any]) -> None:
    found = answers["logs"]
    assert found["ended"].code == 0
    assert {entry.agent for entry in found["all"]} == {"probe"}, found
    assert sorted(entry.text for entry in found["all"]) == ["a\x1b[31mb", "hello", "oops"]
    assert found["other"] == []


def test_logs_can_be_followed(answers: dict[str, Any]) -> None:
    assert len(answers["logs"]["followed"]) == 3


def test_a_flood_starves_nobody(answers: dict[str, Any]) -> None:
    assert answers["slowest ping"] < 5


def test_no_cgroup_is_left_but_those_in_use(answers: dict[str, Any]) -> None:
    assert len(answers["cgroups"][0]["stdout"].split()) <= 3, answers["cgroups"]


def test_a_killed_daemon_takes_its_programs_along_and_the_conversation_goes_on(
    answers: dict[str, Any],
) -> None:
    assert "started anew" in answers["killed"]["told"]
    assert answers["killed"]["after"][0]["stdout"] == b"back\n"
