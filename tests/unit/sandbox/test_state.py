"""The state folder: private, locked by the living, and honest about the dead."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from stereo.errors import StereoError, UsageError
from stereo.sandbox.state import Folder, Record, Taken, all_folders, check_name

RECORD = Record("box", "/home/me/jcard.toml", "base:2026.01.31.0", "/dists/base", "0" * 64, created=1.0)


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    folder = Folder("box", tmp_path / "state" / "stereo" / "sandboxes")
    assert folder.make()
    return folder


@pytest.mark.parametrize("name", ["", ".", "..", "a/b", "../x", "A", "-a", "a" * 64, "a\n", "a b", "é", ".gone-1"])
def test_a_name_that_would_be_trouble_as_a_folder_is_refused(name: str) -> None:
    with pytest.raises(UsageError):
        check_name(name)


def test_the_folder_is_for_its_owner_alone(folder: Folder) -> None:
    assert stat.S_IMODE(folder.path.stat().st_mode) == 0o700
    assert stat.S_IMODE(folder.root.stat().st_mode) == 0o700
    assert not folder.make()


def test_a_folder_that_others_may_read_is_refused(folder: Folder) -> None:
    folder.path.chmod(0o755)
    with pytest.raises(StereoError, match="open to others"):
        folder.make()


def test_a_link_in_place_of_the_folder_is_refused(tmp_path: Path, folder: Folder) -> None:
    (tmp_path / "elsewhere").mkdir(mode=0o700)
    (folder.root / "other").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(StereoError, match="not a folder"):
        Folder("other", folder.root).make()
    assert [each.name for each in all_folders(folder.root)] == ["box"]


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a folder away")
def test_a_folder_of_another_user_is_refused(folder: Folder) -> None:
    os.chown(folder.path, 12345, 12345)
    with pytest.raises(StereoError, match="another user"):
        folder.make()


def test_a_lock_that_is_a_link_is_not_followed(tmp_path: Path, folder: Folder) -> None:
    (folder.path / "lock").symlink_to(tmp_path / "victim")
    with pytest.raises(OSError):
        folder.lock()
    assert not (tmp_path / "victim").exists()


def test_only_one_supervisor_holds_a_sandbox(folder: Folder, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("stereo.sandbox.state._LOCK_SECONDS", 0.05)
    assert not folder.held()
    descriptor = folder.lock()
    assert folder.held()
    with pytest.raises(Taken):
        folder.lock()
    os.close(descriptor)
    assert not folder.held()


def test_whoever_waited_for_the_lock_of_a_removed_sandbox_does_not_get_it(folder: Folder) -> None:
    held = folder.lock()
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(folder.lock)
        time.sleep(0.1)
        folder.remove()
        assert folder.make()
        os.close(held)
        with pytest.raises(Taken, match="destroyed just now"):
            waiting.result()
    os.close(folder.lock())


def test_the_record_is_written_whole_and_read_back(folder: Folder) -> None:
    assert folder.record() is None
    folder.write(RECORD)
    assert folder.record() == RECORD
    assert [path.name for path in folder.path.iterdir()] == ["sandbox.json"]
    assert stat.S_IMODE((folder.path / "sandbox.json").stat().st_mode) == 0o600


@pytest.mark.parametrize("text", ["", "{", "[]", '{"name": "other"}', '{"name": 1}', "[" * 100_000])
def test_a_damaged_record_is_told_with_the_way_out(folder: Folder, text: str) -> None:
    (folder.path / "sandbox.json").write_text(text)
    with pytest.raises(StereoError, match="destroy"):
        folder.record()


def test_a_record_of_the_living_in_a_folder_that_nobody_holds_tells_of_a_crash(folder: Folder) -> None:
    folder.write(RECORD.now("running"))
    assert folder.condition()[0] == "crashed"
    descriptor = folder.lock()
    assert folder.condition()[0] == "running"
    folder.write(RECORD.now("stopped", "asked to"))
    assert folder.condition()[0] == "starting"
    os.close(descriptor)
    assert folder.condition()[0] == "stopped"


def test_the_lock_goes_with_a_killed_process(folder: Folder) -> None:
    script = (
        "import sys, time; from pathlib import Path; from stereo.sandbox.state import Folder; "
        "held = Folder('box', Path(sys.argv[1])).lock(); print('held', flush=True); time.sleep(60)"
    )
    paths = os.pathsep.join(sys.path)
    child = subprocess.Popen(
        [sys.executable, "-c", script, folder.root], stdout=subprocess.PIPE, env={"PYTHONPATH": paths}
    )
    assert child.stdout
    assert child.stdout.readline() == b"held\n"
    assert folder.held()
    child.kill()
    child.wait()
    child.stdout.close()
    assert not folder.held()


def test_a_removed_sandbox_leaves_nothing(folder: Folder) -> None:
    folder.write(RECORD)
    folder.disks["qemu"].write_bytes(b"x")
    folder.remove()
    assert list(folder.root.iterdir()) == []


def test_sockets_work_however_deep_the_state_is(tmp_path: Path) -> None:
    deep = tmp_path.joinpath(*["a" * 60] * 4)
    folder = Folder("box", deep / "stereo" / "sandboxes")
    folder.make()
    with folder.listen() as listener, folder.connect() as client:
        server, _ = listener.accept()
        client.sendall(b"x")
        assert server.recv(1) == b"x"
        server.close()
    assert stat.S_IMODE(folder.socket.stat().st_mode) == 0o600


def test_looking_does_not_keep_a_supervisor_out(folder: Folder) -> None:
    give_up = time.monotonic() + 1
    while time.monotonic() < give_up:
        assert not folder.held()
        os.close(folder.lock())
