"""What breaks under a working sandbox, broken on purpose: its daemons, its helpers, its disk, its clock, its folder.

Two sandboxes of one boot each: what the first goes through it survives, and every test finds it as the one before left
it. The second dies again and again, and is started again with the same disk.
"""

from __future__ import annotations

import asyncio
import json
import os
import random
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from makers.command import Stereo
from makers.processes import SOON, alive, processes, settled
from makers.running import Running, running
from makers.sandboxes import Desk, argv_of, desk
from stereo.sandbox.state import Folder
from stereo.vm.control import Control
from stereo.vm.machine import Channel
from stereos_guest.protocol import LIFECYCLE, MAX_LINE

pytestmark = [pytest.mark.boot, pytest.mark.build]

SEED = 20_260_131
DEATHS = (
    ("up", "Booting", 8.0),
    ("supervisor", "Booting", 8.0),
    ("supervisor", "Handing over", 4.0),
    ("up", "Starting agents", 0.4),
)
"""Who dies, after `up` said what, and how many seconds later at the latest."""
DAEMONS = ("stereosd", "agentd")
PATIENCE = 60.0  # seconds for whatever mends itself
QEMU, VIRTIOFSD, PASST, GATE = b"-blockdev", b"virtiofsd", b"passt", b"stereo.egress"

MACHINE = """
[resources]
memory = "1GiB"
disk = "1GiB"

[[shared]]
host = "work"
guest = "/workspace"
"""
AGENT = """
[[agents]]
name = "{}"
type = "native"
harness = "custom"
command = ["/bin/sh", "-c", '{}']
prompt = "none"
restart = "{}"
"""
AGENTS = (
    AGENT.format("steady", "exec sleep 1000000", "no")
    + AGENT.format("writer", "while :; do date >>/workspace/out || echo cannot write; sleep 0.3; done", "no")
    + AGENT.format("phoenix", "exec sleep 1000001", "on-failure")
    + AGENT.format("mortal", "while ! test -e ~/end; do sleep 0.3; done; exit 7", "no")
)


