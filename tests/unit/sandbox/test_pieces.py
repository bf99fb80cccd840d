"""The small parts: verdicts on dists that are remembered, logs that are bounded, keys, jobs and names."""

from __future__ import annotations

import asyncio
import os
import shutil
import stat
from dataclasses import replace
from hashlib import sha256
from pathlib import Path
from typing import Any, cast

import pytest

from makers.dist import make_dist
from stereo.errors import StereoError, UsageError
from stereo.report import Silent
from stereo.sandbox import provision
from stereo.sandbox.bounded import BoundedFile
from stereo.sandbox.intact import check_intact
from stereo.sandbox.job import Forward, Job, Shared, differences
from stereo.sandbox.keys import learn_host_key, make_key
from stereo.sandbox.names import pick
from stereo.sandbox.prepare import read_job
from stereo.sandbox.state import Folder
from stereo.sandbox.tunnels import reserve
from stereo.vm.control import Control, RefusedError

JOB = Job(
    *("box", "/j", "base:1", "/dist", "0" * 64, "x86_64"),
    cpus=1,
    memory=512,
    disk=1 << 30,
    mode="nat",
    config="",
    agents=("a",),
    forwards=(Forward(8080, 80, "tcp"),),
    egress=("example.com:443", "host.stereo.internal:8000"),
    shares=(Shared("/srv", "/workspace", True),),
    secrets={"KEY": "a-long-value", "SHORT": "x"},
)


@pytest.fixture
def dist(tmp_path: Path) -> Path:
    make_dist(tmp_path / "dist")
    return tmp_path / "dist"


def digest(dist: Path) -> str:
    return sha256((dist / "mixtape.toml").read_bytes()).hexdigest()


def check(dist: Path) -> None:
    check_intact(dist, digest(dist), dist.parent / "notes", Silent())


def test_an_intact_dist_is_read_once(dist: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    check(dist)
    monkeypatch.setattr("stereo.sandbox.intact._expected", lambda *_: pytest.fail("read again"))
    check(dist)


def test_a_change_behind_an_old_mtime_is_seen(dist: Path) -> None:
    check(dist)
    file = dist / "stereos.img"
    before = file.stat()
    with file.open("r+b") as stream:
        stream.write(b"\xff")
    os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))
    with pytest.raises(StereoError, match=r"stereos\.img"):
        check(dist)


@pytest.mark.parametrize("note", [b"", b"{}", b"[]", b"[" * 100_000])
def test_a_damaged_note_only_means_reading_again(dist: Path, note: bytes) -> None:
    check(dist)
    (path,) = (dist.parent / "notes").iterdir()
    path.write_bytes(note)
    check(dist)


def test_a_missing_file_is_named(dist: Path) -> None:
    (dist / "initrd").unlink()
    with pytest.raises(StereoError, match="initrd"):
        check(dist)


def test_a_log_keeps_its_end_and_no_more_than_twice_its_limit(tmp_path: Path) -> None:
    log = BoundedFile(tmp_path / "log", limit=100)
    for number in range(100):
        log.write(f"line {number}\n".encode())
    log.close()
    assert (tmp_path / "log").read_bytes().endswith(b"line 99\n")
    assert sum(path.stat().st_size for path in tmp_path.iterdir()) <= 200
    assert stat.S_IMODE((tmp_path / "log").stat().st_mode) == 0o600


def test_a_log_that_is_a_link_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "log").symlink_to(tmp_path / "victim")
    with pytest.raises(OSError):
        BoundedFile(tmp_path / "log")


@pytest.mark.skipif(shutil.which("ssh-keygen") is None, reason="no ssh-keygen on PATH")
def test_a_sandbox_has_one_key_for_its_owner_alone(tmp_path: Path) -> None:
    folder = Folder("box", tmp_path / "state/stereo/sandboxes")
    folder.make()
    public = make_key(folder)
    assert public.startswith("ssh-ed25519 ")
    assert make_key(folder) == public
    assert stat.S_IMODE(folder.ssh_key.stat().st_mode) == 0o600


@pytest.mark.parametrize("key", [None, 5, "", "ssh-ed25519", "ssh-ed25519 AAAA\nother ssh-rsa " + "A" * 60, "@cert-x"])
def test_a_host_key_that_is_none_is_not_written_down(tmp_path: Path, key: object) -> None:
    folder = Folder("box", tmp_path / "state/stereo/sandboxes")
    folder.make()
    with pytest.raises(StereoError):
        learn_host_key(folder, 22, key)
    assert not folder.known_hosts.exists()


def test_a_host_key_is_known_by_port_and_by_name(tmp_path: Path) -> None:
    folder = Folder("box", tmp_path / "state/stereo/sandboxes")
    folder.make()
    learn_host_key(folder, 4022, "ssh-ed25519 " + "A" * 68 + " root@box\n")
    assert folder.known_hosts.read_text() == f"stereo-box,[127.0.0.1]:4022 ssh-ed25519 {'A' * 68}\n"


def test_a_job_survives_its_journey() -> None:
    assert Job.decode(JOB.encode()) == JOB


