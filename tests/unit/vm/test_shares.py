"""How a folder is shared: virtiofsd's command line, what is refused, and the filter against setuid bits."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stereo.errors import StereoError
from stereo.vm import modefilter
from stereo.vm.machine import Share
from stereo.vm.shares import _translation, check_share, connect, virtiofsd_arguments, wrapped


def test_virtiofsd_word_for_word() -> None:
    assert virtiofsd_arguments(Share("data", Path("/home/a b,c=d")), 7, 1001, 0) == [
        "--fd=7",
        "--shared-dir=/home/a b,c=d",
        "--sandbox=namespace",
        "--seccomp=kill",
        "--inode-file-handles=never",
        "--log-level=error",
        "--modcaps=-chown:-dac_override:-fowner:-fsetid:-setgid:-setuid:-mknod:-setfcap",
        "--translate-uid=squash-guest:0:1001:4294967295",
        "--translate-uid=host:1001:1000:1",
        "--translate-uid=squash-host:0:65534:1001",
        "--translate-uid=squash-host:1002:65534:4294966293",
        "--translate-gid=squash-guest:0:0:4294967295",
        "--translate-gid=host:0:1000:1",
        "--translate-gid=squash-host:1:65534:4294967294",
    ]


def test_the_host_keeps_what_it_shares_read_only() -> None:
    assert "--readonly" in virtiofsd_arguments(Share("data", Path("/d"), read_only=True), 7, 0, 0)


@given(st.integers(0, 2**32 - 2))
def test_everybody_on_the_host_is_the_agent_or_nobody(caller: int) -> None:
    rows = [row.split(":") for row in _translation(caller)]
    ranges = sorted((int(first), int(count), int(to)) for kind, first, to, count in rows if kind != "squash-guest")
    end = 0
    for first, count, to in ranges:
        assert first == end
        assert to == (1000 if first == caller and count == 1 else 65534)
        end = first + count
    assert end == 2**32 - 1


@pytest.mark.parametrize("tag", ["", "a,b", "a b", "../x", "x" * 37, "a\0b"])
def test_a_tag_that_is_none_is_refused(tag: str, tmp_path: Path) -> None:
    with pytest.raises(StereoError, match="cannot be called"):
        check_share(Share(tag, tmp_path))


def test_only_folders_are_shared(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for name in ("file", "missing"):
        with pytest.raises(StereoError, match="only a folder can be shared"):
            check_share(Share("data", tmp_path / name))


def test_nobody_else_can_connect_to_a_share(tmp_path: Path) -> None:
    folder = tmp_path / ("deep" * 50)  # longer than the address of a socket may be
    folder.mkdir()
    served = connect(Share("data", Path("/")), folder)
    with served.listening, served.connected:
        assert list(folder.iterdir()) == []
        client, _ = served.listening.accept()
        with client:
            client.sendall(b"x")
            assert served.connected.recv(1) == b"x"


_TRY = """
import os, sys
for doing in (
    lambda: os.chmod("plain", 0o4755), lambda: os.chmod("plain", 0o2755), lambda: os.mkdir("folder", 0o2755),
    lambda: os.open("new", os.O_CREAT | os.O_WRONLY, 0o4755), lambda: os.mknod("node", 0o104755),
    lambda: os.fchmod(os.open("plain", os.O_RDONLY), 0o6755), lambda: os.chmod("plain", 0o4755, dir_fd=os.open(".", 0)),
):
    try: doing()
    except PermissionError: print("refused")
os.chmod("plain", 0o1750)
os.mkdir("sticky", 0o1777)
os.close(os.open("other", os.O_CREAT | os.O_WRONLY, 0o640))
"""


def test_no_way_leads_to_a_setuid_bit(tmp_path: Path) -> None:
    (tmp_path / "plain").touch()
    argv = wrapped([sys.executable, "-c", _TRY])
    done = subprocess.run(argv, cwd=tmp_path, capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["refused"] * 7
    assert {path.name for path in tmp_path.iterdir()} == {"plain", "sticky", "other"}
    assert stat.S_IMODE((tmp_path / "plain").stat().st_mode) == 0o1750
    assert not any(path.stat().st_mode & 0o6000 for path in tmp_path.iterdir())


@pytest.mark.parametrize("machine", ["x86_64", "aarch64"])
def test_jumps_of_the_filter_stay_in_it(machine: str) -> None:
    code = modefilter.program(machine)
    assert len(code) % 8 == 0
    count = len(code) // 8
    for index in range(count):
        kind, yes, no = code[index * 8], code[index * 8 + 2], code[index * 8 + 3]
        if kind in (0x15, 0x35, 0x45):
            assert index + 1 + max(yes, no) < count
    assert code[-8:-6] == b"\x06\0"


def test_the_filter_stays_on_what_is_started(tmp_path: Path) -> None:
    done = subprocess.run(wrapped(["/bin/sh", "-c", "grep -E 'Seccomp:|NoNewPrivs' /proc/self/status"]),
                          capture_output=True, text=True, check=True, cwd=tmp_path, env=dict(os.environ))  # fmt: skip
    assert done.stdout.split() == ["NoNewPrivs:", "1", "Seccomp:", "2"]