@pytest.fixture(scope="module")
def allowed() -> Iterator[socket.socket]:
    """Listens on the host's loopback; the survivor may connect to it, and to nothing else."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.settimeout(PATIENCE)
        yield listener


@pytest.fixture(scope="module")
def survivor(stereo: Stereo, base: Path, allowed: socket.socket) -> Iterator[Desk]:
    """Up, behind an egress gate, with agents that stay."""
    port = allowed.getsockname()[1]
    with desk(stereo, base) as one:
        (one.home / "work").mkdir()
        one.write(f'{MACHINE}\n[network]\negress_allow = ["host.stereo.internal:{port}"]\n{AGENTS}')
        one("up", timeout=400)
        yield one


@pytest.fixture(scope="module")
def victim(stereo: Stereo, base: Path) -> Iterator[Desk]:
    """Not yet up, with passt and virtiofsd."""
    with desk(stereo, base) as one:
        (one.home / "work").mkdir()
        one.write(MACHINE + AGENT.format("steady", "exec sleep 1000000", "no"))
        yield one


@pytest.fixture(scope="module")
def moments() -> random.Random:
    return random.Random(SEED)


FILL_HOME = "fallocate -l $(df --output=avail -B1 ~agent | tail -1) ~agent/fill; head -c 1G /dev/zero >~agent/fill2"


def root(one: Desk, script: str, *, status: int | None = 0) -> str:
    return one("exec", "-u", "root", "sh", "-c", script, status=status, timeout=60).stdout


def in_time(what: Callable[[], bool], why: object, seconds: float = PATIENCE) -> None:
    give_up = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < give_up, why
        time.sleep(0.2)


def works(one: Desk) -> bool:
    return one("exec", "true", status=None, timeout=60).returncode == 0


def pids(one: Desk) -> str:
    """Of the agents that stay, and when they started."""
    return root(one, "ps -o pid=,lstart=,args= -C sleep | grep 100000 | sort")


def told_while(one: Desk, last: str, do: Callable[[], object]) -> list[str]:
    """The states that the guest tells unasked while `do` is done, up to and with `last`."""

    async def listen() -> list[str]:
        sock = Folder("desk", one.folder.parent).connect()
        control = Control(Channel(*await asyncio.open_connection(sock=sock, limit=2 * MAX_LINE)))
        heard: list[str] = []
        try:
            await control.hello()
            events = control.events()
            doing = asyncio.create_task(asyncio.to_thread(do))
            async with asyncio.timeout(PATIENCE):
                async for message in events:
                    if message.type == LIFECYCLE:
                        heard.append(str(message.body()["state"]))
                        if last in heard:
                            break
            await doing
        finally:
            await control.close()
        return heard

    return asyncio.run(listen())


def verb(one: Desk, *words: str | Path) -> Any:
    """A verb that goes on beside the test."""
    return running(one.stereo, *words, cwd=one.home, env=one.variables)


def set_secret(one: Desk) -> tuple[int, str]:
    """Give it the secret LATE. Returns the status of the verb, and what it said."""
    argv, env = one.stereo.argv("secret", "set", "LATE"), one.stereo.environment(one.variables)
    done = subprocess.run(argv, input=b"late", cwd=one.home, env=env, capture_output=True, check=False, timeout=60)
    return done.returncode, done.stderr.decode()


def kill_daemon(one: Desk, name: str) -> None:
    root(one, f"systemctl kill --kill-whom=main --signal=KILL {name}.service", status=None)


# --- what a sandbox survives ---


def test_stereosd_is_killed_again_and_again_under_load(survivor: Desk) -> None:
    one, before = survivor, pids(survivor)
    big = one.home / "big"
    with big.open("wb") as file:
        file.truncate(256 << 20)
    assert before.count("sleep 100000") == 2, before
    for _ in range(2):
        with verb(one, "exec", "yes") as flood, verb(one, "cp", big, ":big") as copy:
            in_time(
                lambda: "1" in root(one, "pgrep -x yes >/dev/null && pgrep -x tar >/dev/null && echo 1", status=None),
                "load",
            )
            kill_daemon(one, "stereosd")
            for each in (flood, copy):
                assert each.process.wait(timeout=PATIENCE) == 1, each.said()
                assert "started anew" in each.said()
        in_time(lambda: works(one), "exec works again")
        assert root(one, "pgrep -x yes; pgrep -x tar; echo none") == "none\n"
    assert pids(one) == before
    assert one.status()["state"] == "running"
    root(one, "rm -f ~agent/big")


@pytest.mark.parametrize("name", DAEMONS)
def test_a_daemon_that_dies_over_and_over_comes_back(survivor: Desk, name: str) -> None:
    """More often in ten seconds than systemd's own limit: 5."""
    before = pids(survivor)
    again = f"for i in 1 2 3 4 5 6 7 8; do systemctl kill --kill-whom=main --signal=KILL {name}; sleep 1.2; done"
    unit = f"--unit=kill-{name} --property=RemainAfterExit=yes"  # of its own, to outlive stereosd
    root(survivor, f"systemd-run --quiet {unit} sh -c '{again}'")
    time.sleep(11)
    done = f"systemctl show --value -p SubState kill-{name}"
    in_time(lambda: root(survivor, done, status=None) == "exited\n", "exec works again")
    in_time(lambda: survivor.status().get("guest") == "healthy", name)
    assert pids(survivor) == before


def test_the_guest_tells_that_stereosd_started_anew(survivor: Desk) -> None:
    heard = told_while(survivor, "healthy", lambda: kill_daemon(survivor, "stereosd"))
    assert heard[0] == "booting", heard
    in_time(lambda: works(survivor), "exec works again")


def test_a_dead_agentd_degrades_the_guest_until_it_is_back(survivor: Desk) -> None:
    before = pids(survivor)
    heard = told_while(survivor, "healthy", lambda: kill_daemon(survivor, "agentd"))
    assert heard == ["degraded", "healthy"]
    assert survivor.status()["guest"] == "healthy"
    assert pids(survivor) == before


def test_a_killed_agent_is_started_again_or_told(survivor: Desk) -> None:
    before = survivor.agent("phoenix")
    root(survivor, "systemctl kill --signal=KILL stereos-agent-phoenix.service")
    in_time(lambda: survivor.agent("phoenix")["restarts"] == before["restarts"] + 1, "phoenix")
    assert survivor.agent_until("phoenix", "running")["state"] == "running"
    assert survivor.agent("steady")["restarts"] == 0


