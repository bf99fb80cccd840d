"""What is said when files cannot be written, and what finished ones are like."""

from __future__ import annotations

from pathlib import Path

import pytest

from stereo.assemble.files import failures_explained, settle_all
from stereo.errors import StereoError
from stereo.process import CommandFailed


def test_a_program_that_fills_the_disk_is_told_as_a_full_disk() -> None:
    said = "qemu-img: error while writing at byte 4096: No space left on device"
    with pytest.raises(StereoError) as caught, failures_explained("cannot assemble", Path("/dist")):
        raise CommandFailed(["qemu-img"], 1, said)
    assert str(caught.value).startswith("/dist: cannot assemble: No space left on device (make room")


def test_a_program_that_fails_otherwise_is_told_as_it_is() -> None:
    with pytest.raises(CommandFailed, match="no such option"), failures_explained("cannot assemble", Path("/dist")):
        raise CommandFailed(["qemu-img"], 1, "no such option")


def test_all_that_is_below_a_folder_gets_mode_and_time(tmp_path: Path) -> None:
    (tmp_path / "inner").mkdir()
    files = [tmp_path / "one", tmp_path / "inner" / "two"]
    for path in files:
        path.write_text(path.name)
        path.chmod(0o600)
    settle_all(tmp_path, 315_532_800)
    for path in files:
        status = path.stat()
        assert (status.st_mode & 0o777, status.st_mtime, path.read_text()) == (0o644, 315_532_800, path.name)
