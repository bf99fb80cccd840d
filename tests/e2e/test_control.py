"""What a host asks of a booted machine through its daemon: shares, secrets, ssh, agentd's end, and who cannot ask."""

from __future__ import annotations

import asyncio
import json
import socket
import subprocess
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from stereo.paths import Cache
from stereo.report import Silent
from stereo.vm.accel import choose
from stereo.vm.boot import BootFiles, Form, make_spec, running
from stereo.vm.control import Control, GuestError
from stereo.vm.machine import Forward, Nat, Share
from stereo.vm.programs import Programs
from stereo.vm.qemu import QemuBackend

pytestmark = [pytest.mark.boot, pytest.mark.build]

SECONDS = 60
SECRET = "a value that is nowhere else: 5f1c2a"
TOKEN = "the token of this boot"
CURL = ("curl", "-sS", "--max-time", "20", "--unix-socket", "/run/stereos/stereosd.sock")
MODES = (
    *("/run/stereos", "/run/stereos/secrets", "/run/stereos/secrets/TEST_SECRET", "/run/stereos/stereosd.sock"),
    *("/etc/stereos/jcard.toml",),
)
TRIES = {  # what runs as the agent must not open any way in
    "the virtio port": "for port in /dev/vport*; do exec 3<>$port && echo opened; done",
    "the administrator's API": "curl -sS --max-time 5 --unix-socket /run/stereos/stereosd.sock http://x/v1/ping",
    "agentd's API": "curl -sS --max-time 5 --unix-socket /run/stereos/agentd.sock http://x/v1/agents",
    "the folder of both": "ls /run/stereos",
    "the secrets": "cat /run/stereos/secrets/TEST_SECRET",
    "the configuration": "cat /etc/stereos/jcard.toml",
    "the credentials of the system": "ls /run/credentials/@system",
    "sshd by a key of its own": "mkdir -p ~/.ssh; ssh-keygen -q -t ed25519 -N '' -f ~/own; "
    "cat ~/own.pub >>~/.ssh/authorized_keys; "
    "timeout 60 ssh -i ~/own -o BatchMode=yes -o StrictHostKeyChecking=no agent@127.0.0.1 echo opened",
    "TCP on loopback": "timeout 5 bash -c 'exec 3<>/dev/tcp/127.0.0.1/1024 && echo opened'",
}
VSOCK = """\
import socket
for cid in (1, 2, 3, 0xffffffff):
    try:
        s = socket.socket(socket.AF_VSOCK, socket.SOCK_STREAM)
        s.settimeout(3)
        s.connect((cid, 1024))
        s.sendall(b'{"type":"ping"}\\n')
        print(cid, s.recv(100))
    except OSError as error:
        print(cid, 'refused')
"""


async def run(
    control: Control, *argv: str, user: str = "root", seconds: float = SECONDS
) -> tuple[int | None, str, str]:
    """Exit code, stdout and stderr of a program in the guest."""
    said: dict[str, bytes] = {"stdout": b"", "stderr": b""}
    async with await control.open_stream("exec", {"argv": list(argv), "user": user, "timeout": seconds}) as stream:
        while (piece := await stream.read()) is not None:
            said[piece[0]] += piece[1]
        ended = await stream.wait()
    return ended.code, said["stdout"].decode(errors="replace"), said["stderr"].decode(errors="replace")


async def attempt(control: Control, kind: str, payload: Mapping[str, Any]) -> str:
    """The reason why a request was refused; empty if it was not."""
    try:
        await control.request(kind, payload, seconds=SECONDS)
    except GuestError as error:
        return error.what
    return ""


