"""A dev image lets its developer in over the network, and there too the agent finds its own programs and no others."""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from e2e.guestprobe import TELL, run
from stereo.paths import Cache
from stereo.report import Silent
from stereo.vm.accel import choose
from stereo.vm.boot import BootFiles, Form, make_spec, running, shut_down
from stereo.vm.machine import Forward, Nat
from stereo.vm.programs import Programs
from stereo.vm.qemu import QemuBackend

pytestmark = [pytest.mark.boot, pytest.mark.build]

PATH = "/usr/lib/stereos/agent/bin"
QUESTIONS = {
    "a command of the agent": ("agent", TELL),
    "a session of the agent": ("agent", None),
    "sudo of the administrator": ("admin", "sudo -n id -u"),
    "who listens": ("admin", "cat /proc/net/tcp /proc/net/tcp6"),
    "the host key": ("admin", "sudo -n stat -c '%a %U' /var/lib/stereos/ssh/ssh_host_ed25519_key"),
    "failed units": ("admin", "sudo -n systemctl --failed --plain --no-legend"),
    "root": ("root", "id -u"),
}


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def ssh(key: Path, port: int, user: str, command: str | None, said: str | None = None) -> dict[str, Any]:
    """What ssh(1) answers, with nothing of the user's own configuration."""
    options = ["IdentitiesOnly=yes", "StrictHostKeyChecking=no", "UserKnownHostsFile=/dev/null", "BatchMode=yes"]
    options += ["LogLevel=ERROR", "ConnectTimeout=20", "ServerAliveInterval=20"]
    argv = ["ssh", "-F", "none", "-T", "-i", str(key), "-p", str(port), *(f"-o{word}" for word in options)]
    return run([*argv, f"{user}@127.0.0.1", *([command] if command else [])], 120, said)


@pytest.fixture(scope="module")
def answers(
    dev_dist: Path,
    dev_key: Path,
    tools_tree: Path,
    cache: Cache,
    tell: Callable[[str], None],
    tmp_path_factory: pytest.TempPathFactory,
) -> dict[str, Any]:
    """What a dev machine answered to each question, in one boot."""
    programs = Programs.find(tools_tree)
    backend = QemuBackend(programs, tmp_path_factory.mktemp("scratch"))
    port = free_port()
    accelerator = choose(programs, cache.probe, Silent())
    network = Nat((Forward(port, 22),))
    spec = make_spec(BootFiles.in_folder(dev_dist), Form.KERNEL, programs.arch, accelerator, network=network)

    async def ask() -> dict[str, Any]:
        async with running(backend, spec, Silent(), timeout=300) as booted:
            until = time.monotonic() + 180
            while (first := await asyncio.to_thread(ssh, dev_key, port, "admin", "true"))["status"] != 0:
                assert time.monotonic() < until, f"no ssh: {first}\n{booted.console.tail()}"
            found = {
                name: await asyncio.to_thread(ssh, dev_key, port, user, command, None if command else TELL)
                for name, (user, command) in QUESTIONS.items()
            }
            await booted.control.ping(60)
            health = await booted.control.health(60)
            await shut_down(booted, 60)
            return {**found, "health": health}

    tell("booting: a dev machine, to log in to it")
    return asyncio.run(ask())


@pytest.mark.parametrize("way", ["a command of the agent", "a session of the agent"])
def test_the_agent_finds_the_curated_programs_and_no_others(answers: dict[str, Any], way: str) -> None:
    assert answers[way]["status"] == 0, answers[way]
    found = dict(line.partition("=")[::2] for line in answers[way]["out"].splitlines())
    assert (found["USER"], found["PATH"], found["EDITOR"]) == ("agent", PATH, "vi")
    assert found["PWD"] == "/home/agent/workspace"
    assert (found["rg"], found["git"]) == (f"{PATH}/rg", f"{PATH}/git")
    assert {found[name] for name in ("systemctl", "nft", "sudo", "python3", "mount", "dmsetup")} == {""}


def test_the_administrator_becomes_root(answers: dict[str, Any]) -> None:
    assert answers["sudo of the administrator"]["out"] == "0\n", answers["sudo of the administrator"]


def test_the_daemon_answers_a_ping_and_tells_its_health(answers: dict[str, Any]) -> None:
    health = answers["health"]
    assert health.state in ("ready", "healthy")
    assert health.uptime_seconds > 0
    marks = [health.boot[name] for name in ("initrd_start", "switch_root", "stereosd_start", "ready")]
    assert marks == sorted(marks)


def test_root_is_not_let_in(answers: dict[str, Any]) -> None:
    assert answers["root"]["status"] == 255
    assert "Permission denied (publickey)" in answers["root"]["err"]


def test_ssh_is_all_that_listens(answers: dict[str, Any]) -> None:
    rows = [line.split() for line in answers["who listens"]["out"].splitlines()]
    assert {int(row[1].rsplit(":", 1)[1], 16) for row in rows if row[3] == "0A"} == {22}


def test_the_host_key_was_made_at_boot_and_is_roots_alone(answers: dict[str, Any]) -> None:
    assert answers["the host key"]["out"] == "600 root\n", answers["the host key"]


def test_nothing_fails_in_a_dev_machine_either(answers: dict[str, Any]) -> None:
    assert answers["failed units"] == {"status": 0, "out": "", "err": ""}