def test_a_job_shows_no_secret() -> None:
    assert "a-long-value" not in repr(JOB) + JOB.digest()
    assert JOB.digest() == replace(JOB, secrets={"KEY": "other", "SHORT": ""}).digest()
    assert JOB.redact("it said a-long-value") == "it said [secret KEY]"


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({}, []),
        ({"tools": "/elsewhere", "accelerator": "kvm", "keep": True}, []),
        ({"manifest": "1" * 64}, [("mixtape", False)]),
        ({"memory": 1}, [("resources.memory", False)]),
        ({"mode": "none"}, [("network.mode", False)]),
        ({"forwards": ()}, [("network.forwards", False)]),
        ({"egress": None}, [("network.egress_allow", False)]),
        ({"egress": ("example.com:443",)}, [("network.egress_allow", True)]),
        ({"egress": ("host.stereo.internal:9000",)}, [("network.egress_allow", False)]),
        ({"egress": ("host.stereo.internal:8000",)}, [("network.egress_allow", True)]),
        ({"shares": (), "config": "#"}, [("shared", False)]),
        ({"config": "#"}, [("agents", True)]),
        ({"secrets": {"KEY": "y", "SHORT": "x"}}, [("secrets.KEY", True)]),
        ({"lifetime": 5.0}, [("timeout.duration", False)]),
    ],
)
def test_what_differs_is_named_with_whether_it_can_change_live(
    change: dict[str, Any], expected: list[tuple[str, bool]]
) -> None:
    assert differences(JOB, replace(JOB, **change)) == expected


def test_a_filtered_guest_is_pointed_at_the_gate_and_nowhere_else() -> None:
    told = provision.network(JOB)
    assert told["nameservers"] == ["10.0.2.2"]
    assert told["proxy"] == "http://10.0.2.2:3128"
    assert told["hosts"] == {"host.stereo.internal": "10.0.2.2"}


def test_a_filtered_guest_without_a_card_is_told_what_leads_to_the_gate() -> None:
    told, with_card = provision.network(JOB, (3128, 53)), provision.network(JOB)
    assert (told.pop("gateway"), told.pop("vsock_ports")) == (with_card.pop("gateway"), [53, 3128])
    del with_card["address"]
    assert told == with_card


@pytest.mark.parametrize(
    ("state", "settled"),
    [("waiting", False), ("starting", False), ("running", True), ("exited", True), ("failed", True), ("backoff", True)],
)
def test_an_agent_has_settled_when_it_started_or_failed(state: str, settled: bool) -> None:
    assert (provision.unsettled([{"name": "a", "state": state}], ["a"]) == []) is settled


def test_an_agent_that_nobody_heard_of_has_not_settled() -> None:
    assert provision.unsettled([], ["a"]) == ["a is unknown"]


def test_a_port_that_is_taken_is_told_and_loopback_is_all_that_listens() -> None:
    with reserve(None) as one:
        assert one.getsockname()[0] == "127.0.0.1"
        with pytest.raises(StereoError, match=r"127\.0\.0\.1"):
            reserve(one.getsockname()[1])


def test_the_jcard_here_names_the_sandbox_even_with_variables_that_are_not_set(tmp_path: Path) -> None:
    (tmp_path / "jcard.toml").write_text('name = "review"\nsecrets.KEY = "${NOT_SET_AT_ALL}"')
    assert pick(None, tmp_path) == "review"


@pytest.mark.parametrize("text", ["name = 1", "name = '../x'", "= broken", "\xff"])
def test_a_jcard_that_names_nothing_is_told(tmp_path: Path, text: str) -> None:
    (tmp_path / "jcard.toml").write_bytes(text.encode("latin-1"))
    with pytest.raises(UsageError):
        pick(None, tmp_path)


def test_tunnels_carry_bytes_both_ways(tmp_path: Path) -> None:
    from makers.live_guest import Guest, greeted
    from stereo.sandbox.tunnels import Tunnels

    async def carry() -> bytes:
        guest = Guest(tmp_path)
        server = await asyncio.start_server(_echo, "127.0.0.1", 0)
        try:
            async with greeted(guest) as control:
                tunnels, listener = Tunnels(control), reserve(None)
                await tunnels.lead(listener, server.sockets[0].getsockname()[1])
                reader, writer = await asyncio.open_connection(*listener.getsockname())
                writer.write(b"hello" * 20_000)
                writer.write_eof()
                answer = await asyncio.wait_for(reader.read(-1), 20)
                writer.close()
                await tunnels.close()
                return answer
        finally:
            server.close()
            guest.close()

    assert asyncio.run(carry()) == b"hello" * 20_000


async def _echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while data := await reader.read(1 << 16):
        writer.write(data)
        await writer.drain()
    writer.close()


def test_a_secret_that_no_agent_is_given_is_warned_of(
    dist: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    jcard = tmp_path / "jcard.toml"
    jcard.write_text(f'mixtape = "{dist}"\nname = "box"\n[secrets]\nKEY = "${{KEY}}"\n')
    warned: list[str] = []

    class Listening(Silent):
        def warn(self, text: str) -> None:
            warned.append(text)

    assert read_job(jcard, {"KEY": "a-long-value"}, Listening()).secrets == {"KEY": "a-long-value"}
    assert [("KEY" in text, "a-long-value" in text) for text in warned] == [(True, False)]


def test_a_port_of_the_host_that_was_taken_away_can_be_given_back() -> None:
    without = replace(JOB, egress=())
    assert [change.live for change in differences(without, JOB)] == [False]
    assert [change.live for change in differences(replace(without, wired=(8000,)), JOB)] == [True]


def test_an_image_that_knows_no_gateway_by_vsock_is_told_to_be_too_old() -> None:
    class Older:
        async def request(self, kind: str, payload: dict[str, Any], *, seconds: float) -> None:
            raise RefusedError(kind, "address is not an IPv4 address")

    job = replace(JOB, shares=(), secrets={})
    for ports, hint in (((53, 3128), "an older image knows no gateway"), ((), "None")):
        with pytest.raises(StereoError, match="did not take the network") as caught:
            asyncio.run(provision.furnish(cast("Control", Older()), job, ports))
        assert hint in str(caught.value.hint)