async def over_tcp(port: int, *messages: dict[str, Any]) -> list[Any]:
    """What the daemon answers over the forwarded port until it is silent or hangs up."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    answers: list[Any] = []
    try:
        for message in messages:
            writer.write(json.dumps(message).encode() + b"\n")
        while line := await asyncio.wait_for(reader.readline(), 20):
            answers.append(json.loads(line))
            if len(answers) > len(messages):
                break
    except (TimeoutError, ConnectionError):
        pass
    finally:
        writer.close()
    return answers


async def everything(control: Control, tcp: int, share: Path, key: str) -> dict[str, Any]:
    """One boot's worth of questions, in the order in which a sandbox would be set up."""
    found: dict[str, Any] = {}
    found["before any key"] = await run(control, "systemctl", "is-active", "ssh.service")
    card = {"content": 'mixtape = "base"\n'}
    found["config"] = await attempt(control, "set_config", card)
    found["broken config"] = await attempt(control, "set_config", {"content": "[broken"})
    found["secret"] = await attempt(control, "inject_secret", {"name": "TEST_SECRET", "value": SECRET})
    found["modes"] = (await run(control, "stat", "-c", "%a %U:%G %n", *MODES))[1]
    found["card"] = await run(control, "cat", "/etc/stereos/jcard.toml")
    found["fs"] = (await run(control, "stat", "-f", "-c", "%T", "/run/stereos/secrets/TEST_SECRET"))[1]
    payload = {"tag": "share0", "guest_path": "/home/agent/workspace/shared", "fs_type": "virtiofs"}
    found["mount"] = await attempt(control, "mount", payload)
    found["mount again"] = await attempt(control, "mount", payload)
    found["mount over the system"] = await attempt(control, "mount", {**payload, "guest_path": "/usr/lib/x"})
    found["mount nothing"] = await attempt(control, "mount", {**payload, "tag": "none", "guest_path": "/data"})
    found["mounts"] = await control.request("list_mounts", answer="mounts")
    found["seen"] = await run(control, "sh", "-c", "cat shared/hello; echo from inside >shared/answer", user="agent")
    found["answer"] = (share / "answer").read_text() if (share / "answer").exists() else None
    # As every other service sees it: the mount is in the machine's own namespace.
    found["seen by pid 1"] = (await run(control, "grep", "virtiofs", "/proc/1/mountinfo"))[1]
    found["unmount"] = await attempt(control, "unmount", {"guest_path": payload["guest_path"]})
    found["network"] = await attempt(
        control, "set_network", {"nameservers": ["10.0.2.3"], "proxy": "http://10.0.2.2:1"}
    )
    found["environment"] = (await run(control, "env", user="agent"))[1]
    found["bad key"] = await attempt(control, "inject_ssh_key", {"user": "admin", "public_key": "ssh-rsa no"})
    found["key"] = await attempt(control, "inject_ssh_key", {"user": "admin", "public_key": key})
    found["after a key"] = await run(control, "systemctl", "is-active", "ssh.service")
    found["host key"] = (await control.request("ssh_host_key", answer="ssh_host_key", seconds=SECONDS))["public_key"]
    found["banner"] = await run(control, "sh", "-c", "timeout 5 bash -c 'exec 3<>/dev/tcp/127.0.0.1/22; head -c 7 <&3'")
    found["tries"] = {name: await run(control, "bash", "-c", line, user="agent") for name, line in TRIES.items()}
    found["vsock"] = await run(control, "/usr/bin/python3", "-c", VSOCK, user="agent")
    found["sudo"] = await run(control, "sudo", "-n", "id", "-u", user="admin")
    found["api"] = await run(control, *CURL, "http://x/v1/secrets", user="admin")
    found["original over tcp"] = await over_tcp(tcp, {"type": "ping"}, {"type": "ping"})
    hello = {"type": "hello", "payload": {"version": 1, "token": TOKEN}}
    found["token over tcp"] = await over_tcp(tcp, hello, {"type": "ping"})
    found["memory"] = (await run(control, "sh", "-c", "cat /proc/$(systemctl show -P MainPID stereosd)/status"))[1]
    found["log"] = (await run(control, "journalctl", "-b", "-u", "stereosd", "--no-pager", "-o", "cat"))[1]
    found["journal"] = (await run(control, "journalctl", "-b", "--no-pager", "-o", "cat"))[1]
    found["failed"] = (await run(control, "systemctl", "--failed", "--plain", "--no-legend"))[1]
    grep = ["grep", "-rlF", SECRET, "/state", "/var", "/home", "/etc", "/run/log", "/run/systemd"]
    found["on disk"] = (await run(control, *grep))[1]
    with suppress(GuestError):  # who runs it for us is who is killed
        await run(control, "systemctl", "kill", "-s", "KILL", "stereosd.service")
    return found


async def after_a_kill(control: Control) -> dict[str, Any]:
    """What a daemon knows that was started anew, and greeted again: everything that is in files."""
    give_up = asyncio.get_running_loop().time() + SECONDS
    while True:
        try:
            return {"secrets": await control.request("list_secrets", answer="secrets", seconds=SECONDS)}
        except GuestError:
            if asyncio.get_running_loop().time() > give_up:
                raise
            await asyncio.sleep(1)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.fixture(scope="module")
def found(
    base: Path, tools_tree: Path, cache: Cache, tell: Callable[[str], None], tmp_path_factory: pytest.TempPathFactory
) -> dict[str, Any]:
    folder = tmp_path_factory.mktemp("control")
    share = folder / "share"
    share.mkdir()
    (share / "hello").write_text("from outside\n")
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", folder / "key"], check=True)
    programs = Programs.find(tools_tree)
    port = free_port()
    spec = replace(
        make_spec(
            BootFiles.in_folder(base),
            Form.KERNEL,
            programs.arch,
            choose(programs, cache.probe, Silent()),
            network=Nat((Forward(port, 1024),)),
        ),
        shares=(Share("share0", share),),
        credentials={"stereos.control-token": TOKEN},
    )

    async def ask() -> dict[str, Any]:
        async with running(QemuBackend(programs, folder), spec, Silent(), timeout=240) as booted:
            await booted.control.hello(SECONDS)
            answers = await everything(booted.control, port, share, (folder / "key.pub").read_text())
            answers["again"] = await after_a_kill(booted.control)
            await booted.control.shutdown(SECONDS)
            await asyncio.wait_for(booted.machine.wait(), SECONDS)
            return answers

    tell("booting: base, to ask its daemon for everything")
    return asyncio.run(ask())


