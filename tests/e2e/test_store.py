"""The local store under a real sandbox: what it runs from is not removed, and no build takes it from under it."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from makers.command import Stereo
from makers.sandboxes import desk
from stereo.assemble.place import publish

pytestmark = [pytest.mark.boot, pytest.mark.build]

READ_ALL = "cat /usr/bin/* /usr/lib/systemd/* > /dev/null 2>&1; sync; echo read"


def test_a_dist_under_a_running_sandbox(stereo: Stereo, base: Path, tmp_path: Path) -> None:
    with desk(stereo, base) as one:
        place = tmp_path.joinpath("store", *base.parts[-3:])
        _copy(base, place)
        one.dist = place
        one.write('[resources]\nmemory = "1GiB"\ndisk = "2GiB"\n')
        one.variables["XDG_DATA_HOME"] = str(tmp_path / "data")
        shelf = tmp_path / "data/stereo/dists" / Path(*base.parts[-3:-1])
        shelf.mkdir(parents=True)
        (shelf / base.name).symlink_to(place)

        one("up")
        refused = one("dists", "remove", base.parts[-3], "--yes", status=1)
        assert "in use by sandbox desk" in refused.stderr

        _copy(base, tmp_path / "new")
        publish(tmp_path / "new", place)
        shutil.rmtree(tmp_path / "new")
        assert one("exec", "--", "sh", "-c", READ_ALL).stdout.strip() == "read"
        one("down")
        one("up")  # the same bytes under the same name are the same dist
        one("destroy", "--yes")
        one("dists", "remove", base.parts[-3], "--yes")
        assert not shelf.exists()
        assert (place / "mixtape.toml").is_file()


def _copy(dist: Path, place: Path) -> None:
    """Second names of the same files: nothing of a dist is ever written to."""
    place.mkdir(parents=True)
    for path in dist.iterdir():
        os.link(path, place / path.name)