def test_the_gate_is_killed_and_nothing_gets_out_but_by_the_next(survivor: Desk, allowed: socket.socket) -> None:
    one, log = survivor, survivor.folder / "supervisor.log"

    def gates() -> set[int]:
        return {each.pid for each in one.family() if GATE in argv_of(each)}

    curl = "curl -sS -m 10 -x http://10.0.2.2:3128 http://host.stereo.internal:"
    with socket.create_server(("127.0.0.1", 0)) as forbidden:
        forbidden.setblocking(False)
        for _ in range(2):
            old = one.helper(GATE)
            os.kill(old.pid, signal.SIGKILL)
            root(one, f"{curl}{forbidden.getsockname()[1]}/; curl -sS -m 3 http://10.0.2.2:7/", status=None)
            in_time(lambda: bool(gates() - {old.pid}), "another gate")  # noqa: B023 - called at once
            with verb(one, "exec", "-u", "root", "sh", "-c", f"{curl}{allowed.getsockname()[1]}/"):
                allowed.accept()[0].close()
        with pytest.raises(BlockingIOError):
            forbidden.accept()
    assert log.read_text().count("the egress gate: it ended with status -9") == 2
    assert one.status()["egress"]["refused"] > 0


def test_broken_lines_in_the_supervisors_socket_harm_nobody(survivor: Desk) -> None:
    folder = Folder("desk", survivor.folder.parent)
    hello = b'{"type":"hello","id":1,"payload":{"version":1,"features":[]}}\n'
    long = b'{"type":"exec","id":2,"payload":{"argv":["sleep","4714"]}}\n'
    noise = random.Random(SEED).randbytes(100_000)
    for words in (
        hello[:30],
        b"nonsense\n" * 1000,
        b"x" * (3 << 20),
        noise,
        b"[" * 200_000 + b"\n",
        hello + long + b'{"ty',
    ):
        with folder.connect() as sock:
            sock.settimeout(20)
            try:
                sock.sendall(words)
                sock.settimeout(0.5)
                sock.recv(1 << 16)
            except (OSError, TimeoutError):
                pass
    assert survivor.status()["guest"] == "healthy"
    in_time(lambda: root(survivor, "pgrep -f 'sleep 471[4]'; echo") == "\n", "the client's program ends with it")


def test_a_client_that_vanishes_leaves_no_process_inside(survivor: Desk) -> None:
    with verb(survivor, "exec", "sh", "-c", "sleep 4713 & yes") as run:
        in_time(lambda: root(survivor, "pgrep -f 'sleep 471[3]'; echo") != "\n", "it runs")
        run.signal(signal.SIGKILL, group=True)
    in_time(lambda: root(survivor, "pgrep -f 'sleep 471[3]'; pgrep -x yes; echo") == "\n", "it ends")


def interrupted(run: Running, *, seconds: float = 20) -> None:
    """Ctrl-C, and 130 as the answer."""
    began = time.monotonic()
    os.kill(run.process.pid, signal.SIGINT)
    assert run.process.wait(timeout=seconds) == 130, run.said()
    assert "Traceback" not in run.said()
    assert time.monotonic() - began < seconds


def test_ctrl_c_ends_exec_and_logs(survivor: Desk) -> None:
    with verb(survivor, "exec", "sleep", "4715") as run:
        in_time(lambda: root(survivor, "pgrep -f 'sleep 471[5]'; echo") != "\n", "it runs")
        interrupted(run)
    with verb(survivor, "logs", "-f") as run:
        in_time(lambda: root(survivor, "pgrep -x journalctl; echo") != "\n", "it follows")
        interrupted(run)
    in_time(lambda: root(survivor, "pgrep -f 'sleep 471[5]'; pgrep -x journalctl; echo") == "\n", "nothing is left")


@pytest.mark.parametrize("way", ["in", "out"])
def test_ctrl_c_ends_a_copy_and_leaves_no_half_file(survivor: Desk, way: str) -> None:
    one, place = survivor, survivor.home / "copies"
    place.mkdir(exist_ok=True)
    root(one, "rm -rf ~agent/.stereo-cp-*")  # of copies that were killed by the tests before
    big = one.home / "large"
    with big.open("wb") as file:
        file.truncate(1 << 30)
    if way == "out":
        root(one, "truncate -s 1G ~agent/large")
    words: list[str | Path] = [big, ":large-in"] if way == "in" else [":large", place]
    with verb(one, "cp", *words) as run:
        in_time(lambda: root(one, "pgrep -x tar; echo") != "\n", "it copies")
        interrupted(run)
    in_time(lambda: root(one, "pgrep -x tar; echo") == "\n", "tar ends")
    assert list(place.iterdir()) == []
    assert root(one, "ls -A ~agent | grep -e large-in -e stereo-cp; echo") == "\n"
    root(one, "rm -f ~agent/large*")


