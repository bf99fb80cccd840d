"""Copies through the real guest's streams: what arrives is equal, what is hostile is refused, nothing is half there."""

from __future__ import annotations

import asyncio
import io
import os
import socket
import stat
import tarfile
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from makers.live_guest import Guest, greeted
from stereo.errors import StereoError
from stereo.sandbox.transfer import GuestPath, copy_in, copy_out
from stereo.vm.control import Control


def with_guest(home: Path, act: Callable[[Control], Awaitable[None]]) -> None:
    async def run() -> None:
        guest = Guest(home)
        try:
            async with asyncio.timeout(30), greeted(guest) as control:
                await act(control)
        finally:
            guest.close()

    asyncio.run(run())


def send(home: Path, source: Path, path: str, left_out: list[str] | None = None) -> int:
    moved: list[int] = []
    skipped = [] if left_out is None else left_out
    with_guest(home, lambda control: copy_in(control, source, GuestPath(path, "agent"), moved.append, skipped.append))
    return sum(moved)


def fetch(home: Path, path: str, target: Path) -> None:
    with_guest(home, lambda control: copy_out(control, GuestPath(path, "agent"), target, lambda amount: None))


@pytest.fixture
def inside(tmp_path: Path) -> Path:
    folder = tmp_path / "inside"
    folder.mkdir()
    return folder


@pytest.fixture
def outside(tmp_path: Path) -> Path:
    folder = tmp_path / "outside"
    folder.mkdir()
    return folder


def test_a_file_takes_the_name_that_is_asked_for(inside: Path, outside: Path) -> None:
    (outside / "notes").write_bytes(b"\0\xff" * 300_000)
    assert send(inside, outside / "notes", f"{inside}/renamed") >= 600_000
    assert (inside / "renamed").read_bytes() == b"\0\xff" * 300_000


@pytest.mark.parametrize("ending", ["", "/"])
def test_a_folder_goes_into_a_folder_that_is_there(inside: Path, outside: Path, ending: str) -> None:
    (outside / "src/deep").mkdir(parents=True)
    (outside / "src/deep/run.sh").write_text("echo\n")
    (outside / "src/deep/run.sh").chmod(0o755)
    send(inside, outside / "src", f"{inside}{ending}")
    assert (inside / "src/deep/run.sh").stat().st_mode & 0o777 == 0o755


def test_a_source_that_is_not_there_is_told_before_anything_is_sent(inside: Path, outside: Path) -> None:
    with pytest.raises(StereoError, match="no such file"):
        send(inside, outside / "nothing", str(inside))


def test_a_target_without_a_folder_is_told(inside: Path, outside: Path) -> None:
    (outside / "notes").write_bytes(bytes(3_000_000))
    with pytest.raises(StereoError, match="no such folder"):
        send(inside, outside / "notes", f"{inside}/nowhere/at/all/")
    with pytest.raises(StereoError, match="could not be copied"):
        send(inside, outside / "notes", f"{inside}/nowhere/at/all")
    assert list(inside.iterdir()) == []


def test_what_is_there_inside_is_replaced_by_its_like_alone(inside: Path, outside: Path) -> None:
    (outside / "one").write_text("new")
    (outside / "some").mkdir()
    (outside / "some/more").write_text("more")
    (inside / "one").write_text("old")
    (inside / "link").symlink_to("/nowhere")
    (inside / "some").mkdir()
    (inside / "some/kept").write_text("kept")
    os.mkfifo(inside / "pipe")
    send(inside, outside / "one", f"{inside}")
    send(inside, outside / "one", f"{inside}/link")
    send(inside, outside / "some", f"{inside}")
    assert [(inside / name).read_text() for name in ("one", "link", "some/kept", "some/more")] == [
        *("new", "new", "kept", "more")
    ]
    for source, name in (("one", "pipe"), ("some", "one"), ("some", "pipe")):
        with pytest.raises(StereoError, match="something else is there already"):
            send(inside, outside / source, f"{inside}/{name}")
    (inside / "some/one").mkdir()
    with pytest.raises(StereoError, match="something else is there already"):
        send(inside, outside / "one", f"{inside}/some")
    assert sorted(path.name for path in inside.iterdir()) == ["link", "one", "pipe", "some"]


