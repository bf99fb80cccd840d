"""Where mkosi runs: the folder it is shown, and the ids it has."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from stereo.build import sandbox
from stereo.errors import StereoError
from stereo.process import run


def test_the_workspace_is_never_shown_over_what_mkosi_needs(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    folders = [tmp_path / name for name in ("a", "b", "c")]
    for folder in folders:
        folder.mkdir()
    (tmp_path / "link").symlink_to(folders[1])
    monkeypatch.setattr(sandbox, "_MOUNT_POINTS", (str(tmp_path / "absent"), *map(str, folders)))
    assert sandbox.mount_point() == folders[0]
    assert sandbox.mount_point(folders[0] / "cache") == folders[1]
    assert sandbox.mount_point(folders[0] / "cache", tmp_path / "link" / "tools") == folders[2]
    monkeypatch.setattr(sys, "prefix", str(folders[0] / "venv"))
    assert sandbox.mount_point() == folders[1]
    with pytest.raises(StereoError, match="no folder to show mkosi"):
        sandbox.mount_point(*folders)


@pytest.mark.skipif(os.geteuid() != 0, reason="an ordinary user has a user namespace always, of unshare(1)'s making")
def test_in_a_user_namespace_of_its_own_root_has_all_the_ids_that_it_has_outside() -> None:
    told = run(sandbox.enclosed(["cat", "/proc/self/uid_map", "/proc/self/gid_map"], own_users=True)).stdout
    rows = [line.split() for line in told.splitlines()]
    assert rows
    assert all(inside == outside for inside, outside, _ in rows)
    own = "".join(Path("/proc/self", name).read_text() for name in ("uid_map", "gid_map"))
    assert [count for _, _, count in rows] == [line.split()[2] for line in own.splitlines()]
    inside = run(sandbox.enclosed(["readlink", "/proc/self/ns/user"], own_users=True)).stdout.strip()
    assert inside != str(Path("/proc/self/ns/user").readlink())