def test_a_full_disk_run_and_journal_leave_the_daemons_answering(survivor: Desk) -> None:
    one = survivor
    root(one, "head -c 26M /dev/urandom | base64 -w 16000 | systemd-cat")  # journald keeps 32 MiB
    root(one, f"{FILL_HOME}; echo x >~agent/more; head -c 1G /dev/zero >/run/fill", status=None)
    assert [int(free) < 100 for free in root(one, "df --output=avail /home /run").split()[1:]] == [True, True]
    assert one("exec", "id", "-un").stdout == "agent\n"
    assert one.status()["guest"] == "healthy"
    status, said = set_secret(one)
    assert status == 0 or "No space left" in said, said
    assert "Traceback" not in said
    assert one("exec", "sh", "-c", "echo y >~/z", status=None).returncode != 0
    one("logs", "-n", "5")
    root(one, "rm -f ~agent/fill* ~agent/more ~agent/z /run/fill /run/more")
    status, said = set_secret(one)
    assert status == 0, said
    assert "LATE" in root(one, "ls /run/stereos/secrets")
    one("exec", "sh", "-c", "echo y >~/z")
    assert one.status()["guest"] == "healthy"


@pytest.mark.parametrize("shift", ["+10 years", "-20 years"])
def test_a_shifted_clock_changes_no_time_limit(survivor: Desk, shift: str) -> None:
    one = survivor
    root(one, f"date -s '{shift}'")
    assert works(one)
    began = time.monotonic()
    assert one("exec", "--timeout", "2", "sleep", "100", status=None).returncode == 124
    assert 2 < time.monotonic() - began < 20
    before = one.agent("phoenix")["restarts"]
    root(one, "systemctl kill --signal=KILL stereos-agent-phoenix.service")
    in_time(lambda: one.agent("phoenix")["restarts"] == before + 1, "phoenix")
    one.agent_until("phoenix", "running")
    assert one.status()["guest"] == "healthy"
    one("logs")
    one("status")


def test_a_removed_shared_folder_is_an_error_inside_and_no_more(survivor: Desk) -> None:
    one, work = survivor, survivor.home / "work"
    work.rename(one.home / "moved")
    size = (one.home / "moved/out").stat().st_size
    in_time(lambda: (one.home / "moved/out").stat().st_size > size, "the agent writes on into the folder that it has")
    shutil.rmtree(one.home / "moved")
    assert one("exec", "sh", "-c", "echo x >/workspace/new", status=None).returncode != 0
    in_time(lambda: "cannot write" in one("logs", "writer").stdout, "the agent sees an error")
    assert one.agent("writer")["state"] == "running"
    assert one.status()["guest"] == "healthy"
    assert one.status()["state"] == "running"


def test_an_end_that_came_while_agentd_was_dead_is_told(survivor: Desk) -> None:
    kill = "systemctl kill --kill-whom=main --signal=KILL agentd.service"
    root(survivor, f"{kill}; touch ~agent/end; for i in 1 2 3 4 5 6; do {kill}; sleep 0.3; done", status=None)
    row = survivor.agent_until("mortal", "failed", "exited", seconds=PATIENCE)
    assert (row["state"], row["exit_code"]) == ("failed", 7)
    assert survivor.status()["guest"] == "degraded"


def test_with_a_full_disk_and_no_folder_it_goes_down(survivor: Desk) -> None:
    root(survivor, f"{FILL_HOME}; head -c 1G /dev/zero >/run/fill", status=None)
    family = survivor.family()
    assert json.loads(survivor("down", "--json").stdout)["how"] == "it shut down"
    assert settled(lambda: alive(family), seconds=SOON)


# --- what ends it ---


def up(one: Desk) -> None:
    if one.folder.exists() and one.status()["state"] == "running":
        return
    one("up", timeout=400)