def test_a_copy_that_is_cut_off_leaves_what_was_there(inside: Path, outside: Path) -> None:
    (outside / "big").write_bytes(bytes(30_000_000))
    (inside / "big").write_text("old")

    async def give_up(control: Control) -> None:
        on_its_way = asyncio.Event()
        copy = copy_in(control, outside / "big", GuestPath(str(inside), "agent"), lambda _: on_its_way.set(), print)
        task = asyncio.create_task(copy)
        await on_its_way.wait()
        assert (inside / "big").read_text() == "old"
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    with_guest(inside, give_up)
    assert [path.read_text() for path in inside.iterdir()] == ["old"]


def test_sockets_are_left_out_and_told(inside: Path, outside: Path) -> None:
    (outside / "src").mkdir()
    (outside / "src/file").write_text("x")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(outside / "src/talk"))
    left_out: list[str] = []
    send(inside, outside / "src", str(inside), left_out)
    assert (left_out, [path.name for path in (inside / "src").iterdir()]) == ([str(outside / "src/talk")], ["file"])
    with pytest.raises(StereoError, match="is a socket"):
        send(inside, outside / "src/talk", str(inside))


def test_a_folder_comes_out_whole(inside: Path, outside: Path) -> None:
    (inside / "site/css").mkdir(parents=True)
    (inside / "site/css/a.css").write_text("a")
    (inside / "site/link").symlink_to("css/a.css")
    fetch(inside, f"{inside}/site", outside)
    assert (outside / "site/css/a.css").read_text() == "a"
    assert (outside / "site/link").readlink() == Path("css/a.css")
    assert [path.name for path in outside.iterdir()] == ["site"], "no room is left behind"


def test_a_file_that_is_there_is_replaced_and_a_folder_is_not(inside: Path, outside: Path) -> None:
    (inside / "report").write_text("new")
    (outside / "report").write_text("old")
    fetch(inside, f"{inside}/report", outside)
    assert (outside / "report").read_text() == "new"
    (outside / "taken").mkdir()
    (outside / "taken/report").mkdir()
    with pytest.raises(StereoError, match="is there already"):
        fetch(inside, f"{inside}/report", outside / "taken")
    os.mkfifo(outside / "pipe")
    (inside / "folder").mkdir()
    for name, target in (("report", "pipe"), ("folder", "pipe"), ("folder", "report")):
        with pytest.raises(StereoError, match="is there already"):
            fetch(inside, f"{inside}/{name}", outside / target)
    assert sorted(path.name for path in outside.iterdir()) == ["pipe", "report", "taken"]


def test_a_folder_may_be_named_with_a_dot_behind_it(inside: Path, outside: Path) -> None:
    (inside / "site").mkdir()
    fetch(inside, f"{inside}/site/.", outside)
    assert (outside / "site").is_dir()


def test_what_is_not_inside_is_told_and_leaves_nothing(inside: Path, outside: Path) -> None:
    with pytest.raises(StereoError, match="No such file"):
        fetch(inside, f"{inside}/nothing", outside)
    assert list(outside.iterdir()) == []


@pytest.mark.parametrize("path", ["/", "/home/..", "."])
def test_a_path_without_a_name_is_refused(inside: Path, outside: Path, path: str) -> None:
    with pytest.raises(StereoError, match="name a file"):
        fetch(inside, path, outside)


def test_set_id_bits_do_not_come_out(inside: Path, outside: Path) -> None:
    (inside / "tool").write_text("x")
    (inside / "tool").chmod(0o6755)
    fetch(inside, f"{inside}/tool", outside)
    assert stat.S_IMODE((outside / "tool").stat().st_mode) == 0o755