# --- tests ---


def test_sshd_sleeps_until_a_key_comes(found: dict[str, Any]) -> None:
    assert found["before any key"][1] == "inactive\n"
    assert found["bad key"]
    assert found["key"] == ""
    assert found["after a key"][1] == "active\n"
    assert found["banner"][1] == "SSH-2.0"


def test_the_host_key_is_told(found: dict[str, Any]) -> None:
    assert found["host key"].startswith("ssh-ed25519 ")


def test_a_configuration_is_stored_and_one_that_does_not_parse_is_not(found: dict[str, Any]) -> None:
    assert (found["config"], "does not parse" in found["broken config"]) == ("", True)
    assert found["card"][1] == 'mixtape = "base"\n'


def test_secrets_configuration_and_sockets_are_closed_to_others(found: dict[str, Any]) -> None:
    assert found["secret"] == ""
    assert found["modes"].splitlines() == [
        "750 root:admin /run/stereos",
        "700 root:root /run/stereos/secrets",
        "600 root:root /run/stereos/secrets/TEST_SECRET",
        "660 root:admin /run/stereos/stereosd.sock",
        "600 root:root /etc/stereos/jcard.toml",
    ]
    assert found["fs"] == "tmpfs\n"


def test_a_secret_is_on_no_disk_and_in_no_journal(found: dict[str, Any]) -> None:
    assert found["on disk"] == ""
    assert SECRET not in found["journal"]


def test_a_share_is_mounted_for_the_whole_machine_and_used_by_the_agent(found: dict[str, Any]) -> None:
    assert found["mount"] == ""
    assert found["mounts"]["mounts"] == [
        *({"tag": "share0", "guest_path": "/home/agent/workspace/shared", "fs_type": "virtiofs", "read_only": False},),
    ]
    assert "nosuid,nodev" in found["seen by pid 1"]
    assert found["seen"][:2] == (0, "from outside\n"), found["seen"]
    assert found["answer"] == "from inside\n"
    assert found["unmount"] == ""


def test_mounts_that_must_not_be_are_refused(found: dict[str, Any]) -> None:
    assert "mounted already" in found["mount again"]
    assert "nothing may be mounted at /usr/lib/x" in found["mount over the system"]
    assert found["mount nothing"]


def test_the_network_that_the_host_chose_reaches_the_agent(found: dict[str, Any]) -> None:
    assert found["network"] == ""
    assert "https_proxy=http://10.0.2.2:1\n" in found["environment"]


@pytest.mark.parametrize("way", TRIES)
def test_nothing_that_runs_as_the_agent_reaches_the_daemons(found: dict[str, Any], way: str) -> None:
    code, out, _ = found["tries"][way]
    assert code != 0
    assert out == ""


def test_the_agent_gets_no_answer_over_vsock(found: dict[str, Any]) -> None:
    code, out, error = found["vsock"]
    assert code == 0, error
    assert [line.split(None, 1)[1] for line in out.splitlines()] == ["refused"] * 4


def test_the_administrator_has_sudo_and_the_api(found: dict[str, Any]) -> None:
    assert found["sudo"][:2] == (0, "0\n"), found["sudo"]
    assert json.loads(found["api"][1]) == {"secrets": ["TEST_SECRET"]}


def test_tcp_is_open_to_who_has_the_token_of_this_boot_and_to_nobody_else(found: dict[str, Any]) -> None:
    [refused] = found["original over tcp"]
    assert refused["payload"] == {"reply_to": "ping", "ok": False, "error": "this connection needs a token"}
    assert [answer["type"] for answer in found["token over tcp"][:3]] == ["hello", "pong", "lifecycle"]


def test_the_daemon_is_small(found: dict[str, Any]) -> None:
    """Both daemons together may have 40 MB."""
    rows = dict(line.split(":", 1) for line in found["memory"].splitlines() if ":" in line)
    assert int(rows["VmRSS"].split()[0]) < 24_000


def test_no_unit_failed_and_the_daemon_had_nothing_to_complain_of(found: dict[str, Any]) -> None:
    assert found["failed"] == ""
    assert "Traceback" not in found["log"]


def test_a_daemon_that_was_killed_comes_back_and_forgets_no_secret(found: dict[str, Any]) -> None:
    assert found["again"]["secrets"]["names"] == ["TEST_SECRET"]