def assert_nothing_runs(one: Desk) -> None:
    def left() -> list[bytes]:
        return [argv_of(each) for each in processes().values() if str(one.root).encode() in argv_of(each)] + [
            argv_of(each) for each in one.family()
        ]

    assert settled(left, seconds=5), left()


@pytest.mark.parametrize(("target", "phase", "latest"), DEATHS)
def test_killed_at_random_while_it_starts_it_leaves_nothing(
    victim: Desk, moments: random.Random, target: str, phase: str, latest: float
) -> None:
    """The next start goes on with what this one left of the disk, or makes it anew."""
    moment = moments.uniform(0, latest)
    with verb(victim, "up") as start:
        start.until(phase, seconds=200)
        time.sleep(moment)
        family = victim.family()
        victim.stereo.tell(f"{phase} + {moment:.2f} s: {target} is killed, with {len(family)} processes")
        if target == "up":
            start.signal(signal.SIGKILL, group=True)
        else:
            os.kill(family[0].pid, signal.SIGKILL)
            assert start.process.wait(timeout=30) == 1, start.said()
            assert "its supervisor was killed" in start.said()
            assert "Traceback" not in start.said()
    assert settled(lambda: alive(family), seconds=20), alive(family)
    assert_nothing_runs(victim)


def test_after_all_that_it_starts(victim: Desk) -> None:
    up(victim)
    assert works(victim)


def test_ctrl_c_at_up_leaves_nothing(victim: Desk) -> None:
    if victim.folder.exists():
        victim("destroy", "--yes", "--force")
    with verb(victim, "up") as start:
        in_time(lambda: any(QEMU in argv_of(each) for each in victim.family()), "QEMU runs")
        interrupted(start, seconds=40)
    assert_nothing_runs(victim)
    assert not victim.folder.exists()


@pytest.mark.parametrize(
    ("who", "named"), [(QEMU, "QEMU"), (VIRTIOFSD, "virtiofsd"), (PASST, "passt")], ids=["QEMU", "virtiofsd", "passt"]
)
def test_a_killed_helper_under_load_ends_it_by_name_and_up_has_the_files(victim: Desk, who: bytes, named: str) -> None:
    up(victim)
    victim("exec", "sh", "-c", f"echo {named} >~/kept && sync ~/kept")
    family = victim.family()
    with (
        verb(victim, "exec", "sh", "-c", "while :; do date; done >>/workspace/out"),
        verb(victim, "exec", "yes") as flood,
    ):
        in_time((victim.home / "work/out").exists, "load")
        os.kill(victim.helper(who).pid, signal.SIGKILL)
        told = victim.until("failed")
        assert flood.process.wait(timeout=30) == 1
        assert "Traceback" not in flood.said()
    (victim.home / "work/out").unlink()
    assert named.lower() in told["reason"].lower()
    assert "signal 9" in told["reason"]
    assert settled(lambda: alive(family), seconds=5), alive(family)
    said = victim("exec", "true", status=1).stderr
    assert named.lower() in said.lower()
    up(victim)
    assert victim("exec", "cat", "/home/agent/kept").stdout == f"{named}\n"


def test_a_panic_of_its_kernel_ends_it_and_is_told(victim: Desk) -> None:
    up(victim)
    family = victim.family()
    victim("exec", "-u", "root", "sh", "-c", "echo c >/proc/sysrq-trigger", status=None)
    told = victim.until("failed")
    assert "its kernel gave up" in told["reason"]
    assert "sysrq triggered crash" in told["reason"]
    assert settled(lambda: alive(family), seconds=5), alive(family)


def test_a_killed_supervisor_under_load_is_a_crash_that_verbs_name(victim: Desk) -> None:
    up(victim)
    victim("exec", "sh", "-c", "echo crash >~/kept && sync ~/kept")
    family = victim.family()
    with verb(victim, "exec", "yes") as flood:
        in_time(lambda: root(victim, "pgrep -x yes; echo") != "\n", "load")
        os.kill(family[0].pid, signal.SIGKILL)
        assert flood.process.wait(timeout=30) == 1
        assert "Traceback" not in flood.said()
    assert settled(lambda: alive(family), seconds=5), alive(family)
    assert victim.status()["state"] == "crashed"
    assert "supervisor was killed" in victim("exec", "true", status=1).stderr
    assert "not running" in victim("down").stderr
    up(victim)
    assert victim("exec", "cat", "/home/agent/kept").stdout == "crash\n"