def hostile(*members: tarfile.TarInfo) -> bytes:
    made = io.BytesIO()
    with tarfile.open(fileobj=made, mode="w") as tar:
        for each in members:
            tar.addfile(each, io.BytesIO(bytes(each.size)))
    return made.getvalue()


def member(name: str, kind: bytes = tarfile.REGTYPE, link: str = "", size: int = 0) -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.linkname, info.size = kind, link, size
    return info


def through_a_path_too_long() -> bytes:
    """CVE-2025-4517: beyond PATH_MAX, realpath(3) stops following links, and tarfile's filter judges another place."""
    members, path, steps = [member("site", tarfile.DIRTYPE)], "site", "abcdefghijklmnop"
    for step in steps:
        members += [
            member(f"{path}/{'d' * 247}", tarfile.DIRTYPE),
            member(f"{path}/{step}", tarfile.SYMTYPE, "d" * 247),
        ]
        path += f"/{'d' * 247}"
    long = f"{'/'.join(steps)}/{'l' * 254}"
    climb = member(f"site/{long}", tarfile.SYMTYPE, "../" * len(steps))
    leave = member("site/leave", tarfile.SYMTYPE, f"{long}/../../../..")
    return hostile(*members, climb, leave, member("site/leave/climbed"))


@pytest.mark.parametrize(
    "archive",
    [
        hostile(member("../climbed")),
        hostile(member("/tmp/stereo-absolute/../../../climbed")),
        hostile(member("site", tarfile.SYMTYPE, "/etc"), member("site/passwd")),
        hostile(member("site/null", tarfile.CHRTYPE)),
        hostile(member("site", tarfile.LNKTYPE, "../../../etc/passwd")),
        through_a_path_too_long(),
        hostile(
            *(member(f"site{path}", tarfile.DIRTYPE) for path in ("", "/a", "/a/b")),
            member("site/a/b/up", tarfile.SYMTYPE, "../.."),
            member("site/up", tarfile.LNKTYPE, "site/a/b/up"),
        ),
        hostile(
            member("site", tarfile.DIRTYPE),
            member("site/here", tarfile.SYMTYPE, "."),
            member("site/file", tarfile.SYMTYPE, "here/../../climbed"),
        ),
        hostile(member("site", tarfile.DIRTYPE), member("site/x", tarfile.SYMTYPE, "y"), member("site/x", size=3)),
        hostile(member("site", tarfile.SYMTYPE, "passwd")),
        hostile(member("site", tarfile.FIFOTYPE)),
        hostile(member("site", tarfile.XHDTYPE, size=3 << 20), member("site")),
        hostile(*(member("site", tarfile.XHDTYPE) for _ in range(3000))),
        hostile(member("another")),
        b"",
        b"garbage" * 1000,
        hostile(member("site", size=5000))[:3000],
    ],
    ids=[
        *(
            "climbs",
            "absolute",
            "through a link",
            "device",
            "hard link",
            "path too long",
            "moved link",
            "up after a name",
        ),
        *("over a link", "link alone", "fifo", "vast header", "headers of headers", "another name", "empty", "garbage"),
        "cut",
    ],
)
def test_a_hostile_archive_is_refused_and_leaves_nothing(
    inside: Path, outside: Path, archive: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    (inside / "archive").write_bytes(archive)
    packer = inside / "tar"
    packer.write_text(f"#!/bin/sh\ncat {inside}/archive\n")
    packer.chmod(0o755)
    monkeypatch.setattr("stereos_guest.openers.TAR", str(packer))
    with pytest.raises(StereoError, match=r"unsafe|whole archive|something else"):
        fetch(inside, f"{inside}/site", outside)
    assert list(outside.iterdir()) == []
    assert not (outside.parent / "climbed").exists()
